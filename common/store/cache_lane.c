/*
 * cache_lane: requests against one server, on the loop.
 *
 * A request goes through named steps: a question is asked, and its answer is the next step, until
 * it is finished. It knows no mailbox and no session, and decides nothing about who may fill or
 * hold a lease beyond what the items say.
 *
 * The protocol. A reader that finds nothing adds a placeholder with a token of its own; its fill
 * is stored only in the place of that very placeholder. A writer sets a tombstone before its commit
 * and after it, over whatever is there. So a fill that began before a commit finds a tombstone, or
 * nothing, where its placeholder was, and is dropped. That it is the very placeholder is told by
 * its cas on the connection that set it, and by its token when that connection is gone; leases
 * likewise.
 */
#include "store/cache_lane.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "store/wire.h"

enum {
    RETRIES_MAX = 65536,
    TRIES = 3 /* races lost before a lease counts as somebody else's, or a bucket as full */
};

#define PLACEHOLDER_LIFE_MS 5000 /* longer than a statement may take */
#define RETRY_PAUSE_MS      1000
#define SPLIT_MAX           ((size_t)64 << 20) /* of all long values under way with a server */

struct lane {
    const struct seal *seal;
    struct cache_server *server;
    uint64_t retry_ms;
    struct list retries;     /* of struct retry, oldest first: not under way */
    struct list under_way;   /* the same, asked */
    size_t retry_count;      /* of both */
    size_t split;            /* octets that long values under way may take */
    uint64_t retry_after_ms; /* the server has no room for them just now */
    bool closed;
};

