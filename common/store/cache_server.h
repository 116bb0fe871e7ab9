/*
 * cache_server: one memcached over libmemcached (text protocol), with a breaker.
 *
 * Every call blocks, up to the time-out given to cache_server_open for each exchange, and belongs
 * to one thread. The library pays that time-out on every call to a frozen server, whatever its
 * failure limits say: so after a call that failed the server is skipped for a pause that grows
 * with each failure, and everything fails at once meanwhile.
 */
#ifndef MAILFLEET_STORE_CACHE_SERVER_H
#define MAILFLEET_STORE_CACHE_SERVER_H

#include "base/span.h"

struct cache_server;

/* name: host, host:port or [address]:port. Connects at the first call. */
struct cache_server *cache_server_open(const char *name, uint64_t timeout_ms);
void cache_server_close(struct cache_server **s);

/* The two halves of a name; the default port if it has none. */
void cache_server_name(const char *name, char *host, size_t size, uint16_t *port);

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
enum err cache_server_delete(struct cache_server *s, const char *key);

#endif
