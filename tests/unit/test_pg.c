/* pg against a real server: values, transactions, and every way to lose an answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/stats.h"
#include "postgres.h"
#include "store/pg.h"

static struct postgres *server;
static struct loop *loop;
static struct pg *db; /* closed by teardown when a test fails in the middle */
static struct stats slot;

/* What a batch ended with. */
struct answer {
    bool done;
    struct pg_reply reply;
    long long value; /* the first of the last result */
    unsigned order;
};

static unsigned answered;

static void on_done(void *arg, const struct pg_reply *r)
{
    struct answer *a = arg;
    assert_false(a->done);
    a->done = true;
    a->order = ++answered;
    a->reply = *r;
    if (r->n > 0 && PQntuples(r->r[r->n - 1]) > 0 && pg_shape(r->r[r->n - 1], "i")) {
        a->value = pg_get_i64(r->r[r->n - 1], 0, 0);
    }
}

static void turn(void)
{
    uv_run(loop_uv(loop), UV_RUN_ONCE);
}

static void wait_for(struct answer *a)
{
    while (!a->done) {
        turn();
    }
}

static void wait_ready(bool ready)
{
    while (pg_ready(db) != ready) {
        turn();
    }
}

static struct op *submit(enum pg_lane lane, struct answer *a, const char *sql)
{
    struct pg_batch *b = pg_batch_new();
    pg_stmt(b, sql);
    return pg_submit(db, lane, &b, on_done, a);
}

static struct answer ask(enum pg_lane lane, const char *sql)
{
    struct answer a = { 0 };
    submit(lane, &a, sql);
    wait_for(&a);
    return a;
}

static void open_with(const char *url, uint64_t timeout_ms)
{
    db = pg_open(loop, &(struct pg_options){ .url = url,
                                             .read_connections = 1,
                                             .write_connections = 2,
                                             .timeout_ms = timeout_ms });
}

static void open_ready(uint64_t timeout_ms)
{
    open_with(postgres_url(server), timeout_ms);
    wait_ready(true);
}

/* The reason in the health block; empty when all is well. */
static const char *health_why(void)
{
    static struct health_item items[HEALTH_MAX];
    size_t n = health_read(&slot, items);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(items[i].name, "database") == 0) {
            return items[i].why;
        }
    }
    return "not reported";
}

static void wait_health(bool well)
{
    while ((*health_why() == '\0') != well) {
        turn();
    }
}

static void wait_health_why(const char *words)
{
    while (!strstr(health_why(), words)) {
        turn();
    }
}

static int start(void **state)
{
    (void)state;
    stats_use(&slot);
    server = postgres_start();
    postgres_sql(server, "CREATE TABLE t (k bigint PRIMARY KEY, v text CHECK (v <> 'bad'));"
                         "CREATE FUNCTION fail(code text) RETURNS void LANGUAGE plpgsql AS $$"
                         " BEGIN RAISE EXCEPTION 'failed' USING ERRCODE = code, DETAIL = '7 1';"
                         " END $$");
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
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    postgres_thaw(server);
    if (db) {
        pg_close(&db);
    }
    loop_close(&loop);
    return 0;
}

/* --- values ----------------------------------------------------------------------------------- */

