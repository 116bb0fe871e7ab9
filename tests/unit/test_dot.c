/*
 * test_dot: all short strings of the octets that matter, in every split, against a plain statement
 * of what dot-stuffing means; then random octets both ways.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "proto/dot.h"

#define MOST      64
#define LONGEST   6 /* of the exhaustive strings */
#define UNBOUNDED ((size_t)1 << 20)

static const char alphabet[] = { '\r', '\n', '.', 'a', '\0' };

struct text {
    size_t n;
    char p[MOST];
};

static void put(struct text *t, const void *p, size_t n)
{
    assert_true(t->n + n <= MOST);
    memcpy(t->p + t->n, p, n);
    t->n += n;
}

static bool at(const struct text *t, size_t i, const char *s)
{
    size_t n = strlen(s);
    return i + n <= t->n && memcmp(t->p + i, s, n) == 0;
}

static bool line_starts(const struct text *t, size_t i)
{
    return i == 0 || (i >= 2 && at(t, i - 2, "\r\n"));
}

/* Calls each for all strings of the alphabet of up to LONGEST octets. */
static void all_strings(void (*each)(const struct text *))
{
    for (size_t n = 0; n <= LONGEST; n++) {
        size_t count = 1;
        for (size_t i = 0; i < n; i++) {
            count *= sizeof alphabet;
        }
        for (size_t k = 0; k < count; k++) {
            struct text t = { .n = n };
            for (size_t i = 0, rest = k; i < n; i++, rest /= sizeof alphabet) {
                t.p[i] = alphabet[rest % sizeof alphabet];
            }
            each(&t);
        }
    }
}

/* What decoding gives, said over the whole text at once. */
struct decoded {
    struct text message;
    bool complete, bare;
    size_t eaten;
};

static struct decoded decode_expected(const struct text *t, bool normalize)
{
    struct decoded d = { .eaten = t->n };
    size_t end = t->n;
    for (size_t i = 0; i < t->n && !d.complete; i++) {
        if (line_starts(t, i) && at(t, i, ".\r\n")) {
            d.complete = true;
            end = i;
            d.eaten = i + 3;
        }
    }
    for (size_t i = 0; i < end; i++) {
        if (line_starts(t, i) && t->p[i] == '.') {
            continue;
        }
        if (at(t, i, "\r\n")) {
            put(&d.message, "\r\n", 2);
            i++;
        } else if (t->p[i] == '\r' || t->p[i] == '\n') {
            d.bare = true;
            put(&d.message, normalize ? "\r\n" : t->p + i, normalize ? 2 : 1);
        } else {
            put(&d.message, t->p + i, 1);
        }
    }
    return d;
}

struct decoding {
    struct dot_decoder d;
    struct buf out;
    struct text message;
    size_t eaten;
    bool complete;
};

/* The piece lies in memory of its own size; out is emptied whenever the decoder wants room. */
static void decode_piece(struct decoding *r, const char *p, size_t n)
{
    char *copy = mem_new(n > 0 ? n : 1, 1);
    memcpy(copy, p, n);
    struct span in = span_of(copy, n);
    do {
        r->complete = dot_decode(&r->d, &in, &r->out);
        struct span s = buf_span(&r->out);
        put(&r->message, s.p, s.n);
        buf_clear(&r->out);
    } while (in.n > 0 && !r->complete);
    r->eaten += n - in.n;
    free(copy);
}

static struct decoding decode(const struct text *t, bool normalize, size_t first, size_t step,
                              size_t room)
{
    struct decoding r = { .eaten = 0 };
    dot_decode_init(&r.d, normalize);
    buf_init(&r.out, room);
    decode_piece(&r, t->p, first);
    for (size_t i = first; i < t->n && !r.complete; i += step) {
        decode_piece(&r, t->p + i, step < t->n - i ? step : t->n - i);
    }
    buf_fini(&r.out);
    return r;
}

/*
 * An incomplete message may still hold octets back that the plain statement has already; a
 * complete one is compared to the last octet. A text always gets a terminator, so all are seen.
 */
