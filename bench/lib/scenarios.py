"""The scenarios of bench/run: what is done to which systems, and what mailfleet must reach there.

A scenario prepares each system once; in each round all of them are filled, and then each is warmed and does
the round; what is measured around a round is the bench's (measuring.py). Users are parted, so that no scenario finds
another one's mail:

       0 ..    255  empty mailboxes that are polled
     300 ..    315  with 1,000 messages
     340 ..    341  with very many
     400 ..    463  drained
     500 ..    507  with long messages
     600 ..  1,599  get mail
    1,600 ..  1,619  get one message, which is deleted
    2,000 .. 19,999  empty: idle, and the storm
"""

import poplib
import time
from dataclasses import dataclass, field

from results import EXTRA
from system import HOST, PASSWORD, address

USERS = 20_000

OURS = "mailfleet"
DOVECOTS = ["dovecot-sdbox", "dovecot-mdbox", "dovecot-maildir"]
POP3_PEERS = [*DOVECOTS, "courier", "cyrus"]
LMTP_PEERS = [*DOVECOTS, "cyrus"]

KIB, MIB = 1024, 1024 * 1024


def target(what, figure, against, relation, value):
    return {"what": what, "figure": figure, "against": against, "relation": relation, "value": value}


ONCE = [target("one file", "files", None, "<=", 1), target("one transaction", "transactions", None, "<=", 1)]
WRITTEN = target("octets written at most 1.1 times the message", "amplified", None, "<=", 1.1)


def fewer(times, what="CPU seconds"):
    return target(f"{times:g} times fewer {what} than the best peer", "cpu", "peers", "<=", 1 / times)


@dataclass
class Scenario:
    name: str
    group: str
    title: str
    what: str
    one: str
    systems: list
    shows: list
    targets: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    users: tuple = (0, 1)  # the first and how many

    def prepare(self, bench, system):
        """Once for each system."""

    def fill(self, bench, system):
        """Before each round, not counted; other systems come between this and the round."""

    def warm(self, bench, system):
        """Right before each round, not counted."""

    def run(self, bench, system):
        """A round: returns the run, as results.py has it."""
        raise NotImplementedError

    def described(self):
        return {"name": self.name, "group": self.group, "title": self.title, "what": self.what,
                "one": self.one, "systems": self.systems, "shows": self.shows, "facts": self.facts,
                "targets": self.targets}

    def extra(self):
        """What is counted for the figures beside what always is."""
        return [EXTRA[figure] for figure in self.shows if figure in EXTRA]

    def at_once(self):
        return self.facts.get("at_once", 1)


class Pop3(Scenario):
    """Sessions of one kind, as many as there is time for."""

    work = "poll"
    tls = "none"
    more = ()  # arguments

    def arguments(self, bench, system, *limit, work=None):
        tls = self.facts.get("tls", "none")
        return [*bench.pop3(system, tls), *(["--resume"] if self.facts.get("resumed") else []), "--users",
                "%d:%d" % self.users, "--work", work or self.work,
                "--at-once", min(self.at_once(), self.users[1]), *limit, *self.more]

    def run(self, bench, system):
        return bench.measured(system, self.arguments(bench, system, "--seconds", bench.seconds),
                              extra=self.extra())


class Poll(Pop3):
    def prepare(self, bench, system):
        bench.acquaint(system, self.users)
        if self.facts["messages"]:
            bench.import_messages(system, self.facts["messages"], self.users)

    def warm(self, bench, system):
        if self.facts["messages"]:
            bench.settle(system)
        bench.load(self.arguments(bench, system, "--operations", self.users[1]))

    @property
    def more(self):
        return ("--messages", self.facts["messages"])


class Listing(Poll):
    work = "uidl"


class Drain(Pop3):
    """What there is in each mailbox, once."""

    work = "drain"

    def prepare(self, bench, system):
        bench.acquaint(system, self.users)

    def fill(self, bench, system):
        bench.deliver(system, self.users, self.facts["messages"], self.facts["size"])

    def warm(self, bench, system):
        bench.settle(system)
        # The list is known, as after a poll.
        bench.load(self.arguments(bench, system, "--operations", self.users[1], work="poll"))

    def run(self, bench, system):
        return bench.measured(system, self.arguments(bench, system, "--operations", self.users[1]),
                              extra=self.extra(), messages=self.users[1] * self.facts["messages"])

    @property
    def more(self):
        return (*(["--pipeline"] if self.facts["pipelined"] else []), "--messages", self.facts["messages"])


