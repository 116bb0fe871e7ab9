"""The people who use the laboratory: senders, and readers of mail, that write the ledger.

Each is a thread on a host of the laboratory and goes on until it is stopped, whatever it is
answered. They are patient as programs of their kind are, but for shorter: a broken session or a
temporary error is an answer to try again after, anything else a violation.
"""

import collections
import re
import smtplib
import threading
import time

from mail import Pop3, Refused, Smtp

PATIENCE = 12  # seconds, for one answer
LOST = (OSError, EOFError)  # TimeoutError, too


class Client(threading.Thread):
    """step() again and again."""

    pause = 0.1  # seconds between two

    def __init__(self, ledger, host, name):
        super().__init__(name=name, daemon=True)
        self.ledger, self.host = ledger, host
        self.stopping = threading.Event()
        self.failed = None

    def run(self):
        self.host.enter()
        try:
            while not self.stopping.is_set():
                self.step()
                self.stopping.wait(self.pause)
            self.end()
        except Exception as error:  # pylint: disable=broad-except
            self.failed = error  # a bug of the test, or an answer out of form
            self.ledger.violate("corrupt", f"{self.name}: {type(error).__name__}: {error}")

    def step(self):
        raise NotImplementedError

    def end(self):
        """What is still to be done when it is told to stop."""


# --- senders -------------------------------------------------------------------------------------


class Submitter(Client):
    """Gives messages to the sending MTA, which then has them in its queue."""

    def __init__(self, ledger, host, mta, addresses, pause):
        super().__init__(ledger, host, "submitter")
        self.mta, self.addresses, self.pause = mta, addresses, pause
        self.count = 0

    def step(self):
        self.count += 1
        some = self.ledger.rng.sample(self.addresses, 2 if self.count % 8 == 0 else 1)
        token, message = self.ledger.new_message(some, "mta")
        try:
            with smtplib.SMTP(self.mta.address, self.mta.port, timeout=PATIENCE) as smtp:
                smtp.sendmail("sender@example.org", some, message)
            self.ledger.answer(self.name, "ok")
        except (OSError, smtplib.SMTPException) as error:
            self.ledger.answer(self.name, f"not submitted ({error})")


class MtaLog(Client):
    """Reads in the log of the sending MTA what became of each message."""

    pause = 0.02
    LINE = re.compile(r"postfix/(?P<who>\w+)\[\d+\]: (?P<queue>\w+): (?P<rest>.*)")
    TO = re.compile(r"to=<(?P<to>[^>]*)>.* relay=(?P<relay>[^\[,]*).* status=(?P<status>\w+) "
                    r"\((?P<reply>.*)\)$")

    def __init__(self, ledger, host, log):
        super().__init__(ledger, host, "mta")
        self.log = log
        self.position, self.rest = 0, ""
        self.tokens = {}  # queue id -> token
        self.by = collections.Counter()  # MX host -> how many it has accepted

    def step(self):
        with open(self.log, errors="replace") as log:
            log.seek(self.position)
            new = log.read()
            self.position = log.tell()
        *lines, self.rest = (self.rest + new).split("\n")
        for line in lines:
            if match := self.LINE.search(line):
                self.judge(match["queue"], match["rest"])

    def judge(self, queue, rest):
        if match := re.match(r"message-id=<([0-9a-z-]+)@lab>", rest):
            self.tokens[queue] = match[1]
        token = self.tokens.get(queue)
        if token is None:
            return
        if "may be sent more than once" in rest and not rest.startswith("to="):
            self.ledger.answer_lost(token, self.ledger.addresses_of(token))
        if match := self.TO.match(rest):
            self.judge_status(token, **match.groupdict())

    def judge_status(self, token, to, relay, status, reply):
        self.ledger.answer(self.name, {"sent": "ok"}.get(status, status))
        if status == "sent":
            self.by[relay] += 1
            self.ledger.accepted(token, to, relay)
        elif status == "deferred":
            if "may be sent more than once" in reply:
                self.ledger.answer_lost(token, [to])
        else:
            self.ledger.refused(token, f"{status} by {relay}: {reply}")


class Sender(Client):
    """A small sending MTA, whose clock is exact: it goes to the MX hosts in their order, and tries
    again until each message is accepted."""

    def __init__(self, ledger, host, exchangers, tls, addresses, pause):
        """exchangers: (preference, name, address)."""
        super().__init__(ledger, host, "sender")
        self.exchangers, self.tls, self.addresses, self.pause = exchangers, tls, addresses, pause
        self.queue = collections.deque()  # (not before, token, message, addresses)
        self.by = collections.Counter()

    def step(self):
        to = [self.ledger.rng.choice(self.addresses)]
        self.attempt(*self.ledger.new_message(to, "sender"), to)
        if self.queue and self.queue[0][0] < time.monotonic():
            self.attempt(*self.queue.popleft()[1:])

    def end(self, seconds=30):
        deadline = time.monotonic() + seconds
        while self.queue and time.monotonic() < deadline:
            self.attempt(*self.queue.popleft()[1:])
            time.sleep(0.02 if self.queue else 0)

    def attempt(self, token, message, to):
        order = sorted(self.exchangers, key=lambda mx: (mx[0], self.ledger.rng.random()))
        for _, name, address in order:
            answer = self.send(token, message, to, name, address)
            self.ledger.answer(self.name, answer)
            if answer == "ok":
                self.by[name] += 1
                for recipient in to:
                    self.ledger.accepted(token, recipient, name)
                return
            if answer.startswith("5"):
                return
        self.queue.append((time.monotonic() + 1, token, message, to))

    def send(self, token, message, to, name, address):
        answer = "unreachable"  # until the message is on its way it can't have been accepted
        try:
            with Smtp(25, host=address, name=name, starttls=self.tls, timeout=5) as smtp:
                answer = "broke off"
                smtp.begin(to)
                answer = "answer lost"
                smtp.socket.settimeout(20)
                smtp.content(message)
                smtp.finish(len(to))
                return "ok"
        except Refused as refused:
            if refused.code // 100 != 4:
                self.ledger.refused(token, f"{name}: {refused.reply}")
            return str(refused.code)
        except LOST:
            if answer == "answer lost":
                self.ledger.answer_lost(token, to)
            return answer


