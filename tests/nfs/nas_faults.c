/*
 * An NFS server that fails: answers that are lost, connections that are refused, closed or say
 * nothing, a server that is stopped, killed and started anew, names that nobody knows. Whatever
 * happens, a write that may have been done is UNCERTAIN and is not done again, everything else is
 * TEMP, nothing waits longer than its deadline, and all goes on when the server does.
 */
#include "nas_libc.h"

#define SLOTS    64u   /* calls that the client sends on one connection */
#define DEADLINE 1000u /* ms, that tests wait for */

static int setup_patient(void **state)
{
    nas_begin(state, 1, patient);
    return 0;
}

static int setup_two(void **state)
{
    nas_begin(state, 2, patient);
    return 0;
}

static int setup_hasty(void **state)
{
    nas_begin(state, 1, hasty(DEADLINE));
    return 0;
}

static int setup_hasty_two(void **state)
{
    nas_begin(state, 2, hasty(DEADLINE));
    return 0;
}

static int teardown(void **state)
{
    gate_set(true);
    return nas_end(state);
}

static void check_fails(const struct message *m, enum err e)
{
    assert_int_equal(m->ev, SPOOL_FAILED);
    assert_int_equal(m->e, e);
    assert_int_equal(m->named, e == ERR_UNCERTAIN);
}

/* --- answers that are lost ------------------------------------------------------------------- */

static void drop(const char *procedure)
{
    char question[64];
    snprintf(question, sizeof question, "drop %s", procedure);
    ask("reset");
    ask(question);
}

/* The server has done it, and nobody knows: it is not done again, there or on another volume. */
static void test_lost_answer_to_write(void **state)
{
    struct spool_fixture *f = *state;
    static const struct {
        const char *procedure;
        size_t size;
    } cases[] = { { "CREATE", 10 },
                  { "CREATE", 10 * BUFFER },
                  { "WRITE", 10 },
                  { "WRITE", 10 * BUFFER },
                  { "COMMIT", 10 * BUFFER } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct message m;
        print_message("# %s of %zu octets\n", cases[i].procedure, cases[i].size);
        drop(cases[i].procedure);
        message_begin(f, &m, cases[i].size, 1);
        struct blob_id id = *spool_writer_id(m.writer);
        message_send(&m);
        WAIT(&f->net, NULL, !m.writer);
        check_fails(&m, ERR_UNCERTAIN);
        assert_true(blob_id_eq(&m.p.id, &id));
        assert_true(has_file(f, &m.p));
        m.p.volume = 3 - m.p.volume;
        assert_false(has_file(f, &m.p));
        assert_int_equal(calls_of("CREATE"), 1);
        assert_in_range(calls_of(cases[i].procedure), 1, 10 * BUFFER / 65536 + 2);
        message_fini(&m);
        check_mended(f);
    }
}

/*
 * Nothing was begun. The first write brings a look that prepares days, which asks for the same
 * directory: each of the two loses its answer, whichever comes first.
 */
static void test_lost_answer_on_the_way(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    reopen(f);
    look(f, LOOK_NEVER);
    drop("LOOKUP 2");
    message_write(f, &m, 10);
    check_fails(&m, ERR_TEMP);
    WAIT(&f->net, NULL, !volume_well(f, 1));
    message_fini(&m);
    check_mended(f);
}

static void test_lost_answer_to_read(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    write_well(f, &m, 3 * CHUNK);
    drop("READ");
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    assert_int_equal(calls_of("READ"), 1);
    message_read(f, &m, handle_of(&m));
    drop("LOOKUP");
    assert_int_equal(message_read_error(f, &m, SPAN("")), ERR_TEMP);
    message_read(f, &m, SPAN(""));
    drop("REMOVE");
    assert_int_equal(message_unlink(f, &m), ERR_TEMP);
    assert_false(has_file(f, &m.p));
    assert_int_equal(message_unlink(f, &m), ERR_OK);
    message_fini(&m);
    check_mended(f);
}

/* --- connections ----------------------------------------------------------------------------- */

/* Servers close what is idle. */
static void test_idle_connection_is_closed(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    write_well(f, &m, 10);
    for (int i = 0; i < 3; i++) {
        size_t fds = open_fds();
        ask("cut");
        WAIT(&f->net, NULL, open_fds() < fds);
        message_read(f, &m, handle_of(&m));
    }
    message_fini(&m);
    check_mended(f);
}

