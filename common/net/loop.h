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
/* Until loop_stop. What the log has gathered in a turn, if its thread does so, is written before
 * the loop waits. */
void loop_run(struct loop *l);
void loop_stop(struct loop *l);
/* Milliseconds of a monotonic clock, as of this turn of the loop. */
uint64_t loop_now(struct loop *l);

/*
 * A socket that the loop watches, level-triggered; embedded in its owner. What uv_poll does in five
 * system calls and an ioctl for each connection is one here: when the first is wanted.
 */
struct loop_socket {
    int fd;
    uint32_t events; /* of epoll, that are wanted; 0: none, and then errors are not told either */
    uint32_t serial; /* loop.c's */
    void (*run)(struct loop_socket *s, uint32_t events);
};
/* The socket does not block. Nothing is wanted yet. */
void loop_socket_init(struct loop_socket *s, int fd,
                      void (*run)(struct loop_socket *s, uint32_t events));
/* EPOLLERR and EPOLLHUP are told with any other that is wanted. */
void loop_watch(struct loop *l, struct loop_socket *s, uint32_t events);
/* Before the socket is closed: then there is nothing to be told to the kernel. */
void loop_unwatch(struct loop *l, struct loop_socket *s);

/* Before the loop waits again, never inline. Loop thread only. */
void loop_post(struct loop *l, struct task *t);
/* The same from any thread. */
void loop_post_from_thread(struct loop *l, struct task *t);

#endif
