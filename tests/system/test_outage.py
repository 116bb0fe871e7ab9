#!/usr/bin/python3 -B
"""Database, memcached and spool each away for a while, under load: every answer is a temporary one
or the truth, and all is well again without a restart."""

import random
import signal
import threading
import time

import harness
from load import Ledger, Poller, Sender, check_mailbox
from mail import Pop3, Refused, Smtp

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


class Outage(harness.FleetTest):
    time_limit = 240
    scenarios = 0

    def outage(self, begin, end, felt_by_senders, stale=False):
        """Load; begin(); load; end(); until all clients get through again. Returns the ledger.

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
            self.all_succeed(ledger, workers, 60)
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

    # --- the database ---------------------------------------------------------------------------

    def test_database_stopped(self):
        postgres = self.fleet["postgres"]

        def begin():
            postgres.stop()
            for node in self.nodes():
                self.not_ready(node, "database")

        self.outage(begin, postgres.up, felt_by_senders=True)

    def test_database_frozen(self):
        postgres = self.fleet["postgres"]
        self.outage(lambda: postgres.signal(signal.SIGSTOP),
                    lambda: postgres.signal(signal.SIGCONT), felt_by_senders=True)

    def test_database_killed(self):
        postgres = self.fleet["postgres"]
        self.outage(postgres.kill, postgres.up, felt_by_senders=True)

    def test_the_balancer_passes_temporary_answers_on(self):
        """When no node is ready, clients hear so from a node, and not a closed connection."""
        account = self.account("balanced")
        postgres = self.fleet["postgres"]
        postgres.stop()
        self.addCleanup(postgres.up)
        for node in self.nodes():
            self.not_ready(node, "database")

        def answers():
            with Smtp(self.fleet.ports.smtp) as smtp, self.assertRaises(Refused) as caught:
                smtp.begin([account.address])
            self.assertEqual(caught.exception.code, 451)
            with Pop3(self.fleet.ports.pop3, stls=self.tls) as pop3, \
                    self.assertRaises(Refused) as caught:
                pop3.login(account)
            self.assertIn("[SYS/TEMP]", caught.exception.reply)

        for _ in range(5):  # also after the balancer has noticed
            answers()
            time.sleep(1)

    # --- the cache ------------------------------------------------------------------------------

    def test_memcached_killed(self):
        memcached = self.fleet["memcached"]
        self.outage(memcached.kill, memcached.up, felt_by_senders=False, stale=True)

    def test_memcached_frozen(self):
        memcached = self.fleet["memcached"]
        self.outage(lambda: memcached.signal(signal.SIGSTOP),
                    lambda: memcached.signal(signal.SIGCONT), felt_by_senders=False, stale=True)

    # --- the spool ------------------------------------------------------------------------------

    def test_spool_refuses(self):
        spool = self.fleet.spool

        def begin():
            spool.chmod(0)
            for node in self.fleet.delivery_nodes:
                self.not_ready(node, "volume")

        self.outage(begin, lambda: spool.chmod(0o750), felt_by_senders=True)

    def test_spool_not_mounted(self):
        """An empty directory in its place, as when a mount is missing."""
        spool, away = self.fleet.spool, self.fleet.state / "spool.away"

        def begin():
            spool.rename(away)
            self.fleet.make_dir(spool, self.fleet.user, 0o750)
            for node in self.fleet.delivery_nodes:
                self.not_ready(node, "volume")

        def end():
            self.assertEqual(self.spool_files(), [])
            spool.rename(self.fleet.state / "spool.empty")
            away.rename(spool)

        self.outage(begin, end, felt_by_senders=True)

    def test_a_message_that_cannot_be_read_is_not_gone(self):
        account = self.account("unread")
        self.deliver(b"Subject: here\r\n\r\nhere\r\n", account)
        self.addCleanup(self.fleet.spool.chmod, 0o750)
        with self.pop3(account) as pop3:
            self.fleet.spool.chmod(0)
            for _ in range(3):
                with self.assertRaises(Refused) as caught:
                    pop3.retr(1)
                self.assertIn("[SYS/TEMP]", caught.exception.reply)
            self.assertEqual(pop3.stat()[0], 1)
            self.fleet.spool.chmod(0o750)
            self.eventually(30, lambda: pop3.retr(1))
            pop3.quit()


if __name__ == "__main__":
    harness.main()
