/*
 * store: opens the parts, keeps the list of volumes fresh, and does what needs no file of its own:
 * looking up addresses and lists through the cache, reading a message, expunging.
 *
 * Each call allocates one request that embeds its op; the request is freed where its last inner
 * call ends, whether or not the caller still listens. Logins are in login*.c, deliveries in
 * delivery.c.
 */
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/ahead.h"
#include "store/listing.h"
#include "store/nfs_handle.h"
#include "store/store_parts.h"

#define VOLUMES_EVERY_MS 5000 /* how late a node learns of a new volume or state */
#define VOLUMES_RETRY_MS 1000 /* while the database can't be asked */
#define CACHED_LIST_MAX  (48u * 1024 * 1024)
#define CACHED_ENTRY_MAX (512u * 1024)
#define EXPUNGE_TRIES    3
#define REPAIR_GATHER_MS 1000
#define REPAIR_PAUSE_MS  30000

/* --- opening --------------------------------------------------------------------------------- */

static void on_epoch(void *arg, uint64_t epoch)
{
    struct store *s = arg;
    if (cache_epoch(s->cache) != epoch) {
        LOG(LOG_INFO, "cache.epoch", F_U64("epoch", epoch));
        cache_set_epoch(s->cache, epoch);
    }
}

static void on_crossed(void *arg, uint64_t mailbox_id, unsigned per_cent)
{
    store_warn(arg, mailbox_id, per_cent);
}

static void volumes_ask(uv_timer_t *t);

static void on_volumes(void *arg, enum err e, const struct volume *v, size_t n)
{
    struct store *s = arg;
    if (e == ERR_OK) {
        spool_set_volumes(s->spool, v, n);
    }
    uv_timer_start(&s->volumes_timer, volumes_ask,
                   e == ERR_OK && n > 0 ? VOLUMES_EVERY_MS : VOLUMES_RETRY_MS, 0);
}

static void on_fleet(void *arg, enum err e, const struct fleet *f)
{
    struct store *s = arg;
    if (e == ERR_OK) {
        s->fleet = *f;
    }
}

/*
 * A program that the schema is not for is not ready, and its statements fail by what is missing: so
 * nobody hears anything but temporary errors. While the database does not tell, it is as it was.
 */
static void on_schema(void *arg, enum err e, const struct schema *found)
{
    struct store *s = arg;
    char why[HEALTH_WHY] = "";
    if (e != ERR_OK) {
        return;
    }
    schema_fits(found, why, sizeof why);
    if (*why && !*s->schema_why) {
        LOG(LOG_ERROR, "schema.unfit", F_STR("why", why));
    } else if (!*why && *s->schema_why) {
        LOG(LOG_INFO, "schema.fits", F_U64("version", (uint64_t)found->applied));
    }
    snprintf(s->schema_why, sizeof s->schema_why, "%s", why);
    health_set("schema", true, why);
}

/* Three calls in one round trip, so that none fails with another. */
static void volumes_ask(uv_timer_t *t)
{
    struct store *s = t->data;
    index_schema(s->index, on_schema, s);
    index_fleet(s->index, on_fleet, s);
    index_volumes(s->index, on_volumes, s);
}

void store_ask_volumes(struct store *s)
{
    uv_timer_start(&s->volumes_timer, volumes_ask, 0, 0);
}

static bool names_mechanism(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->auth_mechanisms.n; i++) {
        if (span_eq_nocase(span_str(c->auth_mechanisms.v[i]), span_str(name))) {
            return true;
        }
    }
    return false;
}

static struct login_rules rules_of(const struct config *c)
{
    return (struct login_rules){ .exclusive = c->pop3_lock == POP3_LOCK_LEASE,
                                 .sessions = (unsigned)c->pop3_account_sessions,
                                 .delay_ms = c->pop3_login_delay,
                                 .burst = (unsigned)c->pop3_login_burst,
                                 .enroll = c->auth_enroll == ENROLL_YES,
                                 .enroll_sha1 = names_mechanism(c, "SCRAM-SHA-1"),
                                 .scram_iterations = (uint32_t)c->auth_scram_iterations };
}

