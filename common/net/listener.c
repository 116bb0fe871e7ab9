/*
 * listener: a listening socket, and the conns that are not yet ready to talk (their preface).
 *
 * The listener owns the prefaces and, until it gives it to accept, the conn of each. It reads no
 * more of a PROXY header than there is in front of a TLS hello, which OpenSSL must find on the
 * socket. Whether a session may begin is not decided here.
 */
#include "net/listener.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "net/proxy.h"

#define BACKLOG 4096
/* Accepted in one turn of the loop: the sessions that exist get theirs too. */
#define ACCEPT_BATCH 64
/* A further conn pushes the oldest one out of its preface. */
#define PREFACE_LIMIT 4096
/* No accepting for so long when the process is out of descriptors or memory. */
#define PAUSE_MS 100

struct listener {
    struct loop *loop;
    struct listener_options o;
    uv_poll_t poll;
    uv_timer_t pause;
    int handles;  /* of the two, not yet closed */
    bool starved; /* the last accept failed for want of descriptors or memory */
    struct list prefaces;
    size_t preface_count;
    struct log_pace failed, forbidden;
};

struct preface {
    struct list link;
    struct listener *listener;
    struct conn *conn;
    bool header;   /* the PROXY header is still to come */
    bool admitted; /* by options.admit, which is to hear how it ends */
};

/* --- preface --------------------------------------------------------------------------------- */

/* Takes the conn out of its preface, which is gone then. */
static struct conn *preface_end(struct preface *p)
{
    struct conn *c = p->conn;
    conn_own(c, NULL, NULL);
    conn_deadline(c, 0);
    list_del(&p->link);
    p->listener->preface_count--;
    free(p);
    return c;
}

/* It comes to nothing. */
static void preface_drop(struct preface *p)
{
    struct listener *ln = p->listener;
    bool admitted = p->admitted;
    struct conn *c = preface_end(p);
    if (admitted) {
        ln->o.leave(ln->o.arg, c);
    }
    conn_close(&c, 0);
}

static void log_failed(struct listener *ln, const struct conn *c, const char *why)
{
    char host[NETADDR_TEXT];
    uint64_t more;
    if (log_may(&ln->failed, loop_now(ln->loop), &more)) {
        netaddr_host(conn_peer(c), host);
        LOG(LOG_INFO, "preface.failed", F_STR("peer", host), F_STR("why", why),
            F_U64("more", more));
    }
}

static void refuse(struct preface *p, const char *why)
{
    log_failed(p->listener, p->conn, why);
    stats_add(p->header ? STAT_proxy_errors : STAT_tls_errors, 1);
    preface_drop(p);
}

static bool admit(struct preface *p)
{
    const struct listener_options *o = &p->listener->o;
    p->admitted = o->admit && o->admit(o->arg, p->conn);
    return p->admitted || !o->admit;
}

/* The next thing that the port asks for; nothing more: the conn is ready. */
static void advance(struct preface *p)
{
    struct listener *ln = p->listener;
    if (ln->o.tls && !conn_tls(p->conn)) {
        if (!admit(p)) {
            preface_drop(p);
            return;
        }
        /* Input in front of the handshake: there is none, as no more than the header was read. */
        CHECK(conn_start_tls(p->conn, ln->o.tls) == ERR_OK);
        return;
    }
    ln->o.accept(ln->o.arg, preface_end(p));
}

static void use_header(struct preface *p, const struct proxy_header *h)
{
    char text[sizeof h->tls_version + sizeof h->tls_cipher + 1];
    if (!h->local) {
        conn_set_addresses(p->conn, (const struct sockaddr *)&h->source,
                           (const struct sockaddr *)&h->destination);
    }
    snprintf(text, sizeof text, "%s%s%s", *h->tls_version ? h->tls_version : "TLS",
             *h->tls_cipher ? " " : "", h->tls_cipher);
    conn_set_proxied(p->conn, h->tls && p->listener->o.trust_tls ? text : NULL, h->unique_id);
}

static void read_header(struct preface *p)
{
    struct conn *c = p->conn;
    struct buf *in = conn_in(c);
    struct proxy_header h;
    size_t used;
    switch (proxy_parse(buf_span(in), &h, &used)) {
    case ERR_OK:
        break;
    case ERR_TEMP:
        in->limit = p->listener->o.tls ? buf_len(in) + proxy_need(buf_span(in)) : PROXY_HEADER_MAX;
        conn_taken(c);
        return;
    default:
        refuse(p, "bad PROXY header");
        return;
    }
    buf_take(in, used);
    in->limit = CONN_IN_LIMIT;
    conn_taken(c);
    use_header(p, &h);
    p->header = false;
    advance(p);
}

/* A peer that says nothing at all is a balancer's check of the port: no news. */
static void on_end(struct preface *p)
{
    if (p->header && buf_len(conn_in(p->conn)) > 0) {
        refuse(p, "closed within the PROXY header");
        return;
    }
    preface_drop(p);
}

