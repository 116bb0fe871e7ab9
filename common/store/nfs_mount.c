/*
 * nfs_mount: two steps, each a connection, one call and its answer:
 *
 *   PORT   the portmapper: where is MOUNT?   (left out when the URL says it)
 *   MNT    MOUNT: the handle of the path
 *
 * A conn may not be closed in the callback of its call, so an answer is kept and looked at in a
 * task of its own.
 */
#include "store/nfs_mount.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-portmap.h>

#include "base/check.h"
#include "base/stats.h"

#define PORTMAPPER 111

enum mount_step { STEP_PORT, STEP_MNT };

struct nfs_mount {
    struct loop *loop;
    struct pool *pool;
    const struct nfs_export *url;
    struct nfs_owner owner;
    nfs_mount_fn *fn; /* NULL once it was given up */
    void *arg;
    enum mount_step step;
    struct nfs_conn *conn;
    uv_timer_t timer;
    struct task task;
    bool answered; /* the task is posted */
    uint16_t port; /* of MOUNT */
    struct nfs_handle root;
    char why[HEALTH_WHY]; /* empty while all is well */
};

static void on_timer_closed(uv_handle_t *h)
{
    free(h->data);
}

static void mount_free(struct nfs_mount *m)
{
    nfs_conn_close(&m->conn);
    uv_close((uv_handle_t *)&m->timer, on_timer_closed);
}

static void mount_end(struct nfs_mount *m)
{
    if (m->fn) {
        m->fn(m->arg, *m->why ? ERR_TEMP : ERR_OK, &m->root, m->why);
    }
    mount_free(m);
}

static void answered(struct nfs_mount *m)
{
    if (!m->answered) {
        m->answered = true;
        loop_post(m->loop, &m->task);
    }
}

/* Only what comes first counts: a server may close the connection right behind its answer. */
static void failed(struct nfs_mount *m, const char *what, const char *why)
{
    if (m->answered) {
        return;
    }
    snprintf(m->why, sizeof m->why, "%s: %s", what, why);
    answered(m);
}

/* --- the two calls --------------------------------------------------------------------------- */

static const char *what(const struct nfs_mount *m)
{
    return m->step == STEP_PORT ? "portmapper" : "MOUNT";
}

/* A call that ends because its conn is closed has no news. */
static bool has_answer(struct nfs_mount *m, int status, const void *data)
{
    if (status == RPC_STATUS_ERROR) {
        failed(m, what(m), data ? data : "no answer");
    }
    return status == RPC_STATUS_SUCCESS && data;
}

static void on_port(struct rpc_context *rpc, int status, void *data, void *arg)
{
    struct nfs_mount *m = arg;
    (void)rpc;
    if (!has_answer(m, status, data)) {
        return;
    }
    uint32_t port;
    memcpy(&port, data, sizeof port);
    if (!port || port > UINT16_MAX) {
        failed(m, what(m), "MOUNT is not registered; mountport= may name its port");
        return;
    }
    m->port = (uint16_t)port;
    answered(m);
}

static const char *status_text(mountstat3 status)
{
    switch (status) {
    case MNT3ERR_PERM:
    case MNT3ERR_ACCES:
        return "the server does not export it to this host";
    case MNT3ERR_NOENT:
        return "there is no such export or directory";
    case MNT3ERR_NOTDIR:
        return "it is not a directory";
    default:
        return "the server has a fault";
    }
}

static void on_mounted(struct rpc_context *rpc, int status, void *data, void *arg)
{
    struct nfs_mount *m = arg;
    (void)rpc;
    if (!has_answer(m, status, data)) {
        return;
    }
    const struct mountres3 *r = data;
    if (r->fhs_status != MNT3_OK) {
        failed(m, what(m), status_text(r->fhs_status));
        return;
    }
    const struct mountres3_ok *ok = &r->mountres3_u.mountinfo;
    if (!nfs_handle_set(&m->root, span_of(ok->fhandle.fhandle3_val, ok->fhandle.fhandle3_len))) {
        failed(m, what(m), "the handle is none");
        return;
    }
    answered(m);
}

static void call(struct nfs_mount *m)
{
    struct rpc_context *rpc = nfs_conn_rpc(m->conn);
    int e = m->step == STEP_PORT
                ? rpc_pmap2_getport_async(rpc, MOUNT_PROGRAM, MOUNT_V3, IPPROTO_TCP, on_port, m)
                : rpc_mount3_mnt_async(rpc, on_mounted, (char *)(uintptr_t)m->url->path, m);
    if (e != 0) {
        failed(m, what(m), "the call can't be made");
        return;
    }
    stats_add(STAT_nfs_calls, 1);
    nfs_conn_flush(m->conn);
}

/* --- the steps ------------------------------------------------------------------------------- */

static void on_conn(void *arg, enum nfs_conn_event ev, const char *why)
{
    struct nfs_mount *m = arg;
    if (ev == NFS_CONN_UP) {
        call(m);
    } else {
        failed(m, what(m), why);
    }
}

static void begin(struct nfs_mount *m, enum mount_step step)
{
    m->step = step;
    m->conn = nfs_conn_open(m->loop, m->pool, m->url->host,
                            step == STEP_PORT ? PORTMAPPER : m->port, &m->owner, on_conn, m);
}

static void on_answered(struct task *t)
{
    struct nfs_mount *m = CONTAINER_OF(t, struct nfs_mount, task);
    m->answered = false;
    nfs_conn_close(&m->conn);
    if (m->fn && !*m->why && m->step == STEP_PORT) {
        begin(m, STEP_MNT);
    } else {
        mount_end(m);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct nfs_mount *m = t->data;
    failed(m, what(m), "the server does not answer");
}

struct nfs_mount *nfs_mount_start(struct loop *l, struct pool *p, const struct nfs_export *url,
                                  const struct nfs_owner *owner, uint64_t timeout_ms,
                                  nfs_mount_fn *fn, void *arg)
{
    struct nfs_mount *m = NEW(struct nfs_mount);
    m->loop = l;
    m->pool = p;
    m->url = url;
    m->owner = *owner;
    m->fn = fn;
    m->arg = arg;
    m->port = url->mount_port;
    m->task.run = on_answered;
    CHECK(uv_timer_init(loop_uv(l), &m->timer) == 0);
    m->timer.data = m;
    uv_timer_start(&m->timer, on_timer, timeout_ms, 0);
    begin(m, m->port ? STEP_MNT : STEP_PORT);
    return m;
}

/* With an answer on its way the task ends it; but the conn goes before its pool. */
void nfs_mount_cancel(struct nfs_mount **pm)
{
    struct nfs_mount *m = *pm;
    *pm = NULL;
    if (m) {
        nfs_conn_close(&m->conn);
    }
    if (m && m->answered) {
        m->fn = NULL;
    } else if (m) {
        mount_free(m);
    }
}
