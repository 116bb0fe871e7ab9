/*
 * trace_message: every event of one message, from the log, the database and its file.
 *
 * The log is read twice. First for what names the message, which tells the mailboxes and sessions
 * that matter; then for what these sessions and the logins of these mailboxes were. What both the
 * log and the ledger tell is told once: of a deletion by a session its name and the mailbox are the
 * same in both.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "message_file.h"
#include "trace_parts.h"

#define BOXES_MOST 100 /* in one statement */
#define WHO_MOST   63  /* octets of who did it that a front-end gives the ledger */

/* A way out of one mailbox. */
struct deletion {
    int64_t mailbox, ms;
    enum trace_kind kind;
    char by[SESSION_KEY + 8];   /* as the ledger has it */
    char node_sid[SESSION_KEY]; /* when it was a session's */
    bool ledger, claimed;
    int64_t until_ms;
    int64_t undeleted_ms; /* 0: not known */
    char undeleted_by[64];
};

/* Sessions from one address that had the message in their list. */
struct listing {
    int64_t mailbox, first_ms, last_ms;
    char peer[64];
    char key[SESSION_KEY]; /* the first */
    char user[256];
    uint64_t messages, sessions;
};

struct question {
    struct admin *admin;
    struct blob_id id;
    char text[BLOB_ID_CHARS + 1];
    int64_t since_ms, arrived_ms;
    struct log_reader *log;
    struct message_file file;
    struct trace_events events;
    struct trace_sessions sessions;
    struct trace_names names;
    char received_by[SESSION_KEY]; /* the delivery's session; empty: the log does not tell */
    char helo[256];
    char to[257];  /* its mailboxes, as the log has them */
    uint64_t more; /* that are not in it */
    struct deletion *deletions;
    size_t n_deletions;
    struct listing *listings;
    size_t n_listings;
    int64_t *standing; /* mailboxes that list it */
    size_t n_standing;
    bool unlinked_logged;
};

static struct deletion *add_deletion(struct question *q, int64_t mailbox, int64_t ms)
{
    q->deletions = mem_grow(q->deletions, q->n_deletions + 1, sizeof *q->deletions);
    q->deletions[q->n_deletions] =
        (struct deletion){ .mailbox = mailbox, .ms = ms, .kind = TRACE_DELETED };
    trace_names_add(&q->names, mailbox);
    return &q->deletions[q->n_deletions++];
}

/* --- the log, first: what names the message --------------------------------------------------- */

/* NUMBER,NUMBER,... */
static void add_boxes(struct question *q, struct span list)
{
    while (list.n > 0) {
        size_t n = span_find(list, ',');
        uint64_t box;
        if (span_u64(span_first(list, n), INT64_MAX, &box) == ERR_OK) {
            trace_names_add(&q->names, (int64_t)box);
        }
        list = span_skip(list, n + 1);
    }
}

static void say_path(const struct question *q, int64_t volume, struct trace_event *e)
{
    const struct message_place *p = message_file_place(&q->file, volume);
    trace_say(e, "volume %lld%s%s", (long long)volume, p ? ": " : "", p ? p->path : "");
}

/* How it came in, and what became of that. */
static void take_message(struct question *q, const struct log_line *l)
{
    char from[600], result[64], peer[64], key[SESSION_KEY];
    uint64_t octets = 0, volume = 0, rcpts = 0;
    bool quarantined = span_eq(log_line_word(l, "quarantine"), span_str(q->text));
    trace_session_key(l, key);
    log_line_text(l, "from", from, sizeof from);
    log_line_text(l, "result", result, sizeof result);
    log_line_text(l, "peer", peer, sizeof peer);
    log_line_number(l, "octets", &octets);
    log_line_number(l, "rcpts", &rcpts);
    struct trace_event *e = trace_add(&q->events, TRACE_RECEIVED, q->arrived_ms);
    snprintf(e->key, sizeof e->key, "%s", key);
    snprintf(e->peer, sizeof e->peer, "%s", peer);
    trace_say(e, "from <%s>, %llu recipient%s", from, (unsigned long long)rcpts,
              rcpts == 1 ? "" : "s");
    snprintf(q->received_by, sizeof q->received_by, "%s", key);
    trace_session(&q->sessions, key);
    bool stored = log_line_number(l, "volume", &volume);
    e = trace_add(&q->events, stored ? TRACE_STORED : TRACE_REFUSED, l->ms);
    snprintf(e->key, sizeof e->key, "%s", key);
    if (!stored) {
        trace_say(e, "not accepted: %s", result);
        return;
    }
    say_path(q, (int64_t)volume, e);
    trace_say(e, ", %llu octets", (unsigned long long)octets);
    if (quarantined) {
        trace_say(e, ", in quarantine in place of %.*s", SPAN_ARG(log_line_word(l, "id")));
        return;
    }
    struct span other = log_line_word(l, "quarantine");
    if (other.n > 0) {
        trace_say(e, ", in quarantine as %.*s", SPAN_ARG(other));
        return;
    }
    log_line_text(l, "to", q->to, sizeof q->to);
    log_line_number(l, "more", &q->more);
    add_boxes(q, span_str(q->to));
}

