#!/usr/bin/python3 -B
"""Files that nothing names go back to who they were for, once, and to nobody else; what was deleted
stays deleted."""

import json
import shutil
from os import EX_DATAERR, EX_IOERR, EX_NOINPUT, EX_OK

import harness
import stored
from commands import CommandTest
from messages import some_messages

OLD = b"Subject: from elsewhere\r\n\r\nold\r\n"


class Adopt(CommandTest):
    settings = {"cache.tombstone_ttl": "2s"}  # soon over, so that lists come into the cache
    time_limit = 300

    def adopt(self, *words, only=None):
        """(id, address) -> outcome, of these accounts. Files of this second are old enough."""
        addresses = only and {account.address for account in only}
        return {(row["id"], row["address"]): row["outcome"]
                for row in self.rows("adopt", "--older", "0s", *words)
                if not only or row["address"] in addresses}

    def rows(self, *words):
        """What adopt says of each recipient; the totals behind it are their sums."""
        done = self.run_admin(*words, "--json")
        self.assertEqual(done.returncode, EX_OK, f"{words}: {done.stderr}")
        *rows, totals = map(json.loads, done.stdout.splitlines())
        self.assertEqual(sum(totals.values()) - totals["deleted_again"] - totals["spare"],
                         len(rows))
        self.assertEqual("--yes does it" in done.stderr, "--yes" not in words)
        return rows

    def forget(self, text):
        """The database as it was before the message came."""
        uuid = stored.uuid_of(text)
        self.fleet.sql(f"""
            WITH gone AS (DELETE FROM message WHERE blob_id = '{uuid}' RETURNING *)
            UPDATE mailbox b SET version = b.version + 1, msgs = msgs - 1, octets = octets - g.size
              FROM gone g WHERE g.mailbox_id = b.mailbox_id;
            DELETE FROM blob_shared WHERE blob_id = '{uuid}'""")
        return uuid

    def log_of(self, *lines):
        path = self.fleet.state / "deleted.log"
        path.write_text("".join(f"{line}\n" for line in lines))
        path.chmod(0o644)
        return path

    def deleted(self, box, *ids, sid="s1", when="2026-01-01T00:00:00.000Z"):
        return f"{when} info pop3.deleted node=f1 sid={sid} mailbox={box} ids={','.join(ids)}"

    def store(self, account, message=OLD, **options):
        return stored.store(self.fleet.spool, [(self.mailbox_id(account), account.address)], message,
                            **options)

    # --- what comes back -------------------------------------------------------------------------

    def test_orphans_come_back_once_under_their_ids(self):
        accounts = [self.account(name) for name in ("a1", "a2", "a3")]
        messages = some_messages(7, 4)
        for message in messages:
            self.deliver(message, *accounts)
        before = {a.address: self.uids(a) for a in accounts}
        lost = before[accounts[0].address][1]
        self.assertEqual(self.adopt("--yes", only=accounts), {})
        self.forget(lost)
        would = self.adopt(only=accounts)
        self.assertEqual(would, {(lost, a.address): "would be adopted" for a in accounts})
        self.assertEqual([len(self.ids(a)) for a in accounts], [3, 3, 3])
        for account in accounts:
            self.until_cached(account)
        done = self.adopt("--yes", only=accounts)
        self.assertEqual(done, {(lost, a.address): "adopted" for a in accounts})
        for account in accounts:
            uids = before[account.address]
            expected = uids[:1] + uids[2:] + [lost]
            for node in 0, 1:
                self.assertEqual(self.uids(account, node), expected)
            self.assertEqual(self.mailbox(account),
                             messages[:1] + messages[2:] + messages[1:2])
        self.assert_exact()
        self.assertEqual(self.adopt("--yes", only=accounts), {})

    def test_they_come_in_the_order_of_their_ids(self):
        account = self.account("order")
        base = 1500000000000
        ids = [self.store(account, ms=base + n * 1000, uidl=f"old{n}")[0]
               for n in (7, 3, 11, 1, 9, 5, 0, 8, 2, 10)]
        found = [row["id"] for row in self.rows("adopt", "--older", "0s", "--yes")
                 if row["address"] == account.address]
        self.assertEqual(found, sorted(ids))
        self.assertEqual(self.ids(account), sorted(ids))

    def test_no_limit_stops_it_and_the_uidl_is_kept(self):
        account = self.account("full", "--quota-messages", "1")
        self.deliver(OLD, account)
        text, _ = self.store(account, ms=1500000000000, uidl="0000abcd4f2b")
        again, _ = self.store(account, ms=1500000000000, uidl="0000abcd4f2b")
        found = self.adopt("--yes", only=[account])
        self.assertEqual(sorted(found.values()), ["adopted", "has it already"])
        self.assertEqual(found.keys(), {(text, account.address), (again, account.address)})
        self.assertEqual(self.uids(account)[1:], ["0000abcd4f2b"])
        self.assert_exact()

    def test_the_time_and_the_volume_choose(self):
        account = self.account("times")
        self.deliver(OLD, account)
        text, = self.ids(account)
        (volume,), = self.fleet.sql("SELECT volume_id FROM message WHERE mailbox_id = "
                                    f"{self.mailbox_id(account)}")
        self.forget(text)
        for words in (("--since", "2100-01-01"), ("--older", "1h")):
            self.assertEqual(self.rows("adopt", "--yes", *words), [])  # --older: the last counts
        self.assertEqual(self.rows("adopt", "--yes"), [])  # spool.orphan_age
        self.assertEqual(self.adopt("--volume", volume, "--since", "1d", "--yes", only=[account]),
                         {(text, account.address): "adopted"})
        for words in (("--since", "then"), ("--volume", "x"), ("--rate", "-1")):
            self.assertEqual(self.run_admin("adopt", *words).returncode, EX_DATAERR)
        self.assertEqual(self.run_admin("adopt", "--log", "/nonexistent").returncode, EX_NOINPUT)

    # --- what nobody lacks -----------------------------------------------------------------------

    def classes(self, text):
        """What fsck finds of this file; other tests leave files, too."""
        done = self.run_admin("fsck", "--older", "0s", "--all", "--json")
        return [row["class"] for row in map(json.loads, done.stdout.splitlines())
                if row.get("id") == text]

    def asked(self, text, state, says):
        """What becomes of a file that nobody lacks; 1: it is not lost."""
        [row] = self.json("ledger", text, code=1)
        self.assertEqual(row["state"], state)
        self.assertIn(says, self.run_admin("ledger", text).stdout)

    def spare(self, *words):
        done = self.run_admin("adopt", "--older", "0s", "--json", *words)
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        return json.loads(done.stdout.splitlines()[-1])["spare"]

    def test_what_a_killed_import_has_left_is_reaped(self):
        account, other = self.account("twice"), self.account("lacks")
        first, _ = self.store(account, ms=1500000000000, uidl="0000abcd4f2c")
        self.adopt("--yes", only=[account])
        again, path = self.store(account, ms=1500000000000, uidl="0000abcd4f2c")
        shared, kept = stored.store(  # one of its recipients will get it
            self.fleet.spool, [(self.mailbox_id(a), a.address) for a in (account, other)], OLD,
            ms=1500000000000, uidl="0000abcd4f2c")
        self.assertEqual(self.spare(), 1)
        self.assertEqual(self.classes(again), ["orphan"])
        self.assertEqual(self.spare("--yes"), 1)
        self.assertEqual((self.classes(again), self.classes(shared)), (["garbage"], []))
        self.asked(again, "spare", "reap ends it")
        self.assertEqual((self.ids(account), self.ids(other)), ([first], [shared]))
        self.assertEqual(self.spare("--yes"), 0)
        self.fleet.sql("UPDATE ledger SET unlink_after = now() - interval '1 s'")
        self.fleet.admin("reap", "--yes")
        self.assertEqual((path.exists(), kept.exists()), (False, True))
        self.asked(again, "spare", "it has gone")
        for one in account, other:
            with self.pop3(one) as pop3:
                self.assertEqual(pop3.retr(1), OLD)
                pop3.quit()
        self.assert_exact()

    def test_a_copy_on_another_volume_is_reaped(self):
        account = self.account("copied")
        self.deliver(OLD, account)
        text, = self.ids(account)
        [path] = [path for path in self.spool_files() if path.name == text]
        second = self.fleet.state / "spool" / "v2"
        self.fleet.admin("volume", "add", f"file://{second}", "--state", "readonly")
        copy = second / path.relative_to(self.fleet.spool)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        if self.fleet.root:  # the daemons' user is who unlinks
            for made in copy, copy.parent, copy.parent.parent:
                shutil.chown(made, self.fleet.user, self.fleet.user)
        self.assertEqual(self.classes(text), ["unfinished"])
        path.write_bytes(copy.read_bytes()[:-1])
        self.assertEqual(self.spare("--yes"), 0)
        path.write_bytes(copy.read_bytes())
        self.assertEqual(self.spare("--yes"), 1)
        self.assertEqual(self.classes(text), ["garbage"])
        self.fleet.sql("UPDATE ledger SET unlink_after = now() - interval '1 s'; "
                       "UPDATE volume SET state = 0")
        self.fleet.admin("reap", "--yes")
        self.assertEqual((copy.exists(), self.mailbox(account)), (False, [OLD]))

    def test_nothing_is_spare_beside_what_is_damaged(self):
        """The one whole copy of a message is never the reaper's: neither by its id, nor by its UIDL,
        nor when it was deleted and may come back."""
        account = self.account("onlycopy")
        listed, used = self.store(account, ms=1500000000000, uidl="0000abcd4f2d")
        self.adopt("--yes", only=[account])
        again, _ = self.store(account, ms=1500000000000, uidl="0000abcd4f2d")
        content = used.read_bytes()

        def stays():
            done = self.run_admin("adopt", "--older", "0s", "--yes", "--json")
            self.assertEqual(done.returncode, EX_OK, done.stderr)
            self.assertEqual(json.loads(done.stdout.splitlines()[-1])["spare"], 0)
            self.assertRegex(done.stderr, f"{again} stays: .* not whole: volume 1: .*/{listed}")
            self.assertEqual((self.spare(), self.classes(again)), (0, ["orphan"]))

        used.write_bytes(content[:-4] + b"x\r\n\r")
        stays()
        used.write_bytes(content[:-4])
        stays()
        used.rename(used.with_name("away"))
        stays()
        used.with_name("away").rename(used)
        with self.pop3(account) as pop3:
            pop3.ok("DELE 1")
            pop3.quit()
        stays()
        used.write_bytes(content)
        self.assertEqual((self.spare(), self.spare("--yes")), (1, 1))
        self.assertEqual(self.classes(again), ["garbage"])

    # --- what does not ---------------------------------------------------------------------------

    def test_nothing_for_accounts_that_are_not_the_ones(self):
        young, removed, gone, right = accounts = [
            self.account(name) for name in ("young", "removed", "gone", "right")]
        self.deliver(OLD, *accounts)
        text, = self.ids(right)
        self.forget(text)
        self.fleet.sql("UPDATE account SET created_at = now() + interval '1 hour' "
                       f"WHERE addr = '{young.address}';"
                       f"UPDATE mailbox SET state = 2 WHERE mailbox_id = {self.mailbox_id(removed)};"
                       f"SELECT remove_mailbox({self.mailbox_id(gone)}, 0, 0, 'test');"
                       f"DELETE FROM address WHERE addr = '{gone.address}'")
        self.assertEqual(self.adopt("--yes", only=accounts), {
            (text, young.address): "account is younger",
            (text, removed.address): "no such account",
            (text, gone.address): "no such account",
            (text, right.address): "adopted"})
        self.assertEqual(self.uids(right), [text])
        self.assertEqual(self.ids(young), [])
        self.assert_exact()

    def test_what_the_ledger_knows_stays_deleted(self):
        account = self.account("ledger")
        for message in some_messages(9, 3):
            self.deliver(message, account)
        kept, purged, shared = self.ids(account)
        box = self.mailbox_id(account)
        uuid = self.forget(purged)
        self.fleet.sql("INSERT INTO ledger_past (mailbox_id, blob_id, seq, size, volume_id, "
                       "deleted_at, by_whom, unlinked_at) "
                       f"VALUES ({box}, '{uuid}', 2, 1, 1, now(), 'pop3 x', now())")
        with self.pop3(account) as pop3:
            pop3.ok("DELE 2")
            pop3.quit()
        self.assertEqual(self.adopt("--yes", only=[account]),
                         {(purged, account.address): "was deleted"})
        self.assertEqual(self.ids(account), [kept])

    def test_a_damaged_file_is_not_given_back(self):
        account = self.account("damaged")
        text, path = self.store(account)
        path.write_bytes(path.read_bytes()[:-4] + b"x\r\n\r")
        half, _ = self.store(account, complete=False)
        found = self.adopt("--yes")
        self.assertEqual(found.get((text, None)), "file is damaged")
        self.assertNotIn(half, {row for row, _ in found})
        self.assertEqual(self.ids(account), [])

    def test_what_can_not_be_read_keeps_nothing_else_back(self):
        """It is said, and in the status."""
        account = self.account("unread")
        day = 86400000
        ids = [self.store(account, ms=1500000000000 + n * day, uidl=f"unread{n}") for n in range(3)]
        (first, _), (middle, path), (last, _) = ids
        path.chmod(0)
        done = self.run_admin("adopt", "--older", "0s", "--yes", "--json")
        path.chmod(0o640)
        self.assertEqual(done.returncode, EX_IOERR, done.stderr)
        self.assertIn(path.name, done.stderr)
        self.assertEqual(self.ids(account), [first, last])
        self.adopt("--yes")
        self.assertEqual(self.ids(account), [first, last, middle])

    # --- after a restore -------------------------------------------------------------------------

    def test_what_the_log_says_was_deleted_stays_deleted(self):
        one, two = accounts = self.account("log1"), self.account("log2")
        for message in some_messages(11, 4):
            self.deliver(message, *accounts)
        first, second, third, fourth = self.ids(one)
        for text in third, fourth:
            self.forget(text)
        log = self.log_of(
            "Nov 22 09:00:00 host mailfleet-frontend[7]: " + self.deleted(self.mailbox_id(one), first,
                                                                          third),
            "2026-01-01T00:00:00.000Z info pop3.login user=\" info pop3.deleted "
            f"mailbox={self.mailbox_id(two)} ids={second}\"",
            self.deleted(self.mailbox_id(two), second, when="2025-12-01T00:00:00.000Z"),
            self.deleted(self.mailbox_id(two), third, "nonsense", sid="s2"), "garbage",
            "Nov 22 09:00:00 host other[7]: heard \"x " +
            self.deleted(self.mailbox_id(two), first) + " \"")
        for account in accounts:
            self.until_cached(account)
        would = self.adopt("--log", log, only=accounts)
        self.assertEqual(self.ids(one), [first, second])
        done = self.adopt("--log", log, "--since", "2025-12-31", "--yes", only=accounts)
        self.assertEqual(would[third, one.address], "was deleted, says the log")
        self.assertEqual(done, {(third, one.address): "was deleted, says the log",
                                (third, two.address): "was deleted, says the log",
                                (fourth, one.address): "adopted",
                                (fourth, two.address): "adopted"})
        self.assertEqual(self.uids(one), [second, fourth])
        self.assertEqual(self.uids(two), [first, second, fourth])
        self.assertEqual(self.fleet.sql(
            "SELECT a.addr, l.by_whom, count(*) FROM ledger l JOIN account a "
            "ON a.mailbox_id = l.mailbox_id WHERE a.addr LIKE 'log_@%' "
            "GROUP BY 1, 2 ORDER BY 1, 2"),
            [[one.address, "restore: pop3 f1 s1", "2"], [two.address, "restore: pop3 f1 s2", "1"]])
        self.assert_exact()
        self.assertEqual(self.adopt("--log", log, "--yes", only=accounts), {})

    def test_killed_anywhere_it_goes_on(self):
        accounts = [self.account(name) for name in ("k1", "k2")]
        for message in some_messages(13, 5):
            self.deliver(message, *accounts)
        ids = self.ids(accounts[0])
        for text in ids[1:]:
            self.forget(text)
        log = self.log_of(self.deleted(self.mailbox_id(accounts[0]), ids[0], ids[2]))
        words = "adopt", "--older", "0s", "--yes", "--log", log
        for fault in "adopt_deleted", "adopt_committed", "adopt_committed:2":
            done = self.run_admin(*words, env={"MAILFLEET_FAULT": f"{fault}=kill"})
            self.assertEqual(done.returncode, -9, f"{fault}: {done.stderr}")
        self.adopt("--log", log, "--yes")
        self.assertEqual(sorted(self.ids(accounts[0])), sorted(ids[1:2] + ids[3:]))
        self.assertEqual(sorted(self.ids(accounts[1])), sorted(ids))
        self.assert_exact()


if __name__ == "__main__":
    harness.main()
