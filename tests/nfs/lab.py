"""A laboratory for NFS: a network of its own, and guests with a real kernel NFS client in it.

    with Lab() as lab:                                 # no name, no trace: gone with its processes
        with lab.inside():                             # this thread and what it starts
            server = ...                               # a daemon at lab.address, see nas.py
        with Guest(lab) as guest:                      # 3 s; its root is this machine's, read-only
            guest.mount("3", "/srv/spool", port=2049, mountport=20048)        # at /mnt/nas
            guest.share("/tmp/build")                  # a folder of this machine, to be written
            before = guest.counters()
            status, output = guest.run(["/tmp/build/test", "-x"], env={"TMPDIR": "/mnt/nas"})
            calls = guest.counters() - before          # {"LOOKUP": 1, "READ": 1}
            daemon = guest.start(["/usr/sbin/dovecot", "-F"])
            with lab.inside():
                socket.create_connection((guest.address, 110))
            status, output = daemon.stop()

Guests are User-Mode Linux: a process of this machine, one CPU, about 0.1 ms for a system call and
0.1 s for a program's start. They tell what a kernel client does, not how fast. /run, /tmp, /mnt and
/dev/shm are a guest's own; hostfs makes files as the user that the guest runs as. A guest ends with
the program that made it, however that ends. This needs root, /dev/net/tun and the packages
user-mode-linux and iproute2.
"""

import collections
import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000
MODULES = ("net/sunrpc/sunrpc", "fs/netfs/netfs", "fs/fscache/fscache", "fs/nfs_common/grace",
           "fs/lockd/lockd", "fs/nfs_common/nfs_acl", "fs/nfs/nfs", "fs/nfs/nfsv3",
           "net/dns_resolver/dns_resolver", "fs/nfs/nfsv4")
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
# For a spool, whose files never change and whose names are never probed for: docs/operations.md.
MOUNT_UNIT = Path(__file__).resolve().parents[2] / "deploy/nas/srv-mail-v1.mount"
SPOOL_OPTIONS = ",".join(
    option for option in re.search(r"^Options=(.*)$", MOUNT_UNIT.read_text(), re.M)[1].split(",")
    if option not in ("vers=3", "proto=tcp", "nolock", "_netdev"))

Done = collections.namedtuple("Done", "status output")


class LabError(Exception):
    pass


# --- the network ----------------------------------------------------------------------------------


