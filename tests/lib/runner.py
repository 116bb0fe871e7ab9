"""Runs the tests and counts them: those that meson knows, and tests/{nfs,system}/test_*.py, some side by side.

Each prints a line, also where a program has many: the programs speak TAP (cmocka, the script
runner and tests/system/harness.py do) or are one test by their exit status. What failed is told once
more at the end: who keeps the output may keep no more of it. Every program has a reaper of its own
(reaper.py), so that none of its processes can hide; one that is left behind is killed and counts as a
failure.

A system test has a fleet of its own on ports of its own, and waits most of its time. So several run
at once, those that take longest first; what stands in ALONE has the machine for itself, at the end.
The output of each is whole, in the order in which they begin, which is always the same.

    runner.py BUILD [--jobs N] [SUITE | NAME | SUITE/NAME]...

The unit tests of builds.THREADED are run a second time, from BUILD-threads: they are the suite `threads`.
"""

import argparse
import concurrent.futures
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from builds import THREADED, BuildError, Builds
from reaper import adopt_orphans, kill_descendants

ROOT = Path(__file__).resolve().parents[2]
REAPER = Path(__file__).with_name("reaper.py")
TIME_LIMIT = 1500  # seconds, of one program; its tests have limits of their own
TAP_RESULT = re.compile(r"(not )?ok\b *\d* *-? *(.*?) *(# *(?:skip|todo)\b.*)?$", re.IGNORECASE)
TAP_PLAN = re.compile(r"1\.\.(\d+)")

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "LSAN_OPTIONS": "report_objects=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}

# Which build a program needs beside the one that all have.
NEEDS = {"nfs/posix": "guest", "nfs/nfs": "guest", "system/instructions": "release", "system/upgrade": "next"}
# What takes minutes begins first, so that the last one to end is a short one.
LONG = ("system/drain", "system/load", "system/filer", "system/outage", "system/pop3", "system/admin", "system/upgrade",
        "nfs/nfs", "nfs/posix", "system/nodes", "system/crash", "system/fsck")
# What can't stand company, and why.
ALONE = {
    "nfs/nfs": "its servers have parts of a second to answer in, and its guest has a processor",
    "system/filer": "how fast polls are while a filer hangs is held against how fast they were before",
}


class Report:
    """What one program says: counted, and kept until it is its turn to be shown. Filled by one thread."""

    def __init__(self):
        self.lines = queue.SimpleQueue()
        self.passed = self.failed = 0
        self.failures = []  # what is told again at the end

    def say(self, line):
        self.lines.put(line)

    def say_twice(self, line):
        self.failures.append(line)
        self.say(line)

    def tail(self, lines):
        """The last lines of a program's output, but for the results that were good: they are told already."""
        for line in [line for line in lines if not line.startswith("ok ")][-60:]:
            self.say_twice(f"    | {line}")

    def cost(self, name, verdict):
        self.say(f"       {name}: {verdict['seconds']:.0f} s, {verdict['cpu']:.0f} s of a processor")

    def end(self):
        self.lines.put(None)

    def show(self):
        """Until its end; what is said meanwhile is shown at once."""
        for line in iter(self.lines.get, None):
            print(line, flush=True)


class Program:
    """The results of one test program, as they come."""

    def __init__(self, name, report):
        self.name, self.report = name, report
        self.results = self.failed = 0
        self.plan = None

    def result(self, ok, text):
        self.results += 1
        self.failed += not ok
        self.report.passed += ok
        self.report.failed += not ok
        say = self.report.say if ok else self.report.say_twice
        say(f"{'ok    ' if ok else 'NOT OK'} {self.name}: {text}")

    def tap(self, line):
        if match := TAP_PLAN.match(line):
            self.plan = int(match[1])
        elif match := TAP_RESULT.match(line.rstrip("\n")):
            # A test that is not run proves nothing, so it has not passed.
            self.result(not match[1] and not match[3], match[2] + (match[3] or ""))

    def end_of_tap(self, how, clean):
        """What the single results do not say. clean: the program's status was success."""
        if self.results != self.plan:
            self.result(False, f"{self.results} results of {self.plan} planned, {how}")
        elif not clean and not self.failed:
            self.result(False, how)


def reaped(command, env, on_line):
    """Runs it to its end, and ends what it leaves; the reaper's verdict. on_line is given each line of output."""
    with subprocess.Popen(["/usr/bin/python3", "-B", REAPER, str(TIME_LIMIT), *command], text=True, errors="replace",
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **SANITIZERS, **env}) as process:
        for line in process.stdout:  # ends when nobody is left who could write
            on_line(line)
        return json.loads(process.stderr.read())


def check_left(program, verdict):
    if verdict["left"]:
        program.result(False, "left processes behind: " + "; ".join(verdict["left"]))


# --- what meson knows ----------------------------------------------------------------------------


