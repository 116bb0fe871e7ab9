/*
 * throttle: a hash table of addresses and networks, with a list of those that no session holds, the
 * longest unused first. Everything is O(1), and the memory is had at the start.
 *
 * Exempt clients are counted like all others and only never refused: so a session leaves as it has
 * entered, whatever has been reconfigured meanwhile. The hash has a random key: clients choose
 * their IPv6 addresses, and could else make all of them meet in one chain.
 */
#include "net/throttle.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/list.h"

#define MINUTE_MS  60000u
#define GUESSES_MS 600000u /* ten minutes, from the first guess on */
#define V4_OFFSET  96u     /* of the mapped form */

enum kind { ADDRESS, NETWORK };

struct key {
    struct in6_addr prefix;
    uint64_t kind;
};

struct entry {
    struct list unused; /* a link of throttle.unused, while no session holds it */
    struct entry *next; /* in its chain */
    struct key key;
    unsigned sessions;
    unsigned guesses;
    uint64_t guesses_since;
    uint64_t filled;  /* when the bucket was */
    uint64_t missing; /* from the bucket, in connections times MINUTE_MS */
};

struct throttle {
    struct throttle_options options;
    uint64_t secret[2];
    size_t buckets; /* a power of two */
    struct entry **table;
    struct entry *entries;
    size_t made; /* entries that were ever used; those behind are untouched memory */
    struct list unused;
};

const char *throttle_verdict_text(enum throttle_verdict v)
{
    static const char *const texts[] = {
#define X(name, text) [THROTTLE_##name] = text,
        THROTTLE_VERDICT_LIST(X)
#undef X
    };
    return texts[v];
}

/* --- the hash: SipHash-1-3 of three words (Aumasson, Bernstein) ------------------------------- */

