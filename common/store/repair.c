/*
 * repair: rounds of statements.
 *
 *   waiting   pointers gather here, until the timer fires
 *   round     what had gathered then, by mailbox; a statement for each, one after the other
 *
 * So a session that reads 500 messages costs a statement a moment; and after a restore, when every
 * reading brings a pointer, each worker uses one write connection for it and no more. While a round
 * is under way the next one gathers. A statement that fails is dropped and a pause follows, so that
 * a database in trouble is left alone, and the log gets one line a pause.
 *
 * The cached list of the mailbox keeps the old handles: there is no tombstone around this commit,
 * as there is around any other change of pointers. Tombstones keep a list away that names other
 * messages than the mailbox has; this one names the same, and a handle is a hint, which the spool
 * checks. What an old one costs is what it cost before the repair, and for no longer than
 * cache.list_ttl. Tombstones, though, would send each mailbox's polls to the database for
 * cache.tombstone_ttl, again and again, just when a restored volume makes the whole fleet repair.
 */
#include "store/repair.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"

struct fix {
    uint64_t mailbox_id;
    struct pointer pointer;
    size_t handle_len;
    char handle[HANDLE_MAX];
};

struct repair {
    struct index *index;
    struct repair_options options;
    uv_timer_t timer; /* gathering, or a pause: when the next statement is sent */
    struct op *op;    /* the statement under way */
    struct fix *waiting, *round;
    size_t n_waiting, n_round;
    size_t next; /* of the round: the first that was not sent yet */
};

static size_t todo(const struct repair *r)
{
    return r->n_waiting + (r->n_round - r->next);
}

/* --- a round ---------------------------------------------------------------------------------- */

static int by_mailbox(const void *a, const void *b)
{
    uint64_t x = ((const struct fix *)a)->mailbox_id, y = ((const struct fix *)b)->mailbox_id;
    return (x > y) - (x < y);
}

static void begin_round(struct repair *r)
{
    free(r->round);
    r->round = r->waiting;
    r->n_round = r->n_waiting;
    r->next = 0;
    r->waiting = NULL;
    r->n_waiting = 0;
    qsort(r->round, r->n_round, sizeof *r->round, by_mailbox);
}

static void on_timer(uv_timer_t *t);
static void on_repaired(void *arg, enum err e, size_t changed);

/* All of the round's next mailbox. */
static void send_next(struct repair *r)
{
    const struct fix *first = &r->round[r->next];
    struct pointer *msgs = NEW_ARRAY(struct pointer, r->n_round - r->next);
    struct span *handles = NEW_ARRAY(struct span, r->n_round - r->next);
    size_t n = 0;
    for (; r->next < r->n_round && r->round[r->next].mailbox_id == first->mailbox_id; r->next++) {
        msgs[n] = first[n].pointer;
        handles[n] = span_of(first[n].handle, first[n].handle_len);
        n++;
    }
    r->op = index_set_handles(r->index, first->mailbox_id, msgs, handles, n, on_repaired, r);
    free(msgs);
    free(handles);
}

static void on_repaired(void *arg, enum err e, size_t changed)
{
    struct repair *r = arg;
    r->op = NULL;
    stats_add(STAT_spool_handles_repaired, changed);
    if (e != ERR_OK) {
        LOG(LOG_WARN, "handles.unrepaired", F_U64("mailbox", r->round[r->next - 1].mailbox_id),
            F_U64("waiting", todo(r)), F_ERR(e));
        uv_timer_start(&r->timer, on_timer, r->options.pause_ms, 0);
    } else if (r->next < r->n_round) {
        send_next(r);
    } else if (r->n_waiting > 0) {
        uv_timer_start(&r->timer, on_timer, r->options.gather_ms, 0);
    }
}

/* After a pause the rest of a round may be left, or nothing at all. */
static void on_timer(uv_timer_t *t)
{
    struct repair *r = t->data;
    if (r->next == r->n_round && r->n_waiting > 0) {
        begin_round(r);
    }
    if (r->next < r->n_round) {
        send_next(r);
    }
}

/* --- outside ---------------------------------------------------------------------------------- */

struct repair *repair_open(struct loop *l, struct index *ix, const struct repair_options *o)
{
    struct repair *r = NEW(struct repair);
    r->index = ix;
    r->options = *o;
    CHECK(uv_timer_init(loop_uv(l), &r->timer) == 0);
    r->timer.data = r;
    return r;
}

static void on_closed(uv_handle_t *h)
{
    struct repair *r = h->data;
    free(r->waiting);
    free(r->round);
    free(r);
}

void repair_close(struct repair **pr)
{
    struct repair *r = *pr;
    *pr = NULL;
    op_cancel(&r->op);
    uv_close((uv_handle_t *)&r->timer, on_closed);
}

/* The place of a message that waits already: it is read again and again until lists are fresh. */
static struct fix *find(const struct repair *r, uint64_t mailbox_id, const struct pointer *p)
{
    for (size_t i = 0; i < r->n_waiting; i++) {
        struct fix *f = &r->waiting[i];
        if (f->mailbox_id == mailbox_id && f->pointer.seq == p->seq &&
            blob_id_eq(&f->pointer.id, &p->id)) {
            return f;
        }
    }
    return NULL;
}

static struct fix *find_or_add(struct repair *r, uint64_t mailbox_id, const struct pointer *p)
{
    struct fix *f = find(r, mailbox_id, p);
    if (f || todo(r) == REPAIRS_MAX) {
        return f;
    }
    if (!r->waiting) {
        r->waiting = NEW_ARRAY(struct fix, REPAIRS_MAX);
    }
    return &r->waiting[r->n_waiting++];
}

void repair_add(struct repair *r, uint64_t mailbox_id, const struct pointer *p, struct span handle)
{
    CHECK(handle.n > 0 && handle.n <= HANDLE_MAX);
    struct fix *f = find_or_add(r, mailbox_id, p);
    if (!f) {
        return;
    }
    f->mailbox_id = mailbox_id;
    f->pointer = *p;
    f->handle_len = handle.n;
    memcpy(f->handle, handle.p, handle.n);
    if (!r->op && !uv_is_active((uv_handle_t *)&r->timer)) {
        uv_timer_start(&r->timer, on_timer, r->options.gather_ms, 0);
    }
}
