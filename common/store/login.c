/*
 * login: who may open a maildrop. One request walks named steps, each of which is one inner call,
 * or several at once:
 *
 *   password     LOOK -> RECALL -> TAKE -> HASH -> JUDGE -> open
 *                 |         |        |                |
 *                 |         |        |                +-> RECHECK -> HASH or wrong (the entry came
 *                 |         |        |                    from the cache)
 *                 |         |        +-> open when the password is remembered
 *                 |         +-> open when it is, and the client was in within the last hour
 *                 +-> open when it was right from here not long ago: a poll
 *   token        GUARD -> TOKEN -> ENTRY -> open or wrong
 *   certificate  ENTRY -> open or denied
 *
 *   wrong        COUNT -> denied
 *   open         DELAY -> LIST -> end (login_open.c)
 *
 * LOOK asks for all that the names alone tell at the same time: what the address leads to, and the
 * guard, who also knows the password that was last right from there. RECALL asks for the one that
 * the fleet remembers of the address; of clients that nobody counts it is part of LOOK.
 *
 * Unknown, suspended and wrong take the same path and the same time: each asks the cache for the
 * address, asks the guard, asks the cache for a remembered password, pays for one crypt(3), asks
 * the database once (before the hash when the address was not cached, behind it when it was) and is
 * counted.
 *
 * The guard (failures.h) stands before everything that tells something of a password: LOOK asks
 * whether the client is over the limit, and JUDGE and TAKE count a guess before its answer is used,
 * so that those who guess at the same time learn no more than those who guess one after the other.
 * A password is held against a remembered one in LOOK and RECALL for those alone who were right
 * from the same address within the last hour, and against it or the hash only with a place in the
 * pair's count; with one in the client's too where something is known by then: in TAKE when a
 * password is remembered, else in JUDGE, since many logins may wait for a hash and none of them is
 * wrong yet. Who is turned away learns nothing, adds nothing to the count, and costs one query,
 * whoever was named.
 *
 * The request owns its copies of user and secret; the secret is wiped with it.
 */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/stats.h"
#include "store/login_parts.h"

static void login_entry(struct login_request *r);
static void login_looked(struct login_request *r);
static void login_hash(struct login_request *r);
static void login_token(struct login_request *r);
static void login_recheck(struct login_request *r);

struct login_request *login_new(struct store *s, struct span user, struct span secret,
                                store_login_fn *done, void *arg)
{
    struct login_request *r = NEW(struct login_request);
    *r = (struct login_request){ .op = { .arg = arg },
                                 .store = s,
                                 .done = done,
                                 .user = login_name(user),
                                 .secret = span_dup(secret),
                                 .secret_n = secret.n };
    return r;
}

static void login_tell(struct login_request *r)
{
    if (!r->op.cancelled) {
        r->login.user = r->user;
        r->login.retention_days = r->entry ? r->entry->retention_days : 0;
        r->login.read_days = r->entry ? r->entry->read_days : -1;
        r->done(r->op.arg, r->verdict, &r->login);
    }
    maildrop_free(&r->login.maildrop);
    cache_lease_drop(r->store->cache, &r->login.lease, NULL, NULL);
    guess_drop(&r->guess);
    entry_free(&r->entry);
    OPENSSL_cleanse(r->secret, r->secret_n);
    free(r->secret);
    free(r->user);
    free(r);
}

static void on_login_lease_back(void *arg, enum err e)
{
    (void)e; /* one that could not be given back ends by itself */
    login_tell(arg);
}

/* Who is told to try again must not find the mailbox held by the try before. */
void login_end(struct login_request *r, enum login_verdict v)
{
    r->verdict = v;
    if (v != LOGIN_OK && r->login.lease) {
        cache_lease_drop(r->store->cache, &r->login.lease, on_login_lease_back, r);
    } else {
        login_tell(r);
    }
}

/* --- the guard -------------------------------------------------------------------------------- */

static void on_login_blocked(void *arg, enum err e, struct entry **entries, size_t n)
{
    (void)e, (void)entries, (void)n;
    login_end(arg, LOGIN_BLOCKED);
}

/*
 * Turned away at the price of one query, whoever is named: without it the time would tell an
 * address that is cached from one that is nobody's, to a client that has nothing more to lose.
 */
