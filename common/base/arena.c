/*
 * arena: blocks in a chain, filled from the front.
 *
 * The arena owns every block and what lies in it; nothing is allocated until the first call. The
 * bound counts what is handed out, rounded up for alignment, not the slack at the end of a block.
 */
#include "base/arena.h"

#include <stdalign.h>
#include <stdlib.h>

#include "base/check.h"

#define BLOCK_SIZE 2048 /* a transaction with a few recipients fits in one */

struct arena_block {
    struct arena_block *next;
    size_t used;
    size_t size;
    alignas(max_align_t) char mem[];
};

void arena_init(struct arena *a, size_t limit)
{
    *a = (struct arena){ .limit = limit };
}

void arena_fini(struct arena *a)
{
    arena_reset(a);
}

void arena_reset(struct arena *a)
{
    while (a->blocks) {
        struct arena_block *b = a->blocks;
        a->blocks = b->next;
        free(b);
    }
    a->used = 0;
}

/* What does not fit in the newest block starts another; the rest of the old one is lost. */
static struct arena_block *block_for(struct arena *a, size_t n)
{
    struct arena_block *b = a->blocks;
    if (b && n <= b->size - b->used) {
        return b;
    }
    size_t size = n > BLOCK_SIZE ? n : BLOCK_SIZE;
    b = mem_new(1, sizeof *b + size);
    b->size = size;
    b->next = a->blocks;
    a->blocks = b;
    return b;
}

void *arena_alloc(struct arena *a, size_t n)
{
    const size_t unit = alignof(max_align_t);
    size_t room = a->limit - a->used;
    if (n > room) {
        return NULL;
    }
    size_t pad = (unit - n % unit) % unit;
    if (pad > room - n) {
        return NULL;
    }
    n += pad;
    struct arena_block *b = block_for(a, n);
    void *p = b->mem + b->used;
    b->used += n;
    a->used += n;
    return p;
}

char *arena_dup(struct arena *a, struct span s)
{
    char *p = s.n < SIZE_MAX ? arena_alloc(a, s.n + 1) : NULL;
    if (p && s.n) {
        memcpy(p, s.p, s.n);
    }
    return p;
}
