/*
 * xclient: what a relay of ours says with XCLIENT about the client on whose behalf it speaks
 * (Postfix, XCLIENT_README). Bytes only: whether an address is one the session finds out.
 */
#ifndef MAILFLEET_DELIVER_XCLIENT_H
#define MAILFLEET_DELIVER_XCLIENT_H

#include "address.h"

/* In the order in which EHLO names them. */
/* clang-format off */
#define XCLIENT_LIST(X) \
    X(NAME) X(ADDR) X(PORT) X(PROTO) X(HELO) X(LOGIN) X(DESTADDR) X(DESTPORT)
/* clang-format on */

enum xclient_attribute {
#define X(name) XCLIENT_##name,
    XCLIENT_LIST(X)
#undef X
        XCLIENT_ATTRIBUTES
};
const char *xclient_name(enum xclient_attribute a);

/*
 * Owned by the engine; values end in a NUL. An attribute that was called unavailable is as one that
 * was never named.
 */
struct smtp_xclient {
    unsigned given;                                 /* a bit 1u << XCLIENT_x for each attribute */
    char value[XCLIENT_ATTRIBUTES][DOMAIN_MAX + 1]; /* decoded; addresses without `IPV6:` */
};

static inline bool xclient_has(const struct smtp_xclient *x, enum xclient_attribute a)
{
    return x->given & 1u << a;
}

/* A name that clients may greet with: RFC 5321's and what else is harmless in a header or log. */
bool xclient_is_helo(struct span name);

/* Reads `attribute=value...` over what *x has; ERR_INVALID leaves it in any state. */
enum err xclient_parse(struct span arg, struct smtp_xclient *x);

#endif
