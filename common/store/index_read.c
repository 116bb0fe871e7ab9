/*
 * index_read: the statements of a login and of RCPT: what addresses lead to, and the maildrop of a
 * mailbox.
 *
 * Both are gathered: of each kind one statement is under way at a time, and what comes meanwhile
 * goes with the next. So an idle worker waits for nobody, its statement is the plain one, and when
 * all clients come at once with nothing in the cache, the database gets a statement for many of
 * them. Those who ask for the same address in one statement share its row; nobody is given a row
 * that was read before he asked.
 *
 * What is gathered must not suffer from each other. A maildrop of more than TOGETHER_MAX messages
 * is passed over and read alone, which bounds both what such a statement answers and how long the
 * others wait for it. When the server refuses one as a whole, as for an address that is no text,
 * each is asked alone. When the database is away, all who wait are sent at once, so that nobody
 * waits for one deadline after the other. In the queue nobody waits longer than
 * index_options.wait_ms, and no more than WAITING_MAX wait.
 *
 * Owns its copies of what is asked for. It retries nothing else.
 */
#include <stdlib.h>

#include "base/check.h"
#include "store/index_parts.h"

#define TOGETHER_MAX 256 /* messages of a maildrop that is read with others */
#define WAITING_MAX  65536

enum kind { LOOKUP, LIST };

struct name {
    char *text;
    size_t n;
    size_t row; /* of the gathered statement */
};

/* One call, and the op that its caller holds. */
struct ask {
    struct op op;
    struct list link; /* of reads.waiting */
    struct task refused;
    struct index *index;
    enum kind kind;
    uint64_t until; /* not sent any more then */
    union {
        index_lookup_fn *lookup;
        index_list_fn *list;
    } done;
    uint64_t mailbox_id; /* LIST */
    size_t n;            /* rows that it needs: names of LOOKUP, 1 of LIST */
    struct name names[];
};

/* One gathered statement. */
struct group {
    struct index *index;
    enum kind kind;
    size_t n;
    size_t most; /* rows, if each name comes once */
    size_t rows; /* of the statement */
    struct ask *asks[];
};

static const char *const what[] = { [LOOKUP] = "lookup", [LIST] = "list" };

static struct reads *reads_of(struct index *ix, enum kind kind)
{
    return kind == LOOKUP ? &ix->lookups : &ix->lists;
}

static void ask_free(struct ask *a)
{
    for (size_t i = 0; a->kind == LOOKUP && i < a->n; i++) {
        free(a->names[i].text);
    }
    free(a);
}

static struct span name_of(const struct name *n)
{
    return span_of(n->text, n->n);
}

/* entries: NULL unless e is OK. Those that the caller does not take are freed. */
static void end_lookup(struct ask *a, enum err e, struct entry **entries)
{
    if (!a->op.cancelled) {
        a->done.lookup(a->op.arg, e, e == ERR_OK ? entries : NULL, a->n);
    }
    for (size_t i = 0; entries && i < a->n; i++) {
        entry_free(&entries[i]);
    }
    ask_free(a);
}

static void end_list(struct ask *a, enum err e, struct maildrop *m)
{
    if (!a->op.cancelled) {
        a->done.list(a->op.arg, e, &m);
    }
    maildrop_free(&m);
    ask_free(a);
}

static void end_failed(struct ask *a, enum err e)
{
    if (a->kind == LOOKUP) {
        end_lookup(a, e, NULL);
    } else {
        end_list(a, e, NULL);
    }
}

/* --- rows of addresses ------------------------------------------------------------------------ */

enum {
    LOOKUP_MAILBOX,
    LOOKUP_STATE,
    LOOKUP_OCTETS,
    LOOKUP_MESSAGES,
    LOOKUP_SIZE,
    LOOKUP_DAYS,
    LOOKUP_READ_DAYS,
    LOOKUP_HASH,
    LOOKUP_SCRAM,
    LOOKUP_TARGETS,
    LOOKUP_FULL,
    LOOKUP_PLACE /* of a gathered statement */
};

#define LOOKUP_SHAPE "iiiiiiittTi"

