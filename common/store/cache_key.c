/*
 * cache_key: the text of keys: "mf:" EPOCH ":" LETTER ":" OWNER, and for a slot ":" NUMBER. It is
 * part of the format: nodes of two versions that don't agree would not see each other's tombstones.
 * Makes no call.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "store/cache_parts.h"

/* Epoch and kind; returns where the owner goes. */
static char *begin_key(const struct cache *c, char letter, char out[ITEM_KEY_SIZE])
{
    memcpy(out, c->prefix, c->prefix_n);
    out[c->prefix_n] = letter;
    out[c->prefix_n + 1] = ':';
    return out + c->prefix_n + 2;
}

/* A name goes in as a keyed hash: a memcached tells its keys to whoever asks. */
static void hashed_key_text(const struct cache *c, char letter, const char *label, struct span name,
                            char out[ITEM_KEY_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t mac[SEAL_MAC_SIZE];
    char *to = begin_key(c, letter, out);
    seal_mac(c->seal, label, &name, 1, mac);
    for (size_t i = 0; i < 16; i++) {
        *to++ = digits[mac[i] >> 4];
        *to++ = digits[mac[i] & 15];
    }
    *to = '\0';
}

void cache_key_mailbox(const struct cache *c, char letter, uint64_t mailbox_id,
                       char out[ITEM_KEY_SIZE])
{
    *buf_decimal(begin_key(c, letter, out), mailbox_id) = '\0';
}

void cache_key_named(const struct cache *c, char letter, struct span what, char out[ITEM_KEY_SIZE])
{
    hashed_key_text(c, letter, "cache name", what, out);
}

void cache_key_slot(const struct cache *c, uint64_t mailbox_id, unsigned slot,
                    char out[ITEM_KEY_SIZE])
{
    char *end = buf_decimal(begin_key(c, LETTER_SLOT, out), mailbox_id);
    *end++ = ':';
    *buf_decimal(end, slot) = '\0';
}

void cache_key_text(const struct cache *c, const struct cache_key *k, char out[ITEM_KEY_SIZE])
{
    switch (k->kind) {
    case CACHE_ADDRESS:
        hashed_key_text(c, 'a', "cache address", k->address, out);
        return;
    case CACHE_LIST:
        cache_key_mailbox(c, 'l', k->mailbox_id, out);
        return;
    case CACHE_VERIFIED:
        cache_key_named(c, 'v', k->name, out);
        return;
    case CACHE_KNOWN:
        cache_key_named(c, 'w', k->name, out);
        return;
    }
    UNREACHABLE();
}

struct span cache_key_owner(const char *key)
{
    struct span rest = span_str(key);
    for (int i = 0; i < 3; i++) {
        rest = span_skip(rest, span_find(rest, ':') + 1);
    }
    return span_first(rest, span_find(rest, ':'));
}

void cache_set_epoch(struct cache *c, uint64_t epoch)
{
    c->epoch = epoch;
    c->prefix_n = (size_t)snprintf(c->prefix, sizeof c->prefix, "mf:%" PRIx64 ":", epoch);
}

uint64_t cache_epoch(const struct cache *c)
{
    return c->epoch;
}
