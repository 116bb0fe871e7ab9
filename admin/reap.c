/*
 * reap: the one place in mailfleet that unlinks. First expire.c moves to the ledger what is older
 * than its mailbox keeps it, purge.c what removed accounts had, and usage.c sums up the domains
 * with totals. Then it takes the ledger rows whose grace is over, mailbox by mailbox:
 *
 *   claim     the rows are this reaper's; another leaves them alone for STALE_MS, and notes that it
 *             took them over: the first may be frozen, and go on
 *   unlink    the file of a row that shares it with nobody
 *   release   the row goes, to ledger_past; a shared file's count goes down, and what was unlinked
 *             of the volume is counted, in the same transaction
 *   free      shared files that nobody counts any more: claim, unlink, forget
 *
 * What is due is told by the database's clock, and was due when the fuses (fuse.c) were read: no
 * more is unlinked than they have seen. At last ledger_past forgets what is older than
 * reap.history.
 *
 * Each step can be repeated, so a reaper may be killed anywhere and any number may run at once, on
 * any node. Volumes that are read-only, or not well, are passed over: their rows stay for a later
 * run, as does the row of a file that can't be unlinked now. A timer runs it.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fault.h"
#include "base/log.h"
#include "commands.h"
#include "expire.h"
#include "fuse.h"
#include "mover.h"
#include "progress.h"
#include "purge.h"
#include "reaping.h"
#include "store/spool.h"
#include "table.h"
#include "usage.h"

#define STALE_MS     (10 * 60 * 1000) /* after which a claim was a dead reaper's */
#define CLAIM_MOST   256              /* rows in one go, and so unlinks under way at once */
#define PAGE         1000 /* due rows that are looked at in one go, for their mailboxes */
#define VOLUME_TRIES 50   /* times 100 ms, until the volumes have been looked at */
#define PRUNE_PAGE   5000 /* old rows of ledger_past that go in one statement, */
#define PRUNE_PAGES  200  /* and statements in one run: the next one goes on */
#define LATE_MS      (24 * 60 * 60 * 1000) /* that reclaimed rows are remembered at least */

struct victim {
    struct blob_id blob;
    int64_t seq;
    uint16_t volume;
    bool shared;
    uint64_t octets; /* of the file */
    bool copy;       /* moving the file has left it: no fuse counts it */
    struct reaper *reaper;
    enum err err;
};

