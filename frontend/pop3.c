/*
 * pop3: the engine: commands, replies and the one open action.
 *
 * A command is a row of the table at the end: its name, where it may be given, how many words it
 * takes, what it does. pop3_step goes by the engine's step:
 *
 *   COMMAND   the next line is a command
 *   RESPONSE  the next line answers an AUTH challenge
 *   LISTING   LIST or UIDL of the whole maildrop goes on with message `listed`
 *   STOP      no more of the message is wanted; the reader is told so
 *   QUIT      the client has said so; what it was sent has to leave first, or pipelined deletes
 *             would be done for messages that never left
 *   ANSWER    the action is open (CLOSE for ever)
 *
 * The replies to pipelined commands gather in out and leave together, short messages included; a
 * long one has out for itself.
 *
 * The engine owns the maildrop, the marks of DELE, and the one copy of a user name, password or
 * SASL response, which is wiped when the login is answered. All of it is on the heap while it is
 * needed, so that an idle session costs little. It echoes nothing that the client said, so no reply
 * can be forged.
 */
#include "pop3.h"

#include <stdlib.h>

#include "base/check.h"
#include "pop3_reply.h"
#include "proto/base64.h"
#include "proto/line.h"
#include "retrieval.h"

#define USER_MAX_OCTETS     320    /* local part, @ and domain (RFC 5321, section 4.5.3.1) */
#define PASSWORD_MAX_OCTETS 512    /* what crypt(3) takes */
#define RESPONSE_MAX_OCTETS 12288  /* in base64 (RFC 4954, section 4; RFC 5034 has no figure) */
#define LISTING_LINE_MAX    128    /* a number, a UIDL, CRLF, and the terminator behind them */
#define PIECE               131072 /* of a listing, or short messages together, to keep out small; */
#define GATHER_MESSAGES     64     /* at most so many of these */
#define WORDS_ANY           SIZE_MAX

/* Bits, for the table of commands. The third of RFC 1939, UPDATE, is the COMMIT action. */
enum state { AUTHORIZATION = 1, TRANSACTION = 2 };

enum step { STEP_COMMAND, STEP_RESPONSE, STEP_LISTING, STEP_STOP, STEP_QUIT, STEP_ANSWER };

/* What the client has said of itself; wiped when it is not needed any more. */
struct secret {
    char *p;
    size_t n;
};

struct pop3 {
    struct pop3_options opt;
    const char *const *mechanisms; /* what AUTH takes; the session's */
    size_t n_mechanisms;
    enum state state;
    enum step step;
    struct pop3_action action; /* in STEP_ANSWER */
    unsigned errors;
    unsigned failed_logins;
    bool utf8; /* the client has said UTF8 */

    struct line line;
    struct secret user, password, response;
    size_t mechanism; /* of the exchange in STEP_RESPONSE */

    struct maildrop *drop;   /* in TRANSACTION */
    unsigned retention_days; /* of the account */
    int read_days;           /* likewise */
    bool *marked;            /* a flag a message; NULL until the first DELE */
    size_t marked_n;
    uint64_t marked_octets;
    size_t *commit; /* what COMMIT borrows out */
    bool committed; /* it has been answered with OK */
    bool quit;      /* the client has said so */

    bool unsent;          /* something of a message is in out */
    size_t *sent, sent_n; /* RETR has put their ends into out, and no command has come since then
                             with out empty; NULL until the first RETR */
    size_t told;          /* so many of them by pop3_sent */
    bool *read;           /* a flag a message: it has left, and a command has come; NULL: none */
    size_t *had;          /* what pop3_read borrows out */

    bool list_uidl;
    size_t listed;

    struct retrieval retrieval; /* the reply to RETR or TOP */
};

struct command {
    const char *name;
    unsigned states;
    size_t least, most; /* words; WORDS_ANY: the rest of the line as it is */
    void (*run)(struct pop3 *p, struct span args, struct buf *out);
};

static const char no_utf8_text[] = "this is not UTF-8";
static const char no_mechanism_text[] = "there is no such mechanism here";
static const char no_tls_text[] = "a password is taken over TLS only: use STLS first";

