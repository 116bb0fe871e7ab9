/*
 * daemon: the master process. It binds, drops root, starts the workers and starts them again, and
 * passes signals on. It serves nobody but the health listener, so that nothing a peer sends is
 * ever parsed where the sockets of all workers are open.
 *
 * Owns the bound sockets (kept open, so that a restarted worker goes on with the queue of the one
 * before it), the block of counters, and the workers' processes.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "daemon/parts.h"
#include "daemon/sandbox.h"
#include "net/listener.h"
#include "store/quota_rules.h"
#include "store/seal.h"

#define DEFAULT_CONFIG "/etc/mailfleet/mailfleet.conf"
#define RESTART_MS     1000  /* before a worker that fell at once is tried again */
#define LIVED_MS       1000  /* one that lived so long is started again at once */
#define KILL_EXTRA_MS  10000 /* after node.drain_time, before workers are killed */
#define DESCRIPTORS    1536  /* of a worker, besides those of its sessions: a thousand may linger */
#define DIRECTORIES    4     /* the part of the limit that posix_dirs may keep: a quarter */

struct child {
    struct master *master;
    unsigned index;
    uv_process_t process;
    uv_timer_t timer; /* until it is started again */
    uint64_t started;
    bool running;
    int sockets[SOCKETS_MAX];
};

struct master {
    const struct daemon_service *service;
    struct loop *loop;
    struct config *config; /* of the start */
    uint64_t drain_time;   /* of now */
    const char *config_path;
    struct worker_order order; /* the part that all workers share */
    struct child *children;
    unsigned workers;
    unsigned running;
    struct stats_block *block;
    int stats_fd;
    struct health_view view;
    struct netset *health_networks;
    struct health *health;
    struct agent *agent;
    struct reload *reload;
    uv_signal_t term, intr, hup;
    uv_timer_t kill_timer;
};

/* --- the configuration ----------------------------------------------------------------------- */

static const struct config_list *port_list(const struct config *c, const struct daemon_port *p)
{
    return (const struct config_list *)(const void *)((const char *)c + p->setting);
}

/* Of the health listener, or of the agent. */
static const char *text_setting(const struct config *c, size_t offset)
{
    return *(const char *const *)(const void *)((const char *)c + offset);
}

static bool are_networks(const struct config_list *l, const char *setting, char *why,
                         size_t why_size)
{
    struct netset *networks;
    const char *bad;
    if (netset_parse(l, &networks, &bad) != ERR_OK) {
        snprintf(why, why_size, "%s: %s: not a network", setting, bad);
        return false;
    }
    netset_free(&networks);
    return true;
}

/* Whether this service can run with it. */
static bool usable(const struct daemon_service *s, struct config *c, char *why, size_t why_size)
{
    struct quota_rules quota;
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct config_list *l = port_list(c, &s->ports[i]);
        for (size_t k = 0; k < l->n; k++, n++) {
            struct sockaddr_storage sa;
            if (netaddr_parse(l->v[k], &sa) != ERR_OK) {
                snprintf(why, why_size, "%s: not an address to listen on (host:port)", l->v[k]);
                return false;
            }
        }
        if (l->n > 0 && s->ports[i].tls && !*c->tls_certificate) {
            snprintf(why, why_size, "%s: implicit TLS needs tls.certificate", l->v[0]);
            return false;
        }
    }
    if (n == 0) {
        snprintf(why, why_size, "%s has nothing to listen on", s->name);
        return false;
    }
    if (!are_networks(&c->proxy_networks, "proxy.networks", why, why_size) ||
        !are_networks(&c->smtp_xclient, "smtp.xclient", why, why_size) ||
        !are_networks(&c->limits_exempt, "limits.exempt", why, why_size) ||
        !are_networks(&c->node_health_networks, "node.health_networks", why, why_size) ||
        quota_rules_read(c, &quota, why, why_size) != ERR_OK) {
        return false;
    }
    if (!*c->tls_certificate && (*c->tls_directory || *c->tls_client_ca)) {
        snprintf(why, why_size, "%s needs tls.certificate",
                 *c->tls_directory ? "tls.directory" : "tls.client_ca");
        return false;
    }
    if (!*c->database_url) {
        snprintf(why, why_size, "database.url is not set");
        return false;
    }
    return s->check(c, why, why_size);
}

