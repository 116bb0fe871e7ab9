/*
 * posix_volume: how a message file gets onto a directory tree and back.
 *
 * Everything is reached from one kept descriptor of the volume's root, on which the sentinel was
 * found right: what is mounted or moved over the root's path later can neither be written to nor
 * look empty. The directories that files lie in are kept open too (posix_dirs), and a file is
 * reached by its bare id in one of them: on a kernel NFS mount each further step of a path may cost
 * a call, on a local file system the descriptor is there to be synced. A directory in which a call
 * finds nothing may have been removed and made again, so the whole path is tried once then. No
 * other look is taken: no stat, no test whether a name exists.
 *
 * The files belong to outfile and infile; the volume owns its directories' descriptors. Nothing
 * here is removed after a failure: a file that was begun is an orphan, which the ledger or fsck
 * takes care of. A failed fsync is never tried again, as the second one may report success for
 * pages that the first has dropped.
 */
#include "store/posix_volume.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fault.h"

/* Directories that one look at the volume makes at most: it has a deadline like any call. */
#define DIRS_A_PROBE 256u

static enum err failed(char *why, const char *what, enum err e)
{
    snprintf(why, HEALTH_WHY, "%s: %s", what, strerror(errno));
    return e;
}

static const char *root_path(const struct volume *v)
{
    return v->url + sizeof POSIX_SCHEME - 2; /* with its first slash */
}

/* --- the root and its sentinel --------------------------------------------------------------- */

#define SENTINEL_TEXT (sizeof((struct volume *)0)->uuid + 2)

/* What it holds, without the newline; text has room for one octet more than a UUID and its NUL. */
static enum err read_sentinel(int root, char text[SENTINEL_TEXT], char *why)
{
    int fd = openat(root, SPOOL_SENTINEL, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return failed(why, SPOOL_SENTINEL, errno == ENOENT ? ERR_NOTFOUND : ERR_TEMP);
    }
    ssize_t n = read(fd, text, SENTINEL_TEXT - 1);
    enum err e = n < 0 ? failed(why, SPOOL_SENTINEL, ERR_TEMP) : ERR_OK;
    close(fd);
    text[n < 0 ? 0 : n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return e;
}

static enum err check_sentinel(int root, const struct volume *v, char *why)
{
    char text[SENTINEL_TEXT] = "";
    enum err e = read_sentinel(root, text, why);
    if (e == ERR_OK && strcmp(text, v->uuid) != 0) {
        snprintf(why, HEALTH_WHY, SPOOL_SENTINEL " holds the UUID of another volume");
        return ERR_CORRUPT;
    }
    return e;
}

enum err posix_volume_root(const struct volume *v, int *out, char *why)
{
    int fd = open(root_path(v), POSIX_DIR_FLAGS);
    if (fd < 0) {
        return failed(why, root_path(v), errno == ENOENT ? ERR_NOTFOUND : ERR_TEMP);
    }
    enum err e = check_sentinel(fd, v, why);
    if (e != ERR_OK) {
        close(fd);
        return e;
    }
    *out = fd;
    return ERR_OK;
}

static bool is_same_dir(int a, int b)
{
    struct stat sa, sb;
    return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

/*
 * Makes fd the kept root. One that took its place at the same path (the export was mounted again)
 * replaces the old in one step: dup3 leaves no moment at which other threads see neither. The
 * directories below the old one go after it, so that none of them is opened once more.
 */
static int keep_root(struct posix_volume *pv, int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) == 0) {
        pv->is_nfs = fs.f_type == NFS_SUPER_MAGIC;
    }
    int kept = -1;
    if (atomic_compare_exchange_strong(&pv->root, &kept, fd)) {
        return fd;
    }
    if (!is_same_dir(kept, fd)) {
        dup3(fd, kept, O_CLOEXEC);
        posix_dirs_forget_all(&pv->dirs);
    }
    close(fd);
    return kept;
}

/* TEMP whatever is wrong with it: a volume that can't be seen is no answer about its files. */
static enum err get_root(struct posix_volume *pv, int *root, char *why)
{
    int fd = pv->root;
    if (fd < 0) {
        if (posix_volume_root(&pv->volume, &fd, why) != ERR_OK) {
            return ERR_TEMP;
        }
        fd = keep_root(pv, fd);
    }
    *root = fd;
    return ERR_OK;
}

