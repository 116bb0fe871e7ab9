/*
 * buffer: a queue of bytes in one piece of memory.
 *
 * The buf owns the memory; spans of it are borrowed. The bytes always lie in one run, so that
 * they can be given to write, TLS and parsers as they are: that is worth the move to the front
 * when the end is reached. It is no ring, is not shared between threads, and never blocks.
 */
#include "base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

enum {
    SIZE_FIRST = 512,  /* a session of short commands never needs more */
    SIZE_KEPT = 16384, /* an empty buf keeps memory up to this size */
};

void buf_init(struct buf *b, size_t limit)
{
    *b = (struct buf){ .limit = limit };
}

void buf_fini(struct buf *b)
{
    buf_release(b);
}

struct span buf_span(const struct buf *b)
{
    return b->mem ? span_of(b->mem + b->head, b->tail - b->head) : span_of("", 0);
}

size_t buf_len(const struct buf *b)
{
    return b->tail - b->head;
}

size_t buf_room(const struct buf *b)
{
    return b->limit - buf_len(b);
}

/* Doubling, so that filling a buf costs a constant a byte; never past the bound. */
static size_t grown_size(const struct buf *b, size_t need)
{
    size_t size = b->size ? b->size : SIZE_FIRST;
    while (size < need) {
        size = size > b->limit / 2 ? b->limit : size * 2;
    }
    return size;
}

/* Brings the bytes to the front of memory that has room for `need` of them. */
static void make_room(struct buf *b, size_t need)
{
    size_t len = buf_len(b);
    if (need > b->size) {
        size_t size = grown_size(b, need);
        char *mem = mem_raw(size);
        if (len) {
            memcpy(mem, b->mem + b->head, len);
        }
        free(b->mem);
        b->mem = mem;
        b->size = size;
    } else if (b->head) {
        memmove(b->mem, b->mem + b->head, len);
    }
    b->head = 0;
    b->tail = len;
}

char *buf_reserve(struct buf *b, size_t n)
{
    if (n > buf_room(b)) {
        return NULL;
    }
    if (!b->mem || n > b->size - b->tail) {
        make_room(b, buf_len(b) + (n ? n : 1)); /* never NULL, which says that there is no room */
    }
    return b->mem + b->tail;
}

void buf_commit(struct buf *b, size_t n)
{
    CHECK(n <= b->size - b->tail && n <= buf_room(b));
    b->tail += n;
}

enum err buf_add(struct buf *b, struct span s)
{
    if (s.n == 0) {
        return ERR_OK; /* there may be no memory yet to point to */
    }
    char *to = buf_reserve(b, s.n);
    if (!to) {
        return ERR_LIMIT;
    }
    memcpy(to, s.p, s.n);
    buf_commit(b, s.n);
    return ERR_OK;
}

enum err buf_addc(struct buf *b, char c)
{
    return buf_add(b, span_of(&c, 1));
}

/* Through memory of its own: vsnprintf wants a place for its NUL, which the bound may not have. */
enum err buf_addf(struct buf *b, const char *fmt, ...)
{
    char small[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    CHECK(n >= 0);
    if ((size_t)n < sizeof small) {
        return buf_add(b, span_of(small, (size_t)n));
    }
    if ((size_t)n > buf_room(b)) {
        return ERR_LIMIT;
    }
    char *large = mem_new((size_t)n + 1, 1);
    va_start(args, fmt);
    vsnprintf(large, (size_t)n + 1, fmt, args);
    va_end(args);
    enum err e = buf_add(b, span_of(large, (size_t)n));
    free(large);
    return e;
}

char *buf_decimal(char *to, uint64_t v)
{
    size_t n = 1;
    for (uint64_t power = 10; n < BUF_DECIMAL_MAX && v >= power; power *= 10) {
        n++;
    }
    for (char *at = to + n; at > to; v /= 10) {
        *--at = (char)('0' + v % 10);
    }
    return to + n;
}

enum err buf_addu(struct buf *b, uint64_t v)
{
    char digits[BUF_DECIMAL_MAX];
    return buf_add(b, span_of(digits, (size_t)(buf_decimal(digits, v) - digits)));
}

void buf_take(struct buf *b, size_t n)
{
    CHECK(n <= buf_len(b));
    b->head += n;
    if (b->head == b->tail) {
        buf_clear(b);
    }
}

void buf_clear(struct buf *b)
{
    if (b->size > SIZE_KEPT) {
        buf_release(b);
    }
    b->head = b->tail = 0;
}

void buf_release(struct buf *b)
{
    free(b->mem);
    buf_init(b, b->limit);
}
