/*
 * pop3_client: see the header.
 *
 * The commands of a session are numbered: command_at tells which one has a number, once STAT was
 * answered. asked and answered are the only places in that order; asked runs ahead of answered by
 * one, or with pipelining by up to WINDOW, but never past a command that has to be answered first.
 */
#include "pop3_client.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"

#define WINDOW       64
#define MESSAGES_MAX 10000000
#define HEAD_MAX     6

struct session {
    const struct pop3_plan *plan;
    uint64_t user;
    uint8_t head[HEAD_MAX]; /* the commands up to and with the listing */
    uint8_t head_n;
    bool in_body; /* of the reply to command `answered` */
    bool held;    /* nothing is asked: TLS is not up, or an idle session stands */
    bool done;
    uint64_t asked, answered;
    uint64_t messages, octets; /* as STAT told them */
    uint64_t line, sum;        /* of a listing, or of all messages read */
    char uid[70];              /* the one before */
    uint8_t uid_n;
    struct message_check check;
    uint64_t *serials;
    size_t serials_n;
};

static const char *const words[] = { "greeting", "STLS", "USER", "PASS", "STAT",
                                     "UIDL",     "LIST", "RETR", "DELE", "QUIT" };

static bool reads_messages(const struct pop3_plan *p)
{
    return p->work == POP3_DRAIN || p->work == POP3_RETR;
}

/* number: of the message, for RETR and DELE. */
static enum pop3_command command_at(const struct session *s, uint64_t i, uint64_t *number)
{
    if (i < s->head_n) {
        return s->head[i];
    }
    i -= s->head_n;
    unsigned each = s->plan->work == POP3_DRAIN ? 2 : 1;
    uint64_t n = reads_messages(s->plan) ? s->messages * each : 0;
    if (i < n) {
        *number = i / each + 1;
        return i % each ? POP3_C_DELE : POP3_C_RETR;
    }
    return i == n ? POP3_C_QUIT : POP3_C_END;
}

/* What comes behind it depends on the answer. */
static bool is_barrier(const struct session *s, enum pop3_command command)
{
    switch (command) {
    case POP3_C_GREETING:
    case POP3_C_STLS:
    case POP3_C_PASS:
        return true;
    case POP3_C_STAT:
        return !s->plan->pipeline || reads_messages(s->plan) || s->plan->work == POP3_IDLE;
    default:
        return !s->plan->pipeline;
    }
}

static bool may_ask(const struct session *s)
{
    if (s->asked == s->answered) {
        return !s->held;
    }
    uint64_t number;
    return s->asked - s->answered < WINDOW && !is_barrier(s, command_at(s, s->asked - 1, &number));
}

static void write_command(struct session *s, enum pop3_command command, uint64_t number,
                          struct buf *out)
{
    if (command == POP3_C_GREETING) {
        return;
    }
    buf_add(out, span_str(words[command]));
    if (command == POP3_C_USER || command == POP3_C_PASS) {
        buf_addc(out, ' ');
    }
    if (command == POP3_C_USER) {
        names_add(&s->plan->names, s->user, out);
    } else if (command == POP3_C_PASS) {
        buf_add(out, span_str(s->plan->password));
    } else if (command == POP3_C_RETR || command == POP3_C_DELE) {
        buf_addc(out, ' ');
        buf_addu(out, number);
    }
    buf_add(out, SPAN("\r\n"));
}

/* All that may be asked now. */
static void ask(struct session *s, struct buf *out)
{
    while (may_ask(s)) {
        uint64_t number = 0;
        enum pop3_command command = command_at(s, s->asked, &number);
        if (command == POP3_C_END) {
            return;
        }
        write_command(s, command, number, out);
        s->asked++;
    }
}

static bool begin(void *client, const void *plan)
{
    struct session *s = client;
    const struct pop3_plan *p = plan;
    uint64_t ticket;
    s->plan = p;
    if (!tickets_left(p->tickets) || !users_take(p->users, &s->user)) {
        return false;
    }
    tickets_take(p->tickets, &ticket);
    s->head[s->head_n++] = POP3_C_GREETING;
    if (p->stls) {
        s->head[s->head_n++] = POP3_C_STLS;
    }
    s->head[s->head_n++] = POP3_C_USER;
    s->head[s->head_n++] = POP3_C_PASS;
    s->head[s->head_n++] = POP3_C_STAT;
    if (p->work == POP3_UIDL || p->work == POP3_LIST) {
        s->head[s->head_n++] = p->work == POP3_UIDL ? POP3_C_UIDL : POP3_C_LIST;
    }
    s->asked = 1; /* the greeting */
    return true;
}

