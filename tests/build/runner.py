#!/usr/bin/python3 -B
"""tests/run itself: nothing outlives its program, no result is lost, and what is said comes whole and in order."""

import contextlib
import io
import json
import subprocess
import sys
import threading
import unittest
from pathlib import Path

LIB = Path(sys.argv.pop(1)) / "tests/lib"
sys.path.insert(0, str(LIB))

import runner  # noqa: E402
from builds import BuildError  # noqa: E402

LONG = "1000"  # seconds that nobody waits for
# Starts another that hides: a session of its own, and an orphan. Its pid is told.
HIDES = f"""import subprocess
print(subprocess.run(["/bin/sh", "-c", "setsid sleep {LONG} >/dev/null & echo $!"], text=True,
                     stdout=subprocess.PIPE).stdout.strip(), flush=True)
"""


def reaper(seconds, *command):
    return subprocess.Popen(["/usr/bin/python3", "-B", LIB / "reaper.py", seconds, *command], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def lives(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class Reaper(unittest.TestCase):
    def test_status(self):
        for code in 0, 7:
            with reaper(LONG, "/bin/sh", "-c", f"echo said; exit {code}") as process:
                # Not communicate(): that would close what it is to live by.
                self.assertEqual(process.stdout.read(), "said\n")
                verdict = json.loads(process.stderr.read())
            self.assertEqual((verdict["status"], verdict["late"], verdict["left"]), (code, False, []))

    def test_what_hides_is_found_and_killed(self):
        with reaper(LONG, "/usr/bin/python3", "-c", HIDES) as process:
            pid = int(process.stdout.readline())
            verdict = json.loads(process.stderr.read())
        self.assertFalse(lives(pid))
        self.assertEqual((verdict["status"], verdict["left"]), (0, [f"sleep {LONG}"]))

    def test_too_late(self):
        with reaper("0.2", "/usr/bin/python3", "-c", f"{HIDES}import time; time.sleep({LONG})") as process:
            verdict = json.loads(process.stderr.read())
            told = process.stdout.read()
        self.assertTrue(verdict["late"])
        self.assertFalse(told and lives(int(told)))

    def test_nobody_waits_any_more(self):
        with reaper(LONG, "/usr/bin/python3", "-c", f"{HIDES}import time; time.sleep({LONG})") as process:
            pid = int(process.stdout.readline())
            process.stdin.close()
            self.assertTrue(json.loads(process.stderr.read())["late"])
        self.assertFalse(lives(pid))


class Task:
    needs = None

    def __init__(self, name, *results, wait=None, then=None, needs=None):
        self.name, self.results, self.wait, self.then, self.needs = name, results, wait, then, needs
        self.begun = threading.Event()

    def run(self, report):
        self.begun.set()
        program = runner.Program(self.name, report)
        for result in self.results:
            program.tap(result)
        if self.wait:
            self.wait()
        program.end_of_tap("status 0", True)
        if self.then:
            raise self.then


class NoBuild:
    def need(self, name):
        raise BuildError(f"no {name}")


class Runner(unittest.TestCase):
    def run_all(self, tasks, jobs):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            reports = runner.run_all(tasks, NoBuild(), jobs)
        return (sum(report.passed for report in reports), sum(report.failed for report in reports),
                said.getvalue().splitlines())

    def test_whole_and_in_order(self):
        second = Task("second", "ok 1 - b", "not ok 2 - c", "1..2")
        first = Task("first", "ok 1 - a", "1..1", wait=second.begun.wait)  # so they run side by side
        self.assertEqual(self.run_all([first, second], 2),
                         (2, 1, ["ok     first: a", "ok     second: b", "NOT OK second: c"]))

    def test_what_failed_is_told_again(self):
        reports = [runner.Report(), runner.Report()]
        for report in reports:
            program = runner.Program("a", report)
            for line in "ok 1 - first", "not ok 2 - second":
                program.tap(line)
            report.tail(["ok 1 - first", "# why", "not ok 2 - second"])
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            self.assertEqual(runner.conclude(reports), 2)
            self.assertEqual(runner.conclude([runner.Report()]), 0)
        self.assertEqual(said.getvalue().splitlines(),
                         ["", "what failed:", *["NOT OK a: second", "    | # why", "    | not ok 2 - second"] * 2,
                          "2 passed, 2 failed", "0 passed, 0 failed"])

    def test_alone(self):
        [name, *_] = runner.ALONE
        order = []
        alone = Task(name, "ok 1 - a", "1..1", wait=lambda: order.append("alone"))
        other = Task("other", "ok 1 - b", "1..1", wait=lambda: order.append("other"))
        self.assertEqual(self.run_all([alone, other], 2)[:2], (2, 0))
        self.assertEqual(order, ["other", "alone"])

    def test_what_is_not_told_has_failed(self):
        for task in (Task("few", "ok 1 - a", "1..2"), Task("none"), Task("skipped", "ok 1 - a # SKIP", "1..1"),
                     Task("broken", "1..0", then=OSError("broken")), Task("unbuilt", "1..0", needs="next")):
            with self.subTest(task.name):
                self.assertEqual(self.run_all([task], 1)[1], 1)

    def test_names(self):
        known = runner.System.known(Path("/nonexistent"))
        self.assertEqual(set(runner.LONG) - set(known), set())
        self.assertEqual({*runner.ALONE, *runner.NEEDS} - set(known), set())
        self.assertEqual(len(known), len(list((LIB.parent / "system").glob("test_*.py"))) +
                         len(list((LIB.parent / "nfs").glob("test_*.py"))))


if __name__ == "__main__":
    unittest.main()
