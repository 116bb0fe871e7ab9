/*
 * Tests of the spool on file systems that work: what is written and read, whole and in pieces,
 * what a pointer that is wrong leads to, giving up at every moment, and volumes that come and go.
 */
#include "spool_fixture.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#define BUFFER 4096
#define CHUNK  8192

static const struct spool_options small = {
    .buffer = BUFFER, .read_chunk = CHUNK, .threads = 4, .queue = 1000, .timeout_ms = 30000
};

static int setup(void **state)
{
    struct spool_fixture *f = NEW(struct spool_fixture);
    fixture_begin(f, 1, small);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_end(*state);
    free(*state);
    return 0;
}

/* --- files ----------------------------------------------------------------------------------- */

static void test_small(void **state)
{
    struct spool_fixture *f = *state;
    struct span text = SPAN("Subject: x\r\n\r\n.dot\r\n");
    struct pointer p = write_message(f, text);
    char path[256];
    struct stat st;
    file_path(f, &p, path, sizeof path);
    struct buf b = file_octets(path);
    assert_int_equal(buf_len(&b), p.skip + text.n);
    assert_true(span_eq(span_skip(buf_span(&b), p.skip), text));
    assert_int_equal(file_state(buf_span(&b), &p.id), FILE_RIGHT);
    assert_true(span_starts(buf_span(&b), SPAN("mailfleet 1\nid: ")));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(p.volume, 1);
    assert_int_equal(p.seq, 0);
    buf_fini(&b);
    check_message(f, &p, text);
    assert_int_equal(stats_get(&f->stats, STAT_spool_writes), 1);
    assert_int_equal(stats_get(&f->stats, STAT_spool_reads), 1);
    assert_int_equal(stats_get(&f->stats, STAT_spool_faults), 0);
}

static void test_empty(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN(""));
    assert_int_equal(pointer_state(f, &p), FILE_RIGHT);
    check_message(f, &p, SPAN(""));
}

/* In the file's first moments size and hash are dashes; it is never served then. */
static void test_streamed(void **state)
{
    struct spool_fixture *f = *state;
    struct buf octets = random_octets(&f->random, 10 * BUFFER + 1);
    struct span all = buf_span(&octets);
    struct written w;
    begin(f, &w);
    struct blob_id id = *spool_writer_id(w.writer);
    append(f, &w, span_first(all, 5 * BUFFER), 1000);
    assert_true(w.ready > 0);
    struct pointer begun = { .id = id, .volume = 1 };
    assert_int_equal(pointer_state(f, &begun), FILE_UNFINISHED);
    append(f, &w, span_skip(all, 5 * BUFFER), BUFFER + 1);
    finish(f, &w);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_true(blob_id_eq(&w.p.id, &id));
    assert_int_equal(w.p.size, all.n);
    assert_int_equal(pointer_state(f, &w.p), FILE_RIGHT);
    check_message(f, &w.p, all);
    buf_fini(&octets);
}

/* The owner may append as much as it likes; all of it is kept. */
static void test_append_without_waiting(void **state)
{
    struct spool_fixture *f = *state;
    struct buf octets = random_octets(&f->random, 300000);
    struct span all = buf_span(&octets);
    struct written w;
    begin(f, &w);
    assert_true(spool_append(w.writer, span_first(all, BUFFER)));
    assert_true(spool_append(w.writer, span_of(all.p + BUFFER, 1))); /* begins the file */
    assert_false(spool_append(w.writer, span_skip(all, BUFFER + 1)));
    finish(f, &w);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_int_equal(w.ready, 0);
    check_message(f, &w.p, all);
    buf_fini(&octets);
}

/* A block of many recipients is longer than several pieces. */
static void test_long_envelope(void **state)
{
    struct spool_fixture *f = *state;
    struct envelope_recipient to[1000];
    for (size_t i = 0; i < ARRAY_LEN(to); i++) {
        to[i] = (struct envelope_recipient){ i, SPAN("somebody@example.org") };
    }
    struct written w = { 0 };
    struct spool_message m = { .to = to, .n = ARRAY_LEN(to) };
    assert_int_equal(spool_create(f->spool, &m, on_written, &w, &w.writer), ERR_OK);
    append(f, &w, SPAN("Subject: x\r\n"), 5);
    finish(f, &w);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_true(w.p.skip > 2 * CHUNK);
    assert_int_equal(pointer_state(f, &w.p), FILE_RIGHT);
    check_message(f, &w.p, SPAN("Subject: x\r\n"));
}

