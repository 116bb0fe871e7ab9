/*
 * message: see the header.
 *
 * The ring is RING lines of LINE octets; some have a dot in front, which is two on the wire. A
 * message begins somewhere in it and takes as many lines as it needs, round and round. Head and
 * tail carry the serial number, so that the end of one message is not taken for that of another.
 */
#include "message.h"

#include <math.h>
#include <stdio.h>

#include "base/check.h"

#define RING      1021 /* prime: neighbours in number are no neighbours in content */
#define LINE      78 /* octets of a line with CRLF, on the wire one more if it begins with a dot */
#define DOTTED    16 /* each so many-th line does */
#define TAIL_MIN  32
#define FRONT_MAX 16384 /* octets that a server may put in front */

static char ring[RING * (LINE + 1)];
static uint32_t ring_at[RING + 1]; /* where a line begins */

/* Well mixed bits of a number (the finalizer of SplitMix64). */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static void make_ring(void)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *p = ring;
    uint64_t random = 0;
    for (uint32_t i = 0; i < RING; i++) {
        ring_at[i] = (uint32_t)(p - ring);
        unsigned n = 0;
        if (i % DOTTED == 0) {
            *p++ = '.'; /* of the wire alone */
            *p++ = '.';
            n++;
        }
        for (; n < LINE - 2; n++) {
            random = mix(random);
            *p++ = letters[random % 64];
        }
        *p++ = '\r';
        *p++ = '\n';
    }
    ring_at[RING] = (uint32_t)(p - ring);
}

void message_init(struct message *m, uint64_t serial, uint64_t size)
{
    CHECK(size >= MESSAGE_MIN && size <= MESSAGE_MAX);
    if (!ring_at[RING]) {
        make_ring();
    }
    m->serial = serial;
    m->size = size;
    m->first = (uint32_t)(mix(serial) % RING);
    int n =
        snprintf(m->head, sizeof m->head,
                 "X-Load: %016llx %010llu\r\n"
                 "From: <sender@client.example>\r\n"
                 "To: <recipients@bench.example>\r\n"
                 "Subject: load %llx\r\n"
                 "Date: Mon, 02 Jan 2023 12:00:00 +0000\r\n"
                 "Message-ID: <%016llx.%llu@client.example>\r\n"
                 "MIME-Version: 1.0\r\n"
                 "Content-Type: text/plain; charset=us-ascii\r\n"
                 "\r\n"
                 "..\r\n",
                 (unsigned long long)serial, (unsigned long long)size, (unsigned long long)serial,
                 (unsigned long long)serial, (unsigned long long)size);
    CHECK(n > 0 && (size_t)n < sizeof m->head);
    m->head_n = (uint32_t)n;
    uint64_t rest = size - (m->head_n - 1); /* one dot is of the wire alone */
    m->lines = (rest - TAIL_MIN) / LINE;
    m->tail_n = (uint32_t)(rest - m->lines * LINE);
    memset(m->tail, '-', m->tail_n);
    n = snprintf(m->tail, sizeof m->tail, "end %016llx ", (unsigned long long)serial);
    m->tail[n] = '-';
    memcpy(m->tail + m->tail_n - 2, "\r\n", 2);
}

/*
 * What studies of mail logs find has a log-normal body and a heavier tail: most messages are small,
 * and most octets are in the few that are not. Octets at each quantile, log-linear in between: 1
 * KiB at 0, 2 KiB at 0.10, 4 KiB at 0.25, 8 KiB at 0.50, 24 KiB at 0.75, 72 KiB at 0.90, 192 KiB at
 * 0.95, 1 MiB at 0.99, 2 MiB at 0.995, 6 MiB at 1. The mean is about 64 KiB.
 */
static const struct {
    double share, octets;
} sizes[] = {
    { 0.0, 1024 },   { 0.10, 2048 },   { 0.25, 4096 },    { 0.50, 8192 },     { 0.75, 24576 },
    { 0.90, 73728 }, { 0.95, 196608 }, { 0.99, 1048576 }, { 0.995, 2097152 }, { 1.0, 6291456 },
};

uint64_t message_real_size(uint64_t serial)
{
    double share = (double)(mix(~serial) >> 11) / 9007199254740992.0; /* 2^53 */
    size_t i = 1;
    while (sizes[i].share <= share) {
        i++;
    }
    double part = (share - sizes[i - 1].share) / (sizes[i].share - sizes[i - 1].share);
    return (uint64_t)(sizes[i - 1].octets * pow(sizes[i].octets / sizes[i - 1].octets, part));
}

enum stage { STAGE_RING, STAGE_TAIL, STAGE_END };

void message_read(struct message_reader *r, const struct message *m)
{
    r->m = m;
    r->lines_left = m->lines;
    r->next = m->first;
    r->stage = STAGE_RING;
    r->piece = span_of(m->head, m->head_n);
}

