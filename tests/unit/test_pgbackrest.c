/* Tests of pgbackrest: which backups there are, how far back they reach, and gaps in the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "pgbackrest.h"

#define SEGMENT (16u << 20)

/* What pgBackRest 2.45 prints, without what nobody reads here. */
#define ARCHIVE                                                                                    \
    "\"archive\":[{\"database\":{\"id\":1,\"repo-key\":1},\"id\":\"14-1\","                        \
    "\"max\":\"000000010000000000000009\",\"min\":\"000000010000000000000001\"},"                  \
    "{\"database\":{\"id\":2,\"repo-key\":1},\"id\":\"15-2\","                                     \
    "\"max\":\"000000010000000A000000FF\",\"min\":\"000000010000000000000001\"}]"
#define BACKUP(first, stop, error)                                                                 \
    "{\"archive\":{\"start\":\"" first "\",\"stop\":\"" first "\"},"                               \
    "\"database\":{\"id\":2,\"repo-key\":1},\"error\":" error ",\"type\":\"full\","                \
    "\"timestamp\":{\"start\":1,\"stop\":" stop "}}"
#define STANZA(backups)                                                                            \
    "[{\"name\":\"other\"},{\"name\":\"mailfleet\"," ARCHIVE ",\"backup\":[" backups "],"          \
    "\"status\":{\"code\":2,\"message\":\"no valid backups\"}}]"

static enum err read_info(const char *json, int64_t window_s, struct backup_facts *f, char *why)
{
    return pgbackrest_read_info(span_str(json), "mailfleet", window_s * 1000, f, why, 256);
}

static const char three[] = STANZA(BACKUP("000000010000000000000002", "1000", "false") "," BACKUP(
    "000000010000000000000004", "2000", "false") "," BACKUP("000000010000000000000006", "3000",
                                                            "false"));

static void test_facts(void **state)
{
    (void)state;
    struct backup_facts f;
    char why[256];
    assert_int_equal(read_info(three, 2500, &f, why), ERR_OK);
    assert_int_equal(f.n, 3);
    assert_int_equal(f.damaged, 0);
    assert_int_equal(f.newest_ms, 3000000);
    assert_string_equal(f.last, "000000010000000A000000FF");
    assert_string_equal(f.archive, "15-2");
    assert_int_equal(f.repo, 1);
}

