/*
 * quota_rules: reads them. The parser of the configuration knows of quota.warn that it is a list;
 * that its words are per cents is known here.
 */
#include "store/quota_rules.h"

#include <stdio.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

enum err quota_rules_read(const struct config *c, struct quota_rules *out, char *why,
                          size_t why_size)
{
    struct quota_rules r = { .grace = (unsigned)c->quota_grace };
    for (size_t i = 0; i < c->quota_warn.n; i++) {
        uint64_t per_cent;
        if (r.n == QUOTA_WARN_MAX ||
            span_u64(span_str(c->quota_warn.v[i]), 100, &per_cent) != ERR_OK || per_cent == 0) {
            snprintf(why, why_size, "quota.warn: %s: not a per cent, 1 to 100", c->quota_warn.v[i]);
            return ERR_INVALID;
        }
        r.warn[r.n++] = (int64_t)per_cent;
    }
    qsort(r.warn, r.n, sizeof *r.warn, ascending);
    for (size_t i = 1; i < r.n; i++) {
        if (r.warn[i - 1] == r.warn[i]) {
            snprintf(why, why_size, "quota.warn: %lld is given twice", (long long)r.warn[i]);
            return ERR_INVALID;
        }
    }
    *out = r;
    return ERR_OK;
}
