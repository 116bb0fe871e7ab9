/* Tests of envelope: the block as it is written, what is refused when it is read, and paths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "store/envelope.h"

#define TIME_MS   1795298523123ull
#define HASH      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define DASHES_20 "--------------------"
#define DASHES_64 DASHES_20 DASHES_20 DASHES_20 "----"

static const uint8_t random_bits[10] = { 0xa5, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8 };

static struct envelope_recipient two[] = {
    { 1, { "alice@example.org", 17 } },
    { UINT64_MAX, { "\"b c\"@\xc3\xa4.example", 16 } },
};

static struct envelope ordinary(void)
{
    return (struct envelope){ .id = blob_id_make(TIME_MS, random_bits),
                              .reverse_path = SPAN("sender@example.net"),
                              .to = two,
                              .n = 2 };
}

/* The block of ordinary(), with this end. */
static char *block_text(const char *size, const char *hash)
{
    struct blob_id id = ordinary().id;
    char text[BLOB_ID_CHARS + 1];
    static char out[1024];
    blob_id_text(&id, text);
    snprintf(out, sizeof out,
             "mailfleet 1\nid: %s\ntime: 2026-11-21T22:02:03.123Z\nfrom: sender@example.net\n"
             "to: 1 alice@example.org\nto: 18446744073709551615 \"b c\"@\xc3\xa4.example\n"
             "size: %s\nsha256: %s\n\n",
             text, size, hash);
    return out;
}

static void expect_block(const struct envelope *e, const char *text)
{
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(envelope_write(e, &b), ERR_OK);
    assert_int_equal(buf_len(&b), strlen(text));
    assert_memory_equal(buf_span(&b).p, text, strlen(text));
    buf_fini(&b);
}

static void test_write(void **state)
{
    (void)state;
    struct envelope e = ordinary();
    expect_block(&e, block_text(DASHES_20, DASHES_64));
    e.complete = true;
    e.size = 1234567;
    memcpy(e.sha256, HASH, sizeof HASH);
    expect_block(&e, block_text("00000000000001234567", HASH));
}

static void test_uidl(void **state)
{
    (void)state;
    struct envelope e = ordinary(), back;
    struct envelope_recipient *to;
    struct buf b;
    size_t skip;
    e.uidl = SPAN("0000abcd4f5e6d7c");
    buf_init(&b, 4096);
    assert_int_equal(envelope_write(&e, &b), ERR_OK);
    assert_int_equal(envelope_parse(buf_span(&b), &back, &to, &skip), ERR_OK);
    assert_true(span_eq(back.uidl, e.uidl));
    assert_int_equal(skip, buf_len(&b));
    free(to);
    e.uidl = SPAN("two words");
    assert_int_equal(envelope_write(&e, &b), ERR_INVALID);
    buf_fini(&b);
}

/* The tail of a complete block is the end of the same block, and as long as the dashes. */
static void test_tail(void **state)
{
    (void)state;
    char tail[ENVELOPE_TAIL + 1];
    envelope_tail(UINT64_MAX, HASH, tail);
    assert_string_equal(tail, "size: 18446744073709551615\nsha256: " HASH "\n\n");
    assert_int_equal(strlen("size: " DASHES_20 "\nsha256: " DASHES_64 "\n\n"), ENVELOPE_TAIL);
}

static void test_write_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = { "a\nb", "a\rb", "a\tb", "\x7f", "\x01" };
    struct buf b;
    buf_init(&b, 4096);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct envelope e = ordinary();
        e.reverse_path = span_str(bad[i]);
        assert_int_equal(envelope_write(&e, &b), ERR_INVALID);
        struct envelope_recipient to = { 1, span_str(bad[i]) };
        e = ordinary();
        e.to = &to;
        e.n = 1;
        assert_int_equal(envelope_write(&e, &b), ERR_INVALID);
        assert_int_equal(buf_len(&b), 0);
    }
    struct envelope e = ordinary();
    e.reverse_path = span_of("a\0b", 3);
    assert_int_equal(envelope_write(&e, &b), ERR_INVALID);
    buf_fini(&b);

    size_t full = strlen(block_text(DASHES_20, DASHES_64));
    e = ordinary();
    for (size_t limit = 0; limit < full; limit++) {
        buf_init(&b, limit);
        assert_int_equal(envelope_write(&e, &b), ERR_LIMIT);
        buf_fini(&b);
    }
}

static void check_parsed(const struct envelope *e)
{
    assert_true(span_eq(e->reverse_path, SPAN("sender@example.net")));
    assert_int_equal(e->n, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_true(e->to[i].mailbox_id == two[i].mailbox_id);
        assert_true(span_eq(e->to[i].address, two[i].address));
    }
    assert_int_equal(blob_id_time(&e->id), TIME_MS);
}

