/* ahead: what comes together, in which order it may be asked for, and what never comes from there.
 */
#include "spool_fixture.h"

#include <dlfcn.h>

#include "store/ahead.h"

#define MESSAGES 32
#define TIMEOUT  30000

/* The spool's threads see this clock instead of libuv's while it is not 0: each look at it is TICK
 * later than the last. */
#define TICK (TIMEOUT / 16)
static _Atomic uint64_t clock_ms;

uint64_t uv_hrtime(void)
{
    uint64_t ms = clock_ms && gettid() != getpid() ? clock_ms += TICK : 0;
    return ms ? ms * 1000000 : ((uint64_t(*)(void))(uintptr_t)dlsym(RTLD_NEXT, "uv_hrtime"))();
}

struct rows {
    struct spool_fixture f;
    struct store store;
    struct maildrop *m;
    struct ahead *ahead;
    struct buf texts[MESSAGES];
    /* The last answer. */
    unsigned told;
    enum err err;
    bool close, inside;
    struct buf got;
    unsigned behind; /* how many of those behind it were there, when it was asked for */
};

static void on_got(void *arg, enum err e, struct span octets)
{
    struct rows *r = arg;
    assert_false(r->inside);
    r->told++;
    r->err = e;
    buf_clear(&r->got);
    assert_int_equal(buf_add(&r->got, octets), ERR_OK);
    if (r->close) {
        ahead_close(&r->ahead);
    }
}

static void add(struct rows *r, size_t i, size_t n)
{
    r->texts[i] = random_octets(&r->f.random, n);
    struct pointer p = write_message(&r->f, buf_span(&r->texts[i]));
    p.seq = i + 1;
    assert_int_equal(maildrop_add(r->m, &p, SPAN(""), SPAN("")), ERR_OK);
}

static int setup(void **state)
{
    static const struct spool_options options = { .buffer = 1 << 20,
                                                  .read_chunk = 256 << 10,
                                                  .threads = 4,
                                                  .queue = 1000,
                                                  .timeout_ms = TIMEOUT };
    struct rows *r = NEW(struct rows);
    fixture_begin(&r->f, 1, options);
    buf_init(&r->got, SIZE_MAX);
    r->store = (struct store){ .loop = r->f.net.loop, .spool = r->f.spool };
    r->m = maildrop_new(1, 1);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rows *r = *state;
    ahead_close(&r->ahead);
    WAIT(&r->f.net, NULL, r->store.ahead == 0);
    maildrop_free(&r->m);
    buf_fini(&r->got);
    for (size_t i = 0; i < MESSAGES; i++) {
        buf_fini(&r->texts[i]);
    }
    fixture_end(&r->f);
    free(r);
    return 0;
}

static void open_all(struct rows *r, size_t size)
{
    for (size_t i = 0; i < MESSAGES; i++) {
        add(r, i, size + i);
    }
    r->ahead = ahead_open(&r->store, r->m);
}

/* Whether it came from there; it is right then. */
static bool get(struct rows *r, size_t i)
{
    unsigned told = r->told;
    struct span octets;
    if (ahead_ready(r->ahead, i, &octets)) {
        assert_true(span_eq(octets, buf_span(&r->texts[i])));
        return true;
    }
    r->inside = true;
    bool comes = ahead_get(r->ahead, i, on_got, r);
    r->inside = false;
    if (!comes) {
        return false;
    }
    WAIT(&r->f.net, NULL, r->told > told);
    assert_int_equal(r->told, told + 1);
    if (r->err == ERR_OK) {
        assert_true(span_eq(buf_span(&r->got), buf_span(&r->texts[i])));
    }
    return r->err == ERR_OK;
}

static uint64_t reads(struct rows *r)
{
    return stats_get(&r->f.stats, STAT_spool_reads);
}

static uint64_t unwanted(struct rows *r)
{
    return stats_get(&r->f.stats, STAT_spool_unwanted);
}

