/*
 * given: files that options name: lists of accounts, passwords, a dump, logs. Who starts a command
 * may read them, and often nobody else: they are opened before root becomes node.user.
 *
 * Owns what it keeps, until the process ends. Reads only; folders are not kept.
 */
#ifndef MAILFLEET_ADMIN_GIVEN_H
#define MAILFLEET_ADMIN_GIVEN_H

#include <stdio.h>

/* While the command still is root; path may be NULL. What can't be opened is told by given_open. */
void given_keep(const char *path);
/* As fopen(path, "re"): from the beginning, to be closed, NULL with errno. One at a time of a path.
 */
FILE *given_open(const char *path);
/* The same, as open(path, O_RDONLY). */
int given_descriptor(const char *path);

#endif
