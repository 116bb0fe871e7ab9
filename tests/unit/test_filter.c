/*
 * Tests of filter against scripted milters on loopback: what they hear, what becomes of their
 * verdicts and changes, and everything that can go wrong with one.
 */
#include "net_fixture.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/un.h>

#include "base/stats.h"
#include "filter.h"
#include "net/dial.h"

#define NR_ALL 0x000df080u

/* --- the DNS --------------------------------------------------------------------------------- */

/* Of milter.test, in the place of libc's: on a thread, and only while the test does not hold it. */
static pthread_mutex_t dns = PTHREAD_MUTEX_INITIALIZER;
static bool dns_is_down;

/* Two addresses; at the first nobody listens. */
int getaddrinfo(const char *restrict host, const char *restrict port,
                const struct addrinfo *restrict hints, struct addrinfo **restrict out)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (strcmp(host, "milter.test") != 0) {
        return real(host, port, hints, out);
    }
    if (hints->ai_flags & AI_NUMERICHOST) {
        return EAI_NONAME;
    }
    pthread_mutex_lock(&dns);
    bool down = dns_is_down;
    pthread_mutex_unlock(&dns);
    return down || real("127.0.0.2", port, hints, out) != 0 ||
                   real("127.0.0.1", port, hints, &(*out)->ai_next) != 0
               ? EAI_AGAIN
               : 0;
}

/* --- a milter -------------------------------------------------------------------------------- */

struct fake {
    int listener;
    struct peer conns[4]; /* one after the other, or at the same time */
    size_t n;
    char name[128];
    uint32_t protocol;
    struct span answers[128]; /* instead of `c`; NULL: as usual */
    bool mute;                /* says nothing at all */
    bool closes;              /* every connection, at once */
    struct buf heard;         /* commands, without macros; with data for some */
};

static void fake_init(struct fake *k)
{
    struct sockaddr_in at;
    *k = (struct fake){ .listener = listen_loopback(&at) };
    assert_int_equal(fcntl(k->listener, F_SETFL, O_NONBLOCK), 0);
    snprintf(k->name, sizeof k->name, "inet:127.0.0.1:%u", ntohs(at.sin_port));
    buf_init(&k->heard, BIG);
}

static void fake_fini(struct fake *k)
{
    for (size_t i = 0; i < k->n; i++) {
        peer_fini(&k->conns[i]);
    }
    close(k->listener);
    buf_fini(&k->heard);
}

static void packet(struct buf *b, char command, struct span data)
{
    char head[5] = { (char)((data.n + 1) >> 24), (char)((data.n + 1) >> 16),
                     (char)((data.n + 1) >> 8), (char)(data.n + 1), command };
    buf_add(b, span_of(head, 5));
    buf_add(b, data);
}

static void fake_answer(struct fake *k, struct peer *p, char command)
{
    static const struct {
        char command;
        uint32_t no_reply;
    } table[] = { { 'C', 0x1000 },  { 'H', 0x2000 },  { 'M', 0x4000 },
                  { 'R', 0x8000 },  { 'T', 0x10000 }, { 'N', 0x40000 },
                  { 'B', 0x80000 }, { 'L', 0x80 },    { 'E', 0 } };
    char options[12] = { 0,
                         0,
                         0,
                         6,
                         0,
                         0,
                         1,
                         (char)0xff,
                         (char)(k->protocol >> 24),
                         (char)(k->protocol >> 16),
                         (char)(k->protocol >> 8),
                         (char)k->protocol };
    struct span own = k->answers[(unsigned char)command];
    if (own.p) {
        peer_send(p, own);
    } else if (command == 'O') {
        packet(&p->to_send, 'O', span_of(options, 12));
    }
    for (size_t i = 0; i < ARRAY_LEN(table) && !own.p; i++) {
        if (table[i].command == command && !(k->protocol & table[i].no_reply)) {
            packet(&p->to_send, 'c', SPAN(""));
        }
    }
}

static void fake_hear(struct fake *k, struct span s)
{
    if (s.p[0] == 'D') {
        return;
    }
    buf_addc(&k->heard, s.p[0]);
    if (strchr("MRLH", s.p[0])) {
        for (size_t i = 1; i < s.n; i++) {
            buf_addc(&k->heard, s.p[i] ? s.p[i] : '|');
        }
    } else if (s.p[0] == 'B') {
        buf_add(&k->heard, span_skip(s, 1));
    }
    buf_addc(&k->heard, '~');
}

