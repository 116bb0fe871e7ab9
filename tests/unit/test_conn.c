/* Tests of conn on real sockets: events, bounds, ends, deadlines, TLS, and a graceful close. */
#include "heap.h"
#include "net_fixture.h"

#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "net/conn.h"

/* The owner of the conn under test: counts what it is told. */
struct owner {
    struct fixture f;
    struct peer p;
    struct conn *c;
    int told[CONN_CLOSED + 1];
    int last;    /* the latest event */
    bool within; /* a conn_* call is on the stack: no event may come */
    bool hold;   /* leaves conn_in as it is */
    struct buf got;
};

static void on_event(void *arg, struct conn *c, enum conn_event ev)
{
    struct owner *o = arg;
    assert_false(o->within);
    assert_int_equal(o->told[CONN_CLOSED], 0);
    o->told[ev]++;
    o->last = ev;
    if (ev == CONN_DATA && !o->hold) {
        assert_true(buf_len(conn_in(c)) > 0);
        assert_int_equal(buf_add(&o->got, buf_span(conn_in(c))), ERR_OK);
        buf_clear(conn_in(c));
        conn_taken(c);
    }
}

static void open_pair(struct owner *o)
{
    int server, client;
    *o = (struct owner){ .last = -1 };
    fixture_init(&o->f);
    tcp_pair(&server, &client);
    peer_init(&o->p, client);
    buf_init(&o->got, BIG);
    o->c = conn_open(o->f.loop, server);
}

static void setup(struct owner *o)
{
    open_pair(o);
    conn_own(o->c, on_event, o);
}

static void finish(struct owner *o)
{
    if (o->c) {
        conn_close(&o->c, 0);
    }
    WAIT(&o->f, &o->p, o->told[CONN_CLOSED] == 1);
    fixture_settle(&o->f, &o->p);
    assert_int_equal(o->told[CONN_CLOSED], 1);
    peer_fini(&o->p);
    buf_fini(&o->got);
    fixture_fini(&o->f);
}

static bool flush(struct owner *o)
{
    o->within = true;
    bool all = conn_flush(o->c);
    o->within = false;
    return all;
}

static bool send_text(struct owner *o, const char *text)
{
    assert_int_equal(buf_add(conn_out(o->c), span_str(text)), ERR_OK);
    return flush(o);
}

/* Bytes that tell where they are from. */
static void fill(struct buf *b, size_t n)
{
    char *to = buf_reserve(b, n);
    assert_non_null(to);
    for (size_t i = 0; i < n; i++) {
        to[i] = (char)(i * 31 + i / 251);
    }
    buf_commit(b, n);
}

static void check_filled(const struct buf *b, size_t n)
{
    struct buf want;
    buf_init(&want, BIG);
    fill(&want, n);
    assert_int_equal(buf_len(b), n);
    assert_memory_equal(buf_span(b).p, buf_span(&want).p, n);
    buf_fini(&want);
}

static void start_tls(struct owner *o)
{
    struct tls *t = fixture_tls(&o->f);
    peer_start_tls(&o->p);
    o->within = true;
    assert_int_equal(conn_start_tls(o->c, t), ERR_OK);
    o->within = false;
    tls_unref(&t); /* the conn has its own */
    WAIT(&o->f, &o->p, o->told[CONN_TLS_UP]);
    assert_true(conn_tls(o->c));
}

/* --- plain ----------------------------------------------------------------------------------- */

static void test_talk(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    peer_send(&o.p, SPAN("NOOP\r\n"));
    WAIT(&o.f, &o.p, o.told[CONN_DATA]);
    assert_true(span_eq(buf_span(&o.got), SPAN("NOOP\r\n")));
    assert_true(send_text(&o, "+OK\r\n"));
    WAIT(&o.f, &o.p, peer_got(&o.p, SPAN("+OK\r\n")));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DRAINED], 0);
    assert_int_equal(o.told[CONN_DATA], 1);
    assert_string_equal(conn_tls_text(o.c), "");
    assert_false(conn_tls(o.c) || conn_secure(o.c) || conn_broken(o.c));
    finish(&o);
}

/* An idle conn costs no buffer. */
static void test_idle_owns_no_buffer(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    fill(&o.p.to_send, 60000);
    WAIT(&o.f, &o.p, buf_len(&o.got) == 60000);
    fill(conn_out(o.c), 60000);
    flush(&o);
    WAIT(&o.f, &o.p, buf_len(&o.p.got) == 60000);
    assert_null(conn_in(o.c)->mem);
    assert_null(conn_out(o.c)->mem);
    finish(&o);
}

