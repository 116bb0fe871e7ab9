/*
 * mailfleet: the operator's command. This file is its table of commands, and what is common to
 * all: --config, --json, --help. The work is in the files that commands.h names.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "commands.h"
#include "given.h"

#define DEFAULT_CONFIG "/etc/mailfleet/mailfleet.conf"

#define LIMIT_ARGS    (ARG_BIT(quota_octets) | ARG_BIT(quota_messages) | ARG_BIT(max_size))
#define KEEP_ARGS     (LIMIT_ARGS | ARG_BIT(retention) | ARG_BIT(read_retention))
#define TOTAL_ARGS    (ARG_BIT(total_octets) | ARG_BIT(total_messages))
#define PASSWORD_ARGS (ARG_BIT(password_stdin) | ARG_BIT(hash) | ARG_BIT(scram))
#define MOVE_ARGS                                                                                  \
    (ARG_BIT(list) | ARG_BIT(jobs) | ARG_BIT(format) | ARG_BIT(password_file) | ARG_BIT(master) |  \
     ARG_BIT(ca))
#define DNS_ARGS                                                                                   \
    (ARG_BIT(check) | ARG_BIT(mta_sts) | ARG_BIT(also) | ARG_BIT(no_policy) |                      \
     ARG_BIT(policy_from) | ARG_BIT(ca) | ARG_BIT(jobs) | ARG_BIT(limit))
#define VOLUME_ARGS (ARG_BIT(weight) | ARG_BIT(free_floor) | ARG_BIT(state))
#define FSCK_ARGS                                                                                  \
    (ARG_BIT(volume) | ARG_BIT(since) | ARG_BIT(older) | ARG_BIT(deep) | ARG_BIT(all) |            \
     ARG_BIT(rate) | ARG_BIT(jobs) | ARG_BIT(resume))

static const struct command {
    const char *name;  /* one or two words */
    const char *words; /* positional, for the usage line */
    int min, max;      /* of them */
    uint64_t args;     /* options it takes */
    bool keeps_root;   /* has something to do as root first */
    command_fn *run;
    const char *help;
} commands[] = {
/* What the commands that follow are for; in `mailfleet help` alone. */
#define FOR(what)                                                                                  \
    {                                                                                              \
        .help = what                                                                               \
    }
    FOR("Setting a fleet up, and whether all is well"),
    { "init", "", 0, 0, 0, true, command_init, "make the fleet key and the database's tables" },
    { "migrate", "", 0, 0,
      ARG_BIT(dry_run) | ARG_BIT(status) | ARG_BIT(contract) | ARG_BIT(revert) | ARG_BIT(yes),
      false, command_migrate, "bring the database's schema up to this version, or back" },
    { "check", "", 0, 0, 0, false, command_check, "try the configuration and every connection" },
    { "settings", "", 0, 0, 0, false, command_settings, "show every setting in force" },
    { "epoch", "", 0, 0, 0, false, command_epoch, "put everything that is cached out of reach" },
    { "dns", "[DOMAIN...]", 0, 1000, DNS_ARGS, false, command_dns,
      "print what the DNS is to say of the fleet, or compare it with what it says" },
    FOR("Nodes: the daemons of the fleet"),
    { "nodes", "", 0, 0, ARG_BIT(forget) | ARG_BIT(role) | ARG_BIT(yes), false, command_nodes,
      "show every node, whether it is ready, and its load; or forget one" },
    { "drain", "NODE", 1, 1, ARG_BIT(role) | ARG_BIT(wait) | ARG_BIT(yes), false, command_drain,
      "let a node take nothing new, and its sessions finish" },
    { "undrain", "NODE", 1, 1, ARG_BIT(role), false, command_undrain, "take it back into service" },
    FOR("Domains that mail is taken for"),
    { "domain add", "NAME", 1, 1, KEEP_ARGS | TOTAL_ARGS | ARG_BIT(catch_all), false,
      command_domain_add, "take mail for a domain" },
    { "domain set", "NAME", 1, 1, KEEP_ARGS | TOTAL_ARGS | ARG_BIT(catch_all) | ARG_BIT(yes), false,
      command_domain_set,
      "change its catch-all, totals and retention, and the limits of new accounts" },
    { "domain remove", "NAME", 1, 1, ARG_BIT(yes), false, command_domain_remove,
      "forget a domain without addresses" },
    { "domain list", "", 0, 0, 0, false, command_domain_list, "list domains" },
    FOR("Accounts: mailboxes, and who may log in"),
    { "account add", "ADDRESS", 1, 1, KEEP_ARGS | PASSWORD_ARGS | ARG_BIT(reuse), false,
      command_account_add, "make a mailbox" },
    { "account passwd", "ADDRESS", 1, 1, PASSWORD_ARGS, false, command_account_passwd,
      "change a password" },
    { "account quota", "ADDRESS", 1, 1, LIMIT_ARGS, false, command_account_quota,
      "change the limits of a mailbox" },
    { "account retention", "ADDRESS DAYS", 2, 2, ARG_BIT(read_retention), false,
      command_account_retention,
      "expire messages after so many days, or never, or as its domain has it" },
    { "account suspend", "ADDRESS", 1, 1, 0, false, command_account_suspend,
      "no logins and no new mail; what is there stays" },
    { "account resume", "ADDRESS", 1, 1, 0, false, command_account_resume, "undo suspend" },
    { "account remove", "[ADDRESS...]", 0, 1000, ARG_BIT(list) | ARG_BIT(yes), false,
      command_account_remove, "no logins, no mail, and after a grace no mailbox" },
    { "account restore", "[ADDRESS...]", 0, 1000, ARG_BIT(list), false, command_account_restore,
      "undo remove, with its aliases, within the grace" },
    { "account receipt", "[ADDRESS...]", 0, 1000, ARG_BIT(list), false, command_account_receipt,
      "tell what went with accounts that were removed" },
    { "account show", "ADDRESS", 1, 1, 0, false, command_account_show, "show a mailbox" },
    { "account list", "[DOMAIN]", 0, 1, 0, false, command_account_list, "list mailboxes" },
    { "account count", "", 0, 0, 0, false, command_account_count,
      "count accounts, and those that can log in by SCRAM" },
    { "account dump", "", 0, 0, 0, false, command_account_dump,
      "write all accounts, aliases, domains and volumes, for mailfleet rebuild" },
    FOR("Addresses that lead to others"),
    { "alias add", "ALIAS TARGET...", 2, 1001, ARG_BIT(reuse), false, command_alias_add,
      "let an address lead to others, or to more of them" },
    { "alias remove", "ALIAS [TARGET...]", 1, 1001, ARG_BIT(yes), false, command_alias_remove,
      "remove an alias, or some of its targets" },
    { "alias list", "[DOMAIN]", 0, 1, 0, false, command_alias_list, "list aliases" },
    FOR("Volumes, where message files lie"),
    { "volume add", "URL", 1, 1, VOLUME_ARGS | ARG_BIT(fanout) | ARG_BIT(existing), true,
      command_volume_add, "make a volume: nfs://host[:port]/path or file:///path" },
    { "volume list", "", 0, 0, ARG_BIT(scan), false, command_volume_list, "list volumes" },
    { "volume set", "ID", 1, 1, VOLUME_ARGS, false, command_volume_set,
      "change state, weight or free-space floor" },
    { "volume drain", "ID", 1, 1, ARG_BIT(rate) | ARG_BIT(jobs) | ARG_BIT(yes), false,
      command_volume_drain, "move all files of a volume to the others, while mail is served" },
    { "volume remove", "ID", 1, 1, ARG_BIT(yes), false, command_volume_remove,
      "forget a drained volume that nothing is on any more" },
    { "volume rebalance", "", 0, 0, ARG_BIT(rate) | ARG_BIT(jobs) | ARG_BIT(yes), false,
      command_volume_rebalance, "move files until each volume has its share, by weight" },
    FOR("Messages: what is there, what was deleted, and what becomes of it"),
    { "messages", "ADDRESS", 1, 1, ARG_BIT(limit), false, command_messages,
      "list the pointers of a mailbox" },
    { "ledger", "[ID] [ADDRESS]", 0, 2, ARG_BIT(since) | ARG_BIT(scan) | ARG_BIT(limit), false,
      command_ledger, "tell whether a message stands, was deleted, or is lost" },
    { "trace", "ID|ADDRESS", 1, 1, ARG_BIT(since) | ARG_BIT(log), false, command_trace,
      "tell every event of a message, or the messages and logins of an address" },
    { "delete", "ADDRESS", 1, 1,
      ARG_BIT(id) | ARG_BIT(uidl) | ARG_BIT(all) | ARG_BIT(older) | ARG_BIT(yes), false,
      command_delete,
      "delete messages of a mailbox, as its owner could; undelete gives them back" },
    { "undelete", "ADDRESS", 1, 1, ARG_BIT(since) | ARG_BIT(id) | ARG_BIT(yes), false,
      command_undelete, "give deleted messages back, while the grace period lasts" },
    { "reap", "", 0, 0, ARG_BIT(limit) | ARG_BIT(rate) | ARG_BIT(no_fuse) | ARG_BIT(yes), false,
      command_reap, "expire messages, and unlink the files that the grace period has released" },
    { "reaping", "[on|off]", 0, 1, 0, false, command_reaping,
      "show whether reapers may unlink; hold them, or let them run after a restore" },
    FOR("Whether the disk and the database agree, and what to do when they do not"),
    { "fsck", "", 0, 0, FSCK_ARGS, false, command_fsck,
      "compare the volumes with the database, and tell what does not fit" },
    { "recount", "[ADDRESS]", 0, 1, ARG_BIT(yes), false, command_recount,
      "compare all counters with what they count, and mend them" },
    { "adopt", "", 0, 0,
      ARG_BIT(yes) | ARG_BIT(volume) | ARG_BIT(since) | ARG_BIT(older) | ARG_BIT(log) |
          ARG_BIT(rate) | ARG_BIT(jobs),
      false, command_adopt, "give files that nothing names back to who they were for" },
    { "rebuild", "", 0, 0,
      ARG_BIT(yes) | ARG_BIT(accounts) | ARG_BIT(log) | ARG_BIT(deep) | ARG_BIT(rate) |
          ARG_BIT(jobs),
      false, command_rebuild, "make the database anew from the spool" },
    FOR("Moving in, and moving out"),
    { "import", "URL [ADDRESS]", 1, 2, MOVE_ARGS | ARG_BIT(rate) | ARG_BIT(prune) | ARG_BIT(yes),
      false, command_import, "bring mail in: maildir:/path, mbox:/path, pop3://host" },
    { "verify", "URL [ADDRESS]", 1, 2,
      MOVE_ARGS | ARG_BIT(rate) | ARG_BIT(deep) | ARG_BIT(cut_over) | ARG_BIT(yes), false,
      command_verify, "compare what was moved in with the old server" },
    { "export", "ADDRESS PATH", 2, 2, ARG_BIT(format), false, command_export,
      "write a mailbox out as a Maildir or mbox" },
};

