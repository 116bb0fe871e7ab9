/*
 * rebuild_scan: units of work are the hash directories of a day (of a volume without any, the day);
 * a thread takes the next one when it has ended its last. A thread owns its walks and what it
 * found; the rest is shared under one lock, which also keeps the pace.
 */
#include "rebuild_scan.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/check.h"
#include "progress.h"
#include "store/volume_walk.h"
#include "volume_learn.h"

#define HEAD_FIRST  (8 << 10) /* octets that hold nearly every envelope */
#define HEAD_MOST   (8 << 20) /* and any: 10,000 recipients */
#define PIECE       (1 << 20)
#define PATH_OCTETS (SPOOL_PATH_MAX + WALK_NAME_MAX + 2)

struct unit {
    uint16_t volume; /* index */
    char dir[SPOOL_PATH_MAX];
};

struct reader {
    struct scan *scan;
    pthread_t thread;
    struct volume_walk **walks; /* of each volume, opened when it is needed */
    struct arena arena;
    struct scanned *v;
    size_t n, room;
    char *mem; /* a file's head, or a piece of it */
    size_t mem_size;
    const struct unit *unit; /* being read */
};

struct scan {
    struct spool_options spool;
    struct scan_options options;
    const struct volume *volumes;
    size_t n_volumes;
    struct reader *readers;
    struct scanned *all; /* of the day */

    pthread_mutex_t mutex; /* guards everything below */
    struct unit *units;
    size_t n_units, next;
    struct progress progress;
    struct scan_totals totals;
    bool failed;
    char why[512];
};

static void lock(struct scan *s)
{
    CHECK(pthread_mutex_lock(&s->mutex) == 0);
}

static void unlock(struct scan *s)
{
    CHECK(pthread_mutex_unlock(&s->mutex) == 0);
}

/* The first failure is the one that is told. */
static void fail(struct reader *r, const char *path, const char *what)
{
    struct scan *s = r->scan;
    lock(s);
    if (!s->failed) {
        s->failed = true;
        snprintf(s->why, sizeof s->why, "%.300s: %.80s: %.100s", s->volumes[r->unit->volume].url,
                 path, what);
    }
    unlock(s);
}

/* --- one file -------------------------------------------------------------------------------- */

enum verdict { WHOLE, UNFINISHED, BROKEN, FOREIGN, GONE, UNREADABLE };

static void grow(struct reader *r, size_t n)
{
    if (r->mem_size < n) {
        r->mem = mem_grow(r->mem, n, 1);
        r->mem_size = n;
    }
}

/* Of reading it. UNREADABLE: nothing else of the volume may be readable either. */
static enum verdict of_error(enum err e)
{
    return e == ERR_NOTFOUND ? GONE : e == ERR_CORRUPT ? BROKEN : UNREADABLE;
}

/* Whether the octets behind the block have the hash that it says. */
static enum verdict check_hash(struct reader *r, struct volume_walk *w, const char *path,
                               const struct envelope *e, size_t skip)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "", want[sizeof e->sha256];
    uint64_t at = skip;
    unsigned n = 0;
    size_t got;
    enum err err;
    memcpy(want, e->sha256, sizeof want); /* the memory that e points into is used anew */
    grow(r, PIECE);
    EVP_MD_CTX *sha256 = EVP_MD_CTX_new();
    CHECK(sha256 && EVP_DigestInit_ex(sha256, EVP_sha256(), NULL) == 1);
    do {
        got = 0;
        err = volume_walk_read(w, path, at, r->mem, PIECE, &got);
        CHECK(EVP_DigestUpdate(sha256, r->mem, got) == 1);
        at += got;
    } while (err == ERR_OK && got == PIECE);
    CHECK(EVP_DigestFinal_ex(sha256, digest, &n) == 1);
    EVP_MD_CTX_free(sha256);
    for (unsigned i = 0; i < n; i++) {
        snprintf(hex + (size_t)i * 2, 3, "%02x", digest[i]);
    }
    if (err != ERR_OK) {
        return of_error(err);
    }
    return strcmp(hex, want) == 0 ? WHOLE : BROKEN;
}

