/*
 * spool: the writers and readers of message files.
 *
 * A writer collects octets and hands them, with its outfile, to a volume's back-end one step at a
 * time; a reader does the same with its infile, a piece at a time. So each has at most one call
 * under way and one buffer in that call's hands. Both are freed by the last event or by their
 * owner; a call that is still under way then ends by itself (spool_backend.h). Nothing here
 * touches a file, hashes or waits.
 */
#include "store/spool.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/check.h"
#include "store/volume.h"

/* Volumes that a message is offered to before it is given up: each may cost a deadline. */
#define VOLUME_TRIES 3
/* So long new files go to one directory, where that is better. */
#define TOGETHER_MS 100

struct spool {
    struct loop *loop;
    struct spool_options options;
    struct volumes *volumes;
    uint8_t hash;        /* the first random octet of ids, which is that of the directory */
    uint64_t hash_until; /* for ids before this time */
};

struct spool *spool_open(struct loop *l, const struct spool_options *o)
{
    struct spool *s = NEW(struct spool);
    s->loop = l;
    s->options = *o;
    s->volumes = volumes_open(l, o);
    return s;
}

void spool_close(struct spool **ps)
{
    struct spool *s = *ps;
    *ps = NULL;
    volumes_close(&s->volumes);
    free(s);
}

void spool_set_volumes(struct spool *s, const struct volume *v, size_t n)
{
    volumes_set(s->volumes, v, n);
}

bool spool_volume_ready(const struct spool *s, uint16_t volume)
{
    return volumes_ready(s->volumes, volume);
}

bool spool_volume_listed(const struct spool *s, uint16_t volume)
{
    return volumes_listed(s->volumes, volume);
}

uint16_t spool_choose(struct spool *s, const uint16_t *tried, size_t n)
{
    struct backend *b = volumes_choose(s->volumes, tried, n);
    uint16_t volume = b ? b->volume_id : 0;
    backend_unref(&b);
    return volume;
}

bool spool_volume_used(const struct spool *s, uint16_t volume, uint64_t *used)
{
    return volumes_used(s->volumes, volume, used);
}

/* --- writing --------------------------------------------------------------------------------- */

struct spool_writer {
    struct spool *spool;
    spool_write_fn *fn; /* NULL once it was given up */
    void *arg;
    struct blob_id id;
    uint64_t size;          /* octets appended so far */
    struct buf next;        /* appended, not yet handed over; at first behind the block */
    size_t most;            /* that next may hold before it is handed over */
    struct outfile *file;   /* NULL while a step is under way */
    struct op *step;        /* the one under way */
    struct backend *volume; /* NULL until the file is begun there */
    uint16_t only;          /* the volume it must go to; 0: any */
    uint16_t tried[VOLUME_TRIES];
    size_t tries;
    bool begun;     /* a file may be there */
    bool finishing; /* no more octets come */
    bool blocked;   /* the owner waits for READY */
    bool failing;   /* SPOOL_FAILED is posted */
    struct task task;
};

static void writer_free(struct spool_writer *w)
{
    op_cancel(&w->step);
    if (w->file && w->volume) {
        w->volume->ops->release(w->volume, &w->file->file);
    }
    outfile_free(&w->file);
    backend_unref(&w->volume);
    buf_fini(&w->next);
    free(w);
}

static struct pointer writer_pointer(const struct spool_writer *w)
{
    return (struct pointer){ .id = w->id, .volume = w->volume ? w->volume->volume_id : 0 };
}

static void writer_fail(struct spool_writer *w)
{
    struct pointer p = writer_pointer(w);
    if (w->fn) {
        w->fn(w->arg, SPOOL_FAILED, w->begun ? ERR_UNCERTAIN : ERR_TEMP, w->begun ? &p : NULL,
              SPAN(""));
    }
    writer_free(w);
}

static void on_fail(struct task *t)
{
    writer_fail(CONTAINER_OF(t, struct spool_writer, task));
}

