#!/usr/bin/python3
"""
spool_calls: proves what file calls a message costs.

  spool_calls.py PROGRAM

Runs spool_calls under strace and compares the calls of its threads, between the marks, with what
the spool promises: a message that is read is one open, one read, one close, and no look at a name
or a directory; a small one that is written is one write.
"""

import os
import re
import subprocess
import sys
import tempfile

# After the file comes its directory: on a local file system a name is durable by a sync of its own.
SYNC = ["fsync", "close", "openat", "fsync", "close"]
EXPECTED = {
    "write_small": ["openat", "pwritev"] + SYNC,
    "read_small": ["openat", "read", "close"],
    "write_large": ["openat", "pwritev", "pwritev", "pwritev", "pwritev"] + SYNC,
    "read_large": ["openat", "read", "read", "read", "close"],
    "unlink": ["unlinkat"],
}

CALL = re.compile(r"^(\d+) +(\w+)\((.*)")
MARK = re.compile(r'^"/mark/(\w+)"')
WAKE = re.compile(r'^\d+, "\\1\\0\\0\\0\\0\\0\\0\\0", 8')


def trace(program):
    """The lines of a trace of the program's file calls; those of a call's return are left out."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace")
        env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # the leak check can't be traced
        run = subprocess.run(
            ["strace", "-f", "-qq", "-e", "trace=%file,%desc", "-e", "signal=none", "-o", path,
             program], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0:
            sys.exit(f"{program} failed under strace:\n{run.stdout}")
        with open(path, encoding="utf-8", errors="replace") as lines:
            return [m.groups() for m in map(CALL.match, lines) if m]


def is_other(name, rest):
    """Memory, and the wake-up of the loop."""
    return name == "mmap" or (name == "write" and WAKE.match(rest))


def calls_by_mark(lines):
    found, main, current = {}, lines[0][0], None
    for pid, name, rest in lines:
        mark = MARK.match(rest) if pid == main and name == "access" else None
        if mark:
            current = found.setdefault(mark.group(1), [])
        elif current is not None and pid != main and not is_other(name, rest):
            current.append(name.replace("64", ""))
    return found


def main():
    found = calls_by_mark(trace(sys.argv[1]))
    bad = {k: found.get(k) for k, v in EXPECTED.items() if found.get(k) != v}
    for name, calls in bad.items():
        print(f"{name}: {calls}, not {EXPECTED[name]}")
    return 1 if bad else 0


sys.exit(main())
