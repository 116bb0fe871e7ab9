/*
 * admin: see the header. The waiting is one place: admin_wait runs the loop until a flag is set;
 * every call has a deadline of its own, so it ends.
 */
#include "admin.h"

#include <bsd/readpassphrase.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "store/schema_version.h"

#define PASSWORD_MAX 511   /* of crypt(3), less what no client sends */
#define CLOCK_OFF_MS 60000 /* that a node's clock may be off before it is said */

/* What it tells may come from a stranger: a control character could drive the terminal. */
static void say(const char *fmt, va_list ap)
{
    char line[2048];
    vsnprintf(line, sizeof line, fmt, ap);
    for (char *p = line; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) {
            *p = '?';
        }
    }
    fprintf(stderr, "mailfleet: %s\n", line);
}

void admin_say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
}

int admin_fail(int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
    return code;
}

/* A table or a function of ours is not there: undefined_table, undefined_function. */
static bool is_schema_missing(const struct pg_reply *r)
{
    return strcmp(r->sqlstate, "42P01") == 0 || strcmp(r->sqlstate, "42883") == 0;
}

const char *admin_plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

int admin_fail_reply(const struct admin *a, const char *what)
{
    const char *text = a->reply.message[0] ? a->reply.message : err_text(a->reply.err);
    if (a->schema_misfit) {
        return admin_fail(EX_CONFIG, "%s", text);
    }
    if (is_schema_missing(&a->reply)) {
        return admin_fail(EX_CONFIG, "database: %s: run mailfleet migrate", text);
    }
    switch (a->reply.err) {
    case ERR_NOTFOUND:
        return admin_fail(EX_NOUSER, "%s: not found", what);
    case ERR_BUSY:
        return admin_fail(EX_CANTCREAT, "%s: exists already", what);
    case ERR_INVALID:
    case ERR_LIMIT:
        return admin_fail(EX_DATAERR, "%s: %s", what, text);
    case ERR_UNCERTAIN:
        return admin_fail(EX_TEMPFAIL, "%s: the database did not answer; it may have been done",
                          what);
    default:
        return admin_fail(EX_TEMPFAIL, "%s: %s", what, text);
    }
}

void admin_open(struct admin *a, const char *config_path, bool json)
{
    a->config_path = config_path;
    a->json = json;
    a->loop = loop_open();
}

static void free_results(struct admin *a)
{
    for (size_t i = 0; i < a->n_results; i++) {
        PQclear(a->results[i]);
    }
    free(a->results);
    a->results = NULL;
    a->n_results = 0;
}

void admin_close(struct admin *a)
{
    free_results(a);
    pg_batch_free(&a->batch);
    if (a->cache) {
        cache_close(&a->cache);
    }
    if (a->pg) {
        pg_close(&a->pg);
    }
    seal_free(&a->seal);
    loop_close(&a->loop);
    config_free(&a->config);
}

void admin_open_beside(struct admin *beside, const struct admin *a, uint64_t timeout_ms)
{
    *beside = (struct admin){ .config = a->config,
                              .timeout_ms = timeout_ms,
                              .any_schema = a->any_schema,
                              .schema_known = a->schema_known };
    admin_open(beside, a->config_path, a->json);
}

void admin_close_beside(struct admin *beside)
{
    beside->config = NULL; /* the first one's */
    admin_close(beside);
}

/* Who started the command, though it is root no more. */
static uid_t started_by = (uid_t)-1;

bool admin_drop_root(struct admin *a)
{
    const char *name = a->config->node_user;
    if (geteuid() != 0 || !*name) {
        return true;
    }
    started_by = getuid();
    const struct passwd *pw = getpwnam(name);
    if (!pw) {
        admin_fail(EX_CONFIG, "node.user: no such user: %s", name);
        return false;
    }
    if (initgroups(name, pw->pw_gid) || setgid(pw->pw_gid) || setuid(pw->pw_uid)) {
        admin_fail(EX_OSERR, "can't become %s: %s", name, strerror(errno));
        return false;
    }
    return true;
}

/*
 * Before a call with a deadline is made: commands leave the loop for as long as they like, and by
 * its clock, which stands still meanwhile, the deadline would be over at once.
 */
static void wake_loop(struct admin *a)
{
    uv_update_time(loop_uv(a->loop));
}

static void admin_wait(struct admin *a, const bool *done)
{
    while (!*done) {
        uv_run(loop_uv(a->loop), UV_RUN_ONCE);
    }
}

/* --- the database ---------------------------------------------------------------------------- */

