/*
 * worker: one process that serves sessions: one loop, one store, the sockets that the master bound.
 *
 * Everything it opens lives until the process ends; at the end it is not taken apart, since a node
 * may be killed at any instruction anyway. It never binds, forks or serves health: the master does.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem_keep.h"
#include "daemon/parts.h"
#include "daemon/sandbox.h"
#include "daemon/sandbox_probe.h"
#include "net/listener.h"

#define PREFACE_MS     10000 /* for a PROXY header and the handshake of implicit TLS */
#define DRAIN_CHECK_MS 50
#define DRAIN_EXTRA_MS 5000  /* for last replies, once all sessions were told to end */
#define CLIENTS        32768 /* addresses and networks that the throttle knows */
#define REFUSED_LOG_MS 1000  /* between two lines of clients that were turned away */

struct worker_socket {
    struct worker_process *process;
    const struct daemon_port *port;
    struct listener *listener;
};

struct worker_process {
    struct worker worker;
    const struct daemon_service *service;
    const char *config_path;
    struct config **configs; /* all that were ever in force */
    size_t config_count;
    struct netset *networks, *exempt;
    uint64_t refused_log_at; /* when the next line may come */
    uint64_t refused_more;   /* that had no line of their own */
    struct worker_socket sockets[SOCKETS_MAX];
    size_t n;
    struct stats_block *block;
    struct health_view view;
    struct announcer *announcer;
    struct reload *reload;
    struct watch *watch; /* NULL: only SIGHUP tells of new certificates */
    uv_signal_t term, hup;
    uv_timer_t drain_timer;
    uint64_t drain_until;
    bool ended; /* the sessions were told to end */
};

/* --- sessions -------------------------------------------------------------------------------- */

/* Unique on the node, and hard to guess, as it shows in logs only. */
static void make_sid(char out[16])
{
    static uint64_t next;
    if (next == 0) {
        CHECK(getrandom(&next, sizeof next, 0) == sizeof next);
    }
    uint64_t sid = next++;
    out[15] = '\0';
    for (size_t i = 15; i-- > 0; sid >>= 4) {
        out[i] = "0123456789abcdef"[sid & 15];
    }
}

void worker_session_begin(struct worker_session *s, struct worker *w,
                          void (*drain)(struct worker_session *),
                          void (*end)(struct worker_session *))
{
    s->worker = w;
    s->drain = drain;
    s->end = end;
    make_sid(s->sid);
    s->counted = w->accepting != NULL;
    if (s->counted) {
        const struct sockaddr *client = conn_peer(w->accepting);
        memcpy(&s->client, client, netaddr_len(client));
        w->accepting = NULL;
    }
    list_add(&w->sessions, &s->link);
    w->session_count++;
    stats_add(STAT_sessions, 1);
}

void worker_session_end(struct worker_session *s)
{
    list_del(&s->link);
    s->worker->session_count--;
    stats_sub(STAT_sessions, 1);
    if (s->counted) {
        throttle_leave(s->worker->throttle, (const struct sockaddr *)&s->client);
    }
}

/* A flood is a line a second, not one for each connection. */
static void log_refused(struct worker_process *p, const struct conn *c, enum throttle_verdict v)
{
    uint64_t now = loop_now(p->worker.loop);
    char client[NETADDR_TEXT];
    stats_add(STAT_limit_sessions, 1);
    if (now < p->refused_log_at) {
        p->refused_more++;
        return;
    }
    netaddr_host(conn_peer(c), client);
    LOG(LOG_WARN, "limit.refused", F_STR("peer", client), F_STR("why", throttle_verdict_text(v)),
        F_U64("more", p->refused_more));
    p->refused_log_at = now + REFUSED_LOG_MS;
    p->refused_more = 0;
}

/* Whether the client's limits let it in; then it is counted until throttle_leave. */
static bool enter(struct worker_process *p, const struct conn *c)
{
    struct worker *w = &p->worker;
    enum throttle_verdict v = throttle_enter(w->throttle, conn_peer(c), loop_now(w->loop));
    if (v != THROTTLE_OK) {
        log_refused(p, c, v);
    }
    return v == THROTTLE_OK;
}

/* A conn that is to shake hands first is counted for its client from then on. It takes no place on
 * the node meanwhile: those that never speak would keep out those that do. */
static bool on_admit(void *arg, const struct conn *c)
{
    struct worker_socket *k = arg;
    return !k->port->limited || enter(k->process, c);
}

