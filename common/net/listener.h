/*
 * listener: accepts connections on a bound socket and makes conns of them.
 *
 * It reads the PROXY header where the port requires one and does the handshake of implicit TLS, so
 * that a session sees a conn that is ready to talk. What fails before that is closed, counted and
 * logged here, a line a second at most.
 */
#ifndef MAILFLEET_NET_LISTENER_H
#define MAILFLEET_NET_LISTENER_H

#include "net/conn.h"

struct listener;

struct listener_options {
    int fd;                        /* bound, not yet listening; the listener owns it */
    bool proxy;                    /* a PROXY header is required, from one of the networks */
    const struct netset *networks; /* borrowed */
    bool trust_tls; /* a client that came by TLS to the balancer is as safe as one that came so here
                     */
    struct tls *tls;     /* implicit TLS; NULL without; a reference is taken */
    uint64_t preface_ms; /* deadline of PROXY header and handshake together */
    /*
     * On ports of implicit TLS, once the client's address is known and before anything is done for
     * it: whether it may go on. NULL: all may. Whom this refuses is closed without a word. Who may
     * go on is told either to accept or, when it never gets ready, to leave.
     */
    bool (*admit)(void *arg, const struct conn *c);
    void (*leave)(void *arg, const struct conn *c); /* not NULL if admit is not */
    void (*accept)(void *arg, struct conn *c);      /* the conn is the callee's */
    void *arg;
};

/* Binds a socket with SO_REUSEPORT and SO_REUSEADDR; -1 with errno when that fails. */
int listener_bind(const struct sockaddr *sa);

enum err listener_open(struct loop *l, const struct listener_options *o, struct listener **out);
/* For conns from now on. */
void listener_set_tls(struct listener *ln, struct tls *t);
void listener_set_proxy(struct listener *ln, const struct netset *networks, bool trust_tls);
/* Stops accepting; conns in their preface are closed, the others live on. */
void listener_close(struct listener **ln);

#endif
