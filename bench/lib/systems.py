"""Which mail systems there are, by name; each stands in a file of its own."""

from courier import Courier
from cyrus import Cyrus
from dovecot import DovecotMaildir, DovecotMdbox, DovecotSdbox
from limits import Accept, Bare, Commits, Files, Gets
from ours import Mailfleet
from postfix_inbound import Postfix

SYSTEMS = {kind.name: kind for kind in (Mailfleet, DovecotSdbox, DovecotMdbox, DovecotMaildir, Courier,
                                        Cyrus, Postfix, Bare, Accept, Files, Commits, Gets)}
OWN_PROGRAMS = Mailfleet, Bare, Accept, Files, Commits, Gets


def port(base, n):
    """The first of the n-th system: a fleet takes a hundred, and stands first."""
    return base + (80 + 20 * n if n else 0)


def make(name, state, base_port, say, build):
    """One of them, not started. build: where our own programs are."""
    kind = SYSTEMS[name]
    return kind(state, base_port, say, **({"build": build} if kind in OWN_PROGRAMS else {}))
