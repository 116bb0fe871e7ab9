/*
 * sandbox_calls: a list of what is allowed; everything else is EPERM. Not the end of the process: a
 * library's rare call must not take a node down, and what an intruder wanted is refused either way.
 *
 * What the list leaves out on purpose: other programs (execve), other processes (fork, ptrace,
 * process_vm_*, kill), other users and namespaces (set*id, unshare, setns, chroot, mount), and the
 * parts of the kernel that exploits like best (bpf, io_uring, userfaultfd, keyctl, perf_event_open,
 * modules). No unlink and no rename either: what is on a volume, no worker can take away.
 *
 * The filter's memory is libseccomp's and freed at once. Which files may be opened is Landlock's.
 */
#include "daemon/sandbox_calls.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

#define CALL(name) SCMP_SYS(name)

/* Allowed with any argument. What an architecture does not have is skipped. */
static const int allowed[] = {
    /* descriptors and bytes */
    CALL(read),
    CALL(write),
    CALL(readv),
    CALL(writev),
    CALL(pread64),
    CALL(pwrite64),
    CALL(preadv),
    CALL(pwritev),
    CALL(preadv2),
    CALL(pwritev2),
    CALL(lseek),
    CALL(close),
    CALL(close_range),
    CALL(dup),
    CALL(dup2),
    CALL(dup3),
    CALL(fcntl),
    CALL(pipe),
    CALL(pipe2),
    CALL(eventfd2),
    CALL(poll),
    CALL(ppoll),
    CALL(select),
    CALL(pselect6),
    CALL(epoll_create1),
    CALL(epoll_ctl),
    CALL(epoll_wait),
    CALL(epoll_pwait),
    CALL(epoll_pwait2),
    CALL(timerfd_create),
    CALL(timerfd_settime),
    CALL(timerfd_gettime),
    /* files; which ones is for Landlock */
    CALL(open),
    CALL(openat),
    CALL(stat),
    CALL(lstat),
    CALL(fstat),
    CALL(newfstatat),
    CALL(statx),
    CALL(statfs),
    CALL(fstatfs),
    CALL(access),
    CALL(faccessat),
    CALL(faccessat2),
    CALL(readlink),
    CALL(readlinkat),
    CALL(getdents64),
    CALL(getcwd),
    CALL(mkdir),
    CALL(mkdirat),
    CALL(fsync),
    CALL(fdatasync),
    CALL(fadvise64),
    CALL(fallocate),
    CALL(umask),
    CALL(inotify_init1),
    CALL(inotify_add_watch),
    CALL(inotify_rm_watch),
    /* the network; of which kinds, see below */
    CALL(connect),
    CALL(accept),
    CALL(accept4),
    CALL(bind),
    CALL(listen),
    CALL(getsockname),
    CALL(getpeername),
    CALL(getsockopt),
    CALL(setsockopt),
    CALL(sendto),
    CALL(recvfrom),
    CALL(sendmsg),
    CALL(recvmsg),
    CALL(sendmmsg),
    CALL(recvmmsg),
    CALL(shutdown),
    /* memory */
    CALL(mmap),
    CALL(munmap),
    CALL(mremap),
    CALL(mprotect),
    CALL(madvise),
    CALL(brk),
    CALL(mincore),
    CALL(mlock),
    CALL(mlock2),
    CALL(munlock),
    CALL(membarrier),
    /* threads, and waiting for them */
    CALL(futex),
    CALL(futex_waitv),
    CALL(set_robust_list),
    CALL(get_robust_list),
    CALL(rseq),
    CALL(set_tid_address),
    CALL(arch_prctl),
    CALL(sched_yield),
    CALL(sched_getaffinity),
    CALL(sched_getparam),
    CALL(sched_getscheduler),
    CALL(sched_get_priority_max),
    CALL(sched_get_priority_min),
    CALL(exit),
    CALL(exit_group),
    CALL(restart_syscall),
    /* signals to itself */
    CALL(rt_sigaction),
    CALL(rt_sigprocmask),
    CALL(rt_sigreturn),
    CALL(rt_sigpending),
    CALL(rt_sigtimedwait),
    CALL(rt_sigsuspend),
    CALL(sigaltstack),
    CALL(pause),
    CALL(alarm),
    CALL(getitimer),
    CALL(setitimer),
    /* the time */
    CALL(clock_gettime),
    CALL(clock_getres),
    CALL(clock_nanosleep),
    CALL(nanosleep),
    CALL(gettimeofday),
    CALL(time),
    CALL(times),
    /* who and what it is */
    CALL(getpid),
    CALL(getppid),
    CALL(gettid),
    CALL(getuid),
    CALL(geteuid),
    CALL(getgid),
    CALL(getegid),
    CALL(getresuid),
    CALL(getresgid),
    CALL(getgroups),
    CALL(getpgrp),
    CALL(getpgid),
    CALL(getsid),
    CALL(uname),
    CALL(sysinfo),
    CALL(getrlimit),
    CALL(getrusage),
    CALL(getcpu),
    CALL(getrandom),
    CALL(capget),
};

/*
 * Answered as by a kernel that has never heard of them, so that libraries take the older way:
 * clone3 passes its flags in memory, where no filter sees them.
 */
static const int unknown[] = {
    CALL(clone3),         CALL(openat2),           CALL(io_uring_setup),
    CALL(io_uring_enter), CALL(io_uring_register), CALL(memfd_secret),
};

