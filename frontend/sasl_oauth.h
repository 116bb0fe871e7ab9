/*
 * sasl_oauth: the one message that carries a token: OAUTHBEARER's (RFC 7628, section 3.1) and
 * XOAUTH2's. Spans point into it; nothing is owned, no token is judged.
 */
#ifndef MAILFLEET_FRONTEND_SASL_OAUTH_H
#define MAILFLEET_FRONTEND_SASL_OAUTH_H

#include "sasl_gs2.h"

/* user, with a NUL, is empty when the message names none; *token may be empty. */
enum err oauth_bearer(struct span message, char *user, size_t size, struct span *token);
enum err oauth_xoauth2(struct span message, char *user, size_t size, struct span *token);

#endif
