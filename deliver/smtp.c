/*
 * smtp: the state machine of an ESMTP or LMTP server.
 *
 * Commands come from one table, replies from another; a phase says what may come next, and an open
 * action, if there is one, what the session owes the engine. The engine owns one line, one decoded
 * piece of a message and the envelope of the open transaction, all of them bounded; recipients it
 * only counts, because what becomes of them is the session's business.
 *
 * It doesn't decide who is a recipient, keeps no message, writes no trace header, knows no time.
 */
#include "smtp.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "hops.h"
#include "parameters.h"
#include "proto/dot.h"
#include "proto/line.h"
#include "replies.h"

/* Octets of a DATA action: a buf keeps memory of this size when it is cleared. */
#define PIECE_MAX   16384
#define RECEIPT_MAX 64 /* octets of the text behind a 250 */
/*
 * Commands that bring no message nearer, such as NOOP and RSET, between two messages: each further
 * one is an error. A client that keeps a connection warm needs fewer.
 */
#define IDLE_COMMANDS_MAX 100

#define CHUNKS_END_ROOM 4    /* what dot_decode_chunks_end may append */
#define TLS_HANDSHAKE   0x16 /* the first octet of a client that begins with TLS */
#define DETAIL_MAX      128  /* octets behind the words of a refusal */
#define TEXT_MAX        255  /* octets of a refusal that a filter words */

/* The first five are those that commands are read in. */
enum phase {
    PHASE_NEW,       /* not greeted, or TLS came up since */
    PHASE_IDLE,      /* no transaction */
    PHASE_MAIL,      /* a sender, no recipient */
    PHASE_RCPT,      /* at least one recipient */
    PHASE_CHUNKS,    /* between two chunks of a message */
    PHASE_DATA,      /* inside the message */
    PHASE_CHUNK,     /* inside a chunk, to be kept or not */
    PHASE_CHUNK_END, /* it is complete; as the next */
    PHASE_END,       /* the message is complete; its last piece may have gone out just now */
    PHASE_REPLIES,   /* the replies to the message are going out */
    PHASE_CLOSED
};

struct chunk {
    uint64_t size, left;
    bool last;
    enum phase from; /* where its command came */
};

/* A refusal that a filter worded. */
struct custom {
    unsigned code; /* 0: none yet */
    char enhanced[12];
    char text[TEXT_MAX + 1];
};

struct smtp {
    struct smtp_options o;
    enum phase phase;
    enum smtp_action_kind open; /* waits for its answer; SMTP_NEED_INPUT when none does */
    enum smtp_close close;
    struct line line;
    bool spoken; /* the client, at all */
    bool tls;
    bool esmtp;
    char helo[DOMAIN_MAX + 1];
    struct smtp_xclient *xclient; /* NULL: nothing was said */
    struct smtp_xclient *claimed; /* of the open XCLIENT action */
    unsigned errors;              /* these two since the last message that was delivered */
    unsigned idle_commands;
    unsigned messages; /* MAIL commands of the session */
    uint64_t chunks;   /* BDAT commands of the session */

    struct address from;
    struct parameters parameters;
    char *words;         /* MAIL's parameters; NULL without any */
    struct address rcpt; /* of the open RCPT action */
    unsigned recipients; /* that were answered with OK */

    bool chunked; /* the message comes by BDAT */
    struct chunk chunk;
    struct dot_decoder dot;
    struct hops hops;
    struct buf piece;   /* of the message, decoded */
    uint64_t size;      /* of the message so far */
    enum reply refusal; /* of the message, whatever it is like; OK when none */

    unsigned char *outcome; /* an enum reply for each reply that the message gets */
    size_t replied;
    char receipt[RECEIPT_MAX + 1];

    char detail[DETAIL_MAX + 1];
    struct custom custom;
    bool hang_up; /* the filter's reply was a 421 */
};

const char *smtp_close_text(enum smtp_close c)
{
    static const char *const texts[] = {
#define X(name, text) text,
        SMTP_CLOSE_LIST(X)
#undef X
    };
    return texts[c];
}

const char *smtp_verdict_text(enum smtp_verdict v)
{
    static const char *const words[] = {
#define X(name, word) word,
        SMTP_VERDICT_LIST(X)
#undef X
    };
    return words[v];
}

/* Replies. smtp_step and the rules of SMTP_OUT_MIN see to it that there is room for them. */

static void must(enum err e)
{
    CHECK(e == ERR_OK);
}

