/*
 * tls_tickets: the keys of session tickets, and what a ticket of ours says beside OpenSSL's own.
 *
 * A key belongs to a slot of time, as long as a ticket lives, and is derived from the secret with
 * HKDF: nodes need no word with each other, and each has the same. The slot that is now encrypts;
 * tickets of the one before still open, and are renewed. A session remembers when its full
 * handshake was and which certificate that presented: a renewed ticket lives no longer than the
 * first, so that nobody is known by a certificate that was shown long ago, and a client that binds
 * a login to the server's certificate knows no other. Owned by the struct tls; it stores nothing.
 */
#include "net/tls_tickets.h"

#include <endian.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"

enum { NAME_SIZE = 16, CIPHER_KEY_SIZE = 32, MAC_KEY_SIZE = 32 };

struct keys {
    uint64_t slot;
    uint8_t name[NAME_SIZE]; /* stands in front of the ticket */
    uint8_t cipher[CIPHER_KEY_SIZE];
    uint8_t mac[MAC_KEY_SIZE];
};

struct tls_tickets {
    uint8_t secret[TLS_SECRET_SIZE];
    uint64_t life; /* seconds */
    uint64_t (*clock)(void);
    struct keys now, before;
};

/* In the ticket, sealed with the rest of the session. */
struct note {
    uint8_t version;
    uint8_t end_point_size;
    uint64_t born_be; /* seconds since 1970: the full handshake */
    uint8_t end_point[TLS_END_POINT_SIZE];
} __attribute__((packed));

#define NOTE_VERSION 1

static uint64_t real_clock(void)
{
    return (uint64_t)time(NULL);
}

/* --- keys ------------------------------------------------------------------------------------ */

/* HKDF-SHA256 (RFC 5869). The life is part of the label: with another one slots mean other times.
 */
static void derive(const struct tls_tickets *t, uint64_t slot, struct keys *out)
{
    struct {
        char purpose[24];
        uint64_t life_be, slot_be;
    } label = { "mailfleet tls ticket", htobe64(t->life), htobe64(slot) };
    uint8_t raw[NAME_SIZE + CIPHER_KEY_SIZE + MAC_KEY_SIZE];
    uint8_t secret[TLS_SECRET_SIZE];
    char digest[] = "SHA256";
    memcpy(secret, t->secret, sizeof secret);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, sizeof secret),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, &label, sizeof label),
        OSSL_PARAM_construct_end()
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    CHECK(ctx && EVP_KDF_derive(ctx, raw, sizeof raw, params) == 1);
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    out->slot = slot;
    memcpy(out->name, raw, NAME_SIZE);
    memcpy(out->cipher, raw + NAME_SIZE, CIPHER_KEY_SIZE);
    memcpy(out->mac, raw + NAME_SIZE + CIPHER_KEY_SIZE, MAC_KEY_SIZE);
    OPENSSL_cleanse(raw, sizeof raw);
    OPENSSL_cleanse(secret, sizeof secret);
}

static void turn_to_now(struct tls_tickets *t)
{
    uint64_t slot = t->clock() / t->life;
    if (slot != t->now.slot) {
        derive(t, slot, &t->now);
        derive(t, slot - 1, &t->before);
    }
}

static int set_keys(const struct keys *k, const unsigned char *iv, EVP_CIPHER_CTX *cipher,
                    EVP_MAC_CTX *mac, int encrypt)
{
    uint8_t key[MAC_KEY_SIZE];
    char digest[] = "SHA256";
    memcpy(key, k->mac, sizeof key);
    OSSL_PARAM params[] = { OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key, sizeof key),
                            OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                            OSSL_PARAM_construct_end() };
    bool set = EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, k->cipher, iv, encrypt) == 1 &&
               EVP_MAC_CTX_set_params(mac, params) == 1;
    OPENSSL_cleanse(key, sizeof key);
    return set ? 1 : -1;
}

