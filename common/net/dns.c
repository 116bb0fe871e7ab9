/*
 * dns: c-ares' sockets as poll handles of the loop, and its time-outs as one timer.
 *
 * c-ares owns sockets and questions and says which socket waits for what; a poll handle lives from
 * its first word about a socket to the one that it is closed. An asker is told exactly once, with
 * no way to call it off: c-ares has none either.
 */
#include "net/dns.h"

#include <ares.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "net/netaddr.h"

#define TRIES 2 /* of each server; c-ares doubles the time for the second */
#define PORT  53

/* Of the octets of a question (RFC 1035, section 4.1.1; RFC 6840). */
#define FLAGS_LOW 3
#define FLAG_AD   0x20

struct dns {
    struct loop *loop;
    uint64_t
        first_ms; /* after which c-ares asks again what has no answer; later tries wait longer */
    ares_channel channel;
    uv_timer_t timer;
    struct list sockets;
};

struct dns_socket {
    struct list link;
    struct dns *dns;
    ares_socket_t fd;
    int events; /* that c-ares waits for */
    uv_poll_t poll;
};

struct question {
    dns_fn *done;
    dns_records_fn *records_done; /* of dns_look_up */
    enum dns_type type;
    void *arg;
};

/* --- sockets and time ------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *t);

/* Walks through all open questions: done when time has run out, not for each question or answer. */
static void arm(struct dns *d)
{
    struct timeval tv;
    if (ares_timeout(d->channel, NULL, &tv)) {
        uint64_t ms = (uint64_t)tv.tv_sec * 1000 + ((uint64_t)tv.tv_usec + 999) / 1000;
        uv_timer_start(&d->timer, on_timer, ms, 0);
    } else {
        uv_timer_stop(&d->timer);
    }
}

/* For a question that was just asked. */
static void watch_time(struct dns *d)
{
    uv_handle_t *h = (uv_handle_t *)&d->timer;
    if (!uv_is_active(h) || uv_timer_get_due_in(&d->timer) > d->first_ms) {
        uv_timer_start(&d->timer, on_timer, d->first_ms, 0);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct dns *d = t->data;
    ares_process_fd(d->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    arm(d);
}

static struct dns_socket *socket_find(const struct dns *d, ares_socket_t fd)
{
    LIST_FOR (link, &d->sockets) {
        struct dns_socket *s = CONTAINER_OF(link, struct dns_socket, link);
        if (s->fd == fd) {
            return s;
        }
    }
    return NULL;
}

static void on_poll(uv_poll_t *p, int status, int events);

static void socket_watch(struct dns_socket *s)
{
    CHECK(uv_poll_start(&s->poll, s->events, on_poll) == 0);
}

/*
 * An error is found by whoever reads; libuv has stopped watching the socket. If somebody else has
 * met the error already, with a send, c-ares finds nothing to read and keeps the socket.
 */
static void on_poll(uv_poll_t *p, int status, int events)
{
    const struct dns_socket *s = p->data;
    struct dns *d = s->dns;
    ares_socket_t fd = s->fd;
    bool readable = status < 0 || (events & UV_READABLE), writable = events & UV_WRITABLE;
    ares_process_fd(d->channel, readable ? fd : ARES_SOCKET_BAD, writable ? fd : ARES_SOCKET_BAD);
    struct dns_socket *kept = status < 0 ? socket_find(d, fd) : NULL;
    if (kept) {
        socket_watch(kept);
    }
}

static void on_poll_closed(uv_handle_t *h)
{
    free(h->data);
}

static void socket_close(struct dns_socket *s)
{
    list_del(&s->link);
    uv_close((uv_handle_t *)&s->poll, on_poll_closed);
}

static struct dns_socket *socket_get(struct dns *d, ares_socket_t fd)
{
    struct dns_socket *s = socket_find(d, fd);
    if (s) {
        return s;
    }
    s = NEW(struct dns_socket);
    s->dns = d;
    s->fd = fd;
    s->poll.data = s;
    CHECK(uv_poll_init(loop_uv(d->loop), &s->poll, fd) == 0);
    list_add(&d->sockets, &s->link);
    return s;
}

/* c-ares waits for this on a socket; for nothing when it is about to close it. */
static void on_socket(void *arg, ares_socket_t fd, int readable, int writable)
{
    struct dns_socket *s = socket_get(arg, fd);
    s->events = (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0);
    if (s->events) {
        socket_watch(s);
    } else {
        socket_close(s);
    }
}

/* --- servers ---------------------------------------------------------------------------------- */

static bool parse_server(const char *text, struct ares_addr_port_node *out)
{
    struct sockaddr_storage sa;
    *out = (struct ares_addr_port_node){ .udp_port = PORT, .tcp_port = PORT };
    if (inet_pton(AF_INET, text, &out->addr.addr4) == 1) {
        out->family = AF_INET;
        return true;
    }
    if (inet_pton(AF_INET6, text, &out->addr.addr6) == 1) {
        out->family = AF_INET6;
        return true;
    }
    if (netaddr_parse(text, &sa) != ERR_OK) {
        return false;
    }
    out->family = sa.ss_family;
    out->udp_port = out->tcp_port = netaddr_port((struct sockaddr *)&sa);
    if (sa.ss_family == AF_INET) {
        out->addr.addr4 = ((struct sockaddr_in *)&sa)->sin_addr;
    } else {
        memcpy(&out->addr.addr6, &((struct sockaddr_in6 *)&sa)->sin6_addr, 16);
    }
    return true;
}

enum err dns_check(const struct config_list *servers, char *why, size_t why_size)
{
    struct ares_addr_port_node ignored;
    for (size_t i = 0; i < servers->n; i++) {
        if (!parse_server(servers->v[i], &ignored)) {
            snprintf(why, why_size, "dns.servers: %s: not an address", servers->v[i]);
            return ERR_INVALID;
        }
    }
    return ERR_OK;
}

/* The servers were checked. */
static void set_servers(struct dns *d, const struct config_list *servers)
{
    struct ares_addr_port_node *v = NEW_ARRAY(struct ares_addr_port_node, servers->n + 1);
    for (size_t i = 0; i < servers->n; i++) {
        CHECK(parse_server(servers->v[i], &v[i]));
        v[i].next = i + 1 < servers->n ? &v[i + 1] : NULL;
    }
    if (servers->n > 0) {
        CHECK(ares_set_servers_ports(d->channel, v) == ARES_SUCCESS);
    }
    free(v);
}

/* --- the life of it --------------------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *h)
{
    free(h->data);
}

void dns_close(struct dns **pd)
{
    struct dns *d = *pd;
    *pd = NULL;
    if (d) {
        ares_destroy(d->channel); /* tells the askers, and that the sockets are closed */
        CHECK(list_empty(&d->sockets));
        uv_close((uv_handle_t *)&d->timer, on_timer_closed);
    }
}

