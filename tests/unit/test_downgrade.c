/*
 * test_downgrade: headers and what becomes of them, field by field; where a header ends; which
 * messages are concerned. What a client sees is in tests/script/pop3/utf8*.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "downgrade.h"
#include "proto/base64.h"

#define INVALID "<invalid@internationalized-address.invalid>"

static void check(struct span header, struct span want)
{
    struct buf out;
    buf_init(&out, 100000);
    assert_int_equal(downgrade_header(header, &out), ERR_OK);
    struct span got = buf_span(&out);
    if (!span_eq(got, want)) {
        print_message("want: %.*s\ngot:  %.*s\n", SPAN_ARG(want), SPAN_ARG(got));
    }
    assert_true(span_eq(got, want));
    buf_fini(&out);
}

#define CHECK_HEADER(in, out) check(SPAN(in "\r\n"), SPAN(out "\r\n"))

static void leaves_ascii_alone(void **state)
{
    (void)state;
    CHECK_HEADER(
        "Subject:  two  blanks \r\n\tand a fold\r\nX: \1\r\n \r\nFrom a b\r\nno colon\r\n",
        "Subject:  two  blanks \r\n\tand a fold\r\nX: \1\r\n \r\nFrom a b\r\nno colon\r\n");
    CHECK_HEADER("A: bare\nB: lf\n", "A: bare\nB: lf\n");
    CHECK_HEADER("", "");
}

static void encodes_subjects(void **state)
{
    (void)state;
    CHECK_HEADER("Subject: \xc3\xa4\r\n", "Subject: =?utf-8?B?w6Q=?=\r\n");
    CHECK_HEADER("subject :\r\n \xc3\xa4\r\n", "subject: =?utf-8?B?w6Q=?=\r\n");
    CHECK_HEADER("Subject: Re: a\xc3\xa4 b \xc3\xa4z, c d\r\n",
                 "Subject: Re: =?utf-8?B?YcOkIGIgw6R6LA==?= c d\r\n");
    /* A fold within is the blank behind it; control characters are one; broken UTF-8 shows. */
    CHECK_HEADER("Subject: \xc3\xa4\r\n b\xc3\xa4\r\n", "Subject: =?utf-8?B?w6QgYsOk?=\r\n");
    CHECK_HEADER("Subject: \xc3\xa4\0\r\xc3\xa4\r\n", "Subject: =?utf-8?B?w6Qgw6Q=?=\r\n");
    CHECK_HEADER("Subject: \xe4\r\n", "Subject: =?utf-8?B?77+9?=\r\n");
    check(SPAN("Subject: \xc3\xa4"), SPAN("Subject: =?utf-8?B?w6Q=?=\r\n"));
}

/* Every line within 76, every encoded-word of whole characters, and all of the text. */
static void check_folds(size_t chars)
{
    struct buf header, out, text;
    char octets[128];
    buf_init(&header, 100000);
    buf_init(&out, 100000);
    buf_init(&text, 100000);
    buf_add(&header, SPAN("Subject: "));
    for (size_t i = 0; i < chars; i++) {
        buf_add(&header, i % 3 ? SPAN("\xe2\x82\xac") : SPAN("\xf0\x9f\x94\x91"));
    }
    struct span want = span_skip(buf_span(&header), 9);
    assert_int_equal(downgrade_header(buf_span(&header), &out), ERR_OK);
    struct span rest = span_skip(buf_span(&out), 8);
    assert_true(span_find(buf_span(&out), '\n') < 78);
    while (rest.n > 2) {
        size_t n, line = span_find(rest, '\r');
        assert_true(span_starts(rest, SPAN(" =?utf-8?B?")) && line <= 76);
        struct span word = span_skip(span_first(rest, line - 2), 11);
        assert_int_equal(base64_decode(word, octets, &n), ERR_OK);
        assert_true(span_utf8(span_of(octets, n)));
        buf_add(&text, span_of(octets, n));
        rest = span_skip(rest, line + 2);
    }
    assert_true(span_eq(buf_span(&text), want));
    buf_fini(&header);
    buf_fini(&out);
    buf_fini(&text);
}

