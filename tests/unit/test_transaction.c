/*
 * Who a transaction is for: one copy a mailbox, one verdict a recipient, and the bound.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "transaction.h"

/* A route's answer: mailboxes by number. */
static struct route_mailbox *route(const uint64_t *ids, size_t n)
{
    struct route_mailbox *m = NEW_ARRAY(struct route_mailbox, n);
    for (size_t i = 0; i < n; i++) {
        char address[32];
        snprintf(address, sizeof address, "u%u@example.org", (unsigned)ids[i]);
        m[i] = (struct route_mailbox){ .mailbox_id = ids[i], .address = mem_strdup(address) };
    }
    return m;
}

static enum err add(struct transaction *t, const char *rcpt, const uint64_t *ids, size_t n,
                    size_t max)
{
    struct address a = { 0 };
    snprintf(a.text, sizeof a.text, "%s", rcpt);
    struct route_mailbox *m = route(ids, n);
    enum err e = transaction_add(t, &a, &m, n, max);
    assert_true((m == NULL) == (e == ERR_OK));
    route_free(&m, n);
    return e;
}

static void test_one_copy(void **state)
{
    (void)state;
    struct transaction t = { 0 };
    assert_int_equal(add(&t, "list@example.org", (uint64_t[]){ 7, 3 }, 2, 10), ERR_OK);
    assert_string_equal(t.only, "list@example.org");
    assert_int_equal(add(&t, "u3@example.org", (uint64_t[]){ 3 }, 1, 10), ERR_OK);
    assert_null(t.only); /* blind copies stay blind */
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_rcpts, 2);
    assert_int_equal(t.mailboxes[0].mailbox_id, 7);
    assert_int_equal(t.mailboxes[1].mailbox_id, 3);
    assert_true(span_eq(t.mailboxes[1].address, SPAN("u3@example.org")));
    transaction_reset(&t);
    assert_int_equal(t.n, 0);
    assert_int_equal(add(&t, "u3@example.org", (uint64_t[]){ 3 }, 1, 10), ERR_OK);
    assert_string_equal(t.only, "u3@example.org");
    transaction_reset(&t);
}

static void test_bound(void **state)
{
    (void)state;
    struct transaction t = { 0 };
    assert_int_equal(add(&t, "a", (uint64_t[]){ 1, 2 }, 2, 3), ERR_OK);
    assert_int_equal(add(&t, "b", (uint64_t[]){ 3, 4 }, 2, 3), ERR_LIMIT);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_rcpts, 1);
    /* One that is there already costs nothing. */
    assert_int_equal(add(&t, "c", (uint64_t[]){ 2, 3 }, 2, 3), ERR_OK);
    assert_int_equal(t.n, 3);
    transaction_reset(&t);
}

static void test_verdicts(void **state)
{
    (void)state;
    struct transaction t = { 0 };
    assert_int_equal(add(&t, "a", (uint64_t[]){ 1 }, 1, 9), ERR_OK);
    assert_int_equal(add(&t, "b", (uint64_t[]){ 1, 2 }, 2, 9), ERR_OK);
    assert_int_equal(add(&t, "c", (uint64_t[]){ 3 }, 1, 9), ERR_OK);
    enum room room[] = { ROOM_OK, ROOM_OVER_QUOTA, ROOM_TOO_LARGE };
    assert_int_equal(transaction_verdict(&t, 0, room), SMTP_OK);
    assert_int_equal(transaction_verdict(&t, 1, room), SMTP_OVER_QUOTA);
    assert_int_equal(transaction_verdict(&t, 2, room), SMTP_TOO_LARGE);
    /* Removed since RCPT: not yet a permanent error. */
    enum room gone[] = { ROOM_GONE, ROOM_OK, ROOM_SUSPENDED };
    assert_int_equal(transaction_verdict(&t, 0, gone), SMTP_FAULT);
    assert_int_equal(transaction_verdict(&t, 2, gone), SMTP_FAULT);
    transaction_reset(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_copy),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_verdicts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
