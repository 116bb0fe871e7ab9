/* config: defaults, every type of value, and complaints that name file and line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/config.h"

static char path[PATH_MAX];
static char why[PATH_MAX + 256];

static int make_file(void **state)
{
    (void)state;
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/test_config.XXXXXX", dir ? dir : "/tmp");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static enum err load_bytes(struct span text, struct config **out)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text.p, 1, text.n, f), text.n);
    assert_int_equal(fclose(f), 0);
    why[0] = '\0';
    return config_load(path, out, why, sizeof why);
}

static struct config *load(const char *text)
{
    struct config *c = NULL;
    enum err e = load_bytes(span_str(text), &c);
    if (e != ERR_OK) {
        fail_msg("%s", why);
    }
    return c;
}

/* The complaint is `PATH:LINE: complaint`, and the config that was there before stays. */
static void assert_refused_bytes(struct span text, const char *complaint)
{
    struct config *before = load(""), *c = before;
    char want[sizeof why];
    assert_int_equal(load_bytes(text, &c), ERR_INVALID);
    assert_ptr_equal(c, before);
    snprintf(want, sizeof want, "%s:%s", path, complaint);
    assert_string_equal(why, want);
    config_free(&c);
}

static void assert_refused(const char *text, const char *complaint)
{
    assert_refused_bytes(span_str(text), complaint);
}

static void defaults(void **state)
{
    (void)state;
    char host[HOST_NAME_MAX + 1] = "";
    gethostname(host, sizeof host - 1);
    struct config *c = load("");
    assert_string_equal(c->node_name, host);
    assert_string_equal(c->smtp_hostname, host);
    assert_string_equal(c->node_user, "");
    assert_true(c->node_workers == 1);
    assert_true(c->smtp_max_size == 50 << 20);
    assert_true(c->spool_grace == UINT64_C(14) * 86400 * 1000);
    assert_int_equal(c->smtp_bare_newline, BARE_NEWLINE_NORMALIZE);
    assert_int_equal(c->pop3_lock, POP3_LOCK_LEASE);
    assert_int_equal(c->pop3_plaintext_login, PLAINTEXT_LOGIN_TLS);
    assert_int_equal(c->pop3_listen.n, 0);
    assert_int_equal(c->proxy_networks.n, 2);
    assert_string_equal(c->proxy_networks.v[1], "::1/128");
    config_free(&c);
    assert_null(c);
    config_free(&c);
    config_free(NULL);
}

static void every_type(void **state)
{
    (void)state;
    struct config *c = load("# a comment\n"
                            "; another\n"
                            "[node]\n"
                            "name = mx1\n"
                            "  workers=4\n" /* indented: still a setting of its own */
                            "[smtp]\n"
                            "listen = 127.0.0.1:25, [::1]:25\t127.0.0.2:25\n"
                            "max_size = 3M ; behind a value\n"
                            "command_timeout: 90s\r\n"
                            "bare_newline = reject\n"
                            "plus_separator =\n"
                            "[node]\n" /* a section may come back */
                            "drain_time = 0\n"
                            "[database]\n"
                            "url = host=a,b dbname=m options='-c x=1'\n"
                            "timeout = 1500ms"); /* no line end at the end */
    assert_string_equal(c->node_name, "mx1");
    assert_string_equal(c->smtp_hostname, "mx1");
    assert_true(c->node_workers == 4);
    assert_true(c->node_drain_time == 0);
    assert_int_equal(c->smtp_listen.n, 3);
    assert_string_equal(c->smtp_listen.v[0], "127.0.0.1:25");
    assert_string_equal(c->smtp_listen.v[1], "[::1]:25");
    assert_string_equal(c->smtp_listen.v[2], "127.0.0.2:25");
    assert_true(c->smtp_max_size == 3 << 20);
    assert_true(c->smtp_command_timeout == 90000);
    assert_int_equal(c->smtp_bare_newline, BARE_NEWLINE_REJECT);
    assert_string_equal(c->smtp_plus_separator, "");
    assert_string_equal(c->database_url, "host=a,b dbname=m options='-c x=1'");
    assert_true(c->database_timeout == 1500);
    config_free(&c);
}