void posix_volume_init(struct posix_volume *pv, const struct volume *v)
{
    *pv = (struct posix_volume){ .volume = *v, .root = -1, .noatime = true };
    posix_dirs_init(&pv->dirs);
}

void posix_volume_fini(struct posix_volume *pv)
{
    posix_dirs_fini(&pv->dirs);
    if (pv->root >= 0) {
        close(pv->root);
    }
}

/* --- directories ----------------------------------------------------------------------------- */

/* The directory that the first len octets of path name. */
static bool make_dir(int root, const char *path, size_t len)
{
    char dir[SPOOL_PATH_MAX];
    snprintf(dir, sizeof dir, "%.*s", (int)len, path);
    return mkdirat(root, dir, SPOOL_DIR_MODE) == 0 || errno == EEXIST;
}

static bool sync_dir(int root, const char *path, size_t len)
{
    char dir[SPOOL_PATH_MAX];
    snprintf(dir, sizeof dir, "%.*s", (int)len, path);
    int fd = openat(root, dir, POSIX_DIR_FLAGS);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static size_t day_len(const char *path)
{
    return strcspn(path, "/");
}

static bool make_dirs(int root, const char *path, size_t dir_len)
{
    return make_dir(root, path, day_len(path)) && make_dir(root, path, dir_len);
}

/*
 * Makes durable what make_dirs has made. Another writer may already use a directory that is not
 * synced yet: its own sync covers it, since journalling file systems keep the order of creation.
 */
static bool sync_parents(const struct posix_volume *pv, int root, const char *path)
{
    return pv->is_nfs || (sync_dir(root, ".", 1) && sync_dir(root, path, day_len(path)));
}

/* --- reaching a file ------------------------------------------------------------------------- */

/* A call on a name in a directory: what it returns is negative when it fails. */
typedef int file_call(int dir, const char *name);

/*
 * Whether a call that failed is to be made again by the whole path. dir is where it failed, NULL if
 * that could not be opened. Kept descriptors are for speed: where there is none left for what needs
 * one, or a directory may not be opened for reading, files are reached without them.
 */
static bool wants_path(struct posix_volume *pv, struct posix_dir *dir, bool fresh, int error)
{
    if (error == EMFILE || error == ENFILE) {
        posix_dirs_forget_all(&pv->dirs);
        return true;
    }
    if (!dir) {
        return error != ENOENT;
    }
    if (fresh || (error != ENOENT && error != ESTALE)) {
        return false;
    }
    posix_dirs_forget(&pv->dirs, dir);
    return true;
}

/*
 * Makes a call on a file in its directory. After ESTALE it is not known what was done: an EEXIST
 * that follows may be our own file.
 */
static int reach(struct posix_volume *pv, int root, const char *path, size_t dir_len,
                 file_call *call)
{
    bool fresh;
    struct posix_dir *dir = posix_dirs_open(&pv->dirs, root, path, dir_len, &fresh);
    int r = dir ? call(dir->fd, path + dir_len + 1) : -1, error = errno;
    bool again = r < 0 && wants_path(pv, dir, fresh, error);
    posix_dirs_close(&pv->dirs, &dir);
    if (again) {
        r = call(root, path);
        errno = r < 0 && errno == EEXIST && error == ESTALE ? ESTALE : errno;
    }
    return r;
}

/* Makes durable the name that a file got at that moment. */
static bool sync_name(struct posix_volume *pv, int root, const char *path, size_t dir_len,
                      uint64_t made)
{
    bool fresh;
    struct posix_dir *dir = posix_dirs_open(&pv->dirs, root, path, dir_len, &fresh);
    if (!dir && wants_path(pv, dir, fresh, errno)) {
        return sync_dir(root, path, dir_len);
    }
    bool ok = dir && posix_dirs_sync(&pv->dirs, dir, made);
    posix_dirs_close(&pv->dirs, &dir);
    return ok;
}

/* --- writing --------------------------------------------------------------------------------- */

/* Errors of a create that say for certain that nothing was created. */
static bool is_refusal(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EROFS:
    case EACCES:
    case EPERM:
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
    case EMFILE:
    case ENFILE:
        return true;
    default:
        return false;
    }
}

static int create(int dir, const char *name)
{
    return openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, SPOOL_FILE_MODE);
}

