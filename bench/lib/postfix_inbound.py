"""Postfix as inbound SMTP to Maildirs, by virtual(8) (bench/peers/main.cf and master.cf).

It answers when a message is in its queue: what it delivers is counted to the last final file.
"""

import os
import time

from system import Peer, Server, address, debian_version

QUEUES = "incoming", "active", "deferred", "maildrop"
FINISH_LIMIT = 600


class Postfix(Peer):
    name, title = "postfix", "Postfix virtual"
    settings = ("virtual(8), 64 deliveries at once, in_flow_delay = 0, no look-up of clients",
                "counted until the queue is empty")

    def __init__(self, state, base_port, say=lambda line: None):
        super().__init__(state, base_port, say)
        self.smtp = base_port
        self.version = debian_version("postfix")

    def start(self, users):
        self.users = users
        self.lay_out("mail")
        config = self.folder / "etc"
        config.mkdir(exist_ok=True)
        (self.folder / "queue").mkdir(exist_ok=True)
        self.make_dir(self.folder / "data", "postfix", 0o700)
        mailboxes = self.folder / "mailboxes"
        mailboxes.write_text("".join(f"{address(n)} {n % 256:02x}/{address(n)}/\n"
                                     for n in range(users)))
        for n in range(256):
            self.make_dir(self.folder / "mail" / f"{n:02x}", self.user, 0o755)
        uid, gid = self.ids()
        for name in "main.cf", "master.cf":
            self.configure(name, uid=uid, gid=gid, smtp=self.smtp).rename(config / name)
        self.run(["/usr/sbin/postmap", "-c", config, f"hash:{mailboxes}"])
        self.run(["/usr/sbin/postfix", "-c", config, "check"])
        self.start_part(Server(self, ["/usr/lib/postfix/sbin/master", "-c", config, "-s"], [self.smtp]))

    def finish(self):
        deadline = time.monotonic() + FINISH_LIMIT
        while self.queued():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.title}: its queue does not get empty")
            time.sleep(0.02)

    def queued(self):
        """Whether some message waits or is under way; a deferred one is as good as an error."""
        return any(files for queue in QUEUES
                   for _, _, files in os.walk(self.folder / "queue" / queue))
