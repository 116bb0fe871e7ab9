"""Filers besides the fleet's own: a second NFS server, and a file system that a process serves."""

import ctypes
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

import harness
from nas import Ganesha
from part import Part

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def serve(fleet, name):
    """An NFS server, up, with one folder of this name under the fleet's; a part of the fleet."""
    ports = harness.Ports(harness.free_base_port())
    folder = fleet.state / name
    fleet.lay_out()
    fleet.make_dir(folder, fleet.user, 0o750)
    server = Ganesha(fleet, f"{name}-server", ports.nfs, ports.mount, [folder],
                     fleet.state / "bin" / "no_portmapper.so")
    fleet.parts.insert(0, server)  # stopped last
    server.up()
    return server


def url(fleet, server, nfs_port=None, mount_port=None):
    """The URL of its volume; on other ports, if something stands before its own."""
    user = pwd.getpwnam(fleet.user)
    ours = server.nfs_port, server.mount_port
    server.nfs_port, server.mount_port = nfs_port or ours[0], mount_port or ours[1]
    try:
        return server.url(1, user.pw_uid, user.pw_gid)
    finally:
        server.nfs_port, server.mount_port = ours


class Bindfs(Part):
    """Shows a folder at another place. While its process is stopped all that is done there hangs.

    It can't be left behind: enter_own_mounts() comes first.
    """

    def __init__(self, fleet, name, folder, at):
        super().__init__(fleet, name)
        self.folder, self.at = folder, at

    def command(self):
        return ["/usr/bin/bindfs", "-f", self.folder, self.at]

    def probe(self):
        return None if os.path.ismount(self.at) else f"{self.at} is not mounted"

    def stop(self):
        """It unmounts before it ends."""
        in_order = super().stop()
        if os.path.ismount(self.at):
            subprocess.run(["/usr/bin/umount", "--lazy", self.at], check=True)
            return False
        return in_order


def enter_own_mounts():
    """What this process and those that it starts mount is theirs alone, and ends with them."""
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (libc.unshare(CLONE_NEWNS),
                 libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)):
        if done != 0:
            raise OSError(ctypes.get_errno(), "mounts of its own, which are root's to have")


def freeze(server):
    """Stops it, each thread of it: one that is inside the kernel may still give an answer."""
    server.signal(signal.SIGSTOP)
    for pid in server.pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            while (task / "stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
                time.sleep(0.001)


def footprint(node):
    """What all processes of a node have: threads, open files, MiB of memory."""
    threads = files = kib = 0
    for pid in node.pids():
        status = dict(line.split(":", 1) for line in
                      Path(f"/proc/{pid}/status").read_text().splitlines())
        threads += int(status["Threads"])
        kib += int(status["VmRSS"].split()[0])
        files += len(os.listdir(f"/proc/{pid}/fd"))
    return threads, files, kib / 1024
