/*
 * reaping: see the header; and `mailfleet reaping`, by which an operator holds the reapers and lets
 * them go. It unlinks nothing itself.
 */
#include "reaping.h"

#include <string.h>

#include "base/check.h"
#include "commands.h"
#include "table.h"

struct reaping {
    uint64_t allowed;  /* the timeline that reapers may run on; 0: none */
    uint64_t timeline; /* the database's */
    bool rebuilding;   /* counts and pointers are only half there */
};

static enum err read_state(struct admin *a, struct reaping *r)
{
    admin_sql(a, "SELECT reap_timeline, wal_timeline(), EXISTS (SELECT FROM rebuild) FROM fleet");
    enum err e = admin_run(a, PG_READ);
    if (e != ERR_OK) {
        return e;
    }
    *r = (struct reaping){ .allowed = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0),
                           .timeline = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 1),
                           .rebuilding = pg_get_i64(admin_result(a, 0), 0, 2) != 0 };
    return ERR_OK;
}

static bool may_run(const struct reaping *r)
{
    return r->allowed == r->timeline && !r->rebuilding;
}

static void describe(const struct reaping *r, char *out, size_t size)
{
    if (r->rebuilding) {
        snprintf(out, size, "held: a rebuild has not come to its end: run mailfleet rebuild again");
    } else if (r->allowed == r->timeline) {
        snprintf(out, size, "reapers may run");
    } else if (r->allowed == 0) {
        snprintf(out, size, "held by an operator: mailfleet reaping on");
    } else {
        snprintf(out, size,
                 "held: the database was restored or promoted (timeline %llu, was %llu); after "
                 "mailfleet adopt: mailfleet reaping on",
                 (unsigned long long)r->timeline, (unsigned long long)r->allowed);
    }
}

int reaping_state(struct admin *a, char *why, size_t size)
{
    struct reaping r;
    if (read_state(a, &r) != ERR_OK) {
        snprintf(why, size, "%s", a->reply.message[0] ? a->reply.message : err_text(a->reply.err));
        return EX_TEMPFAIL;
    }
    describe(&r, why, size);
    return may_run(&r) ? EX_OK : EX_TEMPFAIL;
}

int reaping_allowed(struct admin *a)
{
    char why[256];
    int code = reaping_state(a, why, sizeof why);
    return code == EX_OK ? code : admin_fail(code, "reaping: %s", why);
}

int reaping_rebuilt(struct admin *a)
{
    struct reaping r;
    if (read_state(a, &r) != ERR_OK) {
        return admin_fail_reply(a, "database");
    }
    return r.rebuilding ? admin_fail(EX_TEMPFAIL, "a rebuild has not come to its end") : EX_OK;
}

static int show(struct admin *a)
{
    static const struct column columns[] = {
        { "allowed", "Reapers may run", COLUMN_FLAG },
        { "timeline", "Timeline of the database", COLUMN_NUMBER },
        { "reap_timeline", "Timeline that they may run on", COLUMN_NUMBER },
        { "says", "That is", COLUMN_TEXT },
    };
    struct reaping r;
    char why[256];
    if (read_state(a, &r) != ERR_OK) {
        return admin_fail_reply(a, "reaping");
    }
    describe(&r, why, sizeof why);
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_flag(t, may_run(&r));
    table_number(t, r.timeline);
    table_limit(t, r.allowed);
    table_text(t, span_str(why));
    table_print_record(t, a->json, stdout);
    table_free(&t);
    return EX_OK;
}

static int set(struct admin *a, bool on)
{
    admin_sql(a, on ? "UPDATE fleet SET reap_timeline = wal_timeline()"
                    : "UPDATE fleet SET reap_timeline = 0");
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, "reaping");
    }
    admin_say(on ? "reapers may run" : "no reaper begins, and one that runs claims nothing more");
    return EX_OK;
}

int command_reaping(struct admin *a, const struct args *args)
{
    if (args->n == 0) {
        return show(a);
    }
    bool on = strcmp(args->v[0], "on") == 0;
    if (!on && strcmp(args->v[0], "off") != 0) {
        return admin_fail(EX_DATAERR, "%s: neither on nor off", args->v[0]);
    }
    return set(a, on);
}
