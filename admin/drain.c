/*
 * drain: `volume drain` empties a volume into the others, `volume rebalance` evens out how full
 * they are, both by mover.c while mail is served; `volume remove` forgets one that is empty. And
 * what `volume list --scan` counts.
 *
 * Neither unlinks: what has been moved goes from its old place by the reaper, after spool.grace.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "drain.h"
#include "mover.h"
#include "open_spool.h"
#include "table.h"

#define JOBS 8
/* By then every node has heard of the volume's state, twice as long as it takes (store.c). */
#define WELL_KNOWN_S 10
#define COMMITS_S    60 /* that transactions under way are waited for */
#define WITHIN       5  /* per cent that a volume may hold above its share */

static int read_numbers(const struct args *args, struct mover *m)
{
    uint64_t jobs = JOBS, rate = 0;
    if (args->opt[ARG_jobs] &&
        (span_u64(span_str(args->opt[ARG_jobs]), MOVER_JOBS, &jobs) != ERR_OK || jobs == 0)) {
        return admin_fail(EX_DATAERR, "%s: --jobs is a number from 1 to %d", args->opt[ARG_jobs],
                          MOVER_JOBS);
    }
    if (args->opt[ARG_rate] && span_u64(span_str(args->opt[ARG_rate]), 1000000, &rate) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s: --rate is a number up to 1000000", args->opt[ARG_rate]);
    }
    m->jobs = jobs;
    m->progress.rate = rate;
    return EX_OK;
}

/* --- what lies where ------------------------------------------------------------------------- */

static struct volume_usage *usage_of(struct volume_usage *u, size_t n, int64_t volume)
{
    for (size_t i = 0; i < n; i++) {
        if (u[i].volume == volume) {
            return &u[i];
        }
    }
    return NULL;
}

int volume_usage_read(struct admin *a, const struct volume *v, size_t n, struct volume_usage **out)
{
    struct volume_usage *u = NEW_ARRAY(struct volume_usage, n);
    int64_t *ids = NEW_ARRAY(int64_t, n);
    struct pointer_walk w = { 0 };
    struct progress p;
    int code = EX_OK;
    for (size_t i = 0; i < n; i++) {
        ids[i] = u[i].volume = v[i].volume_id;
    }
    progress_begin(&p, "pointers", 0, 0);
    while (!w.ended && code == EX_OK) {
        code = pointer_walk_next(a, &w, ids, n);
        for (int i = 0; code == EX_OK && i < admin_rows(a, 0); i++) {
            const PGresult *r = admin_result(a, 0);
            struct volume_usage *x = usage_of(u, n, pg_get_i64(r, i, 5));
            if (x) {
                x->pointers++;
                x->octets += (uint64_t)(pg_get_i64(r, i, 3) + pg_get_i64(r, i, 4));
            }
        }
        progress_step(&p, w.passed);
    }
    progress_end(&p);
    free(ids);
    if (code == EX_OK) {
        *out = u;
    } else {
        free(u);
    }
    return code;
}

/* --- drain ----------------------------------------------------------------------------------- */

static uint16_t choose_by_weight(struct mover *m, uint64_t octets, const uint16_t *tried, size_t n)
{
    (void)octets;
    return spool_choose(m->volumes->spool, tried, n);
}

static bool is_target(const struct volume *v)
{
    return v->state == VOLUME_ACTIVE && v->weight > 0;
}

static int check_targets(const struct volume *v, size_t n, int64_t from)
{
    bool known = false, any = false;
    for (size_t i = 0; i < n; i++) {
        known = known || v[i].volume_id == from;
        any = any || (v[i].volume_id != from && is_target(&v[i]));
    }
    if (!known) {
        return admin_fail(EX_NOUSER, "%lld: no such volume", (long long)from);
    }
    return any ? EX_OK
               : admin_fail(EX_UNAVAILABLE, "there is no other active volume to move files to");
}

static int set_drain(struct admin *a, int64_t volume)
{
    admin_sql(a, "UPDATE volume SET state = $2 WHERE volume_id = $1");
    pg_i64(a->batch, volume);
    pg_i64(a->batch, VOLUME_DRAIN);
    return admin_run(a, PG_WRITE) == ERR_OK ? EX_OK : admin_fail_reply(a, "volume");
}

/* Ledger rows on it, and when the last one is due; the ledger may be large, so a stretch at a time
 * in the order of its index. */
