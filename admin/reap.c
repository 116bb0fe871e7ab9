/*
 * reap: the one place in mailfleet that unlinks. First expire.c moves to the ledger what is older
 * than its mailbox keeps it, and purge.c what removed accounts had. Then it takes the ledger rows
 * whose grace is over, mailbox by mailbox:
 *
 *   claim     the rows are this reaper's; another leaves them alone for STALE_MS
 *   unlink    the file of a row that shares it with nobody
 *   release   the row goes; a shared file's count goes down in the same transaction
 *   free      shared files that nobody counts any more: unlink, then forget
 *
 * Each step can be repeated, so a reaper may be killed anywhere and any number may run at once, on
 * any node. Volumes that are read-only, or not well, are passed over: their rows stay for a later
 * run, as does the row of a file that can't be unlinked now. A timer runs it.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "expire.h"
#include "purge.h"
#include "store/spool.h"
#include "table.h"

#define STALE_MS     (10 * 60 * 1000) /* after which a claim was a dead reaper's */
#define CLAIM_MOST   256              /* rows in one go, and so unlinks under way at once */
#define PAGE         1000 /* due rows that are looked at in one go, for their mailboxes */
#define VOLUME_TRIES 50   /* times 100 ms, until the volumes have been looked at */

struct victim {
    struct blob_id blob;
    int64_t seq;
    uint16_t volume;
    bool shared;
    struct reaper *reaper;
    enum err err;
};

struct reaper {
    struct admin *admin;
    struct spool *spool;
    struct volume *volumes;
    size_t n_volumes;
    int64_t *usable; /* of volumes: where files can be unlinked now */
    size_t n_usable;
    uint64_t left; /* rows it may still take */
    size_t pending;
    uint64_t expired, rows, files, failed;
    struct victim victims[CLAIM_MOST];
    size_t n;
};

/* --- unlinking ------------------------------------------------------------------------------- */

static void on_unlinked(void *arg, enum err e)
{
    struct victim *v = arg;
    v->err = e;
    v->reaper->pending--;
}

static void wait_unlinks(struct reaper *r)
{
    while (r->pending > 0) {
        uv_run(loop_uv(r->admin->loop), UV_RUN_ONCE);
    }
}

static void count_unlink(struct reaper *r, const struct victim *v)
{
    if (v->err == ERR_OK) {
        r->files++;
        return;
    }
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(&v->blob, id);
    admin_say("volume %u: %s is not unlinked now: %s", v->volume, id, err_text(v->err));
    r->failed++;
}

/* Unlinks the files of all victims that are not shared; each then has its err. */
static void unlink_victims(struct reaper *r)
{
    for (size_t i = 0; i < r->n; i++) {
        struct victim *v = &r->victims[i];
        v->reaper = r;
        if (!v->shared) {
            r->pending++;
            spool_unlink(r->spool, v->volume, &v->blob, on_unlinked, v);
        }
    }
    wait_unlinks(r);
    for (size_t i = 0; i < r->n; i++) {
        if (!r->victims[i].shared) {
            count_unlink(r, &r->victims[i]);
        }
    }
    fault_at(FAULT_reap_unlinked);
}

/* --- volumes --------------------------------------------------------------------------------- */

/* Looked at again before each claim: a volume may fail in the middle of a run. */
static void find_usable(struct reaper *r)
{
    r->n_usable = 0;
    for (size_t i = 0; i < r->n_volumes; i++) {
        const struct volume *v = &r->volumes[i];
        if (v->state != VOLUME_READONLY && spool_volume_ready(r->spool, v->volume_id)) {
            r->usable[r->n_usable++] = v->volume_id;
        }
    }
}

static void on_tick(uv_timer_t *t)
{
    (*(unsigned *)t->data)++;
}

/* Gives the spool the time to look at the volumes for the first time. */
static void wait_volumes(struct reaper *r)
{
    unsigned ticks = 0;
    uv_timer_t t = { .data = &ticks };
    CHECK(uv_timer_init(loop_uv(r->admin->loop), &t) == 0);
    uv_timer_start(&t, on_tick, 100, 100);
    for (size_t i = 0; i < r->n_volumes; i++) {
        const struct volume *v = &r->volumes[i];
        if (v->state == VOLUME_READONLY) {
            continue;
        }
        while (!spool_volume_ready(r->spool, v->volume_id) && ticks < VOLUME_TRIES) {
            uv_run(loop_uv(r->admin->loop), UV_RUN_ONCE);
        }
        if (!spool_volume_ready(r->spool, v->volume_id)) {
            admin_say("volume %u is not well, its files stay for a later run: see mailfleet check",
                      v->volume_id);
            r->failed++;
        }
    }
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(loop_uv(r->admin->loop), UV_RUN_NOWAIT);
}

