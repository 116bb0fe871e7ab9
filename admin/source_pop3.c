/*
 * source_pop3: a mailbox of a POP3 server (RFC 1939), which is read and never changed: there is no
 * DELE in here. One connection, from list to close; the list is the server's snapshot of it.
 *
 * libcurl connects, checks the certificate, goes over to TLS and logs in by what the server offers
 * (CURLOPT_CONNECT_ONLY). The three commands behind that are our own: a transfer of libcurl's takes
 * a connection that ends in the middle of a message for the message's end, and a short message
 * would be one that nobody misses.
 *
 * A source owns its list and its connection. What the server sends is bounded: lines, messages,
 * octets of one, and time. It must keep a least pace, so that it can't hold a thread for ever.
 */
#include <curl/curl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "mail_source.h"
#include "proto/dot.h"
#include "source_parts.h"

#define LINE_LIMIT   2048 /* RFC 1939 has 512; some servers add words */
#define NAME_LIMIT   1024 /* of a login */
#define MESSAGES_MAX 2000000
#define IN_SIZE      ((size_t)32 * 1024)
#define OUT_SIZE     ((size_t)128 * 1024)
#define HEAD_MAX     ((size_t)64 * 1024) /* of a message: in it its date is looked for */
#define CONNECT_MS   30000L
#define LOGIN_MS     120000L /* connecting included: many servers let a wrong login wait */
#define REPLY_MS     300000  /* old servers read whole mailboxes before they answer */
#define QUIT_MS      5000
#define OCTETS_A_MS  1 /* the least pace, once it answers */
#define MS_OF_S      1000
#define NS_OF_MS     1000000

struct pop3_source {
    struct mail_source head;
    CURL *curl;
    char *url; /* as it was given, for messages */
    struct source_message *list;
    uint32_t *numbers; /* the server's, of list */
    size_t n;
    struct buf in;    /* came, and was not taken */
    size_t line;      /* octets in front of it that next_line gave */
    int64_t deadline; /* of this reply; monotonic */
    bool logged_in;
    bool lost; /* the next octet may be no reply's first: no further command */
    char error[CURL_ERROR_SIZE];
};

/* Where an error is put. */
struct why {
    char *text;
    size_t size;
};

static struct pop3_source *pop3_source(struct mail_source *s)
{
    return CONTAINER_OF(s, struct pop3_source, head);
}

static int64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * MS_OF_S + t.tv_nsec / NS_OF_MS;
}

/* --- octets ---------------------------------------------------------------------------------- */

/* The connection is of no use any more. */
static enum err lose(struct pop3_source *s, enum err e, const char *what, struct why why)
{
    s->lost = true;
    return source_fail(e, why.text, why.size, "%s: %s", s->url, what);
}

static enum err wait_socket(struct pop3_source *s, short events, struct why why)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    curl_easy_getinfo(s->curl, CURLINFO_ACTIVESOCKET, &fd);
    if (fd == CURL_SOCKET_BAD) {
        return lose(s, ERR_TEMP, "the connection was lost", why);
    }
    int64_t left = s->deadline - monotonic_ms();
    struct pollfd p = { .fd = fd, .events = events };
    if (left <= 0 || poll(&p, 1, (int)left) == 0) {
        return lose(s, ERR_TEMP, "the server takes too long", why);
    }
    return ERR_OK;
}

/* At least one octet more in s->in, which has room. */
static enum err receive(struct pop3_source *s, struct why why)
{
    for (;;) {
        size_t n = 0;
        char *p = buf_reserve(&s->in, buf_room(&s->in));
        CHECK(p);
        CURLcode r = curl_easy_recv(s->curl, p, buf_room(&s->in), &n);
        if (r == CURLE_OK && n > 0) {
            buf_commit(&s->in, n);
            s->deadline += (int64_t)n / OCTETS_A_MS;
            return monotonic_ms() < s->deadline
                       ? ERR_OK
                       : lose(s, ERR_TEMP, "the server takes too long", why);
        }
        if (r != CURLE_AGAIN) {
            return lose(s, ERR_TEMP, "the connection ended in the middle of a reply", why);
        }
        enum err e = wait_socket(s, POLLIN, why);
        if (e != ERR_OK) {
            return e;
        }
    }
}

