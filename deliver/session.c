/*
 * session: the only place where the SMTP engine, a conn and the store meet.
 *
 * It owns the conn, the engine, the transaction, and at most one of a request to the store and a
 * delivery that it waits for. Every callback records a fact and calls session_run, which takes
 * steps until one has to wait:
 *
 *   ENGINE   the engine eats input; its action names the next step
 *   INPUT    waits for bytes
 *   FLUSH    waits until the reply is with the kernel
 *   TLS      waits for the handshake
 *   RCPT     waits for the route of a recipient
 *   SPOOL    the delivery has enough for now: waits until it takes more
 *   COMMIT   waits for the outcome of the delivery
 *
 * It knows no byte of the protocol (smtp.c) and no rule of the store.
 */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "route.h"
#include "smtp.h"
#include "trace.h"
#include "transaction.h"

#define LINGER_MS 5000 /* for a last reply that the client is slow to take */
/* A client that sends gets smtp.data_timeout again for each of these many octets. */
#define DATA_TIMEOUT_OCTETS (10u << 20)

enum step { STEP_ENGINE, STEP_INPUT, STEP_FLUSH, STEP_TLS, STEP_RCPT, STEP_SPOOL, STEP_COMMIT };

struct session {
    struct worker_session base;
    struct conn *conn;
    struct smtp *engine;
    enum step step;
    struct op *op;
    struct delivery *delivery;
    struct transaction transaction;
    bool in_data;       /* the deadline is the message's, not the command's */
    bool spool_waiting; /* the delivery asked to wait, and has not yet said that it is ready */
    uint64_t data_octets;
    bool lmtp;
    bool eof; /* the peer sends no more; what it has sent is still answered */
    char peer[NETADDR_TEXT];
    uint64_t accepted, refused;
};

static void session_run(struct session *s);

static const struct config *session_config(const struct session *s)
{
    return s->base.worker->config;
}

static void session_deadline(struct session *s, uint64_t ms)
{
    conn_deadline(s->conn, loop_now(s->base.worker->loop) + ms);
}

/* Sends what is there. The clock of the peer begins anew with each reply, not with each byte. */
static bool session_flush(struct session *s)
{
    if (buf_len(conn_out(s->conn)) > 0 && !s->in_data) {
        session_deadline(s, session_config(s)->smtp_command_timeout);
    }
    return conn_flush(s->conn);
}

static void session_reset(struct session *s)
{
    delivery_abort(&s->delivery);
    transaction_reset(&s->transaction);
    s->in_data = false;
    s->spool_waiting = false;
}

/* --- the end --------------------------------------------------------------------------------- */

static void session_close(struct session *s, const char *reason)
{
    LOG(LOG_INFO, s->lmtp ? "lmtp.session" : "smtp.session", F_STR("sid", s->base.sid),
        F_STR("peer", s->peer), F_SPAN("helo", smtp_helo(s->engine)),
        F_STR("tls", conn_tls_text(s->conn)), F_U64("accepted", s->accepted),
        F_U64("refused", s->refused), F_STR("reason", reason));
    stats_add(STAT_smtp_chunks, smtp_chunks(s->engine));
    session_reset(s);
    op_cancel(&s->op);
    smtp_free(&s->engine);
    worker_session_end(&s->base);
    conn_own(s->conn, NULL, NULL);
    conn_close(&s->conn, LINGER_MS);
    free(s);
}

static void session_go_down(struct session *s)
{
    smtp_shutdown(s->engine, conn_out(s->conn));
    session_close(s, "shutdown");
}

static void session_drain(struct worker_session *base)
{
    struct session *s = CONTAINER_OF(base, struct session, base);
    if (s->step == STEP_INPUT && !s->in_data && s->transaction.n == 0) {
        session_go_down(s); /* no transaction is open */
    }
}

static void session_end(struct worker_session *base)
{
    session_go_down(CONTAINER_OF(base, struct session, base));
}

/* --- answers of the store -------------------------------------------------------------------- */

static void session_go_on(struct session *s)
{
    s->step = STEP_ENGINE;
    session_run(s);
}

static void session_count(struct session *s, enum smtp_verdict v)
{
    if (v == SMTP_OK) {
        return;
    }
    s->refused++;
    bool later = v == SMTP_FAULT || v == SMTP_OVER_QUOTA || v == SMTP_TOO_MANY ||
                 v == SMTP_TOO_FAST || v == SMTP_NO_MEMORY;
    stats_add(later ? STAT_smtp_deferred : STAT_smtp_rejected, 1);
}

