#!/usr/bin/python3 -B
"""A thousand random messages in by SMTP and LMTP, out by POP3 from the other node, identical."""

import random

import harness
from mail import without_trace
from messages import some_messages

MESSAGES = 1000
MAILBOXES = 4


class Roundtrip(harness.FleetTest):
    time_limit = 600

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.accounts = [cls.account(f"user{n}") for n in range(MAILBOXES)]

    def test_a_thousand_messages(self):
        seed = random.SystemRandom().getrandbits(32)
        print(f"# seed {seed}")
        rng = random.Random(seed)
        ways = [self.smtp(0), self.lmtp(0, starttls=self.tls), self.smtp(1, starttls=self.tls),
                self.lmtp(1)]
        sent = {account: [] for account in self.accounts}
        for message in some_messages(seed, MESSAGES):
            account = rng.choice(self.accounts)
            rng.choice(ways).deliver(message, [account.address])
            sent[account].append(message)
        for way in ways:
            way.quit()

        for number, (account, messages) in enumerate(sent.items()):
            served = self.mailbox(account, node=number % 2)
            self.assertEqual(len(served), len(messages))
            for i, (got, want) in enumerate(zip(served, messages)):
                self.assertTrue(got == want, f"message {i} of {account.address}: sent "
                                f"{len(want)} octets {want[:200]!r}, served {len(got)} "
                                f"octets {got[:200]!r}")

    def test_one_message_for_all_is_one_file(self):
        before = len(self.spool_files())
        message = b"Subject: to all\r\n\r\nhello\r\n"
        self.deliver(message, *self.accounts)
        self.assertEqual(len(self.spool_files()), before + 1)
        for account in self.accounts:
            self.assertEqual(self.mailbox(account, node=1)[-1], message)

    def test_top_is_the_header_and_the_first_lines(self):
        account = self.account("top")
        message = b"Subject: top\r\nX-Two: 2\r\n\r\n" + b"".join(
            b".line %d\r\n" % n for n in range(1000))
        self.deliver(message, account)
        with self.pop3(account) as pop3:
            whole = pop3.retr(1)
            header, _, body = whole.partition(b"\r\n\r\n")
            for count in 0, 1, 7, 999, 1000, 5000:
                top = b"".join(line + b"\r\n" for line in pop3.multi(f"TOP 1 {count}"))
                lines = body.splitlines(keepends=True)[:count]
                self.assertEqual(top, header + b"\r\n\r\n" + b"".join(lines))
            self.assertEqual(without_trace(whole), message)


if __name__ == "__main__":
    harness.main()
