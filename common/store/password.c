/*
 * password: checking and making crypt(3) hashes (libxcrypt), and making SCRAM keys, off the loop.
 *
 * A check is a job that owns a copy of the secret, which is wiped as soon as it was hashed. It
 * remembers nothing: that is done by the login, with a keyed hash in the cache.
 *
 * The pool gets as many as keep its threads busy; the others wait in front of it, in lines that
 * take turns. A client has its place in one line, so those who guess by the thousand from one
 * address make nobody wait but who shares their line. Within a line they are served in order. Who
 * hangs up while he waits is passed over: else a client that has lost patience and comes again
 * would have to be paid for twice, and an overload would feed itself. Who has waited for as long as
 * he may is told to come again, and so is who finds the queue full. Nobody waits unless a job is
 * under way, and each job that ends looks at those who wait; so there is no timer.
 */
#include "store/password.h"

#include <crypt.h>
#include <errno.h>
#include <stdlib.h>

#include <openssl/crypto.h>

#include "base/check.h"
#include "base/log.h"
#include "base/stats.h"

#define CHECK_TIMEOUT_MS 20000 /* of one hash, that takes a part of a second if nothing hangs */
#define LINES            64

struct password {
    struct loop *loop;
    struct pool *pool;
    unsigned threads;
    size_t queue;     /* checks that may wait, here or in the pool */
    uint64_t wait_ms; /* for so long */
    size_t under_way; /* jobs in the pool */
    size_t waiting;   /* checks in lines */
    struct list lines[LINES];
    size_t turn; /* the line that is next */
    /* A setting as new passwords have it. Nothing is right for it: the result is not compared. */
    char dummy[CRYPT_GENSALT_OUTPUT_SIZE];
};

struct request {
    struct op op;
    struct job job;
    struct list link;    /* of a line */
    uint64_t until;      /* not begun later */
    const bool *gone;    /* nobody waits for it any more */
    struct task refused; /* for what is not done */
    enum err refusal;
    struct password *password;
    password_fn *done;
    enum err result; /* of run */
    char *secret;    /* NUL-terminated */
    size_t secret_len;
    bool hopeless; /* no secret can be right: only the time is spent */
    char hash[CRYPT_OUTPUT_SIZE];
};

/* What crypt(3) makes of a secret; nothing of it stays behind. */
static enum err hash_secret(const char *secret, const char *setting, char out[CRYPT_OUTPUT_SIZE])
{
    struct crypt_data *data = NEW(struct crypt_data); /* 32 KiB, too much for a thread's stack */
    const char *made = crypt_rn(secret, setting, data, sizeof *data);
    enum err e = ERR_OK;
    if (made) {
        memcpy(out, made, strlen(made) + 1);
    } else {
        e = errno == ENOMEM ? ERR_TEMP : errno == ERANGE ? ERR_LIMIT : ERR_INVALID;
    }
    OPENSSL_cleanse(data, sizeof *data);
    free(data);
    return e;
}

static bool hash_eq(const char *a, const char *b)
{
    size_t n = strlen(a);
    return n == strlen(b) && CRYPTO_memcmp(a, b, n) == 0;
}

/* --- checking -------------------------------------------------------------------------------- */

/*
 * The octets as the client sent them: SASLprep, which PLAIN would have (RFC 4616, section 2), would
 * change passwords whose hashes were made without it, and hashes come from other servers. SCRAM
 * keys are made of the prepared password, as SCRAM's clients prepare it.
 *
 * A secret that crypt(3) cannot take (ERANGE) is not the password of anybody; a stored hash that
 * it cannot take is a fault of ours, and must not look like a wrong password.
 */
static enum err check(const struct request *r)
{
    char made[CRYPT_OUTPUT_SIZE];
    enum err e = hash_secret(r->secret, r->hash, made);
    CHECK(!r->hopeless || e != ERR_INVALID); /* the dummy costs what it should */
    if (r->hopeless || e == ERR_LIMIT) {
        return ERR_DENIED;
    }
    if (e == ERR_OK) {
        e = hash_eq(made, r->hash) ? ERR_OK : ERR_DENIED;
        OPENSSL_cleanse(made, sizeof made);
        return e;
    }
    return e == ERR_TEMP ? ERR_TEMP : ERR_CORRUPT;
}

static void on_run(struct job *j)
{
    struct request *r = CONTAINER_OF(j, struct request, job);
    r->result = check(r);
    OPENSSL_cleanse(r->secret, r->secret_len);
}

static void tell(struct request *r, enum err e)
{
    if (!r->op.cancelled) {
        r->done(r->op.arg, e);
    }
}

static void begin_next(struct password *p);

/* A job that the pool gave up may still be running: its result is not looked at. */
static void on_done(struct job *j, enum err e)
{
    struct request *r = CONTAINER_OF(j, struct request, job);
    r->password->under_way--;
    begin_next(r->password);
    if (e != ERR_OK) {
        tell(r, ERR_TEMP);
        return;
    }
    if (r->result == ERR_CORRUPT) {
        /* Nothing of it is logged: it may be a password that somebody stored as it was. */
        LOG(LOG_ERROR, "password.bad_hash", F_STR("why", "not a hash that crypt(3) knows"));
        r->result = ERR_TEMP;
    }
    tell(r, r->result);
}

