/*
 * smtp: the commands of an ESMTP or LMTP server, and the engine as a whole.
 *
 * Commands come from one table; a phase says what may come next, and an open action, if there is
 * one, what the session owes the engine. The engine's state is in smtp_state, its replies in
 * smtp_reply, the message in smtp_data. Recipients it only counts, because what becomes of them is
 * the session's business.
 *
 * It doesn't decide who is a recipient, keeps no message, writes no trace header, knows no time.
 */
#include "smtp.h"

#include <stdlib.h>

#include "base/check.h"
#include "smtp_data.h"
#include "smtp_reply.h"

/* Octets of a DATA action: a buf keeps memory of this size when it is cleared. */
#define PIECE_MAX     16384
#define TLS_HANDSHAKE 0x16 /* the first octet of a client that begins with TLS */

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

/* EHLO, HELO, LHLO. */

/* RFC 9422, section 3: a value has at most six digits. */
static unsigned limit_value(unsigned n)
{
    return n > 999999 ? 999999 : n;
}

static void put_limits(const struct smtp *s, struct buf *out)
{
    smtp_reply_must(buf_addf(out, "250-LIMITS RCPTMAX=%u", limit_value(s->o.max_recipients)));
    if (s->o.max_messages) {
        smtp_reply_must(buf_addf(out, " MAILMAX=%u", limit_value(s->o.max_messages)));
    }
    smtp_reply_must(buf_add(out, SPAN("\r\n")));
}

static void put_xclient(struct buf *out)
{
    smtp_reply_must(buf_add(out, SPAN("250-XCLIENT")));
    for (enum xclient_attribute a = 0; a < XCLIENT_ATTRIBUTES; a++) {
        smtp_reply_must(buf_addf(out, " %s", xclient_name(a)));
    }
    smtp_reply_must(buf_add(out, SPAN("\r\n")));
}

static void put_extensions(const struct smtp *s, struct buf *out)
{
    smtp_reply_must(buf_addf(out, "250-%s\r\n", s->o.hostname));
    smtp_reply_must(buf_addf(out, "250-SIZE %llu\r\n", (unsigned long long)s->o.max_size));
    smtp_reply_must(buf_add(out, SPAN("250-PIPELINING\r\n"
                                      "250-8BITMIME\r\n"
                                      "250-SMTPUTF8\r\n"
                                      "250-CHUNKING\r\n")));
    put_limits(s, out);
    if (s->o.tls_offered && !s->tls) {
        smtp_reply_must(buf_add(out, SPAN("250-STARTTLS\r\n")));
    }
    if (s->tls) {
        smtp_reply_must(buf_add(out, SPAN("250-REQUIRETLS\r\n")));
    }
    if (s->o.xclient) {
        put_xclient(out);
    }
    smtp_reply_must(buf_add(out, SPAN("250 ENHANCEDSTATUSCODES\r\n")));
}

