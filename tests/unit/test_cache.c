/*
 * cache: the protocol against real memcached servers, which are started here on free ports, killed,
 * frozen and emptied. Two caches over the same servers are two nodes of a fleet.
 */
#include "store/cache.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/stats.h"
#include "memcached_fixture.h"
#include "store/cache_item.h"
#include "store/listing.h"

#define TIMEOUT_MS 1000
/* How long a condition may take to come true: less than a lease lives that nobody gives back. */
#define PATIENCE_MS 25000
#define RENEWAL_MS  12000 /* a lease is renewed by then */

static const uint8_t KEY[32] = "0123456789abcdef0123456789abcdef";

/* --- nodes ----------------------------------------------------------------------------------- */

#define PEERS 2

struct fixture {
    struct loop *loop;
    uv_timer_t patience;
    struct seal *seal;
    struct peer peers[PEERS];
    struct config_list servers;
    const char *names[PEERS];
    struct cache *a, *b; /* two nodes */
    memcached_st *raw;   /* what a server's owner can do */
};

static void on_patience(uv_timer_t *t)
{
    (void)t;
    CHECK(!"a call was never answered");
}

static struct cache *open_node_with(struct fixture *f, uint64_t timeout_ms, uint64_t tombstone_ms)
{
    return cache_open(f->loop, &(struct cache_options){ .servers = &f->servers,
                                                        .timeout_ms = timeout_ms,
                                                        .list_ttl_ms = 300000,
                                                        .account_ttl_ms = 300000,
                                                        .tombstone_ttl_ms = tombstone_ms,
                                                        .seal = f->seal });
}

static struct cache *open_node(struct fixture *f)
{
    return open_node_with(f, TIMEOUT_MS, 20000);
}

static struct fixture *open_fixture(size_t peers)
{
    struct fixture *f = NEW(struct fixture);
    f->loop = loop_open();
    f->seal = seal_new(KEY);
    uv_timer_init(loop_uv(f->loop), &f->patience);
    for (size_t i = 0; i < peers; i++) {
        memcached_open(&f->peers[i]);
        f->names[i] = f->peers[i].name;
    }
    f->servers = (struct config_list){ .n = peers, .v = f->names };
    f->a = open_node(f);
    f->b = open_node(f);
    f->raw = memcached_raw(&f->peers[0]);
    return f;
}

static int setup(void **state)
{
    *state = open_fixture(1);
    return 0;
}

static int setup_two(void **state)
{
    *state = open_fixture(2);
    return 0;
}

static int setup_none(void **state)
{
    *state = open_fixture(0);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < PEERS; i++) {
        if (f->peers[i].pid > 0) {
            kill(f->peers[i].pid, SIGCONT);
        }
    }
    cache_close(&f->a);
    cache_close(&f->b);
    uv_close((uv_handle_t *)&f->patience, NULL);
    loop_close(&f->loop);
    memcached_free(f->raw);
    seal_free(&f->seal);
    for (size_t i = 0; i < PEERS; i++) {
        peer_kill(&f->peers[i]);
    }
    free(f);
    return 0;
}

/* --- calls that are waited for --------------------------------------------------------------- */

struct result {
    struct fixture *f;
    bool done;
    unsigned order; /* of completion */
    enum err err;
    bool hit, aged;
    char *value;
    size_t size;
    struct cache_fill fill;
    struct lease *lease;
};

static unsigned completions;

static void complete(struct result *r)
{
    assert_false(r->done);
    r->done = true;
    r->order = ++completions;
    loop_stop(r->f->loop);
}

static void await(struct result *r)
{
    while (!r->done) {
        uv_timer_start(&r->f->patience, on_patience, PATIENCE_MS, 0);
        loop_run(r->f->loop);
    }
    uv_timer_stop(&r->f->patience);
}

static void on_turn(uv_timer_t *t)
{
    uv_stop(t->loop);
}

/* Lets the loop run for a moment; conditions are polled with it. */
static void turn(struct fixture *f)
{
    uv_timer_start(&f->patience, on_turn, 5, 0);
    loop_run(f->loop);
    uv_timer_stop(&f->patience);
}

#define WAIT_UNTIL(f, cond)                                                                        \
    do {                                                                                           \
        for (uint64_t until_ = now_ms() + PATIENCE_MS; !(cond); turn(f)) {                         \
            assert_true(now_ms() < until_);                                                        \
        }                                                                                          \
    } while (0)

static void on_get(void *arg, const struct cache_reply *reply)
{
    struct result *r = arg;
    r->hit = reply->hit;
    r->aged = reply->aged;
    r->fill = reply->fill;
    if (reply->hit) {
        r->value = span_dup(reply->value);
        r->size = reply->value.n;
    }
    complete(r);
}

static struct cache_key list_of(uint64_t mailbox_id)
{
    return (struct cache_key){ .kind = CACHE_LIST, .mailbox_id = mailbox_id };
}

static struct result get(struct fixture *f, struct cache *c, struct cache_key k)
{
    struct result r = { .f = f };
    cache_get(c, &k, on_get, &r);
    assert_false(r.done);
    await(&r);
    return r;
}

static bool hits(struct fixture *f, struct cache *c, struct cache_key k, struct span want)
{
    struct result r = get(f, c, k);
    bool same = r.hit && span_eq(span_of(r.value, r.size), want);
    free(r.value);
    return same;
}

static bool misses(struct fixture *f, struct cache *c, struct cache_key k, bool allowed)
{
    struct result r = get(f, c, k);
    free(r.value);
    return !r.hit && r.fill.allowed == allowed;
}

/*
 * Everything that was given to the lanes before is done: a call that is answered has let all others
 * go on by one step at least.
 */
static void settle(struct fixture *f, struct cache *c)
{
    for (uint64_t id = 900000; id < 900020; id++) { /* keys of every server */
        char name[24];
        snprintf(name, sizeof name, "%llu", (unsigned long long)id);
        struct cache_key k = { .kind = CACHE_VERIFIED, .name = span_str(name) };
        free(get(f, c, k).value);
    }
}

/* A miss that may be filled, and its fill. */
static void fill(struct fixture *f, struct cache *c, struct cache_key k, struct span value)
{
    struct result r = get(f, c, k);
    assert_false(r.hit);
    assert_true(r.fill.allowed);
    cache_put(c, &k, &r.fill, value);
    settle(f, c);
}

static void on_done(void *arg, enum err e)
{
    struct result *r = arg;
    r->err = e;
    complete(r);
}

static enum err tombstone(struct fixture *f, struct cache *c, struct cache_key k)
{
    struct result r = { .f = f };
    cache_tombstone(c, &k, 1, on_done, &r);
    assert_false(r.done);
    await(&r);
    return r.err;
}

static void on_lease(void *arg, enum err e, struct lease *lease)
{
    struct result *r = arg;
    r->err = e;
    r->lease = lease;
    assert_true((e == ERR_OK) == (lease != NULL));
    complete(r);
}

static enum err take(struct fixture *f, struct cache *c, uint64_t mailbox_id, struct lease **lease)
{
    struct result r = { .f = f };
    cache_lease_take(c, mailbox_id, 0, on_lease, &r);
    assert_false(r.done);
    await(&r);
    *lease = r.lease;
    return r.err;
}

static enum err drop(struct fixture *f, struct cache *c, struct lease **lease)
{
    struct result r = { .f = f };
    cache_lease_drop(c, lease, on_done, &r);
    assert_null(*lease);
    assert_false(r.done);
    await(&r);
    return r.err;
}

static struct stats slot; /* what the process would share with its master */

static uint64_t count(enum stat_id s)
{
    return stats_get(&slot, s);
}

static bool health_is(const char *why)
{
    struct health_item items[HEALTH_MAX];
    size_t n = health_read(&slot, items);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(items[i].name, "cache") == 0) {
            return !items[i].required && strcmp(items[i].why, why) == 0;
        }
    }
    return false;
}

/* --- what a server's owner sees and does ----------------------------------------------------- */

static void key_of(char out[ITEM_KEY_SIZE], char letter, uint64_t id)
{
    snprintf(out, ITEM_KEY_SIZE, "mf:0:%c:%llu", letter, (unsigned long long)id);
}

/* Of what goes by a name: nobody else can tell, but it is made as this. */
static void named_key(struct fixture *f, char letter, struct span what, char out[ITEM_KEY_SIZE])
{
    uint8_t mac[SEAL_MAC_SIZE];
    int n = snprintf(out, ITEM_KEY_SIZE, "mf:0:%c:", letter);
    seal_mac(f->seal, "cache name", &what, 1, mac);
    for (size_t i = 0; i < 16; i++) {
        n += snprintf(out + n, ITEM_KEY_SIZE - (size_t)n, "%02x", mac[i]);
    }
}

static char *raw_get(memcached_st *mc, const char *key, size_t *size)
{
    uint32_t flags;
    memcached_return_t rc;
    return memcached_get(mc, key, strlen(key), size, &flags, &rc);
}

static void raw_set(memcached_st *mc, const char *key, struct span value, time_t life)
{
    assert_int_equal(memcached_set(mc, key, strlen(key), value.p, value.n, life, 0),
                     MEMCACHED_SUCCESS);
}

/* The first octet of what is there; 0: nothing. */
static char raw_mark(memcached_st *mc, const char *key)
{
    size_t size = 0;
    char *value = raw_get(mc, key, &size);
    char mark = size ? value[0] : '\0';
    free(value);
    return mark;
}

static uint64_t raw_cas(memcached_st *mc, const char *key)
{
    size_t size = strlen(key);
    memcached_return_t rc;
    uint64_t cas = 0;
    assert_int_equal(memcached_mget(mc, &key, &size, 1), MEMCACHED_SUCCESS);
    for (memcached_result_st *r; (r = memcached_fetch_result(mc, NULL, &rc));) {
        cas = memcached_result_cas(r);
        memcached_result_free(r);
    }
    return cas;
}

static void copy_item(memcached_st *mc, const char *from, const char *to)
{
    size_t size;
    char *value = raw_get(mc, from, &size);
    assert_non_null(value);
    raw_set(mc, to, span_of(value, size), 60);
    free(value);
}

/* --- reading and filling --------------------------------------------------------------------- */

