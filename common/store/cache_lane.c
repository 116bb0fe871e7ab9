/*
 * cache_lane: batches of requests against one server.
 *
 * The thread owns the server, the requests of its batch and the retries; the mutex guards the
 * queue alone. A request goes through named steps: it is begun, looks at items as often as it has
 * to, all looks of a batch being one multi-get, and is finished. It knows no mailbox and no
 * session, and decides nothing about who may fill or hold a lease beyond what the items say.
 *
 * The protocol. A reader that finds nothing adds a placeholder with a token of its own; its fill
 * is stored only in the place of that very placeholder (the token, and cas). A writer sets a
 * tombstone before its commit and after it, over whatever is there. So a fill that began before a
 * commit finds a tombstone, or nothing, where its placeholder was, and is dropped.
 */
#include "store/cache_lane.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "store/wire.h"

enum {
    BATCH_MAX = 100,
    LOOKS_MAX = 128,            /* of one multi-get: bounds what its values take in memory */
    QUEUE_MAX = 65536,          /* requests */
    QUEUE_BYTES_MAX = 64 << 20, /* of values waiting to be stored */
    RETRIES_MAX = 65536,
    TRIES = 3 /* races lost before a lease counts as somebody else's, or a bucket as full */
};

#define PLACEHOLDER_LIFE_MS 5000 /* longer than a statement may take */
#define FREE_LIFE_MS        1000
#define RETRY_PAUSE_MS      1000

struct lane {
    struct loop *loop;
    const struct seal *seal;
    struct cache_server *server;
    uint64_t retry_ms;
    uv_thread_t thread;
    struct list retries; /* of struct retry, oldest first */
    size_t retry_count;
    /* In this batch a tombstone did not reach the server. Nothing is read from it either, though
     * the pause after a failure may end just now: it would be a list that this node has made old.
     */
    bool owing;

    uv_mutex_t mutex; /* guards what follows */
    uv_cond_t work;
    struct list queue;
    size_t queued;
    size_t queued_bytes;
    bool stopped;
};

/* A tombstone that could not be set. */
struct retry {
    struct list link;
    char key[ITEM_KEY_SIZE];
    uint32_t life;
    uint64_t until_ms;
};

static uint64_t monotonic_ms(void)
{
    return uv_hrtime() / 1000000;
}

