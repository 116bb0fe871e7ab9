"""What all mail systems of a run have in common: where they are, their users, and what they use.

Each is a whole system of its own under one folder, with its own ports. Users are u000000 to as many
as there are, all with one password; their mail is on the file system of the folder. Mail goes in and
out through the network, but for a mailbox that is filled with very many messages: import_maildir().

A system knows nothing of scenarios.
"""

import pwd
import shutil
import socket
import string
import subprocess
from pathlib import Path

from fleet import NEW_CERTIFICATE, Fleet
from groups import Group
from part import HOST, FleetError, Owner, Part

BENCH = Path(__file__).resolve().parents[1]
DOMAIN = "bench.example"
PASSWORD = "nobody-is-to-know-it"
USER = "u%06u@" + DOMAIN  # as the load generators make addresses


def address(number):
    return USER % number


class System(Owner):
    """name is that of its folder, and in results; a port it does not serve is None."""

    name = title = version = None
    kind = "peer"
    packages = ()  # of Debian, which are unpacked for it
    settings = ()  # what of its configuration matters, a line each
    acquainted = False  # a first login or delivery does nothing that later ones don't
    user = "mailfleet"  # whom the mail belongs to
    pop3 = pop3s = lmtp = smtp = None

    def __init__(self, state, base_port, say=lambda line: None):
        super().__init__(Path(state) / self.name, say=say)
        self.folder = self.state
        self.base_port = base_port
        self.unpacked = Path(state).parent / "unpacked"  # beside the folder of the run
        self.users = 0
        self.groups = {}  # what is counted, by its title

    # What each has of its own:

    def start(self, users):
        """With so many users, none of whom has mail. All of it is there when it returns."""
        raise NotImplementedError

    def stop(self):
        """Whatever became of start()."""
        for group in self.groups.values():
            group.close()
        self.groups.clear()

    def restart(self):
        """What serves POP3 begins anew, without memory of sessions that were."""

    def import_messages(self, messages, numbers, maildir):
        """So many for each of these users, by its quickest way; maildir() makes a Maildir that has them."""
        self.import_maildir(maildir(), numbers)

    def import_maildir(self, source, numbers):
        """Brings the messages of a Maildir into the mailboxes of these users."""
        raise NotImplementedError

    def finish(self):
        """Until what was answered is done: a queue is empty. It counts as work."""

    def settle(self, passed):
        """Until what was changed so many seconds ago may be cached again. It counts for nothing."""

    def forget(self):
        """Caches are as after a start."""

    def extra(self, wanted):
        """More that is counted, by name (results.EXTRA): what it has of these."""
        return {}

    # What is counted:

    def group(self, title):
        """The place to start what is counted under this title."""
        if title not in self.groups:
            self.groups[title] = Group(f"{self.name}-{len(self.groups)}")
        return self.groups[title]

    def cpu(self):
        return {title: group.cpu() for title, group in self.groups.items()}

    def memory(self):
        return sum(group.memory() for group in self.groups.values())

    def written(self):
        return sum(group.written() for group in self.groups.values())

    # What they need:

    make_user = Fleet.make_user

    def lay_out(self, *folders):
        """Its folder, and further ones that belong to its user."""
        if self.root:
            self.make_user()
        for name in "log", "run", "tls":
            self.make_dir(self.state / name, None, 0o755)
        for name in folders:
            self.make_dir(self.state / name, self.user, 0o755)

    def ids(self):
        entry = pwd.getpwnam(self.user)
        return entry.pw_uid, entry.pw_gid

    def make_certificate(self, user=None):
        """As a fleet's: ECDSA P-256."""
        tls = self.state / "tls"
        self.run([*NEW_CERTIFICATE, "-keyout", tls / "node.key", "-out", tls / "node.pem",
                  "-subj", "/CN=localhost"])
        self.own(tls / "node.key", user, 0o600)
        return tls / "node.pem", tls / "node.key"

    def configure(self, name, **values):
        """A file of bench/peers with its $names filled in."""
        template = string.Template((BENCH / "peers" / name).read_text(encoding="utf-8"))
        path = self.state / Path(name).name
        self.write(path, template.substitute(folder=self.state, host=HOST, domain=DOMAIN, **values),
                   None, 0o644)
        return path


class Peer(System):
    """A system that one program starts all of."""

    def __init__(self, state, base_port, say=lambda line: None):
        super().__init__(state, base_port, say)
        self.part = None

    def start_part(self, part):
        self.part = part
        part.place = self.group(self.title)
        part.up()

    def restart(self):
        self.part.stop()
        self.part.up()

    def stop(self):
        if self.part:
            self.part.stop()
            self.part = None
        super().stop()


class Server(Part):
    """command with arguments, ready when all its ports greet."""

    def __init__(self, owner, command, ports, env=None):
        super().__init__(owner, owner.name)
        self.words, self.ports, self.more_env = command, ports, env or {}

    def command(self):
        return self.words

    def launch(self, env, log):
        return super().launch({**env, **self.more_env}, log)

    def probe(self):
        for port in self.ports:
            try:
                with socket.create_connection((HOST, port), timeout=5) as s:
                    if not s.recv(1):
                        return f"port {port} closes"
            except OSError as error:
                return f"port {port}: {error}"
        return None


def debian_version(package):
    done = subprocess.run(["/usr/bin/dpkg-query", "-W", "-f", "${Version}", package],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout or None


def unpack(package, folder):
    """Into folder, what a Debian package holds, which is not installed: others stand against it."""
    where = folder / package
    if where.exists():
        return
    made = folder / f"{package}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    fetched = subprocess.run(["/usr/bin/apt-get", "-q", "download", package], cwd=made, timeout=120,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    debs = sorted(made.glob("*.deb"))
    if fetched.returncode or not debs:
        raise FleetError(f"{package} can't be had: {fetched.stdout.strip()}")
    subprocess.run(["/usr/bin/dpkg-deb", "-x", debs[0], made / "content"], check=True)
    (made / "version").write_text(debs[0].name.split("_")[1].replace("%3a", ":"))
    made.rename(where)


def unpacked_version(package, folder):
    return (folder / package / "version").read_text()
