/*
 * backup: whether the database can be set back to any time within backup.window, and whether the
 * spool has then every file that the database of that time names. docs/backup.md has the rules.
 *
 * Asks pgBackRest, as a program, and PostgreSQL. Changes nothing.
 */
#ifndef MAILFLEET_ADMIN_BACKUP_H
#define MAILFLEET_ADMIN_BACKUP_H

#include "admin.h"

typedef void backup_report_fn(void *arg, bool ok, const char *what, const char *says);
/* Tells of each rule whether it holds. The database is there and has its tables. */
void backup_check(struct admin *a, backup_report_fn *fn, void *arg);

#endif