static void on_leave(void *arg, const struct conn *c)
{
    struct worker_socket *k = arg;
    if (k->port->limited) {
        throttle_leave(k->process->worker.throttle, conn_peer(c));
    }
}

/* Behind implicit TLS it was admitted before the handshake, and its client is counted already. */
static enum refusal find_room(struct worker_socket *k, const struct conn *c)
{
    struct worker_process *p = k->process;
    enum refusal refusal = REFUSAL_NONE;
    if (p->service->drain_refuses && atomic_load(&p->block->drain) == DRAIN_YES) {
        stats_add(STAT_drain_refused, 1);
        refusal = REFUSAL_DRAIN;
    } else if (p->worker.session_count >= p->worker.config->node_max_sessions) {
        stats_add(STAT_sessions_refused, 1);
        refusal = REFUSAL_FULL;
    }
    if (refusal != REFUSAL_NONE && k->port->tls) {
        on_leave(k, c);
    } else if (refusal == REFUSAL_NONE && !k->port->tls && !on_admit(k, c)) {
        refusal = REFUSAL_LIMIT;
    }
    return refusal;
}

static void on_accept(void *arg, struct conn *c)
{
    struct worker_socket *k = arg;
    struct worker *w = &k->process->worker;
    enum refusal refusal = find_room(k, c);
    w->accepting = k->port->limited && refusal == REFUSAL_NONE ? c : NULL;
    k->process->service->accept(w, c, k->port->tag, refusal);
    CHECK(!w->accepting);
}

/* --- draining -------------------------------------------------------------------------------- */

/* Sessions first, then the connections that still send a last reply, then what the fleet is told.
 */
static void on_drain_timer(uv_timer_t *t)
{
    struct worker_process *p = t->data;
    struct worker *w = &p->worker;
    if (w->session_count == 0 && conn_count() == 0 && announcer_end(p->announcer)) {
        loop_stop(w->loop);
        return;
    }
    uint64_t now = loop_now(w->loop);
    if (now >= p->drain_until && !p->ended) {
        p->ended = true;
        LIST_FOR_SAFE (l, &w->sessions) {
            struct worker_session *s = CONTAINER_OF(l, struct worker_session, link);
            s->end(s);
        }
    }
    if (now >= p->drain_until + DRAIN_EXTRA_MS) {
        loop_stop(w->loop);
    }
}

static void on_term(uv_signal_t *sig, int signum)
{
    struct worker_process *p = sig->data;
    struct worker *w = &p->worker;
    (void)signum;
    if (w->draining) {
        return;
    }
    w->draining = p->view.draining = true;
    LOG(LOG_INFO, "worker.drain", F_U64("sessions", w->session_count));
    for (size_t i = 0; i < p->n; i++) {
        listener_close(&p->sockets[i].listener);
    }
    LIST_FOR_SAFE (l, &w->sessions) {
        struct worker_session *s = CONTAINER_OF(l, struct worker_session, link);
        s->drain(s);
    }
    announcer_look(p->announcer);
    p->drain_until = loop_now(w->loop) + w->config->node_drain_time;
    uv_timer_start(&p->drain_timer, on_drain_timer, 0, DRAIN_CHECK_MS);
}

/* --- configuration --------------------------------------------------------------------------- */

static bool trusts_tls(const struct config *c)
{
    return c->proxy_trust_tls == TRUST_TLS_YES;
}

/* For conns from now on. Takes the certificates. */
static void use_tls(struct worker_process *p, struct tls *t)
{
    for (size_t i = 0; i < p->n; i++) {
        if (p->sockets[i].port->tls) {
            listener_set_tls(p->sockets[i].listener, t);
        }
    }
    tls_unref(&p->worker.tls);
    p->worker.tls = t;
}

static void watch_tls(struct worker_process *p)
{
    const struct config *c = p->worker.config;
    const char *paths[] = { c->tls_certificate, c->tls_key, c->tls_directory, c->tls_client_ca };
    if (p->watch) {
        watch_set(p->watch, paths, ARRAY_LEN(paths));
    }
}

static void on_tls_changed(void *arg)
{
    struct worker_process *p = arg;
    if (!p->worker.draining && p->worker.tls) {
        reload_tls(p->reload);
    }
}

