/*
 * test_pop3: what a script can't say: large maildrops, a full out, memory. The conversations are in
 * tests/script/pop3.
 */
#include <malloc.h>
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

static const char *const mechanisms[] = { "PLAIN" };

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
    pop3_offer(f->p, mechanisms, ARRAY_LEN(mechanisms));
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

static void login_keeping(struct fixture *f, size_t n, uint32_t size, int read_days)
{
    struct maildrop *m = maildrop_of(n, size);
    say(f, "USER a\r\n");
    buf_clear(&f->out);
    assert_int_equal(say(f, "PASS b\r\n").kind, POP3_LOGIN);
    pop3_login_answer(f->p, LOGIN_OK, &m, 0, read_days, &f->out);
    assert_null(m);
    assert_non_null(pop3_maildrop(f->p));
    buf_clear(&f->out);
}

static void login(struct fixture *f, size_t n, uint32_t size)
{
    login_keeping(f, n, size, -1);
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
    assert_true(flushes > 5);
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
    assert_true(buf_len(&f.out) <= 128 << 10);
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

/* However much was said before it, the first piece of a long message finds an empty out. */
static void fetches_into_an_empty_out(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 400000);
    login(&f, 1000, 70000);
    assert_int_equal(say(&f, "UIDL\r\nRETR 1\r\n").kind, POP3_FLUSH);
    assert_true(buf_len(&f.out) > 10000);
    buf_clear(&f.out);
    assert_int_equal(go_on(&f).kind, POP3_FETCH);
    pop3_fetch_answer(f.p, ERR_OK, SPAN(".\r\n"), false, &f.out);
    assert_true(span_eq(buf_span(&f.out), SPAN("+OK 70000 octets\r\n..\r\n")));
    fixture_fini(&f);
}

/* What is pipelined says nothing of a message before that has left: neither that it was read, nor
 * the end of the session. */
static void quits_when_all_has_left(void **state)
{
    (void)state;
    struct fixture f;
    const size_t *which;
    struct span in = SPAN("RETR 1\r\nDELE 1\r\nQUIT\r\n");
    fixture_init(&f, 200000);
    login_keeping(&f, 2, 3, 0);
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_FETCH);
    pop3_fetch_answer(f.p, ERR_OK, SPAN("a\r\n"), true, &f.out);
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_FLUSH);
    buf_take(&f.out, 1);
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_FLUSH);
    assert_true(pop3_unsent(f.p));
    assert_int_equal(pop3_read(f.p, &which), 0);
    buf_clear(&f.out);
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_COMMIT);
    assert_false(pop3_unsent(f.p));
    assert_int_equal(pop3_read(f.p, &which), 1);
    fixture_fini(&f);
}

/* An end that the client has brought about otherwise comes behind it, too. */
static void closes_when_all_has_left(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 200000);
    login(&f, 1, 3);
    assert_int_equal(say(&f, "RETR 1\r\n").kind, POP3_FETCH);
    pop3_fetch_answer(f.p, ERR_OK, SPAN("a\r\n"), true, &f.out);
    struct pop3_action a = { .kind = POP3_FLUSH };
    for (int i = 0; i < 20; i++) {
        a = say(&f, "word\r\n");
    }
    assert_int_equal(a.kind, POP3_FLUSH);
    buf_clear(&f.out);
    assert_int_equal(go_on(&f).kind, POP3_CLOSE);
    fixture_fini(&f);
}

/* Asks for message i and gets it, if out may take it: else the engine wants out to be empty. */
static bool gathers(struct fixture *f, size_t i, struct span message)
{
    char command[32];
    snprintf(command, sizeof command, "RETR %zu\r\n", i + 1);
    struct pop3_action a = say(f, command);
    if (a.kind == POP3_FLUSH) {
        return false;
    }
    assert_int_equal(a.kind, POP3_FETCH);
    assert_int_equal(a.u.fetch.index, i);
    pop3_fetch_answer(f->p, ERR_OK, message, true, &f->out);
    return true;
}

