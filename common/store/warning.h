/*
 * warning: the message that tells the owner of a mailbox how full it is (quota.warn).
 *
 * Its words are the operator's, of quota.warn_file, or built in: header fields, an empty line, and
 * plain text in UTF-8. In all of it %a is the address, %p the per cent, %u what is used and %l the
 * limit, %% a %. The fields that make it a mail of ours (From, To, Date, ...) are written here, so
 * the file may not have them. Bytes, but for warning_read; one owner of everything: the caller.
 */
#ifndef MAILFLEET_STORE_WARNING_H
#define MAILFLEET_STORE_WARNING_H

#include "base/blob_id.h"
#include "base/buffer.h"
#include "base/config.h"

#define WARNING_FILE_MAX (16u * 1024) /* octets of quota.warn_file */
#define WARNING_MAX      (1u << 20)   /* more than any message made of it has */

/*
 * Reads quota.warn_file into c->warning; without the setting that stays NULL. It blocks: for the
 * start and for the thread of a reload. INVALID: it can't be read or is not what it should be,
 * which why says in one line.
 */
enum err warning_read(struct config *c, char *why, size_t why_size);
/* The latter of a text. */
enum err warning_check(struct span text, char *why, size_t why_size);

struct warning {
    const char *text;     /* NULL: the built-in one */
    struct span address;  /* the account's: canonical, without control characters (checked) */
    struct span hostname; /* ours, for Message-ID */
    const struct blob_id *id;
    uint64_t unix_seconds;
    unsigned per_cent;
    uint64_t used, limit;
    bool messages; /* they count messages, not octets */
};

/* Appends the message as it is stored. ERR_LIMIT: out is too small. text must have been checked. */
enum err warning_write(const struct warning *w, struct buf *out);

#endif
