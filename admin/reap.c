/*
 * reap: the one place in mailfleet that unlinks. It takes the ledger rows whose grace is over,
 * mailbox by mailbox:
 *
 *   claim     the rows are this reaper's; another leaves them alone for STALE_MS
 *   unlink    the file of a row that shares it with nobody
 *   release   the row goes; a shared file's count goes down in the same transaction
 *   free      shared files that nobody counts any more: unlink, then forget
 *
 * Each step can be repeated, so a reaper may be killed anywhere and any number may run at once, on
 * any node. A file that can't be unlinked now keeps its row for a later run. A timer runs it.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "store/spool.h"
#include "table.h"

#define STALE_MS     (60 * 60 * 1000) /* after which a claim was a dead reaper's */
#define CLAIM_MOST   256              /* rows in one go, and so unlinks under way at once */
#define VOLUME_TRIES 50               /* times 100 ms, until the volumes have been looked at */

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
    uint64_t left; /* rows it may still take */
    size_t pending;
    uint64_t rows, files, failed;
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

/* Unlinks the files of all victims that are not shared; each then has its err. */
static void unlink_victims(struct reaper *r)
{
    for (size_t i = 0; i < r->n; i++) {
        struct victim *v = &r->victims[i];
        v->reaper = r;
        v->err = ERR_OK;
        if (!v->shared) {
            r->pending++;
            spool_unlink(r->spool, v->volume, &v->blob, on_unlinked, v);
        }
    }
    wait_unlinks(r);
    for (size_t i = 0; i < r->n; i++) {
        struct victim *v = &r->victims[i];
        if (v->shared) {
            continue;
        }
        if (v->err == ERR_OK) {
            r->files++;
        } else {
            char id[BLOB_ID_CHARS + 1];
            blob_id_text(&v->blob, id);
            admin_fail(0, "volume %u: %s is not unlinked now: %s", v->volume, id, err_text(v->err));
            r->failed++;
        }
    }
    fault_at(FAULT_reap_unlinked);
}

/* A volume is used once its sentinel has been looked at: gives the spool the time for it. */
static void timer_fired(uv_timer_t *t)
{
    (void)t;
}

static void wait_volumes(struct reaper *r, const struct volume *volumes, size_t n)
{
    uv_timer_t t;
    CHECK(uv_timer_init(loop_uv(r->admin->loop), &t) == 0);
    uv_timer_start(&t, timer_fired, 100, 100);
    for (size_t i = 0, tries = 0; i < n && tries < VOLUME_TRIES;) {
        if (spool_volume_ready(r->spool, volumes[i].volume_id)) {
            i++;
        } else {
            tries++;
            uv_run(loop_uv(r->admin->loop), UV_RUN_ONCE);
        }
    }
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(loop_uv(r->admin->loop), UV_RUN_NOWAIT);
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

/* EX_OK when the mailbox has no more that is due. */
static int reap_mailbox(struct reaper *r, int64_t mailbox)
{
    struct admin *a = r->admin;
    do {
        uint64_t most = r->left < CLAIM_MOST ? r->left : CLAIM_MOST;
        if (most == 0) {
            return EX_OK;
        }
        admin_sql(a, "SELECT blob_id, seq, volume_id, shared FROM claim($1, $2, $3, $4)");
        pg_i64(a->batch, mailbox);
        pg_i64(a->batch, admin_now());
        pg_i64(a->batch, STALE_MS);
        pg_i64(a->batch, (int64_t)most);
        if (admin_run(a, PG_WRITE) != ERR_OK) {
            return admin_fail_reply(a, "ledger");
        }
        take_rows(r, admin_result(a, 0));
        r->left -= r->n;
        fault_at(FAULT_reap_claimed);
        unlink_victims(r);
        release_victims(r, mailbox);
    } while (r->n == CLAIM_MOST);
    return EX_OK;
}

/* Mailboxes in ascending order, so that one whose rows can't go yet is passed, not met again. */
static int reap_ledger(struct reaper *r)
{
    struct admin *a = r->admin;
    int64_t last = -1;
    for (;;) {
        admin_sql(a, "SELECT DISTINCT mailbox_id FROM ledger WHERE unlink_after <= ms_time($1) "
                     "AND mailbox_id > $2 ORDER BY mailbox_id LIMIT 1000");
        pg_i64(a->batch, admin_now());
        pg_i64(a->batch, last);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "ledger");
        }
        int n = admin_rows(a, 0);
        int64_t *mailboxes = NEW_ARRAY(int64_t, (size_t)n + 1);
        for (int i = 0; i < n; i++) {
            mailboxes[i] = pg_get_i64(admin_result(a, 0), i, 0);
        }
        int code = EX_OK;
        for (int i = 0; i < n && code == EX_OK; i++) {
            last = mailboxes[i];
            code = reap_mailbox(r, last);
        }
        free(mailboxes);
        if (code != EX_OK || n < 1000 || r->left == 0) {
            return code;
        }
    }
}

static int reap_shared(struct reaper *r)
{
    struct admin *a = r->admin;
    do {
        admin_sql(a, "SELECT blob_id, 0::bigint, volume_id, false FROM blob_shared "
                     "WHERE refs = 0 LIMIT $1");
        pg_i64(a->batch, CLAIM_MOST);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "shared files");
        }
        take_rows(r, admin_result(a, 0));
        uint64_t failed = r->failed;
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
        if (r->failed != failed) {
            break; /* the same files would be met again */
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
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0));
    table_number(t, (uint64_t)pg_get_i64(admin_result(a, 0), 0, 1));
    table_print_record(t, a->json, stdout);
    table_free(&t);
    return EX_OK;
}

static void print_result(const struct reaper *r)
{
    static const struct column columns[] = {
        { "rows", "Ledger rows released", COLUMN_NUMBER },
        { "files", "Files unlinked", COLUMN_NUMBER },
        { "failed", "Failed, for a later run", COLUMN_NUMBER },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, r->rows);
    table_number(t, r->files);
    table_number(t, r->failed);
    table_print_record(t, r->admin->json, stdout);
    table_free(&t);
}

static int open_volumes(struct reaper *r)
{
    struct volume *v;
    size_t n;
    int code = admin_volumes(r->admin, &v, &n);
    if (code != EX_OK) {
        return code;
    }
    const struct config *c = r->admin->config;
    r->spool =
        spool_open(r->admin->loop, &(struct spool_options){ .buffer = c->spool_buffer,
                                                            .read_chunk = c->spool_read_chunk,
                                                            .threads = (unsigned)c->spool_threads,
                                                            .queue = (unsigned)c->spool_queue,
                                                            .timeout_ms = c->spool_timeout });
    spool_set_volumes(r->spool, v, n);
    wait_volumes(r, v, n);
    free(v);
    return EX_OK;
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
    int code = open_volumes(r);
    if (code == EX_OK) {
        code = reap_ledger(r);
        if (code == EX_OK) {
            code = reap_shared(r);
        }
        print_result(r);
        spool_close(&r->spool);
    }
    code = code == EX_OK && r->failed > 0 ? EX_TEMPFAIL : code;
    free(r);
    return code;
}
