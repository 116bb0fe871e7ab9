/*
 * seal: the fleet key, and what is made with it (OpenSSL).
 *
 * Cached values are sealed with AES-256-GCM, so that a rogue or shared memcached can neither read
 * nor forge one. A fleet seals more values than 96-bit random nonces are good for under one key,
 * so each value has a key of its own, derived from 16 random octets in front of it.
 *
 * One thread at a time.
 */
#ifndef MAILFLEET_STORE_SEAL_H
#define MAILFLEET_STORE_SEAL_H

#include "base/buffer.h"

#define SEAL_OVERHEAD  (16 + 12 + 16) /* key salt, nonce, tag */
#define SEAL_MAC_SIZE  32
#define SEAL_PARTS_MAX 4 /* of a keyed hash */

struct seal;

/* From a file with 64 hex digits. ERR_INVALID: why says what is wrong with it. */
enum err seal_load(const char *path, struct seal **out, char *why, size_t why_size);
/* From 32 octets, for tests. */
struct seal *seal_new(const uint8_t key[32]);
void seal_free(struct seal **s); /* wipes the key */

/* Appends the sealed form of plain, bound to ad. ERR_LIMIT: out is too small. */
enum err seal_value(const struct seal *s, struct span ad, struct span plain, struct buf *out);
/* ERR_CORRUPT: not sealed with this key for this ad. */
enum err unseal_value(const struct seal *s, struct span ad, struct span sealed, struct buf *out);

/*
 * HMAC-SHA256 under a key derived for label: what cache keys and remembered passwords are made
 * of. parts are authenticated with their lengths. label is a literal of the program, borrowed for
 * ever: its key is kept, and found again by where the literal lies.
 */
void seal_mac(struct seal *s, const char *label, const struct span *parts, size_t n,
              uint8_t out[SEAL_MAC_SIZE]);

#endif
