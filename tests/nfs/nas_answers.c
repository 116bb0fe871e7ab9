/*
 * Answers that an NFS server may give, and that few do: without the handle, shorter than asked for,
 * not durable, "later", errors of every kind. The wire changes what a server says that works; it
 * keeps to the form, as libnfs believes every length that it reads.
 */
#include "nas_failing.h"

#include "store/nfs_client.h"
#include "store/volume_walk.h"

#define RW_MOST 65536u /* of this server */

static int setup_one(void **state)
{
    nas_begin(state, 1, patient);
    return 0;
}

static int setup_two(void **state)
{
    nas_begin(state, 2, patient);
    return 0;
}

static int teardown(void **state)
{
    return nas_end(state);
}

/* From now on, in all answers to calls of a procedure; one at a time. */
static void edit(const char *procedure, const char *what, unsigned number)
{
    char question[100];
    snprintf(question, sizeof question, "edit %s %s %u", procedure, what, number);
    ask(question);
    ask("reset");
}

static void check_written(struct spool_fixture *f, struct message *m, const char *calls)
{
    assert_int_equal(m->ev, SPOOL_WRITTEN);
    check_calls(calls);
    assert_int_equal(pointer_state(f, &m->p), FILE_RIGHT);
    ask("mend");
    assert_false(message_read(f, m, handle_of(m)).told);
    message_fini(m);
}

static void check_not_written(struct spool_fixture *f, struct message *m, enum err e)
{
    assert_int_equal(m->ev, SPOOL_FAILED);
    assert_int_equal(m->e, e);
    assert_int_equal(m->named, e == ERR_UNCERTAIN);
    assert_true(!m->named || has_file(f, &m->p));
    message_fini(m);
}

/* --- handles that are not told --------------------------------------------------------------- */

static void test_create_without_handle(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    edit("CREATE", "without_handle", 0);
    message_write(f, &m, 10);
    check_written(f, &m, "CREATE 1, LOOKUP 1, WRITE 1");
}

static void test_mkdir_without_handle(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    edit("MKDIR", "without_handle", 0);
    f->volumes[0] = make_volume(f, 2);
    ask("mend");
    set_volumes(f);
    wait_well(f);
    message_write(f, &m, 10);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    message_read(f, &m, SPAN(""));
    message_fini(&m);
}

/* A server that lists nothing is asked for each directory. */
static void test_no_listing(void **state)
{
    struct spool_fixture *f = *state;
    static struct message m[50];
    for (size_t i = 0; i < ARRAY_LEN(m); i++) {
        message_write(f, &m[i], 10);
    }
    reopen(f);
    look(f, LOOK_NEVER);
    edit("READDIRPLUS", "with_status", NFS3ERR_NOTSUPP);
    for (size_t i = 0; i < ARRAY_LEN(m); i++) {
        message_read(f, &m[i], SPAN(""));
        message_fini(&m[i]);
    }
    assert_int_equal(calls_of("READDIRPLUS"), 1);
    assert_in_range(calls_of("LOOKUP"), ARRAY_LEN(m) + 5, ARRAY_LEN(m) + 1 + 16);
}

/* --- less than was asked for ----------------------------------------------------------------- */

static void test_short_reads(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char expected[32];
    message_write(f, &m, 2 * CHUNK);
    edit("READ", "short", 1000);
    message_read(f, &m, handle_of(&m));
    snprintf(expected, sizeof expected, "READ %u", 2 * (CHUNK / 1000 + 1) + 1);
    check_calls(expected);
    edit("READ", "short", 0);
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    edit("READ", "longer", 1);
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    message_fini(&m);
}

