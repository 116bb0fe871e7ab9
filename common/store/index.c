/*
 * index: the statements of the mail path, their arguments and what comes back.
 *
 * Each call allocates one struct call, which embeds the op that the caller holds; it is freed when
 * the batch has been answered, whether or not the caller still listens. What the server sends is
 * checked column by column: a result of another shape is ERR_CORRUPT and a line in the log. Faults
 * of any kind become TEMP here, so that nobody takes a missing function for a missing mailbox.
 */
#include "store/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/log.h"

struct index {
    struct pg *pg;
    void (*on_epoch)(void *arg, uint64_t epoch);
    void (*on_crossed)(void *arg, uint64_t mailbox_id, unsigned per_cent);
    void *arg;
    struct quota_rules quota;
    uint64_t epoch;
    bool epoch_known;
};

struct call {
    struct op op;
    struct index *index;
    const char *what; /* for logs */
    union {
        index_lookup_fn *lookup;
        index_list_fn *list;
        index_room_fn *room;
        index_usage_fn *usage;
        index_done_fn *done;
        index_changed_fn *changed;
        index_fleet_fn *fleet;
        index_announce_fn *announce;
        index_schema_fn *schema;
        index_volumes_fn *volumes;
    } done;
    uint64_t mailbox_id;
    size_t n;
    uint64_t *mailboxes; /* as the caller gave them */
    size_t *order;       /* places in mailboxes, by ascending mailbox_id */
    char *addresses;     /* the first character of each: '@' or another */
};

static struct call *call_new(const char *what, void *arg)
{
    struct call *c = NEW(struct call);
    c->what = what;
    c->op.arg = arg;
    return c;
}

static void call_free(struct call *c)
{
    free(c->mailboxes);
    free(c->order);
    free(c->addresses);
    free(c);
}

static struct op *call_submit(struct index *ix, struct call *c, enum pg_lane lane,
                              struct pg_batch *b, pg_done_fn *on_answer)
{
    c->index = ix;
    pg_submit(ix->pg, lane, &b, on_answer, c);
    return &c->op;
}

static enum err malformed(const struct call *c)
{
    LOG(LOG_ERROR, "db.malformed", F_STR("call", c->what), F_U64("mailbox", c->mailbox_id));
    return ERR_CORRUPT;
}

/* What a reply means to the mail path. LIMIT is ours only when a function raised it. */
static enum err call_err(const struct call *c, const struct pg_reply *r)
{
    bool raised = r->sqlstate[0] != '\0';
    if (r->err == ERR_OK || r->err == ERR_UNCERTAIN || r->err == ERR_NOTFOUND ||
        (r->err == ERR_LIMIT && raised)) {
        return r->err;
    }
    if (raised) {
        LOG(LOG_ERROR, "db.refused", F_STR("call", c->what), F_U64("mailbox", c->mailbox_id),
            F_STR("sqlstate", r->sqlstate), F_STR("message", r->message));
    }
    return ERR_TEMP;
}

/* Calls whose outcome does no harm when it is not known. */
static enum err call_err_certain(const struct call *c, const struct pg_reply *r)
{
    enum err e = call_err(c, r);
    return e == ERR_UNCERTAIN ? ERR_TEMP : e;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void add_mailbox(struct pg_batch *b, uint64_t mailbox_id)
{
    pg_i64(b, (int64_t)mailbox_id);
}

/* A column of text into an array of its own size. */
static bool read_text(const PGresult *r, int row, int col, char *out, size_t size)
{
    struct span s = pg_get_span(r, row, col);
    if (s.n >= size || span_find(s, '\0') != s.n) {
        return false;
    }
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return true;
}

/* For calls of which only the end counts. */
static void on_changed(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    enum err e = call_err(c, r);
    if (c->done.done && !c->op.cancelled) {
        c->done.done(c->op.arg, e);
    }
    call_free(c);
}

/* --- opening ---------------------------------------------------------------------------------- */

/* From each new connection, and with the volumes. */
static void on_epoch(void *arg, const PGresult *r)
{
    struct index *ix = arg;
    if (!pg_shape(r, "i") || PQntuples(r) != 1) {
        LOG(LOG_ERROR, "db.malformed", F_STR("call", "epoch"));
        return;
    }
    uint64_t epoch = (uint64_t)pg_get_i64(r, 0, 0);
    if (!ix->epoch_known || epoch != ix->epoch) {
        ix->epoch_known = true;
        ix->epoch = epoch;
        if (ix->on_epoch) {
            ix->on_epoch(ix->arg, epoch);
        }
    }
}

struct index *index_open(struct loop *l, const struct index_options *o)
{
    struct index *ix = NEW(struct index);
    ix->on_epoch = o->on_epoch;
    ix->on_crossed = o->on_crossed;
    ix->arg = o->arg;
    ix->pg = pg_open(l, &(struct pg_options){ .url = o->url,
                                              .read_connections = o->read_connections,
                                              .write_connections = o->write_connections,
                                              .timeout_ms = o->timeout_ms,
                                              .hello = "SELECT fleet_epoch()",
                                              .on_hello = on_epoch,
                                              .arg = ix });
    return ix;
}

void index_close(struct index **pix)
{
    struct index *ix = *pix;
    *pix = NULL;
    pg_close(&ix->pg);
    free(ix);
}

bool index_ready(const struct index *ix)
{
    return pg_ready(ix->pg);
}

void index_set_quota(struct index *ix, const struct quota_rules *q)
{
    ix->quota = *q;
}

/* --- addresses -------------------------------------------------------------------------------- */

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
    LOOKUP_FULL
};

