/*
 * load: see the header.
 *
 * A slot that was used is opened again by open_slots, once a turn of the loop, and not where its
 * conversation ended. What is read goes into one buffer for all; only what a client has left of it,
 * a part of a line, is kept in its slot. An idle slot owns no buffer.
 */
#include "load.h"

#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "histogram.h"

#define READ_ROOM  (256 * 1024)
#define EVENTS     512
#define NS         1000000000ull
#define SPARE_FDS  64
#define LOOK_EVERY NS /* at the deadlines */

enum slot_state { SLOT_FREE, SLOT_BUSY, SLOT_IDLE };

struct slot {
    enum slot_state state;
    bool handshaking;
    bool wants_write; /* as epoll knows it */
    struct peer peer;
    SSL_SESSION *session;
    uint64_t begun;
    char *rest; /* what the client has left of its input */
    size_t rest_n;
    struct buf out;
    void *client;
};

struct load {
    struct load_plan *plan;
    const struct client_type *type;
    const void *client_plan;
    SSL_CTX *ctx;
    int epoll;
    struct slot *slots;
    char *clients;
    size_t *free; /* a stack of slots */
    size_t free_n;
    size_t ready; /* of them idle */
    bool told_ready;
    size_t leaves; /* the next slot that is left, once its session is no more wanted */
    uint64_t now, start, deadline, looked;
    uint64_t cpu;
    uint64_t next; /* address, of a conversation that is nobody's */
    uint64_t operations, errors, octets_in, octets_out, handshakes, resumed;
    struct histogram latency;
    char in[READ_ROOM];
};

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

/* --- slots -------------------------------------------------------------------------------------
 */

static void watch(struct load *l, struct slot *s, int operation, bool wants_write)
{
    struct epoll_event e = { .events = EPOLLIN | (wants_write ? EPOLLOUT : 0u), .data.ptr = s };
    s->wants_write = wants_write;
    if (epoll_ctl(l->epoll, operation, s->peer.fd, &e) != 0) {
        err(1, "epoll_ctl");
    }
}

static void want_write(struct load *l, struct slot *s, bool wanted)
{
    if (s->wants_write != wanted) {
        watch(l, s, EPOLL_CTL_MOD, wanted);
    }
}

static void close_slot(struct load *l, struct slot *s)
{
    if (s->state == SLOT_IDLE) {
        l->ready--;
    }
    l->type->end(s->client);
    peer_close(&s->peer);
    free(s->rest);
    s->rest = NULL;
    s->rest_n = 0;
    buf_clear(&s->out);
    s->state = SLOT_FREE;
    l->free[l->free_n++] = (size_t)(s - l->slots);
}

static void fail(struct load *l, struct slot *s, const char *why)
{
    if (l->errors++ < ERRORS_SHOWN) {
        struct buf who;
        buf_init(&who, REPLY_MAX);
        l->type->describe(s->client, &who);
        fprintf(stderr, "%s: %.*s: %s\n", l->type->name, SPAN_ARG(buf_span(&who)), why);
        buf_fini(&who);
    }
    if (l->errors == ERRORS_MAX) {
        fprintf(stderr, "%s: too many errors, no more is begun\n", l->type->name);
        l->plan->tickets->closed = true;
    }
    close_slot(l, s);
}

static void fail_peer(struct load *l, struct slot *s, const char *what)
{
    char why[128];
    snprintf(why, sizeof why, "%s: %s", what, peer_why());
    fail(l, s, why);
}

static void begin_tls(struct load *l, struct slot *s)
{
    peer_begin_tls(&s->peer, l->ctx, &s->session);
    s->handshaking = true;
}

