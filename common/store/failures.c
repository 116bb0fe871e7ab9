/*
 * failures: a counter a client and a mark a wrong login, both in the cache.
 *
 * A mail client with an old password tries it again and again: that is one failure, found by a mark
 * under a keyed hash of client, user and secret. The counter's window begins with the first failure
 * and does not move, which lets a client that waits for its end try twice as often around it; a
 * window that moves would need a list where a number does. A right password takes nothing off the
 * counter: else an account of one's own would buy any number of guesses.
 *
 * Each request owns itself until its last cache call has answered. Nothing of a secret stays here.
 */
#include "store/failures.h"

#include <stdlib.h>

#include "base/check.h"
#include "net/throttle.h"

struct failures {
    struct failures_options o;
};

struct request {
    struct op op;
    struct failures *failures;
    union {
        failures_ask_fn *ask;
        failures_add_fn *add;
    } done;
    uint8_t counter[SEAL_MAC_SIZE];
};

struct failures *failures_open(const struct failures_options *o)
{
    struct failures *f = NEW(struct failures);
    f->o = *o;
    return f;
}

void failures_close(struct failures **f)
{
    free(*f);
    *f = NULL;
}

void failures_client(const struct failures *f, const struct sockaddr *client,
                     char out[NETADDR_TEXT])
{
    if (f->o.most == 0 || netset_has(f->o.exempt, client)) {
        out[0] = '\0';
    } else {
        throttle_client(client, f->o.ipv6_address, out);
    }
}

static struct request *request_new(struct failures *f, const char *client, void *arg)
{
    struct request *r = NEW(struct request);
    struct span who = span_str(client);
    r->op.arg = arg;
    r->failures = f;
    seal_mac(f->o.seal, "failures of a client", &who, 1, r->counter);
    return r;
}

static struct span counter(const struct request *r)
{
    return span_of(r->counter, sizeof r->counter);
}

/* --- asking ---------------------------------------------------------------------------------- */

static void on_asked(void *arg, uint64_t n)
{
    struct request *r = arg;
    if (!r->op.cancelled) {
        r->done.ask(r->op.arg, n >= r->failures->o.most);
    }
    free(r);
}

struct op *failures_ask(struct failures *f, const char *client, failures_ask_fn *done, void *arg)
{
    struct request *r = request_new(f, client, arg);
    r->done.ask = done;
    cache_count(f->o.cache, counter(r), 0, f->o.window_ms, on_asked, r);
    return &r->op;
}

/* --- counting -------------------------------------------------------------------------------- */

static void add_end(struct request *r)
{
    if (!r->op.cancelled) {
        r->done.add(r->op.arg);
    }
    free(r);
}

static void on_counted(void *arg, uint64_t n)
{
    (void)n;
    add_end(arg);
}

static void on_marked(void *arg, enum err e)
{
    struct request *r = arg;
    const struct failures_options *o = &r->failures->o;
    if (e == ERR_OK) {
        cache_count(o->cache, counter(r), 1, o->window_ms, on_counted, r);
    } else {
        add_end(r);
    }
}

struct op *failures_add(struct failures *f, const char *client, struct span user,
                        struct span secret, failures_add_fn *done, void *arg)
{
    struct request *r = request_new(f, client, arg);
    struct span parts[] = { span_str(client), user, secret };
    uint8_t mark[SEAL_MAC_SIZE];
    seal_mac(f->o.seal, "wrong login", parts, ARRAY_LEN(parts), mark);
    r->done.add = done;
    cache_first(f->o.cache, span_of(mark, sizeof mark), f->o.window_ms, on_marked, r);
    return &r->op;
}
