"""The client's side of SASL over POP3 (RFC 5034): exchanges by hand, which can be done wrong on
purpose, and by GNU SASL.

An exchange is an object with respond(challenge), None for the initial response; it raises Wrong
when the server does not prove what it has to. authenticate() carries it.
"""

import base64
import ctypes
import hashlib
import hmac
import re
import secrets
import socket
import subprocess

from mail import HOST


class Wrong(Exception):
    """The server has not said what it must."""


# --- POP3 -----------------------------------------------------------------------------------------


def authenticate(pop3, mechanism, exchange, initial=True):
    """AUTH to its end: the last reply. With initial, the first response is in the command."""
    command = f"AUTH {mechanism}"
    if initial:
        # RFC 5034, section 4: an empty one is written as a single `=`.
        command += " " + (base64.b64encode(exchange.respond(None)).decode() or "=")
    pop3.send(command.encode() + b"\r\n")
    first = not initial
    while (line := pop3.line()).startswith(b"+ "):
        challenge = base64.b64decode(line[2:], validate=True)
        if first and challenge:
            raise Wrong(f"the first challenge is not empty: {challenge}")
        pop3.send(base64.b64encode(exchange.respond(None if first else challenge)) + b"\r\n")
        first = False
    if not re.match(rb"(\+OK|-ERR)( |$)", line):
        raise Wrong(f"not a reply: {line}")
    return line.decode()


def mechanisms(pop3):
    """Those of CAPA, which AUTH without words must list alike; None: the tag is missing."""
    told = [line.decode().split()[1:] for line in pop3.multi("CAPA") if line.startswith(b"SASL")]
    listed = [line.decode() for line in pop3.multi("AUTH")]
    if (told[0] if told else []) != listed:
        raise Wrong(f"CAPA says {told}, AUTH says {listed}")
    return told[0] if told else None


# --- exchanges ------------------------------------------------------------------------------------


class Says:
    """What is said, whatever is asked; what was asked is kept."""

    def __init__(self, *responses):
        self.responses = list(responses)
        self.challenges = []

    def respond(self, challenge):
        if challenge is not None:
            self.challenges.append(challenge)
        return self.responses.pop(0)


class Plain(Says):
    """RFC 4616."""

    def __init__(self, user, password):
        super().__init__(b"\0" + user.encode() + b"\0" + password.encode())


class Bearer(Says):
    """RFC 7628; \\x01 is the answer to what is wrong."""

    def __init__(self, token, user=None):
        authzid = f"a={user}" if user else ""
        super().__init__(f"n,{authzid},\1host=localhost\1port=110\1auth=Bearer {token}\1\1".encode(),
                         b"\1")


class XOAuth2(Says):
    """Google's form; an empty answer to what is wrong."""

    def __init__(self, token, user):
        super().__init__(f"user={user}\1auth=Bearer {token}\1\1".encode(), b"")


class Scram:
    """RFC 5802, by hand; binding: (its type, its data); flag: y to say that the server has none."""

    def __init__(self, user, password, name="sha256", binding=None, flag="n"):
        self.password = password
        self.name = name
        self.header = f"p={binding[0]},,".encode() if binding else f"{flag},,".encode()
        self.data = binding[1] if binding else b""
        name = user.replace("=", "=3D").replace(",", "=2C")
        self.bare = f"n={name},r={secrets.token_hex(12)}".encode()
        self.steps = [self.first, self.final, self.verify]
        self.salt = self.iterations = None  # what the server said of the user

    def respond(self, challenge):
        return self.steps.pop(0)(challenge)

    def digest(self, key, text):
        return hmac.digest(key, text, self.name)

    def first(self, _challenge):
        return self.header + self.bare

    def final(self, challenge):
        match = re.fullmatch(rb"(r=([!-+\--~]+)),s=([A-Za-z0-9+/=]+),i=(\d+)", challenge)
        if not match or not match[2].startswith(self.bare.split(b",r=")[1]):
            raise Wrong(f"no server-first-message: {challenge}")
        self.salt, self.iterations = base64.b64decode(match[3]), int(match[4])
        without = b"c=" + base64.b64encode(self.header + self.data) + b"," + match[1]
        message = b",".join((self.bare, challenge, without))
        salted = hashlib.pbkdf2_hmac(self.name, self.password.encode(), self.salt, self.iterations)
        key = self.digest(salted, b"Client Key")
        signature = self.digest(hashlib.new(self.name, key).digest(), message)
        proof = bytes(a ^ b for a, b in zip(key, signature))
        self.signature = self.digest(self.digest(salted, b"Server Key"), message)
        return without + b",p=" + base64.b64encode(proof)

    def verify(self, challenge):
        if challenge == b"v=" + base64.b64encode(self.signature):
            return b""
        if challenge.startswith(b"e="):
            return b""
        raise Wrong(f"the server does not know the password: {challenge}")


