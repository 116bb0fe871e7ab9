/*
 * cache: keys, calls with deadlines, leases and health.
 *
 * A call is allocated here and goes to the lane of its key's server. It is answered once, by its
 * lane or at its deadline, whichever is first, and freed when the lane has handed it back. What a
 * turn of the loop asks goes out at its end, and deadlines count from then on. A lease belongs to
 * its session; the cache only renews it. What is in an item and who may write it is cache_lane.c's,
 * and nothing here is worth a retry but a tombstone.
 */
#include "store/cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <libmemcached/memcached.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/cache_lane.h"

#define PREFIX_SIZE 24 /* mf: and an epoch in hex with its colon */

#define TICK_MS      1000
#define RENEW_MS     10000
#define OWED_MOST    65536
#define PUT_OFF_MOST 4
/* What was hashed is remembered for an hour; the value says by itself when it no longer holds. That
 * a client was in as a user lives as long, from the last time that it was noted, and the password
 * that is noted with it is believed for half of that: so one is hashed again after an hour and a
 * half at the latest. */
#define VERIFIED_LIFE_MS (60 * 60 * 1000)
/* memcached takes a longer life for a date. */
#define LIFE_MOST_MS (UINT64_C(30) * 24 * 60 * 60 * 1000)

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
    char prefix[PREFIX_SIZE]; /* of all keys in this epoch */
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
    struct list leases;  /* in the order of renewal */
    struct list owed;    /* leases that nobody holds, and that may not have been given back */
    size_t owed_count;
    bool asked; /* something since the flush began */
    bool closed;
    size_t refs; /* the calls, and the handles until they are closed */
};

struct lease {
    struct list link; /* in cache.leases, while it is renewed */
    char key[ITEM_KEY_SIZE];
    uint8_t token[ITEM_TOKEN_SIZE];
    struct cache_seen seen;
    uint64_t renew_at;
    struct call *renewal; /* under way, or NULL */
};

/* A lease that is to be given back. */
struct owed {
    struct list link;
    char key[ITEM_KEY_SIZE];
    uint8_t token[ITEM_TOKEN_SIZE];
    uint64_t until; /* it has ended by itself */
};

