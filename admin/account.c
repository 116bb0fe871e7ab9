/*
 * account: mailboxes and who may open them. Each change sets the tombstones that the cache protocol
 * asks for, so that it is in force on every node at once.
 */
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "quota.h"
#include "removal.h"
#include "secret.h"
#include "store/directory.h"
#include "table.h"

/* The account that the first word names, be it removed; EX_OK, or a code after a message. */
static int find_any(struct admin *a, const struct args *args, struct address *addr,
                    uint64_t *mailbox_id)
{
    return admin_address(args->v[0], addr) ? admin_mailbox(a, addr, mailbox_id) : EX_DATAERR;
}

/* Likewise, but one that can be changed. */
static int find_account(struct admin *a, const struct args *args, struct address *addr,
                        uint64_t *mailbox_id)
{
    return admin_address(args->v[0], addr) ? admin_mailbox_kept(a, addr, mailbox_id) : EX_DATAERR;
}

static int change_account(struct admin *a, const struct address *addr)
{
    struct cache_key key = { .kind = CACHE_ADDRESS, .address = span_str(addr->canon) };
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    return EX_OK;
}

/* --- changes --------------------------------------------------------------------------------- */

static struct span domain_of(const struct address *addr)
{
    return span_str(addr->canon + addr->canon_local + 1);
}

static int new_mailbox(struct admin *a, const struct address *addr, int64_t *mailbox_id)
{
    struct span domain = domain_of(addr);
    admin_sql(a, "SELECT nextval('mailbox_ids') FROM domain WHERE name = $1");
    pg_text(a->batch, domain);
    if (admin_run(a, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(a, addr->canon);
    }
    if (admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOHOST, "%.*s: not a domain of ours: mailfleet domain add %.*s",
                          SPAN_ARG(domain), SPAN_ARG(domain));
    }
    *mailbox_id = pg_get_i64(admin_result(a, 0), 0, 0);
    return EX_OK;
}

/* What is not given is as its domain has it now: a password may have been waited for. Without the
 * domain it fails. */
static void add_mailbox(struct admin *a, const struct address *addr, int64_t id,
                        const struct quota *q)
{
    admin_sql(a, "INSERT INTO mailbox (mailbox_id, max_octets, max_messages, max_size, "
                 "retention_days, read_days, own_retention, own_read) "
                 "SELECT $1, coalesce($2, d.max_octets), coalesce($3, d.max_messages), "
                 "coalesce($4, d.max_size), coalesce($5::bigint, d.retention_days), "
                 "coalesce($6::bigint, d.read_days), $5 IS NOT NULL, $6 IS NOT NULL "
                 "FROM (SELECT) one LEFT JOIN domain d ON d.name = $7");
    pg_i64(a->batch, id);
    quota_sql(q, a->batch);
    pg_text(a->batch, domain_of(addr));
}

int command_account_add(struct admin *a, const struct args *args)
{
    struct address addr;
    struct quota q;
    struct secret s;
    int64_t id = 0;
    if (!admin_address(args->v[0], &addr) || !quota_parse(args, &q)) {
        return EX_DATAERR;
    }
    int code = removal_check(a, args, &addr);
    if (code == EX_OK) {
        code = new_mailbox(a, &addr, &id);
    }
    if (code == EX_OK) {
        code = secret_new(a, args, &s);
    }
    if (code != EX_OK) {
        return code;
    }
    add_mailbox(a, &addr, id, &q);
    admin_sql(a, "INSERT INTO account (mailbox_id, addr, hash, scram) VALUES ($1, $2, $3, $4)");
    pg_i64(a->batch, id);
    pg_text(a->batch, span_str(addr.canon));
    pg_text(a->batch, span_str(s.hash));
    pg_text(a->batch, span_str(s.scram));
    admin_sql(a, "INSERT INTO address (addr, domain, mailbox_id) VALUES ($1, $2, $3)");
    pg_text(a->batch, span_str(addr.canon));
    pg_text(a->batch, domain_of(&addr));
    pg_i64(a->batch, id);
    return change_account(a, &addr);
}

int command_account_passwd(struct admin *a, const struct args *args)
{
    struct address addr;
    uint64_t id;
    struct secret s;
    int code = find_account(a, args, &addr, &id);
    if (code == EX_OK) {
        code = secret_new(a, args, &s);
    }
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "UPDATE account SET hash = $2, scram = $3 WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)id);
    pg_text(a->batch, span_str(s.hash));
    pg_text(a->batch, span_str(s.scram));
    return change_account(a, &addr);
}

