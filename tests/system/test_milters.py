#!/usr/bin/python3 -B
"""Debian's rspamd, opendkim and clamav-milter: their verdicts, and that what they sign, verify and
scan comes to them, and through us, octet by octet. That a fleet does what they say is
test_gate.py's."""

import base64
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import harness
from milters import GTUBE, VIRUS, Clamav, Clamd, Opendkim, Rspamd, directory, own

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

    def clamav(self, name, *lines):
        return self.start(Clamav(self.mine / name, self.clamd, *lines)).address

    def scanned(self, status, text):
        """A message as clamav-milter leaves it."""
        head, body = text.split(b"\r\n\r\n", 1)
        return re.compile(rb"\A%b\r\nX-Virus-Scanned: clamav-milter [^\r]+ at mx\.example\.org\r\n"
                          rb"X-Virus-Status: %b\r\n\r\n%b\Z"
                          % tuple(re.escape(part) for part in (RECEIVED + head, status, body)))

    def test_clamav(self):
        self.clamd = self.start(Clamd(self.mine / "clamd"))
        reject = self.clamav("reject", "OnInfected Reject", "RejectMsg Infected with %v")
        wordless = self.clamav("wordless", "OnInfected Reject")
        quarantine = self.clamav("quarantine", "OnInfected Quarantine")
        plain, infected = message(), message(body=b"This is:\r\n" + VIRUS + b"\r\n")

        stage, marked = self.ask(plain, reject)
        self.assertEqual(stage, "end accept 0")
        self.assertRegex(marked, self.scanned(b"Clean", plain))
        # A sender's own claims are gone.
        stage, marked = self.ask(message(b"X-Virus-Status: Clean", b"X-Virus-Scanned: me",
                                         b"x-virus-status: Clean (indeed)"), reject)
        self.assertEqual(stage, "end accept 0")
        self.assertRegex(marked, self.scanned(b"Clean", plain))

        refusal = f"end refuse 550 5.7.1 Infected with {Clamd.NAME}"
        self.assertEqual(self.ask(infected, reject), (refusal, b""))
        self.assertEqual(self.ask(infected, wordless), ("end refuse 0", b""))
        # At the end of an attachment that takes many packets: it has to come as it is.
        attached = base64.encodebytes(bytes(range(256)) * 8192 + VIRUS).replace(b"\n", b"\r\n")
        fields = (b"MIME-Version: 1.0", b"Content-Type: application/octet-stream",
                  b"Content-Transfer-Encoding: base64")
        self.assertEqual(self.ask(message(*fields, body=attached), reject), (refusal, b""))

        stage, marked = self.ask(infected, quarantine)
        self.assertEqual(stage, "end quarantine 0  quarantined by clamav-milter")
        self.assertRegex(marked, self.scanned(b"Infected (%b)" % Clamd.NAME.encode(), infected))

        self.clamd.stop()  # what could not be scanned is not accepted
        for text in plain, infected:
            for milter in reject, quarantine:
                self.assertEqual(self.ask(text, milter), ("end defer 0", b""))


if __name__ == "__main__":
    harness.main()
