/*
 * heap: how much memory the process has asked for and not given back: octets of the heap, not pages
 * of the process, so that two tries give the same.
 */
#ifndef MAILFLEET_TESTS_UNIT_HEAP_H
#define MAILFLEET_TESTS_UNIT_HEAP_H

#include <stddef.h>

#ifdef __SANITIZE_ADDRESS__
size_t __sanitizer_get_current_allocated_bytes(void);

static inline size_t heap_used(void)
{
    return __sanitizer_get_current_allocated_bytes();
}
#else
#include <malloc.h>

/* With what malloc itself needs for each piece. */
static inline size_t heap_used(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}
#endif

#endif
