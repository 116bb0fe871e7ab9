/*
 * A volume, or all of the spool, that ends while calls are under way: at every moment from the
 * first look-up of its name to a server that hangs. Nothing is lost or used after its end: that is
 * for the sanitizers to tell.
 */
#include "nas_libc.h"

static int setup(void **state)
{
    nas_begin(state, 1, hasty(300));
    return 0;
}

static int teardown(void **state)
{
    gate_set(true);
    return nas_end(state);
}

/* --- the end, with calls under way ----------------------------------------------------------- */

#define READS  3u
#define WRITES 3u

/* What goes on while a volume ends; that its memory is right the sanitizer tells. */
struct bustle {
    struct seen reads[READS];
    struct message writes[WRITES];
    struct op *unlink;
    enum err unlinked;
};

/* As much as this volume can be asked for now. */
static void bustle_begin(struct spool_fixture *f, struct bustle *b, const struct message *m)
{
    static const size_t sizes[WRITES] = { 10, BUFFER, 3 * BUFFER };
    *b = (struct bustle){ .unlinked = ERR_COUNT };
    for (unsigned i = 0; i < READS; i++) {
        seen_start(f, &b->reads[i], &m->p, i ? SPAN("") : handle_of(m));
    }
    b->unlink = spool_unlink(f->spool, 1, &m->p.id, on_unlink_end, &b->unlinked);
    for (unsigned i = 0; i < WRITES && create_error(f) == ERR_OK; i++) {
        message_begin(f, &b->writes[i], sizes[i], 1);
        message_send(&b->writes[i]);
    }
}

static void bustle_give_up(struct bustle *b)
{
    struct pointer orphan;
    for (unsigned i = 0; i < READS; i++) {
        spool_read_close(&b->reads[i].r.reader);
        buf_fini(&b->reads[i].r.got);
    }
    for (unsigned i = 0; i < WRITES; i++) {
        if (b->writes[i].writer) {
            spool_abort(&b->writes[i].writer, &orphan);
        }
        message_fini(&b->writes[i]);
    }
    if (b->unlinked == ERR_COUNT) {
        op_cancel(&b->unlink);
    }
}

static bool bustle_ended(const struct bustle *b)
{
    for (unsigned i = 0; i < READS; i++) {
        if (b->reads[i].r.reader) {
            return false;
        }
    }
    for (unsigned i = 0; i < WRITES; i++) {
        if (b->writes[i].writer) {
            return false;
        }
    }
    return b->unlinked != ERR_COUNT;
}

/* Each brings the volume to a state of its life; it was well before, and nobody has used it yet. */

static void while_looked_up(struct spool_fixture *f)
{
    gate_set(false);
    set_host(f, 0, NAME_SLOW);
    set_volumes(f);
    WAIT(&f->net, NULL, gate_waiting() > 0);
}

/* Nobody has this address of the laboratory's network: SYN after SYN goes unanswered. */
static void while_connecting(struct spool_fixture *f)
{
    unsigned before = connects;
    char host[64];
    snprintf(host, sizeof host, "%s9", server_host());
    set_host(f, 0, host);
    set_volumes(f);
    WAIT(&f->net, NULL, connects > before);
}

static void while_mounting(struct spool_fixture *f)
{
    unsigned before = connects;
    ask("hang_mount");
    reopen_unwell(f);
    WAIT(&f->net, NULL, connects > before);
    fixture_settle(&f->net, NULL);
}

static void while_attaching(struct spool_fixture *f)
{
    ask("reset");
    ask("hang");
    reopen_unwell(f);
    WAIT(&f->net, NULL, calls_of("FSINFO") == 1);
}

static void while_well(struct spool_fixture *f)
{
    reopen(f);
    look(f, LOOK_NEVER);
}

/* Calls are sent, and no answer comes. */
static void while_hung(struct spool_fixture *f)
{
    while_well(f);
    ask("hang");
}

/* The same for each call that one write and one read make, one after the other. */
static void while_in_use(struct spool_fixture *f)
{
    struct message m;
    while_well(f);
    prepare(f);
    write_well(f, &m, 10);
    message_fini(&m);
    ask("hang");
}

static void while_broken(struct spool_fixture *f)
{
    while_in_use(f);
    struct bustle b;
    struct message m;
    message_begin(f, &m, 10, 1);
    message_send(&m);
    WAIT(&f->net, NULL, !m.writer);
    bustle_begin(f, &b, &m);
    WAIT(&f->net, NULL, bustle_ended(&b));
    bustle_give_up(&b);
    message_fini(&m);
}

static void while_refused(struct spool_fixture *f)
{
    while_well(f);
    ask("refuse");
    ask("cut");
}

static void (*const states[])(struct spool_fixture *f) = {
    while_looked_up, while_connecting, while_mounting, while_attaching, while_well,
    while_hung,      while_in_use,     while_broken,   while_refused,
};

/* What the calls have sent by then: nothing, or as much as there is to send. */
static void let_go(struct spool_fixture *f, unsigned turns)
{
    for (unsigned i = 0; i < turns; i++) {
        fixture_turn(&f->net, NULL);
    }
}

static void make_right(struct spool_fixture *f)
{
    gate_set(true);
    ask("mend");
    f->n = 1;
    set_server(f, 0, nfs_server());
    set_volumes(f);
    check_mended(f);
}

/* The spool ends, with all that was given up before, or with the last looks. */
static void test_close(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    struct bustle b;
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        for (unsigned turns = 0; turns <= 8; turns += 8) {
            print_message("# state %zu, %u turns\n", i, turns);
            write_well(f, &m, 3 * CHUNK);
            states[i](f);
            bustle_begin(f, &b, &m);
            let_go(f, turns);
            bustle_give_up(&b);
            spool_close(&f->spool);
            let_go(f, turns);
            f->spool = spool_open(f->net.loop, &f->options);
            make_right(f);
            message_fini(&m);
        }
    }
}

/* All is well, and it ends before it has got far: after each turn that it takes to begin. */
static void test_close_early(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    struct bustle b;
    write_well(f, &m, 3 * CHUNK);
    for (unsigned turns = 0; turns < 60; turns++) {
        reopen_unwell(f);
        if (turns % 2) {
            bustle_begin(f, &b, &m);
        }
        let_go(f, turns / 2);
        if (turns % 2) {
            bustle_give_up(&b);
        }
    }
    reopen(f);
    check_mended(f);
    message_fini(&m);
}

/* The volume is not listed any more: what goes on on it ends by itself. */
static void test_remove(void **state)
{
    struct spool_fixture *f = *state;
    struct message m;
    struct bustle b;
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        for (unsigned turns = 0; turns <= 8; turns += 8) {
            print_message("# state %zu, %u turns\n", i, turns);
            write_well(f, &m, 3 * CHUNK);
            states[i](f);
            bustle_begin(f, &b, &m);
            let_go(f, turns);
            f->n = 0;
            set_volumes(f);
            WAIT(&f->net, NULL, bustle_ended(&b));
            bustle_give_up(&b);
            make_right(f);
            message_fini(&m);
        }
    }
}

#define NAS_TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NAS_TEST(test_close),
        NAS_TEST(test_close_early),
        NAS_TEST(test_remove),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
