/*
 * volume: the directories that messages are on. A volume is made once: its root, its sentinel with
 * a UUID of its own, then its row; daemons take it up by themselves within seconds.
 */
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "commands.h"
#include "drain.h"
#include "store/nfs_url.h"
#include "store/spool.h"
#include "table.h"
#include "volume_learn.h"

#define INSERT_TRIES 3

static const char *const state_names[] = { "active", "readonly", "drain", "closed" };

static bool parse_state(const char *text, enum volume_state *out)
{
    for (size_t i = 0; i < VOLUME_CLOSED; i++) { /* which is volume remove's to set */
        if (strcmp(text, state_names[i]) == 0) {
            *out = (enum volume_state)i;
            return true;
        }
    }
    admin_fail(EX_DATAERR, "%s: a state is active, readonly or drain", text);
    return false;
}

static bool parse_number(const char *text, uint64_t max, const char *what, uint64_t *out)
{
    if (span_u64(span_str(text), max, out) == ERR_OK) {
        return true;
    }
    admin_fail(EX_DATAERR, "%s: %s is a number up to %llu", text, what, (unsigned long long)max);
    return false;
}

/* The options that volume add and volume set share; what is not given stays as it is in *v. */
static bool parse_options(const struct args *args, struct volume *v)
{
    uint64_t n;
    if (args->opt[ARG_state] && !parse_state(args->opt[ARG_state], &v->state)) {
        return false;
    }
    if (args->opt[ARG_weight]) {
        if (!parse_number(args->opt[ARG_weight], INT32_MAX, "a weight", &n)) {
            return false;
        }
        v->weight = (unsigned)n;
    }
    if (args->opt[ARG_free_floor] &&
        admin_parse_size(args->opt[ARG_free_floor], &v->free_floor) != ERR_OK) {
        admin_fail(EX_DATAERR, "%s: a number, with K, M, G or T, or none",
                   args->opt[ARG_free_floor]);
        return false;
    }
    return true;
}

