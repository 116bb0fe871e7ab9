/*
 * Tests of the spool on file systems that fail: full, read-only, lying, hanging, unmounted, and
 * under writers that are killed.
 *
 * The file calls of the spool's threads go through the functions of this program that have the
 * names of libc's: they fail at the pass that a test has armed, write less than they were asked
 * to, or wait at a gate. The test's own calls, on the main thread, are left alone.
 */
#include "spool_fixture.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define BUFFER 4096
#define CHUNK  8192

/* --- file calls that fail -------------------------------------------------------------------- */

enum point {
    POINT_NONE,
    POINT_DIRECTORY, /* is opened */
    POINT_OPEN,      /* a message, to be read */
    POINT_CREATE,
    POINT_WRITE,
    POINT_SYNC,
    POINT_CLOSE
};

static struct {
    _Atomic int point;
    _Atomic int error; /* 0: waits at the gate and goes on */
    _Atomic int in;    /* the first pass that fails, */
    _Atomic int times; /* and how many do */
    _Atomic bool done; /* the file is created, and that is reported as failed */
    _Atomic int passes;
    _Atomic bool little; /* writes go on a few octets at a time, and are interrupted */
    _Atomic int written; /* the descriptor that was written to last */
    _Atomic int opening; /* message files and their directories */
    pthread_mutex_t mutex;
    pthread_cond_t opened;
    unsigned waiting;
    bool open;
} faults = { .mutex = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER };

static void arm(enum point point, int error, int in)
{
    faults.error = error;
    faults.in = in;
    faults.times = 1;
    faults.done = false;
    faults.passes = 0;
    faults.open = false;
    faults.point = point;
}

static void open_gate(void)
{
    pthread_mutex_lock(&faults.mutex);
    faults.open = true;
    pthread_cond_broadcast(&faults.opened);
    pthread_mutex_unlock(&faults.mutex);
}

static void disarm(void)
{
    faults.point = POINT_NONE;
    open_gate();
}

static unsigned waiting(void)
{
    pthread_mutex_lock(&faults.mutex);
    unsigned n = faults.waiting;
    pthread_mutex_unlock(&faults.mutex);
    return n;
}

static void wait_at_gate(void)
{
    pthread_mutex_lock(&faults.mutex);
    faults.waiting++;
    while (!faults.open) {
        pthread_cond_wait(&faults.opened, &faults.mutex);
    }
    faults.waiting--;
    pthread_mutex_unlock(&faults.mutex);
}

/* True with errno set when this pass is the one that fails. */
static bool fails(enum point point)
{
    if (faults.point != (int)point || gettid() == getpid()) {
        return false;
    }
    int pass = ++faults.passes;
    if (pass < faults.in || pass >= faults.in + faults.times) {
        return false;
    }
    if (!faults.error) {
        wait_at_gate();
        return false;
    }
    errno = faults.error;
    return true;
}

/* The next definition of a function of this name: the sanitizer's or libc's. */
#define REAL(result, name, ...) ((result(*)(__VA_ARGS__))(uintptr_t)dlsym(RTLD_NEXT, name))

static enum point point_of_open(int flags)
{
    return flags & O_CREAT ? POINT_CREATE : flags & O_DIRECTORY ? POINT_DIRECTORY : POINT_OPEN;
}