/* What logins alone need, and can fail to be had. */
static enum err open_login(struct store *s, const struct config *c, char *why, size_t why_size)
{
    const char *bad;
    if (netset_parse(&c->limits_exempt, &s->exempt, &bad) != ERR_OK) {
        snprintf(why, why_size, "limits.exempt: %s is no network", bad);
        return ERR_INVALID;
    }
    s->password =
        password_open(s->loop, &(struct password_options){ .threads = (unsigned)c->auth_threads,
                                                           .queue = (unsigned)c->auth_queue,
                                                           .wait_ms = c->auth_wait,
                                                           .prefix = c->auth_scheme });
    if (!s->password) {
        snprintf(why, why_size, "auth.scheme: crypt(3) does not know %s", c->auth_scheme);
        return ERR_INVALID;
    }
    s->rules = rules_of(c);
    return token_open(s->loop, c, &s->tokens, why, why_size);
}

static void close_login(struct store *s)
{
    token_close(&s->tokens);
    password_close(&s->password);
    netset_free(&s->exempt);
}

static void use_quota(struct store *s, const struct config *c, const struct quota_rules *q)
{
    index_set_quota(s->index, q);
    s->warning = c->warning;
    s->hostname = c->smtp_hostname;
}

void store_reload(struct store *s, const struct config *c)
{
    struct netset *old = s->exempt;
    struct quota_rules quota;
    const char *bad;
    char why[256];
    CHECK(quota_rules_read(c, &quota, why, sizeof why) == ERR_OK);
    use_quota(s, c, &quota);
    CHECK(netset_parse(&c->limits_exempt, &s->exempt, &bad) == ERR_OK);
    failures_change(s->failures, s->exempt, c->auth_max_failures, c->auth_failure_window);
    netset_free(&old);
    s->rules = rules_of(c);
    store_ask_volumes(s);
}

struct fleet store_fleet(const struct store *s)
{
    return s->fleet;
}

struct op *store_announce(struct store *s, const struct announcement *n, store_announce_fn *done,
                          void *arg)
{
    return index_announce(s->index, n, done, arg);
}

bool store_connected(const struct store *s)
{
    return index_ready(s->index);
}

