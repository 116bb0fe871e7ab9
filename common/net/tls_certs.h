/*
 * tls_certs: the certificates of a directory, found by the name that a client asks for.
 *
 * Never changes after it was loaded. Owned by the struct tls that loaded it.
 */
#ifndef MAILFLEET_NET_TLS_CERTS_H
#define MAILFLEET_NET_TLS_CERTS_H

#include <openssl/ssl.h>

#include "base/error.h"

struct tls_certs;

/*
 * Every NAME.pem: a certificate with DNS names, the rest of its chain, its key; with what ctx asks
 * of certificates. ERR_INVALID: why names the file that is not good.
 */
enum err tls_certs_load(const char *directory, SSL_CTX *ctx, struct tls_certs **out, char *why,
                        size_t why_size);
void tls_certs_free(struct tls_certs **c);
size_t tls_certs_count(const struct tls_certs *c);

/*
 * Gives ssl the certificates for a name, of each kind of key: those of the name itself, else those
 * of its wildcard (RFC 6125). ERR_NOTFOUND: there are none, and ssl keeps what it has.
 */
enum err tls_certs_use(const struct tls_certs *c, const char *name, SSL *ssl);

/* Adds to a hash what the directory's files look like from outside. */
void tls_certs_stamp(const char *directory, EVP_MD_CTX *hash);
/* The same of one file. */
void tls_file_stamp(const char *path, EVP_MD_CTX *hash);

/* OpenSSL's reason for its last error, then none. */
const char *tls_reason(void);
/* OpenSSL would ask on the terminal for the pass phrase of an encrypted key. */
int tls_no_pass_phrase(char *buf, int size, int writing, void *arg);

#endif
