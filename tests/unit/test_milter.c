/* Tests of milter: the packets of each stage, what can be agreed on, every answer, broken filters.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/check.h"
#include "milter.h"

#define NR_ALL  0x000df080u /* no answer to anything but the end */
#define NO_ALL  0x0000027fu /* wants nothing but the end */
#define LEADSPC 0x00100000u
#define MDS_1M  0x20000000u

struct talk {
    struct milter *m;
    struct milter_facts facts;
    struct rewrite *message;
    struct buf in, out;
    struct buf said; /* what the engine sent, readable */
};

static void setup(struct talk *t, const char *message)
{
    *t = (struct talk){ .facts = { .client_name = SPAN("[192.0.2.1]"),
                                   .client_address = SPAN("192.0.2.1"),
                                   .client_family = '4',
                                   .client_port = 0x4142,
                                   .helo = SPAN("client"),
                                   .greetings = 1,
                                   .mail = SPAN("<a@b>\0SIZE=9\0"),
                                   .rcpt = SPAN("<c@d>\0") } };
    t->message = rewrite_new(1 << 22);
    assert_int_equal(rewrite_append(t->message, span_str(message)), ERR_OK);
    assert_int_equal(rewrite_parse(t->message, SPAN("Received: own\r\n")), ERR_OK);
    t->facts.message = t->message;
    t->m = milter_new(&t->facts);
    buf_init(&t->in, 1 << 24);
    buf_init(&t->out, MILTER_OUT);
    buf_init(&t->said, 1 << 24);
}

static void finish(struct talk *t)
{
    milter_free(&t->m);
    rewrite_free(&t->message);
    buf_fini(&t->in);
    buf_fini(&t->out);
    buf_fini(&t->said);
}

