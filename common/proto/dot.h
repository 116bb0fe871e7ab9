/*
 * dot: dot-stuffing, both ways (RFC 5321, section 4.5.2; RFC 1939, section 3).
 *
 * Values embedded in engines; bytes only. The decoder ends a message at CRLF.CRLF alone; a bare CR
 * or LF is never a line end of the protocol, which is what SMTP smuggling lives on. It either
 * turns each into CRLF in the message or reports that one was there, as it was set up. It reads
 * chunks too (RFC 3030), which have no dots and no terminator but the same rule of newlines.
 */
#ifndef MAILFLEET_PROTO_DOT_H
#define MAILFLEET_PROTO_DOT_H

#include "base/buffer.h"

struct dot_decoder {
    unsigned char state; /* see dot.c */
    bool normalize;      /* a bare CR or LF becomes CRLF; else it stays and sets bare */
    bool bare;           /* a bare CR or LF was met */
    bool chunks;         /* a dot is an octet like any other */
};

void dot_decode_init(struct dot_decoder *d, bool normalize);
/*
 * Eats from *in and appends message octets to out until *in is empty, out has fewer than 4 octets
 * of room, or the message is complete. True when it is complete: *in then begins with what follows
 * the terminator. The message always ends in CRLF unless it is empty.
 */
bool dot_decode(struct dot_decoder *d, struct span *in, struct buf *out);

/* A message that comes in chunks: dot_decode is never told that it is complete. */
void dot_decode_chunks_init(struct dot_decoder *d, bool normalize);
/* All of it was eaten: appends at most 4 octets, what was held back and the CRLF that is missing.
 */
void dot_decode_chunks_end(struct dot_decoder *d, struct buf *out);

struct dot_encoder {
    unsigned char state;
    uint64_t lines_left; /* body lines still to send, for TOP */
    bool in_header;
    bool top; /* stop after the header and lines_left body lines */
};

/* A whole message. */
void dot_encode_init(struct dot_encoder *e);
/* The header, the empty line and n lines of the body (TOP, RFC 1939, section 7). */
void dot_encode_top_init(struct dot_encoder *e, uint64_t n);
/*
 * Appends a piece of the message to out, stuffed; a line that starts with a dot gets another one.
 * False when TOP has all it wants: the rest of the message is not needed. It can't fail: out needs
 * room for twice the piece (checked).
 */
bool dot_encode(struct dot_encoder *e, struct span piece, struct buf *out);
/* The end: CRLF when the message did not end in one, then the terminator; at most 5 octets. */
void dot_encode_end(struct dot_encoder *e, struct buf *out);

#endif
