"""mailfleet: one delivery node and one front-end, a volume on the file system of its folder, PostgreSQL
that syncs its log, and memcached. No balancer: the peers have none in front of them either.
"""

import poplib
import re
import socket
import time

import memcached
from bulk import SAMPLE, Bulk
from fleet import Fleet
from part import FleetError
from system import DOMAIN, HOST, PASSWORD, System

TOMBSTONE = 21  # seconds: nothing is cached for cache.tombstone_ttl after it was changed
STATISTICS = 11  # seconds: a backend of PostgreSQL that is idle reports its counters within 10
OWN = 10  # seconds: what nodes ask by themselves comes every few

# The clients are on this machine, and are to cost what a customer's cost: so nobody is exempt from the guard
# against guesses, and the limits, which are at work, are above what a few addresses bring that stand for many.
STRANGERS = {"limits.exempt": "192.0.2.0/24",  # nobody's (RFC 5737)
             **{f"smtp.{limit}_sessions": 100_000 for limit in ("address", "network")}}


class Nodes(Fleet):
    """A fleet without its balancer."""

    def make_parts(self):
        return [part for part in super().make_parts() if part.name != "haproxy"]

    def up(self):
        self.lay_out()
        self["postgres"].up()
        self.create_database()
        self["memcached"].up()
        self.init_store()
        for node in self.delivery_nodes + self.front_ends:
            node.up()


class Mailfleet(System):
    name, title, kind = "mailfleet", "mailfleet", "ours"
    acquainted = True
    titles = {"frontend1": "front-end", "deliver1": "delivery node", "postgres": "PostgreSQL",
              "memcached": "memcached"}
    settings = ("one delivery node and one front-end, a worker each; no balancer in front",
                "posix volume; PostgreSQL with fsync, synchronous_commit and full_page_writes on",
                "passwords as SHA-256 crypt, pop3.lock = lease")

    def __init__(self, state, base_port, say=lambda line: None, build=None):
        super().__init__(state, base_port, say)
        self.fleet = Nodes(
            self.folder, base_port, build=build, delivery_nodes=1, front_ends=1, say=say,
            settings={"pop3.plaintext_login": "always", "node.max_sessions": 100_000,
                      "node.workers": 1, **STRANGERS, "smtp.max_messages": 1_000_000, "node.drain_time": "1s",
                      # Cores are shared with the clients: a call that waits for one is no fault.
                      "cache.timeout": "2s"})
        self.bulk = Bulk(self)
        self.own_queries = None  # a second
        node, front_end = self.fleet.ports.deliver(1), self.fleet.ports.frontend(1)
        self.smtp, self.lmtp = node["smtp"], node["lmtp"]
        self.pop3, self.pop3s = front_end["pop3"], front_end["pop3s"]

    def start(self, users):
        self.users = users
        for part in self.fleet.parts:
            part.place = self.group(self.titles[part.name])
        self.fleet.up()
        self.version = self.fleet.run([self.fleet.admin_program, "--version"]).split()[-1]
        self.fleet.admin("domain", "add", DOMAIN)
        hashed = self.fleet.run(["/usr/bin/openssl", "passwd", "-5", "-stdin"], stdin=PASSWORD).strip()
        self.fleet.admin("account", "add", SAMPLE, "--hash", hashed)
        self.give_keys()
        self.bulk.grow(users)

    def give_keys(self):
        """SAMPLE logs in, and has keys of SCRAM: an account's first login makes them, which is a change of it."""
        pop3 = poplib.POP3(HOST, self.pop3, timeout=60)
        pop3.user(SAMPLE)
        pop3.pass_(PASSWORD)
        pop3.quit()
        for _ in range(100):
            if self.fleet.sql(f"SELECT scram FROM account WHERE addr = '{SAMPLE}'")[0][0]:
                return
            time.sleep(0.1)
        raise FleetError(f"{SAMPLE} got no keys of SCRAM")

    def stop(self):
        self.fleet.down()
        super().stop()

    def restart(self):
        front_end = self.fleet["frontend1"]
        front_end.stop()
        front_end.up()

    def import_messages(self, messages, numbers, maildir):
        """Pointers alone, as what is filled like this is listed and deleted, and never read."""
        self.bulk.point(numbers.start, len(numbers), messages)

    def settle(self, passed):
        """A list is cached again when the tombstones of its last change have gone."""
        time.sleep(max(0, TOMBSTONE - passed))

    def forget(self):
        with socket.create_connection((HOST, self.fleet.ports.memcached), timeout=5) as s:
            s.sendall(b"flush_all\r\n")
            if not s.recv(100).startswith(b"OK"):
                raise FleetError("memcached forgets nothing")

    def extra(self, wanted):
        counts = {"wal_syncs": self.syncs, "transactions": self.transactions,
                  "cache": self.cache, "queries": self.queries, "files": lambda: self.counter("spool_writes")}
        return {name: counts[name]() for name in wanted}

    def syncs(self):
        """Of PostgreSQL's log. Its counters are complete only some seconds after the work."""
        time.sleep(STATISTICS)
        return int(self.fleet.sql("SELECT wal_sync FROM pg_stat_wal", superuser=True)[0][0])

    def transactions(self):
        """Those that have made the pointers that there are."""
        return int(self.fleet.sql("SELECT count(DISTINCT xmin::text) FROM message")[0][0])

    def queries(self):
        """Statements of the nodes, less what they ask by themselves in the time: only differences mean anything."""
        if self.own_queries is None:
            before = self.counter("db_queries")
            time.sleep(OWN)
            self.own_queries = (self.counter("db_queries") - before) / OWN
        return self.counter("db_queries") - self.own_queries * time.monotonic()

    def cache(self):
        """Commands that memcached has got."""
        return sum(memcached.commands(HOST, self.fleet.ports.memcached))

    def counter(self, name):
        """Of all nodes."""
        pages = (node.get("/metrics")[0] for node in (*self.fleet.delivery_nodes, *self.fleet.front_ends))
        return sum(int(re.search(rf"^mailfleet_{name}_total (\d+)$", page, re.M)[1]) for page in pages)
