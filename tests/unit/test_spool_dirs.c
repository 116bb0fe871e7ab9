/*
 * Tests of the directories that a volume keeps open: how many there are, and that a file is always
 * made, found and unlinked where its path says, whatever happens to directories, root and
 * descriptors meanwhile.
 *
 * The file calls of posix_volume are made directly, on threads of the test, with ids of days long
 * past. Some wait at a gate: the test's openat stops a thread before a call, or between the call
 * and its return.
 */
#include "spool_fixture.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/resource.h>

#include "store/posix_volume.h"

#define DAY_MS 86400000ull

/* --- a gate in openat ------------------------------------------------------------------------ */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int flags;  /* of the call that waits, O_CREAT or O_DIRECTORY; 0: none does */
    bool after; /* it was made */
    bool waits;
} gate = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* Of the next such call; the others go on. */
static void gate_close(int flags, bool after)
{
    pthread_mutex_lock(&gate.mutex);
    gate.flags = flags;
    gate.after = after;
    pthread_mutex_unlock(&gate.mutex);
}

static void gate_open(void)
{
    pthread_mutex_lock(&gate.mutex);
    gate.waits = false;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
}

static void gate_wait_for_one(void)
{
    pthread_mutex_lock(&gate.mutex);
    while (!gate.waits) {
        pthread_cond_wait(&gate.changed, &gate.mutex);
    }
    pthread_mutex_unlock(&gate.mutex);
}

static void gate_pass(int flags, bool after)
{
    pthread_mutex_lock(&gate.mutex);
    if (gate.flags & flags && gate.after == after) {
        gate.flags = 0;
        gate.waits = true;
        pthread_cond_broadcast(&gate.changed);
        while (gate.waits) {
            pthread_cond_wait(&gate.changed, &gate.mutex);
        }
    }
    pthread_mutex_unlock(&gate.mutex);
}

int openat(int dir, const char *path, int flags, ...)
{
    int (*real)(int, const char *, int, ...) =
        (int (*)(int, const char *, int, ...))(uintptr_t)dlsym(RTLD_NEXT, "openat64");
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    gate_pass(flags, false);
    int fd = real(dir, path, flags, mode);
    int error = errno;
    gate_pass(flags, true);
    errno = error;
    return fd;
}

/* --- a gate in fsync -------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool closed;
    bool fail;
    unsigned calls; /* that were begun, of directories */
} syncs = { .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))(uintptr_t)dlsym(RTLD_NEXT, "fsync");
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return real(fd);
    }
    pthread_mutex_lock(&syncs.mutex);
    bool fail = syncs.fail;
    syncs.calls++;
    pthread_cond_broadcast(&syncs.changed);
    while (syncs.closed) {
        pthread_cond_wait(&syncs.changed, &syncs.mutex);
    }
    pthread_mutex_unlock(&syncs.mutex);
    errno = EIO;
    return fail ? -1 : real(fd);
}

static void syncs_set(bool closed, bool fail)
{
    pthread_mutex_lock(&syncs.mutex);
    syncs.closed = closed;
    syncs.fail = fail;
    pthread_cond_broadcast(&syncs.changed);
    pthread_mutex_unlock(&syncs.mutex);
}

static void wait_for_syncs(unsigned calls)
{
    pthread_mutex_lock(&syncs.mutex);
    while (syncs.calls < calls) {
        pthread_cond_wait(&syncs.changed, &syncs.mutex);
    }
    pthread_mutex_unlock(&syncs.mutex);
}

/* --- one volume ------------------------------------------------------------------------------ */

struct volume_fixture {
    struct spool_fixture f; /* its directory and volume, no spool */
    struct posix_volume pv;
    struct rlimit limit;
};

/* So that the volume keeps n directories. */
static void limit_dirs(struct volume_fixture *v, unsigned n)
{
    struct rlimit r = v->limit;
    r.rlim_cur = 4 * n;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
    posix_volume_fini(&v->pv);
    posix_volume_init(&v->pv, &v->f.volumes[0]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &v->limit), 0);
}