/* Reads as much as the block needs. to is the caller's to free when it is WHOLE. */
static enum verdict read_envelope(struct reader *r, struct volume_walk *w, const char *path,
                                  struct envelope *e, struct envelope_recipient **to, size_t *skip)
{
    size_t got;
    for (size_t want = HEAD_FIRST;; want *= 8) {
        grow(r, want);
        enum err err = volume_walk_read(w, path, 0, r->mem, want, &got);
        if (err != ERR_OK) {
            return of_error(err);
        }
        if (envelope_parse(span_of(r->mem, got), e, to, skip) == ERR_OK) {
            return WHOLE;
        }
        if (got < want || want >= HEAD_MOST) {
            return BROKEN;
        }
    }
}

static int by_mailbox(const void *a, const void *b)
{
    uint64_t x = ((const struct scanned_to *)a)->mailbox_id;
    uint64_t y = ((const struct scanned_to *)b)->mailbox_id;
    return (x > y) - (x < y);
}

static const struct scanned_to *keep_recipients(struct reader *r, const struct envelope *e,
                                                uint32_t *n)
{
    struct scanned_to *to = arena_alloc(&r->arena, (e->n + 1) * sizeof *to);
    uint32_t kept = 0;
    CHECK(to);
    for (size_t i = 0; i < e->n; i++) {
        to[i].mailbox_id = e->to[i].mailbox_id;
        to[i].address = arena_dup(&r->arena, e->to[i].address);
    }
    qsort(to, e->n, sizeof *to, by_mailbox);
    for (size_t i = 0; i < e->n; i++) {
        bool again = kept > 0 && to[kept - 1].mailbox_id == to[i].mailbox_id;
        if (!again && to[i].mailbox_id > 0 && to[i].mailbox_id <= INT64_MAX) {
            to[kept++] = to[i];
        }
    }
    *n = kept;
    return to;
}

static void keep(struct reader *r, const struct envelope *e, size_t skip, uint16_t volume)
{
    if (r->n == r->room) {
        r->room = r->room ? r->room * 2 : 1024;
        r->v = mem_grow(r->v, r->room, sizeof *r->v);
    }
    struct scanned *m = &r->v[r->n++];
    *m = (struct scanned){ .id = e->id,
                           .size = (uint32_t)e->size,
                           .skip = (uint32_t)skip,
                           .volume = volume,
                           .uidl = arena_dup(&r->arena, e->uidl) };
    m->to = keep_recipients(r, e, &m->n);
}

/* A file of this name belongs into this directory. */
static bool belongs(const struct reader *r, const char *path, const char *name, struct blob_id *id)
{
    char right[SPOOL_PATH_MAX];
    if (blob_id_parse(span_str(name), id) != ERR_OK) {
        return false;
    }
    spool_path(id, r->scan->volumes[r->unit->volume].fanout, right);
    return strcmp(right, path) == 0;
}

static enum verdict read_file(struct reader *r, const char *path, const struct walk_entry *entry)
{
    struct volume_walk *w = r->walks[r->unit->volume];
    uint16_t volume = r->scan->volumes[r->unit->volume].volume_id;
    struct envelope e;
    struct envelope_recipient *to = NULL;
    struct blob_id id;
    size_t skip;
    if (!entry->regular || !belongs(r, path, entry->name, &id)) {
        return FOREIGN;
    }
    enum verdict v = read_envelope(r, w, path, &e, &to, &skip);
    if (v != WHOLE) {
        return v;
    }
    if (!e.complete) {
        v = UNFINISHED;
    } else if (!blob_id_eq(&id, &e.id) || e.size > INT32_MAX || entry->size != skip + e.size) {
        v = BROKEN;
    } else {
        size_t before = r->n;
        keep(r, &e, skip, volume);
        v = r->scan->options.deep ? check_hash(r, w, path, &e, skip) : WHOLE;
        r->n = v == WHOLE ? r->n : before;
    }
    free(to);
    return v;
}

static bool count(struct scan *s, enum verdict v)
{
    lock(s);
    s->totals.files++;
    s->totals.whole += v == WHOLE;
    s->totals.unfinished += v == UNFINISHED;
    s->totals.damaged += v == BROKEN;
    s->totals.foreign += v == FOREIGN;
    progress_step(&s->progress, 1); /* sleeps for all, when the pace asks for it */
    bool go_on = !s->failed;
    unlock(s);
    return go_on;
}

