/*
 * fsck_stream: the statements, and what their rows mean. Owns its connection.
 */
#include "fsck_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/pg_copy.h"

#define DAY_MS     86400000
#define COLUMNS    7
#define SCOPE_TEXT 160

struct fsck_stream {
    struct pg_copy *copy;
    bool ready; /* place and row are of the next */
    uint64_t place;
    struct fsck_row row;
    char why[256]; /* beside the connection's */
};

/* What PostgreSQL makes of a row; the numbers are fsck_place's. */
#define PLACE                                                                                      \
    "(volume_id::bigint << 38) | "                                                                 \
    "(((('x' || encode(substring(uuid_send(blob_id) FOR 6), 'hex'))::bit(48)::bigint / 86400000)"  \
    " << 16) | (get_byte(uuid_send(blob_id), 6) << 8) | get_byte(uuid_send(blob_id), 7))"

/* kind: 0 and 1 of a pointer, 2 and 3 of the ledger, odd when it is shared; 4 of a free file. */
enum { KIND_LEDGER = 2, KIND_FREE = 4 };

/* Conditions of a scope on a table; numbers alone, so nothing has to be quoted. */
static void scope_text(const struct fsck_scope *scope, char out[SCOPE_TEXT])
{
    int n = snprintf(out, SCOPE_TEXT, "blob_id >= ms_id(%" PRIu64 ")",
                     (uint64_t)scope->since_day * DAY_MS);
    if (scope->volume) {
        snprintf(out + n, SCOPE_TEXT - (size_t)n, " AND volume_id = %u", scope->volume);
    }
}

/* A file that is shared has one row in blob_shared, whatever names it. */
static bool count(struct fsck_stream *s, const char *scope, uint64_t *files)
{
    char sql[1024];
    snprintf(sql, sizeof sql,
             "SELECT (SELECT count(*) FROM message WHERE NOT shared AND %s)"
             "     + (SELECT count(*) FROM ledger WHERE NOT shared AND %s)"
             "     + (SELECT count(*) FROM blob_shared WHERE %s)",
             scope, scope, scope);
    return pg_copy_number(s->copy, sql, files);
}

static bool begin(struct fsck_stream *s, const char *scope, uint64_t from)
{
    char sql[2048];
    snprintf(sql, sizeof sql,
             "COPY (SELECT place, blob_id, mailbox_id, seq, size, skip, kind FROM ("
             " SELECT " PLACE " AS place, blob_id, mailbox_id, seq, size, skip, shared::int AS kind"
             "   FROM message WHERE %s"
             " UNION ALL"
             " SELECT " PLACE ", blob_id, mailbox_id, seq, size, skip, 2 + shared::int"
             "   FROM ledger WHERE %s"
             " UNION ALL"
             " SELECT " PLACE ", blob_id, 0, 0, 0, 0, 4 FROM blob_shared WHERE refs = 0 AND %s"
             ") f WHERE place >= %" PRIu64 " ORDER BY place) TO STDOUT (FORMAT binary)",
             scope, scope, scope, from);
    return pg_copy_begin(s->copy, sql);
}

bool fsck_stream_open(const char *url, const struct fsck_scope *scope, struct fsck_stream **out,
                      uint64_t *files, char *why, size_t why_size)
{
    struct fsck_stream *s = NEW(struct fsck_stream);
    char text[SCOPE_TEXT];
    scope_text(scope, text);
    s->copy = pg_copy_open(url, why, why_size);
    bool ok = s->copy && count(s, text, files) && begin(s, text, scope->from);
    if (!ok) {
        if (s->copy) {
            snprintf(why, why_size, "%s", pg_copy_why(s->copy));
        }
        fsck_stream_close(&s);
        return false;
    }
    *out = s;
    return true;
}

void fsck_stream_close(struct fsck_stream **s)
{
    pg_copy_close(&(*s)->copy);
    free(*s);
    *s = NULL;
}

void fsck_stream_cancel(struct fsck_stream *s)
{
    pg_copy_cancel(s->copy);
}

static bool take_row(struct fsck_stream *s, struct span in)
{
    struct fsck_row r = { 0 };
    int64_t place, mailbox;
    uint32_t kind;
    if (!pg_copy_i64(&in, &place) || !pg_copy_id(&in, &r.id) || !pg_copy_i64(&in, &mailbox) ||
        !pg_copy_i64(&in, &r.seq) || !pg_copy_u32(&in, &r.size) || !pg_copy_u32(&in, &r.skip) ||
        !pg_copy_u32(&in, &kind) || in.n) {
        return false;
    }
    r.mailbox_id = (uint64_t)mailbox;
    r.kind = kind < KIND_LEDGER ? ROW_POINTER : kind < KIND_FREE ? ROW_LEDGER : ROW_FREE;
    r.shared = kind & 1;
    s->place = (uint64_t)place;
    s->row = r;
    return true;
}

enum err fsck_stream_next(struct fsck_stream *s, uint64_t *place)
{
    struct span row;
    enum err e = s->ready ? ERR_OK : pg_copy_row(s->copy, COLUMNS, &row);
    if (e == ERR_OK && !s->ready && !take_row(s, row)) {
        snprintf(s->why, sizeof s->why, "database: its columns make no sense");
        return ERR_TEMP;
    }
    if (e == ERR_OK) {
        s->ready = true;
        *place = s->place;
    }
    return e;
}

struct fsck_row fsck_stream_take(struct fsck_stream *s)
{
    CHECK(s->ready);
    s->ready = false;
    return s->row;
}

const char *fsck_stream_why(const struct fsck_stream *s)
{
    return *s->why ? s->why : pg_copy_why(s->copy);
}
