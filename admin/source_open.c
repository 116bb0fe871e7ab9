/*
 * source_open: see the header. The kernel walks the path (openat2, Linux 5.6): a walk of our own,
 * name by name, would be the same in more calls.
 */
#include "source_open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/span.h"
#include "source_parts.h"

/* Where the path's trusted part ends: behind its last slash. */
static size_t base_end(struct span path, size_t own)
{
    size_t n = own < path.n ? own : path.n;
    while (n > 0 && path.p[n - 1] != '/') {
        n--;
    }
    return n;
}

/* Without the slashes at its end, behind which a link would be followed. */
static struct span without_slashes(struct span s)
{
    while (s.n > 1 && s.p[s.n - 1] == '/') {
        s.n--;
    }
    return s;
}

static int open_base(struct span base)
{
    char *path = base.n ? span_dup(base) : span_dup(SPAN("."));
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int why = errno;
    free(path);
    errno = why;
    return fd;
}

static int open_beneath(int base, struct span rest, int flags)
{
    const struct open_how how = { .flags = (unsigned)flags | O_CLOEXEC,
                                  .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
    char *path = rest.n ? span_dup(rest) : span_dup(SPAN("."));
    int fd = (int)syscall(SYS_openat2, base, path, &how, sizeof how);
    int why = errno;
    free(path);
    errno = why;
    return fd;
}

static const char *reason(int error)
{
    switch (error) {
    case ELOOP:
    case EXDEV:
        return "a link, behind the operator's part of it";
    case ENOSYS:
        return "this kernel can't open it without following links (openat2, Linux 5.6)";
    default:
        return strerror(error);
    }
}

enum err source_open(const char *path, size_t own, int flags, int *fd, char *why, size_t why_size)
{
    struct span whole = without_slashes(span_str(path));
    size_t end = base_end(whole, own);
    int base = open_base(span_first(whole, end));
    int opened = base < 0 ? -1 : open_beneath(base, span_skip(whole, end), flags);
    int error = errno;
    if (base >= 0) {
        close(base);
    }
    if (opened < 0) {
        return source_fail(error == ENOENT ? ERR_NOTFOUND : ERR_DENIED, why, why_size, "%s: %s",
                           path, base < 0 ? strerror(error) : reason(error));
    }
    *fd = opened;
    return ERR_OK;
}
