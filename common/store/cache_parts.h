/*
 * cache_parts: what the files of the cache share among themselves: cache.c (calls, values,
 * tombstones, counters), cache_key.c (the text of keys), cache_lease.c.
 */
#ifndef MAILFLEET_STORE_CACHE_PARTS_H
#define MAILFLEET_STORE_CACHE_PARTS_H

#include <libmemcached/memcached.h>

#include "store/cache.h"
#include "store/cache_lane.h"

#define CACHE_PREFIX_SIZE 24 /* mf: and an epoch in hex with its colon */

/* cache_lease.c's. */
struct leases {
    struct list held; /* in the order of renewal */
    struct list owed; /* that nobody holds, and that may not have been given back */
    size_t n_owed;
};

struct server {
    struct lane *lane;
    char *name;
    bool down;
    bool probed; /* a probe is under way */
};

struct cache {
    struct loop *loop;
    struct seal *seal;
    uint64_t timeout_ms, list_ttl_ms, account_ttl_ms, tombstone_ttl_ms;
    uint64_t epoch;
    char prefix[CACHE_PREFIX_SIZE]; /* of all keys in this epoch */
    size_t prefix_n;
    uint64_t life;      /* random, of this cache, */
    uint64_t tokens;    /* and how many were made in it */
    memcached_st *ring; /* which server has a key; makes no calls */
    struct server *servers;
    size_t server_count;
    uv_timer_t deadline; /* of the first in waiting */
    uv_timer_t tick;
    uv_prepare_t turn;   /* the end of each */
    uv_idle_t again;     /* the loop doesn't wait: there is a next turn at once */
    unsigned put_off;    /* turns in a row whose questions wait for the next one's */
    struct list fresh;   /* calls of this turn that are to have a deadline */
    struct list waiting; /* calls that have a deadline and no answer, in its order */
    struct leases leases;
    bool asked; /* something since the flush began */
    bool closed;
    size_t refs; /* the calls, and the handles until they are closed */
};

struct call {
    struct op op;
    struct lane_request req;
    struct cache *cache;
    struct server *server; /* NULL: none is configured */
    struct task refused;   /* by the lane */
    struct list link;      /* in cache.fresh or cache.waiting */
    uint64_t deadline;
    bool answered;
    bool claims;                                   /* a new lease */
    void (*answer)(struct call *call, enum err e); /* exactly once unless the cache is closed */
    union {
        cache_get_fn *get;
        cache_count_fn *count;
        cache_done_fn *done;
    } fn;
    struct group *group;   /* tombstone */
    struct taking *taking; /* claim of a new lease, or the list behind it */
    struct lease *lease;   /* renewal; NULL when it was dropped meanwhile */
    uint64_t owed_until;   /* give back: 0: for the first time */
};

/* --- keys ------------------------------------------------------------------------------------ */

/* Kinds of keys that no cache_key names. */
enum letter {
    LETTER_LEASE = 'k',
    LETTER_SLOT = 's',
    LETTER_COUNTER = 'c',
    LETTER_MARK = 'm',
    LETTER_BUCKET = 'b'
};

void cache_key_text(const struct cache *c, const struct cache_key *k, char out[ITEM_KEY_SIZE]);
void cache_key_mailbox(const struct cache *c, char letter, uint64_t mailbox_id,
                       char out[ITEM_KEY_SIZE]);
/* A name goes in as a keyed hash: a memcached tells its keys to whoever asks. */
void cache_key_named(const struct cache *c, char letter, struct span what, char out[ITEM_KEY_SIZE]);
/* One of the leases of a mailbox that may have several. */
void cache_key_slot(const struct cache *c, uint64_t mailbox_id, unsigned slot,
                    char out[ITEM_KEY_SIZE]);
/* Whose key it is: what stands behind epoch and kind, without the number of a slot. */
struct span cache_key_owner(const char *key);

/* No two are the same, of whatever node; nothing rests on that nobody could guess one. */
void cache_new_token(struct cache *c, uint8_t token[ITEM_TOKEN_SIZE]);

/* --- calls ----------------------------------------------------------------------------------- */

/* The caller fills in the rest and submits it. */
struct call *cache_call_new(struct cache *c, enum lane_verb verb, const char *key);
/* With the right to fill, if that is wanted. */
struct call *cache_get_call(struct cache *c, const struct cache_key *k, bool fills);
struct cache_reply cache_reply_of(struct call *call, enum err e);
/* Without a server, or when that is not to be asked: it returns before the loop waits. */
void cache_submit(struct call *call);
void cache_submit_with_deadline(struct call *call);
/* Values of call.answer: to nobody, and by fn.done. */
void cache_answer_nobody(struct call *call, enum err e);
void cache_answer_done(struct call *call, enum err e);

/* --- leases ---------------------------------------------------------------------------------- */

void cache_leases_init(struct leases *l);
void cache_leases_fini(struct leases *l);
/* Once a second: renews, and gives back what is owed. */
void cache_leases_tick(struct cache *c);
/* A call has come back, late or not: what nobody holds of it is given back, or owed. */
void cache_lease_settle(struct call *call, bool late);
/* The cache was closed while it was under way. */
void cache_lease_forget(struct call *call);

#endif
