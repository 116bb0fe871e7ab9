/*
 * landlock: the kernel's Landlock, by its system calls: Debian 12 has no library for it.
 *
 * Of what the running kernel does not know, the rest is asked for: best effort, by its ABI.
 */
#ifndef MAILFLEET_DAEMON_LANDLOCK_H
#define MAILFLEET_DAEMON_LANDLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* What may be done below a path, or with a file. */
enum {
    LANDLOCK_READ_FILES = 1 << 0, /* whose names are known */
    LANDLOCK_LIST = 1 << 1,
    LANDLOCK_WRITE_FILES = 1 << 2, /* those that are there, without cutting them */
    LANDLOCK_MAKE = 1 << 3,        /* files and directories */
};

struct landlock;

/* The kernel's ABI; 0: it has no Landlock, or it is turned off. */
unsigned landlock_abi(void);
/* signals: processes outside may not be sent any (ABI 6). NULL, with errno, on failure. */
struct landlock *landlock_open(unsigned abi, bool signals);
/* NOTFOUND: nothing is there. TEMP: errno says why. */
enum err landlock_allow(struct landlock *l, const char *path, unsigned what);
/* For good, and for what this thread starts from now on; frees it. TEMP: errno says why. */
enum err landlock_enter(struct landlock **l);

#endif