/* False: there is nothing to be begun. */
static bool open_slot(struct load *l, struct slot *s)
{
    memset(s->client, 0, l->type->size);
    if (!l->type->begin(s->client, l->client_plan)) {
        return false;
    }
    l->free_n--;
    s->state = SLOT_BUSY;
    s->handshaking = false;
    s->begun = clock_ns();
    uint64_t from = l->type->whose ? l->type->whose(s->client) : l->next++;
    if (!peer_open(&s->peer, &l->plan->target, from)) {
        fail_peer(l, s, "connect");
        return true;
    }
    watch(l, s, EPOLL_CTL_ADD, l->plan->tls == LOAD_TLS || l->type->speaks_first);
    if (l->plan->tls == LOAD_TLS) {
        begin_tls(l, s);
    }
    return true;
}

static void open_slots(struct load *l)
{
    while (l->free_n && l->plan->at_once - l->free_n - l->ready < l->plan->opening) {
        if (!open_slot(l, &l->slots[l->free[l->free_n - 1]])) {
            return;
        }
    }
}

/* --- a conversation ----------------------------------------------------------------------------
 */

static void count_operation(struct load *l, struct slot *s)
{
    uint64_t now = clock_ns();
    l->operations++;
    if (!l->plan->holds) {
        histogram_add(&l->latency, (now - s->begun) / 1000);
    }
    s->begun = now;
}

/* It is logged in; now it waits. */
static void hold(struct load *l, struct slot *s)
{
    histogram_add(&l->latency, (clock_ns() - s->begun) / 1000);
    s->state = SLOT_IDLE;
    l->ready++;
    buf_release(&s->out);
}

/* Keeps what the client has left. */
static void keep_rest(struct slot *s, struct span in)
{
    free(s->rest);
    s->rest = NULL;
    s->rest_n = in.n;
    if (in.n) {
        s->rest = mem_raw(in.n);
        memcpy(s->rest, in.p, in.n);
    }
}

/* False: the slot is closed. */
static bool feed(struct load *l, struct slot *s, struct span in)
{
    for (;;) {
        switch (l->type->feed(s->client, &in, &s->out)) {
        case CLIENT_MORE:
            CHECK(in.n < READ_ROOM / 2);
            keep_rest(s, in);
            return true;
        case CLIENT_TLS:
            begin_tls(l, s);
            keep_rest(s, in);
            return true;
        case CLIENT_DONE:
            count_operation(l, s);
            break;
        case CLIENT_READY:
            hold(l, s);
            keep_rest(s, in);
            return true;
        case CLIENT_CLOSED:
            close_slot(l, s);
            return false;
        case CLIENT_WRONG:
            fail(l, s, client_why());
            return false;
        }
    }
}

static void on_eof(struct load *l, struct slot *s)
{
    if (l->type->eof_is_end) {
        count_operation(l, s);
        close_slot(l, s);
    } else {
        fail(l, s, "the server has closed the connection");
    }
}

/* False: the slot is closed. */
static bool handshake(struct load *l, struct slot *s)
{
    switch (peer_handshake(&s->peer)) {
    case PEER_OK:
        s->handshaking = false;
        l->handshakes++;
        l->resumed += s->peer.resumed;
        return feed(l, s, SPAN(""));
    case PEER_WAIT_READ:
        want_write(l, s, false);
        return true;
    case PEER_WAIT_WRITE:
        want_write(l, s, true);
        return true;
    case PEER_EOF:
    case PEER_FAILED:
        break;
    }
    fail_peer(l, s, "handshake");
    return false;
}

/* One read, or as many as TLS has records of. False: the slot is closed. */
static bool read_slot(struct load *l, struct slot *s)
{
    do {
        size_t got;
        memcpy(l->in, s->rest ? s->rest : "", s->rest_n);
        switch (peer_read(&s->peer, l->in + s->rest_n, READ_ROOM - s->rest_n, &got)) {
        case PEER_OK:
            l->octets_in += got;
            if (!feed(l, s, span_of(l->in, s->rest_n + got))) {
                return false;
            }
            break;
        case PEER_EOF:
            on_eof(l, s);
            return false;
        case PEER_FAILED:
            fail_peer(l, s, "reading");
            return false;
        case PEER_WAIT_READ:
        case PEER_WAIT_WRITE:
            return true;
        }
    } while (!s->handshaking && peer_pending(&s->peer));
    return true;
}

