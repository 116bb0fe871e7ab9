/*
 * spool_posix: the back-end for volumes that are directories of a mounted file system, a kernel
 * NFS mount included (file:///path): makes posix_volume's blocking calls on a pool of the volume's
 * own.
 *
 * A call owns what it works on until it has returned, and holds a reference to its volume, so a
 * volume is freed after its last call. Descriptors of files that were given up are closed on the
 * pool as well: a close can hang like any call. No policy: nothing is tried twice here.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "net/pool.h"
#include "store/posix_volume.h"
#include "store/volume_walk_ops.h"

struct posix {
    struct backend base;
    struct loop *loop;
    struct pool *pool; /* NULL once stopped */
    struct posix_volume files;
    uint64_t read_chunk;
    uint64_t timeout_ms;
    struct call *probe;   /* the one under way, a hung one included */
    struct list unclosed; /* calls that close a file and that the pool did not take yet */
    struct task end;
    bool gathering;
    struct call *gathered; /* the first of them */
    struct call **behind;  /* the last: where the next one goes */
};

/* One call: what it works on, the function for the thread, and the function for the loop. */
struct call {
    struct op op;
    struct job job;
    struct task refused; /* the pool did not take it */
    struct list link;    /* of posix.unclosed */
    struct call *next;   /* gathered with it: the same job does it, if there is time */
    struct posix *posix;
    enum err (*work)(struct call *c);
    void (*tell)(struct call *c, enum err e);
    bool hung;    /* told so; all of this is the thread's until it returns */
    bool put_off; /* not begun, as those before it in the job took their time */
    enum err err; /* what the work returned, or why it was refused */
    struct blob_id id;
    struct outfile *out;
    struct infile *in;
    int fd; /* to be closed */
    bool prepare;
    struct backend_report report; /* of a probe; why of any call */
    union {
        backend_write_fn *write;
        backend_read_fn *read;
        backend_probe_fn *probe;
        spool_done_fn *unlink;
    } done;
};

static void close_later(struct posix *px, int *fd);
static void close_some(struct posix *px);

/* --- the life of a call ---------------------------------------------------------------------- */

/* Three quarters of the deadline are there for the call that is begun last. */
static bool has_time(const struct call *first)
{
    return uv_hrtime() / 1000000 + first->posix->timeout_ms / 4 * 3 <= first->job.deadline;
}

/*
 * Those that were gathered share a thread and a deadline, which is meant for one: where each takes
 * a while, though none of them hangs, the rest is put off. So a volume that is slow but answers in
 * time fails no read and makes no thread look stuck.
 */
static void on_run(struct job *j)
{
    struct call *first = CONTAINER_OF(j, struct call, job);
    first->err = first->work(first);
    for (struct call *c = first->next; c; c = c->next) {
        c->put_off = !has_time(first);
        c->err = c->put_off ? ERR_BUSY : c->work(c);
    }
}

static void log_failure(const struct call *c)
{
    char id[BLOB_ID_CHARS + 1];
    blob_id_text(&c->id, id);
    LOG(c->err == ERR_CORRUPT ? LOG_ERROR : LOG_WARN, "spool.call_failed",
        F_U64("volume", c->posix->base.volume_id), F_STR("id", id), F_ERR(c->err),
        F_STR("why", c->report.why));
}

static void call_end(struct call *c, enum err e)
{
    if (e == ERR_OK) {
        e = c->err;
        if (e != ERR_OK && e != ERR_NOTFOUND && !c->put_off) {
            stats_add(STAT_spool_faults, 1);
            log_failure(c);
        }
    } else {
        c->hung = e == ERR_UNCERTAIN;
        stats_add(c->hung ? STAT_spool_timeouts : STAT_spool_faults, 1);
    }
    c->tell(c, e);
}

static void on_done(struct job *j, enum err e)
{
    for (struct call *c = CONTAINER_OF(j, struct call, job); c; c = c->next) {
        call_end(c, e);
    }
}

/* What nobody took over is closed: the owner has cancelled, or the call returned too late. */
static void close_leftovers(struct call *c)
{
    struct posix *px = c->posix;
    if (c->out) {
        close_later(px, &c->out->file.fd);
    }
    if (c->in) {
        close_later(px, &c->in->file.fd);
    }
    close_later(px, &c->fd);
    close_some(px);
}

static void call_free(struct call *c)
{
    struct posix *px = c->posix;
    struct backend *b = &px->base;
    if (px->pool) {
        close_leftovers(c);
    }
    if (px->probe == c) {
        px->probe = NULL;
    }
    outfile_free(&c->out);
    infile_free(&c->in);
    free(c);
    backend_unref(&b);
}

