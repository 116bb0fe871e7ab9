/*
 * node_drain: `mailfleet drain` and `mailfleet undrain`: a wish in the table node, which the node
 * hears with its next announcement. Not to be confused with drain.c, which empties volumes.
 */
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "commands.h"
#include "nodes.h"

#define LOOK_SECONDS 1

/* --- waiting --------------------------------------------------------------------------------- */

struct waiting {
    struct admin *a;
    const char *name, *role;
    int64_t sessions;                /* that were told last */
    int64_t empty_since[ROLE_COUNT]; /* the announcement that told of no sessions first; 0: none */
};

enum { WAIT_ROLE, WAIT_SESSIONS, WAIT_SEEN, WAIT_DRAIN, WAIT_DRAINS, WAIT_STOPPED, WAIT_HEARD };

/* Empty is what was so in two announcements: a balancer may hear of the drain a little later than
 * the node, and send one more. */
static bool is_over(struct waiting *w, const PGresult *r, int row)
{
    struct span role = pg_get_span(r, row, WAIT_ROLE);
    int64_t seen = pg_get_i64(r, row, WAIT_SEEN), *since = &w->empty_since[ROLE_DELIVER];
    if (span_eq(role, span_str(node_roles[ROLE_FRONTEND]))) {
        since = &w->empty_since[ROLE_FRONTEND];
    }
    if (pg_get_i64(r, row, WAIT_STOPPED)) {
        return true;
    }
    if (!pg_get_i64(r, row, WAIT_DRAINS) || pg_get_i64(r, row, WAIT_SESSIONS) > 0) {
        *since = 0;
        return false;
    }
    if (!*since) {
        *since = seen;
    }
    return seen > *since;
}

static int look(struct waiting *w, bool *over)
{
    int64_t sessions = 0;
    *over = true;
    admin_sql(w->a, "SELECT role, sessions, (extract(epoch FROM seen) * 1000)::bigint, drain, "
                    "       drains, stopped, heard(n) "
                    "  FROM node AS n WHERE name = $1 AND $2 IN ('', role)");
    pg_text(w->a->batch, span_str(w->name));
    pg_text(w->a->batch, span_str(w->role));
    if (admin_run(w->a, PG_READ) != ERR_OK) {
        return admin_fail_reply(w->a, w->name);
    }
    const PGresult *r = admin_result(w->a, 0);
    for (int i = 0; i < admin_rows(w->a, 0); i++) {
        struct span role = pg_get_span(r, i, WAIT_ROLE);
        if (!pg_get_i64(r, i, WAIT_DRAIN)) {
            return admin_fail(EX_UNAVAILABLE, "%s: somebody has undrained it as %.*s", w->name,
                              SPAN_ARG(role));
        }
        if (!pg_get_i64(r, i, WAIT_HEARD)) {
            return admin_fail(EX_UNAVAILABLE,
                              "%s is silent as %.*s: whether it has sessions is not known", w->name,
                              SPAN_ARG(role));
        }
        *over = is_over(w, r, i) && *over;
        sessions += pg_get_i64(r, i, WAIT_SESSIONS);
    }
    if (sessions != w->sessions) {
        admin_say("%s: sessions left: %lld", w->name, (long long)sessions);
        w->sessions = sessions;
    }
    return EX_OK;
}

static int wait_until_empty(struct admin *a, const char *name, const char *role)
{
    struct waiting w = { .a = a, .name = name, .role = role, .sessions = -1 };
    bool over = false;
    int code = look(&w, &over);
    while (code == EX_OK && !over) {
        sleep(LOOK_SECONDS);
        code = look(&w, &over);
    }
    if (code == EX_OK) {
        admin_say("%s has no sessions left", name);
    }
    return code;
}

/* --- the commands ---------------------------------------------------------------------------- */

/* The role in which no other node would be left to serve; NULL: there is none. */
static const char *last_in(const PGresult *r, int rows)
{
    for (int i = 0; i < rows; i++) {
        struct span role = pg_get_span(r, i, 0);
        if (pg_get_i64(r, i, 1)) {
            return span_eq(role, span_str(node_roles[ROLE_DELIVER])) ? node_roles[ROLE_DELIVER]
                                                                     : node_roles[ROLE_FRONTEND];
        }
    }
    return NULL;
}

int command_drain(struct admin *a, const struct args *args)
{
    const char *name = args->v[0], *role = node_role(args);
    char who[64];
    if (!role) {
        return EX_DATAERR;
    }
    admin_who(who);
    admin_sql(a, "SELECT role_is, final FROM drain_node($1, $2, $3, $4)");
    pg_text(a->batch, span_str(name));
    pg_text(a->batch, span_str(role));
    pg_text(a->batch, span_str(who));
    pg_bool(a->batch, args->opt[ARG_yes] != NULL);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, name);
    }
    if (admin_rows(a, 0) == 0) {
        return node_unknown(a, name, role);
    }
    const char *last = last_in(admin_result(a, 0), admin_rows(a, 0));
    if (last && !args->opt[ARG_yes]) {
        return admin_fail(
            EX_UNAVAILABLE,
            "%s is the last node that serves as %s, and is not drained; --yes does it "
            "all the same",
            name, last);
    }
    if (last) {
        admin_say("no other node serves as %s", last);
    }
    admin_say("%s is to take nothing new; sessions go on to their end", name);
    return args->opt[ARG_wait] ? wait_until_empty(a, name, role) : EX_OK;
}

int command_undrain(struct admin *a, const struct args *args)
{
    const char *name = args->v[0], *role = node_role(args);
    if (!role) {
        return EX_DATAERR;
    }
    admin_sql(a, "UPDATE node SET drain = false, drain_at = NULL, drain_by = NULL "
                 " WHERE name = $1 AND $2 IN ('', role) RETURNING 1");
    pg_text(a->batch, span_str(name));
    pg_text(a->batch, span_str(role));
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, name);
    }
    if (admin_rows(a, 0) == 0) {
        return node_unknown(a, name, role);
    }
    admin_say("%s is back in service", name);
    return EX_OK;
}
