/*
 * sasl: base64 and the PLAIN message.
 *
 * Nothing is owned here; what base64_decode writes may be a password, and its caller wipes it,
 * after a failure too. By hand, because the engine links no library, and libraries' decoders
 * differ in what they forgive; one spelling for each message is all that is taken here.
 */
#include "sasl.h"

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* How many `=` are at the end; a third one is left for the decoder to refuse. */
static size_t base64_padding(struct span in)
{
    size_t n = 0;
    while (n < 2 && n < in.n && in.p[in.n - 1 - n] == '=') {
        n++;
    }
    return n;
}

enum err base64_decode(struct span in, char *out, size_t *n)
{
    size_t padding = base64_padding(in), len = 0;
    uint32_t bits = 0;
    if (in.n % 4 != 0) {
        return ERR_INVALID;
    }
    for (size_t i = 0; i < in.n - padding; i++) {
        int v = base64_value(in.p[i]);
        if (v < 0) {
            return ERR_INVALID;
        }
        bits = bits << 6 | (uint32_t)v;
        size_t place = i % 4; /* the first character of four completes no octet */
        if (place > 0) {
            out[len++] = (char)(bits >> (6 - 2 * place));
        }
    }
    uint32_t unused = (1u << (2 * padding)) - 1;
    if (bits & unused) {
        return ERR_INVALID;
    }
    *n = len;
    return ERR_OK;
}

enum err sasl_plain(struct span message, struct span *user, struct span *password)
{
    size_t n = span_find(message, '\0');
    struct span authzid = span_first(message, n);
    struct span rest = span_skip(message, n + 1);
    n = span_find(rest, '\0');
    struct span authcid = span_first(rest, n);
    rest = span_skip(rest, n + 1);

    if (authcid.n == 0 || rest.n == 0 || span_find(rest, '\0') < rest.n) {
        return ERR_INVALID;
    }
    if (authzid.n > 0 && !span_eq_nocase(authzid, authcid)) {
        return ERR_DENIED;
    }
    *user = authcid;
    *password = rest;
    return ERR_OK;
}
