/*
 * password: right is right, wrong is wrong, and a fault is neither.
 */
#include "store/password.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* Of "secret", made by other software: what an import brings. */
static const char SHA512[] = "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S"
                             "5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1";
static const char BCRYPT[] = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

struct fixture {
    struct loop *loop;
    struct password *password;
    unsigned pending;
    enum err result;
    unsigned results[ERR_COUNT];
    char *keys; /* as they were last made */
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->loop = loop_open();
    f->password = password_open(f->loop, 2, 4, "$y$");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    password_close(&f->password);
    loop_close(&f->loop);
    free(f->keys);
    free(f);
    return 0;
}

static void on_check(void *arg, enum err e)
{
    struct fixture *f = arg;
    f->result = e;
    f->results[e]++;
    if (--f->pending == 0) {
        loop_stop(f->loop);
    }
}

static struct op *start(struct fixture *f, struct span secret, const char *hash)
{
    f->pending++;
    return password_check(f->password, secret, hash, on_check, f);
}

static enum err check(struct fixture *f, struct span secret, const char *hash)
{
    start(f, secret, hash);
    assert_int_equal(f->pending, 1); /* never inline */
    loop_run(f->loop);
    return f->result;
}

static void test_schemes(void **state)
{
    struct fixture *f = *state;
    char yescrypt[128];
    assert_int_equal(password_hash(SPAN("secret"), "$y$", yescrypt, sizeof yescrypt), ERR_OK);
    assert_true(strncmp(yescrypt, "$y$", 3) == 0);
    const char *const hashes[] = { yescrypt, SHA512, BCRYPT };
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++) {
        assert_int_equal(check(f, SPAN("secret"), hashes[i]), ERR_OK);
        assert_int_equal(check(f, SPAN("Secret"), hashes[i]), ERR_DENIED);
        assert_int_equal(check(f, SPAN(""), hashes[i]), ERR_DENIED);
        assert_int_equal(check(f, SPAN("secret\0x"), hashes[i]), ERR_DENIED);
    }
}

static void test_nobody(void **state)
{
    struct fixture *f = *state;
    char locked[256] = "!", huge[2000];
    memset(huge, 'x', sizeof huge);
    strcat(locked, SHA512);
    assert_int_equal(check(f, SPAN("secret"), ""), ERR_DENIED);
    assert_int_equal(check(f, SPAN("secret"), locked), ERR_DENIED);
    assert_int_equal(check(f, SPAN("secret"), "*"), ERR_DENIED);
    assert_int_equal(check(f, span_of(huge, sizeof huge), SHA512), ERR_DENIED);
    assert_int_equal(check(f, span_of(huge, sizeof huge), ""), ERR_DENIED);
}

/* A hash that cannot be used is no wrong password. */
static void test_unusable(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(check(f, SPAN("secret"), "$unknown$x"), ERR_TEMP);
    assert_int_equal(check(f, SPAN("secret"), "plain text"), ERR_TEMP);
}

static void test_limit(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 40 };
    for (int i = 0; i < MANY; i++) {
        start(f, SPAN("secret"), SHA512);
    }
    loop_run(f->loop);
    assert_in_range(f->results[ERR_OK], 4, MANY - 1);
    assert_int_equal(f->results[ERR_OK] + f->results[ERR_LIMIT], MANY);
}

static void test_cancel(void **state)
{
    struct fixture *f = *state;
    struct op *op = start(f, SPAN("secret"), SHA512);
    op_cancel(&op);
    f->pending--;
    assert_int_equal(check(f, SPAN("wrong"), SHA512), ERR_DENIED);
    assert_int_equal(f->results[ERR_OK], 0);
}

static void on_keys(void *arg, enum err e, struct span keys)
{
    struct fixture *f = arg;
    assert_int_equal(keys.n > 0, e == ERR_OK);
    f->keys = span_dup(keys);
    on_check(arg, e);
}

static enum err derive(struct fixture *f, struct span secret, size_t n)
{
    static const enum scram_hash both[] = { SCRAM_SHA_256, SCRAM_SHA_1 };
    free(f->keys);
    f->pending++;
    assert_non_null(password_derive(f->password, secret, both, n, 5000, on_keys, f));
    assert_int_equal(f->pending, 1); /* never inline */
    loop_run(f->loop);
    return f->result;
}

