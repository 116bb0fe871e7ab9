#!/usr/bin/python3 -B
"""What a front-end does not do: a poll that finds nothing new makes no file-system call and no
query; a message that is read costs one open, its read, and one close. Told by strace and by
PostgreSQL."""

import re
import socket
import subprocess
from pathlib import Path

import harness
from mail import Pop3
from proxy import proxy_header
from sasl import Scram, authenticate

CALL = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)")
FILE_CALLS = "%file,%desc"
MESSAGES = 5


class NoIo(harness.FleetTest):
    postgres_settings = {"shared_preload_libraries": "pg_stat_statements",
                         "pg_stat_statements.track": "all"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fleet.sql("CREATE EXTENSION pg_stat_statements", superuser=True)
        cls.user = cls.account("user")
        for n in range(MESSAGES):
            cls.deliver(b"Subject: %d\r\n\r\n" % n + b"x" * 70 + b"\r\n", cls.user)

    def counted(self):
        """A session of a client whose failures are counted: loopback is exempt."""
        pop3 = Pop3(self.fleet.front_ends[0].ports["pop3_proxy"],
                    preface=proxy_header("192.0.2.1"), stls=self.tls)
        pop3.login(self.user)
        return pop3

    def counted_by_scram(self):
        pop3 = Pop3(self.fleet.front_ends[0].ports["pop3_proxy"],
                    preface=proxy_header("192.0.2.2"), stls=self.tls)
        exchange = Scram(self.user.address, self.user.password)
        self.assertRegex(authenticate(pop3, "SCRAM-SHA-256", exchange), r"^\+OK")
        return pop3

    def poll(self, *commands, session=None):
        """One session: login, STAT, LIST, UIDL, these commands, QUIT."""
        with session() if session else self.pop3(self.user) as pop3:
            self.assertEqual(pop3.stat()[0], MESSAGES)
            self.assertEqual(len(pop3.list()), MESSAGES)
            self.assertEqual(len(pop3.uidl()), MESSAGES)
            for command in commands:
                pop3.multi(command)
            pop3.quit()

    def warm(self):
        """Polls until the list is in the cache: the tombstone of the last delivery has to end."""
        self.fleet.sql("SELECT pg_stat_statements_reset()", superuser=True)

        def no_queries():
            before = self.queries()
            self.poll()
            self.assertEqual(self.queries(), before)

        self.eventually(60, no_queries)

    def queries(self):
        """How many statements mailfleet has sent that name its tables or functions."""
        rows = self.fleet.sql(
            "SELECT translate(query, E'\\n\\t', '  '), calls FROM pg_stat_statements s "
            "JOIN pg_roles r ON r.oid = s.userid WHERE rolname = 'mailfleet'", superuser=True)
        housekeeping = re.compile(r"\bvolume\b|\bfleet\b|fleet_epoch|schema_version|\bnode\b|announce")
        return sum(int(row[-1]) for row in rows if not housekeeping.search(row[0]))

    def traced(self, act):
        """The file-system calls of the front-end's processes while act runs: (name, arguments)."""
        output = self.folder / "strace"
        pids = [word for pid in self.fleet.front_ends[0].pids() for word in ("-p", str(pid))]
        strace = subprocess.Popen(
            ["/usr/bin/strace", "-f", "-qq", "-y", "-s", "200", "-e", f"trace={FILE_CALLS}",
             "-o", output, *pids], stderr=subprocess.PIPE, text=True)
        try:
            self.eventually(20, lambda: self.assertTrue(self.tracees(strace.pid)))
            act()
        finally:
            strace.terminate()
            strace.communicate()
        return [match.groups() for match in map(CALL.match, output.read_text().splitlines())
                if match]

    def tracees(self, tracer):
        """Whether every thread of the front-end is traced by now."""
        tasks = [task for pid in self.fleet.front_ends[0].pids()
                 for task in open_tasks(pid)]
        return all(f"TracerPid:\t{tracer}\n" in task for task in tasks)

    def on_spool(self, calls):
        """Those that have to do with the spool, by path or by descriptor."""
        return [(name, arguments) for name, arguments in calls
                if str(self.fleet.spool) in arguments]

    def with_path(self, calls):
        """Those that name a path: what -e trace=%file shows. The allocator's and the sanitizer's
        looks at /proc and /sys are not the program's."""
        return [(name, arguments) for name, arguments in calls
                if re.match(r'(AT_FDCWD(<[^>]*>)?, |\d+<[^>]*>, )?"(?!/proc/|/sys/)', arguments)
                and name not in ("write", "read", "sendto", "recvfrom", "writev", "readv")]

    def in_one_of(self, attempts, check):
        """All 10 s the front-end looks at its volumes; what that calls is not the poll's, and comes
        in one attempt but not in all of them."""
        for attempt in range(attempts):
            try:
                return check()
            except AssertionError:
                if attempt == attempts - 1:
                    raise

    def test_a_warm_poll_touches_no_file_and_no_table(self):
        def check():
            before = self.queries()
            calls = self.traced(lambda: [self.poll() for _ in range(10)])
            self.assertEqual(self.queries(), before)
            self.assertTrue(calls, "strace saw nothing at all")
            self.assertEqual(self.with_path(calls), [])
            self.assertEqual(self.on_spool(calls), [])

        self.warm()
        self.in_one_of(4, check)

    def cache_calls(self):
        """What memcached has been asked: (items read, written, taken away; counters changed)."""
        with socket.create_connection((harness.HOST, self.fleet.ports.memcached)) as connection:
            connection.sendall(b"stats\r\nquit\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        told = dict(line.split()[1:3] for line in answer.splitlines() if line.startswith("STAT "))
        taken, *counters = (sum(int(told[f"{verb}_{what}"]) for what in ("hits", "misses"))
                            for verb in ("delete", "incr", "decr"))
        return int(told["cmd_get"]), int(told["cmd_set"]), taken, sum(counters)

    def test_a_warm_poll_asks_the_cache_for_little_and_writes_the_lease_alone(self):
        """Address, password and list; of a client who is counted in place of the password whether he is known, and his
        count. Nothing is written but the lease, which is taken away at the end."""
        def check():
            before = self.cache_calls()
            for _ in range(10):
                self.poll(session=session)
            calls = [(now - then) / 10 for then, now in zip(before, self.cache_calls())]
            self.assertEqual(calls, [reads, 1, 1, 0])

        self.warm()
        for session, reads in (None, 3), (self.counted, 4), (self.counted_by_scram, 4):
            with self.subTest(session=session):
                self.poll(session=session)
                self.in_one_of(4, check)

    def test_a_message_read_is_one_open_one_read_one_close(self):
        def check():
            before = self.queries()
            calls = self.on_spool(self.traced(lambda: self.poll("RETR 3")))
            self.assertEqual(self.queries(), before)
            names = [re.sub("^pread64$", "read", re.sub("^openat2?$", "open", name))
                     for name, _ in calls]
            self.assertEqual(names, ["open", "read", "close"], calls)

        self.warm()
        self.in_one_of(4, check)

    def test_a_listing_from_the_database_reads_no_file(self):
        def check():
            self.fleet["memcached"].kill()
            self.fleet["memcached"].up()
            before = self.queries()
            self.assertEqual(self.on_spool(self.traced(self.poll)), [])
            self.assertGreater(self.queries(), before)

        self.in_one_of(4, check)


def open_tasks(pid):
    """The status of each thread of a process."""
    return [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]


if __name__ == "__main__":
    harness.main()
