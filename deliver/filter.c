/*
 * filter: walks through the milters of the configuration, one stage of the transaction at a time.
 *
 * A filter owns its peers (a connection and an engine for each milter), the message and copies of
 * what it was told. A callback records a fact and calls run, which asks one peer after the other
 * until one has to wait; the end of a stage is told as the very last thing, since the owner may
 * close the filter in it. It knows no byte of the protocol (milter.c) nor of the message
 * (rewrite.c).
 *
 * A milter that could not be reached is left alone for a moment by the whole worker, so that a dead
 * one costs neither time nor connections.
 */
#include "filter.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "milter.h"
#include "net/dial.h"

#define BREAKER_MS 1000
/* A whole message gets this many times filter.timeout; a stage with all its progress reports twice
 * as much, which is what a client waits (RFC 5321, section 4.5.3.2.6: ten minutes). */
#define END_TIMES   10
#define STAGE_TIMES 20
#define LINGER_MS   1000
#define TEXT_MOST   (8u << 10) /* of one command's path and parameters */

struct target {
    const char *name; /* the configuration's */
    struct dial_address address;
    uint64_t retry_at; /* not before */
};

struct filters {
    struct loop *loop;
    const struct config *const *config;
    uint64_t octets; /* of messages in memory */
    size_t n;
    struct target v[];
};

/* A milter of one session. */
struct peer {
    struct filter *filter;
    struct target *target;
    struct conn *conn; /* NULL: not connected */
    struct milter *engine;
    bool begun;   /* it was asked about this stage */
    bool heard;   /* it has said something on this connection */
    bool lost;    /* it says no more */
    bool late;    /* its deadline has passed */
    bool dropped; /* it is not asked in this session any more */
    bool logged;  /* of its failure, and of what was ignored: once a session */
    bool logged_ignored;
    unsigned asked; /* the answer that its deadline is for */
    enum milter_wait wait;
    uint64_t stage_end;
};

/* What asking a peer came to. */
enum outcome { OUTCOME_WAIT, OUTCOME_NEXT, OUTCOME_STOP };

struct filter {
    struct filters *all;
    filter_fn *done;
    void *arg;
    struct task task; /* begins a stage */
    bool busy;        /* a stage has begun and not ended */
    enum milter_stage stage;
    size_t at; /* the peer whose turn it is */
    struct arena arena;
    struct milter_facts facts;
    char sid[64];
    char client_port[8];
    struct buf helo, mail, rcpt, id;
    struct rewrite *message;
    uint64_t octets; /* of the message, counted in filters */
    bool overflow;   /* and did not fit */
    bool discarded;
    bool quarantined;
    enum filter_verdict verdict;
    struct filter_reply reply;
    size_t n;
    struct peer peers[];
};

/* --- the milters of the configuration -------------------------------------------------------- */

static const struct config *settings(const struct filter *f)
{
    return *f->all->config;
}

enum err filters_open(struct loop *l, const struct config *const *c, struct filters **out,
                      char *why, size_t why_size)
{
    const struct config_list *list = &(*c)->filter_milters;
    char bad[256];
    if (list->n == 0) {
        *out = NULL;
        return ERR_OK;
    }
    struct filters *fs = mem_new(1, sizeof *fs + list->n * sizeof *fs->v);
    fs->loop = l;
    fs->config = c;
    fs->n = list->n;
    for (size_t i = 0; i < list->n; i++) {
        fs->v[i].name = list->v[i];
        enum err e = dial_parse(list->v[i], &fs->v[i].address, bad, sizeof bad);
        if (e != ERR_OK) {
            snprintf(why, why_size, "filter.milters: %s", bad);
            free(fs);
            return e;
        }
    }
    *out = fs;
    return ERR_OK;
}

void filters_close(struct filters **fs)
{
    free(*fs);
    *fs = NULL;
}

/* --- memory ---------------------------------------------------------------------------------- */

/* Counts what the message has become. ERR_LIMIT: it is more than all may have. */
static enum err count_octets(struct filter *f)
{
    struct filters *fs = f->all;
    uint64_t now = rewrite_octets(f->message);
    fs->octets = fs->octets - f->octets + now;
    if (now > f->octets) {
        stats_add(STAT_filter_memory, now - f->octets);
    } else {
        stats_sub(STAT_filter_memory, f->octets - now);
    }
    f->octets = now;
    return fs->octets <= settings(f)->filter_memory ? ERR_OK : ERR_LIMIT;
}

