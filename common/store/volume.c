/*
 * volume: keeps the set of volumes as the database lists it, looks at each of them all 10 s (each
 * second while something is wrong with it), and tells their health. The operator's functions are
 * here too.
 *
 * A mount is one listed volume and lives as long as it is listed unchanged; its back-end may
 * outlive it, held by files that are open. All waiting is the back-end's: nothing here touches a
 * volume itself.
 */
#include "store/volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/log.h"
#include "store/posix_volume.h"

#define TICK_MS    1000
#define TICKS_WELL 10
/* The health block has few places, and other parts need some: further volumes are only logged. */
#define MOUNTS_IN_HEALTH (HEALTH_MAX - 8)

struct mount {
    struct volumes *set;
    struct volume volume;
    struct backend *backend; /* NULL: its URL or fanout makes no sense */
    struct op *probe;
    struct backend_report report; /* of the last look */
    bool doubted;                 /* a write has failed since */
    bool in_health;
};

struct volumes {
    struct loop *loop;
    struct spool_options options;
    uv_timer_t timer;
    unsigned ticks;
    struct mount *mounts[VOLUMES_MAX];
    size_t n;
    struct list backends; /* those of volumes that were removed, too */
    bool writes;          /* new files are made here: a front-end or the reaper makes none */
};

static const struct backend_ops *const kinds[] = { &spool_posix, &spool_nfs };

const struct backend_ops *volume_kind(const struct volume *v, const struct spool_options *o,
                                      char *why, size_t why_size)
{
    if (v->fanout > SPOOL_FANOUT_MAX) {
        snprintf(why, why_size, "its fanout is not 0 to %d", SPOOL_FANOUT_MAX);
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!span_starts(span_str(v->url), span_str(kinds[i]->scheme))) {
            continue;
        }
        if (kinds[i] == &spool_posix && o->roots &&
            !spool_in_roots(o->roots, v->url + sizeof POSIX_SCHEME - 2)) {
            snprintf(why, why_size, "its directory does not lie in spool.roots");
            return NULL;
        }
        return kinds[i];
    }
    snprintf(why, why_size,
             "its URL is not of a known kind, as file:///path and nfs://host/path are");
    return NULL;
}

/* --- health ---------------------------------------------------------------------------------- */

static bool is_well(const struct mount *m)
{
    return m->report.err == ERR_OK;
}

static bool is_full(const struct mount *m)
{
    return m->report.free < m->volume.free_floor;
}

/*
 * A volume that is down or full takes no node out of the balancer: polls need none, the others go
 * on, and every node sees the same.
 */
static void tell_health(const struct mount *m)
{
    if (!m->in_health) {
        return;
    }
    char name[HEALTH_NAME];
    snprintf(name, sizeof name, "volume %u", m->volume.volume_id);
    if (!is_well(m)) {
        health_set(name, false, m->report.why);
    } else {
        health_set(name, false, is_full(m) ? "less space is free than its floor" : NULL);
    }
}

/* A node is not ready when there is nowhere to put mail. */
static void tell_set(const struct volumes *vs)
{
    bool well = false;
    for (size_t i = 0; i < vs->n && !well; i++) {
        well = is_well(vs->mounts[i]) && vs->mounts[i]->volume.state == VOLUME_ACTIVE;
    }
    health_set("volumes", true,
               well        ? NULL
               : vs->n > 0 ? "no active volume is well"
                           : "no volume is defined");
}

static void log_change(const struct mount *m, bool was_well)
{
    if (is_well(m) && !was_well) {
        LOG(LOG_INFO, "volume.well", F_U64("volume", m->volume.volume_id),
            F_U64("free", m->report.free));
    } else if (!is_well(m) && was_well) {
        LOG(LOG_ERROR, "volume.unwell", F_U64("volume", m->volume.volume_id),
            F_STR("why", m->report.why));
    }
}

static void on_probe(void *arg, const struct backend_report *r)
{
    struct mount *m = arg;
    bool was_well = is_well(m);
    m->probe = NULL;
    if (r->err == ERR_LIMIT) {
        return; /* no news of it */
    }
    m->report = *r;
    m->doubted = false;
    log_change(m, was_well);
    tell_health(m);
    tell_set(m->set);
}

