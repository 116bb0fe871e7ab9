/*
 * Files and their handles on an NFS server: a handle is a hint, whatever it says the message is
 * right or there is an error; volumes that are moved, swapped, full or to be read only.
 *
 * What happens to files happens from the server's side, with ordinary file calls.
 */
#include "nas_fixture.h"

#define CHUNK       8192u
#define BUFFER      65536u
#define DEEP        1000u
#define CONNECTIONS 3u

static const struct spool_options patient = { .buffer = BUFFER,
                                              .read_chunk = CHUNK,
                                              .threads = 2,
                                              .queue = 4 * DEEP,
                                              .timeout_ms = 60000,
                                              .nfs_connections = CONNECTIONS };

static int setup_one(void **state)
{
    *state = NEW(struct spool_fixture);
    fixture_begin(*state, 1, patient);
    prepare(*state);
    return 0;
}

static int setup_two(void **state)
{
    *state = NEW(struct spool_fixture);
    fixture_begin(*state, 2, patient);
    prepare(*state);
    return 0;
}

static int teardown(void **state)
{
    ask("mend");
    fixture_end(*state);
    free(*state);
    return 0;
}

/* --- files, from the server's side ----------------------------------------------------------- */

/* A command of the shell in the fixture's directory. */
static void shell(const struct spool_fixture *f, const char *command)
{
    char all[512];
    snprintf(all, sizeof all, "cd %s && %s", f->dir, command);
    int status = system(all); /* NOLINT: a test may */
    if (status != 0) {
        fail_msg("%s: %d", all, status);
    }
}

static void path_of(const struct spool_fixture *f, const struct message *m, char out[256])
{
    file_path(f, &m->p, out, 256);
}

static void write_file(const char *path, struct span octets, int flags)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, octets.p, octets.n), octets.n);
    assert_int_equal(close(fd), 0);
}

/* The same octets in another file: what its handle was leads nowhere any more. */
static void replace_by_copy(const struct spool_fixture *f, const struct message *m)
{
    char path[256], copy[300];
    path_of(f, m, path);
    snprintf(copy, sizeof copy, "%s.copy", path);
    struct buf b = file_octets(path);
    write_file(copy, buf_span(&b), O_CREAT | O_EXCL);
    assert_int_equal(rename(copy, path), 0);
    buf_fini(&b);
}

/* What a file says, in place: its handle stays. */
static void overwrite(const struct spool_fixture *f, const struct message *at,
                      const struct message *by)
{
    char path[256], from[256];
    path_of(f, at, path);
    path_of(f, by, from);
    struct buf b = file_octets(from);
    write_file(path, buf_span(&b), O_TRUNC);
    buf_fini(&b);
}

static void resize(const struct spool_fixture *f, const struct message *m, int by)
{
    char path[256];
    struct stat st;
    path_of(f, m, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size + by), 0);
}

static size_t found_files;

static int count_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    found_files += type == FTW_F && path[ftw->base] != '.';
    return 0;
}

/* Message files in a directory below the fixture's. */
static size_t count_messages(const struct spool_fixture *f, const char *dir)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", f->dir, dir);
    found_files = 0;
    assert_int_equal(nftw(path, count_file, 16, FTW_PHYS), 0);
    return found_files;
}

/* The server comes back, with what it had open closed; then so do the connections. */
static void restart(struct spool_fixture *f, const struct message *any, const char *question)
{
    ask(question);
    WAIT(&f->net, NULL, message_read_error(f, any, handle_of(any)) == ERR_OK);
}

/* --- handles --------------------------------------------------------------------------------- */

static bool is_handle(const struct seen *s, const struct message *m)
{
    return s->told && span_eq(nfs_handle_span(&s->handle), handle_of(m));
}

/* What the write told is right, and so there is nothing to repair. */
static void test_handle_of_write(void **state)
{
    struct spool_fixture *f = *state;
    static const size_t sizes[] = { 0, 1, CHUNK, 3 * CHUNK + 1, BUFFER + 1, 10 * BUFFER };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct message m;
        message_write(f, &m, sizes[i]);
        assert_int_equal(m.ev, SPOOL_WRITTEN);
        assert_false(message_read(f, &m, handle_of(&m)).told);
        struct seen s = message_read(f, &m, SPAN(""));
        assert_true(is_handle(&s, &m));
        message_fini(&m);
    }
}

