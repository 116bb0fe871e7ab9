/*
 * pop3: the POP3 server as an engine without I/O (RFC 1939, 2449, 2595, 3206, 5034, 6856, 6858).
 *
 * pop3_step eats bytes, appends replies and returns one action by value. The action stays open
 * until it is answered; no input is eaten meanwhile, so the order of pipelined commands and
 * backpressure follow by themselves. The engine has no clock, no socket, no file: TLS, login,
 * reading a message and the commit at QUIT are actions. One owner: the session.
 *
 *   action         answered by                    meaning
 *   NEED_INPUT     more bytes                     nothing to do
 *   FLUSH          pop3_step once out is drained  a long reply goes on, or a message has to leave
 *                                                 before the next command is looked at
 *   STARTTLS       pop3_tls_answer                +OK is in out: send it, then negotiate
 *   LOGIN          pop3_login_answer              check user and password, open the maildrop
 *   AUTH           pop3_auth_challenge            the SASL exchange goes on
 *                  pop3_auth_invalid              the response is none of the mechanism
 *                  pop3_login_answer              the exchange is over
 *   FETCH          pop3_fetch_answer              send message `index`; out is empty then
 *   FETCH_MORE     pop3_fetch_answer              give the next piece once out is drained
 *   FETCH_STOP     pop3_step                      TOP has enough, or a wrong size: close the reader
 *   COMMIT         pop3_commit_answer             QUIT: delete the marked messages
 *   CLOSE          -                              send what is in out, then close
 *
 * The engine knows no SASL mechanism: it carries responses and challenges. A client may cancel an
 * exchange (`*`), of which the session hears nothing: a LOGIN or an AUTH with `first` tells it that
 * the exchange before is over.
 */
#ifndef MAILFLEET_FRONTEND_POP3_H
#define MAILFLEET_FRONTEND_POP3_H

#include "base/buffer.h"
#include "base/login.h"
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
    POP3_AUTH,
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
            bool first;           /* a new exchange; else the answer to the last challenge */
            size_t mechanism;     /* its index in what pop3_offer was given */
            struct span response; /* decoded, a secret, borrowed until the answer; p is NULL when an
                                     exchange begins without an initial response */
        } auth;
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
    bool tls_active;      /* implicit TLS, or the PROXY header says that the client came by TLS */
    bool plaintext_login; /* a password may come without TLS */
    bool expire_differs;  /* accounts differ in how long mail is kept */
    int expire_min; /* days that mail of every account is kept at least; -1: for ever, or, when
                       they differ, not known */
    unsigned login_delay; /* seconds (LOGIN-DELAY); 0: none */
    unsigned max_errors;
    unsigned login_tries;
};

struct pop3; /* opaque; a few hundred octets while idle, freed with everything in it */

struct pop3 *pop3_new(const struct pop3_options *o);
void pop3_free(struct pop3 **p);

/*
 * The SASL mechanisms that may be used now, the best first; whether one may without TLS is the
 * caller's to decide. Borrowed until the next call or the end. Before it none is offered. To be
 * called behind pop3_new, and again before pop3_tls_answer.
 */
void pop3_offer(struct pop3 *p, const char *const *mechanisms, size_t n);

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

/* TLS is up. What was said before it is forgotten (RFC 2595, section 4), UTF8 and LANG too. */
void pop3_tls_answer(struct pop3 *p);

/* To AUTH: `+` and the challenge in base64. One that is longer than this ends the exchange. */
#define POP3_CHALLENGE_MAX 2048
void pop3_auth_challenge(struct pop3 *p, struct span challenge, struct buf *out);
/* To AUTH: -ERR. It counts as an error, not as a failed login, and ends the exchange. */
void pop3_auth_invalid(struct pop3 *p, struct buf *out);

/*
 * To LOGIN and AUTH. OK: the maildrop is the engine's from now on (taken: *m is nulled), and its
 * mail is kept for retention_days, 0 being for ever; what RETR has sent for read_days, if that ends
 * sooner, -1 being no such rule. Else m is not looked at.
 */
void pop3_login_answer(struct pop3 *p, enum login_verdict v, struct maildrop **m,
                       unsigned retention_days, int read_days, struct buf *out);

/*
 * To FETCH: OK and the first piece, which decides between +OK and -ERR. NOTFOUND: the message has
 * been removed by another session. CORRUPT: [SYS/PERM]. Else [SYS/TEMP].
 * To FETCH_MORE: the next piece; a fault now can only close the session. The first piece that is
 * not empty counts as the first.
 * last: no further piece. The pieces must come to the size that the maildrop has; else it is
 * CORRUPT. The piece is borrowed until return; out needs room for twice the piece and POP3_OUT_MIN.
 *
 * An internationalized message is converted for a client that has not said UTF8 (downgrade.h), when
 * its header is in the first piece and, converted, finds room in out; else it is refused, [UTF8].
 * LIST and STAT go by the size as it is stored, since a poll reads no message; RFC 6858, section 4,
 * leaves that open. The reply to RETR has the size that is sent.
 */
void pop3_fetch_answer(struct pop3 *p, enum err e, struct span piece, bool last, struct buf *out);
/* Whether the answer to FETCH that was just given began a converted message. */
bool pop3_converted(const struct pop3 *p);

/* Whether the piece that was just given ended a message: all that was asked for is in out. */
bool pop3_whole(const struct pop3 *p);
/*
 * The messages whose end RETR has put into out since the last call: indices, borrowed until the
 * next step. To be asked before each step with an empty out: they have left then.
 */
size_t pop3_sent(struct pop3 *p, const size_t **which);
/* While an action is open: all that was in out has left. The engine takes an empty out for that at
 * the next step, but there may be none. */
void pop3_left(struct pop3 *p);
/* Something of a message was in out when the engine last saw it. No step is to be taken any more if
 * it did not leave: the engine takes an empty out for that. */
bool pop3_unsent(const struct pop3 *p);

/* OK: the marked messages are deleted. Else: none is known to be, [SYS/TEMP] (RFC 3206). */
void pop3_commit_answer(struct pop3 *p, enum err e, struct buf *out);

/*
 * What the client has had by RETR, by now, and has not deleted: indices, ascending, the engine's
 * until the next call. A message counts when all of it has left and the client's next command was
 * read, which says that it did not leave in the middle; where mail is kept for no time after it,
 * only when that or a later one is QUIT (RFC 2449, section 6.7). None where there is no rule about
 * it.
 */
size_t pop3_read(struct pop3 *p, const size_t **which);

/* The snapshot, or NULL before login; stays the engine's. */
const struct maildrop *pop3_maildrop(const struct pop3 *p);

#endif