def end_point(certificate):
    """tls-server-end-point (RFC 5929) of a certificate whose signature has SHA-256 in it."""
    return "tls-server-end-point", hashlib.sha256(certificate).digest()


class GnuSasl:
    """An exchange of GNU SASL's, as mail programs have it."""

    AUTHID, PASSWORD, SERVICE, HOSTNAME, CB_TLS_EXPORTER = 1, 3, 5, 6, 25
    OK, NEEDS_MORE = 0, 1

    def __init__(self, mechanism, user, password, exporter=None):
        self.library = ctypes.CDLL("libgsasl.so.18")
        self.context, self.session = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.library.gsasl_init(ctypes.byref(self.context)))
        self.check(self.library.gsasl_client_start(self.context, mechanism.encode(),
                                                   ctypes.byref(self.session)))
        for name, value in ((self.AUTHID, user), (self.PASSWORD, password),
                            (self.SERVICE, "pop"), (self.HOSTNAME, "localhost")):
            self.library.gsasl_property_set(self.session, name, value.encode())
        if exporter:
            self.library.gsasl_property_set(self.session, self.CB_TLS_EXPORTER,
                                            base64.b64encode(exporter))
        self.done = False  # and convinced that the server knows the password

    def check(self, code):
        if code not in (self.OK, self.NEEDS_MORE):
            raise Wrong(f"GNU SASL: error {code}")
        return code

    def respond(self, challenge):
        out, size = ctypes.c_void_p(), ctypes.c_size_t()
        challenge = challenge or b""
        code = self.library.gsasl_step(self.session, challenge, ctypes.c_size_t(len(challenge)),
                                       ctypes.byref(out), ctypes.byref(size))
        self.done = self.check(code) == self.OK
        response = ctypes.string_at(out, size.value)
        self.library.gsasl_free(out)
        return response

    def __del__(self):
        self.library.gsasl_finish(self.session)
        self.library.gsasl_done(self.context)


# --- TLS with its exporter ------------------------------------------------------------------------


class SClient:
    """POP3 over implicit TLS by `openssl s_client`, which tells the exporter of RFC 9266."""

    def __init__(self, port, ca):
        self.process = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"{HOST}:{port}", "-servername", "localhost",
             "-CAfile", ca, "-verify_return_error", "-tls1_3", "-ign_eof", "-nocommands",
             "-keymatexport", "EXPORTER-Channel-Binding", "-keymatexportlen", "32"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.exporter = bytes.fromhex(self.match(rb"\s*Keying material: ([0-9A-F]{64})\s*")[1]
                                      .decode())
        self.match(rb"\+OK .*\r\n")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.terminate()
        self.process.stdout.close()
        self.process.wait()

    def match(self, pattern):
        """The next line that is of this form: others tell of the connection."""
        for line in self.process.stdout:
            if match := re.fullmatch(pattern, line):
                return match
        raise EOFError("openssl has ended")

    def send(self, octets):
        self.process.stdin.write(octets)
        self.process.stdin.flush()

    def line(self):
        return self.match(rb"((?:\+OK|-ERR|\+) .*)\r\n")[1]


def certificate_of(pop3):
    return pop3.socket.getpeercert(binary_form=True)


def closed_port():
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as free:
        return free.getsockname()[1]