static void test_bad_address(void **state)
{
    struct spool_fixture *f = *state;
    struct written w = { 0 };
    struct spool_message m = message_from(SPAN("a\nb"));
    assert_int_equal(spool_create(f->spool, &m, on_written, &w, &w.writer), ERR_INVALID);
    assert_null(w.writer);
}

/* What an import asks for: the time of the old server, its UIDL, and one volume. */
static void test_as_asked(void **state)
{
    struct spool_fixture *f = *state;
    struct written w = { 0 };
    struct spool_message m = message_from(SPAN(""));
    m.uidl = SPAN("000012345fedcba");
    m.time_ms = 1234567890123;
    m.volume = 1;
    assert_int_equal(spool_create(f->spool, &m, on_written, &w, &w.writer), ERR_OK);
    append(f, &w, SPAN("Subject: x\r\n"), 100);
    finish(f, &w);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_true(blob_id_time(&w.p.id) == m.time_ms);
    assert_int_equal(w.p.volume, m.volume);
    assert_int_equal(pointer_state(f, &w.p), FILE_RIGHT);
    m.volume = 99;
    assert_int_equal(spool_create(f->spool, &m, on_written, &w, &w.writer), ERR_TEMP);
    m.volume = 0;
    m.uidl = SPAN("with a blank");
    assert_int_equal(spool_create(f->spool, &m, on_written, &w, &w.writer), ERR_INVALID);
}

/* --- 10,000 messages ------------------------------------------------------------------------- */

#define MESSAGES 10000 /* or SPOOL_MESSAGES of the environment, where each costs more */
#define LANES    16

struct lane {
    struct spool_fixture *f;
    struct buf octets;
    struct written w;
    struct span rest; /* not yet appended */
    struct was_read r;
    struct op *unlink;
    unsigned *left;
    enum { LANE_NEW, LANE_WRITE, LANE_READ, LANE_UNLINK, LANE_END } step;
};

/* Around the borders of buffer and pieces, mostly small, at times large. */
static size_t random_size(uint64_t *random)
{
    static const size_t borders[] = { 0, BUFFER, 2 * BUFFER, CHUNK, 2 * CHUNK, 5 * CHUNK };
    uint64_t r = next_random(random);
    size_t near = borders[r / 1000 % ARRAY_LEN(borders)] + r / 100000 % 600;
    return r % 1000 == 0 ? r / 1000 % (3 * 1024 * 1024)
           : r % 2 == 0  ? r / 1000 % 3000
                         : near - (near < 500 ? near : 500); /* the block moves a piece's border */
}

static void lane_write(struct lane *l)
{
    while (l->w.writer && l->rest.n) {
        struct span piece = span_first(l->rest, 1 + next_random(&l->f->random) % (3 * BUFFER));
        l->rest = span_skip(l->rest, piece.n);
        if (!spool_append(l->w.writer, piece)) {
            return;
        }
    }
    spool_finish(l->w.writer);
}

static void on_unlinked(void *arg, enum err e)
{
    struct lane *l = arg;
    assert_int_equal(e, ERR_OK);
    l->unlink = NULL;
}

static void lane_begin(struct lane *l)
{
    if (*l->left == 0) {
        l->step = LANE_END;
        return;
    }
    --*l->left;
    l->octets = random_octets(&l->f->random, random_size(&l->f->random));
    l->rest = buf_span(&l->octets);
    begin(l->f, &l->w);
    l->step = LANE_WRITE;
    lane_write(l);
}

static void lane_check(struct lane *l)
{
    assert_int_equal(l->r.e, ERR_OK);
    assert_true(span_eq(buf_span(&l->r.got), buf_span(&l->octets)));
    buf_fini(&l->r.got);
    buf_fini(&l->octets);
}

