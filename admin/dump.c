/*
 * dump: `mailfleet account dump`, what the spool can't tell, as text to be kept beside the backups.
 * Read page by page, so that it may run while accounts are changed: each line is true by itself.
 * The form is accounts_file.h's.
 */
#include <stdlib.h>

#include "accounts_file.h"
#include "base/check.h"
#include "commands.h"

#define PAGE            2000
#define NAMES_A_LINE    1000      /* ACCOUNTS_WORDS_MAX less what comes before them */
#define LINE_MAX_OCTETS (1 << 20) /* an alias with 1000 targets, each octet three */

struct dump {
    struct admin *admin;
    struct buf line;
    uint64_t lines;
    size_t names; /* in the line of a removed account */
};

static void end_line(struct dump *d)
{
    struct span s = buf_span(&d->line);
    printf("%.*s\n", SPAN_ARG(s));
    buf_clear(&d->line);
    d->lines++;
}

static void begin(struct dump *d, const char *kind)
{
    accounts_word(&d->line, span_str(kind));
}

/* What a column is when a dump does not say it. */
static int64_t usual(const char *key)
{
    return strcmp(key, "read_days") == 0 ? -1 : 0;
}

/* KEY=N for the columns from first on, under their own names; what is usual is left out. */
static void add_pairs(struct dump *d, const PGresult *r, int row, int first)
{
    for (int c = first; c < PQnfields(r); c++) {
        int64_t v = pg_get_i64(r, row, c);
        if (v != usual(PQfname(r, c))) {
            accounts_pair(&d->line, PQfname(r, c), v);
        }
    }
}

static int dump_head(struct dump *d)
{
    struct admin *a = d->admin;
    admin_sql(a, "SELECT last_value FROM mailbox_ids");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "accounts");
    }
    printf("%s\n", ACCOUNTS_FILE_HEAD);
    d->lines++;
    begin(d, "sequence");
    accounts_number(&d->line, (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0));
    end_line(d);
    return EX_OK;
}

static int dump_volumes(struct dump *d)
{
    struct admin *a = d->admin;
    admin_sql(a, "SELECT volume_id, uuid::text, url, fanout, state, weight, free_floor "
                 "FROM volume ORDER BY volume_id");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "volumes");
    }
    for (int i = 0; i < admin_rows(a, 0); i++) {
        const PGresult *r = admin_result(a, 0);
        begin(d, "volume");
        accounts_number(&d->line, (uint64_t)pg_get_i64(r, i, 0));
        accounts_word(&d->line, pg_get_span(r, i, 1));
        accounts_word(&d->line, pg_get_span(r, i, 2));
        add_pairs(d, r, i, 3);
        end_line(d);
    }
    return EX_OK;
}

static int dump_domains(struct dump *d)
{
    struct admin *a = d->admin;
    admin_sql(a, "SELECT name, max_octets, max_messages, max_size, retention_days, "
                 "read_days, total_octets, total_messages, "
                 "(extract(epoch FROM created_at) * 1000)::bigint AS created FROM domain "
                 "ORDER BY name");
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "domains");
    }
    for (int i = 0; i < admin_rows(a, 0); i++) {
        begin(d, "domain");
        accounts_word(&d->line, pg_get_span(admin_result(a, 0), i, 0));
        add_pairs(d, admin_result(a, 0), i, 1);
        end_line(d);
    }
    return EX_OK;
}

static int dump_accounts(struct dump *d)
{
    struct admin *a = d->admin;
    int64_t last = 0;
    int n;
    do {
        admin_sql(a, "SELECT c.mailbox_id, c.addr, c.hash, c.scram, b.state, b.max_octets, "
                     "b.max_messages, b.max_size, b.retention_days, "
                     "b.read_days, b.own_retention, b.own_read, "
                     "(extract(epoch FROM c.created_at) * 1000)::bigint AS created, "
                     "d.mailbox_id IS DISTINCT FROM c.mailbox_id AS unlisted "
                     "FROM account c JOIN mailbox b ON b.mailbox_id = c.mailbox_id "
                     "LEFT JOIN address d ON d.addr = c.addr "
                     "WHERE c.mailbox_id > $1 ORDER BY c.mailbox_id LIMIT $2");
        pg_i64(a->batch, last);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "accounts");
        }
        const PGresult *r = admin_result(a, 0);
        n = PQntuples(r);
        for (int i = 0; i < n; i++) {
            last = pg_get_i64(r, i, 0);
            begin(d, "account");
            accounts_word(&d->line, pg_get_span(r, i, 1));
            accounts_number(&d->line, (uint64_t)last);
            accounts_word(&d->line, pg_get_span(r, i, 2));
            accounts_word(&d->line, pg_get_span(r, i, 3));
            add_pairs(d, r, i, 4);
            end_line(d);
        }
    } while (n == PAGE);
    return EX_OK;
}