static void fake_read(struct fake *k, struct peer *p)
{
    for (;;) {
        struct span got = buf_span(&p->got);
        const unsigned char *b = (const unsigned char *)got.p;
        size_t n =
            got.n < 4 ? 0 : (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3];
        if (n == 0 || got.n < 4 + n) {
            return;
        }
        fake_hear(k, span_of(got.p + 4, n));
        if (!k->mute) {
            fake_answer(k, p, got.p[4]);
        }
        buf_take(&p->got, 4 + n);
    }
}

static void fake_pump(struct fake *k)
{
    int fd = k->listener >= 0 ? accept(k->listener, NULL, NULL) : -1;
    if (fd >= 0) {
        assert_true(k->n < ARRAY_LEN(k->conns));
        peer_init(&k->conns[k->n++], fd);
    }
    for (size_t i = 0; i < k->n; i++) {
        struct peer *p = &k->conns[i];
        if (k->closes && p->fd >= 0) {
            close(p->fd);
            p->fd = -1;
        }
        peer_pump(p);
        fake_read(k, p);
        peer_pump(p);
    }
}

static void heard(struct fake *k, const char *want)
{
    buf_addc(&k->heard, '\0');
    assert_string_equal(buf_span(&k->heard).p, want);
    buf_clear(&k->heard);
}

/* --- a session ------------------------------------------------------------------------------- */

struct world {
    struct fixture x;
    struct fake k[2];
    size_t n;
    const char *names[2];
    struct config c;
    const struct config *config;
    struct filters *fs;
    struct filter *f;
    struct stats stats;
    int told;
    enum filter_verdict v;
    struct filter_reply r;
    bool close_in_done;
};

static void on_done(void *arg, enum filter_verdict v, const struct filter_reply *r)
{
    struct world *w = arg;
    w->told++;
    w->v = v;
    w->r = *r;
    if (w->close_in_done) {
        filter_close(&w->f);
    }
}

static void turn(struct world *w)
{
    for (size_t i = 0; i < w->n; i++) {
        fake_pump(&w->k[i]);
    }
    fixture_turn(&w->x, NULL);
    for (size_t i = 0; i < w->n; i++) {
        fake_pump(&w->k[i]);
    }
}

#define UNTIL(w, cond)                                                                             \
    do {                                                                                           \
        for (uint64_t end_ = uv_hrtime() / 1000000 + WAIT_MS; !(cond);) {                          \
            if (uv_hrtime() / 1000000 > end_) {                                                    \
                fail_msg("never came: %s", #cond);                                                 \
            }                                                                                      \
            turn(w);                                                                               \
        }                                                                                          \
    } while (0)

static void open_filter(struct world *w)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(99) };
    inet_pton(AF_INET, "192.0.2.1", &at.sin_addr);
    const struct filter_client client = { .sid = SPAN("s1"),
                                          .address = (struct sockaddr *)&at,
                                          .hostname = SPAN("mx.example.com") };
    w->f = filter_open(w->fs, &client, on_done, w);
}

static void setup(struct world *w, size_t n)
{
    char why[256];
    *w = (struct world){ .n = n };
    stats_use(&w->stats);
    fixture_init(&w->x);
    for (size_t i = 0; i < n; i++) {
        fake_init(&w->k[i]);
        w->names[i] = w->k[i].name;
    }
    w->c = (struct config){ .filter_milters = { n, w->names },
                            .filter_connect_timeout = WAIT_MS,
                            .filter_timeout = WAIT_MS,
                            .filter_on_failure = FILTER_ON_FAILURE_TEMPFAIL,
                            .filter_memory = 16 << 20,
                            .filter_quarantine = "",
                            .smtp_max_size = 8 << 20 };
    w->config = &w->c;
    assert_int_equal(filters_open(w->x.loop, &w->config, &w->fs, why, sizeof why), ERR_OK);
    open_filter(w);
}

