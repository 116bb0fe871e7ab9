/* Tests of listener: the PROXY header, forbidden networks, implicit TLS, and both in one port. */
#include "net_fixture.h"

#include "base/stats.h"
#include "net/listener.h"

#define V1 SPAN("PROXY TCP4 192.0.2.1 198.51.100.7 56324 110\r\n")
#define V2                                                                                         \
    SPAN("\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x00\x6e")
#define V2_LOCAL SPAN("\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00")

struct server {
    struct fixture f;
    struct listener *ln;
    struct sockaddr_in at;
    struct netset *networks;
    struct tls *tls;
    struct conn *c; /* the one that was accepted last */
    int accepted;
    int closed;
    int admitted, left; /* of options.admit */
    bool full;
    char asked[NETADDR_TEXT]; /* the client that admit was asked about last */
    struct buf got;
};

static void on_event(void *arg, struct conn *c, enum conn_event ev)
{
    struct server *s = arg;
    assert_int_not_equal(ev, CONN_DEADLINE);
    if (ev == CONN_DATA) {
        assert_int_equal(buf_add(&s->got, buf_span(conn_in(c))), ERR_OK);
        buf_clear(conn_in(c));
        conn_taken(c);
    }
    s->closed += ev == CONN_CLOSED;
}

static void on_accept(void *arg, struct conn *c)
{
    struct server *s = arg;
    s->accepted++;
    s->c = c;
    conn_own(c, on_event, s);
}

static bool on_admit(void *arg, const struct conn *c)
{
    struct server *s = arg;
    assert_false(conn_tls(c));
    netaddr_host(conn_peer(c), s->asked);
    s->admitted += !s->full;
    return !s->full;
}

static void on_leave(void *arg, const struct conn *c)
{
    struct server *s = arg;
    char host[NETADDR_TEXT];
    netaddr_host(conn_peer(c), host);
    assert_string_equal(host, s->asked);
    s->left++;
}

#define LONG 600000 /* ms; never reached */

static struct server *server_open(bool proxy, bool tls, const char *network, uint64_t preface_ms)
{
    struct server *s = NEW(struct server);
    socklen_t size = sizeof s->at;
    const char *bad;
    struct config_list l = { 1, &network };
    fixture_init(&s->f);
    buf_init(&s->got, BIG);
    assert_int_equal(netset_parse(&l, &s->networks, &bad), ERR_OK);
    s->tls = tls ? fixture_tls(&s->f) : NULL;
    s->at =
        (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = listener_bind((struct sockaddr *)&s->at);
    assert_true(fd >= 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&s->at, &size), 0);
    struct listener_options o = { .fd = fd,
                                  .proxy = proxy,
                                  .networks = s->networks,
                                  .tls = s->tls,
                                  .preface_ms = preface_ms,
                                  .admit = on_admit,
                                  .leave = on_leave,
                                  .accept = on_accept,
                                  .arg = s };
    assert_int_equal(listener_open(s->f.loop, &o, &s->ln), ERR_OK);
    return s;
}

static void end_conn(struct server *s)
{
    int before = s->closed;
    conn_close(&s->c, 0);
    WAIT(&s->f, NULL, s->closed > before);
}

static void server_close(struct server *s)
{
    if (s->c) {
        end_conn(s);
    }
    if (s->ln) {
        listener_close(&s->ln);
    }
    tls_unref(&s->tls);
    netset_free(&s->networks);
    buf_fini(&s->got);
    fixture_fini(&s->f);
    free(s);
}

static uint64_t counted(enum stat_id st)
{
    static struct stats slot;
    static bool used;
    if (!used) {
        stats_use(&slot);
        used = true;
    }
    return stats_get(&slot, st);
}

static void check_peer(const struct server *s, const char *host, const char *local)
{
    char text[NETADDR_TEXT];
    netaddr_host(conn_peer(s->c), text);
    assert_string_equal(text, host);
    netaddr_host(conn_local(s->c), text);
    assert_string_equal(text, local);
}

static void check_refused(struct server *s, struct peer *p)
{
    WAIT(&s->f, p, p->eof || p->error);
    assert_int_equal(s->accepted, 0);
    assert_int_equal(buf_len(&p->got), 0);
}

static void test_plain_port(void **state)
{
    (void)state;
    struct server *s = server_open(false, false, "10.0.0.0/8", LONG);
    struct peer p;
    uint64_t before = counted(STAT_connections);
    peer_init(&p, connect_to(&s->at));
    WAIT(&s->f, &p, s->accepted == 1);
    check_peer(s, "127.0.0.1", "127.0.0.1");
    assert_int_equal(netaddr_port(conn_local(s->c)), ntohs(s->at.sin_port));
    assert_int_equal(counted(STAT_connections), before + 1);
    peer_send(&p, SPAN("hello"));
    WAIT(&s->f, &p, span_eq(buf_span(&s->got), SPAN("hello")));
    peer_fini(&p);
    server_close(s);
}

