/*
 * index: the pointers, counters, addresses and the ledger in PostgreSQL: every statement of the
 * mail path, as asynchronous calls. All SQL that a daemon sends is in index*.c; what it calls is in
 * deploy/schema. Policy (cache, retries, who may) is store's.
 *
 * Spans and arrays given to a call are copied. Results are borrowed until done returns, unless a
 * comment says that they are the callee's. Errors as in pg.h.
 */
#ifndef MAILFLEET_STORE_INDEX_H
#define MAILFLEET_STORE_INDEX_H

#include "base/maildrop.h"
#include "store/announcement.h"
#include "store/directory.h"
#include "store/pg.h"
#include "store/quota_rules.h"
#include "store/schema_version.h"
#include "store/spool.h"

struct index_options {
    const char *url;
    unsigned read_connections, write_connections;
    uint64_t timeout_ms;
    /* Deliveries to one mailbox each that one transaction may have, and addresses or lists that one
     * statement may; up to 1: each has its own. */
    unsigned gather;
    uint64_t wait_ms; /* how long one may wait to be read with others; 0: 20 s */
    /* The database's epoch: changes with a fail-over, a restore and `mailfleet epoch`. */
    void (*on_epoch)(void *arg, uint64_t epoch);
    /*
     * A delivery of index_deliver has committed that crossed this threshold of quota.warn. Told
     * once, before the delivery's done; never when its outcome was not known. May be NULL.
     */
    void (*on_crossed)(void *arg, uint64_t mailbox_id, unsigned per_cent);
    void *arg;
};

struct index;
struct index *index_open(struct loop *l, const struct index_options *o);
void index_close(struct index **ix);
bool index_ready(const struct index *ix);
/* What holds for index_room and index_deliver from now on; until then no grace, no thresholds. */
void index_set_quota(struct index *ix, const struct quota_rules *q);

/*
 * Entries for n canonical addresses (or `@domain`), in their order; ENTRY_NONE where unknown.
 * entries[i] is the callee's if it nulls it. As with index_list: what comes while a statement is
 * under way may share the next one (index_options.gather), which is not to be noticed by it; TEMP
 * when it had to wait too long for that.
 */
typedef void index_lookup_fn(void *arg, enum err e, struct entry **entries, size_t n);
struct op *index_lookup(struct index *ix, const struct span *addresses, size_t n,
                        index_lookup_fn *done, void *arg);

/*
 * Gives an account SCRAM keys in the place of the old ones, if its hash is still this one, as keys
 * are of the password that made it, and nobody has set others. NOTFOUND: it is not so, or the
 * account is gone. old and scram as in an entry, at most ENTRY_SCRAM_MAX octets.
 */
typedef void index_done_fn(void *arg, enum err e);
struct op *index_enroll(struct index *ix, uint64_t mailbox_id, const char *hash, struct span old,
                        struct span scram, index_done_fn *done, void *arg);

/* The maildrop, version and pointers in one snapshot; NOTFOUND: no such mailbox. *m is the
 * callee's if it nulls it. */
typedef void index_list_fn(void *arg, enum err e, struct maildrop **m);
struct op *index_list(struct index *ix, uint64_t mailbox_id, index_list_fn *done, void *arg);

/* Whether a message of this size has room now: counters against limits, in the order given. */
typedef void index_room_fn(void *arg, enum err e, const enum room *room, size_t n);
struct op *index_room(struct index *ix, const uint64_t *mailboxes, size_t n, uint64_t size,
                      index_room_fn *done, void *arg);

/*
 * One transaction: the pointer p for each mailbox, counters and quotas; mailboxes are locked in
 * ascending order. all_or_nothing (SMTP): one that has no room fails the whole with LIMIT, and
 * no pointer is committed. Else (LMTP): room[i] tells for each; when at least one got it, the rest
 * of a shared file's count becomes ledger rows. BUSY: the file's volume is closed or gone, and
 * nothing was done. UNCERTAIN: ask index_delivered. grace_ms: for those ledger rows.
 *
 * What goes to one mailbox may share its transaction with others' (index_options.gather), which
 * is not to be noticed by it.
 */
