/* Tests of loop: when posted tasks run, from which threads, and what loop_close leaves. */
#include "net_fixture.h"

#include <pthread.h>

struct step {
    struct task task;
    struct loop *loop;
    int *count;
    int seen;          /* *count when it ran */
    struct step *then; /* posted by this one */
    bool stop;
};

static void run_step(struct task *t)
{
    struct step *s = CONTAINER_OF(t, struct step, task);
    s->seen = ++*s->count;
    if (s->then) {
        loop_post(s->loop, &s->then->task);
        assert_int_equal(s->then->seen, 0);
    }
    if (s->stop) {
        loop_stop(s->loop);
    }
}

static void test_posted_run_in_order_never_inline(void **state)
{
    (void)state;
    int count = 0;
    struct loop *l = loop_open();
    struct step steps[3];
    for (int i = 0; i < 3; i++) {
        steps[i] = (struct step){ { .run = run_step }, l, &count, 0, NULL, i == 2 };
        loop_post(l, &steps[i].task);
    }
    assert_int_equal(count, 0);
    loop_run(l);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(steps[i].seen, i + 1);
    }
    loop_close(&l);
    assert_null(l);
}

static void on_timeout(uv_timer_t *h)
{
    int *timeouts = h->data;
    ++*timeouts;
    uv_close((uv_handle_t *)h, NULL);
}

struct chain {
    struct task task;
    struct loop *loop;
    uv_timer_t timer;
    int timeouts;
    int runs;
};

/* The first one starts the timer: on a busy machine one from before the loop may be due at once. */
static void run_chain(struct task *t)
{
    struct chain *c = CONTAINER_OF(t, struct chain, task);
    if (++c->runs == 1) {
        uv_timer_start(&c->timer, on_timeout, 1, 0);
    }
    if (c->timeouts == 0) {
        loop_post(c->loop, &c->task);
    } else {
        loop_stop(c->loop);
    }
}

/* A task that posts itself again and again lets a timer in between. */
static void test_a_chain_does_not_starve_the_loop(void **state)
{
    (void)state;
    struct chain c = { .task.run = run_chain, .loop = loop_open() };
    uv_timer_init(loop_uv(c.loop), &c.timer);
    c.timer.data = &c.timeouts;
    loop_post(c.loop, &c.task);
    loop_run(c.loop);
    assert_int_equal(c.timeouts, 1);
    assert_true(c.runs > 1);
    loop_close(&c.loop);
}

static void test_close_runs_what_is_posted(void **state)
{
    (void)state;
    int count = 0;
    struct loop *l = loop_open();
    struct step last = { { .run = run_step }, l, &count, 0, NULL, false };
    struct step first = { { .run = run_step }, l, &count, 0, &last, false };
    loop_post(l, &first.task);
    loop_close(&l);
    assert_int_equal(count, 2);
    assert_true(last.seen > first.seen);

    l = loop_open();
    struct step other = { { .run = run_step }, l, &count, 0, NULL, false };
    loop_post_from_thread(l, &other.task);
    loop_close(&l);
    assert_int_equal(count, 3);
}

#define THREADS 4
#define EACH    500

struct poster {
    pthread_t thread;
    struct loop *loop;
    int *count;
    struct step steps[EACH];
};

static void run_count(struct task *t)
{
    struct step *s = CONTAINER_OF(t, struct step, task);
    if (++*s->count == THREADS * EACH) {
        loop_stop(s->loop);
    }
}

static void *post_all(void *arg)
{
    struct poster *p = arg;
    for (int i = 0; i < EACH; i++) {
        p->steps[i] = (struct step){ { .run = run_count }, p->loop, p->count, 0, NULL, false };
        loop_post_from_thread(p->loop, &p->steps[i].task);
    }
    return NULL;
}

static void test_posts_from_threads_all_run(void **state)
{
    (void)state;
    static struct poster posters[THREADS];
    int count = 0;
    struct loop *l = loop_open();
    for (int i = 0; i < THREADS; i++) {
        posters[i].loop = l;
        posters[i].count = &count;
        assert_int_equal(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]), 0);
    }
    loop_run(l);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(posters[i].thread, NULL);
    }
    assert_int_equal(count, THREADS * EACH);
    loop_close(&l);
}

/* What ends by itself is waited for. */
static void test_close_waits_for_a_timer(void **state)
{
    (void)state;
    int timeouts = 0;
    struct loop *l = loop_open();
    uv_timer_t timer = { .data = &timeouts };
    uv_timer_init(loop_uv(l), &timer);
    uv_timer_start(&timer, on_timeout, 5, 0);
    loop_close(&l);
    assert_int_equal(timeouts, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posted_run_in_order_never_inline),
        cmocka_unit_test(test_a_chain_does_not_starve_the_loop),
        cmocka_unit_test(test_close_runs_what_is_posted),
        cmocka_unit_test(test_posts_from_threads_all_run),
        cmocka_unit_test(test_close_waits_for_a_timer),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