enum err dns_open(struct loop *l, const struct config_list *servers, uint64_t timeout_ms,
                  struct dns **out, char *why, size_t why_size)
{
    if (dns_check(servers, why, why_size) != ERR_OK) {
        return ERR_INVALID;
    }
    struct dns *d = NEW(struct dns);
    d->loop = l;
    d->first_ms = timeout_ms / (TRIES + 1);
    list_init(&d->sockets);
    d->timer.data = d;
    struct ares_options o = { .flags = ARES_FLAG_NOSEARCH,
                              .timeout = (int)d->first_ms,
                              .tries = TRIES,
                              .lookups = (char[]){ "b" }, /* the file of hosts is not asked */
                              .sock_state_cb = on_socket,
                              .sock_state_cb_data = d };
    int rc = ares_library_init(ARES_LIB_INIT_ALL);
    if (rc == ARES_SUCCESS) {
        rc = ares_init_options(&d->channel, &o,
                               ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES |
                                   ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB);
    }
    if (rc != ARES_SUCCESS) {
        snprintf(why, why_size, "the resolver: %s", ares_strerror(rc));
        free(d);
        return ERR_INVALID;
    }
    CHECK(uv_timer_init(loop_uv(l), &d->timer) == 0);
    set_servers(d, servers);
    *out = d;
    return ERR_OK;
}

/* --- questions -------------------------------------------------------------------------------- */

static enum err meaning_of(int status)
{
    switch (status) {
    case ARES_SUCCESS:
        return ERR_OK;
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
        return ERR_NOTFOUND;
    case ARES_EDESTRUCTION:
        return ERR_CLOSED;
    default:
        return ERR_TEMP;
    }
}

static void on_answer(void *arg, int status, int timeouts, unsigned char *octets, int size)
{
    struct question q = *(struct question *)arg;
    struct ares_addrttl found[DNS_ADDRESSES];
    struct in_addr v[DNS_ADDRESSES];
    int n = ARRAY_LEN(found);
    (void)timeouts;
    free(arg);
    if (status == ARES_SUCCESS) {
        status = ares_parse_a_reply(octets, size, NULL, found, &n);
    }
    if (status == ARES_SUCCESS && n == 0) {
        status = ARES_ENODATA;
    }
    if (status != ARES_SUCCESS) {
        q.done(q.arg, meaning_of(status), NULL, 0, ares_strerror(status));
        return;
    }
    for (int i = 0; i < n; i++) {
        v[i] = found[i].ipaddr;
    }
    q.done(q.arg, ERR_OK, v, (size_t)n, "");
}

void dns_ask(struct dns *d, const char *name, dns_fn *done, void *arg)
{
    struct question *q = NEW(struct question);
    q->done = done;
    q->arg = arg;
    ares_query(d->channel, name, ns_c_in, ns_t_a, on_answer, q);
    watch_time(d);
}

static void on_records(void *arg, int status, int timeouts, unsigned char *octets, int size)
{
    struct question q = *(struct question *)arg;
    struct dns_records found = { 0 };
    (void)timeouts;
    free(arg);
    if (status != ARES_SUCCESS) {
        q.records_done(q.arg, meaning_of(status), NULL, ares_strerror(status));
        return;
    }
    const char *why;
    enum err e = dns_records_parse(octets, (size_t)size, q.type, &found, &why);
    if (e == ERR_CORRUPT) {
        e = ERR_TEMP; /* of one server at one time */
    }
    q.records_done(q.arg, e, e == ERR_OK ? &found : NULL, why);
    dns_records_fini(&found);
}

/*
 * The question is made by hand for one bit of it: a resolver says whether it has validated an
 * answer when it is asked with AD (RFC 6840, section 5.7).
 */
void dns_look_up(struct dns *d, const char *name, enum dns_type type, dns_records_fn *done,
                 void *arg)
{
    unsigned char *octets;
    unsigned short id;
    int size;
    CHECK(getrandom(&id, sizeof id, 0) == sizeof id);
    int status = ares_create_query(name, ns_c_in, (int)type, id, 1, &octets, &size, 0);
    if (status != ARES_SUCCESS) {
        done(arg, ERR_INVALID, NULL, ares_strerror(status));
        return;
    }
    octets[FLAGS_LOW] |= FLAG_AD;
    struct question *q = NEW(struct question);
    q->records_done = done;
    q->type = type;
    q->arg = arg;
    ares_send(d->channel, octets, size, on_records, q);
    ares_free_string(octets);
    watch_time(d);
}