static uint64_t unix_ms(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_REALTIME, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* memcached counts in seconds; what is to live that long may live a little longer. */
static uint32_t seconds(uint64_t ms)
{
    return (uint32_t)((ms + 999) / 1000);
}

/* --- the steps of a request ------------------------------------------------------------------ */

static void forget_looks(struct lane_request *r)
{
    for (size_t i = 0; i < r->look_count; i++) {
        free(r->looks[i].value);
    }
    free(r->looks);
    r->looks = NULL;
    r->look_count = 0;
}

/* Hands the request back; it may be gone on return. */
static void finish(struct lane *l, struct lane_request *r, enum err e)
{
    forget_looks(r);
    free(r->split.value);
    r->split.value = NULL;
    r->err = e;
    list_del(&r->link);
    atomic_store(&r->returned, true);
    loop_post_from_thread(l->loop, &r->task);
}

/* Asks for n items in the next multi-get; the caller writes their keys. */
static struct cache_server_item *look_at(struct lane_request *r, size_t n)
{
    forget_looks(r);
    r->looks = NEW_ARRAY(struct cache_server_item, n);
    r->look_count = n;
    return r->looks;
}

static void look_at_own(struct lane_request *r)
{
    memcpy(look_at(r, 1)->key, r->key, sizeof r->key);
}

static struct span octets(const struct cache_server_item *it)
{
    return span_of(it->value, it->size);
}

/* What stands under the request's own key; ITEM_UNKNOWN too when nothing does. */
static struct item own_item(const struct lane_request *r)
{
    return r->looks[0].value ? item_parse(octets(&r->looks[0]))
                             : (struct item){ .type = ITEM_UNKNOWN };
}

static bool is_ours(const struct lane_request *r, const struct item *it, enum item_type type)
{
    return it->type == type && memcmp(it->token.p, r->token, ITEM_TOKEN_SIZE) == 0;
}

/* Writes a mark in the place of what was looked at: by add where nothing was, else by cas. */
static enum err replace_with(struct lane *l, const struct lane_request *r, enum item_type type,
                             uint64_t life_ms, const struct cache_server_item *seen)
{
    char mark[ITEM_MARK_SIZE];
    struct span s = item_mark(type, r->token, mark);
    return seen->value ? cache_server_cas(l->server, r->key, s, seconds(life_ms), seen->cas)
                       : cache_server_add(l->server, r->key, s, seconds(life_ms));
}

/* --- get ------------------------------------------------------------------------------------- */

/* There is no value: absent, damaged, or lived out. seen: what the placeholder takes the place of.
 */
static void get_miss(struct lane *l, struct lane_request *r, const struct cache_server_item *seen)
{
    enum err e = ERR_NOTFOUND;
    if (r->fills) {
        e = replace_with(l, r, ITEM_PLACEHOLDER, PLACEHOLDER_LIFE_MS, seen);
    }
    r->may_fill = r->fills && e == ERR_OK;
    finish(l, r, e == ERR_TEMP ? ERR_TEMP : ERR_NOTFOUND);
}

static void get_unseal(struct lane *l, struct lane_request *r, const struct cache_server_item *seen,
                       const struct item *it, struct span sealed)
{
    buf_init(&r->value, sealed.n);
    uint64_t now = unix_ms();
    enum err e = item_unseal(l->seal, r->key, it, sealed, now, r->life_ms, &r->value);
    if (e == ERR_OK) {
        r->age_ms = now > it->issued_ms ? now - it->issued_ms : 0;
        finish(l, r, ERR_OK);
        return;
    }
    r->forged = e == ERR_CORRUPT;
    get_miss(l, r, seen);
}

/* Keeps the head, and looks at its parts. */
static void get_split(struct lane_request *r, const struct item *it)
{
    unsigned n = it->parts;
    char *generation = span_dup(it->generation);
    r->split = r->looks[0];
    r->looks[0].value = NULL;
    struct cache_server_item *parts = look_at(r, n);
    for (unsigned i = 0; i < n; i++) {
        item_part_key(span_of(generation, ITEM_GENERATION_SIZE), i, parts[i].key);
    }
    free(generation);
}

/* All parts one after the other; false if one is missing. */
static bool join(const struct lane_request *r, struct buf *out)
{
    for (size_t i = 0; i < r->look_count; i++) {
        if (!r->looks[i].value || buf_add(out, octets(&r->looks[i])) != ERR_OK) {
            return false;
        }
    }
    return true;
}

static void get_parts(struct lane *l, struct lane_request *r)
{
    struct item head = item_parse(octets(&r->split));
    struct cache_server_item seen = r->split;
    struct buf whole;
    buf_init(&whole, (size_t)head.parts * ITEM_MAX);
    if (join(r, &whole)) {
        get_unseal(l, r, &seen, &head, buf_span(&whole));
    } else {
        get_miss(l, r, &seen);
    }
    buf_fini(&whole);
}

static void get_step(struct lane *l, struct lane_request *r)
{
    if (r->split.value) {
        get_parts(l, r);
        return;
    }
    struct item it = own_item(r);
    switch (it.type) {
    case ITEM_PLACEHOLDER:
    case ITEM_TOMBSTONE:
    case ITEM_FOREIGN:
        finish(l, r, ERR_NOTFOUND);
        break;
    case ITEM_VALUE:
        if (it.parts) {
            get_split(r, &it);
        } else {
            get_unseal(l, r, &r->looks[0], &it, it.sealed);
        }
        break;
    default:
        r->forged = r->looks[0].value != NULL;
        get_miss(l, r, &r->looks[0]);
    }
}

/* --- put and set ----------------------------------------------------------------------------- */

static enum err put_parts(struct lane *l, const struct lane_request *r, struct span generation,
                          struct span sealed, unsigned n)
{
    enum err e = ERR_OK;
    for (unsigned i = 0; e == ERR_OK && i < n; i++) {
        char key[ITEM_KEY_SIZE];
        item_part_key(generation, i, key);
        e = cache_server_set(l->server, key, item_part(sealed, i), seconds(r->life_ms));
    }
    return e;
}

/* Parts that no head will name are only in the way of others. */
static void delete_parts(struct lane *l, struct span generation, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char key[ITEM_KEY_SIZE];
        item_part_key(generation, i, key);
        cache_server_delete(l->server, key);
    }
}

