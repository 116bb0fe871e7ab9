/*
 * blob_id: the 128-bit name of a message file.
 *
 * 48 bits of Unix time in milliseconds, then 80 random bits (the layout of UUIDv7 without its
 * version bits), of which the first 8 may be shared by ids of one moment (spool.c). Written as 26
 * lower-case Crockford base32 characters, which sort as the ids do.
 * It names the file, is the UIDL of mail that mailfleet received (RFC 1939, section 7), and is
 * stored in the database as a uuid.
 */
#ifndef MAILFLEET_BASE_BLOB_ID_H
#define MAILFLEET_BASE_BLOB_ID_H

#include "base/span.h"

#define BLOB_ID_SIZE  16
#define BLOB_ID_CHARS 26

struct blob_id {
    uint8_t b[BLOB_ID_SIZE];
};

/* From a time and 10 random bytes: the caller has the clock and the randomness. */
struct blob_id blob_id_make(uint64_t unix_ms, const uint8_t random[10]);
/* Milliseconds since 1970. */
uint64_t blob_id_time(const struct blob_id *id);
/* Writes 26 characters and a NUL. */
void blob_id_text(const struct blob_id *id, char out[BLOB_ID_CHARS + 1]);
/* Exactly 26 characters of the alphabet in lower case, and at most 128 bits; else ERR_INVALID. */
enum err blob_id_parse(struct span s, struct blob_id *out);
bool blob_id_eq(const struct blob_id *a, const struct blob_id *b);

#endif
