/*
 * login: who may open a maildrop. One request walks named steps, each of which is one inner call:
 *
 *   ENTRY -> VERIFIED -> HASH -> LEASE -> LIST -> end
 *             |           |
 *             |           +-> RECHECK (wrong, but the entry came from the cache) -> HASH or denied
 *             +-> LEASE when the password is remembered
 *
 * The lease is taken after the password, so that a stranger can't lock a mailbox, and before the
 * list, so that the list has everything that the last session did. Unknown, suspended and wrong
 * take the same path and the same time: all end in one crypt(3).
 *
 * The request owns its copies of user and password; the password is wiped with it.
 */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/stats.h"
#include "store/store_parts.h"

struct login_request {
    struct op op;
    struct store *store;
    store_login_fn *done;
    char *user; /* canonical */
    char *password;
    size_t password_len;
    struct entry *entry;
    bool from_database; /* the entry is what the database says now */
    struct login login;
};

static void login_entry(struct login_request *r);
static void login_verified(struct login_request *r);
static void login_hash(struct login_request *r);
static void login_recheck(struct login_request *r);
static void login_lease(struct login_request *r);
static void login_list(struct login_request *r);

static void login_end(struct login_request *r, enum err e)
{
    if (!r->op.cancelled) {
        r->done(r->op.arg, e, &r->login);
    }
    maildrop_free(&r->login.maildrop);
    cache_lease_drop(r->store->cache, &r->login.lease, NULL, NULL);
    entry_free(&r->entry);
    OPENSSL_cleanse(r->password, r->password_len);
    free(r->password);
    free(r->user);
    free(r);
}

/* The hash that the password is held against; empty, and so the dummy, for whoever may not in. */
static const char *login_hash_of(const struct login_request *r)
{
    bool may = r->entry->kind == ENTRY_MAILBOX && r->entry->state == ACCOUNT_ACTIVE;
    return may ? r->entry->hash : "";
}

/* What is remembered of a right password: worth nothing without the fleet key, and nothing once
 * the account has another hash. */
static void login_mac(const struct login_request *r, uint8_t out[SEAL_MAC_SIZE])
{
    struct span parts[] = { span_str(r->entry->hash), span_of(r->password, r->password_len) };
    seal_mac(r->store->seal, "verified password", parts, ARRAY_LEN(parts), out);
}

static struct cache_key login_verified_key(const struct login_request *r)
{
    return (struct cache_key){ .kind = CACHE_VERIFIED, .mailbox_id = r->entry->mailbox_id };
}

/* --- ENTRY ----------------------------------------------------------------------------------- */

static void on_login_entry(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct login_request *r = arg;
    if (e != ERR_OK || n != 1) {
        login_end(r, ERR_TEMP);
        return;
    }
    r->entry = entries[0];
    entries[0] = NULL;
    if (*login_hash_of(r)) {
        login_verified(r);
    } else {
        login_hash(r);
    }
}

static void login_entry(struct login_request *r)
{
    struct span user = span_str(r->user);
    if (!span_utf8(user)) { /* the database would refuse the question: there is no such user */
        r->entry = entry_new(ENTRY_NONE);
        r->from_database = true;
        login_hash(r);
        return;
    }
    store_lookup(r->store, &user, 1, on_login_entry, r);
}

/* --- VERIFIED -------------------------------------------------------------------------------- */

static void on_login_verified(void *arg, const struct cache_reply *reply)
{
    struct login_request *r = arg;
    uint8_t mac[SEAL_MAC_SIZE];
    login_mac(r, mac);
    if (reply->hit && reply->value.n == sizeof mac &&
        CRYPTO_memcmp(reply->value.p, mac, sizeof mac) == 0) {
        login_lease(r);
    } else {
        login_hash(r);
    }
}

static void login_verified(struct login_request *r)
{
    struct cache_key k = login_verified_key(r);
    cache_get(r->store->cache, &k, on_login_verified, r);
}

/* --- HASH ------------------------------------------------------------------------------------ */

static void on_login_hash(void *arg, enum err e)
{
    struct login_request *r = arg;
    if (e == ERR_OK) {
        uint8_t mac[SEAL_MAC_SIZE];
        login_mac(r, mac);
        struct cache_key k = login_verified_key(r);
        cache_set(r->store->cache, &k, span_of(mac, sizeof mac));
        login_lease(r);
    } else if (e == ERR_DENIED && !r->from_database) {
        login_recheck(r);
    } else {
        login_end(r, e == ERR_DENIED || e == ERR_LIMIT ? e : ERR_TEMP);
    }
}

static void login_hash(struct login_request *r)
{
    stats_add(STAT_password_checks, 1);
    password_check(r->store->password, span_of(r->password, r->password_len), login_hash_of(r),
                   on_login_hash, r);
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
        login_end(r, ERR_TEMP);
        return;
    }
    struct entry *old = r->entry;
    const char *old_hash = login_hash_of(r);
    r->entry = entries[0];
    entries[0] = NULL;
    r->from_database = true;
    bool same = strcmp(old_hash, login_hash_of(r)) == 0;
    entry_free(&old);
    if (same) {
        login_end(r, ERR_DENIED);
    } else {
        login_hash(r);
    }
}

static void login_recheck(struct login_request *r)
{
    struct span user = span_str(r->user);
    index_lookup(r->store->index, &user, 1, on_login_recheck, r);
}

/* --- LEASE ----------------------------------------------------------------------------------- */

static void on_login_lease(void *arg, enum err e, struct lease *lease)
{
    struct login_request *r = arg;
    r->login.lease = lease;
    if (e == ERR_BUSY) {
        login_end(r, ERR_BUSY);
    } else {
        login_list(r); /* without a cache there is no lease, and no harm */
    }
}

static void login_lease(struct login_request *r)
{
    if (r->op.cancelled) {
        login_end(r, ERR_CLOSED); /* the client has gone: take nothing in its name */
    } else if (r->store->lock) {
        cache_lease_take(r->store->cache, r->entry->mailbox_id, on_login_lease, r);
    } else {
        login_list(r);
    }
}

/* --- LIST ------------------------------------------------------------------------------------ */

static void on_login_list(void *arg, enum err e, struct maildrop **m)
{
    struct login_request *r = arg;
    if (e == ERR_OK) {
        r->login.maildrop = *m;
        *m = NULL;
    }
    /* A mailbox that is not there behind an account that is: a removal under way, or a fault. */
    login_end(r, e == ERR_OK ? ERR_OK : ERR_TEMP);
}

static void login_list(struct login_request *r)
{
    store_list(r->store, r->entry->mailbox_id, on_login_list, r);
}

struct op *store_login(struct store *s, struct span user, struct span password,
                       store_login_fn *done, void *arg)
{
    struct login_request *r = NEW(struct login_request);
    *r = (struct login_request){ .op = { .arg = arg },
                                 .store = s,
                                 .done = done,
                                 .user = span_dup(user),
                                 .password = span_dup(password),
                                 .password_len = password.n };
    ascii_lower(r->user, user.n);
    login_entry(r);
    return &r->op;
}

struct op *store_lease_drop(struct store *s, struct lease **lease, store_done_fn *done, void *arg)
{
    return cache_lease_drop(s->cache, lease, done, arg);
}
