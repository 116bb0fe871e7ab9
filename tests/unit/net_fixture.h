/*
 * net_fixture: a loop, a conn on loopback and its peer, all on one thread, for tests of net.
 *
 * The peer is a non-blocking socket, plain or TLS, that is moved on by WAIT between the turns of
 * the loop: no threads, no sleeps. It sends what is in to_send and collects what it gets in got.
 * Also makes a certificate of its own. Everything here is the test's and ends with fixture_fini.
 */
#ifndef MAILFLEET_TESTS_NET_FIXTURE_H
#define MAILFLEET_TESTS_NET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "net/loop.h"
#include "net/tls.h"

#define BIG (64 * 1024 * 1024)

struct peer {
    int fd;
    SSL *ssl; /* NULL: plain */
    struct buf to_send;
    struct buf got;
    bool deaf; /* does not read */
    bool eof;
    int error; /* errno of the read that failed */
};

static inline void peer_init(struct peer *p, int fd)
{
    *p = (struct peer){ .fd = fd };
    buf_init(&p->to_send, BIG);
    buf_init(&p->got, BIG);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

static inline void peer_fini(struct peer *p)
{
    SSL_free(p->ssl);
    if (p->fd >= 0) {
        close(p->fd);
    }
    buf_fini(&p->to_send);
    buf_fini(&p->got);
    p->ssl = NULL;
    p->fd = -1;
}

static inline void peer_send(struct peer *p, struct span s)
{
    assert_int_equal(buf_add(&p->to_send, s), ERR_OK);
}

static inline bool peer_got(const struct peer *p, struct span s)
{
    return span_eq(buf_span(&p->got), s);
}

static inline void peer_start_tls(struct peer *p)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    p->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    assert_int_equal(SSL_set_fd(p->ssl, p->fd), 1);
    SSL_set_connect_state(p->ssl);
}

static inline ssize_t peer_io(struct peer *p, bool reading, char *mem, size_t n)
{
    if (p->fd < 0) {
        errno = EAGAIN;
        return -1;
    }
    if (!p->ssl) {
        return reading ? recv(p->fd, mem, n, 0) : send(p->fd, mem, n, MSG_NOSIGNAL);
    }
    int r = reading ? SSL_read(p->ssl, mem, (int)n) : SSL_write(p->ssl, mem, (int)n);
    int e = SSL_get_error(p->ssl, r);
    if (r <= 0) {
        errno = e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
        return e == SSL_ERROR_ZERO_RETURN ? 0 : -1;
    }
    return r;
}

/* As far as it goes without waiting. */
static inline void peer_pump(struct peer *p)
{
    static char mem[64 * 1024];
    for (ssize_t r; buf_len(&p->to_send) > 0;) {
        struct span s = span_first(buf_span(&p->to_send), sizeof mem);
        memcpy(mem, s.p, s.n);
        if ((r = peer_io(p, false, mem, s.n)) <= 0) {
            break;
        }
        buf_take(&p->to_send, (size_t)r);
    }
    while (!p->deaf && !p->eof && !p->error) {
        ssize_t r = peer_io(p, true, mem, sizeof mem);
        if (r > 0) {
            assert_int_equal(buf_add(&p->got, span_of(mem, (size_t)r)), ERR_OK);
        } else if (r == 0) {
            p->eof = true;
        } else if (errno == EAGAIN) {
            break;
        } else {
            p->error = errno;
        }
    }
}

/* A close that the other side sees as a reset. */
static inline void peer_reset(struct peer *p)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };
    assert_int_equal(setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    close(p->fd);
    p->fd = -1;
}

/* --- the loop -------------------------------------------------------------------------------- */

struct fixture {
    struct loop *loop;
    uv_timer_t tick; /* wakes the loop for the peer's sake */
    char dir[64];    /* with cert.pem and key.pem after fixture_tls */
};

static inline void on_tick(uv_timer_t *h)
{
    (void)h;
}

