/*
 * domain: the domains that mail is taken for. A domain is a row of domain, with the limits of new
 * accounts, and the row `@name` of address, which RCPT looks up and which holds the catch-all.
 */
#include "base/check.h"
#include "commands.h"
#include "quota.h"
#include "table.h"

/* A domain in canonical form: what may stand behind the @ of an address. */
static bool parse_domain(const char *text, struct address *out)
{
    char full[DOMAIN_MAX + 16];
    int n = snprintf(full, sizeof full, "x@%s", text);
    if (n < 0 || (size_t)n >= sizeof full ||
        address_parse(span_of(full, (size_t)n), out) != ERR_OK) {
        admin_fail(EX_DATAERR, "%s: not a domain", text);
        return false;
    }
    return true;
}

/* `@domain`, which is the second half of x@domain. */
static struct span at_domain(const struct address *a)
{
    return span_skip(span_of(a->canon, a->len), 1);
}

static struct span bare_domain(const struct address *a)
{
    return span_skip(span_of(a->canon, a->len), 2);
}

/* Adds targets as one argument: an array of one, or NULL for none. False after a message. */
static bool add_catch_all(struct admin *a, const char *text)
{
    struct address target;
    if (!text || strcmp(text, "none") == 0) {
        pg_null(a->batch);
        return true;
    }
    if (!admin_address(text, &target)) {
        return false;
    }
    struct span s = span_of(target.canon, target.len);
    pg_texts(a->batch, &s, 1);
    return true;
}

static int change_domain(struct admin *a, const struct address *d)
{
    struct cache_key key = { .kind = CACHE_ADDRESS, .address = at_domain(d) };
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, d->canon + 2);
    }
    return EX_OK;
}

int command_domain_add(struct admin *a, const struct args *args)
{
    struct address d;
    struct quota l;
    if (!parse_domain(args->v[0], &d) || !quota_parse(args, &l)) {
        return EX_DATAERR;
    }
    admin_sql(a, "INSERT INTO domain (name, max_octets, max_messages, max_size) VALUES ($1, "
                 "coalesce($2::bigint, 0), coalesce($3::bigint, 0), coalesce($4::bigint, 0))");
    pg_text(a->batch, bare_domain(&d));
    quota_sql(&l, a->batch);
    admin_sql(a, "INSERT INTO address (addr, domain, targets) VALUES ($1, $2, $3)");
    pg_text(a->batch, at_domain(&d));
    pg_text(a->batch, bare_domain(&d));
    if (!add_catch_all(a, args->opt[ARG_catch_all])) {
        return EX_DATAERR;
    }
    return change_domain(a, &d);
}

int command_domain_set(struct admin *a, const struct args *args)
{
    struct address d;
    struct quota l;
    if (!parse_domain(args->v[0], &d) || !quota_parse(args, &l)) {
        return EX_DATAERR;
    }
    if (!quota_any(&l) && !args->opt[ARG_catch_all]) {
        return admin_fail(EX_USAGE, "nothing to change: see mailfleet domain set --help");
    }
    admin_sql(a, "UPDATE domain SET max_octets = coalesce($2::bigint, max_octets), "
                 "max_messages = coalesce($3::bigint, max_messages), "
                 "max_size = coalesce($4::bigint, max_size) WHERE name = $1 RETURNING 1");
    pg_text(a->batch, bare_domain(&d));
    quota_sql(&l, a->batch);
    if (args->opt[ARG_catch_all]) {
        admin_sql(a, "UPDATE address SET targets = $2 WHERE addr = $1");
        pg_text(a->batch, at_domain(&d));
        if (!add_catch_all(a, args->opt[ARG_catch_all])) {
            return EX_DATAERR;
        }
    }
    int code = change_domain(a, &d);
    if (code == EX_OK && admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", d.canon + 2);
    }
    return code;
}

int command_domain_remove(struct admin *a, const struct args *args)
{
    struct address d;
    if (!parse_domain(args->v[0], &d)) {
        return EX_DATAERR;
    }
    admin_sql(a, "SELECT count(*) FROM address WHERE domain = $1 AND addr NOT LIKE '@%'");
    pg_text(a->batch, bare_domain(&d));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, d.canon + 2);
    }
    int64_t left = pg_get_i64(admin_result(a, 0), 0, 0);
    if (left > 0) {
        return admin_fail(EX_DATAERR, "%s: still has %lld addresses", d.canon + 2, (long long)left);
    }
    /* An address that is added meanwhile stays, and works again when the domain is added again. */
    admin_sql(a, "DELETE FROM address WHERE addr = $1");
    pg_text(a->batch, at_domain(&d));
    admin_sql(a, "DELETE FROM domain WHERE name = $1 RETURNING 1");
    pg_text(a->batch, bare_domain(&d));
    int code = change_domain(a, &d);
    if (code == EX_OK && admin_rows(a, 1) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such domain", d.canon + 2);
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
    };
    (void)args;
    admin_sql(a, "SELECT d.name, coalesce(array_to_string(a.targets, ' '), ''), d.max_octets, "
                 "d.max_messages, d.max_size FROM domain d LEFT JOIN address a "
                 "ON a.addr = '@' || d.name ORDER BY d.name");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "domains");
    }
    const PGresult *r = admin_result(a, 0);
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    for (int i = 0; i < PQntuples(r); i++) {
        table_text(t, pg_get_span(r, i, 0));
        struct span catch_all = pg_get_span(r, i, 1);
        catch_all.n ? table_text(t, catch_all) : table_none(t);
        for (int c = 2; c < 5; c++) {
            int64_t v = pg_get_i64(r, i, c);
            v ? table_number(t, (uint64_t)v) : table_none(t);
        }
    }
    table_print(t, a->json, "no domains: mailfleet domain add NAME", stdout);
    table_free(&t);
    return EX_OK;
}
