/*
 * loop: the event loop of one worker process (libuv), and work posted to it.
 *
 * Everything of a worker but the jobs of its pools runs on this one thread. Nothing called from it
 * may block: no file, DNS, database, cache or hashing call.
 */
#ifndef MAILFLEET_NET_LOOP_H
#define MAILFLEET_NET_LOOP_H

#include <uv.h>

#include "base/error.h"
#include "base/list.h"

struct loop;

/* Something to be run once by the loop; embedded in its owner, which keeps it until it ran. */
struct task {
    struct list link;
    void (*run)(struct task *t);
};

struct loop *loop_open(void);
/*
 * Runs what is still posted and what ends by itself (conns that linger), closes its own handles and
 * checks that no other is left. No thread may post any more.
 */
void loop_close(struct loop **l);
uv_loop_t *loop_uv(struct loop *l);
/* Room that sockets are read into, shared by all; its content lasts until the callback returns. */
#define LOOP_SCRATCH (64 * 1024)
char *loop_scratch(struct loop *l);
/* Until loop_stop. */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);
/* Milliseconds of a monotonic clock, as of this turn of the loop. */
uint64_t loop_now(struct loop *l);

/* Before the loop waits again, never inline. Loop thread only. */
void loop_post(struct loop *l, struct task *t);
/* The same from any thread. */
void loop_post_from_thread(struct loop *l, struct task *t);

#endif
