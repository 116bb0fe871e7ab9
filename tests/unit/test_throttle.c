/* Tests of throttle: sessions, rates and guesses of addresses and networks, and a full table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <stdio.h>

#include "base/check.h"
#include "net/throttle.h"

#define MINUTE      60000u
#define TEN_MINUTES (10u * MINUTE)

static const struct throttle_options open_to_all = {
    .ipv4_network = 24, .ipv6_address = 64, .ipv6_network = 48, .entries = 64
};

struct world {
    struct throttle *t;
    uint64_t now;
};

static struct sockaddr_storage address(const char *host)
{
    char text[80];
    struct sockaddr_storage sa;
    snprintf(text, sizeof text, strchr(host, ':') ? "[%s]:4242" : "%s:4242", host);
    assert_int_equal(netaddr_parse(text, &sa), ERR_OK);
    return sa;
}

static enum throttle_verdict enter(struct world *w, const char *host)
{
    struct sockaddr_storage sa = address(host);
    return throttle_enter(w->t, (struct sockaddr *)&sa, w->now);
}

static void leave(struct world *w, const char *host)
{
    struct sockaddr_storage sa = address(host);
    throttle_leave(w->t, (struct sockaddr *)&sa);
}

static enum throttle_verdict guess(struct world *w, const char *host, unsigned *factor)
{
    struct sockaddr_storage sa = address(host);
    return throttle_guess(w->t, (struct sockaddr *)&sa, w->now, factor);
}

static struct world with(struct throttle_options o)
{
    return (struct world){ throttle_open(&o), 1000 };
}

static void visit(struct world *w, const char *host)
{
    assert_int_equal(enter(w, host), THROTTLE_OK);
    leave(w, host);
}

static void test_sessions(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.address_sessions = 2;
    o.network_sessions = 3;
    struct world w = with(o);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_SESSIONS);
    assert_int_equal(enter(&w, "192.0.2.255"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.3"), THROTTLE_NETWORK_SESSIONS);
    assert_int_equal(enter(&w, "192.0.3.3"), THROTTLE_OK);
    leave(&w, "192.0.2.1"); /* refused ones have not been counted */
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.3"), THROTTLE_NETWORK_SESSIONS);
    throttle_close(&w.t);
    assert_null(w.t);
    throttle_close(&w.t);
}

