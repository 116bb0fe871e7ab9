/*
 * milter: a row of steps. Each sends one command, with its macros in front, and waits for the one
 * answer that it has, unless it was agreed that the filter does not want the command or does not
 * answer it.
 *
 * It owns the packet that is being read, and copies of the filter's reply. It sends nothing while
 * there is input that nobody asked for: a filter that speaks out of turn would have its words taken
 * for the answer to the next question. It does not send QUIT_NC: a further message goes on with
 * MAIL, as Sendmail and Postfix do it, and a connection is not shared by sessions.
 */
#include "milter.h"

#include <stdlib.h>

#include "base/check.h"

#define VERSION      6
#define VERSION_MIN  2
#define VERSION_DATA 4 /* the first that knows DATA */

/* Actions that a filter may take. */
enum {
    MAY_ADD_FIELDS = 0x01,
    MAY_CHANGE_BODY = 0x02,
    MAY_CHANGE_FIELDS = 0x10,
    MAY_QUARANTINE = 0x20,
    MAY_NAME_MACROS = 0x100,
    ACTIONS =
        MAY_ADD_FIELDS | MAY_CHANGE_BODY | MAY_CHANGE_FIELDS | MAY_QUARANTINE | MAY_NAME_MACROS
};

/* Commands that it does not want, or does not answer, and what else can be agreed on. */
#define NO_CONNECT 0x00000001u
#define NO_HELO    0x00000002u
#define NO_MAIL    0x00000004u
#define NO_RCPT    0x00000008u
#define NO_BODY    0x00000010u
#define NO_HEADER  0x00000020u
#define NO_EOH     0x00000040u
#define NR_HEADER  0x00000080u
#define NO_UNKNOWN 0x00000100u
#define NO_DATA    0x00000200u
#define SKIPS      0x00000400u
#define NR_CONNECT 0x00001000u
#define NR_HELO    0x00002000u
#define NR_MAIL    0x00004000u
#define NR_RCPT    0x00008000u
#define NR_DATA    0x00010000u
#define NR_UNKNOWN 0x00020000u
#define NR_EOH     0x00040000u
#define NR_BODY    0x00080000u
#define LEADSPC    0x00100000u /* values of fields with their leading space */
#define MDS_256K   0x10000000u /* packets of that size, else of 64 KiB */
#define MDS_1M     0x20000000u
#define PROTOCOL                                                                                   \
    (NO_CONNECT | NO_HELO | NO_MAIL | NO_RCPT | NO_BODY | NO_HEADER | NO_EOH | NR_HEADER |         \
     NO_UNKNOWN | NO_DATA | SKIPS | NR_CONNECT | NR_HELO | NR_MAIL | NR_RCPT | NR_DATA |           \
     NR_UNKNOWN | NR_EOH | NR_BODY | LEADSPC | MDS_256K | MDS_1M)

#define CHUNK       65535u       /* octets of body in a packet */
#define PACKET_MOST (1u << 20)   /* of a packet from the filter, but for a body */
#define OUT_ENOUGH  (128u << 10) /* then it is sent first */
#define MACROS_MOST (16u << 10)  /* of one packet of macros; what does not fit is not told */
#define PATH_MOST   (16u << 10)  /* of MAIL and RCPT, likewise */

enum step {
    STEP_IDLE,
    STEP_OPTIONS,
    STEP_CONNECT,
    STEP_HELO,
    STEP_MAIL,
    STEP_RCPT,
    STEP_DATA,
    STEP_FIELDS,
    STEP_EOH,
    STEP_BODY,
    STEP_END,
    STEPS
};

/* Stages of which a filter may name the macros, by their numbers in the protocol. */
static const char macro_stages[] = "CHMRTEN";
#define MACRO_STAGES (sizeof macro_stages - 1)
#define NO_MACROS    MACRO_STAGES