static void drop_message(struct filter *f)
{
    rewrite_reset(f->message);
    count_octets(f);
}

/* --- a peer's connection --------------------------------------------------------------------- */

static void run(struct filter *f);

/* linger: it may hear a last word. */
static void peer_close(struct peer *p, uint64_t linger_ms)
{
    milter_free(&p->engine);
    if (p->conn) {
        conn_own(p->conn, NULL, NULL);
        conn_close(&p->conn, linger_ms);
    }
    p->heard = p->lost = p->late = false;
}

static void peer_quit(struct peer *p)
{
    if (p->conn) {
        milter_quit(p->engine, conn_out(p->conn));
    }
    peer_close(p, LINGER_MS);
}

static void on_conn(void *owner, struct conn *c, enum conn_event ev)
{
    struct peer *p = owner;
    struct filter *f = p->filter;
    (void)c;
    p->heard = p->heard || ev == CONN_DATA;
    p->lost = p->lost || ev == CONN_EOF;
    p->late = p->late || ev == CONN_DEADLINE;
    if (f->busy && p->begun && p == &f->peers[f->at]) {
        run(f);
    }
}

/* Whoever could not be reached is not tried again at once. */
static void trip(struct peer *p)
{
    p->target->retry_at = loop_now(p->filter->all->loop) + BREAKER_MS;
}

/* NULL, or why not. */
static const char *peer_connect(struct peer *p)
{
    struct filter *f = p->filter;
    uint64_t now = loop_now(f->all->loop);
    if (now < p->target->retry_at) {
        return "could not be reached a moment ago";
    }
    if (dial_open(f->all->loop, &p->target->address, &p->conn) != ERR_OK) {
        trip(p);
        return strerror(errno);
    }
    p->engine = milter_new(&f->facts);
    p->asked = 0;
    conn_own(p->conn, on_conn, p);
    return NULL;
}

/* Asked for by name, since a peer that goes on talking moves its deadline. */
static bool stage_over(const struct peer *p)
{
    return loop_now(p->filter->all->loop) >= p->stage_end;
}

static void peer_deadline(struct peer *p, uint64_t ms)
{
    uint64_t at = loop_now(p->filter->all->loop) + ms;
    conn_deadline(p->conn, at < p->stage_end ? at : p->stage_end);
}

static uint64_t wait_ms(const struct peer *p)
{
    const struct config *c = settings(p->filter);
    switch (p->wait) {
    case MILTER_WAIT_OPTIONS:
        return c->filter_connect_timeout;
    case MILTER_WAIT_ANSWER:
        return c->filter_timeout;
    default:
        return END_TIMES * c->filter_timeout;
    }
}

/* --- failure --------------------------------------------------------------------------------- */

static enum outcome stop(struct filter *f, enum filter_verdict v, unsigned code,
                         const char *enhanced, const char *text)
{
    f->verdict = v;
    f->reply = (struct filter_reply){ .code = code };
    snprintf(f->reply.enhanced, sizeof f->reply.enhanced, "%s", enhanced);
    snprintf(f->reply.text, sizeof f->reply.text, "%s", text);
    return OUTCOME_STOP;
}

/* Its changes are undone. The first word of a broken connection is that it was never there. */
static enum outcome fail(struct peer *p, const char *why)
{
    struct filter *f = p->filter;
    bool accept = settings(f)->filter_on_failure == FILTER_ON_FAILURE_ACCEPT;
    stats_add(STAT_filter_faults, 1);
    if (!p->logged) {
        LOG(LOG_WARN, "filter.failed", F_STR("sid", f->sid), F_STR("milter", p->target->name),
            F_STR("why", why), F_STR("mail", accept ? "goes on without it" : "is deferred"));
    }
    p->logged = true;
    if (p->conn && !p->heard) {
        trip(p);
    }
    rewrite_abort(f->message);
    count_octets(f);
    peer_close(p, 0);
    if (accept) {
        p->dropped = true;
        return OUTCOME_NEXT;
    }
    return stop(f, FILTER_DEFER, 451, "4.7.1", "Content filter not available, try again later");
}

/* --- what a peer says ------------------------------------------------------------------------ */

static void log_verdict(const struct peer *p, const char *verdict, const char *text)
{
    LOG(LOG_INFO, "filter.verdict", F_STR("sid", p->filter->sid), F_STR("milter", p->target->name),
        F_SPAN("id", span_first(buf_span(&p->filter->id), 64)), F_STR("verdict", verdict),
        F_STR("text", text));
}

