/*
 * mover: see the header. Pointers are met in the order of their key, so that the mailboxes of one
 * transaction are locked in ascending order. A file of several mailboxes is moved with all of them
 * when the first is met, in a transaction of its own.
 *
 * A page of items lives as long as it is worked at.
 */
#include "mover.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/fault.h"
#include "file_copy.h"

#define PAGE          5000
#define UNFINISHED_MS (60 * 60 * 1000) /* after which an unfinished copy is the reaper's */

enum item_state {
    ITEM_OPEN,   /* a volume is to be found */
    ITEM_COPIED, /* its pointers may follow */
    ITEM_ENDED   /* moved, gone meanwhile, or failed */
};

struct item {
    enum item_state state;
    int64_t mailbox;
    bool shared;
    uint16_t tried[MOVER_TRIES + 1]; /* volumes, its own the first */
    size_t n_tried;
    bool reserved; /* of copy.to */
    struct file_copy copy;
};

static uint64_t octets_of(const struct item *it)
{
    return (uint64_t)it->copy.from.skip + it->copy.from.size;
}

static void fail(struct mover *m, struct item *it, const char *why)
{
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(&it->copy.from.id, id);
    admin_say("%s stays on volume %u: %s", id, it->copy.from.volume, why);
    it->state = ITEM_ENDED;
    m->failed++;
}

static void who(const struct mover *m, const char *more, char out[128])
{
    char name[64];
    admin_who(name);
    snprintf(out, 128, "%s: %s%s", name, m->what, more);
}

/* --- what each volume is going to hold ------------------------------------------------------- */

static void reserve(struct mover *m, struct item *it)
{
    it->reserved = true;
    if (m->reserve) {
        m->reserve(m, it->copy.from.volume, it->copy.to, octets_of(it));
    }
}

static void give_back(struct mover *m, struct item *it)
{
    if (it->reserved && m->reserve) {
        m->reserve(m, it->copy.to, it->copy.from.volume, octets_of(it));
    }
    it->reserved = false;
}

/* to 0: anywhere. */
static bool is_wanted(struct mover *m, const struct item *it, uint16_t to)
{
    return !m->wants || m->wants(m, it->copy.from.volume, to, octets_of(it));
}

/* --- noting what is going to be copied ------------------------------------------------------- */

/* Gives each open item a volume to try. Those in front of it may have made it unneeded; one that
 * could not be copied where it was wanted, and is still one too many where it lies, has failed. */
static void choose(struct mover *m, struct item *it, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (it[i].state != ITEM_OPEN) {
            continue;
        }
        give_back(m, &it[i]);
        const char *why = it[i].n_tried > 1 ? it[i].copy.why : "no other active volume takes it";
        uint16_t to = it[i].n_tried > MOVER_TRIES
                          ? 0
                          : m->choose(m, octets_of(&it[i]), it[i].tried, it[i].n_tried);
        if (to && is_wanted(m, &it[i], to)) {
            it[i].copy.to = to;
            it[i].tried[it[i].n_tried++] = to;
            reserve(m, &it[i]);
        } else if ((!to || it[i].n_tried > 1) && is_wanted(m, &it[i], 0)) {
            fail(m, &it[i], why);
        } else {
            it[i].state = ITEM_ENDED;
        }
    }
}

static void add_mark(struct mover *m, const struct item *it, const char *by)
{
    struct admin *a = m->admin;
    admin_sql(a, "SELECT mark_copy($1, $2, $3, $4, $5, $6, $7, $8)");
    pg_i64(a->batch, it->mailbox);
    pg_i64(a->batch, (int64_t)it->copy.from.seq);
    pg_uuid(a->batch, &it->copy.from.id);
    pg_i64(a->batch, it->copy.from.volume);
    pg_i64(a->batch, it->copy.to);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, UNFINISHED_MS);
    pg_text(a->batch, span_str(by));
}

/* What mark_copy() says. */
enum mark { MARK_GONE, MARK_MADE, MARK_STANDS, MARK_IN_THE_WAY, MARK_LATE_UNLINK, MARK_CLOSED };

static const char *const refusals[] = {
    [MARK_IN_THE_WAY] = "has an unfinished copy, which reap ends",
    [MARK_LATE_UNLINK] = "had it, and a reaper that broke off there may yet unlink it",
    [MARK_CLOSED] = "takes no files any more",
};

