/*
 * args: the words of a command line: positional ones, and options that are declared once here.
 *
 * A command says in its table entry which options it takes; any other is a usage error. Values are
 * borrowed from argv.
 */
#ifndef MAILFLEET_ADMIN_ARGS_H
#define MAILFLEET_ADMIN_ARGS_H

#include <stdbool.h>

/* clang-format off */
/*      name             option            value       help; an empty value: the option has none */
#define ARG_LIST(X)                                                                               \
    X(password_stdin, "password-stdin", "", "read the password from standard input")              \
    X(hash, "hash", "HASH", "a crypt(3) hash in place of a password")                             \
    X(scram, "scram", "KEYS", "SCRAM keys (RFC 5803), with or without --hash")                   \
    X(retention, "retention", "DAYS", "how long messages are kept; never: they do not expire")    \
    X(quota_octets, "quota-octets", "SIZE", "most octets of a mailbox; none: no limit")           \
    X(quota_messages, "quota-messages", "N", "most messages of a mailbox; none: no limit")        \
    X(max_size, "max-size", "SIZE", "largest message of a mailbox; none: the fleet's limit")      \
    X(catch_all, "catch-all", "ADDRESS", "where unknown addresses of the domain lead; none: 550") \
    X(fanout, "fanout", "0..4", "hex digits of the hash directories, fixed for ever (default 2)") \
    X(weight, "weight", "N", "share of new files among active volumes (default 100)")             \
    X(free_floor, "free-floor", "SIZE", "a volume with less free space takes no new file")        \
    X(state, "state", "STATE", "active, readonly or drain")                                       \
    X(limit, "limit", "N", "stop after so many")                                                  \
    X(dry_run, "dry-run", "", "only say what would be done")

enum arg {
#define X(name, option, value, help) ARG_##name,
    ARG_LIST(X)
#undef X
    ARG_COUNT
};
/* clang-format on */

#define ARG_BIT(name) (1u << ARG_##name)

struct args {
    const char *opt[ARG_COUNT]; /* the value, "" for one without, NULL when not given */
    int n;
    char **v; /* positional */
};

/* False after a message on standard error. */
bool args_parse(int argc, char **argv, unsigned allowed, struct args *out);
/* `  --name VALUE  help` lines for the options of a command, to standard output. */
void args_help(unsigned allowed);

#endif
