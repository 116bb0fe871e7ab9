"""The mail systems whose NFS calls bench/nfs-calls counts: mailfleet and Dovecot, in one guest.

Each is a whole system of its own over one export of the server: accounts, a delivery node with LMTP
and a front-end with POP3. What all have in common is in System: mail goes in and out through the
network, and the calls are counted from outside. Which operations are counted, and when, is decided
in nfs-calls.

The daemons run in the guest and end with it; PostgreSQL and memcached run beside it, in the
laboratory's network, and are Fleet's.
"""

import collections
import contextlib
import poplib
import pwd
import smtplib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from fleet import HOST, Fleet, Memcached
from lab import SPOOL_OPTIONS, count_calls
from part import FleetError

DOMAIN = "bench.example"
PASSWORD = "nobody-is-to-know-it"
DOVECOT_OPTIONS = "noatime,actimeo=60,nordirplus"
EXPIRY = 60  # seconds, of DOVECOT_OPTIONS
KNOWN = "known"  # a mailbox through which directories are made known
DELIVERERS = 8  # connections that fill it
FANOUT = 256  # directories of a day on a volume
READY_LIMIT = 60
QUIET_LIMIT = 60


def address(name):
    return f"{name}@{DOMAIN}"


class Lmtp(smtplib.LMTP):
    def deliver(self, message, names):
        """One transaction; each recipient has a reply of its own."""
        self.ehlo_or_helo_if_needed()
        expect(self.mail("sender@client.example"), 250)
        for name in names:
            expect(self.rcpt(address(name)), 250)
        expect(self.data(message), 250)
        for _ in names[1:]:
            expect(self.getreply(), 250)


def expect(reply, code):
    if reply[0] != code:
        raise FleetError(f"LMTP: {reply[0]} {reply[1].decode(errors='replace')}")


class System:
    """A mail system on one export. number tells its ports from those of the others."""

    title = None
    version = options = None  # of the kernel's mount, where there is one
    look_call = None  # what it asks a volume for by itself, once a look
    daemons = 0  # that do so

    def __init__(self, bench, name, number):
        self.bench = bench
        self.lab, self.guest = bench.lab, bench.guest
        self.name = name
        self.at = f"/mnt/{name}"
        self.folder = bench.state / name  # what the server exports
        self.lmtp_port, self.pop3_port = 2400 + number, 1100 + number

    # What each has of its own:

    def start(self, names):
        """With these mailboxes, none of which has ever been used."""
        raise NotImplementedError

    def forget(self):
        """The kernel has just forgotten all that it had in caches: so do others."""

    def looks(self):
        """How often its daemons have looked at the volume."""
        return self.read_counts()[0][self.look_call]

    def wait_looks(self, since):
        """All its daemons have looked at the volume once more than that: the next ones, which are
        not to be counted, are some seconds away."""

    def read_counts(self, sessions=0):
        """The NFS calls up to now, by name, and whether more than so many sessions are going on:
        the process of one may outlive its connection for a moment."""
        return self.guest.counters(self.at), False

    def reap(self):
        """Unlinks what was deleted."""

    # --- mail in and out ------------------------------------------------------------------------

    def lmtp(self):
        return Lmtp(self.guest.address, self.lmtp_port, timeout=120)

    def deliver(self, message, *recipients, times=1):
        """In one connection, times."""
        with self.lab.inside(), self.lmtp() as lmtp:
            for _ in range(times):
                lmtp.deliver(message, recipients)

    def pop3(self, name):
        """A session, logged in, that has asked for what there is as clients do."""
        pop3 = poplib.POP3(self.guest.address, self.pop3_port, timeout=120)
        pop3.user(address(name))
        pop3.pass_(PASSWORD)
        pop3.stat()
        pop3.list()
        pop3.uidl()
        return pop3

    def poll(self, name):
        with self.lab.inside():
            self.pop3(name).quit()

    def fetch(self, name):
        """Everything, and deletes it."""
        with self.lab.inside():
            pop3 = self.pop3(name)
            for number in range(1, pop3.stat()[0] + 1):
                pop3.retr(number)
                pop3.dele(number)
            pop3.quit()

    def wait_ready(self):
        deadline = time.monotonic() + READY_LIMIT
        for port in self.lmtp_port, self.pop3_port:
            while not self.greets(port):
                if time.monotonic() > deadline:
                    raise FleetError(f"{self.title} does not start:\n{self.complaints()}")
                time.sleep(0.1)

    def greets(self, port):
        with contextlib.suppress(OSError), self.lab.inside():
            with socket.create_connection((self.guest.address, port), timeout=5) as s:
                return bool(s.recv(1))
        return False

    def quiet(self, sessions=0):
        """The counters, once nothing is going on any more but so many sessions that wait."""
        deadline = time.monotonic() + QUIET_LIMIT
        before = None
        while True:
            now, busy = self.read_counts(sessions)
            if now == before and not busy:
                return now
            if time.monotonic() > deadline:
                raise FleetError(f"{self.title} does not come to rest")
            before = now
            time.sleep(0.05)


