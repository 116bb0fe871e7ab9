/* maildrop: pointers with and without UIDLs and handles of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <stdio.h>

#include "base/maildrop.h"
#include "heap.h"

static struct pointer pointer(uint64_t seq, uint32_t size)
{
    static const uint8_t random[10];
    return (struct pointer){ .id = blob_id_make(seq, random), .seq = seq, .size = size };
}

/* Gaps of all kinds. */
static uint64_t place_of(uint64_t i)
{
    return (i + 1) * 7 + i % 3 + (i > 100 ? UINT32_MAX / 2 : 0);
}

enum { N = 5000 };

static struct maildrop *build_many(void)
{
    char uidl[UIDL_MAX + 1];
    struct maildrop *m = maildrop_new(7, 9);
    for (uint64_t i = 0; i < N; i++) {
        struct pointer p = pointer(place_of(i), UINT32_MAX);
        p.skip = (uint32_t)i;
        p.volume = (uint16_t)(i % 7);
        int n = snprintf(uidl, sizeof uidl, "old-%u", (unsigned)i);
        struct span own = i % 3 == 0 ? span_of(uidl, (size_t)n) : SPAN("");
        struct span handle = i % 2 == 0 ? span_of(&i, sizeof i) : SPAN("");
        assert_int_equal(maildrop_add(m, &p, own, handle), ERR_OK);
    }
    return m;
}

static void check_many(const struct maildrop *m)
{
    char uidl[UIDL_MAX + 1], want[UIDL_MAX + 1];
    assert_int_equal(m->mailbox_id, 7);
    assert_int_equal(m->version, 9);
    assert_int_equal(m->count, N);
    assert_true(m->octets == (uint64_t)N * UINT32_MAX);
    for (uint64_t i = 0; i < N; i++) {
        if (i % 3 == 0) {
            snprintf(want, sizeof want, "old-%u", (unsigned)i);
        } else {
            struct pointer p = maildrop_at(m, i);
            blob_id_text(&p.id, want);
        }
        assert_int_equal(maildrop_uidl(m, i, uidl), strlen(want));
        assert_string_equal(uidl, want);
        struct span handle = i % 2 == 0 ? span_of(&i, sizeof i) : SPAN("");
        assert_true(span_eq(maildrop_handle(m, i), handle));
        const struct pointer p = maildrop_at(m, i);
        assert_int_equal(p.seq, place_of(i));
        assert_int_equal(p.size, UINT32_MAX);
        assert_int_equal(p.skip, i);
        assert_int_equal(p.volume, i % 7);
        assert_int_equal(maildrop_size(m, i), UINT32_MAX);
        assert_int_equal(maildrop_imported(m, i), i % 3 == 0);
    }
}

/* Each of the ways to it gives the same. */
static void many_messages(void **state)
{
    (void)state;
    struct maildrop *m = build_many(), *copy = NULL;
    check_many(m);
    maildrop_built(m);
    check_many(m);
    assert_int_equal(maildrop_load(7, 9, maildrop_records(m), maildrop_extra(m), &copy), ERR_OK);
    check_many(copy);
    maildrop_built(copy);
    check_many(copy);
    maildrop_free(&copy);
    maildrop_free(&m);
    assert_null(m);
    maildrop_free(&m);
}

static void empty(void **state)
{
    (void)state;
    struct maildrop *m = maildrop_new(1, 1), *copy = NULL;
    maildrop_built(m);
    assert_int_equal(maildrop_load(1, 1, maildrop_records(m), maildrop_extra(m), &copy), ERR_OK);
    assert_int_equal(copy->count, 0);
    assert_int_equal(copy->octets, 0);
    maildrop_free(&copy);
    maildrop_free(&m);
}

/* It is what an idle session holds. */
static void costs_little_a_message(void **state)
{
    (void)state;
    enum { MANY = 20584, HANDLE = 32 };
    static const char handle[HANDLE];
    for (size_t handle_n = 0; handle_n <= HANDLE; handle_n += HANDLE) {
        size_t most = MANY * (33 + handle_n) + 8192, before = heap_used();
        struct maildrop *m = maildrop_new(1, 1), *copy = NULL;
        for (uint64_t i = 0; i < MANY; i++) {
            struct pointer p = pointer(i + 1, 1000);
            assert_int_equal(maildrop_add(m, &p, SPAN(""), span_of(handle, handle_n)), ERR_OK);
        }
        maildrop_built(m);
        size_t built = heap_used();
        assert_in_range(built - before, 1, most);
        maildrop_load(1, 1, maildrop_records(m), maildrop_extra(m), &copy);
        assert_in_range(heap_used() - built, 1, most);
        maildrop_free(&copy);
        maildrop_free(&m);
    }
}

/* The database gives them in order; what is not can't be told from a bug, and is no mailbox. */
static void places_ascend(void **state)
{
    (void)state;
    struct maildrop *m = maildrop_new(1, 1);
    struct pointer p = pointer(0, 10);
    assert_int_equal(maildrop_add(m, &p, SPAN(""), SPAN("")), ERR_CORRUPT);
    p.seq = UINT32_MAX;
    assert_int_equal(maildrop_add(m, &p, SPAN(""), SPAN("")), ERR_OK);
    assert_int_equal(maildrop_add(m, &p, SPAN(""), SPAN("")), ERR_CORRUPT);
    p.seq += 1ULL << 32;
    assert_int_equal(maildrop_add(m, &p, SPAN(""), SPAN("")), ERR_LIMIT);
    p.seq--;
    assert_int_equal(maildrop_add(m, &p, SPAN(""), SPAN("")), ERR_OK);
    assert_int_equal(m->count, 2);
    assert_true(maildrop_at(m, 1).seq == 2ULL * UINT32_MAX);
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
        cmocka_unit_test(many_messages), cmocka_unit_test(empty),
        cmocka_unit_test(places_ascend), cmocka_unit_test(costs_little_a_message),
        cmocka_unit_test(longest),       cmocka_unit_test(unprintable_uidl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
