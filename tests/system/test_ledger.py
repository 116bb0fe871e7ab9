#!/usr/bin/python3 -B
"""What becomes of deleted mail: it can come back while the grace lasts, one file serves all its
recipients until the last of them has let it go, no more is unlinked than the fuse allows, and
`mailfleet ledger` tells what was deleted from what is lost. Reapers are killed meanwhile."""

import json
import os
import random
import re
import signal
import threading
import time
from os import EX_DATAERR, EX_NOUSER, EX_OK, EX_TEMPFAIL, EX_USAGE

import harness
from commands import CommandTest
from mail import Refused, without_trace
from stored import uuid_of

HELLO = b"Subject: hello\r\n\r\nhello\r\n"
DAY = 24 * 60 * 60
STANDS, DELETED, LOST, UNKNOWN = range(4)


class LedgerTest(CommandTest):
    def reap(self, *words, code=EX_OK):
        return self.json("reap", "--yes", *words, code=code)

    def killed(self, fault):
        """A reaper that dies there, if it comes by."""
        done = self.run_admin("reap", "--yes", "--no-fuse",
                              env={"MAILFLEET_FAULT": f"{fault}=kill"})
        self.assertIn(done.returncode, (EX_OK, -9), done.stderr)
        return done.returncode == -9

    def undelete(self, account, *words, code=EX_OK):
        return self.json("undelete", account.address, "--yes", *words, code=code)

    def pass_time(self, seconds):
        self.fleet.sql(f"""UPDATE ledger SET deleted_at = deleted_at - interval '{seconds} s',
                                  unlink_after = unlink_after - interval '{seconds} s',
                                  claimed_at = claimed_at - interval '{seconds} s';
                           UPDATE blob_shared SET
                                  claimed_at = claimed_at - interval '{seconds} s'""")

    def delete(self, account, *numbers, node=0):
        """These messages, or all."""
        with self.eventually(40, lambda: self.pop3(account, node)) as pop3:
            for number in numbers or pop3.list():
                pop3.ok(f"DELE {number}")
            pop3.quit()

    def uidls(self, account, node=0):
        with self.eventually(40, lambda: self.pop3(account, node)) as pop3:
            uidls = list(pop3.uidl().values())
            pop3.quit()
        return uidls

    def files(self):
        return {path.name for path in self.spool_files()}

    def consistent(self):
        """Counters are what a recount gives, and each file has what names it, and the other way."""
        self.assert_exact()
        self.assertEqual(self.fleet.sql("""
            SELECT mailbox_id, blob_id FROM message GROUP BY 1, 2 HAVING count(*) > 1"""), [])
        files = {uuid_of(name) for name in self.files()}

        def ids(sql):
            return {row[0].replace("-", "") for row in self.fleet.sql(sql)}

        self.assertEqual(ids("SELECT blob_id FROM message") - files, set(), "dangling pointers")
        self.assertEqual(files - ids("SELECT blob_id FROM message UNION SELECT blob_id FROM ledger"
                                     " UNION SELECT blob_id FROM blob_shared"), set(), "orphans")

    def clean(self):
        """No file and no row is left of what earlier tests have deleted."""
        self.pass_time(60 * DAY)
        self.reap("--no-fuse")
        self.fleet.sql("DELETE FROM volume_reaped; DELETE FROM ledger_past")


