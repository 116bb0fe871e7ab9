/*
 * args: the words of a command line: positional ones, and options that are declared once here.
 *
 * A command says in its table entry which options it takes; any other is a usage error. Values are
 * borrowed from argv.
 */
#ifndef MAILFLEET_ADMIN_ARGS_H
#define MAILFLEET_ADMIN_ARGS_H

#include <stdbool.h>
#include <stdint.h>

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
    X(role, "role", "ROLE", "deliver or frontend alone, of a host that is both")                  \
    X(wait, "wait", "", "until it has no sessions left")                                          \
    X(forget, "forget", "NODE", "remove what is known of a node that is gone")                    \
    X(limit, "limit", "N", "stop after so many")                                                  \
    X(dry_run, "dry-run", "", "only say what would be done")                                      \
    X(yes, "yes", "", "do it; without it, only say what would be done")                           \
    X(since, "since", "TIME", "from then on: 2026-01-31T12:00Z, or 3d, 12h, 30m ago")             \
    X(older, "older", "TIME", "only what is older")                                               \
    X(volume, "volume", "ID", "on this volume alone")                                             \
    X(deep, "deep", "", "read every file and compare its hash")                                   \
    X(rate, "rate", "N", "at most so many files a second")                                        \
    X(jobs, "jobs", "N", "so many at once")                                                       \
    X(resume, "resume", "FILE", "note in FILE how far it came, and go on from there")             \
    X(list, "list", "FILE", "accounts, one a line; - is standard input")                                    \
    X(log, "log", "FILE", "log lines of the nodes: a file, a folder, or - for standard input")            \
    X(id, "id", "ID", "this message alone")                                                       \
    X(reuse, "reuse", "", "though another account had this address before")                       \
    X(no_fuse, "no-fuse", "", "though it is more than reap.fuse allows")                          \
    X(scan, "scan", "", "look through every pointer; slow")                                       \
    X(read_retention, "read-retention", "DAYS", "how long messages that were read are kept")      \
    X(total_octets, "total-octets", "SIZE", "most octets of all mailboxes of a domain")           \
    X(total_messages, "total-messages", "N", "most messages of all mailboxes of a domain")        \
    X(existing, "existing", "", "a volume that is there already, with its files")                 \
    X(accounts, "accounts", "FILE", "what mailfleet account dump wrote")                           \
    X(format, "format", "FORMAT", "how the old server makes UIDLs; of export: maildir or mbox")                          \
    X(password_file, "password-file", "FILE", "its first line is the old server's password")      \
    X(master, "master", "NAME", "log in to the old server as ADDRESS*NAME")                       \
    X(ca, "ca", "FILE", "authorities of the other server's certificate, not the system's (PEM)")    \
    X(status, "status", "", "show what is applied, and which nodes need what")                     \
    X(contract, "contract", "", "take away what only older programs use")                         \
    X(revert, "revert", "VERSION", "go back to this version of the schema")                        \
    X(cut_over, "cut-over", "", "resume the accounts that are the same on both sides")            \
    X(check, "check", "", "compare with what the DNS answers")                                    \
    X(mta_sts, "mta-sts", "", "print the policy that web servers have for mta-sts.DOMAIN")        \
    X(also, "also", "FILE", "also the keys of these certificates (PEM), separated by commas")     \
    X(no_policy, "no-policy", "", "look at no policy (MTA-STS)")                                  \
    X(policy_from, "policy-from", "HOST:PORT", "ask this web server for policies, wherever names lead") \
    X(all, "all", "", "all messages; of fsck: every file that waits to be unlinked, too")         \
    X(uidl, "uidl", "UIDL", "the message with this UIDL alone")                                   \
    X(prune, "prune", "", "delete here, before the cut-over, what has gone at the old server")

enum arg {
#define X(name, option, value, help) ARG_##name,
    ARG_LIST(X)
#undef X
    ARG_COUNT
};
/* clang-format on */

#define ARG_BIT(name) (UINT64_C(1) << ARG_##name)
_Static_assert(ARG_COUNT <= 64, "a command's options are bits of one number");

struct args {
    const char *opt[ARG_COUNT]; /* the value, "" for one without, NULL when not given */
    int n;
    char **v; /* positional */
};

/* `limit`, as it stands behind --. */
const char *args_name(enum arg option);
/* False after a message on standard error. */
bool args_parse(int argc, char **argv, uint64_t allowed, struct args *out);
/*
 * Whether a command may do what it would do. Without --yes it says `would FMT`, and that nothing
 * was done; the command then ends with EX_OK.
 */
bool args_yes(const struct args *args, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* `  --name VALUE  help` lines for the options of a command, to standard output. */
void args_help(uint64_t allowed);

#endif