static void test_events_wait_for_an_owner(void **state)
{
    (void)state;
    struct owner o;
    open_pair(&o);
    o.hold = true;
    peer_send(&o.p, SPAN("first"));
    WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) == 5);
    fixture_settle(&o.f, &o.p);
    o.within = true;
    conn_own(o.c, on_event, &o);
    o.within = false;
    WAIT(&o.f, &o.p, o.told[CONN_DATA] == 1);

    /* The next owner is told of the same bytes, and of the end. */
    peer_send(&o.p, SPAN("second"));
    peer_pump(&o.p);
    shutdown(o.p.fd, SHUT_WR);
    WAIT(&o.f, &o.p, o.told[CONN_EOF] == 1);
    conn_own(o.c, NULL, NULL);
    fixture_settle(&o.f, &o.p);
    memset(o.told, 0, sizeof o.told);
    conn_own(o.c, on_event, &o);
    WAIT(&o.f, &o.p, o.told[CONN_EOF] == 1);
    assert_int_equal(o.told[CONN_DATA], 1);
    assert_int_equal(o.last, CONN_EOF);
    finish(&o);
}

static void test_full_input_pauses_reading(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    o.hold = true;
    size_t total = 2 * 1024 * 1024;
    fill(&o.p.to_send, total);
    WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) == CONN_IN_LIMIT);
    fixture_settle(&o.f, &o.p);
    assert_int_equal(buf_len(conn_in(o.c)), CONN_IN_LIMIT);
    while (buf_len(&o.got) < total) {
        WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) > 0);
        assert_int_equal(buf_add(&o.got, buf_span(conn_in(o.c))), ERR_OK);
        buf_clear(conn_in(o.c));
        conn_taken(o.c);
    }
    check_filled(&o.got, total);
    finish(&o);
}

static void test_reading_stops_and_goes_on(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    conn_read(o.c, false);
    peer_send(&o.p, SPAN("later"));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DATA], 0);
    conn_read(o.c, true);
    WAIT(&o.f, &o.p, o.told[CONN_DATA]);
    assert_true(span_eq(buf_span(&o.got), SPAN("later")));
    finish(&o);
}

static void test_slow_reader(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    o.p.deaf = true;
    fill(conn_out(o.c), CONN_OUT_LIMIT - 4);
    assert_false(flush(&o));
    assert_false(send_text(&o, "more"));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DRAINED], 0);
    o.p.deaf = false;
    WAIT(&o.f, &o.p, buf_len(&o.p.got) == CONN_OUT_LIMIT);
    WAIT(&o.f, &o.p, o.told[CONN_DRAINED] == 1);
    assert_memory_equal(buf_span(&o.p.got).p + CONN_OUT_LIMIT - 4, "more", 4);
    o.p.got.tail -= 4;
    check_filled(&o.p.got, CONN_OUT_LIMIT - 4);
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DRAINED], 1);
    finish(&o);
}

static void test_half_close(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    peer_send(&o.p, SPAN("QUIT\r\n"));
    peer_pump(&o.p);
    shutdown(o.p.fd, SHUT_WR);
    WAIT(&o.f, &o.p, o.told[CONN_EOF]);
    assert_int_equal(o.told[CONN_DATA], 1);
    assert_int_equal(o.last, CONN_EOF);
    assert_false(conn_broken(o.c));
    assert_true(send_text(&o, "+OK bye\r\n"));
    WAIT(&o.f, &o.p, peer_got(&o.p, SPAN("+OK bye\r\n")));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_EOF], 1);
    finish(&o);
}

/* Whether it reads, is told not to, or cannot because conn_in is full. */
static void test_reset(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct owner o;
        setup(&o);
        if (how == 1) {
            conn_read(o.c, false);
        } else if (how == 2) {
            o.hold = true;
            fill(&o.p.to_send, CONN_IN_LIMIT);
            WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) == CONN_IN_LIMIT);
        }
        fixture_settle(&o.f, &o.p);
        peer_reset(&o.p);
        WAIT(&o.f, &o.p, o.told[CONN_EOF]);
        assert_true(conn_broken(o.c));
        assert_true(send_text(&o, "into the void"));
        assert_int_equal(buf_len(conn_out(o.c)), 0);
        fixture_settle(&o.f, &o.p);
        assert_int_equal(o.told[CONN_EOF], 1);
        finish(&o);
    }
}

