/*
 * message_file: where the file of a message is: each volume is looked at, not only the one that a
 * pointer names, and the envelope is read. For operators' questions; it blocks, and changes
 * nothing.
 */
#ifndef MAILFLEET_ADMIN_MESSAGE_FILE_H
#define MAILFLEET_ADMIN_MESSAGE_FILE_H

#include "admin.h"
#include "store/envelope.h"

/* What one volume has of it. */
struct message_place {
    uint16_t volume;
    bool looked;   /* it could be; else why says what was wrong */
    bool stands;   /* the file is there */
    uint64_t size; /* octets of the file */
    char path[SPOOL_PATH_MAX];
    char why[256];
};

struct message_file {
    struct message_place *places; /* of all volumes, by number */
    size_t n;
    int64_t *mailboxes; /* that the envelope names, each once or more */
    size_t n_mailboxes;
    char *reverse_path; /* that it names */
    char *uidl;         /* that it had at another server, which it was imported from; empty: none */
    uint64_t octets;    /* of the message, when it is complete */
    bool envelope;      /* one was found that makes sense, */
    bool complete;      /* and its message was received to its end */
};

/* EX_OK, whatever the volumes say; or a code after a message. Then there is nothing to free. */
int message_file_find(struct admin *a, const struct blob_id *id, struct message_file *out);
void message_file_free(struct message_file *f);
/* NULL: no such volume. */
const struct message_place *message_file_place(const struct message_file *f, int64_t volume);
/* The first volume that has the file; NULL: none. */
const struct message_place *message_file_any(const struct message_file *f);
/* A volume could not be looked at: that no file was found tells nothing. */
const struct message_place *message_file_unseen(const struct message_file *f);

#endif
