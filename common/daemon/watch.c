/*
 * watch: inotify on the folders that some files are reached through.
 *
 * A file is replaced in many ways: written anew, renamed over, or by a symbolic link that is turned
 * (to the file, or to a folder above it). So every folder in which a name of the path is looked up
 * by way of a link is watched, and the last one. Which file it was is not asked: who is told looks
 * for himself. Owns the descriptor and the watches; reads no file.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "daemon/parts.h"

#define GATHER_MS 1000 /* certificate and key are replaced one after the other */
#define LINKS_MAX 40   /* as many as the kernel follows */
#define MASK                                                                                       \
    (IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ATTRIB |            \
     IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct wds {
    int *v;
    size_t n;
};

struct watch {
    int fd;
    uv_poll_t poll;
    uv_timer_t gather;
    void (*changed)(void *arg);
    void *arg;
    const char **paths;
    size_t n;
    struct wds wds;        /* in force */
    char unseen[PATH_MAX]; /* the last folder that could not be watched: told once */
};

/* --- which folders --------------------------------------------------------------------------- */

static bool has(const struct wds *s, int wd)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->v[i] == wd) {
            return true;
        }
    }
    return false;
}

/* The first n octets of path name it. */
static void add_folder(struct watch *w, const char *path, size_t n, struct wds *out)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s", (int)n, n ? path : ".");
    int wd = inotify_add_watch(w->fd, n ? folder : ".", MASK);
    if (wd < 0) {
        if (strcmp(folder, w->unseen) != 0) {
            LOG(LOG_WARN, "tls.unwatched", F_STR("folder", folder), F_STR("why", strerror(errno)));
            memcpy(w->unseen, folder, sizeof folder);
        }
        return;
    }
    if (!has(out, wd)) {
        out->v = mem_grow(out->v, out->n + 1, sizeof *out->v);
        out->v[out->n++] = wd;
    }
}

/* Of the first n octets of path, the folder: `/a/b` is in `/a`, `/a` in `/`, `a` in ``. */
static size_t folder_size(const char *path, size_t n)
{
    while (n > 0 && path[n - 1] != '/') {
        n--;
    }
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    return n;
}

/* path with the link that its first n octets name replaced by what is there. */
static bool follow(const char *path, size_t n, char out[PATH_MAX])
{
    char link[PATH_MAX], target[PATH_MAX];
    snprintf(link, sizeof link, "%.*s", (int)n, path);
    ssize_t size = readlink(link, target, sizeof target - 1);
    if (size <= 0) {
        return false;
    }
    target[size] = '\0';
    size_t folder = target[0] == '/' ? 0 : folder_size(path, n);
    int length = snprintf(out, PATH_MAX, "%.*s%s%s%s", (int)folder, path, folder ? "/" : "", target,
                          path + n);
    return length > 0 && length < PATH_MAX;
}

/*
 * Walks down a path from name to name. A link: the folder it stands in counts, and the walk goes on
 * where it leads to. A name that is not there: the folder counts in which it may come up.
 */
static void add_path(struct watch *w, const char *start, struct wds *out)
{
    char path[PATH_MAX], next[PATH_MAX];
    unsigned links = 0;
    struct stat st = { 0 };
    if (snprintf(path, sizeof path, "%s", start) >= (int)sizeof path) {
        return;
    }
    for (size_t n = 0; path[n];) {
        n += strspn(path + n, "/");
        n += strcspn(path + n, "/");
        char prefix[PATH_MAX];
        snprintf(prefix, sizeof prefix, "%.*s", (int)n, path);
        if (lstat(prefix, &st) != 0) {
            add_folder(w, path, folder_size(path, n), out);
            return;
        }
        if (S_ISLNK(st.st_mode)) {
            add_folder(w, path, folder_size(path, n), out);
            if (links++ == LINKS_MAX || !follow(path, n, next)) {
                return;
            }
            memcpy(path, next, sizeof path);
            n = 0;
        }
    }
    size_t all = strlen(path);
    add_folder(w, path, S_ISDIR(st.st_mode) ? all : folder_size(path, all), out);
}

static void look_up(struct watch *w)
{
    struct wds wds = { 0 };
    for (size_t i = 0; i < w->n; i++) {
        if (*w->paths[i]) {
            add_path(w, w->paths[i], &wds);
        }
    }
    for (size_t i = 0; i < w->wds.n; i++) {
        if (!has(&wds, w->wds.v[i])) {
            inotify_rm_watch(w->fd, w->wds.v[i]);
        }
    }
    free(w->wds.v);
    w->wds = wds;
}

/* --- what happens in them -------------------------------------------------------------------- */

/* A link may lead elsewhere now: first the folders, so that no change falls between. */
static void on_gathered(uv_timer_t *t)
{
    struct watch *w = t->data;
    look_up(w);
    w->changed(w->arg);
}

/* From the first change on: a folder where something happens all the time is told of, too. */
static void gather(struct watch *w)
{
    if (!uv_is_active((uv_handle_t *)&w->gather)) {
        uv_timer_start(&w->gather, on_gathered, GATHER_MS, 0);
    }
}

static void on_events(uv_poll_t *h, int status, int events)
{
    struct watch *w = h->data;
    _Alignas(struct inotify_event) char room[4096];
    ssize_t n = status < 0 ? -1 : read(w->fd, room, sizeof room);
    (void)events;
    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *e = (const struct inotify_event *)(const void *)(room + at);
        if (!(e->mask & IN_IGNORED)) { /* the end of a watch; what led to it was told before */
            gather(w);
        }
        at += (ssize_t)(sizeof *e + e->len);
    }
}

/* --- life ------------------------------------------------------------------------------------ */

struct watch *watch_open(struct loop *l, void (*changed)(void *arg), void *arg)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        LOG(LOG_WARN, "tls.unwatched", F_STR("why", strerror(errno)));
        return NULL;
    }
    struct watch *w = NEW(struct watch);
    w->fd = fd;
    w->changed = changed;
    w->arg = arg;
    w->poll.data = w->gather.data = w;
    CHECK(uv_poll_init(loop_uv(l), &w->poll, fd) == 0);
    CHECK(uv_timer_init(loop_uv(l), &w->gather) == 0);
    CHECK(uv_poll_start(&w->poll, UV_READABLE, on_events) == 0);
    return w;
}

void watch_set(struct watch *w, const char *const *paths, size_t n)
{
    w->paths = mem_grow(w->paths, n, sizeof *w->paths);
    memcpy(w->paths, paths, n * sizeof *paths);
    w->n = n;
    w->unseen[0] = '\0';
    look_up(w);
    gather(w);
}
