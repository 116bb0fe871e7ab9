/*
 * session: the only place where the POP3 engine, a conn and the store meet.
 *
 * It owns the conn, the engine, the lease and at most one request to the store. Every callback
 * records a fact and calls session_run, which takes steps until one has to wait:
 *
 *   ENGINE   the engine eats input; its action names the next step
 *   INPUT    waits for bytes
 *   FLUSH    waits until the reply is with the kernel
 *   TLS      waits for the handshake
 *   LOGIN, FETCH, COMMIT
 *            waits for the store
 *   MORE     the last piece has been sent: asks for the next
 *   RELEASE  waits until the mailbox is free for others; only then the client hears the end of
 *            QUIT, so that its next login finds it so
 *
 * It knows no byte of the protocol (pop3.c) and no rule of the store.
 */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>

#include "auth.h"
#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "pop3.h"

#define IDS_A_LINE 9    /* whose texts and commas are what a value in the log may have */
#define LINGER_MS  5000 /* for a last reply that the client is slow to take */

enum step {
    STEP_ENGINE,
    STEP_INPUT,
    STEP_FLUSH,
    STEP_TLS,
    STEP_LOGIN,
    STEP_FETCH,
    STEP_MORE,
    STEP_COMMIT,
    STEP_RELEASE
};

struct session {
    struct worker_session base;
    struct conn *conn;
    struct pop3 *engine;
    enum step step;
    struct op *op;
    struct store_reader *reader;
    struct ahead *ahead;
    struct lease *lease;
    struct auth *auth; /* the SASL exchange that is open, or was cancelled */
    const char *offered[SASL_MECHANISMS];
    const char *mechanism; /* of the last login, for the log */
    bool eof;              /* the peer sends no more; what it has sent is still answered */
    char peer[NETADDR_TEXT];
    char user[256]; /* for the log, cut */
    uint64_t retrieved, deleted;
    const size_t *marked; /* in COMMIT: what is to be deleted, the engine's */
    struct {
        bool open; /* its end did not come yet */
        size_t index;
        uint64_t octets;
    } retr; /* for the log */
};

static void session_run(struct session *s);

static struct store *session_store(struct session *s)
{
    return s->base.worker->store;
}

static uint64_t session_deadline(struct session *s)
{
    return loop_now(s->base.worker->loop) + s->base.worker->config->pop3_timeout;
}

/* Sends what is there. The clock of the peer begins anew with each reply, not with each byte. */
static bool session_flush(struct session *s)
{
    if (buf_len(conn_out(s->conn)) > 0) {
        conn_deadline(s->conn, session_deadline(s));
    }
    return conn_flush(s->conn);
}

/* --- the log --------------------------------------------------------------------------------- */

static bool logs_retr(const struct session *s)
{
    return s->base.worker->config->pop3_log_messages == LOG_MESSAGES_YES;
}

static void log_retr(const struct session *s, size_t index, uint64_t octets, bool whole)
{
    char id[BLOB_ID_CHARS + 1];
    const struct pointer p = maildrop_at(pop3_maildrop(s->engine), index);
    blob_id_text(&p.id, id);
    LOG(LOG_INFO, "pop3.retr", F_STR("sid", s->base.sid), F_STR("id", id), F_U64("octets", octets),
        F_STR("whole", whole ? "yes" : "no"));
}

/* What RETR has put into the buffer to its end. left: it is with the kernel. */
static void end_retrs(struct session *s, bool left)
{
    const size_t *which;
    size_t n = pop3_sent(s->engine, &which);
    for (size_t i = 0; i < n && logs_retr(s); i++) {
        log_retr(s, which[i], maildrop_size(pop3_maildrop(s->engine), which[i]), left);
    }
}

/* While the store is waited for: the connection may break meanwhile, which takes nothing back. */
static void note_left(struct session *s)
{
    if (buf_len(conn_out(s->conn)) == 0 && !conn_broken(s->conn)) {
        end_retrs(s, true);
        pop3_left(s->engine);
    }
}