struct reaper {
    struct admin *admin;
    struct spool *spool;
    struct volume *volumes;
    size_t n_volumes;
    struct fuse *fuses; /* of volumes */
    int64_t *usable;    /* of volumes: where files can be unlinked now */
    size_t n_usable;
    bool *unwell;         /* of volumes: it was not well at some time, and that is told */
    int64_t until;        /* rows are due that were so then */
    uint64_t left;        /* rows it may still take */
    size_t most;          /* in one go */
    struct progress pace; /* files */
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

static struct fuse *fuse_of(struct reaper *r, uint16_t volume)
{
    size_t i = 0;
    while (r->fuses[i].volume != volume) {
        i++; /* claimed rows are on volumes of the list */
    }
    return &r->fuses[i];
}

static void log_fuse(struct reaper *r, const struct fuse *f)
{
    LOG(LOG_ERROR, "reap.fuse", F_U64("volume", f->volume), F_U64("due", f->due),
        F_U64("today", f->today), F_U64("used", f->used), F_U64("limit", f->limit));
    r->failed++;
}

/* More is due than the fuse had seen when somebody has moved the rows' times since. */
static void spend(struct reaper *r, const struct victim *v)
{
    struct fuse *f = fuse_of(r, v->volume);
    if (v->octets <= f->left) {
        f->left -= v->octets;
    } else if (!f->blown) {
        f->blown = true;
        f->left = 0;
        admin_say("volume %u: what reap.fuse allows, %llu octets, has been unlinked; no more is",
                  f->volume, (unsigned long long)f->limit);
        log_fuse(r, f);
    }
}

static void count_unlink(struct reaper *r, const struct victim *v)
{
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(&v->blob, id);
    if (v->err == ERR_OK) {
        if (!v->copy) {
            spend(r, v);
        }
        r->files++;
        LOG(LOG_INFO, "reap.unlinked", F_STR("id", id), F_U64("volume", v->volume),
            F_U64("octets", v->octets));
        return;
    }
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

static void pass_over(struct reaper *r, size_t i)
{
    if (!r->unwell[i]) {
        r->unwell[i] = true;
        admin_say("volume %u is not well, its files stay for a later run: see mailfleet check",
                  r->volumes[i].volume_id);
        r->failed++;
    }
}

/* Looked at again before each claim: a volume may fail in the middle of a run. */
static void find_usable(struct reaper *r)
{
    r->n_usable = 0;
    for (size_t i = 0; i < r->n_volumes; i++) {
        const struct volume *v = &r->volumes[i];
        if (v->state == VOLUME_READONLY || r->fuses[i].blown) {
            continue;
        }
        if (r->fuses[i].known && spool_volume_ready(r->spool, v->volume_id)) {
            r->usable[r->n_usable++] = v->volume_id;
        } else {
            pass_over(r, i);
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
            pass_over(r, i);
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
    r->unwell = NEW_ARRAY(bool, r->n_volumes);
    r->spool = spool_open(r->admin->loop, &o);
    spool_set_volumes(r->spool, r->volumes, r->n_volumes);
    wait_volumes(r);
    return EX_OK;
}

/* --- rows ------------------------------------------------------------------------------------ */

static void add_release(struct reaper *r, int64_t mailbox, const struct victim *v)
{
    struct admin *a = r->admin;
    admin_sql(a, "SELECT release($1, $2, $3, $4, $5)");
    pg_i64(a->batch, mailbox);
    pg_uuid(a->batch, &v->blob);
    pg_i64(a->batch, v->seq);
    pg_i64(a->batch, admin_clock(a));
    pg_bool(a->batch, a->config->reap_history > 0);
    if (v->shared) {
        admin_sql(a, "SELECT unshare($1)");
        pg_uuid(a->batch, &v->blob);
    }
}

static void add_forget(struct reaper *r, const struct victim *v)
{
    admin_sql(r->admin, "SELECT forget($1)");
    pg_uuid(r->admin->batch, &v->blob);
}

/* What these unlinked, volume by volume in the order of their numbers: no deadlock. */
static void add_reaped(struct reaper *r, const struct victim *v, size_t n)
{
    struct admin *a = r->admin;
    for (size_t i = 0; i < r->n_volumes; i++) {
        int64_t files = 0, octets = 0;
        for (size_t k = 0; k < n; k++) {
            if (v[k].volume == r->volumes[i].volume_id && v[k].err == ERR_OK && !v[k].shared &&
                !v[k].copy) {
                files++;
                octets += (int64_t)v[k].octets;
            }
        }
        if (files > 0) {
            admin_sql(a, "SELECT reaped($1, $2, $3, $4)");
            pg_i64(a->batch, r->volumes[i].volume_id);
            pg_i64(a->batch, admin_clock(a));
            pg_i64(a->batch, files);
            pg_i64(a->batch, octets);
        }
    }
}

/* The rows of n victims end in one transaction: of a mailbox, or of shared files that are free. */
static enum err end_rows(struct reaper *r, int64_t mailbox, const struct victim *v, size_t n,
                         bool free_files)
{
    size_t ended = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i].err == ERR_OK) {
            free_files ? add_forget(r, &v[i]) : add_release(r, mailbox, &v[i]);
            ended++;
        }
    }
    if (ended == 0) {
        return ERR_OK;
    }
    add_reaped(r, v, n);
    enum err e = admin_run(r->admin, PG_WRITE);
    r->rows += e == ERR_OK && !free_files ? ended : 0;
    return e;
}

/* All at once; when another reaper was faster with one of them, each for itself. */
static void end_victims(struct reaper *r, int64_t mailbox, bool free_files)
{
    if (end_rows(r, mailbox, r->victims, r->n, free_files) == ERR_OK) {
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        enum err e = end_rows(r, mailbox, &r->victims[i], 1, free_files);
        if (e != ERR_OK && e != ERR_NOTFOUND) { /* NOTFOUND: it has ended already */
            admin_fail_reply(r->admin, free_files ? "shared files" : "ledger");
            r->failed++;
        }
    }
}

/* Keeps the pace, after what is done: a batch is no more than a second's worth. */
static void keep_pace(struct reaper *r, uint64_t files_before)
{
    fault_at(FAULT_reap_released);
    progress_step(&r->pace, r->files - files_before);
}

static int by_id(const void *a, const void *b)
{
    const struct victim *x = a, *y = b;
    return memcmp(x->blob.b, y->blob.b, sizeof x->blob.b);
}

/* In the order of ids, so that reapers that count down the same shared files do not deadlock. */
static void take_rows(struct reaper *r, const PGresult *rows)
{
    r->n = 0;
    for (int i = 0; i < PQntuples(rows) && r->n < CLAIM_MOST; i++) {
        r->victims[r->n++] = (struct victim){ .blob = pg_get_uuid(rows, i, 0),
                                              .seq = pg_get_i64(rows, i, 1),
                                              .volume = (uint16_t)pg_get_i64(rows, i, 2),
                                              .shared = pg_get_i64(rows, i, 3) != 0,
                                              .octets = (uint64_t)pg_get_i64(rows, i, 4),
                                              .copy = pg_get_i64(rows, i, 5) != 0 };
    }
    qsort(r->victims, r->n, sizeof *r->victims, by_id);
}

/* What is due of a mailbox and on usable volumes becomes this reaper's: victims. */
static enum err claim(struct reaper *r, int64_t mailbox)
{
    struct admin *a = r->admin;
    find_usable(r);
    admin_sql(a,
              "SELECT blob_id, seq, volume_id, shared, size::bigint + skip, "
              "       mailbox_id = 0 AND by_whom" MOVER_LEFT " FROM claim($1, $2, $3, $4, $5, $6)");
    pg_i64(a->batch, mailbox);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, STALE_MS);
    pg_i64(a->batch, (int64_t)(r->left < r->most ? r->left : r->most));
    pg_i64s(a->batch, r->usable, r->n_usable);
    pg_i64(a->batch, r->until);
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
            uint64_t files = r->files;
            fault_at(FAULT_reap_claimed);
            unlink_victims(r);
            end_victims(r, mailbox, false);
            keep_pace(r, files);
        }
    } while (r->n == r->most && r->left > 0);
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
    int allowed = reaping_allowed(a); /* each time: the database may have been replaced meanwhile */
    if (allowed != EX_OK) {
        return allowed;
    }
    admin_sql(a, "SELECT mailbox_id, unlink_after::text FROM ledger "
                 "WHERE unlink_after <= ms_time($1) AND volume_id = ANY ($2) "
                 "AND (unlink_after, mailbox_id) > ($3::text::timestamptz, $4) "
                 "ORDER BY unlink_after, mailbox_id LIMIT $5");
    pg_i64(a->batch, r->until);
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
        uint64_t files = r->files;
        find_usable(r);
        admin_sql(a, "SELECT blob_id, 0::bigint, volume_id, false, octets, false "
                     "FROM claim_free($1, $2, $3, $4, $5)");
        pg_uuid(a->batch, &last);
        pg_i64(a->batch, admin_clock(a));
        pg_i64(a->batch, STALE_MS);
        pg_i64(a->batch, (int64_t)r->most);
        pg_i64s(a->batch, r->usable, r->n_usable);
        if (admin_run(a, PG_WRITE) != ERR_OK) {
            return admin_fail_reply(a, "shared files");
        }
        take_rows(r, admin_result(a, 0));
        if (r->n == 0) {
            return EX_OK;
        }
        last = r->victims[r->n - 1].blob;
        unlink_victims(r);
        end_victims(r, 0, true);
        keep_pace(r, files);
    } while (r->n == r->most);
    return EX_OK;
}

