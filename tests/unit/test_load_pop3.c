/*
 * test_load_pop3: a POP3 session of a load generator takes what a good server says, and takes
 * nothing else for good.
 */
#include "load_fixture.h"
#include "pop3_client.h"

#define GREETING                                                                                   \
    {                                                                                              \
        "", "+OK POP3 ready\r\n"                                                                   \
    }
#define USER                                                                                       \
    {                                                                                              \
        "USER u000007@bench.example\r\n", "+OK\r\n"                                                \
    }
#define PASS                                                                                       \
    {                                                                                              \
        "PASS secret\r\n", "+OK logged in\r\n"                                                     \
    }
#define QUIT                                                                                       \
    {                                                                                              \
        "QUIT\r\n", "+OK bye\r\n"                                                                  \
    }
#define SIZE   1500
#define PLACES 16

static const size_t steps[] = { 1, 7, 100000 };

/* What comes in one piece with a reply can't be that to the next command; in other pieces it can.
 */
static size_t first_step(const char *why)
{
    return strstr(why, "nothing was asked") ? ARRAY_LEN(steps) - 1 : 0;
}

/* A plan for one session of user 7. */
struct fixture {
    struct pop3_plan plan;
    struct users users;
    struct tickets tickets;
};

static void fixture_init(struct fixture *f, enum pop3_work work)
{
    *f = (struct fixture){ .plan = { .work = work, .password = "secret" } };
    f->tickets.limit = 1;
    f->plan.users = &f->users;
    f->plan.tickets = &f->tickets;
    users_init(&f->users, 7, 1);
    assert_int_equal(names_parse("u%06u@bench.example", &f->plan.names), ERR_OK);
}

/* The session's end: CLIENT_CLOSED with an operation, CLIENT_WRONG, or CLIENT_MORE. */
static enum client_verdict run(struct fixture *f, const struct exchange *e, size_t n, size_t step)
{
    struct talk t;
    f->tickets.taken = 0;
    talk_init(&t, &pop3_client, &f->plan);
    converse(&t, e, n, step);
    assert_int_equal(t.done, t.last == CLIENT_CLOSED);
    talk_fini(&t);
    assert_int_equal(f->users.lent, 0);
    return t.last;
}

static void expect_good(struct fixture *f, const struct exchange *e, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        assert_int_equal(run(f, e, n, steps[i]), CLIENT_CLOSED);
    }
}

/* With this reply in this place the session is wrong, and for this reason. */
static void expect_wrong(struct fixture *f, const struct exchange *good, size_t n, size_t place,
                         const char *reply, const char *why)
{
    struct exchange e[PLACES];
    assert_true(n <= PLACES && place < n);
    memcpy(e, good, n * sizeof *e);
    e[place].reply = reply;
    e[n - 1].command = NULL;
    for (size_t i = first_step(why); i < ARRAY_LEN(steps); i++) {
        enum client_verdict v = run(f, e, n, steps[i]);
        if (v != CLIENT_WRONG || !strstr(client_why(), why)) {
            print_error("%s in place %zu, steps of %zu: %s\n", reply, place, steps[i],
                        client_why());
        }
        assert_int_equal(v, CLIENT_WRONG);
        assert_non_null(strstr(client_why(), why));
    }
}

/* --- polls and listings ------------------------------------------------------------------------
 */

static const struct exchange poll[] = {
    GREETING, USER, PASS, { "STAT\r\n", "+OK 2 4000\r\n" }, QUIT
};

static void test_poll(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, POP3_POLL);
    expect_good(&f, poll, ARRAY_LEN(poll));
    f.plan.count_known = true;
    f.plan.messages = 2;
    f.plan.size = 2000;
    expect_good(&f, poll, ARRAY_LEN(poll));
    users_fini(&f.users);
}