/* Who waits for DRAINED after the peer's end must not wait for ever. */
static void test_reset_after_half_close(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    o.p.deaf = true;
    shutdown(o.p.fd, SHUT_WR);
    WAIT(&o.f, &o.p, o.told[CONN_EOF] == 1);
    assert_false(conn_broken(o.c));
    fill(conn_out(o.c), CONN_OUT_LIMIT);
    assert_false(flush(&o));
    peer_reset(&o.p);
    WAIT(&o.f, &o.p, o.told[CONN_EOF] == 2);
    assert_true(conn_broken(o.c));
    assert_int_equal(o.told[CONN_DRAINED], 0);
    finish(&o);
}

/* If bytes moved it, it would never pass here. */
static void test_deadline_is_not_moved_by_bytes(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    uint64_t at = loop_now(o.f.loop) + 40;
    conn_deadline(o.c, at);
    for (bool sent = false; !o.told[CONN_DEADLINE]; sent = true) {
        if (!sent || buf_len(&o.p.to_send) == 0) {
            peer_send(&o.p, SPAN("x"));
        }
        fixture_turn(&o.f, &o.p);
        send_text(&o, "y");
    }
    assert_true(loop_now(o.f.loop) >= at);
    assert_true(o.told[CONN_DATA] > 0);
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DEADLINE], 1);
    finish(&o);
}

/* Away, and nearer again. */
static void test_deadline_is_moved(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    uint64_t now = loop_now(o.f.loop);
    conn_deadline(o.c, now + 10);
    conn_deadline(o.c, now + 40);
    WAIT(&o.f, &o.p, o.told[CONN_DEADLINE] == 1);
    assert_true(loop_now(o.f.loop) >= now + 40);
    now = loop_now(o.f.loop);
    conn_deadline(o.c, now + WAIT_MS);
    conn_deadline(o.c, now + 2 * WAIT_MS);
    conn_deadline(o.c, now + 10);
    WAIT(&o.f, &o.p, o.told[CONN_DEADLINE] == 2);
    finish(&o);
}

static void test_deadline_is_turned_off(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    uint64_t at = loop_now(o.f.loop) + 5;
    conn_deadline(o.c, at);
    conn_deadline(o.c, 0);
    WAIT(&o.f, &o.p, loop_now(o.f.loop) > at + 5);
    assert_int_equal(o.told[CONN_DEADLINE], 0);
    /* One that has passed is not told either, if that was not done yet. */
    conn_own(o.c, NULL, NULL);
    conn_deadline(o.c, 1);
    fixture_settle(&o.f, &o.p);
    conn_deadline(o.c, 0);
    conn_own(o.c, on_event, &o);
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DEADLINE], 0);
    /* One in the past is told at once, but not inline. */
    o.within = true;
    conn_deadline(o.c, 1);
    o.within = false;
    WAIT(&o.f, &o.p, o.told[CONN_DEADLINE] == 1);
    finish(&o);
}

/* --- closing --------------------------------------------------------------------------------- */

/* The peer still sends what nobody reads: without care its reset would cut the reply off. */
static void test_linger_saves_the_last_reply(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    o.hold = true;
    o.p.deaf = true;
    fill(&o.p.to_send, 8 * 1024 * 1024);
    WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) == CONN_IN_LIMIT);
    fill(conn_out(o.c), CONN_OUT_LIMIT);
    o.within = true;
    conn_close(&o.c, WAIT_MS);
    o.within = false;
    assert_null(o.c);
    o.told[CONN_DATA] = 0;
    WAIT(&o.f, &o.p, buf_len(&o.p.to_send) == 0);
    assert_int_equal(o.told[CONN_CLOSED], 0);
    o.p.deaf = false;
    WAIT(&o.f, &o.p, o.p.eof || o.p.error);
    assert_int_equal(o.p.error, 0);
    check_filled(&o.p.got, CONN_OUT_LIMIT);
    assert_int_equal(o.told[CONN_CLOSED], 0);
    shutdown(o.p.fd, SHUT_WR);
    WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
    for (int ev = 0; ev < CONN_CLOSED; ev++) {
        assert_int_equal(o.told[ev], 0);
    }
    finish(&o);
}

