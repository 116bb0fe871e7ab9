#!/usr/bin/python3 -B
"""A volume is emptied while mail is served: each message stays what it was, wherever the command is
killed, whoever deletes and undeletes meanwhile; the old files go by the reaper, after the grace. On
local folders and on an NFS server."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from os import EX_DATAERR, EX_NOUSER, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE

import harness
import test_ledger
from mail import Refused
from messages import some_messages
from stored import uuid_of

DAY = 24 * 60 * 60
# No mail comes while the command runs: it need not wait until all nodes know the state.
QUICK = {"MAILFLEET_FAULT": "drain_heard=fail"}


class DrainTest(test_ledger.LedgerTest):
    time_limit = 200
    # No test here is of a database that is slow, and with other tests beside them it may be.
    settings = {"spool.grace": "10d", "database.timeout": "15s"}

    def setUp(self):
        """Every volume is active, and nothing is left of what earlier tests have moved."""
        for volume in self.volumes():
            self.run_admin("volume", "set", volume, "--state", "active", "--weight", "100")
        self.pass_time(60 * DAY)
        self.reap("--no-fuse")

    def volumes(self):
        return [row["id"] for row in self.json("volume", "list")]

    def at(self, volume):
        return self.folders[volume]

    def files_on(self, volume):
        return {path.name: path for path in self.at(volume).rglob("*")
                if harness.MESSAGE_FILE.fullmatch(path.name)}

    def tell_nodes(self):
        """Of volumes, their states and weights: they ask at once, and not some seconds later."""
        for node in self.fleet.delivery_nodes + self.fleet.front_ends:
            os.kill(node.pids()[0], signal.SIGHUP)

    def only(self, volume):
        """New mail goes there alone, on every node when this returns."""
        for other in self.volumes():
            self.run_admin("volume", "set", other, "--weight", "100" if other == volume else "0")
        self.tell_nodes()
        probe = self.account(f"probe{random.getrandbits(40)}")

        def goes_there():
            for node in (0, 1) * 4:  # one alone may be there by chance
                self.deliver(b"Subject: probe\r\n\r\n\r\n", probe, node=node)
            self.assertEqual([row["volume"] for row in
                              self.json("messages", probe.address)[-8:]], [volume] * 8)

        self.eventually(30, goes_there)

    def drain(self, volume, *words, code=EX_OK, env=QUICK):
        done = self.run_admin("volume", "drain", volume, "--yes", "--json", *words, env=env)
        self.assertEqual(done.returncode, code, done.stderr)
        if code == EX_OK:
            self.assertEqual(list(json.loads(done.stdout)),
                             ["files", "octets", "left", "ledger", "until"])  # as the manual says
        self.said = done.stderr
        return done

    def on(self, volume):
        return self.count(f"message WHERE volume_id = {volume}")

    def content(self, account, node=0):
        """uidl -> octets as served."""
        with self.eventually(40, lambda: self.pop3(account, node)) as pop3:
            content = {uidl: pop3.retr(number) for number, uidl in pop3.uidl().items()}
            pop3.quit()
        return content

    def everything(self, accounts):
        return [list(self.content(account, node).items()) for account in accounts
                for node in (0, 1)]

    def nothing_dangles(self):
        """Each pointer's file stands where it says; no file stands that nothing names."""
        named = {(int(volume), blob.replace("-", "")) for volume, blob in self.fleet.sql(
            "SELECT volume_id, blob_id FROM message UNION SELECT volume_id, blob_id FROM ledger "
            "UNION SELECT volume_id, blob_id FROM blob_shared")}
        pointed = {(int(volume), blob.replace("-", "")) for volume, blob in self.fleet.sql(
            "SELECT volume_id, blob_id FROM message")}
        stand = {(volume, uuid_of(name)) for volume in self.volumes()
                 for name in self.files_on(volume)}
        self.assertEqual(pointed - stand, set(), "dangling pointers")
        self.assertEqual(stand - named, set(), "orphans")
        self.assertEqual(self.fleet.sql("""
            SELECT m.blob_id FROM message m JOIN blob_shared s ON s.blob_id = m.blob_id
             WHERE m.shared AND m.volume_id <> s.volume_id"""), [])
        self.assertEqual(self.fleet.sql("""
            SELECT m.blob_id FROM message m JOIN ledger l ON l.blob_id = m.blob_id
             WHERE l.mailbox_id = 0 AND l.volume_id = m.volume_id"""), [],
                         "the reaper would unlink what a pointer names")

    def after_the_grace(self, volume, accounts, before):
        """What it held has gone, by the reaper alone, and nothing else."""
        self.pass_time(11 * DAY)
        self.fleet.sql("DELETE FROM volume_reaped")
        self.reap("--no-fuse")
        self.assertEqual(self.files_on(volume), {})
        self.assertEqual(self.everything(accounts), before)
        self.nothing_dangles()
        self.assert_exact()

    def delete_all(self):
        """Whatever earlier tests have delivered."""
        for row in self.json("account", "list"):
            self.run_admin("delete", row["address"], "--all", "--yes")

    def fill(self, name, count=12, volume=1):
        """Three accounts, on this volume: own mail, mail that they share, long mail, and mail that
        kept the UIDL of another server."""
        self.only(volume)
        accounts = [self.account(f"{name}{n}") for n in range(3)]
        for n, message in enumerate(some_messages(name, count)):
            to = accounts if n % 4 == 3 else [accounts[n % 3]]
            with self.lmtp(n % 2) as lmtp:
                lmtp.deliver(message, [account.address for account in to])
        self.deliver(b"Subject: long\r\n\r\n" + b"x" * 70 * 1024 * 16 + b"\r\n", accounts[0])
        self.deliver(b"Subject: long\r\n\r\n" + b"y" * 400 * 1024 + b"\r\n", *accounts[1:])
        for other in self.volumes():
            self.run_admin("volume", "set", other, "--weight", "100")
        self.fleet.sql(f"""UPDATE message SET uidl = 'from-the-old-server' WHERE seq = 2 AND
                           mailbox_id = (SELECT mailbox_id FROM account
                                          WHERE addr = '{accounts[0].address}')""")
        # No node has cached what was there before: the tombstones of the deliveries still stand.
        for node in 0, 1:
            self.assertIn("from-the-old-server", self.uidls(accounts[0], node))
        return accounts


