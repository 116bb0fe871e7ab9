/*
 * session: the only place where the SMTP engine, a conn and the store meet.
 *
 * It owns the conn, the engine, the transaction, the milters' ear for it, and at most one of a
 * request to the store and a message on its way in (intake). Every callback records a fact and
 * calls session_run, which takes steps until one has to wait:
 *
 *   ENGINE   the engine eats input; its action names the next step
 *   INPUT    waits for bytes
 *   FLUSH    waits until the reply is with the kernel
 *   TARPIT   a refusal is held back for a while
 *   TLS      waits for the handshake
 *   LISTING  waits for what block lists say of the client, at its first recipient
 *   RCPT     waits for the route of a recipient
 *   FILTER   waits for the milters' word on what was asked
 *   SPOOL    the spool has enough for now: waits until it takes more
 *   COMMIT   waits for the outcome of the message
 *
 * It knows no byte of the protocol (smtp.c) and no rule of the store.
 */
#include "session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "gate.h"
#include "intake.h"
#include "route.h"
#include "smtp.h"
#include "transaction.h"

#define TARPIT_MOST_MS 30000 /* of one reply */
#define LINGER_MS      5000  /* for a last reply that the client is slow to take */
#define TO_MOST        20    /* mailboxes that a log line has, */
#define TO_SIZE        256   /* if so many fit: a value there is not longer */
/* A client that sends gets smtp.data_timeout again for each of these many octets. */
#define DATA_TIMEOUT_OCTETS (10u << 20)

enum step {
    STEP_ENGINE,
    STEP_INPUT,
    STEP_FLUSH,
    STEP_TARPIT,
    STEP_TLS,
    STEP_LISTING,
    STEP_RCPT,
    STEP_FILTER,
    STEP_SPOOL,
    STEP_COMMIT
};

