/*
 * fsck: takes what fsck_scan suspects, in the order of the disk, and asks again before it tells:
 * between the database's snapshot and the listing of a directory mail was delivered, deleted,
 * unlinked and moved.
 *
 *   a pointer without its file    the file is looked for once more, then the pointer: a file goes
 *                                 only after its pointer, so what stands last stands without one
 *   a file without rows           its envelope names the mailboxes that may have a pointer; the
 *                                 ledger and the counts of shared files are asked by its id
 *
 * Owns the scan and a walk of each volume that it had to look at. Everything here is one thread's.
 */
#include "fsck.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/fault.h"
#include "fsck_resume.h"
#include "fsck_scan.h"
#include "progress.h"
#include "walks.h"

#define JOBS       4
#define DAY_MS     86400000ll
#define SAVE_MS    1000
#define UUID_CHARS 36

struct fsck {
    struct admin *admin;
    const struct fsck_options *o;
    struct walks walks;
    int64_t older_ms;
    char *fleet;
    struct fsck_question question;
    uint64_t at; /* of the last task that is done */
    int64_t saved_ms;
    finding_fn *fn;
    void *arg;
    struct fsck_totals totals;
    bool ended; /* fn wants no more */
    const struct fsck_task *task;
};

/* --- volumes --------------------------------------------------------------------------------- */

/* NOTFOUND, also when there is no such volume; TEMP. */
static enum err look(struct fsck *f, uint16_t volume, const char *path, struct walk_entry *e)
{
    struct volume_walk *w;
    enum err r = walks_get(&f->walks, volume, &w);
    return r == ERR_OK ? volume_walk_stat(w, path, e) : r;
}

static enum err look_for_id(struct fsck *f, uint16_t volume, const struct blob_id *id,
                            struct walk_entry *e)
{
    char path[SPOOL_PATH_MAX];
    walks_path(&f->walks, volume, id, path);
    return look(f, volume, path, e);
}

/* The other volume that has the file; 0: none that can be looked at. */
static uint16_t find_elsewhere(struct fsck *f, uint16_t but, const struct blob_id *id,
                               struct walk_entry *e)
{
    for (size_t i = 0; i < f->walks.n; i++) {
        uint16_t v = f->walks.volumes[i].volume_id;
        if (v != but && look_for_id(f, v, id, e) == ERR_OK && e->regular) {
            return v;
        }
    }
    return 0;
}

static int fail_file(uint16_t volume, const char *path)
{
    return admin_fail(EX_IOERR, "volume %u: %s could not be read", volume, path);
}

/* --- telling --------------------------------------------------------------------------------- */

static void tell(struct fsck *f, const struct finding *finding)
{
    f->totals.found[finding->cls]++;
    if (finding->cls == FINDING_GARBAGE && !f->o->garbage) {
        return;
    }
    f->ended = !f->fn(f->arg, finding);
}

static struct finding finding_of(const struct fsck *f, const struct fsck_suspect *s,
                                 char path[SPOOL_PATH_MAX])
{
    walks_path(&f->walks, f->task->volume_id, &s->row.id, path);
    return (struct finding){ .cls = s->cls,
                             .volume = f->task->volume_id,
                             .path = path,
                             .id = &s->row.id,
                             .size = s->size,
                             .changed_ms = s->changed_ms,
                             .mailbox_id = s->row.mailbox_id,
                             .shared = s->row.shared };
}

/* --- a pointer and its file ------------------------------------------------------------------ */

/* *stands: the pointer is in the database now as it was. */
static int ask_pointer(struct fsck *f, const struct fsck_row *row, bool *stands)
{
    struct admin *a = f->admin;
    admin_sql(a, "SELECT 1 FROM message WHERE mailbox_id = $1 AND seq = $2 AND blob_id = $3 "
                 "AND volume_id = $4::bigint");
    pg_i64(a->batch, (int64_t)row->mailbox_id);
    pg_i64(a->batch, row->seq);
    pg_uuid(a->batch, &row->id);
    pg_i64(a->batch, f->task->volume_id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "messages");
    }
    *stands = admin_rows(a, 0) > 0;
    return EX_OK;
}

