/* What an answer of the DNS says, as text; and answers that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/check.h"
#include "base/span.h"
#include "net/dns_records.h"

/* A question for a.test, of which the answers' owners are pointers to it. */
#define QUESTION "\1a\4test\0\0\1\0\1"
#define OWNER    "\xc0\x0c"

struct answer {
    char p[1024];
    size_t n;
};

static void add(struct answer *a, const char *p, size_t n)
{
    assert_true(a->n + n <= sizeof a->p);
    memcpy(a->p + a->n, p, n);
    a->n += n;
}

static void add_number(struct answer *a, unsigned v)
{
    char octets[2] = { (char)(v >> 8), (char)v };
    add(a, octets, 2);
}

static void begin(struct answer *a, unsigned flags, unsigned records)
{
    a->n = 0;
    add_number(a, 0x1234);
    add_number(a, flags);
    add_number(a, 1);
    add_number(a, records);
    add_number(a, 0);
    add_number(a, 0);
    add(a, QUESTION, sizeof QUESTION - 1);
}

static void add_record(struct answer *a, unsigned type, const char *data, size_t n)
{
    add(a, OWNER, 2);
    add_number(a, type);
    add_number(a, 1);
    add_number(a, 0);
    add_number(a, 60);
    add_number(a, (unsigned)n);
    add(a, data, n);
}

#define FLAGS 0x8180 /* a response, recursion desired and available */
#define AD    0x0020

/* From memory of its exact size, so that the sanitizer sees what is read behind it. */
static enum err parse(const struct answer *a, size_t n, enum dns_type type, struct dns_records *out)
{
    const char *why;
    unsigned char *copy = mem_raw(n ? n : 1);
    memcpy(copy, a->p, n);
    enum err e = dns_records_parse(copy, n, type, out, &why);
    free(copy);
    return e;
}

static const struct {
    enum dns_type type;
    struct span data;
    const char *text;
} known[] = {
    { DNS_A, { "\xc0\0\2\x19", 4 }, "192.0.2.25" },
    { DNS_AAAA, { "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\x25", 16 }, "2001:db8::25" },
    { DNS_CNAME, { "\3wEb\xc0\x0e", 6 }, "web.test." },
    { DNS_MX, { "\0\x0a\3MX1\xc0\x0c", 8 }, "10 mx1.a.test." },
    { DNS_MX, { "\0\0\0", 3 }, "0 ." },
    { DNS_SRV, { "\0\0\0\1\3\xe3\3pop\xc0\x0e", 12 }, "0 1 995 pop.test." },
    { DNS_SRV, { "\0\0\0\0\0\0\0", 7 }, "0 0 0 ." },
    { DNS_TLSA, { "\3\1\1\xab\xcd\0", 6 }, "3 1 1 abcd00" },
    { DNS_TXT, { "\5v=a; \0\3b\"\\", 11 }, "v=a; b\"\\092" },
    { DNS_TXT, { "\4\0\n\x7f\xff", 5 }, "\\000\\010\\127\\255" },
};

static void test_each_type(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        struct answer a;
        struct dns_records r = { 0 };
        begin(&a, FLAGS, 1);
        add_record(&a, known[i].type, known[i].data.p, known[i].data.n);
        assert_int_equal(parse(&a, a.n, known[i].type, &r), ERR_OK);
        assert_int_equal(r.n, 1);
        assert_string_equal(r.v[0], known[i].text);
        assert_false(r.authentic);
        dns_records_fini(&r);
    }
}

static void test_an_alias_leads_to_them(void **state)
{
    struct answer a;
    struct dns_records r = { 0 };
    (void)state;
    begin(&a, FLAGS | AD, 3);
    add_record(&a, DNS_CNAME, "\3web\0", 5);
    add_record(&a, DNS_A, "\1\2\3\4", 4);
    add_record(&a, DNS_A, "\1\2\3\5", 4);
    assert_int_equal(parse(&a, a.n, DNS_A, &r), ERR_OK);
    assert_int_equal(r.n, 2);
    assert_string_equal(r.v[0], "1.2.3.4");
    assert_string_equal(r.v[1], "1.2.3.5");
    assert_true(r.authentic);
    dns_records_fini(&r);
}

static void test_nothing_is_not_a_fault(void **state)
{
    static const struct {
        unsigned rcode;
        enum err e;
    } codes[] = { { 0, ERR_NOTFOUND }, { 3, ERR_NOTFOUND }, { 1, ERR_TEMP },
                  { 2, ERR_TEMP },     { 5, ERR_TEMP },     { 9, ERR_TEMP } };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        struct answer a;
        struct dns_records r = { 0 };
        begin(&a, FLAGS | codes[i].rcode, 0);
        assert_int_equal(parse(&a, a.n, DNS_MX, &r), codes[i].e);
        assert_null(r.v);
    }
}

static void test_what_is_cut_is_no_answer(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        struct answer a;
        begin(&a, FLAGS, 1);
        add_record(&a, known[i].type, known[i].data.p, known[i].data.n);
        for (size_t n = 0; n < a.n; n++) {
            struct dns_records r = { 0 };
            assert_int_equal(parse(&a, n, known[i].type, &r), ERR_CORRUPT);
            assert_null(r.v);
        }
    }
}

static void test_data_of_another_length(void **state)
{
    static const struct {
        enum dns_type type;
        struct span data;
    } bad[] = {
        { DNS_A, { "\1\2\3", 3 } },       { DNS_A, { "\1\2\3\4\5", 5 } },
        { DNS_AAAA, { "\1\2\3\4", 4 } },  { DNS_MX, { "\0", 1 } },
        { DNS_MX, { "\0\1", 2 } },        { DNS_MX, { "\0\1\0\0", 4 } },
        { DNS_SRV, { "\0\1\0\1\0", 5 } }, { DNS_TLSA, { "\3\1", 2 } },
        { DNS_TXT, { "\5abc", 4 } },      { DNS_CNAME, { "\3web", 4 } },
        { DNS_CNAME, { "\xc0\xff", 2 } }, { DNS_CNAME, { "", 0 } },
        { DNS_CNAME, { "\xc0\x24", 2 } }, /* a pointer to itself */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct answer a;
        struct dns_records r = { 0 };
        begin(&a, FLAGS, 1);
        add_record(&a, bad[i].type, bad[i].data.p, bad[i].data.n);
        assert_int_equal(parse(&a, a.n, bad[i].type, &r), ERR_CORRUPT);
        assert_null(r.v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_type),
        cmocka_unit_test(test_an_alias_leads_to_them),
        cmocka_unit_test(test_nothing_is_not_a_fault),
        cmocka_unit_test(test_what_is_cut_is_no_answer),
        cmocka_unit_test(test_data_of_another_length),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
