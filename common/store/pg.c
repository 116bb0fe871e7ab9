/*
 * pg: two lanes of connections, each with a queue in front.
 *
 *   READ   a few connections, several batches under way on each
 *   WRITE  more connections, one batch under way on each: a transaction that waits for a lock
 *          makes nobody else wait
 *
 * Every event (a submission, a connection that changed, a batch that ended) is noted and the task
 * is posted; the task tells finished batches, sends waiting ones and looks at deadlines. So nothing
 * is told inline, and the batches of one turn of the loop go out together.
 *
 * Owns connections and batches; a batch is freed after its done. It has no SQL and retries nothing:
 * whether a second try is safe is for the caller to say.
 */
#include "store/pg.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/pg_batch.h"
#include "store/pg_conn.h"

#define QUEUE_DEFAULT 4096
#define READ_DEPTH    16 /* batches on a connection; throughput gains nothing beyond */
#define LANES         2

struct lane {
    struct pg_conn **conns;
    unsigned n;
    unsigned depth;    /* batches that may be under way on each */
    struct list queue; /* oldest, and so nearest to its deadline, first */
    unsigned queued;
};

struct pg {
    struct loop *loop;
    struct pg_conn_options conn;
    char *url, *hello;
    uint64_t timeout_ms;
    unsigned queue;
    struct lane lanes[LANES];
    struct list finished;
    struct task task;
    bool posted;
    uv_timer_t timer;     /* for the oldest batch that waits */
    char why[HEALTH_WHY]; /* of the last loss; empty before the first */
    bool up, reported;
    bool closing, closed;
};

static void run(struct task *t);

static void wake(struct pg *p)
{
    if (!p->posted) {
        p->posted = true;
        loop_post(p->loop, &p->task);
    }
}

static void on_timer(uv_timer_t *t)
{
    wake(t->data);
}

static void on_conn_change(void *owner, const char *why)
{
    struct pg *p = owner;
    if (*why) {
        snprintf(p->why, sizeof p->why, "%s", why);
    }
    wake(p);
}

static void on_batch_end(void *owner, struct pg_batch *b)
{
    struct pg *p = owner;
    list_add(&p->finished, &b->link);
    wake(p);
}

/* --- the task --------------------------------------------------------------------------------- */

/* Also what a done submits in turn when pg is closing, as that is finished at once. */
static void tell_finished(struct pg *p)
{
    for (struct list *link; (link = list_pop(&p->finished));) {
        struct pg_batch *b = CONTAINER_OF(link, struct pg_batch, link);
        if (!b->op.cancelled) {
            b->done(b->op.arg, &b->reply);
        }
        pg_batch_free(&b);
    }
}

static struct pg_batch *queue_head(const struct lane *lane)
{
    return list_empty(&lane->queue) ? NULL : CONTAINER_OF(lane->queue.next, struct pg_batch, link);
}

static void queue_pop(struct lane *lane, struct pg_batch *b)
{
    list_del(&b->link);
    lane->queued--;
}

/* When a batch has waited for half its time it is not sent any more: what is sent must have a
 * fair chance to be answered, as a missed deadline costs the connection. */
static uint64_t latest_start(const struct pg *p, const struct pg_batch *b)
{
    return b->deadline - p->timeout_ms / 2;
}

static void expire(struct pg *p, struct lane *lane)
{
    for (struct pg_batch *b; (b = queue_head(lane)) && latest_start(p, b) <= loop_now(p->loop);) {
        queue_pop(lane, b);
        stats_add(STAT_db_faults, b->n);
        pg_batch_fail(b, ERR_TEMP,
                      p->up     ? "all connections are busy"
                      : *p->why ? p->why
                                : "no connection");
        on_batch_end(p, b);
    }
}

/* The ready connection with the least to do, or NULL when all have enough. */
static struct pg_conn *pick(const struct lane *lane)
{
    struct pg_conn *best = NULL;
    for (unsigned i = 0; i < lane->n; i++) {
        struct pg_conn *c = lane->conns[i];
        if (pg_conn_ready(c) && pg_conn_load(c) < lane->depth &&
            (!best || pg_conn_load(c) < pg_conn_load(best))) {
            best = c;
        }
    }
    return best;
}

static void send_waiting(struct lane *lane)
{
    struct pg_batch *b;
    struct pg_conn *c;
    while ((b = queue_head(lane)) && (c = pick(lane))) {
        queue_pop(lane, b);
        pg_conn_send(c, b);
    }
}

static void report_health(struct pg *p)
{
    bool up = pg_ready(p);
    if (!up && !*p->why) {
        return; /* still connecting for the first time */
    }
    if (!up || !p->up) {
        health_set("database", true, up ? NULL : p->why);
    }
    if (up != p->up || !p->reported) {
        LOG(up ? LOG_INFO : LOG_WARN, up ? "db.up" : "db.down", F_STR("why", p->why));
        p->up = up;
        p->reported = true;
    }
}

