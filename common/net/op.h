/*
 * op: the handle of one asynchronous request to the store.
 *
 * The executor owns the request's memory and embeds a struct op in it; the caller holds the
 * pointer until its done function was called. Completion is posted by the loop, never inline, and
 * comes exactly once unless the op was cancelled. Cancel detaches: the work may go on, its result
 * is dropped, and what it holds is given back by the executor.
 */
#ifndef MAILFLEET_NET_OP_H
#define MAILFLEET_NET_OP_H

#include <stdbool.h>
#include <stddef.h>

struct op {
    void *arg;      /* the caller's, passed to its done function */
    bool cancelled; /* the executor tests it before it calls done */
};

/* Nulls the handle; may be called with *op NULL. */
static inline void op_cancel(struct op **op)
{
    if (*op) {
        (*op)->cancelled = true;
        *op = NULL;
    }
}

#endif
