/*
 * bare_server: what a conversation costs when nothing is behind it. `bare_server --help` tells.
 *
 * It says the lines of a mail server, one write for each reply, from one thread over one epoll; it
 * looks nobody up, stores nothing, and reads no file: the limit that a real server on this machine
 * can come near to. Its mailboxes all hold the same messages (message.h), so that the generators
 * can be tried on it as well. It must not be taken for a server: it believes what it is told.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "client.h"
#include "message.h"
#include "options.h"

#define READ_ROOM    (256 * 1024)
#define OUT_LIMIT    (64 * 1024 * 1024) /* a listing is made as a whole */
#define FILL         (256 * 1024)
#define EVENTS       512
#define BACKLOG      4096
#define MESSAGES_MAX 1000000

static const char help[] =
    "usage: bare_server PORT --poll|--mail|--close [--messages N] [--size OCTETS]\n"
    "\n"
    "  --poll   POP3: every login is right; a mailbox has N messages (0) of that size (4096)\n"
    "  --mail   SMTP, and LMTP for who says LHLO: every message is taken\n"
    "  --close  accepts connections and closes them\n"
    "\n"
    "Listens on 127.0.0.1; with PORT 0 on a free one. {\"port\": N} tells that it does.\n";

static const char *const pop3_words[] = { "USER", "PASS", "STAT", "UIDL", "LIST",
                                          "RETR", "DELE", "NOOP", "QUIT", NULL };
enum pop3_word { USER, PASS, STAT, UIDL, LIST, RETR, DELE, NOOP, QUIT };

struct conversation {
    int fd;
    bool wants_write, over;
    bool lmtp;
    bool in_data;
    bool sending;        /* a message */
    uint64_t recipients; /* of the transaction */
    struct message m;
    struct message_reader r;
    char *rest; /* input that was not eaten */
    size_t rest_n;
    struct buf out;
};

static struct {
    enum { MODE_NONE, MODE_POLL, MODE_MAIL, MODE_CLOSE } mode;
    uint64_t messages, size;
    int epoll, listener;
    char in[READ_ROOM];
} server = { .size = 4096 };

/* --- what is said ------------------------------------------------------------------------------
 */

static void say(struct conversation *c, const char *line)
{
    CHECK(buf_add(&c->out, span_str(line)) == ERR_OK);
}

static void list(struct conversation *c, bool uids)
{
    say(c, "+OK\r\n");
    for (uint64_t n = 1; n <= server.messages; n++) {
        buf_addu(&c->out, n);
        buf_addc(&c->out, ' ');
        if (uids) {
            buf_add(&c->out, SPAN("01hzz3v6pfxk7y8w9q"));
        }
        buf_addu(&c->out, uids ? 10000000 + n : server.size);
        buf_add(&c->out, SPAN("\r\n"));
    }
    say(c, ".\r\n");
}

static void retrieve(struct conversation *c, struct span number)
{
    uint64_t n;
    if (span_u64(number, server.messages, &n) != ERR_OK || n == 0) {
        say(c, "-ERR no such message\r\n");
        return;
    }
    say(c, "+OK\r\n");
    message_init(&c->m, n, server.size);
    message_read(&c->r, &c->m);
    c->sending = true;
}

static void answer_pop3(struct conversation *c, struct span line)
{
    struct span word = span_word(&line);
    int i = 0;
    while (pop3_words[i] && !span_eq_nocase(word, span_str(pop3_words[i]))) {
        i++;
    }
    switch (i) {
    case USER:
    case PASS:
    case DELE:
    case NOOP:
        say(c, "+OK\r\n");
        break;
    case STAT:
        buf_addf(&c->out, "+OK %" PRIu64 " %" PRIu64 "\r\n", server.messages,
                 server.messages * server.size);
        break;
    case UIDL:
    case LIST:
        list(c, i == UIDL);
        break;
    case RETR:
        retrieve(c, line);
        break;
    case QUIT:
        say(c, "+OK\r\n");
        c->over = true;
        break;
    default:
        say(c, "-ERR\r\n");
    }
}

