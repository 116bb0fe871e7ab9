/*
 * token: OAuth tokens checked in a pool, and the good ones remembered for a little while.
 *
 * A check is a job that owns a copy of the token, wiped at its end, and a share of the source (what
 * is asked, and how it is judged): a job that hangs outlives the checker. What is remembered is a
 * keyed hash, under a key that no other process has, in a table of fixed size on the loop.
 *
 * A source that fails is logged once for each cause, and once more when it is well again; how many
 * tokens that cost is a counter. Why a token is not good is logged for each, as is every login that
 * fails.
 */
#include "store/token.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"
#include "net/pool.h"
#include "store/token_parts.h"

enum {
    TOKEN_MAX = 9216,     /* what a SASL response holds */
    ENDPOINT_THREADS = 8, /* each waits for one answer */
    MAC_SIZE = 32,
    SETS = 1024, /* of remembered tokens */
    WAYS = 4,
};

struct source {
    atomic_uint refs;
    _Atomic(const char *) fault; /* that was logged last; NULL: it is well */
    struct token_http *http;     /* else */
    char *jwks_file;
    struct token_rules rules; /* of the texts */
    char *texts[4];
};

struct remembered {
    uint8_t mac[MAC_SIZE];
    uint64_t until; /* on the loop's clock; 0: none */
    char *user;
};

struct token_checker {
    struct loop *loop;
    struct pool *pool;
    struct source *source;
    uint64_t remember_ms;
    uint8_t key[MAC_SIZE];
    struct remembered *table; /* SETS * WAYS */
};

struct request {
    struct op op;
    struct job job;
    struct task told;              /* for what needs no job */
    struct token_checker *checker; /* not for the thread: it may be gone */
    struct source *source;
    token_fn *done;
    enum err result;
    struct token_answer answer;
    uint8_t mac[MAC_SIZE];
    char *token;
    size_t token_n;
};

/* --- the source ------------------------------------------------------------------------------ */

static void source_unref(struct source *s)
{
    if (atomic_fetch_sub(&s->refs, 1) > 1) {
        return;
    }
    token_http_close(&s->http);
    free(s->jwks_file);
    for (size_t i = 0; i < ARRAY_LEN(s->texts); i++) {
        free(s->texts[i]);
    }
    free(s);
}

static enum err open_kind(struct source *s, const struct config *c, char *why, size_t why_size)
{
    if (*c->oauth_introspection_url) {
        return token_http_open(c, &s->http, why, why_size);
    }
    s->jwks_file = mem_strdup(c->oauth_jwks_file);
    return token_jwt_check(s->jwks_file, why, why_size);
}

static enum err source_open(const struct config *c, struct source **out, char *why, size_t why_size)
{
    struct source *s = NEW(struct source);
    atomic_init(&s->refs, 1);
    s->rules = (struct token_rules){ .issuer = s->texts[0] = mem_strdup(c->oauth_issuer),
                                     .audience = s->texts[1] = mem_strdup(c->oauth_audience),
                                     .scope = s->texts[2] = mem_strdup(c->oauth_scope),
                                     .claim = s->texts[3] = mem_strdup(c->oauth_claim) };
    enum err e = open_kind(s, c, why, why_size);
    if (e != ERR_OK) {
        source_unref(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

/* When it begins, changes and ends, not each time: a fault that lasts concerns every login. */
static void note_health(struct source *s, const char *fault)
{
    if (atomic_exchange(&s->fault, fault) == fault) {
        return;
    }
    if (fault) {
        LOG(LOG_ERROR, "token.fault", F_STR("why", fault));
    } else {
        LOG(LOG_INFO, "token.well", F_STR("source", s->http ? "endpoint" : "file"));
    }
}

static enum err ask(struct source *s, struct span token, struct token_answer *out)
{
    json_t *claims = NULL;
    enum err e = s->http ? token_http_ask(s->http, token, &claims, &out->why)
                         : token_jwt_ask(s->jwks_file, token, &claims, &out->why);
    note_health(s, e == ERR_TEMP ? out->why : NULL);
    if (e == ERR_OK) {
        e = token_judge(&s->rules, claims, (int64_t)time(NULL), !s->http, out);
    }
    json_decref(claims);
    return e;
}

/* --- what is remembered ---------------------------------------------------------------------- */

static void make_mac(const struct token_checker *t, struct span token, uint8_t out[MAC_SIZE])
{
    CHECK(HMAC(EVP_sha256(), t->key, MAC_SIZE, (const uint8_t *)token.p, token.n, out, NULL));
}

/* The set that a token belongs to. */
static struct remembered *set_of(const struct token_checker *t, const uint8_t mac[MAC_SIZE])
{
    return &t->table[((size_t)mac[0] << 8 | mac[1]) % SETS * WAYS];
}

static const char *recall(const struct token_checker *t, const uint8_t mac[MAC_SIZE])
{
    struct remembered *set = set_of(t, mac);
    uint64_t now = loop_now(t->loop);
    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].until > now && CRYPTO_memcmp(set[i].mac, mac, MAC_SIZE) == 0) {
            return set[i].user;
        }
    }
    return NULL;
}

static uint64_t life_ms(const struct token_checker *t, int64_t expires)
{
    int64_t left = expires - (int64_t)time(NULL);
    if (expires == 0 || left > (int64_t)(t->remember_ms / 1000)) {
        return t->remember_ms;
    }
    return left > 0 ? (uint64_t)left * 1000 : 0;
}

