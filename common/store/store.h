/*
 * store: the mail store as a session sees it. Policy lives here: cache before database, tombstones
 * around every commit, what an unknown outcome means, who may log in. It has no SQL, no file call
 * and no memcached call of its own: index, spool and cache have.
 *
 * Every call is an op (net/op.h) or an object with one owner; completion is posted, never inline.
 * Errors never lie (promise 6): NOTFOUND and DENIED are answers, everything a fault causes is
 * TEMP, and an outcome that is not known is never reported as one.
 */
#ifndef MAILFLEET_STORE_STORE_H
#define MAILFLEET_STORE_STORE_H

#include <sys/socket.h>

#include "base/config.h"
#include "base/login.h"
#include "base/maildrop.h"
#include "net/loop.h"
#include "net/op.h"
#include "store/announcement.h"
#include "store/directory.h"
#include "store/scram.h"
#include "store/spool.h"

struct store;

typedef void store_done_fn(void *arg, enum err e);

/*
 * Opens everything the configuration names; it stays open as long as the process, which may be
 * killed at any instruction anyway. On failure why holds one line.
 */
enum err store_open(struct loop *l, const struct config *c, struct store **out, char *why,
                    size_t why_size);

/*
 * From now on logins go by c's rules: lock, sessions, delay, enrolment, iterations, how many
 * failures and who is exempt; so do quotas by quota.*. The rest of it belongs to what is open.
 * Volumes and their states are asked for at once. c is borrowed until the next call. limits.exempt
 * and quota.warn must be good (checked).
 */
void store_reload(struct store *s, const struct config *c);

/* As the database told it some seconds ago. */
struct fleet store_fleet(const struct store *s);

/* Tells the fleet of this daemon; drain: whether an operator wants it to, as the database has it.
 * False when the answer is not OK. */
typedef void store_announce_fn(void *arg, enum err e, bool drain);
struct op *store_announce(struct store *s, const struct announcement *n, store_announce_fn *done,
                          void *arg);
/* The database can be asked now. */
bool store_connected(const struct store *s);

/* --- login (common/store/login.c) ----------------------------------------------------------- */

struct lease;

/* How a claim to be somebody is proven. */
enum login_proof {
    LOGIN_PASSWORD,
    LOGIN_TOKEN,      /* of OAuth: only where store_tokens */
    LOGIN_CERTIFICATE /* by TLS, before this call */
};

struct login_claim {
    enum login_proof proof;
    struct span user;   /* TOKEN: may be empty, else must be whom the token names */
    struct span secret; /* the password or the token */
    const struct sockaddr *client;
};

struct login {
    struct maildrop *maildrop; /* the callee's if it nulls it */
    struct lease *lease;       /* the callee's if it nulls it; NULL without */
    unsigned retention_days;   /* 0: mail is kept for ever */
    int read_days;             /* as of struct entry */
    const char *user;          /* the canonical address; borrowed */
};
/*
 * DENIED: unknown, suspended or wrong, all alike and after the same time. With any but OK there is
 * neither maildrop nor lease.
 */
typedef void store_login_fn(void *arg, enum login_verdict v, struct login *l);
/* Everything is copied; the copy of the secret is wiped. */
struct op *store_login(struct store *s, const struct login_claim *c, store_login_fn *done,
                       void *arg);
/* OAuth is configured. */
bool store_tokens(const struct store *s);

/* --- login by SCRAM (common/store/login_scram.c) ---------------------------------------------- */

/* Between the client's first message and its proof: one owner, the session. */
struct scram_login;

/*
 * OK: the keys to go on with; *l is the callee's if it nulls it, and k lives as long. BLOCKED or
 * FAULT: *l is NULL. Whoever has no keys or no account gets false ones, always the same.
 */
typedef void store_scram_fn(void *arg, enum login_verdict v, struct scram_login **l,
                            const struct scram_keys *k);
struct op *store_scram(struct store *s, enum scram_hash h, struct span user,
                       const struct sockaddr *client, store_scram_fn *done, void *arg);
/*
 * The proof has come, and may be looked at after this alone: OK, and *l again. BLOCKED: it may not.
 * Takes *l and nulls it, as do the next two.
 */
struct op *store_scram_proof(struct store *s, struct scram_login **l, store_scram_fn *done,
                             void *arg);
/* The proof was right: the maildrop. */
struct op *store_scram_login(struct store *s, struct scram_login **l, store_login_fn *done,
                             void *arg);