/* What fails at once ends in a few turns of the loop. */
static void check_at_once(struct spool_fixture *f, const struct message *m)
{
    struct seen s = { 0 };
    enum err e = ERR_COUNT;
    seen_start(f, &s, &m->p, handle_of(m));
    spool_unlink(f->spool, 1, &m->p.id, on_unlink_end, &e);
    fixture_settle(&f->net, NULL);
    assert_null(s.r.reader);
    assert_int_equal(s.r.e, ERR_TEMP);
    assert_int_equal(e, ERR_TEMP);
}

/* Looks go on, at ever longer distances, and nothing else tries to connect. */
static void check_back_off(struct spool_fixture *f, const struct message *m)
{
    const unsigned attempts = 3;
    const uint64_t least_ms = 125 + 250; /* half of what doubles, between the three */
    uint64_t began = uv_hrtime() / 1000000;
    unsigned before = connects;
    look(f, LOOK_OFTEN);
    WAIT(&f->net, NULL, connects >= before + attempts);
    assert_true(uv_hrtime() / 1000000 - began >= least_ms);
    look(f, LOOK_NEVER);
    fixture_settle(&f->net, NULL);
    check_at_once(f, m);
    assert_false(volume_well(f, 1));
}

static void test_refused(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    write_well(f, &m, 10);
    ask("refuse");
    ask("cut");
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    unsigned before = connects;
    check_at_once(f, &m); /* without another attempt */
    assert_int_equal(create_error(f), ERR_TEMP);
    assert_int_equal(connects, before);
    check_back_off(f, &m);
    assert_non_null(strstr(volume_why(f, 1), "Connection refused"));
    ask("accept");
    check_mended(f);
    message_read(f, &m, handle_of(&m));
    message_fini(&m);
}

/* Who accepts and closes at once is no better: the wire, as long as there is no server behind it.
 */
static void test_closed_at_once(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    write_well(f, &m, 10);
    ask("kill");
    WAIT(&f->net, NULL, create_error(f) == ERR_TEMP || !message_read_error(f, &m, handle_of(&m)));
    check_back_off(f, &m);
    ask("up");
    check_mended(f);
    message_read(f, &m, handle_of(&m));
    message_fini(&m);
}

/* --- a server that hangs --------------------------------------------------------------------- */

/* How it comes to hang: stopped, so that it has never seen a call; or its answers come late. */
static const struct {
    const char *hang, *go_on;
} hangs[] = { { "stop", "go_on" }, { "hang", "resume" } };

/* At the deadline, and from then on at once; when it goes on, so does all, within a few looks. */
static void test_hang(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, w, large;
    for (size_t i = 0; i < ARRAY_LEN(hangs); i++) {
        write_well(f, &m, 10);
        ask(hangs[i].hang);
        uint64_t began = uv_hrtime() / 1000000;
        message_begin(f, &w, 10, 1);
        message_begin(f, &large, 3 * BUFFER, 1);
        message_send(&w);
        message_send(&large);
        enum err e = ERR_COUNT;
        spool_unlink(f->spool, 1, &m.p.id, on_unlink_end, &e);
        assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
        WAIT(&f->net, NULL, !w.writer && !large.writer && e != ERR_COUNT);
        assert_true(uv_hrtime() / 1000000 - began >= DEADLINE / 2);
        check_fails(&w, ERR_UNCERTAIN);
        check_fails(&large, ERR_UNCERTAIN);
        assert_int_equal(e, ERR_TEMP);
        check_at_once(f, &m);
        assert_true(stats_get(&f->stats, STAT_spool_timeouts) > 0);
        look(f, LOOK_OFTEN);
        WAIT(&f->net, NULL, !volume_well(f, 1));
        assert_string_equal(volume_why(f, 1), ".mailfleet-volume: the server does not answer");
        ask(hangs[i].go_on);
        check_mended(f);
        message_fini(&m);
        message_fini(&w);
        message_fini(&large);
    }
}

/*
 * Connections that are dead, though nobody has said so, as after a server's fail-over: the first
 * look that follows goes over a new one.
 */