static void u32(struct buf *b, uint32_t v)
{
    const char p[4] = { (char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v };
    buf_add(b, span_of(p, 4));
}

static void answer_with(struct talk *t, char command, struct span data)
{
    u32(&t->in, (uint32_t)data.n + 1);
    buf_addc(&t->in, command);
    buf_add(&t->in, data);
}

static void options(struct talk *t, uint32_t version, uint32_t actions, uint32_t protocol,
                    struct span lists)
{
    u32(&t->in, 13 + (uint32_t)lists.n);
    buf_addc(&t->in, 'O');
    u32(&t->in, version);
    u32(&t->in, actions);
    u32(&t->in, protocol);
    buf_add(&t->in, lists);
}

/* Moves what was sent into said: `Command data` a line, NUL as `|`. */
static void collect(struct talk *t)
{
    while (buf_len(&t->out) > 0) {
        const unsigned char *p = (const unsigned char *)buf_span(&t->out).p;
        size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        struct span packet = span_first(span_skip(buf_span(&t->out), 4), n);
        assert_int_equal(packet.n, n);
        for (size_t i = 0; i < packet.n; i++) {
            buf_addc(&t->said, packet.p[i] ? packet.p[i] : '|');
        }
        buf_addc(&t->said, '~');
        buf_take(&t->out, n + 4);
    }
}

/* One event. The answers are given one at a time: each when it is waited for. */
static struct milter_event step(struct talk *t)
{
    for (;;) {
        struct span none = SPAN("");
        struct milter_event ev = milter_step(t->m, &none, &t->out);
        collect(t);
        if (ev.kind == MILTER_SEND) {
            continue;
        }
        struct span in = buf_span(&t->in);
        if (ev.kind != MILTER_WAIT || in.n == 0) {
            return ev;
        }
        const unsigned char *p = (const unsigned char *)in.p;
        size_t n = 4 + ((size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]);
        struct span packet = span_first(in, n), rest = packet;
        ev = milter_step(t->m, &rest, &t->out);
        collect(t);
        buf_take(&t->in, packet.n - rest.n);
        if (ev.kind != MILTER_WAIT && ev.kind != MILTER_SEND) {
            return ev;
        }
    }
}

static void said(struct talk *t, const char *want)
{
    buf_addc(&t->said, '\0');
    assert_string_equal(buf_span(&t->said).p, want);
    buf_clear(&t->said);
}

static void expect_done(struct talk *t, enum milter_stage s, enum milter_verdict v)
{
    milter_ask(t->m, s);
    struct milter_event ev = step(t);
    assert_int_equal(ev.kind, MILTER_DONE);
    assert_int_equal(ev.verdict, v);
    assert_int_equal(buf_len(&t->in), 0);
}

static void expect_failed(struct talk *t, enum milter_stage s, const char *why)
{
    milter_ask(t->m, s);
    struct milter_event ev;
    do {
        ev = step(t);
    } while (ev.kind == MILTER_CHANGE || ev.kind == MILTER_PROGRESS);
    assert_int_equal(ev.kind, MILTER_FAILED);
    assert_string_equal(ev.why, why);
    assert_false(milter_abort(t->m, &t->out));
}

static void answers(struct talk *t, const char *commands)
{
    for (; *commands; commands++) {
        answer_with(t, *commands, SPAN(""));
    }
}

static void begin(struct talk *t, uint32_t protocol)
{
    options(t, 6, 0x1ff, protocol, SPAN(""));
    if (!(protocol & NR_ALL)) {
        answers(t, "ccc");
    }
    expect_done(t, MILTER_MAIL, MILTER_CONTINUE);
    buf_clear(&t->said);
}

#define MESSAGE "From: x\r\nSubject: one\r\n\ttwo\r\n\r\nbody\r\n"

static void test_whole_message(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    t.facts.macros[MILTER_J] = SPAN("mx");
    t.facts.macros[MILTER_MAIL_ADDR] = SPAN("a@b");
    options(&t, 6, 0x1ff, 0, SPAN(""));
    answers(&t, "ccc");
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    assert_true(span_starts(buf_span(&t.said), SPAN("O|||\x06||\x01\x33\x30\x1f\xf7\xff~")));
    buf_take(&t.said, 14);
    said(&t, "DCj|mx|~C[192.0.2.1]|4AB192.0.2.1|~Hclient|~DM{mail_addr}|a@b|~M<a@b>|SIZE=9|~");
    answers(&t, "c");
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    said(&t, "R<c@d>|~");
    answers(&t, "c");
    expect_done(&t, MILTER_DATA, MILTER_CONTINUE);
    said(&t, "T~");
    t.facts.macros[MILTER_I] = SPAN("q1");
    answers(&t, "ccccc");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    said(&t, "LFrom|x|~LSubject|one\n\ttwo|~DNi|q1|~N~Bbody\r\n~DEi|q1|~E~");
    /* The next message goes on where this one began. */
    answers(&t, "c");
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    said(&t, "DM{mail_addr}|a@b|i|q1|~M<a@b>|SIZE=9|~");
    assert_true(milter_abort(t.m, &t.out));
    t.facts.greetings++;
    t.facts.helo = SPAN("other");
    answers(&t, "cc");
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    said(&t, "A~Hother|~DM{mail_addr}|a@b|i|q1|~M<a@b>|SIZE=9|~");
    milter_quit(t.m, &t.out);
    collect(&t);
    said(&t, "Q~");
    finish(&t);
}

static void test_unwanted_and_unanswered(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    t.facts.macros[MILTER_J] = SPAN("mx");
    options(&t, 6, 0x1ff, NO_ALL, SPAN(""));
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    expect_done(&t, MILTER_DATA, MILTER_CONTINUE);
    answers(&t, "c");
    buf_take(&t.said, 14);
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    said(&t, "DCj|mx|~E~"); /* macros are told all the same */
    finish(&t);

    setup(&t, MESSAGE);
    begin(&t, NR_ALL | LEADSPC);
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    expect_done(&t, MILTER_DATA, MILTER_CONTINUE);
    answers(&t, "c");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    said(&t, "R<c@d>|~T~LFrom| x|~LSubject| one\n\ttwo|~N~Bbody\r\n~E~");
    finish(&t);

    setup(&t, MESSAGE); /* a filter of before DATA */
    options(&t, 2, 0xf, 0x3f, SPAN(""));
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    expect_done(&t, MILTER_DATA, MILTER_CONTINUE);
    finish(&t);
}

static void test_macros_by_name(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    t.facts.macros[MILTER_J] = SPAN("mx");
    t.facts.macros[MILTER_CLIENT_ADDR] = SPAN("192.0.2.1");
    t.facts.macros[MILTER_I] = SPAN("q1");
    options(
        &t, 6, 0x1ff, NO_ALL,
        SPAN("\0\0\0\0{client_addr} unknown\0\0\0\0\2j i client_addr\0\0\0\0\5\0\0\0\0\x63x\0"));
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    answers(&t, "c");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    buf_take(&t.said, 14);
    said(&t, "DC{client_addr}|192.0.2.1|~DMj|mx|{client_addr}|192.0.2.1|i|q1|~DNi|q1|~E~");
    finish(&t);
}

static void test_body_in_chunks(void **state)
{
    (void)state;
    static char body[200000];
    static const size_t sizes[] = { 65535, 65535, 65535, 3395 };
    struct talk t;
    memset(body, 'x', sizeof body);
    setup(&t, "A: b\r\n\r\n");
    rewrite_begin(t.message);
    assert_int_equal(rewrite_replace(t.message, span_of(body, sizeof body - 2)), ERR_OK);
    rewrite_commit(t.message);
    begin(&t, 0x000df080u & ~0x80000u);
    milter_ask(t.m, MILTER_END);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(step(&t).kind, MILTER_WAIT);
        struct span s = buf_span(&t.said);
        s = span_skip(s, i == 0 ? strlen("LA|b|~N~") : 0);
        assert_int_equal(s.p[0], 'B');
        assert_int_equal(s.n, sizes[i] + 2);
        buf_clear(&t.said);
        answers(&t, "c");
    }
    answers(&t, "c");
    assert_int_equal(step(&t).kind, MILTER_DONE);
    said(&t, "E~");
    finish(&t);
}