static void take_verdict(struct question *q, const struct log_line *l)
{
    char milter[128], verdict[64], text[300];
    log_line_text(l, "milter", milter, sizeof milter);
    log_line_text(l, "verdict", verdict, sizeof verdict);
    log_line_text(l, "text", text, sizeof text);
    struct trace_event *e = trace_add(&q->events, TRACE_FILTERED, l->ms);
    trace_session_key(l, e->key);
    trace_say(e, "%s by %s%s%s", verdict, milter, *text ? ": " : "", text);
}

static void take_retr(struct question *q, const struct log_line *l)
{
    char key[SESSION_KEY];
    uint64_t octets = 0;
    struct trace_event *e = trace_add(&q->events, TRACE_RETRIEVED, l->ms);
    trace_session_key(l, key);
    log_line_number(l, "octets", &octets);
    e->session = trace_session(&q->sessions, key);
    trace_say(e, "%llu octets, %s", (unsigned long long)octets,
              span_eq(log_line_word(l, "whole"), SPAN("yes")) ? "all of it" : "not all of it");
}

static bool names_id(struct span list, const char *id)
{
    while (list.n > 0) {
        size_t n = span_find(list, ',');
        if (span_eq(span_first(list, n), span_str(id))) {
            return true;
        }
        list = span_skip(list, n + 1);
    }
    return false;
}

static void take_deleted(struct question *q, const struct log_line *l)
{
    uint64_t mailbox;
    if (!names_id(log_line_word(l, "ids"), q->text) || !log_line_number(l, "mailbox", &mailbox)) {
        return;
    }
    struct deletion *d = add_deletion(q, (int64_t)mailbox, l->ms);
    trace_session_key(l, d->node_sid);
    trace_session(&q->sessions, d->node_sid);
    snprintf(d->by, sizeof d->by, "pop3 %s", d->node_sid);
}

static void take_unlinked(struct question *q, const struct log_line *l)
{
    uint64_t volume = 0;
    struct trace_event *e = trace_add(&q->events, TRACE_UNLINKED, l->ms);
    log_line_number(l, "volume", &volume);
    trace_session_key(l, e->key);
    trace_say(e, "its file on ");
    say_path(q, (int64_t)volume, e);
    q->unlinked_logged = true;
}

/* Another line that names it: as it is. */
static void take_other(struct question *q, const struct log_line *l)
{
    struct trace_event *e = trace_add(&q->events, TRACE_OTHER, l->ms);
    trace_session_key(l, e->key);
    trace_say(e, "%.*s", SPAN_ARG(l->event));
    for (size_t i = 0; i < l->n; i++) {
        if (!span_eq(l->fields[i].key, SPAN("id")) && !span_eq(l->fields[i].key, SPAN("node")) &&
            !span_eq(l->fields[i].key, SPAN("sid"))) {
            trace_say(e, " %.*s=%.*s", SPAN_ARG(l->fields[i].key), SPAN_ARG(l->fields[i].value));
        }
    }
}

static void take_first(void *arg, const struct log_line *l)
{
    struct question *q = arg;
    if (log_line_is(l, "pop3.deleted")) {
        take_deleted(q, l);
        return;
    }
    if (!span_eq(log_line_word(l, "id"), span_str(q->text)) &&
        !span_eq(log_line_word(l, "quarantine"), span_str(q->text))) {
        return;
    }
    if (log_line_is(l, "message")) {
        take_message(q, l);
    } else if (log_line_is(l, "filter.verdict")) {
        take_verdict(q, l);
    } else if (log_line_is(l, "pop3.retr")) {
        take_retr(q, l);
    } else if (log_line_is(l, "reap.unlinked")) {
        take_unlinked(q, l);
    } else {
        take_other(q, l);
    }
}

