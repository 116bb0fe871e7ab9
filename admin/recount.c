/*
 * recount: counters against what they count, mended on request. All of them move in one
 * transaction with the pointers, so every difference is somebody's error or damage.
 *
 * Looking needs no lock: a mailbox and its pointers are read in one snapshot, a page of mailboxes
 * at a time; the counts of shared files in one snapshot of everything, as there is no index by
 * file. What is found is mended under the mailbox's lock, and counted again there. Lists in the
 * cache are made of pointers and hold no counter, so no tombstone is needed.
 */
#include <stdlib.h>

#include "base/check.h"
#include "commands.h"
#include "progress.h"
#include "reaping.h"
#include "table.h"
#include "usage.h"

#define PAGE           100 /* mailboxes of one statement; some have 20,000 messages */
#define SHARED_WAIT_MS (4 * 60 * 60 * 1000) /* deadline of the one look at all pointers */
#define EXIT_DRIFT     1

static const struct column columns[] = {
    { "what", "WHAT", COLUMN_TEXT },       { "id", "ID", COLUMN_TEXT },
    { "address", "ADDRESS", COLUMN_TEXT }, { "counter", "COUNTER", COLUMN_TEXT },
    { "stored", "STORED", COLUMN_NUMBER }, { "counted", "COUNTED", COLUMN_NUMBER },
};

struct recount {
    struct admin *admin;
    bool mend;
    struct table *table;
    struct progress progress;
    uint64_t wrong; /* mailboxes and files */
    int64_t last;   /* mailbox that was looked at */
    bool ended;
};

/* --- mailboxes ------------------------------------------------------------------------------- */

enum { COL_BOX, COL_ADDR, COL_MSGS, COL_OCTETS, COL_SEQ, COL_HAS_MSGS, COL_HAS_OCTETS, COL_TOP };

#define PAGE_OF "(SELECT * FROM mailbox WHERE mailbox_id > $1 ORDER BY mailbox_id LIMIT $2)"
#define ONE_BOX "(SELECT * FROM mailbox WHERE mailbox_id = $1 + 1 LIMIT $2)"
#define COUNTED(boxes)                                                                             \
    "SELECT b.mailbox_id, coalesce(c.addr, ''), b.msgs, b.octets, b.next_seq, m.n, m.len, "        \
    "greatest(m.top, l.top) FROM " boxes " b "                                                     \
    "LEFT JOIN account c ON c.mailbox_id = b.mailbox_id "                                          \
    "CROSS JOIN LATERAL (SELECT count(*) AS n, coalesce(sum(size), 0)::bigint AS len, "            \
    "coalesce(max(seq), 0) AS top FROM message WHERE mailbox_id = b.mailbox_id) m "                \
    "CROSS JOIN LATERAL (SELECT coalesce(max(seq), 0) AS top FROM ledger "                         \
    "WHERE mailbox_id = b.mailbox_id) l ORDER BY b.mailbox_id"

static void add_row(struct recount *r, const char *what, const char *id, struct span address,
                    const char *counter, int64_t stored, int64_t counted)
{
    table_text(r->table, span_str(what));
    table_text(r->table, span_str(id));
    address.n ? table_text(r->table, address) : table_none(r->table);
    table_text(r->table, span_str(counter));
    table_number(r->table, (uint64_t)stored);
    table_number(r->table, (uint64_t)counted);
}

/* Tells the counters of a mailbox that are wrong; whether one is. */
static bool tell_mailbox(struct recount *r, const PGresult *rows, int row)
{
    int64_t v[COL_TOP + 1];
    char id[24];
    for (int c = COL_MSGS; c <= COL_TOP; c++) {
        v[c] = pg_get_i64(rows, row, c);
    }
    bool msgs = v[COL_MSGS] != v[COL_HAS_MSGS], octets = v[COL_OCTETS] != v[COL_HAS_OCTETS];
    bool seq = v[COL_SEQ] <= v[COL_TOP];
    struct span address = pg_get_span(rows, row, COL_ADDR);
    snprintf(id, sizeof id, "%lld", (long long)pg_get_i64(rows, row, COL_BOX));
    if (msgs) {
        add_row(r, "mailbox", id, address, "messages", v[COL_MSGS], v[COL_HAS_MSGS]);
    }
    if (octets) {
        add_row(r, "mailbox", id, address, "octets", v[COL_OCTETS], v[COL_HAS_OCTETS]);
    }
    if (seq) {
        add_row(r, "mailbox", id, address, "next_seq", v[COL_SEQ], v[COL_TOP] + 1);
    }
    return msgs || octets || seq;
}

static int mend_mailbox(struct recount *r, int64_t mailbox)
{
    struct admin *a = r->admin;
    admin_sql(a, "SELECT recount($1)");
    pg_i64(a->batch, mailbox);
    return admin_run(a, PG_WRITE) == ERR_OK ? EX_OK : admin_fail_reply(a, "mailboxes");
}

