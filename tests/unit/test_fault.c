/* fault: armed by the environment, in processes of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"

/* Passes the point `passes` times and exits with the number of the pass that failed, or 0. */
static int run(const char *spec, enum fault point, int passes)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setpgid(0, 0); /* kill takes the whole process group */
        setenv("MAILFLEET_FAULT", spec, 1);
        freopen("/dev/null", "w", stderr);
        signal(SIGABRT, SIG_DFL);
        for (int i = 1; i <= passes; i++) {
            if (fault_at(point)) {
                _exit(i);
            }
        }
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    if (WIFSTOPPED(status)) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return status;
}

static void fails_at_the_pass(void **state)
{
    (void)state;
    assert_int_equal(WEXITSTATUS(run("", FAULT_spool_fsync, 3)), 0);
    assert_int_equal(WEXITSTATUS(run("spool_fsync=fail", FAULT_spool_fsync, 3)), 1);
    assert_int_equal(WEXITSTATUS(run("spool_fsync:3=fail", FAULT_spool_fsync, 5)), 3);
    assert_int_equal(WEXITSTATUS(run("spool_fsync:3=fail", FAULT_spool_fsync, 2)), 0);
    assert_int_equal(WEXITSTATUS(run("spool_fsync=fail", FAULT_reap_claimed, 3)), 0);
    assert_int_equal(
        WEXITSTATUS(run("reap_claimed:9=kill,spool_fsync:2=fail", FAULT_spool_fsync, 3)), 2);
}

static void kills_and_stops(void **state)
{
    (void)state;
    int status = run("deliver_committed:2=kill", FAULT_deliver_committed, 2);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = run("deliver_committed=stop", FAULT_deliver_committed, 1);
    assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
}

static void a_bad_specification_ends_the_process(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "no_such_point=kill", "spool_fsync", "spool_fsync=",       "spool_fsync=explode",
        "spool_fsync:=fail",  "=fail",       "spool_fsync:0=fail", "spool_fsync:x=fail",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int status = run(bad[i], FAULT_reap_claimed, 1);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fails_at_the_pass),
        cmocka_unit_test(kills_and_stops),
        cmocka_unit_test(a_bad_specification_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
