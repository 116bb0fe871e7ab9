/*
 * fsck_compare: see the header. What it makes of a directory is in the task: counts, and suspects.
 */
#include "fsck_compare.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define READ_AT_ONCE (1u << 20)

void fsck_compare_init(struct fsck_compare *c, int64_t older_ms, bool deep, bool garbage)
{
    *c = (struct fsck_compare){ .older_ms = older_ms, .deep = deep, .garbage = garbage };
    c->mem = deep ? mem_raw(READ_AT_ONCE) : NULL;
}

void fsck_compare_fini(struct fsck_compare *c)
{
    free(c->entries);
    free(c->mem);
}

void fsck_suspect_add(struct fsck_suspect **v, size_t *n, size_t *room,
                      const struct fsck_suspect *suspect)
{
    if (*n == *room) {
        *room = *room ? 2 * *room : 16;
        *v = mem_grow(*v, *room, sizeof **v);
    }
    (*v)[(*n)++] = *suspect;
}

static void suspect(struct fsck_compare *c, const struct fsck_suspect *s)
{
    struct fsck_task *t = c->task;
    fsck_suspect_add(&t->suspects, &t->n_suspects, &t->suspects_room, s);
}

/* --- the directory --------------------------------------------------------------------------- */

/* A file whose name is an id that belongs into this directory. */
static bool is_ours(const struct fsck_compare *c, const struct walk_entry *e, struct blob_id *id)
{
    char path[SPOOL_PATH_MAX];
    if (!e->regular || blob_id_parse(span_str(e->name), id) != ERR_OK) {
        return false;
    }
    size_t n = spool_path(id, c->task->volume->fanout, path);
    return strlen(c->task->dir) == n && memcmp(path, c->task->dir, n) == 0;
}

static bool on_entry(void *arg, const struct walk_entry *e)
{
    struct fsck_compare *c = arg;
    struct fsck_entry entry = { .size = e->size, .changed_ms = e->changed_ms };
    if (!is_ours(c, e, &entry.id)) {
        suspect(c, &(struct fsck_suspect){ .cls = FINDING_FOREIGN,
                                           .name = mem_strdup(e->name),
                                           .size = e->size,
                                           .changed_ms = e->changed_ms });
        return true;
    }
    if (c->n == c->room) {
        c->room = c->room ? 2 * c->room : 256;
        c->entries = mem_grow(c->entries, c->room, sizeof *c->entries);
    }
    c->entries[c->n++] = entry;
    c->task->files++;
    c->task->octets += e->size;
    return true;
}

static int compare_entries(const void *a, const void *b)
{
    return memcmp(((const struct fsck_entry *)a)->id.b, ((const struct fsck_entry *)b)->id.b,
                  BLOB_ID_SIZE);
}

/* Pointers come first of the rows of a file. */
static int compare_rows(const void *a, const void *b)
{
    const struct fsck_row *x = a, *y = b;
    int order = memcmp(x->id.b, y->id.b, BLOB_ID_SIZE);
    return order ? order : (int)x->kind - (int)y->kind;
}

/* A file may be told twice when the directory changes while it is listed. */
static void drop_doubles(struct fsck_compare *c)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (kept > 0 && blob_id_eq(&c->entries[i].id, &c->entries[kept - 1].id)) {
            c->task->files--;
            c->task->octets -= c->entries[i].size;
        } else {
            c->entries[kept++] = c->entries[i];
        }
    }
    c->n = kept;
}

/* A directory that is not there has no files: all its pointers are missing theirs. */
static enum err list_dir(struct fsck_compare *c)
{
    c->n = 0;
    enum err e = c->walk ? volume_walk_list(c->walk, c->task->dir, on_entry, c) : ERR_NOTFOUND;
    if (e != ERR_OK && e != ERR_NOTFOUND) {
        return ERR_TEMP;
    }
    if (c->n > 1) {
        qsort(c->entries, c->n, sizeof *c->entries, compare_entries);
        drop_doubles(c);
    }
    return ERR_OK;
}

/* --- a file and its rows --------------------------------------------------------------------- */

static struct fsck_suspect suspect_of(enum finding_class cls, const struct fsck_row *row,
                                      const struct fsck_entry *e)
{
    return (struct fsck_suspect){
        .cls = cls, .row = *row, .size = e ? e->size : 0, .changed_ms = e ? e->changed_ms : 0
    };
}

static void path_of(const struct fsck_compare *c, const struct blob_id *id,
                    char out[SPOOL_PATH_MAX])
{
    spool_path(id, c->task->volume->fanout, out);
}

