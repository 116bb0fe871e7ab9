/*
 * memcached_fixture: memcached servers of a test's own, on free ports, and processes that play one.
 *
 * A peer is a child process: nobody, and gone with the test however that ends. peer_kill is the
 * test's own way to end it, also in its teardown.
 */
#ifndef MAILFLEET_TESTS_MEMCACHED_FIXTURE_H
#define MAILFLEET_TESTS_MEMCACHED_FIXTURE_H

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <libmemcached/memcached.h>

#include "base/check.h"
#include "base/span.h"

#define NOBODY 65534

struct peer {
    pid_t pid;
    uint16_t port;
    char name[32];
};

static inline uint64_t now_ms(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline struct sockaddr_in address(uint16_t port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET,
                                 .sin_port = htons(port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

/* A socket bound to a free port. */
static inline int bind_any(uint16_t *port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = address(0);
    socklen_t n = sizeof a;
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static inline bool listens(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = address(port);
    bool ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    close(fd);
    return ok;
}

static inline bool exited(const struct peer *p)
{
    return waitpid(p->pid, NULL, WNOHANG) != 0;
}

/* Our children are nobody (memcached does not like to be root), and die with us however we end. */
static inline pid_t fork_child(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(geteuid() != 0 || (setgid(NOBODY) == 0 && setuid(NOBODY) == 0));
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    return pid;
}

/* False: somebody else took the port. */
static inline bool memcached_start(struct peer *p)
{
    char port[8];
    snprintf(port, sizeof port, "%u", p->port);
    snprintf(p->name, sizeof p->name, "127.0.0.1:%u", p->port);
    p->pid = fork_child();
    if (p->pid == 0) {
        execlp("memcached", "memcached", "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "1",
               (char *)NULL);
        _exit(127);
    }
    while (!listens(p->port)) {
        if (exited(p)) {
            return false;
        }
        usleep(1000);
    }
    return true;
}

static inline void memcached_open(struct peer *p)
{
    do {
        close(bind_any(&p->port));
    } while (!memcached_start(p));
}

/* What a server's owner can do, by another client than ours. */
static inline memcached_st *memcached_raw(const struct peer *p)
{
    memcached_st *mc = memcached_create(NULL);
    memcached_behavior_set(mc, MEMCACHED_BEHAVIOR_SUPPORT_CAS, 1);
    memcached_server_add(mc, "127.0.0.1", p->port);
    return mc;
}

static inline void peer_kill(struct peer *p)
{
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
        p->pid = 0;
    }
}

/* SIGSTOP takes effect when the peer is next scheduled, not when it is sent. */
static inline void peer_freeze(struct peer *p)
{
    kill(p->pid, SIGSTOP);
    CHECK(waitpid(p->pid, NULL, WUNTRACED) == p->pid);
}

/*
 * Forks a peer that is no memcached; returns a socket that is listened at. In the child pid is 0;
 * the parent closes the socket.
 */
static inline int peer_listen(struct peer *p)
{
    int fd = bind_any(&p->port);
    CHECK(listen(fd, 10) == 0);
    snprintf(p->name, sizeof p->name, "127.0.0.1:%u", p->port);
    p->pid = fork_child();
    return fd;
}

#endif