class Retr(Drain):
    work = "retr"

    def prepare(self, bench, system):
        bench.acquaint(system, self.users)
        bench.deliver(system, self.users, self.facts["messages"], self.facts["size"])

    def fill(self, bench, system):
        """It is read again and again."""

    def warm(self, bench, system):
        bench.settle(system)
        bench.load(self.arguments(bench, system, "--operations", self.users[1]))

    def run(self, bench, system):
        run = Pop3.run(self, bench, system)
        run["messages"] = run["operations"] * self.facts["messages"]
        return run


class Delivery(Scenario):
    """Transactions of one message."""

    protocol = "lmtp"

    def arguments(self, bench, system, *limit):
        return [*bench.mail(system, self.protocol), "--users", "%d:%d" % self.users,
                "--at-once", self.at_once(), "--size", self.facts["size"],
                "--recipients", self.facts["recipients"],
                "--per-connection", self.facts.get("per_connection", "all"), *limit]

    def prepare(self, bench, system):
        """A first login changes what is kept of an account: it is cached again when that has settled."""
        bench.acquaint(system, self.users)
        bench.settle(system)

    def warm(self, bench, system):
        """Processes are there, directories are known."""
        bench.load(self.arguments(bench, system, "--operations", 4 * self.at_once()))
        system.finish()

    def limit(self, bench):
        return "--seconds", bench.seconds

    def run(self, bench, system):
        return bench.measured(system, self.arguments(bench, system, *self.limit(bench)),
                              extra=self.extra())


class Smtp(Delivery):
    protocol = "smtp"


class ToMany(Delivery):
    """One transaction after the other, each to all users."""

    def warm(self, bench, system):
        bench.load(self.arguments(bench, system, "--operations", 1))
        system.finish()

    def limit(self, bench):
        return "--operations", 3 if bench.quick else 10


class DeleteOne(Scenario):
    """The DELE of one message and the QUIT that makes it so; the login before is not counted."""

    count = 20

    def prepare(self, bench, system):
        bench.acquaint(system, self.users)
        if self.facts["messages"] > 1:
            bench.import_messages(system, self.facts["messages"], self.users)

    def fill(self, bench, system):
        """As many as are deleted."""
        bench.deliver(system, self.users, 1 if self.facts["messages"] == 1 else self.count, 1024)

    def run(self, bench, system):
        first, users = self.users
        run = bench.started(system)
        for n in range(self.count):
            pop3 = poplib.POP3(HOST, system.pop3, timeout=60)
            pop3.user(address(first + n % users))
            pop3.pass_(PASSWORD)
            if pop3.stat()[0] < self.facts["messages"]:
                raise RuntimeError(f"{system.title}: {pop3.stat()[0]} messages")
            bench.counted(run, lambda: (pop3.dele(min(147, self.facts["messages"])), pop3.quit()))
        return bench.ended(run)


class Idle(Scenario):
    """Sessions that are logged in and wait."""

    def sessions(self, bench, system):
        most = self.facts["at_once"] if system.kind == "ours" else self.facts["peers_at_once"]
        return min(most, 500) if bench.quick else most

    def warm(self, bench, system):
        """A heap that was larger once would take sessions in for nothing."""
        system.restart()

    def run(self, bench, system):
        sessions = self.sessions(bench, system)
        arguments = [*bench.pop3(system, self.facts["tls"]), "--users", f"{self.users[0]}:{sessions}",
                     "--work", "idle", "--at-once", sessions]
        time.sleep(1)  # what was before has been cleared away
        return bench.held(system, arguments)


class Storm(Pop3):
    """Every client of many mailboxes at once, and nothing is cached."""

    work = "storm"

    def crowd(self, bench):
        first, count = self.users
        return first, min(count, 500) if bench.quick else count

    def prepare(self, bench, system):
        bench.acquaint(system, self.crowd(bench))

    def warm(self, bench, system):
        system.forget()

    def run(self, bench, system):
        first, count = self.crowd(bench)
        return bench.measured(system, [*bench.pop3(system, "none"), "--users", f"{first}:{count}", "--work", "storm",
                                       "--at-once", min(self.at_once(), count)], extra=self.extra())


class Limit(Scenario):
    """What the machine can do at most; its one system does it by itself."""

    def run(self, bench, system):
        return system.measure(bench, self)


