/*
 * cache_server: mg, ms, md, ma and mn of memcached's meta protocol (its protocol.txt, 1.6.12 and
 * later), and nothing of what is in an item.
 *
 * Every question has exactly one answer (cache_answer.h), so answers belong to questions by their
 * order alone; one that is none of those that its question can have ends the connection, as do
 * octets that nobody asked for: no late answer is ever taken for that of another question.
 *
 * A connection is DOWN, LOOKING (for the addresses of a name), CONNECTING or UP. It is opened by
 * the flush after the first question, so that no done is called from within one. The memory goes
 * with its last holder; libuv's handles are their own, as libuv lets go of them later.
 */
#include "store/cache_server.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "net/dial.h"
#include "net/lookup.h"

/* The first pause is short enough for a hiccup; the last, for a login to notice a return soon. */
#define PAUSE_MIN_MS    100
#define PAUSE_MAX_MS    1600
#define DEFAULT_PORT    11211
#define NAME_RETRY_MS   5000
#define NAME_REFRESH_MS 60000
#define LOOK_MS         10   /* between two looks whether a name has been looked up */
#define LATE_MS         1000 /* how long a late answer is waited for */
#define SETTLE_MS       2000 /* the longest pause, and what busy machines need to end theirs */
#define OCTETS_A_MS     10000

enum {
    QUESTIONS_MAX = 65536,
    OUTPUT_MAX = 64 << 20,
    LONG_ANSWER = 16384,
    INPUT_SIZE = 131072 /* more from a long value on, until nothing is waited for; some lists of
                           1,000 messages, which then come in one piece each */
};

enum link_state { LINK_DOWN, LINK_LOOKING, LINK_CONNECTING, LINK_UP };

struct cache_server {
    struct loop *loop;
    struct dial_address address;
    bool bad_name;
    struct lookup *lookup; /* NULL: the address is one in figures */
    size_t next, tried;    /* which of the addresses; how many since the last pause */
    uint64_t timeout_ms;

    enum link_state state;
    uint64_t connection;
    int fd;
    uv_poll_t *poll;
    int watched;
    uv_timer_t *timer; /* looks at the first in line; runs on when that was answered */

    struct list line; /* of questions, in the order of their answers */
    size_t length;
    bool fresh;     /* none of them was sent yet */
    bool late;      /* the first of them has had its time */
    uint64_t since; /* the first of them has its time from then on, */
    uint64_t extra; /* and this much more */
    struct buf out;

    char *input;
    size_t size, head, tail; /* of what was received and not yet taken */
    int wakes_at;            /* octets: 1, or what is missing of a long value */

    uint64_t pause_ms; /* 0: the last question was answered */
    uint64_t closed_until;
    bool lost;           /* the last connection, or the last attempt to make one, has ended */
    uint64_t settled_at; /* from then on nobody's pause stands that began before the connection */
    unsigned refs;       /* the owner, and callbacks under way */
};

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

uint64_t cache_server_connection(const struct cache_server *s)
{
    return s->connection;
}

bool cache_server_settled(const struct cache_server *s)
{
    return s->state == LINK_UP && loop_now(s->loop) >= s->settled_at;
}

/* --- the end of a connection ----------------------------------------------------------------- */

static void unref(struct cache_server *s)
{
    if (--s->refs == 0) {
        free(s);
    }
}

static void on_handle_closed(uv_handle_t *h)
{
    free(h);
}

static void set_input(struct cache_server *s, size_t size)
{
    s->input = mem_grow(s->input, size, 1);
    s->size = size;
}

static uint64_t new_connection(void)
{
    static uint64_t connections; /* of the process: it has one loop */
    return ++connections;
}

static void close_socket(struct cache_server *s)
{
    if (s->poll) {
        uv_close((uv_handle_t *)s->poll, on_handle_closed);
        s->poll = NULL;
        s->watched = 0;
    }
    if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
}

static void disconnect(struct cache_server *s)
{
    close_socket(s);
    s->state = LINK_DOWN;
    s->connection = new_connection();
    s->head = s->tail = 0;
    s->tried = 0;
    s->fresh = s->late = false;
    s->lost = true;
    buf_release(&s->out);
    set_input(s, INPUT_SIZE);
}