/* Unanswered chunks are sent as the owner gets rid of them. */
static void test_much_is_sent_first(void **state)
{
    (void)state;
    static char body[1000000];
    struct talk t;
    memset(body, 'x', sizeof body);
    setup(&t, "\r\n");
    rewrite_begin(t.message);
    rewrite_replace(t.message, span_of(body, sizeof body));
    rewrite_commit(t.message);
    begin(&t, NR_ALL);
    milter_ask(t.m, MILTER_END);
    size_t sent = 0, times = 0;
    struct span none = SPAN("");
    while (milter_step(t.m, &none, &t.out).kind == MILTER_SEND) {
        assert_true(buf_len(&t.out) < 300000);
        sent += buf_len(&t.out);
        times++;
        buf_clear(&t.out);
    }
    assert_true(times > 4 && sent > 700000);
    finish(&t);
}

static void test_long_value(void **state)
{
    (void)state;
    static char text[300000];
    struct talk t;
    memset(text, 'x', sizeof text);
    memcpy(text, "A: ", 3);
    memcpy(text + sizeof text - 3, "\r\n", 3);
    setup(&t, text);
    begin(&t, NR_ALL);
    answers(&t, "c");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    assert_in_range(buf_len(&t.said), 65000, 65600);
    finish(&t);
    setup(&t, text);
    begin(&t, NR_ALL | MDS_1M);
    answers(&t, "c");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    assert_in_range(buf_len(&t.said), 299990, 300010);
    finish(&t);
    setup(&t, "\r\n");
    rewrite_reset(t.message);
    rewrite_append(t.message, SPAN("A: x\0y\r\n\r\n"));
    rewrite_parse(t.message, SPAN(""));
    begin(&t, NR_ALL);
    answers(&t, "c");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    said(&t, "LA|xy|~N~E~"); /* a NUL would hide what follows */
    finish(&t);
}

