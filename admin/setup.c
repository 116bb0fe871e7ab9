/*
 * setup: init, check, settings, epoch: what an operator runs when a node or a fleet is
 * made, and when something is wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#include "backup.h"
#include "base/check.h"
#include "commands.h"
#include "dns_facts.h"
#include "migrate.h"
#include "net/tls.h"
#include "nodes.h"
#include "reaping.h"
#include "store/cache_server.h"
#include "store/quota_rules.h"
#include "store/warning.h"
#include "table.h"

/* --- init ------------------------------------------------------------------------------------ */

/* A new fleet key: for root and node.user, whatever the umask. All nodes need the same one. */
static int make_key(struct admin *a)
{
    const char *path = a->config->node_fleet_key_file;
    uint8_t key[32];
    char hex[2 * sizeof key + 2];
    if (!*path) {
        return admin_fail(EX_CONFIG, "node.fleet_key_file is not set");
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0) {
        return errno == EEXIST ? EX_OK : admin_fail(EX_CANTCREAT, "%s: %s", path, strerror(errno));
    }
    CHECK(getrandom(key, sizeof key, 0) == sizeof key);
    for (size_t i = 0; i < sizeof key; i++) {
        sprintf(hex + 2 * i, "%02x", key[i]);
    }
    hex[sizeof hex - 2] = '\n';
    const struct passwd *pw =
        geteuid() == 0 && *a->config->node_user ? getpwnam(a->config->node_user) : NULL;
    bool ok = fchmod(fd, 0640) == 0 && write(fd, hex, sizeof hex - 1) == (ssize_t)sizeof hex - 1 &&
              (!pw || fchown(fd, 0, pw->pw_gid) == 0) && fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    explicit_bzero(key, sizeof key);
    explicit_bzero(hex, sizeof hex);
    if (!ok) {
        unlink(path);
        return admin_fail(EX_CANTCREAT, "%s: can't be written", path);
    }
    admin_say("made the fleet key %s: copy it to every node", path);
    return EX_OK;
}

int command_init(struct admin *a, const struct args *args)
{
    int code = make_key(a);
    if (code == EX_OK && !admin_drop_root(a)) {
        code = EX_CONFIG;
    }
    return code == EX_OK ? command_migrate(a, args) : code;
}

/* --- check ----------------------------------------------------------------------------------- */

static const struct column check_columns[] = {
    { "ok", "OK", COLUMN_FLAG },
    { "what", "WHAT", COLUMN_TEXT },
    { "says", "SAYS", COLUMN_TEXT },
};

struct checks {
    struct table *table;
    bool all;
};

static void report(struct checks *c, bool ok, const char *what, const char *says)
{
    table_flag(c->table, ok);
    table_text(c->table, span_str(what));
    table_text(c->table, span_str(says));
    c->all = c->all && ok;
}

static void check_key(struct admin *a, struct checks *c)
{
    struct seal *s;
    char why[256];
    enum err e = seal_load(a->config->node_fleet_key_file, &s, why, sizeof why);
    report(c, e == ERR_OK, "fleet key", e == ERR_OK ? a->config->node_fleet_key_file : why);
    if (e == ERR_OK) {
        seal_free(&s);
    }
}

static void check_quota(struct admin *a, struct checks *c)
{
    struct quota_rules rules;
    char why[512] = "";
    bool ok = quota_rules_read(a->config, &rules, why, sizeof why) == ERR_OK &&
              warning_read(a->config, why, sizeof why) == ERR_OK;
    if (ok && rules.n == 0) {
        snprintf(why, sizeof why, "nobody is warned");
    } else if (ok) {
        snprintf(why, sizeof why, "warned at %zu threshold%s%s%s", rules.n, admin_plural(rules.n),
                 a->config->warning ? ", by " : "", a->config->quota_warn_file);
    }
    report(c, ok, "quota", why);
}

static void check_tls(struct admin *a, struct checks *c)
{
    struct tls *t;
    char why[256];
    if (!*a->config->tls_certificate) {
        report(c, true, "tls", "not configured: STLS and STARTTLS are not offered");
        return;
    }
    struct tls_options o = { .certificate = a->config->tls_certificate,
                             .key = a->config->tls_key,
                             .client_ca = a->config->tls_client_ca };
    enum err e = tls_load(&o, &t, why, sizeof why);
    report(c, e == ERR_OK, "tls", e == ERR_OK ? a->config->tls_certificate : why);
    if (e == ERR_OK) {
        tls_unref(&t);
    }
}

/* Every NAME.pem in it; the first that is wrong is told. */
static void check_sni(struct admin *a, struct checks *c)
{
    struct tls *t;
    char why[256], says[300];
    if (!*a->config->tls_directory) {
        return;
    }
    struct tls_options o = { .certificate = a->config->tls_certificate,
                             .key = a->config->tls_key,
                             .directory = a->config->tls_directory };
    enum err e = tls_load(&o, &t, why, sizeof why);
    if (e == ERR_OK) {
        snprintf(says, sizeof says, "%zu certificates", tls_certificates(t) - 1);
        tls_unref(&t);
    }
    report(c, e == ERR_OK, "tls.directory", e == ERR_OK ? says : why);
}

