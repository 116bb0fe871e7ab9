/*
 * seal: what is sealed comes back, and nothing else does.
 */
#include "store/seal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const uint8_t KEY[32] = "0123456789abcdef0123456789abcdef";
static const uint8_t OTHER_KEY[32] = "0123456789abcdef0123456789abcdeF";

static bool same(const struct buf *b, struct span s)
{
    return span_eq(buf_span(b), s);
}

static void test_round_trip(void **state)
{
    (void)state;
    static char plain[100000];
    const size_t sizes[] = { 0, 1, 15, 16, 17, 4096, sizeof plain };
    struct seal *s = seal_new(KEY);
    for (size_t i = 0; i < sizeof plain; i++) {
        plain[i] = (char)(i * 7);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buf sealed, out;
        buf_init(&sealed, 1 << 20);
        buf_init(&out, sizes[i]);
        struct span in = span_of(plain, sizes[i]);
        assert_int_equal(seal_value(s, SPAN("ad"), in, &sealed), ERR_OK);
        assert_int_equal(buf_len(&sealed), in.n + SEAL_OVERHEAD);
        assert_int_equal(unseal_value(s, SPAN("ad"), buf_span(&sealed), &out), ERR_OK);
        assert_true(same(&out, in));
        buf_fini(&sealed);
        buf_fini(&out);
    }
    seal_free(&s);
    assert_null(s);
}

/* What is in front of it in out stays, and the same value never looks the same twice. */
static void test_appends(void **state)
{
    (void)state;
    struct seal *s = seal_new(KEY);
    struct buf a, b;
    buf_init(&a, 1024);
    buf_init(&b, 1024);
    buf_add(&a, SPAN("head"));
    assert_int_equal(seal_value(s, SPAN(""), SPAN("value"), &a), ERR_OK);
    assert_int_equal(seal_value(s, SPAN(""), SPAN("value"), &b), ERR_OK);
    assert_true(span_starts(buf_span(&a), SPAN("head")));
    struct span sealed = span_skip(buf_span(&a), 4);
    assert_int_equal(sealed.n, buf_len(&b));
    assert_false(span_eq(sealed, buf_span(&b)));
    assert_null(memmem(sealed.p, sealed.n, "value", 5));
    buf_fini(&a);
    buf_fini(&b);
    seal_free(&s);
}

static void test_bounds(void **state)
{
    (void)state;
    struct seal *s = seal_new(KEY);
    struct buf sealed, out;
    buf_init(&sealed, SEAL_OVERHEAD + 4);
    buf_init(&out, 3);
    assert_int_equal(seal_value(s, SPAN(""), SPAN("12345"), &sealed), ERR_LIMIT);
    assert_int_equal(buf_len(&sealed), 0);
    assert_int_equal(seal_value(s, SPAN(""), SPAN("1234"), &sealed), ERR_OK);
    assert_int_equal(unseal_value(s, SPAN(""), buf_span(&sealed), &out), ERR_LIMIT);
    assert_int_equal(buf_len(&out), 0);
    buf_fini(&sealed);
    buf_fini(&out);
    seal_free(&s);
}

static void assert_corrupt(const struct seal *s, struct span ad, struct span sealed)
{
    struct buf out;
    buf_init(&out, 1024);
    assert_int_equal(unseal_value(s, ad, sealed, &out), ERR_CORRUPT);
    assert_int_equal(buf_len(&out), 0);
    buf_fini(&out);
}

static void test_forged(void **state)
{
    (void)state;
    struct seal *s = seal_new(KEY), *other = seal_new(OTHER_KEY);
    struct buf b;
    buf_init(&b, 1024);
    seal_value(s, SPAN("ad"), SPAN("the value"), &b);
    struct span sealed = buf_span(&b);
    assert_corrupt(other, SPAN("ad"), sealed);
    assert_corrupt(s, SPAN("aD"), sealed);
    assert_corrupt(s, SPAN(""), sealed);
    for (size_t n = 0; n < sealed.n; n++) {
        assert_corrupt(s, SPAN("ad"), span_first(sealed, n));
    }
    for (size_t bit = 0; bit < sealed.n * 8; bit++) {
        char copy[256];
        memcpy(copy, sealed.p, sealed.n);
        copy[bit / 8] ^= (char)(1 << bit % 8);
        assert_corrupt(s, SPAN("ad"), span_of(copy, sealed.n));
    }
    buf_fini(&b);
    seal_free(&s);
    seal_free(&other);
}

static void mac(struct seal *s, const char *label, struct span a, struct span b,
                uint8_t out[SEAL_MAC_SIZE])
{
    struct span parts[] = { a, b };
    seal_mac(s, label, parts, 2, out);
}

