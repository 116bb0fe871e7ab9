"""Dovecot, with one of its mailbox formats (bench/peers/dovecot.conf)."""

from system import HOST, PASSWORD, Peer, Server, address, debian_version

DOVEADM = "/usr/bin/doveadm"


class Dovecot(Peer):
    location = None
    settings = ("pop3-login, pop3 and lmtp serve one client after the other (service_count = 0), four pop3 "
                "processes many at once (client_limit)",
                "auth_cache_size = 64 M, passwords in plain",
                "mail_fsync = optimized, mmap_disable = no",
                "pop3_no_flag_updates = yes, pop3_fast_size_lookups = yes, "
                "maildir_very_dirty_syncs = yes")

    def __init__(self, state, base_port, say=lambda line: None):
        super().__init__(state, base_port, say)
        self.pop3, self.pop3s, self.lmtp = base_port, base_port + 1, base_port + 2
        self.version = debian_version("dovecot-core")
        self.config = None

    def start(self, users):
        self.users = users
        self.lay_out("mail")
        certificate, key = self.make_certificate()
        uid, gid = self.ids()
        (self.folder / "users").write_text("".join(
            f"{address(number)}:{{PLAIN}}{PASSWORD}\n" for number in range(users)))
        self.config = self.configure(
            "dovecot.conf", certificate=certificate, key=key, location=self.location, uid=uid, gid=gid,
            pop3=self.pop3, pop3s=self.pop3s, lmtp=self.lmtp)
        self.start_part(Server(self, ["/usr/sbin/dovecot", "-F", "-c", self.config],
                               [self.pop3, self.lmtp]))

    def doveadm(self, *words, timeout=3600):
        return self.run([DOVEADM, "-c", self.config, *words], timeout=timeout)

    def import_maildir(self, source, numbers):
        for number in numbers:
            self.doveadm("-o", "mail_fsync=never", "import", "-u", address(number),
                         f"maildir:{source}", "", "ALL")

    def forget(self):
        self.doveadm("auth", "cache", "flush")


class DovecotSdbox(Dovecot):
    name, title = "dovecot-sdbox", "Dovecot sdbox"
    location = "sdbox:~/sdbox"


class DovecotMdbox(Dovecot):
    name, title = "dovecot-mdbox", "Dovecot mdbox"
    location = "mdbox:~/mdbox"


class DovecotMaildir(Dovecot):
    name, title = "dovecot-maildir", "Dovecot Maildir"
    location = "maildir:~/Maildir"