/* Goes on as far as it can without waiting; true at the end. */
static bool lane_run(struct lane *l)
{
    if (l->step == LANE_WRITE && l->w.ready) {
        l->w.ready = 0;
        lane_write(l);
    }
    if (l->step == LANE_WRITE && !l->w.writer) {
        assert_int_equal(l->w.ev, SPOOL_WRITTEN);
        assert_int_equal(l->w.p.size, buf_len(&l->octets));
        l->step = LANE_READ;
        read_start(l->f, &l->r, &l->w.p);
    }
    if (l->step == LANE_READ && !l->r.reader) {
        lane_check(l);
        l->step = LANE_UNLINK;
        l->unlink = spool_unlink(l->f->spool, l->w.p.volume, &l->w.p.id, on_unlinked, l);
    }
    if (l->step == LANE_UNLINK && !l->unlink) {
        l->step = LANE_NEW;
    }
    if (l->step == LANE_NEW) {
        lane_begin(l);
    }
    return l->step == LANE_END;
}

static void test_many(void **state)
{
    struct spool_fixture *f = *state;
    const char *chosen = getenv("SPOOL_MESSAGES");
    const unsigned messages = chosen ? (unsigned)atoi(chosen) : MESSAGES;
    struct lane lanes[LANES] = { 0 };
    unsigned left = messages, ended = 0;
    for (size_t i = 0; i < LANES; i++) {
        lanes[i] = (struct lane){ .f = f, .left = &left };
    }
    while (ended < LANES) {
        ended = 0;
        for (size_t i = 0; i < LANES; i++) {
            ended += lane_run(&lanes[i]);
        }
        fixture_turn(&f->net, NULL);
    }
    assert_int_equal(stats_get(&f->stats, STAT_spool_writes), messages);
    assert_int_equal(stats_get(&f->stats, STAT_spool_faults), 0);
}

/* --- pointers that are wrong ----------------------------------------------------------------- */

static void resize(struct spool_fixture *f, const struct pointer *p, off_t by)
{
    char path[256];
    struct stat st;
    file_path(f, p, path, sizeof path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size + by), 0);
}

static void test_wrong_length(void **state)
{
    struct spool_fixture *f = *state;
    static const size_t sizes[] = { 0, 1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        /* So that the file, block and all, ends at a piece's border for some. */
        struct buf octets = random_octets(&f->random, sizes[i]);
        struct pointer p = write_message(f, buf_span(&octets));
        resize(f, &p, 1);
        assert_int_equal(read_error(f, &p), ERR_CORRUPT);
        resize(f, &p, -2);
        assert_int_equal(read_error(f, &p), ERR_CORRUPT);
        resize(f, &p, 1);
        assert_int_equal(read_error(f, &p), ERR_OK);
        char path[256];
        file_path(f, &p, path, sizeof path);
        assert_int_equal(truncate(path, 0), 0);
        assert_int_equal(read_error(f, &p), ERR_CORRUPT);
        buf_fini(&octets);
    }
}

/* Files whose length is a multiple of a piece, and one octet around it. */
static void test_piece_borders(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer probe = write_message(f, SPAN("x"));
    for (size_t n = 1; n <= 3; n++) {
        for (size_t d = 0; d < 3; d++) {
            struct buf octets = random_octets(&f->random, n * CHUNK - probe.skip + d - 1);
            struct pointer p = write_message(f, buf_span(&octets));
            check_message(f, &p, buf_span(&octets));
            resize(f, &p, 1);
            assert_int_equal(read_error(f, &p), ERR_CORRUPT);
            buf_fini(&octets);
        }
    }
}

static void test_wrong_file(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer a = write_message(f, SPAN("one\r\n")), b = write_message(f, SPAN("two\r\n"));
    char path_a[256], path_b[256];
    file_path(f, &a, path_a, sizeof path_a);
    file_path(f, &b, path_b, sizeof path_b);
    assert_int_equal(rename(path_a, path_b), 0);
    assert_int_equal(read_error(f, &a), ERR_NOTFOUND);
    assert_int_equal(read_error(f, &b), ERR_CORRUPT);
    assert_int_equal(symlink(path_b, path_a), 0);
    assert_int_equal(read_error(f, &a), ERR_TEMP);
    assert_int_equal(unlink(path_a), 0);
    assert_int_equal(mkdir(path_a, 0700), 0);
    assert_int_equal(read_error(f, &a), ERR_TEMP);
}

