/*
 * fsck_stream: BEGIN, a count, one COPY in binary form, and taking its rows apart. What the server
 * sends is measured before it is used.
 */
#include "fsck_stream.h"

#include <endian.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define DAY_MS    86400000
#define COLUMNS   7
#define SIGNATURE "PGCOPY\n\377\r\n"
#define HEADER    19 /* signature, flags, octets of an extension */

struct fsck_stream {
    PGconn *pq;
    PGcancel *cancel;
    bool begun, ended;
    bool ready; /* place and row are of the next */
    uint64_t place;
    struct fsck_row row;
    char why[256];
};

/* What PostgreSQL makes of a row; the numbers are fsck_place's. */
#define PLACE                                                                                      \
    "(volume_id::bigint << 38) | "                                                                 \
    "(((('x' || encode(substring(uuid_send(blob_id) FOR 6), 'hex'))::bit(48)::bigint / 86400000)"  \
    " << 16) | (get_byte(uuid_send(blob_id), 6) << 8) | get_byte(uuid_send(blob_id), 7))"

static bool failed(struct fsck_stream *s, const char *what)
{
    snprintf(s->why, sizeof s->why, "%s: %s", what, s->pq ? PQerrorMessage(s->pq) : "no memory");
    s->why[strcspn(s->why, "\n")] = '\0';
    return false;
}

static bool run(struct fsck_stream *s, const char *sql)
{
    PGresult *r = PQexec(s->pq, sql);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    PQclear(r);
    return ok || failed(s, "database");
}

/* Conditions of a scope on a table; numbers alone, so nothing has to be quoted. */
static void scope_text(const struct fsck_scope *scope, char out[160])
{
    int n =
        snprintf(out, 160, "blob_id >= ms_id(%" PRIu64 ")", (uint64_t)scope->since_day * DAY_MS);
    if (scope->volume) {
        snprintf(out + n, 160 - (size_t)n, " AND volume_id = %u", scope->volume);
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
    PGresult *r = PQexec(s->pq, sql);
    bool ok = PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1;
    if (ok) {
        *files = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
    }
    PQclear(r);
    return ok || failed(s, "database");
}

static bool begin_copy(struct fsck_stream *s, const char *scope, uint64_t from)
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
             " SELECT " PLACE ", blob_id, 0, 0, 0, 0, 5 FROM blob_shared WHERE refs = 0 AND %s"
             ") f WHERE place >= %" PRIu64 " ORDER BY place) TO STDOUT (FORMAT binary)",
             scope, scope, scope, from);
    PGresult *r = PQexec(s->pq, sql);
    bool ok = PQresultStatus(r) == PGRES_COPY_OUT;
    PQclear(r);
    return ok || failed(s, "database");
}

