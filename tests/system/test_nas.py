#!/usr/bin/python3 -B
"""The NFS server that tests and `deploy/quickstart --nas` have: alone, as a client sees it."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import harness
from nas import MOUNT, NO_PORTMAPPER, NULL, Ganesha, as_root, call
from part import HOST, FleetError, Owner

MNT = 1
NFS3_OK, MNT3ERR_ACCES = 0, 13
ADDRESS = "10.83.0.1"  # in a network namespace of its own


def opaque(data):
    """A string of bytes as XDR has it."""
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


class Nas(unittest.TestCase):
    time_limit = 60

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.ports = harness.Ports(harness.free_base_port())

    def make(self, folders=2, **options):
        folders = [self.folder / f"nas{n}" for n in range(1, folders + 1)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        library = Path(os.environ["MAILFLEET_BUILD"]) / NO_PORTMAPPER
        server = Ganesha(Owner(self.folder), "nas", self.ports.nfs, self.ports.mount, folders,
                         library, **options)
        self.addCleanup(server.kill)
        return server

    def mount(self, folder):
        """The status of a mount, and the handle. (RFC 1813, section 5.2.1)"""
        user = opaque(struct.pack(">I", 0) + opaque(b"test") + struct.pack(">III", 1000, 1000, 0))
        reply = call((HOST, self.ports.mount), MOUNT, MNT, opaque(os.fsencode(folder)),
                     struct.pack(">I", 1) + user)
        status, = struct.unpack(">I", reply[:4])
        return status, reply[8:8 + struct.unpack(">I", reply[4:8])[0]] if status == NFS3_OK else b""

    def handles(self, server):
        mounted = [self.mount(folder) for folder in server.exports.values()]
        self.assertEqual([status for status, _ in mounted], [NFS3_OK] * len(mounted))
        return [handle for _, handle in mounted]

    def test_handles_outlive_the_server(self):
        server = self.make()
        server.up()
        handles = self.handles(server)
        self.assertEqual(len(set(handles)), 2)
        self.assertEqual(self.mount(self.folder / "log")[0], MNT3ERR_ACCES)
        server.kill()
        self.assertEqual(server.pids(), [])
        self.assertIn("does not answer", server.probe())
        server.up()
        self.assertEqual(self.handles(server), handles)

        self.assertTrue(server.stop())
        server = self.make(folders=3)
        server.up()
        self.assertEqual(self.handles(server)[:2], handles)
        self.assertTrue(server.stop())

    def test_a_server_that_hangs_answers_again_after_it(self):
        server = self.make()
        server.up()
        server.signal(signal.SIGSTOP)
        self.assertIn("does not answer", server.probe())
        server.signal(signal.SIGCONT)
        server.wait_ready()
        server.signal(signal.SIGSTOP)
        self.assertTrue(server.stop())

    def test_a_folder_that_is_not_served_is_told(self):
        server = self.make()
        server.exports[2].rmdir()
        server.start()
        while "does not answer" in (reason := server.probe() or ""):
            self.assertTrue(server.pids(), server.log_tail())
            time.sleep(0.05)
        self.assertIn(f"does not export {server.exports[2]}", reason)
        self.assertTrue(server.stop())

    def test_a_server_that_cannot_start_is_told(self):
        with socket.create_server((HOST, self.ports.mount)):
            with self.assertRaisesRegex(FleetError, "nas has ended\n(.|\n)*Cannot bind"):
                self.make().up()

    def test_one_in_a_network_namespace(self):
        name = f"mailfleet-test-{os.getpid()}"
        inside = ["/usr/sbin/ip", "netns", "exec", name]
        self.ip("netns", "add", name)
        self.addCleanup(self.ip, "netns", "delete", name)
        self.ip("-n", name, "link", "add", "lab", "type", "bridge")
        self.ip("-n", name, "address", "add", f"{ADDRESS}/24", "dev", "lab")
        self.ip("-n", name, "link", "set", "lab", "up")
        self.ip("-n", name, "link", "set", "lo", "up")
        server = self.make(address=ADDRESS, prefix=inside)
        server.up()
        self.assertTrue(server.url(2, 5, 6).startswith(f"nfs://{ADDRESS}:{self.ports.nfs}/"))
        with self.assertRaises(OSError):
            call((HOST, self.ports.mount), MOUNT, NULL)
        self.assertTrue(server.stop())
        self.assertIn("does not answer", server.probe())

    def ip(self, *words):
        subprocess.run(as_root("/usr/sbin/ip", *words), check=True)


if __name__ == "__main__":
    harness.main()