static void test_wrong_polls(void **state)
{
    (void)state;
    static const struct {
        size_t place;
        const char *reply, *why;
    } cases[] = {
        { 0, "-ERR too many\r\n", "greeting: -ERR" },
        { 0, "+OK\n", "CRLF" },
        { 0, "+OKAY\r\n", "greeting" },
        { 0, "220 mail.example ESMTP\r\n", "greeting" },
        { 0, "+OK\r\n+OK\r\n", "nothing was asked" },
        { 1, "-ERR\r\n", "USER" },
        { 2, "-ERR [AUTH] wrong\r\n", "PASS: -ERR [AUTH]" },
        { 2, "-ERR [SYS/TEMP] later\r\n", "PASS" },
        { 2, "+OK\r\n-ERR gone\r\n", "nothing was asked" },
        { 3, "+OK 3 6000\r\n", "3 messages, not 2" },
        { 3, "+OK 0 0\r\n", "0 messages" },
        { 3, "+OK 2 3999\r\n", "too few" },
        { 3, "+OK\r\n", "STAT: +OK" },
        { 3, "+OK 2\r\n", "STAT" },
        { 3, "+OK two 4000\r\n", "STAT" },
        { 3, "+OK 99999999999999999999 1\r\n", "STAT" },
        { 4, "-ERR [SYS/TEMP] not deleted\r\n", "QUIT" },
        { 4, "+OK bye\r\nmore\r\n", "nothing was asked" },
    };
    struct fixture f;
    fixture_init(&f, POP3_POLL);
    f.plan.count_known = true;
    f.plan.messages = 2;
    f.plan.size = 2000;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        expect_wrong(&f, poll, ARRAY_LEN(poll), cases[i].place, cases[i].reply, cases[i].why);
    }
    users_fini(&f.users);
}

/* A line that goes on and on is not kept for ever. */
static void test_endless_line(void **state)
{
    (void)state;
    struct fixture f;
    char line[REPLY_MAX + 100];
    memset(line, 'x', sizeof line);
    memcpy(line, "+OK ", 4);
    line[sizeof line - 1] = 0;
    fixture_init(&f, POP3_POLL);
    expect_wrong(&f, poll, ARRAY_LEN(poll), 0, line, "without an end");
    users_fini(&f.users);
}

static const struct exchange uidl[] = {
    GREETING,
    USER,
    PASS,
    { "STAT\r\n", "+OK 2 4000\r\n" },
    { "UIDL\r\n", "+OK\r\n1 one\r\n2 !~\r\n.\r\n" },
    QUIT,
};

static void test_uidl(void **state)
{
    (void)state;
    static const struct {
        const char *reply, *why;
    } cases[] = {
        { "-ERR\r\n", "UIDL" },
        { "+OK\r\n1 one\r\n.\r\n", "UIDL tells 1 messages, STAT 2" },
        { "+OK\r\n1 one\r\n2 two\r\n3 three\r\n.\r\n", "UIDL tells 3" },
        { "+OK\r\n.\r\n", "UIDL tells 0" },
        { "+OK\r\n1 one\r\n3 two\r\n.\r\n", "in place 2" },
        { "+OK\r\n1 one\r\n1 two\r\n.\r\n", "in place 2" },
        { "+OK\r\n0 one\r\n", "in place 1" },
        { "+OK\r\n1 one\r\n2 one\r\n.\r\n", "UIDL: 2 one" },
        { "+OK\r\n1 one\r\n2 \r\n", "UIDL: 2 " },
        { "+OK\r\n1\r\n", "in place 1" },
        { "+OK\r\n1 a b\r\n", "UIDL: 1 a b" },
        { "+OK\r\n1 a\x7f\r\n", "UIDL" },
        { "+OK\r\n1 7777777777777777777777777777777777777777777777777777777777777777777777x\r\n",
          "UIDL" },
        { "+OK\r\n1 one\n2 two\r\n.\r\n", "CRLF" },
        { "+OK\r\n1 one\r\n2 two\r\n+OK bye\r\n", "in place 3" },       /* no terminator */
        { "+OK\r\n1 one\r\n2 two\r\n.\r\n.\r\n", "nothing was asked" }, /* two of them */
    };
    struct fixture f;
    fixture_init(&f, POP3_UIDL);
    expect_good(&f, uidl, ARRAY_LEN(uidl));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        expect_wrong(&f, uidl, ARRAY_LEN(uidl), 4, cases[i].reply, cases[i].why);
    }
    users_fini(&f.users);
}

