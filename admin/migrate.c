/*
 * migrate: the schema's way to the next version and back, with the fleet at work.
 *
 * A migration is expanded (applied), and when no program of an older version runs, contracted;
 * until then it may be taken back. Which programs run is what the nodes announce. Who must not be
 * in the way is asked just before the change; a node that comes in between finds by itself that the
 * schema is not for it, and is not ready (store/schema_version.h).
 */
#include "migrate.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "migrations.h"
#include "schema_change.h"
#include "store/schema_version.h"
#include "table.h"

/* A node that was silent for so long does not count: what is dead can't say that it is gone. */
#define SILENT "interval '5 minutes'"
#define RUNS   "NOT stopped AND seen > now() - " SILENT

/* One migration, as the database has it. */
struct row {
    int64_t number;
    char *name;
    char *at; /* when it was applied */
    bool contracted;
};

struct state {
    struct row *rows; /* by number */
    size_t n;
    struct schema schema;
};

static void state_free(struct state *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->rows[i].name);
        free(s->rows[i].at);
    }
    free(s->rows);
}

static int take_rows(struct admin *a, struct state *out)
{
    const PGresult *r = admin_result(a, 0);
    size_t n = (size_t)admin_rows(a, 0);
    out->rows = NEW_ARRAY(struct row, n);
    out->n = n;
    for (size_t i = 0; i < n; i++) {
        int row = (int)i;
        struct row *to = &out->rows[i];
        *to = (struct row){ .number = pg_get_i64(r, row, 0),
                            .name = span_dup(pg_get_span(r, row, 1)),
                            .at = span_dup(pg_get_span(r, row, 2)),
                            .contracted = pg_get_i64(r, row, 3) != 0 };
        out->schema.applied = to->number;
        out->schema.contracted = to->contracted ? to->number : out->schema.contracted;
    }
    return EX_OK;
}

/* EX_OK, or a code after a message. A database without tables is one with nothing applied. */
static int read_state(struct admin *a, struct state *out)
{
    *out = (struct state){ 0 };
    admin_sql(a,
              "SELECT count(*) FROM pg_catalog.pg_tables "
              "WHERE tablename = 'schema_version' AND schemaname = ANY (current_schemas(false))");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "database");
    }
    if (pg_get_i64(admin_result(a, 0), 0, 0) == 0) {
        return EX_OK;
    }
    admin_sql(a, "SELECT version, name,"
                 "       to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),"
                 "       contracted_at IS NOT NULL"
                 "  FROM schema_version ORDER BY version");
    return admin_run(a, PG_READ) == ERR_OK ? take_rows(a, out) : admin_fail_reply(a, "database");
}

static const struct row *find_row(const struct state *s, int64_t number)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->rows[i].number == number) {
            return &s->rows[i];
        }
    }
    return NULL;
}

/* Applied, and something is to be taken away yet. */
static bool is_expanded(const struct state *s, const struct migration *m)
{
    const struct row *row = find_row(s, m->number);
    return row && !row->contracted && m->contract.statements;
}

static const struct migration *first_expanded(const struct state *s)
{
    for (size_t i = 0; i < migrations_count; i++) {
        if (is_expanded(s, &migrations[i])) {
            return &migrations[i];
        }
    }
    return NULL;
}

/* --- nodes in the way ------------------------------------------------------------------------ */

/*
 * EX_OK when no node runs whose program knows another schema: an older one than `limit`, or a newer
 * one. Else each of them is told.
 */
static int check_nodes(struct admin *a, int64_t limit, bool newer, const char *what)
{
    admin_sql(a, "SELECT name, role, version, schema, extract(epoch FROM now() - seen)::bigint"
                 "  FROM node WHERE " RUNS
                 "   AND CASE WHEN $2 THEN schema > $1 ELSE schema < $1 END ORDER BY name, role");
    pg_i64(a->batch, limit);
    pg_bool(a->batch, newer);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "nodes");
    }
    const PGresult *r = admin_result(a, 0);
    for (int i = 0; i < admin_rows(a, 0); i++) {
        admin_say("%.*s (%.*s) runs %.*s, which %s schema %lld; it was seen %lld s ago",
                  SPAN_ARG(pg_get_span(r, i, 0)), SPAN_ARG(pg_get_span(r, i, 1)),
                  SPAN_ARG(pg_get_span(r, i, 2)), newer ? "needs" : "knows no newer one than",
                  (long long)pg_get_i64(r, i, 3), (long long)pg_get_i64(r, i, 4));
    }
    return admin_rows(a, 0) == 0
               ? EX_OK
               : admin_fail(EX_UNAVAILABLE, "%s while nodes run that need it as it is: %s", what,
                            newer ? "go back on them first" : "upgrade them first");
}

