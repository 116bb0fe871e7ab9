/*
 * cache: calls with deadlines, values, tombstones, counters and health.
 *
 * A call is allocated here and goes to the lane of its key's server. It is answered once, by its
 * lane or at its deadline, whichever is first, and freed when the lane has handed it back. What a
 * turn of the loop asks goes out at its end, and deadlines count from then on. What is in an item
 * and who may write it is cache_lane.c's, and nothing here is worth a retry but a tombstone.
 */
#include "store/cache.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/cache_parts.h"

#define TICK_MS      1000
#define PUT_OFF_MOST 4
/* What was hashed is remembered for an hour; the value says by itself when it no longer holds. That
 * a client was in as a user lives as long, from the last time that it was noted, and the password
 * that is noted with it is believed for half of that: so one is hashed again after an hour and a
 * half at the latest. */
#define VERIFIED_LIFE_MS (60 * 60 * 1000)
/* memcached takes a longer life for a date. */
#define LIFE_MOST_MS (UINT64_C(30) * 24 * 60 * 60 * 1000)

/* Tombstones of one cache_tombstone. */
struct group {
    struct op op;
    struct task begun;
    cache_done_fn *done;
    size_t missing;
    enum err err;
};

/* --- kinds of values ------------------------------------------------------------------------- */

/* Set and read, and never filled. */
static bool is_plain(enum cache_kind kind)
{
    return kind == CACHE_VERIFIED || kind == CACHE_KNOWN;
}

static uint64_t life_of(const struct cache *c, enum cache_kind kind)
{
    switch (kind) {
    case CACHE_ADDRESS:
        return c->account_ttl_ms;
    case CACHE_LIST:
        return c->list_ttl_ms;
    default:
        return VERIFIED_LIFE_MS;
    }
}

/* --- health ---------------------------------------------------------------------------------- */

static void report_health(struct cache *c)
{
    char why[HEALTH_WHY] = "";
    size_t down = 0;
    const char *name = NULL;
    for (size_t i = 0; i < c->server_count; i++) {
        if (c->servers[i].down) {
            down++;
            name = c->servers[i].name;
        }
    }
    if (down == 1) {
        snprintf(why, sizeof why, "%s does not answer", name);
    } else if (down > 1) {
        snprintf(why, sizeof why, "%zu of %zu servers do not answer", down, c->server_count);
    }
    health_set("cache", false, why);
}

static void note_server(struct cache *c, struct server *s, bool down)
{
    if (s && s->down != down) {
        s->down = down;
        LOG(down ? LOG_WARN : LOG_INFO, down ? "cache_server_down" : "cache_server_up",
            F_STR("server", s->name));
        report_health(c);
    }
}

/* --- calls ----------------------------------------------------------------------------------- */

/* All of a mailbox is on one server, which does what it is asked in order. Where a key lies is part
 * of the format: nodes of two versions that don't agree would not see each other's tombstones. */
static struct server *server_of(struct cache *c, const char *key)
{
    if (c->server_count == 0) {
        return NULL;
    }
    struct span owner = cache_key_owner(key);
    uint32_t i = memcached_generate_hash(c->ring, owner.p, owner.n);
    CHECK(i < c->server_count);
    return &c->servers[i];
}

void cache_new_token(struct cache *c, uint8_t token[ITEM_TOKEN_SIZE])
{
    c->tokens++;
    memcpy(token, &c->life, sizeof c->life);
    memcpy(token + sizeof c->life, &c->tokens, sizeof c->tokens);
}

static void unref(struct cache *c)
{
    if (--c->refs == 0) {
        free(c);
    }
}

static void call_free(struct call *call)
{
    struct cache *c = call->cache;
    buf_fini(&call->req.value);
    free(call);
    unref(c);
}

static void answer_once(struct call *call, enum err e)
{
    if (!call->answered) {
        call->answered = true;
        list_del(&call->link);
        stats_add(STAT_cache_faults, call->server && e == ERR_TEMP && !call->owed_until);
        call->answer(call, e);
    }
}

static void group_one_less(struct group *g, enum err e);