/* todo gets the items whose copies are to be made, each with stands as it is. */
static int mark(struct mover *m, struct item *it, size_t n, struct item **todo, size_t *n_todo)
{
    struct item *open[MOVER_JOBS];
    size_t n_open = 0;
    char by[128];
    who(m, ", unfinished", by);
    for (size_t i = 0; i < n; i++) {
        if (it[i].state == ITEM_OPEN) {
            add_mark(m, &it[i], by);
            open[n_open++] = &it[i];
        }
    }
    *n_todo = 0;
    if (n_open == 0) {
        return EX_OK;
    }
    if (admin_run(m->admin, PG_WRITE) != ERR_OK) {
        return admin_fail_reply(m->admin, "ledger");
    }
    for (size_t i = 0; i < n_open; i++) {
        uint64_t said = (uint64_t)pg_get_i64(admin_result(m->admin, i), 0, 0);
        open[i]->copy.stands = said == MARK_STANDS;
        if (said == MARK_GONE) {
            open[i]->state = ITEM_ENDED;
        } else if (said < ARRAY_LEN(refusals) && refusals[said]) {
            snprintf(open[i]->copy.why, sizeof open[i]->copy.why, "volume %u %s", open[i]->copy.to,
                     refusals[said]);
        } else {
            todo[(*n_todo)++] = open[i];
        }
    }
    fault_at(FAULT_move_marked);
    return EX_OK;
}

/* A copy that failed: it need not wait for its hour. A complete one keeps its grace. */
static int give_up(struct mover *m, struct item **it, size_t n)
{
    struct admin *a = m->admin;
    size_t sent = 0;
    for (size_t i = 0; i < n; i++) {
        if (it[i]->state != ITEM_COPIED && !it[i]->copy.stands) {
            admin_sql(a, "UPDATE ledger SET unlink_after = ms_time($1) WHERE mailbox_id = 0 "
                         "AND blob_id = $2 AND seq = $3 AND claimed_at IS NULL");
            pg_i64(a->batch, admin_clock(a));
            pg_uuid(a->batch, &it[i]->copy.from.id);
            pg_i64(a->batch, -(int64_t)it[i]->copy.to);
            sent++;
        }
    }
    return sent == 0 || admin_run(a, PG_WRITE) == ERR_OK ? EX_OK : admin_fail_reply(a, "ledger");
}

/* --- copying --------------------------------------------------------------------------------- */

static bool envelope_names(const struct file_copy *c, int64_t mailbox)
{
    for (size_t i = 0; i < c->n_mailboxes; i++) {
        if (c->mailboxes[i] == mailbox) {
            return true;
        }
    }
    return false;
}

static void judge(struct mover *m, struct item *it)
{
    struct file_copy *c = &it->copy;
    if (c->end == COPY_DONE && it->shared && !envelope_names(c, it->mailbox)) {
        fail(m, it, "several mailboxes share it, and its envelope does not name them all");
    } else if (c->end == COPY_SOURCE) {
        char why[sizeof c->why + 64];
        snprintf(why, sizeof why, "it can't be copied: %s; see mailfleet fsck", c->why);
        fail(m, it, why);
    } else if (c->end == COPY_DONE) {
        it->state = ITEM_COPIED;
    } else {
        char why[sizeof c->why];
        snprintf(why, sizeof why, "volume %u: %.100s", c->to, c->why);
        memcpy(c->why, why, sizeof why);
    }
}

static int copy(struct mover *m, struct item **todo, size_t n)
{
    struct file_copy copies[MOVER_JOBS];
    for (size_t i = 0; i < n; i++) {
        copies[i] = todo[i]->copy;
    }
    file_copy_run(m->admin, m->volumes->spool, copies, n);
    for (size_t i = 0; i < n; i++) {
        todo[i]->copy = copies[i];
        judge(m, todo[i]);
    }
    fault_at(FAULT_move_copied);
    return give_up(m, todo, n);
}

/* --- letting the pointers follow ------------------------------------------------------------- */

