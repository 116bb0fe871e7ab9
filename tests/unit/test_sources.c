/* What other servers keep their mail in: their lists, the UIDLs that they make, their lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "mail_source.h"
#include "source_lists.h"
#include "source_open.h"
#include "source_parts.h"

static bool is(struct span s, const char *want)
{
    return span_eq(s, span_str(want));
}

/* --- lists ----------------------------------------------------------------------------------- */

static void test_uidlist(void **state)
{
    (void)state;
    struct uidlist l;
    assert_int_equal(uidlist_parse(SPAN("3 V1275660208 N25022 G3085f01b7f11094c501100008c4a11c1\n"
                                        "25006 :1276528487.M364837P9451.kurkku,S=1355,W=1394:2,\n"
                                        "25017 W2481 Pold.uidl O7 Gguid :b.host:2,S\n"
                                        "25021 P  W12  :c d\n"),
                                   &l),
                     ERR_OK);
    assert_int_equal(l.validity, 1275660208);
    assert_int_equal(l.next, 25022);
    assert_int_equal(l.n, 3);
    assert_true(is(l.entries[0].name, "1276528487.M364837P9451.kurkku,S=1355,W=1394"));
    assert_false(l.entries[0].has_uidl || l.entries[0].size_known);
    assert_int_equal(l.entries[0].order, UINT32_MAX);
    assert_true(is(l.entries[1].uidl, "old.uidl") && is(l.entries[1].guid, "guid"));
    assert_true(l.entries[1].size_known && l.entries[1].size == 2481);
    assert_int_equal(l.entries[1].order, 7);
    assert_true(l.entries[2].has_uidl && l.entries[2].uidl.n == 0 && l.entries[2].size == 12);
    assert_true(is(l.entries[2].name, "c d"));
    free(l.entries);

    /* Version 1; a uid behind the next one, as lines are appended before the header is written. */
    assert_int_equal(uidlist_parse(SPAN("1 12 3\n1 a:2,\n9 b\n"), &l), ERR_OK);
    assert_int_equal(l.next, 10);
    assert_true(is(l.entries[0].name, "a"));
    free(l.entries);
}

static void test_bad_uidlists(void **state)
{
    static const char *const bad[] = { "",
                                       "\n",
                                       "2 1 2\n",
                                       "3 V1\n",
                                       "3 N1\n",
                                       "3 V0 N1\n",
                                       "3 Vx N1\n",
                                       "3 V4294967296 N1\n",
                                       "1 1\n",
                                       "3 V1 N9\n2 :b\n1 :a\n",
                                       "3 V1 N9\n2 :b\n2 :a\n",
                                       "3 V1 N9\n0 :b\n",
                                       "3 V1 N9\n4294967295 :b\n",
                                       "3 V1 N9\n1\n",
                                       "3 V1 N9\n1 P\n",
                                       "3 V1 N9\n1 :\n",
                                       "3 V1 N9\n1 :../b\n",
                                       "3 V1 N9\n\n",
                                       "3 V1 N9\nx :b\n" };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct uidlist l = { .n = 99 };
        assert_int_equal(uidlist_parse(span_str(bad[i]), &l), ERR_CORRUPT);
        assert_int_equal(l.n, 99);
    }
}

static void test_sizelist(void **state)
{
    (void)state;
    struct sizelist l;
    assert_int_equal(sizelist_parse(SPAN("/3 17 1600000000\n"
                                         "160.M1.host:2,S 1234 16:1600000000:1\n"
                                         "with blank 5 2:0:0\n"
                                         "old 7 0:0\n"
                                         "no number\n"
                                         " 1 2:3\n"
                                         "bad 1x 2:3\n"
                                         "cut off 1 2:"),
                                    &l),
                     ERR_OK);
    assert_true(l.next == 17 && l.validity == 1600000000);
    assert_int_equal(l.n, 3);
    assert_true(is(l.entries[0].name, "160.M1.host") && l.entries[0].size == 1234);
    assert_true(l.entries[0].number == 16 && l.entries[0].validity == 1600000000);
    assert_true(is(l.entries[1].name, "with blank") && l.entries[1].validity == 0);
    assert_true(l.entries[2].number == 0);
    free(l.entries);

    assert_int_equal(sizelist_parse(SPAN("/1 5\na 12 4\n"), &l), ERR_OK);
    assert_true(l.n == 1 && l.validity == 0 && l.entries[0].number == 4);
    free(l.entries);
    static const char *const bad[] = { "", "3 1 2\n", "/4 1 2\n", "/0 1 2\n", "/2\n", "/2 1 x\n" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(sizelist_parse(span_str(bad[i]), &l), ERR_CORRUPT);
    }
}

