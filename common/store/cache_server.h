/*
 * cache_server: one memcached (its text protocol), with a deadline for each exchange and a breaker.
 *
 * Every call blocks for at most the time-out, plus what a long value takes at a slow 10 MB/s, and
 * belongs to one thread. After a call that failed the server is skipped for a pause that grows with
 * each failure: everything fails at once meanwhile, where a frozen server would cost a time-out a
 * call.
 *
 * It is written by hand because a cache that is taken over may cost time and nothing else: answers
 * that libmemcached 1.1.4 does not expect end the process (assertions on them are compiled in), a
 * long key in one is written past its array, and its time-outs start anew with each octet.
 */
#ifndef MAILFLEET_STORE_CACHE_SERVER_H
#define MAILFLEET_STORE_CACHE_SERVER_H

#include "base/span.h"

struct cache_server;

/* The two halves of host, host:port or [address]:port; the default port if there is none. */
void cache_server_name(const char *name, char *host, size_t size, uint16_t *port);

/* Looks the name up and connects at the first call, and again after a failure. */
struct cache_server *cache_server_open(const char *name, uint64_t timeout_ms);
void cache_server_close(struct cache_server **s);

/* For how many more milliseconds the breaker is open; 0: calls are made. */
uint64_t cache_server_pause(const struct cache_server *s);

/* What is asked for and, if it was there, what it is. value is from malloc, the caller's. */
struct cache_server_item {
    char key[64];
    char *value; /* NULL: absent */
    size_t size;
    uint64_t cas;
};

/* One multi-get. On ERR_TEMP some values may have been set all the same. */
enum err cache_server_get(struct cache_server *s, struct cache_server_item **items, size_t n);

/*
 * Life in seconds. TEMP: the server did not answer, and it may have happened. LIMIT: it answered
 * that it has no room; what was there may be gone.
 */
enum err cache_server_set(struct cache_server *s, const char *key, struct span value,
                          uint32_t life);
/* BUSY: there is something. */
enum err cache_server_add(struct cache_server *s, const char *key, struct span value,
                          uint32_t life);
/* BUSY: it has been replaced since. NOTFOUND: it is gone. */
enum err cache_server_cas(struct cache_server *s, const char *key, struct span value, uint32_t life,
                          uint64_t cas);
/*
 * Adds to a number in decimal digits; *out is the sum. NOTFOUND: there is none. CORRUPT: what is
 * there is no number, or the sum is none of 64 bits.
 */
enum err cache_server_incr(struct cache_server *s, const char *key, uint64_t add, uint64_t *out);
/* The same, but takes away; *out is what is left, at least 0. */
enum err cache_server_decr(struct cache_server *s, const char *key, uint64_t less, uint64_t *out);
/* NOTFOUND: it was gone. */
enum err cache_server_delete(struct cache_server *s, const char *key);

#endif
