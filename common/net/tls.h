/*
 * tls: a server's certificates and settings (OpenSSL), shared by the conns that use them.
 *
 * Counted by reference, so that a reload gives new conns the new certificates while old ones keep
 * theirs. TLS 1.2 is the floor; renegotiation, compression and early data are off. Loading reads
 * files and may take seconds with thousands of certificates: tls_load and tls_stamp may be called
 * on any thread, everything else belongs to the loop's.
 */
#ifndef MAILFLEET_NET_TLS_H
#define MAILFLEET_NET_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define TLS_SECRET_SIZE    32
#define TLS_STAMP_SIZE     32
#define TLS_EXPORTER_SIZE  32
#define TLS_END_POINT_SIZE 64 /* at the most */
#define TLS_NAME_SIZE      256

struct tls;

/* All of it is read during the call alone. An empty or NULL path: without. */
struct tls_options {
    const char *certificate; /* PEM: the chain that a client gets who asks for no other name */
    const char *key;         /* PEM */
    const char *directory;   /* of NAME.pem, chain and key, chosen by the client's SNI (RFC 6066) */
    const char *client_ca; /* PEM: clients may show a certificate of these; a bad one is refused */
    /* Protocols (RFC 7301), NULL at the end: a client that offers only others is refused, against
     * attacks across protocols. NULL: what a client offers is not looked at. */
    const char *const *alpn;
    const char *service; /* sessions of one service are not resumed by another */
    /* TLS_SECRET_SIZE octets that all nodes share: sessions are resumed on any (RFC 5077, RFC
     * 8446). NULL: OpenSSL's own key, known to this context alone. */
    const uint8_t *ticket_secret;
    uint64_t ticket_life;    /* ms, from the full handshake on */
    uint64_t (*clock)(void); /* seconds since 1970, for tests; NULL: time(2) */
};

/* Loads and checks all or nothing. ERR_INVALID: why holds one line that names the file. */
enum err tls_load(const struct tls_options *o, struct tls **out, char *why, size_t why_size);
/* What the files look like from outside (names, inodes, sizes, times): it changes with them. */
void tls_stamp(const struct tls_options *o, uint8_t out[TLS_STAMP_SIZE]);
/* Whether a file of this name in the directory is one of a certificate. */
bool tls_is_pem(const char *name);
/* Certificates loaded, the default one included. */
size_t tls_certificates(const struct tls *t);

/*
 * The certificates that a client gets which asks for this name, one for each kind of key: the
 * caller frees each. How many, at most max; 0: there is none at all.
 */
size_t tls_presented(const struct tls *t, const char *name, X509 **v, size_t max);

struct tls *tls_ref(struct tls *t);
/* Drops one reference; may be called with *t NULL. Only when no SSL made of it is left. */
void tls_unref(struct tls **t);
SSL_CTX *tls_ctx(struct tls *t);

/* --- of one connection whose handshake is done ------------------------------------------------ */

/* tls-exporter (RFC 9266): TLS 1.3, or 1.2 with the extended master secret; else false. */
bool tls_exporter(SSL *ssl, uint8_t out[TLS_EXPORTER_SIZE]);
/*
 * tls-server-end-point (RFC 5929, section 4): the hash of the certificate that this session's full
 * handshake presented. Returns its length, 0 when it is not defined (Ed25519).
 */
size_t tls_end_point(SSL *ssl, uint8_t out[TLS_END_POINT_SIZE]);
/* The mail addresses (rfc822Name) in the client's verified certificate; how many, at most max. */
size_t tls_client_names(SSL *ssl, char names[][TLS_NAME_SIZE], size_t max);

#endif