static struct cache_question *first(const struct cache_server *s)
{
    return CONTAINER_OF(s->line.next, struct cache_question, link);
}

/* The first in line has its time from now on, and more for what is sent with it. */
static void begin_time(struct cache_server *s)
{
    s->since = loop_now(s->loop);
    s->extra = list_empty(&s->line) ? 0 : first(s)->octets / OCTETS_A_MS;
}

/* Those that are asked meanwhile are refused: the pause has begun. */
static void end_all(struct cache_server *s)
{
    struct list all;
    list_init(&all);
    while (!list_empty(&s->line)) {
        list_add(&all, list_pop(&s->line));
    }
    s->length = 0;
    for (struct list *link; (link = list_pop(&all));) {
        struct cache_question *q = CONTAINER_OF(link, struct cache_question, link);
        q->done(q, &(struct cache_answer){ .err = ERR_TEMP });
    }
}

static void start_timer(struct cache_server *s, uint64_t ms);

/* The timer wakes the loop when the pause is over, for those who are owed something. */
static void failed(struct cache_server *s)
{
    disconnect(s);
    uint64_t pause = s->pause_ms ? 2 * s->pause_ms : PAUSE_MIN_MS;
    s->pause_ms = pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
    s->closed_until = loop_now(s->loop) + s->pause_ms;
    start_timer(s, s->pause_ms);
    end_all(s);
}

/* --- answers --------------------------------------------------------------------------------- */

/* Room for an answer of so many octets; to the front only if it has none. */
static void make_room(struct cache_server *s, size_t n)
{
    if (n <= s->size - s->head) {
        return;
    }
    if (s->head) {
        memmove(s->input, s->input + s->head, s->tail - s->head);
        s->tail -= s->head;
        s->head = 0;
    }
    if (n > s->size) {
        set_input(s, n);
    }
}

/* The loop is woken when so many octets have come, or as many as the socket takes. */
static void wake_at(struct cache_server *s, int octets)
{
    if (s->wakes_at != octets) {
        s->wakes_at = octets;
        setsockopt(s->fd, SOL_SOCKET, SO_RCVLOWAT, &octets, sizeof octets);
    }
}

/*
 * The time that a value adds is for its size, which is known to be sane. A long one is read when
 * all of it is there: to read it while it comes costs a wake-up for each of its segments, of which
 * there are many where the kernel paces them, and both ends then wait for the socket's lock.
 */
static void wait_for_rest(struct cache_server *s, size_t n)
{
    size_t rest = n - (s->tail - s->head);
    s->extra = (first(s)->octets + n) / OCTETS_A_MS;
    make_room(s, n);
    wake_at(s, n >= LONG_ANSWER && rest <= INT_MAX ? (int)rest : 1);
}

static void answered(struct cache_server *s, const struct cache_answer *a, size_t n)
{
    struct cache_question *q = first(s);
    list_del(&q->link);
    s->length--;
    s->head += n;
    s->pause_ms = 0;
    begin_time(s);
    if (s->late) { /* the timer stands where the time of that one would have ended */
        s->late = false;
        start_timer(s, s->timeout_ms);
    }
    q->done(q, a);
}

static enum cache_parsed parse(const struct cache_server *s, struct cache_answer *a, size_t *n)
{
    if (list_empty(&s->line)) {
        return CACHE_UNEXPECTED; /* nobody has asked */
    }
    const struct cache_question *q = first(s);
    return cache_answer_parse(span_of(s->input + s->head, s->tail - s->head), q->verb, q->least, a,
                              n);
}

/* All answers that are there. False: the connection is gone. */
static bool take_answers(struct cache_server *s)
{
    uint64_t connection = s->connection;
    while (s->head < s->tail) {
        struct cache_answer a = { 0 };
        size_t n = 0;
        enum cache_parsed p = parse(s, &a, &n);
        if (p == CACHE_UNEXPECTED) {
            failed(s);
            return false;
        }
        if (p == CACHE_INCOMPLETE) {
            wait_for_rest(s, n);
            return true;
        }
        answered(s, &a, n);
        if (s->connection != connection) { /* it was closed by who was answered */
            return false;
        }
    }
    s->head = s->tail = 0;
    wake_at(s, 1);
    return true;
}