static void finish(struct world *w)
{
    filter_close(&w->f);
    assert_int_equal(stats_get(&w->stats, STAT_filter_memory), 0);
    filters_close(&w->fs);
    for (size_t i = 0; i < w->n; i++) {
        fake_pump(&w->k[i]);
        fake_fini(&w->k[i]);
    }
    fixture_fini(&w->x);
    stats_use(NULL);
}

static void expect(struct world *w, enum filter_verdict v)
{
    int before = w->told;
    UNTIL(w, w->told > before);
    assert_int_equal(w->told, before + 1);
    assert_int_equal(w->v, v);
}

static void mail(struct world *w, enum filter_verdict v)
{
    const struct span size = SPAN("SIZE=9");
    filter_mail(w->f, SPAN("client"), SPAN("a@b"), &size, 1);
    expect(w, v);
}

static void rcpt(struct world *w, enum filter_verdict v)
{
    filter_rcpt(w->f, SPAN("c@d"));
    expect(w, v);
}

static void data(struct world *w, enum filter_verdict v)
{
    filter_data(w->f);
    expect(w, v);
}

static void end(struct world *w, const char *message, enum filter_verdict v)
{
    assert_int_equal(filter_append(w->f, span_str(message)), ERR_OK);
    filter_end(w->f, SPAN("id1"), SPAN("Received: mx\r\n"));
    expect(w, v);
}

#define MESSAGE "From: x\r\n\r\nbody\r\n"

static void whole(struct world *w, enum filter_verdict v)
{
    mail(w, FILTER_ACCEPT);
    rcpt(w, FILTER_ACCEPT);
    data(w, FILTER_ACCEPT);
    end(w, MESSAGE, v);
}

static void becomes(struct world *w, const char *head, const char *body)
{
    struct span h, b;
    filter_message(w->f, &h, &b);
    assert_int_equal(h.n, strlen(head));
    assert_memory_equal(h.p, head, h.n);
    assert_int_equal(b.n, strlen(body));
    assert_memory_equal(b.p, body, b.n);
}

static const struct span reject = { "\0\0\0\1r", 5 };
static const struct span garbage = { "HTTP/1.1 400 Bad Request\r\n\r\n", 28 };
#define CONTINUE "\0\0\0\1c"
#define SPAM     "\0\0\0\x0chX-Spam\0yes\0" /* adds a field */

/* --- the tests ------------------------------------------------------------------------------- */

static void test_messages_of_a_session(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    fixture_settle(&w.x, NULL);
    fake_pump(&w.k[0]);
    assert_int_equal(w.k[0].n, 0); /* a session without mail costs nothing */
    whole(&w, FILTER_ACCEPT);
    becomes(&w, "Received: mx\r\nFrom: x\r\n\r\n", "body\r\n");
    heard(&w.k[0], "O~C~Hclient|~M<a@b>|SIZE=9|~R<c@d>|~T~LFrom|x|~N~Bbody\r\n~E~");
    whole(&w, FILTER_ACCEPT);
    heard(&w.k[0], "M<a@b>|SIZE=9|~R<c@d>|~T~LFrom|x|~N~Bbody\r\n~E~");
    mail(&w, FILTER_ACCEPT);
    filter_mail(w.f, SPAN("other"), SPAN(""), NULL, 0);
    expect(&w, FILTER_ACCEPT);
    heard(&w.k[0], "M<a@b>|SIZE=9|~A~Hother|~M<>|~");
    filter_close(&w.f);
    UNTIL(&w, w.k[0].conns[0].eof);
    heard(&w.k[0], "A~Q~");
    assert_int_equal(w.k[0].n, 1);
    assert_int_equal(stats_get(&w.stats, STAT_filter_messages), 2);
    finish(&w);
}

static void test_refusals(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 2);
    w.k[0].answers['R'] = SPAN("\0\0\0\x11y450 4.7.1 later\0");
    w.k[1].answers['M'] = reject;
    mail(&w, FILTER_REFUSE);
    assert_int_equal(w.r.code, 0);
    w.k[1].answers['M'] = (struct span){ 0 };
    mail(&w, FILTER_ACCEPT);
    rcpt(&w, FILTER_DEFER);
    assert_int_equal(w.r.code, 450);
    assert_string_equal(w.r.enhanced, "4.7.1");
    assert_string_equal(w.r.text, "later");
    w.k[0].answers['R'] = (struct span){ 0 };
    rcpt(&w, FILTER_ACCEPT);
    w.k[1].answers['E'] = SPAN("\0\0\0\1t");
    end(&w, MESSAGE, FILTER_DEFER);
    w.k[1].answers['E'] = SPAN("\0\0\0\1"
                               "4");
    whole(&w, FILTER_CLOSE);
    assert_int_equal(stats_get(&w.stats, STAT_filter_refused), 4);
    assert_int_equal(stats_get(&w.stats, STAT_filter_faults), 0);
    finish(&w);
}