/* Enough to accept and to read what is there. */
static void few_turns(struct server *s)
{
    for (int i = 0; i < 4; i++) {
        fixture_turn(&s->f, NULL);
    }
}

/* The header, and the client's own words behind it, cut into two segments at every octet. */
static void test_header_split_at_every_octet(void **state)
{
    (void)state;
    const struct span headers[] = { V1, V2 };
    struct server *s = server_open(true, false, "127.0.0.0/8", LONG);
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        char all[128];
        struct span said = SPAN("hello");
        size_t n = headers[i].n + said.n;
        memcpy(all, headers[i].p, headers[i].n);
        memcpy(all + headers[i].n, said.p, said.n);
        for (size_t cut = 1; cut <= n; cut++) {
            struct peer p;
            int before = s->accepted;
            buf_clear(&s->got);
            peer_init(&p, connect_to(&s->at));
            peer_send(&p, span_of(all, cut));
            peer_pump(&p);
            if (cut >= headers[i].n) {
                WAIT(&s->f, &p, s->accepted > before);
            } else {
                few_turns(s);
                assert_int_equal(s->accepted, before);
            }
            peer_send(&p, span_of(all + cut, n - cut));
            WAIT(&s->f, &p, s->accepted > before && buf_len(&s->got) == said.n);
            assert_true(span_eq(buf_span(&s->got), said));
            check_peer(s, "192.0.2.1", "198.51.100.7");
            end_conn(s);
            peer_fini(&p);
        }
    }
    server_close(s);
}

/* The TLS hello comes right behind the header, in one segment with it or with a part of it. */
static void test_header_in_front_of_tls(void **state)
{
    (void)state;
    const struct span headers[] = { V1, V2, V2_LOCAL };
    struct server *s = server_open(true, true, "127.0.0.0/8", LONG);
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        for (size_t cut = 0; cut <= headers[i].n; cut++) {
            struct peer p;
            int before = s->accepted;
            buf_clear(&s->got);
            peer_init(&p, connect_to(&s->at));
            peer_send(&p, span_first(headers[i], cut));
            peer_pump(&p);
            few_turns(s);
            peer_send(&p, span_skip(headers[i], cut));
            peer_pump(&p);
            assert_int_equal(buf_len(&p.to_send), 0);
            peer_start_tls(&p);
            peer_send(&p, SPAN("hello"));
            WAIT(&s->f, &p, s->accepted > before && buf_len(&s->got) == 5);
            assert_true(conn_tls(s->c));
            check_peer(s, i == 2 ? "127.0.0.1" : "192.0.2.1",
                       i == 2 ? "127.0.0.1" : "198.51.100.7");
            end_conn(s);
            peer_fini(&p);
        }
    }
    server_close(s);
}

static void test_local_header_leaves_the_addresses(void **state)
{
    (void)state;
    struct server *s = server_open(true, false, "127.0.0.0/8", LONG);
    struct peer p;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V2_LOCAL);
    WAIT(&s->f, &p, s->accepted == 1);
    check_peer(s, "127.0.0.1", "127.0.0.1");
    peer_fini(&p);
    server_close(s);
}

#define V2_OF_TLS                                                                                  \
    SPAN("\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x22"                                                    \
         "\x20\x00\x19\x01\0\0\0\0\x21\x00\x07TLSv1.3\x23\x00\x07TLS_AES"                          \
         "\x05\x00\x03"                                                                            \
         "abc")

/* What the balancer says of TLS counts where it is trusted, and there alone. */
static void test_tls_of_the_balancer(void **state)
{
    (void)state;
    uint8_t binding[64];
    struct server *s = server_open(true, false, "127.0.0.0/8", LONG);
    for (int trust = 0; trust < 2; trust++) {
        struct peer p;
        listener_set_proxy(s->ln, s->networks, trust);
        peer_init(&p, connect_to(&s->at));
        peer_send(&p, V2_OF_TLS);
        WAIT(&s->f, &p, s->accepted == trust + 1);
        assert_int_equal(conn_secure(s->c), trust);
        assert_false(conn_tls(s->c));
        assert_string_equal(conn_tls_text(s->c), trust ? "TLSv1.3 TLS_AES" : "");
        assert_string_equal(conn_unique_id(s->c), "abc");
        assert_false(conn_tls_exporter(s->c, binding));
        assert_int_equal(conn_tls_end_point(s->c, binding), 0);
        end_conn(s);
        peer_fini(&p);
    }
    server_close(s);
}