static enum err store_item(struct lane *l, const struct lane_request *r, struct span item,
                           const struct cache_server_item *seen)
{
    uint32_t life = seconds(r->life_ms);
    return seen ? cache_server_cas(l->server, r->key, item, life, seen->cas)
                : cache_server_set(l->server, r->key, item, life);
}

/* Seals and stores: over what was seen, or over anything if that is NULL. */
static enum err store(struct lane *l, struct lane_request *r, const struct cache_server_item *seen)
{
    struct buf out;
    unsigned parts = 0;
    struct span plain = buf_span(&r->value);
    buf_init(&out, plain.n + SEAL_OVERHEAD + ITEM_HEAD_SIZE);
    enum err e = item_seal(l->seal, r->key, unix_ms(), plain, &out, &parts);
    struct span head = span_first(buf_span(&out), ITEM_HEAD_SIZE);
    if (e == ERR_OK && parts == 0) {
        e = store_item(l, r, buf_span(&out), seen);
    } else if (e == ERR_OK) {
        struct span generation = span_skip(head, ITEM_HEAD_SIZE - ITEM_GENERATION_SIZE);
        e = put_parts(l, r, generation, span_skip(buf_span(&out), ITEM_HEAD_SIZE), parts);
        if (e == ERR_OK) {
            e = store_item(l, r, head, seen);
        }
        if (e != ERR_OK && e != ERR_TEMP) {
            delete_parts(l, generation, parts);
        }
    }
    buf_fini(&out);
    return e;
}

/* Anything but our placeholder means that somebody has written since: what we read may be old. */
static void put_step(struct lane *l, struct lane_request *r)
{
    struct item it = own_item(r);
    enum err e = is_ours(r, &it, ITEM_PLACEHOLDER) ? store(l, r, &r->looks[0]) : ERR_NOTFOUND;
    finish(l, r, e);
}

/* --- leases ---------------------------------------------------------------------------------- */

/* The item was written by another between our look and our cas: look once more. */
static void lease_again(struct lane *l, struct lane_request *r, enum err e, enum err give_up)
{
    if (e != ERR_BUSY && e != ERR_NOTFOUND) {
        finish(l, r, e == ERR_OK ? ERR_OK : ERR_TEMP);
    } else if (++r->tries < TRIES) {
        look_at_own(r);
    } else {
        finish(l, r, give_up);
    }
}

static void claim_step(struct lane *l, struct lane_request *r)
{
    struct item it = own_item(r);
    if (it.type == ITEM_LEASE && !is_ours(r, &it, ITEM_LEASE)) {
        finish(l, r, ERR_BUSY);
        return;
    }
    lease_again(l, r, replace_with(l, r, ITEM_LEASE, r->life_ms, &r->looks[0]), ERR_BUSY);
}

/* The text protocol has no delete with cas; so free is a mark of its own, which soon expires. */
static void drop_step(struct lane *l, struct lane_request *r)
{
    struct item it = own_item(r);
    if (!is_ours(r, &it, ITEM_LEASE)) {
        finish(l, r, ERR_OK);
        return;
    }
    lease_again(l, r, replace_with(l, r, ITEM_FREE, FREE_LIFE_MS, &r->looks[0]), ERR_OK);
}

/* --- counters and marks ---------------------------------------------------------------------- */

/*
 * Decimal digits, since memcached adds them up itself: they can't be sealed. What they count may
 * cost somebody who is not us a login, which who holds the server can do in simpler ways.
 */
static bool parse_counter(struct span s, uint64_t *out)
{
    return span_u64(span_trim(s), UINT64_MAX, out) == ERR_OK;
}

static void read_step(struct lane *l, struct lane_request *r)
{
    r->number = 0;
    r->forged = r->looks[0].value && !parse_counter(octets(&r->looks[0]), &r->number);
    finish(l, r, ERR_OK);
}

