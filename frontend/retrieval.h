/*
 * retrieval: the reply to RETR or TOP, made of the pieces of a message as they come: +OK and the
 * message, dot-stuffed and ended, or -ERR (RFC 1939; RFC 6856, section 2.1; RFC 6858).
 *
 * The first piece that is not empty decides which. An internationalized message is converted for a
 * client that has not said UTF8 (downgrade.h), or refused. It knows no command and no maildrop, and
 * owns no memory; one owner, who embeds it: the engine.
 */
#ifndef MAILFLEET_FRONTEND_RETRIEVAL_H
#define MAILFLEET_FRONTEND_RETRIEVAL_H

#include "base/buffer.h"
#include "proto/dot.h"

struct retrieval {
    struct dot_encoder dot;
    uint64_t size;    /* as it is stored, and as LIST has it */
    uint64_t fetched; /* octets of it so far */
    bool top;
    bool utf8;      /* the client takes it as it is */
    bool begun;     /* +OK has been said, or -ERR */
    bool converted; /* the last piece began a converted message */
    bool whole;     /* the last piece was its end, and all of it is in out */
};

void retrieval_retr(struct retrieval *r, uint64_t size, bool utf8);
/* The header and so many lines. */
void retrieval_top(struct retrieval *r, uint64_t lines, uint64_t size, bool utf8);

enum retrieval_next {
    RETRIEVAL_MORE,    /* the next piece is wanted */
    RETRIEVAL_SENT,    /* that was the end */
    RETRIEVAL_REFUSED, /* -ERR was said, and no more comes */
    RETRIEVAL_STOP,    /* no more is wanted, though there is more to come */
    RETRIEVAL_BROKEN   /* a fault in its middle: nothing can be said */
};

/* See pop3_fetch_answer: the piece is borrowed, out has room for twice as much and POP3_OUT_MIN. */
enum retrieval_next retrieval_piece(struct retrieval *r, enum err e, struct span piece, bool last,
                                    struct buf *out);

#endif
