/*
 * usage: what the mailboxes of a domain hold together, summed into domain.usage_*. A row that every
 * delivery changed would be one queue for all of a domain, so totals are exact only when they were
 * summed: by each run of reap, by recount, and when a total is set. RCPT compares them.
 */
#ifndef MAILFLEET_ADMIN_USAGE_H
#define MAILFLEET_ADMIN_USAGE_H

#include "admin.h"

/*
 * Sums one domain (its name, without the @), and says what became of it to nobody: a node hears
 * whether the domain is full. EX_OK, or a code after a message; no such domain is EX_OK.
 */
int usage_refresh(struct admin *a, const char *domain);
/* Every domain, or those alone that have a total. */
int usage_refresh_all(struct admin *a, bool with_total_only);

#endif