/* --- the log, again: whose sessions they were, and who listed it ------------------------------ */

/* Whether the mailbox listed it then, as far as is known: from its arrival to its deletion. */
static bool was_listed(const struct question *q, int64_t mailbox, int64_t ms)
{
    bool deleted = false;
    if (ms < q->arrived_ms || !trace_names_find(&q->names, mailbox)) {
        return false;
    }
    for (size_t i = 0; i < q->n_deletions; i++) {
        deleted = deleted || (q->deletions[i].mailbox == mailbox && q->deletions[i].ms <= ms);
    }
    return !deleted;
}

static void take_listing(struct question *q, const struct log_line *l)
{
    struct trace_session s = { .ms = 0 };
    struct listing *x = NULL;
    trace_session_login(&s, l);
    if (s.messages == 0 || strcmp(s.result, "ok") != 0 || !was_listed(q, s.mailbox, l->ms)) {
        return;
    }
    for (size_t i = 0; i < q->n_listings && !x; i++) {
        if (q->listings[i].mailbox == s.mailbox && strcmp(q->listings[i].peer, s.peer) == 0) {
            x = &q->listings[i];
        }
    }
    if (!x) {
        q->listings = mem_grow(q->listings, q->n_listings + 1, sizeof *q->listings);
        x = &q->listings[q->n_listings++];
        *x = (struct listing){ .mailbox = s.mailbox, .first_ms = INT64_MAX };
        snprintf(x->peer, sizeof x->peer, "%s", s.peer);
    }
    x->sessions++;
    x->last_ms = l->ms > x->last_ms ? l->ms : x->last_ms;
    if (l->ms < x->first_ms) {
        x->first_ms = l->ms;
        x->messages = s.messages;
        trace_session_key(l, x->key);
        snprintf(x->user, sizeof x->user, "%s", s.user);
    }
}

static void take_again(void *arg, const struct log_line *l)
{
    struct question *q = arg;
    if (log_line_is(l, "pop3.login")) {
        struct trace_session *s = trace_session_of(&q->sessions, l);
        if (s && span_eq(log_line_word(l, "result"), SPAN("ok"))) {
            trace_session_login(s, l);
        }
        take_listing(q, l);
    } else if (*q->received_by && trace_session_of(&q->sessions, l)) {
        char key[SESSION_KEY], why[300], milter[128];
        trace_session_key(l, key);
        if (strcmp(key, q->received_by) != 0) {
            return;
        }
        if (log_line_is(l, "filter.failed")) {
            struct trace_event *e = trace_add(&q->events, TRACE_FILTERED, l->ms);
            log_line_text(l, "milter", milter, sizeof milter);
            log_line_text(l, "why", why, sizeof why);
            snprintf(e->key, sizeof e->key, "%s", key);
            trace_say(e, "%s failed: %s", milter, why);
        } else if (log_line_is(l, "smtp.session") || log_line_is(l, "lmtp.session")) {
            log_line_text(l, "helo", q->helo, sizeof q->helo);
        }
    }
}

/* --- the database ---------------------------------------------------------------------------- */

/* The same as the log has told already? */
static struct deletion *find_deletion(struct question *q, int64_t mailbox, const char *by)
{
    for (size_t i = 0; i < q->n_deletions; i++) {
        if (q->deletions[i].mailbox == mailbox && !q->deletions[i].ledger &&
            strncmp(q->deletions[i].by, by, WHO_MOST) == 0) {
            return &q->deletions[i];
        }
    }
    return NULL;
}

/* Its file has gone. Of a shared file each row tells so, and the last of them was its end. */
static void take_end(struct question *q, int64_t volume, int64_t ms)
{
    const struct message_place *p = message_file_place(&q->file, volume);
    if (q->unlinked_logged || (p && (p->stands || !p->looked))) {
        return;
    }
    for (size_t i = 0; i < q->events.n; i++) {
        struct trace_event *e = &q->events.v[i];
        if (e->kind == TRACE_UNLINKED && e->volume == volume) {
            e->ms = ms > e->ms ? ms : e->ms;
            return;
        }
    }
    struct trace_event *e = trace_add(&q->events, TRACE_UNLINKED, ms);
    e->volume = volume;
    trace_say(e, "its file on ");
    say_path(q, volume, e);
}

static enum trace_kind kind_of(int64_t mailbox, int64_t seq, const char *by)
{
    bool superseded = strcmp(by, "imported by its UIDL") == 0; /* listed, but never to come back */
    return mailbox == 0 || (seq == 0 && !superseded) ? TRACE_GIVEN_UP
           : strcmp(by, "expired") == 0              ? TRACE_EXPIRED
                                                     : TRACE_DELETED;
}

