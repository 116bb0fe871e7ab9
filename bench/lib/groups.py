"""Control groups, to count what processes use: also those that have ended, and those forked a connection.

A group is a place (part.Here): what is started inside of it belongs to it, with all its children. Both
kinds of the kernel's hierarchies will do: cpuacct of the first version, or the only one of the second.
"""

import contextlib
import os
import secrets
import signal
import time
from pathlib import Path

from part import FleetError, Here

V1, V2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")
PREFIX = "mailfleet-bench-"
CLOSE_LIMIT = 10  # seconds
RUN = secrets.token_hex(4)  # process ids say nothing: each run has its own


def hierarchy():
    """(where groups are made, the file of a group that takes what enters it)"""
    if (V1 / "cpuacct.usage").exists():
        return V1, "tasks"
    if (V2 / "cgroup.controllers").exists():
        return V2, "cgroup.procs"
    raise FleetError("this kernel shows no control groups in /sys/fs/cgroup that count CPU")


def own_group():
    """Where this process is, and goes back to."""
    root, _ = hierarchy()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(",") if root == V1 else number == "0":
            # A group outside of this process's view is shown with "..".
            return root if ".." in path else root / path.lstrip("/")
    return root


class Group(Here):
    def __init__(self, name):
        root, self.entrance = hierarchy()
        self.path = root / f"{PREFIX}{RUN}-{name}"
        self.outside = own_group()
        self.path.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def inside(self):
        (self.path / self.entrance).write_text("0")
        try:
            yield
        finally:
            (self.outside / self.entrance).write_text("0")

    def cpu(self):
        """Seconds, since it was made."""
        with contextlib.suppress(FileNotFoundError):
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        stat = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(stat["usage_usec"]) / 1e6

    def pids(self):
        try:
            return [int(word) for word in (self.path / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def memory(self):
        """PSS in octets: what processes share is counted once."""
        return 1024 * sum(self.each("smaps_rollup", "Pss:"))

    def written(self):
        """Octets that its processes, and children that they waited for, have given to the disk."""
        return sum(self.each("io", "write_bytes:")) - sum(self.each("io", "cancelled_write_bytes:"))

    def each(self, name, field):
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                    if line.startswith(field):
                        yield int(line.split()[1])

    def close(self):
        """Ends what is still in it. Who was interrupted on his way out of it is there himself."""
        (self.outside / self.entrance).write_text("0")
        deadline = time.monotonic() + CLOSE_LIMIT
        while self.path.exists() and time.monotonic() < deadline:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # The first process of the namespace inherits orphans, which stay in the group until then.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.01)


def remove_empty():
    """Groups of runs that were killed: their processes are gone, the folders are not."""
    root, _ = hierarchy()
    for path in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            path.rmdir()
