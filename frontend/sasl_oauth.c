/*
 * sasl_oauth: reads the pairs `key=value` that \x01 ends, and the token in `auth`.
 *
 * Nothing is owned. Keys that nobody knows are skipped, as RFC 7628 asks; one that is there twice
 * is refused, since two readers might take different ones.
 */
#include "sasl_oauth.h"

#define SEPARATOR '\x01'

struct pairs {
    struct span user, auth, host, port; /* p NULL: absent */
};

static bool is_key(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char lower = (char)(s.p[i] | 0x20);
        if (lower < 'a' || lower > 'z') {
            return false;
        }
    }
    return s.n > 0;
}

/* An address in XOAUTH2's `user` may be internationalized, which RFC 7628's grammar has no word
 * for. */
static bool is_value(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c < ' ' && c != '\t' && c != '\r' && c != '\n') || c == 0x7f) {
            return false;
        }
    }
    return span_utf8(s);
}

static struct span *place(struct pairs *p, struct span key, struct span *other)
{
    return span_eq(key, SPAN("user"))   ? &p->user
           : span_eq(key, SPAN("auth")) ? &p->auth
           : span_eq(key, SPAN("host")) ? &p->host
           : span_eq(key, SPAN("port")) ? &p->port
                                        : other;
}

static bool add_pair(struct span text, struct pairs *p)
{
    size_t n = span_find(text, '=');
    struct span key = span_first(text, n), value = span_skip(text, n + 1), other = { 0 };
    struct span *to = place(p, key, &other);
    if (n == text.n || !is_key(key) || !is_value(value) || to->p) {
        return false;
    }
    *to = value;
    return true;
}

/* Pairs, each ended by a separator, and one more separator at the end of all. */
static bool parse_pairs(struct span text, struct pairs *p)
{
    while (text.n > 1) {
        size_t n = span_find(text, SEPARATOR);
        if (n == text.n || !add_pair(span_first(text, n), p)) {
            return false;
        }
        text = span_skip(text, n + 1);
    }
    return text.n == 1 && *text.p == SEPARATOR;
}

/* RFC 6750, section 2.1. */
static bool is_token(struct span s)
{
    size_t n = s.n;
    while (n > 0 && s.p[n - 1] == '=') {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        char c = s.p[i], lower = (char)(c | 0x20);
        if (!((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || strchr("-._~+/", c))) {
            return false;
        }
    }
    return n > 0;
}

/* An empty auth asks what the server would need: there is nothing that could be right in it. */
static enum err find_token(const struct pairs *p, struct span *token)
{
    uint64_t port;
    if (!p->auth.p || (p->port.p && span_u64(p->port, 65535, &port) != ERR_OK)) {
        return ERR_INVALID;
    }
    struct span rest = p->auth, scheme = span_word(&rest);
    rest = span_trim(rest);
    if (scheme.n > 0 && (!span_eq_nocase(scheme, SPAN("Bearer")) || !is_token(rest))) {
        return ERR_INVALID;
    }
    *token = rest;
    return ERR_OK;
}

enum err oauth_bearer(struct span message, char *user, size_t size, struct span *token)
{
    struct gs2 g;
    struct pairs p = { 0 };
    struct span rest;
    if (gs2_parse(message, &g, &rest) != ERR_OK || g.flag == 'p' || rest.n == 0 ||
        *rest.p != SEPARATOR || !parse_pairs(span_skip(rest, 1), &p)) {
        return ERR_INVALID;
    }
    enum err e = find_token(&p, token);
    if (e == ERR_OK && g.authzid.n > 0) {
        e = gs2_name(g.authzid, user, size);
    } else if (e == ERR_OK) {
        *user = '\0';
    }
    return e;
}

enum err oauth_xoauth2(struct span message, char *user, size_t size, struct span *token)
{
    struct pairs p = { 0 };
    if (!parse_pairs(message, &p) || !p.user.p || p.user.n == 0) {
        return ERR_INVALID;
    }
    if (p.user.n >= size) {
        return ERR_LIMIT;
    }
    enum err e = find_token(&p, token);
    if (e == ERR_OK) {
        memcpy(user, p.user.p, p.user.n);
        user[p.user.n] = '\0';
    }
    return e;
}
