/*
 * The NFS calls of a spool, counted on the wire: each operation costs what docs say it does, and
 * nothing else goes to the server. Its limits of READ and WRITE are 64 KiB.
 */
#include "nas_fixture.h"

#define LIMIT  65536u
#define BUFFER (1024u * 1024)
#define SMALL  8192u
#define N      50u

static const struct spool_options whole = {
    .buffer = BUFFER, .read_chunk = BUFFER, .threads = 2, .queue = 1000, .timeout_ms = 30000
};
static const struct spool_options streamed = {
    .buffer = 100000, .read_chunk = BUFFER, .threads = 2, .queue = 1000, .timeout_ms = 30000
};

static void setup(struct spool_fixture *f, struct spool_options options)
{
    fixture_begin(f, 1, options);
    prepare(f);
    look(f, LOOK_NEVER);
    ask("reset");
}

static int setup_whole(void **state)
{
    *state = NEW(struct spool_fixture);
    setup(*state, whole);
    return 0;
}

static int setup_streamed(void **state)
{
    *state = NEW(struct spool_fixture);
    setup(*state, streamed);
    return 0;
}

static int teardown(void **state)
{
    fixture_end(*state);
    free(*state);
    return 0;
}

static void check_two(const char *a, unsigned n, const char *b, unsigned k)
{
    char expected[128];
    snprintf(expected, sizeof expected, "%s %u, %s %u", a, n, b, k);
    check_calls(expected);
}

static void check_one(const char *a, unsigned n)
{
    char expected[64];
    snprintf(expected, sizeof expected, "%s %u", a, n);
    check_calls(expected);
}

static void check_large(unsigned writes)
{
    char expected[64];
    snprintf(expected, sizeof expected, "COMMIT 1, CREATE 1, WRITE %u", writes);
    check_calls(expected);
}

static unsigned pieces(size_t octets)
{
    return (unsigned)((octets + LIMIT - 1) / LIMIT);
}

/* --- writing --------------------------------------------------------------------------------- */

static void test_write(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    for (unsigned i = 0; i < N; i++) {
        message_begin(f, &m, SMALL, 1 + 2 * i); /* to 1, 3, ... 99 */
        message_send(&m);
        WAIT(&f->net, NULL, !m.writer);
        assert_int_equal(m.ev, SPOOL_WRITTEN);
        assert_int_equal(pointer_state(f, &m.p), FILE_RIGHT);
        message_fini(&m);
    }
    check_two("CREATE", N, "WRITE", N);
}

/* To the last octet that one call takes, and one more. */
static void test_write_limit(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, SMALL);
    size_t most = LIMIT - m.p.skip;
    message_fini(&m);
    ask("reset");

    message_write(f, &m, most);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    check_two("CREATE", 1, "WRITE", 1);
    message_fini(&m);
    message_write(f, &m, most + 1);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    check_large(2);
    message_fini(&m);
}

static void test_write_large(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, BUFFER);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    assert_int_equal(pointer_state(f, &m.p), FILE_RIGHT);
    check_large(pieces(m.p.skip + BUFFER));
    message_fini(&m);
}

/* Step by step, each with as few calls as it can, and one for the end of the envelope. */
static void test_write_streamed(void **state)
{
    struct spool_fixture *f = *state;
    const size_t piece = 30000, step = 4 * piece, steps = 4, rest = 70000;
    struct message m;
    message_begin(f, &m, steps * step + rest, 1);
    struct span left = buf_span(&m.octets);
    for (unsigned ready; left.n; left = span_skip(left, piece)) {
        ready = m.ready;
        if (!spool_append(m.writer, span_first(left, piece))) {
            WAIT(&f->net, NULL, m.ready > ready);
        }
    }
    spool_finish(m.writer);
    WAIT(&f->net, NULL, !m.writer);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    assert_int_equal(pointer_state(f, &m.p), FILE_RIGHT);
    check_large(pieces(m.p.skip + step) + (unsigned)(steps - 1) * pieces(step) + pieces(rest) + 1);
    message_fini(&m);
}

/* --- reading --------------------------------------------------------------------------------- */

static void test_read(void **state)
{
    struct spool_fixture *f = *state;
    struct message m[N];
    for (unsigned i = 0; i < N; i++) {
        message_write(f, &m[i], SMALL);
    }
    ask("reset");
    for (unsigned i = 0; i < N; i++) {
        message_read(f, &m[i], nfs_handle_span(&m[i].handle));
    }
    check_one("READ", N);
    for (unsigned i = 0; i < N; i++) {
        message_read(f, &m[i], SPAN(""));
    }
    check_two("LOOKUP", N, "READ", N);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(message_unlink(f, &m[i]), ERR_OK);
        message_fini(&m[i]);
    }
    check_one("REMOVE", N);
}

