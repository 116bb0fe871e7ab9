/*
 * posix_dirs: a least-recently-used cache of directory descriptors.
 *
 * Owns its directories by counted references, one of them the cache's own while a directory is
 * kept. Decides nothing about files, and never looks whether a directory is still the right one:
 * that would be the very calls it is to spare.
 *
 * O_RDONLY rather than O_PATH, as a directory is synced through the same descriptor on a local file
 * system. On NFS that costs a GETATTR at most, once, when it is opened: there is no call to open a
 * directory, and the ACCESS that reading one asks for is the one that looking up a name needs next.
 */
#include "store/posix_dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"

/* Of one volume: four days of 256 directories. What is older is read too rarely. */
#define DIRS_MAX 1024u

/*
 * All volumes of the process together keep a quarter of the descriptors it may have, in even
 * shares; the rest is for sessions and message files. With LimitNOFILE=65536 and 24 volumes that is
 * 682 directories each, more than the two days that nearly all mail is written to and read from,
 * and 49,152 are left.
 */
static _Atomic unsigned sharers;

static void lock(struct posix_dirs *d)
{
    CHECK(pthread_mutex_lock(&d->mutex) == 0);
}

static void unlock(struct posix_dirs *d)
{
    CHECK(pthread_mutex_unlock(&d->mutex) == 0);
}

/* --- with the mutex held --------------------------------------------------------------------- */

/* FNV-1a. */
static struct list *bucket(struct posix_dirs *d, const char *path)
{
    uint32_t h = 2166136261u;
    for (; *path; path++) {
        h = (h ^ (unsigned char)*path) * 16777619u;
    }
    return &d->buckets[h % ARRAY_LEN(d->buckets)];
}

static struct posix_dir *find(struct posix_dirs *d, const char *path)
{
    LIST_FOR (l, bucket(d, path)) {
        struct posix_dir *dir = CONTAINER_OF(l, struct posix_dir, alike);
        if (!strcmp(dir->path, path)) {
            return dir;
        }
    }
    return NULL;
}

static void unref(struct posix_dir *dir, struct list *ended)
{
    if (--dir->refs == 0) {
        list_add(ended, &dir->recent);
    }
}

static void forget(struct posix_dirs *d, struct posix_dir *dir, struct list *ended)
{
    if (dir->kept) {
        dir->kept = false;
        list_del(&dir->recent);
        list_del(&dir->alike);
        d->n--;
        unref(dir, ended);
    }
}

static void forget_oldest(struct posix_dirs *d, unsigned most, struct list *ended)
{
    while (d->n > most) {
        forget(d, CONTAINER_OF(d->recent.next, struct posix_dir, recent), ended);
    }
}

static unsigned share(const struct posix_dirs *d)
{
    unsigned n = d->limit / sharers;
    return n < DIRS_MAX ? n : DIRS_MAX;
}

static void keep(struct posix_dirs *d, struct posix_dir *dir, struct list *ended)
{
    dir->kept = true;
    dir->refs++;
    list_add(&d->recent, &dir->recent);
    list_add(bucket(d, dir->path), &dir->alike);
    d->n++;
    forget_oldest(d, share(d), ended);
}

/* --- without it ------------------------------------------------------------------------------ */

/* Closes what nobody refers to any more. */
static void end_all(struct list *ended)
{
    int error = errno;
    for (struct list *l; (l = list_pop(ended));) {
        struct posix_dir *dir = CONTAINER_OF(l, struct posix_dir, recent);
        close(dir->fd);
        free(dir);
    }
    errno = error;
}

void posix_dirs_init(struct posix_dirs *d)
{
    struct rlimit r;
    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
    rlim_t limit = r.rlim_cur / 4;
    *d = (struct posix_dirs){ .limit = limit < UINT32_MAX ? (unsigned)limit : UINT32_MAX };
    CHECK(pthread_mutex_init(&d->mutex, NULL) == 0);
    CHECK(pthread_cond_init(&d->synced, NULL) == 0);
    list_init(&d->recent);
    for (size_t i = 0; i < ARRAY_LEN(d->buckets); i++) {
        list_init(&d->buckets[i]);
    }
    sharers++;
}

