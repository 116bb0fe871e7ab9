/*
 * expire: two walks, along the mailboxes that have a retention and along those that have one for
 * what was read, a page at a time, to those whose mail is older. Each move is one transaction of
 * bounded size in one mailbox, with the tombstones of its cached list, so it may be killed anywhere
 * and any number may run at once: what one has moved another does not find.
 *
 * A mailbox's turn has come when one of its first pointers is old. They stand in the order of
 * delivery, so the first tells; 64 are as cheap, being on the same page of the index, and find what
 * an import has left in another order. Old mail behind more young mail than that waits until this
 * goes: it expires late, never early. So a mailbox whose turn has not come costs a look into the
 * index, and no call of its own. With what was read it is the same: the marks stand in the order of
 * the messages, and the first 64 tell.
 */
#include "expire.h"

#include "base/check.h"
#include "base/fault.h"

#define PAGE      500  /* mailboxes that are looked at in one statement, which has a deadline */
#define MOVE_MOST 1000 /* messages of one transaction */

struct walk {
    const char *sql;
    int64_t days, mailbox; /* the last that was seen */
    bool ended;
    int64_t due[PAGE];
    size_t n;
};

/*
 * Mailboxes behind a place in mailbox_retention, and whether their turn has come. All days are
 * smallint: none is left out. Those that keep their mail for ever come first, and are passed over.
 */
static const struct walk by_age = {
    .sql = "SELECT b.retention_days, b.mailbox_id, b.state = 0 AND EXISTS ("
           "       SELECT FROM (SELECT m.blob_id FROM message m"
           "                     WHERE m.mailbox_id = b.mailbox_id ORDER BY m.seq LIMIT 64) f"
           "        WHERE f.blob_id < b.before)"
           "  FROM (SELECT retention_days, mailbox_id, state, "
           "               ms_id($4 - retention_days * 86400000::bigint) AS before"
           "          FROM mailbox"
           "         WHERE (retention_days, mailbox_id) > ($1::bigint, $2::bigint)"
           "         ORDER BY retention_days, mailbox_id LIMIT $3) b"
           " ORDER BY b.retention_days, b.mailbox_id",
    .days = 0,
    .mailbox = INT64_MAX,
};

/* Likewise in mailbox_read. */
static const struct walk by_reading = {
    .sql = "SELECT b.read_days, b.mailbox_id, b.state = 0 AND EXISTS ("
           "       SELECT FROM (SELECT r.read_at FROM read_mark r"
           "                     WHERE r.mailbox_id = b.mailbox_id ORDER BY r.seq LIMIT 64) f"
           "        WHERE f.read_at <= b.before)"
           "  FROM (SELECT read_days, mailbox_id, state, "
           "               ms_time($4 - read_days * 86400000::bigint) AS before"
           "          FROM mailbox"
           "         WHERE (read_days, mailbox_id) > ($1::bigint, $2::bigint)"
           "         ORDER BY read_days, mailbox_id LIMIT $3) b"
           " ORDER BY b.read_days, b.mailbox_id",
    .days = -1,
    .mailbox = INT64_MAX,
};

/* The next mailboxes whose turn has come. EX_OK, or a code after a message. */
static int next_page(struct admin *a, struct walk *w)
{
    admin_sql(a, w->sql);
    pg_i64(a->batch, w->days);
    pg_i64(a->batch, w->mailbox);
    pg_i64(a->batch, PAGE);
    pg_i64(a->batch, admin_clock(a));
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "mailboxes");
    }
    const PGresult *r = admin_result(a, 0);
    int rows = PQntuples(r);
    w->n = 0;
    for (int i = 0; i < rows; i++) {
        w->days = pg_get_i64(r, i, 0);
        w->mailbox = pg_get_i64(r, i, 1);
        if (pg_get_i64(r, i, 2)) {
            w->due[w->n++] = w->mailbox;
        }
    }
    w->ended = rows < PAGE;
    return EX_OK;
}

/* Moves at most so many messages of a mailbox; *moved is how many. */
static int move(struct admin *a, int64_t mailbox, uint64_t most, uint64_t *moved)
{
    const struct cache_key key = { .kind = CACHE_LIST, .mailbox_id = (uint64_t)mailbox };
    admin_sql(a, "SELECT expire($1, $2, $3, $4, 'expired')");
    pg_i64(a->batch, mailbox);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    pg_i64(a->batch, (int64_t)most);
    if (admin_run_change(a, &key, 1) != ERR_OK) {
        return admin_fail_reply(a, "expiring");
    }
    *moved = (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    fault_at(FAULT_reap_expired);
    return EX_OK;
}

static int expire_mailbox(struct admin *a, int64_t mailbox, uint64_t *left, uint64_t *n)
{
    uint64_t most, moved = 0;
    do {
        most = *left < MOVE_MOST ? *left : MOVE_MOST;
        int code = move(a, mailbox, most, &moved);
        if (code != EX_OK) {
            return code;
        }
        *left -= moved;
        *n += moved;
    } while (moved == most && *left > 0);
    return EX_OK;
}

static int expire_walk(struct admin *a, struct walk w, uint64_t *most, uint64_t *n)
{
    int code = EX_OK;
    while (code == EX_OK && !w.ended && *most > 0) {
        code = next_page(a, &w);
        for (size_t i = 0; i < w.n && code == EX_OK && *most > 0; i++) {
            code = expire_mailbox(a, w.due[i], most, n);
        }
    }
    return code;
}

int expire_messages(struct admin *a, uint64_t most, uint64_t *n)
{
    int code = expire_walk(a, by_age, &most, n);
    return code == EX_OK ? expire_walk(a, by_reading, &most, n) : code;
}

/* By age those that are old; by reading those that are not old as well. */
static int count_mailbox(struct admin *a, int64_t mailbox, bool reading, uint64_t *n)
{
    admin_sql(a, "SELECT count(*) FROM mailbox b JOIN message m ON m.mailbox_id = b.mailbox_id "
                 "WHERE b.mailbox_id = $1 AND CASE WHEN b.retention_days > 0 AND "
                 "m.blob_id < ms_id($2 - b.retention_days * 86400000::bigint) THEN NOT $3 ELSE "
                 "$3 AND EXISTS (SELECT FROM read_mark r WHERE r.mailbox_id = $1 "
                 "AND r.seq = m.seq AND b.read_days >= 0 "
                 "AND r.read_at <= ms_time($2 - b.read_days * 86400000::bigint)) END");
    pg_i64(a->batch, mailbox);
    pg_i64(a->batch, admin_clock(a));
    pg_bool(a->batch, reading);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "mailboxes");
    }
    *n += (uint64_t)pg_get_i64(admin_result(a, 0), 0, 0);
    return EX_OK;
}

static int count_walk(struct admin *a, struct walk w, bool reading, uint64_t *n)
{
    int code = EX_OK;
    while (code == EX_OK && !w.ended) {
        code = next_page(a, &w);
        for (size_t i = 0; i < w.n && code == EX_OK; i++) {
            code = count_mailbox(a, w.due[i], reading, n);
        }
    }
    return code;
}

int expire_count(struct admin *a, uint64_t *n)
{
    int code = count_walk(a, by_age, false, n);
    return code == EX_OK ? count_walk(a, by_reading, true, n) : code;
}