/* --- the socket ------------------------------------------------------------------------------ */

/* Reads until there is no more; a read that does not fill the room says that without another. */
static void receive(struct cache_server *s)
{
    for (bool more = true; more && s->state == LINK_UP;) {
        size_t room = s->size - s->tail;
        ssize_t n = recv(s->fd, s->input + s->tail, room, 0);
        if (n > 0) {
            s->tail += (size_t)n;
            more = take_answers(s) && (size_t)n == room;
        } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            more = false;
        } else if (list_empty(&s->line)) { /* an idle connection may end: no failure */
            disconnect(s);
        } else {
            failed(s);
        }
    }
}

static void on_poll(uv_poll_t *h, int status, int events);

/* Telling libuv costs a system call, so only when it changes. */
static void watch(struct cache_server *s, int events)
{
    if (s->watched != events) {
        s->watched = events;
        CHECK(uv_poll_start(s->poll, events, on_poll) == 0);
    }
}

static void send_out(struct cache_server *s)
{
    while (buf_len(&s->out)) {
        struct span octets = buf_span(&s->out);
        ssize_t n = send(s->fd, octets.p, octets.n, MSG_NOSIGNAL);
        if (n >= 0) {
            buf_take(&s->out, (size_t)n);
        } else if (errno != EINTR) {
            break;
        }
    }
    if (buf_len(&s->out) && errno != EAGAIN) {
        failed(s);
    } else {
        watch(s, UV_READABLE | (buf_len(&s->out) ? UV_WRITABLE : 0));
    }
}

/* --- connecting ------------------------------------------------------------------------------ */

static size_t addresses(const struct cache_server *s, const struct sockaddr_storage **v)
{
    if (s->lookup) {
        return lookup_addresses(s->lookup, v);
    }
    *v = &s->address.a.inet;
    return s->bad_name ? 0 : 1;
}

/* EINPROGRESS is the good case. */
static bool open_socket(struct cache_server *s, const struct sockaddr *to)
{
    int on = 1;
    s->fd = socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) {
        return false;
    }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, to, netaddr_len(to)) != 0 && errno != EINPROGRESS) {
        close_socket(s);
        return false;
    }
    s->poll = NEW(uv_poll_t);
    s->poll->data = s;
    CHECK(uv_poll_init(loop_uv(s->loop), s->poll, s->fd) == 0);
    s->state = LINK_CONNECTING;
    s->wakes_at = 1;
    watch(s, UV_WRITABLE);
    return true;
}

/* The next address that none was tried of since the last pause. */
static void connect_next(struct cache_server *s)
{
    const struct sockaddr_storage *v;
    size_t n = addresses(s, &v);
    close_socket(s);
    while (s->tried < n) {
        s->tried++;
        if (open_socket(s, (const struct sockaddr *)&v[s->next++ % n])) {
            return;
        }
    }
    failed(s);
}

static void begin_connecting(struct cache_server *s)
{
    if (s->lookup && lookup_pending(s->lookup)) {
        s->state = LINK_LOOKING;
        start_timer(s, LOOK_MS);
    } else {
        start_timer(s, s->timeout_ms);
        connect_next(s);
    }
}

static void on_connected(struct cache_server *s)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0) {
        s->state = LINK_UP;
        s->next--; /* it was a good one */
        s->tried = 0;
        s->settled_at = s->lost ? loop_now(s->loop) + SETTLE_MS + 2 * s->timeout_ms : 0;
        s->lost = false;
        begin_time(s);
        send_out(s);
    } else {
        connect_next(s);
    }
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct cache_server *s = h->data;
    s->refs++;
    if (s->state == LINK_CONNECTING) {
        on_connected(s);
    } else if (status < 0) {
        failed(s);
    } else {
        if (events & UV_READABLE) {
            receive(s);
        }
        if (s->state == LINK_UP && events & UV_WRITABLE) {
            send_out(s);
        }
    }
    unref(s);
}

