/*
 * nfs_setup: an errand is a volume on a loop of its own; each call is started, and the loop turned
 * until it has ended, so that what is done reads from top to bottom. The errand owns all of it.
 */
#include "store/nfs_setup.h"

#include <stdio.h>
#include <sys/random.h>

#include "base/check.h"
#include "store/nfs_volume.h"

struct errand {
    struct nfs_volume nv;
    struct nfs_waiter waiter;
    struct nfs_walk walk;
    struct nfs_call call;
    enum err err;
    nfsstat3 status;
    struct nfs_handle found; /* by CREATE or LOOKUP */
    char why[HEALTH_WHY];
};

static enum err failed(struct errand *x, const char *what, enum err e)
{
    nfs_explain(&x->nv, what, x->err, x->status, x->why);
    return e;
}

/* --- one step and its end -------------------------------------------------------------------- */

static void on_attached(struct nfs_waiter *w, enum err e)
{
    struct errand *x = CONTAINER_OF(w, struct errand, waiter);
    x->err = e;
    loop_stop(x->nv.loop);
}

static enum err attach(struct errand *x)
{
    x->waiter.done = on_attached;
    nfs_attach(&x->nv, &x->waiter, true);
    loop_run(x->nv.loop);
    if (x->err != ERR_OK) {
        snprintf(x->why, sizeof x->why, "%s", x->nv.why);
    }
    return x->err;
}

static void on_walked(struct nfs_walk *w, enum err e)
{
    struct errand *x = CONTAINER_OF(w, struct errand, walk);
    x->err = e;
    loop_stop(x->nv.loop);
}

/* A reply is gone when the loop stops; what it found is kept. */
static void on_called(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct errand *x = CONTAINER_OF(c, struct errand, call);
    const nfs_fh3 *h = NULL;
    x->err = e;
    x->status = status;
    if (e == ERR_OK && status == NFS3_OK && c->procedure == NFS3_LOOKUP) {
        h = &((const LOOKUP3res *)reply)->LOOKUP3res_u.resok.object;
    } else if (e == ERR_OK && status == NFS3_OK && c->procedure == NFS3_CREATE) {
        const post_op_fh3 *obj = &((const CREATE3res *)reply)->CREATE3res_u.resok.obj;
        h = obj->handle_follows ? &obj->post_op_fh3_u.handle : NULL;
    } else if (e == ERR_OK && status == NFS3_OK && c->procedure == NFS3_READ) {
        x->err = nfs_sentinel_check(&x->nv, reply);
    } else if (e == ERR_OK && status == NFS3_OK && c->procedure == NFS3_WRITE) {
        const WRITE3resok *r = &((const WRITE3res *)reply)->WRITE3res_u.resok;
        x->status = r->count == c->count && r->committed == FILE_SYNC ? NFS3_OK : NFS3ERR_IO;
    }
    if (h) {
        nfs_handle_set(&x->found, span_of(h->data.data_val, h->data.data_len));
    }
    loop_stop(x->nv.loop);
}

/* True: it was answered, and well. */
static bool call(struct errand *x, int procedure, const struct nfs_handle *file, const char *name,
                 struct span data)
{
    x->call = (struct nfs_call){ .procedure = procedure,
                                 .file = *file,
                                 .count = procedure == NFS3_WRITE ? (uint32_t)data.n
                                                                  : sizeof x->nv.volume.uuid,
                                 .data = data,
                                 .stable = FILE_SYNC,
                                 .deadline = nfs_volume_deadline(&x->nv),
                                 .probe = true,
                                 .done = on_called };
    snprintf(x->call.name, sizeof x->call.name, "%s", name);
    x->found.len = 0;
    nfs_call_start(x->nv.client, &x->call);
    loop_run(x->nv.loop);
    return x->err == ERR_OK && x->status == NFS3_OK;
}

/* --- files ----------------------------------------------------------------------------------- */

/* Makes a file in the root and fills it with one call. BUSY: there is one. */
static enum err write_file(struct errand *x, const char *name, struct span text)
{
    if (!call(x, NFS3_CREATE, &x->nv.root, name, SPAN(""))) {
        return failed(x, name,
                      x->err == ERR_OK && x->status == NFS3ERR_EXIST ? ERR_BUSY : ERR_TEMP);
    }
    if (!x->found.len && !call(x, NFS3_LOOKUP, &x->nv.root, name, SPAN(""))) {
        return failed(x, name, ERR_TEMP);
    }
    struct nfs_handle file = x->found;
    return call(x, NFS3_WRITE, &file, "", text) ? ERR_OK : failed(x, name, ERR_TEMP);
}

