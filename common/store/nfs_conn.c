/*
 * nfs_conn: turns poll events into rpc_service, and its results into two events.
 *
 * The memory has several holders (the owner, a job on the pool, the poll handle until libuv lets it
 * go, a posted task) and goes with the last. The libnfs context belongs to the conn; between
 * nfs_conn_open and the end of the job only the job's thread touches it.
 *
 * libnfs's own reconnecting and time-outs stay off: the first spins, the second can leave a queue
 * that points to freed memory (mended in 6.0).
 */
#include "store/nfs_conn.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/stats.h"

/* A firewall forgets idle connections, and a server that vanished says nothing. */
#define KEEP_IDLE_S  30
#define KEEP_EVERY_S 10
#define KEEP_TRIES   3

struct nfs_conn {
    struct loop *loop;
    nfs_conn_fn *fn; /* NULL once it was closed */
    void *arg;
    char host[256];
    uint16_t port;
    struct nfs_owner owner;
    struct job job;
    struct rpc_context *rpc; /* NULL until the job has run */
    uv_poll_t poll;
    bool polling;
    int waits_for;   /* what poll was last told */
    bool in_service; /* a callback of libnfs may be running */
    bool lost;
    bool posted;
    struct task task; /* flushes, or tells of a failure */
    char why[HEALTH_WHY];
    unsigned refs;
};

static void unref(struct nfs_conn *c)
{
    if (--c->refs == 0) {
        free(c);
    }
}

static void post(struct nfs_conn *c)
{
    if (!c->posted) {
        c->posted = true;
        c->refs++;
        loop_post(c->loop, &c->task);
    }
}

static void tell_lost(struct nfs_conn *c, const char *why)
{
    if (c->lost) {
        return;
    }
    c->lost = true;
    if (c->polling) {
        uv_poll_stop(&c->poll);
    }
    if (c->fn) {
        c->fn(c->arg, NFS_CONN_LOST, why);
    }
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void on_poll(uv_poll_t *h, int status, int events);

/* Bytes that the socket did not take yet are waited for; else only answers are. */
static void wait_for_events(struct nfs_conn *c)
{
    int events = rpc_which_events(c->rpc);
    events = (events & POLLIN ? UV_READABLE : 0) | (events & POLLOUT ? UV_WRITABLE : 0);
    if (events != c->waits_for) { /* telling it costs two system calls */
        c->waits_for = events;
        uv_poll_start(&c->poll, events, on_poll);
    }
}

static bool service(struct nfs_conn *c, int events)
{
    c->in_service = true;
    int r = rpc_service(c->rpc, events);
    c->in_service = false;
    return r == 0;
}

/*
 * The owner may close the conn in its event, so a reference is held. What callbacks have queued is
 * sent in the same turn.
 */
static void serve(struct nfs_conn *c, int events)
{
    c->refs++;
    bool ok = service(c, events);
    if (ok && c->fn && !c->lost && rpc_which_events(c->rpc) & POLLOUT) {
        ok = service(c, POLLOUT);
    }
    if (c->fn && !ok) {
        const char *why = rpc_get_error(c->rpc);
        tell_lost(c, why && *why ? why : "the server closed the connection");
    } else if (c->fn && !c->lost) {
        wait_for_events(c);
    }
    unref(c);
}

/* What libuv reports as a bad descriptor is an error of the socket: mostly a refused connection. */
static void socket_failed(struct nfs_conn *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(rpc_get_fd(c->rpc), SOL_SOCKET, SO_ERROR, &error, &size);
    c->refs++;
    tell_lost(c, error ? strerror(error) : "the connection failed");
    unref(c);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    if (status < 0) {
        socket_failed(h->data);
    } else {
        serve(h->data, (events & UV_READABLE ? POLLIN : 0) | (events & UV_WRITABLE ? POLLOUT : 0));
    }
}

static void on_task(struct task *t)
{
    struct nfs_conn *c = CONTAINER_OF(t, struct nfs_conn, task);
    c->posted = false;
    if (c->fn && !c->lost) {
        if (c->rpc) {
            serve(c, POLLOUT);
        } else {
            tell_lost(c, c->why);
        }
    }
    unref(c);
}

/* libnfs calls it from rpc_service; failure is told by that function's result as well. */
static void on_connected(struct rpc_context *rpc, int status, void *data, void *arg)
{
    struct nfs_conn *c = arg;
    (void)rpc;
    (void)data;
    if (status == RPC_STATUS_SUCCESS && c->fn) {
        stats_add(STAT_nfs_connections, 1);
        c->fn(c->arg, NFS_CONN_UP, NULL);
    }
}

struct rpc_context *nfs_conn_rpc(struct nfs_conn *c)
{
    return c->rpc;
}

void nfs_conn_flush(struct nfs_conn *c)
{
    if (!c->in_service) {
        post(c);
    }
}

/* --- connecting ------------------------------------------------------------------------------ */

static bool look_up(struct nfs_conn *c, char *address, size_t size)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    int e = getaddrinfo(c->host, NULL, &hints, &found);
    if (e == 0) {
        e = getnameinfo(found->ai_addr, found->ai_addrlen, address, (socklen_t)size, NULL, 0,
                        NI_NUMERICHOST);
        freeaddrinfo(found);
    }
    if (e != 0) {
        snprintf(c->why, sizeof c->why, "%.100s: %s", c->host, gai_strerror(e));
    }
    return e == 0;
}

