/*
 * login_scram: who may open a maildrop, when the password is never seen (RFC 5802):
 *
 *   store_scram         GUARD -> ENTRY -> keys, true or false ones
 *   store_scram_proof   TAKE, for a client that was not in as this user within the last hour
 *   store_scram_login   open (login_open.c)
 *   store_scram_wrong   TAKE, unless it was -> RECHECK (when the entry came from the cache) ->
 *                       denied, or fault
 *   store_scram_drop    counts an exchange that was left
 *
 * A name that is not here, is suspended, or has no keys, gets false keys by the same path and so
 * after the same time. For a client that was not in as this user within the last hour that path is
 * the database, whoever is named: what the cache has of a name would show in the time of the first
 * answer, and that a name is nobody's is kept in no cache. One that was in, and one that
 * limits.exempt names, is answered from the cache. To others this tells that somebody reads this
 * mailbox from their own address, and nothing else.
 *
 * Who is over the limit is turned away before anything is asked in anybody's name, and again when
 * the proof comes, before it is looked at: many exchanges may have begun below the limit. What
 * counts, and for whom, is in failures.h.
 *
 * The database alone is the reason of a DENIED: cached keys that are others by now are a fault.
 *
 * A scram_login belongs to the session between two calls. It holds no secret of the client.
 */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/login_parts.h"

struct scram_login {
    char *user;          /* canonical */
    struct guess *guess; /* NULL: nobody's to count */
    bool taken;          /* the proof has been counted */
    struct entry *entry;
    bool from_database;
    struct scram_keys keys;
};

/* store_scram or store_scram_proof under way. */
struct scram_request {
    struct op op;
    struct task task;
    struct store *store;
    store_scram_fn *done;
    struct scram_login *login;
};

/* The client was in as this user, or is nobody's to count. */
static bool scram_known(const struct scram_login *l)
{
    return !l->guess || guess_known(l->guess);
}

static void scram_free(struct scram_login **pl)
{
    struct scram_login *l = *pl;
    if (l) {
        *pl = NULL;
        guess_drop(&l->guess);
        entry_free(&l->entry);
        free(l->user);
        OPENSSL_cleanse(&l->keys, sizeof l->keys);
        free(l);
    }
}

void store_scram_drop(struct scram_login **l)
{
    if (*l) {
        guess_left(&(*l)->guess);
    }
    scram_free(l);
}

/* A client that has gone meanwhile has left an exchange like any other. */
static void scram_end(struct scram_request *r, enum login_verdict v)
{
    if (v != LOGIN_OK) {
        scram_free(&r->login);
    }
    if (!r->op.cancelled) {
        r->done(r->op.arg, v, &r->login, r->login ? &r->login->keys : NULL);
    }
    store_scram_drop(&r->login);
    free(r);
}

/* --- keys ------------------------------------------------------------------------------------ */

/*
 * Whether an account's keys count. A hash that was locked by hand (`!` or `*` in front, as in
 * shadow(5)) locks them too: they are of the same password. Keys without a hash are what an import
 * from a server brings that kept nothing else.
 */
static bool scram_may(const struct entry *e)
{
    return login_active(e) && e->hash[0] != '!' && e->hash[0] != '*' && e->scram[0];
}

/* CORRUPT: there are keys, and they can't be read. */
static enum err scram_keys_of(const struct store *s, const char *user, const struct entry *e,
                              enum scram_hash h, struct scram_keys *out)
{
    enum err err = scram_may(e) ? scram_parse(span_str(e->scram), h, out) : ERR_NOTFOUND;
    if (err == ERR_NOTFOUND) {
        struct span name = span_str(user);
        uint8_t mac[SEAL_MAC_SIZE];
        seal_mac(s->seal, "scram keys of nobody", &name, 1, mac);
        scram_fake(h, mac, s->rules.scram_iterations, out);
        return ERR_OK;
    }
    return err;
}