static const struct {
    char command;
    unsigned char macros; /* index into macro_stages */
    uint32_t unwanted, unanswered;
    enum step next;
} steps[STEPS] = {
    [STEP_OPTIONS] = { 'O', NO_MACROS, 0, 0, STEP_CONNECT },
    [STEP_CONNECT] = { 'C', 0, NO_CONNECT, NR_CONNECT, STEP_HELO },
    [STEP_HELO] = { 'H', 1, NO_HELO, NR_HELO, STEP_MAIL },
    [STEP_MAIL] = { 'M', 2, NO_MAIL, NR_MAIL, STEP_IDLE },
    [STEP_RCPT] = { 'R', 3, NO_RCPT, NR_RCPT, STEP_IDLE },
    [STEP_DATA] = { 'T', 4, NO_DATA, NR_DATA, STEP_IDLE },
    [STEP_FIELDS] = { 'L', NO_MACROS, NO_HEADER, NR_HEADER, STEP_FIELDS },
    [STEP_EOH] = { 'N', 6, NO_EOH, NR_EOH, STEP_BODY },
    [STEP_BODY] = { 'B', NO_MACROS, NO_BODY, NR_BODY, STEP_BODY },
    [STEP_END] = { 'E', 5, 0, 0, STEP_IDLE },
};

static const struct {
    struct span name;
    const char *stages;
} macros[MILTER_MACROS] = {
#define X(id, name, stages) { { name, sizeof(name) - 1 }, stages },
    MILTER_MACRO_LIST(X)
#undef X
};

struct milter {
    const struct milter_facts *facts;
    enum step step;
    bool waiting;  /* for the answer to the step */
    bool agreed;   /* on the options, and it knows the client */
    bool open;     /* it has a message */
    bool accepted; /* it wants to hear no more of this session */
    bool refused;  /* it refuses this session */
    bool failed;
    uint32_t unwanted;  /* bits of steps that it skips for this message */
    unsigned greetings; /* that it knows of */
    unsigned asked;
    uint32_t protocol;
    size_t most;                  /* octets of a packet */
    uint32_t named[MACRO_STAGES]; /* bits of macros */
    size_t field;                 /* the next one to tell */
    size_t body;                  /* octets of it that were told */
    struct buf packet;            /* that is being read, or was */
    bool taken;                   /* it was */
    uint64_t body_left;           /* of a new body's packet */
    enum milter_verdict refusal;
    struct milter_reply reply;
};

struct packet {
    char command;
    struct span data;
};

struct milter *milter_new(const struct milter_facts *facts)
{
    struct milter *m = NEW(struct milter);
    m->facts = facts;
    m->most = CHUNK;
    buf_init(&m->packet, 4 + PACKET_MOST);
    for (size_t s = 0; s < MACRO_STAGES; s++) {
        for (size_t i = 0; i < MILTER_MACROS; i++) {
            m->named[s] |= strchr(macros[i].stages, macro_stages[s]) ? 1u << i : 0;
        }
    }
    return m;
}

void milter_free(struct milter **mp)
{
    if (*mp) {
        buf_fini(&(*mp)->packet);
        free(*mp);
        *mp = NULL;
    }
}

/* --- writing --------------------------------------------------------------------------------- */

/* The room was promised. */
static void put(struct buf *out, struct span s)
{
    CHECK(buf_add(out, s) == ERR_OK);
}

static void put_u32(struct buf *out, size_t v)
{
    const unsigned char b[4] = { (unsigned char)(v >> 24), (unsigned char)(v >> 16),
                                 (unsigned char)(v >> 8), (unsigned char)v };
    put(out, span_of(b, sizeof b));
}

/* The length counts the command. */
static void put_head(struct buf *out, char command, size_t n)
{
    put_u32(out, n + 1);
    put(out, span_of(&command, 1));
}

static void put_packet(struct buf *out, char command, struct span data)
{
    put_head(out, command, data.n);
    put(out, data);
}

static void put_text(struct buf *out, struct span s)
{
    put(out, s);
    put(out, SPAN("\0"));
}

