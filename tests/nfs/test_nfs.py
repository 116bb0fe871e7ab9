#!/usr/bin/python3 -B
"""The nfs back-end of the spool on nfs-ganesha: its calls, its file handles, and servers that fail.

What is asserted is in C, in the programs nas_*.c beside this file and in the spool's own unit test;
here are the server, the wire before it and what the programs ask for.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
import harness
from lab import Lab
from nas import NO_PORTMAPPER, Ganesha
from part import Owner
from wire import CALL, Wire, read_call, read_record

BUILD = Path(os.environ["MAILFLEET_BUILD"])
CLONE_NEWNS = 0x20000
USER = 61234  # uid and gid of nobody on this machine
RESULT = re.compile(r"(not )?ok \d+ - (\w+)")


class FreezeWire(Wire):
    """A wire that can lose the connections that stand, so that neither end is told."""

    def freeze(self):
        self.do(self.freeze_links)

    async def freeze_links(self):
        for link in self.links:
            link.wire = types.SimpleNamespace(flowing=asyncio.Event(), on_call=self.on_call)


class RestartWire(Wire):
    """A wire whose clients do not notice that the server behind it was started anew."""

    procedure = None  # before the next call of it the server is started anew,
    restart = None    # by this,
    restarted = 0     # so many times

    async def serve(self, reader, writer):
        replies = to_server = None
        try:
            while record := await read_record(reader):
                _, kind, name = read_call(record)
                if kind == CALL:
                    self.on_call(name)
                if due := kind == CALL and name == self.procedure:
                    self.procedure = None
                    await asyncio.get_running_loop().run_in_executor(None, self.restart)
                    self.restarted += 1
                if due or not to_server:
                    there, to_server = await asyncio.open_connection(*self.server)
                    replies = asyncio.ensure_future(self.pass_replies(there, writer))
                to_server.write(record)
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()
        if to_server:
            to_server.close()
            await replies

    async def pass_replies(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while record := await read_record(reader):
                writer.write(record)


class Portmapper(threading.Thread):
    """Answers every call with one number (RFC 1833, section 3.2: GETPORT), or None with nothing.

    It is where the thread is that makes it.
    """

    def __init__(self, lab, number):
        super().__init__()
        self.listener = socket.create_server((lab.address, 111))
        self.number = number
        self.start()

    def run(self):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            while True:
                client = stack.enter_context(self.listener.accept()[0])
                record = client.recv(1024)
                if self.number is not None and record:
                    client.sendall(struct.pack(">IIIIIIII", 1 << 31 | 28,
                                               *struct.unpack(">I", record[4:8]), 1, 0, 0, 0, 0,
                                               self.number))

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()


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
            self.wire, self.mount, self.commit = (
                stack.enter_context(kind((self.lab.address, port), self.lab.address, lab=self.lab))
                for kind, port in ((FreezeWire, self.server.nfs_port),
                                   (Wire, self.server.mount_port),
                                   (RestartWire, self.server.nfs_port)))
            self.commit.restart = self.restart_another
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

    def run(self, program, options="", user=None, wire=True, **env):
        """Runs a test program to its end; what it said, and its status."""
        tmp = tempfile.mkdtemp(dir=self.exported)
        if user is not None:
            os.chown(tmp, user, user)
            options += f"&uid={user}&gid={user}"
        options = f"?mountport={self.mount.port}{options}"
        ports = {"": self.wire.port if wire else self.server.nfs_port,
                 "_DIRECT": self.server.nfs_port, "_COMMIT": self.commit.port}
        env = {**os.environ, **env, "TMPDIR": tmp, "MAILFLEET_TEST_SMALL": self.small,
               **{f"MAILFLEET_TEST_NFS{what}": f"{self.lab.address}:{port}{options}"
                  for what, port in ports.items()}}
        log = self.folder / "program.log"
        try:
            with Control(self) as control, self.lab.inside(), open(log, "wb") as out:
                status = subprocess.run(
                    [BUILD / program], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    env={**env, "MAILFLEET_TEST_CONTROL": str(control.fd)}, pass_fds=[control.fd],
                    check=False, **({} if user is None else
                                    {"user": user, "group": user, "extra_groups": []})).returncode
        except harness.TimeLimit as error:
            status = str(error)
        shutil.rmtree(tmp)
        return status, log.read_text(errors="replace")


class Control:
    """Answers the questions of a program: nas_fixture.h, ask()."""

    def __init__(self, nas):
        self.nas = nas
        self.here, self.there = socket.socketpair()
        self.fd = self.there.fileno()
        self.thread = threading.Thread(target=self.serve)
        self.known = {
            "calls": self.calls, "calls_of": self.calls_of, "reset": nas.wire.reset,
            "drop": nas.wire.drop_reply, "refuse": nas.wire.refuse, "accept": nas.wire.accept,
            "cut": nas.wire.cut, "hang": nas.wire.hang, "resume": nas.wire.resume,
            "freeze": nas.wire.freeze, "hang_mount": nas.mount.hang, "portmap": self.portmap,
            "stop": lambda: nas.server.signal(signal.SIGSTOP),
            "go_on": lambda: nas.server.signal(signal.SIGCONT),
            "kill": nas.server.kill, "up": nas.server.up, "restart": nas.restart,
            "restart_another": nas.restart_another,
            "restart_before_commit": self.restart_before_commit, "restarted": self.restarted,
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
        return ", ".join(f"{name} {n}" for name, n in sorted(self.nas.wire.counts().items()))

    def calls_of(self, name):
        return str(self.nas.wire.counts().get(name, 0))

    def portmap(self, what):
        ports = {"hangs": None, "right": self.nas.mount.port}
        self.nas.portmap(ports.get(what, 0), hangs=what == "hangs")

    def restart_before_commit(self):
        self.nas.commit.reset()
        self.nas.commit.restarted = 0
        self.nas.commit.procedure = "COMMIT"

    def restarted(self):
        """How often, and the calls that a write makes."""
        counts = self.nas.commit.counts()
        return ", ".join([*(f"{name} {counts.get(name, 0)}"
                            for name in ("CREATE", "WRITE", "COMMIT")),
                          f"restarted {self.nas.commit.restarted}"])

    def mend(self):
        self.nas.portmap()
        self.nas.wire.accept()
        self.nas.wire.resume()
        self.nas.mount.resume()
        self.nas.server.signal(signal.SIGCONT)
        if self.nas.server.export != self.nas.export:
            self.nas.restart()
        self.nas.server.up()


def enter_mount_namespace():
    """What is mounted from here on nobody else sees, and it goes with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class Programs(unittest.TestCase):
    time_limit = 120

    def check(self, status, said):
        results = RESULT.findall(said)
        plan = re.search(r"^1\.\.(\d+)$", said, re.MULTILINE)
        self.assertTrue(status == 0 and plan and len(results) == int(plan[1]) > 0,
                        f"status {status}\n{said}")

    def test_spool_as_root(self):
        with Nas(Squash="No_Root_Squash") as nas:
            self.check(*nas.run("tests/unit/test_spool", wire=False, SPOOL_MESSAGES="3000"))
            self.check(*nas.run("tests/unit/test_spool_faults", wire=False,
                                TEST_FILTER="test_killed_writers"))

    def test_spool_as_user(self):
        with Nas(Squash="Root_Squash", MaxRead=65536, MaxWrite=65536) as nas:
            self.check(*nas.run("tests/unit/test_spool", user=USER, wire=False,
                                SPOOL_MESSAGES="1000"))

    def test_files(self):
        with Nas(Squash="No_Root_Squash") as nas:
            self.check(*nas.run("tests/nfs/nas_files"))

    def test_faults(self):
        with Nas(Squash="No_Root_Squash", MaxRead=65536, MaxWrite=65536) as nas:
            self.check(*nas.run("tests/nfs/nas_faults"))

    def test_ends(self):
        with Nas(Squash="No_Root_Squash") as nas:
            self.check(*nas.run("tests/nfs/nas_ends"))

    def test_calls(self):
        with Nas(MaxRead=65536, MaxWrite=65536, Squash="Root_Squash") as nas:
            self.check(*nas.run("tests/nfs/nas_calls", user=USER))


if __name__ == "__main__":
    enter_mount_namespace()
    harness.main()
