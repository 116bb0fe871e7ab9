/*
 * index_read: look-ups and lists that come at the same time, against a real server: each hears what
 * it would hear alone, whatever becomes of the others, and the database gets few statements.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/check.h"
#include "base/stats.h"
#include "postgres.h"
#include "store/index_parts.h"

#define GATHER     32
#define TIMEOUT_MS 20000
#define LONG       257 /* messages: more than are read with others */
#define WAITING    65536

static struct postgres *server;
static struct loop *loop;
static struct index *ix;
static struct stats stats;

/* What a call ended with. */
struct answer {
    bool done;
    enum err err;
    size_t n;
    struct entry *entries[4];
    struct maildrop *maildrop;
    unsigned under_way; /* statements of look-ups, at that time */
    bool waiting;       /* somebody, for one */
};

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_ONCE);
}

static enum err wait_for(struct answer *a)
{
    while (!a->done) {
        turn();
    }
    return a->err;
}

static void finish(struct answer *a, enum err e)
{
    assert_false(a->done);
    a->done = true;
    a->err = e;
    a->under_way = ix ? ix->lookups.under_way : 0; /* NULL: it is being closed */
    a->waiting = ix && !list_empty(&ix->lookups.waiting);
}

static void on_entries(void *arg, enum err e, struct entry **entries, size_t n)
{
    struct answer *a = arg;
    finish(a, e);
    a->n = n;
    for (size_t i = 0; e == ERR_OK && i < n; i++) {
        a->entries[i] = entries[i];
        entries[i] = NULL;
    }
}

static void on_list(void *arg, enum err e, struct maildrop **m)
{
    struct answer *a = arg;
    finish(a, e);
    a->maildrop = *m;
    *m = NULL;
}

static void forget(struct answer *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        maildrop_free(&a[i].maildrop);
        for (size_t k = 0; k < ARRAY_LEN(a[i].entries); k++) {
            entry_free(&a[i].entries[k]);
        }
        a[i] = (struct answer){ 0 };
    }
}

static struct op *look_up(const char *address, struct answer *a)
{
    return index_lookup(ix, &(struct span){ address, strlen(address) }, 1, on_entries, a);
}

static uint64_t statements(void)
{
    return stats_get(&stats, STAT_db_queries);
}

static void open_index(unsigned gather, uint64_t timeout_ms, uint64_t wait_ms)
{
    ix = index_open(loop, &(struct index_options){ .url = postgres_url(server),
                                                   .read_connections = 2,
                                                   .write_connections = 1,
                                                   .timeout_ms = timeout_ms,
                                                   .wait_ms = wait_ms,
                                                   .gather = gather });
    while (stats_get(&stats, STAT_db_connections) < 3) {
        turn();
    }
}

/* Mailboxes 1 to 20 of u1@x.org and so on; mailbox n has n - 1 messages. */
static void make_accounts(void)
{
    postgres_sql(server,
                 "TRUNCATE mailbox, account, address, message;"
                 "INSERT INTO mailbox (mailbox_id, version, msgs)"
                 " SELECT n, 100 + n, n - 1 FROM generate_series(1, 20) n;"
                 "INSERT INTO account (mailbox_id, addr, hash)"
                 " SELECT n, 'u' || n || '@x.org', 'hash ' || n FROM generate_series(1, 20) n;"
                 "INSERT INTO address SELECT 'u' || n || '@x.org', 'x.org', n"
                 "  FROM generate_series(1, 20) n;"
                 "INSERT INTO address VALUES ('list@x.org', 'x.org', NULL, ARRAY['u1@x.org']),"
                 " ('@x.org', 'x.org', NULL, NULL), ('broken@x.org', 'x.org', 777, NULL);"
                 "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                 " SELECT n, s, lpad(to_hex(1000 * n + s), 32, '0')::uuid, s, 100, 1, false"
                 "   FROM generate_series(1, 20) n, generate_series(1, n - 1) s");
}