/* --- what is remembered ------------------------------------------------------------------------
 */

static int prune(struct reaper *r)
{
    struct admin *a = r->admin;
    int64_t before = admin_clock(a) - (int64_t)a->config->reap_history;
    for (unsigned page = 0; page < PRUNE_PAGES; page++) {
        admin_sql(a, "WITH old AS (SELECT mailbox_id, blob_id, seq FROM ledger_past "
                     "   WHERE unlinked_at < ms_time($1) "
                     "     AND (NOT reclaimed OR unlinked_at < ms_time($3)) "
                     "   ORDER BY unlinked_at LIMIT $2), "
                     "gone AS (DELETE FROM ledger_past p USING old o WHERE p.mailbox_id = "
                     "   o.mailbox_id AND p.blob_id = o.blob_id AND p.seq = o.seq RETURNING 1) "
                     "SELECT count(*) FROM gone");
        pg_i64(a->batch, before);
        pg_i64(a->batch, PRUNE_PAGE);
        pg_i64(a->batch, admin_clock(a) - LATE_MS);
        if (page == 0) {
            admin_sql(a, "DELETE FROM undeleted WHERE undeleted_at < ms_time($1)");
            pg_i64(a->batch, before);
            /* And the fuse's sums, of which those of today count. */
            admin_sql(a, "DELETE FROM volume_reaped WHERE day < "
                         "(ms_time($1) AT TIME ZONE 'UTC')::date - 30");
            pg_i64(a->batch, admin_clock(a));
        }
        if (admin_run(a, PG_WRITE) != ERR_OK) {
            return admin_fail_reply(a, "what was unlinked long ago");
        }
        if (pg_get_i64(admin_result(a, 0), 0, 0) == 0) {
            break;
        }
    }
    return EX_OK;
}

/* --- the command ----------------------------------------------------------------------------- */

