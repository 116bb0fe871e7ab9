/*
 * filter: walks through the milters of the configuration, one stage of the transaction at a time.
 *
 * A filter owns its peers (a connection and an engine for each milter), the message and the facts
 * of the transaction (filter_facts.c). A callback records a fact and calls run, which asks one peer
 * after the other until one has to wait; the end of a stage is told as the very last thing, since
 * the owner may close the filter in it. It knows no byte of the protocol (milter.c) nor of the
 * message (rewrite.c).
 *
 * A milter that could not be reached, at any of its addresses, is left alone for a moment by the
 * whole worker, so that a dead one costs neither time nor connections. One that has no room just
 * now is not dead: sessions wait for it, as they do for the first answer to a look-up.
 */
#include "filter.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "filter_facts.h"
#include "milter.h"
#include "net/dial.h"
#include "net/lookup.h"

#define BREAKER_MS 1000
/* Between two tries to connect to a milter that has no room. */
#define AGAIN_MS 20
/* A name is asked again so soon after a failure, and while all is well. */
#define NAME_RETRY_MS   5000
#define NAME_REFRESH_MS 300000
/* A whole message gets this many times filter.timeout; a stage with all its progress reports twice
 * as much, which is what a client waits (RFC 5321, section 4.5.3.2.6: ten minutes). */
#define END_TIMES   10
#define STAGE_TIMES 20
#define LINGER_MS   1000

struct target {
    const char *name; /* the configuration's */
    struct dial_address address;
    struct lookup *lookup; /* NULL: the address is no name */
    size_t first;          /* of its addresses, the one to be tried first: it worked last time */
    uint64_t retry_at;     /* not before */
    uint64_t full_at;      /* in this turn of the loop there was no room */
};

struct filters {
    struct loop *loop;
    const struct config *const *config;
    uint64_t octets;     /* of messages in memory */
    uv_timer_t *again;   /* NULL without a loop */
    struct list waiting; /* peers that are to try again then */
    size_t n;
    struct target v[];
};

/* A milter of one session. */
struct peer {
    struct filter *filter;
    struct target *target;
    struct conn *conn; /* NULL: not connected */
    struct milter *engine;
    struct list waiting;  /* a link of filters.waiting: it is to connect soon */
    size_t first;         /* of its addresses, the one that it began with */
    size_t tried;         /* how many of them in vain */
    uint64_t reach_until; /* it may wait for its turn to connect */
    bool begun;           /* it has its turn in this stage */
    bool asked_stage;     /* and was asked about it */
    bool heard;           /* it has said something on this connection */
    bool lost;            /* it says no more */
    bool late;            /* its deadline has passed */
    bool dropped;         /* it is not asked in this session any more */
    bool logged;          /* of its failure, and of what was ignored: once a session */
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
    struct filter_facts facts;
    char sid[64];
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

static void on_again(uv_timer_t *t);

static void open_timer(struct filters *fs)
{
    fs->again = NEW(uv_timer_t);
    fs->again->data = fs;
    CHECK(uv_timer_init(loop_uv(fs->loop), fs->again) == 0);
}

static void open_lookup(struct filters *fs, struct target *t)
{
    struct lookup_options o = { .host = t->address.host,
                                .port = t->address.port,
                                .retry_ms = NAME_RETRY_MS,
                                .refresh_ms = NAME_REFRESH_MS };
    t->lookup = t->address.len == 0 ? lookup_open(fs->loop, &o) : NULL;
}

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
    list_init(&fs->waiting);
    if (l) {
        open_timer(fs);
        for (size_t i = 0; i < fs->n; i++) {
            open_lookup(fs, &fs->v[i]);
        }
    }
    *out = fs;
    return ERR_OK;
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h);
}

