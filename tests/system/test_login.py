#!/usr/bin/python3 -B
"""Logins as a fleet guards them: every verdict over the wire, counted by all front-ends together.

Clients come through the PROXY ports, so that each test has addresses of its own; those of the test
itself are loopback and exempt.
"""

import itertools

import harness
from mail import Pop3
from proxy import proxy_header

MAX_FAILURES = 4


class LoginCase(harness.FleetTest):
    names = itertools.count(1)
    hosts = itertools.count(1)

    def someone(self):
        return self.account(f"login{next(self.names)}")

    def client(self):
        """An address that nothing has come from yet."""
        return f"192.0.2.{next(self.hosts)}"

    def connect(self, source=None, node=0):
        if source is None:
            return self.pop3(node=node)
        return Pop3(self.fleet.front_ends[node].ports["pop3_proxy"], preface=proxy_header(source),
                    stls=self.tls)

    def reply(self, source, user, password, node=0):
        """What PASS is answered, on a connection of its own."""
        with self.connect(source, node) as pop3:
            pop3.ok(f"USER {user}")
            reply = pop3.command(f"PASS {password}")
            if reply.startswith("+OK"):
                pop3.quit()
            return reply

    def told(self, code, source, account, password=None, node=0):
        """PASS is answered with this response code; None: +OK."""
        user = getattr(account, "address", account)
        reply = self.reply(source, user, password or account.password, node)
        self.assertTrue(reply.startswith(f"-ERR [{code}]" if code else "+OK"), reply)
        return reply

    def fail_often(self, source, account, count=MAX_FAILURES):
        for n in range(count):
            self.told("AUTH", source, account, f"wrong {n}", node=n % 2)

    def metric(self, name, node=0):
        metrics = self.fleet.front_ends[node].get("/metrics")[0]
        return next(int(line.split()[1]) for line in metrics.splitlines()
                    if line.startswith(f"mailfleet_{name} "))

    def logged(self, word):
        return sum(node.log.read_text().count(f" result={word}") for node in self.fleet.front_ends)


