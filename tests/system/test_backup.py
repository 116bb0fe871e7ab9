#!/usr/bin/python3 -B
"""Backup and restore: what `mailfleet check` finds wrong, and a database that is lost.

The one that matters: mail flows, a backup is taken while it flows, mail goes on, and the database
is destroyed. It is set back to a time before its end. Then everything that was answered 250 is
listed, nothing that was deleted comes back, and no pointer is without its file.
"""

import contextlib
import datetime
import grp
import gzip
import json
import random
import subprocess
from os import EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE

import harness
from harness import ROOT
from load import Ledger, Poller, Sender, check_mailbox

MAILBOXES = 6


class BackupTest(harness.FleetTest):
    backup = True
    time_limit = 240

    def admin(self, *words, config=None, code=EX_OK):
        """The operator's command, by the daemons' user, who may read the repository here."""
        fleet = self.fleet
        who = fleet.run_as(fleet.user)
        if who:
            who["extra_groups"] = [*who["extra_groups"], grp.getgrnam("postgres").gr_gid]
        done = subprocess.run([str(word) for word in (fleet.admin_program, "--config",
                                                      config or fleet.config, *words)],
                              cwd="/", text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                              env=fleet.env, check=False, **who)
        self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}")
        return done

    def superuser(self, statement):
        return self.fleet.sql(statement, superuser=True)

    def archive(self):
        """What was committed so far is in the repository when this returns."""
        segment = self.superuser("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
        self.eventually(60, lambda: self.assertGreaterEqual(
            self.superuser(archived)[0][0][:24], segment))

    def rehearsal(self, *words, code=EX_OK):
        """What it prints; and it leaves nothing behind."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        scratch.chmod(0o755)
        done = subprocess.run(
            [ROOT / "deploy/backup/restore-rehearsal", "--config", self.fleet.config,
             "--pgbackrest-config", self.fleet.backup.config, "--scratch", scratch,
             "--mailfleet", self.fleet.admin_program, "--fsck", "--older 0s", *words],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=180)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(list(scratch.iterdir()), [])
        left = subprocess.run(["pgrep", "-f", scratch], stdout=subprocess.PIPE, check=False)
        self.assertEqual(left.stdout, b"")
        return done.stdout if code != EX_TEMPFAIL else done.stderr


# --- check ---------------------------------------------------------------------------------------


class Check(BackupTest):
    def wrong(self, config=None):
        """what -> says of the rules that do not hold; the exit status agrees."""
        done = subprocess.CompletedProcess((), 0)
        try:
            done = self.admin("check", "--json", config=config)
        except AssertionError:
            done = self.admin("check", "--json", config=config, code=EX_UNAVAILABLE)
        return {row["what"]: row["says"] for row in json.loads(done.stdout) if not row["ok"]}

    def config(self, **settings):
        path = self.fleet.state / "config" / "other.conf"
        self.fleet.write_config(path, {f"backup.{key}": value for key, value in settings.items()})
        return path

    def only_wrong(self, what, says, config=None):
        wrong = self.wrong(config)
        self.assertEqual(list(wrong), [what], wrong)
        self.assertIn(says, wrong[what])

    def segments(self):
        return sorted(path for path in (self.fleet.backup.repository / "archive").rglob("0*-*")
                      if path.is_file())

    def test_1_no_backup_is_told(self):
        self.archive()
        self.only_wrong("backup", "no usable backup")
        self.assertEqual(self.wrong(self.config(stanza="")), {})
        self.only_wrong("backup", "missing stanza path", self.config(stanza="other"))
        self.only_wrong("backup", "/nonexistent", self.config(command="/nonexistent"))
        unreadable = f"{self.fleet.backup.settings()['backup.command']} --repo1-path=/dev/null"
        self.only_wrong("backup", "Error] unable to", self.config(command=unreadable))
        self.only_wrong("backup", "failed", self.config(command="/bin/false"))
        self.only_wrong("backup", "JSON", self.config(command="/bin/echo hello"))

    def test_2_all_is_well_with_one(self):
        self.fleet.backup.take()
        self.archive()
        self.assertEqual(self.wrong(), {})
        says = {row["what"]: row["says"] for row in
                json.loads(self.admin("check", "--json").stdout)}
        self.assertIn("1 are kept", says["backup"])
        self.assertIn("no gap from 0000000100000000", says["backup log"])
        self.assertIn("soon after this fleet was made", says["backup window"])

    def test_3_files_must_stay_as_long_as_a_restore_may_go_back(self):
        self.only_wrong("backup grace", "files that are gone", self.config(window="15d"))
        self.assertEqual(self.wrong(self.config(window="15d", snapshots="1d")), {})
        self.only_wrong("backup grace", "snapshots", self.config(snapshots="15d"))

    def test_4_old_backups_and_a_window_that_is_not_covered(self):
        old = self.fleet.state / "bin" / "old"
        program = self.fleet.backup.settings()["backup.command"]
        old.write_text(f"#!/bin/sh\n{program} \"$@\" | "
                       "sed -E 's/\"stop\":[0-9]+}/\"stop\":1700000000}/g'\n")
        old.chmod(0o755)
        self.only_wrong("backup", "backup.max_age is 36h", self.config(command=old))
        self.fleet.sql("UPDATE schema_version SET applied_at = applied_at - interval '30 days'")
        self.only_wrong("backup window", "can only go back to")
        self.fleet.sql("UPDATE schema_version SET applied_at = applied_at + interval '30 days'")

    def test_5_log_that_does_not_arrive(self):
        folder = self.segments()[-1].parent
        try:
            folder.chmod(0o550)
            self.fleet.sql("CREATE TABLE something (a int)")
            self.superuser("SELECT pg_switch_wal()")
            self.eventually(60, lambda: self.only_wrong("backup log", "is refused"))
        finally:
            folder.chmod(0o750)
        self.eventually(90, lambda: self.assertEqual(self.wrong(), {}))

    def test_6_a_gap_is_told(self):
        for _ in range(3):
            self.fleet.sql("CREATE TABLE IF NOT EXISTS something (a int);"
                           "INSERT INTO something VALUES (1)")
            self.archive()
        gone = self.segments()[-2]
        gone.unlink()
        self.only_wrong("backup log", f"a gap: {gone.name[:24]}")
        self.fleet.backup.take()
        self.only_wrong("backup log", f"a gap: {gone.name[:24]}")  # the older backup is still kept
        self.fleet.backup.run("--repo1-retention-full-type=count", "--repo1-retention-full=1",
                              "expire")
        self.assertEqual(self.wrong(), {})

    def test_7_reaping_is_held_by_hand(self):
        self.admin("reaping", "off")
        self.only_wrong("reaping", "held by an operator")
        self.assertIn("held by an operator",
                      self.admin("reap", "--yes", code=EX_TEMPFAIL).stderr)
        self.assertFalse(json.loads(self.admin("reaping", "--json").stdout)["allowed"])
        self.admin("reaping", "on")
        self.assertTrue(json.loads(self.admin("reaping", "--json").stdout)["allowed"])
        self.admin("reap", "--yes")


# --- restore -------------------------------------------------------------------------------------


class Rehearsal(BackupTest):
    def test_a_rehearsal_tells_what_is_wrong(self):
        account = self.account("rehearsal")
        before = set(self.spool_files())
        self.deliver(b"Subject: lost\r\n\r\nlost\r\n", account)
        self.deliver(b"Subject: kept\r\n\r\nkept\r\n", account)
        self.fleet.backup.take()
        self.archive()
        self.assertRegex(self.rehearsal(), r"(?m)^dangling: +0 pointers")
        gone, _ = sorted(set(self.spool_files()) - before, key=lambda path: path.name)
        gone.unlink()
        self.assertRegex(self.rehearsal(code=EX_UNAVAILABLE), r"(?m)^dangling: +1 pointers")
        later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
        self.assertIn("is not archived yet",
                      self.rehearsal("--time", later.isoformat(), code=EX_TEMPFAIL))
        self.assertIn("no backup set", self.rehearsal("--stanza", "other", code=EX_TEMPFAIL))

class Restore(BackupTest):
    time_limit = 400

    def test_nothing_is_lost_with_the_database(self):
        seed = random.SystemRandom().getrandbits(32)
        print(f"# seed {seed}")
        accounts = [self.account(f"backup{n}") for n in range(MAILBOXES)]
        ledger = Ledger(accounts)
        with self.load(ledger, seed) as flow:
            flow(200, 40)
            self.fleet.backup.take()
            taken = self.now()
            flow(200, 40)
            # pgBackRest counts in whole seconds, and goes back to backups that ended before.
            self.eventually(10, lambda: self.assertGreater(self.now()[:19], taken[:19]))
            point = self.now()
            flow(100, 20)
            self.archive()
            self.rehearse(point)
            newest = self.fleet.sql(
                "SELECT blob_id FROM message ORDER BY blob_id DESC LIMIT 1")[0][0]
            flow(20, 0)
            self.fleet["postgres"].kill()
            # Nodes go on without it: senders are deferred, and what they were told holds.
            deferred = ledger.answers.get(("smtp", "451"), 0)
            self.eventually(60, lambda: self.assertGreater(
                ledger.answers.get(("smtp", "451"), 0), deferred))
        # Who was in the middle of a COMMIT is told nothing before the database can tell.
        ledger.lies = [lie for lie in ledger.lies if lie != "smtp: no answer in time"]
        self.assertEqual(ledger.lies, [])

        self.fleet.backup.restore("--type=time", f"--target={point}", "--target-action=promote")
        self.fleet["postgres"].up()
        self.eventually(60, lambda: self.assertEqual(
            self.superuser("SELECT pg_is_in_recovery()"), [["f"]]))
        self.admin("epoch")
        self.reaping_is_held()
        self.assertEqual(self.fleet.sql(f"SELECT seq FROM message WHERE blob_id = '{newest}'"), [],
                         "the point was not before the end")
        self.adopt()
        self.check_all(ledger)
        self.admin("fsck", "--older", "0s")
        self.admin("reaping", "on")
        self.admin("reap", "--yes")
        self.check_all(ledger)

    def now(self):
        when = self.superuser("SELECT clock_timestamp() AT TIME ZONE 'UTC'")[0][0]
        return f"{when}+00"

    @contextlib.contextmanager
    def load(self, ledger, seed):
        """Mail that comes, is read and deleted. Yields flow(sent, deleted): until so many more."""
        workers = [Sender(ledger, "smtp", seed, lambda: self.smtp(0, timeout=15)),
                   Sender(ledger, "smtp", seed + 1, lambda: self.smtp(1, timeout=15)),
                   *(Poller(ledger, f"poller {n}", seed + 10 + n, lambda n=n: self.pop3(node=n),
                            ledger.accounts[n::2], delete=0.3) for n in range(2))]
        for worker in workers:
            worker.pause = 0.005
            worker.start()

        def counts():
            with ledger.lock:
                return (sum(map(len, ledger.accepted.values())),
                        sum(map(len, ledger.deleted.values())))

        def flow(sent, deleted):
            before = counts()

            def enough():
                self.assertEqual(ledger.lies, [])
                now = counts()
                self.assertGreaterEqual(now[0], before[0] + sent)
                self.assertGreaterEqual(now[1], before[1] + deleted)

            self.eventually(90, enough)

        try:
            yield flow
        finally:
            for worker in workers:
                worker.stopping.set()
            for worker in workers:
                worker.join(60)

    def rehearse(self, point):
        """While mail flows: its numbers."""
        report = json.loads(self.rehearsal(
            "--json", "--time", point, *(word for log in self.rotated() for word in ("--log", log))))
        for key, value in report.items():
            print(f"# {key}: {value}")
        self.assertEqual(report["dangling"], 0)
        self.assertEqual(report["lost_before_point"], 0)
        self.assertGreater(report["lost"], 0)
        self.assertGreater(report["resurrected"], 0)
        self.assertGreater(report["replay_transactions"], 100)
        self.assertLess(datetime.datetime.fromisoformat(report["recovery_point"]),
                        datetime.datetime.fromisoformat(point))

    def logs(self):
        return [node.log for node in self.fleet.front_ends]

    def rotated(self):
        """As logrotate leaves them, one not yet compressed."""
        first, *rest = self.logs()
        for log in rest:
            packed = self.folder / f"{log.name}.1.gz"
            packed.write_bytes(gzip.compress(log.read_bytes()))
            packed.chmod(0o644)
            yield packed
        yield first

    def reaping_is_held(self):
        self.assertIn("restored or promoted",
                      self.admin("reap", "--yes", code=EX_TEMPFAIL).stderr)

    def adopt(self):
        log = self.fleet.state / "log" / "all.gz"
        log.write_bytes(b"".join(gzip.compress(path.read_bytes()) for path in self.logs()))
        log.chmod(0o644)
        self.admin("adopt", "--log", log, "--older", "0s")  # without --yes: nothing happens
        self.admin("adopt", "--log", log, "--older", "0s", "--yes")

    def check_all(self, ledger):
        """Refused mail may be there: its sender was told to try again, and its file was whole."""
        for account in ledger.accounts:
            messages = self.eventually(60, lambda a=account: self.mailbox(a))
            wrong = [line for line in check_mailbox(ledger, account, messages)
                     if "never accepted" not in line]
            self.assertEqual(wrong, [])
        self.assertEqual(ledger.lies, [])


if __name__ == "__main__":
    harness.main()