/* The cache was closed while the call was under way: nobody is told. */
static void forget(struct call *call)
{
    if (call->group && !call->answered) {
        call->group->op.cancelled = true;
        group_one_less(call->group, ERR_TEMP);
    }
    cache_lease_forget(call);
}

static void answer_returned(struct call *call)
{
    enum err e = call->req.err;
    bool late = call->answered;
    note_server(call->cache, call->server, e == ERR_TEMP);
    stats_add(STAT_cache_forged, call->req.forged);
    answer_once(call, e);
    cache_lease_settle(call, late);
}

/* The lane has handed it back. */
static void on_returned(struct lane_request *r)
{
    struct call *call = CONTAINER_OF(r, struct call, req);
    if (call->cache->closed) {
        forget(call);
    } else {
        answer_returned(call);
    }
    call_free(call);
}

static void on_deadline(uv_timer_t *t);

static void arm_deadline(struct cache *c)
{
    if (!list_empty(&c->waiting) && !uv_is_active((uv_handle_t *)&c->deadline)) {
        uint64_t at = CONTAINER_OF(c->waiting.next, struct call, link)->deadline;
        uint64_t now = loop_now(c->loop);
        uv_timer_start(&c->deadline, on_deadline, at > now ? at - now : 0, 0);
    }
}

static void expire(struct call *call)
{
    note_server(call->cache, call->server, true);
    call->req.unwanted = true;
    answer_once(call, ERR_TEMP);
}

/* What has come meanwhile is in time: it was the loop that was late. */
static void on_deadline(uv_timer_t *t)
{
    struct cache *c = t->data;
    for (size_t i = 0; i < c->server_count; i++) {
        lane_read(c->servers[i].lane);
    }
    while (!list_empty(&c->waiting)) {
        struct call *call = CONTAINER_OF(c->waiting.next, struct call, link);
        if (call->deadline > loop_now(c->loop)) {
            break;
        }
        expire(call);
    }
    arm_deadline(c);
}

void cache_answer_nobody(struct call *call, enum err e)
{
    (void)call, (void)e;
}

struct call *cache_call_new(struct cache *c, enum lane_verb verb, const char *key)
{
    struct call *call = NEW(struct call);
    c->refs++;
    call->cache = c;
    call->server = server_of(c, key);
    call->answer = cache_answer_nobody;
    call->req.verb = verb;
    call->req.done = on_returned;
    memcpy(call->req.key, key, strlen(key) + 1);
    list_init(&call->link);
    return call;
}

static void on_refused(struct task *t)
{
    on_returned(&CONTAINER_OF(t, struct call, refused)->req);
}

/* Without a server there is nothing that a tombstone would have to take the place of. */
static enum err submit_to_lane(struct call *call)
{
    if (!call->server) {
        return call->req.verb == LANE_TOMBSTONE ? ERR_OK : ERR_TEMP;
    }
    return lane_submit(call->server->lane, &call->req);
}

void cache_submit(struct call *call)
{
    enum err e = submit_to_lane(call);
    if (e == ERR_OK && call->server) {
        call->cache->asked = true;
    } else {
        call->claims = false; /* nobody heard of it: there is nothing to give back */
        call->req.err = e;
        call->refused.run = on_refused;
        loop_post(call->cache->loop, &call->refused);
    }
}

void cache_submit_with_deadline(struct call *call)
{
    list_add(&call->cache->fresh, &call->link);
    cache_submit(call);
}

/* The loop's time may be that of a long turn's beginning. */
static void set_deadlines(struct cache *c)
{
    if (list_empty(&c->fresh)) {
        return;
    }
    uv_update_time(loop_uv(c->loop));
    for (struct list *link; (link = list_pop(&c->fresh));) {
        CONTAINER_OF(link, struct call, link)->deadline = loop_now(c->loop) + c->timeout_ms;
        list_add(&c->waiting, link);
    }
    arm_deadline(c);
}

static void on_again(uv_idle_t *h)
{
    (void)h;
}