/* --- expand ---------------------------------------------------------------------------------- */

/* A new database has no node of an older version, so it is contracted as well. */
static int apply(struct admin *a, const struct migration *m, bool fresh)
{
    int code = schema_change(a, m, SCHEMA_EXPAND, fresh);
    if (code == EX_OK && fresh && m->contract.statements) {
        code = schema_change(a, m, SCHEMA_CONTRACT, true);
    }
    return code;
}

static int expand(struct admin *a, const struct state *s, bool dry_run)
{
    bool fresh = s->schema.applied == 0, any = false, to_contract = false;
    for (size_t i = 0; i < migrations_count; i++) {
        const struct migration *m = &migrations[i];
        if ((int64_t)m->number <= s->schema.applied) {
            continue;
        }
        any = true;
        if (dry_run) {
            admin_say("would apply %03u-%s", m->number, m->name);
            continue;
        }
        int code = apply(a, m, fresh);
        if (code != EX_OK) {
            return code;
        }
        to_contract = to_contract || (!fresh && m->contract.statements);
    }
    if (to_contract) {
        admin_say("when no older program runs any more: mailfleet migrate --contract");
    }
    if (!any) {
        admin_say("the schema is up to date: version %lld", (long long)s->schema.applied);
    }
    return EX_OK;
}

/* --- contract -------------------------------------------------------------------------------- */

static int contract(struct admin *a, const struct state *s, const struct args *args)
{
    bool any = false;
    for (size_t i = 0; i < migrations_count; i++) {
        const struct migration *m = &migrations[i];
        if (!is_expanded(s, m)) {
            continue;
        }
        any = true;
        int code = check_nodes(a, m->number, false, "the schema is not contracted");
        if (code == EX_OK && args_yes(args, "contract %03u-%s: older programs no longer work then",
                                      m->number, m->name)) {
            code = schema_change(a, m, SCHEMA_CONTRACT, false);
        }
        if (code != EX_OK) {
            return code;
        }
    }
    if (!any) {
        admin_say("nothing is to be contracted");
    }
    return EX_OK;
}

/* --- revert ---------------------------------------------------------------------------------- */

/* Every step of the way must be one that can be gone. */
static int check_way_back(const struct state *s, int64_t to)
{
    for (size_t i = s->n; i > 0 && s->rows[i - 1].number > to; i--) {
        const struct row *row = &s->rows[i - 1];
        if (row->contracted) {
            return admin_fail(EX_UNAVAILABLE, "%03lld-%s is contracted: there is no way back",
                              (long long)row->number, row->name);
        }
        if (row->number < 1 || !migrations[row->number - 1].revert.statements) {
            return admin_fail(EX_UNAVAILABLE, "%03lld-%s can't be taken back",
                              (long long)row->number, row->name);
        }
    }
    return EX_OK;
}

static int revert(struct admin *a, const struct state *s, const struct args *args)
{
    uint64_t to;
    if (span_u64(span_str(args->opt[ARG_revert]), migrations_count, &to) != ERR_OK || to == 0) {
        return admin_fail(EX_USAGE, "--revert takes the number of a migration that is to stay");
    }
    if ((int64_t)to >= s->schema.applied) {
        admin_say("nothing is to be taken back: the schema has version %lld",
                  (long long)s->schema.applied);
        return EX_OK;
    }
    int code = check_way_back(s, (int64_t)to);
    if (code == EX_OK) {
        code = check_nodes(a, (int64_t)to, true, "nothing is taken back");
    }
    for (size_t i = s->n; i > 0 && s->rows[i - 1].number > (int64_t)to && code == EX_OK; i--) {
        const struct migration *m = &migrations[s->rows[i - 1].number - 1];
        if (args_yes(args, "take back %03u-%s", m->number, m->name)) {
            code = schema_change(a, m, SCHEMA_REVERT, false);
        }
    }
    return code;
}

/* --- status ---------------------------------------------------------------------------------- */

static const struct column status_columns[] = {
    { "what", "WHAT", COLUMN_TEXT },       { "name", "NAME", COLUMN_TEXT },
    { "version", "VERSION", COLUMN_TEXT }, { "schema", "SCHEMA", COLUMN_NUMBER },
    { "at", "AT", COLUMN_TEXT },           { "state", "STATE", COLUMN_TEXT },
};

static void add_row(struct table *t, int64_t number, const char *name, const char *at,
                    const char *state)
{
    table_text(t, SPAN("migration"));
    table_text(t, span_str(name));
    table_none(t);
    table_number(t, (uint64_t)number);
    at ? table_text(t, span_str(at)) : table_none(t);
    table_text(t, span_str(state));
}

