/*
 * daemon: what both daemons are around their sessions: start, worker processes, reload, drain,
 * health.
 *
 * The master reads the configuration, binds every socket (one a worker, SO_REUSEPORT), maps the
 * block of counters, drops root, starts the workers (the same program with --worker), restarts one
 * that died, and serves /healthz, /readyz and /metrics. A worker has one loop and one store.
 * SIGTERM: not ready, no new connections, sessions finish up to node.drain_time, exit 0. SIGHUP:
 * configuration and certificates are read again; the old ones stay if the new are bad. Certificates
 * are read again, too, when their files change.
 */
#ifndef MAILFLEET_DAEMON_DAEMON_H
#define MAILFLEET_DAEMON_DAEMON_H

#include "base/config.h"
#include "net/conn.h"
#include "net/throttle.h"
#include "net/tls.h"
#include "store/store.h"

/* What a session may use; one a worker process. It owns all of it. */
struct worker {
    struct loop *loop;
    const struct config *config; /* as of now: a reload replaces it, the old one stays in memory */
    struct store *store;
    struct tls *tls;           /* NULL without a certificate; a reload replaces it */
    const char *hostname;      /* smtp.hostname; a reload replaces it */
    void *shared;              /* what the service's open made for all its sessions */
    struct throttle *throttle; /* of the service's clients; its sessions are counted by worker.c */
    struct conn *accepting;    /* worker.c's: entered into the throttle, not yet a session */
    struct list sessions;      /* of struct worker_session.link */
    size_t session_count;
    bool draining; /* no new sessions; those that are open come to their end */
};

/* What every session embeds, so that the daemon can count, drain and end them. */
struct worker_session {
    struct list link;
    struct worker *worker;
    char sid[16]; /* for logs and the ledger, unique on the node */
    bool counted; /* in worker.throttle, as this client: */
    struct sockaddr_storage client;
    void (*drain)(struct worker_session *); /* the node goes down: end at the next good moment */
    void (*end)(struct worker_session *); /* drain_time is over: end now, with a temporary error */
};
void worker_session_begin(struct worker_session *s, struct worker *w,
                          void (*drain)(struct worker_session *),
                          void (*end)(struct worker_session *));
void worker_session_end(struct worker_session *s);

/* Why a client is turned away as soon as it comes. */
enum refusal {
    REFUSAL_NONE,
    REFUSAL_FULL,  /* node.max_sessions: whoever it is */
    REFUSAL_DRAIN, /* the node is drained: another is to be tried */
    REFUSAL_LIMIT  /* what its address or network may do */
};

/* A group of listening ports: the setting that names them, and what kind they are. */
struct daemon_port {
    size_t setting; /* offsetof(struct config, x) of a config_list */
    bool proxy;     /* a PROXY header is required */
    bool tls;       /* implicit TLS */
    bool limited;   /* the limits of sessions and rate hold for it */
    int tag;        /* given to accept */
};

struct daemon_service {
    const char *name; /* mailfleet-frontend */
    const char *role; /* frontend: in the table of nodes */
    const struct daemon_port *ports;
    size_t n;
    size_t health, agent;     /* offsetof of the config_text with the address of each listener */
    bool drain_refuses;       /* what comes although the node is drained goes elsewhere by itself */
    const char *const *alpn;  /* what TLS clients may offer (RFC 7301), NULL at the end */
    bool client_certificates; /* those of tls.client_ca are asked for */
    /* Whether the service can run with its own settings; on any thread. Files of which it needs
       what they hold it may read into c. */
    bool (*check)(struct config *c, char *why, size_t why_size);
    /* Makes worker.shared, once a worker. NULL: there is nothing to share. */
    bool (*open)(struct worker *w, char *why, size_t why_size);
    /* The limits of the clients of ports that are limited; the rest is filled in already. */
    void (*limits)(const struct config *c, struct throttle_options *o);
    /* A conn that is ready to talk; it is the callee's. With a refusal answer with a temporary
       error and close; else begin a session at once. */
    void (*accept)(struct worker *w, struct conn *c, int tag, enum refusal refusal);
};

/*
 * The whole life of the process: returns main's exit code. Reads --config, --check, --version and
 * --help; --worker and what belongs to it are the master's way to start its workers.
 */
int daemon_main(int argc, char **argv, const struct daemon_service *s);

#endif
