/*
 * token_judge: whether what a token says is enough, and whom it names.
 *
 * Claims are borrowed and nothing is owned. Whether they are true was found out before: by a
 * signature, or by who was asked.
 */
#include "store/token_parts.h"

enum { LEEWAY = 60 }; /* seconds that clocks may differ */

static enum err denied(struct token_answer *out, const char *why)
{
    out->why = why;
    return ERR_DENIED;
}

/* What does not fit is far in the past or in the future, and stays there. */
static int64_t seconds(const json_t *number)
{
    double v = json_number_value(number);
    return v < -1e15 ? (int64_t)-1e15 : v > 1e15 ? (int64_t)1e15 : (int64_t)v;
}

static const char *check_times(const json_t *claims, int64_t now, bool must_expire,
                               int64_t *expires)
{
    const json_t *exp = json_object_get(claims, "exp"), *nbf = json_object_get(claims, "nbf");
    if ((exp && !json_is_number(exp)) || (nbf && !json_is_number(nbf))) {
        return "a time is not a number";
    }
    if (!exp && must_expire) {
        return "it never expires";
    }
    if (exp && now >= seconds(exp) + LEEWAY) {
        return "it has expired";
    }
    if (nbf && now < seconds(nbf) - LEEWAY) {
        return "it is not valid yet";
    }
    *expires = exp ? seconds(exp) + LEEWAY : 0;
    return NULL;
}

static bool is_string(const json_t *v, const char *want)
{
    const char *s = json_string_value(v);
    return s && strcmp(s, want) == 0;
}

/* One, or a list (RFC 7519, section 4.1.3). */
static bool has_audience(const json_t *v, const char *want)
{
    for (size_t i = 0; i < json_array_size(v); i++) {
        if (is_string(json_array_get(v, i), want)) {
            return true;
        }
    }
    return is_string(v, want);
}

static bool has_scope(const json_t *v, const char *want)
{
    struct span rest = json_is_string(v) ? span_str(json_string_value(v)) : SPAN("");
    for (struct span word; (word = span_word(&rest)).n > 0;) {
        if (span_eq(word, span_str(want))) {
            return true;
        }
    }
    return false;
}

static const char *check_rules(const struct token_rules *r, const json_t *claims)
{
    if (*r->issuer && !is_string(json_object_get(claims, "iss"), r->issuer)) {
        return "another issuer";
    }
    if (*r->audience && !has_audience(json_object_get(claims, "aud"), r->audience)) {
        return "another audience";
    }
    if (*r->scope && !has_scope(json_object_get(claims, "scope"), r->scope)) {
        return "not the scope";
    }
    return NULL;
}

/* An address that its holder has only claimed to have is nobody's (OpenID Connect Core, 5.1). */
static const char *check_user(const struct token_rules *r, const json_t *claims)
{
    const json_t *user = json_object_get(claims, r->claim);
    const json_t *verified = json_object_get(claims, "email_verified");
    size_t n = json_string_length(user);
    if (!json_is_string(user) || n == 0) {
        return "the claim that names the account is missing";
    }
    if (n >= TOKEN_USER_SIZE || strlen(json_string_value(user)) < n) {
        return "the claim that names the account is no address";
    }
    if (strcmp(r->claim, "email") == 0 && verified && !json_is_true(verified) &&
        !is_string(verified, "true")) {
        return "the address is not verified";
    }
    return NULL;
}

enum err token_judge(const struct token_rules *r, const json_t *claims, int64_t now,
                     bool must_expire, struct token_answer *out)
{
    int64_t expires = 0;
    const char *why = check_times(claims, now, must_expire, &expires);
    why = why ? why : check_rules(r, claims);
    why = why ? why : check_user(r, claims);
    if (why) {
        return denied(out, why);
    }
    const json_t *user = json_object_get(claims, r->claim);
    memcpy(out->user, json_string_value(user), json_string_length(user) + 1);
    out->expires = expires;
    return ERR_OK;
}
