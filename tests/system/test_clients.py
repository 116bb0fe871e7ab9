#!/usr/bin/python3 -B
"""Programs that people use, as they come with Debian: msmtp and curl send, curl and fetchmail read,
each over TLS with the fleet's own authority, through the balancer."""

import subprocess

import harness
from mail import without_trace

MESSAGE = (b"From: Carol <carol@example.org>\r\nSubject: for real\r\n\r\n"
           b".a dot in front\r\n..two\r\n.\r\nr\xc3\xa9sum\xc3\xa9\r\n" + b"long " * 150 + b"\r\n")


class Clients(harness.FleetTest):
    def run_client(self, *argv, stdin=b""):
        done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 0, (argv, done.stderr))
        return done.stdout

    def curl(self, url, account=None, *words, stdin=b""):
        login = ["-u", f"{account.address}:{account.password}"] if account else []
        return self.run_client("curl", "-sS", "--cacert", self.fleet.ca, "--ssl-reqd", *login,
                               *words, url, stdin=stdin)

    def private(self, name, text):
        """A client's configuration, which may hold a password."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def test_msmtp_sends(self):
        user = self.account("msmtp")
        config = self.private("msmtprc", f"""
            account default
            host {harness.HOST}
            port {self.fleet.ports.smtp}
            tls on
            tls_starttls on
            tls_trust_file {self.fleet.ca}
            from carol@example.org
            set_date_header off
            set_msgid_header off
            """)
        self.run_client("msmtp", "-C", config, user.address, stdin=MESSAGE.replace(b"\r\n", b"\n"))
        self.assertEqual(self.mailbox(user), [MESSAGE])

    def test_curl_sends_and_reads(self):
        user = self.account("curl")
        smtp = f"smtp://{harness.HOST}:{self.fleet.ports.smtp}/client.example"
        self.curl(smtp, None, "--mail-from", "carol@example.org", "--mail-rcpt", user.address,
                  "-T", "-", stdin=MESSAGE)
        for url in (f"pop3://{harness.HOST}:{self.fleet.ports.pop3}",
                    f"pop3s://{harness.HOST}:{self.fleet.ports.pop3s}"):
            served = self.curl(f"{url}/1", user)
            self.assertEqual(without_trace(served), MESSAGE)
            self.assertEqual(self.curl(f"{url}/", user), b"1 %d\r\n" % len(served))

    def test_fetchmail_drains(self):
        user = self.account("fetchmail")
        for n in range(3):
            self.deliver(b"Subject: %d\r\n\r\n" % n + MESSAGE, user, node=n % 2)
        fetched = self.folder / "fetched"
        config = self.private("fetchmailrc", f"""
            poll localhost protocol pop3 port {self.fleet.ports.pop3s}
                user "{user.address}" password "{user.password}"
                ssl sslcertck sslcertfile "{self.fleet.ca}"
                mda "cat >> {fetched}" fetchall no rewrite
            """)
        self.run_client("fetchmail", "-f", config, "--idfile", self.folder / "fetchids",
                        "--pidfile", self.folder / "fetchmail.pid")
        text = fetched.read_bytes()
        self.assertEqual([text.count(b"\nSubject: %d\n" % n) for n in range(3)], [1, 1, 1])
        self.assertEqual(text.count("\nrésumé\n".encode()), 3)
        self.assertEqual(self.mailbox(user, 1), [])


if __name__ == "__main__":
    harness.main()
