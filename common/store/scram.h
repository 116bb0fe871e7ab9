/*
 * scram: the keys of SCRAM (RFC 5802, 7677), and the mathematics of one exchange. No I/O, no
 * message syntax (frontend/sasl has that).
 *
 * What is stored lets a server check a client and never shows the password. Hashing is OpenSSL's,
 * SASLprep (RFC 4013) is GNU SASL's.
 */
#ifndef MAILFLEET_STORE_SCRAM_H
#define MAILFLEET_STORE_SCRAM_H

#include "base/span.h"

enum scram_hash { SCRAM_SHA_256, SCRAM_SHA_1 };

#define SCRAM_KEY_MAX  32
#define SCRAM_SALT_MAX 64
/* Octets of one hash's keys as text, with a NUL. */
#define SCRAM_TEXT_MAX 256
/* More than that can't be read: clients count in an int. */
#define SCRAM_ITERATIONS_MAX 2147483647u
/* Octets of a server's part of a nonce, with a NUL. */
#define SCRAM_NONCE_SIZE 33

struct scram_keys {
    enum scram_hash hash;
    uint32_t iterations;
    uint8_t salt[SCRAM_SALT_MAX];
    size_t salt_n;
    uint8_t stored[SCRAM_KEY_MAX]; /* H(ClientKey) */
    uint8_t server[SCRAM_KEY_MAX]; /* ServerKey */
};

size_t scram_hash_size(enum scram_hash h);

/*
 * Keys of a new password with a new salt. Slow on purpose: never on the loop. ERR_INVALID: a
 * password that SASLprep does not allow.
 */
enum err scram_derive(enum scram_hash h, struct span password, uint32_t iterations,
                      struct scram_keys *out);
/* `SCRAM-SHA-256$4096:salt$stored:server` (RFC 5803). */
void scram_format(const struct scram_keys *k, char out[SCRAM_TEXT_MAX]);
/*
 * The keys of one hash out of an account's text: any number of them, separated by one blank.
 * NOTFOUND: none of that hash. CORRUPT: it can't be read.
 */
enum err scram_parse(struct span text, enum scram_hash h, struct scram_keys *out);
/*
 * Keys for a user who has none, always the same for the same user: nobody can tell him from one
 * who has. mac: a keyed hash of the user's name. No password is right.
 */
void scram_fake(enum scram_hash h, const uint8_t mac[32], uint32_t iterations,
                struct scram_keys *out);

/*
 * Whether proof is right for auth_message (RFC 5802, section 3). signature: the server's, when
 * right; it has room for SCRAM_KEY_MAX octets.
 *
 * That two wrong proofs came from one password is what no server of SCRAM can see: the client masks
 * its key with one made from the password and the nonce, and only the right keys get the mask off.
 */
bool scram_verify(const struct scram_keys *k, struct span auth_message, struct span proof,
                  uint8_t *signature);

/* A new nonce of printable characters other than the comma. */
void scram_nonce(char out[SCRAM_NONCE_SIZE]);
/*
 * A user's name as SASLprep has it, with a NUL. INVALID: it has none. LIMIT: longer than out.
 */
enum err scram_prepare_user(struct span user, char *out, size_t size);

#endif
