/*
 * transaction: who the open mail transaction is for.
 *
 * Each RCPT that was accepted leads to one or more mailboxes; a mailbox that several lead to is
 * kept once. Embedded in the session; no I/O.
 */
#ifndef MAILFLEET_DELIVER_TRANSACTION_H
#define MAILFLEET_DELIVER_TRANSACTION_H

#include "route.h"
#include "smtp.h"

struct transaction_rcpt {
    size_t first; /* of its members */
    size_t n;
};

struct transaction {
    struct envelope_recipient *mailboxes; /* different ones; addresses are owned */
    size_t n;
    struct transaction_rcpt *rcpts; /* in the order of RCPT */
    size_t n_rcpts;
    size_t *members; /* indices into mailboxes, a run for each of rcpts */
    size_t n_members;
    char *only; /* the forward-path when there was one RCPT, as the peer wrote it */
};

/*
 * Takes the mailboxes that one accepted RCPT leads to (nulls *m). ERR_LIMIT, and unchanged, when
 * there would be more than max different ones.
 */
enum err transaction_add(struct transaction *t, const struct address *rcpt,
                         struct route_mailbox **m, size_t n, size_t max);
/* Empty again. */
void transaction_reset(struct transaction *t);

/* What one RCPT is told at the end of data: the worst of its mailboxes, so that nothing is lost. */
enum smtp_verdict transaction_verdict(const struct transaction *t, size_t rcpt,
                                      const enum room *room);

#endif