class Undelete(LedgerTest):
    settings = {"cache.tombstone_ttl": "2s"}  # soon over, so that lists come into the cache

    def setUp(self):
        self.clean()

    def mailbox_of(self, name, messages, *options):
        account = self.account(name, *options)
        for n in range(messages):
            self.deliver(b"Subject: %d\r\n\r\nhello\r\n" % n, account)
        return account

    def test_what_comes_back_is_as_it_was(self):
        account = self.mailbox_of("back", 5)
        self.fleet.sql(f"""UPDATE message SET uidl = 'from-the-old-server'
                            WHERE seq = 2 AND mailbox_id =
                            (SELECT mailbox_id FROM account WHERE addr = '{account.address}')""")
        self.raise_epoch()
        self.assertIn("from-the-old-server", self.uidls(account))
        uidls, content = self.uidls(account), self.mailbox(account)
        self.delete(account, 1, 2, 5)
        self.deliver(HELLO, account)
        rest, new = [uidls[2], uidls[3]], self.uidls(account)[-1]
        self.assertEqual(self.uidls(account), [*rest, new])
        # It only says what it would do.
        before = self.fleet.sql("SELECT * FROM ledger ORDER BY seq")
        done = self.run_admin("undelete", account.address, "--json")
        self.assertEqual((done.returncode, json.loads(done.stdout)["messages"]), (EX_OK, 3))
        self.assertIn("without --yes", done.stderr)
        self.assertEqual(self.fleet.sql("SELECT * FROM ledger ORDER BY seq"), before)
        self.until_cached(account)
        told = self.undelete(account)
        self.assertEqual((told["restored"], told["lost"]), (3, 0))
        for node in 0, 1:  # in force on every node, at once
            self.assertEqual(self.uidls(account, node), [*uidls, new])
        self.assertEqual(self.mailbox(account), [*content, HELLO])
        self.assertEqual(self.undelete(account)["restored"], 0)
        self.assertEqual(self.count("ledger"), 0)
        self.pass_time(60 * DAY)
        self.assertEqual(self.reap()["files"], 0)
        self.assertEqual(self.mailbox(account), [*content, HELLO])
        self.consistent()

    def test_since_a_time_and_one_alone(self):
        account = self.mailbox_of("some", 4)
        uidls = self.uidls(account)
        self.delete(account, 1, 2)
        self.pass_time(3 * DAY)
        self.delete(account)
        self.assertEqual(self.undelete(account, "--since", "1d")["restored"], 2)
        self.assertEqual(self.uidls(account), uidls[2:])
        self.assertEqual(self.undelete(account, "--id", uidls[1])["restored"], 1)
        self.assertEqual(self.uidls(account), uidls[1:])
        for words, code in ((("--id", uidls[1]), EX_NOUSER), (("--id", "x"), EX_DATAERR),
                            (("--since", "yesterday"), EX_DATAERR)):
            self.assertEqual(self.run_admin("undelete", account.address, "--yes",
                                            *words).returncode, code, words)
        self.assertEqual(self.run_admin("undelete", f"nobody@{harness.DOMAIN}").returncode,
                         EX_NOUSER)
        self.assertEqual(self.uidls(account), uidls[1:])

    def test_an_operator_deletes(self):
        account = self.mailbox_of("chosen", 5)
        box = f"(SELECT mailbox_id FROM account WHERE addr = '{account.address}')"
        self.fleet.sql(f"UPDATE message SET uidl = 'old' WHERE seq = 2 AND mailbox_id = {box}")
        self.raise_epoch()
        uidls = self.uidls(account)
        for words, code in (((), EX_USAGE), (("--id", uidls[0], "--all"), EX_USAGE),
                            (("--id", uidls[0], "--older", "1d"), EX_USAGE),
                            (("--id", "x"), EX_DATAERR), (("--uidl", "x"), EX_NOUSER),
                            (("--all", "--older", "long"), EX_DATAERR)):
            self.assertEqual(self.run_admin("delete", account.address, "--yes", *words).returncode,
                             code, words)

        def deleted(*words):
            return json.loads(self.fleet.admin("delete", account.address, "--json", *words))
        self.assertEqual(deleted("--all"), {
            "messages": 5, "deleted": 0, "octets": int(self.fleet.sql(
                f"SELECT octets FROM mailbox WHERE mailbox_id = {box}")[0][0])})
        self.assertEqual(self.uidls(account), uidls)
        self.until_cached(account)
        self.assertEqual(deleted("--id", uidls[0], "--yes")["deleted"], 1)
        self.assertEqual(self.uidls(account, 1), uidls[1:])  # on every node, at once
        self.assertEqual(deleted("--uidl", uidls[2], "--yes")["deleted"], 1)
        self.assertEqual(deleted("--uidl", "old", "--yes")["deleted"], 1)
        self.assertEqual(self.uidls(account), uidls[3:])
        self.assertEqual(deleted("--all", "--older", "1d", "--yes")["deleted"], 0)
        self.assertEqual(deleted("--all", "--yes")["deleted"], 2)
        self.assertEqual(self.uidls(account), [])
        [[who]] = self.fleet.sql(f"SELECT DISTINCT by_whom FROM ledger WHERE mailbox_id = {box}")
        self.assertRegex(who, "^operator ")
        self.assertEqual(self.undelete(account)["restored"], 5)
        self.assertEqual(self.uidls(account), uidls)
        self.consistent()
        self.fleet.admin("account", "remove", account.address, "--yes")
        for command in ("delete", account.address, "--all"), ("undelete", account.address):
            done = self.run_admin(*command, "--yes")
            self.assertEqual(done.returncode, EX_NOUSER)
            self.assertIn("account restore", done.stderr)

    def test_what_comes_after_the_count_is_not_deleted(self):
        """While an operator deletes, the owner does so, too, and new mail comes."""
        account = self.mailbox_of("counted", 3)
        process = self.popen_admin("delete", account.address, "--all", "--yes", "--json",
                                   env={"MAILFLEET_FAULT": "delete_counted=stop"})
        os.waitpid(process.pid, os.WUNTRACED)
        self.delete(account, 1, 2)
        self.deliver(HELLO, account)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, EX_OK, err)
        self.assertEqual((json.loads(out)["messages"], json.loads(out)["deleted"]), (3, 1))
        self.assertEqual(self.mailbox(account), [HELLO])
        self.consistent()

    def test_pages_of_a_long_mailbox(self):
        account = self.mailbox_of("long", 1)
        box = self.mailbox_id(account)
        self.fleet.sql(f"""
            WITH more AS (
                INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
                SELECT {box}, 1 + n, gen_random_uuid(), 7, 1, 1, false
                  FROM generate_series(1, 2500) n RETURNING size)
            UPDATE mailbox SET next_seq = 3000, msgs = 2501, octets = octets +
                   (SELECT sum(size) FROM more) WHERE mailbox_id = {box}""")
        self.assertEqual(self.json("delete", account.address, "--all", "--yes")["deleted"], 2501)
        self.assertEqual(self.uidls(account), [])
        self.fleet.sql(f"DELETE FROM ledger WHERE mailbox_id = {box} AND size = 7")
        self.consistent()

    def test_limits_do_not_stop_it(self):
        account = self.mailbox_of("limited", 3, "--quota-messages", "3")
        self.delete(account)
        self.deliver(HELLO, account)
        done = self.run_admin("undelete", account.address, "--yes")
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertIn("at its limits", done.stderr)
        self.assertEqual(len(self.uidls(account)), 4)
        with self.assertRaises(Refused):
            self.deliver(HELLO, account)

    def test_rules_that_take_it_again_are_told(self):
        account = self.mailbox_of("rules", 1, "--read-retention", "3")
        self.delete(account)
        done = self.run_admin("undelete", account.address, "--yes")
        self.assertIn("3 days after they were retrieved", done.stderr)

    def test_what_a_reaper_has_is_lost(self):
        account = self.mailbox_of("taken", 3)
        uidls = self.uidls(account)
        self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now() WHERE seq = 1")
        self.assertEqual(self.reap("--limit", "1")["rows"], 1)
        self.fleet.sql("UPDATE ledger SET claimed_at = now() WHERE seq = 2")
        told = self.undelete(account)
        self.assertEqual((told["restored"], told["lost"]), (1, 2))
        self.assertEqual(self.uidls(account), uidls[2:])
        for n in 0, 1:
            done = self.run_admin("undelete", account.address, "--id", uidls[n], "--yes")
            self.assertEqual(done.returncode, EX_NOUSER)
            self.assertIn("lost", done.stderr)

    def test_killed_between_pages_it_goes_on(self):
        account = self.account("pages")
        self.fleet.sql(f"""
            INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, deleted_at,
                                unlink_after, by_whom)
            SELECT c.mailbox_id, lpad(to_hex(n), 32, '0')::uuid, n, 10, 1, 1, false, now(),
                   now() + interval '1 day', 'test'
              FROM generate_series(1, 2500) n, account c WHERE c.addr = '{account.address}'""")
        done = self.run_admin("undelete", account.address, "--yes",
                              env={"MAILFLEET_FAULT": "undelete_committed=kill"})
        self.assertEqual(done.returncode, -9, done.stderr)
        self.assertEqual(self.count("ledger"), 1500)
        self.assertEqual(self.undelete(account)["restored"], 1500)
        self.assertEqual(len(self.uidls(account)), 2500)
        self.fleet.sql(f"""DELETE FROM message WHERE mailbox_id = (SELECT mailbox_id FROM account
                            WHERE addr = '{account.address}');
                           UPDATE mailbox SET msgs = 0, octets = 0 WHERE mailbox_id =
                           (SELECT mailbox_id FROM account WHERE addr = '{account.address}')""")


