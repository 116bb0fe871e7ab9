/*
 * fsck: the disk against the database, both ways, directory by directory. It finds and tells;
 * what is done about it is its caller's (`mailfleet fsck` prints, `mailfleet adopt` gives orphans
 * back). It changes nothing.
 */
#ifndef MAILFLEET_ADMIN_FSCK_H
#define MAILFLEET_ADMIN_FSCK_H

#include "admin.h"
#include "store/envelope.h"

/* clang-format off */
/*    name        key           exit  what it is */
#define FINDING_LIST(X)                                                                            \
    X(ORPHAN,     "orphan",      1)   /* a whole file that no pointer and no ledger row names */    \
    X(MISSING,    "missing",     2)   /* a pointer without a file */                                \
    X(SIZE,       "wrong-size",  4)   /* the file is not as long as its pointer says */             \
    X(HASH,       "wrong-hash",  8)   /* its content is not what its envelope says (deep) */        \
    X(UNREADABLE, "unreadable",  8)   /* nobody can read it, and the volume is there (deep) */      \
    X(VOLUME,     "wrong-volume", 16) /* its pointer names another volume */                        \
    X(FOREIGN,    "foreign",     32)  /* not one of ours, or not where it belongs */                \
    X(UNFINISHED, "unfinished",  0)   /* begun and never ended; or a copy beside the file in use */ \
    X(GARBAGE,    "garbage",     0)   /* in the ledger: its unlinking is only a matter of time */
/* clang-format on */

enum finding_class {
#define X(name, key, exit) FINDING_##name,
    FINDING_LIST(X)
#undef X
        FINDING_CLASSES
};

/* Everything is borrowed while the call lasts. */
struct finding {
    enum finding_class cls;
    uint16_t volume;                 /* where the file is, or should be */
    const char *path;                /* below the volume */
    const struct blob_id *id;        /* NULL: foreign */
    uint64_t size;                   /* octets of the file; 0: missing */
    int64_t changed_ms;              /* of the file; 0: missing */
    uint64_t mailbox_id;             /* of a pointer; 0: none */
    uint16_t other_volume;           /* VOLUME: that the pointer names */
    const struct envelope *envelope; /* NULL: there is none that can be read */
    size_t skip;                     /* its octets */
    bool shared;                     /* the pointer says so */
};

/* On the thread of fsck_run's caller, one at a time. False ends the run. */
typedef bool finding_fn(void *arg, const struct finding *f);

struct fsck_options {
    uint16_t volume;  /* 0: all */
    int64_t since_ms; /* files and pointers of ids from then on; 0: all */
    int64_t older_ms; /* and only files that are older than this time; 0: spool.orphan_age */
    bool deep;
    bool garbage;       /* tell of garbage too, one by one */
    unsigned jobs;      /* threads; 0: a few */
    uint64_t rate;      /* files a second; 0: no limit */
    const char *resume; /* a file; NULL: none */
};

struct fsck_totals {
    uint64_t files, pointers, octets, directories;
    uint64_t found[FINDING_CLASSES];
};

/* EX_OK when it came to the end, whatever it found; or a code after a message. */
int fsck_run(struct admin *a, const struct fsck_options *o, finding_fn *fn, void *arg,
             struct fsck_totals *totals);

#endif