/* What lies elsewhere is told where its pointer is missed, and not a second time where it lies. */
static int check_missing(struct fsck *f, const struct fsck_suspect *s)
{
    char path[SPOOL_PATH_MAX];
    struct finding finding = finding_of(f, s, path);
    struct walk_entry e;
    bool stands;
    enum err r = look(f, f->task->volume_id, path, &e);
    if (r == ERR_OK) {
        return EX_OK;
    }
    if (r != ERR_NOTFOUND) {
        return fail_file(f->task->volume_id, path);
    }
    int code = ask_pointer(f, &s->row, &stands);
    if (code != EX_OK || !stands) {
        return code;
    }
    finding.cls = FINDING_MISSING;
    finding.size = 0;
    finding.changed_ms = 0;
    uint16_t there = find_elsewhere(f, f->task->volume_id, &s->row.id, &e);
    if (there) {
        finding.cls = FINDING_VOLUME;
        finding.other_volume = f->task->volume_id;
        finding.volume = there;
        finding.size = e.size;
        finding.changed_ms = e.changed_ms;
        walks_path(&f->walks, there, &s->row.id, path);
    }
    tell(f, &finding);
    return EX_OK;
}

static int check_pointer(struct fsck *f, const struct fsck_suspect *s)
{
    char path[SPOOL_PATH_MAX];
    struct finding finding = finding_of(f, s, path);
    struct walk_entry e;
    bool stands;
    int code = ask_pointer(f, &s->row, &stands);
    if (code != EX_OK || !stands) {
        return code;
    }
    enum err r = look(f, f->task->volume_id, path, &e);
    if (r == ERR_NOTFOUND) {
        return check_missing(f, s);
    }
    if (r != ERR_OK) {
        return fail_file(f->task->volume_id, path);
    }
    bool wrong = s->cls != FINDING_SIZE || e.size != (uint64_t)s->row.skip + s->row.size;
    if (wrong) {
        tell(f, &finding);
    }
    return EX_OK;
}

/* --- a file without rows --------------------------------------------------------------------- */

struct answer {
    bool garbage;     /* it is in the ledger, or a shared file that nobody counts */
    bool listed;      /* a pointer names it where it is */
    uint16_t pointer; /* the volume that a pointer names; 0: there is none */
    uint16_t ledger;  /* that a row of the ledger names */
    uint64_t mailbox_id;
    bool shared;
};

static void ask_all(struct admin *a, const struct fsck_file *file, const struct blob_id *id)
{
    size_t n = file->readable ? file->envelope.n : 0;
    int64_t *boxes = NEW_ARRAY(int64_t, n + 1);
    for (size_t i = 0; i < n; i++) {
        boxes[i] = (int64_t)file->to[i].mailbox_id;
    }
    admin_sql(a, "SELECT mailbox_id, volume_id, shared FROM message "
                 "WHERE mailbox_id = ANY ($1) AND blob_id = $2");
    pg_i64s(a->batch, boxes, n);
    pg_uuid(a->batch, id);
    admin_sql(a, "SELECT volume_id FROM ledger WHERE blob_id = $1");
    pg_uuid(a->batch, id);
    admin_sql(a, "SELECT volume_id FROM blob_shared WHERE blob_id = $1 AND refs = 0");
    pg_uuid(a->batch, id);
    free(boxes);
}

static int ask_rows(struct fsck *f, const struct fsck_file *file, const struct blob_id *id,
                    struct answer *out)
{
    struct admin *a = f->admin;
    struct answer answer = { 0 };
    ask_all(a, file, id);
    if (admin_run(a, PG_READ) != ERR_OK) {
        return admin_fail_reply(a, "messages");
    }
    for (int i = 0; i < admin_rows(a, 0); i++) {
        answer.mailbox_id = (uint64_t)pg_get_i64(admin_result(a, 0), i, 0);
        answer.pointer = (uint16_t)pg_get_i64(admin_result(a, 0), i, 1);
        answer.shared = pg_get_i64(admin_result(a, 0), i, 2);
        answer.listed = answer.listed || answer.pointer == f->task->volume_id;
    }
    for (size_t q = 1; q <= 2; q++) {
        for (int i = 0; i < admin_rows(a, q); i++) {
            answer.ledger = (uint16_t)pg_get_i64(admin_result(a, q), i, 0);
            answer.garbage = answer.garbage || answer.ledger == f->task->volume_id;
        }
    }
    *out = answer;
    return EX_OK;
}

static enum finding_class class_of(const struct fsck_suspect *s, const struct fsck_file *file)
{
    switch (file->state) {
    case FILE_WHOLE:
        return s->whole_as;
    case FILE_DAMAGED:
        return FINDING_HASH;
    case FILE_UNFINISHED:
        return FINDING_UNFINISHED;
    case FILE_FOREIGN:
        return FINDING_FOREIGN;
    case FILE_UNREADABLE:
        return FINDING_UNREADABLE;
    }
    UNREACHABLE();
}

