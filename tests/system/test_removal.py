#!/usr/bin/python3 -B
"""How an account ends: removed at once on every node, back with all it had while the grace lasts,
purged after it wherever the reaper is killed; and its address is nobody else's. And what is kept no
longer because it was read."""

import re
import signal
from os import EX_CANTCREAT, EX_DATAERR, EX_NOINPUT, EX_NOUSER, EX_OK, EX_USAGE

import harness
import test_admin
from harness import DOMAIN
from test_admin import HELLO


class RemovalTest(test_admin.AdminTest):
    settings = {"reap.removal_grace": "10d"}
    DAY = 24 * 60 * 60

    def targets(self, *aliases):
        return sorted((row["alias"], row["target"]) for row in self.json("alias", "list", DOMAIN)
                      if row["alias"] in aliases)

    def remove(self, *addresses):
        return self.ok("account", "remove", *addresses, "--yes")

    def receipt(self, address):
        return self.json("account", "receipt", address)[-1]

    def pass_time(self, days):
        self.fleet.sql(f"""
            UPDATE removed SET removed_at = removed_at - interval '{days} d',
                               purge_after = purge_after - interval '{days} d';
            UPDATE ledger SET deleted_at = deleted_at - interval '{days} d',
                              unlink_after = unlink_after - interval '{days} d',
                              claimed_at = claimed_at - interval '{days} d'""")

    def reap(self, **options):
        """What it said of removed accounts."""
        done = self.run_admin("reap", "--yes", **options)
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        return "".join(line for line in done.stderr.splitlines(True) if "accounts" in line)


