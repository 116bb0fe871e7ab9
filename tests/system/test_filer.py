#!/usr/bin/python3 -B
"""A filer that hangs hangs nobody, and one that dies loses nothing.

It hangs while its processes are stopped (SIGSTOP): the NFS server of nfs:// volumes; a file system
that a process serves (bindfs), for file:// volumes, where every file call then blocks its thread.
"""

import contextlib
import json
import os
import random
import signal
import time

import filer
import harness
import outage
from load import Killer, Sender, Worker
from mail import Refused, without_trace

DEADLINE = 2  # seconds, of a file call: spool.timeout
SLACK = 3  # what a busy machine may add to it
AT_ONCE = DEADLINE / 2  # no deadline was waited for
# How many calls of a process wait for the deadline, until all others fail at once: one for each
# volume of an NFS server, or one for each thread of a file:// volume.
CALLS = 2
SETTINGS = {"spool.timeout": f"{DEADLINE}s",
            "cache.timeout": "2s"}  # a busy machine is not to look like a broken cache
BEFORE = 4  # seconds of load before it hangs
KILLING = 60  # seconds
SENDERS = 6  # more than elsewhere, meanwhile
MESSAGES = 5
LARGE = 900_000  # octets, of a message that one call reads
GROWTH = 40  # MiB that a node may take more than before


