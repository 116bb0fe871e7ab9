/*
 * volume_learn: looks into each day's directory, at a few of its entries: hash directories have as
 * many digits as the fanout says, and without any the files lie there themselves. Days that
 * contradict each other are two volumes in one, which no fanout fits.
 */
#include "volume_learn.h"

#include <stdlib.h>

#include "base/check.h"
#include "store/volume_walk.h"

#define NOT_KNOWN    (-1)
#define CONTRARY     (-2)
#define LOOK_AT_MOST 2000 /* entries of a day; without hash directories it may have millions */

bool volume_is_day(const char *name)
{
    return strlen(name) == 8 && strspn(name, "0123456789") == 8;
}

struct look {
    char (*days)[WALK_NAME_MAX + 1];
    size_t n_days;
    int fanout;
    unsigned looked;
};

static bool on_root_entry(void *arg, const struct walk_entry *e)
{
    struct look *l = arg;
    if (e->directory && volume_is_day(e->name)) {
        l->days = mem_grow(l->days, l->n_days + 1, sizeof *l->days);
        memcpy(l->days[l->n_days++], e->name, sizeof e->name);
    }
    return true;
}

/* What an entry of a day says of the fanout. */
static int fanout_of(const struct walk_entry *e)
{
    struct blob_id id;
    size_t n = strlen(e->name);
    if (e->regular && blob_id_parse(span_str(e->name), &id) == ERR_OK) {
        return 0;
    }
    if (e->directory && n <= SPOOL_FANOUT_MAX && strspn(e->name, "0123456789abcdef") == n) {
        return (int)n;
    }
    return NOT_KNOWN;
}

static bool on_day_entry(void *arg, const struct walk_entry *e)
{
    struct look *l = arg;
    int fanout = fanout_of(e);
    if (fanout != NOT_KNOWN) {
        l->fanout = l->fanout == NOT_KNOWN || l->fanout == fanout ? fanout : CONTRARY;
    }
    return l->fanout != CONTRARY && ++l->looked < LOOK_AT_MOST;
}

static enum err look_at(struct volume_walk *w, struct look *l)
{
    enum err e = volume_walk_list(w, "", on_root_entry, l);
    for (size_t i = 0; i < l->n_days && e == ERR_OK && l->fanout != CONTRARY; i++) {
        l->looked = 0;
        e = volume_walk_list(w, l->days[i], on_day_entry, l);
    }
    return e;
}

static int find_fanout(const struct volume *v, const struct spool_options *o, int *fanout)
{
    struct look l = { .fanout = NOT_KNOWN };
    struct volume_walk *w;
    char why[256];
    if (volume_walk_open(v, o, &w, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CANTCREAT, "%s: %s", v->url, why);
    }
    enum err e = look_at(w, &l);
    volume_walk_close(&w);
    free(l.days);
    if (e != ERR_OK) {
        return admin_fail(EX_IOERR, "%s: its directories can't be read", v->url);
    }
    *fanout = l.fanout;
    return EX_OK;
}

int volume_learn_existing(struct volume *v, const struct spool_options *o, int fanout)
{
    char why[256];
    int found = NOT_KNOWN;
    if (volume_learn(v, o, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_CANTCREAT, "%s: %s", v->url, why);
    }
    int code = find_fanout(v, o, &found);
    if (code != EX_OK) {
        return code;
    }
    if (found == CONTRARY) {
        return admin_fail(EX_DATAERR, "%s: its directories are not of one fanout", v->url);
    }
    if (found == NOT_KNOWN && fanout < 0) {
        return admin_fail(EX_DATAERR, "%s: no directory shows its fanout: --fanout", v->url);
    }
    if (found != NOT_KNOWN && fanout >= 0 && found != fanout) {
        return admin_fail(EX_DATAERR, "%s: its fanout is %d, not %d", v->url, found, fanout);
    }
    v->fanout = (unsigned)(found != NOT_KNOWN ? found : fanout);
    return EX_OK;
}
