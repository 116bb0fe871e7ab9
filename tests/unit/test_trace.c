/*
 * The header fields of final delivery: one of each kind of session, and peers that lie.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "trace.h"

static struct trace ordinary(const struct blob_id *id)
{
    return (struct trace){ .reverse_path = SPAN("a@b.example"),
                           .helo = SPAN("mx.b.example"),
                           .client = SPAN("192.0.2.7"),
                           .hostname = SPAN("node1.example"),
                           .forward_path = SPAN("bob@example.org"),
                           .id = id,
                           .unix_seconds = 1795298523, /* a Saturday */
                           .esmtp = true };
}

static void expect(const struct trace *t, const char *text)
{
    struct buf b;
    buf_init(&b, 2 * TRACE_MAX);
    trace_return_path(t, &b);
    trace_received(t, &b);
    assert_int_equal(buf_len(&b), strlen(text));
    assert_memory_equal(buf_span(&b).p, text, strlen(text));
    buf_fini(&b);
}

static void test_esmtp(void **state)
{
    (void)state;
    struct blob_id id = { { 0 } };
    struct trace t = ordinary(&id);
    expect(&t, "Return-Path: <a@b.example>\r\n"
               "Received: from mx.b.example ([192.0.2.7])\r\n"
               "\tby node1.example (mailfleet) with ESMTP id 00000000000000000000000000\r\n"
               "\tfor <bob@example.org>;\r\n"
               "\tSat, 21 Nov 2026 22:02:03 +0000\r\n");
}

static void test_tls_null_path_many(void **state)
{
    (void)state;
    struct blob_id id = { { 0 } };
    struct trace t = ordinary(&id);
    t.reverse_path = SPAN("");
    t.forward_path = SPAN("");
    t.client = SPAN("2001:db8::1");
    t.tls = SPAN("TLSv1.3 X");
    expect(&t, "Return-Path: <>\r\n"
               "Received: from mx.b.example ([IPv6:2001:db8::1])\r\n"
               "\tby node1.example (mailfleet) with ESMTPS id 00000000000000000000000000\r\n"
               "\t(TLSv1.3 X);\r\n"
               "\tSat, 21 Nov 2026 22:02:03 +0000\r\n");
}

static bool has(const struct trace *t, const char *text)
{
    struct buf b;
    buf_init(&b, 2 * TRACE_MAX);
    trace_return_path(t, &b);
    trace_received(t, &b);
    bool found = memmem(buf_span(&b).p, buf_len(&b), text, strlen(text)) != NULL;
    buf_fini(&b);
    return found;
}

static void test_with(void **state)
{
    (void)state;
    static const struct {
        bool lmtp, esmtp, utf8, tls;
        const char *word;
    } table[] = {
        { false, false, false, false, " with SMTP id " },
        { false, false, false, true, " with SMTP id " },
        { false, true, false, true, " with ESMTPS id " },
        { false, true, true, false, " with UTF8SMTP id " },
        { false, true, true, true, " with UTF8SMTPS id " },
        { true, true, false, false, " with LMTP id " },
        { true, true, false, true, " with LMTPS id " },
        { true, true, true, false, " with UTF8LMTP id " },
    };
    struct blob_id id = { { 0 } };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct trace t = ordinary(&id);
        t.lmtp = table[i].lmtp;
        t.esmtp = table[i].esmtp;
        t.utf8 = table[i].utf8;
        t.tls = table[i].tls ? SPAN("TLSv1.2 Y") : SPAN("");
        assert_true(has(&t, table[i].word));
    }
}

/* A name that tries to end the field, begin a comment, or fill the header. */
static void test_hostile_helo(void **state)
{
    (void)state;
    struct blob_id id = { { 0 } };
    struct trace t = ordinary(&id);
    t.helo = SPAN("x\r\nEvil: 1");
    assert_true(has(&t, "from x??Evil:?1 (["));
    t.helo = SPAN("x (y); z\\");
    assert_true(has(&t, "from x??y???z? (["));
    t.helo = SPAN("");
    assert_true(has(&t, "from unknown (["));
    char longer[3000];
    memset(longer, 'x', sizeof longer);
    t.helo = span_of(longer, sizeof longer);
    assert_true(has(&t, "xxx (["));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_esmtp),
        cmocka_unit_test(test_tls_null_path_many),
        cmocka_unit_test(test_with),
        cmocka_unit_test(test_hostile_helo),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