static void put32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24);
    p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8);
    p[3] = (unsigned char)v;
}

#define CYRUS_START  96
#define CYRUS_RECORD 88

/* An index of minor version 10 with three records, of which the second is expunged. */
static size_t make_cyrus(unsigned char out[CYRUS_START + 3 * CYRUS_RECORD])
{
    memset(out, 0, CYRUS_START + 3 * CYRUS_RECORD);
    put32(out + 8, 10);
    put32(out + 12, CYRUS_START);
    put32(out + 16, CYRUS_RECORD);
    put32(out + 20, 3);
    put32(out + 44, 1234567890);
    put32(out + 60, 1);
    for (uint32_t i = 0; i < 3; i++) {
        unsigned char *r = out + CYRUS_START + i * CYRUS_RECORD;
        put32(r, 10 + i);
        put32(r + 4, 1600000000 + i);
        put32(r + 12, 100 + i);
        put32(r + 32, i == 1 ? 1u << 31 : 1);
    }
    return CYRUS_START + 3 * CYRUS_RECORD;
}

static void test_cyrus_index(void **state)
{
    (void)state;
    unsigned char octets[CYRUS_START + 3 * CYRUS_RECORD];
    size_t n = make_cyrus(octets);
    struct cyrus_index x;
    assert_int_equal(cyrus_parse(span_of(octets, n), &x), ERR_OK);
    assert_true(x.validity == 1234567890 && x.new_uidl && x.n == 2);
    assert_true(x.entries[1].uid == 12 && x.entries[1].size == 102);
    assert_true(x.entries[1].time_s == 1600000002);
    free(x.entries);
    for (size_t cut = 0; cut < n; cut++) {
        assert_int_equal(cyrus_parse(span_of(octets, cut), &x), ERR_CORRUPT);
    }
    put32(octets + 8, 20);
    assert_int_equal(cyrus_parse(span_of(octets, n), &x), ERR_INVALID);
    put32(octets + 8, 10);
    put32(octets + 16, 0);
    assert_int_equal(cyrus_parse(span_of(octets, n), &x), ERR_CORRUPT);
    put32(octets + 16, UINT32_MAX);
    assert_int_equal(cyrus_parse(span_of(octets, n), &x), ERR_CORRUPT);
}

/* --- UIDLs ----------------------------------------------------------------------------------- */

static void test_formats(void **state)
{
    static const struct {
        const char *format, *uidl;
    } cases[] = { { "%08Xu%08Xv", "000000ff499602d2" },
                  { "dovecot", "000000ff499602d2" },
                  { "cyrus", "1234567890.255" },
                  { "%{uid | hex(8)}%{uidvalidity | hex(8)}", "000000ff499602d2" },
                  { "%{uidvalidity}-%{uid}", "1234567890-255" },
                  { "%Mf", "694498cdee4b39309c3239308cdd552a" },
                  { "%{filename|md5|hexlify}", "694498cdee4b39309c3239308cdd552a" },
                  { "%Uf", "16.HOST" },
                  { "%2f", "16" },
                  { "%g", "Guid" },
                  { "%{guid | lower}", "guid" },
                  { "a%%b%u", "a%b255" } };
    const struct uidl_parts p = { 1234567890, 255, SPAN("16.host"), SPAN("Guid") };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char why[200] = "";
        struct buf out;
        buf_init(&out, 200);
        assert_int_equal(uidl_format(cases[i].format, &p, &out, why, sizeof why), ERR_OK);
        buf_addc(&out, '\0');
        assert_string_equal(buf_span(&out).p, cases[i].uidl);
        buf_fini(&out);
    }
    static const char *const bad[] = { "",    "plain", "%",       "%q",          "%08",
                                       "%{",  "%{uid", "%{uid|}", "%{uid|hex(}", "%{uid|hex(8}",
                                       "%Xf", "%{x}",  "%99999u", "courier",     "%{uid|rot13}" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char why[200] = "";
        struct buf out;
        buf_init(&out, 200);
        assert_int_equal(uidl_format(bad[i], &p, &out, why, sizeof why), ERR_INVALID);
        assert_true(why[0]);
        buf_fini(&out);
    }
}