/* subject: the address that the reply is about; detail: what stands behind the text. */
static void put_reply_on(enum reply r, struct span subject, struct span detail, struct buf *out)
{
    must(buf_addf(out, "%u ", replies[r].code));
    if (replies[r].enhanced) {
        must(buf_addf(out, "%s ", replies[r].enhanced));
    }
    if (subject.n) {
        must(buf_addf(out, "<%.*s> ", SPAN_ARG(subject)));
    }
    must(buf_add(out, span_str(replies[r].text)));
    if (detail.n) {
        must(buf_addf(out, " %.*s", SPAN_ARG(detail)));
    }
    must(buf_add(out, SPAN("\r\n")));
}

static void put_reply(enum reply r, struct buf *out)
{
    put_reply_on(r, SPAN(""), SPAN(""), out);
}

static enum reply reply_of(enum smtp_verdict v)
{
    CHECK(v < SMTP_VERDICTS);
    return (enum reply)v;
}

static bool granted(enum smtp_verdict v)
{
    return v == SMTP_OK || v == SMTP_DISCARDED;
}

static void close_with(struct smtp *s, enum reply r, enum smtp_close why, struct buf *out)
{
    put_reply(r, out);
    s->close = why;
    s->phase = PHASE_CLOSED;
}

static void count_error(struct smtp *s, struct buf *out)
{
    if (++s->errors == s->o.max_errors) {
        close_with(s, REPLY_TOO_MANY_ERRORS, SMTP_CLOSE_ERRORS, out);
    }
}

/* A refusal by the session. */
static void put_refusal(struct smtp *s, enum reply r, struct span subject, struct buf *out)
{
    const struct custom *c = &s->custom;
    if (r == REPLY_FILTERED && c->code) {
        must(buf_addf(out, "%u %s %s\r\n", c->code, c->enhanced, c->text));
        s->hang_up = s->hang_up || c->code == 421;
        return;
    }
    bool explained = r == REPLY_BLOCKED || r == REPLY_TOO_FAST;
    put_reply_on(r, subject, span_str(explained ? s->detail : ""), out);
}

/* The answer to a command has gone out: ends the conversation if it was a 421. */
static void hang_up(struct smtp *s)
{
    if (s->hang_up) {
        s->close = SMTP_CLOSE_FILTER;
        s->phase = PHASE_CLOSED;
    }
}

/*
 * The same for a sender or a recipient. A lasting refusal is an error, or a client could try names
 * for ever; but behind LMTP stands a gateway of our own, whose connection carries the mail of many.
 */
static void refuse_address(struct smtp *s, enum reply r, struct span subject, struct buf *out)
{
    put_refusal(s, r, subject, out);
    s->detail[0] = '\0';
    bool lasting =
        r == REPLY_FILTERED && s->custom.code ? s->custom.code >= 500 : replies[r].code >= 500;
    if (s->hang_up) {
        hang_up(s);
    } else if (lasting && !s->o.lmtp) {
        count_error(s, out);
    }
}

/* Octets that may stand in a reply, cut at size - 1. */
static void copy_printable(struct span from, char *to, size_t size)
{
    from = span_first(from, size - 1);
    for (size_t i = 0; i < from.n; i++) {
        to[i] = from.p[i] < ' ' || from.p[i] > '~' ? '?' : from.p[i];
    }
    to[from.n] = '\0';
}

void smtp_reply_text(struct smtp *s, struct span text)
{
    copy_printable(text, s->detail, sizeof s->detail);
}

/* RFC 2034, section 4: class "." 1*3digit "." 1*3digit, of the same class as the code. */
static bool is_enhanced(struct span s, unsigned code)
{
    for (int part = 0; part < 3; part++) {
        size_t dot = span_find(s, '.');
        uint64_t n;
        bool ends = dot == s.n;
        if (dot > 3 || span_u64(span_first(s, dot), 999, &n) != ERR_OK || ends != (part == 2) ||
            (part == 0 && n != code / 100)) {
            return false;
        }
        s = span_skip(s, dot + 1);
    }
    return true;
}

void smtp_custom_reply(struct smtp *s, unsigned code, struct span enhanced, struct span text)
{
    struct custom *c = &s->custom;
    c->code = code >= 400 && code <= 559 && code / 10 % 10 <= 5 ? code : 451;
    if (is_enhanced(enhanced, c->code) && enhanced.n < sizeof c->enhanced) {
        memcpy(c->enhanced, enhanced.p, enhanced.n);
        c->enhanced[enhanced.n] = '\0';
    } else {
        memcpy(c->enhanced, c->code < 500 ? "4.7.1" : "5.7.1", 6);
    }
    copy_printable(text.n ? text : span_str(replies[REPLY_FILTERED].text), c->text, sizeof c->text);
}