bool fsck_stream_open(const char *url, const struct fsck_scope *scope, struct fsck_stream **out,
                      uint64_t *files, char *why, size_t why_size)
{
    struct fsck_stream *s = NEW(struct fsck_stream);
    char text[160];
    scope_text(scope, text);
    s->pq = PQconnectdb(url);
    bool ok = PQstatus(s->pq) == CONNECTION_OK || failed(s, "database");
    /* The settings are this transaction's; the sort spills to the server's disk. */
    ok = ok && run(s, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") &&
         run(s, "SET LOCAL statement_timeout = 0") && run(s, "SET LOCAL work_mem = '64MB'") &&
         count(s, text, files) && begin_copy(s, text, scope->from);
    if (!ok) {
        snprintf(why, why_size, "%s", s->why);
        fsck_stream_close(&s);
        return false;
    }
    s->cancel = PQgetCancel(s->pq);
    *out = s;
    return true;
}

void fsck_stream_close(struct fsck_stream **ps)
{
    struct fsck_stream *s = *ps;
    *ps = NULL;
    if (!s) {
        return;
    }
    fsck_stream_cancel(s);
    PQfreeCancel(s->cancel);
    PQfinish(s->pq);
    free(s);
}

/* A server that is told would else sort on to the end for nobody. */
void fsck_stream_cancel(struct fsck_stream *s)
{
    char why[256];
    if (s->cancel && !s->ended) {
        PQcancel(s->cancel, why, sizeof why);
    }
}

/* --- rows ------------------------------------------------------------------------------------ */

/* The next column; its octets are as many as the row's form says. */
static bool take_column(struct span *in, size_t n, const char **out)
{
    uint32_t len;
    if (in->n < sizeof len) {
        return false;
    }
    memcpy(&len, in->p, sizeof len);
    *in = span_skip(*in, sizeof len);
    if (be32toh(len) != n || in->n < n) {
        return false;
    }
    *out = in->p;
    *in = span_skip(*in, n);
    return true;
}

static bool take_i64(struct span *in, int64_t *out)
{
    const char *p;
    uint64_t v;
    if (!take_column(in, sizeof v, &p)) {
        return false;
    }
    memcpy(&v, p, sizeof v);
    *out = (int64_t)be64toh(v);
    return true;
}

static bool take_u32(struct span *in, uint32_t *out)
{
    const char *p;
    uint32_t v;
    if (!take_column(in, sizeof v, &p)) {
        return false;
    }
    memcpy(&v, p, sizeof v);
    *out = be32toh(v);
    return true;
}

static bool take_id(struct span *in, struct blob_id *out)
{
    const char *p;
    if (!take_column(in, BLOB_ID_SIZE, &p)) {
        return false;
    }
    memcpy(out->b, p, BLOB_ID_SIZE);
    return true;
}

static bool take_row(struct fsck_stream *s, struct span in)
{
    struct fsck_row r = { 0 };
    int64_t place, mailbox;
    uint32_t kind;
    if (!take_i64(&in, &place) || !take_id(&in, &r.id) || !take_i64(&in, &mailbox) ||
        !take_i64(&in, &r.seq) || !take_u32(&in, &r.size) || !take_u32(&in, &r.skip) ||
        !take_u32(&in, &kind) || in.n) {
        return false;
    }
    r.mailbox_id = (uint64_t)mailbox;
    r.kind = kind < 2 ? ROW_POINTER : kind < 4 ? ROW_LEDGER : ROW_FREE;
    r.shared = kind & 1;
    s->place = (uint64_t)place;
    s->row = r;
    return true;
}

static bool skip_header(struct span *in)
{
    uint32_t extension;
    if (in->n < HEADER || !span_starts(*in, span_of(SIGNATURE, sizeof SIGNATURE))) {
        return false;
    }
    memcpy(&extension, in->p + HEADER - sizeof extension, sizeof extension);
    *in = span_skip(*in, HEADER + (size_t)be32toh(extension));
    return true;
}

/* False: it makes no sense. The trailer has no row; the end of the COPY follows. */
static bool take_data(struct fsck_stream *s, struct span in)
{
    uint16_t columns;
    if (!s->begun && !skip_header(&in)) {
        return false;
    }
    s->begun = true;
    if (!in.n) {
        return true;
    }
    if (in.n < sizeof columns) {
        return false;
    }
    memcpy(&columns, in.p, sizeof columns);
    in = span_skip(in, sizeof columns);
    columns = be16toh(columns);
    s->ready = columns == COLUMNS && take_row(s, in);
    return s->ready || (columns == UINT16_MAX && !in.n);
}

static enum err read_row(struct fsck_stream *s)
{
    char *data = NULL;
    int n = PQgetCopyData(s->pq, &data, 0);
    if (n > 0) {
        bool ok = take_data(s, span_of(data, (size_t)n));
        PQfreemem(data);
        if (!ok) {
            snprintf(s->why, sizeof s->why, "database: its rows make no sense");
        }
        return ok ? ERR_OK : ERR_TEMP;
    }
    s->ended = true;
    PGresult *r = n == -1 ? PQgetResult(s->pq) : NULL;
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    PQclear(r);
    if (!ok) {
        failed(s, "database");
    }
    return ok ? ERR_NOTFOUND : ERR_TEMP;
}

enum err fsck_stream_next(struct fsck_stream *s, uint64_t *place)
{
    enum err e = *s->why ? ERR_TEMP : s->ended ? ERR_NOTFOUND : ERR_OK;
    while (e == ERR_OK && !s->ready) {
        e = read_row(s);
    }
    if (e == ERR_OK) {
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
    return s->why;
}
