/*
 * scram: keys of SCRAM made, written, read and compared with, by OpenSSL's PBKDF2, HMAC and hashes.
 *
 * Nothing is owned here; what a call makes of a password on its way is wiped before it returns. It
 * neither stores keys nor speaks the protocol.
 *
 * Of GNU SASL there is only SASLprep. Its server side of the exchange was rejected: 2.2.0 binds to
 * tls-exporter and tls-unique, the only two that it has properties for, and not to
 * tls-server-end-point; and it asks for the keys by a callback in the middle of a step, while here
 * they come from a cache or a database, after the step has returned.
 */
#include "store/scram.h"

#include <gsasl.h>
#include <stdio.h>
#include <stdlib.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "base/check.h"

/* Of new keys and of fake ones, which must look alike. */
enum { SALT_SIZE = 16 };

static const struct {
    const char *name; /* of the scheme (RFC 5803) */
    const EVP_MD *(*md)(void);
    size_t size;
} hashes[] = {
    [SCRAM_SHA_256] = { "SCRAM-SHA-256", EVP_sha256, 32 },
    [SCRAM_SHA_1] = { "SCRAM-SHA-1", EVP_sha1, 20 },
};

size_t scram_hash_size(enum scram_hash h)
{
    return hashes[h].size;
}

static void hmac(enum scram_hash h, const uint8_t *key, struct span data, uint8_t *out)
{
    unsigned n = 0;
    CHECK(HMAC(hashes[h].md(), key, (int)hashes[h].size, (const uint8_t *)data.p, data.n, out, &n));
    CHECK(n == hashes[h].size);
}

static void digest(enum scram_hash h, const uint8_t *data, uint8_t *out)
{
    CHECK(EVP_Digest(data, hashes[h].size, out, NULL, hashes[h].md(), NULL) == 1);
}

/* --- SASLprep -------------------------------------------------------------------------------- */

/* *out is NUL-terminated and the library's to free. What prepares to nothing is refused too. */
static enum err prepare(struct span in, Gsasl_saslprep_flags flags, char **out)
{
    char *copy = span_dup(in), *made = NULL;
    bool valid = span_find(in, '\0') == in.n && span_utf8(in);
    if (!valid || gsasl_saslprep(copy, flags, &made, NULL) != GSASL_OK) {
        made = NULL;
    }
    OPENSSL_cleanse(copy, in.n);
    free(copy);
    if (!made || !*made) {
        gsasl_free(made);
        return ERR_INVALID;
    }
    *out = made;
    return ERR_OK;
}

static void prepared_free(char *text)
{
    OPENSSL_cleanse(text, strlen(text));
    gsasl_free(text);
}

enum err scram_prepare_user(struct span user, char *out, size_t size)
{
    char *made;
    enum err e = prepare(user, GSASL_ALLOW_UNASSIGNED, &made);
    if (e != ERR_OK) {
        return e;
    }
    size_t n = strlen(made);
    if (n < size) {
        memcpy(out, made, n + 1);
    }
    prepared_free(made);
    return n < size ? ERR_OK : ERR_LIMIT;
}

/* --- making ---------------------------------------------------------------------------------- */

enum err scram_derive(enum scram_hash h, struct span password, uint32_t iterations,
                      struct scram_keys *out)
{
    CHECK(iterations > 0 && iterations <= SCRAM_ITERATIONS_MAX);
    char *text;
    enum err e = prepare(password, 0, &text);
    if (e != ERR_OK) {
        return e;
    }
    uint8_t salted[SCRAM_KEY_MAX], client[SCRAM_KEY_MAX];
    *out = (struct scram_keys){ .hash = h, .iterations = iterations, .salt_n = SALT_SIZE };
    CHECK(RAND_bytes(out->salt, SALT_SIZE) == 1);
    CHECK(PKCS5_PBKDF2_HMAC(text, (int)strlen(text), out->salt, SALT_SIZE, (int)iterations,
                            hashes[h].md(), (int)hashes[h].size, salted) == 1);
    hmac(h, salted, SPAN("Client Key"), client);
    digest(h, client, out->stored);
    hmac(h, salted, SPAN("Server Key"), out->server);
    OPENSSL_cleanse(salted, sizeof salted);
    OPENSSL_cleanse(client, sizeof client);
    prepared_free(text);
    return ERR_OK;
}

/* The salt is shown to anybody who asks; nothing of the others may follow from it. */
void scram_fake(enum scram_hash h, const uint8_t mac[32], uint32_t iterations,
                struct scram_keys *out)
{
    uint8_t salt[SCRAM_KEY_MAX], key[SCRAM_KEY_MAX];
    *out = (struct scram_keys){ .hash = h, .iterations = iterations, .salt_n = SALT_SIZE };
    memcpy(key, mac, sizeof key);
    hmac(h, key, SPAN("salt"), salt);
    memcpy(out->salt, salt, SALT_SIZE);
    hmac(h, key, SPAN("stored"), out->stored);
    hmac(h, key, SPAN("server"), out->server);
    OPENSSL_cleanse(key, sizeof key);
}

