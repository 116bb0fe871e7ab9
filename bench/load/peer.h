/*
 * peer: a connection to the server under load: a socket, and TLS if it is asked for.
 *
 * Nothing blocks. One read and one write for a reply: what is read goes to the caller's buffer,
 * what is written comes from it. Replies are acknowledged at once where no command answers them
 * (peer_acknowledge), so that a server that writes in two pieces does not wait for 40 ms.
 *
 * Certificates are not verified: the servers are this machine's own.
 */
#ifndef MAILFLEET_BENCH_LOAD_PEER_H
#define MAILFLEET_BENCH_LOAD_PEER_H

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "base/span.h"

/* Where to connect to. */
struct target {
    struct sockaddr_storage address;
    socklen_t address_size;
    unsigned sources; /* addresses from 127.0.1.1 on to connect from; 0: the kernel's choice */
};

/* HOST:PORT or [HOST]:PORT. ERR_INVALID: not one, ERR_NOTFOUND: no such host. A server on 127/8 is
 * reached from so many sources. */
enum err target_parse(const char *text, unsigned sources, struct target *out);

struct peer {
    int fd;
    SSL *ssl;     /* NULL without TLS */
    bool tls_up;  /* the handshake is over */
    bool resumed; /* by a session that was there */
};

enum peer_result {
    PEER_OK,
    PEER_WAIT_READ, /* until it can be read */
    PEER_WAIT_WRITE,
    PEER_EOF,
    PEER_FAILED /* peer_why() tells */
};

/* Begins to connect, from an address that is always the same for `from`. False: peer_why() tells.
 */
bool peer_open(struct peer *p, const struct target *t, uint64_t from);
void peer_close(struct peer *p);
/* What was the last failure; valid until the next. */
const char *peer_why(void);

/* A client's context, with tickets or without; ends the program if there is none. */
SSL_CTX *peer_context(bool resume);
/* The handshake is to begin. *session is resumed, if it is not NULL, and replaced by the one that
 * the server gives, if the context is for resumption; it is the caller's, and stays where it is. */
void peer_begin_tls(struct peer *p, SSL_CTX *ctx, SSL_SESSION **session);
enum peer_result peer_handshake(struct peer *p);

enum peer_result peer_read(struct peer *p, char *to, size_t room, size_t *got);
/* PEER_OK: perhaps not all of it. */
enum peer_result peer_write(struct peer *p, struct span from, size_t *written);
/* There is more to be read that epoll knows nothing of. */
bool peer_pending(const struct peer *p);
void peer_acknowledge(struct peer *p);

#endif
