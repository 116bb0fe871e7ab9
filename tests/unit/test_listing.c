/*
 * listing: a maildrop survives its cached form, and nothing else passes for one.
 */
#include "store/listing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct pointer pointer_of(uint64_t seq)
{
    struct pointer p = { .seq = seq,
                         .size = (uint32_t)(seq * 1000 + 1),
                         .skip = (uint32_t)(seq % 7 * 100),
                         .volume = (uint16_t)(seq % 3) };
    for (size_t i = 0; i < sizeof p.id.b; i++) {
        p.id.b[i] = (uint8_t)(seq * 31 + i);
    }
    return p;
}

/* Three kinds of messages: ours, imported with a UIDL, and one with a file handle too. */
static struct maildrop *maildrop_of(size_t n)
{
    struct maildrop *m = maildrop_new(0x1122334455667788, 99);
    uint64_t seq = 0;
    for (size_t i = 0; i < n; i++) {
        seq += i == 2 ? UINT32_MAX : 1 + i % 5;
        struct pointer p = pointer_of(seq);
        struct span uidl = i % 3 == 1 ? SPAN("old.uidl-1") : SPAN("");
        struct span handle = i % 3 == 2 ? span_of("\0\1\2handle", 9) : SPAN("");
        assert_int_equal(maildrop_add(m, &p, uidl, handle), ERR_OK);
    }
    return m;
}

static void assert_same(const struct maildrop *a, const struct maildrop *b)
{
    assert_int_equal(a->mailbox_id, b->mailbox_id);
    assert_int_equal(a->version, b->version);
    assert_int_equal(a->octets, b->octets);
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct pointer p = maildrop_at(a, i), q = maildrop_at(b, i);
        char u[UIDL_MAX + 1], v[UIDL_MAX + 1];
        assert_true(blob_id_eq(&p.id, &q.id));
        assert_true(p.seq == q.seq && p.size == q.size && p.skip == q.skip);
        assert_int_equal(p.volume, q.volume);
        assert_int_equal(maildrop_uidl(a, i, u), maildrop_uidl(b, i, v));
        assert_string_equal(u, v);
        assert_true(span_eq(maildrop_handle(a, i), maildrop_handle(b, i)));
    }
}

static void round_trip(size_t n)
{
    struct maildrop *m = maildrop_of(n), *back = NULL;
    struct buf b;
    buf_init(&b, 100 << 20);
    assert_int_equal(listing_encode(m, &b), ERR_OK);
    assert_int_equal(listing_decode(&b, &back), ERR_OK);
    assert_same(m, back);
    maildrop_free(&m);
    maildrop_free(&back);
    buf_fini(&b);
}

static void test_round_trip(void **state)
{
    (void)state;
    round_trip(0);
    round_trip(1);
    round_trip(3);
    round_trip(100000);
}

static void test_compact(void **state)
{
    (void)state;
    struct maildrop *m = maildrop_new(1, 1);
    struct buf b;
    buf_init(&b, 1 << 20);
    for (uint64_t seq = 1; seq <= 1000; seq++) {
        struct pointer p = pointer_of(seq);
        maildrop_add(m, &p, SPAN(""), SPAN(""));
    }
    assert_int_equal(listing_encode(m, &b), ERR_OK);
    assert_in_range(buf_len(&b), 26 * 1000, 26 * 1000 + 26);
    maildrop_free(&m);
    buf_fini(&b);
}

static void test_limits(void **state)
{
    (void)state;
    struct maildrop *m = maildrop_of(5);
    struct buf b, small;
    buf_init(&b, 1 << 20);
    assert_int_equal(listing_encode(m, &b), ERR_OK);
    buf_init(&small, buf_len(&b) - 1);
    assert_int_equal(listing_encode(m, &small), ERR_LIMIT);
    assert_int_equal(buf_len(&small), 0);
    maildrop_free(&m);
    buf_fini(&b);
    buf_fini(&small);
}

/* In memory of its exact size, so that a read past the end is seen by the sanitizer. */
static struct buf exactly(struct span octets)
{
    struct buf b = { .mem = malloc(octets.n), .size = octets.n, .limit = octets.n };
    assert_int_equal(buf_add(&b, octets), ERR_OK);
    return b;
}

static void assert_corrupt(struct span octets)
{
    struct maildrop *m = NULL;
    struct buf in = exactly(octets);
    assert_int_equal(listing_decode(&in, &m), ERR_CORRUPT);
    assert_null(m);
    assert_true(span_eq(buf_span(&in), octets));
    buf_fini(&in);
}

/* Whatever the decoder takes, the encoder would have written. */
static void corrupt_or_canonical(struct span octets)
{
    struct maildrop *m = NULL;
    struct buf in = exactly(octets);
    enum err e = listing_decode(&in, &m);
    buf_fini(&in);
    if (e != ERR_OK) {
        assert_int_equal(e, ERR_CORRUPT);
        assert_null(m);
        return;
    }
    struct buf b;
    buf_init(&b, octets.n);
    assert_int_equal(listing_encode(m, &b), ERR_OK);
    assert_true(span_eq(buf_span(&b), octets));
    buf_fini(&b);
    maildrop_free(&m);
}

static void test_damaged(void **state)
{
    (void)state;
    struct maildrop *m = maildrop_of(5);
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(listing_encode(m, &b), ERR_OK);
    struct span whole = buf_span(&b);
    for (size_t n = 0; n < whole.n; n++) {
        assert_corrupt(span_first(whole, n));
    }
    for (size_t bit = 0; bit < whole.n * 8; bit++) {
        char *copy = span_dup(whole);
        copy[bit / 8] ^= (char)(1 << bit % 8);
        corrupt_or_canonical(span_of(copy, whole.n));
        free(copy);
    }
    buf_addc(&b, 'x');
    assert_corrupt(buf_span(&b));
    maildrop_free(&m);
    buf_fini(&b);
}

/* A count that the bytes cannot hold must not be believed by the allocator. */
static void test_huge_count(void **state)
{
    (void)state;
    char in[21] = { 2 };
    memset(in + 17, 0xff, 4);
    assert_corrupt(span_of(in, sizeof in));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_compact),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_huge_count),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