class Ledger(LedgerTest):
    def setUp(self):
        self.clean()

    def delivered(self, *accounts):
        """The id of a message that was."""
        before = self.files()
        self.deliver(HELLO, *accounts)
        (name,) = self.files() - before
        return name

    def ask(self, *words, answer, state=None):
        """The exit status says the answer; the rows their states; the words what a person reads."""
        rows = self.json("ledger", *words, code=answer)
        if state is not None:
            self.assertEqual([row["state"] for row in rows], state)
        done = self.run_admin("ledger", *words)
        self.assertEqual(done.returncode, answer)
        self.said = done.stdout + done.stderr
        return rows

    def test_from_delivery_until_it_has_gone(self):
        account = self.account("life")
        name = self.delivered(account)
        rows = self.ask(name, answer=STANDS, state=["stands"])
        self.assertEqual((rows[0]["address"], rows[0]["seq"], rows[0]["id"]),
                         (account.address, 1, name))
        self.delete(account)
        rows = self.ask(name, answer=DELETED, state=["deleted"])
        self.assertRegex(rows[0]["by"], "^pop3 ")
        self.assertIn(f"mailfleet undelete {account.address} --id {name} --yes", self.said)
        self.undelete(account)
        self.ask(name, account.address, answer=STANDS, state=["stands"])
        self.delete(account)
        self.pass_time(60 * DAY)
        self.assertTrue(self.killed("reap_claimed"))
        self.ask(name, answer=DELETED, state=["unlinking"])
        self.pass_time(DAY)
        self.reap()
        rows = self.ask(name, answer=DELETED, state=["unlinked"])
        self.assertIsNotNone(rows[0]["unlinked"])
        self.assertIn("its file has gone", self.said)
        self.fleet.sql("UPDATE ledger_past SET unlinked_at = now() - interval '31 days'")
        self.reap()
        self.ask(name, answer=UNKNOWN, state=[])

    def test_lost_is_not_deleted(self):
        alice, bob = self.account("lost"), self.account("lost2")
        name = self.delivered(alice, bob)
        self.delete(alice)
        (path,) = (path for path in self.spool_files() if path.name == name)
        away = path.with_name("away")
        path.rename(away)
        # Without its file there is no envelope; the ledger and the operator name the mailboxes.
        self.ask(name, answer=DELETED, state=["deleted"])
        self.ask(name, bob.address, answer=LOST, state=["lost"])
        self.ask(name, alice.address, answer=DELETED, state=["deleted"])
        self.assertIn("its file has gone", self.said)
        self.ask(name, "--scan", answer=LOST, state=["deleted", "lost"])
        self.assertIn("no volume has its file", self.said)
        path.write_bytes(away.read_bytes()[:-1])
        self.ask(name, answer=LOST, state=["deleted", "damaged"])
        path.unlink()
        away.rename(path)
        self.ask(name, answer=STANDS, state=["deleted", "stands"])

    def test_orphans_and_strangers(self):
        account = self.account("orphan")
        name = self.delivered(account)
        self.fleet.sql("DELETE FROM message WHERE mailbox_id = (SELECT mailbox_id FROM account"
                       f" WHERE addr = '{account.address}')")
        self.ask(name, answer=UNKNOWN, state=[])
        self.assertIn("an orphan", self.said)
        next(path for path in self.spool_files() if path.name == name).unlink()
        self.ask("0" * 26, answer=UNKNOWN, state=[])
        for words, code in (((), EX_USAGE), (("x",), EX_DATAERR), ((name, "x@y z"), EX_DATAERR),
                            ((name, f"nobody@{harness.DOMAIN}"), EX_NOUSER),
                            (("--since", "never"), EX_DATAERR)):
            self.assertEqual(self.run_admin("ledger", *words).returncode, code, words)

    def test_a_volume_that_is_away_is_no_loss(self):
        account = self.account("away")
        name = self.delivered(account)
        spool, away = self.fleet.spool, self.fleet.state / "spool.away"
        self.addCleanup(lambda: away.exists() and away.rename(spool))
        spool.rename(away)
        self.ask(name, account.address, answer=EX_TEMPFAIL, state=["unseen"])
        self.assertIn("can't be looked at", self.said)
        self.ask(name, answer=EX_TEMPFAIL, state=[])
        away.rename(spool)
        self.ask(name, answer=STANDS)
        for node in self.fleet.delivery_nodes + self.fleet.front_ends:
            self.eventually(30, lambda: self.assertIsNone(node.probe()))

    def test_what_was_deleted_since(self):
        alice, bob = self.account("list"), self.account("list2")
        for _ in range(3):
            self.deliver(HELLO, alice, bob)
        uidls = self.uidls(alice)
        self.delete(alice, 1)
        self.pass_time(2 * DAY)
        self.delete(alice, 1)
        self.delete(bob)
        self.fleet.sql("UPDATE ledger SET unlink_after = now() WHERE deleted_at <"
                       " now() - interval '1 day'")
        self.reap()
        listed = self.json("ledger", "--since", "7d", alice.address)
        self.assertEqual([(row["id"], row["state"]) for row in listed],
                         [(uidls[1], "deleted"), (uidls[0], "unlinked")])
        self.assertEqual([row["id"] for row in self.json("ledger", "--since", "1d", alice.address)],
                         uidls[1:2])
        self.assertEqual(len(self.json("ledger", "--since", "1d")), 4)
        self.assertEqual(len(self.json("ledger", "--since", "1d", "--limit", "2")), 2)
        self.assertEqual(self.json("ledger", "--since", "0s"), [])


