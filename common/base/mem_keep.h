/*
 * mem_keep: how a process through which messages pass uses the C library's memory.
 *
 * Apart from check.h because an engine may not reach it: what is done here concerns the process.
 */
#ifndef MAILFLEET_BASE_MEM_KEEP_H
#define MAILFLEET_BASE_MEM_KEEP_H

#include <stddef.h>

/*
 * From now on pieces of up to 4 MiB, as a connection's buffers may become, come out of memory that
 * was used before, and 16 MiB of that are kept. The C library would fetch fresh pages for each, and
 * give them back at once, which costs more than to fill them.
 */
void mem_keep(void);

/*
 * To be told how many connections are left whenever one is gone. When more than half of them are,
 * and a thousand at least, their pages go back to the system: the C library by itself gives back
 * only what lies behind the last piece that is in use. It takes a millisecond for a thousand with
 * TLS.
 */
void mem_keep_fewer(size_t left);

#endif
