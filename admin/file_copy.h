/*
 * file_copy: copies message files to another volume, octet for octet with their envelopes, and
 * compares what is there then with what was read. It touches no row: who asks for a copy has noted
 * it (mark_copy() in the schema), and lets the pointers follow (move_file()).
 */
#ifndef MAILFLEET_ADMIN_FILE_COPY_H
#define MAILFLEET_ADMIN_FILE_COPY_H

#include "admin.h"
#include "store/nfs_handle.h"

enum copy_end {
    COPY_DONE,
    COPY_SOURCE, /* the file can't be read, or is not what its envelope says */
    COPY_TARGET  /* it could not be made there, or was not the same when it was read again */
};

struct file_copy {
    /* what to do */
    struct pointer from;      /* id, size, skip, volume */
    struct nfs_handle handle; /* there */
    uint16_t to;
    bool stands; /* a complete one should be there already: it is only compared */
    /* what became of it */
    enum copy_end end;
    char why[128];                /* unless DONE */
    struct nfs_handle new_handle; /* the copy's, or none */
    int64_t *mailboxes; /* that the envelope names, ascending, each once; the caller frees them */
    size_t n_mailboxes;
};

/* All n at once; returns when all have ended. */
void file_copy_run(struct admin *a, struct spool *s, struct file_copy *c, size_t n);

#endif
