/*
 * volume_learn: what a volume that has files already is: the UUID in its sentinel, and its fanout
 * as its directories show it. Reads alone.
 */
#ifndef MAILFLEET_ADMIN_VOLUME_LEARN_H
#define MAILFLEET_ADMIN_VOLUME_LEARN_H

#include "admin.h"

/* Sets uuid and fanout of *v, which has a URL; fanout: what an operator said, or -1. EX_OK, or a
 * code after a message. */
int volume_learn_existing(struct volume *v, const struct spool_options *o, int fanout);
/* `YYYYMMDD`, as the first directories are named. */
bool volume_is_day(const char *name);

#endif