/* --- a thread -------------------------------------------------------------------------------- */

static bool on_file(void *arg, const struct walk_entry *entry)
{
    struct reader *r = arg;
    char path[PATH_OCTETS];
    snprintf(path, sizeof path, "%s/%s", r->unit->dir, entry->name);
    enum verdict v = read_file(r, path, entry);
    if (v == UNREADABLE) {
        fail(r, path, "can't be read");
        return false;
    }
    return count(r->scan, v);
}

static bool open_walk(struct reader *r)
{
    struct scan *s = r->scan;
    size_t i = r->unit->volume;
    char why[256];
    if (!r->walks[i] &&
        volume_walk_open(&s->volumes[i], &s->spool, &r->walks[i], why, sizeof why) != ERR_OK) {
        fail(r, "", why);
        return false;
    }
    return true;
}

static const struct unit *next_unit(struct scan *s)
{
    lock(s);
    const struct unit *u = s->failed || s->next == s->n_units ? NULL : &s->units[s->next++];
    unlock(s);
    return u;
}

static void *read_units(void *arg)
{
    struct reader *r = arg;
    while ((r->unit = next_unit(r->scan)) && open_walk(r)) {
        enum err e = volume_walk_list(r->walks[r->unit->volume], r->unit->dir, on_file, r);
        if (e != ERR_OK && e != ERR_NOTFOUND) {
            fail(r, r->unit->dir, "can't be listed");
        }
    }
    return NULL;
}

/* --- the scan -------------------------------------------------------------------------------- */

struct scan *scan_open(const struct spool_options *spool, const struct scan_options *o,
                       const struct volume *volumes, size_t n)
{
    struct scan *s = NEW(struct scan);
    s->spool = *spool;
    s->options = *o;
    s->volumes = volumes;
    s->n_volumes = n;
    s->readers = NEW_ARRAY(struct reader, o->jobs);
    CHECK(pthread_mutex_init(&s->mutex, NULL) == 0);
    for (unsigned i = 0; i < o->jobs; i++) {
        s->readers[i].scan = s;
        s->readers[i].walks = NEW_ARRAY(struct volume_walk *, n);
        arena_init(&s->readers[i].arena, SIZE_MAX);
    }
    progress_begin(&s->progress, "files", 0, o->rate);
    return s;
}

void scan_close(struct scan **ps)
{
    struct scan *s = *ps;
    *ps = NULL;
    progress_end(&s->progress);
    for (unsigned i = 0; i < s->options.jobs; i++) {
        struct reader *r = &s->readers[i];
        for (size_t v = 0; v < s->n_volumes; v++) {
            if (r->walks[v]) {
                volume_walk_close(&r->walks[v]);
            }
        }
        free(r->walks);
        arena_fini(&r->arena);
        free(r->v);
        free(r->mem);
    }
    pthread_mutex_destroy(&s->mutex);
    free(s->readers);
    free(s->units);
    free(s->all);
    free(s);
}

const struct scan_totals *scan_sum(const struct scan *s)
{
    return &s->totals;
}

struct listing {
    struct scan *scan;
    char (*days)[DAY_TEXT];
    size_t n;
    const char *day;
    uint16_t volume;
};

static bool on_root_entry(void *arg, const struct walk_entry *e)
{
    struct listing *l = arg;
    if (e->directory && volume_is_day(e->name)) {
        l->days = mem_grow(l->days, l->n + 1, sizeof *l->days);
        memcpy(l->days[l->n++], e->name, DAY_TEXT);
    }
    return true;
}