/* A peer that neither reads nor leaves is left at the deadline. */
static void test_linger_has_an_end(void **state)
{
    (void)state;
    for (int how = 0; how < 2; how++) {
        struct owner o;
        setup(&o);
        o.p.deaf = true;
        fill(conn_out(o.c), how ? CONN_OUT_LIMIT : 1);
        conn_close(&o.c, 30);
        WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
        finish(&o);
    }
}

static void test_linger_after_the_peers_end_is_short(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    shutdown(o.p.fd, SHUT_WR);
    WAIT(&o.f, &o.p, o.told[CONN_EOF]);
    assert_int_equal(buf_add(conn_out(o.c), SPAN("bye")), ERR_OK);
    conn_close(&o.c, 10 * WAIT_MS);
    WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
    WAIT(&o.f, &o.p, o.p.eof);
    assert_true(peer_got(&o.p, SPAN("bye")));
    finish(&o);
}

static void many_files(void)
{
    struct rlimit r;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
    r.rlim_cur = r.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
}

/* However many wait for their peers: what the kernel takes is sent. */
static void test_linger_most(void **state)
{
    (void)state;
    enum { MOST = 1024 };
    struct owner o;
    setup(&o);
    many_files();
    int *clients = NEW_ARRAY(int, MOST);
    for (size_t i = 0; i < MOST; i++) {
        int server;
        tcp_pair(&server, &clients[i]);
        struct conn *c = conn_open(o.f.loop, server);
        conn_close(&c, 10 * WAIT_MS);
    }
    assert_int_equal(buf_add(conn_out(o.c), SPAN("bye")), ERR_OK);
    conn_close(&o.c, 10 * WAIT_MS);
    WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
    WAIT(&o.f, &o.p, o.p.eof || o.p.error);
    assert_true(peer_got(&o.p, SPAN("bye")));
    for (size_t i = 0; i < MOST; i++) {
        close(clients[i]);
    }
    WAIT(&o.f, &o.p, conn_count() == 0);
    free(clients);
    finish(&o);
}

/* Who has said that it says no more gets the reply, and is not waited for; tls, too. */
static void check_last_word(bool tls)
{
    struct owner o;
    setup(&o);
    if (tls) {
        start_tls(&o);
    }
    peer_send(&o.p, SPAN("QUIT\r\n"));
    WAIT(&o.f, &o.p, span_eq(buf_span(&o.got), SPAN("QUIT\r\n")));
    assert_int_equal(buf_add(conn_out(o.c), SPAN("bye")), ERR_OK);
    conn_last_word(o.c);
    conn_close(&o.c, 10 * WAIT_MS);
    WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
    WAIT(&o.f, &o.p, o.p.eof || o.p.error);
    assert_int_equal(o.p.error, 0);
    assert_true(peer_got(&o.p, SPAN("bye")));
    finish(&o);
}

static void test_last_word(void **state)
{
    (void)state;
    check_last_word(false);
    check_last_word(true);
}

/* It was not the last: what comes behind it must not turn the reply into a reset. */
static void test_last_word_that_was_not(void **state)
{
    (void)state;
    for (int how = 0; how < 2; how++) {
        struct owner o;
        setup(&o);
        o.hold = how == 0;
        peer_send(&o.p, SPAN("QUIT\r\n"));
        WAIT(&o.f, &o.p, o.told[CONN_DATA]);
        if (how == 1) { /* in the kernel, unread */
            assert_int_equal(send(o.p.fd, "NOOP\r\n", 6, 0), 6);
        }
        assert_int_equal(buf_add(conn_out(o.c), SPAN("bye")), ERR_OK);
        conn_last_word(o.c);
        conn_close(&o.c, 10 * WAIT_MS);
        WAIT(&o.f, &o.p, o.p.eof || o.p.error);
        assert_int_equal(o.p.error, 0);
        assert_true(peer_got(&o.p, SPAN("bye")));
        fixture_settle(&o.f, &o.p);
        assert_int_equal(o.told[CONN_CLOSED], 0);
        shutdown(o.p.fd, SHUT_WR);
        finish(&o);
    }
}

