/*
 * quota: what bounds a mailbox, as options say it: three limits, how long mail is kept, and how
 * long after it was read.
 */
#ifndef MAILFLEET_ADMIN_QUOTA_H
#define MAILFLEET_ADMIN_QUOTA_H

#include "admin.h"
#include "args.h"

enum { QUOTA_OCTETS, QUOTA_MESSAGES, QUOTA_SIZE, QUOTA_RETENTION, QUOTA_READ, QUOTA_COUNT };

struct quota {
    bool given[QUOTA_COUNT];
    int64_t value[QUOTA_COUNT]; /* 0 is none; of retention days, 0 is for ever; of days after
                                   reading, -1 is none */
};

/* False after a message. */
bool quota_parse(const struct args *args, struct quota *out);
bool quota_any(const struct quota *q);
/* `2G`, or `none`, which is 0; a 0 is refused, as it could mean either. False after a message. */
bool limit_parse(const char *text, uint64_t *limit);
/* `30` or `never`, which is 0; false after a message. */
bool retention_parse(const char *text, int64_t *days);
/* `0`, `30` or `never`, which is -1; false after a message. */
bool read_retention_parse(const char *text, int64_t *days);
/* Adds the five as arguments: the given value, or NULL where the statement keeps what is. */
void quota_sql(const struct quota *q, struct pg_batch *b);

#endif
