/* Records of the fleet from settings, as text; and what compares as equal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "dns_rrsets.h"

static struct config *load(const char *section)
{
    char path[] = "/tmp/mailfleet-unit-XXXXXX", why[256];
    struct config *c = NULL;
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fprintf(f, "[public]\n%s", section);
    fclose(f);
    enum err e = config_load(path, &c, why, sizeof why);
    unlink(path);
    assert_int_equal(e, ERR_OK);
    return c;
}

static bool print(void *arg, const struct rrset *s)
{
    rrset_print(s, 300, arg);
    return true;
}

/* What hosts and one domain have. */
static char *records(const char *section, const char *domain)
{
    struct dns_facts f;
    struct config *c = load(section);
    char why[256], *text;
    size_t size;
    assert_int_equal(dns_facts_read(c, &f, why, sizeof why), ERR_OK);
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; i < f.n_hosts; i++) {
        assert_true(dns_rrsets_host(&f, &f.hosts[i], print, out));
    }
    assert_true(dns_rrsets_domain(&f, domain, print, out));
    fclose(out);
    dns_facts_fini(&f);
    config_free(&c);
    return text;
}

static void expect(const char *section, const char *domain, const char *wanted)
{
    char *text = records(section, domain);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_a_small_fleet(void **state)
{
    (void)state;
    expect("mx = Mx.example.NET.\naddresses = mx.example.net=192.0.2.1\n", "example.org",
           "mx.example.net. 300 IN A 192.0.2.1\n"
           "example.org. 300 IN MX 10 mx.example.net.\n");
}

/* RFC 6186, section 3.4. */
static void test_what_is_not_offered(void **state)
{
    (void)state;
    expect("pop3 = p.example.net\naddresses = p.example.net=2001:db8:0:0::1\n", "example.org",
           "p.example.net. 300 IN AAAA 2001:db8::1\n"
           "_pop3s._tcp.example.org. 300 IN SRV 0 0 0 .\n"
           "_pop3._tcp.example.org. 300 IN SRV 0 1 110 p.example.net.\n");
}

/* Its own alias would be a circle. */
static void test_the_policys_host_itself(void **state)
{
    (void)state;
    char *text = records("mx = mx.a.net\naddresses = mx.a.net=192.0.2.1, mta-sts.a.net=192.0.2.2\n"
                         "mta_sts = testing\nmta_sts_host = mta-sts.a.net\nmta_sts_id = 7\n",
                         "a.net");
    assert_string_equal(text, "mx.a.net. 300 IN A 192.0.2.1\n"
                              "mta-sts.a.net. 300 IN A 192.0.2.2\n"
                              "a.net. 300 IN MX 10 mx.a.net.\n"
                              "_mta-sts.a.net. 300 IN TXT \"v=STSv1; id=7;\"\n");
    free(text);
}

#define X50 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

static void test_long_texts_are_split(void **state)
{
    (void)state;
    /* 24 octets in front of the x make 231 of them fill the first string. */
    char *text = records("mx = m.a.net\naddresses = m.a.net=192.0.2.1\n"
                         "tls_rpt = https://" X50 X50 X50 X50 X50 " mailto:b@a.net\n",
                         "a.net");
    const char *txt = strstr(text, "TXT ");
    assert_non_null(txt);
    assert_string_equal(txt, "TXT \"v=TLSRPTv1; rua=https://" X50 X50 X50 X50
                             "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" "
                             "\"xxxxxxxxxxxxxxxxxxx,mailto:b@a.net\"\n");
    free(text);
}

static void test_names_that_are_too_long(void **state)
{
    (void)state;
    char domain[254] = "";
    for (size_t i = 0; i < 252; i++) {
        domain[i] = i % 50 == 49 ? '.' : 'd';
    }
    char *text = records("mx = m.a.net\npop3s = m.a.net\naddresses = m.a.net=192.0.2.1\n", domain);
    assert_non_null(strstr(text, " MX "));
    assert_null(strstr(text, "SRV"));
    free(text);
}

static void refuse(const char *section, const char *words)
{
    struct dns_facts f;
    struct config *c = load(section);
    char why[256] = "";
    assert_int_equal(dns_facts_read(c, &f, why, sizeof why), ERR_INVALID);
    assert_non_null(strstr(why, words));
    config_free(&c);
}

static void test_nonsense_is_refused(void **state)
{
    (void)state;
    refuse("", "names no host");
    refuse("mx = localhost\n", "public.mx: localhost");
    refuse("mx = a_b.example.net\n", "public.mx: a_b");
    refuse("mx = [192.0.2.1]\n", "public.mx: [192");
    refuse("mx = mx.example.net:\n", "public.mx: mx");
    refuse("mx = mx.example.net\n", "public.addresses has no address of mx.example.net");
    refuse("mx = m.a.net\naddresses = m.a.net=192.0.2.1\ntls_rpt = mailto:\n", "public.tls_rpt");
    refuse("mx = m.a.net\naddresses = m.a.net=192.0.2.1\ntls_rpt = mailto:a!b\n", "public.tls_rpt");
}

/* --- comparing ----------------------------------------------------------------------------------
 */

static void compare(const char *tag, const char *wanted, const char *found, const char *missing,
                    const char *foreign)
{
    struct rrset s = { .type = DNS_TXT, .tag = tag };
    struct texts lacks = { 0 }, more = { 0 };
    char *v[] = { mem_strdup(found) };
    texts_add(&s.data, span_str(wanted));
    rrset_compare(&s, v, *found ? 1 : 0, &lacks, &more);
    assert_int_equal(lacks.n, *missing ? 1 : 0);
    assert_int_equal(more.n, *foreign ? 1 : 0);
    if (*missing) {
        assert_string_equal(lacks.v[0], missing);
    }
    if (*foreign) {
        assert_string_equal(more.v[0], foreign);
    }
    texts_fini(&lacks);
    texts_fini(&more);
    texts_fini(&s.data);
    free(v[0]);
}

static void test_texts_of_a_purpose(void **state)
{
    (void)state;
    compare("v=STSv1", "v=STSv1; id=1;", "v=STSv1;id=1", "", "");
    compare("v=STSv1", "v=STSv1; id=1;", " v=STSv1; id=1;", "v=STSv1; id=1", "");
    compare("v=STSv1", "v=STSv1; id=1;", "v=STSv1; id=2;", "v=STSv1; id=1", "v=STSv1; id=2");
    compare("v=STSv1", "v=STSv1; id=1;", "v=spf1 -all", "v=STSv1; id=1", "");
    compare(NULL, "a;b", "a; b", "a;b", "a; b");
    compare(NULL, "a", "", "a", "");
}

static void test_lists_as_sets(void **state)
{
    (void)state;
    struct texts a = { 0 }, b = { 0 }, missing = { 0 }, foreign = { 0 };
    for (const char *p = "dacbe"; *p; p++) {
        texts_addf(&a, "%c", *p);
    }
    for (const char *p = "gcaf"; *p; p++) {
        texts_addf(&b, "%c", *p);
    }
    texts_compare(&a, &b, &missing, &foreign);
    assert_int_equal(missing.n, 3);
    assert_string_equal(missing.v[0], "b");
    assert_string_equal(missing.v[2], "e");
    assert_int_equal(foreign.n, 2);
    assert_string_equal(foreign.v[0], "f");
    texts_fini(&a);
    texts_fini(&b);
    texts_fini(&missing);
    texts_fini(&foreign);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_small_fleet),           cmocka_unit_test(test_what_is_not_offered),
        cmocka_unit_test(test_the_policys_host_itself), cmocka_unit_test(test_long_texts_are_split),
        cmocka_unit_test(test_names_that_are_too_long), cmocka_unit_test(test_nonsense_is_refused),
        cmocka_unit_test(test_texts_of_a_purpose),      cmocka_unit_test(test_lists_as_sets),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
