/*
 * usage: a walk along the addresses of a domain, a page at a time, that adds up the counters of
 * their mailboxes. Each page is a moment of its own: what is delivered or deleted meanwhile is in
 * the sum or not. Any number may run at once, and one that is killed leaves the last sum.
 *
 * The entry `@domain` tells the nodes whether it is full: when that changes it goes out of the
 * cache with the sum.
 */
#include "usage.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define DOMAINS_PAGE 500

/* As lookup() of the schema has it. */
#define IS_FULL                                                                                    \
    "(total_octets > 0 AND usage_octets >= total_octets"                                           \
    " OR total_messages > 0 AND usage_messages >= total_messages)"

struct sum {
    int64_t octets, messages;
};

/* The mailboxes among a page of addresses, which are the last results. */
static int add_page(struct admin *a, struct sum *sum)
{
    int64_t ids[ADDRESS_PAGE];
    size_t n = 0;
    for (int i = 0; i < admin_rows(a, 0); i++) {
        if (!PQgetisnull(admin_result(a, 0), i, 1)) {
            ids[n++] = pg_get_i64(admin_result(a, 0), i, 1);
        }
    }
    admin_sql(a, "SELECT coalesce(sum(octets), 0)::bigint, coalesce(sum(msgs), 0)::bigint"
                 "  FROM mailbox WHERE mailbox_id = ANY ($1)");
    pg_i64s(a->batch, ids, n);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "mailboxes");
    }
    sum->octets += pg_get_i64(admin_result(a, 0), 0, 0);
    sum->messages += pg_get_i64(admin_result(a, 0), 0, 1);
    return EX_OK;
}

static int add_up(struct admin *a, const char *domain, struct sum *sum)
{
    struct address_walk w = { .domain = domain };
    int code = EX_OK;
    *sum = (struct sum){ 0 };
    while (code == EX_OK && !w.ended) {
        code = admin_addresses(a, &w);
        if (code == EX_OK) {
            code = add_page(a, sum);
        }
    }
    return code;
}

/* *was, *is: whether it is full by the sum that is noted, and by this one. */
static int compare(struct admin *a, const char *domain, const struct sum *sum, bool *was, bool *is)
{
    admin_sql(a, "SELECT " IS_FULL ", total_octets > 0 AND $2 >= total_octets"
                 " OR total_messages > 0 AND $3 >= total_messages FROM domain WHERE name = $1");
    pg_text(a->batch, span_str(domain));
    pg_i64(a->batch, sum->octets);
    pg_i64(a->batch, sum->messages);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, domain);
    }
    *was = *is = false;
    if (admin_rows(a, 0) > 0) {
        *was = pg_get_i64(admin_result(a, 0), 0, 0) != 0;
        *is = pg_get_i64(admin_result(a, 0), 0, 1) != 0;
    }
    return EX_OK;
}

static int note(struct admin *a, const char *domain, const struct sum *sum, bool changes)
{
    char at[DOMAIN_MAX + 2];
    snprintf(at, sizeof at, "@%s", domain);
    const struct cache_key key = { .kind = CACHE_ADDRESS, .address = span_str(at) };
    admin_sql(a, "UPDATE domain SET usage_octets = $2, usage_messages = $3, usage_at = ms_time($4)"
                 " WHERE name = $1");
    pg_text(a->batch, span_str(domain));
    pg_i64(a->batch, sum->octets);
    pg_i64(a->batch, sum->messages);
    pg_i64(a->batch, admin_now());
    enum err e = changes ? admin_run_change(a, &key, 1) : admin_run(a, PG_WRITE);
    return e == ERR_OK ? EX_OK : admin_fail_reply(a, domain);
}

int usage_refresh(struct admin *a, const char *domain)
{
    struct sum sum;
    bool was = false;
    bool is = false;
    int code = add_up(a, domain, &sum);
    if (code == EX_OK) {
        code = compare(a, domain, &sum, &was, &is);
    }
    return code == EX_OK ? note(a, domain, &sum, was != is) : code;
}

struct names {
    char v[DOMAINS_PAGE][DOMAIN_MAX + 1];
    int n;
};

/* The next domains after the last of them. */
static int next_names(struct admin *a, bool with_total_only, struct names *names)
{
    const char *last = names->n > 0 ? names->v[names->n - 1] : "";
    admin_sql(a,
              "SELECT name FROM domain WHERE name > $1"
              "   AND (NOT $2 OR total_octets > 0 OR total_messages > 0) ORDER BY name LIMIT $3");
    pg_text(a->batch, span_str(last));
    pg_bool(a->batch, with_total_only);
    pg_i64(a->batch, DOMAINS_PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "domains");
    }
    names->n = admin_rows(a, 0);
    for (int i = 0; i < names->n; i++) {
        snprintf(names->v[i], sizeof names->v[i], "%.*s",
                 SPAN_ARG(pg_get_span(admin_result(a, 0), i, 0)));
    }
    return EX_OK;
}

int usage_refresh_all(struct admin *a, bool with_total_only)
{
    struct names *names = NEW(struct names);
    int code;
    do {
        code = next_names(a, with_total_only, names);
        for (int i = 0; i < names->n && code == EX_OK; i++) {
            code = usage_refresh(a, names->v[i]);
        }
    } while (code == EX_OK && names->n == DOMAINS_PAGE);
    free(names);
    return code;
}
