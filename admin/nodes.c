/*
 * nodes: see the header; and `mailfleet nodes`, which shows them, and forgets those that are gone.
 * What is told here is at most some seconds old. Nodes are few: they are read at once.
 */
#include "nodes.h"

#include <string.h>

#include "base/check.h"
#include "commands.h"
#include "table.h"

#define AT(column)                                                                                 \
    "coalesce(to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '')"

const char *const node_roles[ROLE_COUNT] = {
    [ROLE_DELIVER] = "deliver", [ROLE_FRONTEND] = "frontend"
};

const char *node_role(const struct args *args)
{
    const char *role = args->opt[ARG_role];
    for (size_t i = 0; role && i < ROLE_COUNT; i++) {
        if (strcmp(role, node_roles[i]) == 0) {
            return node_roles[i];
        }
    }
    if (role) {
        admin_fail(EX_DATAERR, "%s: a role is deliver or frontend", role);
        return NULL;
    }
    return "";
}

int node_unknown(struct admin *a, const char *name, const char *role)
{
    admin_sql(a, "SELECT coalesce(string_agg(name || ' (' || role || ')', ', ' "
                 "                           ORDER BY name, role), 'none yet') FROM node");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, name);
    }
    return admin_fail(EX_NOUSER, "no such node: %s%s%s; there are: %.*s", name, *role ? " as " : "",
                      role, SPAN_ARG(pg_get_span(admin_result(a, 0), 0, 0)));
}

/* --- showing --------------------------------------------------------------------------------- */

enum {
    NODE_NAME,
    NODE_ROLE,
    NODE_VERSION,
    NODE_SCHEMA,
    NODE_SINCE,
    NODE_AGO,
    NODE_SESSIONS,
    NODE_CAPACITY,
    NODE_LOAD,
    NODE_READY,
    NODE_WHY,
    NODE_STOPPED,
    NODE_HEARD,
    NODE_DRAIN,
    NODE_DRAINS,
    NODE_DRAIN_AT,
    NODE_DRAIN_BY
};

static enum err read_nodes(struct admin *a)
{
    admin_sql(
        a, "SELECT name, role, version, schema, " AT(
               "since") ", "
                        "       (greatest(extract(epoch FROM now() - seen), 0))::bigint, sessions, "
                        "       capacity, load, ready, why, stopped, heard(n), drain, drains, "
                        "       " AT("drain_at") ", coalesce(drain_by, '') "
                                                 "  FROM node AS n ORDER BY name, role");
    return admin_run(a, PG_READ);
}

static bool flag(const PGresult *r, int row, int col)
{
    return pg_get_i64(r, row, col) != 0;
}

static struct span state(const PGresult *r, int row)
{
    return flag(r, row, NODE_STOPPED)  ? SPAN("stopped")
           : !flag(r, row, NODE_HEARD) ? SPAN("silent")
           : flag(r, row, NODE_READY)  ? SPAN("ready")
                                       : SPAN("not ready");
}

/* What became of the operator's wish. */
static struct span drain(const PGresult *r, int row)
{
    bool gone = flag(r, row, NODE_STOPPED) || !flag(r, row, NODE_HEARD);
    return !flag(r, row, NODE_DRAIN)               ? SPAN("")
           : gone                                  ? SPAN("drained")
           : !flag(r, row, NODE_DRAINS)            ? SPAN("asked")
           : pg_get_i64(r, row, NODE_SESSIONS) > 0 ? SPAN("draining")
                                                   : SPAN("drained");
}

/* A node that is drained may be in any state: somebody is at it. */
static bool is_well(const PGresult *r, int row)
{
    return flag(r, row, NODE_DRAIN) || span_eq(state(r, row), SPAN("ready"));
}

static void text_or_none(struct table *t, struct span s)
{
    s.n ? table_text(t, s) : table_none(t);
}

static void add_node(struct table *t, const PGresult *r, int row)
{
    table_text(t, pg_get_span(r, row, NODE_NAME));
    table_text(t, pg_get_span(r, row, NODE_ROLE));
    table_text(t, state(r, row));
    text_or_none(t, drain(r, row));
    table_number(t, (uint64_t)pg_get_i64(r, row, NODE_SESSIONS));
    table_number(t, (uint64_t)pg_get_i64(r, row, NODE_CAPACITY));
    table_number(t, (uint64_t)pg_get_i64(r, row, NODE_LOAD));
    table_number(t, (uint64_t)pg_get_i64(r, row, NODE_AGO));
    table_text(t, pg_get_span(r, row, NODE_SINCE));
    table_text(t, pg_get_span(r, row, NODE_VERSION));
    table_number(t, (uint64_t)pg_get_i64(r, row, NODE_SCHEMA));
    text_or_none(t, pg_get_span(r, row, NODE_WHY));
    text_or_none(t, pg_get_span(r, row, NODE_DRAIN_AT));
    text_or_none(t, pg_get_span(r, row, NODE_DRAIN_BY));
}