static void use_limits(struct worker_process *p, const struct config *c)
{
    struct worker *w = &p->worker;
    struct netset *exempt;
    const char *bad;
    CHECK(netset_parse(&c->limits_exempt, &exempt, &bad) == ERR_OK);
    struct throttle_options o = { .exempt = exempt,
                                  .ipv4_network = (unsigned)c->limits_ipv4_network,
                                  .ipv6_address = (unsigned)c->limits_ipv6_address,
                                  .ipv6_network = (unsigned)c->limits_ipv6_network,
                                  .entries = CLIENTS };
    p->service->limits(c, &o);
    if (w->throttle) {
        throttle_change(w->throttle, &o);
    } else {
        w->throttle = throttle_open(&o);
    }
    netset_free(&p->exempt);
    p->exempt = exempt;
}

/*
 * Puts a configuration in force: what sessions and listeners ask for from now on. The rest belongs
 * to what is open. Takes the certificates. What was replaced stays in memory: the store and the
 * sessions still point into it, and a process sees few reloads.
 */
static void use(struct worker_process *p, struct config *c, struct tls *t)
{
    struct worker *w = &p->worker;
    struct netset *networks;
    const char *bad;
    CHECK(netset_parse(&c->proxy_networks, &networks, &bad) == ERR_OK);
    use_limits(p, c);
    for (size_t i = 0; i < p->n; i++) {
        listener_set_proxy(p->sockets[i].listener, networks, trusts_tls(c));
    }
    use_tls(p, t);
    if (w->store) {
        store_reload(w->store, c);
    }
    netset_free(&p->networks);
    p->networks = networks;
    p->configs = mem_grow(p->configs, p->config_count + 1, sizeof(struct config *));
    p->configs[p->config_count++] = c;
    w->config = c;
    p->view.capacity = p->view.workers * c->node_max_sessions;
    w->hostname = c->smtp_hostname;
    log_set_level((enum log_level)c->node_log_level);
}

static void on_tls_read(struct worker_process *p, enum err e, struct tls *t, const char *why)
{
    if (e != ERR_OK) {
        LOG(LOG_ERROR, "tls.bad", F_STR("why", why));
        return;
    }
    LOG(LOG_INFO, "tls.reloaded", F_U64("certificates", tls_certificates(t)));
    use_tls(p, t);
}

/* All or nothing: a bad file or certificate leaves everything as it is. */
static void on_config_read(struct worker_process *p, enum err e, struct config *c, struct tls *t,
                           const char *why)
{
    if (e != ERR_OK) {
        LOG(LOG_ERROR, "config.bad", F_STR("why", why));
        return;
    }
    if (p->worker.tls && !t) {
        /* A port of implicit TLS that is open would be left without. */
        LOG(LOG_ERROR, "config.needs_restart", F_STR("setting", "tls.certificate"));
        config_free(&c);
        return;
    }
    use(p, c, t);
    watch_tls(p);
    LOG(LOG_INFO, "worker.reloaded", F_STR("config", p->config_path));
}

static void on_read(void *arg, const struct reload_result *r)
{
    struct worker_process *p = arg;
    struct config *c = r->config;
    struct tls *t = r->tls;
    if (p->worker.draining) {
        config_free(&c);
        tls_unref(&t);
    } else if (r->tls_alone) {
        on_tls_read(p, r->e, t, r->why);
    } else {
        on_config_read(p, r->e, c, t, r->why);
    }
}

static void on_hup(uv_signal_t *sig, int signum)
{
    struct worker_process *p = sig->data;
    (void)signum;
    if (!p->worker.draining) {
        reload_all(p->reload);
    }
}

/* --- the start ------------------------------------------------------------------------------- */

static bool map_stats(struct worker_process *p, const struct worker_order *o)
{
    p->block = mmap(NULL, stats_block_size(o->workers), PROT_READ | PROT_WRITE, MAP_SHARED,
                    WORKER_FD_STATS, 0);
    if (p->block == MAP_FAILED) {
        LOG(LOG_ERROR, "worker.stats", F_STR("why", strerror(errno)));
        return false;
    }
    close(WORKER_FD_STATS);
    stats_use(&p->block->slots[o->index]);
    return true;
}

static void open_announcer(struct worker_process *p, const struct worker_order *o)
{
    p->view = (struct health_view){ .service = p->service->name,
                                    .node = p->worker.config->node_name,
                                    .block = p->block,
                                    .workers = o->workers,
                                    .capacity = o->workers * p->worker.config->node_max_sessions };
    p->announcer = announcer_open(&(struct announcer_options){ .loop = p->worker.loop,
                                                               .store = p->worker.store,
                                                               .config = &p->worker.config,
                                                               .role = p->service->role,
                                                               .block = p->block,
                                                               .view = &p->view,
                                                               .index = o->index });
}