int openat(int dir, const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    bool of_message = path[0] >= '0' && path[0] <= '9';
    bool fail = of_message && fails(point_of_open(flags));
    int error = errno;
    if (fail && !faults.done) {
        return -1;
    }
    faults.opening += of_message;
    int fd = REAL(int, "openat64", int, const char *, int, ...)(dir, path, flags, mode);
    faults.opening -= of_message;
    if (fail && fd >= 0) {
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

ssize_t pwrite(int fd, const void *octets, size_t size, off_t offset)
{
    static _Atomic unsigned calls;
    faults.written = fd;
    if (fails(POINT_WRITE)) {
        return -1;
    }
    if (faults.little && gettid() != getpid()) {
        unsigned n = calls++;
        if (n % 5 == 0) {
            errno = EINTR;
            return -1;
        }
        size = size < n % 300 + 1 ? size : n % 300 + 1;
    }
    return REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t)(fd, octets, size, offset);
}

int fsync(int fd)
{
    return fails(POINT_SYNC) ? -1 : REAL(int, "fsync", int)(fd);
}

/* A close that fails has closed all the same. */
int close(int fd)
{
    bool fail = fd == faults.written && fails(POINT_CLOSE);
    int error = errno, written = fd;
    atomic_compare_exchange_strong(&faults.written, &written, -1);
    int r = REAL(int, "close", int)(fd);
    if (fail) {
        errno = error;
        return -1;
    }
    return r;
}

/* --- fixtures -------------------------------------------------------------------------------- */

static const struct spool_options patient = {
    .buffer = BUFFER, .read_chunk = CHUNK, .threads = 2, .queue = 100, .timeout_ms = 30000
};
/* A deadline that tests wait for. */
static const struct spool_options hasty = {
    .buffer = BUFFER, .read_chunk = CHUNK, .threads = 2, .queue = 100, .timeout_ms = 1000
};

static int setup_one(void **state)
{
    *state = NEW(struct spool_fixture);
    fixture_begin(*state, 1, patient);
    return 0;
}

static int setup_two(void **state)
{
    *state = NEW(struct spool_fixture);
    fixture_begin(*state, 2, patient);
    return 0;
}

static int setup_hasty(void **state)
{
    *state = NEW(struct spool_fixture);
    fixture_begin(*state, 2, hasty);
    return 0;
}

static int teardown(void **state)
{
    disarm();
    fixture_end(*state);
    free(*state);
    return 0;
}

static void only(struct spool_fixture *f, uint16_t volume)
{
    for (size_t i = 0; i < f->n; i++) {
        f->volumes[i].weight = f->volumes[i].volume_id == volume;
    }
    set_volumes(f);
}

/* A message of this size, to whatever end. */
static struct written try_write(struct spool_fixture *f, size_t size)
{
    struct buf octets = random_octets(&f->random, size);
    struct written w;
    begin(f, &w);
    append(f, &w, buf_span(&octets), BUFFER / 2);
    finish(f, &w);
    if (w.ev == SPOOL_WRITTEN) {
        check_message(f, &w.p, buf_span(&octets));
    }
    buf_fini(&octets);
    return w;
}

static bool has_file(struct spool_fixture *f, const struct pointer *p)
{
    char path[256];
    file_path(f, p, path, sizeof path);
    return access(path, F_OK) == 0;
}

/* --- errors of each call --------------------------------------------------------------------- */

struct fault_case {
    enum point point;
    int error, in;
    size_t size;
    enum err e;  /* TEMP: nothing was begun */
    bool orphan; /* a file is there */
};

static const struct fault_case fault_cases[] = {
    { POINT_CREATE, EEXIST, 1, 10, ERR_TEMP, false },
    { POINT_CREATE, ENOSPC, 1, 10, ERR_TEMP, false },
    { POINT_CREATE, EDQUOT, 1, 5 * BUFFER, ERR_TEMP, false },
    { POINT_CREATE, EROFS, 1, 10, ERR_TEMP, false },
    { POINT_CREATE, EACCES, 1, 10, ERR_TEMP, false },
    { POINT_CREATE, EIO, 1, 10, ERR_UNCERTAIN, false },
    { POINT_WRITE, ENOSPC, 1, 10, ERR_UNCERTAIN, true },
    { POINT_WRITE, EIO, 1, 5 * BUFFER, ERR_UNCERTAIN, true },
    { POINT_WRITE, EDQUOT, 3, 5 * BUFFER, ERR_UNCERTAIN, true },
    { POINT_SYNC, EIO, 1, 10, ERR_UNCERTAIN, true },
    { POINT_SYNC, EIO, 1, 5 * BUFFER, ERR_UNCERTAIN, true },
    { POINT_SYNC, EIO, 2, 10, ERR_UNCERTAIN, true }, /* of the directory */
    { POINT_CLOSE, EIO, 1, 10, ERR_UNCERTAIN, true },
    { POINT_CLOSE, EDQUOT, 1, 5 * BUFFER, ERR_UNCERTAIN, true },
};

static void test_faults(void **state)
{
    struct spool_fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LEN(fault_cases); i++) {
        const struct fault_case *c = &fault_cases[i];
        arm(c->point, c->error, c->in);
        struct written w = try_write(f, c->size);
        disarm();
        print_message("# case %zu\n", i);
        assert_int_equal(w.ev, SPOOL_FAILED);
        assert_int_equal(w.e, c->e);
        assert_int_equal(faults.passes, c->in); /* never tried again */
        assert_int_equal(w.named, c->e == ERR_UNCERTAIN);
        assert_true(!w.named || has_file(f, &w.p) == c->orphan);
        wait_writable(f);
        assert_int_equal(try_write(f, c->size).ev, SPOOL_WRITTEN);
    }
}

