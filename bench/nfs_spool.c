/*
 * nfs_spool: the same operations as nfs_bare's, through mailfleet's spool: what a daemon gets.
 *
 *   nfs_spool URL UID GID SIZE DEPTH CONNECTIONS SECONDS
 *
 * URL is that of a volume of any kind; it is made when it is not there. The octets of a file, its
 * envelope block included, are as many as nfs_bare's, and each is hashed. Everything else is as
 * mailfleet.conf has it by default.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem_keep.h"
#include "store/spool.h"
#include "workload.h"

#define VOLUME  1
#define FANOUT  2 /* the default: 256 directories a day */
#define FROM    SPAN("sender@example.net")
#define LOOK_MS 5

struct file {
    struct pointer pointer;
    size_t handle_len;
    char handle[HANDLE_MAX];
};

/* One operation at a time; depth of them run side by side. */
struct lane {
    struct file *file;
    uint64_t begun;
    struct spool_writer *writer;
    struct spool_reader *reader;
    size_t got; /* octets of the message read so far */
};

static struct workload work;
static struct loop *loop;
static struct spool *spool;
static struct file *files;
static struct lane lanes[DEPTH_MAX];
static struct span message;
static struct task begin_task;

static const struct envelope_recipient to = { 7, { "recipient@example.org", 21 } };

/* --- the operations -------------------------------------------------------------------------- */

static void lane_run(struct lane *l);

/* To be called after whatever may have been the phase's last. */
static void turn(void)
{
    if (workload_turn(&work)) {
        loop_post(loop, &begin_task);
    }
}

static void begin_phase(struct task *t)
{
    (void)t;
    if (work.phase == PHASE_END) {
        loop_stop(loop);
        return;
    }
    for (size_t i = 0; i < workload_depth(&work); i++) {
        lane_run(&lanes[i]);
    }
    turn();
}

static void lane_done(struct lane *l, enum err e, const char *what)
{
    if (e != ERR_OK) {
        errx(1, "%s: %s", what, err_text(e));
    }
    workload_done(&work, l->begun);
    lane_run(l);
    turn();
}

static void on_written(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                       struct span handle)
{
    struct lane *l = arg;
    if (ev == SPOOL_READY) {
        return;
    }
    if (ev == SPOOL_WRITTEN) {
        l->file->pointer = *p;
        l->file->handle_len = handle.n;
        memcpy(l->file->handle, handle.n ? handle.p : "", handle.n);
    }
    lane_done(l, e, "writing");
}

static void lane_write(struct lane *l)
{
    const struct spool_message m = { .reverse_path = FROM, .to = &to, .n = 1 };
    enum err e = spool_create(spool, &m, on_written, l, &l->writer);
    if (e != ERR_OK) {
        errx(1, "spool_create: %s", err_text(e));
    }
    spool_append(l->writer, message); /* keeps all of it, whatever it returns */
    spool_finish(l->writer);
}

static void on_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct lane *l = arg;
    l->got += piece.n;
    if (!last) {
        spool_read_next(l->reader);
        return;
    }
    CHECK(e != ERR_OK || l->got == message.n);
    lane_done(l, e, "reading");
}

static void lane_read(struct lane *l)
{
    l->got = 0;
    l->reader = spool_read(spool, &l->file->pointer, span_of(l->file->handle, l->file->handle_len),
                           on_piece, l);
}

static void on_unlinked(void *arg, enum err e)
{
    lane_done(arg, e, "unlinking");
}

static void lane_run(struct lane *l)
{
    size_t number;
    if (!workload_next(&work, &number)) {
        return;
    }
    l->begun = workload_now();
    l->file = &files[number];
    if (work.phase == PHASE_READ) {
        lane_read(l);
    } else if (work.phase == PHASE_UNLINK) {
        spool_unlink(spool, VOLUME, &l->file->pointer.id, on_unlinked, l);
    } else {
        lane_write(l);
    }
}

/* --- before and after ------------------------------------------------------------------------ */

static void look_if_ready(uv_timer_t *t)
{
    if (spool_volume_ready(spool, VOLUME)) {
        uv_timer_stop(t);
        workload_init(&work);
        loop_post(loop, &begin_task);
    }
}

/* So many octets that the file has the size that was asked for. */
static struct span make_message(size_t size)
{
    static const struct blob_id id;
    struct envelope e = { .id = id, .reverse_path = FROM, .to = &to, .n = 1 };
    struct buf block;
    buf_init(&block, UINT32_MAX);
    CHECK(envelope_write(&e, &block) == ERR_OK && buf_len(&block) < size);
    size_t n = size - buf_len(&block);
    buf_fini(&block);
    char *octets = mem_new(n, 1);
    memset(octets, 'x', n);
    return span_of(octets, n);
}

static void run(const struct volume *v, const struct spool_options *options)
{
    uv_timer_t timer;
    mem_keep();
    loop = loop_open();
    spool = spool_open(loop, options);
    spool_set_volumes(spool, v, 1);
    begin_task.run = begin_phase;
    CHECK(uv_timer_init(loop_uv(loop), &timer) == 0);
    uv_timer_start(&timer, look_if_ready, 0, LOOK_MS);
    loop_run(loop);
    uv_close((uv_handle_t *)&timer, NULL);
    spool_close(&spool);
    loop_close(&loop);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        errx(2, "usage: nfs_spool URL UID GID SIZE DEPTH CONNECTIONS SECONDS");
    }
    struct volume v = { .volume_id = VOLUME,
                        .uuid = "00000000-0000-4000-8000-000000000001",
                        .fanout = FANOUT,
                        .state = VOLUME_ACTIVE,
                        .weight = 1 };
    snprintf(v.url, sizeof v.url, "%s", argv[1]);
    struct spool_options options = {
        .buffer = 256 * 1024,
        .read_chunk = 1024 * 1024,
        .threads = 8,
        .queue = 1024,
        .timeout_ms = 10000,
        .nfs_uid = (uint32_t)workload_number(argv[2], 0, UINT32_MAX, "a user"),
        .nfs_gid = (uint32_t)workload_number(argv[3], 0, UINT32_MAX, "a group"),
        .nfs_connections = (unsigned)workload_number(argv[6], 1, 64, "the number of connections"),
    };
    work.size = workload_number(argv[4], 1024, 1024 * 1024, "the size");
    work.depth = workload_number(argv[5], 1, DEPTH_MAX, "the depth");
    work.seconds = strtod(argv[7], NULL);
    files = NEW_ARRAY(struct file, FILES_MAX);
    message = make_message(work.size);

    char why[256] = "";
    log_set_level(LOG_WARN);
    if (volume_create(&v, &options, why, sizeof why) != ERR_OK) {
        errx(1, "%s: %s", v.url, why);
    }
    run(&v, &options);
    workload_fini(&work);
    free((void *)(uintptr_t)message.p);
    free(files);
    return 0;
}