class GuardTest(LoginCase):
    settings = {"auth.max_failures": MAX_FAILURES, "auth.threads": 1, "auth.queue": 2}

    def test_a_guessing_client_is_turned_away_by_every_node(self):
        account, client = self.someone(), self.client()
        self.fail_often(client, account)
        blocked = self.metric("pop3_login_blocked_total")
        hashes = self.metric("password_checks_total")
        for node in 0, 1:
            replies = {self.told("SYS/TEMP", client, account, node=node),
                       self.told("SYS/TEMP", client, account, "wrong", node=node),
                       self.told("SYS/TEMP", client, "nobody@quickstart.test", "x", node=node)}
            self.assertEqual(len(replies), 1)
        self.assertEqual(self.metric("pop3_login_blocked_total"), blocked + 3)
        self.assertEqual(self.metric("password_checks_total"), hashes)
        self.told(None, self.client(), account, node=1)  # others are not

    def test_unknown_users_count(self):
        account, client = self.someone(), self.client()
        for n in range(MAX_FAILURES):
            self.told("AUTH", client, f"nobody{n}@quickstart.test", "same", node=n % 2)
        self.told("SYS/TEMP", client, account)

    def test_the_same_wrong_password_counts_once(self):
        account, client = self.someone(), self.client()
        for n in range(3 * MAX_FAILURES):
            self.told("AUTH", client, account, "the old one", node=n % 2)
        self.told(None, client, account)

    def test_who_is_known_is_let_in_where_somebody_guesses(self):
        account, victim, client = self.someone(), self.someone(), self.client()
        self.told(None, client, account)
        self.fail_often(client, victim)
        self.told(None, client, account, node=1)
        self.told("SYS/TEMP", client, victim)

    def test_a_remembered_password_is_no_way_around_the_guard(self):
        account, owner, client = self.someone(), self.client(), self.client()
        self.told(None, owner, account)
        self.fail_often(client, self.someone())
        for node in 0, 1:
            self.told("SYS/TEMP", client, account, node=node)
            self.told(None, owner, account, node=node)
        self.told(None, self.client(), account)

    def test_who_is_known_has_a_count_of_his_own(self):
        account, client = self.someone(), self.client()
        self.told(None, client, account)
        self.fail_often(client, self.someone())
        self.fail_often(client, account)
        self.told("SYS/TEMP", client, account)
        self.told(None, self.client(), account)

    def guess_at_once(self, client, guesses):
        """The replies to (account, password), each on a connection of its own, all at once."""
        sessions = [self.connect(client, node % 2) for node, _ in enumerate(guesses)]
        for pop3, (account, _) in zip(sessions, guesses):
            pop3.ok(f"USER {account.address}")
        for pop3, (_, password) in zip(sessions, guesses):
            pop3.send(f"PASS {password}\r\n".encode())
        replies = [pop3.reply() for pop3 in sessions]
        for pop3 in sessions:
            pop3.close()
        return replies

    def test_guesses_at_once_are_no_more_than_one_after_the_other(self):
        account, others = self.someone(), [self.someone() for _ in range(3 * MAX_FAILURES)]
        for known in account, *others:
            self.told(None, self.client(), known)
        for accounts in [account] * len(others), others:
            with self.subTest(accounts=len(set(accounts))):
                client = self.client()
                replies = self.guess_at_once(
                    client, [(who, f"wrong {n}") for n, who in enumerate(accounts)])
                denied = [reply for reply in replies if reply.startswith("-ERR [AUTH]")]
                self.assertLessEqual(len(denied), MAX_FAILURES, replies)
                # Those that found the queue full were held against a remembered password, and count.
                self.assertIn("too many failed", self.told("SYS/TEMP", client, account))

    def test_a_session_ends_after_some_tries_that_were_turned_away(self):
        account, client = self.someone(), self.client()
        self.fail_often(client, account)
        with self.connect(client) as pop3:
            for _ in range(3):
                pop3.ok(f"USER {account.address}")
                self.assertIn("[SYS/TEMP]", pop3.command("PASS wrong"))
            self.assertTrue(pop3.at_end())

    def test_a_network_of_ipv6_is_one_client(self):
        account = self.someone()
        for n in range(MAX_FAILURES):
            self.told("AUTH", f"2001:db8:1:1::{n + 1}", account, f"wrong {n}", node=n % 2)
        self.told("SYS/TEMP", "2001:db8:1:1:ffff::1", account)
        self.told(None, "2001:db8:1:2::1", account)

    def test_exempt_clients_are_not_counted(self):
        account = self.someone()
        self.fail_often(None, account, 2 * MAX_FAILURES)
        self.told(None, None, account)

    def test_suspended_and_unknown_look_alike(self):
        account, client = self.someone(), self.client()
        self.told(None, client, account)
        self.fleet.admin("account", "suspend", account.address)
        self.assertEqual(self.told("AUTH", client, account),
                         self.told("AUTH", client, "nobody@quickstart.test", "x"))

    def test_without_memcached_nobody_is_counted(self):
        account, client = self.someone(), self.client()
        memcached = self.fleet["memcached"]
        self.addCleanup(memcached.up)
        memcached.kill()
        self.fail_often(client, account, 2 * MAX_FAILURES)
        self.told(None, client, account)
        memcached.up()

        def counted_again():
            client = self.client()
            for n in range(MAX_FAILURES):
                self.told("AUTH", client, account, f"wrong {n}", node=1)
            self.told("SYS/TEMP", client, self.someone(), node=1)

        self.eventually(20, counted_again)

    def test_in_use(self):
        account, client = self.someone(), self.client()
        with self.pop3(account) as pop3:
            self.told("IN-USE", client, account, node=1)
            pop3.quit()
        self.told(None, client, account, node=1)

    def test_too_many_at_once(self):
        account = self.someone()
        sessions = [self.connect() for _ in range(20)]
        before = self.logged("overload")
        for pop3 in sessions:
            pop3.ok(f"USER {account.address}")
        for n, pop3 in enumerate(sessions):
            pop3.send(f"PASS wrong {n}\r\n".encode())
        replies = [pop3.reply() for pop3 in sessions]
        for pop3 in sessions:
            pop3.close()
        denied = [reply for reply in replies if reply.startswith("-ERR [AUTH]")]
        overload = [reply for reply in replies if reply.startswith("-ERR [SYS/TEMP]")]
        self.assertEqual(len(denied) + len(overload), len(replies))
        self.assertGreaterEqual(len(denied), 2)
        self.eventually(20, lambda: self.assertEqual(self.logged("overload") - before, len(overload)))
        self.assertGreater(len(overload), 0)

    def test_a_right_password_gives_keys(self):
        account, client = self.someone(), self.client()
        statement = ("SELECT scram LIKE 'SCRAM-SHA-256$4096:%' FROM account"
                     f" WHERE addr = '{account.address}'")
        self.fleet.sql(f"UPDATE account SET scram = '' WHERE addr = '{account.address}'")
        enrolled = self.metric("scram_enrolled_total")
        self.told("AUTH", client, account, "wrong")
        self.told(None, client, account)
        self.eventually(10, lambda: self.assertEqual(self.fleet.sql(statement), [["t"]]))
        self.eventually(10, lambda: self.assertEqual(self.metric("scram_enrolled_total"),
                                                     enrolled + 1))

    def test_without_the_database(self):
        account, client = self.someone(), self.client()
        postgres = self.fleet["postgres"]
        self.addCleanup(postgres.up)
        postgres.kill()
        for n in range(MAX_FAILURES):
            self.told("SYS/TEMP", client, account, f"wrong {n}")
        postgres.up()
        self.eventually(30, lambda: self.told(None, client, account))  # none of it was counted


