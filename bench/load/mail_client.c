/*
 * mail_client: see the header.
 *
 * The replies of a transaction are numbered: MAIL is 0, then one for each RCPT, one for DATA, and
 * those to the message. asked and answered are the only places in that order.
 */
#include "mail_client.h"

#include <inttypes.h>
#include <stdio.h>

#define OUT_LIMIT (256 * 1024)

enum stage { STAGE_GREETING, STAGE_HELLO, STAGE_MAIL, STAGE_QUIT, STAGE_CLOSED };

struct session {
    const struct mail_plan *plan;
    uint64_t ticket;
    enum stage stage;
    bool pipelining; /* the server offers it */
    bool begun;      /* a reply of several lines */
    bool sending;    /* the message */
    uint64_t asked, answered;
    uint64_t sent; /* messages of this connection */
    struct message m;
    struct message_reader r;
};

static bool begin(void *client, const void *plan)
{
    struct session *s = client;
    s->plan = plan;
    return tickets_take(s->plan->tickets, &s->ticket);
}

static void end(void *client)
{
    (void)client;
}

/* Replies up to and with that to DATA. */
static uint64_t before_message(const struct session *s)
{
    return s->plan->recipients + 2;
}

static uint64_t all_replies(const struct session *s)
{
    return before_message(s) + (s->plan->lmtp ? s->plan->recipients : 1);
}

/* --- commands ----------------------------------------------------------------------------------
 */

static void write_command(struct session *s, uint64_t i, struct buf *out)
{
    const struct mail_plan *p = s->plan;
    if (i == 0) {
        buf_addf(out, "MAIL FROM:<%s>\r\n", p->from);
    } else if (i <= p->recipients) {
        buf_add(out, SPAN("RCPT TO:<"));
        names_add(&p->names, p->first + (s->ticket * p->recipients + i - 1) % p->users, out);
        buf_add(out, SPAN(">\r\n"));
    } else {
        buf_add(out, SPAN("DATA\r\n"));
    }
}

static void ask(struct session *s, struct buf *out)
{
    while (s->asked < before_message(s) && (s->asked == s->answered || s->pipelining)) {
        write_command(s, s->asked++, out);
    }
}

static void begin_transaction(struct session *s)
{
    const struct mail_plan *p = s->plan;
    uint64_t serial = p->serial + s->ticket;
    message_init(&s->m, serial, p->size ? p->size : message_real_size(serial));
    s->stage = STAGE_MAIL;
    s->asked = s->answered = 0;
}

static void begin_message(struct session *s)
{
    message_read(&s->r, &s->m);
    s->sending = true;
    s->asked = all_replies(s);
}

/* As much of it as there is room for. */
static bool fill(void *client, struct buf *out)
{
    struct session *s = client;
    struct span piece;
    while (s->sending && buf_room(out) > MESSAGE_END.n) {
        piece = message_peek(&s->r);
        if (!piece.n) {
            buf_add(out, MESSAGE_END);
            s->sending = false;
            break;
        }
        piece = span_first(piece, buf_room(out));
        buf_add(out, piece);
        message_eat(&s->r, piece.n);
    }
    return buf_len(out) > 0;
}

/* --- replies -----------------------------------------------------------------------------------
 */

static const char *expected(const struct session *s)
{
    switch (s->stage) {
    case STAGE_GREETING:
        return "220";
    case STAGE_MAIL:
        return s->answered + 1 == before_message(s) ? "354" : "250";
    case STAGE_QUIT:
        return "221";
    default:
        return "250";
    }
}

/* What a reply is to, for error messages. */
static const char *asked_for(const struct session *s)
{
    static const char *const stages[] = { "greeting", "hello", "", "QUIT", "end" };
    if (s->stage != STAGE_MAIL) {
        return stages[s->stage];
    }
    return s->answered == 0                     ? "MAIL"
           : s->answered <= s->plan->recipients ? "RCPT"
           : s->answered < before_message(s)    ? "DATA"
                                                : "message";
}

/* A line of a reply. CLIENT_DONE: its last. */
static enum client_verdict take_line(struct session *s, struct span line)
{
    bool last = line.n == 3 || (line.n > 3 && line.p[3] == ' ');
    if (!span_starts(line, span_str(expected(s))) || (!last && line.p[3] != '-')) {
        return client_wrong("%s: %.*s", asked_for(s), line.n > 200 ? 200 : (int)line.n, line.p);
    }
    if (s->stage == STAGE_HELLO && s->begun &&
        span_eq_nocase(span_skip(line, 4), SPAN("PIPELINING"))) {
        s->pipelining = s->plan->pipeline;
    }
    s->begun = !last;
    return last ? CLIENT_DONE : CLIENT_MORE;
}

/* The message was taken. */
static void finish(struct session *s, struct buf *out)
{
    s->sent++;
    if (s->sent < s->plan->per_connection && tickets_take(s->plan->tickets, &s->ticket)) {
        begin_transaction(s);
        ask(s, out);
    } else {
        s->stage = STAGE_QUIT;
        buf_add(out, SPAN("QUIT\r\n"));
    }
}

static enum client_verdict take_mail_reply(struct session *s, struct buf *out)
{
    if (s->sending) {
        return client_wrong("a reply before the message was sent");
    }
    s->answered++;
    if (s->answered == before_message(s)) {
        begin_message(s);
    } else if (s->answered == all_replies(s)) {
        finish(s, out);
        return CLIENT_DONE;
    }
    ask(s, out);
    return CLIENT_MORE;
}

/* A whole reply of the right code. */
static enum client_verdict take_reply(struct session *s, struct buf *out)
{
    switch (s->stage) {
    case STAGE_GREETING:
        s->stage = STAGE_HELLO;
        buf_add(out,
                s->plan->lmtp ? SPAN("LHLO client.example\r\n") : SPAN("EHLO client.example\r\n"));
        return CLIENT_MORE;
    case STAGE_HELLO:
        begin_transaction(s);
        ask(s, out);
        return CLIENT_MORE;
    case STAGE_MAIL:
        return take_mail_reply(s, out);
    default:
        s->stage = STAGE_CLOSED;
        return CLIENT_CLOSED;
    }
}

/* How many replies the server owes. */
static uint64_t owed(const struct session *s)
{
    return s->stage == STAGE_MAIL ? s->asked - s->answered : 1;
}

static enum client_verdict feed(void *client, struct span *in, struct buf *out)
{
    struct session *s = client;
    struct span line;
    enum client_verdict v;
    while ((v = client_line(in, &line)) == CLIENT_DONE) {
        v = take_line(s, line);
        if (v == CLIENT_MORE) {
            continue;
        }
        bool is_last = owed(s) == 1;
        v = v == CLIENT_DONE ? take_reply(s, out) : v;
        if (v != CLIENT_WRONG && is_last && in->n) {
            return client_wrong("octets that nothing was asked for");
        }
        if (v != CLIENT_MORE) {
            return v;
        }
    }
    return v;
}

static void describe(const void *client, struct buf *out)
{
    const struct session *s = client;
    buf_addf(out, "message %" PRIu64, s->plan->serial + s->ticket);
}

const struct client_type mail_client = {
    .name = "load_mail",
    .size = sizeof(struct session),
    .out_limit = OUT_LIMIT,
    .begin = begin,
    .feed = feed,
    .fill = fill,
    .end = end,
    .describe = describe,
};
