/*
 * rebuild_scan: the envelopes of a day, of all volumes, read by threads.
 *
 * One owner; what a day found is kept until the next day is read. Blocks. A file that does not
 * belong where it is, was never finished or is not as long as it says is passed over and counted; a
 * directory or file that can't be read ends the day with an error, since nobody knows what was in
 * it.
 */
#ifndef MAILFLEET_ADMIN_REBUILD_SCAN_H
#define MAILFLEET_ADMIN_REBUILD_SCAN_H

#include "admin.h"

#define DAY_TEXT 9 /* YYYYMMDD */

struct scanned {
    struct blob_id id;
    uint32_t size, skip;
    uint16_t volume;
    uint32_t n; /* recipients, each mailbox once, ascending */
    const struct scanned_to *to;
    const char *uidl; /* "": none */
};

struct scanned_to {
    uint64_t mailbox_id;
    const char *address;
};

struct scan_totals {
    uint64_t files, whole, unfinished, damaged, foreign, twice;
};

struct scan_options {
    unsigned jobs; /* threads */
    uint64_t rate; /* files a second; 0: no limit */
    bool deep;     /* read the messages, too, and compare their hashes */
};

struct scan;

/* volumes are borrowed. NULL after a message. */
struct scan *scan_open(const struct spool_options *spool, const struct scan_options *o,
                       const struct volume *volumes, size_t n);
void scan_close(struct scan **s);

/* The days that any volume has, ascending; the caller frees *days. EX_OK, or a code after a
 * message. */
int scan_days(struct scan *s, char (**days)[DAY_TEXT], size_t *n);
/* The messages of a day in the order of their ids, each once; the scan's until the next call. */
int scan_day(struct scan *s, const char *day, const struct scanned **v, size_t *n);

const struct scan_totals *scan_sum(const struct scan *s);

#endif