static int setup(void **state)
{
    struct volume_fixture *v = NEW(struct volume_fixture);
    v->f.fds = open_fds();
    v->f.n = 1;
    make_fixture_dir(v->f.dir, sizeof v->f.dir);
    v->f.volumes[0] = make_volume(&v->f, 1);
    posix_volume_init(&v->pv, &v->f.volumes[0]);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &v->limit), 0);
    *state = v;
    return 0;
}

static int teardown(void **state)
{
    struct volume_fixture *v = *state;
    gate_open();
    posix_volume_fini(&v->pv);
    assert_int_equal(open_fds(), v->f.fds);
    remove_tree(v->f.dir);
    free(v);
    return 0;
}

/* With this one, which is in every count. */
static unsigned open_dirs(void)
{
    unsigned n = 0;
    struct stat st;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        n += fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode);
    }
    closedir(d);
    return n;
}

/* --- messages -------------------------------------------------------------------------------- */

/* An id of that day in that hash directory (0 to 15), another one each time. */
static struct pointer new_pointer(unsigned day, unsigned hash)
{
    static _Atomic uint32_t count;
    uint32_t n = ++count;
    uint8_t random[10] = { (uint8_t)(hash << 4) };
    memcpy(random + 2, &n, sizeof n);
    return (struct pointer){ .id = blob_id_make(day * DAY_MS, random), .volume = 1 };
}

/* The message is its id. */
static enum err put(struct posix_volume *pv, struct pointer *p)
{
    char text[BLOB_ID_CHARS + 1], why[HEALTH_WHY];
    blob_id_text(&p->id, text);
    struct buf block;
    buf_init(&block, SIZE_MAX);
    struct envelope e = { .id = p->id, .to = one_recipient(), .n = 1 };
    assert_int_equal(envelope_write(&e, &block), ERR_OK);
    p->skip = (uint32_t)buf_len(&block);
    p->size = BLOB_ID_CHARS;
    struct outfile *f = outfile_new(&p->id, &block);
    assert_int_equal(buf_add(&f->octets, buf_span(&f->block)), ERR_OK);
    assert_int_equal(buf_add(&f->octets, span_str(text)), ERR_OK);
    f->last = true;
    enum err err = posix_volume_write(pv, f, why);
    outfile_free(&f);
    return err;
}

static enum err get(struct posix_volume *pv, struct pointer *p)
{
    char text[BLOB_ID_CHARS + 1], why[HEALTH_WHY];
    blob_id_text(&p->id, text);
    struct infile *f = infile_new(p, SPAN(""));
    enum err e = posix_volume_read(pv, f, UINT32_MAX, why);
    if (e == ERR_OK) {
        assert_true(span_eq(infile_piece(f), span_str(text)));
    }
    infile_free(&f);
    return e;
}

static enum err drop(struct posix_volume *pv, const struct pointer *p)
{
    char why[HEALTH_WHY];
    return posix_volume_unlink(pv, &p->id, why);
}

static struct pointer put_new(struct posix_volume *pv, unsigned day, unsigned hash)
{
    struct pointer p = new_pointer(day, hash);
    assert_int_equal(put(pv, &p), ERR_OK);
    return p;
}

static bool has_file(struct volume_fixture *v, const struct pointer *p)
{
    char path[256];
    file_path(&v->f, p, path, sizeof path);
    return access(path, F_OK) == 0;
}

/* The path of a message's hash directory, or of its day's. */
static void dir_path(struct volume_fixture *v, const struct pointer *p, bool day, char out[256])
{
    file_path(&v->f, p, out, 256);
    *strrchr(out, '/') = '\0';
    if (day) {
        *strrchr(out, '/') = '\0';
    }
}

static void remove_day(struct volume_fixture *v, const struct pointer *p)
{
    char day[256];
    dir_path(v, p, true, day);
    remove_tree(day);
}

/* --- how many -------------------------------------------------------------------------------- */

static void test_bound(void **state)
{
    struct volume_fixture *v = *state;
    struct pointer p[100];
    unsigned before = open_dirs();
    limit_dirs(v, 20);
    for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = put_new(&v->pv, 1000 + i / 3, i % 3);
        assert_int_equal(open_dirs() - before, 1 + (i < 20 ? i + 1 : 20)); /* with the root */
    }
    for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
        assert_true(has_file(v, &p[i]));
        assert_int_equal(get(&v->pv, &p[i]), ERR_OK);
        assert_int_equal(open_dirs() - before, 1 + 20);
    }
    for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
        assert_int_equal(drop(&v->pv, &p[i]), ERR_OK);
        assert_false(has_file(v, &p[i]));
    }
    assert_int_equal(open_dirs() - before, 1 + 20);
}

