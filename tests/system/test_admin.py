#!/usr/bin/python3 -B
"""The operator's command: what it makes, what it refuses, what it says, and that a change is in
force on every node when it ends. Its JSON has the keys that mailfleet(8) promises."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import pty
import pwd
import re
import signal
import subprocess
from os import EX_CANTCREAT, EX_CONFIG, EX_DATAERR, EX_IOERR, EX_NOHOST, EX_NOUSER, EX_OK, \
    EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE

import harness
from commands import CommandTest
from harness import DOMAIN, Account
from mail import Refused, plain, without_trace

HELLO = b"Subject: hello\r\n\r\nhello\r\n"


class AdminTest(CommandTest):
    def config(self, name, **settings):
        """A configuration that differs from the fleet's in this."""
        path = self.fleet.state / "config" / f"{name}.conf"
        self.fleet.write_config(path, {key.replace("__", "."): value
                                       for key, value in settings.items()})
        return path

    def nodes_are_ready(self):
        """Again, after something was broken."""
        for node in self.fleet.delivery_nodes + self.fleet.front_ends:
            self.eventually(30, lambda: self.assertIsNone(node.probe()))


# --- setting up -----------------------------------------------------------------------------------


class Setup(AdminTest):
    def empty_database(self, name):
        self.fleet.sql(f"CREATE DATABASE {name} OWNER mailfleet", superuser=True,
                       database="postgres")
        return self.fleet.database_url.replace("/mailfleet?", f"/{name}?")

    def check(self, config=None):
        """what -> (ok, says); the exit status says whether all is well."""
        done = self.run_admin("check", "--json", config=config)
        rows = {row["what"]: (row["ok"], row["says"]) for row in json.loads(done.stdout)}
        self.assertEqual(done.returncode, EX_OK if all(ok for ok, _ in rows.values())
                         else EX_UNAVAILABLE)
        return rows

    def only_wrong(self, rows, *wrong):
        self.assertEqual({what for what, (ok, _) in rows.items() if not ok}, set(wrong))

    def test_init_and_migrate_may_be_repeated(self):
        key = self.fleet.state / "secret" / "new.key"
        config = self.config("new", database__url=self.empty_database("fresh"),
                             node__fleet_key_file=key)
        self.fails(EX_CONFIG, "run mailfleet migrate", "domain", "list", config=config)
        self.assertIn("would apply 001-init",
                      self.run_admin("migrate", "--dry-run", config=config).stderr)
        self.fails(EX_CONFIG, "run mailfleet migrate", "domain", "list", config=config)
        self.ok("init", config=config)
        text = key.read_text()
        self.assertRegex(text, r"^[0-9a-f]{64}\n$")
        self.assertEqual(key.stat().st_mode & 0o777, 0o640)
        self.ok("domain", "add", "kept.test", config=config)
        for word in "init", "migrate", "init":
            self.assertIn("up to date", self.run_admin(word, config=config).stderr)
        self.assertEqual(key.read_text(), text)
        self.assertEqual([d["name"] for d in self.json("domain", "list", config=config)],
                         ["kept.test"])

    def test_what_root_makes_the_daemons_can_use(self):
        folder = self.fleet.state / "made"
        folder.mkdir()
        config = self.config("made", database__url=self.empty_database("made"),
                             node__fleet_key_file=folder / "fleet.key", spool__roots=folder)
        self.ok("init", config=config, as_started=True)
        volume = folder / "volume"
        self.ok("volume", "add", f"file://{volume}", config=config, as_started=True)
        self.assertEqual({path.owner() for path in [volume, *volume.rglob("*")]},
                         {self.fleet.user})
        self.only_wrong(self.check(config))

    def test_two_migrations_at_once_are_one(self):
        config = self.config("race", database__url=self.empty_database("race"))
        both = [self.popen_admin("migrate", config=config) for _ in range(2)]
        codes = [process.wait(60) for process in both]
        for process in both:
            process.communicate()
        self.assertIn(EX_OK, codes)
        self.assertEqual(self.json("domain", "list", config=config), [])
        self.ok("migrate", config=config)

    def test_a_database_of_a_newer_version_is_left_alone(self):
        config = self.config("newer", database__url=self.empty_database("newer"))
        self.ok("migrate", config=config)
        self.fleet.sql("INSERT INTO schema_version (version, name) VALUES (999, 'later')",
                       database="newer")
        self.fails(EX_SOFTWARE, "version 999", "migrate", config=config)
        # What a newer version has added is no concern of this one, until it takes something away.
        self.assertTrue(self.check(config)["schema"][0])
        self.ok("domain", "list", config=config)
        self.fleet.sql("UPDATE schema_version SET contracted_at = now() WHERE version = 999",
                       database="newer")
        self.only_wrong(self.check(config), "schema", "volumes")
        self.fails(EX_CONFIG, "upgrade it", "domain", "list", config=config)
        states = {row["name"]: row["state"]
                  for row in self.json("migrate", "--status", config=config)}
        self.assertEqual(states, {"init": "applied", "later": "contracted"})

    def test_check_finds_all_well(self):
        rows = self.check()
        self.only_wrong(rows)
        self.assertEqual(
            set(rows), {"configuration", "fleet key", "quota", "tls", "auth.mechanisms", "database", "schema",
                        "volume 1", "reaping", "nodes", "backup",
                        f"cache 127.0.0.1:{self.fleet.ports.memcached}"})
        self.assertEqual(rows["quota"][1], "nobody is warned")
        warns = self.check(self.config("warns", quota__warn="90, 50"))
        self.assertEqual(warns["quota"][1], "warned at 2 thresholds")
        text = self.ok("check").splitlines()
        self.assertEqual(len(text), 1 + len(rows))
        self.assertTrue(all(line.startswith("yes") for line in text[1:]))

    def test_check_finds_what_is_broken_in_the_configuration(self):
        self.fails(EX_CONFIG, "No such file", "check", config="/nonexistent/mailfleet.conf")
        bad = self.config("bad", node__workers="many")
        self.fails(EX_CONFIG, f"{bad}:", "check", config=bad)
        self.only_wrong(self.check(self.config("key", node__fleet_key_file="/nonexistent")),
                        "fleet key")
        self.only_wrong(self.check(self.config("pem", tls__certificate=self.fleet.config)), "tls")
        rows = self.check(self.config("nodb", database__url="host=127.0.0.1 port=1"))
        self.only_wrong(rows, "database", "volumes")
        self.assertIn("refused", rows["database"][1])
        rows = self.check(self.config("schema", database__url=self.empty_database("hollow")))
        self.only_wrong(rows, "schema", "volumes")
        self.assertIn("run mailfleet migrate", rows["schema"][1])
        password = self.fleet.saved["database_password"]
        rows = self.check(self.config("password", database__url=self.fleet.database_url.replace(
            password, "wrong")))
        self.only_wrong(rows, "database", "volumes")
        self.assertIn("password", rows["database"][1])

    def test_check_finds_what_no_login_could_use(self):
        for mechanisms, wrong in (("plain, SCRAM-SHA-1", None), ("", None),
                                  ("PLAIN,CRAM-MD5", "CRAM-MD5 is not known"),
                                  ("PLAIN,XOAUTH2", "XOAUTH2 needs oauth."),
                                  ("EXTERNAL", "EXTERNAL needs tls.client_ca")):
            with self.subTest(mechanisms=mechanisms):
                rows = self.check(self.config("sasl", auth__mechanisms=mechanisms))
                self.only_wrong(rows, *(["auth.mechanisms"] if wrong else []))
                self.assertIn(wrong or "", rows["auth.mechanisms"][1])

    def test_check_finds_a_bad_certificate_among_several(self):
        folder = self.fleet.state / "sni"
        folder.mkdir()
        config = self.config("sni", tls__directory=folder)
        tls = self.fleet.state / "tls"
        (folder / "a.test.pem").write_text((tls / "node.pem").read_text() +
                                           (tls / "node.key").read_text())
        folder.chmod(0o755)
        (folder / "README").write_text("none of them\n")
        rows = self.check(config)
        self.only_wrong(rows)
        self.assertEqual(rows["tls.directory"][1], "1 certificates")
        (folder / "b.test.pem").write_text((tls / "node.pem").read_text())
        self.only_wrong(self.check(config), "tls.directory")
        self.only_wrong(self.check(self.config("nosni", tls__directory="/nonexistent")),
                        "tls.directory")

    def test_check_finds_a_volume_that_workers_can_not_open(self):
        spool = self.fleet.spool
        link = self.fleet.state / "link"  # what it leads to is not asked of a filer that may hang
        link.symlink_to(spool)
        beside = spool.with_name(spool.name[:-1])  # its name begins as the volume's
        beside.mkdir()
        for roots, good in ((spool, True), (f"/nonexistent, {spool.parent}", True), (link, False),
                            ("/", True), ("/nonexistent", False), (f"{spool}/below", False),
                            (beside, False), ("", False)):
            with self.subTest(roots=roots):
                rows = self.check(self.config("roots", spool__roots=roots))
                self.only_wrong(rows, *([] if good else ["volume 1"]))
        self.assertIn("spool.roots", rows["volume 1"][1])

    def test_check_finds_a_cache_server_that_is_down(self):
        memcached, cache = self.fleet["memcached"], f"cache 127.0.0.1:{self.fleet.ports.memcached}"
        self.addCleanup(memcached.up)
        memcached.kill()
        self.only_wrong(self.check(), cache)
        memcached.up()
        self.only_wrong(self.check())
        self.only_wrong(self.check(self.config("nowhere", cache__servers="127.0.0.1:1")),
                        "cache 127.0.0.1:1")

    def test_check_finds_a_database_that_is_down(self):
        self.addCleanup(self.nodes_are_ready)
        self.addCleanup(self.fleet["postgres"].up)
        self.fleet["postgres"].stop()
        self.only_wrong(self.check(), "database", "volumes")
        self.fails(EX_TEMPFAIL, "refused", "domain", "list")

    def test_check_finds_what_is_wrong_with_a_volume(self):
        sentinel = self.fleet.spool / ".mailfleet-volume"
        text = sentinel.read_text()
        self.addCleanup(sentinel.write_text, text)
        sentinel.write_text("00000000-0000-4000-8000-000000000000\n")
        rows = self.check()
        self.only_wrong(rows, "volume 1")
        self.assertIn("another volume", rows["volume 1"][1])
        sentinel.write_text(text)
        self.addCleanup(self.fleet.spool.chmod, 0o750)
        for mode in 0o550, 0:  # it can't be written; it can't be looked into
            self.fleet.spool.chmod(mode)
            self.only_wrong(self.check(), "volume 1")
        self.fleet.spool.chmod(0o750)
        self.nodes_are_ready()

    def test_settings_show_no_password(self):
        for url in (self.fleet.database_url,
                    "host=db1,db2 dbname=x user='o''neil' password='pass word\\'s'"
                    .replace("''", "\\'")):
            config = self.config("shown", database__url=url)
            shown = self.ok("settings", config=config) + self.ok("settings", "--json",
                                                                 config=config)
            self.assertNotIn(self.fleet.saved["database_password"], shown)
            self.assertNotIn("pass word", shown)
            self.assertIn("password='***'", shown)
        values = {(row["section"], row["key"]): row["value"]
                  for row in self.json("settings", config=config)}
        self.assertEqual(values["database", "url"],
                         r"user='o\'neil' password='***' dbname='x' host='db1,db2'")
        self.assertEqual(values["spool", "grace"], "14d")

    def test_the_example_shows_true_defaults(self):
        example = (harness.ROOT / "deploy/config/mailfleet.conf").read_text()
        whole = self.fleet.state / "config" / "example.conf"
        whole.write_text(re.sub("^#(?! )", "", example, flags=re.MULTILINE))
        rows = {(row["section"], row["key"]): row for row in self.json("settings", config=whole)}
        section = None
        for line in example.splitlines():
            if match := re.fullmatch(r"\[(\w+)\]", line):
                section = match[1]
            elif match := re.match(r"#(\w+) = ", line):
                row = rows[section, match[1]]
                self.assertEqual(row["value"], row["default"], line)

    def test_epoch_reaches_nodes_without_a_new_connection(self):
        account = self.account("epoch")
        self.deliver(HELLO, account)
        self.mailbox(account)
        self.raise_epoch()
        self.assertEqual(self.mailbox(account), [HELLO])