static void test_derive(void **state)
{
    struct fixture *f = *state;
    struct scram_keys k;
    assert_int_equal(derive(f, SPAN("secret"), 1), ERR_OK);
    assert_int_equal(scram_parse(span_str(f->keys), SCRAM_SHA_256, &k), ERR_OK);
    assert_int_equal(k.iterations, 5000);
    assert_int_equal(scram_parse(span_str(f->keys), SCRAM_SHA_1, &k), ERR_NOTFOUND);
    assert_int_equal(derive(f, SPAN("secret"), 2), ERR_OK);
    assert_int_equal(scram_parse(span_str(f->keys), SCRAM_SHA_256, &k), ERR_OK);
    assert_int_equal(scram_parse(span_str(f->keys), SCRAM_SHA_1, &k), ERR_OK);
    assert_int_equal(derive(f,
                            SPAN("not\xff"
                                 "text"),
                            1),
                     ERR_INVALID);
}

/* It waits for nobody: with half the queue full there is none of it. */
static void test_derive_gives_way(void **state)
{
    struct fixture *f = *state;
    const enum scram_hash h = SCRAM_SHA_256;
    for (int i = 0; i < 4; i++) { /* two threads, half of four places */
        start(f, SPAN("secret"), SHA512);
    }
    assert_null(password_derive(f->password, SPAN("secret"), &h, 1, 4096, on_keys, f));
    loop_run(f->loop);
    assert_int_equal(f->results[ERR_OK], 4);
    assert_int_equal(derive(f, SPAN("secret"), 1), ERR_OK);
    struct op *op = password_derive(f->password, SPAN("secret"), &h, 1, 4096, on_keys, f);
    op_cancel(&op);
    assert_int_equal(check(f, SPAN("wrong"), SHA512), ERR_DENIED);
}

/* What still runs at the close is detached and freed. */
static void test_close_while_hashing(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 4; i++) {
        struct op *op = start(f, SPAN("secret"), "");
        op_cancel(&op);
    }
}

static void test_hash(void **state)
{
    (void)state;
    char a[128], b[128], small[20] = "untouched";
    assert_int_equal(password_hash(SPAN("x"), "$y$", a, sizeof a), ERR_OK);
    assert_int_equal(password_hash(SPAN("x"), "$y$", b, sizeof b), ERR_OK);
    assert_string_not_equal(a, b);
    assert_int_equal(password_hash(SPAN("x"), "$nope$", a, sizeof a), ERR_INVALID);
    assert_int_equal(password_hash(SPAN("x\0y"), "$y$", a, sizeof a), ERR_INVALID);
    assert_int_equal(password_hash(SPAN("x"), "$y$", small, sizeof small), ERR_LIMIT);
    assert_string_equal(small, "untouched");
    assert_true(password_hash_valid(a));
}

static void test_valid(void **state)
{
    (void)state;
    char cut[sizeof SHA512], huge[1000];
    memset(huge, 'x', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    strcpy(cut, SHA512);
    cut[sizeof cut - 2] = '\0';
    assert_true(password_hash_valid(SHA512));
    assert_true(password_hash_valid(BCRYPT));
    assert_false(password_hash_valid(cut));
    assert_false(password_hash_valid(huge));
    assert_false(password_hash_valid(""));
    assert_false(password_hash_valid("!"));
    assert_false(password_hash_valid("$6$saltsalt$"));
    assert_false(password_hash_valid("$y$j9T$"));
    assert_false(password_hash_valid("a plain password"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void test_unknown_scheme(void **state)
{
    struct fixture *f = *state;
    assert_null(password_open(f->loop, 1, 1, "$nonsense$"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_schemes),
        TEST(test_nobody),
        TEST(test_unusable),
        TEST(test_limit),
        TEST(test_cancel),
        TEST(test_close_while_hashing),
        TEST(test_derive),
        TEST(test_derive_gives_way),
        TEST(test_unknown_scheme),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_valid),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