/*
 * A pointer names another volume: if the file is there too, this one is a copy whose making never
 * ended; if not, it is told where the pointer is looked at, unless that volume was not asked for.
 */
static int check_copy(struct fsck *f, const struct answer *answer, struct finding *finding)
{
    struct walk_entry e;
    enum err r = look_for_id(f, answer->pointer, finding->id, &e);
    if (r != ERR_OK && r != ERR_NOTFOUND) {
        return fail_file(answer->pointer, finding->path);
    }
    finding->cls = r == ERR_OK ? FINDING_UNFINISHED : FINDING_VOLUME;
    finding->other_volume = r == ERR_OK ? 0 : answer->pointer;
    finding->mailbox_id = answer->mailbox_id;
    finding->shared = answer->shared;
    if (r == ERR_OK || f->o->volume) {
        tell(f, finding);
    }
    return EX_OK;
}

static int judge_nameless(struct fsck *f, const struct fsck_suspect *s,
                          const struct fsck_file *file, struct finding *finding)
{
    struct answer answer = { 0 };
    int code = ask_rows(f, file, finding->id, &answer);
    if (code != EX_OK || answer.listed) {
        return code;
    }
    finding->envelope = file->readable ? &file->envelope : NULL;
    finding->skip = file->readable ? file->skip : 0;
    if (answer.pointer) {
        return check_copy(f, &answer, finding);
    }
    finding->cls = answer.garbage  ? FINDING_GARBAGE
                   : answer.ledger ? FINDING_UNFINISHED /* a copy of what was deleted meanwhile */
                                   : class_of(s, file);
    tell(f, finding);
    return EX_OK;
}

static int check_nameless(struct fsck *f, const struct fsck_suspect *s)
{
    char path[SPOOL_PATH_MAX];
    struct finding finding = finding_of(f, s, path);
    struct volume_walk *w;
    struct walk_entry e;
    struct fsck_file file;
    enum err r = walks_get(&f->walks, f->task->volume_id, &w);
    r = r == ERR_OK ? volume_walk_stat(w, path, &e) : r;
    if (r == ERR_OK) {
        finding.size = e.size;
        finding.changed_ms = e.changed_ms;
        r = fsck_file_read(w, path, &s->row.id, e.size, &file);
    }
    if (r == ERR_NOTFOUND) {
        return EX_OK;
    }
    if (r != ERR_OK) {
        return fail_file(f->task->volume_id, path);
    }
    int code = judge_nameless(f, s, &file, &finding);
    fsck_file_fini(&file);
    return code;
}

/* --- the rest -------------------------------------------------------------------------------- */

static int check_foreign(struct fsck *f, const struct fsck_suspect *s)
{
    char path[SPOOL_PATH_MAX + WALK_NAME_MAX + 2];
    struct walk_entry e;
    snprintf(path, sizeof path, "%s%s%s", f->task->dir, *f->task->dir ? "/" : "", s->name);
    enum err r = s->changed_ms > f->older_ms ? ERR_NOTFOUND : look(f, f->task->volume_id, path, &e);
    if (r == ERR_OK || r == ERR_INVALID) { /* a name that is too long to be asked for */
        tell(f, &(struct finding){ .cls = FINDING_FOREIGN,
                                   .volume = f->task->volume_id,
                                   .path = path,
                                   .size = s->size,
                                   .changed_ms = s->changed_ms });
    }
    return r == ERR_TEMP ? fail_file(f->task->volume_id, path) : EX_OK;
}

static int check_suspect(struct fsck *f, const struct fsck_suspect *s)
{
    char path[SPOOL_PATH_MAX];
    struct finding finding;
    switch (s->cls) {
    case FINDING_MISSING:
        return check_missing(f, s);
    case FINDING_SIZE:
    case FINDING_HASH:
    case FINDING_UNREADABLE:
        return check_pointer(f, s);
    case FINDING_ORPHAN:
        return check_nameless(f, s);
    case FINDING_FOREIGN:
        return check_foreign(f, s);
    default:
        finding = finding_of(f, s, path);
        tell(f, &finding);
        return EX_OK;
    }
}

/* --- the run --------------------------------------------------------------------------------- */

