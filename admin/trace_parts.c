/*
 * trace_parts: see the header. A session is named by its node and its own name, which no two of a
 * fleet share.
 */
#include "trace_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "table.h"
#include "tree.h"

/* --- the log --------------------------------------------------------------------------------- */

int trace_read_log(struct log_reader *log, int64_t since_ms, trace_line_fn *take, void *arg)
{
    struct log_line l;
    if (!log) {
        return EX_OK;
    }
    log_reader_rewind(log);
    while (log_reader_next(log, &l)) {
        if (l.ms >= since_ms) {
            take(arg, &l);
        }
    }
    const char *why = log_reader_failed(log);
    return why ? admin_fail(EX_NOINPUT, "%s", why) : EX_OK;
}

/* --- sessions -------------------------------------------------------------------------------- */

void trace_session_key(const struct log_line *l, char out[SESSION_KEY])
{
    char node[80], sid[40];
    log_line_text(l, "node", node, sizeof node);
    log_line_text(l, "sid", sid, sizeof sid);
    snprintf(out, SESSION_KEY, "%s%s%s", node, *node ? " " : "", sid);
}

static int by_key(const void *a, const void *b)
{
    const struct trace_session *x = a, *y = b;
    return strcmp(x->key, y->key);
}

struct trace_session *trace_session(struct trace_sessions *s, const char *key)
{
    struct trace_session *new = NEW(struct trace_session);
    snprintf(new->key, sizeof new->key, "%s", key);
    return tree_add(&s->root, new, by_key);
}

struct trace_session *trace_session_find(const struct trace_sessions *s, const char *key)
{
    struct trace_session wanted;
    snprintf(wanted.key, sizeof wanted.key, "%s", key);
    return tree_find(&s->root, &wanted, by_key);
}

struct trace_session *trace_session_of(const struct trace_sessions *s, const struct log_line *l)
{
    char key[SESSION_KEY];
    trace_session_key(l, key);
    return trace_session_find(s, key);
}

void trace_session_login(struct trace_session *s, const struct log_line *l)
{
    uint64_t mailbox = 0;
    log_line_text(l, "user", s->user, sizeof s->user);
    log_line_text(l, "peer", s->peer, sizeof s->peer);
    log_line_text(l, "result", s->result, sizeof s->result);
    log_line_number(l, "messages", &s->messages);
    log_line_number(l, "mailbox", &mailbox);
    s->mailbox = (int64_t)mailbox;
    s->ms = l->ms;
    trace_clean(s->user);
    trace_clean(s->peer);
    trace_clean(s->result);
}

void trace_sessions_free(struct trace_sessions *s)
{
    tree_free(&s->root);
}

/* --- events ---------------------------------------------------------------------------------- */

struct trace_event *trace_add(struct trace_events *t, enum trace_kind kind, int64_t ms)
{
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 64;
        t->v = mem_grow(t->v, t->room, sizeof *t->v);
    }
    t->v[t->n] = (struct trace_event){ .kind = kind, .ms = ms, .what = mem_strdup("") };
    return &t->v[t->n++];
}

void trace_say(struct trace_event *e, const char *fmt, ...)
{
    size_t n = strlen(e->what);
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int more = vsnprintf(NULL, 0, fmt, args);
    CHECK(more >= 0);
    e->what = mem_grow(e->what, n + (size_t)more + 1, 1);
    vsnprintf(e->what + n, (size_t)more + 1, fmt, again);
    va_end(again);
    va_end(args);
}

void trace_events_free(struct trace_events *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->v[i].what);
    }
    free(t->v);
    *t = (struct trace_events){ 0 };
}

const char *trace_clean(char *text)
{
    bool utf8 = span_utf8(span_str(text));
    for (char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < ' ' || c == 0x7f || (!utf8 && c > 0x7f)) {
            *p = '?';
        }
    }
    return text;
}

void trace_time(int64_t ms, char out[32])
{
    struct tm tm;
    time_t s = (time_t)(ms / 1000);
    if (!gmtime_r(&s, &tm) || !strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm)) {
        snprintf(out, 32, "?");
        return;
    }
    snprintf(out + strlen(out), 8, ".%03uZ", (unsigned)(ms % 1000));
}

/* --- mailboxes' names ------------------------------------------------------------------------ */

void trace_names_add(struct trace_names *n, int64_t mailbox)
{
    if (mailbox > 0 && !trace_names_find(n, mailbox)) {
        n->v = mem_grow(n->v, n->n + 1, sizeof *n->v);
        n->v[n->n++] = (struct trace_name){ .mailbox = mailbox };
    }
}

const struct trace_name *trace_names_find(const struct trace_names *n, int64_t mailbox)
{
    for (size_t i = 0; i < n->n; i++) {
        if (n->v[i].mailbox == mailbox) {
            return &n->v[i];
        }
    }
    return NULL;
}