/* The one that is the ledger's, or the log's; else a new one. */
static struct deletion *deletion_of(struct question *q, const PGresult *r, int i)
{
    char by[SESSION_KEY];
    int64_t mailbox = pg_get_i64(r, i, 0), seq = pg_get_i64(r, i, 1), ms = pg_get_i64(r, i, 3);
    snprintf(by, sizeof by, "%.*s", SPAN_ARG(pg_get_span(r, i, 4)));
    struct deletion *d = find_deletion(q, mailbox, by);
    if (!d) {
        d = add_deletion(q, mailbox, ms);
        snprintf(d->by, sizeof d->by, "%s", by);
        if (strncmp(by, "pop3 ", 5) == 0) {
            snprintf(d->node_sid, sizeof d->node_sid, "%s", by + 5);
            trace_session(&q->sessions, d->node_sid);
        }
        d->kind = kind_of(mailbox, seq, by);
    }
    d->ledger = true;
    return d;
}

static void take_row(struct question *q, const PGresult *r, int i, bool past)
{
    struct deletion *d = deletion_of(q, r, i);
    d->claimed = past || pg_get_i64(r, i, 5) != 0;
    d->until_ms = past ? 0 : pg_get_i64(r, i, 6);
    if (past) {
        take_end(q, pg_get_i64(r, i, 2), pg_get_i64(r, i, 6));
    }
}

static int ask_undeleted(struct question *q)
{
    struct admin *a = q->admin;
    admin_sql(a, "SELECT mailbox_id, seq, 0, " TRACE_MS("deleted_at") ", by_whom, " TRACE_MS(
                     "undeleted_at") ", undeleted_by FROM undeleted WHERE blob_id = $1"
                                     " ORDER BY deleted_at");
    pg_uuid(a->batch, &q->id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "what was undeleted");
    }
    const PGresult *r = admin_result(a, 0);
    for (int i = 0; i < PQntuples(r); i++) {
        struct deletion *d = deletion_of(q, r, i);
        d->undeleted_ms = pg_get_i64(r, i, 5);
        snprintf(d->undeleted_by, sizeof d->undeleted_by, "%.*s", SPAN_ARG(pg_get_span(r, i, 6)));
    }
    return EX_OK;
}

static int ask_ledger(struct question *q)
{
    struct admin *a = q->admin;
    admin_sql(a, "SELECT mailbox_id, seq, volume_id, " TRACE_MS(
                     "deleted_at") ", by_whom,"
                                   " claimed_at IS NOT NULL, " TRACE_MS(
                                       "unlink_after") " FROM ledger"
                                                       " WHERE blob_id = $1 ORDER BY deleted_at");
    pg_uuid(a->batch, &q->id);
    admin_sql(a, "SELECT mailbox_id, seq, volume_id, " TRACE_MS(
                     "deleted_at") ", by_whom,"
                                   " true, " TRACE_MS(
                                       "unlinked_at") " FROM ledger_past"
                                                      " WHERE blob_id = $1 ORDER BY deleted_at");
    pg_uuid(a->batch, &q->id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "ledger");
    }
    const PGresult *now = admin_result(a, 0), *past = admin_result(a, 1);
    for (int i = 0; i < PQntuples(now); i++) {
        take_row(q, now, i, false);
    }
    for (int i = 0; i < PQntuples(past); i++) {
        take_row(q, past, i, true);
    }
    return EX_OK;
}

static void take_pointer(struct question *q, const PGresult *r, int i)
{
    int64_t volume = pg_get_i64(r, i, 1);
    const struct message_place *p = message_file_place(&q->file, volume);
    struct trace_event *e = trace_add(&q->events, TRACE_STANDS, admin_now());
    e->mailbox = pg_get_i64(r, i, 0);
    trace_say(e, "in its mailbox; ");
    say_path(q, volume, e);
    if (!p || !p->looked) {
        trace_say(e, ", which can't be looked at");
    } else if (!p->stands) {
        trace_say(e, ", where its file is not: see mailfleet ledger %s", q->text);
    }
    q->standing = mem_grow(q->standing, q->n_standing + 1, sizeof *q->standing);
    q->standing[q->n_standing++] = e->mailbox;
}

