/*
 * quota_rules: what the settings quota.* say of every mailbox: how far the limits may be passed,
 * and at which thresholds the owner is warned. A value; owns nothing. What they mean is in
 * deploy/schema: room(), deliver().
 */
#ifndef MAILFLEET_STORE_QUOTA_RULES_H
#define MAILFLEET_STORE_QUOTA_RULES_H

#include "base/config.h"

#define QUOTA_WARN_MAX 8 /* thresholds: as many as the setting has words */

struct quota_rules {
    unsigned grace; /* per cent */
    size_t n;
    int64_t warn[QUOTA_WARN_MAX]; /* per cent, ascending, all different */
};

/* ERR_INVALID: a threshold is none; why is one line. */
enum err quota_rules_read(const struct config *c, struct quota_rules *out, char *why,
                          size_t why_size);

#endif
