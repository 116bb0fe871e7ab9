/*
 * conn: a non-blocking socket, an OpenSSL filter on top of it, two buffers, a timer, and events.
 *
 * It has the loop watch the socket and reads and writes by itself, rather than by uv_tcp and a
 * pair of memory BIOs: OpenSSL then works on the socket directly, a reply is one write(2), no
 * request of libuv holds on to conn_out, and an idle conn owns no buffer at all. Everything here
 * is freed when its timer has closed. It does not look into the bytes, and it never retries a
 * connection.
 *
 * A conn goes through two small state machines. The filter: plain, then (conn_start_tls) the plain
 * rest, the handshake, TLS. The life: open, then (conn_close) linger, closing.
 */
#include "net/conn.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem_keep.h"
#include "base/stats.h"

enum filter {
    FILTER_PLAIN,
    FILTER_PLAIN_REST, /* the octets that were in conn_out before conn_start_tls */
    FILTER_HANDSHAKE,
    FILTER_TLS
};

enum life {
    LIFE_OPEN,
    LIFE_LINGER, /* sends the rest, drops what comes, waits for the peer's end or its last word */
    LIFE_CLOSING /* the timer is */
};

/* What a try to read, write or shake hands came to. */
enum io { IO_DONE, IO_AGAIN, IO_END, IO_BROKEN };

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct conn {
    struct loop *loop;
    uv_os_sock_t fd;
    struct loop_socket socket;
    uv_timer_t timer;  /* of the deadline, or earlier; then of the linger */
    uint64_t deadline; /* 0: none */

    conn_fn *fn; /* NULL: the events wait */
    void *owner;
    struct task task; /* tells the events */
    bool posted;
    unsigned events; /* bits of enum conn_event that are to be told */

    struct buf in;
    struct buf out;
    enum filter filter;
    enum life life;
    SSL *ssl;            /* from conn_start_tls on */
    struct tls *tls;     /* what it was made of */
    size_t plain;        /* octets of FILTER_PLAIN_REST */
    bool tls_wants_room; /* OpenSSL has something to send before it can go on */
    bool reading;        /* the owner wants input */
    bool again;          /* OpenSSL holds input that the socket won't tell of */
    bool waiting;        /* a conn_flush has not finished */
    bool half_closed;    /* the peer has sent its FIN, with input perhaps unread */
    bool eof;            /* there is no more input */
    bool broken;         /* nothing that is sent will arrive */
    bool lingers;        /* it is among the lingering */
    bool shut;           /* our own end is sent */
    bool last_word;      /* the peer has said it, and nothing behind it */

    union address peer;
    union address local; /* of no family until somebody asks */
    bool proxied_tls;    /* its client came by TLS to a balancer that is trusted */
    char *unique_id;     /* the balancer's; NULL: none */
    char tls_text[96];
};

/* Of those that only wait for the peer's end: they are no session, so nothing else bounds them. */
#define LINGER_MOST 1024

static size_t conns, lingering; /* of this process: it has one loop */

/* --- events ---------------------------------------------------------------------------------- */

static void post(struct conn *c)
{
    if (!c->posted) {
        c->posted = true;
        loop_post(c->loop, &c->task);
    }
}

static void tell(struct conn *c, enum conn_event ev)
{
    c->events |= 1u << ev;
    post(c);
}

/* Something else has happened between the event and its being told. */
static bool stale(const struct conn *c, enum conn_event ev)
{
    return (ev == CONN_DATA && buf_len(&c->in) == 0) || (ev == CONN_DRAINED && c->waiting);
}

/* The owner may close the conn in any of these calls: then no event is left. */
static void tell_events(struct conn *c)
{
    for (enum conn_event ev = 0; ev < CONN_CLOSED && c->fn; ev++) {
        if (!(c->events & 1u << ev)) {
            continue;
        }
        c->events &= ~(1u << ev);
        if (!stale(c, ev)) {
            c->fn(c->owner, c, ev);
        }
    }
}

/* --- bytes to and from the peer -------------------------------------------------------------- */

/* EINTR is treated as EAGAIN: the socket is still ready, so the loop comes back at once. */
static enum io socket_outcome(void)
{
    return errno == EAGAIN || errno == EINTR ? IO_AGAIN : IO_BROKEN;
}

