#!/usr/bin/python3 -B
"""The posix back-end on real NFS mounts: a kernel client in a guest, nfs-ganesha on this machine.

What is asserted of NFS calls is exact: one more is a change of what the product costs a filer. The
guest's kernel and the wire must agree about each of them. The programs in the guest are of
MAILFLEET_BUILD-guest, whose only sanitizer is UBSan: a guest's address space is too small for ASan.
"""

import collections
import contextlib
import os
import re
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
from lab import SPOOL_OPTIONS, count_calls  # noqa: E402
from nas_lab import USER, NasLab  # noqa: E402

WRITER, READER = "/mnt/writer", "/mnt/reader"
# Directory attributes are always old, as on a node that has not looked at a directory for a while.
EXPIRED = SPOOL_OPTIONS.replace("acdirmin=600,acdirmax=600",
                                "acregmin=600,acregmax=600,acdirmin=0,acdirmax=0")

# Calls an operation, in no order. By file handle, without a kernel, it would be 2, 1 and 1.
V3 = {
    # SETATTR: the other half of an exclusive CREATE, as O_EXCL asks for. No COMMIT: what goes out
    # in one WRITE is asked to be stable.
    "write": "CREATE SETATTR WRITE",
    # 256 KiB are collected; so there is more than one WRITE, and the block is written again.
    "write_large": "CREATE SETATTR WRITE WRITE COMMIT",
    # The first in its directory on this node: that is looked up, and opened to be kept.
    "first_read": "LOOKUP ACCESS LOOKUP ACCESS READ",
    # The name is new to this node, and so is the file: a kernel needs both. No GETATTR.
    "read": "LOOKUP ACCESS READ",
    # 1 MiB and the block before it: two pieces of at most spool.read_chunk.
    "read_large": "LOOKUP ACCESS READ READ",
    "unlink": "LOOKUP REMOVE",
    # Another node has changed the directory: who may do what in it is asked anew.
    "busy_write": "ACCESS CREATE SETATTR WRITE",
    "busy_read": "ACCESS LOOKUP ACCESS READ",
    "busy_unlink": "ACCESS LOOKUP REMOVE",
}
V41 = {
    # ACCESS, every time: from what the server tells of the directory that OPEN has changed, the
    # client can't see that nobody else has.
    "write": "ACCESS OPEN SETATTR WRITE CLOSE",
    "write_large": "ACCESS OPEN SETATTR WRITE WRITE COMMIT CLOSE",
    "first_read": "LOOKUP ACCESS OPEN READ CLOSE",
    "read": "OPEN READ CLOSE",
    "read_large": "OPEN READ READ CLOSE",
    "unlink": "ACCESS LOOKUP REMOVE",
    "busy_write": "ACCESS OPEN SETATTR WRITE CLOSE",
    "busy_read": "ACCESS OPEN READ CLOSE",
    "busy_unlink": "ACCESS LOOKUP REMOVE",
}
# One GETATTR more: of the directory that is kept open, and of none on the way there. Where the name
# is known the client asks for the file's attributes, too.
V3_EXPIRED = {
    "write": "GETATTR CREATE SETATTR WRITE",
    "write_large": "GETATTR CREATE SETATTR WRITE WRITE COMMIT",
    "read": "GETATTR LOOKUP ACCESS READ",
    "read_again": "GETATTR GETATTR",
    "read_large": "GETATTR LOOKUP ACCESS READ READ",
    "unlink": "GETATTR LOOKUP REMOVE",
}
# ACCESS brings the directory's attributes along.
V41_EXPIRED = {
    "write": "ACCESS OPEN SETATTR WRITE CLOSE",
    "write_large": "ACCESS OPEN SETATTR WRITE WRITE COMMIT CLOSE",
    "read": "GETATTR OPEN READ CLOSE",
    "read_again": "GETATTR GETATTR OPEN CLOSE",
    "read_large": "GETATTR OPEN READ READ CLOSE",
    "unlink": "ACCESS LOOKUP REMOVE",
}

# Where mountstats and the wire have different names for a call.
ON_THE_WIRE = {"OPEN_NOATTR": "OPEN", "STATFS": "GETATTR"}
# Of connections, leases and (once a directory) default ACLs: mountstats does not have them.
NOBODYS = {"NULL", "SEQUENCE", "GETACL"}