static void test_discard(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 2);
    w.k[0].answers['R'] = SPAN("\0\0\0\1d");
    mail(&w, FILTER_ACCEPT);
    rcpt(&w, FILTER_ACCEPT); /* told at the end */
    rcpt(&w, FILTER_ACCEPT);
    end(&w, MESSAGE, FILTER_DISCARD);
    heard(&w.k[1], "O~C~Hclient|~M<a@b>|SIZE=9|~");
    w.k[0].answers['R'] = (struct span){ 0 };
    w.k[0].answers['E'] = SPAN("\0\0\0\1d");
    whole(&w, FILTER_DISCARD);
    finish(&w);
}

static void test_changes(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 2);
    w.k[0].answers['E'] = SPAN(SPAM "\0\0\0\x0bi\0\0\0\0Top\0"
                                    "1\0"
                                    "\0\0\0\x0bm\0\0\0\1From\0\0"
                                    "\0\0\0\4bnew" CONTINUE);
    whole(&w, FILTER_ACCEPT);
    becomes(&w, "Top: 1\r\nReceived: mx\r\nX-Spam: yes\r\n\r\n", "new\r\n");
    /* The second has seen what the first made of it, but not our own field. */
    heard(&w.k[1], "O~C~Hclient|~M<a@b>|SIZE=9|~R<c@d>|~T~LTop|1|~LX-Spam|yes|~N~Bnew\r\n~E~");
    w.k[1].answers['E'] = SPAN("\0\0\0\6+<x>\0\0" CONTINUE); /* not agreed on: nothing happens */
    whole(&w, FILTER_ACCEPT);
    finish(&w);
}

static void test_quarantine(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    w.k[0].answers['E'] = SPAN("\0\0\0\6qspam\0" CONTINUE);
    whole(&w, FILTER_REFUSE);
    assert_int_equal(w.r.code, 550);
    w.c.filter_quarantine = "abuse@example.com";
    whole(&w, FILTER_QUARANTINE);
    assert_string_equal(w.r.text, "spam");
    becomes(&w, "Received: mx\r\nFrom: x\r\n\r\n", "body\r\n");
    assert_int_equal(stats_get(&w.stats, STAT_filter_quarantined), 1);
    w.k[0].answers['E'] = (struct span){ 0 };
    whole(&w, FILTER_ACCEPT); /* it was that message alone */
    finish(&w);
}

/* A broken milter: 451, or the message as if it were not there. */
static void fails(void (*breaks)(struct fake *k), enum filter_verdict at_end)
{
    struct world w;
    setup(&w, 2);
    breaks(&w.k[0]);
    mail(&w, FILTER_ACCEPT);
    end(&w, MESSAGE, at_end);
    assert_int_equal(w.r.code, 451);
    assert_string_equal(w.r.enhanced, "4.7.1");
    assert_int_equal(stats_get(&w.stats, STAT_filter_faults), 1);
    finish(&w);
    setup(&w, 2);
    w.c.filter_on_failure = FILTER_ON_FAILURE_ACCEPT;
    breaks(&w.k[0]);
    mail(&w, FILTER_ACCEPT);
    end(&w, MESSAGE, FILTER_ACCEPT);
    becomes(&w, "Received: mx\r\nFrom: x\r\n\r\n", "body\r\n");
    heard(&w.k[1], "O~C~Hclient|~M<a@b>|SIZE=9|~LFrom|x|~N~Bbody\r\n~E~");
    buf_clear(&w.k[0].heard);
    whole(&w, FILTER_ACCEPT);
    heard(&w.k[0], ""); /* it is left out for the rest of the session */
    assert_int_equal(stats_get(&w.stats, STAT_filter_faults), 1);
    finish(&w);
}

