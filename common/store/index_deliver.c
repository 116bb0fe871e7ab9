/*
 * index_deliver: the transaction that gives a message's pointers to its mailboxes.
 *
 * Messages to one mailbox each are gathered: one transaction of them is under way at a time, and
 * what comes meanwhile goes with the next, in one statement; as does what comes in the same turn of
 * the loop, so that the first of many does not go alone. So an idle worker waits for nobody, and of
 * a busy one the database gets one statement and syncs its log once for many messages.
 *
 * What is gathered must not suffer from each other. Such a transaction waits for no lock: a mailbox
 * that is locked is passed over, and its message done again alone, where it waits for itself. So
 * gathered transactions can't deadlock either, whatever their order. When one is refused as a
 * whole, as for a file on a volume that is gone, all its messages are done again alone: the server
 * said that nothing was done. When its end is not known, that is so of each.
 *
 * Owns its copies of pointers and mailboxes. It retries nothing else.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "store/index_parts.h"
#include "store/nfs_handle.h"

#define PASSED_OVER (-1) /* deliver(): the mailbox is locked, or not there */

/* One message, and the op that the caller holds. */
struct post {
    struct op op;
    struct list link; /* of index.waiting */
    struct index *index;
    index_room_fn *done;
    struct pointer pointer;
    struct nfs_handle handle;
    uint64_t grace_ms;
    bool all_or_nothing;
    bool past_limits; /* no limit holds, and no threshold is crossed */
    size_t n;
    uint64_t *mailboxes; /* as the caller gave them */
    size_t *order;       /* places in mailboxes, by ascending mailbox_id */
    enum room *room;
};

/* One gathered transaction. */
struct group {
    struct index *index;
    size_t n;
    struct post *posts[];
};

static void post_end(struct post *p, enum err e)
{
    if (!p->op.cancelled) {
        p->done(p->op.arg, e, e == ERR_OK || e == ERR_LIMIT ? p->room : NULL, p->n);
    }
    free(p->mailboxes);
    free(p->order);
    free(p->room);
    free(p);
}

/* --- statements ------------------------------------------------------------------------------ */

/* The mailboxes of posts, in the order in which they are delivered to. */
struct rows {
    size_t n;
    int64_t *boxes, *volumes, *sizes, *skips;
    struct blob_id *ids;
    struct span *handles;
};

static void rows_init(struct rows *r, size_t n)
{
    *r = (struct rows){ .boxes = NEW_ARRAY(int64_t, n),
                        .volumes = NEW_ARRAY(int64_t, n),
                        .sizes = NEW_ARRAY(int64_t, n),
                        .skips = NEW_ARRAY(int64_t, n),
                        .ids = NEW_ARRAY(struct blob_id, n),
                        .handles = NEW_ARRAY(struct span, n) };
}

static void rows_add(struct rows *r, const struct post *p)
{
    for (size_t k = 0; k < p->n; k++, r->n++) {
        r->boxes[r->n] = (int64_t)p->mailboxes[p->order[k]];
        r->ids[r->n] = p->pointer.id;
        r->volumes[r->n] = p->pointer.volume;
        r->sizes[r->n] = p->pointer.size;
        r->skips[r->n] = p->pointer.skip;
        r->handles[r->n] = nfs_handle_span(&p->handle);
    }
}

static void rows_fini(struct rows *r)
{
    free(r->boxes);
    free(r->volumes);
    free(r->sizes);
    free(r->skips);
    free(r->ids);
    free(r->handles);
}

/* What deliver() has last: how, when, and by which limits. */
static void add_terms(struct pg_batch *b, const struct index *ix, const struct post *p, bool strict,
                      bool waits)
{
    const struct quota_rules *quota = p->past_limits ? NULL : &ix->quota;
    pg_bool(b, strict);
    pg_i64(b, index_now_ms());
    pg_i64(b, (int64_t)p->grace_ms);
    quota ? pg_i64(b, quota->grace) : pg_null(b);
    pg_i64s(b, quota ? quota->warn : NULL, quota ? quota->n : 0);
    pg_bool(b, waits);
}

static void deliver_rows(struct pg_batch *b, const struct index *ix, const struct rows *r,
                         const struct post *terms, bool strict, bool waits)
{
    pg_stmt(b,
            "SELECT * FROM deliver_each($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)");
    pg_i64s(b, r->boxes, r->n);
    pg_uuids(b, r->ids, r->n);
    pg_i64s(b, r->volumes, r->n);
    pg_i64s(b, r->sizes, r->n);
    pg_i64s(b, r->skips, r->n);
    pg_bool(b, terms->n > 1);
    pg_byteas(b, r->handles, r->n);
    add_terms(b, ix, terms, strict, waits);
}

/* To the k-th, with its mailbox as a plain argument: a database of several machines sends it there.
 */
static void deliver_one(struct pg_batch *b, const struct post *p, size_t k, bool strict)
{
    pg_stmt(b, "SELECT * FROM deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)");
    pg_i64(b, (int64_t)p->mailboxes[p->order[k]]);
    pg_uuid(b, &p->pointer.id);
    pg_i64(b, p->pointer.volume);
    pg_i64(b, p->pointer.size);
    pg_i64(b, p->pointer.skip);
    pg_bool(b, p->n > 1);
    pg_bytea(b, nfs_handle_span(&p->handle));
    add_terms(b, p->index, p, strict, true);
}