static int read_ledger(struct admin *a, int64_t volume, uint64_t *rows, char until[64])
{
    char after[64] = "-infinity";
    snprintf(until, 64, "now");
    *rows = 0;
    for (;;) {
        admin_sql(a, "WITH stretch AS (SELECT max(u) AS upto FROM ("
                     "    SELECT unlink_after AS u FROM ledger"
                     "     WHERE unlink_after > $1::text::timestamptz"
                     "     ORDER BY unlink_after LIMIT 20000) rows)"
                     "SELECT count(l.blob_id) FILTER (WHERE l.volume_id = $2),"
                     "       to_char(max(l.unlink_after) FILTER (WHERE l.volume_id = $2)"
                     "               AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI\"Z\"'),"
                     "       max(e.upto)::text"
                     "  FROM stretch e JOIN ledger l ON l.unlink_after > $1::text::timestamptz"
                     "                              AND l.unlink_after <= e.upto");
        pg_text(a->batch, span_str(after));
        pg_i64(a->batch, volume);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "ledger");
        }
        const PGresult *r = admin_result(a, 0);
        if (PQgetisnull(r, 0, 2)) {
            return EX_OK;
        }
        int64_t n = pg_get_i64(r, 0, 0);
        *rows += (uint64_t)n;
        if (n > 0) {
            snprintf(until, 64, "%.*s", SPAN_ARG(pg_get_span(r, 0, 1)));
        }
        snprintf(after, sizeof after, "%.*s", SPAN_ARG(pg_get_span(r, 0, 2)));
    }
}

static void print_result(const struct mover *m, uint64_t left, uint64_t rows, const char *until)
{
    static const struct column columns[] = {
        { "files", "Files moved", COLUMN_NUMBER },
        { "octets", "Octets", COLUMN_NUMBER },
        { "left", "Pointers left", COLUMN_NUMBER },
        { "ledger", "Ledger rows on it", COLUMN_NUMBER },
        { "until", "The last is due", COLUMN_TEXT },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, m->files);
    table_number(t, m->octets);
    table_number(t, left);
    table_number(t, rows);
    table_text(t, rows ? span_str(until) : SPAN(""));
    table_print_record(t, m->admin->json, stdout);
    table_free(&t);
}

/*
 * Pass after pass until one finds nothing. What nodes stored before they had heard of the state is
 * found by one that begins long enough after it was set.
 */
static int drain(struct mover *m)
{
    int64_t known_at =
        admin_clock(m->admin) + (fault_at(FAULT_drain_heard) ? 0 : WELL_KNOWN_S * 1000);
    int code = EX_OK;
    for (bool last = false; !last && code == EX_OK;) {
        bool known = admin_clock(m->admin) >= known_at;
        uint64_t files = m->files;
        code = mover_pass(m);
        if (code == EX_OK && m->failed > 0 && m->files == files) {
            break; /* what is left can't be moved now */
        }
        last = code == EX_OK && m->found == 0 && known;
        if (code == EX_OK && m->found == 0 && !known) {
            sleep(1);
        }
    }
    return code;
}

static int drain_volume(struct mover *m, int64_t from)
{
    uint64_t rows = 0;
    char until[64];
    m->sources = &from;
    m->n_sources = 1;
    m->what = "drain";
    m->choose = choose_by_weight;
    progress_begin(&m->progress, "files", 0, m->progress.rate);
    int code = drain(m);
    progress_end(&m->progress);
    if (code == EX_OK) {
        code = read_ledger(m->admin, from, &rows, until);
    }
    if (code != EX_OK) {
        return code;
    }
    print_result(m, m->found, rows, until);
    if (m->found > 0) {
        return admin_fail(EX_TEMPFAIL, "volume %lld still has mail: run this again",
                          (long long)from);
    }
    if (rows > 0) {
        admin_say("no pointer names volume %lld any more; what was deleted or moved stays there "
                  "until reap has ended its %llu ledger rows, the last of which is due %s",
                  (long long)from, (unsigned long long)rows, until);
    } else {
        admin_say("nothing names volume %lld any more", (long long)from);
    }
    return EX_OK;
}

static int say_drain(struct admin *a, const struct volume *v, size_t n, int64_t from)
{
    struct volume_usage *u;
    int code = volume_usage_read(a, v, n, &u);
    if (code == EX_OK) {
        const struct volume_usage *x = usage_of(u, n, from);
        CHECK(x); /* check_targets() found it among the volumes */
        admin_say("volume %lld would take no new mail, and the files of %llu pointers with %llu "
                  "octets would go to the other active volumes; nothing is done without --yes",
                  (long long)from, (unsigned long long)x->pointers, (unsigned long long)x->octets);
        free(u);
    }
    return code;
}

