/*
 * cache: memcached as a hint, and the protocol that keeps it from ever showing an old list.
 *
 * A key is absent, a placeholder, a tombstone, or a sealed value. Readers fill by add + cas,
 * writers set a tombstone before and after their commit and never clear it; ARCHITECTURE.md has
 * the argument and tests/ the model. Losing, restarting, corrupting or forging the cache costs
 * time and nothing else: every fault reads as a miss that must not be filled.
 *
 * Beside values it has what a fleet agrees on for a while: leases, counters, marks and buckets. To
 * lose one of those is no fault either: each says "unknown", and its caller goes on without.
 *
 * All of it happens on the loop: each server has a connection (cache_server.h), on which the calls
 * of a turn, or of a few in a row, leave in one write, and a breaker: one that hangs delays no
 * other, and after its first time-out it delays nobody. Every call is answered within the time-out,
 * whatever becomes of it.
 */
#ifndef MAILFLEET_STORE_CACHE_H
#define MAILFLEET_STORE_CACHE_H

#include "base/config.h"
#include "net/loop.h"
#include "net/op.h"
#include "store/cache_server.h"
#include "store/seal.h"

struct cache;

struct cache_options {
    const struct config_list *servers; /* none: every read is a miss without fill */
    uint64_t timeout_ms;
    uint64_t list_ttl_ms, account_ttl_ms, tombstone_ttl_ms;
    struct seal *seal; /* borrowed for the cache's life */
};

struct cache *cache_open(struct loop *l, const struct cache_options *o);
void cache_close(struct cache **c);

/*
 * Part of every key. To be set when the database tells another one (a fail-over or a restore may
 * make versions go back): everything cached before is out of reach from then on.
 */
void cache_set_epoch(struct cache *c, uint64_t epoch);
uint64_t cache_epoch(const struct cache *c);

enum cache_kind {
    CACHE_ADDRESS,  /* an entry (directory.h), by canonical address */
    CACHE_LIST,     /* a listing, by mailbox_id */
    CACHE_VERIFIED, /* the keyed hash of a password that was right, by the user's name; it must
                       depend on the stored hash, for it outlives a change of that; plain get and
                       set */
    CACHE_KNOWN     /* a mark that lives from the last time it was set, by name; the same */
};

struct cache_key {
    enum cache_kind kind;
    uint64_t mailbox_id; /* CACHE_LIST */
    struct span address; /* CACHE_ADDRESS; borrowed for the call, as is name */
    struct span name;    /* CACHE_VERIFIED and CACHE_KNOWN; goes into the key as a keyed hash */
};

/* The right to store what the reader is about to read from the database. A value; no clean-up. */
struct cache_fill {
    bool allowed;
    uint8_t token[16]; /* of the placeholder that must still stand then */
    struct cache_seen seen;
};

struct cache_reply {
    bool hit;
    bool aged;              /* of a hit: more than half of its life is over */
    struct span value;      /* unsealed; borrowed until done returns */
    struct buf *octets;     /* of a hit: what it lies in, whose memory may be taken until then */
    struct cache_fill fill; /* of a miss */
};
typedef void cache_get_fn(void *arg, const struct cache_reply *r);

/*
 * Absent, forged or too old: a placeholder takes its place and the fill is allowed. A tombstone,
 * somebody else's placeholder, a fault: a miss that must not be filled.
 */
struct op *cache_get(struct cache *c, const struct cache_key *k, cache_get_fn *done, void *arg);
/* Stores a value if its fill is allowed and still holds. Copies; does not wait. */
void cache_put(struct cache *c, const struct cache_key *k, const struct cache_fill *f,
               struct span value);
/* CACHE_VERIFIED and CACHE_KNOWN only: sets it, whatever was there, for a full life from now on. */
void cache_set(struct cache *c, const struct cache_key *k, struct span value);

/*
 * Sets tombstones; done is called when each is set or has been given up for now, within the
 * time-out; those are retried in the background for as long as an old value could live. OK: all
 * are set.
 */
typedef void cache_done_fn(void *arg, enum err e);
struct op *cache_tombstone(struct cache *c, const struct cache_key *k, size_t n,
                           cache_done_fn *done, void *arg);

/*
 * The lease of a mailbox: RFC 1939's exclusive access. Gone by itself when its node dies, within
 * 30 s whatever memcached rounds; renewed here while it is held. OK and a lease; BUSY: somebody
 * else holds it; TEMP: no cache, no lease, and no harm: the session goes on without (*lease is
 * NULL).
 */
#define LEASE_LIFE_MS 25000
struct lease;
typedef void cache_lease_fn(void *arg, enum err e, struct lease *lease);
/*
 * slots 0: the mailbox as a whole. Else one of so many places in it, tried one after the other
 * from a random one on; BUSY: all are taken. A cancelled op gives back the lease that it may have
 * won.
 */
struct op *cache_lease_take(struct cache *c, uint64_t mailbox_id, unsigned slots,
                            cache_lease_fn *done, void *arg);
/*
 * The same, and the list of the mailbox, which is read under the lease: after the lease was had, or
 * was not to be had for want of a cache. Where both are on one server, and the lease is free, that
 * is one round. BUSY: list is NULL, and nothing is filled.
 */
typedef void cache_opened_fn(void *arg, enum err e, struct lease *lease,
                             const struct cache_reply *list);
struct op *cache_lease_list(struct cache *c, uint64_t mailbox_id, unsigned slots,
                            cache_opened_fn *done, void *arg);
/*
 * Gives the lease back and nulls it; it is free for others before done is called. done may be
 * NULL: nobody waits, and NULL is returned, as for *lease NULL.
 */
struct op *cache_lease_drop(struct cache *c, struct lease **lease, cache_done_fn *done, void *arg);

/*
 * Counters and marks live for life_ms from their first, and are named by what they are about,
 * which goes into the key as a keyed hash: what a server shows says nothing about anybody.
 *
 * cache_count adds more (0: only asks) and tells what there are now; 0 when that is not known.
 */
typedef void cache_count_fn(void *arg, uint64_t n);
struct op *cache_count(struct cache *c, struct span what, uint64_t more, uint64_t life_ms,
                       cache_count_fn *done, void *arg);
/* Takes one away; a counter that has ended stays ended. Does not wait. */
void cache_uncount(struct cache *c, struct span what);
/* OK: the mark is new. BUSY: it was there. Else it is not known. */
struct op *cache_first(struct cache *c, struct span what, uint64_t life_ms, cache_done_fn *done,
                       void *arg);

/*
 * One more into the bucket of a mailbox, which takes burst and loses one each interval_ms. LIMIT:
 * it is full, and as full as before. OK: it was taken. Else it is not known. interval_ms is a day
 * or less, burst 1000 or less; what a month ago was poured in is forgotten.
 */
struct op *cache_leak(struct cache *c, uint64_t mailbox_id, uint64_t interval_ms, unsigned burst,
                      cache_done_fn *done, void *arg);

#endif