static enum io tls_outcome(struct conn *c, int r)
{
    int e = SSL_get_error(c->ssl, r);
    c->tls_wants_room = e == SSL_ERROR_WANT_WRITE;
    switch (e) {
    case SSL_ERROR_NONE:
        return IO_DONE;
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return IO_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return IO_END;
    default:
        return IO_BROKEN;
    }
}

static enum io peer_read(struct conn *c, char *to, size_t size, size_t *n)
{
    if (c->filter == FILTER_TLS) {
        ERR_clear_error();
        return tls_outcome(c, SSL_read_ex(c->ssl, to, size, n));
    }
    ssize_t r = recv(c->fd, to, size, 0);
    if (r <= 0) {
        return r == 0 ? IO_END : socket_outcome();
    }
    *n = (size_t)r;
    return IO_DONE;
}

static enum io peer_write(struct conn *c, struct span s, size_t *n)
{
    if (c->filter == FILTER_TLS) {
        ERR_clear_error();
        return tls_outcome(c, SSL_write_ex(c->ssl, s.p, s.n, n));
    }
    ssize_t r = send(c->fd, s.p, s.n, MSG_NOSIGNAL);
    if (r < 0) {
        return socket_outcome();
    }
    *n = (size_t)r;
    return IO_DONE;
}

/* Who waits for CONN_DRAINED must hear of it too, even if the peer's end was told before. */
static void set_broken(struct conn *c)
{
    c->eof = c->broken = true;
    c->waiting = false;
    c->plain = 0;
    buf_release(&c->out);
    tell(c, CONN_EOF);
}

static bool wants_input(const struct conn *c)
{
    return c->reading && !c->eof && buf_room(&c->in) > 0;
}

/* Once a turn: what is still on the socket then, the loop tells of. OpenSSL until it holds nothing.
 */
static void read_in(struct conn *c)
{
    while (wants_input(c)) {
        size_t n = 0, room = buf_room(&c->in);
        char *scratch = loop_scratch(c->loop);
        enum io r = peer_read(c, scratch, room < LOOP_SCRATCH ? room : LOOP_SCRATCH, &n);
        if (r == IO_BROKEN) {
            set_broken(c);
        } else if (r == IO_END) {
            c->eof = true;
            tell(c, CONN_EOF);
        } else if (r == IO_DONE) {
            CHECK(buf_add(&c->in, span_of(scratch, n)) == ERR_OK);
            stats_add(STAT_bytes_in, n);
            tell(c, CONN_DATA);
        }
        if (r != IO_DONE || c->filter == FILTER_PLAIN || !SSL_has_pending(c->ssl)) {
            return;
        }
    }
}

/* Sends the front of conn_out, `most` octets of it, as far as the kernel takes it. */
static void write_out(struct conn *c, size_t most)
{
    while (most > 0 && !c->broken) {
        size_t n = 0;
        enum io r = peer_write(c, span_first(buf_span(&c->out), most), &n);
        if (r == IO_AGAIN) {
            return;
        }
        if (r != IO_DONE) {
            set_broken(c);
            return;
        }
        buf_take(&c->out, n);
        most -= n;
        c->plain -= c->plain ? n : 0;
        stats_add(STAT_bytes_out, n);
    }
    if (buf_len(&c->out) == 0) {
        buf_release(&c->out);
    }
}

static void go_on_writing(struct conn *c)
{
    write_out(c, buf_len(&c->out));
    if (c->waiting && buf_len(&c->out) == 0) {
        c->waiting = false;
        tell(c, CONN_DRAINED);
    }
}

/* --- TLS ------------------------------------------------------------------------------------- */

/* A peer that leaves without a word is a balancer's check of the port: no news. */
static void handshake_failed(struct conn *c)
{
    static struct log_pace pace; /* of the process: a peer may come to any of its ports */
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    char host[NETADDR_TEXT];
    uint64_t more;
    if (BIO_number_read(SSL_get_rbio(c->ssl)) > 0) {
        stats_add(STAT_tls_errors, 1);
        if (log_may(&pace, loop_now(c->loop), &more)) {
            netaddr_host(&c->peer.any, host);
            LOG(LOG_INFO, "tls.failed", F_STR("peer", host),
                F_STR("why", reason ? reason : "the connection ended"), F_U64("more", more));
        }
    }
    set_broken(c);
}

