/*
 * migrate: what other commands ask about the schema. The command itself is in commands.h.
 */
#ifndef MAILFLEET_ADMIN_MIGRATE_H
#define MAILFLEET_ADMIN_MIGRATE_H

#include "admin.h"

/* Whether this program can work with the schema; says holds one line in either case. */
bool migrate_check(struct admin *a, char *says, size_t size);

#endif
