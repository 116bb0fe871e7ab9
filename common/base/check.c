/*
 * check: the end of a process that has met a bug of its own, and allocation that does not fail.
 *
 * Owns nothing: what mem_* return is the caller's. The last words go straight to standard error,
 * as plain text and without allocation, because the state of everything else is in doubt.
 */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 1024 }; /* octets: what glibc's cache has blocks of */

static void (*on_failure)(void);

void check_on_failure(void (*fn)(void))
{
    on_failure = fn;
}

void check_failed(const char *what, const char *file, int line)
{
    if (on_failure) {
        on_failure();
    }
    fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what);
    abort();
}

/*
 * Sizes of 0 are asked for as 1, so that NULL always means that memory is out. What is small comes
 * from malloc: glibc's calloc (before 2.41) does not look into the thread's own cache of blocks,
 * and a session makes dozens of them. What is large may be fresh from the kernel, and need no
 * clearing.
 */
void *mem_new(size_t n, size_t size)
{
    if (n <= SMALL && size <= SMALL && n * size <= SMALL) {
        return memset(mem_raw(n * size), 0, n * size);
    }
    void *p = calloc(n ? n : 1, size ? size : 1);
    CHECK(p != NULL);
    return p;
}

void *mem_raw(size_t n)
{
    void *p = malloc(n ? n : 1);
    CHECK(p != NULL);
    return p;
}

void *mem_grow(void *p, size_t n, size_t size)
{
    p = reallocarray(p, n ? n : 1, size ? size : 1);
    CHECK(p != NULL);
    return p;
}

char *mem_strdup(const char *s)
{
    char *p = strdup(s);
    CHECK(p != NULL);
    return p;
}