/* Short messages that were pipelined leave together, so many, and are told when they have. */
static void gathers_short_messages(void **state)
{
    (void)state;
    struct fixture f;
    const size_t *which;
    size_t n = 0;
    fixture_init(&f, 4 << 20);
    login_keeping(&f, 100, 3, 5);
    while (gathers(&f, n, SPAN("a\r\n"))) {
        n++;
    }
    assert_int_equal(n, 64);
    assert_int_equal(pop3_read(f.p, &which), 0);
    assert_int_equal(pop3_sent(f.p, &which), n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(which[i], i);
    }
    assert_int_equal(pop3_sent(f.p, &which), 0);
    buf_clear(&f.out);
    assert_int_equal(go_on(&f).kind, POP3_FETCH);
    assert_int_equal(pop3_read(f.p, &which), n);
    pop3_fetch_answer(f.p, ERR_OK, SPAN("a\r\n"), true, &f.out);
    assert_int_equal(pop3_sent(f.p, &which), 1);
    assert_int_equal(which[0], n);
    assert_int_equal(go_on(&f).kind, POP3_FLUSH); /* and then waits for the client */
    buf_clear(&f.out);
    assert_int_equal(go_on(&f).kind, POP3_NEED_INPUT);
    assert_int_equal(pop3_read(f.p, &which), n); /* no command has come behind it */
    say(&f, "NOOP\r\n");
    assert_int_equal(pop3_read(f.p, &which), n + 1);
    fixture_fini(&f);
}

/* So many octets: the memory of a client that is slow to take them has a bound. */
static void gathers_so_much(void **state)
{
    (void)state;
    struct fixture f;
    char message[10000];
    size_t n = 0;
    memset(message, 'a', sizeof message);
    memcpy(message + sizeof message - 2, "\r\n", 2);
    fixture_init(&f, 4 << 20);
    login(&f, 100, sizeof message);
    while (gathers(&f, n, span_of(message, sizeof message))) {
        n++;
    }
    assert_true(n > 5);
    assert_true(buf_len(&f.out) <= 128 << 10);
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

/*
 * What the engine wipes is recorded: it frees the memory at once, so that nobody can look at it
 * afterwards. Fortified headers call the second.
 */
static struct span wiped[32];
static size_t n_wiped;

void explicit_bzero(void *p, size_t n)
{
    volatile char *octets = p;
    for (size_t i = 0; i < n; i++) {
        octets[i] = 0;
    }
    wiped[n_wiped++ % ARRAY_LEN(wiped)] = span_of(p, n);
}

void __explicit_bzero_chk(void *p, size_t n, size_t size);

void __explicit_bzero_chk(void *p, size_t n, size_t size)
{
    CHECK(n <= size);
    explicit_bzero(p, n);
}

static void check_wiped(struct span secret)
{
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(wiped); i++) {
        found |=
            wiped[i].p && secret.p >= wiped[i].p && secret.p + secret.n <= wiped[i].p + wiped[i].n;
    }
    assert_true(found);
    memset(wiped, 0, sizeof wiped);
}

static const enum login_verdict verdicts[] = { LOGIN_DENIED, LOGIN_FAULT, LOGIN_OK };

static void wipes_the_password(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(verdicts); i++) {
        struct fixture f;
        fixture_init(&f, POP3_OUT_MIN * 2);
        struct maildrop *m = verdicts[i] == LOGIN_OK ? maildrop_of(1, 1) : NULL;
        struct pop3_action a = say(&f, "USER alice\r\nPASS sesame\r\n");
        assert_int_equal(a.kind, POP3_LOGIN);
        assert_true(span_eq(a.u.login.user, SPAN("alice")));
        assert_true(span_eq(a.u.login.password, SPAN("sesame")));
        pop3_login_answer(f.p, verdicts[i], &m, 0, -1, &f.out);
        check_wiped(a.u.login.password);
        fixture_fini(&f);
    }
}

