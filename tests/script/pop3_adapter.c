/*
 * pop3_adapter: the POP3 engine for the script runner.
 *
 *   O  tls=none|offered|active plaintext=yes|no errors=N tries=N delay=SECONDS
 *      expire=DAYS|never[,user]
 *                              kept at least; `user`: not all accounts alike
 *      retention=DAYS          what the account that logs in has
 *      read=DAYS               likewise, for what was read
 *      mechanisms=A,B,...      offered from the start; without it PLAIN where a password may come
 *      tls_mechanisms=A,...    offered after STLS; without it PLAIN
 *
 *   A login USER PASSWORD   = ok SIZE[:UIDL] ...        the maildrop; or another login_verdict
 *   A auth MECH first       no initial response         (same answers as login, and these:)
 *   A auth MECH first TEXT  decoded; `=` if empty       = challenge TEXT
 *   A auth MECH next TEXT                               = invalid
 *   A retr INDEX            = ok N TEXT                 the message in pieces of N octets
 *   A top INDEX             = broken N TEXT             the same, and then a fault
 *                           = notfound, = corrupt ...   no message
 *   A commit INDEX ...      = ok, = temp ...
 *   A starttls, A stop      have no answer
 *   A close REASON          nor has this; `, read INDEX ...` behind it if there is such
 *
 * Verdicts are the words of login.h, other errors the names of enum err in lower case. The engine
 * writes to a small buffer of the adapter, so that every long reply meets FLUSH; further pieces are
 * given here, not in the script.
 */
#include "base/check.h"
#include "pop3.h"
#include "script.h"

#include <stdlib.h>

#define PIECE_MOST   2048
#define MESSAGE_MOST (1u << 20)
#define OFFERED_MOST 8

struct offer {
    char *text; /* the names, each ended by a NUL */
    const char *names[OFFERED_MOST];
    size_t n;
};

struct options {
    struct pop3_options engine;
    uint64_t retention;
    int read_days;
    struct offer plain, tls;
};

struct pop3_adapter {
    struct pop3 *engine;
    struct options options;
    const struct offer *offer; /* the one in force */
    struct buf out;
    enum pop3_action_kind open;
    struct buf message; /* what is left to send of it */
    size_t piece;
    enum err end; /* what follows the last piece */
};

static bool read_offer(struct span list, struct offer *o)
{
    free(o->text);
    *o = (struct offer){ .text = span_dup(list) };
    for (char *p = o->text; *p && o->n < OFFERED_MOST; p += strlen(p) + 1) {
        o->names[o->n++] = p;
        char *comma = strchr(p, ',');
        if (!comma) {
            return true;
        }
        *comma = '\0'; /* an empty name behind it ends the list */
    }
    return o->n == 0;
}

static bool read_number(struct pop3_options *o, struct span name, unsigned n)
{
    if (span_eq(name, SPAN("errors"))) {
        o->max_errors = n;
    } else if (span_eq(name, SPAN("tries"))) {
        o->login_tries = n;
    } else if (span_eq(name, SPAN("delay"))) {
        o->login_delay = n;
    } else {
        return false;
    }
    return true;
}

static bool read_expire(struct pop3_options *o, struct span value)
{
    uint64_t n = 0;
    size_t comma = span_find(value, ',');
    o->expire_differs = comma < value.n;
    bool never = span_eq(span_first(value, comma), SPAN("never"));
    bool ok = never || span_u64(span_first(value, comma), 100000, &n) == ERR_OK;
    o->expire_min = never ? -1 : (int)n;
    return ok && (!o->expire_differs || span_eq(span_skip(value, comma), SPAN(",user")));
}

static bool read_option(struct options *o, struct span name, struct span value)
{
    uint64_t n = 0;
    bool number = span_u64(value, 100000, &n) == ERR_OK;
    if (span_eq(name, SPAN("tls"))) {
        o->engine.tls_offered = !span_eq(value, SPAN("none"));
        o->engine.tls_active = span_eq(value, SPAN("active"));
    } else if (span_eq(name, SPAN("plaintext"))) {
        o->engine.plaintext_login = span_eq(value, SPAN("yes"));
    } else if (span_eq(name, SPAN("expire"))) {
        return read_expire(&o->engine, value);
    } else if (span_eq(name, SPAN("mechanisms"))) {
        return read_offer(value, &o->plain);
    } else if (span_eq(name, SPAN("tls_mechanisms"))) {
        return read_offer(value, &o->tls);
    } else if (span_eq(name, SPAN("retention")) && number) {
        o->retention = n;
    } else if (span_eq(name, SPAN("read")) && number) {
        o->read_days = (int)n;
    } else {
        return number && read_number(&o->engine, name, (unsigned)n);
    }
    return true;
}

