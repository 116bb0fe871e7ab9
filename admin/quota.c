/*
 * quota: parsing and passing on; what they mean is in deploy/schema.
 */
#include "quota.h"

#define RETENTION_MOST 3650

bool retention_parse(const char *text, uint64_t *days)
{
    if (strcmp(text, "never") == 0) {
        *days = 0;
        return true;
    }
    if (span_u64(span_str(text), RETENTION_MOST, days) != ERR_OK || *days == 0) {
        admin_fail(EX_DATAERR, "%s: a number of days, 1 to %d, or never", text, RETENTION_MOST);
        return false;
    }
    return true;
}

static bool size_parse(const char *text, uint64_t *size)
{
    if (admin_parse_size(text, size) != ERR_OK) {
        admin_fail(EX_DATAERR, "%s: a number, with K, M, G or T, or none", text);
        return false;
    }
    return true;
}

bool quota_parse(const struct args *args, struct quota *out)
{
    static const enum arg which[QUOTA_COUNT] = { ARG_quota_octets, ARG_quota_messages, ARG_max_size,
                                                 ARG_retention };
    *out = (struct quota){ 0 };
    for (size_t i = 0; i < QUOTA_COUNT; i++) {
        const char *text = args->opt[which[i]];
        bool (*parse)(const char *, uint64_t *) =
            i == QUOTA_RETENTION ? retention_parse : size_parse;
        if (text && !parse(text, &out->value[i])) {
            return false;
        }
        out->given[i] = text != NULL;
    }
    return true;
}

bool quota_any(const struct quota *q)
{
    return q->given[QUOTA_OCTETS] || q->given[QUOTA_MESSAGES] || q->given[QUOTA_SIZE] ||
           q->given[QUOTA_RETENTION];
}

void quota_sql(const struct quota *q, struct pg_batch *b)
{
    for (size_t i = 0; i < QUOTA_COUNT; i++) {
        if (q->given[i]) {
            pg_i64(b, (int64_t)q->value[i]);
        } else {
            pg_null(b);
        }
    }
}
