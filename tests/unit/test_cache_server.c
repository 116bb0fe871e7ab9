/*
 * cache_server: the protocol with a real memcached, and what a server that was taken over can do
 * with it: nothing but fail.
 */
#include "store/cache_server.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "memcached_fixture.h"

#define TIMEOUT_MS 10000 /* nothing here waits for it */

#define PIECES 200

/* --- a server that says what it is told to say ----------------------------------------------- */

static bool read_all(int fd, char *to, size_t n)
{
    for (ssize_t got; n > 0; n -= (size_t)got, to += got) {
        got = read(fd, to, n);
        if (got <= 0) {
            return false;
        }
    }
    return true;
}

/* One request: a line, and the value that `ms` announces there. */
static bool read_request(int fd)
{
    char line[4096], value[64];
    size_t n = 0, size;
    do {
        if (n == sizeof line - 1 || !read_all(fd, line + n, 1)) {
            return false;
        }
    } while (line[n++] != '\n');
    line[n] = '\0';
    if (sscanf(line, "ms %*s %zu", &size) != 1) {
        return true;
    }
    CHECK(size + 2 <= sizeof value);
    return read_all(fd, value, size + 2);
}

/* An answer for each request, on as many connections as the client likes. With pauses it goes octet
 * by octet, or in 200 pieces if it is long. */
static void play(int fd, const struct span *answers, size_t count, unsigned pause_us)
{
    int client = -1;
    for (size_t i = 0; i < count; i++) {
        while (client < 0 || !read_request(client)) {
            close(client);
            client = accept(fd, NULL, NULL);
        }
        size_t n = answers[i].n, piece = pause_us == 0 ? n : n > PIECES * 100 ? n / PIECES : 1;
        for (size_t at = 0; at < n;) {
            size_t some = piece < n - at ? piece : n - at;
            if (write(client, answers[i].p + at, some) != (ssize_t)some) {
                break;
            }
            at += some;
            usleep(pause_us);
        }
    }
    pause();
}

static void scripted(struct peer *p, const struct span *answers, size_t n, unsigned pause_us)
{
    int fd = peer_listen(p);
    if (p->pid == 0) {
        play(fd, answers, n, pause_us);
        _exit(0);
    }
    close(fd);
}

/* --- helpers --------------------------------------------------------------------------------- */

struct fixture {
    struct loop *loop;
    struct peer peer;
    struct cache_server *server;
    unsigned turns; /* of the loop, for those who waited */
};

/* A question that is waited for. */
struct asked {
    struct cache_question question;
    bool done;
    enum err err;
    uint64_t cas, number;
    char *value;
    size_t size;
};

static void on_answer(struct cache_question *q, const struct cache_answer *a)
{
    struct asked *x = CONTAINER_OF(q, struct asked, question);
    assert_false(x->done);
    x->done = true;
    x->err = a->err;
    x->cas = a->cas;
    x->number = a->number;
    if (q->verb == CACHE_VERB_GET && a->err == ERR_OK) {
        x->value = span_dup(a->value);
        x->size = a->value.n;
    }
}

static struct asked *asked_new(void)
{
    struct asked *x = NEW(struct asked);
    x->question.done = on_answer;
    return x;
}

static void run(struct fixture *f, const bool *done)
{
    while (!*done) {
        cache_server_flush(f->server);
        uv_run(loop_uv(f->loop), UV_RUN_ONCE);
        f->turns++;
    }
}

/* What became of it; refused: what it was refused with. */
static enum err await(struct fixture *f, enum err refused, struct asked *x)
{
    if (refused != ERR_OK) {
        return refused;
    }
    assert_false(x->done);
    run(f, &x->done);
    return x->err;
}

static void asked_free(struct asked *x)
{
    free(x->value);
    free(x);
}

