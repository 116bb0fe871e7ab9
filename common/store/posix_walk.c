/*
 * posix_walk: what lies on a volume that is a directory of a mounted file system. Everything is
 * reached from the descriptor of the root on which the sentinel was found right, so what is mounted
 * over it later is not mistaken for the volume. Links are told of and never followed.
 *
 * A walk owns the root's descriptor, and that of the file that was read last: a file that is read
 * in pieces is opened once. Calls may hang with the file system.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "store/posix_volume.h"
#include "store/volume_walk_ops.h"

#define PATH_MOST 512

struct posix_walk {
    struct volume_walk base;
    struct volume volume;
    int root;
    int fd; /* -1, or the file of path */
    char path[PATH_MOST];
};

static struct posix_walk *of_base(struct volume_walk *w)
{
    return CONTAINER_OF(w, struct posix_walk, base);
}

static enum err posix_walk_open(const struct volume *v, const struct spool_options *o,
                                struct volume_walk **out, char *why, size_t why_size)
{
    char text[HEALTH_WHY];
    int root;
    (void)o;
    enum err e = posix_volume_root(v, &root, text);
    if (e != ERR_OK) {
        snprintf(why, why_size, "%s", text);
        return e;
    }
    struct posix_walk *w = NEW(struct posix_walk);
    w->base.ops = &spool_posix_walk;
    w->volume = *v;
    w->root = root;
    w->fd = -1;
    *out = &w->base;
    return ERR_OK;
}

static void close_file(struct posix_walk *w)
{
    if (w->fd >= 0) {
        close(w->fd);
    }
    w->fd = -1;
}

static void posix_walk_close(struct volume_walk *base)
{
    struct posix_walk *w = of_base(base);
    close_file(w);
    close(w->root);
    free(w);
}

static enum err err_of_errno(void)
{
    return errno == ENOENT || errno == ENOTDIR ? ERR_NOTFOUND : ERR_TEMP;
}

static int64_t ms_of(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000 + t->tv_nsec / 1000000;
}

static void describe(const char *name, const struct stat *st, struct walk_entry *out)
{
    int64_t mtime = ms_of(&st->st_mtim), ctime = ms_of(&st->st_ctim);
    snprintf(out->name, sizeof out->name, "%s", name);
    out->directory = S_ISDIR(st->st_mode);
    out->regular = S_ISREG(st->st_mode);
    out->size = out->regular ? (uint64_t)st->st_size : 0;
    out->changed_ms = mtime > ctime ? mtime : ctime;
}

/* OK, NOTFOUND when it has gone meanwhile, TEMP. */
static enum err look_at(int dir, const char *path, const char *name, struct walk_entry *out)
{
    struct stat st;
    if (fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return err_of_errno();
    }
    describe(name, &st, out);
    return ERR_OK;
}

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static enum err list_all(DIR *d, walk_entry_fn *fn, void *arg)
{
    struct walk_entry entry;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            return errno ? ERR_TEMP : ERR_OK;
        }
        enum err r =
            is_dots(e->d_name) ? ERR_NOTFOUND : look_at(dirfd(d), e->d_name, e->d_name, &entry);
        if (r == ERR_TEMP) {
            return r;
        }
        if (r == ERR_OK && !fn(arg, &entry)) {
            return ERR_OK;
        }
    }
}

static enum err posix_walk_list(struct volume_walk *base, const char *dir, walk_entry_fn *fn,
                                void *arg)
{
    struct posix_walk *w = of_base(base);
    int fd = openat(w->root, *dir ? dir : ".", POSIX_DIR_FLAGS | O_NOFOLLOW);
    if (fd < 0) {
        return err_of_errno();
    }
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return ERR_TEMP;
    }
    enum err e = list_all(d, fn, arg);
    closedir(d);
    return e;
}

static enum err posix_walk_stat(struct volume_walk *base, const char *path, struct walk_entry *out)
{
    const char *slash = strrchr(path, '/');
    struct walk_entry entry;
    enum err e = look_at(of_base(base)->root, path, slash ? slash + 1 : path, &entry);
    if (e == ERR_OK) {
        *out = entry;
    }
    return e;
}

/* Of opening or reading it: a volume that is away fails with EIO too, for each of its files. */
static enum err err_of_file(const struct posix_walk *w)
{
    char why[HEALTH_WHY];
    int root;
    switch (errno) {
    case EIO:
    case EUCLEAN: /* the file system's structure is damaged there, */
    case EBADMSG: /* or a checksum is wrong */
    case EACCES:
    case EPERM:
        break;
    default:
        return err_of_errno();
    }
    if (posix_volume_root(&w->volume, &root, why) != ERR_OK) {
        return ERR_TEMP;
    }
    close(root);
    return ERR_CORRUPT;
}

/* What a pipe or a device would do to who opens it is not waited for. */
static enum err open_file(struct posix_walk *w, const char *path)
{
    if (w->fd >= 0 && strcmp(w->path, path) == 0) {
        return ERR_OK;
    }
    close_file(w);
    if (strlen(path) >= sizeof w->path) {
        return ERR_INVALID;
    }
    w->fd = openat(w->root, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (w->fd < 0) {
        return err_of_file(w);
    }
    snprintf(w->path, sizeof w->path, "%s", path);
    return ERR_OK;
}

static enum err posix_walk_read(struct volume_walk *base, const char *path, uint64_t offset,
                                void *to, size_t n, size_t *got)
{
    struct posix_walk *w = of_base(base);
    size_t done = 0;
    enum err e = open_file(w, path);
    while (e == ERR_OK && done < n) {
        ssize_t r = pread(w->fd, (char *)to + done, n - done, (off_t)(offset + done));
        if (r == 0) {
            break;
        }
        if (r < 0 && errno != EINTR) {
            e = err_of_file(w);
            close_file(w);
            return e;
        }
        done += r > 0 ? (size_t)r : 0;
    }
    if (e == ERR_OK) {
        *got = done;
    }
    return e;
}

const struct volume_walk_ops spool_posix_walk = {
    .open = posix_walk_open,
    .close = posix_walk_close,
    .list = posix_walk_list,
    .stat = posix_walk_stat,
    .read = posix_walk_read,
};