static int open_volumes(struct reaper *r)
{
    int code = admin_volumes(r->admin, &r->volumes, &r->n_volumes);
    if (code != EX_OK) {
        return code;
    }
    struct spool_options o;
    char why[256];
    if (spool_options_read(r->admin->config, &o, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    o.queue = CLAIM_MOST;
    r->usable = NEW_ARRAY(int64_t, r->n_volumes);
    r->spool = spool_open(r->admin->loop, &o);
    spool_set_volumes(r->spool, r->volumes, r->n_volumes);
    wait_volumes(r);
    return EX_OK;
}

/* --- rows ------------------------------------------------------------------------------------ */

static void add_release(struct reaper *r, int64_t mailbox, const struct victim *v)
{
    struct admin *a = r->admin;
    admin_sql(a, "SELECT release($1, $2, $3)");
    pg_i64(a->batch, mailbox);
    pg_uuid(a->batch, &v->blob);
    pg_i64(a->batch, v->seq);
    if (v->shared) {
        admin_sql(a, "SELECT unshare($1)");
        pg_uuid(a->batch, &v->blob);
    }
}

/* All in one transaction; when another reaper was faster with one of them, each in its own. */
static void release_victims(struct reaper *r, int64_t mailbox)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (r->victims[i].err == ERR_OK) {
            add_release(r, mailbox, &r->victims[i]);
            n++;
        }
    }
    if (n == 0 || admin_run(r->admin, PG_WRITE) == ERR_OK) {
        r->rows += n;
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        if (r->victims[i].err != ERR_OK) {
            continue;
        }
        add_release(r, mailbox, &r->victims[i]);
        switch (admin_run(r->admin, PG_WRITE)) {
        case ERR_OK:
            r->rows++;
            break;
        case ERR_NOTFOUND:
            break; /* already released */
        default:
            admin_fail_reply(r->admin, "ledger");
            r->failed++;
        }
    }
}

static void take_rows(struct reaper *r, const PGresult *rows)
{
    r->n = 0;
    for (int i = 0; i < PQntuples(rows) && r->n < CLAIM_MOST; i++) {
        r->victims[r->n++] = (struct victim){ .blob = pg_get_uuid(rows, i, 0),
                                              .seq = pg_get_i64(rows, i, 1),
                                              .volume = (uint16_t)pg_get_i64(rows, i, 2),
                                              .shared = pg_get_i64(rows, i, 3) != 0 };
    }
}

/* What is due of a mailbox and on usable volumes becomes this reaper's: victims. */
static enum err claim(struct reaper *r, int64_t mailbox)
{
    struct admin *a = r->admin;
    find_usable(r);
    admin_sql(a, "SELECT blob_id, seq, volume_id, shared FROM claim($1, $2, $3, $4, $5)");
    pg_i64(a->batch, mailbox);
    pg_i64(a->batch, admin_now());
    pg_i64(a->batch, STALE_MS);
    pg_i64(a->batch, (int64_t)(r->left < CLAIM_MOST ? r->left : CLAIM_MOST));
    pg_i64s(a->batch, r->usable, r->n_usable);
    enum err e = admin_run(a, PG_WRITE);
    if (e == ERR_OK) {
        take_rows(r, admin_result(a, 0));
        r->left -= r->n;
    }
    return e;
}

/* EX_OK when the mailbox has no more that is due. */
static int reap_mailbox(struct reaper *r, int64_t mailbox)
{
    do {
        if (claim(r, mailbox) != ERR_OK) {
            return admin_fail_reply(r->admin, "ledger");
        }
        if (r->n > 0) {
            fault_at(FAULT_reap_claimed);
            unlink_victims(r);
            release_victims(r, mailbox);
        }
    } while (r->n == CLAIM_MOST && r->left > 0);
    return EX_OK;
}

/* A walk along ledger_due: rows that can't go yet are passed, not met again. */
struct walk {
    char after[64]; /* unlink_after, as text: to the microsecond */
    int64_t mailbox;
    bool ended;
    int64_t mailboxes[PAGE]; /* of this page, each once */
    size_t n;
};

static void add_mailbox(struct walk *w, int64_t mailbox)
{
    for (size_t i = 0; i < w->n; i++) {
        if (w->mailboxes[i] == mailbox) {
            return;
        }
    }
    w->mailboxes[w->n++] = mailbox;
}

static int next_page(struct reaper *r, struct walk *w)
{
    struct admin *a = r->admin;
    admin_sql(a, "SELECT mailbox_id, unlink_after::text FROM ledger "
                 "WHERE unlink_after <= ms_time($1) AND volume_id = ANY ($2) "
                 "AND (unlink_after, mailbox_id) > ($3::text::timestamptz, $4) "
                 "ORDER BY unlink_after, mailbox_id LIMIT $5");
    pg_i64(a->batch, admin_now());
    find_usable(r);
    pg_i64s(a->batch, r->usable, r->n_usable);
    pg_text(a->batch, span_str(w->after));
    pg_i64(a->batch, w->mailbox);
    pg_i64(a->batch, PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "ledger");
    }
    const PGresult *rows = admin_result(a, 0);
    int n = PQntuples(rows);
    w->n = 0;
    for (int i = 0; i < n; i++) {
        add_mailbox(w, pg_get_i64(rows, i, 0));
    }
    if (n > 0) {
        struct span after = pg_get_span(rows, n - 1, 1);
        snprintf(w->after, sizeof w->after, "%.*s", SPAN_ARG(after));
        w->mailbox = pg_get_i64(rows, n - 1, 0);
    }
    w->ended = n < PAGE;
    return EX_OK;
}