static void test_dead_connections(void **state)
{
    struct spool_fixture *f = *state;
    static struct seen s[4 * 8];
    struct message m;
    write_well(f, &m, 10);
    size_t fds = open_fds();
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        seen_start(f, &s[i], &m.p, handle_of(&m));
    }
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        seen_end(f, &s[i]);
        buf_fini(&s[i].r.got);
    }
    assert_int_equal(open_fds(), fds + CONNECTIONS - 1);
    ask("freeze");
    uint64_t before = stats_get(&f->stats, STAT_spool_timeouts);
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    check_mended(f);
    read_well(f, &m, handle_of(&m));
    assert_int_equal(stats_get(&f->stats, STAT_spool_timeouts), before + 1);
    message_fini(&m);
}

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated(void)
{
    assert_non_null(__sanitizer_get_current_allocated_bytes);
    return __sanitizer_get_current_allocated_bytes();
}

#define CROWD 300u

/* Turns the loop while the server hangs for that long; how many descriptors were open at most. */
static size_t most_fds(struct spool_fixture *f, uint64_t ms)
{
    size_t most = 0;
    for (uint64_t end = uv_hrtime() / 1000000 + ms; uv_hrtime() / 1000000 < end;) {
        fixture_turn(&f->net, NULL);
        size_t n = open_fds();
        most = n > most ? n : most;
    }
    return most;
}

/* Bounds hold: of calls that wait, of connections, of memory, however long it hangs. */
static void test_long_hang(void **state)
{
    struct spool_fixture *f = *state;
    static struct seen s[CROWD];
    struct message m;
    write_well(f, &m, 10);
    size_t fds = open_fds() - 1; /* with one connection */
    ask("stop");
    for (unsigned i = 0; i < CROWD; i++) {
        seen_start(f, &s[i], &m.p, handle_of(&m));
    }
    unsigned refused = 0;
    fixture_settle(&f->net, NULL);
    for (unsigned i = 0; i < CROWD; i++) {
        refused += !s[i].r.reader;
        assert_true(s[i].r.reader || s[i].r.e == ERR_TEMP);
    }
    assert_in_range(refused, CROWD - SLOTS - QUEUE, CROWD - SLOTS - QUEUE + 2); /* and a look */
    for (unsigned i = 0; i < CROWD; i++) {
        seen_end(f, &s[i]);
        assert_int_equal(s[i].r.e, ERR_TEMP);
    }
    size_t before = allocated();
    look(f, LOOK_OFTEN);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
        assert_int_equal(message_unlink(f, &m), ERR_TEMP);
    }
    assert_in_range(most_fds(f, 3 * DEADLINE), fds, fds + 2 * CONNECTIONS);
    assert_in_range(allocated(), 0, before + 65536); /* that of a connection, and of a look */
    ask("go_on");
    check_mended(f);
    read_well(f, &m, handle_of(&m));
    message_fini(&m);
}

/* One volume hangs: nobody waits for it but who needs it, and the other takes all new messages. */
static void test_other_volume_goes_on(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    struct seen s = { 0 };
    set_server(f, 1, getenv("MAILFLEET_TEST_NFS_DIRECT"));
    f->volumes[0].weight = 1000000;
    set_volumes(f);
    wait_well(f);
    write_well(f, &m, 10);
    assert_int_equal(m.p.volume, 1);
    ask("hang");
    seen_start(f, &s, &m.p, handle_of(&m));
    seen_end(f, &s);
    assert_int_equal(s.r.e, ERR_TEMP);
    buf_fini(&s.r.got);
    message_fini(&m);
    seen_start(f, &s, &m.p, SPAN("")); /* goes with the volume: a look is under way */
    for (int i = 0; i < 20; i++) {
        write_well(f, &m, 3 * CHUNK);
        assert_int_equal(m.p.volume, 2);
        read_well(f, &m, handle_of(&m));
        message_fini(&m);
    }
    seen_end(f, &s);
    ask("resume");
    check_mended(f);
}

/* --- a server that is started anew ----------------------------------------------------------- */

