/*
 * removal: account remove, restore and receipt. A removed account is in state 2 and has a row in
 * `removed`: no node lets its owner in or takes mail for it, and its address is nobody else's.
 * After reap.removal_grace purge.c ends it; the row stays, as the receipt and as the reason why the
 * address is not given to another.
 *
 * The aliases that lead to it are read before the transaction, which needs their names for the
 * tombstones. One that is added in between keeps leading to an account that takes nothing, until
 * the purge takes it away.
 *
 * Owns what it allocates within a command. It moves no pointers.
 */
#include "removal.h"

#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "commands.h"
#include "lines.h"
#include "table.h"

/* --- addresses that were somebody's ---------------------------------------------------------- */

/* The mailbox that an address leads to; 0: none. *known: there is such an address. */
static int find_box(struct admin *a, const struct address *addr, int64_t *box, bool *known)
{
    admin_sql(a, "SELECT coalesce(mailbox_id, 0) FROM address WHERE addr = $1");
    pg_text(a->batch, span_str(addr->canon));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    *known = admin_rows(a, 0) > 0;
    *box = *known ? pg_get_i64(admin_result(a, 0), 0, 0) : 0;
    return EX_OK;
}

int removal_check(struct admin *a, const struct args *args, const struct address *addr)
{
    int64_t box = 0;
    bool known = false;
    int code = find_box(a, addr, &box, &known);
    if (code != EX_OK || (known && box == 0)) {
        return code;
    }
    admin_sql(a, "SELECT r.addr, to_char(r.removed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') "
                 "FROM removed r WHERE (r.addr = $1 OR r.aliases @> ARRAY[$1::text]) "
                 "AND $2 IN (0, r.mailbox_id) ORDER BY r.removed_at DESC LIMIT 1");
    pg_text(a->batch, span_str(addr->canon));
    pg_i64(a->batch, box);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    if (admin_rows(a, 0) > 0) {
        struct span was = pg_get_span(admin_result(a, 0), 0, 0);
        struct span day = pg_get_span(admin_result(a, 0), 0, 1);
        if (known) {
            return admin_fail(EX_CANTCREAT,
                              "%s: was removed %.*s, and can come back until it is purged: "
                              "mailfleet account restore %s",
                              addr->canon, SPAN_ARG(day), addr->canon);
        }
        if (args->opt[ARG_reuse]) {
            return EX_OK;
        }
        return admin_fail(EX_CANTCREAT,
                          "%s: was of the account %.*s, removed %.*s; --reuse gives it to another, "
                          "who will get mail for the one before",
                          addr->canon, SPAN_ARG(was), SPAN_ARG(day));
    }
    return EX_OK;
}

/* --- aliases --------------------------------------------------------------------------------- */

/* Column 0 of the rows whose column 1 is this flag. */
static char **take_names(const PGresult *r, int64_t flag, size_t *n)
{
    char **names = NEW_ARRAY(char *, (size_t)PQntuples(r) + 1);
    *n = 0;
    for (int i = 0; i < PQntuples(r); i++) {
        if (pg_get_i64(r, i, 1) == flag) {
            names[(*n)++] = span_dup(pg_get_span(r, i, 0));
        }
    }
    return names;
}

int aliases_find(struct admin *a, struct span target, struct aliases *out)
{
    admin_sql(a, "SELECT addr, cardinality(targets) > 1 FROM address "
                 "WHERE targets @> ARRAY[$1::text] ORDER BY addr");
    pg_text(a->batch, target);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "aliases");
    }
    const PGresult *r = admin_result(a, 0);
    out->alone = take_names(r, 0, &out->n_alone);
    out->among = take_names(r, 1, &out->n_among);
    return EX_OK;
}

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(names[i]);
    }
    free(names);
}

void aliases_free(struct aliases *s)
{
    free_names(s->alone, s->n_alone);
    free_names(s->among, s->n_among);
    *s = (struct aliases){ 0 };
}