static void every_unit(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } times[] = {
        { "7ms", 7 }, { "7s", 7000 }, { "7m", 420000 }, { "7h", 25200000 }, { "7d", 604800000 },
    };
    static const struct {
        const char *text;
        uint64_t octets;
    } sizes[] = { { "70000", 70000 }, { "70K", 71680 }, { "7M", 7340032 }, { "1G", 1U << 30 } };
    char text[64];
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        snprintf(text, sizeof text, "[spool]\ngrace = %s\n", times[i].text);
        struct config *c = load(text);
        assert_true(c->spool_grace == times[i].ms);
        config_free(&c);
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        snprintf(text, sizeof text, "[smtp]\nmax_size = %s\n", sizes[i].text);
        struct config *c = load(text);
        assert_true(c->smtp_max_size == sizes[i].octets);
        config_free(&c);
    }
}

static void bad_values(void **state)
{
    (void)state;
    assert_refused("[node]\n\nworkers = many\n", "3: node.workers must be a number");
    assert_refused("[node]\nworkers = -1\n", "2: node.workers must be a number");
    assert_refused("[node]\nworkers = 1K\n", "2: node.workers must be a number");
    assert_refused("[node]\nworkers =\n", "2: node.workers must be a number");
    assert_refused("[node]\nworkers = 65\n", "2: node.workers must be within 1..64");
    assert_refused("[node]\nworkers = 0\n", "2: node.workers must be within 1..64");
    assert_refused("[smtp]\nmax_size = 50m\n",
                   "2: smtp.max_size must be a number of octets, with K, M or G");
    assert_refused("[smtp]\nmax_size = 3G\n", "2: smtp.max_size must be within 64K..2047M");
    assert_refused("[smtp]\nmax_size = 99999999999999999999\n",
                   "2: smtp.max_size must be within 64K..2047M");
    /* 2^64 octets and 1G */
    assert_refused("[smtp]\nmax_size = 17179869185G\n",
                   "2: smtp.max_size must be within 64K..2047M");
    assert_refused("[spool]\ntimeout = 5\n",
                   "2: spool.timeout must be a number with ms, s, m, h or d");
    assert_refused("[spool]\ntimeout = 99ms\n", "2: spool.timeout must be within 100ms..5m");
    assert_refused("[pop3]\nlock = maybe\n", "2: pop3.lock must be one of lease|none");
    assert_refused("[pop3]\nlock = leas\n", "2: pop3.lock must be one of lease|none");
    assert_refused("[pop3]\nlock =\n", "2: pop3.lock must be one of lease|none");
    assert_refused("[smtp]\nplus_separator = ++\n",
                   "2: smtp.plus_separator must be at most 1 characters");
    assert_refused("[node]\nname = a\x1b[2J\n",
                   "2: node.name must be text without control characters");
    assert_refused("[lmtp]\nlisten = 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n",
                   "2: lmtp.listen must be at most 16 words");
}

static void unknown_names(void **state)
{
    (void)state;
    assert_refused("[node]\nname = a\n[nodes]\nname = b\n", "4: unknown section [nodes]");
    assert_refused("name = a\n", "1: unknown section []");
    assert_refused("[node]\nnames = a\n", "2: unknown key names in section [node]");
    assert_refused("[pop3]\nmax_size = 1M\n", "2: unknown key max_size in section [pop3]");
    assert_refused("[Node]\nname = a\n", "2: unknown section [Node]");
}

static void given_twice(void **state)
{
    (void)state;
    assert_refused("[node]\nname = a\n[smtp]\n[node]\nname = a\n", "5: node.name is given twice");
}

