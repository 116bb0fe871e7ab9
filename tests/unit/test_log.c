/* log: what a line looks like, and that nobody can forge or swell one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <regex.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"

static char line[2 * PIPE_BUF];

/* What one call writes to standard error goes to `line`. */
#define CAPTURE(call)                                                                              \
    do {                                                                                           \
        int kept_ = capture_begin();                                                               \
        call;                                                                                      \
        capture_end(kept_);                                                                        \
    } while (0)

static int pipe_fds[2];

static int capture_begin(void)
{
    int kept = dup(STDERR_FILENO);
    assert_true(kept >= 0 && pipe(pipe_fds) == 0);
    dup2(pipe_fds[1], STDERR_FILENO);
    return kept;
}

static void capture_end(int kept)
{
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], line, sizeof line - 1);
    assert_true(n >= 0);
    line[n] = '\0';
    close(pipe_fds[0]);
}

static void assert_matches(const char *pattern)
{
    regex_t re;
    assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
    int r = regexec(&re, line, 0, NULL, 0);
    regfree(&re);
    if (r != 0) {
        fail_msg("%s does not match %s", line, pattern);
    }
}

#define TIME "^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "

static void a_line(void **state)
{
    (void)state;
    CAPTURE(LOG(LOG_INFO, "login", F_STR("sid", "ab12"), F_U64("msgs", UINT64_MAX),
                F_I64("delta", -3), F_ERR(ERR_TEMP)));
    assert_matches(TIME "info login sid=ab12 msgs=18446744073709551615 delta=-3 "
                        "err=\"temporary fault\"\n$");
    log_set_node("mx1");
    CAPTURE(LOG(LOG_ERROR, "down", F_U64("n", 0)));
    assert_matches(TIME "error down node=mx1 n=0\n$");
    log_set_node(NULL);
}

static void levels(void **state)
{
    (void)state;
    CAPTURE(LOG(LOG_DEBUG, "x", F_U64("n", 0)));
    assert_string_equal(line, "");
    log_set_level(LOG_DEBUG);
    CAPTURE(LOG(LOG_DEBUG, "x", F_U64("n", 0)));
    assert_matches(TIME "debug x n=0\n$");
    log_set_level(LOG_WARN);
    CAPTURE(LOG(LOG_INFO, "x", F_U64("n", 0)));
    assert_string_equal(line, "");
    log_set_level(LOG_INFO);
}

