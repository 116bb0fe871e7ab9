/*
 * nfs_reading: a piece of a message file from an NFS server:
 *
 *   READ   by the pointer's handle, one call for each piece
 *   FIND   the way to the directory and a LOOKUP, when there is no handle, or when it leads nowhere
 *          or to another file: after a restore or a move of the volume
 *
 * What was read is checked: the file's length, and in the first piece the id in its envelope. A
 * file that is wrong by its path too is CORRUPT.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/stats.h"
#include "store/spool_nfs.h"

struct reading {
    struct op op;
    struct nfs *nfs;
    struct infile *file;
    backend_read_fn *done;
    struct nfs_waiter waiter;
    struct nfs_way way;
    struct nfs_call call;
    bool by_path; /* the handle is the one that the path led to */
    char *mem; /* what there is of the piece, if it comes in several answers: got of want octets */
    size_t want, got;
    bool last;
    char why[HEALTH_WHY];
};

static void reading_end(struct reading *r, enum err e)
{
    free(r->mem);
    if (e != ERR_OK && e != ERR_NOTFOUND) {
        nfs_log_failure(r->nfs, &r->file->id, e, r->why);
    }
    if (!r->op.cancelled) {
        r->done(r->op.arg, e, &r->file);
    }
    infile_free(&r->file);
    nfs_leave(r->nfs);
    free(r);
}

static void reading_explain(struct reading *r, const char *what, enum err e, nfsstat3 status)
{
    nfs_explain(&r->nfs->files, what, e, status, r->why);
}

static void read_piece(struct reading *r);

/* --- FIND ------------------------------------------------------------------------------------ */

static void on_read_found(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct reading *r = CONTAINER_OF(c, struct reading, call);
    const nfs_fh3 *h = e == ERR_OK ? &((const LOOKUP3res *)reply)->LOOKUP3res_u.resok.object : NULL;
    bool no_dir = e == ERR_OK && (nfs_is_stale(status) || status == NFS3ERR_NOENT);
    if (no_dir && nfs_way_retry(&r->way, &c->file)) {
        return; /* the directory may be another by now: only a fresh one says what is not there */
    }
    if (e == ERR_OK && status == NFS3ERR_NOENT) {
        reading_end(r, ERR_NOTFOUND);
    } else if (e == ERR_OK && status == NFS3_OK &&
               nfs_handle_set(&r->file->file.handle, span_of(h->data.data_val, h->data.data_len))) {
        r->by_path = true;
        read_piece(r);
    } else {
        reading_explain(r, "LOOKUP", e, status);
        reading_end(r, ERR_TEMP);
    }
}

static void on_read_way(struct nfs_way *way, enum err e)
{
    struct reading *r = CONTAINER_OF(way, struct reading, way);
    if (e == ERR_OK) {
        nfs_way_call(way, &r->call, NFS3_LOOKUP, on_read_found);
    } else if (e != ERR_NOTFOUND || !nfs_way_retry(way, NULL)) {
        snprintf(r->why, sizeof r->why, "%s", e == ERR_NOTFOUND ? "" : r->nfs->files.why);
        reading_end(r, e == ERR_NOTFOUND ? ERR_NOTFOUND : ERR_TEMP);
    }
}

static void find(struct reading *r)
{
    nfs_way_start(&r->way, on_read_way);
}

/* The handle of the pointer was of no use: true, if the path may be. */
static bool try_path(struct reading *r)
{
    if (r->by_path) {
        return false;
    }
    stats_add(STAT_nfs_handles_stale, 1);
    find(r);
    return true;
}

/* --- READ ------------------------------------------------------------------------------------ */

static void on_read(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply);

static void read_call(struct reading *r)
{
    r->call = (struct nfs_call){ .procedure = NFS3_READ,
                                 .file = r->file->file.handle,
                                 .offset = r->file->at + r->got,
                                 .count = (uint32_t)(r->want - r->got),
                                 .deadline = r->way.walk.deadline,
                                 .done = on_read };
    nfs_call_start(r->nfs->files.client, &r->call);
}

