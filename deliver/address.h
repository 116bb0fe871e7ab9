/*
 * address: mail addresses as SMTP writes them (RFC 5321, section 4.1.2; RFC 6531, section 3.3).
 *
 * Parsing and the canonical form, bytes only; what an address leads to is the business of route.
 */
#ifndef MAILFLEET_DELIVER_ADDRESS_H
#define MAILFLEET_DELIVER_ADDRESS_H

#include "base/span.h"

#define LOCAL_MAX   64  /* RFC 5321, section 4.5.3.1.1 */
#define DOMAIN_MAX  255 /* section 4.5.3.1.2 */
#define ADDRESS_MAX 254 /* section 4.5.3.1.3: a path of 256 less its angle brackets */

/*
 * A parsed path. text is local@domain as the peer wrote it, without brackets, source route and the
 * dot of an absolute domain, and with a quoted local part unquoted where that is possible; canon is
 * the form that is looked up: the same in ASCII lower case. Both empty for the null reverse-path.
 * Neither ever holds a control character or malformed UTF-8.
 */
struct address {
    char text[ADDRESS_MAX + 1];
    char canon[ADDRESS_MAX + 1];
    uint16_t len;   /* of both */
    uint16_t local; /* octets before the @; equal to len when there is no domain (postmaster) */
    bool utf8;      /* has octets above 127: needs SMTPUTF8 */
};

/*
 * Parses `<path>` at the front of *in and moves *in behind it. ERR_INVALID: syntax. ERR_LIMIT: a
 * part is too long. null_ok: <> is allowed (MAIL). `<postmaster>` without a domain is allowed for
 * RCPT (section 4.5.1).
 */
enum err address_parse_path(struct span *in, bool null_ok, struct address *out);

/* An address as an operator types it: local@domain, no brackets. */
enum err address_parse(struct span in, struct address *out);

#endif
