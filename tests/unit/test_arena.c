/* arena: zeroed, aligned, bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <stdalign.h>

#include "base/arena.h"

static void zeroed_and_aligned(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 20);
    for (size_t n = 0; n < 300; n++) { /* over many blocks, some larger than the usual one */
        size_t size = n * n % 5000 + 1;
        unsigned char *p = arena_alloc(&a, size);
        assert_non_null(p);
        assert_true((uintptr_t)p % alignof(max_align_t) == 0);
        for (size_t i = 0; i < size; i++) {
            assert_int_equal(p[i], 0);
        }
        memset(p, 0xa5, size); /* a neighbour that overlaps would see it */
    }
    arena_fini(&a);
}

static void copies(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 1000);
    char *p = arena_dup(&a, SPAN("a\0b"));
    assert_memory_equal(p, "a\0b", 4);
    assert_string_equal(arena_dup(&a, span_str(NULL)), "");
    arena_fini(&a);
}

static void bounded(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 64);
    assert_null(arena_alloc(&a, 65));
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_dup(&a, span_of("", SIZE_MAX)));
    assert_non_null(arena_alloc(&a, 48));
    assert_null(arena_alloc(&a, 17));
    assert_non_null(arena_alloc(&a, 1)); /* takes 16 */
    assert_null(arena_alloc(&a, 1));
    arena_reset(&a);
    assert_non_null(arena_alloc(&a, 64));
    a.limit = 64 + 20;
    assert_null(arena_alloc(&a, 17)); /* would take 32 */
    arena_fini(&a);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeroed_and_aligned),
        cmocka_unit_test(copies),
        cmocka_unit_test(bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