/* What could not be begun goes to another volume; what was begun does not. */
static void test_another_volume(void **state)
{
    struct spool_fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LEN(fault_cases); i++) {
        const struct fault_case *c = &fault_cases[i];
        bool goes_on = c->e == ERR_TEMP && c->error != EEXIST;
        arm(c->point, c->error, c->in);
        struct written w = try_write(f, c->size);
        disarm();
        print_message("# case %zu\n", i);
        assert_int_equal(w.ev, goes_on ? SPOOL_WRITTEN : SPOOL_FAILED);
        assert_true(!goes_on || pointer_state(f, &w.p) == FILE_RIGHT);
        drain_and_go_on(f); /* both are as new */
    }
}

/* What goes wrong in a directory that is kept open, or that can't be, is tried by the path. */
static const struct {
    enum point point;
    int error, times;
    bool kept, done;
    enum err write, read;
} dir_cases[] = {
    { POINT_CREATE, ENOENT, 1, true, false, ERR_OK, ERR_OK },
    { POINT_CREATE, ESTALE, 1, true, false, ERR_OK, ERR_OK },
    { POINT_CREATE, EMFILE, 1, true, false, ERR_OK, ERR_OK },
    { POINT_CREATE, ENFILE, 1, true, false, ERR_OK, ERR_OK },
    { POINT_CREATE, EACCES, 1, true, false, ERR_TEMP, ERR_OK },
    { POINT_CREATE, EMFILE, 2, true, false, ERR_TEMP, ERR_OK },
    { POINT_CREATE, ESTALE, 2, true, false, ERR_UNCERTAIN, ERR_OK },
    { POINT_CREATE, ESTALE, 1, true, true, ERR_UNCERTAIN, ERR_OK }, /* EEXIST, for it is ours */
    { POINT_CREATE, ESTALE, 1, false, false, ERR_UNCERTAIN, ERR_OK },
    { POINT_CREATE, EMFILE, 1, false, false, ERR_OK, ERR_OK },
    { POINT_OPEN, ENOENT, 1, true, false, ERR_OK, ERR_OK },
    { POINT_OPEN, ESTALE, 1, true, false, ERR_OK, ERR_OK },
    { POINT_OPEN, EMFILE, 1, true, false, ERR_OK, ERR_OK },
    { POINT_OPEN, EACCES, 1, true, false, ERR_OK, ERR_TEMP },
    { POINT_OPEN, ENOENT, 2, true, false, ERR_OK, ERR_NOTFOUND },
    { POINT_OPEN, ESTALE, 2, true, false, ERR_OK, ERR_TEMP },
    { POINT_OPEN, ENOENT, 1, false, false, ERR_OK, ERR_NOTFOUND },
    { POINT_DIRECTORY, EMFILE, 1, false, false, ERR_OK, ERR_OK },
    { POINT_DIRECTORY, EMFILE, 2, false, false, ERR_OK, ERR_OK }, /* to be synced, too */
    { POINT_DIRECTORY, EMFILE, 3, false, false, ERR_UNCERTAIN, ERR_OK },
    { POINT_DIRECTORY, EACCES, 1, false, false, ERR_OK, ERR_OK },
};

/* All messages of a day in one directory, which is not open yet. */
static void begin_directory(struct spool_fixture *f)
{
    f->volumes[0].fanout = 0;
    drain_and_go_on(f);
}

static void test_directory_faults(void **state)
{
    struct spool_fixture *f = *state;
    for (size_t i = 0; i < ARRAY_LEN(dir_cases); i++) {
        print_message("# case %zu\n", i);
        begin_directory(f);
        struct pointer p = write_message(f, SPAN("x"));
        if (!dir_cases[i].kept) {
            begin_directory(f);
        }
        arm(dir_cases[i].point, dir_cases[i].error, 1);
        faults.times = dir_cases[i].times;
        faults.done = dir_cases[i].done;
        enum err read = dir_cases[i].point == POINT_OPEN ? read_error(f, &p) : ERR_OK;
        struct written w = { 0 };
        begin(f, &w);
        finish(f, &w);
        disarm();
        assert_int_equal(read, dir_cases[i].read);
        assert_int_equal(w.ev == SPOOL_WRITTEN ? ERR_OK : w.e, dir_cases[i].write);
        assert_true(w.ev != SPOOL_WRITTEN || pointer_state(f, &w.p) == FILE_RIGHT);
        assert_int_equal(w.named && has_file(f, &w.p), w.ev == SPOOL_WRITTEN || dir_cases[i].done ||
                                                           dir_cases[i].point == POINT_DIRECTORY);
        check_message(f, &p, SPAN("x"));
    }
}

