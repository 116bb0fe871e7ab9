/*
 * migrations: the numbered changes of the schema, as deploy/schema has them.
 *
 * The array is made at build time by deploy/schema/embed.py and is constant. What a script does is
 * to be recorded in schema_version, in the same transaction if it is one; nothing here talks to a
 * database.
 */
#ifndef MAILFLEET_ADMIN_MIGRATIONS_H
#define MAILFLEET_ADMIN_MIGRATIONS_H

#include <stdbool.h>
#include <stddef.h>

struct script {
    /* For PQexec, each ended by a NUL, and an empty one behind the last; NULL: there is none. */
    const char *statements;
    bool alone; /* they are not one transaction, and may be repeated after a failure */
};

struct migration {
    unsigned number; /* 1, 2, 3... without a gap, in this order */
    const char *name;
    struct script expand;   /* programs of the version before go on working */
    struct script contract; /* takes away what only they use */
    struct script revert;   /* takes expand back, before contract */
};

extern const struct migration migrations[];
extern const size_t migrations_count;

#endif