/* Nodes with one fleet key resume each other's sessions. */
static enum err ticket_secret(const struct config *c, uint8_t out[TLS_SECRET_SIZE], char *why,
                              size_t why_size)
{
    struct seal *s;
    enum err e = seal_load(c->node_fleet_key_file, &s, why, why_size);
    if (e == ERR_OK) {
        seal_mac(s, "tls tickets", NULL, 0, out);
        seal_free(&s);
    }
    return e;
}

static struct tls_options tls_files(const struct config *c)
{
    return (struct tls_options){ .certificate = c->tls_certificate,
                                 .key = c->tls_key,
                                 .directory = c->tls_directory,
                                 .client_ca = c->tls_client_ca,
                                 .ticket_life = c->tls_ticket_life };
}

enum err daemon_read_tls(const struct daemon_service *s, const struct config *c, struct tls **out,
                         char *why, size_t why_size)
{
    uint8_t secret[TLS_SECRET_SIZE];
    struct tls_options o = tls_files(c);
    if (!*c->tls_certificate) {
        *out = NULL;
        return ERR_OK;
    }
    if (!s->client_certificates) {
        o.client_ca = NULL;
    }
    o.alpn = s->alpn;
    o.service = s->name;
    enum err e = ERR_OK;
    if (*c->node_fleet_key_file) {
        e = ticket_secret(c, secret, why, why_size);
        o.ticket_secret = secret;
    }
    if (e == ERR_OK) {
        e = tls_load(&o, out, why, why_size);
    }
    explicit_bzero(secret, sizeof secret);
    return e;
}

void daemon_stamp_tls(const struct config *c, uint8_t out[TLS_STAMP_SIZE])
{
    struct tls_options o = tls_files(c);
    tls_stamp(&o, out);
}

enum err daemon_read(const struct daemon_service *s, const char *path, struct config **out,
                     struct tls **out_tls, uint8_t out_stamp[TLS_STAMP_SIZE], char *why,
                     size_t why_size)
{
    struct config *c;
    uint8_t stamp[TLS_STAMP_SIZE];
    enum err e = config_load(path, &c, why, why_size);
    if (e != ERR_OK) {
        return e;
    }
    daemon_stamp_tls(c, stamp); /* first: a change while they are read must show */
    if (!usable(s, c, why, why_size) || daemon_read_tls(s, c, out_tls, why, why_size) != ERR_OK) {
        config_free(&c);
        return ERR_INVALID;
    }
    *out = c;
    memcpy(out_stamp, stamp, sizeof stamp);
    return ERR_OK;
}

/* --- sockets, root, counters ----------------------------------------------------------------- */

static bool bind_one(struct master *m, const char *text, size_t port)
{
    struct sockaddr_storage sa;
    CHECK(netaddr_parse(text, &sa) == ERR_OK);
    CHECK(m->order.n < SOCKETS_MAX);
    for (unsigned i = 0; i < m->workers; i++) {
        int fd = listener_bind((const struct sockaddr *)&sa);
        if (fd < 0) {
            LOG(LOG_ERROR, "listen.failed", F_STR("address", text), F_STR("why", strerror(errno)));
            return false;
        }
        m->children[i].sockets[m->order.n] = fd;
    }
    m->order.ports[m->order.n++] = port;
    return true;
}

static bool bind_all(struct master *m)
{
    for (size_t i = 0; i < m->service->n; i++) {
        const struct config_list *l = port_list(m->config, &m->service->ports[i]);
        for (size_t k = 0; k < l->n; k++) {
            if (!bind_one(m, l->v[k], i)) {
                return false;
            }
        }
    }
    return true;
}

static bool drop_root(const struct config *c)
{
    const char *name = c->node_user;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        LOG(LOG_ERROR, "root.no_new_privs", F_STR("why", strerror(errno)));
        return false;
    }
    if (geteuid() != 0) {
        return true;
    }
    const struct passwd *pw = *name ? getpwnam(name) : NULL;
    if (!pw || pw->pw_uid == 0) {
        LOG(LOG_ERROR, "root.user", F_STR("user", name),
            F_STR("why", *name ? "not a user to run as"
                               : "node.user must be set when the daemon is started by root"));
        return false;
    }
    if (initgroups(name, pw->pw_gid) || setgid(pw->pw_gid) || setuid(pw->pw_uid)) {
        LOG(LOG_ERROR, "root.drop", F_STR("user", name), F_STR("why", strerror(errno)));
        return false;
    }
    return true;
}