# --- domains, accounts, aliases -------------------------------------------------------------------


class Accounts(AdminTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.alice = cls.account("alice")

    def type_passwords(self, *words, typed):
        """Runs it on a terminal and answers each prompt; what the terminal showed, and the code."""
        user = pwd.getpwnam(self.fleet.user)
        pid, terminal = pty.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                if self.fleet.root:
                    os.initgroups(user.pw_name, user.pw_gid)
                    os.setgid(user.pw_gid)
                    os.setuid(user.pw_uid)
                os.chdir("/")
                os.execve(self.fleet.admin_program, self.admin_command(*words), self.fleet.env)
            os._exit(126)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end has closed
            for answer in typed:
                while not shown.endswith(b": "):
                    shown += os.read(terminal, 1024)
                os.write(terminal, answer.encode() + b"\n")
                shown += os.read(terminal, 1024)
            while octets := os.read(terminal, 1024):
                shown += octets
        os.close(terminal)
        return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    # --- passwords ------------------------------------------------------------------------------

    def test_a_password_from_standard_input(self):
        account = Account(f"stdin@{DOMAIN}", "with a blank, ünd \"quotes\"")
        self.ok("account", "add", account.address, "--password-stdin",
                stdin=account.password + "\nsecond line\n")
        with self.pop3() as pop3:
            pop3.ok(f"AUTH PLAIN {plain(account.address, account.password)}")
        for word, says in ("", "empty"), ("x" * 512, "longer than 511"):
            self.fails(EX_DATAERR, says, "account", "passwd", account.address, "--password-stdin",
                       stdin=word + "\n")
        with self.pop3() as pop3:
            pop3.ok(f"AUTH PLAIN {plain(account.address, account.password)}")

    def test_a_password_from_the_terminal(self):
        account = Account(f"typed@{DOMAIN}", "typed-secret")
        shown, code = self.type_passwords("account", "add", account.address,
                                          typed=[account.password] * 2)
        self.assertEqual(code, EX_OK, shown)
        self.assertNotIn(account.password, shown)
        self.assertEqual(shown.count(": "), 2)
        self.mailbox(account)
        shown, code = self.type_passwords("account", "passwd", account.address,
                                          typed=["one-secret", "another-secret"])
        self.assertEqual(code, EX_DATAERR)
        self.assertIn("different", shown)
        self.mailbox(account)

    def test_without_a_terminal_nothing_is_made_up(self):
        self.fails(EX_DATAERR, "no terminal", "account", "add", f"nobody@{DOMAIN}",
                   stdin="secret\n")
        self.fails(EX_NOUSER, "no such account", "account", "show", f"nobody@{DOMAIN}")

    def test_a_hash(self):
        hashed = subprocess.run(["/usr/bin/openssl", "passwd", "-6", "-stdin"], input="imported\n",
                                text=True, stdout=subprocess.PIPE, check=True).stdout.strip()
        account = Account(f"hash@{DOMAIN}", "imported")
        self.ok("account", "add", account.address, "--hash", hashed)
        self.mailbox(account)
        for bad in "imported", "", "$6$salt", "*", "x" * 400:
            self.fails(EX_DATAERR, "--hash", "account", "passwd", account.address, "--hash", bad)
        self.mailbox(account)

    def test_a_password_is_no_word_of_the_command_line(self):
        self.fails(EX_USAGE, "usage", "account", "add", f"word@{DOMAIN}", "secret")
        done = self.run_admin("account", "add", f"word@{DOMAIN}", "--password", "secret")
        self.assertNotEqual(done.returncode, EX_OK)
        for command in ("account", "add"), ("account", "passwd"):
            self.assertNotIn("--password ", self.ok(*command, "--help"))
        self.fails(EX_NOUSER, "", "account", "show", f"word@{DOMAIN}")

    # --- SCRAM keys -----------------------------------------------------------------------------

    CRYPT = "$6$salt$.WRzbHeD9FKfFaADZoacfyq34JzeYhKzBSgl.0bgqjaUiIKJ.mrPLKvtFxcl8.BFTpSY3Pmuzy" \
            "PrjckkY7rW//"
    KEYS = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT" \
           "4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    OLD_KEYS = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:" \
               "D+CSWLOshSulAsxiupA+qs2/fTE="

    def stored(self, address):
        """The hash and the keys of an account."""
        return self.fleet.sql(f"SELECT hash, scram FROM account WHERE addr = '{address}'")[0]

    def check_keys(self, text, name, password):
        """They are the password's, as RFC 5802 makes them."""
        scheme, parameters, keys = text.split("$")
        iterations, salt = parameters.split(":")
        digest = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}[name]
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), base64.b64decode(salt),
                                     int(iterations))
        client = hmac.digest(salted, b"Client Key", digest)
        expected = hashlib.new(digest, client).digest(), hmac.digest(salted, b"Server Key", digest)
        self.assertEqual(scheme, name)
        self.assertEqual(tuple(map(base64.b64decode, keys.split(":"))), expected)

    def test_a_password_makes_keys(self):
        address = f"keys@{DOMAIN}"
        self.ok("account", "add", address, "--password-stdin", stdin="pencil\n")
        first = self.stored(address)[1]
        self.check_keys(first, "SCRAM-SHA-256", "pencil")
        self.assertEqual(self.json("account", "show", address)["scram"], "SHA-256")
        config = self.config("sha1", auth__mechanisms="PLAIN,SCRAM-SHA-1",
                             auth__scram_iterations=5000)
        self.ok("account", "passwd", address, "--password-stdin", stdin="rubber\n", config=config)
        new, old = self.stored(address)[1].split(" ")
        self.check_keys(new, "SCRAM-SHA-256", "rubber")
        self.check_keys(old, "SCRAM-SHA-1", "rubber")
        self.assertTrue(new.startswith("SCRAM-SHA-256$5000:"))
        self.assertEqual(self.json("account", "show", address)["scram"], "SHA-256 SHA-1")
        self.mailbox(Account(address, "rubber"))

    def test_a_password_that_scram_does_not_allow_has_no_keys(self):
        account = Account(f"private@{DOMAIN}", "private\ue000use")
        done = self.run_admin("account", "add", account.address, "--password-stdin",
                              stdin=account.password + "\n")
        self.assertEqual(done.returncode, EX_OK)
        self.assertIn("has no keys", done.stderr)
        self.assertEqual(self.stored(account.address)[1], "")
        self.assertIsNone(self.show(account)["scram"])
        self.mailbox(account)

    def test_what_is_imported_is_of_one_password(self):
        address = f"imported@{DOMAIN}"
        both = f"{self.KEYS} {self.OLD_KEYS}"  # as CRYPT of `pencil`
        self.ok("account", "add", address, "--password-stdin", stdin="rubber\n")
        for options, stored in ((("--hash", self.CRYPT), [self.CRYPT, ""]),
                                (("--hash", self.CRYPT, "--scram", self.KEYS),
                                 [self.CRYPT, self.KEYS]),
                                (("--scram", both), ["", both])):
            self.ok("account", "passwd", address, *options)
            self.assertEqual(self.stored(address), stored)
            self.assert_shut(Account(address, "rubber"))
            if stored[0]:
                self.mailbox(Account(address, "pencil"))
        for bad in ("", "pencil", " ", self.KEYS[:-1], f"{self.KEYS} ", f"{self.KEYS} x",
                    f"{self.KEYS} {self.KEYS}", self.KEYS.replace("256$", "512$"),
                    self.KEYS.replace("4096", "0"), self.OLD_KEYS.replace("-1", "-256")):
            with self.subTest(bad=bad):
                self.fails(EX_DATAERR, "--scram", "account", "passwd", address, "--scram", bad)
        self.fails(EX_USAGE, "in its place", "account", "passwd", address, "--scram", self.KEYS,
                   "--password-stdin", stdin="pencil\n")
        self.assertEqual(self.stored(address), ["", both])

    def test_accounts_with_keys_are_counted(self):
        before = self.json("account", "count")
        self.ok("account", "add", f"count1@{DOMAIN}", "--hash", self.CRYPT)
        self.ok("account", "add", f"count2@{DOMAIN}", "--scram", self.OLD_KEYS)
        self.ok("account", "add", f"count3@{DOMAIN}", "--password-stdin", stdin="pencil\n")
        after = self.json("account", "count")
        self.assertEqual({key: after[key] - before[key] for key in after},
                         {"accounts": 3, "password": 2, "scram_sha_256": 1, "scram_sha_1": 1})

    # --- in force at once -----------------------------------------------------------------------

    def test_a_new_password_is_in_force_at_once(self):
        account = self.account("passwd")
        self.warm(account)
        for password in "second", "third":
            self.ok("account", "passwd", account.address, "--password-stdin",
                    stdin=password + "\n")
            self.assert_shut(account)
            account = account._replace(password=password)
            self.warm(account)

    def test_suspend_and_resume_are_in_force_at_once(self):
        account = self.account("suspended")
        self.deliver(HELLO, account)
        for _ in range(2):
            self.warm(account)
            self.ok("account", "suspend", account.address)
            self.assert_shut(account)
            self.assertEqual(self.everywhere(account.address), [550, 550])
            self.assertEqual(self.show(account)["state"], "suspended")
            self.ok("account", "resume", account.address)
            self.assertEqual(self.show(account)["state"], "active")
        self.warm(account)
        self.assertEqual(self.mailbox(account), [HELLO])

    def test_files_that_nobody_else_may_read(self):
        """What options name is read as whoever started the command, who also is the one who did it."""
        folder = self.fleet.state / "private"
        folder.mkdir(mode=0o700)
        account = self.account("confided")
        files = {"list": f"{account.address}\n", "password": "secret\n",
                 "log": "2026-01-31T12:00:00.000Z info pop3.login node=x\n"}
        for name, text in files.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        self.ok("adopt", "--log", folder / "log", as_started=True)
        done = self.run_admin("verify", "pop3+plain://127.0.0.1:1", "--list", folder / "list",
                              "--password-file", folder / "password", as_started=True)
        self.assertEqual(done.returncode, EX_TEMPFAIL, done.stderr)
        self.ok("account", "remove", "--list", folder / "list", "--yes", as_started=True)
        env = self.fleet.env
        who = env.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
        [receipt] = self.json("account", "receipt", account.address)
        self.assertEqual(receipt["by"], f"operator {who}")

    def test_limits_are_in_force_at_once(self):
        account = self.account("limits")
        self.warm(account)
        self.deliver(HELLO, account)
        self.ok("account", "quota", account.address, "--quota-messages", "1")
        self.assertEqual(self.everywhere(account.address), [452, 452])
        self.ok("account", "quota", account.address, "--quota-messages", "none",
                "--quota-octets", "1K", "--max-size", "2K")
        shown = self.show(account)
        self.assertEqual((shown["max_messages"], shown["max_octets"], shown["max_size"]),
                         (None, 1024, 2048))
        big = b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n" * 500
        for node in 0, 1:
            with self.assertRaises(Refused):
                self.deliver(big, account, node=node)
        self.ok("account", "quota", account.address, "--quota-octets", "none",
                "--max-size", "none")
        for node in 0, 1:
            self.deliver(big, account, node=node)
        self.assertEqual(self.show(account)["messages"], 3)

    def test_a_new_account_is_there_at_once(self):
        address = f"later@{DOMAIN}"
        for node in 0, 1:
            self.assertEqual(self.rcpt(address, node), 550)
        account = self.account("later")
        self.warm(account)

    def test_without_the_cache_changes_are_made_and_said_to_be_late(self):
        account = self.account("uncached")
        self.addCleanup(self.fleet["memcached"].up)
        self.fleet["memcached"].kill()
        done = self.run_admin("account", "passwd", account.address, "--password-stdin",
                              stdin="changed\n")
        self.assertEqual(done.returncode, EX_OK)
        self.assertIn("a cache server could not be told", done.stderr)
        self.fleet["memcached"].up()
        self.mailbox(account._replace(password="changed"))

    # --- aliases and catch-alls ------------------------------------------------------------------

    def test_aliases_are_in_force_at_once(self):
        bob = self.account("bob")
        sales = f"sales@{DOMAIN}"
        before = len(self.mailbox(self.alice))
        self.ok("alias", "add", sales.upper(), self.alice.address)
        self.deliver(HELLO, sales, node=0)
        self.assertEqual(self.rcpt(sales), 250)
        self.ok("alias", "add", sales, bob.address, self.alice.address)
        self.deliver(HELLO, sales, node=1)
        self.deliver(HELLO, sales, node=0)
        self.assertEqual((len(self.mailbox(self.alice)), len(self.mailbox(bob))),
                         (before + 3, 2))
        rows = {"alias": sales, "target": self.alice.address}, {"alias": sales,
                                                                "target": bob.address}
        self.assertEqual(self.json("alias", "list", DOMAIN.upper()), list(rows))
        self.ok("alias", "remove", sales, self.alice.address, "--yes")
        self.deliver(HELLO, sales, node=1)
        self.assertEqual((len(self.mailbox(self.alice)), len(self.mailbox(bob))),
                         (before + 3, 3))
        self.fails(EX_NOUSER, "no such alias or target", "alias", "remove", sales,
                   self.alice.address)
        self.ok("alias", "remove", sales, bob.address, "--yes")
        for node in 0, 1:
            self.assertEqual(self.rcpt(sales, node), 550)
        self.assertEqual(self.json("alias", "list", DOMAIN), [])

    def test_a_catch_all_is_in_force_at_once(self):
        self.ok("domain", "add", "catch.test")
        for node in 0, 1, 0, 1:
            self.assertEqual(self.rcpt("any@catch.test", node), 550)
        self.ok("domain", "set", "catch.test", "--catch-all", self.alice.address)
        for node in 0, 1:
            self.assertEqual(self.rcpt("any@catch.test", node), 250)
        self.ok("domain", "set", "catch.test", "--catch-all", "none")
        for node in 0, 1:
            self.assertEqual(self.rcpt("any@catch.test", node), 550)
        self.ok("domain", "remove", "catch.test", "--yes")
        self.ok("domain", "add", "catch.test", "--catch-all", "all@catch.test")
        self.assertEqual([d["catch_all"] for d in self.json("domain", "list")
                          if d["name"] == "catch.test"], ["all@catch.test"])
        self.ok("domain", "remove", "catch.test", "--yes")

    def test_limits_of_a_domain_are_those_of_new_accounts(self):
        self.ok("domain", "add", "limits.test", "--quota-octets", "2G", "--max-size", "10M")
        self.ok("account", "add", "a@limits.test", "--password-stdin", "--max-size", "1M",
                stdin="secret\n")
        self.ok("domain", "set", "limits.test", "--quota-octets", "none", "--quota-messages", "7")
        self.ok("account", "add", "b@limits.test", "--password-stdin", stdin="secret\n")
        rows = self.json("account", "list", "limits.test")
        self.assertEqual([(r["address"], r["max_octets"], r["max_messages"], r["max_size"])
                          for r in rows],
                         [("a@limits.test", 2 << 30, None, 1 << 20),
                          ("b@limits.test", None, 7, 10 << 20)])
        self.fails(EX_DATAERR, "still has 2 addresses", "domain", "remove", "limits.test")

    def test_accounts_follow_their_domain(self):
        """At once, on every node, and from a dump as well; what they have of their own stays."""
        hashed = "--hash", self.CRYPT
        self.ok("domain", "add", "rule.test")
        for name in "abc":
            self.ok("account", "add", f"{name}@rule.test", *hashed)
        self.ok("account", "add", "own@rule.test", *hashed, "--retention", "never")
        self.ok("account", "retention", "b@rule.test", "7", "--read-retention", "1")

        def kept():
            return {row["address"][0]: (row["retention_days"], row["read_days"])
                    for row in self.json("account", "list", "rule.test")}

        def own(name):
            row = self.json("account", "show", f"{name}@rule.test")
            return row["own_retention"], row["own_read"]

        self.assertEqual((own("a"), own("b"), own("own")),
                         ((False, False), (True, True), (True, False)))

        none = None, None
        before = {"a": none, "b": (7, 1), "c": none, "o": none}
        done = self.run_admin("domain", "set", "rule.test", "--retention", "30", "--quota-messages", "9")
        self.assertEqual(done.returncode, EX_OK)
        self.assertIn("the retention of 2 accounts", done.stderr)
        self.assertEqual(kept(), before)
        [row] = [row for row in self.json("domain", "list") if row["name"] == "rule.test"]
        self.assertEqual((row["retention_days"], row["max_messages"]), (None, None))
        self.ok("domain", "set", "rule.test", "--retention", "30", "--yes")
        self.assertEqual(kept(), {"a": (30, None), "b": (7, 1), "c": (30, None), "o": none})
        self.ok("domain", "set", "rule.test", "--read-retention", "2", "--yes")
        self.assertEqual(kept(), {"a": (30, 2), "b": (7, 1), "c": (30, 2), "o": (None, 2)})
        self.ok("account", "retention", "b@rule.test", "domain")
        self.assertEqual((kept()["b"], own("b")), ((30, 1), (False, True)))
        self.ok("account", "retention", "b@rule.test", "8", "--read-retention", "domain")
        self.assertEqual(kept()["b"], (8, 2))
        self.ok("domain", "set", "rule.test", "--retention", "never", "--read-retention", "never",
                "--yes")
        self.assertEqual(kept(), {"a": none, "b": (8, None), "c": none, "o": none})
        dump = self.ok("account", "dump")
        self.assertRegex(dump, r"account b@rule.test .* own_retention=1 ")
        self.assertRegex(dump, r"account own@rule.test .* own_retention=1 ")
        self.assertNotRegex(dump, r"account a@rule.test .* own_")
        # 300 accounts are more than one transaction.
        self.fleet.sql("""
            WITH made AS (INSERT INTO mailbox (mailbox_id)
                          SELECT generate_series(9000001, 9000300) RETURNING mailbox_id)
            INSERT INTO address (addr, domain, mailbox_id)
            SELECT 'm' || mailbox_id || '@rule.test', 'rule.test', mailbox_id FROM made""")
        self.ok("domain", "set", "rule.test", "--retention", "3", "--yes")
        self.assertEqual(self.fleet.sql(
            "SELECT count(*) FROM mailbox b JOIN address d USING (mailbox_id) "
            "WHERE d.domain = 'rule.test' AND b.retention_days = 3"), [["302"]])
        self.fleet.sql("""DELETE FROM mailbox WHERE mailbox_id IN (SELECT mailbox_id FROM address
                           WHERE domain = 'rule.test' AND addr LIKE 'm%');
                          DELETE FROM address WHERE domain = 'rule.test' AND addr LIKE 'm%'""")

    def test_the_retention_of_a_domain_is_that_of_new_accounts(self):
        hashed = "--hash", self.CRYPT
        self.ok("domain", "add", "kept.test", "--retention", "60")
        self.ok("account", "add", "a@kept.test", *hashed)
        self.ok("account", "add", "b@kept.test", *hashed, "--retention", "never")
        self.ok("account", "retention", "a@kept.test", "61")
        self.ok("domain", "set", "kept.test", "--retention", "90", "--max-size", "1M")
        self.ok("account", "add", "c@kept.test", *hashed)
        self.ok("account", "retention", "a@kept.test", "7")
        self.ok("domain", "set", "kept.test", "--max-size", "none")
        self.assertEqual([(row["address"][0], row["retention_days"])
                          for row in self.json("account", "list", "kept.test")],
                         [("a", 7), ("b", None), ("c", 90)])
        self.assertEqual([row["retention_days"] for row in self.json("domain", "list")
                          if row["name"] in ("kept.test", DOMAIN)], [90, None])
        self.ok("account", "retention", "a@kept.test", "never")
        self.assertIsNone(self.json("account", "show", "a@kept.test")["retention_days"])
        for bad in "0", "1.5", "30d", "", "3651", "always":
            with self.subTest(bad=bad):
                says = f"{bad}: a number of days"
                self.fails(EX_DATAERR, says, "account", "retention", "c@kept.test", bad)
                self.fails(EX_DATAERR, says, "domain", "set", "kept.test", "--retention", bad)
        self.fails(EX_NOUSER, "no such account", "account", "retention", "d@kept.test", "30")

    def test_the_rules_of_a_domain_change_while_a_password_is_typed(self):
        self.ok("domain", "add", "slow.test", "--retention", "60", "--quota-messages", "5")

        def started():
            return self.fleet.sql("SELECT last_value FROM mailbox_ids")

        def typing(address):
            before = started()
            process = self.popen_admin("account", "add", address, "--password-stdin",
                                       "--max-size", "1M")
            self.eventually(20, lambda: self.assertNotEqual(started(), before))
            return process

        process = typing("a@slow.test")
        self.ok("domain", "set", "slow.test", "--retention", "30", "--read-retention", "2",
                "--quota-messages", "6", "--yes")
        _, err = process.communicate("secret\n", timeout=60)
        self.assertEqual(process.returncode, EX_OK, err)
        made = self.json("account", "show", "a@slow.test")
        self.assertEqual([made[key] for key in ("retention_days", "read_days", "max_messages",
                                                "max_size", "max_octets")],
                         [30, 2, 6, 1 << 20, None])
        self.ok("domain", "set", "slow.test", "--retention", "7", "--yes")  # it follows its domain
        self.assertEqual(self.json("account", "show", "a@slow.test")["retention_days"], 7)
        # Without its domain there is no account, nor half of one.
        self.ok("domain", "add", "brief.test")
        process = typing("b@brief.test")
        self.ok("domain", "remove", "brief.test", "--yes")
        process.communicate("secret\n", timeout=60)
        self.assertNotEqual(process.returncode, EX_OK)
        self.assertEqual(self.count("address WHERE addr = 'b@brief.test'"), 0)

    # --- what is refused --------------------------------------------------------------------------

    def test_bad_addresses(self):
        bad = ["alice", "@", "alice@", f"@{DOMAIN}", f"a b@{DOMAIN}", f"alice@{DOMAIN} ",
               f"alice\r\n@{DOMAIN}", f"\x1b[2J@{DOMAIN}", f"a\x7f@{DOMAIN}", f"<alice@{DOMAIN}>",
               f"a..b@{DOMAIN}", "alice@-x.test", f"{'x' * 65}@{DOMAIN}", f"a@{'x' * 64}.test",
               "a@" + "x." * 150 + "test", ""]
        for address in bad:
            for words in (("account", "add", address, "--hash", "x"), ("account", "show", address),
                          ("alias", "add", address, self.alice.address),
                          ("alias", "add", f"good@{DOMAIN}", address)):
                with self.subTest(words=words):
                    self.fails(EX_DATAERR, "address", *words)
        for domain in "", "a b", "x@y", "x-.test", "x\n.test", "x" * 300, "a..b":
            with self.subTest(domain=domain):
                self.fails(EX_DATAERR, "not a domain", "domain", "add", domain)

    def test_what_is_not_ours(self):
        self.fails(EX_NOHOST, "not a domain of ours", "account", "add", "a@foreign.test",
                   "--password-stdin", stdin="secret\n")
        self.fails(EX_NOHOST, "foreign.test", "alias", "add", f"out@{DOMAIN}", "a@foreign.test")
        self.fails(EX_NOHOST, "foreign.test", "alias", "add", f"out@{DOMAIN}", self.alice.address,
                   "a@foreign.test")
        self.fails(EX_NOHOST, "foreign.test", "alias", "add", "out@foreign.test",
                   self.alice.address)
        self.fails(EX_NOHOST, "foreign.test", "domain", "set", DOMAIN, "--catch-all",
                   "a@foreign.test")
        self.assertEqual(self.json("alias", "list", DOMAIN), [])
        for words in (("account", "restore", f"nobody@{DOMAIN}"),
                      ("domain", "set", "foreign.test", "--max-size", "1M"),
                      ("domain", "remove", "foreign.test"),
                      ("volume", "set", "99", "--weight", "1"),
                      *(("account", word, f"nobody@{DOMAIN}")
                        for word in ("suspend", "resume", "remove", "show")),
                      ("messages", f"nobody@{DOMAIN}"), ("alias", "remove", f"nobody@{DOMAIN}")):
            with self.subTest(words=words):
                self.fails(EX_NOUSER, "no such", *words)

    def test_what_exists(self):
        self.fails(EX_CANTCREAT, "exists already", "domain", "add", DOMAIN.upper())
        self.fails(EX_CANTCREAT, "exists already", "account", "add", self.alice.address.upper(),
                   "--password-stdin", stdin="secret\n")
        self.fails(EX_CANTCREAT, "an account has this address", "alias", "add", self.alice.address,
                   f"x@{DOMAIN}")
        self.ok("alias", "add", f"taken@{DOMAIN}", self.alice.address)
        self.fails(EX_CANTCREAT, "exists already", "account", "add", f"taken@{DOMAIN}",
                   "--password-stdin", stdin="secret\n")
        for word in "show", "suspend", "remove", "restore":
            self.fails(EX_NOUSER, "an alias, not an account", "account", word, f"taken@{DOMAIN}")
        self.ok("alias", "remove", f"taken@{DOMAIN}", "--yes")
        # A refused account leaves nothing behind.
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM mailbox"),
                         self.fleet.sql("SELECT count(*) FROM account"))

    def test_bad_values(self):
        for value in ("", "0", "-1", "1.5", "1k", "M", "1MB", "99999999999999999999",
                      "9223372036854775807K"):
            with self.subTest(value=value):
                self.fails(EX_DATAERR, "a number", "account", "quota", self.alice.address,
                           "--quota-octets", value)
        for words in (("account", "quota", self.alice.address), ("domain", "set", DOMAIN),
                      ("volume", "set", "1")):
            self.fails(EX_USAGE, "nothing to change", *words)
        self.fails(EX_DATAERR, "a state is", "volume", "set", "1", "--state", "off")
        self.fails(EX_DATAERR, "a weight is", "volume", "set", "1", "--weight", "-1")
        self.fails(EX_DATAERR, "a volume's ID", "volume", "set", "one", "--weight", "1")
        self.fails(EX_DATAERR, "--limit few", "messages", self.alice.address, "--limit", "few")
        self.fails(EX_USAGE, "account needs one of add, passwd,", "account")
        self.fails(EX_USAGE, "account needs one of add, passwd,", "account", "frobnicate")
        self.fails(EX_USAGE, "volume needs one of add, list,", "volume", "frob")
        self.fails(EX_DATAERR, "--rate x", "reap", "--rate", "x")
        self.fails(EX_USAGE, "takes no --since", "ledger", "01hzy3abcdefghjkmnpqrstvwx", "--since", "1d")
        self.fails(EX_CANTCREAT, "nfs://127.0.0.1:1/nope: ", "volume", "add", "nfs://127.0.0.1:1/nope")
        removed = self.account("was")
        self.fleet.admin("account", "remove", removed.address, "--yes")
        self.fails(EX_CANTCREAT, f"mailfleet account restore {removed.address}", "account", "add",
                   removed.address)
        self.fails(EX_DATAERR, "file:///path", "volume", "add", "/srv/mail")
        self.fails(EX_DATAERR, "file:///path", "volume", "add", "file://relative")
        outside = self.fleet.state / "outside"
        for path in outside, f"{self.fleet.spool}/../../outside":
            self.fails(EX_DATAERR, "spool.roots", "volume", "add", f"file://{path}")
        self.assertFalse(outside.exists())
        self.fails(EX_CANTCREAT, "exists already", "volume", "add", f"file://{self.fleet.spool}")

    def test_nothing_is_removed_without_yes(self):
        self.ok("domain", "add", "stays.test")
        alias = f"stays@{DOMAIN}"
        self.ok("alias", "add", alias, self.alice.address)
        everything = ("SELECT addr, targets::text FROM address ORDER BY addr",
                      "SELECT name FROM domain ORDER BY name")
        before = [self.fleet.sql(sql) for sql in everything]
        for words, says in ((("domain", "remove", "stays.test"), "stays.test"),
                            (("alias", "remove", alias), "and so the alias"),
                            (("alias", "remove", alias, self.alice.address), "1 of the 1"),
                            (("reap",), "nothing is moved or unlinked")):
            with self.subTest(words=words):
                done = self.run_admin(*words)
                self.assertEqual(done.returncode, EX_OK, done.stderr)
                self.assertIn("without --yes", done.stderr)
                self.assertIn(says, done.stderr)
        self.assertEqual([self.fleet.sql(sql) for sql in everything], before)
        # What is not there is told without --yes, too.
        self.fails(EX_NOUSER, "no such", "domain", "remove", "nowhere.test")
        self.fails(EX_NOUSER, "no such", "alias", "remove", alias, f"nobody@{DOMAIN}")
        self.ok("alias", "remove", alias, "--yes")
        self.ok("domain", "remove", "stays.test", "--yes")

    def test_help_leads_to_every_command(self):
        listed = self.ok("help")
        self.assertEqual(self.ok("--help"), listed)
        names = [line.split("  ")[1].strip() for line in listed.splitlines()
                 if line.startswith("  ")]
        self.assertGreater(len(names), 25)
        for name in names:
            words = [word for word in name.split() if word.islower() and word.isalpha()]
            with self.subTest(words=words):
                told = self.ok("help", *words)
                self.assertIn(f"usage: mailfleet {' '.join(words)}", told)
                self.assertEqual(self.ok(*words, "--help"), told)
        self.assertEqual([line.split("  ")[1] for line in self.ok("help", "alias").splitlines()],
                         [name for name in names if name.startswith("alias ")])
        self.fails(EX_USAGE, "no such command", "help", "nothing")
        self.fails(EX_USAGE, "no such command", "nothing", "--help")

    def test_bad_usage(self):
        self.fails(EX_USAGE, "no such command", "frobnicate")
        self.fails(EX_USAGE, "usage", "account", "show")
        self.fails(EX_USAGE, "usage", "domain", "list", "more")
        self.fails(EX_USAGE, "--limit makes no sense here", "domain", "list", "--limit", "1")
        self.assertEqual(self.run_admin("domain", "list", "--frobnicate").returncode, EX_USAGE)
        self.assertEqual(self.run_admin("--config").returncode, EX_USAGE)
        full = subprocess.run(self.admin_command("settings"), stdin=subprocess.DEVNULL,
                              stdout=open("/dev/full", "w"), stderr=subprocess.PIPE, text=True,
                              check=False)
        self.assertEqual(full.returncode, EX_IOERR)

    # --- what is shown ----------------------------------------------------------------------------

    def test_json_has_the_keys_of_the_manual(self):
        page = (harness.ROOT / "docs/man/mailfleet.8").read_text()
        section = page[page.index(".Ss JSON"):page.index(".Sh FILES")]
        documented = {}
        for item, keys in re.findall(r"^\.It Cm (.*)\n([a-z0-9_, \n]+)\n(?=\.)", section,
                                     re.MULTILINE):
            for command in item.split(" , Cm "):
                name = command.replace(" Ns *", "").replace("Fl -", "--")
                documented[name] = (command.endswith("*"), re.split(r",\s+", keys))
        self.ok("alias", "add", f"shown@{DOMAIN}", self.alice.address)
        self.deliver(HELLO, self.alice)
        gone = self.account("documented")
        exports = self.folder / "exports"
        exports.mkdir()
        exports.chmod(0o777)  # written as node.user
        mbox = exports / "mbox"
        mbox.write_text("From a@example.org Sat Jan  3 01:02:03 2026\nSubject: x\n\nx\n")
        mbox.chmod(0o644)
        self.ok("account", "remove", gone.address, "--yes")
        with self.pop3(self.alice) as pop3:
            pop3.ok("DELE 1")
            pop3.quit()
        words = {"account show": [self.alice.address], "messages": [self.alice.address],
                 "account receipt": [gone.address], "ledger": ["--since", "1h"],
                 "undelete": [self.alice.address], "delete": [self.alice.address, "--all"],
                 "import": [f"mbox:{mbox}", self.alice.address],
                 "export": [self.alice.address, f"mbox:{mbox}.out"]}
        self.deliver(HELLO, self.alice)
        self.assertEqual(len(documented), 29)
        # These want a database that is empty or wrong, volumes, logs or the DNS, and have tests of their own.
        for name in ("rebuild --yes", "recount", "volume drain --yes", "verify", "trace Ar ID",
                     "trace Ar ADDRESS", "dns", "dns --check"):
            documented.pop(name)
        for name, (one, keys) in documented.items():
            with self.subTest(command=name):
                shown = self.json(*name.split(), *words.get(name, []))
                for row in [shown] if one else shown:
                    self.assertEqual(list(row), keys)
                self.assertTrue(shown)
        self.ok("alias", "remove", f"shown@{DOMAIN}", "--yes")

    def test_messages_are_the_pointers(self):
        account = self.account("pointers")
        self.assertEqual(self.json("messages", account.address), [])
        self.assertEqual(self.ok("messages", account.address), "no messages\n")
        for _ in range(3):
            self.deliver(HELLO, account)
        with self.pop3(account) as pop3:
            uids, sizes = pop3.uidl(), pop3.list()
        rows = self.json("messages", account.address)
        self.assertEqual([row["uidl"] for row in rows], list(uids.values()))
        self.assertEqual([row["size"] for row in rows], list(sizes.values()))
        self.assertEqual([row["seq"] for row in rows], [1, 2, 3])
        self.assertEqual(self.json("messages", account.address, "--limit", "2"), rows[:2])
        shown = self.show(account)
        self.assertEqual((shown["messages"], shown["octets"]), (3, sum(sizes.values())))

    def test_lists_of_many_are_whole(self):
        """More accounts and aliases than one page of a list has."""
        count = 12_000
        self.fleet.sql(f"""
            INSERT INTO domain (name) VALUES ('many.test');
            INSERT INTO mailbox (mailbox_id) SELECT 1000000 + n FROM generate_series(1, {count}) n;
            INSERT INTO account (mailbox_id, addr)
                SELECT 1000000 + n, 'u' || n || '@many.test' FROM generate_series(1, {count}) n;
            INSERT INTO address (addr, domain, mailbox_id)
                SELECT 'u' || n || '@many.test', 'many.test', 1000000 + n
                  FROM generate_series(1, {count}) n;
            INSERT INTO address (addr, domain, targets)
                SELECT 'a' || n || '@many.test', 'many.test', ARRAY['u1@many.test', 'u2@many.test']
                  FROM generate_series(1, {count}) n""")
        expected = sorted(f"u{n}@many.test" for n in range(1, count + 1))
        rows = self.json("account", "list", "many.test")
        self.assertEqual([row["address"] for row in rows], expected)
        everybody = [row["address"] for row in self.json("account", "list")]
        self.assertEqual([a for a in everybody if a.endswith("@many.test")], expected)
        self.assertIn(self.alice.address, everybody)
        self.assertEqual(len(self.json("alias", "list", "many.test")), 2 * count)
        self.assertEqual(len(self.ok("account", "list", "many.test").splitlines()), 1 + count)


