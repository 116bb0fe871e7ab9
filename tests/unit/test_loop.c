/* Tests of loop: when posted tasks run, from which threads, what sockets are told, and what
 * loop_close leaves. */
#include "net_fixture.h"

#include "base/log.h"

#include <limits.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define TALK 100 /* lines of a thread */

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

/* --- the log --------------------------------------------------------------------------------- */

struct telling {
    struct task task;
    struct loop *loop;
    uv_prepare_t prepare;
    uv_timer_t reads;
    int fd;
    char got[512];
};

static void run_tell(struct task *t)
{
    (void)t;
    LOG(LOG_INFO, "from_a_task", F_U64("n", 1));
}

static void on_prepare(uv_prepare_t *h)
{
    LOG(LOG_INFO, "from_a_prepare", F_U64("n", 1));
    uv_close((uv_handle_t *)h, NULL);
}

static void on_reads(uv_timer_t *h)
{
    struct telling *t = h->data;
    uv_close((uv_handle_t *)h, NULL);
    assert_true(read(t->fd, t->got, sizeof t->got - 1) > 0);
    loop_stop(t->loop);
}

/* What was told in a turn, even at its very end, is written before the loop waits for the next. */
static void test_the_log_is_written_before_the_loop_waits(void **state)
{
    (void)state;
    int ends[2], kept = dup(STDERR_FILENO);
    struct telling t = { .task.run = run_tell, .loop = loop_open() };
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    dup2(ends[1], STDERR_FILENO);
    t.fd = ends[0];
    t.reads.data = &t;
    uv_timer_init(loop_uv(t.loop), &t.reads);
    uv_timer_start(&t.reads, on_reads, 5, 0);
    uv_prepare_init(loop_uv(t.loop), &t.prepare);
    uv_prepare_start(&t.prepare, on_prepare);
    loop_post(t.loop, &t.task);
    log_gather(true);
    loop_run(t.loop);
    log_gather(false);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[0]);
    close(ends[1]);
    assert_non_null(strstr(t.got, "from_a_task"));
    assert_non_null(strstr(t.got, "from_a_prepare"));
    loop_close(&t.loop);
}

struct talker {
    pthread_t thread;
    struct task task;
    struct loop *loop;
    unsigned said;
};

static void run_talk(struct task *t)
{
    struct talker *k = CONTAINER_OF(t, struct talker, task);
    LOG(LOG_INFO, "talks", F_U64("n", k->said));
    if (++k->said < TALK) {
        loop_post(k->loop, t);
    } else {
        loop_stop(k->loop);
    }
}

static void *talker_main(void *arg)
{
    struct talker *k = arg;
    loop_run(k->loop);
    return NULL;
}

/* The log gathers for one thread, and a program may have a loop on each of many. */
static void test_loops_of_several_threads_tell_all(void **state)
{
    (void)state;
    static char got[PIPE_BUF];
    struct talker talkers[4] = { 0 };
    size_t lines = 0;
    int ends[2], kept = dup(STDERR_FILENO);
    struct timeval most = { .tv_sec = 30 };
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    assert_int_equal(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    for (size_t i = 0; i < ARRAY_LEN(talkers); i++) {
        struct talker *k = &talkers[i];
        k->loop = loop_open(); /* not in its thread: ThreadSanitizer doesn't see libuv hand
                                  descriptors on */
        k->task.run = run_talk;
        loop_post(k->loop, &k->task);
        assert_int_equal(pthread_create(&k->thread, NULL, talker_main, k), 0);
    }
    while (lines < ARRAY_LEN(talkers) * TALK) {
        ssize_t n = read(ends[0], got, sizeof got);
        if (n <= 0 || memchr(got, '\n', (size_t)n) != got + n - 1) {
            break;
        }
        lines++;
    }
    close(ends[0]); /* nobody waits for room any more */
    for (size_t i = 0; i < ARRAY_LEN(talkers); i++) {
        pthread_join(talkers[i].thread, NULL);
        loop_close(&talkers[i].loop);
    }
    dup2(kept, STDERR_FILENO);
    close(kept);
    assert_int_equal(lines, ARRAY_LEN(talkers) * TALK);
}

/* --- sockets --------------------------------------------------------------------------------- */

struct end {
    struct loop_socket socket;
    struct loop *loop;
    int peer;
    unsigned told;
    uint32_t events;    /* the last */
    struct end *closes; /* when it is told */
    struct end *opens;  /* then, under the number of what was closed */
    struct task later;  /* stops the loop */
};

static void end_close(struct end *e)
{
    loop_unwatch(e->loop, &e->socket);
    close(e->socket.fd);
    close(e->peer);
}

static void stop_now(struct task *t)
{
    loop_stop(CONTAINER_OF(t, struct end, later)->loop);
}

/* By way of another turn, so that what the sockets have to tell is told. */
static void stop_later(struct task *t)
{
    t->run = stop_now;
    loop_post(CONTAINER_OF(t, struct end, later)->loop, t);
}

static void run_end(struct loop_socket *s, uint32_t events);

static void end_open(struct end *e, struct loop *l, int fd)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    if (fd >= 0 && ends[0] != fd) {
        assert_int_equal(dup2(ends[0], fd), fd);
        close(ends[0]);
        ends[0] = fd;
    }
    *e = (struct end){ .loop = l, .peer = ends[1], .later.run = stop_later };
    loop_socket_init(&e->socket, ends[0], run_end);
}