class Removal(RemovalTest):
    def setUp(self):
        self.pass_time(100)
        self.reap()  # what an earlier test has left

    def test_nothing_without_yes(self):
        account = self.account("asked")
        self.deliver(HELLO, account)
        done = self.run_admin("account", "remove", account.address)
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertIn(f"{account.address} would be removed: 1 messages", done.stderr)
        self.assertIn("--yes", done.stderr)
        self.assertEqual(self.mailbox(account), [HELLO])
        self.assertEqual(self.count(f"removed WHERE addr = '{account.address}'"), 0)

    def test_removed_at_once_and_back_with_all_it_had(self):
        bob, account = self.account("bob"), self.account("leaver")
        alone, among = f"only@{DOMAIN}", f"all@{DOMAIN}"
        self.ok("alias", "add", alone, account.address)
        self.ok("alias", "add", among, account.address, bob.address)
        for _ in range(3):
            self.deliver(HELLO, account)
        uidl = self.uids(account)
        self.warm(account)
        self.remove(account.address)
        self.assert_shut(account)
        for address in account.address, alone:
            self.assertEqual(self.everywhere(address), [550, 550])
        self.deliver(HELLO, among)
        self.assertEqual(self.mailbox(bob), [HELLO])
        self.assertEqual(self.targets(alone, among), [(among, bob.address)])
        shown = self.json("account", "show", account.address)
        self.assertEqual((shown["state"], shown["messages"]), ("removed", 3))

        # Nobody else gets the address or changes the account; again is no harm.
        self.fails(EX_CANTCREAT, "account restore", "account", "add", account.address,
                   "--password-stdin", "--reuse", stdin="secret\n")
        for words in (("alias", "add", alone, bob.address),
                      ("account", "add", alone, "--password-stdin")):
            self.fails(EX_CANTCREAT, f"was of the account {account.address}", *words,
                       stdin="secret\n")
        for words in (("resume",), ("suspend",), ("retention", "5"), ("quota", "--max-size", "1M"),
                      ("passwd", "--password-stdin")):
            self.fails(EX_NOUSER, "account restore", "account", words[0], account.address,
                       *words[1:], stdin="secret\n")
        self.remove(account.address)
        receipt = self.receipt(account.address)
        self.assertEqual((receipt["messages"], receipt["files"], receipt["aliases"],
                          receipt["lists"], receipt["purged_at"]), (3, 3, alone, among, None))
        self.assertTrue(receipt["by"].startswith("operator "))

        # Not before its time, and nothing is lost until then.
        self.pass_time(9)
        self.assertEqual(self.reap(), "")
        self.ok("account", "restore", account.address)
        for node in 0, 1:
            self.assertEqual(self.uids(account, node), uidl)
        for address in account.address, alone, among:
            self.assertEqual(self.everywhere(address), [250, 250])
        self.assertEqual(self.targets(alone, among),
                         [(among, bob.address), (among, account.address),
                          (alone, account.address)])
        self.fails(EX_DATAERR, "is not removed", "account", "restore", account.address)
        self.fails(EX_NOUSER, "no account with this address", "account", "receipt",
                   account.address)

    def test_who_left_together_comes_back_together(self):
        """In whatever order: the alias went with the last of them."""
        one, two, team, mended = (f"{name}@{DOMAIN}" for name in ("one", "two", "team", "mended"))
        for address in one, two:
            self.fleet.add_account(address)
        for alias in team, mended:
            self.ok("alias", "add", alias, one, two)
        self.remove(one)
        self.ok("alias", "remove", mended, "--yes")  # as an operator wants it
        self.remove(two)
        self.assertEqual(self.targets(team), [])
        for address in one, two:
            self.ok("account", "restore", address)
        self.assertEqual(self.targets(team, mended), [(team, one), (team, two)])

    def test_a_suspended_account_comes_back_suspended(self):
        account = self.account("late")
        self.ok("account", "suspend", account.address)
        self.remove(account.address)
        self.ok("account", "restore", account.address)
        self.assertEqual(self.show(account)["state"], "suspended")
        self.assert_shut(account)

    def test_a_catch_all_does_not_get_the_mail_of_who_was_removed(self):
        self.ok("domain", "add", "caught.test")
        owner, gone = (f"{name}@caught.test" for name in ("owner", "gone"))
        for address in owner, gone:
            self.fleet.add_account(address)
        self.ok("domain", "set", "caught.test", "--catch-all", owner)
        self.assertEqual(self.everywhere("any@caught.test"), [250, 250])
        self.remove(gone)
        self.assertEqual(self.everywhere(gone), [550, 550])
        self.assertEqual(self.everywhere("any@caught.test"), [250, 250])
        # Who is the catch-all takes it along, and the domain stays.
        self.remove(owner)
        self.assertEqual(self.everywhere("any@caught.test"), [550, 550])
        self.assertEqual([row["catch_all"] for row in self.json("domain", "list")
                          if row["name"] == "caught.test"], [None])
        self.ok("account", "restore", owner)
        self.assertEqual(self.everywhere("any@caught.test"), [250, 250])

    def test_after_the_grace_it_is_purged_and_its_address_is_nobodys(self):
        account, alias = self.account("purged"), f"purged.too@{DOMAIN}"
        self.ok("alias", "add", alias, account.address)
        for _ in range(2):
            self.deliver(HELLO, account)
        mailbox = self.show(account)["mailbox_id"]
        self.remove(account.address)
        late = f"purged.late@{DOMAIN}"  # led to it after it was removed
        self.ok("alias", "add", late, account.address)
        self.pass_time(10)
        self.fails(EX_NOUSER, "can't come back", "account", "restore", account.address)
        files = len(self.spool_files())
        done = self.run_admin("reap")
        self.assertIn("1 removed accounts would be purged, 2 of their messages", done.stderr)
        self.assertIn("1 removed accounts purged, 2 of their messages", self.reap())
        self.assertEqual(self.reap(), "")
        self.assertEqual(len(self.spool_files()), files)
        receipt = self.receipt(account.address)
        self.assertEqual((receipt["mailbox_id"], receipt["messages"], receipt["files"]),
                         (mailbox, 2, 2))
        self.assertIsNotNone(receipt["purged_at"])
        self.assertEqual(self.fleet.sql("SELECT DISTINCT by_whom FROM ledger WHERE mailbox_id = "
                                        f"{mailbox}"), [[f"removed by {receipt['by']}"]])
        self.fails(EX_NOUSER, "no such account", "account", "show", account.address)
        self.assert_shut(account)
        for address in account.address, alias, late:
            self.assertEqual(self.everywhere(address), [550, 550])
            self.assertEqual(self.count(f"address WHERE addr = '{address}'"), 0)

        self.pass_time(20)
        self.reap()
        self.assertEqual(len(self.spool_files()), files - 2)
        self.assertEqual(self.receipt(account.address)["files"], 0)

        for words in (("account", "add", account.address, "--password-stdin"),
                      ("alias", "add", account.address, self.account("heir").address),
                      ("alias", "add", alias, f"heir@{DOMAIN}")):
            self.fails(EX_CANTCREAT, "--reuse", *words, stdin="secret\n")
        self.ok("alias", "add", alias, f"heir@{DOMAIN}", "--reuse")
        again = self.account("purged", "--reuse")
        self.assertEqual(self.mailbox(again), [])
        self.assertGreater(self.show(again)["mailbox_id"], mailbox)
        # Both are told apart.
        self.remove(again.address)
        self.assertEqual([row["mailbox_id"] for row in
                          self.json("account", "receipt", again.address)],
                         [mailbox, self.show(again)["mailbox_id"]])

    def test_the_clock_is_the_databases(self):
        """Which is two months ahead here: by the node's, who was removed would be purged at once, and
        who is being purged would come back."""
        account, late = self.account("clock"), self.account("clock.late")
        for one in account, late:
            self.deliver(HELLO, one)
        self.database_clock_ahead(60)
        done = self.run_admin("account", "remove", account.address, late.address, "--yes")
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertRegex(done.stderr, r"this node's clock is 51\d{5} s behind")
        self.assertEqual(self.count("removed WHERE addr LIKE 'clock%' AND purge_after BETWEEN "
                                    "now() + interval '69 days' AND now() + interval '70 days'"), 2)
        self.assertEqual(self.reap(), "")
        self.fleet.sql("UPDATE removed SET purge_after = now() + interval '30 days' "
                       f"WHERE addr = '{late.address}'")
        self.fails(EX_NOUSER, "can't come back", "account", "restore", late.address)
        self.ok("account", "restore", account.address)
        self.assertEqual(self.mailbox(account), [HELLO])

    def test_killed_anywhere_the_purge_goes_on(self):
        """More messages than a transaction takes."""
        many, account = 2300, self.account("much")
        mailbox = self.show(account)["mailbox_id"]
        self.fleet.sql(f"""
            INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
                SELECT {mailbox}, n, (lpad('2', 12, '0') || lpad(to_hex(n), 20, '0'))::uuid, 10, 0,
                       1, false FROM generate_series(1, {many}) n;
            UPDATE mailbox SET msgs = {many}, octets = 10 * {many}, next_seq = {many} + 1
             WHERE mailbox_id = {mailbox}""")
        self.remove(account.address)
        self.pass_time(10)
        for fault, left in ("purge_moved", 1300), ("purge_moved:2", 0), ("purge_ended", 0):
            done = self.run_admin("reap", "--yes", env={"MAILFLEET_FAULT": f"{fault}=kill"})
            self.assertEqual(done.returncode, -signal.SIGKILL, done.stderr)
            self.assertEqual(self.count(f"message WHERE mailbox_id = {mailbox}"), left)
            self.assertEqual(self.count(f"ledger WHERE mailbox_id = {mailbox}"), many - left)
            self.assertEqual(self.count(f"removed WHERE mailbox_id = {mailbox} AND purged_at IS"
                                        " NULL"), int(fault != "purge_ended"))
            if left:  # by its time alone it could come back, with what is left
                self.pass_time(-10)
                self.fails(EX_NOUSER, "its messages are being purged", "account", "restore",
                           account.address)
                self.assertEqual(self.show(account)["state"], "removed")
                self.pass_time(10)
        self.assertEqual(self.reap(), "")
        self.assertEqual([self.count(f"{table} WHERE mailbox_id = {mailbox}")
                          for table in ("mailbox", "account", "address")], [0, 0, 0])
        self.assertEqual((self.receipt(account.address)["messages"],
                          self.receipt(account.address)["files"]), (many, many))

    def test_several_reapers_purge_at_once(self):
        """More accounts than a page has."""
        accounts, each = 450, 3
        self.fleet.sql(f"""
            INSERT INTO mailbox (mailbox_id, state, msgs, octets, next_seq)
                SELECT 3000000 + n, 2, {each}, 10 * {each}, 9 FROM generate_series(1, {accounts}) n;
            INSERT INTO account (mailbox_id, addr)
                SELECT 3000000 + n, 'p' || n || '@{DOMAIN}' FROM generate_series(1, {accounts}) n;
            INSERT INTO address (addr, domain, mailbox_id)
                SELECT addr, '{DOMAIN}', mailbox_id FROM account WHERE mailbox_id > 3000000;
            INSERT INTO removed (mailbox_id, addr, removed_at, purge_after, by_whom, msgs, octets)
                SELECT mailbox_id, addr, now(), now() - interval '1 s', 'test', {each}, 10 * {each}
                  FROM account WHERE mailbox_id > 3000000;
            INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
                SELECT 3000000 + n, seq, (lpad('3', 12, '0') || lpad(to_hex(n * 10 + seq), 20,
                       '0'))::uuid, 10, 0, 1, false
                  FROM generate_series(1, {accounts}) n, generate_series(1, {each}) seq""")
        reapers = [self.popen_admin("reap", "--yes") for _ in range(3)]
        done = [reaper.communicate(timeout=100)[1] for reaper in reapers]
        self.assertEqual([reaper.returncode for reaper in reapers], [EX_OK] * 3, done)
        said = re.findall(r"(\d+) removed accounts purged, (\d+) of", " ".join(done))
        self.assertEqual((sum(int(n) for n, _ in said), sum(int(n) for _, n in said)),
                         (accounts, accounts * each), done)
        self.assertEqual([self.count(f"{table} WHERE mailbox_id > 3000000")
                          for table in ("mailbox", "account", "address", "message", "ledger")],
                         [0, 0, 0, 0, accounts * each])
        self.fleet.sql("DELETE FROM ledger WHERE mailbox_id > 3000000")

    def test_many_from_a_file(self):
        accounts = [self.account(f"bulk{n}") for n in range(4)]
        addresses = [account.address for account in accounts]
        text = "\n".join(["# who left in spring", "", f"  {addresses[0]}\r", "not an address",
                          f"nobody@{DOMAIN}", addresses[1].upper(), addresses[2], ""])
        done = self.run_admin("account", "remove", "--list", "-", stdin=text)
        self.assertEqual(self.count("removed WHERE addr LIKE 'bulk%'"), 0)
        done = self.run_admin("account", "remove", "--list", "-", "--yes", stdin=text)
        self.assertEqual(done.returncode, EX_DATAERR, done.stderr)
        for says in "not an address: not a valid", "nobody@", "-:4: not done", "-:5: not done":
            self.assertIn(says, done.stderr)
        self.assertEqual(self.count("removed WHERE addr LIKE 'bulk%'"), 3)
        self.mailbox(accounts[3])
        path = self.fleet.state / "config" / "leavers"
        path.write_text("\n".join(addresses[:3]), encoding="utf-8")
        self.ok("account", "remove", "--list", path, "--yes")  # once more is no harm
        rows = self.json("account", "receipt", "--list", path)
        self.assertEqual([row["address"] for row in rows], addresses[:3])
        self.ok("account", "restore", "--list", path)
        for account in accounts:
            self.mailbox(account)
        self.fails(EX_NOINPUT, "No such file", "account", "remove", "--list", "/nowhere")
        self.fails(EX_USAGE, "either", "account", "remove")
        self.fails(EX_USAGE, "either", "account", "remove", addresses[0], "--list", path)

    def test_mailbox_ids_go_on_behind_a_restored_database(self):
        before = self.show(self.account("before"))["mailbox_id"]
        self.raise_epoch()
        after = self.show(self.account("after"))["mailbox_id"]
        self.assertGreater(after, before + 1_000_000)


