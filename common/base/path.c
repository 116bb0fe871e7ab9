/*
 * path: compares paths piece by piece. Values only; no system call.
 */
#include "base/path.h"

#include "base/span.h"

/* Takes the next piece off; empty and single dots are none. */
static struct span next_piece(struct span *path)
{
    while (path->n > 0) {
        struct span piece = span_first(*path, span_find(*path, '/'));
        *path = span_skip(*path, piece.n + 1);
        if (piece.n > 0 && !span_eq(piece, SPAN("."))) {
            return piece;
        }
    }
    return SPAN("");
}

static bool climbs(struct span path)
{
    for (struct span piece = next_piece(&path); piece.n > 0; piece = next_piece(&path)) {
        if (span_eq(piece, SPAN(".."))) {
            return true;
        }
    }
    return false;
}

bool path_lies_in(const char *path, const char *folder)
{
    struct span p = span_str(path), f = span_str(folder);
    if (climbs(p) || span_starts(p, SPAN("/")) != span_starts(f, SPAN("/"))) {
        return false;
    }
    for (struct span want = next_piece(&f); want.n > 0; want = next_piece(&f)) {
        if (!span_eq(next_piece(&p), want)) {
            return false;
        }
    }
    return true;
}
