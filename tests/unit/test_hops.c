/*
 * test_hops: headers whose Received: lines are known, whole, octet by octet and in every split.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "hops.h"

static const struct {
    const char *message;
    unsigned n;
} rows[] = {
    { "", 0 },
    { "Received:", 1 },
    { "Received: a\r\n", 1 },
    { "rEcEiVeD:\r\nRECEIVED:b\r\n", 2 },
    { "Received: a\r\n b\r\n\tc\r\nReceived: d\r\n", 2 },
    { "Received: Received: Received:\r\n", 1 },
    { "Receive: a\r\nReceived-SPF: b\r\nX-Received: c\r\nReceivedd: d\r\n", 0 },
    { "Received\r\nRec\r\nR\r\nReceived: a\r\n", 1 },
    { " Received: a\r\n Received: b\r\n", 0 },
    { "Subject: a\r\n\r\nReceived: b\r\nReceived: c\r\n", 0 },
    { "\r\nReceived: b\r\n", 0 },
    { "Received: a\r\n\r\n\r\nReceived: b\r\n", 1 },
    { "a\r\nb\r\nReceived: c\r\n", 1 },
};

static void scan(struct hops *h, const char *p, size_t n)
{
    char *copy = mem_new(n ? n : 1, 1);
    memcpy(copy, p, n);
    hops_scan(h, span_of(copy, n));
    free(copy);
}

/* Three pieces, of any length: at once, and all ways to split it, are among them. */
static void test_splits(void **state)
{
    (void)state;
    for (size_t row = 0; row < ARRAY_LEN(rows); row++) {
        const char *m = rows[row].message;
        size_t n = strlen(m);
        for (size_t i = 0; i <= n; i++) {
            for (size_t j = i; j <= n; j++) {
                struct hops h;
                hops_init(&h);
                scan(&h, m, i);
                scan(&h, m + i, j - i);
                scan(&h, m + j, n - j);
                assert_int_equal(h.n, rows[row].n);
            }
        }
    }
}

static void test_octets(void **state)
{
    (void)state;
    for (size_t row = 0; row < ARRAY_LEN(rows); row++) {
        struct hops h;
        hops_init(&h);
        for (const char *c = rows[row].message; *c; c++) {
            scan(&h, c, 1);
        }
        assert_int_equal(h.n, rows[row].n);
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_octets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
