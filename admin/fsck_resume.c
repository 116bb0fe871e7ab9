/*
 * fsck_resume: one JSON object. Keeps nothing open.
 */
#include "fsck_resume.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"

#define FORM 1

static const char *const class_keys[] = {
#define X(name, key, exit) key,
    FINDING_LIST(X)
#undef X
};

static json_t *question_json(const struct fsck_question *q)
{
    return json_pack("{si ss si si sb sb sb}", "fsck", FORM, "fleet", q->fleet, "volume", q->volume,
                     "since_day", (int)q->since_day, "deep", q->deep, "all", q->garbage, "older",
                     q->older);
}

static json_t *totals_json(const struct fsck_totals *t)
{
    json_t *found = json_object();
    for (size_t i = 0; i < FINDING_CLASSES; i++) {
        json_object_set_new(found, class_keys[i], json_integer((json_int_t)t->found[i]));
    }
    return json_pack("{sI sI sI sI so}", "files", (json_int_t)t->files, "pointers",
                     (json_int_t)t->pointers, "octets", (json_int_t)t->octets, "directories",
                     (json_int_t)t->directories, "found", found);
}

static uint64_t number(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

static void take_totals(const json_t *o, struct fsck_totals *t)
{
    const json_t *found = json_object_get(o, "found");
    *t = (struct fsck_totals){ .files = number(o, "files"),
                               .pointers = number(o, "pointers"),
                               .octets = number(o, "octets"),
                               .directories = number(o, "directories") };
    for (size_t i = 0; i < FINDING_CLASSES; i++) {
        t->found[i] = number(found, class_keys[i]);
    }
}

/* The file's, as far as it has what a file of this question has. */
static bool is_same(const json_t *file, const struct fsck_question *q)
{
    json_t *mine = question_json(q);
    json_t *its = json_object_get(file, "question");
    bool same = mine && json_equal(mine, its);
    json_decref(mine);
    return same;
}

bool fsck_resume_read(const char *path, const struct fsck_question *q, uint64_t *at,
                      struct fsck_totals *totals)
{
    json_error_t error;
    if (access(path, F_OK) != 0 && errno == ENOENT) {
        *at = 0;
        return true;
    }
    json_t *o = json_load_file(path, 0, &error);
    if (!o) {
        admin_say("%s: %s", path, error.text);
        return false;
    }
    bool same = is_same(o, q);
    if (same) {
        *at = number(o, "at");
        take_totals(json_object_get(o, "totals"), totals);
    } else {
        admin_say(
            "%s is of another question (or fleet): the volume, --since, --deep and --all must "
            "be the same, a relative --since the same day; or name another file",
            path);
    }
    json_decref(o);
    return same;
}

static bool write_json(const char *path, const json_t *o)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f) {
        return false;
    }
    bool ok = json_dumpf(o, f, JSON_INDENT(1)) == 0 && fputc('\n', f) != EOF && fflush(f) == 0 &&
              fsync(fd) == 0;
    return fclose(f) == 0 && ok;
}

bool fsck_resume_write(const char *path, const struct fsck_question *q, uint64_t at,
                       const struct fsck_totals *totals)
{
    size_t size = strlen(path) + sizeof ".new";
    char *temporary = mem_raw(size);
    json_t *o = json_pack("{so sI so}", "question", question_json(q), "at", (json_int_t)at,
                          "totals", totals_json(totals));
    snprintf(temporary, size, "%s.new", path);
    bool ok = o && write_json(temporary, o) && rename(temporary, path) == 0;
    if (!ok) {
        admin_say("%s: %s", temporary, strerror(errno));
    }
    json_decref(o);
    free(temporary);
    return ok;
}

void fsck_resume_end(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT) {
        admin_say("%s: %s", path, strerror(errno));
    }
}
