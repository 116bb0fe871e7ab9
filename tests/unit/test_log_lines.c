/* Reading the log back: what base/log.c writes, and what strangers would like to be taken for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/check.h"
#include "base/log.h"
#include "log_lines.h"

#define AT "2026-01-31T12:00:00.250Z "
#define MS INT64_C(1769860800250)

static bool parses(const char *line, struct log_line *l)
{
    return log_line_parse(span_str(line), l) == ERR_OK;
}

static bool is(struct span s, const char *want)
{
    return span_eq(s, span_str(want));
}

static void assert_text(const struct log_line *l, const char *key, const char *want)
{
    char text[600];
    assert_true(log_line_text(l, key, text, sizeof text));
    assert_string_equal(text, want);
}

static void test_plain(void **state)
{
    (void)state;
    struct log_line l;
    uint64_t n;
    assert_true(parses(AT "info pop3.deleted node=a sid=4.f mailbox=7 ids=01a,01b", &l));
    assert_int_equal(l.ms, MS);
    assert_true(is(l.level, "info") && log_line_is(&l, "pop3.deleted"));
    assert_true(is(log_line_word(&l, "ids"), "01a,01b"));
    assert_true(log_line_number(&l, "mailbox", &n));
    assert_int_equal(n, 7);
    assert_false(log_line_number(&l, "sid", &n));
    assert_true(is(log_line_word(&l, "peer"), ""));
    assert_true(parses(AT "warn x", &l));
}

static void test_in_front(void **state)
{
    (void)state;
    struct log_line l;
    assert_true(
        parses("2026-01-31T12:00:00+0000 host mailfleet-frontend[31]: " AT "info e a=b", &l));
    assert_true(parses("Jan 31 12:00:00 host mailfleet[31]: " AT "info e a=b", &l));
    assert_false(parses("Jan 31 12:00:00 host sshd[31]: " AT "info e a=b", &l));
    assert_false(
        parses("Jan 31 12:00:00 host sshd[31]: Invalid user mailfleet[1]: " AT "info e a=b", &l));
    assert_false(parses("Jan 31 12:00:00 host mailfleet-frontend[31]: user " AT "info e a=b", &l));
    assert_false(parses("1 2 3 4 5 6 7 mailfleet[31]: " AT "info e a=b", &l));
}

static void test_not_whole(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "x",
        AT,
        AT "info",
        AT "loud e a=b",
        AT "info  e a=b",
        AT "info e a",
        AT "info e a=",
        AT "info e a=\"b",
        AT "info e a=\"b\\\"",
        AT "info e a=b ",
        AT "info e a=b  c=d",
        AT "info e a=b\"",
        AT "info e a=\"b\"c=d",
        AT "info e a=\"b\xc3\"",
        AT "info E a=b",
        AT "info e A=b",
        "2026-01-31 12:00:00.250Z info e a=b",
        "2026-13-31T12:00:00.250Z info e a=b",
        "2026-01-31T12:00:00.25Z info e a=b",
    };
    struct log_line l;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (parses(bad[i], &l)) {
            fail_msg("taken: %s", bad[i]);
        }
    }
}

/* Standard error becomes a file while fn writes lines; then it is read. */
static struct log_reader *read_back(const char *path, void (*fn)(void))
{
    struct log_reader *r;
    char why[256];
    int kept = dup(STDERR_FILENO);
    fflush(stderr);
    assert_non_null(freopen(path, "w", stderr));
    fn();
    fflush(stderr);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    assert_true(log_reader_open(path, &r, why, sizeof why));
    return r;
}

static const char hostile[] =
    "a\" info\n" AT "info pop3.deleted mailbox=7 ids=01a\\ \xc3\xa4=\x1b[2J";
static char long_value[300];

static void write_hostile(void)
{
    memset(long_value, '"', sizeof long_value - 1);
    LOG(LOG_INFO, "pop3.login", F_STR("user", hostile), F_STR("sid", "1.2"));
    LOG(LOG_INFO, "pop3.login", F_STR("user", long_value), F_STR("sid", "1.3"));
    LOG(LOG_INFO, "pop3.login", F_STR("user", ""), F_I64("n", -5), F_STR("sid", "1.4"));
}

static void test_hostile(void **state)
{
    const char *folder = *state;
    char path[64];
    struct log_line l;
    snprintf(path, sizeof path, "%s/hostile.log", folder);
    struct log_reader *r = read_back(path, write_hostile);
    assert_true(log_reader_next(r, &l));
    assert_true(log_line_is(&l, "pop3.login"));
    assert_text(&l, "user", hostile);
    assert_true(is(log_line_word(&l, "user"), "")); /* it was quoted */
    assert_true(is(log_line_word(&l, "sid"), "1.2"));
    assert_true(log_reader_next(r, &l));
    long_value[256] = '\0'; /* the log has cut it */
    assert_text(&l, "user", long_value);
    assert_true(is(log_line_word(&l, "sid"), "1.3"));
    assert_true(log_reader_next(r, &l));
    assert_text(&l, "user", "");
    assert_text(&l, "n", "-5");
    assert_false(log_reader_next(r, &l));
    assert_null(log_reader_failed(r));
    log_reader_close(&r);
}