static void handshake(struct conn *c)
{
    ERR_clear_error();
    switch (tls_outcome(c, SSL_accept(c->ssl))) {
    case IO_DONE:
        c->filter = FILTER_TLS;
        snprintf(c->tls_text, sizeof c->tls_text, "%s %s", SSL_get_version(c->ssl),
                 SSL_get_cipher_name(c->ssl));
        stats_add(STAT_tls_handshakes, 1);
        stats_add(STAT_tls_resumed, SSL_session_reused(c->ssl) ? 1 : 0);
        tell(c, CONN_TLS_UP);
        break;
    case IO_AGAIN:
        break;
    case IO_END:
    case IO_BROKEN:
        handshake_failed(c);
        break;
    }
}

/* --- what the socket is ready for ------------------------------------------------------------ */

/* As far as it goes without waiting. A handshake may bring the first input with it. */
static void advance(struct conn *c)
{
    if (c->filter == FILTER_PLAIN_REST) {
        write_out(c, c->plain);
        if (c->plain == 0) {
            c->filter = FILTER_HANDSHAKE;
        }
    }
    if (c->filter == FILTER_HANDSHAKE && !c->broken) {
        handshake(c);
    }
    if (c->filter == FILTER_PLAIN || c->filter == FILTER_TLS) {
        read_in(c);
        if (c->waiting) {
            go_on_writing(c);
        }
    }
}

static uint32_t wanted_open(const struct conn *c)
{
    switch (c->filter) {
    case FILTER_PLAIN_REST:
        return c->broken ? 0 : EPOLLOUT;
    case FILTER_HANDSHAKE:
        return c->broken ? 0 : c->tls_wants_room ? EPOLLOUT : EPOLLIN;
    case FILTER_PLAIN:
    case FILTER_TLS:
        break;
    }
    uint32_t write = c->waiting ? EPOLLOUT : 0;
    if (wants_input(c)) {
        return write | EPOLLIN | (c->tls_wants_room ? EPOLLOUT : 0);
    }
    /* A reset is to be told even now. An end stays there for ever, and so is listened for once. */
    return c->eof || c->half_closed ? write : write | EPOLLRDHUP;
}

static uint32_t wanted(const struct conn *c)
{
    if (c->life == LIFE_OPEN) {
        return wanted_open(c);
    }
    if (c->life == LIFE_LINGER) {
        return (c->eof ? 0 : EPOLLIN) | (c->shut ? 0 : EPOLLOUT);
    }
    return 0;
}

/* To be called at the end of whatever may have changed what is wanted. */
static void watch(struct conn *c)
{
    if (c->life != LIFE_CLOSING) {
        loop_watch(c->loop, &c->socket, wanted(c));
    }
}

/* --- the end --------------------------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    list_del(&c->task.link);
    if (c->fn) {
        c->fn(c->owner, c, CONN_CLOSED);
    }
    conns--;
    free(c->unique_id);
    free(c);
    mem_keep_fewer(conns);
}

static void finish(struct conn *c)
{
    lingering -= c->lingers;
    c->lingers = false;
    c->life = LIFE_CLOSING;
    c->events = 0;
    SSL_free(c->ssl);
    c->ssl = NULL;
    tls_unref(&c->tls);
    buf_fini(&c->in);
    buf_fini(&c->out);
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
    loop_unwatch(c->loop, &c->socket);
    close(c->fd);
}

/* Below TLS: nobody asks any more what it says. One read a turn keeps a flood fair. A peer that
 * goes on behind its last word has not said it. */
static void drop_input(struct conn *c)
{
    if (c->eof) {
        return;
    }
    ssize_t r = recv(c->fd, loop_scratch(c->loop), LOOP_SCRATCH, 0);
    c->last_word = c->last_word && r <= 0;
    if (r == 0) {
        c->eof = true;
    } else if (r < 0 && socket_outcome() == IO_BROKEN) {
        c->broken = true;
    }
}

/* The rest has gone: close_notify where there is TLS, then our FIN. */
static void send_end(struct conn *c)
{
    if (c->filter == FILTER_TLS) {
        ERR_clear_error();
        int r = SSL_shutdown(c->ssl);
        if (r < 0 && SSL_get_error(c->ssl, r) == SSL_ERROR_WANT_WRITE) {
            return;
        }
    }
    c->shut = true;
    c->broken = !c->last_word && shutdown(c->fd, SHUT_WR) != 0;
}