/* Between an event and its being told, the owner was faster. */
static void test_stale_events_are_not_told(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    peer_send(&o.p, SPAN("x"));
    WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) > 0);
    assert_int_equal(o.told[CONN_DATA], 0);
    buf_clear(conn_in(o.c));
    conn_taken(o.c);
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DATA], 0);

    o.p.deaf = true;
    fill(conn_out(o.c), CONN_OUT_LIMIT);
    assert_false(flush(&o));
    o.p.deaf = false;
    WAIT(&o.f, &o.p, buf_len(conn_out(o.c)) == 0);
    assert_int_equal(o.told[CONN_DRAINED], 0);
    o.p.deaf = true;
    fill(conn_out(o.c), CONN_OUT_LIMIT);
    assert_false(flush(&o));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DRAINED], 0);
    o.p.deaf = false;
    WAIT(&o.f, &o.p, o.told[CONN_DRAINED] == 1);
    finish(&o);
}

static void close_in_event(void *arg, struct conn *c, enum conn_event ev)
{
    struct owner *o = arg;
    o->told[ev]++;
    assert_true(o->told[ev] == 1);
    if (ev != CONN_CLOSED) {
        assert_ptr_equal(c, o->c);
        buf_add(conn_out(c), SPAN("bye"));
        conn_close(&o->c, WAIT_MS);
    }
}

/* Several events are due, or come of the close itself, and the owner closes in the first. */
static void test_close_within_an_event(void **state)
{
    (void)state;
    for (int reset = 0; reset < 2; reset++) {
        struct owner o;
        open_pair(&o);
        peer_send(&o.p, SPAN("x"));
        peer_pump(&o.p);
        shutdown(o.p.fd, SHUT_WR);
        WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) == 1);
        if (reset) {
            peer_reset(&o.p);
        } else {
            fixture_settle(&o.f, &o.p);
        }
        conn_own(o.c, close_in_event, &o);
        WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
        assert_int_equal(o.told[CONN_DATA], 1);
        assert_int_equal(o.told[CONN_EOF], 0);
        finish(&o);
    }
}

static unsigned trims;

/* In place of the C library's. */
int malloc_trim(size_t pad)
{
    assert_int_equal(pad, 0);
    trims++;
    return 1;
}

