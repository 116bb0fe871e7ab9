#!/usr/bin/python3 -B
"""POP3 as a client meets it: every command, exclusive access, snapshots, and deletes at QUIT."""

import base64
import email
import email.policy
import poplib
import socket
import struct
import time

import harness
from harness import HOST
from mail import Pop3, plain, without_trace

HELLO = b"Subject: hello\r\n\r\nhello\r\n"


def proxy_header(source="192.0.2.7"):
    """A PROXY v2 header of a TCP connection over IPv4."""
    addresses = socket.inet_aton(source) + socket.inet_aton(HOST) + struct.pack("!HH", 4711, 110)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


class Pop3Test(harness.FleetTest):
    settings = {"pop3.max_errors": 1000}
    names = 0

    def filled(self, count=3):
        """A new account with messages of different sizes."""
        type(self).names += 1
        account = self.account(f"pop{self.names}")
        for n in range(count):
            self.deliver(b"Subject: %d\r\n\r\n" % n + b"x\r\n" * n, account)
        return account

    def refused(self, pop3, command, code=None):
        """The command is answered -ERR, with this response code; the session goes on."""
        reply = pop3.command(command)
        self.assertTrue(reply.startswith("-ERR"), f"{command}: {reply}")
        if code:
            self.assertTrue(reply.startswith(f"-ERR [{code}]"), f"{command}: {reply}")
        return reply

    def in_use(self, account, node=0):
        with self.pop3(node=node) as pop3:
            pop3.ok(f"USER {account.address}")
            return pop3.command(f"PASS {account.password}").startswith("-ERR [IN-USE]")

    # --- commands ---------------------------------------------------------------------------------

    def test_every_command_by_poplib(self):
        account = self.filled()
        pop3 = poplib.POP3(HOST, self.fleet.front_ends[0].ports["pop3"], timeout=20)
        pop3.stls(context=self.tls)
        pop3.user(account.address)
        pop3.pass_(account.password)
        count, octets = pop3.stat()
        sizes = [int(line.split()[1]) for line in pop3.list()[1]]
        self.assertEqual((count, octets), (3, sum(sizes)))
        self.assertEqual(pop3.list(2), b"+OK 2 %d" % sizes[1])
        uids = [line.split()[1] for line in pop3.uidl()[1]]
        self.assertEqual(len(set(uids)), 3)
        self.assertEqual(pop3.uidl(3), b"+OK 3 " + uids[2])
        self.assertEqual(sum(len(line) + 2 for line in pop3.retr(2)[1]), sizes[1])
        self.assertIn(b"Subject: 1", pop3.top(2, 0)[1])
        self.assertTrue(pop3.noop().startswith(b"+OK"))
        pop3.dele(1)
        pop3.rset()
        self.assertEqual(pop3.stat(), (3, octets))
        self.assertTrue({"TOP", "USER", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"}
                        <= pop3.capa().keys())
        pop3.quit()

    def test_implicit_tls(self):
        account = self.filled(1)
        with Pop3(self.fleet.front_ends[1].ports["pop3s"], tls=self.tls) as pop3:
            self.assertNotIn(b"STLS", pop3.multi("CAPA"))
            pop3.login(account)
            self.assertEqual(pop3.stat()[0], 1)
            pop3.quit()

    def test_stls_and_capa_follow_the_state(self):
        with Pop3(self.fleet.front_ends[0].ports["pop3"]) as pop3:
            self.assertIn(b"STLS", pop3.multi("CAPA"))
            self.refused(pop3, "USER alice")  # no password in the clear
            self.refused(pop3, "AUTH PLAIN " + plain("alice", "secret"))
            pop3.ok("STLS")
            pop3.wrap(self.tls)
            capabilities = pop3.multi("CAPA")
            self.assertNotIn(b"STLS", capabilities)
            self.assertIn(b"SASL PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", capabilities)
            self.refused(pop3, "STLS")

    def test_what_is_said_before_tls_is_not_heard_behind_it(self):
        with Pop3(self.fleet.front_ends[0].ports["pop3"]) as pop3:
            pop3.send(b"STLS\r\nCAPA\r\n")
            with self.assertRaises((EOFError, OSError)):
                pop3.reply()
                pop3.wrap(self.tls)
                pop3.reply()

    def test_auth_plain(self):
        account = self.filled(1)
        response = plain(account.address, account.password)
        with self.pop3() as pop3:
            pop3.ok(f"AUTH PLAIN {response}")
            self.assertEqual(pop3.stat()[0], 1)
            pop3.quit()

    def test_auth_plain_with_a_challenge(self):
        account = self.filled(1)
        for response, good in ((plain(account.address, account.password), True), ("*", False),
                               ("not base64!", False), (base64.b64encode(b"x").decode(), False)):
            with self.subTest(response=response[:12]), self.pop3() as pop3:
                pop3.send(b"AUTH PLAIN\r\n")
                self.assertEqual(pop3.line().rstrip(), b"+")
                self.assertEqual(pop3.command(response)[:3], "+OK" if good else "-ER")
                if good:
                    pop3.quit()

    def test_a_response_longer_than_any_command(self):
        with self.pop3() as pop3:
            pop3.send(b"AUTH PLAIN\r\n")
            self.assertEqual(pop3.line().rstrip(), b"+")
            long = base64.b64encode(b"\0alice\0" + b"x" * 9000)  # no password has as many octets
            self.refused(pop3, long.decode())
            pop3.ok("CAPA")

    def test_login_in_utf8(self):
        with self.pop3() as pop3:
            pop3.send("USER jörg@quickstart.test\r\n".encode())
            self.assertTrue(pop3.reply().startswith("+OK"))
            pop3.send("PASS пароль\r\n".encode())
            self.assertTrue(pop3.reply().startswith("-ERR [AUTH]"))
            pop3.send("USER jörg@quickstart.test\r\n".encode("latin-1"))
            self.assertTrue(pop3.reply().startswith("-ERR this is not UTF-8"))

    # --- internationalized messages ---------------------------------------------------------------

    INTERNATIONAL = ("From: Jörg <jörg@bücher.example>\r\nTo: Zoë <zoe@example.org>\r\n"
                     "Subject: Grüße\r\nX-Note: ä\r\nMIME-Version: 1.0\r\n"
                     "Content-Type: text/plain; charset=utf-8\r\n\r\nKörper\r\n.\r\n").encode()

    def internationalized(self):
        """An account with a message that came by SMTPUTF8, and the same by ESMTP."""
        account = self.filled(0)
        for parameters in (" BODY=8BITMIME SMTPUTF8", " BODY=8BITMIME"):
            with self.smtp() as smtp:
                self.assertEqual(smtp.mail(parameters=parameters)[0], 250)
                self.assertEqual(smtp.rcpt(account.address)[0], 250)
                smtp.content(self.INTERNATIONAL)
                smtp.finish()
                smtp.quit()
        return account

    def test_a_client_without_utf8_gets_ascii(self):
        account = self.internationalized()
        with self.pop3(account) as pop3:
            ok = pop3.command("RETR 1")
            served = b"".join(line + b"\r\n" for line in pop3.lines())
            self.assertEqual(ok, f"+OK {len(served)} octets")
            header, body = served.split(b"\r\n\r\n", 1)
            self.assertTrue(header.isascii())
            self.assertEqual(body, "Körper\r\n.\r\n".encode())
            message = email.message_from_bytes(served, policy=email.policy.default)
            self.assertEqual(message["Subject"], "Grüße")
            self.assertEqual(message["To"].addresses[0].display_name, "Zoë")
            self.assertEqual(message["To"].addresses[0].addr_spec, "zoe@example.org")
            self.assertIn("jörg@bücher.example", message["From"].addresses[0].display_name)
            self.assertTrue(message["From"].addresses[0].domain.endswith(".invalid"))
            self.assertIn("UTF8SMTP", message["Received"])
            self.assertNotIn("X-Note", message)
            self.assertEqual(b"\r\n".join(pop3.multi("TOP 1 0")), header + b"\r\n")
            self.assertEqual(without_trace(pop3.retr(2)), self.INTERNATIONAL)
            pop3.quit()
        self.assertIn("\nmailfleet_pop3_converted_total 2\n",
                      self.fleet.front_ends[0].get("/metrics")[0])

    def test_a_client_with_utf8_gets_all_of_it(self):
        account = self.internationalized()
        pop3 = poplib.POP3(HOST, self.fleet.front_ends[0].ports["pop3"], timeout=20)
        pop3.stls(context=self.tls)
        self.assertEqual(pop3.capa()["UTF8"], ["USER"])
        pop3.utf8()
        pop3.user(account.address)
        pop3.pass_(account.password)
        for number in (1, 2):
            served = b"".join(line + b"\r\n" for line in pop3.retr(number)[1])
            self.assertEqual(without_trace(served), self.INTERNATIONAL)
        pop3.quit()

    # --- who may log in ---------------------------------------------------------------------------

    def test_wrong_password_and_unknown_user_look_alike(self):
        account = self.filled(1)
        replies = set()
        for user, password in ((account.address, "wrong"), ("nobody@quickstart.test", "wrong"),
                               ("nobody@elsewhere.example", "wrong")):
            with self.pop3() as pop3:
                self.assertTrue(pop3.command(f"USER {user}").startswith("+OK"))
                replies.add(self.refused(pop3, f"PASS {password}", "AUTH"))
        self.assertEqual(len(replies), 1)

    def test_a_password_may_hold_blanks(self):
        self.fleet.admin("account", "add", "blank@quickstart.test", "--password-stdin",
                         stdin="two words  and more\n")
        with self.pop3() as pop3:
            pop3.ok("USER blank@quickstart.test")
            pop3.ok("PASS two words  and more")
            pop3.quit()

    def test_login_ignores_the_case_of_the_address(self):
        account = self.filled(1)
        with self.pop3() as pop3:
            pop3.ok(f"USER {account.address.upper()}")
            pop3.ok(f"PASS {account.password}")
            pop3.quit()

    def test_too_many_wrong_passwords_end_the_session(self):
        account = self.filled(0)
        with self.pop3() as pop3:
            for _ in range(3):
                pop3.ok(f"USER {account.address}")
                self.refused(pop3, "PASS wrong", "AUTH")
            self.assertTrue(pop3.at_end())

    def test_states(self):
        account = self.filled(1)
        with self.pop3() as pop3:
            for command in ("STAT", "LIST", "UIDL", "RETR 1", "TOP 1 0", "DELE 1", "RSET",
                            f"PASS {account.password}"):
                self.refused(pop3, command)
            pop3.login(account)
            for command in (f"USER {account.address}", f"PASS {account.password}", "STLS",
                            "AUTH PLAIN", "XYZZY", "", "RETR", "DELE", "TOP 1", "TOP", "STAT 1"):
                self.refused(pop3, command)
            self.assertEqual(pop3.stat()[0], 1)
            pop3.quit()

    def test_quit_before_login(self):
        with self.pop3() as pop3:
            pop3.quit()

    def test_pipelining(self):
        account = self.filled()
        with self.pop3() as pop3:
            pop3.send(f"USER {account.address}\r\nPASS {account.password}\r\nSTAT\r\nLIST\r\n"
                      "RETR 3\r\nDELE 1\r\nSTAT\r\nRSET\r\nNOOP\r\nQUIT\r\n".encode())
            pop3.reply(), pop3.reply()
            stat = pop3.reply()
            pop3.reply()
            sizes = [int(line.split()[1]) for line in pop3.lines()]
            self.assertEqual(stat, f"+OK 3 {sum(sizes)}")
            pop3.reply()
            self.assertEqual(sum(len(line) + 2 for line in pop3.lines()), sizes[2])
            pop3.reply()
            self.assertEqual(pop3.reply(), f"+OK 2 {sum(sizes[1:])}")
            self.assertEqual([pop3.reply()[:3] for _ in range(3)], ["+OK"] * 3)
            self.assertTrue(pop3.at_end())

    def test_commands_may_come_octet_by_octet(self):
        account = self.filled(1)
        with self.pop3(account) as pop3:
            for octet in b"noop\r\n":
                pop3.send(bytes([octet]))
            self.assertTrue(pop3.reply().startswith("+OK"))
            pop3.quit()

    def test_an_overlong_command_is_refused(self):
        with self.pop3() as pop3:
            self.refused(pop3, "USER " + "x" * 100_000)
            pop3.quit()

    def test_message_numbers(self):
        account = self.filled()
        numbers = ["0", "4", "-1", "+1", "1x", "x", "1 1", "0x1", "1.0", "00", "4294967297",
                   "9223372036854775809", "18446744073709551617", "-18446744073709551615",
                   "340282366920938463463374607431768211457", "9" * 200]
        with self.pop3(account) as pop3:
            for number in numbers:
                for command in "RETR", "DELE", "LIST", "UIDL":
                    self.refused(pop3, f"{command} {number}")
                if pop3.stat()[0] != 3:
                    self.fail(f"DELE {number} deleted something")
            pop3.quit()

    def test_top_counts(self):
        account = self.filled()
        with self.pop3(account) as pop3:
            for lines in "-1", "+1", "x", "1x", "", "18446744073709551616" * 2:
                self.refused(pop3, f"TOP 1 {lines}")
            for number in "0", "4", "-1", "4294967297":
                self.refused(pop3, f"TOP {number} 1")
            pop3.quit()

    # --- deletes ----------------------------------------------------------------------------------

    def test_deletes_happen_at_quit(self):
        account = self.filled()
        with self.pop3(account) as pop3:
            uids = pop3.uidl()
            sizes = pop3.list()
            pop3.ok("DELE 2")
            self.assertEqual(pop3.stat(), (2, sizes[1] + sizes[3]))
            self.assertEqual(pop3.list(), {1: sizes[1], 3: sizes[3]})
            self.assertEqual(pop3.uidl(), {1: uids[1], 3: uids[3]})
            for command in "DELE 2", "RETR 2", "TOP 2 0", "LIST 2", "UIDL 2":
                self.refused(pop3, command)
            pop3.quit()
        for node in 0, 1:
            with self.pop3(account, node) as pop3:
                self.assertEqual(list(pop3.uidl().values()), [uids[1], uids[3]])
                self.assertEqual(list(pop3.list().values()), [sizes[1], sizes[3]])
                pop3.quit()

    def test_rset_takes_deletes_back(self):
        account = self.filled()
        with self.pop3(account) as pop3:
            stat = pop3.stat()
            for n in 1, 2, 3:
                pop3.ok(f"DELE {n}")
            self.assertEqual(pop3.stat(), (0, 0))
            pop3.ok("RSET")
            self.assertEqual(pop3.stat(), stat)
            pop3.quit()
        self.assertEqual(len(self.mailbox(account, 1)), 3)

    def test_a_session_that_breaks_off_deletes_nothing(self):
        account = self.filled()
        for end in Pop3.close, Pop3.reset:
            pop3 = self.eventually(2, lambda: self.pop3(account))
            pop3.ok("DELE 1")
            end(pop3)
        self.assertEqual(len(self.eventually(2, lambda: self.mailbox(account, 1))), 3)

    def test_all_messages_deleted(self):
        account = self.filled()
        with self.pop3(account) as pop3:
            pop3.send(b"DELE 1\r\nDELE 2\r\nDELE 3\r\nQUIT\r\n")
            self.assertEqual([pop3.reply()[:3] for _ in range(4)], ["+OK"] * 4)
        self.assertEqual(self.mailbox(account, 1), [])

    # --- snapshot ---------------------------------------------------------------------------------

    def test_new_mail_waits_for_the_next_session(self):
        account = self.filled(2)
        with self.pop3(account) as pop3:
            listed, uids = pop3.list(), pop3.uidl()
            self.deliver(HELLO, account, node=1)
            self.assertEqual((pop3.list(), pop3.uidl()), (listed, uids))
            self.refused(pop3, "RETR 3")
            pop3.ok("DELE 1")
            pop3.quit()
        with self.pop3(account, 1) as pop3:
            self.assertEqual(pop3.uidl()[1], uids[2])
            self.assertEqual(pop3.stat()[0], 2)
            self.assertEqual(without_trace(pop3.retr(2)), HELLO)
            pop3.quit()

    def test_unique_ids_stay(self):
        account = self.filled()
        seen = set()
        for node in 0, 1, 0:
            with self.pop3(account, node) as pop3:
                seen.add(tuple(pop3.uidl().values()))
                pop3.quit()
        self.assertEqual(len(seen), 1)

    # --- exclusive access -----------------------------------------------------------------------

    def test_one_session_a_mailbox(self):
        account, other = self.filled(1), self.filled(1)
        with self.pop3(account) as pop3:
            self.assertTrue(self.in_use(account, 0))
            self.assertTrue(self.in_use(account, 1))
            self.assertFalse(self.in_use(other, 1))
            with self.pop3(node=1) as wrong:
                wrong.ok(f"USER {account.address}")
                self.refused(wrong, "PASS wrong", "AUTH")
            self.deliver(HELLO, account)
            pop3.quit()

    def test_the_mailbox_is_free_at_once_however_a_session_ends(self):
        account = self.filled(1)
        self.deliver(b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" * 500_000, account)

        def half_a_command(pop3):
            pop3.send(b"RET")
            pop3.close()

        def in_mid_message(pop3):
            pop3.send(b"RETR 2\r\nRETR 2\r\nRETR 2\r\nRETR 2\r\n")
            pop3.reply()
            pop3.reset()

        def behind_a_command(pop3):
            pop3.send(b"LIST\r\nUIDL\r\nNOOP\r\n")
            pop3.close()

        for end in Pop3.quit, Pop3.close, Pop3.reset, half_a_command, in_mid_message, \
                behind_a_command:
            with self.subTest(end=end.__name__):
                end(self.pop3(account, 0))
                again = self.eventually(2, lambda: self.pop3(account, 1))
                again.quit()

    def test_the_mailbox_is_free_within_30_s_of_a_node_dying(self):
        account = self.filled(1)
        node = self.fleet.front_ends[0]
        pop3 = self.pop3(account, 0)
        node.kill()
        died = time.monotonic()
        self.addCleanup(node.up)
        pop3.close()
        self.eventually(30, lambda: self.pop3(account, 1)).quit()
        print(f"# free after {time.monotonic() - died:.1f} s")

    def test_a_long_session_keeps_its_mailbox(self):
        account = self.filled(1)
        with self.pop3(account, 0) as pop3:
            end = time.monotonic() + 35  # longer than a lease lives by itself
            while time.monotonic() < end:
                self.assertTrue(self.in_use(account, 1))
                time.sleep(1)
            pop3.quit()

    # --- the balancer and its ports ---------------------------------------------------------------

    def test_proxy_ports_require_a_header(self):
        account = self.filled(1)
        port = self.fleet.front_ends[0].ports["pop3_proxy"]
        with Pop3(port, preface=proxy_header(), stls=self.tls) as pop3:
            pop3.login(account)
            pop3.quit()
        with self.assertRaises((EOFError, ConnectionError)):
            Pop3(port, preface=b"CAPA\r\n")
        log = self.fleet.front_ends[0].log
        self.eventually(20, lambda: self.assertIn("192.0.2.7", log.read_text()))

    def test_direct_ports_take_no_header(self):
        with Pop3(self.fleet.front_ends[0].ports["pop3"], preface=proxy_header()) as pop3:
            self.assertTrue(pop3.reply().startswith("-ERR"))

    def test_through_the_balancer(self):
        account = self.filled(1)
        for options in {"stls": self.tls}, {"tls": self.tls}:
            port = self.fleet.ports.pop3s if "tls" in options else self.fleet.ports.pop3
            with Pop3(port, **options) as pop3:
                pop3.login(account)
                self.assertEqual(pop3.stat()[0], 1)
                pop3.quit()


if __name__ == "__main__":
    harness.main()
