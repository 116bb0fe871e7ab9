/*
 * spool_ops: what a spool does, one kind of operation after the other, on a volume that two mounts
 * of one NFS export show (TMPDIR and SPOOL_OPS_READER), as two nodes see it: one writes, the other
 * reads and unlinks. Their kernels share nothing but the server.
 *
 * Before each phase and after the last it prints a line `phase NAME`, at a phase's end a line
 * `operations N`, and /proc/self/mountstats each time, so that test_posix.py can tell what an
 * operation has cost; nothing else asks the mounts anything in a phase. In the phases `busy_...`
 * the other node has made a file in the directory before each operation, as in a fleet. What a
 * node hears of a change comes with the answer to its next call and costs the one after that, so
 * operations that no phase counts come in `between`.
 */
#include "spool_fixture.h"

#define MESSAGES 16u
#define SIZE     8192u
#define LARGE    (1024u * 1024)

struct ops {
    struct spool_fixture f; /* its spool is the writer's or the reader's, by turns */
    struct spool *writer, *reader;
    struct buf octets;
    char day[2][256]; /* the directory, as the writer and the reader see it */
    unsigned others;  /* files made in it */
};

enum { WRITER, READER, NOBODY };

static void phase(const char *name)
{
    struct buf stats = { 0 };
    buf_init(&stats, SIZE_MAX);
    int fd = open("/proc/self/mountstats", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (ssize_t n = 1; n > 0;) {
        n = read(fd, buf_reserve(&stats, 65536), 65536);
        assert_true(n >= 0);
        buf_commit(&stats, (size_t)n);
    }
    close(fd);
    struct span s = buf_span(&stats);
    printf("phase %s\n%.*s\n", name, (int)s.n, s.p);
    fflush(stdout); /* no line of the log comes between */
    buf_fini(&stats);
}

static void operations(unsigned n)
{
    printf("operations %u\n", n);
}

/* --- the volume as each side has it ---------------------------------------------------------- */

/* A look at a volume that is well comes all 10 s; here it would be among what is counted. */
static void stop_timer(uv_handle_t *h, void *tick)
{
    if (h->type == UV_TIMER && h != tick) {
        uv_timer_stop((uv_timer_t *)h);
    }
}

static void stop_looking(struct ops *o)
{
    uv_walk(loop_uv(o->f.net.loop), stop_timer, &o->f.net.tick);
}

static void find_day(struct ops *o, const struct pointer *p)
{
    char path[SPOOL_PATH_MAX];
    size_t n = spool_path(&p->id, 0, path);
    snprintf(o->day[WRITER], sizeof o->day[0], "%s/v1/%.*s", o->f.dir, (int)n, path);
    snprintf(o->day[READER], sizeof o->day[0], "%s%s", getenv("SPOOL_OPS_READER"),
             o->day[WRITER] + strlen(getenv("TMPDIR")));
}

/* The same volume by the reader's mount. */
static void open_reader(struct ops *o)
{
    struct volume v = o->f.volumes[0];
    snprintf(v.url, sizeof v.url, "file://%s%s/v1", getenv("SPOOL_OPS_READER"),
             o->f.dir + strlen(getenv("TMPDIR")));
    v.state = VOLUME_READONLY;
    o->reader = spool_open(o->f.net.loop, &o->f.options);
    spool_set_volumes(o->reader, &v, 1);
    WAIT(&o->f.net, NULL, spool_volume_ready(o->reader, 1));
}

/* --- operations ------------------------------------------------------------------------------ */

/* A file of another node, which sees the directory by its own mount. */
static void other_file(struct ops *o, int node)
{
    char path[300];
    if (node != NOBODY) {
        snprintf(path, sizeof path, "%s/other-%u", o->day[node], o->others++);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        close(fd);
    }
}

static void write_some(struct ops *o, struct pointer *p, unsigned n, uint32_t size, int other)
{
    for (unsigned i = 0; i < n; i++) {
        other_file(o, other);
        p[i] = write_message(&o->f, span_first(buf_span(&o->octets), size));
    }
    operations(n);
}

static void read_some(struct ops *o, const struct pointer *p, unsigned n, int other)
{
    for (unsigned i = 0; i < n; i++) {
        other_file(o, other);
        check_message(&o->f, &p[i], span_first(buf_span(&o->octets), (size_t)p[i].size));
    }
    operations(n);
}

static void on_unlinked(void *arg, enum err e)
{
    assert_int_equal(e, ERR_OK);
    *(bool *)arg = true;
}

static void unlink_some(struct ops *o, const struct pointer *p, unsigned n, int other)
{
    for (unsigned i = 0; i < n; i++) {
        bool unlinked = false;
        other_file(o, other);
        spool_unlink(o->f.spool, 1, &p[i].id, on_unlinked, &unlinked);
        WAIT(&o->f.net, NULL, unlinked);
    }
    operations(n);
}

static void quiet_phases(struct ops *o, const struct pointer *first)
{
    struct pointer p[2 * MESSAGES], large;
    phase("write");
    write_some(o, p, 2 * MESSAGES, SIZE, NOBODY);
    phase("write_large");
    write_some(o, &large, 1, LARGE, NOBODY);
    o->f.spool = o->reader;
    phase("first_read");
    read_some(o, first, 1, NOBODY);
    phase("read");
    read_some(o, p, MESSAGES, NOBODY);
    phase("read_again");
    read_some(o, p, MESSAGES, NOBODY);
    phase("read_large");
    read_some(o, &large, 1, NOBODY);
    phase("between");
    unlink_some(o, p + MESSAGES, 1, NOBODY);
    phase("unlink");
    unlink_some(o, p + MESSAGES + 1, MESSAGES - 1, NOBODY);
    o->f.spool = o->writer;
}

static void busy_phases(struct ops *o)
{
    struct pointer p[2 * MESSAGES], spare[3];
    phase("between");
    write_some(o, spare, 3, SIZE, READER);
    phase("busy_write");
    write_some(o, p, 2 * MESSAGES, SIZE, READER);
    o->f.spool = o->reader;
    phase("between");
    read_some(o, spare, 2, WRITER);
    phase("busy_read");
    read_some(o, p, MESSAGES, WRITER);
    phase("between");
    unlink_some(o, spare, 3, WRITER);
    phase("busy_unlink");
    unlink_some(o, p + MESSAGES, MESSAGES, WRITER);
    phase("end");
    o->f.spool = o->writer;
}

static void each_operation(void **state)
{
    (void)state;
    struct ops o = { 0 };
    struct spool_options options = { .buffer = 256u * 1024,
                                     .read_chunk = 1024u * 1024,
                                     .threads = 2,
                                     .queue = 10,
                                     .timeout_ms = 30000 };
    fixture_begin(&o.f, 1, options);
    write_message(&o.f, SPAN("")); /* from now on each first look makes the next day's directory */
    o.f.volumes[0].fanout = 0;     /* one a day */
    drain_and_go_on(&o.f);
    o.octets = random_octets(&o.f.random, LARGE);
    o.writer = o.f.spool;
    open_reader(&o);
    stop_looking(&o);
    struct pointer first;
    write_some(&o, &first, 1, SIZE, NOBODY);
    find_day(&o, &first);
    quiet_phases(&o, &first);
    busy_phases(&o);
    spool_close(&o.reader);
    buf_fini(&o.octets);
    fixture_end(&o.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(each_operation) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
