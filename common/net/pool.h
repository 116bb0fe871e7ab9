/*
 * pool: a bounded set of threads for calls that block, with deadlines and a breaker.
 *
 * One pool a volume, one for password hashing; never libuv's global pool, where one hung filer
 * would stop everything. A job has two halves: run, on a thread, and done, on the loop. A job that
 * is still running at its deadline is abandoned: done is called with ERR_UNCERTAIN, the thread
 * stays with the call until it returns. One that had not begun gets ERR_TEMP and never runs.
 * When every thread is stuck with an abandoned job the breaker is open: pool_submit fails at once.
 */
#ifndef MAILFLEET_NET_POOL_H
#define MAILFLEET_NET_POOL_H

#include "net/loop.h"

struct pool;

/* Embedded in the request that the executor allocated. */
struct job {
    /* On a thread. It may go on while and after done is told UNCERTAIN, and so touches nothing but
     * what is the job's own. */
    void (*run)(struct job *j);
    void (*done)(struct job *j, enum err e); /* on the loop, exactly once: OK, TEMP, UNCERTAIN */
    /* After done and after run has returned, on the loop; on the thread if the pool was closed
     * meanwhile. It gives back what the job owns and touches nothing else. */
    void (*free)(struct job *j);
    struct pool *pool;
    struct list link;
    uint64_t deadline;
    int state;
};

struct pool_options {
    const char *name; /* for logs; copied */
    unsigned threads;
    unsigned queue;      /* jobs that may wait */
    uint64_t timeout_ms; /* of a job, from its submission */
};

struct pool *pool_open(struct loop *l, const struct pool_options *o);
/*
 * Waits for no job, and calls the done functions that are still owed before it returns: queued jobs
 * end with ERR_TEMP, running ones are abandoned. Threads that hang are left behind (the process is
 * about to end, or the volume is being replaced).
 */
void pool_close(struct pool **p);

/* ERR_LIMIT: the queue is full. ERR_TEMP: the breaker is open. Neither calls done nor free. */
enum err pool_submit(struct pool *p, struct job *j);
/* The breaker is open. */
bool pool_stuck(struct pool *p);

#endif
