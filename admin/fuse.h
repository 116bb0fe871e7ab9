/*
 * fuse: how much of each volume a reaper may unlink. When what is due, and what reapers have
 * unlinked of the volume since midnight (UTC), is more than reap.fuse per cent of what lies there,
 * something has probably gone wrong: a clock, a script, a restore. Then nothing of the volume is
 * unlinked until an operator has looked at it, or the day is over.
 *
 * It decides; it unlinks and changes nothing.
 */
#ifndef MAILFLEET_ADMIN_FUSE_H
#define MAILFLEET_ADMIN_FUSE_H

#include "admin.h"

struct fuse {
    uint16_t volume;
    bool known; /* the volume was well; else nothing of it may be unlinked in this run */
    bool blown;
    uint64_t due;   /* octets that may be unlinked now, */
    uint64_t today; /* and those that were, since midnight */
    uint64_t used;  /* octets in use on the volume's file system */
    uint64_t limit; /* octets of a day; UINT64_MAX: there is no fuse */
    uint64_t left;  /* of limit, after today: what this run may still unlink */
};

/*
 * One for each volume, in their order; the caller frees *out. Rows count that are due at until_ms.
 * Blown ones are said. EX_OK, or a code after a message.
 */
int fuses_read(struct admin *a, const struct spool *s, const struct volume *v, size_t n,
               int64_t until_ms, struct fuse **out);

#endif
