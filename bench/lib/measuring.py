"""Measuring: load generators against systems, with what these use read before and after.

A run (results.py has its shape) counts the system's groups of processes, not the generator. Errors of a
generator are told with the run; outside of a measurement they end it all.
"""

import contextlib
import json
import os
import poplib
import select
import shutil
import subprocess
import time
from pathlib import Path

from part import FleetError
from system import HOST, PASSWORD, USER

LOAD_LIMIT = 1800  # seconds, of a generator
SECTOR = 512
READY_LIMIT = 600
PAUSE = 0.5  # seconds: what a system does right after an answer still counts as its work
FILLERS = 16  # connections that fill mailboxes

MESSAGE = """\
From: <sender@client.example>
To: <recipient@bench.example>
Subject: message {number}
Message-Id: <{number}.bench@client.example>
Date: Sun, 22 Nov 2026 12:00:00 +0000

""" + "What is said here is said for its length alone, and it is not long.\n" * 10


class LoadError(Exception):
    """A generator met errors, or did not do what it was to do."""


# What goes wrong with a system or with work at it, and is told with it: the rest of a run goes on.
FAILURES = (FleetError, LoadError, OSError, EOFError, RuntimeError, poplib.error_proto, subprocess.SubprocessError)


class Bench:
    def __init__(self, build, folder, rounds, seconds, quick=False, say=lambda line: None):
        self.build, self.folder = Path(build), folder
        self.rounds, self.seconds, self.quick, self.say = rounds, seconds, quick, say
        self.disk = disk_of(folder)
        self.known = {}  # system -> users that were acquainted
        self.imported = set()  # (system, messages, users)
        self.changed = {}  # system -> when it last got mail

    # --- arguments ------------------------------------------------------------------------------------

    def program(self, name):
        return self.build / "bench/load" / name

    def pop3(self, system, tls):
        port = system.pop3s if tls == "pop3s" else system.pop3
        return [self.program("load_pop3"), "--server", f"{HOST}:{port}", "--tls", tls,
                "--user", USER, "--password", PASSWORD]

    def mail(self, system, protocol):
        port = system.lmtp if protocol == "lmtp" else system.smtp
        return [self.program("load_mail"), "--server", f"{HOST}:{port}", "--protocol", protocol,
                "--user", USER]

    # --- filling --------------------------------------------------------------------------------------

    def acquaint(self, system, users):
        """Whatever a first login or delivery does to these users is done: no mailbox is made twice."""
        first, count = users
        known = self.known.setdefault(system.name, set())
        wanted = set(range(first, first + count))
        if system.acquainted or wanted <= known:
            return
        if system.pop3:
            self.load([*self.pop3(system, "none"), "--users", f"{first}:{count}", "--work", "storm",
                       "--at-once", min(FILLERS, count)])
        else:
            self.deliver(system, users, 1, 1024)
        known |= wanted
        self.changed[system.name] = time.monotonic()

    def deliver(self, system, users, messages, size):
        """So many messages to each of them, by what the system has."""
        first, count = users
        total = count * messages
        self.load([*self.mail(system, "lmtp" if system.lmtp else "smtp"), "--users",
                   f"{first}:{count}", "--at-once", min(FILLERS, total), "--operations", total,
                   "--size", max(size, 1024), "--per-connection", "all"])
        system.finish()
        self.changed[system.name] = time.monotonic()

    def import_messages(self, system, messages, users):
        """The same to each of them, by its quickest way for very many. Once: who deletes some brings as many."""
        if (system.name, messages, users) not in self.imported:
            system.import_messages(messages, range(users[0], users[0] + users[1]),
                                   lambda: self.maildir(messages, system))
            self.imported.add((system.name, messages, users))
            self.changed[system.name] = time.monotonic()

    def settle(self, system):
        """Until what it got, or learnt of its accounts, may be cached."""
        if system.name in self.changed:
            system.settle(time.monotonic() - self.changed[system.name])

    def maildir(self, messages, system):
        """A Maildir with so many messages, which belongs to the user of all systems."""
        source = self.folder / f"maildir-{messages}"
        if not source.exists():
            made = source.with_suffix(".new")
            shutil.rmtree(made, ignore_errors=True)
            for name in "cur", "new", "tmp":
                (made / name).mkdir(parents=True)
            for number in range(messages):
                path = made / "cur" / f"{1700000000 + number}.M{number}P1.bench:2,S"
                path.write_text(MESSAGE.format(number=number), encoding="ascii")
            for path in made, *made.iterdir():
                system.own(path, system.user, 0o755)
            made.rename(source)
        return source

    # --- loads ----------------------------------------------------------------------------------------

    def load(self, arguments):
        """A load that must go well, and is not measured: what the generator told."""
        told = self.generate(arguments)
        if told["errors"] or not told["operations"]:
            raise LoadError(told["problem"])
        return told

    def generate(self, arguments):
        words = [str(word) for word in arguments]
        with self.guarded(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, text=True)) as child:
            said, complained = child.communicate(timeout=LOAD_LIMIT)
        return understood(words, said, complained)

    @contextlib.contextmanager
    def guarded(self, child):
        """It does not outlive this."""
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()

    def measured(self, system, arguments, messages=None, extra=()):
        """A run of a generator. extra: what else the system is to count."""
        run = self.started(system, extra)
        self.note(run, self.generate(arguments))
        if messages is not None:
            run["messages"] = messages
        began = time.monotonic()
        system.finish()
        run["seconds"] += time.monotonic() - began
        return self.ended(run)

    @staticmethod
    def note(run, told):
        """What the generator told, in a run."""
        for name in ("operations", "errors", "seconds", "latency_us", "octets_in", "octets_out"):
            run[name] = told.get(name)
        run["client_cpu"] = told.get("cpu")
        run["messages"] = told.get("messages", told["operations"])
        if told.get("problem"):
            run["problem"] = told["problem"]

    def held(self, system, arguments, part=None):
        """Sessions that stand: memory before, during and after, of all of the system or of a part."""
        words = [str(word) for word in arguments]
        memory = system.groups[part].memory if part else system.memory
        run = self.started(system)
        run["memory"] = {"before": memory()}
        with self.guarded(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, text=True)) as child:
            if not select.select([child.stdout], [], [], READY_LIMIT)[0]:
                raise LoadError(f"{' '.join(words)}: not ready after {READY_LIMIT} s")
            ready = child.stdout.readline()
            time.sleep(2)  # buffers are given back, processes are at rest
            run["memory"]["during"] = memory()
            said, complained = child.communicate(timeout=LOAD_LIMIT)
        if not ready.startswith('{"ready"'):
            said = ready + said
        self.note(run, understood(words, said, complained))
        if not run.get("problem"):
            run["operations"] = run["messages"] = json.loads(ready)["ready"]
        run = self.ended(run)
        run["memory"]["after"] = memory()
        return run

    # --- runs by hand -----------------------------------------------------------------------------------

    def started(self, system, extra=()):
        """A run, with what the system has used up to now."""
        before = system.extra(extra)
        return {"operations": 0, "errors": 0, "seconds": 0.0, "latency_us": None, "messages": 0,
                "": {"system": system, "wanted": extra, "extra": before, "written": system.written(),
                     "device": self.device_written(), "cpu": system.cpu(), "counted": None,
                     "latencies": []}}

    def counted(self, run, work):
        """One operation of a run in which nothing else is to count."""
        inner = run[""]
        time.sleep(0.02)
        cpu, began = inner["system"].cpu(), time.monotonic()
        work()
        took = time.monotonic() - began
        time.sleep(0.02)
        spent = minus(inner["system"].cpu(), cpu)
        so_far = inner["counted"] or {}
        inner["counted"] = {part: so_far.get(part, 0) + value for part, value in spent.items()}
        inner["latencies"].append(took)
        run["operations"] += 1
        run["messages"] += 1
        run["seconds"] += took

    def ended(self, run):
        """The run, with what the system has used since."""
        inner = run.pop("")
        system = inner["system"]
        time.sleep(PAUSE)
        run["cpu"] = inner["counted"] or minus(system.cpu(), inner["cpu"])
        run["written"] = system.written() - inner["written"]
        run["device_written"] = self.device_written() - inner["device"]
        if inner["latencies"]:
            run["latency_us"] = percentiles(inner["latencies"])
        if inner["extra"]:
            run["extra"] = minus(system.extra(inner["wanted"]), inner["extra"])
        return run

    def device_written(self):
        """With what was still in memory: so nothing of before counts, and all of it."""
        os.sync()
        return int(Path(f"/sys/dev/block/{self.disk}/stat").read_text().split()[6]) * SECTOR


def minus(after, before):
    return {name: value - before.get(name, 0) for name, value in after.items()}


def percentiles(latencies):
    """In microseconds, as the generators tell them."""
    ordered = sorted(int(1e6 * latency) for latency in latencies)

    def at(part):
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return {"min": ordered[0], "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
            "max": ordered[-1]}


def understood(words, said, complained):
    """What a generator told; with "problem", when something went wrong."""
    lines = said.splitlines()
    try:
        told = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise LoadError(f"{' '.join(words)}: {(complained or said).strip() or 'said nothing'}") from None
    if told["errors"] or not told["operations"]:
        first = complained.strip().splitlines()[:1]
        told["problem"] = f"{told['errors']} errors, {told['operations']} operations" + (
            f": {first[0]}" if first else "")
    return told


def disk_of(folder):
    """The number of the device that a file system is on, as in /sys/dev/block."""
    number = os.stat(folder).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    if not Path(f"/sys/dev/block/{name}/stat").exists():
        raise FleetError(f"{folder} is not on a disk")
    return name
