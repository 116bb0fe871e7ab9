#!/usr/bin/python3 -B
"""The database is lost whole: accounts from a dump or from the envelopes, and every message is
listed again as it was. Counters that were damaged are mended."""

import json
import shutil
import time
from os import EX_CANTCREAT, EX_CONFIG, EX_DATAERR, EX_OK

import harness
import stored
from commands import CommandTest
from harness import DOMAIN
from mail import Refused
from messages import some_messages

DRIFT = 1
OLD = b"Subject: from elsewhere\r\n\r\nold\r\n"


class RebuildTest(CommandTest):
    settings = {"cache.tombstone_ttl": "2s"}  # soon over, so that lists come into the cache
    time_limit = 300

    def recount(self, *words, expect=EX_OK):
        done = self.run_admin("recount", "--json", *words)
        self.assertEqual(done.returncode, expect, done.stderr)
        return {(row["what"], row["counter"]): (row["stored"], row["counted"])
                for row in json.loads(done.stdout)}

    def lists(self, account):
        """UIDL, size and content, in order, as the mailbox's owner sees them."""
        with self.pop3(account, utf8=True) as pop3:
            uids, sizes = pop3.uidl(), pop3.list()
            seen = [(uids[n], sizes[n], pop3.retr(n)) for n in sizes]
            pop3.quit()
        return seen

    # --- the database and its loss --------------------------------------------------------------

    def nodes(self):
        return self.fleet.delivery_nodes + self.fleet.front_ends

    def lose_database(self):
        for node in self.nodes():
            node.stop()
        self.fleet.sql("DROP DATABASE mailfleet WITH (FORCE)", superuser=True, database="postgres")
        self.fleet.create_database()
        self.ok("migrate")

    def start_nodes(self):
        for node in self.nodes():
            node.start()
        for node in self.nodes():
            node.wait_ready()

    def dump(self, text=None):
        path = self.fleet.state / "accounts.dump"
        path.write_text(text or self.ok("account", "dump"))
        path.chmod(0o644)
        return path

    def add_volume(self):
        for url in self.fleet.volume_urls():
            self.ok("volume", "add", url, "--existing")

    def everything(self):
        return [self.fleet.sql(statement) for statement in (
            "SELECT mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl FROM message "
            "ORDER BY 1, 2",
            "SELECT blob_id, volume_id, refs FROM blob_shared ORDER BY 1",
            "SELECT mailbox_id, msgs, octets, next_seq FROM mailbox ORDER BY 1")]


class Recount(RebuildTest):
    def test_no_drift_after_mail(self):
        accounts = [self.account(name) for name in ("r1", "r2", "r3")]
        for message in some_messages(1, 6):
            self.deliver(message, *accounts)
        with self.pop3(accounts[0]) as pop3:
            pop3.ok("DELE 2")
            pop3.quit()
        self.assert_exact()

    def test_damage_is_told_and_mended(self):
        one, two = self.account("d1"), self.account("d2")
        for message in some_messages(2, 4):
            self.deliver(message, one, two)
        box = self.mailbox_id(one)
        before = self.json("account", "show", one.address)
        shared = self.fleet.sql(f"SELECT blob_id FROM message WHERE mailbox_id = {box} "
                                "ORDER BY seq LIMIT 3")
        self.fleet.sql(f"UPDATE mailbox SET msgs = 9, octets = octets + 7, next_seq = 2 "
                       f"WHERE mailbox_id = {box};"
                       f"UPDATE blob_shared SET refs = 1 WHERE blob_id = '{shared[0][0]}';"
                       f"UPDATE blob_shared SET refs = 5 WHERE blob_id = '{shared[1][0]}';"
                       f"DELETE FROM blob_shared WHERE blob_id = '{shared[2][0]}'")
        found = self.recount(expect=DRIFT)
        self.assertEqual(found["mailbox", "messages"], (9, 4))
        self.assertEqual(found["mailbox", "octets"], (before["octets"] + 7, before["octets"]))
        self.assertEqual(found["mailbox", "next_seq"], (2, 5))
        self.assertEqual(self.recount(one.address, expect=DRIFT).keys(),
                         {("mailbox", "messages"), ("mailbox", "octets"), ("mailbox", "next_seq")})
        self.assertEqual(self.recount(expect=DRIFT), found)  # nothing was changed until now
        self.assertEqual(self.recount("--yes", expect=DRIFT), found)
        self.assert_exact()
        self.assertEqual(self.json("account", "show", one.address), before)
        self.assertEqual({refs for _, refs in self.fleet.sql(
            "SELECT blob_id, refs FROM blob_shared WHERE blob_id IN "
            f"(SELECT blob_id FROM message WHERE mailbox_id = {box})")}, {"2"})
        self.deliver(OLD, one)
        self.assertEqual(len(self.mailbox(one)), 5)