/* RFC 3206; RFC 2449, section 8.1. */
static const char *const verdict_texts[LOGIN_VERDICTS] = {
    [LOGIN_DENIED] = "[AUTH] wrong user or password",
    [LOGIN_IN_USE] = "[IN-USE] another session has the mailbox open",
    [LOGIN_SESSIONS] = "[IN-USE] too many sessions of this account are open",
    [LOGIN_DELAYED] = "[LOGIN-DELAY] too soon after the last login, try again later",
    [LOGIN_BLOCKED] = "[SYS/TEMP] too many failed logins from your address, try again later",
    [LOGIN_OVERLOAD] = "[SYS/TEMP] too many logins are waiting, try again later",
    [LOGIN_FAULT] = POP3_REPLY_FAULT,
};

const char *pop3_close_text(enum pop3_close c)
{
    static const char *const texts[] = {
#define X(name, text) text,
        POP3_CLOSE_LIST(X)
#undef X
    };
    return texts[c];
}

/* --- actions --------------------------------------------------------------------------------- */

static void ask(struct pop3 *p, struct pop3_action a)
{
    p->action = a;
    p->step = STEP_ANSWER;
}

/* An answer may only come to the action that is open. */
static void answered(struct pop3 *p, enum pop3_action_kind kind)
{
    CHECK(p->step == STEP_ANSWER && p->action.kind == kind);
    p->step = STEP_COMMAND;
}

static void close_session(struct pop3 *p, enum pop3_close reason)
{
    ask(p, (struct pop3_action){ .kind = POP3_CLOSE, .u.close = reason });
}

/* The client has broken the protocol: only so many times. */
static void bad(struct pop3 *p, const char *text, struct buf *out)
{
    pop3_reply_err(out, text);
    if (++p->errors >= p->opt.max_errors) {
        close_session(p, POP3_CLOSE_ERRORS);
    }
}

/* --- secrets --------------------------------------------------------------------------------- */

static void secret_forget(struct secret *s)
{
    if (s->p) {
        explicit_bzero(s->p, s->n);
        free(s->p);
    }
    *s = (struct secret){ 0 };
}

/* n octets of memory, to be written to. */
static char *secret_new(struct secret *s, size_t n)
{
    secret_forget(s);
    s->p = mem_new(n > 0 ? n : 1, 1);
    s->n = n;
    return s->p;
}

static void secret_set(struct secret *s, struct span octets)
{
    memcpy(secret_new(s, octets.n), octets.p, octets.n);
}

static struct span secret_span(const struct secret *s)
{
    return span_of(s->p, s->n);
}

static void forget_login(struct pop3 *p)
{
    secret_forget(&p->user);
    secret_forget(&p->password);
    secret_forget(&p->response);
}

/* --- AUTHORIZATION --------------------------------------------------------------------------- */

static bool may_login(const struct pop3 *p)
{
    return p->opt.plaintext_login || p->opt.tls_active;
}

static bool may_start_tls(const struct pop3 *p)
{
    return p->state == AUTHORIZATION && p->opt.tls_offered && !p->opt.tls_active;
}

void pop3_offer(struct pop3 *p, const char *const *mechanisms, size_t n)
{
    p->mechanisms = mechanisms;
    p->n_mechanisms = n;
}

static void put_maildrop(const struct pop3 *p, struct buf *out)
{
    pop3_reply_text(out, "+OK ");
    pop3_reply_number(out, p->drop->count - p->marked_n);
    pop3_reply_text(out, " messages, ");
    pop3_reply_number(out, p->drop->octets - p->marked_octets);
    pop3_reply_text(out, " octets\r\n");
}

void pop3_login_answer(struct pop3 *p, enum login_verdict v, struct maildrop **m,
                       unsigned retention_days, int read_days, struct buf *out)
{
    answered(p, p->action.kind == POP3_AUTH ? POP3_AUTH : POP3_LOGIN);
    forget_login(p);
    if (v == LOGIN_OK) {
        p->drop = *m;
        *m = NULL;
        CHECK(p->drop);
        p->retention_days = retention_days;
        p->read_days = read_days;
        p->state = TRANSACTION;
        put_maildrop(p, out);
        return;
    }
    CHECK(v < LOGIN_VERDICTS && verdict_texts[v]);
    pop3_reply_err(out, verdict_texts[v]);
    bool guessed = v == LOGIN_DENIED || v == LOGIN_BLOCKED; /* either costs us the same */
    if (guessed && ++p->failed_logins >= p->opt.login_tries) {
        close_session(p, POP3_CLOSE_LOGIN_TRIES);
    }
}

