/*
 * bare_client: conversations that are limits of the machine and no mail: connections that the
 * server closes at once, and items that memcached gives.
 *
 * A connection, or a get, is an operation. An item is checked octet by octet; it is stored by the
 * conversation that asks for it.
 */
#ifndef MAILFLEET_BENCH_LOAD_BARE_CLIENT_H
#define MAILFLEET_BENCH_LOAD_BARE_CLIENT_H

#include "client.h"

/* Less than memcached's largest item. */
#define ITEM_MAX (512 * 1024)

/* Everything is borrowed. */
struct bare_plan {
    uint64_t size;           /* octets of an item */
    uint64_t per_connection; /* gets */
    struct span item;        /* size octets, of which no two runs of a few are the same */
    struct tickets *tickets;
};

extern const struct client_type connect_client;
extern const struct client_type get_client;

#endif
