"""A private NFS server on this machine, in place of the filer that a real fleet has.

One nfs-ganesha serves folders of this machine over NFSv3 and NFSv4 on two ports of its own. It
needs no portmapper and touches none of the system's own servers. A fleet has it as its part "nas";
a test or a bench has one by itself:

    nas = Ganesha(Owner(folder), "nas", 24005, 24006, [folder / "nas1"],
                  build / NO_PORTMAPPER)
    nas.up()
    nas.url(1, uid, gid)

It is for trying and testing: NFS believes what user a client says it is, so who reaches the ports
reaches the folders.
"""

import contextlib
import os
import random
import signal
import socket
import string
import struct
import subprocess
import sys
import urllib.parse

from part import HERE, ROOT, FleetError, Part

GANESHA = "/usr/bin/ganesha.nfsd"
NO_PORTMAPPER = "deploy/nas/no_portmapper.so"  # in the build

NFS, MOUNT, RPC_VERSION = 100003, 100005, 2  # RFC 1813 and 5531
NULL, EXPORT_LIST = 0, 5


# --- remote procedure calls ----------------------------------------------------------------------


def call(address, program, procedure, arguments=b"", credentials=struct.pack(">II", 0, 0),
         timeout=5):
    """One call of version 3 of a program over TCP; its results. (RFC 5531)"""
    xid = random.getrandbits(32)
    body = struct.pack(">IIIIII", xid, 0, RPC_VERSION, program, 3, procedure) + credentials \
        + struct.pack(">II", 0, 0) + arguments
    with socket.create_connection(address, timeout=timeout) as s, s.makefile("rb") as replies:
        s.sendall(struct.pack(">I", 1 << 31 | len(body)) + body)
        reply, last = b"", False
        while not last:
            mark, = struct.unpack(">I", replies.read(4))
            last = mark & 1 << 31
            reply += replies.read(mark & ~(1 << 31))
    answers, kind, denied, _, verifier, failed = struct.unpack(">IIIIII", reply[:24])
    if (answers, kind, denied, verifier, failed) != (xid, 1, 0, 0, 0):
        raise OSError(f"the call was refused: {reply[:24].hex()}")
    return reply[24:]


def why_not_ready(address, nfs_port, mount_port, folders):
    """What keeps a client from mounting each of these folders, or None."""
    try:
        call((address, nfs_port), NFS, NULL)
        exports = call((address, mount_port), MOUNT, EXPORT_LIST)
    except (OSError, struct.error) as error:
        return f"it does not answer ({error or 'closed'})"
    for folder in map(os.fsencode, folders):
        if struct.pack(">I", len(folder)) + folder not in exports:
            return f"it does not export {os.fsdecode(folder)}: its file system must have handles"
    return None


# --- rights --------------------------------------------------------------------------------------


def as_root(*words):
    """The words of a command that root has to run, for whoever runs it."""
    return [*([] if os.geteuid() == 0 else ["/usr/bin/sudo", "-n"]), *map(str, words)]


def check_root():
    """An NFS server opens other users' files by their handles: only root may."""
    with contextlib.suppress(OSError):
        if subprocess.run(as_root("/bin/true"), stdin=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return
    raise FleetError("the NFS server has to run as root, and sudo does not let you without a "
                     "password: run `sudo -v` first, or all of this as root")


# --- the server ----------------------------------------------------------------------------------


class Ganesha(Part):
    """Serves folders[0], folders[1], ... as exports 1, 2, ...

    The number of an export is inside every file handle: folders may be added at the end, and keep
    their places. export has settings of ganesha for each export ({"MaxWrite": 65536}). Where it is
    to run elsewhere, it has a place, or prefix is the command that goes there (["ip", "netns",
    "exec", NAME]) and address one of that place. With NFSv4 the paths are the same.
    """

    def __init__(self, owner, name, nfs_port, mount_port, folders, no_portmapper,
                 address=None, export=None, prefix=(), place=HERE):
        super().__init__(owner, name, place)
        self.listen = address or place.address
        self.nfs_port, self.mount_port = nfs_port, mount_port
        self.exports = dict(enumerate(folders, 1))
        self.no_portmapper = no_portmapper
        self.export = export or {}
        self.prefix = list(prefix)
        self.config = owner.state / "config" / f"{name}.conf"
        self.recovery = owner.state / "data" / name

    def url(self, number, uid, gid):
        """The URL of a volume; number counts from 1."""
        path = urllib.parse.quote(str(self.exports[number]))
        return (f"nfs://{self.listen}:{self.nfs_port}{path}"
                f"?mountport={self.mount_port}&uid={uid}&gid={gid}")

    def prepare(self):
        check_root()
        for name in "config", "data", "log", "run":
            self.owner.make_dir(self.owner.state / name, None, 0o755)
        # Ganesha would make these, but as root: then no other owner could remove them.
        for name in "v4recov", "v4old":
            self.owner.make_dir(self.recovery / name / "node0", None, 0o755)
        # What is done to the folder from this side is seen through NFS at once.
        exports = [block("EXPORT", {
            "Export_Id": number, "Path": f'"{folder}"', "Pseudo": f'"{folder}"',
            "Access_Type": "RW", "SecType": "sys", "Attr_Expiration_Time": 0, **self.export},
            "    FSAL { Name = VFS; }\n") for number, folder in self.exports.items()]
        template = string.Template((ROOT / "deploy/nas/ganesha.conf").read_text())
        self.owner.write(self.config, template.substitute(
            address=self.listen, nfs_port=self.nfs_port, mount_port=self.mount_port,
            recovery=self.recovery, exports="\n".join(exports)), None, 0o644)

    def command(self):
        # Without a bus of the system's: its name there belongs to the system's own server.
        return [*self.prefix, "/usr/bin/env", f"LD_PRELOAD={self.no_portmapper}",
                "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent",
                GANESHA, "-F", "-f", self.config, "-L", "STDOUT",
                "-p", self.owner.state / "run" / f"{self.name}.ganesha"]

    def launch(self, env, log):
        if self.owner.root:
            return super().launch(env, log)
        # The new session begins behind sudo, which knows who has given a password by the terminal.
        # The shell tells its pid, which becomes the server's.
        done = subprocess.run(
            as_root("/usr/bin/setsid", "-f", "/bin/sh", "-c", 'echo $$; exec "$@" >&2', "sh",
                    *self.command()), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=log, env=env, check=True)
        return int(done.stdout)

    def send(self, pids, number):
        if self.owner.root or not pids:
            super().send(pids, number)
            return
        done = subprocess.run(as_root("/bin/kill", f"-{int(number)}", *pids), cwd="/",
                              stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if done.returncode != 0:  # they may be gone by themselves
            check_root()

    def probe(self):
        where = [self.listen, self.nfs_port, self.mount_port, *self.exports.values()]
        if not self.prefix:
            return why_not_ready(self.listen, self.nfs_port, self.mount_port,
                                 self.exports.values())
        try:
            told = self.owner.run(as_root(*self.prefix, sys.executable, "-B", __file__, *where))
        except FleetError as error:
            return str(error)
        return told.strip() or None


def block(name, settings, rest=""):
    """A block of ganesha's configuration."""
    lines = "".join(f"    {key} = {value};\n" for key, value in settings.items())
    return f"{name} {{\n{lines}{rest}}}\n"


if __name__ == "__main__":  # the probe, from where the server runs
    print(why_not_ready(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]) or "")