static void test_verdicts(void **state)
{
    (void)state;
    static const struct {
        char answer;
        enum milter_verdict v;
    } all[] = { { 'r', MILTER_REJECT },
                { 't', MILTER_TEMPFAIL },
                { 'd', MILTER_DISCARD },
                { 'f', MILTER_CLOSE },
                { '4', MILTER_CLOSE } };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct talk t;
        const char one[2] = { all[i].answer, 0 };
        setup(&t, MESSAGE);
        options(&t, 6, 0x1ff, 0, SPAN(""));
        answers(&t, "cc");
        answers(&t, one);
        expect_done(&t, MILTER_MAIL, all[i].v);
        buf_clear(&t.said);
        expect_done(&t, MILTER_RCPT, MILTER_CONTINUE); /* nothing is open */
        said(&t, "");
        answers(&t, "c");
        expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
        answers(&t, "c");
        expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
        answers(&t, "cccc");
        answers(&t, one);
        expect_done(&t, MILTER_END, all[i].v);
        finish(&t);
    }
}

static void test_a_refused_recipient_is_one(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    begin(&t, 0);
    answers(&t, "r");
    expect_done(&t, MILTER_RCPT, MILTER_REJECT);
    answers(&t, "c");
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    said(&t, "R<c@d>|~R<c@d>|~");
    finish(&t);
}

static void test_a_refused_client_stays_refused(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    options(&t, 6, 0x1ff, 0, SPAN(""));
    answer_with(&t, 'y', SPAN("554 5.7.1 go away\0"));
    expect_done(&t, MILTER_MAIL, MILTER_REJECT);
    buf_clear(&t.said);
    milter_ask(t.m, MILTER_MAIL);
    struct milter_event ev = step(&t);
    assert_int_equal(ev.verdict, MILTER_REJECT);
    assert_int_equal(ev.reply->code, 554);
    said(&t, "");
    finish(&t);
}

static void test_accept(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    begin(&t, 0);
    answers(&t, "a");
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    buf_clear(&t.said);
    expect_done(&t, MILTER_DATA, MILTER_CONTINUE);
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    said(&t, "");
    answers(&t, "c");
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE); /* it was that message alone */
    said(&t, "M<a@b>|SIZE=9|~");
    finish(&t);
    setup(&t, MESSAGE);
    options(&t, 6, 0x1ff, 0, SPAN(""));
    answers(&t, "a"); /* the client */
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    buf_clear(&t.said);
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    expect_done(&t, MILTER_MAIL, MILTER_CONTINUE);
    said(&t, "");
    finish(&t);
}

static void test_skip(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    begin(&t, 0);
    answers(&t, "s");
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    expect_done(&t, MILTER_RCPT, MILTER_CONTINUE);
    answers(&t, "scsc");
    expect_done(&t, MILTER_END, MILTER_CONTINUE);
    said(&t, "R<c@d>|~LFrom|x|~N~Bbody\r\n~E~");
    finish(&t);
}

