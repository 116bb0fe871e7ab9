"""Hosts of their own on one machine: network namespaces with one address each, on one bridge.

The bridge is in a namespace of its own as well, so that nothing of the machine's own network is
touched or reached: what runs on a host sees that host's interfaces and nothing else. The names of
all namespaces have the pid of their maker in them; remove_left_overs() takes away what a maker that
has died left behind. A host owns no process: whatever runs in its namespace is its own, whoever
started it. Needs root.

    with Network() as network:
        mx1 = Host(network, "mx1", 11)
        with mx1.inside():
            ...                             # sockets and programs of this thread begin there
        mx1.cut(db1, "in"); mx1.heal(db1)   # packets are dropped, nobody is told
        mx1.power_off()                     # no FIN and no RST: the link goes first
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from part import read_process

PREFIX = "mflab"
SUBNET = "10.77.0"
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def run(*words, stdin=""):
    done = subprocess.run([str(word) for word in words], input=stdin, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def enter(path):
    """The calling thread goes into the network namespace of a file."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"no way into {path}")
    finally:
        os.close(handle)


def kill_all(pids):
    """SIGKILL, and until none of them is left; pids is asked again each time."""
    while victims := pids():
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def pids_inside(namespace):
    """The living processes of a namespace, this one never."""
    inode = os.stat(namespace).st_ino
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != os.getpid() \
                    and os.stat(f"/proc/{name}/ns/net").st_ino == inode:
                process = read_process(name)
                if process and process.state not in "ZX":
                    found.append(process.pid)
    return found


def remove_namespace(name):
    kill_all(lambda: pids_inside(NAMESPACES / name))
    run("ip", "netns", "delete", name)


def unmount_below(folder):
    """Whatever is mounted at a folder or below it, the last one first."""
    folder = os.fspath(folder)
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in reversed(mounted):
        if path == folder or path.startswith(folder + "/"):
            subprocess.run(["umount", "--lazy", path], check=False)


def remove_left_overs():
    """Namespaces whose maker is gone, with all that still runs in them; the pids of the makers."""
    gone = set()
    for path in sorted(NAMESPACES.glob(f"{PREFIX}-*")) if NAMESPACES.exists() else []:
        match = re.fullmatch(rf"{PREFIX}-(\d+)-(\d+)-.*", path.name)
        if match:
            maker = read_process(match[1])
            if maker is None or maker.state in "ZX" or maker.started != int(match[2]):
                with contextlib.suppress(OSError):
                    remove_namespace(path.name)
                gone.add(match[1])
    return gone


