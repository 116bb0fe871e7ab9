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
#include "route.h"
#include "trace.h"

#define WRITE_PIECE     (256u * 1024)
#define ORIGINAL_TO_MAX (64u * 1024) /* octets of X-Original-To: fields in quarantine */
/* That filter.quarantine may lead to: it is the operator's own alias. */
#define QUARANTINE_ADDRESSES 100

enum intake_step { STEP_COLLECT, STEP_FILTER, STEP_QUARANTINE, STEP_WRITE, STEP_COMMIT };

struct intake {
    struct intake_options o;
    intake_fn *fn;
    void *arg;
    enum intake_step step;
    struct delivery *delivery;
    struct blob_id id;      /* that the trace fields have; a quarantine's delivery has another */
    struct op *route;       /* in QUARANTINE */
    const char *quarantine; /* whom it is for then; the configuration's */
    struct buf return_path; /* for the time after the milters: what goes in front of all */
    struct buf received;
    struct span parts[3]; /* in WRITE: what is in front, and what the milters left */
    size_t written;       /* octets of them */
    bool elsewhere;       /* in quarantine: no recipient's room matters */
};

static void intake_write(struct intake *in);

static void intake_free(struct intake *in)
{
    op_cancel(&in->route);
    delivery_abort(&in->delivery);
    buf_fini(&in->return_path);
    buf_fini(&in->received);
    free(in);
}

static void intake_verdict(struct intake *in, enum smtp_verdict v)
{
    struct intake_result r = { .verdict = v };
    in->fn(in->arg, INTAKE_DONE, &r);
    intake_free(in);
}

/* --- the delivery ---------------------------------------------------------------------------- */

static void delivery_done(struct intake *in, enum err e, const enum room *room)
{
    bool told = e == ERR_OK || e == ERR_LIMIT;
    struct intake_result r = { .verdict = told ? SMTP_OK : SMTP_FAULT, .err = e, .room = room };
    if (e == ERR_OK) {
        r.stored = delivery_id(in->delivery);
        r.volume = delivery_volume(in->delivery);
    }
    if (in->elsewhere) {
        r.verdict = e == ERR_OK ? SMTP_OK : SMTP_FAULT;
        r.room = NULL;
    }
    in->fn(in->arg, INTAKE_DONE, &r);
    in->delivery = NULL; /* gone after return */
    intake_free(in);
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

/* The next piece of what is to be written, from in->written on; empty at the end. */
static struct span next_piece(const struct intake *in)
{
    size_t before = in->written;
    for (size_t i = 0; i < ARRAY_LEN(in->parts); i++) {
        if (before < in->parts[i].n) {
            return span_first(span_skip(in->parts[i], before), WRITE_PIECE);
        }
        before -= in->parts[i].n;
    }
    return SPAN("");
}

static void intake_write(struct intake *in)
{
    struct span piece;
    while ((piece = next_piece(in)).n > 0) {
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
    in->parts[0] = buf_span(&in->return_path);
    filter_message(in->o.filter, &in->parts[1], &in->parts[2]);
    intake_write(in);
}

/* --- quarantine ------------------------------------------------------------------------------ */

/* Its id names the message until another does. */
static enum err reopen(struct intake *in, const struct route_mailbox *mailboxes, size_t n)
{
    struct envelope_recipient *to = NEW_ARRAY(struct envelope_recipient, n);
    struct delivery *d;
    for (size_t i = 0; i < n; i++) {
        to[i] = (struct envelope_recipient){ .mailbox_id = mailboxes[i].mailbox_id,
                                             .address = span_str(mailboxes[i].address) };
    }
    enum err e = delivery_open(in->o.store, in->o.reverse_path, to, n, true, on_delivery, in, &d);
    free(to);
    if (e == ERR_OK) {
        delivery_abort(&in->delivery);
        in->delivery = d;
    }
    return e;
}

/* Whom it was for: the operator who lets it go must know. What is past the bound is left out. */
static void add_original_to(struct intake *in)
{
    for (size_t i = 0; i < in->o.n; i++) {
        if (buf_addf(&in->return_path, "X-Original-To: <%.*s>\r\n",
                     SPAN_ARG(in->o.to[i].address)) != ERR_OK) {
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
        LOG(LOG_ERROR, "filter.quarantine", F_STR("address", in->quarantine),
            F_STR("why", smtp_verdict_text(v)));
        intake_verdict(in, SMTP_FAULT);
        return;
    }
    in->elsewhere = true;
    if (reopen(in, *mailboxes, n) != ERR_OK) {
        intake_verdict(in, SMTP_FAULT);
        return;
    }
    add_original_to(in);
    begin_write(in);
}

static void begin_quarantine(struct intake *in, const char *quarantine)
{
    struct address to;
    CHECK(address_parse(span_str(quarantine), &to) == ERR_OK); /* checked when it was read */
    in->quarantine = quarantine;
    struct route_options o = { .hostname = in->o.hostname, .max = QUARANTINE_ADDRESSES };
    in->step = STEP_QUARANTINE;
    in->route = route_resolve(in->o.store, &to, &o, on_quarantine, in);
}

/* --- the milters ----------------------------------------------------------------------------- */

void intake_filtered(struct intake *in, enum filter_verdict v, const char *quarantine)
{
    CHECK(in->step == STEP_FILTER);
    switch (v) {
    case FILTER_ACCEPT:
        begin_write(in);
        return;
    case FILTER_QUARANTINE:
        begin_quarantine(in, quarantine);
        return;
    case FILTER_DISCARD:
        intake_verdict(in, SMTP_DISCARDED);
        return;
    case FILTER_REFUSE:
    case FILTER_DEFER:
    case FILTER_CLOSE:
        intake_verdict(in, SMTP_FILTERED);
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
    buf_init(&in->return_path, TRACE_MAX + ORIGINAL_TO_MAX);
    buf_init(&in->received, TRACE_MAX);
    enum err e = delivery_open(o->store, o->reverse_path, o->to, o->n, o->all_or_nothing,
                               on_delivery, in, &in->delivery);
    if (e != ERR_OK) {
        intake_free(in);
        return e;
    }
    in->id = *delivery_id(in->delivery);
    *out = in;
    return ERR_OK;
}

const struct blob_id *intake_id(const struct intake *in)
{
    return &in->id;
}

bool intake_trace(struct intake *in, struct trace *t)
{
    t->id = &in->id;
    t->unix_seconds = blob_id_time(t->id) / 1000;
    trace_return_path(t, &in->return_path);
    trace_received(t, &in->received);
    if (in->o.filter) {
        return true;
    }
    delivery_append(in->delivery, buf_span(&in->return_path));
    return delivery_append(in->delivery, buf_span(&in->received));
}

bool intake_append(struct intake *in, struct span octets)
{
    if (!in->o.filter) {
        return delivery_append(in->delivery, octets);
    }
    (void)filter_append(in->o.filter, octets); /* its LIMIT is told at the end */
    return true;
}

void intake_commit(struct intake *in)
{
    char id[BLOB_ID_CHARS + 1];
    if (in->o.filter) {
        blob_id_text(&in->id, id);
        in->step = STEP_FILTER;
        filter_end(in->o.filter, span_str(id), buf_span(&in->received));
    } else {
        in->step = STEP_COMMIT;
        delivery_commit(in->delivery);
    }
}

void intake_abort(struct intake **in)
{
    if (*in) {
        intake_free(*in);
        *in = NULL;
    }
}
