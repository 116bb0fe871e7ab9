/* Tests of netaddr: reading and writing addresses, networks and their edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>

#include "base/check.h"
#include "net/netaddr.h"

static struct sockaddr_storage address(const char *text)
{
    struct sockaddr_storage sa;
    assert_int_equal(netaddr_parse(text, &sa), ERR_OK);
    return sa;
}

static void check_host(const char *text, const char *host, uint16_t port)
{
    struct sockaddr_storage sa = address(text);
    char out[NETADDR_TEXT];
    netaddr_host((struct sockaddr *)&sa, out);
    assert_string_equal(out, host);
    assert_int_equal(netaddr_port((struct sockaddr *)&sa), port);
}

static void test_good_addresses(void **state)
{
    (void)state;
    check_host("192.0.2.1:110", "192.0.2.1", 110);
    check_host("0.0.0.0:65535", "0.0.0.0", 65535);
    check_host("[2001:db8::1]:25", "2001:db8::1", 25);
    check_host("[::]:1", "::", 1);
    check_host("[::ffff:192.0.2.7]:25", "192.0.2.7", 25);
    struct sockaddr_storage v4 = address("192.0.2.1:1"), v6 = address("[::1]:1");
    assert_int_equal(netaddr_len((struct sockaddr *)&v4), sizeof(struct sockaddr_in));
    assert_int_equal(netaddr_len((struct sockaddr *)&v6), sizeof(struct sockaddr_in6));
}

static void test_bad_addresses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        ":",
        "192.0.2.1",
        "192.0.2.1:",
        ":110",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:+1",
        "192.0.2.1: 1",
        "192.0.2.1:1x",
        "192.0.2:1",
        "host:110",
        "2001:db8::1:25",
        "[2001:db8::1]",
        "[]:25",
        "[192.0.2.1]:25",
        "[::1:25",
        "::1]:25",
        "[fe80::1%eth0]:25",
        "192.0.2.256:1",
        "[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:25",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct sockaddr_storage sa = { .ss_family = 77 };
        if (netaddr_parse(bad[i], &sa) != ERR_INVALID) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(sa.ss_family, 77);
    }
}

static void test_loopback(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool loopback;
    } cases[] = {
        { "127.0.0.1:1", true },
        { "127.255.0.9:1", true },
        { "128.0.0.1:1", false },
        { "[::1]:1", true },
        { "[::2]:1", false },
        { "0.0.0.0:1", false },
        { "[::ffff:127.0.0.1]:1", true },
        { "[::ffff:10.0.0.1]:1", false },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct sockaddr_storage sa = address(cases[i].text);
        assert_int_equal(netaddr_loopback((struct sockaddr *)&sa), cases[i].loopback);
    }
    struct sockaddr local = { .sa_family = AF_UNIX };
    char out[NETADDR_TEXT];
    assert_false(netaddr_loopback(&local));
    netaddr_host(&local, out);
    assert_string_equal(out, "unknown");
}

static bool has(const struct netset *s, const char *text)
{
    struct sockaddr_storage sa = address(text);
    return netset_has(s, (struct sockaddr *)&sa);
}

static void test_networks(void **state)
{
    (void)state;
    const char *words[] = { "10.0.0.0/8", "192.0.2.128/25", "198.51.100.7", "2001:db8::/33",
                            "::1/128" };
    struct config_list l = { ARRAY_LEN(words), words };
    struct netset *s = NULL;
    const char *bad = NULL;
    assert_int_equal(netset_parse(&l, &s, &bad), ERR_OK);
    assert_true(has(s, "10.0.0.0:1") && has(s, "10.255.255.255:1"));
    assert_false(has(s, "9.255.255.255:1") || has(s, "11.0.0.0:1"));
    assert_true(has(s, "192.0.2.128:1") && has(s, "192.0.2.255:1"));
    assert_false(has(s, "192.0.2.127:1"));
    assert_true(has(s, "198.51.100.7:1"));
    assert_false(has(s, "198.51.100.6:1") || has(s, "198.51.100.8:1"));
    assert_true(has(s, "[2001:db8:7fff::1]:1"));
    assert_false(has(s, "[2001:db8:8000::1]:1"));
    assert_true(has(s, "[::1]:1"));
    assert_false(has(s, "[::2]:1") || has(s, "[::]:1"));
    /* A client of a dual-stack socket is the same client. */
    assert_true(has(s, "[::ffff:10.1.2.3]:1"));
    struct sockaddr local = { .sa_family = AF_UNIX };
    assert_false(netset_has(s, &local));
    netset_free(&s);
    assert_null(s);
}

static void test_everything_and_nothing(void **state)
{
    (void)state;
    const char *words[] = { "0.0.0.0/0" };
    struct config_list l = { 1, words }, none = { 0, NULL };
    struct netset *s;
    const char *bad;
    assert_int_equal(netset_parse(&l, &s, &bad), ERR_OK);
    assert_true(has(s, "203.0.113.1:1"));
    assert_false(has(s, "[2001:db8::1]:1"));
    netset_free(&s);
    assert_int_equal(netset_parse(&none, &s, &bad), ERR_OK);
    assert_false(has(s, "203.0.113.1:1"));
    netset_free(&s);
}

static void test_bad_networks_are_named(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",       "10.0.0.0/33",    "10.0.0.0/",      "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0.1/8",
        "10.0/8", "2001:db8::/129", "2001:db8::1/64", "[::1]/128",   "localhost",    "/8",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *words[] = { "10.0.0.0/8", bad[i] };
        struct config_list l = { 2, words };
        struct netset *s = NULL;
        const char *named = NULL;
        if (netset_parse(&l, &s, &named) != ERR_INVALID) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_ptr_equal(named, bad[i]);
        assert_null(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_addresses),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_everything_and_nothing),
        cmocka_unit_test(test_bad_networks_are_named),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
