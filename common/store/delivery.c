/*
 * delivery: one message into the spool and its pointers into the database, as one walk of steps:
 *
 *   OPEN      octets go to the spool's writer
 *   WRITING   delivery_commit was called: the file is being made durable, the cached lists get
 *             their first tombstone meanwhile
 *   COMMIT    the pointer transaction is under way
 *   SETTLE    its outcome is not known: the database is asked until it can tell
 *   FORGET    the second tombstone
 *
 * Crash safety: up to COMMIT a loss leaves an orphan file and nothing answered; from COMMIT on the
 * tombstone of WRITING keeps old lists out of the cache, whoever dies. Nothing here unlinks: a file
 * that was begun and given up becomes a ledger row, or an orphan when that fails too.
 *
 * The delivery owns its copies of the envelope's mailboxes and the spool's writer. It frees itself
 * after DONE, or when the work that an abort left behind has ended.
 */
#include <stdlib.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/stats.h"
#include "store/store_parts.h"

#define SETTLE_EVERY_MS 1000
#define SETTLE_TRIES    60 /* a fail-over takes up to half a minute; senders wait for ten */

enum delivery_step { STEP_OPEN, STEP_WRITING, STEP_COMMIT, STEP_SETTLE, STEP_FORGET };

struct delivery {
    struct store *store;
    delivery_fn *fn; /* NULL once nobody listens */
    void *arg;
    enum delivery_step step;
    bool all_or_nothing;
    bool past_limits;
    struct spool_writer *writer;
    struct blob_id id;
    struct pointer pointer;
    char handle[HANDLE_MAX];
    size_t handle_len;
    bool written, tombstoned; /* the two that COMMIT waits for */
    enum err err;
    enum room *room;
    uint64_t *mailboxes;
    size_t n;
    size_t settled; /* mailboxes already asked about */
    bool committed; /* one of them has the message */
    unsigned tries;
    uv_timer_t timer; /* between the tries of SETTLE */
};

static void delivery_settle(struct delivery *d);

static void on_delivery_timer_closed(uv_handle_t *h)
{
    struct delivery *d = h->data;
    free(d->mailboxes);
    free(d->room);
    free(d);
}

static void delivery_end(struct delivery *d, enum err e)
{
    if (e == ERR_OK) {
        stats_add(STAT_smtp_deliveries, d->n);
    }
    fault_at(FAULT_deliver_before_reply);
    if (d->fn) {
        d->fn(d->arg, DELIVERY_DONE, e, d->room, d->n);
    }
    uv_close((uv_handle_t *)&d->timer, on_delivery_timer_closed);
}

static void delivery_log(const struct delivery *d, enum log_level level, const char *event,
                         enum err e)
{
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(&d->id, id);
    LOG(level, event, F_STR("id", id), F_U64("mailboxes", d->n), F_ERR(e));
}

/* --- FORGET ---------------------------------------------------------------------------------- */

static void on_delivery_forgotten(void *arg, enum err e)
{
    struct delivery *d = arg;
    (void)e;
    delivery_end(d, d->err);
}

static void delivery_forget(struct delivery *d, enum err e)
{
    d->step = STEP_FORGET;
    d->err = e;
    store_drop_lists(d->store, d->mailboxes, d->n, on_delivery_forgotten, d);
}

/* Nothing was committed, or ever will be: the file is garbage. */
static void delivery_discard(struct delivery *d)
{
    index_discard(d->store->index, d->mailboxes[0], &d->pointer, d->store->grace_ms,
                  SPAN("delivery refused"), NULL, NULL);
}

/* --- SETTLE ---------------------------------------------------------------------------------- */

static void on_settle_timer(uv_timer_t *t)
{
    delivery_settle(t->data);
}

static void delivery_unsettled(struct delivery *d, enum err e)
{
    if (++d->tries < SETTLE_TRIES) {
        uv_timer_start(&d->timer, on_settle_timer, SETTLE_EVERY_MS, 0);
    } else {
        delivery_log(d, LOG_ERROR, "delivery.unsettled", e);
        delivery_forget(d, ERR_TEMP);
    }
}