/* 1 by itself, then rows of 2, 4, 8, 16, 16, ...: each file is read once. */
static void test_in_a_row(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    assert_false(get(r, 0));
    assert_int_equal(reads(r), 0);
    static const uint64_t after[] = { 2, 2, 6, 6, 6, 6, 14 };
    for (size_t i = 1; i < MESSAGES; i++) {
        /* The last one is alone again. */
        assert_int_equal(get(r, i), i < MESSAGES - 1);
        if (i <= ARRAY_LEN(after)) {
            WAIT(&r->f.net, NULL, reads(r) == after[i - 1]);
        }
    }
    assert_int_equal(unwanted(r), 0);
    assert_int_equal(r->store.ahead, 0);
}

static void on_first(void *arg, enum err e, struct span octets)
{
    struct rows *r = arg;
    struct span next;
    on_got(r, e, octets);
    for (size_t i = 8; ahead_ready(r->ahead, i, &next); i++) {
        assert_true(span_eq(next, buf_span(&r->texts[i])));
        r->behind++;
    }
}

/* Whoever is told of the first has the others too, and so can send them with it. */
static void test_a_row_comes_at_once(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(get(r, i), i > 0);
    }
    assert_true(ahead_get(r->ahead, 7, on_first, r));
    WAIT(&r->f.net, NULL, r->behind);
    assert_int_equal(r->behind, 7);
}

/* Here and there: each by itself, and nothing is read in vain. */
static void test_out_of_order(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    for (size_t i = MESSAGES; i > 0; i--) {
        assert_false(get(r, i - 1));
    }
    for (size_t i = 0; i < MESSAGES; i += 2) {
        assert_false(get(r, i));
    }
    assert_int_equal(reads(r), 0);
}

/* What was read in vain is no more than what was wanted, and it is given back. */
static void test_left_alone(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(get(r, i), i > 0);
    }
    WAIT(&r->f.net, NULL, reads(r) == 6); /* of 1 to 6; 0 was not read here */
    assert_true(r->store.ahead > 0);
    assert_false(get(r, 20));
    assert_int_equal(r->store.ahead, 0);
    assert_int_equal(unwanted(r), 3);
    assert_false(get(r, 5));
}

/* Again: it was given away. Behind the row the way goes on. */
static void test_twice(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    assert_false(get(r, 0));
    assert_true(get(r, 1));
    assert_false(get(r, 1));
    assert_true(get(r, 2));
}

static void test_long_ones_come_alone(void **state)
{
    struct rows *r = *state;
    static const size_t sizes[] = { 10, 10, 60000, 70000, 60000, 60000, 60000, 10, 10 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        add(r, i, sizes[i]);
    }
    r->ahead = ahead_open(&r->store, r->m);
    assert_false(get(r, 0));
    assert_true(get(r, 1));
    assert_true(get(r, 2));
    assert_false(get(r, 3)); /* longer than one may be */
    assert_true(get(r, 4));  /* two of them are all that a session may hold */
    WAIT(&r->f.net, NULL, reads(r) == 4);
    assert_true(get(r, 5));
    assert_true(get(r, 6));
    WAIT(&r->f.net, NULL, reads(r) == 7);
    assert_int_equal(unwanted(r), 0);
}

/* A process that holds enough holds no more. */
static void test_process_is_full(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    r->store.ahead = 32 << 20;
    for (size_t i = 0; i < MESSAGES; i++) {
        assert_false(get(r, i));
    }
    r->store.ahead = 0;
}

/* It is to be read by itself, to be told why; the others are there. */
static void test_one_is_missing(void **state)
{
    struct rows *r = *state;
    char path[256];
    open_all(r, 100);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(get(r, i), i > 0);
    }
    struct pointer p = maildrop_at(r->m, 4);
    file_path(&r->f, &p, path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_true(get(r, 3));
    assert_false(get(r, 4));
    assert_true(get(r, 5));
}