/* What many have had goes back to the system when they are gone, and not before. */
static void test_many_give_memory_back(void **state)
{
    (void)state;
    enum { MANY = 1200 };
    static struct conn *all[MANY];
    struct fixture f;
    trims = 0;
    many_files();
    fixture_init(&f);
    for (size_t i = 0; i < MANY; i++) {
        int ends[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
        all[i] = conn_open(f.loop, ends[0]);
        close(ends[1]);
    }
    for (size_t i = 0; i < MANY; i++) {
        conn_close(&all[i], 0);
    }
    assert_int_equal(trims, 0);
    WAIT(&f, NULL, conn_count() == 0);
    assert_int_equal(trims, 1);
    fixture_fini(&f);
}

/* --- TLS ------------------------------------------------------------------------------------- */

/* The same on both sides. */
static void check_bindings(struct owner *o)
{
    static const char label[] = "EXPORTER-Channel-Binding";
    uint8_t here[TLS_END_POINT_SIZE], there[EVP_MAX_MD_SIZE];
    char names[1][TLS_NAME_SIZE];
    unsigned n;
    assert_true(conn_secure(o->c));
    assert_true(conn_tls_exporter(o->c, here));
    assert_int_equal(SSL_export_keying_material(o->p.ssl, there, TLS_EXPORTER_SIZE, label,
                                                strlen(label), NULL, 0, 0),
                     1);
    assert_memory_equal(here, there, TLS_EXPORTER_SIZE);
    assert_int_equal(X509_digest(SSL_get0_peer_certificate(o->p.ssl), EVP_sha256(), there, &n), 1);
    assert_int_equal(conn_tls_end_point(o->c, here), n);
    assert_memory_equal(here, there, n);
    assert_int_equal(conn_certificate_names(o->c, names, 1), 0);
}

static void test_tls_talk(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    start_tls(&o);
    assert_non_null(strstr(conn_tls_text(o.c), "TLSv1.3 TLS_"));
    check_bindings(&o);
    peer_send(&o.p, SPAN("CAPA\r\n"));
    WAIT(&o.f, &o.p, span_eq(buf_span(&o.got), SPAN("CAPA\r\n")));
    assert_true(send_text(&o, "+OK\r\n"));
    WAIT(&o.f, &o.p, peer_got(&o.p, SPAN("+OK\r\n")));
    assert_null(conn_in(o.c)->mem);
    assert_null(conn_out(o.c)->mem);
    finish(&o);
}

/* What the conn holds: closing gives it back. */
static size_t held_by(struct owner *o)
{
    size_t before = heap_used();
    conn_close(&o->c, 0);
    WAIT(&o->f, NULL, o->told[CONN_CLOSED] == 1);
    return before - heap_used();
}

/* While its peer says nothing, whatever was said before. Without TLS: 0. */
static size_t held_while_idle(int version)
{
    struct owner o;
    setup(&o);
    struct tls *t = fixture_tls(&o.f); /* else the conn would give back the context too */
    if (version) {
        peer_start_tls(&o.p);
        assert_int_equal(SSL_set_max_proto_version(o.p.ssl, version), 1);
        assert_int_equal(conn_start_tls(o.c, t), ERR_OK);
        WAIT(&o.f, &o.p, o.told[CONN_TLS_UP]);
        assert_int_equal(SSL_version(o.p.ssl), version);
    }
    fill(&o.p.to_send, 60000);
    WAIT(&o.f, &o.p, buf_len(&o.got) == 60000);
    fill(conn_out(o.c), 60000);
    flush(&o);
    WAIT(&o.f, &o.p, buf_len(&o.p.got) == 60000);
    fixture_settle(&o.f, &o.p);
    size_t held = held_by(&o);
    tls_unref(&t);
    finish(&o);
    return held;
}

static void test_idle_costs_little(void **state)
{
    (void)state;
    held_while_idle(TLS1_3_VERSION); /* OpenSSL has its own first times */
    assert_in_range(held_while_idle(0), 1, 1024);
    assert_in_range(held_while_idle(TLS1_2_VERSION), 1, 18 * 1024);
    assert_in_range(held_while_idle(TLS1_3_VERSION), 1, 18 * 1024);
}

static void test_tls_1_2_is_the_floor(void **state)
{
    (void)state;
    for (int old = 0; old < 2; old++) {
        struct owner o;
        setup(&o);
        struct tls *t = fixture_tls(&o.f);
        assert_int_equal(SSL_CTX_get_min_proto_version(tls_ctx(t)), TLS1_2_VERSION);
        peer_start_tls(&o.p);
        SSL_set_security_level(o.p.ssl, 0);
        SSL_set_min_proto_version(o.p.ssl, TLS1_VERSION);
        SSL_set_max_proto_version(o.p.ssl, old ? TLS1_1_VERSION : TLS1_2_VERSION);
        assert_int_equal(conn_start_tls(o.c, t), ERR_OK);
        tls_unref(&t);
        WAIT(&o.f, &o.p, o.told[old ? CONN_EOF : CONN_TLS_UP]);
        assert_int_equal(conn_tls(o.c), !old);
        assert_int_equal(conn_broken(o.c), old);
        finish(&o);
    }
}

/* What was written in front of STARTTLS goes in plain text, even if it was never flushed. */
static void test_starttls_sends_the_plain_rest_first(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    struct tls *t = fixture_tls(&o.f);
    fill(conn_out(o.c), CONN_OUT_LIMIT - 100);
    assert_int_equal(conn_start_tls(o.c, t), ERR_OK);
    tls_unref(&t);
    assert_false(send_text(&o, "secret"));
    WAIT(&o.f, &o.p, buf_len(&o.p.got) == CONN_OUT_LIMIT - 100);
    check_filled(&o.p.got, CONN_OUT_LIMIT - 100);
    buf_clear(&o.p.got);
    peer_start_tls(&o.p);
    WAIT(&o.f, &o.p, peer_got(&o.p, SPAN("secret")));
    WAIT(&o.f, &o.p, o.told[CONN_DRAINED] == 1);
    assert_int_equal(o.told[CONN_TLS_UP], 1);
    finish(&o);
}

/* Plain text behind STARTTLS: already read, or still with the kernel. */
static void test_starttls_injection_is_refused(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    struct tls *t = fixture_tls(&o.f);
    o.hold = true;
    peer_send(&o.p, SPAN("USER injected\r\n"));
    WAIT(&o.f, &o.p, o.told[CONN_DATA]);
    assert_int_equal(conn_start_tls(o.c, t), ERR_INVALID);
    assert_false(conn_tls(o.c));

    buf_clear(conn_in(o.c));
    conn_taken(o.c);
    conn_read(o.c, false);
    peer_send(&o.p, SPAN("USER injected\r\n"));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(conn_start_tls(o.c, t), ERR_OK);
    WAIT(&o.f, &o.p, o.told[CONN_EOF]);
    assert_true(conn_broken(o.c));
    assert_int_equal(o.told[CONN_TLS_UP], 0);
    assert_int_equal(buf_len(conn_in(o.c)), 0);
    tls_unref(&t);
    finish(&o);
}

/* The peer's first words come in the same segment as the end of its handshake. */
static void test_tls_input_with_the_handshake(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    peer_send(&o.p, SPAN("early bird"));
    start_tls(&o);
    WAIT(&o.f, &o.p, span_eq(buf_span(&o.got), SPAN("early bird")));
    finish(&o);
}

/* Both are read from the socket at once. */
static void test_tls_records_that_come_together(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    start_tls(&o);
    peer_send(&o.p, SPAN("one "));
    peer_pump(&o.p);
    peer_send(&o.p, SPAN("two"));
    peer_pump(&o.p);
    WAIT(&o.f, &o.p, span_eq(buf_span(&o.got), SPAN("one two")));
    assert_int_equal(o.told[CONN_DATA], 1);
    finish(&o);
}

/* What OpenSSL has read already makes no noise on the socket, and must not be forgotten. */
static void test_tls_full_input_pauses_reading(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    start_tls(&o);
    o.hold = true;
    size_t total = 1024 * 1024 + 77;
    fill(&o.p.to_send, total);
    while (buf_len(&o.got) < total) {
        WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) > 0);
        fixture_settle(&o.f, &o.p);
        assert_true(buf_len(conn_in(o.c)) <= CONN_IN_LIMIT);
        assert_int_equal(buf_add(&o.got, buf_span(conn_in(o.c))), ERR_OK);
        buf_clear(conn_in(o.c));
        conn_taken(o.c);
    }
    check_filled(&o.got, total);
    finish(&o);
}

