#!/usr/bin/python3 -B
"""The nfs back-end of the spool on nfs-ganesha: its calls, its file handles, and servers that fail.

What is asserted is in C, in the programs nas_*.c beside this file and in the spool's own unit test;
here are the server, the wire before it and what the programs ask for.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
import filer  # noqa: E402
import harness  # noqa: E402
from lab import Lab  # noqa: E402
from nas import NO_PORTMAPPER, Ganesha  # noqa: E402
from odd import EDITS, FreezeWire, OddWire, Portmapper  # noqa: E402
from part import Owner  # noqa: E402
from wire import Wire  # noqa: E402

BUILD = Path(os.environ["MAILFLEET_BUILD"])
USER = 61234  # uid and gid of nobody on this machine
RESULT = re.compile(r"(not )?ok \d+ - (\w+)")


class Nas:
    """A server in a laboratory of its own, with wires before its two ports."""

    def __init__(self, **export):
        self.stack = contextlib.ExitStack()
        self.export = export

    def __enter__(self):
        with self.stack as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.folder.chmod(0o755)
            self.exported = self.folder / "export"
            self.exported.mkdir()
            self.small = self.exported / "small"
            self.small.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777,size=256k,nr_inodes=100",
                            "small", self.small], check=True)
            stack.callback(subprocess.run, ["umount", "-l", self.small], check=True)
            self.lab = stack.enter_context(Lab())
            self.server = Ganesha(Owner(self.folder), "nas", 2049, 20048, [self.exported],
                                  BUILD / NO_PORTMAPPER, address=self.lab.address,
                                  export=self.export)
            stack.callback(self.server.kill)
            with self.lab.inside():
                self.server.up()
            self.wire, self.mount, self.odd = (
                stack.enter_context(kind((self.lab.address, port), self.lab.address, lab=self.lab))
                for kind, port in ((FreezeWire, self.server.nfs_port),
                                   (Wire, self.server.mount_port),
                                   (OddWire, self.server.nfs_port)))
            self.odd.restart = self.restart_another
            self.portmapper = None
            stack.callback(self.portmap)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def restart(self, *export):
        """export: NAME=VALUE of its settings from now on."""
        self.server.kill()
        self.server.export = {**self.export, **dict(word.split("=") for word in export)}
        self.server.up()

    def restart_another(self):
        """As one that has forgotten: its write verifier is the second in which it was started."""
        second = int(time.time())
        self.server.kill()
        while int(time.time()) == second:
            time.sleep(0.01)
        self.server.up()

    def portmap(self, number=None, hangs=False):
        """A portmapper that knows this port, or hangs; without either none."""
        if self.portmapper:
            self.portmapper.close()
        self.portmapper = Portmapper(self.lab, number) if hangs or number is not None else None

    def run(self, program, wire=None, port=None, user=None, **env):
        """Runs a test program to its end; its status, and what it said. By the wire, or a port."""
        wire = wire or self.wire
        direct = f"{self.lab.address}:{self.server.nfs_port}?mountport={self.mount.port}"
        tmp = tempfile.mkdtemp(dir=self.exported)
        if user is not None:
            os.chown(tmp, user, user)
            direct += f"&uid={user}&gid={user}"
        env = {**os.environ, "MAILFLEET_TEST_NFS_DIRECT": direct,
               "MAILFLEET_TEST_NFS": direct.replace(f":{self.server.nfs_port}?",
                                                    f":{port or wire.port}?"),
               "MAILFLEET_TEST_SMALL": self.small, "TMPDIR": tmp, **env}
        log = self.folder / "program.log"
        try:
            with Control(self, wire) as control, self.lab.inside(), open(log, "wb") as out:
                status = subprocess.run(
                    [BUILD / program], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    env={**env, "MAILFLEET_TEST_CONTROL": str(control.fd)}, pass_fds=[control.fd],
                    check=False, **({} if user is None else
                                    {"user": user, "group": user, "extra_groups": []})).returncode
        except harness.TimeLimit as error:
            status = str(error)
        shutil.rmtree(tmp)
        return status, log.read_text(errors="replace")

    def run_directly(self, program, **options):
        """Without a wire."""
        return self.run(program, port=self.server.nfs_port, **options)


class Control:
    """Answers the questions of a program: nas_fixture.h, ask()."""

    def __init__(self, nas, wire):
        self.nas = nas
        self.wire = wire
        self.here, self.there = socket.socketpair()
        self.fd = self.there.fileno()
        self.thread = threading.Thread(target=self.serve)
        self.known = {
            "calls": self.calls, "calls_of": self.calls_of, "reset": wire.reset, "edit": self.edit,
            "drop": wire.drop_reply, "refuse": wire.refuse, "accept": wire.accept,
            "cut": wire.cut, "hang": wire.hang, "resume": wire.resume,
            "freeze": nas.wire.freeze, "hang_mount": nas.mount.hang, "portmap": self.portmap,
            "stop": lambda: filer.freeze(nas.server),
            "go_on": lambda: nas.server.signal(signal.SIGCONT),
            "kill": nas.server.kill, "up": nas.server.up, "restart": nas.restart,
            "restart_another": nas.restart_another,
            "restart_before": self.restart_before, "restarted": self.restarted,
            "mend": self.mend}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.there.close()
        self.thread.join()
        self.here.close()

    def serve(self):
        self.nas.lab.enter()
        with contextlib.suppress(ConnectionError), self.here.makefile() as questions:
            for line in questions:
                name, *words = line.split()
                try:
                    answer = self.known[name](*words)
                except Exception as error:  # the program is to know, and fails
                    answer = f"error: {error!r}"
                self.here.sendall(f"{answer or ''}\n".encode())

    def calls(self):
        return ", ".join(f"{name} {n}" for name, n in sorted(self.wire.counts().items()))

    def calls_of(self, name):
        return str(self.wire.counts().get(name, 0))

    def portmap(self, what):
        ports = {"hangs": None, "right": self.nas.mount.port}
        self.nas.portmap(ports.get(what, 0), hangs=what == "hangs")

    def edit(self, procedure, what, number=0):
        self.nas.odd.edits = {procedure: lambda results: EDITS[what](results, int(number))}

    def restart_before(self, procedure):
        self.nas.odd.restarted = 0
        self.nas.odd.procedure = procedure

    def restarted(self):
        return str(self.nas.odd.restarted)

    def mend(self):
        self.nas.portmap()
        self.nas.odd.edits = {}
        self.wire.accept()
        self.wire.resume()
        self.nas.mount.resume()
        self.nas.server.signal(signal.SIGCONT)
        if self.nas.server.export != self.nas.export:
            self.nas.restart()
        self.nas.server.up()


class Programs(unittest.TestCase):
    time_limit = 120

    def check(self, status, said):
        results = RESULT.findall(said)
        plan = re.search(r"^1\.\.(\d+)$", said, re.MULTILINE)
        self.assertTrue(status == 0 and plan and len(results) == int(plan[1]) > 0,
                        f"status {status}\n{said}")

    def test_spool_as_root(self):
        with Nas(Squash="No_Root_Squash") as nas:
            self.check(*nas.run_directly("tests/unit/test_spool", SPOOL_MESSAGES="3000"))
            self.check(*nas.run_directly("tests/unit/test_spool_faults",
                                         TEST_FILTER="test_killed_writers"))

    def test_spool_as_user(self):
        with Nas(Squash="Root_Squash", MaxRead=65536, MaxWrite=65536) as nas:
            self.check(*nas.run_directly("tests/unit/test_volume_walk", user=USER))
            self.check(*nas.run_directly("tests/unit/test_spool", user=USER,
                                         SPOOL_MESSAGES="1000"))

    def test_files(self):
        with Nas(Squash="No_Root_Squash") as nas:
            self.check(*nas.run("tests/nfs/nas_files"))

    def test_faults(self):
        with Nas(Squash="No_Root_Squash", MaxRead=65536, MaxWrite=65536) as nas:
            self.check(*nas.run("tests/nfs/nas_faults"))

    def test_answers(self):
        with Nas(Squash="No_Root_Squash", MaxRead=65536, MaxWrite=65536) as nas:
            self.check(*nas.run("tests/nfs/nas_answers", nas.odd))

    def test_ends(self):
        with Nas(Squash="No_Root_Squash") as nas:
            self.check(*nas.run("tests/nfs/nas_ends"))

    def test_calls(self):
        with Nas(MaxRead=65536, MaxWrite=65536, Squash="Root_Squash") as nas:
            self.check(*nas.run("tests/nfs/nas_calls", user=USER))


if __name__ == "__main__":
    filer.enter_own_mounts()
    harness.main()
