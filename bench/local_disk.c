/*
 * local_disk: how fast the file system itself takes the files of nfs_bare: create, write, fsync and
 * close, by depth threads.
 *
 *   local_disk PATH SIZE DEPTH SECONDS
 *
 * PATH is a directory with the directories 00 to ff in it. Reading and unlinking are done too, for
 * order's sake; they come from the page cache.
 */
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workload.h"

#define DIRS      256
#define NAME_SIZE 64
#define FILE_MODE 0640

static struct workload work;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int root;
static char *octets;

/* The same name whenever it is asked for; spread over the directories. */
static void file_name(size_t number, char out[NAME_SIZE])
{
    unsigned dir = (unsigned)(number * 2654435761u >> 8) % DIRS;
    snprintf(out, NAME_SIZE, "%02x/%08x%018zu", dir, (unsigned)getpid(), number);
}

static void write_file(const char *name)
{
    int fd = openat(root, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, FILE_MODE);
    if (fd < 0 || write(fd, octets, work.size) != (ssize_t)work.size || fsync(fd) != 0 ||
        close(fd) != 0) {
        err(1, "writing %s", name);
    }
}

static void read_file(const char *name, char *into)
{
    int fd = openat(root, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, into, work.size) != (ssize_t)work.size || close(fd) != 0) {
        err(1, "reading %s", name);
    }
}

static void operate(enum phase phase, size_t number, char *room)
{
    char name[NAME_SIZE];
    file_name(number, name);
    if (phase == PHASE_READ) {
        read_file(name, room);
    } else if (phase == PHASE_UNLINK) {
        if (unlinkat(root, name, 0) != 0) {
            err(1, "unlinking %s", name);
        }
    } else {
        write_file(name);
    }
}

static void *run(void *arg)
{
    char *room = arg;
    size_t number;
    pthread_mutex_lock(&lock);
    while (workload_next(&work, &number)) {
        enum phase phase = work.phase;
        pthread_mutex_unlock(&lock);
        uint64_t begun = workload_now();
        operate(phase, number, room);
        pthread_mutex_lock(&lock);
        workload_done(&work, begun);
    }
    pthread_mutex_unlock(&lock);
    free(room);
    return NULL;
}

static void run_phase(void)
{
    pthread_t threads[DEPTH_MAX];
    size_t n = workload_depth(&work);
    for (size_t i = 0; i < n; i++) {
        char *room = malloc(work.size);
        if (!room || pthread_create(&threads[i], NULL, run, room) != 0) {
            errx(1, "no thread");
        }
    }
    for (size_t i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    workload_turn(&work);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        errx(2, "usage: local_disk PATH SIZE DEPTH SECONDS");
    }
    work.size = workload_number(argv[2], 1024, 1024 * 1024, "the size");
    work.depth = workload_number(argv[3], 1, DEPTH_MAX, "the depth");
    work.seconds = strtod(argv[4], NULL);
    root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    octets = malloc(work.size);
    if (root < 0 || !octets) {
        err(1, "%s", argv[1]);
    }
    memset(octets, 'x', work.size);
    workload_init(&work);
    while (work.phase != PHASE_END) {
        run_phase();
    }
    workload_fini(&work);
    free(octets);
    close(root);
    return 0;
}
