/* Tests of health: the text of /readyz and /metrics, and the listener that serves it. */
#include "net_fixture.h"

#include "daemon/parts.h"

#define WORKERS 2

struct world {
    struct stats_block *block;
    struct stats *slots;
    struct health_view view;
    struct buf out;
};

static struct world *world_open(void)
{
    struct world *w = NEW(struct world);
    w->block = mem_new(1, stats_block_size(WORKERS));
    w->slots = w->block->slots;
    w->block->drain = DRAIN_NO;
    w->view = (struct health_view){ .service = "mailfleet-test",
                                    .node = "n1",
                                    .block = w->block,
                                    .workers = WORKERS,
                                    .capacity = WORKERS * 50 };
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
    free(w->block);
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

/* A node is not ready before it has heard whether it is drained, as a drain outlives a restart. */
static void test_drained(void **state)
{
    (void)state;
    struct world *w = world_open();
    char why[HEALTH_WHY];
    w->block->drain = DRAIN_YES;
    assert_false(ready(w));
    assert_true(has_line(&w->out, "draining (by the operator)"));
    assert_true(has_line(&w->out, "worker 0: database: ok"));
    assert_true(health_well(&w->view, why));
    assert_string_equal(why, "");
    buf_clear(&w->out);
    health_metrics(&w->view, &w->out);
    assert_true(has_line(&w->out, "mailfleet_drain 1"));
    assert_true(has_line(&w->out, "mailfleet_ready 0"));
    w->block->drain = DRAIN_UNKNOWN;
    assert_false(ready(w));
    w->block->drain = DRAIN_NO;
    assert_true(ready(w));
    buf_clear(&w->out);
    health_metrics(&w->view, &w->out);
    assert_true(has_line(&w->out, "mailfleet_drain 0"));
    world_close(w);
}

static void test_why_is_the_first_that_counts(void **state)
{
    (void)state;
    struct world *w = world_open();
    char why[HEALTH_WHY];
    stats_use(&w->slots[0]);
    health_set("cache", false, "down");
    assert_true(health_well(&w->view, why));
    stats_use(&w->slots[1]);
    health_set("database", true, "gone");
    health_set("volumes", true, "none");
    assert_false(health_well(&w->view, why));
    assert_string_equal(why, "worker 1: database: gone");
    stats_stopped(&w->slots[0]);
    assert_false(health_well(&w->view, why));
    assert_string_equal(why, "worker 0: worker: not running");
    world_close(w);
}

static bool says(struct world *w, const char *line)
{
    buf_clear(&w->out);
    agent_line(&w->view, &w->out);
    return span_eq(buf_span(&w->out), span_str(line));
}

/* Two workers of 50 sessions. */
static void test_load_and_the_agents_line(void **state)
{
    (void)state;
    struct world *w = world_open();
    assert_int_equal(health_load(&w->view), 0);
    assert_true(says(w, "up ready 100%\n"));
    stats_use(&w->slots[0]);
    stats_add(STAT_sessions, 20);
    stats_use(&w->slots[1]);
    stats_add(STAT_sessions, 7);
    assert_int_equal(health_sessions(&w->view), 27);
    assert_int_equal(health_load(&w->view), 27);
    assert_true(says(w, "up ready 73%\n"));
    stats_set(STAT_busy, 90);
    assert_int_equal(health_load(&w->view), 45); /* the other worker is idle */
    assert_true(says(w, "up ready 55%\n"));
    stats_add(STAT_sessions, 73);
    assert_int_equal(health_load(&w->view), 100);
    assert_true(says(w, "up ready 1%\n")); /* 0 would be a drain, for ever */
    stats_set(STAT_busy, 900);
    assert_int_equal(health_load(&w->view), 100);
    stats_use(&w->slots[0]);
    health_set("database", true, "gone");
    assert_true(says(w, "up ready 1%\n")); /* /readyz tells that */
    w->block->drain = DRAIN_YES;
    assert_true(says(w, "drain\n"));
    w->block->drain = DRAIN_UNKNOWN;
    assert_true(says(w, "drain\n"));
    w->view.draining = true;
    assert_true(says(w, "stopped\n"));
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
    assert_true(has_line(&w->out, "mailfleet_load 4"));
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
    assert_int_equal(families, STAT_COUNT + 6);
    assert_int_equal(samples, STAT_COUNT + 5 + 5);
    assert_true(
        has_line(&w->out, "mailfleet_health{worker=\"0\",item=\"volume \\\"3\\\\4\\\"\"} 0"));
    world_close(w);
}

/* --- the listener ----------------------------------------------------------------------------- */

struct server {
    struct fixture f;
    struct world *w;
    struct netset *networks;
    struct health *h;
    struct agent *agent;
    struct sockaddr_in at, agent_at;
};

static struct netset *network(const char *text)
{
    struct netset *set;
    const char *bad;
    assert_int_equal(netset_parse(&(struct config_list){ 1, &text }, &set, &bad), ERR_OK);
    return set;
}

/* A port that is free. */
static void find_port(struct sockaddr_in *at, char address[64])
{
    close(listen_loopback(at));
    snprintf(address, 64, "127.0.0.1:%u", ntohs(at->sin_port));
}

static void server_open_for(struct server *s, const char *networks)
{
    char address[64], why[256];
    fixture_init(&s->f);
    s->w = world_open();
    s->networks = network(networks);
    find_port(&s->at, address);
    assert_int_equal(
        health_open(s->f.loop, address, s->networks, &s->w->view, &s->h, why, sizeof why), ERR_OK);
    find_port(&s->agent_at, address);
    assert_int_equal(
        agent_open(s->f.loop, address, s->networks, &s->w->view, &s->agent, why, sizeof why),
        ERR_OK);
}

static void server_open(struct server *s)
{
    server_open_for(s, "127.0.0.0/8");
}

static void server_close(struct server *s)
{
    health_close(&s->h);
    agent_close(&s->agent);
    fixture_fini(&s->f);
    netset_free(&s->networks);
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

/* One line and the end, whatever the client sends or does. */
static void test_agent(void **state)
{
    (void)state;
    static const char *const sent[] = { "", "hello\n", "GET / HTTP/1.1\r\n\r\n" };
    struct server s;
    struct peer p, silent[70];
    server_open(&s);
    for (size_t i = 0; i < ARRAY_LEN(sent); i++) {
        peer_init(&p, connect_to(&s.agent_at));
        peer_send(&p, span_str(sent[i]));
        WAIT(&s.f, &p, p.eof || p.error);
        assert_true(p.eof);
        assert_true(peer_got(&p, SPAN("up ready 100%\n")));
        peer_fini(&p);
    }
    s.w->block->drain = DRAIN_YES;
    /* Those that do not leave are few; further ones are let go without a word. */
    for (size_t i = 0; i < ARRAY_LEN(silent); i++) {
        peer_init(&silent[i], connect_to(&s.agent_at));
    }
    for (size_t i = 0; i < ARRAY_LEN(silent); i++) {
        while (!silent[i].eof && !silent[i].error) {
            fixture_turn(&s.f, &silent[i]);
            assert_true(conn_count() <= 64);
        }
    }
    assert_true(peer_got(&silent[0], SPAN("drain\n")));
    for (size_t i = 0; i < ARRAY_LEN(silent); i++) {
        peer_fini(&silent[i]);
    }
    server_close(&s);
}

/* Neither listener says a word to who is not of node.health_networks. */
static void test_networks(void **state)
{
    (void)state;
    struct server s;
    struct peer p;
    server_open_for(&s, "192.0.2.0/24");
    for (int i = 0; i < 2; i++) {
        peer_init(&p, connect_to(i ? &s.agent_at : &s.at));
        peer_send(&p, SPAN("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        WAIT(&s.f, &p, p.eof || p.error);
        assert_int_equal(buf_len(&p.got), 0);
        peer_fini(&p);
    }
    server_close(&s);
}

static void test_bad_addresses(void **state)
{
    (void)state;
    static const char *const bad[] = { "localhost:8080", "192.0.2.1:8080", "8080", "" };
    struct world *w = world_open();
    struct loop *l = loop_open();
    struct netset *networks = network("127.0.0.0/8");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct health *h = NULL;
        struct agent *a = NULL;
        char why[256] = "";
        assert_int_equal(health_open(l, bad[i], networks, &w->view, &h, why, sizeof why),
                         ERR_INVALID);
        assert_true(!h && *why);
        *why = '\0';
        assert_int_equal(agent_open(l, bad[i], networks, &w->view, &a, why, sizeof why),
                         ERR_INVALID);
        assert_true(!a && *why);
    }
    netset_free(&networks);
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
        cmocka_unit_test(test_drained),
        cmocka_unit_test(test_why_is_the_first_that_counts),
        cmocka_unit_test(test_load_and_the_agents_line),
        cmocka_unit_test(test_metrics_are_sums),
        cmocka_unit_test(test_metrics_are_well_formed),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_agent),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_bad_addresses),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
