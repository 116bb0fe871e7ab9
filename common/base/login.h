/*
 * login: what a login came to. Told by the store, logged by the session, said to the client by the
 * POP3 engine (RFC 3206, RFC 2449, section 8.1); declared here because all three share it.
 */
#ifndef MAILFLEET_BASE_LOGIN_H
#define MAILFLEET_BASE_LOGIN_H

/* clang-format off */
/*    name       word for logs     what it means */
#define LOGIN_VERDICT_LIST(X)                                                                     \
    X(OK,        "ok")          /* the maildrop is open */                                        \
    X(DENIED,    "denied")      /* unknown, suspended, or wrong, all alike: [AUTH] */             \
    X(IN_USE,    "in-use")      /* another session holds the mailbox: [IN-USE] */                 \
    X(SESSIONS,  "sessions")    /* pop3.account_sessions are open: [IN-USE] */                    \
    X(DELAYED,   "delayed")     /* pop3.login_delay is not over: [LOGIN-DELAY] */                 \
    X(BLOCKED,   "blocked")     /* too many failures of this client's address: [SYS/TEMP] */      \
    X(OVERLOAD,  "overload")    /* too many logins are waiting: [SYS/TEMP] */                     \
    X(FAULT,     "fault")       /* something is down: [SYS/TEMP] */

enum login_verdict {
#define X(name, word) LOGIN_##name,
    LOGIN_VERDICT_LIST(X)
#undef X
    LOGIN_VERDICTS
};
/* clang-format on */

/* The word, for logs; never NULL. */
static inline const char *login_verdict_text(enum login_verdict v)
{
    static const char *const words[] = {
#define X(name, word) word,
        LOGIN_VERDICT_LIST(X)
#undef X
    };
    return words[v];
}

#endif
