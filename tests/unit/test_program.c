/* Asking a program: one that answers, and those that hang in each way that there is. The program is
 * a script of that name in PATH. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "program.h"

#define ENOUGH_MS 60000 /* nothing that should end is as slow */
#define SHORT_MS  300   /* for those that never end */

static const char script[] =
    "#!/bin/sh\n"
    "exec 2>/dev/null # one that is left behind holds nothing of the test\n"
    "echo $$ > \"$FOLDER/pid\"\n"
    "case $1 in\n"
    "answers) echo hello; echo \"$2\";;\n"
    "slow) sleep 0.3; echo hello; sleep 0.3;;\n"
    "fails) echo hello; exit 3;;\n"
    "silent) exec sleep 1000;;\n"
    "closed) exec >&-; exec sleep 1000;;\n"
    "child) sleep 1000 & echo $! > \"$FOLDER/pid\";;\n"
    "much) exec cat /dev/zero;;\n"
    "esac\n";

struct fixture {
    char folder[64], why[256];
    struct buf out;
};

static enum err ask(struct fixture *f, const char *what, unsigned ms)
{
    char program[] = "pgbackrest", option[] = "$HOME;a b", how[16];
    char *words[] = { program, how, option, NULL };
    snprintf(how, sizeof how, "%s", what);
    buf_clear(&f->out);
    return program_ask(words, ms, &f->out, f->why, sizeof f->why);
}

/* What is dead but not reaped, by a parent that takes its time, is not alive. */
static bool is_alive(int pid)
{
    char path[64], state = 'Z';
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) {
        return false;
    }
    bool read = fscanf(file, "%*d %*s %c", &state) == 1;
    fclose(file);
    return read && state != 'Z' && state != 'X';
}

/* The one that noted its number runs no more. One of another parent than us ends a little later. */
static void assert_ended(const struct fixture *f)
{
    char path[128];
    int pid = 0;
    snprintf(path, sizeof path, "%s/pid", f->folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%d", &pid), 1);
    fclose(file);
    while (is_alive(pid)) {
        usleep(1000); /* until the alarm */
    }
}

static void test_answers(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "answers", ENOUGH_MS), ERR_OK);
    assert_true(span_eq(buf_span(&f->out), SPAN("hello\n$HOME;a b\n")));
    assert_ended(f);
}

static void test_fails(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "fails", ENOUGH_MS), ERR_TEMP);
    assert_non_null(strstr(f->why, "pgbackrest failed"));
    char program[] = "/nonexistent", *words[] = { program, NULL };
    assert_int_equal(program_ask(words, ENOUGH_MS, &f->out, f->why, sizeof f->why), ERR_TEMP);
    assert_non_null(strstr(f->why, "/nonexistent: No such file"));
}

static void test_says_too_much(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ask(f, "much", ENOUGH_MS), ERR_LIMIT);
    assert_non_null(strstr(f->why, "says too much"));
    assert_ended(f);
}

static void hangs(struct fixture *f, const char *how)
{
    assert_int_equal(ask(f, how, SHORT_MS), ERR_TEMP);
    assert_non_null(strstr(f->why, "has not ended within"));
    assert_ended(f);
}

static void test_hangs(void **state)
{
    hangs(*state, "silent");
}

static void test_hangs_behind_its_answer(void **state)
{
    hangs(*state, "closed");
}

/* It has ended itself, but what it has started keeps its output open. */
static void test_hangs_by_a_child(void **state)
{
    hangs(*state, "child");
}

static void on_tick(int number)
{
    (void)number;
}

/* One signal while it waits: the answer is whole, the time is not longer. */
static enum err ask_interrupted(struct fixture *f, const char *how, unsigned ms)
{
    struct sigevent tell = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    struct itimerspec soon = { .it_value.tv_nsec = 100000000 };
    timer_t timer;
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &tell, &timer), 0);
    assert_int_equal(timer_settime(timer, 0, &soon, NULL), 0);
    enum err e = ask(f, how, ms);
    timer_delete(timer);
    return e;
}

static void test_is_interrupted(void **state)
{
    struct fixture *f = *state;
    struct sigaction act = { .sa_handler = on_tick }; /* without SA_RESTART */
    assert_int_equal(sigaction(SIGUSR1, &act, NULL), 0);
    assert_int_equal(ask_interrupted(f, "slow", ENOUGH_MS), ERR_OK);
    assert_true(span_eq(buf_span(&f->out), SPAN("hello\n")));
    assert_int_equal(ask_interrupted(f, "silent", SHORT_MS), ERR_TEMP);
    assert_int_equal(ask_interrupted(f, "closed", SHORT_MS), ERR_TEMP);
}

static int set_up(void **state)
{
    static struct fixture f = { .folder = "/tmp/mailfleet-program-XXXXXX" };
    char path[4096];
    if (!mkdtemp(f.folder)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/pgbackrest", f.folder);
    FILE *file = fopen(path, "w");
    if (!file || fputs(script, file) < 0 || fclose(file) != 0 || chmod(path, 0700) != 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s:%s", f.folder, getenv("PATH"));
    buf_init(&f.out, 1u << 20);
    *state = &f;
    alarm(100); /* the end of whoever hangs with a program */
    return setenv("PATH", path, 1) | setenv("FOLDER", f.folder, 1);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];
    buf_fini(&f->out);
    snprintf(command, sizeof command, "rm -r %s", f->folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_fails),
        cmocka_unit_test(test_says_too_much),
        cmocka_unit_test(test_hangs),
        cmocka_unit_test(test_hangs_behind_its_answer),
        cmocka_unit_test(test_hangs_by_a_child),
        cmocka_unit_test(test_is_interrupted),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
