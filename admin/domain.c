/*
 * domain: the domains that mail is taken for. A domain is a row of domain, with the limits of new
 * accounts, and the row `@name` of address, which RCPT looks up and which holds the catch-all.
 *
 * Domains are `@name` in this file, and name is what follows the first character.
 */
#include "base/check.h"
#include "commands.h"
#include "quota.h"
#include "table.h"

static int change_domain(struct admin *a, const char *at)
{
    struct cache_key key = { .kind = CACHE_ADDRESS, .address = span_str(at) };
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, at + 1);
    }
    return EX_OK;
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
    struct catch_all c;
    if (!admin_domain(args->v[0], at) || !quota_parse(args, &q)) {
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
    return change_domain(a, at);
}

int command_domain_set(struct admin *a, const struct args *args)
{
    char at[DOMAIN_MAX + 2];
    struct quota q;
    struct catch_all c;
    if (!admin_domain(args->v[0], at) || !quota_parse(args, &q)) {
        return EX_DATAERR;
    }
    if (!quota_any(&q) && !args->opt[ARG_catch_all]) {
        return admin_fail(EX_USAGE, "nothing to change: see mailfleet domain set --help");
    }
    int code = parse_catch_all(a, args, at, &c);
    if (code != EX_OK) {
        return code;
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
    code = change_domain(a, at);
    if (code == EX_OK && admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", at + 1);
    }
    return code;
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
    };
    (void)args;
    admin_sql(a, "SELECT d.name, coalesce(array_to_string(a.targets, ' '), ''), d.max_octets, "
                 "d.max_messages, d.max_size, d.retention_days, d.read_days FROM domain d "
                 "LEFT JOIN address a ON a.addr = '@' || d.name ORDER BY d.name");
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
    }
    table_print(t, a->json, "no domains: mailfleet domain add NAME", stdout);
    table_free(&t);
    return EX_OK;
}
