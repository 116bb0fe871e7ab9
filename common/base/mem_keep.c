/* mem_keep: two settings of the C library's allocator. Nothing is allocated here. */
#include "base/mem_keep.h"

#include <malloc.h>

void mem_keep(void)
{
    mallopt(M_MMAP_THRESHOLD, 2 << 20);
    mallopt(M_TRIM_THRESHOLD, 16 << 20);
}
