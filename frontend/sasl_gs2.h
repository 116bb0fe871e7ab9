/*
 * sasl_gs2: the header that SCRAM's and OAUTHBEARER's first messages begin with (RFC 5801, section
 * 4), and the names in it. Spans point into what was parsed; nothing is owned.
 */
#ifndef MAILFLEET_FRONTEND_SASL_GS2_H
#define MAILFLEET_FRONTEND_SASL_GS2_H

#include "base/span.h"

struct gs2 {
    char flag;           /* n: no channel binding, y: the server has none, p: binding */
    struct span binding; /* its type, with flag p */
    struct span authzid; /* as it was written, empty if absent */
    struct span header;  /* all of it, both commas included */
};

/* *rest is what follows. INVALID: it is not such a header. */
enum err gs2_parse(struct span message, struct gs2 *out, struct span *rest);

/*
 * A name with its =2C and =3D as the octets that they stand for, and a NUL. INVALID: empty, another
 * `=`, a NUL, or not UTF-8. LIMIT: longer than out.
 */
enum err gs2_name(struct span in, char *out, size_t size);

#endif