static enum err get(struct fixture *f, const char *key, struct span want, uint64_t *cas)
{
    struct asked *x = asked_new();
    enum err e = await(f, cache_server_get(f->server, &x->question, key), x);
    if (e == ERR_OK) {
        assert_true(span_eq(span_of(x->value, x->size), want));
        *cas = x->cas;
    }
    asked_free(x);
    return e;
}

static enum err set(struct fixture *f, const char *key, struct span value, enum cache_when when,
                    uint64_t *cas)
{
    struct asked *x = asked_new();
    enum err e = await(f, cache_server_set(f->server, &x->question, key, value, 60, when, *cas), x);
    if (e == ERR_OK) {
        *cas = x->cas;
    }
    asked_free(x);
    return e;
}

static enum err put(struct fixture *f, const char *key, struct span value)
{
    uint64_t cas = 0;
    return set(f, key, value, CACHE_ALWAYS, &cas);
}

static enum err delete (struct fixture *f, const char *key, uint64_t cas) {
    struct asked *x = asked_new();
    enum err e = await(f, cache_server_delete(f->server, &x->question, key, cas), x);
    asked_free(x);
    return e;
}

static enum err count(struct fixture *f, const char *key, uint64_t more, uint64_t *n)
{
    struct asked *x = asked_new();
    enum err e = await(f, cache_server_count(f->server, &x->question, key, more, 60), x);
    *n = e == ERR_OK ? x->number : *n;
    asked_free(x);
    return e;
}

static enum err take(struct fixture *f, const char *key, uint64_t less, uint64_t *n)
{
    struct asked *x = asked_new();
    enum err e = await(f, cache_server_take(f->server, &x->question, key, less), x);
    *n = e == ERR_OK ? x->number : *n;
    asked_free(x);
    return e;
}

static enum err probe(struct fixture *f)
{
    struct asked *x = asked_new();
    enum err e = await(f, cache_server_probe(f->server, &x->question), x);
    asked_free(x);
    return e;
}

static void open_server(struct fixture *f, uint64_t timeout_ms)
{
    f->turns = 0;
    f->loop = loop_open();
    f->server = cache_server_open(f->loop, f->peer.name, timeout_ms);
}

static void open_memcached(struct fixture *f)
{
    memcached_open(&f->peer);
    open_server(f, TIMEOUT_MS);
}

static void open_scripted(struct fixture *f, const struct span *answers, size_t n,
                          unsigned pause_us, uint64_t timeout_ms)
{
    scripted(&f->peer, answers, n, pause_us);
    open_server(f, timeout_ms);
}

static void close_all(struct fixture *f)
{
    cache_server_close(&f->server);
    assert_null(f->server);
    loop_close(&f->loop);
    peer_kill(&f->peer);
}

/* --- with memcached -------------------------------------------------------------------------- */

static void test_verbs(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t cas = 0, other = 0, none = 0;
    open_memcached(&f);
    assert_int_equal(get(&f, "a", SPAN(""), &cas), ERR_NOTFOUND);
    assert_int_equal(set(&f, "a", SPAN("1\r\nEN\r\n\0"), CACHE_ALWAYS, &cas), ERR_OK);
    assert_int_equal(set(&f, "a", SPAN("2"), CACHE_ABSENT, &none), ERR_BUSY);
    assert_int_equal(set(&f, "b", SPAN(""), CACHE_ABSENT, &other), ERR_OK);
    assert_int_not_equal(cas, other);
    assert_int_equal(get(&f, "a", SPAN("1\r\nEN\r\n\0"), &none), ERR_OK);
    assert_int_equal(none, cas);
    assert_int_equal(get(&f, "b", SPAN(""), &none), ERR_OK);
    assert_int_equal(none, other);
    uint64_t old = cas;
    assert_int_equal(set(&f, "a", SPAN("3"), CACHE_SAME, &cas), ERR_OK);
    assert_int_equal(set(&f, "a", SPAN("4"), CACHE_SAME, &old), ERR_BUSY);
    assert_int_equal(set(&f, "none", SPAN("5"), CACHE_SAME, &old), ERR_NOTFOUND);
    assert_int_equal(get(&f, "a", SPAN("3"), &none), ERR_OK);
    assert_int_equal(delete (&f, "a", old), ERR_BUSY);
    assert_int_equal(delete (&f, "a", cas), ERR_OK);
    assert_int_equal(delete (&f, "a", cas), ERR_NOTFOUND);
    assert_int_equal(delete (&f, "b", 0), ERR_OK);
    assert_int_equal(get(&f, "a", SPAN(""), &none), ERR_NOTFOUND);
    assert_int_equal(probe(&f), ERR_OK);
    close_all(&f);
}

