/*
 * pg_blocking: a connection of libpq's blocking kind, for operator's commands that need one of
 * their own: a migration, and fsck's walk through all pointers.
 *
 * Statements have no deadline; but a host that does not answer is passed over, and one that is gone
 * is noticed. Never in a daemon.
 */
#ifndef MAILFLEET_STORE_PG_BLOCKING_H
#define MAILFLEET_STORE_PG_BLOCKING_H

#include <libpq-fe.h>

/* As PQconnectdb: never NULL, PQstatus tells. What the string itself says of deadlines wins. */
PGconn *pg_blocking_connect(const char *url);

#endif