/* Commands return the action that they lead to, most of them none. */
static enum smtp_action_kind grant(enum reply r, struct buf *out)
{
    put_reply(r, out);
    return SMTP_NEED_INPUT;
}

static enum smtp_action_kind refuse(struct smtp *s, enum reply r, struct buf *out)
{
    put_reply(r, out);
    count_error(s, out);
    return SMTP_NEED_INPUT;
}

/* The transaction. */

static bool in_transaction(const struct smtp *s)
{
    bool in_chunk = s->phase == PHASE_CHUNK || s->phase == PHASE_CHUNK_END;
    enum phase p = in_chunk ? s->chunk.from : s->phase;
    return p > PHASE_IDLE;
}

static void end_transaction(struct smtp *s)
{
    if (in_transaction(s)) {
        s->phase = PHASE_IDLE;
    }
    s->from = (struct address){ 0 };
    s->parameters = (struct parameters){ 0 };
    free(s->words);
    s->words = NULL;
    s->recipients = 0;
    s->size = 0;
    s->refusal = REPLY_OK;
    buf_release(&s->piece);
    free(s->outcome);
    s->outcome = NULL;
    s->replied = 0;
}

/* Ends a transaction that the session has not ended by an answer of its own. */
static enum smtp_action_kind abandon(struct smtp *s)
{
    bool known_to_session = in_transaction(s);
    end_transaction(s);
    return known_to_session ? SMTP_RESET : SMTP_NEED_INPUT;
}

/* EHLO, HELO, LHLO. */

/* RFC 9422, section 3: a value has at most six digits. */
static unsigned limit_value(unsigned n)
{
    return n > 999999 ? 999999 : n;
}

static void put_limits(const struct smtp *s, struct buf *out)
{
    must(buf_addf(out, "250-LIMITS RCPTMAX=%u", limit_value(s->o.max_recipients)));
    if (s->o.max_messages) {
        must(buf_addf(out, " MAILMAX=%u", limit_value(s->o.max_messages)));
    }
    must(buf_add(out, SPAN("\r\n")));
}

static void put_xclient(struct buf *out)
{
    must(buf_add(out, SPAN("250-XCLIENT")));
    for (enum xclient_attribute a = 0; a < XCLIENT_ATTRIBUTES; a++) {
        must(buf_addf(out, " %s", xclient_name(a)));
    }
    must(buf_add(out, SPAN("\r\n")));
}

static void put_extensions(const struct smtp *s, struct buf *out)
{
    must(buf_addf(out, "250-%s\r\n", s->o.hostname));
    must(buf_addf(out, "250-SIZE %llu\r\n", (unsigned long long)s->o.max_size));
    must(buf_add(out, SPAN("250-PIPELINING\r\n"
                           "250-8BITMIME\r\n"
                           "250-SMTPUTF8\r\n"
                           "250-CHUNKING\r\n")));
    put_limits(s, out);
    if (s->o.tls_offered && !s->tls) {
        must(buf_add(out, SPAN("250-STARTTLS\r\n")));
    }
    if (s->tls) {
        must(buf_add(out, SPAN("250-REQUIRETLS\r\n")));
    }
    if (s->o.xclient) {
        put_xclient(out);
    }
    must(buf_add(out, SPAN("250 ENHANCEDSTATUSCODES\r\n")));
}

static enum smtp_action_kind greet(struct smtp *s, struct span name, bool esmtp, struct buf *out)
{
    if (!xclient_is_helo(name)) {
        return refuse(s, REPLY_HELO_SYNTAX, out);
    }
    enum smtp_action_kind kind = abandon(s);
    s->phase = PHASE_IDLE;
    s->esmtp = esmtp;
    memcpy(s->helo, name.p, name.n);
    s->helo[name.n] = '\0';
    if (esmtp) {
        put_extensions(s, out);
    } else {
        must(buf_addf(out, "250 %s\r\n", s->o.hostname));
    }
    return kind;
}

static void forget_greeting(struct smtp *s)
{
    s->phase = PHASE_NEW;
    s->esmtp = false;
    s->helo[0] = '\0';
}