/* Whatever the limit of descriptors, no volume keeps more than 1,024. */
static void test_most(void **state)
{
    struct volume_fixture *v = *state;
    unsigned before = open_dirs();
    limit_dirs(v, 2000);
    for (unsigned i = 0; i < 1100; i++) {
        struct pointer p = new_pointer(2000 + i / 16, i % 16);
        char dir[256];
        dir_path(v, &p, true, dir);
        assert_true(mkdir(dir, 0700) == 0 || errno == EEXIST);
        dir_path(v, &p, false, dir);
        assert_int_equal(mkdir(dir, 0700), 0);
        assert_int_equal(get(&v->pv, &p), ERR_NOTFOUND);
    }
    assert_int_equal(open_dirs() - before, 1 + 1024);
}

/* Volumes share evenly; a new one takes its part from the others. */
static void test_shares(void **state)
{
    struct volume_fixture *v = *state;
    struct posix_volume others[4];
    unsigned before = open_dirs();
    limit_dirs(v, 20);
    for (unsigned i = 0; i < 16; i++) {
        put_new(&v->pv, 1000, i);
    }
    assert_int_equal(open_dirs() - before, 1 + 16);
    for (unsigned i = 0; i < 4; i++) {
        posix_volume_init(&others[i], &v->f.volumes[0]);
    }
    put_new(&v->pv, 1001, 0);
    assert_int_equal(open_dirs() - before, 1 + 4);
    for (unsigned i = 0; i < 4; i++) {
        posix_volume_fini(&others[i]);
    }
    for (unsigned i = 0; i < 16; i++) {
        put_new(&v->pv, 1001, i);
    }
    assert_int_equal(open_dirs() - before, 1 + 19); /* 4 and the 15 that were not among them */
}

/* Which one is told by moving them away: a file is still found in a directory that is open. */
static void test_least_recently_used_goes(void **state)
{
    struct volume_fixture *v = *state;
    struct pointer p[4];
    limit_dirs(v, 3);
    for (unsigned i = 0; i < 3; i++) {
        p[i] = put_new(&v->pv, 1000, i);
    }
    assert_int_equal(get(&v->pv, &p[0]), ERR_OK);
    p[3] = put_new(&v->pv, 1000, 3); /* in place of the second */
    char day[256], away[300];
    dir_path(v, &p[0], true, day);
    snprintf(away, sizeof away, "%s.away", day);
    assert_int_equal(rename(day, away), 0);
    assert_int_equal(get(&v->pv, &p[0]), ERR_OK);
    assert_int_equal(get(&v->pv, &p[2]), ERR_OK);
    assert_int_equal(get(&v->pv, &p[3]), ERR_OK);
    assert_int_equal(get(&v->pv, &p[1]), ERR_NOTFOUND);
}

/* --- directories that were removed ----------------------------------------------------------- */

static void test_removed(void **state)
{
    struct volume_fixture *v = *state;
    unsigned before = open_dirs();
    struct pointer p = put_new(&v->pv, 1000, 5);
    remove_day(v, &p);
    assert_int_equal(get(&v->pv, &p), ERR_NOTFOUND);
    assert_int_equal(open_dirs() - before, 1); /* that it is gone was seen */
    assert_int_equal(drop(&v->pv, &p), ERR_OK);
    assert_int_equal(get(&v->pv, &p), ERR_NOTFOUND);

    p = put_new(&v->pv, 1000, 5); /* makes it again */
    assert_true(has_file(v, &p));
    remove_day(v, &p);
    p = put_new(&v->pv, 1000, 5); /* while the one that was removed is open */
    assert_true(has_file(v, &p));
    assert_int_equal(get(&v->pv, &p), ERR_OK);
    assert_int_equal(open_dirs() - before, 2);
}

