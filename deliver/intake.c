/*
 * intake: the steps of one message.
 *
 *   COLLECT     octets go to the milters' copy, or straight to the delivery
 *   FILTER      the milters were asked for their word on the whole
 *   QUARANTINE  who gets it instead is looked up
 *   WRITE       what the milters left goes to the delivery, piece by piece
 *   COMMIT      the delivery is under way
 *
 * The delivery is opened first, for its id is in the trace fields and is what milters are told; it
 * writes nothing before it has octets, so one that is refused has cost no file. A message that goes
 * to quarantine gets a delivery of its own.
 */
#include "intake.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "route.h"
#include "trace.h"

#define WRITE_PIECE     (256u * 1024)
#define ORIGINAL_TO_MAX (64u * 1024) /* octets of X-Original-To: fields in quarantine */

enum intake_step { STEP_COLLECT, STEP_FILTER, STEP_QUARANTINE, STEP_WRITE, STEP_COMMIT };

struct intake {
    struct intake_options o;
    intake_fn *fn;
    void *arg;
    enum intake_step step;
    struct delivery *delivery;
    struct op *route; /* in QUARANTINE */
    char *reverse_path;
    struct buf head;
    size_t written; /* octets of the milters' copy */
    bool full;      /* filter.memory is used up: the rest is eaten */
    bool elsewhere; /* in quarantine: no recipient's room matters */
};

static void intake_write(struct intake *in);

static void intake_free(struct intake *in)
{
    op_cancel(&in->route);
    delivery_abort(&in->delivery);
    buf_fini(&in->head);
    free(in->reverse_path);
    free(in);
}

static void intake_end(struct intake *in, const struct intake_result *r)
{
    in->fn(in->arg, INTAKE_DONE, r);
    intake_free(in);
}

static void intake_verdict(struct intake *in, enum smtp_verdict v, const struct filter_reply *reply)
{
    struct intake_result r = { .verdict = v, .reply = reply };
    intake_end(in, &r);
}

/* --- the delivery ---------------------------------------------------------------------------- */

static void delivery_done(struct intake *in, enum err e, const enum room *room)
{
    bool told = e == ERR_OK || e == ERR_LIMIT;
    struct intake_result r = { .verdict = SMTP_OK, .err = e, .room = room };
    in->delivery = NULL; /* gone after return */
    if (in->elsewhere) {
        r.verdict = e == ERR_OK ? SMTP_OK : SMTP_FAULT;
        r.room = NULL;
    } else if (!told) {
        r.verdict = SMTP_FAULT;
    }
    intake_end(in, &r);
}

static void on_delivery(void *arg, enum delivery_event ev, enum err e, const enum room *room,
                        size_t n)
{
    struct intake *in = arg;
    (void)n;
    if (ev == DELIVERY_DONE) {
        delivery_done(in, e, room);
    } else if (in->step == STEP_WRITE) {
        intake_write(in);
    } else {
        in->fn(in->arg, INTAKE_READY, NULL);
    }
}

static void intake_write(struct intake *in)
{
    struct span message = filter_message(in->o.filter);
    while (in->written < message.n) {
        struct span piece = span_first(span_skip(message, in->written), WRITE_PIECE);
        in->written += piece.n;
        if (!delivery_append(in->delivery, piece)) {
            return; /* DELIVERY_READY comes */
        }
    }
    in->step = STEP_COMMIT;
    delivery_commit(in->delivery);
}

static void begin_write(struct intake *in)
{
    in->step = STEP_WRITE;
    if (delivery_append(in->delivery, buf_span(&in->head))) {
        intake_write(in);
    }
}

/* --- quarantine ------------------------------------------------------------------------------ */

static enum err reopen(struct intake *in, struct route_mailbox *mailboxes, size_t n)
{
    struct envelope_recipient *to = NEW_ARRAY(struct envelope_recipient, n);
    for (size_t i = 0; i < n; i++) {
        to[i] = (struct envelope_recipient){ .mailbox_id = mailboxes[i].mailbox_id,
                                             .address = span_str(mailboxes[i].address) };
    }
    delivery_abort(&in->delivery);
    enum err e =
        delivery_open(in->o.store, in->o.reverse_path, to, n, true, on_delivery, in, &in->delivery);
    free(to);
    return e;
}

/* Whom it was for: the operator who lets it go must know. What is past the bound is left out. */
static void add_original_to(struct intake *in)
{
    for (size_t i = 0; i < in->o.n; i++) {
        if (buf_addf(&in->head, "X-Original-To: <%.*s>\r\n", SPAN_ARG(in->o.to[i].address)) !=
            ERR_OK) {
            return;
        }
    }
}

