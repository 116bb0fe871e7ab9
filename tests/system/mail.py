"""Mail clients of the system tests: POP3, SMTP and LMTP on raw sockets, octet for octet.

Python's own libraries mend line ends, limit lines and hide replies; these send what they are told
and return what came. They check the framing of every reply. An unexpected reply is a Refused, a
connection that ends is an EOFError or OSError.
"""

import base64
import contextlib
import re
import socket
import ssl
import struct

HOST = "127.0.0.1"


class Refused(Exception):
    """A reply that is not the one asked for."""

    def __init__(self, reply, code=0):
        super().__init__(reply)
        self.reply = reply
        self.code = code


class LineClient:
    def __init__(self, port, tls=None, timeout=30, preface=b"", host=HOST, name="localhost"):
        """tls: a context, for implicit TLS. preface: octets that go first (a PROXY header). name:
        whose certificate it must be."""
        self.name = name
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(preface)
        if tls:
            self.wrap(tls)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def wrap(self, tls):
        self.socket = tls.wrap_socket(self.socket, server_hostname=self.name)
        self.file = self.socket.makefile("rb")

    def send(self, octets):
        self.socket.sendall(octets)

    def line(self):
        """The next line without its CRLF."""
        line = self.file.readline()
        if not line:
            raise EOFError("the server closed the connection")
        if not line.endswith(b"\r\n"):
            raise EOFError(f"the connection ended in mid-line: {line[-60:]!r}")
        return line[:-2]

    def at_end(self):
        """Whether the server has closed, and says nothing more before it."""
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True

    def close(self):
        with contextlib.suppress(OSError):
            self.file.close()
            self.socket.close()

    def reset(self):
        """Ends the connection with a TCP reset, as a crashed client's host does."""
        raw = socket.socket(fileno=self.socket.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.file.close()
        raw.close()


class Pop3(LineClient):
    def __init__(self, port, tls=None, stls=None, **options):
        super().__init__(port, tls=tls, **options)
        self.greeting = self.reply()
        if stls:
            self.ok("STLS")
            self.wrap(stls)

    def reply(self):
        line = self.line()
        if not re.match(rb"(\+OK|-ERR)( |$)", line) or len(line) > 510:
            raise AssertionError(f"not a POP3 reply: {line!r}")
        return line.decode()

    def command(self, text):
        self.send(text.encode() + b"\r\n")
        return self.reply()

    def ok(self, text):
        reply = self.command(text)
        if not reply.startswith("+OK"):
            raise Refused(reply)
        return reply[4:]

    def lines(self):
        """The lines of a multi-line reply, not dot-stuffed any more."""
        found = []
        while (line := self.line()) != b".":
            found.append(line[1:] if line.startswith(b".") else line)
        return found

    def multi(self, text):
        self.ok(text)
        return self.lines()

    def login(self, account):
        self.ok(f"USER {account.address}")
        return self.ok(f"PASS {account.password}")

    def stat(self):
        count, octets = self.ok("STAT").split()[:2]
        return int(count), int(octets)

    def list(self):
        """number -> octets"""
        return {int(n): int(octets) for n, octets in (line.split() for line in self.multi("LIST"))}

    def uidl(self):
        """number -> unique id"""
        return {int(n): uid.decode() for n, uid in (line.split() for line in self.multi("UIDL"))}

    def retr(self, number):
        """The message, exactly."""
        return b"".join(line + b"\r\n" for line in self.multi(f"RETR {number}"))

    def quit(self):
        self.ok("QUIT")
        if not self.at_end():
            raise AssertionError("octets after the reply to QUIT")
        self.close()


def plain(address, password):
    """The initial response of AUTH PLAIN (RFC 4616)."""
    return base64.b64encode(b"\0" + address.encode() + b"\0" + password.encode()).decode()


class Smtp(LineClient):
    """SMTP, or LMTP: there the end of the data has a reply for each recipient."""

    def __init__(self, port, lmtp=False, starttls=None, greet=True, **options):
        super().__init__(port, **options)
        self.lmtp = lmtp
        self.greeting = self.reply()
        if self.greeting[0] != 220:
            raise Refused(self.greeting[1], self.greeting[0])
        self.extensions = []
        if starttls:
            self.hello()
            self.expect(220, "STARTTLS")
            self.wrap(starttls)
        if greet:
            self.hello()

    def hello(self):
        text = self.expect(250, "LHLO client.example" if self.lmtp else "EHLO client.example")
        self.extensions = text.splitlines()[1:]

    def reply(self):
        """(code, text); the lines of a longer reply are joined by a newline."""
        texts = []
        while True:
            line = self.line()
            if not re.match(rb"[2-5][0-9][0-9]([ -]|$)", line) or len(line) > 510:
                raise AssertionError(f"not an SMTP reply: {line!r}")
            texts.append(line[4:].decode())
            if line[3:4] != b"-":
                return int(line[:3]), "\n".join(texts)

    def command(self, text):
        self.send(text.encode() + b"\r\n")
        return self.reply()

    def expect(self, code, text):
        found, reply = self.command(text)
        if found != code:
            raise Refused(f"{found} {reply}", found)
        return reply

    def mail(self, sender="sender@example.org", parameters=""):
        return self.command(f"MAIL FROM:<{sender}>{parameters}")

    def rcpt(self, address):
        return self.command(f"RCPT TO:<{address}>")

    def content(self, message):
        """DATA and a message that ends in CRLF; finish() reads what became of it."""
        code, text = self.command("DATA")
        if code != 354:
            raise Refused(f"{code} {text}", code)
        self.send(stuff(message) + b".\r\n")

    def deliver(self, message, recipients, sender="sender@example.org"):
        """A whole transaction; every recipient is accepted or it is Refused, as the message."""
        self.begin(recipients, sender)
        self.content(message)
        self.finish(len(recipients))

    def begin(self, recipients, sender="sender@example.org"):
        for code, text in [self.mail(sender, " BODY=8BITMIME"), *map(self.rcpt, recipients)]:
            if code != 250:
                self.command("RSET")
                raise Refused(f"{code} {text}", code)

    def finish(self, recipients=1):
        replies = [self.reply() for _ in range(recipients if self.lmtp else 1)]
        for code, text in replies:
            if code != 250:
                raise Refused(f"{code} {text}", code)
        return replies

    def quit(self):
        self.expect(221, "QUIT")
        self.close()


def stuff(message):
    """Dot-stuffing as RFC 5321, section 4.5.2, has it; lines end in CRLF alone."""
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


# Up to the date, which ends it: what follows may begin with a blank and belong to the message.
TRACE = re.compile(rb"Return-Path: <[^\r\n]*>\r\n"
                   rb"Received: (?:[^\r\n]+\r\n[ \t])+?"
                   rb"\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r\n")


def without_trace(served):
    """A served message without the Return-Path: and Received: that the node put in front."""
    match = TRACE.match(served)
    if not match:
        raise AssertionError(f"no Return-Path: and Received: in front: {served[:200]!r}")
    return served[match.end():]
