/*
 * loop: libuv's loop with two queues of tasks on top: one for the loop's own thread, one for the
 * others.
 *
 * Tasks are embedded in their owners; nothing is allocated for a post. An idle handle runs the
 * queue: it is active only while a task waits, keeps libuv from waiting then, and comes before the
 * next wait from wherever in a turn a task was posted. It knows neither conns nor pools.
 */
#include "net/loop.h"

#include <signal.h>
#include <stdlib.h>

#include "base/check.h"

/* What is still open at loop_close (a conn that lingers) has this long to end. */
#define CLOSE_MS (60 * 1000)

struct loop {
    uv_loop_t uv;
    uv_idle_t idle;
    uv_async_t async;
    uv_timer_t guard; /* of loop_close */
    struct list posted;
    uv_mutex_t mutex; /* guards from_threads */
    struct list from_threads;
    char scratch[LOOP_SCRATCH];
};

/*
 * Runs what was posted up to now; what these tasks post waits for the next turn, so that no chain
 * of tasks starves the sockets.
 */
static void on_idle(uv_idle_t *h)
{
    struct loop *l = h->data;
    struct list mark;
    list_add(&l->posted, &mark);
    while (l->posted.next != &mark) {
        struct task *t = CONTAINER_OF(l->posted.next, struct task, link);
        list_del(&t->link);
        t->run(t);
    }
    list_del(&mark);
    if (list_empty(&l->posted)) {
        uv_idle_stop(&l->idle);
    }
}

static void on_async(uv_async_t *h)
{
    struct loop *l = h->data;
    uv_mutex_lock(&l->mutex);
    for (struct list *link; (link = list_pop(&l->from_threads));) {
        loop_post(l, CONTAINER_OF(link, struct task, link));
    }
    uv_mutex_unlock(&l->mutex);
}

static void on_guard(uv_timer_t *h)
{
    (void)h;
    CHECK(!"a handle was left open at loop_close");
}

struct loop *loop_open(void)
{
    struct loop *l = NEW(struct loop);
    /* A peer that is gone is an error of the call, not a signal; OpenSSL's sockets use write(2). */
    signal(SIGPIPE, SIG_IGN);
    CHECK(uv_loop_init(&l->uv) == 0);
    CHECK(uv_idle_init(&l->uv, &l->idle) == 0);
    CHECK(uv_async_init(&l->uv, &l->async, on_async) == 0);
    CHECK(uv_timer_init(&l->uv, &l->guard) == 0);
    CHECK(uv_mutex_init(&l->mutex) == 0);
    l->idle.data = l->async.data = l;
    list_init(&l->posted);
    list_init(&l->from_threads);
    return l;
}

static void close_own(uv_handle_t *h)
{
    uv_ref(h);
    uv_close(h, NULL);
}

void loop_close(struct loop **lp)
{
    struct loop *l = *lp;
    *lp = NULL;
    uv_unref((uv_handle_t *)&l->async);
    uv_unref((uv_handle_t *)&l->guard);
    uv_update_time(&l->uv); /* an operator's command may have let it stand still for hours */
    uv_timer_start(&l->guard, on_guard, CLOSE_MS, 0);
    on_async(&l->async);
    while (uv_run(&l->uv, UV_RUN_DEFAULT)) {
    }
    close_own((uv_handle_t *)&l->idle);
    close_own((uv_handle_t *)&l->async);
    close_own((uv_handle_t *)&l->guard);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&l->uv) == 0);
    uv_mutex_destroy(&l->mutex);
    free(l);
}

uv_loop_t *loop_uv(struct loop *l)
{
    return &l->uv;
}

char *loop_scratch(struct loop *l)
{
    return l->scratch;
}

void loop_run(struct loop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

void loop_stop(struct loop *l)
{
    uv_stop(&l->uv);
}

uint64_t loop_now(struct loop *l)
{
    return uv_now(&l->uv);
}

void loop_post(struct loop *l, struct task *t)
{
    list_add(&l->posted, &t->link);
    uv_idle_start(&l->idle, on_idle);
}

void loop_post_from_thread(struct loop *l, struct task *t)
{
    uv_mutex_lock(&l->mutex);
    list_add(&l->from_threads, &t->link);
    uv_mutex_unlock(&l->mutex);
    uv_async_send(&l->async);
}