/* A counter's life begins with the first that it counts. What is no number gives way to one. */
static enum err count(struct lane *l, struct lane_request *r)
{
    char digits[24];
    uint64_t add = r->number;
    int n = snprintf(digits, sizeof digits, "%" PRIu64, add);
    struct span begun = span_of(digits, (size_t)n);
    enum err e = cache_server_incr(l->server, r->key, add, &r->number);
    if (e == ERR_NOTFOUND) {
        e = cache_server_add(l->server, r->key, begun, seconds(r->life_ms));
        if (e == ERR_BUSY) { /* another node began it just now */
            e = cache_server_incr(l->server, r->key, add, &r->number);
        }
    } else if (e == ERR_CORRUPT) {
        r->forged = true;
        e = cache_server_set(l->server, r->key, begun, seconds(r->life_ms));
    }
    return e == ERR_OK || e == ERR_TEMP ? e : ERR_NOTFOUND;
}

/* A counter that has ended meanwhile stays ended. */
static enum err uncount(struct lane *l, struct lane_request *r)
{
    enum err e = cache_server_decr(l->server, r->key, r->number, &r->number);
    return e == ERR_OK || e == ERR_TEMP ? e : ERR_NOTFOUND;
}

static enum err leave_mark(struct lane *l, const struct lane_request *r)
{
    enum err e = cache_server_add(l->server, r->key, SPAN("1"), seconds(r->life_ms));
    return e == ERR_LIMIT ? ERR_NOTFOUND : e;
}

/* --- buckets --------------------------------------------------------------------------------- */

/*
 * A leaky bucket as one number (GCRA): when it will have run empty. A time that no clock near ours
 * can have written is cut down to a full bucket, from now: nodes whose clocks differ can't shut
 * anybody out for longer than a bucket takes to run empty.
 */
static bool bucket_read(struct lane *l, struct lane_request *r, uint64_t now, uint64_t *empty_at)
{
    struct item it = own_item(r);
    struct buf plain;
    bool ok = false;
    if (it.type != ITEM_VALUE || it.parts) {
        r->forged = r->looks[0].value != NULL;
        return false;
    }
    buf_init(&plain, it.sealed.n);
    enum err e = item_unseal(l->seal, r->key, &it, it.sealed, now, r->life_ms, &plain);
    if (e == ERR_OK) {
        struct wire w = { .rest = buf_span(&plain) };
        *empty_at = wire_get64(&w);
        ok = wire_end(&w);
    }
    r->forged = e == ERR_CORRUPT || (e == ERR_OK && !ok);
    buf_fini(&plain);
    return ok;
}

static enum err bucket_write(struct lane *l, const struct lane_request *r, uint64_t now,
                             uint64_t empty_at)
{
    char number[8];
    struct buf out;
    unsigned parts;
    const struct cache_server_item *seen = &r->looks[0];
    wire_put64(number, empty_at);
    buf_init(&out, sizeof number + SEAL_OVERHEAD + ITEM_HEAD_SIZE);
    CHECK(item_seal(l->seal, r->key, now, span_of(number, sizeof number), &out, &parts) == ERR_OK);
    enum err e =
        seen->value
            ? cache_server_cas(l->server, r->key, buf_span(&out), seconds(r->life_ms), seen->cas)
            : cache_server_add(l->server, r->key, buf_span(&out), seconds(r->life_ms));
    buf_fini(&out);
    return e;
}

/*
 * A race that is lost again and again is one with others who pour into the same bucket: it counts
 * as full, or they would all get in by coming at once.
 */
static void leak_step(struct lane *l, struct lane_request *r)
{
    if (own_item(r).type == ITEM_FOREIGN) {
        finish(l, r, ERR_NOTFOUND);
        return;
    }
    uint64_t now = unix_ms(), empty_at = now, full = now + r->burst * r->interval_ms;
    bool known = bucket_read(l, r, now, &empty_at);
    bool beyond = known && empty_at > full;
    empty_at = beyond ? full : empty_at < now ? now : empty_at;
    bool fits = empty_at + r->interval_ms <= full;
    if (!fits && !beyond) {
        finish(l, r, ERR_LIMIT);
        return;
    }
    enum err e = bucket_write(l, r, now, fits ? empty_at + r->interval_ms : empty_at);
    if (e == ERR_OK) {
        finish(l, r, fits ? ERR_OK : ERR_LIMIT);
    } else if (e == ERR_TEMP || e == ERR_LIMIT) {
        finish(l, r, e == ERR_TEMP ? ERR_TEMP : ERR_NOTFOUND);
    } else if (++r->tries < TRIES) {
        look_at_own(r);
    } else {
        finish(l, r, ERR_LIMIT);
    }
}