static void test_fill_and_hit(void **state)
{
    struct fixture *f = *state;
    struct cache_key account = { .kind = CACHE_ADDRESS, .address = SPAN("joe@example.org") };
    struct cache_key other = { .kind = CACHE_ADDRESS, .address = SPAN("jo@example.org") };
    fill(f, f->a, list_of(7), SPAN("a list"));
    fill(f, f->a, account, SPAN("an account"));
    fill(f, f->a, other, SPAN(""));
    for (int i = 0; i < 2; i++) {
        assert_true(hits(f, i ? f->b : f->a, list_of(7), SPAN("a list")));
        assert_true(hits(f, i ? f->b : f->a, account, SPAN("an account")));
        assert_true(hits(f, i ? f->b : f->a, other, SPAN("")));
    }
    assert_true(misses(f, f->b, list_of(8), true));
}

static void test_verified(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = { .kind = CACHE_VERIFIED, .name = SPAN("joe@example.org") };
    struct cache_key known = { .kind = CACHE_KNOWN, .name = k.name };
    assert_true(misses(f, f->a, k, false));
    cache_set(f->a, &k, SPAN("first"));
    cache_set(f->a, &k, SPAN("second"));
    settle(f, f->a);
    assert_true(hits(f, f->b, k, SPAN("second")));
    assert_true(misses(f, f->b, known, false));
    assert_int_equal(tombstone(f, f->b, k), ERR_OK);
    assert_true(misses(f, f->a, k, false));
}

/* Only one node fills, and the other one reads what it has filled. */
static void test_others_placeholder(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    struct result r = get(f, f->a, k);
    assert_true(r.fill.allowed);
    assert_true(misses(f, f->b, k, false));
    assert_true(misses(f, f->a, k, false));
    cache_put(f->a, &k, &r.fill, SPAN("list"));
    settle(f, f->a);
    assert_true(hits(f, f->b, k, SPAN("list")));
}

/* Twice the same key in one multi-get. */
static void test_same_key_twice(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    fill(f, f->a, k, SPAN("list"));
    struct result r[10] = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i].f = f;
        cache_get(f->a, &k, on_get, &r[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        await(&r[i]);
        assert_true(r[i].hit);
        assert_true(span_eq(span_of(r[i].value, r[i].size), SPAN("list")));
        free(r[i].value);
    }
}

/* A write between the placeholder and the fill: what was read before it is not stored. */
static void test_lost_fill(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    struct result r = get(f, f->a, k);
    assert_true(r.fill.allowed);
    assert_int_equal(tombstone(f, f->b, k), ERR_OK);
    cache_put(f->a, &k, &r.fill, SPAN("old list"));
    settle(f, f->a);
    assert_true(misses(f, f->a, k, false));
    assert_true(misses(f, f->b, k, false));
}

/* The same, and the tombstone is evicted and another reader's placeholder stands there. */
static void test_lost_fill_to_another(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    char key[ITEM_KEY_SIZE];
    key_of(key, 'l', 1);
    struct result r = get(f, f->a, k);
    assert_int_equal(tombstone(f, f->b, k), ERR_OK);
    memcached_delete(f->raw, key, strlen(key), 0);
    struct result s = get(f, f->b, k);
    assert_true(s.fill.allowed);
    cache_put(f->a, &k, &r.fill, SPAN("old list"));
    settle(f, f->a);
    assert_int_equal(raw_mark(f->raw, key), 'P');
    cache_put(f->b, &k, &s.fill, SPAN("new list"));
    settle(f, f->b);
    assert_true(hits(f, f->a, k, SPAN("new list")));
}

static void test_not_allowed_is_not_stored(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    struct cache_fill none = { .allowed = false };
    cache_put(f->a, &k, &none, SPAN("list"));
    settle(f, f->a);
    assert_true(misses(f, f->a, k, true));
}

/* --- tombstones ------------------------------------------------------------------------------ */

static void test_tombstone(void **state)
{
    struct fixture *f = *state;
    fill(f, f->a, list_of(1), SPAN("list 1"));
    fill(f, f->a, list_of(2), SPAN("list 2"));
    fill(f, f->a, list_of(3), SPAN("list 3"));
    struct cache_key keys[] = { list_of(1), list_of(2) };
    struct result r = { .f = f };
    cache_tombstone(f->b, keys, 2, on_done, &r);
    await(&r);
    assert_int_equal(r.err, ERR_OK);
    assert_true(misses(f, f->a, list_of(1), false));
    assert_true(misses(f, f->a, list_of(2), false));
    assert_true(hits(f, f->a, list_of(3), SPAN("list 3")));
}

static void test_tombstone_of_none(void **state)
{
    struct fixture *f = *state;
    struct result r = { .f = f };
    cache_tombstone(f->a, NULL, 0, on_done, &r);
    assert_false(r.done);
    await(&r);
    assert_int_equal(r.err, ERR_OK);
}

/* It ends by itself, and the list may be filled again. */
static void test_tombstone_expires(void **state)
{
    struct fixture *f = *state;
    struct cache *c = open_node_with(f, TIMEOUT_MS, 1000);
    char key[ITEM_KEY_SIZE];
    key_of(key, 'l', 1);
    assert_int_equal(tombstone(f, c, list_of(1)), ERR_OK);
    assert_int_equal(raw_mark(f->raw, key), 'T');
    WAIT_UNTIL(f, raw_mark(f->raw, key) == '\0');
    fill(f, f->a, list_of(1), SPAN("list"));
    cache_close(&c);
}

/* --- long lists ------------------------------------------------------------------------------ */

static struct maildrop *long_maildrop(size_t n)
{
    struct maildrop *m = maildrop_new(5, 1);
    for (size_t i = 0; i < n; i++) {
        struct pointer p = { .seq = i + 1, .size = 1000, .skip = 200, .volume = 1 };
        memcpy(p.id.b, &i, sizeof i);
        maildrop_add(m, &p, SPAN(""), SPAN(""));
    }
    return m;
}

static void long_value(struct buf *out)
{
    struct maildrop *m = long_maildrop(100000);
    buf_init(out, 16 << 20);
    assert_int_equal(listing_encode(m, out), ERR_OK);
    maildrop_free(&m);
}

/* The key of part i of what is stored under a list's key. */
static unsigned part_key(struct fixture *f, uint64_t mailbox_id, unsigned i,
                         char out[ITEM_KEY_SIZE])
{
    char key[ITEM_KEY_SIZE];
    size_t size;
    key_of(key, 'l', mailbox_id);
    char *value = raw_get(f->raw, key, &size);
    struct item it = item_parse(span_of(value, size));
    assert_int_equal(it.type, ITEM_VALUE);
    item_part_key(it.generation, i, out);
    free(value);
    return it.parts;
}

static void test_split(void **state)
{
    struct fixture *f = *state;
    struct buf value;
    char key[ITEM_KEY_SIZE];
    long_value(&value);
    fill(f, f->a, list_of(5), buf_span(&value));
    assert_int_equal(part_key(f, 5, 0, key), 3);
    struct result r = get(f, f->b, list_of(5));
    assert_true(r.hit);
    assert_true(span_eq(span_of(r.value, r.size), buf_span(&value)));
    struct maildrop *m = NULL;
    struct buf octets = { .mem = r.value, .tail = r.size, .size = r.size, .limit = r.size };
    assert_int_equal(listing_decode(&octets, &m), ERR_OK);
    assert_int_equal(m->count, 100000);
    maildrop_free(&m);
    buf_fini(&value);
}

/* Nearly as many at once as there is room for. */
static void test_split_many(void **state)
{
    struct fixture *f = *state;
    struct buf value;
    struct result r[15] = { 0 };
    struct cache_key k = list_of(5);
    long_value(&value);
    fill(f, f->a, k, buf_span(&value));
    struct cache *c = open_node_with(f, PATIENCE_MS, 20000);
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i].f = f;
        cache_get(c, &k, on_get, &r[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        await(&r[i]);
        assert_true(r[i].hit);
        assert_int_equal(r[i].size, buf_len(&value));
        free(r[i].value);
    }
    cache_close(&c);
    buf_fini(&value);
}

static void test_split_part_missing(void **state)
{
    struct fixture *f = *state;
    struct buf value;
    char key[ITEM_KEY_SIZE];
    uint64_t forged = count(STAT_cache_forged);
    long_value(&value);
    fill(f, f->a, list_of(5), buf_span(&value));
    part_key(f, 5, 2, key);
    assert_int_equal(memcached_delete(f->raw, key, strlen(key), 0), MEMCACHED_SUCCESS);
    fill(f, f->b, list_of(5), buf_span(&value)); /* a miss, which may be filled */
    assert_true(hits(f, f->a, list_of(5), buf_span(&value)));
    assert_int_equal(count(STAT_cache_forged), forged);
    buf_fini(&value);
}

/* Parts of two generations of one list, and parts of one in the wrong order. */
static void test_split_mixed(void **state)
{
    struct fixture *f = *state;
    struct buf value;
    char old[ITEM_KEY_SIZE], part[ITEM_KEY_SIZE], next[ITEM_KEY_SIZE];
    uint64_t forged = count(STAT_cache_forged);
    long_value(&value);
    fill(f, f->a, list_of(5), buf_span(&value));
    part_key(f, 5, 1, old);
    char key[ITEM_KEY_SIZE];
    key_of(key, 'l', 5);
    memcached_delete(f->raw, key, strlen(key), 0);
    fill(f, f->a, list_of(5), buf_span(&value));
    part_key(f, 5, 1, part);
    assert_string_not_equal(old, part);
    copy_item(f->raw, old, part);
    fill(f, f->a, list_of(5), buf_span(&value));
    assert_int_equal(count(STAT_cache_forged), forged + 1);
    part_key(f, 5, 1, part);
    part_key(f, 5, 2, next);
    copy_item(f->raw, next, part);
    assert_true(misses(f, f->a, list_of(5), true));
    assert_int_equal(count(STAT_cache_forged), forged + 2);
    buf_fini(&value);
}

static void forge_long_list(struct fixture *f, uint64_t mailbox_id)
{
    char key[ITEM_KEY_SIZE], head[ITEM_HEAD_SIZE] = { 'V', 1, ITEM_PARTS_MAX };
    key_of(key, 'l', mailbox_id);
    raw_set(f->raw, key, span_of(head, sizeof head), 60);
}

