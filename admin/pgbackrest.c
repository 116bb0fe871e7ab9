/*
 * pgbackrest: see the header. The JSON trees of jansson live as long as one call. Members that are
 * not there read as 0 or "", so that one check, at the end, tells whether this was pgBackRest's.
 */
#include "pgbackrest.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

/* --- info ------------------------------------------------------------------------------------ */

struct backup {
    int64_t stop_ms;
    int64_t database, repo; /* the archive is of the same */
    const char *first;      /* segment; borrowed from the tree */
    bool damaged;
};

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static int64_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static json_t *find_stanza(json_t *all, const char *name)
{
    size_t i;
    json_t *stanza;
    json_array_foreach(all, i, stanza)
    {
        if (strcmp(text_of(stanza, "name"), name) == 0) {
            return stanza;
        }
    }
    return NULL;
}

static bool is_segment(const char *name)
{
    return strspn(name, "0123456789ABCDEF") == WAL_SEGMENT_CHARS;
}

static bool read_backup(const json_t *j, struct backup *out)
{
    const json_t *database = json_object_get(j, "database");
    *out = (struct backup){
        .stop_ms = number_of(json_object_get(j, "timestamp"), "stop") * 1000,
        .database = number_of(database, "id"),
        .repo = number_of(database, "repo-key"),
        .first = text_of(json_object_get(j, "archive"), "start"),
        .damaged = json_is_true(json_object_get(j, "error")),
    };
    return out->stop_ms > 0 && is_segment(out->first);
}

/* The newest of those that ended before the window, or else the oldest. */
static bool begins_better(const struct backup *b, int64_t best_ms, int64_t window_ms)
{
    if (best_ms == 0) {
        return true;
    }
    return b->stop_ms <= window_ms ? best_ms > window_ms || b->stop_ms > best_ms
                                   : b->stop_ms < best_ms;
}

static bool read_backups(const json_t *stanza, int64_t window_ms, struct backup_facts *f,
                         struct backup *newest)
{
    size_t i;
    const json_t *j;
    json_array_foreach(json_object_get(stanza, "backup"), i, j)
    {
        struct backup b;
        if (!read_backup(j, &b)) {
            return false;
        }
        if (b.damaged) {
            f->damaged++;
            continue;
        }
        f->n++;
        if (b.stop_ms > f->newest_ms) {
            f->newest_ms = b.stop_ms;
            *newest = b;
        }
        if (begins_better(&b, f->begin_ms, window_ms)) {
            f->begin_ms = b.stop_ms;
            snprintf(f->first, sizeof f->first, "%.*s", WAL_SEGMENT_CHARS, b.first);
        }
    }
    return true;
}

static bool read_archive(const json_t *stanza, const struct backup *newest, struct backup_facts *f)
{
    size_t i;
    const json_t *j;
    json_array_foreach(json_object_get(stanza, "archive"), i, j)
    {
        const json_t *database = json_object_get(j, "database");
        const char *id = text_of(j, "id"), *last = text_of(j, "max");
        if (number_of(database, "id") == newest->database &&
            number_of(database, "repo-key") == newest->repo && is_segment(last) &&
            strlen(id) < sizeof f->archive) {
            f->repo = (unsigned)newest->repo;
            snprintf(f->archive, sizeof f->archive, "%s", id);
            snprintf(f->last, sizeof f->last, "%.*s", WAL_SEGMENT_CHARS, last);
            return true;
        }
    }
    return false;
}

/* Why there is no backup. Of faults only the repositories' own words tell something. */
static const char *complaint(const json_t *stanza)
{
    size_t i;
    const json_t *repo;
    json_array_foreach(json_object_get(stanza, "repo"), i, repo)
    {
        const json_t *status = json_object_get(repo, "status");
        if (number_of(status, "code") != 0) {
            return text_of(status, "message");
        }
    }
    return text_of(json_object_get(stanza, "status"), "message");
}

static enum err read_stanza(const json_t *stanza, int64_t window_ms, struct backup_facts *out,
                            char *why, size_t size)
{
    struct backup_facts f = { 0 };
    struct backup newest = { 0 };
    if (!read_backups(stanza, window_ms, &f, &newest)) {
        snprintf(why, size, "pgBackRest tells of its backups in a way that is not known");
        return ERR_INVALID;
    }
    if (f.n == 0) {
        snprintf(why, size, "there is no usable backup (pgBackRest says: %s)", complaint(stanza));
        return ERR_NOTFOUND;
    }
    if (!read_archive(stanza, &newest, &f)) {
        snprintf(why, size, "there is no log in the repository that belongs to the newest backup");
        return ERR_NOTFOUND;
    }
    *out = f;
    return ERR_OK;
}