def poll(name, title, systems, messages=0, tls="none", users=(0, 256), targets=(), group="poll",
         resume=None):
    what = ("connect, greeting, USER, PASS, STAT, QUIT; the mailbox has "
            + (f"{messages:,} messages, none of them new" if messages else "no messages"))
    facts = {"at_once": 16, "messages": messages, "tls": tls}
    if resume is not None:
        facts["resumed"] = resume
    return Poll(name, group, title, what, "poll", systems, ["cpu", "rate", "p50", "p99", "cache"],
                list(targets), facts, users)


def drain(name, title, pipelined):
    return Drain(name, "drain", title, "login, RETR and DELE of each of the 100 messages, QUIT", "drain",
                 [OURS, *LMTP_PEERS], ["cpu", "rate", "p99", "queries"],
                 [fewer(4), target("one statement for the deletes, +5 %", "queries", None, "<=", 1.05)],
                 {"at_once": 16, "messages": 100, "size": 4 * KIB, "pipelined": pipelined}, (400, 64))


def listing(name, messages, user, targets, systems=(OURS, *POP3_PEERS)):
    return Listing(name, "listing", f"UIDL of {messages:,} messages",
                   "a poll with UIDL instead of STAT, one session at a time on a mailbox that has not "
                   "changed", "listing", list(systems), ["cpu", "time", "p99"], targets,
                   {"at_once": 1, "messages": messages, "tls": "none"}, (user, 1))


def delivery(name, kind, title, systems, at_once, targets, more=(), **facts):
    return kind(name, "delivery", title,
                "one transaction on a connection that stays: MAIL, RCPT, DATA, and the reply that it is "
                "durable", "delivery", systems, ["cpu", "rate", "p50", "p99", "written", *more], targets,
                {"at_once": at_once, "size": 4 * KIB, "recipients": 1, **facts}, (600, 1000))


def to_many(name, recipients, targets, systems=(OURS, *LMTP_PEERS)):
    return ToMany(name, "many", f"2 MiB to {recipients:,} recipients",
                  f"one LMTP transaction of 2 MiB to {recipients:,} mailboxes, one at a time", "delivery",
                  list(systems), ["time", "cpu", "amplified", "files", "transactions"], targets,
                  {"at_once": 1, "size": 2 * MIB, "recipients": recipients}, (600, recipients))


def delete(name, title, messages, users, targets=()):
    return DeleteOne(name, "delete", title,
                     "DELE and QUIT of a session that was logged in before, one at a time", "deletion",
                     [OURS, "dovecot-sdbox", "dovecot-maildir", "cyrus"], ["cpu", "time"],
                     list(targets), {"at_once": 1, "messages": messages}, users)


def idle(name, title, tls, targets):
    return Idle(name, "idle", title, "a session that is logged in and silent; memory is PSS of all "
                "processes of the system", "session", [OURS, *POP3_PEERS], ["session"], targets,
                {"at_once": 18_000, "peers_at_once": 400, "tls": tls}, (2000, 18_000))


def limit(name, title, what, one, system, shows=("rate", "cpu"), **facts):
    return Limit(name, "limits", title, what, one, [system], list(shows), [], facts)


