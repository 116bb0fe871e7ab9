/*
 * cache_server: one memcached on the loop: a connection, its meta protocol, and a breaker.
 *
 * What is asked leaves in one write at the end of a turn of the loop (cache_server_flush);
 * memcached does it in that order, and answers in that order. The answer to the first in line has
 * to come within the time-out, plus what a long value takes at a slow 10 MB/s. While it is late
 * nothing more is asked (but deletes), where a frozen server would cost a time-out a call. When it
 * has not come a second later, or something else is wrong, that is a failure: it closes the
 * connection, ends all that waits, and is followed by a pause that grows with each. Nothing is sent
 * twice.
 *
 * It is written by hand because a cache that is taken over may cost time and nothing else: answers
 * that libmemcached 1.1.4 does not expect end the process (assertions on them are compiled in), a
 * long key in one is written past its array, and its time-outs start anew with each octet. Here
 * whatever is not an answer to what was asked is a failure.
 */
#ifndef MAILFLEET_STORE_CACHE_SERVER_H
#define MAILFLEET_STORE_CACHE_SERVER_H

#include "net/loop.h"
#include "store/cache_answer.h"

struct cache_server;

/* The two halves of host, host:port or [address]:port; the default port if there is none. */
void cache_server_name(const char *name, char *host, size_t size, uint16_t *port);

/* Connects when something is asked, and again after a failure. */
struct cache_server *cache_server_open(struct loop *l, const char *name, uint64_t timeout_ms);
/* What waits ends with TEMP before it returns. */
void cache_server_close(struct cache_server **s);

/* At the end of a turn of the loop: connects, or sends what was asked. */
void cache_server_flush(struct cache_server *s);
/* Takes what has come, as the loop would: for who wants to know before he gives up. */
void cache_server_read(struct cache_server *s);

/*
 * The number of the connection that what is asked now will go out on. No two connections of a
 * process have the same one. A cas is worth something on the connection that it came by alone: a
 * server that was started anew counts anew.
 */
uint64_t cache_server_connection(const struct cache_server *s);

/*
 * Whoever found the server away while this process did has by now ended its pause, and done what it
 * owed. Until then the server may be without tombstones that others could not set: this is false
 * for a while on a connection that replaces one that was lost.
 */
bool cache_server_settled(const struct cache_server *s);

/* An item as it was last seen or written: what spares a look at it. */
struct cache_seen {
    uint64_t cas, connection; /* 0: never */
};

struct cache_question;
typedef void cache_answer_fn(struct cache_question *q, const struct cache_answer *a);

/* Embedded in what the asker allocated, which is the server's until done is called: exactly once,
 * never inline; q may be used again there. */
struct cache_question {
    cache_answer_fn *done; /* the asker's; the rest is the server's own */
    struct list link;
    enum cache_verb verb;
    uint64_t octets; /* that were sent */
    uint64_t least;  /* COUNT: the sum is none of 64 bits if it is below */
};

enum cache_when {
    CACHE_ALWAYS,
    CACHE_ABSENT, /* nothing is there */
    CACHE_SAME    /* what is there is what had this cas */
};

/*
 * Each: OK, and done will be called; TEMP: the breaker is open; LIMIT: too much waits. Keys are at
 * most ITEM_KEY_SIZE long, lives are in seconds.
 */
enum err cache_server_get(struct cache_server *s, struct cache_question *q, const char *key);
enum err cache_server_set(struct cache_server *s, struct cache_question *q, const char *key,
                          struct span value, uint32_t life, enum cache_when when, uint64_t cas);
/* If it is what had this cas; 0: whatever it is. */
enum err cache_server_delete(struct cache_server *s, struct cache_question *q, const char *key,
                             uint64_t cas);
/* Adds to a number in decimal digits, which begins at nothing and then has a life. */
enum err cache_server_count(struct cache_server *s, struct cache_question *q, const char *key,
                            uint64_t more, uint32_t life);
/* Takes away from one that is there; at least 0 is left. */
enum err cache_server_take(struct cache_server *s, struct cache_question *q, const char *key,
                           uint64_t less);
/* Does it answer? */
enum err cache_server_probe(struct cache_server *s, struct cache_question *q);

#endif
