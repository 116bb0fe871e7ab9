/*
 * fuzz_pop3: any octets as what a client sends.
 *
 * The first octet sets the options, the second seeds the session's answers and the splits; the rest
 * is the input. It is fed whole, then in pieces: replies and actions must be the same. Every action
 * must be one that a session can take, and nothing but QUIT may delete.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "pop3.h"

#define TRANSCRIPT_MOST ((size_t)64 << 20)
#define PIECE_MOST      512
#define CHALLENGE_MOST  64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const mechanisms[] = { "PLAIN", "SCRAM-SHA-256", "XOAUTH2" };

struct run {
    struct pop3 *p;
    struct buf out;
    struct buf transcript; /* replies and actions, in their order */
    struct buf message;    /* what is left of the one being sent */
    uint32_t answers;      /* the states of two generators */
    uint32_t splits;
    bool exchange; /* of SASL, has had a challenge */
    bool fetching; /* the reader is open */
    bool committed;
};

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 16;
}

/* OK three times out of four, as with the verdicts. */
static enum err next_err(struct run *r)
{
    uint32_t n = next(&r->answers);
    return n % 4 ? ERR_OK : (enum err)(n / 4 % ERR_COUNT);
}

static enum login_verdict next_verdict(struct run *r)
{
    uint32_t n = next(&r->answers);
    return n % 4 ? LOGIN_OK : (enum login_verdict)(n / 4 % LOGIN_VERDICTS);
}

static void record(struct run *r, struct span s)
{
    if (s.n > 0) {
        CHECK(buf_add(&r->transcript, s) == ERR_OK);
    }
}

static void take_replies(struct run *r)
{
    record(r, buf_span(&r->out));
    buf_clear(&r->out);
}

/* Up to seven messages of up to 63 octets or more than 128, some with a UIDL of their own. */
static struct maildrop *next_maildrop(struct run *r)
{
    struct maildrop *m = maildrop_new(1, 1);
    for (size_t n = next(&r->answers) % 8; n > 0; n--) {
        struct pointer p = { .seq = m->count + 1, .size = next(&r->answers) % 64 };
        if (p.size % 4 == 1) {
            p.size += 128 + next(&r->answers) % 512;
        }
        struct span uidl = p.size % 3 ? SPAN("") : SPAN("imported");
        CHECK(maildrop_add(m, &p, uidl, SPAN("")) == ERR_OK);
    }
    return m;
}

static void give_verdict(struct run *r)
{
    enum login_verdict v = next_verdict(r);
    struct maildrop *m = v == LOGIN_OK ? next_maildrop(r) : NULL;
    unsigned days = next(&r->answers) % 9;
    pop3_login_answer(r->p, v, &m, days % 3, (int)(days / 3) - 1, &r->out);
    CHECK(!m);
}

static void answer_login(struct run *r, const struct pop3_action *a)
{
    struct span user = a->u.login.user, password = a->u.login.password;
    CHECK(user.n > 0 && password.n > 0 && !pop3_maildrop(r->p));
    CHECK(span_utf8(user) && span_utf8(password));
    record(r, user);
    record(r, password);
    give_verdict(r);
}

static void give_challenge(struct run *r)
{
    char octets[CHALLENGE_MOST];
    size_t n = next(&r->answers) % sizeof octets;
    for (size_t i = 0; i < n; i++) {
        octets[i] = (char)next(&r->answers);
    }
    pop3_auth_challenge(r->p, span_of(octets, n), &r->out);
}

static void answer_auth(struct run *r, const struct pop3_action *a)
{
    CHECK(!pop3_maildrop(r->p) && a->u.auth.mechanism < ARRAY_LEN(mechanisms));
    CHECK(a->u.auth.first || (r->exchange && a->u.auth.response.p));
    record(r, span_str(mechanisms[a->u.auth.mechanism]));
    record(r, a->u.auth.response);
    uint32_t n = next(&r->answers) % 4;
    r->exchange = n < 2;
    if (n < 2) {
        give_challenge(r);
    } else if (n < 3) {
        give_verdict(r);
    } else {
        pop3_auth_invalid(r->p, &r->out);
    }
}

/* Octets that matter to dots and lines; now and then one too few or too many. */
static void next_message(struct run *r, size_t size)
{
    static const char alphabet[] = "\r\n.a:\xc3\xa4 \r\nTo:\",<>()\xff;";
    static const char trace[] =
        "Return-Path: <>\r\nReceived: from a by b with UTF8SMTP id c;\r\n d\r\n"
        "Subject: ";
    if (next(&r->answers) % 16 == 0) {
        size += next(&r->answers) % 3;
        size -= size > 0;
    }
    buf_clear(&r->message);
    if (size >= sizeof trace) {
        CHECK(buf_add(&r->message, span_str(trace)) == ERR_OK);
        size -= strlen(trace);
    }
    for (; size > 0; size--) {
        char c = alphabet[next(&r->answers) % sizeof alphabet];
        CHECK(buf_addc(&r->message, c) == ERR_OK);
    }
}