/*
 * A question waits for those of the next turn, which comes at once: what came meanwhile asks in the
 * same write, and the server, to whom an answer costs less than to be woken for it, gives all
 * answers at once. A turn in which nobody asks ends that, and so does a row of them.
 */
static bool put_off(struct cache *c)
{
    if (!c->asked || c->put_off == PUT_OFF_MOST) {
        c->put_off = 0;
        uv_idle_stop(&c->again);
        return false;
    }
    c->asked = false;
    c->put_off++;
    uv_idle_start(&c->again, on_again);
    return true;
}

/* A server that fails in its flush answers what it was asked, and who is answered may ask another,
 * whose turn was over. One that failed refuses, so there is an end to it. */
static void on_turn(uv_prepare_t *h)
{
    struct cache *c = h->data;
    if (put_off(c)) {
        return;
    }
    do {
        c->asked = false;
        for (size_t i = 0; i < c->server_count; i++) {
            lane_flush(c->servers[i].lane);
        }
    } while (c->asked);
    set_deadlines(c);
}

/* --- values ---------------------------------------------------------------------------------- */

struct cache_reply cache_reply_of(struct call *call, enum err e)
{
    struct cache_reply reply = { .hit = e == ERR_OK };
    stats_add(reply.hit ? STAT_cache_hits : STAT_cache_misses, 1);
    if (reply.hit) {
        reply.value = buf_span(&call->req.value);
        reply.octets = &call->req.value;
        reply.aged = call->req.age_ms > call->req.life_ms / 2;
    } else if (e == ERR_NOTFOUND) {
        reply.fill.allowed = call->req.may_fill;
        reply.fill.seen = call->req.seen;
        memcpy(reply.fill.token, call->req.token, sizeof reply.fill.token);
    }
    return reply;
}

static void answer_get(struct call *call, enum err e)
{
    struct cache_reply reply = cache_reply_of(call, e);
    if (!call->op.cancelled) {
        call->fn.get(call->op.arg, &reply);
    }
}

struct call *cache_get_call(struct cache *c, const struct cache_key *k, bool fills)
{
    char key[ITEM_KEY_SIZE];
    cache_key_text(c, k, key);
    struct call *call = cache_call_new(c, LANE_GET, key);
    call->req.fills = fills;
    call->req.buried = !is_plain(k->kind);
    call->req.life_ms = life_of(c, k->kind);
    if (fills) {
        cache_new_token(c, call->req.token);
    }
    return call;
}

struct op *cache_get(struct cache *c, const struct cache_key *k, cache_get_fn *done, void *arg)
{
    struct call *call = cache_get_call(c, k, !is_plain(k->kind));
    call->op.arg = arg;
    call->answer = answer_get;
    call->fn.get = done;
    cache_submit_with_deadline(call);
    return &call->op;
}

static void store(struct cache *c, enum lane_verb verb, const struct cache_key *k,
                  const struct cache_fill *f, struct span value)
{
    char key[ITEM_KEY_SIZE];
    cache_key_text(c, k, key);
    struct call *call = cache_call_new(c, verb, key);
    if (f) {
        memcpy(call->req.token, f->token, sizeof call->req.token);
        call->req.seen = f->seen;
    }
    call->req.life_ms = life_of(c, k->kind);
    buf_init(&call->req.value, value.n);
    buf_add(&call->req.value, value);
    cache_submit(call);
}

/* With another epoch by now the key is another, and no placeholder of ours stands there: a number
 * is of one item of a server, and of one connection to it. */
void cache_put(struct cache *c, const struct cache_key *k, const struct cache_fill *f,
               struct span value)
{
    if (f->allowed) {
        store(c, LANE_PUT, k, f, value);
    }
}

void cache_set(struct cache *c, const struct cache_key *k, struct span value)
{
    CHECK(is_plain(k->kind));
    store(c, LANE_SET, k, NULL, value);
}

/* --- tombstones ------------------------------------------------------------------------------ */

static void group_one_less(struct group *g, enum err e)
{
    if (e != ERR_OK) {
        g->err = e;
    }
    if (--g->missing == 0) {
        if (!g->op.cancelled) {
            g->done(g->op.arg, g->err);
        }
        free(g);
    }
}