/* Heads are easily forged: they make no node gather more than a bounded amount at once. */
static void test_split_bound(void **state)
{
    struct fixture *f = *state;
    struct result r[2] = { { .f = f }, { .f = f } };
    forge_long_list(f, 1);
    forge_long_list(f, 2);
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        struct cache_key k = list_of(i + 1);
        cache_get(f->a, &k, on_get, &r[i]);
    }
    await(&r[0]);
    await(&r[1]);
    assert_true(!r[0].hit && r[0].fill.allowed);
    assert_true(!r[1].hit && !r[1].fill.allowed);
    assert_true(misses(f, f->a, list_of(2), true)); /* there is room again */
}

/*
 * A tombstone is refused while an answer is late, and a fill is under way: its list, read before
 * the commit, is never to be seen.
 */
static void test_split_behind_tombstone(void **state)
{
    struct fixture *f = *state;
    struct buf value;
    struct cache_key k = list_of(5);
    char key[ITEM_KEY_SIZE], mark = 'P';
    key_of(key, 'l', 5);
    long_value(&value);
    struct cache *c = open_node_with(f, 100, 20000);
    struct result r = get(f, c, k);
    assert_true(r.fill.allowed);
    peer_freeze(&f->peers[0]);
    cache_put(c, &k, &r.fill, buf_span(&value));
    for (uint64_t until = now_ms() + 400; now_ms() < until;) {
        turn(f);
    }
    assert_int_equal(tombstone(f, c, k), ERR_TEMP);
    kill(f->peers[0].pid, SIGCONT);
    WAIT_UNTIL(f, (mark = raw_mark(f->raw, key)) != 'P');
    assert_int_equal(mark, 'T');
    cache_close(&c);
    buf_fini(&value);
}

/* A long list that is no longer wanted leaves no parts behind. */
static void test_split_lost_fill(void **state)
{
    struct fixture *f = *state;
    struct buf value;
    struct cache_key k = list_of(5);
    long_value(&value);
    struct result r = get(f, f->a, k);
    tombstone(f, f->b, k);
    cache_put(f->a, &k, &r.fill, buf_span(&value));
    settle(f, f->a);
    assert_true(misses(f, f->b, k, false));
    buf_fini(&value);
}

/* More than fits into all the parts there may be: not cached, and no harm. */
static void test_too_long(void **state)
{
    struct fixture *f = *state;
    size_t n = (size_t)ITEM_PARTS_MAX * ITEM_MAX;
    char *huge = NEW_ARRAY(char, n);
    struct cache_key k = list_of(5);
    char key[ITEM_KEY_SIZE];
    key_of(key, 'l', 5);
    struct result r = get(f, f->a, k);
    cache_put(f->a, &k, &r.fill, span_of(huge, n));
    settle(f, f->a);
    assert_int_equal(raw_mark(f->raw, key), 'P');
    free(huge);
}

/* --- forged, damaged and replayed items ------------------------------------------------------ */

/* What was put there counts as forged, and its place is filled again. */
static void assert_forged(struct fixture *f, uint64_t mailbox_id)
{
    uint64_t forged = count(STAT_cache_forged);
    struct result r = get(f, f->a, list_of(mailbox_id));
    assert_false(r.hit);
    assert_true(r.fill.allowed);
    assert_int_equal(count(STAT_cache_forged), forged + 1);
    struct cache_key k = list_of(mailbox_id);
    cache_put(f->a, &k, &r.fill, SPAN("the list"));
    settle(f, f->a);
    assert_true(hits(f, f->b, list_of(mailbox_id), SPAN("the list")));
}

static void test_forged(void **state)
{
    struct fixture *f = *state;
    char key[ITEM_KEY_SIZE];
    static const char *const junk[] = { "", "V", "V\1", "x", "junk", "Pshort", "Tlong", "V\1\0" };
    key_of(key, 'l', 1);
    for (size_t i = 0; i < ARRAY_LEN(junk); i++) {
        raw_set(f->raw, key, span_str(junk[i]), 60);
        assert_forged(f, 1);
    }
}

static void test_damaged(void **state)
{
    struct fixture *f = *state;
    char key[ITEM_KEY_SIZE];
    size_t size;
    key_of(key, 'l', 1);
    fill(f, f->a, list_of(1), SPAN("the list"));
    char *value = raw_get(f->raw, key, &size);
    for (size_t i = 2; i < size; i++) { /* marker and format have tests of their own */
        value[i] ^= 1;
        raw_set(f->raw, key, span_of(value, size), 60);
        value[i] ^= 1;
        uint64_t forged = count(STAT_cache_forged);
        assert_true(misses(f, f->a, list_of(1), true));
        /* A changed number of parts sends the reader to look for parts that are not there. */
        assert_int_equal(count(STAT_cache_forged), forged + 1);
    }
    free(value);
}

static void test_copied(void **state)
{
    struct fixture *f = *state;
    char mine[ITEM_KEY_SIZE], yours[ITEM_KEY_SIZE], verified[ITEM_KEY_SIZE];
    key_of(mine, 'l', 1);
    key_of(yours, 'l', 2);
    named_key(f, 'v', SPAN("joe"), verified);
    fill(f, f->a, list_of(1), SPAN("my list"));
    copy_item(f->raw, mine, yours);
    assert_forged(f, 2);
    copy_item(f->raw, mine, verified);
    uint64_t forged = count(STAT_cache_forged);
    assert_true(
        misses(f, f->a, (struct cache_key){ .kind = CACHE_VERIFIED, .name = SPAN("joe") }, false));
    assert_int_equal(count(STAT_cache_forged), forged + 1);
}

/* Another release's format is neither used nor destroyed. */
static void test_foreign_format(void **state)
{
    struct fixture *f = *state;
    char key[ITEM_KEY_SIZE];
    uint64_t forged = count(STAT_cache_forged);
    key_of(key, 'l', 1);
    raw_set(f->raw, key, SPAN("V\xff whatever that is"), 60);
    assert_true(misses(f, f->a, list_of(1), false));
    assert_int_equal(count(STAT_cache_forged), forged);
    assert_int_equal(raw_mark(f->raw, key), 'V');
}

/* An old value that its server brings back: a miss as soon as its life is over. */
static void test_replayed(void **state)
{
    struct fixture *f = *state;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t now = (uint64_t)t.tv_sec * 1000, life = 300000, minute = 60000;
    const struct {
        uint64_t issued;
        bool hit;
    } cases[] = { { now, true },
                  { now - life + minute, true },
                  { now - life - minute, false },
                  { now + minute, false },
                  { 0, false },
                  { UINT64_MAX, false } };
    uint64_t forged = count(STAT_cache_forged);
    for (uint64_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf b;
        unsigned parts;
        char key[ITEM_KEY_SIZE];
        key_of(key, 'l', i);
        buf_init(&b, 1024);
        assert_int_equal(item_seal(f->seal, key, cases[i].issued, SPAN("old"), &b, &parts), ERR_OK);
        raw_set(f->raw, key, buf_span(&b), 0);
        if (cases[i].hit) {
            assert_true(hits(f, f->a, list_of(i), SPAN("old")));
        } else {
            fill(f, f->a, list_of(i), SPAN("new"));
            assert_true(hits(f, f->a, list_of(i), SPAN("new")));
        }
        buf_fini(&b);
    }
    assert_int_equal(count(STAT_cache_forged), forged);
}

