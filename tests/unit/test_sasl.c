/*
 * test_sasl: base64 both known and exhaustive, and the PLAIN message.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/check.h"
#include "sasl.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Three octets or fewer as four characters. */
static void encode(const unsigned char *p, size_t n, char out[4])
{
    uint32_t bits = (uint32_t)p[0] << 16;
    bits |= n > 1 ? (uint32_t)p[1] << 8 : 0;
    bits |= n > 2 ? p[2] : 0;
    out[0] = alphabet[bits >> 18];
    out[1] = alphabet[bits >> 12 & 63];
    out[2] = n > 1 ? alphabet[bits >> 6 & 63] : '=';
    out[3] = n > 2 ? alphabet[bits & 63] : '=';
}

static void check_decodes(struct span in, struct span want)
{
    char out[64];
    size_t n = 99;
    assert_int_equal(base64_decode(in, out, &n), ERR_OK);
    assert_int_equal(n, want.n);
    assert_memory_equal(out, want.p, n);
}

static void decodes_the_known(void **state)
{
    (void)state;
    /* RFC 4648, section 10. */
    check_decodes(SPAN(""), SPAN(""));
    check_decodes(SPAN("Zg=="), SPAN("f"));
    check_decodes(SPAN("Zm8="), SPAN("fo"));
    check_decodes(SPAN("Zm9v"), SPAN("foo"));
    check_decodes(SPAN("Zm9vYg=="), SPAN("foob"));
    check_decodes(SPAN("Zm9vYmE="), SPAN("fooba"));
    check_decodes(SPAN("Zm9vYmFy"), SPAN("foobar"));
    check_decodes(SPAN("+/+/"), SPAN("\xfb\xff\xbf"));
}

static void decodes_all_groups(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < 1u << 24; v += v < 1u << 16 ? 1 : 251) {
        unsigned char octets[3] = { (unsigned char)v, (unsigned char)(v >> 8),
                                    (unsigned char)(v >> 16) };
        size_t n = v < 1u << 8 ? 1 : v < 1u << 16 ? 2 : 3;
        char text[4], out[4];
        size_t len = 0;
        encode(octets, n, text);
        assert_int_equal(base64_decode(span_of(text, 4), out, &len), ERR_OK);
        assert_int_equal(len, n);
        assert_memory_equal(out, octets, n);
    }
}

static void refuses_what_is_not_base64(void **state)
{
    (void)state;
    static const char *const bad[] = { "A",      "AA",       "AAA",  "AAAAA", "=",
                                       "==",     "===",      "====", "A===",  "AA=A",
                                       "=AAA",   "Zg==Zg==", "Zh==", "Zm9=",  "Zm9v\r\n",
                                       "Zm 9",   "Zm9v====", "Zm-_", "Zg=",   "Zg==\n",
                                       "Zm9\xff" };
    char out[64];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        size_t n = 99;
        assert_int_equal(base64_decode(span_str(bad[i]), out, &n), ERR_INVALID);
        assert_int_equal(n, 99);
    }
}

static void takes_64_characters_alone(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        char text[4] = { (char)c, 'A', 'A', 'A' }, out[4];
        size_t n;
        bool valid = c != 0 && strchr(alphabet, c);
        assert_int_equal(base64_decode(span_of(text, 4), out, &n), valid ? ERR_OK : ERR_INVALID);
    }
}

static void check_plain(struct span message, enum err e, const char *user, const char *password)
{
    struct span u = SPAN("untouched"), p = SPAN("untouched");
    assert_int_equal(sasl_plain(message, &u, &p), e);
    assert_true(span_eq(u, span_str(user)));
    assert_true(span_eq(p, span_str(password)));
}

static void cuts_plain(void **state)
{
    (void)state;
    check_plain(SPAN("\0alice\0sesame"), ERR_OK, "alice", "sesame");
    check_plain(SPAN("alice\0alice\0sesame"), ERR_OK, "alice", "sesame");
    check_plain(SPAN("ALICE@x\0alice@X\0 "), ERR_OK, "alice@X", " ");
    check_plain(SPAN("bob\0alice\0sesame"), ERR_DENIED, "untouched", "untouched");
    check_plain(SPAN("alic\0alice\0sesame"), ERR_DENIED, "untouched", "untouched");
}

static void refuses_what_is_not_plain(void **state)
{
    (void)state;
    static const struct span bad[] = {
        { "", 0 },       { "\0", 1 },       { "\0\0", 2 },      { "a", 1 },      { "a\0b", 3 },
        { "\0a", 2 },    { "\0a\0", 3 },    { "\0\0b", 3 },     { "a\0\0b", 4 }, { "a\0b\0", 4 },
        { "\0\0\0", 3 }, { "\0a\0b\0", 5 }, { "\0a\0b\0c", 6 },
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        check_plain(bad[i], ERR_INVALID, "untouched", "untouched");
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_the_known),
        cmocka_unit_test(decodes_all_groups),
        cmocka_unit_test(refuses_what_is_not_base64),
        cmocka_unit_test(takes_64_characters_alone),
        cmocka_unit_test(cuts_plain),
        cmocka_unit_test(refuses_what_is_not_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
