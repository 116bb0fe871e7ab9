/*
 * program: asks another program and takes what it prints on standard output.
 *
 * Whatever the program does, the call comes back: the program may hang before, during or after its
 * answer, or be stuck in the kernel on a mount that hangs. No shell sees the words. Owns nothing.
 */
#ifndef MAILFLEET_ADMIN_PROGRAM_H
#define MAILFLEET_ADMIN_PROGRAM_H

#include "base/buffer.h"

/*
 * words: the program, which is looked for in PATH, its arguments, and NULL. It has so many
 * milliseconds, its end included; then it is killed, with what it has started.
 *
 * OK: it has ended with status 0, and *out has all that it said. Else why tells: LIMIT, it said
 * more than out takes; TEMP, anything else.
 */
enum err program_ask(char *const *words, unsigned ms, struct buf *out, char *why, size_t why_size);

#endif
