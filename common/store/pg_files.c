/*
 * pg_files: reads a connection string as libpq does, and knows its keywords of files. It opens
 * none, and keeps nothing.
 */
#include "store/pg_files.h"

#include <libpq-fe.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"

static const char *const keywords[] = { "sslrootcert", "sslcert",   "sslkey",
                                        "sslcrl",      "sslcrldir", "passfile" };
/* In the home directory. */
static const char *const defaults[] = { ".postgresql", ".pgpass" };

/* As libpq finds it. */
static const char *home(void)
{
    const char *path = getenv("HOME");
    if (path && *path) {
        return path;
    }
    const struct passwd *pw = getpwuid(geteuid());
    return pw ? pw->pw_dir : NULL;
}

static void tell_named(const char *url, pg_files_fn *fn, void *arg)
{
    PQconninfoOption *options = PQconninfoParse(url, NULL);
    for (const PQconninfoOption *o = options; o && o->keyword; o++) {
        for (size_t i = 0; i < ARRAY_LEN(keywords); i++) {
            if (o->val && *o->val && strcmp(o->keyword, keywords[i]) == 0) {
                fn(arg, o->val);
            }
        }
    }
    PQconninfoFree(options);
}

void pg_files(const char *url, pg_files_fn *fn, void *arg)
{
    char path[4096];
    const char *at = home();
    tell_named(url, fn, arg);
    for (size_t i = 0; at && i < ARRAY_LEN(defaults); i++) {
        snprintf(path, sizeof path, "%s/%s", at, defaults[i]);
        fn(arg, path);
    }
}
