/*
 * domain: the domains that mail is taken for. A domain is a row of domain, with the limits of new
 * accounts and the retention of all that have none of their own, and the row `@name` of address,
 * which RCPT looks up and which holds the catch-all.
 *
 * Domains are `@name` in this file, and name is what follows the first character.
 */
#include "base/check.h"
#include "commands.h"
#include "follow.h"
#include "quota.h"
#include "table.h"
#include "usage.h"

static int change_domain(struct admin *a, const char *at)
{
    struct cache_key key = { .kind = CACHE_ADDRESS, .address = span_str(at) };
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, at + 1);
    }
    return EX_OK;
}

/* What all mailboxes of a domain may hold together. */
struct totals {
    bool octets_given, messages_given;
    uint64_t octets, messages; /* 0 is none */
};

static bool total_parse(const char *text, bool *given, uint64_t *out)
{
    *given = text != NULL;
    return !text || limit_parse(text, out);
}

static bool totals_parse(const struct args *args, struct totals *out)
{
    *out = (struct totals){ 0 };
    return total_parse(args->opt[ARG_total_octets], &out->octets_given, &out->octets) &&
           total_parse(args->opt[ARG_total_messages], &out->messages_given, &out->messages);
}

static bool totals_any(const struct totals *t)
{
    return t->octets_given || t->messages_given;
}

/* A statement of the batch that is made: what was not given stays. */
static void totals_sql(struct admin *a, const char *at, const struct totals *t)
{
    admin_sql(a, "UPDATE domain SET total_octets = coalesce($2::bigint, total_octets), "
                 "total_messages = coalesce($3::bigint, total_messages) WHERE name = $1");
    pg_text(a->batch, span_str(at + 1));
    t->octets_given ? pg_i64(a->batch, (int64_t)t->octets) : pg_null(a->batch);
    t->messages_given ? pg_i64(a->batch, (int64_t)t->messages) : pg_null(a->batch);
}

struct catch_all {
    bool none;
    struct address target;
};

/* A catch-all that leads out of our domains would reject what it is meant to catch. */
static int parse_catch_all(struct admin *a, const struct args *args, const char *at,
                           struct catch_all *out)
{
    const char *text = args->opt[ARG_catch_all];
    out->none = !text || strcmp(text, "none") == 0;
    if (out->none) {
        return EX_OK;
    }
    if (!admin_address(text, &out->target)) {
        return EX_DATAERR;
    }
    if (strcmp(out->target.canon + out->target.canon_local, at) == 0) {
        return EX_OK; /* this domain itself, which is not there yet when it is added */
    }
    return admin_check_domains(a, &out->target, 1);
}

/* As one argument: an array of one, or NULL for none. */
static void catch_all_sql(const struct catch_all *c, struct pg_batch *b)
{
    struct span target = span_str(c->target.canon);
    if (c->none) {
        pg_null(b);
    } else {
        pg_texts(b, &target, 1);
    }
}

int command_domain_add(struct admin *a, const struct args *args)
{
    char at[DOMAIN_MAX + 2];
    struct quota q;
    struct totals t;
    struct catch_all c;
    if (!admin_domain(args->v[0], at) || !quota_parse(args, &q) || !totals_parse(args, &t)) {
        return EX_DATAERR;
    }
    int code = parse_catch_all(a, args, at, &c);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "INSERT INTO domain (name, max_octets, max_messages, max_size, retention_days, "
                 "read_days) VALUES ($1, coalesce($2::bigint, 0), coalesce($3::bigint, 0), "
                 "coalesce($4::bigint, 0), coalesce($5::bigint, 0), coalesce($6::bigint, -1))");
    pg_text(a->batch, span_str(at + 1));
    quota_sql(&q, a->batch);
    admin_sql(a, "INSERT INTO address (addr, domain, targets) VALUES ($1, $2, $3)");
    pg_text(a->batch, span_str(at));
    pg_text(a->batch, span_str(at + 1));
    catch_all_sql(&c, a->batch);
    totals_sql(a, at, &t);
    return change_domain(a, at);
}