struct session {
    struct worker_session base;
    struct conn *conn;
    struct smtp *engine;
    enum step step;
    enum smtp_action_kind asked; /* in FILTER: what the engine waits for */
    struct op *op;
    struct op *listing; /* what block lists say of the client is still to come */
    char listed[256];   /* the zone that names it, cut; empty: none */
    struct filter *filter;
    struct intake *intake;
    struct transaction transaction;
    struct route_mailbox *routed; /* of the open RCPT, while milters are asked */
    size_t n_routed;
    unsigned errors;      /* of the engine, when the last reply was sent */
    unsigned custom_code; /* of the last FILTERED */
    unsigned guesses;     /* how often the client's network has reached its limit of them */
    bool in_data;         /* the deadline is the message's, not the command's */
    bool spool_waiting;   /* the delivery asked to wait, and has not yet said that it is ready */
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

static void drop_routed(struct session *s)
{
    route_free(&s->routed, s->n_routed);
    s->routed = NULL;
    s->n_routed = 0;
}

static void session_reset(struct session *s)
{
    intake_abort(&s->intake);
    transaction_reset(&s->transaction);
    drop_routed(s);
    if (s->filter) {
        filter_reset(s->filter);
    }
    s->in_data = false;
    s->spool_waiting = false;
}

/* --- the end --------------------------------------------------------------------------------- */

/* The balancer's name of the connection is the last one, as most have none. */
static void log_session(const struct session *s, const char *reason)
{
    const char *proxy_id = conn_unique_id(s->conn);
    const struct log_field fields[] = { F_STR("sid", s->base.sid),
                                        F_STR("peer", s->peer),
                                        F_SPAN("helo", smtp_helo(s->engine)),
                                        F_STR("tls", conn_tls_text(s->conn)),
                                        F_U64("accepted", s->accepted),
                                        F_U64("refused", s->refused),
                                        F_STR("reason", reason),
                                        F_STR("proxy_id", proxy_id) };
    if (log_enabled(LOG_INFO)) {
        log_write(LOG_INFO, s->lmtp ? "lmtp.session" : "smtp.session", fields,
                  ARRAY_LEN(fields) - (*proxy_id == '\0'));
    }
}

static void session_close(struct session *s, const char *reason)
{
    log_session(s, reason);
    stats_add(STAT_smtp_chunks, smtp_chunks(s->engine));
    session_reset(s);
    filter_close(&s->filter);
    op_cancel(&s->listing);
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
    if (v == SMTP_OK || v == SMTP_DISCARDED) {
        return;
    }
    s->refused++;
    bool later = (v == SMTP_FILTERED && s->custom_code < 500) || v == SMTP_FAULT ||
                 v == SMTP_OVER_QUOTA || v == SMTP_DOMAIN_FULL || v == SMTP_TOO_MANY ||
                 v == SMTP_TOO_FAST || v == SMTP_NO_MEMORY;
    stats_add(later ? STAT_smtp_deferred : STAT_smtp_rejected, 1);
}

/* The words of a FILTERED that follows. */
static void set_reply(struct session *s, unsigned code, struct span enhanced, struct span text)
{
    s->custom_code = code;
    smtp_custom_reply(s->engine, code, enhanced, text);
}

/* What who is full answers, as quota.full says. */
static enum smtp_verdict by_quota_full(const struct session *s, enum smtp_verdict v)
{
    if (session_config(s)->quota_full == QUOTA_FULL_REJECT) {
        v = v == SMTP_OVER_QUOTA    ? SMTP_QUOTA_REJECT
            : v == SMTP_DOMAIN_FULL ? SMTP_DOMAIN_REJECT
                                    : v;
    }
    return v;
}

/* The answer to the open RCPT, and the end of what was routed for it. */
static void answer_rcpt(struct session *s, enum smtp_verdict v)
{
    v = by_quota_full(s, v);
    if (v == SMTP_OK &&
        transaction_add(&s->transaction, smtp_rcpt(s->engine), &s->routed, s->n_routed,
                        session_config(s)->smtp_max_recipients) != ERR_OK) {
        v = SMTP_TOO_MANY;
    }
    if (v == SMTP_OK && !s->lmtp) {
        throttle_known(s->base.worker->throttle, conn_peer(s->conn),
                       loop_now(s->base.worker->loop));
    }
    drop_routed(s);
    session_count(s, v);
    smtp_rcpt_answer(s->engine, v, conn_out(s->conn));
    session_go_on(s);
}

/* Whose network tries names is slowed down, and turned away when he goes on himself. */
static enum smtp_verdict count_guess(struct session *s)
{
    struct worker *w = s->base.worker;
    if (s->lmtp) {
        return SMTP_UNKNOWN;
    }
    enum throttle_verdict v =
        throttle_guess(w->throttle, conn_peer(s->conn), loop_now(w->loop), &s->guesses);
    stats_add(STAT_limit_guesses, v != THROTTLE_OK || s->guesses > 0);
    if (v == THROTTLE_OK) {
        return SMTP_UNKNOWN;
    }
    set_reply(s, 421, SPAN("4.7.0"), SPAN("Too many unknown recipients"));
    return SMTP_FILTERED;
}

static void on_route(void *arg, enum smtp_verdict v, struct route_mailbox **mailboxes, size_t n)
{
    struct session *s = arg;
    s->op = NULL;
    if (v != SMTP_OK) {
        answer_rcpt(s, v == SMTP_UNKNOWN ? count_guess(s) : v);
        return;
    }
    s->routed = *mailboxes;
    s->n_routed = n;
    *mailboxes = NULL;
    if (!s->filter) {
        answer_rcpt(s, SMTP_OK);
        return;
    }
    const struct address *rcpt = smtp_rcpt(s->engine);
    s->step = STEP_FILTER;
    s->asked = SMTP_RCPT;
    filter_rcpt(s->filter, span_of(rcpt->text, rcpt->len));
}

/* The first mailboxes that got it, or would have: NUMBER,NUMBER,... Returns how many are not in. */
static uint64_t list_mailboxes(const struct session *s, const enum room *room, char out[TO_SIZE])
{
    const struct transaction *t = &s->transaction;
    uint64_t listed = 0, more = 0;
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < t->n; i++) {
        char number[24];
        if (room && room[i] != ROOM_OK) {
            continue;
        }
        size_t len = (size_t)snprintf(number, sizeof number, "%s%" PRIu64, n ? "," : "",
                                      t->mailboxes[i].mailbox_id);
        if (listed < TO_MOST && more == 0 && n + len < TO_SIZE) {
            memcpy(out + n, number, len + 1);
            n += len;
            listed++;
        } else {
            more++;
        }
    }
    return more;
}