/* A handle that leads nowhere or to something else: the path is right, and tells the right one. */
static void test_wrong_handles(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, twin, larger, gone;
    char noise[HANDLE_MAX];
    message_write(f, &m, 3 * CHUNK);
    message_write(f, &twin, 3 * CHUNK); /* of the same length: its id alone tells */
    message_write(f, &larger, 5 * CHUNK);
    message_write(f, &gone, 3 * CHUNK);
    assert_int_equal(message_unlink(f, &gone), ERR_OK);
    memset(noise, 'x', sizeof noise);
    struct nfs_handle changed = m.handle;
    changed.octets[changed.len / 2] ^= 0x55;
    const struct span wrong[] = {
        handle_of(&twin),           handle_of(&larger),
        handle_of(&gone),           span_of(noise, 1),
        span_of(noise, HANDLE_MAX), span_of(noise, m.handle.len),
        nfs_handle_span(&changed),  span_of(m.handle.octets, m.handle.len - 1u),
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        print_message("# handle %zu\n", i);
        struct seen s = message_read(f, &m, wrong[i]);
        assert_true(is_handle(&s, &m));
    }
    assert_int_equal(stats_get(&f->stats, STAT_nfs_handles_stale), ARRAY_LEN(wrong));
    message_fini(&m);
    message_fini(&twin);
    message_fini(&larger);
    message_fini(&gone);
}

/* Another file at the path: the old handle may lead to the old file as long as the server has it.
 */
static void test_replaced(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, other;
    message_write(f, &m, 3 * CHUNK);
    message_write(f, &other, 0);
    replace_by_copy(f, &m);
    restart(f, &other, "restart");
    struct seen s = message_read(f, &m, handle_of(&m));
    assert_true(s.told && !is_handle(&s, &m));
    assert_false(message_read(f, &m, nfs_handle_span(&s.handle)).told);
    message_fini(&m);
    message_fini(&other);
}

static void test_removed(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, 10);
    assert_int_equal(message_unlink(f, &m), ERR_OK);
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_NOTFOUND);
    assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_NOTFOUND);
    assert_int_equal(message_unlink(f, &m), ERR_OK);
    message_fini(&m);
}

/* What is wrong by its path, too, is served to nobody. */
static void test_wrong_file(void **state)
{
    struct spool_fixture *f = *state;
    static const size_t sizes[] = { 10, CHUNK, 5 * CHUNK };
    static const int by[] = { 1, -1 };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct message m, twin;
        message_write(f, &m, sizes[i]);
        message_write(f, &twin, sizes[i]);
        for (size_t j = 0; j < ARRAY_LEN(by); j++) {
            resize(f, &m, by[j]);
            assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_CORRUPT);
            assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_CORRUPT);
            resize(f, &m, -by[j]); /* its last octet is another now; that is for fsck to find */
        }
        overwrite(f, &m, &twin);
        assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_CORRUPT);
        assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_CORRUPT);
        message_read(f, &twin, handle_of(&twin));
        message_fini(&m);
        message_fini(&twin);
    }
}

/* --- between two pieces ---------------------------------------------------------------------- */

/* A reader that has got its first piece. */
static struct seen *begin_reading(struct spool_fixture *f, const struct message *m, struct seen *s)
{
    *s = (struct seen){ .r.on_demand = true };
    seen_start(f, s, &m->p, handle_of(m));
    WAIT(&f->net, NULL, s->r.pieces == 1);
    assert_int_equal(s->r.e, ERR_OK);
    return s;
}

static void read_rest(struct spool_fixture *f, struct seen *s)
{
    s->r.on_demand = false;
    spool_read_next(s->r.reader);
    seen_end(f, s);
}

static void test_stale_between_pieces(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, other;
    struct seen s;
    message_write(f, &m, 5 * CHUNK);
    message_write(f, &other, 0);
    begin_reading(f, &m, &s);
    replace_by_copy(f, &m);
    restart(f, &other, "restart");
    read_rest(f, &s);
    assert_int_equal(s.r.e, ERR_OK);
    assert_true(span_eq(buf_span(&s.r.got), buf_span(&m.octets)));
    assert_true(s.told);
    assert_false(message_read(f, &m, nfs_handle_span(&s.handle)).told);
    buf_fini(&s.r.got);
    message_fini(&m);
    message_fini(&other);
}

static void test_removed_between_pieces(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, other;
    struct seen s;
    message_write(f, &m, 5 * CHUNK);
    message_write(f, &other, 0);
    begin_reading(f, &m, &s);
    assert_int_equal(message_unlink(f, &m), ERR_OK);
    restart(f, &other, "restart");
    read_rest(f, &s);
    assert_int_equal(s.r.e, ERR_NOTFOUND);
    buf_fini(&s.r.got);
    message_fini(&m);
    message_fini(&other);
}

