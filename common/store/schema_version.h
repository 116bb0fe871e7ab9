/*
 * schema_version: which state of the database's schema this program works with, and whether the
 * database is in such a state. deploy/schema has the migrations; this has no SQL but the one
 * question, and changes nothing.
 *
 * A program knows the migrations up to SCHEMA_VERSION. It needs all of them to be applied. Newer
 * ones may be applied, as they only add; none of them may be contracted, as that takes away what
 * older programs use. So nodes of two versions can run at once, between the two.
 */
#ifndef MAILFLEET_STORE_SCHEMA_VERSION_H
#define MAILFLEET_STORE_SCHEMA_VERSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pg_result; /* libpq's PGresult */

/* The number of the newest migration. The build counts the scripts; embed.py checks it. */
#define SCHEMA_VERSION MAILFLEET_SCHEMA

struct schema {
    int64_t applied;    /* the newest migration that is applied; 0: none */
    int64_t contracted; /* the newest one that is contracted; 0: none */
};

/* The statement that tells it; the result is binary. */
#define SCHEMA_SQL                                                                                 \
    "SELECT coalesce(max(version), 0),"                                                            \
    "       coalesce(max(version) FILTER (WHERE contracted_at IS NOT NULL), 0)"                    \
    "  FROM schema_version"
/* False: the result is of another shape. */
bool schema_read(const struct pg_result *r, struct schema *out);

/* Whether this program can work with it; if not, why holds what is wrong and what helps. */
bool schema_fits(const struct schema *s, char *why, size_t why_size);

#endif