/* What could not be read for now is told so, or a volume that hangs would be waited for twice; and
 * there are no rows any more, as all of them would be late. */
static void test_one_fails(void **state)
{
    struct rows *r = *state;
    char path[256];
    open_all(r, 100);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(get(r, i), i > 0);
    }
    struct pointer p = maildrop_at(r->m, 3);
    file_path(&r->f, &p, path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    unsigned told = r->told;
    assert_false(get(r, 3));
    assert_int_equal(r->told, told + 1);
    assert_int_equal(r->err, ERR_TEMP);
    for (size_t i = 4; i <= 6; i++) {
        assert_true(get(r, i)); /* of that row */
    }
    assert_false(get(r, 7));
    assert_false(get(r, 8));
    assert_int_equal(r->told, told + 1);
    assert_int_equal(rmdir(path), 0);
}

/* On a volume that is slow a row ends when a quarter of the time-out is over. What it did not come
 * to is to be read by itself; that is no fault, and there are more rows. */
static void test_slow_volume(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(get(r, i), i > 0);
    }
    clock_ms = loop_now(r->f.net.loop);
    assert_true(ahead_get(r->ahead, 7, on_got, r));
    ahead_leave(r->ahead);
    assert_true(ahead_get(r->ahead, 13, on_got, r)); /* waits for one that is put off */
    unsigned told = r->told;
    WAIT(&r->f.net, NULL, r->told > told);
    clock_ms = 0;
    assert_int_equal(r->err, ERR_BUSY);
    assert_int_equal(reads(r), 6 + 5);
    for (size_t i = 8; i < 15; i++) {
        assert_int_equal(get(r, i), i < 12);
    }
    assert_int_equal(r->told, told + 1);
    assert_int_equal(stats_get(&r->f.stats, STAT_spool_faults), 0);
    assert_int_equal(stats_get(&r->f.stats, STAT_spool_timeouts), 0);
    for (size_t i = 15; i < 20; i++) {
        assert_true(get(r, i));
    }
}

/* Whoever wants it leaves, or closes all, in each of the moments. */
static void test_given_up(void **state)
{
    struct rows *r = *state;
    open_all(r, 100);
    assert_false(get(r, 0));
    assert_true(ahead_get(r->ahead, 1, on_got, r)); /* under way */
    ahead_leave(r->ahead);
    assert_true(get(r, 2));
    assert_true(ahead_get(r->ahead, 3, on_got, r)); /* the next row */
    ahead_close(&r->ahead);
    assert_int_equal(r->store.ahead, 0);
    r->ahead = ahead_open(&r->store, r->m);
    assert_false(get(r, 0));
    assert_true(get(r, 1));
    struct span octets;
    assert_true(ahead_ready(r->ahead, 2, &octets)); /* lent */
    ahead_close(&r->ahead);
    r->ahead = ahead_open(&r->store, r->m);
    assert_false(get(r, 0));
    uint64_t before = reads(r);
    unsigned told = r->told;
    assert_true(ahead_get(r->ahead, 1, on_got, r));
    WAIT(&r->f.net, NULL, reads(r) == before + 2); /* there, and posted */
    assert_int_equal(r->told, told);
    ahead_leave(r->ahead);
    fixture_settle(&r->f.net, NULL);
    assert_int_equal(r->told, told);
    ahead_close(&r->ahead);
    fixture_settle(&r->f.net, NULL);
    r->ahead = ahead_open(&r->store, r->m);
    assert_false(get(r, 0));
    r->close = true;
    assert_true(get(r, 1));
    assert_null(r->ahead);
    assert_int_equal(r->store.ahead, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_in_a_row),        TEST(test_a_row_comes_at_once),
        TEST(test_out_of_order),    TEST(test_left_alone),
        TEST(test_twice),           TEST(test_long_ones_come_alone),
        TEST(test_process_is_full), TEST(test_one_is_missing),
        TEST(test_one_fails),       TEST(test_slow_volume),
        TEST(test_given_up),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
