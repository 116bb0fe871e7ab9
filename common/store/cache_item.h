/*
 * cache_item: what is in a memcached item of ours. Bytes only: no call, no clock.
 *
 * The first octet is the marker:
 *   P  placeholder | token 16           somebody reads the database and will fill
 *   T  tombstone                        a write is under way or just over: do not fill
 *   V  value | head | sealed            see below
 *   L  lease | token 16                 a session holds the mailbox
 * The head of a value: marker 1 | format 1 | parts 1 | issued 8 | generation 16, where parts is 0
 * when the sealed octets follow, else the number of items that they are in, under keys made of the
 * generation. The seal's additional data is the whole head and the key of the item, so that
 * neither an item under another key nor parts of two generations pass for a value. issued bounds
 * how long a server can replay an old value: its life, and no longer.
 */
#ifndef MAILFLEET_STORE_CACHE_ITEM_H
#define MAILFLEET_STORE_CACHE_ITEM_H

#include "store/seal.h"

#define ITEM_TOKEN_SIZE      16
#define ITEM_GENERATION_SIZE 16
#define ITEM_HEAD_SIZE       (1 + 1 + 1 + 8 + ITEM_GENERATION_SIZE)
#define ITEM_MARK_SIZE       (1 + ITEM_TOKEN_SIZE)
/* memcached's limit of 1 MiB holds its own header and our key too. */
#define ITEM_MAX       (900 * 1024)
#define ITEM_PARTS_MAX 64
#define ITEM_KEY_SIZE  64

enum item_type {
    ITEM_UNKNOWN, /* nobody of ours wrote this */
    ITEM_FOREIGN, /* a value in the format of another release: neither used nor replaced */
    ITEM_PLACEHOLDER,
    ITEM_TOMBSTONE,
    ITEM_VALUE,
    ITEM_LEASE
};

/* An item taken apart; everything is borrowed from the octets that were parsed. */
struct item {
    enum item_type type;
    struct span token;      /* PLACEHOLDER, LEASE */
    struct span head;       /* VALUE */
    unsigned parts;         /* VALUE */
    uint64_t issued_ms;     /* VALUE */
    struct span generation; /* VALUE */
    struct span sealed;     /* VALUE with parts 0 */
};
struct item item_parse(struct span octets);

/* An item without a value, written to out; returns it. token: PLACEHOLDER and LEASE only. */
struct span item_mark(enum item_type type, const uint8_t *token, char out[ITEM_MARK_SIZE]);

/*
 * Seals plain for a key. out gets the head and behind it the sealed octets: one item if *parts is
 * 0, else the head is the item and item_part gives the others. ERR_LIMIT: too large to cache.
 *
 * It is done on the loop, as is unsealing: 0.2 ms for the list of 20,584 messages (535 KB), 0.7 ms
 * for that of 100,000.
 */
enum err item_seal(const struct seal *s, const char *key, uint64_t now_ms, struct span plain,
                   struct buf *out, unsigned *parts);
struct span item_part(struct span sealed, unsigned i);
void item_part_key(struct span generation, unsigned i, char out[ITEM_KEY_SIZE]);

/*
 * The value of an item, whose sealed octets are given whole. ERR_CORRUPT: not sealed by us for
 * this key. ERR_NOTFOUND: older than ttl_ms, or from the future, and so no value any more.
 */
enum err item_unseal(const struct seal *s, const char *key, const struct item *it,
                     struct span sealed, uint64_t now_ms, uint64_t ttl_ms, struct buf *out);

#endif