static void test_replies(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum milter_verdict v;
        unsigned code;
        const char *enhanced, *words;
    } good[] = {
        { "550 5.7.1 no", MILTER_REJECT, 550, "5.7.1", "no" },
        { "451 4.7.1 later", MILTER_TEMPFAIL, 451, "4.7.1", "later" },
        { "421 4.3.2 bye", MILTER_CLOSE, 421, "4.3.2", "bye" },
        { "550-5.7.1 one\r\n550 5.7.1 two", MILTER_REJECT, 550, "5.7.1", "one" },
        { "550 words alone", MILTER_REJECT, 550, "", "words alone" },
        { "550 4.7.1 other class", MILTER_REJECT, 550, "", "4.7.1 other class" },
        { "550 5.7.1", MILTER_REJECT, 550, "5.7.1", "" },
        { "550 5.7", MILTER_REJECT, 550, "", "5.7" },
        { "550 5.1234.1 x", MILTER_REJECT, 550, "", "5.1234.1 x" },
        { "550", MILTER_REJECT, 550, "", "" },
        { "550 5.7.1 100%% 5% \x01\xc3\xa4", MILTER_REJECT, 550, "5.7.1", "100% 5% ???" },
    };
    static const char *const bad[] = { "",      "5",     "250 2.0.0 ok", "354 go",
                                       "560 x", "55x y", "5500 x",       "text" };
    struct talk t;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        setup(&t, MESSAGE);
        begin(&t, 0);
        answer_with(&t, 'y', span_of(good[i].text, strlen(good[i].text) + 1));
        milter_ask(t.m, MILTER_RCPT);
        struct milter_event ev = step(&t);
        assert_int_equal(ev.kind, MILTER_DONE);
        assert_int_equal(ev.verdict, good[i].v);
        assert_int_equal(ev.reply->code, good[i].code);
        assert_string_equal(ev.reply->enhanced, good[i].enhanced);
        assert_string_equal(ev.reply->text, good[i].words);
        finish(&t);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        setup(&t, MESSAGE);
        begin(&t, 0);
        answer_with(&t, 'y', span_of(bad[i], strlen(bad[i]) + 1));
        expect_failed(&t, MILTER_RCPT, "malformed reply");
        finish(&t);
    }
}

static struct milter_change next_change(struct talk *t)
{
    struct milter_event ev = step(t);
    assert_int_equal(ev.kind, MILTER_CHANGE);
    return ev.change;
}

static void test_changes(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    begin(&t, NR_ALL);
    answer_with(&t, 'h', SPAN("A\0b\0"));
    answer_with(&t, 'i', SPAN("\0\0\1\2C\0d\0"));
    answer_with(&t, 'm', SPAN("\0\0\0\2E\0\0"));
    answer_with(&t, 'b', SPAN("new"));
    answer_with(&t, 'q', SPAN("spam\0"));
    answer_with(&t, '+', SPAN("<x@y>\0"));
    answer_with(&t, 'p', SPAN(""));
    answers(&t, "c");
    milter_ask(t.m, MILTER_END);
    struct milter_change c = next_change(&t);
    assert_true(c.kind == MILTER_ADD && c.bare && span_eq(c.name, SPAN("A")));
    assert_true(span_eq(c.value, SPAN("b")));
    c = next_change(&t);
    assert_true(c.kind == MILTER_INSERT && c.index == 0x102 && span_eq(c.name, SPAN("C")));
    c = next_change(&t);
    assert_true(c.kind == MILTER_EDIT && c.index == 2 && c.value.n == 0);
    c = next_change(&t);
    assert_true(c.kind == MILTER_BODY && c.value.n == 0); /* it begins */
    c = next_change(&t);
    assert_true(c.kind == MILTER_BODY && c.value.n == 3);
    c = next_change(&t);
    assert_true(c.kind == MILTER_QUARANTINE && span_eq(c.value, SPAN("spam")));
    struct milter_event ev = step(&t);
    assert_true(ev.kind == MILTER_IGNORED && ev.command == '+');
    assert_int_equal(step(&t).kind, MILTER_PROGRESS);
    ev = step(&t);
    assert_true(ev.kind == MILTER_DONE && ev.verdict == MILTER_CONTINUE);
    finish(&t);
}

