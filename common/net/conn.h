/*
 * conn: one peer: a TCP connection with an optional TLS filter. Knows no protocol.
 *
 * It owns the uv handles and the TLS state and tells its owner events; each is posted from the
 * loop, never from inside a conn_* call. The owner takes bytes out of conn_in and puts bytes into
 * conn_out; conn_flush sends them. Reading pauses by itself while conn_in is full, so a peer can't
 * make it grow. One owner: whoever was given it by the listener; conn_close hands it back.
 */
#ifndef MAILFLEET_NET_CONN_H
#define MAILFLEET_NET_CONN_H

#include "base/buffer.h"
#include "net/loop.h"
#include "net/netaddr.h"
#include "net/tls.h"

struct conn;

/* In the order in which they are told when several have come together. */
enum conn_event {
    CONN_TLS_UP,  /* the handshake that conn_start_tls began is done */
    CONN_DATA,    /* conn_in has grown */
    CONN_DRAINED, /* all of conn_out went to the kernel after a conn_flush that could not finish */
    /* The peer sends no more, or the connection broke (conn_broken); conn_in may still hold bytes.
     * Comes a second time when a connection breaks after the peer's end. */
    CONN_EOF,
    CONN_DEADLINE, /* the deadline has passed */
    CONN_CLOSED    /* the last event: everything is given back, the conn is gone after return */
};

typedef void conn_fn(void *owner, struct conn *c, enum conn_event ev);

#define CONN_IN_LIMIT  (64 * 1024)
#define CONN_OUT_LIMIT (4 * 1024 * 1024)

/* Sets who hears the events; until then they wait. Bytes and an end that are there are told. */
void conn_own(struct conn *c, conn_fn *fn, void *owner);

/* Its limit may be lowered: no more than fits is read off the socket, or out of TLS. */
struct buf *conn_in(struct conn *c);
struct buf *conn_out(struct conn *c);
/* To be called after taking bytes out of conn_in: reading goes on if it had paused. */
void conn_taken(struct conn *c);
/* Stops and resumes reading; CONN_EOF by a reset is still told. A new conn reads. */
void conn_read(struct conn *c, bool on);

/*
 * Sends conn_out. True: all of it is with the kernel (or the peer is gone: CONN_EOF follows).
 * False: CONN_DRAINED will come. What is added meanwhile goes too.
 */
bool conn_flush(struct conn *c);

/* Nothing that is sent will arrive: the peer reset the connection, or a handshake failed. */
bool conn_broken(const struct conn *c);

/* An absolute time of loop_now; 0 turns it off. Bytes that arrive do not move it. */
void conn_deadline(struct conn *c, uint64_t at);

/*
 * Begins TLS as a server. conn_in must be empty (else ERR_INVALID: the peer sent plain text behind
 * its STARTTLS); what is in conn_out is sent first, in plain text. A handshake that fails is told
 * as CONN_EOF. The conn takes a reference of its own.
 */
enum err conn_start_tls(struct conn *c, struct tls *t);
bool conn_tls(const struct conn *c);
/* Nobody on the way can listen: TLS here, or to a balancer whose word is trusted (trust_tls). */
bool conn_secure(const struct conn *c);
/* `TLSv1.3 TLS_AES_256_GCM_SHA384` of what makes it secure, empty without; for Received: and logs.
 * Letters, digits, -_.+? and one blank. */
const char *conn_tls_text(const struct conn *c);

/* Channel bindings, of TLS here alone: see tls_exporter and tls_end_point. */
bool conn_tls_exporter(const struct conn *c, uint8_t out[TLS_EXPORTER_SIZE]);
size_t conn_tls_end_point(const struct conn *c, uint8_t out[TLS_END_POINT_SIZE]);
/* The mail addresses in the client's verified certificate, as they stand there; how many. 0 without
 * TLS here, without a certificate, and with one that names none. */
size_t conn_certificate_names(const struct conn *c, char names[][TLS_NAME_SIZE], size_t max);

/* The balancer's name of the connection, out of the PROXY header: printable ASCII, or empty. */
const char *conn_unique_id(const struct conn *c);

/* The client (behind a PROXY header: the one that it names). */
const struct sockaddr *conn_peer(const struct conn *c);
/* The address it connected to, by the same rule; of no family when the connection has broken. */
const struct sockaddr *conn_local(struct conn *c);

/* The peer has said that it says no more, as with QUIT: conn_close need not wait for its end. */
void conn_last_word(struct conn *c);
/*
 * Sends what is in conn_out, as far as the peer takes it within linger_ms, then closes; 0 closes
 * at once. In a process in which a thousand others still wait for their peers: as far as the kernel
 * takes it at once. Only CONN_CLOSED is told after
 * this. Nulls the handle.
 */
void conn_close(struct conn **c, uint64_t linger_ms);

/* Conns of this process that are not yet gone, those that still send a last reply included. */
size_t conn_count(void);

/* For the listener: a conn of an accepted socket, which does not block and has TCP_NODELAY; the
 * conn owns it from now on. */
struct conn *conn_open(struct loop *l, uv_os_sock_t fd);
/* local NULL: as it was, at first the socket's own. */
void conn_set_addresses(struct conn *c, const struct sockaddr *peer, const struct sockaddr *local);
/* What a PROXY header said and is believed: tls_text NULL when its client did not come by TLS. */
void conn_set_proxied(struct conn *c, const char *tls_text, const char *unique_id);

#endif
