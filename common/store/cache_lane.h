/*
 * cache_lane: the cache protocol as it is done on one memcached server.
 *
 * A request is one question to the server, or several, each asked when the one before was answered.
 * The first questions reach the server in the order of lane_submit. Tombstones that could not be
 * set are kept, and go out before anything else: so this process never reads a list that it has
 * itself made old. Nor does it read those of a server that has just come back, to which others may
 * owe theirs.
 */
#ifndef MAILFLEET_STORE_CACHE_LANE_H
#define MAILFLEET_STORE_CACHE_LANE_H

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

struct lane_request;
typedef void lane_done_fn(struct lane_request *r);

/*
 * Embedded in what the submitter allocated. It is the lane's from lane_submit until done is called:
 * exactly once, never inline.
 */
struct lane_request {
    lane_done_fn *done;
    enum lane_verb verb;
    char key[ITEM_KEY_SIZE];
    uint64_t life_ms;            /* of what is written; GET: the most that a value may have lived */
    uint64_t number;             /* COUNT: how many more; then, as with READ, how many there are;
                                    UNCOUNT: how many less */
    uint64_t interval_ms, burst; /* LEAK: one an interval leaks out; so many fit in */
    uint8_t token[ITEM_TOKEN_SIZE]; /* GET: given by the submitter, for the placeholder */
    struct cache_seen seen;         /* PUT, CLAIM, DROP: the item with token; GET, CLAIM: out */
    bool fills;                     /* GET: an absent value is to be filled */
    bool buried;                    /* GET: tombstones tell of its changes */
    bool unwanted;                  /* GET: nobody waits any more; may be set while under way */
    struct buf value;               /* GET: out; PUT, SET: in */

    /*
     * OK: done; GET: value holds the value. NOTFOUND: GET: none that is to be relied on; COUNT,
     * FIRST, LEAK: not done, and the server is well. BUSY: CLAIM: somebody else has it; FIRST: it
     * was there. LIMIT: LEAK: no room. TEMP: the server did not answer.
     */
    enum err err;
    uint64_t age_ms; /* GET: OK: since it was written */
    bool may_fill;   /* GET: the placeholder with token stands */
    bool forged;     /* what was there was not ours */

    struct lane *lane; /* the rest is the lane's own */
    struct cache_question question;
    void (*step)(struct lane_request *r, const struct cache_answer *a);
    struct buf whole; /* GET: the head and the parts that have come; PUT, SET: as it is stored */
    size_t split;     /* octets of the lane's bound that whole has */
    unsigned parts, part; /* of whole; the one under way */
    uint64_t cas;         /* GET: of the head; PUT, SET: of what is replaced; 0: of none */
    unsigned tries;
};

struct lane_options {
    const char *server;
    uint64_t timeout_ms;
    uint64_t retry_ms; /* how long a tombstone that could not be set is kept */
    const struct seal *seal;
};

struct lane *lane_open(struct loop *l, const struct lane_options *o);
/* Requests under way end with TEMP before it returns. */
void lane_close(struct lane **l);

/* Any but OK: the request is the caller's again, and its done is not called. TEMP: the server is
 * not to be asked now, or too much waits. NOTFOUND: a value that is too long, or is in parts while
 * too many parts are under way; a GET of such a value ends with NOTFOUND, without the right to
 * fill. */
enum err lane_submit(struct lane *l, struct lane_request *r);

/* At the end of a turn of the loop: what was asked goes out, and tombstones that could not be
 * set when they were. */
void lane_flush(struct lane *l);
/* Takes the answers that have come, before anybody calls them late. */
void lane_read(struct lane *l);

#endif
