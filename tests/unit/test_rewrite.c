/* Tests of rewrite: reading header fields, changing them, a new body, what may not pass, bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/check.h"
#include "rewrite.h"

#define OWN     "Received: by mx\r\n"
#define MESSAGE "From: a\r\nSubject: one\r\n two\r\nX: 1\r\nx : 2\r\n\r\nbody\r\n"

static struct rewrite *with(const char *text)
{
    struct rewrite *r = rewrite_new(1000);
    assert_int_equal(rewrite_append(r, span_str(text)), ERR_OK);
    assert_int_equal(rewrite_parse(r, SPAN(OWN)), ERR_OK);
    rewrite_begin(r);
    return r;
}

/* Commits, compares, and ends. */
static void becomes(struct rewrite *r, const char *head, const char *body)
{
    struct span h, b;
    struct buf all;
    rewrite_commit(r);
    rewrite_message(r, &h, &b);
    buf_init(&all, SIZE_MAX / 2);
    buf_add(&all, h);
    buf_addc(&all, '|');
    buf_add(&all, b);
    buf_addc(&all, '\0');
    char want[2000];
    snprintf(want, sizeof want, "%s|%s", head, body);
    assert_string_equal(buf_span(&all).p, want);
    buf_fini(&all);
    rewrite_free(&r);
}

static void test_unchanged(void **state)
{
    (void)state;
    becomes(with(MESSAGE), OWN "From: a\r\nSubject: one\r\n two\r\nX: 1\r\nx : 2\r\n\r\n",
            "body\r\n");
    becomes(with("\r\nbody\r\n"), OWN "\r\n", "body\r\n");
    becomes(with("A: b\r\n"), OWN "A: b\r\n", "");
    becomes(with(""), OWN, "");
    /* A line that is no field begins the body: what follows is none either. */
    becomes(with("A: b\r\nno field\r\nC: d\r\n"), OWN "A: b\r\n", "no field\r\nC: d\r\n");
    becomes(with(" A: b\r\n"), OWN, " A: b\r\n");
    becomes(with("A B: c\r\n"), OWN, "A B: c\r\n");
    becomes(with(": c\r\n"), OWN, ": c\r\n");
}

static void test_fields_are_read(void **state)
{
    (void)state;
    static const char *const want[][2] = {
        { "From", " a" }, { "Subject", " one\r\n two" }, { "X", " 1" }, { "x", " 2" }
    };
    struct rewrite *r = with(MESSAGE);
    struct span name, value;
    assert_int_equal(rewrite_fields(r), 5);
    assert_false(rewrite_field(r, 0, &name, &value));
    for (size_t i = 0; i < 4; i++) {
        assert_true(rewrite_field(r, i + 1, &name, &value));
        assert_true(span_eq(name, span_str(want[i][0])));
        assert_true(span_eq(value, span_str(want[i][1])));
    }
    rewrite_free(&r);
}

static void test_fields_are_changed(void **state)
{
    (void)state;
    struct rewrite *r = with(MESSAGE);
    assert_int_equal(rewrite_add(r, SPAN("New"), SPAN(" last")), ERR_OK);
    assert_int_equal(rewrite_insert(r, 0, SPAN("Top"), SPAN(" first")), ERR_OK);
    assert_int_equal(rewrite_insert(r, 2, SPAN("Second"), SPAN(" 2")), ERR_OK);
    assert_int_equal(rewrite_change(r, SPAN("X"), 2, SPAN("")), ERR_OK);
    assert_int_equal(rewrite_change(r, SPAN("subject"), 1, SPAN("three")), ERR_OK);
    assert_int_equal(rewrite_change(r, SPAN("X"), 7, SPAN(" 7")), ERR_OK);
    assert_int_equal(rewrite_change(r, SPAN("Absent"), 1, SPAN("")), ERR_OK);
    /* Our own is out of reach. */
    assert_int_equal(rewrite_change(r, SPAN("Received"), 1, SPAN("")), ERR_OK);
    becomes(r,
            "Top: first\r\n" OWN
            "Second: 2\r\nFrom: a\r\nsubject:three\r\nX: 1\r\nNew: last\r\nX: 7\r\n\r\n",
            "body\r\n");
}

