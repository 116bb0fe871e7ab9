/*
 * base64: coder and decoder.
 *
 * Nothing is owned here; what base64_decode writes may be a password, and its caller wipes it,
 * after a failure too. By hand, because engines link no library, and libraries' decoders differ
 * in what they forgive.
 */
#include "proto/base64.h"

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

/* One to three octets as four characters. */
static void encode_group(struct span in, char out[4])
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; i++) {
        bits = bits << 8 | (i < in.n ? (unsigned char)in.p[i] : 0);
    }
    for (size_t i = 0; i < 4; i++) {
        out[i] = i <= in.n ? alphabet[bits >> (18 - 6 * i) & 63] : '=';
    }
}

enum err base64_encode(struct span in, struct buf *out)
{
    size_t size = BASE64_SIZE(in.n);
    char *to = buf_reserve(out, size);
    if (!to) {
        return ERR_LIMIT;
    }
    for (; in.n > 0; in = span_skip(in, 3), to += 4) {
        encode_group(span_first(in, 3), to);
    }
    buf_commit(out, size);
    return ERR_OK;
}
