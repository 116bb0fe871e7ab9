/* Tests of proxy: both versions of the header, whole, cut at every octet, and wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/check.h"
#include "net/netaddr.h"
#include "net/proxy.h"

/* SPAN for the tables: what it makes is no constant. */
#define BYTES(lit)                                                                                 \
    {                                                                                              \
        "" lit, sizeof(lit) - 1                                                                    \
    }
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define TCP4_ADDRESSES                                                                             \
    "\xc0\x00\x02\x01"                                                                             \
    "\xc6\x33\x64\x07"                                                                             \
    "\xdc\x04"                                                                                     \
    "\x00\x6e"
#define TCP6_ADDRESSES                                                                             \
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"                                                   \
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"                                                   \
    "\xdc\x04"                                                                                     \
    "\x00\x6e"

struct good {
    struct span in;
    bool local;
    const char *source, *destination;
    uint16_t source_port, destination_port;
};

static const struct good goods[] = {
    { BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 56324 110\r\n"), false, "192.0.2.1", "198.51.100.7",
      56324, 110 },
    { BYTES("PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n"), false, "2001:db8::1", "2001:db8::2",
      0, 65535 },
    { BYTES("PROXY UNKNOWN\r\n"), .local = true },
    { BYTES("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), .local = true },
    { BYTES(SIGNATURE "\x21\x11\x00\x0c" TCP4_ADDRESSES), false, "192.0.2.1", "198.51.100.7", 56324,
      110 },
    { BYTES(SIGNATURE "\x21\x21\x00\x24" TCP6_ADDRESSES), false, "2001:db8::1", "2001:db8::2",
      56324, 110 },
    /* TLVs: two, one of them empty */
    { BYTES(SIGNATURE "\x21\x11\x00\x14" TCP4_ADDRESSES "\x04\x00\x02zz"
                      "\x05\x00\x00"),
      false, "192.0.2.1", "198.51.100.7", 56324, 110 },
    { BYTES(SIGNATURE "\x20\x00\x00\x00"), .local = true },
    { BYTES(SIGNATURE "\x20\x11\x00\x0c" TCP4_ADDRESSES), .local = true },
    /* PROXY of an unspecified family */
    { BYTES(SIGNATURE "\x21\x00\x00\x03xyz"), .local = true },
};

static void check_address(const struct sockaddr_storage *sa, const char *host, uint16_t port)
{
    char text[NETADDR_TEXT];
    netaddr_host((const struct sockaddr *)sa, text);
    assert_string_equal(text, host);
    assert_int_equal(netaddr_port((const struct sockaddr *)sa), port);
}

/* From memory of exactly its size, so that a sanitizer sees a look past the end. */
static enum err parse(struct span s, struct proxy_header *h, size_t *used)
{
    char *exact = malloc(s.n ? s.n : 1);
    memcpy(exact, s.p, s.n);
    enum err e = proxy_parse(span_of(exact, s.n), h, used);
    free(exact);
    return e;
}

static void check_good(const struct good *g, struct span in)
{
    struct proxy_header h;
    size_t used = 0;
    assert_int_equal(parse(in, &h, &used), ERR_OK);
    assert_int_equal(used, g->in.n);
    assert_int_equal(h.local, g->local);
    if (!g->local) {
        check_address(&h.source, g->source, g->source_port);
        check_address(&h.destination, g->destination, g->destination_port);
    }
}

static void test_good_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goods); i++) {
        char more[256];
        memcpy(more, goods[i].in.p, goods[i].in.n);
        memcpy(more + goods[i].in.n, "EHLO\r\n", 6);
        check_good(&goods[i], goods[i].in);
        check_good(&goods[i], span_of(more, goods[i].in.n + 6));
    }
}

static void test_cut_at_every_octet(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goods); i++) {
        for (size_t n = 0; n < goods[i].in.n; n++) {
            struct proxy_header h;
            size_t used = 77;
            assert_int_equal(parse(span_first(goods[i].in, n), &h, &used), ERR_TEMP);
            assert_int_equal(used, 77);
            size_t need = proxy_need(span_first(goods[i].in, n));
            assert_true(need > 0 && n + need <= goods[i].in.n);
        }
    }
}