static void answer_mail(struct conversation *c, struct span line)
{
    struct span word = span_first(line, 4);
    if (span_eq_nocase(word, SPAN("MAIL")) || span_eq_nocase(word, SPAN("RSET"))) {
        c->recipients = 0;
        say(c, "250 2.1.0 Ok\r\n");
    } else if (span_eq_nocase(word, SPAN("RCPT"))) {
        c->recipients++;
        say(c, "250 2.1.5 Ok\r\n");
    } else if (span_eq_nocase(word, SPAN("DATA"))) {
        c->in_data = true;
        say(c, "354 End data with <CR><LF>.<CR><LF>\r\n");
    } else if (span_eq_nocase(word, SPAN("EHLO")) || span_eq_nocase(word, SPAN("LHLO"))) {
        c->lmtp = span_eq_nocase(word, SPAN("LHLO"));
        say(c, "250-bare.example\r\n250-PIPELINING\r\n250-SIZE 67108864\r\n250 8BITMIME\r\n");
    } else if (span_eq_nocase(word, SPAN("QUIT"))) {
        say(c, "221 2.0.0 Bye\r\n");
        c->over = true;
    } else {
        say(c, "500 5.5.2 What?\r\n");
    }
}

/* Eats the message; keeps what may be the beginning of its end. */
static bool eat_data(struct conversation *c, struct span *in)
{
    static const char end[] = "\r\n.\r\n";
    const char *found = memmem(in->p, in->n, end, sizeof end - 1);
    if (!found) {
        *in = span_skip(*in, in->n > sizeof end - 2 ? in->n - (sizeof end - 2) : 0);
        return false;
    }
    *in = span_skip(*in, (size_t)(found - in->p) + sizeof end - 1);
    c->in_data = false;
    for (uint64_t i = 0; i < (c->lmtp ? c->recipients : 1); i++) {
        say(c, "250 2.0.0 Ok\r\n");
    }
    return true;
}

/* Answers one command. False: there is none, or no more than a part of one. */
static bool answer(struct conversation *c, struct span *in)
{
    if (c->in_data) {
        return eat_data(c, in);
    }
    struct span line;
    enum client_verdict v = c->over ? CLIENT_MORE : client_line(in, &line);
    if (v == CLIENT_WRONG) {
        c->over = true;
    }
    if (v != CLIENT_DONE) {
        return false;
    }
    if (server.mode == MODE_POLL) {
        answer_pop3(c, line);
    } else {
        answer_mail(c, line);
    }
    return true;
}

/* --- connections -------------------------------------------------------------------------------
 */

static void watch(struct conversation *c, int operation, bool wants_write)
{
    /* While it does not read, nothing more is read from it. */
    struct epoll_event e = { .events = wants_write ? EPOLLOUT : EPOLLIN, .data.ptr = c };
    c->wants_write = wants_write;
    if (epoll_ctl(server.epoll, operation, c->fd, &e) != 0) {
        err(1, "epoll_ctl");
    }
}

static void close_conversation(struct conversation *c)
{
    close(c->fd);
    free(c->rest);
    buf_fini(&c->out);
    free(c);
}

static void fill(struct conversation *c)
{
    while (c->sending && buf_len(&c->out) < FILL) {
        struct span piece = message_peek(&c->r);
        if (piece.n) {
            buf_add(&c->out, piece);
            message_eat(&c->r, piece.n);
        } else {
            buf_add(&c->out, MESSAGE_END);
            c->sending = false;
        }
    }
}

enum flushed { FLUSHED, FLUSH_BLOCKED, FLUSH_FAILED };

static enum flushed flush(struct conversation *c)
{
    for (fill(c); buf_len(&c->out); fill(c)) {
        struct span s = buf_span(&c->out);
        ssize_t n = send(c->fd, s.p, s.n, MSG_NOSIGNAL);
        if (n < 0) {
            return errno == EAGAIN ? FLUSH_BLOCKED : FLUSH_FAILED;
        }
        buf_take(&c->out, (size_t)n);
    }
    return FLUSHED;
}

static void keep_rest(struct conversation *c, struct span in)
{
    char *kept = NULL;
    if (in.n) {
        kept = mem_raw(in.n);
        memcpy(kept, in.p, in.n);
    }
    free(c->rest);
    c->rest = kept;
    c->rest_n = in.n;
}