/* Another node makes the directory again, with files that are looked for in the former first. */
static void test_remade(void **state)
{
    struct volume_fixture *v = *state;
    struct posix_volume other;
    struct pointer p, q;
    posix_volume_init(&other, &v->f.volumes[0]);
    for (unsigned i = 0; i < 3; i++) {
        p = put_new(&v->pv, 1000 + i, 0);
        assert_int_equal(get(&other, &p), ERR_OK);
        remove_day(v, &p);
        q = put_new(&other, 1000 + i, 0);
        assert_true(has_file(v, &q));
        switch (i) {
        case 0:
            assert_int_equal(get(&v->pv, &q), ERR_OK);
            break;
        case 1:
            assert_int_equal(drop(&v->pv, &q), ERR_OK);
            assert_false(has_file(v, &q));
            break;
        default:
            q = put_new(&v->pv, 1000 + i, 0);
            assert_true(has_file(v, &q));
            assert_int_equal(get(&other, &q), ERR_OK);
        }
    }
    posix_volume_fini(&other);
}

/* --- roots that are replaced ----------------------------------------------------------------- */

/* Another directory with the right sentinel takes its place; the next look finds it. */
static void replace_root(struct volume_fixture *v)
{
    static unsigned count;
    char root[200], away[200];
    snprintf(root, sizeof root, "%s/v1", v->f.dir);
    snprintf(away, sizeof away, "%s/away%u", v->f.dir, count++);
    assert_int_equal(rename(root, away), 0);
    make_volume(&v->f, 1);
}

static void look(struct volume_fixture *v, bool prepare)
{
    struct backend_report r;
    posix_volume_probe(&v->pv, prepare, &r);
    assert_int_equal(r.err, ERR_OK);
}

static void test_root_replaced(void **state)
{
    struct volume_fixture *v = *state;
    unsigned before = open_dirs();
    struct pointer p[8];
    for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = put_new(&v->pv, 1000, i);
    }
    assert_int_equal(open_dirs() - before, 1 + 8);
    look(v, true);
    assert_int_equal(open_dirs() - before, 1 + 8); /* it is the same root */
    replace_root(v);
    look(v, true);
    assert_int_equal(open_dirs() - before, 1);
    for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
        assert_int_equal(get(&v->pv, &p[i]), ERR_NOTFOUND);
        p[i] = put_new(&v->pv, 1000, i);
        assert_true(has_file(v, &p[i]));
    }
}

/* A call whose thread waits at the gate. */
struct call {
    pthread_t thread;
    struct posix_volume *pv;
    struct pointer p;
    enum err (*call)(struct posix_volume *pv, struct pointer *p);
    enum err e;
};

static void *call_main(void *arg)
{
    struct call *c = arg;
    c->e = c->call(c->pv, &c->p);
    return NULL;
}

static void call_start(struct call *c, int flags, bool after)
{
    gate_close(flags, after);
    assert_int_equal(pthread_create(&c->thread, NULL, call_main, c), 0);
    gate_wait_for_one();
}

static void call_end(struct call *c)
{
    gate_open();
    assert_int_equal(pthread_join(c->thread, NULL), 0);
    assert_int_equal(c->e, ERR_OK);
}

/* A directory that was opened below the root just before that was replaced is not kept. */
static void test_root_replaced_meanwhile(void **state)
{
    struct volume_fixture *v = *state;
    struct call c = { .pv = &v->pv, .p = put_new(&v->pv, 1000, 0), .call = get };
    posix_dirs_forget_all(&v->pv.dirs);
    call_start(&c, O_DIRECTORY, true);
    replace_root(v);
    look(v, false);
    call_end(&c); /* as if it had ended before */
    struct pointer p = put_new(&v->pv, 1000, 0);
    assert_true(has_file(v, &p));
}

/* --- descriptors ----------------------------------------------------------------------------- */

/*
 * While a thread is on its way to create a file, its directory is the least recently used, or no
 * longer wanted, and others are opened: they must not get its descriptor's number.
 */
