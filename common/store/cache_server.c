/*
 * cache_server: gets, set, add, cas, incr, decr and delete of memcached's text protocol (its
 * protocol.txt), and nothing of what is in an item.
 *
 * Owned and used by one thread. Whatever is not the answer that was asked for is a failure, and a
 * failure closes the connection, so that no late answer is ever taken for that of another call.
 * Which server has a key is decided elsewhere.
 */
#include "store/cache_server.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"

/* The first pause is short enough for a hiccup; the last, for a login to notice a return soon. */
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 1600
#define DEFAULT_PORT 11211
#define HOST_SIZE    256
#define INPUT_SIZE   65536
#define LINE_MOST    512 /* the longest answer line that is believed; keys have 250 characters */
#define OCTETS_A_MS  10000

/* No item of ours is as long: what is, is not read. */
#define VALUE_MOST (1024 * 1024)

struct cache_server {
    char host[HOST_SIZE];
    uint16_t port;
    uint64_t timeout_ms;
    int fd;            /* -1: not connected */
    uint64_t deadline; /* of the exchange under way */
    uint64_t pause_ms; /* 0: the last call was answered */
    uint64_t closed_until;
    size_t head, tail; /* of what was received and not yet taken */
    char input[INPUT_SIZE];
};

static uint64_t now_ms(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A name whose port is no number is taken whole for a host, which then is not found. */
void cache_server_name(const char *name, char *host, size_t size, uint16_t *port)
{
    const char *colon = strrchr(name, ':');
    uint64_t number = DEFAULT_PORT;
    struct span left = span_str(name);
    if (colon && span_u64(span_str(colon + 1), UINT16_MAX, &number) == ERR_OK) {
        left.n = (size_t)(colon - name);
    }
    if (left.n > 2 && left.p[0] == '[' && left.p[left.n - 1] == ']') {
        left = span_of(left.p + 1, left.n - 2);
    }
    left = span_first(left, size - 1);
    memcpy(host, left.p, left.n);
    host[left.n] = '\0';
    *port = (uint16_t)number;
}

/* --- the connection -------------------------------------------------------------------------- */

static void disconnect(struct cache_server *s)
{
    if (s->fd >= 0) {
        close(s->fd);
    }
    s->fd = -1;
    s->head = s->tail = 0;
}

/* False at the deadline. An error of the socket shows in the call that follows. */
static bool wait_for(const struct cache_server *s, short events)
{
    struct pollfd p = { .fd = s->fd, .events = events };
    for (uint64_t now; (now = now_ms()) < s->deadline;) {
        int n = poll(&p, 1, (int)(s->deadline - now));
        if (n > 0 || (n < 0 && errno != EINTR)) {
            return n > 0;
        }
    }
    return false;
}

static bool connect_to(struct cache_server *s, const struct addrinfo *a)
{
    int on = 1, error = 0;
    socklen_t size = sizeof error;
    s->fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) {
        return false;
    }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, a->ai_addr, a->ai_addrlen) == 0) {
        return true;
    }
    return errno == EINPROGRESS && wait_for(s, POLLOUT) &&
           getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

static bool connect_any(struct cache_server *s)
{
    char port[8];
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
    snprintf(port, sizeof port, "%u", s->port);
    if (getaddrinfo(s->host, port, &hints, &found) != 0) {
        return false;
    }
    s->deadline = now_ms() + s->timeout_ms; /* the look-up has time-outs of its own */
    bool connected = false;
    for (const struct addrinfo *a = found; a && !connected; a = a->ai_next) {
        disconnect(s);
        connected = connect_to(s, a);
    }
    freeaddrinfo(found);
    return connected;
}

