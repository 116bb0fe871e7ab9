"""Cyrus IMAP's pop3d and lmtpd (bench/peers/cyrus.conf and imapd.conf).

Debian lets it be installed only in the place of Dovecot, so its packages are unpacked.
"""

import grp
import imaplib
import os
import shutil
from pathlib import Path

from system import HOST, PASSWORD, Peer, Server, address, unpacked_version

# sasldb's keys are NAME NUL REALM NUL PROPERTY; the realm of defaultdomain is servername.
SASLDB = """
use DB_File;
my ($path, $realm, $password, $users) = @ARGV;
tie my %db, "DB_File", $path, O_RDWR | O_CREAT, 0600, $DB_HASH or die "$path: $!";
$db{join "\\0", sprintf("u%06u", $_), $realm, "userPassword"} = $password for 0 .. $users - 1;
$db{join "\\0", "cyrus", $realm, "userPassword"} = $password;
"""


class Cyrus(Peer):
    name, title = "cyrus", "Cyrus"
    packages = "cyrus-common", "cyrus-imapd", "cyrus-pop3d"
    settings = ("pop3d and lmtpd serve one client after the other (-U 100000), 16 of each are there before",
                "passwords in plain in sasldb",
                "duplicatesuppression: no, conversations: no, expunge_mode: delayed")

    def __init__(self, state, base_port, say=lambda line: None):
        super().__init__(state, base_port, say)
        self.pop3, self.pop3s, self.lmtp = base_port, base_port + 1, base_port + 2
        self.imap = base_port + 3
        self.programs = self.folder / "programs"
        self.libraries = {"LD_LIBRARY_PATH": str(self.folder / "libraries")}

    def start(self, users):
        self.users = users
        # lmtpds that make stage. at the same time refuse their first message.
        self.lay_out("config", "spool", "spool/stage.", "run", "run/lock", "run/proc")
        self.take_programs()
        certificate, key = self.make_certificate(self.user)
        self.write_users()
        _, gid = self.ids()
        self.config = self.configure("imapd.conf", certificate=certificate, key=key, user=self.user,
                                     group=grp.getgrgid(gid).gr_name)
        services = self.configure("cyrus.conf", programs=self.programs, pop3=self.pop3,
                                  pop3s=self.pop3s, lmtp=self.lmtp, imap=self.imap)
        self.start_part(Server(self, [self.programs / "master", "-C", self.config, "-M", services,
                                      "-p", self.folder / "run/master.pid"],
                               [self.pop3, self.lmtp], env=self.libraries))

    def take_programs(self):
        """Out of the packages, to where its user can reach them."""
        for package in self.packages:
            shutil.copytree(self.unpacked / package / "content/usr/lib/cyrus/bin", self.programs,
                            dirs_exist_ok=True)
        shutil.copytree(self.unpacked / "cyrus-common/content/usr/lib/x86_64-linux-gnu",
                        self.folder / "libraries", symlinks=True)
        self.version = unpacked_version("cyrus-common", self.unpacked)

    def write_users(self):
        path = self.folder / "sasldb2"
        self.run(["/usr/bin/perl", "-e", SASLDB, path, "localhost", PASSWORD, self.users], timeout=600)
        self.own(path, self.user, 0o600)

    def import_maildir(self, source, numbers):
        """Files under their numbers, which reconstruct then takes in."""
        with imaplib.IMAP4(HOST, self.imap) as imap:
            imap.login("cyrus", PASSWORD)
            for number in numbers:
                imap.create(mailbox(number))
        uid, gid = self.ids()
        for number in numbers:
            folder = Path(self.command("mbpath", mailbox(number)).strip())
            for n, path in enumerate(sorted((source / "cur").iterdir()), 1):
                copy = folder / f"{n}."
                copy.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
                os.chown(copy, uid, gid)
            self.command("reconstruct", mailbox(number))

    def command(self, name, *words):
        return self.run([self.programs / name, "-C", self.config, *words], user=self.user,
                        env=self.libraries, timeout=3600)


def mailbox(number):
    """Its inbox; the domain is the default one, and left out."""
    return "user/" + address(number).partition("@")[0]
