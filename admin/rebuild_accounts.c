/*
 * rebuild_accounts: a dump is read twice, first to see that all of it makes sense. A mailbox of an
 * envelope that the dump does not have was made after the dump was, unless the dump says that it
 * was removed; without a dump nobody knows, and mail is kept rather than lost.
 */
#include "rebuild_accounts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "accounts_file.h"
#include "base/check.h"
#include "given.h"

#define LINES_AT_ONCE 200  /* of one transaction */
#define BOXES_AT_ONCE 1000 /* the same, and of one look-up */

/* --- the dump -------------------------------------------------------------------------------- */

enum kind {
    KIND_SEQUENCE,
    KIND_VOLUME,
    KIND_DOMAIN,
    KIND_ACCOUNT,
    KIND_ALIAS,
    KIND_REMOVED,
    KIND_COUNT
};

static const struct {
    const char *name;
    size_t words; /* at least, with the name */
} kinds[KIND_COUNT] = {
    [KIND_SEQUENCE] = { "sequence", 2 }, [KIND_VOLUME] = { "volume", 4 },
    [KIND_DOMAIN] = { "domain", 2 },     [KIND_ACCOUNT] = { "account", 5 },
    [KIND_ALIAS] = { "alias", 3 },       [KIND_REMOVED] = { "removed", 4 },
};

struct dump_reader {
    struct admin *admin;
    const char *name;
    FILE *file;
    char *line;
    size_t room;
    uint64_t number; /* of the line, from 1 */
    struct accounts_line words;
    enum kind kind;
    bool ended;
};

static int bad_line(const struct dump_reader *r, const char *why)
{
    return admin_fail(EX_DATAERR, "%s:%llu: %s", r->name, (unsigned long long)r->number, why);
}

static int dump_open(struct dump_reader *r, struct admin *a, const char *name)
{
    *r = (struct dump_reader){ .admin = a, .name = name, .file = given_open(name) };
    return r->file ? EX_OK : admin_fail(EX_NOINPUT, "%s: %s", name, strerror(errno));
}

static void dump_close(struct dump_reader *r)
{
    if (r->file) {
        fclose(r->file);
    }
    free(r->line);
}

/* The number behind `end` is that of the lines before it. */
static int read_end(struct dump_reader *r)
{
    uint64_t lines;
    r->ended = true;
    if (r->words.n != 2 || span_u64(span_str(r->words.word[1]), UINT64_MAX, &lines) != ERR_OK ||
        lines != r->number - 1) {
        return bad_line(r, "lines are missing");
    }
    return EX_OK;
}

static int read_kind(struct dump_reader *r)
{
    if (strcmp(r->words.word[0], "end") == 0) {
        return read_end(r);
    }
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (strcmp(r->words.word[0], kinds[i].name) == 0) {
            r->kind = (enum kind)i;
            return r->words.n >= kinds[i].words ? EX_OK : bad_line(r, "words are missing");
        }
    }
    return bad_line(r, "not a line of mailfleet account dump");
}

/* The next line that says something; r->ended behind the last. */
static int dump_next(struct dump_reader *r)
{
    ssize_t n;
    while ((n = getline(&r->line, &r->room, r->file)) > 0) {
        bool whole = r->line[n - 1] == '\n';
        r->line[n - 1] = '\0';
        r->number++;
        if (!whole) {
            break;
        }
        if (r->number == 1) {
            if (strcmp(r->line, ACCOUNTS_FILE_HEAD) != 0) {
                return bad_line(r, "not written by mailfleet account dump");
            }
        } else if (*r->line != '#' && *r->line) {
            return strlen(r->line) == (size_t)n - 1 && accounts_parse(r->line, &r->words)
                       ? read_kind(r)
                       : bad_line(r, "a word is not written as it should be");
        }
    }
    return admin_fail(EX_DATAERR, "%s: its last line, which begins with end, is missing", r->name);
}

static const char *word(const struct dump_reader *r, size_t i)
{
    return r->words.word[i];
}

