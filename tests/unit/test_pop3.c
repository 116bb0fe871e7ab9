/*
 * test_pop3: what a script can't say: large maildrops, a full out, memory. The conversations are in
 * tests/script/pop3.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "pop3.h"

#define LARGE 100000

struct fixture {
    struct pop3 *p;
    struct buf out;
};

static void fixture_init(struct fixture *f, size_t limit)
{
    const struct pop3_options o = {
        .plaintext_login = true, .tls_offered = true, .max_errors = 20, .login_tries = 3
    };
    f->p = pop3_new(&o);
    buf_init(&f->out, limit);
}

static void fixture_fini(struct fixture *f)
{
    pop3_free(&f->p);
    assert_null(f->p);
    buf_fini(&f->out);
}

/* The whole of a C string, which must be eaten. */
static struct pop3_action say(struct fixture *f, const char *text)
{
    struct span in = span_str(text);
    struct pop3_action a = pop3_step(f->p, &in, &f->out);
    assert_int_equal(in.n, 0);
    return a;
}

static struct pop3_action go_on(struct fixture *f)
{
    return say(f, "");
}

static struct maildrop *maildrop_of(size_t n, uint32_t size)
{
    static const uint8_t zeros[10];
    struct maildrop *m = maildrop_new(1, 1);
    for (size_t i = 0; i < n; i++) {
        struct pointer p = { .id = blob_id_make(i + 1, zeros), .seq = i + 1, .size = size };
        assert_int_equal(maildrop_add(m, &p, SPAN(""), SPAN("")), ERR_OK);
    }
    return m;
}

static void login(struct fixture *f, size_t n, uint32_t size)
{
    struct maildrop *m = maildrop_of(n, size);
    say(f, "USER a\r\n");
    buf_clear(&f->out);
    assert_int_equal(say(f, "PASS b\r\n").kind, POP3_LOGIN);
    pop3_login_answer(f->p, ERR_OK, &m, &f->out);
    assert_null(m);
    assert_non_null(pop3_maildrop(f->p));
    buf_clear(&f->out);
}

/* The next line of what the engine has said, NUL-terminated, or "" when there is none. */
static const char *next_line(struct fixture *f, char line[128])
{
    struct span s = buf_span(&f->out);
    size_t n = span_find(s, '\n');
    if (n == s.n) {
        line[0] = '\0';
        return line;
    }
    assert_true(n > 0 && n < 128 && s.p[n - 1] == '\r');
    memcpy(line, s.p, n - 1);
    line[n - 1] = '\0';
    buf_take(&f->out, n + 1);
    return line;
}

/* A whole listing through whatever out there is; message 777 is marked. */
static void check_listing(struct fixture *f, const char *command,
                          void (*expected)(size_t i, char line[128]))
{
    char line[128], want[128];
    size_t flushes = 0, i = 0;
    bool ended = false;
    struct pop3_action a = say(f, command);
    assert_string_equal(next_line(f, line), "+OK 99999 messages, 999990 octets");
    for (; a.kind == POP3_FLUSH || buf_len(&f->out) > 0; a = go_on(f)) {
        while (*next_line(f, line)) {
            assert_false(ended);
            ended = strcmp(line, ".") == 0;
            if (!ended) {
                i += i == 776 ? 2 : 1;
                expected(i, want);
                assert_string_equal(line, want);
            }
        }
        assert_int_equal(buf_len(&f->out), 0);
        flushes++;
    }
    assert_int_equal(a.kind, POP3_NEED_INPUT);
    assert_true(ended);
    assert_int_equal(i, LARGE);
    assert_true(flushes > 10);
}

static void expected_list(size_t i, char line[128])
{
    snprintf(line, 128, "%zu 10", i);
}

static void expected_uidl(size_t i, char line[128])
{
    static const uint8_t zeros[10];
    char id[BLOB_ID_CHARS + 1];
    struct blob_id blob = blob_id_make(i, zeros);
    blob_id_text(&blob, id);
    snprintf(line, 128, "%zu %s", i, id);
}

static void lists_a_large_maildrop(void **state)
{
    (void)state;
    static const size_t limits[] = { POP3_OUT_MIN, POP3_OUT_MIN + 1, 10000, 4u << 20 };
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        struct fixture f;
        fixture_init(&f, limits[i]);
        login(&f, LARGE, 10);
        say(&f, "DELE 777\r\n");
        buf_clear(&f.out);
        check_listing(&f, "LIST\r\n", expected_list);
        check_listing(&f, "UIDL\r\n", expected_uidl);
        fixture_fini(&f);
    }
}

static void a_listing_keeps_out_small(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 4u << 20);
    login(&f, LARGE, 10);
    assert_int_equal(say(&f, "UIDL\r\n").kind, POP3_FLUSH);
    assert_true(buf_len(&f.out) < 70000);
    fixture_fini(&f);
}

static void commits_a_large_maildrop_in_order(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 4u << 20);
    login(&f, LARGE, 10);
    for (size_t i = LARGE; i >= 3; i -= 3) {
        char command[32];
        snprintf(command, sizeof command, "DELE %zu\r\n", i);
        assert_int_equal(say(&f, command).kind, POP3_NEED_INPUT);
        buf_clear(&f.out);
    }
    struct pop3_action a = say(&f, "QUIT\r\n");
    assert_int_equal(a.kind, POP3_COMMIT);
    assert_int_equal(a.u.commit.n, LARGE / 3);
    for (size_t i = 0; i < a.u.commit.n; i++) {
        assert_int_equal(a.u.commit.marked[i], LARGE % 3 + 3 * i + 2);
    }
    pop3_commit_answer(f.p, ERR_OK, &f.out);
    assert_int_equal(go_on(&f).kind, POP3_CLOSE);
    fixture_fini(&f);
}

