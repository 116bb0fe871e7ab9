/*
 * source_lists: the files in which other servers keep the UIDLs of a mailbox.
 *
 * Bytes only, no I/O. Spans in a result point into what was read. Whatever stands in such a file
 * may be wrong or hostile: a line that can't be understood is passed over where its server does so.
 */
#ifndef MAILFLEET_ADMIN_SOURCE_LISTS_H
#define MAILFLEET_ADMIN_SOURCE_LISTS_H

#include "base/span.h"

/*
 * dovecot-uidlist, versions 1 and 3 (version 1 is Courier's courierimapuiddb, too):
 *
 *   1 <uidvalidity> <next uid>
 *   <uid> <file name>
 *
 *   3 V<uidvalidity> N<next uid> G<guid>...
 *   <uid> [<key><value> ...] :<file name>      P UIDL, O order, W size as served, G guid
 */
struct uidlist_entry {
    uint32_t uid;
    uint32_t order;   /* UINT32_MAX: none */
    struct span name; /* of the file, without flags */
    bool has_uidl;    /* an empty one is the name */
    struct span uidl, guid;
    bool size_known;
    uint64_t size; /* as served */
};

struct uidlist {
    uint32_t validity, next;
    struct uidlist_entry *entries; /* by uid */
    size_t n;
};

/* CORRUPT: Dovecot would not use it, either. The caller frees entries. */
enum err uidlist_parse(struct span in, struct uidlist *out);

/*
 * courierpop3dsizelist, versions 1 to 3:
 *
 *   /<version> <next number> [<uidvalidity>]
 *   <file name> <size as served> <number>[:<uidvalidity>[:<utf8>]]
 */
struct sizelist_entry {
    struct span name; /* of the file, without flags */
    uint64_t size;
    uint64_t number;   /* 0: its UIDL is the name */
    uint64_t validity; /* 0: its UIDL has none */
};

struct sizelist {
    uint64_t next, validity; /* what a message that is not in it gets */
    struct sizelist_entry *entries;
    size_t n;
};

enum err sizelist_parse(struct span in, struct sizelist *out);

/* cyrus.index, up to minor version 19: messages that were not expunged. */
struct cyrus_entry {
    uint32_t uid;
    uint64_t size; /* as served: a spool has CRLF */
    int64_t time_s;
};

struct cyrus_index {
    uint32_t validity;
    bool new_uidl; /* UIDLs are made of both numbers; else of the uid alone */
    struct cyrus_entry *entries;
    size_t n;
};

/* INVALID: a version whose layout is not known. */
enum err cyrus_parse(struct span in, struct cyrus_index *out);

#endif