# --- volumes and the reaper -----------------------------------------------------------------------


class Reaper(AdminTest):
    """Time passes by moving the rows of the ledger back."""

    settings = {**AdminTest.settings, "cache.tombstone_ttl": "2s"}  # soon over, so that lists come into the cache
    DAY = 24 * 60 * 60

    def setUp(self):
        self.pass_time(30 * self.DAY)
        self.reap()  # what an earlier test has left

    def pass_time(self, seconds):
        self.fleet.sql(f"""UPDATE ledger SET deleted_at = deleted_at - interval '{seconds} s',
                           unlink_after = unlink_after - interval '{seconds} s',
                           claimed_at = claimed_at - interval '{seconds} s';
                           UPDATE blob_shared SET
                           claimed_at = claimed_at - interval '{seconds} s'""")

    def ledger(self):
        return int(self.fleet.sql("SELECT count(*) FROM ledger")[0][0])

    def reap(self, *words, **options):
        return self.json("reap", "--yes", *words, **options)

    def due(self):
        """What a reaper would do."""
        return self.json("reap")

    def delete_all(self, account):
        with self.pop3(account) as pop3:
            for number in pop3.list():
                pop3.ok(f"DELE {number}")
            pop3.quit()

    def deleted(self, name, messages):
        """An account that had so many messages and deleted them, and the files."""
        account = self.account(name)
        before = set(self.spool_files())
        with self.lmtp() as lmtp:
            for _ in range(messages):
                lmtp.deliver(HELLO, [account.address])
        files = set(self.spool_files()) - before
        self.assertEqual(len(files), messages)
        self.delete_all(account)
        return files

    def there(self, files):
        return files & set(self.spool_files())

    def test_nothing_before_the_grace_period_and_all_after_it(self):
        kept = self.account("kept")
        self.deliver(HELLO, kept)
        files = self.deleted("grace", 3)
        self.assertEqual(self.due(), {"due": 0, "files": 0, "octets": 0, "expiring": 0})
        self.assertEqual(self.reap(), {"expired": 0, "rows": 0, "files": 0, "failed": 0})
        self.pass_time(14 * self.DAY - 300)
        self.assertEqual(self.reap(), {"expired": 0, "rows": 0, "files": 0, "failed": 0})
        self.assertEqual(self.there(files), files)
        self.pass_time(300)
        self.assertEqual(self.due()["due"], 3)
        self.assertEqual(self.there(files), files)
        self.assertEqual(self.reap("--limit", "1"), {"expired": 0, "rows": 1, "files": 1, "failed": 0})
        self.assertEqual(len(self.there(files)), 2)
        self.assertEqual(self.reap(), {"expired": 0, "rows": 2, "files": 2, "failed": 0})
        self.assertEqual((self.there(files), self.ledger()), (set(), 0))
        self.assertEqual(self.mailbox(kept), [HELLO])

    def test_the_messages_of_a_removed_account(self):
        account = self.account("gone")
        before = set(self.spool_files())
        self.deliver(HELLO, account)
        files = set(self.spool_files()) - before
        self.ok("account", "remove", account.address, "--yes")
        self.fleet.sql("UPDATE removed SET purge_after = now()")
        self.assertEqual(self.reap()["files"], 0)
        self.pass_time(15 * self.DAY)
        self.assertEqual(self.reap(), {"expired": 0, "rows": 1, "files": 1, "failed": 0})
        self.assertEqual(self.there(files), set())

    # --- what expires -----------------------------------------------------------------------------

    def age(self, account, days):
        """Makes messages old: seq -> days. Their files keep their names, the pointers lose them."""
        for seq, n in days.items():
            self.fleet.sql(f"""
                UPDATE message m SET blob_id = (lpad(to_hex(
                    (extract(epoch FROM now()) * 1000 - {n} * 86400000.0)::bigint), 12, '0')
                    || right(replace(blob_id::text, '-', ''), 20))::uuid
                  FROM account c WHERE c.addr = '{account.address}' AND m.seq = {seq}
                   AND m.mailbox_id = c.mailbox_id""")

    def expired(self):
        """Mailbox and place of all that has."""
        return [int(seq) for seq, in self.fleet.sql(
            "SELECT seq FROM ledger WHERE by_whom = 'expired' ORDER BY mailbox_id, seq")]

    def test_old_messages_expire(self):
        account = self.account("expiring", "--retention", "30")
        messages = [b"Subject: %d\r\n\r\nhello\r\n" % n for n in range(5)]
        for message in messages:
            self.deliver(message, account)
        with self.pop3(account) as pop3:
            self.age(account, {1: 31, 2: 29.9, 4: 400})
            self.assertEqual(self.due()["expiring"], 2)
            self.assertEqual(self.expired(), [])
            self.assertEqual(self.reap(), {"expired": 2, "rows": 0, "files": 0, "failed": 0})
            self.assertEqual(self.expired(), [1, 4])
            # It has its list from before, and reads every message of it.
            self.assertEqual([without_trace(pop3.retr(n)) for n in pop3.list()], messages)
            pop3.ok("DELE 1")
            pop3.ok("DELE 5")
            pop3.quit()
        for node in 0, 1:
            with self.pop3(account, node) as pop3:
                self.assertEqual(len(pop3.list()), 2)
                pop3.quit()
        self.assertEqual(self.reap()["expired"], 0)
        self.assertEqual(self.show(account)["messages"], 2)

    def test_an_old_list_is_shown_by_no_node(self):
        account = self.account("listed", "--retention", "1")
        for _ in range(3):
            self.deliver(HELLO, account)
        self.until_cached(account)
        self.age(account, {1: 2, 2: 2})
        self.assertEqual(self.reap()["expired"], 2)
        for node in 0, 1:
            self.assertEqual(self.mailbox(account, node), [HELLO])

    def test_what_is_kept_for_ever_or_suspended_does_not_expire(self):
        account = self.account("forever")
        for _ in range(3):
            self.deliver(HELLO, account)
        self.age(account, {1: 3000, 2: 20, 3: 10})
        self.assertEqual(self.reap()["expired"], 0)
        self.ok("account", "retention", account.address, "365")
        self.ok("account", "suspend", account.address)
        self.assertEqual(self.due()["expiring"], 0)
        self.assertEqual(self.reap()["expired"], 0)
        self.ok("account", "resume", account.address)
        self.assertEqual(self.reap()["expired"], 1)
        self.ok("account", "retention", account.address, "5")
        self.assertEqual(self.reap("--limit", "1")["expired"], 1)
        self.ok("account", "retention", account.address, "never")
        self.assertEqual(self.reap()["expired"], 0)
        self.assertEqual(self.expired(), [1, 2])

    def test_old_messages_behind_young_ones_expire_late(self):
        """Late, not early, and not never: an import may have brought them."""
        account = self.account("behind", "--retention", "30")
        for _ in range(66):
            self.deliver(HELLO, account)
        self.age(account, {66: 40})
        self.assertEqual(self.reap()["expired"], 0)
        self.age(account, {1: 40})
        self.assertEqual(self.reap()["expired"], 2)
        self.assertEqual(self.expired(), [1, 66])

    def test_several_reapers_expire_at_once(self):
        """More mailboxes than a page, more messages than a transaction; one reaper is killed."""
        mailboxes, many = 600, 2500
        total = 2 * mailboxes + many
        self.fleet.sql(f"""
            INSERT INTO mailbox (mailbox_id, retention_days, next_seq)
                SELECT 2000000 + n, 30 + n % 3, 10000 FROM generate_series(1, {mailboxes}) n;
            INSERT INTO message (mailbox_id, seq, blob_id, size, skip, volume_id, shared)
                SELECT 2000000 + n, seq, (lpad('1', 12, '0') || lpad(to_hex(n * 10000 + seq), 20,
                       '0'))::uuid, 10, 0, 1, false
                  FROM generate_series(1, {mailboxes}) n,
                       generate_series(1, CASE n WHEN 7 THEN {many} + 2 ELSE 2 END) seq;
            UPDATE mailbox b SET (msgs, octets) =
                   (SELECT count(*), sum(size) FROM message m WHERE m.mailbox_id = b.mailbox_id)
             WHERE mailbox_id > 2000000""")
        self.killed("reap_expired:3")
        before = len(self.expired())
        self.assertGreater(before, 0)
        reapers = [self.popen_admin("reap", "--yes", "--json") for _ in range(3)]
        done = [reaper.communicate(timeout=100) for reaper in reapers]
        self.assertEqual([reaper.returncode for reaper in reapers], [EX_OK] * 3, done)
        self.assertEqual(before + sum(json.loads(out)["expired"] for out, _ in done), total)
        self.assertEqual(len(self.expired()), total)
        self.assertEqual(self.fleet.sql("SELECT DISTINCT msgs, octets FROM mailbox"
                                        " WHERE mailbox_id > 2000000"), [["0", "0"]])
        self.fleet.sql("DELETE FROM ledger WHERE mailbox_id > 2000000;"
                       "DELETE FROM mailbox WHERE mailbox_id > 2000000")

    # --- what is unlinked -------------------------------------------------------------------------

    def shared(self, name, count):
        """Accounts that share one file."""
        accounts = [self.account(f"{name}{n}") for n in range(count)]
        before = set(self.spool_files())
        self.deliver(HELLO, *accounts)
        files = set(self.spool_files()) - before
        self.assertEqual(len(files), 1)
        return accounts, files

    def test_a_shared_file_stays_until_the_last_has_deleted_it(self):
        accounts, files = self.shared("shared", 3)
        for left in 2, 1, 0:
            self.delete_all(accounts[left])
            self.assertEqual(self.reap()["rows"], 0)
            self.pass_time(15 * self.DAY)
            self.assertEqual(self.there(files), files)
            self.assertEqual(self.reap(), {"expired": 0, "rows": 1, "files": 0 if left else 1, "failed": 0})
            for account in accounts[:left]:
                self.assertEqual(self.mailbox(account), [HELLO])
        self.assertEqual(self.there(files), set())
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM blob_shared"), [["0"]])

    def test_several_reapers_at_once(self):
        files = set().union(*(self.deleted(f"many{n}", 120) for n in range(5)))
        accounts, shared = self.shared("manyshared", 5)
        for account in accounts:
            self.delete_all(account)
        self.pass_time(15 * self.DAY)
        reapers = [self.popen_admin("reap", "--yes", "--json") for _ in range(4)]
        done = [reaper.communicate(timeout=100) for reaper in reapers]
        self.assertEqual([reaper.returncode for reaper in reapers], [EX_OK] * 4, done)
        self.assertEqual(sum(json.loads(out)["rows"] for out, _ in done), 605)
        self.assertEqual((self.there(files | shared), self.ledger()), (set(), 0))
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM blob_shared"), [["0"]])

    def killed(self, fault):
        done = self.run_admin("reap", "--yes", env={"MAILFLEET_FAULT": f"{fault}=kill"})
        self.assertEqual(done.returncode, -9, done.stderr)

    def check_killed(self, name, fault, left):
        """After the kill its rows are its own for a while; then any reaper takes them."""
        files = self.deleted(name, 5)
        self.pass_time(15 * self.DAY)
        self.killed(fault)
        self.assertEqual((len(self.there(files)), self.ledger()), (left, 5))
        self.assertEqual(self.reap()["rows"], 0)
        self.pass_time(self.DAY)
        self.killed(fault)
        self.pass_time(self.DAY)
        self.assertEqual(self.reap()["rows"], 5)
        self.assertEqual((self.there(files), self.ledger()), (set(), 0))

    def test_killed_with_rows_claimed(self):
        self.check_killed("claimed", "reap_claimed", left=5)

    def test_killed_with_files_unlinked(self):
        self.check_killed("unlinked", "reap_unlinked", left=0)

    def test_killed_at_a_shared_file(self):
        accounts, files = self.shared("fall", 2)
        for account in accounts:
            self.delete_all(account)
        self.pass_time(15 * self.DAY)
        self.killed("reap_claimed:2")
        self.assertEqual((self.there(files), self.ledger()), (files, 1))
        self.assertEqual(self.fleet.sql("SELECT refs FROM blob_shared"), [["1"]])
        self.pass_time(self.DAY)
        # The first pass has nothing but the shared row, the second has unlinked the file.
        self.killed("reap_unlinked:2")
        self.assertEqual((self.there(files), self.ledger()), (set(), 0))
        self.assertEqual(self.fleet.sql("SELECT refs FROM blob_shared"), [["0"]])
        self.assertEqual(self.reap(), {"expired": 0, "rows": 0, "files": 0, "failed": 0})
        self.pass_time(self.DAY)
        self.assertEqual(self.reap(), {"expired": 0, "rows": 0, "files": 1, "failed": 0})
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM blob_shared"), [["0"]])

    def test_a_volume_that_is_away_is_passed_over(self):
        files = self.deleted("away", 2)
        self.pass_time(15 * self.DAY)
        spool, away = self.fleet.spool, self.fleet.state / "spool.away"
        self.addCleanup(lambda: away.exists() and away.rename(spool))
        spool.rename(away)
        done = self.run_admin("reap", "--yes", "--json")
        self.assertEqual(done.returncode, EX_TEMPFAIL)
        self.assertIn("volume 1 is not well", done.stderr)
        self.assertEqual(json.loads(done.stdout), {"expired": 0, "rows": 0, "files": 0, "failed": 1})
        away.rename(spool)
        self.assertEqual(self.there(files), files)
        self.assertEqual(self.reap(), {"expired": 0, "rows": 2, "files": 2, "failed": 0})
        self.nodes_are_ready()

    def test_a_volume_that_fails_in_the_middle(self):
        """What a reaper had of it is done; that the rest stays is told, once."""
        files = self.deleted("middle", 25)
        self.pass_time(15 * self.DAY)
        sentinel = self.fleet.spool / ".mailfleet-volume"
        away = sentinel.with_name("away")
        self.addCleanup(lambda: away.exists() and away.rename(sentinel))
        process = self.popen_admin("reap", "--yes", "--json", "--rate", "1",
                                   env={"MAILFLEET_FAULT": "reap_claimed=stop"})
        self.addCleanup(process.kill)
        os.waitpid(process.pid, os.WUNTRACED)
        sentinel.rename(away)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        away.rename(sentinel)
        self.assertEqual(process.returncode, EX_TEMPFAIL, err)
        self.assertEqual(err.count("volume 1 is not well"), 1, err)
        left = len(self.there(files))
        self.assertGreater(left, 0)
        self.assertEqual(json.loads(out), {"expired": 0, "rows": 25 - left, "files": 25 - left, "failed": 1})
        self.assertEqual(self.reap()["rows"], left)
        self.nodes_are_ready()

    def open_volume(self):
        """Until every node has heard of it, it takes no mail."""
        self.ok("volume", "set", "1", "--state", "active")
        probe = self.account("open")
        for node in 0, 1:
            self.eventually(30, lambda: self.deliver(HELLO, probe, node=node))

    def test_nothing_is_unlinked_on_a_read_only_volume(self):
        files = self.deleted("readonly", 2)
        self.pass_time(15 * self.DAY)
        self.addCleanup(self.open_volume)
        self.ok("volume", "set", "1", "--state", "readonly")
        self.assertEqual(self.reap(), {"expired": 0, "rows": 0, "files": 0, "failed": 0})
        self.assertEqual(self.there(files), files)
        self.ok("volume", "set", "1", "--state", "drain")
        self.assertEqual(self.reap(), {"expired": 0, "rows": 2, "files": 2, "failed": 0})

    def test_volumes_take_new_files_as_their_state_says(self):
        second = self.fleet.spool / "second"  # a directory that the daemons' user can make
        done = self.run_admin("volume", "add", f"file://{second}", "--weight", "7",
                              "--free-floor", "1M", "--fanout", "1")
        self.assertEqual(done.returncode, EX_OK, done.stderr)
        rows = {row["id"]: row for row in self.json("volume", "list")}
        new = rows[max(rows)]
        self.assertEqual((new["url"], new["weight"], new["free_floor"], new["fanout"],
                          new["state"]), (f"file://{second}", 7, 1 << 20, 1, "active"))
        self.assertEqual((second / ".mailfleet-volume").read_text().strip(), new["uuid"])
        self.addCleanup(self.ok, "volume", "set", "1", "--state", "active")
        self.addCleanup(self.ok, "volume", "set", new["id"], "--state", "drain")
        self.ok("volume", "set", "1", "--state", "drain")
        account = self.account("second")

        def lands_on_the_new_one():
            self.deliver(HELLO, account)
            rows = self.json("messages", account.address)
            self.assertEqual(rows[-1]["volume"], new["id"])

        self.eventually(30, lands_on_the_new_one)
        self.eventually(30, lambda: self.mailbox(account))
        self.fails(EX_CANTCREAT, "another volume", "volume", "add",
                   f"file://{self.fleet.spool}/.")


if __name__ == "__main__":
    harness.main()