/*
 * The lowest mailbox first: its lock is the first that the transaction takes for this message
 * (index_deliver), so the question waits behind a transaction that is still under way, and those
 * after it are answered for good.
 */
static size_t settle_place(const struct delivery *d)
{
    size_t low = 0;
    for (size_t i = 1; i < d->n; i++) {
        low = d->mailboxes[i] < d->mailboxes[low] ? i : low;
    }
    if (d->settled == 0) {
        return low;
    }
    return d->settled - 1 < low ? d->settled - 1 : d->settled;
}

/*
 * A transaction is whole or not at all, so with all_or_nothing one mailbox tells for all. With LMTP
 * one of them may have been refused in it: each is asked, so that none is told 250 for nothing.
 */
static void on_delivery_settled(void *arg, enum err e)
{
    struct delivery *d = arg;
    if (e != ERR_OK && e != ERR_NOTFOUND) {
        delivery_unsettled(d, e);
        return;
    }
    d->committed = d->committed || e == ERR_OK;
    d->room[settle_place(d)] = e == ERR_OK ? ROOM_OK : ROOM_OVER_QUOTA;
    d->settled++;
    if (!d->all_or_nothing && d->settled < d->n) {
        delivery_settle(d);
        return;
    }
    e = d->committed ? ERR_OK : ERR_TEMP;
    delivery_log(d, LOG_INFO, "delivery.settled", e);
    if (!d->committed) {
        delivery_discard(d);
    }
    delivery_forget(d, e);
}

static void delivery_settle(struct delivery *d)
{
    index_delivered(d->store->index, d->mailboxes[settle_place(d)], &d->id, on_delivery_settled, d);
}

/* --- COMMIT ---------------------------------------------------------------------------------- */

/* No pointer was committed: the file is garbage. */
static void delivery_refused(struct delivery *d, enum err e)
{
    delivery_discard(d);
    delivery_end(d, e);
}

static void on_delivery_committed(void *arg, enum err e, const enum room *room, size_t n)
{
    struct delivery *d = arg;
    if (room) {
        CHECK(n == d->n);
        memcpy(d->room, room, n * sizeof *room);
    }
    switch (e) {
    case ERR_OK:
        fault_at(FAULT_deliver_committed);
        delivery_forget(d, ERR_OK);
        break;
    case ERR_UNCERTAIN:
        stats_add(STAT_smtp_uncertain, 1);
        delivery_log(d, LOG_WARN, "delivery.uncertain", e);
        d->step = STEP_SETTLE;
        delivery_settle(d);
        break;
    case ERR_BUSY:
        /* Removed since the file was begun there, which this node should know by now. */
        delivery_log(d, LOG_WARN, "delivery.volume_closed", e);
        store_ask_volumes(d->store);
        delivery_refused(d, ERR_TEMP);
        break;
    default:
        delivery_refused(d, e == ERR_LIMIT ? ERR_LIMIT : ERR_TEMP);
    }
}

static void delivery_try_commit(struct delivery *d)
{
    if (!d->written || !d->tombstoned) {
        return;
    }
    fault_at(FAULT_deliver_file_written);
    d->step = STEP_COMMIT;
    if (d->past_limits) {
        index_deliver_past_limits(d->store->index, &d->pointer, span_of(d->handle, d->handle_len),
                                  d->mailboxes[0], d->store->grace_ms, on_delivery_committed, d);
        return;
    }
    index_deliver(d->store->index, &d->pointer, span_of(d->handle, d->handle_len), d->mailboxes,
                  d->n, d->all_or_nothing, d->store->grace_ms, on_delivery_committed, d);
}

/* --- OPEN and WRITING ------------------------------------------------------------------------ */

static void on_delivery_tombstoned(void *arg, enum err e)
{
    struct delivery *d = arg;
    (void)e; /* retried by the cache in the background */
    d->tombstoned = true;
    if (!d->writer && !d->written) {
        delivery_end(d, ERR_TEMP); /* the file failed first */
    } else {
        delivery_try_commit(d);
    }
}