static enum outcome refuse(struct peer *p, enum filter_verdict v, const char *word,
                           const struct milter_reply *r)
{
    log_verdict(p, word, r->text);
    stats_add(STAT_filter_refused, 1);
    return stop(p->filter, v, r->code, r->enhanced, r->text);
}

static enum outcome act_on_verdict(struct peer *p, const struct milter_event *ev)
{
    struct filter *f = p->filter;
    conn_deadline(p->conn, 0);
    if (f->stage == MILTER_END && ev->verdict == MILTER_CONTINUE) {
        rewrite_commit(f->message);
        count_octets(f); /* what it was before was more */
    }
    switch (ev->verdict) {
    case MILTER_CONTINUE:
        return OUTCOME_NEXT;
    case MILTER_REJECT:
        return refuse(p, FILTER_REFUSE, "reject", ev->reply);
    case MILTER_TEMPFAIL:
        return refuse(p, FILTER_DEFER, "tempfail", ev->reply);
    case MILTER_CLOSE:
        return refuse(p, FILTER_CLOSE, "close", ev->reply);
    default:
        log_verdict(p, "discard", "");
        f->discarded = true;
        return stop(f, f->stage == MILTER_END ? FILTER_DISCARD : FILTER_ACCEPT, 0, "", "");
    }
}

/* A value that has not its leading space yet gets it; the copy lives until the next call. */
static struct span spaced(const struct milter_change *c, struct buf *copy)
{
    if (!c->bare || c->value.n == 0) {
        return c->value;
    }
    buf_addc(copy, ' ');
    buf_add(copy, c->value);
    return buf_span(copy);
}

static enum err change_field(struct filter *f, const struct milter_change *c)
{
    struct buf copy;
    buf_init(&copy, c->value.n + 1);
    struct span value = spaced(c, &copy);
    enum err e;
    switch (c->kind) {
    case MILTER_ADD:
        e = rewrite_add(f->message, c->name, value);
        break;
    case MILTER_INSERT:
        e = rewrite_insert(f->message, c->index, c->name, value);
        break;
    default:
        e = rewrite_change(f->message, c->name, c->index, value);
        break;
    }
    buf_fini(&copy);
    return e;
}

/* The reason, as far as it may stand in a log. */
static void quarantine(struct filter *f, struct span reason)
{
    size_t n = reason.n < sizeof f->reply.text - 1 ? reason.n : sizeof f->reply.text - 1;
    f->quarantined = true;
    f->reply = (struct filter_reply){ 0 };
    for (size_t i = 0; i < n; i++) {
        char c = reason.p[i];
        f->reply.text[i] = c >= ' ' && c < 127 ? c : '?';
    }
}

/* NULL, or why it can't be. */
static const char *change(struct peer *p, const struct milter_change *c)
{
    struct filter *f = p->filter;
    enum err e = ERR_OK;
    if (c->kind == MILTER_QUARANTINE) {
        quarantine(f, c->value);
        log_verdict(p, "quarantine", f->reply.text);
        return NULL;
    }
    if (c->kind == MILTER_BODY) {
        e = rewrite_replace(f->message, c->value);
    } else {
        e = change_field(f, c);
    }
    if (e == ERR_OK) {
        e = count_octets(f);
    }
    return e == ERR_OK      ? NULL
           : e == ERR_LIMIT ? "changes more of the message than it may"
                            : "malformed header field";
}

static void ignored(struct peer *p, char command)
{
    if (!p->logged_ignored) {
        LOG(LOG_WARN, "filter.ignored", F_STR("sid", p->filter->sid),
            F_STR("milter", p->target->name),
            F_STR("what", command == 'e' ? "a change of the sender" : "a change of recipients"));
    }
    p->logged_ignored = true;
}

/* --- a peer's turn --------------------------------------------------------------------------- */

static const char *why_lost(const struct peer *p)
{
    if (p->late || stage_over(p)) {
        return p->heard ? "does not answer in time" : "can't be reached in time";
    }
    return p->heard ? "closed the connection" : "can't be reached";
}