static int start(void **state)
{
    (void)state;
    stats_use(&stats);
    server = postgres_start();
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
    loop = loop_open();
    make_accounts();
    open_index(GATHER, TIMEOUT_MS, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    index_close(&ix);
    postgres_settle(server);
    loop_close(&loop);
    return 0;
}

static void reopen(unsigned gather, uint64_t timeout_ms, uint64_t wait_ms)
{
    index_close(&ix);
    open_index(gather, timeout_ms, wait_ms);
}

static void lock(const char *table)
{
    postgres_sql(server, "BEGIN; LOCK TABLE %s", table);
}

static void unlock(void)
{
    postgres_sql(server, "COMMIT");
}

/* --- look-ups --------------------------------------------------------------------------------- */

static void assert_account(struct answer *a, unsigned n)
{
    char hash[16];
    snprintf(hash, sizeof hash, "hash %u", n);
    assert_int_equal(wait_for(a), ERR_OK);
    assert_int_equal(a->n, 1);
    assert_int_equal(a->entries[0]->kind, ENTRY_MAILBOX);
    assert_int_equal(a->entries[0]->mailbox_id, n);
    assert_string_equal(a->entries[0]->hash, hash);
}

/* The first has a statement for itself, the others one for all of them. */
static void test_lookups(void **state)
{
    (void)state;
    enum { N = 12 };
    struct answer a[N] = { 0 }, several = { 0 }, nobody = { 0 };
    const struct span names[] = { SPAN("@x.org"), SPAN("none@x.org"), SPAN("u3@x.org"),
                                  SPAN("list@x.org") };
    char address[16];
    uint64_t before = statements();
    for (unsigned i = 0; i < N; i++) {
        snprintf(address, sizeof address, "u%u@x.org", N - i);
        look_up(address, &a[i]);
        if (i == 5) {
            index_lookup(ix, names, ARRAY_LEN(names), on_entries, &several);
            look_up("", &nobody);
        }
    }
    for (unsigned i = 0; i < N; i++) {
        assert_account(&a[i], N - i);
    }
    assert_int_equal(wait_for(&several), ERR_OK);
    assert_int_equal(several.entries[0]->kind, ENTRY_DOMAIN);
    assert_int_equal(several.entries[1]->kind, ENTRY_NONE);
    assert_int_equal(several.entries[2]->mailbox_id, 3);
    assert_int_equal(several.entries[3]->kind, ENTRY_ALIAS);
    assert_string_equal(several.entries[3]->targets[0], "u1@x.org");
    assert_int_equal(wait_for(&nobody), ERR_OK);
    assert_int_equal(nobody.entries[0]->kind, ENTRY_NONE);
    assert_int_equal(statements() - before, 2);
    forget(a, N);
    forget(&several, 1);
    forget(&nobody, 1);
}

/* Who asks for the same at the same time shares a row, but none that was read before he asked. */
static void test_lookups_of_one(void **state)
{
    (void)state;
    enum { N = 8 };
    struct answer a[N] = { 0 };
    postgres_sql(server,
                 "CREATE SEQUENCE asked;"
                 "ALTER FUNCTION lookup(text) RENAME TO lookup_once;"
                 "CREATE FUNCTION lookup(a text)"
                 "RETURNS TABLE (box bigint, box_state smallint, most_octets bigint,"
                 " most_messages bigint, most_size bigint, days smallint, days_read smallint,"
                 " password text, keys text, leads_to text[], is_full boolean)"
                 "LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('asked');"
                 " RETURN QUERY SELECT * FROM lookup_once(a); END $$");
    for (unsigned i = 0; i < N; i++) {
        look_up(i == 4 ? "u4@x.org" : "u7@x.org", &a[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_account(&a[i], i == 4 ? 4 : 7);
    }
    assert_int_equal(postgres_sql(server, "SELECT last_value FROM asked"), 3);
    postgres_sql(server, "DROP FUNCTION lookup(text); DROP SEQUENCE asked;"
                         "ALTER FUNCTION lookup_once(text) RENAME TO lookup");
    forget(a, N);
}

/* One that the server refuses takes no other with it. */
static void test_lookups_beside_a_fault(void **state)
{
    (void)state;
    const char *const bad[] = { "broken@x.org", "\xff@x.org" };
    for (size_t k = 0; k < ARRAY_LEN(bad); k++) {
        struct answer a[5] = { 0 };
        for (unsigned i = 0; i < 5; i++) {
            char address[16];
            snprintf(address, sizeof address, "u%u@x.org", i + 1);
            look_up(i == 2 ? bad[k] : address, &a[i]);
        }
        for (unsigned i = 0; i < 5; i++) {
            if (i == 2) {
                assert_int_equal(wait_for(&a[i]), ERR_TEMP);
            } else {
                assert_account(&a[i], i + 1);
            }
        }
        forget(a, 5);
    }
}

/* --- lists ------------------------------------------------------------------------------------ */

static void assert_list(struct answer *a, unsigned mailbox, size_t n)
{
    assert_int_equal(wait_for(a), ERR_OK);
    assert_int_equal(a->maildrop->mailbox_id, mailbox);
    assert_int_equal(a->maildrop->version, 100 + mailbox);
    assert_int_equal(a->maildrop->count, n);
    for (size_t i = 0; i < n; i++) {
        const struct pointer p = maildrop_at(a->maildrop, i);
        assert_int_equal(p.seq, i + 1);
        assert_int_equal(p.id.b[14] << 8 | p.id.b[15], (1000 * mailbox + i + 1) & 0xffff);
    }
}

/* The first by itself, then one statement; and one more for who has too many messages for that. */
static void test_lists(void **state)
{
    (void)state;
    enum { N = 8 };
    const unsigned boxes[N] = { 3, 12, 1, 999, 7, 20, 7, 2 };
    struct answer a[N] = { 0 };
    postgres_sql(server,
                 "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                 " SELECT 12, s, lpad(to_hex(12000 + s), 32, '0')::uuid, s, 100, 1, false"
                 "   FROM generate_series(12, %d) s;"
                 "UPDATE mailbox SET msgs = %d WHERE mailbox_id = 12",
                 LONG, LONG);
    uint64_t before = statements();
    for (unsigned i = 0; i < N; i++) {
        index_list(ix, boxes[i], on_list, &a[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        if (boxes[i] == 999) {
            assert_int_equal(wait_for(&a[i]), ERR_NOTFOUND);
        } else {
            assert_list(&a[i], boxes[i], boxes[i] == 12 ? LONG : boxes[i] - 1);
        }
    }
    assert_int_equal(statements() - before, 3);
    forget(a, N);
}

static void test_lists_beside_a_fault(void **state)
{
    (void)state;
    enum { N = 6 };
    struct answer a[N] = { 0 };
    postgres_sql(server, "UPDATE message SET volume_id = -1 WHERE mailbox_id = 4 AND seq = 2");
    for (unsigned i = 0; i < N; i++) {
        index_list(ix, i + 1, on_list, &a[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        if (i == 3) {
            assert_int_equal(wait_for(&a[i]), ERR_CORRUPT);
        } else {
            assert_list(&a[i], i + 1, i);
        }
    }
    forget(a, N);
}

/* --- both ------------------------------------------------------------------------------------- */

/* More than a statement may have, in their order. */
static void test_in_parts(void **state)
{
    (void)state;
    enum { N = 70 };
    struct answer a[N] = { 0 }, b[N] = { 0 };
    uint64_t before = statements();
    for (unsigned i = 0; i < N; i++) {
        char address[16];
        snprintf(address, sizeof address, "u%u@x.org", i % 20 + 1);
        look_up(address, &a[i]);
        index_list(ix, i % 20 + 1, on_list, &b[i]);
    }
    wait_for(&a[0]);
    assert_false(a[1].done);
    wait_for(&a[32]);
    assert_true(a[1].done);
    assert_false(a[33].done);
    for (unsigned i = 0; i < N; i++) {
        assert_account(&a[i], i % 20 + 1);
        assert_list(&b[i], i % 20 + 1, i % 20);
    }
    assert_int_equal(statements() - before, 2 * (1 + 3));
    forget(a, N);
    forget(b, N);
}

/* A setting for databases that want each by itself. */
static void test_each_by_itself(void **state)
{
    (void)state;
    enum { N = 5 };
    struct answer a[N] = { 0 }, b[N] = { 0 };
    reopen(1, TIMEOUT_MS, 0);
    uint64_t before = statements();
    for (unsigned i = 0; i < N; i++) {
        look_up("u9@x.org", &a[i]);
        index_list(ix, i + 1, on_list, &b[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_account(&a[i], 9);
        assert_list(&b[i], i + 1, i);
    }
    assert_int_equal(statements() - before, 2 * N);
    forget(a, N);
    forget(b, N);
}

/* Who has gone hears nothing; one that nothing was sent for costs nothing. */
static void test_cancel(void **state)
{
    (void)state;
    enum { N = 40 };
    struct answer a[N] = { 0 };
    uint64_t before = statements();
    for (unsigned i = 0; i < N; i++) {
        struct op *op = look_up("u5@x.org", &a[i]);
        if (i < N - 1) {
            op_cancel(&op);
        }
    }
    assert_account(&a[N - 1], 5);
    for (unsigned i = 0; i < N - 1; i++) {
        assert_false(a[i].done);
    }
    assert_int_equal(statements() - before, 2);
    forget(a, N);
}

/* Nobody waits longer than he may, nor is asked for then. */
static void test_too_late(void **state)
{
    (void)state;
    enum { N = 5 };
    struct answer a[N] = { 0 };
    reopen(GATHER, TIMEOUT_MS, 50);
    uint64_t before = statements();
    lock("address");
    for (unsigned i = 0; i < N; i++) {
        look_up("u5@x.org", &a[i]);
    }
    for (uint64_t began = loop_now(loop); loop_now(loop) < began + 60;) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
    unlock();
    assert_account(&a[0], 5);
    for (unsigned i = 1; i < N; i++) {
        assert_int_equal(wait_for(&a[i]), ERR_TEMP);
    }
    assert_int_equal(statements() - before, 1);
    forget(a, N);
}

/* Who comes when so many wait is told to come again. */
static void test_too_many(void **state)
{
    (void)state;
    struct answer a = { 0 }, one_more = { 0 }, none = { 0 };
    lock("address");
    look_up("u5@x.org", &a);
    for (unsigned i = 0; i < WAITING; i++) {
        struct op *op = look_up("u5@x.org", &none);
        op_cancel(&op);
    }
    look_up("u5@x.org", &one_more);
    assert_false(one_more.done); /* never inline */
    assert_int_equal(wait_for(&one_more), ERR_TEMP);
    assert_false(a.done);
    unlock();
    assert_account(&a, 5);
    assert_false(none.done);
    forget(&a, 1);
}

/* The database is lost in the middle: nobody waits for one deadline after the other, and all that
 * wait are asked for at once, in gathered statements. */
static void test_lost(void **state)
{
    (void)state;
    enum { N = 100 };
    struct answer a[N] = { 0 }, again = { 0 };
    reopen(GATHER, 1000, 0);
    lock("address");
    for (unsigned i = 0; i < N; i++) {
        look_up("u5@x.org", &a[i]);
    }
    assert_int_equal(wait_for(&a[0]), ERR_TEMP);
    assert_false(a[0].waiting);
    assert_int_equal(a[0].under_way, (N - 1 + GATHER - 1) / GATHER);
    for (unsigned i = 1; i < N; i++) {
        assert_int_equal(wait_for(&a[i]), ERR_TEMP);
    }
    unlock();
    while (!index_ready(ix)) {
        turn();
    }
    look_up("u5@x.org", &again);
    assert_account(&again, 5);
    forget(&again, 1);
}

/* What waits at the end is told so, too. */
static void test_close(void **state)
{
    (void)state;
    enum { N = 100 };
    struct answer a[N] = { 0 }, b[N] = { 0 };
    for (unsigned i = 0; i < N; i++) {
        look_up("u5@x.org", &a[i]);
        index_list(ix, 5, on_list, &b[i]);
    }
    reopen(GATHER, TIMEOUT_MS, 0);
    for (unsigned i = 0; i < N; i++) {
        assert_true(a[i].done && b[i].done);
        assert_int_equal(a[i].err, ERR_TEMP);
        assert_int_equal(b[i].err, ERR_TEMP);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_lookups),
        TEST(test_lookups_of_one),
        TEST(test_lookups_beside_a_fault),
        TEST(test_lists),
        TEST(test_lists_beside_a_fault),
        TEST(test_in_parts),
        TEST(test_each_by_itself),
        TEST(test_cancel),
        TEST(test_too_late),
        TEST(test_too_many),
        TEST(test_lost),
        TEST(test_close),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, start, stop);
}
