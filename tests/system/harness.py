"""What every system test stands on: a fleet of its own, accounts in it, and TAP.

A test file has one FleetTest; its tests share one fleet, which is made for it in a temporary folder
on free ports, with the sanitized programs of MAILFLEET_BUILD. At its end the fleet must stop in
good order, and a report of a sanitizer or a failed check in any of its logs is a failure. Run one
alone with `tests/run NAME`, or with MAILFLEET_BUILD=DIR tests/system/test_NAME.py [TEST]...
"""

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lib"))

from fleet import DOMAIN, HOST, PORTS, Fleet, FleetError, Ports  # noqa: E402
from mail import Pop3, Refused, Smtp, without_trace  # noqa: E402

Account = collections.namedtuple("Account", "address password")

MESSAGE_FILE = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")

# What no log of a daemon may hold.
CRASH = re.compile(r"ERROR: \w+Sanitizer|runtime error:|LeakSanitizer|check failed|Assertion")


class FleetTest(unittest.TestCase):
    settings = {}
    postgres_settings = {}
    nas = 0  # how many volumes on an NFS server, instead of one in a local folder
    backup = False  # whether PostgreSQL's log is archived by pgBackRest
    time_limit = 120  # seconds, of one test

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.folder.chmod(0o755)
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.fleet = Fleet(cls.folder / "fleet", free_base_port(), settings=cls.settings,
                          build=os.environ["MAILFLEET_BUILD"],
                          postgres_settings=cls.postgres_settings,
                          env={name: value for name, value in os.environ.items()
                               if name.endswith("SAN_OPTIONS")}, nas=cls.nas,
                          backup=cls.backup)
        cls.addClassCleanup(cls.end_fleet)
        cls.fleet.up()
        cls.fleet.admin("domain", "add", DOMAIN)
        cls.tls = ssl.create_default_context(cafile=cls.fleet.ca)

    @classmethod
    def end_fleet(cls):
        killed = []
        for part in reversed(cls.fleet.parts):
            if not part.stop():
                killed.append(part.name)
        crashes = [f"{log.name}: {line}"
                   for log in sorted((cls.fleet.state / "log").glob("*.log"))
                   for line in log.read_text(errors="replace").splitlines() if CRASH.search(line)]
        keep_logs(cls.fleet, cls.__name__)
        if killed or crashes:
            raise AssertionError("\n".join(crashes + [f"{name} had to be killed, it did not stop"
                                                      for name in killed]))

    # --- accounts and connections ---------------------------------------------------------------

    @classmethod
    def account(cls, name, *options):
        address = f"{name}@{DOMAIN}"
        return Account(address, cls.fleet.add_account(address, *options))

    @classmethod
    def pop3(cls, account=None, node=0, utf8=False, **options):
        """A session on a front-end over STLS, logged in when there is an account."""
        pop3 = Pop3(cls.fleet.front_ends[node].ports["pop3"], stls=cls.tls, **options)
        if account:
            try:
                if utf8:
                    pop3.ok("UTF8")
                pop3.login(account)
            except BaseException:
                pop3.close()
                raise
        return pop3

    @classmethod
    def smtp(cls, node=0, **options):
        return Smtp(cls.fleet.delivery_nodes[node].ports["smtp"], **options)

    @classmethod
    def lmtp(cls, node=0, **options):
        return Smtp(cls.fleet.delivery_nodes[node].ports["lmtp"], lmtp=True, **options)

    @classmethod
    def deliver(cls, message, *accounts, node=0):
        with cls.smtp(node) as smtp:
            smtp.deliver(message, [getattr(a, "address", a) for a in accounts])
            smtp.quit()

    @classmethod
    def mailbox(cls, account, node=0):
        """Every message of a mailbox as it was sent; that its sizes are right is checked."""
        with cls.pop3(account, node, utf8=True) as pop3:
            sizes = pop3.list()
            if pop3.stat() != (len(sizes), sum(sizes.values())):
                raise AssertionError("STAT is not the sum of LIST")
            messages = []
            for number, size in sizes.items():
                served = pop3.retr(number)
                if len(served) != size:
                    raise AssertionError(f"LIST says {size} octets, RETR sends {len(served)}")
                messages.append(without_trace(served))
            pop3.quit()
        return messages

    def eventually(self, seconds, attempt):
        """Until attempt() returns without an exception; what it returned."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return attempt()
            except (AssertionError, Refused, FleetError, OSError, EOFError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    # --- the operator's command -----------------------------------------------------------------

    @classmethod
    def admin_command(cls, *words, config=None):
        return [str(word) for word in
                (cls.fleet.admin_program, "--config", config or cls.fleet.config, *words)]

    @classmethod
    def popen_admin(cls, *words, config=None, env=None, as_started=False):
        """As the daemons' user, or as whoever runs the tests."""
        return subprocess.Popen(cls.admin_command(*words, config=config), cwd="/", text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True,
                                env={**cls.fleet.env, **(env or {})},
                                **cls.fleet.run_as(None if as_started else cls.fleet.user))

    @classmethod
    def run_admin(cls, *words, stdin="", **options):
        """Its status, and what it said and showed."""
        process = cls.popen_admin(*words, **options)
        out, err = process.communicate(stdin, timeout=200)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    # --- the fleet ------------------------------------------------------------------------------

    def raise_epoch(self):
        """Nothing that is cached counts any more, on any node, when this returns: until a node has
        followed, it does not hear of what commands change, either."""
        logs = [node.log for node in self.fleet.front_ends + self.fleet.delivery_nodes]
        told = [log.read_text().count(" cache.epoch ") for log in logs]
        self.fleet.admin("epoch")
        for log, n in zip(logs, told):
            self.eventually(20, lambda: self.assertGreater(log.read_text().count(" cache.epoch "),
                                                           n))

    def database_clock_ahead(self, days):
        """By so much, for the rest of the test and for what is called from now on."""
        for sql in ("CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
                    f" $$SELECT pg_catalog.clock_timestamp() + interval '{days} days'$$",
                    "ALTER DATABASE mailfleet SET search_path = public, pg_catalog"):
            self.fleet.sql(sql, superuser=True)
        for sql in ("DROP FUNCTION public.clock_timestamp()",
                    "ALTER DATABASE mailfleet RESET search_path"):
            self.addCleanup(self.fleet.sql, sql, superuser=True)

    def reload(self, node, settings):
        """Other settings of one node, in force in its worker when this returns."""
        self.fleet.node_settings[node.name] = settings
        node.prepare()
        reloads = node.log.read_text().count(" worker.reloaded ")
        os.kill(node.pids()[0], signal.SIGHUP)
        self.eventually(20, lambda: self.assertGreater(
            node.log.read_text().count(" worker.reloaded "), reloads))

    def until_cached(self, account):
        """Polls until the list comes from the cache: the tombstone of the last change must end."""
        def poll_without_query():
            before = self.queries()
            self.mailbox(account)
            self.assertEqual(self.queries(), before)

        self.eventually(60, poll_without_query)

    def queries(self):
        """How many statements the first front-end has sent to the database."""
        metrics = self.fleet.front_ends[0].get("/metrics")[0]
        return int(re.search(r"^mailfleet_db_queries_total (\d+)$", metrics, re.MULTILINE)[1])

    def spool_files(self):
        """The message files in the spool."""
        return [path for spool in self.fleet.spools for path in spool.rglob("*")
                if path.is_file() and MESSAGE_FILE.fullmatch(path.name)]