/* Nothing is asked of a new connection: init, migrate and check work without a schema, too. */
static struct pg *admin_pg(struct admin *a)
{
    if (!a->pg) {
        a->pg = pg_open(a->loop, &(struct pg_options){
                                     .url = a->config->database_url,
                                     .read_connections = 1,
                                     .write_connections = 1,
                                     .timeout_ms = a->timeout_ms ? a->timeout_ms
                                                                 : a->config->database_timeout });
    }
    return a->pg;
}

void admin_sql(struct admin *a, const char *sql)
{
    if (!a->batch) {
        free_results(a);
        a->batch = pg_batch_new();
    }
    pg_stmt(a->batch, sql);
}

struct wait_reply {
    struct admin *admin;
    bool done;
};

static void on_reply(void *arg, const struct pg_reply *r)
{
    struct wait_reply *w = arg;
    struct admin *a = w->admin;
    a->reply = *r;
    a->reply.r = NULL; /* borrowed: the copies outlive it */
    a->results = NEW_ARRAY(PGresult *, r->n + 1);
    a->n_results = r->n;
    for (size_t i = 0; i < r->n; i++) {
        a->results[i] = PQcopyResult(r->r[i], PG_COPYRES_ATTRS | PG_COPYRES_TUPLES);
        CHECK(a->results[i]);
    }
    w->done = true;
}

static enum err send_batch(struct admin *a, enum pg_lane lane)
{
    struct wait_reply w = { .admin = a };
    wake_loop(a);
    pg_submit(admin_pg(a), lane, &a->batch, on_reply, &w);
    admin_wait(a, &w.done);
    return a->reply.err;
}

static enum err learn_schema(struct admin *a)
{
    struct pg_batch *later = a->batch;
    struct schema found;
    a->batch = NULL;
    admin_sql(a, SCHEMA_SQL);
    enum err e = send_batch(a, PG_READ);
    if (e == ERR_OK && !schema_read(admin_result(a, 0), &found)) {
        e = ERR_CORRUPT;
    } else if (e == ERR_OK && !schema_fits(&found, a->reply.message, sizeof a->reply.message)) {
        a->schema_misfit = true;
        e = ERR_TEMP;
    }
    a->reply.err = e;
    free_results(a);
    a->batch = later;
    return e;
}

enum err admin_run(struct admin *a, enum pg_lane lane)
{
    if (!a->any_schema && !a->schema_known) {
        enum err e = learn_schema(a);
        if (e != ERR_OK) {
            pg_batch_free(&a->batch);
            return e;
        }
        a->schema_known = true;
    }
    return send_batch(a, lane);
}

const PGresult *admin_result(const struct admin *a, size_t i)
{
    CHECK(i < a->n_results);
    return a->results[i];
}

int admin_rows(const struct admin *a, size_t i)
{
    return PQntuples(admin_result(a, i));
}

/* --- the cache ------------------------------------------------------------------------------- */

static enum err open_cache(struct admin *a)
{
    const struct config *c = a->config;
    if (a->cache) {
        return ERR_OK;
    }
    a->reply = (struct pg_reply){ .err = ERR_INVALID };
    if (seal_load(c->node_fleet_key_file, &a->seal, a->reply.message, sizeof a->reply.message) !=
        ERR_OK) {
        return ERR_INVALID;
    }
    a->cache =
        cache_open(a->loop, &(struct cache_options){ .servers = &c->cache_servers,
                                                     .timeout_ms = c->cache_timeout,
                                                     .list_ttl_ms = c->cache_list_ttl,
                                                     .account_ttl_ms = c->cache_account_ttl,
                                                     .tombstone_ttl_ms = c->cache_tombstone_ttl,
                                                     .seal = a->seal });
    return ERR_OK;
}

struct wait_err {
    bool done;
    enum err err;
};

static void on_err(void *arg, enum err e)
{
    struct wait_err *w = arg;
    w->err = e;
    w->done = true;
}

static enum err drop_keys(struct admin *a, const struct cache_key *keys, size_t n)
{
    struct wait_err w = { 0 };
    wake_loop(a);
    cache_tombstone(a->cache, keys, n, on_err, &w);
    admin_wait(a, &w.done);
    return w.err;
}

/* It is a part of every key. */
static enum err learn_epoch(struct admin *a)
{
    struct pg_batch *later = a->batch;
    a->batch = NULL;
    admin_sql(a, "SELECT fleet_epoch()");
    enum err e = admin_run(a, PG_READ);
    if (e == ERR_OK) {
        cache_set_epoch(a->cache, (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0));
    }
    free_results(a);
    a->batch = later;
    return e;
}

