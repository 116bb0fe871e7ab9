#!/usr/bin/python3 -B
"""DNS block lists, guessed recipients and the tarpit in front of a fleet: who is meant is turned away
or kept waiting, and everybody else notices nothing.

Clients have the addresses that a PROXY header or a relay's XCLIENT gives them. The lists are zones of
a private nsd. The first delivery node hardly delays its answers; the second so long that nobody waits
for one, and it has no list of those whom others must not count.
"""

import contextlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import harness
from fleet import DOMAIN, HOST
from mail import Refused, Smtp
from milters import Server, directory

MESSAGE = b"Subject: test\r\n\r\nHello\r\n"

LISTED, ALLOWED, OTHER_ANSWER, LIST_REFUSES, ON_SECOND, CLEAN = (f"192.0.2.{n}" for n in
                                                                range(1, 7))
ZONES = {"bl.test": "1.2.0.192 A 127.0.0.2\n2.2.0.192 A 127.0.0.3\n3.2.0.192 A 127.0.0.10\n"
                    "4.2.0.192 A 127.255.255.254\n"
                    f"{'.'.join(reversed('20010db8' + '0' * 23 + '1'))} A 127.0.0.2\n",
         "second.test": "2.2.0.192 A 127.0.0.2\n5.2.0.192 A 127.0.0.2\n",
         "allow.test": "2.2.0.192 A 127.0.0.2\n"}

CONF = """
server:
  ip-address: 127.0.0.1
  port: {port}
  username: ""
  zonesdir: "{dir}"
  pidfile: ""
  xfrdfile: ""
  zonelistfile: "{dir}/list"
  database: ""
  server-count: 1
  logfile: "{dir}/log"
  xfrdir: "{dir}"
remote-control:
  control-enable: no
"""


class Nsd(Server):
    def __init__(self, folder):
        super().__init__(folder, [], ["/usr/sbin/nsd", "-d", "-c", folder / "nsd.conf"])
        directory(folder)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((HOST, 0))
            self.at = free.getsockname()
        (folder / "nsd.conf").write_text(
            CONF.format(dir=folder, port=self.at[1])
            + "".join(f"zone:\n  name: {name}\n  zonefile: {name}\n" for name in ZONES))
        for name, records in ZONES.items():
            (folder / name).write_text("$TTL 60\n@ SOA ns.test. host.test. 1 60 60 60 60\n"
                                       f"@ NS ns.test.\n{records}")

    def start(self):
        super().start()
        question = b"\x12\x34\x00\x00\x00\x01" + bytes(6) + b"\x02bl\x04test\x00\x00\x06\x00\x01"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.1)
            s.connect(self.at)
            while True:
                if self.process.poll() is not None:
                    raise AssertionError((self.folder / "out").read_text())
                with contextlib.suppress(OSError):
                    s.send(question)
                    s.recv(512)
                    return


