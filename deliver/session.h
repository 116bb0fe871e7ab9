/*
 * session: one SMTP or LMTP client, from its first byte to its log line.
 */
#ifndef MAILFLEET_DELIVER_SESSION_H
#define MAILFLEET_DELIVER_SESSION_H

#include "daemon/daemon.h"

/* The tags of the ports. */
enum { SESSION_SMTP, SESSION_LMTP };

/* Takes the conn. With a refusal the client is told so and let go. */
void session_accept(struct worker *w, struct conn *c, int tag, enum refusal refusal);

#endif