/* No answer tells whether there is such a user. UTF-8 is taken before UTF8 too (RFC 6856, 2.2). */
static void run_user(struct pop3 *p, struct span args, struct buf *out)
{
    if (!may_login(p)) {
        bad(p, no_tls_text, out);
    } else if (!span_utf8(args)) {
        bad(p, no_utf8_text, out);
    } else if (args.n > USER_MAX_OCTETS) {
        bad(p, "the user name is too long", out);
    } else {
        secret_set(&p->user, args);
        pop3_reply_ok(out, "now PASS");
    }
}

static void run_pass(struct pop3 *p, struct span args, struct buf *out)
{
    if (!may_login(p)) {
        bad(p, no_tls_text, out);
    } else if (!p->user.p) {
        bad(p, "USER comes first", out);
    } else if (!span_utf8(args)) {
        bad(p, no_utf8_text, out);
    } else if (args.n > PASSWORD_MAX_OCTETS) {
        bad(p, "the password is too long", out);
    } else {
        secret_set(&p->password, args);
        ask(p, (struct pop3_action){ .kind = POP3_LOGIN,
                                     .u.login = { .user = secret_span(&p->user),
                                                  .password = secret_span(&p->password) } });
    }
}

static void ask_auth(struct pop3 *p, bool first)
{
    ask(p, (struct pop3_action){ .kind = POP3_AUTH,
                                 .u.auth = { .first = first,
                                             .mechanism = p->mechanism,
                                             .response = secret_span(&p->response) } });
}

static void take_response(struct pop3 *p, bool first, struct span base64, struct buf *out)
{
    char *to = secret_new(&p->response, base64.n);
    size_t n;
    if (base64_decode(base64, to, &n) != ERR_OK) {
        secret_forget(&p->response);
        bad(p, "this is not base64", out);
        return;
    }
    ask_auth(p, first);
    p->action.u.auth.response.n = n;
}

void pop3_auth_challenge(struct pop3 *p, struct span challenge, struct buf *out)
{
    answered(p, POP3_AUTH);
    secret_forget(&p->response);
    if (challenge.n > POP3_CHALLENGE_MAX) {
        pop3_reply_err(out, POP3_REPLY_FAULT);
        return;
    }
    pop3_reply_text(out, "+ ");
    enum err e = base64_encode(challenge, out);
    CHECK(e == ERR_OK);
    pop3_reply_text(out, "\r\n");
    p->step = STEP_RESPONSE;
}

void pop3_auth_invalid(struct pop3 *p, struct buf *out)
{
    answered(p, POP3_AUTH);
    forget_login(p);
    bad(p, "the mechanism has no such response", out);
}

static void put_mechanisms(const struct pop3 *p, const char *before, const char *after,
                           struct buf *out)
{
    for (size_t i = 0; i < p->n_mechanisms; i++) {
        pop3_reply_text(out, before);
        pop3_reply_text(out, p->mechanisms[i]);
        pop3_reply_text(out, after);
    }
}

static bool find_mechanism(struct pop3 *p, struct span name)
{
    for (size_t i = 0; i < p->n_mechanisms; i++) {
        if (span_eq_nocase(name, span_str(p->mechanisms[i]))) {
            p->mechanism = i;
            return true;
        }
    }
    return false;
}

/* Without an argument it lists, as clients of before CAPA ask. */
static void run_auth(struct pop3 *p, struct span args, struct buf *out)
{
    struct span mechanism = span_word(&args);
    if (mechanism.n == 0) {
        pop3_reply_ok(out, "mechanisms:");
        put_mechanisms(p, "", "\r\n", out);
        pop3_reply_text(out, ".\r\n");
    } else if (!find_mechanism(p, mechanism)) {
        bad(p, may_start_tls(p) ? "there is no such mechanism here without TLS" : no_mechanism_text,
            out);
    } else if (args.n == 0) {
        secret_forget(&p->response);
        ask_auth(p, true);
    } else {
        /* `=` is how an empty message is written here (RFC 5034, section 4). */
        take_response(p, true, span_eq(args, SPAN("=")) ? SPAN("") : args, out);
    }
}

static void run_response(struct pop3 *p, struct span line, struct buf *out)
{
    if (span_eq(line, SPAN("*"))) {
        bad(p, "authentication is cancelled", out);
    } else {
        take_response(p, false, line, out);
    }
}