static void print_line(const struct command *c)
{
    char left[64];
    snprintf(left, sizeof left, "%s %s", c->name, c->words);
    printf("  %-32s %s\n", left, c->help);
}

static void print_usage(void)
{
    printf(
        "usage: mailfleet [--config FILE] [--json] COMMAND [WORDS] [OPTIONS]\n\n"
        "A new fleet takes init, volume add, domain add, account add and check, in this order.\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (commands[i].name) {
            print_line(&commands[i]);
        } else {
            printf("\n%s:\n", commands[i].help);
        }
    }
    printf("\nmailfleet help COMMAND tells a command's options; mailfleet(8) tells all of it.\n"
           "A command that removes something does so with --yes alone, and else says what it\n"
           "would do. --json is for scripts. The configuration is %s\n"
           "unless --config names another.\n",
           DEFAULT_CONFIG);
}

/* Those of several words that begin with this one. False: there are none. */
static bool print_family(const char *word)
{
    size_t n = strlen(word);
    bool any = false;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const char *name = commands[i].name;
        if (name && strncmp(name, word, n) == 0 && name[n] == ' ') {
            print_line(&commands[i]);
            any = true;
        }
    }
    return any;
}

static void print_command(const struct command *c)
{
    printf("usage: mailfleet %s%s%s%s\n%s\n", c->name, *c->words ? " " : "", c->words,
           c->args ? " [OPTIONS]" : "", c->help);
    args_help(c->args);
}

