/*
 * fsck_compare: one directory of a volume against the rows that the database has for it: both
 * sorted by id, and merged. One of a thread; reads, changes nothing.
 */
#ifndef MAILFLEET_ADMIN_FSCK_COMPARE_H
#define MAILFLEET_ADMIN_FSCK_COMPARE_H

#include "fsck_scan.h"

struct fsck_entry {
    struct blob_id id;
    uint64_t size;
    int64_t changed_ms;
};

struct fsck_compare {
    int64_t older_ms;
    bool deep, garbage;
    struct fsck_entry *entries; /* of the directory */
    size_t n, room;
    void *mem; /* files are read into */
    struct volume_walk *walk;
    struct fsck_task *task;
};

void fsck_compare_init(struct fsck_compare *c, int64_t older_ms, bool deep, bool garbage);
void fsck_compare_fini(struct fsck_compare *c);

/* walk NULL: there is no such volume. TEMP: the directory or a file could not be read. */
enum err fsck_compare(struct fsck_compare *c, struct volume_walk *walk, struct fsck_task *t);

/* Takes over the suspect's name. */
void fsck_suspect_add(struct fsck_suspect **v, size_t *n, size_t *room,
                      const struct fsck_suspect *suspect);

#endif
