/*
 * smtp: the state machine of an ESMTP or LMTP server.
 *
 * Commands come from one table, replies from another; a phase says what may come next, and an open
 * action, if there is one, what the session owes the engine. The engine owns one line, one decoded
 * piece of a message and the envelope of the open transaction, all of them bounded; recipients it
 * only counts, because what becomes of them is the session's business.
 *
 * It doesn't decide who is a recipient, keeps no message, writes no trace header, knows no time.
 * CHUNKING, DSN and AUTH are not offered: BDAT and the others are unknown commands, ORCPT= and its
 * kin unknown parameters.
 */
#include "smtp.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "hops.h"
#include "proto/dot.h"
#include "proto/line.h"

/* Octets of a DATA action: a buf keeps memory of this size when it is cleared. */
#define PIECE_MAX   16384
#define RECEIPT_MAX 64 /* octets of the text behind a 250 */
/*
 * Commands that bring no message nearer, such as NOOP and RSET, between two messages: each further
 * one is an error. A client that keeps a connection warm needs fewer.
 */
#define IDLE_COMMANDS_MAX 100

/*
 * Every reply but the greeting and the answers to EHLO and HELO, which carry the host's name. The
 * enhanced code is RFC 3463's; RFC 2034, section 4, wants none in answers to EHLO, HELO and LHLO.
 * The first rows are enum smtp_verdict's, in its order.
 */
