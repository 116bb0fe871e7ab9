#!/usr/bin/python3
"""
load_programs: the load generators as whole programs.

  load_programs.py BARE_SERVER LOAD_POP3 LOAD_MAIL LOAD_BARE

What they tell is compared with what a server has counted: bare_server for good conversations, servers
written down here for bad ones, for TLS, and for what only sockets have: a connection that ends early, a
server that says nothing more, a reply in several pieces. What is wrong in a reply is judged in
test_load_pop3 and test_load_mail.
"""

import contextlib
import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

BARE_SERVER, LOAD_POP3, LOAD_MAIL, LOAD_BARE = sys.argv[1:5]
HOST = "127.0.0.1"
LIMIT = 60  # seconds, of a program that hangs
USERS = ["--user", "u%06u@bench.example", "--users", "0:50"]
POP3 = [*USERS, "--password", "secret"]


def run(program, server, *words, status=0, stdin=subprocess.DEVNULL):
    """The line of JSON, and what was said on standard error."""
    where = ["--server", f"{HOST}:{server}"] if server else []
    done = subprocess.run([program, *where, *map(str, words)], stdin=stdin, text=True, timeout=LIMIT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != status:
        raise AssertionError(f"{words}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) if status != 64 else None, done.stderr


@contextlib.contextmanager
def bare_server(*words):
    """Its port."""
    with subprocess.Popen([BARE_SERVER, "0", *map(str, words)], stdout=subprocess.PIPE, text=True) as p:
        try:
            yield json.loads(p.stdout.readline())["port"]
        finally:
            p.terminate()


class Server:
    """Gives every connection to a function, in a thread; counts them."""

    def __init__(self, talk, tls=None):
        self.talk, self.tls = talk, tls
        self.connections = 0
        self.listener = socket.create_server((HOST, 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.converse, args=(s,), daemon=True).start()

    def converse(self, s):
        with contextlib.suppress(OSError), s:
            s.settimeout(LIMIT)
            if self.tls:
                s = self.tls.wrap_socket(s, server_side=True)
            with s:
                self.talk(s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)  # which ends accept, too
        self.listener.close()


def pop3(s, replies, lines=None):
    """A POP3 server that knows these replies; silent where one is None."""
    lines = lines or s.makefile("rb")
    s.sendall(replies.get("greeting", b"+OK\r\n"))
    while line := lines.readline():
        word = line[:4].decode(errors="replace")
        reply = replies.get(word, b"+OK 0 0\r\n" if word == "STAT" else b"+OK\r\n")
        if reply is None:
            continue
        for piece in reply if isinstance(reply, list) else [reply]:
            s.sendall(piece)
        if word == "QUIT" or reply == b"":
            return


def certificate(folder):
    """A context for a server with a certificate of its own, that gives tickets."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(["/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-noenc", "-days", "2", "-subj", "/CN=localhost",
                    "-keyout", key, "-out", cert], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


class Good(unittest.TestCase):
    def test_pop3(self):
        with bare_server("--poll", "--messages", 30, "--size", 5000) as port:
            for work in "poll", "uidl", "list", "drain", "retr":
                for more in [], ["--pipeline"]:
                    told, said = run(LOAD_POP3, port, *POP3, "--work", work, "--at-once", 5,
                                     "--operations", 20, "--messages", 30, "--size", 5000, *more)
                    self.assertEqual((told["work"], told["operations"], told["errors"], said),
                                     (work, 20, 0, ""))
                    self.assertEqual(told["octets_in"] > 20 * 30 * 5000, work in ("drain", "retr"))
                    latency = told["latency_us"]
                    order = [latency[k] for k in ("min", "p50", "p90", "p99", "p999", "max")]
                    self.assertEqual(order, sorted(order))
                    self.assertGreater(latency["min"], 0)

    def test_storm(self):
        with bare_server("--poll") as port:
            told, _ = run(LOAD_POP3, port, *POP3, "--work", "storm", "--at-once", 50)
            self.assertEqual((told["operations"], told["errors"]), (50, 0))

    def test_idle(self):
        with bare_server("--poll") as port:
            words = [LOAD_POP3, "--server", f"{HOST}:{port}", *POP3, "--work", "idle", "--at-once", "50"]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
                self.assertEqual(json.loads(p.stdout.readline()), {"ready": 50})
                self.assertIsNone(p.poll())
                told = json.loads(p.communicate(timeout=LIMIT)[0])
                self.assertEqual((told["operations"], told["errors"], p.returncode), (50, 0, 0))

    def test_seconds(self):
        with bare_server("--poll") as port:
            told, _ = run(LOAD_POP3, port, *POP3, "--work", "poll", "--at-once", 2, "--seconds", 1)
            self.assertGreater(told["operations"], 0)
            self.assertGreaterEqual(told["seconds"], 1)
            self.assertAlmostEqual(told["rate"], told["operations"] / told["seconds"], places=1)

    def test_addresses(self):
        """A user comes from one address, another one from another; who has none takes them in turn."""
        seen = []

        def talk(s):
            lines = s.makefile("rb")
            s.sendall(b"+OK\r\n")
            seen.append((lines.readline(), s.getpeername()[0]))
            pop3(s, {"greeting": b"+OK\r\n"}, lines)

        with Server(talk) as server:
            run(LOAD_POP3, server.port, *POP3, "--work", "poll", "--at-once", 7, "--operations", 200)
        users, addresses, pairs = {u for u, _ in seen}, {a for _, a in seen}, set(seen)
        self.assertEqual((len(seen), len(users), len(addresses), len(pairs)), (200, 50, 50, 50))

        def close(s):
            addresses.add(s.getpeername()[0])

        addresses.clear()
        with Server(close) as server:
            run(LOAD_BARE, server.port, "--work", "connect", "--at-once", 1, "--operations", 40,
                "--sources", 8)
        self.assertEqual(len(addresses), 8)

    def test_mail(self):
        with bare_server("--mail") as port:
            for protocol in "smtp", "lmtp":
                for more in ([], ["--pipeline"], ["--per-connection", "all", "--pipeline"],
                             ["--per-connection", 3, "--size", "real"], ["--size", 1048576]):
                    told, said = run(LOAD_MAIL, port, *USERS, "--protocol", protocol, "--at-once", 4,
                                     "--operations", 20, "--recipients", 3, *more)
                    self.assertEqual((told["work"], told["operations"], told["messages"],
                                      told["errors"], said), (protocol, 20, 60, 0, ""))

    def test_connections(self):
        with bare_server("--close") as port:
            told, _ = run(LOAD_BARE, port, "--work", "connect", "--at-once", 5, "--operations", 100)
            self.assertEqual((told["operations"], told["errors"]), (100, 0))

    def test_pieces(self):
        """A reply that comes octet by octet is the same reply."""
        stat = [bytes([octet]) for octet in b"+OK 0 0\r\n"]
        with Server(lambda s: pop3(s, {"STAT": stat})) as server:
            told, _ = run(LOAD_POP3, server.port, *POP3, "--work", "poll", "--at-once", 2,
                          "--operations", 10)
            self.assertEqual((told["operations"], told["errors"]), (10, 0))


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.context = certificate(Path(folder.name))

    def check(self, server, resumed, *words):
        told, said = run(LOAD_POP3, server.port, *POP3, "--work", "poll", "--at-once", 2,
                         "--operations", 20, *words)
        self.assertEqual((told["operations"], told["errors"], told["tls_handshakes"], said),
                         (20, 0, 20, ""))
        self.assertEqual(told["tls_resumed"], resumed)
        self.assertEqual(server.connections, 20)

    def test_pop3s(self):
        with Server(lambda s: pop3(s, {}), self.context) as server:
            self.check(server, 0, "--tls", "pop3s")

    def test_resumed(self):
        with Server(lambda s: pop3(s, {}), self.context) as server:
            self.check(server, 18, "--tls", "pop3s", "--resume")  # all but the first of each slot

    def test_stls(self):
        def talk(s):
            s.sendall(b"+OK\r\n")
            if s.recv(100) == b"STLS\r\n":
                s.sendall(b"+OK\r\n")
                with self.context.wrap_socket(s, server_side=True) as secure:
                    lines = secure.makefile("rb")
                    pop3_inside(secure, lines)

        def pop3_inside(secure, lines):
            while line := lines.readline():
                secure.sendall(b"+OK 0 0\r\n")
                if line == b"QUIT\r\n":
                    return

        with Server(talk) as server:
            self.check(server, 0, "--tls", "stls")

    def test_not_tls(self):
        with Server(lambda s: pop3(s, {"greeting": b"+OK in the clear\r\n"})) as server:
            told, said = run(LOAD_POP3, server.port, *POP3, "--work", "poll", "--at-once", 2, "--tls",
                             "pop3s", "--operations", 4, status=1)
            self.assertEqual((told["operations"], told["errors"]), (0, 4))
            self.assertIn("handshake", said)


class Bad(unittest.TestCase):
    def fails(self, talk, *words, reason, operations=4, good=0):
        with Server(talk) as server:
            told, said = run(LOAD_POP3, server.port, *POP3, "--at-once", 2, "--operations", operations,
                             *words, status=1)
            self.assertEqual((told["operations"], told["errors"]), (good, operations - good))
            self.assertRegex(said, reason)
            return said

    def test_wrong_reply(self):
        said = self.fails(lambda s: pop3(s, {"STAT": b"+OK 1 100\r\n"}), "--work", "poll",
                          "--messages", 0, reason="STAT tells 1 messages, not 0", operations=30)
        self.assertEqual(len(said.splitlines()), 10)  # the first ones
        self.assertIn("u000000@bench.example: ", said)

    def test_some_wrong(self):
        replies = iter([b"+OK\r\n", b"-ERR\r\n"] * 100)
        self.fails(lambda s: pop3(s, {"PASS": next(replies)}), "--work", "poll", operations=20, good=10,
                   reason="PASS: -ERR")

    def test_closed(self):
        self.fails(lambda s: pop3(s, {"STAT": b""}), "--work", "poll", reason="closed the connection")
        self.fails(lambda s: None, "--work", "poll", reason="closed the connection")
        self.fails(lambda s: pop3(s, {"UIDL": b""}), "--work", "uidl", reason="closed the connection")

    def test_silent(self):
        """No terminator: what never comes is an error and not waited for."""
        self.fails(lambda s: pop3(s, {"UIDL": b"+OK\r\n"}), "--work", "uidl", "--time-out", 1,
                   reason="no reply in time", operations=2)

    def test_not_there(self):
        with Server(lambda s: None) as server:
            port = server.port
        told, said = run(LOAD_POP3, port, *POP3, "--work", "poll", "--at-once", 2, "--operations", 4,
                         status=1)
        self.assertEqual((told["operations"], told["errors"]), (0, 4))
        self.assertIn("refused", said)

    def test_gives_up(self):
        with Server(lambda s: None) as server:
            port = server.port
        told, said = run(LOAD_POP3, port, *POP3, "--work", "poll", "--at-once", 2, "--seconds", 600,
                         status=1)
        self.assertTrue(1000 <= told["errors"] <= 1002)
        self.assertIn("too many errors", said)

    def test_idle_ends(self):
        """A session that the server ends while it is held."""
        def talk(s):
            lines = s.makefile("rb")
            s.sendall(b"+OK\r\n")
            for _ in range(3):
                s.sendall(b"+OK 0 0\r\n" if lines.readline() else b"")
            s.sendall(b"-ERR autologout\r\n")

        with Server(talk) as server:
            words = [LOAD_POP3, "--server", f"{HOST}:{server.port}", *POP3, "--work", "idle", "--at-once",
                     "3"]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) as p:
                said = p.communicate(timeout=LIMIT)
                told = json.loads(said[0].splitlines()[-1])
                self.assertEqual((told["operations"], told["errors"], p.returncode), (0, 3, 1))

    def test_mail(self):
        def talk(s):
            lines = s.makefile("rb")
            s.sendall(b"220 mx\r\n")
            for reply in b"250 mx\r\n", b"250 Ok\r\n", b"250 Ok\r\n", b"354 go on\r\n":
                lines.readline()
                s.sendall(reply)
            while lines.readline() not in (b".\r\n", b""):
                pass
            s.sendall(b"451 4.3.0 not now\r\n")

        with Server(talk) as server:
            told, said = run(LOAD_MAIL, server.port, *USERS, "--protocol", "lmtp", "--at-once", 2,
                             "--operations", 4, status=1)
            self.assertEqual((told["operations"], told["messages"], told["errors"]), (0, 0, 4))
            self.assertIn("message: 451 4.3.0 not now", said)

    def test_items(self):
        """An item of memcached that is not what was stored."""
        for item, reason in (b"xx", "differs"), (None, "END, not VALUE"):
            def talk(s):
                lines = s.makefile("rb")
                key = lines.readline().split()[1]
                lines.readline()
                s.sendall(b"STORED\r\n")
                while lines.readline():
                    s.sendall(b"VALUE %s 0 2\r\n%s\r\nEND\r\n" % (key, item) if item else b"END\r\n")

            with Server(talk) as server:
                told, said = run(LOAD_BARE, server.port, "--work", "get", "--size", 2, "--at-once", 1,
                                 "--operations", 1, status=1)
                self.assertEqual((told["operations"], told["errors"]), (0, 1))
                self.assertIn(reason, said)


class Usage(unittest.TestCase):
    def test_wrong(self):
        for program, words in (
                (LOAD_POP3, []), (LOAD_POP3, [*POP3, "--work", "poll", "--operations", "1"]),
                (LOAD_POP3, [*POP3, "--server", "127.0.0.1:1", "--work", "poll"]),
                (LOAD_POP3, [*POP3, "--server", "127.0.0.1:1", "--work", "sing", "--operations", "1"]),
                (LOAD_POP3, [*POP3, "--server", "127.0.0.1", "--work", "poll", "--operations", "1"]),
                (LOAD_POP3, [*POP3, "--server", "127.0.0.1:1", "--work", "poll", "--operations", "0"]),
                (LOAD_POP3, [*POP3, "--server", "127.0.0.1:1", "--work", "poll", "--operations", "1",
                             "--at-once", "51"]),
                (LOAD_POP3, [*POP3, "--user", "%s", "--server", "127.0.0.1:1", "--work", "poll",
                             "--operations", "1"]),
                (LOAD_MAIL, [*USERS, "--server", "127.0.0.1:1", "--operations", "1"]),
                (LOAD_MAIL, [*USERS, "--server", "127.0.0.1:1", "--operations", "1", "--protocol",
                             "lmtp", "--size", "10"]),
                (LOAD_MAIL, [*USERS, "--server", "127.0.0.1:1", "--operations", "1", "--protocol",
                             "lmtp", "--recipients", "51"]),
                (LOAD_BARE, ["--server", "127.0.0.1:1", "--operations", "1"]),
                (BARE_SERVER, ["0"])):
            _, said = run(program, None, *words, status=64)
            self.assertRegex(said, r"^\S+: .+\n$")

    def test_help(self):
        """The help of a program names each of its options."""
        sources = Path(__file__).resolve().parents[2] / "bench/load"
        for program in BARE_SERVER, LOAD_POP3, LOAD_MAIL, LOAD_BARE:
            said = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True,
                                  timeout=LIMIT).stdout
            text = (sources / f"{Path(program).name}.c").read_text()
            if program != BARE_SERVER:
                common = (sources / "options.h").read_text()
                text += common if "OPTIONS_USERS" in text else common.split("OPTIONS_USERS")[0]
            for option in re.findall(r'\{ "([a-z-]+)", \w+_argument', text):
                if option != "help":
                    self.assertIn(f"--{option}", said, program)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[5:])
