/*
 * sasl_scram: the messages of SCRAM (RFC 5802), the server's side of one exchange. The mathematics
 * is store/scram's.
 */
#ifndef MAILFLEET_FRONTEND_SASL_SCRAM_H
#define MAILFLEET_FRONTEND_SASL_SCRAM_H

#include "sasl.h"

#define SASL_USER_SIZE 512

/* Embedded in its exchange, which wipes it. */
struct sasl_scram {
    const struct sasl_context *context;
    bool plus;
    struct scram_keys keys;
    char user[SASL_USER_SIZE];
    struct buf binding; /* what c= must say: the client's gs2 header, and the channel's data */
    struct buf nonce;   /* the client's, then ours behind it */
    struct buf auth;    /* AuthMessage, as it grows */
    struct buf text;    /* what we say */
};

void sasl_scram_init(struct sasl_scram *s, const struct sasl_context *c, enum scram_hash h,
                     bool plus);
void sasl_scram_fini(struct sasl_scram *s);

/* KEYS or FAILED. */
struct sasl_action sasl_scram_first(struct sasl_scram *s, struct span message);
/* CHALLENGE. */
struct sasl_action sasl_scram_keys(struct sasl_scram *s, const struct scram_keys *k);
/*
 * CHALLENGE with what proves us to the client: all is right; WRONG; or FAILED, of which the client
 * may be told in a last message.
 */
struct sasl_action sasl_scram_final(struct sasl_scram *s, struct span message);

#endif
