/*
 * fsck_scan: the ring and its threads. One mutex, one condition; each thread has walks of its own,
 * and the guide alone has the stream.
 */
#include "fsck_scan.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/fault.h"
#include "fsck_compare.h"

#define JOBS_MOST   64
#define TASKS_A_JOB 4
#define DAY_MS      86400000ll
#define NO_FANOUT   2u /* of a volume that the database does not have: any will do */
#define DAY_DIGITS  8
#define DAYS_MOST   (1u << FSCK_DAY_BITS)
#define HASHES_MOST (1u << FSCK_HASH_BITS)

struct fsck_scan {
    struct fsck_scan_options o;
    struct fsck_stream *stream;
    pthread_t guide, *workers;
    unsigned n_workers;

    pthread_mutex_t mutex; /* guards the rest */
    pthread_cond_t changed;
    struct fsck_task *ring;
    size_t n_ring;
    uint64_t filled, taken, given; /* tasks: by the guide, the workers, the owner */
    bool ended;                    /* the guide has */
    _Atomic bool stop;
    char why[512]; /* what it could not go on for */
};

static void lock(struct fsck_scan *s)
{
    CHECK(pthread_mutex_lock(&s->mutex) == 0);
}

static void unlock(struct fsck_scan *s)
{
    CHECK(pthread_mutex_unlock(&s->mutex) == 0);
}

static void wait_change(struct fsck_scan *s)
{
    CHECK(pthread_cond_wait(&s->changed, &s->mutex) == 0);
}

static void tell_change(struct fsck_scan *s)
{
    CHECK(pthread_cond_broadcast(&s->changed) == 0);
}