static void breaks_with_garbage(struct fake *k)
{
    k->answers['E'] = garbage;
}

static void breaks_after_a_change(struct fake *k)
{
    k->answers['E'] = SPAN(SPAM "\0\0\0\4bnew\0\0\0\1Z");
}

static void breaks_by_a_bad_field(struct fake *k)
{
    k->answers['E'] = SPAN("\0\0\0\7hA:B\0v\0" CONTINUE);
}

static void breaks_by_a_large_body(struct fake *k)
{
    static char body[(9 << 20) + 5] = { 0, (char)0x90, 0, 1, 'b' };
    memset(body + 5, 'x', sizeof body - 5);
    k->answers['E'] = span_of(body, sizeof body);
}

static void test_failures(void **state)
{
    (void)state;
    fails(breaks_with_garbage, FILTER_DEFER);
    fails(breaks_after_a_change, FILTER_DEFER);
    fails(breaks_by_a_bad_field, FILTER_DEFER);
    fails(breaks_by_a_large_body, FILTER_DEFER);
}

static void test_silence(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    w.k[0].mute = true;
    w.c.filter_connect_timeout = 50;
    mail(&w, FILTER_DEFER);
    finish(&w);
    setup(&w, 1);
    w.k[0].answers['R'] = SPAN("");
    w.c.filter_timeout = 50;
    mail(&w, FILTER_ACCEPT);
    rcpt(&w, FILTER_DEFER);
    rcpt(&w, FILTER_DEFER); /* it is lost for this message */
    w.k[0].answers['R'] = (struct span){ 0 };
    w.c.filter_timeout = WAIT_MS;
    mail(&w, FILTER_ACCEPT); /* but not for the next */
    assert_int_equal(w.k[0].n, 2);
    finish(&w);
}

/* Reports of progress renew the deadline, but not for ever. */
static void test_endless_progress(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    w.c.filter_timeout = 10;
    w.k[0].protocol = NR_ALL;
    w.k[0].answers['E'] = SPAN("");
    mail(&w, FILTER_ACCEPT);
    assert_int_equal(filter_append(w.f, SPAN(MESSAGE)), ERR_OK);
    filter_end(w.f, SPAN("id1"), SPAN(""));
    for (uint64_t last = uv_hrtime() / 1000000 + WAIT_MS; w.told < 2;) {
        assert_true(uv_hrtime() / 1000000 < last);
        if (w.k[0].conns[0].fd >= 0 && !w.k[0].conns[0].eof && !w.k[0].conns[0].error) {
            packet(&w.k[0].conns[0].to_send, 'p', SPAN(""));
        }
        turn(&w);
    }
    assert_int_equal(w.v, FILTER_DEFER);
    finish(&w);
}

static void test_nobody_listens(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    w.k[0].closes = true;
    mail(&w, FILTER_DEFER);
    assert_int_equal(w.k[0].n, 1);
    filter_close(&w.f);
    open_filter(&w);
    mail(&w, FILTER_DEFER);
    assert_int_equal(w.k[0].n, 1); /* it is left alone for a moment, by all sessions */
    assert_int_equal(stats_get(&w.stats, STAT_filter_faults), 2);
    w.k[0].closes = false;
    while (w.told < 100 && w.v != FILTER_ACCEPT) { /* and no longer */
        int before = w.told;
        filter_mail(w.f, SPAN("client"), SPAN(""), NULL, 0);
        UNTIL(&w, w.told > before);
        w.told = w.v == FILTER_ACCEPT ? w.told : 0;
    }
    finish(&w);
    setup(&w, 1);
    close(w.k[0].listener);
    mail(&w, FILTER_DEFER);
    w.c.filter_on_failure = FILTER_ON_FAILURE_ACCEPT;
    whole(&w, FILTER_ACCEPT);
    w.k[0].listener = socket(AF_INET, SOCK_STREAM, 0);
    finish(&w);
}

/* A milter that has closed between two messages is called again. */
static void test_closed_between_messages(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    whole(&w, FILTER_ACCEPT);
    shutdown(w.k[0].conns[0].fd, SHUT_RDWR);
    fixture_settle(&w.x, NULL);
    whole(&w, FILTER_ACCEPT);
    assert_int_equal(w.k[0].n, 2);
    mail(&w, FILTER_ACCEPT);
    shutdown(w.k[0].conns[1].fd, SHUT_RDWR);
    fixture_settle(&w.x, NULL);
    rcpt(&w, FILTER_DEFER); /* in a message it is a failure */
    finish(&w);
}