static int reap_ledger(struct reaper *r)
{
    struct walk w = { .after = "-infinity" };
    int code = EX_OK;
    while (code == EX_OK && !w.ended && r->left > 0) {
        code = next_page(r, &w);
        for (size_t i = 0; i < w.n && code == EX_OK && r->left > 0; i++) {
            code = reap_mailbox(r, w.mailboxes[i]);
        }
    }
    return code;
}

/* In the order of ids, so that those that can't go yet are passed. */
static int reap_shared(struct reaper *r)
{
    struct admin *a = r->admin;
    struct blob_id last = { 0 };
    do {
        find_usable(r);
        admin_sql(a, "SELECT blob_id, 0::bigint, volume_id, false FROM blob_shared WHERE refs = 0 "
                     "AND blob_id > $1 AND volume_id = ANY ($2) ORDER BY blob_id LIMIT $3");
        pg_uuid(a->batch, &last);
        pg_i64s(a->batch, r->usable, r->n_usable);
        pg_i64(a->batch, CLAIM_MOST);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "shared files");
        }
        take_rows(r, admin_result(a, 0));
        if (r->n == 0) {
            return EX_OK;
        }
        last = r->victims[r->n - 1].blob;
        unlink_victims(r);
        for (size_t i = 0; i < r->n; i++) {
            if (r->victims[i].err == ERR_OK) {
                admin_sql(a, "SELECT forget($1)");
                pg_uuid(a->batch, &r->victims[i].blob);
            }
        }
        if (a->batch && admin_run(a, PG_WRITE) != ERR_OK) {
            return admin_fail_reply(a, "shared files");
        }
    } while (r->n == CLAIM_MOST);
    return EX_OK;
}

/* --- the command ----------------------------------------------------------------------------- */

static int reap_count(struct admin *a)
{
    admin_sql(a, "SELECT count(*), coalesce(sum(size), 0)::bigint FROM ledger "
                 "WHERE unlink_after <= ms_time($1)");
    pg_i64(a->batch, admin_now());
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "ledger");
    }
    static const struct column columns[] = {
        { "due", "Ledger rows due", COLUMN_NUMBER },
        { "octets", "Octets", COLUMN_NUMBER },
        { "expiring", "Messages that would expire", COLUMN_NUMBER },
    };
    uint64_t due = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0), expiring = 0;
    uint64_t octets = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 1);
    int code = expire_count(a, &expiring);
    if (code == EX_OK) {
        code = purge_count(a);
    }
    if (code != EX_OK) {
        return code;
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, due);
    table_number(t, octets);
    table_number(t, expiring);
    table_print_record(t, a->json, stdout);
    table_free(&t);
    return EX_OK;
}

static void print_result(const struct reaper *r)
{
    static const struct column columns[] = {
        { "expired", "Messages expired", COLUMN_NUMBER },
        { "rows", "Ledger rows released", COLUMN_NUMBER },
        { "files", "Files unlinked", COLUMN_NUMBER },
        { "failed", "Files and volumes left for a later run", COLUMN_NUMBER },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, r->expired);
    table_number(t, r->rows);
    table_number(t, r->files);
    table_number(t, r->failed);
    table_print_record(t, r->admin->json, stdout);
    table_free(&t);
}

int command_reap(struct admin *a, const struct args *args)
{
    uint64_t limit = UINT64_MAX;
    if (args->opt[ARG_limit] &&
        span_u64(span_str(args->opt[ARG_limit]), INT64_MAX, &limit) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s: not a number", args->opt[ARG_limit]);
    }
    if (args->opt[ARG_dry_run]) {
        return reap_count(a);
    }
    struct reaper *r = NEW(struct reaper);
    r->admin = a;
    r->left = limit;
    int code = expire_messages(a, limit, &r->expired);
    if (code == EX_OK) {
        code = purge_accounts(a, limit);
    }
    if (code == EX_OK) {
        code = open_volumes(r);
    }
    if (code == EX_OK) {
        code = reap_ledger(r);
        if (code == EX_OK) {
            code = reap_shared(r);
        }
        print_result(r);
        spool_close(&r->spool);
    }
    code = code == EX_OK && r->failed > 0 ? EX_TEMPFAIL : code;
    free(r->volumes);
    free(r->usable);
    free(r);
    return code;
}
