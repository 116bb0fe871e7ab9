"""What bench/scale makes larger, and what it does at each step.

A series has places, which it comes to one after the other, and operations, which are done at each. An
operation knows nothing of what grows, but its users.
"""

import poplib
import select
import subprocess
import time

from fleet import PORTS
from measuring import Bench, LoadError, understood
from ours import Mailfleet
from system import HOST, PASSWORD, address

SIZE = 4096
AT_ONCE = 16


class Counted:
    """A mailfleet that grows, and what it has used."""

    def __init__(self, folder, options, build, say, workers=1, small=False):
        self.system = Mailfleet(folder, options.port + (PORTS if small else 0), say=say, build=build)
        if small:
            self.system.name = "small"  # its groups are its own
        # A machine that is busy otherwise makes this slower, and not wrong: a call that is given up may
        # leave a lease behind, and the next session is turned away.
        self.system.fleet.settings.update({"node.workers": workers, "cache.timeout": "2s"})
        self.idle = {}  # what goes on by itself, for a second
        self.bench = Bench(build, folder, options.rounds, options.seconds, options.quick, say)

    def start(self, users):
        self.system.start(users)
        self.bulk = self.system.bulk

    def now(self):
        return {**self.system.cpu(), "queries": self.system.counter("db_queries"), "cache": self.system.cache()}

    def spent(self, work):
        """(what work() tells, what was used meanwhile, how long that took)"""
        before, began = self.now(), time.monotonic()
        told = work()
        time.sleep(0.3)  # what comes right behind an answer is the work's
        took, after = time.monotonic() - began, self.now()
        return told, {key: value - before[key] for key, value in after.items()}, took

    def watch_idle(self, seconds):
        """Notes what is used while nobody does anything."""
        _, used, took = self.spent(lambda: time.sleep(seconds))
        self.idle = {key: value / took for key, value in used.items()}

    def measured(self, operation):
        """A point: what was done, and what was used for it."""
        told, used, took = self.spent(lambda: operation.run(self))
        if not operation.by_itself:
            used = {key: max(0.0, value - self.idle.get(key, 0) * took) for key, value in used.items()}
        cpu = {part: used[part] for part in self.system.groups}
        return {**{name: told.get(name, 0) for name in ("operations", "errors", "seconds")},
                **({"problem": told["problem"]} if told.get("problem") else {}),
                "cpu": told.get("cpu_counted") or cpu,
                "queries": used["queries"], "cache": used["cache"]}

    # Loads:

    def pop3(self, work, users, *words, at_once=AT_ONCE):
        first, count = users
        return [*self.bench.pop3(self.system, "none"), "--work", work, "--users", f"{first}:{count}",
                "--at-once", min(at_once, count), *words]

    def mail(self, users, *words, at_once=AT_ONCE):
        first, count = users
        return [*self.bench.mail(self.system, "lmtp"), "--users", f"{first}:{count}", "--size", SIZE,
                "--at-once", at_once, "--per-connection", "all", *words]

    def timed(self):
        return "--seconds", self.bench.seconds


# --- operations --------------------------------------------------------------------------------------


class Operation:
    figure, expected = "cpu", "flat"
    by_itself = False  # what goes on by itself is what it measures

    def __init__(self, users=(0, 2000), expected=None, at_once=AT_ONCE):
        self.users, self.at_once = users, at_once
        self.expected = expected or self.expected

    def described(self):
        return {"name": self.name, "title": self.title, "what": self.what, "figure": self.figure,
                "expected": self.expected}

    def ready(self, counted):
        """Before each round."""

    def run(self, counted):
        """A round: what was done."""
        raise NotImplementedError


class Poll(Operation):
    name, title = "poll", "poll"
    what = "Login, STAT and QUIT by mailboxes that were polled before and have not changed."
    work = "poll"

    def ready(self, counted):
        counted.bench.load(counted.pop3(self.work, self.users, "--operations", self.users[1],
                                        at_once=self.at_once))

    def run(self, counted):
        return counted.bench.generate(counted.pop3(self.work, self.users, *counted.timed(),
                                                   at_once=self.at_once))


class Listing(Poll):
    name, title, expected = "uidl", "UIDL", "proportional"
    what = "The same with UIDL."
    work = "uidl"