static void test_count(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t n = 7, cas;
    open_memcached(&f);
    assert_int_equal(take(&f, "n", 1, &n), ERR_NOTFOUND);
    assert_int_equal(n, 7);
    assert_int_equal(count(&f, "n", 9, &n), ERR_OK);
    assert_int_equal(n, 9);
    assert_int_equal(count(&f, "n", 91, &n), ERR_OK);
    assert_int_equal(n, 100);
    assert_int_equal(get(&f, "n", SPAN("100"), &cas), ERR_OK);
    assert_int_equal(take(&f, "n", 91, &n), ERR_OK);
    assert_int_equal(n, 9);
    assert_int_equal(count(&f, "n", 1, &n), ERR_OK); /* whatever it is filled up with */
    assert_int_equal(n, 10);
    assert_int_equal(take(&f, "n", 11, &n), ERR_OK);
    assert_int_equal(n, 0);
    assert_int_equal(put(&f, "n", SPAN("18446744073709551615")), ERR_OK);
    assert_int_equal(count(&f, "n", 2, &n), ERR_CORRUPT); /* memcached begins anew */
    assert_int_equal(put(&f, "n", SPAN("no number")), ERR_OK);
    assert_int_equal(count(&f, "n", 1, &n), ERR_CORRUPT);
    assert_int_equal(n, 0);
    assert_int_equal(probe(&f), ERR_OK); /* it did answer */
    close_all(&f);
}

static void test_long_value(void **state)
{
    (void)state;
    enum { LONG = 900 * 1024, TOO_LONG = 1100 * 1024 };
    struct fixture f;
    uint64_t cas;
    open_memcached(&f);
    char *octets = NEW_ARRAY(char, TOO_LONG);
    for (size_t i = 0; i < LONG; i++) {
        octets[i] = (char)(i * 31 + i / 256);
    }
    assert_int_equal(put(&f, "long", span_of(octets, LONG)), ERR_OK);
    assert_int_equal(get(&f, "long", span_of(octets, LONG), &cas), ERR_OK);
    assert_int_equal(put(&f, "long", span_of(octets, TOO_LONG)), ERR_LIMIT);
    assert_int_equal(put(&f, "long", SPAN("short")), ERR_OK); /* it did answer */
    assert_int_equal(get(&f, "long", SPAN("short"), &cas), ERR_OK);
    free(octets);
    close_all(&f);
}