class Phases:
    """What spool_ops has told: phase -> operations, and calls by mount and name."""

    def __init__(self, output):
        parts = re.split(r"^phase (\w+)\n", output, flags=re.MULTILINE)[1:]
        names, texts = parts[::2], parts[1::2]
        self.operations, self.calls = {}, {}
        for name, before, after in zip(names, texts, texts[1:]):
            self.operations[name] = int(re.search(r"^operations (\d+)$", before, re.MULTILINE)[1])
            self.calls[name] = {
                at: named(count_calls(after, at) - count_calls(before, at))
                for at in (WRITER, READER)}


def named(calls):
    """By the names that the wire has for them."""
    found = collections.Counter()
    for name, n in calls.items():
        found[ON_THE_WIRE.get(name, name)] += n
    return found


class Posix(NasLab, unittest.TestCase):
    time_limit = 120

    # --- NFS calls --------------------------------------------------------------------------------

    def test_calls_v3(self):
        found = self.measure("3", SPOOL_OPTIONS)
        self.check_calls(found, V3)
        # None; but the file's own attributes get old, after 3 seconds at the earliest.
        self.assertLessEqual(found.calls["read_again"][READER],
                             collections.Counter(GETATTR=found.operations["read_again"]))

    def test_calls_v3_with_old_attributes(self):
        self.check_calls(self.measure("3", EXPIRED), V3_EXPIRED)

    def test_calls_v41(self):
        found = self.measure("4.1", SPOOL_OPTIONS)
        self.check_calls(found, V41)
        n = found.operations["read_again"]
        self.assertEqual(found.calls["read_again"][READER] - collections.Counter(GETATTR=n),
                         {"OPEN": n, "CLOSE": n})

    def test_calls_v41_with_old_attributes(self):
        self.check_calls(self.measure("4.1", EXPIRED), V41_EXPIRED)

    def check_calls(self, found, expected):
        for phase, calls in expected.items():
            with self.subTest(phase):
                n = found.operations[phase]
                side, other = (WRITER, READER) if "write" in phase else (READER, WRITER)
                self.assertEqual(found.calls[phase][side], collections.Counter(calls.split() * n))
                if not phase.startswith("busy"):
                    self.assertFalse(found.calls[phase][other])

    def measure(self, version, options):
        """Runs spool_ops; again if a new day came meanwhile, which is a new directory."""
        day = None
        while day != time.gmtime().tm_yday:
            day = time.gmtime().tm_yday
            with contextlib.ExitStack() as stack:
                for at in WRITER, READER:
                    stack.enter_context(self.mounted(version, at, options + ",nosharecache"))
                before = self.count_both()
                self.wire.reset()
                status, output = self.run_in_guest(
                    "tests/nfs/spool_ops", {"TMPDIR": WRITER, "SPOOL_OPS_READER": READER})
                on_wire, in_guest = self.wire.counts(), self.count_both() - before
                self.assertEqual(status, 0, output)
        self.assertEqual({name: n for name, n in on_wire.items() if name not in NOBODYS},
                         dict(named(in_guest)))
        return Phases(output)

    def count_both(self):
        return self.guest.counters(WRITER) + self.guest.counters(READER)

    # --- what a spool promises --------------------------------------------------------------------

    def test_spool_v3(self):
        self.run_unit_tests("3", "test_spool", SPOOL_MESSAGES="500")

    def test_spool_v41(self):
        self.run_unit_tests("4.1", "test_spool", SPOOL_MESSAGES="500")

    def test_killed_writers(self):
        """What was told to be written is there and whole, whenever its writer was killed."""
        self.run_unit_tests("3", "test_spool_faults", TEST_FILTER="test_killed_writers")

    def run_unit_tests(self, version, name, **env):
        with self.mounted(version, WRITER, SPOOL_OPTIONS):
            status, output = self.run_in_guest(f"tests/unit/{name}", {"TMPDIR": WRITER, **env})
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"(?m)^ok 1 ")
        self.assertEqual(os.listdir(self.export), [])


if __name__ == "__main__":
    harness.main()
