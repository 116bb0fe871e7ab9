/*
 * smtp_state: what the files of the SMTP engine share: the state of a conversation and its phases.
 * It is no business of anybody else's: they have smtp.h.
 *
 * smtp.c owns it: one line, one decoded piece of a message and the envelope of the open
 * transaction, all of them bounded.
 */
#ifndef MAILFLEET_DELIVER_SMTP_STATE_H
#define MAILFLEET_DELIVER_SMTP_STATE_H

#include "hops.h"
#include "proto/dot.h"
#include "proto/line.h"
#include "replies.h"
#include "smtp.h"

/*
 * Commands that bring no message nearer, such as NOOP and RSET, between two messages: each further
 * one is an error. A client that keeps a connection warm needs fewer.
 */
#define IDLE_COMMANDS_MAX 100

#define RECEIPT_MAX 64  /* octets of the text behind a 250 */
#define DETAIL_MAX  128 /* octets behind the words of a refusal */
#define TEXT_MAX    255 /* octets of a refusal that a filter words */

/* The first five are those that commands are read in. */
enum phase {
    PHASE_NEW,       /* not greeted, or TLS came up since */
    PHASE_IDLE,      /* no transaction */
    PHASE_MAIL,      /* a sender, no recipient */
    PHASE_RCPT,      /* at least one recipient */
    PHASE_CHUNKS,    /* between two chunks of a message */
    PHASE_DATA,      /* inside the message */
    PHASE_CHUNK,     /* inside a chunk, to be kept or not */
    PHASE_CHUNK_END, /* it is complete; as the next */
    PHASE_END,       /* the message is complete; its last piece may have gone out just now */
    PHASE_REPLIES,   /* the replies to the message are going out */
    PHASE_CLOSED
};

struct chunk {
    uint64_t size, left;
    bool last;
    enum phase from; /* where its command came */
};

/* A refusal that a filter worded. */
struct custom {
    unsigned code; /* 0: none yet */
    char enhanced[12];
    char text[TEXT_MAX + 1];
};

struct smtp {
    struct smtp_options o;
    enum phase phase;
    enum smtp_action_kind open; /* waits for its answer; SMTP_NEED_INPUT when none does */
    enum smtp_close close;
    struct line line;
    bool spoken; /* the client, at all */
    bool tls;
    bool esmtp;
    char helo[DOMAIN_MAX + 1];
    struct smtp_xclient *xclient; /* NULL: nothing was said */
    struct smtp_xclient *claimed; /* of the open XCLIENT action */
    unsigned errors;              /* these two since the last message that was delivered */
    unsigned idle_commands;
    unsigned messages; /* MAIL commands of the session */
    uint64_t chunks;   /* BDAT commands of the session */

    struct address from;
    struct parameters parameters;
    char *words;         /* MAIL's parameters; NULL without any */
    struct address rcpt; /* of the open RCPT action */
    unsigned recipients; /* that were answered with OK */

    bool chunked; /* the message comes by BDAT */
    struct chunk chunk;
    struct dot_decoder dot;
    struct hops hops;
    struct buf piece;   /* of the message, decoded */
    uint64_t size;      /* of the message so far */
    enum reply refusal; /* of the message, whatever it is like; OK when none */

    unsigned char *outcome; /* an enum reply for each reply that the message gets */
    size_t replied;
    char receipt[RECEIPT_MAX + 1];

    char detail[DETAIL_MAX + 1];
    struct custom custom;
    bool hang_up; /* the filter's reply was a 421 */
};

/* The transaction is over. */
void smtp_state_end(struct smtp *s);
/* Ends one that the session has not ended by an answer of its own, and says so by the action. */
enum smtp_action_kind smtp_state_abandon(struct smtp *s);

#endif