class Reaping(LedgerTest):
    settings = {"reap.fuse": "10", "reap.fuse_floor": "1M", "reap.history": "2d"}

    def setUp(self):
        self.clean()

    def due(self, percent, volume=1):
        """Ledger rows of files that are not there, of this share of what the volume holds."""
        size = min(self.used() // 300, 10**9)
        self.fleet.sql(f"""
            INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, deleted_at,
                                unlink_after, by_whom)
            SELECT 999, gen_random_uuid(), n, {size}, 0, {volume}, false, now(), now(), 'test'
              FROM generate_series(1, {self.used() * percent // 100 // size}) n""")

    def used(self):
        s = os.statvfs(self.fleet.spool)
        return (s.f_blocks - s.f_bfree) * s.f_frsize

    def test_the_fuse_spares_a_volume_and_no_other(self):
        second = self.fleet.spool / "second"
        self.assertEqual(self.run_admin("volume", "add", f"file://{second}",
                                        "--weight", "0").returncode, EX_OK)
        account = self.account("fuse")
        self.deliver(HELLO, account)
        self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now()")
        other = max(row["id"] for row in self.json("volume", "list"))
        self.due(3, volume=other)
        others = self.count(f"ledger WHERE volume_id = {other}")
        self.due(30)
        files, rows = self.files(), self.count("ledger")
        done = self.run_admin("reap", "--json")  # it tells, and leaves all
        self.assertEqual((done.returncode, json.loads(done.stdout)["due"]), (EX_OK, rows))
        self.assertIn("more than the", done.stderr)
        for _ in range(2):
            done = self.run_admin("reap", "--yes", "--json")
            self.assertEqual(done.returncode, EX_TEMPFAIL, done.stderr)
            self.assertRegex(done.stderr, r"error reap\.fuse .*volume=1 ")
            self.assertNotIn(f"volume={other} due", done.stderr)
            self.assertEqual(self.files(), files)
        self.assertEqual(self.count("ledger"), rows - others)
        self.assertEqual(self.count("ledger WHERE claimed_at IS NOT NULL"), 0)
        self.assertEqual(self.reap("--no-fuse")["rows"], rows - others)
        self.assertEqual((self.count("ledger"), self.files() & files), (0, set()))

    def test_the_fuse_counts_the_share_of_a_shared_file(self):
        self.due(30)
        self.fleet.sql("""UPDATE ledger SET shared = true;
                          INSERT INTO blob_shared (blob_id, volume_id, refs, octets)
                          SELECT blob_id, 1, 4, size FROM ledger""")
        self.assertNotIn("more than the", self.run_admin("reap").stderr)
        self.fleet.sql("UPDATE blob_shared SET refs = 2")
        self.assertIn("more than the", self.run_admin("reap").stderr)
        self.fleet.sql("DELETE FROM ledger; DELETE FROM blob_shared")

    def test_the_fuse_passes_what_moves_have_left_and_that_alone(self):
        def due(by):
            self.due(30)
            self.fleet.sql(f"UPDATE ledger SET mailbox_id = 0, by_whom = 'operator x: {by}'")

        for by in "drain", "rebalance, unfinished":
            due(by)
            self.assertNotIn("more than the", self.run_admin("reap").stderr)
            self.assertGreater(self.reap()["files"], 0)
        self.assertEqual(self.count("volume_reaped"), 0)
        due("adopt, nobody lacks it")
        self.assertIn("more than the", self.run_admin("reap").stderr)
        self.assertEqual(self.reap(code=EX_TEMPFAIL)["files"], 0)
        self.reap("--no-fuse")
        self.assertEqual(self.count("volume_reaped"), 1)

    def test_a_day_is_one_share_however_many_runs(self):
        used = self.used()
        for run in range(4):
            self.due(3)
            code = EX_OK if run < 3 else EX_TEMPFAIL
            self.reap(code=code)
        self.assertGreater(self.count("ledger"), 0)
        reaped = int(self.fleet.sql("SELECT octets FROM volume_reaped")[0][0])
        self.assertLess(reaped, used // 10)
        self.assertGreater(reaped, used // 20)
        # Another day.
        self.fleet.sql("UPDATE volume_reaped SET day = day - 1")
        self.reap()
        self.assertEqual(self.count("ledger"), 0)

    def test_what_was_unlinked_is_counted_once(self):
        accounts = [self.account(f"count{n}") for n in range(3)]
        self.deliver(HELLO, *accounts)  # one shared file,
        self.deliver(HELLO, accounts[0])  # and one of its own
        octets = sum(path.stat().st_size for path in self.spool_files())
        for account in accounts:
            self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now()")
        for fault in "reap_claimed", "reap_unlinked", "reap_released", "reap_unlinked:3":
            self.killed(fault)
            self.pass_time(DAY)
        self.reap()
        self.assertEqual(self.files(), set())
        self.assertEqual(self.fleet.sql("SELECT files, octets FROM volume_reaped"),
                         [["2", str(octets)]])
        self.assertEqual(self.count("ledger_past"), 4)

    def test_a_copy_that_was_given_up_waits_for_no_other(self):
        """Rows of mailbox 0 with one id are of files on several volumes."""
        self.fleet.sql("""
            INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, deleted_at,
                                unlink_after, by_whom)
            SELECT 0, id, place, 9, 9, abs(place), false, now(), now() + wait, 'test'
              FROM gen_random_uuid() id,
                   (VALUES (-1, interval '0'), (2, interval '14 d')) f (place, wait)""")
        self.assertEqual(self.reap()["rows"], 1)
        self.assertEqual(self.fleet.sql("SELECT seq FROM ledger WHERE mailbox_id = 0"), [["2"]])
        self.fleet.sql("DELETE FROM ledger WHERE mailbox_id = 0")

    def test_the_past_is_forgotten(self):
        account = self.account("past")
        self.deliver(HELLO, account)
        self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now()")
        self.reap()
        self.assertEqual(self.count("ledger_past"), 1)
        self.fleet.sql("UPDATE ledger_past SET unlinked_at = now() - interval '47 hours'")
        self.reap()
        self.assertEqual(self.count("ledger_past"), 1)
        self.fleet.sql("UPDATE ledger_past SET unlinked_at = now() - interval '49 hours'")
        self.reap()
        self.assertEqual(self.count("ledger_past"), 0)

    def test_the_clock_is_the_databases(self):
        """Which is two months ahead here: what is called from now on finds it so."""
        account = self.account("clock")
        self.deliver(HELLO, account)
        self.delete(account)
        self.assertEqual(self.reap()["files"], 0)
        self.database_clock_ahead(60)
        done = self.run_admin("reap", "--yes", "--json")
        self.assertEqual((done.returncode, json.loads(done.stdout)["files"]), (EX_OK, 1))
        self.assertRegex(done.stderr, r"this node's clock is 51\d{5} s behind")

    def test_each_file_is_a_line_of_the_log(self):
        account = self.account("logged")
        self.deliver(HELLO, account)
        (name,) = self.files()
        self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now()")
        done = self.run_admin("reap", "--yes")
        self.assertEqual(re.findall(r"info reap\.unlinked .*\bid=(\w+) volume=1 ", done.stderr),
                         [name])

    def test_the_pace(self):
        """Not how long it takes is looked at, but that a slow one takes few rows at once."""
        account = self.account("pace")
        with self.lmtp() as lmtp:
            for _ in range(6):
                lmtp.deliver(HELLO, [account.address])
        self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now()")
        done = self.run_admin("reap", "--yes", "--rate", "2",
                              env={"MAILFLEET_FAULT": "reap_claimed:2=kill"})
        self.assertEqual(done.returncode, -9, done.stderr)
        self.assertEqual((self.count("ledger"), len(self.files())), (4, 4))
        self.assertEqual(self.count("ledger WHERE claimed_at IS NOT NULL"), 2)
        for bad in "-1", "x", "1000001":
            self.assertEqual(self.run_admin("reap", "--yes", "--rate", bad).returncode, EX_DATAERR)

    def test_free_shared_files_are_shared_out(self):
        """Two reapers at once unlink each file once between them."""
        accounts = [self.account(f"two{n}") for n in range(2)]
        with self.lmtp() as lmtp:
            for _ in range(30):
                lmtp.deliver(HELLO, [account.address for account in accounts])
        for account in accounts:
            self.delete(account)
        self.fleet.sql("UPDATE ledger SET unlink_after = now() WHERE ctid IN (SELECT ctid FROM ledger "
                       "WHERE mailbox_id = (SELECT max(mailbox_id) FROM ledger) LIMIT 10)")
        due = json.loads(self.run_admin("reap", "--json").stdout)
        self.assertEqual((due["due"], due["files"], due["octets"]), (10, 0, 0))
        self.fleet.sql("UPDATE ledger SET unlink_after = now()")
        due = json.loads(self.run_admin("reap", "--json").stdout)
        self.assertEqual((due["due"], due["files"], due["octets"]), (60, 30, sum(
            path.stat().st_size for path in self.spool_files())))
        done = []
        reapers = [threading.Thread(target=lambda: done.append(self.run_admin(
            "reap", "--yes", "--json"))) for _ in range(3)]
        for reaper in reapers:
            reaper.start()
        for reaper in reapers:
            reaper.join()
        self.assertEqual([one.returncode for one in done], [EX_OK] * 3, done)
        self.assertEqual(sum(json.loads(one.stdout)["files"] for one in done), 30)
        self.assertEqual(sum(json.loads(one.stdout)["rows"] for one in done), 60)
        self.assertEqual((self.files(), self.count("blob_shared")), (set(), 0))


class SingleInstance(LedgerTest):
    settings = {"spool.grace": "0s"}
    time_limit = 400

    RECIPIENTS = 100
    BODY = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * (2 * 1024 * 1024 // 72)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fleet.sql(f"""
            WITH made AS (
                INSERT INTO mailbox (mailbox_id)
                SELECT nextval('mailbox_ids') FROM generate_series(1, {cls.RECIPIENTS})
                RETURNING mailbox_id
            ), named AS (
                SELECT mailbox_id, 'crowd' || row_number() OVER () || '@{harness.DOMAIN}' AS addr
                  FROM made
            ), accounts AS (
                INSERT INTO account (mailbox_id, addr) SELECT mailbox_id, addr FROM named
            )
            INSERT INTO address (addr, domain, mailbox_id)
            SELECT addr, '{harness.DOMAIN}', mailbox_id FROM named""")
        cls.crowd = [f"crowd{n}@{harness.DOMAIN}" for n in range(1, cls.RECIPIENTS + 1)]

    def deliver_large(self, members):
        before = self.files()
        self.deliver(self.BODY, *self.crowd, *members)
        (name,) = self.files() - before
        return name

    def sql_delete(self, where):
        """What QUIT does in the database, for those without a session."""
        self.fleet.sql(f"""
            SELECT expunge(mailbox_id, array_agg(seq), array_agg(blob_id),
                           (extract(epoch FROM now()) * 1000)::bigint, 0, 'test')
              FROM message WHERE mailbox_id IN
                   (SELECT mailbox_id FROM account WHERE addr LIKE 'crowd%' AND {where})
             GROUP BY mailbox_id""")

    def test_one_file_until_the_last_has_let_go(self):
        members = [self.account(f"member{n}") for n in range(2)]
        name = self.deliver_large(members)
        self.assertEqual(self.fleet.sql("SELECT refs FROM blob_shared"), [["102"]])
        self.assertEqual(self.fleet.sql("SELECT sum(octets) FROM mailbox"),
                         self.fleet.sql("SELECT sum(size)::bigint FROM message"))
        faults = ["reap_claimed", "reap_unlinked", "reap_released", "reap_claimed:9"]
        for part in range(4):
            self.sql_delete(f"mailbox_id % 4 = {part}")
            self.killed(faults[part])
            self.consistent()
            self.assertEqual(self.mailbox(members[part % 2]), [self.BODY])
        self.delete(members[0])
        self.assertEqual(self.undelete(members[0])["restored"], 1)
        self.pass_time(DAY)
        self.reap("--no-fuse")
        self.assertEqual(self.fleet.sql("SELECT refs FROM blob_shared"), [["2"]])
        self.assertEqual(self.mailbox(members[0]), [self.BODY])
        self.delete(members[0])
        self.reap("--no-fuse")
        self.assertEqual(self.mailbox(members[1]), [self.BODY])
        self.delete(members[1])
        # The last row has gone, and the bytes go, at whatever point reapers die.
        killed = [self.killed(fault) for fault in ("reap_claimed", "reap_released")]
        self.pass_time(DAY)
        killed += [self.killed(fault) for fault in ("reap_released", "reap_unlinked")]
        # The second had nothing to end: the rows were the first one's still.
        self.assertEqual(killed, [True, False, True, True])
        self.pass_time(DAY)
        self.reap("--no-fuse")
        self.assertNotIn(name, self.files())
        self.assertEqual((self.count("blob_shared"), self.count("ledger")), (0, 0))

    def test_all_at_once(self):
        """Deliveries, deletes, undeletes and reapers that are killed, all at the same time."""
        members = [self.account(f"busy{n}") for n in range(4)]
        ended, errors, sent = threading.Event(), [], []
        rng = random.Random(5)
        faults = [f"{name}:{n}" for name in ("reap_claimed", "reap_unlinked", "reap_released")
                  for n in (1, 2, 3)]

        def loop(act):
            def run():
                try:
                    while not ended.is_set():
                        act()
                except Exception as error:  # told by the test, not by the thread
                    errors.append(error)
            thread = threading.Thread(target=run)
            thread.start()
            return thread

        def deliver():
            some = rng.sample(members, rng.randrange(1, 5))
            self.deliver(HELLO, *some)
            sent.append(len(some))

        def delete(node):
            account = rng.choice(members)
            try:
                with self.pop3(account, node) as pop3:
                    for number in pop3.list():
                        # A file that is listed is there, whatever else goes on.
                        self.assertEqual(without_trace(pop3.retr(number)), HELLO)
                        if rng.random() < 0.7:
                            pop3.ok(f"DELE {number}")
                    pop3.quit()
            except Refused as refused:
                if not re.search(r"\[(IN-USE|SYS/TEMP)\]", refused.reply):
                    raise

        def reap():
            self.killed(rng.choice(faults))
            self.pass_time(DAY)  # what it had claimed

        threads = [loop(deliver), loop(lambda: delete(0)), loop(lambda: delete(1)), loop(reap),
                   loop(lambda: self.undelete(rng.choice(members)))]
        try:
            while len(sent) < 60 and not errors:
                time.sleep(0.1)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        self.assertEqual(errors, [])
        self.consistent()
        # Each delivered copy is listed, deleted, or was unlinked; none twice, none not at all.
        self.assertEqual(self.fleet.sql("""
            SELECT count(*), count(DISTINCT (mailbox_id, blob_id)) FROM (
                SELECT mailbox_id, blob_id FROM message UNION ALL
                SELECT mailbox_id, blob_id FROM ledger UNION ALL
                SELECT mailbox_id, blob_id FROM ledger_past) x
             WHERE mailbox_id IN (SELECT mailbox_id FROM account WHERE addr LIKE 'busy%')"""),
            [[str(sum(sent))] * 2])
        for account in members:
            for content in self.mailbox(account):
                self.assertEqual(content, HELLO)
            self.delete(account)
        self.pass_time(DAY)
        self.reap("--no-fuse")
        self.assertEqual((self.files(), self.count("blob_shared"), self.count("ledger")),
                         (set(), 0, 0))


if __name__ == "__main__":
    harness.main()