static void wipes_each_response(void **state)
{
    (void)state;
    struct fixture f;
    struct maildrop *m = NULL;
    fixture_init(&f, POP3_OUT_MIN * 2);
    struct pop3_action a = say(&f, "AUTH PLAIN c2VzYW1l\r\n");
    assert_int_equal(a.kind, POP3_AUTH);
    assert_true(span_eq(a.u.auth.response, SPAN("sesame")));
    pop3_auth_challenge(f.p, SPAN("?"), &f.out);
    check_wiped(a.u.auth.response);
    a = say(&f, "c2VzYW1l\r\n");
    pop3_auth_invalid(f.p, &f.out);
    check_wiped(a.u.auth.response);
    a = say(&f, "AUTH PLAIN c2VzYW1l\r\n");
    pop3_login_answer(f.p, LOGIN_DENIED, &m, 0, -1, &f.out);
    check_wiped(a.u.auth.response);
    a = say(&f, "AUTH PLAIN c2VzYW1l\r\n");
    fixture_fini(&f);
    check_wiped(a.u.auth.response);
}

/* A line that came in parts was kept, and a password with it. */
static void wipes_a_line_in_parts(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, POP3_OUT_MIN * 2);
    n_wiped = 0;
    say(&f, "USER alice\r\n");
    say(&f, "PASS ses");
    assert_int_equal(n_wiped, 0);
    assert_int_equal(say(&f, "ame\r\n").kind, POP3_LOGIN);
    assert_int_equal(n_wiped, 1);
    fixture_fini(&f);
}

/* The longest response there is, and one more octet. */
static void bounds_a_response(void **state)
{
    (void)state;
    for (size_t more = 0; more <= 2; more++) {
        struct fixture f;
        char line[12288 + 5];
        fixture_init(&f, POP3_OUT_MIN * 2);
        assert_int_equal(say(&f, "AUTH PLAIN\r\n").kind, POP3_AUTH);
        pop3_auth_challenge(f.p, SPAN(""), &f.out);
        buf_clear(&f.out);
        memset(line, 'A', 12288 + more);
        memcpy(line + 12288 + more, "\r\n", 3);
        struct pop3_action a = say(&f, line);
        assert_int_equal(a.kind, more ? POP3_NEED_INPUT : POP3_AUTH);
        if (a.kind == POP3_AUTH) {
            assert_int_equal(a.u.auth.response.n, 12288 / 4 * 3);
        } else {
            assert_true(span_starts(buf_span(&f.out), SPAN("-ERR the line is too long")));
        }
        fixture_fini(&f);
    }
}

/* What was pipelined behind a response waits for the answer; one step of the exchange at a time. */
static void eats_nothing_behind_a_response(void **state)
{
    (void)state;
    struct fixture f;
    struct maildrop *m = maildrop_of(1, 1);
    struct span in = SPAN("AUTH PLAIN\r\nYQ==\r\nSTAT\r\n");
    fixture_init(&f, POP3_OUT_MIN * 2);
    struct pop3_action a = pop3_step(f.p, &in, &f.out);
    assert_int_equal(a.kind, POP3_AUTH);
    assert_true(a.u.auth.first && !a.u.auth.response.p);
    assert_true(span_eq(in, SPAN("YQ==\r\nSTAT\r\n")));
    pop3_auth_challenge(f.p, SPAN(""), &f.out);
    a = pop3_step(f.p, &in, &f.out);
    assert_int_equal(a.kind, POP3_AUTH);
    assert_true(!a.u.auth.first && span_eq(a.u.auth.response, SPAN("a")));
    assert_true(span_eq(in, SPAN("STAT\r\n")));
    assert_true(span_eq(buf_span(&f.out), SPAN("+ \r\n")));
    buf_clear(&f.out);
    pop3_login_answer(f.p, LOGIN_OK, &m, 0, -1, &f.out);
    assert_int_equal(pop3_step(f.p, &in, &f.out).kind, POP3_NEED_INPUT);
    assert_true(span_eq(buf_span(&f.out), SPAN("+OK 1 messages, 1 octets\r\n+OK 1 1\r\n")));
    fixture_fini(&f);
}

