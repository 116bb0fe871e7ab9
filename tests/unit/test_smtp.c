/*
 * test_smtp: what the session relies on and no script can show: which octets are eaten when, what a
 * full output does, how long things are valid, and what the engine keeps of a transaction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "replies.h"
#include "smtp.h"

#define OUT_ROOMY ((size_t)1 << 20)

static const struct smtp_options options = {
    .tls_offered = true,
    .normalize_newlines = true,
    .max_size = 10000000,
    .max_recipients = 1000,
    .max_received = 100,
    .max_errors = 20,
    .hostname = "mx.example.com",
};

struct fixture {
    struct smtp *s;
    struct buf out;
    bool ask_mail;
};

static void fixture_init(struct fixture *f, bool lmtp, size_t out_limit)
{
    struct smtp_options o = options;
    o.lmtp = lmtp;
    *f = (struct fixture){ .s = smtp_new(&o) };
    buf_init(&f->out, out_limit);
}

static void fixture_fini(struct fixture *f)
{
    smtp_free(&f->s);
    assert_null(f->s);
    buf_fini(&f->out);
}

/* Senders are answered with OK, except in the test of that. */
static struct smtp_action step(struct fixture *f, struct span *in)
{
    struct smtp_action a = smtp_step(f->s, in, &f->out);
    while (a.kind == SMTP_MAIL && !f->ask_mail) {
        smtp_mail_answer(f->s, SMTP_OK, &f->out);
        a = smtp_step(f->s, in, &f->out);
    }
    return a;
}

/* All of the text is eaten, and leads to this action. */
static struct smtp_action say(struct fixture *f, const char *text, enum smtp_action_kind kind)
{
    struct span in = span_str(text);
    struct smtp_action a = step(f, &in);
    assert_int_equal(a.kind, kind);
    assert_int_equal(in.n, 0);
    return a;
}

static void expect_out(struct fixture *f, const char *text)
{
    struct span out = buf_span(&f->out);
    if (!span_eq(out, span_str(text))) {
        fail_msg("got %.*s", SPAN_ARG(out));
    }
    buf_clear(&f->out);
}

static void rcpt(struct fixture *f, enum smtp_verdict v)
{
    say(f, "RCPT TO:<B@example.com>\r\n", SMTP_RCPT);
    smtp_rcpt_answer(f->s, v, &f->out);
}

/* Drops what the engine says to it all. */
static void begin_data(struct fixture *f, bool lmtp, unsigned recipients)
{
    say(f, lmtp ? "LHLO c\r\n" : "EHLO c\r\n", SMTP_NEED_INPUT);
    buf_clear(&f->out);
    say(f, "MAIL FROM:<A@example.net> SIZE=7 SMTPUTF8\r\n", SMTP_NEED_INPUT);
    buf_clear(&f->out);
    for (unsigned i = 0; i < recipients; i++) {
        rcpt(f, SMTP_OK);
        buf_clear(&f->out);
    }
    say(f, "DATA\r\n", SMTP_DATA_BEGIN);
    smtp_data_answer(f->s, SMTP_OK, &f->out);
    buf_clear(&f->out);
}

static void end_data(struct fixture *f)
{
    say(f, ".\r\n", SMTP_DATA_END);
    smtp_end_answer(f->s, &(enum smtp_verdict){ SMTP_OK }, 1, SPAN(""), &f->out);
    expect_out(f, "250 2.0.0 Delivered\r\n");
}

static void test_greeting(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    smtp_greet(f.s, &f.out);
    expect_out(&f, "220 mx.example.com ESMTP\r\n");
    fixture_fini(&f);
    fixture_init(&f, true, OUT_ROOMY);
    smtp_greet(f.s, &f.out);
    expect_out(&f, "220 mx.example.com LMTP\r\n");
    smtp_refuse(&options, SPAN("4.7.0"), SPAN("Too busy"), &f.out);
    expect_out(&f, "421 4.7.0 mx.example.com Too busy\r\n");
    fixture_fini(&f);
}