static int64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* After what was told, and each second. */
static int save(struct fsck *f, bool now)
{
    if (!f->o->resume || !(now || monotonic_ms() - f->saved_ms >= SAVE_MS)) {
        return EX_OK;
    }
    f->saved_ms = monotonic_ms();
    return fsck_resume_write(f->o->resume, &f->question, f->at, &f->totals) ? EX_OK : EX_CANTCREAT;
}

static int take_task(struct fsck *f, const struct fsck_task *t)
{
    struct fsck_totals before = f->totals;
    int code = EX_OK;
    f->task = t;
    f->totals.files += t->files;
    f->totals.pointers += t->pointers;
    f->totals.octets += t->octets;
    f->totals.directories += t->compare;
    f->totals.found[FINDING_GARBAGE] += t->garbage;
    for (size_t i = 0; i < t->n_suspects && code == EX_OK && !f->ended; i++) {
        code = check_suspect(f, &t->suspects[i]);
    }
    if (code != EX_OK || f->ended) {
        return code;
    }
    f->at = t->at;
    code = save(f, memcmp(before.found, f->totals.found, sizeof before.found) != 0);
    fault_at(FAULT_fsck_directory);
    return code;
}

static int take_all(struct fsck *f, struct fsck_scan *scan, struct progress *p)
{
    const char *why = "";
    struct fsck_task *t;
    int code = EX_OK;
    while (code == EX_OK && !f->ended && (t = fsck_scan_next(scan, &why))) {
        code = take_task(f, t);
        uint64_t steps = t->known > t->files ? t->known : t->files;
        fsck_scan_give_back(scan, t);
        progress_step(p, steps);
    }
    return code == EX_OK && *why ? admin_fail(EX_IOERR, "%s", why) : code;
}

static int compare_all(struct fsck *f)
{
    const struct fsck_scan_options o = { .url = f->admin->config->database_url,
                                         .spool = &f->walks.options,
                                         .volumes = f->walks.volumes,
                                         .n_volumes = f->walks.n,
                                         .volume = f->o->volume,
                                         .since_day = f->question.since_day,
                                         .resume = f->at,
                                         .older_ms = f->older_ms,
                                         .deep = f->o->deep,
                                         .garbage = f->o->garbage,
                                         .jobs = f->o->jobs ? f->o->jobs : JOBS };
    char why[512];
    uint64_t files;
    struct progress p;
    struct fsck_scan *scan = fsck_scan_open(&o, &files, why, sizeof why);
    if (!scan) {
        return admin_fail(EX_TEMPFAIL, "%s", why);
    }
    progress_begin(&p, "files", files, f->o->rate);
    p.done = f->totals.files;
    int code = take_all(f, scan, &p);
    progress_end(&p);
    fsck_scan_close(&scan);
    return code;
}

/* What a resume file belongs to. */
static void make_question(struct fsck *f)
{
    f->fleet = NEW_ARRAY(char, f->walks.n *(UUID_CHARS + 1) + 1);
    for (size_t i = 0; i < f->walks.n; i++) {
        strcat(f->fleet, i ? " " : "");
        strcat(f->fleet, f->walks.volumes[i].uuid);
    }
    f->question = (struct fsck_question){ .fleet = f->fleet,
                                          .volume = f->o->volume,
                                          .since_day = (uint32_t)(f->o->since_ms / DAY_MS),
                                          .deep = f->o->deep,
                                          .garbage = f->o->garbage,
                                          .older = f->o->older_ms != 0 };
}

static int prepare(struct fsck *f)
{
    int code = walks_init(&f->walks, f->admin);
    if (code != EX_OK) {
        return code;
    }
    if (f->o->volume && !walks_has(&f->walks, f->o->volume)) {
        return admin_fail(EX_NOUSER, "%u: no such volume", f->o->volume);
    }
    make_question(f);
    return !f->o->resume || fsck_resume_read(f->o->resume, &f->question, &f->at, &f->totals)
               ? EX_OK
               : EX_DATAERR;
}

int fsck_run(struct admin *a, const struct fsck_options *o, finding_fn *fn, void *arg,
             struct fsck_totals *totals)
{
    struct fsck f = { .admin = a, .o = o, .fn = fn, .arg = arg };
    f.older_ms = o->older_ms ? o->older_ms : admin_now() - (int64_t)a->config->spool_orphan_age;
    int code = prepare(&f);
    if (code == EX_OK) {
        code = compare_all(&f);
    }
    if (code == EX_OK && !f.ended && o->resume) {
        fsck_resume_end(o->resume);
    }
    *totals = f.totals;
    walks_fini(&f.walks);
    free(f.fleet);
    return code;
}
