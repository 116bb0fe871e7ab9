/*
 * tls: a server's certificate and settings (OpenSSL), shared by the conns that use them.
 *
 * Counted by reference, so that a reload gives new conns the new certificate while old ones keep
 * theirs. TLS 1.2 is the floor; renegotiation and compression are off.
 */
#ifndef MAILFLEET_NET_TLS_H
#define MAILFLEET_NET_TLS_H

#include <openssl/ssl.h>
#include <stddef.h>

#include "base/error.h"

struct tls;

/* Loads and checks a certificate chain and its key. On failure why holds one line. */
enum err tls_load(const char *certificate, const char *key, struct tls **out, char *why,
                  size_t why_size);
struct tls *tls_ref(struct tls *t);
/* Drops one reference; may be called with *t NULL. */
void tls_unref(struct tls **t);
SSL_CTX *tls_ctx(struct tls *t);

#endif