/* An action leaves alone what is behind its command: the session may have to throw it away. */
static void test_open_action_stops(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    struct span in = SPAN("EHLO c\r\nSTARTTLS\r\nMAIL FROM:<evil@example.net>\r\n");
    assert_int_equal(step(&f, &in).kind, SMTP_STARTTLS);
    assert_true(span_eq(in, SPAN("MAIL FROM:<evil@example.net>\r\n")));
    fixture_fini(&f);

    fixture_init(&f, false, OUT_ROOMY);
    in = SPAN("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n.\r\nQUIT\r\nNOOP\r\n");
    assert_int_equal(step(&f, &in).kind, SMTP_RCPT);
    assert_true(span_eq(in, SPAN("DATA\r\n.\r\nQUIT\r\nNOOP\r\n")));
    smtp_rcpt_answer(f.s, SMTP_OK, &f.out);
    assert_int_equal(step(&f, &in).kind, SMTP_DATA_BEGIN);
    assert_true(span_eq(in, SPAN(".\r\nQUIT\r\nNOOP\r\n")));
    smtp_data_answer(f.s, SMTP_OK, &f.out);
    assert_int_equal(step(&f, &in).kind, SMTP_DATA_END);
    assert_true(span_eq(in, SPAN("QUIT\r\nNOOP\r\n")));
    smtp_end_answer(f.s, &(enum smtp_verdict){ SMTP_OK }, 1, SPAN(""), &f.out);
    struct smtp_action a = step(&f, &in);
    assert_int_equal(a.kind, SMTP_CLOSE);
    assert_string_equal(smtp_close_text(a.u.close), "quit");
    assert_true(span_eq(in, SPAN("NOOP\r\n")));
    assert_int_equal(step(&f, &in).kind, SMTP_CLOSE); /* and nothing else, ever */
    assert_true(span_eq(in, SPAN("NOOP\r\n")));
    fixture_fini(&f);
}

/* The session's own ends of a conversation. */
static void test_last_words(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    smtp_shutdown(f.s, &f.out);
    expect_out(&f, "421 4.3.2 Shutting down, try again later\r\n");
    struct span in = SPAN("NOOP\r\n");
    struct smtp_action a = step(&f, &in);
    assert_int_equal(a.kind, SMTP_CLOSE);
    assert_string_equal(smtp_close_text(a.u.close), "shutdown");
    expect_out(&f, "");
    fixture_fini(&f);

    fixture_init(&f, false, OUT_ROOMY);
    begin_data(&f, false, 1);
    say(&f, "text", SMTP_DATA);
    smtp_timeout(f.s, &f.out);
    expect_out(&f, "421 4.4.2 Waited too long, closing the connection\r\n");
    a = say(&f, "", SMTP_CLOSE);
    assert_string_equal(smtp_close_text(a.u.close), "timeout");
    fixture_fini(&f);
}

static void test_rcpt(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    say(&f, "EHLO c\r\nMAIL FROM:<>\r\n", SMTP_NEED_INPUT);
    struct smtp_action a = say(&f, "RCPT TO:<\"B\"@Example.com>\r\n", SMTP_RCPT);
    assert_string_equal(a.u.rcpt->text, "B@Example.com");
    assert_string_equal(a.u.rcpt->canon, "b@example.com");
    assert_ptr_equal(smtp_rcpt(f.s), a.u.rcpt);
    smtp_rcpt_answer(f.s, SMTP_OK, &f.out);
    fixture_fini(&f);
}

/* With less room than it asks for the engine neither eats nor speaks. */
static void test_flush(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, SMTP_OUT_MIN);
    struct span in = SPAN("EHLO c\r\nNOOP\r\n");
    assert_int_equal(step(&f, &in).kind, SMTP_FLUSH);
    assert_true(span_eq(in, SPAN("NOOP\r\n")));
    size_t len = buf_len(&f.out);
    assert_int_equal(step(&f, &in).kind, SMTP_FLUSH);
    assert_int_equal(buf_len(&f.out), len);
    buf_clear(&f.out);
    assert_int_equal(step(&f, &in).kind, SMTP_NEED_INPUT);
    expect_out(&f, "250 2.0.0 Nothing done\r\n");
    fixture_fini(&f);
}

