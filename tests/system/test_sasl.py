#!/usr/bin/python3 -B
"""Every SASL mechanism over the wire: what is offered where, who is let in, what the others are
told, by exchanges made by hand and by mpop, curl and GNU SASL.

A client of a test has an address of its own, by the PROXY ports, wherever failures are counted.
"""

import base64
import contextlib
import functools
import http.server
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import types
import urllib.parse
from pathlib import Path

import harness
from authority import Authority, replace
from fleet import DOMAIN
from harness import HOST
from mail import Pop3
from proxy import BY_TLS, proxy_header
from sasl import (Bearer, GnuSasl, Plain, Says, SClient, Scram, Wrong, XOAuth2, authenticate,
                  certificate_of, closed_port, end_point, mechanisms)

MAX_FAILURES = 4
AUTH, TEMP = "-ERR [AUTH]", "-ERR [SYS/TEMP]"
NONE = "-ERR the mechanism has no such response"  # what says nothing of the password


def in_base64(secret):
    """The three ways a secret looks in base64, by where it begins in what was encoded."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret.encode()).decode().rstrip("=")
        yield encoded[(8 * before + 5) // 6:-1]


class SaslCase(harness.FleetTest):
    names = itertools.count(1)
    hosts = itertools.count(1)

    @classmethod
    def setUpClass(cls):
        cls.secrets = set()  # passwords and tokens: what no log may hold
        super().setUpClass()

    @classmethod
    def end_fleet(cls):
        logs = {log.name: log.read_text(errors="replace")
                for log in (cls.fleet.state / "log").glob("*.log")}
        super().end_fleet()
        if " pop3.session " not in logs["frontend1.log"]:
            raise AssertionError("the log has no session")
        told = [(name, secret) for name, text in logs.items() for secret in cls.secrets
                if any(form in text for form in (secret, *in_base64(secret)))]
        if told:
            raise AssertionError(f"secrets in logs: {told}")

    @classmethod
    def secret(cls, text):
        cls.secrets.add(text)
        return text

    @classmethod
    def someone(cls, *options):
        account = cls.account(f"sasl{next(cls.names)}", *options)
        cls.secret(account.password)
        return account

    @classmethod
    def client(cls):
        """An address that nothing has come from yet."""
        return f"192.0.2.{next(cls.hosts)}"

    @classmethod
    def plain_text(cls, node=0):
        """A session without TLS."""
        return Pop3(cls.fleet.front_ends[node].ports["pop3"])

    @classmethod
    def proxied(cls, source, node=0, **options):
        """A session over STLS from another address."""
        return Pop3(cls.fleet.front_ends[node].ports["pop3_proxy"], preface=proxy_header(source),
                    stls=cls.tls, **options)

    def reply(self, mechanism, exchange, pop3=None, node=0, initial=True):
        """What an exchange comes to, on a connection of its own; a login is ended by QUIT."""
        with pop3 or self.pop3(node=node) as pop3:
            reply = authenticate(pop3, mechanism, exchange, initial)
            if reply.startswith("+OK"):
                pop3.ok("STAT")
                pop3.quit()
            return reply

    def told(self, start, mechanism, exchange, **options):
        reply = self.reply(mechanism, exchange, **options)
        self.assertEqual(reply[:len(start)], start, reply)
        return exchange

    def expect_logged(self, count, *fields):
        """So many logins have these fields, by the log, which comes behind the replies."""
        self.eventually(20, lambda: self.assertEqual(len(self.logged(*fields)), count))

    def logged(self, *fields, node=0):
        """The logins of a front-end with these fields."""
        return [line for line in self.fleet.front_ends[node].log.read_text().splitlines()
                if " pop3.login " in line and all(f" {field}" in line for field in fields)]

    def metric(self, name, node=0):
        text = self.fleet.front_ends[node].get("/metrics")[0]
        return int(re.search(rf"^mailfleet_{name} (\d+)$", text, re.MULTILINE)[1])

    # --- programs that people use -----------------------------------------------------------------

    def mpop(self, *lines, tls=True):
        """Polls an empty mailbox; what it complained of, or None."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "mpoprc")
            config.touch(0o600)
            port = self.fleet.front_ends[0].ports["pop3s" if tls else "pop3"]
            config.write_text("\n".join([
                "account default", "host localhost", f"port {port}",
                f"tls {'on' if tls else 'off'}", "tls_starttls off",
                f"tls_trust_file {self.tls_ca()}", f"delivery mbox {folder}/mbox",
                f"uidls_file {folder}/uidls", *lines, ""]))
            done = subprocess.run(["mpop", "-C", config], capture_output=True, text=True,
                                  timeout=60, check=False)
            return done.stderr or f"{done.returncode}" if done.returncode else None

    def curl(self, *words):
        """Lists an empty mailbox; what it complained of, or None."""
        done = subprocess.run(["curl", "-sS", "--cacert", self.tls_ca(), *words,
                               f"pop3s://localhost:{self.fleet.front_ends[0].ports['pop3s']}/"],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.stderr or f"{done.returncode}" if done.returncode else None

    @classmethod
    def tls_ca(cls):
        return cls.fleet.ca


# --- passwords ------------------------------------------------------------------------------------


class PasswordTest(SaslCase):
    """OAuth and EXTERNAL are wanted, but nothing that they need is there."""

    settings = {"auth.max_failures": MAX_FAILURES, "proxy.trust_tls": "yes",
                "cache.tombstone_ttl": "2s", "auth.scram": "always",
                "auth.mechanisms": "SCRAM-SHA-256-PLUS,SCRAM-SHA-256,SCRAM-SHA-1,PLAIN,"
                                   "OAUTHBEARER,XOAUTH2,EXTERNAL"}

    def scram(self, account, password=None, **options):
        return Scram(account.address, password or account.password, **options)

    # --- what is offered --------------------------------------------------------------------------

    def test_offer(self):
        with self.plain_text() as pop3:
            self.assertEqual(mechanisms(pop3), ["SCRAM-SHA-256", "SCRAM-SHA-1"])
            for name in "PLAIN", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "EXTERNAL", "CRAM-MD5":
                self.assertRegex(pop3.command(f"AUTH {name}"), "^-ERR (?!\\[)")
        with self.pop3() as pop3:
            self.assertEqual(mechanisms(pop3), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256",
                                                "SCRAM-SHA-1", "PLAIN"])

    def test_offer_behind_a_balancer_that_ends_tls(self):
        account = self.someone()
        port = self.fleet.front_ends[0].ports["pop3_proxy"]
        with Pop3(port, preface=proxy_header(tlvs=BY_TLS)) as pop3:
            self.assertEqual(mechanisms(pop3), ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"])
            self.assertNotIn(b"STLS", pop3.multi("CAPA"))
            self.assertIn(b"USER", pop3.multi("CAPA"))
            # A client that could bind, and was not offered it.
            self.assertRegex(authenticate(pop3, "SCRAM-SHA-256", self.scram(account, flag="y")),
                             r"^\+OK")
        with Pop3(port, preface=proxy_header()) as pop3:
            self.assertEqual(mechanisms(pop3), ["SCRAM-SHA-256", "SCRAM-SHA-1"])
            self.assertIn(b"STLS", pop3.multi("CAPA"))

    # --- who is let in ----------------------------------------------------------------------------

    def test_mpop(self):
        account = self.someone()
        for mechanism in "plain", "scram-sha-1", "scram-sha-256":
            login = f"user {account.address}", f"auth {mechanism}"
            self.assertIsNone(self.mpop(*login, f"password {account.password}"))
            self.assertIn("authentication failed", self.mpop(*login, "password wrong"))
            name = f"mechanism={mechanism.upper()}"
            for word in "ok", "denied":
                self.expect_logged(1, f"user={account.address}", name, f"result={word}")
        self.assertIsNone(self.mpop(f"user {account.address}", "auth scram-sha-256",
                                    f"password {account.password}", tls=False))

    def test_gnu_sasl(self):
        account = self.someone()
        for mechanism, initial in itertools.product(("SCRAM-SHA-256", "SCRAM-SHA-1"),
                                                    (True, False)):
            exchange = GnuSasl(mechanism, account.address, account.password)
            self.told("+OK", mechanism, exchange, pop3=self.plain_text(), initial=initial)
            self.assertTrue(exchange.done)

    def test_binding_to_the_exporter(self):
        account = self.someone()
        port = self.fleet.front_ends[0].ports["pop3s"]
        with SClient(port, self.fleet.ca) as pop3:
            exchange = GnuSasl("SCRAM-SHA-256-PLUS", account.address, account.password,
                               pop3.exporter)
            self.assertRegex(authenticate(pop3, "SCRAM-SHA-256-PLUS", exchange), r"^\+OK")
            self.assertTrue(exchange.done)
        with SClient(port, self.fleet.ca) as pop3:  # as by a man in the middle
            exchange = GnuSasl("SCRAM-SHA-256-PLUS", account.address, account.password,
                               bytes(reversed(pop3.exporter)))
            with contextlib.suppress(Wrong):  # GNU SASL does not like to hear e=
                self.assertRegex(authenticate(pop3, "SCRAM-SHA-256-PLUS", exchange), "^-ERR")
            self.assertFalse(exchange.done)

    def test_binding_to_the_certificate(self):
        account = self.someone()
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            tls = ssl.create_default_context(cafile=self.fleet.ca)
            tls.minimum_version = tls.maximum_version = version
            with Pop3(self.fleet.front_ends[0].ports["pop3s"], tls=tls) as pop3:
                binding = end_point(certificate_of(pop3))
                self.assertRegex(authenticate(pop3, "SCRAM-SHA-256-PLUS",
                                              self.scram(account, binding=binding)), r"^\+OK")
                pop3.quit()
        for wrong in end_point(b"another certificate"), ("tls-unique", b"any"), \
                ("tls-exporter", bytes(32)):
            with self.subTest(wrong=wrong[0]):
                self.told(NONE, "SCRAM-SHA-256-PLUS", self.scram(account, binding=wrong))

    def test_binding_of_a_resumed_session(self):
        account = self.someone()
        port = self.fleet.front_ends[1].ports["pop3s"]
        with Pop3(self.fleet.front_ends[0].ports["pop3s"], tls=self.tls) as pop3:
            pop3.login(account)
            session = pop3.socket.session
            pop3.quit()
        again = types.SimpleNamespace(
            wrap_socket=functools.partial(self.tls.wrap_socket, session=session))
        with Pop3(port, tls=again) as pop3:
            self.assertTrue(pop3.socket.session_reused)
            binding = end_point(certificate_of(pop3))
            self.assertRegex(authenticate(pop3, "SCRAM-SHA-256-PLUS",
                                          self.scram(account, binding=binding)), r"^\+OK")
            pop3.quit()

    def test_downgrade(self):
        """Who believes that there is no binding here was told so by somebody in between."""
        account = self.someone()
        for mechanism, name in ("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-1", "sha1"):
            self.told(NONE, mechanism, self.scram(account, name=name, flag="y"))
            self.told("+OK", mechanism, self.scram(account, name=name, flag="n"))
        self.told(NONE, "SCRAM-SHA-256-PLUS", self.scram(account))
        self.told("+OK", "SCRAM-SHA-256", self.scram(account, flag="y"), pop3=self.plain_text())

    def test_odd_messages(self):
        account = self.someone()
        with self.pop3() as pop3:
            for mechanism, words in (("PLAIN", [b"no separator"]), ("PLAIN", [b"\0\0pass"]),
                                     ("SCRAM-SHA-256", [b"n,,"]),
                                     ("SCRAM-SHA-256", [b"n,,n=a,r=\xff"]),
                                     ("SCRAM-SHA-256", [b"n,,n=x=yy,r=abc"])):
                reply = authenticate(pop3, mechanism, Says(*words))
                self.assertRegex(reply, "^-ERR (?!\\[)")
            self.assertRegex(pop3.command("AUTH PLAIN !"), "^-ERR (?!\\[)")
            pop3.send(b"AUTH SCRAM-SHA-256\r\n")
            self.assertEqual(pop3.line(), b"+ ")
            self.assertRegex(pop3.command("*"), "^-ERR (?!\\[)")
            self.assertRegex(authenticate(pop3, "PLAIN", Says(
                f"other\0{account.address}\0{account.password}".encode())), r"^-ERR \[AUTH\]")
            self.assertRegex(authenticate(pop3, "PLAIN", Plain(account.address, account.password),
                                          initial=False), r"^\+OK")
            pop3.quit()

    # --- who is not -------------------------------------------------------------------------------

    def test_wrong_and_unknown_look_alike(self):
        account, other = self.someone(), self.someone()
        keyless = self.someone()
        self.fleet.sql(f"UPDATE account SET scram = '' WHERE addr = '{keyless.address}'")
        said = {}
        for name, node in itertools.product(
                (account.address, other.address, keyless.address, "nobody1@quickstart.test",
                 "nobody2@elsewhere.test", "nobody3"), (0, 1, 0)):
            exchange = Scram(name, "wrong")
            reply = self.reply("SCRAM-SHA-256", exchange, node=node)
            self.assertEqual(len(exchange.steps), 1)  # it came to the proof
            said.setdefault(name, set()).add(
                (exchange.salt, len(exchange.salt), exchange.iterations, reply))
        self.assertEqual([len(each) for each in said.values()], [1] * 6)  # the same each time
        alike = {each[1:] for all_times in said.values() for each in all_times}
        self.assertEqual(len(alike), 1, alike)
        self.assertEqual(len({each[0] for all_times in said.values() for each in all_times}), 6)

    def test_a_hash_alone_is_enrolled(self):
        account = self.someone()
        self.fleet.sql(f"UPDATE account SET scram = '' WHERE addr = '{account.address}'")
        for mechanism, name in ("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-1", "sha1"):
            self.told(AUTH, mechanism, self.scram(account, name=name))
        self.told("+OK", "PLAIN", Plain(account.address, account.password))
        self.eventually(20, lambda: self.told("+OK", "SCRAM-SHA-256", self.scram(account), node=1))
        self.eventually(20, lambda: self.told("+OK", "SCRAM-SHA-1",
                                              self.scram(account, name="sha1"), node=1))

    # --- changes ----------------------------------------------------------------------------------

    def set_password(self, account, config=None):
        """The account with another password."""
        password = self.secret(f"new-{account.password}")
        self.fleet.run([self.fleet.admin_program, "--config", config or self.fleet.config,
                        "account", "passwd", account.address, "--password-stdin"],
                       user=self.fleet.user, stdin=password + "\n")
        return harness.Account(account.address, password)

    def test_a_changed_password_counts_at_once(self):
        account = self.someone()
        for mechanism, name in ("SCRAM-SHA-256", "sha256"), ("SCRAM-SHA-1", "sha1"):
            self.until_cached(account)
            old, account = account, self.set_password(account)
            for node in 1, 0:
                self.told(AUTH, mechanism, self.scram(old, name=name), node=node)
                self.told("+OK", mechanism, self.scram(account, name=name), node=node)

    def test_what_is_cached_is_no_wrong_password(self):
        """The operator's machine does not reach memcached: the old keys are still in there."""
        account = self.someone()
        alone = self.folder / "alone.conf"
        self.fleet.write_config(alone, {"cache.servers": f"{HOST}:{closed_port()}"})
        self.until_cached(account)
        old, account = account, self.set_password(account, alone)
        self.told(TEMP, "SCRAM-SHA-256", self.scram(account), node=0)
        self.told("+OK", "SCRAM-SHA-256", self.scram(account), node=0)
        self.told(AUTH, "SCRAM-SHA-256", self.scram(old), node=1)
        self.expect_logged(1, f"user={account.address}", "result=fault")

    def test_without_the_database_nobody_is_wrong(self):
        account, fresh = self.someone(), self.someone()
        self.until_cached(account)
        for _ in range(2):  # and that there is no such name
            self.told(AUTH, "SCRAM-SHA-256", Scram("nobody@quickstart.test", "wrong"))
        postgres = self.fleet["postgres"]
        self.addCleanup(postgres.up)
        postgres.kill()
        for who in account.address, fresh.address, "nobody@quickstart.test":
            for mechanism, exchange in (("SCRAM-SHA-256", Scram(who, "wrong")),
                                        ("PLAIN", Plain(who, "wrong"))):
                self.told(TEMP, mechanism, exchange)
        postgres.up()
        self.eventually(30, lambda: self.told("+OK", "SCRAM-SHA-256", self.scram(account)))

    # --- guessing ---------------------------------------------------------------------------------

    def test_guesses_by_scram_are_counted(self):
        account, known, client = self.someone(), self.someone(), self.client()
        self.told("+OK", "PLAIN", Plain(known.address, known.password),
                  pop3=self.proxied(client))
        for n in range(MAX_FAILURES):
            self.told(AUTH, "SCRAM-SHA-256", self.scram(account, f"wrong {n}"),
                      pop3=self.proxied(client, n % 2))
        blocked = self.metric("pop3_login_blocked_total")
        for mechanism, exchange in (
                ("SCRAM-SHA-256", self.scram(account)),
                ("SCRAM-SHA-1", self.scram(account, name="sha1"))):
            self.told(TEMP, mechanism, exchange, pop3=self.proxied(client))
        self.assertEqual(self.metric("pop3_login_blocked_total"), blocked + 2)
        # One account's old password in some program keeps nobody else out.
        self.told("+OK", "SCRAM-SHA-256", self.scram(known), pop3=self.proxied(client))
        self.told("+OK", "PLAIN", Plain(known.address, known.password),
                  pop3=self.proxied(client, 1))
        self.told("+OK", "SCRAM-SHA-256", self.scram(account), pop3=self.proxied(self.client()))

    def test_proofs_at_once_are_no_more_than_one_after_the_other(self):
        account, client = self.someone(), self.client()
        sessions = [self.proxied(client, n % 2) for n in range(3 * MAX_FAILURES)]
        proofs = []
        for n, pop3 in enumerate(sessions):
            scram = self.scram(account, account.password if pop3 is sessions[-1] else f"wrong {n}")
            pop3.send(b"AUTH SCRAM-SHA-256 " + base64.b64encode(scram.respond(None)) + b"\r\n")
            line = pop3.line()
            self.assertTrue(line.startswith(b"+ "), line)
            proofs.append(base64.b64encode(scram.respond(base64.b64decode(line[2:]))) + b"\r\n")
        for pop3, proof in zip(sessions[:-1], proofs):
            pop3.send(proof)
        replies = [pop3.line().decode() for pop3 in sessions[:-1]]
        self.assertEqual([sum(reply.startswith(start) for reply in replies)
                          for start in (AUTH, TEMP)],
                         [MAX_FAILURES, len(replies) - MAX_FAILURES], replies)
        sessions[-1].send(proofs[-1])  # the right one, which began with the others
        self.assertEqual(sessions[-1].line().decode()[:len(TEMP)], TEMP)
        for pop3 in sessions:
            pop3.close()
        self.told("+OK", "SCRAM-SHA-256", self.scram(account), pop3=self.proxied(self.client()))

    def test_exchanges_that_are_left_are_no_guesses(self):
        account, client = self.someone(), self.client()
        for _ in range(2 * MAX_FAILURES):
            with self.proxied(client) as pop3:
                first = base64.b64encode(self.scram(account).respond(None))
                pop3.send(b"AUTH SCRAM-SHA-256 " + first + b"\r\n")
                self.assertTrue(pop3.line().startswith(b"+ "))
        self.told("+OK", "SCRAM-SHA-256", self.scram(account), pop3=self.proxied(client))

    # --- names ------------------------------------------------------------------------------------

    def test_a_name_in_unicode(self):
        """The account's domain is stored as DNS has it; people write it as they read it."""
        self.fleet.admin("domain", "add", "bücher.example")
        name, stored = "User@Bücher.example", "user@xn--bcher-kva.example"
        password = self.secret(self.fleet.add_account("user@bücher.example"))
        for written in name, stored:
            with self.pop3() as pop3:
                pop3.ok(f"USER {written}")
                pop3.ok(f"PASS {password}")
                pop3.quit()
            self.told("+OK", "PLAIN", Plain(written, password))
            for mechanism in "SCRAM-SHA-256", "SCRAM-SHA-1":
                self.told("+OK", mechanism, GnuSasl(mechanism, written, password))
        self.expect_logged(8, f"user={stored}", "result=ok")
        self.told(AUTH, "SCRAM-SHA-256", Scram("user@bücher.example", "wrong"))
        self.told(AUTH, "PLAIN", Plain("user@büchér.example", password))


# --- tokens ---------------------------------------------------------------------------------------


class Endpoint(http.server.ThreadingHTTPServer):
    """An authorization server's introspection (RFC 7662), on loopback."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__((HOST, port), EndpointRequest)
        self.answers = {}  # token -> claims
        self.go_on = threading.Event()  # while it is not set, requests wait
        self.go_on.set()
        self.asked = []  # (token, its Authorization)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def close(self):
        self.go_on.set()
        self.shutdown()
        self.server_close()


class EndpointRequest(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        token = urllib.parse.parse_qs(body, strict_parsing=True)["token"][0]
        self.server.asked.append((token, self.headers["Authorization"]))
        self.server.go_on.wait(60)
        answer = json.dumps(self.server.answers.get(token, {"active": False})).encode()
        with contextlib.suppress(OSError):  # who asked may have gone
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_):
        pass


class TokenCase(SaslCase):
    """What is the same for both ways to check a token."""

    BEARER = b'{"status":"invalid_token"}'
    XOAUTH2 = b'{"status":"401","schemes":"bearer"}'

    common = {"auth.mechanisms": "PLAIN,OAUTHBEARER,XOAUTH2", "auth.max_failures": MAX_FAILURES,
              "oauth.audience": "mail", "oauth.issuer": "https://id.example"}

    @staticmethod
    def claims(user, **other):
        return {"email": user, "aud": ["mail", "web"], "iss": "https://id.example",
                "exp": int(time.time()) + 600, **other}

    def token(self, user, **claims):
        """A token that is good for a user, unless the claims say otherwise."""
        raise NotImplementedError

    def refused(self, token, user, **options):
        """Both mechanisms explain it first, and then deny."""
        with contextlib.ExitStack() as stack:
            for mechanism, exchange, said in (("OAUTHBEARER", Bearer(token, user), self.BEARER),
                                              ("XOAUTH2", XOAuth2(token, user), self.XOAUTH2)):
                stack.enter_context(self.subTest(mechanism=mechanism))
                self.told(AUTH, mechanism, exchange, **options)
                self.assertEqual(exchange.challenges, [said])

    def for_all(self):
        """What any fleet with OAuth does."""
        self.offer()
        self.good()
        self.bad()
        self.programs()

    def offer(self):
        with self.plain_text() as pop3:
            self.assertIsNone(mechanisms(pop3))
        with self.pop3() as pop3:
            self.assertEqual(mechanisms(pop3), ["PLAIN", "OAUTHBEARER", "XOAUTH2"])

    def good(self):
        account = self.someone()
        token = self.token(account.address)
        for node in 0, 1:
            for initial in True, False:
                for user in account.address, None, account.address.upper():
                    self.told("+OK", "OAUTHBEARER", Bearer(token, user), node=node,
                              initial=initial)
                self.told("+OK", "XOAUTH2", XOAuth2(token, account.address), node=node,
                          initial=initial)
        self.expect_logged(6, f"user={account.address}", "mechanism=OAUTHBEARER", "result=ok")
        self.told("+OK", "OAUTHBEARER", Bearer(self.token(account.address.upper())))
        self.fleet.admin("domain", "add", "bücher.example")
        written, stored = "user@bücher.example", "user@xn--bcher-kva.example"
        self.secret(self.fleet.add_account(stored))
        for named, claimed in itertools.product((written, stored), (written, stored)):
            self.told("+OK", "XOAUTH2", XOAuth2(self.token(claimed), named))

    def bad(self):
        account, other = self.someone(), self.someone()
        now = int(time.time())
        for what, token in (
                ("expired", self.token(account.address, exp=now - 3600)),
                ("not yet", self.token(account.address, nbf=now + 3600)),
                ("for others", self.token(account.address, aud="web")),
                ("by others", self.token(account.address, iss="https://elsewhere.example")),
                ("another's", self.token(other.address)),
                ("nameless", self.token(account.address, email=None)),
                ("not verified", self.token(account.address, email_verified=False)),
                ("nobody's", self.token("nobody@quickstart.test")),
                ("unheard of", self.secret("notATokenOfAnybody"))):
            with self.subTest(token=what):
                self.refused(token, "nobody@quickstart.test" if what == "nobody's"
                             else account.address)
        suspended = self.token(other.address)
        self.fleet.admin("account", "suspend", other.address)
        self.refused(suspended, other.address)
        with self.pop3() as pop3:  # who asks what is wanted; and who does not answer the reason
            reply = authenticate(pop3, "OAUTHBEARER", Says(b"n,,\1auth=\1\1", b"\1"))
            self.assertTrue(reply.startswith(AUTH), reply)
            reply = authenticate(pop3, "OAUTHBEARER", Says(b"n,,\1auth=Basic eA==\1\1"))
            self.assertRegex(reply, "^-ERR (?!\\[)")
        with self.pop3() as pop3:
            pop3.send(b"AUTH XOAUTH2 " + base64.b64encode(
                XOAuth2("wrong", account.address).respond(None)) + b"\r\n")
            self.assertEqual(base64.b64decode(pop3.line()[2:]), self.XOAUTH2)
            self.assertRegex(pop3.command("*"), "^-ERR ")
            self.assertRegex(authenticate(pop3, "PLAIN", Plain(account.address, account.password)),
                             r"^\+OK")

    def programs(self):
        account = self.someone()
        good, bad = self.token(account.address), self.token(account.address, aud="web")
        for mechanism, initial in itertools.product(("OAUTHBEARER", "XOAUTH2"),
                                                    ((), ("--sasl-ir",))):
            options = (*initial, "--login-options", f"AUTH={mechanism}", "-u",
                       f"{account.address}:", "--oauth2-bearer")
            self.assertIsNone(self.curl(*options, good))
            self.assertIn("curl: (67)", self.curl(*options, bad))  # login denied
        for mechanism in "oauthbearer", "xoauth2":
            login = f"user {account.address}", f"auth {mechanism}"
            self.assertIsNone(self.mpop(*login, f'passwordeval "echo {good}"'))
            self.assertIn("[AUTH]", self.mpop(*login, f'passwordeval "echo {bad}"'))


class IntrospectionTest(TokenCase):
    @classmethod
    def setUpClass(cls):
        cls.endpoint = Endpoint()
        cls.addClassCleanup(lambda: cls.endpoint.close())
        cls.files = Path(tempfile.mkdtemp(prefix="mailfleet-oauth-"))
        cls.files.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.files, ignore_errors=True)
        replace(cls.files / "secret", "secretOfTheFleet\n")
        cls.settings = {**cls.common, "oauth.timeout": "2s",
                        "oauth.introspection_url": f"http://{HOST}:{cls.endpoint.port}/introspect",
                        "oauth.client_id": "the:fleet",
                        "oauth.client_secret_file": cls.files / "secret"}
        super().setUpClass()
        cls.secret("secretOfTheFleet")

    def setUp(self):
        self.addCleanup(self.endpoint.go_on.set)

    def token(self, user, **claims):
        token = self.secret(f"token.{next(self.names)}.of-{time.monotonic_ns()}")
        self.endpoint.answers[token] = {"active": True, **self.claims(user, **claims)}
        return token

    def test_tokens(self):
        self.for_all()
        self.assertEqual({authorization for _, authorization in self.endpoint.asked},
                         {"Basic " + base64.b64encode(b"the%3Afleet:secretOfTheFleet").decode()})

    def test_a_revoked_token(self):
        account = self.someone()
        token = self.token(account.address)
        self.endpoint.answers[token]["active"] = False
        self.refused(token, account.address)

    def test_a_good_token_is_remembered_by_its_node(self):
        account = self.someone()
        token = self.token(account.address)
        for node in 0, 0, 1, 0, 1:
            self.told("+OK", "XOAUTH2", XOAuth2(token, account.address), node=node)
        self.assertEqual([asked for asked, _ in self.endpoint.asked].count(token), 2)

    def test_an_endpoint_that_is_down(self):
        account = self.someone()
        known, token = self.token(account.address), self.token(account.address)
        self.told("+OK", "XOAUTH2", XOAuth2(known, account.address))
        port, answers = self.endpoint.port, self.endpoint.answers
        self.endpoint.close()
        faults = self.metric("token_faults_total")
        try:
            for mechanism, exchange in (("XOAUTH2", XOAuth2(token, account.address)),
                                        ("OAUTHBEARER", Bearer(token)),
                                        ("OAUTHBEARER", Bearer("wrong"))):
                self.assertEqual(self.told(TEMP, mechanism, exchange).challenges, [])
            self.told("+OK", "XOAUTH2", XOAuth2(known, account.address))  # remembered
        finally:
            type(self).endpoint = Endpoint(port)
            self.endpoint.answers = answers
        self.assertEqual(self.metric("token_faults_total"), faults + 3)
        self.told("+OK", "XOAUTH2", XOAuth2(token, account.address))

    def test_an_endpoint_that_is_slow(self):
        account = self.someone()
        token = self.token(account.address)
        self.endpoint.go_on.clear()
        self.told(TEMP, "XOAUTH2", XOAuth2(token, account.address))
        self.assertIn(token, [asked for asked, _ in self.endpoint.asked])
        self.assertFalse(self.endpoint.go_on.is_set())  # it has not answered
        # Nobody else waits for it.
        self.told("+OK", "PLAIN", Plain(account.address, account.password))
        self.endpoint.go_on.set()
        self.told("+OK", "XOAUTH2", XOAuth2(token, account.address))

    def test_a_client_that_does_not_wait(self):
        account = self.someone()
        self.endpoint.go_on.clear()
        asked = len(self.endpoint.asked)
        with self.pop3() as pop3:
            token = self.token(account.address)
            pop3.send(b"AUTH OAUTHBEARER " + base64.b64encode(Bearer(token).respond(None)) +
                      b"\r\n")
            self.eventually(20, lambda: self.assertGreater(len(self.endpoint.asked), asked))
            pop3.reset()
        self.endpoint.go_on.set()
        self.told("+OK", "XOAUTH2", XOAuth2(self.token(account.address), account.address))

    def test_guesses_are_counted(self):
        account, client = self.someone(), self.client()
        good = self.token(account.address)
        for n in range(2 * MAX_FAILURES):
            self.told(AUTH, "XOAUTH2", XOAuth2("the-old-one", account.address),
                      pop3=self.proxied(client, n % 2))
        self.told("+OK", "XOAUTH2", XOAuth2(good, account.address), pop3=self.proxied(client))
        for n in range(MAX_FAILURES - 1):
            self.told(AUTH, "XOAUTH2", XOAuth2(f"wrong-{n}", account.address),
                      pop3=self.proxied(client, n % 2))
        asked = len(self.endpoint.asked)
        for token in good, "wrong-once-more":
            exchange = XOAuth2(token, account.address)
            self.told(TEMP, "XOAUTH2", exchange, pop3=self.proxied(client))
            self.assertEqual(exchange.challenges, [])
        self.assertEqual(len(self.endpoint.asked), asked)


class JwtTest(TokenCase):
    """Tokens that are signed by the jose command."""

    @classmethod
    def setUpClass(cls):
        cls.files = Path(tempfile.mkdtemp(prefix="mailfleet-jwks-"))
        cls.files.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.files, ignore_errors=True)
        cls.make_key("first", "ES256")
        cls.make_key("second", "RS256")
        cls.make_key("stranger", "ES256")
        cls.publish("first", "second")
        cls.settings = {**cls.common, "oauth.jwks_file": cls.files / "jwks.json"}
        super().setUpClass()

    @staticmethod
    def jose(*words, stdin=""):
        return subprocess.run(["jose", *words], input=stdin, capture_output=True, text=True,
                              timeout=60, check=True).stdout

    @classmethod
    def make_key(cls, name, algorithm):
        text = cls.jose("jwk", "gen", "-i", json.dumps({"alg": algorithm, "kid": name}), "-o", "-")
        replace(cls.files / name, text)

    @classmethod
    def public(cls, name):
        return json.loads(cls.jose("jwk", "pub", "-i", cls.files / name, "-o", "-"))

    @classmethod
    def publish(cls, *names):
        replace(cls.files / "jwks.json", json.dumps({"keys": [cls.public(n) for n in names]}))

    def sign(self, claims, key="first"):
        protected = {"protected": {"kid": key, "typ": "JWT"}}
        return self.secret(self.jose("jws", "sig", "-I", "-", "-s", json.dumps(protected),
                                     "-k", self.files / key, "-c", "-o", "-",
                                     stdin=json.dumps(claims)).strip())

    def token(self, user, key="first", **claims):
        return self.sign(self.claims(user, **claims), key)

    def test_tokens(self):
        self.for_all()

    def test_signatures(self):
        account = self.someone()
        self.told("+OK", "OAUTHBEARER", Bearer(self.token(account.address, "second")))
        self.refused(self.token(account.address, "stranger"), account.address)
        good = self.token(account.address).split(".")
        others = self.token("nobody@quickstart.test").split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
        for forged in ([good[0], others[1], good[2]], [none, good[1], ""],
                       [none, good[1], good[2]], good[:2]):
            self.refused(self.secret(".".join(forged)), account.address)
        never = self.claims(account.address)
        del never["exp"]
        self.refused(self.sign(never), account.address)

    def test_keys_change(self):
        account = self.someone()
        self.make_key("third", "ES256")
        old, new = self.token(account.address), self.token(account.address, "third")
        self.refused(new, account.address)
        self.addCleanup(self.publish, "first", "second")
        self.publish("third")
        self.told("+OK", "OAUTHBEARER", Bearer(new))
        self.refused(old, account.address)

    def test_a_file_that_is_not_one(self):
        account = self.someone()
        self.addCleanup(self.publish, "first", "second")
        replace(self.files / "jwks.json", "<html>")
        for token in self.token(account.address), self.token(account.address, "stranger"):
            exchange = self.told(TEMP, "OAUTHBEARER", Bearer(token))
            self.assertEqual(exchange.challenges, [])
        self.publish("first")
        self.told("+OK", "OAUTHBEARER", Bearer(self.token(account.address)))


# --- client certificates --------------------------------------------------------------------------


class ExternalTest(SaslCase):
    @classmethod
    def setUpClass(cls):
        cls.files = Path(tempfile.mkdtemp(prefix="mailfleet-external-"))
        cls.files.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.files, ignore_errors=True)
        cls.authority = Authority(cls.files)
        cls.settings = {"tls.client_ca": cls.authority.certificate,
                        "auth.mechanisms": "PLAIN,EXTERNAL,SCRAM-SHA-256"}
        super().setUpClass()

    def context(self, *names, authority=None):
        """TLS of a client with a certificate for these names."""
        context = ssl.create_default_context(cafile=self.fleet.ca)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
            both.write("".join((authority or self.authority).make(*names)))
            both.flush()
            context.load_cert_chain(both.name)
        return context

    def with_certificate(self, *names, node=0, **options):
        return Pop3(self.fleet.front_ends[node].ports["pop3"],
                    stls=self.context(*names, **options))

    def test_offer(self):
        with self.plain_text() as pop3:
            self.assertEqual(mechanisms(pop3), ["SCRAM-SHA-256"])
        with self.pop3() as pop3:  # without a certificate
            self.assertEqual(mechanisms(pop3), ["PLAIN", "SCRAM-SHA-256"])
            self.assertRegex(pop3.command("AUTH EXTERNAL ="), "^-ERR (?!\\[)")
        with self.with_certificate("DNS:alice.quickstart.test") as pop3:  # with no address in it
            self.assertEqual(mechanisms(pop3), ["PLAIN", "SCRAM-SHA-256"])
        with self.with_certificate("email:alice@quickstart.test") as pop3:
            self.assertEqual(mechanisms(pop3), ["PLAIN", "EXTERNAL", "SCRAM-SHA-256"])

    def test_scram_waits_for_everybodys_keys(self):
        """auth.scram is `ready` here, as it is unless set."""
        account, keyless = self.someone(), self.someone()
        self.fleet.sql(f"UPDATE account SET scram = '' WHERE addr = '{keyless.address}'")

        def offered(names):
            with self.pop3() as pop3:
                self.assertEqual(mechanisms(pop3), names)

        self.eventually(30, lambda: offered(["PLAIN"]))
        self.told("-ERR", "SCRAM-SHA-256", Scram(account.address, account.password))
        self.told("+OK", "PLAIN", Plain(keyless.address, keyless.password))
        self.eventually(30, lambda: offered(["PLAIN", "SCRAM-SHA-256"]))
        self.told("+OK", "SCRAM-SHA-256", Scram(keyless.address, keyless.password))

    def test_login(self):
        account, other = self.someone(), self.someone()
        mail = f"email:{account.address}"
        for authzid in "", account.address, account.address.upper():
            for initial in True, False:
                self.told("+OK", "EXTERNAL", Says(authzid.encode()), initial=initial,
                          pop3=self.with_certificate(mail, node=int(initial)))
        self.expect_logged(3, f"user={account.address}", "mechanism=EXTERNAL", "result=ok")
        for authzid in other.address, "nobody@quickstart.test", account.address + "x":
            self.told(AUTH, "EXTERNAL", Says(authzid.encode()), pop3=self.with_certificate(mail))
        self.told("+OK", "EXTERNAL", Says(b""), pop3=self.with_certificate(mail.upper().replace(
            "EMAIL:", "email:")))

    def test_several_addresses(self):
        account, other, third = self.someone(), self.someone(), self.someone()
        both = f"email:{account.address}", f"email:{other.address}"
        for authzid, start in ((account.address, "+OK"), (other.address, "+OK"), ("", AUTH),
                               (third.address, AUTH)):
            self.told(start, "EXTERNAL", Says(authzid.encode()),
                      pop3=self.with_certificate(*both))

    def test_accounts_that_are_not_open(self):
        account = self.someone()
        self.told(AUTH, "EXTERNAL", Says(b""),
                  pop3=self.with_certificate("email:nobody@quickstart.test"))
        self.fleet.admin("account", "suspend", account.address)
        self.told(AUTH, "EXTERNAL", Says(b""),
                  pop3=self.with_certificate(f"email:{account.address}"))

    def test_another_authority(self):
        account = self.someone()
        with tempfile.TemporaryDirectory() as folder:
            stranger = Authority(Path(folder))
            with self.assertRaises((ssl.SSLError, OSError, EOFError)):
                self.reply("EXTERNAL", Says(b""), pop3=self.with_certificate(
                    f"email:{account.address}", authority=stranger))
        log = self.fleet.front_ends[0].log
        self.eventually(20, lambda: self.assertIn(" tls.failed ", log.read_text()))
        self.assertEqual(self.logged(f"user={account.address}"), [])

    def test_mpop(self):
        account = self.someone()
        certificate, key = self.authority.make(f"email:{account.address}")
        replace(self.files / "client.pem", certificate)
        replace(self.files / "client.key", key)
        (self.files / "client.key").chmod(0o600)
        self.assertIsNone(self.mpop(f"user {account.address}", "auth external",
                                    f"tls_cert_file {self.files}/client.pem",
                                    f"tls_key_file {self.files}/client.key"))
        self.expect_logged(1, f"user={account.address}", "mechanism=EXTERNAL", "result=ok")


if __name__ == "__main__":
    harness.main()
