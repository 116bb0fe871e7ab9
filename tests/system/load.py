"""Load on a fleet, and the ledger of what it was told: senders and pollers that note every answer.

A message that was answered 250 must be listed once, by every front-end, until it is deleted; one
whose answer was lost may be listed or not, but once; one that was refused never. Whatever breaks,
no answer may be a lie: an unknown user, a wrong password, a message that is missing or another
one than was sent is noted in Ledger.lies and fails the test.
"""

import hashlib
import random
import re
import threading
import time

from harness import FleetError
from mail import Refused, without_trace

TOKEN = re.compile(rb"^X-Token: (\d+)\r\n", re.MULTILINE)
LOST = (OSError, EOFError)


class Ledger:
    def __init__(self, accounts):
        self.lock = threading.Lock()
        self.accounts = accounts
        self.sent = {}  # token -> digest and recipients
        self.accepted = {account: {} for account in accounts}  # token -> when it was answered
        self.unknown = {account: set() for account in accounts}  # the answer was lost
        self.deleted = {account: set() for account in accounts}  # at a QUIT that was answered
        self.perhaps_deleted = {account: set() for account in accounts}
        self.lies = []
        self.answers = {}  # (who, answer) -> how many times
        self.last_success = {}  # who -> when

    def new_message(self, rng, accounts):
        with self.lock:
            token = len(self.sent)
            size = rng.choice((0, 200, 2_000, 20_000, 20_000, 300_000))
            body = (rng.randbytes(30).hex().encode() + b"\r\n") * (size // 62)
            message = b"Subject: load\r\nX-Token: %d\r\n\r\n%s" % (token, body)
            self.sent[token] = hashlib.sha256(message).digest(), accounts
            return token, message

    def answer(self, who, answer):
        with self.lock:
            self.answers[who, answer] = self.answers.get((who, answer), 0) + 1
            if answer == "ok":
                self.last_success[who] = time.monotonic()

    def lie(self, text):
        with self.lock:
            self.lies.append(text)

    def due(self, account, before):
        """The tokens that a session begun at this time has to list."""
        with self.lock:
            gone = self.deleted[account] | self.perhaps_deleted[account]
            return {token for token, when in self.accepted[account].items()
                    if when < before} - gone

    def token_of(self, account, message):
        """Which message this is; a lie when it is not what was sent to this account."""
        match = TOKEN.search(message)
        token = int(match[1]) if match else None
        with self.lock:
            digest, recipients = self.sent.get(token, (b"", ()))
            if account not in recipients or hashlib.sha256(message).digest() != digest:
                self.lies.append(f"{account.address}: got what was never sent to it: "
                                 f"token {token}, {len(message)} octets")
        return token

    def summary(self):
        return "; ".join(f"{who} {answer}: {count}"
                         for (who, answer), count in sorted(self.answers.items()))


class Worker(threading.Thread):
    """Does step() until it is told to stop."""

    def __init__(self, ledger, who, seed):
        super().__init__(name=who, daemon=True)
        self.ledger, self.who = ledger, who
        self.rng = random.Random(seed)
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            try:
                self.step()
            except Exception as error:  # a bug of the test, or a reply out of form
                self.ledger.lie(f"{self.who}: {type(error).__name__} {error}")
                return
            self.stopping.wait(self.pause)


class Sender(Worker):
    pause = 0.02

    def __init__(self, ledger, who, seed, connect, most=3):
        """connect opens a session; most: recipients of one message."""
        super().__init__(ledger, who, seed)
        self.connect, self.most = connect, most

    def step(self):
        ledger = self.ledger
        accounts = self.rng.sample(ledger.accounts, self.rng.randint(1, self.most))
        token, message = ledger.new_message(self.rng, accounts)
        answer = self.send(message, accounts)
        with ledger.lock:
            for account in accounts:
                if answer == "ok":
                    ledger.accepted[account][token] = time.monotonic()
                elif answer == "lost":
                    ledger.unknown[account].add(token)
        ledger.answer(self.who, answer)

    def send(self, message, accounts):
        answer = "unreachable"  # until the message is on its way, it can't have been accepted
        try:
            with self.connect() as smtp:
                smtp.begin([account.address for account in accounts])
                answer = "lost"
                smtp.content(message)
                smtp.finish(len(accounts))
                return "ok"
        except Refused as refused:
            if refused.code // 100 != 4:
                self.ledger.lie(f"{self.who}: {refused.reply}")
            return str(refused.code)
        except TimeoutError:
            self.ledger.lie(f"{self.who}: no answer in time")
            return answer
        except LOST:
            return answer


class Poller(Worker):
    pause = 0.02

    def __init__(self, ledger, who, seed, connect, accounts, delete=0.0, stale=False):
        """delete: which part of the messages it deletes. stale: new mail may be late."""
        super().__init__(ledger, who, seed)
        self.connect, self.accounts = connect, accounts
        self.delete, self.stale = delete, stale
        self.tokens = {account: {} for account in accounts}  # unique id -> token

    def step(self):
        account = self.rng.choice(self.accounts)
        marked = set()
        answer = "unreachable"
        began = time.monotonic()
        try:
            with self.connect() as pop3:
                pop3.login(account)
                answer = "broke off"
                self.read(pop3, account, began)
                for number, uid in pop3.uidl().items():
                    if self.rng.random() < self.delete and uid in self.tokens[account]:
                        pop3.ok(f"DELE {number}")
                        marked.add(self.tokens[account][uid])
                answer = "lost"
                with self.ledger.lock:
                    self.ledger.perhaps_deleted[account] |= marked
                pop3.quit()
                answer = "ok"
                with self.ledger.lock:
                    self.ledger.deleted[account] |= marked
        except Refused as refused:
            answer = self.judge(refused.reply)
        except TimeoutError:
            self.ledger.lie(f"{self.who}: no answer in time")
        except LOST:
            pass
        self.ledger.answer(self.who, answer)

    def judge(self, reply):
        code = re.match(r"-ERR \[([A-Z/-]+)\]", reply)
        if not code or code[1] not in ("SYS/TEMP", "IN-USE"):
            self.ledger.lie(f"{self.who}: {reply}")
        return code[1] if code else "?"

    def read(self, pop3, account, began):
        """Reads what is new to it, and holds the whole listing against the ledger."""
        tokens = self.tokens[account]
        listed = pop3.uidl()
        for number, uid in listed.items():
            if uid not in tokens:
                tokens[uid] = self.ledger.token_of(account, without_trace(pop3.retr(number)))
        here = [tokens[uid] for uid in listed.values()]
        if len(set(here)) != len(here):
            self.ledger.lie(f"{self.who}: {account.address} lists a message twice")
        missing = self.ledger.due(account, began) - set(here)
        if missing and not self.stale:
            self.ledger.lie(f"{self.who}: {account.address} lacks {sorted(missing)}")
        back = self.ledger.deleted[account] & set(here)
        if back and not self.stale:
            self.ledger.lie(f"{self.who}: {account.address} still lists {sorted(back)}")


class Killer(threading.Thread):
    """Kills one part after the other, and starts each again after a while.

    up and down are the longest times between.
    """

    def __init__(self, parts, seed, up=6, down=4):
        super().__init__(daemon=True)
        self.parts, self.up, self.down = parts, up, down
        self.rng = random.Random(seed)
        self.stopping = threading.Event()
        self.killed = {part.name: 0 for part in parts}
        self.error = None

    def run(self):
        while not self.stopping.wait(self.rng.uniform(1, self.up)):
            part = self.rng.choice(self.parts)
            part.kill()
            self.killed[part.name] += 1
            self.stopping.wait(self.rng.uniform(0, self.down))
            try:
                part.up()
            except FleetError as error:
                self.error = error
                return


def check_mailbox(ledger, account, messages):
    """What is wrong with a mailbox when all is quiet, as lines."""
    here = [ledger.token_of(account, message) for message in messages]
    accepted = set(ledger.accepted[account])
    perhaps = ledger.unknown[account] | ledger.perhaps_deleted[account]
    wrong = {"twice": {token for token in here if here.count(token) > 1},
             "lost": accepted - ledger.perhaps_deleted[account] - set(here),
             "deleted but there": ledger.deleted[account] & set(here),
             "never accepted": set(here) - accepted - perhaps}
    return [f"{account.address}: {what}: {sorted(tokens, key=str)}"
            for what, tokens in wrong.items() if tokens]
