/*
 * repair: pointers get the handles that their files were found by.
 *
 * A file whose handle is stale (its volume was restored or moved) or not known is found by its
 * path, which costs calls to the NAS at each reading. So its new handle is written to its pointer:
 * in the background, after the reading, a statement a mailbox, one at a time. It outlives the
 * session that read, and delays nobody.
 *
 * It is no promise. What does not fit, or fails, is dropped: the next reading brings it again. Only
 * the mailbox that was read is repaired, although others may name the same file. Owns what waits;
 * borrows the index, which must outlive it.
 */
#ifndef MAILFLEET_STORE_REPAIR_H
#define MAILFLEET_STORE_REPAIR_H

#include "base/maildrop.h"
#include "net/loop.h"
#include "store/index.h"

#define REPAIRS_MAX 1000 /* pointers that may wait; more are dropped */

struct repair_options {
    uint64_t gather_ms; /* from the first pointer that waits until the statements are sent */
    uint64_t pause_ms;  /* after a statement that failed */
};

struct repair;
struct repair *repair_open(struct loop *l, struct index *ix, const struct repair_options *o);
/* What waits is dropped; a statement that was sent ends by itself. */
void repair_close(struct repair **r);

/* Returns at once; everything is copied. handle: 1 to HANDLE_MAX octets. */
void repair_add(struct repair *r, uint64_t mailbox_id, const struct pointer *p, struct span handle);

#endif