static void add_migrations(struct table *t, const struct state *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct row *row = &s->rows[i];
        bool known = row->number >= 1 && row->number <= (int64_t)migrations_count;
        add_row(t, row->number, row->name, row->at,
                row->contracted                                           ? "contracted"
                : !known                                                  ? "not known here"
                : migrations[row->number - 1].contract.statements != NULL ? "expanded"
                                                                          : "applied");
    }
    for (size_t i = 0; i < migrations_count; i++) {
        if ((int64_t)migrations[i].number > s->schema.applied) {
            add_row(t, migrations[i].number, migrations[i].name, NULL, "pending");
        }
    }
}

static const char *state_of_node(const struct state *s, int64_t schema, bool runs)
{
    const struct migration *m = first_expanded(s);
    return !runs                           ? "does not run"
           : schema > s->schema.applied    ? "needs what is not applied"
           : schema < s->schema.contracted ? "is too old"
           : m && schema < m->number       ? "is in the way of contracting"
                                           : "fits";
}

static int add_nodes(struct admin *a, struct table *t, const struct state *s)
{
    if (s->schema.applied == 0) {
        return EX_OK;
    }
    admin_sql(a, "SELECT name, role, version, schema,"
                 "       to_char(seen AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), " RUNS
                 "  FROM node ORDER BY name, role");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "nodes");
    }
    const PGresult *r = admin_result(a, 0);
    for (int i = 0; i < admin_rows(a, 0); i++) {
        int64_t schema = pg_get_i64(r, i, 3);
        table_text(t, pg_get_span(r, i, 1));
        table_text(t, pg_get_span(r, i, 0));
        table_text(t, pg_get_span(r, i, 2));
        table_number(t, (uint64_t)schema);
        table_text(t, pg_get_span(r, i, 4));
        table_text(t, span_str(state_of_node(s, schema, pg_get_i64(r, i, 5) != 0)));
    }
    return EX_OK;
}

static int status(struct admin *a, const struct state *s)
{
    struct table *t = table_new(status_columns, ARRAY_LEN(status_columns));
    add_migrations(t, s);
    int code = add_nodes(a, t, s);
    if (code == EX_OK) {
        table_print(t, a->json, "", stdout);
    }
    table_free(&t);
    return code;
}

/* --- the command ----------------------------------------------------------------------------- */

bool migrate_check(struct admin *a, char *says, size_t size)
{
    struct state s;
    char why[200];
    if (read_state(a, &s) != EX_OK) {
        snprintf(says, size, "the database does not tell");
        return false;
    }
    bool fits = schema_fits(&s.schema, why, sizeof why);
    const struct migration *m = first_expanded(&s);
    snprintf(says, size, "version %lld of %d", (long long)s.schema.applied, SCHEMA_VERSION);
    size_t n = strlen(says);
    if (!fits) {
        snprintf(says + n, size - n, ": %s", why);
    } else if (m) {
        snprintf(says + n, size - n, ": %03u-%s waits for mailfleet migrate --contract", m->number,
                 m->name);
    }
    state_free(&s);
    return fits;
}

/* Only who knows all that was applied may change it. */
static int check_known(const struct state *s)
{
    return s->schema.applied <= SCHEMA_VERSION
               ? EX_OK
               : admin_fail(EX_SOFTWARE, "the database has version %lld, this program knows %d",
                            (long long)s->schema.applied, SCHEMA_VERSION);
}

static int migrate(struct admin *a, const struct state *s, const struct args *args)
{
    if (args->opt[ARG_status]) {
        return status(a, s);
    }
    int code = check_known(s);
    if (code != EX_OK) {
        return code;
    }
    return args->opt[ARG_contract] ? contract(a, s, args)
           : args->opt[ARG_revert] ? revert(a, s, args)
                                   : expand(a, s, args->opt[ARG_dry_run] != NULL);
}

int command_migrate(struct admin *a, const struct args *args)
{
    struct state s;
    int wishes = (args->opt[ARG_status] != NULL) + (args->opt[ARG_contract] != NULL) +
                 (args->opt[ARG_revert] != NULL) + (args->opt[ARG_dry_run] != NULL);
    if (wishes > 1) {
        return admin_fail(EX_USAGE, "--status, --contract, --revert, --dry-run: one of them");
    }
    a->any_schema = true;
    int code = read_state(a, &s);
    if (code == EX_OK) {
        code = migrate(a, &s, args);
    }
    state_free(&s);
    return code;
}