static void reads_nothing_while_out_is_full(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, POP3_OUT_MIN);
    assert_int_equal(buf_addc(&f.out, 'x'), ERR_OK);
    struct span in = SPAN("QUIT\r\n");
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_FLUSH);
    assert_int_equal(in.n, 6);
    assert_int_equal(buf_len(&f.out), 1);
    fixture_fini(&f);
}

static void answers_pipelined_commands_as_out_allows(void **state)
{
    (void)state;
    struct fixture f;
    struct buf commands;
    size_t said = 0;
    fixture_init(&f, POP3_OUT_MIN + 100);
    login(&f, 1, 10);
    buf_init(&commands, 100000);
    for (int i = 0; i < 5000; i++) {
        assert_int_equal(buf_add(&commands, SPAN("NOOP\r\n")), ERR_OK);
    }
    struct span in = buf_span(&commands);
    while (pop3_step(f.p, &in, &f.out).kind == POP3_FLUSH) {
        said += buf_len(&f.out);
        buf_clear(&f.out);
    }
    said += buf_len(&f.out);
    assert_int_equal(in.n, 0);
    assert_int_equal(said, 5000 * strlen("+OK nothing done\r\n"));
    buf_fini(&commands);
    fixture_fini(&f);
}

/* However much was said before it, the first piece of a message finds an empty out. */
static void fetches_into_an_empty_out(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 200000);
    login(&f, 1000, 3);
    assert_int_equal(say(&f, "UIDL\r\nRETR 1\r\n").kind, POP3_FLUSH);
    assert_true(buf_len(&f.out) > 10000);
    buf_clear(&f.out);
    assert_int_equal(go_on(&f).kind, POP3_FETCH);
    pop3_fetch_answer(f.p, ERR_OK, SPAN(".\r\n"), true, &f.out);
    assert_true(span_eq(buf_span(&f.out), SPAN("+OK 3 octets\r\n..\r\n.\r\n")));
    assert_int_equal(go_on(&f).kind, POP3_NEED_INPUT);
    fixture_fini(&f);
}

static void gives_an_open_action_again(void **state)
{
    (void)state;
    struct fixture f;
    struct span in = SPAN("STLS\r\nCAPA\r\n");
    fixture_init(&f, POP3_OUT_MIN * 2);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_STARTTLS);
        assert_true(span_eq(in, SPAN("CAPA\r\n")));
    }
    pop3_tls_answer(f.p);
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_NEED_INPUT);
    assert_int_equal(say(&f, "QUIT\r\n").kind, POP3_CLOSE);
    in = SPAN("NOOP\r\n");
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_CLOSE);
    assert_int_equal(in.n, 6);
    fixture_fini(&f);
}

/* The password was lent out of the engine's own memory, which can be looked at afterwards. */
static void check_wiped(const char *password, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(password[i], 0);
    }
}

static void wipes_the_password(void **state)
{
    (void)state;
    static const enum err results[] = { ERR_DENIED, ERR_TEMP, ERR_OK };
    struct fixture f;
    fixture_init(&f, POP3_OUT_MIN * 2);
    for (size_t i = 0; i < ARRAY_LEN(results); i++) {
        struct maildrop *m = results[i] == ERR_OK ? maildrop_of(1, 1) : NULL;
        struct pop3_action a = say(&f, "USER alice\r\nPASS sesame\r\n");
        assert_int_equal(a.kind, POP3_LOGIN);
        assert_true(span_eq(a.u.login.user, SPAN("alice")));
        assert_true(span_eq(a.u.login.password, SPAN("sesame")));
        pop3_login_answer(f.p, results[i], &m, &f.out);
        check_wiped(a.u.login.password.p, a.u.login.password.n);
    }
    fixture_fini(&f);
}

/* An engine can be dropped at any point, with whatever it has open. */
static void can_be_freed_in_any_step(void **state)
{
    (void)state;
    static const char *const commands[] = { "",           "STL",
                                            "STAT\r\n",   "LIST\r\n",
                                            "RETR 1\r\n", "TOP 1 1\r\n",
                                            "DELE 1\r\n", "DELE 1\r\nQUIT\r\n",
                                            "QUIT\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        struct fixture f;
        fixture_init(&f, 1u << 20);
        login(&f, 10000, 10);
        say(&f, commands[i]);
        fixture_fini(&f);
    }
    struct fixture f;
    fixture_init(&f, 1u << 20);
    say(&f, "AUTH PLAIN\r\nAGFsaWNlAHNlc2FtZQ==\r\n");
    fixture_fini(&f);
}

static void refuses_instead_of_greeting(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 100);
    pop3_refuse(SPAN("too many sessions"), &out);
    assert_true(span_eq(buf_span(&out), SPAN("-ERR [SYS/TEMP] too many sessions\r\n")));
    buf_fini(&out);
}

static void names_each_reason_to_close(void **state)
{
    (void)state;
    assert_string_equal(pop3_close_text(POP3_CLOSE_QUIT), "quit");
    assert_string_equal(pop3_close_text(POP3_CLOSE_FETCH_FAULT),
                        "message broke off while it was being sent");
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_a_large_maildrop),
        cmocka_unit_test(a_listing_keeps_out_small),
        cmocka_unit_test(commits_a_large_maildrop_in_order),
        cmocka_unit_test(reads_nothing_while_out_is_full),
        cmocka_unit_test(answers_pipelined_commands_as_out_allows),
        cmocka_unit_test(fetches_into_an_empty_out),
        cmocka_unit_test(gives_an_open_action_again),
        cmocka_unit_test(wipes_the_password),
        cmocka_unit_test(can_be_freed_in_any_step),
        cmocka_unit_test(refuses_instead_of_greeting),
        cmocka_unit_test(names_each_reason_to_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
