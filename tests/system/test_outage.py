#!/usr/bin/python3 -B
"""Database, memcached and spool each away for a while, under load: every answer is a temporary one
or the truth, and all is well again without a restart."""

import signal
import time

import harness
import outage
from mail import Pop3, Refused, Smtp


class Outage(outage.OutageTest):
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