struct op *index_deliver(struct index *ix, const struct pointer *p, struct span handle,
                         const uint64_t *mailboxes, size_t n, bool all_or_nothing,
                         uint64_t grace_ms, index_room_fn *done, void *arg);
/* The same to one mailbox whose limits do not hold for it; it crosses no threshold. */
struct op *index_deliver_past_limits(struct index *ix, const struct pointer *p, struct span handle,
                                     uint64_t mailbox_id, uint64_t grace_ms, index_room_fn *done,
                                     void *arg);

/* Whose an active mailbox is and how full. NOTFOUND: there is none, or it takes nothing. */
struct usage {
    struct span address; /* of its account; borrowed */
    uint64_t messages, octets;
    uint64_t max_messages, max_octets; /* 0: none */
};
typedef void index_usage_fn(void *arg, enum err e, const struct usage *u);
struct op *index_usage(struct index *ix, uint64_t mailbox_id, index_usage_fn *done, void *arg);

/*
 * Whether a delivery committed: waits for the mailbox's row, then looks for the id in its pointers
 * and ledger. OK: it did. NOTFOUND: it has not, up to now. A frozen server that wakes may still
 * take what it was sent: so after NOTFOUND the file is neither delivered again nor discarded.
 */
struct op *index_delivered(struct index *ix, uint64_t mailbox_id, const struct blob_id *id,
                           index_done_fn *done, void *arg);

/*
 * Moves pointers to the ledger, by (seq, id): a seq alone could name another message after a
 * restore. What is not there any more is no error. by: who, for the ledger, e.g. `pop3 <sid>`.
 */
struct op *index_expunge(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                         size_t n, uint64_t grace_ms, struct span by, index_done_fn *done,
                         void *arg);

/*
 * Notes that messages were retrieved, named as for index_expunge, if the mailbox has a rule about
 * what was read. A note that is lost makes mail stay longer. done may be NULL.
 */
struct op *index_mark_read(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                           size_t n, index_done_fn *done, void *arg);

/*
 * A file that was begun and given up: a ledger row, so that the reaper removes it after grace. Only
 * for one that no transaction can have named. done may be NULL.
 */
struct op *index_discard(struct index *ix, uint64_t mailbox_id, const struct pointer *p,
                         uint64_t grace_ms, struct span by, index_done_fn *done, void *arg);

/*
 * Gives n pointers, named by (seq, id, volume), the handles that their files were found by; changed
 * is how many had another one. A pointer that is not there any more, or that somebody changes or
 * deletes just now, is passed over and no error: a handle is a hint, and a wrong one is found
 * again. n may be 0. A handle has HANDLE_MAX octets or fewer.
 */
typedef void index_changed_fn(void *arg, enum err e, size_t changed);
struct op *index_set_handles(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                             const struct span *handles, size_t n, index_changed_fn *done,
                             void *arg);

/* Does this pointer still stand? OK, NOTFOUND, TEMP (its file was moved to another volume), or a
 * fault. */
struct op *index_has(struct index *ix, uint64_t mailbox_id, const struct pointer *p,
                     index_done_fn *done, void *arg);

/* Each value is made of edges of an index, so it costs the same with ten accounts and with ten
 * million. */
typedef void index_fleet_fn(void *arg, enum err e, const struct fleet *f);
struct op *index_fleet(struct index *ix, index_fleet_fn *done, void *arg);

/* Tells the fleet of this daemon; drain: whether an operator wants it to. */
typedef void index_announce_fn(void *arg, enum err e, bool drain);
struct op *index_announce(struct index *ix, const struct announcement *n, index_announce_fn *done,
                          void *arg);

/* Which state the database's schema is in. */
typedef void index_schema_fn(void *arg, enum err e, const struct schema *s);
struct op *index_schema(struct index *ix, index_schema_fn *done, void *arg);

/* All volumes. What on_epoch is told is asked for with it, so ask now and then. */
typedef void index_volumes_fn(void *arg, enum err e, const struct volume *v, size_t n);
struct op *index_volumes(struct index *ix, index_volumes_fn *done, void *arg);

#endif
