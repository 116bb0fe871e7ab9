/*
 * pg_batch: statements on their way out and values on their way in, in PostgreSQL's binary format.
 *
 * A batch owns copies of its arguments and the results; SQL texts are borrowed. Nothing here waits
 * or knows of connections' states: pg_conn does.
 */
#include "store/pg_batch.h"

#include <endian.h>
#include <limits.h>
#include <stdlib.h>

#include "base/check.h"

/* Types by their numbers, which PostgreSQL never changes (src/include/catalog/pg_type.dat). */
enum {
    BOOL = 16,
    BYTEA = 17,
    NAME = 19,
    INT8 = 20,
    INT2 = 21,
    INT4 = 23,
    TEXT = 25,
    BYTEA_ARRAY = 1001,
    TEXT_ARRAY = 1009,
    INT8_ARRAY = 1016,
    VARCHAR = 1043,
    UUID = 2950,
    UUID_ARRAY = 2951
};

struct pg_batch *pg_batch_new(void)
{
    struct pg_batch *b = NEW(struct pg_batch);
    list_init(&b->link);
    return b;
}

void pg_batch_free(struct pg_batch **pb)
{
    struct pg_batch *b = *pb;
    if (!b) {
        return;
    }
    *pb = NULL;
    for (size_t i = 0; i < b->n_results; i++) {
        PQclear(b->results[i]);
    }
    free(b->results);
    free(b->statements);
    free(b->params);
    free(b->data);
    free(b);
}

/* --- arguments -------------------------------------------------------------------------------- */

/* Room for one more of an array. */
static void *grown(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) {
        return array;
    }
    *cap = *cap ? *cap * 2 : 8;
    return mem_grow(array, *cap, size);
}

void pg_stmt(struct pg_batch *b, const char *sql)
{
    b->statements = grown(b->statements, b->n, &b->cap, sizeof *b->statements);
    b->statements[b->n++] = (struct pg_statement){ .sql = sql, .first = b->n_params };
}

static void add_param(struct pg_batch *b, Oid type, int len)
{
    CHECK(b->n > 0);
    b->params = grown(b->params, b->n_params, &b->params_cap, sizeof *b->params);
    b->params[b->n_params++] = (struct pg_param){ .type = type, .len = len, .off = b->data_len };
    b->statements[b->n - 1].n++;
}

static void add_data(struct pg_batch *b, const void *p, size_t n)
{
    if (n > b->data_cap - b->data_len) {
        b->data_cap = b->data_cap * 2 + n;
        b->data = mem_grow(b->data, b->data_cap, 1);
    }
    if (n) {
        memcpy(b->data + b->data_len, p, n);
    }
    b->data_len += n;
}

static void add_i32(struct pg_batch *b, uint32_t v)
{
    v = htobe32(v);
    add_data(b, &v, sizeof v);
}

static void add_i64(struct pg_batch *b, int64_t v)
{
    uint64_t u = htobe64((uint64_t)v);
    add_data(b, &u, sizeof u);
}

/* The value of the last parameter begins; end_param takes its length. */
static void begin_param(struct pg_batch *b, Oid type)
{
    add_param(b, type, 0);
}

static void end_param(struct pg_batch *b)
{
    struct pg_param *p = &b->params[b->n_params - 1];
    CHECK(b->data_len - p->off <= INT_MAX);
    p->len = (int)(b->data_len - p->off);
}

static void add_value(struct pg_batch *b, Oid type, const void *p, size_t n)
{
    begin_param(b, type);
    add_data(b, p, n);
    end_param(b);
}

void pg_i64(struct pg_batch *b, int64_t v)
{
    begin_param(b, INT8);
    add_i64(b, v);
    end_param(b);
}

void pg_text(struct pg_batch *b, struct span v)
{
    add_value(b, TEXT, v.p, v.n);
}

void pg_bytea(struct pg_batch *b, struct span v)
{
    add_value(b, BYTEA, v.p, v.n);
}

void pg_uuid(struct pg_batch *b, const struct blob_id *v)
{
    add_value(b, UUID, v->b, sizeof v->b);
}

void pg_bool(struct pg_batch *b, bool v)
{
    add_value(b, BOOL, &(char){ v }, 1);
}

void pg_null(struct pg_batch *b)
{
    add_param(b, 0, -1); /* type 0: the server infers it */
}

