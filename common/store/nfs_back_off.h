/*
 * nfs_back_off: how long to wait before the next attempt to reach a server: twice as long after
 * each failure, up to a bound, and half to the whole of it, so that the workers of a fleet do not
 * come all at once.
 */
#ifndef MAILFLEET_STORE_NFS_BACK_OFF_H
#define MAILFLEET_STORE_NFS_BACK_OFF_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/random.h>

#include "base/check.h"

#define NFS_BACK_OFF_MS      250
#define NFS_BACK_OFF_MOST_MS 5000

struct nfs_back_off {
    uint64_t delay; /* 0: the last attempt went well, or there was none */
    uint64_t until; /* by loop_now */
};

static inline void nfs_back_off_failed(struct nfs_back_off *b, uint64_t now)
{
    uint32_t random;
    CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
    b->delay = b->delay ? b->delay * 2 : NFS_BACK_OFF_MS;
    b->delay = b->delay < NFS_BACK_OFF_MOST_MS ? b->delay : NFS_BACK_OFF_MOST_MS;
    b->until = now + b->delay / 2 + random % (b->delay / 2);
}

static inline void nfs_back_off_end(struct nfs_back_off *b)
{
    *b = (struct nfs_back_off){ 0 };
}

static inline bool nfs_back_off_over(const struct nfs_back_off *b, uint64_t now)
{
    return now >= b->until;
}

#endif
