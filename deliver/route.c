/*
 * route: a breadth-first walk over addresses, one look-up of all open ones a round.
 *
 * Each address goes through the stages EXACT, UNTAGGED, DOMAIN until one of them exists. The
 * entries of domains are looked up with the first stage of their first address: that of a mailbox
 * says whether its domain is full, so it is needed whichever stage finds something. The walk ends
 * when no address is open: every address is tried once, so that aliases that name each other end
 * too. Then the mailboxes with a quota are asked for room, all in one query.
 *
 * The request owns everything it found until its done function takes the mailboxes.
 */
#include "route.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"

enum stage { STAGE_EXACT, STAGE_UNTAGGED, STAGE_DOMAIN, STAGE_FAILED, STAGE_FOUND };

struct stop {
    char *address;
    uint64_t hash; /* of address: most comparisons end here */
    enum stage stage;
};

struct domain {
    char *key;           /* `@domain` */
    struct entry *entry; /* NULL until it was looked up */
};

struct route {
    struct op op;
    struct store *store;
    route_fn *done;
    char separator;
    uint64_t size;
    size_t max;
    struct stop *stops; /* every address met, in the order of meeting */
    size_t n_stops;
    size_t *asked; /* the stops of this round's look-up */
    size_t n_asked;
    struct domain *domains; /* of all stops; those that were not looked up are the last */
    size_t n_domains, n_known;
    struct route_mailbox *mailboxes;
    size_t n;
    uint64_t *limited; /* mailboxes with a quota */
    size_t n_limited;
    bool suspended; /* one was met */
    bool full;      /* the domain of a mailbox that was met is */
    bool foreign;   /* the recipient's domain is not ours */
    bool too_many;
};

static void route_round(struct route *r);

void route_free(struct route_mailbox **pm, size_t n)
{
    struct route_mailbox *m = *pm;
    *pm = NULL;
    for (size_t i = 0; m && i < n; i++) {
        free(m[i].address);
    }
    free(m);
}

static void route_end(struct route *r, enum smtp_verdict v)
{
    if (!r->op.cancelled) {
        r->done(r->op.arg, v, &r->mailboxes, v == SMTP_OK ? r->n : 0);
    }
    route_free(&r->mailboxes, r->n);
    for (size_t i = 0; i < r->n_stops; i++) {
        free(r->stops[i].address);
    }
    for (size_t i = 0; i < r->n_domains; i++) {
        free(r->domains[i].key);
        entry_free(&r->domains[i].entry);
    }
    free(r->stops);
    free(r->domains);
    free(r->asked);
    free(r->limited);
    free(r);
}

/* FNV-1a: only to tell different addresses apart quickly; equal hashes are compared. */
static uint64_t hash_of(struct span s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.n; i++) {
        h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3u;
    }
    return h;
}

/* `@domain` of an address; empty when it has none. */
static struct span domain_key(struct span address)
{
    const char *at = memrchr(address.p, '@', address.n);
    return at ? span_skip(address, (size_t)(at - address.p)) : SPAN("");
}

static struct domain *find_domain(const struct route *r, struct span key)
{
    for (size_t i = 0; i < r->n_domains; i++) {
        if (span_eq(span_str(r->domains[i].key), key)) {
            return &r->domains[i];
        }
    }
    return NULL;
}

static void route_add_domain(struct route *r, struct span key)
{
    if (key.n > 0 && key.n <= ADDRESS_MAX && !find_domain(r, key)) {
        r->domains = mem_grow(r->domains, r->n_domains + 1, sizeof *r->domains);
        r->domains[r->n_domains++] = (struct domain){ .key = span_dup(key) };
    }
}

static void route_add_stop(struct route *r, struct span address)
{
    uint64_t h = hash_of(address);
    for (size_t i = 0; i < r->n_stops; i++) {
        if (r->stops[i].hash == h && span_eq(span_str(r->stops[i].address), address)) {
            return;
        }
    }
    if (r->n_stops == r->max) {
        r->too_many = true;
        return;
    }
    r->stops = mem_grow(r->stops, r->n_stops + 1, sizeof *r->stops);
    r->stops[r->n_stops++] = (struct stop){ .address = span_dup(address), .hash = h };
    route_add_domain(r, domain_key(address));
}