static enum err read_targets(const PGresult *r, struct entry *e)
{
    struct span targets[ENTRY_TARGETS_MAX];
    size_t n = pg_get_texts(r, 0, LOOKUP_TARGETS, targets, ENTRY_TARGETS_MAX);
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

static enum err read_account(const PGresult *r, struct entry *e)
{
    int64_t state = pg_get_i64(r, 0, LOOKUP_STATE), days = pg_get_i64(r, 0, LOOKUP_DAYS);
    int64_t read_days = pg_get_i64(r, 0, LOOKUP_READ_DAYS);
    if (state < ACCOUNT_ACTIVE || state > ACCOUNT_REMOVED || days < 0 || read_days < -1 ||
        !read_text(r, 0, LOOKUP_HASH, e->hash, sizeof e->hash) ||
        !read_text(r, 0, LOOKUP_SCRAM, e->scram, sizeof e->scram)) {
        return ERR_CORRUPT;
    }
    e->mailbox_id = (uint64_t)pg_get_i64(r, 0, LOOKUP_MAILBOX);
    e->state = (enum account_state)state;
    e->max_octets = (uint64_t)pg_get_i64(r, 0, LOOKUP_OCTETS);
    e->max_messages = (uint64_t)pg_get_i64(r, 0, LOOKUP_MESSAGES);
    e->max_size = (uint64_t)pg_get_i64(r, 0, LOOKUP_SIZE);
    e->retention_days = (uint32_t)days;
    e->read_days = (int32_t)read_days;
    return ERR_OK;
}

static enum err read_entry(const PGresult *r, char first, struct entry **out)
{
    if (!pg_shape(r, "iiiiiiittTi") || PQntuples(r) > 1) {
        return ERR_CORRUPT;
    }
    if (PQntuples(r) == 0) {
        *out = entry_new(ENTRY_NONE);
        return ERR_OK;
    }
    bool mailbox = !PQgetisnull(r, 0, LOOKUP_MAILBOX);
    struct entry *e = entry_new(mailbox        ? ENTRY_MAILBOX
                                : first == '@' ? ENTRY_DOMAIN
                                               : ENTRY_ALIAS);
    enum err err = mailbox ? read_account(r, e) : read_targets(r, e);
    e->full = pg_get_i64(r, 0, LOOKUP_FULL) != 0;
    if (err != ERR_OK) {
        entry_free(&e);
        return err;
    }
    *out = e;
    return ERR_OK;
}

static void on_lookup(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    struct entry **entries = NEW_ARRAY(struct entry *, c->n);
    enum err e = call_err(c, r);
    for (size_t i = 0; i < c->n && e == ERR_OK; i++) {
        if (read_entry(r->r[i], c->addresses[i], &entries[i]) != ERR_OK) {
            e = malformed(c);
        }
    }
    if (!c->op.cancelled) {
        c->done.lookup(c->op.arg, e, e == ERR_OK ? entries : NULL, c->n);
    }
    for (size_t i = 0; i < c->n; i++) {
        entry_free(&entries[i]);
    }
    free(entries);
    call_free(c);
}

struct op *index_lookup(struct index *ix, const struct span *addresses, size_t n,
                        index_lookup_fn *done, void *arg)
{
    struct call *c = call_new("lookup", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.lookup = done;
    c->n = n;
    c->addresses = NEW_ARRAY(char, n);
    for (size_t i = 0; i < n; i++) {
        c->addresses[i] = addresses[i].n > 0 ? addresses[i].p[0] : '\0';
        pg_stmt(b, "SELECT * FROM lookup($1)");
        pg_text(b, addresses[i]);
    }
    return call_submit(ix, c, PG_READ, b, on_lookup);
}

struct op *index_enroll(struct index *ix, uint64_t mailbox_id, const char *hash, struct span old,
                        struct span scram, index_done_fn *done, void *arg)
{
    CHECK(scram.n <= ENTRY_SCRAM_MAX);
    struct call *c = call_new("enroll", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT enroll($1, $2, $3, $4)");
    add_mailbox(b, mailbox_id);
    pg_text(b, span_str(hash));
    pg_text(b, old);
    pg_text(b, scram);
    return call_submit(ix, c, PG_WRITE, b, on_changed);
}

/* --- listing ---------------------------------------------------------------------------------- */

enum { LIST_VERSION, LIST_SEQ, LIST_ID, LIST_SIZE, LIST_SKIP, LIST_VOLUME, LIST_UIDL, LIST_HANDLE };

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

/* A mailbox without messages is one row without a pointer. */
static enum err read_list(const struct call *c, const PGresult *r, struct maildrop **out)
{
    if (!pg_shape(r, "iiuiiitb")) {
        return malformed(c);
    }
    int rows = PQntuples(r);
    if (rows == 0) {
        return ERR_NOTFOUND;
    }
    struct maildrop *m = maildrop_new(c->mailbox_id, (uint64_t)pg_get_i64(r, 0, LIST_VERSION));
    bool empty = rows == 1 && PQgetisnull(r, 0, LIST_SEQ);
    for (int row = 0; row < rows && !empty; row++) {
        if (read_pointer(r, row, m) != ERR_OK) {
            maildrop_free(&m);
            return malformed(c);
        }
    }
    *out = m;
    return ERR_OK;
}

static void on_list(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    struct maildrop *m = NULL;
    enum err e = call_err(c, r);
    if (e == ERR_OK) {
        e = read_list(c, r->r[0], &m);
    }
    if (!c->op.cancelled) {
        c->done.list(c->op.arg, e, &m);
    }
    maildrop_free(&m);
    call_free(c);
}

struct op *index_list(struct index *ix, uint64_t mailbox_id, index_list_fn *done, void *arg)
{
    struct call *c = call_new("list", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.list = done;
    c->mailbox_id = mailbox_id;
    /* One statement, so one snapshot: the version is the one of these pointers. */
    pg_stmt(b, "SELECT b.version, m.seq, m.blob_id, m.size, m.skip, m.volume_id, m.uidl, m.handle"
               "  FROM mailbox b LEFT JOIN message m ON m.mailbox_id = b.mailbox_id"
               " WHERE b.mailbox_id = $1 ORDER BY m.seq");
    add_mailbox(b, mailbox_id);
    return call_submit(ix, c, PG_READ, b, on_list);
}

static void on_has(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    enum err e = call_err(c, r);
    if (e == ERR_OK && PQntuples(r->r[0]) == 0) {
        e = ERR_NOTFOUND;
    } else if (e == ERR_OK && !pg_get_i64(r->r[0], 0, 0)) {
        e = ERR_TEMP;
    }
    if (!c->op.cancelled) {
        c->done.done(c->op.arg, e);
    }
    call_free(c);
}

struct op *index_has(struct index *ix, uint64_t mailbox_id, const struct pointer *p,
                     index_done_fn *done, void *arg)
{
    struct call *c = call_new("has", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT volume_id = $4 FROM message"
               " WHERE mailbox_id = $1 AND seq = $2 AND blob_id = $3");
    add_mailbox(b, mailbox_id);
    pg_i64(b, (int64_t)p->seq);
    pg_uuid(b, &p->id);
    pg_i64(b, p->volume);
    return call_submit(ix, c, PG_READ, b, on_has);
}

/* --- room and delivery ------------------------------------------------------------------------ */

static struct call *call_new_mailboxes(const char *what, const uint64_t *mailboxes, size_t n,
                                       void *arg)
{
    struct call *c = call_new(what, arg);
    c->n = n;
    c->mailbox_id = n > 0 ? mailboxes[0] : 0;
    c->mailboxes = NEW_ARRAY(uint64_t, n);
    for (size_t i = 0; i < n; i++) {
        c->mailboxes[i] = mailboxes[i];
    }
    return c;
}

static bool read_room(const PGresult *r, int row, int col, enum room *out)
{
    int64_t code = pg_get_i64(r, row, col);
    if (code < ROOM_OK || code > ROOM_SUSPENDED) {
        return false;
    }
    *out = (enum room)code;
    return true;
}

static enum err read_rooms(const struct call *c, const struct pg_reply *r, enum room *room)
{
    for (size_t i = 0; i < c->n; i++) {
        const PGresult *one = r->r[i];
        room[i] = ROOM_GONE;
        if (!pg_shape(one, "i") || (PQntuples(one) > 0 && !read_room(one, 0, 0, &room[i]))) {
            return malformed(c);
        }
    }
    return ERR_OK;
}

static void on_room(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    enum room *room = NEW_ARRAY(enum room, c->n);
    enum err e = call_err(c, r);
    if (e == ERR_OK) {
        e = read_rooms(c, r, room);
    }
    if (!c->op.cancelled) {
        c->done.room(c->op.arg, e, e == ERR_OK ? room : NULL, c->n);
    }
    free(room);
    call_free(c);
}

struct op *index_room(struct index *ix, const uint64_t *mailboxes, size_t n, uint64_t size,
                      index_room_fn *done, void *arg)
{
    struct call *c = call_new_mailboxes("room", mailboxes, n, arg);
    struct pg_batch *b = pg_batch_new();
    c->done.room = done;
    for (size_t i = 0; i < n; i++) {
        pg_stmt(b, "SELECT room(state, msgs, octets, max_messages, max_octets, max_size, $2, $3)"
                   "  FROM mailbox WHERE mailbox_id = $1");
        add_mailbox(b, mailboxes[i]);
        pg_i64(b, (int64_t)size);
        pg_i64(b, ix->quota.grace);
    }
    return call_submit(ix, c, PG_READ, b, on_room);
}

static int by_mailbox(const void *a, const void *b, void *arg)
{
    const uint64_t *mailboxes = arg;
    uint64_t x = mailboxes[*(const size_t *)a], y = mailboxes[*(const size_t *)b];
    return (x > y) - (x < y);
}

/* Locks are taken in the order of the statements: ascending, or two deliveries could deadlock. */
static void sort_mailboxes(struct call *c)
{
    c->order = NEW_ARRAY(size_t, c->n);
    for (size_t i = 0; i < c->n; i++) {
        c->order[i] = i;
    }
    qsort_r(c->order, c->n, sizeof *c->order, by_mailbox, c->mailboxes);
}

/* The results of deliver() follow that of share(), if there was one. */
static bool read_delivered(const struct call *c, const struct pg_reply *r, enum room *room)
{
    size_t first = r->n - c->n;
    for (size_t k = 0; k < c->n; k++) {
        const PGresult *one = r->r[first + k];
        if (!pg_shape(one, "ii") || PQntuples(one) != 1 ||
            !read_room(one, 0, 0, &room[c->order[k]])) {
            return false;
        }
    }
    return true;
}

/* The second columns of the same results. */
static void tell_crossed(const struct call *c, const struct pg_reply *r)
{
    const struct index *ix = c->index;
    for (size_t k = 0; k < c->n && ix->on_crossed; k++) {
        int64_t per_cent = pg_get_i64(r->r[r->n - c->n + k], 0, 1);
        if (per_cent > 0) {
            ix->on_crossed(ix->arg, c->mailboxes[c->order[k]], (unsigned)per_cent);
        }
    }
}

/* deliver() raised MF001: its DETAIL is the mailbox and why it has no room. */
static bool read_refused(const struct call *c, const struct pg_reply *r, enum room *room)
{
    unsigned long long mailbox_id;
    unsigned code;
    if (sscanf(r->detail, "%llu %u", &mailbox_id, &code) != 2 || code == ROOM_OK ||
        code > ROOM_SUSPENDED) {
        return false;
    }
    for (size_t i = 0; i < c->n; i++) {
        if (c->mailboxes[i] == mailbox_id) {
            room[i] = (enum room)code;
            return true;
        }
    }
    return false;
}

static void on_deliver(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    enum room *room = NEW_ARRAY(enum room, c->n);
    enum err e = call_err(c, r);
    if (e == ERR_OK && !read_delivered(c, r, room)) {
        malformed(c);
        e = ERR_UNCERTAIN; /* it has committed, but not to whom */
    } else if (e == ERR_LIMIT && !read_refused(c, r, room)) {
        malformed(c);
        e = ERR_TEMP;
    }
    if (e == ERR_OK) {
        tell_crossed(c, r);
    }
    if (!c->op.cancelled) {
        c->done.room(c->op.arg, e, e == ERR_OK || e == ERR_LIMIT ? room : NULL, c->n);
    }
    free(room);
    call_free(c);
}

/* quota NULL: no limit holds, and no threshold is crossed. */
static struct op *deliver(struct index *ix, const struct pointer *p, struct span handle,
                          const uint64_t *mailboxes, size_t n, bool all_or_nothing,
                          uint64_t grace_ms, const struct quota_rules *quota, index_room_fn *done,
                          void *arg)
{
    CHECK(n > 0);
    struct call *c = call_new_mailboxes("deliver", mailboxes, n, arg);
    struct pg_batch *b = pg_batch_new();
    bool shared = n > 1;
    int64_t now = now_ms();
    c->done.room = done;
    sort_mailboxes(c);
    if (shared) {
        pg_stmt(b, "SELECT share($1, $2, $3, $4)");
        pg_uuid(b, &p->id);
        pg_i64(b, p->volume);
        pg_i64(b, (int64_t)n);
        pg_i64(b, (int64_t)p->size + p->skip);
    }
    for (size_t k = 0; k < n; k++) {
        pg_stmt(b, "SELECT * FROM deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)");
        add_mailbox(b, mailboxes[c->order[k]]);
        pg_uuid(b, &p->id);
        pg_i64(b, p->volume);
        pg_i64(b, p->size);
        pg_i64(b, p->skip);
        pg_bool(b, shared);
        pg_bytea(b, handle);
        pg_bool(b, all_or_nothing);
        pg_i64(b, now);
        pg_i64(b, (int64_t)grace_ms);
        quota ? pg_i64(b, quota->grace) : pg_null(b);
        pg_i64s(b, quota ? quota->warn : NULL, quota ? quota->n : 0);
    }
    return call_submit(ix, c, PG_WRITE, b, on_deliver);
}

struct op *index_deliver(struct index *ix, const struct pointer *p, struct span handle,
                         const uint64_t *mailboxes, size_t n, bool all_or_nothing,
                         uint64_t grace_ms, index_room_fn *done, void *arg)
{
    return deliver(ix, p, handle, mailboxes, n, all_or_nothing, grace_ms, &ix->quota, done, arg);
}

struct op *index_deliver_past_limits(struct index *ix, const struct pointer *p, struct span handle,
                                     uint64_t mailbox_id, uint64_t grace_ms, index_room_fn *done,
                                     void *arg)
{
    return deliver(ix, p, handle, &mailbox_id, 1, false, grace_ms, NULL, done, arg);
}

static enum err read_usage(const struct call *c, const PGresult *r, struct usage *out)
{
    if (!pg_shape(r, "tiiii") || PQntuples(r) > 1) {
        return malformed(c);
    }
    if (PQntuples(r) == 0) {
        return ERR_NOTFOUND;
    }
    *out = (struct usage){ .address = pg_get_span(r, 0, 0),
                           .messages = (uint64_t)pg_get_i64(r, 0, 1),
                           .octets = (uint64_t)pg_get_i64(r, 0, 2),
                           .max_messages = (uint64_t)pg_get_i64(r, 0, 3),
                           .max_octets = (uint64_t)pg_get_i64(r, 0, 4) };
    return ERR_OK;
}

static void on_usage(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    struct usage u;
    enum err e = call_err(c, r);
    if (e == ERR_OK) {
        e = read_usage(c, r->r[0], &u);
    }
    if (!c->op.cancelled) {
        c->done.usage(c->op.arg, e, e == ERR_OK ? &u : NULL);
    }
    call_free(c);
}

struct op *index_usage(struct index *ix, uint64_t mailbox_id, index_usage_fn *done, void *arg)
{
    struct call *c = call_new("usage", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.usage = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT c.addr, b.msgs, b.octets, b.max_messages, b.max_octets"
               "  FROM mailbox b JOIN account c ON c.mailbox_id = b.mailbox_id"
               " WHERE b.mailbox_id = $1 AND b.state = 0");
    add_mailbox(b, mailbox_id);
    return call_submit(ix, c, PG_READ, b, on_usage);
}

static void on_delivered(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    enum err e = call_err_certain(c, r);
    if (e == ERR_OK && (!pg_shape(r->r[0], "i") || PQntuples(r->r[0]) != 1)) {
        e = malformed(c);
    } else if (e == ERR_OK && !pg_get_i64(r->r[0], 0, 0)) {
        e = ERR_NOTFOUND;
    }
    if (!c->op.cancelled) {
        c->done.done(c->op.arg, e);
    }
    call_free(c);
}

struct op *index_delivered(struct index *ix, uint64_t mailbox_id, const struct blob_id *id,
                           index_done_fn *done, void *arg)
{
    struct call *c = call_new("delivered", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT delivered($1, $2)");
    add_mailbox(b, mailbox_id);
    pg_uuid(b, id);
    /* It may wait for a lock, which must not hold up the reads behind it. */
    return call_submit(ix, c, PG_WRITE, b, on_delivered);
}

/* --- the ledger ------------------------------------------------------------------------------- */

/* As two arguments, the places and the ids. */
static void add_pointers(struct pg_batch *b, const struct pointer *msgs, const size_t *which,
                         size_t n)
{
    int64_t *seqs = NEW_ARRAY(int64_t, n);
    struct blob_id *ids = NEW_ARRAY(struct blob_id, n);
    for (size_t i = 0; i < n; i++) {
        seqs[i] = (int64_t)msgs[which[i]].seq;
        ids[i] = msgs[which[i]].id;
    }
    pg_i64s(b, seqs, n);
    pg_uuids(b, ids, n);
    free(seqs);
    free(ids);
}

struct op *index_expunge(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                         const size_t *which, size_t n, uint64_t grace_ms, struct span by,
                         index_done_fn *done, void *arg)
{
    struct call *c = call_new("expunge", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT expunge($1, $2, $3, $4, $5, $6)");
    add_mailbox(b, mailbox_id);
    add_pointers(b, msgs, which, n);
    pg_i64(b, now_ms());
    pg_i64(b, (int64_t)grace_ms);
    pg_text(b, by);
    return call_submit(ix, c, PG_WRITE, b, on_changed);
}

struct op *index_mark_read(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                           const size_t *which, size_t n, index_done_fn *done, void *arg)
{
    struct call *c = call_new("mark_read", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT mark_read($1, $2, $3, $4)");
    add_mailbox(b, mailbox_id);
    add_pointers(b, msgs, which, n);
    pg_i64(b, now_ms());
    return call_submit(ix, c, PG_WRITE, b, on_changed);
}

struct op *index_discard(struct index *ix, uint64_t mailbox_id, const struct pointer *p,
                         uint64_t grace_ms, struct span by, index_done_fn *done, void *arg)
{
    struct call *c = call_new("discard", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT discard($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    add_mailbox(b, mailbox_id);
    pg_uuid(b, &p->id);
    pg_i64(b, p->volume);
    pg_i64(b, p->size);
    pg_i64(b, p->skip);
    pg_bool(b, false);
    pg_i64(b, now_ms());
    pg_i64(b, (int64_t)grace_ms);
    pg_text(b, by);
    return call_submit(ix, c, PG_WRITE, b, on_changed);
}

/* --- handles ---------------------------------------------------------------------------------- */

static void on_handles(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    enum err e = call_err_certain(c, r);
    if (e == ERR_OK && !pg_shape(r->r[0], "i")) {
        e = malformed(c);
    }
    if (!c->op.cancelled) {
        c->done.changed(c->op.arg, e, e == ERR_OK ? (size_t)PQntuples(r->r[0]) : 0);
    }
    call_free(c);
}

/*
 * The one change of pointers that does not lock the mailbox's row first. It waits for nobody (a row
 * that is locked is on its way out, or is being repaired), so it can't be part of a deadlock, and
 * no delivery waits for it. Nor does it raise the mailbox's version: the list names the same
 * messages as before. Handles that are right already lock nothing and write no log.
 */
struct op *index_set_handles(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                             const struct span *handles, size_t n, index_changed_fn *done,
                             void *arg)
{
    struct call *c = call_new("handles", arg);
    struct pg_batch *b = pg_batch_new();
    int64_t *seqs = NEW_ARRAY(int64_t, n);
    struct blob_id *ids = NEW_ARRAY(struct blob_id, n);
    int64_t *volumes = NEW_ARRAY(int64_t, n);
    c->done.changed = done;
    c->mailbox_id = mailbox_id;
    for (size_t i = 0; i < n; i++) {
        CHECK(handles[i].n <= HANDLE_MAX);
        seqs[i] = (int64_t)msgs[i].seq;
        ids[i] = msgs[i].id;
        volumes[i] = msgs[i].volume;
    }
    /* LATERAL, so that each handle costs a look into the index, whatever the statistics say. */
    pg_stmt(b, "UPDATE message m SET handle = f.handle"
               "  FROM unnest($2, $3, $4, $5) AS f (seq, blob_id, handle, volume_id),"
               "       LATERAL (SELECT o.seq FROM message o"
               "                 WHERE o.mailbox_id = $1 AND o.seq = f.seq"
               "                   AND o.blob_id = f.blob_id AND o.volume_id = f.volume_id"
               "                   AND o.handle <> f.handle"
               "                   FOR NO KEY UPDATE SKIP LOCKED) AS locked"
               " WHERE m.mailbox_id = $1 AND m.seq = locked.seq"
               " RETURNING m.seq");
    add_mailbox(b, mailbox_id);
    pg_i64s(b, seqs, n);
    pg_uuids(b, ids, n);
    pg_byteas(b, handles, n);
    pg_i64s(b, volumes, n);
    free(volumes);
    free(seqs);
    free(ids);
    return call_submit(ix, c, PG_WRITE, b, on_handles);
}

/* --- the fleet ------------------------------------------------------------------------------- */

static bool read_fleet(const PGresult *r, struct fleet *f)
{
    if (!pg_shape(r, "iii") || PQntuples(r) != 1 || pg_get_i64(r, 0, 0) < -1) {
        return false;
    }
    *f = (struct fleet){ .least_retention = (int32_t)pg_get_i64(r, 0, 0),
                         .retention_differs = pg_get_i64(r, 0, 1) != 0,
                         .keyless = pg_get_i64(r, 0, 2) != 0 };
    return true;
}

static void on_fleet(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    struct fleet out = { 0 };
    enum err e = call_err(c, r);
    if (e == ERR_OK && !read_fleet(r->r[0], &out)) {
        e = malformed(c);
    }
    if (!c->op.cancelled) {
        c->done.fleet(c->op.arg, e, e == ERR_OK ? &out : NULL);
    }
    call_free(c);
}

struct op *index_fleet(struct index *ix, index_fleet_fn *done, void *arg)
{
    struct call *c = call_new("fleet", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.fleet = done;
    /* A min() or max() with no other condition is a look at the index's edge, whatever the
     * statistics say; so each stands alone. */
    pg_stmt(b, "SELECT coalesce(least((SELECT min(retention_days) FROM mailbox"
               "                        WHERE retention_days > 0),"
               "                      (SELECT min(read_days) FROM mailbox"
               "                        WHERE read_days >= 0)), -1),"
               "       (SELECT min(retention_days) FROM mailbox)"
               "       IS DISTINCT FROM (SELECT max(retention_days) FROM mailbox)"
               "    OR (SELECT min(read_days) FROM mailbox)"
               "       IS DISTINCT FROM (SELECT max(read_days) FROM mailbox),"
               "       coalesce((SELECT max(keyless) FROM account), 0)");
    return call_submit(ix, c, PG_READ, b, on_fleet);
}

static void on_announce(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    bool drain = false;
    enum err e = call_err_certain(c, r);
    if (e == ERR_OK && (!pg_shape(r->r[0], "i") || PQntuples(r->r[0]) != 1)) {
        e = malformed(c);
    } else if (e == ERR_OK) {
        drain = pg_get_i64(r->r[0], 0, 0) != 0;
    }
    if (!c->op.cancelled) {
        c->done.announce(c->op.arg, e, drain);
    }
    call_free(c);
}

/* Not among the reads, whose connections are shared: a row that somebody has locked would hold up
 * logins. */
struct op *index_announce(struct index *ix, const struct announcement *n, index_announce_fn *done,
                          void *arg)
{
    struct call *c = call_new("announce", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.announce = done;
    pg_stmt(b, "SELECT announce($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)");
    pg_text(b, span_str(n->name));
    pg_text(b, span_str(n->role));
    pg_text(b, span_str(n->version));
    pg_i64(b, n->schema);
    pg_i64(b, (int64_t)n->up_ms);
    pg_i64(b, (int64_t)n->every_ms);
    pg_i64(b, (int64_t)n->sessions);
    pg_i64(b, (int64_t)n->capacity);
    pg_i64(b, n->load);
    pg_bool(b, !*n->why);
    pg_text(b, span_str(n->why));
    pg_bool(b, n->stopped);
    pg_bool(b, n->draining);
    return call_submit(ix, c, PG_WRITE, b, on_announce);
}

/* --- the schema ------------------------------------------------------------------------------ */

static void on_schema(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    struct schema out;
    enum err e = call_err(c, r);
    if (e == ERR_OK && !schema_read(r->r[0], &out)) {
        e = malformed(c);
    }
    if (!c->op.cancelled) {
        c->done.schema(c->op.arg, e, e == ERR_OK ? &out : NULL);
    }
    call_free(c);
}

struct op *index_schema(struct index *ix, index_schema_fn *done, void *arg)
{
    struct call *c = call_new("schema", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.schema = done;
    pg_stmt(b, SCHEMA_SQL);
    return call_submit(ix, c, PG_READ, b, on_schema);
}

/* --- volumes ---------------------------------------------------------------------------------- */

enum {
    VOLUME_ID,
    VOLUME_UUID,
    VOLUME_URL,
    VOLUME_FANOUT,
    VOLUME_STATE,
    VOLUME_WEIGHT,
    VOLUME_FLOOR
};

static bool read_volume(const PGresult *r, int row, struct volume *v)
{
    int64_t id = pg_get_i64(r, row, VOLUME_ID), state = pg_get_i64(r, row, VOLUME_STATE);
    int64_t fanout = pg_get_i64(r, row, VOLUME_FANOUT);
    if (id <= 0 || id > UINT16_MAX || state < VOLUME_ACTIVE || state > VOLUME_DRAIN || fanout < 0 ||
        fanout > 4) {
        return false;
    }
    v->volume_id = (uint16_t)id;
    v->state = (enum volume_state)state;
    v->fanout = (unsigned)fanout;
    v->weight = (unsigned)pg_get_i64(r, row, VOLUME_WEIGHT);
    v->free_floor = (uint64_t)pg_get_i64(r, row, VOLUME_FLOOR);
    return read_text(r, row, VOLUME_UUID, v->uuid, sizeof v->uuid) &&
           read_text(r, row, VOLUME_URL, v->url, sizeof v->url);
}

static void on_volumes(void *arg, const struct pg_reply *r)
{
    struct call *c = arg;
    struct volume *v = NULL;
    size_t n = 0;
    enum err e = call_err(c, r);
    if (e == ERR_OK && !pg_shape(r->r[0], "ittiiii")) {
        e = malformed(c);
    }
    if (e == ERR_OK && !c->op.cancelled) {
        on_epoch(c->index, r->r[1]);
    }
    if (e == ERR_OK) {
        n = (size_t)PQntuples(r->r[0]);
        v = NEW_ARRAY(struct volume, n);
    }
    for (size_t i = 0; i < n && e == ERR_OK; i++) {
        if (!read_volume(r->r[0], (int)i, &v[i])) {
            e = malformed(c);
        }
    }
    if (!c->op.cancelled) {
        c->done.volumes(c->op.arg, e, e == ERR_OK ? v : NULL, e == ERR_OK ? n : 0);
    }
    free(v);
    call_free(c);
}

struct op *index_volumes(struct index *ix, index_volumes_fn *done, void *arg)
{
    struct call *c = call_new("volumes", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.volumes = done;
    pg_stmt(b, "SELECT volume_id, uuid::text, url, fanout, state, weight, free_floor"
               "  FROM volume ORDER BY volume_id");
    pg_stmt(b, "SELECT fleet_epoch()"); /* raised by hand, no connection is lost */
    return call_submit(ix, c, PG_READ, b, on_volumes);
}