enum err store_open(struct loop *l, const struct config *c, struct store **out, char *why,
                    size_t why_size)
{
    struct spool_options spool;
    struct quota_rules quota;
    enum err e = spool_options_read(c, &spool, why, why_size);
    if (e == ERR_OK) {
        e = quota_rules_read(c, &quota, why, why_size);
    }
    if (e != ERR_OK) {
        return e;
    }
    struct seal *seal;
    e = seal_load(c->node_fleet_key_file, &seal, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    struct store *s = NEW(struct store);
    s->loop = l;
    s->seal = seal;
    s->grace_ms = c->spool_grace;
    s->fleet = (struct fleet){ .least_retention = -1,
                               .retention_differs = true,
                               .keyless = true }; /* not known */
    e = open_login(s, c, why, why_size);
    if (e != ERR_OK) {
        close_login(s);
        seal_free(&seal);
        free(s);
        return e;
    }
    s->cache = cache_open(l, &(struct cache_options){ .servers = &c->cache_servers,
                                                      .timeout_ms = c->cache_timeout,
                                                      .list_ttl_ms = c->cache_list_ttl,
                                                      .account_ttl_ms = c->cache_account_ttl,
                                                      .tombstone_ttl_ms = c->cache_tombstone_ttl,
                                                      .seal = seal });
    s->failures = failures_open(
        &(struct failures_options){ .cache = s->cache,
                                    .seal = seal,
                                    .exempt = s->exempt,
                                    .most = c->auth_max_failures,
                                    .window_ms = c->auth_failure_window,
                                    .ipv6_address = (unsigned)c->limits_ipv6_address });
    s->index = index_open(
        l, &(struct index_options){ .url = c->database_url,
                                    .read_connections = (unsigned)c->database_read_connections,
                                    .write_connections = (unsigned)c->database_write_connections,
                                    .timeout_ms = c->database_timeout,
                                    .gather = (unsigned)c->database_gather,
                                    .on_epoch = on_epoch,
                                    .on_crossed = on_crossed,
                                    .arg = s });
    use_quota(s, c, &quota);
    health_set("schema", true, "not yet known");
    s->spool = spool_open(l, &spool);
    s->repair = repair_open(
        l, s->index,
        &(struct repair_options){ .gather_ms = REPAIR_GATHER_MS, .pause_ms = REPAIR_PAUSE_MS });
    CHECK(uv_timer_init(loop_uv(l), &s->volumes_timer) == 0);
    s->volumes_timer.data = s;
    uv_timer_start(&s->volumes_timer, volumes_ask, 0, 0);
    *out = s;
    return ERR_OK;
}

/* --- addresses ------------------------------------------------------------------------------- */

struct lookup_item {
    struct lookup *lookup;
    struct op *op;
    char *address;
    struct cache_fill fill;
    struct entry *entry; /* NULL until it is known */
};

struct lookup {
    struct op op;
    struct store *store;
    store_lookup_fn *done;
    store_entry_fn *entry_done; /* in its place, of a login's look-up */
    bool asked;                 /* the database */
    size_t pending;             /* cache reads */
    size_t n;
    struct lookup_item items[];
};

static void lookup_end(struct lookup *lk, enum err e)
{
    struct entry **entries = NEW_ARRAY(struct entry *, lk->n);
    for (size_t i = 0; i < lk->n; i++) {
        entries[i] = lk->items[i].entry;
    }
    if (!lk->op.cancelled && lk->entry_done) {
        lk->entry_done(lk->op.arg, e, &entries[0], lk->asked);
    } else if (!lk->op.cancelled) {
        lk->done(lk->op.arg, e, entries, e == ERR_OK ? lk->n : 0);
    }
    for (size_t i = 0; i < lk->n; i++) {
        entry_free(&entries[i]);
        free(lk->items[i].address);
    }
    free(entries);
    free(lk);
}

/*
 * That an address does not exist is not cached: a tombstone that could not be written must not make
 * a new account look unknown, because senders bounce.
 */
static void entry_to_cache(struct store *s, struct lookup_item *it)
{
    if (it->entry->kind == ENTRY_NONE) {
        return;
    }
    struct buf b;
    buf_init(&b, CACHED_ENTRY_MAX);
    if (entry_encode(it->entry, &b) == ERR_OK) {
        struct cache_key k = { .kind = CACHE_ADDRESS, .address = span_str(it->address) };
        cache_put(s->cache, &k, &it->fill, buf_span(&b));
    }
    buf_fini(&b);
}

static void on_lookup_database(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct lookup *lk = arg;
    size_t j = 0;
    for (size_t i = 0; e == ERR_OK && i < lk->n; i++) {
        struct lookup_item *it = &lk->items[i];
        if (it->entry) {
            continue;
        }
        CHECK(j < n);
        it->entry = entries[j];
        entries[j++] = NULL;
        entry_to_cache(lk->store, it);
    }
    lookup_end(lk, e == ERR_OK ? ERR_OK : ERR_TEMP);
}

static void lookup_database(struct lookup *lk)
{
    struct span *missing = NEW_ARRAY(struct span, lk->n);
    size_t n = 0;
    for (size_t i = 0; i < lk->n; i++) {
        if (!lk->items[i].entry) {
            missing[n++] = span_str(lk->items[i].address);
        }
    }
    if (n > 0) {
        lk->asked = true;
        index_lookup(lk->store->index, missing, n, on_lookup_database, lk);
    } else {
        lookup_end(lk, ERR_OK);
    }
    free(missing);
}

static void on_lookup_cache(void *arg, const struct cache_reply *r)
{
    struct lookup_item *it = arg;
    if (!r->hit || entry_decode(r->value, &it->entry) != ERR_OK) {
        it->fill = r->fill;
    } else if (it->entry->kind == ENTRY_NONE) {
        entry_free(&it->entry); /* nor believed */
    }
    if (--it->lookup->pending == 0) {
        lookup_database(it->lookup);
    }
}

static struct lookup *lookup_new(struct store *s, size_t n, void *arg)
{
    CHECK(n > 0);
    struct lookup *lk = mem_new(1, sizeof *lk + n * sizeof lk->items[0]);
    lk->op.arg = arg;
    lk->store = s;
    lk->pending = lk->n = n;
    return lk;
}

static void lookup_begin(struct lookup *lk, const struct span *addresses)
{
    for (size_t i = 0; i < lk->n; i++) {
        struct lookup_item *it = &lk->items[i];
        it->lookup = lk;
        it->address = span_dup(addresses[i]);
        struct cache_key k = { .kind = CACHE_ADDRESS, .address = addresses[i] };
        cache_get(lk->store->cache, &k, on_lookup_cache, it);
    }
}

struct op *store_lookup(struct store *s, const struct span *addresses, size_t n,
                        store_lookup_fn *done, void *arg)
{
    struct lookup *lk = lookup_new(s, n, arg);
    lk->done = done;
    lookup_begin(lk, addresses);
    return &lk->op;
}

struct op *store_entry(struct store *s, struct span address, store_entry_fn *done, void *arg)
{
    struct lookup *lk = lookup_new(s, 1, arg);
    lk->entry_done = done;
    lookup_begin(lk, &address);
    return &lk->op;
}

/* --- lists ----------------------------------------------------------------------------------- */

struct list_request {
    struct op op;
    struct store *store;
    index_list_fn *done;
    store_leased_fn *leased; /* in its place, with the lease */
    struct lease *lease;
    uint64_t mailbox_id;
    struct cache_fill fill;
};

static void list_end(struct list_request *r, enum err e, struct maildrop *m)
{
    if (!r->op.cancelled && r->leased) {
        r->leased(r->op.arg, e, &r->lease, &m);
    } else if (!r->op.cancelled) {
        r->done(r->op.arg, e, &m);
    }
    maildrop_free(&m);
    cache_lease_drop(r->store->cache, &r->lease, NULL, NULL);
    free(r);
}

static void on_list_database(void *arg, enum err e, struct maildrop **pm)
{
    struct list_request *r = arg;
    if (e != ERR_OK) {
        list_end(r, e, NULL);
        return;
    }
    struct maildrop *m = *pm;
    *pm = NULL;
    if (r->fill.allowed) {
        struct buf b;
        buf_init(&b, CACHED_LIST_MAX);
        if (listing_encode(m, &b) == ERR_OK) {
            struct cache_key k = list_key(r->mailbox_id);
            cache_put(r->store->cache, &k, &r->fill, buf_span(&b));
        }
        buf_fini(&b);
    }
    list_end(r, ERR_OK, m);
}

static void on_list_cache(void *arg, const struct cache_reply *reply)
{
    struct list_request *r = arg;
    struct maildrop *m;
    /* The seal says who wrote it and for which key; the mailbox id is looked at all the same. */
    if (reply->hit && listing_decode(reply->octets, &m) == ERR_OK) {
        if (m->mailbox_id == r->mailbox_id) {
            list_end(r, ERR_OK, m);
            return;
        }
        maildrop_free(&m);
    }
    r->fill = reply->fill;
    index_list(r->store->index, r->mailbox_id, on_list_database, r);
}

static void on_list_leased(void *arg, enum err e, struct lease *lease,
                           const struct cache_reply *reply)
{
    struct list_request *r = arg;
    r->lease = lease;
    if (e == ERR_BUSY) {
        list_end(r, ERR_BUSY, NULL);
    } else {
        on_list_cache(r, reply);
    }
}

static struct list_request *list_new(struct store *s, uint64_t mailbox_id, void *arg)
{
    struct list_request *r = NEW(struct list_request);
    *r = (struct list_request){ .op = { .arg = arg }, .store = s, .mailbox_id = mailbox_id };
    return r;
}

struct op *store_list(struct store *s, uint64_t mailbox_id, index_list_fn *done, void *arg)
{
    struct list_request *r = list_new(s, mailbox_id, arg);
    struct cache_key k = list_key(mailbox_id);
    r->done = done;
    cache_get(s->cache, &k, on_list_cache, r);
    return &r->op;
}

struct op *store_list_leased(struct store *s, uint64_t mailbox_id, unsigned slots,
                             store_leased_fn *done, void *arg)
{
    struct list_request *r = list_new(s, mailbox_id, arg);
    r->leased = done;
    cache_lease_list(s->cache, mailbox_id, slots, on_list_leased, r);
    return &r->op;
}

struct op *store_drop_lists(struct store *s, const uint64_t *mailboxes, size_t n,
                            cache_done_fn *done, void *arg)
{
    struct cache_key *keys = NEW_ARRAY(struct cache_key, n);
    for (size_t i = 0; i < n; i++) {
        keys[i] = list_key(mailboxes[i]);
    }
    struct op *op = cache_tombstone(s->cache, keys, n, done, arg);
    free(keys);
    return op;
}

struct op *store_room(struct store *s, const uint64_t *mailboxes, size_t n, uint64_t size,
                      store_room_fn *done, void *arg)
{
    return index_room(s->index, mailboxes, n, size, done, arg);
}

/* --- reading --------------------------------------------------------------------------------- */

struct store_reader {
    struct store *store;
    struct ahead *ahead; /* the session's, while it gets the message from there */
    struct spool_reader *reader;
    struct op *has;     /* whether the pointer stands */
    struct op *volumes; /* asked for anew */
    struct nfs_handle handle;
    store_read_fn *fn;
    void *arg;
    uint64_t mailbox_id;
    struct pointer pointer;
};

static void reader_end(struct store_reader *r, enum err e)
{
    if (e != ERR_OK && e != ERR_NOTFOUND) {
        char id[BLOB_ID_CHARS + 1];
        blob_id_text(&r->pointer.id, id);
        LOG(e == ERR_TEMP ? LOG_WARN : LOG_ERROR, "message.unreadable", F_STR("id", id),
            F_U64("volume", r->pointer.volume), F_U64("mailbox", r->mailbox_id), F_ERR(e));
    }
    r->fn(r->arg, e, (struct span){ 0 }, true);
    free(r);
}

/* The file is not there. Another session's delete is an answer; a missing file is a fault. */
static void on_reader_has(void *arg, enum err e)
{
    struct store_reader *r = arg;
    r->has = NULL;
    reader_end(r, e == ERR_NOTFOUND ? ERR_NOTFOUND : e == ERR_OK ? ERR_CORRUPT : ERR_TEMP);
}

static void on_reader_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct store_reader *r = arg;
    if (e == ERR_OK && !last) {
        r->fn(r->arg, ERR_OK, piece, false);
        return;
    }
    struct span handle = spool_reader_handle(r->reader);
    r->reader = NULL;
    if (e == ERR_OK) {
        if (handle.n) {
            repair_add(r->store->repair, r->mailbox_id, &r->pointer, handle);
        }
        r->fn(r->arg, ERR_OK, piece, true);
        free(r);
    } else if (e == ERR_NOTFOUND) {
        r->has = index_has(r->store->index, r->mailbox_id, &r->pointer, on_reader_has, r);
    } else {
        reader_end(r, e == ERR_CORRUPT ? ERR_CORRUPT : ERR_TEMP);
    }
}

