/*
 * cache_lane: the thread of one memcached server, and the cache protocol as it is done there.
 *
 * Requests wait in a queue; the thread takes what has gathered as a batch and makes one multi-get
 * of all that the batch wants to see. A server that hangs holds up its own lane and no other.
 * Tombstones that could not be set are kept and set before anything else as soon as the server
 * answers again, so that this node never reads a list that it has itself made old.
 */
#ifndef MAILFLEET_STORE_CACHE_LANE_H
#define MAILFLEET_STORE_CACHE_LANE_H

#include <stdatomic.h>

#include "net/loop.h"
#include "store/cache_item.h"
#include "store/cache_server.h"

struct lane;

enum lane_verb {
    LANE_GET, /* a value, or the right to fill its place */
    LANE_PUT, /* the value, if the placeholder with this token still stands there */
    LANE_SET, /* the value, whatever was there */
    LANE_TOMBSTONE,
    LANE_CLAIM,   /* the lease, new or again */
    LANE_DROP,    /* gives the lease back, if it still is ours */
    LANE_READ,    /* what a counter has come to */
    LANE_COUNT,   /* adds to a counter, which begins at nothing */
    LANE_UNCOUNT, /* takes away from a counter, if it still is there */
    LANE_FIRST,   /* leaves a mark; the first to do so is told */
    LANE_LEAK,    /* one more into a leaky bucket, if it has room */
    LANE_PROBE    /* does the server answer? */
};

/*
 * Embedded in what the submitter allocated. It is the lane's from lane_submit until task runs on
 * the loop, exactly once.
 */
struct lane_request {
    struct task task;
    enum lane_verb verb;
    char key[ITEM_KEY_SIZE];
    uint64_t life_ms;            /* of what is written; GET: the most that a value may have lived */
    uint64_t number;             /* COUNT: how many more; then, as with READ, how many there are;
                                    UNCOUNT: how many less */
    uint64_t interval_ms, burst; /* LEAK: one an interval leaks out; so many fit in */
    uint8_t token[ITEM_TOKEN_SIZE]; /* GET: given by the submitter, for the placeholder */
    bool fills;                     /* GET: an absent value is to be filled */
    struct buf value;               /* GET: out; PUT, SET: in */

    /*
     * OK: done; GET: value holds the value. NOTFOUND: GET: there is none; COUNT, FIRST, LEAK: not
     * done, and the server is well. BUSY: CLAIM: somebody else has it; FIRST: it was there. LIMIT:
     * LEAK: no room. TEMP: the server did not answer.
     */
    enum err err;
    uint64_t age_ms; /* GET: OK: since it was written */
    bool may_fill;   /* GET: the placeholder with token stands */
    bool forged;     /* what was there was not ours */
    /* task is on its way: true from any thread a little before it runs. */
    atomic_bool returned;

    struct list link; /* the rest is the lane's own */
    struct cache_server_item *looks;
    size_t look_count;
    struct cache_server_item split; /* GET: the head whose parts are being looked at */
    unsigned tries;
};

struct lane_options {
    const char *server;
    uint64_t timeout_ms;
    uint64_t retry_ms; /* how long a tombstone that could not be set is kept */
    const struct seal *seal;
};

struct lane *lane_open(struct loop *l, const struct lane_options *o);
/* Two steps, so that several lanes end together: the queue is worked off, then the thread ends. */
void lane_stop(struct lane *l);
void lane_close(struct lane **l);

/* False: too much waits; the request is the caller's again, and its task is not run. */
bool lane_submit(struct lane *l, struct lane_request *r);

#endif