/* Nothing may come between two exchanges; the end of the connection (a restart) is no failure. */
static bool still_connected(const struct cache_server *s)
{
    char octet;
    return s->fd >= 0 && s->head == s->tail &&
           recv(s->fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static bool send_all(const struct cache_server *s, struct span octets, int flags)
{
    while (octets.n) {
        ssize_t n = send(s->fd, octets.p, octets.n, MSG_NOSIGNAL | flags);
        if (n >= 0) {
            octets = span_skip(octets, (size_t)n);
        } else if (errno != EINTR && (errno != EAGAIN || !wait_for(s, POLLOUT))) {
            return false;
        }
    }
    return true;
}

/* Receives something behind what is there. */
static bool receive(struct cache_server *s)
{
    if (s->head > 0) {
        memmove(s->input, s->input + s->head, s->tail - s->head);
        s->tail -= s->head;
        s->head = 0;
    }
    for (;;) {
        ssize_t n = recv(s->fd, s->input + s->tail, INPUT_SIZE - s->tail, 0);
        if (n > 0) {
            s->tail += (size_t)n;
            return true;
        }
        if (n == 0 || (errno != EINTR && (errno != EAGAIN || !wait_for(s, POLLIN)))) {
            return false;
        }
    }
}

/* The next line without its CRLF; valid until the next read. */
static bool read_line(struct cache_server *s, struct span *line)
{
    for (;;) {
        struct span got = span_of(s->input + s->head, s->tail - s->head);
        size_t n = span_find(got, '\n');
        if (n < got.n) {
            s->head += n + 1;
            *line = span_first(got, n > 0 && got.p[n - 1] == '\r' ? n - 1 : n);
            return true;
        }
        if (got.n > LINE_MOST || !receive(s)) {
            return false;
        }
    }
}

static bool read_octets(struct cache_server *s, char *to, size_t n)
{
    while (n) {
        size_t got = s->tail - s->head;
        got = got < n ? got : n;
        memcpy(to, s->input + s->head, got);
        s->head += got;
        to += got;
        n -= got;
        if (n && !receive(s)) {
            return false;
        }
    }
    return true;
}

struct cache_server *cache_server_open(const char *name, uint64_t timeout_ms)
{
    struct cache_server *s = NEW(struct cache_server);
    cache_server_name(name, s->host, sizeof s->host, &s->port);
    s->timeout_ms = timeout_ms;
    s->fd = -1;
    return s;
}

void cache_server_close(struct cache_server **s)
{
    if (*s) {
        disconnect(*s);
        free(*s);
        *s = NULL;
    }
}

/* --- the breaker ----------------------------------------------------------------------------- */

uint64_t cache_server_pause(const struct cache_server *s)
{
    uint64_t now = s->pause_ms ? now_ms() : 0;
    return s->pause_ms && s->closed_until > now ? s->closed_until - now : 0;
}

static enum err failed(struct cache_server *s)
{
    disconnect(s);
    uint64_t pause = s->pause_ms ? 2 * s->pause_ms : PAUSE_MIN_MS;
    s->pause_ms = pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
    s->closed_until = now_ms() + s->pause_ms;
    return ERR_TEMP;
}

static enum err answered(struct cache_server *s, enum err e)
{
    s->pause_ms = 0;
    return e;
}

/* The beginning of an exchange of so many octets. */
static bool begin(struct cache_server *s, size_t octets)
{
    if (cache_server_pause(s)) {
        return false;
    }
    if (!still_connected(s)) {
        disconnect(s);
        if (!connect_any(s)) {
            failed(s);
            return false;
        }
    }
    s->deadline = now_ms() + s->timeout_ms + octets / OCTETS_A_MS;
    return true;
}

/* --- reading --------------------------------------------------------------------------------- */

static bool ask(const struct cache_server *s, struct cache_server_item **items, size_t n)
{
    struct buf out;
    buf_init(&out, n * sizeof items[0]->key + 16);
    buf_add(&out, SPAN("gets"));
    for (size_t i = 0; i < n; i++) {
        buf_addc(&out, ' ');
        buf_add(&out, span_str(items[i]->key));
    }
    buf_add(&out, SPAN("\r\n"));
    bool ok = send_all(s, buf_span(&out), 0);
    buf_fini(&out);
    return ok;
}

/*
 * Values come in the order of the keys, without the absent ones; a key may be asked for twice.
 * Returns the item at *at or behind it that this one is for; NULL: nobody asked.
 */
static struct cache_server_item *find(struct cache_server_item **items, size_t n, size_t *at,
                                      struct span key)
{
    for (size_t i = *at; i < n; i++) {
        if (span_eq(span_str(items[i]->key), key)) {
            *at = i + 1;
            return items[i];
        }
    }
    return NULL;
}

/* VALUE key flags octets cas */
struct value_line {
    struct span key;
    uint64_t size, cas;
};

static bool parse_value_line(struct span line, struct value_line *out)
{
    uint64_t flags;
    struct span verb = span_word(&line);
    out->key = span_word(&line);
    return span_eq(verb, SPAN("VALUE")) &&
           span_u64(span_word(&line), UINT32_MAX, &flags) == ERR_OK &&
           span_u64(span_word(&line), VALUE_MOST, &out->size) == ERR_OK &&
           span_u64(span_word(&line), UINT64_MAX, &out->cas) == ERR_OK && line.n == 0;
}

/* The time that a value adds is for its size, which is known to be sane. */
static bool read_value(struct cache_server *s, struct cache_server_item *it,
                       const struct value_line *v)
{
    char end[2];
    it->value = mem_new(v->size, 1);
    it->size = v->size;
    it->cas = v->cas;
    s->deadline += v->size / OCTETS_A_MS;
    return read_octets(s, it->value, v->size) && read_octets(s, end, sizeof end) &&
           memcmp(end, "\r\n", sizeof end) == 0;
}

static bool read_values(struct cache_server *s, struct cache_server_item **items, size_t n)
{
    struct span line;
    size_t at = 0;
    while (read_line(s, &line)) {
        struct value_line v;
        if (span_eq(line, SPAN("END"))) {
            return true;
        }
        struct cache_server_item *it =
            parse_value_line(line, &v) ? find(items, n, &at, v.key) : NULL;
        if (!it || !read_value(s, it, &v)) {
            return false;
        }
    }
    return false;
}

enum err cache_server_get(struct cache_server *s, struct cache_server_item **items, size_t n)
{
    if (!begin(s, 0)) {
        return ERR_TEMP;
    }
    return ask(s, items, n) && read_values(s, items, n) ? answered(s, ERR_OK) : failed(s);
}

/* --- writing --------------------------------------------------------------------------------- */

/* The answer to a command that stores or deletes. */
static enum err read_outcome(struct cache_server *s)
{
    static const struct {
        const char *line;
        enum err e;
    } outcomes[] = { { "STORED", ERR_OK },
                     { "DELETED", ERR_OK },
                     { "NOT_STORED", ERR_BUSY },
                     { "EXISTS", ERR_BUSY },
                     { "NOT_FOUND", ERR_NOTFOUND } };
    struct span line;
    if (!read_line(s, &line)) {
        return failed(s);
    }
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
        if (span_eq(line, span_str(outcomes[i].line))) {
            return answered(s, outcomes[i].e);
        }
    }
    return span_starts(line, SPAN("SERVER_ERROR ")) ? answered(s, ERR_LIMIT) : failed(s);
}

/* cas: what follows the length on the command line, or nothing. */
static enum err store(struct cache_server *s, const char *verb, const char *key, struct span value,
                      uint32_t life, const char *cas)
{
    char head[160];
    int n =
        snprintf(head, sizeof head, "%s %s 0 %" PRIu32 " %zu%s\r\n", verb, key, life, value.n, cas);
    CHECK(n > 0 && (size_t)n < sizeof head);
    if (!begin(s, value.n)) {
        return ERR_TEMP;
    }
    bool sent = send_all(s, span_of(head, (size_t)n), MSG_MORE) && send_all(s, value, MSG_MORE) &&
                send_all(s, SPAN("\r\n"), 0);
    return sent ? read_outcome(s) : failed(s);
}

enum err cache_server_set(struct cache_server *s, const char *key, struct span value, uint32_t life)
{
    return store(s, "set", key, value, life, "");
}

enum err cache_server_add(struct cache_server *s, const char *key, struct span value, uint32_t life)
{
    return store(s, "add", key, value, life, "");
}

enum err cache_server_cas(struct cache_server *s, const char *key, struct span value, uint32_t life,
                          uint64_t cas)
{
    char text[24];
    snprintf(text, sizeof text, " %" PRIu64, cas);
    return store(s, "cas", key, value, life, text);
}

/* --- counting -------------------------------------------------------------------------------- */

/* The sum alone on a line, and no less than least: memcached adds modulo 2^64, which no counter of
 * ours comes near. */
static enum err read_sum(struct cache_server *s, uint64_t least, uint64_t *out)
{
    static const char no_number[] = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    struct span line;
    uint64_t sum;
    if (!read_line(s, &line)) {
        return failed(s);
    }
    if (span_u64(line, UINT64_MAX, &sum) == ERR_OK) {
        if (sum < least) {
            return answered(s, ERR_CORRUPT);
        }
        *out = sum;
        return answered(s, ERR_OK);
    }
    if (span_eq(line, SPAN("NOT_FOUND"))) {
        return answered(s, ERR_NOTFOUND);
    }
    if (span_eq(line, span_str(no_number))) {
        return answered(s, ERR_CORRUPT);
    }
    return span_starts(line, SPAN("SERVER_ERROR ")) ? answered(s, ERR_LIMIT) : failed(s);
}

static enum err change(struct cache_server *s, const char *verb, const char *key, uint64_t by,
                       uint64_t least, uint64_t *out)
{
    char line[100];
    int n = snprintf(line, sizeof line, "%s %s %" PRIu64 "\r\n", verb, key, by);
    CHECK(n > 0 && (size_t)n < sizeof line);
    if (!begin(s, 0)) {
        return ERR_TEMP;
    }
    return send_all(s, span_of(line, (size_t)n), 0) ? read_sum(s, least, out) : failed(s);
}

enum err cache_server_incr(struct cache_server *s, const char *key, uint64_t add, uint64_t *out)
{
    return change(s, "incr", key, add, add, out);
}

enum err cache_server_decr(struct cache_server *s, const char *key, uint64_t less, uint64_t *out)
{
    return change(s, "decr", key, less, 0, out);
}

enum err cache_server_delete(struct cache_server *s, const char *key)
{
    char line[80];
    int n = snprintf(line, sizeof line, "delete %s\r\n", key);
    CHECK(n > 0 && (size_t)n < sizeof line);
    if (!begin(s, 0)) {
        return ERR_TEMP;
    }
    return send_all(s, span_of(line, (size_t)n), 0) ? read_outcome(s) : failed(s);
}
