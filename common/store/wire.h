/*
 * wire: little-endian numbers in the cached forms, written to and read from runs of bytes.
 *
 * A writer is a pointer into memory that the caller has made large enough. A reader never passes
 * its end: after a read that would, it is bad, every read gives 0, and the decoder tests for that
 * once, at its end. Owns nothing.
 */
#ifndef MAILFLEET_STORE_WIRE_H
#define MAILFLEET_STORE_WIRE_H

#include <endian.h>

#include "base/span.h"

static inline char *wire_put(char *to, const void *from, size_t n)
{
    memcpy(to, from, n);
    return to + n;
}

static inline char *wire_put8(char *to, uint8_t v)
{
    return wire_put(to, &v, sizeof v);
}

static inline char *wire_put16(char *to, uint16_t v)
{
    v = htole16(v);
    return wire_put(to, &v, sizeof v);
}

static inline char *wire_put32(char *to, uint32_t v)
{
    v = htole32(v);
    return wire_put(to, &v, sizeof v);
}

static inline char *wire_put64(char *to, uint64_t v)
{
    v = htole64(v);
    return wire_put(to, &v, sizeof v);
}

struct wire {
    struct span rest;
    bool bad;
};

/* Of n octets, or empty when so many are not left. */
static inline struct span wire_get(struct wire *w, size_t n)
{
    if (w->bad || n > w->rest.n) {
        w->bad = true;
        return span_of("", 0);
    }
    struct span s = span_first(w->rest, n);
    w->rest = span_skip(w->rest, n);
    return s;
}

static inline void wire_copy(struct wire *w, void *to, size_t n)
{
    struct span s = wire_get(w, n);
    memset(to, 0, n);
    memcpy(to, s.p, s.n);
}

static inline uint8_t wire_get8(struct wire *w)
{
    uint8_t v;
    wire_copy(w, &v, sizeof v);
    return v;
}

static inline uint16_t wire_get16(struct wire *w)
{
    uint16_t v;
    wire_copy(w, &v, sizeof v);
    return le16toh(v);
}

static inline uint32_t wire_get32(struct wire *w)
{
    uint32_t v;
    wire_copy(w, &v, sizeof v);
    return le32toh(v);
}

static inline uint64_t wire_get64(struct wire *w)
{
    uint64_t v;
    wire_copy(w, &v, sizeof v);
    return le64toh(v);
}

/* All was there, and nothing was left over. */
static inline bool wire_end(const struct wire *w)
{
    return !w->bad && w->rest.n == 0;
}

#endif