/* --- tombstones ------------------------------------------------------------------------------ */

static enum err set_tombstone(struct lane *l, const char *key, uint32_t life)
{
    char mark[ITEM_MARK_SIZE];
    return cache_server_set(l->server, key, item_mark(ITEM_TOMBSTONE, NULL, mark), life);
}

static void forget_oldest_retry(struct lane *l)
{
    struct list *link = list_pop(&l->retries);
    free(CONTAINER_OF(link, struct retry, link));
    l->retry_count--;
}

/* The oldest one has to go when there are too many: its list has the least of its life left. */
static void keep_for_retry(struct lane *l, const char *key, uint32_t life)
{
    if (l->retry_count == RETRIES_MAX) {
        forget_oldest_retry(l);
    }
    struct retry *y = NEW(struct retry);
    memcpy(y->key, key, sizeof y->key);
    y->life = life;
    y->until_ms = monotonic_ms() + l->retry_ms;
    list_add(&l->retries, &y->link);
    l->retry_count++;
}

static void retry_tombstones(struct lane *l)
{
    l->owing = false;
    while (!list_empty(&l->retries)) {
        struct retry *y = CONTAINER_OF(l->retries.next, struct retry, link);
        enum err e = y->until_ms > monotonic_ms() ? set_tombstone(l, y->key, y->life) : ERR_OK;
        if (e != ERR_OK) {
            l->owing = e == ERR_TEMP;
            return;
        }
        forget_oldest_retry(l);
    }
}

/* One second more: memcached's seconds begin anywhere, and this life may not be shorter. */
static void begin_tombstone(struct lane *l, struct lane_request *r)
{
    uint32_t life = seconds(r->life_ms) + 1;
    enum err e = set_tombstone(l, r->key, life);
    if (e != ERR_OK) {
        keep_for_retry(l, r->key, life);
        l->owing = l->owing || e == ERR_TEMP;
    }
    finish(l, r, e == ERR_OK ? ERR_OK : ERR_TEMP);
}

/* --- batches --------------------------------------------------------------------------------- */

/* What needs no look is done at once, in order; the others say what they want to see. */
static void begin(struct lane *l, struct lane_request *r)
{
    switch (r->verb) {
    case LANE_TOMBSTONE:
        begin_tombstone(l, r);
        break;
    case LANE_SET:
        finish(l, r, store(l, r, NULL));
        break;
    case LANE_COUNT:
        finish(l, r, count(l, r));
        break;
    case LANE_UNCOUNT:
        finish(l, r, uncount(l, r));
        break;
    case LANE_FIRST:
        finish(l, r, leave_mark(l, r));
        break;
    default:
        look_at_own(r);
    }
}

static void step(struct lane *l, struct lane_request *r)
{
    switch (r->verb) {
    case LANE_GET:
        get_step(l, r);
        break;
    case LANE_PUT:
        put_step(l, r);
        break;
    case LANE_CLAIM:
        claim_step(l, r);
        break;
    case LANE_DROP:
        drop_step(l, r);
        break;
    case LANE_READ:
        read_step(l, r);
        break;
    case LANE_LEAK:
        leak_step(l, r);
        break;
    case LANE_PROBE:
        finish(l, r, ERR_OK);
        break;
    default:
        UNREACHABLE();
    }
}

/* One multi-get of all that these requests want to see. */
static enum err look(struct lane *l, struct list *requests)
{
    struct cache_server_item *items[LOOKS_MAX];
    size_t n = 0;
    LIST_FOR (link, requests) {
        struct lane_request *r = CONTAINER_OF(link, struct lane_request, link);
        for (size_t i = 0; i < r->look_count; i++) {
            items[n++] = &r->looks[i];
        }
    }
    return cache_server_get(l->server, items, n);
}

/* Takes as many requests off the batch as one multi-get has room for. */
static void take_round(struct list *batch, struct list *round)
{
    size_t n = 0;
    LIST_FOR_SAFE (link, batch) {
        n += CONTAINER_OF(link, struct lane_request, link)->look_count;
        if (n > LOOKS_MAX) {
            break;
        }
        list_del(link);
        list_add(round, link);
    }
}

