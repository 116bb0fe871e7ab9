/*
 * hops: counts the Received: headers of a message that comes in pieces (RFC 5321, section 6.3).
 *
 * A value embedded in the engine; it keeps no octets of the message. It expects lines that end in
 * CRLF, as the dot decoder writes them, and reads no further than the end of the header.
 */
#ifndef MAILFLEET_DELIVER_HOPS_H
#define MAILFLEET_DELIVER_HOPS_H

#include "base/span.h"

struct hops {
    unsigned n;            /* Received: headers so far */
    unsigned char matched; /* octets of the name that the line has begun with */
    unsigned char state;   /* see hops.c */
};

void hops_init(struct hops *h);
/* The next piece, of any length. */
void hops_scan(struct hops *h, struct span piece);

#endif