static void arm_timer(struct pg *p)
{
    uint64_t now = loop_now(p->loop), at = UINT64_MAX;
    for (size_t i = 0; i < LANES; i++) {
        const struct pg_batch *b = queue_head(&p->lanes[i]);
        if (b && latest_start(p, b) < at) {
            at = latest_start(p, b);
        }
    }
    if (at == UINT64_MAX) {
        uv_timer_stop(&p->timer);
    } else {
        uv_timer_start(&p->timer, on_timer, at > now ? at - now : 0, 0);
    }
}

/* When neither the task nor the timer can be called any more. */
static void free_when_over(struct pg *p)
{
    if (p->closed && !p->posted) {
        free(p->url);
        free(p->hello);
        free(p);
    }
}

static void run(struct task *t)
{
    struct pg *p = CONTAINER_OF(t, struct pg, task);
    p->posted = false;
    tell_finished(p);
    if (p->closing) {
        free_when_over(p);
        return;
    }
    for (size_t i = 0; i < LANES; i++) {
        expire(p, &p->lanes[i]);
        send_waiting(&p->lanes[i]);
    }
    report_health(p);
    arm_timer(p);
}

/* --- outside ---------------------------------------------------------------------------------- */

static void open_lane(struct pg *p, struct lane *lane, unsigned n, unsigned depth)
{
    list_init(&lane->queue);
    lane->n = n;
    lane->depth = depth;
    lane->conns = NEW_ARRAY(struct pg_conn *, n);
    for (unsigned i = 0; i < n; i++) {
        lane->conns[i] = pg_conn_open(&p->conn);
    }
}

struct pg *pg_open(struct loop *l, const struct pg_options *o)
{
    CHECK(o->read_connections > 0 && o->write_connections > 0 && o->timeout_ms > 0);
    struct pg *p = NEW(struct pg);
    p->loop = l;
    p->url = mem_strdup(o->url);
    p->hello = mem_strdup(o->hello ? o->hello : "SELECT 1");
    p->timeout_ms = o->timeout_ms;
    p->queue = o->queue ? o->queue : QUEUE_DEFAULT;
    p->conn = (struct pg_conn_options){ .loop = l,
                                        .url = p->url,
                                        .timeout_ms = o->timeout_ms,
                                        .hello = p->hello,
                                        .on_hello = o->on_hello,
                                        .hello_arg = o->arg,
                                        .on_change = on_conn_change,
                                        .on_end = on_batch_end,
                                        .owner = p };
    p->task.run = run;
    list_init(&p->finished);
    CHECK(uv_timer_init(loop_uv(l), &p->timer) == 0);
    p->timer.data = p;
    health_set("database", true, "not yet connected");
    open_lane(p, &p->lanes[PG_READ], o->read_connections, READ_DEPTH);
    open_lane(p, &p->lanes[PG_WRITE], o->write_connections, 1);
    return p;
}

static void close_lane(struct pg *p, struct lane *lane)
{
    for (unsigned i = 0; i < lane->n; i++) {
        pg_conn_close(&lane->conns[i]);
    }
    free(lane->conns);
    for (struct pg_batch *b; (b = queue_head(lane));) {
        queue_pop(lane, b);
        pg_batch_fail(b, ERR_TEMP, "closed");
        on_batch_end(p, b);
    }
}

static void on_closed(uv_handle_t *h)
{
    struct pg *p = h->data;
    p->closed = true;
    free_when_over(p);
}

void pg_close(struct pg **pp)
{
    struct pg *p = *pp;
    *pp = NULL;
    p->closing = true;
    for (size_t i = 0; i < LANES; i++) {
        close_lane(p, &p->lanes[i]);
    }
    tell_finished(p);
    health_drop("database");
    uv_close((uv_handle_t *)&p->timer, on_closed);
}

bool pg_ready(const struct pg *p)
{
    for (size_t i = 0; i < LANES; i++) {
        bool ready = false;
        for (unsigned k = 0; k < p->lanes[i].n; k++) {
            ready = ready || pg_conn_ready(p->lanes[i].conns[k]);
        }
        if (!ready) {
            return false;
        }
    }
    return true;
}

struct op *pg_submit(struct pg *p, enum pg_lane lane, struct pg_batch **pb, pg_done_fn *done,
                     void *arg)
{
    struct pg_batch *b = *pb;
    struct lane *l = &p->lanes[lane];
    *pb = NULL;
    CHECK(b->n > 0);
    b->lane = lane;
    b->done = done;
    b->op.arg = arg;
    b->deadline = loop_now(p->loop) + p->timeout_ms;
    if (p->closing || l->queued >= p->queue) {
        pg_batch_fail(b, p->closing ? ERR_TEMP : ERR_LIMIT,
                      p->closing ? "closed" : "too many statements are waiting");
        on_batch_end(p, b);
        return &b->op;
    }
    list_add(&l->queue, &b->link);
    l->queued++;
    wake(p);
    return &b->op;
}