static void on_values(void *arg, const struct pg_reply *reply)
{
    const struct blob_id id = { { 1, 2, 3, 255 } };
    const PGresult *r = reply->r[0];
    struct span texts[2];
    assert_int_equal(reply->err, ERR_OK);
    assert_true(pg_shape(r, "itbuiiTTiiiibi"));
    assert_true(pg_get_i64(r, 0, 0) == INT64_MIN);
    assert_true(span_eq(pg_get_span(r, 0, 1), SPAN("caf\xc3\xa9")));
    assert_true(span_eq(pg_get_span(r, 0, 2), SPAN("a\0b")));
    struct blob_id got = pg_get_uuid(r, 0, 3);
    assert_true(blob_id_eq(&got, &id));
    assert_int_equal(pg_get_i64(r, 0, 4), 1);
    assert_true(PQgetisnull(r, 0, 5));
    assert_int_equal(pg_get_i64(r, 0, 5), 0);
    assert_int_equal(pg_get_texts(r, 0, 6, texts, 2), 3);
    assert_true(span_eq(texts[0], SPAN("x")));
    assert_true(span_eq(texts[1], SPAN("")));
    assert_int_equal(pg_get_texts(r, 0, 7, texts, 2), 0);
    assert_int_equal(pg_get_i64(r, 0, 8), -5 + 1000);
    assert_int_equal(pg_get_i64(r, 0, 9), 2);
    assert_int_equal(pg_get_i64(r, 0, 10), -2);
    assert_int_equal(pg_get_i64(r, 0, 11), 0);
    assert_true(span_eq(pg_get_span(r, 0, 12), SPAN("a\0\xff")));
    assert_int_equal(pg_get_i64(r, 0, 13), 0);
    *(bool *)arg = true;
}

static void test_values(void **state)
{
    (void)state;
    open_ready(5000);
    const struct blob_id id = { { 1, 2, 3, 255 } }, ids[2] = { id, { { 9 } } };
    const int64_t numbers[2] = { -5, 1000 };
    const struct span texts[3] = { SPAN("x"), SPAN(""), SPAN("z") };
    const struct span octets[3] = { SPAN("a\0"), SPAN(""), SPAN("\xff") };
    struct pg_batch *b = pg_batch_new();
    pg_stmt(b, "SELECT $1, $2, $3, $4, $5, $6::bigint, $7, $8, $9[1] + $9[2],"
               " cardinality($10::uuid[]), (-2)::smallint, cardinality($11::bigint[]),"
               " $12[1] || $12[3], cardinality($13::bytea[])");
    pg_i64(b, INT64_MIN);
    pg_text(b, SPAN("caf\xc3\xa9"));
    pg_bytea(b, SPAN("a\0b"));
    pg_uuid(b, &id);
    pg_bool(b, true);
    pg_null(b);
    pg_texts(b, texts, 3);
    pg_texts(b, NULL, 0);
    pg_i64s(b, numbers, 2);
    pg_uuids(b, ids, 2);
    pg_i64s(b, NULL, 0);
    pg_byteas(b, octets, 3);
    pg_byteas(b, NULL, 0);
    bool done = false;
    pg_submit(db, PG_READ, &b, on_values, &done);
    assert_null(b);
    while (!done) {
        turn();
    }
    pg_close(&db);
}

static void on_shape(void *arg, const struct pg_reply *reply)
{
    assert_int_equal(reply->err, ERR_OK);
    assert_false(pg_shape(reply->r[0], "i"));
    assert_false(pg_shape(reply->r[0], "tt"));
    assert_false(pg_shape(reply->r[0], "iti"));
    assert_true(pg_shape(reply->r[0], "it"));
    *(bool *)arg = true;
}

static void test_shape(void **state)
{
    (void)state;
    open_ready(5000);
    struct pg_batch *b = pg_batch_new();
    pg_stmt(b, "SELECT 1, 'a'::text");
    bool done = false;
    pg_submit(db, PG_READ, &b, on_shape, &done);
    while (!done) {
        turn();
    }
    pg_close(&db);
}

/* --- transactions and errors ------------------------------------------------------------------ */