/* A volume that is not there is no answer about a message. */
static void test_unknown_volume(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN("x"));
    p.volume = 99;
    assert_int_equal(read_error(f, &p), ERR_TEMP);
    struct was_read r = { 0 };
    read_start(f, &r, &p);
    spool_read_close(&r.reader);
    fixture_settle(&f->net, NULL);
    assert_int_equal(r.pieces, 0);
}

/* --- giving up ------------------------------------------------------------------------------- */

/* Descriptors of message files; those of directories come and go as they are needed. */
static size_t open_files(void)
{
    size_t n = 0;
    struct stat st;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        n += fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode);
    }
    closedir(d);
    return n;
}

/* Descriptors that a message holds between two steps. */
static size_t held(void)
{
    return nfs_server() ? 0 : 1;
}

static void test_abort(void **state)
{
    struct spool_fixture *f = *state;
    struct buf octets = random_octets(&f->random, 3 * BUFFER);
    struct span all = buf_span(&octets);
    struct pointer orphan = { .volume = 77 };
    struct written w;
    begin(f, &w);
    assert_true(spool_append(w.writer, span_first(all, BUFFER)));
    assert_false(spool_abort(&w.writer, &orphan));
    assert_null(w.writer);
    assert_int_equal(orphan.volume, 77);

    begin(f, &w); /* while the first step is under way */
    struct blob_id id = *spool_writer_id(w.writer);
    spool_append(w.writer, span_first(all, BUFFER + 1));
    assert_true(spool_abort(&w.writer, &orphan));
    assert_true(blob_id_eq(&orphan.id, &id));
    assert_int_equal(orphan.volume, 1);
    drain_and_go_on(f);

    size_t files = open_files();
    begin(f, &w); /* between two steps: the file is open */
    append(f, &w, span_first(all, BUFFER + 1), BUFFER + 1);
    fixture_settle(&f->net, NULL);
    WAIT(&f->net, NULL, open_files() == files + held());
    assert_true(spool_abort(&w.writer, &orphan));
    drain_and_go_on(f);
    assert_int_equal(pointer_state(f, &orphan), FILE_UNFINISHED);

    begin(f, &w); /* while the last is */
    spool_append(w.writer, all);
    spool_finish(w.writer);
    assert_true(spool_abort(&w.writer, &orphan));
    drain(f);
    assert_int_equal(stats_get(&f->stats, STAT_spool_writes), 0);
    buf_fini(&octets);
}

static void close_in_piece(void *arg, enum err e, struct span piece, bool last)
{
    struct was_read *r = arg;
    r->pieces++;
    r->e = e;
    assert_true(piece.n > 0);
    if (last) {
        r->reader = NULL;
    }
    spool_read_close(&r->reader);
}

static void test_read_close(void **state)
{
    struct spool_fixture *f = *state;
    struct buf octets = random_octets(&f->random, 5 * CHUNK);
    struct pointer p = write_message(f, buf_span(&octets));
    struct was_read r = { .on_demand = true };

    read_start(f, &r, &p); /* while a call is under way */
    spool_read_close(&r.reader);
    assert_null(r.reader);
    spool_read_close(&r.reader);
    drain_and_go_on(f);
    assert_int_equal(r.pieces, 0);

    size_t files = open_files();
    read_start(f, &r, &p); /* between two pieces: the file is open */
    WAIT(&f->net, NULL, r.pieces == 1 && open_files() == files + held());
    spool_read_close(&r.reader);
    WAIT(&f->net, NULL, open_files() == files);
    assert_int_equal(r.pieces, 1);
    buf_fini(&r.got);

    r = (struct was_read){ 0 }; /* inside its own callback */
    r.reader = spool_read(f->spool, &p, SPAN(""), close_in_piece, &r);
    WAIT(&f->net, NULL, !r.reader && open_files() == files);
    drain_and_go_on(f);
    assert_int_equal(r.pieces, 1);
    p = write_message(f, SPAN("x"));
    r.reader = spool_read(f->spool, &p, SPAN(""), close_in_piece, &r);
    WAIT(&f->net, NULL, r.pieces == 2);
    buf_fini(&octets);
}

