"""Who lives in the laboratory: its mailboxes, and the senders and readers that use them all the time.

A Town is the lab's people; a Day is what they do while one scenario lasts: from the first message
until all is quiet and every mailbox has been audited. The busy mailboxes get mail and are tidied up
by their reader; the quiet ones are polled alone, so that their lists come from the cache. The idle ones
nobody uses but scenarios, for sessions of their own.
"""

import collections
import ssl
import time

from clients import Auditor, Guesser, MtaLog, Reader, Sender, Service, Submitter
from lab import DOMAIN, PREFERENCE, SERVICE
from part import FleetError

BUSY, QUIET, IDLE = 8, 3, 4
DRAIN = 45  # seconds, until the queue of the sending MTA has to be empty after all is well again


class Town:
    def __init__(self, lab, ledger):
        self.lab, self.ledger = lab, ledger
        self.tls = ssl.create_default_context(cafile=lab.ca)
        self.client = lab.hosts["client1"]
        self.service = Service(SERVICE, self.tls, f"pop.{DOMAIN}")
        ports = lab.ports.frontend(1)
        self.ways = [Service(node.address, self.tls, f"pop.{DOMAIN}", ports["pop3"], ports["pop3s"])
                     for node in lab.front_ends]
        self.exchangers = [(preference, f"{name}.{DOMAIN}", lab.hosts[name].address)
                           for name, preference in PREFERENCE.items()]
        self.busy, self.quiet, self.idle = [], [], []
        self.mta_log = MtaLog(ledger, self.client, lab.mta.log)

    def settle_in(self):
        """Mailboxes, each with some messages that nobody deletes."""
        self.lab.admin("domain", "add", DOMAIN)
        self.lab.publish()
        kinds = ("busy", self.busy, BUSY), ("quiet", self.quiet, QUIET), ("idle", self.idle, IDLE)
        for kind, addresses, count in kinds:
            for n in range(1, count + 1):
                address = f"{kind}{n}@{DOMAIN}"
                self.ledger.add_mailbox(address, self.lab.add_account(address))
                addresses.append(address)
        self.mta_log.start()
        self.deposit(address for address in self.all()
                     for _ in range(15 if address in self.quiet else 3))
        self.audit()

    def all(self):
        return self.busy + self.quiet + self.idle

    def deposit(self, addresses, size=None):
        """A message for each, which is there when this returns."""
        sender = Sender(self.ledger, self.client, self.exchangers, self.tls, self.busy, 0)
        with self.client.inside():
            for address in addresses:
                sender.attempt(*self.ledger.new_message([address], "sender", size), [address])
            sender.end()

    def audit(self):
        """Every mailbox by every way, to the ledger."""
        services = [*self.ways, self.service]
        # From where the packet filters let one reach the front-ends themselves.
        auditor = Auditor(self.ledger, self.lab.operator, services, self.all())
        auditor.start()
        auditor.join()
        if auditor.left:
            reasons = ", ".join(f"{reason} ({n})" for reason, n in auditor.reasons.items())
            raise FleetError(f"{len(auditor.left)} mailboxes could not be audited: {reasons}")


class Day:
    """The load of one scenario, and what came of it."""

    def __init__(self, town):
        self.town, self.ledger, self.lab = town, town.ledger, town.lab
        client, ledger = town.client, town.ledger
        half = len(town.busy) // 2
        self.senders = [
            Submitter(ledger, client, self.lab.mta, town.busy, 0.15),
            Sender(ledger, client, town.exchangers, town.tls, town.busy, 0.2)]
        self.readers = [
            Reader(ledger, client, town.service, town.busy[:half], "reader 1"),
            Reader(ledger, client, town.service, town.busy[half:], "reader 2"),
            *(Reader(ledger, client, town.service, [address], "reader of quiet ones", "quiet poll",
                     deletes=False, pause=0.3) for address in town.quiet),
            Guesser(ledger, client, town.service, town.busy)]
        self.before = self.counts()
        self.violations_before = len(ledger.violations)

    def counts(self):
        return collections.Counter(self.ledger.answers), self.ledger.totals()

    def begin(self):
        for client in self.senders + self.readers:
            client.start()
        self.lab.wait_for(20, self.why_not_busy)
        self.began = time.monotonic()

    def why_not_busy(self, since=None):
        """Who has not got through yet, or has not since a time."""
        with self.ledger.lock:
            for what in "delivery", "poll", "quiet poll":
                times = self.ledger.times[what]
                if not times or times[-1] < (since or time.monotonic() - 2):
                    return f"nobody gets through with a {what}"
            answers = self.ledger.answers - self.before[0]
        return next((f"{who} has not got through once: {dict(answers)}" for who in
                     ("submitter", "mta", "sender", "reader 1", "reader 2", "reader of quiet ones")
                     if not answers[who, "ok"]), None)

    def end(self):
        """All is as it was: until everybody gets through again, the queues are empty, and every
        mailbox has been audited."""
        now = time.monotonic()
        self.lab.wait_for(30, lambda: self.why_not_busy(now))
        self.ended = time.monotonic()
        self.stop(self.senders)
        deadline = time.monotonic() + DRAIN
        while time.monotonic() < deadline and (self.lab.mta.queue() or self.ledger.pending()):
            self.lab.mta.flush()
            time.sleep(0.3)
        self.stop(self.readers)
        for token, address in self.ledger.pending():
            self.ledger.give_up(token, address)
            self.ledger.violate("pending", f"{address}: message {token} was never accepted")
        self.town.audit()

    def lists_cached(self):
        """The lists of the quiet mailboxes are in the caches from now on, for cache.list_ttl."""
        self.lab.empty_caches()
        now, enough = time.monotonic(), 4 * len(self.town.quiet)
        self.lab.wait_for(20, lambda: None if sum(
            t > now for t in self.ledger.times["quiet poll"]) >= enough else "polls are slow")

    @staticmethod
    def stop(clients):
        for client in clients:
            client.stopping.set()
        for client in clients:
            if client.ident:
                client.join(90)

    def abandon(self):
        """The scenario has failed: whoever still works stops."""
        self.stop(self.senders + self.readers)

    # --- what came of it -----------------------------------------------------------------------------

    def violations(self):
        return self.ledger.violations[self.violations_before:]

    def answers(self):
        """who -> answer -> how often, the good ones and the others."""
        found = collections.defaultdict(dict)
        for (who, answer), n in sorted((self.ledger.answers - self.before[0]).items()):
            found[who][answer] = n
        return found

    def totals(self):
        now = self.ledger.totals()
        return {what: now[what] - (0 if what == "listed" else self.before[1][what]) for what in now}

    def gap(self, what, since=None, until=None):
        return self.ledger.longest_gap(what, since or self.began, until or self.ended)