/* The first reader's walks serve who lists before threads run. */
static int list(struct scan *s, uint16_t volume, const char *dir, walk_entry_fn *fn, void *arg)
{
    struct volume_walk **w = &s->readers[0].walks[volume];
    char why[256];
    if (!*w && volume_walk_open(&s->volumes[volume], &s->spool, w, why, sizeof why) != ERR_OK) {
        return admin_fail(EX_TEMPFAIL, "volume %u: %s", s->volumes[volume].volume_id, why);
    }
    enum err e = volume_walk_list(*w, dir, fn, arg);
    return e == ERR_OK || e == ERR_NOTFOUND
               ? EX_OK
               : admin_fail(EX_TEMPFAIL, "volume %u: /%s can't be listed",
                            s->volumes[volume].volume_id, dir);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

int scan_days(struct scan *s, char (**days)[DAY_TEXT], size_t *n)
{
    struct listing l = { .scan = s };
    int code = EX_OK;
    for (size_t i = 0; i < s->n_volumes && code == EX_OK; i++) {
        code = list(s, (uint16_t)i, "", on_root_entry, &l);
    }
    if (code != EX_OK) {
        free(l.days);
        return code;
    }
    size_t kept = 0;
    if (l.n) {
        qsort(l.days, l.n, sizeof *l.days, by_text);
    }
    for (size_t i = 0; i < l.n; i++) {
        if (kept == 0 || strcmp(l.days[kept - 1], l.days[i]) != 0) {
            memmove(l.days[kept++], l.days[i], DAY_TEXT);
        }
    }
    *days = l.days;
    *n = kept;
    return EX_OK;
}

static void add_unit(struct scan *s, uint16_t volume, const char *day, const char *name)
{
    s->units = mem_grow(s->units, s->n_units + 1, sizeof *s->units);
    struct unit *u = &s->units[s->n_units++];
    u->volume = volume;
    snprintf(u->dir, sizeof u->dir, "%s%s%s", day, *name ? "/" : "", name);
}

static bool on_day_entry(void *arg, const struct walk_entry *e)
{
    struct listing *l = arg;
    unsigned fanout = l->scan->volumes[l->volume].fanout;
    if (e->directory && strlen(e->name) == fanout) {
        add_unit(l->scan, l->volume, l->day, e->name);
    }
    return true;
}

static int list_units(struct scan *s, const char *day)
{
    int code = EX_OK;
    s->n_units = s->next = 0;
    for (size_t i = 0; i < s->n_volumes && code == EX_OK; i++) {
        struct listing l = { .scan = s, .day = day, .volume = (uint16_t)i };
        if (s->volumes[i].fanout == 0) {
            add_unit(s, (uint16_t)i, day, "");
        } else {
            code = list(s, (uint16_t)i, day, on_day_entry, &l);
        }
    }
    return code;
}

static int by_id(const void *a, const void *b)
{
    const struct scanned *x = a, *y = b;
    int c = memcmp(x->id.b, y->id.b, sizeof x->id.b);
    return c ? c : (x->volume > y->volume) - (x->volume < y->volume);
}

/* All that the threads found, in order. A file that two volumes have (a drain was interrupted) is
 * taken from the first; fsck tells of the other. */
static size_t merge(struct scan *s)
{
    size_t n = 0, kept = 0;
    for (unsigned i = 0; i < s->options.jobs; i++) {
        n += s->readers[i].n;
    }
    free(s->all);
    s->all = NEW_ARRAY(struct scanned, n + 1);
    n = 0;
    for (unsigned i = 0; i < s->options.jobs; i++) {
        const struct reader *r = &s->readers[i];
        if (r->n) {
            memcpy(s->all + n, r->v, r->n * sizeof *r->v);
            n += r->n;
        }
    }
    qsort(s->all, n, sizeof *s->all, by_id);
    for (size_t i = 0; i < n; i++) {
        if (kept > 0 && blob_id_eq(&s->all[kept - 1].id, &s->all[i].id)) {
            s->totals.twice++;
        } else {
            s->all[kept++] = s->all[i];
        }
    }
    return kept;
}

int scan_day(struct scan *s, const char *day, const struct scanned **v, size_t *n)
{
    int code = list_units(s, day);
    if (code != EX_OK) {
        return code;
    }
    for (unsigned i = 0; i < s->options.jobs; i++) {
        arena_reset(&s->readers[i].arena);
        s->readers[i].n = 0;
        CHECK(pthread_create(&s->readers[i].thread, NULL, read_units, &s->readers[i]) == 0);
    }
    for (unsigned i = 0; i < s->options.jobs; i++) {
        CHECK(pthread_join(s->readers[i].thread, NULL) == 0);
    }
    if (s->failed) {
        return admin_fail(EX_TEMPFAIL, "%s", s->why);
    }
    *n = merge(s);
    *v = s->all;
    return EX_OK;
}