static void test_parse(void **state)
{
    (void)state;
    char in[2048];
    struct envelope e;
    struct envelope_recipient *to;
    size_t skip;
    const char *block = block_text("00000000000000000007", HASH);
    snprintf(in, sizeof in, "%sSubject: x\r\n\r\nsize: 1\n\n", block);
    assert_int_equal(envelope_parse(span_str(in), &e, &to, &skip), ERR_OK);
    assert_int_equal(skip, strlen(block));
    check_parsed(&e);
    assert_true(e.complete);
    assert_int_equal(e.size, 7);
    assert_string_equal(e.sha256, HASH);
    free(to);

    snprintf(in, sizeof in, "%s", block_text(DASHES_20, DASHES_64));
    assert_int_equal(envelope_parse(span_str(in), &e, &to, &skip), ERR_OK);
    check_parsed(&e);
    assert_false(e.complete);
    free(to);
}

static enum err parse(const char *p, size_t n)
{
    struct envelope e;
    struct envelope_recipient *to = NULL;
    size_t skip = 0;
    enum err r = envelope_parse(span_of(p, n), &e, &to, &skip);
    assert_true(r == ERR_OK ? skip > 0 : skip == 0 && to == NULL);
    free(to);
    return r;
}

static void test_parse_refuses_the_cut(void **state)
{
    (void)state;
    const char *block = block_text("00000000000000000007", HASH);
    size_t n = strlen(block);
    assert_int_equal(parse(block, n), ERR_OK);
    for (size_t i = 0; i < n; i++) {
        char *cut = span_dup(span_of(block, i)); /* so that reading past it is seen */
        assert_int_equal(parse(cut, i), ERR_CORRUPT);
        free(cut);
    }
}

/* One thing changed in a block that is right. */
static void test_parse_refuses_the_wrong(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        { "mailfleet 1", "mailfleet 2" },
        { "mailfleet 1\n", "mailfleet 1\r\n" },
        { "id: 0", "id: 8" },
        { "id: 0", "Id: 0" },
        { "22:02:03.123Z", "22:02:03.124Z" },
        { "22:02:03.123Z", "22:02:03.123z" },
        { "sender", "send\rr" },
        { "to: 1 ", "to: 01 " },
        { "to: 1 ", "to: -1 " },
        { "to: 1 ", "to:  " },
        { "to: 1 alice@example.org", "to: 1" },
        { "18446744073709551615", "18446744073709551616" },
        { "alice", "ali\te" },
        { "size: 00000000000000000007", "size: 7" },
        { "size: 00000000000000000007", "size: 0000000000000000000x" },
        { "size: 00000000000000000007", "size: 99999999999999999999" },
        { "size: 00000000000000000007", "size: " DASHES_20 },
        { "sha256: e", "sha256: E" },
        { "sha256: e", "sha256: g" },
        { HASH, DASHES_64 },
        { "\n\n", "\nx: y\n\n" },
        { "from: sender@example.net\n", "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        const char *block = block_text("00000000000000000007", HASH);
        const char *at = strstr(block, changes[i][0]);
        char text[2048];
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - block), block, changes[i][1],
                 at + strlen(changes[i][0]));
        if (parse(text, strlen(text)) != ERR_CORRUPT) {
            fail_msg("accepted: %s -> %s", changes[i][0], changes[i][1]);
        }
    }
}

static void test_is(void **state)
{
    (void)state;
    struct blob_id id = ordinary().id, other = id;
    other.b[15] ^= 1;
    const char *block = block_text(DASHES_20, DASHES_64);
    assert_true(envelope_is(span_str(block), &id));
    assert_false(envelope_is(span_str(block), &other));
    assert_false(envelope_is(span_of(block, 20), &id));
    assert_false(envelope_is(SPAN(""), &id));
}

static void expect_path(uint64_t ms, unsigned fanout, const char *dir)
{
    struct blob_id id = blob_id_make(ms, random_bits);
    char path[SPOOL_PATH_MAX], text[BLOB_ID_CHARS + 1], want[SPOOL_PATH_MAX];
    blob_id_text(&id, text);
    snprintf(want, sizeof want, "%s/%s", dir, text);
    assert_int_equal(spool_path(&id, fanout, path), strlen(dir));
    assert_string_equal(path, want);
}

static void test_path(void **state)
{
    (void)state;
    const uint64_t day = 24ull * 60 * 60 * 1000;
    expect_path(TIME_MS, 0, "20261121");
    expect_path(TIME_MS, 1, "20261121/a");
    expect_path(TIME_MS, 2, "20261121/a5");
    expect_path(TIME_MS, 3, "20261121/a50");
    expect_path(TIME_MS, 4, "20261121/a50f");
    expect_path(0, 0, "19700101");
    expect_path(day - 1, 0, "19700101");
    expect_path(day, 0, "19700102");
    expect_path(951782400000, 0, "20000229");
    expect_path(951782400000 + day, 0, "20000301");
    expect_path(4107456000000, 0, "21000228");
    expect_path(4107456000000 + day, 0, "21000301");
    expect_path(1735689600000 - 1, 0, "20241231");
    expect_path((1ull << 48) - 1, 4, "108890802/a50f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_uidl),
        cmocka_unit_test(test_tail),
        cmocka_unit_test(test_write_refuses),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_refuses_the_cut),
        cmocka_unit_test(test_parse_refuses_the_wrong),
        cmocka_unit_test(test_is),
        cmocka_unit_test(test_path),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
