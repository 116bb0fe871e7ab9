"""The ledger of what was sent, answered, listed, read and deleted; and the account of it.

It is kept outside of the system, by those who use it: senders note what they were answered, POP3
clients what they were shown. Each message has a token of its own in its header and a body that nobody
could guess; each client remembers every unique id that it has ever seen. What contradicts a promise is
noted as a violation in the moment in which it is seen:

    missing         was answered 250, was not deleted, and is not listed (in the end)
    late            the same in the midst of a scenario, where lists may not be older than that
    twice           is in a mailbox more often than its sender was told that it is
    uidl changed    has another unique id than before
    vanished        was listed, was not deleted, and is not listed now
    came back       is listed after a QUIT that had deleted it was answered; or, if the answer was lost,
                    after it was gone when all was quiet
    shown empty     a mailbox that is never empty was
    corrupt         is not octet for octet what was sent to this mailbox
    let in          a wrong password was right
    permanent       a permanent error for what is only temporary: a bounce, 5xx, or "wrong password"
    pending         was not accepted though all is well again

A sender that loses the answer to the end of its data sends again, and must: RFC 5321, 4.5.5. What is
in a mailbox twice for that alone is `repeated`, which is counted and shown, and no violation.

All methods may be called from any thread. Nothing here speaks to anybody: it is told everything.
"""

import collections
import hashlib
import json
import random
import re
import threading
import time

TOKEN = re.compile(rb"^X-Token: ([0-9a-z-]+)\r\n", re.MULTILINE)
BODY_SIZES = (0, 300, 300, 2_000, 2_000, 9_000, 40_000)

Violation = collections.namedtuple("Violation", "when kind text")


class Copy:
    """A message in one mailbox: what its sender and its reader know of it."""

    def __init__(self):
        self.accepted = None  # when 250 was seen
        self.answers = 0  # how many 250
        self.given_up = False  # its sender does not try any more
        self.lost_answers = 0  # how often a sender does not know whether it was accepted
        self.uids = []  # under which it was seen, in this order


class Mailbox:
    def __init__(self, address, password):
        self.address, self.password = address, password
        self.tokens = {}  # unique id -> token
        self.deleted = set()  # unique ids, at a QUIT that was answered
        self.perhaps_deleted = set()  # QUIT has no answer yet, or it was lost; until all is quiet
        self.last_listed = ()