/* Without --yes: what is due, and what the fuses say of it. */
static int reap_count(struct reaper *r)
{
    struct admin *a = r->admin;
    /* A shared file goes when all rows that are counted for it are due. */
    admin_sql(a,
              "WITH due AS (SELECT blob_id, shared, size::bigint + skip AS octets FROM ledger "
              "              WHERE unlink_after <= ms_time($1)), "
              "freed AS (SELECT s.octets FROM blob_shared s WHERE s.refs = 0 UNION ALL "
              "          SELECT s.octets FROM (SELECT blob_id, count(*) AS n FROM due "
              "                                 WHERE shared GROUP BY blob_id) d "
              "            JOIN blob_shared s ON s.blob_id = d.blob_id "
              "           WHERE s.refs > 0 AND s.refs <= d.n) "
              "SELECT (SELECT count(*) FROM due), "
              "       (SELECT count(*) FROM due WHERE NOT shared) + (SELECT count(*) FROM freed), "
              "       coalesce((SELECT sum(octets) FROM due WHERE NOT shared), 0)::bigint + "
              "       coalesce((SELECT sum(octets) FROM freed), 0)::bigint");
    pg_i64(a->batch, r->until);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "ledger");
    }
    static const struct column columns[] = {
        { "due", "Ledger rows due", COLUMN_NUMBER },
        { "files", "Files that would go", COLUMN_NUMBER },
        { "octets", "Octets of these files", COLUMN_NUMBER },
        { "expiring", "Messages that would expire", COLUMN_NUMBER },
    };
    uint64_t due = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0), expiring = 0;
    uint64_t files = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 1);
    uint64_t octets = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 2);
    int code = expire_count(a, &expiring);
    if (code == EX_OK) {
        code = purge_count(a);
    }
    if (code != EX_OK) {
        return code;
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, due);
    table_number(t, files);
    table_number(t, octets);
    table_number(t, expiring);
    table_print_record(t, a->json, stdout);
    table_free(&t);
    admin_say("nothing is moved or unlinked without --yes");
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

/* What is due from here on is left to the next run. */
static int read_fuses(struct reaper *r, bool fuse, bool yes)
{
    r->until = admin_clock(r->admin);
    int code = fuses_read(r->admin, r->spool, r->volumes, r->n_volumes, r->until, &r->fuses);
    for (size_t i = 0; i < r->n_volumes && code == EX_OK; i++) {
        if (!fuse) {
            r->fuses[i].blown = false;
            r->fuses[i].left = UINT64_MAX;
        } else if (r->fuses[i].blown && yes) {
            log_fuse(r, &r->fuses[i]);
        }
    }
    return code;
}

static int reap(struct reaper *r)
{
    progress_begin(&r->pace, "files", 0, r->pace.rate);
    int code = reap_ledger(r);
    if (code == EX_OK) {
        code = reap_shared(r);
    }
    if (code == EX_OK) {
        code = prune(r);
    }
    progress_end(&r->pace);
    print_result(r);
    return code == EX_OK && r->failed > 0 ? EX_TEMPFAIL : code;
}

/* Its log lines are for a log: on a terminal they would be between the bars. */
static void say_each_file(const struct admin *a)
{
    if (!isatty(STDERR_FILENO)) {
        log_set_level((enum log_level)a->config->node_log_level);
        log_set_node(a->config->node_name);
    }
}

static int number_option(const struct args *args, enum arg o, uint64_t most, uint64_t *out)
{
    if (args->opt[o] && span_u64(span_str(args->opt[o]), most, out) != ERR_OK) {
        return admin_fail(EX_DATAERR, "--%s %s: not a number, or too large", args_name(o),
                          args->opt[o]);
    }
    return EX_OK;
}

int command_reap(struct admin *a, const struct args *args)
{
    uint64_t limit = INT64_MAX, rate = a->config->reap_rate;
    bool yes = args->opt[ARG_yes];
    if (number_option(args, ARG_limit, INT64_MAX, &limit) != EX_OK ||
        number_option(args, ARG_rate, 1000000, &rate) != EX_OK) {
        return EX_DATAERR;
    }
    struct reaper *r = NEW(struct reaper);
    r->admin = a;
    r->left = limit;
    r->pace.rate = rate;
    r->most = rate > 0 && rate < CLAIM_MOST ? rate : CLAIM_MOST;
    int code = admin_read_clock(a);
    if (code == EX_OK && yes) {
        code = reaping_allowed(a);
    }
    if (code == EX_OK && yes) {
        say_each_file(a);
        code = expire_messages(a, limit, &r->expired);
    }
    if (code == EX_OK && yes) {
        code = purge_accounts(a, limit);
    }
    if (code == EX_OK) {
        code = usage_refresh_all(a, true); /* what expired is no longer in it */
    }
    if (code == EX_OK) {
        code = open_volumes(r);
    }
    if (code == EX_OK) {
        code = read_fuses(r, !args->opt[ARG_no_fuse], yes);
        if (code == EX_OK) {
            code = yes ? reap(r) : reap_count(r);
        }
        spool_close(&r->spool);
    }
    free(r->volumes);
    free(r->fuses);
    free(r->usable);
    free(r->unwell);
    free(r);
    return code;
}
