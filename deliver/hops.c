/*
 * hops: finds header lines that begin with "Received:", octet by octet.
 *
 * The state is all that is kept between pieces, so a split anywhere makes no difference. It owns no
 * memory. It doesn't parse the headers: a folded line begins with a blank and so is never counted.
 */
#include "hops.h"

enum {
    NAME, /* the line may still become a Received: header */
    SKIP, /* the rest of a line is of no interest */
    BODY  /* the header has ended, and so has the work */
};

static const char name[] = "received:";

void hops_init(struct hops *h)
{
    *h = (struct hops){ .state = NAME };
}

/* Both give back what is left to scan; an octet that doesn't fit is left to skip_line. */
static struct span match_name(struct hops *h, struct span piece)
{
    char c = *piece.p;
    ascii_lower(&c, 1);
    if (h->matched == 0 && c == '\r') {
        h->state = BODY;
        return piece;
    }
    if (c != name[h->matched]) {
        h->state = SKIP;
        return piece;
    }
    if (name[++h->matched] == '\0') {
        h->n++;
        h->state = SKIP;
    }
    return span_skip(piece, 1);
}

static struct span skip_line(struct hops *h, struct span piece)
{
    size_t line = span_find(piece, '\n');
    if (line < piece.n) {
        h->matched = 0;
        h->state = NAME;
    }
    return span_skip(piece, line + 1);
}

void hops_scan(struct hops *h, struct span piece)
{
    while (piece.n > 0 && h->state != BODY) {
        piece = h->state == SKIP ? skip_line(h, piece) : match_name(h, piece);
    }
}
