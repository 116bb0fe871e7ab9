/* pg_blocking and pg_copy: hosts that do not answer are passed over, and rows are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "postgres.h"
#include "store/pg_blocking.h"
#include "store/pg_copy.h"

static struct postgres *server;

static int start(void **state)
{
    (void)state;
    server = postgres_start();
    return 0;
}

static int stop(void **state)
{
    (void)state;
    postgres_stop(&server);
    return 0;
}

static void test_silent_host_is_passed_over(void **state)
{
    (void)state;
    char url[256], why[256];
    uint64_t n = 0;
    unsigned silent;
    int fd = silent_host(&silent);
    snprintf(url, sizeof url, "host=127.0.0.1,127.0.0.1 port=%u,%u user=postgres dbname=postgres",
             silent, postgres_port(server));
    struct pg_copy *c = pg_copy_open(url, why, sizeof why);
    assert_non_null(c);
    assert_true(pg_copy_number(c, "SELECT 7", &n));
    assert_int_equal(n, 7);
    pg_copy_close(&c);
    close(fd);
}

static void test_silent_host_alone_is_an_error(void **state)
{
    (void)state;
    char url[256], why[256] = "";
    unsigned silent;
    int fd = silent_host(&silent);
    snprintf(url, sizeof url, "postgresql://postgres@127.0.0.1:%u/postgres", silent);
    assert_null(pg_copy_open(url, why, sizeof why));
    assert_non_null(strstr(why, "timeout"));
    close(fd);
}

/* The deadlines are set, and are not the last word. */
static void test_settings(void **state)
{
    (void)state;
    char url[256];
    snprintf(url, sizeof url, "host=127.0.0.1 port=%u user=postgres keepalives_idle=77",
             postgres_port(server));
    PGconn *c = pg_blocking_connect(url);
    assert_int_equal(PQstatus(c), CONNECTION_OK);
    PQconninfoOption *options = PQconninfo(c);
    unsigned seen = 0;
    for (const PQconninfoOption *o = options; o->keyword; o++) {
        seen += strcmp(o->keyword, "keepalives_idle") == 0 && strcmp(o->val, "77") == 0;
        seen += strcmp(o->keyword, "tcp_user_timeout") == 0 && strcmp(o->val, "15000") == 0;
    }
    assert_int_equal(seen, 2);
    PQconninfoFree(options);
    PQfinish(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_silent_host_is_passed_over),
        cmocka_unit_test(test_silent_host_alone_is_an_error),
        cmocka_unit_test(test_settings),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, start, stop);
}