static void put_octets(const char *folder, const char *name, const char *text, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static void put_file(const char *folder, const char *name, const char *text)
{
    put_octets(folder, name, text, strlen(text));
}

#define LONG (1u << 20)

/* Twice, as trace does: files by name, long and half lines passed over. */
static void test_folder(void **state)
{
    char folder[64], why[256];
    struct log_reader *r;
    struct log_line l;
    snprintf(folder, sizeof folder, "%s/many", (char *)*state);
    assert_int_equal(mkdir(folder, 0700), 0);
    char *text = NEW_ARRAY(char, LONG);
    memset(text, 'x', LONG);
    memcpy(text, AT "info one a=", strlen(AT "info one a="));
    memcpy(text + LONG - 30, "\n" AT "e\n", strlen("\n" AT "e\n"));
    put_octets(folder, "a.log", text, LONG);
    free(text);
    put_file(folder, "b.log.1", "\n" AT "info two a=b\n" AT "info half a=b");
    put_file(folder, "c.txt", AT "info three a=b\n");
    put_file(folder, "d.log", AT "info four a=b\n");
    assert_true(log_reader_open(folder, &r, why, sizeof why));
    for (int i = 0; i < 2; i++) {
        assert_true(log_reader_next(r, &l));
        assert_true(log_line_is(&l, "two"));
        assert_true(log_reader_next(r, &l));
        assert_true(log_line_is(&l, "four"));
        assert_false(log_reader_next(r, &l));
        log_reader_rewind(r);
    }
    assert_null(log_reader_failed(r));
    log_reader_close(&r);
    assert_false(log_reader_open("/nowhere", &r, why, sizeof why));
}

/* n lines, as logrotate leaves them; cut: without its last octets. */
static void put_compressed(const char *folder, const char *name, int n, size_t cut)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    gzFile f = gzopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        assert_true(gzprintf(f, AT "info e n=%d\n", i) > 0);
    }
    assert_int_equal(gzclose_w(f), Z_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - (off_t)cut), 0);
}

/* Lines with n=0, n=1, ... from the beginning; how many, until something else. */
static uint64_t count_lines(struct log_reader *r)
{
    struct log_line l;
    uint64_t n, lines = 0;
    while (log_reader_next(r, &l) && log_line_number(&l, "n", &n) && n == lines) {
        lines++;
    }
    return lines;
}

#define MANY 100000 /* lines, which are more than a buffer */

static void test_compressed(void **state)
{
    char folder[64], why[256];
    struct log_reader *r;
    snprintf(folder, sizeof folder, "%s/packed", (char *)*state);
    assert_int_equal(mkdir(folder, 0700), 0);
    put_compressed(folder, "mail.log-20260131.gz", MANY, 0);
    put_file(folder, "mail.log-20260201", AT "info last\n");
    assert_true(log_reader_open(folder, &r, why, sizeof why));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(count_lines(r), MANY);
        assert_null(log_reader_failed(r));
        log_reader_rewind(r);
    }
    log_reader_close(&r);
}

/* What was cut off on the way, or is compressed in a way that is not known, is an error. */
static void test_unreadable(void **state)
{
    static const struct {
        const char *name, *octets, *says;
    } bad[] = {
        { "a.log.1.xz",
          "\xfd"
          "7zXZ",
          "not by gzip" },
        { "a.log.1.zst", "\x28\xb5\x2f\xfd", "not by gzip" },
        { "a.log.1.bz2", "BZh9", "not by gzip" },
        { "a.log.1.gz", "\x1f\x8b\x07\n", "unknown compression" },
    };
    char path[128], why[256];
    struct log_reader *r;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        put_file(*state, bad[i].name, bad[i].octets);
        snprintf(path, sizeof path, "%s/%s", (char *)*state, bad[i].name);
        assert_true(log_reader_open(path, &r, why, sizeof why));
        assert_int_equal(count_lines(r), 0);
        assert_non_null(strstr(log_reader_failed(r), bad[i].says));
        log_reader_close(&r);
    }
    put_compressed(*state, "cut.log.gz", MANY, 20);
    snprintf(path, sizeof path, "%s/cut.log.gz", (char *)*state);
    assert_true(log_reader_open(path, &r, why, sizeof why));
    assert_true(count_lines(r) > 0);
    assert_non_null(strstr(log_reader_failed(r), "cut off"));
    log_reader_close(&r);
}

/* A pipe cannot be read twice. */
static void test_standard_input(void **state)
{
    char path[128], why[256];
    struct log_reader *r;
    put_compressed(*state, "pipe.gz", MANY, 0);
    snprintf(path, sizeof path, "%s/pipe.gz", (char *)*state);
    assert_non_null(freopen(path, "r", stdin));
    assert_true(log_reader_open("-", &r, why, sizeof why));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(count_lines(r), MANY);
        assert_null(log_reader_failed(r));
        log_reader_rewind(r);
    }
    log_reader_close(&r);
}

static int make_folder(void **state)
{
    static char folder[] = "/tmp/mailfleet-log-XXXXXX";
    *state = mkdtemp(folder);
    return *state ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", (char *)*state);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),      cmocka_unit_test(test_in_front),
        cmocka_unit_test(test_not_whole),  cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_folder),     cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_unreadable), cmocka_unit_test(test_standard_input),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
