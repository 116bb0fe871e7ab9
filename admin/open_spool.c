/*
 * open_spool: see the header. A volume that is not well is tried all the same: it may become so.
 */
#include "open_spool.h"

#include <stdlib.h>

#include "base/check.h"
#include "store/index.h"

#define TICK_MS    100
#define MOST_TICKS 50
#define EVERY_MS   5000 /* as the daemons (store.c): what volume drain waits for holds here, too */

static void on_tick(uv_timer_t *t)
{
    (*(unsigned *)t->data)++;
}

/* How many are well. */
static size_t wait_volumes(struct admin *a, const struct spool *s, const struct volume *v, size_t n)
{
    unsigned ticks = 0;
    size_t ready = 0;
    uv_timer_t t = { .data = &ticks };
    CHECK(uv_timer_init(loop_uv(a->loop), &t) == 0);
    uv_timer_start(&t, on_tick, TICK_MS, TICK_MS);
    for (size_t i = 0; i < n; i++) {
        while (!spool_volume_ready(s, v[i].volume_id) && ticks < MOST_TICKS) {
            uv_run(loop_uv(a->loop), UV_RUN_ONCE);
        }
        if (spool_volume_ready(s, v[i].volume_id)) {
            ready++;
        } else {
            admin_say("volume %u is not well: see mailfleet check", v[i].volume_id);
        }
    }
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(loop_uv(a->loop), UV_RUN_NOWAIT);
    return ready;
}

/* --- what the database says ------------------------------------------------------------------ */

static void ask(uv_timer_t *t);

static void take_volumes(struct open_spool *s, const struct volume *v, size_t n)
{
    free(s->volumes);
    s->volumes = NEW_ARRAY(struct volume, n);
    memcpy(s->volumes, v, n * sizeof *v);
    s->n = n;
    spool_set_volumes(s->spool, v, n);
}

/* What was known holds when the database can't be asked. */
static void on_volumes(void *arg, enum err e, const struct volume *v, size_t n)
{
    struct open_spool *s = arg;
    s->asked = NULL;
    if (e == ERR_OK && n > 0) {
        take_volumes(s, v, n);
    }
    uv_timer_start(&s->timer, ask, EVERY_MS, 0);
}

static void ask(uv_timer_t *t)
{
    struct open_spool *s = t->data;
    s->asked = index_volumes(s->index, on_volumes, s);
}

static void begin_asking(struct admin *a, struct open_spool *s)
{
    s->index =
        index_open(a->loop, &(struct index_options){ .url = a->config->database_url,
                                                     .read_connections = 1,
                                                     .write_connections = 1,
                                                     .timeout_ms = a->config->database_timeout });
    CHECK(uv_timer_init(loop_uv(a->loop), &s->timer) == 0);
    s->timer.data = s;
    uv_timer_start(&s->timer, ask, EVERY_MS, 0);
}

bool open_spool_takes_files(const struct open_spool *s, uint16_t volume)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->volumes[i].volume_id == volume) {
            return s->volumes[i].state == VOLUME_ACTIVE && s->volumes[i].weight > 0;
        }
    }
    return false;
}

/* --- opening --------------------------------------------------------------------------------- */

int open_spool(struct admin *a, struct open_spool **out)
{
    struct volume *v = NULL;
    size_t n = 0;
    struct spool_options o;
    char why[256];
    if (spool_options_read(a->config, &o, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    int code = admin_volumes(a, &v, &n);
    if (code != EX_OK) {
        return code;
    }
    struct open_spool *s = NEW(struct open_spool);
    s->spool = spool_open(a->loop, &o);
    take_volumes(s, v, n);
    begin_asking(a, s);
    if (wait_volumes(a, s->spool, v, n) == 0) {
        code = admin_fail(EX_TEMPFAIL, "no volume can be used");
        close_spool(a, &s);
    } else {
        *out = s;
    }
    free(v);
    return code;
}

static void on_closed(uv_handle_t *h)
{
    struct open_spool *s = h->data;
    s->closed = true;
}

void close_spool(struct admin *a, struct open_spool **ps)
{
    struct open_spool *s = *ps;
    *ps = NULL;
    op_cancel(&s->asked);
    index_close(&s->index);
    spool_close(&s->spool);
    uv_close((uv_handle_t *)&s->timer, on_closed);
    while (!s->closed) {
        uv_run(loop_uv(a->loop), UV_RUN_NOWAIT);
    }
    free(s->volumes);
    free(s);
}