/* Nothing is read ahead: a client that does not take a piece costs one piece. */
static void test_read_on_demand(void **state)
{
    struct spool_fixture *f = *state;
    struct buf octets = random_octets(&f->random, 3 * CHUNK);
    struct pointer p = write_message(f, buf_span(&octets));
    struct was_read r = { .on_demand = true };
    read_start(f, &r, &p);
    for (unsigned i = 1; i <= 4; i++) {
        WAIT(&f->net, NULL, r.pieces == i);
        fixture_settle(&f->net, NULL);
        assert_int_equal(r.pieces, i);
        assert_int_equal(r.reader == NULL, i == 4);
        if (r.reader) {
            spool_read_next(r.reader);
        }
    }
    assert_true(span_eq(buf_span(&r.got), buf_span(&octets)));
    buf_fini(&r.got);
    buf_fini(&octets);
}

/* --- unlinking ------------------------------------------------------------------------------- */

static void on_unlink_err(void *arg, enum err e)
{
    *(enum err *)arg = e;
}

static enum err unlink_error(struct spool_fixture *f, uint16_t volume, const struct blob_id *id)
{
    enum err e = ERR_COUNT;
    assert_non_null(spool_unlink(f->spool, volume, id, on_unlink_err, &e));
    assert_int_equal(e, ERR_COUNT);
    WAIT(&f->net, NULL, e != ERR_COUNT);
    return e;
}

static void test_unlink(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN("x"));
    assert_int_equal(unlink_error(f, 99, &p.id), ERR_TEMP);
    assert_int_equal(read_error(f, &p), ERR_OK);
    assert_int_equal(unlink_error(f, 1, &p.id), ERR_OK);
    assert_int_equal(read_error(f, &p), ERR_NOTFOUND);
    assert_int_equal(unlink_error(f, 1, &p.id), ERR_OK);

    p = write_message(f, SPAN("x"));
    enum err e = ERR_COUNT;
    struct op *op = spool_unlink(f->spool, 1, &p.id, on_unlink_err, &e);
    op_cancel(&op);
    op = spool_unlink(f->spool, 99, &p.id, on_unlink_err, &e);
    op_cancel(&op);
    assert_int_equal(unlink_error(f, 1, &p.id), ERR_OK);
    assert_int_equal(e, ERR_COUNT);
}

/* --- volumes --------------------------------------------------------------------------------- */

static void test_states(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN("x"));
    static const enum volume_state closed[] = { VOLUME_READONLY, VOLUME_DRAIN };
    for (size_t i = 0; i < ARRAY_LEN(closed); i++) {
        f->volumes[0].state = closed[i];
        set_volumes(f);
        assert_int_equal(create_error(f), ERR_TEMP);
        assert_int_equal(read_error(f, &p), ERR_OK);
    }
    f->volumes[0].state = VOLUME_ACTIVE;
    f->volumes[0].weight = 0;
    set_volumes(f);
    assert_int_equal(create_error(f), ERR_TEMP);
    f->volumes[0].weight = 1;
    f->volumes[0].free_floor = UINT64_MAX;
    set_volumes(f);
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_string_equal(volume_why(f, 1), "less space is free than its floor");
    f->volumes[0].free_floor = FREE_FLOOR;
    set_volumes(f);
    assert_int_equal(create_error(f), ERR_OK);
    assert_true(volume_well(f, 1));
}

static bool is_on_nfs(const struct spool_fixture *f)
{
    struct statfs fs;
    assert_int_equal(statfs(f->dir, &fs), 0);
    return nfs_server() || fs.f_type == NFS_SUPER_MAGIC;
}

/* What is written side by side lies in one directory, for about 100 ms; on NFS it lies apart. */
static void test_together(void **state)
{
    struct spool_fixture *f = *state;
    bool seen[256] = { false };
    unsigned directories = 0;
    struct written w;
    struct pointer unused;
    uint64_t began = uv_hrtime();
    for (int i = 0; i < 1000; i++) {
        begin(f, &w);
        uint8_t hash = spool_writer_id(w.writer)->b[6];
        directories += !seen[hash];
        seen[hash] = true;
        assert_false(spool_abort(&w.writer, &unused));
    }
    if (is_on_nfs(f)) {
        assert_in_range(directories, 200, 256);
    } else {
        assert_in_range(directories, 1, 2 + (uv_hrtime() - began) / 100000000);
    }
}

