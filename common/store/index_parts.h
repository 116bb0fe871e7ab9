/*
 * index_parts: what the files of the index share among themselves (index.c, index_deliver.c,
 * index_read.c).
 */
#ifndef MAILFLEET_STORE_INDEX_PARTS_H
#define MAILFLEET_STORE_INDEX_PARTS_H

#include "store/index.h"

/* What is read in gathered statements (index_read.c). */
struct reads {
    struct list waiting; /* for the next one; empty unless one is under way */
    size_t n;            /* rows that they need */
    unsigned under_way;  /* statements */
};

struct index {
    struct loop *loop;
    struct pg *pg;
    void (*on_epoch)(void *arg, uint64_t epoch);
    void (*on_crossed)(void *arg, uint64_t mailbox_id, unsigned per_cent);
    void *arg;
    struct quota_rules quota;
    uint64_t epoch;
    bool epoch_known;
    unsigned gather;     /* deliveries of one transaction, and reads of one statement */
    struct list waiting; /* deliveries for the next transaction */
    bool under_way;      /* one is; else, if somebody waits, the next one is posted */
    struct task turn;    /* which begins it */
    uint64_t wait_ms;
    struct reads lookups, lists;
};

/* What the server sent has another shape than it should: a line in the log, and ERR_CORRUPT. */
enum err index_malformed(const char *what, uint64_t mailbox_id);
/* What a reply means to the mail path; logs what the server has refused. LIMIT is ours only when a
 * function raised it. */
enum err index_err(const char *what, uint64_t mailbox_id, const struct pg_reply *r);
/* A column of text into an array of its own size. */
bool index_read_text(const PGresult *r, int row, int col, char *out, size_t size);
/* A column of an enum room. */
bool index_read_room(const PGresult *r, int row, int col, enum room *out);
/* The task `turn`. */
void index_gather(struct task *t);
/* The deliveries that wait are sent, each by itself. */
void index_release(struct index *ix);
/* Milliseconds since 1970. */
int64_t index_now_ms(void);

#endif
