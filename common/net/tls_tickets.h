/*
 * tls_tickets: sessions that are resumed by a ticket the client keeps (RFC 5077, RFC 8446), on any
 * node that has the same secret, within one life of the full handshake.
 */
#ifndef MAILFLEET_NET_TLS_TICKETS_H
#define MAILFLEET_NET_TLS_TICKETS_H

#include "net/tls.h"

struct tls_tickets;

/* Of the options the three that tell of tickets and their clock. ctx keeps a pointer to it. */
struct tls_tickets *tls_tickets_open(const struct tls_options *o, SSL_CTX *ctx);
/* Wipes the secret. No SSL of the context may be left. */
void tls_tickets_close(struct tls_tickets **t);

/* tls_end_point of a session that was resumed; 0: not known. */
size_t tls_tickets_end_point(SSL *ssl, uint8_t out[TLS_END_POINT_SIZE]);

#endif
