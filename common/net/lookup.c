/*
 * lookup: a pool of one thread, a timer, and at most one question at a time.
 *
 * A question owns all that the thread touches, since it may outlive its deadline and the lookup
 * itself. What was found is the lookup's, on the loop alone.
 */
#include "net/lookup.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "net/pool.h"

#define QUESTION_MS 30000 /* what resolvers take that try several servers in vain */

struct lookup {
    struct pool *pool;
    uv_timer_t timer;
    char *host;
    char port[8];
    uint64_t retry_ms, refresh_ms;
    bool pending; /* no answer has come yet */
    bool failing; /* the last answer was none */
    bool closed;
    size_t n;
    struct sockaddr_storage v[LOOKUP_MAX];
};

struct question {
    struct job job;
    struct lookup *lookup; /* for the loop alone */
    char *host;
    char port[8];
    int error; /* of getaddrinfo */
    size_t n;
    struct sockaddr_storage v[LOOKUP_MAX];
};

/* --- on the thread --------------------------------------------------------------------------- */

static void on_run(struct job *j)
{
    struct question *q = CONTAINER_OF(j, struct question, job);
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
    q->error = getaddrinfo(q->host, q->port, &hints, &found);
    if (q->error != 0) {
        return;
    }
    for (struct addrinfo *a = found; a && q->n < LOOKUP_MAX; a = a->ai_next) {
        if (a->ai_family == AF_INET || a->ai_family == AF_INET6) {
            memcpy(&q->v[q->n++], a->ai_addr, a->ai_addrlen);
        }
    }
    freeaddrinfo(found);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void ask(struct lookup *u);

static void on_timer(uv_timer_t *t)
{
    ask(t->data);
}

/* A name that goes on to fail is told once. */
static void answered(struct lookup *u, const char *error)
{
    if (error && !u->failing) {
        LOG(LOG_WARN, "lookup.failed", F_STR("host", u->host), F_STR("why", error),
            F_U64("addresses", u->n));
    } else if (!error && (u->failing || u->pending)) {
        LOG(LOG_INFO, "lookup.done", F_STR("host", u->host), F_U64("addresses", u->n));
    }
    u->pending = false;
    u->failing = error != NULL;
    if (!u->closed) {
        uv_timer_start(&u->timer, on_timer, error ? u->retry_ms : u->refresh_ms, 0);
    }
}

static void on_done(struct job *j, enum err e)
{
    struct question *q = CONTAINER_OF(j, struct question, job);
    struct lookup *u = q->lookup;
    if (u->closed) {
        return;
    }
    if (e != ERR_OK) {
        answered(u, "no answer in time");
    } else if (q->error != 0 || q->n == 0) {
        answered(u, q->error != 0 ? gai_strerror(q->error) : "no address");
    } else {
        u->n = q->n;
        memcpy(u->v, q->v, sizeof u->v);
        answered(u, NULL);
    }
}

static void on_free(struct job *j)
{
    struct question *q = CONTAINER_OF(j, struct question, job);
    free(q->host);
    free(q);
}

static void ask(struct lookup *u)
{
    struct question *q = NEW(struct question);
    q->job.run = on_run;
    q->job.done = on_done;
    q->job.free = on_free;
    q->lookup = u;
    q->host = mem_strdup(u->host);
    memcpy(q->port, u->port, sizeof q->port);
    if (pool_submit(u->pool, &q->job) != ERR_OK) {
        on_free(&q->job);
        answered(u, "an earlier question still has no answer");
    }
}

struct lookup *lookup_open(struct loop *l, const struct lookup_options *o)
{
    struct lookup *u = NEW(struct lookup);
    struct pool_options po = {
        .name = "lookup", .threads = 1, .queue = 1, .timeout_ms = QUESTION_MS
    };
    u->host = mem_strdup(o->host);
    snprintf(u->port, sizeof u->port, "%u", (unsigned)o->port);
    u->retry_ms = o->retry_ms;
    u->refresh_ms = o->refresh_ms;
    u->pending = true;
    u->pool = pool_open(l, &po);
    u->timer.data = u;
    CHECK(uv_timer_init(loop_uv(l), &u->timer) == 0);
    ask(u);
    return u;
}

static void on_timer_closed(uv_handle_t *h)
{
    struct lookup *u = h->data;
    free(u->host);
    free(u);
}

void lookup_close(struct lookup **up)
{
    struct lookup *u = *up;
    *up = NULL;
    if (u) {
        u->closed = true;
        pool_close(&u->pool);
        uv_close((uv_handle_t *)&u->timer, on_timer_closed);
    }
}

bool lookup_pending(const struct lookup *u)
{
    return u->pending;
}

size_t lookup_addresses(const struct lookup *u, const struct sockaddr_storage **v)
{
    *v = u->v;
    return u->n;
}
