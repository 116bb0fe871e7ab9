/*
 * test_address: a table of paths and what they are, the bounds at their very octet, and characters
 * one by one against a plain statement of what is allowed where.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "address.h"
#include "base/check.h"

enum side { MAIL, RCPT, BOTH };

struct row {
    const char *path; /* with brackets; behind them whatever is not the path's */
    enum side side;   /* that the row is about */
    enum err err;
    const char *text;  /* for ERR_OK */
    const char *canon; /* NULL: as text */
};

/* clang-format off */
static const struct row rows[] = {
    { "<a@b>",                          BOTH, ERR_OK, "a@b", NULL },
    { "<John.Doe@Example.COM>",         BOTH, ERR_OK, "John.Doe@Example.COM", "john.doe@example.com" },
    { "<a+tag@example.com>",            BOTH, ERR_OK, "a+tag@example.com", NULL },
    { "<!#$%&'*+-/=?^_`{|}~@example.com>", BOTH, ERR_OK, "!#$%&'*+-/=?^_`{|}~@example.com", NULL },
    { "<1@1.example>",                  BOTH, ERR_OK, "1@1.example", NULL },
    { "<a@b> SIZE=1",                   BOTH, ERR_OK, "a@b", NULL },
    { "<a@b>>",                         BOTH, ERR_OK, "a@b", NULL },

    /* the empty path and the bare postmaster */
    { "<>",                             MAIL, ERR_OK, "", NULL },
    { "<> SIZE=1",                      MAIL, ERR_OK, "", NULL },
    { "<>",                             RCPT, ERR_INVALID, NULL, NULL },
    { "< >",                            BOTH, ERR_INVALID, NULL, NULL },
    { "<postmaster>",                   RCPT, ERR_OK, "postmaster", NULL },
    { "<PostMaster>",                   RCPT, ERR_OK, "PostMaster", "postmaster" },
    { "<postmaster>",                   MAIL, ERR_INVALID, NULL, NULL },
    { "<postmaster@example.com>",       BOTH, ERR_OK, "postmaster@example.com", NULL },
    { "<postmasters>",                  BOTH, ERR_INVALID, NULL, NULL },
    { "<postmaste>",                    BOTH, ERR_INVALID, NULL, NULL },
    { "<postmaster@>",                  BOTH, ERR_INVALID, NULL, NULL },
    { "<\"postmaster\">",               BOTH, ERR_INVALID, NULL, NULL },
    { "<root>",                         BOTH, ERR_INVALID, NULL, NULL },

    /* brackets */
    { "",                               BOTH, ERR_INVALID, NULL, NULL },
    { "<",                              BOTH, ERR_INVALID, NULL, NULL },
    { "a@b",                            BOTH, ERR_INVALID, NULL, NULL },
    { "a@b>",                           BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b",                           BOTH, ERR_INVALID, NULL, NULL },
    { "<<a@b>>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "< a@b>",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b >",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b,c@d>",                      BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b@c>",                        BOTH, ERR_INVALID, NULL, NULL },

    /* dots of the local part */
    { "<.a@b>",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a.@b>",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a..b@c>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<.@b>",                          BOTH, ERR_INVALID, NULL, NULL },
    { "<@b>",                           BOTH, ERR_INVALID, NULL, NULL },
    { "<a b@c>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<a\\@b@c>",                      BOTH, ERR_INVALID, NULL, NULL },
    { "<a(x)@c>",                       BOTH, ERR_INVALID, NULL, NULL },

    /* quoted local parts: as plain as they can be */
    { "<\"john.doe\"@example.com>",     BOTH, ERR_OK, "john.doe@example.com", NULL },
    { "<\"J\\o\\h\\n\"@example.com>",   BOTH, ERR_OK, "John@example.com", "john@example.com" },
    { "<\"\"@b>",                       BOTH, ERR_OK, "\"\"@b", NULL },
    { "<\" \"@b>",                      BOTH, ERR_OK, "\" \"@b", NULL },
    { "<\"A B\"@b>",                    BOTH, ERR_OK, "\"A B\"@b", "\"a b\"@b" },
    { "<\"a..b\"@c>",                   BOTH, ERR_OK, "\"a..b\"@c", NULL },
    { "<\".a\"@c>",                     BOTH, ERR_OK, "\".a\"@c", NULL },
    { "<\"a@b\"@c>",                    BOTH, ERR_OK, "\"a@b\"@c", NULL },
    { "<\"<a>\"@c>",                    BOTH, ERR_OK, "\"<a>\"@c", NULL },
    { "<\"a\\\"b\"@c>",                 BOTH, ERR_OK, "\"a\\\"b\"@c", NULL },
    { "<\"a\\\\b\"@c>",                 BOTH, ERR_OK, "\"a\\\\b\"@c", NULL },
    { "<\"a\\ b\"@c>",                  BOTH, ERR_OK, "\"a b\"@c", NULL },
    { "<\"a@c>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\\\"@c>",                    BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\"b@c>",                     BOTH, ERR_INVALID, NULL, NULL },
    { "<a\"b\"@c>",                     BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\".b@c>",                    BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\tb\"@c>",                   BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\\\tb\"@c>",                 BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\rb\"@c>",                   BOTH, ERR_INVALID, NULL, NULL },
    { "<\"a\nb\"@c>",                   BOTH, ERR_INVALID, NULL, NULL },

    /* domains */
    { "<a@b.>",                         BOTH, ERR_OK, "a@b", NULL },
    { "<a@Example.com.>",               BOTH, ERR_OK, "a@Example.com", "a@example.com" },
    { "<a@b..>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b..c>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<a@.b>",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a@.>",                          BOTH, ERR_INVALID, NULL, NULL },
    { "<a@>",                           BOTH, ERR_INVALID, NULL, NULL },
    { "<a@-b>",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b->",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b-.c>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b.-c>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b-c.d--e>",                   BOTH, ERR_OK, "a@b-c.d--e", NULL },
    { "<a@my_host.example>",            BOTH, ERR_OK, "a@my_host.example", NULL },
    { "<a@b c>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b/c>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<a@\"b\">",                      BOTH, ERR_INVALID, NULL, NULL },

    /* domain literals */
    { "<a@[192.0.2.1]>",                BOTH, ERR_OK, "a@[192.0.2.1]", NULL },
    { "<a@[IPv6:2001:DB8::1]>",         BOTH, ERR_OK, "a@[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8::1]" },
    { "<a@[tag:anything!]>",            BOTH, ERR_OK, "a@[tag:anything!]", NULL },
    { "<a@[]>",                         BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[192.0.2.1>",                 BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[192.0.2.1].b>",              BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[192.0.2.1].>",               BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[a b]>",                      BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[192.0.2]>",                  BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[192.0.2.256]>",              BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[192.0.2.1.2]>",              BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[host]>",                     BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[2001:db8::1]>",              BOTH, ERR_OK, "a@[2001:db8::1]", NULL }, /* tag 2001 */
    { "<a@[IPv6:192.0.2.1]>",           BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[IPv6:::ffff:192.0.2.1]>",    BOTH, ERR_OK, "a@[IPv6:::ffff:192.0.2.1]", "a@[ipv6:::ffff:192.0.2.1]" },
    { "<a@[IPv6:]>",                    BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[tag:]>",                     BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[tag-:x]>",                   BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[:x]>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[a\\]]>",                     BOTH, ERR_INVALID, NULL, NULL },
    { "<a@[\xc3\xbc]>",                 BOTH, ERR_INVALID, NULL, NULL },
    { "<a@192.0.2.1>",                  BOTH, ERR_OK, "a@192.0.2.1", NULL },
    { "<a@192.0.2.1]>",                 BOTH, ERR_INVALID, NULL, NULL },

    /* source routes */
    { "<@x:a@b>",                       BOTH, ERR_OK, "a@b", NULL },
    { "<@x,@y.example.:a@b>",           BOTH, ERR_OK, "a@b", NULL },
    { "<@[192.0.2.1]:a@b>",             BOTH, ERR_OK, "a@b", NULL },
    { "<@\xc3\xbc.example:a@b>",        BOTH, ERR_OK, "a@b", NULL },
    { "<@x,a@b>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<@x,:a@b>",                      BOTH, ERR_INVALID, NULL, NULL },
    { "<@x a@b>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<@x:>",                          BOTH, ERR_INVALID, NULL, NULL },
    { "<@:a@b>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<x:a@b>",                        BOTH, ERR_INVALID, NULL, NULL },
    { "<@x:postmaster>",                BOTH, ERR_INVALID, NULL, NULL },

    /* UTF-8: well formed, no controls; case is ASCII's */
    { "<\xc3\x9c@b\xc3\xbc" "cher.example>", BOTH, ERR_OK, "\xc3\x9c@b\xc3\xbc" "cher.example", "\xc3\x9c@xn--bcher-kva.example" },
    { "<\"\xc3\xbc x\"@b>",             BOTH, ERR_OK, "\"\xc3\xbc x\"@b", NULL },
    { "<\"\xc3\xbc\"@b>",               BOTH, ERR_OK, "\xc3\xbc@b", NULL },
    { "<\xf0\x9f\x90\x98@b>",           BOTH, ERR_OK, "\xf0\x9f\x90\x98@b", NULL },
    { "<\xf4\x8f\xbf\xbf@b>",           BOTH, ERR_OK, "\xf4\x8f\xbf\xbf@b", NULL },
    { "<\xf4\x90\x80\x80@b>",           BOTH, ERR_INVALID, NULL, NULL }, /* past U+10FFFF */
    { "<\xc2\xa0@b>",                   BOTH, ERR_OK, "\xc2\xa0@b", NULL },
    { "<\xc2\x9b@b>",                   BOTH, ERR_INVALID, NULL, NULL }, /* a control */
    { "<\"\xc2\x85\"@b>",               BOTH, ERR_INVALID, NULL, NULL },
    { "<\xfc@b>",                       BOTH, ERR_INVALID, NULL, NULL }, /* ISO 8859-1 */
    { "<\xbc@b>",                       BOTH, ERR_INVALID, NULL, NULL }, /* no lead */
    { "<\xc3@b>",                       BOTH, ERR_INVALID, NULL, NULL }, /* cut off */
    { "<\xe2\x82@b>",                   BOTH, ERR_INVALID, NULL, NULL },
    { "<\xc0\xaf@b>",                   BOTH, ERR_INVALID, NULL, NULL }, /* longer than needed */
    { "<\xe0\x9f\xbf@b>",               BOTH, ERR_INVALID, NULL, NULL },
    { "<\xf0\x8f\xbf\xbf@b>",           BOTH, ERR_INVALID, NULL, NULL },
    { "<\xed\xa0\x80@b>",               BOTH, ERR_INVALID, NULL, NULL }, /* a surrogate */
    /* internationalized domains: all ways to write one have one canonical form */
    { "<a@B\xc3\x9c" "CHER.Example>",   BOTH, ERR_OK, "a@B\xc3\x9c" "CHER.Example", "a@xn--bcher-kva.example" },
    { "<a@bu\xcc\x88" "cher.example>",  BOTH, ERR_OK, "a@bu\xcc\x88" "cher.example", "a@xn--bcher-kva.example" },
    { "<a@XN--Bcher-KVA.example>",      BOTH, ERR_OK, "a@XN--Bcher-KVA.example", "a@xn--bcher-kva.example" },
    { "<a@b\xc3\xbc" "cher\xe3\x80\x82" "example>", BOTH, ERR_OK, "a@b\xc3\xbc" "cher\xe3\x80\x82" "example", "a@xn--bcher-kva.example" },
    { "<a@b\xc3\xbc" "cher.my_host.example.>", BOTH, ERR_OK, "a@b\xc3\xbc" "cher.my_host.example", "a@xn--bcher-kva.my_host.example" },
    { "<a@fa\xc3\x9f.example>",         BOTH, ERR_OK, "a@fa\xc3\x9f.example", "a@xn--fa-hia.example" },
    { "<a@\xe4\xbe\x8b.\xe6\xb5\x8b\xe8\xaf\x95>", BOTH, ERR_OK, "a@\xe4\xbe\x8b.\xe6\xb5\x8b\xe8\xaf\x95", "a@xn--fsq.xn--0zwm56d" },
    { "<a@x\xef\xbc\xa0y.\xc3\xbc>",     BOTH, ERR_INVALID, NULL, NULL }, /* a wide @ */
    { "<a@x\xef\xbc\x8fy.\xc3\xbc>",     BOTH, ERR_INVALID, NULL, NULL }, /* a wide slash */
    { "<a@\xef\xbc\xbb" "1.2.3.4\xef\xbc\xbd>", BOTH, ERR_INVALID, NULL, NULL }, /* wide brackets */
    { "<a@\xe2\x84\x80.example>",      BOTH, ERR_INVALID, NULL, NULL }, /* a/c in one character */
    { "<a@\xc2\xad.example>",           BOTH, ERR_INVALID, NULL, NULL }, /* maps to nothing */
    { "<a@\xd7\x90" "a.example>",       BOTH, ERR_INVALID, NULL, NULL }, /* right to left and left to right */
    { "<a@\xf0\x9f\x90\x98.example>",   BOTH, ERR_INVALID, NULL, NULL }, /* no letter */
    { "<a@-\xc3\xbc.example>",          BOTH, ERR_INVALID, NULL, NULL },

    /* local parts in normal form C, and ASCII in lower case before and after it */
    { "<Ju\xcc\x88rgen@b>",             BOTH, ERR_OK, "Ju\xcc\x88rgen@b", "j\xc3\xbcrgen@b" },
    { "<\xe2\x84\xaa@b>",              BOTH, ERR_OK, "\xe2\x84\xaa@b", "k@b" }, /* the Kelvin sign */
    { "<H\xcc\xb1@b>",                  BOTH, ERR_OK, "H\xcc\xb1@b", "\xe1\xba\x96@b" },
    { "<a\xcd\xbe@b>",                  BOTH, ERR_OK, "a\xcd\xbe@b", "\"a;\"@b" }, /* becomes a semicolon */
    { "<a@\xff>",                       BOTH, ERR_INVALID, NULL, NULL },
    { "<a@b\xc3",                       BOTH, ERR_INVALID, NULL, NULL },
};
/* clang-format on */

static bool any_high(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s > 127) {
            return true;
        }
    }
    return false;
}

static void check_address(const struct address *a, const char *text, const char *canon)
{
    const char *at = strrchr(text, '@');
    assert_string_equal(a->text, text);
    assert_string_equal(a->canon, canon ? canon : text);
    assert_int_equal(a->len, strlen(text));
    assert_int_equal(a->canon_len, strlen(a->canon));
    assert_int_equal(a->canon[a->canon_local], strchr(text, '@') ? '@' : '\0');
    assert_int_equal(a->local, at ? (size_t)(at - text) : strlen(text));
    assert_int_equal(a->utf8, any_high(text));
}

/* In memory of its own size, so that the sanitizer sees a read behind it. */
static enum err parse_path(const char *path, size_t n, bool null_ok, struct address *a,
                           size_t *eaten)
{
    char *copy = mem_new(n ? n : 1, 1);
    memcpy(copy, path, n);
    struct span in = span_of(copy, n);
    enum err e = address_parse_path(&in, null_ok, a);
    *eaten = (size_t)(in.p - copy);
    free(copy);
    return e;
}

static void check_row(const struct row *r, bool null_ok)
{
    struct address a, untouched;
    size_t eaten;
    memset(&a, 0x55, sizeof a);
    untouched = a;
    enum err e = parse_path(r->path, strlen(r->path), null_ok, &a, &eaten);
    if (e != r->err) {
        fail_msg("%s gives %s", r->path, err_text(e));
    }
    if (e) {
        assert_int_equal(eaten, 0);
        assert_memory_equal(&a, &untouched, sizeof a);
    } else {
        check_address(&a, r->text, r->canon);
        assert_int_equal(r->path[eaten - 1], '>');
    }
}

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].side != RCPT) {
            check_row(&rows[i], true);
        }
        if (rows[i].side != MAIL) {
            check_row(&rows[i], false);
        }
    }
}

