/*
 * fuzz_bdat: any octets as the chunks of a message, in SMTP and LMTP, with both treatments of bare
 * newlines.
 *
 * The first octet sets the options, the second seeds the splits. The rest is cut into chunks by
 * itself: an octet says how long the next one is, and whether it is the last. A plain statement of
 * the rules here says what must be stored, and a NOOP behind the message that nothing of it was
 * read as a command and nothing behind it as the message.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "smtp.h"

#define MOST ((size_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    struct smtp *s;
    struct smtp_options o;
    struct buf in, raw, expected, got;
    struct buf out;
    bool bare;
    unsigned accepted, resets;
    uint32_t splits;
};

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 16;
}

static void add(struct buf *b, struct span s)
{
    if (s.n > 0) {
        CHECK(buf_add(b, s) == ERR_OK);
    }
}

/* What the client sends: an envelope, chunks up to the last, and a NOOP. */
static void write_input(struct run *r, struct span rest)
{
    add(&r->in, r->o.lmtp ? SPAN("LHLO c\r\n") : SPAN("EHLO c\r\n"));
    add(&r->in, SPAN("MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n"));
    for (bool last = false; !last;) {
        unsigned char head = rest.n ? (unsigned char)*rest.p : 128;
        struct span chunk = span_first(span_skip(rest, 1), head & 127);
        rest = span_skip(rest, 1 + chunk.n);
        last = head & 128 || rest.n == 0;
        CHECK(buf_addf(&r->in, "BDAT %zu%s\r\n", chunk.n, last ? " LAST" : "") == ERR_OK);
        add(&r->in, chunk);
        add(&r->raw, chunk);
    }
    add(&r->in, SPAN("NOOP\r\n"));
}

/* Each CR LF, bare CR and bare LF is a line end, and the message ends in one. */
static void write_expected(struct run *r)
{
    struct span raw = buf_span(&r->raw);
    bool ended = true;
    for (size_t i = 0; i < raw.n; i++) {
        bool crlf = raw.p[i] == '\r' && i + 1 < raw.n && raw.p[i + 1] == '\n';
        ended = raw.p[i] == '\r' || raw.p[i] == '\n';
        r->bare = r->bare || (ended && !crlf);
        add(&r->expected, ended ? SPAN("\r\n") : span_of(raw.p + i, 1));
        i += crlf;
    }
    add(&r->expected, ended ? SPAN("") : SPAN("\r\n"));
}

static void answer_end(struct run *r)
{
    CHECK(span_eq(buf_span(&r->got), buf_span(&r->expected)));
    r->accepted++;
    smtp_end_answer(r->s, &(enum smtp_verdict){ SMTP_OK }, 1, SPAN(""), &r->out);
}

static void act(struct run *r, const struct smtp_action *a)
{
    switch (a->kind) {
    case SMTP_MAIL:
        smtp_mail_answer(r->s, SMTP_OK, &r->out);
        break;
    case SMTP_RCPT:
        smtp_rcpt_answer(r->s, SMTP_OK, &r->out);
        break;
    case SMTP_DATA_BEGIN:
        smtp_data_answer(r->s, SMTP_OK, &r->out);
        break;
    case SMTP_DATA:
        add(&r->got, a->u.data);
        break;
    case SMTP_DATA_END:
        answer_end(r);
        break;
    case SMTP_RESET:
        r->resets++;
        break;
    default:
        UNREACHABLE();
    }
}

static void feed(struct run *r, struct span piece)
{
    for (;;) {
        struct smtp_action a = smtp_step(r->s, &piece, &r->out);
        if (a.kind == SMTP_NEED_INPUT) {
            CHECK(piece.n == 0);
            return;
        }
        act(r, &a);
    }
}

/* The last reply is the one to NOOP, and there is no second. */
static void check_replies(const struct run *r)
{
    struct span out = buf_span(&r->out), noop = SPAN("\r\n250 2.0.0 Nothing done\r\n");
    const char *at = memmem(out.p, out.n, noop.p, noop.n);
    CHECK(at && at + noop.n == out.p + out.n);
}

static void run(struct run *r)
{
    for (struct span rest = buf_span(&r->in); rest.n > 0;) {
        struct span piece = span_first(rest, r->splits ? 1 + next(&r->splits) % 8 : rest.n);
        feed(r, piece);
        rest = span_skip(rest, piece.n);
    }
    bool fits = buf_len(&r->expected) <= r->o.max_size;
    bool lines = !r->bare || r->o.normalize_newlines;
    CHECK(r->accepted == (fits && lines));
    CHECK(r->accepted + r->resets == 1);
    check_replies(r);
}

static void try(const uint8_t *data, size_t size, uint32_t splits)
{
    struct run r = { .o = { .lmtp = data[0] & 1,
                            .normalize_newlines = data[0] & 2,
                            .max_size = data[0] & 4 ? 100 : MOST,
                            .max_recipients = 1,
                            .max_received = 1000000,
                            .max_errors = MOST, /* a refused chunk is one, and may be an octet */
                            .hostname = "mx.example.com" },
                     .splits = splits };
    r.s = smtp_new(&r.o);
    struct buf *all[] = { &r.in, &r.raw, &r.expected, &r.got, &r.out };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_init(all[i], 8 * MOST);
    }
    write_input(&r, span_of(data + 2, size - 2));
    write_expected(&r);
    run(&r);
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_fini(all[i]);
    }
    smtp_free(&r.s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && size < MOST / 4) {
        try(data, size, 0);
        try(data, size, data[1] | 0x100u);
    }
    return 0;
}