static void take_names(struct trace_names *n, const PGresult *r)
{
    for (int i = 0; i < PQntuples(r); i++) {
        for (size_t k = 0; k < n->n; k++) {
            struct trace_name *name = &n->v[k];
            if (name->mailbox == pg_get_i64(r, i, 0)) {
                snprintf(name->address, sizeof name->address, "%.*s",
                         SPAN_ARG(pg_get_span(r, i, 1)));
                name->removed_ms = pg_get_i64(r, i, 2);
                snprintf(name->removed_by, sizeof name->removed_by, "%.*s",
                         SPAN_ARG(pg_get_span(r, i, 3)));
            }
        }
    }
}

int trace_names_read(struct admin *a, struct trace_names *n)
{
    int64_t *boxes = NEW_ARRAY(int64_t, n->n + 1);
    for (size_t i = 0; i < n->n; i++) {
        boxes[i] = n->v[i].mailbox;
    }
    admin_sql(a, "SELECT c.mailbox_id, c.addr, 0::bigint, '' FROM account c"
                 " WHERE c.mailbox_id = ANY ($1)");
    pg_i64s(a->batch, boxes, n->n);
    admin_sql(a, "SELECT d.mailbox_id, d.addr, " TRACE_MS(
                     "d.removed_at") ", d.by_whom"
                                     " FROM removed d WHERE d.mailbox_id = ANY ($1)");
    pg_i64s(a->batch, boxes, n->n);
    free(boxes);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "accounts");
    }
    take_names(n, admin_result(a, 0));
    take_names(n, admin_result(a, 1));
    return EX_OK;
}

/* --- output ---------------------------------------------------------------------------------- */

static int by_kind_and_time(const void *a, const void *b)
{
    const struct trace_event *x = a, *y = b;
    if (x->kind != y->kind) {
        return x->kind < y->kind ? -1 : 1;
    }
    return x->ms != y->ms ? (x->ms < y->ms ? -1 : 1) : strcmp(x->id, y->id);
}

static int by_time(const void *a, const void *b)
{
    const struct trace_event *x = a, *y = b;
    if (x->ms != y->ms) {
        return x->ms < y->ms ? -1 : 1;
    }
    return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : strcmp(x->what, y->what);
}

static void add_text(struct table *t, struct span text)
{
    text.n ? table_text(t, text) : table_none(t);
}

static void add_event(struct table *t, const struct trace_event *e, const struct trace_names *names,
                      bool many)
{
    static const char *const kinds[] = {
#define X(kind, text) text,
        TRACE_LIST(X)
#undef X
    };
    char time[32];
    const struct trace_name *name = trace_names_find(names, e->mailbox);
    const struct trace_session *s = e->session;
    struct span key = span_str(s ? s->key : e->key);
    size_t node = span_find(key, ' ');
    trace_time(e->ms, time);
    add_text(t, span_str(e->undated ? "" : time));
    add_text(t, span_str(kinds[e->kind]));
    if (many) {
        add_text(t, span_str(e->id));
    }
    add_text(t, span_str(s && *s->user ? s->user : name ? name->address : ""));
    table_limit(t, (uint64_t)e->mailbox);
    add_text(t, span_str(s && *s->peer ? s->peer : e->peer));
    add_text(t, node < key.n ? span_first(key, node) : SPAN(""));
    add_text(t, node < key.n ? span_skip(key, node + 1) : key);
    add_text(t, span_str(e->what));
}

void trace_print(struct admin *a, struct trace_events *t, const struct trace_names *names,
                 bool many)
{
    static const struct column one[] = {
        { "time", "TIME", COLUMN_TEXT },       { "event", "EVENT", COLUMN_TEXT },
        { "address", "ADDRESS", COLUMN_TEXT }, { "mailbox_id", "MAILBOX", COLUMN_NUMBER },
        { "peer", "CLIENT", COLUMN_TEXT },     { "node", "NODE", COLUMN_TEXT },
        { "session", "SESSION", COLUMN_TEXT }, { "what", "WHAT", COLUMN_TEXT },
    };
    static const struct column all[] = {
        { "time", "TIME", COLUMN_TEXT },
        { "event", "EVENT", COLUMN_TEXT },
        { "id", "ID", COLUMN_TEXT },
        { "address", "ADDRESS", COLUMN_TEXT },
        { "mailbox_id", "MAILBOX", COLUMN_NUMBER },
        { "peer", "CLIENT", COLUMN_TEXT },
        { "node", "NODE", COLUMN_TEXT },
        { "session", "SESSION", COLUMN_TEXT },
        { "what", "WHAT", COLUMN_TEXT },
    };
    struct table *table = many ? table_new(all, ARRAY_LEN(all)) : table_new(one, ARRAY_LEN(one));
    if (t->n > 0) {
        qsort(t->v, t->n, sizeof *t->v, many ? by_kind_and_time : by_time);
    }
    for (size_t i = 0; i < t->n; i++) {
        trace_clean(t->v[i].what);
        trace_clean(t->v[i].peer);
        trace_clean(t->v[i].key);
        add_event(table, &t->v[i], names, many);
    }
    table_print(table, a->json, "nothing is known", stdout);
    table_free(&table);
}