static int64_t number_of(const struct dump_reader *r, size_t first, const char *key, int64_t none)
{
    int64_t v = none;
    (void)accounts_value_number(&r->words, first, key, none, &v); /* they were checked */
    return v;
}

/* KEY=N words are numbers. */
static bool pairs_are_numbers(const struct dump_reader *r)
{
    for (size_t i = kinds[r->kind].words; i < r->words.n; i++) {
        const char *value = strchr(word(r, i), '=');
        if (!value) {
            return false;
        }
        uint64_t v;
        bool negative = value[1] == '-';
        bool text = r->kind == KIND_REMOVED &&
                    (strncmp(word(r, i), "alias=", 6) == 0 || strncmp(word(r, i), "list=", 5) == 0);
        if (!text && span_u64(span_str(value + 1 + negative), INT64_MAX, &v) != ERR_OK) {
            return false;
        }
    }
    return true;
}

static bool is_id(const char *text)
{
    uint64_t v;
    return span_u64(span_str(text), INT64_MAX, &v) == ERR_OK;
}

static int check_volume(struct dump_reader *r)
{
    struct admin *a = r->admin;
    admin_sql(a, "SELECT volume_id FROM volume WHERE uuid::text = $1");
    pg_text(a->batch, span_str(word(r, 2)));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "volumes");
    }
    if (admin_rows(a, 0) == 0) {
        return admin_fail(EX_CONFIG,
                          "%s:%llu: volume %s was %s: mailfleet volume add URL --existing, or "
                          "# in front of the line if it is lost",
                          r->name, (unsigned long long)r->number, word(r, 2), word(r, 3));
    }
    return EX_OK;
}

static int check_line(struct dump_reader *r, struct dump_sum *sum)
{
    sum->lines++;
    if (r->kind != KIND_ALIAS && !pairs_are_numbers(r)) {
        return bad_line(r, "a KEY=N makes no sense");
    }
    switch (r->kind) {
    case KIND_SEQUENCE:
        sum->sequence = is_id(word(r, 1)) ? strtoll(word(r, 1), NULL, 10) : -1;
        return sum->sequence >= 0 ? EX_OK : bad_line(r, "not a number");
    case KIND_VOLUME:
        return check_volume(r);
    case KIND_ACCOUNT:
        sum->accounts++;
        return is_id(word(r, 2)) ? EX_OK : bad_line(r, "not a mailbox");
    case KIND_REMOVED:
        return is_id(word(r, 1)) ? EX_OK : bad_line(r, "not a mailbox");
    default:
        return EX_OK;
    }
}

int rebuild_check_dump(struct admin *a, const char *file, struct dump_sum *sum)
{
    struct dump_reader r;
    int code = dump_open(&r, a, file);
    while (code == EX_OK && (code = dump_next(&r)) == EX_OK && !r.ended) {
        code = check_line(&r, sum);
    }
    dump_close(&r);
    return code;
}

/* --- making what it says --------------------------------------------------------------------- */

static const char *domain_of(const char *addr)
{
    const char *at = strrchr(addr, '@');
    return at ? at + 1 : addr;
}

static void add_domain_rows(struct admin *a, const char *name)
{
    admin_sql(a, "INSERT INTO address (addr, domain) VALUES ('@' || $1, $1) ON CONFLICT DO "
                 "NOTHING");
    pg_text(a->batch, span_str(name));
}

static void load_domain(struct dump_reader *r)
{
    static const char *const keys[] = { "max_octets",     "max_messages", "max_size",
                                        "retention_days", "total_octets", "total_messages",
                                        "created" };
    struct admin *a = r->admin;
    admin_sql(a, "INSERT INTO domain (name, read_days, max_octets, max_messages, max_size, "
                 "retention_days, total_octets, total_messages, created_at) VALUES ($1, "
                 "$2::bigint, $3, $4, $5, $6::bigint, $7, $8, ms_time($9)) ON CONFLICT DO NOTHING");
    pg_text(a->batch, span_str(word(r, 1)));
    pg_i64(a->batch, number_of(r, 2, "read_days", -1));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        pg_i64(a->batch, number_of(r, 2, keys[i], 0));
    }
    add_domain_rows(a, word(r, 1));
}

