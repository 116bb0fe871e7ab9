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

#define X10            "xxxxxxxxxx"
#define X100           X10 X10 X10 X10 X10 X10 X10 X10 X10 X10
#define UNIX_ADDRESSES X100 X100 X10 "xxxxxx"

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
    /* LOCAL says nothing that counts, broken or not */
    { BYTES(SIGNATURE "\x20\x00\x00\x03xyz"), .local = true },
    { BYTES(SIGNATURE "\x20\x11\x00\x14" TCP4_ADDRESSES "\x20\x00\x05\x01\0\0\0\0"),
      .local = true },
    /* PROXY of an unspecified family, with NOOP */
    { BYTES(SIGNATURE "\x21\x00\x00\x04\x04\x00\x01z"), .local = true },
    { BYTES(SIGNATURE "\x21\x31\x00\xd8" UNIX_ADDRESSES), .local = true },
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
        BYTES(SIGNATURE "\x21\x00\x00\x03xyz"),
        BYTES(SIGNATURE "\x21\x31\x00\xd7" X100 X100 X10 "xxxxx"),
        BYTES(SIGNATURE "\x21\x31\x00\xd9" UNIX_ADDRESSES "x"),
        BYTES(SIGNATURE "\x21\x32\x00\xd8" UNIX_ADDRESSES), /* datagrams */
        /* CRC32C: wrong, and of a wrong size */
        BYTES(SIGNATURE "\x21\x00\x00\x07\x03\x00\x04\0\0\0\0"),
        BYTES(SIGNATURE "\x21\x00\x00\x06\x03\x00\x03\0\0\0"),
        /* SSL: too short, and with a part past its end */
        BYTES(SIGNATURE "\x21\x00\x00\x07\x20\x00\x04\x01\0\0\0"),
        BYTES(SIGNATURE "\x21\x00\x00\x0c\x20\x00\x09\x01\0\0\0\0\x21\x00\x02z"),
        BYTES(SIGNATURE "\x21\x00\x00\x0a\x20\x00\x07\x01\0\0\0\0\x21\x00"),
        /* UNIQUE_ID twice, and too long */
        BYTES(SIGNATURE "\x21\x00\x00\x08\x05\x00\x01z\x05\x00\x01z"),
        BYTES(SIGNATURE "\x21\x00\x00\x84\x05\x00\x81" X100 X10 X10 "xxxxxxxxx"),
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

/* --- TLVs ------------------------------------------------------------------------------------ */

/* ALPN, AUTHORITY, UNIQUE_ID, SSL with version, cipher and CN, CRC32C, NOOP, NETNS, and a custom
 * one, 0xe0. */
#define FULL                                                                                       \
    SIGNATURE "\x21\x11\x00\x87" TCP4_ADDRESSES "\x01\x00\x04pop3"                                 \
              "\x02\x00\x10mail.example.org"                                                       \
              "\x05\x00\x0f"                                                                       \
              "7F000001:1234_x"                                                                    \
              "\x20\x00\x31\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.3"                                \
              "\x23\x00\x16TLS_AES_256_GCM_SHA384"                                                 \
              "\x22\x00\x06"                                                                       \
              "client"                                                                             \
              "\x03\x00\x04\xde\x74\x17\x2c"                                                       \
              "\x04\x00\x02\x00\x00"                                                               \
              "\x30\x00\x03ns1\xe0\x00\x06"                                                        \
              "custom"

static void test_every_tlv(void **state)
{
    (void)state;
    struct proxy_header h;
    size_t used;
    assert_int_equal(parse(SPAN(FULL), &h, &used), ERR_OK);
    assert_int_equal(used, SPAN(FULL).n);
    assert_true(h.tls);
    assert_string_equal(h.tls_version, "TLSv1.3");
    assert_string_equal(h.tls_cipher, "TLS_AES_256_GCM_SHA384");
    assert_string_equal(h.unique_id, "7F000001:1234_x");
    check_address(&h.source, "192.0.2.1", 56324);
}

/* Whichever octet of an address or a value is another one, the header is not believed. */
static void test_the_sum_covers_every_octet(void **state)
{
    (void)state;
    size_t next = 28; /* where the next TLV begins; between these, type and length */
    for (size_t i = 16; i < SPAN(FULL).n; i++) {
        char wrong[] = FULL;
        struct proxy_header h;
        size_t used;
        if (i == next) {
            next += 3 + (size_t)(unsigned char)wrong[i + 2];
            i += 2;
            continue;
        }
        wrong[i] ^= 0x40;
        if (parse(span_of(wrong, sizeof wrong - 1), &h, &used) != ERR_INVALID) {
            fail_msg("octet %zu", i);
        }
    }
    assert_int_equal(next, SPAN(FULL).n);
}

static void tlv(const char *body, size_t n, struct proxy_header *h)
{
    char in[PROXY_HEADER_MAX] = SIGNATURE "\x21\x00";
    size_t used;
    in[14] = (char)(n >> 8);
    in[15] = (char)n;
    memcpy(in + 16, body, n);
    assert_int_equal(parse(span_of(in, 16 + n), h, &used), ERR_OK);
    assert_int_equal(used, 16 + n);
}
#define TLV(lit, h) tlv(lit, sizeof(lit) - 1, h)

/* What goes to logs and trace headers is plain, and as long as there is room for. */
static void test_texts_are_plain(void **state)
{
    (void)state;
    struct proxy_header h;
    TLV("\x20\x00\x12\x01\0\0\0\0\x21\x00\x0aTLS\0 (\r\n)x", &h);
    assert_true(h.tls);
    assert_string_equal(h.tls_version, "TLS??????x");
    assert_string_equal(h.tls_cipher, "");
    TLV("\x20\x00\x6c\x01\0\0\0\0\x23\x00\x64" X100, &h);
    assert_int_equal(strlen(h.tls_cipher), sizeof h.tls_cipher - 1);
    TLV("\x20\x00\x05\x06\0\0\0\0", &h); /* certificates, but no TLS */
    assert_false(h.tls);
    TLV("\x05\x00\x04"
        "a b\xff",
        &h);
    assert_string_equal(h.unique_id, "612062ff");
    TLV("\x05\x00\x00", &h);
    assert_string_equal(h.unique_id, "");
    char most[3 + 128] = "\x05\x00\x80";
    memset(most + 3, 0xa5, 128);
    tlv(most, sizeof most, &h);
    assert_int_equal(strlen(h.unique_id), 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_headers),
        cmocka_unit_test(test_cut_at_every_octet),
        cmocka_unit_test(test_need_leads_to_the_end),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_longest_header),
        cmocka_unit_test(test_every_tlv),
        cmocka_unit_test(test_the_sum_covers_every_octet),
        cmocka_unit_test(test_texts_are_plain),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
