"""Random messages that look real, and hold everything that SMTP lets through.

The same seed gives the same messages. Every message ends in CRLF or is empty.
"""

import base64
import random
import textwrap

WORDS = """
    the of and to in is you that it he for was on are as with his they at be this
    from have or by one had not but what all were when we there can an your which
    their said if do will each about how up out them then she many some so these
    would other into has more
""".split()

# SMTP's own octets apart (a CR or LF that is not a line end) everything may come with 8BITMIME.
OCTETS = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")


def random_message(rng):
    """One message of one of the kinds below."""
    kinds = (multipart, multipart, plain_text, plain_text, plain_text, every_octet, dots,
             long_lines, header_only, body_only, empty, blank_lines, nearly_end_of_data, large)
    return rng.choice(kinds)(rng)


def some_messages(seed, count):
    rng = random.Random(seed)
    return [random_message(rng) for _ in range(count)]


def header(rng, *more):
    number = rng.getrandbits(64)
    lines = [f"Date: Thu, 4 Jun 2026 {rng.randrange(24):02}:{rng.randrange(60):02}:00 +0000",
             f"From: \"{rng.choice(WORDS).title()}\" <sender@example.org>",
             "To: undisclosed-recipients:;",
             f"Subject: =?UTF-8?Q?{words(rng, 4).replace(' ', '_')}_=E2=82=AC?=",
             f"Message-ID: <{number:016x}@example.org>",
             f"X-Folded: {words(rng, 5)}\r\n\t{words(rng, 8)}\r\n {words(rng, 3)}", *more]
    rng.shuffle(lines)
    return ("\r\n".join(lines) + "\r\n").encode()


def words(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


def prose(rng, count):
    paragraphs = (textwrap.wrap(words(rng, rng.randint(5, 120)), rng.choice((60, 72, 76)))
                  for _ in range(count))
    return "\r\n\r\n".join("\r\n".join(lines) for lines in paragraphs).encode() + b"\r\n"


def plain_text(rng):
    return header(rng) + b"\r\n" + prose(rng, rng.randint(1, 12))


def multipart(rng):
    boundary = f"=_{rng.getrandbits(80):020x}"
    attachment = base64.encodebytes(rng.randbytes(rng.randint(1, 20_000))).replace(b"\n", b"\r\n")
    parts = [b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
             + prose(rng, 2) + "Grüße, 世界 …\r\n".encode(),
             b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
             b"Content-Disposition: attachment; filename=\"a.pdf\"\r\n\r\n" + attachment]
    delimiter = b"--" + boundary.encode()
    return (header(rng, "MIME-Version: 1.0",
                   f"Content-Type: multipart/mixed;\r\n boundary=\"{boundary}\"")
            + b"\r\n" + b"".join(delimiter + b"\r\n" + part for part in parts)
            + delimiter + b"--\r\n")


def every_octet(rng):
    lines = (bytes(rng.choices(OCTETS, k=rng.randint(0, 200))) for _ in range(rng.randint(1, 60)))
    return header(rng) + b"\r\n" + b"".join(line + b"\r\n" for line in lines)


def dots(rng):
    lines = (b"." * rng.randint(0, 4) + rng.choice((b"", b"", b"x", b" .", b"\t"))
             for _ in range(rng.randint(1, 80)))
    return rng.choice((b"", header(rng) + b"\r\n")) + b"".join(line + b"\r\n" for line in lines)


def long_lines(rng):
    lines = (rng.choice((b"x", b".", b"\xff", b"=")) * rng.choice((997, 998, 999, 1000, 2049, 8192,
                                                                     65_535, 65_536, 65_537))
             for _ in range(rng.randint(1, 4)))
    return header(rng) + b"\r\n" + b"".join(line + b"\r\n" for line in lines)


def header_only(rng):
    return header(rng) + rng.choice((b"", b"\r\n"))


def body_only(rng):
    return b"\r\n" + prose(rng, 1)


def empty(_rng):
    return b""


def blank_lines(rng):
    return b"\r\n" * rng.randint(1, 50)


def nearly_end_of_data(rng):
    """What a wrong reading of CRLF.CRLF would cut off, without a bare CR or LF."""
    almost = (b"..\r\n", b". \r\n", b" .\r\n", b"\r\n.\r\n", b".x\r\n", b"\r\n..\r\n",
              b"QUIT\r\n", b".\r\nMAIL FROM:<x@example.org>\r\n")
    return header(rng) + b"\r\n" + b"".join(rng.choices(almost, k=rng.randint(1, 30)))


def large(rng):
    """Around and above spool.buffer, so that it is streamed to its file."""
    size = rng.choice((260_000, 262_144, 262_145, 300_000))
    line = rng.randbytes(57).hex().encode() + b"\r\n"
    body = line * (size // len(line) + 1)
    return header(rng) + b"\r\n" + body[:size - 2] + b"\r\n"
