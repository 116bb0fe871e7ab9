/*
 * check: assertions that are always on, and allocation that does not fail.
 *
 * CHECK is for what our own code guarantees: a false one is a bug, and a node that stops at once
 * loses nothing (promise 4). It is never used on what a peer, a disk or a database says.
 * Small allocations abort when memory is out; whatever a peer can grow is bounded elsewhere.
 */
#ifndef MAILFLEET_BASE_CHECK_H
#define MAILFLEET_BASE_CHECK_H

#include <stddef.h>

#define CHECK(cond)   ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__))
#define UNREACHABLE() check_failed("unreachable", __FILE__, __LINE__)

_Noreturn void check_failed(const char *what, const char *file, int line);
/* To be called before the last words: what tells what led to them. NULL: nothing is. */
void check_on_failure(void (*fn)(void));

/* Zeroed memory, freed with free(). n * size may not overflow (checked). */
void *mem_new(size_t n, size_t size);
/* As mem_new, but what is in it is not defined: for what is overwritten at once. */
void *mem_raw(size_t n);
/* As realloc to n * size; new bytes are not zeroed. */
void *mem_grow(void *p, size_t n, size_t size);
char *mem_strdup(const char *s);

#define NEW(type)          ((type *)mem_new(1, sizeof(type)))
#define NEW_ARRAY(type, n) ((type *)mem_new((n), sizeof(type)))

/* The struct that embeds a member. */
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))

#endif
