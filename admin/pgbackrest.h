/*
 * pgbackrest: what pgBackRest prints of its repository (JSON), as the few facts that a restore
 * rests on. Reads text; runs nothing, and keeps nothing.
 */
#ifndef MAILFLEET_ADMIN_PGBACKREST_H
#define MAILFLEET_ADMIN_PGBACKREST_H

#include "base/span.h"

#define WAL_SEGMENT_CHARS 24 /* timeline, log, segment: eight hex digits each */

struct backup_facts {
    size_t n;          /* usable backups */
    size_t damaged;    /* those with page checksums that are wrong */
    int64_t newest_ms; /* when the newest one ended */
    int64_t begin_ms;  /* a restore can go back to this time, if the log has no gap */
    char first[WAL_SEGMENT_CHARS + 1]; /* where the log begins that it then needs */
    char last[WAL_SEGMENT_CHARS + 1];  /* the newest segment in the repository */
    char archive[32];                  /* the archive of the newest backup: 15-1 */
    unsigned repo;                     /* the repository that it is in */
};

/*
 * From `pgbackrest --output=json info`. window_ms: the time that a restore should be able to go
 * back to; begin_ms is of the newest backup that ended before it, or else of the oldest one.
 * ERR_NOTFOUND: there is no backup; ERR_INVALID: not what pgBackRest writes. *why says it.
 */
enum err pgbackrest_read_info(struct span json, const char *stanza, int64_t window_ms,
                              struct backup_facts *out, char *why, size_t size);

/*
 * From `pgbackrest --output=json repo-ls` of an archive: whether every segment from first on is
 * there, along the timelines. ERR_NOTFOUND: no, and *missing is the first that is not.
 */
enum err pgbackrest_find_gap(struct span json, const char *first, uint64_t segment_octets,
                             char missing[WAL_SEGMENT_CHARS + 1]);

#endif