static void test_uidls_that_are_none(void **state)
{
    (void)state;
    char long_text[72];
    memset(long_text, 'a', sizeof long_text);
    struct source_message m[8] = { 0 };
    source_uidl(&m[0], span_of(long_text, 70));
    source_uidl(&m[1], span_of(long_text, 71));
    source_uidl(&m[2], SPAN(""));
    source_uidl(&m[3], SPAN("a b"));
    assert_true(!m[0].uidl_changed && strlen(m[0].uidl) == 70);
    for (size_t i = 1; i < 4; i++) {
        assert_true(m[i].uidl_changed && strlen(m[i].uidl) == 64);
        assert_string_not_equal(m[i].uidl, m[i % 3 + 1].uidl);
    }

    /* Given twice: numbered, and never the same as another by that. */
    source_uidl(&m[4], SPAN("x-2"));
    source_uidl(&m[5], SPAN("x"));
    source_uidl(&m[6], SPAN("x"));
    source_uidl(&m[7], span_of(long_text, 70));
    source_uidls_unique(m, ARRAY_LEN(m));
    assert_string_equal(m[5].uidl, "x");
    assert_false(m[5].uidl_changed || m[0].uidl_changed);
    assert_true(m[6].uidl_changed && m[7].uidl_changed);
    for (size_t i = 0; i < ARRAY_LEN(m); i++) {
        assert_in_range(strlen(m[i].uidl), 1, 70);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(m[i].uidl, m[j].uidl);
        }
    }
}

/* --- lines ----------------------------------------------------------------------------------- */

/* Fed whole and octet by octet. */
static void check_lines(bool always, const char *in, const char *want)
{
    for (size_t step = 1; step <= strlen(in); step += strlen(in) > 1 ? strlen(in) - 1 : 1) {
        struct crlf c = { .always = always }, counter = c;
        uint64_t n = 0;
        struct buf out;
        buf_init(&out, 100);
        for (struct span s = span_str(in); s.n; s = span_skip(s, step)) {
            crlf_add(&c, span_first(s, step), &out);
            n += crlf_count(&counter, span_first(s, step));
        }
        assert_true(is(buf_span(&out), want));
        assert_int_equal(n, strlen(want));
        buf_fini(&out);
    }
}

static void test_lines(void **state)
{
    (void)state;
    check_lines(false, "a\nb\r\n\n\r\nc\rd", "a\r\nb\r\n\r\n\r\nc\rd");
    check_lines(false, "\n", "\r\n");
    check_lines(false, "a\r\r\n", "a\r\r\n");
    check_lines(true, "a\nb\r\nc", "a\r\nb\r\r\nc"); /* as Courier sends it */
}

/* --- folders and files ----------------------------------------------------------------------- */

static char folder[] = "/tmp/test-sources-XXXXXX";

static void write_file(const char *name, const void *p, size_t n)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static bool add_piece(void *arg, struct span piece)
{
    assert_int_equal(buf_add(arg, piece), ERR_OK);
    return true;
}

static struct mail_source *open_source(const char *name, const char *format)
{
    char path[200], why[200] = "";
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd;
    struct mail_source *s = NULL;
    const struct source_options o = { .address = "a@example.org", .format = format };
    enum err e = source_open(path, strlen(path), O_RDONLY, &fd, why, sizeof why);
    if (e == ERR_OK) {
        e = *name ? mbox_open(fd, &o, &s, why, sizeof why)
                  : maildir_open(fd, &o, &s, why, sizeof why);
    }
    if (e != ERR_OK) {
        print_message("# %s\n", why);
    }
    assert_int_equal(e, ERR_OK);
    return s;
}

