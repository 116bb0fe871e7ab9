/*
 * test_load_message: messages of load generators are as large as they should be, and whoever reads
 * one finds whatever was changed in it.
 */
#include "load_fixture.h"

#define FRONT  "Return-Path: <a@b.example>\r\nReceived: by x;\r\n\tmore of it\r\n"
#define SERIAL 0x00055f3a1b2c3d4eull

/* Judges a text that comes in pieces; *octets is what was counted. */
static enum message_verdict judge(const char *text, size_t n, size_t step, uint64_t *octets)
{
    struct message_check c;
    struct span in = { text, 0 };
    const char *why = NULL;
    enum message_verdict v = MESSAGE_MORE;
    message_check_init(&c);
    for (size_t given = 0; given < n && v == MESSAGE_MORE;) {
        size_t more = n - given < step ? n - given : step;
        given += more;
        in.n += more;
        v = message_check(&c, &in, &why);
    }
    assert_true(v != MESSAGE_WRONG || why);
    assert_true(v != MESSAGE_WHOLE || in.n == 0);
    *octets = c.octets;
    return v;
}

static enum message_verdict judge_text(const char *text)
{
    uint64_t octets;
    return judge(text, strlen(text), 1000, &octets);
}

/* Octets of a dot-stuffed text without its stuffing and end. */
static uint64_t size_of_wire(const char *text)
{
    uint64_t n = 0;
    for (const char *line = text; strcmp(line, ".\r\n") != 0;) {
        const char *end = strstr(line, "\r\n");
        assert_non_null(end);
        assert_null(memchr(line, '\n', (size_t)(end - line)));
        assert_true(line[0] != '.' || line[1] == '.');
        n += (uint64_t)(end + 2 - line) - (line[0] == '.');
        line = end + 2;
    }
    return n;
}

static void test_sizes(void **state)
{
    (void)state;
    for (uint64_t size = MESSAGE_MIN; size < MESSAGE_MIN + 200; size++) {
        char *text = wire("", SERIAL + size, size, ".\r\n");
        assert_int_equal(size_of_wire(text), size);
        free(text);
    }
    char *text = wire("", SERIAL, 300000, ".\r\n"); /* more than once around */
    assert_int_equal(size_of_wire(text), 300000);
    assert_non_null(strstr(text, "\r\n\r\n..\r\n")); /* a line of one dot, stuffed */
    free(text);
}

static void test_whole(void **state)
{
    (void)state;
    static const size_t steps[] = { 1, 2, 3, 77, 4096, 1000000 };
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        uint64_t octets;
        char *text = wire(FRONT, SERIAL, 5000, ".\r\n");
        assert_int_equal(judge(text, strlen(text), steps[i], &octets), MESSAGE_WHOLE);
        assert_int_equal(octets, 5000 + strlen(FRONT));
        free(text);
    }
}

/* Whatever octet is another one, or missing, or there twice. */
static void test_each_octet(void **state)
{
    (void)state;
    uint64_t octets;
    char *text = wire("", SERIAL, 2000, ".\r\n");
    size_t n = strlen(text);
    char *bad = mem_raw(n + 2);
    for (size_t i = 0; i < n; i++) {
        memcpy(bad, text, n + 1);
        bad[i] ^= 1;
        assert_int_not_equal(judge(bad, n, n, &octets), MESSAGE_WHOLE);
        memmove(bad + i, text + i + 1, n - i);
        assert_int_not_equal(judge(bad, n - 1, n, &octets), MESSAGE_WHOLE);
        memcpy(bad, text, i);
        bad[i] = '.';
        memcpy(bad + i + 1, text + i, n - i + 1);
        assert_int_not_equal(judge(bad, n + 1, n, &octets), MESSAGE_WHOLE);
    }
    free(bad);
    free(text);
}

static void test_ends(void **state)
{
    (void)state;
    static const char *const ends[] = { "+OK\r\n", "more\r\n.\r\n", "..\r\n", ".\n", "\r\n.\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        char *text = wire("", SERIAL, 2000, ends[i]);
        assert_int_equal(judge_text(text), MESSAGE_WRONG);
        free(text);
    }
    char *text = wire("", SERIAL, 2000, ".\r"); /* not yet */
    assert_int_equal(judge_text(text), MESSAGE_MORE);
    free(text);
}

static void test_fronts(void **state)
{
    (void)state;
    static const char *const fronts[] = { "\r\n", ".\r\n", "Received: x\n", "..\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(fronts); i++) {
        char *text = wire(fronts[i], SERIAL, 2000, ".\r\n");
        assert_int_equal(judge_text(text), MESSAGE_WRONG);
        free(text);
    }
    assert_int_equal(judge_text("X-Load: 0\r\n\r\n.\r\n"), MESSAGE_WRONG);
    assert_int_equal(judge_text("X-Load: 00055f3a1b2c3d4e 0000000010\r\n\r\n.\r\n"), MESSAGE_WRONG);
    assert_int_equal(judge_text("From: x\r\n\r\nbody\r\n.\r\n"), MESSAGE_WRONG);
}

/* A server that would never come to the message. */
static void test_endless_front(void **state)
{
    (void)state;
    const struct span line = SPAN("Received: again and again\r\n");
    struct buf b;
    uint64_t octets;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 2000; i++) {
        buf_add(&b, line);
    }
    assert_int_equal(judge(buf_span(&b).p, buf_len(&b), 1000, &octets), MESSAGE_WRONG);
    assert_int_equal(judge(buf_span(&b).p, buf_len(&b), line.n, &octets), MESSAGE_WRONG);
    buf_fini(&b);
}

/* The beginning of one and the end of another that is the same in between. */
static void test_mixed(void **state)
{
    (void)state;
    char *one = wire("", SERIAL, 2000, ".\r\n"), *other = wire("", SERIAL + 1, 2000, ".\r\n");
    strcpy(one + 1500, other + 1500);
    assert_int_equal(judge_text(one), MESSAGE_WRONG);
    assert_int_equal(judge_text(other), MESSAGE_WHOLE);
    free(one);
    free(other);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void test_real_sizes(void **state)
{
    (void)state;
    enum { N = 20000 };
    uint64_t *sizes = NEW_ARRAY(uint64_t, N), sum = 0;
    for (size_t i = 0; i < N; i++) {
        sizes[i] = message_real_size(SERIAL + i);
        sum += sizes[i];
        assert_true(sizes[i] >= MESSAGE_MIN && sizes[i] <= 6291456);
        assert_int_equal(sizes[i], message_real_size(SERIAL + i));
    }
    qsort(sizes, N, sizeof *sizes, by_value);
    assert_true(sizes[N / 2] > 7800 && sizes[N / 2] < 8600);
    assert_true(sizes[N / 4] > 3800 && sizes[N / 4] < 4300);
    assert_true(sizes[N / 100 * 99] > 800000 && sizes[N / 100 * 99] < 1300000);
    assert_true(sum / N > 55000 && sum / N < 75000);
    free(sizes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_whole),
        cmocka_unit_test(test_each_octet), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_fronts),     cmocka_unit_test(test_endless_front),
        cmocka_unit_test(test_mixed),      cmocka_unit_test(test_real_sizes),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
