/*
 * import_read: see the header. Everything that both sides touch is under one mutex; a thread waits
 * on its own condition for an answer, or for room.
 *
 *   thread   open, list -> LISTED ... reads -> OCTETS, MESSAGE ... -> ACCOUNT -> the next one, GONE
 *   loop                   answer              answer                 answer
 */
#include "import_read.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "source_parts.h"

#define NS_OF_S  INT64_C(1000000000)
#define WHY_SIZE 300

struct reader {
    struct readers *all;
    pthread_t thread;
    pthread_cond_t answered; /* or there is room again */
    struct mail_source *source;
    size_t account;
    const struct source_message *list;
    size_t n, index;
    enum err err;
    char why[WHY_SIZE];
    /* Under the mutex: */
    enum read_event event; /* that waits for its answer */
    struct buf octets;
    const bool *wanted;
    bool go_on, drop;
};

struct readers {
    struct loop *loop;
    struct readers_options options;
    struct reader *readers;
    pthread_mutex_t mutex;
    struct task wake;
    bool waking, ending;
    size_t next_account;
    int64_t next_read; /* monotonic nanoseconds: when the next message may be read */
};

/* --- the loop's side ------------------------------------------------------------------------- */

static void on_wake(struct task *t)
{
    struct readers *rs = CONTAINER_OF(t, struct readers, wake);
    pthread_mutex_lock(&rs->mutex);
    rs->waking = false;
    pthread_mutex_unlock(&rs->mutex);
}

/* With the mutex held. */
static void wake_loop(struct readers *rs)
{
    if (!rs->waking) {
        rs->waking = true;
        loop_post_from_thread(rs->loop, &rs->wake);
    }
}

enum read_event reader_poll(struct reader *r, struct buf *out)
{
    pthread_mutex_lock(&r->all->mutex);
    enum read_event ev = r->event;
    if (buf_len(&r->octets)) {
        struct buf empty = *out;
        *out = r->octets;
        r->octets = empty;
        ev = READ_OCTETS;
        pthread_cond_signal(&r->answered);
    }
    pthread_mutex_unlock(&r->all->mutex);
    return ev;
}

void reader_buffer(struct buf *b)
{
    buf_init(b, READ_AHEAD);
}

size_t reader_account(const struct reader *r)
{
    return r->account;
}

const struct source_message *reader_list(const struct reader *r, size_t *n)
{
    *n = r->n;
    return r->list;
}

size_t reader_index(const struct reader *r)
{
    return r->index;
}

enum err reader_err(const struct reader *r, const char **why)
{
    *why = r->why;
    return r->err;
}

void reader_answer(struct reader *r, const bool *wanted, bool go_on)
{
    pthread_mutex_lock(&r->all->mutex);
    if (r->event == READ_LISTED) {
        r->wanted = wanted;
    }
    r->event = READ_NOTHING;
    r->go_on = go_on;
    pthread_cond_signal(&r->answered);
    pthread_mutex_unlock(&r->all->mutex);
}

void reader_drop(struct reader *r)
{
    pthread_mutex_lock(&r->all->mutex);
    r->drop = true;
    buf_clear(&r->octets);
    pthread_cond_signal(&r->answered);
    pthread_mutex_unlock(&r->all->mutex);
}

struct reader *readers_at(struct readers *rs, size_t i)
{
    return &rs->readers[i];
}

/* --- the threads' side ----------------------------------------------------------------------- */

/* False: no more of this account. */
static bool tell(struct reader *r, enum read_event ev)
{
    struct readers *rs = r->all;
    pthread_mutex_lock(&rs->mutex);
    r->event = ev;
    r->go_on = true;
    wake_loop(rs);
    while (r->event != READ_NOTHING && !rs->ending) {
        pthread_cond_wait(&r->answered, &rs->mutex);
    }
    bool go_on = r->go_on && !rs->ending;
    pthread_mutex_unlock(&rs->mutex);
    return go_on;
}

/* Adds what there is room for; waits until there is some. 0: it is not wanted any more. */
static size_t add_some(struct reader *r, struct span piece)
{
    struct readers *rs = r->all;
    size_t n = 0;
    pthread_mutex_lock(&rs->mutex);
    while (!rs->ending && !r->drop && buf_room(&r->octets) == 0) {
        pthread_cond_wait(&r->answered, &rs->mutex);
    }
    if (!rs->ending && !r->drop) {
        struct span some = span_first(piece, buf_room(&r->octets));
        CHECK(buf_add(&r->octets, some) == ERR_OK);
        n = some.n;
        wake_loop(rs);
    }
    pthread_mutex_unlock(&rs->mutex);
    return n;
}

