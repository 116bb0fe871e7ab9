/*
 * nfs_conn: one TCP connection to an ONC RPC service (RFC 5531), as a libnfs context on the loop.
 *
 * Opening goes through a pool: it looks a name up, and libnfs reads /etc/services. It never
 * reconnects and has no deadlines: whoever holds it closes it and opens another. Calls are made
 * with libnfs's rpc_*_async on nfs_conn_rpc, followed by nfs_conn_flush. A call's callback, and the
 * event UP, may make further calls but may not close the conn.
 */
#ifndef MAILFLEET_STORE_NFS_CONN_H
#define MAILFLEET_STORE_NFS_CONN_H

/* Each needs what comes before it. */
/* clang-format off */
#include <nfsc/libnfs-zdr.h>
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
/* clang-format on */

#include "net/loop.h"
#include "net/pool.h"

struct nfs_conn;

/* AUTH_SYS credentials (RFC 5531, appendix A); no supplementary groups. */
struct nfs_owner {
    uint32_t uid, gid;
};

enum nfs_conn_event {
    NFS_CONN_UP,  /* calls can be made */
    NFS_CONN_LOST /* or it never came up; to be closed, which ends the calls under way */
};
/* why: one line with LOST, else NULL. UP and LOST come at most once each, never inline. */
typedef void nfs_conn_fn(void *arg, enum nfs_conn_event ev, const char *why);

/* host and owner are copied. */
struct nfs_conn *nfs_conn_open(struct loop *l, struct pool *p, const char *host, uint16_t port,
                               const struct nfs_owner *owner, nfs_conn_fn *fn, void *arg);
/*
 * Ends it and nulls it, whatever its state; no event follows. Callbacks of calls under way are
 * called with RPC_STATUS_CANCEL before it returns.
 */
void nfs_conn_close(struct nfs_conn **c);
/* Of a conn that is UP. */
struct rpc_context *nfs_conn_rpc(struct nfs_conn *c);
/* Sends what was queued: after the callback that queued it, or before the loop waits. */
void nfs_conn_flush(struct nfs_conn *c);

#endif
