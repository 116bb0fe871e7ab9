/*
 * buffer: a queue of bytes with a bound.
 *
 * Bytes go in at the end and are taken from the front. A buf owns its memory, which it gives back
 * when it runs empty after having been large, so that idle sessions cost little. Embedded in its
 * owner: buf_init, buf_fini.
 */
#ifndef MAILFLEET_BASE_BUFFER_H
#define MAILFLEET_BASE_BUFFER_H

#include "base/span.h"

struct buf {
    char *mem;    /* NULL while nothing was ever stored */
    size_t head;  /* first byte not yet taken */
    size_t tail;  /* one past the last byte */
    size_t size;  /* of mem */
    size_t limit; /* most bytes it may hold */
};

void buf_init(struct buf *b, size_t limit);
void buf_fini(struct buf *b);

/* What it holds; valid until the next call that changes the buf. */
struct span buf_span(const struct buf *b);
size_t buf_len(const struct buf *b);
/* How many more bytes the bound allows. */
size_t buf_room(const struct buf *b);

/* All or nothing: ERR_LIMIT, and unchanged, when the bound would be passed. */
enum err buf_add(struct buf *b, struct span s);
enum err buf_addc(struct buf *b, char c);
enum err buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A decimal number: what replies are made of, without printf. */
enum err buf_addu(struct buf *b, uint64_t v);
/* The same for memory that buf_reserve gave; returns the end of what was written. */
#define BUF_DECIMAL_MAX 20 /* UINT64_MAX has so many */
char *buf_decimal(char *to, uint64_t v);

/*
 * Room for n bytes at the end, to be written to and then given to buf_commit; NULL when the bound
 * forbids it.
 */
char *buf_reserve(struct buf *b, size_t n);
void buf_commit(struct buf *b, size_t n);

/* Drops n bytes from the front; n may not exceed buf_len. */
void buf_take(struct buf *b, size_t n);
void buf_clear(struct buf *b);
/* Frees the memory too; the bound stays. */
void buf_release(struct buf *b);

#endif
