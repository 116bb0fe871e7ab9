/*
 * nfs_probing: the regular look at a volume on an NFS server:
 *
 *   ATTACH     which finds the sentinel right; if it was attached before, READ of the sentinel
 *   SPACE      FSSTAT
 *   PREPARE    handles of this day's directories and the next day's, which are made if need be
 *
 * Its calls go where the breaker would stop others: an answer to one of them closes it.
 */
#include <stdlib.h>

#include "store/spool_nfs.h"

#include "base/check.h"

#define DIRS_A_PROBE 256u

struct probing {
    struct op op;
    struct nfs *nfs;
    backend_probe_fn *done;
    bool prepare;
    bool again; /* it had to be attached anew */
    struct nfs_waiter waiter;
    struct nfs_way way;
    unsigned walks;
    struct nfs_call call;
    struct backend_report report;
};

static void probing_end(struct probing *p, enum err e)
{
    p->report.err = e;
    if (e != ERR_OK) {
        const char *why = p->nfs->files.why;
        snprintf(p->report.why, sizeof p->report.why, "%s", *why ? why : "does not answer");
    }
    if (!p->op.cancelled) {
        p->done(p->op.arg, &p->report);
    }
    nfs_leave(p->nfs);
    free(p);
}

static void probing_fail(struct probing *p, const char *what, enum err e, nfsstat3 status)
{
    nfs_explain(&p->nfs->files, what, e, status, p->nfs->files.why);
    probing_end(p, e == ERR_LIMIT ? ERR_LIMIT : ERR_TEMP);
}

/* Of this day's directories, and after them the next day's. */
static struct blob_id id_in(const struct nfs *n, uint32_t nth)
{
    uint32_t leaves = 1u << (4 * n->files.volume.fanout);
    return spool_id_in(n->day + nth / leaves, n->files.volume.fanout, nth % leaves);
}

static void prepare_next(struct probing *p);

static void on_prepared_one(struct nfs_way *way, enum err e)
{
    struct probing *p = CONTAINER_OF(way, struct probing, way);
    if (e == ERR_OK) {
        p->nfs->made++;
        prepare_next(p);
    } else {
        probing_end(p, e);
    }
}

/* Not so many that a slow server looks like one that hangs. */
static bool has_time(const struct probing *p)
{
    const struct nfs_volume *nv = &p->nfs->files;
    return p->walks < DIRS_A_PROBE &&
           loop_now(nv->loop) + nv->options.timeout_ms / 2 < p->way.walk.deadline;
}

/* Those that are known cost nothing; the rest is spread over several looks. */
static void prepare_next(struct probing *p)
{
    struct nfs *n = p->nfs;
    uint32_t all = 2u << (4 * n->files.volume.fanout);
    for (; n->made < all; n->made++) {
        struct blob_id id = id_in(n, n->made);
        uint64_t deadline = p->way.walk.deadline;
        nfs_way_init(&p->way, n, &id, true);
        p->way.walk.deadline = deadline;
        p->way.walk.probe = true;
        if (!nfs_way_dir(&p->way)) {
            break;
        }
    }
    if (n->made < all && has_time(p)) {
        p->walks++;
        nfs_way_start(&p->way, on_prepared_one);
    } else {
        probing_end(p, ERR_OK);
    }
}

static void prepare(struct probing *p)
{
    if (p->nfs->day != spool_today()) {
        p->nfs->day = spool_today();
        p->nfs->made = 0;
    }
    p->way.walk.deadline = nfs_volume_deadline(&p->nfs->files);
    prepare_next(p);
}

static void on_space(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct probing *p = CONTAINER_OF(c, struct probing, call);
    if (e != ERR_OK || status != NFS3_OK) {
        probing_fail(p, "FSSTAT", e, status);
        return;
    }
    const FSSTAT3resok *space = &((const FSSTAT3res *)reply)->FSSTAT3res_u.resok;
    p->report.free = space->abytes;
    p->report.used = space->tbytes > space->fbytes ? space->tbytes - space->fbytes : 0;
    if (p->prepare) {
        prepare(p);
    } else {
        probing_end(p, ERR_OK);
    }
}

static void probing_call(struct probing *p, int procedure, const struct nfs_handle *file,
                         uint32_t count, nfs_call_fn *done)
{
    p->call = (struct nfs_call){ .procedure = procedure,
                                 .file = *file,
                                 .count = count,
                                 .deadline = nfs_volume_deadline(&p->nfs->files),
                                 .probe = true,
                                 .done = done };
    nfs_call_start(p->nfs->files.client, &p->call);
}

static void ask_space(struct probing *p)
{
    probing_call(p, NFS3_FSSTAT, &p->nfs->files.root, 0, on_space);
}

static void on_attached(struct nfs_waiter *waiter, enum err e)
{
    struct probing *p = CONTAINER_OF(waiter, struct probing, waiter);
    if (e == ERR_OK) {
        ask_space(p);
    } else {
        probing_end(p, ERR_TEMP);
    }
}

static void attach(struct probing *p)
{
    p->waiter.done = on_attached;
    nfs_attach(&p->nfs->files, &p->waiter, true);
}

/* Something else may be there now than what was attached: restored, moved, or empty. */
static void on_sentinel(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct probing *p = CONTAINER_OF(c, struct probing, call);
    struct nfs_volume *nv = &p->nfs->files;
    if (e != ERR_OK || status == NFS3ERR_JUKEBOX || status == NFS3ERR_IO) {
        probing_fail(p, SPOOL_SENTINEL, e, status);
    } else if (status == NFS3_OK && nfs_sentinel_check(nv, reply) == ERR_OK) {
        ask_space(p);
    } else {
        nfs_detach(nv);
        attach(p);
    }
}

struct op *nfs_probe_start(struct backend *b, bool with_prepare, backend_probe_fn *done, void *arg)
{
    struct probing *p = NEW(struct probing);
    struct nfs *n = p->nfs = nfs_use(b);
    p->op.arg = arg;
    p->done = done;
    p->prepare = with_prepare;
    if (n->files.state == NFS_ATTACHED) {
        probing_call(p, NFS3_READ, &n->files.sentinel, sizeof n->files.volume.uuid, on_sentinel);
    } else {
        attach(p);
    }
    return &p->op;
}
