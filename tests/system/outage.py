"""A part that is away for a while, under load: what the tests of outages have in common.

outage() has senders and pollers at work before, while and after something is wrong, and holds their
ledger against what is in the mailboxes in the end.
"""

import random
import threading
import time

import harness
from load import Ledger, Poller, Sender, check_mailbox

MAILBOXES = 4
AWAY = 8  # seconds


class Guesser(threading.Thread):
    """Logs in with a wrong password all the time: that must never work, nor hold a mailbox."""

    def __init__(self, ledger, connect, address):
        super().__init__(daemon=True)
        self.ledger, self.connect, self.address = ledger, connect, address
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.wait(0.3):
            try:
                with self.connect() as pop3:
                    pop3.ok(f"USER {self.address}")
                    reply = pop3.command("PASS wrong")
                    if not reply.startswith(("-ERR [AUTH]", "-ERR [SYS/TEMP]")):
                        self.ledger.lie(f"guesser: {reply}")
            except (OSError, EOFError) as error:
                self.ledger.lie(f"guesser: {error!r}")


class OutageTest(harness.FleetTest):
    time_limit = 240
    scenarios = 0
    recovery = 60  # seconds, until all clients get through again

    def outage(self, begin, end, felt_by_senders, stale=False):
        """Load; begin(); load; end(); until all clients get through again.

        felt_by_senders: mail can't be accepted meanwhile, else it must go on being accepted.
        stale: the caches were out of the fleet's reach, so that new mail may be listed late.
        """
        type(self).scenarios += 1
        ledger = Ledger([self.account(f"outage{self.scenarios}-{n}") for n in range(MAILBOXES)])
        workers = self.load(ledger, stale)
        pids = {node.name: node.pids() for node in self.nodes()}
        for worker in workers:
            worker.start()
        try:
            self.all_succeed(ledger, workers, 30)
            begin()
            ended = None
            try:
                self.while_away(ledger, workers, felt_by_senders)
            finally:
                end()
                ended = time.monotonic()
            self.all_succeed(ledger, workers, self.recovery)
            print(f"# all well {time.monotonic() - ended:.1f} s after the end")
        finally:
            for worker in workers:
                worker.stopping.set()
            for worker in workers:
                worker.join(60)
            print("#", ledger.summary())
        self.assertEqual(ledger.lies, [])
        self.assertEqual({node.name: node.pids() for node in self.nodes()}, pids)
        self.eventually(60, lambda: self.check(ledger))

    def nodes(self):
        return self.fleet.delivery_nodes + self.fleet.front_ends

    def load(self, ledger, stale):
        seed = random.SystemRandom().getrandbits(32)
        half = len(ledger.accounts) // 2
        return [
            Sender(ledger, "smtp", seed, lambda: self.smtp(0)),
            Sender(ledger, "lmtp", seed + 1, lambda: self.lmtp(1), most=1),
            Poller(ledger, "poller 1", seed + 2, lambda: self.pop3(node=0),
                   ledger.accounts[:half], stale=stale),
            Poller(ledger, "poller 2", seed + 3, lambda: self.pop3(node=1),
                   ledger.accounts[half:], delete=0.1, stale=stale),
            Guesser(ledger, lambda: self.pop3(node=1), ledger.accounts[0].address)]

    def clients(self, workers):
        return [worker for worker in workers if hasattr(worker, "who")]

    def all_succeed(self, ledger, workers, seconds):
        """Every client gets through from now on, within so many seconds."""
        since = time.monotonic()
        for worker in self.clients(workers):
            self.eventually(seconds, lambda: self.assertGreater(
                ledger.last_success.get(worker.who, 0), since,
                f"{worker.who} does not get through: {ledger.summary()} {ledger.lies}"))

    def while_away(self, ledger, workers, felt_by_senders):
        time.sleep(AWAY)
        now = time.monotonic()
        for worker in self.clients(workers):
            if isinstance(worker, Sender):
                through = now - ledger.last_success[worker.who] < AWAY / 2
                self.assertEqual(through, not felt_by_senders, ledger.summary())

    def check(self, ledger):
        for account in ledger.accounts:
            for node in 0, 1:
                self.assertEqual(check_mailbox(ledger, account, self.mailbox(account, node)), [])

    def not_ready(self, node, word):
        """/readyz says 503 and names what is missing."""
        self.eventually(20, lambda: self.assertIn(word, node.probe() or "it says it is ready"))
