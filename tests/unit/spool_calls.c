/*
 * spool_calls: one of each call of the spool on a volume that is ready, with marks in between
 * that a trace of its file calls shows. spool_calls.py runs it under strace.
 */
#include "spool_fixture.h"

static void mark(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/mark/%s", name);
    access(path, F_OK);
}

static void on_unlinked(void *arg, enum err e)
{
    assert_int_equal(e, ERR_OK);
    *(bool *)arg = true;
}

static void each_call(void **state)
{
    (void)state;
    struct spool_fixture f;
    fixture_begin(
        &f, 1,
        (struct spool_options){
            .buffer = 65536, .read_chunk = 65536, .threads = 2, .queue = 10, .timeout_ms = 30000 });
    struct buf large = random_octets(&f.random, 150000);
    write_message(&f, SPAN("")); /* libcrypto reads its configuration at its first use */
    mark("write_small");
    struct pointer small = write_message(&f, SPAN("Subject: x\r\n\r\n"));
    mark("read_small");
    check_message(&f, &small, SPAN("Subject: x\r\n\r\n"));
    mark("write_large");
    struct pointer streamed = write_message(&f, buf_span(&large));
    mark("read_large");
    check_message(&f, &streamed, buf_span(&large));
    mark("unlink");
    bool unlinked = false;
    spool_unlink(f.spool, 1, &small.id, on_unlinked, &unlinked);
    WAIT(&f.net, NULL, unlinked);
    mark("end");
    buf_fini(&large);
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(each_call) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
