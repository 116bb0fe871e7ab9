/*
 * pop3: the POP3 server as an engine without I/O (RFC 1939, 2449, 2595, 3206, 5034).
 *
 * pop3_step eats bytes, appends replies and returns one action by value. The action stays open
 * until it is answered; no input is eaten meanwhile, so the order of pipelined commands and
 * backpressure follow by themselves. The engine has no clock, no socket, no file: TLS, login,
 * reading a message and the commit at QUIT are actions. One owner: the session.
 *
 *   action         answered by                    meaning
 *   NEED_INPUT     more bytes                     nothing to do
 *   FLUSH          pop3_step once out is drained  a long reply goes on
 *   STARTTLS       pop3_tls_answer                +OK is in out: send it, then negotiate
 *   LOGIN          pop3_login_answer              check user and password, open the maildrop
 *   FETCH          pop3_fetch_answer              send message `index`; out is empty then
 *   FETCH_MORE     pop3_fetch_answer              give the next piece once out is drained
 *   FETCH_STOP     pop3_step                      TOP has enough, or a wrong size: close the reader
 *   COMMIT         pop3_commit_answer             QUIT: delete the marked messages
 *   CLOSE          -                              send what is in out, then close
 */
#ifndef MAILFLEET_FRONTEND_POP3_H
#define MAILFLEET_FRONTEND_POP3_H

#include "base/buffer.h"
#include "base/maildrop.h"

/* Why a session ended: reason, text for the log. */
#define POP3_CLOSE_LIST(X)                                                                         \
    X(QUIT, "quit")                                                                                \
    X(LOGIN_TRIES, "too many failed logins")                                                       \
    X(ERRORS, "too many errors")                                                                   \
    X(FETCH_FAULT, "message broke off while it was being sent")

enum pop3_close {
#define X(name, text) POP3_CLOSE_##name,
    POP3_CLOSE_LIST(X)
#undef X
};
const char *pop3_close_text(enum pop3_close c);

enum pop3_action_kind {
    POP3_NEED_INPUT,
    POP3_FLUSH,
    POP3_STARTTLS,
    POP3_LOGIN,
    POP3_FETCH,
    POP3_FETCH_MORE,
    POP3_FETCH_STOP,
    POP3_COMMIT,
    POP3_CLOSE
};

struct pop3_action {
    enum pop3_action_kind kind;
    union {
        struct {
            struct span user;     /* borrowed until the answer */
            struct span password; /* a secret; never logged */
        } login;
        struct {
            size_t index; /* of the message in the maildrop, from 0 */
            bool top;     /* only the first octets are likely to be needed */
        } fetch;
        struct {
            const size_t *marked; /* indices, ascending; borrowed until the answer */
            size_t n;
        } commit;
        enum pop3_close close;
    } u;
};

struct pop3_options {
    bool tls_offered;     /* STLS is possible */
    bool tls_active;      /* implicit TLS */
    bool plaintext_login; /* a password may come without TLS */
    unsigned max_errors;
    unsigned login_tries;
};

struct pop3; /* opaque; about 5 KiB, freed with everything in it */

struct pop3 *pop3_new(const struct pop3_options *o);
void pop3_free(struct pop3 **p);

/* The greeting line. */
void pop3_greet(struct pop3 *p, struct span hostname, struct buf *out);
/* A refusal in place of a greeting: `-ERR [SYS/TEMP] text`. */
void pop3_refuse(struct span text, struct buf *out);

/*
 * Eats from *in. out needs POP3_OUT_MIN octets of room, else the answer is FLUSH at once. While an
 * action is open it is given again.
 */
#define POP3_OUT_MIN 4096
struct pop3_action pop3_step(struct pop3 *p, struct span *in, struct buf *out);

/* TLS is up. What was said before it is forgotten (RFC 2595, section 4). */
void pop3_tls_answer(struct pop3 *p);

/*
 * OK: the maildrop is the session's from now on (taken: *m is nulled). DENIED: wrong user or
 * password [AUTH]. BUSY: [IN-USE]. LIMIT: [LOGIN-DELAY] is not meant; too much is going on,
 * [SYS/TEMP]. Anything else: [SYS/TEMP].
 */
void pop3_login_answer(struct pop3 *p, enum err e, struct maildrop **m, struct buf *out);

/*
 * To FETCH: OK and the first piece, which decides between +OK and -ERR. NOTFOUND: the message has
 * been removed by another session. CORRUPT: [SYS/PERM]. Else [SYS/TEMP].
 * To FETCH_MORE: the next piece; a fault now can only close the session.
 * last: no further piece. The pieces must come to the size that the maildrop has; else it is
 * CORRUPT. The piece is borrowed until return; out needs room for twice the piece and POP3_OUT_MIN.
 */
void pop3_fetch_answer(struct pop3 *p, enum err e, struct span piece, bool last, struct buf *out);

/* OK: the marked messages are deleted. Else: none is known to be, [SYS/TEMP] (RFC 3206). */
void pop3_commit_answer(struct pop3 *p, enum err e, struct buf *out);

/* The snapshot, or NULL before login; stays the engine's. */
const struct maildrop *pop3_maildrop(const struct pop3 *p);

#endif
