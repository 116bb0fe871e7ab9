/*
 * parts: what the files of daemon share: the master's order to a worker, and the health listener.
 * Not for anybody else.
 */
#ifndef MAILFLEET_DAEMON_PARTS_H
#define MAILFLEET_DAEMON_PARTS_H

#include <sys/types.h>

#include "base/stats.h"
#include "daemon/daemon.h"

/* Descriptors that a worker inherits. */
#define WORKER_FD_STATS   3 /* the block of counters, a slot a worker */
#define WORKER_FD_SOCKETS 4 /* bound sockets, in the order of worker_order.ports */

/* At most this many sockets a worker: five list settings of 16 addresses. */
#define SOCKETS_MAX 80

/* What the master tells a worker on its command line. */
struct worker_order {
    const char *config_path;
    unsigned index;   /* of its slot */
    unsigned workers; /* slots in the block */
    pid_t master;
    size_t n;                  /* sockets */
    size_t ports[SOCKETS_MAX]; /* for each, the index of its daemon_port */
};

/* The life of a worker process: returns main's exit code. */
int worker_main(const struct daemon_service *s, const struct worker_order *o);

/*
 * Reads the configuration, and the certificate that it names (NULL without), all or nothing: what
 * this service can't run with is ERR_INVALID, and why holds one line. The caller owns *c and *t.
 */
enum err daemon_read(const struct daemon_service *s, const char *path, struct config **c,
                     struct tls **t, char *why, size_t why_size);

/* --- health.c -------------------------------------------------------------------------------- */

/* What the health listener reports; the master keeps it true. */
struct health_view {
    const char *service;
    const char *node;
    const struct stats *slots;
    unsigned workers;
    bool draining;
};

struct health;
/* Serves on a loopback address. ERR_INVALID with one line in why. */
enum err health_open(struct loop *l, const char *address, const struct health_view *v,
                     struct health **out, char *why, size_t why_size);
void health_close(struct health **h);

/* The bodies, for the listener and for tests. health_ready returns whether the node is. */
bool health_ready(const struct health_view *v, struct buf *out);
void health_metrics(const struct health_view *v, struct buf *out);

#endif
