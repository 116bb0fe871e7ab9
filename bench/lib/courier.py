"""Courier's POP3 server (bench/peers/courier.sh). It delivers nothing here: its Maildirs are filled.

Debian lets it be installed only in the place of Dovecot, so its package is unpacked.
"""

import hashlib
import os
import shutil

from system import PASSWORD, Peer, Server, address, unpacked_version


class Courier(Peer):
    name, title = "courier", "Courier"
    packages = ("courier-pop",)
    settings = ("couriertcpd starts a process for each connection, without look-ups of its address",
                "five authdaemond, userdb, passwords as MD5")

    def __init__(self, state, base_port, say=lambda line: None):
        super().__init__(state, base_port, say)
        self.pop3, self.pop3s = base_port, base_port + 1

    def start(self, users):
        self.users = users
        self.lay_out("mail", "etc")
        self.version = unpacked_version("courier-pop", self.unpacked)
        programs = self.folder / "programs"
        shutil.copytree(self.unpacked / "courier-pop/content/usr/lib/courier/courier", programs)
        self.configure("authdaemonrc").rename(self.folder / "etc/authdaemonrc")
        self.write_users()
        self.write_pem()
        script = self.configure("courier.sh", programs=programs, pop3=self.pop3, pop3s=self.pop3s)
        self.start_part(Server(self, ["/usr/bin/unshare", "--mount", "--propagation", "private",
                                      "/bin/sh", script], [self.pop3]))

    def write_pem(self):
        certificate, key = self.make_certificate()
        pem = self.folder / "etc/node.pem"
        self.write(pem, key.read_text() + certificate.read_text(), "courier", 0o600)

    def write_users(self):
        """And their mailboxes: courierpop3d makes none."""
        uid, gid = self.ids()
        hashed = hashlib.md5(PASSWORD.encode()).hexdigest()
        lines = []
        for number in range(self.users):
            home = self.maildir(number).parent
            lines.append(f"{address(number)}\thome={home}|uid={uid}|gid={gid}"
                         f"|systempw={{MD5RAW}}{hashed}\n")
            self.make_maildir(number, uid, gid)
        path = self.folder / "etc/userdb"
        path.touch(0o600)
        path.write_text("".join(lines))
        path.chmod(0o700)  # makeuserdb takes it for a folder's else

    def maildir(self, number):
        return self.folder / "mail" / f"{number % 256:02x}" / address(number) / "Maildir"

    def make_maildir(self, number, uid, gid):
        maildir = self.maildir(number)
        for folder in "cur", "new", "tmp":
            (maildir / folder).mkdir(parents=True, exist_ok=True)
            os.chown(maildir / folder, uid, gid)
        for path in maildir, maildir.parent, maildir.parent.parent:
            os.chown(path, uid, gid)

    def import_maildir(self, source, numbers):
        uid, gid = self.ids()
        for number in numbers:
            for path in (source / "cur").iterdir():
                os.chown(shutil.copyfile(path, self.maildir(number) / "cur" / path.name), uid, gid)