static void test_header_is_required(void **state)
{
    (void)state;
    struct server *s = server_open(true, false, "127.0.0.0/8", LONG);
    uint64_t before = counted(STAT_proxy_errors);
    struct peer p;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, SPAN("EHLO client.test\r\n"));
    check_refused(s, &p);
    assert_int_equal(counted(STAT_proxy_errors), before + 1);
    peer_fini(&p);

    peer_init(&p, connect_to(&s->at));
    peer_send(&p, SPAN("PROXY TCP4 "));
    peer_pump(&p);
    shutdown(p.fd, SHUT_WR);
    check_refused(s, &p);
    assert_int_equal(counted(STAT_proxy_errors), before + 2);
    peer_fini(&p);

    /* A check of the port that says nothing is no error. */
    peer_init(&p, connect_to(&s->at));
    shutdown(p.fd, SHUT_WR);
    check_refused(s, &p);
    assert_int_equal(counted(STAT_proxy_errors), before + 2);
    peer_fini(&p);
    server_close(s);
}

static void test_forbidden_network(void **state)
{
    (void)state;
    struct server *s = server_open(true, false, "10.0.0.0/8", LONG);
    uint64_t before = counted(STAT_proxy_errors);
    struct peer p;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V2);
    check_refused(s, &p);
    assert_int_equal(counted(STAT_proxy_errors), before + 1);
    peer_fini(&p);

    /* A reload that allows it counts from now on. */
    const char *word = "127.0.0.1", *bad;
    struct config_list l = { 1, &word };
    struct netset *wider;
    assert_int_equal(netset_parse(&l, &wider, &bad), ERR_OK);
    listener_set_proxy(s->ln, wider, false);
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V2);
    WAIT(&s->f, &p, s->accepted == 1);
    peer_fini(&p);
    server_close(s);
    netset_free(&wider);
}

static void test_preface_has_a_deadline(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct server *s = server_open(!tls, tls, "127.0.0.0/8", 20);
        enum stat_id st = tls ? STAT_tls_errors : STAT_proxy_errors;
        uint64_t before = counted(st);
        struct peer p;
        peer_init(&p, connect_to(&s->at));
        check_refused(s, &p);
        assert_int_equal(counted(st), before + 1);
        peer_fini(&p);
        server_close(s);
    }
}

/* The deadline of the preface is not the session's. */
static void test_deadline_ends_with_the_preface(void **state)
{
    (void)state;
    struct server *s = server_open(true, false, "127.0.0.0/8", 50);
    struct peer p;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V1);
    WAIT(&s->f, &p, s->accepted == 1);
    uint64_t later = loop_now(s->f.loop) + 100;
    WAIT(&s->f, &p, loop_now(s->f.loop) > later);
    peer_send(&p, SPAN("still here"));
    WAIT(&s->f, &p, buf_len(&s->got) == 10);
    peer_fini(&p);
    server_close(s);
}

static void test_implicit_tls(void **state)
{
    (void)state;
    struct server *s = server_open(false, true, "127.0.0.0/8", LONG);
    uint64_t handshakes = counted(STAT_tls_handshakes), errors = counted(STAT_tls_errors);
    struct peer p;
    peer_init(&p, connect_to(&s->at));
    fixture_settle(&s->f, &p);
    assert_int_equal(s->accepted, 0);
    peer_start_tls(&p);
    WAIT(&s->f, &p, s->accepted == 1);
    assert_true(conn_tls(s->c));
    assert_int_equal(counted(STAT_tls_handshakes), handshakes + 1);
    end_conn(s);
    peer_fini(&p);

    s->accepted = 0;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, SPAN("USER plain\r\n"));
    WAIT(&s->f, &p, p.eof || p.error);
    assert_int_equal(s->accepted, 0);
    assert_int_equal(counted(STAT_tls_errors), errors + 1);
    peer_fini(&p);
    server_close(s);
}

/* Nothing is done for a client that may not come in, and what never gets ready has left again. */
static void test_admission(void **state)
{
    (void)state;
    struct server *s = server_open(true, true, "127.0.0.0/8", LONG);
    uint64_t handshakes = counted(STAT_tls_handshakes);
    struct peer p;
    s->full = true;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V1);
    check_refused(s, &p);
    assert_string_equal(s->asked, "192.0.2.1");
    assert_int_equal(s->left, 0);
    assert_int_equal(counted(STAT_tls_handshakes), handshakes);
    peer_fini(&p);

    s->full = false;
    peer_init(&p, connect_to(&s->at));
    few_turns(s);
    assert_int_equal(s->admitted, 0); /* nobody knows yet who it is */
    peer_send(&p, V1);
    WAIT(&s->f, &p, s->admitted == 1);
    assert_int_equal(s->accepted, 0);
    peer_start_tls(&p);
    WAIT(&s->f, &p, s->accepted == 1);
    end_conn(s);
    peer_fini(&p);
    assert_int_equal(s->left, 0);
    assert_int_equal(s->admitted, 1);

    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V1);
    peer_send(&p, SPAN("USER plain\r\n"));
    WAIT(&s->f, &p, s->left == 1); /* no handshake */
    peer_fini(&p);

    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V1);
    WAIT(&s->f, &p, s->admitted == 3);
    peer_fini(&p);
    WAIT(&s->f, NULL, s->left == 2); /* hung up */

    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V1);
    WAIT(&s->f, &p, s->admitted == 4);
    listener_close(&s->ln);
    assert_int_equal(s->left, 3);
    peer_fini(&p);
    server_close(s);
}