static void on_route(void *arg, enum smtp_verdict v, struct route_mailbox **mailboxes, size_t n)
{
    struct session *s = arg;
    s->op = NULL;
    if (v == SMTP_OK && transaction_add(&s->transaction, smtp_rcpt(s->engine), mailboxes, n,
                                        session_config(s)->smtp_max_recipients) != ERR_OK) {
        v = SMTP_TOO_MANY;
    }
    session_count(s, v);
    smtp_rcpt_answer(s->engine, v, conn_out(s->conn));
    session_go_on(s);
}

static void log_message(struct session *s, const struct blob_id *id, enum smtp_verdict v)
{
    char text[BLOB_ID_CHARS + 1];
    blob_id_text(id, text);
    LOG(LOG_INFO, "message", F_STR("sid", s->base.sid), F_STR("id", text),
        F_STR("from", smtp_reverse_path(s->engine)->text), F_U64("mailboxes", s->transaction.n),
        F_U64("octets", s->data_octets), F_STR("result", smtp_verdict_text(v)));
}

/* Answers the end of data: one verdict, or with LMTP one for each RCPT. */
static void answer_end(struct session *s, enum err e, const enum room *room)
{
    size_t n = s->transaction.n_rcpts;
    enum smtp_verdict *v = NEW_ARRAY(enum smtp_verdict, n);
    enum smtp_verdict all = SMTP_OK;
    for (size_t i = 0; i < n; i++) {
        bool told = e == ERR_OK || e == ERR_LIMIT;
        v[i] = told ? transaction_verdict(&s->transaction, i, room) : SMTP_FAULT;
        session_count(s, s->lmtp ? v[i] : SMTP_OK);
        all = all == SMTP_OK ? v[i] : all;
    }
    if (e == ERR_LIMIT && all == SMTP_OK) {
        all = SMTP_FAULT; /* the whole was refused, whoever was full */
    }
    if (e == ERR_OK) {
        s->accepted++;
        stats_add(STAT_smtp_accepted, 1);
    }
    if (!s->lmtp) {
        session_count(s, all);
    }
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(delivery_id(s->delivery), id);
    log_message(s, delivery_id(s->delivery), all);
    if (s->lmtp) {
        smtp_end_answer(s->engine, v, n, span_str(id), conn_out(s->conn));
    } else {
        smtp_end_answer(s->engine, &all, 1, span_str(id), conn_out(s->conn));
    }
    free(v);
}

static void on_delivery(void *arg, enum delivery_event ev, enum err e, const enum room *room,
                        size_t n)
{
    struct session *s = arg;
    (void)n;
    if (ev == DELIVERY_READY) {
        s->spool_waiting = false;
        if (s->step == STEP_SPOOL) {
            session_go_on(s);
        }
        return;
    }
    answer_end(s, e, room);
    s->delivery = NULL; /* gone after return */
    session_reset(s);
    session_go_on(s);
}

/* --- actions of the engine ------------------------------------------------------------------- */

/* `ADDR` and `PORT` as one address; false when it is none. */
static bool read_peer(const struct smtp_xclient *x, struct sockaddr_storage *out)
{
    const char *host = x->value[XCLIENT_ADDR];
    bool v6 = strchr(host, ':');
    char text[2 * NETADDR_TEXT];
    int n = snprintf(text, sizeof text, v6 ? "[%s]:%s" : "%s:%s", host,
                     xclient_has(x, XCLIENT_PORT) ? x->value[XCLIENT_PORT] : "1");
    return n > 0 && (size_t)n < sizeof text && netaddr_parse(text, out) == ERR_OK;
}

/* The client that a relay of ours speaks for is the peer from now on: for logs and limits. */
static bool take_xclient(struct session *s, const struct smtp_xclient *x)
{
    struct sockaddr_storage peer;
    if (!xclient_has(x, XCLIENT_ADDR)) {
        return true;
    }
    if (!read_peer(x, &peer)) {
        return false;
    }
    conn_set_addresses(s->conn, (struct sockaddr *)&peer, conn_local(s->conn));
    netaddr_host(conn_peer(s->conn), s->peer);
    return true;
}