static void answer_tombstone(struct call *call, enum err e)
{
    group_one_less(call->group, e);
}

static void on_group_begun(struct task *t)
{
    group_one_less(CONTAINER_OF(t, struct group, begun), ERR_OK);
}

/* One is counted for the beginning itself, so that a group of none ends as every other. */
struct op *cache_tombstone(struct cache *c, const struct cache_key *k, size_t n,
                           cache_done_fn *done, void *arg)
{
    struct group *g = NEW(struct group);
    g->op.arg = arg;
    g->done = done;
    g->missing = n + 1;
    g->err = ERR_OK;
    g->begun.run = on_group_begun;
    for (size_t i = 0; i < n; i++) {
        char key[ITEM_KEY_SIZE];
        cache_key_text(c, &k[i], key);
        struct call *call = cache_call_new(c, LANE_TOMBSTONE, key);
        call->answer = answer_tombstone;
        call->group = g;
        call->req.life_ms = c->tombstone_ttl_ms;
        cache_submit_with_deadline(call);
    }
    loop_post(c->loop, &g->begun);
    return &g->op;
}

/* --- counters, marks and buckets ------------------------------------------------------------- */

void cache_answer_done(struct call *call, enum err e)
{
    if (call->fn.done && !call->op.cancelled) {
        call->fn.done(call->op.arg, e);
    }
}

static void answer_count(struct call *call, enum err e)
{
    if (!call->op.cancelled) {
        call->fn.count(call->op.arg, e == ERR_OK ? call->req.number : 0);
    }
}

struct op *cache_count(struct cache *c, struct span what, uint64_t more, uint64_t life_ms,
                       cache_count_fn *done, void *arg)
{
    char key[ITEM_KEY_SIZE];
    cache_key_named(c, LETTER_COUNTER, what, key);
    struct call *call = cache_call_new(c, more ? LANE_COUNT : LANE_READ, key);
    call->op.arg = arg;
    call->answer = answer_count;
    call->fn.count = done;
    call->req.number = more;
    call->req.life_ms = life_ms < LIFE_MOST_MS ? life_ms : LIFE_MOST_MS;
    cache_submit_with_deadline(call);
    return &call->op;
}

void cache_uncount(struct cache *c, struct span what)
{
    char key[ITEM_KEY_SIZE];
    cache_key_named(c, LETTER_COUNTER, what, key);
    struct call *call = cache_call_new(c, LANE_UNCOUNT, key);
    call->req.number = 1;
    cache_submit(call);
}

struct op *cache_first(struct cache *c, struct span what, uint64_t life_ms, cache_done_fn *done,
                       void *arg)
{
    char key[ITEM_KEY_SIZE];
    cache_key_named(c, LETTER_MARK, what, key);
    struct call *call = cache_call_new(c, LANE_FIRST, key);
    call->op.arg = arg;
    call->answer = cache_answer_done;
    call->fn.done = done;
    call->req.life_ms = life_ms < LIFE_MOST_MS ? life_ms : LIFE_MOST_MS;
    cache_submit_with_deadline(call);
    return &call->op;
}

/* A second more of life: memcached's seconds begin anywhere. */
struct op *cache_leak(struct cache *c, uint64_t mailbox_id, uint64_t interval_ms, unsigned burst,
                      cache_done_fn *done, void *arg)
{
    char key[ITEM_KEY_SIZE];
    uint64_t life_ms = interval_ms * burst + 1000;
    cache_key_mailbox(c, LETTER_BUCKET, mailbox_id, key);
    struct call *call = cache_call_new(c, LANE_LEAK, key);
    call->op.arg = arg;
    call->answer = cache_answer_done;
    call->fn.done = done;
    call->req.interval_ms = interval_ms;
    call->req.burst = burst;
    call->req.life_ms = life_ms < LIFE_MOST_MS ? life_ms : LIFE_MOST_MS;
    cache_submit_with_deadline(call);
    return &call->op;
}

/* --- once a second --------------------------------------------------------------------------- */

static void answer_probe(struct call *call, enum err e)
{
    (void)e;
    call->server->probed = false;
}