struct doubt {
    struct written w;
    struct spool_fixture *f;
    enum err create; /* what the next message is told, at once */
};

static void on_doubt(void *arg, enum spool_event ev, enum err e, const struct pointer *p,
                     struct span handle)
{
    struct doubt *d = arg;
    on_written(&d->w, ev, e, p, handle);
    d->create = create_error(d->f);
}

/* After a failure the volume is left alone until it was looked at, which is at once. */
static void test_doubt(void **state)
{
    struct doubt d = { .f = *state };
    write_message(d.f, SPAN(""));
    drain_and_go_on(d.f); /* the first has the next day's directories made, which are synced too */
    struct spool_message m = message_from(SPAN(""));
    assert_int_equal(spool_create(d.f->spool, &m, on_doubt, &d, &d.w.writer), ERR_OK);
    arm(POINT_SYNC, EIO, 1);
    finish(d.f, &d.w);
    assert_int_equal(d.w.ev, SPOOL_FAILED);
    assert_int_equal(d.create, ERR_TEMP);
    assert_true(volume_well(d.f, 1)); /* one failure does not make the node unready */
    wait_writable(d.f);
}

/* Moves a volume's directory away, or back. */
static void hide(struct spool_fixture *f, uint16_t id, bool away)
{
    char place[300], hidden[300];
    snprintf(place, sizeof place, "%s/v%u", f->dir, id);
    snprintf(hidden, sizeof hidden, "%s/hidden%u", f->dir, id);
    assert_int_equal(rename(away ? place : hidden, away ? hidden : place), 0);
}

static bool is_ready(struct spool_fixture *f)
{
    const struct health_item *item = health_of(f, "volumes");
    assert_true(item && item->required);
    return item->ok;
}

/* A node stays in the balancer as long as one active volume is well. */
static void test_ready(void **state)
{
    struct spool_fixture *f = *state;
    f->volumes[f->n++] = make_volume(f, 2);
    set_volumes(f);
    wait_well(f);
    assert_true(is_ready(f));
    hide(f, 1, true);
    WAIT(&f->net, NULL, !volume_well(f, 1));
    assert_true(is_ready(f));
    assert_false(health_of(f, "volume 1")->required);
    hide(f, 2, true);
    WAIT(&f->net, NULL, !volume_well(f, 2));
    assert_false(is_ready(f));
    hide(f, 1, false);
    WAIT(&f->net, NULL, volume_well(f, 1));
    assert_true(is_ready(f));
    f->volumes[0].state = VOLUME_READONLY; /* nothing takes mail now */
    set_volumes(f);
    assert_false(is_ready(f));
    hide(f, 2, false);
    WAIT(&f->net, NULL, volume_well(f, 2));
    assert_true(is_ready(f));
}

