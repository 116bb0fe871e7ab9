/*
 * follow: accounts without a retention of their own have their domain's. The value stands in the
 * mailbox's row, where deliveries, sessions and expire() look for it; so when a domain's changes,
 * the rows of these accounts are changed after it, page by page. What was killed is run again.
 */
#ifndef MAILFLEET_ADMIN_FOLLOW_H
#define MAILFLEET_ADMIN_FOLLOW_H

#include "admin.h"

struct retention {
    int64_t days, read_days; /* as the row of the domain has them */
};

/*
 * The accounts of a domain that follow it and have another retention than this: counts them and,
 * if asked to, changes them. EX_OK, or a code after a message.
 */
int follow_domain(struct admin *a, const char *domain, const struct retention *r, bool change,
                  uint64_t *n);

#endif
