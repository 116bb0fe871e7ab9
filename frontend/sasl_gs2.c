/*
 * sasl_gs2: reads gs2-header and saslname.
 *
 * Nothing is owned. It judges the form alone: which flag and which name will do is decided by the
 * mechanisms.
 */
#include "sasl_gs2.h"

/* Takes what is in front of the first comma off *rest, and the comma. */
static bool field(struct span *rest, struct span *out)
{
    size_t n = span_find(*rest, ',');
    if (n == rest->n) {
        return false;
    }
    *out = span_first(*rest, n);
    *rest = span_skip(*rest, n + 1);
    return true;
}

static bool is_binding_name(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], lower = (char)(c | 0x20);
        if (!((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-')) {
            return false;
        }
    }
    return s.n > 0;
}

static bool parse_flag(struct span s, struct gs2 *g)
{
    if (s.n == 1 && (*s.p == 'n' || *s.p == 'y')) {
        g->flag = *s.p;
        return true;
    }
    g->flag = 'p';
    g->binding = span_skip(s, 2);
    return span_starts(s, SPAN("p=")) && is_binding_name(g->binding);
}

enum err gs2_parse(struct span message, struct gs2 *out, struct span *rest)
{
    struct gs2 g = { 0 };
    struct span flag, authzid, left = message;
    if (!field(&left, &flag) || !parse_flag(flag, &g) || !field(&left, &authzid)) {
        return ERR_INVALID;
    }
    if (authzid.n > 0) {
        if (!span_starts(authzid, SPAN("a=")) || authzid.n == 2) {
            return ERR_INVALID;
        }
        g.authzid = span_skip(authzid, 2);
    }
    g.header = span_first(message, message.n - left.n);
    *out = g;
    *rest = left;
    return ERR_OK;
}

/* The octet in front, and how many octets it is written in; 0: not a name. */
static size_t name_octet(struct span in, char *out)
{
    *out = in.p[0];
    if (*out != '=') {
        return *out != '\0' && *out != ',';
    }
    *out = span_starts(in, SPAN("=2C")) ? ',' : '=';
    return *out == ',' || span_starts(in, SPAN("=3D")) ? 3 : 0;
}

enum err gs2_name(struct span in, char *out, size_t size)
{
    if (in.n == 0 || !span_utf8(in)) {
        return ERR_INVALID;
    }
    /* Twice, because out is untouched on failure. */
    size_t n = 0;
    char c;
    for (struct span s = in; s.n > 0; n++) {
        size_t step = name_octet(s, &c);
        if (step == 0) {
            return ERR_INVALID;
        }
        s = span_skip(s, step);
    }
    if (n >= size) {
        return ERR_LIMIT;
    }
    for (size_t i = 0; i < n; i++) {
        in = span_skip(in, name_octet(in, &out[i]));
    }
    out[n] = '\0';
    return ERR_OK;
}