/* In place of the same one, else of the one that ends first. */
static void remember(struct token_checker *t, const struct request *r)
{
    struct remembered *set = set_of(t, r->mac), *to = set;
    uint64_t life = life_ms(t, r->answer.expires);
    if (life == 0) {
        return;
    }
    for (size_t i = 0; i < WAYS; i++) {
        if (CRYPTO_memcmp(set[i].mac, r->mac, MAC_SIZE) == 0) {
            to = &set[i];
            break;
        }
        to = set[i].until < to->until ? &set[i] : to;
    }
    free(to->user);
    to->user = mem_strdup(r->answer.user);
    to->until = loop_now(t->loop) + life;
    memcpy(to->mac, r->mac, MAC_SIZE);
}

/* --- checking -------------------------------------------------------------------------------- */

static void on_run(struct job *j)
{
    struct request *r = CONTAINER_OF(j, struct request, job);
    r->result = ask(r->source, span_of(r->token, r->token_n), &r->answer);
}

static void tell(struct request *r, enum err e)
{
    if (e == ERR_TEMP) {
        stats_add(STAT_token_faults, 1);
    }
    if (!r->op.cancelled) {
        r->done(r->op.arg, e, span_str(e == ERR_OK ? r->answer.user : ""));
    }
}

/* A job that the pool gave up may still be running: its result is not looked at. */
static void on_done(struct job *j, enum err e)
{
    struct request *r = CONTAINER_OF(j, struct request, job);
    if (e != ERR_OK) {
        if (!r->op.cancelled) { /* a checker that is being closed is no fault */
            note_health(r->source, "no answer in time");
        }
        tell(r, ERR_TEMP);
        return;
    }
    if (r->result == ERR_OK) {
        remember(r->checker, r);
    } else if (r->result == ERR_DENIED) {
        LOG(LOG_INFO, "token.denied", F_STR("why", r->answer.why));
    }
    tell(r, r->result);
}

static void request_free(struct request *r)
{
    source_unref(r->source);
    OPENSSL_cleanse(r->token, r->token_n);
    free(r->token);
    OPENSSL_cleanse(r, sizeof *r);
    free(r);
}

static void on_free(struct job *j)
{
    request_free(CONTAINER_OF(j, struct request, job));
}

static void on_told(struct task *t)
{
    struct request *r = CONTAINER_OF(t, struct request, told);
    tell(r, r->result);
    request_free(r);
}

/* What can be told without a job; UNCERTAIN: it takes one, and that was submitted. */
static enum err tell_early(struct token_checker *t, struct request *r, struct span token)
{
    if (token.n == 0 || token.n > TOKEN_MAX) {
        return ERR_DENIED;
    }
    make_mac(t, token, r->mac);
    const char *user = recall(t, r->mac);
    if (user) {
        memcpy(r->answer.user, user, strlen(user) + 1);
        return ERR_OK;
    }
    stats_add(STAT_token_checks, 1);
    r->token = span_dup(token);
    r->token_n = token.n;
    enum err e = pool_submit(t->pool, &r->job);
    return e == ERR_OK ? ERR_UNCERTAIN : e;
}

struct op *token_check(struct token_checker *t, struct span token, token_fn *done, void *arg)
{
    struct request *r = NEW(struct request);
    r->op.arg = arg;
    r->done = done;
    r->checker = t;
    r->source = t->source;
    atomic_fetch_add(&t->source->refs, 1);
    r->job = (struct job){ .run = on_run, .done = on_done, .free = on_free };
    enum err e = tell_early(t, r, token);
    if (e != ERR_UNCERTAIN) {
        r->result = e;
        r->told.run = on_told;
        loop_post(t->loop, &r->told);
    }
    return &r->op;
}

/* --- opening --------------------------------------------------------------------------------- */

/* NULL when OAuth is not configured. */
static enum err source_of(const struct config *c, struct source **out, char *why, size_t why_size)
{
    bool endpoint = *c->oauth_introspection_url, file = *c->oauth_jwks_file;
    if (!endpoint && !file) {
        *out = NULL;
        return ERR_OK;
    }
    if (endpoint && file) {
        snprintf(why, why_size, "oauth.introspection_url and oauth.jwks_file are both set");
        return ERR_INVALID;
    }
    return source_open(c, out, why, why_size);
}

enum err token_check_config(const struct config *c, char *why, size_t why_size)
{
    struct source *s = NULL;
    enum err e = source_of(c, &s, why, why_size);
    if (e == ERR_OK && s) {
        source_unref(s);
    }
    return e;
}

enum err token_open(struct loop *l, const struct config *c, struct token_checker **out, char *why,
                    size_t why_size)
{
    struct source *s;
    bool endpoint = *c->oauth_introspection_url;
    enum err e = source_of(c, &s, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    if (!s) {
        *out = NULL;
        return ERR_OK;
    }
    json_object_seed(0); /* before threads would race for it */
    struct token_checker *t = NEW(struct token_checker);
    t->loop = l;
    t->source = s;
    t->remember_ms = c->oauth_remember;
    t->table = NEW_ARRAY(struct remembered, SETS * WAYS);
    CHECK(RAND_bytes(t->key, sizeof t->key) == 1);
    t->pool = pool_open(l, &(struct pool_options){ .name = "token",
                                                   .threads = endpoint ? ENDPOINT_THREADS
                                                                       : (unsigned)c->auth_threads,
                                                   .queue = (unsigned)c->auth_queue,
                                                   /* Some of it may be spent in the queue. */
                                                   .timeout_ms = 2 * c->oauth_timeout });
    *out = t;
    return ERR_OK;
}

void token_close(struct token_checker **tp)
{
    struct token_checker *t = *tp;
    if (t) {
        pool_close(&t->pool);
        source_unref(t->source);
        for (size_t i = 0; i < SETS * WAYS; i++) {
            free(t->table[i].user);
        }
        free(t->table);
        OPENSSL_cleanse(t, sizeof *t);
        free(t);
        *tp = NULL;
    }
}