/* The first reason counts; nothing goes on after it. Returns false. */
static bool scan_fail(struct fsck_scan *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static bool scan_fail(struct fsck_scan *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    lock(s);
    if (!*s->why && !s->stop) {
        vsnprintf(s->why, sizeof s->why, fmt, ap);
    }
    s->stop = true;
    tell_change(s);
    unlock(s);
    va_end(ap);
    return false;
}

/* --- the walk of a thread -------------------------------------------------------------------- */

struct visitor {
    struct fsck_scan *scan;
    struct volume_walk *walk;
    const struct volume *volume; /* that the walk is on */
};

/* The one of the volume before goes. NULL after scan_fail. */
static struct volume_walk *visit(struct visitor *v, const struct volume *volume)
{
    char why[256] = "";
    if (v->volume == volume) {
        return v->walk;
    }
    volume_walk_close(&v->walk);
    v->volume = NULL;
    if (volume_walk_open(volume, v->scan->o.spool, &v->walk, why, sizeof why) != ERR_OK) {
        scan_fail(v->scan, "volume %u: %s", volume->volume_id, why);
        return NULL;
    }
    v->volume = volume;
    return v->walk;
}

/* --- workers --------------------------------------------------------------------------------- */

static bool work(struct visitor *v, struct fsck_compare *c, struct fsck_task *t)
{
    struct volume_walk *w = t->volume && t->compare ? visit(v, t->volume) : NULL;
    if (t->volume && t->compare && !w) {
        return false;
    }
    if (t->compare && fsck_compare(c, w, t) != ERR_OK) {
        return scan_fail(v->scan, "volume %u: %s could not be read", t->volume_id, t->dir);
    }
    return true;
}

static struct fsck_task *take_task(struct fsck_scan *s)
{
    struct fsck_task *t = NULL;
    lock(s);
    while (s->taken == s->filled && !s->ended && !s->stop) {
        wait_change(s);
    }
    if (s->taken < s->filled && !s->stop) {
        t = &s->ring[s->taken++ % s->n_ring];
    }
    unlock(s);
    return t;
}

static void *run_worker(void *arg)
{
    struct fsck_scan *s = arg;
    struct visitor v = { .scan = s };
    struct fsck_compare c;
    fsck_compare_init(&c, s->o.older_ms, s->o.deep, s->o.garbage);
    for (struct fsck_task *t; (t = take_task(s)) && work(&v, &c, t);) {
        lock(s);
        t->done = true;
        tell_change(s);
        unlock(s);
    }
    fsck_compare_fini(&c);
    volume_walk_close(&v.walk);
    return NULL;
}

/* --- the guide: tasks ------------------------------------------------------------------------ */

/*
 * at of a directory is twice the place behind it; of what lies beside the directories of a day (or,
 * as of day 0, of a volume) twice the place of its first, and one. So at / 2 is the place of the
 * first row that is not done.
 */
static uint64_t at_of_dir(uint64_t last_place)
{
    return 2 * (last_place + 1);
}

static uint64_t at_beside(uint64_t first_place)
{
    return 2 * first_place + 1;
}

/* NULL: the scan was stopped. */
static struct fsck_task *begin_task(struct fsck_scan *s, const struct volume *v, uint16_t volume_id,
                                    uint64_t at)
{
    struct fsck_task *t = NULL;
    lock(s);
    while (s->filled - s->given == s->n_ring && !s->stop) {
        wait_change(s);
    }
    if (!s->stop) {
        t = &s->ring[s->filled % s->n_ring];
    }
    unlock(s);
    if (t) {
        struct fsck_task again = { .at = at,
                                   .volume = v,
                                   .volume_id = volume_id,
                                   .rows = t->rows,
                                   .rows_room = t->rows_room,
                                   .suspects = t->suspects,
                                   .suspects_room = t->suspects_room };
        *t = again;
    }
    return t;
}

static void end_task(struct fsck_scan *s)
{
    lock(s);
    s->filled++;
    tell_change(s);
    unlock(s);
}

/* --- the guide: what the disk has ------------------------------------------------------------ */

/* The numbers that names in a directory stand for, and the other names. */
struct names {
    unsigned fanout; /* of hash directories; days: DAYS */
    uint32_t *known;
    size_t n, room;
    struct fsck_suspect *foreign;
    size_t n_foreign, foreign_room;
};

#define DAYS UINT_MAX

static bool parse_day(const char *name, uint32_t *day)
{
    struct tm t = { 0 };
    char path[SPOOL_PATH_MAX];
    const char *end = strlen(name) == DAY_DIGITS ? strptime(name, "%Y%m%d", &t) : NULL;
    if (!end || *end || t.tm_year < 70) {
        return false;
    }
    uint64_t n = (uint64_t)(timegm(&t) / (DAY_MS / 1000));
    struct blob_id id = spool_id_in(n, 0, 0);
    size_t len = n < DAYS_MOST ? spool_path(&id, 0, path) : 0;
    *day = (uint32_t)n;
    return len == DAY_DIGITS && memcmp(path, name, len) == 0; /* it has no second name */
}

/* As the digits of a place's hash, the rest of them 0. */
static bool parse_hash(const char *name, unsigned fanout, uint32_t *hash)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < SPOOL_FANOUT_MAX; i++) {
        const char *digits = "0123456789abcdef";
        const char *at = i < fanout && name[i] ? strchr(digits, name[i]) : NULL;
        if (i < fanout && !at) {
            return false;
        }
        v = v << 4 | (at ? (uint32_t)(at - digits) : 0);
    }
    *hash = v;
    return name[fanout] == '\0';
}

