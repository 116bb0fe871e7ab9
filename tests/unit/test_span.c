/* span: comparing, cutting, words and numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <stdlib.h>

#include "base/check.h"
#include "base/span.h"

static void compares(void **state)
{
    (void)state;
    assert_true(span_eq(SPAN("abc"), SPAN("abc")));
    assert_false(span_eq(SPAN("abc"), SPAN("abd")));
    assert_false(span_eq(SPAN("abc"), SPAN("abcd")));
    assert_true(span_eq(span_str(NULL), SPAN("")));
    assert_true(span_eq_nocase(SPAN("UserA@x.ORG"), SPAN("uSERa@X.org")));
    assert_false(span_eq_nocase(SPAN("@"), SPAN("`"))); /* 0x40 and 0x60: no letters */
    assert_false(span_eq_nocase(SPAN("["), SPAN("{")));
    assert_true(span_starts(SPAN("MAIL FROM"), SPAN("MAIL")));
    assert_false(span_starts(SPAN("MAI"), SPAN("MAIL")));
    assert_true(span_starts_nocase(SPAN("mail from"), SPAN("MAIL")));
    assert_false(span_starts_nocase(SPAN("rcpt"), SPAN("MAIL")));
    assert_int_equal(span_find(SPAN("a:b:c"), ':'), 1);
    assert_int_equal(span_find(SPAN("abc"), ':'), 3);
    assert_int_equal(span_find(span_str(NULL), ':'), 0);
}

static void cuts(void **state)
{
    (void)state;
    assert_true(span_eq(span_skip(SPAN("abc"), 2), SPAN("c")));
    assert_int_equal(span_skip(SPAN("abc"), 9).n, 0);
    assert_true(span_eq(span_first(SPAN("abc"), 2), SPAN("ab")));
    assert_int_equal(span_first(SPAN("abc"), 9).n, 3);
    assert_true(span_eq(span_trim(SPAN(" \ta b\t ")), SPAN("a b")));
    assert_int_equal(span_trim(SPAN(" \t ")).n, 0);
}

static void words(void **state)
{
    (void)state;
    struct span rest = SPAN("  LIST \t 12  x ");
    assert_true(span_eq(span_word(&rest), SPAN("LIST")));
    assert_true(span_eq(span_word(&rest), SPAN("12")));
    assert_true(span_eq(span_word(&rest), SPAN("x")));
    assert_int_equal(span_word(&rest).n, 0);
    assert_int_equal(rest.n, 0);
}

static void numbers(void **state)
{
    (void)state;
    uint64_t v = 77;
    assert_int_equal(span_u64(SPAN("0"), UINT64_MAX, &v), ERR_OK);
    assert_true(v == 0);
    assert_int_equal(span_u64(SPAN("18446744073709551615"), UINT64_MAX, &v), ERR_OK);
    assert_true(v == UINT64_MAX);
    assert_int_equal(span_u64(SPAN("007"), 7, &v), ERR_OK);
    assert_true(v == 7);
}

static void numbers_refused(void **state)
{
    (void)state;
    const struct {
        struct span s;
        uint64_t max;
        enum err e;
    } cases[] = {
        { SPAN(""), UINT64_MAX, ERR_INVALID },
        { SPAN("-1"), UINT64_MAX, ERR_INVALID },
        { SPAN("+1"), UINT64_MAX, ERR_INVALID },
        { SPAN(" 1"), UINT64_MAX, ERR_INVALID },
        { SPAN("1\0002"), UINT64_MAX, ERR_INVALID },
        { SPAN("0x10"), UINT64_MAX, ERR_INVALID },
        { SPAN("99999999999999999999999x"), UINT64_MAX, ERR_INVALID },
        { SPAN("18446744073709551616"), UINT64_MAX, ERR_LIMIT },
        { SPAN("18446744073709551620"), UINT64_MAX, ERR_LIMIT },
        { SPAN("99999999999999999999999999999999999999999"), UINT64_MAX, ERR_LIMIT },
        { SPAN("184467440737095516150"), UINT64_MAX, ERR_LIMIT },
        { SPAN("8"), 7, ERR_LIMIT },
        { SPAN("10"), 7, ERR_LIMIT },
        { SPAN("1"), 0, ERR_LIMIT },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t v = 77;
        assert_int_equal(span_u64(cases[i].s, cases[i].max, &v), cases[i].e);
        assert_true(v == 77);
    }
}

static void copies(void **state)
{
    (void)state;
    char *p = span_dup(SPAN("Ab\0Z["));
    assert_memory_equal(p, "Ab\0Z[", 6);
    ascii_lower(p, 5);
    assert_memory_equal(p, "ab\0z[", 6);
    free(p);
    p = span_dup(span_str(NULL));
    assert_string_equal(p, "");
    free(p);
}

static void utf8(void **state)
{
    (void)state;
    assert_int_equal(span_utf8_char(SPAN("a")), 1);
    assert_int_equal(span_utf8_char(SPAN("\0")), 1);
    assert_int_equal(span_utf8_char(SPAN("\xc3\xa9x")), 2);
    assert_int_equal(span_utf8_char(SPAN("\xf0\x9f\x93\xac")), 4);
    assert_int_equal(span_utf8_char(SPAN("\xc3")), 0);
    assert_int_equal(span_utf8_char(SPAN("\xc0\xaf")), 0);         /* overlong */
    assert_int_equal(span_utf8_char(SPAN("\xed\xa0\x80")), 0);     /* surrogate */
    assert_int_equal(span_utf8_char(SPAN("\xf4\x90\x80\x80")), 0); /* above U+10FFFF */
    assert_int_equal(span_utf8_char(SPAN("")), 0);
    assert_true(span_utf8(SPAN("")));
    assert_true(span_utf8(SPAN("j\xc3\xb6rg@example.org")));
    assert_false(span_utf8(SPAN("j\xf6rg@example.org")));
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compares), cmocka_unit_test(cuts),   cmocka_unit_test(words),
        cmocka_unit_test(numbers),  cmocka_unit_test(copies), cmocka_unit_test(numbers_refused),
        cmocka_unit_test(utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