static void test_resized_between_pieces(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    struct seen s;
    message_write(f, &m, 5 * CHUNK);
    static const int by[] = { 1, -2, -(int)(3 * CHUNK) };
    for (size_t i = 0; i < ARRAY_LEN(by); i++) {
        begin_reading(f, &m, &s);
        resize(f, &m, by[i]);
        read_rest(f, &s);
        assert_int_equal(s.r.e, ERR_CORRUPT);
        buf_fini(&s.r.got);
        resize(f, &m, -by[i]);
    }
    message_fini(&m);
}

/* --- volumes --------------------------------------------------------------------------------- */

static void write_in_leaf(struct spool_fixture *f, struct message *m, char leaf, bool there)
{
    char path[256];
    for (bool right = false; !right;) {
        message_write(f, m, 10);
        path_of(f, m, path);
        right = (path[strlen(path) - BLOB_ID_CHARS - 2] == leaf) == there;
        if (!right) {
            message_fini(m);
        }
    }
}

/* A day's directory is another, with all in it; the connection is gone, too. */
static void replace_days(struct spool_fixture *f)
{
    shell(f, "cd v1 && for day in 2*; do cp -a $day copy && rm -r $day && mv copy $day; done");
    size_t fds = open_fds();
    ask("restart");
    WAIT(&f->net, NULL, open_fds() < fds);
}

/*
 * Whatever comes first then to a process that knows the old directories, or some of them, finds its
 * way without a look at the volume.
 */
static void test_days_replaced(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, other, gone, next;
    char path[256];
    look(f, LOOK_NEVER);
    write_in_leaf(f, &m, '7', true);
    write_in_leaf(f, &gone, '7', true);
    write_in_leaf(f, &other, '7', false);

    replace_days(f);
    message_read(f, &m, SPAN(""));
    replace_days(f);
    message_read(f, &m, handle_of(&m));
    replace_days(f);
    assert_int_equal(message_unlink(f, &gone), ERR_OK);
    path_of(f, &gone, path);
    assert_int_equal(access(path, F_OK), -1);
    replace_days(f);
    message_write(f, &next, 10);
    assert_int_equal(next.ev, SPOOL_WRITTEN);

    reopen(f); /* it knows one of a day's directories */
    look(f, LOOK_NEVER);
    message_read(f, &m, SPAN(""));
    replace_days(f);
    message_read(f, &other, SPAN(""));
    message_fini(&m);
    message_fini(&other);
    message_fini(&gone);
    message_fini(&next);
}

/* All of it is other files than before: restored from a copy, and the server started anew. */
static void test_restored(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, next;
    message_write(f, &m, 3 * CHUNK);
    look(f, LOOK_NEVER); /* who uses it finds out */
    shell(f, "cp -a v1 copy && rm -r v1 && mv copy v1");
    ask("restart");
    WAIT(&f->net, NULL, message_read_error(f, &m, SPAN("")) == ERR_OK);
    struct seen s = message_read(f, &m, handle_of(&m));
    assert_true(s.told && !is_handle(&s, &m));
    assert_false(message_read(f, &m, nfs_handle_span(&s.handle)).told);
    message_write(f, &next, 10);
    assert_int_equal(next.ev, SPOOL_WRITTEN);
    message_read(f, &next, SPAN(""));
    assert_int_equal(count_messages(f, "v1"), 3); /* with that of prepare() */
    message_fini(&m);
    message_fini(&next);
}

static void check_nothing_is_missing(struct spool_fixture *f, const struct message *m)
{
    assert_int_equal(message_read_error(f, m, SPAN("")), ERR_TEMP);
    assert_int_equal(message_read_error(f, m, handle_of(m)), ERR_TEMP);
    assert_int_equal(message_unlink(f, m), ERR_TEMP);
}

/*
 * An empty directory where the volume was, as where nothing is mounted: that a message is not there
 * nobody may say. This server has the old directories open and serves them, with nothing in them.
 */
static void test_away(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, 10);
    shell(f, "cp -a v1 away && rm -r v1 && mkdir v1");
    check_nothing_is_missing(f, &m);
    look(f, LOOK_OFTEN);
    WAIT(&f->net, NULL, !volume_well(f, 1));
    assert_int_equal(create_error(f), ERR_TEMP);
    check_nothing_is_missing(f, &m);
    ask("restart");
    look(f, LOOK_OFTEN);
    for (int i = 0; i < 5; i++) {
        check_nothing_is_missing(f, &m);
    }
    WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), ".mailfleet-volume: NFS3ERR_NOENT"));
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(count_messages(f, "v1"), 0);
    shell(f, "rmdir v1 && mv away v1");
    ask("restart");
    wait_well(f);
    message_read(f, &m, handle_of(&m));
    message_fini(&m);
}