static void folds_encoded_words(void **state)
{
    (void)state;
    for (size_t chars = 1; chars < 200; chars++) {
        check_folds(chars);
    }
}

static void converts_addresses(void **state)
{
    (void)state;
    /* The name alone is not ASCII: the address stays. */
    CHECK_HEADER("From: J\xc3\xb6rg <j@a.example>\r\n",
                 "From: =?utf-8?B?SsO2cmc=?= <j@a.example>\r\n");
    CHECK_HEADER("From: \"J\xc3\xb6, rg\" <j@a.example>\r\n",
                 "From: =?utf-8?B?SsO2LCByZw==?= <j@a.example>\r\n");
    CHECK_HEADER("From: j@a.example (J\xc3\xb6rg)\r\n",
                 "From: =?utf-8?B?SsO2cmc=?= <j@a.example>\r\n");
    CHECK_HEADER("From: J <j@a.example> (\xc3\xb6)\r\n", "From: J <j@a.example>\r\n");
    /* The address is not: it can't be answered, but read. */
    CHECK_HEADER("From: <j\xc3\xb6@a>\r\n", "From: =?utf-8?B?PGrDtkBhPg==?= " INVALID "\r\n");
    CHECK_HEADER("To: a@b, j\xc3\xb6@a, c@d\r\n",
                 "To: a@b, =?utf-8?B?asO2QGE=?= " INVALID ",\r\n c@d\r\n");
    CHECK_HEADER("Cc: x <a@\xc3\xb6>\r\n", "Cc: =?utf-8?B?eCA8YUDDtj4=?= " INVALID "\r\n");
    /* Delimiters in quotes, comments, brackets and literals are none. */
    CHECK_HEADER("To: \"a, b\" <c@d>, (x, \xc3\xb6) e@f, <\"g>,\"@h>, \xc3\xb6 <i@[IPv6:::1]>\r\n",
                 "To: \"a, b\" <c@d>, =?utf-8?B?KHgsIMO2KSBlQGY=?=\r\n " INVALID
                 ", <\"g>,\"@h>,\r\n =?utf-8?B?w7Y=?= <i@[IPv6:::1]>\r\n");
    /* Groups. */
    CHECK_HEADER("To: Gr\xc3\xbcn: a@b, \xc3\xb6@c;, d@e\r\n",
                 "To: =?utf-8?B?R3LDvG4=?=: a@b, =?utf-8?B?w7ZAYw==?=\r\n " INVALID ";, d@e\r\n");
    /* What was not ended goes on to the end. */
    CHECK_HEADER("To: \"\xc3\xb6, a@b\r\n", "To: =?utf-8?B?IsO2LCBhQGI=?= " INVALID "\r\n");
    CHECK_HEADER("To: \xc3\xb6 <a@b\r\n", "To: =?utf-8?B?w7Y=?= <a@b>\r\n");
    CHECK_HEADER("To: \xc3\xb6 <\r\n", "To: =?utf-8?B?w7YgPA==?= " INVALID "\r\n");
    CHECK_HEADER("To: \xc3\xb6 <>\r\n", "To: =?utf-8?B?w7YgPD4=?= " INVALID "\r\n");
    CHECK_HEADER("Return-Path: <\xc3\xb6@a>\r\n", "Return-Path: " INVALID "\r\n");
}

static void converts_each_field_of_addresses(void **state)
{
    (void)state;
    static const char *const names[] = {
        "From",
        "sender",
        "Reply-To",
        "To",
        "Cc",
        "Bcc",
        "Resent-To",
        "Resent-Cc",
        "Resent-Bcc",
        "Resent-From",
        "Resent-Sender",
        "Resent-Reply-To",
        "Disposition-Notification-To",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char in[100], want[200];
        size_t n = (size_t)snprintf(in, sizeof in, "%s: \xc3\xb6 <a@b>\r\n", names[i]);
        size_t m = (size_t)snprintf(want, sizeof want, "%s: =?utf-8?B?w7Y=?= <a@b>\r\n", names[i]);
        check(span_of(in, n), span_of(want, m));
    }
}

