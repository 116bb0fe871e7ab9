/*
 * open_spool: the fleet's volumes, for a command that reads or writes messages.
 */
#ifndef MAILFLEET_ADMIN_OPEN_SPOOL_H
#define MAILFLEET_ADMIN_OPEN_SPOOL_H

#include "admin.h"

/*
 * Waits until each volume was looked at, or some seconds; which are not well is said. The caller
 * closes it. EX_OK, or a code after a message: also when no volume can be used at all.
 */
int open_spool(struct admin *a, struct spool **out);

#endif
