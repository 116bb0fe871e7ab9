/*
 * maildrop: the snapshot of a mailbox that a session works on (RFC 1939, section 3).
 *
 * Immutable once it is built, in the order of the mailbox. A message costs 27 octets and what was
 * imported with it, because a session holds its maildrop as long as it is open: the form is that of
 * the cache (store/listing.h), read in place. It knows nothing of where it came from (a cached list
 * or the database) and holds no message content. One owner: a transfer takes struct maildrop ** and
 * nulls it.
 */
#ifndef MAILFLEET_BASE_MAILDROP_H
#define MAILFLEET_BASE_MAILDROP_H

#include "base/blob_id.h"
#include "base/buffer.h"

#define UIDL_MAX   70 /* RFC 1939, section 7 */
#define HANDLE_MAX 64 /* octets of an NFSv3 file handle (RFC 1813, section 2.5) */

/* Where one message of one mailbox is. */
struct pointer {
    struct blob_id id;
    uint64_t seq;    /* place in the mailbox; never used twice there */
    uint32_t size;   /* octets of the message as RETR sends it, before dot-stuffing */
    uint32_t skip;   /* octets of the envelope block in front of it in the file */
    uint16_t volume; /* the volume the file is on */
};

/*
 * A message in a maildrop, and in a cached list. Numbers are little-endian; it lies anywhere. What
 * few messages have is in extra octets: first, of a wide record, a struct maildrop_wide, then a
 * UIDL, then a handle.
 */
struct __attribute__((packed)) maildrop_record {
    struct blob_id id;
    uint32_t size;
    uint16_t skip;    /* 0 in a wide record, as is the volume */
    uint8_t distance; /* of its seq from that of the message before; 0: the record is wide */
    uint8_t volume;
    uint8_t uidl_n;   /* 0: the UIDL is the id */
    uint8_t handle_n; /* 0: the file is reached by its path */
};

/* What has no room in a record. */
struct __attribute__((packed)) maildrop_wide {
    uint32_t distance, skip;
    uint16_t volume;
};

struct maildrop_mark;

struct maildrop {
    uint64_t mailbox_id;
    uint64_t version; /* of the mailbox row it was read with */
    uint64_t octets;  /* sum of the sizes */
    size_t count;
    /* maildrop.c's: */
    struct maildrop_record *records;
    struct maildrop_mark *marks;
    size_t cap;
    uint64_t last_seq;
    char *extra; /* of all records, one after the other */
    size_t extra_n;
    size_t extra_cap;
    struct buf loaded; /* in which records and extra lie; empty: each is memory of its own */
};

struct maildrop *maildrop_new(uint64_t mailbox_id, uint64_t version);
/*
 * Appends a pointer; uidl and handle may be empty. ERR_CORRUPT when one of them is too long, the
 * uidl is not printable ASCII, or the seq does not ascend; ERR_LIMIT past 4 GiB of them, or when
 * 2^32 messages came and went between this and the last.
 */
enum err maildrop_add(struct maildrop *m, const struct pointer *p, struct span uidl,
                      struct span handle);
/* There is nothing more to append: gives the memory back that was kept for it. */
void maildrop_built(struct maildrop *m);
void maildrop_free(struct maildrop **m);

/*
 * The other way to build one, to which nothing can be appended: of octets that hold, behind the
 * first `head` of them, so many records of another, and its extra octets behind those. Their memory
 * is taken, and in left empty. ERR_CORRUPT, and in untouched, when that is not what
 * maildrop_records and maildrop_extra have given.
 */
enum err maildrop_load(uint64_t mailbox_id, uint64_t version, struct buf *in, size_t head,
                       size_t count, struct maildrop **out);
struct span maildrop_records(const struct maildrop *m);
struct span maildrop_extra(const struct maildrop *m);

/* Message i, of which all costs the same; from 0, and below count (checked). */
struct pointer maildrop_at(const struct maildrop *m, size_t i);
uint32_t maildrop_size(const struct maildrop *m, size_t i);
/* Its handle, empty if there is none; valid while the maildrop lives. */
struct span maildrop_handle(const struct maildrop *m, size_t i);
/* Its UIDL is one of its own, and not its id. */
bool maildrop_imported(const struct maildrop *m, size_t i);
/* Its UIDL, written to out (NUL-terminated); returns its length. */
size_t maildrop_uidl(const struct maildrop *m, size_t i, char out[UIDL_MAX + 1]);

#endif
