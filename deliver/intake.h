/*
 * intake: one message from its first octet to its verdict: past the milters, if there are any, and
 * into a delivery.
 *
 * Without milters the octets go straight on to the spool. With them nothing is written before all
 * have spoken, and what is written is what they left of it. One owner: the session, which opens one
 * for each message. It knows no reply.
 */
#ifndef MAILFLEET_DELIVER_INTAKE_H
#define MAILFLEET_DELIVER_INTAKE_H

#include "filter.h"
#include "smtp.h"
#include "store/store.h"
#include "trace.h"

struct intake;

struct intake_options {
    struct store *store;
    struct filter *filter;               /* borrowed; NULL: none */
    const char *hostname;                /* ours */
    struct span reverse_path;            /* borrowed for the intake's life, as is the next */
    const struct envelope_recipient *to; /* n different mailboxes */
    size_t n;
    bool all_or_nothing; /* SMTP: one reply for all */
};

/*
 * What became of the message. OK and LIMIT: room[] tells for each mailbox, as delivery_fn has it;
 * but NULL when the message went elsewhere, or nowhere, and its recipients hear what `verdict`
 * says.
 */
struct intake_result {
    enum smtp_verdict verdict; /* OK, DISCARDED, FILTERED or FAULT */
    enum err err;              /* the delivery's */
    const enum room *room;
    const struct blob_id *stored; /* NULL: nothing was; another id than intake_id's in quarantine */
    uint16_t volume;              /* where it was stored */
};

enum intake_event {
    INTAKE_READY, /* intake_append may go on */
    INTAKE_DONE   /* the last event; the intake is gone after return */
};
typedef void intake_fn(void *arg, enum intake_event ev, const struct intake_result *r);

/* ERR_LIMIT or ERR_TEMP: the store takes nothing now. */
enum err intake_open(const struct intake_options *o, intake_fn *fn, void *arg, struct intake **out);
/* Of the message as it was taken in; one in quarantine is stored under another. */
const struct blob_id *intake_id(const struct intake *in);
/* The trace fields of final delivery, in front of the message: id and time are filled in here. As
 * intake_append. */
bool intake_trace(struct intake *in, struct trace *t);
/* False: wait for INTAKE_READY before the next. All of it is copied. */
bool intake_append(struct intake *in, struct span octets);
/* INTAKE_DONE follows. */
void intake_commit(struct intake *in);
/* The milters' word on the whole, which the session hears first. quarantine: filter.quarantine,
 * which is a valid address with that verdict. */
void intake_filtered(struct intake *in, enum filter_verdict v, const char *quarantine);
/* Gives it up; nulls it; no event follows. May be called with *in NULL. */
void intake_abort(struct intake **in);

#endif