static const struct exchange list[] = {
    GREETING,
    USER,
    PASS,
    { "STAT\r\n", "+OK 2 4000\r\n" },
    { "LIST\r\n", "+OK\r\n1 1900\r\n2 2100\r\n.\r\n" },
    QUIT,
};

static void test_list(void **state)
{
    (void)state;
    static const struct {
        const char *reply, *why;
    } cases[] = {
        { "+OK\r\n1 1900\r\n2 2101\r\n.\r\n", "LIST tells 4001 octets, STAT 4000" },
        { "+OK\r\n1 4000\r\n.\r\n", "LIST tells 1 messages" },
        { "+OK\r\n1 1900 x\r\n", "LIST: 1 1900 x" },
        { "+OK\r\n1 x\r\n", "LIST: 1 x" },
        { "+OK\r\n1 1000\r\n", "LIST: 1 1000" }, /* less than a message has */
        { "+OK\r\n1 1900\r\n2 2100\r\n", NULL }, /* waits for the terminator */
    };
    struct fixture f;
    fixture_init(&f, POP3_LIST);
    f.plan.size = SIZE;
    expect_good(&f, list, ARRAY_LEN(list));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (cases[i].why) {
            expect_wrong(&f, list, ARRAY_LEN(list), 4, cases[i].reply, cases[i].why);
        }
    }
    struct exchange e[] = { GREETING,
                            USER,
                            PASS,
                            { NULL, "+OK 2 4000\r\n" },
                            { NULL, cases[ARRAY_LEN(cases) - 1].reply } };
    assert_int_equal(run(&f, e, ARRAY_LEN(e), 1000), CLIENT_MORE);
    users_fini(&f.users);
}

/* --- messages ----------------------------------------------------------------------------------
 */

#define FRONT "Received: x\r\n"

/* Two messages of SIZE, each with FRONT: what is read, and what is deleted if it is. */
struct mailbox {
    char *first, *second, stat[64];
    struct exchange e[PLACES];
    size_t n;
};

static void mailbox_init(struct mailbox *b, bool deletes)
{
    b->first = wire("+OK\r\n" FRONT, 1, SIZE, ".\r\n");
    b->second = wire("+OK\r\n" FRONT, 2, SIZE, ".\r\n");
    snprintf(b->stat, sizeof b->stat, "+OK 2 %zu\r\n", 2 * (SIZE + strlen(FRONT)));
    b->n = 0;
    static const struct exchange before[] = { GREETING, USER, PASS };
    for (size_t i = 0; i < ARRAY_LEN(before); i++) {
        b->e[b->n++] = before[i];
    }
    b->e[b->n++] = (struct exchange){ "STAT\r\n", b->stat };
    b->e[b->n++] = (struct exchange){ "RETR 1\r\n", b->first };
    if (deletes) {
        b->e[b->n++] = (struct exchange){ "DELE 1\r\n", "+OK\r\n" };
    }
    b->e[b->n++] = (struct exchange){ "RETR 2\r\n", b->second };
    if (deletes) {
        b->e[b->n++] = (struct exchange){ "DELE 2\r\n", "+OK\r\n" };
    }
    b->e[b->n++] = (struct exchange)QUIT;
}

static void mailbox_fini(struct mailbox *b)
{
    free(b->first);
    free(b->second);
}

static void test_messages(void **state)
{
    (void)state;
    for (int deletes = 0; deletes < 2; deletes++) {
        struct fixture f;
        struct mailbox b;
        fixture_init(&f, deletes ? POP3_DRAIN : POP3_RETR);
        mailbox_init(&b, deletes);
        f.plan.size = SIZE;
        expect_good(&f, b.e, b.n);
        mailbox_fini(&b);
        users_fini(&f.users);
    }
}

static void test_empty_drain(void **state)
{
    (void)state;
    static const struct exchange e[] = {
        GREETING, USER, PASS, { "STAT\r\n", "+OK 0 0\r\n" }, QUIT
    };
    struct fixture f;
    fixture_init(&f, POP3_DRAIN);
    expect_good(&f, e, ARRAY_LEN(e));
    users_fini(&f.users);
}