/* Those that want to see more go back to the batch. */
static void run_round(struct lane *l, struct list *batch)
{
    struct list round;
    list_init(&round);
    take_round(batch, &round);
    enum err e = l->owing ? ERR_TEMP : look(l, &round);
    LIST_FOR_SAFE (link, &round) {
        struct lane_request *r = CONTAINER_OF(link, struct lane_request, link);
        list_del(link);
        list_add(batch, link);
        if (e == ERR_OK) {
            step(l, r);
        } else {
            finish(l, r, e);
        }
    }
}

static void run_batch(struct lane *l, struct list *batch)
{
    retry_tombstones(l);
    LIST_FOR_SAFE (link, batch) {
        begin(l, CONTAINER_OF(link, struct lane_request, link));
    }
    while (!list_empty(batch)) {
        run_round(l, batch);
    }
}

/* --- the thread ------------------------------------------------------------------------------ */

/* Waits for work; with tombstones to set, no longer than until the server may be tried again. */
static void wait_for_work(struct lane *l)
{
    if (list_empty(&l->retries)) {
        uv_cond_wait(&l->work, &l->mutex);
        return;
    }
    uint64_t pause = cache_server_pause(l->server);
    uv_cond_timedwait(&l->work, &l->mutex, (pause ? pause : RETRY_PAUSE_MS) * 1000000);
}

static void take_batch(struct lane *l, struct list *batch)
{
    for (size_t n = 0; n < BATCH_MAX && !list_empty(&l->queue); n++) {
        struct lane_request *r = CONTAINER_OF(list_pop(&l->queue), struct lane_request, link);
        l->queued--;
        l->queued_bytes -= buf_len(&r->value);
        list_add(batch, &r->link);
    }
}

static void thread_main(void *arg)
{
    struct lane *l = arg;
    uv_mutex_lock(&l->mutex);
    while (!l->stopped || !list_empty(&l->queue)) {
        struct list batch;
        list_init(&batch);
        if (list_empty(&l->queue)) {
            wait_for_work(l);
        }
        take_batch(l, &batch);
        uv_mutex_unlock(&l->mutex);
        run_batch(l, &batch);
        uv_mutex_lock(&l->mutex);
    }
    uv_mutex_unlock(&l->mutex);
}

/* Signals are the loop's: a thread that took one would interrupt its call. */
static void start_thread(struct lane *l)
{
    sigset_t all, before;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    CHECK(uv_thread_create(&l->thread, thread_main, l) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

struct lane *lane_open(struct loop *loop, const struct lane_options *o)
{
    struct lane *l = NEW(struct lane);
    l->loop = loop;
    l->seal = o->seal;
    l->server = cache_server_open(o->server, o->timeout_ms);
    l->retry_ms = o->retry_ms;
    list_init(&l->retries);
    list_init(&l->queue);
    CHECK(uv_mutex_init(&l->mutex) == 0);
    CHECK(uv_cond_init(&l->work) == 0);
    start_thread(l);
    return l;
}

void lane_stop(struct lane *l)
{
    uv_mutex_lock(&l->mutex);
    l->stopped = true;
    uv_cond_signal(&l->work);
    uv_mutex_unlock(&l->mutex);
}

void lane_close(struct lane **lp)
{
    struct lane *l = *lp;
    *lp = NULL;
    lane_stop(l);
    CHECK(uv_thread_join(&l->thread) == 0);
    while (!list_empty(&l->retries)) {
        forget_oldest_retry(l);
    }
    cache_server_close(&l->server);
    uv_cond_destroy(&l->work);
    uv_mutex_destroy(&l->mutex);
    free(l);
}

bool lane_submit(struct lane *l, struct lane_request *r)
{
    size_t bytes = buf_len(&r->value);
    uv_mutex_lock(&l->mutex);
    bool taken = l->queued < QUEUE_MAX && bytes <= QUEUE_BYTES_MAX - l->queued_bytes;
    if (taken) {
        list_add(&l->queue, &r->link);
        l->queued++;
        l->queued_bytes += bytes;
        uv_cond_signal(&l->work);
    }
    uv_mutex_unlock(&l->mutex);
    return taken;
}
