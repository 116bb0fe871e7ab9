/*
 * nas_libc: functions in the place of libc's, for a program that wants to know when it connects,
 * and to be a name server of its own. Whoever includes this has them, libnfs too.
 */
#ifndef MAILFLEET_TESTS_NAS_LIBC_H
#define MAILFLEET_TESTS_NAS_LIBC_H

#include "nas_failing.h"

#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>

#define NAME_NONE "none.test"
#define NAME_NAS  "nas.test"  /* the laboratory's server */
#define NAME_SLOW "slow.test" /* the same, when the gate is open; until then it is looked up */

static _Atomic unsigned connects;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t opened;
    unsigned waiting;
    bool open;
} gate = { .mutex = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER };

static void gate_set(bool open)
{
    pthread_mutex_lock(&gate.mutex);
    gate.open = open;
    pthread_cond_broadcast(&gate.opened);
    pthread_mutex_unlock(&gate.mutex);
}

static unsigned gate_waiting(void)
{
    pthread_mutex_lock(&gate.mutex);
    unsigned n = gate.waiting;
    pthread_mutex_unlock(&gate.mutex);
    return n;
}

static void gate_wait(void)
{
    pthread_mutex_lock(&gate.mutex);
    gate.waiting++;
    while (!gate.open) {
        pthread_cond_wait(&gate.opened, &gate.mutex);
    }
    gate.waiting--;
    pthread_mutex_unlock(&gate.mutex);
}

/* The next definition of a function of this name: the sanitizer's or libc's. */
#define REAL(result, name, ...) ((result(*)(__VA_ARGS__))(uintptr_t)dlsym(RTLD_NEXT, name))

int connect(int fd, __CONST_SOCKADDR_ARG to, socklen_t size)
{
    connects++;
    return REAL(int, "connect", int, const struct sockaddr *, socklen_t)(fd, to.__sockaddr__, size);
}

static const char *server_host(void)
{
    static char host[64];
    snprintf(host, sizeof host, "%.*s", (int)strcspn(nfs_server(), ":"), nfs_server());
    return host;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    if (!strcmp(host, NAME_NONE)) {
        return EAI_NONAME;
    }
    if (!strcmp(host, NAME_SLOW)) {
        gate_wait();
    }
    bool known = !strcmp(host, NAME_SLOW) || !strcmp(host, NAME_NAS);
    return REAL(int, "getaddrinfo", const char *, const char *, const struct addrinfo *,
                struct addrinfo **)(known ? server_host() : host, service, hints, out);
}

/* The same server by this host. */
static inline void set_host(struct spool_fixture *f, size_t volume, const char *host)
{
    char server[256];
    snprintf(server, sizeof server, "%s%s", host, nfs_server() + strcspn(nfs_server(), ":"));
    set_server(f, volume, server);
}

#endif
