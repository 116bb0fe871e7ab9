"""Runs one program and ends all that it has started, however they have hidden: `reaper.py SECONDS PROGRAM...`

The program gets as long, and no longer than the standard input of this one is held open: so nothing outlives whoever
waits for it. This process makes itself the parent of all orphans below it, gives them a moment to end, and kills what
is left. Then it says so in JSON, on standard error, which the program itself never sees: {"status": as of
subprocess.Popen, "late": whether it was killed, "left": [command line...], "seconds": it took, "cpu":
seconds, of all of them}. It knows nothing of tests.
"""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE = 2  # seconds


def adopt_orphans():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants():
    """pid -> command line, of every living process below this one."""
    found, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="latin-1")
                state, parent = stat[stat.rindex(")") + 2:].split()[:2]
                words = (entry / "cmdline").read_bytes().split(b"\0")[:4]
            except OSError:
                continue
            if state not in "ZX":
                parents[int(entry.name)] = int(parent)
                found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {pid: found[pid] for pid in ours - {os.getpid()}}


def kill_descendants(grace=0):
    """Kills all that is below this process after the time of grace; what that was."""
    deadline = time.monotonic() + grace
    while descendants() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = {}
    while left := descendants():
        killed.update(left)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    reap()
    return sorted(set(killed.values()))


def reap():
    """Takes the status of orphans that have come to this process."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(argv):
    adopt_orphans()
    began = time.monotonic()
    process = subprocess.Popen(argv[1:], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
    ended, lifeline = os.pidfd_open(process.pid), 0
    late = ended not in select.select([ended, lifeline], [], [], float(argv[0]))[0]
    if late:
        process.kill()
    status = process.wait()
    left = kill_descendants(0 if late else GRACE)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    json.dump({"status": status, "late": late, "left": left, "seconds": time.monotonic() - began,
               "cpu": used.ru_utime + used.ru_stime}, sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
