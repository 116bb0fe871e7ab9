/*
 * nfs_setup: what the operator's command does on a volume on an NFS server. These block: each runs
 * a loop of its own until it has ended.
 */
#ifndef MAILFLEET_STORE_NFS_SETUP_H
#define MAILFLEET_STORE_NFS_SETUP_H

#include "store/spool.h"

/*
 * As volume_create: the sentinel and this day's directories. The directory that the URL names must
 * be there, and belong to who the volume's files belong to.
 */
enum err nfs_setup_create(const struct volume *v, const struct spool_options *o, char *why,
                          size_t why_size);
/* As volume_check. */
enum err nfs_setup_check(const struct volume *v, const struct spool_options *o, char *why,
                         size_t why_size);
/* As volume_learn. */
enum err nfs_setup_learn(struct volume *v, const struct spool_options *o, char *why,
                         size_t why_size);

#endif
