/*
 * login: two whole stores, as two nodes of a fleet, against real PostgreSQL and memcached. Who gets
 * in, who does not and is told what, and that those who fail can't be told apart by what is done
 * for them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/stats.h"
#include "memcached_fixture.h"
#include "net/throttle.h"
#include "postgres.h"
#include "store/cache_lane.h"
#include "store/login_parts.h"

#define TIMEOUT_MS   1000
#define PATIENCE_MS  25000
#define MAX_FAILURES 3
#define HOUR_MS      (60 * 60 * 1000)

static struct postgres *server;
static struct peer server_of_cache;
static struct loop *loop;
static struct config *config;
static struct store *a, *b; /* two nodes */
static uv_timer_t patience;
static struct stats stats;
static char right_hash[128], other_hash[128]; /* of "right" and "other" */
static unsigned accounts;                     /* that were made so far */
static unsigned clients;

/* --- tokens that are what they say: USER, or one of these words ------------------------------- */

static unsigned tokens_asked;

struct asked {
    struct task task;
    struct op op;
    token_fn *done;
    char *token;
};

static void on_asked(struct task *t)
{
    struct asked *q = CONTAINER_OF(t, struct asked, task);
    struct span token = span_str(q->token);
    enum err e = span_eq(token, SPAN("bad"))    ? ERR_DENIED
                 : span_eq(token, SPAN("busy")) ? ERR_LIMIT
                 : span_eq(token, SPAN("down")) ? ERR_TEMP
                                                : ERR_OK;
    q->done(q->op.arg, e, e == ERR_OK ? token : SPAN(""));
    free(q->token);
    free(q);
}

struct op *token_check(struct token_checker *t, struct span token, token_fn *done, void *arg)
{
    struct asked *q = NEW(struct asked);
    (void)t;
    tokens_asked++;
    *q = (struct asked){ .op = { .arg = arg }, .done = done, .token = span_dup(token) };
    q->task.run = on_asked;
    loop_post(loop, &q->task);
    return &q->op;
}

enum err token_open(struct loop *l, const struct config *c, struct token_checker **out, char *why,
                    size_t why_size)
{
    static char any;
    (void)l, (void)c, (void)why, (void)why_size;
    *out = (struct token_checker *)&any;
    return ERR_OK;
}

void token_close(struct token_checker **t)
{
    *t = NULL;
}

/* --- waiting --------------------------------------------------------------------------------- */

static void on_patience(uv_timer_t *t)
{
    (void)t;
    CHECK(!"a call was never answered");
}

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_ONCE);
}

#define WAIT_UNTIL(cond)                                                                           \
    do {                                                                                           \
        uv_timer_start(&patience, on_patience, PATIENCE_MS, 0);                                    \
        while (!(cond)) {                                                                          \
            turn();                                                                                \
        }                                                                                          \
        uv_timer_stop(&patience);                                                                  \
    } while (0)

static uint64_t count(enum stat_id s)
{
    return stats_get(&stats, s);
}

static void on_nothing(void *arg, const struct cache_reply *r)
{
    (void)r;
    *(bool *)arg = true;
}

/* What a node has given to the cache before is done. */
static void settle(struct store *s)
{
    bool done = false;
    struct cache_key k = { .kind = CACHE_VERIFIED, .name = SPAN("settle") };
    cache_get(s->cache, &k, on_nothing, &done);
    WAIT_UNTIL(done);
}

/* --- the fleet ------------------------------------------------------------------------------- */