class Meson:
    """Tests of one build, several at a time as meson does; told when all of them have ended."""

    def __init__(self, build, tests, suite=None, needs=None):
        """tests: name -> what meson knows of it; suite: as of this one."""
        self.build, self.tests, self.suite, self.needs = build, tests, suite, needs
        self.name = suite or "meson"

    @staticmethod
    def known(build):
        """SUITE/NAME -> what meson knows of it."""
        described = subprocess.run(["meson", "introspect", "--tests", build], check=True,
                                   stdout=subprocess.PIPE, text=True).stdout
        return {f"{test['suite'][0].split(':')[-1]}/{test['name']}": test
                for test in json.loads(described)}

    def run(self, report):
        log = self.build / "meson-logs/testlog.json"
        log.unlink(missing_ok=True)
        said = []
        verdict = reaped(["meson", "test", "-C", self.build, "--no-rebuild", "--quiet", "--timeout-multiplier", "4",
                          *(test["name"] for test in self.tests.values())], {}, said.append)
        meson = Program("meson", report)
        if not log.exists():
            meson.result(False, f"ran no test, status {verdict['status']}")
            report.tail("".join(said).splitlines())
            return
        ran = {test["name"].split(":")[-1].replace(" / ", "/"): test
               for test in map(json.loads, log.read_text().splitlines())}
        for name, known in self.tests.items():
            self.judge(Program(f"{self.suite}/{known['name']}" if self.suite else name, report),
                       known["protocol"] == "tap", ran.get(name))
        check_left(meson, verdict)
        report.cost(self.name, verdict)

    def judge(self, program, tap, test):
        if test is None:
            program.result(False, "was not run")
            return
        said = test.get("stdout", "")
        clean = test["result"] in ("OK", "EXPECTEDFAIL")
        if tap:
            for line in said.splitlines():
                program.tap(line)
            program.end_of_tap(f"{test['result']}, status {test['returncode']}", clean)
        else:
            program.result(clean, f"{test['duration']:.1f} s, {test['result']}")
        if program.failed:
            program.report.tail((said + test.get("stderr", "")).splitlines())


# --- system tests --------------------------------------------------------------------------------


class System:
    """A file of tests/nfs or tests/system. What it says, and the logs of its fleets, are kept in a folder."""

    def __init__(self, path, build):
        self.path, self.build = path, build
        self.name = f"{path.parent.name}/{path.stem.removeprefix('test_')}"
        self.needs = NEEDS.get(self.name)

    @staticmethod
    def known(build):
        """SUITE/NAME -> it, those that take longest first."""
        found = [System(path, build) for suite in ("nfs", "system")
                 for path in sorted((ROOT / "tests" / suite).glob("test_*.py"))]
        by_name = {system.name: system for system in found}
        return {name: by_name[name] for name in [*LONG, *(name for name in by_name if name not in LONG)]}

    def run(self, report):
        program, lines = Program(self.name, report), []
        logs = self.build / "test-logs" / self.name.replace("/", "-")
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)

        def on_line(line):
            lines.append(line)
            program.tap(line)

        verdict = reaped(["/usr/bin/python3", "-B", self.path],
                         {"MAILFLEET_BUILD": str(self.build), "MAILFLEET_TEST_LOGS": str(logs)}, on_line)
        program.end_of_tap("the program took too long" if verdict["late"] else f"status {verdict['status']}",
                           verdict["status"] == 0)
        check_left(program, verdict)
        (logs / "output").write_text("".join(lines))
        report.cost(self.name, verdict)
        if program.failed:
            report.tail("".join(lines).splitlines())
            report.say(f"    | all of it, and the logs of its fleet: {logs}")


# --- all of them ---------------------------------------------------------------------------------


def run_one(task, builds, report):
    try:
        if task.needs:
            builds.need(task.needs)
        task.run(report)
    except BuildError as error:
        Program(task.name, report).result(False, "was not run")
        report.tail(str(error).splitlines())
    except Exception as error:  # of this program; what is not told would count as well
        Program(task.name, report).result(False, f"{type(error).__name__}: {error}")
    finally:
        report.end()


def run_all(tasks, builds, jobs):
    """Their reports."""
    reports = {task: Report() for task in tasks}
    together = [task for task in tasks if task.name not in ALONE]
    lanes = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        for task in together:
            lanes.submit(run_one, task, builds, reports[task])
        for task in together:
            reports[task].show()
        for task in tasks:
            if task.name in ALONE:
                lanes.submit(run_one, task, builds, reports[task])
                reports[task].show()
    finally:
        lanes.shutdown(wait=False, cancel_futures=True)
    return reports.values()


def conclude(reports):
    """Prints what failed, once more, and the counts. How many failed."""
    if again := [line for report in reports for line in report.failures]:
        print("", "what failed:", *again, sep="\n")
    failed = sum(report.failed for report in reports)
    print(f"{sum(report.passed for report in reports)} passed, {failed} failed")
    return failed


def wanted(name, words):
    """name is SUITE/NAME."""
    return not words or any(word.removeprefix("test_") in (name, *name.split("/", 1))
                            for word in words)


def options_of(argv):
    parser = argparse.ArgumentParser(prog="tests/run")
    # Most of a test is waiting, but for what another is given to do meanwhile.
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)) + 1,
                        help="how many programs run at once; one more than there are processors")
    parser.add_argument("build", type=lambda text: Path(text).resolve())
    parser.add_argument("words", nargs="*", metavar="SUITE | NAME | SUITE/NAME")
    return parser.parse_intermixed_args(argv)


def main(argv):
    options = options_of(argv)
    build, words = options.build, options.words
    builds = Builds(build)
    known, system = Meson.known(build), System.known(build)
    for word in words:
        if not any(wanted(name, [word]) for name in [*known, *system, "threads/"]):
            print(f"there is no suite and no test program named {word}", file=sys.stderr)
            return 2

    tasks = []
    if of_meson := {name: test for name, test in known.items() if wanted(name, words)}:
        tasks.append(Meson(build, of_meson))
    if not words or "threads" in words:
        tasks.append(Meson(builds.folder("threads"), {f"unit/{name}": known[f"unit/{name}"] for name in THREADED},
                           "threads", needs="threads"))
    tasks += [task for name, task in system.items() if wanted(name, words)]
    return 1 if conclude(run_all(tasks, builds, options.jobs)) else 0


def interrupted(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    adopt_orphans()
    signal.signal(signal.SIGTERM, interrupted)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        kill_descendants()
        os._exit(130)  # without the lanes
