/*
 * trace_mailbox: what became of the messages of one address, a line each, and its logins.
 *
 * The database tells what is there and what was deleted; the log, read twice, where it came from,
 * what sessions did, and what the database has forgotten.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "trace_parts.h"
#include "tree.h"

#define PAGE 5000

/* One message. */
struct summary {
    struct blob_id id;
    bool stands;
    int64_t volume;
    bool imported; /* its UIDL is of another server */
    bool arrived;  /* the log tells how */
    char from[320], peer[64], result[64], key[SESSION_KEY];
    int64_t deleted_ms, unlinked_ms; /* the last time; 0: was not */
    char by[80];
    int64_t was_deleted_ms, undeleted_ms; /* the last time that it came back; 0: never */
    char was_by[80], undeleted_by[64];
    uint64_t retrieved;
    int64_t retrieved_ms;  /* the last time, */
    char retrieved_by[64]; /* from there */
};

struct question {
    struct admin *admin;
    int64_t mailbox;
    const char *address;
    int64_t since_ms;
    struct log_reader *log;
    void *summaries; /* a tree */
    struct trace_sessions sessions;
    struct trace_events events;
    struct trace_names names;
};

static int by_id(const void *a, const void *b)
{
    const struct summary *x = a, *y = b;
    return memcmp(&x->id, &y->id, sizeof x->id);
}

static struct summary *summary_find(const struct question *q, const struct blob_id *id)
{
    struct summary wanted = { .id = *id };
    return tree_find(&q->summaries, &wanted, by_id);
}

static struct summary *summary(struct question *q, const struct blob_id *id)
{
    struct summary *s = summary_find(q, id);
    if (!s) {
        s = NEW(struct summary);
        s->id = *id;
        tree_add(&q->summaries, s, by_id);
    }
    return s;
}

static bool is_of_interest(const struct question *q, const struct blob_id *id, int64_t deleted_ms)
{
    return (int64_t)blob_id_time(id) >= q->since_ms || deleted_ms >= q->since_ms;
}

/* --- the database ---------------------------------------------------------------------------- */

static int ask_pointers(struct question *q)
{
    struct admin *a = q->admin;
    int64_t seq = INT64_MIN;
    int n = PAGE;
    while (n == PAGE) {
        admin_sql(a, "SELECT seq, blob_id, volume_id, uidl <> '' FROM message"
                     " WHERE mailbox_id = $1 AND seq > $2 ORDER BY seq LIMIT $3");
        pg_i64(a->batch, q->mailbox);
        pg_i64(a->batch, seq);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "pointers");
        }
        const PGresult *r = admin_result(a, 0);
        n = PQntuples(r);
        for (int i = 0; i < n; i++) {
            struct blob_id id = pg_get_uuid(r, i, 1);
            seq = pg_get_i64(r, i, 0);
            if (is_of_interest(q, &id, 0)) {
                struct summary *s = summary(q, &id);
                s->stands = true;
                s->volume = pg_get_i64(r, i, 2);
                s->imported = pg_get_i64(r, i, 3);
            }
        }
    }
    return EX_OK;
}

static void take_row(struct question *q, const PGresult *r, int i)
{
    struct blob_id id = pg_get_uuid(r, i, 0);
    int64_t ms = pg_get_i64(r, i, 3);
    if (!is_of_interest(q, &id, ms)) {
        return;
    }
    struct summary *s = summary(q, &id);
    if (ms >= s->deleted_ms) {
        s->deleted_ms = ms;
        snprintf(s->by, sizeof s->by, "%.*s", SPAN_ARG(pg_get_span(r, i, 4)));
    }
    s->volume = s->volume ? s->volume : pg_get_i64(r, i, 2);
    s->unlinked_ms = pg_get_i64(r, i, 5);
}

#define ROWS_OF(table, unlinked)                                                                   \
    "SELECT blob_id, seq, volume_id, " TRACE_MS(                                                   \
        "deleted_at") ", by_whom, " unlinked " FROM " table                                        \
                      " WHERE mailbox_id = $1 AND (blob_id, seq) > ($2, $3)"                       \
                      " ORDER BY blob_id, seq LIMIT $4"

