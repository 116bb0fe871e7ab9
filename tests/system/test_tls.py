#!/usr/bin/python3 -B
"""TLS as clients and balancers see it: protocols, names, resumption, renewal, client certificates,
and what a PROXY header says of it."""

import contextlib
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
from pathlib import Path

import harness
from authority import Authority, replace
from harness import HOST
from mail import Pop3, Smtp
from proxy import SIGNATURE, proxy_header, tlv


class TlsTest(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        cls.files = Path(tempfile.mkdtemp(prefix="mailfleet-tls-"))
        cls.files.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.files, ignore_errors=True)
        cls.authority = Authority(cls.files)
        cls.directory = cls.files / "names"
        cls.directory.mkdir()
        # The certificate in use is behind a link, as tools that renew them have it.
        cls.turn_link("first", *cls.authority.make("DNS:localhost"))
        cls.settings = {"tls.certificate": cls.files / "now/cert.pem",
                        "tls.key": cls.files / "now/key.pem", "tls.directory": cls.directory,
                        "tls.client_ca": cls.files / "ca.pem", "proxy.trust_tls": "yes"}
        super().setUpClass()
        cls.tls = cls.context()

    @classmethod
    def turn_link(cls, folder, certificate, key):
        """A new folder with both, then the link is turned to it."""
        (cls.files / folder).mkdir()
        for name, text in ("cert.pem", certificate), ("key.pem", key):
            replace(cls.files / folder / name, text)
        (cls.files / "next").symlink_to(folder)
        (cls.files / "next").rename(cls.files / "now")

    @classmethod
    def context(cls, version=None, alpn=None, certificate=None):
        context = ssl.create_default_context(cafile=cls.authority.certificate)
        if version:
            context.minimum_version = context.maximum_version = version
        if alpn:
            context.set_alpn_protocols(alpn)
        if certificate:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
                both.write("".join(certificate))
                both.flush()
                context.load_cert_chain(both.name)
        return context

    def setUp(self):
        self.front_end = self.fleet.front_ends[0]
        self.port = self.front_end.ports["pop3s"]

    def log(self, event, *fields):
        """Lines of the first front-end's log."""
        path = self.fleet.state / "log" / f"{self.front_end.name}.log"
        return [line for line in path.read_text().splitlines()
                if f" {event} " in line and all(field in line for field in fields)]

    def metric(self, node, name):
        text = node.get("/metrics")[0]
        return int(re.search(rf"^mailfleet_{name} (\d+)$", text, re.MULTILINE)[1])

    @contextlib.contextmanager
    def client(self, context, port=None, name="localhost", session=None):
        """Implicit TLS, when the greeting has come."""
        with socket.create_connection((HOST, port or self.port), timeout=20) as plain, \
                context.wrap_socket(plain, server_hostname=name, session=session) as tls:
            greeting = tls.recv(100)
            self.assertTrue(greeting.startswith(b"+OK"), greeting)
            yield tls

    def shown(self, name="localhost"):
        with self.client(self.tls, name=name) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))

    def shown_by(self, node):
        """What any node shows on the port of its own that turns to TLS."""
        opened = (Pop3(node.ports["pop3"], stls=self.tls) if "pop3" in node.ports
                  else Smtp(node.ports["smtp"], starttls=self.tls))
        with opened:
            return ssl.DER_cert_to_PEM_cert(opened.socket.getpeercert(binary_form=True))

    def s_client(self, *options, say=""):
        ended = subprocess.run(["openssl", "s_client", "-connect", f"{HOST}:{self.port}", *options],
                               input=say, text=True, capture_output=True, timeout=60, check=False)
        return ended.stdout + ended.stderr

    # --- protocols --------------------------------------------------------------------------------

    def test_alpn(self):
        for alpn, chosen in (["pop3"], "pop3"), (["h2", "pop3"], "pop3"), (None, None):
            with self.client(self.context(alpn=alpn)) as tls:
                self.assertEqual(tls.selected_alpn_protocol(), chosen)
        for alpn in ["http/1.1"], ["imap"]:
            with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"), \
                    self.client(self.context(alpn=alpn)):
                pass
            with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"):
                Pop3(self.front_end.ports["pop3"], stls=self.context(alpn=alpn))
        node = self.fleet.delivery_nodes[0]
        for name in "smtp", "lmtp":
            with Smtp(node.ports[name], lmtp=name == "lmtp",
                      starttls=self.context(alpn=[name])) as smtp:
                self.assertEqual(smtp.socket.selected_alpn_protocol(), name)
        with self.assertRaisesRegex(ssl.SSLError, "(?i)no.application.protocol"):
            Smtp(node.ports["smtp"], starttls=self.context(alpn=["pop3"]))

    def test_versions(self):
        for option, good in ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True):
            output = self.s_client(option, "-cipher", "DEFAULT@SECLEVEL=0", say="QUIT\n")
            self.assertEqual("Cipher is (NONE)" not in output, good, output)
            if good:
                self.assertIn("Compression: NONE", output)
        self.assertIn("Early data was not sent", self.s_client("-tls1_3", say="QUIT\n"))

    def test_a_client_that_asks_for_renegotiation(self):
        """It is refused, and nobody else hears of it."""
        with self.client(self.tls) as bystander:
            output = self.s_client("-tls1_2", "-crlf", say="R\nNOOP\n")
            self.assertIn("RENEGOTIATING", output)
            self.assertRegex(output, "(?i)no renegotiation")
            bystander.sendall(b"CAPA\r\n")
            self.assertTrue(bystander.recv(100).startswith(b"+OK"))
        self.assertEqual(self.log("worker.died"), [])

    # --- resumption -------------------------------------------------------------------------------

    def test_a_session_is_resumed_on_another_node(self):
        other = self.fleet.front_ends[1]
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            with self.subTest(version=version.name):
                context = self.context(version)
                with self.client(context) as tls:
                    self.assertFalse(tls.session_reused)
                    session = tls.session
                before = self.metric(other, "tls_resumed_total")
                with self.client(context, other.ports["pop3s"], session=session) as tls:
                    self.assertTrue(tls.session_reused)
                self.assertEqual(self.metric(other, "tls_resumed_total"), before + 1)

    def test_a_session_is_not_resumed_by_another_service(self):
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            with self.subTest(version=version.name):
                context = self.context(version)
                with self.client(context) as tls:
                    session = tls.session
                with Smtp(self.fleet.delivery_nodes[0].ports["smtp"]) as smtp:
                    smtp.expect(220, "STARTTLS")
                    with context.wrap_socket(smtp.socket, server_hostname="localhost",
                                             session=session) as tls:
                        self.assertFalse(tls.session_reused)

    # --- certificates -----------------------------------------------------------------------------

    def renewed(self, event, times, *fields):
        """So often a node has told of it since the test began; both front-ends by themselves."""
        self.eventually(30, lambda: self.assertEqual(len(self.log(event, *fields)), times))

    def test_names_come_and_go_by_themselves(self):
        one, two = self.authority.make("DNS:*.one.test"), self.authority.make("DNS:two.test")
        normal, good = self.shown(), len(self.log("tls.reloaded"))
        replace(self.directory / "one.pem", "".join(one))
        self.renewed("tls.reloaded", good + 1)
        replace(self.directory / "two.pem", "".join(reversed(two)))
        self.renewed("tls.reloaded", good + 2, "certificates=")
        self.assertEqual(self.shown("mail.one.test"), one[0])
        self.assertEqual(self.shown("two.test"), two[0])
        self.assertEqual(self.shown(), normal)

        replace(self.directory / "bad.pem", "not a certificate\n")
        self.renewed("tls.bad", 1, "bad.pem")
        self.assertEqual(self.shown("two.test"), two[0])
        (self.directory / "bad.pem").unlink()
        (self.directory / "one.pem").unlink()
        self.renewed("tls.reloaded", good + 3)
        self.assertEqual(len(self.log("tls.bad", "bad.pem")), 1)
        self.assertEqual(self.shown("two.test"), two[0])
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.shown("mail.one.test")

    def test_a_link_is_turned(self):
        new, good = self.authority.make("DNS:localhost"), len(self.log("tls.reloaded"))
        self.turn_link("second", *new)
        self.renewed("tls.reloaded", good + 1)
        self.assertEqual(self.shown(), new[0])

        # In place, one after the other with time between: what does not fit is not taken.
        old, new = new, self.authority.make("DNS:localhost")
        replace(self.files / "second/cert.pem", new[0])
        self.renewed("tls.bad", 1, "key.pem: ")
        self.assertEqual(self.shown(), old[0])
        replace(self.files / "second/key.pem", new[1])
        self.renewed("tls.reloaded", good + 2)
        self.assertEqual(self.shown(), new[0])
        # Each node looks at times of its own, and may have seen fewer steps on the way.
        for node in self.fleet.front_ends + self.fleet.delivery_nodes:
            self.eventually(30, lambda node=node: self.assertEqual(self.shown_by(node), new[0]))

    # --- client certificates ----------------------------------------------------------------------

    def handshakes_failed(self):
        """Counted each, while the log has a line a second."""
        return int(re.search(r"^mailfleet_tls_errors_total (\d+)$",
                             self.front_end.get("/metrics")[0], re.MULTILINE)[1])

    def test_client_certificates(self):
        good = self.authority.make("email:alice@quickstart.test")
        with self.client(self.context(certificate=good)):
            pass
        with tempfile.TemporaryDirectory() as folder:
            stranger = Authority(Path(folder)).make("email:alice@quickstart.test")
        failed = self.handshakes_failed()
        with self.assertRaises((ssl.SSLError, ConnectionError)), \
                self.client(self.context(certificate=stranger)):
            pass
        self.eventually(20, lambda: self.assertEqual(self.handshakes_failed(), failed + 1))
        # The delivery node asks for none.
        Smtp(self.fleet.delivery_nodes[0].ports["smtp"],
             starttls=self.context(certificate=stranger)).close()

    # --- PROXY ------------------------------------------------------------------------------------

    def said_of_tls(self, header, source="192.0.2.7"):
        """What the log tells of a session behind this header."""
        count = len(self.log("pop3.session"))
        with Pop3(self.front_end.ports["pop3_proxy"], preface=header) as pop3:
            pop3.ok("QUIT")
        self.eventually(20, lambda: self.assertEqual(len(self.log("pop3.session")), count + 1))
        line = self.log("pop3.session")[-1]
        self.assertIn(f"peer={source} ", line)
        self.assertEqual("proxy_id=" in line, tlv(0x05, b"by-hand") in header)
        return re.search(r'tls=("[^"]*"|\S*)', line)[1].strip('"')

    def test_header_by_hand(self):
        version, cipher = tlv(0x21, b"TLSv1.2"), tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256")
        came_by_tls = tlv(0x20, b"\x01\0\0\0\0" + version + cipher)
        self.assertEqual(self.said_of_tls(proxy_header(tlvs=came_by_tls)),
                         "TLSv1.2 ECDHE-RSA-AES128-GCM-SHA256")
        self.assertEqual(self.said_of_tls(proxy_header(tlvs=tlv(0x20, b"\0\0\0\0\1"))), "")
        self.assertEqual(self.said_of_tls(proxy_header(tlvs=tlv(0x05, b"by-hand"))), "")
        self.assertRegex(self.log("pop3.session")[-1], r" proxy_id=by-hand( |$)")
        local = SIGNATURE + struct.pack("!BBH", 0x20, 0, len(came_by_tls)) + came_by_tls
        self.assertEqual(self.said_of_tls(local, HOST), "")
        self.assertEqual(self.said_of_tls(b"PROXY UNKNOWN of whatever kind\r\n", HOST), "")
        for wrong in tlv(0x03, b"\0\0\0\0"), tlv(0x20, b"\1"), tlv(0x05, b"x" * 129), b"\x05\0":
            with self.subTest(wrong=wrong[:4]), self.assertRaises((EOFError, OSError)):
                Pop3(self.front_end.ports["pop3_proxy"], preface=proxy_header(tlvs=wrong))

    def test_tls_ends_at_haproxy(self):
        """All that HAProxy can put into its header is taken."""
        with tempfile.TemporaryDirectory(prefix="mailfleet-haproxy-") as folder:
            port = self.haproxy(Path(folder))
            for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
                count = len(self.log("pop3.session"))
                with self.client(self.context(version, certificate=self.authority.make(
                        "email:bob@quickstart.test")), port) as tls:
                    cipher = tls.cipher()[0]
                    tls.sendall(b"QUIT\r\n")
                    tls.recv(100)
                self.eventually(20, lambda count=count: self.assertEqual(
                    len(self.log("pop3.session")), count + 1))
                name = str(version.name).replace("_", ".")
                self.assertIn(f'tls="{name} {cipher}"', self.log("pop3.session")[-1])

    def haproxy(self, folder):
        """A balancer that ends TLS, in front of the plain port; its port."""
        both = folder / "both.pem"
        both.write_text("".join(self.authority.make("DNS:localhost")))
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        config = folder / "haproxy.cfg"
        config.write_text(f"""
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
listen pop3s
    bind {HOST}:{port} ssl crt {both} ca-file {self.authority.certificate} verify optional alpn pop3
    server node {HOST}:{self.front_end.ports["pop3_proxy"]} send-proxy-v2 proxy-v2-options """
                          "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id\n")
        log = open(folder / "log", "w")
        self.addCleanup(log.close)
        process = subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", config], stdout=log,
                                   stderr=log, env=dict(os.environ))
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        self.eventually(20, lambda: socket.create_connection((HOST, port)).close())
        return port


if __name__ == "__main__":
    harness.main()