static void delivery_write_failed(struct delivery *d, enum err e, const struct pointer *orphan)
{
    d->writer = NULL;
    if (orphan) {
        index_discard(d->store->index, d->mailboxes[0], orphan, d->store->grace_ms,
                      SPAN("file not written"), NULL, NULL);
    }
    delivery_log(d, LOG_WARN, "delivery.unwritten", e);
    /* In OPEN the owner learns it at delivery_commit, in WRITING the tombstone may be under way. */
    if (d->step == STEP_WRITING && d->tombstoned) {
        delivery_end(d, ERR_TEMP);
    } else if (d->step == STEP_OPEN && d->fn) {
        d->fn(d->arg, DELIVERY_READY, ERR_OK, NULL, 0); /* it may be waiting */
    }
}

static void on_delivery_spool(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                              struct span handle)
{
    struct delivery *d = arg;
    switch (ev) {
    case SPOOL_READY:
        d->fn(d->arg, DELIVERY_READY, ERR_OK, NULL, 0);
        break;
    case SPOOL_WRITTEN:
        CHECK(handle.n <= HANDLE_MAX);
        d->writer = NULL;
        d->written = true;
        d->pointer = *p;
        d->handle_len = handle.n;
        memcpy(d->handle, handle.n ? handle.p : "", handle.n);
        delivery_try_commit(d);
        break;
    case SPOOL_FAILED:
        delivery_write_failed(d, e, p);
        break;
    }
}

enum err delivery_open(struct store *s, struct span reverse_path,
                       const struct envelope_recipient *to, size_t n, bool all_or_nothing,
                       delivery_fn *fn, void *arg, struct delivery **out)
{
    CHECK(n > 0);
    struct delivery *d = NEW(struct delivery);
    const struct spool_message m = { .reverse_path = reverse_path, .to = to, .n = n };
    enum err e = spool_create(s->spool, &m, on_delivery_spool, d, &d->writer);
    if (e != ERR_OK) {
        free(d);
        return e;
    }
    d->store = s;
    d->fn = fn;
    d->arg = arg;
    d->all_or_nothing = all_or_nothing;
    d->id = *spool_writer_id(d->writer);
    d->n = n;
    d->mailboxes = NEW_ARRAY(uint64_t, n);
    d->room = NEW_ARRAY(enum room, n);
    for (size_t i = 0; i < n; i++) {
        d->mailboxes[i] = to[i].mailbox_id;
    }
    CHECK(uv_timer_init(loop_uv(s->loop), &d->timer) == 0);
    d->timer.data = d;
    *out = d;
    return ERR_OK;
}

void delivery_past_limits(struct delivery *d)
{
    CHECK(d->step == STEP_OPEN && d->n == 1);
    d->past_limits = true;
}

const struct blob_id *delivery_id(const struct delivery *d)
{
    return &d->id;
}

uint16_t delivery_volume(const struct delivery *d)
{
    return d->pointer.volume;
}

bool delivery_append(struct delivery *d, struct span octets)
{
    CHECK(d->step == STEP_OPEN);
    return d->writer ? spool_append(d->writer, octets) : true;
}

void delivery_commit(struct delivery *d)
{
    CHECK(d->step == STEP_OPEN);
    d->step = STEP_WRITING;
    store_drop_lists(d->store, d->mailboxes, d->n, on_delivery_tombstoned, d);
    if (d->writer) {
        spool_finish(d->writer);
    }
}

void delivery_abort(struct delivery **pd)
{
    struct delivery *d = *pd;
    if (!d) {
        return;
    }
    *pd = NULL;
    d->fn = NULL;
    if (d->step != STEP_OPEN) {
        return;
    }
    struct pointer orphan;
    if (d->writer && spool_abort(&d->writer, &orphan)) {
        index_discard(d->store->index, d->mailboxes[0], &orphan, d->store->grace_ms,
                      SPAN("delivery given up"), NULL, NULL);
    }
    uv_close((uv_handle_t *)&d->timer, on_delivery_timer_closed);
}