#define FOLLOWED (-1) /* there are accounts that would follow, and nothing is to be done */

static bool changes_retention(const struct quota *q)
{
    return q->given[QUOTA_RETENTION] || q->given[QUOTA_READ];
}

/* Before it is changed, how many accounts would follow; then they do. */
static int let_follow(struct admin *a, const struct args *args, const char *at,
                      const struct quota *q, bool change)
{
    uint64_t n;
    admin_sql(a, "SELECT coalesce($2::bigint, retention_days), coalesce($3::bigint, read_days) "
                 "FROM domain WHERE name = $1");
    pg_text(a->batch, span_str(at + 1));
    q->given[QUOTA_RETENTION] ? pg_i64(a->batch, q->value[QUOTA_RETENTION]) : pg_null(a->batch);
    q->given[QUOTA_READ] ? pg_i64(a->batch, q->value[QUOTA_READ]) : pg_null(a->batch);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, at + 1);
    }
    if (admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", at + 1);
    }
    const struct retention r = { .days = pg_get_i64(admin_result(a, 0), 0, 0),
                                 .read_days = pg_get_i64(admin_result(a, 0), 0, 1) };
    int code = follow_domain(a, at + 1, &r, change, &n);
    if (code == EX_OK && n > 0 && change) {
        admin_say("%llu account%s without a retention of its own follow%s", (unsigned long long)n,
                  admin_plural(n), n == 1 ? "s" : "");
    } else if (code == EX_OK && n > 0 &&
               !args_yes(args,
                         "change it, and the retention of %llu account%s that ha%s none of "
                         "its own",
                         (unsigned long long)n, admin_plural(n), n == 1 ? "s" : "ve")) {
        return FOLLOWED;
    }
    return code;
}

int command_domain_set(struct admin *a, const struct args *args)
{
    char at[DOMAIN_MAX + 2];
    struct quota q;
    struct totals t;
    struct catch_all c;
    if (!admin_domain(args->v[0], at) || !quota_parse(args, &q) || !totals_parse(args, &t)) {
        return EX_DATAERR;
    }
    if (!quota_any(&q) && !totals_any(&t) && !args->opt[ARG_catch_all]) {
        return admin_fail(EX_USAGE, "nothing to change: see mailfleet domain set --help");
    }
    int code = parse_catch_all(a, args, at, &c);
    if (code == EX_OK && changes_retention(&q) && !args->opt[ARG_yes]) {
        code = let_follow(a, args, at, &q, false);
    }
    if (code != EX_OK) {
        return code == FOLLOWED ? EX_OK : code;
    }
    admin_sql(a, "UPDATE domain SET max_octets = coalesce($2::bigint, max_octets), "
                 "max_messages = coalesce($3::bigint, max_messages), "
                 "max_size = coalesce($4::bigint, max_size), "
                 "retention_days = coalesce($5::bigint, retention_days), "
                 "read_days = coalesce($6::bigint, read_days) "
                 "WHERE name = $1 RETURNING 1");
    pg_text(a->batch, span_str(at + 1));
    quota_sql(&q, a->batch);
    if (args->opt[ARG_catch_all]) {
        admin_sql(a, "UPDATE address SET targets = $2 WHERE addr = $1");
        pg_text(a->batch, span_str(at));
        catch_all_sql(&c, a->batch);
    }
    totals_sql(a, at, &t);
    code = change_domain(a, at);
    if (code == EX_OK && admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", at + 1);
    }
    if (code == EX_OK && changes_retention(&q)) {
        code = let_follow(a, args, at, &q, true);
    }
    return code == EX_OK && totals_any(&t) ? usage_refresh(a, at + 1) : code;
}

