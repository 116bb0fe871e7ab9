/*
 * mem_keep: how a process through which messages pass uses the C library's memory.
 *
 * Apart from check.h because an engine may not reach it: what is done here concerns the process.
 */
#ifndef MAILFLEET_BASE_MEM_KEEP_H
#define MAILFLEET_BASE_MEM_KEEP_H

/*
 * From now on pieces of up to 1 MiB come out of memory that was used before, and 16 MiB of that are
 * kept. The C library would fetch fresh pages for each, and give them back at once.
 */
void mem_keep(void);

#endif