/* On the thread if the volume was stopped meanwhile; its descriptors are left to the exit then. */
static void on_free(struct job *j)
{
    for (struct call *c = CONTAINER_OF(j, struct call, job), *next; c; c = next) {
        next = c->next;
        call_free(c);
    }
}

static void on_refused(struct task *t)
{
    struct call *c = CONTAINER_OF(t, struct call, refused);
    on_done(&c->job, c->err);
    on_free(&c->job);
}

static struct call *call_new(struct backend *b, enum err (*work)(struct call *),
                             void (*tell)(struct call *, enum err), void *arg)
{
    struct call *c = NEW(struct call);
    c->op.arg = arg;
    c->job = (struct job){ .run = on_run, .done = on_done, .free = on_free };
    c->refused.run = on_refused;
    c->posix = CONTAINER_OF(backend_ref(b), struct posix, base);
    c->work = work;
    c->tell = tell;
    c->fd = -1;
    return c;
}

static struct op *call_refuse(struct call *c, enum err e)
{
    c->err = e;
    loop_post(c->posix->loop, &c->refused);
    return &c->op;
}

static struct op *call_start(struct call *c)
{
    struct pool *pool = c->posix->pool;
    enum err e = pool ? pool_submit(pool, &c->job) : ERR_TEMP;
    return e == ERR_OK ? &c->op : call_refuse(c, e);
}

/* --- closing what was given up --------------------------------------------------------------- */

static enum err close_work(struct call *c)
{
    close(c->fd); /* nobody is left to be told how it went */
    c->fd = -1;
    return ERR_OK;
}

static void close_tell(struct call *c, enum err e)
{
    (void)c;
    (void)e;
}

/* A pool that takes no more has other calls under way, and the end of each comes by here. */
static void close_some(struct posix *px)
{
    while (!list_empty(&px->unclosed)) {
        struct call *c = CONTAINER_OF(px->unclosed.next, struct call, link);
        if (pool_submit(px->pool, &c->job) != ERR_OK) {
            return;
        }
        list_del(&c->link);
    }
}

static void close_later(struct posix *px, int *fd)
{
    if (*fd >= 0) {
        struct call *c = call_new(&px->base, close_work, close_tell, NULL);
        c->fd = *fd;
        *fd = -1;
        list_add(&px->unclosed, &c->link);
    }
}

static void posix_release(struct backend *b, struct file *f)
{
    struct posix *px = CONTAINER_OF(b, struct posix, base);
    if (px->pool) {
        close_later(px, &f->fd);
        close_some(px);
    }
}

/* --- the calls ------------------------------------------------------------------------------- */

static enum err write_work(struct call *c)
{
    return posix_volume_write(&c->posix->files, c->out, c->report.why);
}

static void write_tell(struct call *c, enum err e)
{
    struct outfile *none = NULL;
    if (!c->op.cancelled) {
        c->done.write(c->op.arg, e, c->hung ? &none : &c->out);
    }
}

static struct op *posix_write(struct backend *b, struct outfile **f, backend_write_fn *done,
                              void *arg)
{
    struct call *c = call_new(b, write_work, write_tell, arg);
    c->done.write = done;
    c->id = (*f)->id;
    c->out = *f;
    *f = NULL;
    return call_start(c);
}

static enum err read_work(struct call *c)
{
    return posix_volume_read(&c->posix->files, c->in, c->posix->read_chunk, c->report.why);
}

/* A read or an unlink that hangs, or finds no place in the queue, may be tried again. */
static enum err again_later(enum err e)
{
    return e == ERR_UNCERTAIN || e == ERR_LIMIT ? ERR_TEMP : e;
}

static void read_tell(struct call *c, enum err e)
{
    struct infile *none = NULL;
    if (!c->op.cancelled) {
        c->done.read(c->op.arg, again_later(e), c->hung ? &none : &c->in);
    }
}

static struct op *posix_read(struct backend *b, struct infile **f, backend_read_fn *done, void *arg)
{
    struct call *c = call_new(b, read_work, read_tell, arg);
    c->done.read = done;
    c->id = (*f)->id;
    c->in = *f;
    *f = NULL;
    if (c->posix->gathering) {
        *c->posix->behind = c;
        c->posix->behind = &c->next;
        return &c->op;
    }
    return call_start(c);
}

static void posix_gather(struct backend *b, bool on)
{
    struct posix *px = CONTAINER_OF(b, struct posix, base);
    struct call *first = px->gathered;
    px->gathering = on;
    px->gathered = NULL;
    px->behind = &px->gathered;
    if (first) {
        call_start(first);
    }
}

