/*
 * tls: an OpenSSL server context with a count of its users.
 *
 * A struct tls belongs to the loop thread once it is loaded; each conn that uses it has a
 * reference. One context serves all names: the certificates of the directory are given to the SSL
 * of a connection when its client has said whom it looks for. Sessions are resumed by tickets
 * alone, so that no cache of sessions grows here. It knows no sockets.
 */
#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "net/tls_certs.h"
#include "net/tls_tickets.h"

/* Of all names in tls_options.alpn, each with its length in front. */
#define ALPN_SIZE 64

struct tls {
    SSL_CTX *ctx;
    unsigned refs;
    struct tls_certs *certs; /* NULL: the default one alone */
    struct tls_tickets *tickets;
    uint8_t alpn[ALPN_SIZE];
    unsigned alpn_size; /* 0: what a client offers is not looked at */
};

static bool given(const char *path)
{
    return path && *path;
}

/* --- while a client says hello --------------------------------------------------------------- */

static int on_name(SSL *ssl, int *alert, void *arg)
{
    const struct tls *t = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    bool known = name && tls_certs_use(t->certs, name, ssl) == ERR_OK;
    return known ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

/* The first of ours that the client offers. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size,
                   const unsigned char *offered, unsigned offered_size, void *arg)
{
    const struct tls *t = arg;
    unsigned char *found;
    (void)ssl;
    if (SSL_select_next_proto(&found, out_size, t->alpn, t->alpn_size, offered, offered_size) !=
        OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = found;
    return SSL_TLSEXT_ERR_OK;
}

/* --- loading --------------------------------------------------------------------------------- */

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
    SSL_CTX_set_default_passwd_cb(ctx, tls_no_pass_phrase);
    return ctx;
}

static enum err bad_file(const char *path, char *why, size_t why_size)
{
    snprintf(why, why_size, "%s: %s", path, tls_reason());
    return ERR_INVALID;
}

static enum err load_default(SSL_CTX *ctx, const struct tls_options *o, char *why, size_t why_size)
{
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx, o->certificate) != 1) {
        return bad_file(o->certificate, why, why_size);
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, o->key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1) {
        return bad_file(o->key, why, why_size);
    }
    return ERR_OK;
}

/* Without one a client may come as well: who needs to know it asks for its names. */
static enum err load_client_ca(SSL_CTX *ctx, const char *path, char *why, size_t why_size)
{
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(path);
    if (!names || SSL_CTX_load_verify_file(ctx, path) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return bad_file(path, why, why_size);
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    return ERR_OK;
}

/*
 * What a session must have in common with this context to be resumed: the service, and the
 * authorities that its client's certificate was verified with.
 */
static void set_session_context(SSL_CTX *ctx, const char *service)
{
    unsigned char id[SSL_MAX_SID_CTX_LENGTH], one[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    const STACK_OF(X509_OBJECT) *trusted = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    CHECK(hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1);
    CHECK(EVP_DigestUpdate(hash, service, strlen(service) + 1) == 1);
    for (int i = 0; i < sk_X509_OBJECT_num(trusted); i++) {
        X509 *x = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(trusted, i));
        if (x && X509_digest(x, EVP_sha256(), one, &n) == 1) {
            CHECK(EVP_DigestUpdate(hash, one, n) == 1);
        }
    }
    CHECK(EVP_DigestFinal_ex(hash, id, &n) == 1 && n == sizeof id);
    EVP_MD_CTX_free(hash);
    CHECK(SSL_CTX_set_session_id_context(ctx, id, sizeof id) == 1);
}

static void set_alpn(struct tls *t, const char *const *names)
{
    for (size_t i = 0; names && names[i]; i++) {
        size_t n = strlen(names[i]);
        CHECK(n > 0 && t->alpn_size + 1 + n <= ALPN_SIZE);
        t->alpn[t->alpn_size] = (uint8_t)n;
        memcpy(t->alpn + t->alpn_size + 1, names[i], n);
        t->alpn_size += (unsigned)(1 + n);
    }
    if (t->alpn_size) {
        SSL_CTX_set_alpn_select_cb(t->ctx, on_alpn, t);
    }
}

static enum err load_files(struct tls *t, const struct tls_options *o, char *why, size_t why_size)
{
    enum err e = load_default(t->ctx, o, why, why_size);
    if (e == ERR_OK && given(o->directory)) {
        e = tls_certs_load(o->directory, t->ctx, &t->certs, why, why_size);
    }
    if (e == ERR_OK && given(o->client_ca)) {
        e = load_client_ca(t->ctx, o->client_ca, why, why_size);
    }
    return e;
}

enum err tls_load(const struct tls_options *o, struct tls **out, char *why, size_t why_size)
{
    struct tls *t = NEW(struct tls);
    t->refs = 1;
    t->ctx = new_context();
    t->tickets = tls_tickets_open(o, t->ctx);
    enum err e = load_files(t, o, why, why_size);
    if (e != ERR_OK) {
        tls_unref(&t);
        return e;
    }
    set_session_context(t->ctx, o->service ? o->service : "");
    set_alpn(t, o->alpn);
    SSL_CTX_set_tlsext_servername_callback(t->ctx, on_name);
    SSL_CTX_set_tlsext_servername_arg(t->ctx, t);
    *out = t;
    return ERR_OK;
}

void tls_stamp(const struct tls_options *o, uint8_t out[TLS_STAMP_SIZE])
{
    const char *files[] = { o->certificate, o->key, o->client_ca };
    unsigned n;
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    CHECK(hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (given(files[i])) {
            tls_file_stamp(files[i], hash);
        }
    }
    if (given(o->directory)) {
        tls_certs_stamp(o->directory, hash);
    }
    CHECK(EVP_DigestFinal_ex(hash, out, &n) == 1 && n == TLS_STAMP_SIZE);
    EVP_MD_CTX_free(hash);
}

size_t tls_certificates(const struct tls *t)
{
    return 1 + tls_certs_count(t->certs);
}

size_t tls_presented(const struct tls *t, const char *name, X509 **v, size_t max)
{
    size_t n = 0;
    SSL *ssl = SSL_new(t->ctx);
    CHECK(ssl);
    tls_certs_use(t->certs, name, ssl); /* as on_name does */
    for (long more = SSL_set_current_cert(ssl, SSL_CERT_SET_FIRST); more == 1 && n < max;
         more = SSL_set_current_cert(ssl, SSL_CERT_SET_NEXT)) {
        X509 *x = SSL_get_certificate(ssl);
        CHECK(x && X509_up_ref(x) == 1);
        v[n++] = x;
    }
    SSL_free(ssl);
    return n;
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
        tls_certs_free(&t->certs);
        tls_tickets_close(&t->tickets);
        free(t);
    }
}

