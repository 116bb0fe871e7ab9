/*
 * stats: this process's slot of counters and health.
 *
 * The slot belongs to whoever mapped it (the master), or is the private one below. Counters may be
 * counted from any thread; health_set and health_drop are for the loop's thread alone, which is
 * what lets readers in another process do with a sequence number instead of a lock.
 */
#include "base/stats.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

const struct stat_doc stat_docs[STAT_COUNT] = {
#define STAT(kind, name, help) [STAT_##name] = { #kind, #name, help },
#include "base/stats.def"
#undef STAT
};

static struct stats private_slot;
static struct stats *mine = &private_slot;

void stats_use(struct stats *slot)
{
    mine = slot;
}

void stats_add(enum stat_id s, uint64_t n)
{
    atomic_fetch_add_explicit(&mine->v[s], n, memory_order_relaxed);
}

void stats_sub(enum stat_id s, uint64_t n)
{
    atomic_fetch_sub_explicit(&mine->v[s], n, memory_order_relaxed);
}

void stats_set(enum stat_id s, uint64_t n)
{
    atomic_store_explicit(&mine->v[s], n, memory_order_relaxed);
}

uint64_t stats_get(const struct stats *slot, enum stat_id s)
{
    return atomic_load_explicit(&slot->v[s], memory_order_relaxed);
}

void stats_started(void)
{
    atomic_store(&mine->started, true);
}

void stats_ending(void)
{
    atomic_store(&mine->started, false);
}

void stats_stopped(struct stats *slot)
{
    atomic_store(&slot->started, false);
    for (size_t i = 0; i < STAT_COUNT; i++) {
        if (strcmp(stat_docs[i].kind, "gauge") == 0) {
            atomic_store_explicit(&slot->v[i], 0, memory_order_relaxed);
        }
    }
    slot->health_n = 0; /* nobody else writes here: its only writer has ended */
}

/*
 * Odd while the items change. A worker that was killed in between left it odd: its successor
 * in the same slot goes on to the next odd number all the same.
 */
static uint32_t change_begin(void)
{
    uint32_t seq = (atomic_load_explicit(&mine->health_seq, memory_order_relaxed) + 1) | 1;
    atomic_store_explicit(&mine->health_seq, seq, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    return seq;
}

static void change_end(uint32_t seq)
{
    atomic_store_explicit(&mine->health_seq, seq + 1, memory_order_release);
}

/* The index of the item, or health_n. */
static uint32_t find(const char *name)
{
    uint32_t i = 0;
    while (i < mine->health_n && strncmp(mine->health[i].name, name, HEALTH_NAME - 1) != 0) {
        i++;
    }
    return i;
}

void health_set(const char *name, bool required, const char *why)
{
    uint32_t i = find(name);
    CHECK(i < HEALTH_MAX);
    uint32_t seq = change_begin();
    struct health_item *item = &mine->health[i];
    snprintf(item->name, sizeof item->name, "%s", name);
    snprintf(item->why, sizeof item->why, "%s", why ? why : "");
    item->ok = item->why[0] == '\0';
    item->required = required;
    if (i == mine->health_n) {
        mine->health_n++;
    }
    change_end(seq);
}

void health_drop(const char *name)
{
    uint32_t i = find(name);
    if (i == mine->health_n) {
        return;
    }
    uint32_t seq = change_begin();
    mine->health[i] = mine->health[--mine->health_n];
    change_end(seq);
}

/* True when what was copied is what one moment held. */
static bool read_once(const struct stats *slot, struct health_item out[HEALTH_MAX], size_t *n)
{
    uint32_t before = atomic_load_explicit(&slot->health_seq, memory_order_acquire);
    uint32_t count = slot->health_n;
    if (before % 2 || count > HEALTH_MAX) {
        return false;
    }
    memcpy(out, slot->health, count * sizeof *out);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&slot->health_seq, memory_order_relaxed) != before) {
        return false;
    }
    *n = count;
    return true;
}

/*
 * A change takes less than a microsecond. One that does not end is that of a worker killed in the
 * middle of it, which is reported as an item of its own: silence would look like health.
 */
size_t health_read(const struct stats *slot, struct health_item out[HEALTH_MAX])
{
    size_t n = 0;
    for (int tries = 0; tries < 1000; tries++) {
        if (read_once(slot, out, &n)) {
            return n;
        }
        sched_yield();
    }
    out[0] = (struct health_item){ .name = "worker", .why = "does not answer", .required = true };
    return 1;
}