static enum err unlink_work(struct call *c)
{
    return posix_volume_unlink(&c->posix->files, &c->id, c->report.why);
}

static void unlink_tell(struct call *c, enum err e)
{
    if (!c->op.cancelled) {
        c->done.unlink(c->op.arg, again_later(e));
    }
}

static struct op *posix_unlink(struct backend *b, const struct blob_id *id, spool_done_fn *done,
                               void *arg)
{
    struct call *c = call_new(b, unlink_work, unlink_tell, arg);
    c->done.unlink = done;
    c->id = *id;
    return call_start(c);
}

/* What it finds is in the report, and logged when it changes: by the volumes, not here. */
static enum err probe_work(struct call *c)
{
    posix_volume_probe(&c->posix->files, c->prepare, &c->report);
    return ERR_OK;
}

static void probe_tell(struct call *c, enum err e)
{
    const struct backend_report none = { .err = e == ERR_LIMIT ? ERR_LIMIT : ERR_TEMP,
                                         .why = "does not answer" };
    if (!c->op.cancelled) {
        c->done.probe(c->op.arg, e == ERR_OK ? &c->report : &none);
    }
}

/* While one hangs there is no other: they would take a thread each. */
static struct op *posix_probe(struct backend *b, bool prepare, backend_probe_fn *done, void *arg)
{
    struct call *c = call_new(b, probe_work, probe_tell, arg);
    c->done.probe = done;
    c->prepare = prepare;
    if (c->posix->probe) {
        return call_refuse(c, ERR_TEMP);
    }
    c->posix->probe = c;
    return call_start(c);
}

/* Not on NFS: a server makes names in different directories side by side. */
static bool posix_together(struct backend *b)
{
    const struct posix *px = CONTAINER_OF(b, struct posix, base);
    return px->files.root >= 0 && !px->files.is_nfs;
}

static bool posix_stuck(struct backend *b)
{
    struct posix *px = CONTAINER_OF(b, struct posix, base);
    return !px->pool || pool_stuck(px->pool);
}

/* --- the life of the volume ------------------------------------------------------------------ */

static struct backend *posix_open(struct loop *l, const struct volume *v,
                                  const struct spool_options *o)
{
    struct posix *px = NEW(struct posix);
    char name[32];
    snprintf(name, sizeof name, "volume %u", v->volume_id);
    px->base.ops = &spool_posix;
    px->base.volume_id = v->volume_id;
    px->base.refs = 1;
    list_init(&px->base.link);
    list_init(&px->unclosed);
    px->loop = l;
    px->read_chunk = o->read_chunk;
    px->timeout_ms = o->timeout_ms;
    posix_volume_init(&px->files, v);
    px->pool = pool_open(l, &(struct pool_options){ .name = name,
                                                    .threads = o->threads,
                                                    .queue = o->queue,
                                                    .timeout_ms = o->timeout_ms });
    return &px->base;
}

/* Closing a directory sends nothing and waits for nothing, so the loop may do it. */
static void posix_end(struct posix *px)
{
    posix_volume_fini(&px->files);
    free(px);
}

static void on_end(struct task *t)
{
    struct posix *px = CONTAINER_OF(t, struct posix, end);
    pool_close(&px->pool);
    posix_end(px);
}

/* The last call may be just ending, in a callback of the pool: that is closed later. */
static void posix_free(struct backend *b)
{
    struct posix *px = CONTAINER_OF(b, struct posix, base);
    if (px->pool) {
        px->end.run = on_end;
        loop_post(px->loop, &px->end);
    } else {
        posix_end(px);
    }
}

static void posix_stop(struct backend *b)
{
    struct posix *px = CONTAINER_OF(b, struct posix, base);
    struct pool *pool = px->pool;
    px->pool = NULL;
    pool_close(&pool);
    for (struct list *link; (link = list_pop(&px->unclosed));) {
        on_free(&CONTAINER_OF(link, struct call, link)->job);
    }
}

const struct backend_ops spool_posix = {
    .scheme = POSIX_SCHEME,
    .open = posix_open,
    .free = posix_free,
    .stop = posix_stop,
    .stuck = posix_stuck,
    .write = posix_write,
    .read = posix_read,
    .together = posix_together,
    .gather = posix_gather,
    .release = posix_release,
    .unlink = posix_unlink,
    .probe = posix_probe,
    .create = posix_volume_create,
    .check = posix_volume_check,
    .learn = posix_volume_learn,
    .walk = &spool_posix_walk,
};
