/*
 * spool_calls: one of each call of the spool on a volume that is ready, with marks in between
 * that a trace of its file calls shows. spool_calls.py runs it under strace.
 */
#include "spool_fixture.h"

#include <time.h>

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

static void unlink_message(struct spool_fixture *f, const struct pointer *p)
{
    bool unlinked = false;
    spool_unlink(f->spool, p->volume, &p->id, on_unlinked, &unlinked);
    WAIT(&f->net, NULL, unlinked);
}

/* The volume's directories are made, and none is open. */
static void begin_cold(struct spool_fixture *f)
{
    mark("none");
    drain_and_go_on(f);
}

static void mark_each_call(struct spool_fixture *f)
{
    struct span text = SPAN("Subject: x\r\n\r\n");
    struct buf large = random_octets(&f->random, 150000);
    write_message(f, SPAN("")); /* libcrypto reads its configuration at its first use */
    begin_cold(f);
    mark("write_cold");
    struct pointer first = write_message(f, text);
    mark("write_small");
    struct pointer small = write_message(f, text);
    mark("read_small");
    check_message(f, &small, text);
    mark("write_large");
    struct pointer streamed = write_message(f, buf_span(&large));
    mark("read_large");
    check_message(f, &streamed, buf_span(&large));
    mark("unlink");
    unlink_message(f, &small);
    mark("read_missing");
    assert_int_equal(read_error(f, &small), ERR_NOTFOUND);
    begin_cold(f);
    mark("read_cold");
    check_message(f, &first, text);
    begin_cold(f);
    mark("unlink_cold");
    unlink_message(f, &first);
    mark("none");
    buf_fini(&large);
}

static time_t today(void)
{
    return time(NULL) / (24 * 60 * 60);
}

/* Once more if a new day, and so another directory, came in between. */
static void each_call(void **state)
{
    (void)state;
    struct spool_fixture f;
    fixture_begin(
        &f, 1,
        (struct spool_options){
            .buffer = 65536, .read_chunk = 65536, .threads = 2, .queue = 10, .timeout_ms = 30000 });
    f.volumes[0].fanout = 0; /* one directory a day */
    for (time_t day = 0; day != today();) {
        day = today();
        mark_each_call(&f);
    }
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(each_call) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
