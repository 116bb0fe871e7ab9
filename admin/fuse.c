/*
 * fuse: adds up what is due, by the index of due rows, a stretch at a time: a statement has a
 * deadline, and after a long pause millions may be due. Owns nothing but what it returns.
 */
#include "fuse.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "mover.h"

#define STRETCH 20000 /* rows that are added up in one statement */

struct sums {
    struct admin *admin;
    struct fuse *fuses;
    size_t n;
    int64_t until_ms;
};

/* A volume that is not listed any more can't be reached, so nothing of it is unlinked. */
static struct fuse *find(const struct sums *s, int64_t volume)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->fuses[i].volume == volume) {
            return &s->fuses[i];
        }
    }
    return NULL;
}

/* Rows of volume and octets in the last result. */
static void add_due(struct sums *s)
{
    for (int i = 0; i < admin_rows(s->admin, 0); i++) {
        struct fuse *f = find(s, pg_get_i64(admin_result(s->admin, 0), i, 0));
        if (f) {
            f->due += (uint64_t)pg_get_i64(admin_result(s->admin, 0), i, 1);
        }
    }
}

/* Volume and octets of the last result are less than was added. */
static void take_back(struct sums *s)
{
    for (int i = 0; i < admin_rows(s->admin, 0); i++) {
        struct fuse *f = find(s, pg_get_i64(admin_result(s->admin, 0), i, 0));
        if (f) {
            uint64_t less = (uint64_t)pg_get_i64(admin_result(s->admin, 0), i, 1);
            f->due -= less < f->due ? less : f->due;
        }
    }
}

/*
 * A row of a shared file counts as its share of it: the file goes with the last one. So what its
 * row has above that is taken back. Asked by ids, not by a join with ledger, as ledger and
 * blob_shared are spread over the machines of a large fleet's database by different columns.
 */
static int share_out(struct sums *s, const char *after, const char *upto)
{
    struct admin *a = s->admin;
    admin_sql(
        a, "SELECT blob_id, volume_id, size::bigint + skip FROM ledger"
           " WHERE unlink_after > $1::text::timestamptz AND unlink_after <= $2::text::timestamptz"
           "   AND shared AND mailbox_id <> 0");
    pg_text(a->batch, span_str(after));
    pg_text(a->batch, span_str(upto));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "ledger");
    }
    size_t n = (size_t)admin_rows(a, 0);
    if (n == 0) {
        return EX_OK;
    }
    struct blob_id *ids = NEW_ARRAY(struct blob_id, n);
    int64_t *volumes = NEW_ARRAY(int64_t, n), *octets = NEW_ARRAY(int64_t, n);
    for (size_t i = 0; i < n; i++) {
        ids[i] = pg_get_uuid(admin_result(a, 0), (int)i, 0);
        volumes[i] = pg_get_i64(admin_result(a, 0), (int)i, 1);
        octets[i] = pg_get_i64(admin_result(a, 0), (int)i, 2);
    }
    admin_sql(a, "SELECT w.volume_id, sum(w.len - w.len / s.refs)::bigint"
                 "  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) w (blob_id, volume_id, len)"
                 "  JOIN blob_shared s ON s.blob_id = w.blob_id"
                 " WHERE s.refs > 1 GROUP BY w.volume_id");
    pg_uuids(a->batch, ids, n);
    pg_i64s(a->batch, volumes, n);
    pg_i64s(a->batch, octets, n);
    free(ids);
    free(volumes);
    free(octets);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "shared files");
    }
    take_back(s);
    return EX_OK;
}

/*
 * Copies that moving files has left do not count: that mail stands on another volume. Stretches end
 * where unlink_after changes, so no row is passed or met twice.
 */