static void give_piece(struct run *r)
{
    struct span left = buf_span(&r->message);
    size_t most = next(&r->answers) % 2 ? PIECE_MOST : 32;
    struct span piece = span_first(left, next(&r->answers) % most);
    enum err e = next(&r->answers) % 16 ? ERR_OK : ERR_TEMP;
    bool last = e != ERR_OK || piece.n == left.n;
    pop3_fetch_answer(r->p, e, e == ERR_OK ? piece : SPAN(""), last, &r->out);
    buf_take(&r->message, piece.n);
    r->fetching = !last;
}

static void answer_fetch(struct run *r, const struct pop3_action *a)
{
    const struct maildrop *m = pop3_maildrop(r->p);
    CHECK(m && a->u.fetch.index < m->count && !r->fetching);
    next_message(r, maildrop_size(m, a->u.fetch.index));
    give_piece(r);
}

static void answer_commit(struct run *r, const struct pop3_action *a)
{
    const struct maildrop *m = pop3_maildrop(r->p);
    CHECK(m && a->u.commit.n > 0 && !r->committed);
    for (size_t i = 0; i < a->u.commit.n; i++) {
        CHECK(a->u.commit.marked[i] < m->count);
        CHECK(i == 0 || a->u.commit.marked[i - 1] < a->u.commit.marked[i]);
    }
    record(r, span_of(a->u.commit.marked, a->u.commit.n * sizeof *a->u.commit.marked));
    r->committed = true;
    pop3_commit_answer(r->p, next_err(r), &r->out);
}

/* However the input was split. */
static void record_read(struct run *r)
{
    const size_t *which;
    size_t n = pop3_read(r->p, &which);
    for (size_t i = 0; i < n; i++) {
        CHECK(which[i] < pop3_maildrop(r->p)->count && (i == 0 || which[i] > which[i - 1]));
        record(r, span_of(&which[i], sizeof which[i]));
    }
}

static void check_closed(struct run *r, const struct pop3_action *a)
{
    struct span in = SPAN("NOOP\r\n");
    record(r, span_str(pop3_close_text(a->u.close)));
    record_read(r);
    CHECK(!r->committed || a->u.close == POP3_CLOSE_QUIT);
    CHECK(pop3_step(r->p, &in, &r->out).kind == POP3_CLOSE);
    CHECK(in.n == 6 && buf_len(&r->out) == 0);
}

/* One piece of the input; false when the engine has closed. */
static bool feed(struct run *r, struct span piece)
{
    for (;;) {
        struct pop3_action a = pop3_step(r->p, &piece, &r->out);
        CHECK(a.kind != POP3_FLUSH || buf_len(&r->out) > 0);
        CHECK(a.kind != POP3_FETCH || buf_len(&r->out) <= 128 << 10);
        take_replies(r);
        switch (a.kind) {
        case POP3_NEED_INPUT:
            CHECK(piece.n == 0);
            return true;
        case POP3_FLUSH:
            break;
        case POP3_STARTTLS:
            pop3_offer(r->p, mechanisms, ARRAY_LEN(mechanisms));
            pop3_tls_answer(r->p);
            break;
        case POP3_LOGIN:
            answer_login(r, &a);
            break;
        case POP3_AUTH:
            answer_auth(r, &a);
            break;
        case POP3_FETCH:
            answer_fetch(r, &a);
            break;
        case POP3_FETCH_MORE:
            CHECK(r->fetching);
            give_piece(r);
            break;
        case POP3_FETCH_STOP:
            CHECK(r->fetching);
            r->fetching = false;
            break;
        case POP3_COMMIT:
            answer_commit(r, &a);
            break;
        case POP3_CLOSE:
            check_closed(r, &a);
            return false;
        }
    }
}

static void run_init(struct run *r, uint8_t flags, uint8_t seed)
{
    const struct pop3_options o = { .tls_offered = flags & 1,
                                    .tls_active = flags & 2,
                                    .plaintext_login = !(flags & 4),
                                    .expire_differs = flags & 32,
                                    .expire_min = flags & 64 ? 7 : -1,
                                    .login_delay = flags & 128 ? 60 : 0,
                                    .max_errors = flags & 8 ? 3 : 1000,
                                    .login_tries = flags & 16 ? 2 : 100 };
    *r = (struct run){ .p = pop3_new(&o), .answers = seed, .splits = seed };
    pop3_offer(r->p, mechanisms, flags & 4 ? 0 : ARRAY_LEN(mechanisms));
    buf_init(&r->out, POP3_OUT_MIN + 8 * PIECE_MOST);
    buf_init(&r->transcript, TRANSCRIPT_MOST);
    buf_init(&r->message, TRANSCRIPT_MOST);
}

static void run_fini(struct run *r)
{
    pop3_free(&r->p);
    buf_fini(&r->out);
    buf_fini(&r->transcript);
    buf_fini(&r->message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run whole, pieces;
    if (size < 2) {
        return 0;
    }
    struct span all = span_of(data + 2, size - 2);
    run_init(&whole, data[0], data[1]);
    run_init(&pieces, data[0], data[1]);
    feed(&whole, all);
    for (struct span rest = all; rest.n > 0;) {
        struct span piece = span_first(rest, 1 + next(&pieces.splits) % 8);
        if (!feed(&pieces, piece)) {
            break;
        }
        rest = span_skip(rest, piece.n);
    }
    CHECK(span_eq(buf_span(&whole.transcript), buf_span(&pieces.transcript)));
    run_fini(&whole);
    run_fini(&pieces);
    return 0;
}
