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

/* One request: a line, and the value that `set` announces there. */
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
    if (sscanf(line, "set %*s %*u %*u %zu", &size) != 1) {
        return true;
    }
    CHECK(size + 2 <= sizeof value);
    return read_all(fd, value, size + 2);
}

/* An answer for each request, on as many connections as the client likes. */
static void play(int fd, const struct span *answers, size_t n, unsigned pause_us)
{
    int client = -1;
    for (size_t i = 0; i < n; i++) {
        while (client < 0 || !read_request(client)) {
            close(client);
            client = accept(fd, NULL, NULL);
        }
        for (size_t at = 0; at < answers[i].n;) {
            size_t some = pause_us ? 1 : answers[i].n;
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

static struct cache_server_item item(const char *key)
{
    struct cache_server_item it = { .value = NULL };
    snprintf(it.key, sizeof it.key, "%s", key);
    return it;
}

static enum err get(struct cache_server *s, struct cache_server_item *items, size_t n)
{
    struct cache_server_item *p[16];
    for (size_t i = 0; i < n; i++) {
        p[i] = &items[i];
    }
    return cache_server_get(s, p, n);
}

static void assert_value(struct cache_server_item *it, struct span want)
{
    assert_non_null(it->value);
    assert_true(span_eq(span_of(it->value, it->size), want));
    free(it->value);
    it->value = NULL;
}

/* --- with memcached -------------------------------------------------------------------------- */

static void test_verbs(void **state)
{
    (void)state;
    struct peer p;
    memcached_open(&p);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    struct cache_server_item it[] = { item("a"), item("b"), item("a"), item("none") };
    assert_int_equal(cache_server_set(s, "a", SPAN("1\r\nEND\r\n\0"), 60), ERR_OK);
    assert_int_equal(cache_server_add(s, "a", SPAN("2"), 60), ERR_BUSY);
    assert_int_equal(cache_server_add(s, "b", SPAN(""), 60), ERR_OK);
    assert_int_equal(get(s, it, 4), ERR_OK);
    uint64_t cas = it[0].cas;
    assert_value(&it[0], SPAN("1\r\nEND\r\n\0"));
    assert_value(&it[1], SPAN(""));
    assert_value(&it[2], SPAN("1\r\nEND\r\n\0"));
    assert_null(it[3].value);
    assert_int_equal(cache_server_cas(s, "a", SPAN("3"), 60, cas), ERR_OK);
    assert_int_equal(cache_server_cas(s, "a", SPAN("4"), 60, cas), ERR_BUSY);
    assert_int_equal(cache_server_cas(s, "none", SPAN("5"), 60, cas), ERR_NOTFOUND);
    assert_int_equal(get(s, it, 1), ERR_OK);
    assert_value(&it[0], SPAN("3"));
    assert_int_equal(cache_server_delete(s, "a"), ERR_OK);
    assert_int_equal(cache_server_delete(s, "a"), ERR_NOTFOUND);
    assert_int_equal(get(s, it, 1), ERR_OK);
    assert_null(it[0].value);
    cache_server_close(&s);
    peer_kill(&p);
}

static void test_incr(void **state)
{
    (void)state;
    struct peer p;
    memcached_open(&p);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    struct cache_server_item it = item("n");
    uint64_t n = 7;
    assert_int_equal(cache_server_incr(s, "n", 1, &n), ERR_NOTFOUND);
    assert_int_equal(n, 7);
    assert_int_equal(cache_server_add(s, "n", SPAN("9"), 60), ERR_OK);
    assert_int_equal(cache_server_incr(s, "n", 1, &n), ERR_OK);
    assert_int_equal(n, 10);
    assert_int_equal(cache_server_incr(s, "n", 90, &n), ERR_OK);
    assert_int_equal(n, 100);
    assert_int_equal(get(s, &it, 1), ERR_OK);
    assert_value(&it, SPAN("100"));
    assert_int_equal(cache_server_decr(s, "none", 1, &n), ERR_NOTFOUND);
    assert_int_equal(cache_server_decr(s, "n", 91, &n), ERR_OK);
    assert_int_equal(n, 9);
    assert_int_equal(cache_server_incr(s, "n", 1, &n), ERR_OK); /* whatever it is filled up with */
    assert_int_equal(n, 10);
    assert_int_equal(cache_server_decr(s, "n", 11, &n), ERR_OK);
    assert_int_equal(n, 0);
    assert_int_equal(cache_server_incr(s, "n", 100, &n), ERR_OK);
    assert_int_equal(cache_server_set(s, "n", SPAN("18446744073709551615"), 60), ERR_OK);
    assert_int_equal(cache_server_incr(s, "n", 2, &n), ERR_CORRUPT); /* memcached begins anew */
    assert_int_equal(cache_server_set(s, "n", SPAN("no number"), 60), ERR_OK);
    assert_int_equal(cache_server_incr(s, "n", 1, &n), ERR_CORRUPT);
    assert_int_equal(n, 100);
    assert_int_equal(cache_server_pause(s), 0); /* it did answer */
    cache_server_close(&s);
    peer_kill(&p);
}

static void test_long_value(void **state)
{
    (void)state;
    enum { LONG = 900 * 1024, TOO_LONG = 1100 * 1024 };
    struct peer p;
    memcached_open(&p);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    char *octets = NEW_ARRAY(char, TOO_LONG);
    struct cache_server_item it = item("long");
    for (size_t i = 0; i < LONG; i++) {
        octets[i] = (char)(i * 31 + i / 256);
    }
    assert_int_equal(cache_server_set(s, "long", span_of(octets, LONG), 60), ERR_OK);
    assert_int_equal(get(s, &it, 1), ERR_OK);
    assert_value(&it, span_of(octets, LONG));
    assert_int_equal(cache_server_set(s, "long", span_of(octets, TOO_LONG), 60), ERR_LIMIT);
    assert_int_equal(cache_server_pause(s), 0); /* it did answer */
    assert_int_equal(cache_server_set(s, "long", SPAN("short"), 60), ERR_OK);
    free(octets);
    cache_server_close(&s);
    peer_kill(&p);
}

/* The end of an idle connection is no failure. */
static void test_restarted(void **state)
{
    (void)state;
    struct peer p;
    memcached_open(&p);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    assert_int_equal(cache_server_set(s, "a", SPAN("1"), 60), ERR_OK);
    peer_kill(&p);
    assert_true(memcached_start(&p));
    assert_int_equal(cache_server_add(s, "a", SPAN("2"), 60), ERR_OK);
    cache_server_close(&s);
    peer_kill(&p);
}

/* --- with others ----------------------------------------------------------------------------- */

static enum err get_from(const struct span *answer, struct cache_server_item *items, size_t n)
{
    struct peer p;
    scripted(&p, answer, 1, 0);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    enum err e = get(s, items, n);
    assert_true(e == ERR_OK || cache_server_pause(s) > 0);
    cache_server_close(&s);
    peer_kill(&p);
    return e;
}

static void test_get_junk(void **state)
{
    (void)state;
    static char endless[4 << 20], long_key[400] = "VALUE ", huge[23 + 3000000 + 7];
    memcpy(huge, "VALUE key 0 3000000 1\r\n", 23);
    memcpy(huge + 23 + 3000000, "\r\nEND\r\n", 7);
    memset(endless, 'V', sizeof endless);
    memset(long_key + 6, 'k', 340);
    strcat(long_key, " 0 1 1\r\nx\r\nEND\r\n");
    const struct span answers[] = {
        SPAN("\r\n"),
        SPAN("OK\r\n"),
        SPAN("ERROR\r\n"),
        SPAN("STORED\r\n"),
        SPAN("SERVER_ERROR out of memory\r\n"),
        SPAN("VERSION 1.6.18\r\n"),
        SPAN("VALUE\r\n"),
        SPAN("VALUE key 0\r\n"),
        SPAN("VALUE key 0 1\r\nx\r\nEND\r\n"),
        SPAN("VALUE key 0 1 1 1\r\nx\r\nEND\r\n"),
        SPAN("VALUE key 0 -1 1\r\nx\r\nEND\r\n"),
        SPAN("VALUE key 0 18446744073709551614 1\r\nx\r\nEND\r\n"),
        span_of(huge, sizeof huge), /* sound, but no item of ours is as long */
        SPAN("VALUE key 0 1 99999999999999999999\r\nx\r\nEND\r\n"),
        SPAN("VALUE key 0 1 1\r\nx12END\r\n"),
        SPAN("VALUE key 0 1 1\r\nx\r\nVALUE key 0 1 1\r\nx\r\nEND\r\n"),
        SPAN("VALUE kez 0 1 1\r\nx\r\nEND\r\n"),
        SPAN("value key 0 1 1\r\nx\r\nEND\r\n"),
        span_str(long_key),
        span_of(endless, sizeof endless),
    };
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct cache_server_item it = item("key");
        assert_int_equal(get_from(&answers[i], &it, 1), ERR_TEMP);
        free(it.value);
    }
}

static void test_get_good(void **state)
{
    (void)state;
    struct cache_server_item it[] = { item("a"), item("b"), item("c") };
    struct span answer = SPAN("VALUE b 7 3 18446744073709551615\r\n\r\n\0\r\nEND\r\n");
    assert_int_equal(get_from(&answer, it, 3), ERR_OK);
    assert_null(it[0].value);
    assert_null(it[2].value);
    assert_true(it[1].cas == UINT64_MAX);
    assert_value(&it[1], SPAN("\r\n\0"));
}

static void test_store_answers(void **state)
{
    (void)state;
    const struct {
        struct span answer;
        enum err e;
    } cases[] = {
        { SPAN("STORED\r\n"), ERR_OK },
        { SPAN("NOT_STORED\r\n"), ERR_BUSY },
        { SPAN("EXISTS\r\n"), ERR_BUSY },
        { SPAN("NOT_FOUND\r\n"), ERR_NOTFOUND },
        { SPAN("SERVER_ERROR out of memory storing object\r\n"), ERR_LIMIT },
        { SPAN("ERROR\r\n"), ERR_TEMP },
        { SPAN("CLIENT_ERROR bad data chunk\r\n"), ERR_TEMP },
        { SPAN("END\r\n"), ERR_TEMP },
        { SPAN("OK\r\n"), ERR_TEMP },
        { SPAN("VERSION 1\r\n"), ERR_TEMP },
        { SPAN("STORED and more\r\n"), ERR_TEMP },
        { SPAN("VALUE key 0 1 1\r\nx\r\nEND\r\n"), ERR_TEMP },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct peer p;
        scripted(&p, &cases[i].answer, 1, 0);
        struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
        assert_int_equal(cache_server_set(s, "key", SPAN("value"), 60), cases[i].e);
        assert_int_equal(cache_server_pause(s) > 0, cases[i].e == ERR_TEMP);
        cache_server_close(&s);
        peer_kill(&p);
    }
}

static void test_incr_answers(void **state)
{
    (void)state;
    const struct {
        struct span answer;
        enum err e;
    } cases[] = {
        { SPAN("8\r\n"), ERR_OK },
        { SPAN("18446744073709551615\r\n"), ERR_OK },
        { SPAN("2\r\n"), ERR_CORRUPT }, /* less than was added */
        { SPAN("NOT_FOUND\r\n"), ERR_NOTFOUND },
        { SPAN("CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"), ERR_CORRUPT },
        { SPAN("SERVER_ERROR out of memory in incr\r\n"), ERR_LIMIT },
        { SPAN("18446744073709551616\r\n"), ERR_TEMP },
        { SPAN("-1\r\n"), ERR_TEMP },
        { SPAN("8 9\r\n"), ERR_TEMP },
        { SPAN("8x\r\n"), ERR_TEMP },
        { SPAN("\r\n"), ERR_TEMP },
        { SPAN("STORED\r\n"), ERR_TEMP },
        { SPAN("ERROR\r\n"), ERR_TEMP },
        { SPAN("CLIENT_ERROR invalid numeric delta argument\r\n"), ERR_TEMP },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct peer p;
        uint64_t n = 7;
        scripted(&p, &cases[i].answer, 1, 0);
        struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
        assert_int_equal(cache_server_incr(s, "key", 3, &n), cases[i].e);
        assert_int_equal(n == 7, cases[i].e != ERR_OK);
        assert_int_equal(cache_server_pause(s) > 0, cases[i].e == ERR_TEMP);
        cache_server_close(&s);
        peer_kill(&p);
    }
}

/* What is left over of one answer is never taken for the next. */
static void test_left_over(void **state)
{
    (void)state;
    const struct span answers[] = { SPAN("STORED\r\nEXISTS\r\n"), SPAN("STORED\r\nEXISTS\r\n"),
                                    SPAN("STORED\r\n") };
    struct peer p;
    scripted(&p, answers, ARRAY_LEN(answers), 0);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        assert_int_equal(cache_server_set(s, "key", SPAN("value"), 60), ERR_OK);
    }
    cache_server_close(&s);
    peer_kill(&p);
}

static void test_octet_by_octet(void **state)
{
    (void)state;
    struct span answer = SPAN("VALUE key 0 5 9\r\nva\r\nl\r\nEND\r\n");
    struct peer p;
    scripted(&p, &answer, 1, 1000);
    struct cache_server *s = cache_server_open(p.name, TIMEOUT_MS);
    struct cache_server_item it = item("key");
    assert_int_equal(get(s, &it, 1), ERR_OK);
    assert_value(&it, SPAN("va\r\nl"));
    cache_server_close(&s);
    peer_kill(&p);
}

/* The deadline is for the whole exchange: octets that drip in do not extend it. */
static void test_drip(void **state)
{
    (void)state;
    static char drip[10000];
    memset(drip, 'x', sizeof drip);
    memcpy(drip, "VALUE key 0 9000 1\r\n", 20);
    struct span answer = span_of(drip, sizeof drip);
    struct peer p;
    scripted(&p, &answer, 1, 20000);
    struct cache_server *s = cache_server_open(p.name, 100);
    struct cache_server_item it = item("key");
    assert_int_equal(get(s, &it, 1), ERR_TEMP); /* 200 seconds for all of it */
    free(it.value);
    cache_server_close(&s);
    peer_kill(&p);
}

/* A server that says nothing is asked once, and then left alone for a while. */
static void test_breaker(void **state)
{
    (void)state;
    struct peer p;
    int fd = bind_any(&p.port), accepted = 0;
    assert_int_equal(listen(fd, 1000), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    snprintf(p.name, sizeof p.name, "127.0.0.1:%u", p.port);
    struct cache_server *s = cache_server_open(p.name, 100);
    struct cache_server_item it = item("key");
    for (int i = 0; i < 500; i++) {
        assert_int_equal(get(s, &it, 1), ERR_TEMP);
    }
    for (int client; (client = accept(fd, NULL, NULL)) >= 0; close(client)) {
        accepted++;
    }
    assert_in_range(accepted, 1, 20);
    cache_server_close(&s);
    close(fd);
}

static void test_no_such_host(void **state)
{
    (void)state;
    struct cache_server *s = cache_server_open("127.0.0.1:port", TIMEOUT_MS);
    struct cache_server_item it = item("key");
    assert_int_equal(get(s, &it, 1), ERR_TEMP);
    cache_server_close(&s);
    assert_null(s);
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
        cmocka_unit_test(test_verbs),        cmocka_unit_test(test_long_value),
        cmocka_unit_test(test_restarted),    cmocka_unit_test(test_get_junk),
        cmocka_unit_test(test_get_good),     cmocka_unit_test(test_store_answers),
        cmocka_unit_test(test_left_over),    cmocka_unit_test(test_octet_by_octet),
        cmocka_unit_test(test_drip),         cmocka_unit_test(test_breaker),
        cmocka_unit_test(test_no_such_host), cmocka_unit_test(test_name),
        cmocka_unit_test(test_incr),         cmocka_unit_test(test_incr_answers),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