/* The last RETR was refused or broke off, if its end did not come. */
static void end_retr(struct session *s)
{
    if (s->retr.open) {
        s->retr.open = false;
        log_retr(s, s->retr.index, s->retr.octets, false);
    }
}

/*
 * What QUIT has deleted. These lines are the ledger's copy outside the database: operators' tools
 * replay them after a restore, so their form is fixed, and they are out before the client is told.
 */
static void log_deleted(const struct session *s)
{
    const struct maildrop *m = pop3_maildrop(s->engine);
    for (size_t i = 0; i < s->deleted;) {
        char ids[IDS_A_LINE * (BLOB_ID_CHARS + 1)];
        size_t n = 0;
        for (; i < s->deleted && n < sizeof ids; i++) {
            const struct pointer p = maildrop_at(m, s->marked[i]);
            blob_id_text(&p.id, ids + n);
            n += BLOB_ID_CHARS + 1;
            ids[n - 1] = ',';
        }
        LOG(LOG_INFO, "pop3.deleted", F_STR("sid", s->base.sid), F_U64("mailbox", m->mailbox_id),
            F_SPAN("ids", span_of(ids, n - 1)));
    }
    log_flush();
}

/* --- the end --------------------------------------------------------------------------------- */

/* The balancer's name of the connection is the last one, as most have none. */
static void log_session(const struct session *s, const char *reason)
{
    const char *proxy_id = conn_unique_id(s->conn);
    const struct log_field fields[] = {
        F_STR("sid", s->base.sid),        F_STR("peer", s->peer),
        F_STR("user", s->user),           F_STR("tls", conn_tls_text(s->conn)),
        F_U64("retrieved", s->retrieved), F_U64("deleted", s->deleted),
        F_STR("reason", reason),          F_STR("proxy_id", proxy_id)
    };
    if (log_enabled(LOG_INFO)) {
        log_write(LOG_INFO, "pop3.session", fields, ARRAY_LEN(fields) - (*proxy_id == '\0'));
    }
}

/* For mailboxes that keep what was read for a time of its own. Nobody waits for it. */
static void note_read(struct session *s)
{
    const size_t *which;
    size_t n = pop3_read(s->engine, &which);
    if (n > 0) {
        store_mark_read(session_store(s), pop3_maildrop(s->engine), which, n);
    }
}

/* Logs the session, gives back everything but the conn, which goes on to send its last reply. */
static void session_close(struct session *s, const char *reason)
{
    end_retrs(s, !conn_broken(s->conn) && buf_len(conn_out(s->conn)) == 0);
    end_retr(s);
    log_session(s, reason);
    note_read(s);
    store_read_close(&s->reader);
    store_ahead_close(&s->ahead);
    op_cancel(&s->op);
    auth_close(&s->auth);
    store_lease_drop(session_store(s), &s->lease, NULL, NULL);
    pop3_free(&s->engine);
    worker_session_end(&s->base);
    conn_own(s->conn, NULL, NULL);
    conn_close(&s->conn, LINGER_MS);
    free(s);
}

static void session_drain(struct worker_session *base)
{
    struct session *s = CONTAINER_OF(base, struct session, base);
    if (s->step == STEP_INPUT && !pop3_maildrop(s->engine)) {
        session_close(s, "shutdown"); /* nothing has begun; the client tries another node */
    }
}

static void session_end(struct worker_session *base)
{
    struct session *s = CONTAINER_OF(base, struct session, base);
    if (s->step == STEP_INPUT) {
        pop3_refuse(SPAN("this server is going down"), conn_out(s->conn));
    }
    session_close(s, "shutdown");
}

/* --- answers of the store -------------------------------------------------------------------- */

static void session_go_on(struct session *s)
{
    s->step = STEP_ENGINE;
    session_run(s);
}

static void count_login(enum login_verdict v)
{
    static const enum stat_id counters[LOGIN_VERDICTS] = {
        [LOGIN_OK] = STAT_pop3_logins,
        [LOGIN_DENIED] = STAT_pop3_login_denied,
        [LOGIN_IN_USE] = STAT_pop3_login_in_use,
        [LOGIN_SESSIONS] = STAT_pop3_login_in_use,
        [LOGIN_DELAYED] = STAT_pop3_login_delayed,
        [LOGIN_BLOCKED] = STAT_pop3_login_blocked,
        [LOGIN_OVERLOAD] = STAT_pop3_login_faults,
        [LOGIN_FAULT] = STAT_pop3_login_faults,
    };
    stats_add(counters[v], 1);
}