static void run_end(struct loop_socket *s, uint32_t events)
{
    struct end *e = CONTAINER_OF(s, struct end, socket), *other = e->closes;
    e->told++;
    e->events = events;
    loop_watch(e->loop, s, 0);
    if (other) {
        int fd = other->socket.fd;
        other->closes = e->closes = NULL;
        end_close(other);
        if (e->opens) {
            end_open(e->opens, e->loop, fd);
            loop_watch(e->loop, &e->opens->socket, EPOLLIN);
        }
    }
    e->later.run(&e->later);
}

static void test_a_socket_is_told_what_it_wants(void **state)
{
    (void)state;
    struct loop *l = loop_open();
    struct end e;
    end_open(&e, l, -1);
    loop_watch(l, &e.socket, EPOLLIN);
    loop_watch(l, &e.socket, EPOLLOUT | EPOLLIN);
    loop_run(l);
    assert_int_equal(e.told, 1);
    assert_int_equal(e.events, EPOLLOUT);
    loop_watch(l, &e.socket, EPOLLIN);
    assert_int_equal(write(e.peer, "x", 1), 1);
    e.later.run = stop_later;
    loop_run(l);
    assert_int_equal(e.told, 2);
    assert_int_equal(e.events, EPOLLIN);
    end_close(&e);
    loop_close(&l);
}

/* Else an error would be told in each turn for ever. */
static void test_a_socket_that_wants_nothing_is_told_nothing(void **state)
{
    (void)state;
    struct loop *l = loop_open();
    struct end e;
    end_open(&e, l, -1);
    loop_watch(l, &e.socket, EPOLLIN);
    loop_watch(l, &e.socket, 0);
    assert_int_equal(shutdown(e.peer, SHUT_RDWR), 0);
    loop_post(l, &e.later);
    loop_run(l);
    assert_int_equal(e.told, 0);
    end_close(&e);
    loop_close(&l);
}

/* Both are ready in one turn: whoever is told first closes the other, and another socket may have
 * its number by then. */
static void test_an_event_for_a_closed_socket_is_nobodys(void **state)
{
    (void)state;
    for (int opens = 0; opens < 2; opens++) {
        struct loop *l = loop_open();
        struct end a, b, next;
        end_open(&a, l, -1);
        end_open(&b, l, -1);
        a.closes = &b;
        b.closes = &a;
        a.opens = b.opens = opens ? &next : NULL;
        assert_int_equal(write(a.peer, "x", 1), 1);
        assert_int_equal(write(b.peer, "x", 1), 1);
        loop_watch(l, &a.socket, EPOLLIN);
        loop_watch(l, &b.socket, EPOLLIN);
        loop_run(l);
        assert_int_equal(a.told + b.told, 1);
        end_close(a.told ? &a : &b);
        if (opens) {
            assert_int_equal(next.told, 0);
            end_close(&next);
        }
        loop_close(&l);
    }
}

/* As a child has it until its exec: it stays in the epoll, and nobody hears of it. */
static void test_a_closed_socket_that_others_have_is_nobodys(void **state)
{
    (void)state;
    struct loop *l = loop_open();
    struct end e, other;
    end_open(&e, l, -1);
    loop_watch(l, &e.socket, EPOLLIN);
    int kept = dup(e.socket.fd);
    assert_int_equal(write(e.peer, "x", 1), 1);
    end_close(&e);
    end_open(&other, l, e.socket.fd);
    loop_watch(l, &other.socket, EPOLLIN);
    loop_post(l, &other.later);
    loop_run(l);
    assert_int_equal(e.told + other.told, 0);
    close(kept);
    end_close(&other);
    loop_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posted_run_in_order_never_inline),
        cmocka_unit_test(test_a_chain_does_not_starve_the_loop),
        cmocka_unit_test(test_close_runs_what_is_posted),
        cmocka_unit_test(test_posts_from_threads_all_run),
        cmocka_unit_test(test_close_waits_for_a_timer),
        cmocka_unit_test(test_the_log_is_written_before_the_loop_waits),
        cmocka_unit_test(test_loops_of_several_threads_tell_all),
        cmocka_unit_test(test_a_socket_is_told_what_it_wants),
        cmocka_unit_test(test_a_socket_that_wants_nothing_is_told_nothing),
        cmocka_unit_test(test_an_event_for_a_closed_socket_is_nobodys),
        cmocka_unit_test(test_a_closed_socket_that_others_have_is_nobodys),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
