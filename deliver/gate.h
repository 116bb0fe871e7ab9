/*
 * gate: what the SMTP sessions of a worker share besides the store: the milters and the block lists
 * of the configuration. Opened once: a change of who is asked needs a restart.
 */
#ifndef MAILFLEET_DELIVER_GATE_H
#define MAILFLEET_DELIVER_GATE_H

#include "daemon/daemon.h"
#include "filter.h"
#include "net/blocklist.h"

struct gate {
    struct filters *filters;     /* NULL: none */
    struct blocklist *blocklist; /* NULL: none */
};

/* Both as daemon_service has them. */
bool gate_check(struct config *c, char *why, size_t why_size);
bool gate_open(struct worker *w, char *why, size_t why_size);

static inline const struct gate *gate_of(const struct worker *w)
{
    return w->shared;
}

#endif
