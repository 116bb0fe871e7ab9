#!/usr/bin/python3 -B
"""Mixed load while nodes are killed and restarted: the ledger equals what POP3 lists.

MAILFLEET_HUNT_SECONDS is how long (120); tests/hunt/run load does it for longer.
"""

import os
import random
import time

import harness
from load import Killer, Ledger, Poller, Sender, check_mailbox
from mail import Pop3, Smtp

SECONDS = int(os.environ.get("MAILFLEET_HUNT_SECONDS", "120"))
MAILBOXES = 12


class Load(harness.FleetTest):
    time_limit = SECONDS + 240

    def test_nodes_die_and_no_message_does(self):
        seed = random.SystemRandom().getrandbits(32)
        print(f"# seed {seed}")
        accounts = [self.account(f"load{n}") for n in range(MAILBOXES)]
        ledger = Ledger(accounts)
        ports = self.fleet.ports
        senders = [
            Sender(ledger, "balancer", seed, lambda: Smtp(ports.smtp, starttls=self.tls)),
            Sender(ledger, "balancer plain", seed + 1, lambda: Smtp(ports.smtp)),
            Sender(ledger, "smtp node 1", seed + 2, lambda: self.smtp(0)),
            Sender(ledger, "lmtp node 2", seed + 3, lambda: self.lmtp(1), most=1)]
        connects = [lambda: Pop3(ports.pop3, stls=self.tls),
                    lambda: Pop3(ports.pop3s, tls=self.tls),
                    lambda: self.pop3(node=0), lambda: self.pop3(node=1)]
        pollers = [Poller(ledger, f"poller {n}", seed + 10 + n, connect,
                          accounts[n::len(connects)], delete=0.2)
                   for n, connect in enumerate(connects)]
        killer = Killer(self.fleet.delivery_nodes + self.fleet.front_ends, seed)

        workers = [*senders, *pollers, killer]
        for worker in workers:
            worker.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not ledger.lies and not killer.error:
            time.sleep(0.2)
        for worker in workers:
            worker.stopping.set()
        for worker in workers:
            worker.join(60)

        print("#", ledger.summary())
        print("# killed:", killer.killed)
        self.assertIsNone(killer.error)
        self.assertEqual(ledger.lies, [])
        self.assertTrue(all(ledger.answers.get((worker.name, "ok"))
                            for worker in senders + pollers), "a client never got through")
        for account in accounts:
            for node in 0, 1:
                messages = self.eventually(40, lambda: self.mailbox(account, node))
                self.assertEqual(check_mailbox(ledger, account, messages), [])


if __name__ == "__main__":
    harness.main()