/* Who reads what proxy_need says gets the header and not an octet more. */
static void test_need_leads_to_the_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goods); i++) {
        struct proxy_header h;
        size_t used, n = 0;
        while (parse(span_first(goods[i].in, n), &h, &used) == ERR_TEMP) {
            n += proxy_need(span_first(goods[i].in, n));
        }
        assert_int_equal(n, goods[i].in.n);
    }
}

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct span bad[] = {
        BYTES("E"),
        BYTES("EHLO mail.test\r\n"),
        BYTES("proxy TCP4 192.0.2.1 198.51.100.7 1 2\r\n"),
        BYTES("PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n"),
        BYTES("PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n"),
        BYTES("PROXY TCP4 192.0.2.1  198.51.100.7 1 2\r\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 1 \r\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n"),
        BYTES("PROXY TCP4 192.0.2.1 198.51.100.7 -1 2\r\n"),
        BYTES("PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n"),
        BYTES("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n"),
        BYTES("PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n"),
        BYTES("PROXY TCP4 192.0.2.1\0 198.51.100.7 1 2\r\n"),
        BYTES("PROXY TCP4\r\n"),
        BYTES(
            "PROXY UNKNOWN 00000000000000000000000000000000000000000000000000000000000000000000000"
            "000000000000000000000000\r\n"),
        BYTES(
            "PROXY TCP6 11111111111111111111111111111111111111111111111111111111111111111111111111"
            "11111111111111111111111111"),
        BYTES("\r\n\r\n\0\r\nQUIX"),
        BYTES(SIGNATURE "\x11\x11\x00\x0c" TCP4_ADDRESSES), /* version 1 in a binary header */
        BYTES(SIGNATURE "\x22\x11\x00\x0c" TCP4_ADDRESSES), /* unknown command */
        BYTES(SIGNATURE "\x21\x11\x00\x0b" TCP4_ADDRESSES), /* too short for its addresses */
        BYTES(SIGNATURE "\x21\x21\x00\x0c" TCP4_ADDRESSES),
        BYTES(SIGNATURE "\x21\x12\x00\x0c" TCP4_ADDRESSES), /* UDP */
        BYTES(SIGNATURE "\x21\x41\x00\x0c" TCP4_ADDRESSES), /* no such family */
        BYTES(SIGNATURE "\x21\x11\x0f\xf1"),                /* longer than PROXY_HEADER_MAX */
        BYTES(SIGNATURE "\x20\x00\xff\xff"),
        BYTES(SIGNATURE "\x21\x11\x00\x0e" TCP4_ADDRESSES "\x04\x00"),      /* half a TLV */
        BYTES(SIGNATURE "\x21\x11\x00\x10" TCP4_ADDRESSES "\x04\x00\x02z"), /* TLV past the end */
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct proxy_header h = { .local = true, .source.ss_family = 77 };
        size_t used = 77;
        if (parse(bad[i], &h, &used) != ERR_INVALID) {
            fail_msg("bad header %zu was not refused", i);
        }
        assert_int_equal(used, 77);
        assert_int_equal(h.source.ss_family, 77);
    }
}

/* The longest one that is accepted, all of it TLV. */
static void test_longest_header(void **state)
{
    (void)state;
    static char in[PROXY_HEADER_MAX] = SIGNATURE "\x21\x11\x0f\xf0" TCP4_ADDRESSES "\xe0\x0f\xe1";
    struct proxy_header h;
    size_t used;
    assert_int_equal(proxy_parse(span_of(in, sizeof in), &h, &used), ERR_OK);
    assert_int_equal(used, sizeof in);
    assert_int_equal(proxy_parse(span_of(in, sizeof in - 1), &h, &used), ERR_TEMP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_headers),          cmocka_unit_test(test_cut_at_every_octet),
        cmocka_unit_test(test_need_leads_to_the_end), cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_longest_header),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
