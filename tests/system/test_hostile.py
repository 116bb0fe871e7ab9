#!/usr/bin/python3 -B
"""What hostile peers do: every one is answered or closed, costs a bounded amount of memory, and is
logged once; and beside them others are served."""

import contextlib
import os
import re
import socket
import ssl
import threading

import harness
from harness import HOST
from mail import Pop3, Smtp

# What AddressSanitizer keeps of freed memory would pass for growth.
os.environ["ASAN_OPTIONS"] = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"),
                                                    "quarantine_size_mb=1"]))

MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"
MEBI = 1 << 20


class Raw:
    """A connection that says what it is told, and tells what came back."""

    def __init__(self, port, tls=None):
        self.socket = socket.create_connection((HOST, port), timeout=30)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    def send(self, octets):
        """False when the peer has closed meanwhile."""
        try:
            self.socket.sendall(octets)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def rest(self):
        """All until the server closes."""
        told = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(65536):
                told += piece
        return told

    def until(self, end):
        told = b""
        while end not in told:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError(told)
            told += piece
        return told


class Hostile(harness.FleetTest):
    settings = {"node.workers": "1", "node.max_sessions": "300", "pop3.timeout": "10s",
                "smtp.command_timeout": "3s", "smtp.data_timeout": "4s", "smtp.tarpit": "0",
                "smtp.max_unknown": "0"}

    @property
    def front_end(self):
        return self.fleet.front_ends[0]

    @property
    def deliver_node(self):
        return self.fleet.delivery_nodes[0]

    def port(self, service):
        node = self.front_end if service.startswith("pop3") else self.deliver_node
        return node.ports[service]

    @staticmethod
    def resident(node):
        """Octets of memory of the node's processes."""
        total = 0
        for pid in node.pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", encoding="ascii") as f:
                total += int(f.read().split()[1]) * 4096
        return total

    def well(self):
        """Others are served."""
        user = getattr(type(self), "user", None) or self.account("well")
        type(self).user = user
        self.deliver(MESSAGE, user)
        with self.pop3(user) as pop3:
            self.assertGreater(pop3.stat()[0], 0)
            pop3.quit()

    def lines(self, node, event):
        return [line for line in node.log.read_text(errors="replace").splitlines()
                if event in line]

    # --- commands in the clear in front of TLS ----------------------------------------------------

    def test_commands_behind_stls(self):
        with Raw(self.port("pop3")) as raw:
            raw.send(b"STLS\r\nUSER mallory\r\n")
            self.assertNotIn(b"USER", raw.rest())
        self.eventually(20, lambda: self.assertTrue(
            self.lines(self.front_end, "plain text behind STLS")))

    def test_commands_behind_starttls(self):
        for service, hello in (("smtp", b"EHLO"), ("lmtp", b"LHLO")):
            with Raw(self.port(service)) as raw:
                raw.send(hello + b" x\r\nSTARTTLS\r\nMAIL FROM:<mallory@example.org>\r\n")
                self.assertNotIn(b"Sender ok", raw.rest())
        self.eventually(20, lambda: self.assertEqual(
            len(self.lines(self.deliver_node, "plain text behind STARTTLS")), 2))

    def test_plain_text_instead_of_a_handshake(self):
        for service in ("pop3", "smtp"):
            with Raw(self.port(service)) as raw:
                raw.until(b"\r\n")
                raw.send(b"STLS\r\n" if service == "pop3" else b"EHLO x\r\nSTARTTLS\r\n")
                raw.until(b"+OK" if service == "pop3" else b"220 2.0.0")
                raw.send(b"QUIT\r\n" * 10)
                self.assertNotIn(b"bye", raw.rest())
        self.well()

    def test_a_password_behind_auth_is_a_response(self):
        """What is pipelined behind AUTH answers its challenge, and never is a command."""
        user = self.account("pipelined")
        with Raw(self.port("pop3s"), tls=self.tls) as raw:
            raw.send(b"AUTH PLAIN\r\nUSER %s\r\nPASS %s\r\nQUIT\r\n" %
                     (user.address.encode(), user.password.encode()))
            told = raw.rest()
        self.assertEqual(told.count(b"+OK"), 2, told)  # the greeting and QUIT

    # --- other protocols --------------------------------------------------------------------------

    def test_http(self):
        request = (b"POST / HTTP/1.1\r\nHost: mail.example.org\r\nContent-Length: 1000\r\n\r\n"
                   b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n")
        for service in ("smtp", "lmtp", "pop3"):
            with Raw(self.port(service)) as raw:
                raw.send(request * 20)
                told = raw.rest()
            self.assertNotIn(b"Sender ok", told)
            self.assertLess(told.count(b"\r\n"), 40, told)
        self.well()

    def test_a_tls_hello_in_the_clear(self):
        for service in ("smtp", "pop3"):
            context = ssl.create_default_context(cafile=self.fleet.ca)
            raw = socket.create_connection((HOST, self.port(service)), timeout=30)
            with raw, self.assertRaises((ssl.SSLError, OSError)):
                context.wrap_socket(raw, server_hostname="localhost")
        self.well()

    def test_garbage_instead_of_tls(self):
        for _ in range(20):
            with Raw(self.port("pop3s")) as raw:
                raw.send(b"\x16\x03\x01\xff\xff" + b"\0" * 70_000)
                raw.rest()
        self.well()

    # --- sizes ------------------------------------------------------------------------------------

    def test_commands_of_megabytes(self):
        before = {node: self.resident(node) for node in (self.front_end, self.deliver_node)}
        for service in ("smtp", "lmtp", "pop3"):
            with Raw(self.port(service)) as raw:
                raw.until(b"\r\n")
                for _ in range(64):
                    raw.send(b"x" * MEBI)
                raw.send(b"\r\nQUIT\r\n")
                told = raw.rest()
            self.assertEqual(told.count(b"too long"), 1, told)
            self.assertEqual(told.count(b"\r\n"), 2, told)
        for node, octets in before.items():
            self.assertLess(self.resident(node) - octets, 32 * MEBI, node.name)

    def test_a_response_of_megabytes(self):
        before = self.resident(self.front_end)
        with Raw(self.port("pop3s"), tls=self.tls) as raw:
            raw.until(b"\r\n")
            raw.send(b"AUTH PLAIN\r\n")
            raw.until(b"+ ")
            for _ in range(16):
                raw.send(b"QUFB" * (MEBI // 4))
            raw.send(b"\r\nQUIT\r\n")
            self.assertEqual(raw.rest().count(b"-ERR"), 1)
        self.assertLess(self.resident(self.front_end) - before, 32 * MEBI)

    def test_more_data_than_announced(self):
        """SIZE is a word: what counts is what comes."""
        user = self.account("sized")
        with Raw(self.port("smtp")) as raw:
            raw.send(b"EHLO x\r\nMAIL FROM:<> SIZE=10\r\nRCPT TO:<%s>\r\nDATA\r\n"
                     % user.address.encode())
            raw.until(b"354")
            for _ in range(51):
                raw.send((b"x" * 998 + b"\r\n") * 1049)
            raw.send(b"\r\n.\r\nQUIT\r\n")
            self.assertIn(b"552 5.3.4", raw.rest())
        self.assertEqual(self.mailbox(user), [])

    def test_a_pipeline_that_reads_nothing(self):
        """Commands without end from a client that takes no reply: the server stops reading."""
        before = self.resident(self.front_end)
        with Raw(self.port("pop3")) as raw:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.socket.settimeout(2)
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 256 * MEBI:
                    sent += raw.socket.send(b"CAPA\r\n" * 10_000)
        self.assertLess(sent, 256 * MEBI)
        self.assertLess(self.resident(self.front_end) - before, 48 * MEBI)
        self.well()

    # --- time -------------------------------------------------------------------------------------

    def test_a_slow_sender(self):
        """An octet now and then moves no deadline."""
        with Raw(self.port("smtp")) as raw:
            raw.until(b"\r\n")
            closed = self.trickle(raw, b"EHLO client.example.net" * 10)
            self.assertIn(b"421 4.4.2", closed)

    def test_slow_data(self):
        user = self.account("slow")
        with Raw(self.port("smtp")) as raw:
            raw.send(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n" % user.address.encode())
            raw.until(b"354")
            self.trickle(raw, b"x" * 1000)
        self.assertEqual(self.mailbox(user), [])

    @staticmethod
    def trickle(raw, octets):
        """Sends one octet in 0.1 s until the server has closed; what it said."""
        raw.socket.settimeout(0.1)
        told = b""
        for octet in octets:
            if not raw.send(bytes([octet])):
                break
            try:
                piece = raw.socket.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                continue
            except ConnectionResetError:
                break
            if not piece:
                break
            told += piece
        else:
            raise AssertionError("the server waits for ever")
        return told

    def test_a_slow_reader(self):
        """A client that stops in the middle of RETR is given up, and the mailbox is free again."""
        user = self.account("reader")
        self.deliver(MESSAGE + (b"y" * 998 + b"\r\n") * 20_000, user)
        pop3 = self.pop3(user)
        pop3.send(b"RETR 1\r\n")
        self.eventually(60, lambda: self.assertTrue(
            [line for line in self.lines(self.front_end, "pop3.session")
             if user.address in line and "timeout" in line]))
        pop3.close()
        with self.pop3(user) as again:
            again.quit()

    # --- connections ------------------------------------------------------------------------------

    def test_half_close(self):
        """A client that shuts its side after its commands hears all the answers."""
        user = self.account("half")
        with Raw(self.port("smtp")) as raw:
            raw.send(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n" % user.address.encode())
            raw.until(b"354")
            raw.send(MESSAGE + b".\r\nQUIT\r\n")
            raw.socket.shutdown(socket.SHUT_WR)
            told = raw.rest()
        self.assertIn(b"250 2.0.0 Delivered", told)
        self.assertIn(b"221 2.0.0", told)
        with Raw(self.port("pop3")) as raw:
            raw.send(b"CAPA\r\nNOOP\r\n")
            raw.socket.shutdown(socket.SHUT_WR)
            self.assertIn(b"\r\n.\r\n-ERR", raw.rest())

    def test_a_message_that_is_cut_off(self):
        user = self.account("cut")
        for end in (b"", b"\r\n", b"\r\n.", b"\r\n.\r"):
            with Raw(self.port("smtp")) as raw:
                raw.send(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n"
                         % user.address.encode())
                raw.until(b"354")
                raw.send(b"Subject: cut\r\n\r\nnot all" + end)
                raw.socket.shutdown(socket.SHUT_WR)
                raw.rest()
        self.assertEqual(self.mailbox(user), [])

    def test_a_flood_that_never_speaks(self):
        """Over node.max_sessions each gets a temporary error; afterwards all is as before."""
        for service, refusal in (("smtp", b"421 4.3.2"), ("pop3", b"-ERR [SYS/TEMP]")):
            with contextlib.ExitStack() as stack:
                raws = [stack.enter_context(Raw(self.port(service))) for _ in range(400)]
                greetings = [raw.until(b"\r\n") for raw in raws]
            self.assertEqual(sum(g.startswith(refusal) for g in greetings), 100)
            self.eventually(30, self.well)

    def test_a_flood_of_handshakes_that_never_end(self):
        """Connections to the TLS port that say nothing don't keep others out."""
        with contextlib.ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(Raw(self.port("pop3s")))
            user = self.account("handshakes")
            with Pop3(self.port("pop3s"), tls=self.tls) as pop3:
                pop3.login(user)
                pop3.quit()

    def test_resets(self):
        for _ in range(200):
            smtp = Smtp(self.port("smtp"))
            smtp.send(b"MAIL FROM:<>\r\n" * 10)
            smtp.reset()
        self.eventually(30, self.well)

    def test_no_growth_by_repetition(self):
        """A thousand sessions of each kind of misuse leave no memory behind."""
        def misuse():
            for service in ("pop3", "smtp"):
                for _ in range(50):
                    with Raw(self.port(service)) as raw:
                        raw.send(b"A" * 5000 + b"\r\n" + b"FOO\r\n" * 30)
                        raw.rest()

        def round_of_misuse():
            threads = [threading.Thread(target=misuse) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        round_of_misuse()
        before = self.resident(self.front_end), self.resident(self.deliver_node)
        for _ in range(4):
            round_of_misuse()
        after = self.resident(self.front_end), self.resident(self.deliver_node)
        for old, new in zip(before, after):
            self.assertLess(new - old, 16 * MEBI)

    def test_one_line_a_session(self):
        """However much nonsense a session says, its log line is one."""
        before = len(self.deliver_node.log.read_bytes())
        with Raw(self.port("smtp")) as raw:
            raw.send(b"NONSENSE \x1b[31m \"x\" y=z\r\n" * 19 + b"QUIT\r\n")
            raw.rest()
        self.eventually(10, lambda: self.assertGreater(
            len(self.deliver_node.log.read_bytes()), before))
        with open(self.deliver_node.log, "rb") as log:
            log.seek(before)
            new = log.read()
        self.assertEqual(len([line for line in new.splitlines() if b"smtp." in line]), 1, new)
        self.assertIsNone(re.search(rb"[\x00-\x08\x0e-\x1f]", new))


if __name__ == "__main__":
    harness.main()