/* All that a server's owner can read: no address, and no value, in keys or items. */
static void test_nothing_in_clear(void **state)
{
    struct fixture *f = *state;
    static char text[65536];
    struct cache_key k = { .kind = CACHE_ADDRESS, .address = SPAN("joe blow\r\n@example.org") };
    fill(f, f->a, k, SPAN("confidential"));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = address(f->peers[0].port);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    struct span ask = SPAN("lru_crawler metadump all\r\n");
    assert_int_equal(write(fd, ask.p, ask.n), ask.n);
    size_t n = 0;
    while (!memmem(text, n, "END\r\n", 5)) {
        ssize_t got = read(fd, text + n, sizeof text - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    close(fd);
    char *key = memmem(text, n, "mf%3A0%3Aa%3A", 13); /* metadump encodes the colons */
    assert_non_null(key);
    assert_null(memmem(text, n, "joe", 3));
    assert_null(memmem(text, n, "6a6f65", 6)); /* the same in hex */
    assert_null(memmem(text, n, "example", 7));
    assert_int_equal(strcspn(key + 13, " "), 32);
    size_t size;
    char name[ITEM_KEY_SIZE];
    snprintf(name, sizeof name, "mf:0:a:%.32s", key + 13);
    char *value = raw_get(f->raw, name, &size);
    assert_non_null(value);
    assert_null(memmem(value, size, "confidential", 12));
    free(value);
}

/* --- epochs ---------------------------------------------------------------------------------- */

static void test_epoch(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    fill(f, f->a, k, SPAN("list"));
    cache_set_epoch(f->a, 77);
    assert_int_equal(cache_epoch(f->a), 77);
    struct result r = get(f, f->a, k);
    assert_false(r.hit);
    assert_true(hits(f, f->b, k, SPAN("list")));
    cache_set_epoch(f->a, 78); /* between the read and the fill: it is of another time */
    cache_put(f->a, &k, &r.fill, SPAN("old list"));
    settle(f, f->a);
    assert_true(misses(f, f->a, k, true));
    cache_set_epoch(f->a, 77);
    assert_true(misses(f, f->a, k, false));
}

/* --- faults ---------------------------------------------------------------------------------- */

/* The server of this key does answer: a miss is none for want of it. */
static bool is_answered(struct fixture *f, struct cache *c)
{
    struct cache_key k = { .kind = CACHE_KNOWN, .name = SPAN("nobody") };
    uint64_t faults = count(STAT_cache_faults);
    free(get(f, c, k).value);
    return count(STAT_cache_faults) == faults;
}

/* Misses without a fill, until the server is there again; then as before, without a restart. */
static void test_server_killed(void **state)
{
    struct fixture *f = *state;
    char why[64];
    struct lease *lease;
    fill(f, f->a, list_of(1), SPAN("list"));
    WAIT_UNTIL(f, health_is(""));
    peer_kill(&f->peers[0]);
    uint64_t faults = count(STAT_cache_faults);
    assert_true(misses(f, f->a, list_of(1), false));
    assert_int_equal(tombstone(f, f->a, list_of(2)), ERR_TEMP);
    assert_int_equal(take(f, f->a, 1, &lease), ERR_TEMP);
    assert_in_range(count(STAT_cache_faults), faults + 3, faults + 10);
    snprintf(why, sizeof why, "%s does not answer", f->peers[0].name);
    assert_true(health_is(why));
    assert_true(memcached_start(&f->peers[0]));
    WAIT_UNTIL(f, health_is("")); /* seen without a call */
    WAIT_UNTIL(f, misses(f, f->a, list_of(1), true));
}

/*
 * Who could not set a tombstone while the server was away tries again at the end of its pause. A
 * server that comes back in the middle of it is not filled meanwhile, by nobody who has seen it go.
 */
static void test_owed_to_one_that_came_back(void **state)
{
    struct fixture *f = *state;
    char key[ITEM_KEY_SIZE];
    key_of(key, 'l', 1);
    fill(f, f->a, list_of(1), SPAN("old list"));
    fill(f, f->b, list_of(2), SPAN("list"));
    peer_kill(&f->peers[0]);
    uint64_t long_pause = now_ms() + 1700; /* the pauses before it take 1500 ms */
    while (now_ms() < long_pause) {
        assert_int_equal(tombstone(f, f->a, list_of(3)), ERR_TEMP);
        turn(f);
    }
    assert_true(memcached_start(&f->peers[0]));
    WAIT_UNTIL(f, is_answered(f, f->b));
    assert_int_equal(tombstone(f, f->a, list_of(1)), ERR_TEMP);
    assert_true(misses(f, f->b, list_of(1), false));
    memcached_st *raw = memcached_raw(&f->peers[0]);
    WAIT_UNTIL(f, raw_mark(raw, key) == 'T');
    WAIT_UNTIL(f, misses(f, f->b, list_of(2), true));
    assert_true(misses(f, f->b, list_of(1), false));
    memcached_free(raw);
}

/* It is the loop that is late, not the server: its answer counts. */
static void test_late_loop(void **state)
{
    struct fixture *f = *state;
    struct cache *c = open_node_with(f, 300, 20000);
    struct cache_key k = list_of(1);
    struct result r = { .f = f };
    fill(f, c, k, SPAN("list"));
    cache_get(c, &k, on_get, &r);
    uv_run(loop_uv(f->loop), UV_RUN_NOWAIT); /* it is asked */
    usleep(600000); /* the loop does something else, until after the deadline */
    await(&r);
    assert_true(r.hit);
    free(r.value);
    assert_true(health_is(""));
    cache_close(&c);
}

/* A turn that is too long by itself does not use up the time of what it asks. */
static void test_long_turn(void **state)
{
    struct fixture *f = *state;
    struct cache *c = open_node_with(f, 300, 20000);
    struct cache_key k = list_of(1);
    struct result r = { .f = f };
    fill(f, c, k, SPAN("list"));
    cache_get(c, &k, on_get, &r);
    usleep(600000);
    await(&r);
    assert_true(r.hit);
    free(r.value);
    assert_true(health_is(""));
    cache_close(&c);
}

/* What was promised by a server's placeholder is gone with it. */
static void test_restarted_empty(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    struct result r = get(f, f->a, k);
    assert_true(r.fill.allowed);
    peer_kill(&f->peers[0]);
    assert_true(memcached_start(&f->peers[0]));
    cache_put(f->a, &k, &r.fill, SPAN("list"));
    settle(f, f->a);
    WAIT_UNTIL(f, misses(f, f->b, k, true));
}

/*
 * A server that was started anew counts anew: what has the number that our placeholder had is not
 * our placeholder.
 */
static void test_number_of_another_life(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    char key[ITEM_KEY_SIZE];
    key_of(key, 'l', 1);
    struct result r = get(f, f->a, k);
    assert_true(r.fill.allowed);
    uint64_t number = raw_cas(f->raw, key);
    peer_kill(&f->peers[0]);
    assert_true(memcached_start(&f->peers[0]));
    WAIT_UNTIL(f, is_answered(f, f->a)); /* by another connection, and it took no number */
    memcached_st *raw = memcached_raw(&f->peers[0]);
    do {
        raw_set(raw, key, SPAN("T"), 60);
    } while (raw_cas(raw, key) < number);
    assert_int_equal(raw_cas(raw, key), number);
    cache_put(f->a, &k, &r.fill, SPAN("old list"));
    settle(f, f->a);
    assert_int_equal(raw_mark(raw, key), 'T');
    memcached_free(raw);
}

/* The connection is another one by now, but the placeholder is the very one. */
static void test_fill_by_another_connection(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = list_of(1);
    struct result r = get(f, f->a, k);
    assert_true(r.fill.allowed);
    r.fill.seen.connection++;
    cache_put(f->a, &k, &r.fill, SPAN("list"));
    settle(f, f->a);
    assert_true(hits(f, f->b, k, SPAN("list")));
}

/* A tombstone that could not be set is set when the server is back, without a further call. */
static void test_tombstone_retried(void **state)
{
    struct fixture *f = *state;
    char one[ITEM_KEY_SIZE], two[ITEM_KEY_SIZE];
    key_of(one, 'l', 1);
    key_of(two, 'l', 2);
    fill(f, f->a, list_of(1), SPAN("old list"));
    peer_freeze(&f->peers[0]);
    assert_true(misses(f, f->a, list_of(3), false)); /* the breaker opens */
    assert_int_equal(tombstone(f, f->a, list_of(1)), ERR_TEMP);
    assert_int_equal(tombstone(f, f->a, list_of(2)), ERR_TEMP);
    kill(f->peers[0].pid, SIGCONT);
    WAIT_UNTIL(f, raw_mark(f->raw, one) == 'T' && raw_mark(f->raw, two) == 'T');
    assert_true(misses(f, f->b, list_of(1), false));
}

/* This node never reads a list that it has made old itself, though its tombstone was not set. */
static void test_own_tombstone_first(void **state)
{
    struct fixture *f = *state;
    fill(f, f->a, list_of(1), SPAN("old list"));
    peer_freeze(&f->peers[0]);
    /* The breaker opens, so that no tombstone waits in the server's own queue. */
    assert_true(misses(f, f->a, list_of(2), false));
    assert_int_equal(tombstone(f, f->a, list_of(1)), ERR_TEMP);
    kill(f->peers[0].pid, SIGCONT);
    uint64_t faults = 0;
    do { /* so many that the lane is never idle: one of them is there when the breaker closes */
        struct result r[15] = { 0 };
        struct cache_key k = list_of(1);
        faults = count(STAT_cache_faults);
        for (size_t i = 0; i < ARRAY_LEN(r); i++) {
            r[i].f = f;
            cache_get(f->a, &k, on_get, &r[i]);
        }
        for (size_t i = 0; i < ARRAY_LEN(r); i++) {
            await(&r[i]);
            assert_false(r[i].hit);
            assert_false(r[i].fill.allowed);
        }
    } while (count(STAT_cache_faults) != faults);
}

/* A mailbox whose list is on a server; a new one each time. */
static uint64_t mailbox_on(struct fixture *f, size_t peer)
{
    static uint64_t id = 1000;
    memcached_st *mc = memcached_raw(&f->peers[peer]);
    char key[ITEM_KEY_SIZE];
    do {
        key_of(key, 'l', ++id);
        assert_int_equal(tombstone(f, f->a, list_of(id)), ERR_OK);
    } while (raw_mark(mc, key) != 'T');
    memcached_delete(mc, key, strlen(key), 0);
    memcached_free(mc);
    return id;
}

/* What a server never heard of is not given back to it. */
static void test_claims_refused(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    peer_kill(&f->peers[0]);
    for (uint64_t id = 1; id <= 50; id++) {
        assert_int_equal(take(f, f->a, id, &lease), ERR_TEMP);
    }
    assert_true(memcached_start(&f->peers[0]));
    WAIT_UNTIL(f, take(f, f->a, 100, &lease) == ERR_OK);
    uint64_t until = now_ms() + 2500; /* it would be given back once a second */
    WAIT_UNTIL(f, now_ms() > until);
    memcached_stat_st stat;
    assert_int_equal(memcached_stat_servername(&stat, NULL, "127.0.0.1", f->peers[0].port),
                     MEMCACHED_SUCCESS);
    assert_in_range(stat.cmd_get, 0, 25);
    assert_int_equal(drop(f, f->a, &lease), ERR_OK);
}

/* A frozen server delays neither the other nor, after its first time-out, its own callers. */
static void test_frozen(void **state)
{
    struct fixture *f = *state;
    struct cache_key cold = list_of(mailbox_on(f, 0)), warm = list_of(mailbox_on(f, 1));
    fill(f, f->a, cold, SPAN("cold"));
    fill(f, f->a, warm, SPAN("warm"));
    peer_freeze(&f->peers[0]);
    struct result first = { .f = f }, second = { .f = f };
    cache_get(f->a, &cold, on_get, &first);
    cache_get(f->a, &warm, on_get, &second);
    await(&first);
    await(&second);
    assert_true(second.order < first.order);
    assert_true(second.hit && !first.hit && !first.fill.allowed);
    free(second.value);
    /* Two hundred time-outs would take 200 seconds. */
    uint64_t begun = now_ms();
    for (int i = 0; i < 200; i++) {
        assert_true(misses(f, f->a, cold, false));
        assert_true(hits(f, f->a, warm, SPAN("warm")));
    }
    assert_true(now_ms() - begun < 100 * TIMEOUT_MS);
    kill(f->peers[0].pid, SIGCONT);
    WAIT_UNTIL(f, hits(f, f->a, cold, SPAN("cold")));
}

/* The keys of a dead server are misses; those of the other stay where they are. */
static void test_no_ejection(void **state)
{
    struct fixture *f = *state;
    struct cache_key lost[10], kept[10];
    for (size_t i = 0; i < 10; i++) {
        lost[i] = list_of(mailbox_on(f, 0));
        kept[i] = list_of(mailbox_on(f, 1));
        fill(f, f->a, lost[i], SPAN("lost"));
        fill(f, f->a, kept[i], SPAN("kept"));
    }
    peer_kill(&f->peers[0]);
    for (size_t i = 0; i < 10; i++) {
        assert_true(misses(f, f->a, lost[i], false));
        assert_true(hits(f, f->a, kept[i], SPAN("kept")));
    }
    peer_kill(&f->peers[1]);
    assert_true(misses(f, f->a, kept[0], false));
    assert_true(health_is("2 of 2 servers do not answer"));
}

static void test_no_servers(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    struct cache_key k = { .kind = CACHE_VERIFIED, .name = SPAN("joe") };
    uint64_t faults = count(STAT_cache_faults);
    assert_true(misses(f, f->a, list_of(1), false));
    assert_int_equal(tombstone(f, f->a, list_of(1)), ERR_OK);
    assert_int_equal(take(f, f->a, 1, &lease), ERR_TEMP);
    assert_null(cache_lease_drop(f->a, &lease, NULL, NULL));
    cache_set(f->a, &k, SPAN("value"));
    assert_true(misses(f, f->a, k, false));
    assert_int_equal(count(STAT_cache_faults), faults);
    assert_true(health_is(""));
}

/* A node whose only server is the first peer. */
static struct cache *open_node_of_first(struct fixture *f, uint64_t timeout_ms)
{
    f->names[0] = f->peers[0].name;
    f->servers = (struct config_list){ .n = 1, .v = f->names };
    return open_node_with(f, timeout_ms, 20000);
}

static void test_bad_name(void **state)
{
    struct fixture *f = *state;
    snprintf(f->peers[0].name, sizeof f->peers[0].name, "127.0.0.1:port");
    struct cache *c = open_node_of_first(f, TIMEOUT_MS);
    assert_true(misses(f, c, list_of(1), false));
    WAIT_UNTIL(f, health_is("127.0.0.1:port does not answer"));
    cache_close(&c);
}

/* --- leases ---------------------------------------------------------------------------------- */

static void test_lease(void **state)
{
    struct fixture *f = *state;
    struct lease *mine, *yours, *other;
    assert_int_equal(take(f, f->a, 1, &mine), ERR_OK);
    assert_int_equal(take(f, f->b, 1, &yours), ERR_BUSY);
    assert_int_equal(take(f, f->a, 1, &yours), ERR_BUSY); /* the same node is no exception */
    assert_int_equal(take(f, f->b, 2, &other), ERR_OK);
    assert_int_equal(drop(f, f->a, &mine), ERR_OK);
    assert_int_equal(take(f, f->b, 1, &yours), ERR_OK); /* at once */
    assert_int_equal(take(f, f->a, 1, &mine), ERR_BUSY);
    cache_lease_drop(f->b, &yours, NULL, NULL);
    assert_null(yours);
    WAIT_UNTIL(f, take(f, f->a, 1, &mine) == ERR_OK);
    assert_int_equal(drop(f, f->a, &mine), ERR_OK);
    assert_int_equal(drop(f, f->b, &other), ERR_OK);
}

/* Won by nobody who still wants it: given back by itself. */
static void test_lease_cancelled(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    struct result r = { .f = f };
    struct op *op = cache_lease_take(f->a, 1, 0, on_lease, &r);
    op_cancel(&op);
    assert_null(op);
    settle(f, f->a);
    assert_false(r.done);
    WAIT_UNTIL(f, take(f, f->b, 1, &lease) == ERR_OK);
    assert_int_equal(drop(f, f->b, &lease), ERR_OK);
}

/* Asks in each of some turns, and looks what its server has got by then. */
struct asker {
    struct cache *cache;
    struct loop *loop;
    int server;
    struct task task;
    unsigned turns;
    bool got[10];
};

static void on_any(void *arg, const struct cache_reply *reply)
{
    (void)arg, (void)reply;
}

static void on_ask(struct task *t)
{
    struct asker *k = CONTAINER_OF(t, struct asker, task);
    struct cache_key of = list_of(1);
    char octet;
    k->got[k->turns++] = recv(k->server, &octet, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
    cache_get(k->cache, &of, on_any, NULL);
    if (k->turns < ARRAY_LEN(k->got)) {
        loop_post(k->loop, &k->task);
    }
}

/* A question waits for those of the next turn, but not as long as there is always one. */
static void test_put_off(void **state)
{
    struct fixture *f = *state;
    char name[32], probe[4];
    uint16_t port;
    int listener = bind_any(&port);
    CHECK(listen(listener, 8) == 0);
    snprintf(name, sizeof name, "127.0.0.1:%u", port);
    f->names[0] = name;
    f->servers.n = 1;
    struct cache *c = open_node_with(f, PATIENCE_MS, 20000);
    struct asker k = { .cache = c, .loop = f->loop, .task.run = on_ask };
    struct pollfd asked = { .fd = listener, .events = POLLIN };
    WAIT_UNTIL(f, poll(&asked, 1, 0) == 1);
    k.server = accept(listener, NULL, NULL);
    WAIT_UNTIL(f, recv(k.server, probe, sizeof probe, MSG_DONTWAIT) == sizeof probe);
    assert_int_equal(write(k.server, "MN\r\n", 4), 4);
    turn(f);
    list_init(&k.task.link);
    loop_post(f->loop, &k.task);
    WAIT_UNTIL(f, k.turns == ARRAY_LEN(k.got));
    assert_false(k.got[1]);
    assert_true(k.got[ARRAY_LEN(k.got) - 1]);
    cache_close(&c);
    close(k.server);
    close(listener);
}

/* Passes one connection on to a real server, and each answer back after a delay. */
static void play_slow(int fd, uint16_t to, unsigned delay_ms)
{
    char bytes[4096];
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = address(to);
    CHECK(connect(server, (struct sockaddr *)&a, sizeof a) == 0);
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) {
        CHECK(write(server, bytes, (size_t)n) == n);
        usleep(delay_ms * 1000);
        n = recv(server, bytes, sizeof bytes, MSG_DONTWAIT); /* nothing yet: half a request */
        if (n > 0 && write(fd, bytes, (size_t)n) != n) {
            break;
        }
    }
    close(server);
}

static void slow_open(struct peer *p, uint16_t to, unsigned delay_ms)
{
    int fd = peer_listen(p);
    if (p->pid == 0) {
        for (int client; (client = accept(fd, NULL, NULL)) >= 0; close(client)) {
            play_slow(client, to, delay_ms);
        }
        _exit(0);
    }
    close(fd);
}

/*
 * Won after the deadline, when the session had gone on without. Each answer is within the server's
 * time, but all that the claim of a lease takes where somebody left junk are not within the call's;
 * a machine that stalls makes them time out too, and nothing is won then: once more.
 */
static void test_lease_late(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    char key[ITEM_KEY_SIZE], mark = '\0';
    key_of(key, 'k', 1);
    slow_open(&f->peers[1], f->peers[0].port, 600);
    f->names[0] = f->peers[1].name;
    struct cache *c = open_node_with(f, 1000, 20000);
    for (int i = 0; i < 10 && mark != 'L'; i++) {
        raw_set(f->raw, key, SPAN("junk"), 60);
        assert_int_equal(take(f, c, 1, &lease), ERR_TEMP);
        for (uint64_t until = now_ms() + 2000; mark != 'L' && now_ms() < until; turn(f)) {
            mark = raw_mark(f->raw, key);
        }
    }
    assert_int_equal(mark, 'L');
    WAIT_UNTIL(f, raw_mark(f->raw, key) != 'L');
    cache_close(&c);
}

/*
 * The connection is lost when a lease is given back, and with it whether that was done. Nobody
 * holds it then: it is given back as soon as the server answers, long before it would end.
 */
static void test_lease_uncertain(void **state)
{
    struct fixture *f = *state;
    struct lease *mine;
    char key[ITEM_KEY_SIZE], mark[ITEM_MARK_SIZE];
    key_of(key, 'k', 1);
    struct cache *c = open_node_with(f, 200, 20000);
    uint64_t begun = now_ms();
    assert_int_equal(take(f, c, 1, &mine), ERR_OK);
    char *held = raw_get(f->raw, key, &(size_t){ 0 });
    assert_int_equal(held[0], 'L');
    memcpy(mark, held, sizeof mark);
    free(held);
    peer_freeze(&f->peers[0]);
    assert_int_equal(drop(f, c, &mine), ERR_TEMP);
    uint64_t until = now_ms() + 2000;
    WAIT_UNTIL(f, now_ms() > until); /* the connection is given up by then */
    peer_kill(&f->peers[0]);
    assert_true(memcached_start(&f->peers[0]));
    memcached_st *raw = memcached_raw(&f->peers[0]);
    raw_set(raw, key, span_of(mark, sizeof mark), 60); /* as if it had not been restarted */
    WAIT_UNTIL(f, raw_mark(raw, key) == '\0');
    assert_true(now_ms() - begun < LEASE_LIFE_MS);
    memcached_free(raw);
    cache_close(&c);
}

/* The lease of a node that died ends by itself; here it has a second left. */
static void test_lease_expires(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    char key[ITEM_KEY_SIZE], mark[ITEM_MARK_SIZE];
    uint8_t token[ITEM_TOKEN_SIZE] = "a dead node's";
    key_of(key, 'k', 1);
    raw_set(f->raw, key, item_mark(ITEM_LEASE, token, mark), 2);
    assert_int_equal(take(f, f->a, 1, &lease), ERR_BUSY);
    WAIT_UNTIL(f, take(f, f->a, 1, &lease) == ERR_OK);
    assert_int_equal(drop(f, f->a, &lease), ERR_OK);
}

/* What somebody else holds by now is neither renewed nor given back by us. */
static void test_lease_of_another(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    char key[ITEM_KEY_SIZE], mark[ITEM_MARK_SIZE];
    uint8_t token[ITEM_TOKEN_SIZE] = "another node's";
    key_of(key, 'k', 1);
    assert_int_equal(take(f, f->a, 1, &lease), ERR_OK);
    raw_set(f->raw, key, item_mark(ITEM_LEASE, token, mark), 60);
    assert_int_equal(drop(f, f->a, &lease), ERR_OK);
    assert_int_equal(raw_mark(f->raw, key), 'L');
}

/* How often something was stored on a server. */
static unsigned long stored_so_far(memcached_st *raw)
{
    memcached_return_t rc;
    memcached_stat_st *stats = memcached_stat(raw, NULL, &rc);
    assert_non_null(stats);
    char *value = memcached_stat_get_value(raw, stats, "total_items", &rc);
    assert_non_null(value);
    unsigned long n = strtoul(value, NULL, 10);
    free(value);
    memcached_stat_free(raw, stats);
    return n;
}

/*
 * It was evicted, and its renewal takes it again behind the return that went out after it: then
 * nobody has it, and it is given back once more.
 */
static void test_lease_renewed_behind_its_return(void **state)
{
    struct fixture *f = *state;
    struct lease *lease;
    struct result r = { .f = f };
    char key[ITEM_KEY_SIZE];
    key_of(key, 'k', 1);
    struct cache *c = open_node_with(f, 2 * RENEWAL_MS, 20000);
    assert_int_equal(take(f, c, 1, &lease), ERR_OK);
    memcached_delete(f->raw, key, strlen(key), 0);
    unsigned long before = stored_so_far(f->raw);
    peer_freeze(&f->peers[0]);
    uint64_t until = now_ms() + RENEWAL_MS;
    WAIT_UNTIL(f, now_ms() > until);
    cache_lease_drop(c, &lease, on_done, &r);
    turn(f);
    kill(f->peers[0].pid, SIGCONT);
    WAIT_UNTIL(f, stored_so_far(f->raw) > before);
    WAIT_UNTIL(f, raw_mark(f->raw, key) == '\0');
    cache_close(&c);
}

/* Renewed while it is held; taken again after an eviction; not fought for. */
static void test_lease_renewed(void **state)
{
    struct fixture *f = *state;
    struct lease *lease[3];
    char key[3][ITEM_KEY_SIZE], mark[ITEM_MARK_SIZE];
    uint8_t token[ITEM_TOKEN_SIZE] = "another node's";
    for (uint64_t i = 0; i < 3; i++) {
        key_of(key[i], 'k', i);
        assert_int_equal(take(f, f->a, i, &lease[i]), ERR_OK);
    }
    uint64_t held = raw_cas(f->raw, key[0]);
    memcached_delete(f->raw, key[1], strlen(key[1]), 0);
    raw_set(f->raw, key[2], item_mark(ITEM_LEASE, token, mark), 60);
    uint64_t lost = raw_cas(f->raw, key[2]);
    WAIT_UNTIL(f, raw_cas(f->raw, key[0]) != held);
    WAIT_UNTIL(f, raw_mark(f->raw, key[1]) == 'L');
    assert_int_equal(raw_cas(f->raw, key[2]), lost);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(drop(f, f->a, &lease[i]), ERR_OK);
        assert_int_equal(raw_mark(f->raw, key[i]) == 'L', i == 2);
    }
}

static enum err take_slot_of(struct fixture *f, struct cache *c, uint64_t id, unsigned slots,
                             struct lease **lease)
{
    struct result r = { .f = f };
    cache_lease_take(c, id, slots, on_lease, &r);
    assert_false(r.done);
    await(&r);
    *lease = r.lease;
    return r.err;
}

static enum err take_slot(struct fixture *f, struct cache *c, unsigned slots, struct lease **lease)
{
    return take_slot_of(f, c, 1, slots, lease);
}

/* As many as there are places, on whichever node; each is renewed like any other lease. */
static void test_slots(void **state)
{
    struct fixture *f = *state;
    enum { SLOTS = 5 };
    struct lease *lease[SLOTS], *other;
    char key[SLOTS][ITEM_KEY_SIZE];
    uint64_t cas[SLOTS];
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(take_slot(f, i % 2 ? f->a : f->b, SLOTS, &lease[i]), ERR_OK);
    }
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(take_slot(f, i % 2 ? f->a : f->b, SLOTS, &other), ERR_BUSY);
        assert_null(other);
    }
    assert_int_equal(take(f, f->a, 1, &other), ERR_OK); /* the whole is another thing */
    assert_int_equal(drop(f, f->a, &other), ERR_OK);
    assert_int_equal(drop(f, f->b, &lease[2]), ERR_OK);
    assert_int_equal(take_slot(f, f->b, SLOTS, &lease[2]), ERR_OK);
    for (int i = 0; i < SLOTS; i++) {
        snprintf(key[i], sizeof key[i], "mf:0:s:1:%d", i);
        cas[i] = raw_cas(f->raw, key[i]);
        assert_true(cas[i]);
    }
    for (int i = 0; i < SLOTS; i++) {
        WAIT_UNTIL(f, raw_cas(f->raw, key[i]) != cas[i]);
    }
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(drop(f, i % 2 ? f->a : f->b, &lease[i]), ERR_OK);
    }
}