/* What is eaten ends with the bracket that closes the path. */
static void test_rest(void **state)
{
    (void)state;
    struct address a;
    size_t eaten;
    assert_int_equal(parse_path("<\"a>b\"@c> SIZE=1", 16, true, &a, &eaten), ERR_OK);
    assert_int_equal(eaten, 9);
    assert_int_equal(parse_path("<>>", 3, true, &a, &eaten), ERR_OK);
    assert_int_equal(eaten, 2);
}

/* A path cut off anywhere is no path. */
static void test_cut(void **state)
{
    (void)state;
    const char *path = "<@x,@[1.2.3.4]:\"a \\\"\xc3\xbc\"@example.com.>";
    struct address a;
    size_t eaten, n = strlen(path);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(parse_path(path, i, true, &a, &eaten), ERR_INVALID);
    }
    assert_int_equal(parse_path(path, n, true, &a, &eaten), ERR_OK);
}

static bool one_of(char c, const char *set)
{
    return c && strchr(set, c);
}

/* Puts each octet between two parts of a path; the expectation is said as a set. */
static void check_octets(const char *before, const char *after, const char *allowed)
{
    for (int c = 0; c < 256; c++) {
        char path[64];
        struct address a;
        size_t eaten;
        int n = snprintf(path, sizeof path, "%s%c%s", before, c, after);
        enum err e = parse_path(path, (size_t)n, true, &a, &eaten);
        enum err expected = c < 128 && one_of((char)c, allowed) ? ERR_OK : ERR_INVALID;
        if (e != expected) {
            fail_msg("octet %d behind %s gives %s", c, before, err_text(e));
        }
    }
}