/* CLOSE needs no room: what is in out is sent, then the conn goes. */
static void test_close_when_full(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, SMTP_OUT_MIN);
    struct span in = SPAN("QUIT\r\n");
    assert_int_equal(step(&f, &in).kind, SMTP_CLOSE);
    assert_int_equal(step(&f, &in).kind, SMTP_CLOSE);
    expect_out(&f, "221 2.0.0 Goodbye\r\n");
    fixture_fini(&f);
}

/* More replies than room: they come in order, as out drains. */
static void test_lmtp_replies_flush(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct fixture f;
    struct buf all;
    enum smtp_verdict v[N];
    fixture_init(&f, true, SMTP_OUT_MIN + 100);
    buf_init(&all, OUT_ROOMY);
    begin_data(&f, true, N);
    say(&f, ".\r\n", SMTP_DATA_END);
    for (size_t i = 0; i < N; i++) {
        v[i] = (enum smtp_verdict)(i % SMTP_VERDICTS);
    }
    smtp_end_answer(f.s, v, N, SPAN("x"), &f.out);
    struct span in = SPAN("NOOP\r\n");
    unsigned flushes = 0;
    for (;; flushes++) {
        enum smtp_action_kind kind = step(&f, &in).kind;
        assert_true(buf_add(&all, buf_span(&f.out)) == ERR_OK);
        buf_clear(&f.out);
        if (kind == SMTP_NEED_INPUT) {
            break;
        }
        assert_int_equal(kind, SMTP_FLUSH);
    }
    assert_true(flushes > 10);

    static const char *const codes[] = { "250", "550", "550", "550", "452", "552", "452", "451",
                                         "550", "450", "550", "452", "250", "552", "452", "552" };
    _Static_assert(ARRAY_LEN(codes) == SMTP_VERDICTS, "one for each verdict");
    struct span rest = buf_span(&all);
    for (size_t i = 0; i < N; i++) {
        assert_true(span_starts(rest, span_str(codes[i % ARRAY_LEN(codes)])));
        rest = span_skip(rest, span_find(rest, '\n') + 1);
    }
    assert_true(span_eq(rest, SPAN("250 2.0.0 Nothing done\r\n")));
    buf_fini(&all);
    fixture_fini(&f);
}

/* A message comes out as it went in, in pieces of bounded length. */
static void test_data_pieces(void **state)
{
    (void)state;
    enum { LINES = 20000 };
    struct fixture f;
    struct buf sent, got;
    fixture_init(&f, false, OUT_ROOMY);
    buf_init(&sent, OUT_ROOMY);
    buf_init(&got, OUT_ROOMY);
    begin_data(&f, false, 1);
    for (unsigned i = 0; i < LINES; i++) {
        assert_true(buf_addf(&sent, "line %u of text\r\n", i) == ERR_OK);
    }
    struct span in = buf_span(&sent);
    for (;;) {
        struct smtp_action a = step(&f, &in);
        if (a.kind == SMTP_NEED_INPUT) {
            break;
        }
        assert_int_equal(a.kind, SMTP_DATA);
        assert_in_range(a.u.data.n, 1, 65536);
        assert_true(buf_add(&got, a.u.data) == ERR_OK);
    }
    assert_int_equal(in.n, 0);
    assert_true(span_eq(buf_span(&sent), buf_span(&got)));
    end_data(&f);
    buf_fini(&sent);
    buf_fini(&got);
    fixture_fini(&f);
}

/* The size that counts is that of the message, not of the bytes on the wire. */
static void test_size_unstuffed(void **state)
{
    (void)state;
    struct smtp_options o = options;
    o.max_size = 4;
    struct fixture f = { .s = smtp_new(&o) };
    buf_init(&f.out, OUT_ROOMY);
    say(&f, "EHLO c\r\nMAIL FROM:<>\r\n", SMTP_NEED_INPUT);
    rcpt(&f, SMTP_OK);
    say(&f, "DATA\r\n", SMTP_DATA_BEGIN);
    smtp_data_answer(f.s, SMTP_OK, &f.out);
    buf_clear(&f.out);
    struct smtp_action a = say(&f, "...\r\n.\r\n", SMTP_DATA);
    assert_true(span_eq(a.u.data, SPAN("..\r\n")));
    say(&f, "", SMTP_DATA_END);
    smtp_end_answer(f.s, &(enum smtp_verdict){ SMTP_OK }, 1, SPAN(""), &f.out);
    expect_out(&f, "250 2.0.0 Delivered\r\n");
    fixture_fini(&f);
}

