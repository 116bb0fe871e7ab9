/*
 * undelete: gives a mailbox back what was deleted, while its grace period lasts: rows of the ledger
 * that no reaper has claimed become pointers again, with the place, UIDL and handle that they had.
 * A page is one transaction with the tombstones of the list, so it may be killed anywhere and run
 * again. No file is touched, and none has to be: a row's file stands as long as the row.
 *
 * Limits do not stop it: they are for new mail. What is older than the mailbox keeps its mail goes
 * again with the next reaper; that is said.
 */
#include "base/check.h"
#include "base/fault.h"
#include "commands.h"
#include "table.h"

#define PAGE 1000

struct wanted {
    struct address address;
    uint64_t mailbox;
    int64_t since_ms;
    struct blob_id id;
    bool one; /* that alone */
};

/* What there is of it. */
struct found {
    uint64_t messages, octets; /* can come back */
    uint64_t lost;             /* reapers have claimed or unlinked it */
    uint64_t restored;         /* came back */
};

static int parse(struct admin *a, const struct args *args, struct wanted *w)
{
    *w = (struct wanted){ .one = args->opt[ARG_id] };
    if (!admin_address(args->v[0], &w->address)) {
        return EX_DATAERR;
    }
    if (args->opt[ARG_since] && !admin_parse_time(args->opt[ARG_since], &w->since_ms)) {
        return EX_DATAERR;
    }
    if (w->one && blob_id_parse(span_str(args->opt[ARG_id]), &w->id) != ERR_OK) {
        return admin_fail(EX_DATAERR, "%s: not the id of a message", args->opt[ARG_id]);
    }
    return admin_mailbox_kept(a, &w->address, &w->mailbox);
}

static void add_wanted(struct admin *a, const struct wanted *w)
{
    pg_i64(a->batch, (int64_t)w->mailbox);
    pg_i64(a->batch, w->since_ms);
    if (w->one) {
        pg_uuid(a->batch, &w->id);
    } else {
        pg_null(a->batch);
    }
}

/* One mailbox's rows: as many as a mailbox can hold, so one statement will do. */
static int look(struct admin *a, const struct wanted *w, struct found *f)
{
    admin_sql(a, "SELECT count(*) FILTER (WHERE claimed_at IS NULL), "
                 "coalesce(sum(size) FILTER (WHERE claimed_at IS NULL), 0)::bigint, "
                 "count(*) FILTER (WHERE claimed_at IS NOT NULL) FROM ledger "
                 "WHERE mailbox_id = $1 AND seq > 0 AND deleted_at >= ms_time($2) "
                 "AND ($3::uuid IS NULL OR blob_id = $3)");
    add_wanted(a, w);
    admin_sql(a, "SELECT count(*) FROM ledger_past WHERE mailbox_id = $1 AND seq > 0 "
                 "AND deleted_at >= ms_time($2) AND ($3::uuid IS NULL OR blob_id = $3)");
    add_wanted(a, w);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, w->address.canon);
    }
    const PGresult *r = admin_result(a, 0);
    *f = (struct found){ .messages = (uint64_t)pg_get_i64(r, 0, 0),
                         .octets = (uint64_t)pg_get_i64(r, 0, 1),
                         .lost = (uint64_t)pg_get_i64(r, 0, 2) +
                                 (uint64_t)pg_get_i64(admin_result(a, 1), 0, 0) };
    return EX_OK;
}

static int restore(struct admin *a, const struct wanted *w, struct found *f)
{
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = w->mailbox };
    uint64_t n;
    char who[64];
    admin_who(who);
    do {
        admin_sql(a, "SELECT undelete($1, $2, $3, $4, $5, $6)");
        add_wanted(a, w);
        pg_i64(a->batch, PAGE);
        pg_i64(a->batch, admin_now());
        pg_text(a->batch, span_str(who));
        if (admin_run_change(a, &key, 1) != ERR_OK) {
            return admin_fail_reply(a, w->address.canon);
        }
        n = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
        f->restored += n;
        fault_at(FAULT_undelete_committed);
    } while (n == PAGE);
    return EX_OK;
}

static void warn_of_reading(const struct wanted *w, int64_t days)
{
    if (days >= 0) {
        admin_say("%s keeps messages for %lld days after they were retrieved: those that came back "
                  "count as not retrieved, and go that long after they are",
                  w->address.canon, (long long)days);
    }
}

/* What its owner will notice next. */
static int warn(struct admin *a, const struct wanted *w)
{
    admin_sql(a, "SELECT room(0::smallint, msgs, octets, max_messages, max_octets, 0, 0, 0) <> 0, "
                 "retention_days > 0 AND EXISTS (SELECT FROM message m "
                 "  WHERE m.mailbox_id = b.mailbox_id "
                 "  AND m.blob_id < ms_id($2 - b.retention_days * 86400000::bigint)), read_days "
                 "FROM mailbox b WHERE mailbox_id = $1");
    pg_i64(a->batch, (int64_t)w->mailbox);
    pg_i64(a->batch, admin_now());
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, w->address.canon);
    }
    if (admin_rows(a, 0) == 0) {
        return EX_OK; /* removed meanwhile */
    }
    if (pg_get_i64(admin_result(a, 0), 0, 0)) {
        admin_say("%s is at its limits now: it takes no new mail until some is deleted",
                  w->address.canon);
    }
    if (pg_get_i64(admin_result(a, 0), 0, 1)) {
        admin_say("%s has messages that are older than it keeps them: they expire again unless "
                  "mailfleet account retention says otherwise",
                  w->address.canon);
    }
    warn_of_reading(w, pg_get_i64(admin_result(a, 0), 0, 2));
    return EX_OK;
}

static void print(const struct admin *a, const struct found *f)
{
    static const struct column columns[] = {
        { "messages", "Deleted messages that can come back", COLUMN_NUMBER },
        { "octets", "Octets", COLUMN_NUMBER },
        { "restored", "Came back", COLUMN_NUMBER },
        { "lost", "Lost: claimed or unlinked by a reaper", COLUMN_NUMBER },
    };
    struct table *t = table_new(columns, ARRAY_LEN(columns));
    table_number(t, f->messages);
    table_number(t, f->octets);
    table_number(t, f->restored);
    table_number(t, f->lost);
    table_print_record(t, a->json, stdout);
    table_free(&t);
}

static int finish(struct admin *a, const struct wanted *w, const struct found *f)
{
    if (f->restored < f->messages) {
        admin_say("%llu stay deleted: listed again under the same id or UIDL, or just taken by a "
                  "reaper",
                  (unsigned long long)(f->messages - f->restored));
    }
    return f->restored > 0 ? warn(a, w) : EX_OK;
}

int command_undelete(struct admin *a, const struct args *args)
{
    struct wanted w;
    struct found f = { 0 };
    int code = parse(a, args, &w);
    if (code == EX_OK) {
        code = look(a, &w, &f);
    }
    if (code != EX_OK) {
        return code;
    }
    if (w.one && f.messages == 0) {
        return admin_fail(EX_NOUSER, "%s: %s", args->opt[ARG_id],
                          f.lost ? "lost: a reaper has unlinked its file, or is about to"
                                 : "not among what this mailbox deleted");
    }
    if (args_yes(args, "give back %llu message%s", (unsigned long long)f.messages,
                 admin_plural(f.messages))) {
        code = restore(a, &w, &f);
    }
    if (code == EX_OK) {
        print(a, &f);
        code = args->opt[ARG_yes] ? finish(a, &w, &f) : EX_OK;
    }
    return code;
}
