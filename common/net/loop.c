/*
 * loop: libuv's loop with two queues of tasks on top: one for the loop's own thread, one for the
 * others; and an epoll of its own, which libuv watches, for sockets that come and go.
 *
 * Tasks are embedded in their owners; nothing is allocated for a post. An idle handle runs the
 * queue: it is active only while a task waits, keeps libuv from waiting then, and comes before the
 * next wait from wherever in a turn a task was posted.
 *
 * A socket that is closed leaves an epoll by itself, unless another process has it for a moment (a
 * child before its exec). So events come by descriptor and serial, not by pointer: one for a socket
 * that is not watched any more is nobody's. It knows neither conns nor pools.
 */
#include "net/loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"

/* What is still open at loop_close (a conn that lingers) has this long to end. */
#define CLOSE_MS (60 * 1000)
/* Events of sockets taken at once; those that are left come in the next turn. */
#define READY_BATCH 256

struct loop {
    uv_loop_t uv;
    uv_idle_t idle;
    uv_async_t async;
    uv_prepare_t waits; /* is about to: the last of its kind in each turn */
    uv_timer_t guard;   /* of loop_close */
    int epoll;
    uv_poll_t ready;              /* of the epoll; does not keep the loop alive */
    struct loop_socket **sockets; /* by descriptor; NULL: not watched */
    size_t sockets_size;
    uint32_t serial; /* of the last that began */
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

/* --- sockets --------------------------------------------------------------------------------- */

void loop_socket_init(struct loop_socket *s, int fd,
                      void (*run)(struct loop_socket *s, uint32_t events))
{
    *s = (struct loop_socket){ .fd = fd, .run = run };
}

/* What an event of the kernel's is for; NULL: for one that is not watched any more. */
static struct loop_socket *socket_of(const struct loop *l, uint64_t data)
{
    uint32_t fd = (uint32_t)data;
    struct loop_socket *s = fd < l->sockets_size ? l->sockets[fd] : NULL;
    return s && s->serial == data >> 32 ? s : NULL;
}

static void on_ready(uv_poll_t *h, int status, int events)
{
    struct loop *l = h->data;
    struct epoll_event batch[READY_BATCH];
    (void)status, (void)events;
    int n = epoll_wait(l->epoll, batch, READY_BATCH, 0);
    CHECK(n >= 0 || errno == EINTR);
    for (int i = 0; i < n; i++) {
        struct loop_socket *s = socket_of(l, batch[i].data.u64);
        if (s && s->events) {
            s->run(s, batch[i].events);
        }
    }
}

static void begin_watch(struct loop *l, struct loop_socket *s)
{
    size_t fd = (size_t)s->fd;
    if (fd >= l->sockets_size) {
        size_t size = 2 * fd + 64;
        l->sockets = mem_grow(l->sockets, size, sizeof(struct loop_socket *));
        memset(l->sockets + l->sockets_size, 0,
               (size - l->sockets_size) * sizeof(struct loop_socket *));
        l->sockets_size = size;
    }
    CHECK(!l->sockets[fd]);
    l->sockets[fd] = s;
    s->serial = ++l->serial;
}

static void end_watch(struct loop *l, struct loop_socket *s)
{
    CHECK(l->sockets[s->fd] == s);
    l->sockets[s->fd] = NULL;
    s->events = 0;
}

/* To want nothing is to leave: an error would be told in each turn. */
void loop_watch(struct loop *l, struct loop_socket *s, uint32_t events)
{
    struct epoll_event ev = { .events = events };
    int op = !s->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    if (events == s->events) {
        return;
    }
    if (!s->events) {
        begin_watch(l, s);
    }
    ev.data.u64 = (uint64_t)s->serial << 32 | (uint32_t)s->fd;
    CHECK(epoll_ctl(l->epoll, op, s->fd, &ev) == 0);
    s->events = events;
    if (!events) {
        end_watch(l, s);
    }
}

void loop_unwatch(struct loop *l, struct loop_socket *s)
{
    if (s->events) {
        end_watch(l, s);
    }
}

static void open_epoll(struct loop *l)
{
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(l->epoll >= 0 && uv_poll_init(&l->uv, &l->ready, l->epoll) == 0);
    l->ready.data = l;
    CHECK(uv_poll_start(&l->ready, UV_READABLE, on_ready) == 0);
    uv_unref((uv_handle_t *)&l->ready);
}

/* --- life ------------------------------------------------------------------------------------ */

static void on_waits(uv_prepare_t *h)
{
    (void)h;
    log_flush();
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
    /* libuv runs first what was started last. */
    CHECK(uv_prepare_init(&l->uv, &l->waits) == 0 && uv_prepare_start(&l->waits, on_waits) == 0);
    uv_unref((uv_handle_t *)&l->waits);
    CHECK(uv_timer_init(&l->uv, &l->guard) == 0);
    CHECK(uv_mutex_init(&l->mutex) == 0);
    l->idle.data = l->async.data = l;
    list_init(&l->posted);
    list_init(&l->from_threads);
    open_epoll(l);
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
    close_own((uv_handle_t *)&l->waits);
    close_own((uv_handle_t *)&l->guard);
    close_own((uv_handle_t *)&l->ready);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(&l->uv) == 0);
    close(l->epoll);
    free(l->sockets);
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
