/*
 * removal: what the commands that give addresses out have to know of accounts that were removed.
 */
#ifndef MAILFLEET_ADMIN_REMOVAL_H
#define MAILFLEET_ADMIN_REMOVAL_H

#include "admin.h"
#include "args.h"

/*
 * Whether this address, if nobody has it now, may be somebody's: not when mail for another came to
 * it before, unless --reuse says so. EX_OK, or a code after a message.
 */
int removal_check(struct admin *a, const struct args *args, const struct address *addr);

/* Aliases that lead to an address, in their order; one owner. */
struct aliases {
    char **alone; /* that lead to nothing else */
    size_t n_alone;
    char **among; /* that lead to others too */
    size_t n_among;
};
/* EX_OK, or a code after a message. */
int aliases_find(struct admin *a, struct span target, struct aliases *out);
void aliases_free(struct aliases *s);
/* Adds statements that take the target away from each, in ascending order. */
void aliases_drop_sql(struct admin *a, const struct aliases *s, struct span target);
/* The cache keys of all of them, written to keys, which has room for n_alone + n_among. */
size_t aliases_keys(const struct aliases *s, struct cache_key *keys);

#endif
