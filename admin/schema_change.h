/*
 * schema_change: runs one script of a migration and records it, while the fleet works.
 *
 * A script has many statements, which a parameterised one may not, so it goes as a simple query on
 * a connection of its own, which blocks. What it may do to mail is bounded: see the file.
 */
#ifndef MAILFLEET_ADMIN_SCHEMA_CHANGE_H
#define MAILFLEET_ADMIN_SCHEMA_CHANGE_H

#include "admin.h"
#include "migrations.h"

enum schema_change { SCHEMA_EXPAND, SCHEMA_CONTRACT, SCHEMA_REVERT };

/*
 * EX_OK, and said so; or a code after a message: nothing is changed then, but for a script that is
 * not one transaction, which is to be run again. unused: nobody works with the database yet.
 */
int schema_change(struct admin *a, const struct migration *m, enum schema_change kind, bool unused);

/* What a migration has for it. */
const struct script *schema_script(const struct migration *m, enum schema_change kind);

#endif
