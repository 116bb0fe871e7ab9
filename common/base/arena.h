/*
 * arena: memory for what lives and dies together, given back all at once.
 *
 * One owner; nothing in it is freed by itself. A bound makes it safe for what a peer says: a call
 * that would pass the bound returns NULL, and the owner answers ERR_LIMIT.
 */
#ifndef MAILFLEET_BASE_ARENA_H
#define MAILFLEET_BASE_ARENA_H

#include "base/span.h"

struct arena_block;

struct arena {
    struct arena_block *blocks;
    size_t used;  /* octets handed out */
    size_t limit; /* most octets it may hand out */
};

void arena_init(struct arena *a, size_t limit);
void arena_fini(struct arena *a);
/* Everything handed out is gone; the arena can be used again. */
void arena_reset(struct arena *a);

/* Zeroed and aligned for any type; NULL when the bound is reached. */
void *arena_alloc(struct arena *a, size_t n);
/* A NUL-terminated copy; NULL when the bound is reached. */
char *arena_dup(struct arena *a, struct span s);

#endif
