#!/usr/bin/python3 -B
"""What the DNS says of a fleet: mailfleet dns prints it, NSD loads and serves it, and mailfleet dns
--check finds what was changed, and tells that from servers that fail.

One zone, test, has the hosts of the fleet and its 300 domains. The policies of MTA-STS come from a
web server of the test's own. Settings are those of the command alone: no node knows them.
"""

import hashlib
import http.server
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

import harness
from authority import Authority
from fleet import DOMAIN, HOST
from nsd import Nsd, free_port
from part import ROOT, Owner

DOMAINS = [f"d{n:03}.test" for n in range(299)] + [DOMAIN]  # quickstart.test, which comes last
HEAD = "$TTL 60\n@ SOA ns.test. host.test. 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n"
PUBLIC = {
    "public.mx": "mx1.mail.test, MX2.mail.test:20", "public.pop3s": "pop.mail.test",
    "public.addresses": "mx1.mail.test=192.0.2.25 mx1.mail.test=2001:DB8:0::25 "
                        "mx2.mail.test=198.51.100.25 pop.mail.test=192.0.2.110",
    "public.mta_sts": "enforce", "public.mta_sts_host": "web.mail.test",
    "public.tls_rpt": "mailto:tls@mail.test"}
POLICY = ("version: STSv1\nmode: enforce\nmx: mx1.mail.test\nmx: mx2.mail.test\n"
          "max_age: 604800\n")