/* A slot that nobody answers for may be free: not known is not taken. */
static void test_slots_of_a_lost_server(void **state)
{
    struct fixture *f = *state;
    enum { SLOTS = 4 };
    struct lease *lease[SLOTS + 1];
    size_t n = 0;
    while (n < SLOTS && take_slot(f, f->a, SLOTS, &lease[n]) == ERR_OK) {
        n++;
    }
    assert_int_equal(n, SLOTS);
    assert_int_equal(take_slot(f, f->b, SLOTS, &lease[n]), ERR_BUSY);
    peer_kill(&f->peers[0]);
    assert_int_equal(take_slot(f, f->b, SLOTS, &lease[n]), ERR_TEMP);
    assert_null(lease[n]);
    while (n > 0) {
        drop(f, f->a, &lease[--n]);
    }
}

static void test_slots_cancelled(void **state)
{
    struct fixture *f = *state;
    struct lease *lease[3];
    struct result never = { .f = f };
    for (int i = 0; i < 2; i++) {
        assert_int_equal(take_slot(f, f->a, 3, &lease[i]), ERR_OK);
    }
    struct op *op = cache_lease_take(f->a, 1, 3, on_lease, &never);
    op_cancel(&op);
    settle(f, f->a);
    WAIT_UNTIL(f, take_slot(f, f->b, 3, &lease[2]) == ERR_OK);
    assert_false(never.done);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(drop(f, i == 2 ? f->b : f->a, &lease[i]), ERR_OK);
    }
}