static void mount_probe(struct mount *m)
{
    if (m->backend && !m->probe) {
        bool prepare = m->set->writes && m->volume.state == VOLUME_ACTIVE;
        m->probe = m->backend->ops->probe(m->backend, prepare, on_probe, m);
    }
}

/* What is well is looked at less often; something that is not is noticed soon to be well again. */
static bool is_due(const struct mount *m, unsigned ticks)
{
    return ticks % TICKS_WELL == 0 || !is_well(m) || m->doubted ||
           m->backend->ops->stuck(m->backend);
}

static void on_timer(uv_timer_t *t)
{
    struct volumes *vs = t->data;
    vs->ticks++;
    for (size_t i = 0; i < vs->n; i++) {
        if (is_due(vs->mounts[i], vs->ticks)) {
            mount_probe(vs->mounts[i]);
        }
    }
}

/* --- the set --------------------------------------------------------------------------------- */

static struct mount *mount_new(struct volumes *vs, const struct volume *v, bool in_health)
{
    struct mount *m = NEW(struct mount);
    m->set = vs;
    m->volume = *v;
    m->in_health = in_health;
    m->report = (struct backend_report){ .err = ERR_TEMP, .why = "not yet looked at" };
    const struct backend_ops *ops =
        volume_kind(v, &vs->options, m->report.why, sizeof m->report.why);
    if (ops) {
        m->backend = ops->open(vs->loop, v, &vs->options);
        list_add(&vs->backends, &m->backend->link);
    } else {
        LOG(LOG_ERROR, "volume.unknown", F_U64("volume", v->volume_id),
            F_STR("why", m->report.why));
    }
    tell_health(m);
    mount_probe(m);
    return m;
}

static void mount_free(struct mount **pm)
{
    struct mount *m = *pm;
    *pm = NULL;
    op_cancel(&m->probe);
    backend_unref(&m->backend);
    if (m->in_health) {
        char name[HEALTH_NAME];
        snprintf(name, sizeof name, "volume %u", m->volume.volume_id);
        health_drop(name);
    }
    free(m);
}

static struct mount *find(const struct volumes *vs, uint16_t volume_id)
{
    for (size_t i = 0; i < vs->n; i++) {
        if (vs->mounts[i]->volume.volume_id == volume_id) {
            return vs->mounts[i];
        }
    }
    return NULL;
}

/* State, weight and floor may change under a volume; what its files depend on may not. */
static bool is_same(const struct volume *a, const struct volume *b)
{
    return a->volume_id == b->volume_id && a->fanout == b->fanout && !strcmp(a->uuid, b->uuid) &&
           !strcmp(a->url, b->url);
}

/* Frees the mounts that are not listed any more, or not as they were. */
static void forget_others(struct volumes *vs, const struct volume *v, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < vs->n; i++) {
        struct mount *m = vs->mounts[i];
        bool listed = false;
        for (size_t j = 0; j < n && !listed; j++) {
            listed = is_same(&m->volume, &v[j]);
        }
        if (listed) {
            vs->mounts[kept++] = m;
        } else {
            LOG(LOG_INFO, "volume.removed", F_U64("volume", m->volume.volume_id));
            mount_free(&m);
        }
    }
    vs->n = kept;
}

void volumes_set(struct volumes *vs, const struct volume *v, size_t n)
{
    if (n > VOLUMES_MAX) {
        LOG(LOG_ERROR, "volumes.too_many", F_U64("listed", n), F_U64("used", VOLUMES_MAX));
        n = VOLUMES_MAX;
    }
    forget_others(vs, v, n);
    for (size_t i = 0; i < n; i++) {
        struct mount *m = find(vs, v[i].volume_id);
        if (m) {
            m->volume = v[i];
            tell_health(m);
        } else {
            vs->mounts[vs->n] = mount_new(vs, &v[i], vs->n < MOUNTS_IN_HEALTH);
            vs->n++;
        }
    }
    tell_set(vs);
}

struct volumes *volumes_open(struct loop *l, const struct spool_options *o)
{
    struct volumes *vs = NEW(struct volumes);
    vs->loop = l;
    vs->options = *o;
    list_init(&vs->backends);
    health_set("volumes", true, "not yet known");
    CHECK(uv_timer_init(loop_uv(l), &vs->timer) == 0);
    vs->timer.data = vs;
    uv_timer_start(&vs->timer, on_timer, TICK_MS, TICK_MS);
    return vs;
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h->data);
}

