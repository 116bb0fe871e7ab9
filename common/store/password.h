/*
 * password: crypt(3) in a worker pool, so that hashing never blocks the loop.
 *
 * yescrypt and every imported scheme are libxcrypt's. An account that does not exist is checked
 * against a dummy hash, so that it takes the same time as one that does. SCRAM keys are made in the
 * same pool, behind the checks.
 */
#ifndef MAILFLEET_STORE_PASSWORD_H
#define MAILFLEET_STORE_PASSWORD_H

#include "base/span.h"
#include "net/op.h"
#include "net/pool.h"
#include "store/scram.h"

struct password;

struct password_options {
    unsigned threads;
    unsigned queue;     /* checks that may wait for a thread */
    uint64_t wait_ms;   /* for so long */
    const char *prefix; /* of new passwords, such as "$y$"; unknown users cost what such a password
                           costs */
};
/* NULL when crypt(3) here does not know the prefix. */
struct password *password_open(struct loop *l, const struct password_options *o);
/* Who waits is told TEMP, at the latest by the loop's next turn. */
void password_close(struct password **p);

/* Whose check it is. Clients take turns where many wait. */
struct password_waiter {
    uint64_t client;  /* the same number for the same client */
    const bool *gone; /* set when nobody waits any more; borrowed until done */
};

/*
 * OK: right. DENIED: wrong. LIMIT: too many are waiting, or it has waited for too long. CLOSED:
 * it had to wait, and nobody waits for it any more; in both nothing was hashed. TEMP: could not be
 * told, also when hashing took too long, or crypt(3) refused the stored hash.
 */
typedef void password_fn(void *arg, enum err e);
/* hash empty: the dummy is checked and the answer is DENIED. The copy of the secret is wiped. */
struct op *password_check(struct password *p, struct span secret, const char *hash,
                          const struct password_waiter *w, password_fn *done, void *arg);

/*
 * SCRAM keys of a password, as an account keeps them (RFC 5803, separated by a blank). This is
 * work that can wait for another day: NULL, and done is not called, when there is enough else to
 * do. keys is borrowed until done returns. INVALID: SCRAM can't have this password. TEMP:
 * could not be made. The copy of the secret is wiped.
 */
enum { SCRAM_HASHES = SCRAM_SHA_1 + 1 };
typedef void password_keys_fn(void *arg, enum err e, struct span keys);
struct op *password_derive(struct password *p, struct span secret, const enum scram_hash *hashes,
                           size_t n, uint32_t iterations, password_keys_fn *done, void *arg);

/* Blocking, for the operator's command: a new hash under a crypt(3) prefix such as "$y$". */
enum err password_hash(struct span secret, const char *prefix, char *out, size_t size);
/* Whether text is a hash that crypt(3) here can check. */
bool password_hash_valid(const char *text);

#endif
