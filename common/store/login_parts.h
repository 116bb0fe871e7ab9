/*
 * login_parts: what the files of a login share: login.c (who it is), login_scram.c (the same, by
 * SCRAM), login_name.c (which account is meant), login_open.c (the maildrop), enroll.c (SCRAM keys
 * for the next time). Not for anybody else.
 */
#ifndef MAILFLEET_STORE_LOGIN_PARTS_H
#define MAILFLEET_STORE_LOGIN_PARTS_H

#include "store/store_parts.h"

/* One login, from the claim to the maildrop. Owns all that it points to but the store. */
struct login_request {
    struct op op;
    struct store *store;
    store_login_fn *done;
    enum login_proof proof;
    char *user; /* canonical; of a token without a user empty until the token was asked */
    char *secret;
    size_t secret_n;
    struct guess *guess;         /* NULL: nobody's to count, or a certificate */
    struct entry *entry;         /* NULL until it is known */
    bool from_database;          /* the entry is what the database says now */
    unsigned looks;              /* LOOK: answers that are missing */
    bool unknown;                /* LOOK: what the address leads to can't be told */
    bool blocked;                /* LOOK: by the guard */
    bool recalled;               /* RECALL was answered: */
    bool remembered, matches;    /* some password is, and it is this one */
    uint8_t past[SEAL_MAC_SIZE]; /* what is remembered of it */
    bool has_mac;
    uint8_t mac[SEAL_MAC_SIZE]; /* what would be of this one */
    bool right;                 /* by its hash */
    struct task task;           /* for an end that waits for nothing */
    enum login_verdict verdict; /* from login_end on */
    struct login login;
};

/*
 * The canonical form of a name (login_name.c), for free(); what has none is as it was, in lower
 * case. It may be longer than the name.
 */
char *login_name(struct span name);
/* user and secret are copied, and user is made canonical. */
struct login_request *login_new(struct store *s, struct span user, struct span secret,
                                store_login_fn *done, void *arg);
/* It is who it claims to be: the rest is the maildrop (login_open.c). */
void login_right(struct login_request *r);
/* The same, behind what is counted. */
void login_proven(struct login_request *r);
/* Tells the verdict and gives everything back; a lease first, if the verdict is not OK. */
void login_end(struct login_request *r, enum login_verdict v);

/* A mailbox that may be opened. */
static inline bool login_active(const struct entry *e)
{
    return e->kind == ENTRY_MAILBOX && e->state == ACCOUNT_ACTIVE;
}

/*
 * The password was right by its hash: an account that lacks SCRAM keys, or has some with other
 * iterations than auth.scram_iterations, gets new ones in the background. Copies what it needs.
 */
void login_enroll(struct store *s, const char *user, const struct entry *e, struct span password);

#endif