/* Whatever a filter gives as a value stays inside of its field. */
static void test_no_field_hides_in_a_value(void **state)
{
    (void)state;
    static const char *const values[][2] = {
        { " a\r\nBcc: b", " a\r\n Bcc: b" },
        { " a\nBcc: b", " a\r\n Bcc: b" },
        { " a\rBcc: b", " a\r\n Bcc: b" },
        { " a\n\tb", " a\r\n\tb" },
        { " a\r\n   b", " a\r\n   b" },
        { " a\r\n\r\nbody", " a\r\n body" },
        { " a\n \n \t\n\tb", " a\r\n\tb" },
        { " a\r\n", " a" },
        { " a\r\n \r\n", " a" },
        { "\n\nb", "\r\n b" },
        { "\n", "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        char head[100];
        struct rewrite *r = with("\r\n");
        assert_int_equal(rewrite_add(r, SPAN("A"), span_str(values[i][0])), ERR_OK);
        snprintf(head, sizeof head, OWN "A:%s\r\n\r\n", values[i][1]);
        becomes(r, head, "");
    }
}

static void test_malformed_fields(void **state)
{
    (void)state;
    struct rewrite *r = with(MESSAGE);
    assert_int_equal(rewrite_add(r, SPAN(""), SPAN("x")), ERR_INVALID);
    assert_int_equal(rewrite_add(r, SPAN("A:B"), SPAN("x")), ERR_INVALID);
    assert_int_equal(rewrite_add(r, SPAN("A B"), SPAN("x")), ERR_INVALID);
    assert_int_equal(rewrite_add(r, SPAN("A\r\nB"), SPAN("x")), ERR_INVALID);
    assert_int_equal(rewrite_add(r, SPAN("A\xc3\xa4"), SPAN("x")), ERR_INVALID);
    assert_int_equal(rewrite_add(r, SPAN("A"), SPAN("x\0y")), ERR_INVALID);
    rewrite_free(&r);
}

static void test_body_is_replaced(void **state)
{
    (void)state;
    struct rewrite *r = with("A: b\r\n\r\nold\r\n");
    rewrite_replace(r, SPAN("one\ntwo\r"));
    rewrite_replace(r, SPAN("\nthree\r\r\n"));
    rewrite_replace(r, SPAN("four\r"));
    rewrite_replace(r, SPAN("five"));
    becomes(r, OWN "A: b\r\n\r\n", "one\r\ntwo\r\nthree\r\n\r\nfour\r\nfive\r\n");
    r = with("A: b\r\n\r\nold\r\n");
    rewrite_replace(r, SPAN(""));
    becomes(r, OWN "A: b\r\n\r\n", "");
    r = with("A: b\r\n"); /* there was no line that ends the header */
    rewrite_replace(r, SPAN("new\r"));
    becomes(r, OWN "A: b\r\n\r\n", "new\r\n");
}

static void test_abort(void **state)
{
    (void)state;
    struct rewrite *r = with("A: b\r\n\r\nold\r\n");
    rewrite_add(r, SPAN("C"), SPAN("d"));
    rewrite_replace(r, SPAN("new"));
    rewrite_abort(r);
    rewrite_begin(r);
    becomes(r, OWN "A: b\r\n\r\n", "old\r\n");
}

static void test_bounds(void **state)
{
    (void)state;
    static char big[2000];
    memset(big, 'x', sizeof big);
    struct rewrite *r = with(MESSAGE);
    assert_int_equal(rewrite_append(r, span_of(big, sizeof big)), ERR_LIMIT);
    assert_int_equal(rewrite_replace(r, span_of(big, 900)), ERR_OK);
    assert_int_equal(rewrite_replace(r, span_of(big, 100)), ERR_OK);
    assert_int_equal(rewrite_replace(r, span_of(big, 1)), ERR_LIMIT);
    enum err e = ERR_OK;
    size_t n = 0;
    for (; n < 1000 && e == ERR_OK; n++) {
        e = rewrite_add(r, SPAN("A"), span_of(big, sizeof big));
    }
    assert_int_equal(e, ERR_LIMIT);
    assert_in_range(n, REWRITE_ADDED / sizeof big - 10, REWRITE_ADDED / sizeof big + 10);
    rewrite_free(&r);
    r = with(MESSAGE);
    for (size_t i = 0; i < REWRITE_CHANGES; i++) {
        assert_int_equal(rewrite_change(r, SPAN("X"), 1, SPAN("")), ERR_OK);
    }
    assert_int_equal(rewrite_change(r, SPAN("X"), 1, SPAN("")), ERR_LIMIT);
    assert_int_equal(rewrite_change(r, SPAN("X"), 1, SPAN("a")), ERR_LIMIT);
    rewrite_free(&r);
}

static void test_large_header(void **state)
{
    (void)state;
    struct rewrite *r = rewrite_new(REWRITE_HEADER * 4);
    for (size_t i = 0; i < REWRITE_FIELDS; i++) {
        rewrite_append(r, SPAN("a:\r\n"));
    }
    assert_int_equal(rewrite_parse(r, SPAN("")), ERR_OK);
    rewrite_reset(r);
    for (size_t i = 0; i <= REWRITE_FIELDS; i++) {
        rewrite_append(r, SPAN("a:\r\n"));
    }
    assert_int_equal(rewrite_parse(r, SPAN("")), ERR_LIMIT);
    rewrite_reset(r);
    rewrite_append(r, SPAN("a:\r\n"));
    for (size_t i = 0; i < REWRITE_HEADER; i += 8) {
        rewrite_append(r, SPAN(" fold!\r\n"));
    }
    assert_int_equal(rewrite_parse(r, SPAN("")), ERR_LIMIT);
    rewrite_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unchanged),
        cmocka_unit_test(test_fields_are_read),
        cmocka_unit_test(test_fields_are_changed),
        cmocka_unit_test(test_no_field_hides_in_a_value),
        cmocka_unit_test(test_malformed_fields),
        cmocka_unit_test(test_body_is_replaced),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_large_header),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