static void login_blocked(struct login_request *r)
{
    struct span user = span_str(r->user);
    guess_drop(&r->guess);
    if (r->proof == LOGIN_PASSWORD && !r->from_database) {
        index_lookup(r->store->index, &user, 1, on_login_blocked, r);
    } else {
        login_end(r, LOGIN_BLOCKED);
    }
}

void login_right(struct login_request *r)
{
    guess_right(&r->guess, r->has_mac ? r->mac : NULL);
    login_proven(r);
}

/* --- COUNT ----------------------------------------------------------------------------------- */

static void on_login_counted(void *arg)
{
    login_end(arg, LOGIN_DENIED);
}

static void login_count(struct login_request *r)
{
    guess_wrong(&r->guess, span_of(r->secret, r->secret_n), on_login_counted, r);
}

static void on_login_token_taken(void *arg, bool too_many)
{
    struct login_request *r = arg;
    if (too_many) {
        login_blocked(r);
    } else {
        login_count(r);
    }
}

/* The database says so. Also for a client that has gone: guesses count whether or not somebody
 * waits for the answer. A password has its place by now. */
static void login_wrong(struct login_request *r)
{
    if (!r->guess) {
        login_end(r, LOGIN_DENIED);
    } else if (r->proof == LOGIN_TOKEN) {
        guess_take(r->guess, true, on_login_token_taken, r);
    } else {
        login_count(r);
    }
}

/* --- ENTRY ----------------------------------------------------------------------------------- */

/* The hash that the password is held against; empty, and so the dummy, for whoever may not in. */
static const char *login_hash_of(const struct login_request *r)
{
    return login_active(r->entry) ? r->entry->hash : "";
}

/* Proven by other means than a password: all that is left is whether there is a mailbox. */
static void login_named(struct login_request *r)
{
    if (login_active(r->entry)) {
        login_right(r);
    } else if (!r->from_database) {
        login_recheck(r);
    } else if (r->proof == LOGIN_TOKEN) {
        login_wrong(r);
    } else {
        login_end(r, LOGIN_DENIED); /* a certificate is no guess */
    }
}

static void login_known(struct login_request *r)
{
    if (r->proof == LOGIN_PASSWORD) {
        login_looked(r);
    } else if (r->unknown) {
        login_end(r, LOGIN_FAULT);
    } else {
        login_named(r);
    }
}

static void on_login_entry(void *arg, enum err e, struct entry **entry, bool from_database)
{
    struct login_request *r = arg;
    r->unknown = e != ERR_OK;
    if (e == ERR_OK) {
        r->entry = *entry;
        *entry = NULL;
        r->from_database = from_database;
    }
    login_known(r);
}

/* What is no UTF-8 the database would refuse to be asked about: there is no such user. */
static void on_login_no_utf8(struct task *t)
{
    struct login_request *r = CONTAINER_OF(t, struct login_request, task);
    r->entry = entry_new(ENTRY_NONE);
    r->from_database = true;
    login_known(r);
}

static void login_entry(struct login_request *r)
{
    struct span user = span_str(r->user);
    if (span_utf8(user)) {
        store_entry(r->store, user, on_login_entry, r);
    } else {
        r->task.run = on_login_no_utf8;
        loop_post(r->store->loop, &r->task);
    }
}

/* --- LOOK ------------------------------------------------------------------------------------ */

/* What is remembered of a right password: worth nothing without the fleet key, and nothing once
 * the account has another hash. */
static void login_mac(struct login_request *r)
{
    struct span parts[] = { span_str(r->entry->hash), span_of(r->secret, r->secret_n) };
    seal_mac(r->store->seal, "verified password", parts, ARRAY_LEN(parts), r->mac);
    r->has_mac = true;
}

static struct cache_key login_verified_key(const struct login_request *r)
{
    return (struct cache_key){ .kind = CACHE_VERIFIED, .name = span_str(r->user) };
}

static void on_login_taken(void *arg, bool too_many)
{
    struct login_request *r = arg;
    if (too_many) {
        login_blocked(r);
    } else if (r->matches) {
        login_right(r);
    } else {
        login_hash(r);
    }
}