class Rebuild(RebuildTest):
    def fill(self):
        """Accounts with mail of all kinds; what each of them sees."""
        one, two, three = accounts = [self.account(f"{name}{len(self.fleet.saved['accounts'])}")
                                      for name in ("one", "two", "three")]
        for n, message in enumerate(some_messages(3, 12)):
            self.deliver(message, *accounts[:1 + n % 3], node=n % 2)
        with self.pop3(two) as pop3:
            pop3.ok("DELE 1")
            pop3.ok("DELE 3")
            pop3.quit()
        return accounts

    def seen(self, accounts):
        return {account.address: self.lists(account) for account in accounts}

    def test_from_a_dump(self):
        accounts = self.fill()
        one, two, three = accounts
        self.ok("alias", "add", f"all@{DOMAIN}", one.address, two.address)
        self.ok("domain", "set", DOMAIN, "--catch-all", three.address, "--retention", "3000",
                "--read-retention", "2000", "--yes")
        self.ok("account", "quota", one.address, "--quota-octets", "1G", "--quota-messages", "77")
        self.ok("account", "retention", two.address, "30")
        self.ok("account", "suspend", three.address)
        shown = {a.address: self.json("account", "show", a.address) for a in accounts}
        dump = self.dump()
        cut, path = stored.store(self.fleet.spool, [(self.mailbox_id(one), one.address)], OLD)
        path.write_bytes(path.read_bytes()[:-1])
        later = self.account("later")  # its account is in no dump
        self.ok("account", "resume", three.address)
        self.deliver(OLD, later, one)
        self.ok("account", "suspend", three.address)
        seen = self.seen([one, two])
        new_id = self.mailbox_id(later)
        aliases = self.json("alias", "list")
        domains = self.json("domain", "list")
        self.until_cached(two)  # what the cache says of the lost database does not count

        self.lose_database()
        self.fails(EX_CONFIG, "no volumes", "rebuild", "--accounts", dump, "--yes")
        self.fails(EX_DATAERR, "its fanout is 2, not 3", "volume", "add",
                   f"file://{self.fleet.spool}", "--existing", "--fanout", "3")
        self.add_volume()
        self.assertIn("--yes does it", self.run_admin("rebuild", "--accounts", dump).stderr)
        self.assertEqual(self.json("account", "list"), [])
        minute = int(time.time() / 60)
        done = self.json("rebuild", "--accounts", dump, "--yes")
        self.assertEqual((done["damaged"], done["foreign"], done["unfinished"]), (1, 0, 0))
        self.assertNotIn(cut, [row["id"] for row in self.json("messages", one.address)])
        self.assertGreater(int(self.fleet.sql("SELECT epoch FROM fleet")[0][0]), minute)
        self.assert_exact()
        self.start_nodes()
        found = self.seen([one])
        self.assertEqual(found[one.address], seen[one.address])
        # What two had deleted is back, as the ledger was lost and no log was given.
        back = self.lists(two)
        self.assertEqual([m for m in back if m in seen[two.address]], seen[two.address])
        self.assertEqual(len(back), len(seen[two.address]) + 2)
        for account in accounts:
            now = self.json("account", "show", account.address)
            for key in ("state", "max_octets", "max_messages", "retention_days", "password",
                        "mailbox_id", "scram"):
                self.assertEqual(now[key], shown[account.address][key], key)
        self.assertEqual(self.json("alias", "list"), aliases)
        self.assertEqual(self.json("domain", "list"), domains)
        # The account that the dump does not know is there, with its mail, and locked.
        made = self.json("account", "show", later.address)
        self.assertEqual([made[key] for key in ("mailbox_id", "retention_days", "read_days")],
                         [new_id, 3000, 2000])
        self.assertEqual(len(self.json("messages", later.address)), 1)
        with self.assertRaises(Refused):
            self.pop3(later)
        self.assertGreater(self.mailbox_id(self.account("next")), new_id)
        self.fails(EX_DATAERR, "the database has accounts", "rebuild", "--yes")

    def test_removed_accounts_of_a_dump(self):
        """One is in its grace and comes back as it was; of one that was purged nothing does, and neither
        its address nor its id is anybody else's."""
        leaver, purged, stays = (self.account(name) for name in ("leaver", "purged", "stays"))
        alone, among = f"only@{DOMAIN}", f"some@{DOMAIN}"
        self.ok("alias", "add", alone, leaver.address)
        self.ok("alias", "add", among, leaver.address, stays.address)
        for message in some_messages(17, 3):
            self.deliver(message, leaver, purged)
        self.deliver(OLD, purged)
        seen, ids = self.lists(leaver), [self.mailbox_id(one) for one in (leaver, purged)]
        many = [f"alias{n:04}@{DOMAIN}" for n in range(1100)]  # more than a line of the dump takes
        self.fleet.sql("INSERT INTO address (addr, domain, targets) SELECT unnest(ARRAY"
                       f"{many}), '{DOMAIN}', ARRAY['{stays.address}', '{leaver.address}']")
        self.ok("account", "suspend", leaver.address)
        self.ok("account", "remove", leaver.address, purged.address, "--yes")
        self.fleet.sql("UPDATE removed SET purge_after = now() - interval '1 s' "
                       f"WHERE addr = '{purged.address}'")
        self.ok("reap", "--yes")
        removed = ("SELECT mailbox_id, addr, was_state, aliases, lists, "
                   "round(extract(epoch FROM removed_at) * 1000), "
                   "round(extract(epoch FROM purge_after) * 1000), purged_at IS NULL, by_whom, msgs,"
                   " octets FROM removed ORDER BY 1")
        before, dump = self.fleet.sql(removed), self.dump()
        self.assertEqual([(row[0], row[2], row[7]) for row in before],
                         [(str(ids[0]), "1", "t"), (str(ids[1]), "0", "f")])

        self.lose_database()
        self.add_volume()
        done = self.json("rebuild", "--accounts", dump, "--yes")
        self.assertEqual((done["locked"], done["nobodys"]), (0, 1))
        self.assertEqual(self.fleet.sql(removed), before)
        self.start_nodes()
        self.assertEqual(self.json("account", "show", leaver.address)["state"], "removed")
        with self.assertRaises(Refused):
            self.deliver(OLD, leaver)
        for words in (("account", "add", purged.address, "--password-stdin"),
                      ("alias", "add", purged.address, stays.address),
                      ("account", "add", alone, "--password-stdin")):
            done = self.run_admin(*words, stdin="secret\n")
            self.assertEqual(done.returncode, EX_CANTCREAT, done.stderr)
            self.assertIn("was of", done.stderr)
        again = self.account("purged", "--reuse")
        self.assertGreater(self.mailbox_id(again), max(ids))
        self.assertEqual(self.lists(again), [])
        self.ok("account", "restore", leaver.address)
        self.assertEqual(self.json("account", "show", leaver.address)["state"], "suspended")
        self.ok("account", "resume", leaver.address)
        self.assertEqual(self.lists(leaver), seen)
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM address WHERE targets @> "
                                        f"ARRAY['{leaver.address}']"), [[str(2 + len(many))]])
        self.assert_exact()

    def test_from_envelopes_with_what_the_logs_say_was_deleted(self):
        accounts = self.fill()
        one, two, three = accounts
        text, _ = stored.store(self.fleet.spool, [(self.mailbox_id(three), three.address)], OLD,
                               ms=1600000000000, uidl="old-server-17")
        unfinished, _ = stored.store(self.fleet.spool, [(self.mailbox_id(one), one.address)], OLD,
                                     complete=False)
        damaged, path = stored.store(self.fleet.spool, [(self.mailbox_id(one), one.address)], OLD)
        path.write_bytes(path.read_bytes()[:-1])
        changed, path = stored.store(self.fleet.spool, [(self.mailbox_id(one), one.address)], OLD)
        path.write_bytes(path.read_bytes()[:-3] + b"?\r\n")
        unreadable, path = stored.store(self.fleet.spool, [(self.mailbox_id(one), one.address)], OLD)
        path.chmod(0)
        seen = {a.address: [(uid, size) for uid, size, _ in self.lists(a)] for a in accounts}
        ids = {a.address: self.mailbox_id(a) for a in accounts}
        gone = [stored.text_of(uuid) for uuid, in self.fleet.sql(
            f"SELECT blob_id FROM ledger WHERE mailbox_id = {ids[two.address]}")]
        self.assertEqual(len(gone), 2)
        log = self.fleet.state / "deleted.log"
        log.write_text("2026-01-01T00:00:00.000Z info pop3.login sid=1 user=\"x pop3.deleted "
                       f"mailbox={ids[one.address]} ids={seen[one.address][0][0]}\"\n"
                       "2026-01-01T00:00:00.000Z info pop3.deleted node=f1 sid=abc "
                       f"mailbox={ids[two.address]} ids={','.join(gone)}\n")
        log.chmod(0o644)
        self.lose_database()
        self.add_volume()
        done = self.json("rebuild", "--deep", "--log", log, "--yes")
        self.assertEqual(done["deleted"], 2)
        self.assertGreaterEqual(done["unfinished"], 1)
        self.assertGreaterEqual(done["damaged"], 3)
        for account in accounts:
            uids = [(row["uidl"], row["size"]) for row in self.json("messages", account.address)]
            if account is three:
                self.assertEqual(uids.pop(0), ("old-server-17", len(OLD)))
            self.assertEqual(uids, seen[account.address])
            self.assertEqual(self.mailbox_id(account), ids[account.address])
        self.assertEqual(self.fleet.sql("SELECT DISTINCT by_whom FROM ledger"),
                         [["restore: pop3 f1 abc"]])
        self.assert_exact()
        path.chmod(0o640)
        for bad in unfinished, damaged, changed, unreadable:
            self.assertNotIn(bad, [uid for uid, _ in seen[one.address]])
        self.start_nodes()

    def test_killed_anywhere_it_goes_on(self):
        accounts = self.fill()
        box = self.mailbox_id(accounts[0])
        for day in range(3):
            stored.store(self.fleet.spool, [(box, accounts[0].address)], OLD,
                         ms=1650000000000 + day * 86400000)
        dump = self.dump()
        words = "rebuild", "--accounts", dump, "--yes"
        self.lose_database()
        self.add_volume()
        self.json(*words)
        whole = self.everything()
        self.lose_database()
        self.add_volume()
        for fault in ("rebuild_accounts", "rebuild_filled", "rebuild_day", "rebuild_filled:2",
                      "rebuild_day"):
            done = self.run_admin(*words, env={"MAILFLEET_FAULT": f"{fault}=kill"})
            self.assertEqual(done.returncode, -9, f"{fault}: {done.stderr}")
        self.json(*words)
        self.assertEqual(self.everything(), whole)
        self.assert_exact()
        self.start_nodes()

    def test_bad_dumps_are_refused_and_nothing_is_changed(self):
        self.account("dumped")
        text = self.ok("account", "dump")
        lines = text.splitlines(keepends=True)
        self.lose_database()
        self.add_volume()
        for says, bad in (
                ("its last line", "".join(lines[:-1])),
                ("lines are missing", "".join(lines[:2] + lines[3:])),
                ("not written by mailfleet account dump", "".join(lines[1:])),
                ("not a line of mailfleet", text.replace("\ndomain ", "\nrealm ")),
                ("words are missing", text.replace("\nsequence ", "\nsequence\n#")),
                ("not written as it should", text.replace("\nsequence ", "\nsequence %zz"))):
            with self.subTest(says=says):
                self.fails(EX_DATAERR, says, "rebuild", "--accounts", self.dump(bad), "--yes")
                self.assertEqual(self.json("account", "list"), [])
        self.fleet.sql("UPDATE volume SET uuid = '00000000-0000-4000-8000-000000000000'")
        self.fails(EX_CONFIG, "volume add URL --existing", "rebuild", "--accounts", self.dump(text),
                   "--yes")
        self.fleet.sql("DELETE FROM volume")
        self.add_volume()
        self.ok("rebuild", "--accounts", self.dump(text), "--yes")
        self.assertEqual([line for line in self.ok("account", "dump").splitlines()
                          if line.startswith(("account", "alias", "domain"))],
                         [line for line in text.splitlines()
                          if line.startswith(("account", "alias", "domain"))])
        self.start_nodes()

    def test_volumes_that_have_files(self):
        root = self.fleet.state / "spool" / "other"
        url = f"file://{root}"
        self.fails(EX_CANTCREAT, "No such file", "volume", "add", url, "--existing")
        self.fleet.make_dir(root, self.fleet.user, 0o750)
        self.fails(EX_CANTCREAT, ".mailfleet-volume", "volume", "add", url, "--existing")
        sentinel = root / ".mailfleet-volume"
        self.fleet.write(sentinel, "not a UUID\n", self.fleet.user, 0o640)
        self.fails(EX_CANTCREAT, "does not hold a UUID", "volume", "add", url, "--existing")
        uuid = "12345678-1234-4123-8123-1234567890ab"
        self.fleet.write(sentinel, uuid + "\n", self.fleet.user, 0o640)
        self.fails(EX_DATAERR, "--fanout", "volume", "add", url, "--existing")
        stored.store(root, [], OLD, fanout=0)
        stored.store(root, [], OLD, ms=1600000000000, fanout=3)
        self.fails(EX_DATAERR, "not of one fanout", "volume", "add", url, "--existing")
        for path in root.glob("20200913/*/*"):
            path.unlink()
        for path in root.glob("20200913/*"):
            path.rmdir()
        self.ok("volume", "add", url, "--existing", "--state", "drain")
        added = self.json("volume", "list")[-1]
        self.assertEqual((added["uuid"], added["fanout"], added["state"]), (uuid, 0, "drain"))
        self.fails(EX_CANTCREAT, "exists already", "volume", "add", url, "--existing")
        copy = self.fleet.state / "spool" / "copy"
        self.fleet.make_dir(copy, self.fleet.user, 0o750)
        self.fleet.write(copy / ".mailfleet-volume", uuid + "\n", self.fleet.user, 0o640)
        self.fails(EX_CANTCREAT, "exists already", "volume", "add", f"file://{copy}", "--existing",
                   "--fanout", "0")
        self.fleet.sql(f"DELETE FROM volume WHERE uuid = '{uuid}'")


class RebuildNas(RebuildTest):
    nas = 2

    def test_from_two_exports(self):
        accounts = [self.account(name) for name in ("n1", "n2", "n3")]
        for n, message in enumerate(some_messages(21, 16)):
            self.deliver(message, *accounts[:1 + n % 3], node=n % 2)
        self.assertEqual(len({row[0] for row in self.fleet.sql(
            "SELECT DISTINCT volume_id FROM message")}), 2)
        seen = {account.address: self.lists(account) for account in accounts}
        before, dump = self.everything(), self.dump()
        first, second = self.fleet.spools  # a drain was interrupted: both have a file
        path = next(path for path in self.spool_files() if first in path.parents)
        twin = second / path.relative_to(first)
        twin.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, twin)
        for made in twin, *list(twin.parents)[:2]:
            shutil.chown(made, self.fleet.user)
        self.lose_database()
        self.add_volume()
        done = self.json("rebuild", "--accounts", dump, "--deep", "--yes")
        self.assertEqual(done["twice"], 1)
        self.assertEqual(self.everything(), before)
        self.assert_exact()
        self.start_nodes()
        self.assertEqual({account.address: self.lists(account) for account in accounts}, seen)


if __name__ == "__main__":
    harness.main()
