/*
 * fuzz_smtp: any octets as what a client sends, in SMTP and LMTP, with both treatments of bare
 * newlines.
 *
 * The first octet sets the options, the second seeds the session's verdicts and the splits; the
 * rest is the input. It is fed whole, then in pieces: the replies and the messages must be the
 * same. Every reply must be well formed, and a message must end at the first CRLF.CRLF, looked for
 * here in the simplest way there is: anything else is a way to smuggle mail.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "smtp.h"

#define TRANSCRIPT_MOST ((size_t)64 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    struct smtp *s;
    struct smtp_options o;
    struct buf out;
    struct buf transcript; /* replies and messages, in their order */
    struct buf message;
    size_t recipients;
    uint32_t verdicts; /* the states of two generators */
    uint32_t splits;
    const char *raw; /* where the input behind 354 begins; NULL outside of a message */
};

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 16;
}

/* OK half of the time. */
static enum smtp_verdict next_verdict(struct run *r)
{
    uint32_t n = next(&r->verdicts);
    return n % 2 ? SMTP_OK : (enum smtp_verdict)(n / 2 % SMTP_VERDICTS);
}

static void record(struct run *r, struct span s)
{
    if (s.n > 0) {
        CHECK(buf_add(&r->transcript, s) == ERR_OK);
    }
}

static bool digit(char c, char from, char to)
{
    return c >= from && c <= to;
}

/* RFC 5321, sections 4.2 and 4.5.3.1.5; RFC 2034, section 4. */
static void check_line(struct span line)
{
    CHECK(line.n >= 6 && line.n <= 512 && line.p[line.n - 2] == '\r');
    CHECK(digit(line.p[0], '2', '5') && digit(line.p[1], '0', '5') && digit(line.p[2], '0', '9'));
    CHECK(line.p[3] == ' ' || line.p[3] == '-');
    for (size_t i = 0; i < line.n - 2; i++) {
        unsigned char c = (unsigned char)line.p[i];
        CHECK(c >= ' ' && c != 127);
    }
    if (line.p[5] == '.') {
        CHECK(line.p[4] == line.p[0]);
    }
}

static void take_replies(struct run *r)
{
    struct span rest = buf_span(&r->out);
    while (rest.n > 0) {
        size_t n = span_find(rest, '\n');
        CHECK(n < rest.n);
        check_line(span_first(rest, n + 1));
        rest = span_skip(rest, n + 1);
    }
    record(r, buf_span(&r->out));
    buf_clear(&r->out);
}

/* Where a message ends in what was sent, said plainly; NULL when it does not. */
static const char *end_of_message(struct span raw)
{
    if (span_starts(raw, SPAN(".\r\n"))) {
        return raw.p + 3;
    }
    const char *at = raw.n ? memmem(raw.p, raw.n, "\r\n.\r\n", 5) : NULL;
    return at ? at + 5 : NULL;
}

/* Of messages that came by DATA; fuzz_bdat has the others. */
static void check_end(struct run *r, const char *eaten, struct span all)
{
    if (!r->raw) {
        return;
    }
    size_t n = (size_t)(all.p + all.n - r->raw);
    CHECK(end_of_message(span_of(r->raw, n)) == eaten);
    r->raw = NULL;
}

static void check_message(const struct run *r)
{
    struct span m = buf_span(&r->message);
    CHECK(m.n <= r->o.max_size);
    CHECK(m.n == 0 || (m.n >= 2 && memcmp(m.p + m.n - 2, "\r\n", 2) == 0));
    for (size_t i = 0; i < m.n; i++) {
        bool crlf = m.p[i] == '\r' ? m.p[i + 1] == '\n' : i > 0 && m.p[i - 1] == '\r';
        CHECK((m.p[i] != '\r' && m.p[i] != '\n') || crlf);
    }
}

static void end_message(struct run *r)
{
    size_t n = r->o.lmtp ? r->recipients : 1;
    enum smtp_verdict *v = NEW_ARRAY(enum smtp_verdict, n);
    check_message(r);
    record(r, buf_span(&r->message));
    for (size_t i = 0; i < n; i++) {
        v[i] = next_verdict(r);
    }
    smtp_end_answer(r->s, v, n, SPAN("id"), &r->out);
    free(v);
    r->recipients = 0;
    buf_clear(&r->message);
}

static void answer_xclient(struct run *r, const struct smtp_xclient *x)
{
    for (enum xclient_attribute a = 0; a < XCLIENT_ATTRIBUTES; a++) {
        record(r, xclient_has(x, a) ? span_str(x->value[a]) : SPAN(""));
    }
    smtp_xclient_answer(r->s, next(&r->verdicts) % 2, &r->out);
}

/* A filter's reply that has all kinds of mistakes. */
static void word_refusal(struct run *r, struct span text)
{
    char enhanced[16];
    int n = snprintf(enhanced, sizeof enhanced, "%u.%u.%u", next(&r->verdicts) % 8,
                     next(&r->verdicts) % 2000, next(&r->verdicts) % 10);
    smtp_custom_reply(r->s, next(&r->verdicts) % 700, span_of(enhanced, (size_t)n), text);
    smtp_reply_text(r->s, text);
}

