/*
 * quota: the three limits of a mailbox as options say them.
 */
#ifndef MAILFLEET_ADMIN_QUOTA_H
#define MAILFLEET_ADMIN_QUOTA_H

#include "admin.h"
#include "args.h"

enum { QUOTA_OCTETS, QUOTA_MESSAGES, QUOTA_SIZE, QUOTA_COUNT };

struct quota {
    bool given[QUOTA_COUNT];
    uint64_t value[QUOTA_COUNT]; /* 0 is none */
};

/* False after a message. */
bool quota_parse(const struct args *args, struct quota *out);
bool quota_any(const struct quota *q);
/* Adds the three as arguments: the given value, or NULL where the statement keeps what is. */
void quota_sql(const struct quota *q, struct pg_batch *b);

#endif
