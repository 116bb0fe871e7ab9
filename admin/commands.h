/*
 * commands: every command of mailfleet(8). The table with names, words and options is in main.c.
 *
 * Each returns an exit code of sysexits.h after saying on standard error what went wrong.
 */
#ifndef MAILFLEET_ADMIN_COMMANDS_H
#define MAILFLEET_ADMIN_COMMANDS_H

#include "admin.h"
#include "args.h"

typedef int command_fn(struct admin *a, const struct args *args);

/* setup.c */
command_fn command_init, command_check, command_settings, command_epoch;
/* migrate.c */
command_fn command_migrate;
/* nodes.c */
command_fn command_nodes;
/* node_drain.c */
command_fn command_drain, command_undrain;
/* domain.c */
command_fn command_domain_add, command_domain_set, command_domain_remove, command_domain_list;
/* dns.c */
command_fn command_dns;
/* account.c */
command_fn command_account_add, command_account_passwd, command_account_quota,
    command_account_suspend, command_account_resume, command_account_show, command_account_list,
    command_account_retention, command_account_count;
/* removal.c */
command_fn command_account_remove, command_account_restore, command_account_receipt;
/* alias.c */
command_fn command_alias_add, command_alias_remove, command_alias_list;
/* volume.c */
command_fn command_volume_add, command_volume_list, command_volume_set;
/* fsck_command.c */
command_fn command_fsck;
/* drain.c */
command_fn command_volume_drain, command_volume_rebalance, command_volume_remove;
/* messages.c */
command_fn command_messages;
/* import.c */
command_fn command_import;
/* verify.c */
command_fn command_verify;
/* export.c */
command_fn command_export;
/* delete.c */
command_fn command_delete;
/* undelete.c */
command_fn command_undelete;
/* ledger.c */
command_fn command_ledger;
/* recount.c */
command_fn command_recount;
/* dump.c */
command_fn command_account_dump;
/* rebuild.c */
command_fn command_rebuild;
/* adopt.c */
command_fn command_adopt;
/* reap.c */
command_fn command_reap;
/* reaping.c */
command_fn command_reaping;
/* trace.c */
command_fn command_trace;

#endif
