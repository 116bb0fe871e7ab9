#!/usr/bin/python3 -B
"""The same schema, functions and programs on tables that are spread by hash of their distribution column,
PostgreSQL's partitions standing in for the machines of a Citus cluster (docs/scaling.md): mail comes, is read,
deleted, brought back and unlinked, accounts end. And no statement that names one mailbox, address or file, by
what tests/lib/distribution.py makes of it, has touched a second partition: PostgreSQL's log of plans tells."""

import json
import re
import sys
from os import EX_OK
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

import test_ledger  # noqa: E402
import test_removal  # noqa: E402
from distribution import Schema, Statement, expansions  # noqa: E402
from partitioned import PARTITIONS, PLANS_SETTINGS, partitioned, plans_of, spread  # noqa: E402

SCHEMA = harness.ROOT / "deploy/schema"
TABLES = (harness.ROOT / "deploy/citus/tables").read_text()
HELLO = b"Subject: hello\r\n\r\nhello\r\n"


def one_line(text):
    return " ".join(text.split())


class OnPartitions:
    """Before a test's class: its fleet has the stand-in for its database."""

    postgres_settings = PLANS_SETTINGS
    expected = ()  # functions of which some statement must have been seen
    next_schema = ()  # folders of migrations that are made when it works

    @staticmethod
    def migrate(fleet, folders, change=lambda text: text):
        """All scripts in one transaction: where there are partitions no index is made CONCURRENTLY."""
        scripts = expansions(*folders)
        text = "\n".join(path.read_text() for path in scripts).replace(" CONCURRENTLY", "")
        versions = ", ".join("({}, '{}')".format(*re.fullmatch(r"0*(\d+)-(.*)", path.stem).groups())
                             for path in scripts)
        fleet.sql(f"BEGIN; {change(text)}\nINSERT INTO schema_version (version, name) VALUES {versions}; COMMIT;")

    @classmethod
    def setUpClass(cls):
        create = harness.Fleet.create_database

        def create_partitioned(fleet):
            create(fleet)
            cls.migrate(fleet, [SCHEMA], lambda text: partitioned(text, TABLES))

        harness.Fleet.create_database = create_partitioned
        try:
            super().setUpClass()
        finally:
            harness.Fleet.create_database = create
        made = cls.fleet.sql("SELECT count(*) FROM pg_class WHERE relkind = 'p'")
        if made != [[str(len(spread(TABLES)))]]:
            raise AssertionError(f"{made} tables have partitions")
        if cls.next_schema:
            cls.migrate(cls.fleet, cls.next_schema)

    @classmethod
    def end_fleet(cls):
        log = cls.fleet.state / "log" / "postgres.log"
        super().end_fleet()
        cls.judge(log.read_text(errors="replace"))

    @classmethod
    def judge(cls, log):
        """What is routed has touched one partition, the same one of all tables that are spread alike."""
        schema = Schema([path.read_text() for path in expansions(SCHEMA, *cls.next_schema)], TABLES)
        known, of = {}, {}
        for f in schema.functions.values():
            for text in f.statements:
                known[one_line(text)] = Statement(schema, text, f.names)
                of[one_line(text)] = f.name
        wrong, seen, routed = [], set(), 0
        for text, touched in plans_of(log):
            text = one_line(text)
            text = re.sub(r"^\w+ := ", "", text)
            if text not in known:
                known[text] = Statement(schema, text)
            seen.add(of.get(text))
            if known[text].grade == "routed" and touched:
                routed += 1
                numbers = {}
                for table, partitions in touched.items():
                    numbers.setdefault(schema.spread(table), set()).update(partitions)
                if any(len(n) > 1 for n in numbers.values()):
                    wrong.append(f"{touched}: {text}")
        if wrong or not routed:
            raise AssertionError(f"{routed} statements, of which these went to several places:\n"
                                 + "\n".join(sorted(set(wrong))))
        if missing := set(cls.expected) - seen:
            raise AssertionError(f"nothing was seen of {sorted(missing)}")


