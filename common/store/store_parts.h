/*
 * store_parts: what the files of the store share among themselves (store.c, login.c, delivery.c).
 * Not for anybody above the store.
 */
#ifndef MAILFLEET_STORE_PARTS_H
#define MAILFLEET_STORE_PARTS_H

#include "base/check.h"
#include "base/stats.h"
#include "store/cache.h"
#include "store/failures.h"
#include "store/index.h"
#include "store/password.h"
#include "store/repair.h"
#include "store/seal.h"
#include "store/store.h"
#include "store/token.h"

/* What the configuration says about logins. */
struct login_rules {
    bool exclusive;    /* one session a mailbox */
    unsigned sessions; /* else: so many; 0 is no limit */
    uint64_t delay_ms; /* 0: none */
    unsigned burst;
    bool enroll, enroll_sha1;
    uint32_t scram_iterations;
};

struct store {
    struct loop *loop;
    struct seal *seal;
    struct cache *cache;
    struct index *index;
    struct spool *spool;
    struct repair *repair;
    struct password *password;
    uv_timer_t volumes_timer;
    struct failures *failures;
    struct netset *exempt;        /* limits.exempt */
    struct token_checker *tokens; /* NULL: OAuth is not configured */
    struct login_rules rules;
    struct fleet fleet;
    char schema_why[HEALTH_WHY]; /* it does not fit; empty when it does */
    uint64_t grace_ms;
    const char *warning;  /* the operator's words of warnings; NULL: the built-in ones */
    const char *hostname; /* in their Message-ID */
    size_t warnings;      /* under way */
    size_t ahead;         /* octets that sessions hold, or will, of what they may read next */
};

/* The key of a mailbox's cached list. */
static inline struct cache_key list_key(uint64_t mailbox_id)
{
    return (struct cache_key){ .kind = CACHE_LIST, .mailbox_id = mailbox_id };
}

/* What one address leads to, for a login: through the cache, and whether the database was asked. */
typedef void store_entry_fn(void *arg, enum err e, struct entry **entry, bool from_database);
struct op *store_entry(struct store *s, struct span address, store_entry_fn *done, void *arg);

/* The maildrop through the cache: a hit, or the database and a fill. As index_list. */
struct op *store_list(struct store *s, uint64_t mailbox_id, index_list_fn *done, void *arg);
/*
 * The same, under a lease of it (cache_lease_list). The callee's is what it nulls; *lease is NULL
 * without a cache. BUSY: somebody else has the lease.
 */
typedef void store_leased_fn(void *arg, enum err e, struct lease **lease, struct maildrop **m);
struct op *store_list_leased(struct store *s, uint64_t mailbox_id, unsigned slots,
                             store_leased_fn *done, void *arg);

/*
 * Tombstones of the lists of n mailboxes; done is called whatever becomes of them: a cache that is
 * down stops no commit (design: the list's own life bounds what it may show).
 */
struct op *store_drop_lists(struct store *s, const uint64_t *mailboxes, size_t n,
                            cache_done_fn *done, void *arg);

/* Asks for the list of volumes now, when it is known to be old. */
void store_ask_volumes(struct store *s);

/* Puts a warning into a mailbox that has crossed a threshold, in the background (warner.c). */
void store_warn(struct store *s, uint64_t mailbox_id, unsigned threshold);

#endif