static void drop_sql(struct admin *a, const char *alias, struct span target)
{
    if (alias[0] == '@') {
        /* A catch-all: without it the domain stays. */
        admin_sql(a, "UPDATE address SET targets = NULL WHERE addr = $1 "
                     "AND targets <@ ARRAY[$2::text]");
    } else {
        admin_sql(a, "DELETE FROM address WHERE addr = $1 AND targets <@ ARRAY[$2::text]");
    }
    pg_text(a->batch, span_str(alias));
    pg_text(a->batch, target);
    admin_sql(a, "UPDATE address SET targets = array_remove(targets, $2::text) "
                 "WHERE addr = $1 AND targets @> ARRAY[$2::text] AND cardinality(targets) > 1");
    pg_text(a->batch, span_str(alias));
    pg_text(a->batch, target);
}

/* Both are in order: the next of them is the lesser of two. */
void aliases_drop_sql(struct admin *a, const struct aliases *s, struct span target)
{
    size_t i = 0, k = 0;
    while (i < s->n_alone || k < s->n_among) {
        bool alone = k == s->n_among || (i < s->n_alone && strcmp(s->alone[i], s->among[k]) < 0);
        drop_sql(a, alone ? s->alone[i++] : s->among[k++], target);
    }
}

size_t aliases_keys(const struct aliases *s, struct cache_key *keys)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_alone; i++) {
        keys[n++] = (struct cache_key){ .kind = CACHE_ADDRESS, .address = span_str(s->alone[i]) };
    }
    for (size_t i = 0; i < s->n_among; i++) {
        keys[n++] = (struct cache_key){ .kind = CACHE_ADDRESS, .address = span_str(s->among[i]) };
    }
    return n;
}

static void names_sql(struct admin *a, char *const *names, size_t n)
{
    struct span *spans = NEW_ARRAY(struct span, n + 1);
    for (size_t i = 0; i < n; i++) {
        spans[i] = span_str(names[i]);
    }
    pg_texts(a->batch, spans, n);
    free(spans);
}

/* The account's own key, and those of the aliases. too_late: what MF002 means here. */
static int change(struct admin *a, const struct address *addr, const struct aliases *s,
                  const char *too_late)
{
    struct cache_key *keys = NEW_ARRAY(struct cache_key, s->n_alone + s->n_among + 1);
    size_t n = aliases_keys(s, keys);
    keys[n++] = (struct cache_key){ .kind = CACHE_ADDRESS, .address = span_str(addr->canon) };
    enum err e = admin_run_change(a, keys, n);
    free(keys);
    if (e == ERR_NOTFOUND) {
        return admin_fail(EX_NOUSER, "%s: %s", addr->canon, too_late);
    }
    return e == ERR_OK ? EX_OK : admin_fail_reply(a, addr->canon);
}

/* --- one or many ----------------------------------------------------------------------------- */

typedef int each_fn(struct admin *a, const struct args *args, const struct address *addr,
                    void *arg);

struct each {
    struct admin *admin;
    const struct args *args;
    each_fn *fn;
    void *arg;
    int code; /* of the first that failed */
};

/* EX_TEMPFAIL: the database is not there; what is left would fail the same way, each after its
 * time. */
static int each_one(struct each *e, const char *text)
{
    struct address addr;
    int code = admin_address(text, &addr) ? e->fn(e->admin, e->args, &addr, e->arg) : EX_DATAERR;
    e->code = e->code == EX_OK ? code : e->code;
    return code;
}

static int each_line(struct each *e, const char *path)
{
    struct lines l;
    const char *line;
    int code = lines_open(&l, path);
    while (code == EX_OK && (code = lines_next(&l, &line)) == EX_OK && line) {
        int one = each_one(e, line);
        if (one == EX_TEMPFAIL) {
            code =
                admin_fail(one, "%s:%zu: stopped here; the whole can be run again", path, l.number);
        } else if (one != EX_OK) {
            admin_say("%s:%zu: not done; going on", path, l.number);
        }
    }
    lines_close(&l);
    return code == EX_OK ? e->code : code;
}