static void quoting(void **state)
{
    (void)state;
    const struct {
        struct span in;
        const char *out;
    } cases[] = {
        { SPAN("a@b.org"), "a@b.org" },
        { SPAN(""), "\"\"" },
        { SPAN("a b"), "\"a b\"" },
        { SPAN("a=b"), "\"a=b\"" },
        { SPAN("say \"hi\" \\ bye"), "\"say \\\"hi\\\" \\\\ bye\"" },
        { SPAN("x\r\n2026 error forged"), "\"x\\x0d\\x0a2026 error forged\"" },
        { SPAN("a\0b"), "\"a\\x00b\"" },
        { SPAN("\x1b[2J\x7f\x9b"), "\"\\x1b[2J\\x7f\\x9b\"" },
        { SPAN("\xc3\xa4"), "\"\\xc3\\xa4\"" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CAPTURE(LOG(LOG_INFO, "e", F_SPAN("v", cases[i].in)));
        char *value = strstr(line, " e v=");
        assert_non_null(value);
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
        line[strlen(line) - 1] = '\0';
        assert_string_equal(value + strlen(" e v="), cases[i].out);
    }
}

static void long_values_are_cut(void **state)
{
    (void)state;
    char text[300];
    memset(text, 'x', sizeof text);
    CAPTURE(LOG(LOG_INFO, "e", F_SPAN("v", span_of(text, 256)), F_U64("n", 1)));
    assert_matches(" v=x{255}x n=1\n$");
    CAPTURE(LOG(LOG_INFO, "e", F_SPAN("v", span_of(text, 257)), F_U64("n", 1)));
    assert_matches(" v=x{255}x\\.\\.\\. n=1\n$");
}

/* A field that does not fit is left out whole: no half of a quoted value is ever shown. */
static void long_lines_are_cut(void **state)
{
    (void)state;
    char text[256];
    memset(text, '\n', sizeof text);
    struct log_field fields[100];
    for (size_t n = 0; n < ARRAY_LEN(fields); n++) {
        fields[n] = F_SPAN("v", span_of(text, sizeof text - n));
    }
    CAPTURE(log_write(LOG_INFO, "e", fields, ARRAY_LEN(fields)));
    assert_true(strlen(line) <= PIPE_BUF);
    assert_matches(" e( v=\"(\\\\x0a)*\")+ cut=yes\n$");
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

/* No matter where the line ends, it is whole. */
static void every_length(void **state)
{
    (void)state;
    char text[256];
    memset(text, 'x', sizeof text);
    struct log_field fields[17];
    for (size_t n = 0; n < ARRAY_LEN(fields); n++) {
        fields[n] = F_SPAN("v", span_of(text, 250));
    }
    for (size_t n = 1; n <= sizeof text; n++) {
        fields[15] = F_SPAN("w", span_of(text, n));
        CAPTURE(log_write(LOG_INFO, "e", fields, ARRAY_LEN(fields)));
        assert_true(strlen(line) <= PIPE_BUF);
        assert_matches(TIME "info e( v=x+){15}( w=x+)?( v=x+)?( cut=yes)?\n$");
    }
}

/* --- gathering ------------------------------------------------------------------------------- */

static void say(enum log_level level, uint64_t n)
{
    LOG(level, "e", F_U64("n", n));
}

/* Lines wait, and all of them come in their order; a warning brings those before it. */
static void gathered_lines_wait(void **state)
{
    (void)state;
    log_gather(true);
    CAPTURE((say(LOG_INFO, 1), say(LOG_INFO, 2)));
    assert_string_equal(line, "");
    CAPTURE(log_flush());
    assert_matches(TIME "info e n=1\n20[^\n]* info e n=2\n$");
    CAPTURE(log_flush());
    assert_string_equal(line, "");
    CAPTURE((say(LOG_INFO, 3), say(LOG_WARN, 4)));
    assert_matches(TIME "info e n=3\n20[^\n]* warn e n=4\n$");
    CAPTURE((say(LOG_INFO, 5), log_gather(false)));
    assert_matches(TIME "info e n=5\n$");
    CAPTURE(say(LOG_INFO, 6));
    assert_matches(TIME "info e n=6\n$");
}

/* However many there are, what one write has is whole lines, and fits into a pipe's atomic write.
 */
static void gathered_writes_fit(void **state)
{
    (void)state;
    int ends[2], kept = dup(STDERR_FILENO);
    char text[250], got[2 * PIPE_BUF];
    size_t lines = 0, writes = 0;
    memset(text, 'x', sizeof text);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_gather(true);
    for (size_t i = 1; i <= 100; i++) {
        LOG(LOG_INFO, "e", F_SPAN("v", span_of(text, 2 * i)));
    }
    log_gather(false);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    for (ssize_t n; (n = read(ends[0], got, sizeof got)) > 0; writes++) {
        assert_true(n <= PIPE_BUF && got[n - 1] == '\n');
        for (ssize_t i = 0; i < n; i++) {
            lines += got[i] == '\n';
        }
    }
    close(ends[0]);
    assert_int_equal(lines, 100);
    assert_true(writes >= 2 && writes < 10);
}

/* Also what led to the end of the process. */
static void gathered_lines_are_there_when_a_check_fails(void **state)
{
    (void)state;
    int kept = capture_begin();
    pid_t child = fork();
    if (child == 0) {
        log_gather(true);
        say(LOG_INFO, 7);
        CHECK(child != 0);
    }
    assert_true(child > 0 && waitpid(child, NULL, 0) == child);
    capture_end(kept);
    assert_matches(TIME "info e n=7\n.*check failed");
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line),
        cmocka_unit_test(levels),
        cmocka_unit_test(quoting),
        cmocka_unit_test(long_values_are_cut),
        cmocka_unit_test(long_lines_are_cut),
        cmocka_unit_test(every_length),
        cmocka_unit_test(gathered_lines_wait),
        cmocka_unit_test(gathered_writes_fit),
        cmocka_unit_test(gathered_lines_are_there_when_a_check_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
