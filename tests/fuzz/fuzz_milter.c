/*
 * fuzz_milter: any octets as what a content filter answers, through a whole session of messages.
 *
 * The first octet sets the options; the rest is what the filter says. It is told a packet at a time
 * and an octet at a time, when it is asked: the events and what is sent must be the same. Then all
 * of it at once, out of turn. The changes are done, and the message that comes of them must be one:
 * bounded, of CRLF lines, with a header of fields alone and our own among them.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "milter.h"

#define MAX    ((size_t)4096)
#define MOST   ((size_t)64 << 20)
#define OWN    "Received: by mx.example.com\r\n"
#define EVENTS 2000

/* What a filter says at a time. */
enum manner { PACKETS, OCTETS, ALL };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    struct milter *m;
    struct milter_facts facts;
    struct rewrite *message;
    struct buf transcript;
    struct buf out;
    struct buf pending; /* the input that was not eaten yet */
    unsigned events;
};

static void record(struct run *r, const char *what, struct span s)
{
    CHECK(buf_addf(&r->transcript, "%s %zu:", what, s.n) == ERR_OK);
    CHECK(buf_add(&r->transcript, s) == ERR_OK);
}

static enum err change(struct run *r, const struct milter_change *c)
{
    switch (c->kind) {
    case MILTER_ADD:
        return rewrite_add(r->message, c->name, c->value);
    case MILTER_INSERT:
        return rewrite_insert(r->message, c->index, c->name, c->value);
    case MILTER_EDIT:
        return rewrite_change(r->message, c->name, c->index, c->value);
    case MILTER_BODY:
        return rewrite_replace(r->message, c->value);
    default:
        return ERR_OK;
    }
}

static void check_lines(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        CHECK(s.p[i] != '\r' || (i + 1 < s.n && s.p[i + 1] == '\n'));
        CHECK(s.p[i] != '\n' || (i > 0 && s.p[i - 1] == '\r'));
    }
    CHECK(s.n == 0 || s.p[s.n - 1] == '\n');
}

/* Each line of a header is a field, goes on with one, or is the empty one at its end. */
static void check_head(struct span s)
{
    bool first = true;
    while (s.n > 0) {
        size_t n = span_find(s, '\n') + 1;
        struct span line = span_first(s, n - 2);
        s = span_skip(s, n);
        if (line.n == 0) {
            CHECK(s.n == 0);
            return;
        }
        bool folded = line.p[0] == ' ' || line.p[0] == '\t';
        CHECK(folded ? !first : span_find(line, ':') < line.n && line.p[0] != ':');
        first = false;
    }
}

static void check_message(struct run *r)
{
    struct span head, body;
    rewrite_message(r->message, &head, &body);
    check_lines(head);
    check_lines(body);
    check_head(head);
    CHECK(body.n <= MAX + 2 && head.n <= REWRITE_HEADER + REWRITE_ADDED);
    CHECK(memmem(head.p, head.n, OWN, sizeof OWN - 1));
    record(r, "message", head);
    record(r, "body", body);
}