/* --- deadlines ------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *t);

static void start_timer(struct cache_server *s, uint64_t ms)
{
    uv_timer_start(s->timer, on_timer, ms, 0);
}

/*
 * A loop that was late itself looks first at what has come meanwhile. A connection is not given up
 * for one late answer, as a busy machine gives many: what was asked on it would be uncertain.
 */
static void on_timer(uv_timer_t *t)
{
    struct cache_server *s = t->data;
    s->refs++;
    receive(s);
    uint64_t now = loop_now(s->loop);
    uint64_t until = s->since + s->timeout_ms + s->extra + (s->late ? LATE_MS : 0);
    if (s->fresh) {
        /* the flush begins anew */
    } else if (list_empty(&s->line)) {
        set_input(s, INPUT_SIZE); /* nothing is there: what was left would be unexpected */
    } else if (now >= until && s->state == LINK_UP && !s->late) {
        s->late = true;
        start_timer(s, LATE_MS);
    } else if (now >= until) {
        failed(s);
    } else if (s->state == LINK_LOOKING) {
        begin_connecting(s);
    } else {
        start_timer(s, until - now);
    }
    unref(s);
}

void cache_server_read(struct cache_server *s)
{
    s->refs++;
    receive(s);
    unref(s);
}

void cache_server_flush(struct cache_server *s)
{
    if (list_empty(&s->line) || s->state == LINK_LOOKING) {
        return;
    }
    if (s->fresh) {
        s->fresh = false;
        uv_update_time(loop_uv(s->loop)); /* it may have been a long turn */
        begin_time(s);
    }
    if (!uv_is_active((uv_handle_t *)s->timer)) {
        start_timer(s, s->timeout_ms);
    }
    if (buf_len(&s->out) == 0 || s->watched & UV_WRITABLE) {
        return;
    }
    s->refs++;
    if (s->state == LINK_DOWN) {
        begin_connecting(s);
    } else {
        send_out(s);
    }
    unref(s);
}

/* --- questions ------------------------------------------------------------------------------- */

/* While an answer is late what is given back may wait behind it: nobody else gets it sooner. */
static enum err admit(const struct cache_server *s, enum cache_verb verb)
{
    bool paused = s->pause_ms && loop_now(s->loop) < s->closed_until;
    if (paused || (s->late && verb != CACHE_VERB_DELETE)) {
        return ERR_TEMP;
    }
    return s->length < QUESTIONS_MAX ? ERR_OK : ERR_LIMIT;
}

/* line without its end; value NULL: none follows. */
static enum err ask(struct cache_server *s, struct cache_question *q, enum cache_verb verb,
                    struct span line, const struct span *value)
{
    enum err e = admit(s, verb);
    size_t n = line.n + 2 + (value ? value->n + 2 : 0);
    if (e != ERR_OK || n > buf_room(&s->out)) {
        return e == ERR_OK ? ERR_LIMIT : e;
    }
    buf_add(&s->out, line);
    buf_add(&s->out, SPAN("\r\n"));
    if (value) {
        buf_add(&s->out, *value);
        buf_add(&s->out, SPAN("\r\n"));
    }
    s->fresh |= list_empty(&s->line);
    q->verb = verb;
    q->octets = n;
    list_add(&s->line, &q->link);
    s->length++;
    return ERR_OK;
}

/* A line that is put together; no printf, as there are six of them a poll. */
struct line {
    char text[200]; /* the longest has a key and some numbers */
    size_t n;
};

static void put(struct line *l, struct span s)
{
    CHECK(s.n <= sizeof l->text - l->n);
    memcpy(l->text + l->n, s.p, s.n);
    l->n += s.n;
}

static void put_number(struct line *l, struct span before, uint64_t v)
{
    char digits[BUF_DECIMAL_MAX];
    put(l, before);
    put(l, span_of(digits, (size_t)(buf_decimal(digits, v) - digits)));
}

static struct line begin_line(struct span verb, const char *key)
{
    struct line l;
    l.n = 0;
    put(&l, verb);
    put(&l, span_str(key));
    return l;
}

static struct span line_span(const struct line *l)
{
    return span_of(l->text, l->n);
}

enum err cache_server_get(struct cache_server *s, struct cache_question *q, const char *key)
{
    struct line l = begin_line(SPAN("mg "), key);
    put(&l, SPAN(" c v"));
    return ask(s, q, CACHE_VERB_GET, line_span(&l), NULL);
}