/* Calls fn for each address of the command line, or of --list. EX_OK when all went. */
static int each_address(struct admin *a, const struct args *args, each_fn *fn, void *arg)
{
    struct each e = { .admin = a, .args = args, .fn = fn, .arg = arg };
    const char *list = args->opt[ARG_list];
    if ((args->n > 0) == (list != NULL)) {
        return admin_fail(EX_USAGE, "either addresses or --list FILE");
    }
    if (list) {
        return each_line(&e, list);
    }
    for (int i = 0; i < args->n && each_one(&e, args->v[i]) != EX_TEMPFAIL; i++) {
    }
    return e.code;
}

/* --- removing -------------------------------------------------------------------------------- */

struct account {
    uint64_t mailbox_id;
    int64_t state, messages, octets;
};

static int find(struct admin *a, const struct address *addr, struct account *out)
{
    int code = admin_mailbox(a, addr, &out->mailbox_id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "SELECT state, msgs, octets FROM mailbox WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)out->mailbox_id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    if (admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: no such account", addr->canon);
    }
    out->state = pg_get_i64(admin_result(a, 0), 0, 0);
    out->messages = pg_get_i64(admin_result(a, 0), 0, 1);
    out->octets = pg_get_i64(admin_result(a, 0), 0, 2);
    return EX_OK;
}

static int remove_found(struct admin *a, const struct address *addr, const struct account *c,
                        const struct aliases *s)
{
    char who[64];
    admin_who(who);
    admin_sql(a, "SELECT remove_account($1, $2, $3, $4, $5, $6, $7)");
    pg_i64(a->batch, (int64_t)c->mailbox_id);
    pg_text(a->batch, span_str(addr->canon));
    names_sql(a, s->alone, s->n_alone);
    names_sql(a, s->among, s->n_among);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, (int64_t)a->config->reap_removal_grace);
    pg_text(a->batch, span_str(who));
    aliases_drop_sql(a, s, span_str(addr->canon));
    return change(a, addr, s, "somebody else has removed it just now");
}

static void say_removed(const struct admin *a, const struct address *addr, const struct account *c,
                        const struct aliases *s, const char *verb)
{
    time_t end = (time_t)((admin_clock(a) + (int64_t)a->config->reap_removal_grace) / 1000);
    struct tm t;
    char until[32];
    strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&end, &t));
    admin_say("%s %s: %lld messages, %lld octets, %zu aliases that lead to it alone, %zu that lead "
              "to others too; it can come back until %s",
              addr->canon, verb, (long long)c->messages, (long long)c->octets, s->n_alone,
              s->n_among, until);
}

static int remove_one(struct admin *a, const struct args *args, const struct address *addr,
                      void *arg)
{
    struct account c;
    struct aliases s = { 0 };
    (void)arg;
    int code = find(a, addr, &c);
    if (code != EX_OK) {
        return code;
    }
    if (c.state == ACCOUNT_REMOVED) {
        admin_say("%s is removed already", addr->canon);
        return EX_OK;
    }
    code = aliases_find(a, span_str(addr->canon), &s);
    if (code == EX_OK && args->opt[ARG_yes]) {
        code = remove_found(a, addr, &c, &s);
    }
    if (code == EX_OK) {
        say_removed(a, addr, &c, &s, args->opt[ARG_yes] ? "removed" : "would be removed");
    }
    aliases_free(&s);
    return code;
}

int command_account_remove(struct admin *a, const struct args *args)
{
    int code = admin_read_clock(a);
    code = code == EX_OK ? each_address(a, args, remove_one, NULL) : code;
    if (code == EX_OK && !args->opt[ARG_yes]) {
        admin_say("nothing was changed: --yes does it");
    }
    return code;
}

