/* maildrop: pointers with and without UIDLs and handles of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <endian.h>
#include <stdio.h>

#include "base/maildrop.h"
#include "heap.h"

static struct pointer pointer(uint64_t seq, uint32_t size)
{
    static const uint8_t random[10];
    return (struct pointer){ .id = blob_id_make(seq, random), .seq = seq, .size = size };
}

/* Gaps of all kinds; and with each of these figures some records are wide. */
static uint64_t place_of(uint64_t i)
{
    return (i + 1) * 7 + i % 3 + (i > 100 ? UINT32_MAX / 2 : 0) + i / 50 * 1000;
}

static uint32_t skip_of(uint64_t i)
{
    return (uint32_t)(i % 19 == 0 ? UINT32_MAX - i : i);
}

static uint16_t volume_of(uint64_t i)
{
    return (uint16_t)(i % 23 == 0 ? UINT16_MAX - i : i % 7);
}

enum { N = 5000 };

static struct maildrop *build_many(void)
{
    char uidl[UIDL_MAX + 1];
    struct maildrop *m = maildrop_new(7, 9);
    for (uint64_t i = 0; i < N; i++) {
        struct pointer p = pointer(place_of(i), UINT32_MAX);
        p.skip = skip_of(i);
        p.volume = volume_of(i);
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
        assert_int_equal(p.skip, skip_of(i));
        assert_int_equal(p.volume, volume_of(i));
        assert_int_equal(maildrop_size(m, i), UINT32_MAX);
        assert_int_equal(maildrop_imported(m, i), i % 3 == 0);
    }
}

/* Made of the octets of another, at an odd place. */
static struct maildrop *copy_of(const struct maildrop *m)
{
    struct maildrop *copy = NULL;
    struct buf b;
    buf_init(&b, 3 + maildrop_records(m).n + maildrop_extra(m).n);
    assert_non_null(buf_reserve(&b, b.limit));
    buf_add(&b, SPAN("<->"));
    buf_add(&b, maildrop_records(m));
    buf_add(&b, maildrop_extra(m));
    assert_int_equal(maildrop_load(m->mailbox_id, m->version, &b, 3, m->count, &copy), ERR_OK);
    assert_null(b.mem);
    return copy;
}

/* Each of the ways to it gives the same. */
static void many_messages(void **state)
{
    (void)state;
    struct maildrop *m = build_many(), *copy;
    check_many(m);
    maildrop_built(m);
    check_many(m);
    copy = copy_of(m);
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
    struct maildrop *m = maildrop_new(1, 1), *copy;
    maildrop_built(m);
    copy = copy_of(m);
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
        size_t most = MANY * (27 + handle_n) + 8192, before = heap_used();
        struct maildrop *m = maildrop_new(1, 1), *copy;
        for (uint64_t i = 0; i < MANY; i++) {
            struct pointer p = pointer(i + 1, 1000);
            assert_int_equal(maildrop_add(m, &p, SPAN(""), span_of(handle, handle_n)), ERR_OK);
        }
        maildrop_built(m);
        size_t built = heap_used();
        assert_in_range(built - before, 1, most);
        copy = copy_of(m);
        assert_in_range(heap_used() - built, 1, most);
        maildrop_free(&copy);
        maildrop_free(&m);
    }
}

enum { KEPT = 40 };

/* So many records, one of which is another, and their extra octets: UIDLs of one letter. */
static enum err load_with(size_t at, const struct maildrop_record *one,
                          const struct maildrop_wide *wide, char letter)
{
    struct maildrop *m = NULL;
    struct buf b;
    buf_init(&b, 1 << 16);
    for (size_t i = 0; i < KEPT; i++) {
        struct maildrop_record r = { .distance = 1, .uidl_n = i % 2 ? 3 : 0 };
        buf_add(&b, span_of(i == at ? one : &r, sizeof r));
    }
    for (size_t i = 0; i < KEPT; i++) {
        if (i == at && one->distance == 0) {
            buf_add(&b, span_of(wide, sizeof *wide));
        }
        for (unsigned n = i == at ? one->uidl_n + one->handle_n : i % 2 ? 3 : 0; n > 0; n--) {
            buf_addc(&b, i == at ? letter : 'u');
        }
    }
    size_t n = buf_len(&b);
    enum err e = maildrop_load(1, 1, &b, 0, KEPT, &m);
    assert_int_equal(buf_len(&b), e == ERR_OK ? 0 : n);
    assert_int_equal(m != NULL, e == ERR_OK);
    maildrop_free(&m);
    buf_fini(&b);
    return e;
}

/*
 * What nobody of ours wrote is refused wherever it stands among the others, and the octets are left
 * to who has them.
 */
static void nothing_else_is_loaded(void **state)
{
    static const struct {
        enum err want;
        struct maildrop_record record;
        struct maildrop_wide wide;
        char letter;
    } rows[] = {
        { ERR_OK,
          { .distance = 255, .uidl_n = UIDL_MAX, .handle_n = HANDLE_MAX },
          { .skip = 0 },
          '~' },
        { ERR_CORRUPT, { .distance = 1, .uidl_n = 2 }, { .skip = 0 }, '\n' },
        { ERR_CORRUPT, { .distance = 1, .uidl_n = UIDL_MAX + 1 }, { .skip = 0 }, 'u' },
        { ERR_CORRUPT, { .distance = 1, .handle_n = HANDLE_MAX + 1 }, { .skip = 0 }, 'h' },
        { ERR_OK, { .uidl_n = 5, .handle_n = 5 }, { .distance = 1 << 8 }, 'u' },
        { ERR_OK, { .uidl_n = 0 }, { .distance = 1, .skip = 1 << 16 }, 'u' },
        { ERR_OK, { .uidl_n = 0 }, { .distance = 1, .volume = 1 << 8 }, 'u' },
        /* It never stands still, has one form, and no figure in two places. */
        { ERR_CORRUPT, { .uidl_n = 0 }, { .distance = 0, .skip = 1 << 16 }, 'u' },
        { ERR_CORRUPT, { .uidl_n = 0 }, { .distance = 255, .skip = 65535, .volume = 255 }, 'u' },
        { ERR_CORRUPT, { .skip = 1 }, { .distance = 1 << 8 }, 'u' },
        { ERR_CORRUPT, { .volume = 1 }, { .distance = 1 << 8 }, 'u' },
        { ERR_CORRUPT, { .uidl_n = 2 }, { .distance = 1 << 8 }, ' ' },
    };
    (void)state;
    for (size_t at = 0; at < KEPT; at++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct maildrop_wide wide = { .distance = htole32(rows[i].wide.distance),
                                          .skip = htole32(rows[i].wide.skip),
                                          .volume = htole16(rows[i].wide.volume) };
            assert_int_equal(load_with(at, &rows[i].record, &wide, rows[i].letter), rows[i].want);
        }
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
        cmocka_unit_test(many_messages),
        cmocka_unit_test(empty),
        cmocka_unit_test(places_ascend),
        cmocka_unit_test(costs_little_a_message),
        cmocka_unit_test(longest),
        cmocka_unit_test(unprintable_uidl),
        cmocka_unit_test(nothing_else_is_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