static struct store *open_node(const struct config *c)
{
    struct store *s;
    char why[256];
    if (store_open(loop, c, &s, why, sizeof why) != ERR_OK) {
        fail_msg("%s", why);
    }
    return s;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* Stays in memory: the stores never end. */
static struct config *open_nodes(void)
{
    char dir[80], key[96], path[96], text[1024], why[256];
    const char *tmp = getenv("TMPDIR");
    struct config *c;
    snprintf(dir, sizeof dir, "%.50s/mailfleet-login-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    snprintf(key, sizeof key, "%s/key", dir);
    snprintf(path, sizeof path, "%s/conf", dir);
    write_file(key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
    snprintf(text, sizeof text,
             "[node]\nfleet_key_file = %s\n[database]\nurl = %s\ntimeout = 2s\n"
             "[cache]\nservers = %s\ntimeout = %ums\n"
             "[auth]\nscheme = $5$\nmax_failures = %u\nqueue = 8\n"
             "[limits]\nexempt = 198.51.100.0/24\n",
             key, postgres_url(server), server_of_cache.name, TIMEOUT_MS, MAX_FAILURES);
    write_file(path, text);
    if (config_load(path, &c, why, sizeof why) != ERR_OK) {
        fail_msg("%s", why);
    }
    a = open_node(c);
    b = open_node(c);
    unlink(key);
    unlink(path);
    rmdir(dir);
    return c;
}

/* A store asks for the volumes now and then: not while queries are counted. */
static void stop_asking(struct store *s)
{
    WAIT_UNTIL(uv_is_active((uv_handle_t *)&s->volumes_timer)); /* not under way */
    uv_timer_stop(&s->volumes_timer);
}

static int start(void **state)
{
    (void)state;
    stats_use(&stats);
    server = postgres_start();
    memcached_open(&server_of_cache);
    loop = loop_open();
    uv_timer_init(loop_uv(loop), &patience);
    config = open_nodes();
    assert_int_equal(password_hash(SPAN("right"), "$5$", right_hash, sizeof right_hash), ERR_OK);
    assert_int_equal(password_hash(SPAN("other"), "$5$", other_hash, sizeof other_hash), ERR_OK);
    WAIT_UNTIL(cache_epoch(a->cache) && cache_epoch(b->cache));
    /* Each connection asks for the epoch when it is made. */
    uint64_t connections = config->database_read_connections + config->database_write_connections;
    WAIT_UNTIL(count(STAT_db_connections) == 2 * connections);
    stop_asking(a);
    stop_asking(b);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    peer_kill(&server_of_cache);
    postgres_stop(&server);
    return 0;
}

/* Rules as the configuration has them, but for what a test is not about. */
static int setup(void **state)
{
    (void)state;
    struct store *nodes[] = { a, b };
    for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
        nodes[i]->rules =
            (struct login_rules){ .exclusive = true,
                                  .burst = 3,
                                  .scram_iterations = (uint32_t)config->auth_scram_iterations };
    }
    tokens_asked = 0;
    return 0;
}

/* --- accounts and clients -------------------------------------------------------------------- */

struct account {
    uint64_t id;
    char address[32];
};

static struct account account_new(void)
{
    struct account c = { .id = 1000 + accounts++ };
    snprintf(c.address, sizeof c.address, "user%u@x.org", (unsigned)c.id);
    postgres_sql(server,
                 "INSERT INTO mailbox (mailbox_id) VALUES (%u);"
                 "INSERT INTO account (mailbox_id, addr, hash) VALUES (%u, '%s', '%s');"
                 "INSERT INTO address VALUES ('%s', 'x.org', %u)",
                 (unsigned)c.id, (unsigned)c.id, c.address, right_hash, c.address, (unsigned)c.id);
    return c;
}

static void account_set(const struct account *c, const char *what)
{
    postgres_sql(server, "UPDATE account SET %s WHERE mailbox_id = %u", what, (unsigned)c->id);
}

static void suspend(const struct account *c)
{
    postgres_sql(server, "UPDATE mailbox SET state = 1 WHERE mailbox_id = %u", (unsigned)c->id);
}

struct client {
    struct sockaddr_in address;
};

static struct client client_at(uint32_t host)
{
    return (struct client){ { .sin_family = AF_INET, .sin_addr.s_addr = htonl(host) } };
}

/* One that nobody has heard of. */
static struct client client_new(void)
{
    return client_at(0xc0000201 + clients++); /* 192.0.2.1 and following */
}

static struct client client_exempt(void)
{
    return client_at(0xc6336401);
}

/* --- logins ---------------------------------------------------------------------------------- */

struct outcome {
    bool done;
    enum login_verdict verdict;
    struct lease *lease;
    unsigned retention_days;
    char user[64];
};

static void on_login(void *arg, enum login_verdict v, struct login *l)
{
    struct outcome *o = arg;
    assert_false(o->done);
    assert_int_equal(v == LOGIN_OK, l->maildrop != NULL);
    assert_true(v == LOGIN_OK || !l->lease);
    o->done = true;
    o->verdict = v;
    o->lease = l->lease;
    l->lease = NULL;
    o->retention_days = l->retention_days;
    snprintf(o->user, sizeof o->user, "%s", l->user);
}

static struct outcome claim(struct store *s, struct client c, enum login_proof proof,
                            const char *user, const char *secret)
{
    struct outcome o = { .done = false };
    struct login_claim claim = { .proof = proof,
                                 .user = span_str(user),
                                 .secret = span_str(secret),
                                 .client = (struct sockaddr *)&c.address };
    store_login(s, &claim, on_login, &o);
    assert_false(o.done); /* never inline */
    WAIT_UNTIL(o.done);
    return o;
}

static void on_dropped(void *arg, enum err e)
{
    (void)e;
    *(bool *)arg = true;
}

static void leave(struct store *s, struct lease **lease)
{
    bool done = false;
    if (store_lease_drop(s, lease, on_dropped, &done)) {
        WAIT_UNTIL(done);
    }
}

/* In, and out again. */
static enum login_verdict prove(struct store *s, struct client c, enum login_proof proof,
                                const char *user, const char *secret)
{
    struct outcome o = claim(s, c, proof, user, secret);
    leave(s, &o.lease);
    settle(s);
    return o.verdict;
}

static enum login_verdict login(struct store *s, struct client c, const char *user,
                                const char *password)
{
    return prove(s, c, LOGIN_PASSWORD, user, password);
}

/* What was done for somebody: reads of the cache, queries, hashes. */
struct work {
    uint64_t reads, queries, hashes;
};

static struct work work_now(void)
{
    return (struct work){ count(STAT_cache_hits) + count(STAT_cache_misses), count(STAT_db_queries),
                          count(STAT_password_checks) };
}

static struct work work_since(struct work before)
{
    struct work w = work_now();
    return (struct work){ w.reads - before.reads, w.queries - before.queries,
                          w.hashes - before.hashes };
}

static void assert_work(struct work w, unsigned reads, unsigned queries, unsigned hashes)
{
    assert_int_equal(w.reads, reads);
    assert_int_equal(w.queries, queries);
    assert_int_equal(w.hashes, hashes);
}

static enum login_verdict login_counted(struct client c, const char *user, const char *password,
                                        struct work *w)
{
    struct work before = work_now();
    struct outcome o = claim(a, c, LOGIN_PASSWORD, user, password);
    *w = work_since(before);
    leave(a, &o.lease);
    return o.verdict;
}

/* --- passwords ------------------------------------------------------------------------------- */

static void test_right(void **state)
{
    (void)state;
    struct account c = account_new();
    postgres_sql(server, "UPDATE mailbox SET retention_days = 9 WHERE mailbox_id = %u",
                 (unsigned)c.id);
    struct outcome o = claim(a, client_new(), LOGIN_PASSWORD, "USER1000@x.ORG", "right");
    assert_int_equal(o.verdict, LOGIN_OK);
    assert_string_equal(o.user, c.address);
    assert_int_equal(o.retention_days, 9);
    assert_non_null(o.lease);
    leave(a, &o.lease);
}

/* A poll: address, whether the password was right from here, list; no database and no hash. */
static void test_remembered(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    struct work w;
    assert_int_equal(login_counted(k, c.address, "right", &w), LOGIN_OK);
    assert_int_equal(w.hashes, 1);
    settle(a);
    assert_int_equal(login_counted(k, c.address, "right", &w), LOGIN_OK);
    assert_work(w, 3, 0, 0);
}

/* Each asks for the address, for a remembered password and whether the pair was right, asks the
 * database once, and hashes. */
static void test_all_failures_are_the_same_work(void **state)
{
    (void)state;
    struct account known = account_new(), fresh = account_new(), away = account_new();
    struct account locked = account_new();
    struct work w;
    suspend(&away);
    account_set(&locked, "hash = '!' || hash");
    assert_int_equal(login(a, client_new(), known.address, "right"), LOGIN_OK); /* cached now */
    const char *users[] = { known.address,     fresh.address,   fresh.address,  away.address,
                            away.address,      locked.address,  "nobody@x.org", "nobody@x.org",
                            "nobody@else.net", "not an address" };
    for (size_t i = 0; i < ARRAY_LEN(users); i++) {
        assert_int_equal(login_counted(client_new(), users[i], "wrong", &w), LOGIN_DENIED);
        assert_work(w, 3, 1, 1);
        settle(a);
    }
    assert_int_equal(login_counted(client_new(), "no\xfftext@x.org", "wrong", &w), LOGIN_DENIED);
    assert_int_equal(w.hashes, 1);
}

/* What the cache says of a hash is never the reason of a no. */
static void test_new_password(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    char set[256];
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
    snprintf(set, sizeof set, "hash = '%s'", other_hash);
    account_set(&c, set);
    for (int i = 0; i < MAX_FAILURES + 1; i++) { /* and it is no failure */
        char again[64];
        snprintf(again, sizeof again, "%s", c.address);
        assert_int_equal(login(b, k, again, "other"), LOGIN_OK);
    }
}

/* --- failures -------------------------------------------------------------------------------- */

static enum login_verdict scram(struct store *s, struct client c, const char *user,
                                const char *password);
static void give_keys(const struct account *c, const char *password);

static void fail_often(struct client k, const char *user, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char wrong[16];
        snprintf(wrong, sizeof wrong, "wrong %u", i);
        assert_int_equal(login(i % 2 ? a : b, k, user, wrong), LOGIN_DENIED);
    }
}

/* Counted by all nodes; turned away before any hash; others, and who was in from there, are not. */
static void test_blocked(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new(), fresh = account_new();
    struct client k = client_new(), owner = client_new();
    struct work w;
    assert_int_equal(login(a, owner, c.address, "right"), LOGIN_OK); /* remembered */
    assert_int_equal(login(a, k, d.address, "right"), LOGIN_OK);
    fail_often(k, c.address, MAX_FAILURES);
    const char *users[] = { c.address, fresh.address, "nobody@x.org" };
    for (size_t i = 0; i < 2 * ARRAY_LEN(users); i++) { /* the second time some are cached */
        assert_int_equal(login_counted(k, users[i / 2], "right", &w), LOGIN_BLOCKED);
        assert_work(w, 2, 1, 0);
        settle(a);
    }
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(login(b, k, "nobody@x.org", "right"), LOGIN_BLOCKED);
    assert_int_equal(login(b, owner, c.address, "right"), LOGIN_OK);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_BLOCKED); /* though the owner was in */
    assert_int_equal(login(b, k, d.address, "right"), LOGIN_OK);
}

