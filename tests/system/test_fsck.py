#!/usr/bin/python3 -B
"""mailfleet fsck: each class of what can be wrong, made by hand, is told once and as what it is, and
nothing else is, also while mail flows; a run that was killed goes on where it was."""

import contextlib
import datetime
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
from os import EX_DATAERR, EX_IOERR, EX_NOUSER, EX_OK

import harness
from mail import Refused
from stored import id_number, id_text, uuid_of

SIGKILLED = -9
DAY_MS = 86_400_000
BITS = {"orphan": 1, "missing": 2, "wrong-size": 4, "wrong-hash": 8, "unreadable": 8,
        "wrong-volume": 16, "foreign": 32, "unfinished": 0, "garbage": 0}


class FsckTest(harness.FleetTest):
    time_limit = 180

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.add_volumes()

    @classmethod
    def add_volumes(cls):
        pass

    def setUp(self):
        """Each test begins with a fleet in which all is well."""
        self.run_fsck("--older", "0s")
        self.assertEqual(self.found(), [])

    def tearDown(self):
        """The disk becomes what the database says, and both become empty."""
        self.fleet.sql("DELETE FROM message; DELETE FROM ledger; DELETE FROM blob_shared;"
                       "UPDATE mailbox SET msgs = 0, octets = 0, version = version + 1")
        for root in self.fleet.spools:
            for path in root.iterdir():
                if re.fullmatch(r"20\d\d(0\d|1[0-2])[0-3]\d", path.name) and path.is_dir():
                    for leaf in path.iterdir():
                        self.remove(leaf, re.fullmatch("[0-9a-f]{2}", leaf.name))
                elif path.name != ".mailfleet-volume":
                    self.remove(path)

    def remove(self, path, but_itself=False):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
        elif but_itself:
            for below in path.iterdir():
                self.remove(below)
        else:
            shutil.rmtree(path)

    # --- running it -----------------------------------------------------------------------------

    def popen(self, *words, fault=None):
        command = [self.fleet.admin_program, "--config", self.fleet.config, "fsck", "--json",
                   *words]
        return subprocess.Popen(
            [str(word) for word in command], cwd="/", text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
            env={**self.fleet.env, **({"MAILFLEET_FAULT": fault} if fault else {})},
            **self.fleet.run_as(self.fleet.user))

    def run_fsck(self, *words, fault=None):
        return self.take(self.popen(*words, fault=fault))

    def take(self, process):
        out, err = process.communicate(timeout=100)
        self.done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        lines = [json.loads(line) for line in self.done.stdout.splitlines()]
        self.findings = [line for line in lines if "class" in line]
        self.totals = lines[-1] if lines and "files" in lines[-1] else None
        return self.done.returncode

    def found(self, *keys):
        """What was found, in some order: classes with their paths and these."""
        return sorted(tuple(f[key] for key in ("class", "path", *keys)) for f in self.findings)

    def tells(self, expected, *words):
        """These and no others, by class and (volume, path); the status has their bits."""
        code = self.run_fsck("--older", "0s", *words)
        self.assertEqual(sorted((f["class"], f["volume"], f["path"]) for f in self.findings),
                         sorted(expected), self.done.stderr)
        classes = {name for name, *_ in expected}
        self.assertEqual(code, sum({BITS[name] for name in classes}), self.done.stderr)
        for name in BITS:
            if name != "garbage":
                self.assertEqual(self.totals[name], sum(1 for e in expected if e[0] == name))

    # --- making files ---------------------------------------------------------------------------

    def root(self, volume):
        return self.fleet.spools[volume - 1]

    def place(self, path):
        """(volume, path below it)"""
        for number, root in enumerate(self.fleet.spools, 1):
            if path.is_relative_to(root):
                return number, str(path.relative_to(root))
        raise AssertionError(f"{path} is on no volume")

    def own(self, path):
        if os.geteuid() == 0:
            user = pwd.getpwnam(self.fleet.user)
            os.chown(path, user.pw_uid, user.pw_gid)

    def make_dirs(self, path):
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir(0o750)
                self.own(folder)

    def write(self, path, octets):
        self.make_dirs(path.parent)
        path.write_bytes(octets)
        path.chmod(0o640)
        self.own(path)
        return path

    @staticmethod
    def path_of(number):
        day = datetime.datetime.fromtimestamp((number >> 80) / 1000, datetime.timezone.utc)
        return f"{day:%Y%m%d}/{number >> 72 & 0xff:02x}/{id_text(number)}"

    def make_file(self, volume, to, body=b"Subject: x\r\n\r\nx\r\n", ms=None, random=None,
                  complete=True):
        """A message file that no row names; its id is of this time. to: (mailbox id, address)."""
        ms = int(time.time() * 1000) if ms is None else ms
        number = ms << 80 | (int.from_bytes(os.urandom(10), "big") if random is None else random)
        stamp = datetime.datetime.fromtimestamp(ms // 1000, datetime.timezone.utc)
        size, digest = (f"{len(body):020}", hashlib.sha256(body).hexdigest()) if complete else \
            ("-" * 20, "-" * 64)
        block = "".join([f"mailfleet 1\nid: {id_text(number)}\n",
                         f"time: {stamp:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z\nfrom: <>\n",
                         *(f"to: {box} {address}\n" for box, address in to),
                         f"size: {size}\nsha256: {digest}\n\n"]).encode()
        return self.write(self.root(volume) / self.path_of(number), block + body)

    def mailbox_id(self, account):
        return int(self.fleet.sql("SELECT mailbox_id FROM address "
                                  f"WHERE addr = '{account.address}'")[0][0])

    def delivered(self, *accounts, body=b"Subject: hello\r\n\r\nhello\r\n"):
        """The file of a message that is delivered now."""
        before = set(self.spool_files())
        self.deliver(body, *accounts)
        path, = set(self.spool_files()) - before
        return path

    def forget(self, path):
        """Every pointer to it."""
        self.fleet.sql(f"DELETE FROM message WHERE blob_id = '{uuid_of(path.name)}'")

    def delete(self, account):
        """The way of POP3, all of it."""
        with self.pop3(account) as pop3:
            for number in pop3.list():
                pop3.ok(f"DELE {number}")
            pop3.quit()


class Classes:
    """On whatever volumes there are: the first two of them."""

    def accounts(self):
        name = self._testMethodName
        return self.account(f"{name}.a"), self.account(f"{name}.b")

    def test_a_right_fleet(self):
        a, b = self.accounts()
        for _ in range(3):
            self.deliver(b"Subject: x\r\n\r\nx\r\n", a)
        self.deliver(b"Subject: both\r\n\r\nx\r\n", a, b)
        self.tells([])
        self.assertEqual((self.totals["files"], self.totals["pointers"], self.totals["garbage"]),
                         (4, 5, 0))
        self.assertEqual(self.totals["octets"],
                         sum(path.stat().st_size for path in self.spool_files()))
        self.tells([], "--deep")

    def test_orphan(self):
        a, b = self.accounts()
        path = self.delivered(a, b)
        self.delivered(a)
        self.forget(path)
        self.tells([("orphan", *self.place(path))])
        finding, = self.findings
        self.assertEqual((finding["id"], finding["octets"]), (path.name, path.stat().st_size))
        self.assertEqual(finding["to"], f"{a.address} {b.address}")
        self.assertEqual(self.run_fsck(), EX_OK)  # it may be a delivery under way
        self.assertEqual(self.findings, [])

    def test_missing(self):
        a, b = self.accounts()
        one, both = self.delivered(a), self.delivered(a, b)
        self.delivered(b)
        one.unlink()
        both.unlink()
        self.tells([("missing", *self.place(path)) for path in (one, both, both)])
        self.assertEqual(sorted(f["mailbox"] for f in self.findings),
                         sorted([self.mailbox_id(a)] * 2 + [self.mailbox_id(b)]))

    def test_missing_with_its_directories(self):
        a, _ = self.accounts()
        leaf, day = self.delivered(a), self.delivered(a)
        box = self.mailbox_id(a)
        places = [("missing", *self.place(leaf))]
        shutil.rmtree(leaf.parent)
        if not day.exists():
            places.append(("missing", *self.place(day)))
        old = 1_500_000_000_000 << 80 | 7
        self.fleet.sql("INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, "
                       f"shared) VALUES ({box}, 1000, '{old:032x}', 1, 1, 1, false)")
        self.tells([*places, ("missing", 1, self.path_of(old))])
        self.make_dirs(leaf.parent)

    def test_missing_on_a_volume_that_is_none(self):
        a, _ = self.accounts()
        path = self.delivered(a)
        self.fleet.sql("UPDATE message SET volume_id = 77")
        number, below = self.place(path)
        self.tells([("wrong-volume", number, below)])
        path.unlink()
        self.tells([("missing", 77, below)])

    def test_wrong_size(self):
        a, b = self.accounts()
        short, long = self.delivered(a), self.delivered(a, b)
        self.delivered(a)
        with open(short, "r+b") as file:
            file.truncate(short.stat().st_size - 1)
        with open(long, "ab") as file:
            file.write(b"x")
        self.tells([("wrong-size", *self.place(path)) for path in (short, long, long)])

    def test_wrong_hash(self):
        a, b = self.accounts()
        body, both, envelope = self.delivered(a), self.delivered(a, b), self.delivered(a)
        orphan = self.delivered(a)
        self.forget(orphan)
        for path in body, both, orphan:
            octets = bytearray(path.read_bytes())
            octets[-3] ^= 1
            path.write_bytes(octets)
        envelope.write_bytes(envelope.read_bytes().replace(b"sha256: ", b"sha257: "))
        self.tells([("orphan", *self.place(orphan))])
        self.tells([("wrong-hash", *self.place(path)) for path in (body, both, envelope, orphan)],
                   "--deep")

    def test_wrong_volume(self):
        a, b = self.accounts()
        path = self.delivered(a, b)
        number, below = self.place(path)
        other = 3 - number
        self.make_dirs((self.root(other) / below).parent)
        shutil.move(path, self.root(other) / below)
        for words in [], ["--volume", other]:
            expected = 1 if words else 2  # a finding a pointer; or one of the file
            self.tells([("wrong-volume", other, below)] * expected, *words)
            self.assertEqual({f["pointer_volume"] for f in self.findings}, {number})
        self.tells([("wrong-volume", other, below)] * 2, "--volume", str(number))

    def test_a_copy_that_was_begun(self):
        a, _ = self.accounts()
        path = self.delivered(a)
        number, below = self.place(path)
        copy = self.root(3 - number) / below
        self.write(copy, path.read_bytes())
        self.tells([("unfinished", 3 - number, below)])

    def test_foreign(self):
        a, _ = self.accounts()
        path = self.delivered(a)
        leaf, day, root = path.parent, path.parent.parent, path.parent.parent.parent
        elsewhere = next(p for p in sorted(day.iterdir()) if p != leaf) / path.name
        other_day = root / "20200101" / leaf.name / path.name
        strange = [self.write(p, b"x") for p in (
            root / "notes", day / "notes", leaf / "notes", leaf / "b\N{SNOWMAN}", elsewhere,
            other_day, leaf / id_text(int(time.time() * 1000) << 80).upper())]
        folders = [root / "mailbox", root / "20201332", day / "zz", day / "abc", leaf / "folder"]
        for folder in folders:
            folder.mkdir()
        (leaf / "link").symlink_to(path)
        self.make_dirs(root / "lost+found")
        self.tells([("foreign", *self.place(p)) for p in [*strange, *folders, leaf / "link"]])

    def test_a_file_that_is_none_of_ours_by_a_name_of_ours(self):
        a, _ = self.accounts()
        box = [(self.mailbox_id(a), a.address)]
        path = self.make_file(1, box)
        path.write_bytes(b"hello\n\nworld\n")
        other = self.make_file(1, box)
        other.write_bytes(self.make_file(1, box, ms=1_600_000_000_000).read_bytes())
        old = self.path_of(id_number(sorted(self.spool_files())[0].name))
        self.tells([("foreign", *self.place(path)), ("foreign", *self.place(other)),
                    ("orphan", 1, old)])

    def test_unfinished(self):
        a, _ = self.accounts()
        box = [(self.mailbox_id(a), a.address)]
        dashes = self.make_file(1, box, complete=False)
        empty, cut, zeros, short = (self.make_file(1, box) for _ in range(4))
        empty.write_bytes(b"")
        cut.write_bytes(cut.read_bytes()[:80])
        zeros.write_bytes(b"\0" * 4096)
        short.write_bytes(short.read_bytes()[:-1])
        self.tells([("unfinished", *self.place(p)) for p in (dashes, empty, cut, zeros, short)])
        self.tells([("unfinished", *self.place(p)) for p in (dashes, empty, cut, zeros, short)],
                   "--deep")

    def test_garbage(self):
        a, b = self.accounts()
        single, shared = self.delivered(a), self.delivered(a, b)
        half = self.delivered(a, b)
        self.delete(a)
        self.fleet.sql(f"DELETE FROM message WHERE blob_id = '{uuid_of(shared.name)}'; "
                       f"DELETE FROM ledger WHERE blob_id = '{uuid_of(shared.name)}'; "
                       f"UPDATE blob_shared SET refs = 0 WHERE blob_id = '{uuid_of(shared.name)}'")
        self.tells([])
        self.assertEqual((self.totals["garbage"], self.totals["files"]), (2, 3))
        self.tells([("garbage", *self.place(path)) for path in (single, shared)], "--all")
        self.assertTrue(half.exists())
        drained = self.make_file(1, [(self.mailbox_id(b), b.address)])
        self.fleet.sql(
            "INSERT INTO ledger (mailbox_id, blob_id, seq, size, skip, volume_id, shared, "
            f"deleted_at, unlink_after, by_whom) VALUES (0, '{uuid_of(drained.name)}', 1, 1, 1, 1, "
            "false, now(), now() + interval '1 day', 'operator x: drain')")
        self.tells([])
        self.assertEqual(self.totals["garbage"], 3)

    def test_since(self):
        a, _ = self.accounts()
        box = [(self.mailbox_id(a), a.address)]
        now = int(time.time() * 1000)
        old, young = (self.make_file(1, box, ms=now - days * DAY_MS) for days in (40, 3))
        expected = [("orphan", *self.place(path)) for path in (old, young)]
        self.tells(expected)
        self.tells(expected[1:], "--since", "10d")
        day = datetime.datetime.fromtimestamp(now / 1000, datetime.timezone.utc).date()
        self.tells(expected[1:], "--since", str(day - datetime.timedelta(days=3)))
        self.tells(expected[1:], "--since", f"{day - datetime.timedelta(days=3)}T23:59Z")
        self.tells([], "--since", "1d")
        self.assertEqual(self.totals["files"], 0)

    def test_much_in_parallel(self):
        """Many directories, days and pointers, more rows than workers hold at once."""
        a, _ = self.accounts()
        box = self.mailbox_id(a)
        now = int(time.time() * 1000)
        expected = []
        for n in range(150):
            path = self.make_file(1 + n % 2, [(box, a.address)], ms=now - n % 7 * DAY_MS,
                                  random=(n * 37 % 256) << 72 | n)
            volume, below = self.place(path)
            if n % 3:
                size = len(b"Subject: x\r\n\r\nx\r\n")
                self.fleet.sql(
                    "INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)"
                    f" VALUES ({box}, {n + 1000}, '{uuid_of(path.name)}', {size}, "
                    f"{path.stat().st_size - size}, {volume}, false)")
            if n % 3 == 0:
                expected.append(("orphan", volume, below))
            elif n % 3 == 1:
                path.unlink()
                expected.append(("missing", volume, below))
        for jobs in "1", "9":
            self.tells(expected, "--jobs", jobs)
        places = [(f["volume"], f["path"]) for f in self.findings]
        self.assertEqual(places, sorted(places))  # in the order of the disk
        self.check_resume(expected)

    def check_resume(self, expected):
        """Killed three times, it tells the same as one run, and its totals are those of one."""
        whole = self.totals
        note = self.fleet.state / "note"
        note.mkdir(mode=0o700)
        self.own(note)
        words = ["--older", "0s", "--resume", note / "file"]
        told = set()
        for directories in 1, whole["directories"] // 4, whole["directories"] // 4:
            self.assertEqual(self.run_fsck(*words, fault=f"fsck_directory:{directories}=kill"),
                             SIGKILLED)
            told |= {(f["class"], f["volume"], f["path"]) for f in self.findings}
        self.assertLess(len(told), len(expected))
        before = (note / "file").read_bytes()
        for other in ["--deep"], ["--volume", "1"], ["--since", "2d"], ["--all"]:
            self.assertEqual(self.run_fsck(*words, *other), EX_DATAERR)
            self.assertIn("of another question", self.done.stderr)
        self.assertEqual((note / "file").read_bytes(), before)
        self.assertEqual(self.run_fsck(*words), BITS["orphan"] + BITS["missing"])
        last = {(f["class"], f["volume"], f["path"]) for f in self.findings}
        self.assertLess(len(last), len(expected))
        self.assertEqual(sorted(told | last), sorted(expected))
        self.assertEqual(self.totals, whole)
        self.assertEqual(list(note.iterdir()), [])

    def test_what_changes_between_the_two_looks(self):
        """The database was read, the disk not yet, when a message is deleted and unlinked, one is
        given back, one is moved, and one comes."""
        a, b = self.accounts()
        deleted, moved, back = (self.delivered(a, b) for _ in range(3))
        self.forget(back)
        process = self.popen("--older", "0s", fault="fsck_snapshot=stop")
        os.waitpid(process.pid, os.WUNTRACED)
        stopped = time.monotonic()
        number, below = self.place(moved)
        other = self.root(3 - number) / below
        self.make_dirs(other.parent)
        shutil.move(moved, other)
        self.fleet.sql(f"UPDATE message SET volume_id = {3 - number} "
                       f"WHERE blob_id = '{uuid_of(moved.name)}'")
        self.fleet.sql(f"DELETE FROM message WHERE blob_id = '{uuid_of(deleted.name)}'")
        deleted.unlink()
        self.fleet.sql("INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, "
                       f"shared) VALUES ({self.mailbox_id(a)}, 1000, '{uuid_of(back.name)}', 1, 1, "
                       f"{self.place(back)[0]}, true)")
        self.delivered(b)
        # Longer than database.timeout: the asking again has a deadline of its own all the same.
        self.eventually(10, lambda: self.assertGreater(time.monotonic(), stopped + 4))
        process.send_signal(signal.SIGCONT)
        self.take(process)
        self.assertEqual((self.found(), self.done.returncode), ([], EX_OK), self.done.stderr)
        self.assertEqual(self.totals["files"], 3)

    def test_while_mail_flows(self):
        """Neither what is delivered nor what is deleted and unlinked meanwhile is told."""
        a, b = self.accounts()
        lost = self.delivered(a)
        lost.unlink()
        orphan = self.delivered(a)
        self.forget(orphan)
        second = int(time.time())
        self.eventually(5, lambda: self.assertGreater(int(time.time()), second))
        older = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        stop = threading.Event()
        sent = []

        def send():
            while not stop.is_set():
                with contextlib.suppress(Refused):
                    self.deliver(b"Subject: flow\r\n\r\nx\r\n", b)
                    sent.append(1)

        def delete():
            while not stop.is_set():
                with contextlib.suppress(Refused):
                    self.delete(b)
                self.fleet.admin("reap", "--yes")

        threads = [threading.Thread(target=work) for work in (send, delete)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                self.run_fsck("--older", older)
                self.assertEqual(sorted((f["class"], f["path"]) for f in self.findings),
                                 sorted([("missing", self.place(lost)[1]),
                                         ("orphan", self.place(orphan)[1])]), self.done.stderr)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertGreater(len(sent), 0)


class OnDirectories(Classes, FsckTest):
    settings = {"spool.grace": "0s", "reap.fuse": "0"}

    @classmethod
    def add_volumes(cls):
        second = cls.fleet.state / "spool" / "v2"
        cls.fleet.admin("volume", "add", f"file://{second}")
        cls.fleet.spools = [cls.fleet.spool, second]

    def test_a_volume_that_is_not_there(self):
        """Its files are not told as missing."""
        a, _ = self.accounts()
        self.delivered(a)
        sentinel = self.root(2) / ".mailfleet-volume"
        away = sentinel.rename(sentinel.with_name("away"))
        code = self.run_fsck("--older", "0s")
        away.rename(sentinel)
        self.assertEqual(code, EX_IOERR)
        self.assertIn("volume 2: .mailfleet-volume", self.done.stderr)
        self.assertEqual(self.findings, [])
        self.assertIsNone(self.totals)

    def test_files_that_can_not_be_read(self):
        """They are told, and keep nothing else from being looked at."""
        a, b = self.accounts()
        one, both, orphan, damaged = (self.delivered(*to) for to in ((a,), (a, b), (a,), (a,)))
        self.forget(orphan)
        damaged.write_bytes(damaged.read_bytes()[:-3] + b"x\r\n")
        for path in one, both, orphan:
            path.chmod(0)
        expected = [("unreadable", *self.place(path)) for path in (one, both, orphan)]
        self.tells(expected[2:])
        self.tells([*expected, ("wrong-hash", *self.place(damaged))], "--deep")
        for path in one, both, orphan:
            path.chmod(0o640)
        self.tells([("orphan", *self.place(orphan)), ("wrong-hash", *self.place(damaged))],
                   "--deep")

    def test_a_directory_that_can_not_be_read(self):
        a, _ = self.accounts()
        path = self.delivered(a)
        path.parent.chmod(0)
        code = self.run_fsck("--older", "0s")
        path.parent.chmod(0o750)
        self.assertEqual(code, EX_IOERR)
        self.assertIn("could not be read", self.done.stderr)
        self.assertNotIn("missing", [f["class"] for f in self.findings])

    def test_a_directory_that_lies_elsewhere(self):
        """A link is told, and not followed; what it leads to is not missing."""
        a, _ = self.accounts()
        path = self.delivered(a)
        number, below = self.place(path)
        moved = path.parent.rename(path.parent.with_name("moved"))
        path.parent.symlink_to(moved)
        day = below.split("/")[0]
        self.tells([("foreign", number, f"{day}/moved"),
                    ("foreign", number, f"{day}/{path.parent.name}")])
        path.parent.unlink()
        moved.rename(path.parent)

    def test_bad_words(self):
        for words, code, says in ((["--volume", "9"], EX_NOUSER, "no such volume"),
                                  (["--volume", "x"], EX_DATAERR, "a number"),
                                  (["--since", "yesterday"], EX_DATAERR, "not a time"),
                                  (["--resume", "/dev/null/x"], EX_DATAERR, "/dev/null/x")):
            self.assertEqual(self.run_fsck(*words), code, words)
            self.assertIn(says, self.done.stderr)
            self.assertEqual(self.done.stdout, "")

    def test_lines_for_people(self):
        a, _ = self.accounts()
        path = self.delivered(a)
        self.forget(path)
        done = subprocess.run(
            [self.fleet.admin_program, "--config", self.fleet.config, "fsck", "--older", "0s",
             "--rate", "1000"], cwd="/", text=True, capture_output=True, check=False, timeout=60,
            **self.fleet.run_as(self.fleet.user))
        self.assertEqual(done.returncode, BITS["orphan"])
        self.assertRegex(done.stdout, rf"(?m)^orphan +volume \d .*{path.name} .*to {a.address}$")
        self.assertRegex(done.stdout, r"(?m)^Files: +1$")
        self.assertRegex(done.stdout, r"(?m)^orphan: +1$")
        self.assertIn("1 files", done.stderr)


class OnAnNfsServer(Classes, FsckTest):
    settings = {"spool.grace": "0s", "reap.fuse": "0"}
    nas = 2


del FsckTest  # it has no tests of its own

if __name__ == "__main__":
    harness.main()