/* What is asked in one turn is answered in its order, long values among short ones. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 2000, LONG = 500000 };
    struct fixture f;
    char *octets = NEW_ARRAY(char, LONG);
    struct asked *x[MANY];
    open_memcached(&f);
    assert_int_equal(put(&f, "k0", span_of(octets, LONG)), ERR_OK);
    for (int i = 1; i < 100; i++) {
        char key[16], value[16];
        snprintf(key, sizeof key, "k%d", i);
        snprintf(value, sizeof value, "%d", i);
        assert_int_equal(put(&f, key, span_str(value)), ERR_OK);
    }
    for (int i = 0; i < MANY; i++) {
        char key[16];
        x[i] = asked_new();
        snprintf(key, sizeof key, "k%d", i % 100);
        assert_int_equal(cache_server_get(f.server, &x[i]->question, key), ERR_OK);
    }
    for (int i = 0; i < MANY; i++) {
        char value[16];
        snprintf(value, sizeof value, "%d", i % 100);
        run(&f, &x[i]->done);
        assert_int_equal(x[i]->err, ERR_OK);
        assert_true(i % 100 ? span_eq(span_of(x[i]->value, x[i]->size), span_str(value))
                            : x[i]->size == LONG);
        asked_free(x[i]);
    }
    free(octets);
    close_all(&f);
}

/* More than may wait is refused, and what waits is answered. */
static void test_bounds(void **state)
{
    (void)state;
    enum { PIECE = 1000000 };
    struct fixture f;
    char *octets = NEW_ARRAY(char, PIECE);
    struct asked *x[1000];
    size_t n = 0;
    open_memcached(&f);
    enum err e = ERR_OK;
    while (e == ERR_OK) {
        assert_true(n < ARRAY_LEN(x));
        x[n] = asked_new();
        e = cache_server_set(f.server, &x[n]->question, "k", span_of(octets, PIECE), 60,
                             CACHE_ALWAYS, 0);
        n += e == ERR_OK;
    }
    assert_int_equal(e, ERR_LIMIT);
    assert_in_range(n * PIECE, 10000000, 100000000);
    asked_free(x[n]);
    for (size_t i = 0; i < n; i++) {
        run(&f, &x[i]->done);
        assert_int_equal(x[i]->err, ERR_OK);
        asked_free(x[i]);
    }
    free(octets);
    close_all(&f);
}

static void turn(struct fixture *f)
{
    uv_run(loop_uv(f->loop), UV_RUN_NOWAIT);
}

/* The end of an idle connection is no failure; the next one has another number. */
static void test_restarted(void **state)
{
    (void)state;
    struct fixture f;
    open_memcached(&f);
    assert_int_equal(put(&f, "a", SPAN("1")), ERR_OK);
    uint64_t number = cache_server_connection(f.server);
    assert_int_equal(put(&f, "a", SPAN("1")), ERR_OK);
    assert_int_equal(cache_server_connection(f.server), number);
    peer_kill(&f.peer);
    turn(&f);
    assert_true(memcached_start(&f.peer));
    assert_int_equal(put(&f, "a", SPAN("2")), ERR_OK);
    assert_int_not_equal(cache_server_connection(f.server), number);
    close_all(&f);
}

/* --- with others ----------------------------------------------------------------------------- */

/* What became of it; a failure opens the breaker, and nothing else does. */
static enum err get_from(const struct span *answer, struct span want)
{
    struct fixture f;
    uint64_t cas;
    open_scripted(&f, answer, 1, 0, TIMEOUT_MS);
    enum err e = get(&f, "key", want, &cas);
    struct asked *x = asked_new();
    enum err next = cache_server_probe(f.server, &x->question);
    assert_int_equal(next, e == ERR_TEMP ? ERR_TEMP : ERR_OK);
    close_all(&f);
    assert_int_equal(x->done, next == ERR_OK); /* what waits ends with the server */
    asked_free(x);
    return e;
}

