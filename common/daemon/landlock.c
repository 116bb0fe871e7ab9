/*
 * landlock: rules by path, put in force for the calling thread (Documentation/userspace-api/
 * landlock.rst of Linux).
 *
 * A ruleset is a descriptor and the rights that the kernel checks; both go when it is entered. The
 * numbers are the kernel's, written here since the headers of Debian 12 end at ABI 2. Which paths,
 * and what an error means, is for the caller.
 */
#include "daemon/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

/* Rights of the file system, in the order of the kernel's bits. */
enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_MAKE_DIR = 1 << 7,
    FS_MAKE_REG = 1 << 8,
    FS_ABI_1 = (1 << 13) - 1,
    FS_REFER = 1 << 13,     /* ABI 2 */
    FS_TRUNCATE = 1 << 14,  /* ABI 3 */
    FS_IOCTL_DEV = 1 << 15, /* ABI 5 */
    FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
};

enum { NET_BIND_TCP = 1 << 0 };                               /* ABI 4 */
enum { SCOPE_ABSTRACT_UNIX = 1 << 0, SCOPE_SIGNAL = 1 << 1 }; /* ABI 6 */

#define RULE_PATH_BENEATH   1
#define CREATE_VERSION      1u
#define CALL_CREATE_RULESET 444
#define CALL_ADD_RULE       445
#define CALL_RESTRICT_SELF  446

struct attributes {
    uint64_t fs, net, scoped;
};

struct path_beneath {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

struct landlock {
    int ruleset;
    uint64_t handled;
};

unsigned landlock_abi(void)
{
    long abi = syscall(CALL_CREATE_RULESET, NULL, 0, CREATE_VERSION);
    return abi > 0 ? (unsigned)abi : 0;
}

static struct attributes attributes_of(unsigned abi, bool signals)
{
    struct attributes a = { .fs = FS_ABI_1 };
    a.fs |= abi >= 2 ? FS_REFER : 0u;
    a.fs |= abi >= 3 ? FS_TRUNCATE : 0u;
    a.fs |= abi >= 5 ? FS_IOCTL_DEV : 0u;
    a.net = abi >= 4 ? NET_BIND_TCP : 0u; /* its sockets were bound by others */
    a.scoped = abi >= 6 ? SCOPE_ABSTRACT_UNIX | (signals ? SCOPE_SIGNAL : 0u) : 0u;
    return a;
}

struct landlock *landlock_open(unsigned abi, bool signals)
{
    struct attributes a = attributes_of(abi, signals);
    /* A kernel that knows fewer members takes a longer struct whose further ones are 0. */
    long fd = syscall(CALL_CREATE_RULESET, &a, sizeof a, 0);
    if (fd < 0) {
        return NULL;
    }
    struct landlock *l = NEW(struct landlock);
    l->ruleset = (int)fd;
    l->handled = a.fs;
    return l;
}

static uint64_t rights_of(unsigned what, bool directory)
{
    uint64_t r = 0;
    r |= what & LANDLOCK_READ_FILES ? FS_READ_FILE : 0u;
    r |= what & LANDLOCK_LIST ? FS_READ_DIR : 0u;
    r |= what & LANDLOCK_WRITE_FILES ? FS_WRITE_FILE : 0u;
    r |= what & LANDLOCK_MAKE ? FS_MAKE_REG | FS_MAKE_DIR : 0u;
    return directory ? r : r & FS_OF_FILES;
}

enum err landlock_allow(struct landlock *l, const char *path, unsigned what)
{
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT || errno == ENOTDIR ? ERR_NOTFOUND : ERR_TEMP;
    }
    long rc = fstat(fd, &st);
    if (rc == 0) {
        struct path_beneath p = { .allowed = rights_of(what, S_ISDIR(st.st_mode)) & l->handled,
                                  .parent = fd };
        rc = syscall(CALL_ADD_RULE, l->ruleset, RULE_PATH_BENEATH, &p, 0);
    }
    int error = errno;
    close(fd);
    errno = error;
    return rc == 0 ? ERR_OK : ERR_TEMP;
}

enum err landlock_enter(struct landlock **pl)
{
    struct landlock *l = *pl;
    *pl = NULL;
    long rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (rc == 0) {
        rc = syscall(CALL_RESTRICT_SELF, l->ruleset, 0);
    }
    int error = errno;
    close(l->ruleset);
    free(l);
    errno = error;
    return rc == 0 ? ERR_OK : ERR_TEMP;
}