SCENARIOS = [
    poll("poll", "poll of an empty mailbox, 16 at once", [OURS, *POP3_PEERS, "bare"],
         targets=[fewer(8), target("at most 2 times the CPU seconds of the bare conversation server",
                                   "cpu", "bare", "<=", 2)]),
    poll("poll-1000", "poll with 1,000 unchanged messages, 16 at once", [OURS, *POP3_PEERS], 1000,
         users=(300, 16),
         targets=[fewer(8), target("the cost of the poll of an empty mailbox, +10 %", "cpu",
                                   "poll/mailfleet", "<=", 1.1)]),
    listing("uidl-20584", 20_584, 340, [fewer(8)]),
    listing("uidl-100000", 100_000, 341,
            [target("proportional to 20,584 messages, +10 %", "cpu", "uidl-20584/mailfleet", "<=",
                    1.1 * 100_000 / 20_584)], [OURS, "cyrus"]),
    drain("drain", "drain of 100 messages of 4 KiB, pipelined, 16 at once", True),
    drain("drain-turns", "drain of 100 messages of 4 KiB, a command at a time, 16 at once", False),
    Retr("retr-1m", "retr", "RETR of messages of 1 MiB, 8 at once",
         "login, RETR of each of the 20 messages, QUIT", "session", [OURS, *LMTP_PEERS],
         ["throughput", "cpu", "p99"],
         [target("1.5 times the throughput of the best peer", "throughput", "peers", ">=", 1.5),
          target("a third of the CPU of the best peer", "cpu", "peers", "<=", 1 / 3)],
         {"at_once": 8, "messages": 20, "size": MIB, "pipelined": False}, (500, 8)),
    delivery("lmtp-16", Delivery, "LMTP delivery of 4 KiB, durable, 16 at once",
             [OURS, *LMTP_PEERS, "bare"], 16,
             [target("3 times the rate of the best peer", "rate", "peers", ">=", 3), fewer(3),
              target("p99 below the best peer's", "p99", "peers", "<=", 1),
              target("deliveries for each sync of the log above 1", "together", None, ">=", 1.01)],
             more=["together"]),
    delivery("lmtp-64", Delivery, "LMTP delivery of 4 KiB, durable, 64 at once",
             [OURS, *LMTP_PEERS, "bare"], 64,
             [target("3 times the rate of the best peer", "rate", "peers", ">=", 3), fewer(3),
              target("p99 below the best peer's", "p99", "peers", "<=", 1)]),
    delivery("smtp-16", Smtp, "SMTP to the final file, 4 KiB, 16 at once", [OURS, "postfix", "bare"], 16,
             [target("3 times the rate of the best peer", "rate", "peers", ">=", 3), fewer(3)]),
    to_many("many-100", 100,
            [target("3 times faster than the best peer (hard links)", "time", "peers", "<=", 1 / 3),
             target("10 times faster than a peer that copies", "time", "dovecot-mdbox", "<=", 1 / 10),
             WRITTEN, *ONCE]),
    to_many("many-1000", 1000,
            [target("faster than a peer with hard links", "time", "dovecot-sdbox", "<=", 1), *ONCE],
            [OURS, "dovecot-sdbox"]),  # who copies would write 2 GB each time
    delete("delete-only", "delete the only message", 1, (1600, 20)),
    delete("delete-147", "delete message 147 of 20,584", 20_584, (340, 1),
           [target("the cost of deleting the only message, +20 %", "cpu", "delete-only/mailfleet", "<=",
                   1.2)]),
    idle("idle", "idle sessions", "none",
         [target("at most 8 KiB a session", "session", None, "<=", 8 * KIB)]),
    idle("idle-tls", "idle sessions over TLS", "pop3s",
         [target("at most 32 KiB a session", "session", None, "<=", 32 * KIB)]),
    Storm("storm-16", "storm", "10,000 mailboxes, nothing cached, 16 at once",
          "each of 10,000 mailboxes is polled once", "poll", [OURS, "dovecot-sdbox"],
          ["rate", "cpu", "p50", "p99", "queries"], [], {"at_once": 16, "messages": 0}, (2000, 10_000)),
    Storm("storm", "storm", "login storm: 10,000 mailboxes at once, nothing cached",
          "all clients of 10,000 mailboxes connect at the same time, and each polls once", "poll",
          [OURS, "dovecot-sdbox"], ["rate", "cpu", "p50", "max", "queries", "errors"],
          [target("within 30 % of the throughput of 16 at once", "rate", "storm-16/mailfleet", ">=", 0.7),
           target("one database query for each account, +5 %", "queries", None, "<=", 1.05),
           target("no errors", "errors", None, "<=", 0)],
          {"at_once": 10_000, "messages": 0}, (2000, 10_000)),
    poll("poll-tls", "poll over TLS, whole handshakes, 16 at once", [OURS, *POP3_PEERS], tls="pop3s",
         group="tls", resume=False),
    poll("poll-resumed", "poll over TLS, resumed, 16 at once", [OURS, *POP3_PEERS], tls="pop3s",
         group="tls", resume=True),
    limit("limit-accept", "accept and close", "a connection is accepted and closed", "connection",
          "accept", at_once=16),
    limit("limit-files", "files created, written and synced",
          "a file of 4 KiB in one of 256 directories, 16 writers", "file", "files", ("rate", "cpu"),
          at_once=16, size=4 * KIB, phase="write"),
    limit("limit-reads", "files read", "a file of 4 KiB, which is in memory, is opened, read and closed; 16 readers",
          "file", "files", ("rate", "cpu"), at_once=16, size=4 * KIB, phase="read"),
    limit("limit-commits", "single-row commits", "pgbench, 16 clients, one INSERT a transaction, synced",
          "commit", "commits", at_once=16),
    limit("limit-gets", "memcached gets", "one key a call, 16 connections", "get", "gets", at_once=16),
]


def find(names):
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise KeyError(", ".join(unknown))
    return [by_name[name] for name in names] if names else SCENARIOS