#define ALNUM    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define SPECIALS "!#$%&'*+-/=?^_`{|}~"

static void test_octets(void **state)
{
    (void)state;
    check_octets("<a", "b@c>", ALNUM SPECIALS ".");
    check_octets("<\"a", "b\"@c>", ALNUM SPECIALS " .@()<>[],:;\\");
    check_octets("<\"a\\", "b\"@c>", ALNUM SPECIALS " .@()<>[],:;\\\"");
    check_octets("<a@b", "c>", ALNUM ".-_>"); /* with > the path is <a@b> */
    check_octets("<a@[b:b", "c]>", ALNUM SPECIALS ".@()<>,:;\"");
    check_octets("<a@[b", "c:c]>", ALNUM "-:");
}

/* `<xx@dd.dd>` with parts and labels of given lengths. */
static enum err parse_sized(size_t local, size_t domain, size_t label, struct address *a)
{
    char path[4096];
    size_t n = 0, eaten;
    path[n++] = '<';
    while (n <= local) {
        path[n++] = 'x';
    }
    path[n++] = '@';
    for (size_t i = 0; i < domain; i++) {
        path[n++] = i % (label + 1) == label ? '.' : 'd';
    }
    path[n++] = '>';
    return parse_path(path, n, true, a, &eaten);
}