static int ask_rows(struct question *q, const char *sql)
{
    struct admin *a = q->admin;
    struct blob_id id = { 0 };
    int64_t seq = -1;
    int n = PAGE;
    while (n == PAGE) {
        admin_sql(a, sql);
        pg_i64(a->batch, q->mailbox);
        pg_uuid(a->batch, &id);
        pg_i64(a->batch, seq);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "ledger");
        }
        const PGresult *r = admin_result(a, 0);
        n = PQntuples(r);
        for (int i = 0; i < n; i++) {
            take_row(q, r, i);
            id = pg_get_uuid(r, i, 0);
            seq = pg_get_i64(r, i, 1);
        }
    }
    return EX_OK;
}

static void take_undeleted(struct question *q, const PGresult *r, int i)
{
    struct blob_id id = pg_get_uuid(r, i, 0);
    int64_t ms = pg_get_i64(r, i, 4);
    if (!is_of_interest(q, &id, ms)) {
        return;
    }
    struct summary *s = summary(q, &id);
    if (ms >= s->undeleted_ms) {
        s->undeleted_ms = ms;
        s->was_deleted_ms = pg_get_i64(r, i, 2);
        snprintf(s->was_by, sizeof s->was_by, "%.*s", SPAN_ARG(pg_get_span(r, i, 3)));
        snprintf(s->undeleted_by, sizeof s->undeleted_by, "%.*s", SPAN_ARG(pg_get_span(r, i, 5)));
    }
}

static int ask_undeleted(struct question *q)
{
    struct admin *a = q->admin;
    struct blob_id id = { 0 };
    int64_t seq = -1, ms = 0;
    int n = PAGE;
    while (n == PAGE) {
        admin_sql(a, "SELECT blob_id, seq, " TRACE_MS("deleted_at") ", by_whom, " TRACE_MS(
                         "undeleted_at") ", undeleted_by FROM undeleted WHERE mailbox_id = $1"
                                         " AND (blob_id, seq, undeleted_at) > ($2, $3, ms_time($4))"
                                         " ORDER BY blob_id, seq, undeleted_at LIMIT $5");
        pg_i64(a->batch, q->mailbox);
        pg_uuid(a->batch, &id);
        pg_i64(a->batch, seq);
        pg_i64(a->batch, ms);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "what was undeleted");
        }
        const PGresult *r = admin_result(a, 0);
        n = PQntuples(r);
        for (int i = 0; i < n; i++) {
            take_undeleted(q, r, i);
            id = pg_get_uuid(r, i, 0);
            seq = pg_get_i64(r, i, 1);
            ms = pg_get_i64(r, i, 4);
        }
    }
    return EX_OK;
}

/* --- the log, first: who logged in, what came and what was deleted -----------------------------
 */

static bool lists_mailbox(const struct question *q, struct span list)
{
    while (list.n > 0) {
        size_t n = span_find(list, ',');
        uint64_t box;
        if (span_u64(span_first(list, n), INT64_MAX, &box) == ERR_OK &&
            (int64_t)box == q->mailbox) {
            return true;
        }
        list = span_skip(list, n + 1);
    }
    return false;
}

/* Wrong ones too, which name no mailbox. */
static void take_login(struct question *q, const struct log_line *l)
{
    struct trace_session one = { .ms = 0 };
    char key[SESSION_KEY];
    trace_session_login(&one, l);
    if (one.mailbox != q->mailbox && strcmp(one.user, q->address) != 0) {
        return;
    }
    struct trace_event *e = trace_add(&q->events, TRACE_LOGIN, l->ms);
    trace_session_key(l, key);
    snprintf(e->peer, sizeof e->peer, "%s", one.peer);
    snprintf(e->key, sizeof e->key, "%s", key);
    e->mailbox = q->mailbox;
    trace_say(e, "%s", one.result);
    if (one.mailbox == q->mailbox) {
        struct trace_session *s = trace_session(&q->sessions, key);
        trace_session_login(s, l);
        e->session = s;
        trace_say(e, ", %llu message%s", (unsigned long long)one.messages,
                  one.messages == 1 ? "" : "s");
    }
}

