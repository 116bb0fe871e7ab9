/*
 * volume: the volumes of one spool, which of them are well, and which one takes a new file.
 *
 * Owns a back-end for each; a caller that works with one takes a reference, so that a volume that
 * was removed ends after its calls. Loop thread only; blocks nowhere.
 */
#ifndef MAILFLEET_STORE_VOLUME_H
#define MAILFLEET_STORE_VOLUME_H

#include "store/spool_backend.h"

/* A bound on what the database may list: each volume has threads of its own. */
#define VOLUMES_MAX 256

struct volumes;

struct volumes *volumes_open(struct loop *l, const struct spool_options *o);
/* Calls under way end before it returns. */
void volumes_close(struct volumes **vs);

/* As spool_set_volumes. */
void volumes_set(struct volumes *vs, const struct volume *v, size_t n);

/* A new reference, or NULL: no such volume. Its health is not asked for: each call finds out. */
struct backend *volumes_find(struct volumes *vs, uint16_t volume_id);
/*
 * A new reference to a volume for a new file: chosen at random by weight among those that are
 * active, well and above their free-space floor, and not among the n tried. NULL: there is none.
 */
struct backend *volumes_choose(struct volumes *vs, const uint16_t *tried, size_t n);
/* It is listed, and can be used or not. */
bool volumes_listed(const struct volumes *vs, uint16_t volume_id);
/* It is listed, and its sentinel was found right at the last look. */
bool volumes_ready(const struct volumes *vs, uint16_t volume_id);
/* Octets in use at the last look; false: it is not ready. */
bool volumes_used(const struct volumes *vs, uint16_t volume_id, uint64_t *used);
/* A write failed: the volume takes no new file until a look at it, made at once, finds it well. */
void volumes_doubt(struct volumes *vs, uint16_t volume_id);

/* What does the work for a volume of this kind of URL; NULL: why is one line. Thread-safe. */
const struct backend_ops *volume_kind(const struct volume *v, const struct spool_options *o,
                                      char *why, size_t why_size);

#endif