/* A change is done here: it may be a span of conn_in. *why: NULL, or why it can't be. */
static struct milter_event step_engine(struct peer *p, const char **why)
{
    struct buf *in = conn_in(p->conn);
    struct span rest = buf_span(in);
    size_t before = rest.n;
    struct milter_event ev = milter_step(p->engine, &rest, conn_out(p->conn));
    *why = ev.kind == MILTER_CHANGE ? change(p, &ev.change) : NULL;
    buf_take(in, before - rest.n);
    return ev;
}

/* True: it can go on at once. */
static bool peer_flush(struct peer *p)
{
    conn_taken(p->conn);
    return conn_flush(p->conn);
}

static enum outcome wait_for(struct peer *p, const struct milter_event *ev)
{
    peer_flush(p);
    if (p->lost || p->late || stage_over(p)) {
        return fail(p, why_lost(p));
    }
    if (ev->asked != p->asked) {
        p->asked = ev->asked;
        p->wait = ev->wait;
        peer_deadline(p, wait_ms(p));
    }
    return OUTCOME_WAIT;
}

/* False: there is room again; true: *o is what it came to. */
static bool wait_for_room(struct peer *p, enum outcome *o)
{
    if (peer_flush(p)) {
        return false;
    }
    *o = OUTCOME_WAIT;
    if (p->lost || p->late || stage_over(p)) {
        *o = fail(p, why_lost(p));
    } else {
        peer_deadline(p, settings(p->filter)->filter_timeout);
    }
    return true;
}

static enum outcome talk(struct peer *p)
{
    for (;;) {
        const char *why;
        enum outcome o;
        struct milter_event ev = step_engine(p, &why);
        switch (ev.kind) {
        case MILTER_WAIT:
            return wait_for(p, &ev);
        case MILTER_SEND:
            if (wait_for_room(p, &o)) {
                return o;
            }
            break;
        case MILTER_PROGRESS:
            p->late = false;
            peer_deadline(p, wait_ms(p));
            break;
        case MILTER_CHANGE:
            if (why) {
                return fail(p, why);
            }
            break;
        case MILTER_IGNORED:
            ignored(p, ev.command);
            break;
        case MILTER_DONE:
            peer_flush(p);
            return act_on_verdict(p, &ev);
        case MILTER_FAILED:
            return fail(p, ev.why);
        }
    }
}

/* What it was doing when the last transaction was given up is not to be heard any more. */
static void peer_settle(struct peer *p)
{
    if (p->conn && (p->lost || !milter_abort(p->engine, conn_out(p->conn)))) {
        peer_close(p, 0);
    }
    if (p->conn) {
        peer_flush(p);
        conn_deadline(p->conn, 0);
    }
}

/* NULL, or why it can't be asked. */
static const char *peer_begin(struct peer *p)
{
    struct filter *f = p->filter;
    const char *why = NULL;
    p->begun = true;
    p->late = false;
    p->stage_end = loop_now(f->all->loop) + STAGE_TIMES * settings(f)->filter_timeout;
    if (!p->conn) {
        why = f->stage == MILTER_MAIL ? peer_connect(p) : "was lost in the middle of a message";
    }
    if (!why && f->stage == MILTER_END) {
        rewrite_begin(f->message);
    }
    if (!why) {
        milter_ask(p->engine, f->stage);
    }
    return why;
}

static enum outcome ask(struct peer *p)
{
    const char *why = NULL;
    if (p->dropped) {
        return OUTCOME_NEXT;
    }
    if (!p->begun) {
        why = peer_begin(p);
    }
    return why ? fail(p, why) : talk(p);
}

/* --- stages ---------------------------------------------------------------------------------- */

/* What all of them have said together. */
static void conclude(struct filter *f)
{
    bool refuses = settings(f)->filter_quarantine[0] == '\0';
    if (f->stage != MILTER_END || !f->quarantined) {
        return;
    }
    if (refuses) {
        stats_add(STAT_filter_refused, 1);
        stop(f, FILTER_REFUSE, 550, "5.7.1", "Message refused by content filter");
    } else {
        stats_add(STAT_filter_quarantined, 1);
        f->verdict = FILTER_QUARANTINE;
    }
}

/* The owner may close the filter in this call. */
static void finish(struct filter *f)
{
    f->busy = false;
    f->done(f->arg, f->verdict, &f->reply);
}

static void run(struct filter *f)
{
    while (f->at < f->n) {
        switch (ask(&f->peers[f->at])) {
        case OUTCOME_WAIT:
            return;
        case OUTCOME_STOP:
            finish(f);
            return;
        case OUTCOME_NEXT:
            f->at++;
            break;
        }
    }
    conclude(f);
    finish(f);
}