/* Once a message is known to be refused, no more of it goes out. */
static void test_refused_is_swallowed(void **state)
{
    (void)state;
    struct smtp_options o = options;
    o.max_size = 10;
    struct fixture f = { .s = smtp_new(&o) };
    buf_init(&f.out, OUT_ROOMY);
    begin_data(&f, false, 1);
    say(&f, "0123456789", SMTP_DATA);
    say(&f, "0", SMTP_NEED_INPUT);
    say(&f, "more\r\n", SMTP_NEED_INPUT);
    expect_out(&f, "");
    say(&f, ".\r\n", SMTP_RESET);
    expect_out(&f, "552 5.3.4 Message is too large\r\n");
    fixture_fini(&f);
}

static void test_transaction_facts(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    assert_int_equal(smtp_helo(f.s).n, 0);
    assert_false(smtp_esmtp(f.s));
    begin_data(&f, false, 1);
    assert_true(span_eq(smtp_helo(f.s), SPAN("c")));
    assert_true(smtp_esmtp(f.s));
    assert_string_equal(smtp_reverse_path(f.s)->text, "A@example.net");
    assert_true(smtp_utf8(f.s));
    assert_int_equal(smtp_declared_size(f.s), 7);
    end_data(&f);
    assert_int_equal(smtp_reverse_path(f.s)->len, 0);
    assert_false(smtp_utf8(f.s));
    assert_int_equal(smtp_declared_size(f.s), 0);
    say(&f, "HELO d\r\n", SMTP_NEED_INPUT);
    assert_false(smtp_esmtp(f.s));
    assert_true(span_eq(smtp_helo(f.s), SPAN("d")));
    fixture_fini(&f);
}

static void test_tls_forgets(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    say(&f, "EHLO c\r\nSTARTTLS\r\n", SMTP_STARTTLS);
    smtp_tls_answer(f.s);
    assert_false(smtp_esmtp(f.s));
    assert_int_equal(smtp_helo(f.s).n, 0);
    fixture_fini(&f);
}

/* The refused MAIL must not leave anything of itself behind. */
static void test_refused_mail_leaves_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    say(&f, "EHLO c\r\nMAIL FROM:<a@b> SIZE=9 SMTPUTF8 X=1\r\nMAIL FROM:<>\r\n", SMTP_NEED_INPUT);
    assert_int_equal(smtp_reverse_path(f.s)->len, 0);
    assert_int_equal(smtp_declared_size(f.s), 0);
    assert_false(smtp_utf8(f.s));
    fixture_fini(&f);
}

/* A receipt of any length gives one line of bounded length. */
static void test_receipt(void **state)
{
    (void)state;
    struct fixture f;
    char text[1000];
    memset(text, 'x', sizeof text);
    fixture_init(&f, false, OUT_ROOMY);
    begin_data(&f, false, 1);
    say(&f, ".\r\n", SMTP_DATA_END);
    smtp_end_answer(f.s, &(enum smtp_verdict){ SMTP_OK }, 1, span_of(text, sizeof text), &f.out);
    assert_int_equal(buf_len(&f.out), strlen("250 2.0.0 Delivered ") + 64 + 2);
    fixture_fini(&f);
}

static bool is_enhanced(const char *s, unsigned class)
{
    unsigned c, subject, detail;
    int n = 0;
    return sscanf(s, "%1u.%3u.%3u%n", &c, &subject, &detail, &n) == 3 && s[n] == '\0' && c == class;
}