class Mail(OnPartitions, harness.FleetTest):
    settings = {"spool.grace": "1d", "pop3.lock": "none"}
    time_limit = 300
    expected = ("lookup", "deliver", "expunge", "share", "undelete", "claim", "release", "unshare", "claim_free",
                "forget", "remove_account", "restore_account", "purge_page", "purge_end", "remove_mailbox",
                "recount", "mark_read", "expire")

    def admin(self, *words, code=EX_OK):
        done = self.run_admin(*words, "--json")
        self.assertEqual(done.returncode, code, f"{words}: {done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def delete(self, account):
        with self.pop3(account) as pop3:
            for number in pop3.list():
                pop3.retr(number)
                pop3.ok(f"DELE {number}")
            pop3.quit()

    def partitions_of(self, table):
        return {row[0] for row in self.fleet.sql(f"SELECT DISTINCT tableoid::regclass FROM {table}")}

    def test_a_life(self):
        accounts = [self.account(f"many{n}") for n in range(2 * PARTITIONS)]
        first, second = accounts[:2]
        self.run_admin("account", "retention", first.address, "30", "--read-retention", "7")
        self.assertGreater(len(self.partitions_of("mailbox")), PARTITIONS // 2)
        self.assertGreater(len(self.partitions_of("address")), PARTITIONS // 2)
        self.deliver(HELLO, *accounts)  # one file, to mailboxes in several places
        for account in accounts:        # and one each; so often to one that plans become generic
            for _ in range(7 if account is first else 1):
                self.deliver(HELLO, account)
        self.assertGreater(len(self.partitions_of("message")), PARTITIONS // 2)
        for account in accounts:
            self.assertEqual(self.mailbox(account), [HELLO] * (8 if account is first else 2))

        self.eventually(20, lambda: self.assertEqual(self.count("read_mark"), 8))
        self.fleet.sql("UPDATE read_mark SET read_at = read_at - interval '8 d' WHERE seq > 2")
        self.assertEqual(self.admin("reap", "--yes")["expired"], 6)
        for account in accounts:
            self.assertEqual(self.mailbox(account), [HELLO] * 2)
            self.delete(account)
            self.assertEqual(self.mailbox(account), [])
        self.assertEqual(self.admin("undelete", second.address, "--yes")["restored"], 2)
        self.assertEqual(self.mailbox(second), [HELLO] * 2)

        self.pass_time()
        self.admin("reap", "--yes", "--no-fuse")
        named = {row[0] for row in self.fleet.sql("SELECT blob_id FROM message")}
        self.assertEqual({test_ledger.uuid_of(path.name) for path in self.spool_files()},
                         {blob.replace("-", "") for blob in named})
        self.assertEqual(self.fleet.sql("SELECT refs FROM blob_shared"), [["1"]])
        self.assertEqual(self.admin("recount"), [])
        self.assertEqual(self.admin("fsck", "--older", "0s")["files"], 2)  # and no finding before it
        self.fleet.sql("UPDATE mailbox SET msgs = msgs + 1; UPDATE blob_shared SET refs = refs + 1")
        self.assertEqual(len(self.admin("recount", "--yes", code=1)), len(accounts) + 1)
        self.assertEqual(self.admin("recount"), [])

        for word in "remove", "restore", "remove":
            self.admin("account", word, second.address, *(("--yes",) if word == "remove" else ()))
            if word == "restore":
                self.assertEqual(self.mailbox(second), [HELLO] * 2)
        self.fleet.sql("UPDATE removed SET purge_after = now() - interval '1 minute'")
        self.admin("reap", "--yes", "--no-fuse")
        self.assertEqual(self.count("message"), 0)
        self.pass_time()
        self.admin("reap", "--yes", "--no-fuse")
        self.assertEqual((self.spool_files(), self.count("blob_shared"), self.count("ledger")), ([], 0, 0))
        self.assertEqual((self.count("mailbox"), self.count("address")), (len(accounts) - 1, len(accounts)))

    def count(self, table):
        return int(self.fleet.sql(f"SELECT count(*) FROM {table}")[0][0])

    def pass_time(self):
        self.fleet.sql("UPDATE ledger SET unlink_after = now() - interval '1 minute'")


class NextVersion(OnPartitions, harness.FleetTest):
    """The schema of the next version, with programs of this one."""

    next_schema = (harness.ROOT / "tests/fleet/next",)
    expected = ("deliver", "deliver2", "deliver_pointer", "lookup", "lookup2")

    def test_mail(self):
        account = self.account("next")
        self.deliver(HELLO, account)
        self.assertEqual(self.mailbox(account), [HELLO])
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM mailbox WHERE delivered_at IS NOT NULL"), [["1"]])


class SharedFiles(OnPartitions, test_ledger.SingleInstance):
    """One file of a hundred mailboxes; deliveries, deletes, undeletes and reapers, all at once."""

    time_limit = 600


if __name__ == "__main__":
    harness.main()