/*
 * EEXIST: 72 random bits do not repeat, and the message already carries its id in Received:, so
 * there is no second try under another name.
 */
static enum err begin(struct posix_volume *pv, struct outfile *f, int root, const char *path,
                      size_t dir_len, char *why)
{
    int fd = reach(pv, root, path, dir_len, create);
    if (fd < 0 && errno == ENOENT) {
        if (!make_dirs(root, path, dir_len) || !sync_parents(pv, root, path)) {
            return failed(why, "mkdir", ERR_TEMP);
        }
        fd = reach(pv, root, path, dir_len, create);
    }
    if (fd < 0) {
        return failed(why, "create",
                      errno == EEXIST     ? ERR_BUSY
                      : is_refusal(errno) ? ERR_TEMP
                                          : ERR_UNCERTAIN);
    }
    f->file.fd = fd;
    f->file.made = posix_dirs_made(&pv->dirs);
    f->begun = true;
    return ERR_OK;
}

static bool write_all(int fd, uint64_t offset, struct span octets)
{
    while (octets.n) {
        ssize_t n = pwrite(fd, octets.p, octets.n, (off_t)offset);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        if (n > 0) {
            offset += (uint64_t)n;
            octets = span_skip(octets, (size_t)n);
        }
    }
    return true;
}

static int sync_file(int fd)
{
    if (fault_at(FAULT_spool_fsync)) {
        errno = EIO;
        return -1;
    }
    return fsync(fd);
}

/* Makes durable the file, then its name. */
static enum err finish(struct posix_volume *pv, struct outfile *f, int root, const char *path,
                       size_t dir_len, char *why)
{
    if (sync_file(f->file.fd) != 0) {
        return failed(why, "fsync", ERR_UNCERTAIN);
    }
    int closed = close(f->file.fd);
    f->file.fd = -1;
    if (closed != 0) {
        return failed(why, "close", ERR_UNCERTAIN);
    }
    if (!pv->is_nfs && !sync_name(pv, root, path, dir_len, f->file.made)) {
        return failed(why, "fsync of the directory", ERR_UNCERTAIN);
    }
    return ERR_OK;
}

/* The block went out with the first octets; its end is written again if they were not all. */
static enum err write_octets(struct outfile *f, char *why)
{
    bool ok = write_all(f->file.fd, outfile_offset(f), buf_span(&f->octets));
    if (ok && f->last && !f->first) {
        uint64_t tail_at;
        struct span tail = outfile_tail(f, &tail_at);
        ok = write_all(f->file.fd, tail_at, tail);
    }
    return ok ? ERR_OK : failed(why, "write", ERR_UNCERTAIN);
}

enum err posix_volume_write(struct posix_volume *pv, struct outfile *f, char *why)
{
    char path[SPOOL_PATH_MAX];
    size_t dir_len = spool_path(&f->id, pv->volume.fanout, path);
    bool first = !f->begun;
    int root;
    enum err e = get_root(pv, &root, why);
    if (e == ERR_OK) {
        outfile_prepare(f);
        e = first ? begin(pv, f, root, path, dir_len, why) : ERR_OK;
    }
    if (e == ERR_OK) {
        e = write_octets(f, why);
    }
    if (e == ERR_OK && f->last) {
        e = finish(pv, f, root, path, dir_len, why);
    }
    if (e != ERR_OK && f->file.fd >= 0) {
        close(f->file.fd); /* the failure that counts came before */
        f->file.fd = -1;
    }
    return e;
}

/* --- reading and unlinking ------------------------------------------------------------------- */

