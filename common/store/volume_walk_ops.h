/*
 * volume_walk_ops: what a kind of volume does for volume_walk. A walk begins with the struct
 * volume_walk, and its memory is the back-end's until close.
 *
 * Internal to the spool: common/store/{volume_walk,posix_walk,nfs_lister}.c.
 */
#ifndef MAILFLEET_STORE_VOLUME_WALK_OPS_H
#define MAILFLEET_STORE_VOLUME_WALK_OPS_H

#include "store/volume_walk.h"

struct volume_walk {
    const struct volume_walk_ops *ops;
};

/* As the functions of volume_walk.h. */
struct volume_walk_ops {
    enum err (*open)(const struct volume *v, const struct spool_options *o,
                     struct volume_walk **out, char *why, size_t why_size);
    void (*close)(struct volume_walk *w);
    enum err (*list)(struct volume_walk *w, const char *dir, walk_entry_fn *fn, void *arg);
    enum err (*stat)(struct volume_walk *w, const char *path, struct walk_entry *out);
    enum err (*read)(struct volume_walk *w, const char *path, uint64_t offset, void *to, size_t n,
                     size_t *got);
};

extern const struct volume_walk_ops spool_posix_walk;
extern const struct volume_walk_ops spool_nfs_walk;

#endif