class PolicyServer:
    """https on a free port; answer decides by the name that was asked for."""

    def __init__(self, certificate, key):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                host = self.headers["Host"]
                status, kind, body = server.answers.get(host, (200, "text/plain", POLICY))
                if self.path != "/.well-known/mta-sts.txt":
                    status = 404
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if status == 301:
                    self.send_header("Location", f"https://{host}{self.path}?again")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        class Web(http.server.ThreadingHTTPServer):
            request_queue_size = 400
            daemon_threads = True

            def handle_error(self, *_):
                """A client that does not trust us is no news."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.answers = {}
        self.http = Web((HOST, 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True,
                                               do_handshake_on_connect=False)
        self.at = f"{HOST}:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


class Dns(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        cls.files = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.files.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.files, ignore_errors=True)
        cls.authority = Authority(cls.files)
        (cls.files / "tls").mkdir(mode=0o755)
        for name in "mx1.mail.test", "mx2.mail.test", "pop.mail.test":
            (cls.files / f"tls/{name}.pem").write_text("".join(cls.authority.make(f"DNS:{name}")))
        cls.settings = {"tls.directory": cls.files / "tls"}
        cls.zone = cls.files / "test.zone"
        cls.zone.write_text(HEAD)
        cls.nsd = Nsd(Owner(cls.files / "nsd"), "nsd", {"test": cls.zone}, [(HOST, free_port())])
        cls.addClassCleanup(cls.nsd.stop)
        super().setUpClass()
        cls.fleet.sql("INSERT INTO domain (name) VALUES "
                      + ", ".join(f"('{name}')" for name in DOMAINS if name != DOMAIN))
        cls.configs = 0
        cls.public = cls.config()
        cls.records = cls.fleet.run([cls.fleet.admin_program, "--config", cls.public, "dns"],
                                    user=cls.fleet.user)
        for name, names in ("web", [f"mta-sts.{d}" for d in DOMAINS]), ("other", ["other.test"]):
            pair = cls.authority.make(*(f"DNS:{n}" for n in names))
            for kind, text in zip(("pem", "key"), pair):
                (cls.files / f"{name}.{kind}").write_text(text)
        cls.web = PolicyServer(cls.files / "web.pem", cls.files / "web.key")
        cls.addClassCleanup(cls.web.stop)

    def setUp(self):
        self.web.answers.clear()
        self.serve(self.records)

    @classmethod
    def config(cls, **settings):
        """A configuration with [public] and other settings, words of a name with two underscores."""
        cls.configs += 1
        path = cls.files / f"{cls.configs}.conf"
        cls.fleet.write_config(path, {
            **PUBLIC, "dns.servers": f"{HOST}:{cls.nsd.at[0][1]}",
            **{name.replace("__", "."): value for name, value in settings.items()}})
        return path

    def serve(self, records, zones=None):
        """NSD knows these records, and nothing else."""
        self.zone.write_text(HEAD + records)
        self.nsd.zones = {"test": self.zone, **(zones or {})}
        self.nsd.stop()
        self.nsd.up()

    def dns(self, *words, config=None):
        return self.run_admin("--config", config or self.public, "dns", *words)

    def check(self, *words, config=None, policies=True, status=1):
        """What --check finds: {(name, what): (state, expected, found)}."""
        web = ["--policy-from", self.web.at, "--ca", self.authority.certificate]
        done = self.dns("--check", "--json", *(web if policies else ["--no-policy"]), *words,
                        config=config)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.said = done.stderr
        return {(row["name"], row["what"]): (row["state"], row["expected"], row["found"])
                for row in json.loads(done.stdout)}

    def bad(self, words, *names, status=78, **settings):
        done = self.dns(*names, config=self.config(**settings))
        self.assertEqual((done.returncode, done.stdout), (status, ""), settings)
        self.assertIn(words, done.stderr)

    @staticmethod
    def spki(pem):
        """SHA-256 of the public key in a certificate, by the openssl command."""
        key = subprocess.run(["openssl", "x509", "-noout", "-pubkey"], input=pem.encode(),
                             check=True, capture_output=True).stdout
        der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key,
                             check=True, capture_output=True).stdout
        return hashlib.sha256(der).hexdigest()

    # --- what is printed ------------------------------------------------------------------------

    def test_records(self):
        keys = {name: self.spki((self.files / f"tls/{name}.mail.test.pem").read_text())
                for name in ("mx1", "mx2")}
        policy_id = re.search(r'"v=STSv1; id=([0-9a-f]{32});"', self.records)[1]
        lines = self.records.splitlines()
        self.assertEqual(lines[:7], [
            "mx1.mail.test. 3600 IN A 192.0.2.25",
            "mx1.mail.test. 3600 IN AAAA 2001:db8::25",
            f"_25._tcp.mx1.mail.test. 3600 IN TLSA 3 1 1 {keys['mx1']}",
            "mx2.mail.test. 3600 IN A 198.51.100.25",
            f"_25._tcp.mx2.mail.test. 3600 IN TLSA 3 1 1 {keys['mx2']}",
            "pop.mail.test. 3600 IN A 192.0.2.110",
            "d000.test. 3600 IN MX 10 mx1.mail.test."])
        self.assertEqual(lines[-7:], [
            f"{DOMAIN}. 3600 IN MX 10 mx1.mail.test.",
            f"{DOMAIN}. 3600 IN MX 20 mx2.mail.test.",
            f"_pop3s._tcp.{DOMAIN}. 3600 IN SRV 0 1 995 pop.mail.test.",
            f"_pop3._tcp.{DOMAIN}. 3600 IN SRV 0 0 0 .",
            f'_mta-sts.{DOMAIN}. 3600 IN TXT "v=STSv1; id={policy_id};"',
            f"mta-sts.{DOMAIN}. 3600 IN CNAME web.mail.test.",
            f'_smtp._tls.{DOMAIN}. 3600 IN TXT "v=TLSRPTv1; rua=mailto:tls@mail.test"'])
        self.assertEqual(len(lines), 6 + 7 * len(DOMAINS))

    def test_zone_loads(self):
        done = subprocess.run(["/usr/sbin/nsd-checkzone", "test", self.zone], capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("zone test is ok", done.stdout)

    def test_tlsa_is_what_nodes_present(self):
        context = ssl._create_unverified_context()
        for node in self.fleet.delivery_nodes:
            smtp = self.smtp(self.fleet.delivery_nodes.index(node))
            self.addCleanup(smtp.close)
            smtp.expect(220, "STARTTLS")
            tls = context.wrap_socket(smtp.socket, server_hostname="mx2.mail.test")
            self.addCleanup(tls.close)
            pem = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))
            self.assertIn(f"_25._tcp.mx2.mail.test. 3600 IN TLSA 3 1 1 {self.spki(pem)}\n",
                          self.records)

    def test_json(self):
        rows = json.loads(self.dns("--json").stdout)
        self.assertEqual(len(rows), 6 + 7 * len(DOMAINS))
        self.assertEqual(rows[0], {"name": "mx1.mail.test", "type": "A", "ttl": 3600,
                                   "data": "192.0.2.25"})
        self.assertEqual(rows[-1], {"name": f"_smtp._tls.{DOMAIN}", "type": "TXT", "ttl": 3600,
                                    "data": "v=TLSRPTv1; rua=mailto:tls@mail.test"})

    def test_names(self):
        """Those domains, and the hosts in them."""
        done = self.dns("D007.test", "mail.test")
        owners = {line.split()[0] for line in done.stdout.splitlines()}
        self.assertEqual({o for o in owners if not o.endswith("d007.test.")},
                         {"mx1.mail.test.", "mx2.mail.test.", "pop.mail.test.",
                          "_25._tcp.mx1.mail.test.", "_25._tcp.mx2.mail.test."})
        self.assertEqual(len(done.stdout.splitlines()), 6 + 7)
        for name in "nowhere.test", "ail.test":
            done = self.dns("d007.test", name)
            self.assertEqual((done.returncode, done.stdout), (67, ""), name)
            self.assertIn(f"{name}: no domain of ours", done.stderr)

    def test_more_than_a_page(self):
        """Thousands of domains are read in pages; each is there once."""
        self.fleet.sql("INSERT INTO domain (name) SELECT 'p' || n || '.page' "
                       "FROM generate_series(1, 10500) n")
        self.addCleanup(self.fleet.sql, "DELETE FROM domain WHERE name LIKE '%.page'")
        rows = json.loads(self.dns("--json").stdout)
        names = [row["name"] for row in rows if row["type"] == "MX" and row["data"][:2] == "10"]
        self.assertEqual(sorted(names),
                         sorted([*DOMAINS, *(f"p{n}.page" for n in range(1, 10501))]))

    def test_international(self):
        self.fleet.admin("domain", "add", "bücher.test")
        self.addCleanup(self.fleet.admin, "domain", "remove", "bücher.test", "--yes")
        done = self.dns("bücher.test", config=self.config(
            public__mx="mx.grün.test", public__pop3s="", public__mta_sts="off", public__tls_rpt="",
            public__addresses="mx.xn--grn-ioa.test=192.0.2.1"))
        self.assertEqual(done.stdout, "xn--bcher-kva.test. 3600 IN MX 10 mx.xn--grn-ioa.test.\n",
                         done.stderr)

    def test_policy_text(self):
        self.assertEqual(self.dns("--mta-sts").stdout, POLICY)
        self.assertEqual(self.dns("--mta-sts", "d001.test").stdout, POLICY)
        self.assertEqual(self.dns("--mta-sts", config=self.config(public__mta_sts="off"))
                         .returncode, 78)
        other = self.dns("d001.test", config=self.config(public__mta_sts="testing")).stdout
        self.assertNotEqual(re.search("id=[0-9a-f]+", other)[0],
                            re.search("id=[0-9a-f]+", self.records)[0])
        other = self.dns("d001.test", config=self.config(public__mta_sts_id="20261122a")).stdout
        self.assertIn('"v=STSv1; id=20261122a;"', other)

    def test_plain_pop3(self):
        done = self.dns("d001.test", config=self.config(
            public__pop3="pop.mail.test:8110", public__ttl="5m"))
        self.assertIn("_pop3s._tcp.d001.test. 300 IN SRV 0 1 995 pop.mail.test.\n"
                      "_pop3._tcp.d001.test. 300 IN SRV 0 1 8110 pop.mail.test.\n", done.stdout)

    def test_bad_settings(self):
        at = PUBLIC["public.addresses"]
        for words, settings in (
                ("public.mx: mx1: not a full host name", {"public__mx": "mx1"}),
                ("public.mx: 192.0.2.1: not a full", {"public__mx": "192.0.2.1"}),
                ("public.mx: mx1.mail.test:70000: not a", {"public__mx": "mx1.mail.test:70000"}),
                ("mx1.mail.test is there twice", {"public__mx": "mx1.mail.test mx1.mail.test."}),
                ("public.pop3s: pop.mail.test:0:", {"public__pop3s": "pop.mail.test:0"}),
                ("names no host", {"public__mx": "", "public__pop3s": "", "public__mta_sts": "off",
                                   "public__addresses": ""}),
                ("public.addresses has no address of pop", {"public__addresses": at.rsplit(" ", 1)[0]}),
                ("public.addresses: mx1.mail.test: not H", {"public__addresses": "mx1.mail.test"}),
                ("no other setting of [public] names x.test",
                 {"public__addresses": at + " x.test=192.0.2.1"}),
                ("pop.mail.test=192.0.2.300: not an IPv4", {"public__addresses": at + " "
                                                            "pop.mail.test=192.0.2.300"}),
                ("mta_sts needs it", {"public__mta_sts_host": ""}),
                ("mta_sts says nothing without", {"public__mx": ""}),
                ("letters and digits", {"public__mta_sts_id": "a-b"}),
                ("public.tls_rpt: ftp://x", {"public__tls_rpt": "ftp://x"}),
                ("one of off|none|testing|enforce", {"public__mta_sts": "on"}),
                ("dns.servers: nowhere: not an address", {"dns__servers": "nowhere"})):
            with self.subTest(words):
                self.bad(words, "--check", **settings)

    def test_check_reads_them_too(self):
        def row(config):
            [row] = [row for row in json.loads(self.run_admin("--config", config, "check",
                                                              "--json").stdout)
                     if row["what"] == "public"]
            return row["ok"], row["says"]

        self.assertEqual(row(self.public), (True, "4 hosts; mailfleet dns --check asks the DNS"))
        self.assertEqual(row(self.config(public__mx="mx1")),
                         (False, "public.mx: mx1: not a full host name, or one with :PREFERENCE"))

    def test_bad_words(self):
        for words, status in ((["--jobs", "0", "--check"], 65), (["--limit", "x", "--check"], 65),
                              (["--policy-from", "x", "--check"], 65), (["--jobs", "3"], 64),
                              (["--also", "/nowhere"], 78), (["[192.0.2.1]"], 67)):
            done = self.dns(*words)
            self.assertEqual((done.returncode, done.stdout), (status, ""), words)
            self.assertTrue(done.stderr.startswith("mailfleet: "), done.stderr)

    def test_example(self):
        """deploy/dns has what the example configuration makes; only its keys are nobody's."""
        self.fleet.admin("domain", "add", "example.net")
        self.addCleanup(self.fleet.admin, "domain", "remove", "example.net", "--yes")
        text = (ROOT / "deploy/config/mailfleet.conf").read_text()
        section = re.search(r"^\[public\]\n(.*?)^\[", text, re.DOTALL | re.MULTILINE)[1]
        settings = dict(re.findall(r"^(\w+) = (.*)$", section, re.MULTILINE))
        config = self.config(**{f"public__{key}": "" for key in ("pop3", "mta_sts_id")},
                             **{f"public__{key}": value for key, value in settings.items()})
        shown = (ROOT / "deploy/dns/example.net.records").read_text()
        key = re.compile(r"(TLSA 3 1 1) [0-9a-f]{64}$", re.MULTILINE)
        self.assertEqual(key.sub(r"\1", self.dns("example.net", config=config).stdout),
                         key.sub(r"\1", shown))
        done = subprocess.run(["/usr/sbin/nsd-checkzone", "example.net", "example.net.zone"],
                              cwd=ROOT / "deploy/dns", capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    # --- what is found --------------------------------------------------------------------------

    def test_all_right(self):
        self.assertEqual(self.check(status=0), {})
        # Of each domain MX, two SRV, _mta-sts, mta-sts and _smtp._tls; of hosts A, AAAA, TLSA.
        self.assertIn(f"{6 * len(DOMAINS) + 8} sets of records", self.said)
        self.assertIn("no resolver vouched (AD) for 2 TLSA sets", self.said)
        done = self.dns("--check", "--no-policy", "d001.test")
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)

    def test_changes(self):
        changes = {
            "d001.test. 3600 IN MX 20 mx2.mail.test.\n": "",
            "d002.test. 3600 IN MX 20 mx2.mail.test.\n":
                "d002.test. MX 20 mx2.mail.test.\nd002.test. MX 5 spam.test.\n",
            "d003.test. 3600 IN MX 20 mx2.mail.test.": "d003.test. MX 30 mx2.mail.test.",
            "_pop3s._tcp.d004.test. 3600 IN SRV 0 1 995 ": "_pop3s._tcp.d004.test. SRV 0 1 996 ",
            "_pop3._tcp.d005.test. 3600 IN SRV 0 0 0 .\n": "",
            "mta-sts.d006.test. 3600 IN CNAME web.mail.test.": "mta-sts.d006.test. A 192.0.2.80",
            "_smtp._tls.d007.test. 3600 IN TXT": "_smtp._tls.d007.test. TXT \"v=TLSRPTv1; rua=x\"\n"
                                                 "_smtp._tls.d007.test. TXT",
            "mx2.mail.test. 3600 IN A 198.51.100.25\n":
                "mx2.mail.test. A 198.51.100.26\nmx2.mail.test. AAAA 2001:db8::26\n",
        }
        records = re.sub("(_25._tcp.mx1.mail.test. .* 3 1 1) [0-9a-f]*", r"\1 " + "ab" * 32,
                         self.records)
        right = re.search("_25._tcp.mx1.mail.test. .*TLSA (.*)", self.records)[1]
        for old, new in changes.items():
            self.assertEqual(records.count("\n" + old), 1, old)
            records = records.replace("\n" + old, "\n" + new)
        self.serve(records)
        self.assertEqual(self.check(), {
            ("d001.test", "MX"): ("missing", "20 mx2.mail.test.", None),
            ("d002.test", "MX"): ("foreign", None, "5 spam.test."),
            ("d003.test", "MX"): ("differs", "20 mx2.mail.test.", "30 mx2.mail.test."),
            ("_pop3s._tcp.d004.test", "SRV"): ("differs", "0 1 995 pop.mail.test.",
                                               "0 1 996 pop.mail.test."),
            ("_pop3._tcp.d005.test", "SRV"): ("missing", "0 0 0 .", None),
            ("mta-sts.d006.test", "CNAME"): ("missing", "web.mail.test.", None),
            ("_smtp._tls.d007.test", "TXT"): ("foreign", None, "v=TLSRPTv1; rua=x"),
            ("mx2.mail.test", "A"): ("differs", "198.51.100.25", "198.51.100.26"),
            ("mx2.mail.test", "AAAA"): ("foreign", None, "2001:db8::26"),
            ("_25._tcp.mx1.mail.test", "TLSA"): ("differs", right, "3 1 1 " + "ab" * 32)})
        done = self.dns("--check", "--no-policy", "d001.test", "d002.test")
        self.assertEqual(done.returncode, 1)
        rows = [line.split(maxsplit=4) for line in done.stdout.splitlines()]
        self.assertEqual([row[:3] for row in rows], [["NAME", "WHAT", "STATE"],
                                                     ["d001.test", "MX", "missing"],
                                                     ["d002.test", "MX", "foreign"]])

    def test_other_text_records(self):
        """How one is written does not matter, nor what else is there."""
        self.serve(re.sub(r'^(_mta-sts.d001.test.) .*"v=STSv1; (id=\w+);"$',
                          r'\1 TXT "v=STSv1" ";\2"' + "\n" + r'\1 TXT "something else"',
                          self.records, flags=re.MULTILINE))
        self.assertEqual(self.check("d001.test", status=0), {})

    def test_left_over(self):
        """What is no longer meant must go: senders would believe it."""
        config = self.config(public__dane="no", public__mta_sts="off")
        found = self.check("d001.test", "mail.test", config=config)
        self.assertEqual({key: state for key, (state, _, _) in found.items()},
                         {("_25._tcp.mx1.mail.test", "TLSA"): "foreign",
                          ("_25._tcp.mx2.mail.test", "TLSA"): "foreign",
                          ("_mta-sts.d001.test", "TXT"): "foreign"})

    def test_long_answers_come_by_tcp(self):
        many = "".join(f"d001.test. MX 30 {'x' * 60}.{n}.{'y' * 60}.test.\n" for n in range(30))
        self.serve(self.records + many)
        state, _, found = self.check("d001.test")["d001.test", "MX"]
        self.assertEqual((state, len(found.split(", "))), ("foreign", 30))

    def test_limit(self):
        self.serve("")
        self.assertLess(len(self.check("--limit", "50", policies=False)), 50 + 32)
        self.assertIn("stopped after", self.said)

    # --- certificates ---------------------------------------------------------------------------

    def test_certificate_of_another_name(self):
        """A host without one of its own gets the nodes' default, which does not name it."""
        config = self.config(tls__directory="")
        found = self.check("mail.test", config=config)
        self.assertEqual({key: state for key, (state, _, _) in found.items()},
                         {("mx1.mail.test", "certificate"): "differs",
                          ("mx2.mail.test", "certificate"): "differs",
                          ("pop.mail.test", "certificate"): "differs",
                          ("_25._tcp.mx1.mail.test", "TLSA"): "differs",
                          ("_25._tcp.mx2.mail.test", "TLSA"): "differs"})

    def test_next_key(self):
        """Before a key is changed both are published."""
        path = self.files / "next.pem"
        path.write_text(self.authority.make("DNS:mx1.mail.test")[0])
        printed = self.dns("mail.test", "--also", path).stdout
        self.assertEqual(len(re.findall("^_25._tcp.mx1.* TLSA", printed, re.MULTILINE)), 2)
        self.assertEqual(len(re.findall("^_25._tcp.mx2.* TLSA", printed, re.MULTILINE)), 1)
        self.assertIn(f"3 1 1 {self.spki(path.read_text())}\n", printed)
        self.assertEqual(self.check("mail.test", "--also", path),
                         {("_25._tcp.mx1.mail.test", "TLSA"):
                          ("missing", f"3 1 1 {self.spki(path.read_text())}", None)})
        self.serve(printed)
        self.assertEqual(self.check("mail.test", "--also", path, status=0), {})
        path.write_text(self.authority.make("DNS:other.test")[0])
        done = self.dns("mail.test", "--also", path)
        self.assertEqual(done.returncode, 78)
        self.assertIn("names none of public.mx", done.stderr)

    def test_two_kinds_of_key(self):
        """Senders get the one that they can verify, so both are published."""
        folder = self.files / "both"
        folder.mkdir()
        pem = []
        for kind in ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], ["rsa:2048"]:
            key, certificate = self.files / "kind.key", self.files / "kind.pem"
            subprocess.run(["openssl", "req", "-x509", "-noenc", "-newkey", *kind, "-keyout", key,
                            "-out", certificate, "-subj", "/CN=x", "-addext",
                            "subjectAltName=DNS:*.mail.test"], check=True, capture_output=True)
            pem.append(certificate.read_text())
            (folder / f"{kind[0][:3]}.pem").write_text(pem[-1] + key.read_text())
        printed = self.dns("mail.test", config=self.config(tls__directory=folder)).stdout
        self.assertEqual(
            set(re.findall("^_25._tcp.mx2.mail.test. .* TLSA 3 1 1 (.*)$", printed, re.MULTILINE)),
            {self.spki(text) for text in pem})

    # --- policies -------------------------------------------------------------------------------

    def test_policies(self):
        plain = "text/plain"
        crlf = "".join(reversed(POLICY.splitlines(keepends=True))).replace("\n", "\r\n")
        self.web.answers.update({
            "mta-sts.d001.test": (200, f"{plain}; charset=utf-8", crlf),
            "mta-sts.d002.test": (200, plain, POLICY.replace("enforce", "none")),
            "mta-sts.d003.test": (200, plain, POLICY.replace("mx: mx2.mail.test\n", "")),
            "mta-sts.d004.test": (404, plain, ""), "mta-sts.d005.test": (503, plain, ""),
            "mta-sts.d006.test": (301, plain, ""), "mta-sts.d007.test": (200, "text/html", POLICY),
            "mta-sts.d008.test": (200, plain, "x" * 70000)})
        self.assertEqual(self.check(), {
            ("mta-sts.d002.test", "policy"): ("differs", "mode: enforce", "mode: none"),
            ("mta-sts.d003.test", "policy"): ("missing", "mx: mx2.mail.test", None),
            ("mta-sts.d004.test", "policy"): ("differs", None, "status 404"),
            ("mta-sts.d005.test", "policy"): ("unknown", None, "status 503"),
            ("mta-sts.d006.test", "policy"): ("differs", None, "status 301"),
            ("mta-sts.d007.test", "policy"): ("differs", None, "its type is not text/plain"),
            ("mta-sts.d008.test", "policy"): ("differs", None, "longer than 64 KiB")})
        sets = re.search(r"(\d+) sets of records and (\d+) policies are as they should be; 7 findings",
                         self.said)
        self.assertEqual(int(sets[2]), len(DOMAINS) - 7)
        self.assertEqual(self.check(policies=False, status=0), {})
        self.assertIn(f"{sets[1]} sets of records are as they should be; 0 findings", self.said)
        self.check("d005.test", status=75)

    def test_policy_certificate(self):
        web = PolicyServer(self.files / "other.pem", self.files / "other.key")
        self.addCleanup(web.stop)
        done = self.dns("--check", "--json", "d001.test", "--policy-from", web.at, "--ca",
                        self.authority.certificate)
        self.assertEqual(done.returncode, 1, done.stderr)
        [row] = json.loads(done.stdout)
        self.assertEqual((row["what"], row["state"]), ("policy", "differs"))
        self.assertIn("no alternative certificate subject name matches", row["found"])

    def test_policy_server_is_gone(self):
        with socket.socket() as nobody:
            nobody.bind((HOST, 0))
            done = self.dns("--check", "--policy-from", f"{HOST}:{nobody.getsockname()[1]}")
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn("web server does not answer", done.stderr)

    # --- resolvers ------------------------------------------------------------------------------

    def test_resolver_that_validates(self):
        """Asked whether it has validated (RFC 6840, section 5.7), it says so, and is believed."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
            resolver.bind((HOST, 0))
            asked = []

            def forward():
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                    s.connect(self.nsd.at[0])
                    while (question := resolver.recvfrom(512))[0]:
                        asked.append(question[0][3] & 0x20)
                        s.send(question[0])
                        answer = bytearray(s.recv(4096))
                        answer[3] |= asked[-1]
                        resolver.sendto(answer, question[1])

            thread = threading.Thread(target=forward)
            thread.start()
            try:
                config = self.config(dns__servers=f"{HOST}:{resolver.getsockname()[1]}")
                self.assertEqual(self.check("mail.test", config=config, status=0), {})
            finally:
                resolver.sendto(b"", resolver.getsockname())
                thread.join()
        self.assertEqual(set(asked), {0x20})
        self.assertIn("8 sets of records", self.said)
        self.assertNotIn("vouched", self.said)

    # --- servers that fail ----------------------------------------------------------------------

    def test_server_is_gone(self):
        self.nsd.stop()
        found = self.check(policies=False, status=75)
        self.assertEqual({state for state, _, _ in found.values()}, {"unknown"})
        self.assertLess(len(found), 400)
        self.assertIn("the name servers do not answer", self.said)

    def test_server_is_frozen(self):
        self.nsd.signal(signal.SIGSTOP)
        self.addCleanup(self.nsd.signal, signal.SIGCONT)
        found = self.check("d001.test", policies=False, status=75)
        self.assertEqual(len(found), 6)
        self.assertEqual({state for state, _, _ in found.values()}, {"unknown"})

    def test_zone_fails(self):
        """One that the server can't serve is not one that is empty; others are compared."""
        broken = self.files / "broken.zone"
        broken.write_text("this is no zone\n")
        self.serve(self.records, {"d009.test": broken})
        found = self.check(policies=False, status=75)
        self.assertEqual({name for name, _ in found}, {
            "d009.test", "_pop3s._tcp.d009.test", "_pop3._tcp.d009.test", "_mta-sts.d009.test",
            "mta-sts.d009.test", "_smtp._tls.d009.test"})
        self.assertEqual({state for state, _, _ in found.values()}, {"unknown"})
        self.serve(self.records.replace("_pop3._tcp.d008.test. 3600 IN SRV 0 0 0 .\n", ""),
                   {"d009.test": broken})
        self.assertEqual(len(self.check(policies=False, status=1)), 7)


if __name__ == "__main__":
    harness.main()
