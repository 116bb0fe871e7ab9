/*
 * token_parts: what token.c is made of: the two ways to learn what a token says, and the judgement
 * of it. For common/store/token*.c alone.
 *
 * All but the opening runs on threads of a pool: what is opened here never changes, or has a lock
 * of its own.
 */
#ifndef MAILFLEET_STORE_TOKEN_PARTS_H
#define MAILFLEET_STORE_TOKEN_PARTS_H

#include <jansson.h>

#include "base/config.h"

#define TOKEN_USER_SIZE 256

struct token_answer {
    char user[TOKEN_USER_SIZE];
    int64_t expires; /* Unix seconds; 0: it was not told */
    const char *why; /* of what is not OK, for the log; static */
};

/* --- what it says: token_judge.c ------------------------------------------------------------- */

struct token_rules {
    const char *issuer, *audience, *scope; /* empty: any */
    const char *claim;
};

/* OK or DENIED. A token that must expire and does not say when is not good. */
enum err token_judge(const struct token_rules *r, const json_t *claims, int64_t now,
                     bool must_expire, struct token_answer *out);

/* --- asked of an endpoint: token_http.c ------------------------------------------------------ */

struct token_http;

enum err token_http_open(const struct config *c, struct token_http **out, char *why,
                         size_t why_size);
void token_http_close(struct token_http **h);
/*
 * Blocks, at most for oauth.timeout. OK: *claims is the caller's. DENIED: the token is not active.
 * TEMP: the endpoint can't be asked, or its answer is none.
 */
enum err token_http_ask(struct token_http *h, struct span token, json_t **claims, const char **why);

/* --- signed: token_jwt.c --------------------------------------------------------------------- */

/* OK: the file holds keys. INVALID: why has one line. */
enum err token_jwt_check(const char *path, char *why, size_t why_size);
/* Blocks on the file. OK: *claims is the caller's. DENIED: not signed by any of the keys in it.
 * TEMP: it can't be read. */
enum err token_jwt_ask(const char *path, struct span token, json_t **claims, const char **why);

#endif