static void note_user(struct session *s, struct span user)
{
    struct span cut = span_first(user, sizeof s->user - 1);
    memcpy(s->user, cut.p, cut.n);
    s->user[cut.n] = '\0';
}

/* l is NULL when it was refused before the store was asked. */
static void login_done(struct session *s, enum login_verdict v, struct login *l)
{
    struct login none = { 0 };
    l = l ? l : &none;
    CHECK(!s->lease);
    s->lease = l->lease;
    l->lease = NULL;
    if (l->user) {
        note_user(s, span_str(l->user));
    }
    count_login(v);
    LOG(LOG_INFO, "pop3.login", F_STR("sid", s->base.sid), F_STR("peer", s->peer),
        F_STR("user", s->user), F_STR("mechanism", s->mechanism),
        F_STR("result", login_verdict_text(v)),
        F_U64("messages", l->maildrop ? l->maildrop->count : 0),
        F_U64("mailbox", l->maildrop ? l->maildrop->mailbox_id : 0));
    pop3_login_answer(s->engine, v, &l->maildrop, l->retention_days, l->read_days,
                      conn_out(s->conn));
    auth_close(&s->auth);
}

static void on_login_done(void *arg, enum login_verdict v, struct login *l)
{
    struct session *s = arg;
    s->op = NULL;
    login_done(s, v, l);
    session_go_on(s);
}

/* What an exchange came to; never AUTH_WAIT. */
static void auth_answer(struct session *s, const struct auth_result *r)
{
    note_user(s, auth_user(s->auth));
    switch (r->state) {
    case AUTH_CHALLENGE:
        pop3_auth_challenge(s->engine, r->challenge, conn_out(s->conn));
        return;
    case AUTH_INVALID:
        pop3_auth_invalid(s->engine, conn_out(s->conn));
        auth_close(&s->auth);
        return;
    case AUTH_DONE:
        login_done(s, r->verdict, r->login);
        return;
    case AUTH_WAIT:
        break;
    }
    UNREACHABLE();
}

static void on_auth(void *arg, const struct auth_result *r)
{
    struct session *s = arg;
    auth_answer(s, r);
    session_go_on(s);
}

static void fetch_answer(struct session *s, enum err e, struct span piece, bool last)
{
    if (e != ERR_OK) {
        stats_add(STAT_pop3_read_faults, 1);
    }
    pop3_fetch_answer(s->engine, e, piece, last, conn_out(s->conn));
    s->retr.octets += piece.n;
    s->retr.open = s->retr.open && !pop3_whole(s->engine);
    if (pop3_converted(s->engine)) {
        stats_add(STAT_pop3_converted, 1);
    }
}

static void on_fetch_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct session *s = arg;
    if (last) {
        s->reader = NULL;
    }
    fetch_answer(s, e, piece, last);
    session_go_on(s);
}

static void on_commit_done(void *arg, enum err e)
{
    struct session *s = arg;
    s->op = NULL;
    if (e == ERR_OK) {
        stats_add(STAT_pop3_deleted, s->deleted);
        log_deleted(s);
    } else {
        s->deleted = 0;
    }
    pop3_commit_answer(s->engine, e, conn_out(s->conn));
    session_go_on(s);
}

static void on_released(void *arg, enum err e)
{
    struct session *s = arg;
    (void)e; /* a lease that could not be dropped ends by itself */
    s->op = NULL;
    session_close(s, pop3_close_text(POP3_CLOSE_QUIT));
}

/* --- actions of the engine ------------------------------------------------------------------- */

static void begin_login(struct session *s, const struct pop3_action *a)
{
    auth_close(&s->auth); /* of an exchange that the client cancelled */
    note_user(s, a->u.login.user);
    s->mechanism = "PASS";
    s->step = STEP_LOGIN;
    const struct login_claim claim = { .proof = LOGIN_PASSWORD,
                                       .user = a->u.login.user,
                                       .secret = a->u.login.password,
                                       .client = conn_peer(s->conn) };
    s->op = store_login(session_store(s), &claim, on_login_done, s);
}