static void test_batch_is_a_transaction(void **state)
{
    (void)state;
    open_ready(5000);
    struct answer a = { 0 };
    struct pg_batch *b = pg_batch_new();
    pg_stmt(b, "INSERT INTO t VALUES (1, 'a')");
    pg_stmt(b, "INSERT INTO t VALUES (2, 'bad')");
    pg_stmt(b, "INSERT INTO t VALUES (3, 'c')");
    pg_submit(db, PG_WRITE, &b, on_done, &a);
    wait_for(&a);
    assert_int_equal(a.reply.err, ERR_INVALID);
    assert_string_equal(a.reply.sqlstate, "23514");
    assert_int_equal(a.reply.n, 0);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM t"), 0);

    struct answer ok = { 0 };
    b = pg_batch_new();
    pg_stmt(b, "INSERT INTO t VALUES (1, 'a')");
    pg_stmt(b, "SELECT count(*) FROM t");
    pg_submit(db, PG_WRITE, &b, on_done, &ok);
    wait_for(&ok);
    assert_int_equal(ok.reply.err, ERR_OK);
    assert_int_equal(ok.reply.n, 2);
    assert_int_equal(ok.value, 1);
    assert_int_equal(postgres_sql(server, "SELECT count(*) FROM t"), 1);
    postgres_sql(server, "DELETE FROM t");
    pg_close(&db);
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *sql;
        enum err err;
        const char *sqlstate;
    } cases[] = {
        { "SELECT fail('MF001')", ERR_LIMIT, "MF001" },
        { "SELECT fail('MF002')", ERR_NOTFOUND, "MF002" },
        { "SELECT fail('MF003')", ERR_BUSY, "MF003" },
        { "SELECT fail('MF004')", ERR_TEMP, "MF004" },
        { "SELECT fail('23505')", ERR_BUSY, "23505" },
        { "SELECT fail('40P01')", ERR_TEMP, "40P01" },
        { "SELECT nothing", ERR_INVALID, "42703" },
        { "SELECT", ERR_OK, "" },
        { "SELEC", ERR_INVALID, "42601" },
        { "SELECT 1/0", ERR_INVALID, "22012" },
    };
    open_ready(5000);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct answer a = ask(PG_WRITE, cases[i].sql);
        assert_int_equal(a.reply.err, cases[i].err);
        assert_string_equal(a.reply.sqlstate, cases[i].sqlstate);
    }
    struct answer a = ask(PG_READ, "SELECT fail('MF001')");
    assert_string_equal(a.reply.message, "failed");
    assert_string_equal(a.reply.detail, "7 1");
    while (stats_get(&slot, STAT_db_connections) != 3) {
        turn();
    }
    pg_close(&db);
    assert_int_equal(stats_get(&slot, STAT_db_connections), 0);
}

/* An error in one batch is none of its neighbours' in the pipeline. */
static void test_pipeline(void **state)
{
    (void)state;
    enum { N = 300 };
    static struct answer answers[N];
    open_ready(20000);
    memset(answers, 0, sizeof answers);
    answered = 0;
    for (int i = 0; i < N; i++) {
        struct pg_batch *b = pg_batch_new();
        pg_stmt(b, i % 7 == 3 ? "SELECT $1 / 0" : "SELECT $1 * 10");
        pg_i64(b, i);
        pg_submit(db, PG_READ, &b, on_done, &answers[i]);
        assert_false(answers[i].done);
    }
    for (int i = 0; i < N; i++) {
        wait_for(&answers[i]);
        assert_int_equal(answers[i].order, i + 1);
        assert_int_equal(answers[i].reply.err, i % 7 == 3 ? ERR_INVALID : ERR_OK);
        assert_int_equal(answers[i].value, i % 7 == 3 ? 0 : i * 10);
    }
    pg_close(&db);
}

/* Larger than what a socket takes at once, both ways. */
static void test_large(void **state)
{
    (void)state;
    enum { SIZE = 3 * 1024 * 1024 };
    open_ready(20000);
    char *big = mem_new(1, SIZE);
    struct answer a = { 0 };
    struct pg_batch *b = pg_batch_new();
    memset(big, 'x', SIZE);
    pg_stmt(b, "SELECT $1");
    pg_text(b, span_of(big, SIZE));
    pg_stmt(b, "SELECT octet_length($1)");
    pg_bytea(b, span_of(big, SIZE));
    pg_submit(db, PG_WRITE, &b, on_done, &a);
    wait_for(&a);
    assert_int_equal(a.reply.err, ERR_OK);
    assert_int_equal(a.value, SIZE);
    free(big);
    pg_close(&db);
}

/* --- bounds, cancel, close -------------------------------------------------------------------- */