int command_domain_remove(struct admin *a, const struct args *args)
{
    char at[DOMAIN_MAX + 2];
    if (!admin_domain(args->v[0], at)) {
        return EX_DATAERR;
    }
    admin_sql(a, "SELECT count(*) FROM address WHERE domain = $1 AND addr NOT LIKE '@%'");
    pg_text(a->batch, span_str(at + 1));
    admin_sql(a, "SELECT 1 FROM domain WHERE name = $1");
    pg_text(a->batch, span_str(at + 1));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, at + 1);
    }
    int64_t left = pg_get_i64(admin_result(a, 0), 0, 0);
    if (admin_rows(a, 1) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", at + 1);
    }
    if (left > 0) {
        return admin_fail(EX_DATAERR, "%s: still has %lld addresses", at + 1, (long long)left);
    }
    if (!args_yes(args, "take no more mail for %s", at + 1)) {
        return EX_OK;
    }
    /* An address that is added meanwhile stays, and works again when the domain is added again. */
    admin_sql(a, "DELETE FROM address WHERE addr = $1");
    pg_text(a->batch, span_str(at));
    admin_sql(a, "DELETE FROM domain WHERE name = $1 RETURNING 1");
    pg_text(a->batch, span_str(at + 1));
    int code = change_domain(a, at);
    if (code == EX_OK && admin_rows(a, 1) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", at + 1);
    }
    return code;
}

/* Nothing while it was never summed: only domains with a total are, unless recount does it. */
static void add_usage(struct table *t, const PGresult *r, int row)
{
    struct span at = pg_get_span(r, row, 11);
    for (int c = 9; c < 11; c++) {
        at.n ? table_number(t, (uint64_t)pg_get_i64(r, row, c)) : table_none(t);
    }
    at.n ? table_text(t, at) : table_none(t);
}

int command_domain_list(struct admin *a, const struct args *args)
{
    static const struct column columns[] = {
        { "name", "DOMAIN", COLUMN_TEXT },
        { "catch_all", "CATCH-ALL", COLUMN_TEXT },
        { "max_octets", "OCTETS", COLUMN_NUMBER },
        { "max_messages", "MESSAGES", COLUMN_NUMBER },
        { "max_size", "MESSAGE SIZE", COLUMN_NUMBER },
        { "retention_days", "KEPT DAYS", COLUMN_NUMBER },
        { "read_days", "WHEN READ", COLUMN_NUMBER },
        { "total_octets", "TOTAL OCTETS", COLUMN_NUMBER },
        { "total_messages", "TOTAL MESSAGES", COLUMN_NUMBER },
        { "usage_octets", "USED OCTETS", COLUMN_NUMBER },
        { "usage_messages", "USED MESSAGES", COLUMN_NUMBER },
        { "usage_at", "SUMMED AT", COLUMN_TEXT },
    };
    (void)args;
    admin_sql(a, "SELECT d.name, coalesce(array_to_string(a.targets, ' '), ''), d.max_octets, "
                 "d.max_messages, d.max_size, d.retention_days, d.read_days, d.total_octets, "
                 "d.total_messages, d.usage_octets, d.usage_messages, coalesce(to_char(d.usage_at "
                 "AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '') "
                 "FROM domain d LEFT JOIN address a ON a.addr = '@' || d.name ORDER BY d.name");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "domains");
    }
    const PGresult *r = admin_result(a, 0);
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    for (int i = 0; i < PQntuples(r); i++) {
        table_text(t, pg_get_span(r, i, 0));
        struct span catch_all = pg_get_span(r, i, 1);
        catch_all.n ? table_text(t, catch_all) : table_none(t);
        for (int c = 2; c < 6; c++) {
            table_limit(t, (uint64_t)pg_get_i64(r, i, c));
        }
        table_days(t, pg_get_i64(r, i, 6));
        for (int c = 7; c < 9; c++) {
            table_limit(t, (uint64_t)pg_get_i64(r, i, c));
        }
        add_usage(t, r, i);
    }
    table_print(t, a->json, "no domains: mailfleet domain add NAME", stdout);
    table_free(&t);
    return EX_OK;
}
