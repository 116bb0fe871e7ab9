/* maildrop: pointers with and without UIDLs and handles of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <stdio.h>

#include "base/maildrop.h"

static struct pointer pointer(uint64_t seq, uint32_t size)
{
    static const uint8_t random[10];
    return (struct pointer){ .id = blob_id_make(seq, random), .seq = seq, .size = size };
}

static void many_messages(void **state)
{
    (void)state;
    enum { N = 5000 };
    char uidl[UIDL_MAX + 1], want[UIDL_MAX + 1];
    struct maildrop *m = maildrop_new(7, 9);
    for (uint64_t i = 0; i < N; i++) {
        struct pointer p = pointer(i, UINT32_MAX);
        int n = snprintf(uidl, sizeof uidl, "old-%u", (unsigned)i);
        struct span own = i % 3 == 0 ? span_of(uidl, (size_t)n) : SPAN("");
        struct span handle = i % 2 == 0 ? span_of(&i, sizeof i) : SPAN("");
        assert_int_equal(maildrop_add(m, &p, own, handle), ERR_OK);
    }
    assert_int_equal(m->mailbox_id, 7);
    assert_int_equal(m->version, 9);
    assert_int_equal(m->count, N);
    assert_true(m->octets == (uint64_t)N * UINT32_MAX);
    for (uint64_t i = 0; i < N; i++) {
        if (i % 3 == 0) {
            snprintf(want, sizeof want, "old-%u", (unsigned)i);
        } else {
            blob_id_text(&m->msgs[i].id, want);
        }
        assert_int_equal(maildrop_uidl(m, i, uidl), strlen(want));
        assert_string_equal(uidl, want);
        struct span handle = i % 2 == 0 ? span_of(&i, sizeof i) : SPAN("");
        assert_true(span_eq(maildrop_handle(m, i), handle));
        assert_int_equal(m->msgs[i].seq, i);
    }
    maildrop_free(&m);
    assert_null(m);
    maildrop_free(&m);
}

static void longest(void **state)
{
    (void)state;
    char long_uidl[UIDL_MAX + 1], long_handle[HANDLE_MAX + 1], out[UIDL_MAX + 1];
    memset(long_uidl, '~', sizeof long_uidl);
    memset(long_handle, 0, sizeof long_handle);
    struct pointer p = pointer(1, 10);
    struct maildrop *m = maildrop_new(1, 1);
    assert_int_equal(maildrop_add(m, &p, span_of(long_uidl, UIDL_MAX + 1), SPAN("")), ERR_CORRUPT);
    assert_int_equal(maildrop_add(m, &p, SPAN(""), span_of(long_handle, HANDLE_MAX + 1)),
                     ERR_CORRUPT);
    assert_int_equal(m->count, 0);
    assert_int_equal(
        maildrop_add(m, &p, span_of(long_uidl, UIDL_MAX), span_of(long_handle, HANDLE_MAX)),
        ERR_OK);
    assert_int_equal(maildrop_uidl(m, 0, out), UIDL_MAX);
    assert_int_equal(strlen(out), UIDL_MAX);
    assert_int_equal(maildrop_handle(m, 0).n, HANDLE_MAX);
    assert_true(m->octets == 10);
    maildrop_free(&m);
}

/* A UIDL is sent as it is: one with a line end in it could forge a reply. */
static void unprintable_uidl(void **state)
{
    (void)state;
    struct pointer p = pointer(1, 10);
    struct maildrop *m = maildrop_new(1, 1);
    assert_int_equal(maildrop_add(m, &p, SPAN("a\r\n2 b"), SPAN("")), ERR_CORRUPT);
    assert_int_equal(maildrop_add(m, &p, SPAN("a b"), SPAN("")), ERR_CORRUPT);
    assert_int_equal(maildrop_add(m, &p, SPAN("a\x7f"), SPAN("")), ERR_CORRUPT);
    assert_int_equal(maildrop_add(m, &p, SPAN("\xc3\xa4"), SPAN("")), ERR_CORRUPT);
    assert_int_equal(m->count, 0);
    maildrop_free(&m);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_messages),
        cmocka_unit_test(longest),
        cmocka_unit_test(unprintable_uidl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