static int help(const struct command *c, int argc, char **argv)
{
    if (c) {
        print_command(c);
    } else if (argc < 2) {
        print_usage();
    } else if (!print_family(argv[1])) {
        return admin_fail(EX_USAGE, "no such command: %s (mailfleet help lists them)", argv[1]);
    }
    return EX_OK;
}

/* `account` alone, or with a word that is none of its own. */
static int no_command(const char *word)
{
    char second[512] = "";
    size_t len = strlen(word), n = 0;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const char *name = commands[i].name;
        if (name && strncmp(name, word, len) == 0 && name[len] == ' ' && n < sizeof second) {
            n += (size_t)snprintf(second + n, sizeof second - n, "%s%s", n ? ", " : "",
                                  name + len + 1);
        }
    }
    return n ? admin_fail(EX_USAGE, "%s needs one of %s: see mailfleet help %s", word, second, word)
             : admin_fail(EX_USAGE, "no such command: %s (mailfleet help lists them)", word);
}

/* The words in front that are a command's name; how many, in *words. */
static const struct command *find_command(int argc, char **argv, int *words)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (!commands[i].name) {
            continue;
        }
        const char *second = strchr(commands[i].name, ' ');
        size_t first_len = second ? (size_t)(second - commands[i].name) : strlen(commands[i].name);
        if (argc < (second ? 2 : 1) || strlen(argv[0]) != first_len ||
            memcmp(argv[0], commands[i].name, first_len) != 0 ||
            (second && strcmp(argv[1], second + 1) != 0)) {
            continue;
        }
        *words = second ? 2 : 1;
        return &commands[i];
    }
    return NULL;
}

