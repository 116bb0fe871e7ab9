/*
 * pop3_reply: what the POP3 engine says, put into out. It never fails: a step begins with
 * POP3_OUT_MIN octets of room, and no single reply is as long.
 */
#ifndef MAILFLEET_FRONTEND_POP3_REPLY_H
#define MAILFLEET_FRONTEND_POP3_REPLY_H

#include "base/buffer.h"

#define POP3_REPLY_FAULT "[SYS/TEMP] something is down here, try again later"

void pop3_reply_put(struct buf *out, struct span s);
void pop3_reply_text(struct buf *out, const char *s);
void pop3_reply_number(struct buf *out, uint64_t n);

/* A line each. */
void pop3_reply_ok(struct buf *out, const char *text);
void pop3_reply_err(struct buf *out, const char *text);

#endif