static enum err read_targets(const PGresult *r, int row, struct entry *e)
{
    struct span targets[ENTRY_TARGETS_MAX];
    size_t n = pg_get_texts(r, row, LOOKUP_TARGETS, targets, ENTRY_TARGETS_MAX);
    if (n > ENTRY_TARGETS_MAX) {
        return ERR_CORRUPT;
    }
    for (size_t i = 0; i < n; i++) {
        if (entry_add_target(e, targets[i]) != ERR_OK) {
            return ERR_CORRUPT;
        }
    }
    return ERR_OK;
}

static enum err read_account(const PGresult *r, int row, struct entry *e)
{
    int64_t state = pg_get_i64(r, row, LOOKUP_STATE), days = pg_get_i64(r, row, LOOKUP_DAYS);
    int64_t read_days = pg_get_i64(r, row, LOOKUP_READ_DAYS);
    if (state < ACCOUNT_ACTIVE || state > ACCOUNT_REMOVED || days < 0 || read_days < -1 ||
        !index_read_text(r, row, LOOKUP_HASH, e->hash, sizeof e->hash) ||
        !index_read_text(r, row, LOOKUP_SCRAM, e->scram, sizeof e->scram)) {
        return ERR_CORRUPT;
    }
    e->mailbox_id = (uint64_t)pg_get_i64(r, row, LOOKUP_MAILBOX);
    e->state = (enum account_state)state;
    e->max_octets = (uint64_t)pg_get_i64(r, row, LOOKUP_OCTETS);
    e->max_messages = (uint64_t)pg_get_i64(r, row, LOOKUP_MESSAGES);
    e->max_size = (uint64_t)pg_get_i64(r, row, LOOKUP_SIZE);
    e->retention_days = (uint32_t)days;
    e->read_days = (int32_t)read_days;
    return ERR_OK;
}

static enum err read_entry(const PGresult *r, int row, const struct name *name, struct entry **out)
{
    bool mailbox = !PQgetisnull(r, row, LOOKUP_MAILBOX);
    bool domain = name->n > 0 && name->text[0] == '@';
    struct entry *e = entry_new(mailbox ? ENTRY_MAILBOX : domain ? ENTRY_DOMAIN : ENTRY_ALIAS);
    enum err err = mailbox ? read_account(r, row, e) : read_targets(r, row, e);
    e->full = pg_get_i64(r, row, LOOKUP_FULL) != 0;
    if (err != ERR_OK) {
        entry_free(&e);
        return err;
    }
    *out = e;
    return ERR_OK;
}

/* --- rows of maildrops ------------------------------------------------------------------------ */

enum {
    LIST_VERSION,
    LIST_SEQ,
    LIST_ID,
    LIST_SIZE,
    LIST_SKIP,
    LIST_VOLUME,
    LIST_UIDL,
    LIST_HANDLE,
    LIST_LONG, /* it has more than a gathered statement may have of it; there alone, as what follows
                */
    LIST_PLACE
};

#define LIST_SHAPE "iiuiiitb"

static enum err read_pointer(const PGresult *r, int row, struct maildrop *m)
{
    int64_t seq = pg_get_i64(r, row, LIST_SEQ), size = pg_get_i64(r, row, LIST_SIZE);
    int64_t skip = pg_get_i64(r, row, LIST_SKIP), volume = pg_get_i64(r, row, LIST_VOLUME);
    if (seq <= 0 || size < 0 || skip < 0 || volume <= 0 || volume > UINT16_MAX) {
        return ERR_CORRUPT;
    }
    const struct pointer p = { .id = pg_get_uuid(r, row, LIST_ID),
                               .seq = (uint64_t)seq,
                               .size = (uint32_t)size,
                               .skip = (uint32_t)skip,
                               .volume = (uint16_t)volume };
    return maildrop_add(m, &p, pg_get_span(r, row, LIST_UIDL), pg_get_span(r, row, LIST_HANDLE));
}

/* The rows from first on, up to end. A mailbox without messages is one row without a pointer. */
static enum err read_list(uint64_t mailbox_id, const PGresult *r, int first, int end,
                          struct maildrop **out)
{
    if (first == end || PQgetisnull(r, first, LIST_VERSION)) {
        return ERR_NOTFOUND;
    }
    struct maildrop *m = maildrop_new(mailbox_id, (uint64_t)pg_get_i64(r, first, LIST_VERSION));
    bool empty = end - first == 1 && PQgetisnull(r, first, LIST_SEQ);
    for (int row = first; row < end && !empty; row++) {
        if (read_pointer(r, row, m) != ERR_OK) {
            maildrop_free(&m);
            return index_malformed(what[LIST], mailbox_id);
        }
    }
    maildrop_built(m);
    *out = m;
    return ERR_OK;
}