/* What file systems and filers have in a root, and the sentinel. */
static bool is_furniture(const char *name)
{
    static const char *const names[] = { SPOOL_SENTINEL, "lost+found", ".snapshot", "~snapshot",
                                         ".zfs" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool on_name(void *arg, const struct walk_entry *e)
{
    struct names *n = arg;
    uint32_t v;
    bool ours = e->directory &&
                (n->fanout == DAYS ? parse_day(e->name, &v) : parse_hash(e->name, n->fanout, &v));
    if (ours) {
        if (n->n == n->room) {
            n->room = n->room ? 2 * n->room : 256;
            n->known = mem_grow(n->known, n->room, sizeof *n->known);
        }
        n->known[n->n++] = v;
    } else if (n->fanout != DAYS || !is_furniture(e->name)) {
        fsck_suspect_add(&n->foreign, &n->n_foreign, &n->foreign_room,
                         &(struct fsck_suspect){ .cls = FINDING_FOREIGN,
                                                 .name = mem_strdup(e->name),
                                                 .size = e->size,
                                                 .changed_ms = e->changed_ms });
    }
    return true;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void names_clear(struct names *n)
{
    for (size_t i = 0; i < n->n_foreign; i++) {
        free(n->foreign[i].name);
    }
    n->n = n->n_foreign = 0;
}

static void names_fini(struct names *n)
{
    names_clear(n);
    free(n->known);
    free(n->foreign);
}

/* A day that the database alone has is no fault here. */
static bool list_names(struct visitor *v, const struct volume *volume, const char *dir,
                       struct names *n)
{
    struct volume_walk *w = visit(v, volume);
    enum err e = w ? volume_walk_list(w, dir, on_name, n) : ERR_TEMP;
    if (w && e != ERR_OK && e != ERR_NOTFOUND) {
        return scan_fail(v->scan, "volume %u: %s could not be read", volume->volume_id,
                         *dir ? dir : "its root");
    }
    qsort(n->known, n->n, sizeof *n->known, compare_numbers);
    return w != NULL;
}

/* --- the guide: its way ---------------------------------------------------------------------- */

struct guide {
    struct visitor visitor;
    struct fsck_scan *scan;
    const struct volume *volume; /* NULL: the database has no such volume */
    uint16_t volume_id;
    unsigned fanout;
    struct names days, hashes;
};

/* *there: there is a next row, and its place. False after scan_fail. */
static bool peek(struct guide *g, uint64_t *place, bool *there)
{
    enum err e = fsck_stream_next(g->scan->stream, place);
    *there = e == ERR_OK;
    return e != ERR_TEMP || scan_fail(g->scan, "%s", fsck_stream_why(g->scan->stream));
}

static void dir_text(const struct guide *g, uint32_t day, uint32_t hash, char out[SPOOL_PATH_MAX])
{
    struct blob_id id = spool_id_in(day, g->fanout, hash >> (4 * (SPOOL_FANOUT_MAX - g->fanout)));
    size_t n = spool_path(&id, g->fanout, out);
    out[n] = '\0';
}

static bool is_done(const struct guide *g, uint64_t at)
{
    return at <= g->scan->o.resume;
}

/* What lies beside the directories, if there is any. */
static bool tell_foreign(struct guide *g, uint32_t day, struct names *n)
{
    uint64_t at = at_beside(fsck_place(g->volume_id, day, 0));
    if (n->n_foreign == 0 || is_done(g, at)) {
        return true;
    }
    struct fsck_task *t = begin_task(g->scan, g->volume, g->volume_id, at);
    if (!t) {
        return false;
    }
    if (n == &g->hashes) {
        dir_text(g, day, 0, t->dir);
        t->dir[strcspn(t->dir, "/")] = '\0';
    }
    for (size_t i = 0; i < n->n_foreign; i++) {
        fsck_suspect_add(&t->suspects, &t->n_suspects, &t->suspects_room, &n->foreign[i]);
    }
    n->n_foreign = 0; /* their names are the task's now */
    end_task(g->scan);
    return true;
}

static void add_row(struct fsck_task *t, const struct fsck_row *r)
{
    if (t->n_rows == t->rows_room) {
        t->rows_room = t->rows_room ? 2 * t->rows_room : 64;
        t->rows = mem_grow(t->rows, t->rows_room, sizeof *t->rows);
    }
    t->rows[t->n_rows++] = *r;
}

/* A directory, with all rows up to its last place. */
static bool tell_dir(struct guide *g, uint32_t day, uint32_t hash)
{
    uint32_t rest = (HASHES_MOST - 1) >> (4 * g->fanout);
    uint64_t last = fsck_place(g->volume_id, day, hash | rest), place;
    bool there;
    if (is_done(g, at_of_dir(last))) {
        return true;
    }
    struct fsck_task *t = begin_task(g->scan, g->volume, g->volume_id, at_of_dir(last));
    if (!t) {
        return false;
    }
    t->compare = true;
    dir_text(g, day, hash, t->dir);
    while (peek(g, &place, &there) && there && place <= last) {
        struct fsck_row row = fsck_stream_take(g->scan->stream);
        add_row(t, &row);
    }
    end_task(g->scan);
    return !g->scan->stop;
}

/*
 * The lesser of the next number that the disk has and the next that the rows up to last have; *i
 * goes past the disk's. shift: where that number is in a place. False: neither has one.
 */
static bool next_number(struct guide *g, const struct names *n, size_t *i, uint64_t last,
                        unsigned shift, uint32_t mask, uint32_t *out)
{
    uint64_t place;
    bool there;
    if (!peek(g, &place, &there)) {
        return false;
    }
    there = there && place <= last;
    uint32_t row = there ? (uint32_t)(place >> shift) & mask : 0;
    if (!there && *i == n->n) {
        return false;
    }
    *out = !there || (*i < n->n && n->known[*i] < row) ? n->known[*i] : row;
    *i += *i < n->n && n->known[*i] == *out;
    return true;
}

static bool guide_day(struct guide *g, uint32_t day, bool on_disk)
{
    uint64_t last = fsck_place(g->volume_id, day, HASHES_MOST - 1);
    char dir[SPOOL_PATH_MAX];
    uint32_t hash, mask = (HASHES_MOST - 1) & ~((HASHES_MOST - 1) >> (4 * g->fanout));
    size_t i = 0;
    if (g->fanout == 0) {
        return tell_dir(g, day, 0);
    }
    names_clear(&g->hashes);
    g->hashes.fanout = g->fanout;
    dir_text(g, day, 0, dir);
    dir[strcspn(dir, "/")] = '\0';
    bool ok = !on_disk || is_done(g, at_of_dir(last)) ||
              list_names(&g->visitor, g->volume, dir, &g->hashes);
    ok = ok && tell_foreign(g, day, &g->hashes);
    while (ok && !g->scan->stop && next_number(g, &g->hashes, &i, last, 0, mask, &hash)) {
        ok = tell_dir(g, day, hash);
    }
    return ok && !g->scan->stop;
}

static bool is_known(const struct names *n, uint32_t v)
{
    return n->n > 0 && bsearch(&v, n->known, n->n, sizeof *n->known, compare_numbers);
}

static bool guide_volume(struct guide *g, const struct volume *v, uint16_t volume_id)
{
    uint64_t last = fsck_place(volume_id, DAYS_MOST - 1, HASHES_MOST - 1);
    uint32_t day;
    size_t i = 0;
    g->volume = v;
    g->volume_id = volume_id;
    g->fanout = v ? v->fanout : NO_FANOUT;
    names_clear(&g->days);
    g->days.fanout = DAYS;
    bool ok = !v || list_names(&g->visitor, v, "", &g->days);
    ok = ok && tell_foreign(g, 0, &g->days);
    while (i < g->days.n && g->days.known[i] < g->scan->o.since_day) {
        i++;
    }
    while (ok && !g->scan->stop &&
           next_number(g, &g->days, &i, last, FSCK_HASH_BITS, DAYS_MOST - 1, &day)) {
        ok = guide_day(g, day, is_known(&g->days, day));
    }
    return ok && !g->scan->stop;
}

/* Rows of volumes that the database does not have, up to this one. */
static bool guide_unknown(struct guide *g, uint32_t before)
{
    uint64_t place;
    bool there;
    while (peek(g, &place, &there) && there && fsck_place_volume(place) < before) {
        if (!guide_volume(g, NULL, fsck_place_volume(place))) {
            return false;
        }
    }
    return !g->scan->stop;
}

static void guide_all(struct guide *g)
{
    const struct fsck_scan_options *o = &g->scan->o;
    bool ok = true;
    for (size_t i = 0; i < o->n_volumes && ok; i++) {
        const struct volume *v = &o->volumes[i];
        bool wanted =
            (!o->volume || o->volume == v->volume_id) &&
            !is_done(g, at_of_dir(fsck_place(v->volume_id, DAYS_MOST - 1, HASHES_MOST - 1)));
        if (wanted) {
            ok = guide_unknown(g, v->volume_id) && guide_volume(g, v, v->volume_id);
        }
    }
    if (ok) {
        guide_unknown(g, UINT16_MAX + 1u);
    }
}

static void *run_guide(void *arg)
{
    struct fsck_scan *s = arg;
    struct guide g = { .scan = s, .visitor.scan = s };
    guide_all(&g);
    names_fini(&g.days);
    names_fini(&g.hashes);
    volume_walk_close(&g.visitor.walk);
    lock(s);
    s->ended = true;
    tell_change(s);
    unlock(s);
    return NULL;
}

/* --- the owner ------------------------------------------------------------------------------- */

struct fsck_scan *fsck_scan_open(const struct fsck_scan_options *o, uint64_t *files, char *why,
                                 size_t why_size)
{
    const struct fsck_scope scope = { .volume = o->volume,
                                      .since_day = o->since_day,
                                      .from = o->resume / 2 };
    struct fsck_stream *stream;
    if (!fsck_stream_open(o->url, &scope, &stream, files, why, why_size)) {
        return NULL;
    }
    fault_at(FAULT_fsck_snapshot);
    struct fsck_scan *s = NEW(struct fsck_scan);
    s->o = *o;
    s->stream = stream;
    s->n_workers = o->jobs < JOBS_MOST ? o->jobs : JOBS_MOST;
    s->n_ring = (size_t)s->n_workers * TASKS_A_JOB;
    s->ring = NEW_ARRAY(struct fsck_task, s->n_ring);
    s->workers = NEW_ARRAY(pthread_t, s->n_workers);
    CHECK(pthread_mutex_init(&s->mutex, NULL) == 0);
    CHECK(pthread_cond_init(&s->changed, NULL) == 0);
    CHECK(pthread_create(&s->guide, NULL, run_guide, s) == 0);
    for (unsigned i = 0; i < s->n_workers; i++) {
        CHECK(pthread_create(&s->workers[i], NULL, run_worker, s) == 0);
    }
    return s;
}

struct fsck_task *fsck_scan_next(struct fsck_scan *s, const char **why)
{
    struct fsck_task *t = NULL;
    lock(s);
    for (;;) {
        struct fsck_task *next = &s->ring[s->given % s->n_ring];
        if (s->stop || (s->ended && s->given == s->filled)) {
            break;
        }
        if (s->given < s->filled && next->done) {
            t = next;
            break;
        }
        wait_change(s);
    }
    *why = s->why;
    unlock(s);
    return t;
}

static void forget_suspects(struct fsck_task *t)
{
    for (size_t i = 0; i < t->n_suspects; i++) {
        free(t->suspects[i].name);
    }
    t->n_suspects = 0;
}

void fsck_scan_give_back(struct fsck_scan *s, struct fsck_task *t)
{
    forget_suspects(t);
    lock(s);
    CHECK(t == &s->ring[s->given % s->n_ring]);
    t->done = false;
    s->given++;
    tell_change(s);
    unlock(s);
}

/* The guide may wait for the database: it is told to give up. */
void fsck_scan_close(struct fsck_scan **ps)
{
    struct fsck_scan *s = *ps;
    *ps = NULL;
    if (!s) {
        return;
    }
    lock(s);
    s->stop = true;
    tell_change(s);
    bool waits = !s->ended;
    unlock(s);
    if (waits) {
        fsck_stream_cancel(s->stream);
    }
    CHECK(pthread_join(s->guide, NULL) == 0);
    for (unsigned i = 0; i < s->n_workers; i++) {
        CHECK(pthread_join(s->workers[i], NULL) == 0);
    }
    for (size_t i = 0; i < s->n_ring; i++) {
        forget_suspects(&s->ring[i]);
        free(s->ring[i].rows);
        free(s->ring[i].suspects);
    }
    fsck_stream_close(&s->stream);
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->changed);
    free(s->workers);
    free(s->ring);
    free(s);
}