/* Writes what there is. False: the slot is closed. */
static bool write_slot(struct load *l, struct slot *s)
{
    while (buf_len(&s->out) || (l->type->fill && l->type->fill(s->client, &s->out))) {
        size_t n;
        switch (peer_write(&s->peer, buf_span(&s->out), &n)) {
        case PEER_OK:
            l->octets_out += n;
            buf_take(&s->out, n);
            break;
        case PEER_WAIT_READ:
        case PEER_WAIT_WRITE:
            want_write(l, s, true);
            return true;
        case PEER_EOF:
        case PEER_FAILED:
            fail_peer(l, s, "writing");
            return false;
        }
    }
    want_write(l, s, false);
    return true;
}

static void on_event(struct load *l, struct slot *s, uint32_t events)
{
    if (s->state == SLOT_FREE) {
        return; /* was closed in this turn */
    }
    if (s->handshaking) {
        if (!handshake(l, s) || s->handshaking) {
            return;
        }
        events = peer_pending(&s->peer) ? EPOLLIN : 0; /* what came along with its end */
    }
    if ((events & ~(uint32_t)EPOLLOUT) && !read_slot(l, s)) {
        return;
    }
    if (s->handshaking) {
        handshake(l, s); /* begins it */
        return;
    }
    uint64_t before = l->octets_out;
    if (s->state == SLOT_BUSY && !write_slot(l, s)) {
        return;
    }
    if (l->octets_out == before && (events & EPOLLIN)) {
        peer_acknowledge(&s->peer);
    }
}

/* --- the run -----------------------------------------------------------------------------------
 */

static void look_at_deadlines(struct load *l)
{
    l->looked = l->now;
    for (size_t i = 0; i < l->plan->at_once; i++) {
        struct slot *s = &l->slots[i];
        if (s->state == SLOT_BUSY && l->now - s->begun > l->plan->time_out * NS) {
            fail(l, s, "no reply in time");
        }
    }
}

static void look_at_clock(struct load *l)
{
    l->now = clock_ns();
    if (l->deadline && l->now >= l->deadline) {
        l->plan->tickets->closed = true;
    }
    if (l->now - l->looked >= LOOK_EVERY) {
        look_at_deadlines(l);
    }
}

/* Ends held sessions, as many at a time as were begun at a time. */
static void leave_some(struct load *l)
{
    while (l->leaves < l->plan->at_once &&
           l->plan->at_once - l->free_n - l->ready < l->plan->opening) {
        struct slot *s = &l->slots[l->leaves++];
        if (s->state == SLOT_IDLE) {
            s->state = SLOT_BUSY;
            s->begun = clock_ns();
            l->ready--;
            l->type->leave(s->client, &s->out);
            write_slot(l, s);
        }
    }
}

/* Standard input is read to its end; then the sessions are left. */
static void on_input(struct load *l)
{
    char ignored[256];
    if (read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
        epoll_ctl(l->epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
        l->plan->tickets->closed = true;
        l->leaves = 0;
    }
}

/* All sessions that could be had stand. */
static void tell_ready(struct load *l)
{
    l->told_ready = true;
    printf("{\"ready\": %zu}\n", l->ready);
    fflush(stdout);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e) != 0) {
        on_input(l); /* a file, which has its end already */
    }
}

/* Whether there is still something going on, or to come. */
static bool goes_on(struct load *l)
{
    size_t used = l->plan->at_once - l->free_n;
    if (l->plan->holds && !l->told_ready && used == l->ready && !tickets_left(l->plan->tickets)) {
        tell_ready(l);
        used = l->plan->at_once - l->free_n;
    }
    return used > 0;
}