static enum err check_sentinel(struct errand *x)
{
    if (!call(x, NFS3_LOOKUP, &x->nv.root, SPOOL_SENTINEL, SPAN(""))) {
        return failed(x, SPOOL_SENTINEL,
                      x->err == ERR_OK && x->status == NFS3ERR_NOENT ? ERR_NOTFOUND : ERR_TEMP);
    }
    struct nfs_handle file = x->nv.sentinel = x->found;
    if (!call(x, NFS3_READ, &file, "", SPAN("")) && x->err != ERR_CORRUPT) {
        return failed(x, SPOOL_SENTINEL, ERR_TEMP);
    }
    snprintf(x->why, sizeof x->why, "%s", x->nv.why);
    return x->err;
}

/* What is there already stays: a sentinel that is right is as good as a new one. */
static enum err make_sentinel(struct errand *x)
{
    char text[sizeof x->nv.volume.uuid + 1];
    snprintf(text, sizeof text, "%s\n", x->nv.volume.uuid);
    enum err e = write_file(x, SPOOL_SENTINEL, span_str(text));
    return e == ERR_OK || e == ERR_BUSY ? check_sentinel(x) : e;
}

static enum err make_directories(struct errand *x)
{
    unsigned fanout = x->nv.volume.fanout;
    uint64_t day = spool_today();
    for (uint32_t i = 0; i < 1u << (4 * fanout); i++) {
        struct blob_id id = spool_id_in(day, fanout, i);
        x->walk = (struct nfs_walk){ .volume = &x->nv,
                                     .make = true,
                                     .probe = true,
                                     .deadline = nfs_volume_deadline(&x->nv),
                                     .done = on_walked };
        nfs_place_of(&id, fanout, &x->walk.place);
        if (nfs_dirs_leaf(&x->nv.dirs, x->walk.place.day, x->walk.place.leaf)) {
            continue;
        }
        nfs_walk_start(&x->walk);
        loop_run(x->nv.loop);
        if (x->err != ERR_OK) {
            snprintf(x->why, sizeof x->why, "making the first day's directories: %.80s", x->nv.why);
            return ERR_TEMP;
        }
    }
    return ERR_OK;
}

/* A file of its own tells what ACCESS can't: a quota, a squashed user, an export to read alone. */
static enum err try_write(struct errand *x)
{
    char name[NFS_NAME_MAX];
    uint64_t random; /* other nodes may check at the same time */
    CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
    snprintf(name, sizeof name, ".mailfleet-check-%016llx", (unsigned long long)random);
    enum err e = write_file(x, name, SPAN("mailfleet\n"));
    if (!call(x, NFS3_REMOVE, &x->nv.root, name, SPAN("")) && e == ERR_OK) {
        e = failed(x, "removing a file", ERR_TEMP);
    }
    return e == ERR_OK ? ERR_OK : ERR_TEMP;
}

/* --- errands --------------------------------------------------------------------------------- */

/* uuid: NULL, or where to write the UUID that it ended with. */
static enum err run(const struct volume *v, const struct spool_options *o,
                    enum err (*todo)(struct errand *x), char *uuid, char *why, size_t why_size)
{
    struct loop *l = loop_open();
    struct errand x = { 0 };
    nfs_volume_open(&x.nv, l, v, o, true);
    enum err e = x.nv.nonsense ? ERR_INVALID : attach(&x);
    if (e == ERR_OK) {
        e = todo(&x);
    }
    if (e != ERR_OK) {
        snprintf(why, why_size, "%s", x.nv.nonsense ? x.nv.why : x.why);
    } else if (uuid) {
        snprintf(uuid, sizeof x.nv.volume.uuid, "%s", x.nv.volume.uuid);
    }
    nfs_volume_stop(&x.nv);
    nfs_volume_close(&x.nv);
    loop_close(&l);
    return e;
}

static enum err create(struct errand *x)
{
    enum err e = make_sentinel(x);
    return e == ERR_OK ? make_directories(x) : e;
}

static enum err check(struct errand *x)
{
    enum err e = check_sentinel(x);
    return e == ERR_OK && x->nv.volume.state == VOLUME_ACTIVE ? try_write(x) : e;
}

enum err nfs_setup_create(const struct volume *v, const struct spool_options *o, char *why,
                          size_t why_size)
{
    return run(v, o, create, NULL, why, why_size);
}

enum err nfs_setup_check(const struct volume *v, const struct spool_options *o, char *why,
                         size_t why_size)
{
    return run(v, o, check, NULL, why, why_size);
}

enum err nfs_setup_learn(struct volume *v, const struct spool_options *o, char *why,
                         size_t why_size)
{
    struct volume bare = *v;
    *bare.uuid = '\0'; /* any will do: nfs_sentinel_check keeps it */
    return run(&bare, o, check_sentinel, v->uuid, why, why_size);
}
