/*
 * deletions: an array sorted by mailbox and id, with the sessions' names beside it. log_lines knows
 * which lines are our own: what is read here deletes mail.
 */
#include "deletions.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "log_lines.h"

#define EVENT      "pop3.deleted"
#define GROUPS     64  /* of one look at the database */
#define GROUP_MOST 200 /* ids of one mailbox in it */

struct deletion {
    uint64_t mailbox_id;
    struct blob_id id;
    uint32_t sid; /* where it begins in sids */
};

struct deletions {
    int64_t since_ms;
    struct deletion *v;
    size_t n, room;
    char *sids;
    size_t sids_len, sids_room;
    uint64_t bad; /* lines that name something that is no id */
};

void deletions_free(struct deletions **pd)
{
    if (*pd) {
        free((*pd)->v);
        free((*pd)->sids);
        free(*pd);
        *pd = NULL;
    }
}

/* --- lines ----------------------------------------------------------------------------------- */

static uint32_t keep_sid(struct deletions *d, struct span sid)
{
    size_t need = d->sids_len + sid.n + 1;
    if (need > d->sids_room) {
        d->sids_room = need * 2;
        d->sids = mem_grow(d->sids, d->sids_room, 1);
    }
    uint32_t at = (uint32_t)d->sids_len;
    memcpy(d->sids + at, sid.p, sid.n);
    d->sids[need - 1] = '\0';
    d->sids_len = need;
    return at;
}

static void add(struct deletions *d, uint64_t mailbox_id, const struct blob_id *id, uint32_t sid)
{
    if (d->n == d->room) {
        d->room = d->room ? d->room * 2 : 1024;
        d->v = mem_grow(d->v, d->room, sizeof *d->v);
    }
    d->v[d->n++] = (struct deletion){ .mailbox_id = mailbox_id, .id = *id, .sid = sid };
}

static void take_ids(struct deletions *d, uint64_t mailbox_id, struct span ids, uint32_t sid)
{
    while (ids.n > 0) {
        size_t n = span_find(ids, ',');
        struct blob_id id;
        if (blob_id_parse(span_first(ids, n), &id) != ERR_OK) {
            d->bad++;
            return;
        }
        add(d, mailbox_id, &id, sid);
        ids = span_skip(ids, n + 1);
    }
}

static void take_line(struct deletions *d, const struct log_line *l)
{
    uint64_t mailbox_id;
    struct span node = log_line_word(l, "node"), sid = log_line_word(l, "sid");
    struct span ids = log_line_word(l, "ids");
    if (!log_line_number(l, "mailbox", &mailbox_id) || mailbox_id > INT64_MAX || !ids.n) {
        d->bad++;
        return;
    }
    char who[40];
    snprintf(who, sizeof who, "%.*s%s%.*s", SPAN_ARG(node), node.n ? " " : "", SPAN_ARG(sid));
    take_ids(d, mailbox_id, ids, keep_sid(d, span_str(who)));
}

static int compare(const void *a, const void *b)
{
    const struct deletion *x = a, *y = b;
    if (x->mailbox_id != y->mailbox_id) {
        return x->mailbox_id < y->mailbox_id ? -1 : 1;
    }
    int c = memcmp(x->id.b, y->id.b, sizeof x->id.b);
    return c ? c : (x->sid > y->sid) - (x->sid < y->sid);
}

static int read_lines(struct deletions *d, const char *path)
{
    struct log_reader *r;
    struct log_line line;
    char why[512];
    if (!log_reader_open(path, &r, why, sizeof why)) {
        return admin_fail(EX_NOINPUT, "%s", why);
    }
    while (log_reader_next(r, &line)) {
        if (log_line_is(&line, EVENT) && line.ms >= d->since_ms) {
            take_line(d, &line);
        }
    }
    const char *failed = log_reader_failed(r);
    int code = failed ? admin_fail(EX_IOERR, "%s", failed) : EX_OK;
    log_reader_close(&r);
    return code;
}