/* In quarantine the file has another id, and is another's. */
static void take_message(struct question *q, const struct log_line *l)
{
    struct blob_id id;
    uint64_t volume = 0;
    if (blob_id_parse(log_line_word(l, "id"), &id) != ERR_OK ||
        (!summary_find(q, &id) && !lists_mailbox(q, log_line_word(l, "to")))) {
        return;
    }
    struct summary *s = summary(q, &id);
    s->arrived = true;
    log_line_text(l, "from", s->from, sizeof s->from);
    log_line_text(l, "peer", s->peer, sizeof s->peer);
    trace_session_key(l, s->key);
    if (log_line_word(l, "quarantine").n > 0) {
        snprintf(s->result, sizeof s->result, "in quarantine as %.*s",
                 SPAN_ARG(log_line_word(l, "quarantine")));
    } else if (log_line_number(l, "volume", &volume)) {
        s->volume = s->volume ? s->volume : (int64_t)volume;
    } else {
        log_line_text(l, "result", s->result, sizeof s->result);
    }
}

static void take_deleted(struct question *q, const struct log_line *l)
{
    struct span ids = log_line_word(l, "ids");
    char key[SESSION_KEY];
    uint64_t mailbox;
    if (!log_line_number(l, "mailbox", &mailbox) || (int64_t)mailbox != q->mailbox) {
        return;
    }
    trace_session_key(l, key);
    while (ids.n > 0) {
        struct blob_id id;
        size_t n = span_find(ids, ',');
        if (blob_id_parse(span_first(ids, n), &id) == ERR_OK) {
            struct summary *s = summary(q, &id);
            if (l->ms > s->deleted_ms) {
                s->deleted_ms = l->ms;
                snprintf(s->by, sizeof s->by, "pop3 %.74s", key);
            }
        }
        ids = span_skip(ids, n + 1);
    }
}

static void take_first(void *arg, const struct log_line *l)
{
    struct question *q = arg;
    if (log_line_is(l, "pop3.login")) {
        take_login(q, l);
    } else if (log_line_is(l, "message")) {
        take_message(q, l);
    } else if (log_line_is(l, "pop3.deleted")) {
        take_deleted(q, l);
    }
}

/* --- the log, again: what the sessions did -----------------------------------------------------
 */

static void take_again(void *arg, const struct log_line *l)
{
    struct question *q = arg;
    bool retr = log_line_is(l, "pop3.retr");
    struct blob_id id;
    if (!retr && !log_line_is(l, "pop3.session")) {
        return;
    }
    struct trace_session *session = trace_session_of(&q->sessions, l);
    if (!session) {
        return;
    }
    if (!retr) {
        log_line_number(l, "retrieved", &session->retrieved);
        log_line_number(l, "deleted", &session->deleted);
    } else if (blob_id_parse(log_line_word(l, "id"), &id) == ERR_OK) {
        struct summary *s = summary(q, &id);
        s->retrieved++;
        if (l->ms >= s->retrieved_ms) {
            s->retrieved_ms = l->ms;
            snprintf(s->retrieved_by, sizeof s->retrieved_by, "%s", session->peer);
        }
    }
}

/* --- telling --------------------------------------------------------------------------------- */

/* By a session: from which address, if the log has its login. */
static void say_deletion(struct question *q, int64_t ms, const char *by, struct trace_event *e)
{
    char time[32];
    const struct trace_session *session = NULL;
    trace_time(ms, time);
    if (strncmp(by, "pop3 ", 5) == 0) {
        session = trace_session_find(&q->sessions, by + 5);
    }
    if (session) {
        trace_say(e, "deleted %s by QUIT from %s", time, session->peer);
    } else {
        trace_say(e, "deleted %s by %s", time, by);
    }
}

static void say_undeleted(struct question *q, const struct summary *s, struct trace_event *e)
{
    char time[32];
    say_deletion(q, s->was_deleted_ms, s->was_by, e);
    trace_time(s->undeleted_ms, time);
    trace_say(e, ", undeleted %s by %s; ", time, s->undeleted_by);
}

static void say_deleted(struct question *q, const struct summary *s, struct trace_event *e)
{
    char time[32];
    say_deletion(q, s->deleted_ms, s->by, e);
    if (s->unlinked_ms) {
        trace_time(s->unlinked_ms, time);
        trace_say(e, ", unlinked %s", time);
    }
}

