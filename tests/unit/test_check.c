/* check, error, list: what everything else takes for granted. */
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

#include "base/check.h"
#include "base/error.h"
#include "base/list.h"

enum { SANITIZER_EXIT = 1 };

static void false_check(void)
{
    CHECK(1 + 1 == 3);
}

static void overflowing_new(void)
{
    free(mem_new(SIZE_MAX / 2, 3));
}

static void overflowing_grow(void)
{
    free(mem_grow(NULL, SIZE_MAX / 2, 3));
}

/* By SIGABRT; where a sanitizer is first to object, by its exit code. */
static bool ends_the_process(void (*f)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(2);
        }
        f();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) == SIGABRT
                               : WEXITSTATUS(status) == SANITIZER_EXIT;
}

static void checks(void **state)
{
    (void)state;
    CHECK(1 + 1 == 2);
    assert_true(ends_the_process(false_check));
}

static void memory(void **state)
{
    (void)state;
    int *p = NEW_ARRAY(int, 3);
    assert_true(p[0] == 0 && p[2] == 0);
    p[2] = 7;
    p = mem_grow(p, 1000, sizeof *p);
    assert_int_equal(p[2], 7);
    free(p);
    p = mem_new(0, 0);
    assert_non_null(p);
    free(p);
    char *s = mem_strdup("text");
    assert_string_equal(s, "text");
    free(s);
}

static void memory_that_cannot_be_had(void **state)
{
    (void)state;
    assert_true(ends_the_process(overflowing_new));
    assert_true(ends_the_process(overflowing_grow));
}

static void every_error_has_a_text(void **state)
{
    (void)state;
    for (unsigned e = 0; e < ERR_COUNT; e++) {
        assert_true(err_text((enum err)e)[0] != '\0');
    }
    assert_string_equal(err_text(ERR_TEMP), "temporary fault");
    assert_string_equal(err_text(ERR_COUNT), "unknown error");
}

struct item {
    int n;
    struct list link;
};

static void lists(void **state)
{
    (void)state;
    struct list head;
    struct item items[4];
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_pop(&head));
    for (int i = 0; i < 4; i++) {
        items[i].n = i;
        list_add(&head, &items[i].link);
    }
    int n = 0;
    LIST_FOR (l, &head) {
        assert_int_equal(CONTAINER_OF(l, struct item, link)->n, n);
        n++;
    }
    assert_int_equal(n, 4);
    LIST_FOR_SAFE (l, &head) {
        if (CONTAINER_OF(l, struct item, link)->n % 2) {
            list_del(l);
            list_del(l); /* twice does no harm */
        }
    }
    assert_ptr_equal(list_pop(&head), &items[0].link);
    assert_ptr_equal(list_pop(&head), &items[2].link);
    assert_true(list_empty(&head) && list_empty(&items[1].link));
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks),
        cmocka_unit_test(memory),
        cmocka_unit_test(memory_that_cannot_be_had),
        cmocka_unit_test(every_error_has_a_text),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
