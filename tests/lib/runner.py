"""Runs the test programs one after another and counts what they report.

A test program speaks TAP (cmocka and tests/system/harness.py do) or is one test by its exit status.
The programs are those that meson knows and tests/system/test_*.py. `meson test` would run the
first kind as well; this runner prints every single test, and takes a process that is left behind
for the failure it is: it makes itself the reaper of all its descendants, so none can hide.

    runner.py BUILD [SUITE | NAME]...
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36
TAP_RESULT = re.compile(r"(not )?ok\b *\d* *-? *(.*?) *(# *(?:skip|todo)\b.*)?$", re.IGNORECASE)
TAP_PLAN = re.compile(r"1\.\.(\d+)")

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "LSAN_OPTIONS": "report_objects=1",
}


class Program:
    """A test program; its results, once it has run."""

    def __init__(self, suite, name, argv, env=None, timeout=120, tap=True, workdir=None):
        self.suite, self.name, self.argv = suite, name, argv
        self.env, self.timeout, self.tap, self.workdir = env or {}, timeout, tap, workdir
        self.passed = self.failed = 0
        self.plan = None
        self.lines = []

    def wanted(self, words):
        return not words or any(word in (self.suite, self.name, f"{self.suite}/{self.name}")
                                for word in words)

    def result(self, ok, text):
        self.passed += ok
        self.failed += not ok
        print(f"{'ok    ' if ok else 'NOT OK'} {self.suite}/{self.name}: {text}", flush=True)

    def run(self, log_dir):
        began = time.monotonic()
        process = subprocess.Popen(
            self.argv, cwd=self.workdir, env={**os.environ, **SANITIZERS, **self.env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True)
        late = threading.Timer(self.timeout, kill_descendants)
        late.start()
        # A process that outlives its test may hold the pipe: the end is the end of the program.
        reader = threading.Thread(target=self.read, args=(process.stdout,), daemon=True)
        reader.start()
        process.wait()
        late.cancel()
        left = kill_descendants(grace=2)
        reader.join()
        self.judge(process.returncode, time.monotonic() - began, left)
        log = log_dir / f"{self.suite}-{self.name}.log"
        log.write_text("".join(self.lines))
        if self.failed:
            print("".join(f"    | {line}" for line in self.lines[-40:]), end="")
            print(f"    all of it: {log}", flush=True)

    def read(self, stream):
        for line in stream:
            self.lines.append(line)
            if not self.tap:
                continue
            if match := TAP_PLAN.match(line):
                self.plan = int(match[1])
            elif match := TAP_RESULT.match(line.rstrip("\n")):
                # A test that is not run proves nothing, so it has not passed.
                self.result(not match[1] and not match[3], match[2] + (match[3] or ""))

    def judge(self, status, seconds, left):
        """What the single results do not say: how the program ended and what it left."""
        if seconds >= self.timeout:
            self.result(False, f"took longer than {self.timeout} s")
        elif not self.tap:
            self.result(status == 0, f"{seconds:.1f} s, status {status}")
        elif self.passed + self.failed != self.plan:
            self.result(False, f"{self.passed + self.failed} results of {self.plan} planned, "
                               f"status {status}")
        elif status != 0 and not self.failed:
            self.result(False, f"ended with status {status}")
        if left:
            self.result(False, "left processes behind: " + "; ".join(left))


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
        reap()
        time.sleep(0.05)
    killed = {}
    while left := descendants():
        killed.update(left)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if threading.current_thread() is threading.main_thread():
            reap()
        time.sleep(0.05)
    return sorted(set(killed.values()))


def reap():
    """Takes the status of orphans that have come to this process."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def meson_programs(build):
    described = subprocess.run(["meson", "introspect", "--tests", build], check=True,
                               stdout=subprocess.PIPE, text=True).stdout
    for test in json.loads(described):
        suite = (test["suite"] or ["tests"])[0].split(":")[-1]
        yield Program(suite, test["name"], test["cmd"], test["env"], test["timeout"] * 2,
                      test["protocol"] == "tap", test["workdir"] or build)


def system_programs(build, log_dir):
    for path in sorted((ROOT / "tests/system").glob("test_*.py")):
        yield Program("system", path.stem.removeprefix("test_"),
                      ["/usr/bin/python3", str(path)], timeout=1500,
                      env={"MAILFLEET_BUILD": str(build), "MAILFLEET_TEST_LOGS": str(log_dir)})


def main(argv):
    build = Path(argv[0]).resolve()
    log_dir = build / "test-logs"
    log_dir.mkdir(exist_ok=True)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    known = [*meson_programs(build), *system_programs(build, log_dir)]
    for word in argv[1:]:
        if not any(program.wanted([word]) for program in known):
            print(f"there is no suite and no test program named {word}", file=sys.stderr)
            return 2
    programs = [program for program in known if program.wanted(argv[1:])]
    for program in programs:
        program.run(log_dir)
    failed = sum(program.failed for program in programs)
    print(f"{sum(program.passed for program in programs)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        kill_descendants()
        sys.exit(130)