static void test_queue_is_bounded(void **state)
{
    (void)state;
    db = pg_open(loop, &(struct pg_options){ .url = postgres_url(server),
                                             .read_connections = 1,
                                             .write_connections = 1,
                                             .timeout_ms = 5000,
                                             .queue = 2 });
    struct answer a[3] = { 0 };
    for (int i = 0; i < 3; i++) {
        submit(PG_WRITE, &a[i], "SELECT 1");
    }
    for (int i = 0; i < 3; i++) {
        wait_for(&a[i]);
    }
    assert_int_equal(a[0].reply.err, ERR_OK);
    assert_int_equal(a[1].reply.err, ERR_OK);
    assert_int_equal(a[2].reply.err, ERR_LIMIT);
    assert_string_equal(a[2].reply.sqlstate, "");
    pg_close(&db);
}

static void test_cancel_detaches(void **state)
{
    (void)state;
    open_ready(5000);
    struct answer a = { 0 };
    struct op *op = submit(PG_WRITE, &a, "INSERT INTO t VALUES (1, 'a')");
    op_cancel(&op);
    assert_null(op);
    while (ask(PG_READ, "SELECT count(*) FROM t").value == 0) {
    }
    assert_false(a.done);
    postgres_sql(server, "DELETE FROM t");
    pg_close(&db);
}

static void test_close_ends_batches(void **state)
{
    (void)state;
    open_ready(5000);
    struct answer read = { 0 }, sent[2] = { 0 }, waiting = { 0 };
    submit(PG_READ, &read, "SELECT pg_sleep(60)");
    submit(PG_WRITE, &sent[0], "SELECT pg_sleep(60)");
    submit(PG_WRITE, &sent[1], "SELECT pg_sleep(60)");
    while (postgres_sql(server, "SELECT count(*) FROM pg_stat_activity"
                                " WHERE query LIKE '%%pg_sleep(60)%%' AND state = 'active'"
                                " AND pid <> pg_backend_pid()") < 3) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
    submit(PG_WRITE, &waiting, "SELECT 1");
    pg_close(&db);
    assert_true(read.done && sent[0].done && sent[1].done && waiting.done);
    assert_int_equal(read.reply.err, ERR_TEMP);
    assert_int_equal(sent[0].reply.err, ERR_UNCERTAIN);
    assert_int_equal(sent[1].reply.err, ERR_UNCERTAIN);
    assert_int_equal(waiting.reply.err, ERR_TEMP);
}

static void test_close_while_connecting(void **state)
{
    (void)state;
    open_with(postgres_url(server), 5000);
    turn();
    turn();
    pg_close(&db);
}

/* --- losses ----------------------------------------------------------------------------------- */

static void terminate(const char *query)
{
    while (postgres_sql(server,
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE query = '%s' AND state = 'active'",
                        query) == 0) {
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    }
}

static void test_backend_killed(void **state)
{
    (void)state;
    open_ready(20000);
    struct answer write = { 0 }, read = { 0 };
    submit(PG_WRITE, &write, "SELECT pg_sleep(61)");
    terminate("SELECT pg_sleep(61)");
    wait_for(&write);
    assert_int_equal(write.reply.err, ERR_UNCERTAIN);
    submit(PG_READ, &read, "SELECT pg_sleep(62)");
    terminate("SELECT pg_sleep(62)");
    wait_for(&read);
    assert_int_equal(read.reply.err, ERR_TEMP);
    wait_ready(true);
    assert_int_equal(ask(PG_READ, "SELECT 5").value, 5);
    assert_int_equal(ask(PG_WRITE, "SELECT 6").value, 6);
    pg_close(&db);
}

/* Blocks for a while: what the loop takes for now must not be the time before. */
static void freeze(void)
{
    postgres_freeze(server);
    uv_update_time(loop_uv(loop));
}

