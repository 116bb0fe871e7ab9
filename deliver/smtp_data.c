/*
 * smtp_data: see the header. What is wrong with a message is said behind its end, and all of it is
 * eaten, since nothing in it may pass for a command.
 */
#include "smtp_data.h"

#include <stdio.h>

#include "base/check.h"
#include "smtp_reply.h"

#define CHUNKS_END_ROOM 4 /* what dot_decode_chunks_end may append */

/* The message and its replies. */

/*
 * What the engine has to say against the message so far, OK when nothing. It is computed
 * from counts that only grow, so it does not depend on how the message was cut into pieces.
 */
static enum reply judge(const struct smtp *s)
{
    if (s->refusal != REPLY_OK) {
        return s->refusal;
    }
    if (s->size > s->o.max_size) {
        return REPLY_TOO_LARGE;
    }
    if (s->hops.n > s->o.max_received) {
        return REPLY_MAIL_LOOP;
    }
    if (s->dot.bare && !s->dot.normalize) {
        return REPLY_BARE_NEWLINE;
    }
    return REPLY_OK;
}

/* RFC 2033, section 4.2: one for each recipient that RCPT accepted. */
static size_t replies_due(const struct smtp *s)
{
    return s->o.lmtp ? s->recipients : 1;
}

static void begin_replies(struct smtp *s)
{
    s->outcome = NEW_ARRAY(unsigned char, replies_due(s));
    s->phase = PHASE_REPLIES;
}

static enum smtp_action_kind step_replies(struct smtp *s, struct buf *out)
{
    while (s->replied < replies_due(s)) {
        if (buf_room(out) < SMTP_OUT_MIN) {
            return SMTP_FLUSH;
        }
        enum reply r = s->outcome[s->replied++];
        if (smtp_reply_grants((enum smtp_verdict)r)) {
            smtp_reply_on(r, SPAN(""), span_str(s->receipt), out);
        } else {
            smtp_reply_refusal(s, r, SPAN(""), out);
        }
    }
    enum smtp_action_kind kind = SMTP_NEED_INPUT;
    if (judge(s) != REPLY_OK) {
        kind = smtp_state_abandon(s);
    } else {
        smtp_state_end(s);
    }
    smtp_reply_hang_up(s);
    return kind;
}

static enum smtp_action_kind step_end(struct smtp *s, struct buf *out)
{
    enum reply r = judge(s);
    if (r == REPLY_OK) {
        return SMTP_DATA_END;
    }
    begin_replies(s);
    memset(s->outcome, (int)r, replies_due(s));
    return step_replies(s, out);
}

/* What was decoded: goes out unless the message will be refused. */
static bool take_piece(struct smtp *s)
{
    struct span piece = buf_span(&s->piece);
    s->size += piece.n;
    hops_scan(&s->hops, piece);
    return piece.n > 0 && judge(s) == REPLY_OK;
}

/* A message that will be refused is eaten to its end, as nothing in it may pass for a command. */
static enum smtp_action_kind step_data(struct smtp *s, struct span *in, struct buf *out)
{
    buf_clear(&s->piece);
    bool complete = dot_decode(&s->dot, in, &s->piece);
    bool wanted = take_piece(s);
    if (complete) {
        s->phase = PHASE_END;
    }
    if (wanted) {
        return SMTP_DATA;
    }
    return complete ? step_end(s, out) : SMTP_NEED_INPUT;
}

/* Chunks (RFC 3030). */

static bool is_message(const struct chunk *c)
{
    return c->from == PHASE_RCPT || c->from == PHASE_CHUNKS;
}

/*
 * A chunk where none may be. That is no error until there are very many: the client may have sent
 * all of them at once, before it knew that there is no recipient or that the first was refused.
 */
static enum smtp_action_kind end_stray_chunk(struct smtp *s, struct buf *out)
{
    enum reply need_greeting = s->o.lmtp ? REPLY_NEED_LHLO : REPLY_NEED_EHLO;
    s->phase = s->chunk.from;
    smtp_reply(s->phase == PHASE_NEW    ? need_greeting
               : s->phase == PHASE_IDLE ? REPLY_NEED_MAIL
                                        : REPLY_NEED_RCPT,
               out);
    if (++s->idle_commands > IDLE_COMMANDS_MAX) {
        smtp_reply_error(s, out);
    }
    return SMTP_NEED_INPUT;
}

/* The message goes on after this chunk, or has been refused. */
static enum smtp_action_kind end_chunk(struct smtp *s, struct buf *out)
{
    enum reply r = judge(s);
    if (r != REPLY_OK) {
        smtp_reply_refusal(s, r, SPAN(""), out);
        enum smtp_action_kind kind = smtp_state_abandon(s);
        smtp_reply_hang_up(s);
        return kind;
    }
    smtp_reply_must(buf_addf(out, "%u %s %llu %s\r\n", replies[REPLY_CHUNK_OK].code,
                             replies[REPLY_CHUNK_OK].enhanced, (unsigned long long)s->chunk.size,
                             replies[REPLY_CHUNK_OK].text));
    s->phase = PHASE_CHUNKS;
    return SMTP_NEED_INPUT;
}

/* Octets of the chunk that lie in *in. */
static struct span chunk_octets(const struct smtp *s, struct span in)
{
    return span_first(in, s->chunk.left < in.n ? (size_t)s->chunk.left : in.n);
}

static void eat_octets(struct smtp *s, size_t n, struct span *in)
{
    s->chunk.left -= n;
    *in = span_skip(*in, n);
}