static void test_get_junk(void **state)
{
    (void)state;
    static char endless[4 << 20], huge[15 + 3000000 + 2];
    memcpy(huge, "VA 3000000 c1\r\n", 15);
    memcpy(huge + 15 + 3000000, "\r\n", 2);
    memset(endless, 'V', sizeof endless);
    const struct span answers[] = {
        SPAN("\r\n"),
        SPAN("\n"),
        SPAN("EN\n"),
        SPAN("OK\r\n"),
        SPAN("ERROR\r\n"),
        SPAN("HD\r\n"),
        SPAN("HD c1\r\n"),
        SPAN("NF\r\n"),
        SPAN("NS\r\n"),
        SPAN("EX\r\n"),
        SPAN("MN\r\n"),
        SPAN("ENE\r\n"),
        SPAN("en\r\n"),
        SPAN("END\r\n"),
        SPAN("SERVER_ERROR out of memory\r\n"),
        SPAN("CLIENT_ERROR bad command line format\r\n"),
        SPAN("VERSION 1.6.18\r\n"),
        SPAN("VALUE key 0 1 1\r\nx\r\nEND\r\n"),
        SPAN("VA\r\n"),
        SPAN("VA 1\r\nx\r\n"),
        SPAN("VA 1 c0\r\nx\r\n"),
        SPAN(" VA 1 c1\r\nx\r\n"),
        SPAN("VA 1 c\r\nx\r\n"),
        SPAN("VA 1 cx\r\nx\r\n"),
        SPAN("VA 1 c-1\r\nx\r\n"),
        SPAN("VA -1 c1\r\nx\r\n"),
        SPAN("VA c1 1\r\nx\r\n"),
        SPAN("VA 18446744073709551614 c1\r\nx\r\n"),
        span_of(huge, sizeof huge), /* sound, but no item of ours is as long */
        SPAN("VA 1 c99999999999999999999\r\nx\r\n"),
        SPAN("VA 1 c1\r\nx12"),
        span_of(endless, sizeof endless),
    };
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        assert_int_equal(get_from(&answers[i], SPAN("x")), ERR_TEMP);
    }
}

static void test_get_good(void **state)
{
    (void)state;
    struct span answer = SPAN("VA 3 W c18446744073709551615 t-1 kkey\r\n\r\n\0\r\n");
    struct span none = SPAN("EN\r\n");
    assert_int_equal(get_from(&answer, SPAN("\r\n\0")), ERR_OK);
    assert_int_equal(get_from(&none, SPAN("")), ERR_NOTFOUND);
}

static void test_set_answers(void **state)
{
    (void)state;
    const struct {
        struct span answer;
        enum err e;
    } cases[] = {
        { SPAN("HD c1\r\n"), ERR_OK },
        { SPAN("NS c0\r\n"), ERR_BUSY },
        { SPAN("EX c0\r\n"), ERR_BUSY },
        { SPAN("NF c0\r\n"), ERR_NOTFOUND },
        { SPAN("SERVER_ERROR out of memory storing object\r\n"), ERR_LIMIT },
        { SPAN("HD\r\n"), ERR_TEMP },
        { SPAN("HD c0\r\n"), ERR_TEMP },
        { SPAN("HD c1 and\n"), ERR_TEMP },
        { SPAN("ERROR\r\n"), ERR_TEMP },
        { SPAN("CLIENT_ERROR bad data chunk\r\n"), ERR_TEMP },
        { SPAN("EN\r\n"), ERR_TEMP },
        { SPAN("MN\r\n"), ERR_TEMP },
        { SPAN("STORED\r\n"), ERR_TEMP },
        { SPAN("VA 1 c1\r\nx\r\n"), ERR_TEMP },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f;
        open_scripted(&f, &cases[i].answer, 1, 0, TIMEOUT_MS);
        assert_int_equal(put(&f, "key", SPAN("value")), cases[i].e);
        close_all(&f);
    }
}