/* A tombstone that could not be set. */
struct retry {
    struct list link;
    struct lane *lane;
    struct cache_question question;
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

typedef void step_fn(struct lane_request *r, const struct cache_answer *a);

static void release_whole(struct lane_request *r)
{
    buf_fini(&r->whole);
    r->lane->split -= r->split;
    r->split = 0;
}

/* A value in parts is in memory for many answers' time, and a head is easily forged. */
static bool reserve_split(struct lane_request *r, size_t octets)
{
    if (octets > SPLIT_MAX - r->lane->split) {
        return false;
    }
    r->lane->split += octets;
    r->split = octets;
    return true;
}

/* Hands the request back; it may be gone on return. */
static void finish(struct lane_request *r, enum err e)
{
    release_whole(r);
    r->err = e;
    r->done(r);
}

static void on_answer(struct cache_question *q, const struct cache_answer *a)
{
    struct lane_request *r = CONTAINER_OF(q, struct lane_request, question);
    if (a->err == ERR_TEMP) {
        finish(r, ERR_TEMP);
    } else {
        r->step(r, a);
    }
}

/* A step's question was asked, or could not be. */
static void go_on(struct lane_request *r, enum err asked)
{
    if (asked != ERR_OK) {
        finish(r, asked == ERR_NOTFOUND ? ERR_NOTFOUND : ERR_TEMP);
    }
}

static enum err look(struct lane_request *r, step_fn *step)
{
    r->step = step;
    return cache_server_get(r->lane->server, &r->question, r->key);
}

/* What stands there, if anything does. */
static struct item item_of(const struct cache_answer *a)
{
    return a->err == ERR_OK ? item_parse(a->value) : (struct item){ .type = ITEM_UNKNOWN };
}

static bool is_ours(const struct lane_request *r, const struct item *it, enum item_type type)
{
    return it->type == type && memcmp(it->token.p, r->token, ITEM_TOKEN_SIZE) == 0;
}

/* The cas that the request was given still says something. */
static bool is_seen(const struct lane_request *r)
{
    return r->seen.cas && r->seen.connection == cache_server_connection(r->lane->server);
}

static void set_seen(struct lane_request *r, uint64_t cas)
{
    r->seen = (struct cache_seen){ cas, cache_server_connection(r->lane->server) };
}

/* Writes a mark in the place of what has this cas; 0: where nothing is. */
static enum err set_mark(struct lane_request *r, enum item_type type, uint64_t life_ms,
                         uint64_t cas, step_fn *step)
{
    char mark[ITEM_MARK_SIZE];
    r->step = step;
    return cache_server_set(r->lane->server, &r->question, r->key, item_mark(type, r->token, mark),
                            seconds(life_ms), cas ? CACHE_SAME : CACHE_ABSENT, cas);
}

/* --- get ------------------------------------------------------------------------------------- */

static void on_placeholder(struct lane_request *r, const struct cache_answer *a)
{
    r->may_fill = a->err == ERR_OK;
    set_seen(r, a->cas);
    finish(r, ERR_NOTFOUND);
}

/* There is no value: absent, damaged, or lived out. cas: of what the placeholder takes the place
 * of.
 */
static void get_miss(struct lane_request *r, uint64_t cas)
{
    if (r->fills) {
        go_on(r, set_mark(r, ITEM_PLACEHOLDER, PLACEHOLDER_LIFE_MS, cas, on_placeholder));
    } else {
        finish(r, ERR_NOTFOUND);
    }
}

static void get_unseal(struct lane_request *r, uint64_t cas, const struct item *it,
                       struct span sealed)
{
    buf_init(&r->value, sealed.n);
    uint64_t now = unix_ms();
    enum err e = item_unseal(r->lane->seal, r->key, it, sealed, now, r->life_ms, &r->value);
    if (e == ERR_OK) {
        r->age_ms = now > it->issued_ms ? now - it->issued_ms : 0;
        finish(r, ERR_OK);
        return;
    }
    r->forged = e == ERR_CORRUPT;
    get_miss(r, cas);
}

static void on_get_part(struct lane_request *r, const struct cache_answer *a);

/* They are named by the generation, which is in the head. */
static void get_part(struct lane_request *r)
{
    char key[ITEM_KEY_SIZE];
    struct span whole = buf_span(&r->whole);
    item_part_key(item_parse(span_first(whole, ITEM_HEAD_SIZE)).generation, r->part, key);
    r->step = on_get_part;
    go_on(r, cache_server_get(r->lane->server, &r->question, key));
}

static void on_get_part(struct lane_request *r, const struct cache_answer *a)
{
    if (r->unwanted) {
        finish(r, ERR_TEMP);
    } else if (a->err != ERR_OK || buf_add(&r->whole, a->value) != ERR_OK) {
        get_miss(r, r->cas);
    } else if (++r->part < r->parts) {
        get_part(r);
    } else {
        struct span whole = buf_span(&r->whole);
        struct item head = item_parse(span_first(whole, ITEM_HEAD_SIZE));
        get_unseal(r, r->cas, &head, span_skip(whole, ITEM_HEAD_SIZE));
    }
}

static void get_split(struct lane_request *r, const struct cache_answer *a, const struct item *it)
{
    size_t octets = ITEM_HEAD_SIZE + (size_t)it->parts * ITEM_MAX;
    if (!reserve_split(r, octets)) {
        finish(r, ERR_NOTFOUND);
        return;
    }
    r->cas = a->cas;
    r->parts = it->parts;
    buf_init(&r->whole, octets);
    buf_reserve(&r->whole, octets); /* rather than to grow, and be copied, for each part */
    buf_add(&r->whole, it->head);
    get_part(r);
}

static void on_get(struct lane_request *r, const struct cache_answer *a)
{
    if (r->buried && !cache_server_settled(r->lane->server)) {
        finish(r, ERR_NOTFOUND);
        return;
    }
    struct item it = item_of(a);
    switch (it.type) {
    case ITEM_PLACEHOLDER:
    case ITEM_TOMBSTONE:
    case ITEM_FOREIGN:
        finish(r, ERR_NOTFOUND);
        break;
    case ITEM_VALUE:
        if (it.parts) {
            get_split(r, a, &it);
        } else {
            get_unseal(r, a->cas, &it, it.sealed);
        }
        break;
    default:
        r->forged = a->err == ERR_OK;
        get_miss(r, a->cas);
    }
}

/* --- put and set ----------------------------------------------------------------------------- */

static void on_part_deleted(struct lane_request *r, const struct cache_answer *a);

/* Parts that no head will name are only in the way of others. */
static void delete_part(struct lane_request *r)
{
    char key[ITEM_KEY_SIZE];
    if (r->part == 0) {
        finish(r, ERR_NOTFOUND);
        return;
    }
    struct item head = item_parse(span_first(buf_span(&r->whole), ITEM_HEAD_SIZE));
    item_part_key(head.generation, --r->part, key);
    r->step = on_part_deleted;
    go_on(r, cache_server_delete(r->lane->server, &r->question, key, 0));
}

static void on_part_deleted(struct lane_request *r, const struct cache_answer *a)
{
    (void)a;
    delete_part(r);
}

static void on_stored(struct lane_request *r, const struct cache_answer *a)
{
    if (a->err == ERR_OK || r->parts == 0) {
        finish(r, a->err == ERR_OK ? ERR_OK : ERR_NOTFOUND);
    } else {
        delete_part(r);
    }
}

static void on_part_stored(struct lane_request *r, const struct cache_answer *a);
static bool retry_tombstones(struct lane *l);

/* The parts one after the other, then the item that names them, or is all of it: never ahead of a
 * tombstone that was refused while an answer was late. */
static enum err store_next(struct lane_request *r)
{
    struct span whole = buf_span(&r->whole), head = span_first(whole, ITEM_HEAD_SIZE);
    struct cache_server *s = r->lane->server;
    char key[ITEM_KEY_SIZE];
    if (r->part < r->parts) {
        item_part_key(item_parse(head).generation, r->part, key);
        r->step = on_part_stored;
        return cache_server_set(s, &r->question, key,
                                item_part(span_skip(whole, ITEM_HEAD_SIZE), r->part),
                                seconds(r->life_ms), CACHE_ALWAYS, 0);
    }
    if (!retry_tombstones(r->lane)) {
        return ERR_TEMP;
    }
    r->step = on_stored;
    return cache_server_set(s, &r->question, r->key, r->parts ? head : whole, seconds(r->life_ms),
                            r->cas ? CACHE_SAME : CACHE_ALWAYS, r->cas);
}

static void on_part_stored(struct lane_request *r, const struct cache_answer *a)
{
    if (a->err == ERR_OK) {
        r->part++;
        go_on(r, store_next(r));
    } else {
        delete_part(r);
    }
}

/* Seals and stores: in the place of what has this cas, or of anything if that is 0. NOTFOUND: it is
 * too long to be cached, or too much is under way. */
static enum err store(struct lane_request *r, uint64_t cas)
{
    struct span plain = buf_span(&r->value);
    buf_init(&r->whole, plain.n + SEAL_OVERHEAD + ITEM_HEAD_SIZE);
    enum err e = item_seal(r->lane->seal, r->key, unix_ms(), plain, &r->whole, &r->parts);
    buf_release(&r->value);
    r->cas = cas;
    bool fits = e == ERR_OK && (r->parts == 0 || reserve_split(r, buf_len(&r->whole)));
    return fits ? store_next(r) : ERR_NOTFOUND;
}

/* Anything but our placeholder means that somebody has written since: what we read may be old. */
static void on_put_look(struct lane_request *r, const struct cache_answer *a)
{
    struct item it = item_of(a);
    if (is_ours(r, &it, ITEM_PLACEHOLDER)) {
        go_on(r, store(r, a->cas));
    } else {
        finish(r, ERR_NOTFOUND);
    }
}

/* --- leases ---------------------------------------------------------------------------------- */

static void on_claim_look(struct lane_request *r, const struct cache_answer *a);

/* What was there is another item than we thought: look, and try once more. */
static void on_claimed(struct lane_request *r, const struct cache_answer *a)
{
    if (a->err == ERR_OK) {
        set_seen(r, a->cas);
        finish(r, ERR_OK);
    } else if (a->err == ERR_LIMIT) {
        finish(r, ERR_TEMP);
    } else if (r->tries++ < TRIES) {
        go_on(r, look(r, on_claim_look));
    } else {
        finish(r, ERR_BUSY);
    }
}

static void on_claim_look(struct lane_request *r, const struct cache_answer *a)
{
    struct item it = item_of(a);
    if (it.type == ITEM_LEASE && !is_ours(r, &it, ITEM_LEASE)) {
        finish(r, ERR_BUSY);
    } else {
        go_on(r, set_mark(r, ITEM_LEASE, r->life_ms, a->cas, on_claimed));
    }
}

static enum err begin_claim(struct lane_request *r)
{
    return set_mark(r, ITEM_LEASE, r->life_ms, is_seen(r) ? r->seen.cas : 0, on_claimed);
}

static void on_drop_look(struct lane_request *r, const struct cache_answer *a);

static void on_dropped(struct lane_request *r, const struct cache_answer *a)
{
    if (a->err == ERR_BUSY && r->tries++ < TRIES) {
        go_on(r, look(r, on_drop_look));
    } else {
        finish(r, ERR_OK);
    }
}

static enum err give_back(struct lane_request *r, uint64_t cas)
{
    r->step = on_dropped;
    return cache_server_delete(r->lane->server, &r->question, r->key, cas);
}

static void on_drop_look(struct lane_request *r, const struct cache_answer *a)
{
    struct item it = item_of(a);
    if (is_ours(r, &it, ITEM_LEASE)) {
        go_on(r, give_back(r, a->cas));
    } else {
        finish(r, ERR_OK);
    }
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

static void on_read(struct lane_request *r, const struct cache_answer *a)
{
    r->number = 0;
    r->forged = a->err == ERR_OK && !parse_counter(a->value, &r->number);
    finish(r, ERR_OK);
}

static void on_begun(struct lane_request *r, const struct cache_answer *a)
{
    finish(r, a->err == ERR_OK ? ERR_OK : ERR_NOTFOUND);
}

/* A counter's life begins with the first that it counts. What is no number gives way to one. */
static void on_counted(struct lane_request *r, const struct cache_answer *a)
{
    char digits[24];
    if (a->err == ERR_CORRUPT) {
        int n = snprintf(digits, sizeof digits, "%" PRIu64, r->number);
        r->forged = true;
        r->step = on_begun;
        go_on(r, cache_server_set(r->lane->server, &r->question, r->key, span_of(digits, (size_t)n),
                                  seconds(r->life_ms), CACHE_ALWAYS, 0));
        return;
    }
    r->number = a->number;
    finish(r, a->err == ERR_OK ? ERR_OK : ERR_NOTFOUND);
}

/* A counter that has ended meanwhile stays ended. */
static void on_uncounted(struct lane_request *r, const struct cache_answer *a)
{
    finish(r, a->err == ERR_OK ? ERR_OK : ERR_NOTFOUND);
}

static void on_first(struct lane_request *r, const struct cache_answer *a)
{
    finish(r, a->err == ERR_LIMIT ? ERR_NOTFOUND : a->err);
}

/* --- buckets --------------------------------------------------------------------------------- */

/*
 * A leaky bucket as one number (GCRA): when it will have run empty. A time that no clock near ours
 * can have written is cut down to a full bucket, from now: nodes whose clocks differ can't shut
 * anybody out for longer than a bucket takes to run empty.
 */
static bool bucket_read(struct lane_request *r, const struct cache_answer *a, uint64_t now,
                        uint64_t *empty_at)
{
    struct item it = item_of(a);
    struct buf plain;
    bool ok = false;
    if (it.type != ITEM_VALUE || it.parts) {
        r->forged = a->err == ERR_OK;
        return false;
    }
    buf_init(&plain, it.sealed.n);
    enum err e = item_unseal(r->lane->seal, r->key, &it, it.sealed, now, r->life_ms, &plain);
    if (e == ERR_OK) {
        struct wire w = { .rest = buf_span(&plain) };
        *empty_at = wire_get64(&w);
        ok = wire_end(&w);
    }
    r->forged = e == ERR_CORRUPT || (e == ERR_OK && !ok);
    buf_fini(&plain);
    return ok;
}

static enum err bucket_write(struct lane_request *r, uint64_t now, uint64_t empty_at, uint64_t cas,
                             step_fn *step)
{
    char number[8];
    struct buf out;
    unsigned parts;
    wire_put64(number, empty_at);
    buf_init(&out, sizeof number + SEAL_OVERHEAD + ITEM_HEAD_SIZE);
    CHECK(item_seal(r->lane->seal, r->key, now, span_of(number, sizeof number), &out, &parts) ==
          ERR_OK);
    r->step = step;
    enum err e = cache_server_set(r->lane->server, &r->question, r->key, buf_span(&out),
                                  seconds(r->life_ms), cas ? CACHE_SAME : CACHE_ABSENT, cas);
    buf_fini(&out);
    return e;
}

static void on_leak_look(struct lane_request *r, const struct cache_answer *a);

/*
 * A race that is lost again and again is one with others who pour into the same bucket: it counts
 * as full, or they would all get in by coming at once.
 */
static void on_poured(struct lane_request *r, const struct cache_answer *a, enum err told)
{
    if (a->err == ERR_OK) {
        finish(r, told);
    } else if (a->err == ERR_LIMIT) {
        finish(r, ERR_NOTFOUND);
    } else if (++r->tries < TRIES) {
        go_on(r, look(r, on_leak_look));
    } else {
        finish(r, ERR_LIMIT);
    }
}

static void on_poured_in(struct lane_request *r, const struct cache_answer *a)
{
    on_poured(r, a, ERR_OK);
}

static void on_cut_down(struct lane_request *r, const struct cache_answer *a)
{
    on_poured(r, a, ERR_LIMIT);
}

static void on_leak_look(struct lane_request *r, const struct cache_answer *a)
{
    if (item_of(a).type == ITEM_FOREIGN) {
        finish(r, ERR_NOTFOUND);
        return;
    }
    uint64_t now = unix_ms(), empty_at = now, full = now + r->burst * r->interval_ms;
    bool known = bucket_read(r, a, now, &empty_at);
    bool beyond = known && empty_at > full;
    empty_at = beyond ? full : empty_at < now ? now : empty_at;
    bool fits = empty_at + r->interval_ms <= full;
    if (!fits && !beyond) {
        finish(r, ERR_LIMIT);
    } else {
        go_on(r, bucket_write(r, now, fits ? empty_at + r->interval_ms : empty_at, a->cas,
                              fits ? on_poured_in : on_cut_down));
    }
}

/* --- tombstones ------------------------------------------------------------------------------ */

static enum err ask_tombstone(struct lane *l, struct cache_question *q, const char *key,
                              uint32_t life)
{
    char mark[ITEM_MARK_SIZE];
    return cache_server_set(l->server, q, key, item_mark(ITEM_TOMBSTONE, NULL, mark), life,
                            CACHE_ALWAYS, 0);
}

static void forget_retry(struct retry *y)
{
    y->lane->retry_count--;
    list_del(&y->link);
    free(y);
}

static struct retry *oldest_retry(const struct lane *l)
{
    return CONTAINER_OF(l->retries.next, struct retry, link);
}

/* A server that is told of them, and has no room, is not owed anything: it is read, and tried again
 * after a pause. */
static void on_retried(struct cache_question *q, const struct cache_answer *a)
{
    struct retry *y = CONTAINER_OF(q, struct retry, question);
    struct lane *l = y->lane;
    if (a->err == ERR_OK || l->closed) {
        forget_retry(y);
        return;
    }
    l->retry_after_ms = a->err == ERR_TEMP ? 0 : monotonic_ms() + RETRY_PAUSE_MS;
    list_del(&y->link);
    list_add(&l->retries, &y->link);
}

/* False: the server is owed tombstones, and they can't be asked for now. What is asked behind them
 * is done behind them. */
static bool retry_tombstones(struct lane *l)
{
    uint64_t now = list_empty(&l->retries) ? 0 : monotonic_ms();
    while (!list_empty(&l->retries) && now >= l->retry_after_ms) {
        struct retry *y = oldest_retry(l);
        if (y->until_ms <= now) {
            forget_retry(y);
        } else if (ask_tombstone(l, &y->question, y->key, y->life) == ERR_OK) {
            list_del(&y->link);
            list_add(&l->under_way, &y->link);
        } else {
            return false;
        }
    }
    return true;
}

/* The oldest one has to go when there are too many: its list has the least of its life left. */
static void keep_for_retry(struct lane *l, const char *key, uint32_t life, enum err why)
{
    if (l->retry_count >= RETRIES_MAX && !list_empty(&l->retries)) {
        forget_retry(oldest_retry(l));
    }
    struct retry *y = NEW(struct retry);
    y->lane = l;
    y->question.done = on_retried;
    memcpy(y->key, key, sizeof y->key);
    y->life = life;
    y->until_ms = monotonic_ms() + l->retry_ms;
    list_add(&l->retries, &y->link);
    l->retry_count++;
    l->retry_after_ms = why == ERR_TEMP ? 0 : monotonic_ms() + RETRY_PAUSE_MS;
}

/* One second more: memcached's seconds begin anywhere, and this life may not be shorter. */
static uint32_t tombstone_life(const struct lane_request *r)
{
    return seconds(r->life_ms) + 1;
}

static void on_tombstone(struct cache_question *q, const struct cache_answer *a)
{
    struct lane_request *r = CONTAINER_OF(q, struct lane_request, question);
    if (a->err != ERR_OK && !r->lane->closed) {
        keep_for_retry(r->lane, r->key, tombstone_life(r), a->err);
    }
    finish(r, a->err == ERR_OK ? ERR_OK : ERR_TEMP);
}

static enum err begin_tombstone(struct lane_request *r)
{
    r->question.done = on_tombstone;
    return ask_tombstone(r->lane, &r->question, r->key, tombstone_life(r));
}

/* --- requests -------------------------------------------------------------------------------- */

static void on_probed(struct lane_request *r, const struct cache_answer *a)
{
    finish(r, a->err);
}

/* Asks the first question. */
static enum err begin(struct lane_request *r)
{
    struct cache_server *s = r->lane->server;
    struct cache_question *q = &r->question;
    switch (r->verb) {
    case LANE_GET:
        return look(r, on_get);
    case LANE_PUT:
        return is_seen(r) ? store(r, r->seen.cas) : look(r, on_put_look);
    case LANE_SET:
        return store(r, 0);
    case LANE_TOMBSTONE:
        return begin_tombstone(r);
    case LANE_CLAIM:
        return begin_claim(r);
    case LANE_DROP:
        return is_seen(r) ? give_back(r, r->seen.cas) : look(r, on_drop_look);
    case LANE_READ:
        return look(r, on_read);
    case LANE_COUNT:
        r->step = on_counted;
        return cache_server_count(s, q, r->key, r->number, seconds(r->life_ms));
    case LANE_UNCOUNT:
        r->step = on_uncounted;
        return cache_server_take(s, q, r->key, r->number);
    case LANE_FIRST:
        r->step = on_first;
        return cache_server_set(s, q, r->key, SPAN("1"), seconds(r->life_ms), CACHE_ABSENT, 0);
    case LANE_LEAK:
        return look(r, on_leak_look);
    case LANE_PROBE:
        r->step = on_probed;
        return cache_server_probe(s, q);
    }
    UNREACHABLE();
}

enum err lane_submit(struct lane *l, struct lane_request *r)
{
    r->lane = l;
    r->question.done = on_answer;
    enum err e = retry_tombstones(l) ? begin(r) : ERR_TEMP;
    if (e == ERR_OK) {
        return ERR_OK;
    }
    release_whole(r);
    if (r->verb == LANE_TOMBSTONE) {
        keep_for_retry(l, r->key, tombstone_life(r), ERR_TEMP);
    }
    return e == ERR_NOTFOUND ? ERR_NOTFOUND : ERR_TEMP;
}

void lane_flush(struct lane *l)
{
    retry_tombstones(l);
    cache_server_flush(l->server);
}

void lane_read(struct lane *l)
{
    cache_server_read(l->server);
}

/* --- open and close -------------------------------------------------------------------------- */

struct lane *lane_open(struct loop *loop, const struct lane_options *o)
{
    struct lane *l = NEW(struct lane);
    l->seal = o->seal;
    l->server = cache_server_open(loop, o->server, o->timeout_ms);
    l->retry_ms = o->retry_ms;
    list_init(&l->retries);
    list_init(&l->under_way);
    return l;
}

void lane_close(struct lane **lp)
{
    struct lane *l = *lp;
    *lp = NULL;
    l->closed = true;
    cache_server_close(&l->server);
    while (!list_empty(&l->retries)) {
        forget_retry(oldest_retry(l));
    }
    free(l);
}