int command_volume_drain(struct admin *a, const struct args *args)
{
    struct mover m = { .admin = a };
    struct volume *v = NULL;
    size_t n = 0;
    uint64_t from;
    if (span_u64(span_str(args->v[0]), INT16_MAX, &from) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s: a volume's ID is a number", args->v[0]);
    }
    int code = read_numbers(args, &m);
    if (code == EX_OK) {
        code = admin_volumes(a, &v, &n);
    }
    if (code == EX_OK) {
        code = check_targets(v, n, (int64_t)from);
    }
    if (code == EX_OK && !args->opt[ARG_yes]) {
        code = say_drain(a, v, n, (int64_t)from);
    } else if (code == EX_OK) {
        code = admin_read_clock(a);
        code = code == EX_OK ? set_drain(a, (int64_t)from) : code;
        code = code == EX_OK ? open_spool(a, &m.volumes) : code;
        if (code == EX_OK) {
            code = drain_volume(&m, (int64_t)from);
            close_spool(a, &m.volumes);
        }
    }
    free(v);
    return code;
}

/* --- remove ---------------------------------------------------------------------------------- */

/* The number of the oldest transaction that is under way, and the first that no transaction has
 * yet; the same when there is none. */
static int read_transactions(struct admin *a, int64_t *oldest, int64_t *next)
{
    admin_sql(a, "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint"
                 "  FROM pg_current_snapshot() s");
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, "transactions");
    }
    *oldest = pg_get_i64(admin_result(a, 0), 0, 0);
    *next = pg_get_i64(admin_result(a, 0), 0, 1);
    return EX_OK;
}

/*
 * deliver() asks for the volume's state when its transaction has a number. One that did not find it
 * closed has a lower one than is free now, as the state was set before; when those have ended, no
 * commit comes any more.
 */
static int wait_for_commits(struct admin *a)
{
    int64_t oldest = 0, upto = 0, next;
    int code = read_transactions(a, &oldest, &upto);
    for (unsigned tries = 0; code == EX_OK && oldest < upto; tries++) {
        if (tries == COMMITS_S) {
            return admin_fail(EX_TEMPFAIL, "transactions that may name the volume are still under "
                                           "way: run this again");
        }
        if (tries == 1) {
            admin_say("waiting for transactions that began before");
        }
        sleep(1);
        code = read_transactions(a, &oldest, &next);
    }
    return code;
}

/* Shared files on it that nothing names any more are the reaper's, too. */
static int count_shared(struct admin *a, int64_t volume, uint64_t *n)
{
    admin_sql(a, "SELECT count(*) FROM blob_shared WHERE volume_id = $1");
    pg_i64(a->batch, volume);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "shared files");
    }
    *n = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    return EX_OK;
}

/* The ledger before the pointers: what undelete() takes from it is among those then. And behind
 * them: what expunge() has taken from them meanwhile is in it. */
static int check_empty(struct admin *a, const struct volume *v)
{
    struct volume_usage *u = NULL;
    uint64_t rows = 0, shared = 0;
    char until[64];
    int code = read_ledger(a, v->volume_id, &rows, until);
    fault_at(FAULT_remove_looked);
    code = code == EX_OK ? count_shared(a, v->volume_id, &shared) : code;
    code = code == EX_OK ? volume_usage_read(a, v, 1, &u) : code;
    if (code == EX_OK && rows == 0) {
        code = read_ledger(a, v->volume_id, &rows, until);
    }
    uint64_t pointers = u ? u->pointers : 0;
    free(u);
    if (code != EX_OK) {
        return code;
    }
    if (pointers + rows + shared == 0) {
        return EX_OK;
    }
    return admin_fail(EX_TEMPFAIL,
                      "volume %u is not empty: %llu pointers, %llu ledger rows and %llu shared "
                      "files name it; see volume drain, and reap",
                      v->volume_id, (unsigned long long)pointers, (unsigned long long)rows,
                      (unsigned long long)shared);
}

