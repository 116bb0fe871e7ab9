#!/usr/bin/python3 -B
"""What a whole fleet says to its filer, counted on the wire, and what becomes of file handles that
the filer does not know any more.

The fleet's volume is on an NFS server behind a proxy that counts calls (tests/nfs/wire.py); MOUNT
has one, too. All 10 s each daemon looks at its volumes: a READ of the sentinel, which is known by its
length, and an FSSTAT.
"""

import json
import re
import shutil
import subprocess
import sys
import time

import filer
import harness
from harness import DOMAIN, HOST
from mail import Refused, without_trace

sys.path.insert(0, str(harness.ROOT / "tests/nfs"))

from wire import Wire  # noqa: E402

MESSAGES = 40
MANY = 100  # recipients of one message
LOOK_EVERY = 10  # seconds
SENTINEL = 37  # octets: a volume's UUID, and what would be too much


def message(number, size=8192):
    """Of exactly this size."""
    head = b"Subject: %06d\r\n\r\n" % number
    lines = (b"%06d " % number * 10 + b"\r\n") * (size // 72)
    return head + lines[:size - len(head) - 2] + b"\r\n"


class OnTheWire(harness.FleetTest):
    settings = {"spool.grace": "1s", "cache.tombstone_ttl": "2s", "cache.timeout": "2s"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        fleet = cls.fleet
        cls.server = filer.serve(fleet, "remote")
        cls.wire = cls.enterClassContext(Wire((HOST, cls.server.nfs_port), look=SENTINEL))
        cls.mounts = cls.enterClassContext(Wire((HOST, cls.server.mount_port)))
        # Few directories, so that those of the next day are soon made.
        fleet.admin("volume", "add", filer.url(fleet, cls.server, cls.wire.port, cls.mounts.port),
                    "--fanout", "1")
        fleet.admin("volume", "set", "1", "--state", "drain")
        cls.warmed = cls.account("warm")
        fleet.sql(f"""
            WITH box AS (INSERT INTO mailbox (mailbox_id) SELECT nextval('mailbox_ids')
                           FROM generate_series(1, {MANY}) RETURNING mailbox_id),
                 named AS (SELECT 'many' || row_number() OVER () || '@{DOMAIN}' AS addr, mailbox_id
                             FROM box),
                 person AS (INSERT INTO account (addr, mailbox_id) SELECT * FROM named)
            INSERT INTO address (addr, domain, mailbox_id)
            SELECT addr, '{DOMAIN}', mailbox_id FROM named""")

    def setUp(self):
        """Every node knows the volume and its directories."""
        self.eventually(60, lambda: self.exactly(
            lambda: self.deliver_some(10, [self.warmed.address]), CREATE=20, WRITE=20))

    # --- counting -------------------------------------------------------------------------------

    def counted(self, act):
        """What goes over the wire while act() runs, but for the regular looks; what it returned."""
        began = time.monotonic()
        self.wire.reset()
        self.mounts.reset()
        result = act()
        calls = {**self.wire.counts(), **self.mounts.counts()}
        programs = len(self.fleet.delivery_nodes + self.fleet.front_ends) + 1
        for call in "LOOK", "FSSTAT":
            self.assertLessEqual(calls.pop(call, 0),
                                 programs * (1 + (time.monotonic() - began) / LOOK_EVERY))
        return calls, result

    def exactly(self, act, **expected):
        calls, result = self.counted(act)
        self.assertEqual(calls, expected)
        return result

    def metric(self, node, name):
        text = self.fleet.front_ends[node].get("/metrics")[0]
        return int(re.search(rf"^mailfleet_{name}_total (\d+)$", text, re.MULTILINE)[1])

    # --- mail -----------------------------------------------------------------------------------

    def deliver_some(self, count, recipients):
        """So many by each delivery node."""
        for node in 0, 1:
            with self.lmtp(node) as lmtp:
                for number in range(count):
                    lmtp.deliver(message(number), recipients)
                lmtp.quit()

    def some_mail(self, name, count=MESSAGES):
        account = self.account(name)
        with self.lmtp() as lmtp:
            for number in range(count):
                lmtp.deliver(message(number), [account.address])
            lmtp.quit()
        return account

    def poll(self, account, times=10):
        for node in 0, 1:
            for _ in range(times):
                with self.pop3(account, node) as pop3:
                    self.assertEqual(pop3.stat()[0], MESSAGES)
                    self.assertEqual(len(pop3.list()), MESSAGES)
                    self.assertEqual(len(pop3.uidl()), MESSAGES)
                    pop3.quit()

    def read_all(self, account, node, count=MESSAGES):
        with self.pop3(account, node) as pop3:
            for number in range(count):
                self.assertEqual(without_trace(pop3.retr(number + 1)), message(number))
            pop3.quit()

    def top_all(self, account, node):
        with self.pop3(account, node) as pop3:
            for number in range(MESSAGES):
                self.assertIn(b"Subject: %06d" % number, pop3.multi(f"TOP {number + 1} 0"))
            pop3.quit()

    def forget_lists(self):
        self.fleet["memcached"].kill()
        self.fleet["memcached"].up()

    # --- the calls ------------------------------------------------------------------------------

    def test_a_delivery_is_two_calls(self):
        one, many = [self.warmed.address], [f"many{n}@{DOMAIN}" for n in range(1, MANY + 1)]
        self.exactly(lambda: self.deliver_some(100, one), CREATE=200, WRITE=200)
        self.exactly(lambda: self.deliver_some(10, many), CREATE=20, WRITE=20)

    def test_a_lost_answer_is_no_delivery(self):
        """The file may be there: it is given up, and what comes next has another one."""
        account = self.account("lost")
        orphans = "SELECT count(*) FROM ledger WHERE by_whom = 'file not written'"
        for number, procedure in enumerate(("CREATE", "WRITE")):
            self.wire.drop_reply(procedure)
            with self.lmtp() as lmtp:
                with self.assertRaises(Refused) as caught:
                    lmtp.deliver(message(number), [account.address])
                self.assertEqual(caught.exception.code, 451)
                self.eventually(20, lambda: lmtp.deliver(message(number), [account.address]))
            self.eventually(20, lambda: self.assertEqual(self.fleet.sql(orphans),
                                                         [[str(number + 1)]]))
        self.assertEqual(self.mailbox(account), [message(0), message(1)])

    def test_a_poll_is_none_and_a_message_read_is_one(self):
        account = self.some_mail("reader")
        self.exactly(lambda: self.poll(account))
        self.until_cached(account)
        self.exactly(lambda: self.poll(account))
        self.forget_lists()
        self.exactly(lambda: self.poll(account, times=1))
        for node in 0, 1:
            self.exactly(lambda: self.read_all(account, node), READ=MESSAGES)
            self.exactly(lambda: self.top_all(account, node), READ=MESSAGES)

    def reap(self):
        return json.loads(self.fleet.admin("reap", "--yes", "--json"))

    def test_a_message_reaped_is_one(self):
        account = self.some_mail("deleted")

        def nothing_is_left():
            self.reap()
            self.assertEqual(self.fleet.sql("SELECT count(*) FROM ledger"), [["0"]])

        def delete():
            with self.pop3(account) as pop3:
                for number in range(1, MESSAGES + 1):
                    pop3.ok(f"DELE {number}")
                pop3.quit()

        self.eventually(20, nothing_is_left)
        self.exactly(delete)
        time.sleep(1.1)  # the grace period
        calls, told = self.counted(self.reap)
        self.assertEqual(told, {"expired": 0, "rows": MESSAGES, "files": MESSAGES, "failed": 0})
        self.assertEqual(calls.pop("REMOVE"), MESSAGES)
        # Its own beginning, with a first look. It looks up the sentinel, the day and a few of the
        # day's directories; then it lists them.
        self.assertEqual((calls.pop("MNT"), calls.pop("FSINFO")), (1, 1))
        self.assertLessEqual(calls.pop("LOOKUP"), 6)
        self.assertLessEqual(calls.pop("READDIRPLUS"), 1)
        self.assertEqual(calls, {})

    # --- handles --------------------------------------------------------------------------------

    def files(self, account):
        """The file of each message."""
        with self.pop3(account) as pop3:
            ids = pop3.uidl().values()
            pop3.quit()
        folder = self.server.exports[1]
        return [next(folder.rglob(name)) for name in ids]

    def damaged(self, account, node):
        """All of its messages are told to be, and the session lives on."""
        with self.pop3(account, node) as pop3:
            count = pop3.stat()[0]
            for number in range(1, count + 1):
                for command in f"RETR {number}", f"TOP {number} 1":
                    with self.assertRaises(Refused) as caught:
                        pop3.multi(command)
                    self.assertTrue(caught.exception.reply.startswith("-ERR [SYS/PERM]"),
                                    caught.exception.reply)
            self.assertEqual(pop3.stat()[0], count)
            pop3.quit()

    def restore(self):
        """The volume as it comes back from a copy: everything has another handle than before."""
        folder = self.server.exports[1]
        copy = folder.with_name("copy")
        subprocess.run(["/usr/bin/cp", "-a", folder, copy], check=True)
        shutil.rmtree(folder)
        copy.rename(folder)

    def test_stale_handles_are_repaired(self):
        account, canary = self.some_mail("moved"), self.some_mail("canary", 1)
        exchanged = self.some_mail("exchanged", 2)
        for node in 0, 1:
            self.exactly(lambda: self.read_all(account, node), READ=MESSAGES)
            self.read_all(exchanged, node, 2)
        self.assertTrue(self.server.stop())
        first, second = self.files(exchanged)
        aside = first.with_name("aside")
        first.rename(aside)
        second.rename(first)
        aside.rename(second)
        self.restore()
        self.server.up()
        for node in 0, 1:  # until each has found the volume again
            self.eventually(30, lambda: self.read_all(canary, node, 1))
        self.eventually(30, lambda: self.deliver_some(1, [self.warmed.address]))

        stale, repaired = (self.metric(0, name) for name in ("nfs_handles_stale",
                                                             "spool_handles_repaired"))
        calls, _ = self.counted(lambda: self.read_all(account, 0))
        self.assertLessEqual(calls.pop("LOOKUP"), MESSAGES + 6)  # and directories as a reaper
        self.assertLessEqual(calls.pop("READDIRPLUS"), 1)
        self.assertEqual(calls, {"READ": 2 * MESSAGES})
        self.assertEqual(self.metric(0, "nfs_handles_stale"), stale + MESSAGES)
        self.eventually(20, lambda: self.assertGreaterEqual(
            self.metric(0, "spool_handles_repaired"), repaired + MESSAGES))
        self.forget_lists()  # which have the old handles for as long as they live
        for node in 0, 1:
            stale = self.metric(node, "nfs_handles_stale")
            self.exactly(lambda: self.read_all(account, node), READ=MESSAGES)
            self.assertEqual(self.metric(node, "nfs_handles_stale"), stale)
            self.damaged(exchanged, node)

    def test_another_message_in_its_file_is_not_served(self):
        account = self.some_mail("other", 2)
        self.read_all(account, 0, 2)
        first, second = self.files(account)
        contents = first.read_bytes(), second.read_bytes()
        self.assertEqual(len(contents[0]), len(contents[1]))
        first.write_bytes(contents[1])  # handles and lengths are as they were
        second.write_bytes(contents[0])
        for node in 0, 1:
            self.damaged(account, node)
        first.write_bytes(contents[0])
        second.write_bytes(contents[1])
        for node in 0, 1:
            self.read_all(account, node, 2)


if __name__ == "__main__":
    harness.main()