static void test_bounds(void **state)
{
    (void)state;
    struct address a;
    assert_int_equal(parse_sized(64, 10, 63, &a), ERR_OK);
    assert_int_equal(a.local, LOCAL_MAX);
    assert_int_equal(parse_sized(65, 10, 63, &a), ERR_LIMIT);
    assert_int_equal(parse_sized(1000, 10, 63, &a), ERR_LIMIT);
    assert_int_equal(parse_sized(1, 63, 63, &a), ERR_OK);
    assert_int_equal(parse_sized(1, 64, 64, &a), ERR_LIMIT);
    assert_int_equal(parse_sized(64, 189, 63, &a), ERR_OK);
    assert_int_equal(a.len, ADDRESS_MAX);
    assert_int_equal(parse_sized(64, 190, 63, &a), ERR_LIMIT);
    assert_int_equal(parse_sized(2, 251, 61, &a), ERR_OK);
    assert_int_equal(parse_sized(2, 252, 61, &a), ERR_LIMIT);
    assert_int_equal(parse_sized(2, 3000, 61, &a), ERR_LIMIT);
}

/* The bound of a label is on its ASCII form: 57 of these letters make 63 octets. */
static void test_bounds_utf8(void **state)
{
    (void)state;
    char path[256] = "<a@";
    struct address a;
    size_t n = 3, eaten;
    for (size_t i = 0; i < 57; i++) {
        memcpy(path + n, "\xc3\xbc", 2);
        n += 2;
    }
    path[n] = '>';
    assert_int_equal(parse_path(path, n + 1, true, &a, &eaten), ERR_OK);
    assert_int_equal(a.len, 2 + 114);
    assert_int_equal(a.canon_len, 2 + 63);
    memcpy(path + n, "\xc3\xbc>", 3);
    assert_int_equal(parse_path(path, n + 3, true, &a, &eaten), ERR_LIMIT);
}