/* The file's length is told by where it ends. */
static void test_reads_without_attributes(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char path[256];
    struct stat st;
    message_write(f, &m, 2 * CHUNK);
    edit("READ", "without_attributes", 0);
    message_read(f, &m, handle_of(&m));
    file_path(f, &m.p, path, sizeof path);
    assert_int_equal(stat(path, &st), 0);
    static const int by[] = { 1, -1, (int)CHUNK, -(int)CHUNK };
    for (size_t i = 0; i < ARRAY_LEN(by); i++) {
        assert_int_equal(truncate(path, st.st_size + by[i]), 0);
        assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_CORRUPT);
        assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_CORRUPT);
    }
    message_fini(&m);
}

static void test_short_writes(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char expected[64];
    edit("WRITE", "partly_taken", 1000);
    message_write(f, &m, CHUNK);
    snprintf(expected, sizeof expected, "CREATE 1, WRITE %u", (m.p.skip + CHUNK + 999) / 1000);
    check_written(f, &m, expected);
    static const unsigned nonsense[] = { 0, UINT32_MAX };
    for (size_t i = 0; i < ARRAY_LEN(nonsense); i++) {
        edit("WRITE", "taken", nonsense[i]);
        message_write(f, &m, CHUNK);
        check_not_written(f, &m, ERR_UNCERTAIN);
        ask("mend");
        check_mended(f);
    }
}

/* What was to be durable in one call, and is not, is not answered for. */
static void test_not_durable(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    edit("WRITE", "unstable", 0);
    message_write(f, &m, 10);
    check_not_written(f, &m, ERR_UNCERTAIN);
    ask("mend");
    check_mended(f);
    edit("WRITE", "unstable", 0); /* it was not asked for: a COMMIT follows */
    message_write(f, &m, BUFFER);
    check_written(f, &m, "COMMIT 1, CREATE 1, WRITE 2");
}

/* Between the last WRITE and the COMMIT: what was not durable is written again, and is then. */
static void test_restart_before_commit(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    ask("reset");
    ask("restart_before COMMIT");
    message_write(f, &m, BUFFER);
    assert_string_equal(ask("restarted"), "1");
    check_written(f, &m, "COMMIT 1, CREATE 1, WRITE 4");
}

/* --- limits ---------------------------------------------------------------------------------- */

static void test_limits(void **state)
{
    struct spool_fixture *f = *state;
    static const unsigned limits[] = { 0, 1000, RW_MOST };
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        struct message m;
        unsigned most = limits[i] ? limits[i] : 512;
        char expected[64];
        edit("FSINFO", "limits", limits[i]);
        reopen_to_write(f);
        message_write(f, &m, CHUNK);
        unsigned file = m.p.skip + CHUNK, n = (file + most - 1) / most;
        assert_int_equal(m.ev, SPOOL_WRITTEN);
        snprintf(expected, sizeof expected, "%sCREATE 1, WRITE %u", n > 1 ? "COMMIT 1, " : "", n);
        check_calls(expected);
        message_read(f, &m, handle_of(&m));
        snprintf(expected, sizeof expected, "READ %u", most < CHUNK ? n : 2);
        check_calls(expected);
        message_fini(&m);
    }
}

/* --- errors ---------------------------------------------------------------------------------- */

/*
 * TEMP: it was refused, so nothing was begun, and the other volume may take it. UNCERTAIN: a file
 * may be there. A name that exists is an id that comes twice, and goes nowhere else either.
 */