/* The mechanisms that auth.mechanisms may name, and what each needs to be of use. */
static const char *mechanism_lacks(const struct config *c, const char *name)
{
    static const char *const plain[] = { "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS",
                                         "SCRAM-SHA-1" };
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        if (strcasecmp(name, plain[i]) == 0) {
            return NULL;
        }
    }
    if (strcasecmp(name, "OAUTHBEARER") == 0 || strcasecmp(name, "XOAUTH2") == 0) {
        return *c->oauth_introspection_url || *c->oauth_jwks_file
                   ? NULL
                   : "needs oauth.introspection_url or oauth.jwks_file";
    }
    if (strcasecmp(name, "EXTERNAL") == 0) {
        return *c->tls_client_ca ? NULL : "needs tls.client_ca";
    }
    return "is not known";
}

static void check_mechanisms(struct admin *a, struct checks *c)
{
    const struct config_list *l = &a->config->auth_mechanisms;
    char says[256] = "";
    for (size_t i = 0; i < l->n; i++) {
        const char *lacks = mechanism_lacks(a->config, l->v[i]);
        size_t n = strlen(says);
        if (lacks) {
            snprintf(says, sizeof says, "%s %s", l->v[i], lacks);
            report(c, false, "auth.mechanisms", says);
            return;
        }
        snprintf(says + n, sizeof says - n, "%s%s", n ? " " : "", l->v[i]);
    }
    report(c, true, "auth.mechanisms", *says ? says : "none: USER and PASS alone");
}

/* Nothing is said where no command would use it. */
static void check_public(struct admin *a, struct checks *c)
{
    const struct config *g = a->config;
    struct dns_facts f;
    char why[256];
    if (g->public_mx.n + g->public_pop3s.n + g->public_pop3.n + g->public_addresses.n == 0) {
        return;
    }
    enum err e = dns_facts_read(g, &f, why, sizeof why);
    if (e == ERR_OK) {
        snprintf(why, sizeof why, "%zu hosts; mailfleet dns --check asks the DNS", f.n_hosts);
        dns_facts_fini(&f);
    }
    report(c, e == ERR_OK, "public", why);
}

static bool check_database(struct admin *a, struct checks *c)
{
    char says[128];
    admin_sql(a, "SELECT current_setting('server_version'), pg_is_in_recovery()");
    if (admin_run(a, PG_READ) != ERR_OK) {
        report(c, false, "database", a->reply.message);
        return false;
    }
    bool standby = pg_get_i64(admin_result(a, 0), 0, 1) != 0;
    snprintf(says, sizeof says, "PostgreSQL %.*s%s",
             SPAN_ARG(pg_get_span(admin_result(a, 0), 0, 0)),
             standby ? ", a standby: database.url lacks target_session_attrs=read-write" : "");
    report(c, !standby, "database", says);
    return true;
}

static bool check_schema(struct admin *a, struct checks *c)
{
    char says[256];
    bool ok = migrate_check(a, says, sizeof says);
    report(c, ok, "schema", says);
    return ok;
}

/* Asked of one cache server. */
struct cache_check {
    struct cache_question question;
    bool done;
    enum err err;
};

static void on_cache_answer(struct cache_question *q, const struct cache_answer *a)
{
    struct cache_check *k = CONTAINER_OF(q, struct cache_check, question);
    k->done = true;
    k->err = a->err;
}

static void check_cache(struct admin *a, struct checks *c, const char *name)
{
    char what[96];
    struct cache_check k = { .question.done = on_cache_answer };
    uv_update_time(loop_uv(a->loop));
    struct cache_server *s = cache_server_open(a->loop, name, a->config->cache_timeout);
    CHECK(cache_server_probe(s, &k.question) == ERR_OK);
    while (!k.done) {
        cache_server_flush(s);
        uv_run(loop_uv(a->loop), UV_RUN_ONCE);
    }
    snprintf(what, sizeof what, "cache %s", name);
    report(c, k.err == ERR_OK, what,
           k.err == ERR_OK ? "answers" : "no answer within cache.timeout");
    cache_server_close(&s);
}

static void check_caches(struct admin *a, struct checks *c)
{
    if (a->config->cache_servers.n == 0) {
        report(c, true, "cache", "not configured: every poll asks the database");
    }
    for (size_t i = 0; i < a->config->cache_servers.n; i++) {
        check_cache(a, c, a->config->cache_servers.v[i]);
    }
}

static void check_volume(struct checks *c, const struct volume *v, const struct spool_options *o)
{
    char what[32], why[256];
    snprintf(what, sizeof what, "volume %u", v->volume_id);
    if (volume_check(v, o, why, sizeof why) != ERR_OK) {
        report(c, false, what, why);
    } else {
        report(c, true, what, v->url);
    }
}

