/*
 * token_jwt: tokens that prove themselves (JWT, RFC 7519), with the keys of a local file.
 *
 * The signature is libjose's to verify; which one is taken at all is decided here. Nothing is kept:
 * the file, a few kilobytes, is read for each token, so that a key that was put into it or taken
 * out counts at once, without a clock to trust. What JOSE can do besides (keys inside the token,
 * encryption, secrets instead of key pairs) is refused before libjose sees it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <jose/b64.h>
#include <jose/cfg.h>
#include <jose/jws.h>

#include "base/buffer.h"
#include "base/check.h"
#include "store/token_parts.h"

enum { FILE_MAX = 256 * 1024, KEYS_MAX = 64 };

/* --- the file -------------------------------------------------------------------------------- */

static enum err read_all(int fd, struct buf *out)
{
    ssize_t n = 1;
    while (n > 0) {
        char *to = buf_reserve(out, buf_room(out) < 4096 ? buf_room(out) : 4096);
        if (!to || buf_room(out) == 0) {
            errno = EFBIG;
            return ERR_TEMP;
        }
        n = read(fd, to, buf_room(out) < 4096 ? buf_room(out) : 4096);
        if (n > 0) {
            buf_commit(out, (size_t)n);
        }
    }
    return n < 0 ? ERR_TEMP : ERR_OK;
}

/* The list of keys, or NULL; *why is static or strerror's. */
static json_t *load_keys(const char *path, const char **why)
{
    struct buf text;
    json_t *set = NULL, *keys = NULL;
    buf_init(&text, FILE_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || read_all(fd, &text) != ERR_OK) {
        *why = strerrordesc_np(errno);
    } else {
        set = json_loadb(buf_span(&text).p, buf_len(&text), JSON_REJECT_DUPLICATES, NULL);
        keys = json_incref(json_object_get(set, "keys"));
        size_t n = json_array_size(keys);
        if (n == 0 || n > KEYS_MAX) {
            json_decref(keys);
            keys = NULL;
            *why = "not a JSON object with 1 to 64 \"keys\" (RFC 7517)";
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    json_decref(set);
    buf_fini(&text);
    return keys;
}

enum err token_jwt_check(const char *path, char *why, size_t why_size)
{
    const char *reason = NULL;
    json_t *keys = load_keys(path, &reason);
    if (!keys) {
        snprintf(why, why_size, "oauth.jwks_file: %s: %s", path, reason);
        return ERR_INVALID;
    }
    json_decref(keys);
    return ERR_OK;
}

/* --- the header ------------------------------------------------------------------------------ */

/* Of a key pair each: with a secret, who can check a token could make one. libjose has no EdDSA. */
static const struct {
    const char *name, *kty;
} algorithms[] = {
    { "RS256", "RSA" }, { "RS384", "RSA" }, { "RS512", "RSA" },
    { "PS256", "RSA" }, { "PS384", "RSA" }, { "PS512", "RSA" },
    { "ES256", "EC" },  { "ES384", "EC" },  { "ES512", "EC" },
};

/* The type of key that an algorithm needs; NULL: not taken. */
static const char *key_type(const char *alg)
{
    for (size_t i = 0; alg && i < ARRAY_LEN(algorithms); i++) {
        if (strcmp(alg, algorithms[i].name) == 0) {
            return algorithms[i].kty;
        }
    }
    return NULL;
}

/* JWT and what RFC 9068 calls an access token; others are for other purposes (RFC 8725, 3.11). */
static bool is_type(const json_t *typ)
{
    struct span s = span_str(json_string_value(typ));
    if (span_starts_nocase(s, SPAN("application/"))) {
        s = span_skip(s, strlen("application/"));
    }
    return !typ || span_eq_nocase(s, SPAN("JWT")) || span_eq_nocase(s, SPAN("at+jwt"));
}

/* No extension is understood here, and whatever is critical is one. */
static const char *check_header(const json_t *header)
{
    if (!json_is_object(header)) {
        return "not a signed token";
    }
    if (json_object_get(header, "crit")) {
        return "its header has something critical";
    }
    if (!key_type(json_string_value(json_object_get(header, "alg")))) {
        return "its algorithm is not taken";
    }
    return is_type(json_object_get(header, "typ")) ? NULL : "it is of another type";
}

/* --- the signature --------------------------------------------------------------------------- */

/* A member that is not there, or says so. */
static bool agrees(const json_t *object, const char *name, const char *want)
{
    const json_t *v = json_object_get(object, name);
    const char *s = json_string_value(v);
    return !v || !want || (s && strcmp(s, want) == 0);
}

static bool fits(const json_t *key, const json_t *header)
{
    const char *alg = json_string_value(json_object_get(header, "alg"));
    const json_t *kid = json_object_get(header, "kid");
    return json_object_get(key, "kty") && agrees(key, "kty", key_type(alg)) &&
           agrees(key, "use", "sig") && agrees(key, "alg", alg) &&
           (!kid || json_equal(kid, json_object_get(key, "kid")));
}

/* libjose would write to standard error. */
static void say_nothing(void *misc, const char *file, int line, uint64_t err, const char *fmt,
                        va_list ap)
{
    (void)misc, (void)file, (void)line, (void)err, (void)fmt, (void)ap;
}

static bool is_signed(const json_t *jws, const json_t *header, const json_t *keys)
{
    jose_cfg_t *cfg = jose_cfg();
    bool good = false;
    CHECK(cfg);
    jose_cfg_set_err_func(cfg, say_nothing, NULL);
    for (size_t i = 0; !good && i < json_array_size(keys); i++) {
        const json_t *key = json_array_get(keys, i);
        good = fits(key, header) && jose_jws_ver(cfg, jws, NULL, key, false);
    }
    jose_cfg_decref(cfg);
    return good;
}

/* --- the token ------------------------------------------------------------------------------- */

/* Three parts with dots in between (RFC 7515, section 7.1); NULL: not that. */
static json_t *parse_compact(struct span token)
{
    size_t n = span_find(token, '.');
    struct span header = span_first(token, n), rest = span_skip(token, n + 1);
    n = span_find(rest, '.');
    struct span payload = span_first(rest, n), signature = span_skip(rest, n + 1);
    if (header.n == 0 || payload.n == 0 || signature.n == 0) {
        return NULL;
    }
    return json_pack("{s:s%,s:s%,s:s%}", "protected", header.p, header.n, "payload", payload.p,
                     payload.n, "signature", signature.p, signature.n);
}

static enum err verify(const json_t *jws, const json_t *keys, json_t **claims, const char **why)
{
    json_t *header = jose_b64_dec_load(json_object_get(jws, "protected"));
    json_t *payload = NULL;
    *why = check_header(header);
    if (!*why && !is_signed(jws, header, keys)) {
        *why = "no key that we know has signed it";
    }
    if (!*why) {
        payload = jose_b64_dec_load(json_object_get(jws, "payload"));
        *why = json_is_object(payload) ? NULL : "it says nothing";
    }
    json_decref(header);
    if (*why) {
        json_decref(payload);
        return ERR_DENIED;
    }
    *claims = payload;
    return ERR_OK;
}

enum err token_jwt_ask(const char *path, struct span token, json_t **claims, const char **why)
{
    json_t *jws = parse_compact(token);
    if (!jws) {
        *why = "not a signed token";
        return ERR_DENIED;
    }
    json_t *keys = load_keys(path, why);
    enum err e = keys ? verify(jws, keys, claims, why) : ERR_TEMP;
    json_decref(keys);
    json_decref(jws);
    return e;
}