static void answer_mail(struct run *r, const struct address *from)
{
    struct span words[PARAMETERS_MAIL_MAX];
    size_t n = smtp_mail_parameters(r->s, words);
    record(r, span_of(from->canon, from->canon_len));
    for (size_t i = 0; i < n; i++) {
        record(r, words[i]);
    }
    word_refusal(r, span_of(from->text, from->len));
    smtp_mail_answer(r->s, next_verdict(r), &r->out);
}

static void answer_rcpt(struct run *r, const struct address *a)
{
    record(r, span_of(a->canon, a->canon_len));
    word_refusal(r, span_of(a->text, a->len));
    enum smtp_verdict v = next_verdict(r);
    smtp_rcpt_answer(r->s, v, &r->out);
    r->recipients += v == SMTP_OK || v == SMTP_DISCARDED;
    CHECK(r->recipients <= r->o.max_recipients);
}

/* The line before begins with DATA or BDAT. */
static bool is_data(struct span rest, struct span all)
{
    const char *at = rest.p;
    while (at > all.p && at[-1] != '\n') {
        at--;
    }
    for (at = at > all.p ? at - 1 : at; at > all.p && at[-1] != '\n';) {
        at--;
    }
    struct span line = span_of(at, (size_t)(rest.p - at));
    return span_starts_nocase(span_trim(line), SPAN("DATA"));
}

static void answer_data(struct run *r, struct span rest, struct span all)
{
    enum smtp_verdict v = next_verdict(r);
    bool data = is_data(rest, all);
    CHECK(r->recipients > 0);
    smtp_data_answer(r->s, v, &r->out);
    if (v == SMTP_OK || v == SMTP_DISCARDED) {
        r->raw = data ? rest.p : NULL;
    } else if (data) {
        r->recipients = 0;
    }
}

/* One piece of the input; false when the engine has closed. */
static bool feed(struct run *r, struct span piece, struct span all)
{
    for (;;) {
        struct smtp_action a = smtp_step(r->s, &piece, &r->out);
        take_replies(r);
        switch (a.kind) {
        case SMTP_NEED_INPUT:
            CHECK(piece.n == 0);
            return true;
        case SMTP_FLUSH:
            break;
        case SMTP_STARTTLS:
            smtp_tls_answer(r->s);
            break;
        case SMTP_XCLIENT:
            answer_xclient(r, a.u.xclient);
            break;
        case SMTP_MAIL:
            answer_mail(r, a.u.reverse_path);
            break;
        case SMTP_RCPT:
            answer_rcpt(r, a.u.rcpt);
            break;
        case SMTP_DATA_BEGIN:
            answer_data(r, piece, all);
            break;
        case SMTP_DATA:
            CHECK(a.u.data.n > 0);
            CHECK(buf_add(&r->message, a.u.data) == ERR_OK);
            break;
        case SMTP_DATA_END:
            check_end(r, piece.p, all);
            end_message(r);
            break;
        case SMTP_RESET:
            check_end(r, piece.p, all);
            r->recipients = 0;
            buf_clear(&r->message);
            break;
        case SMTP_CLOSE:
            return false;
        }
    }
}

static void run_init(struct run *r, uint8_t flags, uint8_t seed)
{
    *r = (struct run){
        .o = { .lmtp = flags & 1,
               .normalize_newlines = flags & 2,
               .tls_offered = flags & 4,
               .xclient = flags & 128,
               .max_messages = flags & 128 ? 2 : 0,
               .max_size = flags & 8 ? 100 : 1000000,
               .max_recipients = flags & 16 ? 2 : 100,
               .max_received = flags & 32 ? 1 : 100,
               .max_errors = flags & 64 ? 3 : 1000,
               .hostname = "mx.example.com" },
        .verdicts = seed,
        .splits = seed,
    };
    r->s = smtp_new(&r->o);
    buf_init(&r->out, SMTP_OUT_MIN + 50);
    buf_init(&r->transcript, TRANSCRIPT_MOST);
    buf_init(&r->message, TRANSCRIPT_MOST);
}

static void run_fini(struct run *r)
{
    smtp_free(&r->s);
    buf_fini(&r->out);
    buf_fini(&r->transcript);
    buf_fini(&r->message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run whole, pieces;
    if (size < 2) {
        return 0;
    }
    struct span all = span_of(data + 2, size - 2);
    run_init(&whole, data[0], data[1]);
    run_init(&pieces, data[0], data[1]);
    feed(&whole, all, all);
    for (struct span rest = all; rest.n > 0;) {
        struct span piece = span_first(rest, 1 + next(&pieces.splits) % 8);
        if (!feed(&pieces, piece, all)) {
            break;
        }
        rest = span_skip(rest, piece.n);
    }
    CHECK(span_eq(buf_span(&whole.transcript), buf_span(&pieces.transcript)));
    run_fini(&whole);
    run_fini(&pieces);
    return 0;
}