static void check_other_volume(struct spool_fixture *f, const struct message *m)
{
    WAIT(&f->net, NULL,
         !strcmp(volume_why(f, 1), ".mailfleet-volume holds the UUID of another volume"));
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(message_read_error(f, m, SPAN("")), ERR_TEMP);
    assert_int_equal(message_read_error(f, m, handle_of(m)), ERR_TEMP);
    assert_int_equal(message_unlink(f, m), ERR_TEMP);
}

/* Another volume's files at this one's path: not a file of it is taken, or put there. */
static void test_other_volume(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, 10);
    make_volume(f, 2);
    shell(f, "cp -a v1 away && rm -r v1 && mv v2 v1");
    ask("restart");
    look(f, LOOK_OFTEN);
    check_other_volume(f, &m);
    assert_int_equal(count_messages(f, "v1"), 0);
    shell(f, "rm -r v1 && mv away v1");
    ask("restart");
    wait_well(f);
    message_read(f, &m, SPAN(""));
    message_fini(&m);
}

/* The same handle, and says something else. */
static void test_other_sentinel(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char sentinel[200];
    message_write(f, &m, 10);
    snprintf(sentinel, sizeof sentinel, "%s/v1/.mailfleet-volume", f->dir);
    write_file(sentinel, SPAN("00000000-0000-4000-8000-00000000ffff\n"), O_TRUNC);
    look(f, LOOK_OFTEN);
    check_other_volume(f, &m);
    write_file(sentinel, span_str(f->volumes[0].uuid), O_TRUNC);
    wait_well(f);
    message_read(f, &m, handle_of(&m));
    message_fini(&m);
}

/* Moved within the export: what is written goes where the right sentinel is. */
static void test_moved(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, next;
    message_write(f, &m, 10);
    make_volume(f, 2);
    shell(f, "mv v1 away && mv v2 v1");
    message_read(f, &m, SPAN(""));
    message_write(f, &next, 10);
    assert_int_equal(next.ev, SPOOL_WRITTEN);
    assert_int_equal(count_messages(f, "v1"), 0);
    assert_int_equal(count_messages(f, "away"), 3);
    shell(f, "mv v1 v2 && mv away v1");
    message_fini(&m);
    message_fini(&next);
}

/* --- servers that refuse --------------------------------------------------------------------- */

/* Volume 1 on a small file system of its own, which takes nearly all new files. */
static void make_small(struct spool_fixture *f)
{
    const char *server = nfs_server(), *small = getenv("MAILFLEET_TEST_SMALL");
    int host = (int)strcspn(server, "?");
    char why[256] = "";
    struct volume *v = &f->volumes[0];
    v->weight = 1000000;
    snprintf(v->url, sizeof v->url, "nfs://%.*s%s%s", host, server, small, server + host);
    if (volume_create(v, &f->options, why, sizeof why) != ERR_OK) {
        fail_msg("%s", why);
    }
    set_volumes(f);
    wait_well(f);
    look(f, LOOK_OFTEN);
    wait_prepared(f, small, 1);
    look(f, LOOK_NEVER);
}

/* No file can be made: the next volume takes it, and nothing was begun on the first. */
static void test_no_room_for_files(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char path[256];
    make_small(f);
    unsigned n = 0;
    for (int fd = 0; fd >= 0; n++) {
        snprintf(path, sizeof path, "%s/x%u", getenv("MAILFLEET_TEST_SMALL"), n);
        fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd < 0 || close(fd) == 0);
    }
    assert_int_equal(errno, ENOSPC);
    ask("reset");
    message_write(f, &m, 10);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    assert_int_equal(m.p.volume, 2);
    assert_int_equal(calls_of("CREATE"), 2);
    assert_int_equal(calls_of("WRITE"), 1);
    message_fini(&m);
    f->volumes[1].weight = 0;
    set_volumes(f);
    wait_writable(f);
    message_write(f, &m, 10);
    assert_int_equal(m.ev, SPOOL_FAILED);
    assert_int_equal(m.e, ERR_TEMP);
    assert_false(m.named);
    message_fini(&m);
    while (n--) {
        snprintf(path, sizeof path, "%s/x%u", getenv("MAILFLEET_TEST_SMALL"), n);
        unlink(path);
    }
}