class Drain(DrainTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folders = {1: cls.fleet.spool}
        for number in 2, 3:
            cls.folders[number] = cls.fleet.state / "spool" / f"volume{number}"
            cls.fleet.make_dir(cls.folders[number], cls.fleet.user, 0o750)
            cls.fleet.admin("volume", "add", f"file://{cls.folders[number]}")

    def files_on(self, volume):
        """Not those of a volume whose folder lies in this one's."""
        return {name: path for name, path in super().files_on(volume).items()
                if volume != 1 or not any(path.is_relative_to(folder)
                                          for other, folder in self.folders.items() if other > 1)}

    def test_nothing_without_yes(self):
        self.fill("asked", 3)
        before = self.fleet.sql("SELECT mailbox_id, seq, volume_id FROM message ORDER BY 1, 2")
        done = self.run_admin("volume", "drain", 1)
        self.assertEqual((done.returncode, done.stdout), (EX_OK, ""), done.stderr)
        self.assertIn(f"the files of {self.on(1)} pointers", done.stderr)
        done = self.run_admin("volume", "rebalance")
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertIn("octets would be moved", done.stderr)
        self.assertEqual(self.fleet.sql("SELECT mailbox_id, seq, volume_id FROM message "
                                        "ORDER BY 1, 2"), before)
        self.assertEqual({row["state"] for row in self.json("volume", "list")}, {"active"})
        scanned = {row["id"]: row for row in self.json("volume", "list", "--scan")}
        self.assertEqual(scanned[1]["messages"], self.on(1))
        self.assertEqual(scanned[1]["octets"], int(self.fleet.sql(
            "SELECT sum(size::bigint + skip) FROM message WHERE volume_id = 1")[0][0]))

    def test_what_can_not_be_done(self):
        for code, says, *words in (
                (EX_NOUSER, "no such volume", "drain", 99),
                (EX_DATAERR, "is a number", "drain", "x"),
                (EX_DATAERR, "--jobs", "drain", 1, "--jobs", "65"),
                (EX_DATAERR, "--jobs", "drain", 1, "--jobs", "0"),
                (EX_DATAERR, "--rate", "rebalance", "--rate", "-1"),
                (EX_USAGE, "usage", "drain")):
            done = self.run_admin("volume", *words, "--yes")
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(says, done.stderr)
        self.run_admin("volume", "set", 2, "--state", "readonly")
        self.run_admin("volume", "set", 3, "--weight", "0")
        self.drain(1, code=EX_UNAVAILABLE)
        self.assertIn("no other active volume", self.said)
        self.assertEqual(self.json("volume", "list")[0]["state"], "active")

    def test_while_mail_comes_is_read_and_deleted(self):
        accounts = self.fill("busy", 24)
        kept, deleter, flow = accounts[:2], accounts[2], self.account("flow")
        before = self.everything(kept)
        files = set(self.files_on(1))
        ended, faults, sent = threading.Event(), [], []

        def repeat(work):
            def run():
                rng = random.Random(work.__name__)
                while not ended.is_set():
                    try:
                        work(rng)
                    except Refused as refused:
                        if "[IN-USE]" not in refused.reply:
                            faults.append(f"{work.__name__}: {refused.reply}")
                    except (AssertionError, OSError, EOFError) as error:
                        faults.append(f"{work.__name__}: {error!r}")
            return threading.Thread(target=run)

        def deliver(rng):
            message = b"Subject: %d\r\n\r\nhello\r\n" % len(sent)
            self.deliver(message, flow, node=rng.randrange(2))
            sent.append(message)

        def read(rng):
            who = rng.randrange(2)
            with self.pop3(kept[who], rng.randrange(2)) as pop3:
                uidls = pop3.uidl()
                for number in rng.sample(list(uidls), 4):
                    if (uidls[number], pop3.retr(number)) not in before[2 * who]:
                        faults.append(f"{uidls[number]} is another message")
                pop3.quit()

        def delete(rng):
            with self.pop3(deleter, rng.randrange(2)) as pop3:
                numbers = list(pop3.list())
                if len(numbers) > 2:
                    pop3.ok(f"DELE {rng.choice(numbers)}")
                pop3.quit()

        threads = [repeat(work) for work in (deliver, read, delete)]
        for thread in threads:
            thread.start()
        try:
            self.drain(1, "--rate", "20", "--jobs", "3", env=None)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        self.assertEqual(faults, [])
        self.assertEqual(self.on(1), 0)
        self.assertEqual(self.everything(kept), before)
        self.assertEqual(sorted(self.eventually(40, lambda: self.mailbox(flow))), sorted(sent))
        self.assert_exact()
        self.nothing_dangles()

        # No node writes there, and what it held goes by the reaper alone, after the grace.
        files = set(self.files_on(1))
        for node in 0, 1:
            for _ in range(6):
                self.deliver(b"Subject: late\r\n\r\n\r\n", flow, node=node)
        self.reap()
        self.assertEqual(set(self.files_on(1)), files)
        self.after_the_grace(1, kept, before)

    def test_killed_anywhere_it_goes_on(self):
        accounts = self.fill("killed")
        before = self.everything(accounts)
        for fault in ("move_marked", "move_copied", "move_moved", "move_copied:2"):
            done = self.run_admin("volume", "drain", 1, "--yes", "--jobs", "2",
                                  env={"MAILFLEET_FAULT": f"{fault}=kill"})
            self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
            self.nothing_dangles()
            self.assertEqual(self.everything(accounts), before)
        # What the killed ones were at is tried on the other volume, or once the reaper was there.
        done = self.run_admin("volume", "drain", 1, "--yes", env=QUICK)
        self.assertIn(done.returncode, (EX_OK, EX_TEMPFAIL), done.stderr)
        self.fleet.sql("UPDATE ledger SET unlink_after = now() WHERE mailbox_id = 0 AND seq < 0")
        self.reap()
        self.drain(1)
        self.assertEqual(self.on(1), 0)
        self.assertEqual(self.everything(accounts), before)
        self.nothing_dangles()
        self.after_the_grace(1, accounts, before)

    def test_several_at_once(self):
        accounts = self.fill("several", 30)
        before = self.everything(accounts)
        done = []
        threads = [threading.Thread(target=lambda: done.append(
            self.run_admin("volume", "drain", 1, "--yes", env=QUICK))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in done:
            self.assertIn(one.returncode, (EX_OK, EX_TEMPFAIL), one.stderr)
        self.fleet.sql("UPDATE ledger SET unlink_after = now() WHERE mailbox_id = 0 AND seq < 0")
        self.reap()
        self.drain(1)
        self.assertEqual(self.everything(accounts), before)
        self.nothing_dangles()
        self.after_the_grace(1, accounts, before)

    def test_deleted_meanwhile_and_undeleted(self):
        """What is deleted stays where it was, unless others keep its file: then it moves with it,
        and comes back from the new place."""
        accounts = self.fill("undo", 9)
        before = self.everything(accounts)
        self.delete(accounts[0])
        self.drain(1)
        self.assertGreater(self.count("ledger WHERE volume_id = 1 AND mailbox_id > 0"), 0)
        self.assertEqual(self.count("ledger WHERE volume_id = 1 AND shared"), 0)
        self.assertIn("until reap has ended", self.said)
        self.undelete(accounts[0])
        self.raise_epoch()
        self.assertEqual(self.everything(accounts), before)
        self.drain(1)  # what came back to it
        self.assertEqual(self.on(1), 0)
        self.after_the_grace(1, accounts, before)

    def test_moved_back_within_the_grace(self):
        accounts = self.fill("return", 6)
        before = self.everything(accounts)
        inodes = {name: path.stat().st_ino for name, path in self.files_on(1).items()}
        self.run_admin("volume", "set", 3, "--state", "readonly")
        self.drain(1)
        self.run_admin("volume", "set", 1, "--state", "active")
        self.drain(2)
        # The old copies are used, and are not the reaper's any more.
        self.assertEqual(self.count("ledger WHERE mailbox_id = 0 AND volume_id = 1"), 0)
        now = {name: path.stat().st_ino for name, path in self.files_on(1).items()}
        self.assertEqual({name: now[name] for name in inodes}, inodes)
        self.after_the_grace(2, accounts, before)

    def test_a_volume_that_is_closed_meanwhile(self):
        """It gets no more pointers, at once, and no more copies some seconds later."""
        self.delete_all()  # the pace is of all files there are
        accounts = self.fill("closed", 40)
        before, all_of_them = self.everything(accounts), self.on(1)
        drains = threading.Thread(target=lambda: self.drain(1, "--rate", "4", "--jobs", "1"))
        drains.start()
        self.eventually(60, lambda: self.assertGreater(self.on(2), 1))
        self.run_admin("volume", "set", 2, "--state", "readonly")
        there, copies = self.on(2), self.count("ledger WHERE mailbox_id = 0 AND seq = -2")
        left = self.on(1)
        drains.join()
        self.assertEqual(self.on(1), 0)
        self.assertLessEqual(self.on(2), there + 1)  # one may have been about to be committed
        self.assertLessEqual(self.count("ledger WHERE mailbox_id = 0 AND seq = -2"), copies + 1)
        self.assertGreater(left, all_of_them // 4)
        self.assertEqual(self.everything(accounts), before)
        self.nothing_dangles()

    def test_not_back_where_an_unlink_may_be_late(self):
        """A reaper was frozen, and another ended what it was at. If the first wakes, it unlinks."""
        accounts = self.fill("late", 4)
        before = self.everything(accounts)
        self.run_admin("volume", "set", 3, "--state", "readonly")
        self.drain(1)
        moved = self.count("ledger WHERE mailbox_id = 0 AND seq = 1")
        self.assertGreater(moved, 4)
        self.pass_time(11 * DAY)
        while self.count("ledger WHERE mailbox_id = 0 AND seq = 1 AND claimed_at IS NULL"):
            self.assertTrue(self.killed("reap_claimed"))  # it had a page of them
        self.pass_time(DAY)
        self.reap("--no-fuse")
        self.assertEqual(self.files_on(1), {})
        self.assertEqual(self.count("ledger_past WHERE mailbox_id = 0 AND reclaimed AND seq = 1"),
                         moved)
        self.run_admin("volume", "set", 1, "--state", "active")
        self.drain(2, code=EX_TEMPFAIL)
        self.assertIn("volume 1 had it, and a reaper that broke off there", self.said)
        self.assertEqual((self.on(1), self.files_on(1)), (0, {}))
        self.assertEqual(self.everything(accounts), before)
        self.fleet.sql("UPDATE ledger_past SET unlinked_at = now() - interval '31 days'")
        self.reap()
        self.drain(2)
        self.assertEqual(self.everything(accounts), before)
        self.nothing_dangles()

    def test_a_damaged_file_stays(self):
        account = self.fill("damaged", 3)[0]
        row = self.json("messages", account.address)[0]
        path = self.files_on(1)[row["id"]]
        octets = path.read_bytes()
        for damaged, why in (
                (octets[:-3] + b"?\r\n", "has not the hash that its envelope says"),
                (octets[:-2], "it can't be copied"),
                (octets.replace(b"\nfrom:", b"\nFrom:", 1), "its envelope is damaged"),
                (re.sub(rb"(?m)^sha256: .", b"sha256: g", octets, count=1),
                 "its envelope is damaged")):
            path.write_bytes(damaged)
            self.drain(1, code=EX_TEMPFAIL)
            self.assertIn(f"{row['id']} stays on volume 1", self.said)
            self.assertIn(why, self.said)
            self.assertEqual(path.read_bytes(), damaged)
            self.reap()  # what was begun of its copy
        path.write_bytes(octets)
        self.drain(1)
        self.assertEqual(self.on(1), 0)
        self.assertIn(row["id"], self.uidls(account))

    def test_something_is_in_the_way(self):
        """A file of that name that nothing names: half a copy, after a restore, say."""
        account = self.fill("way", 3)[0]
        before = self.everything([account])
        row = self.json("messages", account.address)[0]
        path = self.files_on(1)[row["id"]]
        other = self.at(2) / path.relative_to(self.at(1))
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(path.read_bytes()[:-10])
        shutil.chown(other, self.fleet.user)
        self.run_admin("volume", "set", 3, "--state", "readonly")
        self.drain(1, code=EX_TEMPFAIL)
        self.assertIn(f"{row['id']} stays on volume 1", self.said)
        self.assertEqual(self.on(1), self.count(f"message WHERE blob_id = '{uuid_of(row['id'])}'"))
        self.nothing_dangles()
        self.reap()
        self.assertFalse(other.exists())
        self.drain(1)
        self.assertEqual(self.everything([account]), before)
        self.nothing_dangles()

    def test_the_reaper_is_faster(self):
        """The functions alone: no pointer follows a copy that a reaper has, or a message that is not
        there any more; and what is noted is noted once."""
        account = self.fill("race", 2)[1]
        mailbox = self.fleet.sql(f"SELECT mailbox_id FROM account WHERE addr = "
                                 f"'{account.address}'")[0][0]
        seq, blob = self.fleet.sql(f"SELECT seq, blob_id FROM message WHERE mailbox_id = {mailbox}"
                                   " AND NOT shared")[0]
        mark = (f"SELECT mark_copy({mailbox}, {seq}, '{blob}', 1, 2, 1000, 1000, 'test')")
        move = (f"SELECT move_file(ARRAY[{mailbox}]::bigint[], {seq}, '{blob}', 1, 2, ''::bytea, "
                "false, 1000, 1000, 'test')")

        def refused():
            with self.assertRaisesRegex(harness.FleetError, "no copy of|no pointer to"):
                self.fleet.sql(move)
            self.assertEqual(self.count(f"message WHERE blob_id = '{blob}' AND volume_id = 1"), 1)

        refused()
        self.assertEqual(self.fleet.sql(mark), [["1"]])
        self.assertEqual(self.fleet.sql(mark), [["3"]])
        self.fleet.sql(f"UPDATE ledger SET claimed_at = now() WHERE blob_id = '{blob}'")
        refused()
        self.fleet.sql(f"UPDATE ledger SET claimed_at = NULL WHERE blob_id = '{blob}'")
        self.fleet.sql(f"SELECT expunge({mailbox}, ARRAY[{seq}]::bigint[], ARRAY['{blob}'::uuid], "
                       "1000, 864000000, 'test')")
        with self.assertRaisesRegex(harness.FleetError, "no pointer to"):
            self.fleet.sql(move)
        self.assertEqual(self.count(f"ledger WHERE blob_id = '{blob}' AND mailbox_id = 0"), 1)
        self.fleet.sql(f"SELECT undelete({mailbox}, 0, '{blob}', 1, 0, 'test')")
        self.assertEqual(self.fleet.sql(move), [["1"]])
        self.assertEqual(self.fleet.sql(f"SELECT seq, volume_id FROM ledger WHERE blob_id = "
                                        f"'{blob}'"), [["1", "1"]])
        back = move.replace("', 1, 2,", "', 2, 1,")
        self.assertEqual(self.fleet.sql(mark), [["0"]])
        self.assertEqual(self.fleet.sql(mark.replace("', 1, 2,", "', 2, 1,")), [["2"]])
        self.fleet.sql(f"UPDATE ledger SET claimed_at = now() WHERE blob_id = '{blob}'")
        self.assertEqual(self.fleet.sql(mark.replace("', 1, 2,", "', 2, 1,")), [["3"]])
        with self.assertRaisesRegex(harness.FleetError, "no copy of"):
            self.fleet.sql(back)
        self.fleet.sql(f"UPDATE ledger SET claimed_at = NULL WHERE blob_id = '{blob}'")
        self.assertEqual(self.fleet.sql(back), [["1"]])  # the file never left

    def test_rebalance(self):
        accounts = self.fill("balance", 40)
        before = self.everything(accounts)
        self.run_admin("volume", "set", 2, "--weight", "300")
        shown = {row["id"]: row for row in self.json("volume", "rebalance", "--yes")}
        total = sum(row["octets"] for row in shown.values())
        largest = int(self.fleet.sql("SELECT max(size::bigint + skip) * 3 FROM message")[0][0])
        for volume, weight in ((1, 1), (2, 3), (3, 1)):
            self.assertAlmostEqual(shown[volume]["share"], total * weight / 5, delta=2)
            self.assertEqual(shown[volume]["octets"], int(self.fleet.sql(
                "SELECT coalesce(sum(size::bigint + skip), 0) FROM message "
                f"WHERE volume_id = {volume}")[0][0]))
            self.assertLessEqual(shown[volume]["octets"], total * weight / 5 * 1.05 + largest)
        self.assertEqual(self.everything(accounts), before)
        self.nothing_dangles()

    def test_rebalance_comes_to_rest(self):
        """A handful of equal files, all of which fit into one round: half of them go, and stay."""
        self.delete_all()
        account = self.account("rest")
        for _ in range(8):
            self.deliver(b"Subject: equal\r\n\r\n" + b"x" * 70 + b"\r\n", account)
        for volume in 3, 2:
            self.drain(volume)
        self.assertEqual(self.on(1), 8)
        self.run_admin("volume", "set", 2, "--state", "active")
        self.json("volume", "rebalance", "--yes", "--jobs", "64")
        self.assertEqual((self.on(1), self.on(2)), (4, 4))
        # One more can't be divided: once it lies anywhere, it lies there.
        self.deliver(b"Subject: equal\r\n\r\n" + b"x" * 70 + b"\r\n", account)
        self.json("volume", "rebalance", "--yes")
        before = self.on(1)
        for _ in range(2):
            self.json("volume", "rebalance", "--yes")
            self.assertEqual(self.on(1), before)
        self.nothing_dangles()

    def test_rebalance_while_the_emptiest_is_away(self):
        """What is right for that volume alone does not go to another."""
        self.delete_all()
        account = self.account("emptiest")

        def lies_on(volume, size):
            self.deliver(b"Subject: size\r\n\r\n" + b"x\r\n" * (size // 3), account)
            row = self.json("messages", account.address)[-1]
            if row["volume"] != volume:  # a worker has not heard of it yet
                self.run_admin("delete", account.address, "--id", row["id"], "--yes")
            self.assertEqual(row["volume"], volume)

        for place in (2, 5000), (1, 30000), (1, 100):
            for volume in 1, 2, 3:
                self.run_admin("volume", "set", volume, "--weight",
                               "100" if volume == place[0] else "0")
            self.tell_nodes()
            self.eventually(30, lambda: lies_on(*place))
        for volume in 1, 2, 3:
            self.run_admin("volume", "set", volume, "--weight", "100")
        sentinel = self.at(3) / ".mailfleet-volume"
        away = sentinel.rename(sentinel.with_name("away"))
        done = self.run_admin("volume", "rebalance", "--yes")
        away.rename(sentinel)
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertIn("volume 3 is not well", done.stderr)
        self.assertEqual([row["volume"] for row in self.json("messages", account.address)],
                         [2, 1, 2])
        self.nothing_dangles()

    def test_rebalance_tells_what_failed(self):
        """The volume that lacks most can't take the file, and what another lacks is too little for it."""
        self.delete_all()
        account = self.account("tells")
        for size in 30000, 5000:
            self.deliver(b"Subject: size\r\n\r\n" + b"x\r\n" * (size // 3), account)
        for volume in 3, 2:
            self.drain(volume)
        self.pass_time(60 * DAY)  # no copies are left there
        self.reap("--no-fuse")
        for volume, weight in (2, "100"), (3, "1"):
            self.run_admin("volume", "set", volume, "--state", "active", "--weight", weight)
        row = self.json("messages", account.address)[0]
        path = self.files_on(1)[row["id"]]
        other = self.at(2) / path.relative_to(self.at(1))
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(path.read_bytes()[:-10])
        shutil.chown(other, self.fleet.user)
        done = self.run_admin("volume", "rebalance", "--yes")
        self.assertEqual(done.returncode, EX_TEMPFAIL, done.stderr)
        self.assertIn(f"{row['id']} stays on volume 1: volume 2: ", done.stderr)
        self.assertEqual([row["volume"] for row in self.json("messages", account.address)], [1, 1])
        self.nothing_dangles()

    def test_a_row_that_should_not_be_there(self):
        """What the database says is told, and not that a volume is closed."""
        account = self.fill("stray", 3)[0]
        row = self.json("messages", account.address)[0]
        stray = f"mailbox_id = 0 AND blob_id = '{uuid_of(row['id'])}' AND by_whom = 'stray'"
        self.fleet.sql("INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, "
                       "deleted_at, unlink_after, by_whom) VALUES (0, "
                       f"'{uuid_of(row['id'])}', 1, 1, 0, 1, false, now(), now() + '9 d', 'stray')")
        self.drain(1, code=EX_TEMPFAIL)
        self.fleet.sql(f"DELETE FROM ledger WHERE {stray}")
        self.assertIn(f"{row['id']} stays on volume 1: duplicate key", self.said)
        self.assertNotIn("takes no files any more", self.said)
        self.nothing_dangles()

    def test_a_volume_that_a_node_has_not_heard_of(self):
        """It asks, and reads."""
        account = self.fill("news", 1)[0]
        before = self.everything([account])
        folder = self.fleet.state / "spool" / "volume4"
        self.assertEqual(self.run_admin("volume", "add", f"file://{folder}", "--state",
                                        "drain").returncode, EX_OK)
        number = max(self.volumes())
        self.addCleanup(self.forget, number, folder)
        self.folders[number] = folder
        for name, path in self.files_on(1).items():
            other = folder / path.relative_to(self.at(1))
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, other)
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, self.fleet.user, self.fleet.user)
        self.fleet.sql(f"UPDATE message SET volume_id = {number} WHERE volume_id = 1")
        self.raise_epoch()
        self.assertEqual(self.everything([account]), before)

    def test_a_reload_asks_for_the_volumes(self):
        """With what is asked for together with them: three statements each, more than otherwise by far."""
        times, before = 50, self.queries()
        for _ in range(times):
            self.reload(self.fleet.front_ends[0], {})
        self.eventually(30, lambda: self.assertGreaterEqual(self.queries() - before, 3 * times))

    def test_removed_when_it_is_empty(self):
        folder = self.fleet.state / "spool" / "volume5"
        self.assertEqual(self.run_admin("volume", "add", f"file://{folder}").returncode, EX_OK)
        number = max(self.volumes())
        self.folders[number] = folder

        def remove(code, says, *words):
            done = self.run_admin("volume", "remove", number, *words, env=QUICK)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(says, done.stderr)

        account = self.fill("removed", 3, volume=number)[0]
        before = self.everything([account])
        remove(EX_UNAVAILABLE, "is in use", "--yes")
        self.run_admin("volume", "set", number, "--state", "drain")
        remove(EX_TEMPFAIL, f"{self.on(number)} pointers", "--yes")
        self.drain(number)
        remove(EX_TEMPFAIL, " 0 pointers", "--yes")
        self.pass_time(11 * DAY)
        self.reap("--no-fuse")
        remove(EX_OK, "nothing is done without --yes")
        self.assertIn(number, self.volumes())
        remove(EX_OK, "", "--yes")
        self.assertNotIn(number, self.volumes())
        del self.folders[number]
        remove(EX_NOUSER, "no such volume", "--yes")
        self.assertEqual(self.everything([account]), before)

    def test_active_again_before_it_is_removed(self):
        folder = self.fleet.state / "spool" / "volume6"
        self.assertEqual(self.run_admin("volume", "add", f"file://{folder}", "--state",
                                        "drain").returncode, EX_OK)
        number = max(self.volumes())
        self.folders[number] = folder
        self.addCleanup(self.forget, number, folder)
        process = self.popen_admin("volume", "remove", number, "--yes",
                                   env={"MAILFLEET_FAULT": f"remove_waits=stop,{QUICK['MAILFLEET_FAULT']}"})
        os.waitpid(process.pid, os.WUNTRACED)
        self.run_admin("volume", "set", number, "--state", "active", "--weight", "0")
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, EX_UNAVAILABLE, err)
        self.assertIn("in use again", err)
        self.assertIn(number, self.volumes())

    def test_deleted_while_it_is_removed(self):
        """Between its looks at the ledger and at the pointers, a message goes from those to that."""
        folder = self.fleet.state / "spool" / "volume6"
        self.assertEqual(self.run_admin("volume", "add", f"file://{folder}", "--state",
                                        "drain").returncode, EX_OK)
        number = max(self.volumes())
        self.folders[number] = folder
        self.addCleanup(self.forget, number, folder)
        account = self.account("deleted-late")
        self.deliver(b"Subject: late\r\n\r\n\r\n", account)
        fault = f"remove_looked:2=stop,{QUICK['MAILFLEET_FAULT']}"
        process = self.popen_admin("volume", "remove", number, "--yes",
                                   env={"MAILFLEET_FAULT": fault})
        self.addCleanup(process.kill)
        os.waitpid(process.pid, os.WUNTRACED)
        there = self.json("messages", account.address)[0]["volume"]
        self.fleet.sql(f"UPDATE message SET volume_id = {number} "
                       f"WHERE mailbox_id = {self.mailbox_id(account)}")
        self.ok("delete", account.address, "--all", "--yes")
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, EX_TEMPFAIL, err)
        self.assertIn("0 pointers, 1 ledger rows", err)
        self.assertIn(number, self.volumes())
        self.fleet.sql(f"UPDATE ledger SET volume_id = {there} WHERE volume_id = {number}")

    def test_removed_while_mail_is_on_its_way(self):
        """Its file was begun before the volume was drained. What comes to its end before it is removed is
        there, and to be drained; what comes later is not accepted."""
        folder = self.fleet.state / "spool" / "volume6"
        self.assertEqual(self.run_admin("volume", "add", f"file://{folder}").returncode, EX_OK)
        number = max(self.volumes())
        self.folders[number] = folder
        account = self.account("late-mail")
        self.only(number)
        there = len(self.files_on(number))
        with self.lmtp(0) as first, self.lmtp(1) as second:
            for lmtp in first, second:
                lmtp.begin([account.address])
                self.assertEqual(lmtp.command("DATA")[0], 354)
                lmtp.send(b"Subject: long\r\n\r\n" + b"x" * 70 * 1024 * 16 + b"\r\n")
            self.eventually(20, lambda: self.assertEqual(len(self.files_on(number)), there + 2))
            self.run_admin("volume", "set", 1, "--weight", "100")
            self.drain(number)
            first.send(b".\r\n")
            first.finish()
            done = self.run_admin("volume", "remove", number, "--yes", env=QUICK)
            self.assertEqual(done.returncode, EX_TEMPFAIL, done.stderr)
            self.drain(number)
            self.pass_time(61 * DAY)
            self.reap("--no-fuse")
            done = self.run_admin("volume", "remove", number, "--yes", env=QUICK)
            self.assertEqual(done.returncode, EX_OK, done.stderr)
            second.send(b".\r\n")
            with self.assertRaisesRegex(Refused, "^451"):
                second.finish()
        self.assertEqual(self.on(number), 0)
        self.assertEqual(self.count(f"ledger WHERE volume_id = {number}"), 0)
        del self.folders[number]
        self.assertEqual(len(self.content(account)), 1)

    def test_not_removed_before_an_old_commit(self):
        """A delivery that found the volume open has not ended when it is closed."""
        folder = self.fleet.state / "spool" / "volume7"
        self.assertEqual(self.run_admin("volume", "add", f"file://{folder}").returncode, EX_OK)
        number = max(self.volumes())
        self.folders[number] = folder
        self.addCleanup(self.forget, number, folder)
        account = self.account("old-commit")
        mailbox = self.fleet.sql(
            f"SELECT mailbox_id FROM account WHERE addr = '{account.address}'")[0][0]
        psql = subprocess.Popen(["/usr/bin/psql", "-XAtq", self.fleet.database_url], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(psql.kill)
        psql.stdin.write(f"BEGIN; SELECT deliver({mailbox}, gen_random_uuid(), {number}, 10, 0,"
                         " false, '', false, 0, 0);\n")
        psql.stdin.flush()
        self.assertEqual(psql.stdout.readline(), "(0,0)\n")
        self.drain(number)
        remove = self.popen_admin("volume", "remove", number, "--yes", env=QUICK)
        self.addCleanup(remove.kill)
        said = ""
        while "waiting for transactions" not in said:  # behind how far the walks have come
            said = remove.stderr.readline()
            self.assertTrue(said, "it did not wait")
        psql.stdin.write("COMMIT;\n")
        psql.communicate()
        self.assertIn("1 pointers", remove.communicate()[1])
        self.assertEqual(remove.returncode, EX_TEMPFAIL)
        self.assertEqual({row["id"]: row["state"] for row in self.json("volume", "list")}[number],
                         "drain")
        self.fleet.sql(f"SELECT remove_mailbox({mailbox}, 0, 0, 'test');"
                       f"DELETE FROM ledger WHERE volume_id = {number}")

    def forget(self, number, folder):
        self.fleet.sql(f"UPDATE message SET volume_id = 1 WHERE volume_id = {number};"
                       f"DELETE FROM volume WHERE volume_id = {number}")
        self.folders.pop(number, None)
        self.raise_epoch()
        shutil.rmtree(folder)


class DrainNas(DrainTest):
    """From one export to another, by file handle, and back."""

    nas = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folders = dict(enumerate(cls.fleet.nas_folders, 1))

    def test_from_one_export_to_another(self):
        accounts = self.fill("nas")
        before = self.everything(accounts)
        done = self.run_admin("volume", "drain", 1, "--yes",
                              env={"MAILFLEET_FAULT": "move_moved=kill"})
        self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
        self.nothing_dangles()
        self.drain(1)
        self.assertEqual(self.on(1), 0)
        self.assertEqual(self.everything(accounts), before)
        self.assertEqual(self.count("message WHERE handle = ''"), 0)
        self.nothing_dangles()
        stale = [node.get("/metrics")[0] for node in self.fleet.front_ends]
        for metrics in stale:
            self.assertRegex(metrics, r"(?m)^mailfleet_nfs_handles_stale_total 0$")
        self.run_admin("volume", "set", 1, "--state", "active")
        self.drain(2)
        self.assertEqual(self.everything(accounts), before)
        self.after_the_grace(2, accounts, before)


if __name__ == "__main__":
    harness.main()
