/*
 * failures: wrong logins, counted by the whole fleet for each client's real address, so that nobody
 * guesses passwords by the thousand and nobody locks an account by guessing at it.
 *
 * A client is an address, or a network of IPv6 (limits.ipv6_address); who is in limits.exempt is
 * nobody's to count. Without a cache nothing is counted, and nobody is turned away.
 */
#ifndef MAILFLEET_STORE_FAILURES_H
#define MAILFLEET_STORE_FAILURES_H

#include "net/netaddr.h"
#include "store/cache.h"

struct failures;

struct failures_options {
    struct cache *cache; /* borrowed for its life, as are seal and exempt */
    const struct seal *seal;
    const struct netset *exempt;
    uint64_t most;         /* different ones within the window; 0: nothing is counted */
    uint64_t window_ms;    /* from the first of them on */
    unsigned ipv6_address; /* bits */
};

struct failures *failures_open(const struct failures_options *o);
void failures_close(struct failures **f);

/* What a client is called here; empty: nobody counts what it does, and no call below is needed. */
void failures_client(const struct failures *f, const struct sockaddr *client,
                     char out[NETADDR_TEXT]);

/* Has it had as many as it may? */
typedef void failures_ask_fn(void *arg, bool too_many);
struct op *failures_ask(struct failures *f, const char *client, failures_ask_fn *done, void *arg);

/*
 * One more; the same secret for the same user counts once. done is called when it is counted or
 * can't be, so that who waits for the answer before the next try gets no further try for free.
 */
typedef void failures_add_fn(void *arg);
struct op *failures_add(struct failures *f, const char *client, struct span user,
                        struct span secret, failures_add_fn *done, void *arg);

#endif