struct common {
    const char *config;
    bool json, help, version;
};

/* Takes the options that every command has out of argv, wherever they stand. False: bad usage. */
static bool take_common(int *argc, char **argv, struct common *out)
{
    int n = 0;
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            out->json = true;
        } else if (strcmp(argv[i], "--help") == 0) {
            out->help = true;
        } else if (strcmp(argv[i], "--version") == 0) {
            out->version = true;
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            out->config = argv[i] + 9;
        } else if (strcmp(argv[i], "--config") == 0) {
            if (++i == *argc) {
                return false;
            }
            out->config = argv[i];
        } else {
            argv[n++] = argv[i];
        }
    }
    *argc = n;
    return true;
}

/* What options name may be for root alone, who the command is not for long. */
static void keep_files(const struct args *args)
{
    static const enum arg files[] = { ARG_list, ARG_password_file, ARG_accounts, ARG_log };
    for (size_t i = 0; i < ARRAY_LEN(files) && geteuid() == 0; i++) {
        given_keep(args->opt[files[i]]);
    }
}

static int run(const struct command *c, const struct common *common, const struct args *args)
{
    struct admin a = { 0 };
    char why[512];
    if (config_load(common->config, &a.config, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    keep_files(args);
    log_set_level(LOG_ERROR); /* what a command does it says itself */
    admin_open(&a, common->config, common->json);
    int code = c->keeps_root || admin_drop_root(&a) ? c->run(&a, args) : EX_CONFIG;
    admin_close(&a);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return admin_fail(EX_IOERR, "standard output: %s", strerror(errno));
    }
    return code;
}

int main(int argc, char **argv)
{
    struct common common = { .config = DEFAULT_CONFIG };
    int words = 0;
    if (!take_common(&argc, argv, &common)) {
        return admin_fail(EX_USAGE, "--config needs a file");
    }
    if (common.version) {
        printf("mailfleet %s\n", MAILFLEET_VERSION);
        return EX_OK;
    }
    if (argc > 1 && strcmp(argv[1], "help") == 0) {
        common.help = true;
        argv[1] = argv[0];
        argc--;
        argv++;
    }
    const struct command *c = find_command(argc - 1, argv + 1, &words);
    if (common.help) {
        return help(c, argc, argv);
    }
    if (argc < 2) {
        print_usage();
        return EX_USAGE;
    }
    if (!c) {
        return no_command(argv[1]);
    }
    struct args args;
    argv[words] = argv[0]; /* the name that getopt complains under */
    if (!args_parse(argc - words, argv + words, c->args, &args)) {
        return EX_USAGE;
    }
    if (args.n < c->min || args.n > c->max) {
        return admin_fail(EX_USAGE, "usage: mailfleet %s %s", c->name, c->words);
    }
    return run(c, &common, &args);
}
