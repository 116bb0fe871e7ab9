/*
 * alias: addresses that lead to other addresses of ours. mailfleet never relays, so a target in a
 * foreign domain is refused.
 */
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "removal.h"
#include "table.h"

struct targets {
    struct address *parsed;
    struct span *spans; /* into parsed */
    size_t n;
};

static void targets_free(struct targets *t)
{
    free(t->parsed);
    free(t->spans);
}

static bool targets_parse(const struct args *args, struct targets *out)
{
    out->n = (size_t)args->n - 1;
    out->parsed = NEW_ARRAY(struct address, out->n + 1);
    out->spans = NEW_ARRAY(struct span, out->n + 1);
    for (size_t i = 0; i < out->n; i++) {
        if (!admin_address(args->v[i + 1], &out->parsed[i])) {
            targets_free(out);
            return false;
        }
        out->spans[i] = span_str(out->parsed[i].canon);
    }
    return true;
}

static int change_alias(struct admin *a, const struct address *alias)
{
    struct cache_key key = { .kind = CACHE_ADDRESS, .address = span_str(alias->canon) };
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, alias->canon);
    }
    return EX_OK;
}

static int add_targets(struct admin *a, const struct args *args, const struct address *alias,
                       const struct targets *t)
{
    int code = admin_check_domains(a, alias, 1);
    if (code == EX_OK) {
        code = removal_check(a, args, alias);
    }
    if (code == EX_OK) {
        code = admin_check_domains(a, t->parsed, t->n);
    }
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "INSERT INTO address AS a (addr, domain, targets) VALUES ($1, $2, $3) "
                 "ON CONFLICT (addr) DO UPDATE SET targets = ARRAY(SELECT DISTINCT w.t FROM "
                 "unnest(a.targets || excluded.targets) w (t) ORDER BY w.t) "
                 "WHERE a.mailbox_id IS NULL RETURNING 1");
    pg_text(a->batch, span_str(alias->canon));
    pg_text(a->batch, span_str(alias->canon + alias->canon_local + 1));
    pg_texts(a->batch, t->spans, t->n);
    code = change_alias(a, alias);
    if (code == EX_OK && admin_rows(a, 0) == 0) {
        return admin_fail(EX_CANTCREAT, "%s: an account has this address", alias->canon);
    }
    return code;
}

int command_alias_add(struct admin *a, const struct args *args)
{
    struct address alias;
    struct targets t;
    if (!admin_address(args->v[0], &alias) || !targets_parse(args, &t)) {
        return EX_DATAERR;
    }
    int code = add_targets(a, args, &alias, &t);
    targets_free(&t);
    return code;
}

/* What would go; EX_OK, or a code after a message. */
static int would_remove(struct admin *a, const struct address *alias, const struct targets *t,
                        const struct args *args)
{
    admin_sql(a, "SELECT cardinality(targets), (SELECT count(*) FROM unnest(targets) w (t) "
                 "       WHERE cardinality($2::text[]) = 0 OR w.t = ANY ($2::text[])) "
                 "FROM address WHERE addr = $1 AND mailbox_id IS NULL AND targets IS NOT NULL");
    pg_text(a->batch, span_str(alias->canon));
    pg_texts(a->batch, t->spans, t->n);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, alias->canon);
    }
    int64_t all = admin_rows(a, 0) ? pg_get_i64(admin_result(a, 0), 0, 0) : 0;
    int64_t n = all ? pg_get_i64(admin_result(a, 0), 0, 1) : 0;
    if (n == 0) {
        return admin_fail(EX_NOUSER, "%s: no such alias or target", alias->canon);
    }
    args_yes(args, "remove %lld of the %lld targets of %s%s", (long long)n, (long long)all,
             alias->canon, n == all ? ", and so the alias" : "");
    return EX_OK;
}

int command_alias_remove(struct admin *a, const struct args *args)
{
    struct address alias;
    struct targets t;
    if (!admin_address(args->v[0], &alias) || !targets_parse(args, &t)) {
        return EX_DATAERR;
    }
    int code = would_remove(a, &alias, &t, args);
    if (code != EX_OK || !args->opt[ARG_yes]) {
        targets_free(&t);
        return code;
    }
    /* The last target takes the alias with it. */
    admin_sql(a, "DELETE FROM address WHERE addr = $1 AND mailbox_id IS NULL "
                 "AND (cardinality($2::text[]) = 0 OR targets <@ $2::text[]) RETURNING 1");
    pg_text(a->batch, span_str(alias.canon));
    pg_texts(a->batch, t.spans, t.n);
    admin_sql(a, "UPDATE address SET targets = ARRAY(SELECT w.t FROM unnest(targets) w (t) "
                 "WHERE w.t <> ALL ($2::text[])) "
                 "WHERE addr = $1 AND targets && $2::text[] AND NOT targets <@ $2::text[] "
                 "RETURNING 1");
    pg_text(a->batch, span_str(alias.canon));
    pg_texts(a->batch, t.spans, t.n);
    code = change_alias(a, &alias);
    if (code == EX_OK && admin_rows(a, 0) + admin_rows(a, 1) == 0) {
        code = admin_fail(EX_NOUSER, "%s: no such alias or target", alias.canon);
    }
    targets_free(&t);
    return code;
}

/* The aliases among a page of addresses, which are the last results; catch-alls are none. */
static void add_page(struct admin *a, struct table *t)
{
    const PGresult *r = admin_result(a, 0);
    for (int i = 0; i < PQntuples(r); i++) {
        struct span targets[ENTRY_TARGETS_MAX], alias = pg_get_span(r, i, 0);
        size_t n = pg_get_texts(r, i, 2, targets, ARRAY_LEN(targets));
        for (size_t k = 0; k < n && k < ARRAY_LEN(targets) && alias.p[0] != '@'; k++) {
            table_text(t, alias);
            table_text(t, targets[k]);
        }
    }
}

int command_alias_list(struct admin *a, const struct args *args)
{
    static const struct column columns[] = {
        { "alias", "ALIAS", COLUMN_TEXT },
        { "target", "TARGET", COLUMN_TEXT },
    };
    char domain[DOMAIN_MAX + 2] = "@";
    struct address_walk w = { .domain = domain + 1 };
    int code = EX_OK;
    if (args->n && !admin_domain(args->v[0], domain)) {
        return EX_DATAERR;
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    while (code == EX_OK && !w.ended) {
        code = admin_addresses(a, &w);
        if (code == EX_OK) {
            add_page(a, t);
        }
    }
    if (code == EX_OK) {
        table_print(t, a->json, "no aliases", stdout);
    }
    table_free(&t);
    return code;
}