/*
 * A socket that is closed with input unread answers with a reset, which can destroy the last
 * reply on its way. So the socket stays until the peer's own end: input is read and dropped. But
 * for a peer that has said its last word and has nothing unread; to wait for the end of each of
 * these would be three system calls and a turn of the loop a session.
 */
static void linger(struct conn *c)
{
    drop_input(c);
    write_out(c, buf_len(&c->out));
    if (!c->shut && !c->broken && buf_len(&c->out) == 0) {
        send_end(c);
    }
    if (c->broken || (c->shut && (c->eof || c->last_word))) {
        finish(c);
    }
}

/* --- callbacks ------------------------------------------------------------------------------- */

static void on_io(struct loop_socket *s, uint32_t events)
{
    struct conn *c = CONTAINER_OF(s, struct conn, socket);
    c->half_closed = c->half_closed || events & (EPOLLRDHUP | EPOLLHUP);
    /* An error of the socket; what came before it can be read. */
    if (events & EPOLLERR && c->life == LIFE_OPEN && !wants_input(c) && !c->broken) {
        set_broken(c);
    }
    if (c->life == LIFE_LINGER) {
        linger(c);
    } else {
        advance(c);
    }
    watch(c);
}

static void on_task(struct task *t)
{
    struct conn *c = CONTAINER_OF(t, struct conn, task);
    c->posted = false;
    if (c->life != LIFE_OPEN) {
        return;
    }
    if (c->again) {
        c->again = false;
        advance(c);
        watch(c);
    }
    tell_events(c);
}

static void set_timer(struct conn *c);

static void on_timer(uv_timer_t *h)
{
    struct conn *c = h->data;
    if (c->life != LIFE_OPEN) {
        finish(c);
    } else if (loop_now(c->loop) < c->deadline) {
        set_timer(c);
    } else {
        tell(c, CONN_DEADLINE);
    }
}

static void set_timer(struct conn *c)
{
    uint64_t now = loop_now(c->loop);
    uv_timer_start(&c->timer, on_timer, c->deadline > now ? c->deadline - now : 0, 0);
}

/* --- what the owner calls -------------------------------------------------------------------- */

size_t conn_count(void)
{
    return conns;
}

struct conn *conn_open(struct loop *l, uv_os_sock_t fd)
{
    struct conn *c = NEW(struct conn);
    conns++;
    c->loop = l;
    c->fd = fd;
    c->reading = true;
    c->task.run = on_task;
    c->timer.data = c;
    list_init(&c->task.link);
    buf_init(&c->in, CONN_IN_LIMIT);
    buf_init(&c->out, CONN_OUT_LIMIT);
    loop_socket_init(&c->socket, fd, on_io);
    CHECK(uv_timer_init(loop_uv(l), &c->timer) == 0);
    watch(c);
    return c;
}

void conn_set_addresses(struct conn *c, const struct sockaddr *peer, const struct sockaddr *local)
{
    memcpy(&c->peer, peer, netaddr_len(peer));
    if (local) {
        memcpy(&c->local, local, netaddr_len(local));
    }
}

void conn_own(struct conn *c, conn_fn *fn, void *owner)
{
    c->fn = fn;
    c->owner = owner;
    if (buf_len(&c->in) > 0) {
        c->events |= 1u << CONN_DATA;
    }
    if (c->eof) {
        c->events |= 1u << CONN_EOF;
    }
    if (c->events) {
        post(c);
    }
}

struct buf *conn_in(struct conn *c)
{
    return &c->in;
}

struct buf *conn_out(struct conn *c)
{
    return &c->out;
}

/* What OpenSSL has read from the socket already makes no noise there. */
static void resume(struct conn *c)
{
    if (c->filter == FILTER_TLS && SSL_has_pending(c->ssl)) {
        c->again = true;
        post(c);
    }
    watch(c);
}

void conn_taken(struct conn *c)
{
    if (buf_len(&c->in) == 0) {
        buf_release(&c->in);
    }
    resume(c);
}

void conn_read(struct conn *c, bool on)
{
    c->reading = on;
    resume(c);
}