/* The state counts when the file is begun, not when the message is. */
static void test_state_changes_meanwhile(void **state)
{
    struct spool_fixture *f = *state;
    struct written w;
    begin(f, &w);
    f->volumes[0].state = VOLUME_READONLY;
    set_volumes(f);
    append(f, &w, SPAN("x"), 1);
    spool_finish(w.writer);
    assert_non_null(w.writer); /* told later, never inline */
    WAIT(&f->net, NULL, !w.writer);
    assert_int_equal(w.ev, SPOOL_FAILED);
    assert_int_equal(w.e, ERR_TEMP);
    assert_false(w.named);

    f->volumes[0].state = VOLUME_ACTIVE;
    set_volumes(f);
    begin(f, &w);
    f->n = 0;
    set_volumes(f);
    spool_finish(w.writer);
    struct pointer orphan;
    assert_false(spool_abort(&w.writer, &orphan));
    fixture_settle(&f->net, NULL);
}

static void test_weights(void **state)
{
    struct spool_fixture *f = *state;
    unsigned count[4] = { 0 };
    f->volumes[1] = make_volume(f, 2);
    f->volumes[2] = make_volume(f, 3);
    f->volumes[1].weight = 3;
    f->volumes[2].weight = 0;
    f->n = 3;
    set_volumes(f);
    wait_well(f);
    for (int i = 0; i < 400; i++) {
        count[write_message(f, SPAN("x")).volume]++;
    }
    /* 100 are to be expected on volume 1; one run in 10^12 has fewer than 45 or more than 165. */
    assert_in_range(count[1], 45, 165);
    assert_int_equal(count[1] + count[2], 400);
}

/* A volume that is removed ends after its calls; what is open on it goes on. */
static void test_remove(void **state)
{
    struct spool_fixture *f = *state;
    struct buf octets = random_octets(&f->random, 5 * CHUNK);
    struct pointer p = write_message(f, buf_span(&octets));
    struct was_read r = { .on_demand = true };
    struct written w;
    read_start(f, &r, &p);
    begin(f, &w);
    append(f, &w, span_first(buf_span(&octets), 2 * BUFFER), BUFFER + 1);
    WAIT(&f->net, NULL, r.pieces == 1);
    f->n = 0;
    set_volumes(f);
    assert_null(volume_why(f, 1));
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(read_error(f, &p), ERR_TEMP);
    append(f, &w, span_skip(buf_span(&octets), 2 * BUFFER), BUFFER);
    finish(f, &w);
    assert_int_equal(w.ev, SPOOL_WRITTEN);
    assert_int_equal(pointer_state(f, &w.p), FILE_RIGHT);
    r.on_demand = false;
    spool_read_next(r.reader);
    WAIT(&f->net, NULL, !r.reader);
    assert_true(span_eq(buf_span(&r.got), buf_span(&octets)));
    buf_fini(&r.got);
    drain(f); /* both files and the root are closed */

    f->n = 1;
    set_volumes(f);
    wait_well(f);
    check_message(f, &p, buf_span(&octets));
    buf_fini(&octets);
}

static void test_nonsense(void **state)
{
    struct spool_fixture *f = *state;
    struct pointer p = write_message(f, SPAN("x"));
    snprintf(f->volumes[0].url, sizeof f->volumes[0].url, "gopher://x/y");
    set_volumes(f);
    assert_string_equal(volume_why(f, 1),
                        "its URL is not of a known kind, as file:///path and nfs://host/path are");
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(read_error(f, &p), ERR_TEMP);
    f->volumes[0].fanout = 5;
    set_volumes(f);
    assert_string_equal(volume_why(f, 1), "its fanout is not 0 to 4");
}

static bool next_day_is_made(const struct spool_fixture *f)
{
    char path[SPOOL_PATH_MAX], day[256];
    struct blob_id id =
        blob_id_make(((uint64_t)time(NULL) + 24 * 60 * 60) * 1000, (uint8_t[10]){ 0 });
    spool_path(&id, 0, path);
    snprintf(day, sizeof day, "%s/v1/%.8s", f->dir, path);
    return access(day, F_OK) == 0 && count_entries(day) == 16 + 2;
}

static void test_next_day_is_prepared(void **state)
{
    struct spool_fixture *f = *state;
    write_message(f, SPAN("")); /* who writes none makes none */
    WAIT(&f->net, NULL, next_day_is_made(f));
}