static void test_memory(void **state)
{
    (void)state;
    static char much[3 << 20];
    struct world w;
    memset(much, 'x', sizeof much);
    setup(&w, 1);
    w.c.filter_memory = 6 << 20;
    mail(&w, FILTER_ACCEPT);
    assert_int_equal(filter_append(w.f, span_of(much, sizeof much)), ERR_OK);
    assert_int_equal(stats_get(&w.stats, STAT_filter_memory), sizeof much);
    struct filter *first = w.f;
    open_filter(&w);
    mail(&w, FILTER_ACCEPT);
    /* It may be as large as what is left for others. */
    assert_int_equal(filter_append(w.f, span_of(much, sizeof much / 2)), ERR_OK);
    assert_int_equal(filter_append(w.f, SPAN("x")), ERR_LIMIT);
    assert_int_equal(filter_append(w.f, SPAN("x")), ERR_LIMIT);
    filter_end(w.f, SPAN("id"), SPAN(""));
    expect(&w, FILTER_DEFER);
    assert_int_equal(w.r.code, 452);
    filter_close(&first);
    whole(&w, FILTER_ACCEPT); /* there is room again */
    finish(&w);
}

static void test_large_message(void **state)
{
    (void)state;
    static char line[1001];
    struct world w;
    memset(line, 'x', sizeof line);
    memcpy(line + sizeof line - 3, "\r\n", 3);
    setup(&w, 1);
    w.k[0].protocol = NR_ALL;
    mail(&w, FILTER_ACCEPT);
    assert_int_equal(filter_append(w.f, SPAN("A: b\r\n\r\n")), ERR_OK);
    for (size_t i = 0; i < 6000; i++) {
        assert_int_equal(filter_append(w.f, span_str(line)), ERR_OK);
    }
    buf_clear(&w.k[0].heard);
    filter_end(w.f, SPAN("id"), SPAN(""));
    expect(&w, FILTER_ACCEPT);
    assert_in_range(buf_len(&w.k[0].heard), 6000000, 6000400);
    struct span head, body;
    filter_message(w.f, &head, &body);
    assert_int_equal(body.n, 6000000);
    finish(&w);
}

static void test_header_too_large(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    mail(&w, FILTER_ACCEPT);
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(filter_append(w.f, SPAN("a: b\r\n")), ERR_OK);
    }
    filter_end(w.f, SPAN("id"), SPAN(""));
    expect(&w, FILTER_REFUSE);
    assert_int_equal(w.r.code, 552);
    finish(&w);
}

static void test_reset_in_the_middle(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    filter_mail(w.f, SPAN("client"), SPAN("a@b"), NULL, 0);
    filter_reset(w.f); /* before it was begun */
    for (int i = 0; i < 20; i++) {
        turn(&w);
    }
    assert_int_equal(w.told, 0);
    w.k[0].answers['R'] = SPAN("");
    mail(&w, FILTER_ACCEPT);
    filter_rcpt(w.f, SPAN("c@d"));
    UNTIL(&w, memmem(buf_span(&w.k[0].heard).p, buf_len(&w.k[0].heard), "R<c@d>", 6));
    filter_reset(w.f); /* an answer is owed */
    w.k[0].answers['R'] = (struct span){ 0 };
    whole(&w, FILTER_ACCEPT);
    assert_int_equal(w.told, 5);
    assert_int_equal(w.k[0].n, 2);
    finish(&w);
}