static void run_stls(struct pop3 *p, struct span args, struct buf *out)
{
    (void)args;
    if (p->opt.tls_active) {
        bad(p, "TLS is active", out);
    } else if (!p->opt.tls_offered) {
        bad(p, "there is no TLS here", out);
    } else {
        pop3_reply_ok(out, "begin TLS");
        ask(p, (struct pop3_action){ .kind = POP3_STARTTLS });
    }
}

void pop3_tls_answer(struct pop3 *p)
{
    answered(p, POP3_STARTTLS);
    p->opt.tls_active = true;
    p->utf8 = false;
    line_fini(&p->line);
    forget_login(p);
}

/* STLS behind it is taken, and forgets it (RFC 6856, section 2.1, lets a server refuse it). */
static void run_utf8(struct pop3 *p, struct span args, struct buf *out)
{
    (void)args;
    p->utf8 = true;
    pop3_reply_ok(out, "headers come in UTF-8");
}

/* --- both states ----------------------------------------------------------------------------- */

/* The lesser of the two rules; -1: kept for ever. */
static int kept_days(const struct pop3 *p)
{
    int days = p->retention_days > 0 ? (int)p->retention_days : -1;
    return p->read_days >= 0 && (days < 0 || p->read_days < days) ? p->read_days : days;
}

/*
 * How long mail is kept (RFC 2449, section 6.7). Before login the least of all accounts; where that
 * is not known, no time, which is the shortest there is.
 */
static void put_expire(const struct pop3 *p, struct buf *out)
{
    bool before = p->state == AUTHORIZATION;
    bool differs = before && p->opt.expire_differs;
    int days = before ? p->opt.expire_min : kept_days(p);
    pop3_reply_text(out, "EXPIRE ");
    if (days >= 0 || differs) {
        pop3_reply_number(out, days >= 0 ? (uint64_t)days : 0);
    } else {
        pop3_reply_text(out, "NEVER");
    }
    pop3_reply_text(out, differs ? " USER\r\n" : "\r\n");
}

static void put_login_delay(const struct pop3 *p, struct buf *out)
{
    if (p->opt.login_delay > 0) {
        pop3_reply_text(out, "LOGIN-DELAY ");
        pop3_reply_number(out, p->opt.login_delay);
        pop3_reply_text(out, "\r\n");
    }
}

/* USER and SASL are named in both states, as RFC 2449, section 5 wants it; STLS in the first. */
static void run_capa(struct pop3 *p, struct span args, struct buf *out)
{
    (void)args;
    pop3_reply_ok(out, "capabilities:");
    pop3_reply_text(out, "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n");
    put_expire(p, out);
    put_login_delay(p, out);
    if (may_login(p)) {
        pop3_reply_text(out, "USER\r\n");
    }
    if (p->n_mechanisms > 0) {
        pop3_reply_text(out, "SASL");
        put_mechanisms(p, " ", "", out);
        pop3_reply_text(out, "\r\n");
    }
    if (may_start_tls(p)) {
        pop3_reply_text(out, "STLS\r\n");
    }
    pop3_reply_text(out, "UTF8 USER\r\nLANG\r\nIMPLEMENTATION mailfleet\r\n.\r\n");
}

/* The languages of replies (RFC 6856, section 3); both are the same here. */
static const struct {
    const char *tag, *listing, *chosen;
} languages[] = {
    { "en", "en English", "en replies are in English" },
    { "i-default", "i-default Default language", "i-default replies are in English" },
};

/* By look-up (RFC 4647, section 3.4): en-GB is content with en. */
static bool language_suits(struct span range, struct span tag)
{
    return span_starts_nocase(range, tag) && (range.n == tag.n || range.p[tag.n] == '-');
}

static void choose_language(struct pop3 *p, struct span range, struct buf *out)
{
    bool any = span_eq(range, SPAN("*"));
    for (size_t i = 0; i < ARRAY_LEN(languages); i++) {
        if (any || language_suits(range, span_str(languages[i].tag))) {
            pop3_reply_ok(out, languages[i].chosen);
            return;
        }
    }
    bad(p, "there is no such language here", out);
}

static void run_lang(struct pop3 *p, struct span args, struct buf *out)
{
    if (args.n > 0) {
        choose_language(p, args, out);
        return;
    }
    pop3_reply_ok(out, "languages:");
    for (size_t i = 0; i < ARRAY_LEN(languages); i++) {
        pop3_reply_text(out, languages[i].listing);
        pop3_reply_text(out, "\r\n");
    }
    pop3_reply_text(out, ".\r\n");
}

/* --- TRANSACTION ----------------------------------------------------------------------------- */