/* A mechanism that says more than a line holds ends the exchange, and not the process. */
static void bounds_a_challenge(void **state)
{
    (void)state;
    static const char octets[POP3_CHALLENGE_MAX + 1];
    struct fixture f;
    fixture_init(&f, POP3_OUT_MIN * 2);
    say(&f, "AUTH PLAIN\r\n");
    pop3_auth_challenge(f.p, span_of(octets, POP3_CHALLENGE_MAX), &f.out);
    assert_int_equal(buf_len(&f.out), 4 + (POP3_CHALLENGE_MAX + 2) / 3 * 4);
    buf_clear(&f.out);
    assert_int_equal(say(&f, "=\r\n").kind, POP3_NEED_INPUT);
    buf_clear(&f.out);
    say(&f, "AUTH PLAIN\r\n");
    pop3_auth_challenge(f.p, span_of(octets, POP3_CHALLENGE_MAX + 1), &f.out);
    assert_true(span_starts(buf_span(&f.out), SPAN("-ERR [SYS/TEMP]")));
    buf_clear(&f.out);
    assert_int_equal(say(&f, "QUIT\r\n").kind, POP3_CLOSE);
    fixture_fini(&f);
}

static const char utf8_message[] =
    "Received: x with UTF8SMTP id y\r\nSubject: \xc3\xa4\r\n\r\nbody\r\n";

/* One FETCH of a message, whose first piece has so many octets. */
static void fetch(struct fixture *f, const char *command, const char *message, size_t first)
{
    size_t n = strlen(message);
    buf_clear(&f->out);
    assert_int_equal(say(f, command).kind, POP3_FETCH);
    pop3_fetch_answer(f->p, ERR_OK, span_of(message, first), first == n, &f->out);
}

/* The count is of messages that were begun, each once. */
static void tells_of_a_conversion_once(void **state)
{
    (void)state;
    struct fixture f;
    size_t n = strlen(utf8_message);
    fixture_init(&f, POP3_OUT_MIN * 4);
    login(&f, 1, (uint32_t)n);
    fetch(&f, "RETR 1\r\n", utf8_message, n - 3);
    assert_true(pop3_converted(f.p));
    assert_int_equal(go_on(&f).kind, POP3_FETCH_MORE);
    pop3_fetch_answer(f.p, ERR_OK, span_of(utf8_message + n - 3, 3), true, &f.out);
    assert_false(pop3_converted(f.p));
    fetch(&f, "RETR 1\r\n", utf8_message, n);
    assert_true(pop3_converted(f.p));
    fetch(&f, "RETR 1\r\n", utf8_message, 40); /* in the header */
    assert_false(pop3_converted(f.p));
    assert_true(span_starts(buf_span(&f.out), SPAN("-ERR [UTF8]")));
    assert_int_equal(go_on(&f).kind, POP3_FETCH_STOP);
    fixture_fini(&f);
}

