/*
 * smtp_adapter: the SMTP and LMTP engine as the script runner sees it.
 *
 * It plays the session: collects the pieces of a message, hands replies on through a buf that is as
 * small as the engine allows, so that every long answer meets a full one, and writes actions as
 *
 *   starttls                                    = up
 *   xclient NAME=VALUE...                       = ok | bad
 *   mail <REVERSE-PATH> PARAMETER...            = VERDICT
 *   rcpt CANONICAL-ADDRESS                      = VERDICT
 *   data <FROM> helo=NAME PROTOCOL [size=N] [utf8] [tls]    = VERDICT
 *   message OCTETS (`message of N octets` when long)    = VERDICT... [id=RECEIPT]
 *   reset
 *   close REASON
 *
 * A VERDICT may be blocked/ZONE, or CODE/ENHANCED/TEXT for a filter's own reply, where _ is a
 * blank.
 *
 * Options: lmtp, tls, xclient, mail (ask about senders too; else they are all answered with ok),
 * reject (bare newlines), max_size=, max_recipients=, max_received=, max_errors=, max_messages=.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "script.h"
#include "smtp.h"

#define MESSAGE_MOST  (1u << 20)
#define MESSAGE_SHOWN 2000

struct adapter {
    struct smtp *engine;
    bool ask_mail;
    enum smtp_action_kind open; /* waits for a `=` line */
    struct buf out;
    struct buf message;
};

/* CODE/ENHANCED/TEXT */
static bool read_custom(struct adapter *a, struct span word)
{
    uint64_t code;
    size_t first = span_find(word, '/');
    struct span rest = span_skip(word, first + 1);
    size_t second = span_find(rest, '/');
    char *text = span_dup(span_skip(rest, second + 1));
    bool ok = span_u64(span_first(word, first), UINT32_MAX, &code) == ERR_OK;
    for (char *p = text; ok && *p; p++) {
        *p = *p == '_' ? ' ' : *p;
    }
    if (ok) {
        smtp_custom_reply(a->engine, (unsigned)code, span_first(rest, second), span_str(text));
    }
    free(text);
    return ok;
}

static bool read_verdict(struct adapter *a, struct span word, enum smtp_verdict *v)
{
    size_t slash = span_find(word, '/');
    if (span_eq(span_first(word, slash), SPAN("blocked")) && slash < word.n) {
        smtp_reply_text(a->engine, span_skip(word, slash + 1));
        *v = SMTP_BLOCKED;
        return true;
    }
    if (slash < word.n) {
        *v = SMTP_FILTERED;
        return read_custom(a, word);
    }
    for (enum smtp_verdict i = SMTP_OK; i < SMTP_VERDICTS; i++) {
        if (span_eq(word, span_str(smtp_verdict_text(i)))) {
            *v = i;
            return true;
        }
    }
    return false;
}

static bool read_number(struct span word, const char *name, unsigned *v)
{
    uint64_t n;
    size_t len = strlen(name);
    if (!span_starts(word, span_str(name)) ||
        span_u64(span_skip(word, len), UINT32_MAX, &n) != ERR_OK) {
        return false;
    }
    *v = (unsigned)n;
    return true;
}

static bool read_option(struct span word, struct smtp_options *o)
{
    unsigned size;
    if (span_eq(word, SPAN("lmtp"))) {
        o->lmtp = true;
    } else if (span_eq(word, SPAN("tls"))) {
        o->tls_offered = true;
    } else if (span_eq(word, SPAN("xclient"))) {
        o->xclient = true;
    } else if (span_eq(word, SPAN("reject"))) {
        o->normalize_newlines = false;
    } else if (read_number(word, "max_size=", &size)) {
        o->max_size = size;
    } else {
        return read_number(word, "max_recipients=", &o->max_recipients) ||
               read_number(word, "max_received=", &o->max_received) ||
               read_number(word, "max_errors=", &o->max_errors) ||
               read_number(word, "max_messages=", &o->max_messages);
    }
    return true;
}

static void forward(struct buf *from, struct buf *to)
{
    enum err e = buf_add(to, buf_span(from));
    CHECK(e == ERR_OK);
    buf_clear(from);
}

static void *adapter_open(struct span options, struct buf *out)
{
    struct smtp_options o = {
        .normalize_newlines = true,
        .max_size = 100000,
        .max_recipients = 100,
        .max_received = 100,
        .max_errors = 20,
        .hostname = "mx.example.com",
    };
    bool ask_mail = false;
    for (struct span word; (word = span_word(&options)).n > 0;) {
        if (span_eq(word, SPAN("mail"))) {
            ask_mail = true;
        } else if (!read_option(word, &o)) {
            return NULL;
        }
    }
    struct adapter *a = NEW(struct adapter);
    a->engine = smtp_new(&o);
    a->ask_mail = ask_mail;
    buf_init(&a->out, SMTP_OUT_MIN + 100);
    buf_init(&a->message, MESSAGE_MOST);
    smtp_greet(a->engine, &a->out);
    forward(&a->out, out);
    return a;
}

static void adapter_close(void *engine)
{
    struct adapter *a = engine;
    smtp_free(&a->engine);
    buf_fini(&a->out);
    buf_fini(&a->message);
    free(a);
}

static void write_data(const struct smtp *s, struct buf *action)
{
    buf_addf(action, "data <%s> helo=%.*s %s", smtp_reverse_path(s)->text, SPAN_ARG(smtp_helo(s)),
             smtp_esmtp(s) ? "esmtp" : "smtp");
    if (smtp_declared_size(s)) {
        buf_addf(action, " size=%llu", (unsigned long long)smtp_declared_size(s));
    }
    buf_addf(action, "%s", smtp_utf8(s) ? " utf8" : "");
}

