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
 * dot of an absolute domain, and with a quoted local part unquoted where that is possible. canon is
 * the form that is looked up, one for all ways to write a mailbox: ASCII in lower case, the local
 * part in Unicode's normal form C, the domain in its ASCII form (IDNA2008 after the mapping of
 * UTS 46, non-transitional). Both empty for the null reverse-path. Neither ever holds a control
 * character or malformed UTF-8.
 */
struct address {
    char text[ADDRESS_MAX + 1];
    char canon[ADDRESS_MAX + 1];
    uint16_t len;       /* of text */
    uint16_t local;     /* of text, before the @; all of it without a domain (postmaster) */
    uint16_t canon_len; /* the same two of canon */
    uint16_t canon_local;
    bool utf8; /* text has octets above 127: needs SMTPUTF8 */
};

/*
 * Parses `<path>` at the front of *in and moves *in behind it. ERR_INVALID: syntax. ERR_LIMIT: a
 * part is too long. null_ok: <> is allowed (MAIL). `<postmaster>` without a domain is allowed for
 * RCPT (section 4.5.1).
 */
enum err address_parse_path(struct span *in, bool null_ok, struct address *out);

/* An address as an operator types it: local@domain, no brackets. */
enum err address_parse(struct span in, struct address *out);

/* What is wrong with a path or an address that one of the two refused: words for a reply. */
const char *address_explain_path(struct span in, bool null_ok);
const char *address_explain(struct span in);

#endif
