/*
 * error: what went wrong, named by what the caller does next.
 *
 * Every function of mailfleet that can fail returns an enum err. Nothing here knows a protocol:
 * each engine has one table from err to its replies.
 */
#ifndef MAILFLEET_BASE_ERROR_H
#define MAILFLEET_BASE_ERROR_H

/* clang-format off */
/*      name       text                                  what the caller does */
#define ERR_LIST(X)                                                            \
    X(OK,        "ok")                 /* go on */                             \
    X(INVALID,   "invalid input")      /* tell the peer; a retry won't help */ \
    X(DENIED,    "denied")             /* wrong password, suspended, no right */\
    X(NOTFOUND,  "not found")          /* it does not exist: an answer, never a fault */ \
    X(LIMIT,     "limit reached")      /* a bound or a quota */                \
    X(BUSY,      "in use")             /* somebody else holds it */            \
    X(TEMP,      "temporary fault")    /* nothing happened; a retry may help */\
    X(UNCERTAIN, "outcome unknown")    /* it may have happened: look before a retry */ \
    X(CORRUPT,   "corrupt")            /* what was read is not what was written */ \
    X(CLOSED,    "closed")             /* the peer or the object has gone */

enum err {
#define X(name, text) ERR_##name,
    ERR_LIST(X)
#undef X
    ERR_COUNT
};
/* clang-format on */

/* The text of an err, for logs; never NULL. */
const char *err_text(enum err e);

#endif
