/*
 * cache_item: writing, sealing, splitting and parsing items.
 *
 * All memory is the caller's. Nothing that comes from a server is believed before the seal has
 * vouched for it: a head in clear only tells where to look. What a marker means for readers and
 * writers is in cache_lane.c.
 */
#include "store/cache_item.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "store/wire.h"

enum { FORMAT = 1 };

/* By how much the clocks of two nodes may differ. */
#define CLOCK_SLACK_MS 10000

enum marker { MARK_PLACEHOLDER = 'P', MARK_TOMBSTONE = 'T', MARK_VALUE = 'V', MARK_LEASE = 'L' };

/* --- items without a value ------------------------------------------------------------------- */

struct span item_mark(enum item_type type, const uint8_t *token, char out[ITEM_MARK_SIZE])
{
    static const char markers[] = { [ITEM_PLACEHOLDER] = MARK_PLACEHOLDER,
                                    [ITEM_TOMBSTONE] = MARK_TOMBSTONE,
                                    [ITEM_LEASE] = MARK_LEASE };
    out[0] = markers[type];
    if (type != ITEM_PLACEHOLDER && type != ITEM_LEASE) {
        return span_of(out, 1);
    }
    memcpy(out + 1, token, ITEM_TOKEN_SIZE);
    return span_of(out, ITEM_MARK_SIZE);
}

/* --- parsing --------------------------------------------------------------------------------- */

static struct item unknown(void)
{
    return (struct item){ .type = ITEM_UNKNOWN };
}

static struct item parse_mark(enum item_type type, struct span rest, size_t size)
{
    return rest.n == size ? (struct item){ .type = type, .token = rest } : unknown();
}

static struct item parse_value(struct span octets)
{
    struct wire w = { .rest = span_skip(octets, 1) };
    if (wire_get8(&w) != FORMAT) {
        return w.bad ? unknown() : (struct item){ .type = ITEM_FOREIGN };
    }
    struct item it = { .type = ITEM_VALUE };
    it.parts = wire_get8(&w);
    it.issued_ms = wire_get64(&w);
    it.generation = wire_get(&w, ITEM_GENERATION_SIZE);
    it.head = span_first(octets, ITEM_HEAD_SIZE);
    it.sealed = w.rest;
    bool split = it.parts > 0;
    if (w.bad || it.parts > ITEM_PARTS_MAX || split != (it.sealed.n == 0)) {
        return unknown();
    }
    return it;
}

struct item item_parse(struct span octets)
{
    struct span rest = span_skip(octets, 1);
    switch (octets.n ? octets.p[0] : 0) {
    case MARK_PLACEHOLDER:
        return parse_mark(ITEM_PLACEHOLDER, rest, ITEM_TOKEN_SIZE);
    case MARK_LEASE:
        return parse_mark(ITEM_LEASE, rest, ITEM_TOKEN_SIZE);
    case MARK_TOMBSTONE:
        return parse_mark(ITEM_TOMBSTONE, rest, 0);
    case MARK_VALUE:
        return parse_value(octets);
    default:
        return unknown();
    }
}

/* --- values ---------------------------------------------------------------------------------- */

/* The additional data of the seal. */
#define AD_SIZE (ITEM_HEAD_SIZE + ITEM_KEY_SIZE)

static struct span additional_data(struct span head, const char *key, char out[AD_SIZE])
{
    size_t n = strlen(key);
    CHECK(head.n == ITEM_HEAD_SIZE && n < ITEM_KEY_SIZE);
    memcpy(out, head.p, head.n);
    memcpy(out + head.n, key, n);
    return span_of(out, head.n + n);
}

/* In how many parts so many sealed octets go; 0: they fit behind the head. */
static size_t parts_for(size_t sealed)
{
    return sealed <= ITEM_MAX - ITEM_HEAD_SIZE ? 0 : (sealed + ITEM_MAX - 1) / ITEM_MAX;
}

enum err item_seal(const struct seal *s, const char *key, uint64_t now_ms, struct span plain,
                   struct buf *out, unsigned *parts)
{
    char head[ITEM_HEAD_SIZE], ad[AD_SIZE], *to = head;
    uint8_t generation[ITEM_GENERATION_SIZE];
    size_t n = parts_for(plain.n + SEAL_OVERHEAD);
    if (n > ITEM_PARTS_MAX) {
        return ERR_LIMIT;
    }
    arc4random_buf(generation, sizeof generation);
    to = wire_put8(to, MARK_VALUE);
    to = wire_put8(to, FORMAT);
    to = wire_put8(to, (uint8_t)n);
    to = wire_put64(to, now_ms);
    wire_put(to, generation, sizeof generation);
    struct span head_span = span_of(head, sizeof head);
    if (plain.n + SEAL_OVERHEAD + sizeof head > buf_room(out)) {
        return ERR_LIMIT;
    }
    buf_add(out, head_span);
    *parts = (unsigned)n;
    return seal_value(s, additional_data(head_span, key, ad), plain, out);
}

struct span item_part(struct span sealed, unsigned i)
{
    return span_first(span_skip(sealed, (size_t)i * ITEM_MAX), ITEM_MAX);
}

void item_part_key(struct span generation, unsigned i, char out[ITEM_KEY_SIZE])
{
    char hex[2 * ITEM_GENERATION_SIZE + 1];
    for (size_t k = 0; k < ITEM_GENERATION_SIZE; k++) {
        snprintf(hex + 2 * k, 3, "%02x", (uint8_t)generation.p[k]);
    }
    snprintf(out, ITEM_KEY_SIZE, "mf:p:%s:%u", hex, i);
}

static bool in_time(uint64_t issued, uint64_t now, uint64_t ttl)
{
    return issued <= now + CLOCK_SLACK_MS && now <= issued + ttl + CLOCK_SLACK_MS;
}

enum err item_unseal(const struct seal *s, const char *key, const struct item *it,
                     struct span sealed, uint64_t now_ms, uint64_t ttl_ms, struct buf *out)
{
    char ad[AD_SIZE];
    CHECK(it->type == ITEM_VALUE);
    enum err e = unseal_value(s, additional_data(it->head, key, ad), sealed, out);
    if (e == ERR_OK && !in_time(it->issued_ms, now_ms, ttl_ms)) {
        buf_clear(out);
        return ERR_NOTFOUND;
    }
    return e == ERR_OK ? ERR_OK : ERR_CORRUPT;
}