/* A handle is enough: no directory is looked for, and none is known. */
static void test_read_needs_no_directory(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, SMALL);
    reopen(f);
    look(f, LOOK_NEVER);
    ask("reset");
    message_read(f, &m, nfs_handle_span(&m.handle));
    check_one("READ", 1);
    message_fini(&m);
}

static void test_read_large(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    message_write(f, &m, 0);
    size_t skip = m.p.skip;
    message_fini(&m);
    const size_t files[] = { LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT, 2 * LIMIT + 1, 1000000 };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        message_write(f, &m, files[i] - skip);
        assert_int_equal(m.p.skip, skip);
        ask("reset");
        message_read(f, &m, nfs_handle_span(&m.handle));
        check_one("READ", pieces(files[i]));
        message_read(f, &m, SPAN(""));
        check_two("LOOKUP", 1, "READ", pieces(files[i]));
        message_fini(&m);
    }
}

/* --- looks ----------------------------------------------------------------------------------- */

static void test_look(void **state)
{
    struct spool_fixture *f = *state;
    look(f, LOOK_OFTEN);
    WAIT(&f->net, NULL, calls_of("FSSTAT") >= 5);
    look(f, LOOK_NEVER);
    WAIT(&f->net, NULL, calls_of("READ") == calls_of("FSSTAT")); /* the last is over */
    unsigned looks = calls_of("FSSTAT");
    check_two("FSSTAT", looks, "READ", looks);
}

/* --- directories ----------------------------------------------------------------------------- */

/* A volume of 256 directories a day in place of that of 16. */
static void widen(struct spool_fixture *f)
{
    char why[256] = "";
    struct volume *v = &f->volumes[0];
    v->volume_id = 2;
    v->fanout = 2;
    make_url(f, v);
    assert_int_equal(volume_create(v, &f->options, why, sizeof why), ERR_OK);
    set_volumes(f);
    wait_well(f);
}

/*
 * What a process costs that reads all over a day: the day's directory, a few of its directories one
 * by one, then a listing of all 256. By other names it would have been a LOOKUP each.
 */
static void test_first_reads(void **state)
{
    struct spool_fixture *f = *state;
    static struct message m[2 * N];
    widen(f);
    for (unsigned i = 0; i < ARRAY_LEN(m); i++) {
        message_write(f, &m[i], 10);
    }
    reopen(f);
    look(f, LOOK_NEVER);
    ask("reset");
    for (unsigned i = 0; i < ARRAY_LEN(m); i++) {
        message_read(f, &m[i], SPAN(""));
    }
    assert_in_range(calls_of("LOOKUP"), ARRAY_LEN(m) + 2, ARRAY_LEN(m) + 5);
    assert_in_range(calls_of("READDIRPLUS"), 1, 2);
    char expected[128];
    snprintf(expected, sizeof expected, "LOOKUP %u, READ %zu, READDIRPLUS %u", calls_of("LOOKUP"),
             ARRAY_LEN(m), calls_of("READDIRPLUS"));
    check_calls(expected);
    for (unsigned i = 0; i < ARRAY_LEN(m); i++) {
        message_read(f, &m[i], SPAN(""));
        message_fini(&m[i]);
    }
    check_two("LOOKUP", ARRAY_LEN(m), "READ", ARRAY_LEN(m));
}

/* A process that begins to write where others do: both days are there, and found in few calls. */
static void test_first_write(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    reopen(f);
    look(f, LOOK_NEVER);
    ask("reset");
    message_write(f, &m, SMALL);
    assert_int_equal(m.ev, SPOOL_WRITTEN);
    WAIT(&f->net, NULL, calls_of("READDIRPLUS") >= 2);
    fixture_settle(&f->net, NULL);
    assert_in_range(calls_of("LOOKUP"), 2 * 5,
                    2 * 5 + 2); /* the look and the write, side by side */
    assert_in_range(calls_of("READDIRPLUS"), 2, 4);
    assert_int_equal(calls_of("MKDIR"), 0);
    message_fini(&m);
    ask("reset");
    for (unsigned i = 0; i < N; i++) {
        message_write(f, &m, SMALL);
        message_fini(&m);
    }
    check_two("CREATE", N, "WRITE", N);
}

#define NAS_TEST(t, setup) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NAS_TEST(test_write, setup_whole),
        NAS_TEST(test_write_limit, setup_whole),
        NAS_TEST(test_write_large, setup_whole),
        NAS_TEST(test_write_streamed, setup_streamed),
        NAS_TEST(test_read, setup_whole),
        NAS_TEST(test_read_needs_no_directory, setup_whole),
        NAS_TEST(test_read_large, setup_whole),
        NAS_TEST(test_look, setup_whole),
        NAS_TEST(test_first_reads, setup_whole),
        NAS_TEST(test_first_write, setup_whole),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
