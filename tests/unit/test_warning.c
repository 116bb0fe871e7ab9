/* warning and quota_rules: what an operator may write, and what becomes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "store/quota_rules.h"
#include "store/warning.h"

static char folder[PATH_MAX], why[512];

static int make_folder(void **state)
{
    (void)state;
    const char *dir = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_warning.XXXXXX", dir ? dir : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static const char *in_folder(const char *name)
{
    static char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(in_folder("conf"));
    unlink(in_folder("text"));
    unlink(in_folder("pipe"));
    return rmdir(folder);
}

static void write_file(const char *name, struct span text)
{
    FILE *f = fopen(in_folder(name), "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text.p, 1, text.n, f), text.n);
    assert_int_equal(fclose(f), 0);
}

static struct config *load(const char *settings)
{
    struct config *c = NULL;
    write_file("conf", span_str(settings));
    if (config_load(in_folder("conf"), &c, why, sizeof why) != ERR_OK) {
        fail_msg("%s", why);
    }
    return c;
}

/* --- rules ----------------------------------------------------------------------------------- */

static enum err read_rules(const char *settings, struct quota_rules *out)
{
    struct config *c = load(settings);
    why[0] = '\0';
    enum err e = quota_rules_read(c, out, why, sizeof why);
    config_free(&c);
    return e;
}

static void test_rules(void **state)
{
    (void)state;
    struct quota_rules r;
    assert_int_equal(read_rules("", &r), ERR_OK);
    assert_int_equal(r.n, 0);
    assert_int_equal(r.grace, 0);
    assert_int_equal(read_rules("[quota]\ngrace = 7\nwarn = 95, 1 100 80\n", &r), ERR_OK);
    assert_int_equal(r.grace, 7);
    assert_int_equal(r.n, 4);
    const int64_t sorted[] = { 1, 80, 95, 100 };
    assert_memory_equal(r.warn, sorted, sizeof sorted);
}

static void test_bad_rules(void **state)
{
    (void)state;
    static const char *const bad[] = { "0", "101", "80%", "-1", "80, eighty", "08x" };
    struct quota_rules r = { .grace = 99 };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[64];
        snprintf(text, sizeof text, "[quota]\nwarn = %s\n", bad[i]);
        assert_int_equal(read_rules(text, &r), ERR_INVALID);
        assert_non_null(strstr(why, "quota.warn: "));
    }
    assert_int_equal(read_rules("[quota]\nwarn = 80 95 80\n", &r), ERR_INVALID);
    assert_string_equal(why, "quota.warn: 80 is given twice");
    assert_int_equal(r.grace, 99);
}

/* --- the text -------------------------------------------------------------------------------- */

static void good(const char *text)
{
    why[0] = '\0';
    if (warning_check(span_str(text), why, sizeof why) != ERR_OK) {
        fail_msg("%s", why);
    }
}

static void bad(struct span text, const char *complaint)
{
    assert_int_equal(warning_check(text, why, sizeof why), ERR_INVALID);
    assert_string_equal(why, complaint);
}

static void test_check(void **state)
{
    (void)state;
    char line[1100] = "Subject: x\n\n";
    good("Subject: x\n");
    good("subject: =?utf-8?q?=C3=BC?=\r\n folded\r\nReply-To: help@x.org\r\n\r\n"
         "\xc3\xbc %a %p %u %l 100 %%\r\n\r\n.\r\n");
    bad(SPAN(""), "it must begin with header fields, Subject: among them");
    bad(SPAN("Reply-To: x\n\nSubject: not here\n"),
        "it must begin with header fields, Subject: among them");
    bad(SPAN("Subject: x\nDear owner\n"),
        "line 2: not a header field; the header ends with an empty line");
    bad(SPAN(" x\nSubject: x\n"), "line 1: a continuation of nothing");
    bad(SPAN("Subject: x\nfrom: a@b\n"), "line 2: a header field that mailfleet writes");
    bad(SPAN("Subject: \xc3\xbc\n"),
        "line 1: a header field that is not ASCII (RFC 2047 tells how to write others)");
    bad(SPAN("Subject: x\n\n\xff\n"), "not UTF-8");
    bad(SPAN("Subject: x\n\na\0b\n"), "line 3: a control character");
    bad(SPAN("Subject: x\n\na\rb\n"), "line 3: a control character");
    bad(SPAN("Subject: 90%\n"), "line 1: a % that is not one of %a, %p, %u, %l and %%");
    bad(SPAN("Subject: %x\n"), "line 1: a % that is not one of %a, %p, %u, %l and %%");
    bad(SPAN("Subject: x\n\n%a %a %a %a\n"), "line 3: the line is too long");
    memset(line + 12, 'x', 997);
    good(line);
    memset(line + 12, 'x', 998);
    bad(span_str(line), "line 3: the line is too long");
}