/* --- a lease and the list behind it ---------------------------------------------------------- */

static void on_opened(void *arg, enum err e, struct lease *lease, const struct cache_reply *list)
{
    struct result *r = arg;
    r->err = e;
    r->lease = lease;
    assert_true((e == ERR_OK) == (lease != NULL));
    assert_true((e == ERR_BUSY) == (list == NULL));
    if (list) {
        on_get(r, list);
    } else {
        complete(r);
    }
}

static struct result open_list(struct fixture *f, struct cache *c, uint64_t id, unsigned slots)
{
    struct result r = { .f = f };
    cache_lease_list(c, id, slots, on_opened, &r);
    assert_false(r.done);
    await(&r);
    return r;
}

/* Of mailboxes on either server. */
static void test_lease_list(void **state)
{
    struct fixture *f = *state;
    for (uint64_t id = 0; id < 20; id++) {
        unsigned slots = id % 3;
        char key[ITEM_KEY_SIZE];
        key_of(key, 'l', id);
        struct result r = open_list(f, f->a, id, slots);
        assert_int_equal(r.err, ERR_OK);
        assert_false(r.hit);
        assert_true(r.fill.allowed);
        struct cache_key k = list_of(id);
        cache_put(f->a, &k, &r.fill, SPAN("the list"));
        assert_int_equal(drop(f, f->a, &r.lease), ERR_OK);
        settle(f, f->a);
        r = open_list(f, f->b, id, slots);
        assert_int_equal(r.err, ERR_OK);
        assert_true(r.hit && span_eq(span_of(r.value, r.size), SPAN("the list")));
        assert_int_equal(drop(f, f->b, &r.lease), ERR_OK);
        free(r.value);
    }
}

/* Somebody else has it: the list is not told, and nobody is kept from filling it. */
static void test_lease_list_busy(void **state)
{
    struct fixture *f = *state;
    for (uint64_t id = 0; id < 10; id++) {
        struct lease *lease;
        assert_int_equal(take(f, f->a, id, &lease), ERR_OK);
        assert_int_equal(open_list(f, f->b, id, 0).err, ERR_BUSY);
        settle(f, f->b);
        fill(f, f->a, list_of(id), SPAN("the list"));
        assert_int_equal(open_list(f, f->b, id, 0).err, ERR_BUSY);
        assert_int_equal(drop(f, f->a, &lease), ERR_OK);
    }
}

/* Passes requests on; in front of one that begins with these words something is stored, or, if it
 * is nothing, it stops until it is told to go on. */
static void play_meddler(int fd, uint16_t to, const char *words, const char *set)
{
    char bytes[4096];
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = address(to);
    struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = server, .events = POLLIN } };
    CHECK(connect(server, (struct sockaddr *)&a, sizeof a) == 0);
    while (poll(p, 2, -1) > 0) {
        int from = p[0].revents ? fd : server;
        ssize_t n = read(from, bytes, sizeof bytes);
        if (n <= 0) {
            break;
        }
        if (from == fd && span_starts(span_of(bytes, (size_t)n), span_str(words))) {
            CHECK(set ? write(server, set, strlen(set)) > 0 /* quietly */ : raise(SIGSTOP) == 0);
        }
        CHECK(write(from == fd ? server : fd, bytes, (size_t)n) == n);
    }
    close(server);
}

static void meddler_open(struct peer *p, uint16_t to, const char *words, const char *set)
{
    int fd = peer_listen(p);
    if (p->pid == 0) {
        for (int client; (client = accept(fd, NULL, NULL)) >= 0; close(client)) {
            play_meddler(client, to, words, set);
        }
        _exit(0);
    }
    close(fd);
}

/*
 * The lease is had in a second round, and the list is changed between the rounds: what was read in
 * the first is not told, nor what begins with it.
 */
static void check_list_in_order(struct fixture *f, uint64_t id, struct span value)
{
    char lease[ITEM_KEY_SIZE], list[ITEM_KEY_SIZE], words[80], set[100];
    key_of(lease, 'k', id);
    key_of(list, 'l', id);
    snprintf(words, sizeof words, "mg %s ", lease);
    snprintf(set, sizeof set, "set %s 0 60 1 noreply\r\nT\r\n", list);
    fill(f, f->a, list_of(id), value);
    raw_set(f->raw, lease, SPAN("junk"), 60);
    meddler_open(&f->peers[1], f->peers[0].port, words, set);
    f->names[0] = f->peers[1].name;
    struct cache *c = open_node(f);
    struct result r = open_list(f, c, id, 0);
    assert_int_equal(r.err, ERR_OK);
    assert_int_equal(raw_mark(f->raw, list), 'T');
    assert_false(r.hit);
    assert_false(r.fill.allowed);
    assert_int_equal(drop(f, c, &r.lease), ERR_OK);
    cache_close(&c);
    peer_kill(&f->peers[1]);
}

static void test_lease_list_in_order(void **state)
{
    struct buf value;
    long_value(&value);
    check_list_in_order(*state, 1, SPAN("the old list"));
    check_list_in_order(*state, 2, buf_span(&value));
    buf_fini(&value);
}