/* Every volume refuses: the message is offered to three of them and no more. */
static void test_no_volume_takes_it(void **state)
{
    struct spool_fixture *f = *state;
    for (uint16_t id = 2; id <= 4; id++) {
        f->volumes[f->n++] = make_volume(f, id);
    }
    set_volumes(f);
    wait_well(f);
    for (size_t i = 0; i < f->n; i++) { /* a file in place of the day's directory */
        char path[SPOOL_PATH_MAX], from[300], to[300];
        struct blob_id id = blob_id_make((uint64_t)time(NULL) * 1000, (uint8_t[10]){ 0 });
        spool_path(&id, 0, path);
        snprintf(from, sizeof from, "%s/v%zu/%.8s", f->dir, i + 1, path);
        snprintf(to, sizeof to, "%s/v%zu/hidden", f->dir, i + 1);
        assert_int_equal(rename(from, to), 0);
        int fd = open(from, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        close(fd);
    }
    struct written w = try_write(f, 5 * BUFFER);
    assert_int_equal(w.ev, SPOOL_FAILED);
    assert_int_equal(w.e, ERR_TEMP);
    assert_false(w.named);
    assert_int_equal(stats_get(&f->stats, STAT_spool_faults), 3);
}

static void test_little_writes(void **state)
{
    struct spool_fixture *f = *state;
    faults.little = true;
    for (size_t size = 0; size < 4 * BUFFER; size += 777) {
        struct written w = try_write(f, size);
        assert_int_equal(w.ev, SPOOL_WRITTEN);
        assert_int_equal(pointer_state(f, &w.p), FILE_RIGHT);
    }
    faults.little = false;
}

/* Root may write anywhere, so for this test nobody is who it runs as. */
static void test_no_permission(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN("x"));
    char path[256], day[256], why[256] = "";
    file_path(f, &p, path, sizeof path);
    snprintf(day, sizeof day, "%s", path);
    *strrchr(day, '/') = '\0';
    bool root = geteuid() == 0;
    char volume[200];
    snprintf(volume, sizeof volume, "%s/v1", f->dir);
    assert_int_equal(chmod(volume, 0555), 0);
    for (int i = 0; i < 2; i++) { /* the hash directory, then the day's */
        assert_int_equal(chmod(day, 0555), 0);
        for (char hash = '0'; i == 1 && hash <= 'f'; hash = hash == '9' ? 'a' : (char)(hash + 1)) {
            char dir[300];
            snprintf(dir, sizeof dir, "%s/%c", day, hash);
            assert_int_equal(chmod(dir, 0555), 0);
        }
        *strrchr(day, '/') = '\0';
    }
    assert_int_equal(chmod(path, 0644), 0);
    snprintf(path, sizeof path, "%s/.mailfleet-volume", volume);
    assert_int_equal(chmod(path, 0644), 0);
    assert_true(!root || seteuid(65534) == 0);
    struct written w = try_write(f, 10);
    enum err e = read_error(f, &p); /* O_NOATIME is the owner's alone */
    enum err check = volume_check(&f->volumes[0], &f->options, why, sizeof why);
    assert_true(!root || seteuid(0) == 0);
    assert_int_equal(w.ev, SPOOL_FAILED);
    assert_int_equal(w.e, ERR_TEMP);
    assert_int_equal(e, ERR_OK);
    assert_int_equal(check, ERR_TEMP);
    assert_string_equal(why, "writing a file: Permission denied");
    assert_int_equal(chmod(volume, 0755), 0);
}

/* --- calls that hang ------------------------------------------------------------------------- */

/* A fifo in place of a message: open() waits for a writer that does not come. */
static struct pointer make_fifo(struct spool_fixture *f, uint16_t volume)
{
    only(f, volume);
    struct pointer p = write_message(f, SPAN("x"));
    char path[256];
    file_path(f, &p, path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    return p;
}

/* Ends whoever waits at it, and those who come later. */
static void release_fifo(struct spool_fixture *f, const struct pointer *p)
{
    char path[256];
    file_path(f, p, path, sizeof path);
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);
}

static void test_hung_reads(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer fifo = make_fifo(f, 1);
    struct was_read a = { 0 }, b = { 0 };
    read_start(f, &a, &fifo);
    WAIT(&f->net, NULL, !a.reader);
    assert_int_equal(a.e, ERR_TEMP); /* one thread of two is left */
    assert_int_equal(stats_get(&f->stats, STAT_spool_timeouts), 1);
    assert_int_equal(try_write(f, 5 * BUFFER).ev, SPOOL_WRITTEN);

    read_start(f, &b, &fifo);
    WAIT(&f->net, NULL, !b.reader);
    assert_int_equal(b.e, ERR_TEMP);
    assert_int_equal(create_error(f), ERR_TEMP); /* none is left, and no deadline is waited for */
    assert_int_equal(read_error(f, &fifo), ERR_TEMP);
    assert_int_equal(stats_get(&f->stats, STAT_spool_timeouts), 2);
    WAIT(&f->net, NULL, !volume_well(f, 1));
    assert_string_equal(volume_why(f, 1), "does not answer");

    only(f, 2); /* which knows nothing of it */
    assert_true(volume_well(f, 2));
    assert_int_equal(try_write(f, 5 * BUFFER).ev, SPOOL_WRITTEN);

    release_fifo(f, &fifo);
    wait_well(f);
    only(f, 1);
    assert_int_equal(try_write(f, 5 * BUFFER).ev, SPOOL_WRITTEN);
}

/* Each of a row that hangs fails, and the thread is free again as soon as the one call returns. */
static void test_hung_row(void **state)
{
    struct spool_fixture *f = *state;
    struct was_read r[4] = { 0 };
    only(f, 1);
    struct pointer p = write_message(f, SPAN("x"));
    arm(POINT_OPEN, 0, 1);
    spool_gather(f->spool, 1, true);
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        read_start(f, &r[i], &p);
    }
    spool_gather(f->spool, 1, false);
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        WAIT(&f->net, NULL, !r[i].reader);
        assert_int_equal(r[i].e, ERR_TEMP);
    }
    assert_int_equal(stats_get(&f->stats, STAT_spool_timeouts), ARRAY_LEN(r));
    assert_int_equal(waiting(), 1);
    open_gate();
    drain_and_go_on(f);
    assert_int_equal(faults.passes, 1);
}

