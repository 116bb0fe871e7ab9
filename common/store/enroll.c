/*
 * enroll: SCRAM keys for accounts that came with a crypt(3) hash alone, and new ones where others
 * were made with another number of iterations than auth.scram_iterations says: false keys have that
 * number, so an account that keeps another one is told from nobody's.
 *
 *   DERIVE -> tombstone -> the database, if hash and keys are still the same -> tombstone
 *
 * Keys can only be made of a password, and only a login shows one. It is done behind the login's
 * back and only while the threads that verify passwords have time: nobody waits for it, and what
 * fails is tried again with the next password that is verified by its hash.
 *
 * A request owns itself. The password is password.c's copy, wiped there.
 */
#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/stats.h"
#include "store/login_parts.h"

struct enroll {
    struct store *store;
    char *user; /* canonical */
    uint64_t mailbox_id;
    char *hash; /* that the password was right for */
    char *old;  /* the keys that the new ones are made from; they may be out of the cache */
    char scram[ENTRY_SCRAM_MAX + 1];
};

static void enroll_free(struct enroll *n)
{
    free(n->user);
    free(n->hash);
    free(n->old);
    free(n);
}

/* --- the database, between two tombstones ---------------------------------------------------- */

static void on_enroll_dropped_again(void *arg, enum err e)
{
    (void)e;
    enroll_free(arg);
}

static void enroll_drop(struct enroll *n, cache_done_fn *done)
{
    struct cache_key k = { .kind = CACHE_ADDRESS, .address = span_str(n->user) };
    cache_tombstone(n->store->cache, &k, 1, done, n);
}

static void on_enrolled(void *arg, enum err e)
{
    struct enroll *n = arg;
    if (e == ERR_OK) {
        stats_add(STAT_scram_enrolled, 1);
    } else if (e != ERR_NOTFOUND) {
        LOG(LOG_WARN, "enroll.failed", F_U64("mailbox", n->mailbox_id), F_ERR(e));
    }
    enroll_drop(n, on_enroll_dropped_again);
}

static void on_enroll_dropped(void *arg, enum err e)
{
    struct enroll *n = arg;
    (void)e;
    index_enroll(n->store->index, n->mailbox_id, n->hash, span_str(n->old), span_str(n->scram),
                 on_enrolled, n);
}

/* --- DERIVE ---------------------------------------------------------------------------------- */

/* Behind the keys that stay; false when there is no room. */
static bool enroll_add(struct enroll *n, struct span keys)
{
    size_t at = strlen(n->scram);
    if (at + (at > 0) + keys.n > ENTRY_SCRAM_MAX) {
        return false;
    }
    if (at > 0) {
        n->scram[at++] = ' ';
    }
    memcpy(n->scram + at, keys.p, keys.n);
    n->scram[at + keys.n] = '\0';
    return true;
}

static void on_enroll_derived(void *arg, enum err e, struct span keys)
{
    struct enroll *n = arg;
    if (e == ERR_OK && enroll_add(n, keys)) {
        enroll_drop(n, on_enroll_dropped);
    } else {
        enroll_free(n);
    }
}

/* --- who needs keys -------------------------------------------------------------------------- */

static bool enroll_wants(const struct store *s, enum scram_hash h, enum err e,
                         const struct scram_keys *k)
{
    return (h != SCRAM_SHA_1 || s->rules.enroll_sha1) &&
           (e == ERR_NOTFOUND || k->iterations != s->rules.scram_iterations);
}

/* Keys that can't be read are an operator's to look at: nothing is put over them. */
static size_t enroll_wanted(const struct store *s, const struct entry *e,
                            enum scram_hash out[SCRAM_HASHES])
{
    static const enum scram_hash all[SCRAM_HASHES] = { SCRAM_SHA_256, SCRAM_SHA_1 };
    struct scram_keys k;
    size_t n = 0;
    for (size_t i = 0; i < SCRAM_HASHES; i++) {
        enum err err = scram_parse(span_str(e->scram), all[i], &k);
        if (err == ERR_CORRUPT) {
            n = 0;
            break;
        }
        if (enroll_wants(s, all[i], err, &k)) {
            out[n++] = all[i];
        }
    }
    OPENSSL_cleanse(&k, sizeof k);
    return n;
}

static bool enroll_is_of(struct span word, const enum scram_hash *hashes, size_t n)
{
    struct scram_keys k;
    bool found = false;
    for (size_t i = 0; i < n && !found; i++) {
        found = scram_parse(word, hashes[i], &k) == ERR_OK;
    }
    OPENSSL_cleanse(&k, sizeof k);
    return found;
}

/* What is there, but for the keys that will be made. */
static void enroll_keep(struct enroll *n, const enum scram_hash *made, size_t count)
{
    struct span rest = span_str(n->old);
    while (rest.n > 0) {
        struct span word = span_first(rest, span_find(rest, ' '));
        if (!enroll_is_of(word, made, count)) {
            CHECK(enroll_add(n, word));
        }
        rest = span_skip(rest, word.n + 1);
    }
}

void login_enroll(struct store *s, const char *user, const struct entry *e, struct span password)
{
    enum scram_hash wanted[SCRAM_HASHES];
    size_t count = s->rules.enroll ? enroll_wanted(s, e, wanted) : 0;
    if (count == 0) {
        return;
    }
    struct enroll *n = NEW(struct enroll);
    *n = (struct enroll){ .store = s,
                          .user = mem_strdup(user),
                          .mailbox_id = e->mailbox_id,
                          .hash = mem_strdup(e->hash),
                          .old = mem_strdup(e->scram) };
    enroll_keep(n, wanted, count);
    if (!password_derive(s->password, password, wanted, count, s->rules.scram_iterations,
                         on_enroll_derived, n)) {
        enroll_free(n);
    }
}