static void test_frozen_server(void **state)
{
    (void)state;
    open_ready(1000);
    wait_health(true);
    freeze();
    struct answer write = { 0 }, other = { 0 }, read = { 0 };
    submit(PG_WRITE, &write, "SELECT 1");
    submit(PG_WRITE, &other, "SELECT 1");
    submit(PG_READ, &read, "SELECT 1");
    wait_for(&write);
    wait_for(&other);
    wait_for(&read);
    assert_int_equal(write.reply.err, ERR_UNCERTAIN);
    assert_int_equal(read.reply.err, ERR_TEMP);
    assert_false(pg_ready(db));
    /* It is not sent any more, and so certain. */
    assert_int_equal(ask(PG_WRITE, "SELECT 1").reply.err, ERR_TEMP);
    wait_health(false);
    postgres_thaw(server);
    wait_ready(true);
    assert_int_equal(ask(PG_WRITE, "SELECT 7").value, 7);
    wait_health(true);
    pg_close(&db);
}

/* Nobody asks anything: the repeated hello notices. */
static void test_frozen_while_idle(void **state)
{
    (void)state;
    open_ready(300);
    freeze();
    wait_ready(false);
    postgres_thaw(server);
    wait_ready(true);
    pg_close(&db);
}

static void test_restart(void **state)
{
    (void)state;
    open_ready(400);
    postgres_down(server);
    wait_ready(false);
    assert_int_equal(ask(PG_READ, "SELECT 1").reply.err, ERR_TEMP);
    assert_int_equal(ask(PG_WRITE, "SELECT 1").reply.err, ERR_TEMP);
    wait_health(false);
    postgres_up(server);
    wait_ready(true);
    assert_int_equal(ask(PG_READ, "SELECT 8").value, 8);
    wait_health(true);
    pg_close(&db);
}

/* A batch that is submitted while there is no connection is sent when there is one. */
static void test_waits_for_connection(void **state)
{
    (void)state;
    open_with(postgres_url(server), 20000);
    assert_int_equal(ask(PG_WRITE, "SELECT 9").value, 9);
    pg_close(&db);
}

/* --- hosts ------------------------------------------------------------------------------------ */

