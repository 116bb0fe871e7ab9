/*
 * failures: wrong logins, counted by the whole fleet for each client's real address, so that nobody
 * guesses passwords by the thousand and nobody locks an account by guessing at it.
 *
 * A client is an address, or a network of IPv6 (limits.ipv6_address); who is in limits.exempt is
 * nobody's to count. Without a cache nothing is counted, and nobody is turned away.
 *
 * What counts. Of passwords and tokens each different one: an old one that a mail client tries for
 * ever is one failure. Of SCRAM that can't be seen: two proofs by one wrong password look like two
 * guesses. So proofs are counted by pair, which is a client and the user that it names:
 *
 *   - each wrong proof counts for its pair, and a pair with `most` of them is turned away;
 *   - only the first FAILURES_OF_A_PAIR count for the client too;
 *   - a client with `most` is turned away, but for pairs that were right within the last hour.
 *
 * So a mail client with an old password blocks itself, not who is behind the same address, and
 * those who read mail there go on when somebody else does block it. The price: an address has
 * `most` guesses at one account, as before; at all accounts together it has not `most` but about
 * `most` / 3 times that (122 for 20), and `most` at each account whose owner was right from the
 * same address. And an owner whose stale client has blocked the pair is turned away beside it, by
 * SCRAM and from that address. To count no more than a few proofs of a pair, and block none, would
 * be kinder to him, but give everybody any number of guesses at one account.
 *
 * An exchange that is begun and left costs us a query: it counts once for each user who is named,
 * unless the pair was right within the last hour.
 */
#ifndef MAILFLEET_STORE_FAILURES_H
#define MAILFLEET_STORE_FAILURES_H

#include "net/netaddr.h"
#include "store/cache.h"

#define FAILURES_OF_A_PAIR 3

struct failures;

struct failures_options {
    struct cache *cache; /* borrowed for its life, as is seal */
    const struct seal *seal;
    const struct netset *exempt; /* borrowed until it is changed */
    uint64_t most;               /* different ones within the window; 0: nothing is counted */
    uint64_t window_ms;          /* from the first of them on */
    unsigned ipv6_address;       /* bits */
};

struct failures *failures_open(const struct failures_options *o);
void failures_close(struct failures **f);
/* From now on: exempt, most and window_ms. Windows that are open stay as long as they were. */
void failures_change(struct failures *f, const struct netset *exempt, uint64_t most,
                     uint64_t window_ms);

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

/* --- SCRAM ----------------------------------------------------------------------------------- */

/* known: the pair was right within the last hour. */
typedef void failures_ask_pair_fn(void *arg, bool too_many, bool known);
struct op *failures_ask_pair(struct failures *f, const char *client, struct span user,
                             failures_ask_pair_fn *done, void *arg);
/* A wrong proof; done as that of failures_add. */
struct op *failures_add_proof(struct failures *f, const char *client, struct span user,
                              failures_add_fn *done, void *arg);
/* A right proof: the pair is known for an hour. Nobody waits. */
void failures_know(struct failures *f, const char *client, struct span user);
/* An exchange that was begun and left. Nobody waits. */
void failures_add_left(struct failures *f, const char *client, struct span user);

#endif
