/*
 * nfs_dirs: a table of a few days, each with an array of its leaves. The array is as long as the
 * fanout asks for, and a leaf's handle is allocated when it is learnt: a day of 256 leaves takes
 * about 18 KiB.
 */
#include "store/nfs_dirs.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define MISSES      4     /* looked up one by one, before the day is listed */
#define LEAVES_MOST 16384 /* that are kept, of all days; two days in any case */
#define LISTED_MOST 2     /* the largest fanout whose directories are listed: 256 names */

struct nfs_day {
    uint32_t day;
    uint64_t used;
    struct nfs_handle handle;
    unsigned misses;
    bool tried, listed;          /* to list it; and that went well */
    struct nfs_handle *leaves[]; /* NULL: not known */
};

static uint32_t count_leaves(const struct nfs_dirs *d)
{
    return 1u << (4 * d->fanout);
}

void nfs_place_of(const struct blob_id *id, unsigned fanout, struct nfs_place *out)
{
    char path[SPOOL_PATH_MAX];
    size_t dir = spool_path(id, fanout, path);
    size_t day = span_find(span_str(path), '/');
    *out = (struct nfs_place){ .day = (uint32_t)(blob_id_time(id) / SPOOL_DAY_MS) };
    snprintf(out->day_name, sizeof out->day_name, "%.*s", (int)day, path);
    snprintf(out->file_name, sizeof out->file_name, "%s", path + dir + 1);
    if (fanout) {
        snprintf(out->leaf_name, sizeof out->leaf_name, "%.*s", (int)(dir - day - 1),
                 path + day + 1);
        out->leaf = (uint32_t)strtoul(out->leaf_name, NULL, 16);
    }
}

void nfs_dirs_init(struct nfs_dirs *d, unsigned fanout)
{
    *d = (struct nfs_dirs){ .fanout = fanout };
}

static void day_free(const struct nfs_dirs *d, struct nfs_day **pday)
{
    struct nfs_day *day = *pday;
    *pday = NULL;
    for (uint32_t i = 0; day && i < count_leaves(d); i++) {
        free(day->leaves[i]);
    }
    free(day);
}

void nfs_dirs_clear(struct nfs_dirs *d)
{
    for (size_t i = 0; i < NFS_DIRS_DAYS; i++) {
        day_free(d, &d->days[i]);
    }
}

void nfs_dirs_fini(struct nfs_dirs *d)
{
    nfs_dirs_clear(d);
}

static struct nfs_day *find(const struct nfs_dirs *d, uint32_t day)
{
    for (size_t i = 0; i < NFS_DIRS_DAYS; i++) {
        if (d->days[i] && d->days[i]->day == day) {
            return d->days[i];
        }
    }
    return NULL;
}

void nfs_dirs_forget(struct nfs_dirs *d, uint32_t day)
{
    for (size_t i = 0; i < NFS_DIRS_DAYS; i++) {
        if (d->days[i] && d->days[i]->day == day) {
            day_free(d, &d->days[i]);
        }
    }
}

const struct nfs_handle *nfs_dirs_day(struct nfs_dirs *d, uint32_t day)
{
    struct nfs_day *known = find(d, day);
    if (!known) {
        return NULL;
    }
    known->used = ++d->uses;
    return &known->handle;
}

const struct nfs_handle *nfs_dirs_leaf(struct nfs_dirs *d, uint32_t day, uint32_t leaf)
{
    struct nfs_day *known = find(d, day);
    if (!known) {
        return NULL;
    }
    known->used = ++d->uses;
    return d->fanout ? known->leaves[leaf] : &known->handle;
}

/* Fewer days of more leaves, so that the memory has a bound. */
static size_t days_most(const struct nfs_dirs *d)
{
    size_t n = LEAVES_MOST / count_leaves(d);
    return n > NFS_DIRS_DAYS ? NFS_DIRS_DAYS : n > 2 ? n : 2;
}

/* A free place, or that of the day that was not used longest. */
static struct nfs_day **place(struct nfs_dirs *d)
{
    struct nfs_day **oldest = &d->days[0];
    for (size_t i = 0; i < days_most(d); i++) {
        if (!d->days[i]) {
            return &d->days[i];
        }
        if (d->days[i]->used < (*oldest)->used) {
            oldest = &d->days[i];
        }
    }
    day_free(d, oldest);
    return oldest;
}

void nfs_dirs_set_day(struct nfs_dirs *d, uint32_t day, const struct nfs_handle *h)
{
    struct nfs_day *known = find(d, day);
    if (known && span_eq(nfs_handle_span(&known->handle), nfs_handle_span(h))) {
        return;
    }
    nfs_dirs_forget(d, day);
    struct nfs_day *new =
        mem_new(1, sizeof *new + (d->fanout ? count_leaves(d) : 1) * sizeof *new->leaves);
    new->day = day;
    new->used = ++d->uses;
    new->handle = *h;
    *place(d) = new;
}

void nfs_dirs_set_leaf(struct nfs_dirs *d, uint32_t day, uint32_t leaf, const struct nfs_handle *h)
{
    struct nfs_day *known = find(d, day);
    if (!known || !d->fanout) {
        return;
    }
    CHECK(leaf < count_leaves(d));
    if (!known->leaves[leaf]) {
        known->leaves[leaf] = NEW(struct nfs_handle);
    }
    *known->leaves[leaf] = *h;
}

void nfs_dirs_found(struct nfs_dirs *d, uint32_t day, const char *name, const struct nfs_handle *h)
{
    if (strlen(name) == d->fanout && strspn(name, "0123456789abcdef") == d->fanout) {
        nfs_dirs_set_leaf(d, day, (uint32_t)strtoul(name, NULL, 16), h);
    }
}

bool nfs_dirs_should_list(struct nfs_dirs *d, uint32_t day)
{
    struct nfs_day *known = find(d, day);
    if (!known || known->tried || d->fanout > LISTED_MOST || ++known->misses <= MISSES) {
        return false;
    }
    return known->tried = true;
}

void nfs_dirs_set_listed(struct nfs_dirs *d, uint32_t day)
{
    struct nfs_day *known = find(d, day);
    if (known) {
        known->listed = true;
    }
}

bool nfs_dirs_listed(const struct nfs_dirs *d, uint32_t day)
{
    const struct nfs_day *known = find(d, day);
    return known && known->listed;
}