/* What may stand there of somebody who has no mailbox is not believed. */
static void login_compare(struct login_request *r)
{
    r->remembered = r->remembered && *login_hash_of(r);
    r->matches = r->remembered && CRYPTO_memcmp(r->past, r->mac, sizeof r->mac) == 0;
    if (r->matches && (!r->guess || guess_known(r->guess))) {
        login_right(r);
    } else if (r->guess) {
        guess_take(r->guess, r->remembered, on_login_taken, r);
    } else {
        login_hash(r);
    }
}

static void on_login_recalled(void *arg, const struct cache_reply *reply)
{
    struct login_request *r = arg;
    r->recalled = true;
    r->remembered = reply->hit && reply->value.n == sizeof r->past;
    if (r->remembered) {
        memcpy(r->past, reply->value.p, sizeof r->past);
    }
    login_looked(r);
}

static void login_recall(struct login_request *r)
{
    struct cache_key k = login_verified_key(r);
    cache_get(r->store->cache, &k, on_login_recalled, r);
}

/* Behind LOOK, and behind RECALL. */
static void login_looked(struct login_request *r)
{
    if (--r->looks > 0) {
        return;
    }
    if (r->unknown) {
        login_end(r, LOGIN_FAULT);
        return;
    }
    login_mac(r);
    if (r->blocked) {
        login_blocked(r);
    } else if (r->recalled) {
        login_compare(r);
    } else if (*login_hash_of(r) && guess_knows(r->guess, r->mac)) {
        login_right(r);
    } else {
        r->looks = 1;
        login_recall(r);
    }
}

static void on_login_asked(void *arg, bool too_many)
{
    struct login_request *r = arg;
    r->blocked = too_many;
    login_looked(r);
}

static void login_look(struct login_request *r)
{
    r->looks = 2;
    login_entry(r);
    if (r->guess) {
        guess_ask(r->guess, on_login_asked, r);
    } else {
        login_recall(r);
    }
}

/* --- HASH ------------------------------------------------------------------------------------ */

static void login_remember(struct login_request *r)
{
    struct cache_key k = login_verified_key(r);
    cache_set(r->store->cache, &k, span_of(r->mac, sizeof r->mac));
}

/* JUDGE: from here on right and wrong part. */
static void login_judge(struct login_request *r)
{
    if (r->right) {
        login_remember(r);
        login_enroll(r->store, r->user, r->entry, span_of(r->secret, r->secret_n));
        login_right(r);
    } else if (!r->from_database) {
        login_recheck(r);
    } else {
        login_wrong(r);
    }
}

static void on_login_judge(void *arg, bool too_many)
{
    if (too_many) {
        login_blocked(arg);
    } else {
        login_judge(arg);
    }
}

static void on_login_overload(void *arg)
{
    login_end(arg, LOGIN_OVERLOAD);
}

/* Nobody hashed it, but one that was held against a remembered password has been judged: it counts,
 * or a queue that is kept full would make guesses free. */
static void login_overload(struct login_request *r)
{
    if (r->guess && r->remembered) {
        guess_wrong(&r->guess, span_of(r->secret, r->secret_n), on_login_overload, r);
    } else {
        login_end(r, LOGIN_OVERLOAD);
    }
}

static void on_login_hash(void *arg, enum err e)
{
    struct login_request *r = arg;
    r->right = e == ERR_OK;
    if (e == ERR_LIMIT || e == ERR_CLOSED) {
        login_overload(r);
    } else if (e != ERR_OK && e != ERR_DENIED) {
        login_end(r, LOGIN_FAULT);
    } else if (r->guess) {
        guess_take(r->guess, true, on_login_judge, r);
    } else {
        login_judge(r);
    }
}

/* Clients take turns; behind an address that is nobody's to count, as of a webmail, users do. */
static uint64_t login_client(const struct login_request *r)
{
    struct span user = span_str(r->user);
    uint8_t mac[SEAL_MAC_SIZE];
    uint64_t number;
    if (r->guess) {
        return guess_client(r->guess);
    }
    seal_mac(r->store->seal, "line of a user", &user, 1, mac);
    memcpy(&number, mac, sizeof number);
    return number;
}