/* To several, whose rows are locked in ascending order: by one statement, or where nothing is
 * gathered by one for each. */
static void deliver_shared(struct pg_batch *b, const struct post *p)
{
    struct rows r;
    pg_stmt(b, "SELECT share($1, $2, $3, $4)");
    pg_uuid(b, &p->pointer.id);
    pg_i64(b, p->pointer.volume);
    pg_i64(b, (int64_t)p->n);
    pg_i64(b, (int64_t)p->pointer.size + p->pointer.skip);
    if (p->index->gather <= 1) {
        for (size_t k = 0; k < p->n; k++) {
            deliver_one(b, p, k, p->all_or_nothing);
        }
        return;
    }
    rows_init(&r, p->n);
    rows_add(&r, p);
    deliver_rows(b, p->index, &r, p, p->all_or_nothing, true);
    rows_fini(&r);
}

/* --- answers --------------------------------------------------------------------------------- */

/* A row of deliver()'s for the k-th mailbox of a post. */
static bool read_row(struct post *p, size_t k, const PGresult *r, int row)
{
    return index_read_room(r, row, 0, &p->room[p->order[k]]);
}

static void tell_crossed(const struct post *p, size_t k, const PGresult *r, int row)
{
    int64_t per_cent = pg_get_i64(r, row, 1);
    if (per_cent > 0 && p->index->on_crossed) {
        p->index->on_crossed(p->index->arg, p->mailboxes[p->order[k]], (unsigned)per_cent);
    }
}

/* The one mailbox of a post has no room: as a ledger row is made where there is nobody to undo,
 * that is committed, but to the caller it is as if all had been undone. */
static enum err end_of_one(const struct post *p)
{
    return p->all_or_nothing && p->room[0] != ROOM_OK ? ERR_LIMIT : ERR_OK;
}

/* What was told of the k-th mailbox; NULL: it is not as it should be. */
static const PGresult *told_of(const struct post *p, const struct pg_reply *r, size_t k, int *row)
{
    bool each = p->n == 1 || r->n > p->n;
    const PGresult *told = r->r[each ? r->n - p->n + k : r->n - 1];
    *row = each ? 0 : (int)k;
    return pg_shape(told, "ii") && (size_t)PQntuples(told) == (each ? 1 : p->n) ? told : NULL;
}

static bool read_rows(struct post *p, const struct pg_reply *r)
{
    for (size_t k = 0; k < p->n; k++) {
        int row;
        const PGresult *told = told_of(p, r, k, &row);
        if (!told || !read_row(p, k, told, row)) {
            return false;
        }
    }
    return true;
}

/* deliver() raised MF001: its DETAIL is the mailbox and why it has no room. */
static bool read_refused(struct post *p, const struct pg_reply *r)
{
    unsigned long long mailbox_id;
    unsigned code;
    if (sscanf(r->detail, "%llu %u", &mailbox_id, &code) != 2 || code == ROOM_OK ||
        code > ROOM_SUSPENDED) {
        return false;
    }
    for (size_t i = 0; i < p->n; i++) {
        if (p->mailboxes[i] == mailbox_id) {
            p->room[i] = (enum room)code;
            return true;
        }
    }
    return false;
}

/* A volume that was removed since the file was begun is nobody's fault. */
static enum err post_err(const struct post *p, const struct pg_reply *r)
{
    return r->err == ERR_BUSY && strcmp(r->sqlstate, "MF003") == 0
               ? ERR_BUSY
               : index_err("deliver", p->mailboxes[0], r);
}

static void on_alone(void *arg, const struct pg_reply *r)
{
    struct post *p = arg;
    enum err e = post_err(p, r);
    if (e == ERR_OK && !read_rows(p, r)) {
        index_malformed("deliver", p->mailboxes[0]);
        e = ERR_UNCERTAIN; /* it has committed, but not to whom */
    } else if (e == ERR_LIMIT && !read_refused(p, r)) {
        index_malformed("deliver", p->mailboxes[0]);
        e = ERR_TEMP;
    }
    for (size_t k = 0; e == ERR_OK && k < p->n; k++) {
        int row;
        const PGresult *told = told_of(p, r, k, &row);
        tell_crossed(p, k, told, row);
    }
    post_end(p, e == ERR_OK && p->n == 1 ? end_of_one(p) : e);
}

static void deliver_alone(struct post *p)
{
    struct pg_batch *b = pg_batch_new();
    if (p->n == 1) {
        deliver_one(b, p, 0, false);
    } else {
        deliver_shared(b, p);
    }
    pg_submit(p->index->pg, PG_WRITE, &b, on_alone, p);
}

/* --- gathering ------------------------------------------------------------------------------- */

static void gather_soon(struct index *ix);

