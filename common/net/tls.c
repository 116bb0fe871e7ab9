/*
 * tls: an OpenSSL server context with a count of its users.
 *
 * A struct tls belongs to the loop thread; the SSL of a conn holds the context by OpenSSL's own
 * count as well. Sessions are resumed by tickets alone, so that no cache of sessions grows here.
 * It verifies no client certificates and knows no sockets.
 */
#include "net/tls.h"

#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

struct tls {
    SSL_CTX *ctx;
    unsigned refs;
};

/* OpenSSL would ask on the terminal for the pass phrase of an encrypted key. */
static int no_pass_phrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static SSL_CTX *new_context(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    CHECK(ctx);
    CHECK(SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1);
    /* A client that closes without close_notify is at its end all the same: nothing in SMTP or
     * POP3 takes effect by an end of the connection, so there is nothing to cut off. */
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
    /* An idle conn gives its 32 KiB of record buffers back; conn_out may move between writes. */
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* One read(2) for several records, not two for each. */
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_passwd_cb(ctx, no_pass_phrase);
    return ctx;
}

static enum err load(SSL_CTX *ctx, const char *certificate, const char *key, char *why,
                     size_t why_size)
{
    const char *file = certificate;
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx, certificate) == 1) {
        file = key;
        if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1 &&
            SSL_CTX_check_private_key(ctx) == 1) {
            return ERR_OK;
        }
    }
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    snprintf(why, why_size, "%s: %s", file, reason ? reason : "cannot be read");
    ERR_clear_error();
    return ERR_INVALID;
}

enum err tls_load(const char *certificate, const char *key, struct tls **out, char *why,
                  size_t why_size)
{
    SSL_CTX *ctx = new_context();
    enum err e = load(ctx, certificate, key, why, why_size);
    if (e != ERR_OK) {
        SSL_CTX_free(ctx);
        return e;
    }
    struct tls *t = NEW(struct tls);
    t->ctx = ctx;
    t->refs = 1;
    *out = t;
    return ERR_OK;
}

struct tls *tls_ref(struct tls *t)
{
    t->refs++;
    return t;
}

void tls_unref(struct tls **tp)
{
    struct tls *t = *tp;
    *tp = NULL;
    if (t && --t->refs == 0) {
        SSL_CTX_free(t->ctx);
        free(t);
    }
}

SSL_CTX *tls_ctx(struct tls *t)
{
    return t->ctx;
}