static void test_count_answers(void **state)
{
    (void)state;
    const struct {
        struct span answer;
        enum err e;
    } cases[] = {
        { SPAN("VA 1\r\n8\r\n"), ERR_OK },
        { SPAN("VA 20\r\n18446744073709551615\r\n"), ERR_OK },
        { SPAN("VA 3\r\n8  \r\n"), ERR_OK },
        { SPAN("VA 1\r\n2\r\n"), ERR_CORRUPT }, /* less than was added */
        { SPAN("NS\r\n"), ERR_BUSY },
        { SPAN("CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"), ERR_CORRUPT },
        { SPAN("SERVER_ERROR out of memory in incr\r\n"), ERR_LIMIT },
        { SPAN("VA 20\r\n18446744073709551616\r\n"), ERR_TEMP },
        { SPAN("VA 2\r\n-1\r\n"), ERR_TEMP },
        { SPAN("VA 3\r\n8 9\r\n"), ERR_TEMP },
        { SPAN("VA 2\r\n8x\r\n"), ERR_TEMP },
        { SPAN("VA 0\r\n\r\n"), ERR_TEMP },
        { SPAN("HD\r\n"), ERR_TEMP },
        { SPAN("8\r\n"), ERR_TEMP },
        { SPAN("ERROR\r\n"), ERR_TEMP },
        { SPAN("CLIENT_ERROR invalid numeric delta argument\r\n"), ERR_TEMP },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f;
        uint64_t n = 7;
        open_scripted(&f, &cases[i].answer, 1, 0, TIMEOUT_MS);
        assert_int_equal(count(&f, "key", 3, &n), cases[i].e);
        assert_int_equal(n == 7, cases[i].e != ERR_OK);
        close_all(&f);
    }
}

/* What is left over of one answer is never taken for the next. */
static void test_left_over(void **state)
{
    (void)state;
    const struct span answers[] = { SPAN("HD c1\r\nEX c0\r\n"), SPAN("HD c1\r\n") };
    struct fixture f;
    open_scripted(&f, answers, ARRAY_LEN(answers), 0, TIMEOUT_MS);
    uint64_t number = cache_server_connection(f.server);
    assert_int_equal(put(&f, "key", SPAN("value")), ERR_OK);
    enum err e;
    do { /* the breaker is open for a moment */
        turn(&f);
        e = put(&f, "key", SPAN("value"));
    } while (e == ERR_TEMP);
    assert_int_equal(e, ERR_OK);
    assert_int_not_equal(cache_server_connection(f.server), number);
    close_all(&f);
}

static void test_octet_by_octet(void **state)
{
    (void)state;
    struct span answer = SPAN("VA 5 c9\r\nva\r\nl\r\n");
    struct fixture f;
    uint64_t cas;
    open_scripted(&f, &answer, 1, 1000, TIMEOUT_MS);
    assert_int_equal(get(&f, "key", SPAN("va\r\nl"), &cas), ERR_OK);
    assert_int_equal(cas, 9);
    close_all(&f);
}

/* The loop turns for a long value when all of it is there, and for the short one behind it. */
static void test_long_value_in_pieces(void **state)
{
    (void)state;
    enum { LONG = 300000 };
    static char text[14 + LONG + 2];
    memset(text, 'x', sizeof text);
    memcpy(text, "VA 300000 c1\r\n", 14);
    memcpy(text + 14 + LONG, "\r\n", 2);
    const struct span answers[] = { span_of(text, sizeof text), SPAN("EN\r\n") };
    struct fixture f;
    uint64_t cas;
    open_scripted(&f, answers, ARRAY_LEN(answers), 1000, TIMEOUT_MS);
    assert_int_equal(get(&f, "key", span_of(text + 14, LONG), &cas), ERR_OK);
    assert_in_range(f.turns, 1, PIECES / 4);
    assert_int_equal(get(&f, "key", SPAN(""), &cas), ERR_NOTFOUND);
    close_all(&f);
}

/* The deadline is for the whole answer: octets that drip in do not extend it. */
static void test_drip(void **state)
{
    (void)state;
    static char drip[10000];
    memset(drip, 'x', sizeof drip);
    memcpy(drip, "VA 9000 c1\r\n", 12);
    struct span answer = span_of(drip, sizeof drip);
    struct fixture f;
    uint64_t cas;
    open_scripted(&f, &answer, 1, 20000, 100);
    assert_int_equal(get(&f, "key", SPAN(""), &cas), ERR_TEMP); /* 200 seconds for all of it */
    close_all(&f);
}