int deletions_read(const char *path, int64_t since_ms, struct deletions **out)
{
    struct deletions *d = NEW(struct deletions);
    d->since_ms = since_ms;
    int code = path ? read_lines(d, path) : EX_OK;
    if (code != EX_OK) {
        deletions_free(&d);
        return code;
    }
    if (d->n) {
        qsort(d->v, d->n, sizeof *d->v, compare);
    }
    if (d->bad) {
        admin_say("%s: %llu lines of deletions are not whole: what they named may come back", path,
                  (unsigned long long)d->bad);
    }
    *out = d;
    return EX_OK;
}

/* --- what they are asked --------------------------------------------------------------------- */

static void who_deleted(const struct deletions *d, const struct deletion *x, char who[64])
{
    snprintf(who, 64, "restore: pop3 %s", d->sids + x->sid);
}

bool deletions_find(const struct deletions *d, uint64_t mailbox_id, const struct blob_id *id,
                    char who[64])
{
    size_t low = 0, high = d->n;
    struct deletion key = { .mailbox_id = mailbox_id, .id = *id };
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(&d->v[middle], &key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == d->n || d->v[low].mailbox_id != mailbox_id || !blob_id_eq(&d->v[low].id, id)) {
        return false;
    }
    who_deleted(d, &d->v[low], who);
    return true;
}

/* --- deleting again -------------------------------------------------------------------------- */

/* Deletions of one mailbox, next to each other. */
struct group {
    size_t first, n;
};

static size_t next_groups(const struct deletions *d, size_t *at, struct group g[GROUPS])
{
    size_t n = 0;
    for (; n < GROUPS && *at < d->n; n++) {
        g[n] = (struct group){ .first = *at };
        while (*at < d->n && g[n].n < GROUP_MOST &&
               d->v[*at].mailbox_id == d->v[g[n].first].mailbox_id) {
            g[n].n++;
            (*at)++;
        }
    }
    return n;
}

static void add_ids(struct admin *a, const struct deletions *d, const struct group *g)
{
    struct blob_id ids[GROUP_MOST];
    for (size_t i = 0; i < g->n; i++) {
        ids[i] = d->v[g->first + i].id;
    }
    pg_i64(a->batch, (int64_t)d->v[g->first].mailbox_id);
    pg_uuids(a->batch, ids, g->n);
}

/* How many pointers of these stand, in one round trip: mostly none. */
static int count_standing(struct admin *a, const struct deletions *d, const struct group *g,
                          size_t n, uint64_t standing[GROUPS])
{
    for (size_t i = 0; i < n; i++) {
        admin_sql(a, "SELECT count(*) FROM message WHERE mailbox_id = $1 AND blob_id = ANY ($2)");
        add_ids(a, d, &g[i]);
    }
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "pointers");
    }
    for (size_t i = 0; i < n; i++) {
        standing[i] = (uint64_t)pg_get_i64(admin_result(a, i), 0, 0);
    }
    return EX_OK;
}

/* Each by its own session's name, in one transaction. */
static int delete_again(struct admin *a, const struct deletions *d, const struct group *g)
{
    const struct deletion *v = d->v + g->first;
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = v->mailbox_id };
    int64_t now = admin_now();
    for (size_t i = 0; i < g->n; i++) {
        char who[64];
        who_deleted(d, &v[i], who);
        admin_sql(a, "SELECT expunge_ids($1, $2, $3, $4, $5)");
        pg_i64(a->batch, (int64_t)v->mailbox_id);
        pg_uuids(a->batch, &v[i].id, 1);
        pg_i64(a->batch, now);
        pg_i64(a->batch, (int64_t)a->config->spool_grace);
        pg_text(a->batch, span_str(who));
    }
    return admin_run_change(a, &key, 1) == ERR_OK ? EX_OK : admin_fail_reply(a, "deleting again");
}

int deletions_repeat(struct admin *a, struct deletions *d, bool yes, uint64_t *n)
{
    struct group g[GROUPS];
    uint64_t standing[GROUPS];
    size_t at = 0, groups;
    int code = EX_OK;
    while (code == EX_OK && (groups = next_groups(d, &at, g)) > 0) {
        code = count_standing(a, d, g, groups, standing);
        for (size_t i = 0; i < groups && code == EX_OK; i++) {
            if (standing[i] > 0) {
                *n += standing[i];
                code = yes ? delete_again(a, d, &g[i]) : EX_OK;
            }
        }
    }
    return code;
}