static enum err send_all(struct pop3_source *s, struct span octets, struct why why)
{
    while (octets.n) {
        size_t n = 0;
        CURLcode r = curl_easy_send(s->curl, octets.p, octets.n, &n);
        octets = span_skip(octets, n);
        if (r != CURLE_OK && r != CURLE_AGAIN) {
            return lose(s, ERR_TEMP, "the connection was lost", why);
        }
        enum err e = r == CURLE_AGAIN ? wait_socket(s, POLLOUT, why) : ERR_OK;
        if (e != ERR_OK) {
            return e;
        }
    }
    return ERR_OK;
}

/* --- lines and replies ----------------------------------------------------------------------- */

/* Without what ends it; valid until the next one. */
static enum err next_line(struct pop3_source *s, struct span *out, struct why why)
{
    buf_take(&s->in, s->line);
    s->line = 0;
    for (;;) {
        struct span in = buf_span(&s->in);
        size_t lf = span_find(in, '\n');
        if (lf < in.n) {
            s->line = lf + 1;
            *out = span_first(in, lf > 0 && in.p[lf - 1] == '\r' ? lf - 1 : lf);
            return ERR_OK;
        }
        if (in.n >= LINE_LIMIT) {
            return lose(s, ERR_CORRUPT, "the server sent a line without an end", why);
        }
        enum err e = receive(s, why);
        if (e != ERR_OK) {
            return e;
        }
    }
}

/* The reply is over, and nothing may stand behind it. */
static enum err end_reply(struct pop3_source *s, struct why why)
{
    buf_take(&s->in, s->line);
    s->line = 0;
    return buf_len(&s->in) ? lose(s, ERR_CORRUPT, "the server says more than it was asked", why)
                           : ERR_OK;
}

/* What a server says, for people: nothing of it may reach a terminal as it is. */
static enum err fail_reply(struct pop3_source *s, const char *command, struct span line,
                           struct why why)
{
    char text[160];
    size_t n = line.n < sizeof text - 1 ? line.n : sizeof text - 1;
    for (size_t i = 0; i < n; i++) {
        text[i] = line.p[i];
        if (text[i] < ' ' || text[i] > '~') {
            text[i] = '?';
        }
    }
    text[n] = '\0';
    bool refused = span_starts(line, SPAN("-ERR"));
    s->lost = s->lost || !refused;
    return source_fail(refused ? ERR_TEMP : ERR_CORRUPT, why.text, why.size, "%s: %.4s: %s", s->url,
                       command, text);
}

/* TEMP with the connection kept: the server refuses. */
static enum err ask(struct pop3_source *s, const char *command, struct why why)
{
    struct span line;
    if (s->lost) {
        return source_fail(ERR_TEMP, why.text, why.size, "%s: the connection was lost", s->url);
    }
    s->deadline = monotonic_ms() + REPLY_MS;
    enum err e = send_all(s, span_str(command), why);
    e = e == ERR_OK ? next_line(s, &line, why) : e;
    if (e != ERR_OK || span_starts(line, SPAN("+OK"))) {
        return e;
    }
    e = fail_reply(s, command, line, why);
    struct why unused = { (char[1]){ 0 }, 1 };
    (void)end_reply(s, unused);
    return e;
}

/* --- the list -------------------------------------------------------------------------------- */

static enum err bad_list(struct pop3_source *s, const char *command, struct why why)
{
    s->lost = true;
    return source_fail(ERR_CORRUPT, why.text, why.size, "%s: no list as RFC 1939 has it: %s",
                       s->url, command);
}

/* Numbers rise; there may be gaps, where a server hides messages. */
static enum err add_uidl(struct pop3_source *s, struct span line, struct why why)
{
    struct span word = span_word(&line), uidl = span_trim(line);
    uint64_t number;
    if (span_u64(word, UINT32_MAX, &number) != ERR_OK || number == 0 ||
        (s->n > 0 && number <= s->numbers[s->n - 1])) {
        return bad_list(s, "UIDL", why);
    }
    if (s->n == MESSAGES_MAX) {
        return lose(s, ERR_LIMIT, "too many messages", why);
    }
    if ((s->n & (s->n - 1)) == 0) { /* full: it doubles */
        s->list = mem_grow(s->list, s->n ? s->n * 2 : 1, sizeof *s->list);
        s->numbers = mem_grow(s->numbers, s->n ? s->n * 2 : 1, sizeof *s->numbers);
    }
    struct source_message *m = &s->list[s->n];
    *m = (struct source_message){ 0 };
    source_uidl(m, uidl);
    s->numbers[s->n++] = (uint32_t)number;
    return ERR_OK;
}