enum err admin_run_change(struct admin *a, const struct cache_key *keys, size_t n)
{
    enum err e = open_cache(a);
    if (e == ERR_OK) {
        e = learn_epoch(a);
    }
    if (e != ERR_OK) {
        pg_batch_free(&a->batch);
        return e;
    }
    enum err first = drop_keys(a, keys, n);
    e = admin_run(a, PG_WRITE);
    enum err second = drop_keys(a, keys, n);
    if ((first != ERR_OK || second != ERR_OK) && !a->cache_was_late) {
        a->cache_was_late = true;
        admin_say("a cache server could not be told; nodes that reach it may use the old state for "
                  "up to %llu s",
                  (unsigned long long)(a->config->cache_account_ttl / 1000));
    }
    return e;
}

/* --- what operators type --------------------------------------------------------------------- */

char *admin_read_password(bool from_stdin)
{
    char first[PASSWORD_MAX + 2], second[PASSWORD_MAX + 2];
    char *out = NULL;
    int flags = from_stdin ? RPP_STDIN : RPP_REQUIRE_TTY;
    if (!readpassphrase("New password: ", first, sizeof first, flags)) {
        admin_say(from_stdin ? "no password on standard input"
                             : "no terminal to ask for a password: --password-stdin "
                               "or --hash");
    } else if (!*first) {
        admin_say("the password is empty");
    } else if (strlen(first) > PASSWORD_MAX) {
        admin_say("the password is longer than %d octets", PASSWORD_MAX);
    } else if (!from_stdin && (!readpassphrase("The same again: ", second, sizeof second, flags) ||
                               strcmp(first, second) != 0)) {
        admin_say("the two are different");
    } else {
        out = mem_strdup(first);
    }
    explicit_bzero(first, sizeof first);
    explicit_bzero(second, sizeof second);
    return out;
}

bool admin_address(const char *text, struct address *out)
{
    enum err e = address_parse(span_str(text), out);
    if (e != ERR_OK) {
        admin_say("%s: not a valid address: %s", text, address_explain(span_str(text)));
    }
    return e == ERR_OK;
}

bool admin_domain(const char *text, char out[DOMAIN_MAX + 2])
{
    struct address a;
    char full[DOMAIN_MAX + 3];
    int n = snprintf(full, sizeof full, "x@%s", text);
    if (n < 0 || (size_t)n >= sizeof full || address_parse(span_str(full), &a) != ERR_OK) {
        admin_say("%s: not a domain", text);
        return false;
    }
    memcpy(out, a.canon + 1, strlen(a.canon));
    return true;
}

int admin_mailbox(struct admin *a, const struct address *addr, uint64_t *mailbox_id)
{
    admin_sql(a, "SELECT mailbox_id FROM address WHERE addr = $1");
    pg_text(a->batch, span_str(addr->canon));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    if (admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such account", addr->canon);
    }
    if (PQgetisnull(admin_result(a, 0), 0, 0)) {
        return admin_fail(EX_NOUSER, "%s: an alias, not an account", addr->canon);
    }
    *mailbox_id = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    return EX_OK;
}

int admin_mailbox_kept(struct admin *a, const struct address *addr, uint64_t *mailbox_id)
{
    uint64_t id;
    int code = admin_mailbox(a, addr, &id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "SELECT state FROM mailbox WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    if (admin_rows(a, 0) == 0 || pg_get_i64(admin_result(a, 0), 0, 0) == ACCOUNT_REMOVED) {
        return admin_fail(EX_NOUSER, "%s: was removed: mailfleet account restore %s", addr->canon,
                          addr->canon);
    }
    *mailbox_id = id;
    return EX_OK;
}

int admin_check_domains(struct admin *a, const struct address *addrs, size_t n)
{
    struct span *domains = NEW_ARRAY(struct span, n);
    for (size_t i = 0; i < n; i++) {
        domains[i] = span_str(addrs[i].canon + addrs[i].canon_local + 1);
    }
    admin_sql(a, "SELECT w.name FROM unnest($1::text[]) w (name) "
                 "WHERE NOT EXISTS (SELECT FROM domain d WHERE d.name = w.name)");
    pg_texts(a->batch, domains, n);
    free(domains);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "domains");
    }
    if (admin_rows(a, 0) > 0) {
        struct span d = pg_get_span(admin_result(a, 0), 0, 0);
        return admin_fail(EX_NOHOST, "%.*s: not a domain of ours", SPAN_ARG(d));
    }
    return EX_OK;
}