static void check_volumes(struct admin *a, struct checks *c)
{
    struct volume *v;
    size_t n;
    if (admin_volumes(a, &v, &n) != EX_OK) {
        report(c, false, "volumes", "the database does not tell");
        return;
    }
    if (n == 0) {
        report(c, false, "volumes", "none: mailfleet volume add URL");
    }
    struct spool_options o;
    char why[256];
    if (spool_options_read(a->config, &o, why, sizeof why) != ERR_OK) {
        report(c, false, "volumes", why);
        n = 0;
    }
    for (size_t i = 0; i < n; i++) {
        check_volume(c, &v[i], &o);
    }
    free(v);
}

static void check_reaping(struct admin *a, struct checks *c)
{
    char says[256];
    int code = reaping_state(a, says, sizeof says);
    report(c, code == EX_OK, "reaping", says);
}

static void report_to(void *arg, bool ok, const char *what, const char *says)
{
    report(arg, ok, what, says);
}

int command_check(struct admin *a, const struct args *args)
{
    struct checks c = { .table = table_new(check_columns, ARRAY_LEN(check_columns)), .all = true };
    (void)args;
    a->any_schema = true;
    report(&c, true, "configuration", a->config_path);
    check_key(a, &c);
    check_quota(a, &c);
    check_tls(a, &c);
    check_sni(a, &c);
    check_mechanisms(a, &c);
    check_public(a, &c);
    check_caches(a, &c);
    if (check_database(a, &c) && check_schema(a, &c)) {
        check_volumes(a, &c);
        check_reaping(a, &c);
        nodes_check(a, report_to, &c);
        backup_check(a, report_to, &c);
    } else {
        report(&c, false, "volumes", "not looked at before the database is well");
    }
    table_print(c.table, a->json, "", stdout);
    table_free(&c.table);
    return c.all ? EX_OK : EX_UNAVAILABLE;
}

/* --- settings and epoch ---------------------------------------------------------------------- */

/* As keywords and values, quoted as libpq wants them, with stars for what libpq calls a password.
 */
static void show_database_url(const char *url, char *out, size_t size)
{
    PQconninfoOption *options = PQconninfoParse(url, NULL);
    struct buf text;
    buf_init(&text, size - 1);
    for (PQconninfoOption *o = options; o && o->keyword; o++) {
        if (!o->val) {
            continue;
        }
        buf_addf(&text, "%s%s='", buf_len(&text) ? " " : "", o->keyword);
        for (const char *p = *o->dispchar == '*' ? "***" : o->val; *p; p++) {
            buf_addf(&text, "%s%c", *p == '\'' || *p == '\\' ? "\\" : "", *p);
        }
        buf_addc(&text, '\'');
    }
    snprintf(out, size, "%.*s", SPAN_ARG(options ? buf_span(&text) : SPAN("not understood")));
    buf_fini(&text);
    PQconninfoFree(options);
}

int command_settings(struct admin *a, const struct args *args)
{
    static const struct column columns[] = {
        { "section", "SECTION", COLUMN_TEXT },
        { "key", "KEY", COLUMN_TEXT },
        { "value", "VALUE", COLUMN_TEXT },
        { "default", "DEFAULT", COLUMN_TEXT },
    };
    (void)args;
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    const struct config_doc *d;
    for (size_t i = 0; (d = config_doc(i)) != NULL; i++) {
        char value[2048];
        if (strcmp(d->section, "database") == 0 && strcmp(d->key, "url") == 0) {
            show_database_url(a->config->database_url, value, sizeof value);
        } else {
            config_show(a->config, i, value, sizeof value);
        }
        table_text(t, span_str(d->section));
        table_text(t, span_str(d->key));
        table_text(t, span_str(value));
        table_text(t, span_str(d->def));
    }
    table_print(t, a->json, "", stdout);
    table_free(&t);
    return EX_OK;
}

/* An epoch may begin with a restored database, whose sequence is older than files in the spool that
 * name mailboxes of after the backup: more than any fleet makes of them between two backups. */
#define MAILBOX_IDS_SKIPPED 1000000

int command_epoch(struct admin *a, const struct args *args)
{
    (void)args;
    /* One at a time, by the lock on the row: setval() must not take back what another has set. */
    admin_sql(a, "UPDATE fleet SET epoch = epoch + 1 RETURNING epoch");
    admin_sql(a, "SELECT setval('mailbox_ids', nextval('mailbox_ids') + $1)");
    pg_i64(a->batch, MAILBOX_IDS_SKIPPED);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, "epoch");
    }
    admin_say("epoch %lld; every node follows within seconds; new mailboxes begin behind %lld",
              (long long)pg_get_i64(admin_result(a, 0), 0, 0),
              (long long)pg_get_i64(admin_result(a, 1), 0, 0));
    return EX_OK;
}
