/*
 * line: the splitter of command lines.
 *
 * A whole line is handed out where it lies in the caller's bytes; only one that arrives in pieces
 * is copied, to memory that grows with it. What counts against the bound is everything before the
 * LF, so that the verdict does not depend on how the bytes were split. It does not look into a
 * line: NULs and lone CRs stay.
 */
#include "proto/line.h"

#include <stdlib.h>

#include "base/check.h"

#define SIZE_FIRST 256 /* most commands are shorter */

void line_init(struct line *l)
{
    *l = (struct line){ 0 };
}

static void give_back(struct line *l)
{
    if (l->mem) {
        explicit_bzero(l->mem, l->size);
        free(l->mem);
    }
    l->mem = NULL;
    l->n = l->size = 0;
}

void line_fini(struct line *l)
{
    give_back(l);
    l->overlong = false;
}

void line_done(struct line *l)
{
    if (l->n == 0) {
        give_back(l);
    }
}

/* Not by realloc, which would leave a copy of what may be a password. */
static void grow(struct line *l, size_t need, size_t limit)
{
    size_t size = l->size ? l->size : SIZE_FIRST;
    while (size < need) {
        size *= 2;
    }
    if (size > limit) {
        size = limit;
    }
    char *mem = mem_raw(size);
    size_t n = l->n;
    if (n > 0) {
        memcpy(mem, l->mem, n);
    }
    give_back(l);
    l->mem = mem;
    l->n = n;
    l->size = size;
}

static void keep(struct line *l, struct span piece, size_t limit)
{
    if (piece.n == 0) {
        return;
    }
    if (l->n + piece.n > l->size) {
        grow(l, l->n + piece.n, limit);
    }
    memcpy(l->mem + l->n, piece.p, piece.n);
    l->n += piece.n;
}

static struct span without_cr(struct span s)
{
    return s.n > 0 && s.p[s.n - 1] == '\r' ? span_first(s, s.n - 1) : s;
}

enum line_result line_next(struct line *l, size_t limit, struct span *in, struct span *out)
{
    CHECK(l->n <= limit);
    if (in->n == 0) {
        return LINE_MORE;
    }
    size_t n = span_find(*in, '\n');
    bool ended = n < in->n;
    struct span piece = span_first(*in, n);
    *in = span_skip(*in, ended ? n + 1 : n);

    if (l->overlong || piece.n > limit - l->n) {
        give_back(l);
        l->overlong = !ended;
        return ended ? LINE_TOO_LONG : LINE_MORE;
    }
    if (ended && l->n == 0) {
        *out = without_cr(piece);
        return LINE_READY;
    }
    keep(l, piece, limit);
    if (!ended) {
        return LINE_MORE;
    }
    *out = without_cr(span_of(l->mem, l->n));
    l->n = 0; /* the memory stays until it is done with */
    return LINE_READY;
}