static void test_mapped_addresses_are_ipv4(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.address_sessions = 1;
    struct world w = with(o);
    assert_int_equal(enter(&w, "::ffff:192.0.2.1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_SESSIONS);
    assert_int_equal(enter(&w, "::ffff:192.0.2.2"), THROTTLE_OK);
    leave(&w, "192.0.2.1");
    assert_int_equal(enter(&w, "::ffff:192.0.2.1"), THROTTLE_OK);
    throttle_close(&w.t);
}

static void test_prefixes(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.address_sessions = 1;
    o.network_sessions = 2;
    o.ipv4_network = 28;
    o.ipv6_address = 60;
    o.ipv6_network = 47;
    struct world w = with(o);
    assert_int_equal(enter(&w, "192.0.2.15"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.0"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_NETWORK_SESSIONS);
    assert_int_equal(enter(&w, "192.0.2.16"), THROTTLE_OK);
    assert_int_equal(enter(&w, "2001:db8:2:f::1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "2001:db8:2:0:ffff::"), THROTTLE_ADDRESS_SESSIONS);
    assert_int_equal(enter(&w, "2001:db8:3:ffff::"), THROTTLE_OK);
    assert_int_equal(enter(&w, "2001:db8:2:10::"), THROTTLE_NETWORK_SESSIONS);
    assert_int_equal(enter(&w, "2001:db8:4::"), THROTTLE_OK);
    throttle_close(&w.t);
}

static void test_rates(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.address_rate = 3;
    struct world w = with(o);
    for (int i = 0; i < 3; i++) {
        visit(&w, "192.0.2.1");
    }
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE);
    visit(&w, "192.0.2.2");
    w.now += MINUTE / 3 - 1;
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE);
    w.now += 1; /* that it was refused has cost nothing */
    visit(&w, "192.0.2.1");
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE);
    w.now += UINT64_MAX / 2; /* no more than a minute's worth gathers */
    for (int i = 0; i < 3; i++) {
        visit(&w, "192.0.2.1");
    }
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE);
    w.now -= 10; /* a clock that goes back gives nothing, and breaks nothing */
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE);
    throttle_close(&w.t);
}

static void test_a_networks_rate(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.address_rate = 2;
    o.network_rate = 3;
    struct world w = with(o);
    visit(&w, "192.0.2.1");
    visit(&w, "192.0.2.2");
    visit(&w, "192.0.2.3");
    assert_int_equal(enter(&w, "192.0.2.4"), THROTTLE_NETWORK_RATE);
    w.now += MINUTE;
    visit(&w, "192.0.2.4"); /* its own bucket was not touched by the refusal */
    visit(&w, "192.0.2.4");
    assert_int_equal(enter(&w, "192.0.2.4"), THROTTLE_ADDRESS_RATE);
    throttle_close(&w.t);
}

static void test_guesses(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.guesses = 3;
    struct world w = with(o);
    unsigned factor = 99;
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_OK);
        assert_int_equal(factor, i / 3);
    }
    /* The network is slowed down, the longer the more; an address of it is turned away. */
    for (unsigned i = 4; i <= 20; i++) {
        char host[32];
        snprintf(host, sizeof host, "192.0.2.%u", i);
        assert_int_equal(guess(&w, host, &factor), THROTTLE_OK);
        assert_int_equal(factor, i / 3);
        visit(&w, host);
    }
    assert_int_equal(guess(&w, "192.0.3.2", &factor), THROTTLE_OK);
    assert_int_equal(factor, 0);
    assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_OK);
    assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_OK);
    visit(&w, "192.0.2.1");
    assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_GUESSES);
    assert_int_equal(factor, 7);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_GUESSES);
    visit(&w, "192.0.2.3");
    w.now += TEN_MINUTES - 1;
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_GUESSES);
    w.now += 1;
    visit(&w, "192.0.2.1");
    assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_OK);
    assert_int_equal(factor, 0);
    throttle_close(&w.t);
}

static void known(struct world *w, const char *host)
{
    struct sockaddr_storage sa = address(host);
    throttle_known(w->t, (struct sockaddr *)&sa, w->now);
}

/* Who names as many that there are can make mistakes all day. */
static void test_known_ones_count_against_guesses(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.guesses = 2;
    struct world w = with(o);
    unsigned factor;
    known(&w, "192.0.2.1"); /* never heard of: nothing to take off, and no credit */
    for (int i = 0; i < 50; i++) {
        assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_OK);
        assert_int_equal(factor, 0);
        known(&w, "192.0.2.1");
        known(&w, "192.0.2.1");
    }
    visit(&w, "192.0.2.1");
    for (unsigned i = 1; i <= 4; i++) {
        assert_int_equal(guess(&w, "192.0.2.1", &factor), i < 4 ? THROTTLE_OK : THROTTLE_GUESSES);
        assert_int_equal(factor, i / 2);
    }
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_GUESSES);
    known(&w, "192.0.2.2"); /* of the network, not of that address */
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_GUESSES);
    known(&w, "192.0.2.1");
    visit(&w, "192.0.2.1");
    assert_int_equal(guess(&w, "192.0.2.3", &factor), THROTTLE_OK);
    assert_int_equal(factor, 1); /* 4 - 2 + 1 */
    throttle_close(&w.t);
}

