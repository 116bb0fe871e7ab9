/*
 * base64: the alphabet of RFC 4648, section 4, both ways: SASL (RFC 5034) and encoded-words
 * (RFC 2047) are written in it.
 *
 * Bytes only; nothing is owned. The decoder takes one spelling for each message: padding in its
 * place, nothing behind it, no bits that are left over.
 */
#ifndef MAILFLEET_PROTO_BASE64_H
#define MAILFLEET_PROTO_BASE64_H

#include "base/buffer.h"

/* Octets that n octets are written in. */
#define BASE64_SIZE(n) (((n) + 2) / 3 * 4)

/* Decodes in to out (at least in.n octets); *n is the length. ERR_INVALID if it is not base64. */
enum err base64_decode(struct span in, char *out, size_t *n);

/* Appends in, encoded and padded. All or nothing: ERR_LIMIT when out has no room for it. */
enum err base64_encode(struct span in, struct buf *out);

#endif