static void begin_rcpt(struct session *s, const struct address *rcpt)
{
    const struct config *cf = session_config(s);
    /* Twice: aliases on the way count here; transaction_add has the bound of mailboxes. */
    struct route_options o = { .hostname = s->base.worker->hostname,
                               .separator = cf->smtp_plus_separator[0],
                               .size = smtp_declared_size(s->engine),
                               .max = 2 * cf->smtp_max_recipients };
    s->step = STEP_RCPT;
    s->op = route_resolve(s->base.worker->store, rcpt, &o, on_route, s);
}

static void append_trace(struct session *s)
{
    struct buf head;
    buf_init(&head, TRACE_MAX);
    const struct address *from = smtp_reverse_path(s->engine);
    struct trace t = { .reverse_path = span_of(from->text, from->len),
                       .helo = smtp_helo(s->engine),
                       .client = span_str(s->peer),
                       .hostname = span_str(s->base.worker->hostname),
                       .tls = span_str(conn_tls_text(s->conn)),
                       .forward_path = span_str(s->transaction.only),
                       .id = delivery_id(s->delivery),
                       .unix_seconds = blob_id_time(delivery_id(s->delivery)) / 1000,
                       .lmtp = s->lmtp,
                       .esmtp = smtp_esmtp(s->engine),
                       .utf8 = smtp_utf8(s->engine) };
    trace_write(&t, &head);
    s->spool_waiting = !delivery_append(s->delivery, buf_span(&head));
    buf_fini(&head);
}

static void begin_data(struct session *s)
{
    const struct address *from = smtp_reverse_path(s->engine);
    enum err e = delivery_open(s->base.worker->store, span_of(from->text, from->len),
                               s->transaction.mailboxes, s->transaction.n, !s->lmtp, on_delivery, s,
                               &s->delivery);
    enum smtp_verdict v = e == ERR_OK ? SMTP_OK : SMTP_FAULT;
    session_count(s, v);
    smtp_data_answer(s->engine, v, conn_out(s->conn));
    if (v != SMTP_OK) {
        session_reset(s);
        return;
    }
    append_trace(s);
    session_flush(s);
    s->in_data = true;
    s->data_octets = 0;
    session_deadline(s, session_config(s)->smtp_data_timeout);
}

/* True: go on. */
static bool take_data(struct session *s, struct span octets)
{
    uint64_t before = s->data_octets / DATA_TIMEOUT_OCTETS;
    s->data_octets += octets.n;
    if (s->data_octets / DATA_TIMEOUT_OCTETS != before) {
        session_deadline(s, session_config(s)->smtp_data_timeout);
    }
    s->spool_waiting = !delivery_append(s->delivery, octets) || s->spool_waiting;
    s->step = s->spool_waiting ? STEP_SPOOL : STEP_ENGINE;
    return !s->spool_waiting;
}

static void begin_commit(struct session *s)
{
    s->step = STEP_COMMIT;
    s->in_data = false;
    conn_deadline(s->conn, 0); /* the store has its own */
    stats_add(STAT_smtp_transactions, 1);
    delivery_commit(s->delivery);
}

static void begin_tls(struct session *s)
{
    s->step = STEP_TLS;
    session_deadline(s, session_config(s)->smtp_command_timeout);
    if (conn_start_tls(s->conn, s->base.worker->tls) != ERR_OK) {
        session_close(s, "plain text behind STARTTLS");
    }
}

/* Does what the engine asks for. True: go on with the step that it set. */
static bool session_act(struct session *s, const struct smtp_action *a)
{
    switch (a->kind) {
    case SMTP_NEED_INPUT:
        session_flush(s);
        s->step = STEP_INPUT;
        return true;
    case SMTP_FLUSH:
        s->step = STEP_FLUSH;
        return true;
    case SMTP_RESET:
        session_reset(s);
        return true;
    case SMTP_XCLIENT:
        smtp_xclient_answer(s->engine, take_xclient(s, a->u.xclient), conn_out(s->conn));
        return true;
    case SMTP_MAIL:
        smtp_mail_answer(s->engine, SMTP_OK, conn_out(s->conn));
        return true;
    case SMTP_DATA_BEGIN:
        begin_data(s);
        return true;
    case SMTP_DATA:
        return take_data(s, a->u.data);
    case SMTP_DATA_END:
        begin_commit(s);
        return false;
    case SMTP_RCPT:
        begin_rcpt(s, a->u.rcpt);
        return false;
    case SMTP_STARTTLS:
        begin_tls(s);
        return false;
    case SMTP_CLOSE:
        session_close(s, smtp_close_text(a->u.close));
        return false;
    }
    UNREACHABLE();
}