/* The file may be complete in the end, but nobody was told so. */
static void test_hung_write(void **state)
{
    struct spool_fixture *f = *state;
    static const struct {
        enum point point;
        size_t size;
        int in;
    } cases[] = { { POINT_CREATE, 10, 1 },
                  { POINT_WRITE, 10, 1 },
                  { POINT_SYNC, 10, 1 },
                  { POINT_WRITE, 5 * BUFFER, 2 },
                  { POINT_CLOSE, 5 * BUFFER, 1 } };
    only(f, 1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        arm(cases[i].point, 0, cases[i].in);
        struct written w = try_write(f, cases[i].size);
        assert_int_equal(w.ev, SPOOL_FAILED);
        assert_int_equal(w.e, ERR_UNCERTAIN);
        assert_true(w.named);
        assert_int_equal(waiting(), 1);
        disarm();
        drain_and_go_on(f); /* what hung has returned */
        assert_int_equal(pointer_state(f, &w.p), cases[i].in > 1 ? FILE_UNFINISHED : FILE_RIGHT);
    }
}

/* Given up while it hangs: no event, and nothing is left when it returns. */
static void test_hung_and_given_up(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer orphan, fifo = make_fifo(f, 1);
    struct was_read r = { 0 };
    struct written w;
    begin(f, &w);
    arm(POINT_WRITE, 0, 1);
    spool_append(w.writer, SPAN("x"));
    spool_finish(w.writer);
    read_start(f, &r, &fifo);
    WAIT(&f->net, NULL, waiting() == 1 && faults.opening == 1);
    assert_true(spool_abort(&w.writer, &orphan));
    spool_read_close(&r.reader);
    WAIT(&f->net, NULL, stats_get(&f->stats, STAT_spool_timeouts) >= 2);
    release_fifo(f, &fifo);
    disarm();
    drain_and_go_on(f);
    assert_int_equal(r.pieces, 0);
    assert_int_equal(pointer_state(f, &orphan), FILE_RIGHT);
}

/* A file that is given up when the pool can't even take its close is closed later. */
static void test_close_waits_for_room(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer fifo = make_fifo(f, 1);
    struct buf octets = random_octets(&f->random, 3 * CHUNK);
    struct pointer p = write_message(f, buf_span(&octets));
    struct was_read open = { .on_demand = true }, a = { 0 }, b = { 0 };
    read_start(f, &open, &p);
    WAIT(&f->net, NULL, open.pieces == 1);
    read_start(f, &a, &fifo);
    read_start(f, &b, &fifo);
    WAIT(&f->net, NULL, !a.reader && !b.reader); /* no thread is left */
    size_t fds = open_fds();
    spool_read_close(&open.reader);
    fixture_settle(&f->net, NULL);
    assert_int_equal(open_fds(), fds);
    release_fifo(f, &fifo);
    drain_and_go_on(f);
    buf_fini(&open.got);
    buf_fini(&octets);
}

/* The spool ends while calls hang; they end by themselves. */
static void test_close_while_hung(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer orphan, fifo = make_fifo(f, 1);
    size_t threads = count_entries("/proc/self/task");
    struct was_read r = { 0 };
    struct written w;
    begin(f, &w);
    arm(POINT_WRITE, 0, 1);
    spool_append(w.writer, SPAN("x"));
    spool_finish(w.writer);
    read_start(f, &r, &fifo);
    WAIT(&f->net, NULL, waiting() == 1 && faults.opening == 1);
    spool_abort(&w.writer, &orphan);
    spool_read_close(&r.reader);
    spool_close(&f->spool);
    fixture_settle(&f->net, NULL);
    release_fifo(f, &fifo);
    disarm();
    WAIT(&f->net, NULL, count_entries("/proc/self/task") == threads - 4);
    f->spool = spool_open(f->net.loop, &f->options);
    set_volumes(f);
    wait_well(f);
}

/* --- roots that come and go ------------------------------------------------------------------ */

static void move_root(struct spool_fixture *f, const char *from, const char *to)
{
    char a[200], b[200];
    snprintf(a, sizeof a, "%s/%s", f->dir, from);
    snprintf(b, sizeof b, "%s/%s", f->dir, to);
    assert_int_equal(rename(a, b), 0);
}