static bool told(const struct milter *m, size_t stage, size_t i)
{
    return m->named[stage] & 1u << i && m->facts->macros[i].n > 0;
}

static void put_macros(const struct milter *m, struct buf *out)
{
    size_t stage = steps[m->step].macros, n = 1, count = 0;
    for (size_t i = 0; stage < NO_MACROS && i < MILTER_MACROS; i++) {
        if (told(m, stage, i)) {
            n += macros[i].name.n + m->facts->macros[i].n + 2;
            count++;
        }
    }
    if (count == 0 || n > MACROS_MOST) {
        return;
    }
    put_head(out, 'D', n);
    put(out, span_of(&steps[m->step].command, 1));
    for (size_t i = 0; i < MILTER_MACROS; i++) {
        if (told(m, stage, i)) {
            put_text(out, macros[i].name);
            put_text(out, m->facts->macros[i]);
        }
    }
}

static void put_options(struct buf *out)
{
    put_head(out, 'O', 12);
    put_u32(out, VERSION);
    put_u32(out, ACTIONS);
    put_u32(out, PROTOCOL);
}

static void put_connect(const struct milter_facts *f, struct buf *out)
{
    bool known = f->client_family != 'U';
    const unsigned char port[2] = { (unsigned char)(f->client_port >> 8),
                                    (unsigned char)f->client_port };
    put_head(out, 'C', f->client_name.n + 2 + (known ? 3 + f->client_address.n : 0));
    put_text(out, f->client_name);
    put(out, span_of(&f->client_family, 1));
    if (known) {
        put(out, span_of(port, sizeof port));
        put_text(out, f->client_address);
    }
}

static void put_helo(const struct milter_facts *f, struct buf *out)
{
    put_head(out, 'H', f->helo.n + 1);
    put_text(out, f->helo);
}

/*
 * Octets of a value as filters get it: folds end with LF alone, as Sendmail has them, and there is
 * no NUL, which would end it early and hide the rest. Writes them unless to is NULL.
 */
static size_t plain_value(struct span v, char *to)
{
    size_t n = 0;
    for (size_t i = 0; i < v.n; i++) {
        bool fold = v.p[i] == '\r' && i + 1 < v.n && v.p[i + 1] == '\n';
        if (v.p[i] != '\0' && !fold) {
            if (to) {
                to[n] = v.p[i];
            }
            n++;
        }
    }
    return n;
}

/* A value that is longer than a packet is cut: the filter sees its beginning. */
static void put_field(const struct milter *m, struct span name, struct span value, struct buf *out)
{
    if (!(m->protocol & LEADSPC) && value.n > 0 && value.p[0] == ' ') {
        value = span_skip(value, 1);
    }
    name = span_first(name, m->most - 2);
    value = span_first(value, m->most - 2 - name.n);
    size_t n = plain_value(value, NULL);
    put_head(out, 'L', name.n + n + 2);
    put_text(out, name);
    char *to = buf_reserve(out, n + 1);
    CHECK(to);
    to[plain_value(value, to)] = '\0';
    buf_commit(out, n + 1);
}

/* --- the steps ------------------------------------------------------------------------------- */

/* What the step asks is answered, or needs no answer. */
static void advance(struct milter *m)
{
    m->waiting = false;
    if (m->step == STEP_END) {
        m->open = false;
    }
    m->step = steps[m->step].next;
}

/* The filter has seen enough of this. */
static void skip(struct milter *m)
{
    m->waiting = false;
    m->unwanted |= 1u << m->step;
    m->step = m->step == STEP_FIELDS ? STEP_EOH
              : m->step == STEP_BODY ? STEP_END
                                     : steps[m->step].next;
}

/* The next field that is not our own; false after the last. */
static bool next_field(struct milter *m, struct span *name, struct span *value)
{
    while (m->field < rewrite_fields(m->facts->message)) {
        if (rewrite_field(m->facts->message, m->field++, name, value)) {
            return true;
        }
    }
    return false;
}

