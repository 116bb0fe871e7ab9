/*
 * volume_walk: what lies on a volume, seen by names; on a directory, or (MAILFLEET_TEST_NFS) on an
 * NFS server. What happens to files meanwhile is done with ordinary file calls.
 */
#include "spool_fixture.h"

#include "store/volume_walk.h"

#define MANY   1500  /* entries; more than a page of READDIRPLUS holds */
#define NOBODY 65534 /* a user who owns nothing */

static const struct spool_options options = {
    .buffer = 65536, .read_chunk = 8192, .threads = 2, .queue = 64, .timeout_ms = 30000
};

struct walk_fixture {
    struct spool_fixture spool;
    struct volume_walk *walk;
    char root[160];
};

static int setup(void **state)
{
    struct walk_fixture *f = *state = NEW(struct walk_fixture);
    char why[256] = "";
    fixture_begin(&f->spool, 1, options);
    snprintf(f->root, sizeof f->root, "%s/v1", f->spool.dir);
    if (volume_walk_open(&f->spool.volumes[0], &f->spool.options, &f->walk, why, sizeof why) !=
        ERR_OK) {
        fail_msg("%s", why);
    }
    return 0;
}

static int teardown(void **state)
{
    struct walk_fixture *f = *state;
    volume_walk_close(&f->walk);
    fixture_end(&f->spool);
    free(f);
    return 0;
}

static void path_in(const struct walk_fixture *f, const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", f->root, name);
}

static void make_dir(const struct walk_fixture *f, const char *name)
{
    char path[512];
    path_in(f, name, path);
    assert_int_equal(mkdir(path, 0750), 0);
}

static void make_file(const struct walk_fixture *f, const char *name, struct span octets)
{
    char path[512];
    path_in(f, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, octets.p, octets.n), octets.n);
    close(fd);
}

/* --- what is there --------------------------------------------------------------------------- */

struct seen {
    size_t n, most;
    struct walk_entry last;
    const char *wanted; /* the name that is kept in last */
    bool found;
};

static bool on_entry(void *arg, const struct walk_entry *e)
{
    struct seen *s = arg;
    s->n++;
    if (s->wanted && strcmp(e->name, s->wanted) == 0) {
        s->found = true;
        s->last = *e;
    }
    return s->n != s->most;
}

static struct seen list(struct walk_fixture *f, const char *dir, const char *wanted)
{
    struct seen s = { .wanted = wanted };
    assert_int_equal(volume_walk_list(f->walk, dir, on_entry, &s), ERR_OK);
    return s;
}

static void test_a_message(void **state)
{
    struct walk_fixture *f = *state;
    struct pointer p = write_message(&f->spool, SPAN("Subject: x\r\n\r\nbody\r\n"));
    char path[SPOOL_PATH_MAX];
    size_t dir = spool_path(&p.id, f->spool.volumes[0].fanout, path);
    path[dir] = '\0';
    struct seen s = list(f, path, path + dir + 1);
    assert_int_equal(s.n, 1);
    assert_true(s.found && s.last.regular && !s.last.directory);
    assert_int_equal(s.last.size, p.skip + p.size);
    assert_true(s.last.changed_ms / 1000 - time(NULL) < 60);

    path[strcspn(path, "/")] = '\0';
    assert_int_equal(list(f, path, NULL).n, 16); /* the hash directories of fanout 1 */
    s = list(f, "", path);
    assert_true(s.found && s.last.directory && !s.last.regular);
}

static void test_reading(void **state)
{
    struct walk_fixture *f = *state;
    struct buf b = random_octets(&f->spool.random, 3 << 20);
    char *got = mem_raw(4 << 20);
    size_t n;
    make_dir(f, "day");
    make_file(f, "day/file", buf_span(&b));
    assert_int_equal(volume_walk_read(f->walk, "day/file", 0, got, 4 << 20, &n), ERR_OK);
    assert_true(span_eq(span_of(got, n), buf_span(&b)));
    assert_int_equal(volume_walk_read(f->walk, "day/file", 1234567, got, 100, &n), ERR_OK);
    assert_true(span_eq(span_of(got, n), span_first(span_skip(buf_span(&b), 1234567), 100)));
    assert_int_equal(volume_walk_read(f->walk, "day/file", 3 << 20, got, 100, &n), ERR_OK);
    assert_int_equal(n, 0);
    assert_int_equal(volume_walk_read(f->walk, "day/none", 0, got, 100, &n), ERR_NOTFOUND);
    buf_fini(&b);
    free(got);
}

/* root can read everything, and so can the owner of a file by some NFS servers. */
static void test_one_that_can_not_be_read(void **state)
{
    struct walk_fixture *f = *state;
    char path[512], away[600], got[100];
    size_t n;
    if (nfs_server()) {
        return; /* tests/nfs/nas_answers.c has it */
    }
    make_dir(f, "day");
    make_file(f, "day/file", SPAN("12345"));
    path_in(f, "day/file", path);
    assert_int_equal(chmod(path, 0), 0);
    path_in(f, "day", path);
    assert_int_equal(chmod(path, 0755), 0);
    path_in(f, ".mailfleet-volume", path);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(chmod(f->root, 0755), 0);
    uid_t user = geteuid();
    assert_int_equal(seteuid(user ? user : NOBODY), 0);
    enum err e = volume_walk_read(f->walk, "day/file", 0, got, sizeof got, &n);
    assert_int_equal(seteuid(user), 0);
    assert_int_equal(e, ERR_CORRUPT);

    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(seteuid(user ? user : NOBODY), 0);
    e = volume_walk_read(f->walk, "day/file", 0, got, sizeof got, &n);
    assert_int_equal(seteuid(user), 0);
    assert_int_equal(e, ERR_TEMP);
    assert_int_equal(rename(away, path), 0);
}