/* --- restoring ------------------------------------------------------------------------------- */

/* What its row says of aliases, or a code after a message. */
static int noted(struct admin *a, const struct address *addr, uint64_t mailbox_id,
                 struct aliases *out)
{
    admin_sql(a, "SELECT n.name, n.many FROM removed r, LATERAL ("
                 "SELECT name, false AS many FROM unnest(r.aliases) name UNION ALL "
                 "SELECT name, true FROM unnest(r.lists) name) n WHERE r.mailbox_id = $1 "
                 "ORDER BY n.name COLLATE \"C\"");
    pg_i64(a->batch, (int64_t)mailbox_id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    out->alone = take_names(admin_result(a, 0), 0, &out->n_alone);
    out->among = take_names(admin_result(a, 0), 1, &out->n_among);
    return EX_OK;
}

/*
 * An alias that is still there leads to it again, too; a catch-all only where there is no other.
 * One that is not is made again: one that led to others only if it went with the last of them, and
 * not by an operator's wish.
 */
static void give_back_sql(struct admin *a, const char *alias, bool alone, struct span target)
{
    if (alias[0] == '@') {
        admin_sql(a, "UPDATE address SET targets = ARRAY[$2::text] WHERE addr = $1 "
                     "AND targets IS NULL");
    } else {
        admin_sql(a, "UPDATE address SET targets = targets || $2::text WHERE addr = $1 "
                     "AND mailbox_id IS NULL AND NOT targets @> ARRAY[$2::text] "
                     "AND cardinality(targets) < 1000");
    }
    pg_text(a->batch, span_str(alias));
    pg_text(a->batch, target);
    if (alias[0] != '@') {
        const char *at = strrchr(alias, '@');
        admin_sql(a, "INSERT INTO address (addr, domain, targets) "
                     "SELECT $1, d.name, ARRAY[$3::text] FROM domain d WHERE d.name = $2 AND "
                     "($4 OR EXISTS (SELECT FROM removed r WHERE r.aliases @> ARRAY[$1::text])) "
                     "ON CONFLICT DO NOTHING");
        pg_text(a->batch, span_str(alias));
        pg_text(a->batch, at ? span_str(at + 1) : SPAN(""));
        pg_text(a->batch, target);
        pg_bool(a->batch, alone);
    }
}

static int restore_found(struct admin *a, const struct address *addr, uint64_t mailbox_id,
                         const struct aliases *s)
{
    size_t i = 0, k = 0;
    admin_sql(a, "SELECT restore_account($1, $2)");
    pg_i64(a->batch, (int64_t)mailbox_id);
    pg_i64(a->batch, admin_clock(a));
    while (i < s->n_alone || k < s->n_among) {
        bool alone = k == s->n_among || (i < s->n_alone && strcmp(s->alone[i], s->among[k]) < 0);
        give_back_sql(a, alone ? s->alone[i++] : s->among[k++], alone, span_str(addr->canon));
    }
    return change(a, addr, s, "it can't come back any more: its messages are being purged");
}

static int restore_one(struct admin *a, const struct args *args, const struct address *addr,
                       void *arg)
{
    struct account c;
    struct aliases s = { 0 };
    (void)args;
    (void)arg;
    int code = find(a, addr, &c);
    if (code != EX_OK) {
        return code;
    }
    if (c.state != ACCOUNT_REMOVED) {
        return admin_fail(EX_DATAERR, "%s: is not removed", addr->canon);
    }
    code = noted(a, addr, c.mailbox_id, &s);
    if (code == EX_OK) {
        code = restore_found(a, addr, c.mailbox_id, &s);
    }
    if (code == EX_OK) {
        admin_say("%s is back, with %zu aliases and %lld messages", addr->canon,
                  s.n_alone + s.n_among, (long long)c.messages);
    }
    aliases_free(&s);
    return code;
}

int command_account_restore(struct admin *a, const struct args *args)
{
    int code = admin_read_clock(a);
    return code == EX_OK ? each_address(a, args, restore_one, NULL) : code;
}

/* --- receipts -------------------------------------------------------------------------------- */

static const struct column receipt_columns[] = {
    { "address", "ADDRESS", COLUMN_TEXT },         { "mailbox_id", "MAILBOX", COLUMN_NUMBER },
    { "removed_at", "REMOVED", COLUMN_TEXT },      { "by", "BY", COLUMN_TEXT },
    { "messages", "MESSAGES", COLUMN_NUMBER },     { "octets", "OCTETS", COLUMN_NUMBER },
    { "aliases", "ALIASES", COLUMN_TEXT },         { "lists", "MEMBER OF", COLUMN_TEXT },
    { "purge_after", "PURGE AFTER", COLUMN_TEXT }, { "purged_at", "PURGED", COLUMN_TEXT },
    { "files", "FILES LEFT", COLUMN_NUMBER },
};

struct receipts {
    struct table *table;
    size_t rows;
};

static void text_or_none(struct table *t, struct span s)
{
    s.n > 0 ? table_text(t, s) : table_none(t);
}

static void add_receipt(struct table *t, const PGresult *r, int row)
{
    table_text(t, pg_get_span(r, row, 0));
    table_number(t, (uint64_t)pg_get_i64(r, row, 1));
    table_text(t, pg_get_span(r, row, 2));
    table_text(t, pg_get_span(r, row, 3));
    table_number(t, (uint64_t)pg_get_i64(r, row, 4));
    table_number(t, (uint64_t)pg_get_i64(r, row, 5));
    text_or_none(t, pg_get_span(r, row, 6));
    text_or_none(t, pg_get_span(r, row, 7));
    table_text(t, pg_get_span(r, row, 8));
    text_or_none(t, pg_get_span(r, row, 9));
    table_number(t, (uint64_t)pg_get_i64(r, row, 10));
}

#define UTC(column)                                                                                \
    "coalesce(to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '')"

/* Files that stand yet: of its ledger rows, and of the pointers that are still to be purged. */
static int receipt_one(struct admin *a, const struct args *args, const struct address *addr,
                       void *arg)
{
    struct receipts *to = arg;
    (void)args;
    admin_sql(a, "SELECT r.addr, r.mailbox_id, " UTC(
                     "r.removed_at") ", r.by_whom, r.msgs, r.octets, "
                                     "array_to_string(r.aliases, ' '), array_to_string(r.lists, ' "
                                     "'), " UTC("r.purge_after") ", " UTC(
                                         "r.purged_at") ", "
                                                        "(SELECT count(*) FROM ledger l WHERE "
                                                        "l.mailbox_id = r.mailbox_id) "
                                                        "+ coalesce((SELECT b.msgs FROM mailbox b "
                                                        "WHERE b.mailbox_id = r.mailbox_id), 0) "
                                                        "FROM removed r WHERE r.addr = $1 ORDER BY "
                                                        "r.removed_at, r.mailbox_id");
    pg_text(a->batch, span_str(addr->canon));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    const PGresult *r = admin_result(a, 0);
    if (PQntuples(r) == 0) {
        return admin_fail(EX_NOUSER, "%s: no account with this address was removed", addr->canon);
    }
    for (int i = 0; i < PQntuples(r); i++) {
        add_receipt(to->table, r, i);
        to->rows++;
    }
    return EX_OK;
}

int command_account_receipt(struct admin *a, const struct args *args)
{
    struct receipts to = { .table = table_new(receipt_columns, ARRAY_LEN(receipt_columns)) };
    int code = each_address(a, args, receipt_one, &to);
    if (to.rows > 0) {
        table_print(to.table, a->json, "", stdout);
    }
    table_free(&to.table);
    return code;
}