static void reader_begin(struct store_reader *r)
{
    r->reader =
        spool_read(r->store->spool, &r->pointer, nfs_handle_span(&r->handle), on_reader_piece, r);
}

/* Another node has stored on a volume that is new, and this one has not heard of it yet. */
static void on_reader_volumes(void *arg, enum err e, const struct volume *v, size_t n)
{
    struct store_reader *r = arg;
    r->volumes = NULL;
    if (e == ERR_OK) {
        spool_set_volumes(r->store->spool, v, n);
    }
    reader_begin(r); /* a volume that is not known now either is TEMP */
}

/* What is longer than a piece, or not there, is for a reader of its own; one that was waited for in
 * vain has been waited for. */
static void on_reader_ahead(void *arg, enum err e, struct span octets)
{
    struct store_reader *r = arg;
    r->ahead = NULL;
    if (e == ERR_OK) {
        r->fn(r->arg, ERR_OK, octets, true);
        free(r);
    } else if (e == ERR_TEMP) {
        reader_end(r, ERR_TEMP);
    } else {
        reader_begin(r);
    }
}

struct store_reader *store_read(struct store *s, const struct maildrop *m, size_t i,
                                struct ahead **ahead, store_read_fn *fn, void *arg)
{
    struct store_reader *r = NEW(struct store_reader);
    *r = (struct store_reader){
        .store = s, .fn = fn, .arg = arg, .mailbox_id = m->mailbox_id, .pointer = maildrop_at(m, i)
    };
    nfs_handle_set(&r->handle, maildrop_handle(m, i));
    if (!*ahead) {
        *ahead = ahead_open(s, m);
    }
    if (!spool_volume_listed(s->spool, r->pointer.volume)) {
        r->volumes = index_volumes(s->index, on_reader_volumes, r);
    } else if (ahead_get(*ahead, i, on_reader_ahead, r)) {
        r->ahead = *ahead;
    } else {
        reader_begin(r);
    }
    return r;
}