static void request_free(struct request *r)
{
    OPENSSL_cleanse(r->secret, r->secret_len);
    OPENSSL_cleanse(r->hash, sizeof r->hash);
    free(r->secret);
    free(r);
}

static void on_free(struct job *j)
{
    request_free(CONTAINER_OF(j, struct request, job));
}

static void on_refused(struct task *t)
{
    struct request *r = CONTAINER_OF(t, struct request, refused);
    tell(r, r->refusal);
    request_free(r);
}

static void refuse(struct request *r, enum err e)
{
    r->refusal = e;
    r->refused.run = on_refused;
    loop_post(r->password->loop, &r->refused);
}

/* --- lines ----------------------------------------------------------------------------------- */

/* What the pool has beyond that would wait there, where nobody takes turns. */
static bool pool_has_room(const struct password *p)
{
    return p->under_way < 2 * (size_t)p->threads;
}

static void begin(struct request *r)
{
    enum err e = pool_submit(r->password->pool, &r->job);
    if (e == ERR_OK) {
        r->password->under_way++;
        stats_add(STAT_password_checks, 1);
    } else {
        refuse(r, e);
    }
}

static void leave_line(struct request *r)
{
    list_del(&r->link);
    r->password->waiting--;
    stats_sub(STAT_password_waiting, 1);
}

/* Takes the first of a line that is still to be done, or returns NULL. */
static struct request *pop(struct list *line, uint64_t now)
{
    while (!list_empty(line)) {
        struct request *r = CONTAINER_OF(line->next, struct request, link);
        leave_line(r);
        if (!*r->gone && r->until > now) {
            return r;
        }
        refuse(r, *r->gone ? ERR_CLOSED : ERR_LIMIT);
    }
    return NULL;
}

/* The line whose turn it is, or the next one that is not empty. */
static struct request *pop_next(struct password *p)
{
    struct request *r = NULL;
    for (size_t i = 0; i < LINES && p->waiting > 0 && !r; i++) {
        r = pop(&p->lines[p->turn], loop_now(p->loop));
        p->turn = (p->turn + 1) % LINES;
    }
    return r;
}

static void begin_next(struct password *p)
{
    for (struct request *r; pool_has_room(p) && (r = pop_next(p));) {
        begin(r);
    }
}

static bool is_full(const struct password *p)
{
    return p->under_way + p->waiting >= p->threads + p->queue;
}

/* Those who have gone give up their places when somebody needs one. */
static void drop_gone(struct password *p)
{
    for (size_t i = 0; i < LINES; i++) {
        LIST_FOR_SAFE (l, &p->lines[i]) {
            struct request *r = CONTAINER_OF(l, struct request, link);
            if (*r->gone) {
                leave_line(r);
                refuse(r, ERR_CLOSED);
            }
        }
    }
}

static void wait_in_line(struct request *r, uint64_t client)
{
    struct password *p = r->password;
    r->until = loop_now(p->loop) + p->wait_ms;
    list_add(&p->lines[client % LINES], &r->link);
    p->waiting++;
    stats_add(STAT_password_waiting, 1);
}

static void admit(struct request *r, uint64_t client)
{
    struct password *p = r->password;
    if (is_full(p)) {
        drop_gone(p);
    }
    if (is_full(p)) {
        refuse(r, ERR_LIMIT);
    } else if (p->waiting == 0 && pool_has_room(p)) {
        begin(r);
    } else {
        wait_in_line(r, client);
    }
}

/*
 * No account, one whose hash was locked by hand (`!` or `*` in front, as in shadow(5)), or a
 * secret with a NUL, which crypt(3) would cut off there: nothing is right, at the usual price.
 */
static bool is_hopeless(struct span secret, const char *hash)
{
    return hash[0] == '\0' || hash[0] == '!' || hash[0] == '*' ||
           strlen(hash) >= CRYPT_OUTPUT_SIZE || span_find(secret, '\0') != secret.n;
}

struct op *password_check(struct password *p, struct span secret, const char *hash,
                          const struct password_waiter *w, password_fn *done, void *arg)
{
    struct request *r = NEW(struct request);
    list_init(&r->link);
    r->gone = w->gone;
    r->op.arg = arg;
    r->done = done;
    r->job = (struct job){ .run = on_run, .done = on_done, .free = on_free };
    r->secret = span_dup(secret);
    r->secret_len = secret.n;
    r->hopeless = is_hopeless(secret, hash);
    const char *setting = r->hopeless ? p->dummy : hash;
    memcpy(r->hash, setting, strlen(setting) + 1);
    r->password = p;
    admit(r, w->client);
    return &r->op;
}

/* --- SCRAM keys ------------------------------------------------------------------------------ */