/* Fields that not every line has are at the end. */
static void log_message(struct session *s, const struct intake_result *r, enum smtp_verdict v)
{
    char id[BLOB_ID_CHARS + 1], stored[BLOB_ID_CHARS + 1] = "", to[TO_SIZE];
    if (!log_enabled(LOG_INFO)) {
        return;
    }
    blob_id_text(intake_id(s->intake), id);
    uint64_t more = list_mailboxes(s, r->stored ? r->room : NULL, to);
    struct log_field f[16] = { F_STR("sid", s->base.sid),
                               F_STR("id", id),
                               F_STR("peer", s->peer),
                               F_STR("from", smtp_reverse_path(s->engine)->text),
                               F_U64("rcpts", s->transaction.n_rcpts),
                               F_U64("mailboxes", s->transaction.n),
                               F_U64("octets", s->data_octets),
                               F_STR("result", smtp_verdict_text(v)),
                               F_STR("to", to) };
    size_t n = 9;
    if (more > 0) {
        f[n++] = F_U64("more", more);
    }
    if (r->stored) {
        f[n++] = F_U64("volume", r->volume);
    }
    if (r->stored && !blob_id_eq(r->stored, intake_id(s->intake))) { /* in quarantine */
        blob_id_text(r->stored, stored);
        f[n++] = F_STR("quarantine", stored);
    }
    log_write(LOG_INFO, "message", f, n);
}

/*
 * The one reply of SMTP is for all recipients: a rejection would bounce the message of those who
 * have room as well. So they are asked to come again, and RCPT then rejects the full one alone.
 */
static enum smtp_verdict by_quota_full_at_end(const struct session *s, enum smtp_verdict v)
{
    return s->lmtp || s->transaction.n_rcpts == 1 ? by_quota_full(s, v) : v;
}