# --- mailfleet ------------------------------------------------------------------------------------


class SharedMemcached(Memcached):
    """The guest reaches it, too."""

    def command(self):
        return [*super().command(), "-l", self.owner.lab.address]


class GuestFleet(Fleet):
    """PostgreSQL, memcached and the configuration of a fleet whose nodes run in the guest."""

    def __init__(self, state, base_port, build, system):
        self.lab = system.lab
        self.hba = state / "config" / "pg_hba.conf"
        super().__init__(
            state, base_port, build, delivery_nodes=0, front_ends=0,
            settings={"lmtp.listen": f"0.0.0.0:{system.lmtp_port}",
                      "pop3.listen": f"0.0.0.0:{system.pop3_port}",
                      "pop3.plaintext_login": "always",
                      "deliver.health": f"{HOST}:{system.lmtp_port + 5000}",
                      "frontend.health": f"{HOST}:{system.pop3_port + 5000}",
                      "spool.grace": "0", "spool.roots": "/mnt",
                      # A guest is slow, and this no measurement of time.
                      "cache.timeout": "5s", "database.timeout": "60s", "spool.timeout": "5m"},
            postgres_settings={"listen_addresses": f"{HOST},{self.lab.address}",
                               "hba_file": self.hba})
        self.memcached = SharedMemcached(self, "memcached")
        self.parts = [self["postgres"], self.memcached]

    def base_settings(self):
        return {**super().base_settings(),
                "cache.servers": f"{self.lab.address}:{self.ports.memcached}"}

    @property
    def database_url(self):
        return super().database_url.replace(f"@{HOST}:", f"@{self.lab.address}:")

    def up(self):
        with self.lab.inside():
            self.lay_out()
            self.write(self.hba, f"host all all {HOST}/32 scram-sha-256\n"
                       f"host all all {self.lab.address}/24 scram-sha-256\n", None, 0o644)
            for part in self.parts:
                part.up()
            self.create_database()
            self.admin("init")
        self.own(self.state / "secret" / "fleet.key", self.user, 0o640)

    def add_accounts(self, names):
        # Of no account to what is counted: a hash that is fast to verify.
        hashed = self.run(["/usr/bin/openssl", "passwd", "-5", "-stdin"], stdin=PASSWORD).strip()
        with self.lab.inside():
            self.admin("domain", "add", DOMAIN)
            for name in names:
                self.admin("account", "add", address(name), "--hash", hashed)


