#!/usr/bin/python3 -B
"""Programs that people use, as they come with Debian: msmtp, curl, swaks and Python send; curl,
fetchmail, mpop, getmail, s-nail and Python read; openssl talks. Each over TLS with the fleet's own
authority, through the balancer. Postfix has a test of its own."""

import poplib
import smtplib
import subprocess
from urllib.parse import quote

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

    def test_mpop_reads(self):
        user = self.account("mpop")
        self.deliver(MESSAGE, user)
        maildir = self.folder / "mpop-mail"
        for folder in ("cur", "new", "tmp"):
            (maildir / folder).mkdir(parents=True)
        config = self.private("mpoprc", f"""
            account default
            host localhost
            port {self.fleet.ports.pop3}
            tls on
            tls_starttls on
            tls_trust_file {self.fleet.ca}
            user {user.address}
            password {user.password}
            auth plain
            keep on
            delivery maildir {maildir}
            uidls_file {self.folder}/mpop-uidls
            received_header off
            """)
        self.run_client("mpop", "-C", config)
        [path] = (maildir / "new").iterdir()
        self.assertEqual(without_trace(path.read_bytes().replace(b"\n", b"\r\n")), MESSAGE)
        self.run_client("mpop", "-C", config)  # what it has seen, it knows by UIDL
        self.assertEqual(len(list((maildir / "new").iterdir())), 1)

    def test_getmail_drains(self):
        user = self.account("getmail")
        self.deliver(MESSAGE, user)
        box, rc = self.folder / "getmail.mbox", self.folder / "getmail"
        rc.mkdir()  # a child that ends before getmail waits for it is waited for for a minute
        (rc / "getmailrc").write_text(f"""
[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = {self.fleet.ports.pop3s}
username = {user.address}
password = {user.password}
ca_certs = {self.fleet.ca}
[destination]
type = MDA_external
path = /bin/sh
arguments = ("-c", "cat >> '{box}'; sleep 0.3")
unixfrom = false
allow_root_commands = true
[options]
delete = true
delivered_to = false
received = false
""")
        self.run_client("getmail", "--getmaildir", rc)
        self.assertIn(b"\n.a dot in front\n..two\n.\n", box.read_bytes())
        self.assertEqual(self.mailbox(user), [])

    def test_s_nail_reads(self):
        user = self.account("nail")
        self.deliver(MESSAGE, user)
        box = self.folder / "nail.mbox"
        login = f"{quote(user.address, safe='')}:{quote(user.password, safe='')}"
        self.run_client("s-nail", "-:/", "-Sv15-compat", f"-Stls-ca-file={self.fleet.ca}",
                        "-Stls-ca-no-defaults", "-Stls-verify=strict", "-R", "-f",
                        f"pop3s://{login}@localhost:{self.fleet.ports.pop3s}",
                        stdin=f"copy 1 {box}\nxit\n".encode())
        self.assertIn(b"\n.a dot in front\n..two\n.\n", box.read_bytes())

    def test_swaks_sends(self):
        user = self.account("swaks")
        told = self.run_client("swaks", "--server", harness.HOST, "--port",
                               str(self.fleet.ports.smtp), "--tls", "--to", user.address,
                               "--from", "carol@example.org", "--data", "-", "--suppress-data",
                               stdin=MESSAGE)
        self.assertIn(b"TLS started", told)
        self.assertEqual(len(self.mailbox(user)), 1)

    def test_python_sends_and_reads(self):
        user = self.account("python")
        with smtplib.SMTP(harness.HOST, self.fleet.ports.smtp, timeout=30) as smtp:
            smtp.starttls(context=self.tls)
            smtp.sendmail("carol@example.org", [user.address], MESSAGE)
        pop3 = poplib.POP3("localhost", self.fleet.ports.pop3, timeout=30)
        self.assertIn("STLS", pop3.capa())
        pop3.stls(self.tls)
        pop3.user(user.address)
        pop3.pass_(user.password)
        lines = pop3.retr(1)[1]
        self.assertEqual(without_trace(b"".join(line + b"\r\n" for line in lines)), MESSAGE)
        self.assertEqual(pop3.stat()[0], 1)
        pop3.dele(1)
        pop3.quit()
        self.assertEqual(self.mailbox(user), [])

    def test_openssl_talks(self):
        user = self.account("openssl")
        self.deliver(MESSAGE, user)
        for port, words in ((self.fleet.ports.pop3s, []),
                            (self.fleet.ports.pop3, ["-starttls", "pop3"])):
            told = self.run_client(
                "openssl", "s_client", "-quiet", "-crlf", "-verify_return_error", "-CAfile",
                self.fleet.ca, "-connect", f"localhost:{port}", *words,
                stdin=f"USER {user.address}\nPASS {user.password}\nSTAT\nQUIT\n".encode())
            self.assertRegex(told, rb"\+OK 1 \d+\r\n\+OK")
        told = self.run_client("openssl", "s_client", "-quiet", "-crlf", "-CAfile", self.fleet.ca,
                               "-verify_return_error", "-starttls", "smtp", "-connect",
                               f"localhost:{self.fleet.ports.smtp}",
                               stdin=b"EHLO client.example\nQUIT\n")
        self.assertIn(b"\r\n221 2.0.0 ", told)


if __name__ == "__main__":
    harness.main()
