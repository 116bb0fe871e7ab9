"""Runs the tests and counts them: first those that meson knows, then tests/{nfs,system}/test_*.py.

Each prints a line, also where a program has many: the programs speak TAP (cmocka, the script
runner and tests/system/harness.py do) or are one test by their exit status. This process makes
itself the reaper of all its descendants, so that none can hide; one that is left behind is killed
and counts as a failure.

    runner.py BUILD 'UNIT TEST...' [SUITE | NAME | SUITE/NAME]...

These unit tests are run a second time, from BUILD-threads: they are the suite `threads`.
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
SYSTEM_TIME_LIMIT = 1500  # seconds, of one program; its tests have limits of their own
TAP_RESULT = re.compile(r"(not )?ok\b *\d* *-? *(.*?) *(# *(?:skip|todo)\b.*)?$", re.IGNORECASE)
TAP_PLAN = re.compile(r"1\.\.(\d+)")

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "LSAN_OPTIONS": "report_objects=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class Program:
    """The results of one test program, counted and printed as they come."""

    def __init__(self, name):
        self.name = name
        self.passed = self.failed = 0
        self.plan = None

    def result(self, ok, text):
        self.passed += ok
        self.failed += not ok
        print(f"{'ok    ' if ok else 'NOT OK'} {self.name}: {text}", flush=True)

    def tap(self, line):
        if match := TAP_PLAN.match(line):
            self.plan = int(match[1])
        elif match := TAP_RESULT.match(line.rstrip("\n")):
            # A test that is not run proves nothing, so it has not passed.
            self.result(not match[1] and not match[3], match[2] + (match[3] or ""))

    def end_of_tap(self, how, clean):
        """What the single results do not say. clean: the program's status was success."""
        if self.passed + self.failed != self.plan:
            self.result(False, f"{self.passed + self.failed} results of {self.plan} planned, {how}")
        elif not clean and not self.failed:
            self.result(False, how)


def wanted(name, words):
    """name is SUITE/NAME."""
    return not words or any(word.removeprefix("test_") in (name, *name.split("/", 1))
                            for word in words)


# --- what meson knows ----------------------------------------------------------------------------


def meson_tests(build):
    """SUITE/NAME -> what meson knows of it."""
    described = subprocess.run(["meson", "introspect", "--tests", build], check=True,
                               stdout=subprocess.PIPE, text=True).stdout
    return {f"{test['suite'][0].split(':')[-1]}/{test['name']}": test
            for test in json.loads(described)}


def run_meson(build, tests, suite=None):
    """Runs these tests, two at a time as meson does, and then tells what each said; as of this
    suite."""
    if not tests:
        return []
    log = build / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    meson = subprocess.run(["meson", "test", "-C", build, "--no-rebuild", "--quiet",
                            "--timeout-multiplier", "4",
                            *(test["name"] for test in tests.values())],
                           env={**os.environ, **SANITIZERS}, stdin=subprocess.DEVNULL, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if not log.exists():
        program = Program("meson")
        program.result(False, f"ran no test, status {meson.returncode}")
        show(meson.stdout.splitlines())
        return [program]
    ran = {test["name"].split(":")[-1].replace(" / ", "/"): test
           for test in map(json.loads, log.read_text().splitlines())}
    return [judge_meson(f"{suite}/{known['name']}" if suite else name, known["protocol"] == "tap",
                        ran.get(name))
            for name, known in tests.items()]


def judge_meson(name, tap, test):
    program = Program(name)
    if test is None:
        program.result(False, "was not run")
        return program
    said = test.get("stdout", "")
    clean = test["result"] in ("OK", "EXPECTEDFAIL")
    if tap:
        for line in said.splitlines():
            program.tap(line)
        program.end_of_tap(f"{test['result']}, status {test['returncode']}", clean)
    else:
        program.result(clean, f"{test['duration']:.1f} s, {test['result']}")
    if program.failed:
        show((said + test.get("stderr", "")).splitlines())
    return program


# --- system tests --------------------------------------------------------------------------------


def system_programs():
    return {f"{suite}/{path.stem.removeprefix('test_')}": path for suite in ("nfs", "system")
            for path in sorted((ROOT / "tests" / suite).glob("test_*.py"))}


def run_system(name, path, build, log_dir):
    program = Program(name)
    process = subprocess.Popen(
        ["/usr/bin/python3", "-B", path], start_new_session=True, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **SANITIZERS, "MAILFLEET_BUILD": str(build),
             "MAILFLEET_TEST_LOGS": str(log_dir)})
    lines = []

    def read():
        for line in process.stdout:
            lines.append(line)
            program.tap(line)

    # A process that outlives the program may hold the pipe, so its end is not the program's.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    too_late = threading.Timer(SYSTEM_TIME_LIMIT, process.kill)
    too_late.start()
    status = process.wait()
    too_late.cancel()
    left = kill_descendants(grace=2)
    reader.join()
    program.end_of_tap(f"status {status}", status == 0)
    check_left(program, left)
    log = log_dir / f"{name.replace('/', '-')}.log"
    log.write_text("".join(lines))
    if program.failed:
        show("".join(lines).splitlines())
        print(f"    | all of it, and the logs of its fleet: {log_dir}", flush=True)
    return program


def show(lines):
    for line in lines[-60:]:
        print(f"    | {line}", flush=True)


# --- processes -----------------------------------------------------------------------------------


def check_left(program, left):
    if left:
        program.result(False, "left processes behind: " + "; ".join(left))


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
    build, threaded, words = Path(argv[0]).resolve(), argv[1].split(), argv[2:]
    log_dir = build / "test-logs"
    log_dir.mkdir(exist_ok=True)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    known, system = meson_tests(build), system_programs()
    for word in words:
        if not any(wanted(name, [word]) for name in [*known, *system, "threads/"]):
            print(f"there is no suite and no test program named {word}", file=sys.stderr)
            return 2

    programs = run_meson(build, {name: known[name] for name in known if wanted(name, words)})
    if not words or "threads" in words:
        programs += run_meson(Path(f"{build}-threads"), {f"unit/{name}": known[f"unit/{name}"]
                                                         for name in threaded}, "threads")
    if programs:
        check_left(programs[-1], kill_descendants(grace=2))
    programs += [run_system(name, path, build, log_dir) for name, path in system.items()
                 if wanted(name, words)]
    failed = sum(program.failed for program in programs)
    print(f"{sum(program.passed for program in programs)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        kill_descendants()
        sys.exit(130)
