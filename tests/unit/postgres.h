/*
 * postgres: a private PostgreSQL server for a test program, with the schema in it.
 *
 * It lives in a directory of its own under $TMPDIR, listens on a local socket there and on a free
 * port of the loopback address, and trusts everybody. Started by root it runs as the user postgres.
 * Server and directory go when the test program ends, however it ends. Calls block, and a test
 * that can't have its server aborts.
 */
#ifndef MAILFLEET_TESTS_POSTGRES_H
#define MAILFLEET_TESTS_POSTGRES_H

#include <libpq-fe.h>

struct postgres;

struct postgres *postgres_start(void);
void postgres_stop(struct postgres **p);

/* Connection strings: by the local socket, and by TCP as `host`. */
const char *postgres_url(const struct postgres *p);
unsigned postgres_port(const struct postgres *p);

/* Stops and starts the server; what it holds stays. */
void postgres_down(struct postgres *p);
void postgres_up(struct postgres *p);
/* All its processes stop where they are, and go on. */
void postgres_freeze(struct postgres *p);
void postgres_thaw(struct postgres *p);

/* Runs SQL on a connection of the test's own; the first value of the last result, as a number. */
long long postgres_sql(struct postgres *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* That connection, open again after postgres_down. */
PGconn *postgres_conn(struct postgres *p);
/* At a test's end: ends its transaction, and waits until nobody else's backend is there. What was
 * sent before a connection was closed may still be done, and would meet the next test. */
void postgres_settle(struct postgres *p);

/* A listener on a free port of the loopback address that takes connections into its backlog and
 * never says a word, as a frozen server does; to be closed. */
int silent_host(unsigned *port);

#endif
