#!/usr/bin/python3
"""
spool_calls: proves what file calls a message costs.

  spool_calls.py PROGRAM

Runs spool_calls under strace and compares the calls of its threads, between the marks, with what
the spool promises: a message that is read is one open, one read, one close, and no look at a name
or a directory; a small one that is written is one write. Files are opened by their bare id in a
directory that is kept open. Where it is not yet ("cold"), that is one call more; where a file is
missing, the directory is given up and the whole path tried.
"""

import os
import re
import subprocess
import sys
import tempfile

# After the file comes its directory: on a local file system a name is durable by a sync of its own.
SYNC = ["fsync", "close", "fsync"]
EXPECTED = {
    "write_cold": ["openat day", "openat id", "pwrite"] + SYNC,
    "write_small": ["openat id", "pwrite"] + SYNC,
    "read_cold": ["openat day", "openat id", "read", "close"],
    "read_small": ["openat id", "read", "close"],
    "read_missing": ["openat id", "close", "openat day/id"],
    "write_large": ["openat id", "pwrite", "pwrite", "pwrite", "pwrite"] + SYNC,
    "read_large": ["openat id", "read", "read", "read", "close"],
    "unlink_cold": ["openat day", "unlinkat id"],
    "unlink": ["unlinkat id"],
}

DAY, ID = re.compile(r"\b\d{8}\b"), re.compile(r"\b[0-9a-hjkmnp-tv-z]{26}\b")
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


def call(name, rest):
    """With the path that it is for, if any."""
    path = re.match(r'-?\w+, "([^"]*)"', rest) if name in ("openat", "unlinkat") else None
    name = name.replace("64", "")
    return f"{name} {ID.sub('id', DAY.sub('day', path[1]))}" if path else name


def calls_by_mark(lines):
    """Of marks that come twice, the last."""
    found, main, current = {}, lines[0][0], None
    for pid, name, rest in lines:
        mark = MARK.match(rest) if pid == main and name == "access" else None
        if mark:
            current = found[mark.group(1)] = []
        elif current is not None and pid != main and not is_other(name, rest):
            current.append(call(name, rest))
    return found


def main():
    found = calls_by_mark(trace(sys.argv[1]))
    bad = {k: found.get(k) for k, v in EXPECTED.items() if found.get(k) != v}
    for name, calls in bad.items():
        print(f"{name}: {calls}, not {EXPECTED[name]}")
    return 1 if bad else 0


sys.exit(main())
