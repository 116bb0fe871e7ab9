/* repair against a real server: what is gathered, bounded, sent and dropped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/stats.h"
#include "postgres.h"
#include "store/repair.h"

#define GATHER_MS 20
#define PAUSE_MS  10

static struct postgres *server;
static struct loop *loop;
static struct index *ix;
static struct repair *repair; /* closed by teardown unless the test did */
static struct stats stats;

static uint64_t count(enum stat_id s)
{
    return stats_get(&stats, s);
}

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_ONCE);
}

static void wait_for(enum stat_id s, uint64_t n)
{
    while (count(s) < n) {
        turn();
    }
    assert_int_equal(count(s), n);
}

static void on_closed(uv_handle_t *h)
{
    *(bool *)h->data = true;
}

static void on_due(uv_timer_t *t)
{
    uv_close((uv_handle_t *)t, on_closed);
}

/* Until a timer that was started before this, and for less time, has run: libuv keeps order. */
static void outlast(uint64_t ms)
{
    uv_timer_t t;
    bool over = false;
    uv_timer_init(loop_uv(loop), &t);
    t.data = &over;
    uv_timer_start(&t, on_due, ms + 10, 0);
    while (!over) {
        turn();
    }
}

/* Mailboxes 1 to boxes with messages 1 to n each, whose blob_id is 1000 * mailbox_id + seq. */
static void fill(unsigned boxes, unsigned n)
{
    postgres_sql(server,
                 "ALTER TABLE message DROP CONSTRAINT IF EXISTS test;"
                 "TRUNCATE mailbox, message;"
                 "INSERT INTO mailbox (mailbox_id) SELECT generate_series(1, %u);"
                 "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                 " SELECT b, s, lpad(to_hex(1000 * b + s), 32, '0')::uuid, 10, 100, 1, false"
                 "   FROM generate_series(1, %u) b, generate_series(1, %u) s",
                 boxes, boxes, n);
}

/*
 * What is done with each row that is written, until fill. fails() raises what is a fault to the
 * mail path; passes() waits for whoever has locked the table gate.
 */
static void check_rows(const char *condition)
{
    postgres_sql(server, "ALTER TABLE message ADD CONSTRAINT test CHECK (%s) NOT VALID", condition);
}

static void make_checks(void)
{
    postgres_sql(server, "CREATE FUNCTION fails() RETURNS boolean LANGUAGE plpgsql AS"
                         " $$BEGIN RAISE EXCEPTION USING ERRCODE = 'data_corrupted'; END$$;"
                         "CREATE TABLE gate ();"
                         "CREATE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql AS"
                         " $$BEGIN PERFORM FROM gate; RETURN true; END$$");
}

static struct pointer pointer_to(uint64_t mailbox_id, unsigned seq)
{
    struct pointer p = { .seq = seq, .size = 10, .skip = 100, .volume = 1 };
    uint64_t n = 1000 * mailbox_id + seq;
    for (unsigned i = 0; i < 8; i++) {
        p.id.b[BLOB_ID_SIZE - 1 - i] = (uint8_t)(n >> 8 * i);
    }
    return p;
}

static void add_as(uint64_t mailbox_id, unsigned seq, struct span handle)
{
    struct pointer p = pointer_to(mailbox_id, seq);
    repair_add(repair, mailbox_id, &p, handle);
}

/* With the handle `MAILBOX.SEQ`. */
static void add(uint64_t mailbox_id, unsigned seq)
{
    char handle[HANDLE_MAX];
    int n = snprintf(handle, sizeof handle, "%u.%u", (unsigned)mailbox_id, seq);
    add_as(mailbox_id, seq, span_of(handle, (size_t)n));
    memset(handle, 0, sizeof handle); /* it was copied */
}

static long long handles(void)
{
    return postgres_sql(server, "SELECT count(*) FROM message WHERE handle <> ''");
}

static void assert_handles_right(unsigned n)
{
    assert_int_equal(handles(), n);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM message"
                                          " WHERE handle = (mailbox_id || '.' || seq)::bytea"),
                     n);
}