/* Who was in from a blocked address has his own count there, by whatever way it is guessed. */
static void test_guesses_at_a_neighbour(void **state)
{
    (void)state;
    struct account c = account_new(), victim = account_new();
    struct client k = client_new();
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
    fail_often(k, victim.address, MAX_FAILURES);
    fail_often(k, c.address, MAX_FAILURES - 1);
    for (int i = 0; i < MAX_FAILURES; i++) { /* an old one is one */
        assert_int_equal(login(a, k, c.address, "wrong 0"), LOGIN_DENIED);
    }
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(login(a, k, c.address, "wrong again"), LOGIN_DENIED);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(scram(b, k, c.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(login(b, client_new(), c.address, "right"), LOGIN_OK);
}

/* --- who was in, and for how long ------------------------------------------------------------- */

/* A key of the cache as its names are made. */
static void named_key(const char *label, char letter, struct span what, char out[ITEM_KEY_SIZE])
{
    uint8_t name[SEAL_MAC_SIZE];
    seal_mac(a->seal, label, &what, 1, name);
    int n = snprintf(out, ITEM_KEY_SIZE, "mf:%llx:%c:", (unsigned long long)cache_epoch(a->cache),
                     letter);
    for (size_t i = 0; i < 16; i++) {
        n += snprintf(out + n, ITEM_KEY_SIZE - (size_t)n, "%02x", name[i]);
    }
}

/* Where it is that a pair was right: nobody else can tell, but its name is made as this. */
static void known_key(struct client k, const char *user, char out[ITEM_KEY_SIZE])
{
    char text[NETADDR_TEXT];
    uint8_t pair[SEAL_MAC_SIZE], known[SEAL_MAC_SIZE];
    throttle_client((struct sockaddr *)&k.address, 64, text);
    struct span of_pair[] = { span_str(text), span_str(user) };
    seal_mac(a->seal, "failures of a pair", of_pair, 2, pair);
    struct span of_known[] = { span_of(pair, sizeof pair), SPAN("") };
    seal_mac(a->seal, "pair that was right", of_known, 2, known);
    named_key("cache name", 'w', span_of(known, sizeof known), out);
}

/* When it was written (Unix, ms); 0: there is none. */
static uint64_t written_at(const char *key)
{
    memcached_st *mc = memcached_raw(&server_of_cache);
    size_t size = 0;
    uint32_t flags;
    memcached_return_t rc;
    char *value = memcached_get(mc, key, strlen(key), &size, &flags, &rc);
    uint64_t at = value ? item_parse(span_of(value, size)).issued_ms : 0;
    free(value);
    memcached_free(mc);
    return at;
}

static uint64_t unix_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &t), 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* What is there, as if it had been written then. */
static void write_at(const char *key, uint64_t at)
{
    memcached_st *mc = memcached_raw(&server_of_cache);
    struct buf plain, out;
    unsigned parts;
    size_t size = 0;
    uint32_t flags;
    memcached_return_t rc;
    char *value = memcached_get(mc, key, strlen(key), &size, &flags, &rc);
    assert_non_null(value);
    struct item it = item_parse(span_of(value, size));
    buf_init(&plain, 256);
    buf_init(&out, 256);
    assert_int_equal(item_unseal(a->seal, key, &it, it.sealed, unix_ms(), 2 * HOUR_MS, &plain),
                     ERR_OK);
    assert_int_equal(item_seal(a->seal, key, at, buf_span(&plain), &out, &parts), ERR_OK);
    struct span s = buf_span(&out);
    assert_int_equal(memcached_set(mc, key, strlen(key), s.p, s.n, 3600, 0), MEMCACHED_SUCCESS);
    buf_fini(&out);
    buf_fini(&plain);
    free(value);
    memcached_free(mc);
}

/* Known for an hour from the last time that half of it was over; and a poll writes nothing. */
static void known_stays(enum login_verdict (*in)(struct store *, struct client, const char *,
                                                 const char *))
{
    struct account c = account_new(), victim = account_new();
    struct client k = client_new();
    char key[ITEM_KEY_SIZE];
    give_keys(&c, "right");
    known_key(k, c.address, key);
    assert_int_equal(in(a, k, c.address, "wrong"), LOGIN_DENIED);
    assert_int_equal(written_at(key), 0);
    assert_int_equal(in(a, k, c.address, "right"), LOGIN_OK);
    assert_true(written_at(key) > 0);
    fail_often(k, victim.address, MAX_FAILURES - 1);
    assert_int_equal(in(b, k, victim.address, "right"), LOGIN_BLOCKED);
    uint64_t before = unix_ms() - HOUR_MS / 2 + 60000; /* not yet */
    write_at(key, before);
    assert_int_equal(in(b, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(written_at(key), before);
    for (int i = 0; i < 3; i++) { /* for hours */
        before = unix_ms();
        write_at(key, before - HOUR_MS / 2 - 60000);
        assert_int_equal(in(i % 2 ? a : b, k, c.address, "right"), LOGIN_OK);
        assert_true(written_at(key) >= before);
    }
    write_at(key, unix_ms() - HOUR_MS - 60000);
    assert_int_equal(in(b, k, c.address, "right"), LOGIN_BLOCKED);
}

static void test_known_stays(void **state)
{
    (void)state;
    known_stays(login);
    known_stays(scram);
}

/* The mark has the password for half of its life; then the one is asked for that was hashed within
 * the hour, and if there is none, it is hashed. */
static void test_known_password(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    struct work w;
    char known[ITEM_KEY_SIZE], verified[ITEM_KEY_SIZE];
    give_keys(&c, "right");
    known_key(k, c.address, known);
    named_key("cache name", 'v', span_str(c.address), verified);
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK); /* by its hash: none was known */
    settle(a);
    for (int i = 0; i < 2; i++) { /* it is written anew */
        write_at(known, unix_ms() - HOUR_MS / 2 - 60000);
        assert_int_equal(login_counted(k, c.address, "right", &w), LOGIN_OK);
        assert_work(w, 4, 0, 0);
        settle(a);
        assert_int_equal(login_counted(k, c.address, "right", &w), LOGIN_OK);
        assert_work(w, 3, 0, 0);
    }
    write_at(known, unix_ms() - HOUR_MS / 2 - 60000);
    write_at(verified, unix_ms() - HOUR_MS - 60000);
    assert_int_equal(login_counted(k, c.address, "right", &w), LOGIN_OK);
    assert_int_equal(w.hashes, 1);
    settle(a);
    assert_int_equal(login_counted(k, c.address, "wrong", &w), LOGIN_DENIED);
    assert_work(w, 3, 1, 1);
}

/* --- at the same time ------------------------------------------------------------------------- */

enum { AT_ONCE = 8 };

/* All but the last are wrong. How many were told so? */
static unsigned denied_of(struct client k, const struct account *c, size_t accounts_n,
                          struct outcome o[AT_ONCE])
{
    unsigned denied = 0;
    for (unsigned i = 0; i < AT_ONCE; i++) {
        char guess[16];
        snprintf(guess, sizeof guess, i == AT_ONCE - 1 ? "right" : "wrong %u", i);
        struct login_claim claim = { .user = span_str(c[i % accounts_n].address),
                                     .secret = span_str(guess),
                                     .client = (struct sockaddr *)&k.address };
        o[i] = (struct outcome){ .done = false };
        store_login(a, &claim, on_login, &o[i]);
    }
    for (unsigned i = 0; i < AT_ONCE; i++) {
        WAIT_UNTIL(o[i].done);
        leave(a, &o[i].lease);
        denied += o[i].verdict == LOGIN_DENIED;
    }
    settle(a);
    return denied;
}

/* As many learn something as would one after the other; and not the one that came behind them. */
static void test_guesses_at_once(void **state)
{
    (void)state;
    struct account c = account_new(), fresh = account_new();
    struct outcome o[AT_ONCE];
    assert_int_equal(login(a, client_new(), c.address, "right"), LOGIN_OK); /* remembered */
    const struct account *one[] = { &c, &fresh };
    for (size_t i = 0; i < ARRAY_LEN(one); i++) {
        struct client k = client_new();
        uint64_t hashes = count(STAT_password_checks);
        assert_int_equal(denied_of(k, one[i], 1, o), MAX_FAILURES);
        assert_int_equal(o[AT_ONCE - 1].verdict, LOGIN_BLOCKED);
        assert_int_equal(count(STAT_password_checks), hashes + MAX_FAILURES);
        assert_int_equal(login(a, k, one[i]->address, "right"), LOGIN_BLOCKED);
    }
}

/* The same at as many accounts. */
static void test_guesses_at_once_at_many(void **state)
{
    (void)state;
    struct account c[AT_ONCE];
    struct outcome o[AT_ONCE];
    for (unsigned i = 0; i < AT_ONCE; i++) {
        c[i] = account_new();
    }
    assert_true(denied_of(client_new(), c, AT_ONCE, o) <= MAX_FAILURES);
    for (unsigned i = 0; i < AT_ONCE; i++) { /* and with remembered ones */
        assert_int_equal(login(i % 2 ? a : b, client_new(), c[i].address, "right"), LOGIN_OK);
    }
    struct client k = client_new();
    assert_int_equal(denied_of(k, c, AT_ONCE, o), MAX_FAILURES);
    assert_int_equal(o[AT_ONCE - 1].verdict, LOGIN_BLOCKED);
    assert_int_equal(login(a, k, c[0].address, "right"), LOGIN_BLOCKED);
}

/* Those who are right at the same time are in each other's way for a moment at most. */
static void test_right_at_once(void **state)
{
    (void)state;
    struct client k = client_new();
    for (unsigned i = 0; i < 4 * MAX_FAILURES; i++) { /* what they took is given back */
        assert_int_equal(login(i % 2 ? a : b, k, account_new().address, "right"), LOGIN_OK);
    }
    struct account c = account_new();
    fail_often(k, c.address, MAX_FAILURES - 1);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_OK);
}

static void guess_at(struct client k, const char *user, struct outcome *o)
{
    static unsigned guesses;
    char guess[16];
    snprintf(guess, sizeof guess, "guess %u", guesses++);
    struct login_claim claim = { .user = span_str(user),
                                 .secret = span_str(guess),
                                 .client = (struct sockaddr *)&k.address };
    *o = (struct outcome){ .done = false };
    store_login(a, &claim, on_login, o);
}

/* Occupies the one thread of a pool and the one place before it. */
static void fill_queue(const char *slow, struct outcome o[2])
{
    for (int i = 0; i < 2; i++) {
        do { /* the second is refused until the thread has taken the first */
            uint64_t hashes = count(STAT_password_checks);
            guess_at(client_exempt(), slow, &o[i]);
            WAIT_UNTIL(count(STAT_password_checks) > hashes);
            settle(a);
        } while (o[i].done);
    }
}

/* A queue that is full makes no guess at a remembered password free; without one none is judged. */
static void test_guesses_in_a_full_queue(void **state)
{
    (void)state;
    struct account remembered = account_new(), fresh = account_new(), slow = account_new();
    struct client k = client_new(), other = client_new();
    struct outcome flood[2], o;
    struct password *usual = a->password;
    assert_int_equal(login(a, client_new(), remembered.address, "right"), LOGIN_OK);
    account_set(&slow, "hash = '$5$rounds=3000000$' || substr(hash, 4)"); /* a second or two */
    a->password =
        password_open(loop, &(struct password_options){
                                .threads = 1, .queue = 1, .wait_ms = HOUR_MS, .prefix = "$5$" });
    fill_queue(slow.address, flood);
    for (unsigned i = 0; i < 2 * MAX_FAILURES; i++) {
        guess_at(i % 2 ? k : other, i % 2 ? remembered.address : fresh.address, &o);
        WAIT_UNTIL(o.done);
        assert_int_equal(o.verdict, LOGIN_OVERLOAD);
    }
    WAIT_UNTIL(flood[0].done && flood[1].done);
    password_close(&a->password);
    a->password = usual;
    settle(a);
    assert_int_equal(login(b, k, remembered.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(login(b, other, fresh.address, "right"), LOGIN_OK);
}

static void test_unknown_users_count(void **state)
{
    (void)state;
    struct client k = client_new();
    for (unsigned i = 0; i < MAX_FAILURES; i++) {
        char user[32];
        snprintf(user, sizeof user, "nobody%u@x.org", i);
        assert_int_equal(login(a, k, user, "same"), LOGIN_DENIED);
    }
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_BLOCKED);
}

static void test_the_same_wrong_password_counts_once(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    for (unsigned i = 0; i < 3 * MAX_FAILURES; i++) {
        assert_int_equal(login(i % 2 ? a : b, k, c.address, "wrong 0"), LOGIN_DENIED);
        assert_int_equal(login(i % 2 ? a : b, k, "nobody@x.org", "old"), LOGIN_DENIED);
    }
    fail_often(k, c.address, 2); /* one of them is new */
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_BLOCKED);
}

/* An address that limits.exempt names may go on for ever, and a count of nothing too. */
static void test_not_counted(void **state)
{
    (void)state;
    struct account c = account_new();
    fail_often(client_exempt(), c.address, 2 * MAX_FAILURES);
    assert_int_equal(login(a, client_exempt(), c.address, "right"), LOGIN_OK);
    struct failures *counts = a->failures;
    a->failures = failures_open(&(struct failures_options){ .cache = a->cache, .seal = a->seal });
    struct client k = client_new();
    for (unsigned i = 0; i < 2 * MAX_FAILURES; i++) {
        char wrong[16];
        snprintf(wrong, sizeof wrong, "wrong %u", i);
        assert_int_equal(login(a, k, c.address, wrong), LOGIN_DENIED);
    }
    failures_close(&a->failures);
    a->failures = counts;
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_OK);
}

