/* mem_keep: settings of the C library's allocator, and when it is to let go. Allocates nothing. */
#include "base/mem_keep.h"

#include <malloc.h>

#define FEWER 1024 /* connections: what these had is worth a walk through the heap */

void mem_keep(void)
{
    mallopt(M_MMAP_THRESHOLD, 8 << 20);
    mallopt(M_TRIM_THRESHOLD, 16 << 20);
}

void mem_keep_fewer(size_t left)
{
    static size_t most; /* since the last time; of this process */
    if (left > most) {
        most = left;
    } else if (left < most / 2 && most - left >= FEWER) {
        most = left;
        malloc_trim(0);
    }
}