/* From one state to another, unless somebody has set a third. */
static int change_state(struct admin *a, int64_t volume, enum volume_state from,
                        enum volume_state to)
{
    admin_sql(a, "UPDATE volume SET state = $3 WHERE volume_id = $1 AND state = $2"
                 " RETURNING volume_id");
    pg_i64(a->batch, volume);
    pg_i64(a->batch, from);
    pg_i64(a->batch, to);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, "volume");
    }
    return admin_rows(a, 0) == 1
               ? EX_OK
               : admin_fail(EX_TEMPFAIL, "somebody has set another state of volume %lld meanwhile",
                            (long long)volume);
}

static int delete_volume(struct admin *a, int64_t volume)
{
    admin_sql(a, "DELETE FROM volume WHERE volume_id = $1 AND state = $2 RETURNING 1");
    pg_i64(a->batch, volume);
    pg_i64(a->batch, VOLUME_CLOSED);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, "volume");
    }
    return admin_rows(a, 0) == 1
               ? EX_OK
               : admin_fail(EX_UNAVAILABLE, "volume %lld is in use again: it is not forgotten",
                            (long long)volume);
}

/*
 * Closed first, so that nothing comes to it after the last look. A run that was killed leaves it
 * closed: it is read from as before, and the next run goes on. Where transactions have numbers on
 * several machines, the time must do.
 */
static int remove_volume(struct admin *a, const struct volume *v)
{
    int code = change_state(a, v->volume_id, v->state, VOLUME_CLOSED);
    if (code != EX_OK) {
        return code;
    }
    fault_at(FAULT_remove_waits);
    sleep(fault_at(FAULT_drain_heard) ? 0 : WELL_KNOWN_S);
    code = wait_for_commits(a);
    code = code == EX_OK ? check_empty(a, v) : code;
    if (code == EX_OK) {
        return delete_volume(a, v->volume_id);
    }
    change_state(a, v->volume_id, VOLUME_CLOSED, VOLUME_DRAIN);
    return code;
}

int command_volume_remove(struct admin *a, const struct args *args)
{
    struct volume *v = NULL;
    size_t n = 0, i = 0;
    uint64_t id;
    if (span_u64(span_str(args->v[0]), INT16_MAX, &id) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s: a volume's ID is a number", args->v[0]);
    }
    int code = admin_volumes(a, &v, &n);
    while (code == EX_OK && i < n && v[i].volume_id != id) {
        i++;
    }
    if (code == EX_OK && i == n) {
        code = admin_fail(EX_NOUSER, "%s: no such volume", args->v[0]);
    } else if (code == EX_OK && v[i].state < VOLUME_DRAIN) {
        code = admin_fail(EX_UNAVAILABLE, "volume %s is in use: see volume drain", args->v[0]);
    }
    if (code == EX_OK) {
        code = check_empty(a, &v[i]);
    }
    if (code == EX_OK && args_yes(args, "forget volume %s; its folder stays", args->v[0])) {
        code = remove_volume(a, &v[i]);
    }
    free(v);
    return code;
}

/* --- rebalance ------------------------------------------------------------------------------- */

struct balance {
    struct volume *volumes;
    struct volume_usage *usage; /* in the same order */
    size_t n;
    uint64_t *share; /* octets that a volume should hold; only of active ones */
    bool *above;     /* is being emptied, down to its share */
};

static void set_shares(struct balance *b)
{
    uint64_t all = 0, weights = 0;
    for (size_t i = 0; i < b->n; i++) {
        if (b->volumes[i].state == VOLUME_ACTIVE) {
            all += b->usage[i].octets;
            weights += b->volumes[i].weight;
        }
    }
    for (size_t i = 0; i < b->n; i++) {
        bool active = b->volumes[i].state == VOLUME_ACTIVE && weights > 0;
        b->share[i] = active ? (uint64_t)((double)all * b->volumes[i].weight / (double)weights) : 0;
        b->above[i] = active && b->usage[i].octets > b->share[i] + b->share[i] / 100 * WITHIN;
    }
}

static size_t place_of(const struct balance *b, uint16_t volume)
{
    size_t i = 0;
    while (b->volumes[i].volume_id != volume) {
        i++; /* pointers on volumes of the list alone are looked for */
    }
    return i;
}

static uint64_t lack(const struct balance *b, size_t i)
{
    return b->usage[i].octets < b->share[i] ? b->share[i] - b->usage[i].octets : 0;
}

/*
 * Only what brings both volumes nearer to their shares: a file that is larger than what is too much
 * here and too little there together would go to and fro with each run.
 */
