#!/usr/bin/python3 -B
"""Postfix as the MTA that sends to us: as the world's MX client over SMTP with TLS, and as a
gateway's LMTP client. It decides by itself what it makes of our extensions and replies."""

import smtplib

import harness
from part import Owner
from postfix import Postfix

PLAIN = (b"From: Carol <carol@example.org>\r\nSubject: by way of Postfix\r\n\r\n"
         b".a dot in front\r\n..two\r\n.\r\n" + b"long " * 150 + b"\r\n")


class SendingMta(harness.FleetTest):
    settings = {"smtp.max_size": "1M"}

    def postfix(self, next_hop, **settings):
        owner = Owner(self.folder / f"mta-{self._testMethodName}")
        for name in ("log", "run"):
            (owner.state / name).mkdir(parents=True)
        postfix = Postfix(owner, harness.free_base_port(), next_hop, self.fleet.ca, **settings)
        postfix.prepare()
        self.addCleanup(postfix.stop)
        postfix.start()
        postfix.wait_ready()
        return postfix

    def mx(self, node=0):
        return f"smtp:[127.0.0.1]:{self.fleet.delivery_nodes[node].ports['smtp']}"

    def lmtp(self, node=0):
        return f"lmtp:inet:127.0.0.1:{self.fleet.delivery_nodes[node].ports['lmtp']}"

    @staticmethod
    def inject(postfix, recipients, message, sender="carol@example.org", options=()):
        with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as smtp:
            smtp.ehlo()
            smtp.sendmail(sender, recipients, message, mail_options=options)

    def served(self, account):
        with self.pop3(account, utf8=True) as pop3:
            return [pop3.retr(n) for n in pop3.list()]

    def arrives(self, account, body, node=0):
        def look():
            served = self.served(account)
            self.assertEqual(len(served), 1)
            self.assertTrue(served[0].endswith(body), served[0][-200:])
            return served[0]

        return self.eventually(60, look)

    def test_mail_comes_by_tls(self):
        user = self.account("mx")
        postfix = self.postfix(self.mx())
        self.inject(postfix, [user.address], PLAIN)
        message = self.arrives(user, PLAIN[PLAIN.index(b"\r\n\r\n"):])
        self.assertIn(b"with ESMTPS", message)
        self.assertEqual(postfix.queue(), [])
        self.assertIn("250 2.0.0", postfix.sent()[0])

    def test_one_transaction_for_many(self):
        users = [self.account(f"many{n}") for n in range(20)]
        postfix = self.postfix(self.mx())
        self.inject(postfix, [u.address for u in users], PLAIN)
        for user in users:
            self.arrives(user, PLAIN[PLAIN.index(b"\r\n\r\n"):])
        self.assertEqual(len(set(postfix.sent())), 1, "one message, one reply for all")

    def test_lmtp_answers_for_each(self):
        users = [self.account(f"lmtp{n}") for n in range(3)]
        postfix = self.postfix(self.lmtp(), lmtp_tls_security_level="encrypt",
                               lmtp_tls_CAfile=self.fleet.ca)
        self.inject(postfix, [u.address for u in users] + ["nobody@" + harness.DOMAIN], PLAIN)
        for user in users:
            message = self.arrives(user, PLAIN[PLAIN.index(b"\r\n\r\n"):])
            self.assertIn(b"with LMTPS", message)
        self.assertEqual(len(postfix.sent()), 3)
        self.assertRegex(postfix.log.read_text(errors="replace"),
                         r"to=<nobody@.*dsn=5\.1\.1, status=bounced")

    def test_smtputf8(self):
        user = self.account("jürgen")
        postfix = self.postfix(self.mx())
        message = "From: Jürgen <carol@example.org>\r\nSubject: Grüße\r\n\r\nhallo\r\n".encode()
        with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as smtp:
            smtp.ehlo()
            smtp.sendmail("carol@example.org", [user.address], message,
                          mail_options=["SMTPUTF8", "BODY=8BITMIME"])
        self.assertIn(b"with UTF8SMTPS", self.arrives(user, b"\r\n\r\nhallo\r\n"))

    def test_too_large_is_not_sent(self):
        user = self.account("large")
        postfix = self.postfix(self.mx())
        self.inject(postfix, [user.address], PLAIN + b"x" * 70 * 20_000)

        def refused():
            self.assertRegex(postfix.log.read_text(errors="replace"),
                             r"status=bounced \(message size \d+ exceeds size limit 1048576")

        self.eventually(60, refused)
        self.assertEqual(self.mailbox(user), [])

    def test_a_dead_mx_is_tried_again(self):
        user = self.account("retry")
        postfix = self.postfix(self.mx(1))
        node = self.fleet.delivery_nodes[1]
        node.stop()
        self.inject(postfix, [user.address], PLAIN)
        self.eventually(30, lambda: self.assertIn("status=deferred", postfix.log.read_text()))
        node.start()
        node.wait_ready()
        self.arrives(user, PLAIN[PLAIN.index(b"\r\n\r\n"):])


if __name__ == "__main__":
    harness.main()
