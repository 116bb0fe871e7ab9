/*
 * Tests of nfs_dirs: where a message is by its id, what is known of days and their directories,
 * what is dropped first, and when a day is to be listed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/check.h"
#include "store/nfs_dirs.h"

#define MS_PER_DAY (24ull * 60 * 60 * 1000)
#define DAY        20000u

static struct nfs_handle handle(unsigned n)
{
    struct nfs_handle h = { 0 };
    char text[HANDLE_MAX];
    int len = snprintf(text, sizeof text, "handle %u", n);
    assert_true(nfs_handle_set(&h, span_of(text, (size_t)len)));
    return h;
}

static void check_handle(const struct nfs_handle *h, unsigned n)
{
    struct nfs_handle wanted = handle(n);
    assert_non_null(h);
    assert_true(span_eq(nfs_handle_span(h), nfs_handle_span(&wanted)));
}

static void set_day(struct nfs_dirs *d, uint32_t day, unsigned n)
{
    struct nfs_handle h = handle(n);
    nfs_dirs_set_day(d, day, &h);
}

static void set_leaf(struct nfs_dirs *d, uint32_t day, uint32_t leaf, unsigned n)
{
    struct nfs_handle h = handle(n);
    nfs_dirs_set_leaf(d, day, leaf, &h);
}

static void found(struct nfs_dirs *d, uint32_t day, const char *name, unsigned n)
{
    struct nfs_handle h = handle(n);
    nfs_dirs_found(d, day, name, &h);
}

/* --- where a message is ---------------------------------------------------------------------- */

/* The names together are the path that the other kinds of volume use. */
static void test_place(void **state)
{
    (void)state;
    const struct blob_id id = blob_id_make(DAY * MS_PER_DAY + MS_PER_DAY - 1,
                                           (uint8_t[BLOB_ID_SIZE - 6]){ 0xab, 0xcd, 1, 2 });
    static const char *const leaves[] = { "", "a", "ab", "abc", "abcd" };
    for (unsigned fanout = 0; fanout <= SPOOL_FANOUT_MAX; fanout++) {
        struct nfs_place p;
        char path[SPOOL_PATH_MAX], joined[SPOOL_PATH_MAX];
        nfs_place_of(&id, fanout, &p);
        spool_path(&id, fanout, path);
        snprintf(joined, sizeof joined, "%s/%s%s%s", p.day_name, p.leaf_name, fanout ? "/" : "",
                 p.file_name);
        assert_string_equal(joined, path);
        assert_int_equal(p.day, DAY);
        assert_string_equal(p.leaf_name, leaves[fanout]);
        assert_int_equal(p.leaf, fanout ? 0xabcdu >> (4 * (SPOOL_FANOUT_MAX - fanout)) : 0);
    }
}

/* --- what is known --------------------------------------------------------------------------- */

static void test_known(void **state)
{
    (void)state;
    struct nfs_dirs d;
    nfs_dirs_init(&d, 2);
    assert_null(nfs_dirs_day(&d, DAY));
    assert_null(nfs_dirs_leaf(&d, DAY, 0));
    set_leaf(&d, DAY, 0, 1); /* of a day that is not known: there is no place for it */
    assert_null(nfs_dirs_leaf(&d, DAY, 0));

    set_day(&d, DAY, 1);
    set_leaf(&d, DAY, 0, 2);
    set_leaf(&d, DAY, 255, 3);
    check_handle(nfs_dirs_day(&d, DAY), 1);
    check_handle(nfs_dirs_leaf(&d, DAY, 0), 2);
    check_handle(nfs_dirs_leaf(&d, DAY, 255), 3);
    assert_null(nfs_dirs_leaf(&d, DAY, 1));
    assert_null(nfs_dirs_day(&d, DAY + 1));
    set_leaf(&d, DAY, 255, 4);
    check_handle(nfs_dirs_leaf(&d, DAY, 255), 4);

    set_day(&d, DAY, 5); /* it is another directory: what was in the old one is not there */
    check_handle(nfs_dirs_day(&d, DAY), 5);
    assert_null(nfs_dirs_leaf(&d, DAY, 0));
    assert_null(nfs_dirs_leaf(&d, DAY, 255));

    set_day(&d, DAY + 1, 6);
    nfs_dirs_forget(&d, DAY);
    nfs_dirs_forget(&d, DAY);
    assert_null(nfs_dirs_day(&d, DAY));
    check_handle(nfs_dirs_day(&d, DAY + 1), 6);
    nfs_dirs_clear(&d);
    assert_null(nfs_dirs_day(&d, DAY + 1));
    nfs_dirs_fini(&d);
}

/* Without hash directories messages are in the day's own. */
static void test_no_fanout(void **state)
{
    (void)state;
    struct nfs_dirs d;
    nfs_dirs_init(&d, 0);
    set_day(&d, DAY, 1);
    check_handle(nfs_dirs_leaf(&d, DAY, 0), 1);
    set_leaf(&d, DAY, 0, 2);
    found(&d, DAY, "", 3);
    check_handle(nfs_dirs_leaf(&d, DAY, 0), 1);
    nfs_dirs_fini(&d);
}

