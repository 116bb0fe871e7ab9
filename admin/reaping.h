/*
 * reaping: whether files may be unlinked at all. A restored database is older than the spool: what
 * it says about a file may have been overtaken (an undelete, a move to another volume). So reapers
 * stop by themselves when the database's timeline changes, and an operator lets them run again.
 */
#ifndef MAILFLEET_ADMIN_REAPING_H
#define MAILFLEET_ADMIN_REAPING_H

#include "admin.h"

/* EX_OK: they may. EX_TEMPFAIL: they may not, or it could not be found out; *why says it. */
int reaping_state(struct admin *a, char *why, size_t size);
/* The same, with the reason told on standard error. */
int reaping_allowed(struct admin *a);
/* EX_OK: no rebuild is under way, so counts and pointers are whole; or a code after a message. */
int reaping_rebuilt(struct admin *a);

#endif
