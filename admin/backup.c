/*
 * backup: see the header. pgBackRest is started once for each question and has PROGRAM_MS for its
 * answer, as its repository may be a mount that hangs.
 */
#include "backup.h"

#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include "base/buffer.h"
#include "base/check.h"
#include "pgbackrest.h"
#include "program.h"

#define PROGRAM_MS    60000
#define ANSWER_MAX    (256u << 20) /* a segment is some 120 octets of a listing */
#define WORDS_MAX     32
#define LATE_SEGMENTS 3 /* times archive_timeout: then the archive is late */
#define LATE_LEAST_MS (5 * 60 * 1000)

struct watch {
    struct admin *admin;
    backup_report_fn *fn;
    void *arg;
    int64_t now_ms;
};

static void report(const struct watch *w, bool ok, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void report(const struct watch *w, bool ok, const char *what, const char *fmt, ...)
{
    char says[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(says, sizeof says, fmt, ap);
    va_end(ap);
    w->fn(w->arg, ok, what, says);
}

/* `3d4h`, `2h5m`, `40s`: as exact as somebody needs it. */
static const char *span_words(int64_t ms, char out[32])
{
    int64_t s = ms < 0 ? 0 : ms / 1000, m = s / 60, h = m / 60;
    if (h >= 48) {
        snprintf(out, 32, "%lldd%lldh", (long long)(h / 24), (long long)(h % 24));
    } else if (h > 0) {
        snprintf(out, 32, "%lldh%lldm", (long long)h, (long long)(m % 60));
    } else if (m > 0) {
        snprintf(out, 32, "%lldm", (long long)m);
    } else {
        snprintf(out, 32, "%llds", (long long)s);
    }
    return out;
}

static const char *date_words(int64_t ms, char out[32])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    if (!gmtime_r(&s, &tm) || !strftime(out, 32, "%Y-%m-%dT%H:%MZ", &tm)) {
        snprintf(out, 32, "?");
    }
    return out;
}

/* --- running pgBackRest ---------------------------------------------------------------------- */

/* The words of backup.command and of the question, all owned: no shell sees them. */
struct command {
    char *words[WORDS_MAX + 1];
    size_t n;
};

static void add_word(struct command *c, const char *word)
{
    if (c->n < WORDS_MAX) {
        c->words[c->n] = mem_strdup(word);
    }
    c->n++;
}

/* False: backup.command has no word, or there are too many. */
static bool make_command(struct command *c, const char *program, const char *const *question)
{
    char *text = mem_strdup(program), *save = NULL;
    *c = (struct command){ 0 };
    for (char *w = strtok_r(text, " \t", &save); w; w = strtok_r(NULL, " \t", &save)) {
        add_word(c, w);
    }
    free(text);
    bool named = c->n > 0;
    for (; *question; question++) {
        add_word(c, *question);
    }
    return named && c->n <= WORDS_MAX;
}

static void free_command(struct command *c)
{
    for (size_t i = 0; i < WORDS_MAX; i++) {
        free(c->words[i]);
    }
}

/* One question; its answer into *out, which the caller has made. */
static enum err ask(struct admin *a, const char *const *question, struct buf *out, char *why,
                    size_t size)
{
    struct command c;
    enum err e = ERR_INVALID;
    if (make_command(&c, a->config->backup_command, question)) {
        e = program_ask(c.words, PROGRAM_MS, out, why, size);
    } else {
        snprintf(why, size, "backup.command has no word, or too many");
    }
    free_command(&c);
    return e;
}

/* --- the rules ------------------------------------------------------------------------------- */

/*
 * A file that a database of the window names was deleted, if at all, within the window: so it still
 * stands. Where the volumes have snapshots for as long, it need only stand until the next one.
 */
static void check_grace(const struct watch *w)
{
    const struct config *c = w->admin->config;
    uint64_t snapshots = c->backup_snapshots;
    uint64_t least = snapshots > 0 ? snapshots : c->backup_window;
    char grace[32], wanted[32];
    span_words((int64_t)c->spool_grace, grace);
    span_words((int64_t)least, wanted);
    if (c->spool_grace >= least) {
        report(w, true, "backup grace", "spool.grace %s, %s %s", grace,
               snapshots > 0 ? "a snapshot every" : "backup.window", wanted);
    } else {
        report(w, false, "backup grace",
               "spool.grace is %s, %s %s: a restored database would name files that are gone",
               grace, snapshots > 0 ? "snapshots are taken every" : "backup.window is", wanted);
    }
}

static void check_newest(const struct watch *w, const struct backup_facts *f)
{
    char age[32], most[32];
    int64_t max_age = (int64_t)w->admin->config->backup_max_age;
    span_words(w->now_ms - f->newest_ms, age);
    span_words(max_age, most);
    if (f->damaged > 0) {
        report(w, false, "backup",
               "%zu backups have pages with wrong checksums: see pgbackrest info", f->damaged);
    } else if (w->now_ms - f->newest_ms > max_age) {
        report(w, false, "backup", "the newest one is %s old, backup.max_age is %s", age, most);
    } else {
        report(w, true, "backup", "the newest one is %s old; %zu are kept", age, f->n);
    }
}

/* Nobody can go back to before there was a fleet; its first backup is due within backup.max_age. */
static void check_window(const struct watch *w, const struct backup_facts *f, int64_t made_ms)
{
    const struct config *c = w->admin->config;
    int64_t due = w->now_ms - (int64_t)c->backup_window;
    int64_t first = made_ms + (int64_t)c->backup_max_age;
    char from[32], window[32];
    date_words(f->begin_ms, from);
    span_words((int64_t)c->backup_window, window);
    if (f->begin_ms <= due) {
        report(w, true, "backup window", "covered: the oldest backup that it needs is of %s", from);
    } else if (f->begin_ms <= first) {
        report(w, true, "backup window", "from %s on, soon after this fleet was made", from);
    } else {
        report(w, false, "backup window",
               "a restore can only go back to %s, backup.window is %s: keep backups for longer",
               from, window);
    }
}

/* What PostgreSQL knows: how its archiver fares, the size of a segment, how old the fleet is. */
struct database {
    int64_t archived_ms, failed_ms, timeout_ms, segment, made_ms;
    bool on;
    char last[64], refused[64];
};

static bool ask_database(const struct watch *w, struct database *d)
{
    struct admin *a = w->admin;
    admin_sql(a,
              "SELECT coalesce(extract(epoch FROM last_archived_time) * 1000, 0)::bigint, "
              "coalesce(extract(epoch FROM last_failed_time) * 1000, 0)::bigint, "
              "coalesce(last_archived_wal, ''), coalesce(last_failed_wal, ''), "
              "current_setting('archive_mode') <> 'off', "
              "(SELECT setting::bigint * 1000 FROM pg_settings WHERE name = 'archive_timeout'), "
              "(SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'), "
              "(SELECT (extract(epoch FROM min(applied_at)) * 1000)::bigint FROM schema_version) "
              "FROM pg_stat_archiver");
    if (admin_run(a, PG_READ) != ERR_OK) {
        report(w, false, "backup log", "%s", a->reply.message);
        return false;
    }
    const PGresult *r = admin_result(a, 0);
    *d = (struct database){ .archived_ms = pg_get_i64(r, 0, 0),
                            .failed_ms = pg_get_i64(r, 0, 1),
                            .on = pg_get_i64(r, 0, 4) != 0,
                            .timeout_ms = pg_get_i64(r, 0, 5),
                            .segment = pg_get_i64(r, 0, 6),
                            .made_ms = pg_get_i64(r, 0, 7) };
    snprintf(d->last, sizeof d->last, "%.*s", SPAN_ARG(pg_get_span(r, 0, 2)));
    snprintf(d->refused, sizeof d->refused, "%.*s", SPAN_ARG(pg_get_span(r, 0, 3)));
    return true;
}

/*
 * Nodes write their rows every few seconds, so the log never rests and a segment is closed with
 * each archive_timeout. False when there is something wrong, which was reported.
 */
static bool check_archiver(const struct watch *w, const struct database *d)
{
    char age[32];
    int64_t late = d->timeout_ms * LATE_SEGMENTS;
    late = late > LATE_LEAST_MS ? late : LATE_LEAST_MS;
    span_words(w->now_ms - d->archived_ms, age);
    if (!d->on) {
        report(w, false, "backup log", "archive_mode is off: nothing but whole backups is kept");
    } else if (d->failed_ms > d->archived_ms) {
        report(w, false, "backup log", "%s is refused by archive_command: see PostgreSQL's log",
               d->refused);
    } else if (d->archived_ms == 0) {
        report(w, false, "backup log", "PostgreSQL has archived nothing yet");
    } else if (d->timeout_ms == 0) {
        report(w, false, "backup log",
               "archive_timeout is 0: what a segment holds that isn't full is nowhere else");
    } else if (w->now_ms - d->archived_ms > late) {
        report(w, false, "backup log", "the last segment was archived %s ago", age);
    } else {
        return true;
    }
    return false;
}

static void check_gap(const struct watch *w, const struct backup_facts *f, const struct database *d)
{
    const char *stanza = w->admin->config->backup_stanza;
    char stanza_option[128], repo[32], path[128], why[256], missing[WAL_SEGMENT_CHARS + 1], age[32];
    snprintf(stanza_option, sizeof stanza_option, "--stanza=%s", stanza);
    snprintf(repo, sizeof repo, "--repo=%u", f->repo);
    snprintf(path, sizeof path, "archive/%s/%s", stanza, f->archive);
    const char *question[] = { stanza_option, repo, "--output=json", "--recurse", "repo-ls",
                               path,          NULL };
    struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    enum err e = ask(w->admin, question, &answer, why, sizeof why);
    if (e != ERR_OK) {
        report(w, false, "backup log", "%s", why);
    } else if ((e = pgbackrest_find_gap(buf_span(&answer), f->first, (uint64_t)d->segment,
                                        missing)) == ERR_NOTFOUND) {
        report(w, false, "backup log", "a gap: %s is not in the repository; take a full backup",
               missing);
    } else if (e != ERR_OK) {
        report(w, false, "backup log", "pgBackRest lists its log in a way that is not known");
    } else {
        report(w, true, "backup log", "no gap from %s to %s, archived %s ago", f->first, f->last,
               span_words(w->now_ms - d->archived_ms, age));
    }
    buf_fini(&answer);
}

static bool ask_info(const struct watch *w, struct backup_facts *f)
{
    const struct config *c = w->admin->config;
    char stanza[128], why[256];
    snprintf(stanza, sizeof stanza, "--stanza=%s", c->backup_stanza);
    const char *question[] = { stanza, "--output=json", "info", NULL };
    struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    enum err e = ask(w->admin, question, &answer, why, sizeof why);
    if (e == ERR_OK) {
        e = pgbackrest_read_info(buf_span(&answer), c->backup_stanza,
                                 w->now_ms - (int64_t)c->backup_window, f, why, sizeof why);
    }
    if (e != ERR_OK) {
        report(w, false, "backup", "%s", why);
    }
    buf_fini(&answer);
    return e == ERR_OK;
}

void backup_check(struct admin *a, backup_report_fn *fn, void *arg)
{
    struct watch w = { .admin = a, .fn = fn, .arg = arg, .now_ms = admin_now() };
    struct backup_facts facts;
    struct database database;
    if (!*a->config->backup_stanza) {
        report(&w, true, "backup", "not watched: backup.stanza is not set");
        return;
    }
    check_grace(&w);
    bool log_known = ask_database(&w, &database);
    bool log_well = log_known && check_archiver(&w, &database);
    if (!ask_info(&w, &facts)) {
        return;
    }
    check_newest(&w, &facts);
    if (log_known) {
        check_window(&w, &facts, database.made_ms);
    }
    if (log_well) {
        check_gap(&w, &facts, &database);
    }
}