/* Who hangs up before the answer has guessed all the same. */
static void test_a_client_that_goes_is_counted(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    for (unsigned i = 0; i < MAX_FAILURES; i++) {
        struct outcome never = { .done = false };
        struct login_claim claim = { .user = span_str(c.address),
                                     .secret = span_of(&i, sizeof i),
                                     .client = (struct sockaddr *)&k.address };
        uint64_t hashes = count(STAT_password_checks);
        struct op *op = store_login(a, &claim, on_login, &never);
        op_cancel(&op);
        WAIT_UNTIL(count(STAT_password_checks) > hashes);
        assert_false(never.done);
    }
    WAIT_UNTIL(login(a, k, c.address, "wrong again") == LOGIN_BLOCKED);
}

static void test_a_client_that_goes_takes_nothing(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    struct outcome never = { .done = false };
    struct login_claim claim = { .user = span_str(c.address),
                                 .secret = SPAN("right"),
                                 .client = (struct sockaddr *)&k.address };
    struct op *op = store_login(a, &claim, on_login, &never);
    op_cancel(&op);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
    assert_false(never.done);
}

/* --- overload and faults --------------------------------------------------------------------- */

static void test_overload(void **state)
{
    (void)state;
    enum { MANY = 60 };
    struct account c = account_new();
    struct client k = client_exempt();
    struct outcome o[MANY] = { 0 };
    unsigned denied = 0, overload = 0;
    for (unsigned i = 0; i < MANY; i++) {
        struct login_claim claim = { .user = span_str(c.address),
                                     .secret = span_of(&i, sizeof i),
                                     .client = (struct sockaddr *)&k.address };
        store_login(a, &claim, on_login, &o[i]);
    }
    for (unsigned i = 0; i < MANY; i++) {
        WAIT_UNTIL(o[i].done);
        denied += o[i].verdict == LOGIN_DENIED;
        overload += o[i].verdict == LOGIN_OVERLOAD;
    }
    assert_true(denied >= 8 && overload > 0);
    assert_int_equal(denied + overload, MANY);
}

/* --- delay and sessions ---------------------------------------------------------------------- */

static void set_delay(uint64_t ms, unsigned burst)
{
    a->rules.delay_ms = b->rules.delay_ms = ms;
    a->rules.burst = b->rules.burst = burst;
}

static void test_delayed(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new();
    struct client k = client_new();
    set_delay(HOUR_MS, 2);
    assert_int_equal(login(a, k, c.address, "wrong"), LOGIN_DENIED); /* takes nothing */
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(login(a, k, c.address, "right"), LOGIN_DELAYED);
        assert_int_equal(login(b, client_new(), c.address, "right"), LOGIN_DELAYED);
    }
    assert_int_equal(login(a, k, d.address, "right"), LOGIN_OK);
    set_delay(0, 2);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
}

/* Knocking at an open session takes from the bucket; being delayed takes no lease. */
static void test_delay_before_lease(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    set_delay(HOUR_MS, 2);
    struct outcome in = claim(a, k, LOGIN_PASSWORD, c.address, "right");
    assert_int_equal(in.verdict, LOGIN_OK);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_IN_USE);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_DELAYED);
    leave(a, &in.lease);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_DELAYED);
    set_delay(0, 2);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
}