static int show(struct admin *a)
{
    static const struct column columns[] = {
        { "name", "NAME", COLUMN_TEXT },           { "role", "ROLE", COLUMN_TEXT },
        { "state", "STATE", COLUMN_TEXT },         { "drain", "DRAIN", COLUMN_TEXT },
        { "sessions", "SESSIONS", COLUMN_NUMBER }, { "capacity", "OF", COLUMN_NUMBER },
        { "load", "LOAD %", COLUMN_NUMBER },       { "seen", "SEEN, S AGO", COLUMN_NUMBER },
        { "since", "RUNS SINCE", COLUMN_TEXT },    { "version", "VERSION", COLUMN_TEXT },
        { "schema", "SCHEMA", COLUMN_NUMBER },     { "why", "WHY NOT READY", COLUMN_TEXT },
        { "drain_at", "DRAINED AT", COLUMN_TEXT }, { "drain_by", "BY", COLUMN_TEXT },
    };
    bool well = true;
    if (read_nodes(a) != ERR_OK) {
        return admin_fail_reply(a, "nodes");
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    for (int i = 0; i < admin_rows(a, 0); i++) {
        add_node(t, admin_result(a, 0), i);
        well = well && is_well(admin_result(a, 0), i);
    }
    table_print(t, a->json, "no node has announced itself yet", stdout);
    table_free(&t);
    return well ? EX_OK : EX_UNAVAILABLE;
}

/* --- forgetting ------------------------------------------------------------------------------ */

/* Gone is what has said so, or is silent: another would come back with its next announcement, and
 * would have lost its drain. */
static int forget(struct admin *a, const char *name, const char *role, const struct args *args)
{
    admin_sql(a, "SELECT role, stopped OR NOT heard(n) FROM node AS n "
                 " WHERE name = $1 AND $2 IN ('', role) ORDER BY role");
    pg_text(a->batch, span_str(name));
    pg_text(a->batch, span_str(role));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, name);
    }
    int n = admin_rows(a, 0);
    for (int i = 0; i < n; i++) {
        if (!flag(admin_result(a, 0), i, 1)) {
            return admin_fail(EX_UNAVAILABLE, "%s runs as %.*s: it is not gone", name,
                              SPAN_ARG(pg_get_span(admin_result(a, 0), i, 0)));
        }
    }
    if (n == 0) {
        return node_unknown(a, name, role);
    }
    if (!args_yes(args, "forget %s%s%s", name, *role ? " as " : "", role)) {
        return EX_OK;
    }
    admin_sql(a, "DELETE FROM node AS n WHERE name = $1 AND $2 IN ('', role) "
                 "   AND (stopped OR NOT heard(n))");
    pg_text(a->batch, span_str(name));
    pg_text(a->batch, span_str(role));
    return admin_run(a, PG_WRITE) == ERR_OK ? EX_OK : admin_fail_reply(a, name);
}

int command_nodes(struct admin *a, const struct args *args)
{
    const char *role = node_role(args);
    if (!role) {
        return EX_DATAERR;
    }
    if (args->opt[ARG_forget]) {
        return forget(a, args->opt[ARG_forget], role, args);
    }
    if (*role || args->opt[ARG_yes]) {
        return admin_fail(EX_USAGE, "--role and --yes go with --forget NODE");
    }
    return show(a);
}

/* --- for check ------------------------------------------------------------------------------- */

/* One line for what is wrong with the nodes, and another when they are of several versions. */
void nodes_check(struct admin *a, node_report_fn *fn, void *arg)
{
    char says[512] = "", version[64] = "", more[192];
    int silent = 0;
    bool mixed = false;
    if (read_nodes(a) != ERR_OK) {
        fn(arg, false, "nodes", a->reply.message);
        return;
    }
    const PGresult *r = admin_result(a, 0);
    int n = admin_rows(a, 0);
    for (int i = 0; i < n; i++) {
        struct span name = pg_get_span(r, i, NODE_NAME), role = pg_get_span(r, i, NODE_ROLE);
        struct span v = pg_get_span(r, i, NODE_VERSION);
        if (flag(r, i, NODE_STOPPED) || !flag(r, i, NODE_HEARD)) {
            if (!is_well(r, i) && !flag(r, i, NODE_STOPPED)) {
                size_t at = strlen(says);
                snprintf(says + at, sizeof says - at, "%s%.*s (%.*s) for %lld s",
                         silent++ ? ", " : "silent: ", SPAN_ARG(name), SPAN_ARG(role),
                         (long long)pg_get_i64(r, i, NODE_AGO));
            }
            continue;
        }
        if (!*version) {
            snprintf(version, sizeof version, "%.*s", SPAN_ARG(v));
        } else if (!mixed && !span_eq(v, span_str(version))) {
            mixed = true;
            snprintf(more, sizeof more, "%s and, on %.*s (%.*s), %.*s", version, SPAN_ARG(name),
                     SPAN_ARG(role), SPAN_ARG(v));
        }
    }
    if (!silent) {
        snprintf(says, sizeof says, n ? "%d, none is silent" : "none has announced itself yet", n);
    }
    fn(arg, silent == 0, "nodes", says);
    if (mixed) {
        fn(arg, false, "node versions", more);
    }
}