class SessionsTest(LoginCase):
    settings = {"pop3.lock": "none", "pop3.account_sessions": 2}

    def test_sessions_of_an_account(self):
        account, other, client = self.someone(), self.someone(), self.client()
        with self.pop3(account, 0), self.pop3(account, 1) as second:
            for node in 0, 1:
                self.told("IN-USE", client, account, node=node)
            self.told("AUTH", client, account, "wrong")
            self.told(None, client, other)
            second.quit()
            self.told(None, client, account)
            with self.pop3(account, 0) as again:
                self.told("IN-USE", client, account, node=1)
                again.quit()

    def test_a_broken_session_gives_its_place_back(self):
        account = self.someone()
        for end in Pop3.close, Pop3.reset:
            with self.subTest(end=end.__name__):
                with self.pop3(account, 0) as first:
                    end(self.pop3(account, 1))
                    self.eventually(5, lambda: self.pop3(account, 1)).quit()
                    first.quit()


class DelayTest(LoginCase):
    settings = {"pop3.login_delay": "1h", "pop3.login_burst": 2}

    def test_too_often(self):
        account, other, client = self.someone(), self.someone(), self.client()
        self.told("AUTH", client, account, "wrong")
        self.told(None, client, account, node=0)
        self.told(None, client, account, node=1)
        delayed = self.metric("pop3_login_delayed_total")
        self.told("LOGIN-DELAY", client, account, node=0)
        self.told("LOGIN-DELAY", self.client(), account, node=1)
        self.assertEqual(self.metric("pop3_login_delayed_total"), delayed + 1)
        self.told("AUTH", client, account, "wrong")  # a stranger is not told
        self.told(None, client, other)

    def test_a_reload_changes_what_is_announced_and_what_holds(self):
        client, node = self.client(), self.fleet.front_ends[0]
        settings = {"pop3.login_delay": "2h", "pop3.login_burst": 1, "auth.max_failures": 1}
        self.addCleanup(self.reload, node, {})
        for change, burst, delay in ({}, 2, 3600), (settings, 1, 7200):
            with self.subTest(delay=delay):
                account = self.someone()
                self.reload(node, change)
                with self.connect(client) as pop3:
                    self.assertIn(b"LOGIN-DELAY %d" % delay, pop3.multi("CAPA"))
                    pop3.quit()
                for _ in range(burst):
                    self.told(None, client, account)
                self.told("LOGIN-DELAY", client, account)
        self.told("AUTH", client, account, "wrong")
        self.told("SYS/TEMP", client, self.someone())

    def test_without_memcached_there_is_no_delay(self):
        account, client = self.someone(), self.client()
        memcached = self.fleet["memcached"]
        self.addCleanup(memcached.up)
        memcached.kill()
        for n in range(5):
            self.told(None, client, account, node=n % 2)


if __name__ == "__main__":
    harness.main()
