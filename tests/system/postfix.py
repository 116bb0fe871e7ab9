"""A Postfix of a test's own: a sending MTA, with its queue, that nobody here wrote.

It runs in a folder of its own beside whatever Postfix the machine has, takes mail by SMTP on a port,
and relays all of it to one next hop: an MX host, or an LMTP server. Needs root, as Postfix does.
"""

import re
import socket
import subprocess

from part import HERE, Part

# The services that relaying needs, none in a chroot; from Postfix's own master.cf.
MASTER = """
{host}:{port} inet n - n - - smtpd
pickup    unix n - n 60  1 pickup
cleanup   unix n - n -   0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n -   - trivial-rewrite
bounce    unix - - n -   0 bounce
defer     unix - - n -   0 bounce
trace     unix - - n -   0 bounce
verify    unix - - n -   1 verify
showq     unix n - n -   - showq
flush     unix n - n 1000? 0 flush
smtp      unix - - n -   - smtp
lmtp      unix - - n -   - lmtp
error     unix - - n -   - error
retry     unix - - n -   - error
discard   unix - - n -   - discard
anvil     unix - - n -   1 anvil
scache    unix - - n -   1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix(Part):
    def __init__(self, owner, port, next_hop, ca, name="postfix", place=HERE, **settings):
        """next_hop: `smtp:[127.0.0.1]:PORT`, `lmtp:inet:127.0.0.1:PORT`, or `smtp`: the MX hosts."""
        super().__init__(owner, name, place)
        self.port = port
        self.folder = owner.state / name
        self.settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.folder / "queue",
            "data_directory": self.folder / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": "/dev/stdout",
            "myhostname": "sender.example.org",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "local_recipient_maps": "",
            "relay_domains": "static:ALL",
            "default_transport": next_hop,
            "relay_transport": next_hop,
            "smtp_tls_security_level": "encrypt",
            "smtp_tls_CAfile": ca,
            "smtputf8_enable": "yes",
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "4s",
            "queue_run_delay": "2s",
            "bounce_queue_lifetime": "0",
            "notify_classes": "",
            **settings,
        }

    def prepare(self):
        config, data = self.folder / "etc", self.folder / "data"
        for folder in (config, self.folder / "queue"):
            folder.mkdir(parents=True, exist_ok=True)
        self.owner.make_dir(data, "postfix", 0o700)
        (config / "main.cf").write_text(
            "".join(f"{name} = {value}\n" for name, value in self.settings.items()))
        (config / "master.cf").write_text(MASTER.format(host=self.address, port=self.port))
        self.owner.run(["/usr/sbin/postfix", "-c", config, "check"], place=self.place)

    def command(self):
        # `postfix start-fg` would put a shell before it, which dies of a signal and leaves it behind.
        return ["/usr/lib/postfix/sbin/master", "-c", self.folder / "etc", "-s"]

    def probe(self):
        try:
            socket.create_connection((self.address, self.port), timeout=5).close()
        except OSError as error:
            return str(error)
        return None

    def queue(self):
        """What is still in the queue, as postqueue shows it; empty when all has gone."""
        with self.place.inside():
            done = subprocess.run(["/usr/sbin/postqueue", "-c", self.folder / "etc", "-j"],
                                  stdout=subprocess.PIPE, check=True, text=True)
        return done.stdout.splitlines()

    def sent(self):
        """The next hop's replies to what was delivered, out of the log."""
        return re.findall(r"status=sent \((.*)\)$", self.log.read_text(errors="replace"), re.M)