/* RFC 2034, section 4: all but the answers to a greeting, and what is not 2xx, 4xx or 5xx. */
static void test_reply_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < REPLIES; i++) {
        const struct reply_row *r = &replies[i];
        bool none = i == REPLY_START_DATA || i == REPLY_USE_LHLO || i == REPLY_HELO_SYNTAX;
        if (none != !r->enhanced || (!none && !is_enhanced(r->enhanced, r->code / 100))) {
            fail_msg("%u %s", r->code, r->text);
        }
        assert_true(r->code >= 200 && r->code <= 559 && r->code / 10 % 10 <= 5);
        assert_in_range(strlen(r->text), 5, 80);
        for (const char *p = r->text; *p; p++) {
            assert_in_range(*p, ' ', '~');
        }
    }
}

/* While the session thinks about a sender, all of MAIL can be asked for; a refusal leaves nothing.
 */
static void test_mail(void **state)
{
    (void)state;
    struct fixture f;
    struct span words[PARAMETERS_MAIL_MAX];
    fixture_init(&f, false, OUT_ROOMY);
    f.ask_mail = true;
    say(&f, "EHLO c\r\n", SMTP_NEED_INPUT);
    struct smtp_action a =
        say(&f, "MAIL FROM:<A@example.net> SIZE=7  BODY=7BIT\tSMTPUTF8\r\n", SMTP_MAIL);
    assert_string_equal(a.u.reverse_path->text, "A@example.net");
    assert_ptr_equal(a.u.reverse_path, smtp_reverse_path(f.s));
    assert_int_equal(smtp_declared_size(f.s), 7);
    assert_int_equal(smtp_mail_parameters(f.s, words), 3);
    assert_true(span_eq(words[0], SPAN("SIZE=7")) && span_eq(words[1], SPAN("BODY=7BIT")) &&
                span_eq(words[2], SPAN("SMTPUTF8")));
    smtp_mail_answer(f.s, SMTP_FAULT, &f.out);
    assert_int_equal(smtp_mail_parameters(f.s, words), 0);
    assert_int_equal(smtp_reverse_path(f.s)->len, 0);
    assert_int_equal(smtp_declared_size(f.s), 0);
    assert_false(smtp_utf8(f.s));
    say(&f, "MAIL FROM:<a@b> SIZE=1\r\n", SMTP_MAIL);
    smtp_mail_answer(f.s, SMTP_OK, &f.out);
    assert_int_equal(smtp_mail_parameters(f.s, words), 1);
    fixture_fini(&f);
}

/* Lasting refusals count, those for now do not, and a delivered message makes it good. */
static void test_errors(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    say(&f, "EHLO c\r\nNONSENSE\r\nMAIL FROM:<>\r\n", SMTP_NEED_INPUT);
    assert_int_equal(smtp_errors(f.s), 1);
    rcpt(&f, SMTP_UNKNOWN);
    assert_int_equal(smtp_errors(f.s), 2);
    rcpt(&f, SMTP_FAULT);
    assert_int_equal(smtp_errors(f.s), 2);
    smtp_custom_reply(f.s, 450, SPAN("4.7.1"), SPAN("later"));
    rcpt(&f, SMTP_FILTERED);
    assert_int_equal(smtp_errors(f.s), 2);
    smtp_custom_reply(f.s, 550, SPAN("5.7.1"), SPAN("never"));
    rcpt(&f, SMTP_FILTERED);
    assert_int_equal(smtp_errors(f.s), 3);
    rcpt(&f, SMTP_OK);
    say(&f, "DATA\r\n", SMTP_DATA_BEGIN);
    smtp_data_answer(f.s, SMTP_OK, &f.out);
    buf_clear(&f.out);
    end_data(&f);
    assert_int_equal(smtp_errors(f.s), 0);
    fixture_fini(&f);
}

