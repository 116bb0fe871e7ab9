/*
 * smtp: the ESMTP and LMTP server as an engine without I/O (RFC 5321, 2033, 1870, 2034, 2920,
 * 3030, 3207, 6152, 6531, 8689, 9422; Postfix's XCLIENT).
 *
 * smtp_step eats bytes, appends replies and returns one action by value. The action stays open
 * until it is answered; no input is eaten meanwhile, so the order of pipelined commands and
 * backpressure follow by themselves. The engine has no clock, no socket, no file. LMTP is a mode:
 * LHLO instead of EHLO and one reply a recipient after the data. One owner: the session.
 *
 *   action       answered by                 meaning
 *   NEED_INPUT   more bytes                  nothing to do
 *   FLUSH        smtp_step once out drained  out is full
 *   STARTTLS     smtp_tls_answer             220 is in out: send it, then negotiate
 *   XCLIENT      smtp_xclient_answer         a relay names the client that it speaks for
 *   MAIL         smtp_mail_answer            may this sender begin a transaction?
 *   RCPT         smtp_rcpt_answer            who is this recipient?
 *   DATA_BEGIN   smtp_data_answer            open a delivery (DATA, or the first BDAT)
 *   DATA         smtp_step once taken        a piece of the message, decoded
 *   DATA_END     smtp_end_answer             commit; the reply is the peer's receipt
 *   RESET        smtp_step                   forget the transaction (RSET, EHLO, a message that the
 *                                            engine refused); it is over in the engine already
 *   CLOSE        -                           send what is in out, then close
 */
#ifndef MAILFLEET_DELIVER_SMTP_H
#define MAILFLEET_DELIVER_SMTP_H

#include "address.h"
#include "base/buffer.h"
#include "parameters.h"
#include "xclient.h"

/* clang-format off */
#define SMTP_CLOSE_LIST(X)         \
    X(QUIT,     "quit")            \
    X(ERRORS,   "too many errors") \
    X(MESSAGES, "enough messages") \
    X(CHUNK,    "bad chunk")       \
    X(FILTER,   "filter")          \
    X(HTTP,     "http")            \
    X(NOT_SMTP, "not smtp")        \
    X(SHUTDOWN, "shutdown")        \
    X(TIMEOUT,  "timeout")
/* clang-format on */

enum smtp_close {
#define X(name, text) SMTP_CLOSE_##name,
    SMTP_CLOSE_LIST(X)
#undef X
};
const char *smtp_close_text(enum smtp_close c);

enum smtp_action_kind {
    SMTP_NEED_INPUT,
    SMTP_FLUSH,
    SMTP_STARTTLS,
    SMTP_XCLIENT,
    SMTP_MAIL,
    SMTP_RCPT,
    SMTP_DATA_BEGIN,
    SMTP_DATA,
    SMTP_DATA_END,
    SMTP_RESET,
    SMTP_CLOSE
};

struct smtp_action {
    enum smtp_action_kind kind;
    union {
        const struct smtp_xclient *xclient; /* borrowed until the answer, as are the next two */
        const struct address *reverse_path;
        const struct address *rcpt;
        struct span data; /* borrowed until the next smtp_step */
        enum smtp_close close;
    } u;
};

struct smtp_options {
    bool lmtp;
    bool tls_offered;
    bool xclient;            /* the client may use XCLIENT */
    bool normalize_newlines; /* else a bare CR or LF makes the message 550 5.6.0 */
    uint64_t max_size;       /* octets, announced by SIZE */
    unsigned max_recipients;
    unsigned max_received;
    unsigned max_messages; /* MAIL commands of the session, announced; then 421. 0: no limit */
    unsigned max_errors;   /* since the last delivered message; then 421 4.7.0 */
    const char *hostname;  /* at most DOMAIN_MAX octets; borrowed for the engine's life */
};

struct smtp; /* opaque */

struct smtp *smtp_new(const struct smtp_options *o);
void smtp_free(struct smtp **s);

void smtp_greet(struct smtp *s, struct buf *out);
/* A refusal in place of a greeting: `421 enhanced hostname text`. */
void smtp_refuse(const struct smtp_options *o, struct span enhanced, struct span text,
                 struct buf *out);

#define SMTP_OUT_MIN 4096
/* Eats from *in; out needs SMTP_OUT_MIN octets of room, else the action is FLUSH. */
struct smtp_action smtp_step(struct smtp *s, struct span *in, struct buf *out);

/* TLS is up: the peer must greet again (RFC 3207, section 4.2). */
void smtp_tls_answer(struct smtp *s);