static void expect_wrong_message(const char *front, uint64_t serial, uint64_t size,
                                 const char *behind, const char *why)
{
    struct fixture f;
    struct mailbox b;
    fixture_init(&f, POP3_DRAIN);
    mailbox_init(&b, true);
    f.plan.size = SIZE;
    char *reply = wire(front, serial, size, behind);
    expect_wrong(&f, b.e, b.n, 6, reply, why); /* RETR 2 */
    free(reply);
    mailbox_fini(&b);
    users_fini(&f.users);
}

static void test_wrong_messages(void **state)
{
    (void)state;
    expect_wrong_message("+OK\r\n" FRONT, 1, SIZE, ".\r\n", "twice");
    expect_wrong_message("+OK\r\n", 2, SIZE, ".\r\n", "octets of messages, STAT tells");
    expect_wrong_message("+OK\r\n" FRONT, 2, SIZE + 1, ".\r\n", "a message of 1501 octets");
    expect_wrong_message("+OK\r\n" FRONT, 2, SIZE, "+OK\r\n", "no terminator");
    expect_wrong_message("+OK\r\n" FRONT, 2, SIZE, "x\r\n.\r\n", "no terminator");
    expect_wrong_message("+OK\r\n" FRONT, 2, SIZE, ".\r\n.\r\n", "nothing was asked");
    expect_wrong_message("+OK\r\n\r\n", 2, SIZE, ".\r\n", "without X-Load");
    expect_wrong_message("-ERR [SYS/TEMP]\r\n", 2, SIZE, ".\r\n", "RETR: -ERR");
    expect_wrong_message("+OK\r\n.\r\n", 2, SIZE, ".\r\n", "without X-Load");
}

static void test_wrong_deletes(void **state)
{
    (void)state;
    struct fixture f;
    struct mailbox b;
    fixture_init(&f, POP3_DRAIN);
    mailbox_init(&b, true);
    expect_wrong(&f, b.e, b.n, 5, "-ERR no such message\r\n", "DELE: -ERR");
    expect_wrong(&f, b.e, b.n, 7, "+OK\r\n+OK\r\n", "nothing was asked");
    expect_wrong(&f, b.e, b.n, 8, "-ERR [SYS/TEMP] not deleted\r\n", "QUIT");
    mailbox_fini(&b);
    users_fini(&f.users);
}

/* --- pipelining, TLS, idle sessions ------------------------------------------------------------
 */

static void test_pipeline(void **state)
{
    (void)state;
    struct fixture f;
    struct mailbox b;
    struct buf replies;
    buf_init(&replies, 1 << 20);
    fixture_init(&f, POP3_DRAIN);
    mailbox_init(&b, true);
    f.plan.pipeline = true;
    for (size_t i = 4; i < b.n; i++) {
        buf_add(&replies, span_str(b.e[i].reply));
    }
    buf_addc(&replies, 0);
    const struct exchange e[] = {
        GREETING,
        { "USER u000007@bench.example\r\nPASS secret\r\n", "+OK\r\n+OK\r\n" },
        { "STAT\r\n", b.stat },
        { "RETR 1\r\nDELE 1\r\nRETR 2\r\nDELE 2\r\nQUIT\r\n", buf_span(&replies).p },
    };
    expect_good(&f, e, ARRAY_LEN(e));
    expect_wrong(&f, e, ARRAY_LEN(e), 1, "+OK\r\n-ERR\r\n", "PASS");
    expect_wrong(&f, e, ARRAY_LEN(e), 1, "+OK\r\n+OK\r\n+OK 0 0\r\n", "nothing was asked");
    mailbox_fini(&b);
    buf_fini(&replies);
    users_fini(&f.users);
}