class Blocklists(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        cls.names = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.names, ignore_errors=True)
        cls.names.chmod(0o755)
        cls.nsd = Nsd(cls.names / "nsd")
        cls.addClassCleanup(cls.nsd.stop)
        cls.nsd.start()
        cls.settings = {"dns.servers": f"{HOST}:{cls.nsd.at[1]}",
                        "blocklist.zones": "bl.test=127.0.0.2/31 second.test",
                        "blocklist.allow_zones": "allow.test", "blocklist.timeout": "10s",
                        "smtp.xclient": "127.0.0.0/8", "smtp.max_unknown": 3, "smtp.tarpit": "1ms",
                        "limits.exempt": "203.0.113.0/24"}
        super().setUpClass()
        cls.fast, cls.slow = cls.fleet.delivery_nodes
        cls.user = cls.account("user")
        cls.fleet.node_settings[cls.slow.name] = {"smtp.tarpit": "30s",
                                                 "blocklist.allow_zones": ""}
        cls.slow.stop()
        cls.slow.up()

    # --- clients --------------------------------------------------------------------------------

    def client(self, address, node=0, timeout=20, **options):
        """A session of a client with this address, behind a balancer."""
        family, local = ("TCP6", "2001:db8::") if ":" in address else ("TCP4", "198.51.100.200")
        smtp = Smtp(self.fleet.delivery_nodes[node].ports["smtp_proxy"], timeout=timeout,
                    preface=f"PROXY {family} {address} {local} 4242 25\r\n".encode(), **options)
        self.addCleanup(smtp.close)
        return smtp

    def relayed(self, smtp, address):
        """The session of a relay goes on as that of its client."""
        smtp.expect(220, f"XCLIENT ADDR={'IPV6:' * (':' in address)}{address}")
        smtp.hello()

    def rcpt(self, smtp, *local_parts):
        """The replies to RCPT in a transaction that is given up then."""
        self.assertEqual(smtp.mail()[0], 250)
        replies = [smtp.rcpt(f"{name}@{DOMAIN}" if name != "postmaster" else name)
                   for name in local_parts]
        smtp.expect(250, "RSET")
        return replies

    def answers(self, smtp, *local_parts):
        return [code for code, _ in self.rcpt(smtp, *local_parts)]

    def metric(self, name, node=0):
        return int(re.search(rf"^mailfleet_{name}_total (\d+)$",
                             self.fleet.delivery_nodes[node].get("/metrics")[0], re.MULTILINE)[1])

    @staticmethod
    def is_silent(smtp):
        return not select.select([smtp.socket], [], [], 0)[0]

    def hang(self):
        self.nsd.signal(signal.SIGSTOP)
        self.addCleanup(self.nsd.signal, signal.SIGCONT)

    # --- block lists ----------------------------------------------------------------------------

    def test_listed(self):
        before = self.metric("blocklist_hits")
        for address, zone in (LISTED, "bl.test"), ("2001:db8::1", "bl.test"), \
                (ON_SECOND, "second.test"):
            with self.subTest(address=address):
                smtp = self.client(address)
                (code, text), (again, _) = self.rcpt(smtp, "user", "nobody")
                self.assertEqual((code, again), (550, 550))
                self.assertRegex(text, rf"^5\.7\.1 .*{re.escape(zone)}")
        self.assertEqual(self.metric("blocklist_hits") - before, 6)

    def test_listed_in_one_piece(self):
        """All of the conversation is there before the list has answered: it waits for the list."""
        self.hang()
        smtp = self.client(LISTED)
        smtp.send(f"MAIL FROM:<a@example.org>\r\nRCPT TO:<{self.user.address}>\r\n".encode() * 2
                  + b"RSET\r\nNOOP\r\nQUIT\r\n")
        self.client("203.0.113.1").deliver(MESSAGE, [self.user.address])
        self.assertTrue(self.is_silent(smtp))
        self.nsd.signal(signal.SIGCONT)
        self.assertEqual([smtp.reply()[0] for _ in range(7)], [250, 550, 503, 550, 250, 250, 221])

    def test_postmaster_can_be_reached(self):
        self.fleet.admin("alias", "add", f"postmaster@{DOMAIN}", self.user.address)
        smtp = self.client(LISTED)
        self.assertEqual(smtp.mail()[0], 250)
        self.assertEqual(smtp.rcpt(f"Postmaster@{DOMAIN}")[0], 250)
        self.assertEqual(smtp.rcpt(self.user.address)[0], 550)
        before = len(self.mailbox(self.user))
        smtp.content(MESSAGE)
        smtp.finish()
        self.assertEqual(len(self.mailbox(self.user)), before + 1)

    def test_not_listed(self):
        for address in CLEAN, ALLOWED, OTHER_ANSWER, LIST_REFUSES, "2001:db8::2":
            with self.subTest(address=address):
                self.assertEqual(self.answers(self.client(address), "user"), [250])
        self.assertIn("blocklist.refuses", self.fast.log.read_text())

    def test_lmtp_and_those_whom_lists_cannot_know(self):
        before = self.metric("blocklist_queries")
        with self.smtp() as smtp, self.lmtp() as lmtp:
            for session in smtp, lmtp, self.client("10.1.2.3"), self.client("203.0.113.1"):
                self.assertEqual(self.answers(session, "user"), [250])
        self.assertEqual(self.metric("blocklist_queries"), before)

    def test_xclient_names_who_is_asked_for(self):
        with self.smtp() as smtp:
            self.assertEqual(self.answers(smtp, "user"), [250])
            for address, code in (LISTED, 550), (CLEAN, 250), ("2001:db8::1", 550):
                self.relayed(smtp, address)
                self.assertEqual(self.answers(smtp, "user"), [code])
            smtp.quit()

    def test_xclient_by_swaks(self):
        def swaks(address):
            return subprocess.run(
                ["swaks", "--server", f"{HOST}:{self.fast.ports['smtp']}", "--to",
                 self.user.address, "--from", "a@example.org", "--xclient", f"ADDR={address}"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)

        self.assertEqual(swaks(CLEAN).returncode, 0)
        refused = swaks(LISTED)
        self.assertNotEqual(refused.returncode, 0)
        self.assertRegex(refused.stdout, rb"<\*\* 550 5\.7\.1 .*bl\.test")

    def test_name_server_that_hangs(self):
        """Its deadline lists nobody; sessions that do not wait for it go on."""
        self.hang()
        before = self.metric("blocklist_faults")
        waiting, other = self.client(LISTED), self.client("203.0.113.1")
        waiting.send(f"MAIL FROM:<>\r\nRCPT TO:<{self.user.address}>\r\n".encode())
        other.deliver(MESSAGE, [self.user.address])
        self.assertEqual([waiting.reply()[0], waiting.reply()[0]], [250, 250])
        waiting.content(MESSAGE)
        waiting.finish()
        self.assertGreater(self.metric("blocklist_faults"), before)

    def test_name_server_that_is_dead(self):
        self.nsd.stop()
        self.addCleanup(self.nsd.start)
        for node in 0, 1:
            before = self.metric("blocklist_faults", node)
            self.client(LISTED, node=node).deliver(MESSAGE, [self.user.address])
            self.assertGreater(self.metric("blocklist_faults", node), before)

    # --- guesses --------------------------------------------------------------------------------

    def guess(self, smtp, *codes):
        """Unknown recipients, until the session is over."""
        self.assertEqual(smtp.mail()[0], 250)
        replies = [smtp.rcpt(f"guess{n}@{DOMAIN}") for n in range(len(codes))]
        self.assertEqual([code for code, _ in replies], list(codes))
        self.assertRegex(replies[-1][1], r"^4\.7\.0 .*unknown recipients")
        self.assertTrue(smtp.at_end())

    def test_guesser(self):
        before = self.metric("limit_guesses"), self.metric("limit_sessions")
        self.guess(self.client("198.51.100.7"), *[550] * 5, 421)
        with self.assertRaisesRegex(Refused, r"^4\.7\.0 "):
            self.client("198.51.100.7")
        self.assertGreaterEqual(self.metric("limit_guesses"), before[0] + 1)
        self.assertEqual(self.metric("limit_sessions"), before[1] + 1)
        self.client("198.51.101.7").deliver(MESSAGE, [self.user.address])
        self.assertRegex(self.fast.log.read_text(),
                         r' limit\.refused .*peer=198\.51\.100\.7 why="unknown recipients"')

    def test_guesser_by_ipv6(self):
        self.guess(self.client("2001:db8:7:1::1"), *[550] * 5, 421)
        with self.assertRaisesRegex(Refused, r"^4\.7\.0 "):
            self.client("2001:db8:7:1:2::2")
        self.assertEqual(self.answers(self.client("2001:db8:8::1"), "user"), [250])

    def test_guesser_over_several_sessions(self):
        for _ in range(2):
            self.assertEqual(self.answers(self.client("198.51.102.1"), "a", "b"), [550, 550])
        self.guess(self.client("198.51.102.1"), 550, 421)

    def test_guesses_behind_a_relay(self):
        """They count for the client that it names; the relay itself is let in."""
        with self.smtp() as smtp:
            self.relayed(smtp, "198.51.103.1")
            self.guess(smtp, *[550] * 5, 421)
        with self.smtp() as smtp:
            self.assertEqual(self.answers(smtp, "user"), [250])
            self.relayed(smtp, "198.51.103.1")
            self.guess(smtp, 421)

    def test_who_may_guess(self):
        """A gateway of our own, by LMTP; and who is exempt, but for the errors of a session."""
        names = [f"guess{n}" for n in range(15)]
        with self.lmtp() as lmtp:
            self.assertEqual(self.answers(lmtp, *names, "user"), [550] * 15 + [250])
        self.assertEqual(self.answers(self.client("203.0.113.1"), *names, "user"),
                         [550] * 15 + [250])

    # --- the tarpit -----------------------------------------------------------------------------

    def test_tarpit(self):
        """Nobody waits for the one who waits, and he is not forgotten when he hangs up."""
        smtp = self.client("198.51.104.1", node=1)
        self.assertEqual(smtp.mail()[0], 250)
        smtp.send(f"RCPT TO:<nobody@{DOMAIN}>\r\n".encode())
        mistaken = self.client("198.51.104.2", node=1)
        mistaken.send(b"NONSENSE\r\n")
        with self.client("198.51.104.3", node=1) as other:
            other.deliver(MESSAGE, [self.user.address])
            other.quit()
        self.assertTrue(self.is_silent(smtp))
        self.assertTrue(self.is_silent(mistaken))
        smtp.reset()
        mistaken.reset()
        self.eventually(20, lambda: self.assertRegex(
            self.slow.get("/metrics")[0], r"(?m)^mailfleet_sessions 0$"))

    def test_tarpit_is_for_some(self):
        for session in self.client("203.0.113.1", node=1), self.lmtp(1):
            with session:
                self.assertEqual(self.answers(session, "nobody", "user"), [550, 250])
                self.assertEqual(session.command("NONSENSE")[0], 500)

    def test_tarpit_ends(self):
        """The answer comes, and the session goes on with what was sent meanwhile."""
        smtp = self.client("198.51.105.1")
        self.assertEqual(smtp.command("NONSENSE")[0], 500)
        smtp.send(b"NONSENSE\r\n")
        smtp.send(f"MAIL FROM:<>\r\nRCPT TO:<{self.user.address}>\r\n".encode())
        self.assertEqual([smtp.reply()[0] for _ in range(3)], [500, 250, 250])
        smtp.content(MESSAGE)
        smtp.finish()
        smtp.quit()


if __name__ == "__main__":
    harness.main()