static void test_create_status(void **state)
{
    struct spool_fixture *f = *state;
    static const struct {
        nfsstat3 status;
        enum err e;
        unsigned volumes;
    } cases[] = {
        { NFS3ERR_PERM, ERR_TEMP, 2 },
        { NFS3ERR_ACCES, ERR_TEMP, 2 },
        { NFS3ERR_NOSPC, ERR_TEMP, 2 },
        { NFS3ERR_ROFS, ERR_TEMP, 2 },
        { NFS3ERR_DQUOT, ERR_TEMP, 2 },
        { NFS3ERR_JUKEBOX, ERR_UNCERTAIN, 1 },
        { NFS3ERR_EXIST, ERR_TEMP, 1 },
        { NFS3ERR_IO, ERR_UNCERTAIN, 1 },
        { NFS3ERR_SERVERFAULT, ERR_UNCERTAIN, 1 },
        { 4711, ERR_UNCERTAIN, 1 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct message m;
        print_message("# %d\n", cases[i].status);
        edit("CREATE", "with_status", cases[i].status);
        message_write(f, &m, 10);
        assert_int_equal(calls_of("CREATE"), cases[i].volumes);
        check_not_written(f, &m, cases[i].e);
        ask("mend");
        check_mended(f);
    }
}

static void test_write_status(void **state)
{
    struct spool_fixture *f = *state;
    static const nfsstat3 statuses[] = { NFS3ERR_NOSPC, NFS3ERR_DQUOT, NFS3ERR_IO, NFS3ERR_STALE,
                                         NFS3ERR_JUKEBOX };
    static const struct {
        const char *procedure;
        size_t size;
    } cases[] = { { "WRITE", 10 }, { "WRITE", 5 * BUFFER }, { "COMMIT", 5 * BUFFER } };
    for (size_t i = 0; i < ARRAY_LEN(statuses) * ARRAY_LEN(cases); i++) {
        struct message m;
        edit(cases[i % ARRAY_LEN(cases)].procedure, "with_status", statuses[i / ARRAY_LEN(cases)]);
        message_write(f, &m, cases[i % ARRAY_LEN(cases)].size);
        assert_int_equal(calls_of("CREATE"), 1);
        check_not_written(f, &m, ERR_UNCERTAIN);
        ask("mend");
        check_mended(f);
    }
}

/* What says nothing of the handle is no reason to look for another. */
static void test_read_status(void **state)
{
    struct spool_fixture *f = *state;
    static const struct {
        nfsstat3 status;
        const char *calls;
    } cases[] = { { NFS3ERR_JUKEBOX, "READ 1" },
                  { NFS3ERR_IO, "READ 1" },
                  { NFS3ERR_STALE, "LOOKUP 1, READ 2" },
                  { NFS3ERR_BADHANDLE, "LOOKUP 1, READ 2" },
                  { NFS3ERR_ACCES, "LOOKUP 1, READ 2" } };
    struct message m;
    message_write(f, &m, 10);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        edit("READ", "with_status", cases[i].status);
        assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
        check_calls(cases[i].calls);
    }
    ask("mend");
    message_read(f, &m, handle_of(&m));
    message_fini(&m);
}

/* A message is missing only if the server says so, and nothing else. */
static void test_lookup_status(void **state)
{
    struct spool_fixture *f = *state;
    static const nfsstat3 statuses[] = { NFS3ERR_JUKEBOX, NFS3ERR_IO,    NFS3ERR_ACCES,
                                         NFS3ERR_NOTDIR,  NFS3ERR_STALE, NFS3ERR_SERVERFAULT };
    struct message m;
    message_write(f, &m, 10);
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        print_message("# %d\n", statuses[i]);
        edit("LOOKUP", "with_status", statuses[i]);
        assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_TEMP);
        ask("mend");
        check_mended(f); /* after "stale" the volume has to be attached anew */
        message_read(f, &m, SPAN(""));
    }
    edit("LOOKUP", "with_status", NFS3ERR_NOENT);
    assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_NOTFOUND);
    message_fini(&m);
}

static void test_remove_status(void **state)
{
    struct spool_fixture *f = *state;
    static const nfsstat3 statuses[] = { NFS3ERR_JUKEBOX, NFS3ERR_IO, NFS3ERR_ACCES, NFS3ERR_ROFS,
                                         NFS3ERR_STALE };
    struct message m;
    message_write(f, &m, 10);
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        edit("REMOVE", "with_status", statuses[i]);
        assert_int_equal(message_unlink(f, &m), ERR_TEMP);
    }
    edit("REMOVE", "with_status", NFS3ERR_NOENT);
    assert_int_equal(message_unlink(f, &m), ERR_OK);
    message_fini(&m);
}