/* --- the steps ------------------------------------------------------------------------------- */

static bool step_engine(struct session *s)
{
    struct buf *in = conn_in(s->conn);
    struct span rest = buf_span(in);
    size_t before = rest.n;
    struct smtp_action a = smtp_step(s->engine, &rest, conn_out(s->conn));
    buf_take(in, before - rest.n);
    conn_taken(s->conn);
    return session_act(s, &a);
}

static bool step_input(struct session *s)
{
    if (buf_len(conn_in(s->conn)) > 0) {
        s->step = STEP_ENGINE;
        return true;
    }
    if (s->eof) {
        session_close(s, "connection lost");
    }
    return false;
}

static bool step_flush(struct session *s)
{
    if (!session_flush(s)) {
        return false;
    }
    s->step = STEP_ENGINE;
    return true;
}

static void session_run(struct session *s)
{
    bool go = true;
    while (go) {
        switch (s->step) {
        case STEP_ENGINE:
            go = step_engine(s);
            break;
        case STEP_INPUT:
            go = step_input(s);
            break;
        case STEP_FLUSH:
            go = step_flush(s);
            break;
        default:
            return; /* waits for TLS or the store */
        }
    }
}

/* --- events of the conn ---------------------------------------------------------------------- */

static void on_eof(struct session *s)
{
    s->eof = true;
    if (s->step == STEP_TLS) {
        session_close(s, "TLS handshake failed");
    } else if (s->step == STEP_INPUT) {
        session_run(s);
    } else if (conn_broken(s->conn) && s->step != STEP_COMMIT) {
        session_close(s, "connection lost"); /* but an outcome is logged, even unheard */
    }
}

static void on_timeout(struct session *s)
{
    if (s->step == STEP_COMMIT || s->step == STEP_RCPT) {
        return;
    }
    if (s->step == STEP_INPUT) {
        smtp_timeout(s->engine, conn_out(s->conn));
    }
    session_close(s, "timeout");
}

static void on_conn(void *owner, struct conn *c, enum conn_event ev)
{
    struct session *s = owner;
    (void)c;
    switch (ev) {
    case CONN_DATA:
        if (s->step == STEP_INPUT) {
            session_run(s);
        }
        break;
    case CONN_DRAINED:
        if (s->step == STEP_FLUSH) {
            session_run(s);
        }
        break;
    case CONN_TLS_UP:
        smtp_tls_answer(s->engine);
        session_go_on(s);
        break;
    case CONN_EOF:
        on_eof(s);
        break;
    case CONN_DEADLINE:
        on_timeout(s);
        break;
    case CONN_CLOSED:
        break;
    }
}

/* The setting was checked when it was read. */
static bool may_xclient(const struct config *cf, const struct sockaddr *peer)
{
    struct netset *set;
    const char *bad;
    if (cf->smtp_xclient.n == 0 || netset_parse(&cf->smtp_xclient, &set, &bad) != ERR_OK) {
        return false;
    }
    bool found = netset_has(set, peer);
    netset_free(&set);
    return found;
}

void session_accept(struct worker *w, struct conn *c, int tag, bool refused)
{
    const struct config *cf = w->config;
    struct smtp_options o = { .lmtp = tag == SESSION_LMTP,
                              .tls_offered = w->tls != NULL,
                              .xclient = may_xclient(cf, conn_peer(c)),
                              .normalize_newlines = cf->smtp_bare_newline == BARE_NEWLINE_NORMALIZE,
                              .max_size = cf->smtp_max_size,
                              .max_recipients = (unsigned)cf->smtp_max_recipients,
                              .max_received = (unsigned)cf->smtp_max_received,
                              .max_messages = (unsigned)cf->smtp_max_messages,
                              .max_errors = (unsigned)cf->smtp_max_errors,
                              .hostname = w->hostname };
    if (refused) {
        smtp_refuse(&o, SPAN("too many sessions, try again later"), conn_out(c));
        conn_close(&c, LINGER_MS);
        return;
    }
    struct session *s = NEW(struct session);
    s->conn = c;
    s->lmtp = o.lmtp;
    s->engine = smtp_new(&o);
    netaddr_host(conn_peer(c), s->peer);
    worker_session_begin(&s->base, w, session_drain, session_end);
    smtp_greet(s->engine, conn_out(c));
    conn_own(c, on_conn, s);
    session_run(s); /* in ENGINE, which asks for input and so sends the greeting */
}
