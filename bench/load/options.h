/*
 * options: the command lines of the load generators. What is not right ends the program with status
 * 64 (EX_USAGE) and a line that says why.
 */
#ifndef MAILFLEET_BENCH_LOAD_OPTIONS_H
#define MAILFLEET_BENCH_LOAD_OPTIONS_H

#include <getopt.h>

#include "load.h"

#define LATER_MAX   1000000000ull
#define SOURCES_MAX 60000

/* What all generators are told. */
struct options {
    const char *server, *user;
    uint64_t first, count; /* --users */
    uint64_t operations, seconds, at_once, sources, time_out;
};

/* The options of getopt_long that options_take knows. */
#define OPTIONS_COMMON                                                                             \
    { "server", required_argument, NULL, 's' }, { "at-once", required_argument, NULL, 'n' },       \
        { "operations", required_argument, NULL, 'o' },                                            \
        { "seconds", required_argument, NULL, 't' }, { "sources", required_argument, NULL, 'S' },  \
    {                                                                                              \
        "time-out", required_argument, NULL, 'T'                                                   \
    }
#define OPTIONS_USERS                                                                              \
    { "user", required_argument, NULL, 'u' },                                                      \
    {                                                                                              \
        "users", required_argument, NULL, 'U'                                                      \
    }

#define OPTIONS_DEFAULT                                                                            \
    {                                                                                              \
        .count = 1, .at_once = 1, .sources = 16, .time_out = 60                                    \
    }

_Noreturn void options_wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A number from least to most. */
uint64_t options_number(const char *text, uint64_t least, uint64_t most, const char *what);
/* The place of text in words, which end with NULL. */
unsigned options_word(const char *text, const char *const *words, const char *what);

/* False: none of these. */
bool options_take(struct options *o, int option, const char *value);
/* All that every generator needs is there: target, tickets, slots. */
void options_finish(const struct options *o, struct load_plan *plan, struct tickets *tickets);
struct names options_names(const struct options *o);

#endif