static void test_broken_filters(void **state)
{
    (void)state;
    static const struct {
        char command;
        struct span data;
        const char *why;
    } bad[] = {
        { 'h', { "A\0b", 3 }, "malformed change" },
        { 'h', { "A\0b\0c", 5 }, "malformed change" },
        { 'i', { "\0\0\0", 3 }, "malformed change" },
        { 'm', { "\0\0\0\1A\0", 6 }, "malformed change" },
        { 'q', { "x", 1 }, "malformed change" },
        { 'c', { "x", 1 }, "unknown answer" },
        { 'Z', { "", 0 }, "unknown answer" },
        { '\0', { "", 0 }, "unknown answer" },
        { 'O', { "", 0 }, "unexpected answer" },
    };
    struct talk t;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        setup(&t, MESSAGE);
        begin(&t, NR_ALL);
        answer_with(&t, bad[i].command, bad[i].data);
        expect_failed(&t, MILTER_END, bad[i].why);
        finish(&t);
    }
    setup(&t, MESSAGE);
    begin(&t, 0);
    answer_with(&t, 'h', SPAN("A\0b\0"));
    expect_failed(&t, MILTER_RCPT, "changes the message too early");
    finish(&t);
    setup(&t, MESSAGE);
    begin(&t, 0);
    buf_add(&t.in, SPAN("\0\0\0\0c"));
    expect_failed(&t, MILTER_RCPT, "not a packet of this protocol");
    finish(&t);
    setup(&t, MESSAGE);
    begin(&t, 0);
    buf_add(&t.in, SPAN("HTTP/1.1 400 Bad Request"));
    expect_failed(&t, MILTER_RCPT, "not a packet of this protocol");
    finish(&t);
    setup(&t, MESSAGE);
    answers(&t, "c");
    expect_failed(&t, MILTER_MAIL, "unexpected answer");
    finish(&t);
    for (uint32_t version = 1; version < 9; version += 6) {
        setup(&t, MESSAGE);
        options(&t, version, 0, 0, SPAN(""));
        expect_failed(&t, MILTER_MAIL, "malformed or unknown options");
        finish(&t);
    }
    setup(&t, MESSAGE);
    options(&t, 6, 0, 0, SPAN("\0\0\0\0no end"));
    expect_failed(&t, MILTER_MAIL, "malformed or unknown options");
    finish(&t);
    setup(&t, MESSAGE);
    options(&t, 6, 0, 0, SPAN(""));
    answers(&t, "d");
    expect_failed(&t, MILTER_MAIL, "discards a connection");
    finish(&t);
}

/* An answer that nobody waits for would be the answer to the next question. */
static void test_out_of_turn(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    begin(&t, 0);
    milter_ask(t.m, MILTER_RCPT);
    struct span early = SPAN("\0\0\0\1c");
    struct milter_event ev = milter_step(t.m, &early, &t.out);
    assert_int_equal(ev.kind, MILTER_FAILED);
    assert_string_equal(ev.why, "speaks out of turn");
    finish(&t);
}

static void test_no_abort_while_an_answer_is_owed(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    begin(&t, 0);
    milter_ask(t.m, MILTER_RCPT);
    assert_int_equal(step(&t).kind, MILTER_WAIT);
    assert_false(milter_abort(t.m, &t.out));
    finish(&t);
}

static void test_waits(void **state)
{
    (void)state;
    struct talk t;
    setup(&t, MESSAGE);
    milter_ask(t.m, MILTER_MAIL);
    assert_int_equal(step(&t).wait, MILTER_WAIT_OPTIONS);
    options(&t, 6, 0x1ff, 0, SPAN(""));
    struct milter_event ev = step(&t);
    assert_int_equal(ev.wait, MILTER_WAIT_ANSWER);
    assert_int_equal(step(&t).asked, ev.asked);
    answers(&t, "c");
    assert_int_not_equal(step(&t).asked, ev.asked);
    answers(&t, "cc");
    assert_int_equal(step(&t).kind, MILTER_DONE);
    milter_ask(t.m, MILTER_END);
    answers(&t, "cccc");
    assert_int_equal(step(&t).wait, MILTER_WAIT_END);
    finish(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_message),
        cmocka_unit_test(test_unwanted_and_unanswered),
        cmocka_unit_test(test_macros_by_name),
        cmocka_unit_test(test_body_in_chunks),
        cmocka_unit_test(test_much_is_sent_first),
        cmocka_unit_test(test_long_value),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_a_refused_recipient_is_one),
        cmocka_unit_test(test_a_refused_client_stays_refused),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_broken_filters),
        cmocka_unit_test(test_out_of_turn),
        cmocka_unit_test(test_no_abort_while_an_answer_is_owed),
        cmocka_unit_test(test_waits),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