static void test_close_in_the_event(void **state)
{
    (void)state;
    struct world w;
    setup(&w, 1);
    w.close_in_done = true;
    mail(&w, FILTER_ACCEPT);
    assert_null(w.f);
    open_filter(&w);
    w.k[0].closes = true;
    mail(&w, FILTER_DEFER);
    assert_null(w.f);
    finish(&w);
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const good[] = { "inet:127.0.0.1:8891", "inet:8891@127.0.0.1",
                                        "inet:8891@localhost", "inet:[::1]:8891",
                                        "inet:8891@[::1]",     "inet6:8891@::1",
                                        "unix:/run/x",         "local:/run/x",
                                        "inet:milter.test:1",  "inet:mail_2.a-b.invalid.:1" };
    static const char *const bad[] = { "",
                                       "inet:",
                                       "inet:8891",
                                       "inet::8891",
                                       "inet:a:0",
                                       "inet:127.0.0.1:65536",
                                       "inet:a:b",
                                       "inet:8891@",
                                       "unix:",
                                       "unix:x",
                                       "127.0.0.1:1",
                                       "inet:256.0.0.0.1:1",
                                       "inet:a..b:1",
                                       "inet:-a.b:1",
                                       "inet:a b:1" };
    struct dial_address a;
    char why[256], longest[300] = "unix:/";
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(dial_parse(good[i], &a, why, sizeof why), ERR_OK);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_not_equal(dial_parse(bad[i], &a, why, sizeof why), ERR_OK);
    }
    assert_int_equal(dial_parse("inet:8891@milter.test", &a, why, sizeof why), ERR_OK);
    assert_int_equal(a.len, 0);
    assert_string_equal(a.host, "milter.test");
    assert_int_equal(a.port, 8891);
    memset(longest + 6, 'x', 108);
    assert_int_equal(dial_parse(longest, &a, why, sizeof why), ERR_INVALID);
}

static void test_no_milters(void **state)
{
    (void)state;
    struct config c = { 0 };
    const struct config *config = &c;
    struct filters *fs = (struct filters *)&c;
    char why[256];
    assert_int_equal(filters_open(NULL, &config, &fs, why, sizeof why), ERR_OK);
    assert_null(fs);
    const char *bad = "inet:nonsense";
    c.filter_milters = (struct config_list){ 1, &bad };
    assert_int_equal(filters_open(NULL, &config, &fs, why, sizeof why), ERR_INVALID);
    assert_string_equal(why, "filter.milters: inet:nonsense: not inet:HOST:PORT or unix:/PATH");
}

static void test_unix_socket(void **state)
{
    (void)state;
    struct world w;
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    char dir[] = "/tmp/mailfleet-XXXXXX";
    assert_non_null(mkdtemp(dir));
    setup(&w, 1);
    filter_close(&w.f);
    filters_close(&w.fs);
    snprintf(at.sun_path, sizeof at.sun_path, "%s/milter", dir);
    snprintf(w.k[0].name, sizeof w.k[0].name, "unix:%s", at.sun_path);
    close(w.k[0].listener);
    w.k[0].listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(w.k[0].listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(w.k[0].listener, 4), 0);
    char why[256];
    assert_int_equal(filters_open(w.x.loop, &w.config, &w.fs, why, sizeof why), ERR_OK);
    open_filter(&w);
    whole(&w, FILTER_ACCEPT);
    unlink(at.sun_path);
    filter_close(&w.f);
    open_filter(&w);
    mail(&w, FILTER_DEFER);
    rmdir(dir);
    finish(&w);
}

/* The milter is on a UNIX socket, with room for one connection that it has not accepted yet. */
static void move_to_small_socket(struct world *w, const char *dir)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    char why[256];
    filter_close(&w->f);
    filters_close(&w->fs);
    close(w->k[0].listener);
    snprintf(at.sun_path, sizeof at.sun_path, "%s/milter", dir);
    snprintf(w->k[0].name, sizeof w->k[0].name, "unix:%s", at.sun_path);
    w->k[0].listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(w->k[0].listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(w->k[0].listener, 0), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd); /* and takes the room until it is accepted */
    assert_int_equal(filters_open(w->x.loop, &w->config, &w->fs, why, sizeof why), ERR_OK);
    open_filter(w);
}

