/*
 * pool: the threads, the queue in front of them and the timer that abandons what hangs.
 *
 * A job belongs to its submitter until pool_submit, to the pool until free. One mutex guards the
 * lists, the states and the counts; done is always called without it, and nobody is woken while it
 * is held: who wakes would only wait for it. All jobs of a pool have the same time-out, so each
 * list is in the order of the deadlines and the timer looks at two heads. A pool starts no thread
 * in place of one that hangs: a filer that never answers would otherwise collect them without end.
 * It does not cancel calls, which POSIX cannot.
 */
#include "net/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"

enum job_state {
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_RAN,
    JOB_ABANDONED /* done was called while run goes on */
};

struct pool {
    struct loop *loop;
    char *name;
    unsigned threads;
    unsigned queue_limit;
    uint64_t timeout_ms;
    uv_timer_t timer;
    struct task task; /* on_finished */

    pthread_mutex_t mutex; /* guards everything below */
    pthread_cond_t work;
    struct list queue;
    struct list running;
    struct list abandoned;
    struct list finished; /* for the loop */
    unsigned queued;
    unsigned stuck; /* jobs in abandoned */
    bool posted;    /* task is on its way */
    bool closed;
    bool deserted; /* closed, and every done was called: what still runs is its thread's */
    unsigned refs; /* the threads, the timer until it is closed, the task while it is posted */

    pthread_mutex_t posting; /* held by a thread that posts; taken while it has mutex */
};

static void lock(struct pool *p)
{
    CHECK(pthread_mutex_lock(&p->mutex) == 0);
}

static void unlock(struct pool *p)
{
    CHECK(pthread_mutex_unlock(&p->mutex) == 0);
}

/* Drops a reference and unlocks: the last one out takes the pool with it. */
static void unlock_unref(struct pool *p)
{
    bool last = --p->refs == 0;
    unlock(p);
    if (last) {
        pthread_cond_destroy(&p->work);
        pthread_mutex_destroy(&p->mutex);
        pthread_mutex_destroy(&p->posting);
        free(p->name);
        free(p);
    }
}

static struct job *first(const struct list *l)
{
    return CONTAINER_OF(l->next, struct job, link);
}

/* Takes the first job of a list if its deadline is not after `until`, or returns NULL. */
static struct job *pop(struct list *l, uint64_t until)
{
    if (list_empty(l) || first(l)->deadline > until) {
        return NULL;
    }
    struct job *j = first(l);
    list_del(&j->link);
    return j;
}

static void move(struct job *j, struct list *to, enum job_state state)
{
    list_del(&j->link);
    list_add(to, &j->link);
    j->state = state;
}

/* --- on a thread ----------------------------------------------------------------------------- */

/* Wakes the loop, with the mutex held before and after but not meanwhile. */
static void post(struct pool *p)
{
    p->posted = true;
    p->refs++;
    CHECK(pthread_mutex_lock(&p->posting) == 0);
    unlock(p);
    loop_post_from_thread(p->loop, &p->task);
    CHECK(pthread_mutex_unlock(&p->posting) == 0);
    lock(p);
}

/*
 * Hands a job that has run to the loop. One that the closed pool had abandoned is nobody's: there
 * is only its memory to give back, and perhaps no loop any more.
 */
static void finish(struct pool *p, struct job *j)
{
    bool abandoned = j->state == JOB_ABANDONED;
    p->stuck -= abandoned;
    if (abandoned && p->deserted) {
        list_del(&j->link);
        unlock(p);
        j->free(j);
        lock(p);
        return;
    }
    move(j, &p->finished, abandoned ? JOB_ABANDONED : JOB_RAN);
    if (!p->posted) {
        post(p);
    }
}

static void *thread_main(void *arg)
{
    struct pool *p = arg;
    lock(p);
    while (!p->closed) {
        struct job *j = pop(&p->queue, UINT64_MAX);
        if (!j) {
            pthread_cond_wait(&p->work, &p->mutex);
            continue;
        }
        p->queued--;
        move(j, &p->running, JOB_RUNNING);
        unlock(p);
        j->run(j);
        lock(p);
        finish(p, j);
    }
    unlock_unref(p);
    return NULL;
}

/* --- on the loop ----------------------------------------------------------------------------- */

/* Takes the next job that has run, or NULL. */
static struct job *next_finished(struct pool *p)
{
    lock(p);
    struct job *j = pop(&p->finished, UINT64_MAX);
    unlock(p);
    return j;
}

/* An abandoned job had its done: only its memory was still needed. */
static void end_finished(struct pool *p)
{
    for (struct job *j; (j = next_finished(p));) {
        if (j->state == JOB_RAN) {
            j->done(j, ERR_OK);
        }
        j->free(j);
    }
}

static void on_finished(struct task *t)
{
    struct pool *p = CONTAINER_OF(t, struct pool, task);
    lock(p);
    p->posted = false;
    unlock(p);
    end_finished(p);
    lock(p);
    unlock_unref(p);
}

/* Takes the next job that should have begun by now out of the queue, or NULL. */
static struct job *next_late(struct pool *p, uint64_t now)
{
    lock(p);
    struct job *j = pop(&p->queue, now);
    if (j) {
        p->queued--;
    }
    unlock(p);
    return j;
}

