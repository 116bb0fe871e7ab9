/*
 * volume_walk: finds the kind of a volume and hands over. Owns nothing.
 */
#include "store/volume.h"
#include "store/volume_walk_ops.h"

enum err volume_walk_open(const struct volume *v, const struct spool_options *o,
                          struct volume_walk **out, char *why, size_t why_size)
{
    const struct backend_ops *kind = volume_kind(v, o, why, why_size);
    return kind ? kind->walk->open(v, o, out, why, why_size) : ERR_INVALID;
}

void volume_walk_close(struct volume_walk **w)
{
    if (*w) {
        (*w)->ops->close(*w);
    }
    *w = NULL;
}

enum err volume_walk_list(struct volume_walk *w, const char *dir, walk_entry_fn *fn, void *arg)
{
    return w->ops->list(w, dir, fn, arg);
}

enum err volume_walk_stat(struct volume_walk *w, const char *path, struct walk_entry *out)
{
    return w->ops->stat(w, path, out);
}

enum err volume_walk_read(struct volume_walk *w, const char *path, uint64_t offset, void *to,
                          size_t n, size_t *got)
{
    return w->ops->read(w, path, offset, to, n, got);
}