/* --- alone ------------------------------------------------------------------------------------ */

/* An outcome of a read does no harm when it is not known; the op's caller hears TEMP. */
static enum err ask_err(const struct ask *a, const struct pg_reply *r)
{
    return index_err(what[a->kind], a->mailbox_id, r);
}

/* The result of one address: no row when it is unknown. */
static enum err read_one(const PGresult *r, const struct name *name, struct entry **out)
{
    if (!pg_shape(r, LOOKUP_SHAPE) || PQntuples(r) > 1) {
        return ERR_CORRUPT;
    }
    if (PQntuples(r) == 0) {
        *out = entry_new(ENTRY_NONE);
        return ERR_OK;
    }
    return read_entry(r, 0, name, out);
}

static void end_lookup_alone(struct ask *a, const struct pg_reply *r)
{
    struct entry **entries = NEW_ARRAY(struct entry *, a->n);
    enum err e = ask_err(a, r);
    for (size_t i = 0; i < a->n && e == ERR_OK; i++) {
        if (read_one(r->r[i], &a->names[i], &entries[i]) != ERR_OK) {
            e = index_malformed(what[LOOKUP], 0);
        }
    }
    end_lookup(a, e, entries);
    free(entries);
}

static void end_list_alone(struct ask *a, const struct pg_reply *r)
{
    struct maildrop *m = NULL;
    enum err e = ask_err(a, r);
    if (e == ERR_OK && !pg_shape(r->r[0], LIST_SHAPE)) {
        e = index_malformed(what[LIST], a->mailbox_id);
    } else if (e == ERR_OK) {
        e = read_list(a->mailbox_id, r->r[0], 0, PQntuples(r->r[0]), &m);
    }
    end_list(a, e, m);
}

static void on_alone(void *arg, const struct pg_reply *r)
{
    struct ask *a = arg;
    if (a->kind == LOOKUP) {
        end_lookup_alone(a, r);
    } else {
        end_list_alone(a, r);
    }
}

/* With what it is about as a plain argument: a database of several machines sends it there. */
static struct pg_batch *batch_alone(const struct ask *a)
{
    struct pg_batch *b = pg_batch_new();
    for (size_t i = 0; a->kind == LOOKUP && i < a->n; i++) {
        pg_stmt(b, "SELECT * FROM lookup($1)");
        pg_text(b, name_of(&a->names[i]));
    }
    if (a->kind == LIST) {
        /* One statement, so one snapshot: the version is the one of these pointers. */
        pg_stmt(b, "SELECT b.version, m.seq, m.blob_id, m.size, m.skip, m.volume_id, m.uidl,"
                   "       m.handle"
                   "  FROM mailbox b LEFT JOIN message m ON m.mailbox_id = b.mailbox_id"
                   " WHERE b.mailbox_id = $1 ORDER BY m.seq");
        pg_i64(b, (int64_t)a->mailbox_id);
    }
    return b;
}

static void ask_alone(struct ask *a)
{
    struct pg_batch *b = batch_alone(a);
    pg_submit(a->index->pg, PG_READ, &b, on_alone, a);
}

/* --- together --------------------------------------------------------------------------------- */

/* The place of a name among n others, or n. */
static size_t place_of(const struct span *names, size_t n, struct span name)
{
    size_t i = 0;
    while (i < n && !span_eq(names[i], name)) {
        i++;
    }
    return i;
}

/* A function beside another is called for each row of that, in its order, here and in batch_lists.
 * That they are in order is looked at all the same when they are read. */
static struct pg_batch *batch_lookups(struct group *g)
{
    struct pg_batch *b = pg_batch_new();
    struct span *names = NEW_ARRAY(struct span, g->most);
    for (size_t i = 0; i < g->n; i++) {
        for (size_t k = 0; k < g->asks[i]->n; k++) {
            struct name *name = &g->asks[i]->names[k];
            name->row = place_of(names, g->rows, name_of(name));
            if (name->row == g->rows) {
                names[g->rows++] = name_of(name);
            }
        }
    }
    pg_stmt(b, "SELECT l.*, w.place"
               "  FROM unnest($1) WITH ORDINALITY w (addr, place)"
               "       LEFT JOIN LATERAL lookup(w.addr) l ON true");
    pg_texts(b, names, g->rows);
    free(names);
    return b;
}