static enum smtp_action_kind greet(struct smtp *s, struct span name, bool esmtp, struct buf *out)
{
    if (!xclient_is_helo(name)) {
        return smtp_reply_refuse(s, REPLY_HELO_SYNTAX, out);
    }
    enum smtp_action_kind kind = smtp_state_abandon(s);
    s->phase = PHASE_IDLE;
    s->esmtp = esmtp;
    memcpy(s->helo, name.p, name.n);
    s->helo[name.n] = '\0';
    if (esmtp) {
        put_extensions(s, out);
    } else {
        smtp_reply_must(buf_addf(out, "250 %s\r\n", s->o.hostname));
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
    return s->o.lmtp ? smtp_reply_refuse(s, REPLY_USE_LHLO, out) : greet(s, arg, true, out);
}

static enum smtp_action_kind run_helo(struct smtp *s, struct span arg, struct buf *out)
{
    return s->o.lmtp ? smtp_reply_refuse(s, REPLY_USE_LHLO, out) : greet(s, arg, false, out);
}

static enum smtp_action_kind run_lhlo(struct smtp *s, struct span arg, struct buf *out)
{
    return s->o.lmtp ? greet(s, arg, true, out) : smtp_reply_refuse(s, REPLY_UNKNOWN_COMMAND, out);
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
    smtp_reply_on(rule->bad, SPAN(""), why, out);
    smtp_reply_error(s, out);
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
        smtp_reply_refuse(s, rule->syntax, out);
        return false;
    }
    *arg = span_trim(span_skip(*arg, keyword.n));
    if (address_parse_path(arg, rule->null_ok, path) != ERR_OK) {
        refuse_path(s, rule, *arg, out);
        return false;
    }
    if (arg->n > 0 && *arg->p != ' ' && *arg->p != '\t') {
        smtp_reply_refuse(s, rule->syntax, out);
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
        smtp_reply_close(s, REPLY_TOO_MANY_MAILS, SMTP_CLOSE_MESSAGES, out);
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
        return smtp_reply_refuse(s, r, out);
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
    if (smtp_reply_grants(v)) {
        smtp_reply(REPLY_SENDER_OK, out);
        s->phase = PHASE_MAIL;
        return;
    }
    smtp_state_end(s);
    smtp_reply_address(s, smtp_reply_of(v), SPAN(""), out);
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
        return smtp_reply_refuse(s, r, out);
    }
    if (s->recipients >= s->o.max_recipients) {
        return smtp_reply_grant(REPLY_TOO_MANY,
                                out); /* no error of the client's: RFC 5321, 4.5.3.1.10 */
    }
    return SMTP_RCPT;
}

void smtp_rcpt_answer(struct smtp *s, enum smtp_verdict v, struct buf *out)
{
    CHECK(s->open == SMTP_RCPT);
    s->open = SMTP_NEED_INPUT;
    struct span subject = span_of(s->rcpt.text, s->rcpt.len);
    if (smtp_reply_grants(v)) {
        smtp_reply_on(REPLY_RCPT_OK, subject, SPAN(""), out);
        s->recipients++;
        s->phase = PHASE_RCPT;
    } else {
        smtp_reply_address(s, smtp_reply_of(v), subject, out);
    }
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
    smtp_reply(REPLY_RESET_OK, out);
    return smtp_state_abandon(s);
}

static enum smtp_action_kind run_noop(struct smtp *s, struct span arg, struct buf *out)
{
    (void)s;
    (void)arg;
    return smtp_reply_grant(REPLY_NOOP_OK, out);
}

static enum smtp_action_kind run_help(struct smtp *s, struct span arg, struct buf *out)
{
    (void)s;
    (void)arg;
    return smtp_reply_grant(REPLY_HELP_TEXT, out);
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
        return smtp_reply_refuse(s, REPLY_VRFY_SYNTAX, out);
    }
    return utf8 || is_ascii(arg) ? smtp_reply_grant(REPLY_VRFY_TEXT, out)
                                 : smtp_reply_refuse(s, REPLY_NEED_SMTPUTF8, out);
}

static enum smtp_action_kind run_expn(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    return smtp_reply_refuse(s, REPLY_NOT_IMPLEMENTED, out);
}

static enum smtp_action_kind run_starttls(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    if (s->tls) {
        return smtp_reply_refuse(s, REPLY_TLS_IS_UP, out);
    }
    if (!s->o.tls_offered) {
        return smtp_reply_refuse(s, REPLY_NO_TLS, out);
    }
    smtp_reply(REPLY_TLS_GO, out);
    return SMTP_STARTTLS;
}

/*
 * What the relay said before holds until it says otherwise: it may name one attribute at a time.
 */