static void login_hash(struct login_request *r)
{
    const struct password_waiter w = { .client = login_client(r), .gone = &r->op.cancelled };
    password_check(r->store->password, span_of(r->secret, r->secret_n), login_hash_of(r), &w,
                   on_login_hash, r);
}

/* --- TOKEN ----------------------------------------------------------------------------------- */

/* True when the token is for whom the client named, if it named anybody; r->user is it then. */
static bool login_take_user(struct login_request *r, struct span user)
{
    if (user.n == 0 || span_find(user, '\0') != user.n) {
        return false;
    }
    char *canonical = login_name(user);
    bool same = !*r->user || strcmp(r->user, canonical) == 0;
    if (same) {
        free(r->user);
        r->user = canonical;
    } else {
        free(canonical);
    }
    return same;
}

static void on_login_token(void *arg, enum err e, struct span user)
{
    struct login_request *r = arg;
    if (e == ERR_OK && login_take_user(r, user)) {
        login_entry(r);
    } else if (e == ERR_OK || e == ERR_DENIED) {
        login_wrong(r);
    } else {
        login_end(r, e == ERR_LIMIT ? LOGIN_OVERLOAD : LOGIN_FAULT);
    }
}

static void on_login_guard(void *arg, bool too_many)
{
    if (too_many) {
        login_blocked(arg);
    } else {
        login_token(arg);
    }
}

static void login_guard(struct login_request *r)
{
    if (r->guess) {
        guess_ask(r->guess, on_login_guard, r);
    } else {
        login_token(r);
    }
}

static void login_token(struct login_request *r)
{
    token_check(r->store->tokens, span_of(r->secret, r->secret_n), on_login_token, r);
}

/* --- RECHECK --------------------------------------------------------------------------------- */

/*
 * Wrong by an entry that may be an old one out of the cache: only the database says no. When it
 * has the same hash the answer stands, and no second crypt(3) is paid.
 */
static void on_login_recheck(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct login_request *r = arg;
    if (e != ERR_OK || n != 1) {
        login_end(r, LOGIN_FAULT);
        return;
    }
    struct entry *old = r->entry;
    const char *old_hash = login_hash_of(r);
    r->entry = entries[0];
    entries[0] = NULL;
    r->from_database = true;
    bool same = strcmp(old_hash, login_hash_of(r)) == 0;
    entry_free(&old);
    if (r->proof != LOGIN_PASSWORD) {
        login_named(r);
    } else if (same) {
        login_wrong(r);
    } else {
        login_mac(r);
        login_hash(r);
    }
}

static void login_recheck(struct login_request *r)
{
    struct span user = span_str(r->user);
    index_lookup(r->store->index, &user, 1, on_login_recheck, r);
}

/* --- the claim ------------------------------------------------------------------------------- */

/* A token where none can be checked: an offer that was made by mistake. */
static void on_login_no_tokens(struct task *t)
{
    struct login_request *r = CONTAINER_OF(t, struct login_request, task);
    LOG(LOG_ERROR, "login.no_tokens", F_STR("why", "OAuth is not configured"));
    login_end(r, LOGIN_FAULT);
}

static struct guess *login_guess(struct store *s, const struct login_claim *c, const char *user)
{
    enum guess_kind kind = c->proof == LOGIN_TOKEN ? GUESS_TOKEN : GUESS_PASSWORD;
    return c->proof == LOGIN_CERTIFICATE ? NULL
                                         : guess_open(s->failures, kind, c->client, span_str(user));
}

struct op *store_login(struct store *s, const struct login_claim *c, store_login_fn *done,
                       void *arg)
{
    struct login_request *r = login_new(s, c->user, c->secret, done, arg);
    r->proof = c->proof;
    r->guess = login_guess(s, c, r->user);
    if (c->proof == LOGIN_PASSWORD) {
        login_look(r);
    } else if (c->proof == LOGIN_CERTIFICATE) {
        login_entry(r);
    } else if (s->tokens) {
        login_guard(r);
    } else {
        r->task.run = on_login_no_tokens;
        loop_post(s->loop, &r->task);
    }
    return &r->op;
}

bool store_tokens(const struct store *s)
{
    return s->tokens != NULL;
}
