/*
 * pg_copy: many rows of one snapshot, for the operator's fsck: COPY in binary form, on a connection
 * of its own that has no deadline.
 *
 * Apart from pg, as a sort of all pointers takes longer than any statement of the mail path may,
 * and its rows are taken as slowly as who reads them goes on. It blocks, so it is called on threads
 * of the operator's command, one at a time, never in a daemon. Knows no table.
 */
#ifndef MAILFLEET_STORE_PG_COPY_H
#define MAILFLEET_STORE_PG_COPY_H

#include "base/blob_id.h"

struct pg_copy;

/* Connects, and begins a transaction that only reads, and sees one moment. NULL: why is one line.
 */
struct pg_copy *pg_copy_open(const char *url, char *why, size_t why_size);
void pg_copy_close(struct pg_copy **c);
/* The last failure, one line; empty: there was none. */
const char *pg_copy_why(const struct pg_copy *c);

/* The one number that a statement answers with. */
bool pg_copy_number(struct pg_copy *c, const char *sql, uint64_t *out);
/* sql: COPY ... TO STDOUT (FORMAT binary). Once, and nothing else after it. */
bool pg_copy_begin(struct pg_copy *c, const char *sql);
/* The next row; borrowed until the next call. NOTFOUND: there is none. TEMP: it failed. */
enum err pg_copy_row(struct pg_copy *c, unsigned columns, struct span *row);
/* From any thread, while it is open: what waits for the server fails soon. */
void pg_copy_cancel(struct pg_copy *c);

/* Take the next column off the front of a row; false: it is of another type, or NULL. */
bool pg_copy_i64(struct span *row, int64_t *out);
bool pg_copy_u32(struct span *row, uint32_t *out);
bool pg_copy_id(struct span *row, struct blob_id *out); /* a uuid */

#endif
