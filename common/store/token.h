/*
 * token: whether an OAuth 2.0 access token is good, and whose it is (RFC 6750, 7628).
 *
 * Either by asking an endpoint (RFC 7662, libcurl) or by a signature and the keys in a local file
 * (RFC 7515, 7517, 7519; libjose). Both off the loop, in a pool of their own. It knows nothing of
 * SASL and of accounts.
 */
#ifndef MAILFLEET_STORE_TOKEN_H
#define MAILFLEET_STORE_TOKEN_H

#include "base/config.h"
#include "net/loop.h"
#include "net/op.h"

struct token_checker;

/* *out is NULL when neither an endpoint nor a file is configured. On failure why holds one line. */
enum err token_open(struct loop *l, const struct config *c, struct token_checker **out, char *why,
                    size_t why_size);
/* The same checks, and nothing opened; on any thread. */
enum err token_check_config(const struct config *c, char *why, size_t why_size);
void token_close(struct token_checker **t);

/* OK: the token is user's, as the claim has it. DENIED: it is not good. LIMIT: too many are
 * waiting. TEMP: could not be told. user is borrowed until done returns. */
typedef void token_fn(void *arg, enum err e, struct span user);
/* The copy of the token is wiped. */
struct op *token_check(struct token_checker *t, struct span token, token_fn *done, void *arg);

#endif
