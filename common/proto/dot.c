/*
 * dot: the two state machines of dot-stuffing.
 *
 * Both work on values that their engine embeds and allocate nothing themselves. They know lines
 * and dots, not headers or sizes; how large a message may become is for whoever owns out.
 *
 * Only CRLF makes a new line, for the decoder and for the encoder alike. So each undoes the other
 * on any octets, and a dot behind a bare LF is an ordinary dot: it ends nothing, and no second dot
 * in front of it is taken away.
 */
#include "proto/dot.h"

#include "base/check.h"

enum {
    LINE_START, /* behind CRLF, and where a message begins */
    TEXT,       /* within a line */
    CR,         /* behind a CR within a line; the decoder holds it back */
    START_CR,   /* encoder: behind a CR at the start of a line, which is empty if LF follows */
    DOT,        /* decoder: behind a dot at the start of a line, which is held back */
    DOT_CR      /* decoder: behind such a dot and a CR, both held back */
};

/* Room for what one octet of input may set free: a held CR as CRLF, and itself. */
#define DECODE_ROOM 4

static void add(struct buf *out, struct span s)
{
    if (s.n > 0) {
        enum err e = buf_add(out, s);
        CHECK(e == ERR_OK);
    }
}

static void add_octet(struct buf *out, char c)
{
    add(out, span_of(&c, 1));
}

void dot_decode_init(struct dot_decoder *d, bool normalize)
{
    *d = (struct dot_decoder){ .state = LINE_START, .normalize = normalize };
}

void dot_decode_chunks_init(struct dot_decoder *d, bool normalize)
{
    *d = (struct dot_decoder){ .state = LINE_START, .normalize = normalize, .chunks = true };
}

/* A CR or LF that has turned out to be alone. */
static void decode_bare(struct dot_decoder *d, char c, struct buf *out)
{
    d->bare = true;
    if (d->normalize) {
        add(out, SPAN("\r\n"));
    } else {
        add_octet(out, c);
    }
}

/* True when the octet completes the message. */
static bool decode_octet(struct dot_decoder *d, char c, struct buf *out)
{
    switch (d->state) {
    case LINE_START:
        if (c == '.' && !d->chunks) {
            d->state = DOT;
            return false;
        }
        break;
    case CR:
        if (c == '\n') {
            add(out, SPAN("\r\n"));
            d->state = LINE_START;
            return false;
        }
        decode_bare(d, '\r', out);
        break;
    case DOT:
        if (c == '\r') {
            d->state = DOT_CR;
            return false;
        }
        break; /* the dot was stuffing */
    case DOT_CR:
        if (c == '\n') {
            d->state = LINE_START;
            return true;
        }
        decode_bare(d, '\r', out); /* the dot was stuffing */
        break;
    }

    d->state = c == '\r' ? CR : TEXT;
    if (c == '\n') {
        decode_bare(d, c, out);
        if (d->chunks && d->normalize) {
            d->state = LINE_START; /* where there are dots, not even then may one be read */
        }
    } else if (c != '\r') {
        add_octet(out, c);
    }
    return false;
}

void dot_decode_chunks_end(struct dot_decoder *d, struct buf *out)
{
    CHECK(d->chunks);
    if (d->state == CR) {
        decode_bare(d, '\r', out);
    }
    if (d->state == TEXT || (d->state == CR && !d->normalize)) {
        add(out, SPAN("\r\n"));
    }
    d->state = LINE_START;
}

/* How many octets pass through unchanged within a line. */
static size_t text_run(struct span s)
{
    size_t n = 0;
    while (n < s.n && s.p[n] != '\r' && s.p[n] != '\n') {
        n++;
    }
    return n;
}

/* How many octets are whole lines that pass through unchanged: nearly all of nearly all mail. An
 * octet is looked at twice at most, as where a line ends is found first. */
static size_t line_run(const struct dot_decoder *d, struct span s)
{
    size_t n = 0;
    while (n < s.n && (s.p[n] != '.' || d->chunks)) {
        struct span line = span_skip(s, n);
        size_t len = span_find(line, '\n');
        if (len == line.n || len == 0 || span_find(span_first(line, len), '\r') != len - 1) {
            break;
        }
        n += len + 1;
    }
    return n;
}

