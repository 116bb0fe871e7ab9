/*
 * route: which mailboxes an address leads to.
 *
 * Exact address first, then without its +tag, then the domain's catch-all; aliases are followed
 * through any depth. One copy a mailbox, however many paths lead to it. Who has no room or is
 * suspended is told here too, so that RCPT can answer it.
 */
#ifndef MAILFLEET_DELIVER_ROUTE_H
#define MAILFLEET_DELIVER_ROUTE_H

#include "smtp.h"
#include "store/store.h"

struct route_mailbox {
    uint64_t mailbox_id;
    char *address; /* canonical, of its account */
};

struct route_options {
    const char *hostname; /* the domain of a bare <postmaster> */
    char separator;       /* of the tag; 0: none */
    uint64_t size;        /* as declared by MAIL, 0 when not */
    size_t max;           /* addresses that one route may meet */
};

/*
 * OK: n mailboxes, at least one; the array is the callee's if it nulls it (route_free). Any other
 * verdict: none. An alias is refused when one of its mailboxes is full: there is nobody to tell
 * later. Its suspended or removed ones are left out.
 */
typedef void route_fn(void *arg, enum smtp_verdict v, struct route_mailbox **mailboxes, size_t n);
struct op *route_resolve(struct store *s, const struct address *a, const struct route_options *o,
                         route_fn *done, void *arg);
void route_free(struct route_mailbox **mailboxes, size_t n);

#endif
