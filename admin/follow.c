/*
 * follow: see the header. A page of addresses is copied, as the next statement ends its results.
 */
#include "follow.h"

#include <stdlib.h>

#include "base/check.h"

#define AT_ONCE 250 /* mailboxes in one transaction, and so tombstones around it */

struct member {
    int64_t mailbox;
    char *address;
};

static struct member *take_page(struct admin *a, size_t *n)
{
    const PGresult *r = admin_result(a, 0);
    struct member *m = NEW_ARRAY(struct member, (size_t)PQntuples(r) + 1);
    *n = 0;
    for (int i = 0; i < PQntuples(r); i++) {
        if (!PQgetisnull(r, i, 1)) { /* else an alias, or the domain's own row */
            m[(*n)++] = (struct member){ .mailbox = pg_get_i64(r, i, 1),
                                         .address = span_dup(pg_get_span(r, i, 0)) };
        }
    }
    return m;
}

static void forget_page(struct member *m, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(m[i].address);
    }
    free(m);
}

static void add_members(struct admin *a, const struct member *m, size_t n,
                        const struct retention *r)
{
    int64_t boxes[AT_ONCE];
    for (size_t i = 0; i < n; i++) {
        boxes[i] = m[i].mailbox;
    }
    pg_i64s(a->batch, boxes, n);
    pg_i64(a->batch, r->days);
    pg_i64(a->batch, r->read_days);
}

static int count(struct admin *a, const struct member *m, size_t n, const struct retention *r,
                 uint64_t *out)
{
    admin_sql(a,
              "SELECT count(*) FROM mailbox WHERE mailbox_id = ANY ($1) AND "
              "(NOT own_retention AND retention_days <> $2 OR NOT own_read AND read_days <> $3)");
    add_members(a, m, n, r);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "mailboxes");
    }
    *out = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    return EX_OK;
}

static int change(struct admin *a, const struct member *m, size_t n, const struct retention *r)
{
    struct cache_key keys[AT_ONCE];
    for (size_t i = 0; i < n; i++) {
        keys[i] = (struct cache_key){ .kind = CACHE_ADDRESS, .address = span_str(m[i].address) };
    }
    admin_sql(a, "SELECT follow_domain($1, $2, $3)");
    add_members(a, m, n, r);
    return admin_run_change(a, keys, n) == ERR_OK ? EX_OK : admin_fail_reply(a, "mailboxes");
}

int follow_domain(struct admin *a, const char *domain, const struct retention *r, bool really,
                  uint64_t *n)
{
    struct address_walk w = { .domain = domain };
    int code = EX_OK;
    *n = 0;
    while (code == EX_OK && !w.ended && (code = admin_addresses(a, &w)) == EX_OK) {
        size_t members;
        struct member *m = take_page(a, &members);
        for (size_t at = 0; code == EX_OK && at < members; at += AT_ONCE) {
            size_t some = members - at < AT_ONCE ? members - at : AT_ONCE;
            uint64_t others = 0;
            code = count(a, m + at, some, r, &others);
            *n += others;
            if (code == EX_OK && really && others > 0) {
                code = change(a, m + at, some, r);
            }
        }
        forget_page(m, members);
    }
    return code;
}
