/*
 * program: see the header. The end of a program is an event of its own (a pidfd), since its output
 * may end long before.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

/* That a killed one has to end; one that is stuck in the kernel does not. */
#define KILLED_MS 1000
#define PIECE     65536

extern char **environ;

struct program {
    pid_t pid;
    int output;
    int end; /* readable once it has ended */
    int64_t deadline;
};

static int64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* 0, or an errno. */
static int spawn(char *const *words, int out, pid_t *pid)
{
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    CHECK(posix_spawn_file_actions_init(&fa) == 0 && posix_spawnattr_init(&attr) == 0);
    posix_spawn_file_actions_addopen(&fa, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, out, STDOUT_FILENO);
    /* A group of its own, so that what it started ends with it. */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attr, 0);
    int code = posix_spawnp(pid, words[0], &fa, &attr, words, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    return code;
}

/* 0, or an errno. */
static int start(char *const *words, unsigned ms, struct program *p)
{
    int pipe_fds[2];
    p->deadline = monotonic_ms() + ms;
    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
        return errno;
    }
    int code = spawn(words, pipe_fds[1], &p->pid);
    close(pipe_fds[1]);
    if (code != 0) {
        close(pipe_fds[0]);
        return code;
    }
    p->output = pipe_fds[0];
    p->end = pidfd_open(p->pid, 0);
    CHECK(p->end >= 0);
    return 0;
}

/* Until there is something to read, an end too. False: the time is over. */
static bool await(int fd, int64_t deadline)
{
    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int64_t left = deadline - monotonic_ms();
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n >= 0 || errno != EINTR) {
            return n > 0;
        }
    }
}

static enum err read_answer(const struct program *p, struct buf *out)
{
    while (await(p->output, p->deadline)) {
        char *room = buf_reserve(out, PIECE);
        if (!room) {
            return ERR_LIMIT;
        }
        ssize_t n = read(p->output, room, PIECE);
        if (n == 0) {
            return ERR_OK;
        }
        if (n > 0) {
            buf_commit(out, (size_t)n);
        } else if (errno != EINTR) {
            return ERR_TEMP;
        }
    }
    return ERR_TEMP;
}

/* Its status, or -1: it had to be killed. Who does not end even so is left to the system. */
static int finish(struct program *p, bool kill_it)
{
    int status = -1;
    bool killed = kill_it || !await(p->end, p->deadline);
    if (killed) {
        kill(-p->pid, SIGKILL);
        await(p->end, monotonic_ms() + KILLED_MS);
    }
    waitpid(p->pid, &status, WNOHANG);
    close(p->output);
    close(p->end);
    return killed ? -1 : status;
}

enum err program_ask(char *const *words, unsigned ms, struct buf *out, char *why, size_t why_size)
{
    struct program p;
    int code = start(words, ms, &p);
    if (code != 0) {
        snprintf(why, why_size, "%s: %s", words[0], strerror(code));
        return ERR_TEMP;
    }
    enum err e = read_answer(&p, out);
    int status = finish(&p, e != ERR_OK);
    if (e == ERR_LIMIT) {
        snprintf(why, why_size, "%s: says too much", words[0]);
    } else if (status == -1) {
        snprintf(why, why_size, "%s: has not ended within %u seconds", words[0], ms / 1000);
        e = ERR_TEMP;
    } else if (status != 0) {
        snprintf(why, why_size, "%s failed; what it said is on standard error", words[0]);
        e = ERR_TEMP;
    }
    return e;
}
