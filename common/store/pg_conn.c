/*
 * pg_conn: the life of one connection, in steps:
 *
 *   DOWN        waits for its next try
 *   RESOLVING   the hosts' names are being looked up (the resolver has time-outs of its own)
 *   CONNECTING  libpq connects: TCP, TLS, authentication, the choice of a host
 *   GREETING    the hello has been sent
 *   READY       takes batches
 *
 * libpq finishes what it was given in order, so the batches under way are a queue: results belong
 * to its head until the answer to its sync has come. Deadlines are kept here, as libpq has none
 * on the asynchronous way. The hello is repeated now and then: it shows that an idle connection
 * still reaches a server, and tells the owner what has changed there.
 *
 * Owns the PGconn, its watch on the loop, and the batches under way. It knows nothing of lanes.
 * While connecting, libpq may read ~/.pgpass and certificates: small local files.
 */
#include "store/pg_conn.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/pg_hosts.h"

#define RETRY_MIN_MS   100u
#define RETRY_MAX_MS   2000u
#define HELLO_EVERY_MS 5000

enum step { STEP_DOWN, STEP_RESOLVING, STEP_CONNECTING, STEP_GREETING, STEP_READY };

struct pg_conn {
    const struct pg_conn_options *o;
    enum step step;
    struct pg_hosts *hosts;
    size_t first;      /* the address that the next attempt begins at */
    uint32_t retry_ms; /* until the next try, less a random part */
    PGconn *pq;
    uv_poll_t *poll; /* on the heap: each socket that libpq tries has its own */
    int events;      /* that it waits for */
    uv_timer_t timer;
    uint64_t began; /* of this attempt */
    uint64_t connect_deadline;
    uint32_t silence_ms; /* how long one address may take */
    const char *at;      /* which one it is, by libpq's string: each has its own */
    size_t passed;       /* addresses that have refused in this attempt */
    struct list sent;    /* batches under way */
    unsigned load;
    struct pg_batch *hello; /* the one under way */
    uint64_t hello_due;
};

static void conn_try(struct pg_conn *c);
static void conn_advance(struct pg_conn *c);
static void conn_receive(struct pg_conn *c);
static void conn_flush(struct pg_conn *c, bool well);
static bool say_hello(struct pg_conn *c);

/* --- the socket's watch ----------------------------------------------------------------------- */

static void on_poll_closed(uv_handle_t *h)
{
    free(h);
}

/* Before libpq may close the socket. */
static void unwatch(struct pg_conn *c)
{
    if (c->poll) {
        uv_close((uv_handle_t *)c->poll, on_poll_closed);
        c->poll = NULL;
        c->events = 0;
    }
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct pg_conn *c = poll->data;
    (void)events;
    if (status < 0) {
        c->events = 0; /* libuv has stopped it; libpq will find the words */
    }
    if (c->step == STEP_CONNECTING) {
        conn_advance(c);
    } else {
        conn_receive(c);
    }
}

static void watch(struct pg_conn *c, int events)
{
    if (!c->poll) {
        c->poll = NEW(uv_poll_t);
        CHECK(uv_poll_init(loop_uv(c->o->loop), c->poll, PQsocket(c->pq)) == 0);
        c->poll->data = c;
    }
    if (events != c->events) { /* it is two system calls even when nothing changes */
        CHECK(uv_poll_start(c->poll, events, on_socket) == 0);
        c->events = events;
    }
}

/* The address that this attempt has come to comes last in the next one. */
static void pass_over(struct pg_conn *c)
{
    c->first += c->passed + 1;
}

/* --- loss, deadlines -------------------------------------------------------------------------- */

static void end_batch(struct pg_conn *c, struct pg_batch *b)
{
    list_del(&b->link);
    c->load--;
    if (b->reply.err == ERR_TEMP || b->reply.err == ERR_UNCERTAIN) {
        stats_add(STAT_db_faults, b->n);
    }
    if (b == c->hello) {
        c->hello = NULL;
        pg_batch_free(&b);
    } else {
        c->o->on_end(c->o->owner, b);
    }
}

/* Everything that hangs on the connection ends; what was sent may have been done. */
static void drop(struct pg_conn *c, const char *why)
{
    if (c->step == STEP_READY) {
        stats_sub(STAT_db_connections, 1);
    }
    c->step = STEP_DOWN;
    uv_timer_stop(&c->timer);
    pg_hosts_close(&c->hosts);
    unwatch(c);
    PQfinish(c->pq);
    c->pq = NULL;
    while (!list_empty(&c->sent)) {
        struct pg_batch *b = CONTAINER_OF(c->sent.next, struct pg_batch, link);
        pg_batch_fail(b, ERR_UNCERTAIN, why);
        end_batch(c, b);
    }
}

static void on_timer(uv_timer_t *t);

/* Waits twice as long after each failure, less a random part: a fleet must not return as one. What
 * an attempt has spent at an address that is silent was waiting, too; a proxy whose server is away
 * is silent only behind the hello, or ends the connection there. However an attempt fails, the next
 * one begins behind the address that it has come to. */
