/*
 * downgrade: shows an internationalized message to a client that has not asked for UTF-8
 * (RFC 6856, section 4; the conversion is RFC 6858's).
 *
 * Only a message that came by SMTPUTF8 may have UTF-8 in its header by right, and only such a one
 * is converted; what is wrong in another is not ours to mend, and it is sent as it is. The header
 * alone is rewritten. The body passes as it was stored, headers of its MIME parts included: they
 * would have to be searched for through the whole of it.
 *
 * An engine: bytes only, nothing is owned.
 */
#ifndef MAILFLEET_FRONTEND_DOWNGRADE_H
#define MAILFLEET_FRONTEND_DOWNGRADE_H

#include "base/buffer.h"

/*
 * Whether the message came by SMTPUTF8: says our own Received: field, the first or right behind
 * Return-Path: (RFC 6531, section 4.3). What is further below was written by others. It is
 * to be there as a whole.
 */
bool downgrade_concerns(struct span message);

/*
 * Octets of the header with the empty line that ends it, or up to the first line that is no field:
 * clients take that for the body. 0 when neither has come yet.
 */
size_t downgrade_header_end(struct span message);

/* Whether there is an octet above 127. */
bool downgrade_needed(struct span header);

/*
 * Appends the header, in ASCII. A field that has no octet above 127 stays as it is, octet by octet.
 * Of the others (RFC 6858, section 2):
 *   addresses        ASCII addresses keep their place, their names become encoded-words; another
 *                    becomes `=?utf-8?B?...?= <invalid@internationalized-address.invalid>`, the
 *                    encoded-word being what stood there
 *   Subject:         encoded-words (RFC 2047)
 *   Content-*:       a parameter that is not ASCII is left out
 *   everything else  is left out
 * ERR_LIMIT: out has no room for it; what it holds then is of no use.
 */
enum err downgrade_header(struct span header, struct buf *out);

#endif