static bool wants_balance(struct mover *m, uint16_t from, uint16_t to, uint64_t octets)
{
    const struct balance *b = m->arg;
    size_t i = place_of(b, from);
    bool more = b->above[i] && b->usage[i].octets > b->share[i];
    return more && (!to || octets < b->usage[i].octets - b->share[i] + lack(b, place_of(b, to)));
}

/* The one that lacks most. */
static uint16_t choose_lowest(struct mover *m, uint64_t octets, const uint16_t *tried, size_t n)
{
    const struct balance *b = m->arg;
    uint64_t most = 0;
    uint16_t to = 0;
    (void)octets;
    for (size_t i = 0; i < b->n; i++) {
        uint16_t id = b->volumes[i].volume_id;
        bool used = false;
        for (size_t k = 0; k < n; k++) {
            used = used || tried[k] == id;
        }
        if (!used && open_spool_takes_files(m->volumes, id) &&
            spool_volume_ready(m->volumes->spool, id) && lack(b, i) > most) {
            most = lack(b, i);
            to = id;
        }
    }
    return to;
}

static void reserve_balance(struct mover *m, uint16_t from, uint16_t to, uint64_t octets)
{
    struct balance *b = m->arg;
    struct volume_usage *old = &b->usage[place_of(b, from)];
    old->octets -= octets < old->octets ? octets : old->octets;
    b->usage[place_of(b, to)].octets += octets;
}

/* Octets that volumes hold above their shares. */
static uint64_t surplus(const struct balance *b)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < b->n; i++) {
        sum +=
            b->above[i] && b->usage[i].octets > b->share[i] ? b->usage[i].octets - b->share[i] : 0;
    }
    return sum;
}

static int move_surplus(struct mover *m, struct balance *b)
{
    int64_t *sources = NEW_ARRAY(int64_t, b->n);
    for (size_t i = 0; i < b->n; i++) {
        if (b->above[i]) {
            sources[m->n_sources++] = b->volumes[i].volume_id;
        }
    }
    m->sources = sources;
    m->what = "rebalance";
    m->choose = choose_lowest;
    m->wants = wants_balance;
    m->reserve = reserve_balance;
    m->arg = b;
    progress_begin(&m->progress, "files", 0, m->progress.rate);
    int code = m->n_sources > 0 ? mover_pass(m) : EX_OK;
    progress_end(&m->progress);
    free(sources);
    return code == EX_OK && m->failed > 0 ? EX_TEMPFAIL : code;
}

static void print_balance(const struct balance *b, const struct admin *a)
{
    static const struct column columns[] = {
        { "id", "ID", COLUMN_NUMBER },
        { "octets", "OCTETS", COLUMN_NUMBER },
        { "share", "SHARE", COLUMN_NUMBER },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < b->n; i++) {
        if (b->volumes[i].state == VOLUME_ACTIVE) {
            table_number(t, b->volumes[i].volume_id);
            table_number(t, b->usage[i].octets);
            table_number(t, b->share[i]);
        }
    }
    table_print(t, a->json, "no active volumes", stdout);
    table_free(&t);
}

static int rebalance(struct mover *m, struct balance *b, bool yes)
{
    set_shares(b);
    if (!yes) {
        admin_say("%llu octets would be moved; nothing is done without --yes",
                  (unsigned long long)surplus(b));
        print_balance(b, m->admin);
        return EX_OK;
    }
    int code = admin_read_clock(m->admin);
    code = code == EX_OK ? open_spool(m->admin, &m->volumes) : code;
    if (code == EX_OK) {
        code = move_surplus(m, b);
        close_spool(m->admin, &m->volumes);
        print_balance(b, m->admin);
        admin_say("moved %llu file%s with %llu octets", (unsigned long long)m->files,
                  admin_plural(m->files), (unsigned long long)m->octets);
    }
    return code;
}

int command_volume_rebalance(struct admin *a, const struct args *args)
{
    struct mover m = { .admin = a };
    struct balance b = { 0 };
    int code = read_numbers(args, &m);
    code = code == EX_OK ? admin_volumes(a, &b.volumes, &b.n) : code;
    code = code == EX_OK ? volume_usage_read(a, b.volumes, b.n, &b.usage) : code;
    if (code == EX_OK) {
        b.share = NEW_ARRAY(uint64_t, b.n);
        b.above = NEW_ARRAY(bool, b.n);
        code = rebalance(&m, &b, args->opt[ARG_yes]);
    }
    free(b.share);
    free(b.above);
    free(b.usage);
    free(b.volumes);
    return code;
}
