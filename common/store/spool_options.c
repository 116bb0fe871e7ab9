/*
 * spool_options: what mailfleet.conf says of the spool, for daemons and the operator's command
 * alike: files on nfs:// volumes must have the same owner, whoever makes them.
 */
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/path.h"
#include "store/spool.h"

static bool read_id(struct span s, uint32_t *out)
{
    uint64_t v;
    if (span_u64(s, UINT32_MAX - 1, &v) != ERR_OK) {
        return false;
    }
    *out = (uint32_t)v;
    return true;
}

static enum err read_owner(const struct config *c, struct spool_options *o, char *why,
                           size_t why_size)
{
    struct span owner = span_str(c->spool_nfs_owner);
    size_t colon = span_find(owner, ':');
    if (owner.n) {
        if (!read_id(span_first(owner, colon), &o->nfs_uid) ||
            !read_id(span_skip(owner, colon + 1), &o->nfs_gid)) {
            snprintf(why, why_size, "spool.nfs_owner is not UID:GID, as 990:990 is");
            return ERR_INVALID;
        }
        return ERR_OK;
    }
    const struct passwd *user = *c->node_user ? getpwnam(c->node_user) : NULL;
    if (*c->node_user && !user) {
        snprintf(why, why_size, "node.user: there is no user %s", c->node_user);
        return ERR_INVALID;
    }
    o->nfs_uid = user ? user->pw_uid : geteuid();
    o->nfs_gid = user ? user->pw_gid : getegid();
    return ERR_OK;
}

bool spool_in_roots(const struct config_list *roots, const char *path)
{
    bool in = false;
    for (size_t i = 0; i < roots->n && !in; i++) {
        in = path_lies_in(path, roots->v[i]);
    }
    return in;
}

enum err spool_options_read(const struct config *c, struct spool_options *o, char *why,
                            size_t why_size)
{
    *o = (struct spool_options){ .buffer = c->spool_buffer,
                                 .read_chunk = c->spool_read_chunk,
                                 .threads = (unsigned)c->spool_threads,
                                 .queue = (unsigned)c->spool_queue,
                                 .timeout_ms = c->spool_timeout,
                                 .nfs_connections = (unsigned)c->spool_nfs_connections,
                                 .roots = &c->spool_roots };
    for (size_t i = 0; i < c->spool_roots.n; i++) {
        if (c->spool_roots.v[i][0] != '/') {
            snprintf(why, why_size, "spool.roots: %s does not begin with /", c->spool_roots.v[i]);
            return ERR_INVALID;
        }
    }
    return read_owner(c, o, why, why_size);
}
