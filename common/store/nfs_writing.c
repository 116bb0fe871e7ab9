/*
 * nfs_writing: a step of a message file on its way to an NFS server:
 *
 *   PREPARE   on a thread: hash, and complete the block
 *   CREATE    GUARDED, in the first step alone; FIND the handle, if the answer did not tell it
 *   WRITE     several at a time: FILE_SYNC if one is all there is, else UNSTABLE
 *   COMMIT    in the last step, unless all was durable at once
 *
 * So a message of up to wtmax octets, whatever the number of its recipients, is CREATE and WRITE.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/fault.h"
#include "store/spool_nfs.h"

#define WRITES_AT_ONCE 8 /* of one file */

/* A part of what is to be written, in one call at a time. */
struct chunk {
    struct nfs_call call;
    struct writing *writing;
    bool busy;
};

struct writing {
    struct op op;
    struct nfs *nfs;
    struct blob_id id;
    struct outfile *file;
    backend_write_fn *done;
    struct job job;
    struct task refused;
    enum err err; /* of the refusal; of the first call that failed */
    struct nfs_way way;
    struct nfs_call call;
    stable_how stable;
    struct run {
        struct span octets; /* not yet handed to a chunk */
        uint64_t at;        /* in the file */
    } runs[2];
    struct chunk chunks[WRITES_AT_ONCE];
    unsigned busy;
    bool restarted; /* the server has forgotten what it had not made durable */
    char why[HEALTH_WHY];
    unsigned refs; /* the job's, and that of who waits for the end */
};

static void writing_unref(struct writing *w)
{
    if (--w->refs == 0) {
        outfile_free(&w->file);
        nfs_leave(w->nfs);
        free(w);
    }
}

/* A step that hangs on its thread keeps the file. */
static void writing_end(struct writing *w, enum err e, bool hung)
{
    struct outfile *none = NULL;
    if (e != ERR_OK && e != ERR_LIMIT) {
        nfs_log_failure(w->nfs, &w->id, e, w->why);
    }
    if (!w->op.cancelled) {
        w->done(w->op.arg, e, hung ? &none : &w->file);
    }
    writing_unref(w);
}

static void writing_explain(struct writing *w, const char *what, enum err e, nfsstat3 status)
{
    nfs_explain(&w->nfs->files, what, e, status, w->why);
}

/* --- WRITE and COMMIT ------------------------------------------------------------------------ */

static void write_more(struct writing *w);

static void set_runs(struct writing *w)
{
    struct outfile *f = w->file;
    w->runs[0] = (struct run){ buf_span(&f->octets), outfile_offset(f) };
    if (f->last && !f->first) {
        w->runs[1].octets = outfile_tail(f, &w->runs[1].at);
    }
}

/* All of the file is in this step. */
static bool is_whole(const struct writing *w)
{
    return w->file->first && w->file->last;
}

/* One call makes durable what fits in it; the rest waits for the COMMIT. */
static void write_begin(struct writing *w)
{
    bool fits = is_whole(w) && buf_len(&w->file->octets) <= w->nfs->files.wtmax;
    w->stable = fits ? FILE_SYNC : UNSTABLE;
    set_runs(w);
    write_more(w);
}

/*
 * With the whole file at hand it is written anew, each call durable by itself; of a streamed one
 * the beginning has gone.
 */
static void write_again(struct writing *w)
{
    if (!is_whole(w) || w->stable == FILE_SYNC) {
        snprintf(w->why, sizeof w->why, "the server was restarted while the file was written");
        writing_end(w, ERR_UNCERTAIN, false);
        return;
    }
    w->restarted = false;
    w->file->file.unstable = false;
    w->stable = FILE_SYNC;
    set_runs(w);
    write_more(w);
}

static void check_verifier(struct writing *w, const char *verifier)
{
    struct file *f = &w->file->file;
    if (!f->unstable) {
        f->unstable = true;
        memcpy(f->verifier, verifier, sizeof f->verifier);
    } else if (memcmp(f->verifier, verifier, sizeof f->verifier) != 0) {
        w->restarted = true;
    }
}