/* True when the chunk is complete, and with the last one the message. */
static bool decode_chunk(struct smtp *s, struct span *in)
{
    struct span octets = chunk_octets(s, *in), rest = octets;
    dot_decode(&s->dot, &rest, &s->piece);
    eat_octets(s, octets.n - rest.n, in);
    if (s->chunk.left > 0 || buf_room(&s->piece) < CHUNKS_END_ROOM) {
        return false;
    }
    if (s->chunk.last) {
        dot_decode_chunks_end(&s->dot, &s->piece);
    }
    return true;
}

static enum smtp_action_kind step_chunk_end(struct smtp *s, struct buf *out)
{
    if (!is_message(&s->chunk)) {
        return end_stray_chunk(s, out);
    }
    return s->chunk.last ? step_end(s, out) : end_chunk(s, out);
}

static enum smtp_action_kind step_chunk(struct smtp *s, struct span *in, struct buf *out)
{
    bool complete, wanted = false;
    buf_clear(&s->piece);
    if (!is_message(&s->chunk) || s->refusal != REPLY_OK) {
        eat_octets(s, chunk_octets(s, *in).n, in);
        complete = s->chunk.left == 0;
    } else {
        complete = decode_chunk(s, in);
        wanted = take_piece(s);
    }
    if (complete) {
        s->phase = PHASE_CHUNK_END;
    }
    if (wanted) {
        return SMTP_DATA;
    }
    return complete ? step_chunk_end(s, out) : SMTP_NEED_INPUT;
}

static enum err read_chunk(struct span arg, struct chunk *c)
{
    struct span size = span_word(&arg), last = span_word(&arg);
    enum err e = span_u64(size, UINT64_MAX, &c->size);
    c->left = c->size;
    c->last = last.n > 0;
    return e || arg.n > 0 || (last.n > 0 && !span_eq_nocase(last, SPAN("LAST"))) ? ERR_INVALID
                                                                                 : ERR_OK;
}

/*
 * Without the size nobody knows what behind the line is message and what command, and a message
 * that is read as commands is what smuggling needs. So a bad BDAT is the end.
 *
 * Decoding makes a message longer, never shorter, so one that can't fit is known by its size; it is
 * eaten, as RFC 3030, section 2, asks, and refused behind it.
 */
enum smtp_action_kind smtp_data_bdat(struct smtp *s, struct span arg, struct buf *out)
{
    struct chunk c = { .from = s->phase };
    if (read_chunk(arg, &c) != ERR_OK) {
        smtp_reply_close(s, REPLY_BDAT_SYNTAX, SMTP_CLOSE_CHUNK, out);
        return SMTP_CLOSE;
    }
    s->chunk = c;
    s->chunked = true;
    s->chunks++;
    if (is_message(&c) && c.size > s->o.max_size - s->size) {
        s->refusal = REPLY_TOO_LARGE;
    } else if (c.from == PHASE_RCPT) {
        return SMTP_DATA_BEGIN;
    }
    s->phase = PHASE_CHUNK;
    return step_chunk(s, &SPAN(""), out); /* it may be empty */
}

static void begin_message(struct smtp *s)
{
    hops_init(&s->hops);
    if (s->chunked) {
        dot_decode_chunks_init(&s->dot, s->o.normalize_newlines);
        s->phase = PHASE_CHUNK;
    } else {
        dot_decode_init(&s->dot, s->o.normalize_newlines);
        s->phase = PHASE_DATA;
    }
}

/* The refusal of a chunk waits until it has been eaten. */
void smtp_data_answer(struct smtp *s, enum smtp_verdict v, struct buf *out)
{
    CHECK(s->open == SMTP_DATA_BEGIN);
    s->open = SMTP_NEED_INPUT;
    if (smtp_reply_grants(v)) {
        if (!s->chunked) {
            smtp_reply(REPLY_START_DATA, out);
        }
        begin_message(s);
    } else if (s->chunked) {
        s->refusal = smtp_reply_of(v);
        s->phase = PHASE_CHUNK;
    } else {
        smtp_reply_refusal(s, smtp_reply_of(v), SPAN(""), out);
        smtp_state_end(s);
        smtp_reply_hang_up(s);
    }
}

void smtp_end_answer(struct smtp *s, const enum smtp_verdict *v, size_t n, struct span text,
                     struct buf *out)
{
    CHECK(s->open == SMTP_DATA_END && n == replies_due(s));
    s->open = SMTP_NEED_INPUT;
    begin_replies(s);
    for (size_t i = 0; i < n; i++) {
        s->outcome[i] = (unsigned char)smtp_reply_of(v[i]);
        if (v[i] == SMTP_OK) {
            s->errors = s->idle_commands = 0;
        }
    }
    snprintf(s->receipt, sizeof s->receipt, "%.*s", SPAN_ARG(text));
    step_replies(s, out); /* a FLUSH comes again from smtp_step */
}

enum smtp_action_kind smtp_data_step(struct smtp *s, struct span *in, struct buf *out)
{
    switch (s->phase) {
    case PHASE_DATA:
        return step_data(s, in, out);
    case PHASE_CHUNK:
        return step_chunk(s, in, out);
    case PHASE_CHUNK_END:
        return step_chunk_end(s, out);
    case PHASE_END:
        return step_end(s, out);
    case PHASE_REPLIES:
        return step_replies(s, out);
    default:
        UNREACHABLE();
    }
}