/* What stands behind a refusal is said once, and bounded. */
static void test_reply_text(void **state)
{
    (void)state;
    struct fixture f;
    char text[1000];
    memset(text, 'x', sizeof text);
    fixture_init(&f, false, OUT_ROOMY);
    say(&f, "EHLO c\r\nMAIL FROM:<>\r\n", SMTP_NEED_INPUT);
    buf_clear(&f.out);
    smtp_reply_text(f.s, span_of(text, sizeof text));
    rcpt(&f, SMTP_BLOCKED);
    assert_in_range(buf_len(&f.out), 128, 512);
    buf_clear(&f.out);
    rcpt(&f, SMTP_BLOCKED);
    expect_out(&f, "550 5.7.1 <B@example.com> Your address is on a block list\r\n");
    smtp_custom_reply(f.s, 550, SPAN("5.7.1"), span_of(text, sizeof text));
    rcpt(&f, SMTP_FILTERED);
    assert_in_range(buf_len(&f.out), 255, 512);
    fixture_fini(&f);
}

/* Octets of a chunk go out in pieces as they come, and none of what is behind it is eaten. */
static void test_chunk(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, OUT_ROOMY);
    say(&f, "EHLO c\r\nMAIL FROM:<>\r\n", SMTP_NEED_INPUT);
    rcpt(&f, SMTP_OK);
    say(&f, "BDAT 10 LAST\r\n", SMTP_DATA_BEGIN);
    buf_clear(&f.out);
    smtp_data_answer(f.s, SMTP_OK, &f.out);
    expect_out(&f, "");
    struct smtp_action a = say(&f, "abc", SMTP_DATA);
    assert_true(span_eq(a.u.data, SPAN("abc")));
    struct span in = SPAN("defghijQUIT\r\n");
    a = step(&f, &in);
    assert_int_equal(a.kind, SMTP_DATA);
    assert_true(span_eq(a.u.data, SPAN("defghij\r\n")));
    assert_true(span_eq(in, SPAN("QUIT\r\n")));
    assert_int_equal(step(&f, &in).kind, SMTP_DATA_END);
    assert_int_equal(smtp_chunks(f.s), 1);
    fixture_fini(&f);
}

/* Freed in the middle of everything: the sanitizer sees what is not given back. */
static void test_free_anywhere(void **state)
{
    (void)state;
    struct fixture f;
    char filler[101];
    memset(filler, 'x', sizeof filler);
    fixture_init(&f, true, SMTP_OUT_MIN + 100);
    begin_data(&f, true, 1);
    say(&f, "text", SMTP_DATA);
    fixture_fini(&f);
    fixture_init(&f, true, SMTP_OUT_MIN + 100);
    begin_data(&f, true, 2);
    say(&f, ".\r\n", SMTP_DATA_END);
    assert_true(buf_add(&f.out, span_of(filler, sizeof filler)) == ERR_OK);
    smtp_end_answer(f.s, (enum smtp_verdict[]){ SMTP_OK, SMTP_FAULT }, 2, SPAN(""), &f.out);
    assert_int_equal(buf_len(&f.out), sizeof filler);
    fixture_fini(&f);
    smtp_free(&f.s);

    struct smtp_options o = options;
    o.xclient = true;
    f = (struct fixture){ .s = smtp_new(&o) };
    buf_init(&f.out, OUT_ROOMY);
    say(&f, "XCLIENT ADDR=192.0.2.1\r\n", SMTP_XCLIENT);
    smtp_xclient_answer(f.s, true, &f.out);
    say(&f, "XCLIENT ADDR=192.0.2.2\r\n", SMTP_XCLIENT);
    fixture_fini(&f);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greeting),
        cmocka_unit_test(test_open_action_stops),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_rcpt),
        cmocka_unit_test(test_flush),
        cmocka_unit_test(test_close_when_full),
        cmocka_unit_test(test_lmtp_replies_flush),
        cmocka_unit_test(test_data_pieces),
        cmocka_unit_test(test_size_unstuffed),
        cmocka_unit_test(test_refused_is_swallowed),
        cmocka_unit_test(test_transaction_facts),
        cmocka_unit_test(test_tls_forgets),
        cmocka_unit_test(test_refused_mail_leaves_nothing),
        cmocka_unit_test(test_receipt),
        cmocka_unit_test(test_reply_table),
        cmocka_unit_test(test_mail),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_reply_text),
        cmocka_unit_test(test_chunk),
        cmocka_unit_test(test_free_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
