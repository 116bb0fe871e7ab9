/*
 * envelope: the readable block in front of each message file, and the file's path.
 *
 *   mailfleet 1
 *   id: <id>
 *   time: <RFC 3339, ms>
 *   from: <reverse-path>
 *   to: <mailbox id> <address>      (a line a recipient)
 *   uidl: <text>                    (only of an imported message: its UIDL there)
 *   size: <octets of the message, 20 digits>
 *   sha256: <64 hex digits>
 *   (an empty line)
 *
 * Lines end with LF. It is never served. size and sha256 have fixed places, counted from the end
 * of the block, and are dashes until a streamed message is complete: a file that still has them
 * was never accepted. Bytes only; no I/O.
 */
#ifndef MAILFLEET_STORE_ENVELOPE_H
#define MAILFLEET_STORE_ENVELOPE_H

#include "base/blob_id.h"
#include "base/buffer.h"

#define ENVELOPE_SHA256_HEX 64

struct envelope_recipient {
    uint64_t mailbox_id;
    struct span address;
};

struct envelope {
    struct blob_id id;
    struct span reverse_path;
    const struct envelope_recipient *to;
    size_t n;
    struct span uidl; /* empty: none */
    bool complete;    /* size and sha256 are known */
    uint64_t size;
    char sha256[ENVELOPE_SHA256_HEX + 1];
};

/*
 * Appends the block. Control characters in an address are ERR_INVALID: addresses have none.
 * ERR_LIMIT: the bound of out is reached, and a part of the block is in it.
 */
enum err envelope_write(const struct envelope *e, struct buf *out);
/* The last octets of the block of a complete message, to be written over the dashes. */
#define ENVELOPE_TAIL (6 + 20 + 1 + 8 + ENVELOPE_SHA256_HEX + 1 + 1)
void envelope_tail(uint64_t size, const char sha256[ENVELOPE_SHA256_HEX + 1],
                   char out[ENVELOPE_TAIL + 1]);

/* True if the file that begins with head is the one of this id. */
bool envelope_is(struct span head, const struct blob_id *id);

/*
 * Reads the block that in begins with, exactly as envelope_write makes it; all else is
 * ERR_CORRUPT. The spans of *out point into in; *to is the array of its recipients, which the
 * caller frees.
 */
enum err envelope_parse(struct span in, struct envelope *out, struct envelope_recipient **to,
                        size_t *skip);

/*
 * `<YYYYMMDD>/<hash>/<id>`, relative to the volume: the UTC day out of the id, then fanout hex
 * digits of its random bits (none: no such directory). Returns how many octets name the directory.
 */
#define SPOOL_FANOUT_MAX 4
#define SPOOL_PATH_MAX   64
size_t spool_path(const struct blob_id *id, unsigned fanout, char out[SPOOL_PATH_MAX]);
/* An id that lies in the nth hash directory (0 to 16^fanout - 1) of a day, counted since 1970. */
#define SPOOL_DAY_MS (24ull * 60 * 60 * 1000)
struct blob_id spool_id_in(uint64_t day, unsigned fanout, uint32_t nth);

#endif