class Reading(RemovalTest):
    def expire(self, pop3):
        return [line for line in pop3.multi("CAPA") if line.startswith(b"EXPIRE")]

    def marks(self, account):
        """What is noted, when it should be: nobody waits for it."""
        return [int(seq) for seq, in self.fleet.sql(
            "SELECT seq FROM read_mark r JOIN account c ON c.mailbox_id = r.mailbox_id"
            f" WHERE c.addr = '{account.address}' ORDER BY seq")]

    def eventually_marked(self, account, places):
        self.eventually(20, lambda: self.assertEqual(self.marks(account), places))

    def age(self, account, days):
        self.fleet.sql(f"UPDATE read_mark SET read_at = read_at - interval '{days} d'"
                       f" WHERE mailbox_id = {self.show(account)['mailbox_id']}")

    def filled(self, name, *options, messages=3):
        account = self.account(name, *options)
        for _ in range(messages):
            self.deliver(HELLO, account)
        return account

    def test_what_was_read_goes_when_its_days_are_over(self):
        account = self.filled("reader", "--retention", "30", "--read-retention", "7", messages=4)
        self.assertEqual((self.show(account)["retention_days"], self.show(account)["read_days"]),
                         (30, 7))
        with self.pop3(account) as pop3:
            self.assertEqual(self.expire(pop3), [b"EXPIRE 7"])
            pop3.retr(1)
            pop3.multi("TOP 2 0")
            pop3.retr(3)
            pop3.retr(4)
            pop3.ok("DELE 4")
            pop3.quit()
        self.eventually_marked(account, [1, 3])
        self.age(account, 6.9)
        self.assertEqual(self.json("reap", "--yes")["expired"], 0)
        self.age(account, 0.2)
        self.assertEqual(self.json("reap")["expiring"], 2)
        self.assertEqual(self.json("reap", "--yes")["expired"], 2)
        for node in 0, 1:
            with self.pop3(account, node) as pop3:
                self.assertEqual(len(pop3.list()), 1)
        self.assertEqual(self.count("ledger WHERE by_whom = 'expired' AND mailbox_id = "
                                    f"{self.show(account)['mailbox_id']}"), 2)
        self.assertEqual(self.marks(account), [])

    def test_nothing_is_noted_without_a_rule(self):
        account, other = self.filled("free", "--retention", "5"), self.filled("ruled",
                                                                              "--read-retention", "1")
        for one in account, other:
            with self.pop3(one) as pop3:
                pop3.retr(1)
                pop3.quit()
        self.eventually_marked(other, [1])  # by then the first would have been, too
        self.assertEqual(self.marks(account), [])
        self.ok("account", "retention", other.address, "never", "--read-retention", "never")
        self.age(other, 100)
        self.assertEqual(self.json("reap", "--yes")["expired"], 0)
        with self.pop3(other) as pop3:
            self.assertEqual(self.expire(pop3), [b"EXPIRE NEVER"])

    def test_a_session_that_breaks_off_has_read_what_it_has(self):
        account = self.filled("lost", "--read-retention", "3")
        with self.pop3(account) as pop3:
            pop3.retr(2)
            pop3.ok("NOOP")
            pop3.retr(3)  # who knows whether it arrived
        self.eventually_marked(account, [2])

    def test_kept_for_no_time_after_it_was_read(self):
        account = self.filled("zero", "--read-retention", "0")
        with self.pop3(account) as pop3:
            self.assertEqual(self.expire(pop3), [b"EXPIRE 0"])
            pop3.retr(1)
            pop3.ok("NOOP")
        # Without QUIT nothing of it is gone: what is noted next shows that it was not noted.
        with self.pop3(account, 1) as pop3:
            pop3.retr(2)
            pop3.quit()
        self.eventually_marked(account, [2])
        self.assertEqual(self.json("reap", "--yes")["expired"], 1)
        self.assertEqual(len(self.uids(account)), 2)

    def test_before_login_the_least_of_all(self):
        """Nodes know some seconds later."""
        self.account("least", "--read-retention", "0")

        def told():
            for node in 0, 1:
                with self.pop3(node=node) as pop3:
                    self.assertEqual(self.expire(pop3), [b"EXPIRE 0 USER"])

        self.eventually(30, told)

    def test_quit_does_not_wait_for_the_note(self):
        account = self.filled("hasty", "--read-retention", "5")
        with self.pop3(account) as pop3:
            pop3.retr(1)
            database = self.fleet["postgres"]
            frozen = database.pids()
            database.send(frozen, signal.SIGSTOP)
            try:
                pop3.quit()
            finally:
                database.send(frozen, signal.SIGCONT)
        self.nodes_are_ready()
        self.assertEqual(len(self.mailbox(account)), 3)

    def test_values(self):
        self.ok("domain", "add", "read.test", "--read-retention", "0")
        self.fleet.add_account("a@read.test")
        self.ok("domain", "set", "read.test", "--read-retention", "never", "--yes")
        self.fleet.add_account("b@read.test")
        self.ok("account", "retention", "b@read.test", "9", "--read-retention", "4")
        self.ok("account", "retention", "b@read.test", "8")
        self.assertEqual([(row["retention_days"], row["read_days"])
                          for row in self.json("account", "list", "read.test")],
                         [(None, None), (8, 4)])
        self.assertEqual([row["read_days"] for row in self.json("domain", "list")
                          if row["name"] == "read.test"], [None])
        for bad in "-1", "1.5", "3651", "":
            self.fails(EX_DATAERR, f"{bad}: a number of days, 0 to", "account", "retention",
                       "a@read.test", "5", f"--read-retention={bad}")


if __name__ == "__main__":
    harness.main()