/* Moved away, as an unmounted export is: nothing looks empty, and nothing is written there. */
static void test_root_goes(void **state)
{
    struct spool_fixture *f = *state;
    only(f, 1);
    struct pointer p = write_message(f, SPAN("one\r\n"));
    char other[200];
    snprintf(other, sizeof other, "%s/v1", f->dir);
    move_root(f, "v1", "away");
    assert_int_equal(mkdir(other, 0700), 0); /* the empty mount point */
    check_message(f, &p, SPAN("one\r\n"));
    WAIT(&f->net, NULL, !volume_well(f, 1));
    assert_string_equal(volume_why(f, 1), ".mailfleet-volume: No such file or directory");
    assert_int_equal(create_error(f), ERR_TEMP);
    check_message(f, &p, SPAN("one\r\n"));
    assert_int_equal(count_entries(other), 2);

    assert_int_equal(rmdir(other), 0);
    move_root(f, "away", "v1");
    wait_well(f);
    check_message(f, &p, SPAN("one\r\n"));
    assert_int_equal(try_write(f, 10).ev, SPOOL_WRITTEN);
}

/* Another directory with the right sentinel takes its place: an export that was mounted again. */
static void test_root_is_replaced(void **state)
{
    struct spool_fixture *f = *state;
    only(f, 1);
    struct pointer p = write_message(f, SPAN("one\r\n"));
    move_root(f, "v1", "away");
    char why[256];
    assert_int_equal(volume_create(&f->volumes[0], &f->options, why, sizeof why), ERR_OK);
    arm(POINT_CREATE, ENOSPC, 1);
    assert_int_equal(try_write(f, 10).ev, SPOOL_FAILED); /* so that it is looked at now */
    disarm();
    WAIT(&f->net, NULL, read_error(f, &p) == ERR_NOTFOUND);
    struct written w = try_write(f, 10);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_true(has_file(f, &w.p));
}

/* Not there when the spool is opened; then another volume's; then right. */
static void test_root_comes(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN("one\r\n"));
    char name[8];
    snprintf(name, sizeof name, "v%u", p.volume);
    move_root(f, name, "away");
    spool_close(&f->spool);
    f->spool = spool_open(f->net.loop, &f->options);
    only(f, p.volume);
    assert_string_equal(volume_why(f, p.volume), "not yet looked at");
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(read_error(f, &p), ERR_TEMP); /* never NOTFOUND */

    move_root(f, p.volume == 1 ? "v2" : "v1", name);
    WAIT(&f->net, NULL,
         !strcmp(volume_why(f, p.volume), ".mailfleet-volume holds the UUID of another volume"));
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(read_error(f, &p), ERR_TEMP);

    move_root(f, name, p.volume == 1 ? "v2" : "v1");
    move_root(f, "away", name);
    check_message(f, &p, SPAN("one\r\n")); /* a read looks for itself */
    wait_well(f);
    assert_int_equal(try_write(f, 10).ev, SPOOL_WRITTEN);
}

/* --- writers that are killed ----------------------------------------------------------------- */

#define ROUNDS  40
#define WRITERS 4

/* The child: writes without end, and tells the id of each message that was written. */
static void write_for_ever(struct spool_fixture *f)
{
    struct written w[WRITERS];
    for (size_t i = 0; i < WRITERS; i++) {
        w[i] = (struct written){ 0 };
    }
    for (;;) {
        for (size_t i = 0; i < WRITERS; i++) {
            if (w[i].writer) {
                continue;
            }
            if (w[i].named && write(STDOUT_FILENO, &w[i].p, sizeof w[i].p) < 0) {
                return;
            }
            struct buf octets =
                random_octets(&f->random, next_random(&f->random) % (i % 2 ? 3000 : 200000));
            begin(f, &w[i]);
            spool_append(w[i].writer, buf_span(&octets));
            spool_finish(w[i].writer);
            buf_fini(&octets);
        }
        fixture_turn(&f->net, NULL);
    }
}

static int child_main(const char *dir, uint64_t seed)
{
    struct spool_fixture *f = NEW(struct spool_fixture);
    *f = (struct spool_fixture){ .options = over_nfs(patient), .n = 1, .random = seed };
    snprintf(f->dir, sizeof f->dir, "%s", dir);
    stats_use(&f->stats);
    fixture_init(&f->net);
    f->spool = spool_open(f->net.loop, &f->options);
    f->volumes[0] = make_volume(f, 1);
    set_volumes(f);
    wait_well(f);
    write_for_ever(f);
    return 1;
}