static enum smtp_action_kind run_ehlo(struct smtp *s, struct span arg, struct buf *out)
{
    return s->o.lmtp ? refuse(s, REPLY_USE_LHLO, out) : greet(s, arg, true, out);
}

static enum smtp_action_kind run_helo(struct smtp *s, struct span arg, struct buf *out)
{
    return s->o.lmtp ? refuse(s, REPLY_USE_LHLO, out) : greet(s, arg, false, out);
}

static enum smtp_action_kind run_lhlo(struct smtp *s, struct span arg, struct buf *out)
{
    return s->o.lmtp ? greet(s, arg, true, out) : refuse(s, REPLY_UNKNOWN_COMMAND, out);
}

/* MAIL and RCPT. */

struct path_rule {
    const char *keyword;
    bool null_ok;
    enum reply syntax, bad;
};

static const struct path_rule reverse_path = {
    .keyword = "FROM:",
    .null_ok = true,
    .syntax = REPLY_MAIL_SYNTAX,
    .bad = REPLY_SENDER_BAD,
};
static const struct path_rule forward_path = {
    .keyword = "TO:",
    .null_ok = false,
    .syntax = REPLY_RCPT_SYNTAX,
    .bad = REPLY_RCPT_BAD,
};

static void refuse_path(struct smtp *s, const struct path_rule *rule, struct span path,
                        struct buf *out)
{
    struct span why = span_str(address_explain_path(path, rule->null_ok));
    put_reply_on(rule->bad, SPAN(""), why, out);
    count_error(s, out);
}

/*
 * Reads the path and leaves the parameters in *arg; false: it was refused. A blank behind the colon
 * is wrong but common.
 */
static bool read_path(struct smtp *s, const struct path_rule *rule, struct span *arg,
                      struct address *path, struct buf *out)
{
    struct span keyword = span_str(rule->keyword);
    if (!span_starts_nocase(*arg, keyword)) {
        refuse(s, rule->syntax, out);
        return false;
    }
    *arg = span_trim(span_skip(*arg, keyword.n));
    if (address_parse_path(arg, rule->null_ok, path) != ERR_OK) {
        refuse_path(s, rule, *arg, out);
        return false;
    }
    if (arg->n > 0 && *arg->p != ' ' && *arg->p != '\t') {
        refuse(s, rule->syntax, out);
        return false;
    }
    *arg = span_trim(*arg);
    return true;
}

/*
 * What the session may ask about stands in the engine while it decides; none of it outlives a
 * refusal.
 */
static enum smtp_action_kind run_mail(struct smtp *s, struct span arg, struct buf *out)
{
    struct address from;
    struct parameters p = { .max_size = s->o.max_size, .tls = s->tls };
    if (s->o.max_messages && ++s->messages > s->o.max_messages) {
        close_with(s, REPLY_TOO_MANY_MAILS, SMTP_CLOSE_MESSAGES, out);
        return SMTP_CLOSE;
    }
    if (!read_path(s, &reverse_path, &arg, &from, out)) {
        return SMTP_NEED_INPUT;
    }
    enum reply r = parameters_mail(arg, &p);
    if (r == REPLY_OK && from.utf8 && !p.utf8) {
        r = REPLY_NEED_SMTPUTF8;
    }
    if (r != REPLY_OK) {
        return refuse(s, r, out);
    }
    s->from = from;
    s->parameters = p;
    s->words = arg.n ? span_dup(arg) : NULL;
    return SMTP_MAIL;
}

void smtp_mail_answer(struct smtp *s, enum smtp_verdict v, struct buf *out)
{
    CHECK(s->open == SMTP_MAIL);
    s->open = SMTP_NEED_INPUT;
    if (granted(v)) {
        put_reply(REPLY_SENDER_OK, out);
        s->phase = PHASE_MAIL;
        return;
    }
    end_transaction(s);
    refuse_address(s, reply_of(v), SPAN(""), out);
}

static enum smtp_action_kind run_rcpt(struct smtp *s, struct span arg, struct buf *out)
{
    if (!read_path(s, &forward_path, &arg, &s->rcpt, out)) {
        return SMTP_NEED_INPUT;
    }
    enum reply r = parameters_rcpt(arg, &s->parameters);
    if (r == REPLY_OK && s->rcpt.utf8 && !s->parameters.utf8) {
        r = REPLY_NEED_SMTPUTF8;
    }
    if (r != REPLY_OK) {
        return refuse(s, r, out);
    }
    if (s->recipients >= s->o.max_recipients) {
        return grant(REPLY_TOO_MANY, out); /* no error of the client's: RFC 5321, 4.5.3.1.10 */
    }
    return SMTP_RCPT;
}

