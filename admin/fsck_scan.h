/*
 * fsck_scan: the comparing of disk and database, directory by directory, on threads.
 *
 *   guide     one thread: lists roots and days, takes rows from the stream, and makes of both a
 *             task for each directory that either has, in the order of the stream
 *   workers   list the task's directory and compare it with the task's rows
 *   owner     gets the tasks back in their order, with what was found
 *
 * A ring of tasks is all there is, so each waits for the next when it is too fast, and memory is
 * that of the largest directories. What is found here is only suspected: database and disk were not
 * looked at in the same moment.
 */
#ifndef MAILFLEET_ADMIN_FSCK_SCAN_H
#define MAILFLEET_ADMIN_FSCK_SCAN_H

#include "fsck.h"
#include "fsck_file.h"
#include "fsck_stream.h"

/* What has to be asked again before it is told. */
struct fsck_suspect {
    enum finding_class cls; /* ORPHAN: a file without rows, whatever it is */
    struct fsck_row row;    /* of a pointer or the ledger; of others the id alone */
    char *name;             /* FOREIGN: in the task's directory; its own */
    uint64_t size;          /* of the file */
    int64_t changed_ms;
    enum finding_class whole_as; /* ORPHAN: what it is if it is whole: ORPHAN, HASH, UNREADABLE */
};

struct fsck_task {
    uint64_t at;                 /* rises from task to task; with a place in it to go on from */
    const struct volume *volume; /* NULL: the database has no such volume */
    uint16_t volume_id;
    char dir[SPOOL_PATH_MAX];
    bool compare; /* else only what the guide has found beside the directories */
    struct fsck_row *rows;
    size_t n_rows, rows_room;
    struct fsck_suspect *suspects;
    size_t n_suspects, suspects_room;
    uint64_t files, pointers, octets, garbage;
    uint64_t known; /* files that the database knows: the progress */
    bool done;
};

struct fsck_scan_options {
    const char *url; /* of the database */
    const struct spool_options *spool;
    const struct volume *volumes; /* all, by id */
    size_t n_volumes;
    uint16_t volume; /* 0: all */
    uint32_t since_day;
    uint64_t resume;  /* the at of the last task that is not to come again; 0: none */
    int64_t older_ms; /* younger files without rows are left alone */
    bool deep, garbage;
    unsigned jobs;
};

struct fsck_scan;

/* o and what it points to are borrowed. NULL: why is one line. */
struct fsck_scan *fsck_scan_open(const struct fsck_scan_options *o, uint64_t *files, char *why,
                                 size_t why_size);
/* Ends it wherever it is. */
void fsck_scan_close(struct fsck_scan **s);

/* The next task; NULL: there is no more, or (*why is not empty) it could not go on. */
struct fsck_task *fsck_scan_next(struct fsck_scan *s, const char **why);
/* It was the last that fsck_scan_next has told. */
void fsck_scan_give_back(struct fsck_scan *s, struct fsck_task *t);

#endif