/* A file, but nothing can be put in it: it is an orphan, and no other volume may take its name. */
static void test_no_room_for_octets(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char path[256];
    static const char octets[4096];
    make_small(f);
    size_t before = count_messages(f, "v2");
    snprintf(path, sizeof path, "%s/x", getenv("MAILFLEET_TEST_SMALL"));
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, octets, sizeof octets) > 0) {
    }
    assert_int_equal(errno, ENOSPC);
    close(fd);
    message_write(f, &m, 10);
    assert_int_equal(m.ev, SPOOL_FAILED);
    assert_int_equal(m.e, ERR_UNCERTAIN);
    assert_true(m.named);
    assert_int_equal(m.p.volume, 1);
    assert_int_equal(count_messages(f, "v2"), before);
    message_fini(&m);
    WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), "less space is free than its floor"));
    message_write(f, &m, 10);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    assert_int_equal(m.p.volume, 2);
    message_fini(&m);
    unlink(path);
}

/* An export that has become one to read only. */
static void test_read_only(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, none;
    message_write(f, &m, 10);
    restart(f, &m, "restart Access_Type=RO");
    wait_writable(f);
    message_write(f, &none, 10);
    assert_int_equal(none.ev, SPOOL_FAILED);
    assert_int_equal(none.e, ERR_TEMP);
    assert_false(none.named);
    assert_int_equal(message_unlink(f, &m), ERR_TEMP);
    message_read(f, &m, SPAN(""));
    message_fini(&none);
    restart(f, &m, "restart");
    assert_int_equal(message_unlink(f, &m), ERR_OK);
    message_fini(&m);
}

/* --- many at once ---------------------------------------------------------------------------- */

static void test_deep(void **state)
{
    struct spool_fixture *f = *state;
    static struct message m[DEEP];
    static struct seen s[DEEP];
    static enum err unlinked[DEEP];
    look(f, LOOK_NEVER);
    size_t fds = open_fds();
    for (unsigned i = 0; i < DEEP; i++) {
        message_begin(f, &m[i], i % 50 ? i : 3 * CHUNK, 1);
        message_send(&m[i]);
    }
    size_t most = 0;
    for (unsigned i = 0; i < DEEP; i++) {
        WAIT(&f->net, NULL, !m[i].writer);
        assert_int_equal(m[i].ev, SPOOL_WRITTEN);
        most = open_fds() > most ? open_fds() : most;
    }
    assert_int_equal(most, fds + CONNECTIONS - 1); /* there was one */
    for (unsigned i = 0; i < DEEP; i++) {          /* by its handle, by none, by another's */
        const struct span handles[] = { handle_of(&m[i]), SPAN(""),
                                        handle_of(&m[(i + 50) % DEEP]) };
        seen_start(f, &s[i], &m[i].p, handles[i % 3]);
    }
    for (unsigned i = 0; i < DEEP; i++) {
        seen_end(f, &s[i]);
        assert_int_equal(s[i].r.e, ERR_OK);
        assert_true(span_eq(buf_span(&s[i].r.got), buf_span(&m[i].octets)));
        assert_int_equal(s[i].told, i % 3 > 0);
        buf_fini(&s[i].r.got);
    }
    for (unsigned i = 0; i < DEEP; i++) {
        unlinked[i] = ERR_COUNT;
        spool_unlink(f->spool, 1, &m[i].p.id, on_unlink_end, &unlinked[i]);
    }
    for (unsigned i = 0; i < DEEP; i++) {
        WAIT(&f->net, NULL, unlinked[i] != ERR_COUNT);
        assert_int_equal(unlinked[i], ERR_OK);
        message_fini(&m[i]);
    }
    assert_int_equal(count_messages(f, "v1"), 1); /* that of prepare() */
}

#define NAS_TEST(t, setup) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NAS_TEST(test_handle_of_write, setup_one),
        NAS_TEST(test_wrong_handles, setup_one),
        NAS_TEST(test_replaced, setup_one),
        NAS_TEST(test_removed, setup_one),
        NAS_TEST(test_wrong_file, setup_one),
        NAS_TEST(test_stale_between_pieces, setup_one),
        NAS_TEST(test_removed_between_pieces, setup_one),
        NAS_TEST(test_resized_between_pieces, setup_one),
        NAS_TEST(test_days_replaced, setup_one),
        NAS_TEST(test_restored, setup_one),
        NAS_TEST(test_away, setup_one),
        NAS_TEST(test_other_volume, setup_one),
        NAS_TEST(test_other_sentinel, setup_one),
        NAS_TEST(test_moved, setup_one),
        NAS_TEST(test_no_room_for_files, setup_two),
        NAS_TEST(test_no_room_for_octets, setup_two),
        NAS_TEST(test_read_only, setup_one),
        NAS_TEST(test_deep, setup_one),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
