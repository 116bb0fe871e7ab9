/*
 * stats: the block of counters of one worker, and the health it reports.
 *
 * The only memory that processes share: the master maps it, each worker writes its own slot with
 * relaxed atomics, the master's health listener reads all slots. Nothing waits on it, and nothing
 * in it decides anything but whether the node is drained.
 */
#ifndef MAILFLEET_BASE_STATS_H
#define MAILFLEET_BASE_STATS_H

#include <stdatomic.h>

#include "base/span.h"

enum stat_id {
#define STAT(kind, name, help) STAT_##name,
#include "base/stats.def"
#undef STAT
    STAT_COUNT
};

struct stat_doc {
    const char *kind, *name, *help;
};
extern const struct stat_doc stat_docs[STAT_COUNT];

#define HEALTH_MAX  32
#define HEALTH_NAME 48
#define HEALTH_WHY  120

/* One thing that a worker depends on: "database", "cache", "volume 3". */
struct health_item {
    char name[HEALTH_NAME];
    char why[HEALTH_WHY]; /* empty when all is well */
    bool ok;
    bool required; /* not ok makes the node unready */
};

/* A worker's slot. The health part is guarded by an even/odd sequence number. */
struct stats {
    _Atomic uint64_t v[STAT_COUNT];
    _Atomic uint32_t health_seq;
    uint32_t health_n;
    struct health_item health[HEALTH_MAX];
    _Atomic bool started; /* between stats_started and stats_stopped: the worker serves */
};

/* Whether an operator wants the node to take nothing new. */
enum drain { DRAIN_UNKNOWN, DRAIN_NO, DRAIN_YES };

/* All of what is shared. */
struct stats_block {
    uint64_t started_ms;           /* the daemon, by the monotonic clock */
    _Atomic uint64_t announced_ms; /* the fleet was told of the daemon last, by whichever worker */
    _Atomic int drain; /* enum drain, as the database told it last, whichever worker asked */
    struct stats slots[];
};

static inline size_t stats_block_size(unsigned workers)
{
    return sizeof(struct stats_block) + workers * sizeof(struct stats);
}

/* The worker of this process's slot serves from now on. */
void stats_started(void);
/* It serves nobody any more, and is about to end. */
void stats_ending(void);
/* For the master, whose worker has ended: its counters stay, its gauges and its health go. */
void stats_stopped(struct stats *slot);

/* The slot this process writes to; a private one until stats_use is called. */
void stats_use(struct stats *slot);
void stats_add(enum stat_id s, uint64_t n);
/* A gauge that falls. */
void stats_sub(enum stat_id s, uint64_t n);
/* A gauge that is measured. */
void stats_set(enum stat_id s, uint64_t n);
uint64_t stats_get(const struct stats *slot, enum stat_id s);

/*
 * Sets one item, adding it at its first mention; NULL or "" as why means that it is well.
 * health_drop forgets an item (a volume that was removed). Both from the loop's thread only.
 */
void health_set(const char *name, bool required, const char *why);
void health_drop(const char *name);
/*
 * A consistent copy of a slot's items; returns how many. A worker that died while it changed them
 * is one item, "worker", that is not well.
 */
size_t health_read(const struct stats *slot, struct health_item out[HEALTH_MAX]);

#endif
