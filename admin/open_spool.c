/*
 * open_spool: see the header. A volume that is not well is tried all the same: it may become so.
 */
#include "open_spool.h"

#include <stdlib.h>

#include "base/check.h"

#define TICK_MS    100
#define MOST_TICKS 50

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

int open_spool(struct admin *a, struct spool **out)
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
    struct spool *s = spool_open(a->loop, &o);
    spool_set_volumes(s, v, n);
    if (wait_volumes(a, s, v, n) == 0) {
        code = admin_fail(EX_TEMPFAIL, "no volume can be used");
        spool_close(&s);
    } else {
        *out = s;
    }
    free(v);
    return code;
}