class Ledger:
    def __init__(self, journal=None, seed=None):
        self.lock = threading.RLock()
        self.rng = random.Random(seed)
        self.journal = open(journal, "a") if journal else None  # pylint: disable=consider-using-with
        self.mailboxes = {}
        self.sent = {}  # token -> digest
        self.copies = {}  # address -> token -> Copy
        self.violations = []
        self.told = set()
        self.suspects = []
        self.times = collections.defaultdict(list)  # delivery, poll, ...: when one went well
        self.answers = collections.Counter()  # (who, answer)
        self.late_allowed = False  # a cache may be out of some nodes' reach: lists may be old

    # --- what happened ------------------------------------------------------------------------------

    def note(self, event, **fields):
        if self.journal:
            with self.lock:
                self.journal.write(json.dumps({"t": round(time.time(), 3), "event": event,
                                               **fields}) + "\n")
                self.journal.flush()

    def violate(self, kind, text):
        """Each is told once: what is lost stays lost in all that follows."""
        with self.lock:
            if (kind, text) in self.told:
                return
            self.told.add((kind, text))
            self.violations.append(Violation(time.monotonic(), kind, text))
        self.note("VIOLATION", kind=kind, text=text)

    def answer(self, who, answer):
        """One try of a client, and how it ended; ok is the good end."""
        with self.lock:
            self.answers[who, answer] += 1

    def went_well(self, what):
        with self.lock:
            self.times[what].append(time.monotonic())

    def add_mailbox(self, address, password):
        self.mailboxes[address] = Mailbox(address, password)
        self.copies[address] = {}

    # --- senders ------------------------------------------------------------------------------------

    def new_message(self, addresses, route, size=None):
        """A token, and a message that nobody has seen before."""
        with self.lock:
            token = f"{len(self.sent):06d}-{self.rng.getrandbits(48):012x}"
            size = self.rng.choice(BODY_SIZES) if size is None else size
            body = b"".join(self.rng.randbytes(30).hex().encode() + b"\r\n"
                            for _ in range(size // 62))
            message = (f"Message-ID: <{token}@lab>\r\nSubject: laboratory\r\nX-Token: {token}\r\n"
                       f"\r\n").encode() + body
            self.sent[token] = digest(message)
            for address in addresses:
                self.copies[address][token] = Copy()
        self.note("sent", token=token, to=list(addresses), route=route)
        return token, message

    def accepted(self, token, address, by=""):
        with self.lock:
            copy = self.copies[address][token]
            copy.answers += 1
            copy.accepted = copy.accepted or time.monotonic()
        self.went_well("delivery")
        self.note("accepted", token=token, to=address, by=by)

    def answer_lost(self, token, addresses):
        with self.lock:
            for address in addresses:
                self.copies[address][token].lost_answers += 1
        self.note("answer lost", token=token, to=list(addresses))

    def refused(self, token, reply):
        """For good: nothing that is done to the laboratory is a reason."""
        for address in self.addresses_of(token):
            self.give_up(token, address)
        self.violate("permanent", f"message {token}: {reply}")

    def give_up(self, token, address):
        with self.lock:
            self.copies[address][token].given_up = True

    def addresses_of(self, token):
        with self.lock:
            return [address for address, copies in self.copies.items() if token in copies]

    # --- readers ------------------------------------------------------------------------------------

    def listed(self, address, began, uids, settled=False):
        """A whole listing, of a session that began then (time.monotonic()); the unique ids in it that
        have not been read yet. settled: when all is quiet, what is not there is missing."""
        with self.lock:
            box = self.mailboxes[address]
            here = set(uids)
            box.last_listed = tuple(uids)
            if len(here) != len(uids):
                self.violate("twice", f"{address}: a unique id is listed twice: {uids}")
            if not uids and any(copy.accepted for copy in self.copies[address].values()):
                self.violate("shown empty", address)
            known = set(box.tokens)
            if settled:
                self.decide(box, here)
            if settled or not self.late_allowed:
                for uid in known - here - box.deleted - box.perhaps_deleted:
                    self.violate("vanished", f"{address}: {uid} (message {box.tokens[uid]})")
                for uid in here & box.deleted:
                    self.violate("came back", f"{address}: {uid} (message {box.tokens[uid]})")
        new = [uid for uid in uids if uid not in known]
        self.note("listed", to=address, count=len(uids), new=new)
        return new

    @staticmethod
    def decide(box, here):
        """All is quiet: what a QUIT without an answer has deleted is gone for good, the rest stays."""
        box.deleted |= box.perhaps_deleted - here
        box.perhaps_deleted = set()

    def read(self, address, uid, message):
        """What was read under a unique id, with any trace headers in front."""
        message = message[max(0, message.find(b"Message-ID: <")):]
        match = TOKEN.search(message)
        token = match[1].decode() if match else None
        with self.lock:
            box, copy = self.mailboxes[address], self.copies[address].get(token)
            if copy is None or self.sent[token] != digest(message):
                self.violate("corrupt", f"{address}: {uid}: token {token}, {len(message)} octets, "
                             "is not what was sent to it")
                return
            before = box.tokens.setdefault(uid, token)
            if before != token:
                self.violate("corrupt", f"{address}: {uid} was message {before}, is now {token}")
            elif uid not in copy.uids:
                self.suspect(box, token, copy, uid)
                copy.uids.append(uid)
        self.note("read", to=address, uid=uid, token=token)

    def suspect(self, box, token, copy, uid):
        """A copy that was seen under another unique id before. Its sender may not have told yet that
        it does not know about the first: settle() judges."""
        if copy.uids:
            before = copy.uids[-1]
            kind = "twice" if before in box.last_listed or before in box.deleted else "uidl changed"
            self.suspects.append((box.address, token, kind, f"is {uid}, and was {before}"))

    def due(self, address, began, uids):
        """Every message that was answered before a session began must be in its listing, when all
        that was new in it has been read."""
        if self.late_allowed:
            return
        for token in self.absent(address, began, uids):
            self.violate("late", f"{address}: message {token}")

    def absent(self, address, before, uids):
        """Tokens of what was accepted before a time, was not deleted, and is not among these."""
        with self.lock:
            box = self.mailboxes[address]
            here = {box.tokens.get(uid) for uid in uids}
            gone = {box.tokens[uid] for uid in box.deleted | box.perhaps_deleted
                    if uid in box.tokens}
            return sorted(token for token, copy in self.copies[address].items()
                          if copy.accepted and copy.accepted < before
                          and token not in here and token not in gone)

    def deleting(self, address, uids):
        """QUIT is about to be sent."""
        with self.lock:
            self.mailboxes[address].perhaps_deleted |= set(uids)

    def deleted(self, address, uids):
        """QUIT was answered."""
        with self.lock:
            self.mailboxes[address].deleted |= set(uids)
            self.mailboxes[address].perhaps_deleted -= set(uids)
        self.note("deleted", to=address, uids=list(uids))

    def let_in(self, address, reply):
        self.violate("let in", f"{address}: {reply}")

    def login_refused(self, address, reply):
        """The right password got another answer than a temporary one."""
        self.violate("permanent", f"{address}: {reply}")

    # --- the account --------------------------------------------------------------------------------

    def settle(self, address, uids):
        """All is quiet, and this is the mailbox: what is not in it is missing."""
        for token in self.absent(address, float("inf"), uids):
            self.violate("missing", f"{address}: message {token}")
        with self.lock:
            ours = [suspect for suspect in self.suspects if suspect[0] == address]
            self.suspects = [suspect for suspect in self.suspects if suspect[0] != address]
            for token, (kind, text) in {suspect[1]: suspect[2:] for suspect in ours}.items():
                copy = self.copies[address][token]
                if len(copy.uids) > max(1, copy.answers + copy.lost_answers):
                    self.violate(kind, f"{address}: message {token} {text}")

    def totals(self):
        """Counts of copies (a message in a mailbox) since the beginning; listed: at the last look."""
        with self.lock:
            boxes = self.mailboxes.values()
            copies = [copy for copies in self.copies.values() for copy in copies.values()]
            return collections.Counter(
                sent=len(copies), accepted=sum(copy.accepted is not None for copy in copies),
                listed=sum(len(box.last_listed) for box in boxes),
                read=sum(bool(copy.uids) for copy in copies),
                deleted=sum(len(box.deleted) for box in boxes),
                repeated=sum(max(0, len(copy.uids) - 1) for copy in copies))

    def pending(self):
        """Tokens and addresses that no MX host has accepted yet."""
        with self.lock:
            return [(token, address) for address, copies in self.copies.items()
                    for token, copy in copies.items()
                    if copy.accepted is None and not copy.given_up]

    def longest_gap(self, what, since, until):
        """The longest time in which nothing of this kind went well."""
        with self.lock:
            times = [t for t in self.times[what] if since < t < until]
        edges = [since, *sorted(times), until]
        return max(b - a for a, b in zip(edges, edges[1:]))


def digest(message):
    return hashlib.sha256(message).digest()
