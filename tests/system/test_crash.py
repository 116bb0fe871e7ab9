#!/usr/bin/python3 -B
"""kill -9 at the worst moments: nothing that was answered is lost, nothing is listed twice, and no
list is stale afterwards. The moments are the fault points of common/base/fault.h."""

import contextlib

import harness
from mail import Refused

HELLO = b"Subject: before\r\n\r\nbefore\r\n"


class Crash(harness.FleetTest):
    settings = {"cache.tombstone_ttl": "2s"}  # soon over, so that lists come into the cache
    time_limit = 180

    @contextlib.contextmanager
    def armed(self, node, fault):
        """The node with a fault armed; afterwards it runs without."""
        node.stop()
        node.start(env={"MAILFLEET_FAULT": fault})
        node.wait_ready()
        try:
            yield
        finally:
            node.kill()
            node.up()

    def lists_everywhere(self, account, messages):
        """Every front-end shows exactly this, in this order, under unique ids; at once."""
        for node in 0, 1:
            with self.pop3(account, node) as pop3:
                self.assertEqual(len(set(pop3.uidl().values())), len(messages))
                pop3.quit()
            self.assertEqual(self.mailbox(account, node), messages)

    def deliver_and_die(self, account, fault, lmtp=False):
        """A message whose delivery node dies at the fault: its sender never hears a reply."""
        node = self.fleet.delivery_nodes[0]
        message = f"Subject: {fault}\r\n\r\nlost?\r\n".encode()
        with self.armed(node, f"{fault}=kill"):
            with (self.lmtp if lmtp else self.smtp)(0) as smtp:
                smtp.begin([account.address])
                with self.assertRaises((EOFError, ConnectionError)):
                    smtp.content(message)
                    smtp.finish()
            self.eventually(10, lambda: self.assertEqual(node.pids(), []))
            yield message

    def check_delivery(self, name, fault, there, **options):
        """there: whether the message is in the mailbox although its sender was not told."""
        account = self.account(name)
        self.deliver(HELLO, account)
        self.until_cached(account)
        for message in self.deliver_and_die(account, fault, **options):
            expected = [HELLO] + [message] * there
            self.lists_everywhere(account, expected)
            self.deliver(message, account, node=1)  # the sender's second try
            self.lists_everywhere(account, expected + [message])
        self.lists_everywhere(account, expected + [message])
        self.deliver(HELLO, account)  # the node that died is as good as new
        self.lists_everywhere(account, expected + [message, HELLO])

    def test_file_written_commit_not_sent(self):
        self.check_delivery("written", "deliver_file_written", there=False)

    def test_committed_cache_not_dropped(self):
        self.check_delivery("committed", "deliver_committed", there=True)

    def test_all_done_reply_not_sent(self):
        self.check_delivery("unanswered", "deliver_before_reply", there=True)

    def test_committed_over_lmtp(self):
        self.check_delivery("lmtp", "deliver_committed", there=True, lmtp=True)

    def test_deletes_committed_reply_not_sent(self):
        account = self.account("expunge")
        for _ in range(3):
            self.deliver(HELLO, account)
        self.until_cached(account)
        node = self.fleet.front_ends[0]
        with self.armed(node, "expunge_committed=kill"):
            with self.pop3(account, 0) as pop3:
                uids = pop3.uidl()
                pop3.ok("DELE 1")
                pop3.ok("DELE 3")
                with self.assertRaises((EOFError, ConnectionError)):
                    pop3.ok("QUIT")
            with self.eventually(31, lambda: self.pop3(account, 1)) as pop3:
                self.assertEqual(pop3.uidl(), {1: uids[2]})
                pop3.quit()
        self.lists_everywhere(account, [HELLO])

    def test_file_not_durable_is_no_250(self):
        account = self.account("fsync")
        message = b"Subject: again\r\n\r\nagain\r\n"
        with self.armed(self.fleet.delivery_nodes[0], "spool_fsync=fail"):
            with self.assertRaises(Refused) as caught:
                self.deliver(message, account)
            self.assertEqual(caught.exception.code // 100, 4)
            self.assertEqual(self.mailbox(account), [])
            self.deliver(message, account)
            self.lists_everywhere(account, [message])

    def test_a_message_for_many_is_delivered_to_all_or_none(self):
        accounts = [self.account(f"crowd{n}") for n in range(20)]
        node = self.fleet.delivery_nodes[0]
        for fault, there in ("deliver_file_written", False), ("deliver_committed", True):
            before = [len(self.mailbox(account)) for account in accounts]
            self.until_cached(accounts[0])
            with self.armed(node, f"{fault}=kill"), \
                    self.assertRaises((EOFError, ConnectionError)):
                self.deliver(HELLO, *accounts)
            self.assertEqual([len(self.mailbox(account)) for account in accounts],
                             [count + there for count in before])


if __name__ == "__main__":
    harness.main()