class Mailfleet(System):
    look_call = "FSSTAT"
    daemons = 2

    def __init__(self, bench, name, number):
        super().__init__(bench, name, number)
        self.fleet = GuestFleet(bench.state / f"fleet-{name}", 20000 + 100 * number,
                                bench.options.build, self)
        self.fleet.make_user()
        entry = pwd.getpwnam(self.fleet.user)
        self.user = entry.pw_uid, entry.pw_gid
        self.processes = []

    def url(self):
        return f"file://{self.at}"

    def mount(self):
        """Makes the volume reachable in the guest."""
        self.guest.mount(self.version, self.folder, self.at, self.bench.wires[self.version].port,
                         self.bench.nas.mount_port, self.options)

    def start(self, names):
        self.fleet.up()
        self.fleet.add_accounts(names)
        self.mount()
        self.admin("volume", "add", self.url())
        before = self.quiet()
        for program in "mailfleet-deliver", "mailfleet-frontend":
            self.processes.append(self.guest.start(
                [self.fleet.state / "bin" / program, "--config", self.fleet.config]))
        self.wait_ready()
        self.wait_volume()
        # A daemon that never gets mail makes no directories.
        self.deliver(self.bench.message, KNOWN)
        return before

    def admin(self, *words):
        return self.guest.check([self.fleet.admin_program, "--config", self.fleet.config, *words],
                                user=self.user, timeout=300)

    def wait_volume(self):
        """It takes mail: the volume was looked at."""
        ask = (f"exec 3<>/dev/tcp/{HOST}/{self.lmtp_port + 5000}; "
               "printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
        deadline = time.monotonic() + READY_LIMIT
        while " 200 " not in (said := self.guest.run(["/bin/bash", "-c", ask]).output):
            if time.monotonic() > deadline:
                raise FleetError(f"{self.title} is not ready: {said}")
            time.sleep(0.1)

    def complaints(self):
        return "\n".join(process.stop().output for process in self.processes)

    def directories(self, day):
        """What is known of them on the server: the paths of a day's directories."""
        name = time.strftime("%Y%m%d", time.gmtime(time.time() + 86400 * day))
        return sorted(path for path in (self.folder / name).glob("*") if path.is_dir())

    def wait_prepared(self):
        """The delivery node has made the next day's directories, and on NFS knows this day's."""
        deadline = time.monotonic() + 300
        while len(self.directories(0)) < FANOUT or len(self.directories(1)) < FANOUT:
            if time.monotonic() > deadline:
                raise FleetError(f"{self.title}: the next day's directories are not made")
            time.sleep(0.5)

    def forget(self):
        with self.lab.inside():
            with socket.create_connection((HOST, self.fleet.ports.memcached), timeout=5) as s:
                s.sendall(b"flush_all\r\n")
                if s.recv(64) != b"OK\r\n":
                    raise FleetError("memcached does not forget")

    def wait_looks(self, since):
        deadline = time.monotonic() + READY_LIMIT
        while self.looks() < since + self.daemons:
            if time.monotonic() > deadline:
                raise FleetError(f"{self.title} does not look at its volume")
            time.sleep(0.2)

    def files(self):
        """The message files on the server: name -> path."""
        return {path.name: path for path in self.folder.glob("*/*/*")}

    def know_directories(self):
        """Both daemons have used each of this day's directories: how a node is in its everyday.

        A message is left in each, in a mailbox of its own."""
        while len(numbers := self.in_directories(KNOWN)) < FANOUT:
            with ThreadPoolExecutor(DELIVERERS) as pool:
                list(pool.map(self.deliver_some, [FANOUT // DELIVERERS] * DELIVERERS))
        self.use_directories()
        with self.lab.inside():
            pop3 = self.pop3(KNOWN)
            for number in range(1, pop3.stat()[0] + 1):
                if number not in numbers.values():
                    pop3.dele(number)
            pop3.quit()

    def deliver_some(self, times):
        self.deliver(self.bench.message, KNOWN, times=times)

    def use_directories(self):
        """A message is read from each of them, so that the kernel knows what it may do there."""
        numbers = self.in_directories(KNOWN).values()
        with self.lab.inside():
            pop3 = self.pop3(KNOWN)
            for number in numbers:
                pop3.retr(number)
            pop3.quit()

    def in_directories(self, name):
        """A message of a mailbox for each directory that has one: directory -> number."""
        with self.lab.inside():
            pop3 = self.pop3(name)
            listed = pop3.uidl()[1]
            pop3.quit()
        files = self.files()
        lines = (line.decode().split() for line in listed)
        return {files[uid].parent: int(number) for number, uid in lines}

    def reap(self):
        self.admin("reap", "--yes")


class MailfleetNfs(Mailfleet):
    """Needs no mount: its calls are counted on the wire."""

    title = "mailfleet nfs"

    def url(self):
        return (f"nfs://{self.lab.address}:{self.bench.wires[self.name].port}{self.folder}"
                f"?mountport={self.bench.nas.mount_port}&uid={self.user[0]}&gid={self.user[1]}")

    def mount(self):
        pass

    def read_counts(self, sessions=0):
        return collections.Counter(self.bench.wires[self.name].counts()), False

    def wait_looks(self, _since):
        """One has the same calls at any time."""


class MailfleetV3(Mailfleet):
    title = "mailfleet posix v3"
    version, options = "3", SPOOL_OPTIONS


class MailfleetV41(Mailfleet):
    title = "mailfleet posix v4.1"
    version, options = "4.1", SPOOL_OPTIONS
    look_call = "STATFS"


# --- Dovecot --------------------------------------------------------------------------------------

DOVECOT = """\
protocols = pop3 lmtp
listen = *
base_dir = /run/{name}
state_dir = /run/{name}
log_path = /dev/stderr
ssl = no
disable_plaintext_auth = no
postmaster_address = postmaster@{domain}

mail_location = maildir:~/Maildir
mail_nfs_storage = no
mail_nfs_index = no
mmap_disable = yes
mail_fsync = always
namespace inbox {{
  inbox = yes
}}

passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={at}/%n allow_all_users=yes
}}

service pop3-login {{
  service_count = 0
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp_port}
  }}
}}
"""
# Its settings that the numbers rest on, as they are told.
DOVECOT_SETTINGS = ("mail_location=maildir:~/Maildir mail_nfs_storage=no mail_nfs_index=no "
                    "mmap_disable=yes mail_fsync=always")


class Dovecot(System):
    options = DOVECOT_OPTIONS
    user = 61234, 61234  # uid and gid of nobody on this machine

    def __init__(self, bench, name, number):
        super().__init__(bench, name, number)
        self.config = bench.state / f"{name}.conf"
        self.process = None

    def start(self, names):
        uid, gid = self.user
        self.config.write_text(DOVECOT.format(
            name=self.name, domain=DOMAIN, password=PASSWORD, uid=uid, gid=gid, at=self.at,
            pop3_port=self.pop3_port, lmtp_port=self.lmtp_port))
        self.guest.mount(self.version, self.folder, self.at, self.bench.wires[self.version].port,
                         self.bench.nas.mount_port, self.options)
        self.process = self.guest.start(["/usr/sbin/dovecot", "-F", "-c", self.config])
        self.wait_ready()

    def complaints(self):
        return self.process.stop().output

    def read_counts(self, sessions=0):
        told = self.guest.check(["sh", "-c", "pgrep -c -x pop3; cat /proc/self/mountstats"])
        running, stats = told.split("\n", 1)
        return count_calls(stats, self.at), int(running) > sessions


class DovecotV3(Dovecot):
    title = "Dovecot Maildir v3"
    version = "3"


class DovecotV41(Dovecot):
    title = "Dovecot Maildir v4.1"
    version = "4.1"


SYSTEMS = {"nfs": MailfleetNfs, "posix3": MailfleetV3, "posix41": MailfleetV41,
           "dovecot3": DovecotV3, "dovecot41": DovecotV41}
