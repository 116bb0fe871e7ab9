#!/usr/bin/python3 -B
"""Mixed load on mailboxes with limits while nodes are killed: at every moment the counters of each
mailbox equal a recount of its pointers.

MAILFLEET_HUNT_SECONDS is how long (40); tests/hunt/run quota does it for longer.
"""

import os
import random
import re
import threading
import time

import harness
from harness import FleetError
from load import Killer
from mail import Refused

SECONDS = int(os.environ.get("MAILFLEET_HUNT_SECONDS", "40"))
GRACE = 10

# One statement, so one moment.
DRIFT = """
SELECT b.mailbox_id, b.msgs, b.octets, count(m.seq), coalesce(sum(m.size), 0)
  FROM mailbox b LEFT JOIN message m ON m.mailbox_id = b.mailbox_id
 GROUP BY b.mailbox_id
HAVING (b.msgs, b.octets) <> (count(m.seq), coalesce(sum(m.size), 0))
    OR b.next_seq <= coalesce(max(m.seq), 0)
    OR b.warned > filled(b.msgs, b.octets, b.max_messages, b.max_octets)"""


class Client(threading.Thread):
    """Does step() until it is told to stop, and counts what came of it."""

    def __init__(self, rng, accounts):
        super().__init__(daemon=True)
        self.rng, self.accounts = rng, accounts
        self.stopping = threading.Event()
        self.answers = {}
        self.error = None

    def run(self):
        while not self.stopping.wait(0.01):
            try:
                answer = self.step()
            except Refused as refused:
                answer = refused.code or "refused"
            except (OSError, EOFError):
                answer = "lost"  # a node was killed, or is not there
            except Exception as error:  # a bug of the test
                self.error = error
                return
            self.answers[answer] = self.answers.get(answer, 0) + 1


class Sender(Client):
    def __init__(self, rng, accounts, connect):
        super().__init__(rng, accounts)
        self.connect = connect

    def step(self):
        size = self.rng.choice((3_000, 10_000, 30_000, 300_000))
        message = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * (size // 72)
        to = self.rng.sample(self.accounts, self.rng.randint(1, 4))
        with self.connect() as smtp:
            smtp.deliver(message, [account.address for account in to])
        return "ok"


class Drainer(Client):
    def __init__(self, rng, accounts, connect):
        super().__init__(rng, accounts)
        self.connect = connect

    def step(self):
        with self.connect(self.rng.choice(self.accounts)) as pop3:
            part = self.rng.choice((0.1, 0.5, 1))
            for number in pop3.list():
                if self.rng.random() < part:
                    pop3.ok(f"DELE {number}")
            pop3.quit()
        return "ok"


class Undeleter(Client):
    """Gives messages back, past every limit."""

    def __init__(self, rng, accounts, fleet):
        super().__init__(rng, accounts)
        self.fleet = fleet

    def step(self):
        self.stopping.wait(1)
        try:
            self.fleet.admin("undelete", self.rng.choice(self.accounts).address,
                             "--since", "2s", "--yes")
        except FleetError:
            return "nothing"
        return "ok"


class QuotaHunt(harness.FleetTest):
    settings = {"quota.warn": "30, 60, 90", "quota.grace": str(GRACE), "pop3.lock": "none"}
    time_limit = SECONDS + 120

    def clients(self, seed, accounts):
        def rng():
            nonlocal seed
            seed += 1
            return random.Random(seed)

        for node in 0, 1:
            for connect in self.smtp, self.lmtp:
                yield Sender(rng(), accounts, lambda node=node, connect=connect: connect(node))
            yield Drainer(rng(), accounts, lambda account, node=node: self.pop3(account, node))
        yield Undeleter(rng(), accounts, self.fleet)

    def check(self):
        self.assertEqual(self.fleet.sql(DRIFT), [])

    def test_counters_equal_a_recount(self):
        seed = random.SystemRandom().getrandbits(32)
        print(f"# seed {seed}")
        accounts = [self.account(f"octets{n}", "--quota-octets", f"{n}00K") for n in (2, 5, 9)]
        accounts += [self.account(f"messages{n}", "--quota-messages", f"{n}") for n in (3, 12)]
        accounts += [self.account("both", "--quota-octets", "1M", "--quota-messages", "30"),
                     self.account("free")]
        clients = list(self.clients(seed, accounts))
        killer = Killer(self.fleet.delivery_nodes + self.fleet.front_ends, seed)
        for thread in *clients, killer:
            thread.start()
        end = time.monotonic() + SECONDS
        try:
            while time.monotonic() < end and not any(c.error for c in clients):
                self.check()
                time.sleep(0.5)
        finally:
            for thread in *clients, killer:
                thread.stopping.set()
            for thread in *clients, killer:
                thread.join(60)
        for client in clients:
            print(f"# {type(client).__name__}: {client.answers}")
            self.assertIsNone(client.error)
            self.assertTrue(client.answers.get("ok"), "a client never got through")
        print("# killed:", killer.killed)
        self.assertIsNone(killer.error)
        refused = sum(client.answers.get(452, 0) for client in clients)
        warned = sum(len(re.findall(r" quota\.warned ", node.log.read_text()))
                     for node in self.fleet.delivery_nodes)
        print(f"# refused {refused}, warnings {warned}")
        self.assertGreater(refused, 0, "no limit was ever met")
        self.assertGreater(warned, 0, "no threshold was ever crossed")
        self.check()


if __name__ == "__main__":
    harness.main()
