/*
 * pg: PostgreSQL connections of one worker (libpq, non-blocking, pipeline mode).
 *
 * A batch is one or more statements under one sync: one round trip, one transaction, all or
 * nothing. Reads share a few pipelined connections; a transaction has a write connection for
 * itself while it is under way. Works behind PgBouncer in transaction mode: unnamed statements
 * with parameters, no session state. Deadlines are ours: libpq notices a frozen primary too late.
 * Knows no table; SQL is in index*.c and the operator's command.
 */
#ifndef MAILFLEET_STORE_PG_H
#define MAILFLEET_STORE_PG_H

#include <libpq-fe.h>

#include "base/blob_id.h"
#include "net/loop.h"
#include "net/op.h"

struct pg;

struct pg_options {
    const char *url; /* copied */
    unsigned read_connections;
    unsigned write_connections;
    uint64_t timeout_ms; /* of connecting; and of a batch, from its submission */
    unsigned queue;      /* batches that may wait; 0: 4096 */
    /*
     * Run on every new connection before anything else; the answer is told to on_hello, where the
     * owner learns the epoch. A connection whose hello fails is not used.
     */
    const char *hello;
    void (*on_hello)(void *arg, const PGresult *r);
    void *arg;
};

struct pg *pg_open(struct loop *l, const struct pg_options *o);
/* Pending batches end with ERR_TEMP or ERR_UNCERTAIN before it returns. */
void pg_close(struct pg **p);

/* At least one connection of each lane is ready. */
bool pg_ready(const struct pg *p);

enum pg_lane { PG_READ, PG_WRITE };

struct pg_batch;

struct pg_batch *pg_batch_new(void);
void pg_batch_free(struct pg_batch **b);
/* Begins the next statement; sql is borrowed until completion. Arguments follow in order. */
void pg_stmt(struct pg_batch *b, const char *sql);
void pg_i64(struct pg_batch *b, int64_t v);
void pg_text(struct pg_batch *b, struct span v);
void pg_bytea(struct pg_batch *b, struct span v);
void pg_uuid(struct pg_batch *b, const struct blob_id *v);
void pg_bool(struct pg_batch *b, bool v);
void pg_null(struct pg_batch *b);
void pg_i64s(struct pg_batch *b, const int64_t *v, size_t n);
void pg_texts(struct pg_batch *b, const struct span *v, size_t n);
void pg_byteas(struct pg_batch *b, const struct span *v, size_t n);
void pg_uuids(struct pg_batch *b, const struct blob_id *v, size_t n);

struct pg_reply {
    enum err err;
    char sqlstate[6];         /* empty unless the server refused a statement */
    char message[200];        /* the server's words, for logs and the operator's command */
    char detail[64];          /* the server's DETAIL, cut to fit */
    size_t n;                 /* results, one a statement; 0 unless err is OK */
    const PGresult *const *r; /* binary format; borrowed until done returns */
};

/*
 * OK: committed. LIMIT, NOTFOUND, BUSY, INVALID: a function of ours raised MF001, MF002, MF003,
 * or the statement broke a rule (unique: BUSY; check, foreign key, syntax: INVALID).
 * TEMP: nothing was done. UNCERTAIN: a PG_WRITE batch had been sent and its end is not known; in
 * the PG_READ lane that is TEMP too. LIMIT with an empty sqlstate: the queue is full.
 */
typedef void pg_done_fn(void *arg, const struct pg_reply *r);

/* Takes the batch and nulls it. */
struct op *pg_submit(struct pg *p, enum pg_lane lane, struct pg_batch **b, pg_done_fn *done,
                     void *arg);

/*
 * Whether a result has exactly these columns, a character each: i smallint, integer, bigint or
 * boolean; t text; b bytea; u uuid; T text[]. What a server sends is asked before it is used.
 */
bool pg_shape(const PGresult *r, const char *shape);
/*
 * Values out of a binary result. The column's type must fit, which is checked: ask pg_shape first
 * unless the statement leaves no doubt. NULL and a value of a wrong length give 0 or empty.
 */
int64_t pg_get_i64(const PGresult *r, int row, int col);
struct span pg_get_span(const PGresult *r, int row, int col); /* text, bytea */
struct blob_id pg_get_uuid(const PGresult *r, int row, int col);
/* Elements of a text[]; returns how many, at most max are stored. */
size_t pg_get_texts(const PGresult *r, int row, int col, struct span *out, size_t max);

#endif
