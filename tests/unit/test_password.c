/*
 * password: right is right, wrong is wrong, and a fault is neither.
 */
#include "store/password.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/stats.h"

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

static struct password *open_password(struct fixture *f, unsigned threads, unsigned queue,
                                      uint64_t wait_ms)
{
    return password_open(
        f->loop, &(struct password_options){
                     .threads = threads, .queue = queue, .wait_ms = wait_ms, .prefix = "$y$" });
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->loop = loop_open();
    f->password = open_password(f, 2, 4, 60000);
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
    static const bool here = false;
    const struct password_waiter w = { .client = 1, .gone = &here };
    f->pending++;
    return password_check(f->password, secret, hash, &w, on_check, f);
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

/* It waits for nobody: with the threads busy and somebody behind them there is none of it. */
static void test_derive_gives_way(void **state)
{
    struct fixture *f = *state;
    const enum scram_hash h = SCRAM_SHA_256;
    for (int i = 0; i < 4; i++) { /* two for each thread */
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

/* --- waiting ---------------------------------------------------------------------------------- */

struct check {
    struct fixture *fixture;
    bool gone;
    bool done;
    enum err err;
    unsigned place; /* among those that have ended */
};

static unsigned ended;

static void on_waited(void *arg, enum err e)
{
    struct check *c = arg;
    assert_false(c->done);
    c->done = true;
    c->err = e;
    c->place = ended++;
    on_check(c->fixture, e);
}

static void wait_as(struct fixture *f, uint64_t client, struct check *c)
{
    *c = (struct check){ .fixture = f };
    f->pending++;
    password_check(f->password, SPAN("secret"), SHA512,
                   &(struct password_waiter){ .client = client, .gone = &c->gone }, on_waited, c);
}

/* One thread, and so much room behind it. */
static void use_one_thread(struct fixture *f, unsigned queue, uint64_t wait_ms)
{
    password_close(&f->password);
    f->password = open_password(f, 1, queue, wait_ms);
    ended = 0;
}

/* Each client is served in its order, and none behind all that another has sent. */
static void test_turns(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 40, FEW = 3 };
    struct check many[MANY], few[FEW];
    use_one_thread(f, 1000, 60000);
    for (int i = 0; i < MANY; i++) {
        wait_as(f, 1, &many[i]);
    }
    for (int i = 0; i < FEW; i++) {
        wait_as(f, 2, &few[i]);
    }
    loop_run(f->loop);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(many[i].err, ERR_OK);
        assert_true(i == 0 || many[i].place > many[i - 1].place);
    }
    for (unsigned i = 0; i < FEW; i++) {
        assert_int_equal(few[i].err, ERR_OK);
        assert_in_range(few[i].place, 2 * i, 2 * i + 4); /* two were under way before */
    }
}

/* Who has gone while he waited is not hashed for, and gives up his place. */
static void test_gone(void **state)
{
    struct fixture *f = *state;
    enum { PLACES = 10 };
    struct check c[PLACES], one_more, last, too_many;
    static struct stats stats;
    stats_use(&stats);
    use_one_thread(f, PLACES - 1, 60000);
    for (unsigned i = 0; i < PLACES; i++) {
        wait_as(f, i, &c[i]);
    }
    assert_int_equal(stats_get(&stats, STAT_password_waiting), PLACES - 2);
    c[5].gone = true;
    wait_as(f, 1, &one_more);
    wait_as(f, 1, &too_many);
    c[7].gone = true;
    wait_as(f, 1, &last);
    c[9].gone = true;
    loop_run(f->loop);
    for (unsigned i = 0; i < PLACES; i++) {
        bool gone = i == 5 || i == 7 || i == 9;
        assert_int_equal(c[i].err, gone ? ERR_CLOSED : ERR_OK);
    }
    assert_int_equal(one_more.err, ERR_OK);
    assert_int_equal(last.err, ERR_OK);
    assert_int_equal(too_many.err, ERR_LIMIT);
    assert_int_equal(stats_get(&stats, STAT_password_checks), PLACES - 3 + 2);
    assert_int_equal(stats_get(&stats, STAT_password_waiting), 0);
}

static void test_too_late(void **state)
{
    struct fixture *f = *state;
    struct check c[5];
    use_one_thread(f, 10, 0);
    for (unsigned i = 0; i < 5; i++) {
        wait_as(f, i, &c[i]);
    }
    loop_run(f->loop);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(c[i].err, i < 2 ? ERR_OK : ERR_LIMIT);
    }
}

static void test_close_while_waiting(void **state)
{
    struct fixture *f = *state;
    struct check c[8];
    use_one_thread(f, 10, 60000);
    for (unsigned i = 0; i < 8; i++) {
        wait_as(f, i, &c[i]);
    }
    password_close(&f->password);
    while (f->pending) {
        uv_run(loop_uv(f->loop), UV_RUN_NOWAIT);
    }
    for (unsigned i = 1; i < 8; i++) {
        assert_int_equal(c[i].err, ERR_TEMP);
    }
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
    assert_null(
        password_open(f->loop, &(struct password_options){ .threads = 1, .prefix = "$nonsense$" }));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_schemes),        TEST(test_nobody),           TEST(test_unusable),
        TEST(test_limit),          TEST(test_cancel),           TEST(test_close_while_hashing),
        TEST(test_derive),         TEST(test_derive_gives_way), TEST(test_turns),
        TEST(test_gone),           TEST(test_too_late),         TEST(test_close_while_waiting),
        TEST(test_unknown_scheme), cmocka_unit_test(test_hash), cmocka_unit_test(test_valid),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