/* For what fails in a call of the owner, who is told later, never inline. */
static void writer_fail_later(struct spool_writer *w)
{
    op_cancel(&w->step);
    w->failing = true;
    w->task.run = on_fail;
    loop_post(w->spool->loop, &w->task);
}

static void on_step(void *arg, enum err e, struct outfile **f);

static struct backend *next_volume(const struct spool_writer *w)
{
    if (w->only) {
        return w->tries ? NULL : volumes_find(w->spool->volumes, w->only);
    }
    return w->tries < VOLUME_TRIES ? volumes_choose(w->spool->volumes, w->tried, w->tries) : NULL;
}

/* Hands over what was collected, or again what another volume did not take. */
static void writer_step(struct spool_writer *w)
{
    struct outfile *f = w->file;
    if (!w->volume) {
        w->volume = next_volume(w);
        if (!w->volume) {
            writer_fail_later(w);
            return;
        }
        w->tried[w->tries++] = w->volume->volume_id;
    }
    if (!buf_len(&f->octets)) {
        struct buf empty = f->octets;
        f->octets = w->next;
        w->next = empty;
        w->most = w->spool->options.buffer;
    }
    f->last = w->finishing && !buf_len(&w->next);
    w->step = w->volume->ops->write(w->volume, &w->file, on_step, w);
}

/* A step when there is reason for one: the buffer is passed, or no more is to come. */
static void writer_run(struct spool_writer *w)
{
    if (!w->step && (w->finishing || buf_len(&w->next) > w->most)) {
        writer_step(w);
    }
}

static void writer_done(struct spool_writer *w)
{
    struct pointer p = writer_pointer(w);
    p.size = (uint32_t)w->size;
    p.skip = (uint32_t)buf_len(&w->file->block);
    stats_add(STAT_spool_writes, 1);
    w->fn(w->arg, SPOOL_WRITTEN, ERR_OK, &p, nfs_handle_span(&w->file->file.handle));
    writer_free(w);
}

/* Nothing was begun on this volume. */
static void writer_try_another(struct spool_writer *w)
{
    backend_unref(&w->volume);
    writer_step(w);
}

static void on_step(void *arg, enum err e, struct outfile **f)
{
    struct spool_writer *w = arg;
    w->step = NULL;
    w->file = *f;
    *f = NULL;
    if (e != ERR_OK && e != ERR_LIMIT) {
        volumes_doubt(w->spool->volumes, w->volume->volume_id);
    }
    if ((e == ERR_TEMP || e == ERR_LIMIT) && !w->begun) {
        writer_try_another(w);
        return;
    }
    w->begun = w->begun || e == ERR_OK || e == ERR_UNCERTAIN;
    if (e != ERR_OK) {
        writer_fail(w);
        return;
    }
    if (w->file->last) {
        writer_done(w);
        return;
    }
    w->file->first = false;
    buf_release(&w->file->octets);
    writer_run(w);
    if (w->blocked && !w->failing && buf_len(&w->next) <= w->most) {
        w->blocked = false;
        w->fn(w->arg, SPOOL_READY, ERR_OK, NULL, SPAN("")); /* it may abort: the last thing here */
    }
}