/* All that waits ends with the first that is not answered, and not each after a time-out. */
static void test_silent(void **state)
{
    (void)state;
    enum { MANY = 300 };
    struct fixture f;
    struct asked *x[MANY];
    open_scripted(&f, NULL, 0, 0, 300);
    uint64_t begun = now_ms();
    for (size_t i = 0; i < MANY; i++) {
        x[i] = asked_new();
        assert_int_equal(cache_server_get(f.server, &x[i]->question, "key"), ERR_OK);
    }
    for (size_t i = 0; i < MANY; i++) {
        run(&f, &x[i]->done);
        assert_int_equal(x[i]->err, ERR_TEMP);
        asked_free(x[i]);
    }
    assert_true(now_ms() - begun < (MANY / 2) * 300); /* 90 seconds else */
    close_all(&f);
}

static void run_until(struct fixture *f, uint64_t until)
{
    while (now_ms() < until) {
        cache_server_flush(f->server);
        turn(f);
    }
}

/* That it is late again, with what it is asked next: well within the second that the first was
 * waited for. */
static bool is_noticed(struct fixture *f)
{
    struct asked *x = asked_new(), *y = asked_new();
    peer_freeze(&f->peer);
    assert_int_equal(cache_server_get(f->server, &x->question, "a"), ERR_OK);
    run_until(f, now_ms() + 400);
    bool noticed = cache_server_get(f->server, &y->question, "a") == ERR_TEMP;
    kill(f->peer.pid, SIGCONT);
    run(f, &x->done);
    if (!noticed) {
        run(f, &y->done);
    }
    asked_free(x);
    asked_free(y);
    return noticed;
}

/*
 * A late answer is one all the same, on the same connection; meanwhile nothing else is asked. When
 * the machine stalls for a second it is given up: once more.
 */
static void test_late(void **state)
{
    (void)state;
    enum err e = ERR_TEMP;
    for (int i = 0; i < 10 && e == ERR_TEMP; i++) {
        struct fixture f;
        struct asked *x = asked_new(), *y = asked_new(), *z = asked_new();
        memcached_open(&f.peer);
        open_server(&f, 200);
        assert_int_equal(put(&f, "a", SPAN("1")), ERR_OK);
        uint64_t number = cache_server_connection(f.server), until = now_ms() + 300;
        peer_freeze(&f.peer);
        assert_int_equal(cache_server_get(f.server, &x->question, "a"), ERR_OK);
        run_until(&f, until);
        assert_false(x->done && x->err == ERR_OK);
        assert_int_equal(cache_server_get(f.server, &y->question, "a"), ERR_TEMP);
        bool asks = cache_server_delete(f.server, &z->question, "a", 0) == ERR_OK;
        assert_int_equal(asks, !x->done);
        kill(f.peer.pid, SIGCONT);
        run(&f, &x->done);
        e = x->err;
        assert_true(e == ERR_TEMP || number == cache_server_connection(f.server));
        assert_true(e == ERR_TEMP || put(&f, "a", SPAN("2")) == ERR_OK);
        assert_true(e == ERR_TEMP || (z->done && z->err == ERR_OK));
        assert_true(e == ERR_TEMP || is_noticed(&f));
        close_all(&f);
        asked_free(x);
        asked_free(y);
        asked_free(z);
    }
    assert_int_equal(e, ERR_OK);
}

/* Answers what it has not read, and then reads no more. */
static void play_hasty(int fd)
{
    char some[16];
    int client = accept(fd, NULL, NULL);
    CHECK(read_all(client, some, sizeof some));
    CHECK(write(client, "HD c1\r\n", 7) == 7);
    pause();
}

