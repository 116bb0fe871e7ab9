#!/usr/bin/python3 -B
"""Debian's rspamd and opendkim as milters: their verdicts, and that what they sign and verify comes
to them, and through us, octet by octet. That a fleet does what they say is test_gate.py's."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import harness
from milters import GTUBE, Opendkim, Rspamd, directory, own

CLIENT = Path(os.environ["MAILFLEET_BUILD"]) / "tests/system/filter_client"
RECEIVED = b"Received: from client.example.com\r\n by mx.example.org with ESMTP\r\n"


def message(*fields, body=b"Hello\r\n"):
    return b"".join(field + b"\r\n" for field in
                    (b"From: sender@example.com", b"To: user@example.org", b"Subject: test",
                     b"Date: Thu, 01 Jan 2026 00:00:00 +0000", b"Message-ID: <1@example.com>",
                     *fields)) + b"\r\n" + body


class Milters(unittest.TestCase):
    time_limit = 120

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.folder.chmod(0o755)

    def setUp(self):
        self.mine = directory(self.folder / self._testMethodName)

    def start(self, server):
        self.addCleanup(server.stop)
        server.start()
        return server

    def ask(self, text, *milters):
        """The last stage with its verdict, and the message that it made."""
        done = subprocess.run([CLIENT, *milters], input=text, stdout=subprocess.PIPE, check=True)
        stage, _, rest = done.stdout.partition(b"\n")
        while stage.split()[1] == b"accept" and stage.split()[0] != b"end":
            stage, _, rest = rest.partition(b"\n")
        return stage.decode().rstrip(), rest

    def test_rspamd(self):
        server = self.start(Rspamd(self.mine / "rspamd"))
        rspamd, discard, quarantine = server.addresses
        plain, spam = message(), message(body=GTUBE + b"\r\n")
        self.assertEqual(self.ask(plain, rspamd), ("end accept 0", RECEIVED + plain))
        self.assertEqual(self.ask(spam, rspamd), ("end refuse 554 5.7.1 Gtube pattern", b""))
        self.assertEqual(self.ask(message(b"X-Wish: soft reject"), rspamd),
                         ("end defer 451 4.7.1 By the rule of the test", b""))
        self.assertEqual(self.ask(spam, discard), ("end discard 0", b""))
        self.assertEqual(self.ask(spam, quarantine),
                         ("end quarantine 0  Spam message quarantined", RECEIVED + spam))
        stage, changed = self.ask(message(b"X-Wish: headers", b"X-Last: kept  as\r\n\tit is"),
                                  rspamd)
        self.assertEqual(stage, "end accept 0")
        self.assertEqual(changed, RECEIVED + message(
            b"X-Last: kept  as\r\n\tit is",
            b"X-Seen: 192.0.2.1|client.example.com|sender@example.com|user@example.org|01test"))

    def opendkim(self, name, *lines):
        return self.start(Opendkim(self.mine / name, *lines)).address

    def keys(self):
        """A private key, and a file with what the DNS would say of it."""
        key = self.mine / "private.pem"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True,
                       stderr=subprocess.DEVNULL)
        own(key).chmod(0o600)
        public = subprocess.run(["openssl", "rsa", "-in", key, "-pubout"], check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        record = "v=DKIM1; k=rsa; p=" + "".join(public.splitlines()[1:-1])
        (self.mine / "public").write_text(f"test._domainkey.example.com {record}\n")
        return key, self.mine / "public"

    def test_opendkim(self):
        key, public = self.keys()
        signer = self.opendkim("signer", "Mode s", "Domain example.com", "Selector test",
                               f"KeyFile {key}", "InternalHosts 192.0.2.0/24",
                               "Canonicalization simple/simple")
        verifier = self.opendkim("verifier", "Mode v", f"TestPublicKeys {public}",
                                 "AlwaysAddARHeader yes")
        text = message(b"X-Folded:  two\r\n   lines", body=b"one \r\n\r\n\ttwo\r\n" * 20000)
        stage, plain = self.ask(text, verifier)
        self.assertEqual(stage, "end accept 0")
        self.assertTrue(plain.startswith(b"Authentication-Results: mx.example.org; dkim=none"),
                        plain[:300])
        self.assertTrue(plain.endswith(RECEIVED + text))
        # One after the other: the second verifies what the first has inserted.
        stage, signed = self.ask(text, signer, verifier)
        self.assertEqual(stage, "end accept 0")
        self.assertIn(b"\tdkim=pass", signed[:1000])
        self.assertIn(b"\r\nDKIM-Signature: ", signed)
        self.assertTrue(signed.endswith(text))
        # And as it goes on to another host.
        relayed = signed[signed.index(b"DKIM-Signature: "):]
        _, verified = self.ask(relayed, verifier)
        self.assertIn(b"\tdkim=pass", verified[:1000])
        _, verified = self.ask(relayed.replace(b"\ttwo", b"\tTwo", 1), verifier)
        self.assertIn(b"\tdkim=fail", verified[:1000])


if __name__ == "__main__":
    harness.main()