static void lost(struct pg_conn *c, const char *why)
{
    char text[160]; /* why may be libpq's, which goes with its connection */
    snprintf(text, sizeof text, "%.*s", (int)strcspn(why, "\n"), why);
    LOG(LOG_DEBUG, "db.lost", F_STR("why", text));
    bool begun = c->step == STEP_CONNECTING || c->step == STEP_GREETING;
    uint64_t spent = begun ? loop_now(c->o->loop) - c->began : 0;
    if (begun) {
        pass_over(c);
    }
    drop(c, text);
    uint32_t delay = c->retry_ms;
    c->retry_ms = delay < RETRY_MAX_MS / 2 ? delay * 2 : RETRY_MAX_MS;
    delay = delay / 2 + arc4random_uniform(delay / 2 + 1);
    uv_timer_start(&c->timer, on_timer, delay > spent ? delay - spent : 1, 0);
    c->o->on_change(c->o->owner, text);
}

static uint64_t head_deadline(const struct pg_conn *c)
{
    return CONTAINER_OF(c->sent.next, struct pg_batch, link)->deadline;
}

/* The timer serves the next deadline, or the next hello of an idle connection. */
static void arm(struct pg_conn *c)
{
    uint64_t now = loop_now(c->o->loop), at = c->hello_due;
    if (c->step == STEP_CONNECTING) {
        at = c->connect_deadline;
    } else if (!list_empty(&c->sent)) {
        at = head_deadline(c);
    }
    uv_timer_start(&c->timer, on_timer, at > now ? at - now : 0, 0);
}

static void on_timer(uv_timer_t *t)
{
    struct pg_conn *c = t->data;
    switch (c->step) {
    case STEP_DOWN:
        conn_try(c);
        break;
    case STEP_RESOLVING:
        UNREACHABLE();
    case STEP_CONNECTING:
        lost(c, "no connection within its part of database.timeout");
        break;
    case STEP_GREETING:
    case STEP_READY:
        if (list_empty(&c->sent)) {
            conn_flush(c, say_hello(c));
        } else if (head_deadline(c) <= loop_now(c->o->loop)) {
            lost(c, c->step == STEP_GREETING ? "no answer within its part of database.timeout"
                                             : "no answer within database.timeout");
        } else {
            arm(c);
        }
        break;
    }
}

/* --- DOWN to GREETING ------------------------------------------------------------------------- */

static void conn_connect(struct pg_conn *c)
{
    char why[160];
    size_t addresses = pg_hosts_count(c->hosts);
    c->pq = pg_hosts_connect(c->hosts, c->first, why, sizeof why);
    pg_hosts_close(&c->hosts);
    if (!c->pq) {
        lost(c, why);
        return;
    }
    if (PQstatus(c->pq) == CONNECTION_BAD) {
        lost(c, PQerrorMessage(c->pq));
        return;
    }
    c->step = STEP_CONNECTING;
    c->began = loop_now(c->o->loop);
    c->silence_ms = c->o->timeout_ms / (uint32_t)addresses;
    c->connect_deadline = c->began + c->silence_ms;
    c->at = PQhost(c->pq);
    c->passed = 0;
    arm(c);
    watch(c, UV_WRITABLE); /* as libpq asks before the first PQconnectPoll */
}

static void on_resolved(void *arg)
{
    conn_connect(arg);
}

static void conn_try(struct pg_conn *c)
{
    char why[160];
    bool later;
    enum err e =
        pg_hosts_open(c->o->loop, c->o->url, on_resolved, c, &c->hosts, &later, why, sizeof why);
    if (e != ERR_OK) {
        lost(c, why);
        return;
    }
    c->step = STEP_RESOLVING;
    if (!later) {
        conn_connect(c);
    }
}

/* Notices would go to standard error as they are. */
static void on_notice(void *arg, const char *message)
{
    (void)arg;
    LOG(LOG_INFO, "db.notice",
        F_SPAN("message", span_first(span_str(message), strcspn(message, "\n"))));
}

static void conn_greet(struct pg_conn *c)
{
    PQsetNoticeProcessor(c->pq, on_notice, NULL);
    if (PQsetnonblocking(c->pq, 1) != 0 || !PQenterPipelineMode(c->pq)) {
        lost(c, PQerrorMessage(c->pq));
        return;
    }
    c->step = STEP_GREETING;
    conn_flush(c, say_hello(c));
}

/* Waits for the address that libpq is at; each has its own part of the time. */
static void conn_wait(struct pg_conn *c, int events)
{
    if (c->at != PQhost(c->pq)) {
        c->at = PQhost(c->pq);
        c->passed++;
        c->connect_deadline = loop_now(c->o->loop) + c->silence_ms;
        arm(c);
    }
    watch(c, events);
}

/* libpq may have closed its socket and opened another one: the watch is new after each call. */
static void conn_advance(struct pg_conn *c)
{
    unwatch(c);
    switch (PQconnectPoll(c->pq)) {
    case PGRES_POLLING_OK:
        conn_greet(c);
        break;
    case PGRES_POLLING_READING:
        conn_wait(c, UV_READABLE);
        break;
    case PGRES_POLLING_WRITING:
        conn_wait(c, UV_WRITABLE);
        break;
    default:
        /* libpq goes on to the next address when one can't be reached, not when one has said no. */
        lost(c, PQerrorMessage(c->pq));
    }
}