/* A page of mailboxes, or the one after last. */
static int recount_page(struct recount *r, const char *sql)
{
    struct admin *a = r->admin;
    int64_t wrong[PAGE];
    size_t n = 0;
    admin_sql(a, sql);
    pg_i64(a->batch, r->last);
    pg_i64(a->batch, PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "mailboxes");
    }
    const PGresult *rows = admin_result(a, 0);
    int found = PQntuples(rows);
    for (int i = 0; i < found; i++) {
        r->last = pg_get_i64(rows, i, COL_BOX);
        if (tell_mailbox(r, rows, i)) {
            wrong[n++] = r->last;
        }
    }
    r->ended = found < PAGE;
    r->wrong += n;
    int code = EX_OK;
    for (size_t i = 0; i < n && r->mend && code == EX_OK; i++) {
        code = mend_mailbox(r, wrong[i]);
    }
    progress_step(&r->progress, (uint64_t)found);
    return code;
}

/* As the server's statistics have it: for the bar alone. */
static uint64_t mailboxes_about(struct admin *a)
{
    admin_sql(a, "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = "
                 "'mailbox'::regclass");
    return admin_run(a, PG_READ) == ERR_OK && admin_rows(a, 0) == 1
               ? (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0)
               : 0;
}

static int recount_mailboxes(struct recount *r)
{
    int code = EX_OK;
    progress_begin(&r->progress, "mailboxes", mailboxes_about(r->admin), 0);
    while (code == EX_OK && !r->ended) {
        code = recount_page(r, COUNTED(PAGE_OF));
    }
    progress_end(&r->progress);
    return code;
}

/* --- shared files ---------------------------------------------------------------------------- */

static int mend_shared(struct recount *r, const PGresult *rows, int row)
{
    struct admin *a = r->admin;
    struct blob_id id = pg_get_uuid(rows, row, 0);
    admin_sql(a, "SELECT recount_shared($1, $2, $3::text::bigint[])");
    pg_uuid(a->batch, &id);
    pg_i64(a->batch, pg_get_i64(rows, row, 3));
    pg_text(a->batch, pg_get_span(rows, row, 4));
    return admin_run(a, PG_WRITE) == ERR_OK ? EX_OK : admin_fail_reply(a, "shared files");
}

/*
 * The server groups all pointers of shared files, on its own disk if need be. That it is one
 * statement makes it exact: whatever moves a pointer keeps its count in the same transaction. It
 * also makes the list of mailboxes complete, without which a count could be mended too low.
 */
static int recount_shared(struct recount *r)
{
    struct admin all;
    int code = EX_OK;
    admin_open_beside(&all, r->admin, SHARED_WAIT_MS);
    admin_sql(&all, "SELECT coalesce(s.blob_id, p.blob_id), coalesce(s.refs, 0), "
                    "coalesce(p.n, 0), coalesce(s.volume_id, p.volume_id), "
                    "coalesce(p.boxes, '{}')::text "
                    "FROM blob_shared s FULL JOIN (SELECT blob_id, count(*) AS n, "
                    "min(volume_id) AS volume_id, array_agg(mailbox_id) AS boxes FROM "
                    "(SELECT blob_id, volume_id, mailbox_id FROM message WHERE shared UNION ALL "
                    "SELECT blob_id, volume_id, mailbox_id FROM ledger WHERE shared) x "
                    "GROUP BY blob_id) p ON p.blob_id = s.blob_id "
                    "WHERE coalesce(s.refs, 0) <> coalesce(p.n, 0) ORDER BY 1");
    if (admin_run(&all, PG_READ) != ERR_OK) {
        code = admin_fail_reply(&all, "shared files");
    }
    for (int i = 0; code == EX_OK && i < admin_rows(&all, 0); i++) {
        const PGresult *rows = admin_result(&all, 0);
        char text[BLOB_ID_CHARS + 1];
        struct blob_id id = pg_get_uuid(rows, i, 0);
        blob_id_text(&id, text);
        add_row(r, "shared file", text, SPAN(""), "references", pg_get_i64(rows, i, 1),
                pg_get_i64(rows, i, 2));
        r->wrong++;
        code = r->mend ? mend_shared(r, rows, i) : EX_OK;
    }
    admin_close_beside(&all);
    return code;
}

/* --- the command ----------------------------------------------------------------------------- */

static int recount_one(struct recount *r, const char *address)
{
    struct address addr;
    uint64_t id;
    if (!admin_address(address, &addr)) {
        return EX_DATAERR;
    }
    int code = admin_mailbox(r->admin, &addr, &id);
    if (code != EX_OK) {
        return code;
    }
    r->last = (int64_t)id - 1;
    progress_begin(&r->progress, "mailboxes", 1, 0);
    return recount_page(r, COUNTED(ONE_BOX));
}

static int recount_all(struct recount *r)
{
    int code = recount_mailboxes(r);
    return code == EX_OK ? recount_shared(r) : code;
}

int command_recount(struct admin *a, const struct args *args)
{
    struct recount r = { .admin = a,
                         .mend = args->opt[ARG_yes] != NULL,
                         .table = table_new(columns, ARRAY_LEN(columns)) };
    int code = reaping_rebuilt(a);
    if (code == EX_OK) {
        code = args->n ? recount_one(&r, args->v[0]) : recount_all(&r);
    }
    if (code == EX_OK && !args->n && r.mend) {
        code = usage_refresh_all(a, false);
    }
    if (code == EX_OK) {
        table_print(r.table, a->json, "no drift", stdout);
        if (r.wrong > 0) {
            admin_say("%llu mailboxes and files had wrong counters; %s",
                      (unsigned long long)r.wrong, r.mend ? "they are mended" : "--yes mends them");
            code = EXIT_DRIFT;
        }
    }
    table_free(&r.table);
    return code;
}