static bool is_marked(const struct pop3 *p, size_t i)
{
    return p->marked && p->marked[i];
}

/* The index of the message that the client means; else the client has been told why not. */
static bool find_message(struct pop3 *p, struct span word, struct buf *out, size_t *index)
{
    uint64_t n = 0;
    enum err e = span_u64(word, p->drop->count, &n);
    if (e == ERR_INVALID) {
        bad(p, "a message number is digits only", out);
    } else if (e != ERR_OK || n == 0) {
        pop3_reply_err(out, "there is no such message");
    } else if (is_marked(p, n - 1)) {
        pop3_reply_err(out, "the message is deleted");
    } else {
        *index = n - 1;
        return true;
    }
    return false;
}

static void run_stat(struct pop3 *p, struct span args, struct buf *out)
{
    (void)args;
    pop3_reply_text(out, "+OK ");
    pop3_reply_number(out, p->drop->count - p->marked_n);
    pop3_reply_text(out, " ");
    pop3_reply_number(out, p->drop->octets - p->marked_octets);
    pop3_reply_text(out, "\r\n");
}

/* A number that counts up as text: once in ten times there is more to it than its last digit. */
struct counter {
    uint64_t tens;
    char text[BUF_DECIMAL_MAX]; /* of the tens, if there are any */
    size_t n;
    char digit;
};

static void counter_set_tens(struct counter *c, uint64_t tens)
{
    c->tens = tens;
    c->n = tens ? (size_t)(buf_decimal(c->text, tens) - c->text) : 0;
}

static struct counter counter_at(uint64_t v)
{
    struct counter c = { .digit = (char)('0' + v % 10) };
    counter_set_tens(&c, v / 10);
    return c;
}

static void counter_next(struct counter *c)
{
    if (c->digit++ == '9') {
        c->digit = '0';
        counter_set_tens(c, c->tens + 1);
    }
}

/* All of its text is copied, as that takes no loop. */
static char *put_counter(const struct counter *c, char *to)
{
    memcpy(to, c->text, sizeof c->text);
    to[c->n] = c->digit;
    return to + c->n + 1;
}

/* Message i, whose number is n, to memory with room for LISTING_LINE_MAX octets; returns the line's
 * end. */
static char *put_listing_line(const struct pop3 *p, bool uidl, size_t i, const struct counter *n,
                              char *to)
{
    to = put_counter(n, to);
    *to++ = ' ';
    if (uidl) {
        to += maildrop_uidl(p->drop, i, to);
    } else {
        to = buf_decimal(to, maildrop_size(p->drop, i));
    }
    *to++ = '\r';
    *to++ = '\n';
    return to;
}

static void run_listing(struct pop3 *p, bool uidl, struct span args, struct buf *out)
{
    size_t i;
    if (args.n == 0) {
        put_maildrop(p, out);
        p->list_uidl = uidl;
        p->listed = 0;
        p->step = STEP_LISTING;
    } else if (find_message(p, args, out, &i)) {
        char line[LISTING_LINE_MAX];
        struct counter n = counter_at(i + 1);
        pop3_reply_text(out, "+OK ");
        pop3_reply_put(out, span_of(line, (size_t)(put_listing_line(p, uidl, i, &n, line) - line)));
    }
}

/* How much of out the next piece of a listing may fill. */
static size_t listing_room(const struct pop3 *p, const struct buf *out)
{
    size_t lines = p->drop->count - p->listed, len = buf_len(out);
    size_t room = len < PIECE ? PIECE - len : 0;
    if (room > buf_room(out)) {
        room = buf_room(out);
    }
    return room / LISTING_LINE_MAX < lines ? room : lines * LISTING_LINE_MAX;
}

/* False when out has to be sent first. The lines are written where they leave from. */
static bool list_on(struct pop3 *p, struct buf *out)
{
    size_t room = listing_room(p, out);
    char *const from = buf_reserve(out, room), *to = from;
    size_t i = p->listed;
    struct counter n = counter_at(i + 1);
    for (; i < p->drop->count && room - (size_t)(to - from) >= LISTING_LINE_MAX; i++) {
        if (!is_marked(p, i)) {
            to = put_listing_line(p, p->list_uidl, i, &n, to);
        }
        counter_next(&n);
    }
    buf_commit(out, (size_t)(to - from));
    p->listed = i;
    if (i < p->drop->count) {
        return false;
    }
    pop3_reply_text(out, ".\r\n");
    p->step = STEP_COMMAND;
    return true;
}

