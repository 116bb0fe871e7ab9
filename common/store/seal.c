/*
 * seal: AES-256-GCM out of OpenSSL and HMAC-SHA256 out of Nettle, under keys derived from the fleet
 * key.
 *
 * The struct is owned by its opener. Its contexts are made once, since to make one costs more than
 * a short value, and so are the keys of labels; a call uses them anew, which is why it has one
 * thread. It neither stores nor sends anything, and it has no way to give the key back.
 *
 * A poll makes a dozen HMACs of some octets each. Nettle's is a struct that is copied; OpenSSL's
 * EVP_MAC allocates two contexts each time, which takes twice as long as all of that.
 */
#include "store/seal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <nettle/hmac.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/check.h"

enum {
    KEY_SIZE = 32,
    SALT_SIZE = 16,
    NONCE_SIZE = 12,
    TAG_SIZE = 16,
    LABELS_MAX = 32 /* the program's own */
};

struct label {
    const char *text;
    struct hmac_sha256_ctx mac; /* with the key that is derived for it */
};

struct seal {
    struct hmac_sha256_ctx fleet;  /* with the fleet's key; only other keys are made with it */
    struct hmac_sha256_ctx values; /* with the key from which each value's own is derived */
    EVP_CIPHER *gcm;
    EVP_CIPHER_CTX *cipher;
    struct label labels[LABELS_MAX];
    size_t label_count;
};

/* HMAC-SHA256 of runs of bytes, one after the other, as they are. */
static void hmac(const struct hmac_sha256_ctx *key, const struct span *runs, size_t n,
                 uint8_t out[SEAL_MAC_SIZE])
{
    struct hmac_sha256_ctx c = *key;
    for (size_t i = 0; i < n; i++) {
        hmac_sha256_update(&c, runs[i].n, (const uint8_t *)runs[i].p);
    }
    hmac_sha256_digest(&c, SEAL_MAC_SIZE, out);
    OPENSSL_cleanse(&c, sizeof c);
}

/* With a key that is derived from the fleet's. */
static void derive_mac(const struct seal *s, const struct span *purpose, size_t n,
                       struct hmac_sha256_ctx *out)
{
    uint8_t key[SEAL_MAC_SIZE];
    hmac(&s->fleet, purpose, n, key);
    hmac_sha256_set_key(out, sizeof key, key);
    OPENSSL_cleanse(key, sizeof key);
}

struct seal *seal_new(const uint8_t key[32])
{
    struct seal *s = NEW(struct seal);
    s->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    s->cipher = EVP_CIPHER_CTX_new();
    CHECK(s->gcm && s->cipher);
    CHECK(EVP_CipherInit_ex2(s->cipher, s->gcm, NULL, NULL, true, NULL) == 1);
    hmac_sha256_set_key(&s->fleet, KEY_SIZE, key);
    struct span purpose = SPAN("mailfleet cache value");
    derive_mac(s, &purpose, 1, &s->values);
    return s;
}

void seal_free(struct seal **sp)
{
    struct seal *s = *sp;
    *sp = NULL;
    if (!s) {
        return;
    }
    EVP_CIPHER_CTX_free(s->cipher);
    EVP_CIPHER_free(s->gcm);
    OPENSSL_cleanse(s, sizeof *s);
    free(s);
}

/* --- the key file ---------------------------------------------------------------------------- */

/* One octet more than any good file has, so that a longer one is seen as such. */
enum { KEY_TEXT_MAX = 2 * KEY_SIZE + 8 };

static enum err read_key_file(const char *path, char text[KEY_TEXT_MAX], size_t *n, char *why,
                              size_t why_size)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        snprintf(why, why_size, "%s: %s", path, strerror(errno));
        return ERR_INVALID;
    }
    setvbuf(f, NULL, _IONBF, 0); /* no copy of the key in a buffer of stdio */
    *n = fread(text, 1, KEY_TEXT_MAX, f);
    bool failed = ferror(f);
    fclose(f);
    if (failed) {
        snprintf(why, why_size, "%s: cannot be read", path);
    }
    return failed ? ERR_INVALID : ERR_OK;
}

static enum err parse_key(char *text, size_t n, uint8_t key[KEY_SIZE])
{
    while (n && strchr(" \t\r\n", text[n - 1])) {
        n--;
    }
    if (n != 2 * KEY_SIZE) {
        return ERR_INVALID;
    }
    text[n] = '\0';
    size_t len;
    bool hex = OPENSSL_hexstr2buf_ex(key, KEY_SIZE, &len, text, '\0') == 1;
    return hex && len == KEY_SIZE ? ERR_OK : ERR_INVALID;
}

enum err seal_load(const char *path, struct seal **out, char *why, size_t why_size)
{
    char text[KEY_TEXT_MAX + 1];
    uint8_t key[KEY_SIZE];
    size_t n = 0;
    enum err e = read_key_file(path, text, &n, why, why_size);
    if (e == ERR_OK && (e = parse_key(text, n, key)) != ERR_OK) {
        snprintf(why, why_size, "%s: must hold %d hex digits and nothing else", path, 2 * KEY_SIZE);
    }
    if (e == ERR_OK) {
        *out = seal_new(key);
    }
    OPENSSL_cleanse(text, sizeof text);
    OPENSSL_cleanse(key, sizeof key);
    return e;
}