static int open_plain(int dir, const char *name)
{
    return openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

static int open_noatime(int dir, const char *name)
{
    return openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
}

static enum err open_file(struct posix_volume *pv, struct infile *f, char *why)
{
    char path[SPOOL_PATH_MAX];
    size_t dir_len = spool_path(&f->id, pv->volume.fanout, path);
    int root;
    enum err e = get_root(pv, &root, why);
    if (e != ERR_OK) {
        return e;
    }
    bool noatime = pv->noatime;
    int fd = reach(pv, root, path, dir_len, noatime ? open_noatime : open_plain);
    if (fd < 0 && errno == EPERM && noatime) {
        pv->noatime = false; /* another user's files; no later open tries it again */
        fd = reach(pv, root, path, dir_len, open_plain);
    }
    if (fd < 0) {
        return failed(why, "open", errno == ENOENT ? ERR_NOTFOUND : ERR_TEMP);
    }
    f->file.fd = fd;
    return ERR_OK;
}

/*
 * Reads up to ask octets and stops at enough: asking for one more than there should be shows a
 * file that is too long, without a second call to find the end of one that is right.
 */
static bool read_some(int fd, char *mem, size_t ask, size_t enough, size_t *got)
{
    *got = 0;
    do {
        ssize_t n = read(fd, mem + *got, ask - *got);
        if (n == 0) {
            break;
        }
        if (n < 0 && errno != EINTR) {
            return false;
        }
        *got += n > 0 ? (size_t)n : 0;
    } while (*got < enough);
    return true;
}

static enum err read_piece(struct infile *f, uint64_t chunk, bool *last, char *why)
{
    size_t want = infile_next(f, chunk, last), ask = want + *last, got;
    char *mem = mem_raw(ask);
    if (!read_some(f->file.fd, mem, ask, want, &got)) {
        free(mem);
        return failed(why, "read", ERR_TEMP);
    }
    enum err e = infile_take(f, mem, want, got);
    if (e != ERR_OK) {
        snprintf(why, HEALTH_WHY, "the file has another length or id than its pointer");
    }
    return e;
}

enum err posix_volume_read(struct posix_volume *pv, struct infile *f, uint64_t chunk, char *why)
{
    bool last = false;
    enum err e = f->file.fd >= 0 ? ERR_OK : open_file(pv, f, why);
    if (e == ERR_OK) {
        e = read_piece(f, chunk, &last, why);
    }
    if (f->file.fd >= 0 && (last || e != ERR_OK)) {
        close(f->file.fd); /* nothing was written, so it has nothing to tell */
        f->file.fd = -1;
    }
    return e;
}

static int unlink_name(int dir, const char *name)
{
    return unlinkat(dir, name, 0);
}

/* Not synced: a name that comes back after a loss of power is an orphan that fsck finds. */
enum err posix_volume_unlink(struct posix_volume *pv, const struct blob_id *id, char *why)
{
    char path[SPOOL_PATH_MAX];
    size_t dir_len = spool_path(id, pv->volume.fanout, path);
    int root;
    enum err e = get_root(pv, &root, why);
    if (e == ERR_OK && reach(pv, root, path, dir_len, unlink_name) != 0 && errno != ENOENT) {
        e = failed(why, "unlink", ERR_TEMP);
    }
    return e;
}

/* --- the regular look ------------------------------------------------------------------------ */

/* The path of the n-th directory of a day, by way of an id that lies in it. */
static size_t nth_path(uint64_t day, unsigned fanout, unsigned n, char path[SPOOL_PATH_MAX])
{
    struct blob_id id = spool_id_in(day, fanout, n);
    return spool_path(&id, fanout, path);
}

/* Makes at most `most` directories of a day, from *made on. */
static bool prepare_day(const struct posix_volume *pv, int root, uint64_t day, unsigned most,
                        unsigned *made)
{
    unsigned fanout = pv->volume.fanout, all = 1u << (4 * fanout), from = *made;
    char path[SPOOL_PATH_MAX];
    for (; *made < all && *made - from < most; ++*made) {
        if (!make_dirs(root, path, nth_path(day, fanout, *made, path))) {
            return false;
        }
    }
    return *made == from || sync_parents(pv, root, path);
}

/* Deliveries find their directories: the next day's are made while this one lasts. */
static bool prepare_tomorrow(struct posix_volume *pv, int root)
{
    uint64_t tomorrow = spool_today() + 1;
    if (pv->day != tomorrow) {
        pv->day = tomorrow;
        pv->made = 0;
    }
    return prepare_day(pv, root, tomorrow, DIRS_A_PROBE, &pv->made);
}

void posix_volume_probe(struct posix_volume *pv, bool prepare, struct backend_report *r)
{
    struct statvfs fs;
    int root;
    r->err = posix_volume_root(&pv->volume, &root, r->why);
    if (r->err != ERR_OK) {
        return;
    }
    root = keep_root(pv, root);
    if (fstatvfs(root, &fs) != 0) {
        r->err = failed(r->why, "statvfs", ERR_TEMP);
    } else if (prepare && !prepare_tomorrow(pv, root)) {
        r->err = failed(r->why, "making the next day's directories", ERR_TEMP);
    } else {
        r->free = (uint64_t)fs.f_bavail * fs.f_frsize;
        r->used = (uint64_t)(fs.f_blocks - fs.f_bfree) * fs.f_frsize;
    }
}

/* --- for the operator's command -------------------------------------------------------------- */

static bool write_file(int root, const char *name, struct span text)
{
    int fd = openat(root, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, SPOOL_FILE_MODE);
    if (fd < 0) {
        return false;
    }
    bool ok = write_all(fd, 0, text) && fsync(fd) == 0;
    return close(fd) == 0 && ok;
}

/* What is there already stays: a sentinel that is right is as good as a new one. */
static enum err mark_root(int root, const struct volume *v, char *why)
{
    char text[sizeof v->uuid + 1];
    snprintf(text, sizeof text, "%s\n", v->uuid);
    if (!write_file(root, SPOOL_SENTINEL, span_str(text)) && errno != EEXIST) {
        return failed(why, SPOOL_SENTINEL, ERR_TEMP);
    }
    enum err e = check_sentinel(root, v, why);
    if (e == ERR_OK && !sync_dir(root, ".", 1)) {
        e = failed(why, "fsync", ERR_TEMP);
    }
    return e;
}

enum err posix_volume_create(const struct volume *v, const struct spool_options *o, char *why,
                             size_t why_size)
{
    (void)o;
    char text[HEALTH_WHY] = "";
    enum err e = ERR_OK;
    int root = -1;
    if (mkdir(root_path(v), SPOOL_DIR_MODE) != 0 && errno != EEXIST) {
        e = failed(text, root_path(v), ERR_TEMP);
    } else if ((root = open(root_path(v), POSIX_DIR_FLAGS)) < 0) {
        e = failed(text, root_path(v), ERR_TEMP);
    } else {
        e = mark_root(root, v, text);
    }
    if (e == ERR_OK) {
        struct posix_volume pv;
        unsigned made = 0;
        posix_volume_init(&pv, v);
        if (!prepare_day(&pv, root, spool_today(), UINT_MAX, &made)) {
            e = failed(text, "making the first day's directories", ERR_TEMP);
        }
        posix_volume_fini(&pv);
    }
    if (root >= 0) {
        close(root);
    }
    if (e != ERR_OK) {
        snprintf(why, why_size, "%s", text);
    }
    return e;
}

/* A file of its own tells what access(2) can't: a quota, a squashed root, a lying export. */
static enum err try_write(int root, char *why)
{
    char name[64];
    snprintf(name, sizeof name, ".mailfleet-check-%ld", (long)getpid());
    bool ok = write_file(root, name, SPAN("mailfleet\n"));
    enum err e = ok ? ERR_OK : failed(why, "writing a file", ERR_TEMP);
    if (unlinkat(root, name, 0) != 0 && ok) {
        e = failed(why, "unlinking a file", ERR_TEMP);
    }
    return e;
}

enum err posix_volume_check(const struct volume *v, const struct spool_options *o, char *why,
                            size_t why_size)
{
    (void)o;
    char text[HEALTH_WHY];
    int root;
    enum err e = posix_volume_root(v, &root, text);
    if (e == ERR_OK) {
        e = v->state == VOLUME_ACTIVE ? try_write(root, text) : ERR_OK;
        close(root);
    }
    if (e != ERR_OK) {
        snprintf(why, why_size, "%s", text);
    }
    return e;
}

enum err posix_volume_learn(struct volume *v, const struct spool_options *o, char *why,
                            size_t why_size)
{
    (void)o;
    char text[HEALTH_WHY], uuid[SENTINEL_TEXT] = "";
    int root = open(root_path(v), POSIX_DIR_FLAGS);
    enum err e = root >= 0 ? read_sentinel(root, uuid, text)
                           : failed(text, root_path(v), errno == ENOENT ? ERR_NOTFOUND : ERR_TEMP);
    if (root >= 0) {
        close(root);
    }
    if (e == ERR_OK && !spool_is_uuid(span_str(uuid))) {
        snprintf(text, sizeof text, SPOOL_SENTINEL " does not hold a UUID");
        e = ERR_CORRUPT;
    }
    if (e == ERR_OK) {
        snprintf(v->uuid, sizeof v->uuid, "%s", uuid);
    } else {
        snprintf(why, why_size, "%s", text);
    }
    return e;
}
