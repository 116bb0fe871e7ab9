/* Tests of pool: deadlines, abandoned jobs, the breaker, the bound of the queue, closing. */
#include "net_fixture.h"

#include <pthread.h>

#include "net/pool.h"

/* A job that waits for its gate, so that a test decides when a call returns. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool open;
    unsigned entered;
    unsigned freed; /* by whichever thread */
};

static void gate_init(struct gate *g)
{
    *g = (struct gate){ .open = false };
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->changed, NULL);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->mutex);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mutex);
}

static unsigned gate_read(struct gate *g, const unsigned *what)
{
    pthread_mutex_lock(&g->mutex);
    unsigned n = *what;
    pthread_mutex_unlock(&g->mutex);
    return n;
}

#define NOT_DONE ERR_COUNT

struct call {
    struct job job;
    struct gate *gate; /* NULL: returns at once */
    struct result *result;
    int answer;
    pthread_t loop_thread;
};

/* The test's, as the call is given back by the pool. */
struct result {
    enum err e;
    int answer;
    int done;
};

static void call_run(struct job *j)
{
    struct call *c = CONTAINER_OF(j, struct call, job);
    assert_false(pthread_equal(pthread_self(), c->loop_thread));
    if (c->gate) {
        pthread_mutex_lock(&c->gate->mutex);
        c->gate->entered++;
        pthread_cond_broadcast(&c->gate->changed);
        while (!c->gate->open) {
            pthread_cond_wait(&c->gate->changed, &c->gate->mutex);
        }
        pthread_mutex_unlock(&c->gate->mutex);
    }
    c->answer = 42;
}

static void call_done(struct job *j, enum err e)
{
    struct call *c = CONTAINER_OF(j, struct call, job);
    assert_true(pthread_equal(pthread_self(), c->loop_thread));
    c->result->done++;
    c->result->e = e;
    if (e == ERR_OK) {
        c->result->answer = c->answer;
    }
}

static void call_free(struct job *j)
{
    struct call *c = CONTAINER_OF(j, struct call, job);
    struct gate *g = c->gate;
    free(c);
    if (g) {
        pthread_mutex_lock(&g->mutex);
        g->freed++;
        pthread_mutex_unlock(&g->mutex);
    }
}

static struct call *call_new(struct gate *g, struct result *r)
{
    struct call *c = NEW(struct call);
    *r = (struct result){ .e = NOT_DONE };
    c->job = (struct job){ .run = call_run, .done = call_done, .free = call_free };
    c->gate = g;
    c->result = r;
    c->loop_thread = pthread_self();
    return c;
}

static enum err submit(struct pool *p, struct gate *g, struct result *r)
{
    struct call *c = call_new(g, r);
    enum err e = pool_submit(p, &c->job);
    if (e != ERR_OK) {
        free(c);
    }
    return e;
}

static struct pool *open_pool(struct fixture *f, unsigned threads, unsigned queue, uint64_t ms)
{
    return pool_open(f->loop,
                     &(struct pool_options){
                         .name = "test", .threads = threads, .queue = queue, .timeout_ms = ms });
}

#define LONG 600000 /* ms; never reached */

static void test_jobs_run_and_are_done_on_the_loop(void **state)
{
    (void)state;
    struct fixture f;
    static struct result r[200];
    fixture_init(&f);
    struct pool *p = open_pool(&f, 4, 200, LONG);
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        assert_int_equal(submit(p, NULL, &r[i]), ERR_OK);
        assert_int_equal(r[i].done, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        WAIT(&f, NULL, r[i].done);
        assert_int_equal(r[i].e, ERR_OK);
        assert_int_equal(r[i].answer, 42);
    }
    pool_close(&p);
    assert_null(p);
    fixture_fini(&f);
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        assert_int_equal(r[i].done, 1);
    }
}

static void test_a_full_queue_is_refused(void **state)
{
    (void)state;
    struct fixture f;
    struct gate g;
    struct result running, queued[2], extra;
    fixture_init(&f);
    gate_init(&g);
    struct pool *p = open_pool(&f, 1, 2, LONG);
    assert_int_equal(submit(p, &g, &running), ERR_OK);
    WAIT(&f, NULL, gate_read(&g, &g.entered) == 1);
    assert_int_equal(submit(p, &g, &queued[0]), ERR_OK);
    assert_int_equal(submit(p, &g, &queued[1]), ERR_OK);
    assert_int_equal(submit(p, &g, &extra), ERR_LIMIT);
    gate_open(&g);
    WAIT(&f, NULL, running.done && queued[0].done && queued[1].done);
    assert_int_equal(extra.done, 0);
    assert_int_equal(submit(p, &g, &extra), ERR_OK);
    WAIT(&f, NULL, extra.done);
    pool_close(&p);
    fixture_fini(&f);
}