static bool on_piece(void *arg, struct span piece)
{
    struct reader *r = arg;
    while (piece.n) {
        size_t n = add_some(r, piece);
        if (n == 0) {
            return false;
        }
        piece = span_skip(piece, n);
    }
    return true;
}

static int64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS_OF_S + t.tv_nsec;
}

/* All threads take their turns from one clock; what was not used is not saved up. */
static void keep_pace(struct readers *rs)
{
    if (!rs->options.rate) {
        return;
    }
    pthread_mutex_lock(&rs->mutex);
    int64_t now = monotonic_ns(), turn = rs->next_read > now ? rs->next_read : now;
    rs->next_read = turn + NS_OF_S / (int64_t)rs->options.rate;
    pthread_mutex_unlock(&rs->mutex);
    struct timespec t = { turn / NS_OF_S, turn % NS_OF_S };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
    }
}

static bool read_message(struct reader *r, size_t i)
{
    pthread_mutex_lock(&r->all->mutex);
    r->drop = false;
    pthread_mutex_unlock(&r->all->mutex);
    r->index = i;
    r->why[0] = '\0';
    r->err = r->source->ops->read(r->source, i, on_piece, r, r->why, sizeof r->why);
    return tell(r, READ_MESSAGE);
}

static void read_wanted(struct reader *r)
{
    for (size_t i = 0; i < r->n; i++) {
        if (!r->wanted[i]) {
            continue;
        }
        keep_pace(r->all);
        if (!read_message(r, i)) {
            return;
        }
    }
}

static void read_account(struct reader *r)
{
    const struct readers_options *o = &r->all->options;
    const struct move_account *m = &o->list->accounts[r->account];
    struct source_options s = o->source;
    s.address = m->text;
    s.password = m->password ? m->password : s.password;
    r->source = NULL;
    r->why[0] = '\0';
    r->err = mail_source_open(m->url ? m->url : o->url, &s, &r->source, r->why, sizeof r->why);
    if (r->err == ERR_OK) {
        r->err = r->source->ops->list(r->source, &r->list, &r->n, r->why, sizeof r->why);
    }
    if (r->err == ERR_OK) {
        if (tell(r, READ_LISTED)) {
            read_wanted(r);
        }
        r->err = ERR_OK;
    }
    tell(r, READ_ACCOUNT);
    if (r->source) {
        r->source->ops->close(r->source);
    }
}

static bool next_account(struct reader *r)
{
    struct readers *rs = r->all;
    pthread_mutex_lock(&rs->mutex);
    bool found = !rs->ending && rs->next_account < rs->options.list->n;
    if (found) {
        r->account = rs->next_account++;
    }
    pthread_mutex_unlock(&rs->mutex);
    return found;
}

static void *reader_thread(void *arg)
{
    struct reader *r = arg;
    while (next_account(r)) {
        read_account(r);
    }
    pthread_mutex_lock(&r->all->mutex);
    r->event = READ_GONE;
    wake_loop(r->all);
    pthread_mutex_unlock(&r->all->mutex);
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------ */

struct readers *readers_open(struct loop *l, const struct readers_options *o)
{
    struct readers *rs = NEW(struct readers);
    rs->loop = l;
    rs->options = *o;
    rs->wake.run = on_wake;
    rs->readers = NEW_ARRAY(struct reader, o->threads);
    CHECK(pthread_mutex_init(&rs->mutex, NULL) == 0);
    for (unsigned i = 0; i < o->threads; i++) {
        struct reader *r = &rs->readers[i];
        r->all = rs;
        reader_buffer(&r->octets);
        CHECK(pthread_cond_init(&r->answered, NULL) == 0);
        CHECK(pthread_create(&r->thread, NULL, reader_thread, r) == 0);
    }
    return rs;
}

void readers_close(struct readers **prs)
{
    struct readers *rs = *prs;
    *prs = NULL;
    pthread_mutex_lock(&rs->mutex);
    rs->ending = true;
    for (unsigned i = 0; i < rs->options.threads; i++) {
        pthread_cond_signal(&rs->readers[i].answered);
    }
    pthread_mutex_unlock(&rs->mutex);
    for (unsigned i = 0; i < rs->options.threads; i++) {
        pthread_join(rs->readers[i].thread, NULL);
        pthread_cond_destroy(&rs->readers[i].answered);
        buf_fini(&rs->readers[i].octets);
    }
    while (rs->waking) { /* the task is still the loop's */
        uv_run(loop_uv(rs->loop), UV_RUN_NOWAIT);
    }
    pthread_mutex_destroy(&rs->mutex);
    free(rs->readers);
    free(rs);
}
