/*
 * directory: entries in memory, and as bytes in the cache.
 *
 *   format 1 | kind 1 | state 1 | mailbox_id 8 | max_octets 8 | max_messages 8 | max_size 8
 *   retention_days 4 | read_days 4 | hash length 2 | scram length 2 | targets 2 | hash | scram
 *   for each target: length 2, address
 *
 * state is an account's; of a domain it is whether it is full.
 *
 * An entry owns its targets. One entry has exactly one form. What an address leads to is read by
 * index; who may receive there is the business of the delivery node's route.
 */
#include "store/directory.h"

#include <stdlib.h>

#include "base/check.h"
#include "store/wire.h"

enum { FORMAT = 3, HEAD_SIZE = 1 + 1 + 1 + 8 + 8 + 8 + 8 + 4 + 4 + 2 + 2 + 2 };

struct entry *entry_new(enum entry_kind kind)
{
    struct entry *e = NEW(struct entry);
    e->kind = kind;
    e->read_days = -1;
    return e;
}

void entry_free(struct entry **e)
{
    if (*e) {
        for (size_t i = 0; i < (*e)->n; i++) {
            free((*e)->targets[i]);
        }
        free((*e)->targets);
        free(*e);
        *e = NULL;
    }
}

/* Text that a C string can hold, of a length that the cached form can tell. */
static bool target_valid(struct span addr)
{
    return addr.n > 0 && addr.n <= ENTRY_TARGET_MAX && span_find(addr, '\0') == addr.n;
}

enum err entry_add_target(struct entry *e, struct span addr)
{
    if (!target_valid(addr)) {
        return ERR_INVALID;
    }
    if (e->n == ENTRY_TARGETS_MAX) {
        return ERR_LIMIT;
    }
    e->targets = mem_grow(e->targets, e->n + 1, sizeof *e->targets);
    e->targets[e->n++] = span_dup(addr);
    return ERR_OK;
}

static size_t encoded_size(const struct entry *e)
{
    size_t n = HEAD_SIZE + strlen(e->hash) + strlen(e->scram);
    for (size_t i = 0; i < e->n; i++) {
        n += 2 + strlen(e->targets[i]);
    }
    return n;
}

static uint8_t get_state(const struct entry *e)
{
    return e->kind == ENTRY_DOMAIN ? e->full : (uint8_t)e->state;
}

/* False: it is none. */
static bool set_state(struct entry *e, uint8_t state)
{
    if (e->kind == ENTRY_DOMAIN) {
        e->full = state == 1;
        return state <= 1;
    }
    e->state = (enum account_state)state;
    return state <= ACCOUNT_REMOVED;
}

enum err entry_encode(const struct entry *e, struct buf *out)
{
    size_t n = encoded_size(e), hash_len = strlen(e->hash), scram_len = strlen(e->scram);
    char *to = buf_reserve(out, n);
    if (!to) {
        return ERR_LIMIT;
    }
    to = wire_put8(to, FORMAT);
    to = wire_put8(to, (uint8_t)e->kind);
    to = wire_put8(to, get_state(e));
    to = wire_put64(to, e->mailbox_id);
    to = wire_put64(to, e->max_octets);
    to = wire_put64(to, e->max_messages);
    to = wire_put64(to, e->max_size);
    to = wire_put32(to, e->retention_days);
    to = wire_put32(to, (uint32_t)e->read_days);
    to = wire_put16(to, (uint16_t)hash_len);
    to = wire_put16(to, (uint16_t)scram_len);
    to = wire_put16(to, (uint16_t)e->n);
    to = wire_put(to, e->hash, hash_len);
    to = wire_put(to, e->scram, scram_len);
    for (size_t i = 0; i < e->n; i++) {
        size_t len = strlen(e->targets[i]);
        to = wire_put16(to, (uint16_t)len);
        to = wire_put(to, e->targets[i], len);
    }
    buf_commit(out, n);
    return ERR_OK;
}

/* A C string in an array of its own size, which is all zeros yet. */
static enum err get_text(struct wire *w, size_t len, char *out, size_t max)
{
    struct span text = wire_get(w, len);
    if (w->bad || text.n > max || span_find(text, '\0') != text.n) {
        return ERR_CORRUPT;
    }
    memcpy(out, text.p, text.n);
    return ERR_OK;
}

static enum err get_targets(struct wire *w, size_t n, struct entry *e)
{
    for (size_t i = 0; i < n; i++) {
        struct span addr = wire_get(w, wire_get16(w));
        if (w->bad || entry_add_target(e, addr) != ERR_OK) {
            return ERR_CORRUPT;
        }
    }
    return ERR_OK;
}

enum err entry_decode(struct span in, struct entry **out)
{
    struct wire w = { .rest = in };
    uint8_t format = wire_get8(&w), kind = wire_get8(&w), state = wire_get8(&w);
    if (w.bad || format != FORMAT || kind > ENTRY_DOMAIN) {
        return ERR_CORRUPT;
    }
    struct entry *e = entry_new((enum entry_kind)kind);
    bool valid = set_state(e, state);
    e->mailbox_id = wire_get64(&w);
    e->max_octets = wire_get64(&w);
    e->max_messages = wire_get64(&w);
    e->max_size = wire_get64(&w);
    e->retention_days = wire_get32(&w);
    e->read_days = (int32_t)wire_get32(&w);
    uint16_t hash_len = wire_get16(&w), scram_len = wire_get16(&w), targets = wire_get16(&w);
    if (!valid || e->read_days < -1 ||
        get_text(&w, hash_len, e->hash, PASSWORD_HASH_MAX) != ERR_OK ||
        get_text(&w, scram_len, e->scram, ENTRY_SCRAM_MAX) != ERR_OK ||
        get_targets(&w, targets, e) != ERR_OK || !wire_end(&w)) {
        entry_free(&e);
        return ERR_CORRUPT;
    }
    *out = e;
    return ERR_OK;
}