static struct auth_options auth_options_of(struct session *s)
{
    return (struct auth_options){ .config = s->base.worker->config,
                                  .store = session_store(s),
                                  .conn = s->conn };
}

static void offer_mechanisms(struct session *s)
{
    struct auth_options o = auth_options_of(s);
    pop3_offer(s->engine, s->offered, auth_offer(&o, s->offered));
}

/* True: it was answered at once. */
static bool begin_auth(struct session *s, const struct pop3_action *a)
{
    if (a->u.auth.first) {
        struct auth_options o = auth_options_of(s);
        auth_close(&s->auth);
        s->mechanism = s->offered[a->u.auth.mechanism];
        s->auth = auth_open(&o, s->mechanism, on_auth, s);
    }
    struct auth_result r = auth_respond(s->auth, a->u.auth.response);
    if (r.state == AUTH_WAIT) {
        s->step = STEP_LOGIN;
        return false;
    }
    auth_answer(s, &r);
    return true;
}

/* True: it was there already. Else what is in the buffer leaves while the store reads. */
static bool begin_fetch(struct session *s, const struct pop3_action *a)
{
    struct span octets;
    s->retrieved++;
    s->retr.open = !a->u.fetch.top && logs_retr(s);
    s->retr.index = a->u.fetch.index;
    s->retr.octets = 0;
    stats_add(STAT_pop3_messages_read, 1);
    if (store_read_ready(s->ahead, a->u.fetch.index, &octets)) {
        fetch_answer(s, ERR_OK, octets, true);
        return true;
    }
    session_flush(s);
    note_left(s);
    s->step = STEP_FETCH;
    s->reader = store_read(session_store(s), pop3_maildrop(s->engine), a->u.fetch.index, &s->ahead,
                           on_fetch_piece, s);
    return false;
}

static void begin_commit(struct session *s, const struct pop3_action *a)
{
    char by[64];
    int n = snprintf(by, sizeof by, "pop3 %s %s", s->base.worker->config->node_name, s->base.sid);
    s->step = STEP_COMMIT;
    s->deleted = a->u.commit.n;
    s->marked = a->u.commit.marked;
    s->op = store_expunge(
        session_store(s), pop3_maildrop(s->engine), a->u.commit.marked, a->u.commit.n,
        span_of(by, (size_t)n < sizeof by ? (size_t)n : sizeof by - 1), on_commit_done, s);
}

/* False when it can't go on now; s may be gone then. */
static bool begin_tls(struct session *s)
{
    s->step = STEP_TLS;
    conn_deadline(s->conn, session_deadline(s));
    if (conn_start_tls(s->conn, s->base.worker->tls) != ERR_OK) {
        session_close(s, "plain text behind STLS");
    }
    return false;
}

static bool begin_close(struct session *s, enum pop3_close reason)
{
    if (reason == POP3_CLOSE_QUIT) {
        conn_last_word(s->conn);
    }
    if (reason != POP3_CLOSE_QUIT || !s->lease) {
        session_close(s, pop3_close_text(reason));
        return false;
    }
    s->step = STEP_RELEASE;
    s->op = store_lease_drop(session_store(s), &s->lease, on_released, s);
    return false;
}

/* Does what the engine asks for. True: go on with the step that it set. */
static bool session_act(struct session *s, const struct pop3_action *a)
{
    if (a->kind != POP3_FLUSH && a->kind != POP3_FETCH_MORE) {
        end_retr(s);
    }
    switch (a->kind) {
    case POP3_NEED_INPUT:
        session_flush(s);
        s->step = STEP_INPUT;
        return true;
    case POP3_FLUSH:
        s->step = STEP_FLUSH;
        return true;
    case POP3_FETCH_MORE:
        s->step = STEP_MORE;
        return true;
    case POP3_FETCH_STOP:
        store_read_close(&s->reader);
        return true;
    case POP3_STARTTLS:
        return begin_tls(s);
    case POP3_LOGIN:
        begin_login(s, a);
        return false;
    case POP3_AUTH:
        return begin_auth(s, a);
    case POP3_FETCH:
        return begin_fetch(s, a);
    case POP3_COMMIT:
        begin_commit(s, a);
        return false;
    case POP3_CLOSE:
        return begin_close(s, a->u.close);
    }
    UNREACHABLE();
}