static pid_t child_start(const char *dir, const char *seed, int *out)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        execl("/proc/self/exe", "test_spool_faults", dir, seed, (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    close(ends[1]);
    *out = ends[0];
    return pid;
}

static struct {
    unsigned unfinished, right;
} found;

static int look_at_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    struct blob_id id;
    if (type != FTW_F || path[ftw->base] == '.') {
        return 0;
    }
    assert_int_equal(blob_id_parse(span_str(path + ftw->base), &id), ERR_OK);
    struct buf b = file_octets(path);
    enum file_state s = file_state(buf_span(&b), &id);
    buf_fini(&b);
    if (s == FILE_WRONG) {
        fail_msg("%s is neither unfinished nor right", path);
    }
    found.unfinished += s == FILE_UNFINISHED;
    found.right += s == FILE_RIGHT;
    return 0;
}

/* One life of a writer; returns how many messages it told of, all of which are there. */
static unsigned kill_one(struct spool_fixture *f, unsigned round)
{
    char seed[16];
    int out;
    unsigned told = 0;
    struct pointer p;
    snprintf(seed, sizeof seed, "%u", round + 1);
    pid_t pid = child_start(f->dir, seed, &out);
    for (; read(out, &p, sizeof p) == sizeof p; told++) { /* less than a pipe holds is whole */
        assert_int_equal(pointer_state(f, &p), FILE_RIGHT);
        if (told == 3) {
            usleep((useconds_t)(next_random(&f->random) % 20000)); /* any moment will do */
            assert_int_equal(kill(pid, SIGKILL), 0);
        }
    }
    int status;
    close(out);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return told;
}

static void test_killed_writers(void **state)
{
    struct spool_fixture *f = *state;
    unsigned told = 0;
    found.unfinished = found.right = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        told += kill_one(f, i);
    }
    char root[200];
    snprintf(root, sizeof root, "%s/v1", f->dir);
    assert_int_equal(nftw(root, look_at_file, 16, FTW_PHYS), 0);
    assert_true(found.right >= told);
    assert_true(found.unfinished > 0); /* else nothing was killed at a moment that matters */
}

/* --- the fault point ------------------------------------------------------------------------- */

#ifdef MAILFLEET_FAULTS
/* Armed by main, for the 10th fsync of a message file. */
static void test_fault_point(void **state)
{
    struct spool_fixture *f = *state;
    unsigned failed = 0;
    for (int i = 0; i < 20; i++) {
        struct written w = try_write(f, 10);
        if (w.ev == SPOOL_FAILED) {
            assert_int_equal(w.e, ERR_UNCERTAIN);
            assert_true(w.named && has_file(f, &w.p));
            failed++;
            wait_writable(f);
        }
    }
    assert_int_equal(failed, 1);
}
#endif

#define SPOOL_TEST(t, setup) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(int argc, char **argv)
{
    if (argc == 3) {
        unsetenv("MAILFLEET_FAULT");
        return child_main(argv[1], strtoull(argv[2], NULL, 10));
    }
    setenv("MAILFLEET_FAULT", "spool_fsync:10=fail", 1);
    const struct CMUnitTest tests[] = {
#ifdef MAILFLEET_FAULTS
        SPOOL_TEST(test_fault_point, setup_one), /* the first, as the point counts */
#endif
        SPOOL_TEST(test_faults, setup_one),
        SPOOL_TEST(test_another_volume, setup_two),
        SPOOL_TEST(test_directory_faults, setup_one),
        SPOOL_TEST(test_doubt, setup_one),
        SPOOL_TEST(test_ready, setup_one),
        SPOOL_TEST(test_no_volume_takes_it, setup_one),
        SPOOL_TEST(test_little_writes, setup_one),
        SPOOL_TEST(test_no_permission, setup_one),
        SPOOL_TEST(test_hung_reads, setup_hasty),
        SPOOL_TEST(test_hung_row, setup_hasty),
        SPOOL_TEST(test_hung_write, setup_hasty),
        SPOOL_TEST(test_hung_and_given_up, setup_hasty),
        SPOOL_TEST(test_close_waits_for_room, setup_hasty),
        SPOOL_TEST(test_close_while_hung, setup_hasty),
        SPOOL_TEST(test_root_goes, setup_one),
        SPOOL_TEST(test_root_is_replaced, setup_one),
        SPOOL_TEST(test_root_comes, setup_two),
        SPOOL_TEST(test_killed_writers, setup_one),
    };
    cmocka_set_test_filter(getenv("TEST_FILTER"));
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
