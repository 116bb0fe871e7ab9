/* stats: counters, and a health report that is read whole or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/stats.h"

static struct stats *new_slot(void)
{
    struct stats *slot =
        mmap(NULL, sizeof *slot, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(slot != MAP_FAILED);
    stats_use(slot);
    return slot;
}

static void free_slot(struct stats *slot)
{
    munmap(slot, sizeof *slot);
}

static void every_counter_is_described(void **state)
{
    (void)state;
    for (size_t i = 0; i < STAT_COUNT; i++) {
        assert_true(strcmp(stat_docs[i].kind, "counter") == 0 ||
                    strcmp(stat_docs[i].kind, "gauge") == 0);
        assert_true(stat_docs[i].name[0] && stat_docs[i].help[0]);
    }
    assert_string_equal(stat_docs[STAT_sessions].name, "sessions");
}

static void counters(void **state)
{
    (void)state;
    stats_add(STAT_sessions, 1); /* goes to the private slot */
    struct stats *slot = new_slot();
    stats_add(STAT_sessions, 5);
    stats_sub(STAT_sessions, 2);
    stats_add(STAT_bytes_in, UINT64_C(1) << 40);
    assert_true(stats_get(slot, STAT_sessions) == 3);
    assert_true(stats_get(slot, STAT_bytes_in) == UINT64_C(1) << 40);
    assert_true(stats_get(slot, STAT_bytes_out) == 0);
    free_slot(slot);
}

static void health(void **state)
{
    (void)state;
    struct stats *slot = new_slot();
    struct health_item items[HEALTH_MAX];
    assert_int_equal(health_read(slot, items), 0);
    health_set("database", true, "connection refused");
    health_set("cache", false, NULL);
    assert_int_equal(health_read(slot, items), 2);
    assert_string_equal(items[0].name, "database");
    assert_string_equal(items[0].why, "connection refused");
    assert_true(!items[0].ok && items[0].required);
    assert_true(items[1].ok && !items[1].required);

    health_set("database", true, "");
    assert_int_equal(health_read(slot, items), 2);
    assert_true(items[0].ok);

    health_drop("database");
    health_drop("database");
    assert_int_equal(health_read(slot, items), 1);
    assert_string_equal(items[0].name, "cache");
    free_slot(slot);
}

static void long_texts_are_cut(void **state)
{
    (void)state;
    char text[500];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct stats *slot = new_slot();
    struct health_item items[HEALTH_MAX];
    health_set(text, true, text);
    health_set(text, true, text); /* is the same item */
    assert_int_equal(health_read(slot, items), 1);
    assert_int_equal(strlen(items[0].name), HEALTH_NAME - 1);
    assert_int_equal(strlen(items[0].why), HEALTH_WHY - 1);
    health_drop(text);
    assert_int_equal(health_read(slot, items), 0);
    free_slot(slot);
}

/* A worker killed in the middle of a change is not well, and its successor is heard again. */
static void half_a_change(void **state)
{
    (void)state;
    struct stats *slot = new_slot();
    struct health_item items[HEALTH_MAX];
    health_set("database", true, NULL);
    atomic_fetch_add(&slot->health_seq, 1);
    assert_int_equal(health_read(slot, items), 1);
    assert_string_equal(items[0].name, "worker");
    assert_true(!items[0].ok && items[0].required);
    health_set("database", true, NULL);
    assert_int_equal(health_read(slot, items), 1);
    assert_true(items[0].ok);
    free_slot(slot);
}

/* Sets all items, over and over, to the number of the round. */
static void write_rounds(struct stats *slot)
{
    for (unsigned round = 1;; round++) {
        for (unsigned i = 0; i < HEALTH_MAX; i++) {
            char name[HEALTH_NAME], why[HEALTH_WHY];
            snprintf(name, sizeof name, "%u", i);
            snprintf(why, sizeof why, "%u", round);
            health_set(name, true, why);
        }
        slot->started = true;
    }
}

/* At any moment some first items are of one round and the others of the one before. */
static bool of_one_moment(const struct health_item items[HEALTH_MAX])
{
    unsigned long first = strtoul(items[0].why, NULL, 10), before = first;
    for (size_t i = 1; i < HEALTH_MAX; i++) {
        unsigned long round = strtoul(items[i].why, NULL, 10);
        if (round > before || first - round > 1) {
            return false;
        }
        before = round;
    }
    return true;
}

/* Another process writes while this one reads: never a mixture of two moments. */
static void read_while_written(void **state)
{
    (void)state;
    struct stats *slot = new_slot();
    pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        write_rounds(slot);
    }
    while (!slot->started) {
        sched_yield();
    }
    bool whole = true;
    for (unsigned long round = 0; round < 20000;) { /* so both have run, on however few cores */
        struct health_item items[HEALTH_MAX];
        if (health_read(slot, items) == HEALTH_MAX) {
            whole = whole && of_one_moment(items);
            round = strtoul(items[0].why, NULL, 10);
        }
    }
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    assert_true(whole);
    free_slot(slot);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_counter_is_described),
        cmocka_unit_test(counters),
        cmocka_unit_test(health),
        cmocka_unit_test(long_texts_are_cut),
        cmocka_unit_test(half_a_change),
        cmocka_unit_test(read_while_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
