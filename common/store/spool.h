/*
 * spool: message files on volumes.
 *
 * A message is one immutable file, named by its id, written once in its final place; this
 * interface has no rename, no list and no stat. Each volume is one back-end (posix: a directory of
 * a mounted file system, with a worker pool of its own; nfs: an NFS server, by file handle, on the
 * loop) with deadlines and a breaker: a volume that hangs hangs nobody. Only the reaper calls
 * spool_unlink.
 */
#ifndef MAILFLEET_STORE_SPOOL_H
#define MAILFLEET_STORE_SPOOL_H

#include "base/config.h"
#include "base/maildrop.h"
#include "net/loop.h"
#include "net/op.h"
#include "store/envelope.h"

struct spool;

/* In the root of each volume: its UUID, and a newline. */
#define SPOOL_SENTINEL ".mailfleet-volume"

/* CLOSED: it is being removed, and what was begun there is not delivered any more. */
enum volume_state { VOLUME_ACTIVE, VOLUME_READONLY, VOLUME_DRAIN, VOLUME_CLOSED };

struct volume {
    uint16_t volume_id;
    char uuid[37];   /* what the sentinel file must hold */
    char url[1024];  /* file:///path, or nfs://host/path (nfs_url.h) */
    unsigned fanout; /* hex digits of the hash directory, 0 to 4; fixed at creation */
    enum volume_state state;
    unsigned weight;     /* share of new files among active volumes; 0 takes none */
    uint64_t free_floor; /* octets that must stay free; a fuller volume takes no new file */
};

struct spool_options {
    uint64_t buffer, read_chunk;     /* octets */
    unsigned threads, queue;         /* of each volume */
    uint64_t timeout_ms;             /* of each file call */
    unsigned nfs_connections;        /* of each nfs:// volume */
    uint32_t nfs_uid, nfs_gid;       /* who its files belong to, unless its URL says so */
    const struct config_list *roots; /* that file:// volumes lie in, borrowed; NULL: anywhere */
};

/* Whether a file:// volume may be at this path. */
bool spool_in_roots(const struct config_list *roots, const char *path);

/* As the configuration says; borrows it. INVALID: why is one line. May read the system's list of
 * users. */
enum err spool_options_read(const struct config *c, struct spool_options *o, char *why,
                            size_t why_size);

struct spool *spool_open(struct loop *l, const struct spool_options *o);
/* Writers, readers and ops must have been given up; calls that still run end by themselves. */
void spool_close(struct spool **s);

/*
 * The volumes as the database lists them; may be called again at any time. A volume is used once
 * its sentinel was found right, which is looked at again all 10 s (with free space, and the
 * directories of the next day are made).
 */
void spool_set_volumes(struct spool *s, const struct volume *v, size_t n);
/* Its sentinel has been looked at and found right: for who would rather wait than fail. */
bool spool_volume_ready(const struct spool *s, uint16_t volume);
/* It is listed, well or not: what lies there can be asked for. */
bool spool_volume_listed(const struct spool *s, uint16_t volume);
/* Where a new file would go now, by weight, among others than the n tried ones; 0: nowhere. */
uint16_t spool_choose(struct spool *s, const uint16_t *tried, size_t n);
/* Octets in use on the volume's file system, whatever they are, at the last look. False: it is not
 * ready. */
bool spool_volume_used(const struct spool *s, uint16_t volume, uint64_t *used);

/* --- writing ----------------------------------------------------------------------------- */

struct spool_writer;

enum spool_event {
    SPOOL_READY,   /* spool_append may go on */
    SPOOL_WRITTEN, /* the file is durable: *p has id, size, skip and volume; a handle or none */
    SPOOL_FAILED   /* err says why; the writer is gone after return. TEMP: no file was begun;
                      UNCERTAIN: a file may be there, an orphan, whose id and volume *p has */
};
typedef void spool_write_fn(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                            struct span handle);