static enum smtp_action_kind run_xclient(struct smtp *s, struct span arg, struct buf *out)
{
    if (!s->o.xclient) {
        return smtp_reply_refuse(s, REPLY_NO_XCLIENT, out);
    }
    s->claimed = NEW(struct smtp_xclient);
    if (s->xclient) {
        *s->claimed = *s->xclient;
    }
    if (xclient_parse(arg, s->claimed) != ERR_OK) {
        free(s->claimed);
        s->claimed = NULL;
        return smtp_reply_refuse(s, REPLY_XCLIENT_SYNTAX, out);
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
        smtp_reply_refuse(s, REPLY_XCLIENT_SYNTAX, out);
        return;
    }
    forget_greeting(s);
    smtp_greet(s, out);
}

static enum smtp_action_kind run_quit(struct smtp *s, struct span arg, struct buf *out)
{
    (void)arg;
    smtp_reply_close(s, REPLY_BYE, SMTP_CLOSE_QUIT, out);
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
    /* Returns the action that it leads to, mostly none. */
    enum smtp_action_kind (*run)(struct smtp *s, struct span arg, struct buf *out);
} commands[] = {
    { "EHLO", ANYTIME, true, true, run_ehlo },
    { "HELO", ANYTIME, true, true, run_helo },
    { "LHLO", ANYTIME, true, true, run_lhlo },
    { "STARTTLS", IN_IDLE, false, false, run_starttls },
    { "MAIL", IN_IDLE, true, false, run_mail },
    { "RCPT", IN_MAIL | IN_RCPT, true, false, run_rcpt },
    { "DATA", IN_RCPT, false, false, run_data },
    { "BDAT", ANYTIME, true, false, smtp_data_bdat }, /* its chunk has to be eaten in any phase */
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
        smtp_reply_close(s, REPLY_NOT_SMTP, SMTP_CLOSE_HTTP, out);
        return SMTP_CLOSE;
    }
    const struct command *c = find_command(verb);
    if (!c) {
        return smtp_reply_refuse(s, REPLY_UNKNOWN_COMMAND, out);
    }
    if (!(c->phases & 1u << s->phase)) {
        return smtp_reply_refuse(s, out_of_order(s, c), out);
    }
    if (line.n > 0 && !c->takes_argument) {
        return smtp_reply_refuse(s, REPLY_NO_ARGUMENT, out);
    }
    enum smtp_action_kind kind = c->run(s, line, out);
    if (c->idle && ++s->idle_commands > IDLE_COMMANDS_MAX) {
        smtp_reply_error(s, out);
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
        smtp_reply_close(s, REPLY_NOT_SMTP, SMTP_CLOSE_NOT_SMTP, out);
        return SMTP_CLOSE;
    }
    switch (line_next(&s->line, LINE_MAX_OCTETS, in, &line)) {
    case LINE_READY: {
        enum smtp_action_kind kind = run_line(s, line, out);
        line_done(&s->line);
        return kind;
    }
    case LINE_TOO_LONG:
        return smtp_reply_refuse(s, REPLY_LINE_TOO_LONG, out);
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
    case PHASE_CHUNK:
    case PHASE_CHUNK_END:
    case PHASE_END:
    case PHASE_REPLIES:
        return smtp_data_step(s, in, out);
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
    smtp_reply_must(buf_addf(out, "220 %s %s\r\n", s->o.hostname, s->o.lmtp ? "LMTP" : "ESMTP"));
}

void smtp_refuse(const struct smtp_options *o, struct span enhanced, struct span text,
                 struct buf *out)
{
    smtp_reply_must(
        buf_addf(out, "421 %.*s %s %.*s\r\n", SPAN_ARG(enhanced), o->hostname, SPAN_ARG(text)));
}

void smtp_shutdown(struct smtp *s, struct buf *out)
{
    smtp_reply_close(s, REPLY_GOING_DOWN, SMTP_CLOSE_SHUTDOWN, out);
}

void smtp_timeout(struct smtp *s, struct buf *out)
{
    smtp_reply_close(s, REPLY_TOO_SLOW, SMTP_CLOSE_TIMEOUT, out);
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
