/*
 * retrieval: see the header.
 */
#include "retrieval.h"

#include "base/check.h"
#include "downgrade.h"
#include "pop3.h"
#include "pop3_reply.h"

/* What an err of the store means to the client; where there is nothing, it is a fault. */
static const char *const texts[ERR_COUNT] = {
    [ERR_NOTFOUND] = "another session has removed the message",
    [ERR_CORRUPT] = "[SYS/PERM] the message is damaged",
};

void retrieval_retr(struct retrieval *r, uint64_t size, bool utf8)
{
    *r = (struct retrieval){ .size = size, .utf8 = utf8 };
    dot_encode_init(&r->dot);
}

void retrieval_top(struct retrieval *r, uint64_t lines, uint64_t size, bool utf8)
{
    *r = (struct retrieval){ .size = size, .utf8 = utf8, .top = true };
    dot_encode_top_init(&r->dot, lines);
}

/*
 * LIST has promised a size. A file that has another is not what was delivered, and a client that
 * gets it with a terminator would take it for the message and delete it.
 */
static bool size_is_right(const struct retrieval *r, bool last)
{
    return last ? r->fetched == r->size : r->fetched <= r->size;
}

static void put_ok(const struct retrieval *r, uint64_t size, struct buf *out)
{
    if (r->top) {
        pop3_reply_ok(out, "the top of the message");
        return;
    }
    pop3_reply_text(out, "+OK ");
    pop3_reply_number(out, size);
    pop3_reply_text(out, " octets\r\n");
}

static enum retrieval_next put_piece(struct retrieval *r, struct span piece, bool last,
                                     struct buf *out)
{
    if (dot_encode(&r->dot, piece, out) && !last) {
        return RETRIEVAL_MORE;
    }
    dot_encode_end(&r->dot, out);
    r->whole = last;
    return last ? RETRIEVAL_SENT : RETRIEVAL_STOP;
}

static enum retrieval_next refuse(const char *text, bool last, struct buf *out)
{
    pop3_reply_err(out, text);
    return last ? RETRIEVAL_REFUSED : RETRIEVAL_STOP;
}

/* The first piece of a message that has something above 127 in its header, or may have: end is 0 if
 * the piece does not have all of it. */
static enum retrieval_next put_converted(struct retrieval *r, struct span piece, size_t end,
                                         bool last, struct buf *out)
{
    struct buf header;
    struct span body = span_skip(piece, end);
    enum retrieval_next next;
    buf_init(&header, (buf_room(out) - POP3_OUT_MIN) / 2 - body.n);
    if (end == 0 || downgrade_header(span_first(piece, end), &header) != ERR_OK) {
        next = refuse("[UTF8] the message can be had after UTF8 only", last, out);
    } else {
        r->converted = true;
        put_ok(r, r->size - end + buf_len(&header), out);
        dot_encode(&r->dot, buf_span(&header), out);
        next = put_piece(r, body, last, out);
    }
    buf_fini(&header);
    return next;
}

static enum retrieval_next put_first_piece(struct retrieval *r, struct span piece, bool last,
                                           struct buf *out)
{
    if (!r->utf8 && downgrade_concerns(piece)) {
        size_t end = downgrade_header_end(piece);
        if (end == 0 && last) {
            end = piece.n; /* there is no body */
        }
        if (end == 0 || downgrade_needed(span_first(piece, end))) {
            return put_converted(r, piece, end, last, out);
        }
    }
    put_ok(r, r->size, out);
    return put_piece(r, piece, last, out);
}

enum retrieval_next retrieval_piece(struct retrieval *r, enum err e, struct span piece, bool last,
                                    struct buf *out)
{
    bool first = !r->begun;
    r->begun = r->begun || piece.n > 0 || last;
    r->converted = false;
    r->whole = false;
    r->fetched += piece.n;
    if (e == ERR_OK && !size_is_right(r, last)) {
        e = ERR_CORRUPT;
    }
    if (e != ERR_OK) {
        return first ? refuse(texts[e] ? texts[e] : POP3_REPLY_FAULT, last, out) : RETRIEVAL_BROKEN;
    }
    if (!r->begun) {
        return RETRIEVAL_MORE; /* the envelope was longer than the piece */
    }
    return first ? put_first_piece(r, piece, last, out) : put_piece(r, piece, last, out);
}