/* The answer to READ tells the file's length by the way, so one that is too long is noticed. */
static bool is_right_length(const struct reading *r, const READ3resok *ok)
{
    if (ok->file_attributes.attributes_follow) {
        return ok->file_attributes.post_op_attr_u.attributes.size == r->file->end;
    }
    return !r->last || ok->eof;
}

static void wrong_file(struct reading *r)
{
    if (r->file->at == 0 && try_path(r)) {
        return;
    }
    snprintf(r->why, sizeof r->why, "the file has another length or id than its pointer");
    reading_end(r, ERR_CORRUPT);
}

/* What came in one answer is lent as it is; what came in several has been put together. */
static void take_piece(struct reading *r, const char *octets)
{
    struct infile *f = r->file;
    if (f->at == 0 && !envelope_is(span_of(octets, r->want), &f->id)) {
        wrong_file(r);
    } else if (!r->mem) {
        reading_end(r, infile_lend(f, octets, r->want, r->want));
    } else {
        char *mem = r->mem;
        r->mem = NULL;
        reading_end(r, infile_take(f, mem, r->want, r->want));
    }
}

static void keep_octets(struct reading *r, const READ3resok *ok)
{
    if (!r->mem) {
        r->mem = mem_raw(r->want);
    }
    memcpy(r->mem + r->got, ok->data.data_val, ok->data.data_len);
    r->got += ok->data.data_len;
}

/* A server may send less than it was asked for. */
static void take_octets(struct reading *r, const READ3resok *ok)
{
    size_t room = r->want - r->got, n = ok->data.data_len;
    if (n > room || (!n && !ok->eof)) { /* that makes no sense */
        reading_explain(r, "READ", ERR_OK, NFS3ERR_SERVERFAULT);
        reading_end(r, ERR_TEMP);
    } else if ((n < room && ok->eof) || (n == room && !is_right_length(r, ok))) {
        wrong_file(r);
    } else if (n == room && !r->got) {
        take_piece(r, ok->data.data_val);
    } else {
        keep_octets(r, ok);
        if (n < room) {
            read_call(r);
        } else {
            take_piece(r, r->mem);
        }
    }
}

static void on_read(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply)
{
    struct reading *r = CONTAINER_OF(c, struct reading, call);
    if (e == ERR_OK && status == NFS3_OK) {
        take_octets(r, &((const READ3res *)reply)->READ3res_u.resok);
    } else if (e != ERR_OK || status == NFS3ERR_JUKEBOX || status == NFS3ERR_IO || !try_path(r)) {
        reading_explain(r, "READ", e, status);
        reading_end(r, ERR_TEMP);
    }
}

static void read_piece(struct reading *r)
{
    uint64_t chunk = r->nfs->files.options.read_chunk;
    free(r->mem);
    r->mem = NULL;
    r->want =
        infile_next(r->file, chunk < r->nfs->files.rtmax ? chunk : r->nfs->files.rtmax, &r->last);
    r->got = 0;
    read_call(r);
}

static void read_begin(struct reading *r)
{
    if (r->file->file.handle.len) {
        read_piece(r);
    } else {
        find(r);
    }
}

static void on_read_attached(struct nfs_waiter *waiter, enum err e)
{
    struct reading *r = CONTAINER_OF(waiter, struct reading, waiter);
    if (e == ERR_OK) {
        read_begin(r);
    } else {
        reading_end(r, ERR_TEMP);
    }
}

struct op *nfs_read_start(struct backend *b, struct infile **f, backend_read_fn *done, void *arg)
{
    struct reading *r = NEW(struct reading);
    r->op.arg = arg;
    r->nfs = nfs_use(b);
    r->file = *f;
    *f = NULL;
    r->done = done;
    nfs_way_init(&r->way, r->nfs, &r->file->id, false);
    if (r->nfs->files.state == NFS_ATTACHED) {
        read_begin(r);
    } else {
        r->waiter.done = on_read_attached;
        nfs_attach(&r->nfs->files, &r->waiter, false);
    }
    return &r->op;
}