/* The canonical form has the same bounds as the text, though it may be longer. */
static void test_bounds_canon(void **state)
{
    (void)state;
    char path[512] = "<";
    struct address a;
    size_t eaten;
    for (size_t i = 0; i < 21; i++) {
        strcat(path, "\xef\xac\xac"); /* three octets, six in normal form C */
    }
    strcat(path, "@b>");
    assert_int_equal(parse_path(path, strlen(path), true, &a, &eaten), ERR_LIMIT);
    strcpy(path, "<a@");
    for (size_t i = 0; i < 35; i++) {
        strcat(path, "\xc3\xbc.x."); /* five octets, ten in ASCII */
    }
    strcat(path, "b>");
    assert_int_equal(parse_path(path, strlen(path), true, &a, &eaten), ERR_LIMIT);
}

static void check_why(const char *path, const char *why)
{
    assert_string_equal(address_explain_path(span_str(path), true), why);
}

/* Each kind of mistake has words of its own. */
static void test_explain(void **state)
{
    (void)state;
    char path[600];
    check_why("<a@b", "not the syntax of an address");
    check_why("<a b@c>", "not the syntax of an address");
    check_why("<a@b\xff>", "not valid UTF-8, or a control character");
    check_why("<a\x01@b>", "not valid UTF-8, or a control character");
    check_why("<a@[1.2.3]>", "not a valid address literal");
    check_why("<a@\xf0\x9f\x90\x98.example>", "not a valid internationalized domain name");
    snprintf(path, sizeof path, "<%065d@b>", 1);
    check_why(path, "the local part is longer than 64 octets");
    snprintf(path, sizeof path, "<%0500d@b>", 1);
    check_why(path, "the local part is longer than 64 octets");
    snprintf(path, sizeof path, "<a@%064d>", 1);
    check_why(path, "a label of the domain is longer than 63 octets");
    snprintf(path, sizeof path, "<a@%063d.%063d.%063d.%063d>", 1, 1, 1, 1);
    check_why(path, "the address is longer than 254 octets");
    assert_string_equal(address_explain(SPAN("a@b>")), "not the syntax of an address");
}