static void on_quarantine(void *arg, enum smtp_verdict v, struct route_mailbox **mailboxes,
                          size_t n)
{
    struct intake *in = arg;
    in->route = NULL;
    if (v != SMTP_OK) {
        LOG(LOG_ERROR, "filter.quarantine", F_STR("address", in->o.quarantine),
            F_STR("why", smtp_verdict_text(v)));
        intake_verdict(in, SMTP_FAULT, NULL);
        return;
    }
    in->elsewhere = true;
    if (reopen(in, *mailboxes, n) != ERR_OK) {
        intake_verdict(in, SMTP_FAULT, NULL);
    } else {
        stats_add(STAT_filter_quarantined, 1);
        add_original_to(in);
        begin_write(in);
    }
}

static void begin_quarantine(struct intake *in)
{
    static const struct filter_reply refused = { .code = 550,
                                                 .enhanced = "5.7.1",
                                                 .text = "Message refused by content filter" };
    struct address to;
    if (!*in->o.quarantine) {
        intake_verdict(in, SMTP_FILTERED, &refused);
        return;
    }
    if (address_parse(span_str(in->o.quarantine), &to) != ERR_OK) {
        LOG(LOG_ERROR, "filter.quarantine", F_STR("address", in->o.quarantine),
            F_STR("why", "not an address"));
        intake_verdict(in, SMTP_FAULT, NULL);
        return;
    }
    struct route_options o = { .hostname = in->o.hostname, .max = 100 };
    in->step = STEP_QUARANTINE;
    in->route = route_resolve(in->o.store, &to, &o, on_quarantine, in);
}

/* --- the milters ----------------------------------------------------------------------------- */

void intake_filtered(struct intake *in, enum filter_verdict v, const struct filter_reply *reply)
{
    CHECK(in->step == STEP_FILTER);
    stats_add(STAT_filter_messages, 1);
    switch (v) {
    case FILTER_ACCEPT:
        begin_write(in);
        return;
    case FILTER_QUARANTINE:
        begin_quarantine(in);
        return;
    case FILTER_DISCARD:
        intake_verdict(in, SMTP_DISCARDED, NULL);
        return;
    case FILTER_REFUSE:
    case FILTER_DEFER:
    case FILTER_CLOSE:
        stats_add(STAT_filter_refused, 1);
        intake_verdict(in, SMTP_FILTERED, reply);
        return;
    }
    UNREACHABLE();
}

/* --- the session's side ---------------------------------------------------------------------- */

enum err intake_open(const struct intake_options *o, intake_fn *fn, void *arg, struct intake **out)
{
    struct intake *in = NEW(struct intake);
    in->o = *o;
    in->fn = fn;
    in->arg = arg;
    in->reverse_path = span_dup(o->reverse_path);
    in->o.reverse_path = span_str(in->reverse_path);
    buf_init(&in->head, TRACE_MAX + ORIGINAL_TO_MAX);
    enum err e = delivery_open(o->store, o->reverse_path, o->to, o->n, o->all_or_nothing,
                               on_delivery, in, &in->delivery);
    if (e != ERR_OK) {
        intake_free(in);
        return e;
    }
    *out = in;
    return ERR_OK;
}

const struct blob_id *intake_id(const struct intake *in)
{
    return delivery_id(in->delivery);
}

bool intake_head(struct intake *in, struct span octets)
{
    if (!in->o.filter) {
        return delivery_append(in->delivery, octets);
    }
    CHECK(buf_add(&in->head, octets) == ERR_OK);
    return true;
}

bool intake_append(struct intake *in, struct span octets)
{
    if (!in->o.filter) {
        return delivery_append(in->delivery, octets);
    }
    in->full = in->full || filter_append(in->o.filter, octets) != ERR_OK;
    return true;
}

enum err intake_commit(struct intake *in)
{
    char id[BLOB_ID_CHARS + 1];
    if (in->full) {
        return ERR_LIMIT;
    }
    if (in->o.filter) {
        blob_id_text(delivery_id(in->delivery), id);
        in->step = STEP_FILTER;
        filter_end(in->o.filter, span_str(id));
    } else {
        in->step = STEP_COMMIT;
        delivery_commit(in->delivery);
    }
    return ERR_OK;
}

void intake_abort(struct intake **in)
{
    if (*in) {
        intake_free(*in);
        *in = NULL;
    }
}