# --- readers -------------------------------------------------------------------------------------


class Service:
    """Where POP3 clients go: a host name's address, by TLS or STLS."""

    def __init__(self, address, tls, name, pop3=110, pop3s=995):
        self.address, self.tls, self.name = address, tls, name
        self.pop3, self.pop3s = pop3, pop3s

    def open(self, implicit, timeout=PATIENCE):
        where = {"host": self.address, "name": self.name, "timeout": timeout}
        return Pop3(self.pop3s, tls=self.tls, **where) if implicit \
            else Pop3(self.pop3, stls=self.tls, **where)


class Reader(Client):
    """Polls its mailboxes, one after the other: lists, reads what is new, deletes what is old."""

    def __init__(self, ledger, host, service, addresses, name, what="poll", keep=25, deletes=True,
                 pause=0.1):
        """what: under which name good polls are counted. keep: how much it leaves on the server."""
        super().__init__(ledger, host, name)
        self.service, self.addresses, self.pause = service, addresses, pause
        self.what, self.keep, self.deletes = what, keep, deletes
        self.turn = 0

    def step(self):
        self.turn += 1
        self.poll(self.addresses[self.turn % len(self.addresses)])

    def poll(self, address):
        """One session; whether it went well."""
        answer, began = "unreachable", time.monotonic()
        box = self.ledger.mailboxes[address]
        try:
            with self.service.open(self.turn // len(self.addresses) % 2 == 0) as pop3:
                answer = self.log_in(pop3, box)
                if answer == "ok":
                    answer = "broke off"
                    marked = self.look(pop3, box, began)
                    self.ledger.deleting(address, marked)
                    pop3.quit()
                    self.ledger.deleted(address, marked)
                    answer = "ok"
        except Refused as refused:
            answer = self.judge(address, refused.reply)
        except TimeoutError:
            answer = "no answer in time" if answer != "unreachable" else answer
        except LOST:
            pass
        self.ledger.answer(self.name, answer)
        if answer == "ok":
            self.ledger.went_well(self.what)
        return answer == "ok"

    def log_in(self, pop3, box):
        pop3.ok(f"USER {box.address}")
        reply = pop3.command(f"PASS {box.password}")
        return "ok" if reply.startswith("+OK") else self.judge(box.address, reply)

    def judge(self, address, reply):
        """The word for an error, which must be a temporary one."""
        code = re.match(r"-ERR \[(SYS/TEMP|IN-USE)\]", reply)
        if not code:
            self.ledger.login_refused(address, reply)
        return code[1] if code else reply

    def look(self, pop3, box, began, settled=False):
        """Lists, reads what is new; the unique ids that it has marked as deleted."""
        numbers = {uid: number for number, uid in pop3.uidl().items()}
        for uid in self.ledger.listed(box.address, began, list(numbers), settled):
            self.ledger.read(box.address, uid, pop3.retr(numbers[uid]))
        self.ledger.due(box.address, began, list(numbers))
        if not self.deletes or len(numbers) <= self.keep:
            return []
        marked = list(numbers)[1:len(numbers) - self.keep + 1]  # never the first one
        for uid in marked:
            pop3.ok(f"DELE {numbers[uid]}")
        return marked


class Auditor(Reader):
    """Looks into each mailbox once, by each of several ways, when all is quiet."""

    def __init__(self, ledger, host, services, addresses):
        super().__init__(ledger, host, services[0], addresses, "auditor", deletes=False, pause=0)
        self.services = services
        self.left = [(service, address) for service in services for address in addresses]
        self.reasons = collections.Counter()
        self.deadline = time.monotonic() + 45  # a lease that was left behind ends in 30 s

    def step(self):
        if not self.left or time.monotonic() > self.deadline:
            self.stopping.set()
            return
        self.service, address = self.left.pop(0)
        if not self.audit(address):
            self.left.append((self.service, address))
            self.stopping.wait(0.2)

    def audit(self, address):
        box, began = self.ledger.mailboxes[address], time.monotonic()
        try:
            with self.service.open(True) as pop3:
                answer = self.log_in(pop3, box)
                if answer == "ok":
                    self.look(pop3, box, began, settled=True)
                    uids = list(pop3.uidl().values())
                    pop3.quit()
                    self.ledger.settle(address, uids)
                    return True
        except Refused as refused:
            answer = self.judge(address, refused.reply)
        except LOST as error:
            answer = str(error)
        self.reasons[answer] += 1
        return False


class Guesser(Client):
    """Tries wrong passwords all the time."""

    pause = 0.5

    def __init__(self, ledger, host, service, addresses):
        super().__init__(ledger, host, "guesser")
        self.service, self.addresses = service, addresses
        self.count = 0

    def step(self):
        self.count += 1
        address = self.addresses[self.count % len(self.addresses)]
        answer = "unreachable"
        try:
            with self.service.open(True) as pop3:
                pop3.ok(f"USER {address}")
                reply = pop3.command(f"PASS wrong-{self.count}")
                answer = "let in" if reply.startswith("+OK") else reply[5:].split("]")[0] + "]"
                if reply.startswith("+OK"):
                    self.ledger.let_in(address, reply)
        except Refused as refused:
            answer = refused.reply
        except LOST:
            pass
        self.ledger.answer(self.name, answer)