static void run_list(struct pop3 *p, struct span args, struct buf *out)
{
    run_listing(p, false, args, out);
}

static void run_uidl(struct pop3 *p, struct span args, struct buf *out)
{
    run_listing(p, true, args, out);
}

static void begin_fetch(struct pop3 *p, size_t index, bool top)
{
    ask(p, (struct pop3_action){ .kind = POP3_FETCH, .u.fetch = { .index = index, .top = top } });
}

static void run_retr(struct pop3 *p, struct span args, struct buf *out)
{
    size_t i;
    if (find_message(p, args, out, &i)) {
        retrieval_retr(&p->retrieval, maildrop_size(p->drop, i), p->utf8);
        begin_fetch(p, i, false);
    }
}

static void run_top(struct pop3 *p, struct span args, struct buf *out)
{
    size_t i;
    uint64_t lines = 0;
    struct span number = span_word(&args);
    enum err e = span_u64(args, UINT64_MAX, &lines);
    if (e != ERR_OK) {
        bad(p,
            e == ERR_LIMIT ? "the number of lines is too large"
                           : "the number of lines is digits only",
            out);
    } else if (find_message(p, number, out, &i)) {
        retrieval_top(&p->retrieval, lines, maildrop_size(p->drop, i), p->utf8);
        begin_fetch(p, i, true);
    }
}

/* All of the message is in out; what comes next tells whether it arrived. */
static void note_sent(struct pop3 *p)
{
    if (p->action.u.fetch.top) {
        return;
    }
    CHECK(p->sent_n < GATHER_MESSAGES);
    if (!p->sent) {
        p->sent = NEW_ARRAY(size_t, GATHER_MESSAGES);
    }
    p->sent[p->sent_n++] = p->action.u.fetch.index;
}

/* A command has come behind them, and out is empty. */
static void note_read(struct pop3 *p)
{
    if (p->read_days >= 0 && !p->read && p->sent_n > 0) {
        p->read = NEW_ARRAY(bool, p->drop->count);
    }
    for (size_t i = 0; i < p->sent_n && p->read; i++) {
        p->read[p->sent[i]] = true;
    }
    p->sent_n = p->told = 0;
}

size_t pop3_sent(struct pop3 *p, const size_t **which)
{
    size_t n = p->sent_n - p->told;
    *which = p->sent + p->told;
    p->told = p->sent_n;
    return n;
}

bool pop3_unsent(const struct pop3 *p)
{
    return p->unsent;
}

size_t pop3_read(struct pop3 *p, const size_t **which)
{
    size_t n = 0;
    if (!p->read || (p->read_days == 0 && !p->quit)) {
        return 0;
    }
    free(p->had);
    p->had = NEW_ARRAY(size_t, p->drop->count);
    for (size_t i = 0; i < p->drop->count; i++) {
        if (p->read[i] && !(p->committed && is_marked(p, i))) {
            p->had[n++] = i;
        }
    }
    *which = p->had;
    return n;
}

void pop3_fetch_answer(struct pop3 *p, enum err e, struct span piece, bool last, struct buf *out)
{
    answered(p, p->action.kind == POP3_FETCH ? POP3_FETCH : POP3_FETCH_MORE);
    p->unsent = true;
    switch (retrieval_piece(&p->retrieval, e, piece, last, out)) {
    case RETRIEVAL_MORE:
        p->action.kind = POP3_FETCH_MORE;
        p->step = STEP_ANSWER;
        return;
    case RETRIEVAL_SENT:
        note_sent(p);
        return;
    case RETRIEVAL_REFUSED:
        return;
    case RETRIEVAL_STOP:
        p->step = STEP_STOP;
        return;
    case RETRIEVAL_BROKEN:
        close_session(p, POP3_CLOSE_FETCH_FAULT);
        return;
    }
    UNREACHABLE();
}

bool pop3_converted(const struct pop3 *p)
{
    return p->retrieval.converted;
}

bool pop3_whole(const struct pop3 *p)
{
    return p->retrieval.whole;
}

static void run_dele(struct pop3 *p, struct span args, struct buf *out)
{
    size_t i;
    if (!find_message(p, args, out, &i)) {
        return;
    }
    if (!p->marked) {
        p->marked = NEW_ARRAY(bool, p->drop->count);
    }
    p->marked[i] = true;
    p->marked_n++;
    p->marked_octets += maildrop_size(p->drop, i);
    pop3_reply_ok(out, "deleted at QUIT");
}