static struct span ring_piece(struct message_reader *r)
{
    uint32_t n = RING - r->next;
    if (n > r->lines_left) {
        n = (uint32_t)r->lines_left;
    }
    struct span s = span_of(ring + ring_at[r->next], ring_at[r->next + n] - ring_at[r->next]);
    r->lines_left -= n;
    r->next = (r->next + n) % RING;
    return s;
}

struct span message_peek(struct message_reader *r)
{
    if (!r->piece.n && r->stage == STAGE_RING) {
        if (r->lines_left) {
            r->piece = ring_piece(r);
        } else {
            r->piece = span_of(r->m->tail, r->m->tail_n);
            r->stage = STAGE_TAIL;
        }
    } else if (!r->piece.n) {
        r->stage = STAGE_END;
    }
    return r->piece;
}

void message_eat(struct message_reader *r, size_t n)
{
    r->piece = span_skip(r->piece, n);
}

/* --- the check ---------------------------------------------------------------------------------
 */

enum check_stage { CHECK_FRONT, CHECK_MESSAGE, CHECK_END };

static const struct span load_header = { "X-Load: ", 8 };

void message_check_init(struct message_check *c)
{
    c->octets = 0;
    c->stage = CHECK_FRONT;
}

static enum message_verdict wrong(const char **why, const char *what)
{
    *why = what;
    return MESSAGE_WRONG;
}

/* Sixteen lower-case hexadecimal digits. */
static bool read_serial(struct span s, uint64_t *out)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        const char *digits = "0123456789abcdef", *found = s.p[i] ? strchr(digits, s.p[i]) : NULL;
        if (!found) {
            return false;
        }
        v = v << 4 | (uint64_t)(found - digits);
    }
    *out = v;
    return s.n == 16;
}

/* The line that tells which message it is; it is compared then like all the others. */
static enum message_verdict identify(struct message_check *c, struct span line, const char **why)
{
    struct span rest = span_skip(line, load_header.n);
    uint64_t serial, size;
    if (!read_serial(span_first(rest, 16), &serial) ||
        span_u64(span_skip(rest, 17), MESSAGE_MAX, &size) != ERR_OK || size < MESSAGE_MIN) {
        return wrong(why, "X-Load that no generator wrote");
    }
    message_init(&c->m, serial, size);
    message_read(&c->r, &c->m);
    c->octets += size;
    c->stage = CHECK_MESSAGE;
    return MESSAGE_MORE;
}

/* A line of what the server put in front. */
static enum message_verdict check_front(struct message_check *c, struct span *in, const char **why)
{
    size_t n = span_find(*in, '\n');
    if (n == in->n) {
        return c->octets + n > FRONT_MAX ? wrong(why, "a header line without an end")
                                         : MESSAGE_MORE;
    }
    if (n == 0 || in->p[n - 1] != '\r') {
        return wrong(why, "a line that does not end in CRLF");
    }
    struct span line = span_first(*in, n - 1);
    if (span_starts(line, load_header)) {
        return identify(c, line, why);
    }
    if (!line.n || line.p[0] == '.') {
        return wrong(why, "a message without X-Load");
    }
    c->octets += n + 1;
    if (c->octets > FRONT_MAX) {
        return wrong(why, "too much in front of X-Load");
    }
    *in = span_skip(*in, n + 1);
    return MESSAGE_MORE;
}

static enum message_verdict check_content(struct message_check *c, struct span *in,
                                          const char **why)
{
    while (in->n) {
        struct span piece = message_peek(&c->r);
        if (!piece.n) {
            c->stage = CHECK_END;
            break;
        }
        size_t n = piece.n < in->n ? piece.n : in->n;
        if (memcmp(piece.p, in->p, n) != 0) {
            return wrong(why, "content that differs from what was sent");
        }
        message_eat(&c->r, n);
        *in = span_skip(*in, n);
    }
    return MESSAGE_MORE;
}

static enum message_verdict check_end(struct span *in, const char **why)
{
    size_t n = in->n < MESSAGE_END.n ? in->n : MESSAGE_END.n;
    if (memcmp(in->p, MESSAGE_END.p, n) != 0) {
        return wrong(why, "no terminator where the message ends");
    }
    if (n < MESSAGE_END.n) {
        return MESSAGE_MORE;
    }
    *in = span_skip(*in, n);
    return MESSAGE_WHOLE;
}

enum message_verdict message_check(struct message_check *c, struct span *in, const char **why)
{
    while (in->n) {
        size_t before = in->n;
        int stage = c->stage;
        enum message_verdict v = stage == CHECK_FRONT     ? check_front(c, in, why)
                                 : stage == CHECK_MESSAGE ? check_content(c, in, why)
                                                          : check_end(in, why);
        if (v != MESSAGE_MORE) {
            return v;
        }
        if (in->n == before && c->stage == stage) {
            break; /* a part of a line */
        }
    }
    return MESSAGE_MORE;
}
