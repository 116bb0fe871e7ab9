#!/usr/bin/python3 -B
"""The engines take no more instructions than bench/instructions.json has recorded, and
bench/instructions would tell if they did.

The release build is that of MAILFLEET_BUILD with `-release` behind its name; tests/run makes it. A
result for each piece of work, so that its figure is printed every time. There is no fleet.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "bench/instructions.json"
LINE = re.compile(r"(\w+) +([\d,]+|-) +([\d,]+|-)?  (\*\* )?(.*)")
WORK = "proxy"  # a cheap one


class Tap:
    count = failed = 0

    def result(self, good, text, said=""):
        self.count += 1
        self.failed += not good
        for line in said.splitlines() if not good else []:
            print("#", line)
        print(f"{'ok' if good else 'not ok'} {self.count} - {text}", flush=True)


def instructions(*words):
    """(status, what was said)"""
    done = subprocess.run([ROOT / "bench/instructions", *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
                          env={**os.environ, "MAILFLEET_BUILD":
                               os.environ["MAILFLEET_BUILD"] + "-release"})
    return done.returncode, done.stdout


def figures(tap):
    """What is counted now, beside the record of the tree."""
    status, said = instructions()
    rows = [row for row in map(LINE.fullmatch, said.splitlines()) if row]
    for name, now, _, bad, what in (row.groups() for row in rows):
        tap.result(not bad, f"{name}: {now} instructions ({what})")
    tap.result(len(rows) >= len(json.loads(RECORD.read_text())["figures"]), "all are counted", said)
    tap.result((status == 0) == (not tap.failed), f"status {status} says the same", said)


def with_record(right, change):
    """WORK beside a record that is right but for the change."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        stored = json.loads(right)
        change(stored)
        path.write_text(json.dumps(stored))
        return instructions(WORK, "--record", path)


def right_record():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        instructions("--write", "--record", path)
        return path.read_text()


def less(share):
    def change(stored):
        stored["figures"][WORK]["instructions"] *= 1 - share
    return change


def other_compiler(stored):
    less(0.5)(stored)
    stored["made with"]["compiler"] = "gcc 1.0"


def unknown(stored):
    del stored["figures"][WORK]


# (what is told, what is wrong with the record, the status that must be, what must be said)
JUDGED = [
    ("what has not changed", less(0), 0, r"\+0\.0%"),
    ("growth within the tolerance", less(0.02), 0, r"\+2\.0%"),
    ("growth beyond it", less(0.05), 1, r"\*\* \+5\.\d%, MORE than 3%"),
    ("a gain", less(-0.05), 0, r"-4\.\d%, less: record it"),
    ("work that was never recorded", unknown, 1, r"\*\* has no recorded figure"),
    ("another compiler", other_compiler, 0,
     r"not judged(.|\n)*recorded with gcc 1\.0(.|\n)*nothing was judged"),
]


def main():
    tap = Tap()
    figures(tap)
    right = right_record()
    for name, change, status, words in JUDGED:
        got, said = with_record(right, change)
        tap.result(got == status and re.search(words, said), f"{name} is told", said)
    print(f"1..{tap.count}")
    return 1 if tap.failed else 0


if __name__ == "__main__":
    sys.exit(main())