static void leaves_out_parameters(void **state)
{
    (void)state;
    CHECK_HEADER("Content-Type: text/plain; name=\"\xc3\xb6; x=y\"; charset=utf-8\r\n",
                 "Content-Type: text/plain; charset=utf-8\r\n");
    CHECK_HEADER("Content-Disposition: attachment;\r\n filename=\xc3\xb6.txt;\r\n size=3\r\n",
                 "Content-Disposition: attachment; size=3\r\n");
    CHECK_HEADER("Content-Type: t\xc3\xb6xt/plain; charset=utf-8\r\n", "");
    CHECK_HEADER("Content-Description: \xc3\xb6\r\n", "");
}

static void leaves_out_the_rest(void **state)
{
    (void)state;
    CHECK_HEADER("A: b\r\nReceived: by x for <\xc3\xb6@a>;\r\n\tdate\r\nX-Y: \xc3\xb6\r\nC: d\r\n",
                 "A: b\r\nC: d\r\n");
    CHECK_HEADER("S\xc3\xbc"
                 "bject: x\r\n\xc3\xb6\r\nContent-\xc3\xb6: x\r\n",
                 "");
}

static void ends_where_the_body_begins(void **state)
{
    (void)state;
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\n\r\nc")), 8);
    assert_int_equal(downgrade_header_end(SPAN("A: b\n\nc")), 6);
    assert_int_equal(downgrade_header_end(SPAN("\r\n")), 2);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\n c\r\n\td:\r\n\r\n")), 17);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\nno field\r\n\r\n")), 6);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\nno field: c\r\n\r\n")), 6);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\n: c\r\n\r\n")), 6);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\nC : d\r\n\r\n")), 15);
    /* Nobody knows yet. */
    assert_int_equal(downgrade_header_end(SPAN("")), 0);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\n")), 0);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\nno field")), 0);
    assert_int_equal(downgrade_header_end(SPAN("A: b\r\n\r")), 0);
}

static void concerns(const char *message, bool want)
{
    assert_int_equal(downgrade_concerns(span_str(message)), want);
}

static void concerns_what_came_by_smtputf8(void **state)
{
    (void)state;
    concerns("Received: from a by b with UTF8SMTP id c\r\n", true);
    concerns("Return-Path: <>\r\nReceived: from a\r\n\tby b (x)\r\n\twith UTF8SMTPS id c\r\n",
             true);
    concerns("Received: from a by b with UTF8LMTP id c\r\n", true);
    concerns("Received: from a by b with utf8lmtps id c\r\n", true);
    concerns("Received: from a by b with ESMTP id c\r\n", false);
    concerns("Received: from a by b with ESMTP id c (with UTF8SMTP)\r\n", false);
    concerns("Received: from a (with UTF8SMTP (x) with UTF8SMTP) by b with SMTP id c\r\n", false);
    concerns("Received: from a with\r\n", false);
    concerns("Received: from a\r\nReceived: from a with UTF8SMTP id b\r\n", false);
    concerns("X: y\r\nReceived: from a with UTF8SMTP id b\r\n", false);
    concerns("Return-Path: <>\r\nX: y\r\nReceived: from a with UTF8SMTP id b\r\n", false);
    concerns("Return-Path: <>\r\n", false);
    concerns("Received", false);
    concerns("", false);
}

static void says_when_there_is_no_room(void **state)
{
    (void)state;
    static const struct span header = { "A: b\r\nSubject: \xc3\xa4\r\n\r\n", 21 };
    for (size_t limit = 0; limit < 40; limit++) {
        struct buf out;
        buf_init(&out, limit);
        /* 6 of the first field, 27 of the second, and the empty line */
        assert_int_equal(downgrade_header(header, &out), limit < 35 ? ERR_LIMIT : ERR_OK);
        buf_fini(&out);
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_ascii_alone),
        cmocka_unit_test(encodes_subjects),
        cmocka_unit_test(folds_encoded_words),
        cmocka_unit_test(converts_addresses),
        cmocka_unit_test(converts_each_field_of_addresses),
        cmocka_unit_test(leaves_out_parameters),
        cmocka_unit_test(leaves_out_the_rest),
        cmocka_unit_test(ends_where_the_body_begins),
        cmocka_unit_test(concerns_what_came_by_smtputf8),
        cmocka_unit_test(says_when_there_is_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
