/*
 * session: one POP3 client, from its first byte to its log line.
 */
#ifndef MAILFLEET_FRONTEND_SESSION_H
#define MAILFLEET_FRONTEND_SESSION_H

#include "daemon/daemon.h"

/* Takes the conn. With a refusal the client is told so and let go. */
void session_accept(struct worker *w, struct conn *c, int tag, enum refusal refusal);

#endif
