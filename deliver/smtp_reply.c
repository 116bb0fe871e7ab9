/*
 * smtp_reply: see the header. Owns nothing; what it keeps is the state's.
 */
#include "smtp_reply.h"

#include "base/check.h"

void smtp_reply_must(enum err e)
{
    CHECK(e == ERR_OK);
}

void smtp_reply_on(enum reply r, struct span subject, struct span detail, struct buf *out)
{
    smtp_reply_must(buf_addf(out, "%u ", replies[r].code));
    if (replies[r].enhanced) {
        smtp_reply_must(buf_addf(out, "%s ", replies[r].enhanced));
    }
    if (subject.n) {
        smtp_reply_must(buf_addf(out, "<%.*s> ", SPAN_ARG(subject)));
    }
    smtp_reply_must(buf_add(out, span_str(replies[r].text)));
    if (detail.n) {
        smtp_reply_must(buf_addf(out, " %.*s", SPAN_ARG(detail)));
    }
    smtp_reply_must(buf_add(out, SPAN("\r\n")));
}

void smtp_reply(enum reply r, struct buf *out)
{
    smtp_reply_on(r, SPAN(""), SPAN(""), out);
}

enum reply smtp_reply_of(enum smtp_verdict v)
{
    CHECK(v < SMTP_VERDICTS);
    return (enum reply)v;
}

bool smtp_reply_grants(enum smtp_verdict v)
{
    return v == SMTP_OK || v == SMTP_DISCARDED;
}

void smtp_reply_close(struct smtp *s, enum reply r, enum smtp_close why, struct buf *out)
{
    smtp_reply(r, out);
    s->close = why;
    s->phase = PHASE_CLOSED;
}

void smtp_reply_error(struct smtp *s, struct buf *out)
{
    if (++s->errors == s->o.max_errors) {
        smtp_reply_close(s, REPLY_TOO_MANY_ERRORS, SMTP_CLOSE_ERRORS, out);
    }
}

void smtp_reply_refusal(struct smtp *s, enum reply r, struct span subject, struct buf *out)
{
    const struct custom *c = &s->custom;
    if (r == REPLY_FILTERED && c->code) {
        smtp_reply_must(buf_addf(out, "%u %s %s\r\n", c->code, c->enhanced, c->text));
        s->hang_up = s->hang_up || c->code == 421;
        return;
    }
    bool explained = r == REPLY_BLOCKED || r == REPLY_TOO_FAST;
    smtp_reply_on(r, subject, span_str(explained ? s->detail : ""), out);
}

void smtp_reply_hang_up(struct smtp *s)
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
void smtp_reply_address(struct smtp *s, enum reply r, struct span subject, struct buf *out)
{
    smtp_reply_refusal(s, r, subject, out);
    s->detail[0] = '\0';
    bool lasting =
        r == REPLY_FILTERED && s->custom.code ? s->custom.code >= 500 : replies[r].code >= 500;
    if (s->hang_up) {
        smtp_reply_hang_up(s);
    } else if (lasting && !s->o.lmtp) {
        smtp_reply_error(s, out);
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

enum smtp_action_kind smtp_reply_grant(enum reply r, struct buf *out)
{
    smtp_reply(r, out);
    return SMTP_NEED_INPUT;
}

enum smtp_action_kind smtp_reply_refuse(struct smtp *s, enum reply r, struct buf *out)
{
    smtp_reply(r, out);
    smtp_reply_error(s, out);
    return SMTP_NEED_INPUT;
}