static void on_task(struct task *t)
{
    struct filter *f = CONTAINER_OF(t, struct filter, task);
    if (f->overflow) {
        stop(f, FILTER_DEFER, 452, "4.3.1", "Too many messages wait for content filters");
        finish(f);
    } else if (f->discarded) {
        stop(f, f->stage == MILTER_END ? FILTER_DISCARD : FILTER_ACCEPT, 0, "", "");
        finish(f);
    } else if (f->verdict != FILTER_ACCEPT) {
        finish(f); /* it was decided before anybody was asked */
    } else {
        stats_add(STAT_filter_messages, f->stage == MILTER_END);
        run(f);
    }
}

static void begin(struct filter *f, enum milter_stage s)
{
    CHECK(!f->busy);
    f->busy = true;
    f->stage = s;
    f->at = 0;
    f->verdict = FILTER_ACCEPT;
    f->reply = (struct filter_reply){ 0 };
    for (size_t i = 0; i < f->n; i++) {
        f->peers[i].begun = false;
    }
    loop_post(f->all->loop, &f->task);
}

/* --- facts ----------------------------------------------------------------------------------- */

static struct span keep(struct filter *f, struct span s)
{
    char *copy = arena_dup(&f->arena, span_first(s, span_find(s, '\0')));
    return span_str(copy);
}

/* Appends a text with its NUL; what does not fit is left out as a whole. */
static bool add_text(struct buf *b, struct span before, struct span s, struct span after)
{
    s = span_first(s, span_find(s, '\0'));
    if (buf_room(b) <= before.n + s.n + after.n) {
        return false;
    }
    buf_add(b, before);
    buf_add(b, s);
    buf_add(b, after);
    buf_addc(b, '\0');
    return true;
}

/* `<path>` and the parameters, as milters get them; the two macros are spans of it. */
static void set_path(struct filter *f, struct buf *b, struct span path, const struct span *params,
                     size_t n, enum milter_macro address, enum milter_macro host)
{
    buf_clear(b);
    path = span_first(path, span_find(path, '\0'));
    size_t length = add_text(b, SPAN("<"), path, SPAN(">")) ? path.n : 0;
    for (size_t i = 0; i < n; i++) {
        add_text(b, SPAN(""), params[i], SPAN(""));
    }
    struct span written = span_first(span_skip(buf_span(b), 1), length);
    const char *at = length ? memrchr(written.p, '@', length) : NULL;
    f->facts.macros[address] = written;
    f->facts.macros[host] = at ? span_skip(written, (size_t)(at - written.p) + 1) : SPAN("");
}

static void set_client(struct filter *f, const struct filter_client *c)
{
    struct milter_facts *t = &f->facts;
    char host[NETADDR_TEXT], bracketed[NETADDR_TEXT + 2];
    netaddr_host(c->address, host);
    snprintf(bracketed, sizeof bracketed, "[%s]", host);
    t->client_address = keep(f, span_str(host));
    t->client_name = keep(f, span_str(bracketed));
    t->client_family = c->address->sa_family != AF_INET && c->address->sa_family != AF_INET6 ? 'U'
                       : strchr(host, ':')                                                   ? '6'
                                                                                             : '4';
    t->client_port = netaddr_port(c->address);
    snprintf(f->client_port, sizeof f->client_port, "%u", t->client_port);
    t->macros[MILTER_CLIENT_ADDR] = t->client_address;
    t->macros[MILTER_CLIENT_NAME] = SPAN("unknown"); /* no name is looked up */
    t->macros[MILTER_CLIENT_PORT] = span_str(f->client_port);
    if (c->local) {
        netaddr_host(c->local, host);
        t->macros[MILTER_IF_ADDR] = keep(f, span_str(host));
    }
}

static void set_facts(struct filter *f, const struct filter_client *c)
{
    struct milter_facts *t = &f->facts;
    set_client(f, c);
    t->macros[MILTER_J] = keep(f, c->hostname);
    t->macros[MILTER_DAEMON_NAME] = t->macros[MILTER_J];
    t->macros[MILTER_V] = SPAN("mailfleet " MAILFLEET_VERSION);
    t->macros[MILTER_TLS_VERSION] = keep(f, c->tls_version);
    t->macros[MILTER_CIPHER] = keep(f, c->tls_cipher);
    t->message = f->message;
    snprintf(f->sid, sizeof f->sid, "%.*s", SPAN_ARG(span_first(c->sid, sizeof f->sid - 1)));
}

