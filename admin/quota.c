/*
 * quota: parsing and passing on; what they mean is in deploy/schema.
 */
#include "quota.h"

#define RETENTION_MOST 3650

static bool days_parse(const char *text, unsigned least, int64_t never, int64_t *days)
{
    uint64_t n;
    if (strcmp(text, "never") == 0) {
        *days = never;
        return true;
    }
    if (span_u64(span_str(text), RETENTION_MOST, &n) != ERR_OK || n < least) {
        admin_fail(EX_DATAERR, "%s: a number of days, %u to %d, or never", text, least,
                   RETENTION_MOST);
        return false;
    }
    *days = (int64_t)n;
    return true;
}

bool retention_parse(const char *text, int64_t *days)
{
    return days_parse(text, 1, 0, days);
}

bool read_retention_parse(const char *text, int64_t *days)
{
    return days_parse(text, 0, -1, days);
}

bool limit_parse(const char *text, uint64_t *limit)
{
    uint64_t n;
    if (admin_parse_size(text, &n) != ERR_OK || (n == 0 && strcmp(text, "none") != 0)) {
        admin_fail(EX_DATAERR, "%s: a number from 1, with K, M, G or T, or none", text);
        return false;
    }
    *limit = n;
    return true;
}

static bool size_parse(const char *text, int64_t *size)
{
    uint64_t n;
    if (!limit_parse(text, &n)) {
        return false;
    }
    *size = (int64_t)n;
    return true;
}

bool quota_parse(const struct args *args, struct quota *out)
{
    static const struct {
        enum arg option;
        bool (*parse)(const char *, int64_t *);
    } kinds[QUOTA_COUNT] = {
        [QUOTA_OCTETS] = { ARG_quota_octets, size_parse },
        [QUOTA_MESSAGES] = { ARG_quota_messages, size_parse },
        [QUOTA_SIZE] = { ARG_max_size, size_parse },
        [QUOTA_RETENTION] = { ARG_retention, retention_parse },
        [QUOTA_READ] = { ARG_read_retention, read_retention_parse },
    };
    *out = (struct quota){ 0 };
    for (size_t i = 0; i < QUOTA_COUNT; i++) {
        const char *text = args->opt[kinds[i].option];
        if (text && !kinds[i].parse(text, &out->value[i])) {
            return false;
        }
        out->given[i] = text != NULL;
    }
    return true;
}

bool quota_any(const struct quota *q)
{
    for (size_t i = 0; i < QUOTA_COUNT; i++) {
        if (q->given[i]) {
            return true;
        }
    }
    return false;
}

void quota_sql(const struct quota *q, struct pg_batch *b)
{
    for (size_t i = 0; i < QUOTA_COUNT; i++) {
        if (q->given[i]) {
            pg_i64(b, q->value[i]);
        } else {
            pg_null(b);
        }
    }
}
