/*
 * smtp_reply: the replies of the SMTP engine: those of the table, those that the session or a
 * filter words, and the errors of the client that they count.
 *
 * smtp_step and the rules of SMTP_OUT_MIN see to it that there is room for each in out.
 */
#ifndef MAILFLEET_DELIVER_SMTP_REPLY_H
#define MAILFLEET_DELIVER_SMTP_REPLY_H

#include "smtp_state.h"

/* What was put into out had its room. */
void smtp_reply_must(enum err e);

void smtp_reply(enum reply r, struct buf *out);
/* subject: the address that the reply is about; detail: what stands behind the text. */
void smtp_reply_on(enum reply r, struct span subject, struct span detail, struct buf *out);

enum reply smtp_reply_of(enum smtp_verdict v);
bool smtp_reply_grants(enum smtp_verdict v);

/* The last reply: the conversation is over. */
void smtp_reply_close(struct smtp *s, enum reply r, enum smtp_close why, struct buf *out);
/* An error of the client; the last one closes. */
void smtp_reply_error(struct smtp *s, struct buf *out);

/* A refusal by the session, in its words or the filter's. */
void smtp_reply_refusal(struct smtp *s, enum reply r, struct span subject, struct buf *out);
/* The same of a sender or a recipient, which may be an error. */
void smtp_reply_address(struct smtp *s, enum reply r, struct span subject, struct buf *out);
/* The answer to a command has gone out: ends the conversation if it was a 421. */
void smtp_reply_hang_up(struct smtp *s);

/* The answer to a command that leads to no action; refuse: it is an error. */
enum smtp_action_kind smtp_reply_grant(enum reply r, struct buf *out);
enum smtp_action_kind smtp_reply_refuse(struct smtp *s, enum reply r, struct buf *out);

#endif