static void complete_offers(struct options *o)
{
    bool password = o->engine.plaintext_login || o->engine.tls_active;
    if (!o->plain.text) {
        read_offer(password ? SPAN("PLAIN") : SPAN(""), &o->plain);
    }
    if (!o->tls.text) {
        read_offer(SPAN("PLAIN"), &o->tls);
    }
}

static void free_options(struct options *o)
{
    free(o->plain.text);
    free(o->tls.text);
}

static void offer(struct pop3_adapter *x, const struct offer *o)
{
    x->offer = o;
    pop3_offer(x->engine, o->names, o->n);
}

static void drain(struct pop3_adapter *x, struct buf *out)
{
    if (buf_len(&x->out) > 0) {
        enum err e = buf_add(out, buf_span(&x->out));
        CHECK(e == ERR_OK);
        buf_clear(&x->out);
    }
}

static void *open_engine(struct span options, struct buf *out)
{
    struct pop3_adapter *x = NEW(struct pop3_adapter);
    struct options *o = &x->options;
    o->engine = (struct pop3_options){
        .plaintext_login = true, .expire_min = -1, .max_errors = 20, .login_tries = 3
    };
    o->read_days = -1;
    while (options.n > 0) {
        struct span word = span_word(&options);
        size_t n = span_find(word, '=');
        if (!read_option(o, span_first(word, n), span_skip(word, n + 1))) {
            free_options(o);
            free(x);
            return NULL;
        }
    }
    complete_offers(o);
    x->engine = pop3_new(&o->engine);
    offer(x, &o->plain);
    buf_init(&x->out, POP3_OUT_MIN + 2 * PIECE_MOST);
    buf_init(&x->message, MESSAGE_MOST);
    pop3_greet(x->engine, SPAN("pop.test"), &x->out);
    drain(x, out);
    return x;
}

static void close_engine(void *engine)
{
    struct pop3_adapter *x = engine;
    pop3_free(&x->engine);
    buf_fini(&x->out);
    buf_fini(&x->message);
    free_options(&x->options);
    free(x);
}

static void give_piece(struct pop3_adapter *x)
{
    struct span left = buf_span(&x->message);
    bool fault = left.n == 0 && x->end != ERR_OK;
    size_t n = left.n < x->piece ? left.n : x->piece;
    bool last = n == left.n && (x->end == ERR_OK || fault);
    char *copy = mem_new(n > 0 ? n : 1, 1);
    memcpy(copy, left.p, n);
    pop3_fetch_answer(x->engine, fault ? x->end : ERR_OK, span_of(copy, n), last, &x->out);
    free(copy);
    buf_take(&x->message, n);
}

static void describe_auth(const struct pop3_adapter *x, const struct pop3_action *a,
                          struct buf *text)
{
    struct span response = a->u.auth.response;
    CHECK(a->u.auth.mechanism < x->offer->n);
    buf_addf(text, "auth %s %s", x->offer->names[a->u.auth.mechanism],
             a->u.auth.first ? "first" : "next");
    if (response.p) {
        buf_addc(text, ' ');
        buf_add(text, response.n > 0 ? response : SPAN("="));
    }
}

static void describe_read(const struct pop3_adapter *x, struct buf *text)
{
    const size_t *which;
    size_t n = pop3_read(x->engine, &which);
    for (size_t i = 0; i < n; i++) {
        buf_addf(text, "%s %zu", i == 0 ? ", read" : "", which[i]);
    }
}

static void describe(const struct pop3_adapter *x, const struct pop3_action *a, struct buf *text)
{
    switch (a->kind) {
    case POP3_NEED_INPUT:
    case POP3_FLUSH:
    case POP3_FETCH_MORE:
        break;
    case POP3_STARTTLS:
        buf_addf(text, "starttls");
        break;
    case POP3_LOGIN:
        buf_addf(text, "login %.*s %.*s", SPAN_ARG(a->u.login.user), SPAN_ARG(a->u.login.password));
        break;
    case POP3_AUTH:
        describe_auth(x, a, text);
        break;
    case POP3_FETCH:
        buf_addf(text, "%s %zu", a->u.fetch.top ? "top" : "retr", a->u.fetch.index);
        break;
    case POP3_FETCH_STOP:
        buf_addf(text, "stop");
        break;
    case POP3_COMMIT:
        buf_addf(text, "commit");
        for (size_t i = 0; i < a->u.commit.n; i++) {
            buf_addf(text, " %zu", a->u.commit.marked[i]);
        }
        break;
    case POP3_CLOSE:
        buf_addf(text, "close %s", pop3_close_text(a->u.close));
        describe_read(x, text);
        break;
    }
}

