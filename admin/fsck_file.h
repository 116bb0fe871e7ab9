/*
 * fsck_file: a message file as it lies on a volume, without a pointer: what its envelope says, and
 * whether it is what the envelope says.
 */
#ifndef MAILFLEET_ADMIN_FSCK_FILE_H
#define MAILFLEET_ADMIN_FSCK_FILE_H

#include "store/envelope.h"
#include "store/volume_walk.h"

enum file_state {
    FILE_WHOLE,      /* as long as its envelope says */
    FILE_UNFINISHED, /* its envelope or its end is not there: it was never accepted */
    FILE_DAMAGED,    /* longer than its envelope says */
    FILE_FOREIGN,    /* no envelope of ours, or of another id */
    FILE_UNREADABLE  /* by volume_walk_read: nobody knows */
};

struct fsck_file {
    enum file_state state;
    struct buf head; /* from its beginning; the envelope's spans point in here */
    bool readable;   /* the envelope is; it may be incomplete */
    struct envelope envelope;
    struct envelope_recipient *to;
    size_t skip; /* octets of the envelope */
};

/* Reads the envelope of the file that should have this id. NOTFOUND, TEMP: nothing is to be freed.
 */
enum err fsck_file_read(struct volume_walk *w, const char *path, const struct blob_id *id,
                        uint64_t size, struct fsck_file *out);
void fsck_file_fini(struct fsck_file *f);
/*
 * Reads all of a FILE_WHOLE: *right when its hash is the envelope's. mem is room for n octets.
 * NOTFOUND, TEMP, CORRUPT as volume_walk_read.
 */
enum err fsck_file_verify(struct volume_walk *w, const char *path, const struct fsck_file *f,
                          void *mem, size_t n, bool *right);

#endif
