/*
 * parts: what the files of daemon share: the master's order to a worker, and the health listener.
 * Not for anybody else.
 */
#ifndef MAILFLEET_DAEMON_PARTS_H
#define MAILFLEET_DAEMON_PARTS_H

#include <sys/types.h>

#include "base/log.h"
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
 * Reads the configuration, and the certificates that it names (NULL without), all or nothing: what
 * this service can't run with is ERR_INVALID, and why holds one line. The caller owns *c and *t;
 * stamp is that of daemon_stamp_tls. Like the next two it may take seconds; on any thread.
 */
enum err daemon_read(const struct daemon_service *s, const char *path, struct config **c,
                     struct tls **t, uint8_t stamp[TLS_STAMP_SIZE], char *why, size_t why_size);
/* The certificates alone. */
enum err daemon_read_tls(const struct daemon_service *s, const struct config *c, struct tls **t,
                         char *why, size_t why_size);
/* What their files look like from outside (tls_stamp). */
void daemon_stamp_tls(const struct config *c, uint8_t out[TLS_STAMP_SIZE]);

/* --- reload.c: the same on a thread of its own, for a daemon that runs -------------------------
 */

struct reload;

struct reload_result {
    bool tls_alone; /* what was asked for */
    enum err e;
    struct config *config; /* the callee's when e is OK, and not tls_alone */
    struct tls *tls;       /* the callee's when e is OK; NULL: none is configured */
    const char *why;       /* one line when e is not OK */
};

typedef void reload_fn(void *arg, const struct reload_result *r);

/* s, path and in_force, and what that ever points to, are borrowed for ever. Who never calls
 * reload_tls has no in_force, and no stamp, which is of the certificates in use. */
struct reload *reload_open(struct loop *l, const struct daemon_service *s, const char *path,
                           const struct config *const *in_force,
                           const uint8_t stamp[TLS_STAMP_SIZE], reload_fn *fn, void *arg);
/* Reads everything. One reading at a time: what is asked meanwhile comes after it. */
void reload_all(struct reload *r);
/* The certificates of the configuration in force; when their files look as they did at the last
 * reading nothing is read, and nothing told. */
void reload_tls(struct reload *r);

/* --- watch.c --------------------------------------------------------------------------------- */

struct watch;
/*
 * Tells of changes in the folders of some files, those that symbolic links on the way stand in
 * included: at most once a second, and up to a second late, so that files which are replaced one
 * after the other count once. NULL, and a warning in the log: the system has no inotify to give.
 */
struct watch *watch_open(struct loop *l, void (*changed)(void *arg), void *arg);
/* Watches for these, and no longer for others; empty ones are left out. The paths are borrowed for
 * ever. changed is told once, as nobody knows what happened before. */
void watch_set(struct watch *w, const char *const *paths, size_t n);

/* --- health.c -------------------------------------------------------------------------------- */

/* What is told of the daemon; its owner keeps it true. */
struct health_view {
    const char *service;
    const char *node;
    const struct stats_block *block;
    unsigned workers;
    uint64_t capacity; /* sessions of all workers */
    bool draining;     /* it ends */
};

struct health;
/* Serves clients of these networks, which are borrowed. ERR_INVALID with one line in why. */
enum err health_open(struct loop *l, const char *address, const struct netset *networks,
                     const struct health_view *v, struct health **out, char *why, size_t why_size);
void health_close(struct health **h);

/* The bodies, for the listener and for tests. health_ready returns whether the node is. */
bool health_ready(const struct health_view *v, struct buf *out);
void health_metrics(const struct health_view *v, struct buf *out);
/* Whether a client is of the networks; one that is not is logged, a line a second. */
bool health_allows(const struct netset *networks, const struct sockaddr *client,
                   struct log_pace *pace, uint64_t now_ms);
/* Whether every worker serves and nothing required fails, drained or not; why holds the first thing
 * that does, or is empty. */
bool health_well(const struct health_view *v, char why[HEALTH_WHY]);
/* Sessions of all workers. */
uint64_t health_sessions(const struct health_view *v);
/* Per cent, 0 to 100: of the sessions that it may have, or of the processors that its workers may
 * use, whichever is more. */
unsigned health_load(const struct health_view *v);

/* --- agent.c --------------------------------------------------------------------------------- */

struct agent;
/* Answers HAProxy's agent-check. As health_open. */
enum err agent_open(struct loop *l, const char *address, const struct netset *networks,
                    const struct health_view *v, struct agent **out, char *why, size_t why_size);
void agent_close(struct agent **a);
/* What it says: one line. */
void agent_line(const struct health_view *v, struct buf *out);

/* --- announcer.c ----------------------------------------------------------------------------- */

struct announcer;
struct announcer_options {
    struct loop *loop;
    struct store *store;
    const struct config *const *config; /* of now, wherever that is */
    const char *role;
    struct stats_block *block;
    const struct health_view *view;
    unsigned index; /* of the worker's slot */
};
/* Begins at once. What the options point to is borrowed for ever. */
struct announcer *announcer_open(const struct announcer_options *o);
/* Something may have changed that the fleet should know at once. */
void announcer_look(struct announcer *a);
/* The worker's last session has ended: if it is the daemon's last worker, it says so. True: it has
 * been said, as far as it can be. To be called until then. */
bool announcer_end(struct announcer *a);

#endif