static void test_read(void **state)
{
    (void)state;
    char settings[PATH_MAX + 100], big[WARNING_FILE_MAX + 1] = "Subject: x\n\n";
    struct config *c = load("");
    assert_int_equal(warning_read(c, why, sizeof why), ERR_OK);
    assert_null(c->warning);
    config_free(&c);

    snprintf(settings, sizeof settings, "[quota]\nwarn_file = %s\n", in_folder("text"));
    c = load(settings);
    assert_int_equal(warning_read(c, why, sizeof why), ERR_INVALID);
    assert_non_null(strstr(why, "text: No such file or directory"));
    write_file("text", SPAN("Subject: %p\n\nx\n"));
    assert_int_equal(warning_read(c, why, sizeof why), ERR_OK);
    assert_string_equal(c->warning, "Subject: %p\n\nx\n");
    write_file("text", SPAN("Subject: %"));
    assert_int_equal(warning_read(c, why, sizeof why), ERR_INVALID);
    assert_non_null(strstr(why, "text: line 1: "));
    memset(big + 12, '\n', sizeof big - 12);
    write_file("text", span_of(big, sizeof big));
    assert_int_equal(warning_read(c, why, sizeof why), ERR_INVALID);
    assert_non_null(strstr(why, "more than 16384 octets"));
    write_file("text", span_of(big, sizeof big - 1));
    assert_int_equal(warning_read(c, why, sizeof why), ERR_OK);
    config_free(&c);

    /* What could hang is not opened for long. */
    snprintf(settings, sizeof settings, "[quota]\nwarn_file = %s\n", in_folder("pipe"));
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    c = load(settings);
    assert_int_equal(warning_read(c, why, sizeof why), ERR_INVALID);
    config_free(&c);
}

static struct span written(const struct warning *w, struct buf *out)
{
    buf_fini(out);
    buf_init(out, WARNING_MAX);
    assert_int_equal(warning_write(w, out), ERR_OK);
    return buf_span(out);
}

static void test_write(void **state)
{
    (void)state;
    struct blob_id id = blob_id_make(1700000000000, (const uint8_t[10]){ 0 });
    char id_text[BLOB_ID_CHARS + 1], expected[2000];
    struct buf out = { 0 };
    struct warning w = { .text = "Subject: %p\n\n100%% of %a\r\n%u %l\nend",
                         .address = SPAN("a@x.org"),
                         .hostname = SPAN("mx.x.org"),
                         .id = &id,
                         .unix_seconds = 1700000000,
                         .per_cent = 95,
                         .used = 1992294,
                         .limit = 2097152 };
    blob_id_text(&id, id_text);
    snprintf(expected, sizeof expected,
             "Return-Path: <>\r\nFrom: <postmaster@x.org>\r\nTo: <a@x.org>\r\n"
             "Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <%s@mx.x.org>\r\n"
             "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"
             "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
             "Subject: 95\r\n\r\n100%% of a@x.org\r\n1.9 MB 2.0 MB\r\nend\r\n",
             id_text);
    struct span s = written(&w, &out);
    char *got = span_dup(s);
    assert_string_equal(got, expected);
    free(got);

    w.text = "Subject: x\n\n%u of %l\n";
    w.messages = true;
    w.used = 9;
    w.limit = 1000000;
    s = written(&w, &out);
    assert_non_null(memmem(s.p, s.n, "\r\n9 messages of 1000000 messages\r\n", 33));
    w.messages = false;
    s = written(&w, &out);
    assert_non_null(memmem(s.p, s.n, "\r\n9 octets of 976.6 KB\r\n", 24));
    w.text = NULL;
    s = written(&w, &out);
    assert_non_null(memmem(s.p, s.n, "Subject: Your mailbox is 95 per cent full\r\n\r\n", 45));
    assert_null(memmem(s.p, s.n, "%", 1));

    buf_fini(&out);
    buf_init(&out, s.n - 1);
    assert_int_equal(warning_write(&w, &out), ERR_LIMIT);
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules), cmocka_unit_test(test_bad_rules),
        cmocka_unit_test(test_check), cmocka_unit_test(test_read),
        cmocka_unit_test(test_write),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
