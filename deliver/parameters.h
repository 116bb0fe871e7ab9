/*
 * parameters: the ESMTP parameters of MAIL and RCPT (RFC 1870, 3461, 4954, 6152, 6531, 6533, 8689),
 * and the encoding that several of them share (xtext: RFC 3461, section 4). Bytes only.
 *
 * Those of DSN and AUTH are checked and ignored, and not announced. mailfleet is where a message
 * ends and sends no mail, so a notification of success must come from the server before it, which
 * sends one just because DSN is not announced here (RFC 3461, section 5.2.2); and of AUTH= nobody
 * makes use. Clients that send them without being asked to lose nothing by that.
 */
#ifndef MAILFLEET_DELIVER_PARAMETERS_H
#define MAILFLEET_DELIVER_PARAMETERS_H

#include "base/buffer.h"
#include "replies.h"

/* What a parameter's value is checked against, and what the parameters of MAIL come to. */
struct parameters {
    uint64_t max_size;
    bool tls;          /* the session is encrypted */
    uint64_t declared; /* SIZE= */
    bool utf8;         /* SMTPUTF8 */
};

#define PARAMETERS_MAIL_MAX 7 /* each may stand once */

/* Words behind the path. OK, or the refusal. */
enum reply parameters_mail(struct span words, struct parameters *p);
enum reply parameters_rcpt(struct span words, struct parameters *p);

/*
 * Decodes xtext; the result, printable ASCII, is at most size - 1 octets and ends in a NUL.
 * ERR_INVALID, ERR_LIMIT.
 */
enum err parameters_xtext(struct span s, char *out, size_t size);

#endif