static void test_many_entries(void **state)
{
    struct walk_fixture *f = *state;
    char name[64];
    make_dir(f, "day");
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "day/a-rather-long-name-of-a-file-%d", i);
        make_file(f, name, SPAN("x"));
    }
    struct seen s = list(f, "day", name + 4);
    assert_int_equal(s.n, MANY);
    assert_true(s.found && s.last.size == 1);

    s = (struct seen){ .most = 3 };
    assert_int_equal(volume_walk_list(f->walk, "day", on_entry, &s), ERR_OK);
    assert_int_equal(s.n, 3);
}

static void test_odd_entries(void **state)
{
    struct walk_fixture *f = *state;
    char name[256], path[512];
    memset(name, 'n', 255);
    name[255] = '\0';
    make_file(f, name, SPAN("long"));
    struct seen s = list(f, "", name);
    assert_true(s.found && s.last.regular);

    path_in(f, "link", path);
    assert_int_equal(symlink("/etc", path), 0);
    s = list(f, "", "link");
    assert_true(s.found && !s.last.regular && !s.last.directory);
    assert_int_not_equal(volume_walk_list(f->walk, "link", on_entry, &s), ERR_OK);
    assert_false(list(f, "", ".").found);
    assert_false(list(f, "", "..").found);
}

static void test_stat(void **state)
{
    struct walk_fixture *f = *state;
    struct walk_entry e;
    char path[512], there[512];
    make_dir(f, "day");
    make_file(f, "day/file", SPAN("12345"));
    assert_int_equal(volume_walk_stat(f->walk, "day/file", &e), ERR_OK);
    assert_true(e.regular && e.size == 5 && strcmp(e.name, "file") == 0);
    assert_int_equal(volume_walk_stat(f->walk, "day", &e), ERR_OK);
    assert_true(e.directory);
    assert_int_equal(volume_walk_stat(f->walk, "day/none", &e), ERR_NOTFOUND);
    assert_int_equal(volume_walk_stat(f->walk, "none/file", &e), ERR_NOTFOUND);
    assert_int_equal(volume_walk_stat(f->walk, "none", &e), ERR_NOTFOUND);

    /* What was there is another by now: what is remembered of it must not be believed. */
    path_in(f, "day/file", path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(volume_walk_stat(f->walk, "day/file", &e), ERR_NOTFOUND);
    path_in(f, "day", path);
    path_in(f, "elsewhere", there);
    assert_int_equal(rename(path, there), 0);
    make_dir(f, "day");
    make_file(f, "day/new", SPAN("1"));
    assert_int_equal(volume_walk_stat(f->walk, "day/new", &e), ERR_OK);
}

static void test_what_is_missing(void **state)
{
    struct walk_fixture *f = *state;
    struct seen s = { 0 };
    assert_int_equal(volume_walk_list(f->walk, "20000101", on_entry, &s), ERR_NOTFOUND);
    assert_int_equal(volume_walk_list(f->walk, "20000101/ab", on_entry, &s), ERR_NOTFOUND);
    assert_int_equal(s.n, 0);
}

/* --- volumes that are not there -------------------------------------------------------------- */

static void test_sentinel(void **state)
{
    struct walk_fixture *f = *state;
    struct volume v = f->spool.volumes[0];
    struct volume_walk *w = NULL;
    char why[256] = "";
    v.uuid[0] = 'f';
    assert_int_not_equal(volume_walk_open(&v, &f->spool.options, &w, why, sizeof why), ERR_OK);
    assert_non_null(strstr(why, "another volume"));
    assert_null(w);

    snprintf(v.url, sizeof v.url, "gopher://x/y");
    assert_int_equal(volume_walk_open(&v, &f->spool.options, &w, why, sizeof why), ERR_INVALID);
    assert_null(w);
}

/*
 * A server's directory that is not the volume any more must not look as if all its files were gone;
 * a descriptor leads to the volume wherever it is.
 */
static void test_replaced_root(void **state)
{
    struct walk_fixture *f = *state;
    struct seen s = { 0 };
    char path[512], away[600];
    path_in(f, ".mailfleet-volume", path);
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    make_file(f, ".mailfleet-volume", SPAN("00000000-0000-4000-8000-999999999999\n"));
    enum err expected = nfs_server() ? ERR_TEMP : ERR_NOTFOUND;
    assert_int_equal(volume_walk_list(f->walk, "20000101", on_entry, &s), expected);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(away), 0);
    assert_int_equal(volume_walk_list(f->walk, "20000101", on_entry, &s), expected);
    make_file(f, ".mailfleet-volume", SPAN("00000000-0000-4000-8000-000000000001\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reading, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_that_can_not_be_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stat, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sentinel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replaced_root, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