/* So that health tells about a server that is not used, and about its return. */
static void probe(struct cache *c, struct server *s)
{
    if (!s->probed) {
        struct call *call = cache_call_new(c, LANE_PROBE, "mf:probe");
        call->server = s;
        call->answer = answer_probe;
        s->probed = true;
        cache_submit(call);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct cache *c = t->data;
    for (size_t i = 0; i < c->server_count; i++) {
        if (c->servers[i].down) {
            probe(c, &c->servers[i]);
        }
    }
    cache_leases_tick(c);
}

/* --- open and close -------------------------------------------------------------------------- */

/* Ketama: the loss of a server, or a new one, moves the keys of one server only. */
static memcached_st *ring_of(const struct config_list *servers)
{
    memcached_st *ring = memcached_create(NULL);
    CHECK(ring);
    memcached_behavior_set(ring, MEMCACHED_BEHAVIOR_KETAMA, 1);
    for (size_t i = 0; i < servers->n; i++) {
        char host[256];
        uint16_t port;
        cache_server_name(servers->v[i], host, sizeof host, &port);
        CHECK(memcached_server_add(ring, host, port) == MEMCACHED_SUCCESS);
    }
    return ring;
}

static uint64_t longest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void open_server(struct cache *c, struct server *s, const char *name)
{
    s->name = mem_strdup(name);
    s->lane = lane_open(
        c->loop, &(struct lane_options){ .server = name,
                                         .timeout_ms = c->timeout_ms,
                                         .retry_ms = longest(c->list_ttl_ms, c->account_ttl_ms),
                                         .seal = c->seal });
    probe(c, s);
}

struct cache *cache_open(struct loop *l, const struct cache_options *o)
{
    struct cache *c = NEW(struct cache);
    c->loop = l;
    c->seal = o->seal;
    cache_set_epoch(c, 0);
    arc4random_buf(&c->life, sizeof c->life);
    c->timeout_ms = o->timeout_ms;
    c->list_ttl_ms = o->list_ttl_ms;
    c->account_ttl_ms = o->account_ttl_ms;
    c->tombstone_ttl_ms = o->tombstone_ttl_ms;
    list_init(&c->fresh);
    list_init(&c->waiting);
    cache_leases_init(&c->leases);
    c->deadline.data = c->tick.data = c->turn.data = c->again.data = c;
    CHECK(uv_timer_init(loop_uv(l), &c->deadline) == 0);
    CHECK(uv_timer_init(loop_uv(l), &c->tick) == 0);
    CHECK(uv_prepare_init(loop_uv(l), &c->turn) == 0);
    CHECK(uv_idle_init(loop_uv(l), &c->again) == 0);
    uv_timer_start(&c->tick, on_tick, TICK_MS, TICK_MS);
    uv_prepare_start(&c->turn, on_turn);
    c->refs = 4;
    c->ring = ring_of(o->servers);
    c->server_count = o->servers->n;
    c->servers = NEW_ARRAY(struct server, c->server_count);
    for (size_t i = 0; i < c->server_count; i++) {
        open_server(c, &c->servers[i], o->servers->v[i]);
    }
    report_health(c);
    return c;
}

static void on_handle_closed(uv_handle_t *h)
{
    unref(h->data);
}

/* Calls that were refused are still on their way through the loop; they keep c. */
void cache_close(struct cache **cp)
{
    struct cache *c = *cp;
    if (!c) {
        return;
    }
    *cp = NULL;
    c->closed = true;
    for (size_t i = 0; i < c->server_count; i++) {
        lane_close(&c->servers[i].lane);
        free(c->servers[i].name);
    }
    cache_leases_fini(&c->leases);
    free(c->servers);
    memcached_free(c->ring);
    c->server_count = 0;
    uv_close((uv_handle_t *)&c->deadline, on_handle_closed);
    uv_close((uv_handle_t *)&c->tick, on_handle_closed);
    uv_close((uv_handle_t *)&c->turn, on_handle_closed);
    uv_close((uv_handle_t *)&c->again, on_handle_closed);
}