/* One statement, so one snapshot for all of them. */
static struct pg_batch *batch_lists(struct group *g)
{
    struct pg_batch *b = pg_batch_new();
    int64_t *boxes = NEW_ARRAY(int64_t, g->n);
    for (; g->rows < g->n; g->rows++) {
        boxes[g->rows] = (int64_t)g->asks[g->rows]->mailbox_id;
    }
    pg_stmt(b, "SELECT l.*, w.place"
               "  FROM unnest($1) WITH ORDINALITY w (box, place)"
               "       LEFT JOIN LATERAL listing(w.box, $2) l ON true");
    pg_i64s(b, boxes, g->rows);
    pg_i64(b, TOGETHER_MAX);
    free(boxes);
    return b;
}

/* Rows in their places: what a statement can have said of each name. */
static bool lookups_well(const struct group *g, const PGresult *r)
{
    bool well = pg_shape(r, LOOKUP_SHAPE "i") && (size_t)PQntuples(r) == g->rows;
    for (int row = 0; well && row < PQntuples(r); row++) {
        well = pg_get_i64(r, row, LOOKUP_PLACE) == row + 1;
    }
    return well;
}

/* An address that is not there has a row of nothing. */
static enum err read_place(const PGresult *r, const struct name *name, struct entry **out)
{
    if (PQgetisnull(r, (int)name->row, LOOKUP_FULL)) {
        *out = entry_new(ENTRY_NONE);
        return ERR_OK;
    }
    return read_entry(r, (int)name->row, name, out);
}

static void end_gathered_lookup(struct ask *a, const PGresult *r)
{
    struct entry **entries = NEW_ARRAY(struct entry *, a->n);
    enum err e = ERR_OK;
    for (size_t i = 0; i < a->n && e == ERR_OK; i++) {
        if (read_place(r, &a->names[i], &entries[i]) != ERR_OK) {
            e = index_malformed(what[LOOKUP], 0);
        }
    }
    end_lookup(a, e, entries);
    free(entries);
}

/* Each mailbox's rows are together, and the mailboxes in their places. */
static bool lists_well(const struct group *g, const PGresult *r)
{
    bool well = pg_shape(r, LIST_SHAPE "ii");
    int64_t place = 0;
    for (int row = 0; well && row < PQntuples(r); row++) {
        int64_t now = pg_get_i64(r, row, LIST_PLACE);
        well = now == place || now == place + 1;
        place = now;
    }
    return well && (size_t)place == g->rows && PQntuples(r) > 0 &&
           pg_get_i64(r, 0, LIST_PLACE) == 1;
}

static void end_gathered_list(struct ask *a, const PGresult *r, int first, int end)
{
    struct maildrop *m = NULL;
    if (pg_get_i64(r, first, LIST_LONG)) {
        ask_alone(a);
    } else {
        enum err e = read_list(a->mailbox_id, r, first, end, &m);
        end_list(a, e, m);
    }
}

static void end_lists(struct group *g, const PGresult *r)
{
    int rows = PQntuples(r);
    for (int i = 0, first = 0, end = 0; (size_t)i < g->n; i++, first = end) {
        while (end < rows && pg_get_i64(r, end, LIST_PLACE) == i + 1) {
            end++;
        }
        end_gathered_list(g->asks[i], r, first, end);
    }
}

static void end_lookups(struct group *g, const PGresult *r)
{
    for (size_t i = 0; i < g->n; i++) {
        end_gathered_lookup(g->asks[i], r);
    }
}

static void end_well(struct group *g, const PGresult *r)
{
    if (g->kind == LOOKUP) {
        end_lookups(g, r);
    } else {
        end_lists(g, r);
    }
}

static void end_badly(struct group *g, const struct pg_reply *r)
{
    enum err e = r->err == ERR_OK ? index_malformed(what[g->kind], 0) : ERR_TEMP;
    for (size_t i = 0; i < g->n; i++) {
        if (*r->sqlstate) {
            ask_alone(g->asks[i]);
        } else {
            end_failed(g->asks[i], e);
        }
    }
}

/* --- gathering -------------------------------------------------------------------------------- */

static void gather(struct index *ix, enum kind kind, bool all);