static void check_message(struct mail_source *s, size_t i, const char *want)
{
    char why[200] = "";
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(s->ops->read(s, i, add_piece, &out, why, sizeof why), ERR_OK);
    assert_true(is(buf_span(&out), want));
    buf_fini(&out);
}

/* What the path leads to, opened with this much of it being the operator's. */
static enum err try_open(const char *path, size_t own)
{
    char full[200], why[200] = "";
    int fd = -1;
    snprintf(full, sizeof full, "%s/%s", folder, path);
    enum err e = source_open(full, strlen(folder) + 1 + own, O_RDONLY, &fd, why, sizeof why);
    assert_int_equal(e != ERR_OK, why[0] != '\0');
    assert_int_equal(e != ERR_OK, fd < 0);
    if (fd >= 0) {
        close(fd);
    }
    return e;
}

/* Links are the operator's or nobody's. */
static void test_links(void **state)
{
    (void)state;
    int at = open(folder, O_RDONLY | O_DIRECTORY);
    assert_true(at >= 0);
    assert_int_equal(mkdirat(at, "users", 0700), 0);
    assert_int_equal(mkdirat(at, "users/real", 0700), 0);
    write_file("users/real/box", "", 0);
    assert_int_equal(symlinkat("users", at, "old"), 0);
    assert_int_equal(symlinkat("real", at, "users/link"), 0);
    assert_int_equal(symlinkat("box", at, "users/real/last"), 0);

    assert_int_equal(try_open("old/real/box", strlen("old/")), ERR_OK);
    assert_int_equal(try_open("old/real///", strlen("old/")), ERR_OK);
    assert_int_equal(try_open("users/link/box", strlen("users/link/box")), ERR_OK);
    assert_int_equal(try_open("users/real/./box", 0), ERR_OK);
    assert_int_equal(try_open("users/none/box", 0), ERR_NOTFOUND);

    assert_int_equal(try_open("users/link/box", strlen("users/")), ERR_DENIED);
    assert_int_equal(try_open("users/link/box", strlen("users/li")), ERR_DENIED);
    assert_int_equal(try_open("old/real/box", 0), ERR_DENIED);
    assert_int_equal(try_open("users/real/last", strlen("users/real/last")), ERR_DENIED);
    assert_int_equal(try_open("users/link/", strlen("users/link/")), ERR_DENIED);
    assert_int_equal(try_open("users/../../etc", strlen("users/")), ERR_DENIED);

    static const char *const made[] = { "users/real/last", "users/real/box", "users/link", "old" };
    for (size_t i = 0; i < ARRAY_LEN(made); i++) {
        assert_int_equal(unlinkat(at, made[i], 0), 0);
    }
    assert_int_equal(unlinkat(at, "users/real", AT_REMOVEDIR), 0);
    assert_int_equal(unlinkat(at, "users", AT_REMOVEDIR), 0);
    close(at);
}

static void test_cyrus_folder(void **state)
{
    (void)state;
    unsigned char octets[CYRUS_START + 3 * CYRUS_RECORD];
    write_file("cyrus.index", octets, make_cyrus(octets));
    write_file("10.", "A: b\r\n\r\n", 8);
    write_file("12.", "C: d\r\n\r\n", 8);
    struct mail_source *s = open_source("", NULL);
    const struct source_message *m;
    size_t n;
    char why[200];
    assert_int_equal(s->ops->list(s, &m, &n, why, sizeof why), ERR_OK);
    assert_int_equal(n, 2);
    assert_string_equal(m[0].uidl, "1234567890.10");
    assert_true(m[1].size == 102 && m[1].time_ms == 1600000002000);
    check_message(s, 1, "C: d\r\n\r\n");
    s->ops->close(s);

    s = open_source("", "%v-%u");
    assert_int_equal(s->ops->list(s, &m, &n, why, sizeof why), ERR_OK);
    assert_string_equal(m[0].uidl, "1234567890-10");
    s->ops->close(s);
}