class Lab:
    """A network namespace with a bridge. The server's address is the bridge's."""

    address = "10.79.0.1"

    def __init__(self):
        self.home = self.space = None
        self.taps = 0

    def __enter__(self):
        maker = threading.Thread(target=self.make)  # only this thread moves into the new one
        maker.start()
        maker.join()
        if self.space is None:
            raise LabError("no network namespace can be made: are you root?")
        try:
            self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            self.ip("link", "set", "lo", "up")
            self.ip("link", "add", "lab", "type", "bridge")
            self.ip("addr", "add", f"{self.address}/24", "dev", "lab")
            self.ip("link", "set", "lab", "up")
        except BaseException:
            self.close()
            raise
        return self

    def make(self):
        if call("unshare", CLONE_NEWNET):
            self.space = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def __exit__(self, *_):
        self.close()

    def close(self):
        """The namespace and its devices go as soon as no process is in it."""
        for fd in self.home, self.space:
            if fd is not None:
                os.close(fd)
        self.home = self.space = None

    @contextlib.contextmanager
    def inside(self):
        """The calling thread is in the laboratory: its new sockets, and the programs it starts."""
        self.enter()
        try:
            yield
        finally:
            if not call("setns", self.home, CLONE_NEWNET):
                os._exit(70)  # nothing that this process does from here on would be where it says

    def enter(self):
        """For the life of the calling thread."""
        if not call("setns", self.space, CLONE_NEWNET):
            raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")

    @property
    def prefix(self):
        """What goes before the words of a command that is to run in the laboratory."""
        return ["/usr/bin/nsenter", f"--net=/proc/{os.getpid()}/fd/{self.space}", "--"]

    def ip(self, *words):
        with self.inside():
            done = subprocess.run(["/usr/sbin/ip", *words], stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise LabError(f"ip {' '.join(words)}: {done.stdout.strip()}")

    def tap(self):
        """A port of the bridge for a guest: the device and the guest's address."""
        self.taps += 1
        device = f"tap{self.taps}"
        self.ip("tuntap", "add", device, "mode", "tap")
        self.ip("link", "set", device, "master", "lab", "up")
        return device, f"{self.address.rsplit('.', 1)[0]}.{10 + self.taps}"


def call(name, *arguments):
    return getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == 0


# --- a guest --------------------------------------------------------------------------------------


class Guest:
    """A machine with a kernel NFS client. agent.py is its first process."""

    boot_limit = 60  # seconds
    end_limit = 10

    def __init__(self, lab, memory="512M"):
        self.lab = lab
        self.memory = memory
        self.kernel = self.control = self.port = None
        self.console = tempfile.TemporaryFile()  # without a name, as all that outlives the boot

    def __enter__(self):
        try:
            with tempfile.TemporaryDirectory(prefix="mailfleet-guest-") as folder:
                self.boot(folder)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def boot(self, folder):
        device, self.address = self.lab.tap()
        with self.lab.inside(), socket.create_server((self.lab.address, 0)) as listener:
            self.kernel = subprocess.Popen(
                self.command(folder, device, listener.getsockname()[1]), cwd="/",
                stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console)
            self.control = self.wait_booted(listener)

    def command(self, folder, device, port):
        kernels = list(Path("/usr/lib/uml/modules").glob("*/kernel"))
        if len(kernels) != 1:
            raise LabError("the package user-mode-linux is not as it should be: "
                           f"{len(kernels)} kernels in /usr/lib/uml/modules")
        modules = ",".join(f"{kernels[0]}/{name}.ko" for name in MODULES)
        return ["/usr/bin/linux.uml", f"mem={self.memory}", "root=/dev/root", "rootfstype=hostfs",
                "rootflags=/", "ro", "quiet", "selinux=0", "con=null", "con0=null,fd:1", "ssl=null",
                f"vec0:transport=tap,ifname={device},depth=64,gro=1", "umid=guest",
                f"uml_dir={folder}/", "init=/usr/bin/python3", "--", "-B",
                str(Path(__file__).with_name("agent.py").resolve()), f"{self.address}/24",
                self.lab.address, str(port), modules]

    def wait_booted(self, listener):
        listener.settimeout(0.1)
        deadline = time.monotonic() + self.boot_limit
        while True:
            with contextlib.suppress(TimeoutError):
                control, _ = listener.accept()
                with control.makefile() as told:
                    self.port = int(told.readline())
                return control
            if self.kernel.poll() is not None or time.monotonic() > deadline:
                self.console.seek(0)
                raise LabError("the guest did not start:\n"
                               + self.console.read().decode(errors="replace"))

    def close(self):
        """Power off: the end of the control connection is the agent's word for it."""
        if self.control:
            self.control.close()
        if self.kernel:
            try:
                self.kernel.wait(self.end_limit if self.control else 0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.kernel.pid, signal.SIGKILL)
                self.kernel.wait()
        self.console.close()

    # --- programs ---------------------------------------------------------------------------------

    def start(self, argv, env=None, cwd="/", user=None):
        """Starts a program; user: (uid, gid). It ends with stop(), or with the guest."""
        order = {"argv": [str(word) for word in argv], "cwd": cwd, "env": {**ENV, **(env or {})}}
        if user:
            order["uid"], order["gid"] = user
        return GuestProcess(self, order)

    def run(self, argv, env=None, timeout=60, **options):
        """Runs a program to its end: (status, all that it said)."""
        return self.start(argv, env, **options).wait(timeout)

    def check(self, argv, **options):
        """The output of a program that must succeed."""
        status, output = self.run(argv, **options)
        if status != 0:
            raise LabError(f"{' '.join(map(str, argv))} failed in the guest ({status}):\n{output}")
        return output

    # --- file systems -----------------------------------------------------------------------------

    def share(self, folder, at=None):
        """Shows a folder of this machine at its own path, writable; files are made as root."""
        at = at or folder
        self.check(["mkdir", "-p", at])
        self.check(["mount", "-t", "hostfs", "-o", Path(folder).resolve(), "share", at])

    def mount(self, version, source, at="/mnt/nas", port=2049, mountport=None,
              options=SPOOL_OPTIONS, server=None):
        """version: "3", "4.1". A v3 source is the server's path, a v4 one the export's pseudo."""
        server = server or self.lab.address
        own = ["nolock", f"mountaddr={server}", f"mountport={mountport}", "mountproto=tcp"] \
            if version == "3" else [f"clientaddr={self.address}"]
        options = ",".join([f"vers={version}", "proto=tcp", f"addr={server}", f"port={port}", *own,
                            *([options] if options else [])])
        self.check(["mkdir", "-p", at])
        self.check(["mount", "-i", "-t", "nfs", "-o", options, f"{server}:{source}", at])

    def unmount(self, at="/mnt/nas"):
        self.check(["umount", at])

    def counters(self, at="/mnt/nas"):
        """NFS calls through a mount since it was made, by name; the difference of two is a count.

        A call that was sent again is one."""
        return count_calls(self.check(["cat", "/proc/self/mountstats"]), at)

    def forget(self):
        """Drops all that the kernel has cached: names, attributes, contents."""
        self.check(["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"])


def count_calls(mountstats, at):
    """What /proc/self/mountstats says of a mount: calls by name."""
    of_mount = re.search(rf"^device \S+ mounted on {re.escape(str(at))} (.*?)(?=^device|\Z)",
                         mountstats, re.MULTILINE | re.DOTALL)
    if not of_mount:
        raise LabError(f"nothing is mounted at {at}:\n{mountstats}")
    return collections.Counter({name: int(n) for name, n in re.findall(
        r"^\t +([A-Z_0-9]+): (\d+) ", of_mount[1], re.MULTILINE)})


class GuestProcess:
    """A process in a guest; a connection to its agent is its life."""

    def __init__(self, guest, order):
        self.name = " ".join(order["argv"])
        with guest.lab.inside():
            self.connection = socket.create_connection((guest.address, guest.port), timeout=30)
        self.connection.sendall(json.dumps(order).encode() + b"\n")

    def signal(self, number):
        self.connection.sendall(b"%d\n" % number)

    def running(self):
        return not select.select([self.connection], [], [], 0)[0]

    def wait(self, timeout=60):
        """(status, output) of its end; one that has not ended in time is killed."""
        self.connection.settimeout(timeout)
        try:
            with self.connection, self.connection.makefile() as told:
                line = told.readline()
        except TimeoutError:
            raise LabError(f"{self.name} did not end within {timeout} s in the guest") from None
        if not line:
            raise LabError(f"the guest was lost while it ran {self.name}")
        end = json.loads(line)
        return Done(end["status"], end["output"])

    def stop(self, timeout=30):
        """SIGTERM to its group, then as wait()."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)