/* libnfs keeps counters that all its contexts share and that it does not guard. */
static pthread_mutex_t libnfs_statics = PTHREAD_MUTEX_INITIALIZER;

static struct rpc_context *connect_to(struct nfs_conn *c, const char *address)
{
    CHECK(pthread_mutex_lock(&libnfs_statics) == 0);
    struct rpc_context *rpc = rpc_init_context();
    CHECK(rpc);
    struct AUTH *auth = libnfs_authunix_create("mailfleet", c->owner.uid, c->owner.gid, 0, NULL);
    CHECK(auth);
    rpc_set_auth(rpc, auth);
    int e = rpc_connect_async(rpc, address, c->port, on_connected, c);
    CHECK(pthread_mutex_unlock(&libnfs_statics) == 0);
    if (e != 0) {
        snprintf(c->why, sizeof c->why, "%s", rpc_get_error(rpc));
        rpc_destroy_context(rpc);
        return NULL;
    }
    return rpc;
}

static void on_run(struct job *j)
{
    struct nfs_conn *c = CONTAINER_OF(j, struct nfs_conn, job);
    char address[NI_MAXHOST];
    if (look_up(c, address, sizeof address)) {
        c->rpc = connect_to(c, address);
    }
}

static void set_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value); /* it works without */
}

static void begin_polling(struct nfs_conn *c)
{
    int fd = rpc_get_fd(c->rpc);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_EVERY_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_TRIES);
    CHECK(uv_poll_init(loop_uv(c->loop), &c->poll, fd) == 0);
    c->poll.data = c;
    c->polling = true;
    c->refs++;
    wait_for_events(c);
}

static void on_done(struct job *j, enum err e)
{
    struct nfs_conn *c = CONTAINER_OF(j, struct nfs_conn, job);
    if (!c->fn) {
        return;
    }
    if (e == ERR_OK && c->rpc) {
        begin_polling(c);
    } else {
        tell_lost(c, e == ERR_OK ? c->why : "looking the host up takes too long");
    }
}

/* What nobody polls is nobody's: it was closed meanwhile, or the job was too late. */
static void on_free(struct job *j)
{
    struct nfs_conn *c = CONTAINER_OF(j, struct nfs_conn, job);
    if (c->rpc && !c->polling) {
        rpc_destroy_context(c->rpc);
        c->rpc = NULL;
    }
    unref(c);
}

struct nfs_conn *nfs_conn_open(struct loop *l, struct pool *p, const char *host, uint16_t port,
                               const struct nfs_owner *owner, nfs_conn_fn *fn, void *arg)
{
    struct nfs_conn *c = NEW(struct nfs_conn);
    c->loop = l;
    c->fn = fn;
    c->arg = arg;
    snprintf(c->host, sizeof c->host, "%s", host);
    c->port = port;
    c->owner = *owner;
    c->task.run = on_task;
    c->job = (struct job){ .run = on_run, .done = on_done, .free = on_free };
    c->refs = 2; /* the owner's and the job's */
    if (pool_submit(p, &c->job) != ERR_OK) {
        c->refs--;
        snprintf(c->why, sizeof c->why, "too many connections are being opened");
        post(c);
    }
    return c;
}

static void on_poll_closed(uv_handle_t *h)
{
    unref(h->data);
}

/* A job that is under way keeps its context until it has returned. */
void nfs_conn_close(struct nfs_conn **pc)
{
    struct nfs_conn *c = *pc;
    *pc = NULL;
    if (!c) {
        return;
    }
    CHECK(!c->in_service);
    c->fn = NULL;
    if (c->polling) {
        c->polling = false;
        uv_close((uv_handle_t *)&c->poll, on_poll_closed);
        struct rpc_context *rpc = c->rpc;
        c->rpc = NULL;
        rpc_destroy_context(rpc);
    }
    unref(c);
}
