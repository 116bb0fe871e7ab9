"""A front-end dies in the midst of what it does for a reader: half a message is never taken for a
whole one, and a QUIT deletes all that was marked or nothing."""

import collections
import contextlib
import threading

from clients import LOST
from mail import Refused
from scenario import BROKEN, Scenario

LEASE = 30  # seconds: what a dead session leaves behind
LARGE = 6_000_000  # octets: more than the buffers on its way to a client that does not read

Session = collections.namedtuple("Session", "box pop3 uids")


class OwnSessions(Scenario):
    """Sessions of the scenario's own, in the idle mailboxes."""

    answers = dict.fromkeys(("readers", "quiet readers"), BROKEN | {"IN-USE"})

    def open(self, address, service):
        """Logs in and lists; Refused or one of LOST if that can't be."""
        began, box = self.now(), self.ledger.mailboxes[address]
        pop3 = service.open(True)
        try:
            pop3.ok(f"USER {box.address}")
            pop3.ok(f"PASS {box.password}")
            session = Session(box, pop3, {uid: number for number, uid in pop3.uidl().items()})
            self.ledger.listed(address, began, list(session.uids))
            return session
        except (Refused, *LOST):
            pop3.close()
            raise

    def eventually_open(self, address, service):
        """Once the lease of a dead session has ended."""
        opened = []

        def why_not():
            try:
                opened.append(self.open(address, service))
            except (Refused, *LOST) as error:
                return f"{address} is not to be had: {error}"
            return None

        self.until(LEASE + 15, why_not)
        return opened[0]

    @property
    def ledger(self):
        return self.day.ledger

    @property
    def town(self):
        return self.day.town


class FrontendKilledInRetr(OwnSessions):
    """A front-end is killed (SIGKILL) while it sends messages (RETR)."""

    name = "fe-kill-retr"
    sees = "its sessions break off; the next one goes to another front-end, after up to 30 s of [IN-USE]"

    def run(self, lab):
        self.town.deposit(self.town.idle, LARGE)
        with lab.hosts["client1"].inside():
            sessions = [self.open(address, self.town.service) for address in self.town.idle]
            for session in sessions:
                self.ask_for_large(session)
            self.until(10, lambda: None if self.sends(lab) else "no front-end has anything to send")
            victim = self.sends(lab)
            killed = self.now()
            victim.kill()
            broken = [session for session in sessions if not self.read_large(session)]
            self.expect(broken, f"{victim.name} died, and nobody's message broke off")
            self.well_again()
            self.since(killed, "poll", within=10)
            for session in broken:
                again = self.eventually_open(session.box.address, self.town.service)
                self.expect(again.uids == session.uids, "a mailbox is another after RETR broke off")
                self.ask_for_large(again)
                self.expect(self.read_large(again), "the message breaks off again")
            self.measured["no session in its mailbox"] = self.now() - killed
        victim.up()

    def ask_for_large(self, session):
        session.pop3.send(f"RETR {len(session.uids)}\r\n".encode())

    @staticmethod
    def sends(lab):
        """A front-end that has octets for a client that has not taken them yet."""
        for node in lab.front_ends:
            listed = node.place.run("ss", "-Htn", "state", "established", "sport", "=", ":995")
            if any(int(line.split()[1]) > 10_000 for line in listed.splitlines()):
                return node
        return None

    def read_large(self, session):
        """The rest of the message, which is deleted; False if it breaks off."""
        uid, number = list(session.uids.items())[-1]
        try:
            with session.pop3 as pop3:
                reply = pop3.reply()
                self.expect(reply.startswith("+OK"), f"RETR: {reply}")
                message = b"".join(line + b"\r\n" for line in pop3.lines())
                self.ledger.read(session.box.address, uid, message)
                pop3.ok(f"DELE {number}")
                self.ledger.deleting(session.box.address, [uid])
                pop3.quit()
                self.ledger.deleted(session.box.address, [uid])
        except LOST:
            return False
        return True


class FrontendKilledInQuit(OwnSessions):
    """A front-end is killed (SIGKILL) while it deletes (QUIT)."""

    name = "fe-kill-quit"
    sees = "its sessions break off; what was marked is deleted as a whole or not at all"

    marks = 5

    def run(self, lab):
        self.town.deposit(address for address in self.town.idle for _ in range(self.marks))
        victim, service = lab["pop1"], self.town.ways[0]
        with lab.operator.inside():  # from where the front-end itself can be reached
            sessions = [self.open(address, service) for address in self.town.idle]
            for session in sessions:
                self.mark(session)
            with self.locked(lab, sessions[0].box.address):
                # One that waits for the database, and some that are anywhere.
                sessions[0].pop3.send(b"QUIT\r\n")
                self.until(4, lambda: self.why_no_statement(
                    lab, "wait_event_type = 'Lock' AND query LIKE 'SELECT expunge%'"))
                for session in sessions[1:]:
                    session.pop3.send(b"QUIT\r\n")
                killed = self.now()
                victim.kill()
            for session in sessions:
                self.end(session)
            self.expect(sessions[0].box.perhaps_deleted - sessions[0].box.deleted,
                        "QUIT was answered while its mailbox was locked")
            self.well_again()
            self.since(killed, "poll", within=10)
            for session in sessions:
                self.judge(session)
        victim.up()

    def mark(self, session):
        marked = list(session.uids)[-self.marks:]
        for uid in marked:
            self.ledger.read(session.box.address, uid, session.pop3.retr(session.uids[uid]))
            session.pop3.ok(f"DELE {session.uids[uid]}")
        self.ledger.deleting(session.box.address, marked)

    @contextlib.contextmanager
    def locked(self, lab, address):
        """Somebody else has the row of this mailbox, for some seconds."""
        holder = threading.Thread(target=lab.sql, args=(
            "BEGIN; SELECT 1 FROM mailbox WHERE mailbox_id = (SELECT mailbox_id FROM account "
            f"WHERE addr = '{address}') FOR UPDATE; SELECT pg_sleep(4); COMMIT",))
        holder.start()
        self.until(4, lambda: self.why_no_statement(lab, "query LIKE 'SELECT pg_sleep%'"))
        yield
        holder.join()

    @staticmethod
    def why_no_statement(lab, condition):
        count, = lab.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {condition}")[0]
        return None if int(count) else f"no statement with {condition}"

    def end(self, session):
        """What the session says before it is gone."""
        marked = list(session.uids)[-self.marks:]
        with session.pop3 as pop3, contextlib.suppress(*LOST):
            reply = pop3.reply()
            self.expect(reply.startswith("+OK"), f"QUIT: {reply}")
            self.ledger.deleted(session.box.address, marked)

    def judge(self, session):
        """All of what was marked is there, or nothing of it."""
        again = self.eventually_open(session.box.address, self.town.service)
        again.pop3.quit()
        left = set(list(session.uids)[-self.marks:]) & set(again.uids)
        self.expect(len(left) in (0, self.marks),
                    f"{session.box.address}: {len(left)} of {self.marks} are left after QUIT")
        self.expect(set(session.uids) - set(again.uids)
                    <= session.box.deleted | session.box.perhaps_deleted,
                    f"{session.box.address}: more is gone than was marked")
