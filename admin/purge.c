/*
 * purge: a walk along removed_due. Each account is emptied by transactions of bounded size; when
 * nothing is left of it, one more ends it: receipt, account, mailbox and address together. Before
 * that nothing else may be gone, so that the next run finds the account again wherever this one is
 * killed.
 *
 * One that came back meanwhile is left alone: each transaction looks under the mailbox's lock.
 */
#include "purge.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/fault.h"
#include "removal.h"

#define PAGE      200  /* accounts of one statement */
#define MOVE_MOST 1000 /* messages of one transaction */

struct due {
    uint64_t mailbox_id;
    char *addr;
};

struct walk {
    char after[64]; /* purge_after, as text: to the microsecond */
    int64_t mailbox;
    bool ended;
    struct due due[PAGE];
    size_t n;
};

static void forget_page(struct walk *w)
{
    for (size_t i = 0; i < w->n; i++) {
        free(w->due[i].addr);
    }
    w->n = 0;
}

/* The next accounts whose time is over. EX_OK, or a code after a message. */
static int next_page(struct admin *a, struct walk *w)
{
    forget_page(w);
    admin_sql(a, "SELECT mailbox_id, addr, purge_after::text FROM removed "
                 "WHERE purged_at IS NULL AND purge_after <= ms_time($1) "
                 "AND (purge_after, mailbox_id) > ($2::text::timestamptz, $3) "
                 "ORDER BY purge_after, mailbox_id LIMIT $4");
    pg_i64(a->batch, admin_clock(a));
    pg_text(a->batch, span_str(w->after));
    pg_i64(a->batch, w->mailbox);
    pg_i64(a->batch, PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "removed accounts");
    }
    const PGresult *r = admin_result(a, 0);
    int rows = PQntuples(r);
    for (int i = 0; i < rows; i++) {
        w->mailbox = pg_get_i64(r, i, 0);
        w->due[w->n++] = (struct due){ .mailbox_id = (uint64_t)w->mailbox,
                                       .addr = span_dup(pg_get_span(r, i, 1)) };
        snprintf(w->after, sizeof w->after, "%.*s", SPAN_ARG(pg_get_span(r, i, 2)));
    }
    w->ended = rows < PAGE;
    return EX_OK;
}

static int move(struct admin *a, const struct due *d, uint64_t most, uint64_t *moved)
{
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = d->mailbox_id };
    admin_sql(a, "SELECT purge_page($1, $2, $3, $4)");
    pg_i64(a->batch, (int64_t)d->mailbox_id);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    pg_i64(a->batch, (int64_t)most);
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, d->addr);
    }
    *moved = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    fault_at(FAULT_purge_moved);
    return EX_OK;
}

struct sums {
    uint64_t accounts, messages;
};

/* Its rows, and what aliases were made to lead to it since it was removed: all or nothing. */
static int end(struct admin *a, const struct due *d, struct sums *sums)
{
    struct aliases s = { 0 };
    int code = aliases_find(a, span_str(d->addr), &s);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "SELECT purge_end($1, $2, $3)");
    pg_i64(a->batch, (int64_t)d->mailbox_id);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    admin_sql(a, "DELETE FROM address WHERE addr = $1 AND mailbox_id = $2");
    pg_text(a->batch, span_str(d->addr));
    pg_i64(a->batch, (int64_t)d->mailbox_id);
    aliases_drop_sql(a, &s, span_str(d->addr));
    struct cache_key *keys = NEW_ARRAY(struct cache_key, s.n_alone + s.n_among + 2);
    size_t n = aliases_keys(&s, keys);
    keys[n++] = (struct cache_key){ .kind = CACHE_ADDRESS, .address = span_str(d->addr) };
    keys[n++] = (struct cache_key){ .kind = CACHE_LIST, .mailbox_id = d->mailbox_id };
    enum err e = admin_run_change(a, keys, n);
    if (e != ERR_OK && e != ERR_NOTFOUND) {
        code = admin_fail_reply(a, d->addr);
    }
    sums->accounts += e == ERR_OK;
    free(keys);
    aliases_free(&s);
    fault_at(FAULT_purge_ended);
    return code;
}

static void say(const struct sums *s, const char *did, const char *moved)
{
    if (s->accounts > 0 || s->messages > 0) {
        admin_say("%llu removed accounts %s, %llu of their messages %s to the ledger",
                  (unsigned long long)s->accounts, did, (unsigned long long)s->messages, moved);
    }
}

/* An account that came back has nothing to move, and no end. */
static int purge_account(struct admin *a, const struct due *d, uint64_t *left, struct sums *s)
{
    uint64_t most, moved = 0;
    do {
        most = *left < MOVE_MOST ? *left : MOVE_MOST;
        int code = move(a, d, most, &moved);
        if (code != EX_OK) {
            return code;
        }
        *left -= moved;
        s->messages += moved;
        if (*left == 0) {
            return EX_OK;
        }
    } while (moved == most);
    return end(a, d, s);
}

int purge_accounts(struct admin *a, uint64_t most)
{
    struct walk w = { .after = "-infinity" };
    struct sums s = { 0 };
    int code = EX_OK;
    while (code == EX_OK && !w.ended && most > 0) {
        code = next_page(a, &w);
        for (size_t i = 0; i < w.n && code == EX_OK && most > 0; i++) {
            code = purge_account(a, &w.due[i], &most, &s);
        }
    }
    forget_page(&w);
    say(&s, "purged", "went");
    return code;
}

static int count_page(struct admin *a, const struct walk *w, struct sums *s)
{
    int64_t ids[PAGE];
    for (size_t i = 0; i < w->n; i++) {
        ids[i] = (int64_t)w->due[i].mailbox_id;
    }
    admin_sql(a, "SELECT count(*), coalesce(sum(msgs), 0)::bigint FROM mailbox "
                 "WHERE mailbox_id = ANY ($1) AND state = 2");
    pg_i64s(a->batch, ids, w->n);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "removed accounts");
    }
    s->accounts += (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    s->messages += (uint64_t)pg_get_i64(admin_result(a, 0), 0, 1);
    return EX_OK;
}

int purge_count(struct admin *a)
{
    struct walk w = { .after = "-infinity" };
    struct sums s = { 0 };
    int code = EX_OK;
    while (code == EX_OK && !w.ended) {
        code = next_page(a, &w);
        if (code == EX_OK) {
            code = count_page(a, &w, &s);
        }
    }
    forget_page(&w);
    say(&s, "would be purged", "would go");
    return code;
}