/* --- GREETING and READY ----------------------------------------------------------------------- */

/* False when libpq won't have it: the batch is under way all the same, and ends with the loss of
 * the connection that must follow. */
static bool put(struct pg_conn *c, struct pg_batch *b)
{
    list_add(&c->sent, &b->link);
    c->load++;
    stats_add(STAT_db_queries, b == c->hello ? 0 : b->n); /* those that somebody asked for */
    return pg_batch_send(b, c->pq);
}

static bool say_hello(struct pg_conn *c)
{
    CHECK(!c->hello);
    c->hello = pg_batch_new();
    c->hello->lane = PG_READ;
    c->hello->deadline =
        loop_now(c->o->loop) + (c->step == STEP_GREETING ? c->silence_ms : c->o->timeout_ms);
    pg_stmt(c->hello, c->o->hello);
    c->hello_due = loop_now(c->o->loop) + HELLO_EVERY_MS;
    return put(c, c->hello);
}

/* After a put that went well, or at any other time. */
static void conn_flush(struct pg_conn *c, bool well)
{
    int left = well && PQstatus(c->pq) == CONNECTION_OK ? PQflush(c->pq) : -1;
    if (left < 0) {
        lost(c, PQerrorMessage(c->pq));
        return;
    }
    watch(c, left ? UV_READABLE | UV_WRITABLE : UV_READABLE);
    arm(c);
}

void pg_conn_send(struct pg_conn *c, struct pg_batch *b)
{
    CHECK(c->step == STEP_READY);
    bool well = true;
    if (!c->hello && loop_now(c->o->loop) >= c->hello_due) {
        well = say_hello(c);
    }
    well = put(c, b) && well;
    conn_flush(c, well);
}

/* A server that became a standby, or is going away, is of no more use. */
static bool farewell(const struct pg_batch *b)
{
    return strcmp(b->reply.sqlstate, "25006") == 0 || strncmp(b->reply.sqlstate, "57P", 3) == 0;
}

/* The hello was answered: false when that was the end of the connection. */
static bool greeted(struct pg_conn *c)
{
    if (c->hello->reply.err != ERR_OK) {
        char why[160];
        snprintf(why, sizeof why, "%.150s", c->hello->reply.message);
        if (c->step == STEP_READY) {
            pass_over(c); /* it takes no statements any more, but connections still */
        }
        lost(c, why);
        return false;
    }
    if (c->o->on_hello) {
        c->o->on_hello(c->o->hello_arg, c->hello->reply.r[0]);
    }
    if (c->step == STEP_GREETING) {
        c->step = STEP_READY;
        c->retry_ms = RETRY_MIN_MS;
        stats_add(STAT_db_connections, 1);
    }
    return true;
}

/* The head's sync was answered. False: the connection is gone. */
static bool settled(struct pg_conn *c, struct pg_batch *b)
{
    pg_batch_settle(b);
    if (b == c->hello && !greeted(c)) {
        return false;
    }
    bool bye = farewell(b);
    end_batch(c, b);
    if (bye) {
        lost(c, "the server takes no more transactions");
    }
    return !bye;
}

static void conn_receive(struct pg_conn *c)
{
    bool any = false;
    if (!PQconsumeInput(c->pq)) {
        lost(c, PQerrorMessage(c->pq));
        return;
    }
    while (!list_empty(&c->sent) && !PQisBusy(c->pq) && PQstatus(c->pq) == CONNECTION_OK) {
        struct pg_batch *b = CONTAINER_OF(c->sent.next, struct pg_batch, link);
        PGresult *r = PQgetResult(c->pq);
        if (!r) {
            continue; /* the end of one statement's results */
        }
        if (PQresultStatus(r) != PGRES_PIPELINE_SYNC) {
            pg_batch_result(b, r);
            continue;
        }
        PQclear(r);
        any = true;
        if (!settled(c, b)) {
            return;
        }
    }
    conn_flush(c, true);
    if (any) {
        c->o->on_change(c->o->owner, "");
    }
}

/* --- outside ---------------------------------------------------------------------------------- */

struct pg_conn *pg_conn_open(const struct pg_conn_options *o)
{
    struct pg_conn *c = NEW(struct pg_conn);
    c->o = o;
    c->retry_ms = RETRY_MIN_MS;
    list_init(&c->sent);
    CHECK(uv_timer_init(loop_uv(o->loop), &c->timer) == 0);
    c->timer.data = c;
    uv_timer_start(&c->timer, on_timer, 0, 0);
    return c;
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h->data);
}

void pg_conn_close(struct pg_conn **pc)
{
    struct pg_conn *c = *pc;
    *pc = NULL;
    drop(c, "closed");
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}

bool pg_conn_ready(const struct pg_conn *c)
{
    return c->step == STEP_READY;
}

unsigned pg_conn_load(const struct pg_conn *c)
{
    return c->load;
}
