/*
 * source_open: opens the old mailboxes that are files. A command that may read all mail does so on
 * behalf of one user at a time, and that user may have made links where the mailbox is.
 *
 * Nothing is kept; the descriptor is the caller's.
 */
#ifndef MAILFLEET_ADMIN_SOURCE_OPEN_H
#define MAILFLEET_ADMIN_SOURCE_OPEN_H

#include <stddef.h>

#include "base/error.h"

/*
 * The first `own` octets of path are the operator's, who may have links in the folders that they
 * name; of the last name of path and of whatever is not the operator's, no part may be a link, and
 * none may lead out. flags as open(2) has them. On failure why holds one line; DENIED: a link.
 */
enum err source_open(const char *path, size_t own, int flags, int *fd, char *why, size_t why_size);

#endif