void posix_dirs_fini(struct posix_dirs *d)
{
    posix_dirs_forget_all(d);
    CHECK(pthread_cond_destroy(&d->synced) == 0);
    CHECK(pthread_mutex_destroy(&d->mutex) == 0);
    sharers--;
}

/*
 * One that was opened in an era that is over may lie below the former root; of two threads that
 * open the same, one keeps it. In both cases it serves for this time.
 */
static struct posix_dir *open_new(struct posix_dirs *d, int root, const char *path, uint64_t era)
{
    int fd = openat(root, path, POSIX_DIR_FLAGS);
    if (fd < 0) {
        return NULL;
    }
    struct posix_dir *dir = NEW(struct posix_dir);
    struct list ended;
    list_init(&ended);
    dir->fd = fd;
    dir->refs = 1;
    snprintf(dir->path, sizeof dir->path, "%s", path);
    lock(d);
    if (d->era == era && !find(d, path)) {
        keep(d, dir, &ended);
    }
    unlock(d);
    end_all(&ended);
    return dir;
}

struct posix_dir *posix_dirs_open(struct posix_dirs *d, int root, const char *path, size_t len,
                                  bool *fresh)
{
    char name[SPOOL_PATH_MAX];
    CHECK(len < sizeof name);
    memcpy(name, path, len);
    name[len] = '\0';
    lock(d);
    uint64_t era = d->era;
    struct posix_dir *dir = find(d, name);
    if (dir) {
        dir->refs++;
        list_del(&dir->recent);
        list_add(&d->recent, &dir->recent);
    }
    unlock(d);
    *fresh = !dir;
    return dir ? dir : open_new(d, root, name, era);
}

void posix_dirs_close(struct posix_dirs *d, struct posix_dir **pdir)
{
    struct posix_dir *dir = *pdir;
    struct list ended;
    *pdir = NULL;
    list_init(&ended);
    if (dir) {
        lock(d);
        unref(dir, &ended);
        unlock(d);
        end_all(&ended);
    }
}

uint64_t posix_dirs_made(struct posix_dirs *d)
{
    return atomic_fetch_add(&d->moment, 1) + 1;
}

/* With the mutex held, but not during the call. */
static void sync_now(struct posix_dirs *d, struct posix_dir *dir)
{
    uint64_t until = atomic_load(&d->moment);
    dir->syncing = true;
    unlock(d);
    int error = fsync(dir->fd) == 0 ? 0 : errno;
    lock(d);
    dir->syncing = false;
    if (error) {
        dir->failed = until;
        dir->error = error;
    } else {
        dir->synced = until;
    }
    CHECK(pthread_cond_broadcast(&d->synced) == 0);
}

bool posix_dirs_sync(struct posix_dirs *d, struct posix_dir *dir, uint64_t made)
{
    lock(d);
    while (dir->failed < made && dir->synced < made) {
        if (dir->syncing) {
            CHECK(pthread_cond_wait(&d->synced, &d->mutex) == 0);
        } else {
            sync_now(d, dir);
        }
    }
    bool ok = dir->failed < made;
    int error = dir->error;
    unlock(d);
    errno = ok ? errno : error;
    return ok;
}

void posix_dirs_forget(struct posix_dirs *d, struct posix_dir *dir)
{
    struct list ended;
    list_init(&ended);
    lock(d);
    forget(d, dir, &ended);
    unlock(d);
    end_all(&ended);
}

void posix_dirs_forget_all(struct posix_dirs *d)
{
    struct list ended;
    list_init(&ended);
    lock(d);
    d->era++;
    forget_oldest(d, 0, &ended);
    unlock(d);
    end_all(&ended);
}