static void check_url(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void check_url(const char *fmt, ...)
{
    char url[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(url, sizeof url, fmt, ap);
    va_end(ap);
    open_with(url, 300);
    wait_ready(true);
    pg_close(&db);
}

static void test_hosts(void **state)
{
    (void)state;
    unsigned port = postgres_port(server), silent;
    int fd = silent_host(&silent);
    check_url("host=127.0.0.1 port=%u user=postgres", port);
    check_url("host=localhost port=%u user=postgres dbname=postgres", port);
    check_url("postgresql://postgres@localhost:%u/postgres", port);
    check_url("host=localhost hostaddr=127.0.0.1 port=%u user=postgres", port);
    check_url("host=no.such.host.invalid,localhost port=%u user=postgres", port);
    check_url("host=127.0.0.1,127.0.0.1,localhost port=1,%u,%u user=postgres"
              " target_session_attrs=read-write",
              silent, port);
    close(fd);
}

/* How many connections wait at a silent host. */
static unsigned waiting(int fd)
{
    unsigned n = 0;
    struct pollfd p = { .fd = fd, .events = POLLIN };
    while (poll(&p, 1, 0) == 1) {
        int taken = accept(fd, NULL, NULL);
        assert_true(taken >= 0);
        close(taken);
        n++;
    }
    return n;
}

/* It costs its part of the deadline once: the next attempt tries it after all others, wherever it
 * is in the list. */
static void test_silent_host_comes_last(void **state)
{
    (void)state;
    char url[256];
    unsigned silent;
    int fd = silent_host(&silent);
    snprintf(url, sizeof url, "host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,%u,%u user=postgres",
             silent, postgres_port(server));
    open_with(url, 3000);
    wait_ready(true);
    pg_close(&db);
    assert_in_range(waiting(fd), 1, 3); /* as many as there are connections */
    close(fd);
}

/* Answers whoever comes as PgBouncer does whose server is gone, until it has no listener any more.
 */
static void *say_no(void *arg)
{
    static const char no[] = "E\0\0\0\x32SFATAL\0C08P01\0Mserver login has been failing\0";
    int fd = *(int *)arg, client;
    while ((client = accept(fd, NULL, NULL)) >= 0) {
        char startup[1024];
        if (read(client, startup, sizeof startup) > 0) {
            assert_int_equal(write(client, no, sizeof no), sizeof no);
        }
        close(client);
    }
    return NULL;
}

/* As PgBouncer, which remembers how its server greeted: logins are taken, and the first statement
 * ends the connection.
 */
static void *take_logins(void *arg)
{
    static const char welcome[] = "R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    int fd = *(int *)arg, client;
    while ((client = accept(fd, NULL, NULL)) >= 0) {
        char got[1024];
        if (read(client, got, sizeof got) > 0) {
            assert_int_equal(write(client, welcome, sizeof welcome - 1), sizeof welcome - 1);
            assert_true(read(client, got, sizeof got) >= 0);
        }
        close(client);
    }
    return NULL;
}

static void check_passed_over(void *(*host)(void *))
{
    char url[256];
    unsigned port;
    pthread_t thread;
    int fd = silent_host(&port);
    assert_int_equal(pthread_create(&thread, NULL, host, &fd), 0);
    snprintf(url, sizeof url,
             "host=127.0.0.1,127.0.0.1 port=%u,%u user=postgres sslmode=disable"
             " gssencmode=disable",
             port, postgres_port(server));
    open_with(url, 3000);
    wait_ready(true);
    pg_close(&db);
    shutdown(fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(fd);
}

static void test_host_that_refuses_is_passed_over(void **state)
{
    (void)state;
    check_passed_over(say_no);
}

static void test_host_that_only_takes_logins_is_passed_over(void **state)
{
    (void)state;
    check_passed_over(take_logins);
}

static void check_bad_url(const char *url, const char *why)
{
    open_with(url, 300);
    assert_int_equal(ask(PG_READ, "SELECT 1").reply.err, ERR_TEMP);
    wait_health_why(why);
    pg_close(&db);
}

static void test_bad_urls(void **state)
{
    (void)state;
    check_bad_url("nonsense", "missing \"=\"");
    check_bad_url("host=a,b,c port=1,2", "ports");
    check_bad_url("host=no.such.host.invalid", "no.such.host.invalid");
    check_bad_url("host=/nonexistent", "/nonexistent");
}

/* --- hello ------------------------------------------------------------------------------------ */

static void on_hello(void *arg, const PGresult *r)
{
    *(long long *)arg = pg_get_i64(r, 0, 0);
}

static void test_hello(void **state)
{
    (void)state;
    long long told = 0;
    struct pg_options o = { .url = postgres_url(server),
                            .read_connections = 1,
                            .write_connections = 1,
                            .timeout_ms = 300,
                            .hello = "SELECT 42",
                            .on_hello = on_hello,
                            .arg = &told };
    db = pg_open(loop, &o);
    wait_ready(true);
    assert_int_equal(told, 42);
    told = 0;
    while (told != 42) { /* again, without being asked */
        turn();
    }
    pg_close(&db);

    o.hello = "SELECT no_such_function()";
    db = pg_open(loop, &o);
    assert_int_equal(ask(PG_READ, "SELECT 1").reply.err, ERR_TEMP);
    assert_false(pg_ready(db));
    wait_health_why("no_such_function");
    pg_close(&db);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_values),
        TEST(test_shape),
        TEST(test_batch_is_a_transaction),
        TEST(test_errors),
        TEST(test_pipeline),
        TEST(test_large),
        TEST(test_queue_is_bounded),
        TEST(test_cancel_detaches),
        TEST(test_close_ends_batches),
        TEST(test_close_while_connecting),
        TEST(test_backend_killed),
        TEST(test_frozen_server),
        TEST(test_frozen_while_idle),
        TEST(test_restart),
        TEST(test_waits_for_connection),
        TEST(test_hosts),
        TEST(test_silent_host_comes_last),
        TEST(test_host_that_refuses_is_passed_over),
        TEST(test_host_that_only_takes_logins_is_passed_over),
        TEST(test_bad_urls),
        TEST(test_hello),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, start, stop);
}