RESERVED = 59  # of a hundred ports: one that no plan has
reserved = []


def free_base_port(hundreds=1):
    """Ports below the range that the system hands out to clients, and nobody else's until this program ends."""
    while True:
        base = random.SystemRandom().randrange(21_000, 32_700 - PORTS * hundreds, PORTS)
        with contextlib.ExitStack() as mine, contextlib.ExitStack() as free, contextlib.suppress(OSError):
            for first in range(base, base + PORTS * hundreds, PORTS):
                # Who tries the same ones at the same time can't have this one, too.
                mine.enter_context(socket.create_server((HOST, first + RESERVED)))
                for port in Ports(first).all():
                    free.enter_context(socket.create_server((HOST, port)))
            reserved.append(mine.pop_all())
            return base


def keep_logs(fleet, name):
    if folder := os.environ.get("MAILFLEET_TEST_LOGS"):
        kept = Path(folder) / f"fleet-{name}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(fleet.state / "log", kept)


# --- TAP ------------------------------------------------------------------------------------------


class TapResult(unittest.TestResult):
    """Prints each result as it comes; a failed set-up or clean-up of a class is one, too."""

    count = 0

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()
        signal.alarm(test.time_limit)

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)

    def print(self, ok, test, error=None):
        self.count += 1
        name = getattr(test, "_testMethodName", None)
        told = f"{name.removeprefix('test_')} ({time.monotonic() - self.began:.1f} s)" \
            if name else str(test)
        for line in "".join(traceback.format_exception(*error)).splitlines() if error else []:
            print("#", line)
        print(f"{'ok' if ok else 'not ok'} {self.count} - {told}", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.print(True, test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.print(False, test, err)

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.print(False, subtest._subDescription(), err)


class TimeLimit(Exception):
    pass


def on_alarm(_number, _frame):
    raise TimeLimit("the test took too long")


def main():
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tests = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    wanted = sys.argv[1:]
    suite = unittest.TestSuite()
    for group in tests:
        suite.addTest(unittest.TestSuite(
            test for test in group
            if not wanted or test._testMethodName.removeprefix("test_") in wanted))
    known = {test._testMethodName.removeprefix("test_") for group in tests for test in group}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"no such test: {' '.join(unknown)}")
    result = TapResult()
    suite.run(result)
    print(f"1..{result.count}")
    sys.exit(0 if result.wasSuccessful() else 1)