static bool group_well(const struct group *g, const struct pg_reply *r)
{
    return r->err == ERR_OK &&
           (g->kind == LOOKUP ? lookups_well(g, r->r[0]) : lists_well(g, r->r[0]));
}

static void on_group(void *arg, const struct pg_reply *r)
{
    struct group *g = arg;
    bool away = r->err != ERR_OK && !*r->sqlstate;
    reads_of(g->index, g->kind)->under_way--;
    gather(g->index, g->kind, away);
    if (g->n == 1) {
        on_alone(g->asks[0], r);
    } else if (group_well(g, r)) {
        end_well(g, r->r[0]);
    } else {
        end_badly(g, r);
    }
    free(g);
}

static void take_out(struct reads *q, struct ask *a)
{
    list_del(&a->link);
    q->n -= a->n;
}

/* The first that somebody still waits for, and has not waited for too long; it stays in the queue.
 */
static struct ask *first(struct index *ix, struct reads *q)
{
    while (!list_empty(&q->waiting)) {
        struct ask *a = CONTAINER_OF(q->waiting.next, struct ask, link);
        if (!a->op.cancelled && a->until > loop_now(ix->loop)) {
            return a;
        }
        take_out(q, a);
        end_failed(a, ERR_TEMP);
    }
    return NULL;
}

/* One that has it for itself asks as if it were alone. */
static void send_group(struct group *g)
{
    struct pg_batch *b;
    if (g->n == 1) {
        b = batch_alone(g->asks[0]);
    } else {
        b = g->kind == LOOKUP ? batch_lookups(g) : batch_lists(g);
    }
    reads_of(g->index, g->kind)->under_way++;
    pg_submit(g->index->pg, PG_READ, &b, on_group, g);
}

/* As many as a statement may have, and at least one. */
static void send_next(struct index *ix, enum kind kind)
{
    struct reads *q = reads_of(ix, kind);
    struct group *g = mem_new(1, sizeof *g + ix->gather * sizeof g->asks[0]);
    g->index = ix;
    g->kind = kind;
    for (struct ask *a; (a = first(ix, q)) && (g->n == 0 || g->most + a->n <= ix->gather);) {
        take_out(q, a);
        g->most += a->n;
        g->asks[g->n++] = a;
    }
    send_group(g);
}

/* The next statement, if there is none and somebody waits for it; all: statements for everybody. */
static void gather(struct index *ix, enum kind kind, bool all)
{
    struct reads *q = reads_of(ix, kind);
    while ((all || q->under_way == 0) && first(ix, q)) {
        send_next(ix, kind);
    }
}

/* --- outside ---------------------------------------------------------------------------------- */

static void on_refused(struct task *t)
{
    end_failed(CONTAINER_OF(t, struct ask, refused), ERR_TEMP);
}

static struct op *ask_begin(struct ask *a)
{
    struct index *ix = a->index;
    struct reads *q = reads_of(ix, a->kind);
    if (ix->gather <= 1) {
        ask_alone(a);
    } else if (q->n + a->n > WAITING_MAX) {
        a->refused.run = on_refused;
        loop_post(ix->loop, &a->refused);
    } else {
        list_add(&q->waiting, &a->link);
        q->n += a->n;
        gather(ix, a->kind, false);
    }
    return &a->op;
}

static struct ask *ask_new(struct index *ix, enum kind kind, size_t n, void *arg)
{
    struct ask *a = mem_new(1, sizeof *a + (kind == LOOKUP ? n : 0) * sizeof a->names[0]);
    list_init(&a->link);
    a->op.arg = arg;
    a->index = ix;
    a->kind = kind;
    a->n = n;
    a->until = loop_now(ix->loop) + ix->wait_ms;
    return a;
}

struct op *index_lookup(struct index *ix, const struct span *addresses, size_t n,
                        index_lookup_fn *done, void *arg)
{
    CHECK(n > 0);
    struct ask *a = ask_new(ix, LOOKUP, n, arg);
    a->done.lookup = done;
    for (size_t i = 0; i < n; i++) {
        a->names[i].text = span_dup(addresses[i]);
        a->names[i].n = addresses[i].n;
    }
    return ask_begin(a);
}

struct op *index_list(struct index *ix, uint64_t mailbox_id, index_list_fn *done, void *arg)
{
    struct ask *a = ask_new(ix, LIST, 1, arg);
    a->done.list = done;
    a->mailbox_id = mailbox_id;
    return ask_begin(a);
}
