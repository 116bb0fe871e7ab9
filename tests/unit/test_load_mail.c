/*
 * test_load_mail: an SMTP or LMTP session of a load generator takes what a good server says, and
 * takes nothing else for good.
 */
#include "load_fixture.h"
#include "mail_client.h"

#define SIZE   1300
#define SERIAL 77

#define GREETING                                                                                   \
    {                                                                                              \
        "", "220 mx.example ESMTP\r\n"                                                             \
    }
#define EHLO                                                                                       \
    {                                                                                              \
        "EHLO client.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250 SIZE 1\r\n"            \
    }
#define LHLO                                                                                       \
    {                                                                                              \
        "LHLO client.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250 SIZE 1\r\n"            \
    }
#define MAIL                                                                                       \
    {                                                                                              \
        "MAIL FROM:<a@b.example>\r\n", "250 Ok\r\n"                                                \
    }
#define RCPT(n)                                                                                    \
    {                                                                                              \
        "RCPT TO:<u" n "@bench.example>\r\n", "250 Ok\r\n"                                         \
    }
#define DATA                                                                                       \
    {                                                                                              \
        "DATA\r\n", "354 go on\r\n"                                                                \
    }
#define QUIT                                                                                       \
    {                                                                                              \
        "QUIT\r\n", "221 bye\r\n"                                                                  \
    }
#define PLACES 16

static const size_t steps[] = { 1, 7, 100000 };

/* What comes in one piece with a reply can't be that to the next command; in other pieces it can.
 */
static size_t first_step(const char *why)
{
    return strstr(why, "nothing was asked") ? ARRAY_LEN(steps) - 1 : 0;
}

struct fixture {
    struct mail_plan plan;
    struct tickets tickets;
    char *message, *next; /* the first two, on the wire */
};

static void fixture_init(struct fixture *f, bool lmtp, uint64_t messages)
{
    *f = (struct fixture){ .plan = { .lmtp = lmtp,
                                     .first = 1,
                                     .users = 3,
                                     .recipients = 2,
                                     .per_connection = messages,
                                     .size = SIZE,
                                     .serial = SERIAL,
                                     .from = "a@b.example",
                                     .tickets = &f->tickets } };
    f->tickets.limit = messages;
    assert_int_equal(names_parse("u%u@bench.example", &f->plan.names), ERR_OK);
    f->message = wire("", SERIAL, SIZE, ".\r\n");
    f->next = wire("", SERIAL + 1, SIZE, ".\r\n");
}

static void fixture_fini(struct fixture *f)
{
    free(f->message);
    free(f->next);
}

static enum client_verdict run(struct fixture *f, const struct exchange *e, size_t n, size_t step,
                               size_t *done)
{
    struct talk t;
    f->tickets.taken = 0;
    talk_init(&t, &mail_client, &f->plan);
    converse(&t, e, n, step);
    *done = t.done;
    talk_fini(&t);
    return t.last;
}

static void expect_good(struct fixture *f, const struct exchange *e, size_t n, size_t messages)
{
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        size_t done;
        assert_int_equal(run(f, e, n, steps[i], &done), CLIENT_CLOSED);
        assert_int_equal(done, messages);
    }
}

/* With this reply in this place the session is wrong, for this reason, and nothing was brought. */
static void expect_wrong(struct fixture *f, const struct exchange *good, size_t n, size_t place,
                         const char *reply, const char *why)
{
    struct exchange e[PLACES];
    assert_true(n <= PLACES && place < n);
    memcpy(e, good, n * sizeof *e);
    e[place].reply = reply;
    for (size_t i = first_step(why); i < ARRAY_LEN(steps); i++) {
        size_t done;
        enum client_verdict v = run(f, e, place + 1, steps[i], &done);
        if (v != CLIENT_WRONG || !strstr(client_why(), why)) {
            print_error("%s in place %zu, steps of %zu: %s\n", reply, place, steps[i],
                        client_why());
        }
        assert_int_equal(v, CLIENT_WRONG);
        assert_non_null(strstr(client_why(), why));
        assert_int_equal(done, 0);
    }
}