void filters_close(struct filters **pfs)
{
    struct filters *fs = *pfs;
    *pfs = NULL;
    if (!fs) {
        return;
    }
    for (size_t i = 0; i < fs->n; i++) {
        lookup_close(&fs->v[i].lookup);
    }
    if (fs->again) {
        uv_close((uv_handle_t *)fs->again, on_timer_closed);
    }
    free(fs);
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
    if (ev == CONN_DATA && !p->heard) {
        p->heard = true;
        p->target->first = p->first + p->tried;
    }
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

/* How many addresses it has. */
static size_t target_addresses(const struct target *t)
{
    const struct sockaddr_storage *v;
    return t->lookup ? lookup_addresses(t->lookup, &v) : 1;
}

/* Of these the one to be tried now; there is one. */
static struct dial_address peer_address(const struct peer *p)
{
    const struct target *t = p->target;
    const struct sockaddr_storage *v;
    if (!t->lookup) {
        return t->address;
    }
    size_t n = lookup_addresses(t->lookup, &v);
    struct dial_address d = { .a.inet = v[(p->first + p->tried) % n] };
    d.len = netaddr_len(&d.a.any);
    return d;
}

/* Begins to connect, to the first address that does not fail at once. */
static enum err peer_connect(struct peer *p)
{
    struct filter *f = p->filter;
    enum err e = ERR_TEMP;
    for (; p->tried < target_addresses(p->target); p->tried++) {
        struct dial_address to = peer_address(p);
        e = dial_open(f->all->loop, &to, &p->conn);
        if (e != ERR_TEMP) {
            break;
        }
    }
    if (e == ERR_OK) {
        p->engine = milter_new(&f->facts.told);
        p->asked = 0;
        conn_own(p->conn, on_conn, p);
    }
    return e;
}

/* It is asked again soon, but not for ever. */
static const char *peer_wait(struct peer *p, const char *why)
{
    struct filters *fs = p->filter->all;
    if (loop_now(fs->loop) >= p->reach_until) {
        return why;
    }
    if (list_empty(&fs->waiting)) {
        uv_timer_start(fs->again, on_again, AGAIN_MS, 0);
    }
    list_add(&fs->waiting, &p->waiting);
    return NULL;
}

/* NULL, or why not. Without a connection after NULL it waits for one. */
static const char *peer_reach(struct peer *p)
{
    struct target *t = p->target;
    uint64_t now = loop_now(p->filter->all->loop);
    if (p->filter->stage != MILTER_MAIL) {
        return "was lost in the middle of a message";
    }
    if (now < t->retry_at) {
        return "could not be reached a moment ago";
    }
    if (t->lookup && lookup_pending(t->lookup)) {
        return peer_wait(p, "its name is still being looked up");
    }
    if (target_addresses(t) == 0) {
        return "its name is not known";
    }
    /* When one found no room the others would not either. */
    enum err e = t->full_at == now ? ERR_LIMIT : peer_connect(p);
    if (e == ERR_LIMIT) {
        t->full_at = now;
        return peer_wait(p, "takes no further connections");
    }
    if (e != ERR_OK) {
        const char *why = strerror(errno);
        trip(p);
        return why;
    }
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
        F_SPAN("id", span_first(filter_facts_id(&p->filter->facts), 64)), F_STR("verdict", verdict),
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

static enum outcome ask(struct peer *p);

/* Where nobody was heard the next address is tried, if there is one: LOOKUP_MAX times at most. */
static enum outcome lose(struct peer *p)
{
    if (p->heard || stage_over(p) || p->tried + 1 >= target_addresses(p->target)) {
        return fail(p, why_lost(p));
    }
    peer_close(p, 0);
    p->tried++;
    p->asked_stage = false;
    return ask(p);
}

static enum outcome wait_for(struct peer *p, const struct milter_event *ev)
{
    peer_flush(p);
    if (p->lost || p->late || stage_over(p)) {
        return lose(p);
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
        *o = lose(p);
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
    list_del(&p->waiting);
    if (p->conn && (p->lost || !milter_abort(p->engine, conn_out(p->conn)))) {
        peer_close(p, 0);
    }
    if (p->conn) {
        peer_flush(p);
        conn_deadline(p->conn, 0);
    }
}

static void peer_begin(struct peer *p)
{
    const struct filters *fs = p->filter->all;
    uint64_t now = loop_now(fs->loop);
    p->begun = true;
    p->asked_stage = false;
    p->late = false;
    p->first = p->target->first;
    p->tried = 0;
    p->reach_until = now + (*fs->config)->filter_connect_timeout;
    p->stage_end = now + STAGE_TIMES * (*fs->config)->filter_timeout;
}

static void ask_stage(struct peer *p)
{
    struct filter *f = p->filter;
    p->asked_stage = true;
    if (f->stage == MILTER_END) {
        rewrite_begin(f->message);
    }
    milter_ask(p->engine, f->stage);
}

static enum outcome ask(struct peer *p)
{
    if (p->dropped) {
        return OUTCOME_NEXT;
    }
    if (!p->begun) {
        peer_begin(p);
    }
    const char *why = p->conn ? NULL : peer_reach(p);
    if (why) {
        return fail(p, why);
    }
    if (!p->conn) {
        return OUTCOME_WAIT;
    }
    if (!p->asked_stage) {
        ask_stage(p);
    }
    return talk(p);
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

/* In the order in which they came; a session that ends meanwhile takes its peers off the list. */
static void on_again(uv_timer_t *t)
{
    struct filters *fs = t->data;
    struct list now, *l;
    list_init(&now);
    while ((l = list_pop(&fs->waiting))) {
        list_add(&now, l);
    }
    while ((l = list_pop(&now))) {
        run(CONTAINER_OF(l, struct peer, waiting)->filter);
    }
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
    f->message = rewrite_new(settings(f)->smtp_max_size);
    filter_facts_init(&f->facts, c, f->message);
    snprintf(f->sid, sizeof f->sid, "%.*s", SPAN_ARG(span_first(c->sid, sizeof f->sid - 1)));
    f->n = fs->n;
    for (size_t i = 0; i < f->n; i++) {
        f->peers[i] = (struct peer){ .filter = f, .target = &fs->v[i] };
        list_init(&f->peers[i].waiting);
    }
    return f;
}

void filter_mail(struct filter *f, struct span helo, struct span reverse_path,
                 const struct span *parameters, size_t n)
{
    filter_reset(f);
    filter_facts_mail(&f->facts, helo, reverse_path, parameters, n);
    begin(f, MILTER_MAIL);
}

void filter_rcpt(struct filter *f, struct span forward_path)
{
    filter_facts_rcpt(&f->facts, forward_path);
    begin(f, MILTER_RCPT);
}

void filter_data(struct filter *f)
{
    begin(f, MILTER_DATA);
}

/*
 * A message may be as large as what is left for others: so a few large ones that are long in coming
 * can't keep out everybody else's, and one alone may take half of it all.
 */
static bool has_room(const struct filters *fs, const struct filter *f, size_t more)
{
    uint64_t most = settings(f)->filter_memory, all = fs->octets + more;
    return all <= most && f->octets + more <= most - all;
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
    if (!has_room(fs, f, octets.n) || rewrite_append(f->message, octets) != ERR_OK) {
        f->overflow = true;
        drop_message(f);
        return ERR_LIMIT;
    }
    count_octets(f);
    return ERR_OK;
}

void filter_end(struct filter *f, struct span id, struct span received)
{
    filter_facts_name(&f->facts, id);
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
    filter_facts_name(&f->facts, SPAN(""));
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
    filter_facts_fini(&f->facts);
    free(f);
}