static void run_noop(struct pop3 *p, struct span args, struct buf *out)
{
    (void)p;
    (void)args;
    pop3_reply_ok(out, "nothing done");
}

static void run_rset(struct pop3 *p, struct span args, struct buf *out)
{
    (void)args;
    free(p->marked);
    p->marked = NULL;
    p->marked_n = 0;
    p->marked_octets = 0;
    put_maildrop(p, out);
}

/* --- UPDATE ---------------------------------------------------------------------------------- */

static void begin_commit(struct pop3 *p)
{
    size_t n = 0;
    p->commit = NEW_ARRAY(size_t, p->marked_n);
    for (size_t i = 0; i < p->drop->count; i++) {
        if (is_marked(p, i)) {
            p->commit[n++] = i;
        }
    }
    CHECK(n == p->marked_n);
    ask(p, (struct pop3_action){ .kind = POP3_COMMIT, .u.commit = { p->commit, n } });
}

static void run_quit(struct pop3 *p, struct span args, struct buf *out)
{
    (void)args;
    (void)out;
    p->step = STEP_QUIT;
}

/* What was sent has left. */
static void quit(struct pop3 *p, struct buf *out)
{
    p->quit = true;
    if (p->marked_n > 0) {
        begin_commit(p);
        return;
    }
    pop3_reply_ok(out, "bye");
    close_session(p, POP3_CLOSE_QUIT);
}

void pop3_commit_answer(struct pop3 *p, enum err e, struct buf *out)
{
    answered(p, POP3_COMMIT);
    p->committed = e == ERR_OK;
    if (p->committed) {
        pop3_reply_ok(out, "messages deleted, bye");
    } else {
        pop3_reply_err(out, "[SYS/TEMP] the deleted messages may still be there");
    }
    close_session(p, POP3_CLOSE_QUIT);
}

/* --- lines ----------------------------------------------------------------------------------- */

static const struct command commands[] = {
    { "CAPA", AUTHORIZATION | TRANSACTION, 0, 0, run_capa },
    { "LANG", AUTHORIZATION | TRANSACTION, 0, 1, run_lang },
    { "STLS", AUTHORIZATION, 0, 0, run_stls },
    { "UTF8", AUTHORIZATION, 0, 0, run_utf8 },
    { "USER", AUTHORIZATION, 1, 1, run_user },
    { "PASS", AUTHORIZATION, 1, WORDS_ANY, run_pass }, /* blanks are part of a password */
    { "AUTH", AUTHORIZATION, 0, 2, run_auth },
    { "STAT", TRANSACTION, 0, 0, run_stat },
    { "LIST", TRANSACTION, 0, 1, run_list },
    { "UIDL", TRANSACTION, 0, 1, run_uidl },
    { "RETR", TRANSACTION, 1, 1, run_retr },
    { "TOP", TRANSACTION, 2, 2, run_top },
    { "DELE", TRANSACTION, 1, 1, run_dele },
    { "NOOP", TRANSACTION, 0, 0, run_noop },
    { "RSET", TRANSACTION, 0, 0, run_rset },
    { "QUIT", AUTHORIZATION | TRANSACTION, 0, 0, run_quit },
};

static const struct command *find_command(struct span name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (span_eq_nocase(name, span_str(commands[i].name))) {
            return &commands[i];
        }
    }
    return NULL;
}

static size_t count_words(struct span s)
{
    size_t n = 0;
    while (s.n > 0) {
        span_word(&s);
        n++;
    }
    return n;
}

static void run_command(struct pop3 *p, struct span line, struct buf *out)
{
    size_t name_n = span_find(line, ' ');
    const struct command *c = find_command(span_first(line, name_n));
    struct span args = span_skip(line, name_n + 1), trimmed = span_trim(args);
    size_t words = count_words(trimmed);
    if (!c) {
        bad(p, "there is no such command", out);
    } else if (!(c->states & p->state)) {
        bad(p, p->state == AUTHORIZATION ? "log in first" : "you are logged in", out);
    } else if (words < c->least) {
        bad(p, "an argument is missing", out);
    } else if (words > c->most) {
        bad(p, "there are too many arguments", out);
    } else {
        c->run(p, c->most == WORDS_ANY ? args : trimmed, out);
    }
}