static void test_exempt(void **state)
{
    (void)state;
    const char *words[] = { "192.0.2.0/30", "2001:db8::/32" }, *bad;
    struct config_list list = { ARRAY_LEN(words), words };
    struct netset *exempt;
    assert_int_equal(netset_parse(&list, &exempt, &bad), ERR_OK);
    struct throttle_options o = open_to_all;
    o.exempt = exempt;
    o.address_sessions = o.network_sessions = o.address_rate = o.network_rate = o.guesses = 1;
    struct world w = with(o);
    unsigned factor;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
        assert_int_equal(enter(&w, "2001:db8::1"), THROTTLE_OK);
        assert_int_equal(guess(&w, "192.0.2.1", &factor), THROTTLE_OK);
        assert_int_equal(factor, 0);
    }
    for (int i = 0; i < 5; i++) {
        leave(&w, "192.0.2.1");
    }
    visit(&w, "192.0.2.4");
    assert_int_equal(enter(&w, "192.0.2.4"), THROTTLE_ADDRESS_RATE);

    /* A session leaves as it has entered, whatever its address is now. */
    o.exempt = NULL;
    o.address_rate = o.network_rate = o.network_sessions = 0;
    throttle_change(w.t, &o);
    for (int i = 0; i < 4; i++) {
        leave(&w, "2001:db8::1");
        assert_int_equal(enter(&w, "2001:db8::1"), THROTTLE_ADDRESS_SESSIONS);
    }
    leave(&w, "2001:db8::1");
    assert_int_equal(enter(&w, "2001:db8::1"), THROTTLE_OK);
    throttle_close(&w.t);
    netset_free(&exempt);
}

static void test_change(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    struct world w = with(o);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
    }
    o.address_sessions = 5;
    o.ipv4_network = 8; /* stays as it was */
    o.network_sessions = 6;
    throttle_change(w.t, &o);
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_SESSIONS);
    assert_int_equal(enter(&w, "192.0.2.2"), THROTTLE_OK);
    assert_int_equal(enter(&w, "192.0.2.3"), THROTTLE_NETWORK_SESSIONS);
    assert_int_equal(enter(&w, "192.1.2.3"), THROTTLE_OK);
    leave(&w, "192.0.2.1");
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);

    o.address_rate = 10;
    o.address_sessions = o.network_sessions = 0;
    throttle_change(w.t, &o);
    for (int i = 0; i < 10; i++) {
        visit(&w, "198.51.100.1");
    }
    assert_int_equal(enter(&w, "198.51.100.1"), THROTTLE_ADDRESS_RATE);
    o.address_rate = 1; /* what was used of a larger bucket is no debt of ten minutes */
    throttle_change(w.t, &o);
    assert_int_equal(enter(&w, "198.51.100.1"), THROTTLE_ADDRESS_RATE);
    w.now += MINUTE;
    visit(&w, "198.51.100.1");
    throttle_close(&w.t);
}

static void host_of(unsigned i, char out[32])
{
    snprintf(out, 32, "10.%u.%u.%u", i >> 8, i & 255, i % 200);
}

/* Those that no session holds make room, the longest unused first. */
static void test_a_full_table(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.entries = 8; /* four clients of four networks */
    o.address_rate = 1;
    o.address_sessions = 1;
    struct world w = with(o);
    char host[32];
    visit(&w, "192.0.2.1");
    assert_int_equal(enter(&w, "198.51.100.1"), THROTTLE_OK); /* is held */
    visit(&w, "203.0.113.1");
    visit(&w, "192.88.99.1");
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE); /* now it is the last used */
    host_of(1, host);
    visit(&w, host); /* in the place of 203.0.113.1 */
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_RATE);
    assert_int_equal(enter(&w, "192.88.99.1"), THROTTLE_ADDRESS_RATE);
    for (unsigned i = 2; i < 2000; i++) {
        host_of(i, host);
        visit(&w, host);
        assert_int_equal(enter(&w, host), THROTTLE_ADDRESS_RATE);
    }
    visit(&w, "192.0.2.1");                                                 /* forgotten */
    assert_int_equal(enter(&w, "198.51.100.1"), THROTTLE_ADDRESS_SESSIONS); /* not this one */
    leave(&w, "198.51.100.1");
    assert_int_equal(enter(&w, "198.51.100.1"), THROTTLE_ADDRESS_RATE);
    throttle_close(&w.t);
}