static void write_ok(struct writing *w)
{
    if (w->file->last && fault_at(FAULT_spool_fsync)) {
        writing_end(w, ERR_UNCERTAIN, false);
    } else {
        writing_end(w, ERR_OK, false);
    }
}

static void on_commit(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct writing *w = CONTAINER_OF(c, struct writing, call);
    const COMMIT3res *r = reply;
    if (e != ERR_OK || status != NFS3_OK) {
        writing_explain(w, "COMMIT", e, status);
        writing_end(w, ERR_UNCERTAIN, false);
        return;
    }
    check_verifier(w, r->COMMIT3res_u.resok.verf);
    if (w->restarted) {
        write_again(w);
    } else {
        write_ok(w);
    }
}

static void on_all_written(struct writing *w)
{
    if (w->err != ERR_OK) {
        writing_end(w, ERR_UNCERTAIN, false);
    } else if (w->restarted) {
        write_again(w);
    } else if (w->file->last && w->file->file.unstable) {
        w->call = (struct nfs_call){ .procedure = NFS3_COMMIT,
                                     .file = w->file->file.handle,
                                     .deadline = w->way.walk.deadline,
                                     .done = on_commit };
        nfs_call_start(w->nfs->files.client, &w->call);
    } else {
        write_ok(w);
    }
}

static void chunk_failed(struct chunk *k, enum err e, nfsstat3 status)
{
    struct writing *w = k->writing;
    writing_explain(w, "WRITE", e, status);
    w->err = ERR_UNCERTAIN;
    k->busy = false;
    w->busy--;
}

/* A server may take less than it was given; more, or less durable than asked for, it may not. */
static void chunk_taken(struct chunk *k, const WRITE3resok *r)
{
    struct writing *w = k->writing;
    if (!r->count || r->count > k->call.count ||
        (w->stable == FILE_SYNC && r->committed != FILE_SYNC)) {
        chunk_failed(k, ERR_OK, NFS3ERR_SERVERFAULT);
        return;
    }
    if (r->committed != FILE_SYNC) {
        check_verifier(w, r->verf);
    }
    k->call.data = span_skip(k->call.data, r->count);
    k->call.offset += r->count;
    k->call.count -= r->count;
    if (k->call.count) {
        nfs_call_start(w->nfs->files.client, &k->call);
    } else {
        k->busy = false;
        w->busy--;
    }
}

static void on_written(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct chunk *k = CONTAINER_OF(c, struct chunk, call);
    struct writing *w = k->writing;
    if (e == ERR_OK && status == NFS3_OK) {
        chunk_taken(k, &((const WRITE3res *)reply)->WRITE3res_u.resok);
    } else {
        chunk_failed(k, e, status);
    }
    write_more(w);
}

static void chunk_send(struct writing *w, struct run *r)
{
    struct chunk *k = w->chunks;
    while (k->busy) {
        k++;
    }
    struct span octets = span_first(r->octets, w->nfs->files.wtmax);
    k->writing = w;
    k->busy = true;
    k->call = (struct nfs_call){ .procedure = NFS3_WRITE,
                                 .file = w->file->file.handle,
                                 .offset = r->at,
                                 .count = (uint32_t)octets.n,
                                 .data = octets,
                                 .stable = w->stable,
                                 .deadline = w->way.walk.deadline,
                                 .done = on_written };
    r->octets = span_skip(r->octets, octets.n);
    r->at += octets.n;
    w->busy++;
    nfs_call_start(w->nfs->files.client, &k->call);
}

static void write_more(struct writing *w)
{
    for (size_t i = 0; i < ARRAY_LEN(w->runs) && w->err == ERR_OK; i++) {
        while (w->runs[i].octets.n && w->busy < WRITES_AT_ONCE) {
            chunk_send(w, &w->runs[i]);
        }
    }
    if (!w->busy) {
        on_all_written(w);
    }
}

/* --- CREATE ---------------------------------------------------------------------------------- */

