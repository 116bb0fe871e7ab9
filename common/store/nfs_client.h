/*
 * nfs_client: NFSv3 calls (RFC 1813) to one server, over several connections.
 *
 * A call is a value that the caller owns until its done function; it waits for a place on a
 * connection, has a deadline, and ends exactly once, never inline. What is sent is never sent
 * again.
 *
 * Connections are opened as they are needed. The breaker opens when a call that was sent passes its
 * deadline, or when no connection can be made: all calls but probes fail at once then, and a probe
 * that is answered closes it. Between attempts to connect the client waits, longer each time. A
 * connection that a call has timed out on takes no further one and ends with the last it has.
 *
 * It knows no message and no path; it mounts nothing.
 */
#ifndef MAILFLEET_STORE_NFS_CLIENT_H
#define MAILFLEET_STORE_NFS_CLIENT_H

#include "store/nfs_conn.h"
#include "store/nfs_handle.h"

#include <nfsc/libnfs-raw-nfs.h>

struct nfs_client;
struct nfs_call;

/*
 * OK: the server has answered; status is the first word of reply, which is libnfs's result of this
 * procedure and valid until return. TEMP: it was not sent. LIMIT: too many wait, it was not sent.
 * UNCERTAIN: it was sent, and no answer came.
 */
typedef void nfs_call_fn(struct nfs_call *c, enum err e, nfsstat3 status, const void *reply);

#define NFS_NAME_MAX 40 /* of the names that a volume uses */

struct nfs_call {
    int procedure;          /* NFS3_* */
    struct nfs_handle file; /* or the directory */
    char name[NFS_NAME_MAX];
    uint64_t offset;  /* READDIRPLUS: the cookie */
    uint32_t count;   /* octets */
    struct span data; /* of WRITE; the caller keeps it until done */
    stable_how stable;
    char verifier[NFS3_COOKIEVERFSIZE]; /* READDIRPLUS: of the cookie */
    uint64_t deadline;                  /* by loop_now */
    bool probe;                         /* goes where the breaker would stop it */
    nfs_call_fn *done;
    /* The client's: */
    struct nfs_client *client;
    struct nfs_slot *slot; /* NULL: it waits */
    struct list link;
    struct task task;
    enum err err;
};

struct nfs_client_options {
    const char *host;
    uint16_t port;
    struct nfs_owner owner;
    unsigned connections;
    unsigned queue;      /* calls that may wait */
    uint64_t timeout_ms; /* of connecting */
};

/* The pool opens connections; it must outlive the client. */
struct nfs_client *nfs_client_open(struct loop *l, struct pool *p,
                                   const struct nfs_client_options *o);
/* Calls under way end before it returns: TEMP, or UNCERTAIN if they were sent. Later ones TEMP. */
void nfs_client_stop(struct nfs_client *c);
/* After nfs_client_stop, when no call is under way; nulls it. From any thread. */
void nfs_client_close(struct nfs_client **c);

void nfs_call_start(struct nfs_client *c, struct nfs_call *call);
/* The breaker is open. */
bool nfs_client_stuck(const struct nfs_client *c);
/* The last failure, one line; empty if there was none. */
const char *nfs_client_why(const struct nfs_client *c);

#endif