static inline void fixture_init(struct fixture *f)
{
    f->loop = loop_open();
    f->dir[0] = '\0';
    uv_timer_init(loop_uv(f->loop), &f->tick);
    uv_timer_start(&f->tick, on_tick, 1, 1);
}

static inline void fixture_turn(struct fixture *f, struct peer *p)
{
    if (p) {
        peer_pump(p);
    }
    uv_run(loop_uv(f->loop), UV_RUN_ONCE);
    if (p) {
        peer_pump(p);
    }
}

#define WAIT_MS 30000

/* Turns the loop until cond holds; the test fails when that does not come. */
#define WAIT(f, p, cond)                                                                           \
    do {                                                                                           \
        for (uint64_t wait_end_ = uv_hrtime() / 1000000 + WAIT_MS; !(cond);) {                     \
            if (uv_hrtime() / 1000000 > wait_end_) {                                               \
                fail_msg("never came: %s", #cond);                                                 \
            }                                                                                      \
            fixture_turn((f), (p));                                                                \
        }                                                                                          \
    } while (0)

/* The loop is given the chance to do what it must not do. */
static inline void fixture_settle(struct fixture *f, struct peer *p)
{
    for (int i = 0; i < 20; i++) {
        fixture_turn(f, p);
    }
}

static inline void fixture_fini(struct fixture *f)
{
    char path[128];
    uv_close((uv_handle_t *)&f->tick, NULL);
    loop_close(&f->loop);
    if (f->dir[0]) {
        snprintf(path, sizeof path, "%s/cert.pem", f->dir);
        unlink(path);
        snprintf(path, sizeof path, "%s/key.pem", f->dir);
        unlink(path);
        rmdir(f->dir);
    }
}

/* --- sockets --------------------------------------------------------------------------------- */

static inline int listen_loopback(struct sockaddr_in *at)
{
    socklen_t size = sizeof *at;
    *at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)at, size), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)at, &size), 0);
    return fd;
}

static inline int connect_to(const struct sockaddr_in *at)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    assert_int_equal(connect(fd, (const struct sockaddr *)at, sizeof *at), 0);
    return fd;
}

/* Two ends of one TCP connection that soon fills up. */
static inline void tcp_pair(int *server, int *client)
{
    struct sockaddr_in at;
    int l = listen_loopback(&at);
    int small = 64 * 1024;
    assert_int_equal(setsockopt(l, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    assert_int_equal(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    *client = connect_to(&at);
    *server = accept4(l, NULL, NULL, SOCK_NONBLOCK);
    assert_true(*server >= 0);
    close(l);
}

/* --- a certificate --------------------------------------------------------------------------- */

static inline void write_pem(const char *dir, const char *name, EVP_PKEY *key, X509 *cert)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    int ok = cert ? PEM_write_X509(out, cert)
                  : PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL);
    assert_int_equal(ok, 1);
    assert_int_equal(fclose(out), 0);
}

/* Writes cert.pem and key.pem of a new self-signed certificate. */
static inline void make_certificate(const char *dir)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"mail.test", -1, -1,
                               0);
    X509_set_issuer_name(cert, name);
    X509_set_pubkey(cert, key);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    write_pem(dir, "cert.pem", NULL, cert);
    write_pem(dir, "key.pem", key, NULL);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static inline struct tls *fixture_tls(struct fixture *f)
{
    const char *tmp = getenv("TMPDIR");
    char cert[128], key[128], why[256];
    struct tls *t = NULL;
    if (!f->dir[0]) {
        snprintf(f->dir, sizeof f->dir, "%.40s/mailfleet-XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(f->dir));
        make_certificate(f->dir);
    }
    snprintf(cert, sizeof cert, "%s/cert.pem", f->dir);
    snprintf(key, sizeof key, "%s/key.pem", f->dir);
    struct tls_options o = { .certificate = cert, .key = key };
    assert_int_equal(tls_load(&o, &t, why, sizeof why), ERR_OK);
    return t;
}

#endif
