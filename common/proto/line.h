/*
 * line: cuts a stream of bytes into command lines (RFC 5321, section 2.3.8; RFC 1939, section 3).
 *
 * A value embedded in an engine. It eats whatever it is given, in any split, and never keeps more
 * than the limit of the line. It owns memory only while a line has arrived in part, or has been
 * handed out of that memory and is not done with: an idle session has none. A line ends with CRLF
 * or, as clients in the field send it, with a bare LF; a longer line is eaten to its end and
 * reported once, so that nothing in it can be taken for a command.
 */
#ifndef MAILFLEET_PROTO_LINE_H
#define MAILFLEET_PROTO_LINE_H

#include "base/span.h"

#define LINE_MAX_OCTETS 4096 /* of a command, with SMTPUTF8 and a SASL initial response */

struct line {
    char *mem; /* NULL unless a line has arrived in part */
    size_t n;  /* octets of it so far */
    size_t size;
    bool overlong; /* the rest of a line that was too long is being eaten */
};

enum line_result { LINE_MORE, LINE_READY, LINE_TOO_LONG };

void line_init(struct line *l);
/* Wipes and frees; l may be used again. */
void line_fini(struct line *l);
/*
 * Eats from *in up to and with the end of one line; limit: the most octets in front of the LF.
 * LINE_READY: *out is the line without its line end, valid until line_done or the next call (it may
 * point into *in's memory). LINE_MORE: all of *in was eaten. The limit may be another for each
 * line, but not within one.
 */
enum line_result line_next(struct line *l, size_t limit, struct span *in, struct span *out);
/* The line that was handed out is not needed any more: wipes it, since it may hold a password, and
 * frees its memory. */
void line_done(struct line *l);

#endif
