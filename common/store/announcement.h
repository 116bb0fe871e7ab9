/*
 * announcement: what a daemon tells the fleet of itself, a row of the table node. A value; the
 * texts are borrowed until the call that takes it returns.
 */
#ifndef MAILFLEET_STORE_ANNOUNCEMENT_H
#define MAILFLEET_STORE_ANNOUNCEMENT_H

#include <stdbool.h>
#include <stdint.h>

struct announcement {
    const char *name; /* of the node */
    const char *role; /* deliver or frontend */
    const char *version;
    unsigned schema;   /* the newest migration that the program knows */
    uint64_t up_ms;    /* since its start */
    uint64_t every_ms; /* until the next is to be expected */
    uint64_t sessions; /* open now */
    uint64_t capacity; /* most sessions */
    unsigned load;     /* per cent */
    const char *why;   /* it is not ready; empty when it is */
    bool stopped;      /* the last, of a daemon that ends in good order */
    bool draining;     /* it has heard that it is to drain */
};

#endif
