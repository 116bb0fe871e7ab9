/* Words of the accounts' dump: what is written is read again, and nothing else is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "accounts_file.h"
#include "base/check.h"

static void test_words_come_back(void **state)
{
    static const char *const words[] = { "account",    "a b@example.org",     "",     "-",
                                         "--",         "$y$j9T$x=/",          "100%", "%20",
                                         "t\tn\n\x7f", "\xc3\xbc@example.org" };
    struct buf out;
    struct accounts_line l;
    (void)state;
    buf_init(&out, 4096);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        accounts_word(&out, span_str(words[i]));
    }
    accounts_number(&out, 17);
    accounts_pair(&out, "read_days", -1);
    char *line = span_dup(buf_span(&out));
    assert_null(strpbrk(line, "\t\n"));
    assert_true(accounts_parse(line, &l));
    assert_int_equal(l.n, ARRAY_LEN(words) + 2);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        assert_string_equal(l.word[i], words[i]);
    }
    assert_string_equal(l.word[ARRAY_LEN(words)], "17");
    int64_t v;
    assert_true(accounts_value_number(&l, 0, "read_days", 3, &v));
    assert_int_equal(v, -1);
    free(line);
    buf_fini(&out);
}

static bool parses(const char *text)
{
    struct accounts_line l;
    char *line = span_dup(span_str(text));
    bool ok = accounts_parse(line, &l);
    free(line);
    return ok;
}

static void test_nonsense_is_refused(void **state)
{
    static const char *const bad[] = { "",     "a  b",  " a",    "a ",   "a %",
                                       "a %2", "a %2g", "a %00", "a %2f" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(parses(bad[i]));
    }
    assert_true(parses("a %2F"));
    char many[2 * ACCOUNTS_WORDS_MAX + 4];
    for (size_t i = 0; i < ACCOUNTS_WORDS_MAX + 1; i++) {
        memcpy(many + 2 * i, "a ", 2);
    }
    many[2 * ACCOUNTS_WORDS_MAX - 1] = '\0';
    assert_true(parses(many));
    many[2 * ACCOUNTS_WORDS_MAX - 1] = ' ';
    many[2 * ACCOUNTS_WORDS_MAX + 1] = '\0';
    assert_false(parses(many));
}

static void test_values(void **state)
{
    char line[] = "removed 7 a=1 alias=x@y a=2 alias=z@y aa=3 n=x m=";
    struct accounts_line l;
    size_t at = 2;
    int64_t v = 0;
    (void)state;
    assert_true(accounts_parse(line, &l));
    assert_string_equal(accounts_value(&l, &at, "alias"), "x@y");
    assert_string_equal(accounts_value(&l, &at, "alias"), "z@y");
    assert_null(accounts_value(&l, &at, "alias"));
    assert_true(accounts_value_number(&l, 2, "aa", 0, &v));
    assert_int_equal(v, 3);
    assert_true(accounts_value_number(&l, 2, "b", 9, &v));
    assert_int_equal(v, 9);
    assert_false(accounts_value_number(&l, 2, "n", 0, &v));
    assert_false(accounts_value_number(&l, 2, "m", 0, &v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_come_back),
        cmocka_unit_test(test_nonsense_is_refused),
        cmocka_unit_test(test_values),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
