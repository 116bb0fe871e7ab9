/*
 * lookup: the addresses of one host, kept fresh: by getaddrinfo, on a thread of its own, as it may
 * take minutes.
 *
 * The name is asked again all the time: soon when that failed, else now and then. What was once
 * found stays until something else is: a DNS that is down, or denies the name, changes nothing.
 */
#ifndef MAILFLEET_NET_LOOKUP_H
#define MAILFLEET_NET_LOOKUP_H

#include "net/loop.h"
#include "net/netaddr.h"

/* Further addresses of a name are not used. */
#define LOOKUP_MAX 8

struct lookup_options {
    const char *host; /* a name; copied */
    uint16_t port;    /* of the addresses */
    uint64_t retry_ms, refresh_ms;
};

struct lookup;

/* Begins to ask. Nothing is told: who needs an address looks here when it does. */
struct lookup *lookup_open(struct loop *l, const struct lookup_options *o);
/* Nulls; waits for nobody. May be called with *u NULL. */
void lookup_close(struct lookup **u);

/* The first answer is still to come. */
bool lookup_pending(const struct lookup *u);
/* How many there are, and *v: at most LOOKUP_MAX, in the order of preference, until the loop goes
 * on. 0: none is known. */
size_t lookup_addresses(const struct lookup *u, const struct sockaddr_storage **v);

#endif
