/* mem_keep: memory is given back when many connections are gone, and not for every one of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <malloc.h>

#include "base/mem_keep.h"
#include "net/conn.h"

static unsigned trims;
static int threshold; /* octets of a piece that has pages of its own */

/* In place of the C library's. */
int mallopt(int what, int value)
{
    threshold = what == M_MMAP_THRESHOLD ? value : threshold;
    return 1;
}

/* In place of the C library's. */
int malloc_trim(size_t pad)
{
    assert_int_equal(pad, 0);
    trims++;
    return 1;
}

/* How often it is trimmed while they come or go one by one. */
static unsigned go(size_t from, size_t to)
{
    trims = 0;
    while (from != to) {
        from += from < to ? 1 : -1;
        mem_keep_fewer(from);
    }
    return trims;
}

static void a_storm_goes_back(void **state)
{
    (void)state;
    assert_int_equal(go(0, 18000), 0);
    assert_int_equal(go(18000, 9000), 0);
    assert_int_equal(go(9000, 8999), 1);
    assert_int_equal(go(8999, 0), 4); /* at 4498, 2248, 1123 and 99 */
    assert_int_equal(go(0, 18000), 0);
    assert_int_equal(go(18000, 0), 5);
}

static void ups_and_downs_do_not(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(go(0, 1000), 0);
        assert_int_equal(go(1000, 0), 0);
    }
}

/* With what the C library puts in front of it. */
static void a_connections_buffer_is_used_again(void **state)
{
    (void)state;
    mem_keep();
    assert_true(threshold >= CONN_OUT_LIMIT + 4096);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ups_and_downs_do_not),
        cmocka_unit_test(a_storm_goes_back),
        cmocka_unit_test(a_connections_buffer_is_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