int command_account_quota(struct admin *a, const struct args *args)
{
    struct address addr;
    struct quota q;
    uint64_t id;
    if (!quota_parse(args, &q)) {
        return EX_DATAERR;
    }
    if (!quota_any(&q)) {
        return admin_fail(EX_USAGE, "nothing to change: see mailfleet account quota --help");
    }
    int code = find_account(a, args, &addr, &id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "UPDATE mailbox SET max_octets = coalesce($2::bigint, max_octets), "
                 "max_messages = coalesce($3::bigint, max_messages), "
                 "max_size = coalesce($4::bigint, max_size), "
                 "retention_days = coalesce($5::bigint, retention_days), "
                 "read_days = coalesce($6::bigint, read_days) WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)id);
    quota_sql(&q, a->batch);
    return change_account(a, &addr);
}

/* `domain`: as its domain has it, from now on. */
static bool is_domains(const char *days)
{
    return strcmp(days, "domain") == 0;
}

int command_account_retention(struct admin *a, const struct args *args)
{
    struct address addr;
    uint64_t id;
    int64_t days = 0, read_days = 0;
    const char *unread = args->v[1], *read = args->opt[ARG_read_retention];
    if ((!is_domains(unread) && !retention_parse(unread, &days)) ||
        (read && !is_domains(read) && !read_retention_parse(read, &read_days))) {
        return EX_DATAERR;
    }
    int code = find_account(a, args, &addr, &id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "UPDATE mailbox b SET own_retention = $2, own_read = coalesce($4, b.own_read), "
                 "retention_days = CASE WHEN $2 THEN $3::bigint ELSE d.retention_days END, "
                 "read_days = CASE WHEN $4 THEN $5::bigint WHEN NOT $4 THEN d.read_days "
                 "                 ELSE b.read_days END "
                 "FROM domain d WHERE b.mailbox_id = $1 AND d.name = $6");
    pg_i64(a->batch, (int64_t)id);
    pg_bool(a->batch, !is_domains(unread));
    pg_i64(a->batch, days);
    read ? pg_bool(a->batch, !is_domains(read)) : pg_null(a->batch);
    pg_i64(a->batch, read_days);
    pg_text(a->batch, domain_of(&addr));
    return change_account(a, &addr);
}

static int set_state(struct admin *a, const struct args *args, enum account_state state)
{
    struct address addr;
    uint64_t id;
    int code = find_account(a, args, &addr, &id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "UPDATE mailbox SET state = $2::bigint WHERE mailbox_id = $1 AND state <> $3 "
                 "RETURNING 1");
    pg_i64(a->batch, (int64_t)id);
    pg_i64(a->batch, state);
    pg_i64(a->batch, ACCOUNT_REMOVED);
    code = change_account(a, &addr);
    if (code == EX_OK && admin_rows(a, 0) == 0) {
        return admin_fail(EX_NOUSER, "%s: was removed just now", addr.canon);
    }
    return code;
}

int command_account_suspend(struct admin *a, const struct args *args)
{
    return set_state(a, args, ACCOUNT_SUSPENDED);
}

int command_account_resume(struct admin *a, const struct args *args)
{
    return set_state(a, args, ACCOUNT_ACTIVE);
}

/* --- showing --------------------------------------------------------------------------------- */

static const struct column columns[] = {
    { "address", "ADDRESS", COLUMN_TEXT },
    { "mailbox_id", "MAILBOX", COLUMN_NUMBER },
    { "state", "STATE", COLUMN_TEXT },
    { "messages", "MESSAGES", COLUMN_NUMBER },
    { "octets", "OCTETS", COLUMN_NUMBER },
    { "max_messages", "MAX MESSAGES", COLUMN_NUMBER },
    { "max_octets", "MAX OCTETS", COLUMN_NUMBER },
    { "max_size", "MAX SIZE", COLUMN_NUMBER },
    { "retention_days", "KEPT DAYS", COLUMN_NUMBER },
    { "read_days", "WHEN READ", COLUMN_NUMBER },
    { "own_retention", "OWN DAYS", COLUMN_FLAG },
    { "own_read", "OWN WHEN READ", COLUMN_FLAG },
    { "password", "PASSWORD", COLUMN_FLAG },
    { "scram", "SCRAM", COLUMN_TEXT },
};

/* The hashes that a column `scram` has keys of: shown for people, counted for the fleet. */
#define HAS_SHA_256 "position('SCRAM-SHA-256$' in scram) > 0"
#define HAS_SHA_1   "position('SCRAM-SHA-1$' in scram) > 0"

#define ACCOUNT_COLUMNS                                                                            \
    "SELECT c.addr, b.mailbox_id, b.state, b.msgs, b.octets, b.max_messages, b.max_octets, "       \
    "b.max_size, b.retention_days, b.read_days, b.own_retention, b.own_read, c.hash <> '', "       \
    "concat_ws(' ', "                                                                              \
    "CASE WHEN " HAS_SHA_256 " THEN 'SHA-256' END, CASE WHEN " HAS_SHA_1 " THEN 'SHA-1' END) "     \
    "FROM account c JOIN mailbox b ON b.mailbox_id = c.mailbox_id "

static struct span state_name(int64_t state)
{
    switch (state) {
    case ACCOUNT_ACTIVE:
        return SPAN("active");
    case ACCOUNT_REMOVED:
        return SPAN("removed");
    default:
        return SPAN("suspended");
    }
}

static void add_account(struct table *t, const PGresult *r, int row)
{
    table_text(t, pg_get_span(r, row, 0));
    table_number(t, (uint64_t)pg_get_i64(r, row, 1));
    table_text(t, state_name(pg_get_i64(r, row, 2)));
    table_number(t, (uint64_t)pg_get_i64(r, row, 3));
    table_number(t, (uint64_t)pg_get_i64(r, row, 4));
    for (int c = 5; c < 9; c++) {
        table_limit(t, (uint64_t)pg_get_i64(r, row, c));
    }
    table_days(t, pg_get_i64(r, row, 9));
    for (int c = 10; c < 13; c++) {
        table_flag(t, pg_get_i64(r, row, c) != 0);
    }
    struct span scram = pg_get_span(r, row, 13);
    scram.n ? table_text(t, scram) : table_none(t);
}

int command_account_show(struct admin *a, const struct args *args)
{
    struct address addr;
    uint64_t id;
    int code = find_any(a, args, &addr, &id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, ACCOUNT_COLUMNS "WHERE b.mailbox_id = $1");
    pg_i64(a->batch, (int64_t)id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr.canon);
    }
    if (admin_rows(a, 0) != 1) {
        return admin_fail(EX_NOUSER, "%s: no such account", addr.canon);
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    add_account(t, admin_result(a, 0), 0);
    table_print_record(t, a->json, stdout);
    table_free(&t);
    return EX_OK;
}

/* The accounts among a page of addresses, which are the last results. */
static int add_page(struct admin *a, struct table *t)
{
    int64_t ids[ADDRESS_PAGE];
    size_t n = 0;
    for (int i = 0; i < admin_rows(a, 0); i++) {
        if (!PQgetisnull(admin_result(a, 0), i, 1)) {
            ids[n++] = pg_get_i64(admin_result(a, 0), i, 1);
        }
    }
    admin_sql(a, ACCOUNT_COLUMNS "WHERE b.mailbox_id = ANY ($1) ORDER BY c.addr COLLATE \"C\"");
    pg_i64s(a->batch, ids, n);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "accounts");
    }
    for (int i = 0; i < admin_rows(a, 0); i++) {
        add_account(t, admin_result(a, 0), i);
    }
    return EX_OK;
}