/* What the delivery came to: one verdict, or with LMTP one for each RCPT. */
static void answer_end(struct session *s, const struct intake_result *r)
{
    enum err e = r->err;
    const enum room *room = r->room;
    size_t n = s->transaction.n_rcpts;
    enum smtp_verdict *v = NEW_ARRAY(enum smtp_verdict, n);
    enum smtp_verdict all = SMTP_OK;
    for (size_t i = 0; i < n; i++) {
        bool told = e == ERR_OK || e == ERR_LIMIT;
        v[i] = told ? transaction_verdict(&s->transaction, i, room) : SMTP_FAULT;
        v[i] = by_quota_full_at_end(s, v[i]);
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
    blob_id_text(intake_id(s->intake), id);
    log_message(s, r, all);
    if (s->lmtp) {
        smtp_end_answer(s->engine, v, n, span_str(id), conn_out(s->conn));
    } else {
        smtp_end_answer(s->engine, &all, 1, span_str(id), conn_out(s->conn));
    }
    free(v);
}

/* A message that has one fate for all whom it was for. */
static void answer_all(struct session *s, const struct intake_result *r)
{
    enum smtp_verdict all = r->verdict;
    size_t n = s->lmtp ? s->transaction.n_rcpts : 1;
    enum smtp_verdict *v = NEW_ARRAY(enum smtp_verdict, n);
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(intake_id(s->intake), id);
    for (size_t i = 0; i < n; i++) {
        v[i] = all;
        session_count(s, all);
    }
    if (all == SMTP_OK || all == SMTP_DISCARDED) {
        s->accepted++;
        stats_add(STAT_smtp_accepted, 1);
    }
    log_message(s, r, all);
    smtp_end_answer(s->engine, v, n, span_str(id), conn_out(s->conn));
    free(v);
}

static void on_intake(void *arg, enum intake_event ev, const struct intake_result *r)
{
    struct session *s = arg;
    if (ev == INTAKE_READY) {
        s->spool_waiting = false;
        if (s->step == STEP_SPOOL) {
            session_go_on(s);
        }
        return;
    }
    if (r->room) {
        answer_end(s, r);
    } else {
        answer_all(s, r);
    }
    s->intake = NULL; /* gone after return */
    session_reset(s);
    session_go_on(s);
}

/* --- the milters ----------------------------------------------------------------------------- */

/* The words of a refusal: the milter's, or ours when it has none. */
static void set_filter_reply(struct session *s, enum filter_verdict v, const struct filter_reply *r)
{
    static const struct filter_reply ours[] = {
        [FILTER_REFUSE] = { 550, "5.7.1", "Refused by content filter" },
        [FILTER_DEFER] = { 451, "4.7.1", "Content filter asks to try again later" },
        [FILTER_CLOSE] = { 421, "4.7.0", "Content filter ends the conversation" },
    };
    if (!r || r->code == 0) {
        r = &ours[v];
    }
    set_reply(s, r->code, span_str(r->enhanced), span_str(r->text));
}

static enum smtp_verdict filter_means(struct session *s, enum filter_verdict v,
                                      const struct filter_reply *r)
{
    if (v == FILTER_ACCEPT) {
        return SMTP_OK;
    }
    set_filter_reply(s, v, r);
    return SMTP_FILTERED;
}

static void open_intake(struct session *s);

/* What was asked is what the engine waits for. */
static void on_filter(void *arg, enum filter_verdict v, const struct filter_reply *r)
{
    struct session *s = arg;
    if (s->step == STEP_COMMIT) {
        if (v == FILTER_REFUSE || v == FILTER_DEFER || v == FILTER_CLOSE) {
            (void)filter_means(s, v, r);
        }
        intake_filtered(s->intake, v, session_config(s)->filter_quarantine);
        return;
    }
    enum smtp_verdict verdict = filter_means(s, v, r);
    switch (s->asked) {
    case SMTP_MAIL:
        session_count(s, verdict);
        smtp_mail_answer(s->engine, verdict, conn_out(s->conn));
        break;
    case SMTP_RCPT:
        answer_rcpt(s, verdict);
        return;
    default:
        CHECK(s->asked == SMTP_DATA_BEGIN);
        if (verdict == SMTP_OK) {
            open_intake(s);
        } else {
            session_count(s, verdict);
            smtp_data_answer(s->engine, verdict, conn_out(s->conn));
            session_reset(s);
        }
    }
    session_go_on(s);
}

/* --- actions of the engine ------------------------------------------------------------------- */

static void on_listed(void *arg, struct span zone);

/* What a list says of the client before is no longer asked for. */
static void forget_client(struct session *s)
{
    op_cancel(&s->listing);
    s->listed[0] = '\0';
    filter_close(&s->filter);
}

/* Begun at once, as it takes a while; the answer is waited for at the first RCPT. */
static void ask_lists(struct session *s)
{
    const struct gate *g = gate_of(s->base.worker);
    if (g->blocklist && !s->lmtp &&
        !throttle_exempts(s->base.worker->throttle, conn_peer(s->conn))) {
        s->listing = blocklist_ask(g->blocklist, conn_peer(s->conn), on_listed, s);
    }
}

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
    forget_client(s);
    conn_set_addresses(s->conn, (struct sockaddr *)&peer, NULL);
    netaddr_host(conn_peer(s->conn), s->peer);
    ask_lists(s);
    return true;
}

/* Who answers for the domain can be reached by anybody (RFC 5321, section 4.5.1). */
static bool is_postmaster(const struct address *a)
{
    return span_eq(span_of(a->canon, a->canon_local), SPAN("postmaster"));
}

static void route_rcpt(struct session *s, const struct address *rcpt)
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

/* True: go on. */
static bool begin_rcpt(struct session *s, const struct address *rcpt)
{
    if (s->listing) {
        s->step = STEP_LISTING;
        return false;
    }
    if (s->listed[0] && !is_postmaster(rcpt)) {
        stats_add(STAT_blocklist_hits, 1);
        smtp_reply_text(s->engine, span_str(s->listed));
        session_count(s, SMTP_BLOCKED);
        smtp_rcpt_answer(s->engine, SMTP_BLOCKED, conn_out(s->conn));
        return true;
    }
    route_rcpt(s, rcpt);
    return false;
}

