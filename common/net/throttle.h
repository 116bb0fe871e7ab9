/*
 * throttle: how much one client address, and its network, may do: sessions at a time, connections a
 * minute, guesses in ten minutes.
 *
 * A table in memory, one a worker and protocol, of bounded size: when it is full the entry that is
 * free and longest unused makes room. Values only: no socket, no clock of its own, no log.
 */
#ifndef MAILFLEET_NET_THROTTLE_H
#define MAILFLEET_NET_THROTTLE_H

#include "net/netaddr.h"

struct throttle;

struct throttle_options {
    const struct netset *exempt;                       /* borrowed; NULL: none */
    unsigned address_sessions, network_sessions;       /* 0: no limit, here and below */
    unsigned address_rate, network_rate;               /* connections a minute, a token bucket */
    unsigned guesses;                                  /* in ten minutes */
    unsigned ipv4_network, ipv6_address, ipv6_network; /* bits of the prefix */
    size_t entries; /* of the table, addresses and networks together */
};

struct throttle *throttle_open(const struct throttle_options *o);
void throttle_close(struct throttle **l);
/* For what comes from now on; sessions that are open are still counted. What a network is, and how
 * many entries there are, stays as it was opened. */
void throttle_change(struct throttle *l, const struct throttle_options *o);

/* clang-format off */
#define THROTTLE_VERDICT_LIST(X)                                                                    \
    X(OK,               "ok")                                                                     \
    X(ADDRESS_SESSIONS, "sessions of the address")                                                \
    X(NETWORK_SESSIONS, "sessions of the network")                                                \
    X(ADDRESS_RATE,     "rate of the address")                                                    \
    X(NETWORK_RATE,     "rate of the network")                                                    \
    X(GUESSES,          "unknown recipients")

enum throttle_verdict {
#define X(name, text) THROTTLE_##name,
    THROTTLE_VERDICT_LIST(X)
#undef X
};
/* clang-format on */
const char *throttle_verdict_text(enum throttle_verdict v);

/*
 * A session begins; now in ms of a clock that never goes back. Only after OK is throttle_leave
 * owed. OK without being counted: what is no IP address, and all while each entry is held by a
 * session.
 */
enum throttle_verdict throttle_enter(struct throttle *l, const struct sockaddr *client,
                                     uint64_t now);
void throttle_leave(struct throttle *l, const struct sockaddr *client);
/*
 * One more guess of the client; less those that were none, it counts for its address and for its
 * network. *factor is how often the network has reached the limit (0 below it): to be slowed down
 * by. GUESSES: the address itself has reached it twice, and throttle_enter turns it away. Never a
 * network: those of large senders make many mistakes.
 */
enum throttle_verdict throttle_guess(struct throttle *l, const struct sockaddr *client,
                                     uint64_t now, unsigned *factor);
/* The client named a recipient that there is: one guess less. */
void throttle_known(struct throttle *l, const struct sockaddr *client, uint64_t now);

/* No limit holds for this client. */
bool throttle_exempts(const struct throttle *l, const struct sockaddr *client);

/* The part of an address that stands for one client, as text: for keys and logs. 192.0.2.1, and
 * 2001:db8:1:2::/64 unless the whole address does. */
void throttle_client(const struct sockaddr *client, unsigned ipv6_address, char out[NETADDR_TEXT]);

#endif
