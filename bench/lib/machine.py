"""What a page of benchmarks says of the machine and of the commit."""

import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = "docs/benchmarks"


def command(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=False)
    return done.stdout.strip()


def field(path, name):
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "?"


def version(package):
    return command("/usr/bin/dpkg-query", "-W", "-f", "${Version}", package) or "?"


def commit():
    """Of the tree, with "+" when it was changed; a page that was made of results is no change."""
    found = command("git", "-C", ROOT, "rev-parse", "--short", "HEAD")
    changed = command("git", "-C", ROOT, "status", "--porcelain", "--", ".", f":!{PAGES}")
    return found + "+" if changed else found


def facts(folder):
    """[[name, text]], of this machine and of the file system of a folder."""
    kind, options = command("findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", folder).split(maxsplit=1)
    memory = int(field("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024
    return [["processor", field("/proc/cpuinfo", "model name")],
            ["cores", f"{os.cpu_count()}, shared with the load generators"],
            ["memory", f"{memory:.0f} GiB"],
            ["kernel", platform.release().partition("-")[0]],
            ["file system", f"{kind} ({options})"],
            ["Debian", Path("/etc/debian_version").read_text(encoding="utf-8").strip()],
            ["PostgreSQL", version("postgresql-15")],
            ["memcached", version("memcached")]]


class Stolen:
    """The share of the processors' time that the host has given to others, since this was made."""

    def __init__(self):
        self.before = self.ticks()

    @staticmethod
    def ticks():
        """(all, stolen), of /proc/stat: the guests' time is in the users' already."""
        with open("/proc/stat", encoding="utf-8") as stat:
            ticks = [int(word) for word in stat.readline().split()[1:9]]
        return sum(ticks), ticks[7]

    def share(self):
        every, stolen = (now - before for now, before in zip(self.ticks(), self.before))
        return stolen / every if every else 0.0


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def described(folder):
    return {"time": now(), "commit": commit(), "facts": facts(folder)}
