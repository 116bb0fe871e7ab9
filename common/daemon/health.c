/*
 * health: the listener for /healthz, /readyz and /metrics (libmicrohttpd, on the master's
 * loop through its epoll descriptor). Everything it tells comes out of the workers' counters; it
 * asks nobody and changes nothing. Who is
 * not of node.health_networks is let go before anything is read.
 */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "daemon/parts.h"

#define BODY_MAX       (1u << 20)
#define CLIENTS_MAX    64
#define CLIENT_SECONDS 10u /* an idle client is closed */

struct health {
    const struct health_view *view;
    const struct netset *networks;
    struct log_pace forbidden;
    struct loop *loop;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer; /* libmicrohttpd's time-outs need a turn now and then */
    unsigned closing;
};

/* --- the bodies ------------------------------------------------------------------------------ */

/* One thing that fails; empty: every thing is well. */
static void note(char why[HEALTH_WHY], unsigned worker, const char *name, const char *what)
{
    if (!*why) {
        snprintf(why, HEALTH_WHY, "worker %u: %s: %s", worker, name, what);
    }
}

/* Each worker's items: `ok` or why not. out may be NULL. */
static void look(const struct health_view *v, struct buf *out, char why[HEALTH_WHY])
{
    struct buf ignored;
    buf_init(&ignored, 0);
    out = out ? out : &ignored;
    *why = '\0';
    for (unsigned i = 0; i < v->workers; i++) {
        struct health_item items[HEALTH_MAX];
        const struct stats *slot = &v->block->slots[i];
        if (!atomic_load(&slot->started)) {
            buf_addf(out, "worker %u: not running\n", i);
            note(why, i, "worker", "not running");
            continue;
        }
        size_t n = health_read(slot, items);
        for (size_t k = 0; k < n; k++) {
            buf_addf(out, "worker %u: %s: %s%s\n", i, items[k].name,
                     items[k].ok ? "ok" : items[k].why,
                     items[k].ok || items[k].required ? "" : " (not required)");
            if (!items[k].ok && items[k].required) {
                note(why, i, items[k].name, items[k].why);
            }
        }
    }
    buf_fini(&ignored);
}

bool health_allows(const struct netset *networks, const struct sockaddr *client,
                   struct log_pace *pace, uint64_t now_ms)
{
    char host[NETADDR_TEXT];
    uint64_t more;
    bool allowed = netset_has(networks, client);
    if (!allowed && log_may(pace, now_ms, &more)) {
        netaddr_host(client, host);
        LOG(LOG_WARN, "health.forbidden", F_STR("peer", host), F_U64("more", more));
    }
    return allowed;
}

bool health_well(const struct health_view *v, char why[HEALTH_WHY])
{
    look(v, NULL, why);
    return !*why;
}

/* At the start it waits until it has heard whether it is drained: that outlives a restart. */
bool health_ready(const struct health_view *v, struct buf *out)
{
    char why[HEALTH_WHY];
    int drain = atomic_load(&v->block->drain);
    if (v->draining) {
        buf_add(out, SPAN("draining\n"));
    } else if (drain == DRAIN_YES) {
        buf_add(out, SPAN("draining (by the operator)\n"));
    } else if (drain == DRAIN_UNKNOWN) {
        buf_add(out, SPAN("not yet known whether the node is drained\n"));
    }
    look(v, out, why);
    return !v->draining && drain == DRAIN_NO && !*why;
}

static uint64_t sum(const struct health_view *v, enum stat_id id)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < v->workers; i++) {
        sum += stats_get(&v->block->slots[i], id);
    }
    return sum;
}

uint64_t health_sessions(const struct health_view *v)
{
    return sum(v, STAT_sessions);
}

unsigned health_load(const struct health_view *v)
{
    uint64_t full = health_sessions(v) * 100 / v->capacity, busy = sum(v, STAT_busy) / v->workers;
    uint64_t load = full > busy ? full : busy;
    return load < 100 ? (unsigned)load : 100;
}

/* A label's value: backslash, quote and newline are what Prometheus' text format escapes. */
static void add_label(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"') {
            buf_addc(out, '\\');
        }
        buf_addc(out, *text == '\n' ? ' ' : *text);
    }
}

static void add_stats(const struct health_view *v, struct buf *out)
{
    for (size_t i = 0; i < STAT_COUNT; i++) {
        const struct stat_doc *d = &stat_docs[i];
        const char *suffix = strcmp(d->kind, "counter") == 0 ? "_total" : "";
        buf_addf(out, "# HELP mailfleet_%s%s %s\n# TYPE mailfleet_%s%s %s\nmailfleet_%s%s %llu\n",
                 d->name, suffix, d->help, d->name, suffix, d->kind, d->name, suffix,
                 (unsigned long long)sum(v, (enum stat_id)i));
    }
}

static void add_items(const struct health_view *v, struct buf *out)
{
    buf_add(out, SPAN("# HELP mailfleet_health Whether a worker finds a thing it depends on well.\n"
                      "# TYPE mailfleet_health gauge\n"));
    for (unsigned w = 0; w < v->workers; w++) {
        struct health_item items[HEALTH_MAX];
        size_t n = health_read(&v->block->slots[w], items);
        for (size_t k = 0; k < n; k++) {
            buf_addf(out, "mailfleet_health{worker=\"%u\",item=\"", w);
            add_label(out, items[k].name);
            buf_addf(out, "\"} %d\n", items[k].ok);
        }
    }
}

