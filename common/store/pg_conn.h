/*
 * pg_conn: one connection to PostgreSQL that keeps itself up.
 *
 * It connects, says hello, takes batches while it is ready, and after any loss tries again later,
 * with jitter, for ever. What it tells its owner may come from inside a call to it: the owner only
 * takes note then.
 */
#ifndef MAILFLEET_STORE_PG_CONN_H
#define MAILFLEET_STORE_PG_CONN_H

#include "store/pg_batch.h"

/* Borrowed for the connection's life. */
struct pg_conn_options {
    struct loop *loop;
    const char *url;
    uint64_t timeout_ms;
    const char *hello;
    void (*on_hello)(void *arg, const PGresult *r);
    void *hello_arg;
    /* It became ready, was lost, or has room for more; why is empty unless it was lost. */
    void (*on_change)(void *owner, const char *why);
    /* A batch has ended, with its reply set: it is the owner's again. */
    void (*on_end)(void *owner, struct pg_batch *b);
    void *owner;
};

struct pg_conn;

struct pg_conn *pg_conn_open(const struct pg_conn_options *o);
/* Batches under way end, by on_end, before it returns. */
void pg_conn_close(struct pg_conn **c);

bool pg_conn_ready(const struct pg_conn *c);
/* Batches under way, hellos included. */
unsigned pg_conn_load(const struct pg_conn *c);
/* A ready connection takes the batch; on_end follows. */
void pg_conn_send(struct pg_conn *c, struct pg_batch *b);

#endif
