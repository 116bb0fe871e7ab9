/*
 * maildrop: the snapshot of a mailbox that a session works on (RFC 1939, section 3).
 *
 * An immutable array of pointers, in the order of the mailbox. It knows nothing of where it came
 * from (a cached list or the database) and holds no message content. One owner: a transfer takes
 * struct maildrop ** and nulls it.
 */
#ifndef MAILFLEET_BASE_MAILDROP_H
#define MAILFLEET_BASE_MAILDROP_H

#include "base/blob_id.h"

#define UIDL_MAX   70 /* RFC 1939, section 7 */
#define HANDLE_MAX 64 /* octets of an NFSv3 file handle (RFC 1813, section 2.5) */

/* Where one message of one mailbox is. */
struct pointer {
    struct blob_id id;
    uint64_t seq;       /* place in the mailbox; never used twice there */
    uint32_t size;      /* octets of the message as RETR sends it, before dot-stuffing */
    uint32_t skip;      /* octets of the envelope block in front of it in the file */
    uint16_t volume;    /* the volume the file is on */
    uint8_t uidl_len;   /* 0: the UIDL is the id */
    uint8_t handle_len; /* 0: the file is reached by its path */
    uint32_t extra;     /* where its uidl, then its handle, begin in maildrop.extra */
};

struct maildrop {
    uint64_t mailbox_id;
    uint64_t version; /* of the mailbox row it was read with */
    uint64_t octets;  /* sum of the sizes */
    size_t count;
    size_t cap;
    struct pointer *msgs;
    char *extra; /* imported UIDLs and file handles, one after the other */
    size_t extra_len;
    size_t extra_cap;
};

struct maildrop *maildrop_new(uint64_t mailbox_id, uint64_t version);
/*
 * Appends a pointer; uidl and handle may be empty. ERR_CORRUPT when one of them is too long or the
 * uidl is not printable ASCII; ERR_LIMIT past 4 GiB of them.
 */
enum err maildrop_add(struct maildrop *m, const struct pointer *p, struct span uidl,
                      struct span handle);
void maildrop_free(struct maildrop **m);

/* The handle of message i, empty if there is none; valid while the maildrop lives. */
struct span maildrop_handle(const struct maildrop *m, size_t i);
/* The UIDL of message i, written to out (NUL-terminated); returns its length. */
size_t maildrop_uidl(const struct maildrop *m, size_t i, char out[UIDL_MAX + 1]);

#endif