/* Removes a volume's directories, and leaves its sentinel. */
static void remove_days(const struct spool_fixture *f)
{
    char root[160], path[512];
    snprintf(root, sizeof root, "%s/v1", f->dir);
    DIR *d = opendir(root);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", root, e->d_name);
            /* The spool may be making the next day's directories in it. */
            while (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT) {
            }
        }
    }
    closedir(d);
    /* An NFS server sees what is done behind its back by this time, which the kernel counts in
     * steps of milliseconds. */
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    assert_int_equal(utimensat(AT_FDCWD, root, (struct timespec[]){ now, now }, 0), 0);
}

/* Directories that are missing are made when they are needed, also those that were there before. */
static void test_missing_directories(void **state)
{
    struct spool_fixture *f = *state;
    write_message(f, SPAN(""));
    WAIT(&f->net, NULL, next_day_is_made(f));
    drain_and_go_on(f); /* or the look that makes them would find them gone, and fail, rightly */
    for (int i = 0; i < 3; i++) {
        remove_days(f);
        struct pointer p = write_message(f, SPAN("x"));
        check_message(f, &p, SPAN("x"));
    }
    remove_days(f);
    spool_close(&f->spool); /* and by a spool that has seen none */
    f->spool = spool_open(f->net.loop, &f->options);
    set_volumes(f);
    wait_well(f);
    struct pointer p = write_message(f, SPAN("x"));
    check_message(f, &p, SPAN("x"));
}

/* --- the operator's functions ---------------------------------------------------------------- */

static void test_create_and_check(void **state)
{
    struct spool_fixture *f = *state;
    struct volume v = f->volumes[0];
    char why[256] = "";
    assert_int_equal(volume_check(&v, &f->options, why, sizeof why), ERR_OK);
    assert_int_equal(volume_create(&v, &f->options, why, sizeof why),
                     ERR_OK); /* again: it is there */
    snprintf(v.uuid, sizeof v.uuid, "00000000-0000-4000-8000-00000000ffff");
    assert_int_equal(volume_check(&v, &f->options, why, sizeof why), ERR_CORRUPT);
    assert_string_equal(why, ".mailfleet-volume holds the UUID of another volume");
    assert_int_equal(volume_create(&v, &f->options, why, sizeof why), ERR_CORRUPT);
    snprintf(v.url, sizeof v.url, "file://%s", f->dir);
    assert_int_equal(volume_check(&v, &f->options, why, sizeof why), ERR_NOTFOUND);
    assert_string_equal(why, ".mailfleet-volume: No such file or directory");
    snprintf(v.url, sizeof v.url, "file://%s/none/none", f->dir);
    assert_int_equal(volume_check(&v, &f->options, why, sizeof why), ERR_NOTFOUND);
    assert_int_equal(volume_create(&v, &f->options, why, sizeof why), ERR_TEMP);
    snprintf(v.url, sizeof v.url, "file://relative");
    assert_int_equal(volume_check(&v, &f->options, why, sizeof why), ERR_INVALID);
    v.fanout = 9;
    assert_int_equal(volume_create(&v, &f->options, why, sizeof why), ERR_INVALID);
}

#define SPOOL_TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SPOOL_TEST(test_small),
        SPOOL_TEST(test_empty),
        SPOOL_TEST(test_streamed),
        SPOOL_TEST(test_append_without_waiting),
        SPOOL_TEST(test_long_envelope),
        SPOOL_TEST(test_bad_address),
        SPOOL_TEST(test_as_asked),
        SPOOL_TEST(test_many),
        SPOOL_TEST(test_wrong_length),
        SPOOL_TEST(test_piece_borders),
        SPOOL_TEST(test_wrong_file),
        SPOOL_TEST(test_unknown_volume),
        SPOOL_TEST(test_abort),
        SPOOL_TEST(test_read_close),
        SPOOL_TEST(test_read_on_demand),
        SPOOL_TEST(test_unlink),
        SPOOL_TEST(test_states),
        SPOOL_TEST(test_together),
        SPOOL_TEST(test_state_changes_meanwhile),
        SPOOL_TEST(test_weights),
        SPOOL_TEST(test_remove),
        SPOOL_TEST(test_nonsense),
        SPOOL_TEST(test_next_day_is_prepared),
        SPOOL_TEST(test_missing_directories),
        SPOOL_TEST(test_create_and_check),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
