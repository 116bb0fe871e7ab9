/*
 * blocklist: what DNS lists say of a client's address (RFC 5782), asked on the loop by c-ares.
 *
 * A fault lists nobody. Nothing is remembered here: that is what the resolver is for.
 */
#ifndef MAILFLEET_NET_BLOCKLIST_H
#define MAILFLEET_NET_BLOCKLIST_H

#include "base/config.h"
#include "net/loop.h"
#include "net/netaddr.h"
#include "net/op.h"

struct blocklist;

/* *out is NULL when no zone is configured. On failure why holds one line. */
enum err blocklist_open(struct loop *l, const struct config *c, struct blocklist **out, char *why,
                        size_t why_size);
/* The same, of the settings' text alone; on any thread. */
enum err blocklist_check(const struct config *c, char *why, size_t why_size);
/* Those that wait are told soon that nothing is known of their clients. NULL: nothing to close. */
void blocklist_close(struct blocklist **b);

/* zone: the first block list that names the client and no allow list outweighs; empty: none.
 * borrowed until done returns. */
typedef void blocklist_fn(void *arg, struct span zone);
/*
 * Private addresses are on no list; nobody is asked then. Whom limits.exempt names is the caller's
 * to know, as it may change. b is not NULL.
 */
struct op *blocklist_ask(struct blocklist *b, const struct sockaddr *client, blocklist_fn *done,
                         void *arg);

#endif
