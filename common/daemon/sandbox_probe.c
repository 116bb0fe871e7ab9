/*
 * sandbox_probe: one small function a try, which returns 0 or an errno. What succeeds is undone or
 * harmless: without the sandbox the worker goes on as if nothing had been. The files are named by
 * the environment (MAILFLEET_PROBE_READ, _WRITE and _UNLINK, paths separated by colons). In a build
 * without faults this file is empty.
 */
#include "daemon/sandbox_probe.h"

#ifdef MAILFLEET_FAULTS

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fault.h"
#include "base/log.h"

static int result_of(long rc)
{
    return rc < 0 ? errno : 0;
}

static int closed(int fd)
{
    int error = result_of(fd);
    if (fd >= 0) {
        close(fd);
    }
    return error;
}

/* --- files ------------------------------------------------------------------------------------ */

static int try_read(const char *path)
{
    return closed(open(path, O_RDONLY | O_CLOEXEC));
}

static int try_write(const char *path)
{
    return closed(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
}

static int try_unlink(const char *path)
{
    return result_of(unlink(path));
}

/* --- everything else -------------------------------------------------------------------------- */

/* EFAULT when it may be called. */
static int try_execve(void)
{
    return result_of(syscall(SYS_execve, NULL, NULL, NULL));
}

static int try_execveat(void)
{
    return result_of(syscall(SYS_execveat, -1, NULL, NULL, NULL, 0));
}

/* The child ends at once. */
static int try_fork(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    if (pid > 0) {
        waitpid(pid, NULL, 0);
    }
    return result_of(pid);
}

/* ESRCH when it may be called: it traces nobody. */
static int try_ptrace(void)
{
    return result_of(ptrace(PTRACE_PEEKDATA, getpid(), NULL, NULL));
}

static int try_process_vm(void)
{
    char from = 0, to;
    struct iovec local = { &to, 1 }, remote = { &from, 1 };
    return result_of(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
}

static int try_packet_socket(void)
{
    return closed(socket(AF_PACKET, SOCK_DGRAM, 0));
}

static int try_vsock(void)
{
    return closed(socket(AF_VSOCK, SOCK_STREAM, 0));
}

static int try_netlink(void)
{
    return closed(socket(AF_NETLINK, SOCK_RAW, 15 /* uevents */));
}

static int try_namespace(void)
{
    return result_of(unshare(0));
}

/* What it is now. */
static int try_personality(void)
{
    return result_of(syscall(SYS_personality, 0xffffffffu));
}

static int try_setuid(void)
{
    return result_of(setuid(getuid()));
}

/* EFAULT, or another error of the kernel's own, when it may be called. */
static int try_io_uring(void)
{
    return result_of(syscall(SYS_io_uring_setup, 1, NULL));
}

static int try_keyctl(void)
{
    return result_of(syscall(SYS_keyctl, 0, -3 /* the session keyring */, 0));
}

static int try_chmod(void)
{
    return result_of(fchmod(-1, 0));
}

/* A terminal's input is where an intruder would write commands. */
static int try_tiocsti(void)
{
    return result_of(syscall(SYS_ioctl, -1, 0x5412, NULL));
}

static const struct {
    const char *name;
    int (*try)(void);
} probes[] = {
    { "execve", try_execve },
    { "execveat", try_execveat },
    { "fork", try_fork },
    { "ptrace", try_ptrace },
    { "process_vm_readv", try_process_vm },
    { "socket-packet", try_packet_socket },
    { "socket-vsock", try_vsock },
    { "socket-netlink", try_netlink },
    { "unshare", try_namespace },
    { "personality", try_personality },
    { "setuid", try_setuid },
    { "io_uring", try_io_uring },
    { "keyctl", try_keyctl },
    { "chmod", try_chmod },
    { "tiocsti", try_tiocsti },
};

/* --- all -------------------------------------------------------------------------------------- */

static void tell(const char *what, const char *path, int error)
{
    const char *name = error ? strerrorname_np(error) : "done";
    LOG(LOG_INFO, "sandbox.probe", F_STR("what", what), F_STR("path", path),
        F_STR("result", name ? name : "unknown"));
}

static void probe_files(const char *what, const char *variable, int (*try)(const char *))
{
    const char *list = getenv(variable);
    char *copy = mem_strdup(list ? list : ""), *save = NULL;
    for (char *path = strtok_r(copy, ":", &save); path; path = strtok_r(NULL, ":", &save)) {
        tell(what, path, try(path));
    }
    free(copy);
}

void sandbox_probe(void)
{
    if (!fault_at(FAULT_sandbox_probe)) {
        return;
    }
    probe_files("read", "MAILFLEET_PROBE_READ", try_read);
    probe_files("write", "MAILFLEET_PROBE_WRITE", try_write);
    probe_files("unlink", "MAILFLEET_PROBE_UNLINK", try_unlink);
    for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
        tell(probes[i].name, "", probes[i].try());
    }
    LOG(LOG_INFO, "sandbox.probed", F_U64("tries", ARRAY_LEN(probes)));
}

#endif
