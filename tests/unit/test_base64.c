/*
 * test_base64: the decoder on what is known, on all groups, and on what is none; the encoder as the
 * decoder's inverse.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/check.h"
#include "proto/base64.h"

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

static void check_encodes(struct span in, const char *want)
{
    struct buf out;
    buf_init(&out, BASE64_SIZE(in.n));
    assert_int_equal(base64_encode(in, &out), ERR_OK);
    assert_true(span_eq(buf_span(&out), span_str(want)));
    buf_fini(&out);
}

static void encodes_the_known(void **state)
{
    (void)state;
    check_encodes(SPAN(""), "");
    check_encodes(SPAN("f"), "Zg==");
    check_encodes(SPAN("fo"), "Zm8=");
    check_encodes(SPAN("foo"), "Zm9v");
    check_encodes(SPAN("foob"), "Zm9vYg==");
    check_encodes(SPAN("fooba"), "Zm9vYmE=");
    check_encodes(SPAN("foobar"), "Zm9vYmFy");
    check_encodes(SPAN("\xfb\xff\xbf"), "+/+/");
}

static void decodes_what_it_encodes(void **state)
{
    (void)state;
    char octets[256], back[BASE64_SIZE(256)];
    for (size_t i = 0; i < sizeof octets; i++) {
        octets[i] = (char)(i * 167 + 5);
    }
    for (size_t n = 0; n <= sizeof octets; n++) {
        struct buf out;
        size_t len = 0;
        buf_init(&out, 1000);
        assert_int_equal(base64_encode(span_of(octets, n), &out), ERR_OK);
        assert_int_equal(buf_len(&out), BASE64_SIZE(n));
        assert_int_equal(base64_decode(buf_span(&out), back, &len), ERR_OK);
        assert_int_equal(len, n);
        assert_memory_equal(back, octets, n);
        buf_fini(&out);
    }
}

static void encodes_all_or_nothing(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 8);
    assert_int_equal(buf_addc(&out, '+'), ERR_OK);
    assert_int_equal(base64_encode(SPAN("foob"), &out), ERR_LIMIT);
    assert_true(span_eq(buf_span(&out), SPAN("+")));
    assert_int_equal(base64_encode(SPAN("foo"), &out), ERR_OK);
    assert_true(span_eq(buf_span(&out), SPAN("+Zm9v")));
    buf_fini(&out);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_the_known),          cmocka_unit_test(decodes_all_groups),
        cmocka_unit_test(refuses_what_is_not_base64), cmocka_unit_test(takes_64_characters_alone),
        cmocka_unit_test(encodes_the_known),          cmocka_unit_test(decodes_what_it_encodes),
        cmocka_unit_test(encodes_all_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
