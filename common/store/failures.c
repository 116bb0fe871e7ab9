/*
 * failures: a counter a client, one a pair, a mark a wrong login and one a pair that was right, all
 * in the cache.
 *
 * A mail client with an old password tries it again and again: that is one failure, found by a mark
 * under a keyed hash of client, user and secret. The mark is left when the guess was judged, and
 * never for one that was turned away: that would be free when the window is over.
 *
 * A counter's window begins with the first guess and does not move, which lets a client that waits
 * for its end try twice as often around it; a window that moves would need a list where a number
 * does. Being right takes nothing off a counter but what it has itself put there: else an account
 * of one's own, or an owner behind the same address, would buy any number of guesses.
 *
 * That a pair was right does not depend on what it was right with: it saves the pair from its
 * neighbours' count, not from its own. It is sealed, so that nobody else can say so, and written
 * anew when half of its hour is over: an owner who polls stays known, and a poll costs no write. It
 * has the keyed hash of the password with it, so that a poll needs no other look at one; it is held
 * against that until it is to be written anew: who it is that goes on to be right is asked
 * elsewhere then.
 *
 * A guess owns itself while its last calls are under way. Nothing of a secret stays here.
 */
#include "store/failures.h"

#include <openssl/crypto.h>
#include <stdlib.h>

#include "base/check.h"
#include "net/throttle.h"

struct failures {
    struct failures_options o;
};

/* Names of counters and marks. */
struct name {
    uint8_t mac[SEAL_MAC_SIZE];
};

/* What a guess has to do with one counter. */
struct tally {
    struct name name;
    bool adds; /* the call under way adds one */
    bool held; /* one in it is the guess's */
};

struct guess {
    struct failures *failures;
    enum guess_kind kind;
    struct tally client, pair;  /* the second not of a token */
    bool known, aged;           /* the pair; its mark is to be written anew */
    bool by_password;           /* it was right by one, */
    uint8_t mac[SEAL_MAC_SIZE]; /* with this keyed hash */
    bool too_many;
    unsigned missing; /* answers of the call under way */
    guess_fn *done;
    guess_wrong_fn *wrong; /* NULL: nobody waits */
    void *arg;
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

/* --- names ----------------------------------------------------------------------------------- */

static struct name name_of(const struct failures *f, const char *label, const struct span *parts,
                           size_t n)
{
    struct name name;
    seal_mac(f->o.seal, label, parts, n, name.mac);
    return name;
}

static struct span name_span(const struct name *n)
{
    return span_of(n->mac, sizeof n->mac);
}

/* Of something about the pair, whose own name has client and user in it. */
static struct name name_about(const struct guess *g, const char *label, struct span what)
{
    struct span parts[] = { name_span(&g->pair.name), what };
    return name_of(g->failures, label, parts, ARRAY_LEN(parts));
}

struct guess *guess_open(struct failures *f, enum guess_kind kind, const struct sockaddr *client,
                         struct span user)
{
    char text[NETADDR_TEXT] = "";
    if (!f->o.exempt || !netset_has(f->o.exempt, client)) {
        throttle_client(client, f->o.ipv6_address, text);
    }
    if (!text[0]) {
        return NULL;
    }
    struct guess *g = NEW(struct guess);
    struct span parts[] = { span_str(text), user };
    g->failures = f;
    g->kind = kind;
    g->client.name = name_of(f, "failures of a client", parts, 1);
    g->pair.name = name_of(f, "failures of a pair", parts, ARRAY_LEN(parts));
    return g;
}

bool guess_known(const struct guess *g)
{
    return g->known;
}

bool guess_knows(const struct guess *g, const uint8_t mac[SEAL_MAC_SIZE])
{
    return g->by_password && !g->aged && CRYPTO_memcmp(g->mac, mac, sizeof g->mac) == 0;
}

uint64_t guess_client(const struct guess *g)
{
    uint64_t number;
    memcpy(&number, g->client.name.mac, sizeof number);
    return number;
}

/* --- counters -------------------------------------------------------------------------------- */

/* Without a limit nothing is added. */
static void count(struct guess *g, struct tally *t, bool add, cache_count_fn *done)
{
    const struct failures_options *o = &g->failures->o;
    t->adds = add && !t->held && o->most > 0;
    cache_count(o->cache, name_span(&t->name), t->adds ? 1 : 0, o->window_ms, done, g);
}

/*
 * What a counter says against the guess; n 0 is not known. A place that was had once is not lost
 * to those who came later and were turned away.
 */
static bool counted(const struct guess *g, struct tally *t, uint64_t n)
{
    uint64_t most = g->failures->o.most;
    if (most == 0 || n == 0 || t->held) {
        return false;
    }
    t->held = t->adds;
    return t->held ? n > most : n >= most;
}

static void give_back(struct guess *g)
{
    struct tally *all[] = { &g->client, &g->pair };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i]->held) {
            all[i]->held = false;
            cache_uncount(g->failures->o.cache, name_span(&all[i]->name));
        }
    }
}

static void begin(struct guess *g, unsigned answers, guess_fn *done, void *arg)
{
    CHECK(g->missing == 0);
    g->too_many = false;
    g->missing = answers;
    g->done = done;
    g->arg = arg;
}

static void one_less(struct guess *g)
{
    if (--g->missing == 0) {
        g->done(g->arg, g->too_many);
    }
}