static void on_conn(void *owner, struct conn *c, enum conn_event ev)
{
    struct preface *p = owner;
    (void)c;
    switch (ev) {
    case CONN_DATA:
        if (p->header) {
            read_header(p);
        }
        break;
    case CONN_TLS_UP:
        advance(p);
        break;
    case CONN_EOF:
        on_end(p);
        break;
    case CONN_DEADLINE:
        refuse(p, p->header ? "no PROXY header in time" : "no TLS handshake in time");
        break;
    case CONN_DRAINED:
    case CONN_CLOSED:
        break;
    }
}

static void preface_begin(struct listener *ln, struct conn *c)
{
    if (ln->preface_count == PREFACE_LIMIT) {
        refuse(CONTAINER_OF(ln->prefaces.next, struct preface, link), "too many at once");
    }
    struct preface *p = NEW(struct preface);
    p->listener = ln;
    p->conn = c;
    p->header = ln->o.proxy;
    list_add(&ln->prefaces, &p->link);
    ln->preface_count++;
    conn_own(c, on_conn, p);
    conn_deadline(c, loop_now(ln->loop) + ln->o.preface_ms);
    if (p->header) {
        read_header(p);
    } else {
        advance(p);
    }
}

/* --- accepting ------------------------------------------------------------------------------- */

static bool may_send_header(struct listener *ln, const struct sockaddr *peer)
{
    char host[NETADDR_TEXT];
    uint64_t more;
    if (netset_has(ln->o.networks, peer)) {
        return true;
    }
    if (log_may(&ln->forbidden, loop_now(ln->loop), &more)) {
        netaddr_host(peer, host);
        LOG(LOG_WARN, "proxy.forbidden", F_STR("peer", host), F_U64("more", more));
    }
    stats_add(STAT_proxy_errors, 1);
    return false;
}

static void take(struct listener *ln, int fd, const struct sockaddr *peer)
{
    stats_add(STAT_connections, 1);
    if (ln->o.proxy && !may_send_header(ln, peer)) {
        close(fd);
        return;
    }
    struct conn *c = conn_open(ln->loop, fd);
    conn_set_addresses(c, peer, NULL);
    if (ln->o.proxy || ln->o.tls) {
        preface_begin(ln, c);
    } else {
        ln->o.accept(ln->o.arg, c);
    }
}

static void on_pause_over(uv_timer_t *h);

/* Trying again at once would spin: the connection stays in the backlog, and the socket readable. */
static void starve(struct listener *ln)
{
    if (!ln->starved) {
        LOG(LOG_ERROR, "listener.starved", F_STR("why", strerror(errno)));
    }
    ln->starved = true;
    uv_poll_stop(&ln->poll);
    uv_timer_start(&ln->pause, on_pause_over, PAUSE_MS, 0);
}

static void on_connection(uv_poll_t *h, int status, int events)
{
    struct listener *ln = h->data;
    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage peer = { 0 };
        socklen_t size = sizeof peer;
        int fd = accept4(ln->o.fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            ln->starved = false;
            take(ln, fd, (struct sockaddr *)&peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            starve(ln);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void listen_on(struct listener *ln)
{
    CHECK(uv_poll_start(&ln->poll, UV_READABLE, on_connection) == 0);
}

static void on_pause_over(uv_timer_t *h)
{
    listen_on(h->data);
}

int listener_bind(const struct sockaddr *sa)
{
    int on = 1;
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    /* [::] is IPv6 alone, so that 0.0.0.0 on the same port can stand beside it. Replies are written
     * whole, so waiting for more would only delay them: what is accepted inherits that. */
    bool v6 = sa->sa_family == AF_INET6;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0 &&
        (!v6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) == 0) &&
        bind(fd, sa, netaddr_len(sa)) == 0) {
        return fd;
    }
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

enum err listener_open(struct loop *l, const struct listener_options *o, struct listener **out)
{
    if (listen(o->fd, BACKLOG) != 0) {
        return ERR_TEMP;
    }
    struct listener *ln = NEW(struct listener);
    ln->loop = l;
    ln->o = *o;
    if (o->tls) {
        tls_ref(o->tls);
    }
    ln->handles = 2;
    ln->poll.data = ln->pause.data = ln;
    list_init(&ln->prefaces);
    CHECK(uv_poll_init(loop_uv(l), &ln->poll, o->fd) == 0);
    CHECK(uv_timer_init(loop_uv(l), &ln->pause) == 0);
    listen_on(ln);
    *out = ln;
    return ERR_OK;
}

void listener_set_tls(struct listener *ln, struct tls *t)
{
    CHECK(ln->o.tls && t);
    tls_unref(&ln->o.tls);
    ln->o.tls = tls_ref(t);
}

void listener_set_proxy(struct listener *ln, const struct netset *networks, bool trust_tls)
{
    ln->o.networks = networks;
    ln->o.trust_tls = trust_tls;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct listener *ln = h->data;
    if (--ln->handles == 0) {
        free(ln);
    }
}

void listener_close(struct listener **lp)
{
    struct listener *ln = *lp;
    *lp = NULL;
    while (!list_empty(&ln->prefaces)) {
        preface_drop(CONTAINER_OF(ln->prefaces.next, struct preface, link));
    }
    uv_close((uv_handle_t *)&ln->poll, on_handle_closed);
    uv_close((uv_handle_t *)&ln->pause, on_handle_closed);
    close(ln->o.fd);
    tls_unref(&ln->o.tls);
}