/*
 * The proof was wrong, and counts: DENIED, or BLOCKED when others that came with it were too many.
 * FAULT, and not counted, when the database has other keys than those that the client was held
 * against: the next try will see them.
 */
struct op *store_scram_wrong(struct store *s, struct scram_login **l, store_login_fn *done,
                             void *arg);
/* The client left the exchange, which counts (failures.h). May be called with *l NULL. */
void store_scram_drop(struct scram_login **l);

/* --- leases ----------------------------------------------------------------------------------- */

/*
 * Gives the lease back and nulls it; the mailbox is free for others before done is called. done may
 * be NULL: nobody waits, and NULL is returned, as for *lease NULL.
 */
struct op *store_lease_drop(struct store *s, struct lease **lease, store_done_fn *done, void *arg);

/* --- reading and deleting (common/store/store.c) ---------------------------------------------- */

struct store_reader;
/* What a session has read so far and will read next: NULL at first, closed by it when all reading
 * has ended, before its maildrop (common/store/ahead.c). */
struct ahead;
void store_ahead_close(struct ahead **a);
/* As spool_read_fn. NOTFOUND only when the database agrees that the message is gone. */
typedef void store_read_fn(void *arg, enum err e, struct span piece, bool last);
struct store_reader *store_read(struct store *s, const struct maildrop *m, size_t i,
                                struct ahead **ahead, store_read_fn *fn, void *arg);
/* Whether message i was read along with another and is there: then nothing is to be waited for. All
 * of it, borrowed until the next call about ahead, which may be NULL. */
bool store_read_ready(struct ahead *ahead, size_t i, struct span *octets);
void store_read_next(struct store_reader *r);
void store_read_close(struct store_reader **r);

/* Moves the messages to the ledger: OK, or TEMP with none known to be moved. by: for the ledger. */
struct op *store_expunge(struct store *s, const struct maildrop *m, const size_t *which, size_t n,
                         struct span by, store_done_fn *done, void *arg);

/* Notes what was retrieved, for the rule about it, if there is one. Nobody waits for it or hears of
 * it: what is lost is kept longer. */
void store_mark_read(struct store *s, const struct maildrop *m, const size_t *which, size_t n);

/* --- delivery (common/store/delivery.c) ------------------------------------------------------- */

/* What n canonical addresses lead to, in their order; entries[i] is the callee's if it nulls it.
 * `@domain` asks for the domain. e is OK or TEMP. */
typedef void store_lookup_fn(void *arg, enum err e, struct entry **entries, size_t n);
struct op *store_lookup(struct store *s, const struct span *addresses, size_t n,
                        store_lookup_fn *done, void *arg);

/* Is there room for a message of size octets (0: any)? Asks the database. */
typedef void store_room_fn(void *arg, enum err e, const enum room *room, size_t n);
struct op *store_room(struct store *s, const uint64_t *mailboxes, size_t n, uint64_t size,
                      store_room_fn *done, void *arg);

struct delivery;

enum delivery_event {
    DELIVERY_READY, /* delivery_append may go on */
    DELIVERY_DONE   /* the last event; the delivery is gone after return */
};
/*
 * DONE: e is OK when the file is durable and the pointers are committed; room[i] then tells about
 * mailbox i (with all_or_nothing all are ROOM_OK). LIMIT: all_or_nothing and one had no room,
 * which room[] tells. Else TEMP: nothing was accepted. n is the number of mailboxes.
 */
typedef void delivery_fn(void *arg, enum delivery_event ev, enum err e, const enum room *room,
                         size_t n);

/* Begins a message for n different mailboxes (checked). Everything is copied. */
enum err delivery_open(struct store *s, struct span reverse_path,
                       const struct envelope_recipient *to, size_t n, bool all_or_nothing,
                       delivery_fn *fn, void *arg, struct delivery **out);
/* To be said before delivery_commit, of a delivery to one mailbox: its limits do not hold. */
void delivery_past_limits(struct delivery *d);
const struct blob_id *delivery_id(const struct delivery *d);
/* While DONE is told with OK: where the file is. */
uint16_t delivery_volume(const struct delivery *d);
/* False: wait for DELIVERY_READY before the next. All of it is copied, always. */
bool delivery_append(struct delivery *d, struct span octets);
/* DELIVERY_DONE follows. */
void delivery_commit(struct delivery *d);
/*
 * Gives it up; nulls it; no event follows. After delivery_commit it only detaches: the message may
 * still be accepted, as after any lost connection. May be called with *d NULL.
 */
void delivery_abort(struct delivery **d);

#endif
