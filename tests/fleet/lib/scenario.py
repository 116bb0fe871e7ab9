"""What a scenario is: a name, what it is about, and what is done to the laboratory.

tests/fleet/README.md tells how one is written. All of tests/fleet/scenarios is found by itself.
"""

import importlib
import os
import sys
import time
from pathlib import Path

TEMPORARY = frozenset({"SYS/TEMP", "IN-USE"})  # who broke off after the first may meet itself
BROKEN = frozenset({"unreachable", "broke off", "answer lost"})
BUSY = 2 * os.cpu_count()  # load average, beyond which a time that is missed is taken again, and a lease may be late
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"


class Failed(Exception):
    """What a scenario expected did not come."""


class Scenario:
    """The docstring's first line says what is done."""

    name = ""
    sees = ""  # what users see, for docs/reliability.md,
    answers = {}  # and by which answers: clients (report.CLIENTS) -> those besides ok; more is a failure
    late_allowed = False  # some nodes do not reach a cache that others reach: lists may be older

    def __init__(self, lab, day):
        self.lab, self.day = lab, day
        self.measured = {}  # what -> seconds

    def run(self, lab):
        raise NotImplementedError

    # What scenarios are made of:

    @staticmethod
    def wait(seconds):
        """The load goes on."""
        time.sleep(seconds)

    @staticmethod
    def now():
        return time.monotonic()

    def until(self, seconds, why_not):
        """Waits until why_not() gives no reason any more."""
        self.lab.wait_for(seconds, why_not)

    def since(self, moment, what="delivery", within=None):
        """After a fault at this moment (time.monotonic()), when all goes well again: the longest time
        without a delivery (poll, quiet poll) since then. within: how long it may be at most.

        It is not the time until the first one, as that may have been on its way already.
        """
        longest = self.day.gap(what, moment, time.monotonic())
        self.measured[f"no {what}"] = max(longest, self.measured.get(f"no {what}", 0))
        if within is not None:
            self.expect(longest <= within, f"{longest:.1f} s without a {what}: more than {within} s")
        return longest

    def well_again(self, seconds=30):
        """Until everybody has got through since now."""
        now = time.monotonic()
        self.lab.wait_for(seconds, lambda: self.day.why_not_busy(now))

    def timed(self, once, tries=3):
        """Calls once(lab), which expects times that are promised; again when it fails on a machine
        that others keep busy."""
        for left in reversed(range(tries)):
            try:
                once(self.lab)
                return
            except Failed as failed:
                load = os.getloadavg()[0]
                if load <= BUSY or not left:
                    raise
                print(f"    once more, as the load average is {load:.0f}: {failed}", flush=True)
                self.lab.recover()

    @staticmethod
    def expect(truth, otherwise):
        if not truth:
            raise Failed(otherwise)


def known():
    """All scenarios, by name, in the order of their files."""
    found = {}
    sys.path.insert(0, str(SCENARIOS))
    for path in sorted(SCENARIOS.glob("*.py")):
        module = importlib.import_module(path.stem)
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Scenario) and thing.name \
                    and thing.__module__ == path.stem:
                found[thing.name] = thing
    return found