static void test_mac(void **state)
{
    (void)state;
    struct seal *s = seal_new(KEY), *other = seal_new(OTHER_KEY);
    uint8_t m[SEAL_MAC_SIZE], n[SEAL_MAC_SIZE];
    mac(s, "label", SPAN("ab"), SPAN("c"), m);
    mac(s, "label", SPAN("ab"), SPAN("c"), n);
    assert_memory_equal(m, n, sizeof m);
    mac(s, "label", SPAN("a"), SPAN("bc"), n);
    assert_memory_not_equal(m, n, sizeof m);
    mac(s, "Label", SPAN("ab"), SPAN("c"), n);
    assert_memory_not_equal(m, n, sizeof m);
    mac(other, "label", SPAN("ab"), SPAN("c"), n);
    assert_memory_not_equal(m, n, sizeof m);
    seal_mac(s, "label", NULL, 0, m);
    mac(s, "label", SPAN(""), SPAN(""), n);
    assert_memory_not_equal(m, n, sizeof m);
    seal_free(&s);
    seal_free(&other);
}

/* Made by another release: nodes of both share names and values. */
static void test_other_release(void **state)
{
    (void)state;
    static const uint8_t named[] = { 0x7a, 0xdd, 0x8d, 0x4a, 0x37, 0xd9, 0xff, 0x38,
                                     0x53, 0x09, 0x01, 0x13, 0x82, 0x52, 0xa4, 0x6b,
                                     0x04, 0xb4, 0xf7, 0xe1, 0xf7, 0x50, 0x00, 0x92,
                                     0xc0, 0x7d, 0x17, 0xec, 0xae, 0x2a, 0x87, 0x73 };
    static const uint8_t sealed[] = { 0x58, 0xc6, 0x3c, 0xc7, 0x4a, 0x8b, 0x29, 0x37, 0x9d,
                                      0x65, 0xf1, 0x8f, 0x5b, 0xf5, 0x1e, 0xa3, 0xb5, 0xda,
                                      0xd9, 0x05, 0x3f, 0x6b, 0x7f, 0x08, 0x13, 0xb5, 0x8f,
                                      0x7e, 0xfe, 0xf4, 0x37, 0x13, 0x1f, 0xbe, 0x29, 0xd8,
                                      0x02, 0xee, 0xa4, 0xfb, 0x8a, 0x97, 0x18, 0x2f, 0xeb,
                                      0x6e, 0x3d, 0xc0, 0xa4, 0x43, 0x43, 0x68, 0x4b };
    struct seal *s = seal_new(KEY);
    uint8_t n[SEAL_MAC_SIZE];
    struct buf out;
    mac(s, "label", SPAN("a"), SPAN(""), n);
    assert_memory_equal(n, named, sizeof named);
    buf_init(&out, 100);
    assert_int_equal(unseal_value(s, SPAN("ad"), span_of(sealed, sizeof sealed), &out), ERR_OK);
    assert_true(span_eq(buf_span(&out), SPAN("the value")));
    buf_fini(&out);
    seal_free(&s);
}

/* Writes text to a file and loads it. */
static enum err load_text(const char *text, struct seal **out, char *why, size_t why_size)
{
    char path[] = "/tmp/test_seal.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    enum err e = seal_load(path, out, why, why_size);
    unlink(path);
    return e;
}

#define HEX "30313233343536373839616263646566"

static void test_load(void **state)
{
    (void)state;
    static const char *const good[] = { HEX HEX, HEX HEX "\n", HEX HEX "\r\n" };
    struct seal *made = seal_new(KEY);
    char why[256] = "";
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct seal *s = NULL;
        assert_int_equal(load_text(good[i], &s, why, sizeof why), ERR_OK);
        uint8_t a[SEAL_MAC_SIZE], b[SEAL_MAC_SIZE];
        mac(s, "x", SPAN("y"), SPAN("z"), a);
        mac(made, "x", SPAN("y"), SPAN("z"), b);
        assert_memory_equal(a, b, sizeof a);
        seal_free(&s);
    }
    seal_free(&made);
}

static void test_load_bad(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "\n",
                                       HEX,
                                       HEX HEX "0",
                                       HEX HEX " x",
                                       HEX HEX HEX,
                                       HEX "3031323334353637383961626364656g",
                                       "30:31:32333435363738396162636465" HEX "6" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct seal *s = NULL;
        char why[256] = "";
        assert_int_equal(load_text(bad[i], &s, why, sizeof why), ERR_INVALID);
        assert_null(s);
        assert_non_null(strstr(why, "64 hex digits"));
    }
    struct seal *s = NULL;
    char why[256] = "";
    assert_int_equal(seal_load("/nonexistent/key", &s, why, sizeof why), ERR_INVALID);
    assert_string_equal(why, "/nonexistent/key: No such file or directory");
    assert_int_equal(seal_load("/", &s, why, sizeof why), ERR_INVALID);
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_appends),
        cmocka_unit_test(test_bounds),     cmocka_unit_test(test_forged),
        cmocka_unit_test(test_mac),        cmocka_unit_test(test_other_release),
        cmocka_unit_test(test_load),       cmocka_unit_test(test_load_bad),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
