/*
 * spool_nfs: the back-end for volumes on an NFS server (nfs://host/path): each operation of the
 * spool as the fewest calls of NFSv3, by file handle, on the loop itself:
 *
 *   write    CREATE, WRITE               nfs_writing.c
 *   read     READ                        nfs_reading.c
 *   unlink   REMOVE                      here
 *
 * All rest on the handles of directories that nfs_volume keeps. Here is also the life of the
 * volume.
 */
#include "store/spool_nfs.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "store/nfs_setup.h"
#include "store/volume_walk_ops.h"

static struct nfs *nfs_of(struct backend *b)
{
    return CONTAINER_OF(b, struct nfs, base);
}

struct nfs *nfs_use(struct backend *b)
{
    return nfs_of(backend_ref(b));
}

void nfs_leave(struct nfs *n)
{
    struct backend *b = &n->base;
    backend_unref(&b);
}

void nfs_log_failure(const struct nfs *n, const struct blob_id *id, enum err e, const char *why)
{
    char text[BLOB_ID_CHARS + 1];
    blob_id_text(id, text);
    stats_add(STAT_spool_faults, 1);
    if (*why && !nfs_volume_stuck(&n->files)) {
        LOG(e == ERR_CORRUPT ? LOG_ERROR : LOG_WARN, "spool.call_failed",
            F_U64("volume", n->base.volume_id), F_STR("id", text), F_ERR(e), F_STR("why", why));
    }
}

/* --- the directory of a message -------------------------------------------------------------- */

const struct nfs_handle *nfs_way_dir(struct nfs_way *w)
{
    return nfs_dirs_leaf(&w->nfs->files.dirs, w->walk.place.day, w->walk.place.leaf);
}

static void on_walked(struct nfs_walk *walk, enum err e)
{
    struct nfs_way *w = CONTAINER_OF(walk, struct nfs_way, walk);
    w->done(w, e);
}

static void way_walk(struct nfs_way *w)
{
    if (nfs_way_dir(w)) {
        w->done(w, ERR_OK);
    } else {
        w->walk.done = on_walked;
        nfs_walk_start(&w->walk);
    }
}

static void on_way_attached(struct nfs_waiter *waiter, enum err e)
{
    struct nfs_way *w = CONTAINER_OF(waiter, struct nfs_way, waiter);
    if (e != ERR_OK) {
        w->done(w, e);
    } else {
        way_walk(w);
    }
}

void nfs_way_init(struct nfs_way *w, struct nfs *n, const struct blob_id *id, bool make)
{
    *w = (struct nfs_way){ .nfs = n };
    w->walk.volume = &n->files;
    w->walk.make = make;
    w->walk.deadline = nfs_volume_deadline(&n->files);
    nfs_place_of(id, n->files.volume.fanout, &w->walk.place);
}

void nfs_way_start(struct nfs_way *w, void (*done)(struct nfs_way *w, enum err e))
{
    w->done = done;
    if (w->nfs->files.state == NFS_ATTACHED) {
        way_walk(w);
    } else {
        w->waiter.done = on_way_attached;
        nfs_attach(&w->nfs->files, &w->waiter, w->walk.probe);
    }
}

/* Another operation may have found the new directory meanwhile: that one is kept. */
bool nfs_way_retry(struct nfs_way *w, const struct nfs_handle *dir)
{
    struct nfs_dirs *dirs = &w->nfs->files.dirs;
    const struct nfs_handle *known = dir ? nfs_way_dir(w) : nfs_dirs_day(dirs, w->walk.place.day);
    if (w->again || (!dir && !known)) {
        return false;
    }
    w->again = true;
    if (known && (!dir || span_eq(nfs_handle_span(known), nfs_handle_span(dir)))) {
        nfs_dirs_forget(dirs, w->walk.place.day);
    }
    way_walk(w);
    return true;
}

/* A call for a name in the directory. */
void nfs_way_call(struct nfs_way *w, struct nfs_call *c, int procedure, nfs_call_fn *done)
{
    *c = (struct nfs_call){
        .procedure = procedure, .file = *nfs_way_dir(w), .deadline = w->walk.deadline, .done = done
    };
    snprintf(c->name, sizeof c->name, "%s", w->walk.place.file_name);
    nfs_call_start(w->nfs->files.client, c);
}

/* --- unlinking ------------------------------------------------------------------------------- */

struct unlinking {
    struct op op;
    struct nfs *nfs;
    struct blob_id id;
    spool_done_fn *done;
    struct nfs_way way;
    struct nfs_call call;
    char why[HEALTH_WHY];
};