static void test_evicted_while_used(void **state)
{
    struct volume_fixture *v = *state;
    unsigned before = open_dirs();
    limit_dirs(v, 2);
    for (unsigned how = 0; how < 3; how++) {
        struct call c = { .pv = &v->pv, .p = new_pointer(1000, 0), .call = put };
        struct pointer p[5], first = put_new(&v->pv, 1000, 0);
        call_start(&c, O_CREAT, false);
        if (how == 1) {
            posix_dirs_forget_all(&v->pv.dirs);
        } else if (how == 2) {
            assert_int_equal(drop(&v->pv, &first), ERR_OK);
            assert_int_equal(get(&v->pv, &first), ERR_NOTFOUND); /* which forgets it */
        }
        for (unsigned i = 0; i < ARRAY_LEN(p); i++) {
            p[i] = put_new(&v->pv, 1001, i);
        }
        call_end(&c);
        assert_true(has_file(v, &c.p));
        assert_int_equal(open_dirs() - before, 1 + 2);
    }
}

/* Takes all descriptors but n. */
static void take_descriptors(struct volume_fixture *v, unsigned n, int taken[256], unsigned *count)
{
    struct rlimit r = v->limit;
    r.rlim_cur = 200;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
    for (*count = 0; (taken[*count] = dup(v->pv.root)) >= 0; ++*count) {
    }
    assert_int_equal(errno, EMFILE);
    while (n--) {
        close(taken[--*count]);
    }
}

static void give_back(struct volume_fixture *v, const int taken[256], unsigned count)
{
    while (count) {
        close(taken[--count]);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &v->limit), 0);
}

/*
 * One descriptor is all that a message needs, and those of directories count as free ones. With
 * none at all there is nothing to be done.
 */
static void test_no_descriptor_left(void **state)
{
    struct volume_fixture *v = *state;
    int taken[256];
    unsigned count;
    struct pointer p = put_new(&v->pv, 1000, 0), q;
    for (unsigned kept = 0; kept < 2; kept++) {
        put_new(&v->pv, 1001, 0);
        put_new(&v->pv, 1002, 0);
        if (!kept) {
            posix_dirs_forget_all(&v->pv.dirs);
        }
        take_descriptors(v, kept ? 0 : 1, taken, &count);
        q = new_pointer(1000 + kept, 0);
        enum err e = put(&v->pv, &q), read = get(&v->pv, &p);
        give_back(v, taken, count);
        assert_int_equal(e, ERR_OK);
        assert_int_equal(read, ERR_OK);
        assert_true(has_file(v, &q));
    }
    posix_dirs_forget_all(&v->pv.dirs);
    take_descriptors(v, 0, taken, &count);
    q = new_pointer(1000, 0);
    enum err e = put(&v->pv, &q), read = get(&v->pv, &p);
    give_back(v, taken, count);
    assert_int_equal(e, ERR_TEMP);
    assert_int_equal(read, ERR_TEMP);
    assert_false(has_file(v, &q));
}

/* A directory that may be searched but not read. Root may read any, so nobody is who does it. */
static void test_unreadable_directory(void **state)
{
    struct volume_fixture *v = *state;
    char path[256];
    struct pointer p = put_new(&v->pv, 1000, 0);
    bool root = geteuid() == 0;
    file_path(&v->f, &p, path, sizeof path);
    assert_int_equal(chmod(path, 0644), 0);
    dir_path(v, &p, true, path);
    assert_int_equal(chmod(path, 0711), 0);
    dir_path(v, &p, false, path);
    assert_int_equal(chmod(path, root ? 0711 : 0311), 0);
    snprintf(path, sizeof path, "%s/v1", v->f.dir);
    assert_int_equal(chmod(path, 0711), 0);
    posix_dirs_forget_all(&v->pv.dirs);
    assert_true(!root || seteuid(65534) == 0);
    enum err e = get(&v->pv, &p);
    assert_true(!root || seteuid(0) == 0);
    assert_int_equal(e, ERR_OK);
    dir_path(v, &p, false, path);
    assert_int_equal(chmod(path, 0755), 0);
}

/* --- the sync of names ------------------------------------------------------------------------ */

struct syncer {
    pthread_t thread;
    struct volume_fixture *v;
    struct posix_dir *dir;
    uint64_t made;
    bool ok;
    int error;
};

static void *sync_it(void *arg)
{
    struct syncer *s = arg;
    s->ok = posix_dirs_sync(&s->v->pv.dirs, s->dir, s->made);
    s->error = errno;
    return NULL;
}

