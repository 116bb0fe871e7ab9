/*
 * sasl: the server's side of the exchanges that POP3's AUTH speaks (RFC 4422, 5034), without I/O.
 *
 *   PLAIN (RFC 4616), SCRAM-SHA-256, its -PLUS and SCRAM-SHA-1 (RFC 5802, 7677, 9266),
 *   OAUTHBEARER (RFC 7628), XOAUTH2 (Google's form of it), EXTERNAL (RFC 4422, appendix A)
 *
 * An exchange eats one decoded response and returns one action by value, as an engine does; who
 * drives it has the accounts, checks passwords and tokens, and answers. It decides nothing of
 * them: what it proves is that a client knows a password or holds a certificate, and what it gives
 * is the name that this is said of.
 */
#ifndef MAILFLEET_FRONTEND_SASL_H
#define MAILFLEET_FRONTEND_SASL_H

#include "base/buffer.h"
#include "base/config.h"
#include "store/scram.h"

/*
 * Cuts a PLAIN message (authzid NUL authcid NUL passwd, RFC 4616). An authzid other than the
 * authcid is ERR_DENIED: nobody here acts for somebody else. The spans point into message.
 */
enum err sasl_plain(struct span message, struct span *user, struct span *password);

/* --- which mechanisms ------------------------------------------------------------------------ */

/* clang-format off */
/*    name                  as it is called        what a connection must have for it */
#define SASL_MECHANISM_LIST(X)                                                                    \
    X(PLAIN,                "PLAIN",               NEEDS_PRIVACY)                                 \
    X(SCRAM_SHA_256,        "SCRAM-SHA-256",       NEEDS_KEYS)                                             \
    X(SCRAM_SHA_256_PLUS,   "SCRAM-SHA-256-PLUS",  NEEDS_KEYS | NEEDS_BINDING)                                 \
    X(SCRAM_SHA_1,          "SCRAM-SHA-1",         NEEDS_KEYS)                                             \
    X(OAUTHBEARER,          "OAUTHBEARER",         NEEDS_PRIVACY | NEEDS_TOKENS)                  \
    X(XOAUTH2,              "XOAUTH2",             NEEDS_PRIVACY | NEEDS_TOKENS)                  \
    X(EXTERNAL,             "EXTERNAL",            NEEDS_CERTIFICATE)

enum sasl_mechanism {
#define X(name, text, needs) SASL_##name,
    SASL_MECHANISM_LIST(X)
#undef X
    SASL_MECHANISMS
};
/* clang-format on */

#define SASL_NAME_SIZE 256

/* What the connection is; borrowed by its exchanges, and unchanged while one goes on. */
struct sasl_context {
    bool secure;       /* nobody listens in: TLS here, or at a balancer that is trusted */
    bool plaintext;    /* a secret may be sent all the same */
    bool keys;         /* all accounts have SCRAM keys, or those without are to be refused */
    bool tokens;       /* OAuth is configured */
    bool plus_offered; /* set by sasl_offer */
    bool has_exporter;
    uint8_t exporter[32];  /* tls-exporter (RFC 9266) */
    uint8_t end_point[64]; /* tls-server-end-point (RFC 5929): a hash of our certificate */
    size_t end_point_n;    /* 0: not known */
    const char (*names)[SASL_NAME_SIZE]; /* addresses in the client's verified certificate */
    size_t n_names;
    const char *nonce; /* the server's part of SCRAM's nonce, for tests; NULL: a new one */
};

/* By its name, in any case of letters. False: there is none of that name. */
bool sasl_find(struct span name, enum sasl_mechanism *out);

/*
 * Those of the setting auth.mechanisms that can be used on the connection now, in the setting's
 * order; words that name none are left out. out has room for SASL_MECHANISMS names, which are
 * static. Tells c whether channel binding is among them.
 */
size_t sasl_offer(const struct config_list *wanted, struct sasl_context *c, const char **out);

/* --- one exchange ---------------------------------------------------------------------------- */

struct sasl;

/* clang-format off */
enum sasl_action_type {
    SASL_CHALLENGE,   /* text is to be sent; the answer goes to sasl_step */
    SASL_KEYS,        /* SCRAM keys of user for hash are wanted: sasl_keys_answer */
    SASL_PASSWORD,    /* whether password is user's is for the caller to find; the end */
    SASL_TOKEN,       /* whether text is a good token (of user, unless empty): sasl_token_answer */
    SASL_CERTIFICATE, /* the client's certificate is user's; the end */
    SASL_PROVEN,      /* SCRAM: the client knows user's password, and was shown that we do; the end */
    SASL_WRONG,       /* SCRAM: the proof is wrong; the end */
    SASL_DONE,        /* the token's exchange is complete; the end */
    SASL_FAILED       /* err is INVALID: not what the mechanism allows; DENIED: refused; the end */
};
/* clang-format on */

/*
 * user and password of PASSWORD and text of TOKEN point into the response or the exchange, all
 * others into the exchange or are static: valid until the next call for it, and while the response
 * is.
 */
struct sasl_action {
    enum sasl_action_type type;
    enum err err;
    enum scram_hash hash;
    struct span text;
    struct span user;
    struct span password;
    const char *why; /* of FAILED, for the log and the client; never NULL then */
};

struct sasl *sasl_new(enum sasl_mechanism m, const struct sasl_context *c);
void sasl_free(struct sasl **s); /* wipes it */

/* response.p NULL: the command had no initial response. Only at the begin and after CHALLENGE. */
struct sasl_action sasl_step(struct sasl *s, struct span response);
/* After KEYS; copied. Their hash is the one asked for. */
struct sasl_action sasl_keys_answer(struct sasl *s, const struct scram_keys *k);
/* After TOKEN: DONE, or the challenge that says why before the client hears of the failure. */
struct sasl_action sasl_token_answer(struct sasl *s, bool good);

#endif