static void add_move(struct mover *m, struct item *it, const char *by)
{
    struct admin *a = m->admin;
    struct file_copy *c = &it->copy;
    admin_sql(a, "SELECT move_file($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)");
    if (it->shared) {
        pg_i64s(a->batch, c->mailboxes, c->n_mailboxes);
    } else {
        pg_i64s(a->batch, &it->mailbox, 1);
    }
    pg_i64(a->batch, (int64_t)c->from.seq);
    pg_uuid(a->batch, &c->from.id);
    pg_i64(a->batch, c->from.volume);
    pg_i64(a->batch, c->to);
    pg_bytea(a->batch, nfs_handle_span(&c->new_handle));
    pg_bool(a->batch, it->shared);
    pg_i64(a->batch, admin_clock(a));
    pg_i64(a->batch, (int64_t)a->config->spool_grace);
    pg_text(a->batch, span_str(by));
}

static void count_moved(struct mover *m, struct item *it, int64_t pointers)
{
    uint64_t octets = octets_of(it);
    it->state = ITEM_ENDED;
    it->reserved = false; /* it is there now, with all its pointers */
    m->files++;
    m->octets += octets;
    if (m->reserve && pointers > 1) {
        m->reserve(m, it->copy.from.volume, it->copy.to, octets * (uint64_t)(pointers - 1));
    }
}

/* In one transaction. Their results count when it is OK. */
static enum err send_moves(struct mover *m, struct item **it, size_t n)
{
    size_t n_keys = 0, k = 0;
    char by[128];
    who(m, "", by);
    for (size_t i = 0; i < n; i++) {
        n_keys += it[i]->shared ? it[i]->copy.n_mailboxes : 1;
    }
    struct cache_key *keys = NEW_ARRAY(struct cache_key, n_keys + 1);
    for (size_t i = 0; i < n; i++) {
        const struct file_copy *c = &it[i]->copy;
        size_t boxes = it[i]->shared ? c->n_mailboxes : 1;
        for (size_t b = 0; b < boxes; b++) {
            int64_t box = it[i]->shared ? c->mailboxes[b] : it[i]->mailbox;
            keys[k++] = (struct cache_key){ .kind = CACHE_LIST, .mailbox_id = (uint64_t)box };
        }
        add_move(m, it[i], by);
    }
    enum err e = admin_run_change(m->admin, keys, k);
    free(keys);
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        count_moved(m, it[i], pg_get_i64(admin_result(m->admin, i), 0, 0));
    }
    return e;
}

/* By itself. NOTFOUND: its pointer has gone, or somebody else has moved it: the copy is reaped.
 * MF003: an operator has closed the volume meanwhile; another may take it. */
static int move_one(struct mover *m, struct item *it)
{
    enum err e = send_moves(m, &it, 1);
    if (e == ERR_NOTFOUND) {
        it->state = ITEM_ENDED;
    } else if (e != ERR_OK && strcmp(m->admin->reply.sqlstate, "MF003") == 0) {
        it->state = ITEM_OPEN;
        snprintf(it->copy.why, sizeof it->copy.why, "volume %u %s", it->copy.to,
                 refusals[MARK_CLOSED]);
    } else if (e != ERR_OK && *m->admin->reply.sqlstate) {
        fail(m, it, m->admin->reply.message);
    } else if (e != ERR_OK) {
        return admin_fail_reply(m->admin, "pointers"); /* the next run goes on from here */
    }
    return EX_OK;
}

static int follow(struct mover *m, struct item **todo, size_t n)
{
    struct item *alone[MOVER_JOBS];
    size_t n_alone = 0;
    for (size_t i = 0; i < n; i++) {
        if (todo[i]->state == ITEM_COPIED && !todo[i]->shared) {
            alone[n_alone++] = todo[i];
        }
    }
    if (n_alone > 1) {
        send_moves(m, alone, n_alone); /* if one of them can't, each for itself */
    }
    int code = EX_OK;
    for (size_t i = 0; i < n && code == EX_OK; i++) {
        if (todo[i]->state == ITEM_COPIED) {
            code = move_one(m, todo[i]);
        }
    }
    fault_at(FAULT_move_moved);
    return code;
}

/* --- the walk -------------------------------------------------------------------------------- */

/* Each round offers what is still open another volume. */
static int move_items(struct mover *m, struct item *it, size_t n)
{
    struct item *todo[MOVER_JOBS];
    size_t n_todo = 0;
    int code = EX_OK;
    for (unsigned round = 0; round <= MOVER_TRIES && code == EX_OK; round++) {
        choose(m, it, n);
        code = mark(m, it, n, todo, &n_todo);
        if (code == EX_OK && n_todo > 0) {
            code = copy(m, todo, n_todo);
            code = code == EX_OK ? follow(m, todo, n_todo) : code;
        }
    }
    for (size_t i = 0; i < n; i++) {
        give_back(m, &it[i]);
        free(it[i].copy.mailboxes);
        it[i].copy.mailboxes = NULL;
    }
    return code;
}

