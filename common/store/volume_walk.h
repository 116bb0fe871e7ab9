/*
 * volume_walk: what lies on a volume, file by file, for the operator's fsck, rebuild and drain.
 *
 * The mail path never lists anything; this does, and blocks: it is called on threads of the
 * operator's command, never in a daemon. One walk is one thread's; a volume may have many.
 */
#ifndef MAILFLEET_STORE_VOLUME_WALK_H
#define MAILFLEET_STORE_VOLUME_WALK_H

#include "store/spool.h"

#define WALK_NAME_MAX 255

struct walk_entry {
    char name[WALK_NAME_MAX + 1];
    bool directory;     /* else a file, or what is neither */
    bool regular;       /* a file */
    uint64_t size;      /* octets; of files */
    int64_t changed_ms; /* the later of mtime and ctime, since 1970 */
};

struct volume_walk;

/* Checks the sentinel first. On failure why holds one line. */
enum err volume_walk_open(const struct volume *v, const struct spool_options *o,
                          struct volume_walk **out, char *why, size_t why_size);
void volume_walk_close(struct volume_walk **w);

/*
 * Everything in a directory of the volume, in no order, without `.` and `..`: "" is its root,
 * "20260131", "20260131/ab". fn returns false to end it. NOTFOUND: no such directory. TEMP: it
 * could not be read to its end, and what fn was told is not all.
 */
typedef bool walk_entry_fn(void *arg, const struct walk_entry *e);
enum err volume_walk_list(struct volume_walk *w, const char *dir, walk_entry_fn *fn, void *arg);

/* What a name is: NOTFOUND when it is not there. */
enum err volume_walk_stat(struct volume_walk *w, const char *path, struct walk_entry *out);

/*
 * Up to n octets of a file from offset on; *got is less only at its end. CORRUPT: it is this file
 * that can't be read (a bad sector, a permission), while the volume's sentinel can.
 */
enum err volume_walk_read(struct volume_walk *w, const char *path, uint64_t offset, void *to,
                          size_t n, size_t *got);

#endif