static uint64_t turn(uint64_t v, unsigned by)
{
    return v << by | v >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = turn(v[1], 13) ^ v[0], v[0] = turn(v[0], 32);
    v[2] += v[3], v[3] = turn(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = turn(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = turn(v[1], 17) ^ v[2], v[2] = turn(v[2], 32);
}

static uint64_t hash(const uint64_t secret[2], const struct key *k)
{
    uint64_t v[4] = { secret[0] ^ 0x736f6d6570736575, secret[1] ^ 0x646f72616e646f6d,
                      secret[0] ^ 0x6c7967656e657261, secret[1] ^ 0x7465646279746573 };
    uint64_t words[] = { 0, 0, k->kind, (uint64_t)24 << 56 };
    memcpy(words, &k->prefix, sizeof k->prefix);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        v[3] ^= words[i];
        sip_round(v);
        v[0] ^= words[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* --- the table -------------------------------------------------------------------------------- */

struct throttle *throttle_open(const struct throttle_options *o)
{
    struct throttle *t = NEW(struct throttle);
    CHECK(o->entries >= 2);
    CHECK(getrandom(t->secret, sizeof t->secret, 0) == sizeof t->secret);
    t->options = *o;
    t->buckets = 1;
    while (t->buckets < o->entries) {
        t->buckets *= 2;
    }
    t->table = NEW_ARRAY(struct entry *, t->buckets);
    t->entries = NEW_ARRAY(struct entry, o->entries);
    list_init(&t->unused);
    return t;
}

void throttle_close(struct throttle **pt)
{
    struct throttle *t = *pt;
    *pt = NULL;
    if (t) {
        free(t->entries);
        free(t->table);
        free(t);
    }
}

void throttle_change(struct throttle *t, const struct throttle_options *o)
{
    struct throttle_options was = t->options;
    t->options = *o;
    t->options.ipv4_network = was.ipv4_network;
    t->options.ipv6_address = was.ipv6_address;
    t->options.ipv6_network = was.ipv6_network;
    t->options.entries = was.entries;
}

static struct entry **chain_of(struct throttle *t, const struct key *k)
{
    return &t->table[hash(t->secret, k) & (t->buckets - 1)];
}

static struct entry *find(struct throttle *t, const struct key *k)
{
    struct entry *e = *chain_of(t, k);
    while (e && memcmp(&e->key, k, sizeof *k) != 0) {
        e = e->next;
    }
    return e;
}

static void forget(struct throttle *t, struct entry *e)
{
    struct entry **at = chain_of(t, &e->key);
    while (*at != e) {
        at = &(*at)->next;
    }
    *at = e->next;
}

/* One that was never used, or the longest unused; NULL when all are held. */
static struct entry *take(struct throttle *t)
{
    if (t->made < t->options.entries) {
        return &t->entries[t->made++];
    }
    struct list *link = list_pop(&t->unused);
    if (!link) {
        return NULL;
    }
    struct entry *e = CONTAINER_OF(link, struct entry, unused);
    forget(t, e);
    return e;
}

/* The entry of a key, made if need be; now it is the last that will make room. */
static struct entry *get(struct throttle *t, const struct key *k, uint64_t now)
{
    struct entry *e = find(t, k);
    if (!e) {
        e = take(t);
        if (!e) {
            return NULL;
        }
        struct entry **chain = chain_of(t, k);
        *e = (struct entry){ .key = *k, .next = *chain, .filled = now };
        list_init(&e->unused);
        *chain = e;
    }
    if (e->sessions == 0) {
        list_del(&e->unused);
        list_add(&t->unused, &e->unused);
    }
    return e;
}

/* --- addresses -------------------------------------------------------------------------------- */

struct client {
    struct key address, network;
};

static bool client_of(const struct throttle *t, const struct sockaddr *sa, struct client *out)
{
    struct in6_addr a;
    if (!netaddr_mapped(sa, &a)) {
        return false;
    }
    bool v4 = IN6_IS_ADDR_V4MAPPED(&a);
    const struct throttle_options *o = &t->options;
    *out = (struct client){ .address = { a, ADDRESS }, .network = { a, NETWORK } };
    netaddr_cut(&out->address.prefix, v4 ? 128 : o->ipv6_address);
    netaddr_cut(&out->network.prefix, v4 ? V4_OFFSET + o->ipv4_network : o->ipv6_network);
    return true;
}

bool throttle_exempts(const struct throttle *t, const struct sockaddr *sa)
{
    return t->options.exempt && netset_has(t->options.exempt, sa);
}

void throttle_client(const struct sockaddr *client, unsigned ipv6_address, char out[NETADDR_TEXT])
{
    struct in6_addr a;
    char text[INET6_ADDRSTRLEN];
    if (!netaddr_mapped(client, &a) || IN6_IS_ADDR_V4MAPPED(&a) || ipv6_address >= 128) {
        netaddr_host(client, out);
        return;
    }
    netaddr_cut(&a, ipv6_address);
    inet_ntop(AF_INET6, &a, text, sizeof text);
    snprintf(out, NETADDR_TEXT, "%s/%u", text, ipv6_address);
}

/* --- sessions and connections ----------------------------------------------------------------- */

/* What has run into the bucket since it was last looked at. */
static void refill(struct entry *e, unsigned rate, uint64_t now)
{
    uint64_t passed = now > e->filled ? now - e->filled : 0;
    uint64_t most = (uint64_t)rate * MINUTE_MS;
    e->filled = now;
    if (passed >= MINUTE_MS || passed * rate >= e->missing) {
        e->missing = 0;
    } else {
        e->missing -= passed * rate;
    }
    if (e->missing > most) { /* the rate was lowered */
        e->missing = most;
    }
}

static bool has_connection(struct entry *e, unsigned rate, uint64_t now)
{
    refill(e, rate, now);
    return e->missing + MINUTE_MS <= (uint64_t)rate * MINUTE_MS;
}

static bool too_many(const struct entry *e, unsigned limit)
{
    return limit > 0 && e->sessions >= limit;
}

static bool too_often(struct entry *e, unsigned rate, uint64_t now)
{
    return rate > 0 && !has_connection(e, rate, now);
}

/* How many guesses still count. */
static unsigned guesses_of(const struct entry *e, uint64_t now)
{
    return now < e->guesses_since + GUESSES_MS ? e->guesses : 0;
}

/* Turned away is who has reached the limit twice. */
static bool guesses_too_much(const struct throttle *t, const struct entry *e, uint64_t now)
{
    unsigned limit = t->options.guesses;
    return limit > 0 && guesses_of(e, now) / limit >= 2;
}

static enum throttle_verdict judge(struct throttle *t, struct entry *address, struct entry *network,
                                   uint64_t now)
{
    const struct throttle_options *o = &t->options;
    return too_many(address, o->address_sessions)     ? THROTTLE_ADDRESS_SESSIONS
           : too_many(network, o->network_sessions)   ? THROTTLE_NETWORK_SESSIONS
           : guesses_too_much(t, address, now)        ? THROTTLE_GUESSES
           : too_often(address, o->address_rate, now) ? THROTTLE_ADDRESS_RATE
           : too_often(network, o->network_rate, now) ? THROTTLE_NETWORK_RATE
                                                      : THROTTLE_OK;
}

static void hold(struct entry *e)
{
    if (e->sessions++ == 0) {
        list_del(&e->unused);
    }
}

static void release(struct throttle *t, struct entry *e)
{
    if (e && e->sessions > 0 && --e->sessions == 0) {
        list_add(&t->unused, &e->unused);
    }
}

static void use_connection(struct entry *e, unsigned rate)
{
    e->missing += rate > 0 ? MINUTE_MS : 0;
}

enum throttle_verdict throttle_enter(struct throttle *t, const struct sockaddr *client,
                                     uint64_t now)
{
    struct client c;
    if (!client_of(t, client, &c)) {
        return THROTTLE_OK;
    }
    struct entry *address = get(t, &c.address, now);
    if (!address) {
        return THROTTLE_OK;
    }
    hold(address); /* or it may be what makes room for the network */
    struct entry *network = get(t, &c.network, now);
    release(t, address);
    if (!network) {
        return THROTTLE_OK;
    }
    bool exempt = throttle_exempts(t, client);
    enum throttle_verdict v = exempt ? THROTTLE_OK : judge(t, address, network, now);
    if (v == THROTTLE_OK) {
        hold(address);
        hold(network);
        use_connection(address, exempt ? 0 : t->options.address_rate);
        use_connection(network, exempt ? 0 : t->options.network_rate);
    }
    return v;
}

void throttle_leave(struct throttle *t, const struct sockaddr *client)
{
    struct client c;
    if (client_of(t, client, &c)) {
        release(t, find(t, &c.address));
        release(t, find(t, &c.network));
    }
}

/* --- guesses ---------------------------------------------------------------------------------- */

static unsigned add_guess(struct entry *e, uint64_t now)
{
    unsigned guesses = guesses_of(e, now);
    if (guesses == 0) {
        e->guesses_since = now;
    }
    e->guesses = guesses < UINT32_MAX ? guesses + 1 : guesses;
    return e->guesses;
}

static bool counts_guesses(const struct throttle *t, const struct sockaddr *client,
                           struct client *out)
{
    return t->options.guesses > 0 && !throttle_exempts(t, client) && client_of(t, client, out);
}

enum throttle_verdict throttle_guess(struct throttle *t, const struct sockaddr *client,
                                     uint64_t now, unsigned *factor)
{
    struct client c;
    *factor = 0;
    if (!counts_guesses(t, client, &c)) {
        return THROTTLE_OK;
    }
    struct entry *address = get(t, &c.address, now);
    enum throttle_verdict v = THROTTLE_OK;
    if (address) {
        add_guess(address, now);
        v = guesses_too_much(t, address, now) ? THROTTLE_GUESSES : THROTTLE_OK;
    }
    struct entry *network = get(t, &c.network, now);
    if (network) {
        *factor = add_guess(network, now) / t->options.guesses;
    }
    return v;
}

static void take_guess(struct entry *e, uint64_t now)
{
    if (e && guesses_of(e, now) > 0) {
        e->guesses--;
    }
}

void throttle_known(struct throttle *t, const struct sockaddr *client, uint64_t now)
{
    struct client c;
    if (counts_guesses(t, client, &c)) {
        take_guess(find(t, &c.address), now);
        take_guess(find(t, &c.network), now);
    }
}
