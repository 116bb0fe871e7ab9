/*
 * line: cuts a stream of bytes into command lines (RFC 5321, section 2.3.8; RFC 1939, section 3).
 *
 * A value embedded in an engine. It eats whatever it is given, in any split, and never keeps more
 * than LINE_MAX_OCTETS. A line ends with CRLF or, as clients in the field send it, with a bare LF;
 * a longer line is eaten to its end and reported once, so that nothing in it can be taken for a
 * command.
 */
#ifndef MAILFLEET_PROTO_LINE_H
#define MAILFLEET_PROTO_LINE_H

#include "base/span.h"

#define LINE_MAX_OCTETS 4096 /* with SMTPUTF8 and SASL initial responses (RFC 4954, section 4) */

struct line {
    char mem[LINE_MAX_OCTETS];
    size_t n;
    bool overlong; /* the rest of a line that was too long is being eaten */
};

enum line_result { LINE_MORE, LINE_READY, LINE_TOO_LONG };

void line_init(struct line *l);
/*
 * Eats from *in up to and with the end of one line. LINE_READY: *out is the line without its line
 * end, valid until the next call (it may point into *in's memory). LINE_MORE: all of *in was eaten.
 */
enum line_result line_next(struct line *l, struct span *in, struct span *out);

#endif
