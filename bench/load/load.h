/*
 * load: the loop that carries the conversations of a run, and what is told of them at its end.
 *
 * So many clients at once, each in a slot of its own, over one epoll in one thread. An operation's
 * latency goes from the beginning of its connection (or from the end of the operation before it in
 * that connection) to the reply that completes it. A conversation that goes wrong, ends early or
 * takes longer than the time-out is an error; its operation does not count. After ERRORS_MAX errors
 * nothing more is begun.
 */
#ifndef MAILFLEET_BENCH_LOAD_LOAD_H
#define MAILFLEET_BENCH_LOAD_LOAD_H

#include "client.h"
#include "peer.h"

#define ERRORS_SHOWN 10
#define ERRORS_MAX   1000

enum load_tls { LOAD_PLAIN, LOAD_STLS, LOAD_TLS };

struct load_plan {
    const char *work; /* its name */
    struct target target;
    enum load_tls tls;
    bool resume;       /* TLS sessions */
    size_t at_once;    /* slots */
    size_t opening;    /* of them not yet ready, where sessions are held */
    uint64_t seconds;  /* after these nothing is begun; 0: the tickets say when */
    uint64_t time_out; /* seconds, of an operation */
    uint64_t messages; /* an operation brings so many: told as well; 0: none */
    bool holds;        /* sessions are held until standard input ends */
    struct tickets *tickets;
};

/* Runs it, and prints its line. Returns the program's exit status. */
int load_run(struct load_plan *plan, const struct client_type *type, const void *client_plan);

#endif