static void test_in_use(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    struct outcome in = claim(a, k, LOGIN_PASSWORD, c.address, "right");
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_IN_USE);
    assert_int_equal(login(b, k, c.address, "wrong"), LOGIN_DENIED);
    leave(a, &in.lease);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
}

static void test_sessions(void **state)
{
    (void)state;
    enum { SESSIONS = 4 };
    struct account c = account_new();
    struct client k = client_new();
    struct outcome in[SESSIONS];
    a->rules.exclusive = b->rules.exclusive = false;
    a->rules.sessions = b->rules.sessions = SESSIONS;
    for (int i = 0; i < SESSIONS; i++) {
        in[i] = claim(i % 2 ? a : b, k, LOGIN_PASSWORD, c.address, "right");
        assert_int_equal(in[i].verdict, LOGIN_OK);
        assert_non_null(in[i].lease);
    }
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_SESSIONS);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_SESSIONS);
    leave(a, &in[1].lease);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
    for (int i = 0; i < SESSIONS; i++) {
        leave(i % 2 ? a : b, &in[i].lease);
    }
    a->rules.sessions = 0; /* no limit, and no lease */
    struct outcome free_one = claim(a, k, LOGIN_PASSWORD, c.address, "right");
    assert_int_equal(free_one.verdict, LOGIN_OK);
    assert_null(free_one.lease);
}

static void on_kind(void *arg, enum err e, struct entry **entries, size_t n)
{
    assert_int_equal(e, ERR_OK);
    assert_int_equal(n, 1);
    *(int *)arg = (int)entries[0]->kind;
}

/* What a delivery is told about an address. */
static int kind_for_mail(struct store *s, const char *address)
{
    int kind = -1;
    struct span one = span_str(address);
    store_lookup(s, &one, 1, on_kind, &kind);
    WAIT_UNTIL(kind >= 0);
    return kind;
}

/* A list that can't be had after the lease was taken: the mailbox is free for the next try. */
static void test_fault_behind_the_lease(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    assert_int_equal(kind_for_mail(a, c.address), ENTRY_MAILBOX); /* cached */
    postgres_sql(server, "UPDATE mailbox SET mailbox_id = %u WHERE mailbox_id = %u",
                 (unsigned)c.id + 1000000, (unsigned)c.id);
    assert_int_equal(claim(a, k, LOGIN_PASSWORD, c.address, "right").verdict, LOGIN_FAULT);
    postgres_sql(server, "UPDATE mailbox SET mailbox_id = %u WHERE mailbox_id = %u", (unsigned)c.id,
                 (unsigned)c.id + 1000000);
    assert_int_equal(login(b, k, c.address, "right"), LOGIN_OK);
}

/* --- tokens and certificates ----------------------------------------------------------------- */

static void test_tokens(void **state)
{
    (void)state;
    struct account c = account_new(), away = account_new();
    struct client k = client_exempt();
    suspend(&away);
    assert_true(store_tokens(a));
    struct outcome o = claim(a, k, LOGIN_TOKEN, "", "USER1000@x.org");
    assert_int_equal(o.verdict, LOGIN_OK);
    assert_string_equal(o.user, "user1000@x.org");
    leave(a, &o.lease);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, c.address, c.address), LOGIN_OK);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "User1000@X.org", "uSER1000@x.org"), LOGIN_OK);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "user1000@x.org", c.address), LOGIN_DENIED);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", "nobody@x.org"), LOGIN_DENIED);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", away.address), LOGIN_DENIED);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", "bad"), LOGIN_DENIED);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", ""), LOGIN_DENIED);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", "no\xffutf8"), LOGIN_DENIED);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", "busy"), LOGIN_OVERLOAD);
    assert_int_equal(prove(a, k, LOGIN_TOKEN, "", "down"), LOGIN_FAULT);
}

/* Nobody asks about the tokens of a client that is over the limit, whichever way it got there. */
static void test_tokens_are_guarded(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    for (int i = 0; i < 2 * MAX_FAILURES; i++) { /* the same one */
        assert_int_equal(prove(a, k, LOGIN_TOKEN, "", "bad"), LOGIN_DENIED);
    }
    fail_often(k, c.address, MAX_FAILURES - 1);
    unsigned asked = tokens_asked;
    assert_int_equal(prove(b, k, LOGIN_TOKEN, "", c.address), LOGIN_BLOCKED);
    assert_int_equal(tokens_asked, asked);
}

/* That an account is suspended, or not there, is asked of the database too. */
static void test_certificates(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    assert_int_equal(prove(a, k, LOGIN_CERTIFICATE, c.address, ""), LOGIN_OK);
    assert_int_equal(prove(a, k, LOGIN_CERTIFICATE, "no\xfftext", ""), LOGIN_DENIED);
    for (int i = 0; i < 2 * MAX_FAILURES; i++) { /* no guesses */
        char user[32];
        snprintf(user, sizeof user, "nobody%d@x.org", i);
        assert_int_equal(prove(a, k, LOGIN_CERTIFICATE, user, ""), LOGIN_DENIED);
    }
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_OK);
    struct account away = account_new();
    suspend(&away);
    assert_int_equal(prove(a, k, LOGIN_CERTIFICATE, away.address, ""), LOGIN_DENIED);
    postgres_sql(server, "UPDATE mailbox SET state = 0 WHERE mailbox_id = %u", (unsigned)away.id);
    assert_int_equal(prove(a, k, LOGIN_CERTIFICATE, away.address, ""), LOGIN_OK);
}

/* --- SCRAM ----------------------------------------------------------------------------------- */

struct exchange {
    bool done;
    enum login_verdict verdict;
    struct scram_login *login;
    struct scram_keys keys;
};

static void on_scram(void *arg, enum login_verdict v, struct scram_login **l,
                     const struct scram_keys *k)
{
    struct exchange *x = arg;
    assert_false(x->done);
    assert_int_equal(v == LOGIN_OK, *l != NULL);
    assert_int_equal(v == LOGIN_OK, k != NULL);
    x->done = true;
    x->verdict = v;
    x->login = *l;
    *l = NULL;
    if (k) {
        x->keys = *k;
    }
}

static struct exchange begin(struct store *s, struct client c, const char *user)
{
    struct exchange x = { .done = false };
    store_scram(s, SCRAM_SHA_256, span_str(user), (struct sockaddr *)&c.address, on_scram, &x);
    assert_false(x.done);
    WAIT_UNTIL(x.done);
    return x;
}

static void hmac(const uint8_t *key, const void *data, size_t n, uint8_t out[32])
{
    unsigned size;
    assert_non_null(HMAC(EVP_sha256(), key, 32, data, n, out, &size));
}

/* A client's proof (RFC 5802, section 3). */
static void proof_of(const struct scram_keys *k, const char *password, struct span auth,
                     uint8_t out[32])
{
    uint8_t salted[32], key[32], stored[32];
    assert_int_equal(PKCS5_PBKDF2_HMAC(password, -1, k->salt, (int)k->salt_n, (int)k->iterations,
                                       EVP_sha256(), 32, salted),
                     1);
    hmac(salted, "Client Key", 10, key);
    assert_int_equal(EVP_Digest(key, 32, stored, NULL, EVP_sha256(), NULL), 1);
    hmac(stored, auth.p, auth.n, out);
    for (size_t i = 0; i < 32; i++) {
        out[i] ^= key[i];
    }
}

/* Whether the proof may be looked at; else nobody is told whether it is right. */
static void judge(struct store *s, struct exchange *x)
{
    struct exchange judged = { .done = false };
    store_scram_proof(s, &x->login, on_scram, &judged);
    assert_null(x->login);
    assert_false(judged.done);
    WAIT_UNTIL(judged.done);
    x->verdict = judged.verdict;
    x->login = judged.login;
}

