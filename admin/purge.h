/*
 * purge: ends accounts whose time to come back is over: their messages go to the ledger, then their
 * rows go. A step of reap; may be killed anywhere, and any number may run at once.
 */
#ifndef MAILFLEET_ADMIN_PURGE_H
#define MAILFLEET_ADMIN_PURGE_H

#include "admin.h"

/* At most so many messages; says what it did, if anything. EX_OK, or a code after a message. */
int purge_accounts(struct admin *a, uint64_t most);
/* Says what purge_accounts would do now, if anything. */
int purge_count(struct admin *a);

#endif