/* An array's head: dimensions, whether it has NULLs, type; then length and first index. */
static void begin_array(struct pg_batch *b, Oid array, Oid element, size_t n)
{
    CHECK(n <= INT_MAX);
    begin_param(b, array);
    add_i32(b, n > 0);
    add_i32(b, 0);
    add_i32(b, element);
    if (n > 0) {
        add_i32(b, (uint32_t)n);
        add_i32(b, 1);
    }
}

void pg_i64s(struct pg_batch *b, const int64_t *v, size_t n)
{
    begin_array(b, INT8_ARRAY, INT8, n);
    for (size_t i = 0; i < n; i++) {
        add_i32(b, sizeof *v);
        add_i64(b, v[i]);
    }
    end_param(b);
}

static void add_spans(struct pg_batch *b, Oid array, Oid element, const struct span *v, size_t n)
{
    begin_array(b, array, element, n);
    for (size_t i = 0; i < n; i++) {
        CHECK(v[i].n <= INT_MAX);
        add_i32(b, (uint32_t)v[i].n);
        add_data(b, v[i].p, v[i].n);
    }
    end_param(b);
}

void pg_texts(struct pg_batch *b, const struct span *v, size_t n)
{
    add_spans(b, TEXT_ARRAY, TEXT, v, n);
}

void pg_byteas(struct pg_batch *b, const struct span *v, size_t n)
{
    add_spans(b, BYTEA_ARRAY, BYTEA, v, n);
}

void pg_uuids(struct pg_batch *b, const struct blob_id *v, size_t n)
{
    begin_array(b, UUID_ARRAY, UUID, n);
    for (size_t i = 0; i < n; i++) {
        add_i32(b, sizeof v[i].b);
        add_data(b, v[i].b, sizeof v[i].b);
    }
    end_param(b);
}

bool pg_batch_send(const struct pg_batch *b, PGconn *pq)
{
    Oid *types = NEW_ARRAY(Oid, b->n_params);
    const char **values = NEW_ARRAY(const char *, b->n_params);
    int *lengths = NEW_ARRAY(int, b->n_params), *formats = NEW_ARRAY(int, b->n_params);
    for (size_t i = 0; i < b->n_params; i++) {
        const struct pg_param *p = &b->params[i];
        types[i] = p->type;
        /* Never NULL for an empty value, which would mean SQL's NULL. */
        values[i] = p->len < 0 ? NULL : p->len == 0 ? "" : b->data + p->off;
        lengths[i] = p->len;
        formats[i] = 1;
    }
    bool sent = true;
    for (size_t i = 0; i < b->n && sent; i++) {
        const struct pg_statement *s = &b->statements[i];
        sent = PQsendQueryParams(pq, s->sql, (int)s->n, types + s->first, values + s->first,
                                 lengths + s->first, formats + s->first, 1);
    }
    sent = sent && PQpipelineSync(pq);
    free(types);
    free(values);
    free(lengths);
    free(formats);
    return sent;
}

/* --- outcome ---------------------------------------------------------------------------------- */

static enum err err_of_sqlstate(const char *state)
{
    static const struct {
        const char *prefix;
        enum err err;
    } table[] = {
        { "MF001", ERR_LIMIT }, { "MF002", ERR_NOTFOUND }, { "MF003", ERR_BUSY },
        { "23505", ERR_BUSY },  { "22", ERR_INVALID },     { "23", ERR_INVALID },
        { "42", ERR_INVALID },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (strncmp(state, table[i].prefix, strlen(table[i].prefix)) == 0) {
            return table[i].err;
        }
    }
    return ERR_TEMP;
}

/* Cut to fit; control characters (libpq's messages end with a newline) become blanks. */
static void set_text(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; text && text[n] && n + 1 < size; n++) {
        out[n] = (unsigned char)text[n] < ' ' ? ' ' : text[n];
    }
    while (n > 0 && out[n - 1] == ' ') {
        n--;
    }
    out[n] = '\0';
}

static void set_error(struct pg_reply *reply, const PGresult *r)
{
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
    set_text(reply->sqlstate, sizeof reply->sqlstate, state);
    set_text(reply->message, sizeof reply->message, message ? message : PQresultErrorMessage(r));
    set_text(reply->detail, sizeof reply->detail, PQresultErrorField(r, PG_DIAG_MESSAGE_DETAIL));
    reply->err = err_of_sqlstate(reply->sqlstate);
}