/* Why a volume is not well that is attached, or looked at; and that it is, a moment later. */
static void test_look_status(void **state)
{
    struct spool_fixture *f = *state;
    static const struct {
        const char *procedure, *what;
        unsigned number;
        const char *why;
    } cases[] = {
        { "FSINFO", "with_status", NFS3ERR_IO, "FSINFO: NFS3ERR_IO" },
        { "LOOKUP", "with_status", NFS3ERR_NOENT, ".mailfleet-volume: NFS3ERR_NOENT" },
        { "READ", "with_status", NFS3ERR_ACCES, ".mailfleet-volume: NFS3ERR_ACCES" },
        { "READ", "short", 10, ".mailfleet-volume holds the UUID of another volume" },
        { "READ", "longer", 1, ".mailfleet-volume: the server sends more than was asked for" },
        { "FSSTAT", "with_status", NFS3ERR_IO, "FSSTAT: NFS3ERR_IO" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        print_message("# %s\n", cases[i].why);
        edit(cases[i].procedure, cases[i].what, cases[i].number);
        if (i > 1) { /* it is attached, and a look finds it out */
            look(f, LOOK_OFTEN);
            WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), cases[i].why));
        }
        reopen_unwell(f);
        WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), cases[i].why));
        ask("mend");
        check_mended(f);
    }
}

#define NAS_TEST(t, setup) cmocka_unit_test_setup_teardown(t, setup, teardown)

/* --- a file that can't be read, for the operator's command ------------------------------------ */

/* By the sentinel it is told whether that is so of the file alone. */
static void test_walk_read_status(void **state)
{
    struct spool_fixture *f = *state;
    static const unsigned statuses[] = { NFS3ERR_IO, NFS3ERR_ACCES, NFS3ERR_PERM };
    struct message m;
    struct volume_walk *walk;
    char path[SPOOL_PATH_MAX], octets[CHUNK], why[256];
    size_t got;
    message_write(f, &m, sizeof octets);
    spool_path(&m.p.id, f->volumes[0].fanout, path);
    assert_int_equal(volume_walk_open(&f->volumes[0], &f->options, &walk, why, sizeof why), ERR_OK);
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        edit("READ", "long_with_status", statuses[i]);
        assert_int_equal(volume_walk_read(walk, path, 0, octets, sizeof octets, &got), ERR_CORRUPT);
        edit("READ", "with_status", statuses[i]);
        assert_int_equal(volume_walk_read(walk, path, 0, octets, sizeof octets, &got), ERR_TEMP);
    }
    edit("READ", "long_with_status", NFS3ERR_SERVERFAULT);
    assert_int_equal(volume_walk_read(walk, path, 0, octets, sizeof octets, &got), ERR_TEMP);
    ask("mend");
    assert_int_equal(volume_walk_read(walk, path, 0, octets, sizeof octets, &got), ERR_OK);
    volume_walk_close(&walk);
    message_fini(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NAS_TEST(test_create_without_handle, setup_one),
        NAS_TEST(test_mkdir_without_handle, setup_one),
        NAS_TEST(test_no_listing, setup_one),
        NAS_TEST(test_short_reads, setup_one),
        NAS_TEST(test_reads_without_attributes, setup_one),
        NAS_TEST(test_short_writes, setup_one),
        NAS_TEST(test_not_durable, setup_one),
        NAS_TEST(test_restart_before_commit, setup_one),
        NAS_TEST(test_limits, setup_one),
        NAS_TEST(test_create_status, setup_two),
        NAS_TEST(test_write_status, setup_one),
        NAS_TEST(test_read_status, setup_one),
        NAS_TEST(test_lookup_status, setup_one),
        NAS_TEST(test_remove_status, setup_one),
        NAS_TEST(test_look_status, setup_one),
        NAS_TEST(test_walk_read_status, setup_one),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
