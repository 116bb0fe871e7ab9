/*
 * login_name: a login finds the account that mail is delivered to, however its name is written:
 * what login_name makes of a name is what deliver/address makes of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "address.h"
#include "store/login_parts.h"

static void expect(const char *name, const char *want)
{
    char *got = login_name(span_str(name));
    assert_string_equal(got, want);
    free(got);
}

static void test_as_delivered(void **state)
{
    static const char *const names[] = {
        "User@Example.ORG",           "user@bücher.example",
        "User@BÜCHER.Example",        "user@bu\u0308cher.example", /* a letter and an accent */
        "user@xn--bcher-kva.example", "user@faß.example",
        "user@例え。テスト", /* an ideographic full stop */
        "rené@example.org",           "Rene\u0301@example.org",
        "\u212A\u0323@example.org", /* the Kelvin sign, and a dot below */
        "josé@bücher.example",        "\"a@b\"@bücher.example",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct address a;
        if (address_parse(span_str(names[i]), &a) != ERR_OK) {
            fail_msg("%s is no address", names[i]);
        }
        expect(names[i], a.canon);
    }
    expect("user@bücher.example", "user@xn--bcher-kva.example");
}

/* Nobody's: in lower case, and whole, so that two of them are not taken for one. */
static void test_no_address(void **state)
{
    char long_name[400];
    (void)state;
    expect("", "");
    expect("Postmaster", "postmaster");
    expect("Rená", "rená");
    expect("A@-ü.example", "a@-ü.example");
    expect("ü@", "ü@");
    expect("@BÜCHER.example", "@xn--bcher-kva.example");
    expect("A\xff@example.org", "a\xff@example.org");
    memset(long_name, 'a', sizeof long_name);
    snprintf(long_name + 350, sizeof long_name - 350, "@bü.example");
    expect(long_name, long_name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_delivered),
        cmocka_unit_test(test_no_address),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
