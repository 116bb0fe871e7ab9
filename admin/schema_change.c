/*
 * schema_change: see the header.
 *
 * Almost any ALTER TABLE needs a lock that conflicts with everything, and while it waits behind one
 * long transaction every statement of the mail path waits behind it. So it waits for half of
 * database.timeout, gives its place up, lets the mail that has gathered through, and comes again.
 * Half of the default is 1.5 s, on purpose more than PostgreSQL's deadlock_timeout of 1 s: only who
 * has waited that long makes an autovacuum yield, and with less a large table's would keep us out
 * for hours. Nor may one statement run for longer than database.timeout: what it has locked, mail
 * waits for.
 *
 * A script that is not one transaction (CREATE INDEX CONCURRENTLY) takes no lock that mail waits
 * for, so it has neither bound.
 *
 * Of two operators at once one fails, by what exists already or by the record, and undoes all of
 * its own.
 */
#include "schema_change.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "store/pg_blocking.h"

#define ATTEMPTS   8
#define PAUSE_STEP 2u /* seconds more before each attempt: mail gets more time than we take */
#define PAUSE_MOST 10u

#define SQLSTATE_LOCK     "55P03" /* lock_not_available */
#define SQLSTATE_DEADLOCK "40P01"
#define SQLSTATE_LONG     "57014" /* query_canceled: by statement_timeout */

enum attempt { DONE, BUSY, FAILED };

struct change {
    PGconn *c;
    const struct migration *m;
    const struct script *script;
    uint64_t timeout_ms; /* database.timeout; 0: without bounds */
    const char *done;    /* the word for it */
    char record[160];    /* the statement that notes it; changes one row */
};

const struct script *schema_script(const struct migration *m, enum schema_change kind)
{
    return kind == SCHEMA_EXPAND ? &m->expand : kind == SCHEMA_CONTRACT ? &m->contract : &m->revert;
}

/* In place; libpq's messages end with a newline, or have further lines. */
static const char *first_line(char *text)
{
    text[strcspn(text, "\n")] = '\0';
    return text;
}

static enum attempt failed(const struct change *x, const PGresult *r)
{
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    if (state && (strcmp(state, SQLSTATE_LOCK) == 0 || strcmp(state, SQLSTATE_DEADLOCK) == 0)) {
        return BUSY;
    }
    admin_say("migration %03u-%s: %s", x->m->number, x->m->name, first_line(PQerrorMessage(x->c)));
    if (state && strcmp(state, SQLSTATE_LONG) == 0 && x->timeout_ms) {
        admin_say("mail would wait for that longer than database.timeout; nothing was changed");
    } else if (!state) {
        admin_say("mailfleet migrate --status tells whether it was done");
    }
    return FAILED;
}

/* rows: how many the last statement must have changed; -1: that does not matter. */
static enum attempt run(const struct change *x, const char *sql, int rows)
{
    PGresult *r = PQexec(x->c, sql);
    ExecStatusType status = PQresultStatus(r);
    enum attempt result = DONE;
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        result = failed(x, r);
    } else if (rows >= 0 && atoi(PQcmdTuples(r)) != rows) {
        admin_say("migration %03u-%s: somebody else has changed the schema meanwhile", x->m->number,
                  x->m->name);
        result = FAILED;
    }
    PQclear(r);
    return result;
}

static enum attempt run_transaction(const struct change *x)
{
    char begin[160] = "BEGIN";
    if (x->timeout_ms) {
        snprintf(begin, sizeof begin,
                 "BEGIN; SET LOCAL lock_timeout = %llu; SET LOCAL statement_timeout = %llu",
                 (unsigned long long)x->timeout_ms / 2, (unsigned long long)x->timeout_ms);
    }
    enum attempt result = run(x, begin, -1);
    if (result == DONE) {
        result = run(x, x->script->statements, -1);
    }
    if (result == DONE) {
        result = run(x, x->record, 1);
    }
    if (result == DONE) {
        return run(x, "COMMIT", -1);
    }
    PQclear(PQexec(x->c, "ROLLBACK"));
    return result;
}