/* A session is a descriptor; the usual soft limit of 1024 is for programs that use select(2). */
static void raise_descriptors(const struct config *c)
{
    struct rlimit r;
    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
    r.rlim_cur = r.rlim_max;
    rlim_t rest = r.rlim_max - r.rlim_max / DIRECTORIES;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0 || rest < c->node_max_sessions + DESCRIPTORS) {
        LOG(LOG_WARN, "daemon.descriptors", F_U64("limit", r.rlim_max),
            F_U64("max_sessions", c->node_max_sessions));
    }
}

static bool make_stats(struct master *m)
{
    size_t size = stats_block_size(m->workers);
    m->stats_fd = memfd_create("mailfleet-stats", MFD_CLOEXEC);
    if (m->stats_fd < 0 || ftruncate(m->stats_fd, (off_t)size) != 0) {
        LOG(LOG_ERROR, "stats.memory", F_STR("why", strerror(errno)));
        return false;
    }
    m->block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->stats_fd, 0);
    if (m->block == MAP_FAILED) {
        LOG(LOG_ERROR, "stats.memory", F_STR("why", strerror(errno)));
        return false;
    }
    return true;
}

/* --- workers --------------------------------------------------------------------------------- */

static void start_child(struct child *k);

static void on_restart(uv_timer_t *t)
{
    start_child(t->data);
}

static void on_child_closed(uv_handle_t *h)
{
    struct child *k = h->data;
    struct master *m = k->master;
    if (m->view.draining) {
        if (m->running == 0) {
            loop_stop(m->loop);
        }
        return;
    }
    bool lived = loop_now(m->loop) - k->started >= LIVED_MS;
    uv_timer_start(&k->timer, on_restart, lived ? 0 : RESTART_MS, 0);
}

static void on_child_exit(uv_process_t *p, int64_t status, int signum)
{
    struct child *k = p->data;
    struct master *m = k->master;
    k->running = false;
    m->running--;
    stats_stopped(&m->block->slots[k->index]);
    if (!m->view.draining) {
        LOG(LOG_ERROR, "worker.died", F_U64("worker", k->index), F_I64("status", status),
            F_I64("signal", signum));
    }
    uv_close((uv_handle_t *)p, on_child_closed);
}

/* `0,0,2`: for each socket the index of its port. */
static void ports_text(const struct worker_order *o, char *out, size_t size)
{
    size_t n = 0;
    *out = '\0';
    for (size_t i = 0; i < o->n && n < size; i++) {
        n += (size_t)snprintf(out + n, size - n, "%s%zu", i ? "," : "", o->ports[i]);
    }
    CHECK(n < size);
}

static void start_child(struct child *k)
{
    struct master *m = k->master;
    uv_stdio_container_t io[WORKER_FD_SOCKETS + SOCKETS_MAX] = {
        { .flags = UV_IGNORE },
        { .flags = UV_INHERIT_FD, .data.fd = 1 },
        { .flags = UV_INHERIT_FD, .data.fd = 2 },
        [WORKER_FD_STATS] = { .flags = UV_INHERIT_FD, .data.fd = m->stats_fd },
    };
    for (size_t i = 0; i < m->order.n; i++) {
        io[WORKER_FD_SOCKETS + i] =
            (uv_stdio_container_t){ .flags = UV_INHERIT_FD, .data.fd = k->sockets[i] };
    }
    char index[16], workers[16], master[16], ports[SOCKETS_MAX * 3 + 1];
    snprintf(index, sizeof index, "%u", k->index);
    snprintf(workers, sizeof workers, "%u", m->workers);
    snprintf(master, sizeof master, "%d", (int)getpid());
    ports_text(&m->order, ports, sizeof ports);
    const char *args[] = { m->service->name, "--config", m->config_path,
                           "--worker",       index,      "--workers",
                           workers,          "--master", master,
                           "--ports",        ports,      NULL };
    uv_process_options_t o = { .exit_cb = on_child_exit,
                               .file = "/proc/self/exe",
                               .args = (char **)(uintptr_t)args, /* libuv does not say const */
                               .stdio_count = (int)(WORKER_FD_SOCKETS + m->order.n),
                               .stdio = io };
    k->process.data = k;
    k->started = loop_now(m->loop);
    int rc = uv_spawn(loop_uv(m->loop), &k->process, &o);
    if (rc != 0) {
        LOG(LOG_ERROR, "worker.spawn", F_U64("worker", k->index), F_STR("why", uv_strerror(rc)));
        uv_close((uv_handle_t *)&k->process, on_child_closed);
        return;
    }
    k->running = true;
    m->running++;
}