class Network:
    """The bridge, and every host on it."""

    def __init__(self):
        maker = read_process(os.getpid())
        self.prefix = f"{PREFIX}-{maker.pid}-{maker.started}"
        self.subnet = f"{SUBNET}.0/24"
        self.hosts = []
        self.bridge = f"{self.prefix}-bridge"

    def __enter__(self):
        run("ip", "netns", "add", self.bridge)
        # Frames between ports pass no packet filter, and multicast goes to all of them.
        run("ip", "-n", self.bridge, "link", "add", "br0", "type", "bridge",
            "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "-n", self.bridge, "link", "set", "br0", "up")
        return self

    def __exit__(self, *exception):
        for host in self.hosts:
            with contextlib.suppress(OSError):
                host.remove()
        with contextlib.suppress(OSError):
            remove_namespace(self.bridge)


class Host:
    """One host. Use it as the place of a Part, which then has its address."""

    def __init__(self, network, name, number):
        self.network, self.name = network, name
        self.address = f"{SUBNET}.{number}"
        self.namespace = f"{network.prefix}-{name}"
        self.path = NAMESPACES / self.namespace
        self.on = True
        self.cuts = set()  # (address or None for all, "in" or "out")
        bridge = network.bridge
        run("ip", "netns", "add", self.namespace)
        network.hosts.append(self)
        run("ip", "-n", bridge, "link", "add", f"to-{name}", "type", "veth",
            "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "-n", bridge, "link", "set", f"to-{name}", "master", "br0", "up")
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.link_up()

    def __repr__(self):
        return f"Host({self.name}, {self.address})"

    def remove(self):
        remove_namespace(self.namespace)

    # --- inside ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inside(self):
        """This thread is on the host; what it starts and the sockets that it opens stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        enter(self.path)
        try:
            yield self
        finally:
            LIBC.setns(before, CLONE_NEWNET)
            os.close(before)

    def enter(self):
        """This thread is on the host from now on."""
        enter(self.path)

    def run(self, *words, stdin=""):
        """A program's output; for the laboratory's own tools, as root."""
        with self.inside():
            return run(*words, stdin=stdin)

    def sysctl(self, file):
        """Sets what a file in the form of sysctl.d has."""
        with self.inside():
            for line in Path(file).read_text().splitlines():
                if line and not line.startswith("#"):
                    key, value = line.split(" = ")
                    Path("/proc/sys", key.replace(".", "/")).write_text(value)

    def pids(self):
        return pids_inside(self.path)

    # --- the network -------------------------------------------------------------------------------

    def link_up(self):
        ip = "ip", "-n", self.namespace
        run(*ip, "address", "replace", f"{self.address}/24", "dev", "eth0")
        run(*ip, "link", "set", "eth0", "up")

    def cut(self, other=None, ways="both"):
        """Packets from (in), to (out), or from and to (both) another host, or all, are dropped."""
        for way in ("in", "out") if ways == "both" else (ways,):
            self.cuts.add((other and other.address, way))
        self.load_cuts()

    def heal(self, other=None):
        """Ends the cut from another host; without one, every cut."""
        self.cuts = {cut for cut in self.cuts if other and cut[0] != other.address}
        self.load_cuts()

    def load_cuts(self):
        """All of them in one transaction of nftables."""
        def rules(way, field):
            return "".join(f"ip {field} {address} drop\n" if address else "oifname eth0 drop\n"
                           if way == "out" else "iifname eth0 drop\n"
                           for address, cut_way in sorted(self.cuts, key=str) if cut_way == way)

        self.run("nft", "-f", "-", stdin=(
            "table inet cuts\ndelete table inet cuts\ntable inet cuts {\n"
            "chain input { type filter hook input priority -200;\n" + rules("in", "saddr") + "}\n"
            "chain output { type filter hook output priority -200;\n" + rules("out", "daddr")
            + "}\n}\n"))

    # --- power -------------------------------------------------------------------------------------

    def power_off(self):
        """The link goes down first: whoever has a connection to it hears nothing any more."""
        run("ip", "-n", self.namespace, "link", "set", "eth0", "down")
        self.on = False
        kill_all(self.pids)
        # What was added to the interface (a moving address) would not be there after a boot.
        run("ip", "-n", self.namespace, "address", "flush", "dev", "eth0")

    def power_on(self):
        """The link comes back. Parts are started by who knows them."""
        self.link_up()
        self.on = True

    def freeze(self):
        """SIGSTOP to all that runs on it: its kernel goes on answering for it."""
        self.signal_all(signal.SIGSTOP)

    def thaw(self):
        self.signal_all(signal.SIGCONT)

    def signal_all(self, number):
        """Again until there is no process left that has not got it."""
        told = set()
        while more := set(self.pids()) - told:
            for pid in more:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= more


def freeze(part):
    """SIGSTOP to the whole tree of a part, each thread of it: one that is inside the kernel may
    still give an answer."""
    part.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 5
    for pid in part.pids():
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                while (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZXD" \
                        and time.monotonic() < deadline:
                    time.sleep(0.001)


def thaw(part):
    part.signal(signal.SIGCONT)


def thaw_all(namespaces, alive):
    """SIGCONT to whatever is stopped in these namespaces, of living processes."""
    inodes = {os.stat(path).st_ino for path in namespaces}
    for process in alive.values():
        with contextlib.suppress(OSError):
            if process.state in "Tt" and os.stat(f"/proc/{process.pid}/ns/net").st_ino in inodes:
                os.kill(process.pid, signal.SIGCONT)
