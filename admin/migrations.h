/*
 * migrations: the numbered changes of the schema, as deploy/schema has them.
 *
 * The array is made at build time by deploy/schema/embed.py and is constant. Each is to be run
 * in one transaction that also records it in schema_version; nothing here talks to a database.
 */
#ifndef MAILFLEET_ADMIN_MIGRATIONS_H
#define MAILFLEET_ADMIN_MIGRATIONS_H

#include <stddef.h>

struct migration {
    unsigned number; /* 1, 2, 3... without a gap, in this order */
    const char *name;
    const char *sql; /* statements separated by semicolons: for PQexec */
};

extern const struct migration migrations[];
extern const size_t migrations_count;

#endif
