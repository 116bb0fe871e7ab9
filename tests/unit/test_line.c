/*
 * test_line: every input whole, byte by byte and split in two at every place, against the lines
 * that it must give.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "proto/line.h"

#define MOST_LINES 8

struct expected {
    enum line_result result;
    struct span text;
};

struct example {
    struct span input;
    size_t n;
    struct expected lines[MOST_LINES];
};

#define READY(lit)                                                                                 \
    {                                                                                              \
        LINE_READY,                                                                                \
        {                                                                                          \
            lit, sizeof(lit) - 1                                                                   \
        }                                                                                          \
    }
#define TOO_LONG                                                                                   \
    {                                                                                              \
        LINE_TOO_LONG,                                                                             \
        {                                                                                          \
            NULL, 0                                                                                \
        }                                                                                          \
    }
#define INPUT(lit)                                                                                 \
    {                                                                                              \
        lit, sizeof(lit) - 1                                                                       \
    }

static const struct example examples[] = {
    { INPUT(""), 0, { { 0 } } },
    { INPUT("NOOP"), 0, { { 0 } } },
    { INPUT("NOOP\r"), 0, { { 0 } } },
    { INPUT("NOOP\r\n"), 1, { READY("NOOP") } },
    { INPUT("NOOP\n"), 1, { READY("NOOP") } },
    { INPUT("\r\n"), 1, { READY("") } },
    { INPUT("\n"), 1, { READY("") } },
    { INPUT("\n\r\n\n"), 3, { READY(""), READY(""), READY("") } },
    { INPUT("a\r\r\n"), 1, { READY("a\r") } },
    { INPUT("a\rb\r\n"), 1, { READY("a\rb") } },
    { INPUT("a\0b\r\n\0\n"), 2, { READY("a\0b"), READY("\0") } },
    { INPUT("USER a\r\nPASS b\nQUIT\r\nrest"),
      3,
      { READY("USER a"), READY("PASS b"), READY("QUIT") } },
    { INPUT("\xff\x80\r\n"), 1, { READY("\xff\x80") } },
};

struct feed {
    struct line line;
    const struct example *e;
    size_t seen;
};

static void feed(struct feed *f, struct span in)
{
    struct span out;
    enum line_result r;
    while ((r = line_next(&f->line, LINE_MAX_OCTETS, &in, &out)) != LINE_MORE) {
        assert_true(f->seen < f->e->n);
        const struct expected *x = &f->e->lines[f->seen++];
        assert_int_equal(r, x->result);
        if (r == LINE_READY) {
            assert_int_equal(out.n, x->text.n);
            assert_memory_equal(out.p, x->text.p, out.n);
            line_done(&f->line);
            assert_null(f->line.mem);
        }
    }
    assert_int_equal(in.n, 0);
}

/* Pieces lie in memory of their own size, so that a read past one is seen. */
static void feed_copy(struct feed *f, const char *p, size_t n)
{
    char *copy = mem_new(n > 0 ? n : 1, 1);
    memcpy(copy, p, n);
    feed(f, span_of(copy, n));
    free(copy);
}

/* In pieces of step octets, the first of them cut to `first`. */
static void run(const struct example *e, size_t first, size_t step)
{
    struct feed f = { .e = e };
    line_init(&f.line);
    size_t n = first < e->input.n ? first : e->input.n;
    feed_copy(&f, e->input.p, n);
    for (size_t at = n; at < e->input.n; at += n) {
        n = step < e->input.n - at ? step : e->input.n - at;
        feed_copy(&f, e->input.p + at, n);
    }
    assert_int_equal(f.seen, e->n);
    line_fini(&f.line);
}

static void run_every_way(const struct example *e)
{
    run(e, e->input.n, e->input.n);
    run(e, 1, 1);
    for (size_t cut = 0; cut <= e->input.n; cut++) {
        run(e, cut, e->input.n);
    }
}

static void gives_the_lines_in_any_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
        run_every_way(&examples[i]);
    }
}