struct spool_message {
    struct span reverse_path;
    const struct envelope_recipient *to;
    size_t n;
    struct span uidl;         /* of a message that another server had before; empty: its id */
    uint64_t time_ms;         /* when it arrived, since 1970, which begins its id; 0: now */
    const struct blob_id *id; /* the id of a message that is copied; NULL: a new one */
    uint16_t volume;          /* on this volume alone, whatever its state or weight; 0: on any */
};

/*
 * Begins a message: takes an id and a volume, keeps the envelope; all of *m is copied. Up to
 * options.buffer octets stay in memory; then the file is begun. ERR_TEMP: no volume can take it.
 */
enum err spool_create(struct spool *s, const struct spool_message *m, spool_write_fn *fn, void *arg,
                      struct spool_writer **out);
/* The message's id, for Received: and logs. */
const struct blob_id *spool_writer_id(const struct spool_writer *w);
/*
 * Adds octets of the message, as it will be served. Copies all of it, always. False: wait for
 * SPOOL_READY before the next.
 */
bool spool_append(struct spool_writer *w, struct span octets);
/* No more is to come: SPOOL_WRITTEN or SPOOL_FAILED follows; the writer is gone after it. */
void spool_finish(struct spool_writer *w);
/*
 * Gives it up and nulls it; no event follows. True: a file was begun and is an orphan now, which
 * *orphan names (id and volume) for the ledger.
 */
bool spool_abort(struct spool_writer **w, struct pointer *orphan);

/* --- reading ------------------------------------------------------------------------------ */

struct spool_reader;
/*
 * The next piece of the message (without its envelope block). last: no more is to come, the
 * reader is gone after return. err other than OK ends it too. NOTFOUND: no such file. CORRUPT:
 * another length or another id than the pointer's. BUSY: only of one that was gathered; those
 * before it took so long that it was not begun. It may be read by itself, and nothing is wrong.
 */
typedef void spool_read_fn(void *arg, enum err e, struct span piece, bool last);

/* Reads a message: at least the first piece is asked for at once. handle may be empty. */
struct spool_reader *spool_read(struct spool *s, const struct pointer *p, struct span handle,
                                spool_read_fn *fn, void *arg);
/*
 * Reads that begin between true and false are made by one call, one after the other, where a call
 * costs more than a short file: of messages that are wanted together. They share the time that one
 * has, so the last of them may end with BUSY. No turn of the loop may come between.
 */
void spool_gather(struct spool *s, uint16_t volume, bool on);
/*
 * While fn is called: the handle that the file was found by, if it is not the one that spool_read
 * was given. It should be kept with the pointer; empty, there is nothing to repair.
 */
struct span spool_reader_handle(const struct spool_reader *r);
/* Asks for the next piece. */
void spool_read_next(struct spool_reader *r);
/* Ends it early and nulls it; no further call of fn. May be called with *r NULL. */
void spool_read_close(struct spool_reader **r);

/* --- for the reaper alone ------------------------------------------------------------------ */

typedef void spool_done_fn(void *arg, enum err e);
/* OK: it is gone (it may have been before). */
struct op *spool_unlink(struct spool *s, uint16_t volume, const struct blob_id *id,
                        spool_done_fn *done, void *arg);

/* --- for the operator's command; these block ------------------------------------------------ */

/* Makes a volume's sentinel and first day's directories; of file:// volumes the root as well. */
enum err volume_create(const struct volume *v, const struct spool_options *o, char *why,
                       size_t why_size);
/* Its sentinel is there and right, it can be written where state says so. */
enum err volume_check(const struct volume *v, const struct spool_options *o, char *why,
                      size_t why_size);
/* What the sentinel of a volume says, into v->uuid; v has a URL alone. NOTFOUND: there is none. */
enum err volume_learn(struct volume *v, const struct spool_options *o, char *why, size_t why_size);

#endif