/* The rest of an exchange, as the session does it. */
static struct outcome go_on(struct store *s, struct exchange *x, const char *password)
{
    struct outcome o = { .done = false };
    uint8_t proof[32], signature[SCRAM_KEY_MAX];
    char auth[32];
    judge(s, x);
    if (x->verdict != LOGIN_OK) {
        o.verdict = x->verdict;
        return o;
    }
    snprintf(auth, sizeof auth, "nonce %u", arc4random());
    proof_of(&x->keys, password, span_str(auth), proof);
    bool right = scram_verify(&x->keys, span_str(auth), span_of(proof, sizeof proof), signature);
    if (right) {
        store_scram_login(s, &x->login, on_login, &o);
    } else {
        store_scram_wrong(s, &x->login, on_login, &o);
    }
    assert_null(x->login);
    assert_false(o.done);
    WAIT_UNTIL(o.done);
    leave(s, &o.lease);
    settle(s);
    return o;
}

static enum login_verdict scram(struct store *s, struct client c, const char *user,
                                const char *password)
{
    struct exchange x = begin(s, c, user);
    return x.verdict == LOGIN_OK ? go_on(s, &x, password).verdict : x.verdict;
}

static void give_keys(const struct account *c, const char *password)
{
    struct scram_keys k;
    char text[SCRAM_TEXT_MAX], set[SCRAM_TEXT_MAX + 16];
    assert_int_equal(scram_derive(SCRAM_SHA_256, span_str(password), 4096, &k), ERR_OK);
    scram_format(&k, text);
    snprintf(set, sizeof set, "scram = '%s'", text);
    account_set(c, set);
}

static void test_scram(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    give_keys(&c, "right");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(scram(i ? a : b, k, c.address, "right"), LOGIN_OK);
        assert_int_equal(scram(i ? a : b, client_new(), c.address, "wrong"), LOGIN_DENIED);
    }
    assert_int_equal(scram(a, k, "USER1000@X.ORG", "wrong"), LOGIN_DENIED);
    set_delay(HOUR_MS, 1);
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(scram(b, k, c.address, "right"), LOGIN_DELAYED);
    set_delay(0, 1);
    struct exchange given_up = begin(a, k, c.address);
    store_scram_drop(&given_up.login);
    assert_null(given_up.login);
    struct outcome in = claim(a, k, LOGIN_PASSWORD, c.address, "right");
    assert_int_equal(scram(b, k, c.address, "right"), LOGIN_IN_USE);
    leave(a, &in.lease);
}

static bool same_keys(const struct exchange *x, const struct exchange *y)
{
    return x->keys.salt_n == y->keys.salt_n &&
           memcmp(x->keys.salt, y->keys.salt, x->keys.salt_n) == 0 &&
           x->keys.iterations == y->keys.iterations;
}

/* Nobody, suspended, locked, without keys: keys of the same looks, always the same, for nothing. */
static void test_scram_of_nobody(void **state)
{
    (void)state;
    struct account real = account_new(), away = account_new(), locked = account_new();
    struct account without = account_new();
    give_keys(&real, "right");
    give_keys(&away, "right");
    give_keys(&locked, "right");
    suspend(&away);
    account_set(&locked, "hash = '!' || hash");
    struct exchange r = begin(a, client_new(), real.address);
    const char *users[] = { away.address, locked.address, without.address, "nobody@x.org",
                            "no\xffutf8" };
    for (size_t i = 0; i < ARRAY_LEN(users); i++) {
        struct exchange x = begin(a, client_new(), users[i]), y = begin(b, client_new(), users[i]);
        assert_int_equal(x.verdict, LOGIN_OK);
        assert_true(same_keys(&x, &y));
        assert_false(same_keys(&x, &r));
        assert_int_equal(x.keys.salt_n, r.keys.salt_n);
        assert_int_equal(x.keys.iterations, r.keys.iterations);
        assert_int_equal(go_on(a, &x, "right").verdict, LOGIN_DENIED);
        store_scram_drop(&y.login);
    }
    store_scram_drop(&r.login);
}

/* The work before a stranger's proof, and behind a wrong one, of whoever it is; first, again. */
static void test_scram_failures_are_the_same_work(void **state)
{
    (void)state;
    struct account real = account_new(), away = account_new(), cached = account_new();
    give_keys(&real, "right");
    give_keys(&away, "right");
    give_keys(&cached, "right");
    suspend(&away);
    assert_int_equal(scram(a, client_new(), cached.address, "right"), LOGIN_OK);
    assert_int_equal(kind_for_mail(a, cached.address), ENTRY_MAILBOX);
    const char *users[] = { real.address, away.address, cached.address, "nemo@x.org" };
    for (size_t i = 0; i < ARRAY_LEN(users); i++) {
        for (unsigned again = 0; again < 2; again++) {
            struct work before = work_now();
            struct exchange x = begin(a, client_new(), users[i]);
            assert_work(work_since(before), 1, 1, 0);
            before = work_now();
            assert_int_equal(go_on(a, &x, "wrong").verdict, LOGIN_DENIED);
            assert_work(work_since(before), 1, 0, 0); /* the read is settle's */
        }
    }
}

/* A poll: whether the pair is known, address, list; no database, whoever else fails behind the same
 * address. */
static void test_scram_remembered(void **state)
{
    (void)state;
    struct account c = account_new(), victim = account_new();
    struct client k = client_new();
    give_keys(&c, "right");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(scram(a, k, c.address, "right"), LOGIN_OK);
    }
    fail_often(k, victim.address, MAX_FAILURES);
    struct work before = work_now();
    assert_int_equal(scram(b, k, c.address, "right"), LOGIN_OK);
    assert_work(work_since(before), 4, 0, 0); /* one is settle's */
    assert_int_equal(scram(a, client_new(), c.address, "right"), LOGIN_OK);
    assert_int_equal(scram(a, k, victim.address, "right"), LOGIN_BLOCKED);
    /* but guesses at it are counted */
    for (int i = 0; i < MAX_FAILURES; i++) {
        assert_int_equal(scram(i % 2 ? a : b, k, c.address, "wrong"), LOGIN_DENIED);
    }
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(scram(a, client_new(), c.address, "right"), LOGIN_OK);
}

/* A proof is never the same twice: each counts, and the next exchange does not begin. */
static void test_scram_is_guarded(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    give_keys(&c, "right");
    for (int i = 0; i < MAX_FAILURES; i++) {
        assert_int_equal(scram(i % 2 ? a : b, k, i ? c.address : "nobody@x.org", "wrong"),
                         LOGIN_DENIED);
    }
    struct work before = work_now();
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(scram(a, k, "nobody@x.org", "right"), LOGIN_BLOCKED);
    assert_work(work_since(before), 2, 0, 0); /* whether they are known */
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(scram(a, client_new(), c.address, "right"), LOGIN_OK);
}

/* Many that begin below the limit: no more proofs are looked at than one after the other. */
static void test_scram_at_once(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new();
    struct client k = client_new();
    struct exchange x[AT_ONCE], judged[AT_ONCE] = { 0 };
    unsigned looked_at = 0;
    give_keys(&c, "right");
    give_keys(&d, "right");
    for (int i = 0; i < AT_ONCE; i++) {
        x[i] = begin(i % 2 ? a : b, k, i == 2 ? d.address : c.address);
        assert_int_equal(x[i].verdict, LOGIN_OK);
    }
    for (int i = 0; i < AT_ONCE; i++) {
        store_scram_proof(i % 2 ? a : b, &x[i].login, on_scram, &judged[i]);
    }
    for (int i = 0; i < AT_ONCE; i++) {
        WAIT_UNTIL(judged[i].done);
        looked_at += judged[i].verdict == LOGIN_OK;
    }
    assert_int_equal(looked_at, MAX_FAILURES);
    for (int i = 0; i < AT_ONCE; i++) { /* broken off before it was looked at */
        store_scram_drop(&judged[i].login);
    }
    settle(a);
    settle(b);
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_OK);
}