void smtp_rcpt_answer(struct smtp *s, enum smtp_verdict v, struct buf *out)
{
    CHECK(s->open == SMTP_RCPT);
    s->open = SMTP_NEED_INPUT;
    struct span subject = span_of(s->rcpt.text, s->rcpt.len);
    if (granted(v)) {
        put_reply_on(REPLY_RCPT_OK, subject, SPAN(""), out);
        s->recipients++;
        s->phase = PHASE_RCPT;
    } else {
        refuse_address(s, reply_of(v), subject, out);
    }
}

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
        if (granted((enum smtp_verdict)r)) {
            put_reply_on(r, SPAN(""), span_str(s->receipt), out);
        } else {
            put_refusal(s, r, SPAN(""), out);
        }
    }
    enum smtp_action_kind kind = SMTP_NEED_INPUT;
    if (judge(s) != REPLY_OK) {
        kind = abandon(s);
    } else {
        end_transaction(s);
    }
    hang_up(s);
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
    put_reply(s->phase == PHASE_NEW    ? need_greeting
              : s->phase == PHASE_IDLE ? REPLY_NEED_MAIL
                                       : REPLY_NEED_RCPT,
              out);
    if (++s->idle_commands > IDLE_COMMANDS_MAX) {
        count_error(s, out);
    }
    return SMTP_NEED_INPUT;
}