bool conn_flush(struct conn *c)
{
    if (c->broken) {
        buf_release(&c->out);
    }
    if (buf_len(&c->out) == 0) {
        return true;
    }
    if (!c->waiting && (c->filter == FILTER_PLAIN || c->filter == FILTER_TLS)) {
        write_out(c, buf_len(&c->out));
    }
    c->waiting = buf_len(&c->out) > 0;
    watch(c);
    return !c->waiting;
}

/* A timer that goes off too early looks again: each reply moves the deadline away, most of them
 * by less than the timer has left. */
void conn_deadline(struct conn *c, uint64_t at)
{
    uint64_t now = loop_now(c->loop);
    c->events &= ~(1u << CONN_DEADLINE);
    c->deadline = at;
    if (!at) {
        uv_timer_stop(&c->timer);
    } else if (!uv_is_active((uv_handle_t *)&c->timer) ||
               at < now + uv_timer_get_due_in(&c->timer)) {
        set_timer(c);
    }
}

enum err conn_start_tls(struct conn *c, struct tls *t)
{
    CHECK(c->filter == FILTER_PLAIN);
    if (buf_len(&c->in) > 0) {
        return ERR_INVALID;
    }
    c->tls = tls_ref(t);
    c->ssl = SSL_new(tls_ctx(t));
    CHECK(c->ssl && SSL_set_fd(c->ssl, c->fd) == 1);
    c->filter = FILTER_PLAIN_REST;
    c->plain = buf_len(&c->out);
    if (c->eof) {
        handshake_failed(c);
    }
    advance(c);
    watch(c);
    return ERR_OK;
}

bool conn_tls(const struct conn *c)
{
    return c->filter == FILTER_TLS;
}

bool conn_secure(const struct conn *c)
{
    return conn_tls(c) || c->proxied_tls;
}

const char *conn_tls_text(const struct conn *c)
{
    return c->tls_text;
}

bool conn_tls_exporter(const struct conn *c, uint8_t out[TLS_EXPORTER_SIZE])
{
    return conn_tls(c) && tls_exporter(c->ssl, out);
}

size_t conn_tls_end_point(const struct conn *c, uint8_t out[TLS_END_POINT_SIZE])
{
    return conn_tls(c) ? tls_end_point(c->ssl, out) : 0;
}

size_t conn_certificate_names(const struct conn *c, char names[][TLS_NAME_SIZE], size_t max)
{
    return conn_tls(c) ? tls_client_names(c->ssl, names, max) : 0;
}

void conn_set_proxied(struct conn *c, const char *tls_text, const char *unique_id)
{
    if (tls_text) {
        c->proxied_tls = true;
        snprintf(c->tls_text, sizeof c->tls_text, "%s", tls_text);
    }
    if (*unique_id) {
        c->unique_id = mem_strdup(unique_id);
    }
}

const char *conn_unique_id(const struct conn *c)
{
    return c->unique_id ? c->unique_id : "";
}

bool conn_broken(const struct conn *c)
{
    return c->broken;
}

const struct sockaddr *conn_peer(const struct conn *c)
{
    return &c->peer.any;
}

const struct sockaddr *conn_local(struct conn *c)
{
    socklen_t size = sizeof c->local;
    if (c->local.any.sa_family == AF_UNSPEC && getsockname(c->fd, &c->local.any, &size) != 0) {
        c->local.any.sa_family = AF_UNSPEC;
    }
    return &c->local.any;
}

void conn_last_word(struct conn *c)
{
    c->last_word = buf_len(&c->in) == 0;
}

void conn_close(struct conn **cp, uint64_t linger_ms)
{
    struct conn *c = *cp;
    *cp = NULL;
    c->life = LIFE_LINGER;
    c->events = 0;
    buf_release(&c->in);
    /* Between the filters there is no way to say anything. */
    bool can_send = c->filter == FILTER_PLAIN || c->filter == FILTER_TLS;
    if (linger_ms == 0 || c->broken || !can_send) {
        finish(c);
        return;
    }
    linger(c);
    if (c->life == LIFE_LINGER && lingering >= LINGER_MOST) {
        finish(c);
    } else if (c->life == LIFE_LINGER) {
        c->lingers = true;
        lingering++;
        uv_timer_start(&c->timer, on_timer, linger_ms, 0);
        watch(c);
    }
}
