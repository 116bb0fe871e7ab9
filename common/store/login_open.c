/*
 * login_open: from a proven name to the maildrop:
 *
 *   DELAY -> LIST -> end
 *
 * All of it comes after the proof, so that a stranger can neither lock a mailbox nor use up its
 * logins; the list is read under the lease, so that it has everything that the last session did.
 *
 * A login that is DELAYED consumes nothing: who comes too often gets in as soon as one who waits.
 * One that finds the mailbox IN_USE, or all its SESSIONS taken, has consumed one of its bucket:
 * it cost us the same, and else a client could knock without end while it holds a session. One
 * that a fault ends has, too: the bucket holds several, and a call to give one back would go to the
 * part that has just failed. Who is denied, blocked or turned away for overload never came here.
 *
 * A bucket or a lease that the cache does not answer for lets in. A client that has gone takes
 * nothing in its own name.
 */
#include "store/login_parts.h"

static void login_list(struct login_request *r);

/* --- DELAY ----------------------------------------------------------------------------------- */

static void on_login_delay(void *arg, enum err e)
{
    struct login_request *r = arg;
    if (e == ERR_LIMIT) {
        login_end(r, LOGIN_DELAYED);
    } else {
        login_list(r);
    }
}

void login_proven(struct login_request *r)
{
    const struct login_rules *rules = &r->store->rules;
    if (r->op.cancelled) {
        login_end(r, LOGIN_FAULT);
    } else if (rules->delay_ms) {
        cache_leak(r->store->cache, r->entry->mailbox_id, rules->delay_ms, rules->burst,
                   on_login_delay, r);
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
    login_end(r, e == ERR_OK ? LOGIN_OK : LOGIN_FAULT);
}

/* Without a cache there is no lease, and no harm. */
static void on_login_leased(void *arg, enum err e, struct lease **lease, struct maildrop **m)
{
    struct login_request *r = arg;
    r->login.lease = *lease;
    *lease = NULL;
    if (e == ERR_BUSY) {
        login_end(r, r->store->rules.exclusive ? LOGIN_IN_USE : LOGIN_SESSIONS);
    } else {
        on_login_list(r, e, m);
    }
}

static void login_list(struct login_request *r)
{
    const struct login_rules *rules = &r->store->rules;
    uint64_t id = r->entry->mailbox_id;
    if (r->op.cancelled) {
        login_end(r, LOGIN_FAULT);
    } else if (rules->exclusive || rules->sessions) {
        store_list_leased(r->store, id, rules->exclusive ? 0 : rules->sessions, on_login_leased, r);
    } else {
        store_list(r->store, id, on_login_list, r);
    }
}

struct op *store_lease_drop(struct store *s, struct lease **lease, store_done_fn *done, void *arg)
{
    return cache_lease_drop(s->cache, lease, done, arg);
}