/* Of a pair that was right too, wrong ones beyond the limit are told nothing. */
static void test_scram_of_a_neighbour_at_once(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    struct exchange x[AT_ONCE];
    struct outcome o[AT_ONCE] = { 0 };
    unsigned denied = 0;
    give_keys(&c, "right");
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_OK);
    for (int i = 0; i < AT_ONCE; i++) {
        x[i] = begin(a, k, c.address);
        judge(a, &x[i]);
        assert_int_equal(x[i].verdict, LOGIN_OK);
    }
    for (int i = 0; i < AT_ONCE; i++) {
        store_scram_wrong(a, &x[i].login, on_login, &o[i]);
    }
    for (int i = 0; i < AT_ONCE; i++) {
        WAIT_UNTIL(o[i].done);
        denied += o[i].verdict == LOGIN_DENIED;
    }
    assert_int_equal(denied, MAX_FAILURES);
    settle(a);
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_BLOCKED);
}

/* An old password blocks who has it, and not who is behind the same address. */
static void test_scram_with_an_old_password(void **state)
{
    (void)state;
    struct account stale = account_new(), other = account_new();
    struct client k = client_new();
    uint64_t most = 2 * FAILURES_OF_A_PAIR;
    give_keys(&stale, "right");
    give_keys(&other, "right");
    failures_change(a->failures, a->exempt, most, HOUR_MS);
    for (uint64_t i = 0; i < most; i++) {
        assert_int_equal(scram(a, k, stale.address, "old"), LOGIN_DENIED);
    }
    assert_int_equal(scram(a, k, stale.address, "right"), LOGIN_BLOCKED);
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_OK);
    assert_int_equal(scram(a, k, other.address, "right"), LOGIN_OK);
    for (int i = 0; i < FAILURES_OF_A_PAIR; i++) {
        assert_int_equal(scram(a, k, other.address, "wrong"), LOGIN_DENIED);
    }
    assert_int_equal(scram(a, k, account_new().address, "right"), LOGIN_BLOCKED);
    failures_change(a->failures, a->exempt, MAX_FAILURES, config->auth_failure_window);
}

static void leave_exchange(struct client k, const char *user)
{
    struct exchange x = begin(a, k, user);
    assert_int_equal(x.verdict, LOGIN_OK);
    store_scram_drop(&x.login);
    settle(a); /* the mark */
    settle(a); /* the count behind it */
}

/* Each of another user. */
static void leave_exchanges(struct client k, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char user[32];
        snprintf(user, sizeof user, "left%u@x.org", i);
        leave_exchange(k, user);
    }
}

/* Exchanges that are begun and left cost us a query each: of other users each counts. */
static void test_scram_that_is_left(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new(), owner = client_new();
    give_keys(&c, "right");
    for (unsigned i = 0; i < 2 * MAX_FAILURES; i++) {
        leave_exchange(k, "nobody@x.org");
    }
    leave_exchanges(k, MAX_FAILURES - 1);
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_BLOCKED);
    uint64_t queries = count(STAT_db_queries);
    assert_int_equal(begin(a, k, "left1000@x.org").verdict, LOGIN_BLOCKED);
    assert_int_equal(count(STAT_db_queries), queries);
    assert_int_equal(scram(a, owner, c.address, "right"), LOGIN_OK);
    leave_exchange(owner, c.address); /* of one who was in it is none */
    leave_exchanges(owner, MAX_FAILURES - 1);
    assert_int_equal(login(a, owner, account_new().address, "right"), LOGIN_OK);
    leave_exchanges(client_exempt(), 2 * MAX_FAILURES);
    assert_int_equal(login(a, client_exempt(), c.address, "right"), LOGIN_OK);
}

static void forget_everything(void)
{
    uint64_t next = cache_epoch(a->cache) + 1;
    cache_set_epoch(a->cache, next);
    cache_set_epoch(b->cache, next);
}

/* Other keys than the cached ones: a fault, not a wrong password, and the next try is right. */
static void test_scram_keys_changed(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    give_keys(&c, "right");
    for (int i = 0; i < MAX_FAILURES + 1; i++) {
        for (int known = 0; known < 2; known++) { /* cached behind the second */
            assert_int_equal(scram(a, k, c.address, i % 2 ? "other" : "right"), LOGIN_OK);
        }
        give_keys(&c, i % 2 ? "right" : "other");
        assert_int_equal(scram(a, k, c.address, i % 2 ? "right" : "other"), LOGIN_FAULT);
        assert_int_equal(scram(b, k, c.address, i % 2 ? "right" : "other"), LOGIN_OK);
        forget_everything(); /* the tombstone too */
    }
}

/* That there is nobody is remembered nowhere. */
static void test_account_made_after_its_name_was_tried(void **state)
{
    (void)state;
    struct client k = client_new(), exempt = client_exempt();
    char name[32];
    snprintf(name, sizeof name, "user%u@x.org", 1000 + accounts);
    assert_int_equal(scram(a, client_new(), name, "right"), LOGIN_DENIED);
    assert_int_equal(scram(a, exempt, name, "right"), LOGIN_DENIED);
    struct work before = work_now();
    assert_int_equal(scram(a, exempt, name, "right"), LOGIN_DENIED);
    assert_int_equal(work_since(before).queries, 1);
    struct account c = account_new();
    assert_string_equal(c.address, name);
    give_keys(&c, "right");
    assert_int_equal(scram(b, k, name, "right"), LOGIN_OK);
    assert_int_equal(kind_for_mail(a, name), ENTRY_MAILBOX);
    assert_int_equal(login(a, k, name, "right"), LOGIN_OK);
    assert_int_equal(prove(a, k, LOGIN_CERTIFICATE, name, ""), LOGIN_OK);
}

static void test_scram_bad_keys(void **state)
{
    (void)state;
    struct account c = account_new();
    account_set(&c, "scram = 'SCRAM-SHA-256$nonsense'");
    assert_int_equal(scram(a, client_new(), c.address, "right"), LOGIN_FAULT);
    assert_int_equal(login(a, client_new(), c.address, "right"), LOGIN_OK);
}

/* --- enrolment ------------------------------------------------------------------------------- */

static void test_enroll(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    uint64_t enrolled = count(STAT_scram_enrolled);
    assert_int_equal(scram(b, client_new(), c.address, "right"), LOGIN_DENIED);
    assert_int_equal(login(a, k, c.address, "wrong"), LOGIN_DENIED);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK); /* auth.enroll = no */
    a->rules.enroll = true;
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK); /* remembered: no hash, no keys */
    assert_int_equal(count(STAT_scram_enrolled), enrolled);

    struct account d = account_new();
    assert_int_equal(scram(b, client_new(), d.address, "right"), LOGIN_DENIED); /* cached */
    assert_int_equal(login(a, k, d.address, "right"), LOGIN_OK);
    WAIT_UNTIL(count(STAT_scram_enrolled) == enrolled + 1);
    assert_int_equal(postgres_sql(server,
                                  "SELECT count(*) FROM account WHERE scram LIKE"
                                  " 'SCRAM-SHA-256$4096:%%'"
                                  " AND scram NOT LIKE '%%SHA-1$%%' AND mailbox_id = %u",
                                  (unsigned)d.id),
                     1);
    settle(a);
    assert_int_equal(scram(b, k, d.address, "right"), LOGIN_OK);
    assert_int_equal(scram(b, k, d.address, "wrong"), LOGIN_DENIED);
    assert_int_equal(count(STAT_scram_enrolled), enrolled + 1);
}

/* The keys that are there stay, and the missing ones come behind them. */
static void test_enroll_sha1(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new();
    uint64_t enrolled = count(STAT_scram_enrolled);
    give_keys(&c, "right");
    a->rules.enroll = a->rules.enroll_sha1 = true;
    postgres_sql(server, "CREATE TABLE kept AS SELECT mailbox_id, scram FROM account");
    assert_int_equal(login(a, client_new(), c.address, "right"), LOGIN_OK);
    assert_int_equal(login(a, client_new(), d.address, "right"), LOGIN_OK);
    WAIT_UNTIL(count(STAT_scram_enrolled) == enrolled + 2);
    assert_int_equal(postgres_sql(server,
                                  "SELECT count(*) FROM account a JOIN kept k"
                                  " USING (mailbox_id) WHERE mailbox_id IN (%u, %u)"
                                  " AND starts_with(a.scram, k.scram) AND a.scram LIKE"
                                  " 'SCRAM-SHA-256$%% SCRAM-SHA-1$4096:%%'",
                                  (unsigned)c.id, (unsigned)d.id),
                     2);
}