static void end(void *client)
{
    struct session *s = client;
    users_give(s->plan->users, s->user);
    free(s->serials);
    s->serials = NULL;
}

/* --- replies -----------------------------------------------------------------------------------
 */

/* "+OK messages octets", and perhaps more words behind them. */
static enum client_verdict take_stat(struct session *s, struct span line)
{
    const struct pop3_plan *p = s->plan;
    struct span rest = span_skip(line, 4);
    uint64_t messages, octets;
    if (span_u64(span_word(&rest), MESSAGES_MAX, &messages) != ERR_OK ||
        span_u64(span_word(&rest), UINT64_MAX, &octets) != ERR_OK) {
        return client_wrong("STAT: %.*s", SPAN_ARG(line));
    }
    if (p->count_known && messages != p->messages) {
        return client_wrong("STAT tells %" PRIu64 " messages, not %" PRIu64, messages, p->messages);
    }
    if (octets < messages * p->size) {
        return client_wrong("STAT tells %" PRIu64 " octets, too few", octets);
    }
    s->messages = messages;
    s->octets = octets;
    if (reads_messages(p)) {
        s->serials = NEW_ARRAY(uint64_t, messages ? messages : 1);
    }
    return CLIENT_MORE;
}

static enum client_verdict begin_body(struct session *s, enum pop3_command command)
{
    s->in_body = true;
    if (command == POP3_C_RETR) {
        message_check_init(&s->check);
    }
    return CLIENT_MORE;
}

static enum client_verdict take_status(struct session *s, struct span line)
{
    uint64_t number = 0;
    enum pop3_command command = command_at(s, s->answered, &number);
    if (!span_starts(line, SPAN("+OK")) || (line.n > 3 && line.p[3] != ' ')) {
        return client_wrong("%s: %.*s", words[command], line.n > 200 ? 200 : (int)line.n, line.p);
    }
    enum client_verdict v = CLIENT_MORE;
    if (command == POP3_C_STAT) {
        v = take_stat(s, line);
        s->held = s->plan->work == POP3_IDLE;
    } else if (command == POP3_C_UIDL || command == POP3_C_LIST || command == POP3_C_RETR) {
        return begin_body(s, command);
    } else if (command == POP3_C_STLS) {
        s->held = true;
    } else if (command == POP3_C_QUIT) {
        s->done = true;
    }
    s->answered++;
    return v;
}

/* --- listings ----------------------------------------------------------------------------------
 */

/* Takes digits off *s, as many as a number of this size has. */
static bool take_number(struct span *s, uint64_t *out)
{
    uint64_t v = 0;
    size_t i = 0;
    while (i < s->n && i < 19 && s->p[i] >= '0' && s->p[i] <= '9') {
        v = 10 * v + (uint64_t)(s->p[i++] - '0');
    }
    *out = v;
    *s = span_skip(*s, i);
    return i > 0;
}

static bool take_uid(struct session *s, struct span uid)
{
    if (!uid.n || uid.n > sizeof s->uid) {
        return false;
    }
    for (size_t i = 0; i < uid.n; i++) {
        if (uid.p[i] < 0x21 || uid.p[i] > 0x7e) {
            return false;
        }
    }
    if (uid.n == s->uid_n && memcmp(uid.p, s->uid, uid.n) == 0) {
        return false; /* that of the message before */
    }
    memcpy(s->uid, uid.p, uid.n);
    s->uid_n = (uint8_t)uid.n;
    return true;
}

static enum client_verdict take_listed(struct session *s, enum pop3_command command,
                                       struct span line)
{
    struct span rest = line;
    uint64_t number, size;
    if (!take_number(&rest, &number) || number != s->line + 1 || !rest.n || rest.p[0] != ' ') {
        return client_wrong("%s: %.*s in place %" PRIu64, words[command], SPAN_ARG(line),
                            s->line + 1);
    }
    rest = span_skip(rest, 1);
    if (command == POP3_C_UIDL) {
        if (!take_uid(s, rest)) {
            return client_wrong("UIDL: %.*s", SPAN_ARG(line));
        }
    } else if (!take_number(&rest, &size) || rest.n || size < s->plan->size) {
        return client_wrong("LIST: %.*s", SPAN_ARG(line));
    } else {
        s->sum += size;
    }
    s->line++;
    return CLIENT_MORE;
}

static enum client_verdict end_listing(struct session *s, enum pop3_command command)
{
    if (s->line != s->messages) {
        return client_wrong("%s tells %" PRIu64 " messages, STAT %" PRIu64, words[command], s->line,
                            s->messages);
    }
    if (command == POP3_C_LIST && s->sum != s->octets) {
        return client_wrong("LIST tells %" PRIu64 " octets, STAT %" PRIu64, s->sum, s->octets);
    }
    s->in_body = false;
    s->answered++;
    return CLIENT_MORE;
}

