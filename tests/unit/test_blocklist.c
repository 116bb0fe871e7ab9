/*
 * Tests of blocklist against a real name server (nsd), a dead one and one that never answers. What
 * a forged answer is worth is c-ares' business.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/stats.h"
#include "net/blocklist.h"
#include "net/dns.h"

#define LONG_MS  60000
#define SHORT_MS 100
#define DEAD_MS  15000 /* to be waited for only if the kernel says nothing of a dead port */

/* --- the name server -------------------------------------------------------------------------- */

static const char zone_head[] = "$TTL 60\n@ SOA ns.test. host.test. 1 60 60 60 60\n@ NS ns.test.\n";

static const struct {
    const char *name, *records;
} zones[] = {
    { "bl.test", "1.2.0.192 A 127.0.0.2\n2.2.0.192 A 127.0.0.10\n3.2.0.192 A 198.51.100.1\n"
                 "4.2.0.192 A 127.255.255.254\n5.2.0.192 TXT \"no address\"\n"
                 "6.2.0.192 A 127.0.0.3\n6.2.0.192 A 127.0.0.11\n7.2.0.192 A 127.0.0.2\n"
                 "7.2.0.192 A 127.255.255.1\n1.100.51.198 A 127.0.0.2\n1.0.0.10 A 127.0.0.2\n"
                 "1.0.0.127 A 127.0.0.2\n1.113.0.203 A 127.0.0.2\n"
                 "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 A 127.0.0.2\n" },
    { "second.test", "1.2.0.192 A 127.0.0.2\n8.2.0.192 A 127.0.0.2\n" },
    { "allow.test", "1.100.51.198 A 127.0.0.2\n" },
};

struct server {
    char folder[64];
    pid_t pid;
    char at[32]; /* ADDRESS:PORT */
};

static struct server server;

static FILE *create(const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", server.folder, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    return f;
}

/* A UDP socket on a free port of loopback. */
static int udp(char at[32])
{
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t n = sizeof sa;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    snprintf(at, 32, "127.0.0.1:%u", ntohs(sa.sin_port));
    return fd;
}

static void write_server(void)
{
    FILE *f = create("nsd.conf");
    fprintf(f,
            "server:\n ip-address: 127.0.0.1\n port: %s\n username: \"\"\n zonesdir: \"%s\"\n"
            " pidfile: \"\"\n xfrdfile: \"\"\n zonelistfile: \"%s/list\"\n database: \"\"\n"
            " server-count: 1\n logfile: \"%s/log\"\n xfrdir: \"%s\"\n"
            "remote-control:\n control-enable: no\n",
            strchr(server.at, ':') + 1, server.folder, server.folder, server.folder, server.folder);
    for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
        fprintf(f, "zone:\n name: %s\n zonefile: %s\n", zones[i].name, zones[i].name);
        FILE *z = create(zones[i].name);
        fprintf(z, "%s%s", zone_head, zones[i].records);
        fclose(z);
    }
    fclose(f);
}

static int server_stop(void **state)
{
    char command[160];
    (void)state;
    if (server.pid > 0) {
        kill(server.pid, SIGTERM);
        waitpid(server.pid, NULL, 0);
    }
    snprintf(command, sizeof command, "rm -rf '%s'", server.folder);
    return system(command);
}

static int server_start(void **state)
{
    (void)state;
    strcpy(server.folder, "/tmp/mailfleet-nsd-XXXXXX");
    assert_non_null(mkdtemp(server.folder));
    close(udp(server.at));
    write_server();
    char config[160];
    snprintf(config, sizeof config, "%s/nsd.conf", server.folder);
    server.pid = fork();
    if (server.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("nsd", "nsd", "-d", "-c", config, NULL);
        execl("/usr/sbin/nsd", "nsd", "-d", "-c", config, NULL);
        _exit(127);
    }
    return server.pid > 0 ? 0 : -1;
}

/* --- a loop and a block list ------------------------------------------------------------------ */

struct world {
    struct loop *loop;
    struct stats stats;
    struct config config;
    struct blocklist *list;
    char zone[200];
    unsigned told, expected;
};