static int ask_pointers(struct question *q)
{
    struct admin *a = q->admin;
    int64_t boxes[BOXES_MOST];
    for (size_t at = 0; at < q->names.n;) {
        size_t n = 0;
        while (n < BOXES_MOST && at < q->names.n) {
            boxes[n++] = q->names.v[at++].mailbox;
        }
        admin_sql(a, "SELECT mailbox_id, volume_id FROM message"
                     " WHERE mailbox_id = ANY ($1) AND blob_id = $2");
        pg_i64s(a->batch, boxes, n);
        pg_uuid(a->batch, &q->id);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "pointers");
        }
        for (int i = 0; i < admin_rows(a, 0); i++) {
            take_pointer(q, admin_result(a, 0), i);
        }
    }
    return EX_OK;
}

/* --- what follows from it --------------------------------------------------------------------- */

/* Behind what is said of where it was stored. */
static void name_recipients(const struct question *q, struct trace_event *e)
{
    struct span list = span_str(q->to);
    const char *between = "; for ";
    for (size_t i = 0; list.n > 0 || (!*q->to && i < q->file.n_mailboxes); i++) {
        uint64_t box = *q->to ? 0 : (uint64_t)q->file.mailboxes[i];
        if (*q->to) {
            size_t n = span_find(list, ',');
            (void)span_u64(span_first(list, n), INT64_MAX, &box);
            list = span_skip(list, n + 1);
        }
        const struct trace_name *name = trace_names_find(&q->names, (int64_t)box);
        if (name && *name->address) {
            trace_say(e, "%s%s", between, name->address);
        } else {
            trace_say(e, "%smailbox %llu", between, (unsigned long long)box);
        }
        between = ", ";
    }
    if (q->more > 0) {
        trace_say(e, " and %llu more", (unsigned long long)q->more);
    }
}

/* Without a log, or when it has been rotated away: what the file says of itself. */
static void arrival_by_file(struct question *q)
{
    struct trace_event *e = trace_add(&q->events, TRACE_RECEIVED, q->arrived_ms);
    if (*q->file.uidl) {
        trace_say(e, "by an import from another server, where it had the UIDL %s, as its file says",
                  q->file.uidl);
    } else {
        trace_say(e, "from <%s>, as its file says", q->file.reverse_path);
    }
    const struct message_place *p = message_file_any(&q->file);
    if (p && q->file.complete) {
        e = trace_add(&q->events, TRACE_STORED, q->arrived_ms);
        say_path(q, p->volume, e);
        trace_say(e, ", %llu octets, as its file says", (unsigned long long)q->file.octets);
    }
}

static void tell_arrival(struct question *q)
{
    if (!*q->received_by && q->file.envelope) {
        arrival_by_file(q);
    }
    for (size_t i = 0; i < q->events.n; i++) {
        struct trace_event *e = &q->events.v[i];
        if (e->kind == TRACE_RECEIVED && *q->helo) {
            trace_say(e, ", by a client that called itself %s", q->helo);
        } else if (e->kind == TRACE_STORED) {
            name_recipients(q, e);
        }
    }
}

static void tell_listings(struct question *q)
{
    for (size_t i = 0; i < q->n_listings; i++) {
        const struct listing *x = &q->listings[i];
        char last[32];
        struct trace_event *e = trace_add(&q->events, TRACE_LISTED, x->first_ms);
        struct trace_session *s = trace_session(&q->sessions, x->key);
        if (!s->ms) {
            snprintf(s->user, sizeof s->user, "%s", x->user);
            snprintf(s->peer, sizeof s->peer, "%s", x->peer);
            s->ms = x->first_ms;
        }
        e->session = s;
        e->mailbox = x->mailbox;
        trace_say(e, "by a login, among %llu message%s", (unsigned long long)x->messages,
                  x->messages == 1 ? "" : "s");
        if (x->sessions > 1) {
            trace_time(x->last_ms, last);
            trace_say(e, "; from there %llu more times until %s",
                      (unsigned long long)x->sessions - 1, last);
        }
    }
}

static void tell_deletion(struct question *q, const struct deletion *d)
{
    char until[32];
    struct trace_event *e = trace_add(&q->events, d->kind, d->ms);
    e->mailbox = d->mailbox;
    if (*d->node_sid) {
        e->session = trace_session(&q->sessions, d->node_sid);
        trace_say(e, "by QUIT");
    } else if (d->kind == TRACE_EXPIRED) {
        trace_say(e, "as its mailbox keeps nothing longer");
    } else {
        trace_say(e, "by %s", d->by);
    }
    if (d->until_ms && !d->claimed && d->kind != TRACE_GIVEN_UP) {
        trace_time(d->until_ms, until);
        trace_say(e, "; can come back until %s", until);
    }
}