/* A line of n octets before its end, then NOOP. */
static void check_length(size_t n, struct span end, bool fits)
{
    char *text = NEW_ARRAY(char, n + end.n + 6);
    memset(text, 'x', n);
    memcpy(text + n, end.p, end.n);
    memcpy(text + n + end.n, "NOOP\r\n", 6);
    struct example e = { { text, n + end.n + 6 }, 2, { TOO_LONG, READY("NOOP") } };
    if (fits) {
        e.lines[0] = (struct expected){ LINE_READY, { text, n } };
    }
    run(&e, e.input.n, e.input.n);
    run(&e, 1, 1);
    run(&e, 4095, 1);
    run(&e, 4096, 1);
    run(&e, 4097, 1);
    run(&e, 10, 1000);
    free(text);
}

static void bounds_a_line(void **state)
{
    (void)state;
    check_length(LINE_MAX_OCTETS, SPAN("\n"), true);
    check_length(LINE_MAX_OCTETS + 1, SPAN("\n"), false);
    check_length(LINE_MAX_OCTETS - 1, SPAN("\r\n"), true);
    check_length(LINE_MAX_OCTETS, SPAN("\r\n"), false);
    check_length(3 * LINE_MAX_OCTETS + 17, SPAN("\r\n"), false);
}

static void nothing_in_an_overlong_line_is_a_command(void **state)
{
    (void)state;
    char text[LINE_MAX_OCTETS + 100];
    memset(text, 'x', sizeof text);
    memcpy(text + LINE_MAX_OCTETS + 10, "\rQUIT\r", 6);
    memcpy(text + sizeof text - 8, "\r\nSTAT\r\n", 8);
    struct example e = { { text, sizeof text }, 2, { TOO_LONG, READY("STAT") } };
    run_every_way(&e);
}

static void a_whole_line_is_not_copied(void **state)
{
    (void)state;
    struct line l;
    line_init(&l);
    struct span in = SPAN("NOOP\r\n"), out;
    const char *p = in.p;
    assert_int_equal(line_next(&l, LINE_MAX_OCTETS, &in, &out), LINE_READY);
    assert_ptr_equal(out.p, p);
}

static void starts_afresh_after_fini(void **state)
{
    (void)state;
    struct line l;
    struct span out;
    line_init(&l);
    struct span in = SPAN("MAIL FROM");
    assert_int_equal(line_next(&l, LINE_MAX_OCTETS, &in, &out), LINE_MORE);
    line_fini(&l);
    assert_null(l.mem);
    in = SPAN("QUIT\r\n");
    assert_int_equal(line_next(&l, LINE_MAX_OCTETS, &in, &out), LINE_READY);
    assert_true(span_eq(out, SPAN("QUIT")));
}

/* What arrives octet by octet costs memory as it grows, up to the limit and no further. */
static void grows_up_to_the_limit(void **state)
{
    (void)state;
    static const size_t limits[] = { 1, 100, 256, 257, 300, 12288 };
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        struct line l;
        struct span out;
        line_init(&l);
        for (size_t n = 1; n <= limits[i]; n++) {
            struct span in = SPAN("x");
            assert_int_equal(line_next(&l, limits[i], &in, &out), LINE_MORE);
            assert_true(l.size >= n && l.size <= limits[i]);
            assert_true(l.size <= 256 || l.size < 2 * n);
        }
        struct span in = SPAN("\n");
        assert_int_equal(line_next(&l, limits[i], &in, &out), LINE_READY);
        assert_int_equal(out.n, limits[i]);
        line_done(&l);
        assert_null(l.mem);
    }
}

/* An overlong line keeps nothing of itself, and the next may have another limit. */
static void frees_what_is_too_long(void **state)
{
    (void)state;
    struct line l;
    struct span out;
    line_init(&l);
    struct span in = SPAN("12345678");
    assert_int_equal(line_next(&l, 10, &in, &out), LINE_MORE);
    in = SPAN("9ab");
    assert_int_equal(line_next(&l, 10, &in, &out), LINE_MORE);
    assert_null(l.mem);
    in = SPAN("\n0123456789abc\n");
    assert_int_equal(line_next(&l, 10, &in, &out), LINE_TOO_LONG);
    assert_int_equal(line_next(&l, 13, &in, &out), LINE_READY);
    assert_int_equal(out.n, 13);
    line_fini(&l);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_lines_in_any_split),
        cmocka_unit_test(bounds_a_line),
        cmocka_unit_test(nothing_in_an_overlong_line_is_a_command),
        cmocka_unit_test(a_whole_line_is_not_copied),
        cmocka_unit_test(starts_afresh_after_fini),
        cmocka_unit_test(grows_up_to_the_limit),
        cmocka_unit_test(frees_what_is_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