def message(number, size=8192):
    line = b"%d " % number * 8 + b"\r\n"
    return b"Subject: %d\r\n\r\n" % number + line * (size // len(line))


def refusal(function):
    """(seconds, the reply), of what must be refused."""
    began = time.monotonic()
    try:
        function()
    except Refused as refused:
        return time.monotonic() - began, refused.reply
    raise AssertionError("it was not refused")


# --- clients --------------------------------------------------------------------------------------


class Polls(Worker):
    """Polls mailboxes of MESSAGES messages, which no poll needs a file for."""

    pause = 0.01

    def __init__(self, ledger, who, connect, accounts):
        super().__init__(ledger, who, 0)
        self.connect, self.accounts = connect, accounts
        self.took = []  # (when it began, seconds)

    def step(self):
        began = time.monotonic()
        with self.connect() as pop3:
            pop3.login(self.rng.choice(self.accounts))
            counts = {pop3.stat()[0], len(pop3.list()), len(pop3.uidl())}
            pop3.quit()
        if counts != {MESSAGES}:
            self.ledger.lie(f"{self.who}: {counts} messages")
        self.took.append((began, time.monotonic() - began))
        self.ledger.answer(self.who, "ok")

    def between(self, begin, end):
        return [took for began, took in self.took if begin <= began < end]


class Reads(Worker):
    """Reads a large message all the time, in sessions that outlive the refusals."""

    pause = 0.005

    def __init__(self, ledger, who, connect, account, content):
        super().__init__(ledger, who, 0)
        self.connect, self.account, self.content = connect, account, content
        self.took = []  # (when it began, seconds, answer)

    def step(self):
        with self.connect() as pop3:
            pop3.login(self.account)
            for _ in range(20):
                began = time.monotonic()
                answer = self.read(pop3)
                self.took.append((began, time.monotonic() - began, answer))
                self.ledger.answer(self.who, answer)
                if self.stopping.wait(self.pause):
                    break
            pop3.stat()
            pop3.quit()

    def read(self, pop3):
        try:
            if self.rng.random() < 0.5:
                pop3.multi("TOP 1 0")
            elif without_trace(pop3.retr(1)) != self.content:
                self.ledger.lie(f"{self.who}: got another message")
        except Refused as refused:
            if not refused.reply.startswith("-ERR [SYS/TEMP]"):
                self.ledger.lie(f"{self.who}: {refused.reply}")
            return "SYS/TEMP"
        return "ok"


class Reaper(Worker):
    pause = 2

    def __init__(self, ledger, who, fleet):
        super().__init__(ledger, who, 0)
        self.fleet = fleet
        self.files = 0

    def step(self):
        try:
            self.files += json.loads(self.fleet.admin("reap", "--yes", "--json"))["files"]
            self.ledger.answer(self.who, "ok")
        except harness.FleetError as error:
            if f"failed ({os.EX_TEMPFAIL})" not in str(error):
                self.ledger.lie(f"{self.who}: {error}")
            self.ledger.answer(self.who, "temporary")


# --- it hangs -------------------------------------------------------------------------------------


class Hangs:
    """What is the same for every kind of filer."""

    recovery = 20
    settings = SETTINGS

    @classmethod
    def setUpClass(cls):
        # What a node frees is not to count as memory that it uses.
        options = os.environ.get("ASAN_OPTIONS", "")
        os.environ["ASAN_OPTIONS"] = f"{options}:quarantine_size_mb=4"
        try:
            super().setUpClass()
        finally:
            os.environ["ASAN_OPTIONS"] = options

    def setUp(self):
        """Each node by itself has found out that what hung in the test before is well again."""
        for node in self.nodes():
            self.eventually(self.recovery, lambda: self.assertEqual(
                [line for line in node.get("/readyz")[0].splitlines()
                 if ": volume " in line and not line.endswith(": ok")], []))
        account = self.account(f"{self._testMethodName.removeprefix('test_')}-before")
        for node in 0, 1:
            self.eventually(self.recovery, lambda: self.deliver(message(node), account, node=node))
        for node in 0, 1:
            self.eventually(self.recovery, lambda: self.mailbox(account, node))

    def stop_filer(self):
        filer.freeze(self.filer)

    def go_on(self):
        self.filer.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def hung(self):
        self.stop_filer()
        try:
            yield
        finally:
            self.go_on()

    def some_mail(self, name, count=MESSAGES):
        account = self.account(name)
        with self.lmtp() as lmtp:
            for number in range(count):
                lmtp.deliver(message(number), [account.address])
            lmtp.quit()
        return account

    # --- under load -----------------------------------------------------------------------------

    def load(self, ledger, stale):
        content = message(0, LARGE)
        large = [self.account(f"large{node}") for node in (0, 1)]
        self.deliver(content, *large)
        self.polls = [Polls(ledger, f"polls {node}", lambda node=node: self.pop3(node=node),
                            [self.some_mail(f"polled{node}-{n}") for n in range(2)])
                      for node in (0, 1)]
        self.reads = [Reads(ledger, f"reads {node}", lambda node=node: self.pop3(node=node),
                            large[node], content) for node in (0, 1)]
        return super().load(ledger, stale) + self.polls + self.reads

    def begin(self):
        began = time.monotonic()
        time.sleep(BEFORE)
        self.before = {node.name: filer.footprint(node) for node in self.nodes()}
        self.stopped = time.monotonic()
        self.polls_before = [poll.between(began, self.stopped) for poll in self.polls]
        self.stop_filer()

    def while_away(self, ledger, workers, felt_by_senders):
        super().while_away(ledger, workers, felt_by_senders)
        now = time.monotonic()
        for poll, before in zip(self.polls, self.polls_before):
            self.check_polls(before, poll.between(self.stopped, now), now - self.stopped)
        for read in self.reads:
            self.check_reads([(began - self.stopped, took, answer)
                              for began, took, answer in read.took if began > self.stopped])
        for node in self.nodes():
            self.check_footprint(node)

    def check_polls(self, before, since, seconds):
        told = f"{len(before)} polls in {BEFORE} s, then {len(since)} in {seconds:.1f} s; " \
            f"the longest took {max(before):.2f} s, then {max(since, default=0):.2f} s"
        print("#", told)
        self.assertGreaterEqual(len(since) / seconds, len(before) / BEFORE / 2, told)
        self.assertLess(max(since), max(before) + 1, told)

    def check_reads(self, reads):
        """Those that began while it was being found out that it hangs, and those after it."""
        early = [took for began, took, _ in reads if began < DEADLINE + SLACK]
        late = [(took, answer) for began, took, answer in reads if began >= DEADLINE + SLACK]
        self.assertTrue(early and late, reads)
        print(f"# {len(early)} messages read in the first {DEADLINE + SLACK} s, the longest in "
              f"{max(early):.2f} s; then {len(late)}, in {max(late)[0]:.2f} s")
        self.assertLess(max(early), DEADLINE + SLACK)
        self.assertLess(max(late)[0], AT_ONCE)
        self.assertEqual({answer for _, answer in late}, {"SYS/TEMP"})
        self.assertGreater(len(reads) * LARGE, 2 * GROWTH << 20, "too few to see memory grow")

    def check_footprint(self, node):
        threads, files, memory = filer.footprint(node)
        before = self.before[node.name]
        told = f"{node.name}: {before[0]} threads, then {threads}; {before[1]} open files, then " \
            f"{files}; {before[2]:.0f} MiB, then {memory:.0f}"
        print("#", told)
        self.assertLessEqual(threads, before[0], told)
        self.assertLessEqual(files, before[1] + 40, told)  # connections, directories
        self.assertLess(memory, before[2] + GROWTH, told)

    def test_under_load(self):
        self.outage(self.begin, self.go_on, felt_by_senders=True)

    # --- one by one -----------------------------------------------------------------------------

    def test_a_session_lives_on(self):
        account = self.some_mail("alive")
        sent = [message(number) for number in range(MESSAGES)]
        with self.pop3(account) as pop3:
            self.assertEqual(without_trace(pop3.retr(1)), sent[0])
            with self.hung():
                commands = ("RETR 2", "TOP 3 0", "RETR 1", "TOP 4 5", "RETR 3")
                for patience in DEADLINE + SLACK, AT_ONCE:
                    for command in commands:
                        took, reply = refusal(lambda command=command: pop3.multi(command))
                        self.assertIn("[SYS/TEMP]", reply)
                        self.assertLess(took, patience, command)
                self.assertEqual(pop3.stat()[0], MESSAGES)
                self.assertEqual(len(pop3.list()), MESSAGES)
                self.assertEqual(len(pop3.uidl()), MESSAGES)
                pop3.ok("DELE 1")
                pop3.ok("RSET")
                pop3.ok(f"DELE {MESSAGES}")  # which nobody has read
                pop3.quit()
                for node in 0, 1:
                    with self.pop3(account, node) as again:
                        self.assertEqual(again.stat()[0], MESSAGES - 1)
                        again.quit()
        for node in 0, 1:
            self.assertEqual(self.eventually(self.recovery, lambda: self.mailbox(account, node)),
                             sent[:-1])

    def test_deliveries_are_told_to_come_again(self):
        account = self.account("later")
        pids = {node.name: node.pids() for node in self.nodes()}
        volumes = [f"volume {volume['id']}: " for volume in self.fleet.volumes()]
        with self.smtp() as smtp, self.lmtp(node=1) as lmtp, self.hung():
            for client in smtp, lmtp:
                for patience in [DEADLINE + SLACK] * CALLS + [AT_ONCE] * 3:
                    took, reply = refusal(lambda: client.deliver(message(0), [account.address]))
                    self.assertTrue(reply.startswith("451 "), reply)
                    self.assertLess(took, patience)
            for node in self.nodes():
                for volume in volumes:
                    self.not_ready(node, volume)
                self.not_ready(node, "no active volume is well")

            # HAProxy has nobody else to ask: what needs no file goes on, and mail is deferred.
            with self.pop3(account) as pop3:
                self.assertEqual(pop3.stat()[0], 0)
                pop3.quit()
        for node in self.nodes():
            self.eventually(self.recovery, lambda: self.assertIsNone(node.probe()))
        for node in 0, 1:
            self.eventually(self.recovery, lambda: self.deliver(message(1), account, node=node))
        self.assertEqual(self.mailbox(account), [message(1)] * 2)
        self.assertEqual({node.name: node.pids() for node in self.nodes()}, pids)


    def test_a_message_that_is_cut_off_has_no_end(self):
        account = self.account("cut")
        content = message(0, 16 << 20)  # more than is on its way to a client that does not read
        self.deliver(content, account)
        with self.pop3(account) as pop3:
            pop3.ok("RETR 1")
            with self.hung(), self.assertRaises((EOFError, OSError)) as caught:
                pop3.lines()
            self.assertNotIsInstance(caught.exception, TimeoutError)
        self.assertEqual(self.eventually(self.recovery, lambda: self.mailbox(account)), [content])


class NfsHangs(Hangs, outage.OutageTest):
    nas = CALLS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.filer = cls.fleet["nas"]
        cls.addClassCleanup(cls.filer.signal, signal.SIGCONT)

    def test_a_front_end_that_starts_meanwhile(self):
        account = self.some_mail("early")
        node = self.fleet.front_ends[0]
        with self.hung():
            self.assertTrue(node.stop())
            node.start()
            pop3 = self.eventually(20, lambda: self.pop3(account))
            with pop3:
                self.assertEqual(len(pop3.list()), MESSAGES)
                self.assertIn("[SYS/TEMP]", refusal(lambda: pop3.retr(1))[1])
                self.go_on()
                self.eventually(self.recovery, lambda: pop3.retr(1))
                pop3.quit()
        node.wait_ready()


class PosixHangs(Hangs, outage.OutageTest):
    settings = {**SETTINGS, "spool.threads": f"{CALLS}"}

    @classmethod
    def setUpClass(cls):
        filer.enter_own_mounts()
        super().setUpClass()
        fleet = cls.fleet
        for node in fleet.delivery_nodes + fleet.front_ends:
            node.stop()
        below = fleet.state / "spool.below"
        fleet.spool.rename(below)
        fleet.make_dir(fleet.spool, fleet.user, 0o750)
        cls.filer = filer.Bindfs(fleet, "bindfs", below, fleet.spool)
        fleet.parts.insert(0, cls.filer)  # stopped last
        cls.addClassCleanup(cls.filer.signal, signal.SIGCONT)
        cls.filer.up()
        fleet.up()


# --- one of two hangs -----------------------------------------------------------------------------


class OneOfTwoHangs(harness.FleetTest):
    """Volume 1 on the fleet's server, volume 2 on another, which hangs."""

    nas = 1
    settings = SETTINGS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.second = filer.serve(cls.fleet, "second")
        cls.addClassCleanup(cls.second.signal, signal.SIGCONT)
        cls.fleet.admin("volume", "add", filer.url(cls.fleet, cls.second))

    def nodes(self):
        return self.fleet.delivery_nodes + self.fleet.front_ends

    def where(self):
        """The volume of each message of the mailbox."""
        return [row["volume"]
                for row in json.loads(self.fleet.admin("messages", self.user.address, "--json"))]

    def deliver_some(self, node, count=20):
        """Delivers one after the other; (seconds, what was answered if not 250)"""
        replies = []
        with self.smtp(node) as smtp:
            for _ in range(count):
                content = message(len(self.sent))
                began = time.monotonic()
                try:
                    smtp.deliver(content, [self.user.address])
                    reply = None
                    self.sent.append(content)
                except Refused as refused:
                    reply = refused.reply
                replies.append((time.monotonic() - began, reply))
            smtp.quit()
        return replies

    def fill_both(self, node):
        """New mail by this node goes to both volumes."""
        before = len(self.where())
        self.assertEqual({reply for _, reply in self.deliver_some(node)}, {None})
        self.assertEqual(set(self.where()[before:]), {1, 2})

    def check_reads(self, pop3, volumes, patience):
        """patience: seconds for the first of volume 2, the others fail at once."""
        for number, volume in enumerate(volumes, 1):
            if volume == 1:
                self.assertEqual(without_trace(pop3.retr(number)), self.sent[number - 1])
            else:
                took, reply = refusal(lambda number=number: pop3.retr(number))
                self.assertIn("[SYS/TEMP]", reply)
                self.assertLess(took, patience)
                patience = AT_ONCE

    def check_deliveries(self, node):
        """One is refused when it has waited for the deadline, and all others go to volume 1."""
        before = len(self.where())
        replies = self.deliver_some(node)
        refused = [(took, reply) for took, reply in replies if reply]
        self.assertLessEqual(len(refused), 1, refused)
        for took, reply in refused:
            self.assertTrue(reply.startswith("451 "), reply)
            self.assertLess(took, DEADLINE + SLACK)
        self.assertLess(max(took for took, reply in replies if not reply), AT_ONCE)
        self.assertEqual(set(self.where()[before:]), {1})

    def check_ready(self, node):
        told, not_ready = node.get("/readyz")
        self.assertIsNone(not_ready)
        self.assertIn("volume 1: ok", told)
        self.assertRegex(told, r"volume 2: .+ \(not required\)")

    def test_the_other_one_goes_on(self):
        self.user, self.sent = self.account("both"), []
        for node in 0, 1:
            self.eventually(30, lambda: self.fill_both(node))
        volumes = self.where()
        with self.pop3(self.user) as pop3:
            filer.freeze(self.second)
            try:
                self.check_reads(pop3, volumes, patience=DEADLINE + SLACK)
                for node in 0, 1:
                    self.check_deliveries(node)
                for node in self.nodes():
                    self.eventually(20, lambda: self.check_ready(node))
                self.check_reads(pop3, volumes, patience=AT_ONCE)
                pop3.quit()
            finally:
                self.second.signal(signal.SIGCONT)
        for node in 0, 1:
            self.assertEqual(self.eventually(20, lambda: self.mailbox(self.user, node)), self.sent)
            self.eventually(20, lambda: self.fill_both(node))


# --- it dies --------------------------------------------------------------------------------------


class Dies(outage.OutageTest):
    nas = 2
    settings = {**SETTINGS, "spool.grace": "1s"}

    def load(self, ledger, stale):
        """Many deliveries at a time, so that each kill hits some."""
        more = [Sender(ledger, f"more {n}", n, lambda n=n: self.lmtp(n % 2), most=1)
                for n in range(SENDERS)]
        self.reaper = Reaper(ledger, "reaper", self.fleet)
        return super().load(ledger, stale) + more + [self.reaper]

    def while_away(self, ledger, workers, felt_by_senders):
        end = time.monotonic() + KILLING
        while time.monotonic() < end and not ledger.lies and not self.killer.error:
            time.sleep(0.2)

    def end(self):
        self.killer.stopping.set()
        self.killer.join()

    def test_killed_again_and_again(self):
        seed = random.SystemRandom().getrandbits(32)
        print(f"# seed {seed}")
        self.killer = Killer([self.fleet["nas"]], seed, up=3, down=1)
        self.outage(self.killer.start, self.end, felt_by_senders=True)
        print(f"# killed: {self.killer.killed}; {self.reaper.files} files reaped")
        self.assertIsNone(self.killer.error)
        self.assertGreater(self.reaper.files, 0)


if __name__ == "__main__":
    harness.main()
