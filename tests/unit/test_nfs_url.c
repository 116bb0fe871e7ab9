/* Tests of nfs_url: what a volume's URL may say, what each part becomes, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "store/nfs_url.h"

static const struct {
    const char *url, *host;
    uint16_t port, mount_port;
    const char *path;
    bool has_owner;
    uint32_t uid, gid;
} good[] = {
    { "nfs://nas/spool", "nas", 2049, 0, "/spool", false, 0, 0 },
    { "nfs://nas/", "nas", 2049, 0, "/", false, 0, 0 },
    { "nfs://192.0.2.1:20490/a/b", "192.0.2.1", 20490, 0, "/a/b", false, 0, 0 },
    { "nfs://nas:1/a", "nas", 1, 0, "/a", false, 0, 0 },
    { "nfs://nas:65535/a", "nas", 65535, 0, "/a", false, 0, 0 },
    { "nfs://[2001:db8::1]/a", "2001:db8::1", 2049, 0, "/a", false, 0, 0 },
    { "nfs://[2001:db8::1]:20490/a", "2001:db8::1", 20490, 0, "/a", false, 0, 0 },
    { "nfs://nas/a?mountport=635", "nas", 2049, 635, "/a", false, 0, 0 },
    { "nfs://nas/a?uid=990&gid=991", "nas", 2049, 0, "/a", true, 990, 991 },
    { "nfs://nas/a?gid=991&mountport=1&uid=990", "nas", 2049, 1, "/a", true, 990, 991 },
    { "nfs://nas/a?uid=0&gid=4294967294", "nas", 2049, 0, "/a", true, 0, 4294967294u },
    { "nfs://nas/a?", "nas", 2049, 0, "/a", false, 0, 0 },
    { "nfs://nas/a%20b/%c3%A4%25/%3F", "nas", 2049, 0, "/a b/\xc3\xa4%/?", false, 0, 0 },
    { "nfs://nas/a:b/[c]=&", "nas", 2049, 0, "/a:b/[c]=&", false, 0, 0 },
    { "nfs://nas//a//b/", "nas", 2049, 0, "//a//b/", false, 0, 0 },
};

static void test_good(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct nfs_export u;
        char why[100] = "";
        if (!nfs_url_parse(good[i].url, &u, why, sizeof why)) {
            fail_msg("%s: %s", good[i].url, why);
        }
        print_message("# %s\n", good[i].url);
        assert_string_equal(u.host, good[i].host);
        assert_int_equal(u.port, good[i].port);
        assert_int_equal(u.mount_port, good[i].mount_port);
        assert_string_equal(u.path, good[i].path);
        assert_int_equal(u.has_owner, good[i].has_owner);
        assert_int_equal(u.uid, good[i].uid);
        assert_int_equal(u.gid, good[i].gid);
    }
}

#define NO_SCHEME "does not begin with nfs://"
#define NO_HOST   "names no host, or a port that is none"
#define NO_PATH   "names no path of an export"
#define NO_OPTION                                                                                  \
    "has an option that is not mountport=, uid= or gid=, or a value that is out of range"
#define NO_PAIR "has uid= or gid=, but not both"

static const struct {
    const char *url, *why;
} bad[] = {
    { "", NO_SCHEME },
    { "file:///a", NO_SCHEME },
    { "NFS://nas/a", NO_SCHEME },
    { " nfs://nas/a", NO_SCHEME },
    { "nfs:/nas/a", NO_SCHEME },
    { "nfs://", NO_HOST },
    { "nfs:///a", NO_HOST },
    { "nfs://?mountport=1", NO_HOST },
    { "nfs://:2049/a", NO_HOST },
    { "nfs://nas:/a", NO_HOST },
    { "nfs://nas:0/a", NO_HOST },
    { "nfs://nas:65536/a", NO_HOST },
    { "nfs://nas:-1/a", NO_HOST },
    { "nfs://nas:1x/a", NO_HOST },
    { "nfs://nas:1:2/a", NO_HOST },
    { "nfs://2001:db8::1/a", NO_HOST },
    { "nfs://[]/a", NO_HOST },
    { "nfs://[::1/a", NO_HOST },
    { "nfs://[::1]1/a", NO_HOST },
    { "nfs://[::1]x22/a", NO_HOST },
    { "nfs://[::1]:/a", NO_HOST },
    { "nfs://nas", NO_PATH },
    { "nfs://nas?mountport=1", NO_PATH },
    { "nfs://nas/%", NO_PATH },
    { "nfs://nas/%2", NO_PATH },
    { "nfs://nas/%2g", NO_PATH },
    { "nfs://nas/%g2", NO_PATH },
    { "nfs://nas/a%00b", NO_PATH },
    { "nfs://nas/a?mountport", NO_OPTION },
    { "nfs://nas/a?mountport=", NO_OPTION },
    { "nfs://nas/a?mountport=0", NO_OPTION },
    { "nfs://nas/a?mountport=65536", NO_OPTION },
    { "nfs://nas/a?mount_port=1", NO_OPTION },
    { "nfs://nas/a?MOUNTPORT=1", NO_OPTION },
    { "nfs://nas/a?port=1", NO_OPTION },
    { "nfs://nas/a?=1", NO_OPTION },
    { "nfs://nas/a?&mountport=1", NO_OPTION },
    { "nfs://nas/a?uid=1&&gid=1", NO_OPTION },
    { "nfs://nas/a?uid=1;gid=1", NO_OPTION },
    { "nfs://nas/a?uid=root&gid=root", NO_OPTION },
    { "nfs://nas/a?uid=-1&gid=1", NO_OPTION },
    { "nfs://nas/a?uid=4294967295&gid=1", NO_OPTION },
    { "nfs://nas/a?uid=1&gid=4294967295", NO_OPTION },
    { "nfs://nas/a?mountport=1?uid=1&gid=1", NO_OPTION },
    { "nfs://nas/a?uid=1", NO_PAIR },
    { "nfs://nas/a?gid=1", NO_PAIR },
};

/* What was there before stays: no half of a URL is ever used. */
static void check_refused(const char *url, const char *reason)
{
    struct nfs_export u, before;
    char why[100] = "";
    memset(&u, 0x5a, sizeof u);
    before = u;
    print_message("# %.80s\n", url);
    assert_false(nfs_url_parse(url, &u, why, sizeof why));
    assert_string_equal(why, reason);
    assert_memory_equal(&u, &before, sizeof u);
}

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        check_refused(bad[i].url, bad[i].why);
    }
}

/* The longest host and path that there is room for, and one octet more. */
static void test_lengths(void **state)
{
    (void)state;
    struct nfs_export u;
    char why[100], url[2048], text[1100];
    memset(text, 'a', sizeof text);
    snprintf(url, sizeof url, "nfs://%.255s/%.1022s", text, text);
    assert_true(nfs_url_parse(url, &u, why, sizeof why));
    assert_int_equal(strlen(u.host), sizeof u.host - 1);
    assert_int_equal(strlen(u.path), sizeof u.path - 1);
    snprintf(url, sizeof url, "nfs://%.256s/", text);
    check_refused(url, NO_HOST);
    snprintf(url, sizeof url, "nfs://a/%.1023s", text);
    check_refused(url, NO_PATH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_lengths),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