static void on_listed(void *arg, struct span zone)
{
    struct session *s = arg;
    struct span cut = span_first(zone, sizeof s->listed - 1);
    s->listing = NULL;
    memcpy(s->listed, cut.p, cut.n);
    s->listed[cut.n] = '\0';
    if (s->step == STEP_LISTING) {
        s->step = STEP_ENGINE;
        if (begin_rcpt(s, smtp_rcpt(s->engine))) {
            session_run(s);
        }
    }
}

static bool is_filtered(const struct session *s)
{
    return gate_of(s->base.worker)->filters &&
           (!s->lmtp || session_config(s)->filter_lmtp == FILTER_LMTP_YES);
}

static void open_filter(struct session *s)
{
    struct span tls = span_str(conn_tls_text(s->conn));
    struct span version = span_word(&tls);
    struct filter_client c = { .sid = span_str(s->base.sid),
                               .address = conn_peer(s->conn),
                               .local = conn_local(s->conn),
                               .hostname = span_str(s->base.worker->hostname),
                               .tls_version = version,
                               .tls_cipher = tls };
    s->filter = filter_open(gate_of(s->base.worker)->filters, &c, on_filter, s);
}

/* True: go on. */
static bool begin_mail(struct session *s, const struct address *from)
{
    struct span words[PARAMETERS_MAIL_MAX];
    if (!is_filtered(s)) {
        smtp_mail_answer(s->engine, SMTP_OK, conn_out(s->conn));
        return true;
    }
    if (!s->filter) {
        open_filter(s);
    }
    s->step = STEP_FILTER;
    s->asked = SMTP_MAIL;
    filter_mail(s->filter, smtp_helo(s->engine), span_of(from->text, from->len), words,
                smtp_mail_parameters(s->engine, words));
    return false;
}

static void begin_message(struct session *s)
{
    const struct address *from = smtp_reverse_path(s->engine);
    struct trace t = { .reverse_path = span_of(from->text, from->len),
                       .helo = smtp_helo(s->engine),
                       .client = span_str(s->peer),
                       .hostname = span_str(s->base.worker->hostname),
                       .tls = span_str(conn_tls_text(s->conn)),
                       .forward_path = span_str(s->transaction.only),
                       .lmtp = s->lmtp,
                       .esmtp = smtp_esmtp(s->engine),
                       .utf8 = smtp_utf8(s->engine) };
    s->spool_waiting = !intake_trace(s->intake, &t);
    session_flush(s);
    s->in_data = true;
    s->data_octets = 0;
    session_deadline(s, session_config(s)->smtp_data_timeout);
}

static void open_intake(struct session *s)
{
    const struct address *from = smtp_reverse_path(s->engine);
    struct intake_options o = { .store = s->base.worker->store,
                                .filter = s->filter,
                                .hostname = s->base.worker->hostname,
                                .reverse_path = span_of(from->text, from->len),
                                .to = s->transaction.mailboxes,
                                .n = s->transaction.n,
                                .all_or_nothing = !s->lmtp };
    enum smtp_verdict v =
        intake_open(&o, on_intake, s, &s->intake) == ERR_OK ? SMTP_OK : SMTP_FAULT;
    session_count(s, v);
    smtp_data_answer(s->engine, v, conn_out(s->conn));
    if (v == SMTP_OK) {
        begin_message(s);
    } else {
        session_reset(s);
    }
}

/* True: go on. */
static bool begin_data(struct session *s)
{
    if (!s->filter) {
        open_intake(s);
        return true;
    }
    s->step = STEP_FILTER;
    s->asked = SMTP_DATA_BEGIN;
    filter_data(s->filter);
    return false;
}

/* True: go on. */
static bool take_data(struct session *s, struct span octets)
{
    uint64_t before = s->data_octets / DATA_TIMEOUT_OCTETS;
    s->data_octets += octets.n;
    if (s->data_octets / DATA_TIMEOUT_OCTETS != before) {
        session_deadline(s, session_config(s)->smtp_data_timeout);
    }
    s->spool_waiting = !intake_append(s->intake, octets) || s->spool_waiting;
    s->step = s->spool_waiting ? STEP_SPOOL : STEP_ENGINE;
    return !s->spool_waiting;
}