static void compare(const struct decoding *r, const struct decoded *want)
{
    assert_true(want->complete);
    assert_true(r->complete);
    assert_int_equal(r->eaten, want->eaten);
    assert_int_equal(r->d.bare, want->bare);
    assert_int_equal(r->message.n, want->message.n);
    assert_memory_equal(r->message.p, want->message.p, want->message.n);
}

static void decode_every_way(const struct text *t)
{
    struct text ended = *t;
    put(&ended, "\r\n.\r\nNOOP", 9);
    for (int normalize = 0; normalize < 2; normalize++) {
        struct decoded want = decode_expected(&ended, normalize);
        struct decoding r = decode(&ended, normalize, 0, 1, UNBOUNDED);
        compare(&r, &want);
        r = decode(&ended, normalize, ended.n, 1, 4);
        compare(&r, &want);
        for (size_t cut = 0; cut <= ended.n; cut++) {
            r = decode(&ended, normalize, cut, ended.n, UNBOUNDED);
            compare(&r, &want);
        }
    }
}

static void decodes_all_short_strings(void **state)
{
    (void)state;
    all_strings(decode_every_way);
}

struct decode_example {
    const char *in;
    const char *out; /* NULL: not complete */
    const char *rest;
    bool normalize, bare;
};

static const struct decode_example decode_examples[] = {
    { ".\r\n", "", "", false, false },
    { ".\r\nQUIT\r\n", "", "QUIT\r\n", false, false },
    { "\r\n.\r\n", "\r\n", "", false, false },
    { "a\r\n.\r\nb", "a\r\n", "b", false, false },
    { "..\r\n.\r\n", ".\r\n", "", false, false },
    { "a\n.\n.\r\nb\r\n.\r\n", "a\n.\n.\r\nb\r\n", "", false, true },
    { "a\n.\n.\r\nb\r\n.\r\n", "a\r\n.\r\n.\r\nb\r\n", "", true, true },
    { "a\r.\r\r\n.\r\n", "a\r\n.\r\n\r\n", "", true, true },
    { "a\n.\r\nMAIL", NULL, "", false, true },
    { "a\r.\r\nMAIL", NULL, "", false, true },
    { "a\r\n.\nMAIL", NULL, "", false, true },
    { "a\r\n.\rMAIL", NULL, "", false, true },
};

static void ends_at_crlf_dot_crlf_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(decode_examples); i++) {
        const struct decode_example *x = &decode_examples[i];
        struct dot_decoder d;
        struct buf out;
        struct span in = span_str(x->in);
        dot_decode_init(&d, x->normalize);
        buf_init(&out, UNBOUNDED);
        assert_int_equal(dot_decode(&d, &in, &out), x->out != NULL);
        assert_int_equal(d.bare, x->bare);
        assert_true(span_eq(in, span_str(x->rest)));
        if (x->out) {
            assert_true(span_eq(buf_span(&out), span_str(x->out)));
        }
        buf_fini(&out);
    }
}

static void decoder_stops_when_out_is_full(void **state)
{
    (void)state;
    struct dot_decoder d;
    struct buf out;
    struct span in = SPAN("abcdefgh\r\n.\r\n");
    dot_decode_init(&d, true);
    buf_init(&out, 6);
    assert_false(dot_decode(&d, &in, &out));
    assert_true(buf_room(&out) < 4);
    assert_int_equal(in.n, 13 - buf_len(&out));
    buf_fini(&out);
}

/* What encoding gives: the message cut to its header and n body lines, then stuffed and ended. */
static size_t top_length(const struct text *t, uint64_t n)
{
    bool header = true;
    for (size_t i = 0; i < t->n; i++) {
        if (!at(t, i, "\r\n")) {
            continue;
        }
        if (!header) {
            n--;
        } else if (line_starts(t, i)) {
            header = false;
        }
        if (!header && n == 0) {
            return i + 2;
        }
    }
    return t->n;
}

static struct text encode_expected(const struct text *t)
{
    struct text r = { 0 };
    for (size_t i = 0; i < t->n; i++) {
        if (line_starts(t, i) && t->p[i] == '.') {
            put(&r, ".", 1);
        }
        put(&r, t->p + i, 1);
    }
    if (!line_starts(t, t->n)) {
        put(&r, "\r\n", 2);
    }
    put(&r, ".\r\n", 3);
    return r;
}

