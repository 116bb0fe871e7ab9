/*
 * failures: a counter a client, a mark a wrong login, two counters a pair, all in the cache.
 *
 * A mail client with an old password tries it again and again: that is one failure, found by a mark
 * under a keyed hash of client, user and secret. A counter's window begins with the first failure
 * and does not move, which lets a client that waits for its end try twice as often around it; a
 * window that moves would need a list where a number does. Being right takes nothing off a counter:
 * else an account of one's own, or an owner behind the same address, would buy any number of
 * guesses.
 *
 * That a pair was right does not depend on the keys it was right for: it saves the pair from its
 * neighbours' count, not from its own.
 *
 * Each request owns itself until its last cache call has answered. Nothing of a secret stays here.
 */
#include "store/failures.h"

#include <stdlib.h>

#include "base/check.h"
#include "net/throttle.h"

#define KNOWN_MS (60 * 60 * 1000) /* as long as a right password is remembered */

struct failures {
    struct failures_options o;
};

/* Names of counters. */
struct name {
    uint8_t mac[SEAL_MAC_SIZE];
};

struct request {
    struct op op;
    struct failures *failures;
    union {
        failures_ask_fn *ask;
        failures_ask_pair_fn *ask_pair;
        failures_add_fn *add; /* NULL: nobody waits */
    } done;
    struct name client, proofs; /* the second of a pair alone */
    bool known;
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

void failures_change(struct failures *f, const struct netset *exempt, uint64_t most,
                     uint64_t window_ms)
{
    f->o.exempt = exempt;
    f->o.most = most;
    f->o.window_ms = window_ms;
}

void failures_client(const struct failures *f, const struct sockaddr *client,
                     char out[NETADDR_TEXT])
{
    if (f->o.exempt && netset_has(f->o.exempt, client)) {
        out[0] = '\0';
    } else {
        throttle_client(client, f->o.ipv6_address, out);
    }
}

static struct name name_of(const struct failures *f, const char *label, const struct span *parts,
                           size_t n)
{
    struct name name;
    seal_mac(f->o.seal, label, parts, n, name.mac);
    return name;
}

static struct name pair_name(const struct failures *f, const char *label, const char *client,
                             struct span user)
{
    struct span parts[] = { span_str(client), user };
    return name_of(f, label, parts, ARRAY_LEN(parts));
}

static struct span name_span(const struct name *n)
{
    return span_of(n->mac, sizeof n->mac);
}

static struct request *request_new(struct failures *f, const char *client, void *arg)
{
    struct request *r = NEW(struct request);
    struct span who = span_str(client);
    r->op.arg = arg;
    r->failures = f;
    r->client = name_of(f, "failures of a client", &who, 1);
    return r;
}

static struct request *pair_request_new(struct failures *f, const char *client, struct span user,
                                        void *arg)
{
    struct request *r = request_new(f, client, arg);
    r->proofs = pair_name(f, "wrong proofs of a pair", client, user);
    return r;
}

static bool too_many(const struct request *r, uint64_t n)
{
    uint64_t most = r->failures->o.most;
    return most > 0 && n >= most;
}

/* Without a limit nothing is added. */
static void count(struct request *r, const struct name *n, uint64_t more, cache_count_fn *done)
{
    const struct failures_options *o = &r->failures->o;
    cache_count(o->cache, name_span(n), o->most ? more : 0, o->window_ms, done, r);
}

/* --- asking ---------------------------------------------------------------------------------- */

static void on_asked(void *arg, uint64_t n)
{
    struct request *r = arg;
    if (!r->op.cancelled) {
        r->done.ask(r->op.arg, too_many(r, n));
    }
    free(r);
}

struct op *failures_ask(struct failures *f, const char *client, failures_ask_fn *done, void *arg)
{
    struct request *r = request_new(f, client, arg);
    r->done.ask = done;
    count(r, &r->client, 0, on_asked);
    return &r->op;
}

/* Proofs of the pair, or failures of the client, whichever decides. */
static void on_pair_asked(void *arg, uint64_t n)
{
    struct request *r = arg;
    if (!r->op.cancelled) {
        r->done.ask_pair(r->op.arg, too_many(r, n), r->known);
    }
    free(r);
}

static void on_proofs_asked(void *arg, uint64_t n)
{
    struct request *r = arg;
    if (r->known || too_many(r, n)) {
        on_pair_asked(r, n);
    } else {
        count(r, &r->client, 0, on_pair_asked);
    }
}

static void on_known_asked(void *arg, uint64_t n)
{
    struct request *r = arg;
    r->known = n > 0;
    count(r, &r->proofs, 0, on_proofs_asked);
}

static const char known_label[] = "pair that was right";

struct op *failures_ask_pair(struct failures *f, const char *client, struct span user,
                             failures_ask_pair_fn *done, void *arg)
{
    struct request *r = pair_request_new(f, client, user, arg);
    struct name known = pair_name(f, known_label, client, user);
    r->done.ask_pair = done;
    count(r, &known, 0, on_known_asked);
    return &r->op;
}

/* --- counting -------------------------------------------------------------------------------- */

static void add_end(struct request *r)
{
    if (r->done.add && !r->op.cancelled) {
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
    if (e == ERR_OK) {
        count(r, &r->client, 1, on_counted);
    } else {
        add_end(r);
    }
}

static void mark(struct request *r, const char *label, const struct span *parts, size_t n)
{
    const struct failures *f = r->failures;
    struct name name = name_of(f, label, parts, n);
    cache_first(f->o.cache, name_span(&name), f->o.window_ms, on_marked, r);
}

struct op *failures_add(struct failures *f, const char *client, struct span user,
                        struct span secret, failures_add_fn *done, void *arg)
{
    struct request *r = request_new(f, client, arg);
    struct span parts[] = { span_str(client), user, secret };
    r->done.add = done;
    mark(r, "wrong login", parts, ARRAY_LEN(parts));
    return &r->op;
}

void failures_add_left(struct failures *f, const char *client, struct span user)
{
    struct span parts[] = { span_str(client), user };
    mark(request_new(f, client, NULL), "exchange that was left", parts, ARRAY_LEN(parts));
}

/* n 0: not known, and then the client's counter is most likely not either. */
static void on_proof_counted(void *arg, uint64_t n)
{
    struct request *r = arg;
    if (n <= FAILURES_OF_A_PAIR) {
        count(r, &r->client, 1, on_counted);
    } else {
        add_end(r);
    }
}

struct op *failures_add_proof(struct failures *f, const char *client, struct span user,
                              failures_add_fn *done, void *arg)
{
    struct request *r = pair_request_new(f, client, user, arg);
    r->done.add = done;
    count(r, &r->proofs, 1, on_proof_counted);
    return &r->op;
}

static void on_known(void *arg, uint64_t n)
{
    (void)arg, (void)n;
}

void failures_know(struct failures *f, const char *client, struct span user)
{
    struct name known = pair_name(f, known_label, client, user);
    cache_count(f->o.cache, name_span(&known), 1, KNOWN_MS, on_known, NULL);
}