static void test_lease_list_cancelled(void **state)
{
    struct fixture *f = *state;
    for (uint64_t id = 0; id < 10; id++) {
        struct lease *lease;
        struct result never = { .f = f };
        struct op *op = cache_lease_list(f->a, id, 0, on_opened, &never);
        op_cancel(&op);
        settle(f, f->a);
        WAIT_UNTIL(f, take(f, f->b, id, &lease) == ERR_OK);
        assert_false(never.done);
        assert_int_equal(drop(f, f->b, &lease), ERR_OK);
    }
}

static bool has_stopped(const struct peer *p)
{
    int status;
    return waitpid(p->pid, &status, WUNTRACED | WNOHANG) == p->pid && WIFSTOPPED(status);
}

/* Given up when the lease was won already, in a second round, and the list is still to come. */
static void test_lease_list_cancelled_late(void **state)
{
    struct fixture *f = *state;
    struct result never = { .f = f };
    char lease[ITEM_KEY_SIZE];
    key_of(lease, 'k', 1);
    raw_set(f->raw, lease, SPAN("F"), 60);
    meddler_open(&f->peers[1], f->peers[0].port, "mg mf:0:l:1 ", NULL);
    f->names[0] = f->peers[1].name;
    struct cache *c = open_node(f);
    struct op *op = cache_lease_list(c, 1, 0, on_opened, &never);
    WAIT_UNTIL(f, has_stopped(&f->peers[1]));
    assert_int_equal(raw_mark(f->raw, lease), 'L');
    op_cancel(&op);
    kill(f->peers[1].pid, SIGCONT);
    WAIT_UNTIL(f, raw_mark(f->raw, lease) != 'L');
    assert_false(never.done);
    cache_close(&c);
}

/* Neither lease nor list is known, and the session may go on. */
static void test_lease_list_without_a_server(void **state)
{
    struct fixture *f = *state;
    if (f->servers.n) {
        peer_kill(&f->peers[0]);
    }
    for (unsigned slots = 0; slots < 3; slots++) {
        struct result r = open_list(f, f->a, 1, slots);
        assert_int_equal(r.err, ERR_TEMP);
        assert_false(r.hit || r.fill.allowed);
    }
}

/* --- counters, marks and buckets ------------------------------------------------------------- */

static void on_count(void *arg, uint64_t n)
{
    struct result *r = arg;
    r->size = n;
    complete(r);
}

static uint64_t add(struct fixture *f, struct cache *c, struct span what, uint64_t more,
                    uint64_t life_ms)
{
    struct result r = { .f = f };
    cache_count(c, what, more, life_ms, on_count, &r);
    assert_false(r.done);
    await(&r);
    return r.size;
}

static enum err first(struct fixture *f, struct cache *c, struct span what, uint64_t life_ms)
{
    struct result r = { .f = f };
    cache_first(c, what, life_ms, on_done, &r);
    assert_false(r.done);
    await(&r);
    return r.err;
}

static enum err leak(struct fixture *f, struct cache *c, uint64_t id, uint64_t interval_ms,
                     unsigned burst)
{
    struct result r = { .f = f };
    cache_leak(c, id, interval_ms, burst, on_done, &r);
    assert_false(r.done);
    await(&r);
    return r.err;
}

/* How many of the keys of a mailbox a server has: list, lease, one of three slots, bucket. */
static size_t keys_of(struct fixture *f, size_t peer, uint64_t epoch, uint64_t id)
{
    static const char *const kinds[] = { "l", "k", "s", "s", "s", "b" };
    static const char *const ends[] = { "", "", ":0", ":1", ":2", "" };
    memcached_st *mc = memcached_raw(&f->peers[peer]);
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        char key[ITEM_KEY_SIZE];
        snprintf(key, sizeof key, "mf:%" PRIx64 ":%s:%" PRIu64 "%s", epoch, kinds[i], id, ends[i]);
        n += raw_mark(mc, key) != '\0';
    }
    memcached_free(mc);
    return n;
}

/* Whatever is kept of it, in whichever epoch: else a poll would be more rounds, or a list be read
 * in front of the lease. */
static void test_a_mailbox_is_on_one_server(void **state)
{
    struct fixture *f = *state;
    enum { MAILBOXES = 40 };
    size_t on[2] = { 0 };
    for (unsigned i = 0; i < MAILBOXES; i++) {
        uint64_t id = UINT64_C(1) << i | i, epoch = i % 3;
        struct lease *lease, *place;
        cache_set_epoch(f->a, epoch);
        assert_int_equal(tombstone(f, f->a, list_of(id)), ERR_OK);
        assert_int_equal(take(f, f->a, id, &lease), ERR_OK);
        assert_int_equal(take_slot_of(f, f->a, id, 3, &place), ERR_OK);
        assert_int_equal(leak(f, f->a, id, 1000, 5), ERR_OK);
        for (size_t p = 0; p < 2; p++) {
            size_t keys = keys_of(f, p, epoch, id);
            assert_true(keys == 0 || keys == 4);
            on[p] += keys == 4;
        }
        assert_int_equal(drop(f, f->a, &place), ERR_OK);
        assert_int_equal(drop(f, f->a, &lease), ERR_OK);
    }
    assert_int_equal(on[0] + on[1], MAILBOXES);
    assert_true(on[0] > 0 && on[1] > 0);
}

static void test_counter(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(add(f, f->a, SPAN("one"), 0, 60000), 0);
    assert_int_equal(add(f, f->a, SPAN("one"), 1, 60000), 1);
    assert_int_equal(add(f, f->b, SPAN("one"), 1, 60000), 2);
    assert_int_equal(add(f, f->a, SPAN("one"), 40, 60000), 42);
    assert_int_equal(add(f, f->b, SPAN("one"), 0, 60000), 42);
    assert_int_equal(add(f, f->b, SPAN("two"), 0, 60000), 0);
}

/* From the first one on, whatever comes later. */
static void test_counter_ends(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(add(f, f->a, SPAN("one"), 1, 1000), 1);
    add(f, f->a, SPAN("one"), 1, 60000);
    WAIT_UNTIL(f, add(f, f->a, SPAN("one"), 0, 1000) == 0);
    assert_int_equal(add(f, f->a, SPAN("one"), 1, 60000), 1);
}

static void test_first(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(first(f, f->a, SPAN("one"), 60000), ERR_OK);
    assert_int_equal(first(f, f->b, SPAN("one"), 60000), ERR_BUSY);
    assert_int_equal(first(f, f->a, SPAN("two"), 1000), ERR_OK);
    WAIT_UNTIL(f, first(f, f->b, SPAN("two"), 60000) == ERR_OK);
    assert_int_equal(first(f, f->a, SPAN("one"), 60000), ERR_BUSY);
}

/* What is taken away is gone for all; nothing is owed, and nothing is begun. */
static void test_counter_taken_from(void **state)
{
    struct fixture *f = *state;
    char key[ITEM_KEY_SIZE];
    size_t size;
    assert_int_equal(add(f, f->a, SPAN("one"), 10, 60000), 10);
    cache_uncount(f->a, SPAN("one"));
    assert_int_equal(add(f, f->a, SPAN("one"), 0, 60000), 9);
    assert_int_equal(add(f, f->b, SPAN("one"), 1, 60000), 10);
    assert_int_equal(add(f, f->a, SPAN("two"), 1, 60000), 1);
    for (int i = 0; i < 3; i++) {
        cache_uncount(f->a, SPAN("two"));
    }
    assert_int_equal(add(f, f->a, SPAN("two"), 1, 60000), 1);
    cache_uncount(f->a, SPAN("three"));
    settle(f, f->a);
    named_key(f, 'c', SPAN("three"), key);
    assert_null(raw_get(f->raw, key, &size));
}

/* What is no number counts for nothing, and gives way to the next that is counted. */
static void test_counter_forged(void **state)
{
    struct fixture *f = *state;
    static const char *const junk[] = { "", "x", "-1", "1x", "99999999999999999999", "T" };
    char key[ITEM_KEY_SIZE];
    named_key(f, 'c', SPAN("one"), key);
    for (size_t i = 0; i < ARRAY_LEN(junk); i++) {
        uint64_t forged = count(STAT_cache_forged);
        raw_set(f->raw, key, span_str(junk[i]), 60);
        assert_int_equal(add(f, f->a, SPAN("one"), 0, 60000), 0);
        assert_int_equal(count(STAT_cache_forged), forged + 1);
        assert_int_equal(add(f, f->a, SPAN("one"), 1, 60000), 1);
        assert_int_equal(add(f, f->b, SPAN("one"), 1, 60000), 2);
    }
    raw_set(f->raw, key, SPAN("41  "), 60); /* as memcached itself may leave it */
    assert_int_equal(add(f, f->a, SPAN("one"), 0, 60000), 41);
    assert_true(health_is(""));
}

static void test_bucket(void **state)
{
    struct fixture *f = *state;
    enum { HOUR = 3600000 };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(leak(f, i % 2 ? f->a : f->b, 1, HOUR, 3), ERR_OK);
    }
    for (int i = 0; i < 5; i++) {
        assert_int_equal(leak(f, i % 2 ? f->a : f->b, 1, HOUR, 3), ERR_LIMIT);
    }
    assert_int_equal(leak(f, f->a, 2, HOUR, 1), ERR_OK);
    assert_int_equal(leak(f, f->a, 2, HOUR, 1), ERR_LIMIT);
    assert_int_equal(leak(f, f->a, 3, 86400000, 1000), ERR_OK); /* longer than memcached lives */
    assert_int_equal(leak(f, f->a, 3, 86400000, 1000), ERR_OK);
}

/* It runs empty at its rate, and who knocks meanwhile does not fill it. */
static void test_bucket_leaks(void **state)
{
    struct fixture *f = *state;
    uint64_t begun = now_ms();
    for (int i = 0; i < 4; i++) {
        WAIT_UNTIL(f, leak(f, f->a, 1, 300, 2) == ERR_OK);
    }
    assert_true(now_ms() >= begun + 2 * 300 - 2); /* clocks of milliseconds */
}