static struct config_list words(const char **v)
{
    size_t n = 0;
    while (v[n]) {
        n++;
    }
    return (struct config_list){ n, v };
}

#define WORDS(...) words((const char *[]){ __VA_ARGS__, NULL })

static struct world *world_open(void)
{
    struct world *w = NEW(struct world);
    w->loop = loop_open();
    stats_use(&w->stats);
    w->config.blocklist_timeout = LONG_MS;
    return w;
}

static void open_list(struct world *w)
{
    char why[256] = "";
    enum err e = blocklist_open(w->loop, &w->config, &w->list, why, sizeof why);
    assert_string_equal(why, "");
    assert_int_equal(e, ERR_OK);
}

static void world_close(struct world *w)
{
    static struct stats elsewhere;
    blocklist_close(&w->list);
    assert_null(w->list);
    loop_close(&w->loop);
    stats_use(&elsewhere);
    free(w);
}

static void on_done(void *arg, struct span zone)
{
    struct world *w = arg;
    snprintf(w->zone, sizeof w->zone, "%.*s", SPAN_ARG(zone));
    if (++w->told == w->expected) {
        loop_stop(w->loop);
    }
}

static struct sockaddr_storage address(const char *host)
{
    char text[80];
    struct sockaddr_storage sa;
    snprintf(text, sizeof text, strchr(host, ':') ? "[%s]:4242" : "%s:4242", host);
    assert_int_equal(netaddr_parse(text, &sa), ERR_OK);
    return sa;
}

static struct op *ask_later(struct world *w, const char *client)
{
    struct sockaddr_storage sa = address(client);
    unsigned before = w->told;
    struct op *op = blocklist_ask(w->list, (struct sockaddr *)&sa, on_done, w);
    assert_int_equal(w->told, before); /* never inline */
    return op;
}

static const char *ask(struct world *w, const char *client)
{
    ask_later(w, client);
    w->expected = w->told + 1;
    loop_run(w->loop);
    return w->zone;
}

static uint64_t count(const struct world *w, enum stat_id s)
{
    return stats_get(&w->stats, s);
}

/* --- against the real server ------------------------------------------------------------------ */

static void on_ready(void *arg, enum err e, const struct in_addr *v, size_t n, const char *why)
{
    struct world *w = arg;
    (void)v;
    (void)n;
    (void)why;
    w->told = e == ERR_OK;
    loop_stop(w->loop);
}

/* It answers soon after it was started. */
static struct world *with_server(void)
{
    struct world *w = world_open();
    struct dns *d;
    char why[256];
    static const char *servers[2];
    servers[0] = server.at;
    w->config.dns_servers = (struct config_list){ 1, servers };
    assert_int_equal(dns_open(w->loop, &w->config.dns_servers, 3000, &d, why, sizeof why), ERR_OK);
    while (!w->told) {
        assert_int_equal(waitpid(server.pid, NULL, WNOHANG), 0);
        dns_ask(d, "1.2.0.192.bl.test", on_ready, w);
        loop_run(w->loop);
    }
    dns_close(&d);
    w->told = 0;
    return w;
}

static void test_listed_or_not(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("bl.test");
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "bl.test");
    assert_string_equal(ask(w, "::ffff:192.0.2.1"), "bl.test");
    assert_string_equal(ask(w, "192.0.2.200"), "");
    assert_string_equal(ask(w, "192.0.2.3"), ""); /* no answer of a list: 198.51.100.1 */
    assert_string_equal(ask(w, "192.0.2.5"), ""); /* no address */
    assert_string_equal(ask(w, "192.0.2.6"), "bl.test");
    assert_string_equal(ask(w, "2001:db8::1"), "bl.test");
    assert_string_equal(ask(w, "2001:db8::2"), "");
    assert_int_equal(count(w, STAT_blocklist_queries), 8);
    assert_int_equal(count(w, STAT_blocklist_faults), 0);
    world_close(w);
}

