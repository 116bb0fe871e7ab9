/*
 * fault: named points at which a test can stop the process or make a call fail.
 *
 * Armed by the environment variable MAILFLEET_FAULT=NAME[:COUNT]=ACTION[,...], which only builds
 * with -Dfaults=true read; elsewhere fault_at is nothing at all. The action happens once in each
 * process, at the COUNT-th pass (1 by default). kill: SIGKILL to the own process group; stop:
 * SIGSTOP; fail: fault_at returns true, and the caller fails as the table says. The names are in
 * this table and nowhere else.
 */
#ifndef MAILFLEET_BASE_FAULT_H
#define MAILFLEET_BASE_FAULT_H

#include <stdbool.h>

/* clang-format off */
#define FAULT_LIST(X)                                                         \
    X(deliver_file_written, "the file is durable, the commit not yet sent")   \
    X(deliver_committed, "the commit is acknowledged, the second tombstone not yet set") \
    X(deliver_before_reply, "all is done, the reply not yet sent")            \
    X(expunge_committed, "the deletes are committed, the second tombstone not yet set") \
    X(spool_fsync, "fsync of a message file reports EIO")                     \
    X(delete_counted, "an operator's delete has counted what it is going to delete") \
    X(reap_expired, "the reaper has moved old pointers to the ledger") \
    X(purge_moved, "the reaper has moved pointers of a removed account to the ledger") \
    X(purge_ended, "the rows of a removed account are gone, the receipt says so") \
    X(reap_claimed, "the reaper has claimed rows, nothing is unlinked yet")   \
    X(reap_unlinked, "the reaper has unlinked a file, its row still stands")  \
    X(import_written, "files of an import are durable, their pointers are not committed") \
    X(import_committed, "pointers of an import are committed, the rest is to come") \
    X(reap_released, "the reaper has ended the rows of what it unlinked")     \
    X(undelete_committed, "a page of pointers is back, the second tombstone is set")   \
    X(adopt_deleted, "adopt has deleted again what the log names, no orphan is given back yet") \
    X(adopt_committed, "adopt has given back an orphan, others may follow") \
    X(rebuild_accounts, "rebuild has made the accounts, no pointer yet") \
    X(rebuild_filled, "rebuild has made some pointers of a day, whose end is not noted") \
    X(rebuild_day, "rebuild has made all pointers of a day and noted it") \
    X(fsck_snapshot, "fsck has its snapshot of the database, and has not looked at a file") \
    X(fsck_directory, "fsck is done with a directory, and has noted it")      \
    X(drain_heard, "a drain takes it that all nodes know the volume's state at once") \
    X(remove_waits, "volume remove has found it empty, and is going to wait") \
    X(remove_looked, "volume remove has looked at the ledger, not yet at pointers") \
    X(move_marked, "a drain has noted what it is going to copy")              \
    X(move_copied, "copies for a drain are durable, no pointer has followed") \
    X(move_moved, "pointers have followed their copies")                      \
    X(sandbox_probe, "a worker that starts tries what it must not be able to do")

enum fault {
#define X(name, help) FAULT_##name,
    FAULT_LIST(X)
#undef X
    FAULT_COUNT
};
/* clang-format on */

#ifdef MAILFLEET_FAULTS
bool fault_at(enum fault f);
#else
static inline bool fault_at(enum fault f)
{
    (void)f;
    return false;
}
#endif

#endif
