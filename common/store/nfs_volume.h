/*
 * nfs_volume: a volume on an NFS server: how it is attached, and where its directories are.
 *
 * To attach it is to mount its path, to ask for the server's limits and to find the sentinel right.
 * Nothing is done on a volume that is not attached. The first who needs it attaches it; after a
 * failure only a probe tries again.
 *
 * Shared by all operations of spool_nfs; loop thread only.
 */
#ifndef MAILFLEET_STORE_NFS_VOLUME_H
#define MAILFLEET_STORE_NFS_VOLUME_H

#include "base/stats.h"
#include "store/nfs_back_off.h"
#include "store/nfs_client.h"
#include "store/nfs_dirs.h"
#include "store/nfs_mount.h"
#include "store/spool.h"
#include "store/spool_backend.h"

enum nfs_volume_state { NFS_DETACHED, NFS_ATTACHING, NFS_ATTACHED, NFS_OUT_OF_REACH };

struct nfs_volume {
    struct loop *loop;
    struct pool *hashing;
    struct pool *connecting;
    struct nfs_client *client;
    struct volume volume;
    struct nfs_export url;
    struct nfs_owner owner;
    struct spool_options options;
    bool bare;     /* attached without its sentinel: for who makes it */
    bool nonsense; /* the URL: never attached */
    bool stopped;
    enum nfs_volume_state state;
    char why[HEALTH_WHY];         /* it is out of reach, or the last failure */
    struct nfs_back_off back_off; /* of attaching */
    struct nfs_handle root, sentinel;
    uint32_t rtmax, wtmax, dtmax; /* octets of one call */
    struct nfs_dirs dirs;
    struct nfs_walk *walking; /* whose turn it is */
    struct list walks;        /* those after it */
    struct task turn;         /* takes the next; posted when one has ended and others wait */
    struct list waiters;      /* of attaching */
    struct nfs_mount *mount;  /* while attaching */
    struct nfs_call call;     /* the same */
    uint64_t attach_deadline; /* of all its steps, so that nobody waits longer */
};

void nfs_volume_open(struct nfs_volume *nv, struct loop *l, const struct volume *v,
                     const struct spool_options *o, bool bare);
/* Calls, waiters and jobs under way end before it returns; later ones fail. */
void nfs_volume_stop(struct nfs_volume *nv);
/* After nfs_volume_stop, when nothing is under way. From any thread. */
void nfs_volume_close(struct nfs_volume *nv);

uint64_t nfs_volume_deadline(const struct nfs_volume *nv);

/* --- attaching ------------------------------------------------------------------------------- */

/* Embedded in who waits. */
struct nfs_waiter {
    struct list link;
    struct task task;
    enum err err;
    void (*done)(struct nfs_waiter *w, enum err e); /* OK or TEMP; never inline */
};
/* Already attached: done is called all the same. */
void nfs_attach(struct nfs_volume *nv, struct nfs_waiter *w, bool probe);
/* It is known to be out of reach: calls other than probes would fail. */
bool nfs_volume_stuck(const struct nfs_volume *nv);
/* What it was attached to is not there any more: it has to be attached anew. */
void nfs_detach(struct nfs_volume *nv);
/* What the file says; of a READ of the sentinel from its start. A volume without a UUID takes it.
 */
enum err nfs_sentinel_check(struct nfs_volume *nv, const READ3res *r);

/* --- finding a directory --------------------------------------------------------------------- */

/*
 * A walk to the directory of a message, which is made on the way if make says so. For who did not
 * find it in dirs. One goes after the other, but for those of probes: many that begin at once would
 * look for the same.
 */
struct nfs_walk {
    struct nfs_volume *volume;
    struct nfs_place place;
    bool make;
    bool probe;
    uint64_t deadline;
    /* OK; NOTFOUND: it is not there, and was not to be made; TEMP; LIMIT. Never inline. */
    void (*done)(struct nfs_walk *w, enum err e);
    struct list link; /* of volume.walks */
    struct nfs_call call;
    bool in_day;    /* what the call looks for is the leaf */
    bool exists;    /* MKDIR has said so */
    unsigned calls; /* a bound: directories may come and go meanwhile */
};
void nfs_walk_start(struct nfs_walk *w);

/* --- what the server says -------------------------------------------------------------------- */

/* The handle leads nowhere (any more). */
bool nfs_is_stale(nfsstat3 status);
/* The call was refused: it did nothing. */
bool nfs_is_refusal(nfsstat3 status);
/* One line of what failed and how, for logs; e is that of the call's done. */
void nfs_explain(const struct nfs_volume *nv, const char *what, enum err e, nfsstat3 status,
                 char why[HEALTH_WHY]);

#endif