/* What became of a recipient or a message. Each is one reply, whose words are in replies.h. */
/* clang-format off */
#define SMTP_VERDICT_LIST(X)                                                        \
    X(OK,         "ok")         /* 250 2.1.5 for a recipient, 2.0.0 for a message */ \
    X(UNKNOWN,    "unknown")    /* 550 5.1.1 no such mailbox */                     \
    X(NO_RELAY,   "no-relay")   /* 550 5.7.1 not a domain of ours */                \
    X(SUSPENDED,  "suspended")  /* 550 5.2.1 mailbox is disabled */                 \
    X(OVER_QUOTA, "over-quota") /* 452 4.2.2 mailbox is full */                     \
    X(TOO_LARGE,  "too-large")  /* 552 5.3.4 larger than this mailbox takes */      \
    X(TOO_MANY,   "too-many")   /* 452 4.5.3 an alias that grows too large */       \
    X(FAULT,      "fault")      /* 451 4.3.0 try again */                           \
    X(BLOCKED,    "blocked")    /* 550 5.7.1 a block list has the client's address */ \
    X(TOO_FAST,   "too-fast")   /* 450 4.7.1 a limit of rate or guesses */          \
    X(FILTERED,   "filtered")   /* what smtp_custom_reply said */                   \
    X(NO_MEMORY,  "no-memory")  /* 452 4.3.1 no room for the message now */         \
    X(DISCARDED,  "discarded")  /* as OK, but nothing is kept */                     \
    X(QUOTA_REJECT, "quota-reject") /* 552 5.2.2 as OVER_QUOTA, by quota.full */      \
    X(DOMAIN_FULL, "domain-full")   /* 452 4.2.2 what a domain may hold is used up */ \
    X(DOMAIN_REJECT, "domain-reject") /* 552 5.2.2 as DOMAIN_FULL, by quota.full */
/* clang-format on */

enum smtp_verdict {
#define X(name, word) SMTP_##name,
    SMTP_VERDICT_LIST(X)
#undef X
        SMTP_VERDICTS
};
/* The word, for logs. */
const char *smtp_verdict_text(enum smtp_verdict v);

/*
 * To be said before an answer. reply_text: what stands behind the words of BLOCKED or TOO_FAST, the
 * zone say; for one answer. custom_reply: the whole of FILTERED, until another one is said. It
 * comes from outside, so what can't be sent is mended: a code that is not 4xx or 5xx becomes 451,
 * an enhanced one that is none of the same class X.7.1, an octet that is not printable a question
 * mark; text is cut at 255. 421 also closes.
 */
void smtp_reply_text(struct smtp *s, struct span text);
void smtp_custom_reply(struct smtp *s, unsigned code, struct span enhanced, struct span text);

/* ok: 220, and the conversation begins anew; what is forgotten and what not is in smtp.c. Else 501,
 * for an address that is none. */
void smtp_xclient_answer(struct smtp *s, bool ok, struct buf *out);

/* OK: the transaction is open. */
void smtp_mail_answer(struct smtp *s, enum smtp_verdict v, struct buf *out);

void smtp_rcpt_answer(struct smtp *s, enum smtp_verdict v, struct buf *out);

/*
 * OK: go on, after DATA with 354. Else the transaction is over, with the refusal; after BDAT that
 * is said when the chunk has been eaten, and a RESET comes with it.
 */
void smtp_data_answer(struct smtp *s, enum smtp_verdict v, struct buf *out);

/*
 * SMTP: one verdict (n = 1). LMTP: one for each recipient that RCPT answered with OK, in their
 * order (checked). text is put behind a 250, the id of the message say; cut at 64 octets, may be
 * empty. What doesn't fit into out comes from the next smtp_step. The transaction is over.
 */
void smtp_end_answer(struct smtp *s, const enum smtp_verdict *v, size_t n, struct span text,
                     struct buf *out);

/*
 * A last line when the session ends the conversation while no action is open: 421 4.3.2 going down,
 * 421 4.4.2 too slow.
 */
void smtp_shutdown(struct smtp *s, struct buf *out);
void smtp_timeout(struct smtp *s, struct buf *out);

/* Of the open transaction; for the envelope and Received: (RFC 5321, section 4.4). */
const struct address *smtp_reverse_path(const struct smtp *s);
const struct address *smtp_rcpt(const struct smtp *s); /* of the open RCPT action */
struct span smtp_helo(const struct smtp *s); /* what the peer called itself; empty before EHLO */
bool smtp_esmtp(const struct smtp *s);       /* greeted with EHLO or LHLO */
bool smtp_utf8(const struct smtp *s);        /* MAIL said SMTPUTF8 */
uint64_t smtp_declared_size(const struct smtp *s); /* MAIL's SIZE=, 0 when not given */
/* MAIL's parameters as the client wrote them, for milters; how many. Valid as long as the
 * transaction, from the MAIL action on. */
size_t smtp_mail_parameters(const struct smtp *s, struct span words[PARAMETERS_MAIL_MAX]);

/* Of the session. */
unsigned smtp_errors(const struct smtp *s); /* since the last message that was delivered */
uint64_t smtp_chunks(const struct smtp *s); /* BDAT commands so far */

#endif
