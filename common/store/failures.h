/*
 * failures: wrong logins, counted by the whole fleet for each client's real address, so that nobody
 * guesses passwords by the thousand and nobody locks an account by guessing at it.
 *
 * A client is an address, or a network of IPv6 (limits.ipv6_address); who is in limits.exempt is
 * nobody's to count. A pair is a client and the user that it names. Without a cache nothing is
 * counted, and nobody is turned away.
 *
 * What counts. Each wrong one counts for its pair and for its client:
 *
 *   - a pair with `most` of them is turned away;
 *   - a client with `most` is turned away, but for pairs that were right within the last hour.
 *
 * Of passwords and tokens only different ones count: an old one that a mail client tries for ever
 * is one failure. Of SCRAM that can't be seen, two proofs by one wrong password look like two
 * guesses: each counts for its pair, and the first FAILURES_OF_A_PAIR for the client too. Tokens
 * count for the client alone: what nobody can guess is no reason to turn an owner away.
 *
 * A guess is counted before it is judged, and what turned out to be none is given back: else those
 * who come at the same time would all be judged by the count of before. Until then it holds a place
 * that another can't have, so who is right at the same moment as the last guesses of an address
 * may be told to come again.
 *
 * So a mail client with an old password blocks nobody (by SCRAM itself alone), and those who read
 * mail behind an address go on when somebody else does block it, for as long as they come once an
 * hour. The price: an address has `most` guesses at one account, by whatever way; at all accounts
 * together `most` by password, and by SCRAM about `most` / 3 times that (122 for 20); and `most` at
 * each account whose owner was right from the same address. Of the last those that come at the same
 * moment as others are not held back: limits.address_sessions is their bound. And an owner behind
 * whose address somebody guesses at his own account, or whose stale client has blocked the pair by
 * SCRAM, is turned away there. To count no more than a few of a pair, and block none, would be
 * kinder to him, but give everybody any number of guesses at one account.
 *
 * A guess that a fault ended counts for nothing: while the database is away nobody is called wrong.
 * Nor does one that its client has left before anything was held against it.
 *
 * An exchange of SCRAM that is begun and left costs us a query: it counts once for each user who is
 * named, for the client, unless the pair was right within the last hour.
 */
#ifndef MAILFLEET_STORE_FAILURES_H
#define MAILFLEET_STORE_FAILURES_H

#include "net/netaddr.h"
#include "store/cache.h"

#define FAILURES_OF_A_PAIR 3

struct failures;

struct failures_options {
    struct cache *cache; /* borrowed for its life, as is seal */
    struct seal *seal;
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

/* --- one guess -------------------------------------------------------------------------------- */

/*
 * From the claim to its end. It belongs to who opened it, who makes one call at a time: the next
 * when done was called, which is posted and comes always. Whichever way it ends, the handle is
 * nulled. A guess of NULL is nobody's to count: to right, keep, drop and left only.
 */
struct guess;
enum guess_kind { GUESS_PASSWORD, GUESS_PROOF, GUESS_TOKEN };

/* NULL: nobody counts what this client does. user is copied. */
struct guess *guess_open(struct failures *f, enum guess_kind kind, const struct sockaddr *client,
                         struct span user);

/* too_many: the client, or the pair, is to be turned away and told nothing. */
typedef void guess_fn(void *arg, bool too_many);

/* A number that is the same for all guesses of a client, and that it can't choose. */
uint64_t guess_client(const struct guess *g);

/* Before anything is done for it. */
void guess_ask(struct guess *g, guess_fn *done, void *arg);
/* Since it was asked: the pair was right within the last hour. */
bool guess_known(const struct guess *g);
/* The same, and not long ago by a password with this keyed hash. */
bool guess_knows(const struct guess *g, const uint8_t mac[SEAL_MAC_SIZE]);
/*
 * Before it is judged; too_many: it may not be. A password can be taken for its pair alone, and for
 * the client too in a second call; what was taken before is neither taken nor asked for again, at
 * the same price.
 */
void guess_take(struct guess *g, bool of_client, guess_fn *done, void *arg);

/* It was right: what was taken is given back, and the pair is known for an hour from now on. mac:
 * the keyed hash of the password, or NULL when it was right by other means. */
void guess_right(struct guess **g, const uint8_t mac[SEAL_MAC_SIZE]);
/* It was wrong, and counts. */
void guess_keep(struct guess **g);
/* The same for a password or a token: this one may be counted already, which is then enough. */
typedef void guess_wrong_fn(void *arg);
void guess_wrong(struct guess **g, struct span secret, guess_wrong_fn *done, void *arg);
/* It was not judged: what was taken is given back. */
void guess_drop(struct guess **g);
/* The same, and an exchange was left. */
void guess_left(struct guess **g);

#endif