/* Lines that are longer than what is read at once, at every place in it. */
static void test_mbox_of_long_lines(void **state)
{
    (void)state;
    static const char from[] = "From a Thu Jan  2 03:04:05 2020\n";
    for (size_t before = 65536 - 40; before < 65536 + 40; before += 7) {
        static char text[300000], want[300000];
        size_t n = 0;
        n += (size_t)sprintf(text + n, "%sA: b\n\n", from);
        memset(text + n, 'x', before);
        n += before;
        n += (size_t)sprintf(text + n, "\n>From me\n\n%sB: c\n\nsecond\n\n", from);
        write_file("mbox", text, n);
        struct mail_source *s = open_source("mbox", "mboxrd");
        const struct source_message *m;
        size_t count;
        char why[200];
        assert_int_equal(s->ops->list(s, &m, &count, why, sizeof why), ERR_OK);
        assert_int_equal(count, 2);
        assert_int_equal(m[0].time_ms, 1577934245000);
        memcpy(want, "A: b\r\n\r\n", 8);
        memset(want + 8, 'x', before);
        strcpy(want + 8 + before, "\r\nFrom me\r\n");
        check_message(s, 0, want);
        check_message(s, 1, "B: c\r\n\r\nsecond\r\n");
        s->ops->close(s);
    }
}

static void test_no_mbox(void **state)
{
    (void)state;
    const struct source_message *m;
    size_t n;
    char why[200];
    write_file("mbox", "", 0);
    struct mail_source *s = open_source("mbox", NULL);
    assert_int_equal(s->ops->list(s, &m, &n, why, sizeof why), ERR_OK);
    assert_int_equal(n, 0);
    s->ops->close(s);
    write_file("mbox", "From here on it is no mbox\n", 27);
    s = open_source("mbox", NULL);
    assert_int_equal(s->ops->list(s, &m, &n, why, sizeof why), ERR_INVALID);
    s->ops->close(s);
}

/* A hole is as long as one likes: it is not read to its end. */
static void test_mbox_with_a_hole(void **state)
{
    (void)state;
    static const char from[] = "From a Thu Jan  2 03:04:05 2020\nA: b\n\n";
    const struct source_message *m;
    size_t n;
    char path[200], why[200] = "";
    write_file("mbox", from, strlen(from));
    snprintf(path, sizeof path, "%s/mbox", folder);
    assert_int_equal(truncate(path, INT64_C(1) << 42), 0);
    struct mail_source *s = open_source("mbox", NULL);
    assert_int_equal(s->ops->list(s, &m, &n, why, sizeof why), ERR_INVALID);
    assert_non_null(strstr(why, "larger than 2 GiB"));
    s->ops->close(s);
}

/* A server that writes it anew while it is read: never another message under this UIDL. */
static void test_mbox_that_changes(void **state)
{
    (void)state;
    static const char one[] = "From a Thu Jan  2 03:04:05 2020\nA: b\n\nfirst\n\n";
    static const char two[] = "From a Fri Jan  3 03:04:05 2020\nB: c\n\nsecond one\n\n";
    char both[sizeof one + sizeof two];
    snprintf(both, sizeof both, "%s%s", one, two);
    write_file("mbox", both, strlen(both));
    struct mail_source *s = open_source("mbox", NULL);
    const struct source_message *m;
    size_t n;
    char why[200];
    struct buf out;
    assert_int_equal(s->ops->list(s, &m, &n, why, sizeof why), ERR_OK);
    assert_int_equal(n, 2);
    write_file("mbox", two, strlen(two));
    for (size_t i = 0; i < 2; i++) {
        buf_init(&out, 1000);
        assert_int_equal(s->ops->read(s, i, add_piece, &out, why, sizeof why), ERR_TEMP);
        buf_fini(&out);
    }
    s->ops->close(s);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = { "cyrus.index", "10.", "12.", "mbox" };
    char path[200];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uidlist),
        cmocka_unit_test(test_bad_uidlists),
        cmocka_unit_test(test_sizelist),
        cmocka_unit_test(test_cyrus_index),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_uidls_that_are_none),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_cyrus_folder),
        cmocka_unit_test(test_mbox_of_long_lines),
        cmocka_unit_test(test_no_mbox),
        cmocka_unit_test(test_mbox_that_changes),
        cmocka_unit_test(test_mbox_with_a_hole),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
