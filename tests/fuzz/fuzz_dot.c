/*
 * fuzz_dot: any octets as a dot-stuffed message, and as a message to be stuffed.
 *
 * The first octet chooses the treatment of bare newlines and seeds the splits; the rest is the
 * input. Decoding whole and in pieces must be the same, a message must end where the first
 * CRLF.CRLF is, and decoding must undo encoding, of TOP too.
 */
#include <stdint.h>

#include "base/check.h"
#include "proto/dot.h"

#define TEXT_MOST ((size_t)64 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 16;
}

struct decoding {
    struct dot_decoder d;
    struct buf message;
    bool complete;
    size_t eaten;
};

static void decode_piece(struct decoding *r, struct span piece)
{
    struct span rest = piece;
    r->complete = dot_decode(&r->d, &rest, &r->message);
    CHECK(r->complete || rest.n == 0);
    r->eaten += piece.n - rest.n;
}

/* seed 0: whole. */
static void decode(struct decoding *r, struct span in, bool normalize, uint32_t seed)
{
    *r = (struct decoding){ .eaten = 0 };
    dot_decode_init(&r->d, normalize);
    buf_init(&r->message, TEXT_MOST);
    while (in.n > 0 && !r->complete) {
        struct span piece = span_first(in, seed ? 1 + next(&seed) % 8 : in.n);
        decode_piece(r, piece);
        in = span_skip(in, piece.n);
    }
}

/* Where the message ends, said plainly; 0 when it does not. */
static size_t end_of_message(struct span in)
{
    if (span_starts(in, SPAN(".\r\n"))) {
        return 3;
    }
    const char *at = in.n ? memmem(in.p, in.n, "\r\n.\r\n", 5) : NULL;
    return at ? (size_t)(at - in.p) + 5 : 0;
}

static void check_newlines(struct span m)
{
    for (size_t i = 0; i < m.n; i++) {
        CHECK(m.p[i] != '\n' || (i > 0 && m.p[i - 1] == '\r'));
        CHECK(m.p[i] != '\r' || i + 1 == m.n || m.p[i + 1] == '\n');
    }
}

static void try_decode(struct span in, bool normalize, uint32_t seed)
{
    struct decoding whole, pieces;
    size_t end = end_of_message(in);
    decode(&whole, in, normalize, 0);
    decode(&pieces, in, normalize, seed | 1);
    CHECK(whole.complete == (end > 0) && whole.eaten == (end ? end : in.n));
    CHECK(pieces.complete == whole.complete && pieces.eaten == whole.eaten);
    CHECK(pieces.d.bare == whole.d.bare);
    CHECK(span_eq(buf_span(&whole.message), buf_span(&pieces.message)));
    if (normalize || !whole.d.bare) {
        check_newlines(buf_span(&whole.message));
    }
    buf_fini(&whole.message);
    buf_fini(&pieces.message);
}

/* Encodes in pieces and decodes the result. */
static void round_trip(struct dot_encoder e, struct span in, uint32_t seed, struct decoding *r)
{
    struct buf wire;
    bool more = true;
    buf_init(&wire, TEXT_MOST);
    while (in.n > 0 && more) {
        struct span piece = span_first(in, 1 + next(&seed) % 8);
        more = dot_encode(&e, piece, &wire);
        in = span_skip(in, piece.n);
    }
    dot_encode_end(&e, &wire);
    decode(r, buf_span(&wire), false, 0);
    CHECK(r->complete && r->eaten == buf_len(&wire));
    buf_fini(&wire);
}

static bool ends_in_crlf(struct span s)
{
    return s.n >= 2 && memcmp(s.p + s.n - 2, "\r\n", 2) == 0;
}

static void try_encode(struct span in, uint32_t seed)
{
    struct dot_encoder e;
    struct decoding whole, top;
    size_t end = in.n == 0 || ends_in_crlf(in) ? 0 : 2;

    dot_encode_init(&e);
    round_trip(e, in, seed, &whole);
    CHECK(buf_len(&whole.message) == in.n + end);
    CHECK(span_starts(buf_span(&whole.message), in));
    CHECK(end == 0 || ends_in_crlf(buf_span(&whole.message)));

    dot_encode_top_init(&e, next(&seed) % 4);
    round_trip(e, in, seed, &top);
    CHECK(span_starts(buf_span(&whole.message), buf_span(&top.message)));
    buf_fini(&whole.message);
    buf_fini(&top.message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0) {
        struct span in = span_of(data + 1, size - 1);
        try_decode(in, data[0] & 1, data[0]);
        try_encode(in, data[0]);
    }
    return 0;
}