/* --- values ---------------------------------------------------------------------------------- */

/* The key that a value with this salt has for itself. */
static void derive_value_key(const struct seal *s, const uint8_t *salt, uint8_t key[KEY_SIZE])
{
    struct span run = span_of(salt, SALT_SIZE);
    hmac(&s->values, &run, 1, key);
}

/* With out NULL: additional data. */
static void gcm_update(EVP_CIPHER_CTX *ctx, uint8_t *out, struct span in)
{
    int len;
    CHECK(in.n <= INT32_MAX);
    CHECK(in.n == 0 || EVP_CipherUpdate(ctx, out, &len, (const uint8_t *)in.p, (int)in.n) == 1);
}

static EVP_CIPHER_CTX *gcm_begin(const struct seal *s, const uint8_t *salt, const uint8_t *nonce,
                                 bool encrypt, struct span ad)
{
    uint8_t key[KEY_SIZE];
    derive_value_key(s, salt, key);
    CHECK(EVP_CipherInit_ex2(s->cipher, NULL, key, nonce, encrypt, NULL) == 1);
    OPENSSL_cleanse(key, sizeof key);
    gcm_update(s->cipher, NULL, ad);
    return s->cipher;
}

enum err seal_value(const struct seal *s, struct span ad, struct span plain, struct buf *out)
{
    if (plain.n > INT32_MAX || plain.n + SEAL_OVERHEAD > buf_room(out)) {
        return ERR_LIMIT;
    }
    uint8_t *salt = (uint8_t *)buf_reserve(out, plain.n + SEAL_OVERHEAD);
    uint8_t *nonce = salt + SALT_SIZE, *body = nonce + NONCE_SIZE, *tag = body + plain.n;
    arc4random_buf(salt, SALT_SIZE + NONCE_SIZE);
    EVP_CIPHER_CTX *ctx = gcm_begin(s, salt, nonce, true, ad);
    gcm_update(ctx, body, plain);
    int len;
    CHECK(EVP_CipherFinal_ex(ctx, tag, &len) == 1 && len == 0);
    CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_SIZE, tag) == 1);
    buf_commit(out, plain.n + SEAL_OVERHEAD);
    return ERR_OK;
}

enum err unseal_value(const struct seal *s, struct span ad, struct span sealed, struct buf *out)
{
    if (sealed.n < SEAL_OVERHEAD || sealed.n > INT32_MAX) {
        return ERR_CORRUPT;
    }
    size_t n = sealed.n - SEAL_OVERHEAD;
    if (n > buf_room(out)) {
        return ERR_LIMIT;
    }
    const uint8_t *salt = (const uint8_t *)sealed.p, *nonce = salt + SALT_SIZE;
    uint8_t tag[TAG_SIZE], rest[TAG_SIZE];
    uint8_t *plain = n ? (uint8_t *)buf_reserve(out, n) : rest; /* an empty value is one too */
    memcpy(tag, sealed.p + sealed.n - TAG_SIZE, TAG_SIZE);
    EVP_CIPHER_CTX *ctx = gcm_begin(s, salt, nonce, false, ad);
    CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_SIZE, tag) == 1);
    gcm_update(ctx, plain, span_of(nonce + NONCE_SIZE, n));
    int len;
    if (EVP_CipherFinal_ex(ctx, rest, &len) != 1) {
        return ERR_CORRUPT; /* nothing is committed: the bytes behind the end of out are nobody's */
    }
    buf_commit(out, n);
    return ERR_OK;
}

/* --- keyed hashes ---------------------------------------------------------------------------- */

static const struct hmac_sha256_ctx *mac_of(struct seal *s, const char *label)
{
    for (size_t i = 0; i < s->label_count; i++) {
        if (s->labels[i].text == label) {
            return &s->labels[i].mac;
        }
    }
    CHECK(s->label_count < LABELS_MAX);
    struct span purpose[] = { SPAN("mailfleet mac "), span_str(label) };
    struct label *l = &s->labels[s->label_count++];
    l->text = label;
    derive_mac(s, purpose, ARRAY_LEN(purpose), &l->mac);
    return &l->mac;
}

/* Lengths in front: no two lists of parts are the same bytes. */
void seal_mac(struct seal *s, const char *label, const struct span *parts, size_t n,
              uint8_t out[SEAL_MAC_SIZE])
{
    struct span runs[2 * SEAL_PARTS_MAX];
    uint64_t lengths[SEAL_PARTS_MAX];
    CHECK(n <= SEAL_PARTS_MAX);
    for (size_t i = 0; i < n; i++) {
        lengths[i] = htole64(parts[i].n);
        runs[2 * i] = span_of(&lengths[i], sizeof lengths[i]);
        runs[2 * i + 1] = parts[i];
    }
    hmac(mac_of(s, label), runs, 2 * n, out);
}
