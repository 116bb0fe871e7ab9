/*
 * message: the messages that load generators send, and what finds them unchanged again.
 *
 * A message is a function of its serial number and its size: whoever reads it computes it anew and
 * compares all of it, octet by octet, with nothing remembered. Both numbers stand in its first
 * header line, X-Load; what a server puts in front of that (Received and the like) is skipped.
 * Lines begin with dots here and there, and one is a dot alone, so that stuffing is tested too.
 *
 * Everything here is in the form of the wire: dot-stuffed, CRLF. Sizes are those of the message
 * itself, without the stuffing. Nothing is allocated; a message is about 700 octets of memory,
 * whatever its size, since the lines of all are parts of one ring of text.
 */
#ifndef MAILFLEET_BENCH_LOAD_MESSAGE_H
#define MAILFLEET_BENCH_LOAD_MESSAGE_H

#include "base/span.h"

#define MESSAGE_MIN 1024
#define MESSAGE_MAX (64ull * 1024 * 1024)
/* What ends a message on the wire. */
#define MESSAGE_END SPAN(".\r\n")

struct message {
    uint64_t serial, size;
    uint64_t lines; /* of the ring, between head and tail */
    uint32_t first; /* of them */
    uint32_t head_n, tail_n;
    char head[448];
    char tail[192];
};

/* size: MESSAGE_MIN to MESSAGE_MAX. */
void message_init(struct message *m, uint64_t serial, uint64_t size);

/* A size out of the distribution of real mail, always the same for a serial number. */
uint64_t message_real_size(uint64_t serial);

/* The wire form, a piece at a time. */
struct message_reader {
    const struct message *m;
    uint64_t lines_left;
    uint32_t next; /* line of the ring */
    int stage;
    struct span piece; /* what is left of the present one */
};

void message_read(struct message_reader *r, const struct message *m);
/* The next octets, as many as are in one piece; empty at the end. */
struct span message_peek(struct message_reader *r);
/* So many of them are done with. */
void message_eat(struct message_reader *r, size_t n);

/* Whether what a server shows of a message, up to and with the line of the dot, is one. */
enum message_verdict { MESSAGE_MORE, MESSAGE_WHOLE, MESSAGE_WRONG };

struct message_check {
    struct message m; /* known as soon as X-Load was met */
    struct message_reader r;
    uint64_t octets; /* of the message as it is served, what was put in front included */
    int stage;
};

void message_check_init(struct message_check *c);
/*
 * Eats from *in; what it leaves there with MESSAGE_MORE is the beginning of a line and has to be
 * given again, with more behind it. MESSAGE_WRONG: *why tells it.
 */
enum message_verdict message_check(struct message_check *c, struct span *in, const char **why);

#endif