/* Tombstones of one cache_tombstone. */
struct group {
    struct op op;
    struct task begun;
    cache_done_fn *done;
    size_t missing;
    enum err err;
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

/* A cache_lease_take or cache_lease_list under way: one claim after the other, and the list. */
struct taking {
    struct op op;
    struct cache *cache;
    cache_lease_fn *done;
    cache_opened_fn *opened; /* in its place, with the list */
    uint64_t mailbox_id;
    unsigned slots, first, tried;
    bool unknown; /* a claim was not answered: that slot may be free */
    bool decided; /* about the lease: err, won */
    enum err err;
    struct lease *won;
    struct call *list; /* asked for; NULL: not, or answered too early */
    unsigned calls;    /* that are not answered */
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

/* Epoch and kind; returns where the owner goes. */
static char *begin_key(const struct cache *c, char letter, char out[ITEM_KEY_SIZE])
{
    memcpy(out, c->prefix, c->prefix_n);
    out[c->prefix_n] = letter;
    out[c->prefix_n + 1] = ':';
    return out + c->prefix_n + 2;
}

/* A name goes in as a keyed hash: a memcached tells its keys to whoever asks. */
static void hashed_key_text(const struct cache *c, char letter, const char *label, struct span name,
                            char out[ITEM_KEY_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t mac[SEAL_MAC_SIZE];
    char *to = begin_key(c, letter, out);
    seal_mac(c->seal, label, &name, 1, mac);
    for (size_t i = 0; i < 16; i++) {
        *to++ = digits[mac[i] >> 4];
        *to++ = digits[mac[i] & 15];
    }
    *to = '\0';
}

static void mailbox_key_text(const struct cache *c, char letter, uint64_t mailbox_id,
                             char out[ITEM_KEY_SIZE])
{
    *buf_decimal(begin_key(c, letter, out), mailbox_id) = '\0';
}

static void named_key_text(const struct cache *c, char letter, struct span what,
                           char out[ITEM_KEY_SIZE])
{
    hashed_key_text(c, letter, "cache name", what, out);
}

static void key_text(const struct cache *c, const struct cache_key *k, char out[ITEM_KEY_SIZE])
{
    switch (k->kind) {
    case CACHE_ADDRESS:
        hashed_key_text(c, 'a', "cache address", k->address, out);
        return;
    case CACHE_LIST:
        mailbox_key_text(c, 'l', k->mailbox_id, out);
        return;
    case CACHE_VERIFIED:
        named_key_text(c, 'v', k->name, out);
        return;
    case CACHE_KNOWN:
        named_key_text(c, 'w', k->name, out);
        return;
    }
    UNREACHABLE();
}

/* No two are the same, of whatever node; nothing rests on that nobody could guess one. */
static void new_token(struct cache *c, uint8_t token[ITEM_TOKEN_SIZE])
{
    c->tokens++;
    memcpy(token, &c->life, sizeof c->life);
    memcpy(token + sizeof c->life, &c->tokens, sizeof c->tokens);
}

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

/* Whose key it is: what stands behind epoch and kind, without the number of a slot. */
static struct span owner_of(const char *key)
{
    struct span rest = span_str(key);
    for (int i = 0; i < 3; i++) {
        rest = span_skip(rest, span_find(rest, ':') + 1);
    }
    return span_first(rest, span_find(rest, ':'));
}

/* All of a mailbox is on one server, which does what it is asked in order. Where a key lies is part
 * of the format: nodes of two versions that don't agree would not see each other's tombstones. */
static struct server *server_of(struct cache *c, const char *key)
{
    if (c->server_count == 0) {
        return NULL;
    }
    struct span owner = owner_of(key);
    uint32_t i = memcached_generate_hash(c->ring, owner.p, owner.n);
    CHECK(i < c->server_count);
    return &c->servers[i];
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

static void give_back(struct call *claim);
static void owe(const struct call *call);
static void group_one_less(struct group *g, enum err e);
static void answer_nobody(struct call *call, enum err e);

/* The cache was closed while the call was under way: nobody is told. */
static void forget(struct call *call)
{
    if (call->group && !call->answered) {
        call->group->op.cancelled = true;
        group_one_less(call->group, ERR_TEMP);
    }
    if (call->taking && !call->answered && --call->taking->calls == 0) {
        free(call->taking->won);
        free(call->taking);
    }
}

/* A claim or a return that may have been done or not: nobody holds the lease. */
static bool is_lease_uncertain(const struct call *call, enum err e)
{
    bool nobodys = call->claims || call->req.verb == LANE_DROP;
    return e == ERR_TEMP && call->server && nobodys;
}

static void answer_returned(struct call *call)
{
    enum err e = call->req.err;
    bool late = call->answered;
    note_server(call->cache, call->server, e == ERR_TEMP);
    stats_add(STAT_cache_forged, call->req.forged);
    answer_once(call, e);
    if (late && call->req.verb == LANE_CLAIM && e == ERR_OK) {
        give_back(call);
    } else if (is_lease_uncertain(call, e)) {
        owe(call);
    }
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

static void answer_nobody(struct call *call, enum err e)
{
    (void)call, (void)e;
}

/* The caller fills in the rest and submits it. */
static struct call *call_new(struct cache *c, enum lane_verb verb, const char *key)
{
    struct call *call = NEW(struct call);
    c->refs++;
    call->cache = c;
    call->server = server_of(c, key);
    call->answer = answer_nobody;
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

/* Without a server, or when that is not to be asked: it returns before the loop waits. */
static void submit(struct call *call)
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

static void submit_with_deadline(struct call *call)
{
    list_add(&call->cache->fresh, &call->link);
    submit(call);
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

static struct cache_reply reply_of(struct call *call, enum err e)
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
    struct cache_reply reply = reply_of(call, e);
    if (!call->op.cancelled) {
        call->fn.get(call->op.arg, &reply);
    }
}

static struct call *get_call(struct cache *c, const struct cache_key *k, bool fills)
{
    char key[ITEM_KEY_SIZE];
    key_text(c, k, key);
    struct call *call = call_new(c, LANE_GET, key);
    call->req.fills = fills;
    call->req.buried = !is_plain(k->kind);
    call->req.life_ms = life_of(c, k->kind);
    if (fills) {
        new_token(c, call->req.token);
    }
    return call;
}

struct op *cache_get(struct cache *c, const struct cache_key *k, cache_get_fn *done, void *arg)
{
    struct call *call = get_call(c, k, !is_plain(k->kind));
    call->op.arg = arg;
    call->answer = answer_get;
    call->fn.get = done;
    submit_with_deadline(call);
    return &call->op;
}

static void store(struct cache *c, enum lane_verb verb, const struct cache_key *k,
                  const struct cache_fill *f, struct span value)
{
    char key[ITEM_KEY_SIZE];
    key_text(c, k, key);
    struct call *call = call_new(c, verb, key);
    if (f) {
        memcpy(call->req.token, f->token, sizeof call->req.token);
        call->req.seen = f->seen;
    }
    call->req.life_ms = life_of(c, k->kind);
    buf_init(&call->req.value, value.n);
    buf_add(&call->req.value, value);
    submit(call);
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
        key_text(c, &k[i], key);
        struct call *call = call_new(c, LANE_TOMBSTONE, key);
        call->answer = answer_tombstone;
        call->group = g;
        call->req.life_ms = c->tombstone_ttl_ms;
        submit_with_deadline(call);
    }
    loop_post(c->loop, &g->begun);
    return &g->op;
}

/* --- leases ---------------------------------------------------------------------------------- */

static struct call *lease_call(struct cache *c, enum lane_verb verb, const char *key,
                               const uint8_t token[ITEM_TOKEN_SIZE], struct cache_seen seen)
{
    struct call *call = call_new(c, verb, key);
    call->req.life_ms = LEASE_LIFE_MS;
    call->req.seen = seen;
    memcpy(call->req.token, token, ITEM_TOKEN_SIZE);
    return call;
}

static void take_next(struct taking *t);

/* Its server is asked again once a second, or the mailbox would be held until the lease ends. */
static void owe(const struct call *call)
{
    struct cache *c = call->cache;
    uint64_t now = loop_now(c->loop);
    uint64_t until = call->owed_until ? call->owed_until : now + LEASE_LIFE_MS;
    if (now >= until || c->owed_count == OWED_MOST) {
        return;
    }
    struct owed *o = NEW(struct owed);
    memcpy(o->key, call->req.key, sizeof o->key);
    memcpy(o->token, call->req.token, sizeof o->token);
    o->until = until;
    list_add(&c->owed, &o->link);
    c->owed_count++;
}

static struct owed *next_owed(struct cache *c)
{
    struct list *link = list_pop(&c->owed);
    c->owed_count -= link != NULL;
    return link ? CONTAINER_OF(link, struct owed, link) : NULL;
}

/* Those that fail again are owed again, behind these. */
static void give_back_owed(struct cache *c)
{
    struct owed *o;
    for (size_t n = c->owed_count; n > 0 && (o = next_owed(c)); n--) {
        struct call *call = lease_call(c, LANE_DROP, o->key, o->token, (struct cache_seen){ 0 });
        call->owed_until = o->until;
        free(o);
        submit(call);
    }
}

/* Nobody waited for this claim any more when it was won. */
static void give_back(struct call *claim)
{
    submit(lease_call(claim->cache, LANE_DROP, claim->req.key, claim->req.token, claim->req.seen));
}

static void schedule_renewal(struct cache *c, struct lease *lease)
{
    list_del(&lease->link);
    lease->renew_at = loop_now(c->loop) + RENEW_MS;
    list_add(&c->leases, &lease->link);
}

static struct lease *lease_new(const struct call *claim)
{
    struct lease *lease = NEW(struct lease);
    memcpy(lease->key, claim->req.key, sizeof lease->key);
    memcpy(lease->token, claim->req.token, sizeof lease->token);
    lease->seen = claim->req.seen;
    list_init(&lease->link);
    schedule_renewal(claim->cache, lease);
    return lease;
}

/* Nobody waits for the list any more that was asked for. */
static void abandon_list(struct taking *t)
{
    if (t->list) {
        t->list->taking = NULL;
        t->list->answer = answer_nobody;
        t->list = NULL;
        t->calls--;
    }
}

static void tell_opened(struct taking *t, const struct cache_reply *list)
{
    abandon_list(t);
    if (!t->op.cancelled) {
        t->opened(t->op.arg, t->err, t->won, list);
    } else {
        cache_lease_drop(t->cache, &t->won, NULL, NULL);
    }
    free(t);
}

static void ask_for_list(struct taking *t, bool fills);

/*
 * Of a list that was asked for with the claim, a hit counts that came behind the lease. A miss is
 * asked for again, with the right to fill: that is for the database, and one round more is nothing.
 */
static void answer_list(struct call *call, enum err e)
{
    struct taking *t = call->taking;
    t->calls--;
    t->list = NULL;
    if (t->decided && (call->req.fills || e != ERR_NOTFOUND)) {
        struct cache_reply reply = reply_of(call, e);
        tell_opened(t, &reply);
    } else if (t->decided) {
        ask_for_list(t, true);
    }
}

static void ask_for_list(struct taking *t, bool fills)
{
    struct cache_key k = { .kind = CACHE_LIST, .mailbox_id = t->mailbox_id };
    t->list = get_call(t->cache, &k, fills);
    t->list->answer = answer_list;
    t->list->taking = t;
    t->calls++;
    submit_with_deadline(t->list);
}

static void take_end(struct taking *t, enum err e, struct lease *lease)
{
    if (!t->opened) {
        if (!t->op.cancelled) {
            t->done(t->op.arg, e, lease);
        }
        free(t);
        return;
    }
    t->decided = true;
    t->err = e;
    t->won = lease;
    if (e == ERR_BUSY || t->op.cancelled) {
        tell_opened(t, NULL);
    } else if (!t->list) {
        ask_for_list(t, true);
    }
}

/* A list is read in parts: where the first claim did not win, its head is older than the lease,
 * though its end may come behind it. */
static void answer_take(struct call *call, enum err e)
{
    struct taking *t = call->taking;
    t->calls--;
    t->unknown |= e != ERR_OK && e != ERR_BUSY;
    if (call->req.tries > 0 || t->tried > 0) {
        abandon_list(t);
    }
    if (e == ERR_OK && t->op.cancelled) {
        give_back(call);
        take_end(t, ERR_OK, NULL);
    } else if (e == ERR_OK) {
        take_end(t, ERR_OK, lease_new(call));
    } else if (++t->tried < t->slots && !t->op.cancelled) {
        take_next(t);
    } else {
        take_end(t, t->unknown ? ERR_TEMP : ERR_BUSY, NULL);
    }
}

/* The list is asked for behind the first claim, in the same write, and so read behind it. */
static void take_next(struct taking *t)
{
    struct cache *c = t->cache;
    char key[ITEM_KEY_SIZE];
    uint8_t token[ITEM_TOKEN_SIZE];
    if (t->slots == 0) {
        mailbox_key_text(c, LETTER_LEASE, t->mailbox_id, key);
    } else {
        snprintf(key, sizeof key, "mf:%" PRIx64 ":%c:%" PRIu64 ":%u", c->epoch, LETTER_SLOT,
                 t->mailbox_id, (t->first + t->tried) % t->slots);
    }
    new_token(c, token);
    struct call *call = lease_call(c, LANE_CLAIM, key, token, (struct cache_seen){ 0 });
    call->answer = answer_take;
    call->claims = true;
    call->taking = t;
    t->calls++;
    submit_with_deadline(call);
    if (t->opened && t->tried == 0) {
        ask_for_list(t, false);
    }
}

static struct taking *taking_new(struct cache *c, uint64_t mailbox_id, unsigned slots, void *arg)
{
    struct taking *t = NEW(struct taking);
    *t = (struct taking){ .op = { .arg = arg },
                          .cache = c,
                          .mailbox_id = mailbox_id,
                          .slots = slots,
                          .first = slots ? arc4random_uniform(slots) : 0 };
    return t;
}

struct op *cache_lease_take(struct cache *c, uint64_t mailbox_id, unsigned slots,
                            cache_lease_fn *done, void *arg)
{
    struct taking *t = taking_new(c, mailbox_id, slots, arg);
    t->done = done;
    take_next(t);
    return &t->op;
}

struct op *cache_lease_list(struct cache *c, uint64_t mailbox_id, unsigned slots,
                            cache_opened_fn *done, void *arg)
{
    struct taking *t = taking_new(c, mailbox_id, slots, arg);
    t->opened = done;
    take_next(t);
    return &t->op;
}

/*
 * A lease that somebody else holds by now (our server was gone for a while) is not fought for: no
 * promise rests on it, and both sessions are safe.
 */
static void answer_renewal(struct call *call, enum err e)
{
    struct lease *lease = call->lease;
    if (!lease) { /* dropped meanwhile: what was claimed behind that is nobody's */
        if (e == ERR_OK) {
            give_back(call);
        }
        return;
    }
    lease->renewal = NULL;
    lease->seen = call->req.seen;
    if (e == ERR_BUSY) {
        LOG(LOG_WARN, "lease_lost", F_STR("key", lease->key));
        list_del(&lease->link);
    }
}

static void renew(struct cache *c, struct lease *lease)
{
    schedule_renewal(c, lease);
    if (!lease->renewal) {
        lease->renewal = lease_call(c, LANE_CLAIM, lease->key, lease->token, lease->seen);
        lease->renewal->answer = answer_renewal;
        lease->renewal->lease = lease;
        submit(lease->renewal);
    }
}

static void answer_done(struct call *call, enum err e)
{
    if (call->fn.done && !call->op.cancelled) {
        call->fn.done(call->op.arg, e);
    }
}

struct op *cache_lease_drop(struct cache *c, struct lease **leasep, cache_done_fn *done, void *arg)
{
    struct lease *lease = *leasep;
    if (!lease) {
        return NULL;
    }
    *leasep = NULL;
    struct call *call = lease_call(c, LANE_DROP, lease->key, lease->token, lease->seen);
    call->op.arg = arg;
    call->answer = answer_done;
    call->fn.done = done;
    if (lease->renewal) {
        lease->renewal->lease = NULL;
    }
    list_del(&lease->link);
    free(lease);
    submit_with_deadline(call);
    return done ? &call->op : NULL;
}

/* --- counters, marks and buckets ------------------------------------------------------------- */

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
    named_key_text(c, LETTER_COUNTER, what, key);
    struct call *call = call_new(c, more ? LANE_COUNT : LANE_READ, key);
    call->op.arg = arg;
    call->answer = answer_count;
    call->fn.count = done;
    call->req.number = more;
    call->req.life_ms = life_ms < LIFE_MOST_MS ? life_ms : LIFE_MOST_MS;
    submit_with_deadline(call);
    return &call->op;
}

void cache_uncount(struct cache *c, struct span what)
{
    char key[ITEM_KEY_SIZE];
    named_key_text(c, LETTER_COUNTER, what, key);
    struct call *call = call_new(c, LANE_UNCOUNT, key);
    call->req.number = 1;
    submit(call);
}

struct op *cache_first(struct cache *c, struct span what, uint64_t life_ms, cache_done_fn *done,
                       void *arg)
{
    char key[ITEM_KEY_SIZE];
    named_key_text(c, LETTER_MARK, what, key);
    struct call *call = call_new(c, LANE_FIRST, key);
    call->op.arg = arg;
    call->answer = answer_done;
    call->fn.done = done;
    call->req.life_ms = life_ms < LIFE_MOST_MS ? life_ms : LIFE_MOST_MS;
    submit_with_deadline(call);
    return &call->op;
}

/* A second more of life: memcached's seconds begin anywhere. */
struct op *cache_leak(struct cache *c, uint64_t mailbox_id, uint64_t interval_ms, unsigned burst,
                      cache_done_fn *done, void *arg)
{
    char key[ITEM_KEY_SIZE];
    uint64_t life_ms = interval_ms * burst + 1000;
    mailbox_key_text(c, LETTER_BUCKET, mailbox_id, key);
    struct call *call = call_new(c, LANE_LEAK, key);
    call->op.arg = arg;
    call->answer = answer_done;
    call->fn.done = done;
    call->req.interval_ms = interval_ms;
    call->req.burst = burst;
    call->req.life_ms = life_ms < LIFE_MOST_MS ? life_ms : LIFE_MOST_MS;
    submit_with_deadline(call);
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
        struct call *call = call_new(c, LANE_PROBE, "mf:probe");
        call->server = s;
        call->answer = answer_probe;
        s->probed = true;
        submit(call);
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
    give_back_owed(c);
    while (!list_empty(&c->leases)) {
        struct lease *lease = CONTAINER_OF(c->leases.next, struct lease, link);
        if (lease->renew_at > loop_now(c->loop)) {
            break;
        }
        renew(c, lease);
    }
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
    list_init(&c->leases);
    list_init(&c->owed);
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
    for (struct owed *o; (o = next_owed(c));) {
        free(o);
    }
    free(c->servers);
    memcached_free(c->ring);
    c->server_count = 0;
    uv_close((uv_handle_t *)&c->deadline, on_handle_closed);
    uv_close((uv_handle_t *)&c->tick, on_handle_closed);
    uv_close((uv_handle_t *)&c->turn, on_handle_closed);
    uv_close((uv_handle_t *)&c->again, on_handle_closed);
}

void cache_set_epoch(struct cache *c, uint64_t epoch)
{
    c->epoch = epoch;
    c->prefix_n = (size_t)snprintf(c->prefix, sizeof c->prefix, "mf:%" PRIx64 ":", epoch);
}

uint64_t cache_epoch(const struct cache *c)
{
    return c->epoch;
}