void health_metrics(const struct health_view *v, struct buf *out)
{
    struct buf ignored;
    buf_init(&ignored, BODY_MAX);
    bool ready = health_ready(v, &ignored);
    buf_fini(&ignored);
    add_stats(v, out);
    add_items(v, out);
    buf_addf(out,
             "# HELP mailfleet_ready Whether /readyz says so.\n# TYPE mailfleet_ready gauge\n"
             "mailfleet_ready %d\n"
             "# HELP mailfleet_drain Whether an operator has drained the node.\n"
             "# TYPE mailfleet_drain gauge\nmailfleet_drain %d\n"
             "# HELP mailfleet_load Per cent: sessions or processors, whichever is more.\n"
             "# TYPE mailfleet_load gauge\nmailfleet_load %u\n"
             "# HELP mailfleet_workers Worker processes configured.\n"
             "# TYPE mailfleet_workers gauge\nmailfleet_workers %u\n"
             "# HELP mailfleet_info The version, always 1.\n# TYPE mailfleet_info gauge\n"
             "mailfleet_info{service=\"%s\",version=\"" MAILFLEET_VERSION "\",node=\"",
             ready, atomic_load(&v->block->drain) == DRAIN_YES, health_load(v), v->workers,
             v->service);
    add_label(out, v->node);
    buf_add(out, SPAN("\"} 1\n"));
}

/* --- HTTP ------------------------------------------------------------------------------------ */

static unsigned make_body(const struct health *h, const char *url, struct buf *out)
{
    if (strcmp(url, "/healthz") == 0) {
        buf_add(out, SPAN("ok\n"));
        return MHD_HTTP_OK;
    }
    if (strcmp(url, "/readyz") == 0) {
        return health_ready(h->view, out) ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
    }
    if (strcmp(url, "/metrics") == 0) {
        health_metrics(h->view, out);
        return MHD_HTTP_OK;
    }
    buf_add(out, SPAN("/healthz, /readyz and /metrics are here\n"));
    return MHD_HTTP_NOT_FOUND;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_size, void **state)
{
    const struct health *h = cls;
    struct buf body;
    (void)version;
    (void)data;
    (void)state;
    unsigned status = MHD_HTTP_METHOD_NOT_ALLOWED;
    *data_size = 0;
    buf_init(&body, BODY_MAX);
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) {
        status = make_body(h, url, &body);
    }
    struct span text = buf_span(&body);
    /* The library copies the body; its interface just does not say const. */
    struct MHD_Response *r = MHD_create_response_from_buffer(
        text.n, (void *)(uintptr_t)(text.n ? text.p : ""), MHD_RESPMEM_MUST_COPY);
    MHD_add_response_header(r, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    buf_fini(&body);
    return result;
}

static enum MHD_Result on_client(void *cls, const struct sockaddr *client, socklen_t size)
{
    struct health *h = cls;
    (void)size;
    return health_allows(h->networks, client, &h->forbidden, loop_now(h->loop)) ? MHD_YES : MHD_NO;
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct health *h = p->data;
    (void)status;
    (void)events;
    MHD_run(h->mhd);
}

static void on_timer(uv_timer_t *t)
{
    struct health *h = t->data;
    MHD_run(h->mhd);
}

enum err health_open(struct loop *l, const char *address, const struct netset *networks,
                     const struct health_view *v, struct health **out, char *why, size_t why_size)
{
    struct sockaddr_storage sa;
    if (netaddr_parse(address, &sa) != ERR_OK) {
        snprintf(why, why_size, "not an address with a port");
        return ERR_INVALID;
    }
    struct health *h = NEW(struct health);
    h->view = v;
    h->networks = networks;
    h->loop = l;
    unsigned flags = MHD_USE_EPOLL | (sa.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0u);
    h->mhd = MHD_start_daemon(flags, 0, on_client, h, on_request, h, MHD_OPTION_SOCK_ADDR, &sa,
                              MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_CONNECTION_LIMIT,
                              (unsigned)CLIENTS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, CLIENT_SECONDS,
                              MHD_OPTION_END);
    if (!h->mhd) {
        snprintf(why, why_size, "can't listen there");
        free(h);
        return ERR_INVALID;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    CHECK(uv_poll_init(loop_uv(l), &h->poll, info->epoll_fd) == 0 &&
          uv_timer_init(loop_uv(l), &h->timer) == 0);
    h->poll.data = h->timer.data = h;
    CHECK(uv_poll_start(&h->poll, UV_READABLE, on_poll) == 0);
    uv_timer_start(&h->timer, on_timer, 1000, 1000);
    *out = h;
    return ERR_OK;
}

static void on_closed(uv_handle_t *handle)
{
    struct health *h = handle->data;
    if (--h->closing == 0) {
        MHD_stop_daemon(h->mhd);
        free(h);
    }
}

void health_close(struct health **ph)
{
    struct health *h = *ph;
    *ph = NULL;
    h->closing = 2;
    uv_close((uv_handle_t *)&h->poll, on_closed);
    uv_close((uv_handle_t *)&h->timer, on_closed);
}