class FirstPoll(Operation):
    name, title, figure = "first-poll", "first poll", "database"
    what = ("A poll of each mailbox when the cache is empty: account and list come from the database, and the "
            "password is checked by its hash, which is most of the front-end's share.")
    least = 40  # polls in a round

    def ready(self, counted):
        counted.system.forget()

    def run(self, counted):
        """Few mailboxes are polled more than once: the cache is emptied in between."""
        told = counted.bench.generate(counted.pop3("storm", self.users, at_once=self.at_once))
        while told["operations"] < self.least and not told.get("problem"):
            counted.system.forget()
            again = counted.bench.generate(counted.pop3("storm", self.users, at_once=self.at_once))
            told = {**again, **{name: told[name] + again[name] for name in ("operations", "seconds")}}
        return told


class Deliver(Operation):
    name, title = "deliver", "delivery"
    what = f"LMTP, {SIZE:,} octets, one recipient, to one mailbox after the other."

    def run(self, counted):
        return counted.bench.generate(counted.mail(self.users, *counted.timed(), at_once=self.at_once))


class FirstDelivery(Deliver):
    name, title = "first-delivery", "first delivery"
    what = "The same when the cache is empty: where the recipient's mail goes is asked of the database."

    def ready(self, counted):
        counted.system.forget()

    def run(self, counted):
        return counted.bench.generate(counted.mail(self.users, "--operations", self.users[1],
                                                   at_once=self.at_once))


class Delete(Operation):
    name, title = "delete", "deletion"
    what = ("DELE of one message, and QUIT. The login before it counts in the numbers of queries and commands, "
            "and in nothing else.")
    count = 20

    def run(self, counted):
        run = counted.bench.started(counted.system)
        first, users = self.users
        for n in range(self.count):
            pop3 = poplib.POP3(HOST, counted.system.pop3, timeout=120)
            pop3.user(address(first + n % users))
            pop3.pass_(PASSWORD)
            which = min(147, pop3.stat()[0])
            counted.bench.counted(run, lambda: (pop3.dele(which), pop3.quit()))
        ended = counted.bench.ended(run)
        return {**ended, "cpu_counted": ended["cpu"]}