static void signal_children(struct master *m, int signum)
{
    for (unsigned i = 0; i < m->workers; i++) {
        if (m->children[i].running) {
            uv_process_kill(&m->children[i].process, signum);
        }
    }
}

/* --- signals --------------------------------------------------------------------------------- */

static void on_kill_timer(uv_timer_t *t)
{
    struct master *m = t->data;
    LOG(LOG_WARN, "worker.kill", F_U64("running", m->running));
    signal_children(m, SIGKILL);
}

static void on_term(uv_signal_t *sig, int signum)
{
    struct master *m = sig->data;
    (void)signum;
    if (m->view.draining) {
        return;
    }
    m->view.draining = true;
    LOG(LOG_INFO, "daemon.drain", F_STR("service", m->service->name));
    for (unsigned i = 0; i < m->workers; i++) {
        uv_timer_stop(&m->children[i].timer);
        for (size_t k = 0; k < m->order.n; k++) {
            close(m->children[i].sockets[k]);
        }
    }
    signal_children(m, SIGTERM);
    uv_timer_start(&m->kill_timer, on_kill_timer, m->drain_time + KILL_EXTRA_MS, 0);
    if (m->running == 0) {
        loop_stop(m->loop);
    }
}

static bool names(const char *const *words, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(words[i], word) == 0) {
            return true;
        }
    }
    return false;
}

/*
 * What belongs to sockets and processes, or to what a worker has open. Of auth that is the pool of
 * threads (store_reload takes the rest), of limits the networks that clients are counted by.
 */
static bool needs_restart(const struct config_doc *d)
{
    static const char *const sections[] = { "database", "cache",     "spool",
                                            "oauth",    "blocklist", "dns" };
    static const char *const settings[] = { "node.name",           "node.user",
                                            "node.workers",        "node.fleet_key_file",
                                            "node.sandbox",        "node.health_networks",
                                            "auth.threads",        "auth.queue",
                                            "auth.wait",           "auth.scheme",
                                            "limits.ipv4_network", "limits.ipv6_address",
                                            "limits.ipv6_network", "filter.milters" };
    char name[128];
    snprintf(name, sizeof name, "%s.%s", d->section, d->key);
    return names(sections, ARRAY_LEN(sections), d->section) ||
           names(settings, ARRAY_LEN(settings), name) || strstr(d->key, "listen") ||
           strcmp(d->key, "health") == 0 || strcmp(d->key, "agent") == 0;
}

/* Against what the daemon was started with: a change stays undone until the next start. */
static void log_undone(const struct config *running, const struct config *c)
{
    const struct config_doc *d;
    for (size_t i = 0; (d = config_doc(i)); i++) {
        char was[4096], is[4096], name[128];
        config_show(running, i, was, sizeof was);
        config_show(c, i, is, sizeof is);
        if (needs_restart(d) && strcmp(was, is) != 0) {
            snprintf(name, sizeof name, "%s.%s", d->section, d->key);
            LOG(LOG_WARN, "config.needs_restart", F_STR("setting", name));
        }
    }
}