static enum attempt run_one_by_one(const struct change *x)
{
    enum attempt result = DONE;
    for (const char *s = x->script->statements; *s && result == DONE; s += strlen(s) + 1) {
        result = run(x, s, -1);
    }
    if (result == DONE) {
        result = run(x, x->record, 1);
    }
    if (result == FAILED) {
        admin_say("its statements are not one transaction: run it again");
    }
    return result;
}

/* Whom a lock is most likely waited for. */
static void say_oldest(const struct change *x)
{
    PGresult *r = PQexec(x->c, "SELECT pid, usename, extract(epoch FROM now() - xact_start)::bigint"
                               "  FROM pg_stat_activity"
                               " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                               "   AND xact_start IS NOT NULL ORDER BY xact_start LIMIT 1");
    if (PQntuples(r) == 1) {
        admin_say("the oldest transaction is that of process %s, user %s, %s s old",
                  PQgetvalue(r, 0, 0), PQgetvalue(r, 0, 1), PQgetvalue(r, 0, 2));
    }
    PQclear(r);
}

/* With jitter, so as not to meet again what comes at even times. */
static void pause_before_next(const struct change *x, unsigned n)
{
    unsigned seconds = n * PAUSE_STEP < PAUSE_MOST ? n * PAUSE_STEP : PAUSE_MOST;
    admin_say("migration %03u-%s: a lock was not to be had, so mail goes first; "
              "again in %u s (%u of %u)",
              x->m->number, x->m->name, seconds, n + 1, ATTEMPTS);
    struct timespec t = { .tv_sec = seconds, .tv_nsec = (long)arc4random_uniform(1000000000) };
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

static int run_change(const struct change *x)
{
    for (unsigned n = 1;; n++) {
        enum attempt result = x->script->alone ? run_one_by_one(x) : run_transaction(x);
        if (result == DONE) {
            admin_say("%s %03u-%s", x->done, x->m->number, x->m->name);
            return EX_OK;
        }
        if (result == FAILED) {
            return EX_SOFTWARE;
        }
        say_oldest(x);
        if (n == ATTEMPTS) {
            return admin_fail(EX_TEMPFAIL,
                              "migration %03u-%s: a lock was not to be had; come again later",
                              x->m->number, x->m->name);
        }
        pause_before_next(x, n);
    }
}

static void set_record(struct change *x, enum schema_change kind)
{
    unsigned number = x->m->number;
    switch (kind) {
    case SCHEMA_EXPAND:
        x->done = "applied";
        snprintf(x->record, sizeof x->record,
                 "INSERT INTO schema_version (version, name) VALUES (%u, '%s')", number,
                 x->m->name);
        break;
    case SCHEMA_CONTRACT:
        x->done = "contracted";
        snprintf(x->record, sizeof x->record,
                 "UPDATE schema_version SET contracted_at = now()"
                 " WHERE version = %u AND contracted_at IS NULL",
                 number);
        break;
    case SCHEMA_REVERT:
        x->done = "took back";
        snprintf(x->record, sizeof x->record,
                 "DELETE FROM schema_version WHERE version = %u AND contracted_at IS NULL", number);
        break;
    }
}

/* What is there already is not worth a line. */
static void ignore_notice(void *arg, const char *text)
{
    (void)arg;
    (void)text;
}

int schema_change(struct admin *a, const struct migration *m, enum schema_change kind, bool unused)
{
    struct change x = { .c = pg_blocking_connect(a->config->database_url),
                        .m = m,
                        .script = schema_script(m, kind),
                        .timeout_ms = unused ? 0 : a->config->database_timeout };
    int code;
    CHECK(x.script->statements);
    set_record(&x, kind);
    if (PQstatus(x.c) != CONNECTION_OK) {
        code = admin_fail(EX_TEMPFAIL, "database: %s", first_line(PQerrorMessage(x.c)));
    } else {
        PQsetNoticeProcessor(x.c, ignore_notice, NULL);
        code = run_change(&x);
    }
    PQfinish(x.c);
    return code;
}