static void test_smtp(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, 1);
    const struct exchange e[] = {
        GREETING, EHLO, MAIL, RCPT("1"), RCPT("2"), DATA, { f.message, "250 taken\r\n" }, QUIT,
    };
    expect_good(&f, e, ARRAY_LEN(e), 1);
    static const struct {
        size_t place;
        const char *reply, *why;
    } cases[] = {
        { 0, "554 no\r\n", "greeting: 554" },
        { 0, "220 mx\n", "CRLF" },
        { 0, "+OK\r\n", "greeting" },
        { 0, "220 mx\r\n220 mx\r\n", "nothing was asked" },
        { 1, "250-mx\r\n251 SIZE\r\n", "hello: 251" },
        { 1, "250mx\r\n", "hello" },
        { 1, "25\r\n", "hello" },
        { 2, "421 busy\r\n", "MAIL: 421" },
        { 3, "550 5.1.1 no such user\r\n", "RCPT: 550" },
        { 4, "452 full\r\n", "RCPT: 452" },
        { 4, "250 Ok\r\n250 Ok\r\n", "nothing was asked" },
        { 5, "250 Ok\r\n", "DATA: 250" },
        { 5, "554 no\r\n", "DATA: 554" },
        { 6, "451 later\r\n", "message: 451" },
        { 6, "250-Ok\r\n451 later\r\n", "message: 451" },
        { 6, "354 go on\r\n", "message: 354" },
        { 6, "250 Ok\r\n250 Ok\r\n", "nothing was asked" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        expect_wrong(&f, e, ARRAY_LEN(e), cases[i].place, cases[i].reply, cases[i].why);
    }
    fixture_fini(&f);
}

static void test_lmtp(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, true, 1);
    const struct exchange e[] = {
        GREETING,
        LHLO,
        MAIL,
        RCPT("1"),
        RCPT("2"),
        DATA,
        { f.message, "250 taken\r\n250-and\r\n250 taken\r\n" },
        QUIT,
    };
    expect_good(&f, e, ARRAY_LEN(e), 1);
    expect_wrong(&f, e, ARRAY_LEN(e), 6, "250 taken\r\n451 later\r\n", "message: 451");
    expect_wrong(&f, e, ARRAY_LEN(e), 6, "552 full\r\n250 taken\r\n", "message: 552");
    expect_wrong(&f, e, ARRAY_LEN(e), 6, "250 a\r\n250 b\r\n250 c\r\n", "nothing was asked");
    /* The second recipient's reply is missing. */
    size_t done;
    struct exchange missing[ARRAY_LEN(e)];
    memcpy(missing, e, sizeof e);
    missing[6].reply = "250 taken\r\n";
    assert_int_equal(run(&f, missing, 7, 1000, &done), CLIENT_MORE);
    assert_int_equal(done, 0);
    fixture_fini(&f);
}

static void test_many(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, true, 2);
    const struct exchange e[] = {
        GREETING,
        LHLO,
        MAIL,
        RCPT("1"),
        RCPT("2"),
        DATA,
        { f.message, "250 a\r\n250 b\r\n" },
        MAIL,
        RCPT("3"),
        RCPT("1"),
        DATA,
        { f.next, "250 a\r\n250 b\r\n" },
        QUIT,
    };
    expect_good(&f, e, ARRAY_LEN(e), 2);
    fixture_fini(&f);
}

static void test_pipeline(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, false, 1);
    f.plan.pipeline = true;
    const struct exchange e[] = {
        GREETING,
        EHLO,
        { "MAIL FROM:<a@b.example>\r\nRCPT TO:<u1@bench.example>\r\nRCPT TO:<u2@bench.example>\r\n"
          "DATA\r\n",
          "250 Ok\r\n250 Ok\r\n250 Ok\r\n354 go on\r\n" },
        { f.message, "250 taken\r\n" },
        QUIT,
    };
    expect_good(&f, e, ARRAY_LEN(e), 1);
    expect_wrong(&f, e, ARRAY_LEN(e), 2, "250 Ok\r\n250 Ok\r\n550 no\r\n354 go on\r\n",
                 "RCPT: 550");
    /* The server can't know yet. */
    static const char early[] = "250 a\r\n250 b\r\n250 c\r\n354 d\r\n250 e\r\n";
    expect_wrong(&f, e, ARRAY_LEN(e), 2, early, "nothing was asked");
    size_t done;
    struct exchange split[ARRAY_LEN(e)];
    memcpy(split, e, sizeof e);
    split[2].reply = early;
    assert_int_equal(run(&f, split, 3, 1, &done), CLIENT_WRONG);
    assert_non_null(strstr(client_why(), "a reply before the message was sent"));
    /* A server that does not offer it is not sent it. */
    const struct exchange plain[] = {
        GREETING,
        { "EHLO client.example\r\n", "250-PIPELINING\r\n250 SIZE\r\n" },
        MAIL,
        RCPT("1"),
        RCPT("2"),
        DATA,
        { f.message, "250 taken\r\n" },
        QUIT,
    };
    expect_good(&f, plain, ARRAY_LEN(plain), 1);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smtp),
        cmocka_unit_test(test_lmtp),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_pipeline),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
