/*
 * messages: the pointers of one mailbox, straight from the database. No file is touched.
 */
#include <time.h>

#include "base/check.h"
#include "base/maildrop.h"
#include "commands.h"
#include "table.h"

static void add_time(struct table *t, const struct blob_id *id)
{
    char text[32];
    struct tm tm;
    time_t s = (time_t)(blob_id_time(id) / 1000);
    if (!gmtime_r(&s, &tm) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm)) {
        table_none(t);
        return;
    }
    table_text(t, span_str(text));
}

static void add_message(struct table *t, const PGresult *r, int row)
{
    struct blob_id id = pg_get_uuid(r, row, 1);
    struct span uidl = pg_get_span(r, row, 4);
    char text[BLOB_ID_CHARS + 1];
    blob_id_text(&id, text);
    table_number(t, (uint64_t)pg_get_i64(r, row, 0));
    table_text(t, span_str(text));
    add_time(t, &id);
    table_number(t, (uint64_t)pg_get_i64(r, row, 2));
    table_number(t, (uint64_t)pg_get_i64(r, row, 3));
    table_text(t, uidl.n ? uidl : span_str(text));
}

int command_messages(struct admin *a, const struct args *args)
{
    static const struct column columns[] = {
        { "seq", "SEQ", COLUMN_NUMBER },         { "id", "ID", COLUMN_TEXT },
        { "received", "RECEIVED", COLUMN_TEXT }, { "size", "SIZE", COLUMN_NUMBER },
        { "volume", "VOLUME", COLUMN_NUMBER },   { "uidl", "UIDL", COLUMN_TEXT },
    };
    struct address addr;
    uint64_t id, limit = INT64_MAX;
    if (!admin_address(args->v[0], &addr)) {
        return EX_DATAERR;
    }
    if (args->opt[ARG_limit] &&
        span_u64(span_str(args->opt[ARG_limit]), INT64_MAX, &limit) != ERR_OK) {
        return admin_fail(EX_DATAERR, "--limit %s: not a number", args->opt[ARG_limit]);
    }
    int code = admin_mailbox(a, &addr, &id);
    if (code != EX_OK) {
        return code;
    }
    admin_sql(a, "SELECT seq, blob_id, size, volume_id, uidl FROM message WHERE mailbox_id = $1 "
                 "ORDER BY seq LIMIT $2");
    pg_i64(a->batch, (int64_t)id);
    pg_i64(a->batch, (int64_t)limit);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, addr.canon);
    }
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    for (int i = 0; i < admin_rows(a, 0); i++) {
        add_message(t, admin_result(a, 0), i);
    }
    table_print(t, a->json, "no messages", stdout);
    table_free(&t);
    return EX_OK;
}