/* Ports without TLS ask nobody: accept has its own answer for whom it refuses. */
static void test_admission_is_for_tls(void **state)
{
    (void)state;
    struct server *s = server_open(true, false, "127.0.0.0/8", LONG);
    struct peer p;
    s->full = true;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, V1);
    WAIT(&s->f, &p, s->accepted == 1);
    assert_string_equal(s->asked, "");
    peer_fini(&p);
    server_close(s);
}

/* The new certificate is for new conns. */
static void test_certificate_is_replaced(void **state)
{
    (void)state;
    struct server *s = server_open(false, true, "127.0.0.0/8", LONG);
    struct peer p, q;
    peer_init(&p, connect_to(&s->at));
    peer_start_tls(&p);
    WAIT(&s->f, &p, s->accepted == 1);
    struct conn *first = s->c;

    make_certificate(s->f.dir);
    struct tls *next = fixture_tls(&s->f);
    listener_set_tls(s->ln, next);
    tls_unref(&s->tls);
    s->tls = next;
    peer_init(&q, connect_to(&s->at));
    peer_start_tls(&q);
    WAIT(&s->f, &q, s->accepted == 2);
    X509 *a = SSL_get1_peer_certificate(p.ssl), *b = SSL_get1_peer_certificate(q.ssl);
    assert_int_not_equal(X509_cmp(a, b), 0);
    X509_free(a);
    X509_free(b);

    peer_send(&p, SPAN("old friend"));
    WAIT(&s->f, &p, buf_len(&s->got) == 10);
    end_conn(s);
    s->c = first;
    peer_fini(&p);
    peer_fini(&q);
    server_close(s);
}

/* Who is in a session stays; who is in the preface goes, and nobody else comes in. */
static void test_close(void **state)
{
    (void)state;
    struct server *s = server_open(true, false, "127.0.0.0/8", LONG);
    struct peer in, waiting;
    peer_init(&in, connect_to(&s->at));
    peer_send(&in, V1);
    WAIT(&s->f, &in, s->accepted == 1);
    peer_init(&waiting, connect_to(&s->at));
    peer_send(&waiting, SPAN("PROXY"));
    fixture_settle(&s->f, &waiting);
    listener_close(&s->ln);
    WAIT(&s->f, &waiting, waiting.eof || waiting.error);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&s->at, sizeof s->at), -1);
    close(fd);
    peer_send(&in, SPAN("go on"));
    WAIT(&s->f, &in, buf_len(&s->got) == 5);
    assert_int_equal(s->accepted, 1);
    peer_fini(&in);
    peer_fini(&waiting);
    server_close(s);
}

/* Two workers on one address; a foreign socket there is an error. */
static void test_bind(void **state)
{
    (void)state;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int first = listener_bind((struct sockaddr *)&at);
    assert_true(first >= 0);
    assert_int_equal(getsockname(first, (struct sockaddr *)&at, &size), 0);
    int second = listener_bind((struct sockaddr *)&at);
    assert_true(second >= 0);
    assert_int_equal(listen(first, 1), 0);
    assert_int_equal(listen(second, 1), 0);
    close(first);
    close(second);

    int foreign = listen_loopback(&at);
    assert_int_equal(listener_bind((struct sockaddr *)&at), -1);
    assert_int_equal(errno, EADDRINUSE);
    close(foreign);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_port),
        cmocka_unit_test(test_header_split_at_every_octet),
        cmocka_unit_test(test_header_in_front_of_tls),
        cmocka_unit_test(test_local_header_leaves_the_addresses),
        cmocka_unit_test(test_tls_of_the_balancer),
        cmocka_unit_test(test_header_is_required),
        cmocka_unit_test(test_forbidden_network),
        cmocka_unit_test(test_preface_has_a_deadline),
        cmocka_unit_test(test_deadline_ends_with_the_preface),
        cmocka_unit_test(test_implicit_tls),
        cmocka_unit_test(test_admission),
        cmocka_unit_test(test_admission_is_for_tls),
        cmocka_unit_test(test_certificate_is_replaced),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_bind),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
