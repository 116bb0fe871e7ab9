/*
 * schema_version: see the header. Owns nothing.
 */
#include "store/schema_version.h"

#include <stdio.h>

#include "store/pg.h"

bool schema_read(const PGresult *r, struct schema *out)
{
    if (!pg_shape(r, "ii") || PQntuples(r) != 1) {
        return false;
    }
    *out = (struct schema){ .applied = pg_get_i64(r, 0, 0), .contracted = pg_get_i64(r, 0, 1) };
    return true;
}

bool schema_fits(const struct schema *s, char *why, size_t why_size)
{
    if (s->applied < SCHEMA_VERSION) {
        snprintf(why, why_size,
                 "the database has schema %lld, this program needs %d: run mailfleet migrate",
                 (long long)s->applied, SCHEMA_VERSION);
        return false;
    }
    if (s->contracted > SCHEMA_VERSION) {
        snprintf(why, why_size,
                 "schema %lld of the database is contracted, this program knows %d: upgrade it",
                 (long long)s->contracted, SCHEMA_VERSION);
        return false;
    }
    return true;
}
