/*
 * deletions: what the front-ends' logs say was deleted: the ledger's copy outside the database. A
 * database that was restored to an earlier point does not know of deletions after it; the logs do.
 *
 * It reads lines `TIME LEVEL pop3.deleted ... sid=SID mailbox=N ids=ID,ID,...` of our own logs
 * (log_lines.h), and passes over all else. What is kept is 32 octets a deletion.
 */
#ifndef MAILFLEET_ADMIN_DELETIONS_H
#define MAILFLEET_ADMIN_DELETIONS_H

#include "admin.h"

struct deletions;

void deletions_free(struct deletions **d);

/* A file of lines, a folder of them, or - for standard input; those before since_ms (0: none) are
 * passed over. NULL: no deletions. EX_OK, or a code after a message. */
int deletions_read(const char *path, int64_t since_ms, struct deletions **out);

/* Who deleted this, for the ledger (`restore: pop3 SID`); false: nobody that the log knows. */
bool deletions_find(const struct deletions *d, uint64_t mailbox_id, const struct blob_id *id,
                    char who[64]);
/*
 * Deletes again: the pointers that the database has and the log says were deleted go to the
 * ledger. Without yes it only counts them. EX_OK, or a code after a message.
 */
int deletions_repeat(struct admin *a, struct deletions *d, bool yes, uint64_t *n);

#endif