/* The message goes on after this chunk, or has been refused. */
static enum smtp_action_kind end_chunk(struct smtp *s, struct buf *out)
{
    enum reply r = judge(s);
    if (r != REPLY_OK) {
        put_refusal(s, r, SPAN(""), out);
        enum smtp_action_kind kind = abandon(s);
        hang_up(s);
        return kind;
    }
    must(buf_addf(out, "%u %s %llu %s\r\n", replies[REPLY_CHUNK_OK].code,
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
static enum smtp_action_kind run_bdat(struct smtp *s, struct span arg, struct buf *out)
{
    struct chunk c = { .from = s->phase };
    if (read_chunk(arg, &c) != ERR_OK) {
        close_with(s, REPLY_BDAT_SYNTAX, SMTP_CLOSE_CHUNK, out);
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
    if (granted(v)) {
        if (!s->chunked) {
            put_reply(REPLY_START_DATA, out);
        }
        begin_message(s);
    } else if (s->chunked) {
        s->refusal = reply_of(v);
        s->phase = PHASE_CHUNK;
    } else {
        put_refusal(s, reply_of(v), SPAN(""), out);
        end_transaction(s);
        hang_up(s);
    }
}

void smtp_end_answer(struct smtp *s, const enum smtp_verdict *v, size_t n, struct span text,
                     struct buf *out)
{
    CHECK(s->open == SMTP_DATA_END && n == replies_due(s));
    s->open = SMTP_NEED_INPUT;
    begin_replies(s);
    for (size_t i = 0; i < n; i++) {
        s->outcome[i] = (unsigned char)reply_of(v[i]);
        if (v[i] == SMTP_OK) {
            s->errors = s->idle_commands = 0;
        }
    }
    snprintf(s->receipt, sizeof s->receipt, "%.*s", SPAN_ARG(text));
    step_replies(s, out); /* a FLUSH comes again from smtp_step */
}

/* The other commands. */

static enum smtp_action_kind run_data(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    (void)out;
    s->chunked = false;
    return SMTP_DATA_BEGIN;
}

static enum smtp_action_kind run_rset(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    put_reply(REPLY_RESET_OK, out);
    return abandon(s);
}

static enum smtp_action_kind run_noop(struct smtp *s, struct span arg, struct buf *out)
{
    (void)s;
    (void)arg;
    return grant(REPLY_NOOP_OK, out);
}

static enum smtp_action_kind run_help(struct smtp *s, struct span arg, struct buf *out)
{
    (void)s;
    (void)arg;
    return grant(REPLY_HELP_TEXT, out);
}

/* The last word, taken off; RFC 6531, section 3.7.4.2, has SMTPUTF8 there. */
static bool take_utf8_word(struct span *arg)
{
    const char *blank = arg->n ? memrchr(arg->p, ' ', arg->n) : NULL;
    size_t n = blank ? (size_t)(blank - arg->p) : 0;
    if (!blank || !span_eq_nocase(span_skip(*arg, n + 1), SPAN("SMTPUTF8"))) {
        return false;
    }
    *arg = span_trim(span_first(*arg, n));
    return true;
}

static bool is_ascii(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] > 127) {
            return false;
        }
    }
    return true;
}

/* Tells nothing about who has a mailbox here (RFC 5321, section 7.3). */
static enum smtp_action_kind run_vrfy(struct smtp *s, struct span arg, struct buf *out)
{
    arg = span_trim(arg);
    bool utf8 = take_utf8_word(&arg);
    if (arg.n == 0 || !span_utf8(arg)) {
        return refuse(s, REPLY_VRFY_SYNTAX, out);
    }
    return utf8 || is_ascii(arg) ? grant(REPLY_VRFY_TEXT, out)
                                 : refuse(s, REPLY_NEED_SMTPUTF8, out);
}

static enum smtp_action_kind run_expn(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    return refuse(s, REPLY_NOT_IMPLEMENTED, out);
}

static enum smtp_action_kind run_starttls(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    if (s->tls) {
        return refuse(s, REPLY_TLS_IS_UP, out);
    }
    if (!s->o.tls_offered) {
        return refuse(s, REPLY_NO_TLS, out);
    }
    put_reply(REPLY_TLS_GO, out);
    return SMTP_STARTTLS;
}

/*
 * What the relay said before holds until it says otherwise: it may name one attribute at a time.
 */
static enum smtp_action_kind run_xclient(struct smtp *s, struct span arg, struct buf *out)
{
    if (!s->o.xclient) {
        return refuse(s, REPLY_NO_XCLIENT, out);
    }
    s->claimed = NEW(struct smtp_xclient);
    if (s->xclient) {
        *s->claimed = *s->xclient;
    }
    if (xclient_parse(arg, s->claimed) != ERR_OK) {
        free(s->claimed);
        s->claimed = NULL;
        return refuse(s, REPLY_XCLIENT_SYNTAX, out);
    }
    return SMTP_XCLIENT;
}

/*
 * A new conversation, but with the same peer: its errors and messages still count. HELO and PROTO
 * are the client's and go into the trace header, whatever the relay itself greets with.
 */
void smtp_xclient_answer(struct smtp *s, bool ok, struct buf *out)
{
    CHECK(s->open == SMTP_XCLIENT);
    s->open = SMTP_NEED_INPUT;
    struct smtp_xclient *unwanted = ok ? s->xclient : s->claimed;
    s->xclient = ok ? s->claimed : s->xclient;
    s->claimed = NULL;
    free(unwanted);
    if (!ok) {
        refuse(s, REPLY_XCLIENT_SYNTAX, out);
        return;
    }
    forget_greeting(s);
    smtp_greet(s, out);
}

static enum smtp_action_kind run_quit(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    close_with(s, REPLY_BYE, SMTP_CLOSE_QUIT, out);
    return SMTP_CLOSE;
}

enum {
    IN_IDLE = 1 << PHASE_IDLE,
    IN_MAIL = 1 << PHASE_MAIL,
    IN_RCPT = 1 << PHASE_RCPT,
    IN_NEW = 1 << PHASE_NEW,
    ANYTIME = IN_NEW | IN_IDLE | IN_MAIL | IN_RCPT | 1 << PHASE_CHUNKS /* RFC 5321, 4.1.4 */
};

static const struct command {
    const char *verb;
    unsigned phases; /* in which it is allowed */
    bool takes_argument;
    bool idle; /* counts towards IDLE_COMMANDS_MAX */
    enum smtp_action_kind (*run)(struct smtp *s, struct span arg, struct buf *out);
} commands[] = {
    { "EHLO", ANYTIME, true, true, run_ehlo },
    { "HELO", ANYTIME, true, true, run_helo },
    { "LHLO", ANYTIME, true, true, run_lhlo },
    { "STARTTLS", IN_IDLE, false, false, run_starttls },
    { "MAIL", IN_IDLE, true, false, run_mail },
    { "RCPT", IN_MAIL | IN_RCPT, true, false, run_rcpt },
    { "DATA", IN_RCPT, false, false, run_data },
    { "BDAT", ANYTIME, true, false, run_bdat }, /* its chunk has to be eaten in any phase */
    { "XCLIENT", IN_NEW | IN_IDLE, true, false, run_xclient },
    { "RSET", ANYTIME, false, true, run_rset },
    { "NOOP", ANYTIME, true, true, run_noop },
    { "HELP", ANYTIME, true, true, run_help },
    { "VRFY", ANYTIME, true, true, run_vrfy },
    { "EXPN", ANYTIME, true, true, run_expn },
    { "QUIT", ANYTIME, false, false, run_quit },
};

static const struct command *find_command(struct span verb)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (span_eq_nocase(verb, span_str(commands[i].verb))) {
            return &commands[i];
        }
    }
    return NULL;
}