bool store_read_ready(struct ahead *ahead, size_t i, struct span *octets)
{
    return ahead && ahead_ready(ahead, i, octets);
}

void store_read_next(struct store_reader *r)
{
    spool_read_next(r->reader);
}

void store_read_close(struct store_reader **pr)
{
    struct store_reader *r = *pr;
    if (!r) {
        return;
    }
    *pr = NULL;
    if (r->ahead) {
        ahead_leave(r->ahead);
    }
    spool_read_close(&r->reader);
    op_cancel(&r->has);
    op_cancel(&r->volumes);
    free(r);
}

void store_ahead_close(struct ahead **a)
{
    ahead_close(a);
}

/* --- expunging ------------------------------------------------------------------------------- */

struct expunge {
    struct op op;
    struct store *store;
    store_done_fn *done;
    uint64_t mailbox_id;
    struct pointer *msgs;
    size_t n;
    char *by;
    unsigned tries;
    enum err err;
};

static void expunge_send(struct expunge *x);

static void on_expunge_dropped_again(void *arg, enum err e)
{
    struct expunge *x = arg;
    (void)e;
    if (!x->op.cancelled) {
        x->done(x->op.arg, x->err);
    }
    free(x->msgs);
    free(x->by);
    free(x);
}

static void on_expunged(void *arg, enum err e)
{
    struct expunge *x = arg;
    /*
     * The statement may be sent again whatever became of the first: it moves what is still there
     * and takes the rest for done.
     */
    if (e != ERR_OK && e != ERR_NOTFOUND && ++x->tries < EXPUNGE_TRIES) {
        expunge_send(x);
        return;
    }
    x->err = e == ERR_OK ? ERR_OK : ERR_TEMP;
    if (e != ERR_OK) {
        LOG(LOG_WARN, "expunge.failed", F_U64("mailbox", x->mailbox_id), F_ERR(e));
    }
    fault_at(FAULT_expunge_committed);
    store_drop_lists(x->store, &x->mailbox_id, 1, on_expunge_dropped_again, x);
}