static void sync_begin(struct syncer *s, struct volume_fixture *v, struct posix_dir *dir)
{
    *s = (struct syncer){ .v = v, .dir = dir, .made = posix_dirs_made(&v->pv.dirs) };
    assert_int_equal(pthread_create(&s->thread, NULL, sync_it, s), 0);
}

static void sync_end(struct syncer *s, bool ok)
{
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(s->ok, ok);
    assert_true(ok || s->error == EIO);
}

/* One sync for all whose names were made before it began, and none for a name that is durable. A
 * name made while it was under way is not served by it, nor hurt by its failure. */
static void test_one_sync_for_many(void **state)
{
    struct volume_fixture *v = *state;
    struct syncer first, more[3], late;
    bool fresh;
    int root = open(v->f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct posix_dir *dir = posix_dirs_open(&v->pv.dirs, root, ".", 1, &fresh);
    assert_non_null(dir);
    for (unsigned fail = 0; fail < 2; fail++) {
        unsigned before = syncs.calls;
        uint64_t early = posix_dirs_made(&v->pv.dirs);
        syncs_set(true, fail);
        sync_begin(&first, v, dir);
        wait_for_syncs(before + 1);
        for (size_t i = 0; i < ARRAY_LEN(more); i++) {
            sync_begin(&more[i], v, dir);
        }
        assert_int_equal(syncs.calls, before + 1); /* at most one at a time */
        syncs_set(false, false);
        sync_end(&first, !fail);
        for (size_t i = 0; i < ARRAY_LEN(more); i++) {
            sync_end(&more[i], true);
        }
        assert_int_equal(syncs.calls, before + 2);
        late = (struct syncer){ .v = v, .dir = dir, .made = early };
        sync_it(&late);
        assert_int_equal(late.ok, !fail);
        assert_int_equal(syncs.calls, before + 2);
    }
    posix_dirs_close(&v->pv.dirs, &dir);
    close(root);
}

/* --- threads --------------------------------------------------------------------------------- */

#define THREADS 6
#define ROUNDS  300

struct worker {
    pthread_t thread;
    struct volume_fixture *v;
    uint64_t random;
    unsigned bad;
    _Atomic unsigned *running;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t r = next_random(&w->random);
        struct pointer p = new_pointer(1000 + r % 5, r / 8 % 3);
        w->bad += put(&w->v->pv, &p) != ERR_OK;
        w->bad += !has_file(w->v, &p);
        w->bad += get(&w->v->pv, &p) != ERR_OK;
        w->bad += drop(&w->v->pv, &p) != ERR_OK;
        w->bad += has_file(w->v, &p);
        w->bad += r % 16 == 0 && get(&w->v->pv, &p) != ERR_NOTFOUND;
    }
    --*w->running;
    return NULL;
}

/* More directories than are kept, and all of them forgotten again and again. */
static void test_threads(void **state)
{
    struct volume_fixture *v = *state;
    struct worker w[THREADS];
    _Atomic unsigned running = THREADS;
    unsigned bad = 0, before = open_dirs();
    limit_dirs(v, 7);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){ .v = v, .random = i + 1, .running = &running };
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    while (running) {
        look(v, false);
        posix_dirs_forget_all(&v->pv.dirs);
        usleep(1000);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(w[i].thread, NULL), 0);
        bad += w[i].bad;
    }
    assert_int_equal(bad, 0);
    assert_in_range(open_dirs() - before, 1, 1 + 7);
}

#define DIRS_TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    struct rlimit r; /* as the daemon does */
    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
    r.rlim_cur = r.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &r) == 0);
    const struct CMUnitTest tests[] = {
        DIRS_TEST(test_bound),
        DIRS_TEST(test_most),
        DIRS_TEST(test_shares),
        DIRS_TEST(test_least_recently_used_goes),
        DIRS_TEST(test_removed),
        DIRS_TEST(test_remade),
        DIRS_TEST(test_root_replaced),
        DIRS_TEST(test_root_replaced_meanwhile),
        DIRS_TEST(test_evicted_while_used),
        DIRS_TEST(test_no_descriptor_left),
        DIRS_TEST(test_unreadable_directory),
        DIRS_TEST(test_one_sync_for_many),
        DIRS_TEST(test_threads),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