/* Gives the next job up that should have returned by now, or NULL. */
static struct job *next_hung(struct pool *p, uint64_t now)
{
    lock(p);
    struct job *j = pop(&p->running, now);
    if (j) {
        move(j, &p->abandoned, JOB_ABANDONED);
        p->stuck++;
        LOG(LOG_WARN, "pool.abandoned", F_STR("pool", p->name), F_U64("stuck", p->stuck),
            F_U64("threads", p->threads));
    }
    unlock(p);
    return j;
}

/* An abandoned job may return at any moment, but its free is posted and so comes after its done. */
static void expire(struct pool *p, uint64_t now)
{
    for (struct job *j; (j = next_late(p, now));) {
        j->done(j, ERR_TEMP);
        j->free(j);
    }
    for (struct job *j; (j = next_hung(p, now));) {
        j->done(j, ERR_UNCERTAIN);
    }
}

static void on_timer(uv_timer_t *h);

/* One timer for all jobs, at the earliest deadline; jobs that end in time do not touch it. */
static void arm(struct pool *p)
{
    uint64_t now = loop_now(p->loop), at = UINT64_MAX;
    lock(p);
    const struct list *lists[] = { &p->queue, &p->running };
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        if (!list_empty(lists[i]) && first(lists[i])->deadline < at) {
            at = first(lists[i])->deadline;
        }
    }
    unlock(p);
    if (at != UINT64_MAX) {
        uv_timer_start(&p->timer, on_timer, at > now ? at - now : 0, 0);
    }
}

static void on_timer(uv_timer_t *h)
{
    struct pool *p = h->data;
    expire(p, loop_now(p->loop));
    arm(p);
}

/* Signals are the loop's: a thread that took one would interrupt its file call. */
static void start_threads(struct pool *p)
{
    sigset_t all, before;
    pthread_attr_t detached;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    CHECK(pthread_attr_init(&detached) == 0);
    CHECK(pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED) == 0);
    for (unsigned i = 0; i < p->threads; i++) {
        pthread_t id;
        CHECK(pthread_create(&id, &detached, thread_main, p) == 0);
    }
    pthread_attr_destroy(&detached);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

struct pool *pool_open(struct loop *l, const struct pool_options *o)
{
    struct pool *p = NEW(struct pool);
    CHECK(o->threads > 0);
    p->loop = l;
    p->name = mem_strdup(o->name);
    p->threads = o->threads;
    p->queue_limit = o->queue;
    p->timeout_ms = o->timeout_ms;
    p->refs = o->threads + 1;
    p->task.run = on_finished;
    p->timer.data = p;
    CHECK(uv_timer_init(loop_uv(l), &p->timer) == 0);
    CHECK(pthread_mutex_init(&p->mutex, NULL) == 0);
    CHECK(pthread_mutex_init(&p->posting, NULL) == 0);
    CHECK(pthread_cond_init(&p->work, NULL) == 0);
    list_init(&p->queue);
    list_init(&p->running);
    list_init(&p->abandoned);
    list_init(&p->finished);
    start_threads(p);
    return p;
}

static void on_timer_closed(uv_handle_t *h)
{
    struct pool *p = h->data;
    lock(p);
    unlock_unref(p);
}

/* Waits for the thread that is just posting: the loop may be gone soon. */
static void await_post(struct pool *p)
{
    CHECK(pthread_mutex_lock(&p->posting) == 0);
    CHECK(pthread_mutex_unlock(&p->posting) == 0);
}

/*
 * Once expire has told every done, a job that still runs is its thread's alone, and no thread posts
 * to the loop any more. Not before: a job may return while its done is being told.
 */
void pool_close(struct pool **pp)
{
    struct pool *p = *pp;
    *pp = NULL;
    lock(p);
    p->closed = true;
    CHECK(pthread_cond_broadcast(&p->work) == 0);
    unlock(p);
    expire(p, UINT64_MAX);
    lock(p);
    p->deserted = true;
    unlock(p);
    await_post(p);
    end_finished(p);
    uv_close((uv_handle_t *)&p->timer, on_timer_closed);
}

/* What the pool says to a new job. */
static enum err admit(const struct pool *p)
{
    if (p->closed || p->stuck == p->threads) {
        return ERR_TEMP;
    }
    return p->queued >= p->queue_limit ? ERR_LIMIT : ERR_OK;
}

enum err pool_submit(struct pool *p, struct job *j)
{
    lock(p);
    enum err e = admit(p);
    if (e == ERR_OK) {
        j->pool = p;
        j->deadline = loop_now(p->loop) + p->timeout_ms;
        j->state = JOB_QUEUED;
        list_add(&p->queue, &j->link);
        p->queued++;
    }
    unlock(p);
    if (e == ERR_OK) {
        CHECK(pthread_cond_signal(&p->work) == 0);
    }
    if (e == ERR_OK && !uv_is_active((uv_handle_t *)&p->timer)) {
        uv_timer_start(&p->timer, on_timer, p->timeout_ms, 0);
    }
    return e;
}

bool pool_stuck(struct pool *p)
{
    lock(p);
    bool stuck = p->stuck == p->threads;
    unlock(p);
    return stuck;
}
