/*
 * open_spool: the fleet's volumes, for a command that reads or writes messages. As in the daemons
 * what the database says of them is asked for now and then, while the command's loop runs: a long
 * command hears of a volume that is new, or takes no new files any more.
 */
#ifndef MAILFLEET_ADMIN_OPEN_SPOOL_H
#define MAILFLEET_ADMIN_OPEN_SPOOL_H

#include "admin.h"

struct open_spool {
    struct spool *spool; /* the rest is open_spool's own */
    struct volume *volumes;
    size_t n;
    struct index *index; /* connections of its own: it asks while a's are busy */
    struct op *asked;
    uv_timer_t timer;
    bool closed;
};

/*
 * Waits until each volume was looked at, or some seconds; which are not well is said. The caller
 * closes it, before a. EX_OK, or a code after a message: also when no volume can be used at all.
 */
int open_spool(struct admin *a, struct open_spool **out);
void close_spool(struct admin *a, struct open_spool **s);
/* Whether the database has it for new files, as of the last look. */
bool open_spool_takes_files(const struct open_spool *s, uint16_t volume);

#endif