static void test_error_codes_list_nobody(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("bl.test=0.0.0.0/0");
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.3"), "bl.test");
    assert_string_equal(ask(w, "192.0.2.4"), "");
    assert_string_equal(ask(w, "192.0.2.7"), "");
    assert_int_equal(count(w, STAT_blocklist_faults), 2);
    world_close(w);
}

static void test_answers_that_count(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("bl.test=127.0.0.10/31", "second.test=127.0.0.2");
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "second.test");
    assert_string_equal(ask(w, "192.0.2.2"), "bl.test");
    assert_string_equal(ask(w, "192.0.2.6"), "bl.test"); /* the second address of two */
    assert_string_equal(ask(w, "192.0.2.8"), "second.test");
    assert_int_equal(count(w, STAT_blocklist_queries), 8);
    world_close(w);
}

static void test_the_first_list_is_named(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("second.test", "bl.test");
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "second.test");
    assert_string_equal(ask(w, "192.0.2.2"), "bl.test");
    world_close(w);
}

static void test_allow_lists_outweigh(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("bl.test");
    w->config.blocklist_allow_zones = WORDS("second.test=127.0.0.9", "allow.test");
    open_list(w);
    assert_string_equal(ask(w, "198.51.100.1"), "");
    assert_string_equal(ask(w, "192.0.2.1"), "bl.test");
    world_close(w);
}

static void test_a_zone_that_fails(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("elsewhere.test", "bl.test"); /* the server refuses that */
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "bl.test");
    assert_string_equal(ask(w, "192.0.2.200"), "");
    assert_int_equal(count(w, STAT_blocklist_faults), 2);
    blocklist_close(&w->list);
    w->config.blocklist_zones = WORDS("bl.test");
    w->config.blocklist_allow_zones = WORDS("elsewhere.test"); /* whom it allows is not known */
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "");
    world_close(w);
}

static void test_who_is_not_asked_about(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("bl.test");
    open_list(w);
    static const char *const clients[] = { "127.0.0.1", "10.0.0.1", "::1",
                                           "fe80::1",   "fd00::1",  "::ffff:10.0.0.1" };
    for (size_t i = 0; i < ARRAY_LEN(clients); i++) {
        assert_string_equal(ask(w, clients[i]), "");
    }
    assert_int_equal(count(w, STAT_blocklist_queries), 0);
    world_close(w);
}

static void test_many_at_once_and_cancelled_ones(void **state)
{
    (void)state;
    struct world *w = with_server();
    w->config.blocklist_zones = WORDS("bl.test", "second.test");
    open_list(w);
    for (unsigned i = 0; i < 40; i++) {
        struct op *op = ask_later(w, "192.0.2.1");
        if (i % 4 == 0) {
            op_cancel(&op);
        }
    }
    w->expected = 30;
    loop_run(w->loop);
    assert_int_equal(w->told, 30);
    assert_string_equal(w->zone, "bl.test");
    world_close(w);
}

/* --- servers that fail ------------------------------------------------------------------------ */

static void test_a_dead_server(void **state)
{
    (void)state;
    struct world *w = world_open();
    char at[32];
    const char *servers[] = { at };
    close(udp(at));
    w->config.dns_servers = (struct config_list){ 1, servers };
    w->config.blocklist_timeout = DEAD_MS;
    w->config.blocklist_zones = WORDS("bl.test");
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "");
    assert_int_equal(count(w, STAT_blocklist_faults), 1);
    world_close(w);
}

static void test_the_next_server_is_asked(void **state)
{
    (void)state;
    struct world *w = with_server();
    char dead[32];
    const char *servers[] = { dead, server.at };
    close(udp(dead));
    w->config.dns_servers = (struct config_list){ 2, servers };
    w->config.blocklist_timeout = DEAD_MS;
    w->config.blocklist_zones = WORDS("bl.test");
    open_list(w);
    assert_string_equal(ask(w, "192.0.2.1"), "bl.test");
    world_close(w);
}

