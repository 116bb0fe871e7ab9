/*
 * cache_lease: who has a mailbox, or one of its places: taken by a claim, with the list asked for
 * behind it; renewed while its session lives; given back, and given back again when nobody knows
 * whether it was had or returned. A lease belongs to its session; the cache only renews it. Nothing
 * here keeps anybody out for longer than a lease lives.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "store/cache_parts.h"

#define RENEW_MS  10000
#define OWED_MOST 65536

struct lease {
    struct list link; /* in leases.held, while it is renewed */
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

/* --- giving back ----------------------------------------------------------------------------- */

static struct call *lease_call(struct cache *c, enum lane_verb verb, const char *key,
                               const uint8_t token[ITEM_TOKEN_SIZE], struct cache_seen seen)
{
    struct call *call = cache_call_new(c, verb, key);
    call->req.life_ms = LEASE_LIFE_MS;
    call->req.seen = seen;
    memcpy(call->req.token, token, ITEM_TOKEN_SIZE);
    return call;
}

/* Its server is asked again once a second, or the mailbox would be held until the lease ends. */
static void owe(const struct call *call)
{
    struct cache *c = call->cache;
    uint64_t now = loop_now(c->loop);
    uint64_t until = call->owed_until ? call->owed_until : now + LEASE_LIFE_MS;
    if (now >= until || c->leases.n_owed == OWED_MOST) {
        return;
    }
    struct owed *o = NEW(struct owed);
    memcpy(o->key, call->req.key, sizeof o->key);
    memcpy(o->token, call->req.token, sizeof o->token);
    o->until = until;
    list_add(&c->leases.owed, &o->link);
    c->leases.n_owed++;
}

static struct owed *next_owed(struct leases *l)
{
    struct list *link = list_pop(&l->owed);
    l->n_owed -= link != NULL;
    return link ? CONTAINER_OF(link, struct owed, link) : NULL;
}

/* Those that fail again are owed again, behind these. */
static void give_back_owed(struct cache *c)
{
    struct owed *o;
    for (size_t n = c->leases.n_owed; n > 0 && (o = next_owed(&c->leases)); n--) {
        struct call *call = lease_call(c, LANE_DROP, o->key, o->token, (struct cache_seen){ 0 });
        call->owed_until = o->until;
        free(o);
        cache_submit(call);
    }
}

/* Nobody waited for this claim any more when it was won. */
static void give_back(struct call *claim)
{
    cache_submit(
        lease_call(claim->cache, LANE_DROP, claim->req.key, claim->req.token, claim->req.seen));
}

/* A claim or a return that may have been done or not: nobody holds the lease. */
static bool is_lease_uncertain(const struct call *call, enum err e)
{
    bool nobodys = call->claims || call->req.verb == LANE_DROP;
    return e == ERR_TEMP && call->server && nobodys;
}

void cache_lease_settle(struct call *call, bool late)
{
    enum err e = call->req.err;
    if (late && call->req.verb == LANE_CLAIM && e == ERR_OK) {
        give_back(call);
    } else if (is_lease_uncertain(call, e)) {
        owe(call);
    }
}

/* --- holding --------------------------------------------------------------------------------- */

static void schedule_renewal(struct cache *c, struct lease *lease)
{
    list_del(&lease->link);
    lease->renew_at = loop_now(c->loop) + RENEW_MS;
    list_add(&c->leases.held, &lease->link);
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
        cache_submit(lease->renewal);
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
    call->answer = cache_answer_done;
    call->fn.done = done;
    if (lease->renewal) {
        lease->renewal->lease = NULL;
    }
    list_del(&lease->link);
    free(lease);
    cache_submit_with_deadline(call);
    return done ? &call->op : NULL;
}

/* --- taking ---------------------------------------------------------------------------------- */

/* Nobody waits for the list any more that was asked for. */
static void abandon_list(struct taking *t)
{
    if (t->list) {
        t->list->taking = NULL;
        t->list->answer = cache_answer_nobody;
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
static void take_next(struct taking *t);

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
        struct cache_reply reply = cache_reply_of(call, e);
        tell_opened(t, &reply);
    } else if (t->decided) {
        ask_for_list(t, true);
    }
}

static void ask_for_list(struct taking *t, bool fills)
{
    struct cache_key k = { .kind = CACHE_LIST, .mailbox_id = t->mailbox_id };
    t->list = cache_get_call(t->cache, &k, fills);
    t->list->answer = answer_list;
    t->list->taking = t;
    t->calls++;
    cache_submit_with_deadline(t->list);
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
        cache_key_mailbox(c, LETTER_LEASE, t->mailbox_id, key);
    } else {
        cache_key_slot(c, t->mailbox_id, (t->first + t->tried) % t->slots, key);
    }
    cache_new_token(c, token);
    struct call *call = lease_call(c, LANE_CLAIM, key, token, (struct cache_seen){ 0 });
    call->answer = answer_take;
    call->claims = true;
    call->taking = t;
    t->calls++;
    cache_submit_with_deadline(call);
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

/* --- all of them ----------------------------------------------------------------------------- */

void cache_lease_forget(struct call *call)
{
    if (call->taking && !call->answered && --call->taking->calls == 0) {
        free(call->taking->won);
        free(call->taking);
    }
}

void cache_leases_init(struct leases *l)
{
    list_init(&l->held);
    list_init(&l->owed);
}

void cache_leases_fini(struct leases *l)
{
    for (struct owed *o; (o = next_owed(l));) {
        free(o);
    }
}

void cache_leases_tick(struct cache *c)
{
    give_back_owed(c);
    while (!list_empty(&c->leases.held)) {
        struct lease *lease = CONTAINER_OF(c->leases.held.next, struct lease, link);
        if (lease->renew_at > loop_now(c->loop)) {
            break;
        }
        renew(c, lease);
    }
}
