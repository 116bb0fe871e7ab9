#!/usr/bin/python3 -B
"""A transaction whose answer is lost. A proxy between one node and PostgreSQL cuts the connection
when a certain statement has been answered, so that it is committed and nobody was told, or before
the server has seen it; or what was sent is held up, as by a network that is cut off for a while. The
node must find out which it was: a commit is never denied, a message is never there twice, and nothing
is promised that was not done."""

import socket
import threading

import harness
from mail import Refused

AFTER, BEFORE, LATE = "after", "before", "late"
PATIENCE = 30  # seconds


class Proxy:
    """Passes bytes between its port and the server's until it is armed; then it cuts once."""

    def __init__(self, port):
        self.server = port
        self.armed = None  # (statement, AFTER, BEFORE or LATE)
        self.cuts = 0
        self.released, self.passed = threading.Event(), threading.Event()
        self.listener = socket.create_server((harness.HOST, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def arm(self, statement, when):
        self.cuts = 0
        self.released.clear()
        self.passed.clear()
        self.armed = (statement, when)

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection((harness.HOST, self.server))
            except OSError:
                client.close()
                continue
            cut = threading.Event()
            threading.Thread(target=self.to_server, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self.to_client, args=(client, server, cut), daemon=True).start()

    def to_server(self, client, server, cut):
        for octets in received(client):
            armed = self.armed
            if armed and armed[0] in octets:
                self.armed = None
                self.cuts += 1
                if armed[1] == LATE:
                    self.hold_up(server, octets)
                    break
                if armed[1] == BEFORE:
                    break
                cut.set()  # the answer is heard here, and goes no further
            try:
                server.sendall(octets)
            except OSError:
                break
        shut(client, server)

    def hold_up(self, server, octets):
        """The server gets the octets when they are released, and answers nobody any more."""
        self.released.wait(PATIENCE)
        server.sendall(octets)
        server.shutdown(socket.SHUT_WR)
        for _ in received(server):  # to its last word, which is behind the commit
            pass
        self.passed.set()

    @staticmethod
    def to_client(client, server, cut):
        for octets in received(server):
            if cut.is_set():
                break
            try:
                client.sendall(octets)
            except OSError:
                break
        shut(client, server)


def received(sock):
    """What comes, until the end or an error."""
    try:
        while octets := sock.recv(65536):
            yield octets
    except OSError:
        pass


def shut(*socks):
    for sock in socks:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Uncertain(harness.FleetTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.proxy = Proxy(cls.fleet.ports.postgres)
        url = cls.fleet.database_url.replace(f":{cls.fleet.ports.postgres}/",
                                             f":{cls.proxy.port}/")
        for node in (cls.fleet.delivery_nodes[0], cls.fleet.front_ends[0]):
            cls.fleet.node_settings[node.name] = {"database.url": url}
            node.stop()
            node.up()

    def arm(self, statement, when):
        self.proxy.arm(statement, when)
        self.addCleanup(lambda: self.assertEqual(self.proxy.cuts, 1, "nothing was cut"))

    def test_committed_and_not_told(self):
        user, other = self.account("told"), self.account("told2")
        self.arm(b"deliver_each(", AFTER)
        self.deliver(b"Subject: once\r\n\r\n1\r\n", user, other)
        for account in (user, other):
            self.assertEqual(self.mailbox(account, 1), [b"Subject: once\r\n\r\n1\r\n"])

    def test_never_seen_by_the_server(self):
        user = self.account("unseen")
        self.arm(b"deliver_each(", BEFORE)
        with self.assertRaises(Refused) as refused:
            self.deliver(b"Subject: not\r\n\r\n2\r\n", user)
        self.assertEqual(refused.exception.code, 451)
        self.assertEqual(self.mailbox(user, 1), [])

    def test_never_comes_late(self):
        """What was refused, as the server had not seen it, is not done afterwards: not for the one whose
        mailbox is locked first, nor for the other, whoever was named first. Its file is nobody's."""
        users = [self.account("late"), self.account("later")]
        self.arm(b"deliver_each(", LATE)
        with self.assertRaises(Refused) as refused:
            self.deliver(b"Subject: late\r\n\r\n6\r\n", *reversed(users))
        self.assertEqual(refused.exception.code, 451)
        self.proxy.released.set()
        self.assertTrue(self.proxy.passed.wait(PATIENCE))
        for user in users:
            self.assertEqual(self.mailbox(user, 1), [])
        self.eventually(30, lambda: self.assertEqual([["1"]], self.fleet.sql(
            f"""SELECT count(*) FROM ledger l JOIN address a USING (mailbox_id) WHERE a.addr IN
                ('{users[0].address}', '{users[1].address}') AND l.by_whom = 'delivery refused'""")))

    def check_lmtp(self, *order):
        """Whichever has the lower number, and so is asked about first."""
        user, full = self.account(f"each{order[0]}"), self.account(
            f"full{order[0]}", "--quota-messages", "1")
        to = [(user, 250), (full, 452)]
        to = [to[i] for i in order]
        with self.lmtp() as lmtp:
            lmtp.begin([account.address for account, _ in to])
            self.deliver(b"Subject: fills\r\n\r\n3\r\n", full, node=1)
            self.arm(b"deliver_each(", AFTER)
            lmtp.content(b"Subject: each\r\n\r\n4\r\n")
            codes = [lmtp.reply()[0] for _ in to]
        self.assertEqual(codes, [code for _, code in to])
        self.assertEqual(self.mailbox(user, 1), [b"Subject: each\r\n\r\n4\r\n"])
        self.assertEqual(self.mailbox(full, 1), [b"Subject: fills\r\n\r\n3\r\n"])

    def test_lmtp_tells_each(self):
        self.check_lmtp(0, 1)

    def test_lmtp_tells_each_in_any_order(self):
        self.check_lmtp(1, 0)

    def check_delete(self, name, when):
        user = self.account(name)
        for n in range(3):
            self.deliver(b"Subject: %d\r\n\r\n5\r\n" % n, user, node=1)
        with self.pop3(user) as pop3:
            pop3.ok("DELE 1")
            pop3.ok("DELE 3")
            self.arm(b"expunge(", when)
            pop3.quit()
        self.assertEqual(self.mailbox(user, 1), [b"Subject: 1\r\n\r\n5\r\n"])
        counted = self.fleet.sql(f"""SELECT b.msgs, (SELECT count(*) FROM ledger l
            WHERE l.mailbox_id = b.mailbox_id) FROM mailbox b JOIN address a USING (mailbox_id)
            WHERE a.addr = '{user.address}'""")
        self.assertEqual(counted, [["1", "2"]])

    def test_deleted_and_not_told(self):
        self.check_delete("deleted", AFTER)

    def test_delete_never_seen_by_the_server(self):
        self.check_delete("undeleted", BEFORE)


if __name__ == "__main__":
    harness.main()
