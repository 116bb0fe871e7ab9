/*
 * transaction: the bookkeeping behind RCPT and behind LMTP's one reply a recipient. Owns the
 * copies of all addresses; says nothing and looks nothing up.
 */
#include "transaction.h"

#include <stdlib.h>

#include "base/check.h"

static size_t find_mailbox(const struct transaction *t, uint64_t mailbox_id)
{
    size_t i = 0;
    while (i < t->n && t->mailboxes[i].mailbox_id != mailbox_id) {
        i++;
    }
    return i;
}

static void add_member(struct transaction *t, struct route_mailbox *m)
{
    size_t i = find_mailbox(t, m->mailbox_id);
    if (i == t->n) {
        t->mailboxes = mem_grow(t->mailboxes, t->n + 1, sizeof *t->mailboxes);
        t->mailboxes[t->n++] = (struct envelope_recipient){ .mailbox_id = m->mailbox_id,
                                                            .address = span_str(m->address) };
        m->address = NULL; /* owned by the transaction now */
    }
    t->members[t->n_members++] = i;
}

enum err transaction_add(struct transaction *t, const struct address *rcpt,
                         struct route_mailbox **m, size_t n, size_t max)
{
    size_t fresh = 0;
    for (size_t i = 0; i < n; i++) {
        fresh += find_mailbox(t, (*m)[i].mailbox_id) == t->n;
    }
    if (t->n + fresh > max) {
        return ERR_LIMIT;
    }
    t->rcpts = mem_grow(t->rcpts, t->n_rcpts + 1, sizeof *t->rcpts);
    t->rcpts[t->n_rcpts++] = (struct transaction_rcpt){ .first = t->n_members, .n = n };
    t->members = mem_grow(t->members, t->n_members + n, sizeof *t->members);
    for (size_t i = 0; i < n; i++) {
        add_member(t, &(*m)[i]);
    }
    route_free(m, n);
    free(t->only);
    t->only = t->n_rcpts == 1 ? mem_strdup(rcpt->text) : NULL;
    return ERR_OK;
}

void transaction_reset(struct transaction *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free((void *)(uintptr_t)t->mailboxes[i].address.p);
    }
    free(t->mailboxes);
    free(t->rcpts);
    free(t->members);
    free(t->only);
    *t = (struct transaction){ 0 };
}

static enum smtp_verdict verdict_of(enum room room)
{
    switch (room) {
    case ROOM_OK:
        return SMTP_OK;
    case ROOM_OVER_QUOTA:
        return SMTP_OVER_QUOTA;
    case ROOM_TOO_LARGE:
        return SMTP_TOO_LARGE;
    case ROOM_SUSPENDED:
    case ROOM_GONE: /* since RCPT: the next try hears it there */
        return SMTP_FAULT;
    }
    UNREACHABLE();
}

enum smtp_verdict transaction_verdict(const struct transaction *t, size_t rcpt,
                                      const enum room *room)
{
    const struct transaction_rcpt *r = &t->rcpts[rcpt];
    enum smtp_verdict v = SMTP_OK;
    for (size_t i = r->first; i < r->first + r->n && v == SMTP_OK; i++) {
        v = verdict_of(room[t->members[i]]);
    }
    return v;
}