/* What needs no look at each octet. */
static size_t run(const struct dot_decoder *d, struct span s)
{
    return d->state == TEXT ? text_run(s) : d->state == LINE_START ? line_run(d, s) : 0;
}

bool dot_decode(struct dot_decoder *d, struct span *in, struct buf *out)
{
    while (in->n > 0 && buf_room(out) >= DECODE_ROOM) {
        size_t n = run(d, span_first(*in, buf_room(out)));
        if (n > 0) {
            add(out, span_first(*in, n));
            *in = span_skip(*in, n);
            continue;
        }
        char c = *in->p;
        *in = span_skip(*in, 1);
        if (decode_octet(d, c, out)) {
            return true;
        }
    }
    return false;
}

void dot_encode_init(struct dot_encoder *e)
{
    *e = (struct dot_encoder){ .state = LINE_START };
}

void dot_encode_top_init(struct dot_encoder *e, uint64_t n)
{
    *e = (struct dot_encoder){
        .state = LINE_START, .top = true, .in_header = true, .lines_left = n
    };
}

static bool top_is_done(const struct dot_encoder *e)
{
    return e->top && !e->in_header && e->lines_left == 0;
}

/* A CRLF ends a line: the header ends with the first empty one, then TOP counts. */
static void encode_line_end(struct dot_encoder *e)
{
    if (e->in_header) {
        e->in_header = e->state != START_CR;
    } else {
        e->lines_left--;
    }
    e->state = LINE_START;
}

static void encode_octet(struct dot_encoder *e, char c)
{
    if (c == '\n' && (e->state == CR || e->state == START_CR)) {
        encode_line_end(e);
    } else if (c == '\r') {
        e->state = e->state == LINE_START ? START_CR : CR;
    } else {
        e->state = TEXT;
    }
}

/* Whether octet i of the piece is the first of a line. */
static bool begins_line(const struct dot_encoder *e, struct span piece, size_t i)
{
    if (i == 0) {
        return e->state == LINE_START;
    }
    bool cr = i == 1 ? e->state == CR || e->state == START_CR : piece.p[i - 2] == '\r';
    return cr && piece.p[i - 1] == '\n';
}

/* Dots are looked for, not lines: text has fewer of them, and attachments have none. */
static void encode_all(struct dot_encoder *e, struct span piece, struct buf *out)
{
    size_t done = 0; /* octets of the piece that are in out */
    for (size_t i = 0; (i += span_find(span_skip(piece, i), '.')) < piece.n; i++) {
        if (begins_line(e, piece, i)) {
            add(out, span_of(piece.p + done, i - done));
            add_octet(out, '.');
            done = i;
        }
    }
    add(out, span_skip(piece, done));
    if (piece.n > 0) {
        bool ended = begins_line(e, piece, piece.n);
        e->state = ended ? LINE_START : piece.p[piece.n - 1] == '\r' ? CR : TEXT;
    }
}

static void encode_top(struct dot_encoder *e, struct span piece, struct buf *out)
{
    size_t done = 0; /* octets of the piece that are in out */
    size_t i = 0;
    while (i < piece.n && !top_is_done(e)) {
        if (e->state == TEXT) {
            size_t run = span_find(span_skip(piece, i), '\r');
            i += run;
            if (i == piece.n) {
                break;
            }
        } else if (e->state == LINE_START && piece.p[i] == '.') {
            add(out, span_of(piece.p + done, i - done));
            add_octet(out, '.');
            done = i;
        }
        encode_octet(e, piece.p[i]);
        i++;
    }
    add(out, span_of(piece.p + done, i - done));
}

bool dot_encode(struct dot_encoder *e, struct span piece, struct buf *out)
{
    CHECK(buf_room(out) / 2 >= piece.n);
    if (!e->top) {
        encode_all(e, piece, out);
        return true;
    }
    encode_top(e, piece, out);
    return !top_is_done(e);
}

void dot_encode_end(struct dot_encoder *e, struct buf *out)
{
    if (e->state != LINE_START) {
        add(out, SPAN("\r\n"));
    }
    add(out, SPAN(".\r\n"));
    e->state = LINE_START;
}