static void unlinking_end(struct unlinking *u, enum err e)
{
    if (e != ERR_OK) {
        nfs_log_failure(u->nfs, &u->id, e, u->why);
    }
    if (!u->op.cancelled) {
        u->done(u->op.arg, e);
    }
    nfs_leave(u->nfs);
    free(u);
}

static void on_removed(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct unlinking *u = CONTAINER_OF(c, struct unlinking, call);
    (void)reply;
    bool no_dir = e == ERR_OK && (nfs_is_stale(status) || status == NFS3ERR_NOENT);
    if (no_dir && nfs_way_retry(&u->way, &c->file)) {
        return; /* as for a read: only a fresh directory says what is not there */
    }
    if (e == ERR_OK && (status == NFS3_OK || status == NFS3ERR_NOENT)) {
        unlinking_end(u, ERR_OK);
    } else {
        nfs_explain(&u->nfs->files, "REMOVE", e, status, u->why);
        unlinking_end(u, ERR_TEMP);
    }
}

static void on_unlink_way(struct nfs_way *way, enum err e)
{
    struct unlinking *u = CONTAINER_OF(way, struct unlinking, way);
    if (e == ERR_OK) {
        nfs_way_call(way, &u->call, NFS3_REMOVE, on_removed);
    } else if (e == ERR_NOTFOUND && nfs_way_retry(way, NULL)) {
        return;
    } else if (e == ERR_NOTFOUND) {
        unlinking_end(u, ERR_OK); /* without its directory it has gone, too */
    } else {
        snprintf(u->why, sizeof u->why, "%s", u->nfs->files.why);
        unlinking_end(u, ERR_TEMP);
    }
}

static void on_unlink_begin(struct nfs_waiter *waiter, enum err e)
{
    struct nfs_way *way = CONTAINER_OF(waiter, struct nfs_way, waiter);
    if (e == ERR_OK) {
        nfs_way_start(way, on_unlink_way);
    } else {
        on_unlink_way(way, e);
    }
}

/* Attaching is never inline, so that the end is not either. */
static struct op *unlink_start(struct backend *b, const struct blob_id *id, spool_done_fn *done,
                               void *arg)
{
    struct unlinking *u = NEW(struct unlinking);
    u->op.arg = arg;
    u->nfs = nfs_use(b);
    u->id = *id;
    u->done = done;
    nfs_way_init(&u->way, u->nfs, id, false);
    u->way.waiter.done = on_unlink_begin;
    nfs_attach(&u->nfs->files, &u->way.waiter, false);
    return &u->op;
}

/* A handle is no descriptor: there is nothing to close. */
static void release(struct backend *b, struct file *f)
{
    (void)b;
    (void)f;
}

static bool is_stuck(struct backend *b)
{
    return nfs_volume_stuck(&nfs_of(b)->files);
}

/* --- the life of the volume ------------------------------------------------------------------ */

static struct backend *open_volume(struct loop *l, const struct volume *v,
                                   const struct spool_options *o)
{
    struct nfs *n = NEW(struct nfs);
    n->base.ops = &spool_nfs;
    n->base.volume_id = v->volume_id;
    n->base.refs = 1;
    list_init(&n->base.link);
    nfs_volume_open(&n->files, l, v, o, false);
    return &n->base;
}

static void on_end(struct task *t)
{
    struct nfs *n = CONTAINER_OF(t, struct nfs, end);
    nfs_volume_stop(&n->files);
    nfs_volume_close(&n->files);
    free(n);
}

/*
 * The last operation may be just ending, in a callback of libnfs: its context is closed later. Once
 * stopped there is only memory, and this may be a thread of the pool.
 */
static void free_volume(struct backend *b)
{
    struct nfs *n = nfs_of(b);
    if (n->files.stopped) {
        nfs_volume_close(&n->files);
        free(n);
    } else {
        n->end.run = on_end;
        loop_post(n->files.loop, &n->end);
    }
}

static void stop_volume(struct backend *b)
{
    nfs_volume_stop(&nfs_of(b)->files);
}

const struct backend_ops spool_nfs = {
    .scheme = NFS_SCHEME,
    .open = open_volume,
    .free = free_volume,
    .stop = stop_volume,
    .stuck = is_stuck,
    .write = nfs_write_start,
    .read = nfs_read_start,
    .release = release,
    .unlink = unlink_start,
    .probe = nfs_probe_start,
    .create = nfs_setup_create,
    .check = nfs_setup_check,
    .learn = nfs_setup_learn,
    .walk = &spool_nfs_walk,
};