static void test_widest_fanout(void **state)
{
    (void)state;
    struct nfs_dirs d;
    nfs_dirs_init(&d, SPOOL_FANOUT_MAX);
    set_day(&d, DAY, 1);
    set_leaf(&d, DAY, 0xffff, 2);
    found(&d, DAY, "fffe", 3);
    check_handle(nfs_dirs_leaf(&d, DAY, 0xffff), 2);
    check_handle(nfs_dirs_leaf(&d, DAY, 0xfffe), 3);
    nfs_dirs_fini(&d);
}

/* What else an operator may have put into a day's directory is no hash directory. */
static void test_found(void **state)
{
    (void)state;
    static const char *const others[] = { ".",  "..", "",   "a",  "abc", "0x", "+a",
                                          "-1", "AB", "g0", "a ", "ab.", ".a", "lost+found" };
    struct nfs_dirs d;
    nfs_dirs_init(&d, 2);
    set_day(&d, DAY, 1);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        found(&d, DAY, others[i], 2);
    }
    for (uint32_t leaf = 0; leaf < 256; leaf++) {
        assert_null(nfs_dirs_leaf(&d, DAY, leaf));
    }
    found(&d, DAY, "00", 3);
    found(&d, DAY, "af", 4);
    found(&d, DAY + 1, "01", 5);
    check_handle(nfs_dirs_leaf(&d, DAY, 0), 3);
    check_handle(nfs_dirs_leaf(&d, DAY, 0xaf), 4);
    assert_null(nfs_dirs_leaf(&d, DAY, 1));
    nfs_dirs_fini(&d);
}

/* --- how much is kept ------------------------------------------------------------------------ */

/* The day that was not asked for longest goes; asking for one of its directories counts. */
static void test_oldest_goes(void **state)
{
    (void)state;
    struct nfs_dirs d;
    nfs_dirs_init(&d, 1);
    for (uint32_t i = 0; i < NFS_DIRS_DAYS; i++) {
        set_day(&d, DAY + i, i);
    }
    nfs_dirs_day(&d, DAY);
    nfs_dirs_leaf(&d, DAY + 1, 7);
    set_day(&d, DAY + 100, 100);
    set_day(&d, DAY + 101, 101);
    static const uint32_t gone[] = { 2, 3 };
    for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
        assert_null(nfs_dirs_day(&d, DAY + gone[i]));
    }
    static const uint32_t kept[] = { 0, 1, 4, 5, NFS_DIRS_DAYS - 1, 100, 101 };
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        check_handle(nfs_dirs_day(&d, DAY + kept[i]), kept[i]);
    }
    nfs_dirs_forget(&d, DAY + 100); /* its place is taken before anything else goes */
    set_day(&d, DAY + 102, 102);
    for (size_t i = 0; i < 5; i++) {
        check_handle(nfs_dirs_day(&d, DAY + kept[i]), kept[i]);
    }
    nfs_dirs_fini(&d);
}

/* --- listing --------------------------------------------------------------------------------- */

static void test_should_list(void **state)
{
    (void)state;
    struct nfs_dirs d;
    nfs_dirs_init(&d, 2);
    assert_false(nfs_dirs_should_list(&d, DAY));
    set_day(&d, DAY, 1);
    set_day(&d, DAY + 1, 2);
    for (int i = 0; i < 4; i++) {
        assert_false(nfs_dirs_should_list(&d, DAY));
        assert_false(nfs_dirs_listed(&d, DAY));
    }
    assert_true(nfs_dirs_should_list(&d, DAY));
    assert_false(nfs_dirs_listed(&d, DAY)); /* it may fail */
    nfs_dirs_set_listed(&d, DAY);
    assert_true(nfs_dirs_listed(&d, DAY));
    assert_false(nfs_dirs_listed(&d, DAY + 1));
    for (int i = 0; i < 10; i++) {
        assert_false(nfs_dirs_should_list(&d, DAY)); /* once */
    }
    set_day(&d, DAY, 3); /* another directory */
    assert_false(nfs_dirs_listed(&d, DAY));
    nfs_dirs_fini(&d);
}

/* 4096 names and more are no two calls. */
static void test_too_many_to_list(void **state)
{
    (void)state;
    struct nfs_dirs d;
    nfs_dirs_init(&d, 3);
    set_day(&d, DAY, 1);
    for (int i = 0; i < 100; i++) {
        assert_false(nfs_dirs_should_list(&d, DAY));
    }
    nfs_dirs_fini(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_place),       cmocka_unit_test(test_known),
        cmocka_unit_test(test_no_fanout),   cmocka_unit_test(test_widest_fanout),
        cmocka_unit_test(test_found),       cmocka_unit_test(test_oldest_goes),
        cmocka_unit_test(test_should_list), cmocka_unit_test(test_too_many_to_list),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
