/* Tests of path: what lies in a folder, by the text alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "base/path.h"

static void test_what_lies_in_a_folder(void **state)
{
    (void)state;
    static const char *const in[][2] = {
        { "/srv/mail", "/srv/mail" },
        { "/srv/mail/v1", "/srv/mail" },
        { "/srv/mail/", "/srv/mail" },
        { "/srv/mail/v1", "/srv/mail/" },
        { "//srv//mail/v1", "/srv/mail" },
        { "/srv/./mail/v1", "/srv/mail" },
        { "/srv/mail", "/" },
        { "a/b", "a" },
        { "/srv/mail/..v1", "/srv/mail" },
        { "a", "." },
    };
    for (size_t i = 0; i < sizeof in / sizeof *in; i++) {
        assert_true(path_lies_in(in[i][0], in[i][1]));
    }
}

static void test_what_does_not(void **state)
{
    (void)state;
    static const char *const out[][2] = {
        { "/srv/mail2", "/srv/mail" },
        { "/srv", "/srv/mail" },
        { "/srv/mail/../other", "/srv/mail" },
        { "/srv/mail/v1/..", "/srv/mail" },
        { "/srv/mail/../mail/v1", "/srv/mail" },
        { "srv/mail/v1", "/srv/mail" },
        { "/srv/mail", "srv" },
        { "/", "/srv/mail" },
        { "", "/srv/mail" },
    };
    for (size_t i = 0; i < sizeof out / sizeof *out; i++) {
        assert_false(path_lies_in(out[i][0], out[i][1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_lies_in_a_folder),
        cmocka_unit_test(test_what_does_not),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