static void test_stls(void **state)
{
    (void)state;
    static const struct exchange e[] = {
        GREETING, { "STLS\r\n", "+OK\r\n" }, USER, PASS, { "STAT\r\n", "+OK 2 4000\r\n" }, QUIT,
    };
    struct fixture f;
    fixture_init(&f, POP3_POLL);
    f.plan.stls = f.plan.pipeline = true;
    struct exchange pipelined[] = { e[0],
                                    e[1],
                                    { "USER u000007@bench.example\r\nPASS secret\r\n",
                                      "+OK\r\n+OK\r\n" },
                                    { "STAT\r\nQUIT\r\n", "+OK 2 4000\r\n+OK\r\n" } };
    expect_good(&f, pipelined, ARRAY_LEN(pipelined));
    f.plan.pipeline = false;
    expect_good(&f, e, ARRAY_LEN(e));
    expect_wrong(&f, e, ARRAY_LEN(e), 1, "-ERR\r\n", "STLS");
    /* What came in the clear must not be taken for what came over TLS. */
    expect_wrong(&f, e, ARRAY_LEN(e), 1, "+OK\r\n+OK injected\r\n", "nothing was asked");
    users_fini(&f.users);
}

static void test_idle(void **state)
{
    (void)state;
    static const struct exchange e[] = { GREETING, USER, PASS, { "STAT\r\n", "+OK 2 4000\r\n" } };
    for (int wrong = 0; wrong < 2; wrong++) {
        struct fixture f;
        struct talk t;
        fixture_init(&f, POP3_IDLE);
        f.plan.pipeline = true;
        talk_init(&t, &pop3_client, &f.plan);
        struct exchange pipelined[] = {
            e[0], { "USER u000007@bench.example\r\nPASS secret\r\n", "+OK\r\n+OK\r\n" }, e[3]
        };
        converse(&t, pipelined, ARRAY_LEN(pipelined), 3);
        assert_int_equal(t.last, CLIENT_READY);
        assert_int_equal(t.done, 0);
        if (wrong) {
            hear(&t, SPAN("-ERR autologout\r\n"), 100);
            assert_int_equal(t.last, CLIENT_WRONG);
        } else {
            pop3_client.leave(t.client, &t.out);
            expect_said(&t, "QUIT\r\n");
            hear(&t, SPAN("+OK\r\n"), 100);
            assert_int_equal(t.last, CLIENT_CLOSED);
            assert_int_equal(t.done, 1);
        }
        talk_fini(&t);
        users_fini(&f.users);
    }
}

/* --- users and names ---------------------------------------------------------------------------
 */

static void test_users(void **state)
{
    (void)state;
    struct users u;
    uint64_t a, b, c, d;
    users_init(&u, 10, 3);
    assert_true(users_take(&u, &a) && users_take(&u, &b) && users_take(&u, &c));
    assert_int_equal(a + 10 * b + 100 * c, 10 + 110 + 1200);
    assert_false(users_take(&u, &d)); /* each is lent once */
    users_give(&u, b);
    users_give(&u, a);
    assert_true(users_take(&u, &d));
    assert_int_equal(d, 11); /* who was back first */
    assert_true(users_take(&u, &d));
    assert_int_equal(d, 10);
    assert_false(users_take(&u, &d));
    users_fini(&u);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const wrong[] = { "u%s", "%u%u", "%d", "%", "%99u", "%*u", "%lu" };
    struct names n;
    struct buf b;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(names_parse(wrong[i], &n), ERR_INVALID);
    }
    buf_init(&b, 1000);
    assert_int_equal(names_parse("a%ub", &n), ERR_OK);
    names_add(&n, 12, &b);
    assert_int_equal(names_parse("-%03u@x", &n), ERR_OK);
    names_add(&n, 12, &b);
    assert_int_equal(names_parse("-one", &n), ERR_OK);
    names_add(&n, 12, &b);
    assert_true(span_eq(buf_span(&b), SPAN("a12b-012@x-one")));
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_poll),          cmocka_unit_test(test_wrong_polls),
        cmocka_unit_test(test_endless_line),  cmocka_unit_test(test_uidl),
        cmocka_unit_test(test_list),          cmocka_unit_test(test_messages),
        cmocka_unit_test(test_empty_drain),   cmocka_unit_test(test_wrong_messages),
        cmocka_unit_test(test_wrong_deletes), cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_stls),          cmocka_unit_test(test_idle),
        cmocka_unit_test(test_users),         cmocka_unit_test(test_names),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