static void load_account(struct dump_reader *r)
{
    static const char *const keys[] = { "state",    "max_octets",     "max_messages",
                                        "max_size", "retention_days", "own_retention",
                                        "own_read" };
    struct admin *a = r->admin;
    int64_t id = strtoll(word(r, 2), NULL, 10);
    admin_sql(a, "INSERT INTO mailbox (mailbox_id, read_days, state, max_octets, max_messages, "
                 "max_size, retention_days, own_retention, own_read) VALUES ($1, $2::bigint, "
                 "$3::bigint, $4, $5, $6, $7::bigint, $8::bigint <> 0, $9::bigint <> 0) "
                 "ON CONFLICT DO NOTHING");
    pg_i64(a->batch, id);
    pg_i64(a->batch, number_of(r, 5, "read_days", -1));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        pg_i64(a->batch, number_of(r, 5, keys[i], 0));
    }
    admin_sql(a, "INSERT INTO account (mailbox_id, addr, hash, scram, created_at) "
                 "VALUES ($1, $2, $3, $4, ms_time($5)) ON CONFLICT DO NOTHING");
    pg_i64(a->batch, id);
    for (size_t i = 0; i < 3; i++) {
        pg_text(a->batch, span_str(word(r, i == 0 ? 1 : i + 2)));
    }
    pg_i64(a->batch, number_of(r, 5, "created", 0));
    if (!number_of(r, 5, "unlisted", 0)) {
        admin_sql(a, "INSERT INTO address (addr, domain, mailbox_id) VALUES ($1, $2, $3) "
                     "ON CONFLICT DO NOTHING");
        pg_text(a->batch, span_str(word(r, 1)));
        pg_text(a->batch, span_str(domain_of(word(r, 1))));
        pg_i64(a->batch, id);
    }
}

static void load_alias(struct dump_reader *r)
{
    struct admin *a = r->admin;
    struct span targets[ACCOUNTS_WORDS_MAX];
    for (size_t i = 2; i < r->words.n; i++) {
        targets[i - 2] = span_str(word(r, i));
    }
    admin_sql(a, "INSERT INTO address AS a (addr, domain, targets) VALUES ($1, $2, $3) "
                 "ON CONFLICT (addr) DO UPDATE SET targets = excluded.targets "
                 "WHERE a.mailbox_id IS NULL");
    pg_text(a->batch, span_str(word(r, 1)));
    pg_text(a->batch, span_str(domain_of(word(r, 1))));
    pg_texts(a->batch, targets, r->words.n - 2);
}

static void add_names(struct dump_reader *r, const char *key)
{
    struct span names[ACCOUNTS_WORDS_MAX];
    size_t n = 0, at = 4;
    for (const char *name; (name = accounts_value(&r->words, &at, key));) {
        names[n++] = span_str(name);
    }
    pg_texts(r->admin->batch, names, n);
}

/* One to which many names led has several lines. */
static void load_removed(struct dump_reader *r)
{
    static const char *const keys[] = { "was", "removed", "purge", "purged", "msgs", "octets" };
    struct admin *a = r->admin;
    admin_sql(a, "INSERT INTO removed AS r (mailbox_id, addr, by_whom, aliases, lists, was_state, "
                 "removed_at, purge_after, purged_at, msgs, octets) VALUES ($1, $2, $3, $4, $5, "
                 "$6::bigint, ms_time($7), ms_time($8), "
                 "CASE WHEN $9 > 0::bigint THEN ms_time($9) END, $10, $11) "
                 "ON CONFLICT (mailbox_id) DO UPDATE SET "
                 "aliases = ARRAY(SELECT DISTINCT n COLLATE \"C\" FROM "
                 "                unnest(r.aliases || excluded.aliases) n ORDER BY 1), "
                 "lists = ARRAY(SELECT DISTINCT n COLLATE \"C\" FROM "
                 "              unnest(r.lists || excluded.lists) n ORDER BY 1)");
    pg_i64(a->batch, strtoll(word(r, 1), NULL, 10));
    pg_text(a->batch, span_str(word(r, 2)));
    pg_text(a->batch, span_str(word(r, 3)));
    add_names(r, "alias");
    add_names(r, "list");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        pg_i64(a->batch, number_of(r, 4, keys[i], 0));
    }
}

