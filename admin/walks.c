/*
 * walks: see the header.
 */
#include "walks.h"

#include <stdlib.h>

#include "base/check.h"

#define NO_FANOUT 2u /* of paths on a volume that the database does not have */

static size_t place_of(const struct walks *w, uint16_t volume)
{
    size_t i = 0;
    while (i < w->n && w->volumes[i].volume_id != volume) {
        i++;
    }
    return i;
}

int walks_init(struct walks *w, struct admin *a)
{
    char why[256];
    *w = (struct walks){ 0 };
    if (spool_options_read(a->config, &w->options, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CONFIG, "%s", why);
    }
    int code = admin_volumes(a, &w->volumes, &w->n);
    if (code == EX_OK) {
        w->open = NEW_ARRAY(struct volume_walk *, w->n + 1);
        w->away = NEW_ARRAY(bool, w->n + 1);
    }
    return code;
}

void walks_fini(struct walks *w)
{
    for (size_t i = 0; w->open && i < w->n; i++) {
        volume_walk_close(&w->open[i]);
    }
    free(w->volumes);
    free(w->open);
    free(w->away);
    *w = (struct walks){ 0 };
}

bool walks_has(const struct walks *w, uint16_t volume)
{
    return place_of(w, volume) < w->n;
}

void walks_path(const struct walks *w, uint16_t volume, const struct blob_id *id,
                char path[SPOOL_PATH_MAX])
{
    size_t i = place_of(w, volume);
    spool_path(id, i < w->n ? w->volumes[i].fanout : NO_FANOUT, path);
}

enum err walks_get(struct walks *w, uint16_t volume, struct volume_walk **out)
{
    size_t i = place_of(w, volume);
    char why[256];
    if (i == w->n) {
        return ERR_NOTFOUND;
    }
    if (!w->open[i] && !w->away[i] &&
        volume_walk_open(&w->volumes[i], &w->options, &w->open[i], why, sizeof why) != ERR_OK) {
        w->away[i] = true;
        admin_say("volume %u can't be looked at: %s", volume, why);
    }
    if (!w->open[i]) {
        return ERR_TEMP;
    }
    *out = w->open[i];
    return ERR_OK;
}