struct derivation {
    struct op op;
    struct job job;
    struct password *password;
    password_keys_fn *done;
    enum scram_hash hashes[SCRAM_HASHES];
    size_t n;
    uint32_t iterations;
    char *secret;
    size_t secret_len;
    enum err result;
    char text[SCRAM_HASHES * SCRAM_TEXT_MAX]; /* of run, as done is given it */
};

static void derive(struct job *j)
{
    struct derivation *d = CONTAINER_OF(j, struct derivation, job);
    char *to = d->text;
    for (size_t i = 0; i < d->n && d->result == ERR_OK; i++) {
        struct scram_keys k = { .hash = d->hashes[i] };
        d->result =
            scram_derive(d->hashes[i], span_of(d->secret, d->secret_len), d->iterations, &k);
        if (d->result == ERR_OK) {
            if (i > 0) {
                *to++ = ' ';
            }
            scram_format(&k, to); /* its NUL is in SCRAM_TEXT_MAX, and gives way to the blank */
            to += strlen(to);
        }
        OPENSSL_cleanse(&k, sizeof k);
    }
    OPENSSL_cleanse(d->secret, d->secret_len);
}

static void on_derived(struct job *j, enum err e)
{
    struct derivation *d = CONTAINER_OF(j, struct derivation, job);
    d->password->under_way--;
    begin_next(d->password);
    if (d->op.cancelled) {
        return;
    }
    if (e == ERR_OK && d->result == ERR_OK) {
        d->done(d->op.arg, ERR_OK, span_str(d->text));
    } else {
        bool invalid = e == ERR_OK && d->result == ERR_INVALID;
        d->done(d->op.arg, invalid ? ERR_INVALID : ERR_TEMP, SPAN(""));
    }
}

static void derivation_free(struct derivation *d)
{
    OPENSSL_cleanse(d->secret, d->secret_len);
    OPENSSL_cleanse(d->text, sizeof d->text);
    free(d->secret);
    free(d);
}

static void on_derivation_free(struct job *j)
{
    derivation_free(CONTAINER_OF(j, struct derivation, job));
}

struct op *password_derive(struct password *p, struct span secret, const enum scram_hash *hashes,
                           size_t n, uint32_t iterations, password_keys_fn *done, void *arg)
{
    CHECK(n > 0 && n <= SCRAM_HASHES);
    if (p->waiting > 0 || !pool_has_room(p)) {
        return NULL;
    }
    struct derivation *d = NEW(struct derivation);
    *d = (struct derivation){
        .op = { .arg = arg },
        .job = { .run = derive, .done = on_derived, .free = on_derivation_free },
        .password = p,
        .done = done,
        .n = n,
        .iterations = iterations,
        .secret = span_dup(secret),
        .secret_len = secret.n
    };
    memcpy(d->hashes, hashes, n * sizeof *hashes);
    if (pool_submit(p->pool, &d->job) != ERR_OK) {
        derivation_free(d);
        return NULL;
    }
    p->under_way++;
    return &d->op;
}

/* --- open and close -------------------------------------------------------------------------- */

struct password *password_open(struct loop *l, const struct password_options *o)
{
    struct password *p = NEW(struct password);
    p->loop = l;
    p->threads = o->threads;
    p->queue = o->queue;
    p->wait_ms = o->wait_ms;
    for (size_t i = 0; i < LINES; i++) {
        list_init(&p->lines[i]);
    }
    if (!crypt_gensalt_rn(o->prefix, 0, NULL, 0, p->dummy, sizeof p->dummy)) {
        free(p);
        return NULL;
    }
    p->pool = pool_open(l, &(struct pool_options){ .name = "password",
                                                   .threads = o->threads,
                                                   .queue = 2 * o->threads,
                                                   .timeout_ms = CHECK_TIMEOUT_MS });
    return p;
}

void password_close(struct password **p)
{
    if (*p) {
        struct pool *pool = (*p)->pool; /* which is still asked for what waits, and says no */
        pool_close(&pool);
        free(*p);
        *p = NULL;
    }
}

/* --- for the operator's command -------------------------------------------------------------- */

enum err password_hash(struct span secret, const char *prefix, char *out, size_t size)
{
    char setting[CRYPT_GENSALT_OUTPUT_SIZE], made[CRYPT_OUTPUT_SIZE];
    if (span_find(secret, '\0') != secret.n ||
        !crypt_gensalt_rn(prefix, 0, NULL, 0, setting, sizeof setting)) {
        return ERR_INVALID;
    }
    char *copy = span_dup(secret);
    enum err e = hash_secret(copy, setting, made);
    OPENSSL_cleanse(copy, secret.n);
    free(copy);
    if (e == ERR_OK && strlen(made) >= size) {
        e = ERR_LIMIT;
    }
    if (e == ERR_OK) {
        memcpy(out, made, strlen(made) + 1);
    }
    return e;
}

/* Hashing anything under it must give a hash of the same shape: a bare setting is shorter. */
bool password_hash_valid(const char *text)
{
    char made[CRYPT_OUTPUT_SIZE];
    return strlen(text) < sizeof made && hash_secret("x", text, made) == ERR_OK &&
           strlen(made) == strlen(text);
}