static enum client_verdict read_listing(struct session *s, enum pop3_command command,
                                        struct span *in)
{
    struct span line;
    enum client_verdict v;
    while (s->in_body && (v = client_line(in, &line)) != CLIENT_MORE) {
        if (v == CLIENT_DONE) {
            bool last = line.n == 1 && line.p[0] == '.';
            v = last ? end_listing(s, command) : take_listed(s, command, line);
        }
        if (v == CLIENT_WRONG) {
            return v;
        }
    }
    return CLIENT_MORE;
}

/* --- messages ----------------------------------------------------------------------------------
 */

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* All have been read. */
static enum client_verdict judge_messages(struct session *s)
{
    if (s->sum != s->octets) {
        return client_wrong("%" PRIu64 " octets of messages, STAT tells %" PRIu64, s->sum,
                            s->octets);
    }
    qsort(s->serials, s->serials_n, sizeof *s->serials, by_value);
    for (size_t i = 1; i < s->serials_n; i++) {
        if (s->serials[i] == s->serials[i - 1]) {
            return client_wrong("message %016" PRIx64 " is there twice", s->serials[i]);
        }
    }
    return CLIENT_MORE;
}

static enum client_verdict read_message(struct session *s, struct span *in)
{
    const char *why;
    switch (message_check(&s->check, in, &why)) {
    case MESSAGE_MORE:
        return in->n > REPLY_MAX ? client_wrong("RETR: a line without an end") : CLIENT_MORE;
    case MESSAGE_WRONG:
        return client_wrong("RETR: %s", why);
    case MESSAGE_WHOLE:
        break;
    }
    if (s->plan->size && s->check.m.size != s->plan->size) {
        return client_wrong("RETR: a message of %" PRIu64 " octets", s->check.m.size);
    }
    s->serials[s->serials_n++] = s->check.m.serial;
    s->sum += s->check.octets;
    s->in_body = false;
    s->answered++;
    return s->serials_n == s->messages ? judge_messages(s) : CLIENT_MORE;
}

/* --- the session -------------------------------------------------------------------------------
 */

/* One reply, or a part of it. */
static enum client_verdict step(struct session *s, struct span *in)
{
    if (s->in_body) {
        uint64_t number;
        enum pop3_command command = command_at(s, s->answered, &number);
        return command == POP3_C_RETR ? read_message(s, in) : read_listing(s, command, in);
    }
    struct span line;
    enum client_verdict v = client_line(in, &line);
    return v == CLIENT_DONE ? take_status(s, line) : v;
}

/* Nothing is asked, or all is answered. */
static enum client_verdict rest(struct session *s, struct span *in)
{
    if (in->n) {
        return client_wrong("octets that nothing was asked for");
    }
    if (s->done) {
        s->done = false;
        s->held = true;
        return CLIENT_DONE;
    }
    uint64_t number;
    if (command_at(s, s->answered, &number) == POP3_C_END) {
        return CLIENT_CLOSED;
    }
    if (s->held && s->answered < s->head_n) {
        s->held = false;
        return CLIENT_TLS;
    }
    return s->held ? CLIENT_READY : CLIENT_MORE;
}

static enum client_verdict feed(void *client, struct span *in, struct buf *out)
{
    struct session *s = client;
    for (;;) {
        if (s->asked == s->answered) {
            enum client_verdict v = rest(s, in);
            if (v != CLIENT_MORE) {
                return v;
            }
        }
        ask(s, out);
        uint64_t answered = s->answered;
        bool in_body = s->in_body;
        enum client_verdict v = in->n ? step(s, in) : CLIENT_MORE;
        if (v != CLIENT_MORE) {
            return v;
        }
        if (s->answered == answered && s->in_body == in_body) {
            return CLIENT_MORE;
        }
    }
}

static void leave(void *client, struct buf *out)
{
    struct session *s = client;
    s->held = false;
    ask(s, out);
}

static uint64_t whose(const void *client)
{
    const struct session *s = client;
    return s->user;
}

static void describe(const void *client, struct buf *out)
{
    const struct session *s = client;
    names_add(&s->plan->names, s->user, out);
}

const struct client_type pop3_client = {
    .name = "load_pop3",
    .size = sizeof(struct session),
    .out_limit = 64 * 1024,
    .begin = begin,
    .feed = feed,
    .leave = leave,
    .end = end,
    .whose = whose,
    .describe = describe,
};
