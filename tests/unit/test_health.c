/* Tests of health: the text of /readyz and /metrics, and the listener that serves it. */
#include "net_fixture.h"

#include "daemon/parts.h"

#define WORKERS 2

struct world {
    struct stats slots[WORKERS];
    struct health_view view;
    struct buf out;
};

static struct world *world_open(void)
{
    struct world *w = NEW(struct world);
    w->view = (struct health_view){
        .service = "mailfleet-test", .node = "n1", .slots = w->slots, .workers = WORKERS
    };
    buf_init(&w->out, 1 << 20);
    for (int i = 0; i < WORKERS; i++) {
        stats_use(&w->slots[i]);
        health_set("database", true, NULL);
        health_set("cache", false, NULL);
        stats_started();
    }
    return w;
}

static void world_close(struct world *w)
{
    static struct stats elsewhere;
    stats_use(&elsewhere);
    buf_fini(&w->out);
    free(w);
}

/* Whether the text has exactly this line. */
static bool has_line(const struct buf *b, const char *line)
{
    struct span rest = buf_span(b);
    while (rest.n > 0) {
        size_t end = span_find(rest, '\n');
        if (span_eq(span_first(rest, end), span_str(line))) {
            return true;
        }
        rest = span_skip(rest, end + 1);
    }
    return false;
}

static bool ready(struct world *w)
{
    buf_clear(&w->out);
    return health_ready(&w->view, &w->out);
}

static void test_ready(void **state)
{
    (void)state;
    struct world *w = world_open();
    assert_true(ready(w));
    assert_true(has_line(&w->out, "worker 0: database: ok"));
    assert_true(has_line(&w->out, "worker 1: cache: ok"));
    world_close(w);
}

static void test_one_worker_without_what_it_requires(void **state)
{
    (void)state;
    struct world *w = world_open();
    stats_use(&w->slots[1]);
    health_set("database", true, "connection refused");
    assert_false(ready(w));
    assert_true(has_line(&w->out, "worker 0: database: ok"));
    assert_true(has_line(&w->out, "worker 1: database: connection refused"));
    health_set("database", true, NULL);
    assert_true(ready(w));
    world_close(w);
}

static void test_what_is_not_required_leaves_the_node_ready(void **state)
{
    (void)state;
    struct world *w = world_open();
    stats_use(&w->slots[0]);
    health_set("cache", false, "does not answer");
    assert_true(ready(w));
    assert_true(has_line(&w->out, "worker 0: cache: does not answer (not required)"));
    world_close(w);
}

static void test_a_worker_that_is_gone(void **state)
{
    (void)state;
    struct world *w = world_open();
    stats_stopped(&w->slots[1]);
    assert_false(ready(w));
    assert_true(has_line(&w->out, "worker 1: not running"));
    world_close(w);
}

static void test_draining(void **state)
{
    (void)state;
    struct world *w = world_open();
    w->view.draining = true;
    assert_false(ready(w));
    assert_true(span_starts(buf_span(&w->out), SPAN("draining\n")));
    world_close(w);
}

static void test_metrics_are_sums(void **state)
{
    (void)state;
    struct world *w = world_open();
    stats_use(&w->slots[0]);
    stats_add(STAT_connections, 5);
    stats_add(STAT_sessions, 3);
    stats_use(&w->slots[1]);
    stats_add(STAT_connections, 7);
    stats_add(STAT_sessions, 2);
    stats_sub(STAT_sessions, 1);
    health_set("cache", false, "down");
    health_metrics(&w->view, &w->out);
    assert_true(has_line(&w->out, "# TYPE mailfleet_connections_total counter"));
    assert_true(has_line(&w->out, "# HELP mailfleet_connections_total Connections accepted."));
    assert_true(has_line(&w->out, "mailfleet_connections_total 12"));
    assert_true(has_line(&w->out, "# TYPE mailfleet_sessions gauge"));
    assert_true(has_line(&w->out, "mailfleet_sessions 4"));
    assert_true(has_line(&w->out, "mailfleet_health{worker=\"0\",item=\"cache\"} 1"));
    assert_true(has_line(&w->out, "mailfleet_health{worker=\"1\",item=\"cache\"} 0"));
    assert_true(has_line(&w->out, "mailfleet_ready 1"));
    assert_true(has_line(&w->out, "mailfleet_workers 2"));
    assert_true(has_line(&w->out,
                         "mailfleet_info{service=\"mailfleet-test\",version=\"" MAILFLEET_VERSION
                         "\",node=\"n1\"} 1"));
    world_close(w);
}