static void load_line(struct dump_reader *r)
{
    static void (*const loaders[KIND_COUNT])(struct dump_reader *) = {
        [KIND_DOMAIN] = load_domain,
        [KIND_ACCOUNT] = load_account,
        [KIND_ALIAS] = load_alias,
        [KIND_REMOVED] = load_removed,
    };
    if (loaders[r->kind]) {
        loaders[r->kind](r);
    }
}

/* All of the cache is out of reach until the end (rebuild.c), so no tombstones are set. */
static int flush(struct dump_reader *r)
{
    if (!r->admin->batch || admin_run(r->admin, PG_WRITE) == ERR_OK) {
        return EX_OK;
    }
    char what[64];
    snprintf(what, sizeof what, "the %d lines up to %llu", LINES_AT_ONCE,
             (unsigned long long)r->number);
    return admin_fail_reply(r->admin, what);
}

int rebuild_load_dump(struct admin *a, const char *file)
{
    struct dump_reader r;
    int code = dump_open(&r, a, file);
    while (code == EX_OK && (code = dump_next(&r)) == EX_OK && !r.ended) {
        load_line(&r);
        if (r.number % LINES_AT_ONCE == 0) {
            code = flush(&r);
        }
    }
    if (code == EX_OK) {
        code = flush(&r);
    }
    dump_close(&r);
    return code;
}

/* --- mailboxes of envelopes ------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

bool day_boxes_has(const struct day_boxes *b, uint64_t mailbox_id)
{
    int64_t key = (int64_t)mailbox_id;
    return b->n > 0 && bsearch(&key, b->id, b->n, sizeof *b->id, by_number);
}

static void collect(const struct scanned *v, size_t n, struct day_boxes *out)
{
    size_t all = 0, kept = 0;
    for (size_t i = 0; i < n; i++) {
        all += v[i].n;
    }
    out->id = NEW_ARRAY(int64_t, all + 1);
    all = 0;
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < v[i].n; k++) {
            out->id[all++] = (int64_t)v[i].to[k].mailbox_id;
        }
    }
    qsort(out->id, all, sizeof *out->id, by_number);
    for (size_t i = 0; i < all; i++) {
        if (kept == 0 || out->id[kept - 1] != out->id[i]) {
            out->id[kept++] = out->id[i];
        }
    }
    out->n = kept;
}

/* Of a page of mailboxes: those that are there go to *known, those that are neither there nor
 * removed to *missing. */
static int look_up(struct admin *a, const int64_t *id, size_t n, struct day_boxes *known,
                   struct day_boxes *missing)
{
    admin_sql(a, "SELECT w.id, EXISTS (SELECT FROM mailbox b WHERE b.mailbox_id = w.id), "
                 "EXISTS (SELECT FROM removed x WHERE x.mailbox_id = w.id) "
                 "FROM unnest($1::bigint[]) w (id) ORDER BY w.id");
    pg_i64s(a->batch, id, n);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "mailboxes");
    }
    for (int i = 0; i < admin_rows(a, 0); i++) {
        const PGresult *r = admin_result(a, 0);
        struct day_boxes *to = pg_get_i64(r, i, 1) ? known : pg_get_i64(r, i, 2) ? NULL : missing;
        if (to) {
            to->id[to->n++] = pg_get_i64(r, i, 0);
        }
    }
    return EX_OK;
}

/* With the retention of its domain, if the dump had that. Of two accounts that had one address the
 * later has it: the earlier one had been removed. */