/* What counts is the address that remains, not how it was written. */
static void test_bounds_quoted(void **state)
{
    (void)state;
    char path[1024];
    struct address a;
    size_t n = 0, eaten;
    path[n++] = '<';
    path[n++] = '"';
    for (size_t i = 0; i < 64; i++) {
        path[n++] = '\\';
        path[n++] = 'x';
    }
    memcpy(path + n, "\"@b>", 4);
    assert_int_equal(parse_path(path, n + 4, true, &a, &eaten), ERR_OK);
    assert_int_equal(a.local, 64);
    path[3] = ' '; /* needs its quotes now */
    assert_int_equal(parse_path(path, n + 4, true, &a, &eaten), ERR_LIMIT);
}

/* Not even a literal of any length, nor a hop of a route, goes past the bound. */
static void test_bounds_elsewhere(void **state)
{
    (void)state;
    char path[2048];
    struct address a;
    size_t eaten;
    memset(path, 'x', sizeof path);
    memcpy(path, "<a@[", 4);
    assert_int_equal(parse_path(path, sizeof path, true, &a, &eaten), ERR_LIMIT);
    memcpy(path, "<@[x", 4);
    assert_int_equal(parse_path(path, sizeof path, true, &a, &eaten), ERR_LIMIT);
    memcpy(path, "<\"xx", 4);
    assert_int_equal(parse_path(path, sizeof path, true, &a, &eaten), ERR_LIMIT);
}