static bool step(void *engine, struct span *in, struct buf *out, struct buf *action)
{
    struct pop3_adapter *x = engine;
    struct pop3_action a = pop3_step(x->engine, in, &x->out);
    while (a.kind == POP3_FLUSH || a.kind == POP3_FETCH_MORE) {
        drain(x, out);
        if (a.kind == POP3_FETCH_MORE) {
            give_piece(x);
        }
        a = pop3_step(x->engine, in, &x->out);
    }
    drain(x, out);
    x->open = a.kind;
    describe(x, &a, action);
    if (a.kind == POP3_STARTTLS) {
        offer(x, &x->options.tls);
        pop3_tls_answer(x->engine);
    }
    return a.kind != POP3_CLOSE;
}

static bool waits(void *engine)
{
    struct pop3_adapter *x = engine;
    return x->open == POP3_LOGIN || x->open == POP3_AUTH || x->open == POP3_FETCH ||
           x->open == POP3_COMMIT;
}

static bool read_err(struct span word, enum err *out)
{
    static const char *const names[] = {
#define X(name, text) #name,
        ERR_LIST(X)
#undef X
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (span_eq_nocase(word, span_str(names[i]))) {
            *out = (enum err)i;
            return true;
        }
    }
    return false;
}

/* `SIZE[:UIDL] ...`; the ids count from 1. */
static bool read_maildrop(struct span text, struct maildrop *m)
{
    static const uint8_t zeros[10];
    while (text.n > 0) {
        uint64_t size;
        struct span word = span_word(&text);
        size_t n = span_find(word, ':');
        struct pointer p = { .id = blob_id_make(m->count + 1, zeros), .seq = m->count + 1 };
        if (span_u64(span_first(word, n), UINT32_MAX, &size) != ERR_OK) {
            return false;
        }
        p.size = (uint32_t)size;
        if (maildrop_add(m, &p, span_skip(word, n + 1), SPAN("")) != ERR_OK) {
            return false;
        }
    }
    return true;
}

static bool read_verdict(struct span word, enum login_verdict *out)
{
    for (int v = 0; v < LOGIN_VERDICTS; v++) {
        if (span_eq(word, span_str(login_verdict_text(v)))) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool answer_login(struct pop3_adapter *x, struct span word, struct span text)
{
    enum login_verdict v;
    struct maildrop *m = NULL;
    if (!read_verdict(word, &v)) {
        return false;
    }
    if (v == LOGIN_OK) {
        m = maildrop_new(1, 1);
        if (!read_maildrop(text, m)) {
            maildrop_free(&m);
            return false;
        }
    }
    pop3_login_answer(x->engine, v, &m, (unsigned)x->options.retention, x->options.read_days,
                      &x->out);
    CHECK(!m);
    return true;
}

static bool answer_auth(struct pop3_adapter *x, struct span word, struct span text)
{
    if (span_eq(word, SPAN("challenge"))) {
        pop3_auth_challenge(x->engine, text, &x->out);
    } else if (span_eq(word, SPAN("invalid"))) {
        pop3_auth_invalid(x->engine, &x->out);
    } else {
        return answer_login(x, word, text);
    }
    return true;
}

/* `N TEXT` behind ok or broken. */
static bool answer_fetch(struct pop3_adapter *x, enum err e, struct span text)
{
    uint64_t piece = 1;
    size_t n = span_find(text, ' ');
    if (text.n > 0 && span_u64(span_first(text, n), PIECE_MOST, &piece) != ERR_OK) {
        return false;
    }
    struct span message = span_skip(text, n + 1);
    buf_clear(&x->message);
    if (piece == 0 || (message.n > 0 && buf_add(&x->message, message) != ERR_OK)) {
        return false;
    }
    x->piece = piece;
    x->end = e;
    give_piece(x);
    return true;
}

static bool answer_store(struct pop3_adapter *x, struct span word, struct span text)
{
    enum err e = ERR_TEMP;
    if (!read_err(word, &e) && !span_eq(word, SPAN("broken"))) {
        return false;
    }
    if (x->open == POP3_FETCH) {
        return answer_fetch(x, e, text);
    }
    pop3_commit_answer(x->engine, e, &x->out);
    return true;
}

static bool answer(void *engine, struct span text, struct buf *out)
{
    struct pop3_adapter *x = engine;
    size_t n = span_find(text, ' ');
    struct span word = span_first(text, n), rest = span_skip(text, n + 1);
    bool ok = x->open == POP3_LOGIN  ? answer_login(x, word, rest)
              : x->open == POP3_AUTH ? answer_auth(x, word, rest)
                                     : answer_store(x, word, rest);
    drain(x, out);
    return ok;
}

int main(int argc, char **argv)
{
    static const struct script_adapter adapter = {
        .open = open_engine,
        .step = step,
        .answer = answer,
        .waits = waits,
        .close = close_engine,
    };
    return script_main(argc, argv, &adapter);
}
