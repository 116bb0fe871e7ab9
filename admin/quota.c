/*
 * quota: parsing and passing on; what they mean is in deploy/schema.
 */
#include "quota.h"

bool quota_parse(const struct args *args, struct quota *out)
{
    static const enum arg which[QUOTA_COUNT] = { ARG_quota_octets, ARG_quota_messages,
                                                 ARG_max_size };
    *out = (struct quota){ 0 };
    for (size_t i = 0; i < QUOTA_COUNT; i++) {
        const char *text = args->opt[which[i]];
        if (text && admin_parse_size(text, &out->value[i]) != ERR_OK) {
            admin_fail(EX_DATAERR, "%s: a number, with K, M, G or T, or none", text);
            return false;
        }
        out->given[i] = text != NULL;
    }
    return true;
}

bool quota_any(const struct quota *q)
{
    return q->given[QUOTA_OCTETS] || q->given[QUOTA_MESSAGES] || q->given[QUOTA_SIZE];
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