static struct text encode(struct dot_encoder e, const struct text *t, size_t first, size_t step)
{
    struct text r = { 0 };
    struct buf out;
    buf_init(&out, UNBOUNDED);
    bool more = dot_encode(&e, span_of(t->p, first), &out);
    for (size_t i = first; i < t->n; i += step) {
        bool again = dot_encode(&e, span_of(t->p + i, step < t->n - i ? step : t->n - i), &out);
        assert_true(more || !again);
        more = again;
    }
    dot_encode_end(&e, &out);
    put(&r, buf_span(&out).p, buf_len(&out));
    buf_fini(&out);
    return r;
}

static void same(const struct text *a, const struct text *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->p, b->p, b->n);
}

static void encode_compare(struct dot_encoder e, const struct text *t, const struct text *want)
{
    struct text r = encode(e, t, 0, 1);
    same(&r, want);
    for (size_t cut = 0; cut <= t->n; cut++) {
        r = encode(e, t, cut, t->n);
        same(&r, want);
    }
}

static void encode_every_way(const struct text *t)
{
    struct dot_encoder e;
    struct text want = encode_expected(t);
    dot_encode_init(&e);
    encode_compare(e, t, &want);

    for (uint64_t n = 0; n < 3; n++) {
        struct text cut = *t;
        cut.n = top_length(t, n);
        want = encode_expected(&cut);
        dot_encode_top_init(&e, n);
        encode_compare(e, t, &want);
    }
}

static void encodes_all_short_strings(void **state)
{
    (void)state;
    all_strings(encode_every_way);
}

static void round_trip(const struct text *t)
{
    struct dot_encoder e;
    dot_encode_init(&e);
    struct text wire = encode(e, t, t->n, 1);
    struct decoding r = decode(&wire, false, wire.n, 1, UNBOUNDED);
    struct text want = *t;
    if (!line_starts(t, t->n)) {
        put(&want, "\r\n", 2);
    }
    assert_true(r.complete);
    assert_int_equal(r.eaten, wire.n);
    same(&r.message, &want);
}

static void decoding_undoes_encoding(void **state)
{
    (void)state;
    all_strings(round_trip);
}

static void random_octets_round_trip(void **state)
{
    (void)state;
    unsigned short seed[3] = { 1939, 5321, 1 };
    for (int i = 0; i < 100000; i++) {
        struct text t = { .n = (size_t)nrand48(seed) % (MOST / 2 - 4) };
        for (size_t k = 0; k < t.n; k++) {
            long r = nrand48(seed);
            t.p[k] = r % 2 ? alphabet[(size_t)(r / 2) % sizeof alphabet] : (char)(r / 2);
        }
        round_trip(&t);
    }
}

static void top_says_when_it_has_enough(void **state)
{
    (void)state;
    struct dot_encoder e;
    struct buf out;
    buf_init(&out, UNBOUNDED);
    dot_encode_top_init(&e, 1);
    assert_true(dot_encode(&e, SPAN("Subject: x\r\n\r\n.one\r"), &out));
    assert_false(dot_encode(&e, SPAN("\ntwo\r\n"), &out));
    assert_false(dot_encode(&e, SPAN("three\r\n"), &out));
    dot_encode_end(&e, &out);
    assert_true(span_eq(buf_span(&out), SPAN("Subject: x\r\n\r\n..one\r\n.\r\n")));

    buf_clear(&out);
    dot_encode_top_init(&e, UINT64_MAX);
    assert_true(dot_encode(&e, SPAN("A: b\r\n\r\nall\r\n"), &out));
    dot_encode_end(&e, &out);
    assert_true(span_eq(buf_span(&out), SPAN("A: b\r\n\r\nall\r\n.\r\n")));
    buf_fini(&out);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_all_short_strings),
        cmocka_unit_test(ends_at_crlf_dot_crlf_alone),
        cmocka_unit_test(decoder_stops_when_out_is_full),
        cmocka_unit_test(encodes_all_short_strings),
        cmocka_unit_test(decoding_undoes_encoding),
        cmocka_unit_test(random_octets_round_trip),
        cmocka_unit_test(top_says_when_it_has_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