/* What was missing, for a command that is not allowed in this phase. */
static enum reply out_of_order(const struct smtp *s, const struct command *c)
{
    switch (s->phase) {
    case PHASE_NEW:
        return s->o.lmtp ? REPLY_NEED_LHLO : REPLY_NEED_EHLO;
    case PHASE_IDLE:
        return REPLY_NEED_MAIL;
    case PHASE_CHUNKS:
        return REPLY_NEED_CHUNK;
    default:
        return c->phases & IN_RCPT ? REPLY_NEED_RCPT : REPLY_MAIL_IS_OPEN;
    }
}

/*
 * A browser was led here, by a page that has SMTP in what it makes the browser send: the rest must
 * not be read. A client that has greeted is no browser.
 */
static bool is_http(const struct smtp *s, struct span verb)
{
    static const char *const words[] = { "GET",   "POST", "PUT",   "HEAD",   "OPTIONS", "CONNECT",
                                         "PATCH", "PRI",  "TRACE", "DELETE", "Host:" };
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        found = found || span_eq_nocase(verb, span_str(words[i]));
    }
    return found && s->phase == PHASE_NEW;
}

static enum smtp_action_kind run_line(struct smtp *s, struct span line, struct buf *out)
{
    struct span verb = span_word(&line);
    if (is_http(s, verb)) {
        close_with(s, REPLY_NOT_SMTP, SMTP_CLOSE_HTTP, out);
        return SMTP_CLOSE;
    }
    const struct command *c = find_command(verb);
    if (!c) {
        return refuse(s, REPLY_UNKNOWN_COMMAND, out);
    }
    if (!(c->phases & 1u << s->phase)) {
        return refuse(s, out_of_order(s, c), out);
    }
    if (line.n > 0 && !c->takes_argument) {
        return refuse(s, REPLY_NO_ARGUMENT, out);
    }
    enum smtp_action_kind kind = c->run(s, line, out);
    if (c->idle && ++s->idle_commands > IDLE_COMMANDS_MAX) {
        count_error(s, out);
    }
    return kind;
}

static enum smtp_action_kind step_command(struct smtp *s, struct span *in, struct buf *out)
{
    struct span line;
    bool first = !s->spoken && in->n > 0;
    s->spoken = s->spoken || first;
    if (first && *in->p == TLS_HANDSHAKE) {
        *in = span_skip(*in, in->n);
        close_with(s, REPLY_NOT_SMTP, SMTP_CLOSE_NOT_SMTP, out);
        return SMTP_CLOSE;
    }
    switch (line_next(&s->line, LINE_MAX_OCTETS, in, &line)) {
    case LINE_READY: {
        enum smtp_action_kind kind = run_line(s, line, out);
        line_done(&s->line);
        return kind;
    }
    case LINE_TOO_LONG:
        return refuse(s, REPLY_LINE_TOO_LONG, out);
    case LINE_MORE:
        return SMTP_NEED_INPUT;
    }
    UNREACHABLE();
}

/* The engine as a whole. */

static enum smtp_action_kind step(struct smtp *s, struct span *in, struct buf *out)
{
    switch (s->phase) {
    case PHASE_NEW:
    case PHASE_IDLE:
    case PHASE_MAIL:
    case PHASE_RCPT:
    case PHASE_CHUNKS:
        return step_command(s, in, out);
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
    case PHASE_CLOSED:
        return SMTP_CLOSE;
    }
    UNREACHABLE();
}

static bool needs_answer(enum smtp_action_kind kind)
{
    return kind == SMTP_STARTTLS || kind == SMTP_XCLIENT || kind == SMTP_MAIL ||
           kind == SMTP_RCPT || kind == SMTP_DATA_BEGIN || kind == SMTP_DATA_END;
}