/* The line of message i, in the same order. */
static enum err add_size(struct pop3_source *s, size_t i, struct span line, struct why why)
{
    struct span number_word = span_word(&line), size_word = span_word(&line);
    uint64_t number, size;
    if (i >= s->n || span_u64(number_word, UINT32_MAX, &number) != ERR_OK ||
        number != s->numbers[i] || span_u64(size_word, INT64_MAX, &size) != ERR_OK) {
        return bad_list(s, "LIST", why);
    }
    s->list[i].size = size;
    s->list[i].size_known = true;
    s->list[i].too_large = size > SOURCE_OCTETS_MAX;
    return ERR_OK;
}

/* sizes false: UIDL makes the list, true: LIST adds to it. */
static enum err read_lines(struct pop3_source *s, bool sizes, struct why why)
{
    size_t i = 0;
    for (;;) {
        struct span line;
        enum err e = next_line(s, &line, why);
        if (e != ERR_OK) {
            return e;
        }
        if (span_eq(line, SPAN("."))) {
            break;
        }
        e = sizes ? add_size(s, i, line, why) : add_uidl(s, line, why);
        if (e != ERR_OK) {
            return e;
        }
        i++;
    }
    return i == s->n ? end_reply(s, why) : bad_list(s, sizes ? "LIST" : "UIDL", why);
}

static enum err log_in(struct pop3_source *s, struct why why)
{
    CURLcode r = curl_easy_perform(s->curl);
    if (r == CURLE_OK) {
        s->logged_in = true;
        return ERR_OK;
    }
    s->lost = true;
    const char *what = r == CURLE_LOGIN_DENIED ? "the login was refused"
                       : r == CURLE_USE_SSL_FAILED
                           ? "the server has no STLS: pop3s: or pop3+plain: may be right"
                       : s->error[0] ? s->error
                                     : curl_easy_strerror(r);
    return source_fail(r == CURLE_LOGIN_DENIED ? ERR_DENIED : ERR_TEMP, why.text, why.size,
                       "%s: %s", s->url, what);
}

static enum err pop3_list(struct mail_source *head, const struct source_message **m, size_t *n,
                          char *text, size_t size)
{
    struct pop3_source *s = pop3_source(head);
    struct why why = { text, size };
    enum err e = log_in(s, why);
    e = e == ERR_OK ? ask(s, "UIDL\r\n", why) : e;
    e = e == ERR_OK ? read_lines(s, false, why) : e;
    e = e == ERR_OK ? ask(s, "LIST\r\n", why) : e;
    e = e == ERR_OK ? read_lines(s, true, why) : e;
    if (e != ERR_OK) {
        return e;
    }
    source_uidls_unique(s->list, s->n);
    *m = s->list;
    *n = s->n;
    return ERR_OK;
}

/* --- a message's date ------------------------------------------------------------------------ */

/* The first header field of this name, its further lines included; empty: there is none. */
static struct span find_field(struct span s, struct span name)
{
    while (s.n && s.p[0] != '\r') {
        size_t end = 0;
        do { /* lines that begin with a blank belong to it */
            end += span_find(span_skip(s, end), '\n') + 1;
        } while (end < s.n && (s.p[end] == ' ' || s.p[end] == '\t'));
        if (span_starts_nocase(s, name)) {
            return span_skip(span_first(s, end), name.n);
        }
        s = span_skip(s, end);
    }
    return span_of("", 0);
}

/*
 * POP3 tells no dates. The first Received: is that of the server that stored the message; its date
 * stands behind the last semicolon.
 */
static int64_t received_ms(struct span header)
{
    struct span field = find_field(header, SPAN("Received:"));
    char text[128];
    size_t n = 0;
    for (size_t at; (at = span_find(field, ';')) < field.n;) {
        field = span_skip(field, at + 1);
        n = 1;
    }
    if (!n) {
        return 0;
    }
    for (n = 0; n < field.n && n < sizeof text - 1 && field.p[n] != '('; n++) {
        text[n] = field.p[n] == '\r' || field.p[n] == '\n' || !field.p[n] ? ' ' : field.p[n];
    }
    text[n] = '\0';
    time_t t = curl_getdate(text, NULL);
    return t > 0 ? (int64_t)t * MS_OF_S : 0;
}

