/*
 * listing: the cached form of a maildrop.
 *
 * Compact and versioned: 26 octets a message and what is imported behind it. The decoder trusts
 * nothing but the seal: every length is checked.
 */
#ifndef MAILFLEET_STORE_LISTING_H
#define MAILFLEET_STORE_LISTING_H

#include "base/buffer.h"
#include "base/maildrop.h"

/* ERR_LIMIT, and nothing is written: larger than out may grow. */
enum err listing_encode(const struct maildrop *m, struct buf *out);
/*
 * ERR_CORRUPT, and in is untouched, for anything that listing_encode did not write. Else the caller
 * owns *out, which has taken the memory of in.
 */
enum err listing_decode(struct buf *in, struct maildrop **out);

#endif
