/*
 * pg_batch: a batch from the inside, for pg.c and pg_conn.c.
 *
 * A batch is made by its caller, given to pg_submit, and then moves, by its link, from a lane's
 * queue to a connection and from there to the finished ones, where it is told and freed.
 */
#ifndef MAILFLEET_STORE_PG_BATCH_H
#define MAILFLEET_STORE_PG_BATCH_H

#include "store/pg.h"

struct pg_param {
    Oid type;
    int len; /* -1: NULL */
    size_t off;
};

struct pg_statement {
    const char *sql;
    size_t first, n; /* of its params */
};

struct pg_batch {
    struct op op; /* what the caller holds */
    struct list link;
    enum pg_lane lane;
    uint64_t deadline;
    pg_done_fn *done;

    struct pg_statement *statements;
    size_t n, cap;
    struct pg_param *params;
    size_t n_params, params_cap;
    char *data; /* values in binary format, one after the other */
    size_t data_len, data_cap;

    PGresult **results;
    size_t n_results;
    struct pg_reply reply;
};

/* Gives all statements and one sync to libpq; false when the connection can't take them. */
bool pg_batch_send(const struct pg_batch *b, PGconn *pq);

/* Takes a result of one of its statements, or an error, of which the first counts. */
void pg_batch_result(struct pg_batch *b, PGresult *r);
/* The sync was answered: what became of the transaction is known. */
void pg_batch_settle(struct pg_batch *b);
/* It ends without the server's answer. */
void pg_batch_fail(struct pg_batch *b, enum err e, const char *why);

#endif
