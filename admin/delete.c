/*
 * delete: an operator deletes messages of a mailbox, as its owner could by DELE: their pointers go
 * to the ledger with the operator's name, and undelete gives them back while the grace lasts. A
 * page is one transaction with the tombstones of the list, so it may be killed anywhere and run
 * again.
 *
 * Without --yes it counts. It owns nothing and touches no file.
 */
#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "table.h"

#define PAGE 1000

/* Which messages: what is not given does not choose. */
struct choice {
    struct address address;
    uint64_t mailbox;
    bool one, older;
    struct blob_id id; /* of --id, or what the UIDL is the text of */
    const char *uidl;
    int64_t older_ms;
    int64_t after, last; /* and only between these places, the second included */
};

#define CHOSEN                                                                                     \
    "FROM message m WHERE m.mailbox_id = $1"                                                       \
    " AND ($2::text IS NULL OR m.uidl = $2 OR m.uidl = '' AND m.blob_id = $3)"                     \
    " AND ($2::text IS NOT NULL OR $3::uuid IS NULL OR m.blob_id = $3)"                            \
    " AND ($4::bigint IS NULL OR m.blob_id < ms_id($4))"                                           \
    " AND m.seq > $5 AND m.seq <= $6"

static int usage(void)
{
    return admin_fail(EX_USAGE, "usage: mailfleet delete ADDRESS, and one of --id ID, --uidl UIDL, "
                                "--all [--older TIME]");
}

static int parse(struct admin *a, const struct args *args, struct choice *c)
{
    const char *id = args->opt[ARG_id], *older = args->opt[ARG_older];
    *c = (struct choice){ .uidl = args->opt[ARG_uidl], .older = older != NULL, .last = INT64_MAX };
    if ((id != NULL) + (c->uidl != NULL) + (args->opt[ARG_all] != NULL) != 1 ||
        (older && !args->opt[ARG_all])) {
        return usage();
    }
    if (!admin_address(args->v[0], &c->address) ||
        (older && !admin_parse_time(older, &c->older_ms))) {
        return EX_DATAERR;
    }
    if (id || c->uidl) {
        c->one = blob_id_parse(span_str(id ? id : c->uidl), &c->id) == ERR_OK;
    }
    if (id && !c->one) {
        return admin_fail(EX_DATAERR, "%s: not the id of a message", id);
    }
    return admin_mailbox_kept(a, &c->address, &c->mailbox);
}

static void add_choice(struct admin *a, const struct choice *c)
{
    pg_i64(a->batch, (int64_t)c->mailbox);
    c->uidl ? pg_text(a->batch, span_str(c->uidl)) : pg_null(a->batch);
    c->one ? pg_uuid(a->batch, &c->id) : pg_null(a->batch);
    c->older ? pg_i64(a->batch, c->older_ms) : pg_null(a->batch);
    pg_i64(a->batch, c->after);
    pg_i64(a->batch, c->last);
}

/*
 * One mailbox's rows: as many as a mailbox can hold, so one statement will do. From now on the
 * choice ends with the last of them: what is delivered later is not what the operator was told of.
 */
static int look(struct admin *a, struct choice *c, uint64_t *messages, uint64_t *octets)
{
    admin_sql(a,
              "SELECT count(*), coalesce(sum(m.size), 0)::bigint, coalesce(max(m.seq), 0) " CHOSEN);
    add_choice(a, c);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, c->address.canon);
    }
    *messages = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    *octets = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 1);
    c->last = pg_get_i64(admin_result(a, 0), 0, 2);
    return EX_OK;
}

/* The next page of them, and its length. */
static int next_page(struct admin *a, struct choice *c, int64_t seqs[], struct blob_id ids[],
                     size_t *n)
{
    admin_sql(a, "SELECT m.seq, m.blob_id " CHOSEN " ORDER BY m.seq LIMIT $7");
    add_choice(a, c);
    pg_i64(a->batch, PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, c->address.canon);
    }
    *n = (size_t)admin_rows(a, 0);
    for (size_t i = 0; i < *n; i++) {
        seqs[i] = pg_get_i64(admin_result(a, 0), (int)i, 0);
        ids[i] = pg_get_uuid(admin_result(a, 0), (int)i, 1);
        c->after = seqs[i];
    }
    return EX_OK;
}

static int expunge(struct admin *a, const struct choice *c, const int64_t seqs[],
                   const struct blob_id ids[], size_t n, uint64_t *deleted)
{
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = c->mailbox };
    char who[64];
    admin_who(who);
    admin_sql(a, "SELECT expunge($1, $2, $3, $4, $5, $6)");
    pg_i64(a->batch, (int64_t)c->mailbox);
    pg_i64s(a->batch, seqs, n);
    pg_uuids(a->batch, ids, n);
    pg_i64(a->batch, admin_now());
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    pg_text(a->batch, span_str(who));
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, c->address.canon);
    }
    *deleted += (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    return EX_OK;
}

static int delete_all(struct admin *a, struct choice *c, uint64_t *deleted)
{
    int64_t seqs[PAGE];
    struct blob_id ids[PAGE];
    size_t n = PAGE;
    int code = EX_OK;
    fault_at(FAULT_delete_counted);
    while (code == EX_OK && n == PAGE) {
        code = next_page(a, c, seqs, ids, &n);
        code = code == EX_OK && n > 0 ? expunge(a, c, seqs, ids, n, deleted) : code;
    }
    return code;
}

static void print(const struct admin *a, uint64_t messages, uint64_t octets, uint64_t deleted)
{
    static const struct column columns[] = {
        { "messages", "Messages", COLUMN_NUMBER },
        { "octets", "Octets", COLUMN_NUMBER },
        { "deleted", "Deleted", COLUMN_NUMBER },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, messages);
    table_number(t, octets);
    table_number(t, deleted);
    table_print_record(t, a->json, stdout);
    table_free(&t);
}

int command_delete(struct admin *a, const struct args *args)
{
    struct choice c;
    uint64_t messages = 0, octets = 0, deleted = 0;
    int code = parse(a, args, &c);
    code = code == EX_OK ? look(a, &c, &messages, &octets) : code;
    if (code != EX_OK) {
        return code;
    }
    if (messages == 0 && !args->opt[ARG_all]) {
        return admin_fail(EX_NOUSER, "%s: no such message in this mailbox",
                          args->opt[ARG_id] ? args->opt[ARG_id] : c.uidl);
    }
    if (args_yes(args, "delete %llu message%s", (unsigned long long)messages,
                 admin_plural(messages))) {
        code = delete_all(a, &c, &deleted);
    }
    if (code == EX_OK) {
        print(a, messages, octets, deleted);
    }
    return code;
}