int pointer_walk_next(struct admin *a, struct pointer_walk *w, const int64_t *volumes, size_t n)
{
    /* Of the last pointer of the page comes the place, whether or not it is on these volumes. */
    admin_sql(a, "SELECT mailbox_id, seq, blob_id, size, skip, volume_id, shared, handle,"
                 "       volume_id = ANY ($3), nth"
                 "  FROM (SELECT *, row_number() OVER (ORDER BY mailbox_id, seq) AS nth,"
                 "               lead(seq) OVER (ORDER BY mailbox_id, seq) AS next"
                 "          FROM (SELECT * FROM message WHERE (mailbox_id, seq) > ($1, $2)"
                 "                 ORDER BY mailbox_id, seq LIMIT $4) page) rows"
                 " WHERE volume_id = ANY ($3) OR next IS NULL ORDER BY nth");
    pg_i64(a->batch, w->mailbox);
    pg_i64(a->batch, w->seq);
    pg_i64s(a->batch, volumes, n);
    pg_i64(a->batch, PAGE);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "pointers");
    }
    const PGresult *r = admin_result(a, 0);
    int rows = PQntuples(r);
    w->passed = rows ? (uint64_t)pg_get_i64(r, rows - 1, 9) : 0;
    w->ended = w->passed < PAGE;
    if (rows) {
        w->mailbox = pg_get_i64(r, rows - 1, 0);
        w->seq = pg_get_i64(r, rows - 1, 1);
    }
    return EX_OK;
}

static size_t take_page(struct mover *m, struct item *it)
{
    const PGresult *r = admin_result(m->admin, 0);
    size_t n = 0;
    for (int i = 0; i < PQntuples(r); i++) {
        if (!pg_get_i64(r, i, 8)) {
            continue; /* it ends the page */
        }
        struct item *x = &it[n++];
        *x = (struct item){ .mailbox = pg_get_i64(r, i, 0),
                            .shared = pg_get_i64(r, i, 6) != 0,
                            .n_tried = 1,
                            .copy.from = { .id = pg_get_uuid(r, i, 2),
                                           .seq = (uint64_t)pg_get_i64(r, i, 1),
                                           .size = (uint32_t)pg_get_i64(r, i, 3),
                                           .skip = (uint32_t)pg_get_i64(r, i, 4),
                                           .volume = (uint16_t)pg_get_i64(r, i, 5) } };
        x->tried[0] = x->copy.from.volume;
        nfs_handle_set(&x->copy.handle, pg_get_span(r, i, 7));
    }
    return n;
}

static bool is_among(const struct item *it, size_t n, const struct item *x)
{
    for (size_t i = 0; i < n; i++) {
        if (blob_id_eq(&it[i].copy.from.id, &x->copy.from.id)) {
            return true;
        }
    }
    return false;
}

/* Up to jobs of them at a time; a shared file once. What is not wanted is passed. */
static int move_page(struct mover *m, const struct item *page, size_t n)
{
    struct item now[MOVER_JOBS];
    int code = EX_OK;
    for (size_t i = 0; i < n && code == EX_OK;) {
        size_t n_now = 0;
        for (; i < n && n_now < m->jobs; i++) {
            if (is_wanted(m, &page[i], 0) && !(page[i].shared && is_among(now, n_now, &page[i]))) {
                now[n_now++] = page[i];
            }
        }
        uint64_t files = m->files;
        code = n_now > 0 ? move_items(m, now, n_now) : EX_OK;
        progress_step(&m->progress, m->files - files);
    }
    return code;
}

int mover_pass(struct mover *m)
{
    struct pointer_walk w = { 0 };
    struct item *page = NEW_ARRAY(struct item, PAGE);
    int code = EX_OK;
    m->found = m->failed = 0;
    while (!w.ended && code == EX_OK) {
        code = pointer_walk_next(m->admin, &w, m->sources, m->n_sources);
        if (code == EX_OK) {
            size_t n = take_page(m, page);
            m->found += n;
            code = move_page(m, page, n);
        }
    }
    free(page);
    return code;
}
