"""A process namespace for a run: whatever it starts ends with it, however it ends.

A server that puts itself in the background, or a run that is killed, leaves nothing behind: when the
first process of the namespace ends, the kernel ends all others. Needs root. It is no wall: files and
the network are the machine's.
"""

import ctypes
import os
import signal
import sys
import traceback

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run_alone(work):
    """Calls work() in the namespace; returns what it returned, an exit status."""
    check(libc.unshare(CLONE_NEWPID | CLONE_NEWNS))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = first_process(work)
        except Exception:  # nothing of the parent's is to be run here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda number, _frame: os.kill(child, number))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def first_process(work):
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    os.setsid()  # the terminal's Ctrl-C comes by way of the parent, once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.default_int_handler)
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
    check(libc.mount(b"proc", b"/proc", b"proc",
                     ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC), None))
    try:
        return work()
    except KeyboardInterrupt:
        return 130