static int has_keys(const struct account *c, const char *like)
{
    return postgres_sql(server,
                        "SELECT count(*) FROM account WHERE scram LIKE '%s'"
                        " AND mailbox_id = %u",
                        like, (unsigned)c->id) == 1;
}

/* Keys of another number of iterations than false ones have are made again; what stays stays. */
static void test_enroll_with_other_iterations(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new();
    uint64_t enrolled = count(STAT_scram_enrolled);
    give_keys(&c, "right");
    a->rules.enroll = a->rules.enroll_sha1 = true;
    assert_int_equal(login(a, client_new(), d.address, "right"), LOGIN_OK);
    WAIT_UNTIL(count(STAT_scram_enrolled) == enrolled + 1);
    a->rules.enroll_sha1 = false;
    a->rules.scram_iterations = b->rules.scram_iterations = 5000;
    forget_everything();
    assert_int_equal(login(a, client_new(), c.address, "right"), LOGIN_OK);
    assert_int_equal(login(a, client_new(), d.address, "right"), LOGIN_OK);
    WAIT_UNTIL(count(STAT_scram_enrolled) == enrolled + 3);
    assert_true(has_keys(&c, "SCRAM-SHA-256$5000:%") && !has_keys(&c, "% %"));
    assert_true(has_keys(&d, "SCRAM-SHA-1$4096:% SCRAM-SHA-256$5000:%"));
    struct exchange real = begin(b, client_exempt(), c.address);
    struct exchange nobody = begin(b, client_exempt(), "nobody@x.org");
    assert_int_equal(real.keys.iterations, nobody.keys.iterations);
    assert_int_equal(go_on(b, &real, "right").verdict, LOGIN_OK);
    store_scram_drop(&nobody.login);
    forget_everything();
    assert_int_equal(login(a, client_new(), c.address, "right"), LOGIN_OK); /* they are right now */
    give_keys(&d, "right");
    forget_everything();
    assert_int_equal(login(a, client_new(), d.address, "right"), LOGIN_OK);
    WAIT_UNTIL(count(STAT_scram_enrolled) == enrolled + 4);
}

/* --- a reload -------------------------------------------------------------------------------- */

/* It would ask for the volumes, and again and again: not while queries are counted. */
static void reload(struct store *s, const struct config *c)
{
    store_reload(s, c);
    uv_timer_stop(&s->volumes_timer);
}

static void test_reload(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new();
    struct client k = client_new(), gateway = client_new();
    char text[NETADDR_TEXT];
    const char *one[] = { text };
    struct config changed = *config;
    throttle_client((struct sockaddr *)&gateway.address, 64, text);
    changed.pop3_login_delay = HOUR_MS;
    changed.pop3_login_burst = 1;
    changed.pop3_lock = POP3_LOCK_NONE;
    changed.pop3_account_sessions = 1;
    changed.auth_max_failures = 1;
    changed.auth_scram_iterations = 6000;
    changed.limits_exempt = (struct config_list){ .v = one, .n = 1 };
    reload(a, &changed);
    struct outcome in = claim(a, k, LOGIN_PASSWORD, c.address, "right");
    assert_int_equal(in.verdict, LOGIN_OK);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_DELAYED);
    changed.pop3_login_delay = 0;
    reload(a, &changed);
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_SESSIONS);
    leave(a, &in.lease);
    struct exchange nobody = begin(a, client_new(), "nobody@x.org");
    assert_int_equal(nobody.keys.iterations, 6000);
    store_scram_drop(&nobody.login);
    fail_often(k, d.address, 1);
    assert_int_equal(login(a, k, d.address, "right"), LOGIN_BLOCKED);
    fail_often(gateway, d.address, 1);
    assert_int_equal(login(a, gateway, d.address, "right"), LOGIN_OK);
    reload(a, config);
    assert_int_equal(login(a, k, account_new().address, "right"), LOGIN_OK);
}

/* --- without a part -------------------------------------------------------------------------- */

/* No counting, no lease, no delay, and no harm. */
static void test_cache_down(void **state)
{
    (void)state;
    struct account c = account_new();
    struct client k = client_new();
    set_delay(HOUR_MS, 1);
    peer_kill(&server_of_cache);
    fail_often(k, c.address, 2 * MAX_FAILURES);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(login(i % 2 ? a : b, k, c.address, "right"), LOGIN_OK);
    }
    give_keys(&c, "right");
    assert_int_equal(scram(a, k, c.address, "right"), LOGIN_OK);
    assert_int_equal(scram(a, k, c.address, "wrong"), LOGIN_DENIED);
    a->rules.exclusive = false;
    a->rules.sessions = 3;
    assert_int_equal(login(a, k, c.address, "right"), LOGIN_OK);
    assert_true(memcached_start(&server_of_cache));
}

/* A fault is no wrong password, and counts for nothing. */
static void test_database_down(void **state)
{
    (void)state;
    struct account c = account_new(), d = account_new();
    struct client k = client_new();
    WAIT_UNTIL(login(a, k, d.address, "right") == LOGIN_OK &&
               login(a, k, d.address, "right") == LOGIN_OK);
    postgres_freeze(server);
    for (int i = 0; i < MAX_FAILURES; i++) {
        char user[32], wrong[16];
        snprintf(user, sizeof user, "nobody%d@x.org", i);
        snprintf(wrong, sizeof wrong, "wrong %d", i);
        assert_int_equal(login(a, k, c.address, wrong), LOGIN_FAULT);
        assert_int_equal(login(a, k, d.address, wrong), LOGIN_FAULT); /* by the cached entry */
        assert_int_equal(prove(a, k, LOGIN_TOKEN, "", user), LOGIN_FAULT);
        assert_int_equal(scram(a, k, user, "wrong"), LOGIN_FAULT);
    }
    postgres_thaw(server);
    WAIT_UNTIL(login(a, k, c.address, "right") == LOGIN_OK);
}

#define TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_right),
        TEST(test_remembered),
        TEST(test_all_failures_are_the_same_work),
        TEST(test_new_password),
        TEST(test_blocked),
        TEST(test_guesses_at_a_neighbour),
        TEST(test_known_stays),
        TEST(test_known_password),
        TEST(test_guesses_at_once),
        TEST(test_guesses_at_once_at_many),
        TEST(test_right_at_once),
        TEST(test_guesses_in_a_full_queue),
        TEST(test_unknown_users_count),
        TEST(test_the_same_wrong_password_counts_once),
        TEST(test_not_counted),
        TEST(test_a_client_that_goes_is_counted),
        TEST(test_a_client_that_goes_takes_nothing),
        TEST(test_overload),
        TEST(test_reload),
        TEST(test_delayed),
        TEST(test_delay_before_lease),
        TEST(test_in_use),
        TEST(test_sessions),
        TEST(test_fault_behind_the_lease),
        TEST(test_tokens),
        TEST(test_tokens_are_guarded),
        TEST(test_certificates),
        TEST(test_scram),
        TEST(test_scram_of_nobody),
        TEST(test_scram_failures_are_the_same_work),
        TEST(test_scram_remembered),
        TEST(test_scram_is_guarded),
        TEST(test_scram_at_once),
        TEST(test_scram_of_a_neighbour_at_once),
        TEST(test_scram_with_an_old_password),
        TEST(test_scram_that_is_left),
        TEST(test_scram_keys_changed),
        TEST(test_account_made_after_its_name_was_tried),
        TEST(test_scram_bad_keys),
        TEST(test_enroll),
        TEST(test_enroll_sha1),
        TEST(test_enroll_with_other_iterations),
        TEST(test_cache_down),
        TEST(test_database_down),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, start, stop);
}