/* --- a message ------------------------------------------------------------------------------- */

struct reading {
    struct source_message *m;
    struct dot_decoder dot;
    struct buf out;
    uint64_t octets; /* given away */
    bool dated, complete;
    source_piece_fn *fn;
    void *arg;
};

static bool has_header(struct span s)
{
    return s.n >= HEAD_MAX || memmem(s.p, s.n, "\r\n\r\n", 4) || span_starts(s, SPAN("\r\n"));
}

/*
 * Gives away what is in out; but its last two octets only once it is known what they are. A message
 * that does not end with CRLF gets one in front of the dot, and the server's LIST does not count
 * it. False: no more is wanted.
 */
static bool give(struct reading *r)
{
    struct span s = buf_span(&r->out);
    if (!r->dated && !r->complete && !has_header(s)) {
        return true;
    }
    if (!r->dated) {
        r->m->time_ms = received_ms(s);
        r->dated = true;
    }
    size_t keep = 2;
    if (r->complete && r->octets + s.n != r->m->size + 2) {
        keep = 0;
    }
    if (s.n <= keep) {
        return true;
    }
    s = span_first(s, s.n - keep);
    bool go_on = r->fn(r->arg, s);
    r->octets += s.n;
    buf_take(&r->out, s.n);
    return go_on;
}

static enum err read_octets(struct pop3_source *s, struct reading *r, struct why why)
{
    while (!r->complete) {
        enum err e = buf_len(&s->in) ? ERR_OK : receive(s, why);
        if (e != ERR_OK) {
            return e;
        }
        struct span in = buf_span(&s->in);
        size_t before = in.n;
        r->complete = dot_decode(&r->dot, &in, &r->out);
        buf_take(&s->in, before - in.n);
        if (r->octets + buf_len(&r->out) > SOURCE_OCTETS_MAX) {
            return lose(s, ERR_LIMIT, "a message without an end", why);
        }
        int64_t began = monotonic_ms();
        bool go_on = give(r);
        s->deadline += monotonic_ms() - began; /* the server is not what took so long */
        if (!go_on) { /* the rest still comes: the caller wants no other message either */
            s->lost = true;
            return ERR_OK;
        }
    }
    return end_reply(s, why);
}

static enum err pop3_read(struct mail_source *head, size_t i, source_piece_fn *fn, void *arg,
                          char *text, size_t size)
{
    struct pop3_source *s = pop3_source(head);
    struct why why = { text, size };
    struct reading r = { .m = &s->list[i], .fn = fn, .arg = arg };
    char command[32];
    snprintf(command, sizeof command, "RETR %u\r\n", s->numbers[i]);
    enum err e = ask(s, command, why);
    if (e != ERR_OK) {
        return e;
    }
    buf_take(&s->in, s->line);
    s->line = 0;
    dot_decode_init(&r.dot, false);
    buf_init(&r.out, OUT_SIZE);
    e = read_octets(s, &r, why);
    buf_fini(&r.out);
    return e;
}

/* --- life ------------------------------------------------------------------------------------ */

/* A server that is left without QUIT may keep the mailbox locked. */
static void quit(struct pop3_source *s)
{
    struct why unused = { (char[1]){ 0 }, 1 };
    struct span line;
    s->deadline = monotonic_ms() + QUIT_MS;
    if (send_all(s, SPAN("QUIT\r\n"), unused) == ERR_OK) {
        (void)next_line(s, &line, unused);
    }
}

static void pop3_close(struct mail_source *head)
{
    struct pop3_source *s = pop3_source(head);
    if (s->logged_in && !s->lost) {
        quit(s);
    }
    curl_easy_cleanup(s->curl);
    buf_fini(&s->in);
    free(s->list);
    free(s->numbers);
    free(s->url);
    free(s);
}

static bool has_part(CURLU *u, CURLUPart part)
{
    char *text = NULL;
    bool found = curl_url_get(u, part, &text, 0) == CURLUE_OK && *text &&
                 !(part == CURLUPART_PATH && strcmp(text, "/") == 0);
    curl_free(text);
    return found;
}