static bool open_sockets(struct worker_process *p, const struct worker_order *o)
{
    for (size_t i = 0; i < o->n; i++) {
        struct worker_socket *k = &p->sockets[i];
        k->process = p;
        k->port = &p->service->ports[o->ports[i]];
        if (k->port->tls && !p->worker.tls) {
            /* The file was changed behind a running master. In plain text it must not be served. */
            LOG(LOG_ERROR, "config.needs_restart", F_STR("setting", "tls.certificate"));
            return false;
        }
        struct listener_options lo = { .fd = WORKER_FD_SOCKETS + (int)i,
                                       .proxy = k->port->proxy,
                                       .networks = p->networks,
                                       .trust_tls = trusts_tls(p->worker.config),
                                       .tls = k->port->tls ? p->worker.tls : NULL,
                                       .preface_ms = PREFACE_MS,
                                       .admit = on_admit,
                                       .leave = on_leave,
                                       .accept = on_accept,
                                       .arg = k };
        enum err e = listener_open(p->worker.loop, &lo, &k->listener);
        if (e != ERR_OK) {
            LOG(LOG_ERROR, "worker.listen", F_ERR(e));
            return false;
        }
        p->n++;
    }
    return true;
}

static void open_signals(struct worker_process *p)
{
    uv_loop_t *uv = loop_uv(p->worker.loop);
    CHECK(uv_signal_init(uv, &p->term) == 0 && uv_signal_init(uv, &p->hup) == 0 &&
          uv_timer_init(uv, &p->drain_timer) == 0);
    p->term.data = p->hup.data = p->drain_timer.data = p;
    CHECK(uv_signal_start(&p->term, on_term, SIGTERM) == 0);
    CHECK(uv_signal_start(&p->hup, on_hup, SIGHUP) == 0);
}

/* A master that is killed takes its workers along: a node is up or down, never half. */
static bool die_with_master(pid_t master)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == master;
}

static bool worker_open(struct worker_process *p, const struct worker_order *o)
{
    struct config *c;
    struct tls *t;
    char why[512];
    uint8_t stamp[TLS_STAMP_SIZE];
    if (daemon_read(p->service, o->config_path, &c, &t, stamp, why, sizeof why) != ERR_OK) {
        LOG(LOG_ERROR, "config.bad", F_STR("why", why));
        return false;
    }
    log_set_node(c->node_name);
    log_set_level((enum log_level)c->node_log_level);
    /* Before anything that starts a thread. */
    if (sandbox_enter(c, o->config_path, why, sizeof why) != ERR_OK) {
        LOG(LOG_ERROR, "sandbox.failed", F_STR("why", why));
        return false;
    }
    p->config_path = o->config_path;
    list_init(&p->worker.sessions);
    mem_keep();
    p->worker.loop = loop_open();
    use(p, c, t);
    if (!map_stats(p, o)) {
        return false;
    }
    if (store_open(p->worker.loop, c, &p->worker.store, why, sizeof why) != ERR_OK) {
        LOG(LOG_ERROR, "store.bad", F_STR("why", why));
        return false;
    }
    if (p->service->open && !p->service->open(&p->worker, why, sizeof why)) {
        LOG(LOG_ERROR, "config.bad", F_STR("why", why));
        return false;
    }
    p->reload = reload_open(p->worker.loop, p->service, p->config_path, &p->worker.config, stamp,
                            on_read, p);
    p->watch = watch_open(p->worker.loop, on_tls_changed, p);
    watch_tls(p);
    open_announcer(p, o);
    open_signals(p);
    sandbox_probe();
    return open_sockets(p, o);
}

int worker_main(const struct daemon_service *s, const struct worker_order *o)
{
    static struct worker_process process; /* as long as the process: it is never taken apart */
    process.service = s;
    prctl(PR_SET_NAME, s->name); /* else ps would call it by the link it was started by: exe */
    signal(SIGINT, SIG_IGN);     /* a terminal sends it to the whole group; the master decides */
    if (!die_with_master(o->master) || !worker_open(&process, o)) {
        return EXIT_FAILURE;
    }
    LOG(LOG_INFO, "worker.start", F_STR("service", s->name), F_U64("worker", o->index));
    stats_started();
    log_gather(true);
    loop_run(process.worker.loop);
    log_gather(false);
    LOG(LOG_INFO, "worker.stop", F_U64("worker", o->index));
    return EXIT_SUCCESS;
}
