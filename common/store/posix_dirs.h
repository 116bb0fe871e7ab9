/*
 * posix_dirs: the directories of one volume that are kept open, so that a message file is reached
 * by its bare name in one of them.
 *
 * Walking YYYYMMDD/hh from the root is free on a local file system; on a kernel NFS mount whose
 * attributes have expired each step asks the server. What is kept is only found again by its path:
 * whether that still leads there is not known, and the caller forgets a directory in which a call
 * finds nothing.
 *
 * Safe from any thread. The mutex is held over memory operations alone, and a descriptor is closed
 * when nobody uses it any more: its number, given to another directory while a call is on its way
 * with it, would put a message where nobody looks for it.
 */
#ifndef MAILFLEET_STORE_POSIX_DIRS_H
#define MAILFLEET_STORE_POSIX_DIRS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "store/envelope.h"

#define POSIX_DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

struct posix_dir {
    int fd; /* as long as there is a reference; the rest is posix_dirs' */
    unsigned refs;
    bool kept;
    struct list recent, alike;
    bool syncing;    /* somebody does */
    uint64_t synced; /* names made before this moment are durable; */
    uint64_t failed; /* of those made before this one a sync has failed, */
    int error;       /* with this errno */
    char path[SPOOL_PATH_MAX];
};

struct posix_dirs {
    unsigned limit;          /* descriptors that all volumes of the process may keep */
    _Atomic uint64_t moment; /* counts names that were made */

    pthread_cond_t synced;   /* the sync of a directory has ended */
    pthread_mutex_t mutex;   /* guards the rest, and what there is of each directory but its fd */
    struct list recent;      /* those kept, the one not used for longest first; owns a reference */
    struct list buckets[64]; /* the same by path */
    unsigned n;
    uint64_t era; /* counts posix_dirs_forget_all */
};

void posix_dirs_init(struct posix_dirs *d);
/* Nobody has a reference any more. */
void posix_dirs_fini(struct posix_dirs *d);

/*
 * A reference to the directory that the first len octets of path name below root: one that is kept,
 * or else (*fresh) one that was just opened there, and kept if there is room. NULL with errno.
 */
struct posix_dir *posix_dirs_open(struct posix_dirs *d, int root, const char *path, size_t len,
                                  bool *fresh);
/* Gives the reference back and nulls it. errno stays. */
void posix_dirs_close(struct posix_dirs *d, struct posix_dir **dir);

/* A name was made in a directory: the moment, from 1 on, for posix_dirs_sync. */
uint64_t posix_dirs_made(struct posix_dirs *d);
/*
 * Makes durable the name that was made at that moment: by a sync of the directory that began after
 * it, whoever asked for that, as one serves all that wait for one. A sync that fails fails for all
 * names made before it began, also for those that come for it later: the kernel tells an error
 * once. False with errno.
 */
bool posix_dirs_sync(struct posix_dirs *d, struct posix_dir *dir, uint64_t made);

/* It is not where its path leads any more. Who uses it goes on. */
void posix_dirs_forget(struct posix_dirs *d, struct posix_dir *dir);
/*
 * The root was replaced, or descriptors are short. What another thread is just opening below the
 * former root is not kept either.
 */
void posix_dirs_forget_all(struct posix_dirs *d);

#endif