static void wait_until_sent(void)
{
    do {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
        postgres_sql(server, "SELECT pg_stat_clear_snapshot()");
    } while (postgres_sql(server, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE"
                                  " 'UPDATE message%%' AND wait_event_type = 'Lock'") == 0);
}

static int start(void **state)
{
    (void)state;
    server = postgres_start();
    make_checks();
    stats_use(&stats);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    postgres_stop(&server);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(&stats, 0, sizeof stats);
    loop = loop_open();
    ix = index_open(loop, &(struct index_options){ .url = postgres_url(server),
                                                   .read_connections = 1,
                                                   .write_connections = 2,
                                                   .timeout_ms = 20000 });
    while (!index_ready(ix)) {
        turn();
    }
    repair = repair_open(loop, ix,
                         &(struct repair_options){ .gather_ms = GATHER_MS, .pause_ms = PAUSE_MS });
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (repair) {
        repair_close(&repair);
    }
    index_close(&ix);
    postgres_settle(server);
    loop_close(&loop);
    return 0;
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_a_statement_a_mailbox(void **state)
{
    (void)state;
    enum { BOXES = 3, N = 300 };
    fill(BOXES, N + 1);
    for (unsigned seq = 1; seq <= N; seq++) {
        for (unsigned box = BOXES; box > 0; box--) {
            add(box, seq);
        }
    }
    wait_for(STAT_spool_handles_repaired, BOXES * N);
    assert_handles_right(BOXES * N);
    assert_int_equal(postgres_sql(server,
                                  "SELECT count(*) FROM message"
                                  " WHERE handle = '' AND seq <= %d",
                                  N),
                     0);
    /* Rows that one transaction wrote have one xmin. */
    assert_int_equal(
        postgres_sql(server, "SELECT count(DISTINCT xmin::text) FROM message WHERE handle <> ''"),
        BOXES);

    /* It goes on after a round. */
    add(2, N + 1);
    wait_for(STAT_spool_handles_repaired, BOXES * N + 1);
    assert_handles_right(BOXES * N + 1);
}

static void test_only_this_mailbox(void **state)
{
    (void)state;
    fill(3, 2);
    postgres_sql(server, "UPDATE message SET blob_id = lpad(to_hex(1001), 32, '0')::uuid,"
                         " shared = true WHERE seq = 1");
    add(1, 1);
    wait_for(STAT_spool_handles_repaired, 1);
    assert_handles_right(1);
    assert_int_equal(postgres_sql(server, "SELECT mailbox_id FROM message WHERE handle <> ''"), 1);
    assert_int_equal(postgres_sql(server, "SELECT sum(version) FROM mailbox"), 0);
}

/* A message that is read again while it waits takes one place, with what was found last. */
static void test_the_latest_counts(void **state)
{
    (void)state;
    fill(1, 2);
    for (unsigned i = 0; i < 2 * REPAIRS_MAX; i++) {
        add_as(1, 1, SPAN("before"));
    }
    add(1, 1);
    add(1, 2); /* there is room for it */
    wait_for(STAT_spool_handles_repaired, 2);
    assert_handles_right(2);
}

static void test_bound(void **state)
{
    (void)state;
    enum { MORE = 7 };
    fill(1, REPAIRS_MAX + MORE);
    for (unsigned seq = 1; seq <= REPAIRS_MAX + MORE; seq++) {
        add(1, seq);
    }
    wait_for(STAT_spool_handles_repaired, REPAIRS_MAX);
    assert_handles_right(REPAIRS_MAX);
    /* What was dropped is read again. */
    for (unsigned seq = 1; seq <= MORE; seq++) {
        add(1, REPAIRS_MAX + seq);
    }
    wait_for(STAT_spool_handles_repaired, REPAIRS_MAX + MORE);
    assert_handles_right(REPAIRS_MAX + MORE);
}

/* The rest of a round counts too: the database may be slow for as long as it likes. */
static void test_bound_while_under_way(void **state)
{
    (void)state;
    enum { BOXES = 4, N = REPAIRS_MAX / BOXES };
    fill(BOXES + 1, N + 1);
    postgres_sql(server, "BEGIN; LOCK TABLE message");
    for (unsigned box = 1; box <= BOXES; box++) {
        for (unsigned seq = 1; seq <= N; seq++) {
            add(box, seq);
        }
    }
    wait_until_sent();
    for (unsigned seq = 1; seq <= N + 1; seq++) { /* places of the mailbox that was sent, no more */
        add(BOXES + 1, seq);
    }
    postgres_sql(server, "COMMIT");
    wait_for(STAT_spool_handles_repaired, REPAIRS_MAX + N);
    assert_handles_right(REPAIRS_MAX + N);
}

/*
 * What comes while a statement is under way waits for it. At the same time the second would find
 * the row locked and pass it over, and the older handle would stay.
 */
static void test_one_at_a_time(void **state)
{
    (void)state;
    fill(1, 2);
    check_rows("handle <> 'before' OR passes()");
    postgres_sql(server, "BEGIN; LOCK TABLE gate");
    add_as(1, 1, SPAN("before"));
    wait_until_sent();
    add(1, 1);
    add(1, 2);
    outlast(GATHER_MS);
    postgres_sql(server, "COMMIT");
    wait_for(STAT_spool_handles_repaired, 3);
    assert_handles_right(2);
}

static void test_messages_that_are_gone(void **state)
{
    (void)state;
    fill(2, 2);
    postgres_sql(server, "DELETE FROM message WHERE mailbox_id = 1");
    add(1, 1);
    add(2, 2);
    wait_for(STAT_spool_handles_repaired, 1);
    assert_handles_right(1);
    assert_int_equal(count(STAT_db_faults), 0);
}

/* What fails is dropped, and stands in nobody's way. */
static void test_failure(void **state)
{
    (void)state;
    fill(2, 2);
    check_rows("mailbox_id <> 1 OR fails()");
    add(1, 1);
    add(2, 1);
    wait_for(STAT_db_faults, 1);
    add(2, 2);
    wait_for(STAT_spool_handles_repaired, 2);
    assert_int_equal(count(STAT_db_faults), 1);
    assert_handles_right(2);
}

/* A pause may end when nothing waits. */
static void test_nothing_after_a_pause(void **state)
{
    (void)state;
    fill(1, 1);
    check_rows("fails()");
    add(1, 1);
    wait_for(STAT_db_faults, 1);
    outlast(PAUSE_MS);
    assert_int_equal(handles(), 0);
    postgres_sql(server, "ALTER TABLE message DROP CONSTRAINT test");
    add(1, 1); /* it is read again */
    wait_for(STAT_spool_handles_repaired, 1);
    assert_handles_right(1);
}

static void test_close_while_gathering(void **state)
{
    (void)state;
    fill(1, 1);
    add(1, 1);
    repair_close(&repair);
    outlast(GATHER_MS);
    assert_int_equal(handles(), 0);
}

static void test_close_while_under_way(void **state)
{
    (void)state;
    fill(2, 2);
    postgres_sql(server, "BEGIN; LOCK TABLE message");
    add(1, 1);
    add(2, 1);
    wait_until_sent();
    add(1, 2);
    repair_close(&repair);
    postgres_sql(server, "COMMIT");
    while (handles() < 1) {
        turn();
    }
    outlast(GATHER_MS);
    assert_handles_right(1); /* the one that had been sent */
    assert_int_equal(count(STAT_spool_handles_repaired), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_statement_a_mailbox),  TEST(test_only_this_mailbox),
        TEST(test_the_latest_counts),      TEST(test_bound),
        TEST(test_bound_while_under_way),  TEST(test_one_at_a_time),
        TEST(test_messages_that_are_gone), TEST(test_failure),
        TEST(test_nothing_after_a_pause),  TEST(test_close_while_gathering),
        TEST(test_close_while_under_way),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, start, stop);
}
