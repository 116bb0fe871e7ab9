/*
 * fsck_resume: the file that says how far an fsck came, and what it had found by then. Written by
 * rename, so it is whole whenever the command is killed.
 */
#ifndef MAILFLEET_ADMIN_FSCK_RESUME_H
#define MAILFLEET_ADMIN_FSCK_RESUME_H

#include "fsck.h"

/* What was asked: a file of another question is refused. */
struct fsck_question {
    const char *fleet; /* the UUIDs of its volumes, in their order */
    uint16_t volume;
    uint32_t since_day;
    bool deep, garbage, older;
};

/* *at 0: there is no file yet. False after a message. */
bool fsck_resume_read(const char *path, const struct fsck_question *q, uint64_t *at,
                      struct fsck_totals *totals);
bool fsck_resume_write(const char *path, const struct fsck_question *q, uint64_t at,
                       const struct fsck_totals *totals);
/* It came to the end: the next begins anew. */
void fsck_resume_end(const char *path);

#endif