/* Sends the step's command; false when there is nothing left to send in it. */
static bool put_command(struct milter *m, struct buf *out)
{
    struct span name, value;
    switch (m->step) {
    case STEP_OPTIONS:
        put_options(out);
        return true;
    case STEP_CONNECT:
        put_connect(m->facts, out);
        return true;
    case STEP_HELO:
        m->greetings = m->facts->greetings;
        put_helo(m->facts, out);
        return true;
    case STEP_MAIL:
        put_packet(out, 'M', span_first(m->facts->mail, PATH_MOST));
        return true;
    case STEP_RCPT:
        put_packet(out, 'R', span_first(m->facts->rcpt, PATH_MOST));
        return true;
    case STEP_FIELDS:
        if (next_field(m, &name, &value)) {
            put_field(m, name, value, out);
            return true;
        }
        return false;
    case STEP_BODY:
        value = span_first(span_skip(rewrite_body(m->facts->message), m->body), CHUNK);
        if (value.n > 0) {
            m->body += value.n;
            put_packet(out, 'B', value);
        }
        return value.n > 0;
    default:
        put_packet(out, steps[m->step].command, SPAN(""));
        return true;
    }
}

/* Macros are told even for a command that the filter does not want: it may ask for them later. */
static void send_step(struct milter *m, struct buf *out)
{
    put_macros(m, out);
    if (m->protocol & steps[m->step].unwanted || m->unwanted & 1u << m->step) {
        m->greetings = m->step == STEP_HELO ? m->facts->greetings : m->greetings;
        skip(m);
    } else if (!put_command(m, out)) {
        skip(m);
    } else if (m->protocol & steps[m->step].unanswered) {
        advance(m);
    } else {
        m->waiting = true;
        m->asked++;
    }
}

/* --- reading --------------------------------------------------------------------------------- */

enum got { GOT_NONE, GOT_PACKET, GOT_GARBAGE };

