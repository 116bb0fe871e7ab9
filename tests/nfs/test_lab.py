#!/usr/bin/python3 -B
"""The laboratory itself: what tests and benches that stand on it take for granted."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
from lab import Guest, Lab, LabError  # noqa: E402
from nas_lab import USER, NasLab  # noqa: E402
from part import processes  # noqa: E402

AT = "/mnt/nas"
# Writes and reads past the guest's cache: one call each.
READ = ["dd", f"if={AT}/file", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]

# Waits to be killed.
CARELESS = """
import sys, time
sys.path.insert(0, {here!r})
from lab import Guest, Lab
with Lab() as lab, Guest(lab) as guest:
    print(guest.kernel.pid, flush=True)
    time.sleep(1000)
"""


def eventually(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come about")
        time.sleep(0.02)


def is_left(kernel):
    """Of a guest: its kernel, and a process for each of its address spaces."""
    return any(process.session == kernel for process in processes().values())


def namespace():
    return os.stat("/proc/thread-self/ns/net").st_ino


class Network(unittest.TestCase):
    time_limit = 60

    def test_two_at_once(self):
        home = namespace()
        with Lab() as one, Lab() as other:
            with one.inside():
                there = namespace()
                listener = socket.create_server((one.address, 2049))
            with listener:
                with other.inside():
                    self.assertNotIn(namespace(), (home, there))
                    with self.assertRaises(ConnectionRefusedError):
                        socket.create_connection((other.address, 2049))
                with one.inside():
                    socket.create_connection((one.address, 2049)).close()
                told = subprocess.run([*one.prefix, "ip", "-o", "link", "show", "lab"], check=True,
                                      stdout=subprocess.PIPE, text=True).stdout
                self.assertIn("UP", told)
        self.assertEqual(namespace(), home)

    def test_a_guest_that_hangs_is_killed(self):
        with Lab() as lab, Guest(lab) as guest:
            guest.end_limit = 0.5
            kernel = guest.kernel.pid
            os.killpg(kernel, signal.SIGSTOP)
        eventually(lambda: not is_left(kernel))

    def test_no_guest_outlives_its_maker(self):
        maker = subprocess.Popen(
            ["/usr/bin/python3", "-B", "-c", CARELESS.format(here=str(Path(__file__).parent))],
            stdout=subprocess.PIPE, text=True)
        with maker:
            kernel = int(maker.stdout.readline())
            maker.kill()
        eventually(lambda: not is_left(kernel))


class Programs(NasLab, unittest.TestCase):
    time_limit = 60

    # --- programs in the guest --------------------------------------------------------------------

    def test_status_output_and_user(self):
        self.assertEqual(self.guest.run(["sh", "-c", "echo out; echo err >&2; exit 3"]),
                         (3, "out\nerr\n"))
        self.assertEqual(self.guest.run(["sh", "-c", "id -u; id -G; echo $A; pwd"],
                                        env={"A": "b c"}, user=USER, cwd="/mnt"),
                         (0, f"{USER[0]}\n{USER[1]}\nb c\n/mnt\n"))
        self.assertEqual(self.guest.run(["/nonexistent"]).status, 127)
        with self.assertRaisesRegex(LabError, r"false failed in the guest \(1\)"):
            self.guest.check(["false"])

    def test_programs_beside_each_other(self):
        waiting = self.guest.start(["sleep", "1000"])
        trapping = self.guest.start(["sh", "-c", "trap 'echo over; exit 5' TERM; echo up >/run/up;"
                                                 "while :; do sleep 1; done"])
        eventually(lambda: self.guest.run(["test", "-e", "/run/up"]).status == 0)
        self.assertTrue(waiting.running() and trapping.running())
        status, output = trapping.stop()
        self.assertEqual(status, 5)
        self.assertTrue(output.endswith("over\n"), output)
        self.assertEqual(waiting.stop(), (-signal.SIGTERM, ""))
        with self.assertRaisesRegex(LabError, "did not end within"):
            self.guest.run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.5)
        eventually(lambda: self.guest.run(["pgrep", "sleep"]).status == 1)

    def test_a_shared_folder(self):
        with open(self.guest_build / "shared", "w") as file:
            file.write("from here\n")
        self.addCleanup((self.guest_build / "shared").unlink)
        self.guest.check(["sh", "-c", 'echo "$(cat shared) and from there" >shared'],
                         cwd=str(self.guest_build))
        self.assertEqual((self.guest_build / "shared").read_text(), "from here and from there\n")
        self.assertNotEqual(self.guest.run(["touch", "/usr/file"]).status, 0)

    # --- the wire ---------------------------------------------------------------------------------

    def test_a_wire_that_hangs(self):
        with self.with_file():
            self.wire.hang()
            reader = self.guest.start(READ, user=USER)
            eventually(self.wire.counts)
            self.assertEqual(self.guest.run(["true"]).status, 0)
            self.assertTrue(reader.running())
            self.wire.resume()
            self.assertEqual(reader.wait().status, 0)

    def test_a_wire_that_is_cut(self):
        with self.with_file():
            self.wire.refuse()
            self.wire.cut()
            reader = self.guest.start(READ, user=USER)
            with self.lab.inside(), self.assertRaises(ConnectionRefusedError):
                socket.create_connection((self.lab.address, self.wire.port))
            self.assertTrue(reader.running())
            self.assertEqual(self.wire.counts(), {})
            self.wire.accept()
            self.assertEqual(reader.wait().status, 0)
            self.wire.cut()
            self.assertEqual(self.guest.run(READ, user=USER).status, 0)

    def test_a_reply_that_is_lost(self):
        """The server has done it; the client, which says it again, is told what comes of that."""
        with self.with_file():
            self.wire.drop_reply("REMOVE")
            status, output = self.guest.run(["rm", f"{AT}/file"], user=USER)
            self.assertNotEqual(status, 0)
            self.assertIn("No such file", output)
            self.assertEqual(self.wire.counts()["REMOVE"], 2)
            self.wire.reset()
            self.assertEqual(self.guest.run(["touch", f"{AT}/file"], user=USER).status, 0)
            self.assertEqual(self.wire.counts()["CREATE"], 1)

    @contextlib.contextmanager
    def with_file(self):
        """The export is mounted in the guest; nothing has been counted after the file was made."""
        (self.export / "file").write_bytes(bytes(4096))
        os.chown(self.export / "file", *USER)
        with self.mounted("3", AT, "hard,noac,nconnect=2"):
            self.wire.reset()
            try:
                yield
            finally:
                self.wire.resume()
                self.wire.accept()
        (self.export / "file").unlink()


if __name__ == "__main__":
    harness.main()