static struct smtp_action action_of(const struct smtp *s, enum smtp_action_kind kind)
{
    struct smtp_action a = { .kind = kind };
    if (kind == SMTP_XCLIENT) {
        a.u.xclient = s->claimed;
    } else if (kind == SMTP_MAIL) {
        a.u.reverse_path = &s->from;
    } else if (kind == SMTP_RCPT) {
        a.u.rcpt = &s->rcpt;
    } else if (kind == SMTP_DATA) {
        a.u.data = buf_span(&s->piece);
    } else if (kind == SMTP_CLOSE) {
        a.u.close = s->close;
    }
    return a;
}

struct smtp_action smtp_step(struct smtp *s, struct span *in, struct buf *out)
{
    CHECK(s->open == SMTP_NEED_INPUT);
    enum smtp_action_kind kind;
    do {
        if (s->phase != PHASE_CLOSED && buf_room(out) < SMTP_OUT_MIN) {
            return action_of(s, SMTP_FLUSH);
        }
        kind = step(s, in, out);
        if (s->phase == PHASE_CLOSED) {
            kind = SMTP_CLOSE;
        }
    } while (kind == SMTP_NEED_INPUT && in->n > 0);
    if (needs_answer(kind)) {
        s->open = kind;
    }
    return action_of(s, kind);
}

/* What was said before TLS may have been said by anybody: RFC 3207, section 4.2. */
void smtp_tls_answer(struct smtp *s)
{
    CHECK(s->open == SMTP_STARTTLS);
    s->open = SMTP_NEED_INPUT;
    s->tls = true;
    forget_greeting(s);
    free(s->xclient);
    s->xclient = NULL;
}

struct smtp *smtp_new(const struct smtp_options *o)
{
    CHECK(o->max_errors > 0 && o->max_size > 0);
    struct smtp *s = NEW(struct smtp);
    s->o = *o;
    line_init(&s->line);
    buf_init(&s->piece, PIECE_MAX);
    return s;
}

void smtp_free(struct smtp **s)
{
    if (*s) {
        line_fini(&(*s)->line);
        buf_fini(&(*s)->piece);
        free((*s)->outcome);
        free((*s)->words);
        free((*s)->xclient);
        free((*s)->claimed);
        free(*s);
        *s = NULL;
    }
}

void smtp_greet(struct smtp *s, struct buf *out)
{
    must(buf_addf(out, "220 %s %s\r\n", s->o.hostname, s->o.lmtp ? "LMTP" : "ESMTP"));
}

void smtp_refuse(const struct smtp_options *o, struct span enhanced, struct span text,
                 struct buf *out)
{
    must(buf_addf(out, "421 %.*s %s %.*s\r\n", SPAN_ARG(enhanced), o->hostname, SPAN_ARG(text)));
}

void smtp_shutdown(struct smtp *s, struct buf *out)
{
    close_with(s, REPLY_GOING_DOWN, SMTP_CLOSE_SHUTDOWN, out);
}

void smtp_timeout(struct smtp *s, struct buf *out)
{
    close_with(s, REPLY_TOO_SLOW, SMTP_CLOSE_TIMEOUT, out);
}

const struct address *smtp_reverse_path(const struct smtp *s)
{
    return &s->from;
}

const struct address *smtp_rcpt(const struct smtp *s)
{
    return &s->rcpt;
}

struct span smtp_helo(const struct smtp *s)
{
    bool told = s->xclient && xclient_has(s->xclient, XCLIENT_HELO);
    return span_str(told ? s->xclient->value[XCLIENT_HELO] : s->helo);
}

bool smtp_esmtp(const struct smtp *s)
{
    bool told = s->xclient && xclient_has(s->xclient, XCLIENT_PROTO);
    return told ? span_eq_nocase(span_str(s->xclient->value[XCLIENT_PROTO]), SPAN("ESMTP"))
                : s->esmtp;
}

bool smtp_utf8(const struct smtp *s)
{
    return s->parameters.utf8;
}

uint64_t smtp_declared_size(const struct smtp *s)
{
    return s->parameters.declared;
}

size_t smtp_mail_parameters(const struct smtp *s, struct span words[PARAMETERS_MAIL_MAX])
{
    struct span rest = span_str(s->words ? s->words : "");
    size_t n = 0;
    for (struct span word; n < PARAMETERS_MAIL_MAX && (word = span_word(&rest)).n > 0;) {
        words[n++] = word;
    }
    return n;
}

unsigned smtp_errors(const struct smtp *s)
{
    return s->errors;
}

uint64_t smtp_chunks(const struct smtp *s)
{
    return s->chunks;
}
