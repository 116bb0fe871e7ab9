/*
 * drain: how much of the mail lies on which volume, by a look at every pointer.
 */
#ifndef MAILFLEET_ADMIN_DRAIN_H
#define MAILFLEET_ADMIN_DRAIN_H

#include "admin.h"

struct volume_usage {
    uint16_t volume;
    uint64_t pointers;
    uint64_t octets; /* of their files; one that mailboxes share counts for each of them */
};

/* Of these volumes, in their order; the caller frees *out. EX_OK, or a code after a message. */
int volume_usage_read(struct admin *a, const struct volume *v, size_t n, struct volume_usage **out);

#endif
