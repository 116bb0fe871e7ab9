/* buffer: order, bounds, and memory given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "base/buffer.h"

static void assert_holds(const struct buf *b, struct span want)
{
    assert_int_equal(buf_len(b), want.n);
    assert_true(span_eq(buf_span(b), want));
}

static void a_queue(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    assert_holds(&b, SPAN(""));
    assert_int_equal(buf_add(&b, SPAN("one ")), ERR_OK);
    assert_int_equal(buf_addc(&b, '2'), ERR_OK);
    assert_int_equal(buf_addf(&b, " %s", "three"), ERR_OK);
    assert_holds(&b, SPAN("one 2 three"));
    buf_take(&b, 4);
    assert_holds(&b, SPAN("2 three"));
    assert_int_equal(buf_add(&b, span_str(NULL)), ERR_OK);
    buf_clear(&b);
    assert_holds(&b, SPAN(""));
    buf_fini(&b);
}

static void the_bound_is_exact(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 5);
    assert_int_equal(buf_add(&b, SPAN("123456")), ERR_LIMIT);
    assert_int_equal(buf_add(&b, SPAN("123")), ERR_OK);
    assert_int_equal(buf_room(&b), 2);
    assert_int_equal(buf_add(&b, SPAN("456")), ERR_LIMIT);
    assert_int_equal(buf_addf(&b, "%d", 456), ERR_LIMIT);
    assert_int_equal(buf_addf(&b, "%01000d", 4), ERR_LIMIT);
    assert_int_equal(buf_addu(&b, 456), ERR_LIMIT);
    assert_holds(&b, SPAN("123"));
    assert_int_equal(buf_addu(&b, 45), ERR_OK);
    assert_int_equal(buf_addc(&b, '6'), ERR_LIMIT);
    assert_null(buf_reserve(&b, 1));
    assert_non_null(buf_reserve(&b, 0));
    assert_null(buf_reserve(&b, SIZE_MAX));
    buf_take(&b, 2); /* what was taken counts no more */
    assert_int_equal(buf_add(&b, SPAN("67")), ERR_OK);
    assert_holds(&b, SPAN("34567"));
    buf_fini(&b);
}

static void numbers(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    buf_addu(&b, 0);
    buf_addc(&b, ' ');
    buf_addu(&b, 1090);
    buf_addc(&b, ' ');
    buf_addu(&b, UINT64_MAX);
    assert_holds(&b, SPAN("0 1090 18446744073709551615"));
    buf_fini(&b);
}

static void long_formats(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 5000);
    for (size_t n = 510; n < 514; n++) { /* around the memory that is tried first */
        assert_int_equal(buf_addf(&b, "%0*d", (int)n, 7), ERR_OK);
        assert_int_equal(buf_len(&b), n);
        assert_int_equal(buf_span(&b).p[n - 1], '7');
        buf_clear(&b);
    }
    buf_fini(&b);
}

/* Every byte comes out once and in order while the buf grows, wraps and empties. */
static void a_stream(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 3000);
    unsigned char in = 0, out = 0;
    for (size_t turn = 1; turn < 4000; turn++) {
        size_t add = turn * 7919 % 1500, take = turn * 104729 % 1500;
        char *to = buf_reserve(&b, add);
        if (to) {
            for (size_t i = 0; i < add; i++) {
                to[i] = (char)in++;
            }
            buf_commit(&b, add);
        }
        struct span s = span_first(buf_span(&b), take);
        for (size_t i = 0; i < s.n; i++) {
            assert_int_equal((unsigned char)s.p[i], out);
            out++;
        }
        buf_take(&b, s.n);
    }
    assert_int_equal((unsigned char)(in - out), (unsigned char)buf_len(&b));
    buf_fini(&b);
}

static void nothing_fits_always(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4);
    assert_int_equal(buf_add(&b, SPAN("")), ERR_OK);
    assert_int_equal(buf_len(&b), 0);
    buf_fini(&b);
}

static void an_idle_buffer_is_small(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_non_null(buf_reserve(&b, 100000));
    buf_commit(&b, 100000);
    buf_take(&b, 100000);
    assert_null(b.mem);
    assert_int_equal(buf_add(&b, SPAN("again")), ERR_OK);
    buf_take(&b, 5);
    assert_non_null(b.mem);
    buf_release(&b);
    assert_null(b.mem);
    assert_int_equal(buf_room(&b), 1 << 20);
    buf_fini(&b);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_queue),
        cmocka_unit_test(the_bound_is_exact),
        cmocka_unit_test(numbers),
        cmocka_unit_test(long_formats),
        cmocka_unit_test(a_stream),
        cmocka_unit_test(nothing_fits_always),
        cmocka_unit_test(an_idle_buffer_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