/* Read here first, so that all workers take it or none. */
static void on_reload(void *arg, const struct reload_result *r)
{
    struct master *m = arg;
    struct config *c = r->config;
    struct tls *t = r->tls;
    const char *lacks;
    if (r->e != ERR_OK) {
        LOG(LOG_ERROR, "config.bad", F_STR("why", r->why));
        return;
    }
    tls_unref(&t);
    if (m->config->node_sandbox == SANDBOX_ON &&
        !sandbox_covers(m->config, m->config_path, c, &lacks)) {
        /* The workers may not look there: nothing of it can be put in force. */
        LOG(LOG_ERROR, "config.needs_restart", F_STR("setting", lacks),
            F_STR("why", "the sandbox allows no other folders"));
        config_free(&c);
        return;
    }
    log_undone(m->config, c);
    log_set_level((enum log_level)c->node_log_level);
    m->drain_time = c->node_drain_time;
    m->view.capacity = m->workers * c->node_max_sessions;
    config_free(&c);
    signal_children(m, SIGHUP);
}

static void on_hup(uv_signal_t *sig, int signum)
{
    struct master *m = sig->data;
    (void)signum;
    reload_all(m->reload);
}

static void open_signals(struct master *m)
{
    uv_loop_t *uv = loop_uv(m->loop);
    CHECK(uv_signal_init(uv, &m->term) == 0 && uv_signal_init(uv, &m->intr) == 0 &&
          uv_signal_init(uv, &m->hup) == 0 && uv_timer_init(uv, &m->kill_timer) == 0);
    m->term.data = m->intr.data = m->hup.data = m->kill_timer.data = m;
    CHECK(uv_signal_start(&m->term, on_term, SIGTERM) == 0);
    CHECK(uv_signal_start(&m->intr, on_term, SIGINT) == 0);
    CHECK(uv_signal_start(&m->hup, on_hup, SIGHUP) == 0);
}

/* --- the life of the master ------------------------------------------------------------------ */

/* Those who may ask how the daemon is: monitoring, and balancers. */
static bool open_listeners(struct master *m)
{
    const char *health = text_setting(m->config, m->service->health);
    const char *agent = text_setting(m->config, m->service->agent), *bad;
    char why[256];
    CHECK(netset_parse(&m->config->node_health_networks, &m->health_networks, &bad) == ERR_OK);
    if (*health && health_open(m->loop, health, m->health_networks, &m->view, &m->health, why,
                               sizeof why) != ERR_OK) {
        LOG(LOG_ERROR, "health.failed", F_STR("address", health), F_STR("why", why));
        return false;
    }
    if (*agent && agent_open(m->loop, agent, m->health_networks, &m->view, &m->agent, why,
                             sizeof why) != ERR_OK) {
        LOG(LOG_ERROR, "agent.failed", F_STR("address", agent), F_STR("why", why));
        return false;
    }
    return true;
}

static bool master_open(struct master *m)
{
    m->workers = (unsigned)m->config->node_workers;
    m->children = NEW_ARRAY(struct child, m->workers);
    if (!bind_all(m) || !drop_root(m->config) || !make_stats(m)) {
        return false;
    }
    raise_descriptors(m->config);
    m->loop = loop_open();
    m->reload = reload_open(m->loop, m->service, m->config_path, NULL, NULL, on_reload, m);
    open_signals(m);
    m->block->started_ms = loop_now(m->loop);
    m->view = (struct health_view){ .service = m->service->name,
                                    .node = m->config->node_name,
                                    .block = m->block,
                                    .workers = m->workers,
                                    .capacity = m->workers * m->config->node_max_sessions };
    return open_listeners(m);
}

static int master_main(const struct daemon_service *s, struct config *c, const char *config_path)
{
    static struct master m; /* as long as the process */
    m.service = s;
    m.config = c;
    m.drain_time = c->node_drain_time;
    m.config_path = config_path;
    if (!master_open(&m)) {
        return EX_OSERR;
    }
    LOG(LOG_INFO, "daemon.start", F_STR("service", s->name), F_STR("version", MAILFLEET_VERSION),
        F_U64("workers", m.workers), F_U64("sockets", m.order.n));
    for (unsigned i = 0; i < m.workers; i++) {
        struct child *k = &m.children[i];
        k->master = &m;
        k->index = i;
        CHECK(uv_timer_init(loop_uv(m.loop), &k->timer) == 0);
        k->timer.data = k;
        start_child(k);
    }
    log_gather(true);
    loop_run(m.loop);
    log_gather(false);
    LOG(LOG_INFO, "daemon.stop", F_STR("service", s->name));
    return EX_OK;
}

/* --- the command line ------------------------------------------------------------------------ */