/* A row of the group's result, or its being passed over. */
static void end_gathered(struct post *p, const PGresult *r, int row)
{
    if (pg_get_i64(r, row, 0) == PASSED_OVER) {
        deliver_alone(p);
    } else if (!read_row(p, 0, r, row)) {
        index_malformed("deliver", p->mailboxes[0]);
        post_end(p, ERR_UNCERTAIN);
    } else {
        tell_crossed(p, 0, r, row);
        post_end(p, end_of_one(p));
    }
}

/* Who waits is not to wait for one deadline after the other. */
void index_release(struct index *ix)
{
    for (struct list *link; (link = list_pop(&ix->waiting));) {
        deliver_alone(CONTAINER_OF(link, struct post, link));
    }
}

static void on_group(void *arg, const struct pg_reply *r)
{
    struct group *g = arg;
    bool well = r->err == ERR_OK && pg_shape(r->r[0], "ii") && (size_t)PQntuples(r->r[0]) == g->n;
    enum err e = r->err == ERR_OK || r->err == ERR_UNCERTAIN ? ERR_UNCERTAIN : ERR_TEMP;
    g->index->under_way = false;
    if (r->err == ERR_OK && !well) {
        index_malformed("deliver", 0);
    }
    if (r->err != ERR_OK && !*r->sqlstate) {
        index_release(g->index); /* the database is away */
    }
    gather_soon(g->index);
    for (size_t i = 0; i < g->n; i++) {
        if (well) {
            end_gathered(g->posts[i], r->r[0], (int)i);
        } else if (*r->sqlstate && r->err != ERR_UNCERTAIN) {
            deliver_alone(g->posts[i]);
        } else {
            post_end(g->posts[i], e);
        }
    }
    free(g);
}

/* The next transaction, of those who wait: nobody any more, if the database went away. */
static void gather(struct index *ix)
{
    struct rows r;
    if (list_empty(&ix->waiting)) {
        return;
    }
    struct group *g = mem_new(1, sizeof *g + ix->gather * sizeof g->posts[0]);
    struct pg_batch *b = pg_batch_new();
    g->index = ix;
    rows_init(&r, ix->gather);
    while (g->n < ix->gather && !list_empty(&ix->waiting)) {
        struct post *p = CONTAINER_OF(list_pop(&ix->waiting), struct post, link);
        g->posts[g->n++] = p;
        rows_add(&r, p);
    }
    deliver_rows(b, ix, &r, g->posts[0], false, false);
    rows_fini(&r);
    ix->under_way = true;
    pg_submit(ix->pg, PG_WRITE, &b, on_group, g);
}

void index_gather(struct task *t)
{
    gather(CONTAINER_OF(t, struct index, turn));
}

/* Behind what is posted already: files that were finished together are then gathered together. */
static void gather_soon(struct index *ix)
{
    if (!ix->under_way && !list_empty(&ix->waiting) && list_empty(&ix->turn.link)) {
        loop_post(ix->loop, &ix->turn);
    }
}

/* --- outside --------------------------------------------------------------------------------- */

static int by_mailbox(const void *a, const void *b, void *arg)
{
    const uint64_t *mailboxes = arg;
    uint64_t x = mailboxes[*(const size_t *)a], y = mailboxes[*(const size_t *)b];
    return (x > y) - (x < y);
}

static struct post *post_new(struct index *ix, const struct pointer *pointer, struct span handle,
                             const uint64_t *mailboxes, size_t n)
{
    CHECK(n > 0);
    struct post *p = NEW(struct post);
    list_init(&p->link);
    p->index = ix;
    p->pointer = *pointer;
    nfs_handle_set(&p->handle, handle);
    p->n = n;
    p->mailboxes = NEW_ARRAY(uint64_t, n);
    p->order = NEW_ARRAY(size_t, n);
    p->room = NEW_ARRAY(enum room, n);
    for (size_t i = 0; i < n; i++) {
        p->mailboxes[i] = mailboxes[i];
        p->order[i] = i;
    }
    qsort_r(p->order, n, sizeof *p->order, by_mailbox, p->mailboxes);
    return p;
}

struct op *index_deliver(struct index *ix, const struct pointer *pointer, struct span handle,
                         const uint64_t *mailboxes, size_t n, bool all_or_nothing,
                         uint64_t grace_ms, index_room_fn *done, void *arg)
{
    struct post *p = post_new(ix, pointer, handle, mailboxes, n);
    p->op.arg = arg;
    p->done = done;
    p->all_or_nothing = all_or_nothing;
    p->grace_ms = grace_ms;
    if (n == 1 && ix->gather > 1) {
        list_add(&ix->waiting, &p->link);
        gather_soon(ix);
    } else {
        deliver_alone(p);
    }
    return &p->op;
}

struct op *index_deliver_past_limits(struct index *ix, const struct pointer *pointer,
                                     struct span handle, uint64_t mailbox_id, uint64_t grace_ms,
                                     index_room_fn *done, void *arg)
{
    struct post *p = post_new(ix, pointer, handle, &mailbox_id, 1);
    p->op.arg = arg;
    p->done = done;
    p->past_limits = true;
    p->grace_ms = grace_ms;
    deliver_alone(p);
    return &p->op;
}
