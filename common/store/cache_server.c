/*
 * cache_server: the calls of libmemcached that the cache needs, and nothing of what is in an item.
 *
 * Owned and used by one thread. Each server has a memcached_st of its own: a fault can then be
 * told to a server, and is answered by throwing the handle and its connection away, so that no
 * late answer is ever taken for that of another call. Which server has a key is decided elsewhere.
 */
#include "store/cache_server.h"

#include <stdlib.h>
#include <time.h>

#include <libmemcached/memcached.h>

#include "base/check.h"

/* The first pause is short enough for a hiccup; the last, for a login to notice a return soon. */
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 1600
#define DEFAULT_PORT 11211
#define HOST_SIZE    256

/* More than any item of ours: what a server may make the library allocate at once. */
#define ALLOCATION_MAX (2 * 1024 * 1024)
/* Of all values of one multi-get; what is more counts as absent. The longest list needs half. */
#define GET_BYTES_MAX (128 * 1024 * 1024)

struct cache_server {
    char host[HOST_SIZE];
    uint16_t port;
    uint64_t timeout_ms;
    memcached_st *mc;  /* NULL after a fault, until the next call */
    uint64_t pause_ms; /* 0: the last call was answered */
    uint64_t closed_until;
};

static uint64_t now_ms(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- the handle ------------------------------------------------------------------------------ */

/* A server announces the length of a value, and the library believes it: the bound is here. */
static void *bounded_malloc(const memcached_st *mc, const size_t size, void *arg)
{
    (void)mc, (void)arg;
    return size > ALLOCATION_MAX ? NULL : malloc(size);
}

static void *bounded_realloc(const memcached_st *mc, void *p, const size_t size, void *arg)
{
    (void)mc, (void)arg;
    return size > ALLOCATION_MAX ? NULL : realloc(p, size);
}

static void *bounded_calloc(const memcached_st *mc, size_t n, const size_t size, void *arg)
{
    (void)mc, (void)arg;
    return n > ALLOCATION_MAX / (size ? size : 1) ? NULL : calloc(n, size);
}

static void plain_free(const memcached_st *mc, void *p, void *arg)
{
    (void)mc, (void)arg;
    free(p);
}

static memcached_st *connect_to(const struct cache_server *s)
{
    const struct {
        memcached_behavior_t behavior;
        uint64_t value;
    } behaviors[] = {
        { MEMCACHED_BEHAVIOR_SUPPORT_CAS, 1 },
        { MEMCACHED_BEHAVIOR_TCP_NODELAY, 1 },
        { MEMCACHED_BEHAVIOR_CONNECT_TIMEOUT, s->timeout_ms },
        { MEMCACHED_BEHAVIOR_POLL_TIMEOUT, s->timeout_ms },
    };
    memcached_st *mc = memcached_create(NULL);
    CHECK(mc);
    CHECK(memcached_set_memory_allocators(mc, bounded_malloc, plain_free, bounded_realloc,
                                          bounded_calloc, NULL) == MEMCACHED_SUCCESS);
    for (size_t i = 0; i < ARRAY_LEN(behaviors); i++) {
        memcached_behavior_set(mc, behaviors[i].behavior, behaviors[i].value);
    }
    memcached_server_add(mc, s->host, s->port);
    return mc;
}

static void disconnect(struct cache_server *s)
{
    if (s->mc) {
        memcached_free(s->mc);
        s->mc = NULL;
    }
}

/* A name whose port is no number is taken whole for a host, which then is not found. */
void cache_server_name(const char *name, char *host, size_t size, uint16_t *port)
{
    const char *colon = strrchr(name, ':');
    uint64_t number = DEFAULT_PORT;
    struct span left = span_str(name);
    if (colon && span_u64(span_str(colon + 1), UINT16_MAX, &number) == ERR_OK) {
        left.n = (size_t)(colon - name);
    }
    left = span_first(left, size - 1);
    memcpy(host, left.p, left.n);
    host[left.n] = '\0';
    *port = (uint16_t)number;
}

struct cache_server *cache_server_open(const char *name, uint64_t timeout_ms)
{
    struct cache_server *s = NEW(struct cache_server);
    cache_server_name(name, s->host, sizeof s->host, &s->port);
    s->timeout_ms = timeout_ms;
    return s;
}

void cache_server_close(struct cache_server **s)
{
    if (*s) {
        disconnect(*s);
        free(*s);
        *s = NULL;
    }
}

/* --- the breaker ----------------------------------------------------------------------------- */

uint64_t cache_server_pause(const struct cache_server *s)
{
    uint64_t now = s->pause_ms ? now_ms() : 0;
    return s->pause_ms && s->closed_until > now ? s->closed_until - now : 0;
}

static bool begin(struct cache_server *s)
{
    if (cache_server_pause(s)) {
        return false;
    }
    if (!s->mc) {
        s->mc = connect_to(s);
    }
    return true;
}

static void answered(struct cache_server *s)
{
    s->pause_ms = 0;
}

static void failed(struct cache_server *s)
{
    disconnect(s);
    uint64_t pause = s->pause_ms ? 2 * s->pause_ms : PAUSE_MIN_MS;
    s->pause_ms = pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
    s->closed_until = now_ms() + s->pause_ms;
}

/* --- reading --------------------------------------------------------------------------------- */

/*
 * Answers come in the order of the keys, without the absent ones; a key may be asked for twice.
 * Returns the item that the answer is for, at *at or behind it, or NULL for what nobody asked.
 */
static struct cache_server_item *find(struct cache_server_item **items, size_t n, size_t *at,
                                      struct span key)
{
    for (size_t i = *at; i < n; i++) {
        if (span_eq(span_str(items[i]->key), key)) {
            *at = i + 1;
            return items[i];
        }
    }
    return NULL;
}

static void take(memcached_result_st *r, struct cache_server_item *it)
{
    it->size = memcached_result_length(r);
    it->cas = memcached_result_cas(r);
    it->value = memcached_result_take_value(r);
    if (!it->value) {
        it->value = mem_new(1, 1); /* there, and empty */
    }
}

static memcached_return_t fetch_all(struct cache_server *s, struct cache_server_item **items,
                                    size_t n)
{
    memcached_return_t rc;
    memcached_result_st result;
    size_t at = 0, bytes = 0;
    CHECK(memcached_result_create(s->mc, &result));
    while (memcached_fetch_result(s->mc, &result, &rc)) {
        struct span key =
            span_of(memcached_result_key_value(&result), memcached_result_key_length(&result));
        struct cache_server_item *it = find(items, n, &at, key);
        bytes += memcached_result_length(&result);
        if (it && bytes <= GET_BYTES_MAX) {
            take(&result, it);
        }
    }
    memcached_result_free(&result);
    return rc;
}

enum err cache_server_get(struct cache_server *s, struct cache_server_item **items, size_t n)
{
    if (!begin(s)) {
        return ERR_TEMP;
    }
    const char **keys = NEW_ARRAY(const char *, n);
    size_t *sizes = NEW_ARRAY(size_t, n);
    for (size_t i = 0; i < n; i++) {
        keys[i] = items[i]->key;
        sizes[i] = strlen(items[i]->key);
    }
    memcached_return_t rc = memcached_mget(s->mc, keys, sizes, n);
    free(keys);
    free(sizes);
    if (memcached_success(rc)) {
        rc = fetch_all(s, items, n);
    }
    if (rc != MEMCACHED_END && rc != MEMCACHED_NOTFOUND) {
        failed(s);
        return ERR_TEMP;
    }
    answered(s);
    return ERR_OK;
}

/* --- writing --------------------------------------------------------------------------------- */

static enum err outcome(struct cache_server *s, memcached_return_t rc)
{
    enum err e;
    switch (rc) {
    case MEMCACHED_SUCCESS:
    case MEMCACHED_STORED:
    case MEMCACHED_DELETED:
        e = ERR_OK;
        break;
    case MEMCACHED_NOTSTORED:
    case MEMCACHED_DATA_EXISTS:
        e = ERR_BUSY;
        break;
    case MEMCACHED_NOTFOUND:
        e = ERR_NOTFOUND;
        break;
    case MEMCACHED_E2BIG:
    case MEMCACHED_SERVER_MEMORY_ALLOCATION_FAILURE:
    case MEMCACHED_SERVER_ERROR:
        e = ERR_LIMIT;
        break;
    default:
        failed(s);
        return ERR_TEMP;
    }
    answered(s);
    return e;
}

enum err cache_server_set(struct cache_server *s, const char *key, struct span value, uint32_t life)
{
    if (!begin(s)) {
        return ERR_TEMP;
    }
    return outcome(s, memcached_set(s->mc, key, strlen(key), value.p, value.n, life, 0));
}

enum err cache_server_add(struct cache_server *s, const char *key, struct span value, uint32_t life)
{
    if (!begin(s)) {
        return ERR_TEMP;
    }
    return outcome(s, memcached_add(s->mc, key, strlen(key), value.p, value.n, life, 0));
}

enum err cache_server_cas(struct cache_server *s, const char *key, struct span value, uint32_t life,
                          uint64_t cas)
{
    if (!begin(s)) {
        return ERR_TEMP;
    }
    return outcome(s, memcached_cas(s->mc, key, strlen(key), value.p, value.n, life, 0, cas));
}

enum err cache_server_delete(struct cache_server *s, const char *key)
{
    if (!begin(s)) {
        return ERR_TEMP;
    }
    return outcome(s, memcached_delete(s->mc, key, strlen(key), 0));
}
