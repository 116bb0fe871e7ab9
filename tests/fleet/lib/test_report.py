#!/usr/bin/python3 -B
"""That a scenario fails when clients were answered what it does not tell of, and that the table of all
scenarios has the worst of what went well, and nothing else."""

import os
import sys
import tempfile
import unittest
from pathlib import Path

LIB = Path(__file__).resolve().parent
sys.path[:0] = [str(LIB), str(LIB.parents[2] / "deploy/lib"), str(LIB.parents[2] / "tests/system")]

import scenario  # noqa: E402  pylint: disable=wrong-import-position
from report import BEGIN, CLIENTS, END, Result, unexpected, write_table  # noqa: E402  pylint: disable=C0413


class Quiet(scenario.Scenario):
    """Nobody sees it."""

    name = "quiet"
    sees = "nothing"


class Loud(scenario.Scenario):
    """Everybody sees it."""

    name = "loud"
    sees = "[SYS/TEMP]"
    answers = {"readers": {"SYS/TEMP"}}


def result(kind, gap, wrong=(), **measured):
    made = Result(kind)
    made.gaps, made.wrong = {"delivery": gap, "poll": 0.1}, list(wrong)
    made.measured = {f"no {what}": seconds for what, seconds in measured.items()}
    return made


class Answers(unittest.TestCase):
    def test_nothing_is_nothing(self):
        good = {"reader 1": {"ok": 7}, "mta": {"ok": 3}, "guesser": {"[AUTH]": 3, "unreachable": 1}}
        self.assertEqual(unexpected(Quiet, good), [])
        for who in CLIENTS:
            self.assertEqual(unexpected(Quiet, {who: {"ok": 9, "SYS/TEMP": 2}}),
                             [f"{who} was answered: SYS/TEMP (2 times)"])

    def test_on_a_busy_machine(self):
        """A lease that is given back late is excused, while that may take, and nothing else."""
        found = {"reader 1": {"ok": 9, "IN-USE": 7, "SYS/TEMP": 1}}
        self.assertEqual(unexpected(Quiet, found, True), ["reader 1 was answered: SYS/TEMP (1 times)"])
        self.assertEqual(len(unexpected(Quiet, found)), 2)
        self.assertEqual(unexpected(Quiet, {"reader 1": {"IN-USE": 30}}, True),
                         ["reader 1 was answered: IN-USE (30 times)"])

    def test_what_is_told_of(self):
        self.assertEqual(unexpected(Loud, {"reader 2": {"SYS/TEMP": 1}}), [])
        self.assertEqual(len(unexpected(Loud, {"reader 2": {"IN-USE": 1}})), 1)
        self.assertEqual(len(unexpected(Loud, {"reader of quiet ones": {"SYS/TEMP": 1}})), 1)

    def test_scenarios(self):
        """A word for who sees nothing is no word for an answer, and there are no other clients."""
        for name, kind in scenario.known().items():
            with self.subTest(name):
                self.assertLessEqual(set(kind.answers), set(CLIENTS.values()))
                if (kind.sees or "nothing") == "nothing":
                    self.assertEqual(kind.answers, {})
                elif kind.sees.startswith("nothing: senders"):
                    self.assertLessEqual(set(kind.answers), {"sender", "mta"})


class Table(unittest.TestCase):
    def setUp(self):
        handle, path = tempfile.mkstemp()
        os.close(handle)
        self.path = Path(path)
        self.addCleanup(self.path.unlink)
        self.path.write_text(f"before\n{BEGIN}\n\n| x | y | z | 0 | 0 | `tests/fleet/run old` |\n\n"
                             f"old note\n\n{END}\nafter\n")

    def write(self, *results, note=""):
        write_table(self.path, results, ["loud", "old", "quiet"], note)
        return [line for line in self.path.read_text().splitlines() if "tests/fleet/run" in line]

    def test_rows(self):
        loud, old, quiet = self.write(result(Quiet, 0.5), result(Loud, 3.0))
        self.assertEqual(loud, "| Everybody sees it | [SYS/TEMP] | no delivery 3.0 s | 0 | 0 "
                               "| `tests/fleet/run loud` |")
        self.assertIn("`tests/fleet/run old`", old)
        self.assertIn("| nothing | under 1 s |", quiet)
        text = self.path.read_text()
        self.assertTrue(text.startswith("before\n") and text.endswith("after\n"))
        self.assertIn("\n\nold note\n\n", text)

    def test_note(self):
        self.write(result(Quiet, 0.5), note="new note")
        self.assertIn("\n\nnew note\n\n", self.path.read_text())
        self.assertNotIn("old note", self.path.read_text())

    def test_the_worst_of_all_times(self):
        self.assertIn("no delivery 4.0 s", self.write(
            result(Loud, 2.0), result(Loud, 4.0), result(Loud, 1.0))[0])

    def test_since_the_fault(self):
        self.assertIn("no delivery 2.0 s", self.write(result(Loud, 9.0, delivery=2.0))[0])

    def test_what_failed_is_not_written(self):
        before = self.path.read_text()
        for results in [result(Quiet, 0.5), result(Loud, 3.0, ["missing: it"])], []:
            with self.assertRaises(ValueError):
                self.write(*results)
        self.assertEqual(self.path.read_text(), before)


if __name__ == "__main__":
    unittest.main()