/* A first piece that was all envelope decides nothing yet, not even that there is no fault. */
static void begins_with_a_piece_that_is_not_empty(void **state)
{
    (void)state;
    struct fixture f;
    size_t n = strlen(utf8_message);
    fixture_init(&f, POP3_OUT_MIN * 4);
    login(&f, 1, (uint32_t)n);
    fetch(&f, "RETR 1\r\n", utf8_message, 0);
    assert_int_equal(buf_len(&f.out), 0);
    assert_int_equal(go_on(&f).kind, POP3_FETCH_MORE);
    pop3_fetch_answer(f.p, ERR_OK, span_str(utf8_message), true, &f.out);
    assert_true(pop3_converted(f.p));
    assert_true(span_starts(buf_span(&f.out), SPAN("+OK ")));
    fetch(&f, "RETR 1\r\n", utf8_message, 0);
    assert_int_equal(go_on(&f).kind, POP3_FETCH_MORE);
    pop3_fetch_answer(f.p, ERR_TEMP, SPAN(""), true, &f.out);
    assert_true(span_starts(buf_span(&f.out), SPAN("-ERR [SYS/TEMP]")));
    buf_clear(&f.out);
    assert_int_equal(go_on(&f).kind, POP3_NEED_INPUT);
    fixture_fini(&f);
}

/* Nor does one in the middle: +OK is said once. */
static void goes_on_behind_an_empty_piece(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, POP3_OUT_MIN * 4);
    login(&f, 1, 6);
    fetch(&f, "RETR 1\r\n", "a\r\nb\r\n", 3);
    assert_int_equal(go_on(&f).kind, POP3_FETCH_MORE);
    pop3_fetch_answer(f.p, ERR_OK, SPAN(""), false, &f.out);
    assert_int_equal(go_on(&f).kind, POP3_FETCH_MORE);
    pop3_fetch_answer(f.p, ERR_OK, SPAN("b\r\n"), true, &f.out);
    assert_true(span_eq(buf_span(&f.out), SPAN("+OK 6 octets\r\na\r\nb\r\n.\r\n")));
    fixture_fini(&f);
}

/* Whatever room there is, a header that has grown fits or is refused. */
static void converts_within_the_room(void **state)
{
    (void)state;
    char message[1024] = "Received: x with UTF8SMTP id y\r\n";
    for (size_t i = 0; i < 100; i++) {
        strcat(message, "To:\xc3\xa4\r\n");
    }
    strcat(message, "\r\n");
    size_t n = strlen(message), converted = 0;
    for (size_t room = 2 * n; room < 20 * n; room += 7) {
        struct fixture f;
        fixture_init(&f, POP3_OUT_MIN + room);
        login(&f, 1, (uint32_t)n);
        fetch(&f, "RETR 1\r\n", message, n);
        converted += pop3_converted(f.p);
        assert_true(pop3_converted(f.p) != span_starts(buf_span(&f.out), SPAN("-ERR [UTF8]")));
        fixture_fini(&f);
    }
    assert_true(converted > 100);
}

/* What thousands of waiting sessions pay: the engine owns nothing else while it waits. */
static void an_idle_engine_is_small(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, POP3_OUT_MIN * 2);
    assert_true(malloc_usable_size(f.p) < 512);
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
    say(&f, "AUTH PLAIN AGFsaWNlAHNlc2FtZQ==\r\n");
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
        cmocka_unit_test(quits_when_all_has_left),
        cmocka_unit_test(closes_when_all_has_left),
        cmocka_unit_test(gathers_short_messages),
        cmocka_unit_test(gathers_so_much),
        cmocka_unit_test(gives_an_open_action_again),
        cmocka_unit_test(an_idle_engine_is_small),
        cmocka_unit_test(wipes_the_password),
        cmocka_unit_test(wipes_each_response),
        cmocka_unit_test(wipes_a_line_in_parts),
        cmocka_unit_test(bounds_a_response),
        cmocka_unit_test(eats_nothing_behind_a_response),
        cmocka_unit_test(bounds_a_challenge),
        cmocka_unit_test(tells_of_a_conversion_once),
        cmocka_unit_test(begins_with_a_piece_that_is_not_empty),
        cmocka_unit_test(goes_on_behind_an_empty_piece),
        cmocka_unit_test(converts_within_the_room),
        cmocka_unit_test(can_be_freed_in_any_step),
        cmocka_unit_test(refuses_instead_of_greeting),
        cmocka_unit_test(names_each_reason_to_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
