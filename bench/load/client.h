/*
 * client: what a load generator's side of a conversation is to the loop that carries it.
 *
 * A client is a protocol without I/O: it eats what the server says and appends what it says itself.
 * It judges each reply: what is not exactly what a good server says is CLIENT_WRONG, and then the
 * conversation is an error and no operation. Clients know no sockets, clocks or latencies; the loop
 * (load.h) knows no protocol. Memory of a client belongs to the loop.
 *
 * Tickets are the operations that are to be begun, handed out to all clients of a run; users are
 * the mailboxes, each lent to one conversation at a time.
 */
#ifndef MAILFLEET_BENCH_LOAD_CLIENT_H
#define MAILFLEET_BENCH_LOAD_CLIENT_H

#include "base/buffer.h"

/* The longest line that a server may send. */
#define REPLY_MAX 2048

enum client_verdict {
    CLIENT_MORE,   /* needs more input; what it left of *in has to come again in front of that */
    CLIENT_TLS,    /* TLS is to be started now; then with no input again */
    CLIENT_DONE,   /* an operation is complete; then again, with what is left of the input */
    CLIENT_READY,  /* an idle session stands; then not before client_type.leave */
    CLIENT_CLOSED, /* the conversation is over; nothing is left of the input */
    CLIENT_WRONG   /* client_why() tells what */
};

struct client_type {
    const char *name;
    size_t size;       /* of a client */
    size_t out_limit;  /* most octets that it has in out */
    bool speaks_first; /* by fill */
    bool eof_is_end;   /* the server closes, and that completes an operation */
    /* A conversation begins. False: there is no ticket left. client is zeroed memory. */
    bool (*begin)(void *client, const void *plan);
    enum client_verdict (*feed)(void *client, struct span *in, struct buf *out);
    /* What is said without a reply in between, once out is empty; false: nothing. May be NULL. */
    bool (*fill)(void *client, struct buf *out);
    /* An idle session ends. NULL where there are none. */
    void (*leave)(void *client, struct buf *out);
    /* The conversation is over, in whatever way. */
    void (*end)(void *client);
    /* Whose it is: each user has an address to come from. NULL: addresses are taken in turn. */
    uint64_t (*whose)(const void *client);
    /* The same for error messages. */
    void (*describe)(const void *client, struct buf *out);
};

/* Notes what is wrong; returns CLIENT_WRONG. */
enum client_verdict client_wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *client_why(void);

/* Takes a line without its CRLF; CLIENT_MORE when it has not come whole, CLIENT_WRONG, else
 * CLIENT_DONE. */
enum client_verdict client_line(struct span *in, struct span *out);

struct tickets {
    uint64_t taken, limit;
    bool closed; /* no more, whatever the limit says */
};

bool tickets_left(const struct tickets *t);
bool tickets_take(struct tickets *t, uint64_t *ticket);

/* Names made from a number: u%06u@bench.example. The text is borrowed for good. */
struct names {
    struct span before, after;
    int width; /* zeros in front up to this; -1: no number in it */
};

/* One %u, %Nu or %0Nu, or none at all; ERR_INVALID otherwise. */
enum err names_parse(const char *text, struct names *out);
void names_add(const struct names *n, uint64_t number, struct buf *out);

/* A queue: who was back first is lent first. */
struct users {
    uint64_t *queue;
    size_t count, head, lent;
};

void users_init(struct users *u, uint64_t first, size_t count);
void users_fini(struct users *u);
bool users_take(struct users *u, uint64_t *user);
void users_give(struct users *u, uint64_t user);

#endif