static bool scram_same(const struct scram_keys *a, const struct scram_keys *b)
{
    size_t n = scram_hash_size(a->hash);
    return a->hash == b->hash && a->iterations == b->iterations && a->salt_n == b->salt_n &&
           memcmp(a->salt, b->salt, a->salt_n) == 0 && CRYPTO_memcmp(a->stored, b->stored, n) == 0;
}

/* --- ENTRY ----------------------------------------------------------------------------------- */

static void scram_tell_keys(struct scram_request *r)
{
    struct scram_login *l = r->login;
    if (scram_keys_of(r->store, l->user, l->entry, l->keys.hash, &l->keys) == ERR_OK) {
        scram_end(r, LOGIN_OK);
    } else {
        LOG(LOG_ERROR, "login.bad_keys", F_U64("mailbox", l->entry->mailbox_id));
        scram_end(r, LOGIN_FAULT);
    }
}

static void on_scram_entry(void *arg, enum err e, struct entry **entry, bool from_database)
{
    struct scram_request *r = arg;
    if (e != ERR_OK) {
        scram_end(r, LOGIN_FAULT);
        return;
    }
    r->login->entry = *entry;
    *entry = NULL;
    r->login->from_database = from_database;
    scram_tell_keys(r);
}

static void on_scram_lookup(void *arg, enum err e, struct entry **entries, size_t n)
{
    on_scram_entry(arg, e == ERR_OK && n == 1 ? ERR_OK : ERR_TEMP, entries, true);
}

static void on_scram_no_utf8(struct task *t)
{
    struct scram_request *r = CONTAINER_OF(t, struct scram_request, task);
    r->login->entry = entry_new(ENTRY_NONE);
    r->login->from_database = true;
    scram_tell_keys(r);
}

static void scram_entry(struct scram_request *r)
{
    struct span user = span_str(r->login->user);
    if (!span_utf8(user)) {
        r->task.run = on_scram_no_utf8;
        loop_post(r->store->loop, &r->task);
    } else if (scram_known(r->login)) {
        store_entry(r->store, user, on_scram_entry, r);
    } else {
        index_lookup(r->store->index, &user, 1, on_scram_lookup, r);
    }
}

/* --- GUARD ----------------------------------------------------------------------------------- */

static void on_scram_guard(void *arg, bool too_many)
{
    struct scram_request *r = arg;
    if (too_many || r->op.cancelled) {
        scram_end(r, LOGIN_BLOCKED); /* nothing was done for it, so nothing is counted */
    } else {
        scram_entry(r);
    }
}

static struct scram_request *scram_request_new(struct store *s, struct scram_login *l,
                                               store_scram_fn *done, void *arg)
{
    struct scram_request *r = NEW(struct scram_request);
    *r = (struct scram_request){ .op = { .arg = arg }, .store = s, .done = done, .login = l };
    return r;
}

struct op *store_scram(struct store *s, enum scram_hash h, struct span user,
                       const struct sockaddr *client, store_scram_fn *done, void *arg)
{
    struct scram_login *l = NEW(struct scram_login);
    struct scram_request *r = scram_request_new(s, l, done, arg);
    l->user = login_name(user);
    l->keys.hash = h;
    l->guess = guess_open(s->failures, GUESS_PROOF, client, span_str(l->user));
    if (l->guess) {
        guess_ask(l->guess, on_scram_guard, r);
    } else {
        scram_entry(r);
    }
    return &r->op;
}

/* --- TAKE ------------------------------------------------------------------------------------ */

static void on_scram_taken(void *arg, bool too_many)
{
    scram_end(arg, too_many ? LOGIN_BLOCKED : LOGIN_OK);
}

static void on_scram_not_taken(struct task *t)
{
    scram_end(CONTAINER_OF(t, struct scram_request, task), LOGIN_OK);
}

/* A poll is let in by what GUARD asked, without a call. */
struct op *store_scram_proof(struct store *s, struct scram_login **l, store_scram_fn *done,
                             void *arg)
{
    struct scram_request *r = scram_request_new(s, *l, done, arg);
    *l = NULL;
    if (scram_known(r->login)) {
        r->task.run = on_scram_not_taken;
        loop_post(s->loop, &r->task);
    } else {
        r->login->taken = true;
        guess_take(r->login->guess, true, on_scram_taken, r);
    }
    return &r->op;
}

