/*
 * pg_hosts: the hosts of a libpq connection string, with their addresses.
 *
 * libpq would look names up on the loop, and would look only at the first host that does not
 * answer. So names become addresses here (getaddrinfo on libuv's threads), and the caller says
 * with which address an attempt begins.
 */
#ifndef MAILFLEET_STORE_PG_HOSTS_H
#define MAILFLEET_STORE_PG_HOSTS_H

#include <libpq-fe.h>

#include "net/loop.h"

struct pg_hosts;

typedef void pg_hosts_fn(void *arg);

/*
 * Takes a connection string apart and looks its names up. *later: done is called when that has
 * ended; else there was nothing to look up. ERR_INVALID: why says what is wrong with the string.
 */
enum err pg_hosts_open(struct loop *l, const char *url, pg_hosts_fn *done, void *arg,
                       struct pg_hosts **out, bool *later, char *why, size_t why_size);
/* Before done it calls it off. */
void pg_hosts_close(struct pg_hosts **h);

/* How many addresses an attempt goes through; at least 1. */
size_t pg_hosts_count(const struct pg_hosts *h);

/*
 * Begins to connect, at the nth address first and at the others when it refuses. NULL: no name has
 * an address, and why names one.
 */
PGconn *pg_hosts_connect(const struct pg_hosts *h, size_t nth, char *why, size_t why_size);

#endif
