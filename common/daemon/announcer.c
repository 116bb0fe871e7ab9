/*
 * announcer: a worker's part in telling the fleet of its daemon, in the table of nodes, and in
 * hearing whether an operator has drained it.
 *
 * One worker speaks for all: that of slot 0, or the next one that finds the word to be overdue. It
 * notes the answer in the block of counters, where the others and the master find it. An
 * announcement that fails changes nothing: what was heard last holds. Only at the start, when
 * nothing was heard yet, the daemon is not ready until the database has answered, or could have.
 *
 * Each worker also measures how busy it is here, as load is part of what is told. It lives as long
 * as the process; no session waits for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/log.h"
#include "daemon/parts.h"
#include "store/schema_version.h"

#define LOOK_MS    1000 /* how late the fleet hears that the daemon is not ready any more */
#define UNKNOWN_MS 50   /* the same while it is not known whether the node is drained */
/*
 * How long a load is remembered. A balancer gives a node connections by what it has left; were it
 * told the load of the moment, two busy nodes would take turns at being overloaded.
 */
#define SMOOTHING_MS 32000

struct announcer {
    struct announcer_options o;
    uv_timer_t timer;
    struct op *op;         /* what is under way; NULL: nothing */
    bool again;            /* when that has ended */
    bool last, ended;      /* the daemon's last one is wanted; it was said */
    bool failing;          /* which was logged */
    char told[HEALTH_WHY]; /* last */
    uint64_t due;          /* the next, if no other worker is faster */
    double busy;           /* per cent of a processor */
    uint64_t cpu_ms, at_ms;
};

/* --- how busy -------------------------------------------------------------------------------- */

static uint64_t cpu_ms(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void measure(struct announcer *a)
{
    uint64_t now = loop_now(a->o.loop), cpu = cpu_ms();
    if (a->at_ms && now > a->at_ms) {
        double ms = (double)(now - a->at_ms);
        double used = 100.0 * (double)(cpu - a->cpu_ms) / ms;
        a->busy += (used - a->busy) * (ms < SMOOTHING_MS ? ms / SMOOTHING_MS : 1);
        stats_set(STAT_busy, (uint64_t)a->busy);
    }
    a->at_ms = now;
    a->cpu_ms = cpu;
}

/* --- announcing ------------------------------------------------------------------------------ */

/* How many workers serve. */
static unsigned serving(const struct announcer *a)
{
    unsigned n = 0;
    for (unsigned i = 0; i < a->o.view->workers; i++) {
        n += atomic_load(&a->o.block->slots[i].started);
    }
    return n;
}

static void heard(struct announcer *a, bool drain)
{
    atomic_store(&a->o.block->announced_ms, loop_now(a->o.loop));
    int is = drain ? DRAIN_YES : DRAIN_NO, was = atomic_exchange(&a->o.block->drain, is);
    if (was != is && (drain || was == DRAIN_YES)) {
        LOG(LOG_INFO, "node.drain", F_STR("role", a->o.role), F_STR("drain", drain ? "yes" : "no"));
    }
}

static void missed(struct announcer *a, enum err e)
{
    stats_add(STAT_announce_faults, 1);
    if (!a->failing) {
        LOG(LOG_WARN, "node.unannounced", F_ERR(e));
    }
    if (store_connected(a->o.store)) {
        int unknown = DRAIN_UNKNOWN;
        atomic_compare_exchange_strong(&a->o.block->drain, &unknown, DRAIN_NO);
    }
}

static void announce(struct announcer *a);

static void on_announced(void *arg, enum err e, bool drain)
{
    struct announcer *a = arg;
    a->op = NULL;
    if (e == ERR_OK) {
        heard(a, drain);
    } else {
        missed(a, e);
    }
    a->failing = e != ERR_OK;
    a->ended = a->last && !a->again;
    if (a->again) {
        a->again = false;
        announce(a);
    }
}

static void look(const struct announcer *a, char why[HEALTH_WHY])
{
    if (a->last || a->o.view->draining) {
        snprintf(why, HEALTH_WHY, a->last ? "stopped" : "stopping");
    } else {
        health_well(a->o.view, why);
    }
}

static void announce(struct announcer *a)
{
    const struct announcer_options *o = &a->o;
    const struct config *c = *o->config;
    if (a->op) {
        a->again = true;
        return;
    }
    look(a, a->told);
    a->due = loop_now(o->loop) + c->node_announce;
    struct announcement n = { .name = o->view->node,
                              .role = o->role,
                              .version = MAILFLEET_VERSION,
                              .schema = SCHEMA_VERSION,
                              .up_ms = loop_now(o->loop) - o->block->started_ms,
                              .every_ms = c->node_announce,
                              .sessions = health_sessions(o->view),
                              .capacity = o->view->capacity,
                              .load = health_load(o->view),
                              .why = a->told,
                              .stopped = a->last,
                              .draining = atomic_load(&o->block->drain) == DRAIN_YES };
    a->op = store_announce(o->store, &n, on_announced, a);
}

/* A worker that is down, stuck or cut off from the database is replaced before the node is silent:
 * the one of the next slot waits half an interval longer. */
static bool is_due(const struct announcer *a)
{
    uint64_t every = (*a->o.config)->node_announce, now = loop_now(a->o.loop);
    uint64_t last = atomic_load(&a->o.block->announced_ms);
    return now >= a->due && (last == 0 || now >= last + every + a->o.index * every / 2);
}

/* What the fleet knows is not so any more. */
static bool is_news(const struct announcer *a)
{
    char why[HEALTH_WHY];
    look(a, why);
    return a->o.index == 0 && strcmp(why, a->told) != 0;
}

void announcer_look(struct announcer *a)
{
    if (store_connected(a->o.store) && (is_due(a) || is_news(a))) {
        announce(a);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct announcer *a = t->data;
    uint64_t every = (*a->o.config)->node_announce;
    measure(a);
    announcer_look(a);
    if (atomic_load(&a->o.block->drain) == DRAIN_UNKNOWN) {
        every = UNKNOWN_MS;
    } else if (every > LOOK_MS) {
        every = LOOK_MS;
    }
    uv_timer_start(&a->timer, on_timer, every, 0);
}

bool announcer_end(struct announcer *a)
{
    if (a->last) {
        return a->ended;
    }
    /* Ours first: of two that end at once one must see that there is no other. */
    stats_ending();
    uv_timer_stop(&a->timer);
    if (serving(a) > 0 || !store_connected(a->o.store)) {
        return true;
    }
    a->last = true;
    announce(a);
    return false;
}

struct announcer *announcer_open(const struct announcer_options *o)
{
    struct announcer *a = NEW(struct announcer);
    a->o = *o;
    a->told[0] = '?'; /* by the worker before this one, perhaps: whatever it is, it is news */
    CHECK(uv_timer_init(loop_uv(o->loop), &a->timer) == 0);
    a->timer.data = a;
    uv_timer_start(&a->timer, on_timer, 0, 0);
    return a;
}