static void check_operator(const char *s, enum err err, const char *text, const char *canon)
{
    struct address a;
    assert_int_equal(address_parse(span_str(s), &a), err);
    if (!err) {
        check_address(&a, text, canon);
    }
}

static void test_operator(void **state)
{
    (void)state;
    check_operator("A.B@Example.COM", ERR_OK, "A.B@Example.COM", "a.b@example.com");
    check_operator("\"a\"@b.", ERR_OK, "a@b", NULL);
    check_operator("", ERR_INVALID, NULL, NULL);
    check_operator("a", ERR_INVALID, NULL, NULL);
    check_operator("postmaster", ERR_INVALID, NULL, NULL);
    check_operator("@b", ERR_INVALID, NULL, NULL);
    check_operator("<a@b>", ERR_INVALID, NULL, NULL);
    check_operator("a@b>", ERR_INVALID, NULL, NULL);
    check_operator("a@b ", ERR_INVALID, NULL, NULL);
    check_operator(" a@b", ERR_INVALID, NULL, NULL);
    check_operator("@x:a@b", ERR_INVALID, NULL, NULL);
    check_operator("a@b\n", ERR_INVALID, NULL, NULL);
    assert_int_equal(address_parse(span_of("a@b\0", 4), &(struct address){ 0 }), ERR_INVALID);
    assert_int_equal(address_parse(span_of(NULL, 0), &(struct address){ 0 }), ERR_INVALID);
}

/* Parsing what a parse gave changes nothing: text and canon are addresses of the same mailbox. */
static void test_stable(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        if (r->err || !strchr(r->text, '@')) {
            continue;
        }
        const char *canon = r->canon ? r->canon : r->text;
        check_operator(r->text, ERR_OK, r->text, canon);
        check_operator(canon, ERR_OK, canon, canon);
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),         cmocka_unit_test(test_rest),
        cmocka_unit_test(test_cut),           cmocka_unit_test(test_octets),
        cmocka_unit_test(test_bounds),        cmocka_unit_test(test_bounds_utf8),
        cmocka_unit_test(test_bounds_canon),  cmocka_unit_test(test_explain),
        cmocka_unit_test(test_bounds_quoted), cmocka_unit_test(test_bounds_elsewhere),
        cmocka_unit_test(test_operator),      cmocka_unit_test(test_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
