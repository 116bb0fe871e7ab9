/*
 * test_load_histogram: quantiles beside those of all values, sorted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "histogram.h"

#define VALUES 20000

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void check_quantiles(const struct histogram *h, uint64_t *values, size_t n)
{
    static const double shares[] = { 0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1 };
    qsort(values, n, sizeof *values, by_value);
    for (size_t i = 0; i < ARRAY_LEN(shares); i++) {
        size_t rank = (size_t)(shares[i] * (double)n + 0.999999);
        double right = (double)values[rank ? rank - 1 : 0];
        double told = (double)histogram_quantile(h, shares[i]);
        assert_true(told >= right * 0.99 - 0.5 && told <= right * 1.01 + 0.5);
    }
}

/* Values of all magnitudes: a random number of random bits. */
static void test_quantiles(void **state)
{
    (void)state;
    struct histogram *h = NEW(struct histogram);
    uint64_t *values = NEW_ARRAY(uint64_t, VALUES), random = 1;
    for (size_t i = 0; i < VALUES; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        values[i] = (random >> 20) >> (random >> 58) % 44;
        values[i] &= (1ull << 41) - 1;
        histogram_add(h, values[i]);
    }
    check_quantiles(h, values, VALUES);
    assert_int_equal(h->count, VALUES);
    assert_int_equal(h->least, values[0]);
    assert_int_equal(h->largest, values[VALUES - 1]);
    free(values);
    free(h);
}

/* Each value alone: where buckets meet, too. */
static void test_borders(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 42; bits++) {
        for (int d = -1; d <= 1; d++) {
            uint64_t v = (1ull << bits) + (uint64_t)(int64_t)d;
            struct histogram h = { 0 };
            histogram_add(&h, 0);
            histogram_add(&h, v);
            histogram_add(&h, UINT64_MAX);
            uint64_t told = histogram_quantile(&h, 0.5);
            assert_true(told >= v - v / 64 && told <= v + v / 64);
        }
    }
}

static void test_empty_and_huge(void **state)
{
    (void)state;
    struct histogram h = { 0 };
    assert_int_equal(histogram_quantile(&h, 0.5), 0);
    histogram_add(&h, UINT64_MAX);
    assert_int_equal(histogram_quantile(&h, 0.5), UINT64_MAX);
    assert_int_equal(h.largest, UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantiles),
        cmocka_unit_test(test_borders),
        cmocka_unit_test(test_empty_and_huge),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
