/*
 * load_fixture: a conversation of a load generator's client with a server that the test writes
 * down.
 *
 * An exchange is what the client has to say and what it is answered. The replies are given to the
 * client in pieces of `step` octets; what it leaves comes again, with more behind it.
 */
#ifndef MAILFLEET_TESTS_LOAD_FIXTURE_H
#define MAILFLEET_TESTS_LOAD_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "client.h"
#include "message.h"

struct exchange {
    const char *command; /* NULL: whatever it is */
    const char *reply;
};

struct talk {
    const struct client_type *type;
    void *client;
    struct buf out;
    size_t done;              /* operations */
    enum client_verdict last; /* CLIENT_MORE: it waits */
};

static inline void talk_init(struct talk *t, const struct client_type *type, const void *plan)
{
    *t = (struct talk){ .type = type, .client = mem_new(1, type->size) };
    buf_init(&t->out, type->out_limit);
    assert_true(type->begin(t->client, plan));
}

static inline void talk_fini(struct talk *t)
{
    t->type->end(t->client);
    buf_fini(&t->out);
    free(t->client);
}

/* What the client says next must be this. */
static inline void expect_said(struct talk *t, const char *command)
{
    struct buf said;
    buf_init(&said, 1 << 20);
    do {
        assert_int_equal(buf_add(&said, buf_span(&t->out)), ERR_OK);
        buf_clear(&t->out);
    } while (t->type->fill && t->type->fill(t->client, &t->out));
    if (command) {
        assert_int_equal(buf_addc(&said, 0), ERR_OK);
        assert_string_equal(buf_span(&said).p, command);
    }
    buf_fini(&said);
}

/* Feeds until the client needs more, or it is over. */
static inline void feed_piece(struct talk *t, struct span *in)
{
    do {
        t->last = t->type->feed(t->client, in, &t->out);
        t->done += t->last == CLIENT_DONE;
    } while (t->last == CLIENT_DONE || t->last == CLIENT_TLS);
}

static inline void hear(struct talk *t, struct span reply, size_t step)
{
    char *copy = span_dup(reply); /* of its own, so that a sanitizer sees who reads behind it */
    struct span in = { copy, 0 };
    t->last = CLIENT_MORE;
    for (size_t given = 0; given < reply.n && t->last == CLIENT_MORE;) {
        size_t n = reply.n - given < step ? reply.n - given : step;
        given += n;
        in.n += n;
        feed_piece(t, &in);
    }
    free(copy);
}

/* All exchanges, or up to the verdict that ends them. */
static inline void converse(struct talk *t, const struct exchange *e, size_t n, size_t step)
{
    for (size_t i = 0; i < n; i++) {
        expect_said(t, e[i].command);
        hear(t, span_str(e[i].reply), step);
        if (t->last != CLIENT_MORE) {
            assert_true(i == n - 1 || t->last == CLIENT_WRONG);
            return;
        }
    }
}

/* The wire form of a message, with what a server puts in front and behind; the caller frees it. */
static inline char *wire(const char *front, uint64_t serial, uint64_t size, const char *behind)
{
    struct buf b;
    struct message m;
    struct message_reader r;
    struct span piece;
    buf_init(&b, 1 << 20);
    buf_add(&b, span_str(front));
    message_init(&m, serial, size);
    message_read(&r, &m);
    while ((piece = message_peek(&r)).n) {
        buf_add(&b, piece);
        message_eat(&r, piece.n);
    }
    assert_int_equal(buf_add(&b, span_str(behind)), ERR_OK);
    char *text = span_dup(buf_span(&b));
    buf_fini(&b);
    return text;
}

#endif