/* A restore to the beginning of the window takes the newest backup that ended before it. */
static void test_window(void **state)
{
    (void)state;
    static const struct {
        int64_t window, begin;
        const char *first;
    } cases[] = {
        { 999, 1000, "000000010000000000000002" }, /* not covered: from the oldest on */
        { 1000, 1000, "000000010000000000000002" }, { 1999, 1000, "000000010000000000000002" },
        { 2000, 2000, "000000010000000000000004" }, { 2500, 2000, "000000010000000000000004" },
        { 9000, 3000, "000000010000000000000006" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct backup_facts f;
        char why[256];
        assert_int_equal(read_info(three, cases[i].window, &f, why), ERR_OK);
        assert_int_equal(f.begin_ms, cases[i].begin * 1000);
        assert_string_equal(f.first, cases[i].first);
    }
}

static void test_damaged_backups_do_not_count(void **state)
{
    (void)state;
    struct backup_facts f;
    char why[256];
    assert_int_equal(
        read_info(STANZA(BACKUP("000000010000000000000002", "1000",
                                "false") "," BACKUP("000000010000000000000004", "2000", "true")),
                  2500, &f, why),
        ERR_OK);
    assert_int_equal(f.n, 1);
    assert_int_equal(f.damaged, 1);
    assert_int_equal(f.newest_ms, 1000000);
}

static void test_nothing_usable(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum err err;
        const char *why;
    } cases[] = {
        { "", ERR_INVALID, "JSON" },
        { "{}", ERR_INVALID, "JSON" },
        { "[]", ERR_NOTFOUND, "no stanza mailfleet" },
        { "[1, {\"name\": 2}]", ERR_NOTFOUND, "no stanza mailfleet" },
        { STANZA(""), ERR_NOTFOUND, "no valid backups" },
        { "[{\"name\":\"mailfleet\"}]", ERR_NOTFOUND, "no usable backup" },
        { "[{\"name\":\"mailfleet\",\"backup\":[{}]}]", ERR_INVALID, "not known" },
        { STANZA(BACKUP("../../0000000000000002", "1000", "false")), ERR_INVALID, "not known" },
        { "[{\"name\":\"mailfleet\",\"backup\":[" BACKUP("000000010000000000000002", "5",
                                                         "false") "]}]",
          ERR_NOTFOUND, "no log" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct backup_facts f = { .n = 77 };
        char why[256] = "";
        assert_int_equal(read_info(cases[i].json, 1, &f, why), cases[i].err);
        assert_non_null(strstr(why, cases[i].why));
        assert_int_equal(f.n, 77); /* untouched */
    }
}

/* --- gaps ------------------------------------------------------------------------------------ */

/* A listing of these segments, blank-separated, with what else is in an archive. */
static enum err find_gap(const char *segments, const char *first, char *missing)
{
    char json[4096] = "{\".\":{\"type\":\"path\"},\"00000002.history\":{},"
                      "\"0000000100000000/000000010000000000000077.00000028.backup\":{},"
                      "\"0000000100000000/000000010000000000000099.partial\":{}";
    char copy[2048], *save = NULL;
    snprintf(copy, sizeof copy, "%s", segments);
    for (char *s = strtok_r(copy, " ", &save); s; s = strtok_r(NULL, " ", &save)) {
        size_t n = strlen(json);
        snprintf(json + n, sizeof json - n,
                 ",\"%.16s/%s-72db2d1228435c52d1c207d05ed16bd16f5e0302.zst\":{}", s, s);
    }
    strcat(json, "}");
    return pgbackrest_find_gap(span_str(json), first, SEGMENT, missing);
}

static void test_gaps(void **state)
{
    (void)state;
    static const struct {
        const char *segments, *missing; /* NULL: none */
    } cases[] = {
        { "000000010000000000000004 000000010000000000000003 000000010000000000000005", NULL },
        /* what is older is not asked for */
        { "000000010000000000000001 000000010000000000000003 000000010000000000000004", NULL },
        { "000000010000000000000003 000000010000000000000005", "000000010000000000000004" },
        { "000000010000000000000004 000000010000000000000005", "000000010000000000000003" },
        { "", "000000010000000000000003" },
        /* a branch begins in a segment that the timeline before it has, or in the next */
        { "000000010000000000000003 000000010000000000000004 000000020000000000000004 "
          "000000020000000000000005",
          NULL },
        { "000000010000000000000003 000000020000000000000004", NULL },
        { "000000010000000000000003 000000020000000000000005", "000000010000000000000004" },
        { "000000010000000000000003 000000020000000000000004 000000020000000000000006",
          "000000020000000000000005" },
        /* one that went on where its successor had begun earlier */
        { "000000010000000000000003 000000010000000000000004 000000010000000000000005 "
          "000000020000000000000004 000000030000000000000006",
          NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char missing[WAL_SEGMENT_CHARS + 1] = "";
        assert_int_equal(find_gap(cases[i].segments, "000000010000000000000003", missing),
                         cases[i].missing ? ERR_NOTFOUND : ERR_OK);
        assert_string_equal(missing, cases[i].missing ? cases[i].missing : "");
    }
}

static void test_log_files_follow_each_other(void **state)
{
    (void)state;
    char missing[WAL_SEGMENT_CHARS + 1] = "";
    assert_int_equal(find_gap("0000000100000000000000FF 000000010000000100000000",
                              "0000000100000000000000FF", missing),
                     ERR_OK);
    assert_int_equal(find_gap("0000000100000000000000FE 000000010000000100000000",
                              "0000000100000000000000FE", missing),
                     ERR_NOTFOUND);
    assert_string_equal(missing, "0000000100000000000000FF");
}

static void test_listings_that_are_none(void **state)
{
    (void)state;
    char missing[WAL_SEGMENT_CHARS + 1];
    assert_int_equal(pgbackrest_find_gap(SPAN("[]"), "000000010000000000000003", SEGMENT, missing),
                     ERR_INVALID);
    assert_int_equal(pgbackrest_find_gap(SPAN("{}"), "zzz", SEGMENT, missing), ERR_INVALID);
    assert_int_equal(pgbackrest_find_gap(SPAN("{}"), "000000010000000000000003", 0, missing),
                     ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_damaged_backups_do_not_count),
        cmocka_unit_test(test_nothing_usable),
        cmocka_unit_test(test_gaps),
        cmocka_unit_test(test_log_files_follow_each_other),
        cmocka_unit_test(test_listings_that_are_none),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
