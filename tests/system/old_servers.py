"""The servers that people move away from, as they come with Debian: Dovecot and Courier, each in a
folder of its own beside whatever the machine has, with its mail in Maildirs. They need root.

Debian lets only one of them be installed, so Courier's programs are unpacked beside the build.

And a door: the one name and port that clients know, behind which the server is changed.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from mail import Pop3
from part import HOST, Part

DOVECOT = """\
protocols = pop3
listen = {host}
base_dir = {folder}/run
state_dir = {folder}/run
log_path = /dev/stderr
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
auth_master_user_separator = *
passdb {{
  driver = passwd-file
  args = {folder}/masters
  master = yes
  result_success = continue
}}
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/mail/%u
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""

# Courier's paths are fixed, but in a mount namespace they lead into its folder.
COURIER = """\
set -e
mount --bind {folder}/etc /etc/courier
mkdir -p /run/courier
mount --bind {folder}/run /run/courier
mkdir -p /run/courier/authdaemon
makeuserdb
set -a
. /etc/courier/authdaemonrc
/usr/lib/courier/courier-authlib/authdaemond &
POP3AUTH="PLAIN LOGIN" POP3AUTH_TLS="PLAIN LOGIN" MAILDIRPATH=Maildir
POP3_STARTTLS=YES POP3_TLS_REQUIRED=0 COURIERTLS=/usr/bin/couriertls
TLS_CERTFILE={folder}/etc/node.pem TLS_VERIFYPEER=NONE
pop3="{programs}/courierpop3login {programs}/courierpop3d Maildir"
tcpd="/usr/sbin/couriertcpd -address={host} -maxprocs=40 -maxperip=40 -nodnslookup -noidentlookup"
POP3_TLS=1 $tcpd {pop3s} /usr/bin/couriertls -server -tcpd $pop3 &
exec $tcpd {pop3} $pop3
"""

AUTHDAEMON = """\
authmodulelist="authuserdb"
authmodulelistorig="authuserdb"
daemons=2
authdaemonvar=/run/courier/authdaemon
DEBUG_LOGIN=0
"""


class OldServer(Part):
    """accounts: address -> password, for good. Its mail belongs to the fleet's user, who may read
    it, as on a machine where it was copied to."""

    def __init__(self, fleet, name, port, accounts):
        super().__init__(fleet, name)
        self.folder = fleet.state / name
        self.pop3, self.pop3s = port, port + 1
        self.accounts = accounts

    def prepare(self):
        entry = pwd.getpwnam(self.owner.user)
        for address in self.accounts:
            for folder in "cur", "new", "tmp":
                path = self.maildir(address) / folder
                path.mkdir(parents=True, exist_ok=True)
                for one in path, path.parent, path.parent.parent:
                    os.chown(one, entry.pw_uid, entry.pw_gid)
        self.configure(entry)

    def configure(self, entry):
        raise NotImplementedError

    def maildir(self, address):
        return self.folder / "mail" / address / "Maildir"

    def put(self, address, name, content):
        """A message with LF, under a file name that tells when it arrived."""
        path = self.maildir(address) / "tmp" / name
        path.write_bytes(content)
        self.owner.own(path, self.owner.user, 0o600)
        path.rename(self.maildir(address) / "new" / name)

    def files(self, address):
        """By their names without flags, in the order of these."""
        found = [path for folder in ("cur", "new")
                 for path in (self.maildir(address) / folder).iterdir()]
        return sorted(found, key=lambda path: path.name.partition(":")[0])

    def probe(self):
        try:
            for port in self.pop3, self.pop3s:
                socket.create_connection((HOST, port), timeout=5).close()
            with Pop3(self.pop3):
                return None
        except (OSError, EOFError, AssertionError) as error:
            return str(error)


class Dovecot(OldServer):
    master, master_password = "mover", "moving-day"

    def configure(self, entry):
        tls = self.owner.state / "tls"
        (self.folder / "users").write_text("".join(
            f"{address}:{{PLAIN}}{password}\n" for address, password in self.accounts.items()))
        (self.folder / "masters").write_text(f"{self.master}:{{PLAIN}}{self.master_password}\n")
        (self.folder / "dovecot.conf").write_text(DOVECOT.format(
            host=HOST, folder=self.folder, certificate=tls / "node.pem", key=tls / "node.key",
            uid=entry.pw_uid, gid=entry.pw_gid, pop3=self.pop3, pop3s=self.pop3s))

    def command(self):
        return ["/usr/sbin/dovecot", "-F", "-c", self.folder / "dovecot.conf"]


def unpack(package):
    """The folder with what a Debian package holds. It is fetched once."""
    folder = Path(os.environ["MAILFLEET_BUILD"]).absolute() / "unpacked" / package
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            subprocess.run(["/usr/bin/apt-get", "-q", "download", package], cwd=made, timeout=120,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            [deb] = Path(made).glob("*.deb")
            subprocess.run(["/usr/bin/dpkg-deb", "-x", deb, f"{made}/{package}"], check=True)
            os.rename(f"{made}/{package}", folder)
    return folder


class Courier(OldServer):
    def configure(self, entry):
        programs = self.folder / "programs"  # the build may be out of the users' reach
        shutil.copytree(unpack("courier-pop") / "usr/lib/courier/courier", programs,
                        dirs_exist_ok=True)
        etc, tls = self.folder / "etc", self.owner.state / "tls"
        for folder in etc, self.folder / "run":
            folder.mkdir(exist_ok=True)
        (etc / "authdaemonrc").write_text(AUTHDAEMON)
        users = etc / "userdb"
        users.touch(0o600)
        users.write_text("".join(self.userdb_line(entry, address) for address in self.accounts))
        users.chmod(0o700)
        pem = etc / "node.pem"
        pem.touch(0o600)
        self.owner.own(pem, "courier", 0o600)  # whom it becomes for STLS
        pem.write_text((tls / "node.key").read_text() + (tls / "node.pem").read_text())
        (self.folder / "start").write_text(COURIER.format(
            host=HOST, folder=self.folder, programs=programs, pop3=self.pop3, pop3s=self.pop3s))

    def userdb_line(self, entry, address):
        hashed = self.owner.run(["/usr/bin/openssl", "passwd", "-5", "-stdin"],
                                stdin=self.accounts[address]).strip()
        return (f"{address}\thome={self.maildir(address).parent}|uid={entry.pw_uid}"
                f"|gid={entry.pw_gid}|systempw={hashed}\n")

    def command(self):
        return ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh",
                self.folder / "start"]


class Door:
    """A port that leads to another one, which is changed by setting leads_to."""

    def __init__(self, leads_to):
        self.leads_to = leads_to
        self.socket = socket.create_server((HOST, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.socket.accept()[0]
                server = socket.create_connection((HOST, self.leads_to), timeout=60)
                for pair in (client, server), (server, client):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    @staticmethod
    def carry(source, target):
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                target.sendall(octets)
            target.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()