SSL_CTX *tls_ctx(struct tls *t)
{
    return t->ctx;
}

/* --- of one connection ----------------------------------------------------------------------- */

bool tls_exporter(SSL *ssl, uint8_t out[TLS_EXPORTER_SIZE])
{
    static const char label[] = "EXPORTER-Channel-Binding";
    static const unsigned char empty[1];
    bool unique = SSL_version(ssl) >= TLS1_3_VERSION || SSL_get_extms_support(ssl) == 1;
    /* With a context, an empty one: TLS 1.2 makes a difference between that and none. */
    return unique && SSL_export_keying_material(ssl, out, TLS_EXPORTER_SIZE, label,
                                                sizeof label - 1, empty, 0, 1) == 1;
}

size_t tls_end_point(SSL *ssl, uint8_t out[TLS_END_POINT_SIZE])
{
    if (SSL_session_reused(ssl)) {
        return tls_tickets_end_point(ssl, out);
    }
    int md_nid;
    const X509 *x = SSL_get_certificate(ssl);
    if (!x || X509_get_signature_info((X509 *)(uintptr_t)x, &md_nid, NULL, NULL, NULL) != 1) {
        return 0;
    }
    if (md_nid == NID_md5 || md_nid == NID_sha1) {
        md_nid = NID_sha256;
    }
    const EVP_MD *md = EVP_get_digestbynid(md_nid);
    unsigned n = 0;
    bool made = md && EVP_MD_get_size(md) <= TLS_END_POINT_SIZE && X509_digest(x, md, out, &n) == 1;
    return made ? n : 0;
}

/* Printable ASCII, and short enough to be an address. */
static bool copy_name(const ASN1_STRING *s, char to[TLS_NAME_SIZE])
{
    const unsigned char *p = ASN1_STRING_get0_data(s);
    int n = ASN1_STRING_length(s);
    if (n <= 0 || n >= TLS_NAME_SIZE) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (p[i] <= ' ' || p[i] > '~') {
            return false;
        }
    }
    memcpy(to, p, (size_t)n);
    to[n] = '\0';
    return true;
}

size_t tls_client_names(SSL *ssl, char names[][TLS_NAME_SIZE], size_t max)
{
    X509 *x = SSL_get0_peer_certificate(ssl);
    /* That of a resumed session may have come to its end since it was verified. */
    if (!x || SSL_get_verify_result(ssl) != X509_V_OK ||
        X509_cmp_current_time(X509_get0_notAfter(x)) <= 0) {
        return 0;
    }
    size_t n = 0;
    GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(all) && n < max; i++) {
        int type;
        const ASN1_STRING *s = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(all, i), &type);
        n += type == GEN_EMAIL && copy_name(s, names[n]);
    }
    GENERAL_NAMES_free(all);
    return n;
}