static void on_found(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct writing *w = CONTAINER_OF(c, struct writing, call);
    const LOOKUP3res *r = reply;
    if (e == ERR_OK && status == NFS3_OK) {
        const nfs_fh3 *h = &r->LOOKUP3res_u.resok.object;
        nfs_handle_set(&w->file->file.handle, span_of(h->data.data_val, h->data.data_len));
    }
    if (w->file->file.handle.len) {
        write_begin(w);
    } else {
        writing_explain(w, "LOOKUP", e, status);
        writing_end(w, ERR_UNCERTAIN, false);
    }
}

static void created(struct writing *w, const post_op_fh3 *obj)
{
    const nfs_fh3 *h = &obj->post_op_fh3_u.handle;
    w->file->begun = true;
    if (obj->handle_follows &&
        nfs_handle_set(&w->file->file.handle, span_of(h->data.data_val, h->data.data_len))) {
        write_begin(w);
    } else {
        w->call.procedure = NFS3_LOOKUP; /* in the same directory, by the same name */
        w->call.done = on_found;
        nfs_call_start(w->nfs->files.client, &w->call);
    }
}

/*
 * EXIST: 80 random bits do not repeat, and the message already carries its id in Received:, so
 * there is no second try under another name.
 */
static void on_created(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct writing *w = CONTAINER_OF(c, struct writing, call);
    if (e == ERR_OK && status == NFS3_OK) {
        created(w, &((const CREATE3res *)reply)->CREATE3res_u.resok.obj);
        return;
    }
    bool no_dir = e == ERR_OK && (nfs_is_stale(status) || status == NFS3ERR_NOENT);
    if (no_dir && nfs_way_retry(&w->way, &c->file)) {
        return;
    }
    writing_explain(w, "CREATE", e, status);
    writing_end(w,
                e != ERR_OK               ? e
                : status == NFS3ERR_EXIST ? ERR_BUSY
                : nfs_is_refusal(status)  ? ERR_TEMP
                                          : ERR_UNCERTAIN,
                false);
}

static void on_write_way(struct nfs_way *way, enum err e)
{
    struct writing *w = CONTAINER_OF(way, struct writing, way);
    if (e == ERR_OK) {
        nfs_way_call(way, &w->call, NFS3_CREATE, on_created);
    } else {
        snprintf(w->why, sizeof w->why, "%s", w->nfs->files.why);
        writing_end(w, e, false);
    }
}

/* --- PREPARE --------------------------------------------------------------------------------- */

static void on_prepare(struct job *j)
{
    outfile_prepare(CONTAINER_OF(j, struct writing, job)->file);
}

static void on_prepared(struct job *j, enum err e)
{
    struct writing *w = CONTAINER_OF(j, struct writing, job);
    if (e != ERR_OK) {
        writing_end(w, e, e == ERR_UNCERTAIN);
    } else if (w->file->begun) {
        write_begin(w);
    } else {
        nfs_way_start(&w->way, on_write_way);
    }
}

static void on_job_free(struct job *j)
{
    writing_unref(CONTAINER_OF(j, struct writing, job));
}

static void on_write_refused(struct task *t)
{
    struct writing *w = CONTAINER_OF(t, struct writing, refused);
    w->refs--; /* there is no job */
    writing_end(w, w->err, false);
}

struct op *nfs_write_start(struct backend *b, struct outfile **f, backend_write_fn *done, void *arg)
{
    struct writing *w = NEW(struct writing);
    w->op.arg = arg;
    w->nfs = nfs_use(b);
    w->id = (*f)->id;
    w->file = *f;
    *f = NULL;
    w->done = done;
    w->job = (struct job){ .run = on_prepare, .done = on_prepared, .free = on_job_free };
    w->refused.run = on_write_refused;
    w->refs = 2;
    nfs_way_init(&w->way, w->nfs, &w->id, true);
    w->err =
        nfs_volume_stuck(&w->nfs->files) ? ERR_TEMP : pool_submit(w->nfs->files.hashing, &w->job);
    if (w->err != ERR_OK) {
        loop_post(w->nfs->files.loop, &w->refused);
    }
    return &w->op;
}