static void begin_commit(struct session *s)
{
    s->step = STEP_COMMIT;
    s->in_data = false;
    conn_deadline(s->conn, 0); /* the store and the milters have their own */
    stats_add(STAT_smtp_transactions, 1);
    intake_commit(s->intake);
}

static void begin_tls(struct session *s)
{
    s->step = STEP_TLS;
    session_deadline(s, session_config(s)->smtp_command_timeout);
    if (conn_start_tls(s->conn, s->base.worker->tls) != ERR_OK) {
        session_close(s, "plain text behind STARTTLS");
    }
}

/*
 * The answer to a refused recipient or an error waits, the longer the more there were: names are
 * not worth trying so. True: it waits now.
 */
static bool begin_tarpit(struct session *s)
{
    uint64_t delay = session_config(s)->smtp_tarpit;
    unsigned errors = smtp_errors(s->engine);
    bool worse = errors > s->errors || s->guesses > 0;
    s->errors = errors;
    if (!worse || delay == 0 || s->lmtp || buf_len(conn_out(s->conn)) == 0 ||
        throttle_exempts(s->base.worker->throttle, conn_peer(s->conn))) {
        return false;
    }
    delay *= errors + s->guesses;
    s->guesses = 0;
    s->step = STEP_TARPIT;
    session_deadline(s, delay < TARPIT_MOST_MS ? delay : TARPIT_MOST_MS);
    return true;
}

/* Does what the engine asks for. True: go on with the step that it set. */
static bool session_act(struct session *s, const struct smtp_action *a)
{
    switch (a->kind) {
    case SMTP_NEED_INPUT:
        if (begin_tarpit(s)) {
            return false;
        }
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
        return begin_mail(s, a->u.reverse_path);
    case SMTP_DATA_BEGIN:
        return begin_data(s);
    case SMTP_DATA:
        return take_data(s, a->u.data);
    case SMTP_DATA_END:
        begin_commit(s);
        return false;
    case SMTP_RCPT:
        return begin_rcpt(s, a->u.rcpt);
    case SMTP_STARTTLS:
        begin_tls(s);
        return false;
    case SMTP_CLOSE:
        if (a->u.close == SMTP_CLOSE_QUIT) {
            conn_last_word(s->conn);
        }
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
    if (s->step == STEP_TARPIT) {
        session_flush(s);
        s->step = STEP_INPUT;
        session_run(s);
        return;
    }
    if (s->step == STEP_COMMIT || s->step == STEP_RCPT || s->step == STEP_LISTING ||
        s->step == STEP_FILTER) {
        /* These have deadlines of their own; the client's begins again, for what is asked of it
         * after them may be no reply but silence: more of a chunk. */
        session_deadline(s, session_config(s)->smtp_command_timeout);
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
        filter_close(&s->filter); /* milters are told of TLS at their beginning */
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

static void refuse(const struct smtp_options *o, enum refusal why, struct conn **c)
{
    if (why == REFUSAL_DRAIN) {
        smtp_refuse(o, SPAN("4.3.2"), SPAN("out of service for a while, try another server"),
                    conn_out(*c));
    } else if (why == REFUSAL_FULL) {
        smtp_refuse(o, SPAN("4.3.2"), SPAN("too many sessions, try again later"), conn_out(*c));
    } else {
        smtp_refuse(o, SPAN("4.7.0"), SPAN("too many from your address, try again later"),
                    conn_out(*c));
    }
    conn_close(c, LINGER_MS);
}

void session_accept(struct worker *w, struct conn *c, int tag, enum refusal refusal)
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
    if (refusal != REFUSAL_NONE) {
        refuse(&o, refusal, &c);
        return;
    }
    struct session *s = NEW(struct session);
    s->conn = c;
    s->lmtp = o.lmtp;
    s->engine = smtp_new(&o);
    netaddr_host(conn_peer(c), s->peer);
    worker_session_begin(&s->base, w, session_drain, session_end);
    ask_lists(s);
    smtp_greet(s->engine, conn_out(c));
    conn_own(c, on_conn, s);
    session_run(s); /* in ENGINE, which asks for input and so sends the greeting */
}