/* As OpenSSL asks: 1 and 2 a key is set (2: the client shall get a new ticket), 0 unknown. */
static int on_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                  EVP_MAC_CTX *mac, int encrypt)
{
    struct tls_tickets *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    turn_to_now(t);
    if (encrypt) {
        memcpy(name, t->now.name, NAME_SIZE);
        if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1) {
            return -1;
        }
        return set_keys(&t->now, iv, cipher, mac, 1);
    }
    const struct keys *k = memcmp(name, t->now.name, NAME_SIZE) == 0      ? &t->now
                           : memcmp(name, t->before.name, NAME_SIZE) == 0 ? &t->before
                                                                          : NULL;
    if (!k) {
        return 0;
    }
    /* A TLS 1.3 client should use a ticket once (RFC 8446, C.4), and so needs the next. */
    bool renew = k == &t->before || SSL_version(ssl) == TLS1_3_VERSION;
    int set = set_keys(k, iv, cipher, mac, 0);
    return set == 1 && renew ? 2 : set;
}

/* --- what a session remembers ---------------------------------------------------------------- */

/* A resumed session keeps what the full handshake noted. */
static int on_make(SSL *ssl, void *arg)
{
    struct tls_tickets *t = arg;
    if (SSL_session_reused(ssl)) {
        return 1;
    }
    struct note note = { .version = NOTE_VERSION, .born_be = htobe64(t->clock()) };
    note.end_point_size = (uint8_t)tls_end_point(ssl, note.end_point);
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &note, sizeof note);
}

static bool is_alive(const struct tls_tickets *t, SSL_SESSION *session)
{
    void *data;
    size_t n;
    struct note note;
    if (SSL_SESSION_get0_ticket_appdata(session, &data, &n) != 1 || n != sizeof note) {
        return false;
    }
    memcpy(&note, data, sizeof note);
    uint64_t born = be64toh(note.born_be), now = t->clock();
    /* Born later than now: on a node whose clock is ahead. */
    return note.version == NOTE_VERSION && (born >= now || now - born < t->life);
}

static SSL_TICKET_RETURN on_open(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
                                 size_t name_size, SSL_TICKET_STATUS status, void *arg)
{
    (void)ssl;
    (void)name;
    (void)name_size;
    bool opened = status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW;
    if (!opened || !is_alive(arg, session)) {
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    }
    return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

size_t tls_tickets_end_point(SSL *ssl, uint8_t out[TLS_END_POINT_SIZE])
{
    void *data;
    size_t n;
    struct note note;
    SSL_SESSION *session = SSL_get_session(ssl);
    if (SSL_SESSION_get0_ticket_appdata(session, &data, &n) != 1 || n != sizeof note) {
        return 0;
    }
    memcpy(&note, data, sizeof note);
    memcpy(out, note.end_point, TLS_END_POINT_SIZE);
    return note.end_point_size;
}

/* --- life ------------------------------------------------------------------------------------ */

struct tls_tickets *tls_tickets_open(const struct tls_options *o, SSL_CTX *ctx)
{
    struct tls_tickets *t = NEW(struct tls_tickets);
    t->life = o->ticket_life / 1000 ? o->ticket_life / 1000 : 1;
    t->clock = o->clock ? o->clock : real_clock;
    SSL_CTX_set_timeout(ctx, (long)t->life);
    CHECK(SSL_CTX_set_session_ticket_cb(ctx, on_make, on_open, t) == 1);
    /* A mail client opens one connection at a time. */
    CHECK(SSL_CTX_set_num_tickets(ctx, 1) == 1);
    if (o->ticket_secret) {
        memcpy(t->secret, o->ticket_secret, TLS_SECRET_SIZE);
        t->now.slot = UINT64_MAX;
        turn_to_now(t);
        CHECK(SSL_CTX_set_app_data(ctx, t) == 1);
        CHECK(SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_key) == 1);
    }
    return t;
}

void tls_tickets_close(struct tls_tickets **tp)
{
    struct tls_tickets *t = *tp;
    *tp = NULL;
    OPENSSL_cleanse(t, sizeof *t);
    free(t);
}