static void dump_alias(struct dump *d, const PGresult *r, int row)
{
    struct span targets[ENTRY_TARGETS_MAX];
    size_t n = pg_get_texts(r, row, 2, targets, ARRAY_LEN(targets));
    if (n == 0) {
        return; /* an account, or a domain without a catch-all */
    }
    begin(d, "alias");
    accounts_word(&d->line, pg_get_span(r, row, 0));
    for (size_t i = 0; i < n && i < ARRAY_LEN(targets); i++) {
        accounts_word(&d->line, targets[i]);
    }
    end_line(d);
}

static int dump_aliases(struct dump *d)
{
    struct address_walk w = { .domain = "" };
    int code = EX_OK;
    while (code == EX_OK && !w.ended) {
        code = admin_addresses(d->admin, &w);
        for (int i = 0; code == EX_OK && i < admin_rows(d->admin, 0); i++) {
            dump_alias(d, admin_result(d->admin, 0), i);
        }
    }
    return code;
}

enum { REMOVED_ID, REMOVED_ADDR, REMOVED_BY, REMOVED_ALIASES, REMOVED_LISTS, REMOVED_PAIRS };

static void begin_removed(struct dump *d, const PGresult *r, int row)
{
    begin(d, "removed");
    accounts_number(&d->line, (uint64_t)pg_get_i64(r, row, REMOVED_ID));
    accounts_word(&d->line, pg_get_span(r, row, REMOVED_ADDR));
    accounts_word(&d->line, pg_get_span(r, row, REMOVED_BY));
    add_pairs(d, r, row, REMOVED_PAIRS);
}

/* A line that is full ends; the next one begins as it did. */
static void add_names(struct dump *d, const PGresult *r, int row, int column, const char *key)
{
    size_t n = pg_get_texts(r, row, column, NULL, 0);
    struct span *names = NEW_ARRAY(struct span, n + 1);
    pg_get_texts(r, row, column, names, n);
    for (size_t i = 0; i < n; i++) {
        char pair[ENTRY_TARGET_MAX + sizeof "alias="];
        if (d->names++ == NAMES_A_LINE) {
            end_line(d);
            begin_removed(d, r, row);
            d->names = 1;
        }
        snprintf(pair, sizeof pair, "%s=%.*s", key, SPAN_ARG(names[i]));
        accounts_word(&d->line, span_str(pair));
    }
    free(names);
}

static void dump_removed_row(struct dump *d, const PGresult *r, int row)
{
    d->names = 0;
    begin_removed(d, r, row);
    add_names(d, r, row, REMOVED_ALIASES, "alias");
    add_names(d, r, row, REMOVED_LISTS, "list");
    end_line(d);
}

static int dump_removed(struct dump *d)
{
    struct admin *a = d->admin;
    int64_t last = -1;
    int n;
    do {
        admin_sql(a, "SELECT mailbox_id, addr, by_whom, aliases, lists, was_state AS was, "
                     "(extract(epoch FROM removed_at) * 1000)::bigint AS removed, "
                     "(extract(epoch FROM purge_after) * 1000)::bigint AS purge, "
                     "coalesce((extract(epoch FROM purged_at) * 1000)::bigint, 0) AS purged, "
                     "msgs, octets FROM removed WHERE mailbox_id > $1 ORDER BY mailbox_id "
                     "LIMIT $2");
        pg_i64(a->batch, last);
        pg_i64(a->batch, PAGE);
        if (admin_run(a, PG_READ) != ERR_OK) {
            return admin_fail_reply(a, "removed accounts");
        }
        n = admin_rows(a, 0);
        for (int i = 0; i < n; i++) {
            last = pg_get_i64(admin_result(a, 0), i, 0);
            dump_removed_row(d, admin_result(a, 0), i);
        }
    } while (n == PAGE);
    return EX_OK;
}

int command_account_dump(struct admin *a, const struct args *args)
{
    static int (*const parts[])(struct dump *) = { dump_head,     dump_volumes, dump_domains,
                                                   dump_accounts, dump_aliases, dump_removed };
    struct dump d = { .admin = a };
    int code = EX_OK;
    (void)args;
    buf_init(&d.line, LINE_MAX_OCTETS);
    for (size_t i = 0; i < ARRAY_LEN(parts) && code == EX_OK; i++) {
        code = parts[i](&d);
    }
    if (code == EX_OK) {
        printf("end %llu\n", (unsigned long long)d.lines);
    }
    buf_fini(&d.line);
    return code;
}
