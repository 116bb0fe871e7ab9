/*
 * pg_copy: blocking libpq. What the server sends is measured before it is used. Owns the row that
 * was told last.
 */
#include "store/pg_copy.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/pg_blocking.h"

#define SIGNATURE "PGCOPY\n\377\r\n" /* and its NUL */
#define HEADER    19                 /* signature, flags, octets of an extension */

struct pg_copy {
    PGconn *pq;
    PGcancel *cancel;
    char *data;  /* the last row is in it */
    bool copies; /* rows are to come, */
    bool begun;  /* and the header was there */
    char why[256];
};

static bool failed(struct pg_copy *c)
{
    snprintf(c->why, sizeof c->why, "database: %s", PQerrorMessage(c->pq));
    c->why[strcspn(c->why, "\n")] = '\0';
    return false;
}

static bool run(struct pg_copy *c, const char *sql)
{
    PGresult *r = PQexec(c->pq, sql);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    PQclear(r);
    return ok || failed(c);
}

/* The settings are those of the transaction: PgBouncer may stand in between. */
struct pg_copy *pg_copy_open(const char *url, char *why, size_t why_size)
{
    struct pg_copy *c = NEW(struct pg_copy);
    c->pq = pg_blocking_connect(url);
    bool ok = (PQstatus(c->pq) == CONNECTION_OK || failed(c)) &&
              run(c, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") &&
              run(c, "SET LOCAL statement_timeout = 0") && run(c, "SET LOCAL work_mem = '64MB'");
    if (!ok) {
        snprintf(why, why_size, "%s", c->why);
        pg_copy_close(&c);
        return NULL;
    }
    c->cancel = PQgetCancel(c->pq);
    return c;
}

/* A server that is not told would go on to the end of its sort for nobody. */
void pg_copy_close(struct pg_copy **pc)
{
    struct pg_copy *c = *pc;
    *pc = NULL;
    if (!c) {
        return;
    }
    if (c->copies) {
        pg_copy_cancel(c);
    }
    PQfreemem(c->data);
    PQfreeCancel(c->cancel);
    PQfinish(c->pq);
    free(c);
}

const char *pg_copy_why(const struct pg_copy *c)
{
    return c->why;
}

void pg_copy_cancel(struct pg_copy *c)
{
    char why[256];
    if (c->cancel) {
        PQcancel(c->cancel, why, sizeof why);
    }
}

bool pg_copy_number(struct pg_copy *c, const char *sql, uint64_t *out)
{
    PGresult *r = PQexec(c->pq, sql);
    bool ok = PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1 && PQnfields(r) == 1;
    if (ok) {
        *out = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
    }
    PQclear(r);
    return ok || failed(c);
}

bool pg_copy_begin(struct pg_copy *c, const char *sql)
{
    PGresult *r = PQexec(c->pq, sql);
    c->copies = PQresultStatus(r) == PGRES_COPY_OUT;
    PQclear(r);
    return c->copies || failed(c);
}

/* --- rows ------------------------------------------------------------------------------------ */

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

/* OK; NOTFOUND: it has no row, but there may be more; INVALID: it makes no sense. */
static enum err take_data(struct pg_copy *c, struct span in, unsigned columns, struct span *row)
{
    uint16_t n;
    if (!c->begun && !skip_header(&in)) {
        return ERR_INVALID;
    }
    c->begun = true;
    if (!in.n) {
        return ERR_NOTFOUND; /* the header alone */
    }
    if (in.n < sizeof n) {
        return ERR_INVALID;
    }
    memcpy(&n, in.p, sizeof n);
    *row = span_skip(in, sizeof n);
    n = be16toh(n);
    return n == columns ? ERR_OK : n == UINT16_MAX && !row->n ? ERR_NOTFOUND : ERR_INVALID;
}

static enum err end_copy(struct pg_copy *c, bool well)
{
    PGresult *r = well ? PQgetResult(c->pq) : NULL;
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    PQclear(r);
    c->copies = false;
    if (!ok) {
        failed(c);
    }
    return ok ? ERR_NOTFOUND : ERR_TEMP;
}

enum err pg_copy_row(struct pg_copy *c, unsigned columns, struct span *row)
{
    enum err e = *c->why ? ERR_TEMP : ERR_NOTFOUND;
    while (c->copies && e == ERR_NOTFOUND) {
        PQfreemem(c->data);
        c->data = NULL;
        int n = PQgetCopyData(c->pq, &c->data, 0);
        if (n <= 0) {
            return end_copy(c, n == -1);
        }
        e = take_data(c, span_of(c->data, (size_t)n), columns, row);
    }
    if (e == ERR_INVALID) {
        snprintf(c->why, sizeof c->why, "database: its rows make no sense");
    }
    return e == ERR_INVALID ? ERR_TEMP : e;
}

static bool take_column(struct span *row, size_t n, void *out)
{
    uint32_t len;
    if (row->n < sizeof len) {
        return false;
    }
    memcpy(&len, row->p, sizeof len);
    struct span rest = span_skip(*row, sizeof len);
    if (be32toh(len) != n || rest.n < n) {
        return false;
    }
    memcpy(out, rest.p, n);
    *row = span_skip(rest, n);
    return true;
}

bool pg_copy_i64(struct span *row, int64_t *out)
{
    uint64_t v;
    bool ok = take_column(row, sizeof v, &v);
    if (ok) {
        *out = (int64_t)be64toh(v);
    }
    return ok;
}

bool pg_copy_u32(struct span *row, uint32_t *out)
{
    uint32_t v;
    bool ok = take_column(row, sizeof v, &v);
    if (ok) {
        *out = be32toh(v);
    }
    return ok;
}

bool pg_copy_id(struct span *row, struct blob_id *out)
{
    return take_column(row, BLOB_ID_SIZE, out->b);
}