int command_account_list(struct admin *a, const struct args *args)
{
    char domain[DOMAIN_MAX + 2] = "@";
    struct address_walk w = { .domain = domain + 1 };
    int code = EX_OK;
    if (args->n && !admin_domain(args->v[0], domain)) {
        return EX_DATAERR;
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    while (code == EX_OK && !w.ended) {
        code = admin_addresses(a, &w);
        if (code == EX_OK) {
            code = add_page(a, t);
        }
    }
    if (code == EX_OK) {
        table_print(t, a->json, "no accounts", stdout);
    }
    table_free(&t);
    return code;
}

/* --- counting -------------------------------------------------------------------------------- */

#define COUNT_PAGE 20000 /* rows in one statement, which has a deadline */

enum { COUNT_ACCOUNTS, COUNT_HASH, COUNT_SHA_256, COUNT_SHA_1, COUNT_LAST, COUNT_COLUMNS };

/* Of a page of accounts, added to the sums; the last column is the page's last mailbox. */
static int count_page(struct admin *a, int64_t sums[COUNT_COLUMNS], bool *ended)
{
    admin_sql(a, "SELECT count(*), count(*) FILTER (WHERE hash <> ''), "
                 "count(*) FILTER (WHERE " HAS_SHA_256 "), count(*) FILTER (WHERE " HAS_SHA_1 "), "
                 "coalesce(max(mailbox_id), 0) FROM (SELECT mailbox_id, hash, scram FROM account "
                 "WHERE mailbox_id > $1 ORDER BY mailbox_id LIMIT $2) page");
    pg_i64(a->batch, sums[COUNT_LAST]);
    pg_i64(a->batch, COUNT_PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "accounts");
    }
    for (int c = 0; c < COUNT_LAST; c++) {
        sums[c] += pg_get_i64(admin_result(a, 0), 0, c);
    }
    sums[COUNT_LAST] = pg_get_i64(admin_result(a, 0), 0, COUNT_LAST);
    *ended = pg_get_i64(admin_result(a, 0), 0, COUNT_ACCOUNTS) < COUNT_PAGE;
    return EX_OK;
}

int command_account_count(struct admin *a, const struct args *args)
{
    static const struct column titles[] = {
        { "accounts", "Accounts", COLUMN_NUMBER },
        { "password", "With a password hash", COLUMN_NUMBER },
        { "scram_sha_256", "With SCRAM-SHA-256 keys", COLUMN_NUMBER },
        { "scram_sha_1", "With SCRAM-SHA-1 keys", COLUMN_NUMBER },
    };
    int64_t sums[COUNT_COLUMNS] = { 0 };
    bool ended = false;
    (void)args;
    while (!ended) {
        int code = count_page(a, sums, &ended);
        if (code != EX_OK) {
            return code;
        }
    }
    struct table *t = table_new(titles, ARRAY_LEN(titles));
    for (int c = 0; c < COUNT_LAST; c++) {
        table_number(t, (uint64_t)sums[c]);
    }
    table_print_record(t, a->json, stdout);
    table_free(&t);
    return EX_OK;
}