/* Younger calls than this list: the same numbers on all architectures. */
#define YOUNGER_FIRST 450
#define YOUNGER_LAST  511

#define NAMESPACES                                                                                 \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
     CLONE_NEWNET)

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#ifdef MAILFLEET_FAULTS
#define FAULTS 1
#else
#define FAULTS 0
#endif

struct filter {
    scmp_filter_ctx seccomp;
    int error; /* the first one */
};

static void add(struct filter *f, uint32_t action, int call, const struct scmp_arg_cmp *args,
                unsigned n)
{
    /* EDOM: this architecture has no such call. */
    int rc = seccomp_rule_add_array(f->seccomp, action, call, n, args);
    if (rc != 0 && rc != -EDOM && !f->error) {
        f->error = -rc;
    }
}

static void allow(struct filter *f, int call)
{
    add(f, SCMP_ACT_ALLOW, call, NULL, 0);
}

/* With this value of one argument. */
static void allow_value(struct filter *f, int call, unsigned arg, uint64_t value)
{
    struct scmp_arg_cmp cmp = { .arg = arg, .op = SCMP_CMP_EQ, .datum_a = value };
    add(f, SCMP_ACT_ALLOW, call, &cmp, 1);
}

/* With these bits of one argument. */
static void allow_masked(struct filter *f, int call, unsigned arg, uint64_t mask, uint64_t value)
{
    struct scmp_arg_cmp cmp = {
        .arg = arg, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value
    };
    add(f, SCMP_ACT_ALLOW, call, &cmp, 1);
}

/* IP, UNIX, and what getaddrinfo asks the kernel for its addresses by. */
static void allow_sockets(struct filter *f)
{
    static const int families[] = { AF_UNIX, AF_INET, AF_INET6 };
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        allow_value(f, CALL(socket), 0, (uint64_t)families[i]);
    }
    struct scmp_arg_cmp route[] = { { .arg = 0, .op = SCMP_CMP_EQ, .datum_a = AF_NETLINK },
                                    { .arg = 2, .op = SCMP_CMP_EQ, .datum_a = 0 } };
    add(f, SCMP_ACT_ALLOW, CALL(socket), route, ARRAY_LEN(route));
    allow_value(f, CALL(socketpair), 0, AF_UNIX);
}

static void allow_some(struct filter *f)
{
    static const unsigned long requests[] = { FIONBIO, FIONREAD, FIOCLEX, FIONCLEX, TCGETS };
    static const int options[] = { PR_SET_NAME, PR_GET_NAME, PR_SET_NO_NEW_PRIVS, PR_GET_DUMPABLE,
                                   PR_CAPBSET_READ };
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        allow_value(f, CALL(ioctl), 1, requests[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        allow_value(f, CALL(prctl), 0, (uint64_t)options[i]);
    }
    allow_value(f, CALL(prlimit64), 0, 0);
    allow_value(f, CALL(tgkill), 0, (uint64_t)getpid());
    allow_masked(f, CALL(clone), 0, CLONE_THREAD | NAMESPACES, CLONE_THREAD);
}

/*
 * At the end LeakSanitizer stops all threads with a helper that shares their memory and traces
 * them. Others can be traced neither by that (Landlock), nor by asking to be traced.
 */
static void allow_sanitizer(struct filter *f)
{
    enum { CONT = 7, KILL = 8, GETREGS = 12, ATTACH = 16, DETACH = 17, GETREGSET = 0x4204 };
    static const int requests[] = { CONT, KILL, GETREGS, ATTACH, DETACH, GETREGSET };
    static const int calls[] = { CALL(wait4), CALL(prctl), CALL(memfd_create), CALL(setrlimit),
                                 CALL(getdents) };
    const uint64_t shared = CLONE_VM | CLONE_FS | CLONE_FILES;
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        allow_value(f, CALL(ptrace), 0, (uint64_t)requests[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        allow(f, calls[i]);
    }
    allow_masked(f, CALL(clone), 0, shared | NAMESPACES, shared);
}

static void fill(struct filter *f)
{
    for (size_t i = 0; i < ARRAY_LEN(allowed); i++) {
        allow(f, allowed[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        add(f, SCMP_ACT_ERRNO(ENOSYS), unknown[i], NULL, 0);
    }
    for (int call = YOUNGER_FIRST; call <= YOUNGER_LAST; call++) {
        add(f, SCMP_ACT_ERRNO(ENOSYS), call, NULL, 0);
    }
    allow_sockets(f);
    allow_some(f);
    if (SANITIZED) {
        allow_sanitizer(f);
    }
    if (FAULTS) {
        allow(f, CALL(kill)); /* a fault ends the node, not one process of it */
    }
}

int sandbox_calls_enter(void)
{
    if (prctl(PR_GET_SECCOMP) < 0 && errno == EINVAL) {
        return ENOSYS;
    }
    struct filter f = { .seccomp = seccomp_init(SCMP_ACT_ERRNO(EPERM)) };
    if (!f.seccomp) {
        return ENOMEM;
    }
    fill(&f);
    /* A tree instead of a list of a hundred and more comparisons; older libraries have none. */
    seccomp_attr_set(f.seccomp, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (!f.error) {
        f.error = -seccomp_load(f.seccomp);
    }
    seccomp_release(f.seccomp);
    return f.error;
}