static uint64_t now_ms(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_REALTIME, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void random_octets(uint8_t random[BLOB_ID_SIZE - 6])
{
    CHECK(getrandom(random, BLOB_ID_SIZE - 6, 0) == BLOB_ID_SIZE - 6);
}

static struct blob_id new_id(uint64_t time_ms)
{
    uint8_t random[BLOB_ID_SIZE - 6];
    random_octets(random);
    return blob_id_make(time_ms ? time_ms : now_ms(), random);
}

/*
 * Files that are written side by side share the sync of their directory, and a journal gets the
 * blocks of one directory instead of many. 72 random bits are left to each id.
 */
static struct blob_id new_id_together(struct spool *s)
{
    uint8_t random[BLOB_ID_SIZE - 6];
    uint64_t now = now_ms();
    random_octets(random);
    if (now >= s->hash_until || now + TOGETHER_MS < s->hash_until) { /* or the clock was set back */
        s->hash = random[0];
        s->hash_until = now + TOGETHER_MS;
    }
    random[0] = s->hash;
    return blob_id_make(now, random);
}

static struct blob_id id_of(struct spool *s, const struct spool_message *m, struct backend *b)
{
    bool together = !m->time_ms && b->ops->together && b->ops->together(b);
    return m->id ? *m->id : together ? new_id_together(s) : new_id(m->time_ms);
}

enum err spool_create(struct spool *s, const struct spool_message *m, spool_write_fn *fn, void *arg,
                      struct spool_writer **out)
{
    /* Only asked for: the choice is made when the file is begun, by what is well then. */
    struct backend *any =
        m->volume ? volumes_find(s->volumes, m->volume) : volumes_choose(s->volumes, NULL, 0);
    if (!any) {
        return ERR_TEMP;
    }
    struct blob_id id = id_of(s, m, any);
    backend_unref(&any);
    struct envelope e = {
        .id = id, .reverse_path = m->reverse_path, .to = m->to, .n = m->n, .uidl = m->uidl
    };
    struct buf block;
    buf_init(&block, UINT32_MAX);
    enum err err = envelope_write(&e, &block);
    if (err != ERR_OK) {
        buf_fini(&block);
        return err;
    }
    struct spool_writer *w = NEW(struct spool_writer);
    w->spool = s;
    w->fn = fn;
    w->arg = arg;
    w->id = e.id;
    w->only = m->volume;
    buf_init(&w->next, SIZE_MAX); /* bounded by the owner, who waits for READY */
    w->most = s->options.buffer + buf_len(&block);
    CHECK(buf_add(&w->next, buf_span(&block)) == ERR_OK);
    w->file = outfile_new(&e.id, &block);
    *out = w;
    return ERR_OK;
}

const struct blob_id *spool_writer_id(const struct spool_writer *w)
{
    return &w->id;
}

bool spool_append(struct spool_writer *w, struct span octets)
{
    CHECK(!w->finishing);
    if (w->failing || !octets.n) {
        return !w->failing && !w->blocked;
    }
    if (octets.n > INT32_MAX - w->size) { /* more than a row of message can tell */
        w->begun = w->begun || w->step;
        writer_fail_later(w);
        return false;
    }
    w->size += octets.n;
    CHECK(buf_add(&w->next, octets) == ERR_OK);
    writer_run(w);
    w->blocked = w->failing || buf_len(&w->next) > w->most;
    return !w->blocked;
}

void spool_finish(struct spool_writer *w)
{
    CHECK(!w->finishing);
    w->finishing = true;
    w->blocked = false;
    if (!w->failing) {
        writer_run(w);
    }
}

bool spool_abort(struct spool_writer **pw, struct pointer *orphan)
{
    struct spool_writer *w = *pw;
    bool begun = w->begun || w->step;
    *pw = NULL;
    if (begun) {
        *orphan = writer_pointer(w);
    }
    if (w->failing) {
        w->fn = NULL; /* the posted task frees it */
    } else {
        writer_free(w);
    }
    return begun;
}

/* --- reading --------------------------------------------------------------------------------- */

struct spool_reader {
    struct spool *spool;
    spool_read_fn *fn; /* NULL once it was closed */
    void *arg;
    struct infile *file;     /* NULL while a call is under way */
    struct op *call;         /* the one under way */
    struct backend *volume;  /* NULL: there is no such volume */
    struct nfs_handle given; /* as the pointer had it */
    bool counted;            /* the file was opened */
    bool ending;             /* its last event is posted, or is being told */
    struct task task;
};

static void reader_free(struct spool_reader *r)
{
    op_cancel(&r->call);
    if (r->file && r->volume) {
        r->volume->ops->release(r->volume, &r->file->file);
    }
    infile_free(&r->file);
    backend_unref(&r->volume);
    free(r);
}

static void reader_end(struct spool_reader *r, enum err e, struct span piece)
{
    r->ending = true;
    if (r->fn) {
        r->fn(r->arg, e, piece, true);
    }
    reader_free(r);
}

static void on_no_volume(struct task *t)
{
    reader_end(CONTAINER_OF(t, struct spool_reader, task), ERR_TEMP, SPAN(""));
}

static void on_piece(void *arg, enum err e, struct infile **f);

static void reader_ask(struct spool_reader *r)
{
    r->call = r->volume->ops->read(r->volume, &r->file, on_piece, r);
}

/* The piece is freed as soon as the owner has seen it, not when the next one is asked for. */
static void reader_tell(struct spool_reader *r, struct span piece)
{
    char *mem = r->file->mem;
    r->file->mem = NULL;
    r->file->piece = NULL;
    r->file->len = 0;
    r->fn(r->arg, ERR_OK, piece, false); /* it may close the reader */
    free(mem);
}

static void on_piece(void *arg, enum err e, struct infile **f)
{
    struct spool_reader *r = arg;
    r->call = NULL;
    r->file = *f;
    *f = NULL;
    if (e != ERR_OK) {
        reader_end(r, e, SPAN(""));
        return;
    }
    stats_add(STAT_spool_reads, r->counted ? 0 : 1);
    r->counted = true;
    struct span piece = infile_piece(r->file);
    if (r->file->at == r->file->end) {
        reader_end(r, ERR_OK, piece);
    } else if (piece.n) {
        reader_tell(r, piece);
    } else {
        reader_ask(r); /* so far it was all envelope */
    }
}

struct spool_reader *spool_read(struct spool *s, const struct pointer *p, struct span handle,
                                spool_read_fn *fn, void *arg)
{
    struct spool_reader *r = NEW(struct spool_reader);
    r->spool = s;
    r->fn = fn;
    r->arg = arg;
    r->file = infile_new(p, handle);
    r->given = r->file->file.handle;
    r->volume = volumes_find(s->volumes, p->volume);
    if (r->volume) {
        reader_ask(r);
    } else {
        r->ending = true;
        r->task.run = on_no_volume;
        loop_post(s->loop, &r->task);
    }
    return r;
}

void spool_gather(struct spool *s, uint16_t volume, bool on)
{
    struct backend *b = volumes_find(s->volumes, volume);
    if (b && b->ops->gather) {
        b->ops->gather(b, on);
    }
    backend_unref(&b);
}

struct span spool_reader_handle(const struct spool_reader *r)
{
    struct span found = r->file ? nfs_handle_span(&r->file->file.handle) : SPAN("");
    return span_eq(found, nfs_handle_span(&r->given)) ? SPAN("") : found;
}

void spool_read_next(struct spool_reader *r)
{
    CHECK(!r->call && !r->ending);
    reader_ask(r);
}

void spool_read_close(struct spool_reader **pr)
{
    struct spool_reader *r = *pr;
    *pr = NULL;
    if (!r) {
        return;
    }
    if (r->ending) {
        r->fn = NULL; /* whoever ends it frees it */
    } else {
        reader_free(r);
    }
}

/* --- unlinking ------------------------------------------------------------------------------- */

/* The answer about a volume that is not there. */
struct refusal {
    struct op op;
    struct task task;
    spool_done_fn *done;
};

static void on_refusal(struct task *t)
{
    struct refusal *r = CONTAINER_OF(t, struct refusal, task);
    if (!r->op.cancelled) {
        r->done(r->op.arg, ERR_TEMP);
    }
    free(r);
}

struct op *spool_unlink(struct spool *s, uint16_t volume, const struct blob_id *id,
                        spool_done_fn *done, void *arg)
{
    struct backend *b = volumes_find(s->volumes, volume);
    if (b) {
        struct op *op = b->ops->unlink(b, id, done, arg);
        backend_unref(&b);
        return op;
    }
    struct refusal *r = NEW(struct refusal);
    r->op.arg = arg;
    r->done = done;
    r->task.run = on_refusal;
    loop_post(s->loop, &r->task);
    return &r->op;
}
