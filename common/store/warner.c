/*
 * warner: makes the warning of a mailbox and delivers it there, as any other message is: a file and
 * a pointer. The limits do not hold for it, and it warns of nothing itself.
 *
 *   ask      who the owner is and how full the mailbox is now; nothing is said when that is less
 *   deliver  to this mailbox alone, with the null reverse-path
 *
 * The database noted with the delivery that crossed the threshold that it is told: so a node that
 * dies on the way, or a spool that is down, loses a warning, and none comes twice. Nobody waits for
 * it. A job owns itself until its delivery has ended; there is a bound on how many.
 */
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/stats.h"
#include "store/store_parts.h"
#include "store/warning.h"

#define WARNINGS_MOST 256 /* under way; more mailboxes at once is a fault of something else */

struct warner {
    struct store *store;
    uint64_t mailbox_id;
    unsigned threshold;
    struct delivery *delivery;
};

static void warner_end(struct warner *j, enum err e)
{
    if (e == ERR_OK) {
        stats_add(STAT_quota_warnings, 1);
        LOG(LOG_INFO, "quota.warned", F_U64("mailbox", j->mailbox_id),
            F_U64("threshold", j->threshold));
    } else {
        LOG(LOG_WARN, "quota.unwarned", F_U64("mailbox", j->mailbox_id),
            F_U64("threshold", j->threshold), F_ERR(e));
    }
    j->store->warnings--;
    free(j);
}

static void on_delivery(void *arg, enum delivery_event ev, enum err e, const enum room *room,
                        size_t n)
{
    struct warner *j = arg;
    (void)n;
    if (ev == DELIVERY_DONE) {
        warner_end(j, e == ERR_OK && room[0] != ROOM_OK ? ERR_NOTFOUND : e);
    }
}

#define PER_CENT_MOST 32000 /* as filled() of the schema has it */

/* 0 without a limit. */
static unsigned per_cent_of(uint64_t used, uint64_t limit)
{
    uint64_t n = limit ? used * 100 / limit : 0;
    return n < PER_CENT_MOST ? (unsigned)n : PER_CENT_MOST;
}

/* Of the kind of limit that the mailbox is nearer to. */
static void fill_warning(const struct usage *u, struct warning *w)
{
    unsigned octets = per_cent_of(u->octets, u->max_octets);
    unsigned messages = per_cent_of(u->messages, u->max_messages);
    w->messages = messages > octets;
    w->per_cent = w->messages ? messages : octets;
    w->used = w->messages ? u->messages : u->octets;
    w->limit = w->messages ? u->max_messages : u->max_octets;
}

static void deliver(struct warner *j, struct warning *w)
{
    struct store *s = j->store;
    const struct envelope_recipient to = { .mailbox_id = j->mailbox_id, .address = w->address };
    struct buf text;
    enum err e = delivery_open(s, SPAN(""), &to, 1, false, on_delivery, j, &j->delivery);
    if (e != ERR_OK) {
        warner_end(j, e);
        return;
    }
    w->id = delivery_id(j->delivery);
    w->unix_seconds = blob_id_time(w->id) / 1000;
    buf_init(&text, WARNING_MAX);
    e = warning_write(w, &text);
    if (e == ERR_OK) {
        delivery_past_limits(j->delivery);
        delivery_append(j->delivery, buf_span(&text));
        delivery_commit(j->delivery);
    } else {
        delivery_abort(&j->delivery);
        warner_end(j, e);
    }
    buf_fini(&text);
}

/* NOTFOUND: it was suspended or removed meanwhile. */
static void on_usage(void *arg, enum err e, const struct usage *u)
{
    struct warner *j = arg;
    if (e != ERR_OK) {
        warner_end(j, e);
        return;
    }
    struct warning w = { .text = j->store->warning,
                         .address = u->address,
                         .hostname = span_str(j->store->hostname) };
    fill_warning(u, &w);
    if (w.per_cent < j->threshold) {
        warner_end(j, ERR_NOTFOUND);
        return;
    }
    deliver(j, &w);
}

void store_warn(struct store *s, uint64_t mailbox_id, unsigned threshold)
{
    struct warner *j = NEW(struct warner);
    *j = (struct warner){ .store = s, .mailbox_id = mailbox_id, .threshold = threshold };
    if (s->warnings++ >= WARNINGS_MOST) {
        warner_end(j, ERR_LIMIT);
        return;
    }
    index_usage(s->index, mailbox_id, on_usage, j);
}
