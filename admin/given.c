/*
 * given: see the header.
 */
#include "given.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 8 /* options that name a file */

static struct {
    const char *path;
    int fd;
} kept[MOST];
static size_t n_kept;

void given_keep(const char *path)
{
    struct stat st;
    if (!path || strcmp(path, "-") == 0 || n_kept == MOST) {
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        return;
    }
    if (fstat(fd, &st) != 0 || S_ISDIR(st.st_mode)) {
        close(fd);
        return;
    }
    kept[n_kept].path = path;
    kept[n_kept++].fd = fd;
}

/* A copy of the descriptor, which a reader closes; its place in the file is the first one's. */
static int again(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy >= 0) {
        lseek(copy, 0, SEEK_SET); /* a pipe has no place */
    }
    return copy;
}

int given_descriptor(const char *path)
{
    for (size_t i = 0; i < n_kept; i++) {
        if (strcmp(kept[i].path, path) == 0) {
            return again(kept[i].fd);
        }
    }
    return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
}

FILE *given_open(const char *path)
{
    int fd = given_descriptor(path);
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!f && fd >= 0) {
        close(fd);
    }
    return f;
}