static uint32_t get_u32(struct span s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool fill(struct milter *m, struct span *in, size_t n)
{
    struct span piece = span_first(*in, n - buf_len(&m->packet));
    CHECK(buf_add(&m->packet, piece) == ERR_OK);
    *in = span_skip(*in, piece.n);
    return buf_len(&m->packet) == n;
}

/* A new body is not collected: each piece of it is a packet to us. */
static enum got body_piece(struct milter *m, struct span *in, struct packet *p)
{
    struct span piece = span_first(*in, m->body_left < SIZE_MAX ? (size_t)m->body_left : SIZE_MAX);
    *p = (struct packet){ 'b', piece };
    m->body_left -= piece.n;
    *in = span_skip(*in, piece.n);
    return piece.n > 0 ? GOT_PACKET : GOT_NONE;
}

static enum got read_packet(struct milter *m, struct span *in, struct packet *p)
{
    if (m->taken) {
        m->taken = false;
        buf_clear(&m->packet);
    }
    if (m->body_left > 0) {
        return body_piece(m, in, p);
    }
    if (buf_len(&m->packet) < 5 && !fill(m, in, 5)) {
        return GOT_NONE;
    }
    uint32_t n = get_u32(buf_span(&m->packet));
    char command = buf_span(&m->packet).p[4];
    if (n == 0 || (n > PACKET_MOST && command != 'b')) {
        return GOT_GARBAGE;
    }
    if (command == 'b') {
        buf_clear(&m->packet);
        m->body_left = n - 1;
        *p = (struct packet){ 'b', SPAN("") };
        return GOT_PACKET;
    }
    if (buf_len(&m->packet) < 4 + (size_t)n && !fill(m, in, 4 + (size_t)n)) {
        return GOT_NONE;
    }
    m->taken = true;
    *p = (struct packet){ command, span_skip(buf_span(&m->packet), 5) };
    return GOT_PACKET;
}

/* Takes a text with its NUL off *s. */
static bool get_text(struct span *s, struct span *text)
{
    size_t n = span_find(*s, '\0');
    if (n == s->n) {
        return false;
    }
    *text = span_first(*s, n);
    *s = span_skip(*s, n + 1);
    return true;
}

static bool get_number(struct span *s, uint32_t *v)
{
    if (s->n < 4) {
        return false;
    }
    *v = get_u32(*s);
    *s = span_skip(*s, 4);
    return true;
}

/* --- what it says ---------------------------------------------------------------------------- */

static struct milter_event failed(struct milter *m, const char *why)
{
    m->failed = true;
    m->step = STEP_IDLE;
    return (struct milter_event){ .kind = MILTER_FAILED, .why = why };
}

static struct milter_event done(struct milter *m, enum milter_verdict v)
{
    return (struct milter_event){ .kind = MILTER_DONE, .verdict = v, .reply = &m->reply };
}

/* The names of macros that it wants at a stage, with or without braces. */
static uint32_t named_macros(struct span list)
{
    uint32_t bits = 0;
    for (struct span word; (word = span_word(&list)).n > 0;) {
        for (size_t i = 0; i < MILTER_MACROS; i++) {
            struct span name = macros[i].name, inner = name;
            if (name.p[0] == '{') {
                inner = span_of(name.p + 1, name.n - 2);
            }
            bits |= span_eq(word, name) || span_eq(word, inner) ? 1u << i : 0;
        }
    }
    return bits;
}

/* Stages that are not ours are left out. False: it is no list. */
static bool get_macro_lists(struct milter *m, struct span s)
{
    while (s.n > 0) {
        uint32_t stage;
        struct span list;
        if (!get_number(&s, &stage) || !get_text(&s, &list)) {
            return false;
        }
        if (stage < MACRO_STAGES) {
            m->named[stage] = named_macros(list);
        }
    }
    return true;
}

/*
 * Actions that were not offered are no failure here: rspamd asks for all of them whatever was
 * offered. Of the rest, what was not offered does not hold.
 */
static bool get_options(struct milter *m, struct span s)
{
    uint32_t version, actions, protocol;
    if (!get_number(&s, &version) || !get_number(&s, &actions) || !get_number(&s, &protocol) ||
        version < VERSION_MIN || version > VERSION || !get_macro_lists(m, s)) {
        return false;
    }
    m->protocol = protocol & PROTOCOL;
    if (version < VERSION_DATA) {
        m->protocol |= NO_DATA;
    }
    m->most = m->protocol & MDS_1M     ? (1u << 20) - 1
              : m->protocol & MDS_256K ? (256u << 10) - 1
                                       : CHUNK;
    return true;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Octets of a number of up to three digits. */
static size_t digits(struct span s)
{
    size_t n = 0;
    while (n < s.n && n < 3 && digit(s.p[n])) {
        n++;
    }
    return n;
}

/* Takes an enhanced status code of that class off *s (RFC 3463, section 2). */
static void get_enhanced(struct span *s, char class, struct milter_reply *r)
{
    size_t subject = digits(span_skip(*s, 2));
    size_t detail = digits(span_skip(*s, 3 + subject)), n = 3 + subject + detail;
    if (subject > 0 && detail > 0 && s->p[0] == class && s->p[1] == '.' &&
        s->p[2 + subject] == '.' && (n == s->n || s->p[n] == ' ')) {
        memcpy(r->enhanced, s->p, n);
        r->enhanced[n] = '\0';
        *s = span_trim(span_skip(*s, n));
    }
}

/*
 * `550 5.7.1 text`, of several lines the first. Sendmail takes the text for a format, so filters
 * double each percent sign.
 */
static bool get_reply(struct span s, struct milter_reply *r)
{
    s = span_first(s, span_find(s, '\0'));
    s = span_first(s, span_find(s, '\n'));
    s = span_first(s, span_find(s, '\r'));
    if (s.n < 3 || (s.p[0] != '4' && s.p[0] != '5') || s.p[1] < '0' || s.p[1] > '5' ||
        !digit(s.p[2]) || (s.n > 3 && s.p[3] != ' ' && s.p[3] != '-')) {
        return false;
    }
    *r = (struct milter_reply){ .code = (unsigned)(s.p[0] - '0') * 100 +
                                        (unsigned)(s.p[1] - '0') * 10 + (unsigned)(s.p[2] - '0') };
    struct span text = span_trim(span_skip(s, 4));
    get_enhanced(&text, s.p[0], r);
    size_t n = 0;
    for (size_t i = 0; i < text.n && n < sizeof r->text - 1; i++) {
        bool twice = text.p[i] == '%' && i + 1 < text.n && text.p[i + 1] == '%';
        i += twice;
        r->text[n++] = text.p[i] >= ' ' && text.p[i] < 127 ? text.p[i] : '?';
    }
    return true;
}

/* A word about the whole session rather than about a message. */
static bool in_greeting(const struct milter *m)
{
    return m->step == STEP_CONNECT || m->step == STEP_HELO;
}

/* A refused recipient leaves the message open; anything else refused ends it. */
static struct milter_event refuse(struct milter *m, enum milter_verdict v)
{
    if (in_greeting(m)) {
        m->refused = true;
        m->refusal = v;
    }
    if (m->step != STEP_RCPT || v == MILTER_CLOSE || v == MILTER_DISCARD) {
        m->open = false;
    }
    m->waiting = false;
    m->step = STEP_IDLE;
    return done(m, v);
}

static struct milter_event refuse_in_words(struct milter *m, struct span s)
{
    if (!get_reply(s, &m->reply)) {
        return failed(m, "malformed reply");
    }
    return refuse(m, m->reply.code == 421  ? MILTER_CLOSE
                     : m->reply.code < 500 ? MILTER_TEMPFAIL
                                           : MILTER_REJECT);
}

static struct milter_event accept_all(struct milter *m)
{
    m->accepted = in_greeting(m);
    m->open = m->waiting = false;
    m->step = STEP_IDLE;
    return done(m, MILTER_CONTINUE);
}

/* Changes of the message, which may come before the answer to its end. */
static struct milter_event change(struct milter *m, const struct packet *p)
{
    struct milter_event ev = { .kind = MILTER_CHANGE, .command = p->command };
    struct milter_change *c = &ev.change;
    struct span s = p->data;
    bool ok = true;
    c->bare = !(m->protocol & LEADSPC);
    switch (p->command) {
    case 'h':
        c->kind = MILTER_ADD;
        ok = get_text(&s, &c->name) && get_text(&s, &c->value);
        break;
    case 'i':
    case 'm':
        c->kind = p->command == 'i' ? MILTER_INSERT : MILTER_EDIT;
        ok = get_number(&s, &c->index) && get_text(&s, &c->name) && get_text(&s, &c->value);
        break;
    case 'b':
        c->kind = MILTER_BODY;
        c->value = s;
        return ev;
    case 'q':
        c->kind = MILTER_QUARANTINE;
        ok = get_text(&s, &c->value);
        break;
    default: /* the envelope */
        ev.kind = MILTER_IGNORED;
        return ev;
    }
    return ok && s.n == 0 ? ev : failed(m, "malformed change");
}

static struct milter_event wordless(struct milter *m, const struct packet *p)
{
    switch (p->command) {
    case 'a':
        return accept_all(m);
    case 'r':
        return refuse(m, MILTER_REJECT);
    case 't':
        return refuse(m, MILTER_TEMPFAIL);
    case 'd':
        return in_greeting(m) ? failed(m, "discards a connection") : refuse(m, MILTER_DISCARD);
    case 'f':
    case '4':
        return refuse(m, MILTER_CLOSE);
    default: /* 'p' */
        return (struct milter_event){ .kind = MILTER_PROGRESS };
    }
}

/* One answer. False: it was one that leads on to the next step, and there is no event. */
static bool answer(struct milter *m, const struct packet *p, struct milter_event *ev)
{
    if ((p->command == 'O') != (m->step == STEP_OPTIONS)) {
        *ev = failed(m, "unexpected answer");
    } else if (p->command == 'O' && !get_options(m, p->data)) {
        *ev = failed(m, "malformed or unknown options");
    } else if (p->command == 'O') {
        advance(m);
        return false;
    } else if (strchr("himbq+-2e", p->command) && p->command) {
        *ev = m->step == STEP_END ? change(m, p) : failed(m, "changes the message too early");
    } else if (p->command == 'y') {
        *ev = refuse_in_words(m, p->data);
    } else if (!p->command || !strchr("cartdf4ps", p->command) || p->data.n > 0) {
        *ev = failed(m, "unknown answer");
    } else if (p->command == 'c') {
        advance(m);
        return false;
    } else if (p->command == 's') {
        skip(m);
        return false;
    } else {
        *ev = wordless(m, p);
    }
    return true;
}

/* --- what the owner calls -------------------------------------------------------------------- */

static enum step first_step(struct milter *m, enum milter_stage s)
{
    if (m->failed || m->accepted || m->refused || (s != MILTER_MAIL && !m->open)) {
        return STEP_IDLE;
    }
    switch (s) {
    case MILTER_MAIL:
        return !m->agreed                            ? STEP_OPTIONS
               : m->greetings != m->facts->greetings ? STEP_HELO
                                                     : STEP_MAIL;
    case MILTER_RCPT:
        return STEP_RCPT;
    case MILTER_DATA:
        return STEP_DATA;
    default:
        return STEP_FIELDS;
    }
}

void milter_ask(struct milter *m, enum milter_stage s)
{
    CHECK(m->step == STEP_IDLE && !m->waiting);
    if (!m->refused) {
        m->reply = (struct milter_reply){ 0 };
    }
    m->step = first_step(m, s);
    if (s == MILTER_MAIL) {
        m->open = m->step != STEP_IDLE;
        m->agreed = m->agreed || m->open; /* or it fails, and is asked no more */
        m->unwanted = 0;
        m->field = m->body = 0;
    }
}

static struct milter_event waits(const struct milter *m)
{
    return (struct milter_event){ .kind = MILTER_WAIT,
                                  .asked = m->asked,
                                  .wait = m->step == STEP_OPTIONS ? MILTER_WAIT_OPTIONS
                                          : m->step == STEP_END   ? MILTER_WAIT_END
                                                                  : MILTER_WAIT_ANSWER };
}

struct milter_event milter_step(struct milter *m, struct span *in, struct buf *out)
{
    struct milter_event ev;
    struct packet p;
    while (m->step != STEP_IDLE) {
        if (!m->waiting) {
            if (in->n > 0) {
                return failed(m, "speaks out of turn");
            }
            if (buf_len(out) > OUT_ENOUGH) {
                return (struct milter_event){ .kind = MILTER_SEND };
            }
            send_step(m, out);
            continue;
        }
        enum got g = read_packet(m, in, &p);
        if (g == GOT_NONE) {
            return waits(m);
        }
        if (g == GOT_GARBAGE) {
            return failed(m, "not a packet of this protocol");
        }
        if (answer(m, &p, &ev)) {
            return ev;
        }
    }
    return m->failed ? failed(m, "has failed before")
                     : done(m, m->refused ? m->refusal : MILTER_CONTINUE);
}

bool milter_abort(struct milter *m, struct buf *out)
{
    if (m->waiting || m->failed || m->step != STEP_IDLE) {
        return false;
    }
    if (m->open) {
        put_packet(out, 'A', SPAN(""));
        m->open = false;
    }
    return true;
}

void milter_quit(struct milter *m, struct buf *out)
{
    if (!m->waiting && !m->failed) {
        put_packet(out, 'Q', SPAN(""));
    }
}
