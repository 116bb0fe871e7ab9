/*
 * fuzz_token: any octets as what says whom an OAuth token is of.
 *
 * The first octet chooses: an endpoint's answer (JSON claims), or a signed token, held against one
 * key. Only the seed whose signature was made with that key may get past it, and what is accepted
 * names a user that fits.
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "store/token_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char keys[] =
    "{\"keys\":[{\"alg\":\"ES256\",\"crv\":\"P-256\",\"key_ops\":[\"verify\"],\"kty\":\"EC\","
    "\"x\":\"zte2I4kS0p6Yu8iwz80cvBvnthKQlOYxjtIFlRMx4w8\","
    "\"y\":\"RR-q4815nYeIkK9Rdzp_P1KPukgqI9KgUAcZOFI4eOM\"}]}";

/* What the key's owner signed. */
static const char signed_payload[] = "{\"email\":\"a@b.example\",\"exp\":9999999999,\"iss\":\"i\","
                                     "\"aud\":[\"x\",\"y\"],\"scope\":\"a b\"}";

static const char *key_file(void)
{
    static char path[64];
    if (!*path) {
        int fd = memfd_create("keys", MFD_CLOEXEC);
        CHECK(fd >= 0 && write(fd, keys, sizeof keys - 1) == sizeof keys - 1);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    return path;
}

static void judge(const json_t *claims, bool must_expire)
{
    static const struct token_rules rules = {
        .issuer = "i", .audience = "x", .scope = "a", .claim = "email"
    };
    struct token_answer answer = { .why = NULL };
    enum err e = token_judge(&rules, claims, 1000, must_expire, &answer);
    if (e == ERR_OK) {
        size_t n = strnlen(answer.user, sizeof answer.user);
        CHECK(n > 0 && n < sizeof answer.user);
        CHECK(!must_expire || answer.expires > 1000);
    } else {
        CHECK(e == ERR_DENIED && answer.why);
    }
}

static void read_answer(struct span text)
{
    json_t *claims = json_loadb(text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
    if (claims) {
        judge(claims, false);
        json_decref(claims);
    }
}

static void read_token(struct span token)
{
    json_t *claims = NULL;
    const char *why = NULL;
    enum err e = token_jwt_ask(key_file(), token, &claims, &why);
    if (e != ERR_OK) {
        CHECK(e == ERR_DENIED && why);
        return;
    }
    json_t *signed_claims = json_loads(signed_payload, 0, NULL);
    CHECK(json_equal(claims, signed_claims));
    json_decref(signed_claims);
    judge(claims, true);
    json_decref(claims);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct span rest = span_of(data + 1, size - 1);
    if (data[0] & 1) {
        read_token(rest);
    } else {
        read_answer(rest);
    }
    return 0;
}