class ToMany(Operation):
    name, title, expected = "deliver", "delivery", "proportional"
    what = f"An LMTP transaction of {SIZE:,} octets to so many recipients: one file."
    transactions = 2000  # of one recipient; fewer when there are more

    def run(self, counted):
        recipients = self.users[1]
        count = max(20, self.transactions // recipients // (10 if counted.bench.quick else 1))
        return counted.bench.generate(counted.mail((0, 4000), "--recipients", recipients, "--operations",
                                                   count, at_once=4))


# --- series --------------------------------------------------------------------------------------------


class Series:
    """What grows. Places are made one after the other, in a mailfleet that begins with some users."""

    begins = 2000
    workers = False  # a place is a number of workers, and needs a mailfleet of its own
    beside = False  # each round is done by a small mailfleet, too: minutes lie between places, and machines change

    def described(self):
        return {"name": self.name, "title": self.title, "of": self.of, "what": self.what,
                "operations": [operation.described() for operation in self.operations(self.places[-1])]}

    def prepare(self, counted, at):
        """Makes it so large."""

    def operations(self, at):
        raise NotImplementedError

    def small_operations(self, nth):
        """The same by the mailfleet beside, at the nth place."""
        raise NotImplementedError

    def around(self, counted, at, measure):
        """Measures at a place."""
        measure()


def at_work(users):
    """What clients do all day."""
    return [Poll(users), FirstPoll(users), Deliver(users), FirstDelivery(users)]


class Filled(Series):
    """What the database has more of, beside a mailfleet of 6,000 mailboxes: as many at each place, as lists are not
    cached for a while when mail has come."""

    beside, small_begins = True, 6_000

    def small_operations(self, nth):
        return at_work((2000 * nth, 2000))


class Mailboxes(Filled):
    name, title, of = "mailboxes", "Mailboxes", "mailboxes"
    what = ("The fleet has so many, without messages at first. The last 2,000 are polled and get mail. A fleet of "
            "6,000 does the same in turns with it.")
    places, quick = (2_000, 20_000, 200_000), (2_000, 4_000)

    def prepare(self, counted, at):
        counted.bulk.grow(at)

    def operations(self, at):
        return at_work((at - 2000, 2000))


class Messages(Filled):
    name, title, of = "messages", "Messages", "messages"
    what = ("The fleet has 200,000 mailboxes, some of which have 25 messages each, so many in all. The last 2,000 "
            "of these are polled and get mail. A fleet of 6,000 mailboxes, without messages at first, does the same "
            "in turns with it.")
    places, quick = (100_000, 1_000_000, 5_000_000), (100_000, 200_000)
    each = 25

    def __init__(self):
        self.filled = 0

    def prepare(self, counted, at):
        counted.bulk.grow(10_000 if counted.bench.quick else 200_000)
        wanted = at // self.each
        counted.bulk.point(self.filled, wanted - self.filled, self.each)
        self.filled = wanted

    def operations(self, at):
        return at_work((at // self.each - 2000, 2000))


class Sizes(Series):
    name, title, of = "sizes", "Sizes of mailboxes", "messages in the mailbox"
    what = "Four mailboxes have so many messages each."
    places, quick = (0, 100, 1_000, 20_584, 100_000), (0, 100, 1_000)
    alike = 4

    def users(self, at):
        return self.alike * (self.places.index(at) if at in self.places else 0), self.alike

    def prepare(self, counted, at):
        if at:
            counted.bulk.point(*self.users(at), at)

    def operations(self, at):
        users = {"users": self.users(at), "at_once": self.alike}
        return [Poll(expected="proportional", **users), Listing(**users),
                FirstPoll(expected="proportional", **users),
                *([Delete(**users)] if at else []), Deliver(**users)]


class Recipients(Series):
    name, title, of = "recipients", "Recipients", "recipients"
    what = "A message has so many."
    begins = 4000
    places, quick = (1, 10, 100, 1_000), (1, 10)

    def operations(self, at):
        return [ToMany((0, at))]


class Sessions(Series):
    name, title, of = "sessions", "Sessions", "sessions"
    what = ("So many sessions are logged in and silent, each of a mailbox of its own; beside them 2,000 other "
            "mailboxes are polled, and what the sessions use by themselves is subtracted.")
    begins = 20_000
    places, quick = (100, 1_000, 5_000, 18_000), (100, 500)

    class Idle(Operation):
        name, title, by_itself = "idle", "a silent session, for a second", True
        what = "What the front-end does for it, and its lease that is renewed."

        def run(self, counted):
            began = time.monotonic()
            time.sleep(3 * counted.bench.seconds)
            took = time.monotonic() - began
            return {"operations": int(self.users[1] * took), "errors": 0, "seconds": took}

    class Memory(Operation):
        name, title, figure = "memory", "memory of a session", "memory"
        what = "PSS of the front-end with the sessions, less that without, for each."

        def run(self, counted):
            return {"operations": self.users[1], "errors": 0, "seconds": 1}

    def operations(self, at):
        return [Poll((0, 2000)), self.Idle((0, at)), self.Memory((0, at))]

    def around(self, counted, at, measure):
        """The sessions stand meanwhile."""
        group = counted.system.groups["front-end"]
        words = [str(word) for word in counted.pop3("idle", (2000, at), at_once=at)]
        time.sleep(1)  # what was before has been cleared away
        before = group.memory()
        with counted.bench.guarded(subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True)) as child:
            ready = child.stdout.readline() if select.select([child.stdout], [], [], 600)[0] else ""
            if ready.startswith('{"ready"'):
                time.sleep(2)  # buffers are given back
                counted.watch_idle(2 * counted.bench.seconds)
                measure(memory=group.memory() - before)
                counted.idle = {}
            said, complained = child.communicate(timeout=600)
        if problem := understood(words, said, complained).get("problem"):
            raise LoadError(problem)


class Workers(Series):
    name, title, of = "workers", "Workers", "workers"
    what = "Front-end and delivery node have so many each; 2,000 mailboxes."
    places, quick = (1, 2), (1, 2)
    workers = True

    def operations(self, at):
        return [Poll(), Deliver()]


ALL = {kind.name: kind for kind in (Mailboxes, Messages, Sizes, Recipients, Sessions, Workers)}