/* A pair that was right answers for itself alone. */
static void on_client(void *arg, uint64_t n)
{
    struct guess *g = arg;
    g->too_many |= counted(g, &g->client, n) && !g->known;
    one_less(g);
}

static void on_pair(void *arg, uint64_t n)
{
    struct guess *g = arg;
    g->too_many |= counted(g, &g->pair, n);
    one_less(g);
}

/* --- asking ---------------------------------------------------------------------------------- */

static struct cache_key known_key(const struct name *n)
{
    return (struct cache_key){ .kind = CACHE_KNOWN, .name = name_span(n) };
}

static struct name known_name(const struct guess *g)
{
    return name_about(g, "pair that was right", SPAN(""));
}

/* The client's counter only where it decides: not for a poll. */
static void asked(struct guess *g)
{
    if (g->missing == 1 && !g->known && !g->too_many) {
        count(g, &g->client, false, on_client);
    } else if (g->missing == 1) {
        one_less(g);
    }
}

static void on_known_asked(void *arg, const struct cache_reply *reply)
{
    struct guess *g = arg;
    g->known = reply->hit;
    g->aged = reply->aged;
    g->by_password = reply->hit && reply->value.n == sizeof g->mac;
    if (g->by_password) {
        memcpy(g->mac, reply->value.p, sizeof g->mac);
    }
    g->missing--;
    asked(g);
}

static void on_pair_asked(void *arg, uint64_t n)
{
    struct guess *g = arg;
    g->too_many |= counted(g, &g->pair, n);
    g->missing--;
    asked(g);
}

void guess_ask(struct guess *g, guess_fn *done, void *arg)
{
    if (g->kind == GUESS_TOKEN) {
        begin(g, 1, done, arg);
        count(g, &g->client, false, on_client);
        return;
    }
    struct name known = known_name(g);
    struct cache_key k = known_key(&known);
    begin(g, 3, done, arg);
    cache_get(g->failures->o.cache, &k, on_known_asked, g);
    count(g, &g->pair, false, on_pair_asked);
}

/* --- taking ---------------------------------------------------------------------------------- */

static void on_proof_of_pair(void *arg, uint64_t n)
{
    struct guess *g = arg;
    g->too_many = counted(g, &g->pair, n);
    if (g->too_many) {
        one_less(g);
    } else {
        count(g, &g->client, n <= FAILURES_OF_A_PAIR, on_client);
    }
}

void guess_take(struct guess *g, bool of_client, guess_fn *done, void *arg)
{
    begin(g, g->kind == GUESS_PASSWORD ? 2 : 1, done, arg);
    switch (g->kind) {
    case GUESS_PASSWORD:
        count(g, &g->pair, true, on_pair);
        count(g, &g->client, of_client, on_client);
        break;
    case GUESS_PROOF:
        count(g, &g->pair, true, on_proof_of_pair);
        break;
    case GUESS_TOKEN:
        count(g, &g->client, of_client, on_client);
        break;
    }
}

/* --- ends ------------------------------------------------------------------------------------ */

void guess_keep(struct guess **g)
{
    CHECK(!*g || (*g)->missing == 0);
    free(*g);
    *g = NULL;
}

void guess_drop(struct guess **g)
{
    if (*g) {
        give_back(*g);
    }
    guess_keep(g);
}

/* A mark that says as much already is left as it is. */
static bool is_news(const struct guess *g, const uint8_t *mac)
{
    return !g->known || g->aged || (mac && !guess_knows(g, mac));
}

void guess_right(struct guess **gp, const uint8_t mac[SEAL_MAC_SIZE])
{
    const struct guess *g = *gp;
    if (g && g->kind != GUESS_TOKEN && is_news(g, mac)) {
        struct name known = known_name(g);
        struct cache_key k = known_key(&known);
        cache_set(g->failures->o.cache, &k, mac ? span_of(mac, SEAL_MAC_SIZE) : SPAN("1"));
    }
    guess_drop(gp);
}

static void mark(struct guess *g, const char *label, struct span what, cache_done_fn *done)
{
    const struct failures_options *o = &g->failures->o;
    struct name name = name_about(g, label, what);
    cache_first(o->cache, name_span(&name), o->window_ms, done, g);
}

static void on_wrong_marked(void *arg, enum err e)
{
    struct guess *g = arg;
    guess_wrong_fn *done = g->wrong;
    void *done_arg = g->arg;
    if (e == ERR_OK) {
        guess_keep(&g);
    } else {
        guess_drop(&g);
    }
    done(done_arg);
}

void guess_wrong(struct guess **gp, struct span secret, guess_wrong_fn *done, void *arg)
{
    struct guess *g = *gp;
    *gp = NULL;
    g->wrong = done;
    g->arg = arg;
    mark(g, g->kind == GUESS_TOKEN ? "wrong token" : "wrong password", secret, on_wrong_marked);
}

static void on_left_counted(void *arg, uint64_t n)
{
    struct guess *g = arg;
    (void)n;
    guess_keep(&g);
}

static void on_left_marked(void *arg, enum err e)
{
    struct guess *g = arg;
    if (e == ERR_OK) {
        count(g, &g->client, true, on_left_counted);
    } else {
        guess_keep(&g);
    }
}

void guess_left(struct guess **gp)
{
    struct guess *g = *gp;
    if (!g || g->known) {
        guess_drop(gp);
        return;
    }
    *gp = NULL;
    give_back(g);
    mark(g, "exchange that was left", SPAN(""), on_left_marked);
}
