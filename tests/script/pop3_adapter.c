/*
 * pop3_adapter: the POP3 engine for the script runner.
 *
 *   O  tls=none|offered|active plaintext=yes|no errors=N tries=N
 *
 *   A login USER PASSWORD   = ok SIZE[:UIDL] ...        the maildrop; or = denied, = temp ...
 *   A retr INDEX            = ok N TEXT                 the message in pieces of N octets
 *   A top INDEX             = broken N TEXT             the same, and then a fault
 *                           = notfound, = corrupt ...   no message
 *   A commit INDEX ...      = ok, = temp ...
 *   A starttls, A stop, A close REASON                  have no answer
 *
 * Errors are the names of enum err in lower case. The engine writes to a small buffer of the
 * adapter, so that every long reply meets FLUSH; further pieces are given here, not in the script.
 */
#include "base/check.h"
#include "pop3.h"
#include "script.h"

#include <stdlib.h>

#define PIECE_MOST   2048
#define MESSAGE_MOST (1u << 20)

struct pop3_adapter {
    struct pop3 *engine;
    struct buf out;
    enum pop3_action_kind open;
    struct buf message; /* what is left to send of it */
    size_t piece;
    enum err end; /* what follows the last piece */
};

static bool read_option(struct pop3_options *o, struct span name, struct span value)
{
    uint64_t n = 0;
    bool number = span_u64(value, 1000, &n) == ERR_OK;
    if (span_eq(name, SPAN("tls"))) {
        o->tls_offered = !span_eq(value, SPAN("none"));
        o->tls_active = span_eq(value, SPAN("active"));
    } else if (span_eq(name, SPAN("plaintext"))) {
        o->plaintext_login = span_eq(value, SPAN("yes"));
    } else if (span_eq(name, SPAN("errors")) && number) {
        o->max_errors = (unsigned)n;
    } else if (span_eq(name, SPAN("tries")) && number) {
        o->login_tries = (unsigned)n;
    } else {
        return false;
    }
    return true;
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
    struct pop3_options o = { .plaintext_login = true, .max_errors = 20, .login_tries = 3 };
    while (options.n > 0) {
        struct span word = span_word(&options);
        size_t n = span_find(word, '=');
        if (!read_option(&o, span_first(word, n), span_skip(word, n + 1))) {
            return NULL;
        }
    }
    struct pop3_adapter *x = NEW(struct pop3_adapter);
    x->engine = pop3_new(&o);
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

static void describe(const struct pop3_action *a, struct buf *text)
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
    describe(&a, action);
    if (a.kind == POP3_STARTTLS) {
        pop3_tls_answer(x->engine);
    }
    return a.kind != POP3_CLOSE;
}

static bool waits(void *engine)
{
    struct pop3_adapter *x = engine;
    return x->open == POP3_LOGIN || x->open == POP3_FETCH || x->open == POP3_COMMIT;
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

static bool answer_login(struct pop3_adapter *x, enum err e, struct span text)
{
    struct maildrop *m = NULL;
    if (e == ERR_OK) {
        m = maildrop_new(1, 1);
        if (!read_maildrop(text, m)) {
            maildrop_free(&m);
            return false;
        }
    }
    pop3_login_answer(x->engine, e, &m, &x->out);
    CHECK(!m);
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

static bool answer(void *engine, struct span text, struct buf *out)
{
    struct pop3_adapter *x = engine;
    enum err e = ERR_TEMP;
    size_t n = span_find(text, ' ');
    struct span word = span_first(text, n), rest = span_skip(text, n + 1);
    bool ok = read_err(word, &e) || span_eq(word, SPAN("broken"));
    if (ok && x->open == POP3_LOGIN) {
        ok = answer_login(x, e, rest);
    } else if (ok && x->open == POP3_FETCH) {
        ok = answer_fetch(x, e, rest);
    } else if (ok) {
        pop3_commit_answer(x->engine, e, &x->out);
    }
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