static void route_add_mailbox(struct route *r, const struct entry *e, struct span address)
{
    const struct domain *d = find_domain(r, domain_key(address));
    r->full = r->full || (d && d->entry && d->entry->full);
    for (size_t i = 0; i < r->n; i++) {
        if (r->mailboxes[i].mailbox_id == e->mailbox_id) {
            return;
        }
    }
    r->mailboxes = mem_grow(r->mailboxes, r->n + 1, sizeof *r->mailboxes);
    r->mailboxes[r->n++] =
        (struct route_mailbox){ .mailbox_id = e->mailbox_id, .address = span_dup(address) };
    if (e->max_octets || e->max_messages || e->max_size) {
        r->limited = mem_grow(r->limited, r->n_limited + 1, sizeof *r->limited);
        r->limited[r->n_limited++] = e->mailbox_id;
    }
}

/* --- stages of one address ------------------------------------------------------------------- */

static struct span local_part(const struct stop *st)
{
    struct span s = span_str(st->address);
    const char *at = memrchr(s.p, '@', s.n);
    return at ? span_first(s, (size_t)(at - s.p)) : s;
}

/* The key that a stage looks up, in out; false when the stage has none. */
static bool stage_key(const struct route *r, const struct stop *st, char out[ADDRESS_MAX + 1])
{
    struct span whole = span_str(st->address), local = local_part(st);
    struct span domain = span_skip(whole, local.n); /* with its @ */
    if (whole.n > ADDRESS_MAX) {
        return false;
    }
    switch (st->stage) {
    case STAGE_EXACT:
        domain = whole;
        local.n = 0;
        break;
    case STAGE_UNTAGGED: {
        size_t tag = r->separator ? span_find(local, r->separator) : local.n;
        if (tag == 0 || tag == local.n) {
            return false;
        }
        local.n = tag;
        break;
    }
    case STAGE_DOMAIN:
        local.n = 0;
        break;
    default:
        return false;
    }
    memcpy(out, local.p, local.n);
    memcpy(out + local.n, domain.p, domain.n);
    out[local.n + domain.n] = '\0';
    return true;
}

static void follow(struct route *r, struct stop *st, const struct entry *e)
{
    st->stage = STAGE_FOUND; /* before stops grows and moves */
    for (size_t i = 0; i < e->n; i++) {
        route_add_stop(r, span_str(e->targets[i]));
    }
}

/* What the look-up said about one address. */
static void route_take(struct route *r, size_t i, const struct entry *e, struct span key)
{
    struct stop *st = &r->stops[i];
    switch (e->kind) {
    case ENTRY_MAILBOX:
        st->stage = STAGE_FOUND;
        if (e->state == ACCOUNT_SUSPENDED) {
            r->suspended = true;
        } else if (e->state == ACCOUNT_ACTIVE) {
            route_add_mailbox(r, e, key);
        } /* removed: unknown, and no business of a catch-all */
        break;
    case ENTRY_ALIAS:
    case ENTRY_DOMAIN:
        follow(r, st, e);
        break;
    case ENTRY_NONE:
        if (st->stage == STAGE_DOMAIN && i == 0) {
            r->foreign = true;
        }
        st->stage++;
        break;
    }
}

/* --- rounds ---------------------------------------------------------------------------------- */

static void on_room(void *arg, enum err e, const enum room *room, size_t n)
{
    struct route *r = arg;
    enum smtp_verdict v = e == ERR_OK ? SMTP_OK : SMTP_FAULT;
    for (size_t i = 0; i < n && v == SMTP_OK; i++) {
        switch (room[i]) {
        case ROOM_OK:
            break;
        case ROOM_TOO_LARGE:
            v = SMTP_TOO_LARGE;
            break;
        case ROOM_OVER_QUOTA:
            v = SMTP_OVER_QUOTA;
            break;
        case ROOM_SUSPENDED:
        case ROOM_GONE: /* since the entry was cached: a later try sees it as it is */
            v = SMTP_FAULT;
            break;
        }
    }
    route_end(r, v);
}

