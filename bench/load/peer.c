/*
 * peer: see the header.
 */
#include "peer.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"

#define LOOPBACK_NET 127u
#define FIRST_SOURCE 0x7f000101u /* 127.0.1.1 */

static const char *tls_why; /* of the last failure, if it was one of TLS */

static bool is_loopback(const struct sockaddr_storage *a)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)a;
    return a->ss_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 24 == LOOPBACK_NET;
}

enum err target_parse(const char *text, unsigned sources, struct target *out)
{
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || !colon[1]) {
        return ERR_INVALID;
    }
    char *host = span_dup(span_of(text, (size_t)(colon - text)));
    size_t n = strlen(host);
    bool bracketed = host[0] == '[' && host[n - 1] == ']';
    if (bracketed) {
        host[n - 1] = 0;
    }
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
    int failed = getaddrinfo(host + bracketed, colon + 1, &hints, &found);
    free(host);
    if (failed) {
        return ERR_NOTFOUND;
    }
    struct target t = { .address_size = found->ai_addrlen };
    memcpy(&t.address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    t.sources = is_loopback(&t.address) ? sources : 0;
    *out = t;
    return ERR_OK;
}

/* Ports of one address run out: a connection that was closed holds its port for a minute. */
static bool bind_source(int fd, const struct target *t, uint64_t from)
{
    struct sockaddr_in source = { .sin_family = AF_INET };
    source.sin_addr.s_addr = htonl(FIRST_SOURCE + (uint32_t)(from % t->sources));
    int yes = 1;
    return setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes) == 0 &&
           bind(fd, (struct sockaddr *)&source, sizeof source) == 0;
}

bool peer_open(struct peer *p, const struct target *t, uint64_t from)
{
    *p = (struct peer){ .fd = socket(t->address.ss_family,
                                     SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) };
    if (p->fd < 0) {
        tls_why = NULL;
        return false;
    }
    int yes = 1;
    if (setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0 ||
        (t->sources && !bind_source(p->fd, t, from)) ||
        (connect(p->fd, (const struct sockaddr *)&t->address, t->address_size) != 0 &&
         errno != EINPROGRESS)) {
        int kept = errno;
        tls_why = NULL;
        peer_close(p);
        errno = kept;
        return false;
    }
    return true;
}

void peer_close(struct peer *p)
{
    if (p->ssl) {
        if (p->tls_up) {
            SSL_shutdown(p->ssl); /* says close_notify, and waits for nothing */
        }
        SSL_free(p->ssl);
        p->ssl = NULL;
    }
    if (p->fd >= 0) {
        close(p->fd);
        p->fd = -1;
    }
}

const char *peer_why(void)
{
    return tls_why ? tls_why : strerror(errno);
}

/* --- TLS ---------------------------------------------------------------------------------------
 */

/* A session may be resumed: it is kept where peer_begin_tls was told to look for one. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    SSL_SESSION **kept = SSL_get_app_data(ssl);
    SSL_SESSION_free(*kept);
    *kept = session;
    return 1;
}

SSL_CTX *peer_context(bool resume)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION)) {
        errx(1, "no TLS context");
    }
    SSL_CTX_set_read_ahead(ctx, 1); /* one read for a record, not two */
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    if (resume) {
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(ctx, on_session);
    }
    return ctx;
}

void peer_begin_tls(struct peer *p, SSL_CTX *ctx, SSL_SESSION **session)
{
    p->ssl = SSL_new(ctx);
    CHECK(p->ssl && SSL_set_fd(p->ssl, p->fd));
    SSL_set_app_data(p->ssl, session);
    if (*session) {
        SSL_set_session(p->ssl, *session);
    }
    SSL_set_connect_state(p->ssl);
}

static enum peer_result tls_result(struct peer *p, int n)
{
    tls_why = NULL;
    switch (SSL_get_error(p->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        return PEER_WAIT_READ;
    case SSL_ERROR_WANT_WRITE:
        return PEER_WAIT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        return PEER_EOF;
    case SSL_ERROR_SYSCALL:
        break;
    default:
        tls_why = ERR_reason_error_string(ERR_peek_error());
        tls_why = tls_why ? tls_why : "TLS";
    }
    ERR_clear_error();
    return PEER_FAILED;
}

enum peer_result peer_handshake(struct peer *p)
{
    int n = SSL_do_handshake(p->ssl);
    if (n != 1) {
        return tls_result(p, n);
    }
    p->tls_up = true;
    p->resumed = SSL_session_reused(p->ssl);
    return PEER_OK;
}

/* --- octets ------------------------------------------------------------------------------------
 */

static enum peer_result socket_result(void)
{
    tls_why = NULL;
    return errno == EINTR || errno == EAGAIN ? PEER_WAIT_READ : PEER_FAILED;
}

enum peer_result peer_read(struct peer *p, char *to, size_t room, size_t *got)
{
    if (p->ssl) {
        int n = SSL_read_ex(p->ssl, to, room, got);
        return n == 1 ? PEER_OK : tls_result(p, n);
    }
    ssize_t n = recv(p->fd, to, room, 0);
    if (n > 0) {
        *got = (size_t)n;
        return PEER_OK;
    }
    return n == 0 ? PEER_EOF : socket_result();
}

enum peer_result peer_write(struct peer *p, struct span from, size_t *written)
{
    if (p->ssl) {
        int n = SSL_write_ex(p->ssl, from.p, from.n, written);
        return n == 1 ? PEER_OK : tls_result(p, n);
    }
    ssize_t n = send(p->fd, from.p, from.n, MSG_NOSIGNAL);
    if (n >= 0) {
        *written = (size_t)n;
        return PEER_OK;
    }
    return socket_result() == PEER_WAIT_READ ? PEER_WAIT_WRITE : PEER_FAILED;
}

bool peer_pending(const struct peer *p)
{
    return p->ssl && SSL_has_pending(p->ssl);
}

void peer_acknowledge(struct peer *p)
{
    int yes = 1;
    setsockopt(p->fd, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof yes);
}