static size_t piece_length(struct span all, enum manner manner)
{
    const uint8_t *p = (const uint8_t *)all.p;
    if (manner == OCTETS || (manner == PACKETS && all.n < 4)) {
        return 1;
    }
    if (manner == ALL) {
        return all.n;
    }
    return 4 + (size_t)((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
}

static void say(struct run *r, struct span *all, enum manner manner)
{
    struct span piece = span_first(*all, piece_length(*all, manner));
    CHECK(buf_add(&r->pending, piece) == ERR_OK);
    *all = span_skip(*all, piece.n);
}

/* To the end of the stage, or of the input. False: there is no more to be had. */
static bool lead(struct run *r, struct span *all, enum manner manner)
{
    for (;;) {
        struct span in = buf_span(&r->pending);
        size_t before = in.n;
        struct milter_event ev = milter_step(r->m, &in, &r->out);
        struct span name = ev.change.name.p ? ev.change.name : SPAN("");
        /* What it points to is ours until the next step, so the pending input stays. */
        if (ev.kind == MILTER_CHANGE) {
            if (ev.change.kind != MILTER_BODY) {
                record(r, "change", name);
                record(r, "value", ev.change.value);
            }
            if (change(r, &ev.change) != ERR_OK) {
                return false;
            }
        }
        buf_take(&r->pending, before - in.n);
        if (++r->events > EVENTS) {
            return false;
        }
        switch (ev.kind) {
        case MILTER_WAIT:
            CHECK(buf_len(&r->pending) == 0);
            if (all->n == 0) {
                return false;
            }
            say(r, all, manner);
            break;
        case MILTER_SEND:
            buf_clear(&r->out);
            break;
        case MILTER_DONE:
            CHECK(ev.reply->code == 0 || (ev.reply->code >= 400 && ev.reply->code < 600));
            CHECK(buf_addf(&r->transcript, "done %d %u %s %s", (int)ev.verdict, ev.reply->code,
                           ev.reply->enhanced, ev.reply->text) == ERR_OK);
            return true;
        case MILTER_FAILED:
            record(r, "failed", SPAN(""));
            return false;
        default:
            break;
        }
    }
}

static void fill(struct run *r)
{
    rewrite_reset(r->message);
    CHECK(rewrite_append(r->message, SPAN("From: a@example.com\r\nSubject: one\r\n two\r\n"
                                          "X-Spam: yes\r\nX-Spam: no\r\n\r\nbody\r\n")) == ERR_OK);
    CHECK(rewrite_parse(r->message, SPAN(OWN)) == ERR_OK);
}

static bool message(struct run *r, struct span *all, enum manner manner)
{
    static const enum milter_stage stages[] = { MILTER_MAIL, MILTER_RCPT, MILTER_RCPT, MILTER_DATA,
                                                MILTER_END };
    fill(r);
    for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
        if (stages[i] == MILTER_END) {
            rewrite_begin(r->message);
        }
        milter_ask(r->m, stages[i]);
        if (!lead(r, all, manner)) {
            rewrite_abort(r->message);
            check_message(r);
            return false;
        }
    }
    rewrite_commit(r->message);
    check_message(r);
    return milter_abort(r->m, &r->out);
}

static void run(struct run *r, uint8_t flags, struct span all, enum manner manner)
{
    *r = (struct run){ .facts = { .client_name = SPAN("[192.0.2.1]"),
                                  .client_address = SPAN("192.0.2.1"),
                                  .client_family = flags & 1 ? '4' : 'U',
                                  .helo = SPAN("client.example.com"),
                                  .greetings = 1,
                                  .mail = SPAN("<a@example.com>\0SIZE=1\0"),
                                  .rcpt = SPAN("<b@example.com>\0") } };
    for (size_t i = 0; i < MILTER_MACROS; i++) {
        r->facts.macros[i] = flags & 2 ? SPAN("x") : SPAN("");
    }
    r->message = rewrite_new(MAX);
    r->facts.message = r->message;
    buf_init(&r->transcript, MOST);
    buf_init(&r->out, MILTER_OUT);
    buf_init(&r->pending, MOST);
    r->m = milter_new(&r->facts);
    while (message(r, &all, manner)) {
        r->facts.greetings += flags & 4 ? 1 : 0;
        if (++r->events > EVENTS || all.n + buf_len(&r->pending) == 0) {
            break;
        }
    }
    record(r, "out", buf_span(&r->out));
    milter_free(&r->m);
    rewrite_free(&r->message);
    buf_fini(&r->out);
    buf_fini(&r->pending);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run packets, octets, all;
    if (size < 1) {
        return 0;
    }
    struct span said = span_of(data + 1, size - 1);
    run(&packets, data[0], said, PACKETS);
    run(&octets, data[0], said, OCTETS);
    run(&all, data[0], said, ALL);
    CHECK(packets.events > EVENTS || octets.events > EVENTS ||
          span_eq(buf_span(&packets.transcript), buf_span(&octets.transcript)));
    buf_fini(&packets.transcript);
    buf_fini(&octets.transcript);
    buf_fini(&all.transcript);
    return 0;
}