int admin_addresses(struct admin *a, struct address_walk *w)
{
    if (*w->domain) {
        admin_sql(a, "SELECT addr, mailbox_id, targets FROM address "
                     "WHERE addr > $1 AND domain = $3 ORDER BY addr LIMIT $2");
    } else {
        admin_sql(a, "SELECT addr, mailbox_id, targets FROM address "
                     "WHERE addr > $1 ORDER BY addr LIMIT $2");
    }
    pg_text(a->batch, span_str(w->last));
    pg_i64(a->batch, ADDRESS_PAGE);
    if (*w->domain) {
        pg_text(a->batch, span_str(w->domain));
    }
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "addresses");
    }
    int n = admin_rows(a, 0);
    if (n > 0) {
        struct span last = pg_get_span(admin_result(a, 0), n - 1, 0);
        snprintf(w->last, sizeof w->last, "%.*s", SPAN_ARG(last));
    }
    w->ended = n < ADDRESS_PAGE;
    return EX_OK;
}

int admin_volumes(struct admin *a, struct volume **v, size_t *n)
{
    admin_sql(a, "SELECT volume_id, uuid::text, url, fanout, state, weight, free_floor FROM volume "
                 "ORDER BY volume_id");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "volumes");
    }
    const PGresult *r = admin_result(a, 0);
    *n = (size_t)PQntuples(r);
    *v = NEW_ARRAY(struct volume, *n);
    for (int i = 0; i < PQntuples(r); i++) {
        struct volume *o = &(*v)[i];
        o->volume_id = (uint16_t)pg_get_i64(r, i, 0);
        snprintf(o->uuid, sizeof o->uuid, "%.*s", SPAN_ARG(pg_get_span(r, i, 1)));
        snprintf(o->url, sizeof o->url, "%.*s", SPAN_ARG(pg_get_span(r, i, 2)));
        o->fanout = (unsigned)pg_get_i64(r, i, 3);
        o->state = (enum volume_state)pg_get_i64(r, i, 4);
        o->weight = (unsigned)pg_get_i64(r, i, 5);
        o->free_floor = (uint64_t)pg_get_i64(r, i, 6);
    }
    return EX_OK;
}

int64_t admin_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int admin_read_clock(struct admin *a)
{
    admin_sql(a, "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "the database's clock");
    }
    a->clock_ms = pg_get_i64(admin_result(a, 0), 0, 0);
    a->clock_at = monotonic_ms();
    int64_t off = admin_now() - a->clock_ms;
    if (off > CLOCK_OFF_MS || off < -CLOCK_OFF_MS) {
        admin_say("this node's clock is %lld s %s the database's, which counts",
                  (long long)(off < 0 ? -off : off) / 1000, off < 0 ? "behind" : "ahead of");
    }
    return EX_OK;
}

int64_t admin_clock(const struct admin *a)
{
    return a->clock_at ? a->clock_ms + monotonic_ms() - a->clock_at : admin_now();
}

void admin_who(char out[64])
{
    const char *name = getenv("SUDO_USER");
    struct passwd *pw = name ? NULL : getpwuid(started_by == (uid_t)-1 ? getuid() : started_by);
    snprintf(out, 64, "operator %s", name ? name : pw ? pw->pw_name : "unknown");
}

static bool parse_ago(const char *text, int64_t *ms)
{
    static const struct {
        char unit;
        int64_t ms;
    } units[] = { { 's', 1000 }, { 'm', 60000 }, { 'h', 3600000 }, { 'd', 86400000 } };
    struct span s = span_str(text);
    uint64_t n;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (s.n > 1 && s.p[s.n - 1] == units[i].unit &&
            span_u64(span_first(s, s.n - 1), 1000000, &n) == ERR_OK) {
            *ms = admin_now() - (int64_t)n * units[i].ms;
            return true;
        }
    }
    return false;
}

bool admin_parse_time(const char *text, int64_t *ms)
{
    static const char *const forms[] = { "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d" };
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct tm t = { 0 };
        const char *end = strptime(text, forms[i], &t);
        if (end && !*end) {
            *ms = (int64_t)timegm(&t) * 1000;
            return true;
        }
    }
    if (parse_ago(text, ms)) {
        return true;
    }
    admin_fail(EX_DATAERR, "%s: not a time: 2026-01-31, 2026-01-31T12:00Z, or 3d, 12h, 30m ago",
               text);
    return false;
}

enum err admin_parse_size(const char *text, uint64_t *out)
{
    static const struct {
        char suffix;
        unsigned shift;
    } units[] = { { 'K', 10 }, { 'M', 20 }, { 'G', 30 }, { 'T', 40 } };
    struct span s = span_str(text);
    unsigned shift = 0;
    if (strcmp(text, "none") == 0) {
        *out = 0;
        return ERR_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(units) && s.n > 0; i++) {
        if (s.p[s.n - 1] == units[i].suffix) {
            shift = units[i].shift;
            s.n--;
            break;
        }
    }
    uint64_t v;
    if (span_u64(s, (uint64_t)INT64_MAX >> shift, &v) != ERR_OK) {
        return ERR_INVALID;
    }
    *out = v << shift;
    return ERR_OK;
}