void pg_batch_result(struct pg_batch *b, PGresult *r)
{
    ExecStatusType status = PQresultStatus(r);
    if ((status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) && b->n_results < b->n) {
        if (!b->results) {
            b->results = NEW_ARRAY(PGresult *, b->n);
        }
        b->results[b->n_results++] = r;
        return;
    }
    if (status != PGRES_PIPELINE_ABORTED && b->reply.err == ERR_OK) {
        set_error(&b->reply, r);
    }
    PQclear(r);
}

void pg_batch_settle(struct pg_batch *b)
{
    if (b->reply.err == ERR_OK && b->n_results == b->n) {
        b->reply.n = b->n_results;
        b->reply.r = (const PGresult *const *)b->results;
    } else if (b->reply.err == ERR_OK) {
        pg_batch_fail(b, ERR_UNCERTAIN, "results are missing");
    }
}

void pg_batch_fail(struct pg_batch *b, enum err e, const char *why)
{
    if (b->lane == PG_READ && e == ERR_UNCERTAIN) {
        e = ERR_TEMP; /* a read has no outcome but its answer */
    }
    b->reply = (struct pg_reply){ .err = e };
    set_text(b->reply.message, sizeof b->reply.message, why);
}

/* --- values ----------------------------------------------------------------------------------- */

static bool type_fits(char shape, Oid type)
{
    switch (shape) {
    case 'i':
        return type == INT2 || type == INT4 || type == INT8 || type == BOOL;
    case 't':
        return type == TEXT || type == VARCHAR || type == NAME;
    case 'b':
        return type == BYTEA;
    case 'u':
        return type == UUID;
    case 'T':
        return type == TEXT_ARRAY;
    default:
        UNREACHABLE();
    }
}

bool pg_shape(const PGresult *r, const char *shape)
{
    if (PQresultStatus(r) != PGRES_TUPLES_OK || (size_t)PQnfields(r) != strlen(shape)) {
        return false;
    }
    for (int i = 0; i < PQnfields(r); i++) {
        if (PQfformat(r, i) != 1 || !type_fits(shape[i], PQftype(r, i))) {
            return false;
        }
    }
    return true;
}

static struct span value(const PGresult *r, int row, int col)
{
    CHECK(row >= 0 && row < PQntuples(r) && col >= 0 && col < PQnfields(r));
    return span_of(PQgetvalue(r, row, col), (size_t)PQgetlength(r, row, col));
}

static uint64_t big_endian(struct span s)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        v = v << 8 | (uint8_t)s.p[i];
    }
    return v;
}

int64_t pg_get_i64(const PGresult *r, int row, int col)
{
    struct span s = value(r, row, col);
    CHECK(type_fits('i', PQftype(r, col)));
    switch (s.n) {
    case 1:
        return s.p[0] != 0;
    case 2:
        return (int16_t)big_endian(s);
    case 4:
        return (int32_t)big_endian(s);
    case 8:
        return (int64_t)big_endian(s);
    default:
        return 0; /* NULL has no octets */
    }
}

struct span pg_get_span(const PGresult *r, int row, int col)
{
    CHECK(type_fits('t', PQftype(r, col)) || type_fits('b', PQftype(r, col)));
    return value(r, row, col);
}

struct blob_id pg_get_uuid(const PGresult *r, int row, int col)
{
    CHECK(type_fits('u', PQftype(r, col)));
    struct span s = value(r, row, col);
    struct blob_id id = { 0 };
    if (s.n == sizeof id.b) {
        memcpy(id.b, s.p, sizeof id.b);
    }
    return id;
}

/* Takes a 32-bit number off the front; -1 when there is none, which no caller takes for one. */
static int32_t take_i32(struct span *s)
{
    if (s->n < 4) {
        return -1;
    }
    int32_t v = (int32_t)big_endian(span_first(*s, 4));
    *s = span_skip(*s, 4);
    return v;
}

size_t pg_get_texts(const PGresult *r, int row, int col, struct span *out, size_t max)
{
    CHECK(type_fits('T', PQftype(r, col)));
    struct span s = value(r, row, col);
    if (take_i32(&s) != 1) { /* dimensions: an empty array has none */
        return 0;
    }
    s = span_skip(s, 8); /* whether it has NULLs; type */
    int32_t n = take_i32(&s);
    s = span_skip(s, 4); /* first index */
    if (n < 0 || (size_t)n > s.n / 4) {
        return 0; /* each element has a length in front of it */
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t len = take_i32(&s);
        struct span text = span_first(s, len > 0 ? (size_t)len : 0);
        if ((size_t)i < max) {
            out[i] = text;
        }
        s = span_skip(s, text.n);
    }
    return (size_t)n;
}