/* A random UUID (RFC 4122, version 4). */
static void make_uuid(char out[37])
{
    uint8_t b[16];
    CHECK(getrandom(b, sizeof b, 0) == sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    char *p = out;
    for (size_t i = 0; i < sizeof b; i++) {
        p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
    }
}

/* A directory of this machine that does not exist is made, and given to node.user. */
static int make_directory(const struct admin *a, const char *path)
{
    const struct passwd *pw =
        geteuid() == 0 && *a->config->node_user ? getpwnam(a->config->node_user) : NULL;
    if (mkdir(path, 0750) == 0) {
        if (pw && chown(path, pw->pw_uid, pw->pw_gid) != 0) {
            return admin_fail(EX_CANTCREAT, "%s: %s", path, strerror(errno));
        }
    } else if (errno != EEXIST) {
        return admin_fail(EX_CANTCREAT, "%s: %s", path, strerror(errno));
    }
    return EX_OK;
}

/* While the command still is root; everything else is done as node.user. */
static int make_root(struct admin *a, const char *url, bool make)
{
    static const char scheme[] = "file://";
    struct nfs_export nfs;
    char why[256];
    int code = EX_OK;
    if (strncmp(url, NFS_SCHEME, sizeof NFS_SCHEME - 1) == 0) {
        if (!nfs_url_parse(url, &nfs, why, sizeof why)) {
            code = admin_fail(EX_DATAERR, "%s: the URL %s", url, why);
        }
    } else if (strncmp(url, scheme, sizeof scheme - 1) == 0 && url[sizeof scheme - 1] == '/') {
        const char *path = url + sizeof scheme - 1;
        if (!spool_in_roots(&a->config->spool_roots, path)) {
            code = admin_fail(EX_DATAERR, "%s: its directory does not lie in spool.roots", url);
        } else if (make) {
            code = make_directory(a, path);
        }
    } else {
        code = admin_fail(EX_DATAERR,
                          "%s: a volume's URL is file:///path or nfs://host[:port]/path", url);
    }
    return code != EX_OK || admin_drop_root(a) ? code : EX_CONFIG;
}

static enum err insert_once(struct admin *a, const struct volume *v)
{
    admin_sql(a, "INSERT INTO volume (volume_id, uuid, url, fanout, state, weight, free_floor) "
                 "SELECT coalesce(max(volume_id), 0) + 1, $1::text::uuid, $2, $3::bigint, "
                 "$4::bigint, $5::bigint, $6 FROM volume RETURNING volume_id");
    pg_text(a->batch, span_str(v->uuid));
    pg_text(a->batch, span_str(v->url));
    pg_i64(a->batch, v->fanout);
    pg_i64(a->batch, v->state);
    pg_i64(a->batch, v->weight);
    pg_i64(a->batch, (int64_t)v->free_floor);
    return admin_run(a, PG_WRITE);
}

static int insert_volume(struct admin *a, const struct volume *v, bool existing)
{
    enum err e = insert_once(a, v);
    for (int i = 0; e == ERR_BUSY && i < INSERT_TRIES; i++) {
        e = insert_once(a, v); /* somebody else had the same number */
    }
    if (e != ERR_OK) {
        int code = admin_fail_reply(a, v->url);
        return existing
                   ? code
                   : admin_fail(code,
                                "unless volume list shows it, remove its .mailfleet-volume before "
                                "the next try");
    }
    admin_say("volume %lld is %s", (long long)pg_get_i64(admin_result(a, 0), 0, 0), v->url);
    return EX_OK;
}

int command_volume_add(struct admin *a, const struct args *args)
{
    struct volume v = { .weight = 100 };
    bool existing = args->opt[ARG_existing] != NULL;
    uint64_t fanout = 2;
    struct spool_options o;
    char why[256];
    if (strlen(args->v[0]) >= sizeof v.url) {
        return admin_fail(EX_DATAERR, "the URL is too long");
    }
    if (!parse_options(args, &v) ||
        (args->opt[ARG_fanout] && !parse_number(args->opt[ARG_fanout], 4, "a fanout", &fanout))) {
        return EX_DATAERR;
    }
    v.fanout = (unsigned)fanout;
    snprintf(v.url, sizeof v.url, "%s", args->v[0]);
    int code = make_root(a, v.url, !existing);
    if (code != EX_OK) {
        return code;
    }
    /* The database is asked first: a sentinel without a row would be in the way of the next try. */
    admin_sql(a, "SELECT volume_id FROM volume WHERE url = $1");
    pg_text(a->batch, span_str(v.url));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, v.url);
    }
    if (admin_rows(a, 0) > 0) {
        return admin_fail(EX_CANTCREAT, "%s: exists already", v.url);
    }
    if (spool_options_read(a->config, &o, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    if (existing) {
        code = volume_learn_existing(&v, &o, args->opt[ARG_fanout] ? (int)fanout : -1);
        return code == EX_OK ? insert_volume(a, &v, true) : code;
    }
    make_uuid(v.uuid);
    if (volume_create(&v, &o, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CANTCREAT, "%s: %s", v.url, why);
    }
    return insert_volume(a, &v, false);
}

int command_volume_list(struct admin *a, const struct args *args)
{
    static const struct column columns[] = {
        { "id", "ID", COLUMN_NUMBER },
        { "state", "STATE", COLUMN_TEXT },
        { "weight", "WEIGHT", COLUMN_NUMBER },
        { "fanout", "FANOUT", COLUMN_NUMBER },
        { "free_floor", "FREE FLOOR", COLUMN_NUMBER },
        { "uuid", "UUID", COLUMN_TEXT },
        { "url", "URL", COLUMN_TEXT },
        { "messages", "MESSAGES", COLUMN_NUMBER }, /* these two with --scan */
        { "octets", "OCTETS", COLUMN_NUMBER },
    };
    struct volume *v;
    struct volume_usage *usage = NULL;
    size_t n;
    int code = admin_volumes(a, &v, &n);
    if (code == EX_OK && args->opt[ARG_scan]) {
        code = volume_usage_read(a, v, n, &usage);
        if (code != EX_OK) {
            free(v);
        }
    }
    if (code != EX_OK) {
        return code;
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns) - (usage ? 0 : 2));
    for (size_t i = 0; i < n; i++) {
        table_number(t, v[i].volume_id);
        table_text(t, v[i].state < ARRAY_LEN(state_names) ? span_str(state_names[v[i].state])
                                                          : SPAN("unknown"));
        table_number(t, v[i].weight);
        table_number(t, v[i].fanout);
        table_number(t, v[i].free_floor);
        table_text(t, span_str(v[i].uuid));
        table_text(t, span_str(v[i].url));
        if (usage) {
            table_number(t, usage[i].pointers);
            table_number(t, usage[i].octets);
        }
    }
    free(usage);
    free(v);
    table_print(t, a->json, "no volumes: mailfleet volume add URL", stdout);
    table_free(&t);
    return EX_OK;
}

int command_volume_set(struct admin *a, const struct args *args)
{
    struct volume v = { 0 };
    uint64_t id;
    if (!parse_number(args->v[0], INT16_MAX, "a volume's ID", &id) || !parse_options(args, &v)) {
        return EX_DATAERR;
    }
    if (!args->opt[ARG_state] && !args->opt[ARG_weight] && !args->opt[ARG_free_floor]) {
        return admin_fail(EX_USAGE, "nothing to change: see mailfleet volume set --help");
    }
    admin_sql(a, "UPDATE volume SET state = coalesce($2::bigint, state), "
                 "weight = coalesce($3::bigint, weight), "
                 "free_floor = coalesce($4::bigint, free_floor) "
                 "WHERE volume_id = $1::bigint RETURNING 1");
    pg_i64(a->batch, (int64_t)id);
    args->opt[ARG_state] ? pg_i64(a->batch, v.state) : pg_null(a->batch);
    args->opt[ARG_weight] ? pg_i64(a->batch, v.weight) : pg_null(a->batch);
    args->opt[ARG_free_floor] ? pg_i64(a->batch, (int64_t)v.free_floor) : pg_null(a->batch);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, args->v[0]);
    }
    if (admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such volume", args->v[0]);
    }
    return EX_OK;
}
