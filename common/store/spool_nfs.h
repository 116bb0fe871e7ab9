/*
 * spool_nfs: what the operations of the nfs back-end share: the back-end itself, and the way to a
 * message's directory.
 *
 * An operation owns what it works on and a reference to its back-end until it has told its end; all
 * its calls share one deadline (those of a probe, one a step). Nothing is sent twice: what is lost
 * after it was sent is UNCERTAIN for a write and TEMP for the rest. The sender of a message comes
 * back with it, and it gets a new id.
 *
 * Internal to the back-end: spool_nfs.c, nfs_writing.c, nfs_reading.c, nfs_probing.c.
 */
#ifndef MAILFLEET_STORE_SPOOL_NFS_H
#define MAILFLEET_STORE_SPOOL_NFS_H

#include "store/nfs_volume.h"
#include "store/spool_backend.h"

struct nfs {
    struct backend base;
    struct nfs_volume files;
    uint64_t day;  /* whose directories, and the next day's, are known or made, */
    uint32_t made; /* and how many are */
    struct task end;
};

/* A reference for an operation. */
struct nfs *nfs_use(struct backend *b);
void nfs_leave(struct nfs *n);
/* A fault, counted; logged with why, if the server has said something. */
void nfs_log_failure(const struct nfs *n, const struct blob_id *id, enum err e, const char *why);

/* The operations, as backend_ops says. */
struct op *nfs_write_start(struct backend *b, struct outfile **f, backend_write_fn *done,
                           void *arg);
struct op *nfs_read_start(struct backend *b, struct infile **f, backend_read_fn *done, void *arg);
struct op *nfs_probe_start(struct backend *b, bool prepare, backend_probe_fn *done, void *arg);

/*
 * The way to a message's directory: attach the volume, then walk. It may be gone once more if the
 * directory turns out to be another by now.
 */
struct nfs_way {
    struct nfs *nfs;
    struct nfs_waiter waiter;
    struct nfs_walk walk; /* with the names and the deadline of the operation */
    bool again;
    /* OK: nfs_way_dir has it. NOTFOUND, LIMIT, TEMP as nfs_walk. */
    void (*done)(struct nfs_way *w, enum err e);
};

void nfs_way_init(struct nfs_way *w, struct nfs *n, const struct blob_id *id, bool make);
/* done is called inline if the directory is known. */
void nfs_way_start(struct nfs_way *w, void (*done)(struct nfs_way *w, enum err e));
/* NULL: not known. */
const struct nfs_handle *nfs_way_dir(struct nfs_way *w);
/*
 * A call in dir has found the directory gone, or something missing that another directory by this
 * name may have; dir NULL: the walk has found no such directory in the day. True: done is called
 * once more. False: it was tried, or nothing rests on what was remembered.
 */
bool nfs_way_retry(struct nfs_way *w, const struct nfs_handle *dir);
/* After OK: a call for the message's name in the directory. */
void nfs_way_call(struct nfs_way *w, struct nfs_call *c, int procedure, nfs_call_fn *done);

#endif
