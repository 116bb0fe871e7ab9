/*
 * sasl: the exchanges that POP3's AUTH speaks (RFC 4422, 4616, 5034), without I/O.
 *
 * PLAIN, the only one that crypt(3) hashes allow. Base64 is OpenSSL-free here because engines link
 * base and proto only; the decoder is strict: padding in its place and nothing behind it.
 */
#ifndef MAILFLEET_FRONTEND_SASL_H
#define MAILFLEET_FRONTEND_SASL_H

#include "base/span.h"

/* Decodes in to out (at least in.n octets); *n is the length. ERR_INVALID if it is not base64. */
enum err base64_decode(struct span in, char *out, size_t *n);

/*
 * Cuts a PLAIN message (authzid NUL authcid NUL passwd, RFC 4616). An authzid other than the
 * authcid is ERR_DENIED: nobody here acts for somebody else. The spans point into message.
 */
enum err sasl_plain(struct span message, struct span *user, struct span *password);

#endif