static int by_mailbox_and_time(const void *a, const void *b)
{
    const struct deletion *x = a, *y = b;
    if (x->mailbox != y->mailbox) {
        return x->mailbox < y->mailbox ? -1 : 1;
    }
    return (x->ms > y->ms) - (x->ms < y->ms);
}

static bool stands_in(const struct question *q, int64_t mailbox)
{
    for (size_t i = 0; i < q->n_standing; i++) {
        if (q->standing[i] == mailbox) {
            return true;
        }
    }
    return false;
}

/* What was deleted and is there, or was deleted again, has come back, be it remembered or not. */
static void tell_deletions(struct question *q)
{
    if (q->n_deletions > 0) {
        qsort(q->deletions, q->n_deletions, sizeof *q->deletions, by_mailbox_and_time);
    }
    for (size_t i = 0; i < q->n_deletions; i++) {
        const struct deletion *d = &q->deletions[i];
        bool again = i + 1 < q->n_deletions && q->deletions[i + 1].mailbox == d->mailbox;
        tell_deletion(q, d);
        if (d->undeleted_ms) {
            struct trace_event *e = trace_add(&q->events, TRACE_UNDELETED, d->undeleted_ms);
            e->mailbox = d->mailbox;
            trace_say(e, "by %s", d->undeleted_by);
        } else if (again || stands_in(q, d->mailbox)) {
            struct trace_event *e = trace_add(&q->events, TRACE_UNDELETED, d->ms);
            e->mailbox = d->mailbox;
            e->undated = true;
            trace_say(e, "some time later: it was there again");
        }
    }
}

static void tell_removals(struct question *q)
{
    for (size_t i = 0; i < q->names.n; i++) {
        const struct trace_name *n = &q->names.v[i];
        if (n->removed_ms) {
            struct trace_event *e = trace_add(&q->events, TRACE_REMOVED, n->removed_ms);
            e->mailbox = n->mailbox;
            trace_say(e, "by %s", n->removed_by);
        }
    }
}

static int collect(struct question *q)
{
    int code = message_file_find(q->admin, &q->id, &q->file);
    if (code != EX_OK) {
        return code;
    }
    for (size_t i = 0; i < q->file.n_mailboxes; i++) {
        trace_names_add(&q->names, q->file.mailboxes[i]);
    }
    code = trace_read_log(q->log, q->since_ms, take_first, q);
    if (code == EX_OK) {
        code = ask_undeleted(q);
    }
    if (code == EX_OK) {
        code = ask_ledger(q);
    }
    if (code == EX_OK) {
        code = ask_pointers(q);
    }
    if (code == EX_OK) {
        code = trace_names_read(q->admin, &q->names);
    }
    return code == EX_OK ? trace_read_log(q->log, q->since_ms, take_again, q) : code;
}

static int tell(struct question *q)
{
    tell_arrival(q);
    tell_listings(q);
    tell_deletions(q);
    if (q->events.n > 0) {
        tell_removals(q);
    }
    if (q->events.n == 0) {
        if (q->admin->json) {
            trace_print(q->admin, &q->events, &q->names, false);
        }
        const struct message_place *away = message_file_unseen(&q->file);
        return away ? admin_fail(EX_TEMPFAIL,
                                 "%s: nothing is known, and volume %u can't be looked "
                                 "at: %s",
                                 q->text, away->volume, away->why)
                    : admin_fail(EX_NOUSER, "%s: nothing is known of such a message%s", q->text,
                                 q->log ? "" : "; --log looks into logs");
    }
    trace_print(q->admin, &q->events, &q->names, false);
    return EX_OK;
}

int trace_message(struct admin *a, const struct blob_id *id, int64_t since_ms,
                  struct log_reader *log)
{
    struct question q = { .admin = a,
                          .id = *id,
                          .since_ms = since_ms,
                          .arrived_ms = (int64_t)blob_id_time(id),
                          .log = log };
    blob_id_text(id, q.text);
    int code = collect(&q);
    if (code == EX_OK) {
        code = tell(&q);
    }
    message_file_free(&q.file);
    trace_events_free(&q.events);
    free(q.names.v);
    free(q.deletions);
    free(q.listings);
    free(q.standing);
    trace_sessions_free(&q.sessions);
    return code;
}
