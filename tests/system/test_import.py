#!/usr/bin/python3 -B
"""Mail that moves in from Maildirs and mbox files, and out again: UIDLs, order, sizes and dates stay,
and neither a kill nor a second run takes anything twice."""

import hashlib
import json
import os
import shutil
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from os import EX_CANTCREAT, EX_DATAERR, EX_NOUSER, EX_OK, EX_TEMPFAIL, EX_USAGE

import harness
from messages import some_messages

VALIDITY = 1600000000


def uid_uidl(uid):
    """Dovecot's %08Xu%08Xv."""
    return f"{uid:08x}{VALIDITY:08x}"


def message(number, lines=3):
    return (f"From: a@example.org\r\nSubject: message {number}\r\n\r\n"
            + "".join(f"line {line} of {number}\r\n" for line in range(lines))).encode()


class ImportTest(harness.FleetTest):
    time_limit = 300

    # --- helpers --------------------------------------------------------------------------------

    def setUp(self):
        self.old = self.fleet.state / "old"
        shutil.rmtree(self.old, ignore_errors=True)
        self.old.mkdir()
        self.own(self.old)

    def own(self, path):
        """The command runs as the daemons' user."""
        if self.fleet.root:
            for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
                shutil.chown(one, self.fleet.user, self.fleet.user)

    def importing(self, *words, code=EX_OK, **options):
        """The rows of the report."""
        self.own(self.old)
        done = self.run_admin("import", *words, "--json", **options)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def listing(self, account):
        """UIDL, size and content of each message, in order."""
        with self.pop3(account) as pop3:
            uidls, sizes = pop3.uidl(), pop3.list()
            content = [pop3.retr(number) for number in sizes]
            pop3.quit()
        for size, octets in zip(sizes.values(), content):
            self.assertEqual(size, len(octets))
        return list(zip(uidls.values(), sizes.values(), content))

    def maildir(self, name, files, lists=None):
        """files: {"cur/name": content with CRLF}; stored with LF."""
        path = self.old / name
        for folder in "cur", "new", "tmp":
            (path / folder).mkdir(parents=True)
        for file, content in files.items():
            (path / file).write_bytes(content.replace(b"\r\n", b"\n"))
        for file, text in (lists or {}).items():
            (path / file).write_text(text)
        return path

    def dovecot(self, name, count):
        """A Maildir of so many messages with a list; the content, in its order."""
        files = {f"cur/{VALIDITY + n}.M{n}P1.old,S=1:2,S": message(n) for n in range(count)}
        entries = "".join(f"{n + 1} :{VALIDITY + n}.M{n}P1.old,S=1\n" for n in range(count))
        path = self.maildir(name, files, {
            "dovecot-uidlist": f"3 V{VALIDITY} N{count + 1} Gabc\n{entries}"})
        return path, [(uid_uidl(n + 1), len(message(n)), message(n)) for n in range(count)]

    def received(self, account):
        return [row["received"] for row in json.loads(self.fleet.admin(
            "messages", account.address, "--json"))]

    def box(self, account):
        return self.fleet.sql(
            f"SELECT mailbox_id FROM account WHERE addr = '{account.address}'")[0][0]

    # --- Maildir --------------------------------------------------------------------------------

    def test_a_maildir_of_dovecot(self):
        account = self.account("dovecot")
        path = self.maildir("dovecot", {
            "cur/1600000300.M1P1.old:2,S": message("uid 7"),
            "cur/1600000100.M1P1.old,W=61:2,": message("uid 3"),
            "cur/1600000200.M1P1.old:2,RS": message("saved"),
            "cur/1600000400.M1P1.old:2,": message("named"),
            "cur/1600000900.M1P1.old:2,": message("first by order"),
            "new/1600000600.M5P1.old": message("second new"),
            "new/1600000600.M4P1.old": message("first new"),
            "tmp/1600000000.M4P1.old": message("never"),
        }, {"dovecot-uidlist":
            f"3 V{VALIDITY} N20 G0123456789abcdef0123456789abcdef\n"
            "1 :1500000000.gone\n"
            "3 :1600000100.M1P1.old,W=61\n"
            f"7 W{len(message('uid 7'))} :1600000300.M1P1.old:2,S\n"
            "8 Pold-uidl-8 :1600000200.M1P1.old\n"
            "9 P :1600000400.M1P1.old\n"
            "10 O1 :1600000900.M1P1.old\n"})
        want = [(uid_uidl(10), "first by order"), (uid_uidl(3), "uid 3"), (uid_uidl(7), "uid 7"),
                ("old-uidl-8", "saved"), ("1600000400.M1P1.old", "named"),
                (uid_uidl(20), "first new"), (uid_uidl(21), "second new")]
        want = [(uidl, len(message(text)), message(text)) for uidl, text in want]

        [row] = self.importing(f"maildir:{path}", account.address)  # it only says what it would do
        self.assertEqual((row["messages"], row["new"], row["taken"]), (7, 7, 0))
        self.assertEqual(self.listing(account), [])

        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual({**row, "octets": None}, {
            "address": account.address, "messages": 7, "known": 0, "new": 7, "taken": 7,
            "octets": None, "sizes_differ": 1, "uidls_changed": 0, "too_large": 0, "gone": 0, "pruned": 0,
            "error": None})
        self.assertEqual(self.listing(account), want)
        self.assertEqual(self.received(account)[1], "2020-09-13T12:28:20Z")

        # Again: nothing. What its user deletes here does not come back; what arrives there comes
        # behind, and so does what arrived here.
        with self.pop3(account) as pop3:
            pop3.ok("DELE 2")
            pop3.quit()
        (path / "new/1700000000.M1P1.old").write_bytes(b"Subject: late\n\nlate\n")
        self.deliver(b"Subject: here\r\n\r\nhere\r\n", account)
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["new"], row["taken"]), (7, 1, 1))
        listed = self.listing(account)
        self.assertEqual(listed[:6], want[:1] + want[2:])
        self.assertEqual(listed[7], (uid_uidl(22), 23, b"Subject: late\r\n\r\nlate\r\n"))
        self.assertEqual(len(listed), 8)

    def test_a_maildir_without_a_list(self):
        account = self.account("names")
        long = "1600000002." + "x" * 100
        path = self.maildir("names", {
            "cur/1600000001.b.old:2,S": message(1), "new/1600000000.a.old": message(0),
            f"cur/{long}:2,": message(2), "cur/1600000003.c": b"Subject: no end\r\n\r\nno end",
            "cur/1600000004.d": b""})
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["taken"], row["uidls_changed"]), (5, 1))
        size = len(message(1))
        self.assertEqual([(uidl, size) for uidl, size, _ in self.listing_of(account, 5)],
                         [("1600000000.a.old", size), ("1600000001.b.old", size),
                          (hashlib.sha256(long.encode()).hexdigest(), size),
                          ("1600000003.c", 25), ("1600000004.d", 0)])

    def before_its_list(self, name, count):
        """Imported by the names of its files; then the old server is opened, and makes its list."""
        account = self.account(name)
        self.fleet.admin("account", "suspend", account.address)
        path, want = self.dovecot(name, count)
        text = (path / "dovecot-uidlist").read_text()
        (path / "dovecot-uidlist").unlink()
        for taken in count, 0:
            [row] = self.importing(f"maildir:{path}", account.address, "--yes")
            self.assertEqual(row["taken"], taken)
        (path / "dovecot-uidlist").write_text(text)
        return account, path, want

    def verified(self, path, account):
        done = self.run_admin("verify", f"maildir:{path}", account.address, "--json")
        [row] = json.loads(done.stdout)
        return row["same"], row["uidls_changed"], row["result"], done.returncode

    def test_a_list_that_comes_later(self):
        """Night after night: what was brought by its name gets its UIDL, and there are no two of it."""
        account, path, want = self.before_its_list("later", 40)
        self.assertEqual(self.verified(path, account), (0, 40, "differs", 1))
        [row] = self.importing(f"maildir:{path}", account.address)
        self.assertEqual((row["known"], row["new"]), (0, 40))
        self.own(self.old)
        done = self.run_admin("import", f"maildir:{path}", account.address, "--yes",
                              env={"MAILFLEET_FAULT": "import_committed=kill"})
        self.assertEqual(done.returncode, -9, done.stderr)
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (32, 8))
        self.assertEqual(self.verified(path, account), (40, 0, "same", 0))
        box = self.box(account)
        self.assertEqual(self.fleet.sql(f"SELECT msgs, octets FROM mailbox WHERE mailbox_id = {box}"),
                         [["40", str(sum(size for _, size, _ in want))]])
        self.assertEqual(self.fleet.sql(
            f"SELECT by_whom, seq, count(*) FROM ledger WHERE mailbox_id = {box} GROUP BY 1, 2"),
            [["imported by its UIDL", "0", "40"]])
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (40, 0))
        self.fleet.admin("account", "resume", account.address)
        self.fleet.admin("undelete", account.address, "--yes")
        self.assertEqual(self.listing(account), want)

    def test_both_names_after_a_restore(self):
        """The database knows again what had gone when messages were taken once more by their UIDLs, and
        adopt has given those back: --prune takes the names away."""
        account, path, want = self.before_its_list("twice", 3)
        self.importing(f"maildir:{path}", account.address, "--yes")
        box = self.box(account)
        self.fleet.sql(f"""
            WITH back AS (DELETE FROM ledger WHERE mailbox_id = {box} AND seq = 0 RETURNING *)
            INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl)
            SELECT mailbox_id, row_number() OVER (), blob_id, size, skip, volume_id, shared, uidl
              FROM back;
            UPDATE mailbox SET msgs = 6, octets = 2 * octets WHERE mailbox_id = {box}""")
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"], row["gone"], row["pruned"]), (3, 0, 3, 0))
        [row] = self.importing(f"maildir:{path}", account.address, "--yes", "--prune")
        self.assertEqual((row["gone"], row["pruned"]), (3, 3))
        self.assertEqual(self.cut_over(path, account).returncode, 0)
        self.assertEqual(self.listing(account), want)

    def test_resumed_in_the_middle_of_an_import(self):
        """It was suspended when it was asked, and people see it by the time of the commit."""
        account, path, _ = self.before_its_list("middle", 3)
        self.own(self.old)
        process = self.popen_admin("import", f"maildir:{path}", account.address, "--yes", "--json",
                                   env={"MAILFLEET_FAULT": "import_written=stop"})
        os.waitpid(process.pid, os.WUNTRACED)
        self.fleet.admin("account", "resume", account.address)
        before = self.listing(account)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        [row] = json.loads(out)
        self.assertEqual((process.returncode, row["taken"]), (EX_TEMPFAIL, 0), err)
        self.assertIn("is not suspended", row["error"])
        self.assertEqual((self.listing(account), len(before)), (before, 3))

    def test_a_list_that_comes_too_late(self):
        """People have seen the names here: they stay, and what was deleted stays away."""
        account, path, _ = self.before_its_list("toolate", 5)
        self.fleet.admin("account", "resume", account.address)
        with self.pop3(account) as pop3:
            pop3.ok("DELE 2")
            pop3.quit()
        before = self.listing(account)
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"], row["uidls_changed"]), (5, 0, 4))
        self.assertEqual(self.listing(account), before)
        self.assertEqual(self.verified(path, account), (0, 4, "differs", 1))

    def test_a_format_whose_list_is_not_there(self):
        account = self.account("nolist")
        empty = self.maildir("empty", {})
        path = self.maildir("nolist", {"new/1600000001.a": message(1)})
        for form in "dovecot", "%08Xu%08Xv", "courier":
            [row] = self.importing(f"maildir:{empty}", account.address, "--yes", "--format", form)
            self.assertEqual(row["error"], None)
            [row] = self.importing(f"maildir:{path}", account.address, "--yes", "--format", form,
                                   code=EX_TEMPFAIL)
            self.assertIn("there is no", row["error"])
        [row] = self.importing(f"maildir:{path}", account.address, "--yes", "--format", "%f")
        self.assertEqual(row["taken"], 1)

    def listing_of(self, account, count):
        """The first so many: one whose last line has no end is sent with one, as ever."""
        with self.pop3(account) as pop3:
            uidls, sizes = pop3.uidl(), pop3.list()
            pop3.quit()
        return [(uidls[n], sizes[n], None) for n in list(sizes)[:count]]

    def cut_over(self, path, account):
        self.own(self.old)
        return self.run_admin("verify", f"maildir:{path}", account.address, "--cut-over", "--yes",
                              "--json")

    def drop(self, path, count):
        """The user deletes the first ones at the old server."""
        for n in range(count):
            (path / "cur" / f"{VALIDITY + n}.M{n}P1.old,S=1:2,S").unlink()

    def test_what_has_gone_at_the_old_server(self):
        account = self.account("follows")
        path, want = self.dovecot("follows", 6)
        self.deliver(b"Subject: here\r\n\r\nhere\r\n", account)  # before all others, for a moment
        self.fleet.admin("account", "suspend", account.address)
        self.importing(f"maildir:{path}", account.address, "--yes")
        self.drop(path, 2)
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["gone"], row["pruned"]), (4, 2, 0))
        refused = self.cut_over(path, account)
        self.assertEqual(refused.returncode, 1)
        self.assertEqual(refused.stderr.count("import it again with --prune"), 2, refused.stderr)
        # It only says what it would do.
        [row] = self.importing(f"maildir:{path}", account.address, "--prune")
        self.assertEqual((row["gone"], row["pruned"]), (2, 0))
        [row] = self.importing(f"maildir:{path}", account.address, "--prune", "--yes")
        self.assertEqual((row["gone"], row["pruned"]), (2, 2))
        [[who]] = self.fleet.sql("SELECT DISTINCT by_whom FROM ledger WHERE mailbox_id = "
                                 f"{self.box(account)} AND seq > 0")
        self.assertRegex(who, "^operator .*: gone at the old server$")
        # What was delivered here is left, and so stands in front.
        self.assertEqual(self.cut_over(path, account).returncode, 1)
        [mine] = [row["id"] for row in json.loads(self.fleet.admin(
            "messages", account.address, "--json"))][:1]
        self.fleet.admin("delete", account.address, "--id", mine, "--yes")
        self.assertEqual(self.cut_over(path, account).returncode, 0)
        self.assertEqual(self.listing(account), want[2:])
        # Its user has it now: nothing is pruned any more, and all can come back.
        self.drop(path, 0)
        shutil.rmtree(path)
        path, _ = self.dovecot("follows", 1)
        [row] = self.importing(f"maildir:{path}", account.address, "--prune", "--yes")
        self.assertEqual((row["gone"], row["pruned"]), (4, 0))
        self.fleet.admin("undelete", account.address, "--yes")
        self.assertEqual(self.listing(account)[1:], want)

    def test_other_uidls_than_before_are_told(self):
        account = self.account("renumbered")
        path, _ = self.dovecot("renumbered", 6)
        self.importing(f"maildir:{path}", account.address, "--yes")
        self.own(self.old)
        done = self.run_admin("import", f"maildir:{path}", account.address)
        self.assertNotIn("a second time", done.stderr)
        done = self.run_admin("import", f"maildir:{path}", account.address, "--format", "%v.%u")
        self.assertIn("a second time", done.stderr)

    def test_an_old_mailbox_that_is_empty_prunes_nothing(self):
        account = self.account("emptied")
        path, _ = self.dovecot("emptied", 3)
        self.fleet.admin("account", "suspend", account.address)
        self.importing(f"maildir:{path}", account.address, "--yes")
        self.drop(path, 3)
        [row] = self.importing(f"maildir:{path}", account.address, "--prune", "--yes")
        self.assertEqual((row["messages"], row["gone"], row["pruned"]), (0, 3, 0))
        self.fleet.admin("delete", account.address, "--all", "--yes")
        self.assertEqual(self.cut_over(path, account).returncode, 0)

    def test_formats_of_dovecot(self):
        files = {"cur/1600000001.b.old:2,S": message(1)}
        uidlist = {"dovecot-uidlist": f"3 V{VALIDITY} N3\n2 Gguid :1600000001.b.old\n"}
        path = self.maildir("formats", files, uidlist)
        for number, (form, uidl) in enumerate({
                "%v.%u": f"{VALIDITY}.2", "%u": "2", "%f": "1600000001.b.old", "%g": "guid",
                "%Mf": hashlib.md5(b"1600000001.b.old").hexdigest(), "%08Xu%08Xv": uid_uidl(2),
                "%{uid | hex(8)}%{uidvalidity | hex(8)}": uid_uidl(2)}.items()):
            account = self.account(f"format{number}")
            self.importing(f"maildir:{path}", account.address, "--yes", "--format", form)
            self.assertEqual(self.listing(account)[0][0], uidl, form)
        account = self.account("noformat")
        [row] = self.importing(f"maildir:{path}", account.address, "--yes", "--format", "%q",
                               code=EX_DATAERR)
        self.assertIn("%q", row["error"])

    def test_a_maildir_of_courier(self):
        account = self.account("courier")
        path = self.maildir("courier", {
            f"cur/{VALIDITY + n}.M1.old:2,S": message(n) for n in range(5)}, {
                "courierpop3dsizelist":
                    f"/3 40 {VALIDITY}\n"
                    f"{VALIDITY}.M1.old:2, {len(message(0))} 3:{VALIDITY}:0\n"
                    f"{VALIDITY + 1}.M1.old {len(message(1))} 4:0:0\n"
                    f"{VALIDITY + 2}.M1.old {len(message(2)) + 9} 0:0:0\n"
                    f"{VALIDITY + 9}.gone 17 39:{VALIDITY}:0\n"})
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["taken"], row["sizes_differ"]), (5, 1))
        self.assertEqual(self.listing(account), [
            (uidl, len(message(n)), message(n)) for n, uidl in enumerate([
                f"UID3-{VALIDITY}", "UID4", f"{VALIDITY + 2}.M1.old", f"UID40-{VALIDITY}",
                f"UID41-{VALIDITY}"])])

    def cyrus(self, name, messages):
        """A folder of Cyrus: {uid: content, or None of one that was expunged}."""
        path = self.old / name
        (path / "Sent").mkdir(parents=True)
        head = bytearray(96)
        struct.pack_into(">5I", head, 8, 10, len(head), 88, len(messages), 0)  # version, sizes, records
        struct.pack_into(">I", head, 44, VALIDITY)
        struct.pack_into(">I", head, 60, 1)  # UIDLs of both numbers
        index = bytes(head)
        for uid, content in messages.items():
            record = bytearray(88)
            struct.pack_into(">4I", record, 0, uid, VALIDITY + uid, 0, len(content or b"x"))
            struct.pack_into(">I", record, 32, 1 << 31 if content is None else 0)
            index += bytes(record)
            (path / f"{uid}.").write_bytes(content or b"x")
        (path / "cyrus.index").write_bytes(index)
        for other in "cyrus.header", "cyrus.cache", "Sent/cyrus.index":
            (path / other).write_bytes(b"none of the mailbox")
        return path

    def test_a_folder_of_cyrus(self):
        account = self.account("cyrus")
        path = self.cyrus("cyrus", {3: message(3), 9: message(9), 10: None, 200: message(200)})
        self.fleet.admin("account", "suspend", account.address)
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["messages"], row["taken"], row["sizes_differ"]), (3, 3, 0))
        self.assertEqual(self.received(account)[1], "2020-09-13T12:26:49Z")
        self.own(self.old)
        done = self.run_admin("verify", f"maildir:{path}", account.address, "--deep", "--cut-over",
                              "--yes")
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertEqual(self.listing(account), [
            (f"{VALIDITY}.{uid}", len(message(uid)), message(uid)) for uid in (3, 9, 200)])
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (3, 0))

    def test_what_is_no_message_of_the_mailbox(self):
        """Links lead to what its owner may not read; packed files are not what a server sends."""
        account = self.account("hostile")
        path = self.maildir("hostile", {"cur/1600000001.a": message(1)})
        (path / "cur/1600000000.link").symlink_to(self.fleet.state / "secret" / "fleet.key")
        os.mkfifo(path / "cur/1600000000.fifo")
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["messages"], row["taken"]), (1, 1))

        (path / "cur/1600000002.b").write_bytes(b"Subject: in front of it\n\n")
        (path / "cur/1600000003.gz").write_bytes(b"\x1f\x8b\x08 packed")
        (path / "cur/1600000004.c").write_bytes(b"Subject: behind it\n\n")
        [row] = self.importing(f"maildir:{path}", account.address, "--yes", code=EX_TEMPFAIL)
        self.assertIn("compressed", row["error"])
        self.assertEqual((row["new"], row["taken"]), (3, 1))  # or it would stand in front for ever
        self.assertEqual([uidl for uidl, _, _ in self.listing(account)],
                         ["1600000001.a", "1600000002.b"])

    def test_links_above_the_mailbox(self):
        """Whose target its user could not read, but the command can."""
        victim, thief = self.account("victim"), self.account("thief")
        self.dovecot("real/victim", 2)
        (self.old / "real/victim.mbox").write_bytes(b"From a Thu Jan  2 03:04:05 2020\nA: b\n\nc\n")
        (self.old / "real/thief").symlink_to("victim")
        (self.old / "data").symlink_to("real")  # the operator's
        for url in (f"maildir:{self.old}/data/%u", f"maildir:{self.old}/data/%u/",
                    f"mbox:{self.old}/data/%u/../victim.mbox"):
            [row] = self.importing(url, thief.address, "--yes", code=EX_TEMPFAIL)
            self.assertIn("link", row["error"])
        self.assertEqual(self.listing(thief), [])
        for url, taken in ((f"maildir:{self.old}/data/%u", 2), (f"mbox:{self.old}/data/%u.mbox", 1)):
            [row] = self.importing(url, victim.address, "--yes")
            self.assertEqual((row["taken"], row["error"]), (taken, None))

    def test_too_large_for_ever(self):
        """It will never come, so what stands behind it does; that it is missing is no secret."""
        account = self.account("large")
        path, want = self.dovecot("large", 3)
        [large] = path.glob("cur/*M1P1*")
        os.truncate(large, 2 ** 31)  # a hole, of which nothing is read
        for taken in 2, 0:
            [row] = self.importing(f"maildir:{path}", account.address, "--yes", code=EX_DATAERR)
            self.assertEqual((row["messages"], row["taken"], row["too_large"]), (3, taken, 1))
            self.assertIn("too large", row["error"])
        self.assertEqual(self.listing(account), [want[0], want[2]])
        done = self.run_admin("verify", f"maildir:{path}", account.address, "--json")
        self.assertEqual((done.returncode, json.loads(done.stdout)[0]["missing"]), (1, 1))
        self.assertIn("larger", done.stderr)

    def test_a_commit_that_is_refused(self):
        """What was ready by then has no pointer, and never will: the reaper has it, not fsck."""
        account = self.account("refused")
        path, want = self.dovecot("refused", 50)
        self.fleet.sql("ALTER TABLE message ADD CONSTRAINT poison "
                       f"CHECK (uidl <> '{uid_uidl(40)}') NOT VALID")
        self.addCleanup(self.fleet.sql, "ALTER TABLE message DROP CONSTRAINT IF EXISTS poison")
        before = {file.name for file in self.spool_files()}
        [row] = self.importing(f"maildir:{path}", account.address, "--yes", code=EX_TEMPFAIL)
        self.assertIn("poison", row["error"])
        self.assertEqual(row["taken"], 32)
        orphans = {file.name for file in self.spool_files()} - before
        self.assertEqual(len(orphans), 50)
        box = self.box(account)
        self.assertEqual(self.fleet.sql(
            f"SELECT by_whom, seq, count(*) FROM ledger WHERE mailbox_id = {box} GROUP BY 1, 2"),
            [["import given up", "0", "18"]])
        self.fleet.sql("ALTER TABLE message DROP CONSTRAINT poison")
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (32, 18))
        self.assertEqual(self.listing(account), want)

    # --- mbox -----------------------------------------------------------------------------------

    def test_an_mbox(self):
        account = self.account("mbox")
        path = self.old / "mbox"
        path.write_bytes(
            b"From a@example.org Thu Jan  2 03:04:05 2020\n"
            b"X-UIDL: first\nSubject: one\n\nFrom here on it is text\n>From quoted\n\n"
            b"From b c Thu Jan  2 03:04:05 2020 +0100\nSubject: two\nStatus: RO\n\n>>From twice\n\n\n"
            b"From MAILER-DAEMON Fri Jan  3 03:04:05 2020\nSubject: three\n\nthree\n")
        two = b"Subject: two\r\nStatus: RO\r\n\r\n>>From twice\r\n\r\n"
        hashed = hashlib.sha256(b"Subject: two\n\n>>From twice\n").hexdigest()
        self.importing(f"mbox:{path}", account.address, "--yes")
        listed = self.listing_of(account, 3)
        self.assertEqual([uidl for uidl, _, _ in listed][:2], ["first", hashed])
        self.assertEqual([size for _, size, _ in listed],
                         [len(b"X-UIDL: first\r\nSubject: one\r\n\r\nFrom here on it is text\r\n"
                              b">From quoted\r\n"), len(two), len(b"Subject: three\r\n\r\nthree")])
        self.assertEqual(self.received(account), ["2020-01-02T03:04:05Z", "2020-01-02T02:04:05Z",
                                                  "2020-01-03T03:04:05Z"])

        # More mail, and other books: what was there is known still.
        path.write_bytes(path.read_bytes().replace(b"Status: RO\n", b"Status: O\nX-Keywords: a\n")
                         + b"\nFrom d Sat Jan  4 03:04:05 2020\nSubject: four\n\nfour\n\n")
        [row] = self.importing(f"mbox:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (3, 1))

        for form, line in ("mboxo", b">From twice"), ("mboxrd", b">From twice"):
            other = self.account(form)
            self.importing(f"mbox:{path}", other.address, "--yes", "--format", form)
            with self.pop3(other) as pop3:
                self.assertIn(b"\r\nFrom quoted", pop3.retr(1))
                self.assertIn(line if form == "mboxrd" else b">>From twice", pop3.retr(2))
                pop3.quit()

    def test_an_mbox_that_a_server_keeps_books_in(self):
        account = self.account("books")
        path = self.old / "books"
        path.write_bytes(
            b"From a Thu Jan  2 03:04:05 2020\nX-IMAPbase: 1600000000 0000000009\nX-UID: 5\n"
            b"Status: RO\nSubject: one\n\none\n\n"
            b"From a Thu Jan  2 03:04:05 2020\nX-UID: 9\nSubject: two\n\ntwo\n\n"
            b"From a Thu Jan  2 03:04:05 2020\nSubject: three\n\nthree\n\n")
        self.importing(f"mbox:{path}", account.address, "--yes")
        served = {uid: f"Subject: {text}\r\n\r\n{text}\r\n".encode()
                  for uid, text in ((5, "one"), (9, "two"), (10, "three"))}
        self.assertEqual(self.listing(account), [
            (uid_uidl(uid), len(octets), octets) for uid, octets in served.items()])

    def test_an_mbox_with_the_uidls_of_two_servers(self):
        """The one that numbered the messages served them by numbers, unless it is said otherwise."""
        path = self.old / "two"
        path.write_bytes(
            b"From a Thu Jan  2 03:04:05 2020\nX-IMAPbase: 1600000000 0000000009\nX-UID: 5\n"
            b"X-UIDL: older\nSubject: one\n\none\n\n"
            b"From a Thu Jan  2 03:04:05 2020\nX-UID: 9\nSubject: two\n\ntwo\n\n")
        numbers = [uid_uidl(5), uid_uidl(9)]
        for number, (form, uidls) in enumerate({
                "": numbers, "mboxrd": numbers, "dovecot": numbers, "%u": ["5", "9"],
                "xuidl": ["older", numbers[1]], "mboxo,xuidl": ["older", numbers[1]],
                "mboxrd,xuidl,%u": ["older", "9"]}.items()):
            account = self.account(f"two{number}")
            self.importing(f"mbox:{path}", account.address, "--yes", *(["--format", form] * bool(form)))
            self.assertEqual([uidl for uidl, _, _ in self.listing(account)], uidls, form)

    # --- many, killed, again ----------------------------------------------------------------------

    def test_many_accounts_from_a_list(self):
        count = 12
        accounts = [self.account(f"many{n}") for n in range(count)]
        want = []
        for n, account in enumerate(accounts):
            path, listed = self.dovecot(f"many{n}", 40 + n)
            want.append(listed)
        lines = "".join(f"{account.address}\n" for account in accounts[:-1])
        lines += f"# with a URL of its own\n\n{accounts[-1].address} - maildir:{path}\n"
        rows = self.importing(f"maildir:{self.old}/%u", "--list", "-", "--yes", "--jobs", "5",
                              stdin=lines + "nobody@" + harness.DOMAIN + "\n", code=EX_TEMPFAIL)
        self.assertEqual([row["taken"] for row in rows], [40 + n for n in range(count)] + [0])
        self.assertTrue(rows[-1]["error"])
        for account, listed in zip(accounts, want):
            self.assertEqual(self.listing(account), listed)

        for bad in ("no-address\n", f"{accounts[0].address} a b c\n",
                    f"{accounts[0].address}\n{accounts[0].address.upper()}\n", ""):
            self.importing("maildir:/nowhere", "--list", "-", stdin=bad, code=EX_DATAERR)

    def test_killed_and_run_again(self):
        """Wherever it is killed, the end is the same: every message once, in its order."""
        account = self.account("killed")
        path, want = self.dovecot("killed", 150)
        for fault in "import_written", "import_committed", "import_written:2", "import_committed:2":
            self.own(self.old)
            done = self.run_admin("import", f"maildir:{path}", account.address, "--yes",
                                  env={"MAILFLEET_FAULT": f"{fault}=kill"})
            self.assertEqual(done.returncode, -9, done.stderr)
            listed = self.listing(account)
            self.assertEqual(listed, want[:len(listed)])
        self.assertEqual(len(listed), 32 * 4)
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (128, 22))
        self.assertEqual(self.listing(account), want)
        [[msgs, octets]] = self.fleet.sql(
            "SELECT b.msgs, b.octets FROM mailbox b JOIN account c USING (mailbox_id) "
            f"WHERE c.addr = '{account.address}'")
        self.assertEqual((int(msgs), int(octets)), (150, sum(size for _, size, _ in want)))

    def test_a_commit_whose_answer_is_lost(self):
        """What is in the mailbox is not added again, and its file is not given to the reaper."""
        account = self.account("uncertain")
        path, want = self.dovecot("uncertain", 5)
        self.importing(f"maildir:{path}", account.address, "--yes")
        box = self.box(account)
        again = ("SELECT import({0}, 1, array_agg(blob_id ORDER BY seq), array_agg(volume_id::bigint), "
                 "array_agg(size::bigint), array_agg(skip::bigint), array_agg(uidl ORDER BY seq), "
                 "array_agg('00000000-0000-0000-0000-000000000000'::uuid), array_agg(handle), 0, 0) "
                 "FROM message WHERE mailbox_id = {0}").format(box)
        self.assertEqual(self.fleet.sql(again), [["6"]])
        self.assertEqual(self.fleet.sql(f"SELECT count(*) FROM ledger WHERE mailbox_id = {box}"),
                         [["0"]])
        # The same UIDLs in other files: those go to the ledger.
        others = again.replace("array_agg(blob_id ORDER BY seq)", "array_agg(gen_random_uuid())")
        self.assertEqual(self.fleet.sql(others), [["6"]])
        self.assertEqual(self.fleet.sql(
            f"SELECT by_whom, count(*) FROM ledger WHERE mailbox_id = {box} GROUP BY 1"),
            [["imported already", "5"]])
        self.assertEqual(self.listing(account), want)

        # One was deleted meanwhile, and perhaps its file has gone, too.
        with self.pop3(account) as pop3:
            pop3.ok("DELE 2")
            pop3.quit()
        moved = others.replace("FROM message", "FROM (SELECT * FROM message UNION ALL SELECT "
                               "mailbox_id, seq, blob_id, size, skip, volume_id, shared, uidl, "
                               "handle FROM ledger WHERE seq > 0) m")
        self.assertEqual(self.fleet.sql(moved), [["6"]])
        self.fleet.sql(
            "WITH gone AS (DELETE FROM ledger WHERE seq > 0 RETURNING *) INSERT INTO ledger_past "
            "SELECT mailbox_id, blob_id, seq, size, volume_id, uidl, deleted_at, by_whom, now() FROM gone")
        self.assertEqual(self.fleet.sql(moved.replace("skip, volume_id, shared, uidl, handle FROM ledger",
                                                      "0, volume_id, false, uidl, '' FROM ledger_past")),
                         [["6"]])
        self.assertEqual(self.listing(account), [want[0], *want[2:]])

    def test_two_at_once(self):
        """Each finds in the mailbox what the other has brought since it looked."""
        account = self.account("at-once")
        path, want = self.dovecot("at-once", 150)
        self.own(self.old)
        with ThreadPoolExecutor() as pool:
            slow, fast = (pool.submit(self.run_admin, "import", f"maildir:{path}", account.address,
                                      "--yes", "--rate", rate) for rate in ("75", "1000"))
        for done in slow.result(), fast.result():
            self.assertEqual(done.returncode, EX_OK, done.stderr)
        self.assertEqual(self.listing(account), want)

    def test_a_volume_that_is_closed_meanwhile(self):
        """Nothing is listed on it any more; what was refused for that comes with the next run, and so
        does what comes later in this one, on another volume."""
        folder = self.fleet.state / "spool" / "other"
        self.fleet.make_dir(folder, self.fleet.user, 0o750)
        self.fleet.admin("volume", "add", f"file://{folder}", "--weight", "0")
        self.addCleanup(self.fleet.admin, "volume", "set", "1", "--state", "active")
        accounts = [self.account(f"closed{n:02}") for n in range(20)]
        want = {account.address: self.dovecot(account.address, 10)[1] for account in accounts}
        words = f"maildir:{self.old}/%a", "--list", "-", "--yes", "--jobs", "1"
        addresses = "".join(f"{account.address}\n" for account in accounts)

        def on_volumes(*accounts):
            return {int(volume) for volume, in self.fleet.sql(
                "SELECT DISTINCT m.volume_id FROM message m JOIN account c USING (mailbox_id) "
                f"WHERE c.addr IN ({', '.join(repr(account.address) for account in accounts)})")}

        # It knows of the change some seconds later, and has half of them to come then.
        self.own(self.old)
        process = self.popen_admin("import", *words, "--rate", "20", "--json",
                                   env={"MAILFLEET_FAULT": "import_committed=stop"})
        self.addCleanup(process.kill)
        process.stdin.write(addresses)
        process.stdin.close()
        process.stdin = None
        os.waitpid(process.pid, os.WUNTRACED)
        self.assertEqual(on_volumes(accounts[0]), {1})
        self.fleet.admin("volume", "set", "2", "--weight", "100")
        self.fleet.admin("volume", "set", "1", "--state", "readonly")
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=100)
        self.assertEqual(process.returncode, EX_TEMPFAIL, err)
        first = json.loads(out)
        refused = [n for n, row in enumerate(first) if row["error"]]
        self.assertEqual({first[n]["error"] for n in refused},
                         {"pointers: volume 1 takes no new mail any more"})
        self.assertEqual({first[n]["taken"] for n in refused}, {0})
        self.assertLess(refused[-1], len(accounts) - 1)
        self.assertEqual(on_volumes(*accounts[refused[-1] + 1:]), {2})
        # Their files are not orphans, which adopt would give back beside those of the next run.
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM ledger "
                                        "WHERE by_whom = 'import given up' AND mailbox_id >= "
                                        f"{self.box(accounts[0])}"),
                         [[str(10 * len(refused))]])
        self.importing(*words, stdin=addresses)
        for account in accounts[0], accounts[refused[0]], accounts[-1]:
            self.assertEqual(self.listing(account), want[account.address])
        self.assertEqual(on_volumes(*(accounts[n] for n in refused)), {2})

    def test_what_was_deleted_long_ago(self):
        """Its file and its row in the ledger have gone; that it was here is known still."""
        account = self.account("past")
        path, want = self.dovecot("past", 3)
        box = self.box(account)
        self.fleet.sql(
            "INSERT INTO ledger_past (mailbox_id, blob_id, seq, size, volume_id, uidl, deleted_at, "
            f"by_whom, unlinked_at) VALUES ({box}, gen_random_uuid(), 7, 1, 1, '{uid_uidl(2)}', "
            "now(), 'a test', now())")
        [row] = self.importing(f"maildir:{path}", account.address, "--yes")
        self.assertEqual((row["known"], row["taken"]), (1, 2))
        self.assertEqual(self.listing(account), [want[0], want[2]])

    def rows_read(self):
        """Rows of message that were read, by whatever way."""
        [[rows]] = self.fleet.sql(
            "SELECT seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes "
            "WHERE relname = 'message')::bigint FROM pg_stat_user_tables WHERE relname = 'message'")
        return int(rows)

    def importing_counted(self, path, account):
        """The report, and how many rows of message the command has read."""
        before = self.rows_read()
        [row] = self.importing(f"maildir:{path}", account.address, "--yes",
                               env={"PGAPPNAME": "counted"})
        self.eventually(60, lambda: self.assertEqual(self.fleet.sql(  # they tell at their end
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted'"), [["0"]]))
        return row, self.rows_read() - before

    def test_a_big_mailbox_and_its_limits(self):
        """Limits do not stop an import; a delivery finds the mailbox full then. No batch reads the
        whole mailbox."""
        account = self.account("big", "--quota-messages", "10")
        path, want = self.dovecot("big", 3000)
        row, rows = self.importing_counted(path, account)
        self.assertEqual(row["taken"], 3000)
        self.assertLess(rows, 5 * 3000)
        row, rows = self.importing_counted(path, account)
        self.assertEqual((row["known"], row["taken"]), (3000, 0))
        self.assertLess(rows, 5 * 3000)
        with self.pop3(account) as pop3:
            self.assertEqual(list(pop3.uidl().values()), [uidl for uidl, _, _ in want])
            self.assertEqual(list(pop3.list().values()), [size for _, size, _ in want])
            pop3.quit()
        with self.assertRaises(harness.Refused):
            self.deliver(message(0), account)

    def test_what_is_wrong(self):
        account = self.account("wrong")
        for words, code in (
                (("maildir:/nowhere", "nobody@" + harness.DOMAIN), EX_TEMPFAIL),
                (("ftp://there", account.address), EX_DATAERR),
                (("maildir:/nowhere/%x", account.address), EX_DATAERR),
                (("maildir:/nowhere",), EX_USAGE),
                (("maildir:/nowhere", account.address, "--jobs", "0"), EX_DATAERR),
                (("maildir:/nowhere", account.address, "--list", "-"), EX_USAGE)):
            self.importing(*words, code=code)
        path, _ = self.dovecot("wrong", 1)
        self.importing(f"maildir:{path}", "nobody@" + harness.DOMAIN, code=EX_NOUSER)
        removed = self.account("removed")
        self.fleet.admin("account", "remove", removed.address, "--yes")
        [row] = self.importing(f"maildir:{path}", removed.address, "--yes", code=EX_NOUSER)
        self.assertIn("account restore", row["error"])
        self.assertEqual(self.fleet.sql(f"SELECT msgs FROM mailbox WHERE mailbox_id = "
                                        f"{self.box(removed)}"), [["0"]])
        (path / "dovecot-uidlist").write_text("3 V1 N1\n2 :b\n1 :a\n")
        self.importing(f"maildir:{path}", account.address, code=EX_TEMPFAIL)
        (path / "dovecot-uidlist").unlink()
        [row] = self.importing(f"maildir:{path}", account.address, "--format", "frob",
                               code=EX_DATAERR)
        self.assertIn("--format frob", row["error"])
        said = self.importing("pop3://old.test", account.address, "--format", "%f", code=EX_USAGE)
        self.assertIn("--format is for files", said)
        [row] = self.importing(f"maildir:{path}", account.address, "--format", "%f")
        self.assertEqual(row["new"], 1)

    # --- out again --------------------------------------------------------------------------------

    def exported(self, *words, code=EX_OK):
        done = self.run_admin("export", *words, "--json")
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def test_out_and_in_again(self):
        """Random messages: what comes back is what went out, with its UIDL and its date."""
        account, back = self.account("out"), self.account("back")
        for octets in [m for m in some_messages(7, 40) if m]:
            self.deliver(octets, account)
        self.deliver(b"Subject: from\r\n\r\nFrom me\r\n>From you\r\nFrom x Thu Jan  2 03:04:05 2020\r\n",
                     account)
        before = self.listing(account)
        maildir, mbox = self.old / "maildir", self.old / "out.mbox"
        record = self.exported(account.address, f"maildir:{maildir}")
        self.assertEqual((record["messages"], record["octets"], record["failed"]),
                         (len(before), sum(size for _, size, _ in before), 0))
        for _, size, octets in before:
            files = [f for f in (maildir / "cur").iterdir() if f",W={size}:2," in f.name]
            self.assertIn(octets.replace(b"\r\n", b"\n"), [f.read_bytes() for f in files])
        self.importing(f"maildir:{maildir}", back.address, "--yes")
        self.assertEqual(self.listing(back), before)
        self.assertEqual([when[:16] for when in self.received(back)],
                         [when[:16] for when in self.received(account)])
        [row] = self.importing(f"maildir:{maildir}", account.address, "--yes")  # its own mail
        self.assertEqual((row["known"], row["new"]), (len(before), 0))

        self.exported(account.address, mbox, "--format", "mbox")
        other = self.account("frommbox")
        self.importing(f"mbox:{mbox}", other.address, "--yes", "--format", "mboxrd")
        self.assertEqual([rest for _, *rest in self.listing(other)],
                         [rest for _, *rest in before])
        for target in f"maildir:{maildir}", f"mbox:{mbox}", "/nowhere/at/all":
            self.exported(account.address, target, code=EX_CANTCREAT
                          if ":" in target else EX_USAGE)

    def test_a_missing_file_is_told(self):
        account = self.account("missing")
        for n in range(3):
            self.deliver(message(n), account)
        files = {f.name: f for f in self.spool_files()}
        uidl = self.listing(account)[1][0]
        files[uidl].unlink()
        done = self.run_admin("export", account.address, f"maildir:{self.old}/missing", "--json")
        self.assertEqual(done.returncode, EX_TEMPFAIL, done.stderr)
        self.assertIn(uidl, done.stderr)
        self.assertEqual(json.loads(done.stdout)["messages"], 2)


if __name__ == "__main__":
    harness.main()
