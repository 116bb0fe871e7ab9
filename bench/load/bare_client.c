/*
 * bare_client: see the header. A get of memcached's text protocol is answered by
 *
 *   VALUE key flags octets CRLF item CRLF END CRLF
 */
#include "bare_client.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"

#define OUT_LIMIT (ITEM_MAX + 1024)

/* --- connections -------------------------------------------------------------------------------
 */

struct nothing {
    uint64_t ticket;
};

static bool begin_connect(void *client, const void *plan)
{
    const struct bare_plan *p = plan;
    struct nothing *n = client;
    return tickets_take(p->tickets, &n->ticket);
}

static enum client_verdict feed_connect(void *client, struct span *in, struct buf *out)
{
    (void)client;
    (void)out;
    return in->n ? client_wrong("octets that nothing was asked for") : CLIENT_MORE;
}

static void end(void *client)
{
    (void)client;
}

static void describe_connect(const void *client, struct buf *out)
{
    const struct nothing *n = client;
    buf_addf(out, "connection %" PRIu64, n->ticket);
}

const struct client_type connect_client = {
    .name = "load_bare",
    .size = sizeof(struct nothing),
    .out_limit = 1,
    .eof_is_end = true,
    .begin = begin_connect,
    .feed = feed_connect,
    .end = end,
    .describe = describe_connect,
};

/* --- gets --------------------------------------------------------------------------------------
 */

enum stage { STAGE_BEGIN, STAGE_STORED, STAGE_VALUE, STAGE_ITEM, STAGE_END, STAGE_OVER };

struct getter {
    const struct bare_plan *plan;
    uint64_t ticket, got; /* got: gets of this connection */
    uint64_t key;
    size_t at; /* in the item */
    enum stage stage;
};

static bool begin_get(void *client, const void *plan)
{
    struct getter *g = client;
    g->plan = plan;
    if (!tickets_take(g->plan->tickets, &g->ticket)) {
        return false;
    }
    g->key = g->ticket;
    return true;
}

static bool fill_get(void *client, struct buf *out)
{
    struct getter *g = client;
    if (g->stage != STAGE_BEGIN) {
        return false;
    }
    g->stage = STAGE_STORED;
    buf_addf(out, "set load:%" PRIu64 " 0 60 %" PRIu64 "\r\n", g->key, g->plan->size);
    buf_add(out, g->plan->item);
    buf_add(out, SPAN("\r\n"));
    return true;
}

static void ask(struct getter *g, struct buf *out)
{
    g->stage = STAGE_VALUE;
    g->at = 0;
    buf_addf(out, "get load:%" PRIu64 "\r\n", g->key);
}

/* The item and its line end. */
static enum client_verdict take_item(struct getter *g, struct span *in)
{
    struct span left = span_skip(g->plan->item, g->at);
    size_t n = left.n < in->n ? left.n : in->n;
    if (memcmp(left.p, in->p, n) != 0) {
        return client_wrong("an item that differs from what was stored");
    }
    g->at += n;
    *in = span_skip(*in, n);
    struct span line;
    enum client_verdict v = g->at < g->plan->size ? CLIENT_MORE : client_line(in, &line);
    if (v == CLIENT_DONE && line.n) {
        return client_wrong("an item without an end");
    }
    g->stage = v == CLIENT_DONE ? STAGE_END : STAGE_ITEM;
    return v == CLIENT_DONE ? CLIENT_MORE : v;
}

static void finish(struct getter *g, struct buf *out)
{
    if (++g->got < g->plan->per_connection && tickets_take(g->plan->tickets, &g->ticket)) {
        ask(g, out);
    } else {
        g->stage = STAGE_OVER;
    }
}

static enum client_verdict take_line(struct getter *g, struct span *in, struct buf *out)
{
    char expected[64];
    struct span line;
    enum client_verdict v = client_line(in, &line);
    if (v != CLIENT_DONE) {
        return v;
    }
    if (g->stage == STAGE_VALUE) {
        snprintf(expected, sizeof expected, "VALUE load:%" PRIu64 " 0 %" PRIu64, g->key,
                 g->plan->size);
    } else {
        snprintf(expected, sizeof expected, "%s", g->stage == STAGE_STORED ? "STORED" : "END");
    }
    if (!span_eq(line, span_str(expected))) {
        return client_wrong("%.*s, not %s", line.n > 200 ? 200 : (int)line.n, line.p, expected);
    }
    if (g->stage != STAGE_VALUE && in->n) {
        return client_wrong("octets that nothing was asked for");
    }
    if (g->stage == STAGE_END) {
        finish(g, out);
        return CLIENT_DONE;
    }
    if (g->stage == STAGE_STORED) {
        ask(g, out);
    } else {
        g->stage = STAGE_ITEM;
    }
    return CLIENT_MORE;
}

static enum client_verdict feed_get(void *client, struct span *in, struct buf *out)
{
    struct getter *g = client;
    if (g->stage == STAGE_OVER) {
        return CLIENT_CLOSED;
    }
    for (;;) {
        enum stage stage = g->stage;
        enum client_verdict v = stage == STAGE_ITEM ? take_item(g, in) : take_line(g, in, out);
        if (v != CLIENT_MORE || g->stage == stage) {
            return v;
        }
    }
}

static void describe_get(const void *client, struct buf *out)
{
    const struct getter *g = client;
    buf_addf(out, "load:%" PRIu64, g->key);
}

const struct client_type get_client = {
    .name = "load_bare",
    .size = sizeof(struct getter),
    .out_limit = OUT_LIMIT,
    .speaks_first = true,
    .begin = begin_get,
    .feed = feed_get,
    .fill = fill_get,
    .end = end,
    .describe = describe_get,
};
