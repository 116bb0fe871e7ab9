#!/usr/bin/python3 -B
"""SMTP and LMTP as a sender meets them: who is a recipient, what is refused, and what is stored."""

import smtplib
import subprocess

import harness
from harness import DOMAIN, HOST
from mail import Refused, Smtp

HELLO = b"Subject: hello\r\n\r\nhello\r\n"


def sized(octets):
    """A message of so many octets."""
    head = b"Subject: sized\r\n\r\n"
    line = b"x" * 70 + b"\r\n"
    body = line * (octets // len(line) + 1)
    return head + body[:octets - len(head) - 2] + b"\r\n"


class SmtpTest(harness.FleetTest):
    settings = {"smtp.max_size": "1M"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.alice, cls.bob = cls.account("alice"), cls.account("bob")

    def replies(self, address, **options):
        """The reply to RCPT."""
        with self.smtp(**options) as smtp:
            smtp.mail()
            return smtp.rcpt(address)

    def refused(self, code, enhanced, act):
        """act is refused with this code; an SMTP client sees the enhanced one."""
        with self.assertRaises(Refused) as caught:
            act()
        self.assertEqual((caught.exception.code, caught.exception.reply.split()[1]),
                         (code, enhanced))

    def gained(self, account, act):
        """The messages that act brought into a mailbox."""
        before = len(self.mailbox(account))
        act()
        return self.mailbox(account, node=1)[before:]

    # --- the session --------------------------------------------------------------------------

    def test_extensions(self):
        with self.smtp() as smtp:
            self.assertEqual(smtp.greeting[0], 220)
            self.assertEqual({"PIPELINING", "SIZE 1048576", "8BITMIME", "SMTPUTF8", "STARTTLS",
                              "CHUNKING", "LIMITS RCPTMAX=1000 MAILMAX=1000",
                              "ENHANCEDSTATUSCODES"}, set(smtp.extensions))
            smtp.quit()
        with self.smtp(starttls=self.tls) as smtp:
            self.assertNotIn("STARTTLS", smtp.extensions)
            self.assertIn("REQUIRETLS", smtp.extensions)
            smtp.deliver(HELLO, [self.alice.address])
            smtp.quit()

    def test_by_smtplib(self):
        def send():
            with smtplib.SMTP(HOST, self.fleet.delivery_nodes[0].ports["smtp"],
                              timeout=20) as smtp:
                smtp.starttls(context=self.tls)
                self.assertEqual(smtp.verify(self.alice.address)[0], 252)
                self.assertEqual(smtp.noop()[0], 250)
                self.assertEqual(smtp.rset()[0], 250)
                smtp.sendmail("carol@example.org", [self.alice.address], HELLO)

        self.assertEqual(self.gained(self.alice, send), [HELLO])

    def test_helo(self):
        def send():
            with self.smtp(greet=False) as smtp:
                smtp.expect(250, "HELO client.example")
                smtp.deliver(HELLO, [self.alice.address])
                smtp.quit()

        with self.smtp(greet=False) as smtp:
            self.assertEqual(smtp.mail()[0], 503)
        self.assertEqual(self.gained(self.alice, send), [HELLO])

    def test_order_of_commands(self):
        with self.smtp() as smtp:
            self.assertEqual(smtp.rcpt(self.alice.address)[0], 503)
            self.assertEqual(smtp.command("DATA")[0], 503)
            self.assertEqual(smtp.mail()[0], 250)
            self.assertEqual(smtp.mail()[0], 503)
            self.assertEqual(smtp.command("DATA")[0], 503)
            self.assertEqual(smtp.rcpt(self.alice.address)[0], 250)
            self.assertEqual(smtp.command("RSET")[0], 250)
            self.assertEqual(smtp.command("DATA")[0], 503)
            self.assertEqual(smtp.command("VRFY alice")[0], 252)
            self.assertEqual(smtp.command("NONSENSE")[0], 500)
            smtp.quit()

    def test_pipelining(self):
        def send():
            with self.smtp() as smtp:
                smtp.send(f"MAIL FROM:<a@example.org>\r\nRCPT TO:<{self.alice.address}>\r\n"
                          f"RCPT TO:<nobody@{DOMAIN}>\r\nDATA\r\n".encode())
                self.assertEqual([smtp.reply()[0] for _ in range(4)], [250, 250, 550, 354])
                smtp.send(HELLO + b".\r\nMAIL FROM:<b@example.org>\r\nQUIT\r\n")
                self.assertEqual([smtp.reply()[0] for _ in range(3)], [250, 250, 221])
                self.assertTrue(smtp.at_end())

        self.assertEqual(self.gained(self.alice, send), [HELLO])

    def test_what_is_said_before_tls_is_not_heard_behind_it(self):
        with self.smtp() as smtp:
            smtp.send(b"STARTTLS\r\nNOOP\r\n")
            with self.assertRaises((EOFError, OSError)):
                smtp.reply()
                smtp.wrap(self.tls)
                smtp.reply()

    def test_tls_starts_anew(self):
        with self.smtp() as smtp:
            smtp.mail()
            self.assertEqual(smtp.command("STARTTLS")[0], 503)
            smtp.command("RSET")
            smtp.expect(220, "STARTTLS")
            smtp.wrap(self.tls)
            self.assertEqual(smtp.mail()[0], 503)
            smtp.hello()
            self.assertEqual(smtp.rcpt(self.alice.address)[0], 503)

    def test_a_broken_transaction_leaves_nothing(self):
        def send():
            with self.smtp() as smtp:
                smtp.begin([self.alice.address])
                self.assertEqual(smtp.command("DATA")[0], 354)
                smtp.send(HELLO)
                smtp.reset()

        self.assertEqual(self.gained(self.alice, send), [])

    # --- recipients ---------------------------------------------------------------------------

    def test_unknown_recipients(self):
        for options in {}, {"node": 1}:
            code, text = self.replies(f"nobody@{DOMAIN}", **options)
            self.assertEqual((code, text.split()[0]), (550, "5.1.1"))
        code, text = self.replies("alice@elsewhere.example")
        self.assertEqual((code, text.split()[0]), (550, "5.7.1"))

    def test_a_new_account_is_known_at_once(self):
        self.assertEqual(self.replies(f"later@{DOMAIN}")[0], 550)
        self.assertEqual(self.replies(f"later@{DOMAIN}", node=1)[0], 550)
        later = self.account("later")
        self.assertEqual(self.gained(later, lambda: self.deliver(HELLO, later)), [HELLO])

    def test_the_case_of_an_address_does_not_matter(self):
        self.assertEqual(self.gained(self.alice, lambda: self.deliver(
            HELLO, f"ALICE@{DOMAIN.upper()}")), [HELLO])

    def test_plus_addressing(self):
        self.assertEqual(self.gained(self.alice, lambda: self.deliver(
            HELLO, f"alice+news+2026@{DOMAIN}")), [HELLO])
        self.assertEqual(self.replies(f"nobody+news@{DOMAIN}")[0], 550)

    def test_postmaster_without_a_domain_is_answered(self):
        self.assertIn(self.replies("postmaster")[0], (250, 550))

    def test_aliases(self):
        carol = self.account("carol")
        self.fleet.admin("alias", "add", f"all@{DOMAIN}", self.alice.address, carol.address)
        self.fleet.admin("alias", "add", f"more@{DOMAIN}", f"all@{DOMAIN}", self.bob.address)
        for alias, accounts in ("all", [self.alice, carol]), \
                ("more", [self.alice, self.bob, carol]):
            before = len(self.spool_files())
            counts = [len(self.mailbox(account)) for account in accounts]
            self.deliver(HELLO, f"{alias}@{DOMAIN}", node=1)
            self.assertEqual(len(self.spool_files()), before + 1)
            self.assertEqual([len(self.mailbox(account)) for account in accounts],
                             [count + 1 for count in counts])

    def test_an_alias_that_leads_to_itself_ends(self):
        self.fleet.admin("alias", "add", f"loop1@{DOMAIN}", f"loop2@{DOMAIN}")
        self.fleet.admin("alias", "add", f"loop2@{DOMAIN}", f"loop1@{DOMAIN}",
                         self.alice.address)
        self.assertEqual(self.gained(self.alice, lambda: self.deliver(
            HELLO, f"loop1@{DOMAIN}")), [HELLO])

    def test_one_mailbox_gets_one_copy(self):
        self.fleet.admin("alias", "add", f"twice@{DOMAIN}", self.alice.address, self.bob.address)
        self.assertEqual(self.gained(self.alice, lambda: self.deliver(
            HELLO, f"twice@{DOMAIN}", self.alice, f"alice+tag@{DOMAIN}", f"Alice@{DOMAIN}",
            self.alice)), [HELLO])

    def test_catch_all(self):
        self.fleet.admin("domain", "add", "all.test", "--catch-all", self.bob.address)
        self.fleet.admin("account", "add", "named@all.test", "--password-stdin", stdin="secret\n")
        self.assertEqual(self.gained(self.bob, lambda: self.deliver(
            HELLO, "whoever@all.test")), [HELLO])
        self.assertEqual(self.gained(self.bob, lambda: self.deliver(
            HELLO, "named@all.test")), [])

    def test_many_recipients_are_one_file(self):
        accounts = [self.account(f"many{n}") for n in range(10)]
        before = len(self.spool_files())
        self.deliver(HELLO, *accounts)
        self.assertEqual(len(self.spool_files()), before + 1)
        for account in accounts:
            self.assertEqual(self.mailbox(account, node=1), [HELLO])

    def test_a_suspended_account_takes_no_mail(self):
        account = self.account("idle")
        self.deliver(HELLO, account)
        self.fleet.admin("account", "suspend", account.address)
        self.assertEqual(self.replies(account.address)[0], 550)
        self.fleet.admin("account", "resume", account.address)
        self.deliver(HELLO, account, node=1)
        self.assertEqual(len(self.mailbox(account)), 2)

    # --- limits -------------------------------------------------------------------------------

    def test_over_quota(self):
        account = self.account("full", "--quota-messages", "2")
        self.deliver(HELLO, account)
        self.deliver(HELLO, account, node=1)
        self.refused(452, "4.2.2", lambda: self.deliver(HELLO, account))
        with self.pop3(account) as pop3:
            pop3.ok("DELE 1")
            pop3.quit()
        self.deliver(HELLO, account)
        self.assertEqual(len(self.mailbox(account)), 2)

    def test_over_quota_of_octets(self):
        account = self.account("fat", "--quota-octets", "100000")
        self.deliver(sized(60_000), account)
        self.refused(452, "4.2.2", lambda: self.deliver(sized(60_000), account))
        self.deliver(sized(20_000), account)

    def test_a_full_recipient_does_not_get_part_of_a_message(self):
        full = self.account("brimful", "--quota-octets", "10000")
        self.deliver(sized(7_000), full)
        self.assertEqual(self.gained(self.alice, lambda: self.refused(
            452, "4.2.2", lambda: self.deliver(sized(5_000), self.alice, full))), [])

    def test_too_large(self):
        with self.smtp() as smtp:
            code, text = smtp.mail(parameters=" SIZE=1048577")
            self.assertEqual((code, text.split()[0]), (552, "5.3.4"))
            smtp.quit()
        self.assertEqual(self.gained(self.alice, lambda: self.refused(
            552, "5.3.4", lambda: self.deliver(sized(1_048_577), self.alice))), [])
        self.deliver(sized(1_048_576), self.alice)

    def test_too_large_for_one_mailbox(self):
        account = self.account("small", "--max-size", "10000")
        self.refused(552, "5.3.4", lambda: self.deliver(sized(20_000), account))
        self.deliver(sized(9_000), account)
        account = self.account("tiny", "--quota-octets", "10000")  # it will never have room
        self.refused(552, "5.3.4", lambda: self.deliver(sized(20_000), account))

    def test_mail_loop(self):
        received = b"Received: from a by b; Thu, 4 Jun 2026 10:00:00 +0000\r\n"
        self.refused(554, "5.4.6", lambda: self.deliver(received * 101 + HELLO, self.alice))
        self.deliver(received * 99 + HELLO, self.alice)
        self.deliver(HELLO + received * 200, self.alice)  # in the body they are text

    def test_too_many_errors(self):
        with self.smtp() as smtp:
            codes = []
            while not codes or codes[-1] != 421:
                codes.append(smtp.command("NONSENSE")[0])
                self.assertLess(len(codes), 100)
            self.assertTrue(smtp.at_end())

    # --- what is stored -----------------------------------------------------------------------

    def test_trace_header(self):
        with self.smtp(starttls=self.tls) as smtp:
            smtp.deliver(HELLO, [self.alice.address], sender="Some.One+x@example.org")
            smtp.quit()
        with self.pop3(self.alice) as pop3:
            count = pop3.stat()[0]
            served = pop3.retr(count)
            uid = pop3.uidl()[count]
            pop3.quit()
        self.assertTrue(served.startswith(b"Return-Path: <Some.One+x@example.org>\r\n"
                                          b"Received: from client.example ([127.0.0.1])"))
        received = served[:-len(HELLO)]
        self.assertIn(b"with ESMTPS", received)
        self.assertIn(uid.encode(), received)  # the id is the UIDL
        self.assertIn(b"for <" + self.alice.address.encode() + b">", received)

    def test_the_null_sender(self):
        with self.smtp() as smtp:
            smtp.deliver(HELLO, [self.alice.address], sender="")
        with self.pop3(self.alice) as pop3:
            self.assertTrue(pop3.retr(pop3.stat()[0]).startswith(b"Return-Path: <>\r\n"))
            pop3.quit()

    def test_blind_copies_stay_blind(self):
        self.deliver(HELLO, self.alice, self.bob)
        for account, other in (self.alice, self.bob), (self.bob, self.alice):
            with self.pop3(account) as pop3:
                self.assertNotIn(other.address.encode(), pop3.retr(pop3.stat()[0]))
                pop3.quit()

    def test_a_bare_newline_is_no_end_of_data(self):
        """What other servers take for the end of the message stays inside of it, as lines."""
        endings = (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\n.\r")
        for ending in endings:
            smuggled = (b"Subject: one\r\n\r\nfirst" + ending + b"MAIL FROM:<x@example.org>\r\n"
                        b"RCPT TO:<" + self.bob.address.encode() + b">\r\nDATA\r\nsecond\r\n")

            def send():
                with self.smtp() as smtp:
                    smtp.begin([self.alice.address])
                    self.assertEqual(smtp.command("DATA")[0], 354)
                    smtp.send(smuggled + b".\r\n")  # as it is, without dot-stuffing
                    smtp.finish()
                    smtp.quit()

            with self.subTest(ending=ending):
                got = self.gained(self.alice, send)
                self.assertEqual(len(got), 1)
                self.assertTrue(got[0].endswith(b"DATA\r\nsecond\r\n"))
                bare = got[0].replace(b"\r\n", b"")
                self.assertFalse(b"\r" in bare or b"\n" in bare)

    # --- chunks -------------------------------------------------------------------------------

    @staticmethod
    def chunk(client, octets, last=False):
        client.send(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets)

    def test_chunks(self):
        message = sized(600_000)  # more than is collected in memory

        def send():
            with self.smtp() as smtp:
                smtp.begin([self.alice.address])
                for at in range(0, len(message), 70_001):
                    self.chunk(smtp, message[at:at + 70_001])
                    self.assertEqual(smtp.reply()[0], 250)
                self.chunk(smtp, b"", last=True)
                smtp.finish()
                smtp.quit()

        self.assertEqual(self.gained(self.alice, send), [message])

    def test_pipelined_chunks_may_hold_anything(self):
        body = b"a\r\n.\r\nMAIL FROM:<x@example.org>\r\nBDAT 3 LAST\r\n\n.\n\0"

        def send():
            with self.smtp() as smtp:
                smtp.begin([self.alice.address])
                self.chunk(smtp, body[:3])
                self.chunk(smtp, body[3:], last=True)
                smtp.send(b"QUIT\r\n")
                self.assertEqual([smtp.reply()[0] for _ in range(3)], [250, 250, 221])
                self.assertTrue(smtp.at_end())

        stored = body[:-4] + b"\r\n.\r\n\0\r\n"
        self.assertEqual(self.gained(self.alice, send), [stored])

    def test_chunks_that_are_given_up_leave_nothing(self):
        def send():
            with self.smtp() as smtp:
                smtp.begin([self.alice.address])
                self.chunk(smtp, HELLO)
                self.assertEqual(smtp.reply()[0], 250)
                smtp.expect(250, "RSET")
                self.chunk(smtp, HELLO, last=True)
                self.assertEqual(smtp.reply()[0], 503)
                smtp.begin([self.alice.address])
                self.chunk(smtp, HELLO)
                smtp.reply()
                smtp.reset()

        self.assertEqual(self.gained(self.alice, send), [])

    def test_chunks_too_large(self):
        def send():
            with self.smtp() as smtp:
                smtp.begin([self.alice.address])
                self.chunk(smtp, sized(1_000_000))
                self.assertEqual(smtp.reply()[0], 250)
                self.chunk(smtp, sized(100_000))
                self.assertEqual(smtp.reply()[0], 552)
                smtp.deliver(HELLO, [self.alice.address])
                smtp.quit()

        self.assertEqual(self.gained(self.alice, send), [HELLO])

    def test_lmtp_chunks(self):
        def send():
            with self.lmtp() as lmtp:
                lmtp.begin([self.alice.address, self.bob.address])
                self.chunk(lmtp, HELLO[:9])
                self.assertEqual(lmtp.reply()[0], 250)
                self.chunk(lmtp, HELLO[9:], last=True)
                lmtp.finish(2)
                lmtp.quit()

        self.assertEqual(self.gained(self.alice, send), [HELLO])

    # --- addresses in all scripts -------------------------------------------------------------

    def test_a_domain_is_one_in_unicode_and_in_ascii(self):
        self.fleet.admin("domain", "add", "b\u00fccher.test")
        self.fleet.admin("account", "add", "leser@b\u00fccher.test", "--password-stdin",
                         stdin="secret\n")
        user = harness.Account("leser@xn--bcher-kva.test", "secret")

        def send():
            with self.smtp() as smtp:
                smtp.deliver(HELLO, [user.address])
                smtp.mail("j\u00f6rg@example.org", " SMTPUTF8")
                self.assertEqual(smtp.rcpt("Leser@B\u00dcCHER.test")[0], 250)
                self.assertEqual(smtp.rcpt("leser@bu\u0308cher.test")[0], 250)
                smtp.content(HELLO)
                smtp.finish()
                smtp.quit()

        self.assertEqual(self.gained(user, send), [HELLO] * 2)
        with self.pop3(user, utf8=True) as pop3:
            self.assertIn("Return-Path: <j\u00f6rg@example.org>".encode(), pop3.retr(2))
            self.assertIn(b"with UTF8SMTP", pop3.retr(2))

    # --- clients that are none ----------------------------------------------------------------

    def test_a_browser_is_let_go(self):
        with self.smtp(greet=False) as smtp:
            smtp.send(b"POST / HTTP/1.1\r\nHost: mx\r\n\r\nEHLO x\r\nMAIL FROM:<a@b>\r\n")
            self.assertEqual(smtp.reply()[0], 421)
            self.assertTrue(smtp.at_end())

    # --- LMTP -----------------------------------------------------------------------------------

    def test_lmtp_replies_for_each_recipient(self):
        full = self.account("lmtpfull", "--quota-octets", "10000")
        self.deliver(sized(7_000), full)
        counts = [len(self.mailbox(account)) for account in (self.alice, self.bob)]
        with self.lmtp(1) as lmtp:
            self.assertEqual(lmtp.mail()[0], 250)
            codes = [lmtp.rcpt(address)[0] for address in
                     (self.alice.address, f"nobody@{DOMAIN}", full.address, self.bob.address)]
            self.assertEqual(codes, [250, 550, 250, 250])
            lmtp.content(sized(5_000))
            replies = [lmtp.reply() for _ in range(3)]
            self.assertEqual([code for code, _ in replies], [250, 452, 250])
            lmtp.quit()
        self.assertEqual([len(self.mailbox(account)) for account in (self.alice, self.bob)],
                         [count + 1 for count in counts])
        self.assertEqual(len(self.mailbox(full)), 1)

    def test_lmtp_one_copy_but_a_reply_each(self):
        def send():
            with self.lmtp() as lmtp:
                lmtp.deliver(HELLO, [self.alice.address, f"alice+x@{DOMAIN}"])
                lmtp.quit()

        self.assertEqual(self.gained(self.alice, send), [HELLO])

    def test_lmtp_wants_lhlo(self):
        with self.lmtp(greet=False) as lmtp:
            self.assertEqual(lmtp.command("EHLO client.example")[0], 500)
            self.assertEqual(lmtp.mail()[0], 503)
            lmtp.hello()
            self.assertEqual(lmtp.mail()[0], 250)

    # --- the balancer -------------------------------------------------------------------------

    def test_through_the_balancer(self):
        def send():
            for _ in range(4):  # both nodes have their turn
                with Smtp(self.fleet.ports.smtp, starttls=self.tls) as smtp:
                    smtp.deliver(HELLO, [self.alice.address])
                    smtp.quit()

        self.assertEqual(self.gained(self.alice, send), [HELLO] * 4)

    def test_proxy_ports_require_a_header(self):
        port = self.fleet.delivery_nodes[0].ports["smtp_proxy"]
        with self.assertRaises((EOFError, ConnectionError)):
            Smtp(port, preface=b"EHLO client.example\r\n")


class BareNewlineReject(harness.FleetTest):
    settings = {"smtp.bare_newline": "reject"}

    def test_a_bare_newline_is_refused(self):
        account = self.account("strict")
        for bare in b"one\ntwo", b"one\rtwo", b"one\n.\ntwo", b"one\r\n.\rtwo":
            message = b"Subject: bare\r\n\r\n" + bare + b"\r\n"
            with self.subTest(bare=bare), self.smtp() as smtp:
                with self.assertRaises(Refused) as caught:
                    smtp.deliver(message, [account.address])
                self.assertEqual(caught.exception.code, 550)
                smtp.deliver(HELLO, [account.address])  # the session goes on
                smtp.quit()
        self.assertEqual(self.mailbox(account), [HELLO] * 4)


class Xclient(harness.FleetTest):
    settings = {"smtp.xclient": "127.0.0.0/8"}

    def test_the_client_is_the_one_that_the_relay_names(self):
        account = self.account("relayed")
        with self.smtp() as smtp:
            self.assertIn("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
                          smtp.extensions)
            self.assertEqual(smtp.command("XCLIENT ADDR=300.0.0.1")[0], 501)
            smtp.expect(220, "XCLIENT ADDR=IPV6:2001:db8::7 HELO=far.example.org PROTO=SMTP")
            self.assertEqual(smtp.mail()[0], 503)
            smtp.hello()
            smtp.deliver(HELLO, [account.address])
            smtp.quit()
        with self.pop3(account) as pop3:
            message = pop3.retr(1)
        self.assertIn(b"Received: from far.example.org ([IPv6:2001:db8::7])", message)
        self.assertIn(b" with SMTP id", message)

    def test_by_swaks(self):
        account = self.account("swaks")
        port = self.fleet.delivery_nodes[0].ports["smtp"]
        subprocess.run(["swaks", "--server", f"{HOST}:{port}", "--to", account.address, "--from",
                        "a@example.org", "--xclient", "ADDR=192.0.2.9 HELO=swaks.example.org"],
                       check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        with self.pop3(account) as pop3:
            self.assertIn(b"from swaks.example.org ([192.0.2.9])", pop3.retr(1))


if __name__ == "__main__":
    harness.main()
