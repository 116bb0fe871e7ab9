/*
 * filter_client: one message through milters, as a session of the delivery node gives it to them.
 * test_milters.py runs it against those of Debian.
 *
 *   filter_client MILTER... <MESSAGE
 *
 * Prints a line `STAGE VERDICT CODE ENHANCED TEXT` for each stage up to the first that is not
 * accepted, then the message as it would be stored.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "filter.h"

static const char *const stages[] = { "mail", "rcpt", "data", "end" };
static const char *const verdicts[] = { "accept",  "refuse",     "defer",
                                        "discard", "quarantine", "close" };

struct client {
    struct loop *loop;
    struct filter *filter;
    size_t stage;
    struct buf message;
};

static void next(struct client *c)
{
    const struct span parameter = SPAN("BODY=8BITMIME");
    switch (c->stage) {
    case 0:
        filter_mail(c->filter, SPAN("client.example.com"), SPAN("sender@example.com"), &parameter,
                    1);
        break;
    case 1:
        filter_rcpt(c->filter, SPAN("user@example.org"));
        break;
    case 2:
        filter_data(c->filter);
        break;
    default:
        CHECK(filter_append(c->filter, buf_span(&c->message)) == ERR_OK);
        filter_end(c->filter, SPAN("01test"),
                   SPAN("Received: from client.example.com\r\n by mx.example.org with ESMTP\r\n"));
        break;
    }
}

static void print_message(struct client *c)
{
    struct span head, body;
    filter_message(c->filter, &head, &body);
    fwrite(head.p, 1, head.n, stdout);
    fwrite(body.p, 1, body.n, stdout);
}

static void on_done(void *arg, enum filter_verdict v, const struct filter_reply *r)
{
    struct client *c = arg;
    printf("%s %s %u %s %s\n", stages[c->stage], verdicts[v], r->code, r->enhanced, r->text);
    if (c->stage == 3 && (v == FILTER_ACCEPT || v == FILTER_QUARANTINE)) {
        print_message(c);
    }
    if (v != FILTER_ACCEPT || ++c->stage == 4) {
        filter_close(&c->filter);
        loop_stop(c->loop);
    } else {
        next(c);
    }
}

static void read_message(struct buf *b)
{
    char piece[4096];
    buf_init(b, 1 << 26);
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin)) > 0;) {
        CHECK(buf_add(b, span_of(piece, n)) == ERR_OK);
    }
}

int main(int argc, char **argv)
{
    char why[256];
    const char **milters = NEW_ARRAY(const char *, (size_t)argc);
    for (int i = 1; i < argc; i++) {
        milters[i - 1] = argv[i];
    }
    const struct config config = { .filter_milters = { (size_t)argc - 1, milters },
                                   .filter_connect_timeout = 30000,
                                   .filter_timeout = 30000,
                                   .filter_memory = 1 << 26,
                                   .filter_quarantine = "abuse@example.org",
                                   .smtp_max_size = 1 << 26 };
    const struct config *in_force = &config;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(12345) };
    struct client c = { .loop = loop_open() };
    struct filters *fs = NULL;
    inet_pton(AF_INET, "192.0.2.1", &at.sin_addr);
    if (filters_open(c.loop, &in_force, &fs, why, sizeof why) != ERR_OK || !fs) {
        fprintf(stderr, "%s\n", fs ? why : "no milters");
        return 1;
    }
    const struct filter_client client = { .sid = SPAN("test"),
                                          .address = (struct sockaddr *)&at,
                                          .hostname = SPAN("mx.example.org"),
                                          .tls_version = SPAN("TLSv1.3"),
                                          .tls_cipher = SPAN("TLS_AES_256_GCM_SHA384") };
    c.filter = filter_open(fs, &client, on_done, &c);
    read_message(&c.message);
    next(&c);
    loop_run(c.loop);
    filters_close(&fs);
    free(milters);
    buf_fini(&c.message);
    loop_close(&c.loop);
    return 0;
}
