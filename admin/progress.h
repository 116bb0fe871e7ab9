/*
 * progress: how far a long command has come, on standard error: a bar that moves on a terminal, a
 * line every half minute elsewhere. And its pace: no more than so many steps a second.
 */
#ifndef MAILFLEET_ADMIN_PROGRESS_H
#define MAILFLEET_ADMIN_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *what; /* `files`; borrowed */
    uint64_t total;   /* 0: not known */
    uint64_t done;
    uint64_t rate;                        /* most steps a second; 0: no limit */
    int64_t began_ms, shown_ms, paced_ms; /* of the monotonic clock */
    uint64_t paced;
    int terminal; /* standard error is one */
};

void progress_begin(struct progress *p, const char *what, uint64_t total, uint64_t rate);
/* n steps are done; sleeps when they were too fast. */
void progress_step(struct progress *p, uint64_t n);
/* Shows the end; not in a log when nothing was done. */
void progress_end(struct progress *p);

#endif
