/*
 * line: the splitter of command lines.
 *
 * A whole line is handed out where it lies in the caller's bytes; only one that arrives in pieces
 * is copied. What counts against the bound is everything before the LF, so that the verdict does
 * not depend on how the bytes were split. It does not look into a line: NULs and lone CRs stay.
 */
#include "proto/line.h"

void line_init(struct line *l)
{
    l->n = 0;
    l->overlong = false;
}

static struct span without_cr(struct span s)
{
    return s.n > 0 && s.p[s.n - 1] == '\r' ? span_first(s, s.n - 1) : s;
}

enum line_result line_next(struct line *l, struct span *in, struct span *out)
{
    if (in->n == 0) {
        return LINE_MORE;
    }
    size_t n = span_find(*in, '\n');
    bool ended = n < in->n;
    struct span piece = span_first(*in, n);
    *in = span_skip(*in, ended ? n + 1 : n);

    if (l->overlong || piece.n > sizeof l->mem - l->n) {
        l->n = 0;
        l->overlong = !ended;
        return ended ? LINE_TOO_LONG : LINE_MORE;
    }
    if (ended && l->n == 0) {
        *out = without_cr(piece);
        return LINE_READY;
    }
    memcpy(l->mem + l->n, piece.p, piece.n);
    l->n += piece.n;
    if (!ended) {
        return LINE_MORE;
    }
    *out = without_cr(span_of(l->mem, l->n));
    l->n = 0;
    return LINE_READY;
}