static void test_a_server_that_never_answers(void **state)
{
    (void)state;
    struct world *w = world_open();
    char at[32];
    const char *servers[] = { at };
    int fd = udp(at);
    w->config.dns_servers = (struct config_list){ 1, servers };
    w->config.blocklist_timeout = SHORT_MS;
    w->config.blocklist_zones = WORDS("bl.test", "second.test");
    open_list(w);
    ask_later(w, "192.0.2.1");
    ask_later(w, "192.0.2.2");
    w->expected = 2;
    loop_run(w->loop);
    assert_string_equal(w->zone, "");
    assert_int_equal(count(w, STAT_blocklist_faults),
                     4); /* the late end of a question is no more */
    assert_string_equal(ask(w, "192.0.2.3"), "");
    assert_int_equal(count(w, STAT_blocklist_faults), 6);
    world_close(w);
    close(fd);
}

/* Those that wait are told, those that were cancelled are not, and nothing is left behind. */
static void test_closing_while_questions_are_open(void **state)
{
    (void)state;
    struct world *w = world_open();
    char at[32];
    const char *servers[] = { at };
    int fd = udp(at);
    w->config.dns_servers = (struct config_list){ 1, servers };
    w->config.blocklist_zones = WORDS("bl.test", "second.test");
    open_list(w);
    ask_later(w, "192.0.2.1");
    ask_later(w, "192.0.2.2");
    struct op *op = ask_later(w, "192.0.2.3");
    op_cancel(&op);
    blocklist_close(&w->list);
    assert_int_equal(w->told, 0);
    w->expected = 2;
    loop_run(w->loop);
    assert_int_equal(w->told, 2);
    assert_string_equal(w->zone, "");
    world_close(w);
    close(fd);
}

/* --- the configuration ------------------------------------------------------------------------ */

static void test_configuration(void **state)
{
    (void)state;
    struct world *w = world_open();
    open_list(w);
    assert_null(w->list); /* no zone */
    w->config.blocklist_allow_zones = WORDS("allow.test");
    open_list(w);
    assert_null(w->list); /* nothing that could be outweighed */
    static const char *const bad[] = { "test",         "bl..test",        "bl.test.",
                                       ".bl.test",     "bl test",         "bl.test=",
                                       "bl.test=nine", "bl.test=1.2.3/8", "bl.test=127.0.0.1/8",
                                       "b\\108.test",  "=127.0.0.2" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char why[256] = "";
        w->config.blocklist_zones = WORDS(bad[i]);
        assert_int_equal(blocklist_open(w->loop, &w->config, &w->list, why, sizeof why),
                         ERR_INVALID);
        assert_non_null(strstr(why, bad[i]));
        assert_null(w->list);
    }
    static const char *const servers[] = { "ns.test", "192.0.2.1:", "192.0.2.1:99999", "::1:53x" };
    w->config.blocklist_zones = WORDS("bl.test");
    for (size_t i = 0; i < ARRAY_LEN(servers); i++) {
        char why[256] = "";
        w->config.dns_servers = WORDS(servers[i]);
        assert_int_equal(blocklist_open(w->loop, &w->config, &w->list, why, sizeof why),
                         ERR_INVALID);
        assert_non_null(strstr(why, servers[i]));
    }
    w->config.dns_servers = WORDS("192.0.2.1", "::1", "[::1]:5353", "192.0.2.1:5353");
    open_list(w);
    assert_non_null(w->list);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_listed_or_not),
        cmocka_unit_test(test_error_codes_list_nobody),
        cmocka_unit_test(test_answers_that_count),
        cmocka_unit_test(test_the_first_list_is_named),
        cmocka_unit_test(test_allow_lists_outweigh),
        cmocka_unit_test(test_a_zone_that_fails),
        cmocka_unit_test(test_who_is_not_asked_about),
        cmocka_unit_test(test_many_at_once_and_cancelled_ones),
        cmocka_unit_test(test_a_dead_server),
        cmocka_unit_test(test_the_next_server_is_asked),
        cmocka_unit_test(test_a_server_that_never_answers),
        cmocka_unit_test(test_closing_while_questions_are_open),
        cmocka_unit_test(test_configuration),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, server_start, server_stop);
}