enum {
    OPT_CONFIG,
    OPT_CHECK,
    OPT_VERSION,
    OPT_HELP,
    OPT_WORKER,
    OPT_WORKERS,
    OPT_MASTER,
    OPT_PORTS
};

static const struct option options[] = {
    { "config", required_argument, NULL, OPT_CONFIG },
    { "check", no_argument, NULL, OPT_CHECK },
    { "version", no_argument, NULL, OPT_VERSION },
    { "help", no_argument, NULL, OPT_HELP },
    { "worker", required_argument, NULL, OPT_WORKER },
    { "workers", required_argument, NULL, OPT_WORKERS },
    { "master", required_argument, NULL, OPT_MASTER },
    { "ports", required_argument, NULL, OPT_PORTS },
    { 0 },
};

struct command_line {
    struct worker_order order;
    bool worker, check;
};

static bool parse_ports(const struct daemon_service *s, struct span text, struct worker_order *o)
{
    while (text.n > 0) {
        size_t comma = span_find(text, ',');
        uint64_t v;
        if (o->n == SOCKETS_MAX || span_u64(span_first(text, comma), s->n - 1, &v) != ERR_OK) {
            return false;
        }
        o->ports[o->n++] = (size_t)v;
        text = span_skip(text, comma + 1);
    }
    return true;
}

static void print_help(const struct daemon_service *s)
{
    printf("usage: %s [--config FILE] [--check]\n\n"
           "  --config FILE  the configuration (default %s)\n"
           "  --check        look at the configuration and the certificate, then exit\n"
           "  --version      print the version\n\n"
           "SIGHUP reads configuration and certificate again; SIGTERM lets sessions finish.\n",
           s->name, DEFAULT_CONFIG);
}

/* -1: go on; else the exit code. */
static int parse_args(const struct daemon_service *s, int argc, char **argv,
                      struct command_line *out)
{
    int opt;
    uint64_t v = 0;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        bool number = opt == OPT_WORKER || opt == OPT_WORKERS || opt == OPT_MASTER;
        if (number && span_u64(span_str(optarg), INT32_MAX, &v) != ERR_OK) {
            return EX_USAGE;
        }
        switch (opt) {
        case OPT_CONFIG:
            out->order.config_path = optarg;
            break;
        case OPT_CHECK:
            out->check = true;
            break;
        case OPT_VERSION:
            printf("%s %s\n", s->name, MAILFLEET_VERSION);
            return EX_OK;
        case OPT_HELP:
            print_help(s);
            return EX_OK;
        case OPT_WORKER:
            out->worker = true;
            out->order.index = (unsigned)v;
            break;
        case OPT_WORKERS:
            out->order.workers = (unsigned)v;
            break;
        case OPT_MASTER:
            out->order.master = (pid_t)v;
            break;
        case OPT_PORTS:
            if (!parse_ports(s, span_str(optarg), &out->order)) {
                return EX_USAGE;
            }
            break;
        default:
            return EX_USAGE;
        }
    }
    if (optind < argc || (out->worker && out->order.index >= out->order.workers)) {
        fprintf(stderr, "%s: bad usage, see --help\n", s->name);
        return EX_USAGE;
    }
    return -1;
}

int daemon_main(int argc, char **argv, const struct daemon_service *s)
{
    struct command_line cl = { .order.config_path = DEFAULT_CONFIG };
    struct config *c;
    struct tls *t;
    uint8_t stamp[TLS_STAMP_SIZE];
    char why[512];
    int code = parse_args(s, argc, argv, &cl);
    if (code >= 0) {
        return code;
    }
    if (cl.worker) {
        return worker_main(s, &cl.order);
    }
    if (daemon_read(s, cl.order.config_path, &c, &t, stamp, why, sizeof why) != ERR_OK) {
        fprintf(stderr, "%s: %s\n", s->name, why);
        return EX_CONFIG;
    }
    tls_unref(&t); /* each worker loads its own */
    if (cl.check) {
        printf("%s: %s is good\n", s->name, cl.order.config_path);
        config_free(&c);
        return EX_OK;
    }
    log_set_level((enum log_level)c->node_log_level);
    log_set_node(c->node_name);
    return master_main(s, c, cl.order.config_path);
}
