/*
 * rebuild_accounts: the accounts of a new database: from a dump, and, where that has none or there
 * is no dump, from the envelopes, locked.
 *
 * All of it may be repeated: what is there already stays as it is.
 */
#ifndef MAILFLEET_ADMIN_REBUILD_ACCOUNTS_H
#define MAILFLEET_ADMIN_REBUILD_ACCOUNTS_H

#include "rebuild_scan.h"

struct dump_sum {
    uint64_t accounts, lines;
    int64_t sequence; /* highest mailbox that the lost database had given out */
};

/* Reads a dump to its end and refuses what makes no sense; changes nothing. Volumes of it that are
 * not registered are an error. EX_OK, or a code after a message. */
int rebuild_check_dump(struct admin *a, const char *file, struct dump_sum *sum);
/* Makes what it says. */
int rebuild_load_dump(struct admin *a, const char *file);

/* Mailboxes of a day, ascending. */
struct day_boxes {
    int64_t *id;
    size_t n;
};

/*
 * The mailboxes that the messages of a day belong to, in *out, which the caller frees: those that
 * are there, and those that were made now; without the removed ones. *made grows by how many.
 */
int rebuild_mailboxes(struct admin *a, const struct scanned *v, size_t n, struct day_boxes *out,
                      uint64_t *made);
bool day_boxes_has(const struct day_boxes *b, uint64_t mailbox_id);

#endif