static void write_mail(const struct smtp *s, const struct address *from, struct buf *action)
{
    struct span words[PARAMETERS_MAIL_MAX];
    size_t n = smtp_mail_parameters(s, words);
    buf_addf(action, "mail <%s>", from->text);
    for (size_t i = 0; i < n; i++) {
        buf_addf(action, " %.*s", SPAN_ARG(words[i]));
    }
}

static void write_xclient(const struct smtp_xclient *x, struct buf *action)
{
    buf_add(action, SPAN("xclient"));
    for (enum xclient_attribute a = 0; a < XCLIENT_ATTRIBUTES; a++) {
        if (xclient_has(x, a)) {
            buf_addf(action, " %s=%s", xclient_name(a), x->value[a]);
        }
    }
}

static void write_message(struct adapter *a, struct buf *action)
{
    if (buf_len(&a->message) > MESSAGE_SHOWN) {
        buf_addf(action, "message of %zu octets", buf_len(&a->message));
    } else {
        buf_add(action, SPAN("message "));
        buf_add(action, buf_span(&a->message));
    }
    buf_clear(&a->message);
}

/* The action in the script's words; false when the engine has closed. */
static bool write_action(struct adapter *a, const struct smtp_action *act, struct buf *action)
{
    switch (act->kind) {
    case SMTP_STARTTLS:
        buf_add(action, SPAN("starttls"));
        break;
    case SMTP_XCLIENT:
        write_xclient(act->u.xclient, action);
        break;
    case SMTP_MAIL:
        write_mail(a->engine, act->u.reverse_path, action);
        break;
    case SMTP_RCPT:
        buf_addf(action, "rcpt %s", act->u.rcpt->canon);
        break;
    case SMTP_DATA_BEGIN:
        write_data(a->engine, action);
        break;
    case SMTP_DATA_END:
        write_message(a, action);
        break;
    case SMTP_RESET:
        buf_clear(&a->message);
        buf_add(action, SPAN("reset"));
        break;
    case SMTP_CLOSE:
        buf_addf(action, "close %s", smtp_close_text(act->u.close));
        return false;
    default:
        break;
    }
    return true;
}

static bool adapter_step(void *engine, struct span *in, struct buf *out, struct buf *action)
{
    struct adapter *a = engine;
    for (;;) {
        struct smtp_action act = smtp_step(a->engine, in, &a->out);
        forward(&a->out, out);
        if (act.kind == SMTP_DATA) {
            enum err e = buf_add(&a->message, act.u.data);
            CHECK(e == ERR_OK);
        } else if (act.kind == SMTP_MAIL && !a->ask_mail) {
            smtp_mail_answer(a->engine, SMTP_OK, &a->out);
            forward(&a->out, out);
        } else if (act.kind != SMTP_FLUSH) {
            a->open = act.kind;
            return write_action(a, &act, action);
        }
    }
}

static bool adapter_waits(void *engine)
{
    const struct adapter *a = engine;
    return a->open == SMTP_STARTTLS || a->open == SMTP_XCLIENT || a->open == SMTP_MAIL ||
           a->open == SMTP_RCPT || a->open == SMTP_DATA_BEGIN || a->open == SMTP_DATA_END;
}

static bool answer_end(struct adapter *a, struct span text)
{
    enum smtp_verdict v[1000];
    size_t n = 0;
    struct span receipt = { 0 };
    for (struct span word; (word = span_word(&text)).n > 0;) {
        if (span_starts(word, SPAN("id="))) {
            receipt = span_skip(word, 3);
        } else if (n == ARRAY_LEN(v) || !read_verdict(a, word, &v[n++])) {
            return false;
        }
    }
    smtp_end_answer(a->engine, v, n, receipt, &a->out);
    return true;
}

static bool answer_verdict(struct adapter *a, struct span text,
                           void (*say)(struct smtp *, enum smtp_verdict, struct buf *))
{
    enum smtp_verdict v;
    if (!read_verdict(a, text, &v)) {
        return false;
    }
    say(a->engine, v, &a->out);
    return true;
}

static bool answer(struct adapter *a, struct span text)
{
    switch (a->open) {
    case SMTP_STARTTLS:
        smtp_tls_answer(a->engine);
        return span_eq(text, SPAN("up"));
    case SMTP_XCLIENT:
        smtp_xclient_answer(a->engine, span_eq(text, SPAN("ok")), &a->out);
        return true;
    case SMTP_MAIL:
        return answer_verdict(a, text, smtp_mail_answer);
    case SMTP_RCPT:
        return answer_verdict(a, text, smtp_rcpt_answer);
    case SMTP_DATA_BEGIN:
        return answer_verdict(a, text, smtp_data_answer);
    default:
        return answer_end(a, text);
    }
}

static bool adapter_answer(void *engine, struct span text, struct buf *out)
{
    struct adapter *a = engine;
    bool ok = answer(a, text);
    a->open = SMTP_NEED_INPUT;
    forward(&a->out, out);
    return ok;
}

int main(int argc, char **argv)
{
    static const struct script_adapter adapter = { .open = adapter_open,
                                                   .step = adapter_step,
                                                   .answer = adapter_answer,
                                                   .waits = adapter_waits,
                                                   .close = adapter_close };
    return script_main(argc, argv, &adapter);
}