enum err cache_server_set(struct cache_server *s, struct cache_question *q, const char *key,
                          struct span value, uint32_t life, enum cache_when when, uint64_t cas)
{
    struct line l = begin_line(SPAN("ms "), key);
    put_number(&l, SPAN(" "), value.n);
    put_number(&l, SPAN(" c T"), life);
    if (when == CACHE_ABSENT) {
        put(&l, SPAN(" ME"));
    } else if (when == CACHE_SAME) {
        put_number(&l, SPAN(" C"), cas);
    }
    return ask(s, q, CACHE_VERB_SET, line_span(&l), &value);
}

enum err cache_server_delete(struct cache_server *s, struct cache_question *q, const char *key,
                             uint64_t cas)
{
    struct line l = begin_line(SPAN("md "), key);
    if (cas) {
        put_number(&l, SPAN(" C"), cas);
    }
    return ask(s, q, CACHE_VERB_DELETE, line_span(&l), NULL);
}

enum err cache_server_count(struct cache_server *s, struct cache_question *q, const char *key,
                            uint64_t more, uint32_t life)
{
    struct line l = begin_line(SPAN("ma "), key);
    put_number(&l, SPAN(" v N"), life);
    put_number(&l, SPAN(" J"), more);
    put_number(&l, SPAN(" D"), more);
    q->least = more;
    return ask(s, q, CACHE_VERB_COUNT, line_span(&l), NULL);
}

enum err cache_server_take(struct cache_server *s, struct cache_question *q, const char *key,
                           uint64_t less)
{
    struct line l = begin_line(SPAN("ma "), key);
    put_number(&l, SPAN(" v MD D"), less);
    q->least = 0;
    return ask(s, q, CACHE_VERB_COUNT, line_span(&l), NULL);
}

enum err cache_server_probe(struct cache_server *s, struct cache_question *q)
{
    return ask(s, q, CACHE_VERB_PROBE, SPAN("mn"), NULL);
}

/* --- open and close -------------------------------------------------------------------------- */

static void set_address(struct cache_server *s, const char *name)
{
    char text[DIAL_NAME_MAX + 32], host[DIAL_NAME_MAX + 1], why[64];
    uint16_t port;
    cache_server_name(name, host, sizeof host, &port);
    snprintf(text, sizeof text, "inet:%u@%s", port, host);
    s->bad_name = dial_parse(text, &s->address, why, sizeof why) != ERR_OK;
    if (!s->bad_name && s->address.len == 0) {
        s->lookup = lookup_open(s->loop, &(struct lookup_options){ .host = s->address.host,
                                                                   .port = s->address.port,
                                                                   .retry_ms = NAME_RETRY_MS,
                                                                   .refresh_ms = NAME_REFRESH_MS });
    }
}

struct cache_server *cache_server_open(struct loop *l, const char *name, uint64_t timeout_ms)
{
    struct cache_server *s = NEW(struct cache_server);
    s->loop = l;
    s->timeout_ms = timeout_ms;
    s->fd = -1;
    s->refs = 1;
    list_init(&s->line);
    buf_init(&s->out, OUTPUT_MAX);
    s->timer = NEW(uv_timer_t);
    s->timer->data = s;
    CHECK(uv_timer_init(loop_uv(l), s->timer) == 0);
    set_address(s, name);
    disconnect(s);
    s->lost = false;
    return s;
}

/* What was asked in this turn may still go, if it goes at once: nobody waits for it. */
void cache_server_close(struct cache_server **sp)
{
    struct cache_server *s = *sp;
    *sp = NULL;
    if (!s) {
        return;
    }
    if (s->state == LINK_UP && buf_len(&s->out)) {
        struct span octets = buf_span(&s->out);
        (void)!send(s->fd, octets.p, octets.n, MSG_NOSIGNAL);
    }
    failed(s);
    lookup_close(&s->lookup);
    uv_close((uv_handle_t *)s->timer, on_handle_closed);
    buf_fini(&s->out);
    free(s->input);
    s->input = NULL;
    s->size = 0;
    unref(s);
}