enum err pgbackrest_read_info(struct span json, const char *stanza, int64_t window_ms,
                              struct backup_facts *out, char *why, size_t size)
{
    json_t *all = json_loadb(json.p, json.n, JSON_REJECT_DUPLICATES, NULL);
    enum err e = ERR_INVALID;
    if (!json_is_array(all)) {
        snprintf(why, size, "pgBackRest does not answer in JSON");
    } else {
        json_t *found = find_stanza(all, stanza);
        if (found) {
            e = read_stanza(found, window_ms, out, why, size);
        } else {
            snprintf(why, size, "pgBackRest knows no stanza %s", stanza);
            e = ERR_NOTFOUND;
        }
    }
    json_decref(all);
    return e;
}

/* --- gaps ------------------------------------------------------------------------------------ */

/* Segments are counted through from the beginning of the log, whatever timeline they are of. */
struct segment {
    uint32_t timeline;
    uint64_t number;
};

static struct segment parse_segment(const char *name, uint64_t each)
{
    unsigned timeline = 0, log = 0, low = 0;
    CHECK(sscanf(name, "%8x%8x%8x", &timeline, &log, &low) == 3);
    return (struct segment){ timeline, log * each + low };
}

static void segment_name(struct segment s, uint64_t each, char out[WAL_SEGMENT_CHARS + 1])
{
    snprintf(out, WAL_SEGMENT_CHARS + 1, "%08" PRIX32 "%08" PRIX32 "%08" PRIX32, s.timeline,
             (uint32_t)(s.number / each), (uint32_t)(s.number % each));
}

static int compare(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    if (x->timeline != y->timeline) {
        return x->timeline < y->timeline ? -1 : 1;
    }
    return x->number < y->number ? -1 : x->number > y->number;
}

/* Those that a restore from first on may need, in their order; the caller frees them. */
static struct segment *read_segments(json_t *list, struct segment first, uint64_t each, size_t *n)
{
    struct segment *all = NEW_ARRAY(struct segment, json_object_size(list) + 1);
    const char *path;
    json_t *unused;
    *n = 0;
    json_object_foreach(list, path, unused)
    {
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        if (!is_segment(name) || name[WAL_SEGMENT_CHARS] != '-') {
            continue; /* a folder, a history file, the note of a backup */
        }
        struct segment s = parse_segment(name, each);
        if (s.timeline >= first.timeline && s.number >= first.number) {
            all[(*n)++] = s;
        }
    }
    qsort(all, *n, sizeof *all, compare);
    return all;
}

/* Each follows the one before it; a timeline begins within, or right behind, those before it. */
static bool find_gap(const struct segment *all, size_t n, struct segment first,
                     struct segment *missing)
{
    if (n == 0 || compare(&all[0], &first) != 0) {
        *missing = first;
        return true;
    }
    struct segment end = all[0]; /* the highest number so far */
    for (size_t i = 1; i < n; i++) {
        bool branch = all[i].timeline != all[i - 1].timeline;
        struct segment before = branch ? end : all[i - 1];
        if (all[i].number > before.number + 1) {
            *missing = (struct segment){ before.timeline, before.number + 1 };
            return true;
        }
        end = all[i].number >= end.number ? all[i] : end;
    }
    return false;
}

enum err pgbackrest_find_gap(struct span json, const char *first, uint64_t segment_octets,
                             char missing[WAL_SEGMENT_CHARS + 1])
{
    json_t *list = json_loadb(json.p, json.n, 0, NULL);
    if (!json_is_object(list) || !is_segment(first) || segment_octets == 0) {
        json_decref(list);
        return ERR_INVALID;
    }
    uint64_t each = (UINT64_C(1) << 32) / segment_octets;
    struct segment begin = parse_segment(first, each), gap;
    size_t n;
    struct segment *all = read_segments(list, begin, each, &n);
    bool found = find_gap(all, n, begin, &gap);
    if (found) {
        segment_name(gap, each, missing);
    }
    free(all);
    json_decref(list);
    return found ? ERR_NOTFOUND : ERR_OK;
}
