/*
 * pg_hosts: a connection string in pieces: host, port and addresses of each host, and the rest.
 *
 * Owns the pieces. A look-up can't be stopped once a thread has begun it, so the memory stays
 * until it has ended, also after pg_hosts_close. Strings without host, or with a hostaddr, are left
 * to libpq whole. It does not open sockets nor keep addresses: each attempt asks anew.
 */
#include "store/pg_hosts.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/check.h"

#define HOSTS_MAX     16
#define ADDRESSES_MAX 4 /* of one host */
#define LIST_MAX      8192

struct host {
    char *name; /* for TLS and ~/.pgpass as well; a directory for a local socket */
    char *port; /* may be empty */
    char addresses[ADDRESSES_MAX][INET6_ADDRSTRLEN];
    size_t n;
    bool named; /* must be looked up */
};

struct pg_hosts {
    struct loop *loop;
    pg_hosts_fn *done; /* NULL: nobody waits */
    void *arg;
    PQconninfoOption *options;
    struct host hosts[HOSTS_MAX];
    size_t n;
    size_t asked; /* the host that is being looked up */
    bool busy, closed;
    char why[120]; /* of the last look-up that failed */
    uv_getaddrinfo_t request;
};

static void hosts_free(struct pg_hosts *h)
{
    for (size_t i = 0; i < h->n; i++) {
        free(h->hosts[i].name);
        free(h->hosts[i].port);
    }
    PQconninfoFree(h->options);
    free(h);
}

void pg_hosts_close(struct pg_hosts **ph)
{
    struct pg_hosts *h = *ph;
    if (!h) {
        return;
    }
    *ph = NULL;
    h->done = NULL;
    h->closed = true;
    if (!h->busy) {
        hosts_free(h);
    }
}

/* --- taking apart ----------------------------------------------------------------------------- */

static const char *option(const struct pg_hosts *h, const char *keyword)
{
    for (const PQconninfoOption *o = h->options; o->keyword; o++) {
        if (strcmp(o->keyword, keyword) == 0) {
            return o->val;
        }
    }
    return NULL;
}

/* The next piece of a list with commas; an exhausted list goes on giving its last piece. */
static struct span next_piece(struct span *list)
{
    size_t comma = span_find(*list, ',');
    struct span piece = span_first(*list, comma);
    if (comma < list->n) {
        *list = span_skip(*list, comma + 1);
    }
    return piece;
}

static size_t pieces(struct span list)
{
    size_t n = 1;
    for (size_t i = 0; i < list.n; i++) {
        n += list.p[i] == ',';
    }
    return n;
}

static bool needs_lookup(const char *name)
{
    struct in6_addr a;
    return *name && *name != '/' && *name != '@' && uv_inet_pton(AF_INET, name, &a) != 0 &&
           uv_inet_pton(AF_INET6, name, &a) != 0;
}

static enum err take_hosts(struct pg_hosts *h)
{
    const char *hostaddr = option(h, "hostaddr");
    struct span names = span_str(option(h, "host")), ports = span_str(option(h, "port"));
    if (names.n == 0 || (hostaddr && *hostaddr)) {
        return ERR_OK;
    }
    size_t n = pieces(names);
    if (n > HOSTS_MAX || (pieces(ports) != 1 && pieces(ports) != n)) {
        snprintf(h->why, sizeof h->why, "too many hosts, or not as many ports");
        return ERR_INVALID;
    }
    for (; h->n < n; h->n++) {
        struct host *host = &h->hosts[h->n];
        host->name = span_dup(next_piece(&names));
        host->port = span_dup(next_piece(&ports));
        host->named = needs_lookup(host->name);
    }
    return ERR_OK;
}

/* --- looking up ------------------------------------------------------------------------------- */

static void look_up_next(struct pg_hosts *h);

static void take_addresses(struct host *host, const struct addrinfo *list)
{
    for (const struct addrinfo *a = list; a && host->n < ADDRESSES_MAX; a = a->ai_next) {
        char *out = host->addresses[host->n];
        if (uv_ip_name(a->ai_addr, out, sizeof host->addresses[0]) == 0) {
            host->n++;
        }
    }
}

static void on_looked_up(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct pg_hosts *h = request->data;
    struct host *host = &h->hosts[h->asked++];
    h->busy = false;
    if (status == 0) {
        take_addresses(host, list);
    } else {
        snprintf(h->why, sizeof h->why, "%.60s: %s", host->name, uv_strerror(status));
    }
    uv_freeaddrinfo(list);
    if (h->closed) {
        hosts_free(h);
        return;
    }
    look_up_next(h);
    if (!h->busy) {
        h->done(h->arg);
    }
}