static void expunge_send(struct expunge *x)
{
    index_expunge(x->store->index, x->mailbox_id, x->msgs, x->n, x->store->grace_ms,
                  span_str(x->by), on_expunged, x);
}

static void on_expunge_dropped(void *arg, enum err e)
{
    (void)e;
    expunge_send(arg);
}

/* Those of them, the caller's to free. */
static struct pointer *pointers_of(const struct maildrop *m, const size_t *which, size_t n)
{
    struct pointer *p = NEW_ARRAY(struct pointer, n);
    for (size_t i = 0; i < n; i++) {
        p[i] = maildrop_at(m, which[i]);
    }
    return p;
}

struct op *store_expunge(struct store *s, const struct maildrop *m, const size_t *which, size_t n,
                         struct span by, store_done_fn *done, void *arg)
{
    struct expunge *x = NEW(struct expunge);
    *x = (struct expunge){ .op = { .arg = arg },
                           .store = s,
                           .done = done,
                           .mailbox_id = m->mailbox_id,
                           .msgs = pointers_of(m, which, n),
                           .n = n,
                           .by = span_dup(by) };
    store_drop_lists(s, &x->mailbox_id, 1, on_expunge_dropped, x);
    return &x->op;
}

/* Tried once: it is worth no more, and the session has ended. The lists are as they were. */
void store_mark_read(struct store *s, const struct maildrop *m, const size_t *which, size_t n)
{
    struct pointer *msgs = pointers_of(m, which, n);
    index_mark_read(s->index, m->mailbox_id, msgs, n, NULL, NULL);
    free(msgs);
}