/* A lowered limit cuts a record in two; the rest of it comes when there is room. */
static void test_tls_limit_within_a_record(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    start_tls(&o);
    o.hold = true;
    conn_in(o.c)->limit = 4;
    peer_send(&o.p, SPAN("0123456789"));
    WAIT(&o.f, &o.p, buf_len(conn_in(o.c)) == 4);
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DATA], 1);
    conn_in(o.c)->limit = CONN_IN_LIMIT;
    conn_taken(o.c);
    WAIT(&o.f, &o.p, o.told[CONN_DATA] == 2);
    assert_true(span_eq(buf_span(conn_in(o.c)), SPAN("0123456789")));
    finish(&o);
}

static void test_tls_slow_reader(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    start_tls(&o);
    o.p.deaf = true;
    fill(conn_out(o.c), CONN_OUT_LIMIT);
    assert_false(flush(&o));
    fixture_settle(&o.f, &o.p);
    assert_int_equal(o.told[CONN_DRAINED], 0);
    o.p.deaf = false;
    WAIT(&o.f, &o.p, o.told[CONN_DRAINED] == 1);
    WAIT(&o.f, &o.p, buf_len(&o.p.got) == CONN_OUT_LIMIT);
    check_filled(&o.p.got, CONN_OUT_LIMIT);
    finish(&o);
}

/* With close_notify and without: an end, after which replies still arrive if they can. */
static void test_tls_ends(void **state)
{
    (void)state;
    for (int notify = 0; notify < 2; notify++) {
        struct owner o;
        setup(&o);
        start_tls(&o);
        peer_send(&o.p, SPAN("QUIT\r\n"));
        peer_pump(&o.p);
        if (notify) {
            SSL_shutdown(o.p.ssl);
        }
        shutdown(o.p.fd, SHUT_WR);
        WAIT(&o.f, &o.p, o.told[CONN_EOF]);
        assert_true(span_eq(buf_span(&o.got), SPAN("QUIT\r\n")));
        assert_false(conn_broken(o.c));
        assert_true(send_text(&o, "+OK\r\n"));
        WAIT(&o.f, &o.p, peer_got(&o.p, SPAN("+OK\r\n")));
        finish(&o);
    }
}