/* clang-format off */
#define REPLY_LIST(X)                                                                  \
    X(OK,              250, "2.0.0", "Delivered")                                      \
    X(UNKNOWN,         550, "5.1.1", "No such mailbox here")                           \
    X(NO_RELAY,        550, "5.7.1", "Relaying denied: not a domain of ours")          \
    X(SUSPENDED,       550, "5.2.1", "Mailbox is disabled")                            \
    X(OVER_QUOTA,      452, "4.2.2", "Mailbox is full")                                \
    X(TOO_LARGE,       552, "5.3.4", "Message is too large")                           \
    X(TOO_MANY,        452, "4.5.3", "Too many recipients")                            \
    X(FAULT,           451, "4.3.0", "Temporary fault, try again later")               \
                                                                                       \
    X(SENDER_OK,       250, "2.1.0", "Sender ok")                                      \
    X(RCPT_OK,         250, "2.1.5", "Recipient ok")                                   \
    X(RESET_OK,        250, "2.0.0", "Transaction reset")                              \
    X(NOOP_OK,         250, "2.0.0", "Nothing done")                                   \
    X(BYE,             221, "2.0.0", "Goodbye")                                        \
    X(TLS_GO,          220, "2.0.0", "Start TLS now")                                  \
    X(HELP_TEXT,       214, "2.0.0", "The commands are those of RFC 5321 and RFC 2033") \
    X(VRFY_TEXT,       252, "2.0.0", "Not verified; send it a message to find out")    \
    X(START_DATA,      354, NULL,    "Start mail input; end with <CRLF>.<CRLF>")       \
                                                                                       \
    X(UNKNOWN_COMMAND, 500, "5.5.1", "Unknown command")                                \
    X(NOT_IMPLEMENTED, 502, "5.5.1", "Command not implemented")                        \
    X(LINE_TOO_LONG,   500, "5.5.2", "Line is too long")                               \
    X(USE_LHLO,        500, NULL,    "This is LMTP: send LHLO")                        \
    X(NEED_EHLO,       503, "5.5.1", "Send EHLO first")                                \
    X(NEED_LHLO,       503, "5.5.1", "Send LHLO first")                                \
    X(NEED_MAIL,       503, "5.5.1", "Send MAIL first")                                \
    X(NEED_RCPT,       503, "5.5.1", "No valid recipients")                            \
    X(MAIL_IS_OPEN,    503, "5.5.1", "A transaction is open; end it with RSET")        \
    X(TLS_IS_UP,       503, "5.5.1", "TLS is already active")                          \
    X(NO_TLS,          502, "5.5.1", "TLS is not offered")                             \
                                                                                       \
    X(NO_ARGUMENT,     501, "5.5.4", "This command takes no argument")                 \
    X(HELO_SYNTAX,     501, NULL,    "Send your host name, and nothing else")          \
    X(VRFY_SYNTAX,     501, "5.5.4", "Syntax: VRFY address")                           \
    X(MAIL_SYNTAX,     501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")       \
    X(RCPT_SYNTAX,     501, "5.5.4", "Syntax: RCPT TO:<address>")                      \
    X(PARAM_UNKNOWN,   555, "5.5.4", "Unknown parameter")                              \
    X(PARAM_VALUE,     501, "5.5.4", "A parameter has a bad value")                    \
    X(PARAM_TWICE,     501, "5.5.4", "A parameter was given twice")                    \
    X(SENDER_BAD,      501, "5.1.7", "Not a valid sender address")                     \
    X(SENDER_LONG,     501, "5.1.7", "Sender address is too long")                     \
    X(RCPT_BAD,        501, "5.1.3", "Not a valid recipient address")                  \
    X(RCPT_LONG,       501, "5.1.3", "Recipient address is too long")                  \
    X(NEED_SMTPUTF8,   553, "5.6.7", "Non-ASCII address without SMTPUTF8")             \
                                                                                       \
    X(MAIL_LOOP,       554, "5.4.6", "Too many Received: headers; mail is looping")    \
    X(BARE_NEWLINE,    550, "5.6.0", "A CR or LF stands alone; lines end in CRLF")     \
    X(TOO_MANY_ERRORS, 421, "4.7.0", "Too many errors, closing the connection")        \
    X(GOING_DOWN,      421, "4.3.2", "Shutting down, try again later")                 \
    X(TOO_SLOW,        421, "4.4.2", "Waited too long, closing the connection")
/* clang-format on */

enum reply {
#define X(name, code, enhanced, text) REPLY_##name,
    REPLY_LIST(X)
#undef X
};
#define X(name, word)                                                                              \
    _Static_assert((int)SMTP_##name == (int)REPLY_##name, "the verdicts are the first replies");
SMTP_VERDICT_LIST(X)
#undef X

static const struct {
    unsigned code;
    const char *enhanced;
    const char *text;
} replies[] = {
#define X(name, code, enhanced, text) { code, enhanced, text },
    REPLY_LIST(X)
#undef X
};

/* The first four are those that commands are read in. */
enum phase {
    PHASE_NEW,     /* not greeted, or TLS came up since */
    PHASE_IDLE,    /* no transaction */
    PHASE_MAIL,    /* a sender, no recipient */
    PHASE_RCPT,    /* at least one recipient */
    PHASE_DATA,    /* inside the message */
    PHASE_END,     /* the message is complete; its last piece may have gone out just now */
    PHASE_REPLIES, /* the replies to the message are going out */
    PHASE_CLOSED
};

struct mail {
    struct address from;
    uint64_t declared; /* SIZE= */
    bool utf8;         /* SMTPUTF8 */
    unsigned given;    /* a bit for each row of params */
};

struct smtp {
    struct smtp_options o;
    enum phase phase;
    enum smtp_action_kind open; /* waits for its answer; SMTP_NEED_INPUT when none does */
    enum smtp_close close;
    struct line line;
    bool tls;
    bool esmtp;
    char helo[DOMAIN_MAX + 1];
    unsigned errors; /* these two since the last message that was delivered */
    unsigned idle_commands;

    struct mail mail;
    struct address rcpt; /* of the open RCPT action */
    unsigned recipients; /* that were answered with OK */

    struct dot_decoder dot;
    struct hops hops;
    struct buf piece; /* of the message, decoded */
    uint64_t size;    /* of the message so far */

    unsigned char *outcome; /* an enum reply for each reply that the message gets */
    size_t replied;
    char receipt[RECEIPT_MAX + 1];
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
    return s->phase > PHASE_IDLE;
}

static void end_transaction(struct smtp *s)
{
    if (in_transaction(s)) {
        s->phase = PHASE_IDLE;
    }
    s->mail = (struct mail){ 0 };
    s->recipients = 0;
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

static void put_extensions(const struct smtp *s, struct buf *out)
{
    must(buf_addf(out, "250-%s\r\n", s->o.hostname));
    must(buf_addf(out, "250-SIZE %llu\r\n", (unsigned long long)s->o.max_size));
    must(buf_add(out, SPAN("250-PIPELINING\r\n"
                           "250-8BITMIME\r\n"
                           "250-SMTPUTF8\r\n")));
    if (s->o.tls_offered && !s->tls) {
        must(buf_add(out, SPAN("250-STARTTLS\r\n")));
    }
    must(buf_add(out, SPAN("250 ENHANCEDSTATUSCODES\r\n")));
}

/*
 * Clients in the field send names that are no domains; those are taken as they are. What would
 * break the syntax of a Received: header or the log, where the name ends up, is not.
 */
static bool is_helo_name(struct span name)
{
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (c <= ' ' || c > '~' || memchr("()<>@,;\\\"", c, 9)) {
            return false;
        }
    }
    return name.n > 0 && name.n <= DOMAIN_MAX;
}

static enum smtp_action_kind greet(struct smtp *s, struct span name, bool esmtp, struct buf *out)
{
    if (!is_helo_name(name)) {
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
    enum reply ok, syntax, bad, too_long;
};

static const struct path_rule reverse_path = {
    .keyword = "FROM:",
    .null_ok = true,
    .ok = REPLY_SENDER_OK,
    .syntax = REPLY_MAIL_SYNTAX,
    .bad = REPLY_SENDER_BAD,
    .too_long = REPLY_SENDER_LONG,
};
static const struct path_rule forward_path = {
    .keyword = "TO:",
    .null_ok = false,
    .ok = REPLY_RCPT_OK,
    .syntax = REPLY_RCPT_SYNTAX,
    .bad = REPLY_RCPT_BAD,
    .too_long = REPLY_RCPT_LONG,
};

/* Leaves the parameters in *arg. A blank behind the colon is wrong but common. */
static enum reply read_path(const struct path_rule *rule, struct span *arg, struct address *path)
{
    struct span keyword = span_str(rule->keyword);
    if (!span_starts_nocase(*arg, keyword)) {
        return rule->syntax;
    }
    *arg = span_trim(span_skip(*arg, keyword.n));
    enum err e = address_parse_path(arg, rule->null_ok, path);
    if (e) {
        return e == ERR_LIMIT ? rule->too_long : rule->bad;
    }
    bool word_ends = arg->n == 0 || *arg->p == ' ' || *arg->p == '\t';
    return word_ends ? rule->ok : rule->syntax;
}

/* Each takes the value of a parameter; its p is NULL when there was no equals sign. */

static enum reply set_size(const struct smtp *s, struct span value, struct mail *m)
{
    enum err e = span_u64(value, s->o.max_size, &m->declared);
    if (e) {
        return e == ERR_LIMIT ? REPLY_TOO_LARGE : REPLY_PARAM_VALUE;
    }
    return REPLY_SENDER_OK;
}

/* Messages are kept as they come, so both mean the same here. */
static enum reply set_body(const struct smtp *s, struct span value, struct mail *m)
{
    (void)s;
    (void)m;
    bool known = span_eq_nocase(value, SPAN("7BIT")) || span_eq_nocase(value, SPAN("8BITMIME"));
    return known ? REPLY_SENDER_OK : REPLY_PARAM_VALUE;
}

static enum reply set_utf8(const struct smtp *s, struct span value, struct mail *m)
{
    (void)s;
    m->utf8 = true;
    return value.p ? REPLY_PARAM_VALUE : REPLY_SENDER_OK;
}

static const struct {
    const char *name;
    enum reply (*set)(const struct smtp *s, struct span value, struct mail *m);
} params[] = {
    { "SIZE", set_size },
    { "BODY", set_body },
    { "SMTPUTF8", set_utf8 },
};

static enum reply read_param(const struct smtp *s, struct span word, struct mail *m)
{
    size_t equals = span_find(word, '=');
    struct span name = span_first(word, equals);
    struct span value = equals < word.n ? span_skip(word, equals + 1) : (struct span){ 0 };
    for (unsigned i = 0; i < ARRAY_LEN(params); i++) {
        if (!span_eq_nocase(name, span_str(params[i].name))) {
            continue;
        }
        if (m->given & 1u << i) {
            return REPLY_PARAM_TWICE;
        }
        m->given |= 1u << i;
        return params[i].set(s, value, m);
    }
    return REPLY_PARAM_UNKNOWN;
}

/* The whole of MAIL's argument; SENDER_OK when all of it is right. */
static enum reply read_mail(const struct smtp *s, struct span arg, struct mail *m)
{
    enum reply r = read_path(&reverse_path, &arg, &m->from);
    while (r == REPLY_SENDER_OK) {
        struct span word = span_word(&arg);
        if (word.n == 0) {
            break;
        }
        r = read_param(s, word, m);
    }
    if (r == REPLY_SENDER_OK && m->from.utf8 && !m->utf8) {
        r = REPLY_NEED_SMTPUTF8;
    }
    return r;
}

static enum smtp_action_kind run_mail(struct smtp *s, struct span arg, struct buf *out)
{
    struct mail m = { 0 };
    enum reply r = read_mail(s, arg, &m);
    if (r != REPLY_SENDER_OK) {
        return refuse(s, r, out);
    }
    s->mail = m;
    s->phase = PHASE_MAIL;
    return grant(r, out);
}

static enum reply read_rcpt(const struct smtp *s, struct span arg, struct address *path)
{
    enum reply r = read_path(&forward_path, &arg, path);
    if (r == REPLY_RCPT_OK && arg.n > 0) {
        r = REPLY_PARAM_UNKNOWN;
    }
    if (r == REPLY_RCPT_OK && path->utf8 && !s->mail.utf8) {
        r = REPLY_NEED_SMTPUTF8;
    }
    return r;
}

static enum smtp_action_kind run_rcpt(struct smtp *s, struct span arg, struct buf *out)
{
    enum reply r = read_rcpt(s, arg, &s->rcpt);
    if (r != REPLY_RCPT_OK) {
        return refuse(s, r, out);
    }
    if (s->recipients >= s->o.max_recipients) {
        return grant(REPLY_TOO_MANY, out); /* no error of the client's: RFC 5321, 4.5.3.1.10 */
    }
    return SMTP_RCPT;
}

/*
 * Refused recipients count as errors, or a client could try names for ever. Behind LMTP stands a
 * gateway of our own, whose connection carries the mail of many senders.
 */
void smtp_rcpt_answer(struct smtp *s, enum smtp_verdict v, struct buf *out)
{
    CHECK(s->open == SMTP_RCPT);
    s->open = SMTP_NEED_INPUT;
    enum reply r = v == SMTP_OK ? REPLY_RCPT_OK : reply_of(v);
    put_reply_on(r, span_of(s->rcpt.text, s->rcpt.len), SPAN(""), out);
    if (v == SMTP_OK) {
        s->recipients++;
        s->phase = PHASE_RCPT;
    } else if (replies[r].code >= 500 && !s->o.lmtp) {
        count_error(s, out);
    }
}

/* The other commands. */

static enum smtp_action_kind run_data(struct smtp *s, struct span arg, struct buf *out)
{
    (void)s;
    (void)arg;
    (void)out;
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

/* Tells nothing about who has a mailbox here (RFC 5321, section 7.3). */
static enum smtp_action_kind run_vrfy(struct smtp *s, struct span arg, struct buf *out)
{
    return arg.n ? grant(REPLY_VRFY_TEXT, out) : refuse(s, REPLY_VRFY_SYNTAX, out);
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
    ANYTIME = 1 << PHASE_NEW | IN_IDLE | IN_MAIL | IN_RCPT /* RFC 5321, section 4.1.4 */
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
    default:
        return c->phases & IN_RCPT ? REPLY_NEED_RCPT : REPLY_MAIL_IS_OPEN;
    }
}

static enum smtp_action_kind run_line(struct smtp *s, struct span line, struct buf *out)
{
    struct span verb = span_word(&line);
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

/* The message and its replies. */

/*
 * What the engine has to say against the message so far, OK when nothing. It is computed
 * from counts that only grow, so it does not depend on how the message was cut into pieces.
 */
static enum reply judge(const struct smtp *s)
{
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
        struct span receipt = span_str(r == REPLY_OK ? s->receipt : "");
        put_reply_on(r, SPAN(""), receipt, out);
    }
    if (judge(s) != REPLY_OK) {
        return abandon(s);
    }
    end_transaction(s);
    return SMTP_NEED_INPUT;
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

/* A message that will be refused is eaten to its end, as nothing in it may pass for a command. */
static enum smtp_action_kind step_data(struct smtp *s, struct span *in, struct buf *out)
{
    buf_clear(&s->piece);
    bool complete = dot_decode(&s->dot, in, &s->piece);
    struct span piece = buf_span(&s->piece);
    s->size += piece.n;
    hops_scan(&s->hops, piece);
    if (complete) {
        s->phase = PHASE_END;
    }
    if (piece.n > 0 && judge(s) == REPLY_OK) {
        return SMTP_DATA;
    }
    return complete ? step_end(s, out) : SMTP_NEED_INPUT;
}

void smtp_data_answer(struct smtp *s, enum smtp_verdict v, struct buf *out)
{
    CHECK(s->open == SMTP_DATA_BEGIN);
    s->open = SMTP_NEED_INPUT;
    if (v != SMTP_OK) {
        put_reply(reply_of(v), out);
        end_transaction(s);
        return;
    }
    put_reply(REPLY_START_DATA, out);
    dot_decode_init(&s->dot, s->o.normalize_newlines);
    hops_init(&s->hops);
    s->size = 0;
    s->phase = PHASE_DATA;
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

/* The engine as a whole. */

static enum smtp_action_kind step(struct smtp *s, struct span *in, struct buf *out)
{
    switch (s->phase) {
    case PHASE_NEW:
    case PHASE_IDLE:
    case PHASE_MAIL:
    case PHASE_RCPT:
        return step_command(s, in, out);
    case PHASE_DATA:
        return step_data(s, in, out);
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
    return kind == SMTP_STARTTLS || kind == SMTP_RCPT || kind == SMTP_DATA_BEGIN ||
           kind == SMTP_DATA_END;
}

static struct smtp_action action_of(const struct smtp *s, enum smtp_action_kind kind)
{
    struct smtp_action a = { .kind = kind };
    if (kind == SMTP_RCPT) {
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
    s->phase = PHASE_NEW;
    s->tls = true;
    s->esmtp = false;
    s->helo[0] = '\0';
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
        free(*s);
        *s = NULL;
    }
}

void smtp_greet(struct smtp *s, struct buf *out)
{
    must(buf_addf(out, "220 %s %s\r\n", s->o.hostname, s->o.lmtp ? "LMTP" : "ESMTP"));
}

void smtp_refuse(const struct smtp_options *o, struct span text, struct buf *out)
{
    must(buf_addf(out, "421 4.3.2 %s %.*s\r\n", o->hostname, SPAN_ARG(text)));
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
    return &s->mail.from;
}

const struct address *smtp_rcpt(const struct smtp *s)
{
    return &s->rcpt;
}

struct span smtp_helo(const struct smtp *s)
{
    return span_str(s->helo);
}

bool smtp_esmtp(const struct smtp *s)
{
    return s->esmtp;
}

bool smtp_utf8(const struct smtp *s)
{
    return s->mail.utf8;
}

bool smtp_tls(const struct smtp *s)
{
    return s->tls;
}

uint64_t smtp_declared_size(const struct smtp *s)
{
    return s->mail.declared;
}
