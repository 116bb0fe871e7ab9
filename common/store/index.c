/*
 * index: the statements of the mail path, their arguments and what comes back; but for those that
 * are gathered, which are in index_deliver.c (a delivery's pointers) and index_read.c (addresses
 * and lists).
 *
 * Each call allocates one struct call, which embeds the op that the caller holds; it is freed when
 * the batch has been answered, whether or not the caller still listens. What the server sends is
 * checked column by column: a result of another shape is ERR_CORRUPT and a line in the log. Faults
 * of any kind become TEMP here, so that nobody takes a missing function for a missing mailbox.
 */
#include "store/index_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/log.h"

#define WAIT_DEFAULT_MS 20000

struct call {
    struct op op;
    struct index *index;
    const char *what; /* for logs */
    union {
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
    free(c);
}

static struct op *call_submit(struct index *ix, struct call *c, enum pg_lane lane,
                              struct pg_batch *b, pg_done_fn *on_answer)
{
    c->index = ix;
    pg_submit(ix->pg, lane, &b, on_answer, c);
    return &c->op;
}

enum err index_malformed(const char *what, uint64_t mailbox_id)
{
    LOG(LOG_ERROR, "db.malformed", F_STR("call", what), F_U64("mailbox", mailbox_id));
    return ERR_CORRUPT;
}

enum err index_err(const char *what, uint64_t mailbox_id, const struct pg_reply *r)
{
    bool raised = r->sqlstate[0] != '\0';
    if (r->err == ERR_OK || r->err == ERR_UNCERTAIN || r->err == ERR_NOTFOUND ||
        (r->err == ERR_LIMIT && raised)) {
        return r->err;
    }
    if (raised) {
        LOG(LOG_ERROR, "db.refused", F_STR("call", what), F_U64("mailbox", mailbox_id),
            F_STR("sqlstate", r->sqlstate), F_STR("message", r->message));
    }
    return ERR_TEMP;
}

static enum err malformed(const struct call *c)
{
    return index_malformed(c->what, c->mailbox_id);
}

static enum err call_err(const struct call *c, const struct pg_reply *r)
{
    return index_err(c->what, c->mailbox_id, r);
}

/* Calls whose outcome does no harm when it is not known. */
static enum err call_err_certain(const struct call *c, const struct pg_reply *r)
{
    enum err e = call_err(c, r);
    return e == ERR_UNCERTAIN ? ERR_TEMP : e;
}

int64_t index_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void add_mailbox(struct pg_batch *b, uint64_t mailbox_id)
{
    pg_i64(b, (int64_t)mailbox_id);
}

bool index_read_text(const PGresult *r, int row, int col, char *out, size_t size)
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
    ix->gather = o->gather;
    ix->wait_ms = o->wait_ms ? o->wait_ms : WAIT_DEFAULT_MS;
    ix->loop = l;
    list_init(&ix->waiting);
    list_init(&ix->lookups.waiting);
    list_init(&ix->lists.waiting);
    list_init(&ix->turn.link);
    ix->turn.run = index_gather;
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
    struct pg *pg = ix->pg; /* who hears that his call has ended may still make another */
    *pix = NULL;
    ix->gather = 1; /* nobody waits here any more: pg ends all that it has, and gets meanwhile */
    index_release(ix);
    pg_close(&pg);
    list_del(&ix->turn.link);
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

/* --- room ------------------------------------------------------------------------------------- */

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

bool index_read_room(const PGresult *r, int row, int col, enum room *out)
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
        if (!pg_shape(one, "i") || (PQntuples(one) > 0 && !index_read_room(one, 0, 0, &room[i]))) {
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
static void add_pointers(struct pg_batch *b, const struct pointer *msgs, size_t n)
{
    int64_t *seqs = NEW_ARRAY(int64_t, n);
    struct blob_id *ids = NEW_ARRAY(struct blob_id, n);
    for (size_t i = 0; i < n; i++) {
        seqs[i] = (int64_t)msgs[i].seq;
        ids[i] = msgs[i].id;
    }
    pg_i64s(b, seqs, n);
    pg_uuids(b, ids, n);
    free(seqs);
    free(ids);
}

struct op *index_expunge(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                         size_t n, uint64_t grace_ms, struct span by, index_done_fn *done,
                         void *arg)
{
    struct call *c = call_new("expunge", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT expunge($1, $2, $3, $4, $5, $6)");
    add_mailbox(b, mailbox_id);
    add_pointers(b, msgs, n);
    pg_i64(b, index_now_ms());
    pg_i64(b, (int64_t)grace_ms);
    pg_text(b, by);
    return call_submit(ix, c, PG_WRITE, b, on_changed);
}

struct op *index_mark_read(struct index *ix, uint64_t mailbox_id, const struct pointer *msgs,
                           size_t n, index_done_fn *done, void *arg)
{
    struct call *c = call_new("mark_read", arg);
    struct pg_batch *b = pg_batch_new();
    c->done.done = done;
    c->mailbox_id = mailbox_id;
    pg_stmt(b, "SELECT mark_read($1, $2, $3, $4)");
    add_mailbox(b, mailbox_id);
    add_pointers(b, msgs, n);
    pg_i64(b, index_now_ms());
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
    pg_i64(b, index_now_ms());
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
    if (id <= 0 || id > UINT16_MAX || state < VOLUME_ACTIVE || state > VOLUME_CLOSED ||
        fanout < 0 || fanout > 4) {
        return false;
    }
    v->volume_id = (uint16_t)id;
    v->state = (enum volume_state)state;
    v->fanout = (unsigned)fanout;
    v->weight = (unsigned)pg_get_i64(r, row, VOLUME_WEIGHT);
    v->free_floor = (uint64_t)pg_get_i64(r, row, VOLUME_FLOOR);
    return index_read_text(r, row, VOLUME_UUID, v->uuid, sizeof v->uuid) &&
           index_read_text(r, row, VOLUME_URL, v->url, sizeof v->url);
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