/* Its envelope is its own, and what follows has the hash that it says. row NULL: no pointer. */
static enum err verify(struct fsck_compare *c, const struct fsck_entry *e,
                       const struct fsck_row *row, bool *right)
{
    char path[SPOOL_PATH_MAX];
    struct fsck_file f;
    path_of(c, &e->id, path);
    enum err r = fsck_file_read(c->walk, path, &e->id, e->size, &f);
    if (r != ERR_OK) {
        return r;
    }
    r = f.state == FILE_UNREADABLE ? ERR_CORRUPT : ERR_OK;
    *right =
        f.state == FILE_WHOLE && (!row || (f.skip == row->skip && f.envelope.size == row->size));
    if (*right) {
        r = fsck_file_verify(c->walk, path, &f, c->mem, READ_AT_ONCE, right);
    }
    /* Without a pointer only a whole file is wrong: the others have classes of their own. */
    *right = *right || (!row && f.state != FILE_WHOLE);
    fsck_file_fini(&f);
    return r;
}

/*
 * What reading all of it has told: HASH, UNREADABLE, or right. A file that was unlinked meanwhile
 * is right: the asking again finds it out.
 */
static enum err check_hash(struct fsck_compare *c, const struct fsck_entry *e,
                           const struct fsck_row *row, enum finding_class right,
                           enum finding_class *cls)
{
    bool is_right = true;
    enum err r = c->deep ? verify(c, e, row, &is_right) : ERR_OK;
    *cls = r == ERR_CORRUPT ? FINDING_UNREADABLE : is_right ? right : FINDING_HASH;
    return r == ERR_NOTFOUND || r == ERR_CORRUPT ? ERR_OK : r;
}

static enum err check_file(struct fsck_compare *c, const struct fsck_entry *e,
                           const struct fsck_row *rows, size_t n)
{
    enum finding_class cls = FINDING_CLASSES;
    bool long_enough = true;
    for (size_t i = 0; i < n; i++) {
        if (e->size != (uint64_t)rows[i].skip + rows[i].size) {
            struct fsck_suspect s = suspect_of(FINDING_SIZE, &rows[i], e);
            suspect(c, &s);
            long_enough = false;
        }
    }
    enum err r = long_enough ? check_hash(c, e, &rows[0], FINDING_CLASSES, &cls) : ERR_OK;
    if (r == ERR_OK && cls != FINDING_CLASSES) {
        struct fsck_suspect s = suspect_of(cls, &rows[0], e);
        suspect(c, &s);
    }
    return r;
}

static void add_garbage(struct fsck_compare *c, const struct fsck_entry *e,
                        const struct fsck_row *row)
{
    if (c->garbage) {
        struct fsck_suspect s = suspect_of(FINDING_GARBAGE, row, e);
        suspect(c, &s);
    } else {
        c->task->garbage++;
    }
}

static enum err add_nameless(struct fsck_compare *c, const struct fsck_entry *e)
{
    enum finding_class cls;
    if (e->changed_ms > c->older_ms) {
        return ERR_OK; /* a delivery may be under way */
    }
    enum err r = check_hash(c, e, NULL, FINDING_ORPHAN, &cls);
    if (r == ERR_OK) {
        struct fsck_row row = { .id = e->id };
        struct fsck_suspect s = suspect_of(FINDING_ORPHAN, &row, e);
        s.whole_as = cls;
        suspect(c, &s);
    }
    return r;
}

/* e NULL: there is no file. The first pointers of n rows are pointers to it. */
static enum err merge_one(struct fsck_compare *c, const struct fsck_entry *e,
                          const struct fsck_row *rows, size_t n, size_t pointers)
{
    c->task->pointers += pointers;
    c->task->known += n > 0;
    if (!e) {
        for (size_t i = 0; i < pointers; i++) {
            struct fsck_suspect s = suspect_of(FINDING_MISSING, &rows[i], NULL);
            suspect(c, &s);
        }
        return ERR_OK;
    }
    if (pointers) {
        return check_file(c, e, rows, pointers);
    }
    if (n) {
        add_garbage(c, e, &rows[0]);
        return ERR_OK;
    }
    return add_nameless(c, e);
}

enum err fsck_compare(struct fsck_compare *c, struct volume_walk *walk, struct fsck_task *t)
{
    c->walk = walk;
    c->task = t;
    enum err r = list_dir(c);
    if (t->n_rows > 1) {
        qsort(t->rows, t->n_rows, sizeof *t->rows, compare_rows);
    }
    for (size_t row = 0, i = 0; r == ERR_OK && (row < t->n_rows || i < c->n);) {
        const struct fsck_row *rows = t->rows + row;
        int order = row == t->n_rows ? 1
                    : i == c->n      ? -1
                                     : memcmp(rows->id.b, c->entries[i].id.b, BLOB_ID_SIZE);
        size_t n = 0, pointers = 0;
        while (order <= 0 && row < t->n_rows && blob_id_eq(&t->rows[row].id, &rows->id)) {
            pointers += t->rows[row].kind == ROW_POINTER;
            n++;
            row++;
        }
        const struct fsck_entry *e = order >= 0 ? &c->entries[i++] : NULL;
        r = merge_one(c, e, rows, n, pointers);
    }
    return r;
}