/* --- the steps ------------------------------------------------------------------------------- */

static bool step_engine(struct session *s)
{
    struct buf *in = conn_in(s->conn);
    if (conn_broken(s->conn) && pop3_unsent(s->engine)) {
        session_close(s, "connection lost");
        return false;
    }
    if (buf_len(conn_out(s->conn)) == 0) {
        end_retrs(s, true);
    }
    struct span rest = buf_span(in);
    size_t before = rest.n;
    struct pop3_action a = pop3_step(s->engine, &rest, conn_out(s->conn));
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

/* False: it has to wait, or the connection has broken and s is gone: nothing has left then. */
static bool session_drained(struct session *s)
{
    bool drained = session_flush(s);
    if (conn_broken(s->conn)) {
        session_close(s, "connection lost");
        return false;
    }
    return drained;
}

static bool step_more(struct session *s)
{
    if (!session_drained(s)) {
        return false;
    }
    note_left(s);
    conn_deadline(s->conn, 0); /* the store has its own */
    s->step = STEP_FETCH;
    store_read_next(s->reader);
    return false;
}

static bool step_flush(struct session *s)
{
    if (!session_drained(s)) {
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
        case STEP_MORE:
            go = step_more(s);
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
    } else if (conn_broken(s->conn) && s->step != STEP_COMMIT && s->step != STEP_RELEASE) {
        session_close(s, "connection lost"); /* but what QUIT began is brought to its end */
    }
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
        if (s->step == STEP_FLUSH || s->step == STEP_MORE) {
            session_run(s);
        } else if (s->step == STEP_FETCH) {
            note_left(s);
        }
        break;
    case CONN_TLS_UP:
        offer_mechanisms(s);
        pop3_tls_answer(s->engine);
        session_go_on(s);
        break;
    case CONN_EOF:
        on_eof(s);
        break;
    case CONN_DEADLINE:
        if (s->step == STEP_INPUT || s->step == STEP_FLUSH || s->step == STEP_MORE ||
            s->step == STEP_TLS) {
            session_close(s, "timeout"); /* silently, as RFC 1939, section 3 asks */
        }
        break;
    case CONN_CLOSED:
        break;
    }
}

void session_accept(struct worker *w, struct conn *c, int tag, enum refusal refusal)
{
    (void)tag;
    if (refusal != REFUSAL_NONE) {
        pop3_refuse(refusal == REFUSAL_FULL ? SPAN("too many sessions, try again later")
                                            : SPAN("too many from your address, try again later"),
                    conn_out(c));
        conn_close(&c, LINGER_MS);
        return;
    }
    const struct config *cf = w->config;
    struct fleet fleet = store_fleet(w->store);
    struct session *s = NEW(struct session);
    s->conn = c;
    s->engine = pop3_new(&(struct pop3_options){
        .tls_offered = w->tls != NULL,
        .tls_active = conn_secure(c),
        .plaintext_login = cf->pop3_plaintext_login == PLAINTEXT_LOGIN_ALWAYS,
        .expire_min = fleet.least_retention,
        .expire_differs = fleet.retention_differs,
        .login_delay = (unsigned)((cf->pop3_login_delay + 999) / 1000),
        .max_errors = (unsigned)cf->pop3_max_errors,
        .login_tries = (unsigned)cf->pop3_login_tries });
    netaddr_host(conn_peer(c), s->peer);
    worker_session_begin(&s->base, w, session_drain, session_end);
    offer_mechanisms(s);
    pop3_greet(s->engine, span_str(w->hostname), conn_out(c));
    conn_own(c, on_conn, s);
    session_run(s); /* in ENGINE, which asks for input and so sends the greeting */
}