/* Networks of which there are guesses and no session. */
static void test_guesses_of_a_full_table(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.entries = 4;
    o.guesses = 1;
    struct world w = with(o);
    unsigned factor;
    char host[32];
    for (unsigned i = 0; i < 500; i++) {
        host_of(256 * (i % 250) + i / 250, host);
        guess(&w, host, &factor);
        assert_int_equal(factor, 1);
        guess(&w, "192.0.2.1", &factor); /* in use, so never the one that makes room */
        assert_int_equal(factor, i + 1);
    }
    throttle_close(&w.t);
}

static void test_a_table_that_is_held(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.entries = 5; /* an address of a third network finds one place, and no second */
    o.address_sessions = 1;
    o.guesses = 1;
    struct world w = with(o);
    unsigned factor;
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "198.51.100.1"), THROTTLE_OK);
    for (int i = 0; i < 3; i++) { /* counted nowhere */
        assert_int_equal(enter(&w, "203.0.113.1"), THROTTLE_OK);
    }
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_ADDRESS_SESSIONS);
    assert_int_equal(enter(&w, "192.0.2.2"), THROTTLE_OK); /* its network is there */
    assert_int_equal(guess(&w, "203.0.113.1", &factor), THROTTLE_OK);
    assert_int_equal(factor, 0);
    for (int i = 0; i < 3; i++) {
        leave(&w, "203.0.113.1");
    }
    leave(&w, "192.0.2.1");
    leave(&w, "192.0.2.2");
    assert_int_equal(enter(&w, "203.0.113.1"), THROTTLE_OK);
    assert_int_equal(enter(&w, "203.0.113.1"), THROTTLE_ADDRESS_SESSIONS);
    throttle_close(&w.t);
}

static void test_no_address(void **state)
{
    (void)state;
    struct throttle_options o = open_to_all;
    o.address_sessions = o.guesses = 1;
    struct world w = with(o);
    struct sockaddr none = { .sa_family = AF_UNIX };
    unsigned factor;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(throttle_enter(w.t, &none, w.now), THROTTLE_OK);
        assert_int_equal(throttle_guess(w.t, &none, w.now, &factor), THROTTLE_OK);
    }
    throttle_leave(w.t, &none);
    leave(&w, "192.0.2.1"); /* never entered */
    assert_int_equal(enter(&w, "192.0.2.1"), THROTTLE_OK);
    throttle_close(&w.t);
}

static void check_client(const char *host, unsigned bits, const char *want)
{
    struct sockaddr_storage sa = address(host);
    char out[NETADDR_TEXT];
    throttle_client((struct sockaddr *)&sa, bits, out);
    assert_string_equal(out, want);
}

static void test_client(void **state)
{
    (void)state;
    check_client("192.0.2.1", 64, "192.0.2.1");
    check_client("::ffff:192.0.2.1", 64, "192.0.2.1");
    check_client("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64");
    check_client("2001:db8:1:2:3:4:5:6", 33, "2001:db8::/33");
    check_client("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6");
    assert_string_equal(throttle_verdict_text(THROTTLE_NETWORK_RATE), "rate of the network");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_mapped_addresses_are_ipv4),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_a_networks_rate),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_known_ones_count_against_guesses),
        cmocka_unit_test(test_exempt),
        cmocka_unit_test(test_change),
        cmocka_unit_test(test_a_full_table),
        cmocka_unit_test(test_guesses_of_a_full_table),
        cmocka_unit_test(test_a_table_that_is_held),
        cmocka_unit_test(test_no_address),
        cmocka_unit_test(test_client),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