/* Between two steps of a message of which only the last is still at hand. */
static void test_restart_in_a_stream(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, other;
    write_well(f, &other, 10);
    message_begin(f, &m, 3 * BUFFER, 1);
    struct span octets = buf_span(&m.octets);
    spool_append(m.writer, span_first(octets, BUFFER + 1));
    assert_false(spool_append(m.writer, span_first(span_skip(octets, BUFFER + 1), BUFFER + 1)));
    WAIT(&f->net, NULL, m.ready > 0);
    WAIT(&f->net, NULL, calls_of("WRITE") == 1 + 2 + 2); /* that of the other, and two steps */
    fixture_settle(&f->net, NULL);
    ask("restart_another");
    WAIT(&f->net, NULL, message_read_error(f, &other, handle_of(&other)) == ERR_OK);
    spool_append(m.writer, span_skip(octets, 2 * (BUFFER + 1)));
    spool_finish(m.writer);
    WAIT(&f->net, NULL, !m.writer);
    check_fails(&m, ERR_UNCERTAIN);
    assert_true(has_file(f, &m.p));
    message_fini(&m);
    message_fini(&other);
    check_mended(f);
}

/* --- names ----------------------------------------------------------------------------------- */

static void test_names(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    write_well(f, &m, 10);
    set_host(f, 0, NAME_NONE);
    set_volumes(f);
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);
    WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), "MOUNT: none.test: Name or service not known"));
    check_at_once(f, &m);
    set_host(f, 0, NAME_NAS);
    set_volumes(f);
    check_mended(f);
    read_well(f, &m, handle_of(&m));
    message_fini(&m);
}

/* Nothing but the volume itself waits for its name. */
static void test_name_hangs(void **state)
{
    struct spool_fixture *f = *state;
    struct message m, n;
    write_well(f, &m, 10);
    m.p.volume = 1;
    set_host(f, 0, NAME_SLOW);
    gate_set(false);
    set_volumes(f);
    WAIT(&f->net, NULL, gate_waiting() == 1);
    struct seen s = { 0 };
    seen_start(f, &s, &m.p, SPAN(""));
    for (int i = 0; i < 20; i++) {
        write_well(f, &n, 10);
        assert_int_equal(n.p.volume, 2);
        message_fini(&n);
    }
    seen_end(f, &s);
    assert_int_equal(s.r.e, ERR_TEMP);
    for (int i = 0; i < 3; i++) { /* whatever comes, one thread waits */
        look(f, LOOK_OFTEN);
        fixture_settle(&f->net, NULL);
        look(f, LOOK_NEVER);
        check_at_once(f, &m);
    }
    assert_int_equal(gate_waiting(), 1);
    gate_set(true);
    check_mended(f);
    message_fini(&m);
}

/* --- the portmapper -------------------------------------------------------------------------- */

/* Without mountport= it is asked where MOUNT is. */
static void test_portmapper(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    char server[128];
    write_well(f, &m, 10);
    snprintf(server, sizeof server, "%.*s", (int)strcspn(nfs_server(), "?"), nfs_server());
    set_server(f, 0, server);
    set_volumes(f); /* nobody listens */
    WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), "portmapper: Connection refused"));
    assert_int_equal(message_read_error(f, &m, handle_of(&m)), ERR_TEMP);

    look(f, LOOK_OFTEN);
    ask("portmap 0");
    WAIT(&f->net, NULL,
         !strcmp(volume_why(f, 1),
                 "portmapper: MOUNT is not registered; mountport= may name its port"));
    ask("portmap hangs");
    WAIT(&f->net, NULL, !strcmp(volume_why(f, 1), "portmapper: the server does not answer"));
    ask("portmap right");
    check_mended(f);
    read_well(f, &m, handle_of(&m));
    message_fini(&m);
}

#define NAS_TEST(t, setup) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NAS_TEST(test_lost_answer_to_write, setup_two),
        NAS_TEST(test_lost_answer_on_the_way, setup_patient),
        NAS_TEST(test_lost_answer_to_read, setup_patient),
        NAS_TEST(test_idle_connection_is_closed, setup_patient),
        NAS_TEST(test_refused, setup_patient),
        NAS_TEST(test_closed_at_once, setup_patient),
        NAS_TEST(test_hang, setup_hasty),
        NAS_TEST(test_dead_connections, setup_hasty),
        NAS_TEST(test_long_hang, setup_hasty),
        NAS_TEST(test_other_volume_goes_on, setup_hasty_two),
        NAS_TEST(test_restart_in_a_stream, setup_patient),
        NAS_TEST(test_names, setup_patient),
        NAS_TEST(test_name_hangs, setup_hasty_two),
        NAS_TEST(test_portmapper, setup_hasty),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