/* A server, and nothing else but `;AUTH=` (RFC 2384) in front of it. */
static bool only_a_server(CURLU *u)
{
    static const CURLUPart others[] = { CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_PATH,
                                        CURLUPART_QUERY, CURLUPART_FRAGMENT };
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (has_part(u, others[i])) {
            return false;
        }
    }
    return has_part(u, CURLUPART_HOST);
}

/* The URL without its own scheme and login options, which are set by themselves. */
static bool set_url(CURL *c, const char *url)
{
    static const char plain[] = "pop3+plain:";
    bool is_plain = strncmp(url, plain, strlen(plain)) == 0;
    char *options = NULL, *bare = NULL, *made = NULL;
    if (is_plain && asprintf(&made, "pop3:%s", url + strlen(plain)) < 0) {
        return false;
    }
    CURLU *u = curl_url();
    CHECK(u);
    bool good = curl_url_set(u, CURLUPART_URL, made ? made : url, 0) == CURLUE_OK;
    curl_url_get(u, CURLUPART_OPTIONS, &options, 0);
    good = good && only_a_server(u) && curl_url_set(u, CURLUPART_OPTIONS, NULL, 0) == CURLUE_OK &&
           curl_url_set(u, CURLUPART_USER, NULL, 0) == CURLUE_OK &&
           curl_url_get(u, CURLUPART_URL, &bare, 0) == CURLUE_OK &&
           curl_easy_setopt(c, CURLOPT_URL, bare) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_LOGIN_OPTIONS, options) == CURLE_OK;
    curl_easy_setopt(c, CURLOPT_USE_SSL, (long)(is_plain ? CURLUSESSL_NONE : CURLUSESSL_ALL));
    curl_free(options);
    curl_free(bare);
    curl_url_cleanup(u);
    free(made);
    return good;
}

/* ADDRESS, ADDRESS*MASTER, or ADDRESS and MASTER when that begins with a separator of its own. */
static bool login_name(const struct source_options *o, char out[NAME_LIMIT])
{
    const char *master = o->master ? o->master : "";
    char c = (char)(*master | 0x20);
    bool star = (c >= 'a' && c <= 'z') || (*master >= '0' && *master <= '9');
    int n = snprintf(out, NAME_LIMIT, "%s%s%s", o->address, star ? "*" : "", master);
    return n > 0 && n < NAME_LIMIT;
}

/* Nothing of the environment counts: no proxy, no .netrc. */
static void set_options(struct pop3_source *s, const struct source_options *o, const char *name)
{
    CURL *c = s->curl;
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, s->error);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "pop3,pop3s");
    curl_easy_setopt(c, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, LOGIN_MS);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    if (o->ca) {
        curl_easy_setopt(c, CURLOPT_CAINFO, o->ca);
        curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
    }
    CHECK(curl_easy_setopt(c, CURLOPT_USERNAME, name) == CURLE_OK);
    CHECK(curl_easy_setopt(c, CURLOPT_PASSWORD, o->password) == CURLE_OK);
}

/* curl_global_init is for once in a process. */
static void init_curl(void)
{
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

enum err pop3_source_open(const char *url, const struct source_options *o, struct mail_source **out,
                          char *why, size_t why_size)
{
    static const struct mail_source_ops ops = { pop3_list, pop3_read, pop3_close };
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char name[NAME_LIMIT];
    CHECK(pthread_once(&once, init_curl) == 0);
    if (!o->password) {
        return source_fail(ERR_INVALID, why, why_size,
                           "%s: a password is wanted: --password-file, or in the list", url);
    }
    if (!login_name(o, name)) {
        return source_fail(ERR_INVALID, why, why_size, "%s: the name to log in by is too long",
                           url);
    }
    struct pop3_source *s = NEW(struct pop3_source);
    s->head.ops = &ops;
    s->url = mem_strdup(url);
    s->curl = curl_easy_init();
    CHECK(s->curl);
    buf_init(&s->in, IN_SIZE);
    set_options(s, o, name);
    if (!set_url(s->curl, url)) {
        pop3_close(&s->head);
        return source_fail(ERR_INVALID, why, why_size,
                           "%s: not pop3s://HOST, pop3://HOST or pop3+plain://HOST", url);
    }
    *out = &s->head;
    return ERR_OK;
}
