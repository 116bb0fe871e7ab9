"""Files in a spool, made by hand as the daemons make them: for tests of what looks at the disk."""

import hashlib
import os
import random
import shutil
import time
from datetime import datetime, timezone

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
random_bits = random.SystemRandom().getrandbits


def new_id(ms=None):
    """(text, number) of a message's id: 48 bits of time, 80 random ones."""
    number = (int(time.time() * 1000) if ms is None else ms) << 80 | random_bits(80)
    return id_text(number), number


def id_text(number):
    return "".join(ALPHABET[number >> 5 * place & 31] for place in range(25, -1, -1))


def id_number(text):
    number = 0
    for digit in text:
        number = number << 5 | ALPHABET.index(digit)
    return number


def id_ms(text):
    """When a message of this id came, in milliseconds since 1970."""
    return id_number(text) >> 80


def uuid_of(text):
    """A message's id as the database takes it."""
    return f"{id_number(text):032x}"


def text_of(uuid):
    """An id that the database shows."""
    return id_text(int(uuid.replace("-", ""), 16))


def path_of(spool, text, number, fanout=2):
    day = datetime.fromtimestamp((number >> 80) / 1000, timezone.utc).strftime("%Y%m%d")
    digits = f"{number >> 64 & 0xffff:04x}"[:fanout]
    return spool / day / digits / text if fanout else spool / day / text


def envelope(text, number, recipients, message, uidl=None, complete=True):
    ms = number >> 80
    when = datetime.fromtimestamp(ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    digest = hashlib.sha256(message).hexdigest()
    lines = ["mailfleet 1", f"id: {text}", f"time: {when}.{ms % 1000:03}Z",
             "from: sender@example.org",
             *(f"to: {mailbox} {address}" for mailbox, address in recipients),
             *([f"uidl: {uidl}"] if uidl else []),
             f"size: {len(message):020}" if complete else "size: " + "-" * 20,
             f"sha256: {digest}" if complete else "sha256: " + "-" * 64, "", ""]
    return "\n".join(lines).encode()


def store(spool, recipients, message, ms=None, uidl=None, complete=True, fanout=2):
    """A message file that no database knows; its id and path. It belongs to who owns the spool."""
    text, number = new_id(ms)
    path = path_of(spool, text, number, fanout)
    owner = spool.stat()
    for folder in reversed(path.relative_to(spool).parents):
        if not (spool / folder).exists():
            (spool / folder).mkdir(mode=0o750)
            os.chown(spool / folder, owner.st_uid, owner.st_gid)
    path.write_bytes(envelope(text, number, recipients, message, uidl, complete) + message)
    shutil.chown(path, owner.st_uid, owner.st_gid)
    return text, path
