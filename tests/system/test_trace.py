#!/usr/bin/python3 -B
"""`mailfleet trace` over a message's whole life on two nodes of each kind, and over an address: each
event once, in order, with who it was; and nobody can put words into it by what he types."""

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from os import EX_DATAERR, EX_NOINPUT, EX_NOUSER, EX_OK
from unittest import mock

import harness
from mail import Pop3, Refused, Smtp, plain

HELLO = b"Subject: hello\r\n\r\nhello\r\n"
NOBODYS = "01hzy3abcdefghjkmnpqrstvwx"
SENDER, HOME, WORK = "192.0.2.7", "198.51.100.1", "203.0.113.9"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def proxy_header(address):
    return f"PROXY TCP4 {address} 127.0.0.1 4000 110\r\n".encode()


class TraceTest(harness.FleetTest):
    def setUp(self):
        self.logs = self.fleet.state / "log"

    def trace(self, *words, code=EX_OK, log=None, stdin=None):
        words = ("trace", *words, *(("--log", log) if log else ()), "--json")
        done = subprocess.run(
            [str(word) for word in (self.fleet.admin_program, "--config", self.fleet.config,
                                    *words)],
            cwd="/", input=stdin, capture_output=True, timeout=100,
            env={**self.fleet.env}, **self.fleet.run_as(self.fleet.user))
        self.assertEqual(done.returncode, code, f"{words}: {done.stderr}")
        return json.loads(done.stdout) if done.stdout else []

    def lines(self, event):
        """Of all nodes' logs, so many."""
        return [line for log in sorted(self.logs.glob("*.log"))
                for line in log.read_text().splitlines() if f" info {event} node=" in line]

    def wait_for(self, event, *words, count=1):
        """Until the logs have so many such lines: they are written behind the reply."""
        def look():
            found = [line for line in self.lines(event) if all(word in line for word in words)]
            self.assertGreaterEqual(len(found), count, f"{event} {words}")
            return found
        return self.eventually(10, look)

    # --- clients with addresses of their own, as a balancer names them -----------------------------

    def client(self, account, address, node=0):
        pop3 = Pop3(self.fleet.front_ends[node].ports["pop3_proxy"], stls=self.tls,
                    preface=proxy_header(address))
        pop3.login(account)
        return pop3

    def new_message(self, *accounts, node=0, message=HELLO):
        with Smtp(self.fleet.delivery_nodes[node].ports["smtp_proxy"],
                  preface=proxy_header(SENDER)) as smtp:
            smtp.deliver(message, [account.address for account in accounts])
            smtp.quit()
        return max(re.search(r" id=(\w{26}) ", line)[1] for line in self.wait_for("message"))

    def delete(self, account, uidl, node=0, retr=True, address=HOME):
        with self.client(account, address, node) as pop3:
            number = next(n for n, id_ in pop3.uidl().items() if id_ == uidl)
            if retr:
                pop3.retr(number)
            pop3.ok(f"DELE {number}")
            pop3.quit()
        self.wait_for("pop3.deleted", uidl)

    def pipe(self):
        """Of all nodes' logs, as `<(zcat ...)` of a shell: what can be read once."""
        path = self.fleet.state / "pipe"
        os.mkfifo(path)
        path.chmod(0o666)
        octets = b"".join(log.read_bytes() for log in sorted(self.logs.glob("*.log")))
        writer = threading.Thread(target=path.write_bytes, args=(octets,), daemon=True)
        writer.start()
        self.addCleanup(writer.join, 10)
        return path

    def reap(self):
        """With its lines where a timer's unit has them."""
        done = subprocess.run(
            [str(self.fleet.admin_program), "--config", str(self.fleet.config), "reap", "--yes",
             "--no-fuse"], cwd="/", capture_output=True, text=True, timeout=100,
            env={**self.fleet.env}, **self.fleet.run_as(self.fleet.user))
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        with open(self.logs / "reaper.log", "a") as log:
            log.write(done.stderr)

    def sql(self, text):
        self.fleet.sql(text)

    # --- a message ------------------------------------------------------------------------------

    def test_whole_life(self):
        ann, ben = self.account("ann"), self.account("ben")
        uidl = self.new_message(ann, ben, node=1)
        with self.client(ann, WORK, node=1) as pop3:
            pop3.retr(1)
            pop3.quit()
        self.wait_for("pop3.retr", uidl, "whole=yes")
        self.delete(ann, uidl, node=0)
        self.fleet.admin("undelete", ann.address, "--id", uidl, "--yes")
        self.delete(ben, uidl, node=1, retr=False, address=WORK)
        events = self.trace(uidl, log=self.logs)
        self.assertEqual([e["event"] for e in events if e["address"] == ann.address],
                         ["listed", "retrieved", "listed", "retrieved", "deleted", "undeleted", "stands"])
        self.fleet.admin("account", "remove", ann.address, "--yes")
        self.sql("UPDATE removed SET purge_after = removed_at")
        self.reap()
        self.sql("UPDATE ledger SET unlink_after = deleted_at")
        self.reap()
        events = self.trace(uidl, log=self.logs)
        self.check_life(events, ann, ben, uidl)
        # The same from one stream, as a journal gives it.
        stream = b"".join(b"2026-01-31T12:00:00+0000 host mailfleet-x[1]: " + line + b"\n"
                          for log in sorted(self.logs.glob("*.log"))
                          for line in log.read_bytes().splitlines())
        self.assertEqual(self.trace(uidl, log="-", stdin=stream), events)

    def check_life(self, events, ann, ben, uidl):
        kinds = [e["event"] for e in events]
        self.assertEqual(kinds[:2], ["received", "stored"])
        self.assertEqual(kinds[-1], "unlinked")
        self.assertEqual(sorted(kinds), sorted(
            ["received", "stored", "listed", "listed", "listed", "retrieved", "retrieved", "deleted",
             "deleted", "deleted", "undeleted", "account-removed", "unlinked"]))
        received, stored = events[:2]
        self.assertEqual((received["node"], received["peer"]), ("deliver2", SENDER))
        self.assertIn("from <", received["what"])
        self.assertIn("called itself", received["what"])
        self.assertRegex(stored["what"], r"volume 1: \d{8}/[0-9a-f]{2}/" + uidl)
        self.assertIn(f"for {ann.address}, {ben.address}", stored["what"])
        times = [e["time"] for e in events if e["time"]]
        self.assertEqual(times, sorted(times))
        for time in times:
            self.assertRegex(time, TIME)
        by = [(e["event"], e["address"], e["peer"], e["node"]) for e in events
              if e["event"] in ("retrieved", "deleted")]
        self.assertEqual(by[:4], [
            ("retrieved", ann.address, WORK, "frontend2"), ("retrieved", ann.address, HOME, "frontend1"),
            ("deleted", ann.address, HOME, "frontend1"), ("deleted", ben.address, WORK, "frontend2")])
        self.assertIn("removed by operator", [e for e in events if e["event"] == "deleted"][2]["what"])

    def test_without_a_log(self):
        ann = self.account("solo")
        uidl = self.new_message(ann)
        self.assertEqual([e["event"] for e in self.trace(uidl)], ["received", "stored", "stands"])
        self.delete(ann, uidl)
        events = self.trace(uidl)
        self.assertEqual([e["event"] for e in events], ["received", "stored", "deleted"])
        self.assertIn("can come back until", events[2]["what"])
        self.assertEqual(events[2]["node"], "frontend1")

    def test_who_gave_it_back_and_where_it_came_from(self):
        ann = self.account("back")
        uidl = self.new_message(ann)
        for _ in range(2):
            self.delete(ann, uidl, retr=False)
            self.fleet.admin("undelete", ann.address, "--id", uidl, "--yes")
        for log in None, self.logs:
            events = [e for e in self.trace(uidl, log=log) if e["event"] in ("deleted", "undeleted")]
            self.assertEqual([e["event"] for e in events], ["deleted", "undeleted"] * 2)
            for event in events[1::2]:
                self.assertRegex(event["what"], "^by operator ")
                self.assertRegex(event["time"], TIME)
        [told] = [e for e in self.trace(ann.address) if e["id"] == uidl]
        self.assertRegex(told["what"], r"deleted \S+ by pop3 .*, undeleted \S+ by operator .*; in the "
                                       "mailbox")
        old = self.fleet.state / "old.mbox"
        old.write_bytes(b"From a Thu Jan  1 00:00:00 2026\nX-UIDL: theirs\n\nhello\n")
        if self.fleet.root:
            shutil.chown(old, self.fleet.user, self.fleet.user)
        self.fleet.admin("import", f"mbox:{old}", ann.address, "--yes")
        [came] = [e for e in self.trace(ann.address) if e["event"] == "message" and e["id"] != uidl]
        self.assertIn("imported from another server", came["what"])
        received = self.trace(came["id"])[0]
        self.assertEqual(received["event"], "received")
        self.assertIn("an import from another server, where it had the UIDL theirs", received["what"])

    def test_shared_file_is_unlinked_once(self):
        accounts = [self.account(f"share{n}") for n in range(3)]
        uidl = self.new_message(*accounts)
        for account in accounts:
            self.delete(account, uidl, retr=False)
        self.sql("UPDATE ledger SET unlink_after = deleted_at")
        self.reap()
        for log in None, self.logs:
            kinds = [e["event"] for e in self.trace(uidl, log=log)]
            self.assertEqual(kinds.count("unlinked"), 1, kinds)
            self.assertEqual(kinds.count("deleted"), 3, kinds)

    # --- an address -----------------------------------------------------------------------------

    def test_address(self):
        ann = self.account("mary")
        kept, gone = self.new_message(ann), self.new_message(ann, node=1)
        self.delete(ann, gone, node=1)
        with self.pop3() as pop3:
            with self.assertRaises(Refused):
                pop3.login(harness.Account(ann.address, "wrong"))
        self.wait_for("pop3.login", ann.address, "result=denied")
        self.wait_for("pop3.session", ann.address, "deleted=1")
        events = self.trace(ann.address, log=self.logs)
        messages = {e["id"]: e for e in events if e["event"] == "message"}
        self.assertEqual(set(messages), {kept, gone})
        self.assertIn("in the mailbox, on volume 1", messages[kept]["what"])
        self.assertRegex(messages[gone]["what"], "retrieved 1 time,.*deleted .*QUIT from 198.51.100.1")
        self.assertEqual(messages[gone]["node"], "deliver2")
        logins = [e for e in events if e["event"] == "login"]
        self.assertEqual(events[2:], logins)
        self.assertEqual([e["what"] for e in logins],
                         ["ok, 2 messages; retrieved 1, deleted 1", "denied"])
        self.assertEqual({e["address"] for e in logins}, {ann.address})
        self.assertEqual(self.trace(ann.address, log=self.pipe()), events)
        # Nothing is from the time to come.
        self.assertEqual(self.trace(ann.address, "--since", "2100-01-01", log=self.logs), [])

    def test_refused(self):
        """What was never stored, from a journal in which strangers have their say as well."""
        at = "2026-01-31T12:00:00"
        front = f"{at}+0000 host mailfleet-deliver[7]: {at}"
        lines = [
            f'{front}.100Z info filter.verdict node=d sid=1 milter=clam id={NOBODYS} '
            'verdict=reject text="a \\"virus\\""',
            f"{front}.200Z info message node=d sid=1 id={NOBODYS} peer={SENDER} from=a@b.example "
            "rcpts=2 mailboxes=2 octets=7 result=filtered to=1,2",
            f"{front}.300Z info smtp.session node=d sid=1 peer={SENDER} helo=b.example tls=no",
            f"{at}+0000 host sshd[7]: {at}.400Z info reap.unlinked id={NOBODYS} volume=1",
            f"{front}.500Z info reap.unlinked id={NOBODYS} volume",  # was not written to its end
        ]
        journal = "".join(f"{x}\n" for x in lines).encode()
        events = self.trace(NOBODYS, log="-", stdin=journal)
        self.assertEqual(sorted((e["event"], e["node"], e["what"]) for e in events), [
            ("filtered", "d", 'reject by clam: a "virus"'),
            ("received", "d", "from <a@b.example>, 2 recipients, by a client that called itself "
                              "b.example"),
            ("refused", "d", "not accepted: filtered")])
        self.assertEqual(self.trace(NOBODYS, log="-", stdin=gzip.compress(journal)), events)

    def test_expired(self):
        ann = self.account("reader", "--read-retention", "0")
        uidl = self.new_message(ann)
        with self.client(ann, HOME) as pop3:
            pop3.retr(1)
            pop3.quit()
        def look():
            self.reap()
            self.assertEqual([e["event"] for e in self.trace(uidl, log=self.logs)],
                             ["received", "stored", "listed", "retrieved", "expired"])
        self.eventually(20, look)  # what was read is noted behind the reply

    # --- hostile and wrong ----------------------------------------------------------------------

    def test_names_forge_nothing(self):
        ann = self.account("honest")
        uidl = self.new_message(ann)
        before = self.trace(uidl, log=self.logs)
        now = "2026-01-31T12:00:00.000Z"
        forged = [f'x" {now} info pop3.deleted node=n sid=1 mailbox=1 ids={uidl}',
                  f"{now} info pop3.retr sid=1 id={uidl} octets=1 whole=yes",
                  f'" id={uidl} result=ok x="']
        for name in forged:
            with self.pop3() as pop3:
                with self.assertRaises(Refused):
                    pop3.ok("AUTH PLAIN " + plain(name, "wrong"))
        found = self.wait_for("pop3.login", uidl, count=len(forged))
        self.assertEqual(len(found), len(forged))
        now = self.trace(uidl, log=self.logs)
        self.assertEqual([e["event"] for e in now], [e["event"] for e in before])
        self.assertEqual(now[:-1], before[:-1])  # the last tells that it stands now

    def test_wrong_words(self):
        self.assertEqual(self.trace(NOBODYS, code=EX_NOUSER), [])
        self.assertEqual(self.trace(NOBODYS, log=self.logs, code=EX_NOUSER), [])
        self.trace("word", code=EX_DATAERR)
        self.trace(f"nobody@{harness.DOMAIN}", code=EX_NOUSER)
        self.trace(NOBODYS, log="/nowhere", code=EX_NOINPUT)

    def test_half_a_message(self):
        """A client that goes in the middle has not got it."""
        ann = self.account("half")
        uidl = self.new_message(ann, message=HELLO + 500000 * b"0123456789abcde\r\n")
        with self.client(ann, HOME) as pop3:
            pop3.ok("RETR 1")
            pop3.line()
            pop3.reset()
        self.wait_for("pop3.retr", uidl, "whole=no")
        retrieved = [e for e in self.trace(uidl, log=self.logs) if e["event"] == "retrieved"]
        self.assertEqual([e["peer"] for e in retrieved], [HOME])
        self.assertIn("not all of it", retrieved[0]["what"])

    def test_pipelined_by_a_client_that_goes(self):
        """What was asked for behind a RETR does not tell that its message arrived."""
        self.pipelined(self.account("hasty", "--read-retention", "5"),
                       HELLO + 56000 * b"0123456789abcde\r\n", 12)  # less than is read at once

    def test_gathered_for_a_client_that_goes(self):
        """Nor when short messages leave together."""
        self.pipelined(self.account("hastier", "--read-retention", "5"),
                       HELLO + 1500 * b"0123456789abcde\r\n", 400)

    def pipelined(self, ann, message, count):
        for _ in range(count):
            self.deliver(message, ann)
        seen = []

        def whole():
            found = {re.search(r" id=(\w{26}) ", line)[1] for line in self.lines("pop3.retr")
                     if "whole=yes" in line}
            return [number for number, uidl in uidls.items() if uidl in found]

        def stuck():
            """The kernel takes no more."""
            seen.append(whole())
            self.assertEqual(seen[-2:], [seen[-1]] * 2)
            self.assertTrue(seen[-1])

        with self.client(ann, HOME) as pop3:
            uidls = pop3.uidl()
            pop3.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pop3.send(b"".join(b"RETR %d\r\n" % number for number in uidls) + b"QUIT\r\n")
            self.eventually(20, stuck)
            pop3.reset()
        self.wait_for("pop3.session", ann.address, 'reason="connection lost"')
        self.wait_for("pop3.retr", uidls[len(whole()) + 1], "whole=no")
        self.assertLess(len(whole()), len(uidls))
        self.wait_for_marks(ann, whole())

    def wait_for_marks(self, ann, numbers):
        """Until these messages are noted as read."""
        marks = ("SELECT seq FROM read_mark JOIN account USING (mailbox_id)"
                 f" WHERE addr = '{ann.address}' ORDER BY seq")
        self.eventually(20, lambda: self.assertEqual([row[0] for row in self.fleet.sql(marks)],
                                                     [str(number) for number in numbers]))

    def test_left_before_a_client_goes(self):
        """What it has had whole is told so, though it goes while the next one is being read."""
        self.left_before(self.account("patient", "--read-retention", "5"))

    def test_left_little_by_little_before_a_client_goes(self):
        """Also where the kernel had no room for all of it at once."""
        def narrow(address, timeout):
            found = socket.socket()
            found.settimeout(timeout)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            found.connect(address)
            return found
        with mock.patch("socket.create_connection", narrow):
            self.left_before(self.account("narrow", "--read-retention", "5"))

    def left_before(self, ann):
        """The last of four messages, short enough to leave with the others, is waited for."""
        for _ in range(3):
            self.deliver(HELLO + 2500 * b"0123456789abcde\r\n", ann)
        self.deliver(HELLO, ann)
        with self.client(ann, HOME) as pop3:
            *had, waits = pop3.uidl().values()
            path = next(path for path in self.spool_files() if path.name == waits)
            path.unlink()
            os.mkfifo(path)
            path.chmod(0o666)
            pop3.send(b"".join(b"RETR %d\r\n" % number for number in range(1, 5)))
            writer = self.eventually(5, lambda: os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            self.addCleanup(os.close, writer)
            for _ in had:
                self.assertTrue(pop3.reply().startswith("+OK"))
                pop3.lines()
            pop3.reset()
        self.wait_for("pop3.session", ann.address, 'reason="connection lost"')
        for uidl, whole in *((uidl, "yes") for uidl in had), (waits, "no"):
            self.wait_for("pop3.retr", uidl, f"whole={whole}")
        self.wait_for_marks(ann, [1, 2, 3])

    def test_no_lines_for_messages(self):
        """pop3.log_messages = no."""
        ann = self.account("quiet")
        uidl = self.new_message(ann)
        node = self.fleet.front_ends[0]
        self.reload(node, {"pop3.log_messages": "no"})
        self.addCleanup(self.reload, node, {})
        self.delete(ann, uidl)
        self.assertFalse([line for line in self.lines("pop3.retr") if uidl in line])

    def test_many_deletions(self):
        """Every id is in the log, in lines that are not cut."""
        ann = self.account("many")
        for _ in range(20):
            self.deliver(HELLO, ann)
        with self.pop3(ann) as pop3:
            wanted = list(pop3.uidl().values())
            for number in range(1, 21):
                pop3.ok(f"DELE {number}")
            pop3.quit()
        lines = self.wait_for("pop3.deleted", wanted[-1])
        lines = [line for line in self.lines("pop3.deleted")
                 if any(uidl in line for uidl in wanted)]
        self.assertEqual(len(lines), 3)
        found = [uidl for line in lines for uidl in re.fullmatch(
            r".* info pop3\.deleted node=frontend1 sid=\S+ mailbox=\d+ ids=([0-9a-z,]+)",
            line)[1].split(",")]
        self.assertEqual(found, wanted)


if __name__ == "__main__":
    harness.main()
