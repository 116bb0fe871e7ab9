/*
 * nfs_handle: a file handle of NFSv3 (RFC 1813, section 2.5), as a value. Opaque, 1 to 64 octets;
 * it stays valid over restarts of the server and renames of the file.
 */
#ifndef MAILFLEET_STORE_NFS_HANDLE_H
#define MAILFLEET_STORE_NFS_HANDLE_H

#include <stdbool.h>

#include "base/maildrop.h"
#include "base/span.h"

struct nfs_handle {
    unsigned char octets[HANDLE_MAX];
    uint8_t len; /* 0: none */
};

/* False: it can't be one. */
static inline bool nfs_handle_set(struct nfs_handle *h, struct span octets)
{
    if (!octets.n || octets.n > HANDLE_MAX) {
        return false;
    }
    memcpy(h->octets, octets.p, octets.n);
    h->len = (uint8_t)octets.n;
    return true;
}

static inline struct span nfs_handle_span(const struct nfs_handle *h)
{
    return span_of(h->octets, h->len);
}

#endif