void scram_nonce(char out[SCRAM_NONCE_SIZE])
{
    uint8_t octets[(SCRAM_NONCE_SIZE - 1) / 4 * 3];
    CHECK(RAND_bytes(octets, sizeof octets) == 1);
    EVP_EncodeBlock((uint8_t *)out, octets, (int)sizeof octets);
}

/* --- as text --------------------------------------------------------------------------------- */

enum { BASE64_MAX = (SCRAM_SALT_MAX + 2) / 3 * 4 };

static void encode(const uint8_t *p, size_t n, char out[BASE64_MAX + 1])
{
    CHECK(n <= SCRAM_SALT_MAX);
    EVP_EncodeBlock((uint8_t *)out, p, (int)n);
}

/* OpenSSL forgives blanks and stray bits: only what it would have written itself is taken. */
static bool decode(struct span in, size_t max, uint8_t *out, size_t *n)
{
    uint8_t octets[BASE64_MAX / 4 * 3];
    char text[BASE64_MAX + 1];
    if (in.n == 0 || in.n > BASE64_MAX || in.n % 4 != 0) {
        return false;
    }
    size_t padding = in.p[in.n - 1] != '=' ? 0 : in.p[in.n - 2] != '=' ? 1 : 2;
    size_t len = in.n / 4 * 3 - padding;
    bool good = EVP_DecodeBlock(octets, (const uint8_t *)in.p, (int)in.n) >= 0 && len <= max;
    if (good) {
        encode(octets, len, text);
        good = span_eq(in, span_str(text));
    }
    if (good) {
        memcpy(out, octets, len);
        *n = len;
    }
    OPENSSL_cleanse(octets, sizeof octets);
    OPENSSL_cleanse(text, sizeof text);
    return good;
}

void scram_format(const struct scram_keys *k, char out[SCRAM_TEXT_MAX])
{
    char salt[BASE64_MAX + 1], stored[BASE64_MAX + 1], server[BASE64_MAX + 1];
    encode(k->salt, k->salt_n, salt);
    encode(k->stored, hashes[k->hash].size, stored);
    encode(k->server, hashes[k->hash].size, server);
    int n = snprintf(out, SCRAM_TEXT_MAX, "%s$%u:%s$%s:%s", hashes[k->hash].name, k->iterations,
                     salt, stored, server);
    CHECK(n > 0 && n < SCRAM_TEXT_MAX);
}

/* Takes what is in front of c off *rest, and c too; false when there is no c. */
static bool cut(struct span *rest, char c, struct span *out)
{
    size_t n = span_find(*rest, c);
    if (n == rest->n) {
        return false;
    }
    *out = span_first(*rest, n);
    *rest = span_skip(*rest, n + 1);
    return true;
}

static bool parse_key(struct span text, size_t size, uint8_t out[SCRAM_KEY_MAX])
{
    size_t n;
    return decode(text, SCRAM_KEY_MAX, out, &n) && n == size;
}

/* What follows the scheme's `$`. */
static enum err parse_keys(struct span text, enum scram_hash h, struct scram_keys *out)
{
    struct scram_keys k = { .hash = h };
    struct span iterations, salt, stored;
    uint64_t i;
    bool good =
        cut(&text, ':', &iterations) && cut(&text, '$', &salt) && cut(&text, ':', &stored) &&
        span_u64(iterations, SCRAM_ITERATIONS_MAX, &i) == ERR_OK && i > 0 &&
        decode(salt, sizeof k.salt, k.salt, &k.salt_n) &&
        parse_key(stored, hashes[h].size, k.stored) && parse_key(text, hashes[h].size, k.server);
    if (good) {
        k.iterations = (uint32_t)i;
        *out = k;
    }
    OPENSSL_cleanse(&k, sizeof k);
    return good ? ERR_OK : ERR_CORRUPT;
}

/* A word without a `$` is of no hash at all: what is behind it can't be trusted either. */
enum err scram_parse(struct span text, enum scram_hash h, struct scram_keys *out)
{
    struct span name;
    while (text.n > 0) {
        size_t n = span_find(text, ' ');
        struct span word = span_first(text, n);
        if (!cut(&word, '$', &name) || n + 1 == text.n) {
            return ERR_CORRUPT;
        }
        if (span_eq(name, span_str(hashes[h].name))) {
            return parse_keys(word, h, out);
        }
        text = span_skip(text, n + 1);
    }
    return ERR_NOTFOUND;
}

/* --- comparing ------------------------------------------------------------------------------- */

bool scram_verify(const struct scram_keys *k, struct span auth_message, struct span proof,
                  uint8_t *signature)
{
    size_t n = hashes[k->hash].size;
    uint8_t client[SCRAM_KEY_MAX], stored[SCRAM_KEY_MAX];
    if (proof.n != n) {
        return false;
    }
    hmac(k->hash, k->stored, auth_message, client);
    for (size_t i = 0; i < n; i++) {
        client[i] ^= (uint8_t)proof.p[i];
    }
    digest(k->hash, client, stored);
    OPENSSL_cleanse(client, sizeof client);
    bool right = CRYPTO_memcmp(stored, k->stored, n) == 0;
    if (right) {
        hmac(k->hash, k->server, auth_message, signature);
    }
    return right;
}
