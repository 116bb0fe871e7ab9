/*
 * reload: reads configuration and certificates on a thread, so that a daemon with thousands of
 * certificates goes on serving meanwhile.
 *
 * One reading at a time; a wish that comes meanwhile is remembered, not queued: two are as good as
 * one. It owns its thread and what is being read; what was read is its owner's. It lives as long as
 * the process, and puts nothing in force.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "daemon/parts.h"
#include "net/pool.h"

/* Files that take longer lie on a server that hangs. */
#define READ_MS 60000

struct reload {
    struct pool *pool;
    const struct daemon_service *service;
    const char *path;
    reload_fn *fn;
    void *arg;
    bool busy;
    bool all, tls; /* wanted next, all first */
    const struct config *const *in_force;
    uint8_t stamp[TLS_STAMP_SIZE]; /* of the last reading */
};

/* One reading: all of it is its own, as it may outlive its deadline. */
struct reading {
    struct job job;
    struct reload *reload; /* for the loop alone */
    const struct daemon_service *service;
    const char *path;
    const struct config *tls_of; /* NULL: everything is read */
    uint8_t stamp[TLS_STAMP_SIZE];
    bool same; /* as at the last reading: nothing was read */
    struct reload_result result;
    char why[512];
};

static void read_tls(struct reading *g)
{
    uint8_t stamp[TLS_STAMP_SIZE];
    daemon_stamp_tls(g->tls_of, stamp);
    g->same = memcmp(stamp, g->stamp, sizeof stamp) == 0;
    memcpy(g->stamp, stamp, sizeof stamp);
    if (!g->same) {
        g->result.e = daemon_read_tls(g->service, g->tls_of, &g->result.tls, g->why, sizeof g->why);
    }
}

static void on_run(struct job *j)
{
    struct reading *g = CONTAINER_OF(j, struct reading, job);
    if (g->tls_of) {
        read_tls(g);
    } else {
        g->result.e = daemon_read(g->service, g->path, &g->result.config, &g->result.tls, g->stamp,
                                  g->why, sizeof g->why);
    }
}

static void start_next(struct reload *r);

static void fail(struct reload *r, bool tls_alone, const char *why)
{
    struct reload_result result = { .tls_alone = tls_alone, .e = ERR_TEMP, .why = why };
    r->fn(r->arg, &result);
}

static void tell(struct reload *r, struct reading *g)
{
    struct reload_result result = g->result;
    result.why = g->why;
    memcpy(r->stamp, g->stamp, sizeof r->stamp);
    if (g->same) {
        return;
    }
    if (result.e == ERR_OK) {
        g->result.config = NULL;
        g->result.tls = NULL;
    }
    r->fn(r->arg, &result);
}

static void on_done(struct job *j, enum err e)
{
    struct reading *g = CONTAINER_OF(j, struct reading, job);
    struct reload *r = g->reload;
    r->busy = false;
    if (e == ERR_OK) {
        tell(r, g);
    } else {
        fail(r, g->tls_of != NULL, "reading the files took too long");
    }
    start_next(r);
}

static void on_free(struct job *j)
{
    struct reading *g = CONTAINER_OF(j, struct reading, job);
    config_free(&g->result.config);
    tls_unref(&g->result.tls);
    free(g);
}

static void start(struct reload *r, const struct config *tls_of)
{
    struct reading *g = NEW(struct reading);
    g->job.run = on_run;
    g->job.done = on_done;
    g->job.free = on_free;
    g->reload = r;
    g->service = r->service;
    g->path = r->path;
    g->tls_of = tls_of;
    g->result.tls_alone = tls_of != NULL;
    memcpy(g->stamp, r->stamp, sizeof g->stamp);
    r->busy = pool_submit(r->pool, &g->job) == ERR_OK;
    if (!r->busy) {
        free(g);
        fail(r, tls_of != NULL, "reading the files still hangs");
    }
}

static void start_next(struct reload *r)
{
    bool all = r->all;
    if (r->busy || (!all && !r->tls)) {
        return;
    }
    r->all = false;
    r->tls = all && r->tls; /* of the configuration that will be in force then */
    start(r, all ? NULL : *r->in_force);
}

void reload_all(struct reload *r)
{
    r->all = true;
    start_next(r);
}

void reload_tls(struct reload *r)
{
    r->tls = true;
    start_next(r);
}

struct reload *reload_open(struct loop *l, const struct daemon_service *s, const char *path,
                           const struct config *const *in_force,
                           const uint8_t stamp[TLS_STAMP_SIZE], reload_fn *fn, void *arg)
{
    struct reload *r = NEW(struct reload);
    struct pool_options o = { .name = "reload", .threads = 1, .queue = 1, .timeout_ms = READ_MS };
    r->pool = pool_open(l, &o);
    r->service = s;
    r->path = path;
    r->in_force = in_force;
    r->fn = fn;
    r->arg = arg;
    if (stamp) {
        memcpy(r->stamp, stamp, sizeof r->stamp);
    }
    return r;
}