/* The deadline passes for one that runs and one that waits; then the call returns after all. */
static void test_abandoned_jobs_and_the_breaker(void **state)
{
    (void)state;
    struct fixture f;
    struct gate g;
    struct result hung, waiting, later;
    fixture_init(&f);
    gate_init(&g);
    struct pool *p = open_pool(&f, 1, 10, 50);
    assert_int_equal(submit(p, &g, &hung), ERR_OK);
    WAIT(&f, NULL, gate_read(&g, &g.entered) == 1);
    assert_int_equal(submit(p, &g, &waiting), ERR_OK);
    assert_false(pool_stuck(p));
    WAIT(&f, NULL, hung.done && waiting.done);
    assert_int_equal(hung.e, ERR_UNCERTAIN);
    assert_int_equal(waiting.e, ERR_TEMP);
    assert_int_equal(gate_read(&g, &g.entered), 1);
    assert_int_equal(gate_read(&g, &g.freed), 1);

    assert_true(pool_stuck(p));
    assert_int_equal(submit(p, &g, &later), ERR_TEMP);
    assert_int_equal(later.done, 0);

    gate_open(&g);
    WAIT(&f, NULL, !pool_stuck(p) && gate_read(&g, &g.freed) == 2);
    assert_int_equal(hung.done, 1);
    assert_int_equal(submit(p, NULL, &later), ERR_OK);
    WAIT(&f, NULL, later.done);
    assert_int_equal(later.e, ERR_OK);
    pool_close(&p);
    fixture_fini(&f);
}

/* One hung call of two threads: the other thread goes on, and the breaker stays shut. */
static void test_one_hung_thread_stops_no_other(void **state)
{
    (void)state;
    struct fixture f;
    struct gate g;
    struct result hung, other;
    fixture_init(&f);
    gate_init(&g);
    struct pool *p = open_pool(&f, 2, 10, 50);
    assert_int_equal(submit(p, &g, &hung), ERR_OK);
    WAIT(&f, NULL, hung.done);
    assert_int_equal(hung.e, ERR_UNCERTAIN);
    assert_false(pool_stuck(p));
    assert_int_equal(submit(p, NULL, &other), ERR_OK);
    WAIT(&f, NULL, other.done);
    assert_int_equal(other.e, ERR_OK);
    gate_open(&g);
    WAIT(&f, NULL, gate_read(&g, &g.freed) == 1);
    pool_close(&p);
    fixture_fini(&f);
}

/* The loop is gone when the call returns; its memory is given back all the same. */
static void test_close_waits_for_nothing(void **state)
{
    (void)state;
    struct fixture f;
    struct gate g;
    struct result running, queued;
    fixture_init(&f);
    gate_init(&g);
    struct pool *p = open_pool(&f, 1, 10, LONG);
    assert_int_equal(submit(p, &g, &running), ERR_OK);
    WAIT(&f, NULL, gate_read(&g, &g.entered) == 1);
    assert_int_equal(submit(p, &g, &queued), ERR_OK);
    pool_close(&p);
    assert_int_equal(running.done, 1);
    assert_int_equal(running.e, ERR_UNCERTAIN);
    assert_int_equal(queued.done, 1);
    assert_int_equal(queued.e, ERR_TEMP);
    fixture_fini(&f);
    assert_int_equal(gate_read(&g, &g.freed), 1);
    gate_open(&g);
    while (gate_read(&g, &g.freed) < 2) {
        sched_yield();
    }
    assert_int_equal(running.done, 1);
}

/* Jobs that have run, but whose done the loop had no turn for, are told OK. */
static void test_close_ends_what_has_run(void **state)
{
    (void)state;
    struct fixture f;
    static struct result r[50];
    fixture_init(&f);
    for (int round = 0; round < 20; round++) {
        struct pool *p = open_pool(&f, 3, 100, LONG);
        for (size_t i = 0; i < ARRAY_LEN(r); i++) {
            assert_int_equal(submit(p, NULL, &r[i]), ERR_OK);
        }
        sched_yield();
        pool_close(&p);
        for (size_t i = 0; i < ARRAY_LEN(r); i++) {
            assert_int_equal(r[i].done, 1);
            assert_true(r[i].e == ERR_OK || r[i].e == ERR_TEMP || r[i].e == ERR_UNCERTAIN);
        }
    }
    fixture_fini(&f);
}

/* The loop may be closed right after the pool, while a thread is about to wake it. */
static void test_close_waits_for_a_post(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        struct result r;
        struct loop *l = loop_open();
        struct pool *p = pool_open(
            l,
            &(struct pool_options){ .name = "test", .threads = 1, .queue = 1, .timeout_ms = LONG });
        assert_int_equal(submit(p, NULL, &r), ERR_OK);
        for (int i = 0; i < round; i++) {
            sched_yield(); /* so that it is closed at another moment in each round */
        }
        pool_close(&p);
        assert_int_equal(r.done, 1);
        loop_close(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jobs_run_and_are_done_on_the_loop),
        cmocka_unit_test(test_a_full_queue_is_refused),
        cmocka_unit_test(test_abandoned_jobs_and_the_breaker),
        cmocka_unit_test(test_one_hung_thread_stops_no_other),
        cmocka_unit_test(test_close_waits_for_nothing),
        cmocka_unit_test(test_close_ends_what_has_run),
        cmocka_unit_test(test_close_waits_for_a_post),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