static void tell_message(void *thing, void *arg)
{
    struct question *q = arg;
    const struct summary *s = thing;
    char time[32];
    struct trace_event *e = trace_add(&q->events, TRACE_MESSAGE, (int64_t)blob_id_time(&s->id));
    blob_id_text(&s->id, e->id);
    e->mailbox = q->mailbox;
    snprintf(e->peer, sizeof e->peer, "%s", s->peer);
    snprintf(e->key, sizeof e->key, "%s", s->key);
    if (s->arrived) {
        trace_say(e, "from <%s>; ", s->from);
    } else if (s->imported) {
        trace_say(e, "imported from another server; ");
    }
    if (s->retrieved) {
        trace_time(s->retrieved_ms, time);
        trace_say(e, "retrieved %llu time%s, last %s from %s; ", (unsigned long long)s->retrieved,
                  s->retrieved == 1 ? "" : "s", time, s->retrieved_by);
    }
    if (s->undeleted_ms) {
        say_undeleted(q, s, e);
    }
    if (s->stands) {
        trace_say(e, "in the mailbox, on volume %lld", (long long)s->volume);
    } else if (s->deleted_ms) {
        say_deleted(q, s, e);
    } else if (*s->result) {
        trace_say(e, "%s", s->result);
    } else {
        trace_say(e, "no longer in the mailbox; how it went is not remembered");
    }
}

/* What the end of a session says of it. */
static void tell_logins(struct question *q)
{
    for (size_t i = 0; i < q->events.n; i++) {
        struct trace_event *e = &q->events.v[i];
        if (e->kind == TRACE_LOGIN && e->session &&
            e->session->retrieved + e->session->deleted > 0) {
            trace_say(e, "; retrieved %llu, deleted %llu",
                      (unsigned long long)e->session->retrieved,
                      (unsigned long long)e->session->deleted);
        }
    }
}

/* Of an account that is there, or of the last one that was removed and had the address. */
static int find_mailbox(struct question *q)
{
    struct admin *a = q->admin;
    admin_sql(a, "SELECT mailbox_id FROM account WHERE addr = $1");
    pg_text(a->batch, span_str(q->address));
    admin_sql(a, "SELECT mailbox_id FROM removed WHERE addr = $1"
                 " ORDER BY removed_at DESC LIMIT 1");
    pg_text(a->batch, span_str(q->address));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, q->address);
    }
    size_t which = admin_rows(a, 0) > 0 ? 0 : 1;
    if (admin_rows(a, which) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such account", q->address);
    }
    q->mailbox = pg_get_i64(admin_result(a, which), 0, 0);
    trace_names_add(&q->names, q->mailbox);
    return EX_OK;
}

static int collect(struct question *q)
{
    int code = find_mailbox(q);
    if (code == EX_OK) {
        code = ask_pointers(q);
    }
    if (code == EX_OK) {
        code = ask_rows(q, ROWS_OF("ledger", "0::bigint"));
    }
    if (code == EX_OK) {
        code = ask_rows(q, ROWS_OF("ledger_past", TRACE_MS("unlinked_at")));
    }
    if (code == EX_OK) {
        code = ask_undeleted(q);
    }
    if (code == EX_OK) {
        code = trace_names_read(q->admin, &q->names);
    }
    if (code == EX_OK) {
        code = trace_read_log(q->log, q->since_ms, take_first, q);
    }
    return code == EX_OK ? trace_read_log(q->log, q->since_ms, take_again, q) : code;
}

int trace_mailbox(struct admin *a, const struct address *addr, int64_t since_ms,
                  struct log_reader *log)
{
    struct question q = { .admin = a, .address = addr->canon, .since_ms = since_ms, .log = log };
    int code = collect(&q);
    if (code == EX_OK) {
        tree_walk(q.summaries, tell_message, &q);
        tell_logins(&q);
        trace_print(a, &q.events, &q.names, true);
    }
    tree_free(&q.summaries);
    trace_events_free(&q.events);
    trace_sessions_free(&q.sessions);
    free(q.names.v);
    return code;
}
