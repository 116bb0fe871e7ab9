/*
 * auth: SASL for a session: which mechanisms its connection can use, and one exchange. What the
 * mechanism asks for (sasl) is got from the connection and from the store.
 *
 * It has no reply and no log line: the session says and writes what came of it. One owner: the
 * session; one exchange at a time.
 */
#ifndef MAILFLEET_FRONTEND_AUTH_H
#define MAILFLEET_FRONTEND_AUTH_H

#include "net/conn.h"
#include "sasl.h"
#include "store/store.h"

/* Whether the settings of auth and oauth make sense; on any thread. */
bool auth_check(struct config *c, char *why, size_t why_size);

/* Borrowed for the life of an exchange. */
struct auth_options {
    const struct config *config;
    struct store *store;
    const struct conn *conn;
};

/* The mechanisms that can be used on the connection now; out has room for SASL_MECHANISMS names,
 * which are static. Returns how many. */
size_t auth_offer(const struct auth_options *o, const char **out);

struct auth;

enum auth_state {
    AUTH_WAIT,      /* the store was asked: auth_fn will be called */
    AUTH_CHALLENGE, /* send challenge; the client's response goes to auth_respond */
    AUTH_INVALID,   /* what the client said is not what the mechanism allows; it is over */
    AUTH_DONE       /* verdict tells; the exchange is over */
};

struct auth_result {
    enum auth_state state;
    struct span challenge; /* borrowed until the next auth_* call */
    enum login_verdict verdict;
    struct login *login; /* of verdict OK; as store_login_fn has it */
};

/* Told what AUTH_WAIT waited for; never AUTH_WAIT itself. */
typedef void auth_fn(void *arg, const struct auth_result *r);

/* mechanism: of those that auth_offer gave. */
struct auth *auth_open(const struct auth_options *o, const char *mechanism, auth_fn *fn, void *arg);
/* response.p NULL: there is no initial response. Borrowed while AUTH_WAIT lasts. */
struct auth_result auth_respond(struct auth *a, struct span response);
/* Whom the client says it is, as far as it has said so; for logs. */
struct span auth_user(const struct auth *a);
/* Nulls; nothing is told any more. May be called with *a NULL. */
void auth_close(struct auth **a);

#endif