/* A burst waits for its turn: it is neither deferred nor let through. */
static void test_no_room(void **state)
{
    (void)state;
    struct world w;
    char dir[] = "/tmp/mailfleet-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    setup(&w, 1);
    move_to_small_socket(&w, dir);
    int listener = w.k[0].listener;
    w.k[0].listener = -1;
    filter_mail(w.f, SPAN("client"), SPAN("a@b"), NULL, 0);
    uint64_t later = uv_hrtime() / 1000000 + 100; /* so that it tries more than once */
    UNTIL(&w, uv_hrtime() / 1000000 > later);
    assert_int_equal(w.told, 0);
    w.k[0].listener = listener;
    UNTIL(&w, w.told == 1);
    assert_int_equal(w.v, FILTER_ACCEPT);
    assert_int_equal(stats_get(&w.stats, STAT_filter_faults), 0);

    /* The end of its patience is not the milter's death. */
    filter_close(&w.f);
    fake_pump(&w.k[0]);
    fake_fini(&w.k[0]);
    snprintf(path, sizeof path, "%s/milter", dir);
    unlink(path);
    fake_init(&w.k[0]);
    w.c.filter_connect_timeout = 50;
    open_filter(&w);
    move_to_small_socket(&w, dir);
    listener = w.k[0].listener;
    w.k[0].listener = -1;
    filter_mail(w.f, SPAN("client"), SPAN("a@b"), NULL, 0);
    UNTIL(&w, w.told == 2);
    assert_int_equal(w.v, FILTER_DEFER);
    w.k[0].listener = listener;
    fake_pump(&w.k[0]);
    w.c.filter_connect_timeout = WAIT_MS;
    mail(&w, FILTER_ACCEPT);

    /* Given up and closed while it waits: nobody hears of it. */
    filter_close(&w.f);
    filters_close(&w.fs);
    unlink(path);
    assert_int_equal(filters_open(w.x.loop, &w.config, &w.fs, path, sizeof path), ERR_OK);
    open_filter(&w);
    snprintf(path, sizeof path, "%s/milter", dir);
    move_to_small_socket(&w, dir);
    listener = w.k[0].listener;
    w.k[0].listener = -1;
    filter_mail(w.f, SPAN("client"), SPAN("a@b"), NULL, 0);
    for (int i = 0; i < 4; i++) {
        turn(&w);
    }
    filter_close(&w.f);
    later = uv_hrtime() / 1000000 + 60;
    int told = w.told;
    UNTIL(&w, uv_hrtime() / 1000000 > later);
    assert_int_equal(w.told, told);
    w.k[0].listener = listener;
    unlink(path);
    rmdir(dir);
    finish(&w);
}

/* By its name: it is waited for, its second address is found, and without one nothing breaks. */
static void test_names(void **state)
{
    (void)state;
    struct world w;
    char why[256];
    setup(&w, 1);
    filter_close(&w.f);
    filters_close(&w.fs);
    unsigned port = (unsigned)atoi(strrchr(w.k[0].name, ':') + 1);
    snprintf(w.k[0].name, sizeof w.k[0].name, "inet:milter.test:%u", port);

    pthread_mutex_lock(&dns);
    assert_int_equal(filters_open(w.x.loop, &w.config, &w.fs, why, sizeof why), ERR_OK);
    open_filter(&w);
    filter_mail(w.f, SPAN("client"), SPAN("a@b"), NULL, 0);
    uint64_t later = uv_hrtime() / 1000000 + 60;
    UNTIL(&w, uv_hrtime() / 1000000 > later);
    assert_int_equal(w.told, 0);
    pthread_mutex_unlock(&dns);
    UNTIL(&w, w.told == 1);
    assert_int_equal(w.v, FILTER_ACCEPT);
    assert_int_equal(stats_get(&w.stats, STAT_filter_faults), 0);
    for (int i = 0; i < 2; i++) {
        filter_close(&w.f);
        open_filter(&w);
        whole(&w, FILTER_ACCEPT);
    }

    filter_close(&w.f);
    filters_close(&w.fs);
    dns_is_down = true;
    assert_int_equal(filters_open(w.x.loop, &w.config, &w.fs, why, sizeof why), ERR_OK);
    open_filter(&w);
    mail(&w, FILTER_DEFER);
    w.c.filter_on_failure = FILTER_ON_FAILURE_ACCEPT;
    whole(&w, FILTER_ACCEPT);
    dns_is_down = false;
    finish(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_of_a_session),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_discard),
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_quarantine),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_endless_progress),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_closed_between_messages),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_large_message),
        cmocka_unit_test(test_header_too_large),
        cmocka_unit_test(test_reset_in_the_middle),
        cmocka_unit_test(test_close_in_the_event),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_no_milters),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_names),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