/* False when there is no whole line. */
static bool take_line(struct pop3 *p, struct span *in, struct buf *out)
{
    struct span line;
    bool response = p->step == STEP_RESPONSE;
    size_t most = response ? RESPONSE_MAX_OCTETS + 1 : LINE_MAX_OCTETS; /* with its CR */
    enum line_result r = line_next(&p->line, most, in, &line);
    if (r == LINE_MORE) {
        return false;
    }
    p->step = STEP_COMMAND;
    if (buf_len(out) == 0) {
        note_read(p);
    }
    if (r == LINE_TOO_LONG) {
        bad(p, "the line is too long", out);
    } else if (span_find(line, '\0') < line.n) {
        bad(p, "there is a NUL in the line", out);
    } else if (response) {
        run_response(p, line, out);
    } else {
        run_command(p, line, out);
    }
    line_done(&p->line);
    return true;
}

/*
 * Whether a message may be put behind what is in out: a short one, whatever its header is converted
 * to. Any other gets all the room.
 */
static bool may_gather(const struct pop3 *p, const struct buf *out)
{
    size_t room = PIECE < buf_room(out) ? PIECE : buf_room(out);
    uint64_t need = POP3_OUT_MIN + 2 * (uint64_t)maildrop_size(p->drop, p->action.u.fetch.index);
    return p->sent_n < GATHER_MESSAGES && buf_len(out) + need <= room;
}

/* What was sent leaves before the session ends, so that it is known. */
static struct pop3_action step_answer(const struct pop3 *p, const struct buf *out)
{
    if ((p->action.kind == POP3_FETCH && buf_len(out) > 0 && !may_gather(p, out)) ||
        (p->action.kind == POP3_CLOSE && p->unsent)) {
        return (struct pop3_action){ .kind = POP3_FLUSH };
    }
    return p->action;
}

/* In any step but two a command has come behind it. */
void pop3_left(struct pop3 *p)
{
    p->unsent = false;
    if (p->step != STEP_COMMAND && p->step != STEP_RESPONSE) {
        note_read(p);
    }
}

struct pop3_action pop3_step(struct pop3 *p, struct span *in, struct buf *out)
{
    if (buf_len(out) == 0) {
        pop3_left(p);
    }
    while (buf_room(out) >= POP3_OUT_MIN) {
        switch (p->step) {
        case STEP_COMMAND:
        case STEP_RESPONSE:
            if (!take_line(p, in, out)) {
                return (struct pop3_action){ .kind = p->unsent ? POP3_FLUSH : POP3_NEED_INPUT };
            }
            break;
        case STEP_LISTING:
            if (!list_on(p, out)) {
                return (struct pop3_action){ .kind = POP3_FLUSH };
            }
            break;
        case STEP_STOP:
            p->step = STEP_COMMAND;
            return (struct pop3_action){ .kind = POP3_FETCH_STOP };
        case STEP_QUIT:
            if (p->unsent) {
                return (struct pop3_action){ .kind = POP3_FLUSH };
            }
            quit(p, out);
            break;
        case STEP_ANSWER:
            return step_answer(p, out);
        }
    }
    return (struct pop3_action){ .kind = POP3_FLUSH };
}

/* --- life ------------------------------------------------------------------------------------ */

struct pop3 *pop3_new(const struct pop3_options *o)
{
    struct pop3 *p = NEW(struct pop3);
    p->opt = *o;
    p->state = AUTHORIZATION;
    line_init(&p->line);
    return p;
}

void pop3_free(struct pop3 **p)
{
    if (*p) {
        line_fini(&(*p)->line);
        forget_login(*p);
        maildrop_free(&(*p)->drop);
        free((*p)->marked);
        free((*p)->commit);
        free((*p)->sent);
        free((*p)->read);
        free((*p)->had);
        free(*p);
        *p = NULL;
    }
}

/* Without a timestamp in it, which would offer APOP, and that needs passwords in the clear. */
void pop3_greet(struct pop3 *p, struct span hostname, struct buf *out)
{
    (void)p;
    pop3_reply_text(out, "+OK ");
    pop3_reply_put(out, hostname);
    pop3_reply_text(out, " mailfleet POP3 ready\r\n");
}

void pop3_refuse(struct span text, struct buf *out)
{
    pop3_reply_text(out, "-ERR [SYS/TEMP] ");
    pop3_reply_put(out, text);
    pop3_reply_text(out, "\r\n");
}

const struct maildrop *pop3_maildrop(const struct pop3 *p)
{
    return p->drop;
}