static void run(struct load *l)
{
    struct epoll_event events[EVENTS];
    for (open_slots(l); goes_on(l); open_slots(l)) {
        leave_some(l);
        int n = epoll_wait(l->epoll, events, EVENTS, 500);
        if (n < 0 && errno != EINTR) {
            err(1, "epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) {
                on_event(l, events[i].data.ptr, events[i].events);
            } else {
                on_input(l);
            }
        }
        look_at_clock(l);
    }
}

/* --- beginning and end -------------------------------------------------------------------------
 */

static void raise_descriptors(size_t wanted)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted) {
        if (limit.rlim_max < wanted) {
            limit.rlim_max = wanted; /* root may */
        }
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            err(1, "%zu descriptors", wanted);
        }
    }
}

static void load_init(struct load *l)
{
    const struct load_plan *p = l->plan;
    size_t stride = (l->type->size + 15) & ~(size_t)15;
    raise_descriptors(p->at_once + SPARE_FDS);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll < 0) {
        err(1, "epoll_create1");
    }
    l->ctx = p->tls == LOAD_PLAIN ? NULL : peer_context(p->resume);
    l->slots = NEW_ARRAY(struct slot, p->at_once);
    l->free = NEW_ARRAY(size_t, p->at_once);
    l->clients = mem_new(p->at_once, stride);
    for (size_t i = p->at_once; i-- > 0;) {
        struct slot *s = &l->slots[i];
        s->client = l->clients + i * stride;
        s->peer.fd = -1;
        buf_init(&s->out, l->type->out_limit);
        l->free[l->free_n++] = i;
    }
}

static void load_fini(struct load *l)
{
    for (size_t i = 0; i < l->plan->at_once; i++) {
        buf_fini(&l->slots[i].out);
        SSL_SESSION_free(l->slots[i].session);
    }
    SSL_CTX_free(l->ctx);
    close(l->epoll);
    free(l->slots);
    free(l->free);
    free(l->clients);
}

static void print(const struct load *l)
{
    double seconds = (double)(clock_ns() - l->start) / (double)NS;
    const struct histogram *h = &l->latency;
    printf("{\"work\": \"%s\", \"operations\": %" PRIu64 ", ", l->plan->work, l->operations);
    if (l->plan->messages) {
        printf("\"messages\": %" PRIu64 ", ", l->operations * l->plan->messages);
    }
    printf("\"errors\": %" PRIu64 ", \"seconds\": %.6f, \"rate\": %.3f, \"octets_in\": %" PRIu64
           ", \"octets_out\": %" PRIu64 ", \"cpu\": %.6f, ",
           l->errors, seconds, (double)l->operations / seconds, l->octets_in, l->octets_out,
           (double)(cpu_ns() - l->cpu) / (double)NS);
    if (l->ctx) {
        printf("\"tls_handshakes\": %" PRIu64 ", \"tls_resumed\": %" PRIu64 ", ", l->handshakes,
               l->resumed);
    }
    printf("\"latency_us\": {\"min\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p90\": %" PRIu64
           ", \"p99\": %" PRIu64 ", \"p999\": %" PRIu64 ", \"max\": %" PRIu64 "}}\n",
           h->least, histogram_quantile(h, 0.5), histogram_quantile(h, 0.9),
           histogram_quantile(h, 0.99), histogram_quantile(h, 0.999), h->largest);
    fflush(stdout);
}

int load_run(struct load_plan *plan, const struct client_type *type, const void *client_plan)
{
    struct load *l = NEW(struct load);
    l->leaves = SIZE_MAX;
    l->plan = plan;
    l->type = type;
    l->client_plan = client_plan;
    load_init(l);
    l->cpu = cpu_ns();
    l->start = l->looked = l->now = clock_ns();
    l->deadline = plan->seconds ? l->start + plan->seconds * NS : 0;
    run(l);
    print(l);
    int status = l->errors ? 1 : 0;
    load_fini(l);
    free(l);
    return status;
}
