/*
 * expire: moves to the ledger what is older than its mailbox keeps it, or was read longer ago: the
 * first step of reap.
 * Files stay until their grace is over, so a session that is reading reads on.
 */
#ifndef MAILFLEET_ADMIN_EXPIRE_H
#define MAILFLEET_ADMIN_EXPIRE_H

#include "admin.h"

/* At most so many messages; *n grows by how many. EX_OK, or a code after a message. */
int expire_messages(struct admin *a, uint64_t most, uint64_t *n);
/* How many messages expire_messages would move now. */
int expire_count(struct admin *a, uint64_t *n);

#endif