static void make_account(struct admin *a, const struct scanned *m, const struct scanned_to *to)
{
    struct address addr;
    bool valid = address_parse(span_str(to->address), &addr) == ERR_OK;
    const char *text = valid ? addr.canon : to->address;
    admin_sql(a, "INSERT INTO mailbox (mailbox_id, retention_days, read_days) "
                 "SELECT $1, coalesce(d.retention_days, 0), coalesce(d.read_days, -1) "
                 "FROM (SELECT) one LEFT JOIN domain d ON d.name = $2 ON CONFLICT DO NOTHING");
    pg_i64(a->batch, (int64_t)to->mailbox_id);
    pg_text(a->batch, span_str(domain_of(text)));
    admin_sql(a, "INSERT INTO account (mailbox_id, addr, hash, created_at) "
                 "VALUES ($1, $2, '!', ms_time($3)) ON CONFLICT DO NOTHING");
    pg_i64(a->batch, (int64_t)to->mailbox_id);
    pg_text(a->batch, span_str(text));
    pg_i64(a->batch, (int64_t)blob_id_time(&m->id));
    if (!valid) {
        admin_say("mailbox %llu: %s is not an address: it is kept without one",
                  (unsigned long long)to->mailbox_id, to->address);
        return;
    }
    admin_sql(a, "INSERT INTO domain (name) VALUES ($1) ON CONFLICT DO NOTHING");
    pg_text(a->batch, span_str(domain_of(text)));
    add_domain_rows(a, domain_of(text));
    admin_sql(a, "INSERT INTO address AS a (addr, domain, mailbox_id) VALUES ($1, $2, $3) "
                 "ON CONFLICT (addr) DO UPDATE SET mailbox_id = excluded.mailbox_id "
                 "WHERE a.mailbox_id < excluded.mailbox_id");
    pg_text(a->batch, span_str(text));
    pg_text(a->batch, span_str(domain_of(text)));
    pg_i64(a->batch, (int64_t)to->mailbox_id);
}

/* Each by the first message that names it: as old as that, so that adopt() knows it was there. */
static int make_missing(struct admin *a, const struct scanned *v, size_t n,
                        const struct day_boxes *missing)
{
    bool *made = NEW_ARRAY(bool, missing->n + 1);
    size_t waiting = 0;
    enum err e = ERR_OK;
    for (size_t i = 0; i < n && e == ERR_OK; i++) {
        for (uint32_t k = 0; k < v[i].n; k++) {
            int64_t key = (int64_t)v[i].to[k].mailbox_id;
            const int64_t *at =
                bsearch(&key, missing->id, missing->n, sizeof *missing->id, by_number);
            if (at && !made[at - missing->id]) {
                made[at - missing->id] = true;
                make_account(a, &v[i], &v[i].to[k]);
                waiting++;
            }
        }
        if (waiting >= LINES_AT_ONCE || (i + 1 == n && waiting > 0)) {
            e = admin_run(a, PG_WRITE);
            waiting = 0;
        }
    }
    free(made);
    return e == ERR_OK ? EX_OK : admin_fail_reply(a, "accounts");
}

int rebuild_mailboxes(struct admin *a, const struct scanned *v, size_t n, struct day_boxes *out,
                      uint64_t *made)
{
    struct day_boxes all, known, missing;
    int code = EX_OK;
    collect(v, n, &all);
    known = (struct day_boxes){ .id = NEW_ARRAY(int64_t, all.n + 1) };
    missing = (struct day_boxes){ .id = NEW_ARRAY(int64_t, all.n + 1) };
    for (size_t at = 0; at < all.n && code == EX_OK; at += BOXES_AT_ONCE) {
        size_t page = all.n - at < BOXES_AT_ONCE ? all.n - at : BOXES_AT_ONCE;
        code = look_up(a, all.id + at, page, &known, &missing);
    }
    if (code == EX_OK && missing.n > 0) {
        code = make_missing(a, v, n, &missing);
    }
    if (code == EX_OK) {
        *made += missing.n;
        memcpy(known.id + known.n, missing.id, missing.n * sizeof *known.id);
        known.n += missing.n;
        qsort(known.id, known.n, sizeof *known.id, by_number);
        *out = known;
    } else {
        free(known.id);
    }
    free(all.id);
    free(missing.id);
    return code;
}