static void bad_lines(void **state)
{
    (void)state;
    assert_refused("[node]\nname\n", "2: neither [section] nor key = value");
    assert_refused("[node\nname = a\n", "1: neither [section] nor key = value");
    assert_refused_bytes(SPAN("[node]\nname = a\0b\nworkers = 2\n"),
                         "2: a line of more than 8190 characters, or with a NUL");
    static char text[20000]; /* what a cut line goes on with must not become a setting */
    memset(text, 'x', sizeof text - 1);
    memcpy(text, "[node]\n# ", 9);
    memcpy(text + 7 + 8191, "name=", 5);
    assert_refused(text, "2: a line of more than 8190 characters, or with a NUL");
}

/* The first complaint is the one that is shown. */
static void the_first_counts(void **state)
{
    (void)state;
    assert_refused("[node]\nworkers = 0\nbogus = 1\n[none]\nx = 1\n",
                   "2: node.workers must be within 1..64");
}

static void unreadable_files(void **state)
{
    (void)state;
    struct config *c = NULL;
    assert_int_equal(config_load("/nonexistent/mailfleet.conf", &c, why, sizeof why), ERR_NOTFOUND);
    assert_string_equal(why, "/nonexistent/mailfleet.conf: No such file or directory");
    assert_int_equal(config_load("/", &c, why, sizeof why), ERR_INVALID);
    assert_string_equal(why, "/:0: Is a directory");
    assert_null(c);
}

static size_t doc_index(const char *section, const char *key)
{
    size_t i = 0;
    while (strcmp(config_doc(i)->section, section) != 0 || strcmp(config_doc(i)->key, key) != 0) {
        i++;
    }
    return i;
}

static void assert_shows(const struct config *c, const char *section, const char *key,
                         const char *want)
{
    char out[256];
    config_show(c, doc_index(section, key), out, sizeof out);
    assert_string_equal(out, want);
}

static void shows(void **state)
{
    (void)state;
    struct config *c = load("[node]\nname = mx1\ndrain_time = 0s\n"
                            "[smtp]\nmax_size = 65537\ncommand_timeout = 90s\n"
                            "listen = a:1 b:2\n");
    assert_shows(c, "node", "name", "mx1");
    assert_shows(c, "node", "workers", "1");
    assert_shows(c, "node", "drain_time", "0ms");
    assert_shows(c, "smtp", "max_size", "65537");
    assert_shows(c, "smtp", "command_timeout", "90s");
    assert_shows(c, "smtp", "data_timeout", "10m");
    assert_shows(c, "spool", "buffer", "256K");
    assert_shows(c, "spool", "grace", "14d");
    assert_shows(c, "smtp", "listen", "a:1, b:2");
    assert_shows(c, "lmtp", "listen", "");
    assert_shows(c, "smtp", "bare_newline", "normalize");
    char small[3];
    config_show(c, doc_index("node", "name"), small, sizeof small);
    assert_string_equal(small, "mx");
    config_free(&c);
}

/* What is shown can be read again, for every setting of the table. */
static void shown_values_load(void **state)
{
    (void)state;
    struct config *c = load(""), *again = NULL;
    static char text[65536];
    size_t n = 0, i;
    for (i = 0; config_doc(i); i++) {
        char value[2048], other[2048];
        config_show(c, i, value, sizeof value);
        const struct config_doc *d = config_doc(i);
        n = (size_t)snprintf(text, sizeof text, "[%s]\n%s = %s\n", d->section, d->key, value);
        assert_int_equal(load_bytes(span_of(text, n), &again), ERR_OK);
        config_show(again, i, other, sizeof other);
        assert_string_equal(value, other);
        config_free(&again);
    }
    assert_true(i > 40);
    config_free(&c);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),          cmocka_unit_test(every_type),
        cmocka_unit_test(every_unit),        cmocka_unit_test(bad_values),
        cmocka_unit_test(unknown_names),     cmocka_unit_test(given_twice),
        cmocka_unit_test(bad_lines),         cmocka_unit_test(the_first_counts),
        cmocka_unit_test(unreadable_files),  cmocka_unit_test(shows),
        cmocka_unit_test(shown_values_load),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
