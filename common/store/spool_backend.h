/*
 * spool_backend: what a kind of volume does for the spool, and the two things that go back and
 * forth between them: a file that is being written and one that is being read.
 *
 * A back-end serves one volume. Its calls are ops (net/op.h) that end on the loop, never inline. A
 * file is handed over with a call, which nulls the caller's pointer, and handed back when it ends;
 * the callee of done keeps it by nulling *f. A call that hangs is ended at its deadline without its
 * file: memory, descriptor and all belong to the call until it returns. The same holds when the op
 * was cancelled.
 *
 * Internal to the spool: common/store/{spool,volume,spool_*,posix_*,nfs_*}.c.
 */
#ifndef MAILFLEET_STORE_SPOOL_BACKEND_H
#define MAILFLEET_STORE_SPOOL_BACKEND_H

#include <openssl/evp.h>
#include <stdatomic.h>

#include "base/stats.h"
#include "store/nfs_handle.h"
#include "store/spool.h"

/* Whether it is a UUID as we write it: lower case. */
bool spool_is_uuid(struct span s);
#define SPOOL_FILE_MODE 0640
#define SPOOL_DIR_MODE  0750

/* The day whose directories new files go to, since 1970. */
uint64_t spool_today(void);

/* Where a file is open; a back-end uses what it needs. */
struct file {
    int fd;                   /* posix: -1 while it is not open, */
    uint64_t made;            /* and when its name was made (posix_dirs.h) */
    struct nfs_handle handle; /* nfs: none while it is not known */
    bool unstable;            /* nfs: the server has answered a write before it was durable, */
    char verifier[8];         /* and promised it to whoever sees this again (RFC 1813, 3.3.7) */
};

/* --- a file that is being written ------------------------------------------------------------ */

struct outfile {
    struct blob_id id;
    struct file file;
    struct buf block;  /* the envelope, incomplete until outfile_seal */
    struct buf octets; /* what the next step writes: of the message; in the first, the block too */
    bool first;        /* the next step is the first: octets begin with the block, */
    bool last;         /* the next step completes the file */
    bool begun;        /* a step has made it */
    uint64_t size;     /* octets hashed so far */
    EVP_MD_CTX *sha256;
};

/* Takes block over. The first octets are to begin with a copy of it: so both go out in one piece.
 */
struct outfile *outfile_new(const struct blob_id *id, struct buf *block);
void outfile_free(struct outfile **f);
/*
 * What a step does to memory, and what takes time: called where a back-end may block. Hashes the
 * octets (in the first step from the start, also if it is tried again) and, in the last, completes
 * the block.
 */
void outfile_prepare(struct outfile *f);
/* Where in the file octets begin. */
uint64_t outfile_offset(const struct outfile *f);
/* The end of a complete block, to be written over the dashes of a streamed file, and its place. */
struct span outfile_tail(const struct outfile *f, uint64_t *offset);

/* --- a file that is being read --------------------------------------------------------------- */

struct infile {
    struct blob_id id;
    struct file file;
    uint32_t skip;     /* octets of the envelope block */
    uint64_t end;      /* of the file: skip and the message's size */
    uint64_t at;       /* where the next piece begins */
    const char *piece; /* the last one, with the block as far as that is in it */
    size_t len;
    char *mem; /* it is in; NULL: the back-end's, until done returns */
};

struct infile *infile_new(const struct pointer *p, struct span handle);
void infile_free(struct infile **f);
/* Octets of the next piece, and whether the file must end there. */
size_t infile_next(const struct infile *f, uint64_t chunk, bool *last);
/*
 * Takes the next piece, of which got octets were there. To see a file that is too long, one octet
 * more than infile_next says is to be asked for at the last piece. ERR_CORRUPT: another length or
 * another file than the pointer says. The memory is infile's, whatever is returned.
 */
enum err infile_take(struct infile *f, char *mem, size_t want, size_t got);
/* The same of octets that stay the back-end's. */
enum err infile_lend(struct infile *f, const char *octets, size_t want, size_t got);
/* The octets of the message in the last piece. */
struct span infile_piece(const struct infile *f);

/* --- the back-end ---------------------------------------------------------------------------- */

struct backend {
    const struct backend_ops *ops;
    uint16_t volume_id;
    _Atomic unsigned refs;
    struct list link; /* of all back-ends of the spool, until it is stopped */
};

static inline struct backend *backend_ref(struct backend *b)
{
    atomic_fetch_add(&b->refs, 1);
    return b;
}

/* What a look at a volume found. */
struct backend_report {
    enum err err;
    char why[HEALTH_WHY]; /* when err is not OK */
    uint64_t free;        /* octets, for new files */
    uint64_t used;        /* octets, of all that lies on its file system */
};

/*
 * OK: what was handed over is on the volume, and with last the file is durable. In the first step
 * TEMP and LIMIT (too many calls wait) mean that nothing was begun: *f is as it was, and another
 * volume may take it. BUSY: there is a file of this name. UNCERTAIN: a file may be there; what it
 * holds is not known.
 */
typedef void backend_write_fn(void *arg, enum err e, struct outfile **f);
/* OK; NOTFOUND, CORRUPT, TEMP or BUSY as in spool_read_fn. At f->at == f->end all is closed. */
typedef void backend_read_fn(void *arg, enum err e, struct infile **f);
/* LIMIT: too many calls wait, and nothing was looked at. */
typedef void backend_probe_fn(void *arg, const struct backend_report *r);

struct backend_ops {
    const char *scheme; /* of its URLs, with :// */

    /* Asks nothing of the volume: what is wrong with it is told by probe and by each call. */
    struct backend *(*open)(struct loop *l, const struct volume *v, const struct spool_options *o);
    /* The last reference has gone, so no call is under way. */
    void (*free)(struct backend *b);
    /* The spool closes: calls under way end before this returns, with TEMP or as if hung. */
    void (*stop)(struct backend *b);
    /* Calls hang, and a further one would fail. */
    bool (*stuck)(struct backend *b);

    struct op *(*write)(struct backend *b, struct outfile **f, backend_write_fn *done, void *arg);
    struct op *(*read)(struct backend *b, struct infile **f, backend_read_fn *done, void *arg);
    /* New files of one moment are better in one directory than apart. NULL: they are not. */
    bool (*together)(struct backend *b);
    /* As spool_gather; NULL: calls cost nothing to begin. */
    void (*gather)(struct backend *b, bool on);
    /* Closes a file between two calls, some time. */
    void (*release)(struct backend *b, struct file *f);
    struct op *(*unlink)(struct backend *b, const struct blob_id *id, spool_done_fn *done,
                         void *arg);
    /* Looks for the sentinel anew, and at free space; makes the next day's directories if asked. */
    struct op *(*probe)(struct backend *b, bool prepare, backend_probe_fn *done, void *arg);

    /* For the operator's command; these block. As volume_create, volume_check and volume_learn. */
    enum err (*create)(const struct volume *v, const struct spool_options *o, char *why,
                       size_t why_size);
    enum err (*check)(const struct volume *v, const struct spool_options *o, char *why,
                      size_t why_size);
    enum err (*learn)(struct volume *v, const struct spool_options *o, char *why, size_t why_size);
    const struct volume_walk_ops *walk;
};

static inline void backend_unref(struct backend **b)
{
    if (*b && atomic_fetch_sub(&(*b)->refs, 1) == 1) {
        list_del(&(*b)->link);
        (*b)->ops->free(*b);
    }
    *b = NULL;
}

extern const struct backend_ops spool_posix;
extern const struct backend_ops spool_nfs;

#endif
