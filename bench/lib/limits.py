"""What the machine itself can do, beside which the systems are measured: a conversation with nothing
behind it, connections, files, commits, gets.

Each is a System in the lists of a run, without users or mail. Those whose scenario is their own do it
in measure(), which gives a run as measuring.py makes them.
"""

import json
import re
import socket

from fleet import Ports
from ours import Nodes
from part import FleetError, Part
from system import HOST, System


class Program(Part):
    """A program of the build, ready when its port lets somebody in."""

    def __init__(self, owner, name, words, port, hello=b""):
        super().__init__(owner, name)
        self.words, self.port, self.hello = words, port, hello

    def command(self):
        return self.words

    def probe(self):
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as s:
                if not self.hello or s.recv(1024).startswith(self.hello):
                    return None
        except OSError as error:
            return str(error)
        return f"port {self.port} says something else"


class Limit(System):
    kind = "limit"

    def __init__(self, state, base_port, say=lambda line: None, build=None):
        super().__init__(state, base_port, say)
        self.programs = build / "bench"
        self.parts = []

    def begin(self, name, words, port, hello=b""):
        part = Program(self, name, words, port, hello)
        part.place = self.group(self.title)
        self.parts.append(part)
        part.up()

    def stop(self):
        for part in self.parts:
            part.stop()
        self.parts.clear()
        super().stop()


class Bare(Limit):
    """One process and one thread, whichever of the two it is asked for."""

    name, title = "bare", "bare conversation"
    settings = ("answers the same lines from one thread, and keeps nothing",)

    def __init__(self, state, base_port, say=lambda line: None, build=None):
        super().__init__(state, base_port, say, build)
        self.pop3 = base_port
        self.smtp = self.lmtp = base_port + 1

    def start(self, users):
        self.lay_out()
        program = self.programs / "load/bare_server"
        self.begin("pop3", [program, self.pop3, "--poll"], self.pop3, b"+OK")
        self.begin("mail", [program, self.lmtp, "--mail"], self.lmtp, b"220")


class Accept(Limit):
    name, title = "accept", "accept and close"
    settings = ("one thread, no word said",)

    def start(self, users):
        self.lay_out()
        self.begin("close", [self.programs / "load/bare_server", self.base_port, "--close"],
                   self.base_port)

    def measure(self, bench, scenario):
        return bench.measured(self, [bench.program("load_bare"), "--server", f"{HOST}:{self.base_port}",
                                     "--work", "connect", "--at-once", scenario.at_once(),
                                     "--seconds", bench.seconds])


class Gets(Limit):
    """The memcached of Debian, as mailfleet has it here."""

    name, title = "gets", "memcached"
    settings = ("items of 1 KiB",)

    def start(self, users):
        self.lay_out()
        self.begin("memcached", ["/usr/bin/memcached", "-u", "memcache", "-l", HOST, "-p", self.base_port,
                                 "-U", "0"], self.base_port)

    def measure(self, bench, scenario):
        return bench.measured(self, [bench.program("load_bare"), "--server", f"{HOST}:{self.base_port}",
                                     "--work", "get", "--at-once", scenario.at_once(),
                                     "--seconds", bench.seconds])


class Files(Limit):
    """The programs are the writers and readers; what they use is the figure."""

    name, title = "files", "files on the file system"
    settings = ("in 256 directories; to write: create, write, fsync and close; to read: open, read and close",)

    def start(self, users):
        self.lay_out()
        for n in range(256):
            (self.folder / "files" / f"{n:02x}").mkdir(parents=True, exist_ok=True)

    def measure(self, bench, scenario):
        run = bench.started(self)
        with self.group(self.title).inside():
            said = self.run([self.programs / "local_disk", self.folder / "files",
                                     scenario.facts["size"], scenario.at_once(), bench.seconds], timeout=600)
        told = next(one for one in map(json.loads, said.splitlines()) if one["operation"] == scenario.facts["phase"])
        bench.note(run, {"operations": told["operations"], "errors": 0, "seconds": told["seconds"],
                         "latency_us": {"p50": told["p50_us"], "p99": told["p99_us"]}})
        # It does more than that: what it says of this phase counts, not what the group has used.
        run = bench.ended(run)
        run["cpu"] = {self.title: told["cpu_seconds"]}
        return run


class Commits(System):
    """PostgreSQL with the settings of mailfleet's."""

    name, title, kind = "commits", "PostgreSQL", "limit"
    settings = ("fsync, synchronous_commit and full_page_writes on",)

    def __init__(self, state, base_port, say=lambda line: None, build=None):
        super().__init__(state, base_port, say)
        self.fleet = Nodes(self.folder, base_port, delivery_nodes=0, front_ends=0, say=say)
        self.postgres = self.fleet["postgres"]

    def start(self, users):
        self.fleet.lay_out()
        self.postgres.place = self.group(self.title)
        self.postgres.up()
        self.fleet.sql("CREATE TABLE row (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text)",
                       superuser=True, database="postgres")
        (self.folder / "insert.sql").write_text(
            "INSERT INTO row (text) VALUES ('as long as what is told of a message in a mailbox, about');\n")

    def stop(self):
        self.postgres.stop()
        super().stop()

    def measure(self, bench, scenario):
        run = bench.started(self)
        said = self.run(
            [self.postgres.programs() / "pgbench", "-n", "-f", self.folder / "insert.sql",
             "-c", scenario.at_once(), "-j", 1, "-T", bench.seconds, "-M", "prepared",
             "-h", HOST, "-p", Ports(self.base_port).postgres, "-U", "postgres", "postgres"],
            env={"PGPASSWORD": self.fleet.saved["postgres_password"]}, timeout=600)
        number, latency = (re.search(words, said) for words in (
            r"transactions actually processed: (\d+)", r"latency average = ([\d.]+) ms"))
        if not number or not latency:
            raise FleetError(f"pgbench says: {said}")
        count = int(number[1])
        tps = re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)
        bench.note(run, {"operations": count, "errors": 0, "seconds": count / float(tps[1]),
                         "latency_us": {"p50": 1000 * float(latency[1])}})
        return bench.ended(run)
