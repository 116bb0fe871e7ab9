#!/usr/bin/python3 -B
"""From one version to the next and back, on a fleet that runs: the schema is expanded, nodes of both
versions work with it, and it is contracted or taken back. What is done in a wrong order is refused,
or heard of as a node that is not ready.

The next version is the build of MAILFLEET_BUILD with `-next` behind its name (-Dnext_schema=true);
tests/run makes it. tests/fleet/next has what is different there.
"""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
from os import EX_CONFIG, EX_OK, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE
from pathlib import Path

import harness
from fleet import PROGRAMS
from load import Ledger, Poller, Sender
from mail import Pop3, Refused, Smtp
from outage import OutageTest

HELLO = b"Subject: hello\r\n\r\nhello\r\n"
MAILBOXES = 6


class UpgradeTest(OutageTest):
    # So that on a busy machine no mail waits for too long, although a migration waits for half of it.
    settings = {"database.timeout": "8s"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        build = Path(os.environ["MAILFLEET_BUILD"] + "-next")
        folder = cls.fleet.state / "bin" / "next"
        cls.fleet.make_dir(folder, None, 0o755)
        for name, where in PROGRAMS.items():
            shutil.copyfile(build / where, folder / name)
            (folder / name).chmod(0o755)

    # --- the two versions -----------------------------------------------------------------------

    @contextlib.contextmanager
    def next_command(self):
        """The operator's command is that of the next version."""
        mine = self.fleet.admin_program
        self.fleet.admin_program = mine.parent / "next" / mine.name
        try:
            yield
        finally:
            self.fleet.admin_program = mine

    def next(self, *words, code=EX_OK, says=""):
        with self.next_command():
            return self.told(*words, code=code, says=says)

    def told(self, *words, code=EX_OK, says=""):
        """Runs the operator's command, which must end so and say this."""
        done = self.run_admin(*words)
        self.assertEqual(done.returncode, code, f"{words}: {done.stderr}")
        self.assertIn(says, done.stderr)
        return done

    def restart(self, node, newer, ready=True):
        self.assertTrue(node.stop(), node.name)
        node.program = ("next/" if newer else "") + Path(node.program).name
        node.start()
        if ready:
            node.wait_ready()
            self.assertEqual("-next" in self.version(node), newer)

    def version(self, node):
        metrics = node.get("/metrics")[0]
        return re.search(r'^mailfleet_info\{.*version="([^"]*)"', metrics, re.MULTILINE)[1]

    def roll(self, newer):
        """One node after the other, each when the one before it is back."""
        for node in self.nodes():
            self.restart(node, newer)

    def status(self):
        """name of a migration -> its state; (role, name) of a node -> its state."""
        rows = json.loads(self.next("migrate", "--status", "--json").stdout)
        return {row["name"] if row["what"] == "migration" else (row["what"], row["name"]):
                row["state"] for row in rows}

    # --- what must be so --------------------------------------------------------------------------

    def all_ready(self):
        for node in self.nodes():
            self.eventually(30, lambda: self.assertIsNone(node.probe()))

    def refused_statements(self):
        """What the database refused to any node, as lines of the logs."""
        return [line for node in self.nodes() for line in node.log.read_text().splitlines()
                if " db.refused " in line or " db.malformed " in line]

    def delivered_at(self, account):
        """Whether the next version's column was filled."""
        return self.fleet.sql("SELECT count(b.delivered_at) FROM mailbox b JOIN account c USING "
                              f"(mailbox_id) WHERE c.addr = '{account.address}'") == [["1"]]

    def load(self, ledger, stale):
        seed = random.SystemRandom().getrandbits(32)
        ports = self.fleet.ports
        connects = [lambda: Pop3(ports.pop3, stls=self.tls), lambda: Pop3(ports.pop3s, tls=self.tls),
                    lambda: self.pop3(node=1)]
        return [Sender(ledger, "balancer", seed, lambda: Smtp(ports.smtp)),
                Sender(ledger, "lmtp", seed + 1, lambda: self.lmtp(1), most=1),
                *(Poller(ledger, f"poller {n}", seed + 2 + n, connect, ledger.accounts[n::3],
                         delete=0.1)
                  for n, connect in enumerate(connects))]

    @contextlib.contextmanager
    def under_load(self, name):
        """All of it is done while mail flows: nothing is lost, doubled, or answered for good."""
        ledger = Ledger([self.account(f"{name}{n}") for n in range(MAILBOXES)])
        before = self.refused_statements()
        workers = self.load(ledger, False)
        for worker in workers:
            worker.start()
        try:
            self.all_succeed(ledger, workers, 30)
            yield lambda: self.all_succeed(ledger, workers, 60)
            self.all_succeed(ledger, workers, 60)
        finally:
            for worker in workers:
                worker.stopping.set()
            for worker in workers:
                worker.join(60)
            print("#", ledger.summary())
        self.assertEqual(ledger.lies, [])
        self.assertEqual(self.refused_statements(), before)
        self.eventually(60, lambda: self.check(ledger))


class Back(UpgradeTest):
    def tearDown(self):
        """A test that failed half way leaves the next one what it needs."""
        for node in self.nodes():
            if node.program.startswith("next/") or node.probe():
                self.restart(node, False, ready=False)
        if self.status()["delivered"] == "expanded":
            self.eventually(30, lambda: self.next("migrate", "--revert", "1", "--yes"))
        self.all_ready()

    def test_a_new_node_waits_for_its_schema(self):
        account = self.account("waits")
        node = self.fleet.delivery_nodes[0]
        self.restart(node, True, ready=False)
        self.not_ready(node, "the database has schema 1, this program needs 3")
        self.eventually(30, lambda: self.assertIn(" schema.unfit ", node.log.read_text()))
        with self.assertRaises(Refused) as refused:
            self.deliver(HELLO, account)
        self.assertEqual(refused.exception.code // 100, 4)
        self.next("domain", "list", code=EX_CONFIG, says="this program needs 3: run mailfleet migrate")
        self.next("check", code=EX_UNAVAILABLE)
        self.assertEqual(self.status()["delivered"], "pending")
        self.next("migrate", "--dry-run", says="would apply 002-delivered")
        self.assertEqual(self.status()["delivered"], "pending")

        self.next("migrate", says="applied 002-delivered")
        self.eventually(30, lambda: self.assertIsNone(node.probe()))
        self.assertEqual(node.log.read_text().count(" schema.unfit "), 1)
        self.deliver(HELLO, account)
        self.assertEqual(self.mailbox(account), [HELLO])
        self.next("domain", "list")
        self.next("migrate", says="the schema is up to date: version 3")

    def test_a_wrong_order_is_refused(self):
        old, new = self.fleet.delivery_nodes
        self.next("migrate", "--contract", "--yes", says="nothing is to be contracted")
        self.next("migrate", "--revert", "1", "--yes", says="nothing is to be taken back")
        for version in "0", "4", "delivered":
            self.next("migrate", "--revert", version, "--yes", code=EX_USAGE)
        self.next("migrate", "--revert", "1", "--contract", code=EX_USAGE)
        self.next("migrate", says="applied 002-delivered")
        self.restart(new, True)
        # The version before goes on, and leaves alone what it does not know.
        self.told("domain", "list")
        for words in ("migrate",), ("migrate", "--contract", "--yes"), ("migrate", "--revert", "1"):
            self.told(*words, code=EX_SOFTWARE, says="has version 3, this program knows 1")
        states = self.eventually(30, lambda: self.mixed(old, new))
        self.assertEqual(states["delivered"], "expanded")

        for words in ("--contract",), ("--contract", "--yes"):
            refused = self.next("migrate", *words, code=EX_UNAVAILABLE, says="upgrade them first")
            self.assertIn(f"{old.name} (deliver) runs", refused.stderr)
            self.assertNotIn(new.name, refused.stderr)
        refused = self.next("migrate", "--revert", "1", "--yes", code=EX_UNAVAILABLE,
                            says="go back on them first")
        self.assertIn(f"{new.name} (deliver) runs", refused.stderr)
        self.assertNotIn(old.name, refused.stderr)
        self.assertEqual(self.status()["delivered"], "expanded")

        self.restart(new, False)
        self.eventually(30, lambda: self.next("migrate", "--revert", "1",
                                              says="would take back 002-delivered"))
        self.assertEqual(self.status()["delivered"], "expanded")
        self.next("migrate", "--revert", "2", "--yes", says="took back 003-created")
        self.assertEqual(self.status()["delivered"], "expanded")
        self.assertEqual(self.status()["created"], "pending")
        self.next("migrate", "--revert", "1", "--yes", says="took back 002-delivered")
        self.assertEqual(self.status()["delivered"], "pending")
        self.told("migrate", says="the schema is up to date: version 1")

    def mixed(self, old, new):
        states = self.status()
        self.assertEqual(states["deliver", new.name], "fits")
        self.assertEqual(states["deliver", old.name], "is in the way of contracting")
        return states

    def test_forth_and_back_under_load(self):
        old_deliveries = self.account("by-the-old")
        with self.under_load("back") as all_succeed:
            self.next("migrate", says="applied 002-delivered")
            self.deliver(HELLO, old_deliveries)
            self.assertTrue(self.delivered_at(old_deliveries))
            all_succeed()
            self.roll(True)
            all_succeed()
            self.roll(False)
            all_succeed()
            self.eventually(30, lambda: self.next("migrate", "--revert", "1", "--yes",
                                                  says="took back 002-delivered"))
        self.all_ready()

    def test_a_migration_lets_mail_go_first(self):
        account = self.account("first")
        end_report = self.report("SELECT count(*) >= 0 FROM mailbox")
        migrate = self.start_migrate()
        said = migrate.stderr.readline() + migrate.stderr.readline()
        self.assertIn("the oldest transaction is that of process", said)
        self.assertIn("so mail goes first", said)
        self.deliver(HELLO, account)  # the report goes on, and the migration comes again
        self.assertEqual(self.mailbox(account), [HELLO])
        self.assertIsNone(migrate.poll())
        end_report()
        self.assertEqual(migrate.wait(), EX_OK)
        self.assertEqual(self.status()["delivered"], "expanded")

    def test_an_index_that_failed_is_made_anew(self):
        end_report = self.report("SELECT count(*) >= 0 FROM domain")
        migrate = self.start_migrate()
        # It waits for the report to end, and mail does not wait for it.
        self.eventually(60, lambda: self.assertEqual(self.index_is_valid(), [["f"]]))
        account = self.account("index")
        self.deliver(HELLO, account)
        self.assertEqual(self.mailbox(account), [HELLO])
        self.fleet.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                       "WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'", superuser=True)
        said = migrate.communicate()[1]
        self.assertEqual(migrate.returncode, EX_SOFTWARE)
        self.assertIn("applied 002-delivered", said)
        self.assertIn("run it again", said)
        self.assertEqual(self.index_is_valid(), [["f"]])
        self.assertEqual(self.status()["created"], "pending")
        end_report()
        self.next("migrate", says="applied 003-created")
        self.assertEqual(self.index_is_valid(), [["t"]])

    def index_is_valid(self):
        return self.fleet.sql("SELECT indisvalid FROM pg_index i JOIN pg_class c "
                              "ON c.oid = indexrelid WHERE relname = 'account_created'")

    def report(self, query):
        """A transaction that reads, and stays open until what is returned is called."""
        psql = subprocess.Popen(["/usr/bin/psql", "-XAtq", self.fleet.database_url],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(psql.communicate)
        psql.stdin.write(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {query};\n")
        psql.stdin.flush()
        self.assertEqual(psql.stdout.readline(), "t\n")

        def end():
            psql.stdin.write("COMMIT;\n")
            psql.stdin.flush()
        return end

    def start_migrate(self):
        with self.next_command():
            process = subprocess.Popen(
                [self.fleet.admin_program, "--config", self.fleet.config, "migrate"], cwd="/",
                stderr=subprocess.PIPE, text=True, **self.fleet.run_as(self.fleet.user))
        self.addCleanup(process.kill)
        return process


class Forth(UpgradeTest):
    def test_under_load_and_contracted(self):
        with self.under_load("forth") as all_succeed:
            self.next("migrate", says="applied 002-delivered")
            all_succeed()
            self.roll(True)
            all_succeed()
            self.eventually(30, lambda: self.next("migrate", "--contract",
                                                  says="would contract 002-delivered"))
            self.assertEqual(self.status()["delivered"], "expanded")
            self.next("migrate", "--contract", "--yes", says="contracted 002-delivered")
        self.assertEqual(self.status()["delivered"], "contracted")
        self.assertEqual(self.fleet.sql("SELECT count(*) FROM pg_proc WHERE proname = 'deliver'"),
                         [["0"]])
        self.next("check")
        self.next("migrate", "--contract", says="nothing is to be contracted")
        self.next("migrate", "--revert", "1", "--yes", code=EX_UNAVAILABLE, says="no way back")

        # Who missed it all is not ready, says why, and tells nobody anything for good.
        node = self.fleet.delivery_nodes[0]
        self.restart(node, False, ready=False)
        self.not_ready(node, "schema 2 of the database is contracted, this program knows 1")
        with self.smtp() as smtp, self.assertRaises(Refused) as refused:
            smtp.begin([f"nobody@{harness.DOMAIN}"])
        self.assertEqual(refused.exception.code // 100, 4)
        self.told("domain", "list", code=EX_CONFIG, says="upgrade it")
        self.eventually(30, lambda: self.assertEqual(self.status()["deliver", node.name],
                                                     "is too old"))
        self.restart(node, True)
        self.all_ready()

    def test_a_new_fleet_is_contracted(self):
        """It has no programs of an older version."""
        self.fleet.sql("CREATE DATABASE fresh OWNER mailfleet", superuser=True, database="postgres")
        config = self.fleet.state / "config" / "fresh.conf"
        url = self.fleet.database_url.replace("/mailfleet?", "/fresh?")
        self.fleet.write_config(config, {"database.url": url})
        with self.next_command():
            self.fleet.run([self.fleet.admin_program, "--config", config, "init"],
                           user=self.fleet.user)
        self.assertEqual(self.fleet.sql("SELECT version, contracted_at IS NOT NULL FROM "
                                        "schema_version ORDER BY 1", database="fresh"),
                         [["1", "f"], ["2", "t"], ["3", "f"]])


if __name__ == "__main__":
    harness.main()