static void route_arrived(struct route *r)
{
    if (r->too_many) {
        route_end(r, SMTP_TOO_MANY);
    } else if (r->n == 0) {
        route_end(r, r->suspended ? SMTP_SUSPENDED : r->foreign ? SMTP_NO_RELAY : SMTP_UNKNOWN);
    } else if (r->full) {
        route_end(r, SMTP_DOMAIN_FULL);
    } else if (r->n_limited > 0) {
        store_room(r->store, r->limited, r->n_limited, r->size, on_room, r);
    } else {
        route_end(r, SMTP_OK);
    }
}

static void on_lookup(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct route *r = arg;
    if (e != ERR_OK) {
        route_end(r, SMTP_FAULT);
        return;
    }
    /* The domains first: what a mailbox is told by its own must be known. */
    for (size_t k = r->n_asked; k < n; k++) {
        r->domains[r->n_known++].entry = entries[k];
        entries[k] = NULL;
    }
    for (size_t k = 0; k < r->n_asked; k++) {
        char key[ADDRESS_MAX + 1];
        CHECK(stage_key(r, &r->stops[r->asked[k]], key));
        route_take(r, r->asked[k], entries[k], span_str(key));
    }
    route_round(r);
}

/* Goes on to the next stage that asks; DOMAIN was answered with the first. */
static void route_advance(struct route *r, size_t i, char key[ADDRESS_MAX + 1])
{
    struct stop *st = &r->stops[i];
    while (st->stage < STAGE_DOMAIN && !stage_key(r, st, key)) {
        st->stage++;
    }
    if (st->stage == STAGE_DOMAIN) {
        const struct domain *d = stage_key(r, st, key) ? find_domain(r, span_str(key)) : NULL;
        if (d) {
            CHECK(d->entry); /* asked for with the address's first stage */
            route_take(r, i, d->entry, span_str(key));
        } else {
            st->stage = STAGE_FAILED;
        }
    }
}

static void route_round(struct route *r)
{
    char key[ADDRESS_MAX + 1];
    /* What a catch-all leads to is met on the way, and belongs to this round. */
    for (size_t i = 0; i < r->n_stops; i++) {
        route_advance(r, i, key);
    }
    size_t n = r->n_stops + r->n_domains - r->n_known;
    char(*keys)[ADDRESS_MAX + 1] = mem_new(r->n_stops, sizeof *keys);
    struct span *spans = NEW_ARRAY(struct span, n);
    r->asked = mem_grow(r->asked, r->n_stops, sizeof *r->asked);
    r->n_asked = 0;
    for (size_t i = 0; i < r->n_stops; i++) {
        if (r->stops[i].stage < STAGE_DOMAIN && stage_key(r, &r->stops[i], keys[r->n_asked])) {
            spans[r->n_asked] = span_str(keys[r->n_asked]);
            r->asked[r->n_asked++] = i;
        }
    }
    n = r->n_asked;
    for (size_t i = r->n_known; i < r->n_domains; i++) {
        spans[n++] = span_str(r->domains[i].key);
    }
    if (n > 0 && !r->too_many) {
        store_lookup(r->store, spans, n, on_lookup, r);
    } else {
        route_arrived(r);
    }
    free(keys);
    free(spans);
}

struct op *route_resolve(struct store *s, const struct address *a, const struct route_options *o,
                         route_fn *done, void *arg)
{
    struct route *r = NEW(struct route);
    *r = (struct route){ .op = { .arg = arg },
                         .store = s,
                         .done = done,
                         .separator = o->separator,
                         .size = o->size,
                         .max = o->max };
    char bare[ADDRESS_MAX + 1];
    struct span first = span_of(a->canon, a->canon_len);
    if (a->local == a->len) { /* <postmaster>, RFC 5321, section 4.5.1 */
        int n = snprintf(bare, sizeof bare, "%.*s@%s", SPAN_ARG(first), o->hostname);
        first = span_of(bare, (size_t)n < sizeof bare ? (size_t)n : sizeof bare - 1);
        ascii_lower(bare, first.n);
    }
    route_add_stop(r, first);
    route_round(r);
    return &r->op;
}
