/*
 * walks: of each volume that a command looks into a walk, which is opened when it is first asked
 * for and kept: the sentinel is looked at once, and not for each file. It only reads; one thread's.
 */
#ifndef MAILFLEET_ADMIN_WALKS_H
#define MAILFLEET_ADMIN_WALKS_H

#include "admin.h"
#include "store/volume_walk.h"

struct walks {
    struct volume *volumes; /* of the fleet */
    size_t n;
    struct spool_options options;
    struct volume_walk **open; /* of volumes; NULL: not asked for yet */
    bool *away;                /* can't be looked at, as was said */
};

/* EX_OK, or a code after a message. To be ended in either case; so may one of zeros. */
int walks_init(struct walks *w, struct admin *a);
void walks_fini(struct walks *w);

bool walks_has(const struct walks *w, uint16_t volume);
/* Of a file on a volume, be it one that the database does not have. */
void walks_path(const struct walks *w, uint16_t volume, const struct blob_id *id,
                char path[SPOOL_PATH_MAX]);
/* NOTFOUND: there is no such volume. TEMP: it can't be looked at, which is said once. */
enum err walks_get(struct walks *w, uint16_t volume, struct volume_walk **out);

#endif