void volumes_close(struct volumes **pvs)
{
    struct volumes *vs = *pvs;
    *pvs = NULL;
    for (size_t i = 0; i < vs->n; i++) {
        op_cancel(&vs->mounts[i]->probe); /* what it finds now is no news */
    }
    for (struct list *link; (link = list_pop(&vs->backends));) {
        struct backend *b = backend_ref(CONTAINER_OF(link, struct backend, link));
        b->ops->stop(b);
        backend_unref(&b);
    }
    for (size_t i = 0; i < vs->n; i++) {
        mount_free(&vs->mounts[i]);
    }
    uv_close((uv_handle_t *)&vs->timer, on_timer_closed);
}

/* --- choosing -------------------------------------------------------------------------------- */

struct backend *volumes_find(struct volumes *vs, uint16_t volume_id)
{
    struct mount *m = find(vs, volume_id);
    return m && m->backend ? backend_ref(m->backend) : NULL;
}

bool volumes_listed(const struct volumes *vs, uint16_t volume_id)
{
    return find(vs, volume_id);
}

bool volumes_ready(const struct volumes *vs, uint16_t volume_id)
{
    const struct mount *m = find(vs, volume_id);
    return m && is_well(m);
}

bool volumes_used(const struct volumes *vs, uint16_t volume_id, uint64_t *used)
{
    const struct mount *m = find(vs, volume_id);
    if (!m || !is_well(m)) {
        return false;
    }
    *used = m->report.used;
    return true;
}

/* The share of new files that this volume takes now. */
static uint64_t share_of(const struct mount *m, const uint16_t *tried, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (tried[i] == m->volume.volume_id) {
            return 0;
        }
    }
    bool can = m->volume.state == VOLUME_ACTIVE && is_well(m) && !m->doubted && !is_full(m) &&
               !m->backend->ops->stuck(m->backend);
    return can ? m->volume.weight : 0;
}

/* The first new file: from now on directories are made ahead. */
static void begin_writing(struct volumes *vs)
{
    bool first = !vs->writes;
    vs->writes = true;
    for (size_t i = 0; i < vs->n && first; i++) {
        mount_probe(vs->mounts[i]);
    }
}

struct backend *volumes_choose(struct volumes *vs, const uint16_t *tried, size_t n)
{
    uint64_t shares[VOLUMES_MAX], sum = 0, pick;
    begin_writing(vs);
    for (size_t i = 0; i < vs->n; i++) {
        shares[i] = share_of(vs->mounts[i], tried, n);
        sum += shares[i];
    }
    if (!sum) {
        return NULL;
    }
    size_t i = 0;
    while (!shares[i]) {
        i++;
    }
    if (shares[i] == sum) {
        return backend_ref(vs->mounts[i]->backend); /* no choice to make */
    }
    CHECK(getrandom(&pick, sizeof pick, 0) == sizeof pick);
    pick %= sum; /* the bias is below 2^-20 */
    while (pick >= shares[i]) {
        pick -= shares[i++];
    }
    return backend_ref(vs->mounts[i]->backend);
}

void volumes_doubt(struct volumes *vs, uint16_t volume_id)
{
    struct mount *m = find(vs, volume_id);
    if (m) {
        m->doubted = true;
        mount_probe(m);
    }
}

/* --- for the operator's command -------------------------------------------------------------- */

enum err volume_create(const struct volume *v, const struct spool_options *o, char *why,
                       size_t why_size)
{
    const struct backend_ops *ops = volume_kind(v, o, why, why_size);
    return ops ? ops->create(v, o, why, why_size) : ERR_INVALID;
}

enum err volume_check(const struct volume *v, const struct spool_options *o, char *why,
                      size_t why_size)
{
    const struct backend_ops *ops = volume_kind(v, o, why, why_size);
    return ops ? ops->check(v, o, why, why_size) : ERR_INVALID;
}

enum err volume_learn(struct volume *v, const struct spool_options *o, char *why, size_t why_size)
{
    const struct backend_ops *ops = volume_kind(v, o, why, why_size);
    return ops ? ops->learn(v, o, why, why_size) : ERR_INVALID;
}