/* Those who come at once don't get in for that. */
static void test_bucket_at_once(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 40, BURST = 5 };
    struct result r[MANY] = { 0 };
    unsigned in = 0;
    for (int i = 0; i < MANY; i++) {
        r[i].f = f;
        cache_leak(i % 2 ? f->a : f->b, 1, 3600000, BURST, on_done, &r[i]);
    }
    for (int i = 0; i < MANY; i++) {
        await(&r[i]);
        assert_true(r[i].err == ERR_OK || r[i].err == ERR_LIMIT);
        in += r[i].err == ERR_OK;
    }
    assert_in_range(in, 1, BURST);
}

/* A sealed bucket with these contents, as a node whose clock says now_ms would have written it. */
static void put_bucket(struct fixture *f, const char *key, uint64_t issued_ms, uint64_t empty_at)
{
    struct buf out;
    unsigned parts;
    uint64_t wire = htole64(empty_at);
    buf_init(&out, 1024);
    assert_int_equal(item_seal(f->seal, key, issued_ms, span_of(&wire, sizeof wire), &out, &parts),
                     ERR_OK);
    raw_set(f->raw, key, buf_span(&out), 600);
    buf_fini(&out);
}

static uint64_t unix_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* As if it had been written so long ago. */
static void put_known(struct fixture *f, struct span name, uint64_t age_ms)
{
    char key[ITEM_KEY_SIZE];
    struct buf out;
    unsigned parts;
    named_key(f, 'w', name, key);
    buf_init(&out, 256);
    assert_int_equal(item_seal(f->seal, key, unix_ms() - age_ms, SPAN("1"), &out, &parts), ERR_OK);
    raw_set(f->raw, key, buf_span(&out), 3600);
    buf_fini(&out);
}

static bool aged(struct fixture *f, struct cache *c, struct cache_key k)
{
    struct result r = get(f, c, k);
    assert_true(r.hit);
    free(r.value);
    return r.aged;
}

/* Known for an hour from the last time that it was set, and aged behind the half of it. */
static void test_known(void **state)
{
    struct fixture *f = *state;
    struct cache_key k = { .kind = CACHE_KNOWN, .name = SPAN("one") };
    struct cache_key other = { .kind = CACHE_KNOWN, .name = SPAN("two") };
    const uint64_t minute = 60 * 1000;
    assert_true(misses(f, f->a, k, false));
    cache_set(f->a, &k, SPAN("1"));
    settle(f, f->a);
    assert_true(hits(f, f->b, k, SPAN("1")));
    assert_false(aged(f, f->b, k));
    assert_true(misses(f, f->b, other, false));
    put_known(f, SPAN("one"), 29 * minute);
    assert_false(aged(f, f->a, k));
    put_known(f, SPAN("one"), 31 * minute);
    assert_true(aged(f, f->a, k));
    cache_set(f->b, &k, SPAN("1"));
    settle(f, f->b);
    assert_false(aged(f, f->a, k));
    put_known(f, SPAN("one"), 62 * minute);
    assert_true(misses(f, f->a, k, false));
}

/* Clocks that differ shut nobody out for longer than a full bucket takes. */
static void test_bucket_of_another_clock(void **state)
{
    struct fixture *f = *state;
    enum { DAY = 86400000 };
    char key[ITEM_KEY_SIZE];
    key_of(key, 'b', 1);
    put_bucket(f, key, unix_ms() + DAY, unix_ms() + DAY + 300); /* no node's clock is that wrong */
    assert_int_equal(leak(f, f->a, 1, 300, 1), ERR_OK);
    put_bucket(f, key, unix_ms() + 5000, unix_ms() + DAY);
    assert_int_equal(leak(f, f->a, 1, 300, 1), ERR_LIMIT);
    WAIT_UNTIL(f, leak(f, f->a, 1, 300, 1) == ERR_OK);
    put_bucket(f, key, unix_ms(), unix_ms() - DAY);
    assert_int_equal(leak(f, f->a, 1, 3600000, 1), ERR_OK);
    assert_int_equal(leak(f, f->a, 1, 3600000, 1), ERR_LIMIT);
}

/* Junk, or another mailbox's full bucket: as if there were none. */
static void test_bucket_forged(void **state)
{
    struct fixture *f = *state;
    static const char *const junk[] = { "", "x", "V", "V\1", "T", "P", "9999" };
    char full[ITEM_KEY_SIZE], key[ITEM_KEY_SIZE];
    key_of(key, 'b', 1);
    key_of(full, 'b', 2);
    assert_int_equal(leak(f, f->a, 2, 3600000, 1), ERR_OK);
    for (size_t i = 0; i <= ARRAY_LEN(junk); i++) {
        uint64_t forged = count(STAT_cache_forged);
        if (i < ARRAY_LEN(junk)) {
            raw_set(f->raw, key, span_str(junk[i]), 60);
        } else {
            copy_item(f->raw, full, key);
        }
        assert_int_equal(leak(f, f->a, 1, 3600000, 1), ERR_OK);
        assert_int_equal(leak(f, f->b, 1, 3600000, 1), ERR_LIMIT);
        assert_int_equal(count(STAT_cache_forged), forged + 1);
    }
    raw_set(f->raw, key, SPAN("V\2of another release"), 60);
    assert_int_equal(leak(f, f->a, 1, 3600000, 1), ERR_NOTFOUND);
}

static void test_counting_without_a_server(void **state)
{
    struct fixture *f = *state;
    if (f->servers.n) {
        peer_kill(&f->peers[0]);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(add(f, f->a, SPAN("one"), 1, 60000), 0);
        assert_int_equal(add(f, f->a, SPAN("one"), 0, 60000), 0);
        assert_int_equal(first(f, f->a, SPAN("one"), 60000), ERR_TEMP);
        assert_int_equal(leak(f, f->a, 1, 3600000, 1), ERR_TEMP);
    }
}

/* --- the end --------------------------------------------------------------------------------- */

/* Calls are under way, some of them against a frozen server: nothing leaks, and nobody is told. */
static void test_close_while_busy(void **state)
{
    struct fixture *f = *state;
    struct cache *c = open_node(f);
    struct result never = { .f = f };
    struct cache_fill allowed = { .allowed = true };
    peer_freeze(&f->peers[0]);
    for (uint64_t i = 0; i < 50; i++) {
        struct cache_key k = list_of(i);
        struct op *ops[] = { cache_get(c, &k, on_get, &never),
                             cache_tombstone(c, &k, 1, on_done, &never),
                             cache_lease_take(c, i, i % 3, on_lease, &never),
                             cache_lease_list(c, 100 + i, i % 3, on_opened, &never),
                             cache_count(c, SPAN("n"), i % 2, 60000, on_count, &never),
                             cache_first(c, SPAN("n"), 60000, on_done, &never),
                             cache_leak(c, i, 1000, 1, on_done, &never) };
        cache_put(c, &k, &allowed, SPAN("value"));
        cache_uncount(c, SPAN("n"));
        for (size_t o = 0; o < ARRAY_LEN(ops); o++) {
            op_cancel(&ops[o]);
        }
    }
    cache_close(&c);
    assert_null(c);
    kill(f->peers[0].pid, SIGCONT);
    settle(f, f->a);
    assert_false(never.done);
}

#define TEST(t, s) cmocka_unit_test_setup_teardown(t, s, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_fill_and_hit, setup_two),
        TEST(test_verified, setup_two),
        TEST(test_put_off, setup_two),
        TEST(test_others_placeholder, setup),
        TEST(test_same_key_twice, setup),
        TEST(test_lost_fill, setup),
        TEST(test_lost_fill_to_another, setup),
        TEST(test_not_allowed_is_not_stored, setup),
        TEST(test_tombstone, setup_two),
        TEST(test_tombstone_of_none, setup),
        TEST(test_tombstone_expires, setup),
        TEST(test_split, setup),
        TEST(test_split_many, setup),
        TEST(test_split_part_missing, setup),
        TEST(test_split_mixed, setup),
        TEST(test_split_bound, setup),
        TEST(test_split_behind_tombstone, setup),
        TEST(test_split_lost_fill, setup),
        TEST(test_too_long, setup),
        TEST(test_forged, setup),
        TEST(test_damaged, setup),
        TEST(test_copied, setup),
        TEST(test_foreign_format, setup),
        TEST(test_replayed, setup),
        TEST(test_nothing_in_clear, setup),
        TEST(test_epoch, setup),
        TEST(test_server_killed, setup),
        TEST(test_owed_to_one_that_came_back, setup),
        TEST(test_late_loop, setup),
        TEST(test_long_turn, setup),
        TEST(test_restarted_empty, setup),
        TEST(test_number_of_another_life, setup),
        TEST(test_fill_by_another_connection, setup),
        TEST(test_tombstone_retried, setup),
        TEST(test_own_tombstone_first, setup),
        TEST(test_claims_refused, setup),
        TEST(test_frozen, setup_two),
        TEST(test_no_ejection, setup_two),
        TEST(test_no_servers, setup_none),
        TEST(test_bad_name, setup_none),
        TEST(test_lease, setup_two),
        TEST(test_lease_cancelled, setup),
        TEST(test_lease_late, setup),
        TEST(test_lease_uncertain, setup),
        TEST(test_lease_expires, setup),
        TEST(test_lease_of_another, setup),
        TEST(test_lease_renewed_behind_its_return, setup),
        TEST(test_lease_renewed, setup),
        TEST(test_slots, setup),
        TEST(test_slots_of_a_lost_server, setup),
        TEST(test_a_mailbox_is_on_one_server, setup_two),
        TEST(test_slots_cancelled, setup),
        TEST(test_lease_list, setup_two),
        TEST(test_lease_list_busy, setup_two),
        TEST(test_lease_list_in_order, setup),
        TEST(test_lease_list_cancelled, setup_two),
        TEST(test_lease_list_cancelled_late, setup),
        TEST(test_lease_list_without_a_server, setup_none),
        TEST(test_lease_list_without_a_server, setup),
        TEST(test_counter, setup_two),
        TEST(test_counter_ends, setup),
        TEST(test_counter_taken_from, setup_two),
        TEST(test_counter_forged, setup),
        TEST(test_first, setup_two),
        TEST(test_known, setup),
        TEST(test_bucket, setup_two),
        TEST(test_bucket_leaks, setup),
        TEST(test_bucket_at_once, setup),
        TEST(test_bucket_of_another_clock, setup),
        TEST(test_bucket_forged, setup),
        TEST(test_counting_without_a_server, setup),
        TEST(test_counting_without_a_server, setup_none),
        TEST(test_close_while_busy, setup_two),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    stats_use(&slot);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