/* The text format: each sample is announced by HELP and TYPE of its own family, once. */
static void test_metrics_are_well_formed(void **state)
{
    (void)state;
    struct world *w = world_open();
    stats_use(&w->slots[0]);
    health_set("volume \"3\\4\"", true, "line\nbreak");
    health_metrics(&w->view, &w->out);
    char family[128] = "";
    size_t families = 0, samples = 0;
    struct span rest = buf_span(&w->out);
    assert_true(rest.n > 0 && rest.p[rest.n - 1] == '\n');
    while (rest.n > 0) {
        struct span line = span_first(rest, span_find(rest, '\n'));
        rest = span_skip(rest, line.n + 1);
        struct span words = line, first = span_word(&words);
        if (span_eq(first, SPAN("#"))) {
            struct span what = span_word(&words), name = span_word(&words);
            if (span_eq(what, SPAN("HELP"))) {
                snprintf(family, sizeof family, "%.*s", SPAN_ARG(name));
                families++;
            } else {
                assert_true(span_eq(what, SPAN("TYPE")) && span_eq(name, span_str(family)));
                assert_true(span_eq(words, SPAN("counter")) || span_eq(words, SPAN("gauge")));
            }
            continue;
        }
        struct span name = span_first(line, span_find(line, '{'));
        name = span_first(name, span_find(name, ' '));
        assert_true(span_eq(name, span_str(family)));
        samples++;
    }
    assert_int_equal(families, STAT_COUNT + 4);
    assert_int_equal(samples, STAT_COUNT + 3 + 5);
    assert_true(
        has_line(&w->out, "mailfleet_health{worker=\"0\",item=\"volume \\\"3\\\\4\\\"\"} 0"));
    world_close(w);
}

/* --- the listener ----------------------------------------------------------------------------- */

struct server {
    struct fixture f;
    struct world *w;
    struct health *h;
    struct sockaddr_in at;
};

static void server_open(struct server *s)
{
    char address[64], why[256];
    fixture_init(&s->f);
    s->w = world_open();
    close(listen_loopback(&s->at)); /* a port that is free */
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(s->at.sin_port));
    assert_int_equal(health_open(s->f.loop, address, &s->w->view, &s->h, why, sizeof why), ERR_OK);
}

static void server_close(struct server *s)
{
    health_close(&s->h);
    fixture_fini(&s->f);
    world_close(s->w);
}

/* The status; the body is checked to begin like this. */
static int get(struct server *s, const char *request, const char *body)
{
    struct peer p;
    int status = 0;
    peer_init(&p, connect_to(&s->at));
    peer_send(&p, span_str(request));
    peer_send(&p, SPAN(" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    WAIT(&s->f, &p, p.eof || p.error);
    assert_int_equal(buf_addc(&p.got, '\0'), ERR_OK);
    const char *text = buf_span(&p.got).p, *end = strstr(text, "\r\n\r\n");
    assert_non_null(end);
    assert_int_equal(sscanf(text, "HTTP/1.1 %d ", &status), 1);
    assert_true(strncmp(end + 4, body, strlen(body)) == 0);
    peer_fini(&p);
    return status;
}

static void test_pages(void **state)
{
    (void)state;
    struct server s;
    server_open(&s);
    assert_int_equal(get(&s, "GET /healthz", "ok\n"), 200);
    assert_int_equal(get(&s, "GET /readyz", "worker 0: database: ok\n"), 200);
    s.w->view.draining = true;
    assert_int_equal(get(&s, "GET /readyz", "draining\n"), 503);
    assert_int_equal(get(&s, "GET /healthz", "ok\n"), 200);
    assert_int_equal(get(&s, "GET /metrics", "# HELP mailfleet_"), 200);
    assert_int_equal(get(&s, "HEAD /readyz", ""), 503);
    assert_int_equal(get(&s, "GET /", ""), 404);
    assert_int_equal(get(&s, "GET /readyz/x", ""), 404);
    assert_int_equal(get(&s, "POST /readyz", ""), 405);
    server_close(&s);
}

/* A client that says half a request, or leaves, holds up nobody. */
static void test_slow_clients(void **state)
{
    (void)state;
    struct server s;
    struct peer slow;
    server_open(&s);
    peer_init(&slow, connect_to(&s.at));
    peer_send(&slow, SPAN("GET /heal"));
    fixture_settle(&s.f, &slow);
    assert_int_equal(get(&s, "GET /healthz", "ok\n"), 200);
    peer_send(&slow, SPAN("thz HTTP/1.0\r\n\r\n"));
    WAIT(&s.f, &slow, slow.eof);
    assert_non_null(memmem(buf_span(&slow.got).p, buf_len(&slow.got), "ok\n", 3));
    peer_fini(&slow);

    peer_init(&slow, connect_to(&s.at));
    peer_send(&slow, SPAN("GET /metr"));
    fixture_settle(&s.f, &slow);
    peer_reset(&slow);
    assert_int_equal(get(&s, "GET /healthz", "ok\n"), 200);
    peer_fini(&slow);
    server_close(&s);
}

static void test_only_loopback(void **state)
{
    (void)state;
    static const char *const bad[] = { "0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080", "8080", "" };
    struct world *w = world_open();
    struct loop *l = loop_open();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct health *h = NULL;
        char why[256] = "";
        assert_int_equal(health_open(l, bad[i], &w->view, &h, why, sizeof why), ERR_INVALID);
        assert_null(h);
        assert_true(*why);
    }
    loop_close(&l);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_one_worker_without_what_it_requires),
        cmocka_unit_test(test_what_is_not_required_leaves_the_node_ready),
        cmocka_unit_test(test_a_worker_that_is_gone),
        cmocka_unit_test(test_draining),
        cmocka_unit_test(test_metrics_are_sums),
        cmocka_unit_test(test_metrics_are_well_formed),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_only_loopback),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
