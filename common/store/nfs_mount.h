/*
 * nfs_mount: asks a server for the handle of an export's root: the MOUNT protocol, version 3
 * (RFC 1813, appendix I), and before it the portmapper (RFC 1833), if the port is not given.
 *
 * One attempt, on connections of its own.
 */
#ifndef MAILFLEET_STORE_NFS_MOUNT_H
#define MAILFLEET_STORE_NFS_MOUNT_H

#include "store/nfs_conn.h"
#include "store/nfs_handle.h"
#include "store/nfs_url.h"

struct nfs_mount;

/* OK with the root. Else TEMP, and why is one line. Never inline. */
typedef void nfs_mount_fn(void *arg, enum err e, const struct nfs_handle *root, const char *why);

/* url must stay until the end. The mount is gone after fn. */
struct nfs_mount *nfs_mount_start(struct loop *l, struct pool *p, const struct nfs_export *url,
                                  const struct nfs_owner *owner, uint64_t timeout_ms,
                                  nfs_mount_fn *fn, void *arg);
/* Gives it up and nulls it; fn is not called. May be called with *m NULL. */
void nfs_mount_cancel(struct nfs_mount **m);

#endif