static void test_tls_close_says_so(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    start_tls(&o);
    o.p.deaf = true;
    fill(conn_out(o.c), CONN_OUT_LIMIT);
    conn_close(&o.c, WAIT_MS);
    fixture_settle(&o.f, &o.p);
    o.p.deaf = false;
    WAIT(&o.f, &o.p, o.p.eof || o.p.error);
    assert_int_equal(o.p.error, 0);
    assert_int_equal(SSL_get_shutdown(o.p.ssl) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
    check_filled(&o.p.got, CONN_OUT_LIMIT);
    shutdown(o.p.fd, SHUT_WR);
    finish(&o);
}

static void test_close_within_the_handshake(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    struct tls *t = fixture_tls(&o.f);
    assert_int_equal(conn_start_tls(o.c, t), ERR_OK);
    tls_unref(&t);
    fixture_settle(&o.f, &o.p);
    conn_close(&o.c, 10 * WAIT_MS);
    WAIT(&o.f, &o.p, o.told[CONN_CLOSED]);
    finish(&o);
}

static void test_reset_within_the_handshake(void **state)
{
    (void)state;
    struct owner o;
    setup(&o);
    struct tls *t = fixture_tls(&o.f);
    assert_int_equal(conn_start_tls(o.c, t), ERR_OK);
    tls_unref(&t);
    peer_send(&o.p, SPAN("\x16\x03\x01"));
    fixture_settle(&o.f, &o.p);
    peer_reset(&o.p);
    WAIT(&o.f, &o.p, o.told[CONN_EOF] == 1);
    assert_true(conn_broken(o.c));
    finish(&o);
}

static void test_bad_certificates_are_named(void **state)
{
    (void)state;
    struct fixture f;
    char why[256] = "", cert[128], key[128];
    fixture_init(&f);
    struct tls *t = fixture_tls(&f), *none = NULL;
    snprintf(cert, sizeof cert, "%s/cert.pem", f.dir);
    snprintf(key, sizeof key, "%s/key.pem", f.dir);
    assert_int_equal(
        tls_load(&(struct tls_options){ .certificate = "/nonexistent.pem", .key = key }, &none, why,
                 sizeof why),
        ERR_INVALID);
    assert_non_null(strstr(why, "/nonexistent.pem: "));
    assert_int_equal(
        tls_load(&(struct tls_options){ .certificate = cert, .key = cert }, &none, why, sizeof why),
        ERR_INVALID);
    assert_non_null(strstr(why, "cert.pem: "));
    EVP_PKEY *other = EVP_EC_gen("P-256");
    write_pem(f.dir, "key.pem", other, NULL);
    EVP_PKEY_free(other);
    assert_int_equal(
        tls_load(&(struct tls_options){ .certificate = cert, .key = key }, &none, why, sizeof why),
        ERR_INVALID);
    assert_non_null(strstr(why, "key.pem: "));
    assert_null(none);
    tls_unref(&t);
    tls_unref(&none);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_talk),
        cmocka_unit_test(test_idle_owns_no_buffer),
        cmocka_unit_test(test_events_wait_for_an_owner),
        cmocka_unit_test(test_full_input_pauses_reading),
        cmocka_unit_test(test_reading_stops_and_goes_on),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_reset_after_half_close),
        cmocka_unit_test(test_deadline_is_not_moved_by_bytes),
        cmocka_unit_test(test_deadline_is_moved),
        cmocka_unit_test(test_deadline_is_turned_off),
        cmocka_unit_test(test_linger_saves_the_last_reply),
        cmocka_unit_test(test_linger_has_an_end),
        cmocka_unit_test(test_linger_after_the_peers_end_is_short),
        cmocka_unit_test(test_linger_most),
        cmocka_unit_test(test_last_word),
        cmocka_unit_test(test_last_word_that_was_not),
        cmocka_unit_test(test_stale_events_are_not_told),
        cmocka_unit_test(test_close_within_an_event),
        cmocka_unit_test(test_many_give_memory_back),
        cmocka_unit_test(test_tls_talk),
        cmocka_unit_test(test_idle_costs_little),
        cmocka_unit_test(test_tls_1_2_is_the_floor),
        cmocka_unit_test(test_starttls_sends_the_plain_rest_first),
        cmocka_unit_test(test_starttls_injection_is_refused),
        cmocka_unit_test(test_tls_input_with_the_handshake),
        cmocka_unit_test(test_tls_records_that_come_together),
        cmocka_unit_test(test_tls_full_input_pauses_reading),
        cmocka_unit_test(test_tls_limit_within_a_record),
        cmocka_unit_test(test_tls_slow_reader),
        cmocka_unit_test(test_tls_ends),
        cmocka_unit_test(test_tls_close_says_so),
        cmocka_unit_test(test_close_within_the_handshake),
        cmocka_unit_test(test_reset_within_the_handshake),
        cmocka_unit_test(test_bad_certificates_are_named),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
