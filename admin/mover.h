/*
 * mover: moves message files from volumes to others while mail is served. Of each file: note the
 * copy (mark_copy), make and compare it (file_copy.h), let its pointers follow and leave the old
 * file to the ledger (move_file), with tombstones of the lists around it. Whatever it is killed at,
 * a pointer names a file that stands, and what was not finished is the reaper's. Any number may run
 * at once.
 *
 * One owner, who fills the first part and frees nothing; it blocks.
 */
#ifndef MAILFLEET_ADMIN_MOVER_H
#define MAILFLEET_ADMIN_MOVER_H

#include "admin.h"
#include "open_spool.h"
#include "progress.h"

#define MOVER_TRIES 3  /* volumes that a file is offered */
#define MOVER_JOBS  64 /* most files at once */

/* Behind by_whom of a ledger row of mailbox 0: whether a move has left it, so that the mail stands
 * on another volume. Else adopt.c has set a file aside that nobody lacks. */
#define MOVER_LEFT " ~ ': (drain|rebalance)(, unfinished)?$'"

struct mover;
/* Where a file of so many octets goes, other than the n tried volumes, the first of which is its
 * own; 0: nowhere. */
typedef uint16_t mover_choose_fn(struct mover *m, uint64_t octets, const uint16_t *tried, size_t n);
/* Whether a file of so many octets is to be moved from this volume to that; to 0: to any. */
typedef bool mover_wants_fn(struct mover *m, uint16_t from, uint16_t to, uint64_t octets);
/* So many octets are going to be moved; when they are not, the same with the volumes exchanged. */
typedef void mover_reserve_fn(struct mover *m, uint16_t from, uint16_t to, uint64_t octets);

struct mover {
    struct admin *admin;
    struct open_spool *volumes;
    const int64_t *sources; /* volumes that are looked for */
    size_t n_sources;
    size_t jobs;
    const char *what; /* `drain`, for the ledger */
    mover_choose_fn *choose;
    mover_wants_fn *wants;     /* NULL: all */
    mover_reserve_fn *reserve; /* NULL: nothing */
    void *arg;

    struct progress progress; /* pace and bar; .rate is the owner's */
    uint64_t found;           /* pointers to files on sources, in the last pass */
    uint64_t files, octets;   /* moved, in all passes */
    uint64_t failed;          /* in the last pass */
};

/* One pass over all pointers. EX_OK also when some failed; or a code after a message. */
int mover_pass(struct mover *m);

/*
 * A walk over all pointers, in the order of their key, a page at a time. Rows are those on these
 * volumes: mailbox_id, seq, blob_id, size, skip, volume_id, shared, handle; they may be fewer than
 * the page, or none.
 */
struct pointer_walk {
    int64_t mailbox, seq; /* behind which it goes on */
    uint64_t passed;      /* pointers in the last page, of any volume */
    bool ended;
};
int pointer_walk_next(struct admin *a, struct pointer_walk *w, const int64_t *volumes, size_t n);

#endif