/* What is asked behind a request that it took no more of has a deadline all the same. */
static void test_hasty(void **state)
{
    (void)state;
    enum { LONG = 32 << 20 }; /* more than the buffers of sockets */
    struct fixture f;
    char *octets = NEW_ARRAY(char, LONG);
    uint64_t cas;
    int fd = peer_listen(&f.peer);
    if (f.peer.pid == 0) {
        play_hasty(fd);
        _exit(0);
    }
    close(fd);
    open_server(&f, 100);
    assert_int_equal(put(&f, "a", span_of(octets, LONG)), ERR_OK);
    assert_int_equal(get(&f, "b", SPAN(""), &cas), ERR_TEMP); /* else it waits for ever */
    close_all(&f);
    free(octets);
}

/* A server that says nothing is asked once, and then left alone for a while. */
static void test_breaker(void **state)
{
    (void)state;
    struct fixture f;
    int fd = bind_any(&f.peer.port), accepted = 0;
    assert_int_equal(listen(fd, 1000), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    snprintf(f.peer.name, sizeof f.peer.name, "127.0.0.1:%u", f.peer.port);
    f.peer.pid = 0;
    open_server(&f, 100);
    uint64_t cas;
    for (int i = 0; i < 500; i++) {
        assert_int_equal(get(&f, "key", SPAN(""), &cas), ERR_TEMP);
    }
    for (int client; (client = accept(fd, NULL, NULL)) >= 0; close(client)) {
        accepted++;
    }
    assert_in_range(accepted, 1, 20);
    close_all(&f);
    close(fd);
}

static void test_refused(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t cas;
    memcached_open(&f.peer);
    peer_kill(&f.peer);
    open_server(&f, TIMEOUT_MS);
    assert_int_equal(get(&f, "key", SPAN(""), &cas), ERR_TEMP); /* at once, and not inline */
    close_all(&f);
}

static void test_no_such_host(void **state)
{
    (void)state;
    struct fixture f = { .peer.name = "127.0.0.1:port" };
    uint64_t cas;
    open_server(&f, TIMEOUT_MS);
    assert_int_equal(get(&f, "key", SPAN(""), &cas), ERR_TEMP);
    close_all(&f);
}

/* A name is looked up while what was asked waits, and any of its addresses will do. */
static void test_by_name(void **state)
{
    (void)state;
    struct fixture f;
    memcached_open(&f.peer);
    snprintf(f.peer.name, sizeof f.peer.name, "localhost:%u", f.peer.port);
    open_server(&f, TIMEOUT_MS);
    assert_int_equal(put(&f, "a", SPAN("1")), ERR_OK);
    close_all(&f);
}

static void test_name(void **state)
{
    (void)state;
    static const struct {
        const char *name, *host;
        uint16_t port;
    } cases[] = {
        { "cache1:11212", "cache1", 11212 },       { "cache1", "cache1", 11211 },
        { "[::1]:11212", "::1", 11212 },           { "[::1]", "::1", 11211 },
        { "10.0.0.1:1", "10.0.0.1", 1 },           { "cache1:0x1", "cache1:0x1", 11211 },
        { "cache1:65536", "cache1:65536", 11211 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char host[64];
        uint16_t port;
        cache_server_name(cases[i].name, host, sizeof host, &port);
        assert_string_equal(host, cases[i].host);
        assert_int_equal(port, cases[i].port);
    }
    char cut[5];
    uint16_t port;
    cache_server_name("a.very.long.name:1", cut, sizeof cut, &port);
    assert_string_equal(cut, "a.ve");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verbs),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_long_value),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_restarted),
        cmocka_unit_test(test_get_junk),
        cmocka_unit_test(test_get_good),
        cmocka_unit_test(test_set_answers),
        cmocka_unit_test(test_count_answers),
        cmocka_unit_test(test_left_over),
        cmocka_unit_test(test_octet_by_octet),
        cmocka_unit_test(test_long_value_in_pieces),
        cmocka_unit_test(test_drip),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_silent),
        cmocka_unit_test(test_hasty),
        cmocka_unit_test(test_breaker),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_such_host),
        cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_name),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
