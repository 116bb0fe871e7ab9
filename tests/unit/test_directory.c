/*
 * directory: an entry survives its cached form, and nothing else passes for one.
 */
#include "store/directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct entry *mailbox(void)
{
    struct entry *e = entry_new(ENTRY_MAILBOX);
    e->mailbox_id = UINT64_MAX - 5;
    e->state = ACCOUNT_REMOVED;
    e->max_octets = 1ULL << 40;
    e->max_messages = 12345;
    e->max_size = 50 << 20;
    e->retention_days = 70000;
    e->read_days = 5;
    strcpy(e->hash, "$y$j9T$abc$defghi");
    strcpy(e->scram, "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy");
    return e;
}

static struct entry *alias(size_t n)
{
    struct entry *e = entry_new(ENTRY_ALIAS);
    for (size_t i = 0; i < n; i++) {
        char addr[64];
        snprintf(addr, sizeof addr, "user%zu@example.org", i);
        assert_int_equal(entry_add_target(e, span_str(addr)), ERR_OK);
    }
    return e;
}

static void assert_same(const struct entry *a, const struct entry *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->full, b->full);
    assert_int_equal(a->state, b->state);
    assert_int_equal(a->mailbox_id, b->mailbox_id);
    assert_int_equal(a->max_octets, b->max_octets);
    assert_int_equal(a->max_messages, b->max_messages);
    assert_int_equal(a->max_size, b->max_size);
    assert_int_equal(a->retention_days, b->retention_days);
    assert_int_equal(a->read_days, b->read_days);
    assert_string_equal(a->hash, b->hash);
    assert_string_equal(a->scram, b->scram);
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        assert_string_equal(a->targets[i], b->targets[i]);
    }
}

static void round_trip(struct entry *e)
{
    struct entry *back = NULL;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(entry_encode(e, &b), ERR_OK);
    assert_int_equal(entry_decode(buf_span(&b), &back), ERR_OK);
    assert_same(e, back);
    entry_free(&e);
    entry_free(&back);
    buf_fini(&b);
}

static void test_round_trip(void **state)
{
    (void)state;
    round_trip(entry_new(ENTRY_NONE));
    round_trip(entry_new(ENTRY_DOMAIN));
    struct entry *full = entry_new(ENTRY_DOMAIN);
    full->full = true;
    round_trip(full);
    round_trip(mailbox());
    round_trip(alias(1));
    round_trip(alias(ENTRY_TARGETS_MAX));
    struct entry *longest = mailbox();
    memset(longest->hash, 'x', PASSWORD_HASH_MAX);
    memset(longest->scram, 'y', ENTRY_SCRAM_MAX);
    round_trip(longest);
}

static void test_limits(void **state)
{
    (void)state;
    char text[ENTRY_TARGET_MAX + 1];
    memset(text, 'a', sizeof text);
    struct entry *e = alias(ENTRY_TARGETS_MAX);
    assert_int_equal(entry_add_target(e, SPAN("one@more")), ERR_LIMIT);
    assert_int_equal(e->n, ENTRY_TARGETS_MAX);
    entry_free(&e);
    e = entry_new(ENTRY_ALIAS);
    assert_int_equal(entry_add_target(e, SPAN("")), ERR_INVALID);
    assert_int_equal(entry_add_target(e, SPAN("a\0b")), ERR_INVALID);
    assert_int_equal(entry_add_target(e, span_of(text, sizeof text)), ERR_INVALID);
    assert_int_equal(entry_add_target(e, span_of(text, sizeof text - 1)), ERR_OK);
    struct buf b;
    buf_init(&b, 300);
    assert_int_equal(entry_encode(e, &b), ERR_LIMIT);
    assert_int_equal(buf_len(&b), 0);
    buf_fini(&b);
    entry_free(&e);
}

/* Whatever the decoder takes, the encoder would have written. */
static void corrupt_or_canonical(struct span in)
{
    struct entry *e = NULL;
    enum err err = entry_decode(in, &e);
    if (err != ERR_OK) {
        assert_int_equal(err, ERR_CORRUPT);
        assert_null(e);
        return;
    }
    struct buf b;
    buf_init(&b, in.n);
    assert_int_equal(entry_encode(e, &b), ERR_OK);
    assert_true(span_eq(buf_span(&b), in));
    buf_fini(&b);
    entry_free(&e);
}

/* Each from memory of its exact size, so that a read past the end is seen by the sanitizer. */
static void damage(struct entry *e)
{
    struct entry *out = NULL;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(entry_encode(e, &b), ERR_OK);
    struct span whole = buf_span(&b);
    for (size_t n = 0; n < whole.n; n++) {
        char *copy = span_dup(span_first(whole, n));
        assert_int_equal(entry_decode(span_of(copy, n), &out), ERR_CORRUPT);
        free(copy);
    }
    for (size_t bit = 0; bit < whole.n * 8; bit++) {
        char *copy = span_dup(whole);
        copy[bit / 8] ^= (char)(1 << bit % 8);
        corrupt_or_canonical(span_of(copy, whole.n));
        free(copy);
    }
    buf_addc(&b, 'x');
    assert_int_equal(entry_decode(buf_span(&b), &out), ERR_CORRUPT);
    assert_null(out);
    buf_fini(&b);
    entry_free(&e);
}

static void test_damaged(void **state)
{
    (void)state;
    damage(mailbox());
    damage(alias(3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_damaged),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