static int sum_ledger(struct sums *s)
{
    struct admin *a = s->admin;
    char after[64] = "-infinity", upto[64];
    for (;;) {
        admin_sql(a, "WITH stretch AS (SELECT max(u) AS upto FROM ("
                     "    SELECT unlink_after AS u FROM ledger"
                     "     WHERE unlink_after > $1::text::timestamptz"
                     "       AND unlink_after <= ms_time($2)"
                     "     ORDER BY unlink_after LIMIT $3) rows)"
                     "SELECT l.volume_id, sum(CASE WHEN l.mailbox_id = 0 AND l.by_whom" MOVER_LEFT
                     "           THEN 0 ELSE l.size::bigint + l.skip END)::bigint,"
                     "       min(e.upto)::text"
                     "  FROM stretch e JOIN ledger l ON l.unlink_after > $1::text::timestamptz"
                     "                              AND l.unlink_after <= e.upto"
                     " GROUP BY l.volume_id");
        pg_text(a->batch, span_str(after));
        pg_i64(a->batch, s->until_ms);
        pg_i64(a->batch, STRETCH);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "ledger");
        }
        if (admin_rows(a, 0) == 0) {
            return EX_OK;
        }
        add_due(s);
        struct span end = pg_get_span(admin_result(a, 0), 0, 2);
        snprintf(upto, sizeof upto, "%.*s", SPAN_ARG(end));
        int code = share_out(s, after, upto);
        if (code != EX_OK) {
            return code;
        }
        memcpy(after, upto, sizeof after);
    }
}

/* These are few, or something is wrong: then the statement's deadline is as good as a fuse. */
static int sum_free(struct sums *s)
{
    admin_sql(s->admin, "SELECT volume_id, sum(octets)::bigint FROM blob_shared WHERE refs = 0 "
                        "GROUP BY volume_id");
    if (admin_run(s->admin, PG_READ) != ERR_OK) {
        return admin_fail_reply(s->admin, "shared files");
    }
    add_due(s);
    return EX_OK;
}

static int read_today(struct sums *s)
{
    struct admin *a = s->admin;
    admin_sql(a, "SELECT volume_id, octets FROM volume_reaped "
                 "WHERE day = (ms_time($1) AT TIME ZONE 'UTC')::date");
    pg_i64(a->batch, s->until_ms);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "what was unlinked today");
    }
    for (int i = 0; i < admin_rows(a, 0); i++) {
        struct fuse *f = find(s, pg_get_i64(admin_result(a, 0), i, 0));
        if (f) {
            f->today = (uint64_t)pg_get_i64(admin_result(a, 0), i, 1);
        }
    }
    return EX_OK;
}

/* Its share is of what lay there at midnight, so that many short runs may do as much as one. */
static void set_limit(struct fuse *f, const struct config *c)
{
    f->limit = UINT64_MAX;
    if (c->reap_fuse > 0) {
        uint64_t share = (f->used + f->today) / 100 * c->reap_fuse;
        f->limit = share > c->reap_fuse_floor ? share : c->reap_fuse_floor;
    }
    f->left = f->limit > f->today ? f->limit - f->today : 0;
    f->blown = f->known && f->due > f->left;
}

static void say(const struct fuse *f)
{
    if (f->blown) {
        admin_say("volume %u: %llu octets are due and %llu were unlinked today, of %llu in use: "
                  "more than the %llu that reap.fuse allows; without --no-fuse nothing of it goes",
                  f->volume, (unsigned long long)f->due, (unsigned long long)f->today,
                  (unsigned long long)f->used, (unsigned long long)f->limit);
    }
}

int fuses_read(struct admin *a, const struct spool *s, const struct volume *v, size_t n,
               int64_t until_ms, struct fuse **out)
{
    struct sums sums = {
        .admin = a, .fuses = NEW_ARRAY(struct fuse, n), .n = n, .until_ms = until_ms
    };
    for (size_t i = 0; i < n; i++) {
        sums.fuses[i].volume = v[i].volume_id;
        sums.fuses[i].known = spool_volume_used(s, v[i].volume_id, &sums.fuses[i].used);
    }
    int code = sum_ledger(&sums);
    code = code == EX_OK ? sum_free(&sums) : code;
    code = code == EX_OK ? read_today(&sums) : code;
    if (code != EX_OK) {
        free(sums.fuses);
        return code;
    }
    for (size_t i = 0; i < n; i++) {
        set_limit(&sums.fuses[i], a->config);
        say(&sums.fuses[i]);
    }
    *out = sums.fuses;
    return EX_OK;
}
