/* Tests of lookup: answers that come late, fail and come again; and its end in the middle of one.
 */
#include "net_fixture.h"

#include <dlfcn.h>
#include <pthread.h>

#include "net/lookup.h"

/* What the DNS says, in the place of libc. The lock is the test's, to hold an answer back. */
static pthread_mutex_t dns = PTHREAD_MUTEX_INITIALIZER;
static const char *answers[LOOKUP_MAX + 2]; /* addresses; none: a failure */
static unsigned questions;
static char asked[64];

typedef int getaddrinfo_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *restrict host, const char *restrict port,
                const struct addrinfo *restrict hints, struct addrinfo **restrict out)
{
    getaddrinfo_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    pthread_mutex_lock(&dns);
    questions++;
    snprintf(asked, sizeof asked, "%s", host);
    struct addrinfo *first = NULL, **end = &first;
    for (const char **a = answers; *a; a++) {
        assert_int_equal(real(*a, port, hints, end), 0);
        end = &(*end)->ai_next;
    }
    *out = first;
    pthread_mutex_unlock(&dns);
    return first ? 0 : EAI_AGAIN;
}

static void say(const char *a, const char *b)
{
    pthread_mutex_lock(&dns);
    answers[0] = a;
    answers[1] = b;
    answers[2] = NULL;
    pthread_mutex_unlock(&dns);
}

static unsigned heard(void)
{
    pthread_mutex_lock(&dns);
    unsigned n = questions;
    pthread_mutex_unlock(&dns);
    return n;
}

static struct lookup *begin(struct fixture *f)
{
    struct lookup_options o = {
        .host = "mail.example.com", .port = 8891, .retry_ms = 1, .refresh_ms = 1
    };
    return lookup_open(f->loop, &o);
}

static size_t count(const struct lookup *u)
{
    const struct sockaddr_storage *v;
    return lookup_addresses(u, &v);
}

static void check(const struct lookup *u, size_t at, const char *host)
{
    const struct sockaddr_storage *v;
    char text[NETADDR_TEXT];
    assert_true(at < lookup_addresses(u, &v));
    netaddr_host((const struct sockaddr *)&v[at], text);
    assert_string_equal(text, host);
    assert_int_equal(netaddr_port((const struct sockaddr *)&v[at]), 8891);
}

/* Two further answers have come: one may have been on its way. */
static void hear_twice(struct fixture *f)
{
    unsigned before = heard();
    WAIT(f, NULL, heard() > before + 2);
}

static void test_answers(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    say(NULL, NULL);
    struct lookup *u = begin(&f);
    assert_true(lookup_pending(u));
    assert_int_equal(count(u), 0);
    WAIT(&f, NULL, !lookup_pending(u));
    assert_int_equal(count(u), 0);
    assert_string_equal(asked, "mail.example.com");

    say("192.0.2.1", "2001:db8::1"); /* it asks again by itself */
    WAIT(&f, NULL, count(u) == 2);
    check(u, 0, "192.0.2.1");
    check(u, 1, "2001:db8::1");

    say(NULL, NULL); /* what is known is not forgotten */
    hear_twice(&f);
    check(u, 1, "2001:db8::1");

    say("192.0.2.2", NULL);
    WAIT(&f, NULL, count(u) == 1);
    check(u, 0, "192.0.2.2");
    lookup_close(&u);
    assert_null(u);
    lookup_close(&u);
    fixture_fini(&f);
}

static void test_many_addresses(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    pthread_mutex_lock(&dns);
    for (size_t i = 0; i <= LOOKUP_MAX; i++) {
        answers[i] = i == LOOKUP_MAX ? "192.0.2.1" : "192.0.2.9";
    }
    pthread_mutex_unlock(&dns);
    struct lookup *u = begin(&f);
    WAIT(&f, NULL, count(u) > 0);
    assert_int_equal(count(u), LOOKUP_MAX);
    check(u, LOOKUP_MAX - 1, "192.0.2.9");
    lookup_close(&u);
    fixture_fini(&f);
    pthread_mutex_lock(&dns);
    memset(answers, 0, sizeof answers);
    pthread_mutex_unlock(&dns);
}

/* The loop goes on while the DNS hangs, and nobody waits for it at the end. */
static void test_no_answer(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f);
    say("192.0.2.1", NULL);
    unsigned before = questions;
    pthread_mutex_lock(&dns);
    struct lookup *u = begin(&f);
    for (int i = 0; i < 4; i++) {
        fixture_turn(&f, NULL);
    }
    assert_true(lookup_pending(u));
    lookup_close(&u);
    fixture_fini(&f);
    assert_int_equal(questions, before);
    pthread_mutex_unlock(&dns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_many_addresses),
        cmocka_unit_test(test_no_answer),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
