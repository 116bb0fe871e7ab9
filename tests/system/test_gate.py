#!/usr/bin/python3 -B
"""Debian's rspamd and opendkim in front of a fleet: what a milter refuses leaves nothing behind, what
it accepts is stored as it left it, and one that dies, hangs or asks for too much takes no mail and
no other session along. The protocol itself is test_milters.py's.

The first delivery node asks opendkim and rspamd; the second what a test sets up.
"""

import concurrent.futures
import contextlib
import os
import re
import select
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import harness
from fleet import DOMAIN
from mail import Refused, Smtp, stuff
from milters import GTUBE, Opendkim, Rspamd
from test_milters import message

PLAIN = message()
SPAM = message(body=GTUBE + b"\r\n")
RESULTS = re.compile(rb"Authentication-Results: mx\.example\.org; dkim=none[^\r]*(?:\r\n\t[^\r]*)*\r\n")


class Gate(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        cls.milters = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.milters, ignore_errors=True)
        cls.milters.chmod(0o755)
        cls.rspamd = Rspamd(cls.milters / "rspamd")
        cls.opendkim = Opendkim(cls.milters / "opendkim", "Mode v", "AlwaysAddARHeader yes")
        for server in cls.rspamd, cls.opendkim:
            cls.addClassCleanup(server.stop)
            server.start()
        cls.plain, cls.discard, cls.quarantine = cls.rspamd.addresses
        cls.settings = {"filter.milters": f"{cls.opendkim.address} {cls.plain}"}
        super().setUpClass()
        cls.first, cls.second = cls.fleet.delivery_nodes

    def setUp(self):
        self.user = self.account(self._testMethodName.removeprefix("test_").replace("_", "-"))
        self.files = len(self.spool_files())

    # --- helpers --------------------------------------------------------------------------------

    def ask(self, *milters, **settings):
        """The second node with these milters and settings, of the section `filter` unless named."""
        self.set_up({"filter.milters": " ".join(milters),
                     **{name if "." in name else f"filter.{name}": value
                        for name, value in settings.items()}})
        self.assertTrue(self.second.stop())
        self.second.up()

    def set_up(self, settings):
        self.fleet.node_settings[self.second.name] = settings
        self.second.prepare()

    @staticmethod
    def metric(node, name):
        return int(re.search(rf"^mailfleet_{name} (\d+)$", node.get("/metrics")[0],
                             re.MULTILINE)[1])

    @contextlib.contextmanager
    def counted(self, node, **expected):
        """What the counters of a node rise by."""
        names = {name: f"{name}_total" for name in expected}
        before = {name: self.metric(node, names[name]) for name in names}
        yield
        self.assertEqual({name: self.metric(node, names[name]) - before[name] for name in names},
                         expected)

    @contextlib.contextmanager
    def refused(self, code, text):
        with self.assertRaises(Refused) as caught:
            yield
        self.assertEqual(caught.exception.code, code)
        self.assertIn(text, caught.exception.reply)

    def served(self, account, number=1):
        with self.pop3(account) as pop3:
            return pop3.retr(number)

    def stored(self):
        """New message files of this test."""
        return len(self.spool_files()) - self.files

    def count(self, account=None):
        with self.pop3(account or self.user) as pop3:
            return pop3.stat()[0]

    # --- verdicts -------------------------------------------------------------------------------

    def test_reject(self):
        with self.counted(self.first, filter_messages=2, filter_refused=1, smtp_rejected=1,
                          smtp_deferred=0, smtp_accepted=1), self.smtp() as smtp:
            with self.refused(554, "5.7.1 Gtube pattern"):
                smtp.deliver(SPAM, [self.user.address])
            smtp.deliver(PLAIN, [self.user.address])  # the session goes on
            smtp.quit()
        self.assertEqual((self.stored(), self.count()), (1, 1))

    def test_soft_reject(self):
        with self.counted(self.first, filter_refused=1, smtp_rejected=0, smtp_deferred=1), \
                self.smtp() as smtp, self.refused(451, "4.7.1 By the rule of the test"):
            smtp.deliver(message(b"X-Wish: soft reject"), [self.user.address])
        self.assertEqual((self.stored(), self.count()), (0, 0))

    def test_changed_message_is_what_is_stored(self):
        other = self.account("other")
        with self.smtp() as smtp:
            smtp.begin([self.user.address, other.address])
            smtp.content(message(b"X-Wish: headers", b"X-Last: kept  as\r\n\tit is"))
            (_, reply), = smtp.finish()
            smtp.quit()
        served = self.served(self.user)
        self.assertEqual(self.served(other), served)
        self.assertEqual(self.stored(), 1)
        queue_id = harness.MESSAGE_FILE.search(reply)[0].encode()
        top = re.match(rb"Return-Path: <sender@example.org>\r\n(%b)(Received: from client\.example "
                       rb"(?:[^\r]*\r\n[ \t])*[^\r]*\r\n)" % RESULTS.pattern, served)
        self.assertTrue(top, served[:400])
        self.assertIn(b" id " + queue_id, top[2])
        self.assertEqual(served[top.end():], message(
            b"X-Last: kept  as\r\n\tit is",
            b"X-Seen: 127.0.0.1|client.example|sender@example.org|%b|%b"
            % (self.user.address.encode(), queue_id)))

    def test_discard(self):
        self.ask(self.discard)
        with self.counted(self.second, filter_messages=1, smtp_accepted=1, smtp_rejected=0,
                          smtp_deferred=0):
            self.deliver(SPAM, self.user, node=1)
        self.assertEqual((self.stored(), self.count()), (0, 0))
        self.deliver(PLAIN, self.user, node=1)
        self.assertEqual((self.stored(), self.count()), (1, 1))

    def test_quarantine(self):
        abuse, other = self.account("abuse"), self.account("quarantine2")
        self.ask(self.quarantine, quarantine=abuse.address)
        with self.counted(self.second, filter_quarantined=1, filter_refused=0, smtp_accepted=1):
            self.deliver(SPAM, self.user, other, node=1)
        self.assertEqual([self.count(a) for a in (self.user, other, abuse)], [0, 0, 1])
        served = self.served(abuse)
        self.assertTrue(re.match(
            rb"Return-Path: <sender@example.org>\r\nX-Original-To: <%b>\r\n"
            rb"X-Original-To: <%b>\r\nReceived: " % (self.user.address.encode(),
                                                     other.address.encode()), served), served[:300])
        self.assertTrue(served.endswith(SPAM))
        self.assertEqual(self.stored(), 1)

        # A mailbox that is not there: nothing is lost, and nobody gets it instead.
        self.fleet.admin("account", "remove", abuse.address, "--yes")
        with self.counted(self.second, smtp_deferred=1), self.smtp(1) as smtp, \
                self.refused(451, "4.3.0"):
            smtp.deliver(SPAM, [self.user.address])
        self.assertEqual((self.stored(), self.count()), (1, 0))

    def test_quarantine_is_refused_without_a_mailbox(self):
        """Also when it is a reload that has taken it away, in the middle of a message."""
        self.ask(self.quarantine, quarantine=f"abuse@{DOMAIN}")
        with self.smtp(1) as smtp:
            smtp.begin([self.user.address])
            self.assertEqual(smtp.command("DATA")[0], 354)
            self.set_up({"filter.milters": self.quarantine})
            reloads = self.second.log.read_text().count(" worker.reloaded ")
            os.kill(self.second.pids()[0], signal.SIGHUP)
            self.eventually(20, lambda: self.assertGreater(
                self.second.log.read_text().count(" worker.reloaded "), reloads))
            with self.counted(self.second, filter_quarantined=0, filter_refused=1):
                smtp.send(SPAM + b".\r\n")
                with self.refused(550, "5.7.1 Message refused by content filter"):
                    smtp.finish()
            smtp.deliver(PLAIN, [self.user.address])
            smtp.quit()
        self.assertEqual((self.stored(), self.count()), (1, 1))

    # --- ways to send ---------------------------------------------------------------------------

    @staticmethod
    def bdat(octets, last=True):
        return b"BDAT %d%b\r\n" % (len(octets), b" LAST" * last) + octets

    def test_bdat(self):
        with self.smtp() as smtp:
            for text, code in (PLAIN, 250), (SPAM, 554), (PLAIN, 250):
                smtp.begin([self.user.address])
                half = len(text) // 2
                smtp.send(self.bdat(text[:half], last=False))
                self.assertEqual(smtp.reply()[0], 250)
                smtp.send(self.bdat(text[half:]))
                self.assertEqual(smtp.reply()[0], code)
            smtp.quit()
        self.assertEqual((self.stored(), self.count()), (2, 2))

    def test_pipelined(self):
        envelope = f"MAIL FROM:<a@example.org>\r\nRCPT TO:<{self.user.address}>\r\n".encode()
        nobody = f"RCPT TO:<nobody@{DOMAIN}>\r\n".encode()
        with self.smtp() as smtp:
            smtp.send(b"".join(envelope + nobody + self.bdat(text) for text in (SPAM, PLAIN) * 5)
                      + b"QUIT\r\n")
            replies = [smtp.reply()[0] for _ in range(41)]
            self.assertEqual(replies, [250, 250, 550, 554, 250, 250, 550, 250] * 5 + [221])
            self.assertTrue(smtp.at_end())
        self.assertEqual((self.stored(), self.count()), (5, 5))

    def test_many_messages_in_one_connection(self):
        with self.counted(self.first, filter_messages=40, filter_refused=20), self.smtp() as smtp:
            for number in range(20):
                smtp.deliver(message(b"X-Number: %d" % number), [self.user.address])
                with self.refused(554, "Gtube"):
                    smtp.deliver(SPAM, [self.user.address])
                if number % 5 == 0:  # a transaction that is given up is none
                    smtp.begin([self.user.address])
                    smtp.expect(250, "RSET")
            smtp.quit()
        self.assertEqual((self.stored(), self.count()), (20, 20))

    def test_starttls_in_between(self):
        wish = message(b"X-Wish: tls")
        with self.smtp() as smtp:
            smtp.deliver(wish, [self.user.address])
            smtp.expect(220, "STARTTLS")
            smtp.wrap(self.tls)
            smtp.hello()
            smtp.deliver(wish, [self.user.address])
            smtp.quit()
        self.assertTrue(self.served(self.user, 1).endswith(b"X-TLS: nil\r\n\r\nHello\r\n"))
        self.assertRegex(self.served(self.user, 2), rb"X-TLS: TLSv1\.3\r\n\r\nHello\r\n$")

    def test_lmtp(self):
        other = self.account("lmtp2")
        with self.lmtp() as lmtp:  # by default not asked about
            lmtp.deliver(SPAM, [self.user.address])
            lmtp.quit()
        self.assertEqual((self.stored(), self.count()), (1, 1))
        self.ask(self.plain, lmtp="yes")
        with self.lmtp(1) as lmtp:
            lmtp.begin([self.user.address, other.address])
            lmtp.content(SPAM)
            self.assertEqual([lmtp.reply() for _ in range(2)], [(554, "5.7.1 Gtube pattern")] * 2)
            lmtp.deliver(PLAIN, [self.user.address, other.address])
            lmtp.quit()
        self.assertEqual((self.stored(), self.count(), self.count(other)), (2, 2, 1))

    # --- size and memory ------------------------------------------------------------------------

    def test_large(self):
        text = message(b"X-Wish: headers", body=b"." + b"0123456789abcdef" * 60 + b"\r\n" * 2)
        text += b"0123456789abcde\r\n" * ((20 << 20) // 17)
        self.deliver(text, self.user)
        served = self.served(self.user)
        self.assertEqual(served.partition(b"\r\n\r\n")[2], text.partition(b"\r\n\r\n")[2])
        self.assertIn(b"\r\nX-Seen: ", served.partition(b"\r\n\r\n")[0])
        self.assertEqual(self.metric(self.first, "filter_memory"), 0)
        self.assertEqual(self.stored(), 1)

    def test_memory_is_bounded(self):
        """And given back: of a message that was refused, given up, or whose client is gone."""
        self.ask(self.plain, **{"filter.memory": "1M", "smtp.max_size": "512K"})
        half = message(body=b"0123456789abcde\r\n" * (400_000 // 17))
        with self.counted(self.second, smtp_deferred=1), self.smtp(1) as smtp, \
                self.smtp(1) as other:
            smtp.deliver(half, [self.user.address])
            other.begin([self.user.address])
            other.expect(354, "DATA")
            other.send(half)
            self.eventually(20, lambda: self.assertGreaterEqual(
                self.metric(self.second, "filter_memory"), len(half)))
            with self.refused(452, "4.3.1"):
                smtp.deliver(half, [self.user.address])
            other.reset()
            self.eventually(20, lambda: self.assertEqual(
                self.metric(self.second, "filter_memory"), 0))
            smtp.deliver(half, [self.user.address])
            smtp.quit()
        self.assertEqual((self.stored(), self.count()), (2, 2))

    # --- milters that fail ----------------------------------------------------------------------

    def of_my_own(self):
        """A rspamd that only this test knows."""
        server = Rspamd(self.milters / self._testMethodName)
        self.addCleanup(server.stop)
        server.start()
        return server

    def send_while(self, accident, messages=40):
        """Many messages by several clients, with an accident in the middle: what became of each."""
        answered = threading.Semaphore(0)

        def send(number):
            try:
                with self.smtp(1) as smtp:
                    smtp.deliver(message(b"X-Number: %d" % number), [self.user.address])
                    smtp.quit()
                return 250
            except Refused as refused:
                return refused.code
            finally:
                answered.release()

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(send, number) for number in range(messages)]
            for _ in range(messages // 4):
                answered.acquire()
            accident()
            return [one.result() for one in sent]

    def test_killed_under_load_tempfail(self):
        rspamd = self.of_my_own()
        self.ask(rspamd.addresses[0])
        codes = self.send_while(rspamd.kill)
        self.assertEqual(set(codes), {250, 451})
        self.assertEqual((self.stored(), self.count()), (codes.count(250),) * 2)
        rspamd.start()
        self.eventually(20, lambda: self.deliver(PLAIN, self.user, node=1))
        self.assertEqual(self.count(), codes.count(250) + 1)

    def test_killed_under_load_accept(self):
        rspamd = self.of_my_own()
        self.ask(rspamd.addresses[0], on_failure="accept")
        codes = self.send_while(rspamd.kill)
        self.assertEqual(set(codes), {250})
        self.assertEqual((self.stored(), self.count()), (len(codes),) * 2)
        self.assertGreater(self.metric(self.second, "filter_faults_total"), 0)

    def test_killed_in_a_message(self):
        """After it was told of the recipients, and with the whole message to go."""
        for on_failure, code in ("tempfail", 451), ("accept", 250):
            with self.subTest(on_failure=on_failure):
                server = Rspamd(self.milters / f"killed-{on_failure}")
                self.addCleanup(server.stop)
                server.start()
                self.ask(server.addresses[0], on_failure=on_failure)
                before = self.count()
                with self.smtp(1) as smtp:
                    smtp.begin([self.user.address])
                    smtp.expect(354, "DATA")
                    server.kill()
                    smtp.send(stuff(PLAIN) + b".\r\n")
                    self.assertEqual(smtp.reply()[0], code)
                self.assertEqual(self.count() - before, code == 250)
        self.assertEqual(self.stored(), 1)

    def test_a_hanging_one_holds_up_nobody_else(self):
        rspamd = self.of_my_own()
        self.ask(rspamd.addresses[0], timeout="1h", connect_timeout="5m")
        with self.smtp(1) as waiting, self.lmtp(1) as lmtp, self.smtp(1) as other:
            waiting.begin([self.user.address])
            waiting.expect(354, "DATA")
            rspamd.signal(signal.SIGSTOP)
            waiting.send(stuff(PLAIN) + b".\r\n")
            other.send(b"MAIL FROM:<>\r\n")
            lmtp.deliver(PLAIN, [self.user.address])
            self.assertEqual(self.count(), 1)
            with self.smtp(1) as third:
                self.assertEqual(third.command("NOOP")[0], 250)
            self.assertEqual(select.select([waiting.socket, other.socket], [], [], 0)[0], [])
            rspamd.signal(signal.SIGCONT)
            waiting.finish()
            self.assertEqual(other.reply()[0], 250)
        self.assertEqual((self.stored(), self.count()), (2, 2))

    def test_a_hanging_one_has_a_deadline(self):
        rspamd = self.of_my_own()

        def deliver():
            with self.smtp(1) as again:
                again.deliver(PLAIN, [self.user.address])
                again.quit()

        self.ask(rspamd.addresses[0], timeout="1s", connect_timeout="1s")
        with self.smtp(1) as smtp:
            smtp.begin([self.user.address])
            rspamd.signal(signal.SIGSTOP)
            with self.refused(451, "4.7.1 Content filter not available"):
                smtp.content(PLAIN)
                smtp.finish()
            self.assertEqual(smtp.command("RSET")[0], 250)
            self.assertEqual(smtp.mail()[0], 451)  # a connection that it does not take, either
            rspamd.signal(signal.SIGCONT)
        self.eventually(20, deliver)
        self.assertEqual((self.stored(), self.count()), (1, 1))


if __name__ == "__main__":
    harness.main()
