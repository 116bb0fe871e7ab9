/*
 * pg_files: the files that libpq reads when it connects: those that a connection string names, and
 * those in the home directory. For who must know before it is forbidden.
 */
#ifndef MAILFLEET_STORE_PG_FILES_H
#define MAILFLEET_STORE_PG_FILES_H

/* A file or a directory, which need not exist; borrowed until return. */
typedef void pg_files_fn(void *arg, const char *path);
/* A string that makes no sense names none: who connects will say so. */
void pg_files(const char *url, pg_files_fn *fn, void *arg);

#endif