/* --- the end of the exchange ------------------------------------------------------------------ */

/* The keys that the client was held against stay behind, for who still needs them. */
static struct login_request *scram_become_login(struct store *s, struct scram_login *l,
                                                store_login_fn *done, void *arg)
{
    struct login_request *r = login_new(s, span_str(l->user), SPAN(""), done, arg);
    r->entry = l->entry;
    l->entry = NULL;
    r->from_database = l->from_database;
    r->guess = l->guess;
    l->guess = NULL;
    return r;
}

static void on_scram_proven(struct task *t)
{
    login_right(CONTAINER_OF(t, struct login_request, task));
}

struct op *store_scram_login(struct store *s, struct scram_login **l, store_login_fn *done,
                             void *arg)
{
    struct login_request *r = scram_become_login(s, *l, done, arg);
    scram_free(l);
    r->task.run = on_scram_proven;
    loop_post(s->loop, &r->task);
    return &r->op;
}

/* The proof has its place by now. Also for a client that has gone. */
static void scram_wrong(struct login_request *r)
{
    guess_keep(&r->guess);
    login_end(r, LOGIN_DENIED);
}

/* The database is asked whether the proof was held against the right keys. */
struct scram_recheck {
    struct task task;
    struct login_request *request;
    struct scram_keys keys;
};

static struct login_request *recheck_free(struct scram_recheck *c)
{
    struct login_request *r = c->request;
    OPENSSL_cleanse(&c->keys, sizeof c->keys);
    free(c);
    return r;
}

static void on_scram_dropped(void *arg, enum err e)
{
    (void)e;
    login_end(arg, LOGIN_FAULT);
}

/* They were others: the client may have been right. What it was held against goes. */
static void scram_drop_entry(struct login_request *r)
{
    struct cache_key k = { .kind = CACHE_ADDRESS, .address = span_str(r->user) };
    LOG(LOG_INFO, "login.keys_changed", F_STR("user", r->user));
    cache_tombstone(r->store->cache, &k, 1, on_scram_dropped, r);
}

static void on_scram_recheck(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct scram_recheck *c = arg;
    struct scram_keys now = { .hash = c->keys.hash };
    struct login_request *r = c->request;
    bool known = e == ERR_OK && n == 1 &&
                 scram_keys_of(r->store, r->user, entries[0], now.hash, &now) == ERR_OK;
    bool same = known && scram_same(&now, &c->keys);
    OPENSSL_cleanse(&now, sizeof now);
    recheck_free(c);
    if (!known) {
        login_end(r, LOGIN_FAULT);
    } else if (same) {
        scram_wrong(r);
    } else {
        scram_drop_entry(r);
    }
}

static void scram_recheck(struct scram_recheck *c)
{
    struct login_request *r = c->request;
    struct span user = span_str(r->user);
    if (r->from_database) {
        scram_wrong(recheck_free(c));
    } else {
        index_lookup(r->store->index, &user, 1, on_scram_recheck, c);
    }
}

static void on_scram_wrong(struct task *t)
{
    scram_recheck(CONTAINER_OF(t, struct scram_recheck, task));
}

static void on_scram_wrong_taken(void *arg, bool too_many)
{
    struct scram_recheck *c = arg;
    if (too_many) {
        login_end(recheck_free(c), LOGIN_BLOCKED);
    } else {
        scram_recheck(c);
    }
}

struct op *store_scram_wrong(struct store *s, struct scram_login **l, store_login_fn *done,
                             void *arg)
{
    struct login_request *r = scram_become_login(s, *l, done, arg);
    struct scram_recheck *c = NEW(struct scram_recheck);
    *c = (struct scram_recheck){ .request = r, .keys = (*l)->keys };
    if (r->guess && !(*l)->taken) {
        guess_take(r->guess, true, on_scram_wrong_taken, c);
    } else {
        c->task.run = on_scram_wrong;
        loop_post(s->loop, &c->task);
    }
    scram_free(l);
    return &r->op;
}