/* One name after the other; a name that can't be asked about has no address. */
static void look_up_next(struct pg_hosts *h)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    for (; h->asked < h->n; h->asked++) {
        struct host *host = &h->hosts[h->asked];
        if (!host->named) {
            continue;
        }
        h->request.data = h;
        int status =
            uv_getaddrinfo(loop_uv(h->loop), &h->request, on_looked_up, host->name, NULL, &hints);
        if (status == 0) {
            h->busy = true;
            return;
        }
        snprintf(h->why, sizeof h->why, "%.60s: %s", host->name, uv_strerror(status));
    }
}

enum err pg_hosts_open(struct loop *l, const char *url, pg_hosts_fn *done, void *arg,
                       struct pg_hosts **out, bool *later, char *why, size_t why_size)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(url, &message);
    if (!options) {
        snprintf(why, why_size, "%s", message ? message : "out of memory");
        PQfreemem(message);
        return ERR_INVALID;
    }
    struct pg_hosts *h = NEW(struct pg_hosts);
    h->loop = l;
    h->done = done;
    h->arg = arg;
    h->options = options;
    enum err e = take_hosts(h);
    if (e != ERR_OK) {
        snprintf(why, why_size, "%s", h->why);
        hosts_free(h);
        return e;
    }
    look_up_next(h);
    *out = h;
    *later = h->busy;
    return ERR_OK;
}

/* --- connecting ------------------------------------------------------------------------------- */

/* libpq's three parallel lists. */
struct lists {
    struct buf host, hostaddr, port;
    size_t n;
};

static void add_piece(struct buf *b, const char *text, bool first)
{
    if (!first) {
        buf_addc(b, ',');
    }
    buf_add(b, span_str(text));
}

static void add_target(struct lists *l, const struct host *host, const char *address)
{
    add_piece(&l->host, host->name, l->n == 0);
    add_piece(&l->hostaddr, address, l->n == 0);
    add_piece(&l->port, host->port, l->n == 0);
    l->n++;
}

static size_t targets(const struct host *host)
{
    return host->named ? host->n : 1;
}

static size_t total_targets(const struct pg_hosts *h)
{
    size_t total = 0;
    for (size_t i = 0; i < h->n; i++) {
        total += targets(&h->hosts[i]);
    }
    return total;
}

size_t pg_hosts_count(const struct pg_hosts *h)
{
    size_t total = total_targets(h);
    return total ? total : 1;
}

/* All targets, from the nth around to the one before it. */
static void make_lists(const struct pg_hosts *h, size_t nth, struct lists *l)
{
    size_t total = total_targets(h);
    for (size_t k = 0; k < total; k++) {
        size_t i = 0, at = (nth + k) % total;
        while (at >= targets(&h->hosts[i])) {
            at -= targets(&h->hosts[i++]);
        }
        add_target(l, &h->hosts[i], h->hosts[i].named ? h->hosts[i].addresses[at] : "");
    }
}

/* NUL-terminated; cut when it is absurdly long, which libpq then refuses by its counts. */
static const char *list_text(struct buf *b)
{
    char *end = buf_reserve(b, 1);
    if (end) {
        *end = '\0';
        buf_commit(b, 1);
    }
    return end ? buf_span(b).p : "";
}

static PGconn *connect_start(const struct pg_hosts *h, struct lists *l)
{
    enum { OWN = 4 };
    size_t n = OWN + 1;
    for (const PQconninfoOption *o = h->options; o->keyword; o++) {
        n++;
    }
    const char **keywords = NEW_ARRAY(const char *, n), **values = NEW_ARRAY(const char *, n);
    n = 0;
    for (const PQconninfoOption *o = h->options; o->keyword; o++) {
        if (o->val) {
            keywords[n] = o->keyword;
            values[n++] = o->val;
        }
    }
    /* Of two entries for a keyword libpq takes the later one. */
    if (h->n > 0) {
        const char *own[] = { "host", "hostaddr", "port" };
        struct buf *lists[] = { &l->host, &l->hostaddr, &l->port };
        for (size_t i = 0; i < ARRAY_LEN(own); i++) {
            keywords[n] = own[i];
            values[n++] = list_text(lists[i]);
        }
    }
    keywords[n] = "fallback_application_name";
    values[n++] = "mailfleet";
    PGconn *pq = PQconnectStartParams(keywords, values, 0);
    free(keywords);
    free(values);
    CHECK(pq != NULL); /* memory is out */
    return pq;
}

PGconn *pg_hosts_connect(const struct pg_hosts *h, size_t nth, char *why, size_t why_size)
{
    struct lists l = { 0 };
    buf_init(&l.host, LIST_MAX);
    buf_init(&l.hostaddr, LIST_MAX);
    buf_init(&l.port, LIST_MAX);
    make_lists(h, nth, &l);
    PGconn *pq = NULL;
    if (h->n > 0 && l.n == 0) {
        snprintf(why, why_size, "%s", h->why);
    } else {
        pq = connect_start(h, &l);
    }
    buf_fini(&l.host);
    buf_fini(&l.hostaddr);
    buf_fini(&l.port);
    return pq;
}
