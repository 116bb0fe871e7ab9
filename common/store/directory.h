/*
 * directory: what an address leads to, and its form in the cache.
 *
 * One entry an address, as USER and RCPT look it up. An entry is a value without pointers into
 * anything else: it is read from the database or out of a sealed cache value.
 */
#ifndef MAILFLEET_STORE_DIRECTORY_H
#define MAILFLEET_STORE_DIRECTORY_H

#include "base/buffer.h"

enum entry_kind {
    ENTRY_NONE,    /* no such address */
    ENTRY_MAILBOX, /* an account's own address */
    ENTRY_ALIAS,   /* other addresses: targets */
    ENTRY_DOMAIN   /* `@domain`: a domain of ours; targets is its catch-all, mostly empty */
};

enum account_state {
    ACCOUNT_ACTIVE,
    ACCOUNT_SUSPENDED,
    ACCOUNT_REMOVED /* as suspended, until its mail is purged */
};

/* Whether a mailbox can take a message; deliver() of deploy/schema answers with these numbers. */
enum room {
    ROOM_OK,
    ROOM_OVER_QUOTA, /* a later try may find room */
    ROOM_TOO_LARGE,  /* larger than this mailbox ever takes */
    ROOM_GONE,       /* no such mailbox any more */
    ROOM_SUSPENDED
};

#define PASSWORD_HASH_MAX 383 /* CRYPT_OUTPUT_SIZE less its NUL */
#define ENTRY_SCRAM_MAX   511
#define ENTRY_TARGETS_MAX 1000
#define ENTRY_TARGET_MAX  320 /* octets: a local part of 64, @, a domain of 255 */

struct entry {
    enum entry_kind kind;
    bool full; /* of a domain: its mailboxes hold together what they may, or more */
    uint64_t mailbox_id;
    enum account_state state;
    uint64_t max_octets;              /* quota; 0 is none */
    uint64_t max_messages;            /* 0 is none */
    uint64_t max_size;                /* of one message; 0 is the fleet's limit */
    uint32_t retention_days;          /* 0: kept for ever */
    int32_t read_days;                /* kept so long after RETR; -1: as what was not read */
    char hash[PASSWORD_HASH_MAX + 1]; /* crypt(3); empty: no login */
    char scram[ENTRY_SCRAM_MAX +
               1];  /* keys as RFC 5803 has them, separated by a blank; empty: none */
    size_t n;       /* targets */
    char **targets; /* canonical addresses; owned */
};

/* What is so of the accounts of the whole fleet: what may be said before a login. */
struct fleet {
    int32_t least_retention; /* days, of mailboxes that do not keep all for ever; -1: all do */
    bool retention_differs;  /* between them; when least_retention is -1: it is not known */
    bool keyless; /* some account has a password without SCRAM keys, or it is not known */
};

struct entry *entry_new(enum entry_kind kind);
/* Copies. LIMIT: it has ENTRY_TARGETS_MAX. INVALID: empty, too long, or a NUL in it. */
enum err entry_add_target(struct entry *e, struct span addr);
void entry_free(struct entry **e);

/* The cached form. ERR_LIMIT: larger than out may grow; out is unchanged then. */
enum err entry_encode(const struct entry *e, struct buf *out);
/* ERR_CORRUPT for anything that entry_encode did not write. The caller owns *out. */
enum err entry_decode(struct span in, struct entry **out);

#endif
