#!/usr/bin/python3 -B
"""A daemon around its sessions, without a database: start, workers, reload, drain, health."""

import contextlib
import http.client
import os
import pwd
import random
import re
import resource
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import harness

HOST = "127.0.0.1"
EX_OK, EX_CONFIG = 0, 78
PROGRAM = Path(os.environ["MAILFLEET_BUILD"]) / "frontend/mailfleet-frontend"
DELIVER = Path(os.environ["MAILFLEET_BUILD"]) / "deliver/mailfleet-deliver"
USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


def free_port():
    """Below the range that the system hands out to clients."""
    while True:
        port = random.SystemRandom().randrange(21_000, 32_700)
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


class Daemon(unittest.TestCase):
    time_limit = 60

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mailfleet-daemon-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.folder.chmod(0o755)
        self.log = self.folder / "log"
        self.config = self.folder / "mailfleet.conf"
        self.key = self.folder / "key.pem"
        self.certificate = self.folder / "cert.pem"
        self.write_readable(self.folder / "fleet.key", os.urandom(32).hex() + "\n")
        self.make_certificate()
        self.pop3, self.pop3s, self.health = free_port(), free_port(), free_port()
        self.settings = {
            "node": {"user": USER, "workers": "2", "drain_time": "20s",
                     "fleet_key_file": self.folder / "fleet.key"},
            "database": {"url": f"host={HOST} port={free_port()} dbname=none"},
            "pop3": {"listen": f"{HOST}:{self.pop3}", "tls_listen": f"{HOST}:{self.pop3s}"},
            "tls": {"certificate": self.certificate, "key": self.key},
            "frontend": {"health": f"{HOST}:{self.health}"},
        }

    @staticmethod
    def write_readable(path, text):
        path.write_text(text)
        path.chmod(0o644)

    def make_certificate(self):
        """A new one in the old one's place."""
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=test",
                        "-keyout", self.key, "-out", self.certificate],
                       check=True, capture_output=True)
        self.key.chmod(0o644)
        self.certificate.chmod(0o644)

    def write_config(self):
        self.write_readable(self.config, "".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for section, keys in self.settings.items()))

    def run_to_end(self, *options, program=PROGRAM):
        self.write_config()
        return subprocess.run([program, "--config", self.config, *options], text=True, timeout=30,
                              capture_output=True, check=False)

    @staticmethod
    def few_descriptors():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    def start(self):
        self.write_config()
        with self.log.open("ab") as log:
            self.master = subprocess.Popen([PROGRAM, "--config", self.config], stdout=log,
                                           stderr=log, stdin=subprocess.DEVNULL,
                                           preexec_fn=self.few_descriptors,
                                           start_new_session=True)
        self.addCleanup(self.end)
        self.eventually(lambda: self.assertEqual(self.log_count("worker.start"), 2))

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.master.pid, signal.SIGKILL)
        self.master.wait()
        crashes = [line for line in self.log.read_text().splitlines() if harness.CRASH.search(line)]
        self.assertEqual(crashes, [])

    def eventually(self, attempt, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return attempt()
            except (AssertionError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def log_count(self, event, *fields):
        return sum(f" {event} " in line and all(field in line for field in fields)
                   for line in self.log.read_text().splitlines())

    def get(self, page):
        connection = http.client.HTTPConnection(HOST, self.health, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", page)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metric(self, name):
        return int(re.search(rf"^{name} (\d+)$", self.get("/metrics")[1], re.MULTILINE)[1])

    def greeting(self):
        with socket.create_connection((HOST, self.pop3), timeout=10) as s:
            return s.makefile("rb").readline()

    def peer_certificate(self):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection((HOST, self.pop3s), timeout=10) as s, \
                context.wrap_socket(s) as tls:
            self.assertTrue(tls.recv(100).startswith(b"+OK"))
            return tls.getpeercert(binary_form=True)

    def workers(self):
        text = Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    # --- the command line ------------------------------------------------------------------------

    def test_check(self):
        self.assertEqual(self.run_to_end("--check").returncode, EX_OK)
        bad = [("pop3", "listen", "localhost:110", "localhost:110"),
               ("pop3", "listen", f"{HOST}:0", f"{HOST}:0"),
               ("pop3", "colour", "red", "colour"),
               ("proxy", "networks", "10.0.0.1/8", "10.0.0.1/8"),
               ("tls", "key", self.certificate, "cert.pem"),
               ("tls", "certificate", "", "tls.certificate"),
               ("tls", "directory", self.folder / "none", "none"),
               ("tls", "client_ca", self.key, "key.pem"),
               ("node", "fleet_key_file", self.key, "key.pem"),
               ("database", "url", "", "database.url"),
               ("auth", "mechanisms", "PLAIN,PALIN", "auth.mechanisms: PALIN: not a mechanism"),
               ("oauth", "introspection_url", "http://sso.example.org/", "introspection_url: http:"),
               ("oauth", "introspection_url", "sso", "oauth.introspection_url: sso: "),
               ("oauth", "jwks_file", self.key, "oauth.jwks_file: ")]
        for setting in bad:
            self.expect_bad(PROGRAM, *setting)
        self.settings["pop3"] = {}
        self.assertIn("nothing to listen on", self.run_to_end("--check").stderr)

    def test_check_of_delivery(self):
        """What only its sessions use is checked by it, too."""
        self.settings["smtp"] = {"listen": f"{HOST}:{self.pop3}"}
        self.assertEqual(self.run_to_end("--check", program=DELIVER).returncode, EX_OK)
        for setting in (
                ("filter", "milters", "inet:nonsense", "filter.milters: inet:nonsense: not inet:"),
                ("filter", "milters", "unix:/run/x unix:y", "filter.milters: unix:y: not inet:"),
                ("filter", "quarantine", "abuse@", "filter.quarantine: abuse@: not an address"),
                ("blocklist", "zones", "list", "blocklist.zones: list: not a domain"),
                ("blocklist", "zones", "bl.example.org=127.0.0.1/8", "blocklist.zones: bl.ex"),
                ("blocklist", "allow_zones", "a..b", "blocklist.allow_zones: a..b: not a domain"),
                ("dns", "servers", "localhost", "dns.servers: localhost: not an address"),
                ("dns", "servers", f"{HOST}:65536", "dns.servers: "),
                ("smtp", "xclient", "10.0.0.1/8", "smtp.xclient"),
                ("node", "health_networks", "here", "node.health_networks: here: not a network"),
                ("limits", "exempt", "all", "limits.exempt")):
            self.expect_bad(DELIVER, *setting)

    def expect_bad(self, program, section, key, value, named):
        with self.subTest(key=f"{section}.{key} = {value}"):
            before = self.settings.get(section, {})
            self.settings[section] = {**before, key: value}
            for options in (["--check"], []):
                ended = self.run_to_end(*options, program=program)
                self.assertEqual(ended.returncode, EX_CONFIG)
                self.assertIn(named, ended.stderr)
                self.assertEqual(ended.stderr.count("\n"), 1)
            self.settings[section] = before

    def test_root_needs_a_user_to_become(self):
        self.settings["node"]["user"] = ""
        if os.geteuid() == 0:
            for name in ("", "root", "no-such-user"):
                self.settings["node"]["user"] = name
                ended = self.run_to_end()
                self.assertNotEqual(ended.returncode, EX_OK)
                self.assertIn("root.user", ended.stderr)
        else:
            self.start()

    def test_health_and_agent_need_an_address(self):
        for setting in "health", "agent":
            with self.subTest(setting=setting):
                before = dict(self.settings["frontend"])
                self.settings["frontend"][setting] = f"localhost:{self.health}"
                ended = self.run_to_end()
                self.assertNotEqual(ended.returncode, EX_OK)
                self.assertIn(f"{setting}.failed", ended.stderr)
                self.settings["frontend"] = before

    def test_health_is_for_its_networks(self):
        """On all addresses of the host, and all the same for nobody but those."""
        self.settings["frontend"]["health"] = f"0.0.0.0:{self.health}"
        self.settings["node"]["health_networks"] = "127.0.0.1/32"
        self.start()
        self.assertEqual(self.get("/healthz"), (200, "ok\n"))
        stranger = http.client.HTTPConnection(HOST, self.health, timeout=10,
                                              source_address=("127.0.0.2", 0))
        with contextlib.closing(stranger), self.assertRaises((OSError,
                                                              http.client.HTTPException)):
            stranger.request("GET", "/healthz")
            stranger.getresponse()
        self.eventually(lambda: self.assertEqual(
            self.log_count("health.forbidden", "peer=127.0.0.2"), 1))

    def test_a_port_in_use_is_an_error(self):
        with socket.create_server((HOST, self.pop3)):
            ended = self.run_to_end()
        self.assertNotEqual(ended.returncode, EX_OK)
        self.assertIn(f"{HOST}:{self.pop3}", ended.stderr)

    # --- running ---------------------------------------------------------------------------------

    def test_start(self):
        self.start()
        self.assertTrue(self.greeting().startswith(b"+OK"))
        self.assertEqual(self.get("/healthz"), (200, "ok\n"))
        self.assertEqual(self.metric("mailfleet_workers"), 2)
        self.assertEqual(self.metric("mailfleet_ready"), 0)
        self.assertGreaterEqual(self.metric("mailfleet_connections_total"), 1)
        self.eventually(lambda: self.assertEqual(self.metric("mailfleet_sessions"), 0))
        status, text = self.get("/readyz")
        self.assertEqual(status, 503)
        self.assertRegex(text, r"(?m)^worker 1: database: .+")
        self.assertEqual(len(self.workers()), 2)
        for pid in self.workers():
            proc = Path(f"/proc/{pid}")
            status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines()
                          if ":\t" in line)
            self.assertEqual(status["Name"], "mailfleet-front")
            self.assertEqual(status["NoNewPrivs"], "1")
            self.assertEqual(set(status["Uid"].split()), {str(pwd.getpwnam(USER).pw_uid)})
            limits = re.search(r"Max open files +(\d+) +(\d+)", (proc / "limits").read_text())
            self.assertEqual(limits[1], limits[2])

    def test_a_dead_worker_is_replaced(self):
        self.start()
        before = self.workers()
        with contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(socket.create_connection((HOST, self.pop3)))
                        for _ in range(20)]
            for session in sessions:
                self.assertTrue(session.recv(100).startswith(b"+OK"))
            self.assertEqual(self.metric("mailfleet_sessions"), len(sessions))
            os.kill(before[0], signal.SIGKILL)
            self.eventually(lambda: self.assertEqual(self.log_count("worker.start"), 3))
            left = sum(self.is_open(session) for session in sessions)
            self.assertLess(left, len(sessions))
            self.assertEqual(self.metric("mailfleet_sessions"), left)
        self.assertEqual(self.log_count("worker.died"), 1)
        self.assertIn(before[1], self.workers())
        for _ in range(20):
            self.assertTrue(self.greeting().startswith(b"+OK"))

    @staticmethod
    def is_open(session):
        session.setblocking(False)
        try:
            return session.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    def test_workers_die_with_the_master(self):
        self.start()
        workers = self.workers()
        self.master.kill()
        self.master.wait()
        for pid in workers:
            self.eventually(lambda pid=pid: self.assert_gone(pid))

    def assert_gone(self, pid):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        self.assertEqual(state, "Z")

    # --- reload ----------------------------------------------------------------------------------

    def reload(self, event, times, *fields):
        self.write_config()
        self.master.send_signal(signal.SIGHUP)
        self.eventually(lambda: self.assertEqual(self.log_count(event, *fields), times))

    def test_reload(self):
        self.start()
        old = self.peer_certificate()
        self.make_certificate()
        self.settings["pop3"]["timeout"] = "5m"
        self.reload("worker.reloaded", 2)
        new = self.peer_certificate()
        self.assertNotEqual(new, old)
        self.assertEqual(self.log_count("config.needs_restart"), 0)

        good = self.certificate.read_text()
        self.certificate.write_text("not a certificate\n")
        self.reload("config.bad", 1, "cert.pem")
        self.certificate.write_text(good)
        self.settings["pop3"]["colour"] = "red"
        self.reload("config.bad", 2)
        del self.settings["pop3"]["colour"]
        self.assertEqual(self.peer_certificate(), new)
        self.assertEqual(self.log_count("worker.reloaded"), 2)

    def test_reload_names_what_needs_a_restart(self):
        self.start()
        self.settings["database"]["timeout"] = "4s"
        self.settings["pop3"]["listen"] = f"{HOST}:{free_port()}"
        self.settings["pop3"]["login_delay"] = "1m"
        self.settings["auth"] = {"mechanisms": "PLAIN", "max_failures": "7", "threads": "3"}
        self.settings["limits"] = {"exempt": "192.0.2.1/32", "ipv6_address": "56"}
        self.reload("worker.reloaded", 2)
        settings = "database.timeout", "pop3.listen", "auth.threads", "limits.ipv6_address"
        self.assertEqual(self.log_count("config.needs_restart"), len(settings))
        for setting in settings:
            self.assertEqual(self.log_count("config.needs_restart", setting), 1)
        self.assertTrue(self.greeting().startswith(b"+OK"))

    def test_an_open_tls_port_keeps_its_certificate(self):
        self.start()
        old = self.peer_certificate()
        self.settings["tls"] = {}
        del self.settings["pop3"]["tls_listen"]
        self.reload("config.needs_restart", 2, "tls.certificate")
        self.assertEqual(self.peer_certificate(), old)
        self.assertEqual(self.log_count("worker.died"), 0)

    # --- the end ---------------------------------------------------------------------------------

    def stopped(self, pid):
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        self.assertEqual(state, "T")

    def listening(self, sockets):
        """So many sockets listen on the POP3 port."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        self.assertEqual(sum(line[1].endswith(f":{self.pop3:04X}") and line[3] == "0A"
                             for line in lines), sockets)

    def test_drain(self):
        self.start()
        self.listening(2)
        held = self.workers()[0]
        os.kill(held, signal.SIGSTOP)
        self.eventually(lambda: self.stopped(held))
        self.master.send_signal(signal.SIGTERM)
        self.eventually(lambda: self.assertEqual(self.get("/readyz")[0], 503))
        self.eventually(lambda: self.assertTrue(self.get("/readyz")[1].startswith("draining\n")))
        self.assertEqual(self.get("/healthz")[0], 200)
        self.eventually(lambda: self.assertEqual(self.log_count("worker.stop"), 1))
        self.assertIsNone(self.master.poll())
        self.listening(1)
        os.kill(held, signal.SIGCONT)
        self.assertEqual(self.master.wait(20), EX_OK)
        self.assertEqual(self.log_count("worker.stop"), 2)
        self.assertEqual(self.log_count("worker.died"), 0)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((HOST, self.pop3))

    def test_a_worker_that_hangs_is_killed(self):
        self.settings["node"]["drain_time"] = "0"
        self.start()
        os.kill(self.workers()[0], signal.SIGSTOP)
        self.master.send_signal(signal.SIGTERM)
        self.assertEqual(self.master.wait(30), EX_OK)
        self.assertEqual(self.log_count("worker.kill"), 1)

    def test_an_interrupt_from_a_terminal(self):
        """It goes to the whole group: the workers must leave it to the master."""
        self.start()
        os.killpg(self.master.pid, signal.SIGINT)
        self.assertEqual(self.master.wait(20), EX_OK)
        self.assertEqual(self.log_count("worker.drain"), 2)
        self.assertEqual(self.log_count("worker.stop"), 2)


if __name__ == "__main__":
    harness.main()