/* A greeting that is not the last one's is told anew. */
static void set_helo(struct filter *f, struct span helo)
{
    helo = span_first(span_first(helo, span_find(helo, '\0')), TEXT_MOST);
    if (f->facts.greetings == 0 || !span_eq(helo, buf_span(&f->helo))) {
        buf_clear(&f->helo);
        buf_add(&f->helo, helo);
        f->facts.helo = buf_span(&f->helo);
        f->facts.greetings++;
    }
}

/* --- what the owner calls -------------------------------------------------------------------- */

struct filter *filter_open(struct filters *fs, const struct filter_client *c, filter_fn *done,
                           void *arg)
{
    struct filter *f = mem_new(1, sizeof *f + fs->n * sizeof *f->peers);
    f->all = fs;
    f->done = done;
    f->arg = arg;
    f->task.run = on_task;
    list_init(&f->task.link);
    arena_init(&f->arena, 4096);
    buf_init(&f->helo, TEXT_MOST);
    buf_init(&f->mail, TEXT_MOST);
    buf_init(&f->rcpt, TEXT_MOST);
    buf_init(&f->id, 256);
    f->message = rewrite_new(settings(f)->smtp_max_size);
    f->n = fs->n;
    for (size_t i = 0; i < f->n; i++) {
        f->peers[i] = (struct peer){ .filter = f, .target = &fs->v[i] };
    }
    set_facts(f, c);
    return f;
}

void filter_mail(struct filter *f, struct span helo, struct span reverse_path,
                 const struct span *parameters, size_t n)
{
    filter_reset(f);
    set_helo(f, helo);
    set_path(f, &f->mail, reverse_path, parameters, n, MILTER_MAIL_ADDR, MILTER_MAIL_HOST);
    f->facts.mail = buf_span(&f->mail);
    begin(f, MILTER_MAIL);
}

void filter_rcpt(struct filter *f, struct span forward_path, const struct span *parameters,
                 size_t n)
{
    set_path(f, &f->rcpt, forward_path, parameters, n, MILTER_RCPT_ADDR, MILTER_RCPT_HOST);
    f->facts.rcpt = buf_span(&f->rcpt);
    begin(f, MILTER_RCPT);
}

void filter_data(struct filter *f)
{
    begin(f, MILTER_DATA);
}

enum err filter_append(struct filter *f, struct span octets)
{
    const struct filters *fs = f->all;
    if (f->overflow) {
        return ERR_LIMIT;
    }
    if (f->discarded) {
        return ERR_OK;
    }
    if (fs->octets + octets.n > settings(f)->filter_memory ||
        rewrite_append(f->message, octets) != ERR_OK) {
        f->overflow = true;
        drop_message(f);
        return ERR_LIMIT;
    }
    count_octets(f);
    return ERR_OK;
}

void filter_end(struct filter *f, struct span id, struct span received)
{
    buf_clear(&f->id);
    buf_add(&f->id, span_first(span_first(id, span_find(id, '\0')), 255));
    f->facts.macros[MILTER_I] = buf_span(&f->id);
    begin(f, MILTER_END);
    if (!f->overflow && !f->discarded && rewrite_parse(f->message, received) != ERR_OK) {
        stop(f, FILTER_REFUSE, 552, "5.3.4", "Message header too large");
    }
    count_octets(f);
}

void filter_message(struct filter *f, struct span *head, struct span *body)
{
    rewrite_message(f->message, head, body);
}

void filter_reset(struct filter *f)
{
    list_del(&f->task.link);
    f->busy = f->overflow = f->discarded = f->quarantined = false;
    f->facts.macros[MILTER_I] = SPAN("");
    buf_clear(&f->id);
    drop_message(f);
    for (size_t i = 0; i < f->n; i++) {
        peer_settle(&f->peers[i]);
    }
}

void filter_close(struct filter **fp)
{
    struct filter *f = *fp;
    *fp = NULL;
    if (!f) {
        return;
    }
    filter_reset(f);
    for (size_t i = 0; i < f->n; i++) {
        peer_quit(&f->peers[i]);
    }
    rewrite_free(&f->message);
    buf_fini(&f->helo);
    buf_fini(&f->mail);
    buf_fini(&f->rcpt);
    buf_fini(&f->id);
    arena_fini(&f->arena);
    free(f);
}