/* Answers what has come. Commands that came together are answered together. */
static void converse(struct conversation *c, struct span in)
{
    for (;;) {
        while (!c->sending && answer(c, &in)) {
        }
        enum flushed how = flush(c);
        if (how == FLUSH_FAILED || (how == FLUSHED && c->over)) {
            close_conversation(c);
            return;
        }
        size_t before = in.n;
        if (how == FLUSH_BLOCKED || !in.n || !answer(c, &in)) {
            keep_rest(c, in);
            if (c->wants_write != (how == FLUSH_BLOCKED)) {
                watch(c, EPOLL_CTL_MOD, how == FLUSH_BLOCKED);
            }
            return;
        }
        CHECK(in.n < before);
    }
}

static void on_readable(struct conversation *c)
{
    CHECK(c->rest_n < READ_ROOM);
    memcpy(server.in, c->rest ? c->rest : "", c->rest_n);
    ssize_t n = recv(c->fd, server.in + c->rest_n, READ_ROOM - c->rest_n, 0);
    if (n > 0) {
        converse(c, span_of(server.in, c->rest_n + (size_t)n));
    } else if (n == 0 || errno != EAGAIN) {
        close_conversation(c);
    }
}

static void on_writable(struct conversation *c)
{
    memcpy(server.in, c->rest ? c->rest : "", c->rest_n);
    converse(c, span_of(server.in, c->rest_n));
}

static void on_connection(void)
{
    int fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 || server.mode == MODE_CLOSE) {
        close(fd);
        return;
    }
    struct conversation *c = NEW(struct conversation);
    c->fd = fd;
    buf_init(&c->out, OUT_LIMIT);
    watch(c, EPOLL_CTL_ADD, false);
    say(c, server.mode == MODE_POLL ? "+OK ready\r\n" : "220 bare.example ESMTP\r\n");
    if (flush(c) != FLUSHED) {
        close_conversation(c);
    }
}

/* --- the program -------------------------------------------------------------------------------
 */

static void listen_on(uint16_t port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
    socklen_t size = sizeof a;
    int yes = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server.listener < 0 ||
        setsockopt(server.listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        setsockopt(server.listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0 ||
        bind(server.listener, (struct sockaddr *)&a, size) != 0 ||
        listen(server.listener, BACKLOG) != 0 ||
        getsockname(server.listener, (struct sockaddr *)&a, &size) != 0) {
        err(1, "port %u", port);
    }
    printf("{\"port\": %u}\n", ntohs(a.sin_port));
    fflush(stdout);
}

/* As many descriptors as may be had. */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void serve(void)
{
    struct epoll_event events[EVENTS], own = { .events = EPOLLIN, .data.ptr = NULL };
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server.epoll < 0 || epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.listener, &own) != 0) {
        err(1, "epoll");
    }
    for (;;) {
        int n = epoll_wait(server.epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct conversation *c = events[i].data.ptr;
            if (!c) {
                on_connection();
            } else if (c->wants_write) {
                on_writable(c);
            } else {
                on_readable(c);
            }
        }
    }
}

static void take(int option)
{
    switch (option) {
    case 'p':
        server.mode = MODE_POLL;
        break;
    case 'm':
        server.mode = MODE_MAIL;
        break;
    case 'c':
        server.mode = MODE_CLOSE;
        break;
    case 'n':
        server.messages = options_number(optarg, 0, MESSAGES_MAX, "--messages");
        break;
    case 's':
        server.size = options_number(optarg, MESSAGE_MIN, MESSAGE_MAX, "--size");
        break;
    case 'h':
        fputs(help, stdout);
        exit(0);
    default:
        exit(64); /* getopt_long has said why */
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "poll", no_argument, NULL, 'p' },
        { "mail", no_argument, NULL, 'm' },
        { "close", no_argument, NULL, 'c' },
        { "messages", required_argument, NULL, 'n' },
        { "size", required_argument, NULL, 's' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        take(option);
    }
    if (optind != argc - 1 || server.mode == MODE_NONE) {
        options_wrong("a port and one of --poll, --mail and --close are needed");
    }
    raise_descriptors();
    listen_on((uint16_t)options_number(argv[optind], 0, 65535, "PORT"));
    serve();
}
